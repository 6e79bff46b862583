"""Every data set as uint8 tensors in memory, with labels and class names, split into train, valid and test.

    python train.py --data mnist10k                                         # comes with the repository
    python train.py --data quickdraw --classes cat,dog --per-class 20000    # downloaded once, then kept
    python train.py --data photographs/ --image-size 64                     # any image folder, .npy or .npz

In Python, data.load("mnist10k").train.x is uint8 [7200, 1, 28, 28]. Whole data sets are read from the folder
--data-dir, else from the one that the environment variable DGM_DATA_DIR names, else from datasets/; missing
files are downloaded there. The last section holds what all our command lines share.
"""

import argparse
import contextlib
import difflib
import gzip
import hashlib
import http.client
import inspect
import io
import json
import math
import os
import re
import shlex
import signal
import sys
import urllib.parse
import urllib.request
import warnings
import zipfile
import zlib
from collections import namedtuple
from dataclasses import dataclass
from numbers import Integral, Real
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
import torch.nn.functional as F
from PIL import Image, ImageOps, UnidentifiedImageError

SPLITS = ("train", "valid", "test")
SPLIT_OF_TENTH = np.array(["train"] * 8 + ["valid", "test"])  # 80/10/10
BUILT_IN = Path(__file__).resolve().parent / "datasets"

DATASETS = {
    "mnist10k": "8,000 + 2,000 handwritten digits, in the repository",
    "quickdraw5k": "1,000 drawings of each of five things, in the repository",
    "fashion2k": "1,000 + 1,000 pieces of clothing, in the repository",
    "mnist": "all 60,000 + 10,000 digits",
    "fashion": "all 60,000 + 10,000 pieces of clothing",
    "quickdraw": "drawings of whatever --classes names",
    "butterflies1k": "100 photographs each of ten species, 64x64 in color, in the repository",
    "arithmetic": "all 20,000 of 0+0 to 99-99, as text or as pictures of it, with their answers",
}
DIGITS = list("0123456789")
CLOTHES = ["T-shirt/top", "Trouser", "Pullover", "Dress", "Coat"]
CLOTHES += ["Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"]
DRAWINGS = ["rabbit", "yoga", "hand", "snowman", "motorbike"]  # of quickdraw, unless --classes names others
DRAWINGS_PER_CLASS = 5000  # unless --per-class says otherwise
BUTTERFLIES = ["monarch", "peacock", "ulysses", "luna moth", "rosy maple moth"]
BUTTERFLIES += ["zebra longwing", "clouded sulphur", "mourning cloak", "birdwing", "cinnabar moth"]


MAX_BYTES = 2**31  # that a compressed file may unpack to
MAX_PIXELS = 50_000_000  # of one picture
MAX_SIDE = math.isqrt(MAX_PIXELS)


class Mistake(Exception):
    """An error that the user can correct. Its message is one line: what is wrong, where, and what to do."""

    status = 1  # exit status of the command


def require(condition, message):
    if not condition:
        raise Mistake(message)


def visible(text):
    """The text with control characters as escapes, which a terminal shows and does not obey."""
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)


def note(message):
    """Print something that the user should know, although the work goes on."""
    print(f"note: {visible(message)}", file=sys.stderr)


# -----------------------------------------------------------------------------------------------------------
# What a data set is


class Split(namedtuple("Split", "x y")):
    """Pictures x uint8 [n, C, H, W] and their class numbers y int64 [n]."""

    def batch(self, index):
        """The examples at an index [B] or slice, as models see them: x float in [0, 1], and y."""
        return self.x[index].float().div_(255), self.y[index]

    def to(self, device):
        return type(self)(self.x.to(device), self.y.to(device))


class RedrawnSplit(Split):
    """Dynamic binarization (Burda et al. 2016): every batch draws each pixel from a Bernoulli distribution
    whose mean is the pixel's gray."""

    def batch(self, index):
        x, y = super().batch(index)
        return x.bernoulli(), y


class Queries(namedtuple("Queries", "x y glyphs drawn pictures", defaults=[None])):
    """Arithmetic: queries x and answers y as tokens, int64 [n, 5] and [n, 3].

    `drawn` ("query", "answer" or None) says which of the two `batch` shows as pictures of its characters.
    `glyphs` is a Split of pictures of the 13 symbols, sorted by symbol, from which they are drawn in every
    batch anew; or `pictures`, uint8 [n, characters, 1, 28, 28], are those that were drawn `once`.
    """

    def batch(self, index):
        """Queries and answers at an index [B] or slice: tokens, or float [B, characters, 1, 28, 28]."""
        x = self.x[index]
        y = self.y[index]
        if self.drawn == "query":
            x = self.show(x, index)
        if self.drawn == "answer":
            y = self.show(y, index)
        return x, y

    def show(self, tokens, index):
        """The pictures of the tokens at an index: drawn anew, or those that were drawn once."""
        return self.draw(tokens) if self.pictures is None else self.pictures[index].float() / 255

    def once(self):
        """These queries with pictures that stay the same in every batch, and on every call."""
        tokens = self.x if self.drawn == "query" else self.y
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            parts = [(255 * self.draw(part)).round().byte() for part in tokens.split(1000)]
        return self._replace(pictures=torch.cat(parts))

    def draw(self, tokens):
        """Pictures float [..., 1, 28, 28] in [0, 1] of tokens [...], each a random glyph of its symbol."""
        first = torch.searchsorted(self.glyphs.y, tokens)
        end = torch.searchsorted(self.glyphs.y, tokens, right=True)
        row = first + (torch.rand(tokens.shape, device=tokens.device) * (end - first)).long()
        pictures, _ = self.glyphs.batch(row)
        return pictures

    def to(self, device):
        pictures = None if self.pictures is None else self.pictures.to(device)
        return Queries(self.x.to(device), self.y.to(device), self.glyphs.to(device), self.drawn, pictures)


@dataclass
class Dataset:
    name: str
    classes: list[str]
    train: Split
    valid: Split
    test: Split

    def split(self, name):
        return {"train": self.train, "valid": self.valid, "test": self.test}[name]

    @property
    def image_shape(self):
        return tuple(self.train.x.shape[1:])  # (C, H, W)


# -----------------------------------------------------------------------------------------------------------
# Loading: `read` returns the pictures as a publisher or user stores them, `load` makes a Dataset of them

# x uint8 [n, C, H, W]; labels [n], class numbers or names; splits [n], the name of each picture's split;
# classes, the names of all classes, or None where the labels themselves are the names
Pictures = namedtuple("Pictures", "x labels splits classes")


