"""Every data set as uint8 tensors in memory, with labels and class names, split into train, valid and test.

    python train.py --data mnist10k                                         # comes with the repository
    python train.py --data quickdraw --classes cat,dog --per-class 20000    # downloaded once, then kept
    python train.py --data photographs/ --image-size 64                     # any image folder, .npy or .npz

In Python, data.load("mnist10k").train.x is uint8 [7200, 1, 28, 28]. Whole data sets are in --data-dir, else
the folder that the environment variable DGM_DATA_DIR names, else datasets/, and downloaded there once.
The last section is what all our command lines share.
"""

import argparse
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
import sys
import urllib.parse
import urllib.request
import zlib
from collections import namedtuple
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageOps

SPLITS = ("train", "valid", "test")
PER_CLASS = 5000  # drawings of each quickdraw class, where --per-class says nothing
ALPHABET = "0123456789+- "  # of arithmetic; a token is a symbol's place in it
BUILT_IN = Path(__file__).resolve().parent / "datasets"

DATASETS = {
    "mnist10k": "8,000 + 2,000 handwritten digits, in the repository",
    "quickdraw5k": "1,000 drawings of each of five things, in the repository",
    "fashion2k": "1,000 + 1,000 pieces of clothing, in the repository",
    "mnist": "all 60,000 + 10,000 digits",
    "fashion": "all 60,000 + 10,000 pieces of clothing",
    "quickdraw": "drawings of whatever --classes names",
    "butterflies": "2,000 of five species in 64x64 color, drawn by a formula",
    "arithmetic": "all 20,000 of 0+0 to 99-99, as text or as pictures of it, with their answers",
}


class Split(namedtuple("Split", "x y")):
    """Pictures x uint8 [n, C, H, W] and their class numbers y int64 [n]."""

    def batch(self, index):
        """What a model is shown of the examples at an index [B] or slice: x float in [0, 1], and y."""
        return self.x[index].float().div_(255), self.y[index]

    def to(self, device):
        return type(self)(self.x.to(device), self.y.to(device))


class RedrawnSplit(Split):
    """Its pixels are drawn anew at every look: white with the probability of their gray."""

    def batch(self, index):
        x, y = super().batch(index)
        return x.bernoulli(), y


class Queries(namedtuple("Queries", "x y glyphs drawn")):
    """Arithmetic: queries x and answers y as tokens, int64 [n, 5] and [n, 3].

    glyphs is a Split of pictures of the 13 symbols, those of one symbol side by side in ALPHABET's order.
    drawn ("query", "answer" or None) names the side that batch shows as pictures.
    """

    def batch(self, index):
        """Queries and answers at an index [B] or slice: tokens, or float [B, characters, 1, 28, 28]."""
        x, y = self.x[index], self.y[index]
        return self.draw(x) if self.drawn == "query" else x, self.draw(y) if self.drawn == "answer" else y

    def draw(self, tokens):
        """Pictures float [..., 1, 28, 28] in [0, 1] of tokens [...], each one of its glyphs at random."""
        first, end = (torch.searchsorted(self.glyphs.y, tokens, right=right) for right in (False, True))
        rows = first + (torch.rand(tokens.shape, device=tokens.device) * (end - first)).long()
        return self.glyphs.batch(rows)[0]

    def to(self, device):
        return Queries(self.x.to(device), self.y.to(device), self.glyphs.to(device), self.drawn)


class Mistake(Exception):
    """Something that the user can mend, told in one line: what, where, what to do."""

    status = 1  # exit status of the command


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


def require(fact, message):
    if not fact:
        raise Mistake(message)


# -----------------------------------------------------------------------------------------------------------
# The user's own arrays and image folders. Each reader, here and in the next section, returns pictures uint8
# [n, C, H, W], labels [n], split names [n], and the class names, or None where the labels are the names.

EXTENSIONS = {".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff"}


def open_arrays(path, mmap_mode=None):
    """np.load that never unpickles, as a dict; Mistake where the file is not what it should be."""
    try:
        loaded = np.load(path, mmap_mode=mmap_mode, allow_pickle=False)
        return {"x": loaded} if isinstance(loaded, np.ndarray) else dict(loaded)
    except Exception as error:  # numpy meets broken files with ValueError, BadZipFile, TokenError, ...
        reason = str(error).partition("\n")[0]
        raise Mistake(f"{path} is no whole .npy or .npz of plain arrays ({reason}): replace it") from None


