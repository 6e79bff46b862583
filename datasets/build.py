"""Makes the small data sets of this folder from the whole ones, which are downloaded if missing.

The photographs of butterflies are not downloaded: without DIR/butterflies, their file is left out.

python datasets/build.py --data-dir DIR     # DIR holds mnist/, fashion_mnist/, quickdraw/ and butterflies/
"""

import bisect
import io
import sys
from pathlib import Path

import numpy as np
from PIL import Image

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))
import data  # noqa: E402

FOLDERS = {  # of the photographs, where a class is not named after its folder
    "ulysses": "ULYSES",
    "zebra longwing": "ZEBRA LONG WING",
    "birdwing": "BROOKES BIRDWING",
}
TILE = 64  # pixels: a multiple of 8, so that no block of the JPEG reaches into two photographs
PER_CLASS = 100
COLUMNS = 50
MIN_PSNR = 36  # dB, of every photograph


def rows_of(whole, rows):
    """The arrays of one file: rows {split: indices} of a whole data set, pictures uint8 [n, 28, 28]."""
    arrays = {}
    for split, index in rows.items():
        arrays[f"x_{split}"] = getattr(whole, split).x[index, 0].numpy()
        arrays[f"y_{split}"] = getattr(whole, split).y[index].numpy().astype(np.uint8)
    return arrays | {"classes": np.array(whole.classes)}


def pick(folder):
    """The first 100 photographs of a folder, by number, without duplicates: a list of uint8 [64, 64, 3].

    A duplicate of an earlier photograph differs from it or from its mirror image by less than a tenth of the
    range (root mean square) once both are reduced to 8x8 pixels.
    """
    pictures = []
    thumbnails = []
    for path in sorted(folder.glob("*.jpg")):
        picture = data.read_picture(path, TILE)
        thumbnail = picture.reshape(8, 8, 8, 8, 3).mean((1, 3))  # of blocks of 8x8 pixels
        mirrored = thumbnail[:, ::-1]
        differences = [view - other for view in (thumbnail, mirrored) for other in thumbnails]
        if any(np.mean(difference**2) ** 0.5 < 25.5 for difference in differences):
            continue
        pictures.append(picture)
        thumbnails.append(thumbnail)
        if len(pictures) == PER_CLASS:
            return pictures
    raise data.Mistake(f"{folder} holds {len(pictures)} different photographs: {PER_CLASS} are needed")


def compress(tiles):
    """Tiles uint8 [rows, columns, 64, 64, 3] as (bytes of one JPEG, its quality, PSNR of each tile in dB).

    The quality is the lowest at which every tile's PSNR is above MIN_PSNR. Color is not subsampled, because
    subsampled color is interpolated across the edges of tiles.
    """
    mosaic = Image.fromarray(np.concatenate([np.concatenate(row, axis=1) for row in tiles]))

    def encode(quality):
        file = io.BytesIO()
        mosaic.save(file, "JPEG", quality=quality, subsampling=0, optimize=True, progressive=True)
        return file.getvalue()

    def psnr(quality):
        decoded = np.asarray(Image.open(io.BytesIO(encode(quality))), float)
        errors = (decoded - np.asarray(mosaic)).reshape(len(tiles), TILE, COLUMNS, TILE, 3)
        return 10 * np.log10(255**2 / np.mean(errors**2, axis=(1, 3, 4)))  # (rows, columns)

    qualities = range(50, 101)
    quality = qualities[bisect.bisect(qualities, MIN_PSNR, key=lambda quality: psnr(quality).min())]
    return encode(quality), quality, psnr(quality)


def build_butterflies(folder, path):
    """The mosaic of photographs, row by row in the order of data.BUTTERFLIES."""
    photographs = [pick(folder / "train" / FOLDERS.get(name, name.upper())) for name in data.BUTTERFLIES]
    content, quality, psnr = compress(np.reshape(photographs, (-1, COLUMNS, TILE, TILE, 3)))
    data.write_file(path, lambda file: file.write(content))
    decibels = f"PSNR {psnr.mean():.1f} dB on average, from {psnr.min():.1f}"
    print(f"{path}  {len(content) / 1e6:.2f} MB  JPEG of quality {quality}, {decibels}")


def build(data_dir, out):
    mnist = data.load("mnist", data_dir, valid_fraction=0)
    fashion = data.load("fashion", data_dir, valid_fraction=0)
    quickdraw = data.load("quickdraw", data_dir, per_class=1000)
    rows = {
        "train": data.stratified(mnist.train.y.numpy(), 8000),
        "test": data.stratified(mnist.test.y.numpy(), 2000),
    }
    sets = {
        "mnist10k": rows_of(mnist, rows),
        "fashion2k": rows_of(fashion, {"train": slice(1000), "test": slice(1000)}),
        "quickdraw5k": rows_of(quickdraw, {split: slice(None) for split in data.SPLITS}),
    }
    for name, arrays in sets.items():
        path = Path(out) / f"{name}.npz"
        data.write_file(path, lambda file, arrays=arrays: np.savez_compressed(file, **arrays))
        print(f"{path}  {path.stat().st_size / 1e6:.2f} MB")

    photographs = Path(data_dir or data.BUILT_IN) / "butterflies"
    if photographs.is_dir():
        build_butterflies(photographs, Path(out) / "butterflies1k.jpg")
    else:
        data.note(f"{photographs} is not there: butterflies1k.jpg is left out")


def main(argv=None):
    """Runs the command line; returns its exit status."""
    return data.run_command("build.py", run, argv)


def run(argv):
    parser = data.Parser(prog="build.py", description=__doc__)
    parser.add_argument("--data-dir", help="where the whole data sets are, or else are downloaded to")
    parser.add_argument("--out", default=HERE, help="folder to write to")
    args = parser.parse_args(argv)
    build(args.data_dir, args.out)


if __name__ == "__main__":
    sys.exit(main())