def load(
    data: str | Path = "mnist10k",
    data_dir: str | Path | None = None,
    image_size: Integral | None = None,
    classes: str | list | tuple | None = None,
    per_class: Integral | None = None,
    valid_fraction: Real = 0.1,
    binarize: str | None = None,
    keep_twins: bool = False,
    draw_once: bool = False,
    drawn: str | None = None,
):
    """The data set of that name, or the image folder, .npy or .npz at that path. Raises Mistake.

    A data set without a test split loses 10% of its training pictures to one, and one without a valid split
    valid_fraction of those that are left: the same on every call, so that runs of different seeds compare.
    Those that come with a valid split ignore valid_fraction. image_size crops pictures to a square and
    resizes them. binarize makes every pixel 0 or 255 at random, 255 with the probability of its gray:
    "static" once, with a fixed seed (Larochelle & Murray 2011), or "stochastic" in every batch (Burda et
    al. 2016).
    Only quickdraw has classes (a list, or text with commas) and per_class. Only arithmetic has keep_twins,
    which puts a+b and b+a into the same split, and drawn, the side that is shown as pictures ("query",
    "answer" or None): digits of mnist10k, or of the whole MNIST where data_dir is given. With draw_once a
    query or answer is shown by the same digits in every batch, else by others.
    """
    check_arguments(locals())
    data = str(data)
    check_owners(data, classes, per_class, keep_twins, draw_once)
    require(drawn or not draw_once, "--draw-once is for --model image2text|text2image: leave it out")
    if data == "arithmetic":
        require(image_size is None, "arithmetic is drawn in 28x28 pixels: leave --image-size out")
        require(binarize is None, "arithmetic keeps its gray digits: leave --binarize out")
        return load_arithmetic(data_dir, valid_fraction, keep_twins, draw_once, drawn)

    path = Path(os.path.expanduser(data))
    data_dir = Path(os.path.expanduser(data_dir or os.environ.get("DGM_DATA_DIR") or BUILT_IN))
    pictures = read(data, path, data_dir, image_size, classes, per_class)
    y, classes = number_labels(pictures, data)
    x = torch.from_numpy(np.ascontiguousarray(pictures.x))
    if image_size:
        x = resize(x, image_size)
    splits = pictures.splits
    cut_splits(splits, y.numpy(), valid_fraction)
    advice = "give more pictures or a lower --valid-fraction"
    require("train" in splits, f"{data} leaves nothing to train on: {advice}")
    if binarize == "static":
        random = torch.Generator().manual_seed(0)
        x = 255 * (torch.rand(x.shape, generator=random) < x / 255).to(torch.uint8)
    split_class = RedrawnSplit if binarize == "stochastic" else Split
    name = data if data in DATASETS else path.resolve().stem
    return Dataset(name, classes, *[split_class(x[splits == s], y[splits == s]) for s in SPLITS])


FLAGS = {name: parameter.default for name, parameter in inspect.signature(load).parameters.items()}


def check_arguments(arguments):
    """Require that the arguments of `load`, a dict, have its types and lie in their ranges."""
    for name, kind in load.__annotations__.items():
        value = arguments[name]
        fits = isinstance(value, kind) and (kind is bool or not isinstance(value, bool))  # True is an int
        require(fits, f"{name} is {value!r}, not {inspect.formatannotation(kind)}")
    size = arguments["image_size"]
    per_class = arguments["per_class"]
    ranges = {  # name: whether its value is right, and what is
        "image_size": (size is None or 1 <= size <= MAX_SIDE, f"pixels from 1 to {MAX_SIDE:,}"),
        "per_class": (per_class is None or per_class >= 1, "a number from 1"),
        "valid_fraction": (0 <= arguments["valid_fraction"] < 1, "a number in [0, 1)"),
        "binarize": (arguments["binarize"] in (None, "static", "stochastic"), "static or stochastic"),
        "drawn": (arguments["drawn"] in (None, "query", "answer"), "query or answer"),
    }
    for name, (fits, right) in ranges.items():
        require(fits, f"{name} is {arguments[name]!r}: give {right}")


def check_owners(data, classes, per_class, keep_twins, draw_once):
    """Require that arguments of `load` which belong to one data set are not given with another."""
    quickdraw = {"--classes": classes, "--per-class": per_class}
    arithmetic = {"--keep-twins": keep_twins, "--draw-once": draw_once}
    for owner, options in (("quickdraw", quickdraw), ("arithmetic", arithmetic)):
        for flag, value in options.items():
            require(not value or data == owner, f"{flag} is for --data {owner}: leave it out with {data}")


def digest(dataset):
    """The SHA-256 of a data set's tensors and class names, in hexadecimal."""
    sha256 = hashlib.sha256(json.dumps(dataset.classes).encode())
    for name in SPLITS:
        split = dataset.split(name)
        tensors = [split.x, split.y]
        if isinstance(split, Queries):
            tensors += split.glyphs
            if split.pictures is not None:
                tensors.append(split.pictures)
        for tensor in tensors:
            sha256.update(f"{tensor.dtype} {list(tensor.shape)}".encode())
            sha256.update(np.ascontiguousarray(tensor.cpu().numpy()))
    return sha256.hexdigest()


def read(data, path, data_dir, image_size, classes, per_class):
    """The Pictures of the data set of that name, else of the folder or file at that path."""
    if data == "mnist":
        return read_idx("mnist", DIGITS, data_dir)
    if data == "fashion":
        return read_idx("fashion_mnist", CLOTHES, data_dir)
    if data == "quickdraw":
        return read_quickdraw(classes or DRAWINGS, per_class or DRAWINGS_PER_CLASS, data_dir)
    if data == "butterflies1k":
        return read_butterflies(BUILT_IN / f"{data}.jpg")
    if data in DATASETS:
        return read_arrays(BUILT_IN / f"{data}.npz")
    if path.is_file():
        return read_arrays(path)
    if path.is_dir():
        return read_folder(path, image_size)
    similar = difflib.get_close_matches(data, DATASETS, n=1)
    advice = f"did you mean {similar[0]}?" if similar else f"give a path, or one of {', '.join(DATASETS)}"
    raise Mistake(f"there is no data set or file {data}: {advice}")


def number_labels(pictures, where):
    """(class numbers int64 [n], class names); without names, the sorted labels of the training pictures."""
    labels = pictures.labels
    classes = pictures.classes
    if classes is None:
        values = np.unique(labels[pictures.splits == "train"]).tolist()
        classes = [str(value) for value in values]
    elif labels.dtype.kind == "U":
        values = classes
    else:
        values = range(len(classes))
    numbers = {value: number for number, value in enumerate(values)}
    known = "that have training pictures" if pictures.classes is None else "named in the array classes"
    for label in np.unique(labels).tolist():
        require(label in numbers, f"{where}: class {label} is not one of those {known}")
    return torch.tensor([numbers[label] for label in labels.tolist()]), classes