def as_pictures(x, where):
    """Pictures [n, H * H], [n, H, W], [n, H, W, C] or [n, C, H, W] as uint8 [n, C, H, W].

    Integers are 0..255; floats and booleans are 0..1, and scaled. Raises Mistake for everything else.
    """
    shape = list(x.shape)
    if x.ndim == 2 and math.isqrt(shape[1]) ** 2 == shape[1]:
        x = x.reshape(shape[0], 1, math.isqrt(shape[1]), math.isqrt(shape[1]))
    elif x.ndim == 3:
        x = x[:, None]
    elif x.ndim == 4 and shape[1] not in (1, 3):
        x = x.transpose(0, 3, 1, 2)  # (n, H, W, C) -> (n, C, H, W)
    fits = x.ndim == 4 and x.shape[1] in (1, 3) and x.size > 0
    require(fits, f"{where} has shape {shape}: give [n, H, W], [n, H, W, 1 or 3] or rows of squares")
    require(x.dtype.kind in "uifb", f"{where} holds {x.dtype}: give integers in 0..255 or floats in 0..1")
    low, high, limit = x.min(), x.max(), 255 if x.dtype.kind in "ui" else 1
    found = f"{where} has {x.dtype} pixels from {low:g} to {high:g}"
    require(low >= 0 and high <= limit, f"{found}: scale them to lie in 0..{limit}")  # NaN fails as well
    return x.astype(np.uint8) if limit == 255 else np.rint(x * 255.0).astype(np.uint8)


def read_arrays(path):
    """A .npy of pictures, or a .npz of x_train, y_train, perhaps the same of valid and test, and classes."""
    arrays = open_arrays(path)
    keys = ", ".join(arrays) or "nothing"
    plain = {"x": "x_train", "images": "x_train", "y": "y_train", "labels": "y_train"}
    arrays = {plain.get(key, key): array for key, array in arrays.items()}
    require("x_train" in arrays, f"{path} holds {keys}: call the pictures x_train and the labels y_train")
    own = [s for s in SPLITS if f"x_{s}" in arrays]
    x = [as_pictures(arrays[f"x_{s}"], f"{path}: x_{s}") for s in own]
    shapes = sorted({part.shape[1:] for part in x})
    require(len(shapes) == 1, f"{path} has pictures of shapes {shapes}: make the splits alike")
    names = [str(name) for name in arrays["classes"].flat] if "classes" in arrays else None
    if not any(f"y_{s}" in arrays for s in SPLITS):
        arrays = {f"y_{s}": np.zeros(len(arrays[f"x_{s}"]), int) for s in own}
        names = [Path(path).stem]
    for s, part in zip(own, x, strict=True):
        y = arrays.get(f"y_{s}", np.array(None))
        require(y.shape == (len(part),), f"{path}: y_{s} is not one label for each of {len(part)} pictures")
        require(y.dtype.kind in "iuU", f"{path}: y_{s} holds {y.dtype}: give integers from 0, or strings")
        require(y.dtype.kind != "i" or y.min() >= 0, f"{path}: y_{s} has labels below 0: number them from 0")
    labels = np.concatenate([arrays[f"y_{s}"] for s in own])
    return np.concatenate(x), labels, np.repeat(own, [len(part) for part in x]), names


def read_picture(path, size):
    """A picture file as uint8 [H, W, 3]; with a size, its central square, resized with antialiasing."""
    with Image.open(path) as picture:
        ImageOps.exif_transpose(picture, in_place=True)  # cameras write "turn me" beside the pixels
        if picture.mode == "F":
            raise ValueError("float pixels, of which nobody knows the range")
        if picture.mode.startswith("I"):  # 16 bits, which Pillow's own conversion clips at 255
            picture = Image.fromarray(np.rint(np.asarray(picture).clip(0, 65535) / 257).astype(np.uint8))
        elif picture.has_transparency_data:
            picture = picture.convert("RGBA")
            picture = Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture)
        picture = picture.convert("RGB")
        return np.asarray(picture if size is None else ImageOps.fit(picture, (size, size)))


