"""Makes the three small data sets of this folder from the whole ones, downloaded if they are missing.

python datasets/build.py --data-dir DIR     # DIR holds mnist/, fashion_mnist/ and quickdraw/
"""

import sys
from pathlib import Path

import numpy as np

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))
import data  # noqa: E402


def rows_of(whole, rows):
    """The arrays of one file: rows {split: indices} of a whole data set, pictures uint8 [n, 28, 28]."""
    arrays = {}
    for split, index in rows.items():
        arrays[f"x_{split}"] = getattr(whole, split).x[index, 0].numpy()
        arrays[f"y_{split}"] = getattr(whole, split).y[index].numpy().astype(np.uint8)
    return arrays | {"classes": np.array(whole.classes)}


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