def require_room(n, channels, size):
    n_bytes = n * channels * size**2
    too_large = f"{n:,} pictures of {size}x{size} pixels take {n_bytes:,} bytes: give a smaller --image-size"
    require(n_bytes <= 2**35, too_large)


def cut_splits(splits, y, valid_fraction):
    """Name some training pictures test or valid, in place, where the data set comes without such a split."""
    for split, fraction in (("test", 0.1), ("valid", valid_fraction)):
        if split not in splits:
            train = np.flatnonzero(splits == "train")
            moved = stratified(y[train], round(fraction * len(train)))
            splits[train[moved]] = split


def resize(x, size):
    """Pictures uint8 [n, C, H, W] as [n, C, size, size]: the central square, resized with antialiasing."""
    n, channels, height, width = x.shape
    require_room(n, channels, size)
    side = min(height, width)
    top = (height - side) // 2
    left = (width - side) // 2
    x = x[:, :, top : top + side, left : left + side]
    parts = []
    for part in x.split(100):  # all at once, the floats would take too much memory
        part = F.interpolate(part.float(), size=(size, size), mode="bilinear", antialias=True)
        parts.append(part.round().to(torch.uint8))
    return torch.cat(parts)


def stratified(y, n):
    """A mask, bool [N], of n random examples of the labels y [N] that keeps the proportions of the classes.

    It is the same on every call. Quotas are rounded by their largest remainders.
    """
    quota = np.bincount(y) * n / max(len(y), 1)
    counts = quota.astype(int)
    largest_remainders = np.argsort(counts - quota, kind="stable")[: n - counts.sum()]
    counts[largest_remainders] += 1
    random = np.random.RandomState(0)  # numpy promises never to change the numbers that it draws
    chosen = np.zeros(len(y), bool)
    for label, count in enumerate(counts):
        rows = random.permutation(np.flatnonzero(y == label))
        chosen[rows[:count]] = True
    return chosen


# -----------------------------------------------------------------------------------------------------------
# The user's own arrays and image folders

SYNONYMS = {"x": "x_train", "images": "x_train", "y": "y_train", "labels": "y_train"}  # keys of a .npz
SYNONYMS |= {"x_val": "x_valid", "x_validation": "x_valid", "y_val": "y_valid", "y_validation": "y_valid"}


def open_arrays(path, names=None):
    """The arrays of a .npy, under the key "x", or of a .npz, as a dict. Raises Mistake. Never unpickles.

    A .npy is memory-mapped: only the rows in use are read. With names, only the arrays of those names are
    read from a .npz, and at least one of them must be there.
    """
    path = Path(path)
    require(path.is_file(), f"{path} is not a file")  # a pipe would be waited for
    try:
        content = np.load(path, mmap_mode="c", allow_pickle=False)  # c: what is changed stays in memory
        if isinstance(content, np.ndarray):
            return {"x": np.asarray(content)}
        with content:
            keys = content.files
            wanted = [name for name in keys if names is None or name in names]
            # zipfile unpacks no more than the declared size; what is not compressed may be larger
            size = sum(content.zip.getinfo(f"{name}.npy").file_size for name in wanted)
            limit = max(MAX_BYTES, path.stat().st_size)
            require(size <= limit, f"it unpacks to {size:,} bytes, more than {limit:,}")
            arrays = {name: np.asarray(content[name]) for name in wanted}  # content[name] may be bytes
    except Exception as error:  # numpy raises ValueError, KeyError, BadZipFile, ... for broken files
        reason = str(error).partition("\n")[0]
        raise Mistake(f"{path} is no whole .npy or .npz of plain arrays ({reason}): replace it") from None
    if names and not arrays:
        content = ", ".join(keys[:10] + ["..."] * (len(keys) > 10)) or "nothing"  # of thousands in a zip
        raise Mistake(f"{path} holds {content}: it needs {names[0]}")
    return arrays


def as_pictures(x, where):
    """Pictures [n, H * H], [n, H, W], [n, H, W, C] or [n, C, H, W] as uint8 [n, C, H, W].

    Integers must be in 0..255; floats and booleans in 0..1, which are scaled. Raises Mistake for all others.
    Both channels first and last, as [n, 3, W, 3], is read as channels first, with a note.
    """
    shape = list(x.shape)
    if x.ndim == 2 and math.isqrt(shape[1]) ** 2 == shape[1]:
        side = math.isqrt(shape[1])
        x = x.reshape(shape[0], 1, side, side)
    elif x.ndim == 3:
        if shape[2] == 3:
            note(f"{where} has shape {shape}, which is read as {shape[0]} gray pictures")
        x = x[:, None]
    elif x.ndim == 4 and shape[1] not in (1, 3):
        x = x.transpose(0, 3, 1, 2)  # (n, H, W, C) -> (n, C, H, W)
    elif x.ndim == 4 and shape[3] in (1, 3):
        note(f"{where} has shape {shape}, which is read as [n, C, H, W]")
    require(x.size > 0, f"{where} has shape {shape}, so it is empty: give pictures, or leave it out")
    is_picture = x.ndim == 4 and x.shape[1] in (1, 3)
    require(is_picture, f"{where} has shape {shape}: give [n, H, W], [n, H, W, 1 or 3] or [n, side * side]")
    require(x.dtype.kind in "uifb", f"{where} holds {x.dtype}: give integers in 0..255 or floats in 0..1")
    limit = 255 if x.dtype.kind in "ui" else 1
    low = x.min()
    high = x.max()
    in_range = low >= -1e-3 and high <= limit + 1e-3  # False for NaN, but not for a rounded 1.0000001
    values = f"{x.dtype} pixels from {low:g} to {high:g}"
    require(in_range, f"{where} has {values}: scale them to lie in 0..{limit}")
    if limit == 1:
        x = np.rint(x * 255.0)
    x = x.astype(np.uint8)
    note_black(x, where)
    return x


def note_black(x, where):
    """A note if the brightest of the pixels is 0 or 1 of 255."""
    if x.max() <= 1:
        note(f"{where} has pixels of 0 and 1 alone, in a range of 0 to 255: all are black. Scale them")