def read_folder(root, size):
    """PATH/{train,valid,test}/<class>/*, PATH/<class>/* or PATH/*; one channel if all is gray, else three.

    Sorted by name. What lies beside class folders is ignored; unreadable pictures are skipped with a note.
    """
    pictures, kept, skipped, has_splits = [], [], [], (root / "train").is_dir()
    for split in SPLITS if has_splits else ["train"]:
        top = root / split if has_splits else root
        if split == "valid" and not top.is_dir():
            top = root / "val"  # as many call it
        paths = sorted([*top.glob("[!.]*"), *top.glob("[!.]*/[!.]*")])
        paths = [path for path in paths if path.suffix.lower() in EXTENSIONS]
        in_classes = [path for path in paths if path.parent != top]
        for path in in_classes or paths:
            try:
                pictures.append(read_picture(path, size))
                kept.append((split, path.parent.name if in_classes else root.resolve().name))
            except Exception as error:  # what Pillow raises for broken files has no narrower class in common
                skipped.append(f"{path}: {error}")
    if skipped:
        print(f"note: skipped {len(skipped)} unreadable pictures, the first: {skipped[0]}", file=sys.stderr)
    trains = any(split == "train" for split, _ in kept)
    require(trains, f"{root} has no readable picture to train on: give PATH/<class>/*.png (or .jpg, ...)")
    sizes = {picture.shape[:2] for picture in pictures}
    require(len(sizes) == 1, f"{root} has sizes from {min(sizes)} to {max(sizes)}: give --image-size")
    x = np.stack(pictures).transpose(0, 3, 1, 2)  # (n, H, W, 3) -> (n, 3, H, W)
    if np.array_equal(x[:, 0], x[:, 1]) and np.array_equal(x[:, 1], x[:, 2]):
        x = x[:, :1]
    splits, labels = np.array(kept).T
    return x, labels, splits, None


# -----------------------------------------------------------------------------------------------------------
# Whole data sets, laid out as their publishers do, and downloaded where they are missing

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
DIGITS = "0,1,2,3,4,5,6,7,8,9"
CLOTHES = "T-shirt/top,Trouser,Pullover,Dress,Coat,Sandal,Shirt,Sneaker,Bag,Ankle boot"
DRAWINGS = "rabbit,yoga,hand,snowman,motorbike"


def fetch(path, check):
    """Download path from the mirrors of its folder in turn; check(bytes) raises ValueError if it is bad."""
    answers = []
    for mirror in MIRRORS[path.parent.name]:
        url = mirror + urllib.parse.quote(path.name)
        request = urllib.request.Request(url, headers={"User-Agent": "Mozilla/5.0 (data.py)"})
        try:
            with urllib.request.urlopen(request, timeout=30) as response:
                megabytes = int(response.headers.get("Content-Length", 0)) / 1e6
                print(f"note: downloading {url}, {megabytes:,.1f} MB", file=sys.stderr)
                body = response.read()
            require(not body[:100].lstrip().startswith(b"<"), "sent an HTML page in its place")
            check(body)
        except (OSError, EOFError, http.client.HTTPException, ValueError, Mistake) as error:
            answers.append(f"{url.split('/')[2]}: {error}")
        else:
            path.parent.mkdir(parents=True, exist_ok=True)
            return write_file(path, lambda file, body=body: file.write(body))
    raise Mistake(f"{path} is missing ({'; '.join(answers)}): download {url} by hand and put it there")


def unzip(body, md5):
    """The bytes of an IDX file, gzipped or not. Raises ValueError with a phrase that says what is wrong."""
    try:
        body = gzip.decompress(body) if body[:2] == b"\x1f\x8b" else body
    except (EOFError, OSError, zlib.error):
        raise ValueError("is a truncated or damaged gzip file") from None
    if (found := hashlib.md5(body).hexdigest()) != md5:
        raise ValueError(f"is not the published file (MD5 {found}, not {md5})")
    return body


def read_idx(folder, names, data_dir):
    """MNIST or Fashion-MNIST from <data_dir>/<folder>/ or, where its files are there, <data_dir> itself."""
    arrays = []
    for file, md5 in zip(IDX_FILES, IDX_MD5[f"{folder}/train"] + IDX_MD5[f"{folder}/t10k"], strict=True):
        places = [data_dir / f"{top}{file}{end}" for top in (f"{folder}/", "") for end in (".gz", "")]
        path = next((place for place in places if place.is_file()), places[0])
        if not path.is_file():
            fetch(path, lambda body, md5=md5: unzip(body, md5))
        try:
            body = unzip(path.read_bytes(), md5)
        except ValueError as error:
            raise Mistake(f"{path} {error}: delete it or replace it") from None
        arrays.append(np.frombuffer(body, np.uint8))
    x, y, x_test, y_test = arrays  # each after a header of 16 bytes (kind, n, 28, 28) or 8 (kind, n)
    x = np.concatenate([x[16:], x_test[16:]]).reshape(-1, 1, 28, 28)
    splits = np.repeat(["train", "test"], [len(y) - 8, len(y_test) - 8])
    return x, np.concatenate([y[8:], y_test[8:]]), splits, names.split(",")


def read_quickdraw(classes, per_class, data_dir):
    """Up to per_class drawings of each class, the first in <data_dir>/quickdraw/<class>.npy."""
    names = [name.strip() for name in (classes.split(",") if isinstance(classes, str) else classes)]
    require(len(names) == len(set(names)), f"the classes {', '.join(names)} repeat: give each name once")
    pictures, tenths = [], []
    for name in names:
        path = data_dir / "quickdraw" / f"{name}.npy"
        if not path.is_file():
            fetch(path, lambda body: np.load(io.BytesIO(body), allow_pickle=False))
        rows = open_arrays(path, mmap_mode="r").get("x", np.empty(0))  # mapped, so that the rest is not read
        fits = rows.dtype == np.uint8 and rows.shape[1:] == (784,) and len(rows) > 0
        require(fits, f"{path} is not in the numpy_bitmap format, uint8 [n, 784]: delete it or replace it")
        pictures.append(rows[:per_class].reshape(-1, 1, 28, 28))
        n = len(pictures[-1])
        # 80/10/10 in blocks of 1,000 rows, so that asking for more drawings turns no test into training:
        # rows 900-999 test here as they test quickdraw5k. Fewer than 1,000 are one smaller block.
        tenths.append(np.arange(n) % 1000 * 10 // min(n, 1000))
    splits = np.array(["train"] * 8 + ["valid", "test"])[np.concatenate(tenths)]
    labels = np.repeat(np.arange(len(names)), [len(x) for x in pictures])
    return np.concatenate(pictures), labels, splits, names


# -----------------------------------------------------------------------------------------------------------
# Butterflies, drawn here so that the models of 64x64 color pictures run anywhere

SPECIES = {  # colors near the body, far from it, of the margin, of bright marks; the margin's share; marks
    "monarch": ("d9701a f09a2c 1c120e fff4e0", 0.17, "veins dots"),
    "morpho": ("52b5f0 1d4fc4 0d1024 e8f2ff", 0.22, "dots"),
    "swallowtail": ("f8e88a f2c84b 17140f 6fa0e0", 0.22, "veins dots stripes tails"),
    "peacock": ("6e2418 c0502e 33211c f3d27a", 0.09, "eyes"),
    "apollo": ("fbfaf0 ecebdc 3a3936 d0452e", 0.07, "eyes"),
}
# hind and fore wing: height of its root on the body, direction of its middle, reach, narrowness, skew
WINGS = ((-0.08, -0.68, 0.8, 1.2, 0.0), (0.02, 0.55, 1.1, 1.8, 0.3))


def draw_butterfly(colors, margin, marks, random):
    """One picture uint8 [3, 64, 64]. Lengths are in those of a wing, about 28 pixels, and angles in radians.

    A wing is the polar curve r = reach * cos(narrow * angle)^0.5 around its root, angle 0 along its middle.
    """
    colors = np.frombuffer(bytes.fromhex(colors), np.uint8).reshape(4, 3) / 255
    colors = colors * random.uniform(0.85, 1.1, (4, 1)) + random.normal(0, 0.035, (4, 3))
    near, far, dark, light = colors.astype(np.float32)
    garden = random.normal(
        0, 20, (*random.randint(2, 8, 2), 3)
    )  # a few large pixels, which are then blurred
    garden = (garden + random.uniform([60, 85, 35], [165, 190, 150])).clip(0, 255).astype(np.uint8)
    garden = Image.fromarray(garden).resize((64, 64), Image.BICUBIC)
    canvas = np.asarray(garden, np.float32) / 255  # (64, 64, 3)
    size, turn, fold = random.uniform(26, 31), random.normal(0, 0.2), random.uniform(0.8, 1)
    y, x = ((np.mgrid[:64, :64] - 31.5 - random.uniform(-2, 2, (2, 1, 1))) / size).astype(np.float32)
    across = np.abs(x * math.cos(turn) + y * math.sin(turn))  # from the body, so that both sides are alike
    up = x * math.sin(turn) - y * math.cos(turn)

    def paint(color, *depths):
        """Color what lies within all of these shapes: depths [64, 64] are above 0 inside."""
        cover = math.prod((depth * size + 0.5).clip(0, 1) for depth in depths)  # the edge is a pixel wide
        canvas[:] += cover[..., None] * (color - canvas)

    for root, middle, reach, narrow, skew in WINGS:
        reach, middle = reach * random.uniform(0.93, 1.05), middle + random.normal(0, 0.05)
        r, angle = np.hypot(across / fold, up - root), np.arctan2(up - root, across / fold) - middle
        edge = reach * np.cos((narrow * angle).clip(-1.57, 1.57)) ** 0.5
        edge *= 1 + skew * angle + 0.03 * np.cos(14 * angle)  # a tip, and scallops
        if "tails" in marks and root < 0:
            edge += 0.36 * np.exp(-(((angle + 0.42) / 0.09) ** 2))
        wing, inner = edge - r, edge * (1 - margin)
        paint(near + (far - near) * (r / (edge + 1e-6)).clip(0, 1)[..., None] ** 2, wing)
        if "veins" in marks:
            paint(dark, wing, 0.017 - r * np.abs(np.sin(5 * angle)) / 5)
        if "stripes" in marks:
            paint(dark, wing, 0.035 - np.abs((across + 0.3 * up) % 0.3 - 0.15), up - 0.1)
        paint(dark, wing, r - inner)
        if "dots" in marks:
            paint(light, wing, 0.04 - np.hypot(r - (edge + inner) / 2, r * np.sin(7 * angle) / 7))
        if "eyes" in marks:
            for radius, color in ((0.19, dark), (0.14, light), (0.07, dark)):
                paint(color, wing, radius - np.hypot(r - 0.7 * reach, r * (angle - 0.1)))
    paint(dark / 2, 0.06 - np.hypot(across, 0.13 * (up + 0.1)))  # the body, and a feeler on each side
    paint(dark / 2, 0.02 - np.abs(across - 0.5 * (up - 0.34)), up - 0.34, 0.7 - up)
    return np.rint(255 * canvas.clip(0, 1)).astype(np.uint8).transpose(2, 0, 1)


def read_butterflies(n=2000):
    """n pictures, the species in turn, in splits of 80/10/10; always the same."""
    random, species = np.random.RandomState(0), list(SPECIES)
    labels = np.arange(n) % len(species)
    x = np.stack([draw_butterfly(*SPECIES[species[label]], random) for label in labels])
    splits = np.array(["train"] * 8 + ["valid", "test"])[np.arange(n) // len(species) % 10]
    return x, labels, splits, species


# -----------------------------------------------------------------------------------------------------------
# Arithmetic, for the sequence models: queries such as "12+34" and "5-7  ", answers such as "46 " and "-2 "


def encode(texts, length):
    """Tokens int64 [n, length] of n texts, blanks to their right."""
    return torch.tensor([[ALPHABET.index(symbol) for symbol in text.ljust(length)] for text in texts])


def encode_text(text):
    """Tokens int64 [5] of a query as people type it, such as "12+34". Raises Mistake."""
    parts = re.fullmatch(r"\s*([0-9]{1,2})\s*([+-])\s*([0-9]{1,2})\s*", text)
    require(parts, f"{text!r} is no query: give two numbers from 0 to 99 with + or - between, as in 12+34")
    return encode([f"{int(parts[1])}{parts[2]}{int(parts[3])}"], 5)[0]


def decode_text(tokens):
    """The text of tokens [length], with its blanks."""
    return "".join(ALPHABET[token] for token in tokens)


def draw_signs(n=50):
    """n each of '+', '-' and the blank, in lines 2 px wide: uint8 [3 * n, 1, 28, 28], always the same."""
    random = np.random.RandomState(0)
    half, turn = random.uniform(6, 9, (n, 1, 1)), random.uniform(-0.15, 0.15, (n, 1, 1))  # length, angle
    right, down = random.uniform(-1.5, 1.5, (2, n, 1, 1))
    y, x = np.mgrid[:28, :28] - 13.5  # from the middle, in pixels
    x, y = x - right, y - down
    along, across = x * np.cos(turn) + y * np.sin(turn), y * np.cos(turn) - x * np.sin(turn)  # (n, 28, 28)

    def line(along, across):
        distance = np.hypot(across, np.maximum(np.abs(along) - half, 0))
        return (1.5 - distance).clip(0, 1)  # fades from 0.5 px within its edge to 0.5 px beyond

    minus = line(along, across)
    signs = np.concatenate([np.maximum(minus, line(across, along)), minus, np.zeros_like(minus)])
    return torch.from_numpy(np.rint(255 * signs[:, None]).astype(np.uint8))


def load_arithmetic(data_dir, valid_fraction, keep_twins, drawn):
    """Every i + j and i - j for i and j in 0..99. The digits of a split are drawn from MNIST's split of that
    name, of mnist10k where no data_dir is given; the signs are the same in all."""
    require(drawn in (None, "query", "answer"), f"drawn is {drawn!r}: give 'query', 'answer' or None")
    digits = load("mnist" if data_dir else "mnist10k", data_dir, valid_fraction=valid_fraction)
    problems = [(i, sign, j) for sign in "+-" for i in range(100) for j in range(100)]
    x = encode([f"{i}{sign}{j}" for i, sign, j in problems], 5)
    y = encode([str(i + j if sign == "+" else i - j) for i, sign, j in problems], 3)
    place = np.random.RandomState(42).permutation(len(x))  # in a random order: first test, then valid, train
    if keep_twins:
        group = np.arange(len(x)).reshape(2, 100, 100)  # (sign, i, j)
        group[0] = np.minimum(group[0], group[0].T)  # a+b and b+a are one group
        place = place[group.flatten()]
    n_test = len(x) // 10
    ends = np.cumsum([n_test, round(valid_fraction * (len(x) - n_test))])
    splits = np.array(["test", "valid", "train"])[np.digitize(place, ends)]
    signs, symbols = draw_signs(), torch.arange(10, 13).repeat_interleave(50)

    def queries(name):
        split, rows = getattr(digits, name), splits == name
        order = split.y.argsort(stable=True)
        glyphs = Split(torch.cat([split.x[order], signs]), torch.cat([split.y[order], symbols]))
        enough = len(glyphs.y.unique()) == len(ALPHABET) or not rows.any()
        require(enough, f"--valid-fraction {valid_fraction:g} leaves a digit out: give 0, or 0.01 or more")
        return Queries(x[rows], y[rows], glyphs, drawn)

    return Dataset("arithmetic", list(ALPHABET), *map(queries, SPLITS))


# -----------------------------------------------------------------------------------------------------------
# One door to all of them


def number_labels(labels, splits, names, where):
    """Class numbers int64 [n], and the class names: where None, the sorted labels of train."""
    known = names if labels.dtype.kind == "U" else range(len(names or ()))
    known = np.unique(labels[splits == "train"]).tolist() if names is None else known
    place = {label: number for number, label in enumerate(known)}
    for label in np.unique(labels).tolist():
        require(label in place, f"{where}: a picture has the class {label}, which is none of those to train")
    names = names or [str(label) for label in known]
    return torch.tensor([place[label] for label in labels.tolist()]), names


def resize(x, size):
    """Pictures uint8 [n, C, H, W] as [n, C, size, size]: the central square, resized with antialiasing."""
    height, width = x.shape[2:]
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    x, parts = x[:, :, top : top + side, left : left + side], []
    for part in x.split(1000):  # all at once, the floats would take four times the memory
        part = F.interpolate(part.float(), size=(size, size), mode="bilinear", antialias=True)
        parts.append(part.round().to(torch.uint8))
    return torch.cat(parts)


def stratified(y, n):
    """bool [N]: n examples of the labels y [N], each class in its proportion; the same on every call."""
    random, chosen = np.random.RandomState(0), np.zeros(len(y), bool)  # the stream that numpy never changes
    quota = np.bincount(y) * n / max(len(y), 1)
    take = quota.astype(int)
    take[np.argsort(take - quota, kind="stable")[: n - take.sum()]] += 1  # up go the largest remainders
    for label, count in enumerate(take):
        chosen[random.permutation(np.flatnonzero(y == label))[:count]] = True
    return chosen


def read(data, path, data_dir, image_size, classes, per_class):
    """What the reader of that data set returns."""
    if data == "mnist":
        return read_idx("mnist", DIGITS, data_dir)
    if data == "fashion":
        return read_idx("fashion_mnist", CLOTHES, data_dir)
    if data == "quickdraw":
        return read_quickdraw(classes or DRAWINGS, per_class or PER_CLASS, data_dir)
    if data == "butterflies":
        return read_butterflies()
    if data in DATASETS or path.is_file():
        return read_arrays(BUILT_IN / f"{data}.npz" if data in DATASETS else path)
    if path.is_dir():
        return read_folder(path, image_size)
    close = difflib.get_close_matches(data, DATASETS, n=1)
    hint = f"did you mean {close[0]}?" if close else f"give a path, or one of {', '.join(DATASETS)}"
    raise Mistake(f"there is no data set or file {data}: {hint}")


def load(
    data="mnist10k",
    data_dir=None,
    image_size=None,
    classes=None,
    per_class=None,
    valid_fraction=0.1,
    binarize=None,
    keep_twins=False,
    drawn=None,
):
    """The data set of that name, or the image folder, .npy or .npz at that path. Raises Mistake.

    classes (a list, or a string with commas) and per_class are quickdraw's. Where a data set has no valid
    split, it is valid_fraction of train, the same on every call, so that runs of different seeds compare.
    binarize makes pixels 0 or 255, a gray one 255 with the probability of its gray: "static" once and for
    all (Larochelle & Murray 2011), or "stochastic" at every look (Burda et al. 2016).
    keep_twins and drawn are arithmetic's: whether a+b and b+a are kept in one split, and the side of it
    that is drawn, "query", "answer" or None, of which the digits are MNIST's where data_dir is given.
    """
    data, path = str(data), Path(data).expanduser()
    own = (("quickdraw", "classes", classes), ("quickdraw", "per-class", per_class))
    for owner, flag, value in (*own, ("arithmetic", "keep-twins", keep_twins)):
        require(data == owner or not value, f"--{flag} is for --data {owner}: leave it out with {data}")
    require(0 <= valid_fraction < 1, f"the valid fraction is {valid_fraction}: give a number in [0, 1)")
    if data == "arithmetic":
        require(image_size is None, "arithmetic is drawn in 28x28 pixels: leave --image-size out")
        require(binarize is None, "arithmetic keeps its gray digits: leave --binarize out")
        return load_arithmetic(data_dir, valid_fraction, keep_twins, drawn)
    data_dir = Path(data_dir or os.environ.get("DGM_DATA_DIR") or BUILT_IN).expanduser()
    x, labels, splits, names = read(data, path, data_dir, image_size, classes, per_class)
    y, names = number_labels(labels, splits, names, data)
    x = torch.from_numpy(np.ascontiguousarray(x))
    x = resize(x, image_size) if image_size else x
    for split, fraction in (("test", 0.1), ("valid", valid_fraction)):
        if split not in splits:
            train = np.flatnonzero(splits == "train")
            splits[train[stratified(y.numpy()[train], round(fraction * len(train)))]] = split
    require("train" in splits, f"{data} leaves nothing to train on: give more pictures")
    if binarize == "static":
        x = 255 * (torch.rand(x.shape, generator=torch.Generator().manual_seed(0)) < x / 255).to(torch.uint8)
    kind = RedrawnSplit if binarize == "stochastic" else Split
    name = data if data in DATASETS else path.resolve().stem
    return Dataset(name, names, *[kind(x[splits == s], y[splits == s]) for s in SPLITS])


# -----------------------------------------------------------------------------------------------------------
# Shared by the command lines

FLAGS = inspect.signature(load).parameters  # name: parameter, of which .default is the flag's too


def read_config(folder):
    """What config.json of a run folder holds. Raises Mistake."""
    path = Path(folder) / "config.json"
    require(path.is_file(), f"{folder} is not a run folder: it has no config.json")
    try:
        config = json.loads(path.read_text())
    except ValueError as error:
        raise Mistake(f"{path} is damaged: {error}") from None
    require(isinstance(config, dict) and "flags" in config, f"{path} is damaged: it names no flags")
    return config


def load_for_run(config, data_dir=None, data=None):
    """The data set that a run was trained on, or another in its place at the same size. Raises Mistake."""
    flags = {name: config["flags"].get(name, flag.default) for name, flag in FLAGS.items()}
    if data and data != flags["data"]:
        flags = dict(data=data, data_dir=flags["data_dir"], image_size=flags["image_size"])
    return load(**flags | (dict(data_dir=data_dir) if data_dir else {}))


def add_flags(parser):
    """The flags of load, with its defaults."""
    named = "; ".join(f"{name}: {what}" for name, what in DATASETS.items())
    group = parser.add_argument_group("data")
    group.add_argument("--data", help=f"a path to pictures, or a name (default mnist10k); {named}")
    group.add_argument("--data-dir", help="where whole data sets are or will be (default DGM_DATA_DIR)")
    group.add_argument("--image-size", type=number(int, 1), help="crop and resize to this side, in pixels")
    group.add_argument(
        "--binarize", choices=("static", "stochastic"), help="pixels 0 or 1, drawn once or anew"
    )
    group.add_argument("--classes", help=f"of quickdraw, with commas between ({DRAWINGS})")
    group.add_argument("--per-class", type=number(int, 1), help=f"of each quickdraw class ({PER_CLASS})")
    group.add_argument(
        "--valid-fraction", type=number(float, 0, 1), help="of train, if there is no valid (0.1)"
    )
    twins = "arithmetic: a+b and b+a stay on one side of the split"
    group.add_argument("--keep-twins", action=argparse.BooleanOptionalAction, help=twins)
    parser.set_defaults(**{name: flag.default for name, flag in FLAGS.items()})


def number(kind, low, high=math.inf, above=False):
    """An argparse type: an int or float from low (or only above it) to high, never nan or infinite."""
    wanted = f"a {'whole ' if kind is int else ''}number {'above' if above else 'from'} {low}"
    wanted += f" to {high}" if high < math.inf else ""

    def parse(text):
        try:
            value = kind(text)
        except ValueError:
            value = math.nan
        if (low < value or (low == value and not above)) and value <= high and abs(value) < math.inf:
            return value
        raise argparse.ArgumentTypeError(f"{text!r} is not {wanted}")

    return parse


class Parser(argparse.ArgumentParser):
    """One-line errors, a hint for a mistyped flag, and flags from a file (@FILE, which goes first)."""

    def __init__(self, **options):
        raw = argparse.RawDescriptionHelpFormatter  # keeps the lines of a description
        super().__init__(allow_abbrev=False, formatter_class=raw, **options)

    def error(self, message):
        self.exit(2, f"{self.prog}: error: {message} (see --help)\n")

    def parse_args(self, args=None, namespace=None):
        args, flags = list(sys.argv[1:] if args is None else args), []
        while args and args[0].startswith("@"):
            path = Path(args.pop(0)[1:])
            try:
                for line in path.read_text(encoding="utf-8").splitlines():
                    flags += shlex.split(line, comments=True)
            except (OSError, ValueError) as error:
                self.error(f"cannot read flags from {path}: {getattr(error, 'strerror', None) or error}")
        if late := [arg for arg in args if arg.startswith("@")]:
            self.error(f"{late[0]} must come first, before every flag, so that flags after it win")
        values, unknown = self.parse_known_args(flags + args, namespace)
        if unknown:
            flag = next((arg for arg in unknown if arg.startswith("-")), unknown[0]).split("=")[0]
            close = difflib.get_close_matches(flag, self._option_string_actions, n=1)
            self.error(f"unknown argument {flag}" + (f", did you mean {close[0]}?" if close else ""))
        return values


def pick_device(name):
    """The device of that name, or with "auto" the fastest there is. Raises Mistake."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    try:
        torch.zeros(1, device=name).cpu()  # there and back: "meta" takes numbers and gives none
        return torch.device(name)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise Mistake(f"--device {name} cannot be used here: {str(error).splitlines()[0]}") from error


def run_command(prog, function, argv, *mistakes):
    """The exit status of function(argv); a Mistake, an OSError or one of mistakes is a line on stderr."""
    try:
        status = function(sys.argv[1:] if argv is None else argv) or 0
        sys.stdout.flush()
        return status
    except SystemExit as stop:
        return stop.code if isinstance(stop.code, int) else int(stop.code is not None)
    except KeyboardInterrupt:
        print(f"\n{prog}: interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:  # `| head` has seen enough, and the last flush at exit must not fail either
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except (MemoryError, RuntimeError) as error:  # torch has no one class for every device's lack of memory
        lacking = re.search("(not enough|out of|allocate) memory", str(error))
        if isinstance(error, RuntimeError) and not lacking:
            raise
        print(f"{prog}: error: out of memory: try a smaller --batch-size, model or picture", file=sys.stderr)
        return 1
    except (Mistake, OSError, *mistakes) as error:
        message = f"{error.strerror}: {error.filename}" if getattr(error, "filename", None) else str(error)
        print(f"{prog}: error: {' '.join(message.splitlines())}", file=sys.stderr)
        return getattr(error, "status", 1)


def write_file(path, writer):
    """Call writer(binary file) so that path is the old file or the whole new one, whatever happens."""
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")  # in the same folder, as a move must be
    try:
        with open(temporary, "wb") as file:
            writer(file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