def read_arrays(path):
    """A .npy of pictures; or a .npz of x_train, with or without x_valid and x_test, the labels of all of
    these, y_train, y_valid and y_test, and the class names, `classes`."""
    regular_names = [f"{part}_{split}" for part in "xy" for split in SPLITS]
    arrays = open_arrays(path, [*regular_names, *SYNONYMS, "classes"])
    names = [SYNONYMS.get(key, key) for key in arrays]
    advice = "call the pictures x_train and the labels y_train, and nothing else so"
    is_clear = "x_train" in names and len(set(names)) == len(names)
    require(is_clear, f"{path} holds {', '.join(arrays)}: {advice}")
    arrays = dict(zip(names, arrays.values(), strict=True))
    has_labels = any(name.startswith("y_") for name in names)
    classes = None
    if not has_labels:
        classes = [Path(path).stem]
    elif "classes" in arrays:
        kind = arrays["classes"].dtype
        require(kind.kind in "iuU", f"{path}: classes holds {kind}: give strings")
        classes = [str(name) for name in arrays["classes"].flat]
        require(len(set(classes)) == len(classes), f"{path}: classes repeats a name")

    x = []
    labels = []
    splits = [split for split in SPLITS if f"x_{split}" in arrays]
    for split in splits:
        x.append(as_pictures(arrays[f"x_{split}"], f"{path}: x_{split}"))
        size = len(x[-1])
        y = arrays.get(f"y_{split}") if has_labels else np.zeros(size, int)
        where = f"{path}: y_{split}"
        fits = y is not None and y.shape == (size,)
        require(fits, f"{where} is missing or not of shape [{size}]: give a label to each picture")
        require(y.dtype.kind in "iuU", f"{where} holds {y.dtype}: give integers from 0, or strings")
        require(y.dtype.kind != "i" or y.min() >= 0, f"{where} has labels below 0: number them from 0")
        labels.append(y)
    used = [f"{part}_{split}" for split in splits for part in ("xy" if has_labels else "x")]
    used += ["classes"] if classes and has_labels else []
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            members = [member.removesuffix(".npy") for member in archive.namelist()]
        unread = [member for member in members if SYNONYMS.get(member, member) not in used]
        if unread:
            note(f"{path}: not read: {', '.join(unread)}; read: {', '.join(used)}")
    shapes = sorted({pictures.shape[1:] for pictures in x})
    require(len(shapes) == 1, f"{path} has pictures of shapes {shapes}: make the splits alike")
    sizes = [len(pictures) for pictures in x]
    return Pictures(np.concatenate(x), np.concatenate(labels), np.repeat(splits, sizes), classes)


FORMATS = ["PNG", "JPEG", "BMP", "GIF", "WEBP", "TIFF", "PPM"]  # others, such as EPS, would run programs
ENDINGS = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm", ".pbm", ".pnm")
SPLIT_FOLDERS = {"train": "train", "valid": "valid", "val": "valid", "validation": "valid", "test": "test"}
SPLIT_FOLDERS |= {"training": "train", "testing": "test"}


def read_picture(path, size):
    """A picture file as uint8 [H, W, 3]; with a size, its central square, resized with antialiasing."""
    require(path.is_file(), "it is not a regular file")  # a pipe would be waited for
    content = io.BytesIO(path.read_bytes())  # of a file, a damaged length would take gigabytes
    with warnings.catch_warnings(action="ignore"):  # of Pillow, about odd but readable files
        try:
            picture = Image.open(content, formats=FORMATS)
        except UnidentifiedImageError:
            raise Mistake(f"it is damaged, or its format is not {', '.join(FORMATS)}") from None
        size_limit = f"its {picture.width} x {picture.height} pixels are more than {MAX_PIXELS:,}"
        require(picture.width * picture.height <= MAX_PIXELS, size_limit)
        ImageOps.exif_transpose(picture, in_place=True)  # cameras store the orientation beside the pixels
        require(picture.mode != "F", "its pixels are floats of an unknown range")
        if picture.mode.startswith("I"):  # 16 bits, which Pillow's own conversion clips at 255
            pixels = np.asarray(picture).clip(0, 65535)
            picture = Image.fromarray(np.rint(pixels / 257).astype(np.uint8))
        elif picture.has_transparency_data:
            picture = picture.convert("RGBA")
            picture = Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture)
        picture = picture.convert("RGB")
        if size is not None:
            picture = ImageOps.fit(picture, (size, size))
        return np.asarray(picture)


def list_pictures(root):
    """(pictures, others): a list of (path, class, split), and a list of all other files' paths.

    A folder `train` that holds pictures itself is a class and no split if other folders with pictures are
    beside it, and none of them is a split.
    """
    files = {}  # path: the names of the folders between root and it
    levels = ("*", "*/*", "*/*/*", "*/*/*/**/*")  # of which only the last does not follow links to folders
    for path in sorted(path for level in levels for path in root.glob(level)):
        names = path.relative_to(root).parts
        if not any(name.startswith(".") for name in names) and not path.is_dir():
            files[path] = names[:-1]
    candidates = {path: names for path, names in files.items() if path.name.lower().endswith(ENDINGS)}
    split_of = {names[0]: SPLIT_FOLDERS.get(names[0].lower()) for names in files.values() if names}
    # of each picture in a folder: the split that the folder is named after, or None; and how deep it lies
    places = {(split_of[names[0]], len(names)) for names in candidates.values() if names}
    train_is_class = ("train", 1) in places and {split for split, _ in places} == {"train", None}
    has_splits = "train" in split_of.values() and not train_is_class

    pictures = []
    for path, names in candidates.items():
        split = "train"
        if has_splits:
            split = split_of[names[0]] if names else None
            names = names[1:]
        if split and len(names) <= 1:
            pictures.append((path, "".join(names), split))
    if any(label for _, label, _ in pictures):
        pictures = [picture for picture in pictures if picture[1]]  # not those beside class folders
    else:
        pictures = [(path, Path(os.path.abspath(root)).name, split) for path, _, split in pictures]
    return pictures, sorted(files.keys() - {path for path, _, _ in pictures})


def read_folder(root, size):
    """root/{train,valid,test}/<class>/*, root/<class>/* or root/*; one channel if all is gray, else 3."""
    paths, others = list_pictures(root)
    require_room(len(paths), 3, size or 1)
    reason = f"it is not a picture ({', '.join(ENDINGS)}), or not in a class folder"
    left_out = dict.fromkeys(others, reason)
    examples = []
    for path, label, split in paths:
        try:
            picture = read_picture(path, size)
        except MemoryError:
            raise
        except Exception as error:  # the errors of Pillow for broken files have no class in common
            left_out[path] = error
            continue
        examples.append((picture, label, split))
        first = examples[0][0]
        sizes = f"{first.shape[:2]} and {picture.shape[:2]}"
        # at the first that differs: a thousand photographs may not fit in memory
        require(picture.shape == first.shape, f"{root} has pictures of sizes {sizes}: give --image-size")
    if left_out:
        first = min(left_out)
        note(f"{root}: {len(left_out):,} files are left out, the first: {first}: {left_out[first]}")
    advice = "give PATH/<class>/*.png (or .jpg, ...)"
    has_train = any(split == "train" for _, _, split in examples)
    require(has_train, f"{root} has no readable picture to train on: {advice}")
    pictures, labels, splits = zip(*examples, strict=True)
    x = np.stack(pictures).transpose(0, 3, 1, 2)  # (n, H, W, 3) -> (n, 3, H, W)
    note_black(x, root)
    if np.array_equal(x[:, 0], x[:, 1]) and np.array_equal(x[:, 1], x[:, 2]):
        x = x[:, :1]
    return Pictures(x, np.array(labels), np.array(splits), None)


def read_butterflies(path):
    """The photographs of datasets/butterflies1k.jpg, a mosaic of 20 rows and 50 columns of 64x64 pixels.

    Each species has two rows. Columns 0-39 train, 40-44 validate and 45-49 test.
    """
    try:
        mosaic = read_picture(path, None)
    except (OSError, Mistake) as error:
        raise Mistake(f"{path} cannot be read ({error}): replace it") from None
    sides = mosaic.shape[:2]
    require(sides == (1280, 3200), f"{path} has {sides[1]}x{sides[0]} pixels, not 3200x1280: replace it")
    x = mosaic.reshape(20, 64, 50, 64, 3).transpose(0, 2, 4, 1, 3)  # (row, column, C, H, W)
    row, column = np.divmod(np.arange(1000), 50)
    return Pictures(x.reshape(1000, 3, 64, 64), row // 2, SPLIT_OF_TENTH[column // 5], BUTTERFLIES)


# -----------------------------------------------------------------------------------------------------------
# Whole data sets, in their publishers' files, which are downloaded where they are missing

GOOGLE = "https://storage.googleapis.com"
MIRRORS = {  # folder: addresses, tried in order
    "mnist": ["https://ossci-datasets.s3.amazonaws.com/mnist/", f"{GOOGLE}/cvdf-datasets/mnist/"],
    "fashion_mnist": [
        f"{GOOGLE}/tensorflow/tf-keras-datasets/",
        "https://raw.githubusercontent.com/zalandoresearch/fashion-mnist/master/data/fashion/",
    ],
    "quickdraw": [f"{GOOGLE}/quickdraw_dataset/full/numpy_bitmap/"],
}
IDX_FILES = [f"{part}-{kind}-ubyte" for part in ("train", "t10k") for kind in ("images-idx3", "labels-idx1")]
IDX_MD5 = {  # of images and labels, unzipped: the gzip around them differs from mirror to mirror
    "mnist/train": ("6bbc9ace898e44ae57da46a324031adb", "a25bea736e30d166cdddb491f175f624"),
    "mnist/t10k": ("2646ac647ad5339dbf082846283269ea", "27ae3e4e09519cfbb04c329615203637"),
    "fashion_mnist/train": ("f4a8712d7a061bf5bd6d2ca38dc4d50a", "9018921c3c673c538a1fc5bad174d6f9"),
    "fashion_mnist/t10k": ("8181f5470baa50b63fa0f6fddb340f0a", "15d484375f8d13e6eb1aabb0c3f46965"),
}


def fetch(path, check):
    """Download a file from its mirrors in turn; check(bytes) raises ValueError if the bytes are bad."""
    failures = []
    for mirror in MIRRORS[path.parent.name]:
        url = mirror + urllib.parse.quote(path.name)
        request = urllib.request.Request(url, headers={"User-Agent": "Mozilla/5.0 (data.py)"})
        try:
            with urllib.request.urlopen(request, timeout=30) as response:
                megabytes = int(response.headers.get("Content-Length", 0)) / 1e6
                note(f"downloading {url}, {megabytes:,.1f} MB")
                body = response.read()
            if body[:100].lstrip().startswith(b"<"):
                raise ValueError("sent an HTML page in its place")
            check(body)
        except (OSError, EOFError, http.client.HTTPException, ValueError) as error:
            failures.append(f"{url.split('/')[2]}: {error}")
        else:
            path.parent.mkdir(parents=True, exist_ok=True)
            return write_file(path, lambda file, body=body: file.write(body))
    # quickdraw may have no class of that name
    advice = f"if {url} exists, download it by hand and put it there"
    raise Mistake(f"{path} is missing ({'; '.join(failures)}): {advice}")


def unzip(body, md5):
    """The bytes of an IDX file, gzipped or not. Raises ValueError with a phrase that says what is wrong."""
    if body.startswith(b"\x1f\x8b"):
        try:
            body = gzip.GzipFile(fileobj=io.BytesIO(body)).read(MAX_BYTES + 1)
        except (EOFError, OSError, zlib.error):
            raise ValueError("is a truncated or damaged gzip file") from None
        if len(body) > MAX_BYTES:
            raise ValueError(f"unpacks to more than {MAX_BYTES:,} bytes")
    actual = hashlib.md5(body).hexdigest()
    if actual != md5:
        raise ValueError(f"is not the published file (MD5 {actual}, not {md5})")
    return body


def read_idx(folder, classes, data_dir):
    """MNIST or Fashion-MNIST from <data_dir>/<folder>/ or, where its files are there, <data_dir> itself."""
    arrays = []
    checksums = IDX_MD5[f"{folder}/train"] + IDX_MD5[f"{folder}/t10k"]
    for file, md5 in zip(IDX_FILES, checksums, strict=True):
        places = [top / f"{file}{suffix}" for top in (data_dir / folder, data_dir) for suffix in (".gz", "")]
        path = next((place for place in places if place.is_file()), places[0])
        if not path.is_file():
            fetch(path, lambda body, md5=md5: unzip(body, md5))
        try:
            body = unzip(path.read_bytes(), md5)
        except ValueError as error:
            raise Mistake(f"{path} {error}: delete it, replace it or give another --data-dir") from None
        header = 16 if "images" in file else 8  # bytes: kind, n and, of images, height and width
        arrays.append(np.frombuffer(body, np.uint8)[header:])
    x_train, y_train, x_test, y_test = arrays
    x = np.concatenate([x_train, x_test]).reshape(-1, 1, 28, 28)
    splits = np.repeat(["train", "test"], [len(y_train), len(y_test)])
    return Pictures(x, np.concatenate([y_train, y_test]), splits, classes)


def read_quickdraw(classes, per_class, data_dir):
    """The first per_class drawings of each class, from <data_dir>/quickdraw/<class>.npy."""
    if isinstance(classes, str):
        classes = classes.split(",")
    classes = [name.strip() for name in classes]
    repeats = len(set(classes)) < len(classes)
    require(not repeats, f"the classes {', '.join(classes)} repeat: give each name once")
    for name in classes:  # which becomes the name of a file
        require(name and not set(name) & set("/\\:"), f"{name!r} is no class of quickdraw")
    x = []
    tenths = []
    for name in classes:
        path = data_dir / "quickdraw" / f"{name}.npy"
        if not path.is_file():
            fetch(path, lambda body: np.load(io.BytesIO(body), allow_pickle=False))
        rows = open_arrays(path).get("x", np.empty(0))
        fits = rows.dtype == np.uint8 and rows.shape[1:] == (784,) and len(rows) > 0
        require(fits, f"{path} is not in the numpy_bitmap format, uint8 [n, 784]: delete it or replace it")
        x.append(rows[:per_class].reshape(-1, 1, 28, 28))
        # 80/10/10 in blocks of 1,000 rows, so that a larger per_class never moves a test drawing into train:
        # rows 900-999 are test drawings here and in quickdraw5k. Fewer than 1,000 are one smaller block.
        n = len(x[-1])
        tenths.append(np.arange(n) % 1000 * 10 // min(n, 1000))
    splits = SPLIT_OF_TENTH[np.concatenate(tenths)]
    labels = np.repeat(np.arange(len(classes)), [len(drawings) for drawings in x])
    return Pictures(np.concatenate(x), labels, splits, classes)


# -----------------------------------------------------------------------------------------------------------
# Arithmetic, for the sequence models: queries such as "12+34" and "5-7  ", answers such as "46 " and "-2 "

ALPHABET = "0123456789+- "  # a token is a symbol's place in it


def encode(texts, length):
    """Tokens int64 [n, length] of n texts, padded with blanks on the right."""
    return torch.tensor([[ALPHABET.index(symbol) for symbol in text.ljust(length)] for text in texts])


def encode_text(text):
    """Tokens int64 [5] of a query as people type it, such as "12+34". Raises Mistake."""
    parts = re.fullmatch(r"\s*([0-9]{1,2})\s*([+-])\s*([0-9]{1,2})\s*", text)
    require(parts, f"{text!r} is not a query: add or subtract two numbers from 0 to 99, as in 12+34")
    left, sign, right = parts.groups()
    return encode([f"{int(left)}{sign}{int(right)}"], 5)[0]


def decode_text(tokens):
    """The text of tokens [length], with its blanks."""
    return "".join(ALPHABET[token] for token in tokens)


def load_arithmetic(data_dir, valid_fraction, keep_twins, draw_once, drawn):
    """Every i + j and i - j for i and j in 0..99, split at random but in the same way on every call.

    The digits of a split are pictures of the same split of MNIST, the whole one where its data_dir is given,
    else mnist10k: no handwriting of the test split is seen in training. The signs are alike in all splits.
    """
    digits = load("mnist" if data_dir else "mnist10k", data_dir, valid_fraction=valid_fraction)
    pairs = [(i, j) for i in range(100) for j in range(100)]
    x = encode([f"{i}+{j}" for i, j in pairs] + [f"{i}-{j}" for i, j in pairs], 5)
    y = encode([str(i + j) for i, j in pairs] + [str(i - j) for i, j in pairs], 3)

    # the queries of the lowest ranks are the test split, the next ones valid, the others train
    rank = np.random.RandomState(42).permutation(len(x))
    if keep_twins:  # a+b and b+a get the same rank; differences have no twins
        twin = np.arange(len(x)).reshape(2, 100, 100)  # (sign, i, j)
        twin[0] = np.minimum(twin[0], twin[0].T)
        rank = rank[twin.flatten()]
    n_test = len(x) // 10
    n_valid = round(valid_fraction * (len(x) - n_test))
    splits = np.array(["test", "valid", "train"])[np.digitize(rank, [n_test, n_test + n_valid])]

    signs = draw_signs(50)
    sign_tokens = torch.tensor([10, 11, 12]).repeat_interleave(50)
    parts = []
    for name in SPLITS:
        rows = splits == name
        pictures, labels = digits.split(name)
        order = labels.argsort(stable=True)
        glyphs = Split(torch.cat([pictures[order], signs]), torch.cat([labels[order], sign_tokens]))
        is_complete = len(glyphs.y.unique()) == len(ALPHABET) or not rows.any()
        fraction = f"--valid-fraction {valid_fraction:g}"
        require(is_complete, f"{fraction} leaves a digit out: give 0, or 0.01 or more")
        queries = Queries(x[rows], y[rows], glyphs, drawn)
        parts.append(queries.once() if draw_once else queries)
    return Dataset("arithmetic", list(ALPHABET), *parts)


def draw_signs(n):
    """n each of '+', '-' and blank, uint8 [3 * n, 1, 28, 28], in lines 2 pixels wide. Always the same."""
    random = np.random.RandomState(0)
    half_length = random.uniform(6, 9, (n, 1, 1))  # pixels
    turn = random.uniform(-0.15, 0.15, (n, 1, 1))  # radians
    right, down = random.uniform(-1.5, 1.5, (2, n, 1, 1))
    y, x = np.mgrid[:28, :28] - 13.5  # from the center, in pixels
    x = x - right
    y = y - down
    along = x * np.cos(turn) + y * np.sin(turn)  # (n, 28, 28)
    across = y * np.cos(turn) - x * np.sin(turn)

    def line(along, across):
        distance = np.hypot(across, np.maximum(np.abs(along) - half_length, 0))  # from the line's center
        return (1.5 - distance).clip(0, 1)  # fades over the pixel around the line's edge

    minus = line(along, across)
    plus = np.maximum(minus, line(across, along))
    signs = np.concatenate([plus, minus, np.zeros_like(minus)])
    return torch.from_numpy(np.rint(255 * signs[:, None]).astype(np.uint8))


# -----------------------------------------------------------------------------------------------------------
# Shared by the command lines


def read_json(path):
    """The content of a JSON file. Raises Mistake."""
    path = Path(path)
    require(path.is_file(), f"{path} is not a file")
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise Mistake(f"{path} is damaged: {error}") from None


def write_json(path, value):
    finite = json.loads(json.dumps(value), parse_constant=lambda _: None)  # JSON has no NaN and no infinity
    text = json.dumps(finite, indent=1) + "\n"
    write_file(path, lambda file: file.write(text.encode()))


def read_config(folder):
    """The content of a run folder's config.json. Raises Mistake."""
    path = Path(folder) / "config.json"
    require(path.is_file(), f"{folder} is not a run folder: it has no config.json")
    config = read_json(path)
    check_config(config, path)
    return config


def check_config(config, where):
    """Require that the entries of a config which are read are there and of the right type."""

    def is_list(value, kind):
        return isinstance(value, list) and len(value) > 0 and all(type(item) is kind for item in value)

    is_right = {
        "flags": lambda flags: type(flags) is dict and is_list([flags.get("model"), flags.get("data")], str),
        "classes": lambda names: is_list(names, str) and len(set(names)) == len(names),
        "image_shape": lambda sides: is_list(sides, int) and len(sides) in (1, 3) and min(sides) > 0,
        "units": lambda units: isinstance(units, dict) and is_list(list(units.values()), str),
        "threads": lambda threads: type(threads) is int and 1 <= threads <= 1024,
    }
    require(isinstance(config, dict), f"{where} is damaged: it is not a table of entries")
    advice = "it is damaged, or of another version"
    for name, check in is_right.items():
        is_there = name in config and check(config[name])
        require(is_there, f"{where} lacks the entry {name} in its usual form: {advice}")


def load_for_run(config, data_dir=None, data=None):
    """The data set that a run was trained on, or another one at the same image size. Raises Mistake."""
    flags = FLAGS | {name: value for name, value in config["flags"].items() if name in FLAGS}
    if data and data != flags["data"]:
        flags = dict(data=data, data_dir=flags["data_dir"], image_size=flags["image_size"])
    if data_dir:
        flags["data_dir"] = data_dir
    return load(**flags)


def add_flags(parser):
    """The flags of `load`, without their defaults, which are those of FLAGS."""
    names = "; ".join(f"{name}: {content}" for name, content in DATASETS.items())
    twins = "arithmetic: a+b and b+a are in the same split"
    once = "arithmetic as pictures: a query or answer looks the same in every epoch"
    add = parser.add_argument_group("data").add_argument
    add("--data", help=f"a path to pictures, or a name (default mnist10k); {names}")
    add("--data-dir", help="folder of the whole data sets (default DGM_DATA_DIR, else datasets/)")
    add("--image-size", type=number(int, 1), help="crop to a square and resize to this side, in pixels")
    add("--binarize", choices=("static", "stochastic"), help="make pixels 0 or 1, once or in every batch")
    add("--classes", help=f"of quickdraw, separated by commas (default {','.join(DRAWINGS)})")
    add("--per-class", type=number(int, 1), help=f"drawings of each class (default {DRAWINGS_PER_CLASS})")
    add("--valid-fraction", type=number(float, 0, 1), help="of train, where there is no valid (default 0.1)")
    add("--keep-twins", action=argparse.BooleanOptionalAction, help=twins)
    add("--draw-once", action=argparse.BooleanOptionalAction, help=once)


def number(kind, low, high=math.inf, above=False):
    """An argparse type: an int or float from low (or only above it) to high, never NaN.

    An int is at most 2**31 and a float 1e30, beyond which float32 could overflow.
    """
    high = min(high, 2**31 if kind is int else 1e30)
    wanted = "a whole number" if kind is int else "a number"
    wanted += f" above {low}, at most {high}" if above else f" from {low} to {high}"

    def parse(text):
        try:
            value = kind(text)
        except ValueError:
            value = math.nan  # which is in no range
        if low <= value <= high and not (above and value == low):
            return value
        raise argparse.ArgumentTypeError(f"{text!r} is not {wanted}")

    return parse


class Parser(argparse.ArgumentParser):
    """Reports errors in one line, suggests what a mistyped flag may mean, and reads flags from files: @FILE
    stands for the flags in FILE, and a flag that comes later wins."""

    def __init__(self, **options):
        keep_lines = argparse.RawDescriptionHelpFormatter  # of the description
        super().__init__(allow_abbrev=False, formatter_class=keep_lines, **options)

    @property
    def names(self):
        """The names of all flags, as attributes of what parse_args returns."""
        return {action.dest for action in self._actions}

    def error(self, message):
        self.exit(2, f"{self.prog}: error: {visible(message)} (see --help)\n")

    def parse_args(self, args=None):
        flags = []
        for arg in sys.argv[1:] if args is None else args:
            flags += self.read_recipe(arg[1:]) if arg.startswith("@") else [arg]
        if any("\0" in flag for flag in flags):
            self.error("a NUL byte is in the arguments")
        if "" in flags:  # perhaps of a shell variable without a value
            self.error("an argument is empty")
        home = os.path.expanduser("~")  # which a shell does not put for ~ in --out=~/x, nor in a recipe
        flags = [re.sub(r"(^|^--[\w-]+=)~(?=/|$)", lambda match: match[1] + home, flag) for flag in flags]
        values, unknown = self.parse_known_args(flags)
        if unknown:
            flag = next((arg for arg in unknown if arg.startswith("-")), unknown[0]).split("=")[0]
            similar = difflib.get_close_matches(flag, self._option_string_actions, n=1)
            hint = f", did you mean {similar[0]}?" if similar else ""
            self.error(f"unknown argument {flag}{hint}")
        return values

    def read_recipe(self, path):
        """The flags in a UTF-8 file, quoted as in a shell, with comments after #."""
        path = os.path.expanduser(path)
        if Path(path).exists() and not Path(path).is_file():
            self.error(f"cannot read flags from {path}: it is not a regular file")
        try:
            # argparse's own fromfile_prefix_chars opens files in the locale's encoding before Python 3.12
            lexer = shlex.shlex(Path(path).read_text(encoding="utf-8-sig"), posix=True)
            lexer.whitespace_split = True
            lexer.escape = ""  # a backslash stays one, as in Windows paths
            return list(lexer)
        except OSError as error:
            self.error(f"cannot read flags from {path}: {error.strerror}")
        except ValueError as error:  # not UTF-8, or a quotation without an end
            self.error(f"cannot read flags from {path}: {error}")


def pick_device(name):
    """The device of that name; for "auto" a GPU where there is one, else the CPU. Raises Mistake.

    Of many processes on a machine, each has a GPU of its own. The first chooses for all what "auto" is.
    """
    if name == "auto":
        name = from_first(find_device)
    if world_size() > 1:
        require(name in ("cpu", "cuda"), f"--device {name} is for one process: of many, give cpu or cuda")
        if name == "cuda":
            number = os.environ["LOCAL_RANK"]
            gpus = torch.cuda.device_count()
            lack = f"{os.environ['LOCAL_WORLD_SIZE']} processes need as many GPUs, and there are {gpus}"
            require(int(number) < gpus, f"{lack}: start fewer processes, or give --device cpu")
            name = f"cuda:{number}"
    try:
        torch.zeros(1, device=name).cpu()  # the copy back fails on the device "meta", which stores no values
        return torch.device(name)
    except Exception as error:  # each kind of device has its own errors for being absent
        reason = str(error).partition("\n")[0]
        raise Mistake(f"--device {name} cannot be used here: {reason}") from error


def find_device():
    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() and world_size() == 1 else "cpu"


def run_command(prog, command, argv, *errors):
    """Run command(argv), where None stands for the arguments of this process; returns the exit status.

    Errors that the user can correct end in one line on stderr: a Mistake and the classes `errors`, which all
    have a `status`, an OSError, or a lack of memory. All other exceptions are defects and keep a traceback.
    """
    try:
        for stream in (sys.stdout, sys.stderr):
            if isinstance(stream, io.TextIOWrapper):
                stream.reconfigure(errors="replace")  # of characters that the console lacks
        status = command(sys.argv[1:] if argv is None else argv)
        print(end="", flush=True)  # here, where the error of a closed pipe is caught
        return status or 0
    except SystemExit as stop:  # how argparse ends after --help and after an error
        return stop.code or 0
    except KeyboardInterrupt as interrupt:
        message = str(interrupt) or f"{prog}: interrupted"
        print(f"\n{message}", file=sys.stderr)
        return 130  # 128 + the number of the signal, as shells have it
    except BrokenPipeError:  # a reader such as `| head` has closed it; the last flush at exit must not fail
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except NotImplementedError as error:
        message = str(error)  # it names the task, where an assignment has taken a function out of our files
        if not message.startswith("Task "):
            raise
        status = 3
    except (MemoryError, RuntimeError) as error:  # torch has no common class of its lack of memory
        is_lack = re.search("(not enough|out of|allocate) memory", str(error))
        if not isinstance(error, MemoryError) and not is_lack:
            raise
        message = "out of memory: try a smaller --batch-size, model or picture"
        status = 1
    except OSError as error:
        message = f"{error.strerror}: {error.filename}" if error.filename else str(error)
        status = 1
    except (Mistake, *errors) as error:
        message = str(error)
        status = error.status
    print(f"{prog}: error: {visible(' '.join(message.splitlines()))}", file=sys.stderr)
    return status


def write_file(path, writer):
    """Call writer(binary file) so that path is always either the old file or the whole new one."""
    path = Path(path)
    require(not path.is_dir(), f"{path} is a folder: name a file")
    require(path.is_file() or not path.exists(), f"{path} is a device or pipe: name a file")
    content = io.BytesIO()  # torch.save would turn the OSError of a full disk into a RuntimeError
    writer(content)
    remove_leftovers(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")  # a move within the folder is atomic
    try:
        with open(temporary, "xb") as file:  # x: a new file, never one that a link names
            file.write(content.getbuffer())
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from None
    finally:
        temporary.unlink(missing_ok=True)


def remove_leftovers(path):
    """Remove what processes that were killed while they wrote `path` left beside it."""
    for entry in path.parent.glob(".*.tmp"):
        match = re.fullmatch(re.escape(f".{path.name}.") + r"(\d{1,9})\.tmp", entry.name)
        if match and not is_running(int(match[1])):
            with contextlib.suppress(OSError):  # Windows does not remove what a process is writing
                entry.unlink()


def is_running(pid):
    """Whether a process of that number, other than this one, is known to run."""
    if pid == os.getpid() or os.name == "nt":  # there, os.kill would end it
        return False
    try:
        os.kill(pid, 0)
    except OSError as error:
        return isinstance(error, PermissionError)  # it is another user's
    return True


@contextlib.contextmanager
def lock(folder):
    """Hold FOLDER/.lock, which ends with this process. Raises Mistake if another process holds it."""
    path = Path(folder) / ".lock"
    is_ours = not path.is_symlink() and (path.is_file() or not path.exists())
    require(is_ours, f"{path} is no file that a run makes: remove it")
    require(os.access(folder, os.W_OK), f"{folder} is read-only: a run writes there")
    with open(path, "ab") as file:
        try:
            if os.name == "nt":
                import msvcrt

                msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
            else:
                import fcntl

                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError):
            raise Mistake(f"{folder} is in use by another process: wait until it ends") from None
        except OSError as error:
            note(f"{folder} cannot be locked ({error.strerror}): let no other process use it")
        yield


# -----------------------------------------------------------------------------------------------------------
# Many processes: torchrun starts each with the same command line. They work in step, but only the first
# reads flags and files, prints and writes


def rank():
    """The number of this process: 0 for the first, and where there is only one."""
    return dist.get_rank() if world_size() > 1 else 0


def world_size():
    """How many processes there are."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def from_first(function, *args, **options):
    """What the function returns or raises in the first process, which alone calls it, in every process."""
    if world_size() == 1:
        return function(*args, **options)
    outcome = [None, None]
    if rank() == 0:
        try:
            outcome[0] = function(*args, **options)
        except BaseException as error:
            outcome[1] = error
    dist.broadcast_object_list(outcome)
    result, error = outcome
    if error is not None:
        raise error
    return result


def is_disconnection(error):
    """Whether an error is that of torch.distributed when another process has ended."""
    return isinstance(error, RuntimeError) and re.search("gloo|NCCL", str(error)) is not None


@contextlib.contextmanager
def process_group():
    """Joins the processes that torchrun has started, if this is one of them.

    When one process fails, torchrun ends the others by SIGTERM, and exchanges with it fail. So every process
    has an error, and the one that has the first prints it.
    """
    if "TORCHELASTIC_RUN_ID" not in os.environ:
        yield
        return
    store, number, count = next(dist.rendezvous("env://"))
    # On a machine with a GPU torch would choose NCCL alone, which cannot exchange what is on the CPU
    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() and dist.is_nccl_available() else "gloo"
    dist.init_process_group(backend, store=store, rank=number, world_size=count)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    stderr = sys.stderr
    nowhere = open(os.devnull, "w")  # noqa: SIM115
    if number > 0:
        sys.stdout = nowhere
        sys.stderr = nowhere
    try:
        yield
        dist.destroy_process_group()
    except SystemExit:  # of argparse, in all processes
        raise
    except BaseException as error:
        for signal_number in (signal.SIGINT, signal.SIGTERM):  # this process ends anyway
            signal.signal(signal_number, signal.SIG_IGN)
        try:
            is_first = store.add("failures", 1) == 1
        except RuntimeError:  # the first machine's torchrun has ended, and the store with it
            is_first = os.environ["LOCAL_RANK"] == "0"
        sys.stderr = stderr if is_first else nowhere
        if not is_first:
            raise SystemExit(1) from None
        if is_disconnection(error):
            raise Mistake("another process has ended") from None
        raise
