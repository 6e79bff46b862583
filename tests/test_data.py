"""What data.py promises: pictures, splits, downloads, and one clear line for every wrong use."""

import argparse
import errno
import gzip
import hashlib
import http.server
import importlib.util
import inspect
import json
import math
import os
import re
import shlex
import subprocess
import sys
import threading
import zipfile
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import data

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture
def whole():
    """Folder of the whole data sets; tests that need them are skipped where they are not at hand."""
    folder = Path(os.environ.get("DGM_DATA_DIR") or ROOT / "../shared/data").resolve()
    if not (folder / "mnist").is_dir():
        pytest.skip("the whole data sets are not at hand: name their folder in DGM_DATA_DIR")
    return folder


def mistake(*args, **options):
    """The message with which load refuses; it must be one line."""
    with pytest.raises(data.Mistake) as caught:
        data.load(*args, **options)
    message = str(caught.value)
    assert message and "\n" not in message
    return message


def rows(x):
    return {row.tobytes() for row in np.asarray(x).reshape(len(x), -1)}


def numbered(n, start=0):
    """n different pictures uint8 [n, 28, 28]: the first four pixels spell the number of each."""
    x = np.zeros((n, 784), np.uint8)
    x[:, :4] = np.arange(start, start + n, dtype=">u4").view(np.uint8).reshape(n, 4)
    return x.reshape(n, 28, 28)


def save(folder, name, array, **options):
    path = Path(folder) / name
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path, **options)
    return path


def noise(*shape, dtype=np.uint8, seed=0):
    return np.random.RandomState(seed).randint(0, np.iinfo(dtype).max + 1, shape, dtype=dtype)


# ----------------------------------------------------------------------------------------------------------
# The sets of the repository, and splits


@pytest.mark.parametrize(
    "name, sizes, k",
    [
        ("mnist10k", (7200, 800, 2000), 10),
        ("quickdraw5k", (4000, 500, 500), 5),
        ("fashion2k", (900, 100, 1000), 10),
    ],
)
def test_built_in_sets_have_the_documented_shape_and_disjoint_splits(name, sizes, k):
    dataset = data.load(name)
    assert dataset.image_shape == (1, 28, 28) and dataset.name == name and len(dataset.classes) == k
    for split, n in zip(data.SPLITS, sizes, strict=True):
        x, y = dataset.split(split)
        assert x.shape == (n, 1, 28, 28) and x.dtype == torch.uint8 and x.is_contiguous()
        assert y.shape == (n,) and y.dtype == torch.int64 and y.unique().tolist() == list(range(k))
    train, valid, test = (rows(dataset.split(split).x) for split in data.SPLITS)
    # people do draw the same thing twice: what the publisher's rows share is not ours to split
    assert len(train & valid) + len(train & test) + len(valid & test) <= 2


def test_class_names():
    assert data.load("mnist10k").classes == list("0123456789")
    assert data.load("quickdraw5k").classes == ["rabbit", "yoga", "hand", "snowman", "motorbike"]
    assert data.load("fashion2k").classes[::9] == ["T-shirt/top", "Ankle boot"]


def test_mnist10k_and_its_valid_split_keep_the_proportions_of_mnist():
    dataset = data.load("mnist10k")
    published = torch.tensor([5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949]) / 60000
    both = dataset.train.y.bincount() + dataset.valid.y.bincount()
    assert (both - 8000 * published).abs().max() < 1
    assert (dataset.valid.y.bincount() - both / 10).abs().max() < 1


def test_the_valid_split_is_the_same_on_every_call_whatever_the_seed():
    torch.manual_seed(1)
    np.random.seed(1)
    first = data.load("fashion2k")
    torch.manual_seed(2)
    np.random.seed(2)
    assert torch.equal(first.valid.x, data.load("fashion2k").valid.x)


def test_the_valid_fraction():
    dataset = data.load("fashion2k", valid_fraction=0)
    assert (
        dataset.valid.x.shape == (0, 1, 28, 28)
        and dataset.valid.y.shape == (0,)
        and len(dataset.train.y) == 1000
    )
    assert dataset.valid.x.dtype == torch.uint8 and dataset.valid.y.dtype == torch.int64
    assert len(data.load("fashion2k", valid_fraction=0.25).valid.y) == 250
    assert len(data.load("quickdraw5k", valid_fraction=0.5).valid.y) == 500  # it has its own
    for fraction in (1, -0.1, float("nan")):
        assert "[0, 1)" in mistake("fashion2k", valid_fraction=fraction)


def test_a_batch_is_scaled_and_leaves_the_data_as_they_are():
    split = data.Split(torch.randint(256, (9, 1, 4, 4), dtype=torch.uint8), torch.arange(9))
    before = split.x.clone()
    for index in (torch.tensor([3, 0]), slice(2, 5), slice(None)):
        x, y = split.batch(index)
        assert torch.equal(x, split.x[index] / 255) and torch.equal(y, torch.arange(9)[index])
    assert torch.equal(split.x, before)
    moved = split.to("meta")
    assert isinstance(moved, data.Split) and moved.x.is_meta and moved.y.is_meta


def test_stratified_takes_exactly_n_in_proportion():
    y = np.array([0] * 55 + [1] * 33 + [2] * 12)
    for n in (0, 1, 7, 50, 100):
        taken = data.stratified(y, n)
        assert taken.sum() == n
        assert np.abs(np.bincount(y[taken], minlength=3) - np.array([0.55, 0.33, 0.12]) * n).max() < 1


def test_the_repository_files_can_be_built_again(whole, tmp_path, capsys):
    spec = importlib.util.spec_from_file_location("build", ROOT / "datasets/build.py")
    build = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(build)
    assert build.main(["--data-dir", str(whole), "--out", str(tmp_path)]) == 0
    for name in ("mnist10k", "quickdraw5k", "fashion2k"):
        ours, again = np.load(data.BUILT_IN / f"{name}.npz"), np.load(tmp_path / f"{name}.npz")
        assert ours.files == again.files
        for key in ours.files:
            assert ours[key].dtype == again[key].dtype and ours[key].tobytes() == again[key].tobytes(), (
                name,
                key,
            )
    mosaics = [data.read_picture(folder / "butterflies1k.jpg", None) for folder in (data.BUILT_IN, tmp_path)]
    difference = mosaics[0] - mosaics[1].astype(float)
    assert np.mean(difference**2) < 1  # other versions of libjpeg may round otherwise


# ----------------------------------------------------------------------------------------------------------
# Whole sets


def test_whole_mnist_and_fashion(whole):
    mnist, fashion = data.load("mnist", whole), data.load("fashion", whole, valid_fraction=0)
    assert [len(mnist.split(s).y) for s in data.SPLITS] == [54000, 6000, 10000]
    assert [len(fashion.split(s).y) for s in data.SPLITS] == [60000, 0, 10000]
    assert mnist.test.y[:5].tolist() == [7, 2, 1, 0, 4]
    assert [fashion.classes[y] for y in fashion.test.y[:3]] == ["Ankle boot", "Pullover", "Trouser"]
    small = data.load("mnist10k", valid_fraction=0)
    assert rows(small.test.x) <= rows(mnist.test.x) and len(rows(small.test.x)) == 2000
    first = data.load("fashion2k", valid_fraction=0)
    assert torch.equal(first.train.x, fashion.train.x[:1000]) and torch.equal(
        first.test.y, fashion.test.y[:1000]
    )


def test_quickdraw_of_1000_is_quickdraw5k(whole):
    dataset, small = data.load("quickdraw", whole, per_class=1000), data.load("quickdraw5k")
    for split, part in (("train", slice(0, 800)), ("valid", slice(800, 900)), ("test", slice(900, 1000))):
        published = [np.load(whole / "quickdraw" / f"{name}.npy")[part] for name in small.classes]
        expected = torch.from_numpy(np.concatenate(published)).view(-1, 1, 28, 28)
        for x, y in (dataset.split(split), small.split(split)):
            assert torch.equal(x, expected)
            assert torch.equal(y, torch.arange(5).repeat_interleave(len(expected) // 5))


def drawings(folder, **counts):
    (folder / "quickdraw").mkdir(exist_ok=True)
    for i, (name, n) in enumerate(counts.items()):
        np.save(folder / "quickdraw" / f"{name}.npy", numbered(n, start=i * 100_000).reshape(n, 784))
    return folder


@pytest.mark.parametrize("n", [999, 1000, 1500, 2950, 5000])
def test_what_tests_quickdraw5k_never_trains_in_more_drawings(tmp_path, n):
    drawings(tmp_path, cat=5000)
    dataset = data.load("quickdraw", tmp_path, classes="cat", per_class=n)
    places = {s: {int.from_bytes(row[:4], "big") for row in rows(dataset.split(s).x)} for s in data.SPLITS}
    assert set.union(*places.values()) == set(range(n)) and sum(map(len, places.values())) == n
    assert not places["train"] & set(range(900, 1000)) and not places["train"] & places["test"]
    if n % 1000 == 0:
        assert [len(places[s]) for s in data.SPLITS] == [n * 8 // 10, n // 10, n // 10]
        assert {900, n - 1} <= places["test"] and n - 200 in places["valid"]


def test_quickdraw_with_few_drawings_divides_what_there_is(tmp_path):
    drawings(tmp_path, cat=50, dog=30, cow=200)
    dataset = data.load("quickdraw", tmp_path, classes=["dog", "cat", "cow"], per_class=100)
    assert dataset.classes == ["dog", "cat", "cow"]
    assert [dataset.split(s).y.bincount().tolist() for s in data.SPLITS] == [
        [24, 40, 80],
        [3, 5, 10],
        [3, 5, 10],
    ]


def test_quickdraw_mistakes(tmp_path):
    drawings(tmp_path, cat=50)
    np.save(tmp_path / "quickdraw/square.npy", numbered(5))
    (tmp_path / "quickdraw/cut.npy").write_bytes((tmp_path / "quickdraw/cat.npy").read_bytes()[:9000])
    assert "numpy_bitmap" in mistake("quickdraw", tmp_path, classes="square")
    assert "cut.npy" in mistake("quickdraw", tmp_path, classes="cut")
    assert "nothing to train" in mistake(tmp_path / "quickdraw/square.npy", valid_fraction=0.95)
    assert "cat, cat" in mistake("quickdraw", tmp_path, classes=" cat,cat ")
    assert data.load("quickdraw", tmp_path, classes=" cat ").classes == ["cat"]
    assert "quickdraw" in mistake("mnist10k", classes="3,5")
    assert "--per-class" in mistake("mnist10k", per_class=5000)


@pytest.fixture
def digits(monkeypatch):
    """A tiny MNIST in place of the real: {file name: raw IDX bytes}, whose MD5s data.py now expects."""

    def idx(array):
        return bytes([0, 0, 8, array.ndim]) + np.array(array.shape, ">i4").tobytes() + array.tobytes()

    y = np.arange(100, dtype=np.uint8) % 10
    arrays = {"train": (numbered(100), y), "t10k": (numbered(50, start=500), y[:50])}
    files = {}
    for part, (x, y) in arrays.items():
        files[f"{part}-images-idx3-ubyte"], files[f"{part}-labels-idx1-ubyte"] = idx(x), idx(y)
        pair = [hashlib.md5(idx(array)).hexdigest() for array in (x, y)]
        monkeypatch.setitem(data.IDX_MD5, f"mnist/{part}", tuple(pair))
    return files


def put(folder, files):
    folder.mkdir(parents=True, exist_ok=True)
    for name, body in files.items():
        (folder / name).write_bytes(body)


@pytest.mark.parametrize("place", ["mnist", "."])
@pytest.mark.parametrize("zipped", [True, False])
def test_idx_gzipped_or_raw_in_its_folder_or_directly(digits, tmp_path, place, zipped):
    files = {f"{n}.gz": gzip.compress(body) for n, body in digits.items()} if zipped else digits
    put(tmp_path / place, files)
    dataset = data.load("mnist", tmp_path, valid_fraction=0)
    assert np.array_equal(dataset.train.x[:, 0], numbered(100)) and dataset.train.y[:12].tolist() == [
        *range(10),
        0,
        1,
    ]
    assert np.array_equal(dataset.test.x[:, 0], numbered(50, start=500))


def test_the_environment_names_the_folder(digits, tmp_path, monkeypatch):
    put(tmp_path / "mnist", digits)
    monkeypatch.setenv("DGM_DATA_DIR", str(tmp_path))
    assert len(data.load("mnist").test.y) == 50


def test_damaged_idx_files_are_named(digits, tmp_path):
    zipped = {f"{n}.gz": gzip.compress(body) for n, body in digits.items()}
    name = "t10k-images-idx3-ubyte.gz"
    for body, expected in [
        (zipped[name][:-20], "truncated or damaged gzip"),
        (gzip.compress(digits[name[:-3]] + b"x"), "MD5"),
        (b"\x00\x00\x09\x03 no magic", "MD5"),
        (b"", "MD5"),
    ]:
        put(tmp_path / "mnist", zipped | {name: body})
        message = mistake("mnist", tmp_path)
        assert expected in message and str(tmp_path / "mnist" / name) in message and "delete it" in message


# ----------------------------------------------------------------------------------------------------------
# Downloads, from a server of our own


@pytest.fixture
def server(monkeypatch):
    """Serves .answers {path: (status, headers, body, bytes really sent)} at .url; .asked lists requests."""
    monkeypatch.setenv("no_proxy", "127.0.0.1")

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            server.asked.append((self.path, self.headers["User-Agent"]))
            status, headers, body, limit = server.answers.get(self.path, (404, {}, b"gone", None))
            self.send_response(status)
            for key, value in ({"Content-Length": len(body)} | headers).items():
                self.send_header(key, value)
            self.end_headers()
            self.wfile.write(body[:limit])

        def log_message(self, *args):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.answers, server.asked, server.url = {}, [], f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    mirrors = {"mnist": [f"{server.url}/a/", f"{server.url}/b/"], "quickdraw": [f"{server.url}/q/"]}
    monkeypatch.setattr(data, "MIRRORS", mirrors)
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


def left_in(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def test_download_goes_to_the_second_mirror_once(digits, server, tmp_path, capsys):
    for name, body in digits.items():
        server.answers[f"/b/{name}.gz"] = (200, {}, gzip.compress(body), None)
    assert len(data.load("mnist", tmp_path).test.y) == 50
    assert left_in(tmp_path) == sorted(f"mnist/{name}.gz" for name in digits)
    assert len(server.asked) == 8 and all("data.py" in agent for _, agent in server.asked)
    assert len(data.load("mnist", tmp_path).test.y) == 50 and len(server.asked) == 8
    assert [line.split()[:2] for line in capsys.readouterr().err.splitlines()] == [
        ["note:", "downloading"]
    ] * 4


HTML = b"\n<!DOCTYPE html><html>not today</html>"


@pytest.mark.parametrize(
    "answer, expected",
    [
        (lambda body: (200, {}, HTML, None), "sent an HTML page"),
        (lambda body: (200, {}, body, 1024), "1024 bytes read, {n} more expected"),
        (lambda body: (200, {}, gzip.compress(b"other"), None), "MD5"),
        (lambda body: (200, {}, body[:-30], None), "truncated or damaged gzip"),
        (lambda body: (503, {}, b"busy", None), "503"),
    ],
)
def test_bad_answers_are_named_and_leave_nothing(digits, server, tmp_path, answer, expected):
    digits["train-images-idx3-ubyte"] = noise(50_000).tobytes()
    body = gzip.compress(digits["train-images-idx3-ubyte"])
    server.answers["/a/train-images-idx3-ubyte.gz"] = answer(body)
    message = mistake("mnist", tmp_path)
    assert expected.format(n=len(body) - 1024) in message and "404" in message  # what each mirror did
    assert str(tmp_path / "mnist/train-images-idx3-ubyte.gz") in message and f"{server.url}/b/" in message
    assert left_in(tmp_path) == []


def test_without_any_server_one_line_says_what_to_put_where(tmp_path, monkeypatch):
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setattr(data, "MIRRORS", {"mnist": ["http://127.0.0.1:9/x/", "http://127.0.0.1:9/y/"]})
    message = mistake("mnist", tmp_path)
    assert message.count("refused") == 2 and str(tmp_path / "mnist/train-images-idx3-ubyte.gz") in message
    assert left_in(tmp_path) == []


def test_quickdraw_downloads(server, tmp_path):
    np.save(tmp_path / "x.npy", numbered(20).reshape(20, 784))
    body = (tmp_path / "x.npy").read_bytes()
    server.answers = {
        "/q/hot%20dog.npy": (200, {}, body, None),
        "/q/cat.npy": (200, {}, body, len(body) - 1),
        "/q/cow.npy": (200, {}, body[:-1], None),
        "/q/dog.npy": (200, {}, HTML, None),
    }
    dataset = data.load("quickdraw", tmp_path / "d", classes="hot dog", per_class=10)
    assert dataset.classes == ["hot dog"] and len(dataset.train.y) == 8
    for name, expected in {
        "cat": "1 more expected",
        "cow": ".npy",
        "dog": "HTML page",
        "emu": "404",
    }.items():
        message = mistake("quickdraw", tmp_path / "d", classes=["hot dog", name])
        assert expected in message and str(tmp_path / "d/quickdraw" / f"{name}.npy") in message
    assert left_in(tmp_path / "d") == ["quickdraw/hot dog.npy"]


# ----------------------------------------------------------------------------------------------------------
# Arrays


@pytest.mark.parametrize(
    "shape, expected",
    [
        ((20, 784), (1, 28, 28)),
        ((20, 12, 10), (1, 12, 10)),
        ((20, 12, 10, 3), (3, 12, 10)),
        ((20, 12, 10, 1), (1, 12, 10)),
        ((20, 3, 12, 10), (3, 12, 10)),
    ],
)
def test_layouts_of_npy(tmp_path, shape, expected):
    x = noise(*shape)
    np.save(tmp_path / "toys.npy", x)
    dataset = data.load(tmp_path / "toys.npy")
    assert dataset.image_shape == expected and dataset.classes == ["toys"]
    assert [len(dataset.split(s).y) for s in data.SPLITS] == [16, 2, 2]
    channels_first = x.transpose(0, 3, 1, 2) if shape[-1] in (1, 3) else x
    assert rows(channels_first) == set.union(*(rows(dataset.split(s).x) for s in data.SPLITS))


def test_values_are_scaled_or_taken(tmp_path):
    for array, expected in [
        (np.array([0, 0.5, 0.501, 1]), [0, 128, 128, 255]),
        (np.array([0, 0.25, 0.5, 1], np.float16), [0, 64, 128, 255]),
        (np.array([0, 1, 254, 255], np.int64), [0, 1, 254, 255]),
        (np.array([False, True, True, False]), [0, 255, 255, 0]),
    ]:
        np.save(tmp_path / "x.npy", np.broadcast_to(array, (5, 4)))
        assert data.load(tmp_path / "x.npy").train.x[0].flatten().tolist() == expected


@pytest.mark.parametrize(
    "array, expected",
    [
        (np.full((3, 4), 1.5), "from 1.5 to 1.5"),
        (np.full((3, 4), -1.0), "from -1 to -1"),
        (np.full((3, 4), np.nan), "nan"),
        (np.full((3, 4), 256), "from 256 to 256"),
        (np.full((3, 4), -1), "from -1 to -1"),
        (np.full((3, 4), "a"), "<U1"),
        (np.zeros((0, 28, 28), np.uint8), "[0, 28, 28]"),
        (np.zeros((5, 10), np.uint8), "[5, 10]"),
        (np.zeros((2, 8, 8, 4), np.uint8), "[2, 8, 8, 4]"),
        (np.zeros(5, np.uint8), "[5]"),
        (np.array([{}], dtype=object), "plain arrays"),
    ],
)
def test_arrays_that_are_no_pictures(tmp_path, array, expected):
    np.save(tmp_path / "x.npy", array)
    message = mistake(tmp_path / "x.npy")
    assert expected in message and "x.npy" in message


def test_broken_files(tmp_path):
    np.save(tmp_path / "x.npy", numbered(9))
    np.savez_compressed(tmp_path / "x.npz", x=numbered(9))
    for name in ("x.npy", "x.npz"):
        body = (tmp_path / name).read_bytes()
        unclosed = body.replace(b"}", b"(")  # numpy's parser of headers has its own kinds of error
        for broken in (b"", b"plain words", body[:-40], body[:20], body[: len(body) // 2], unclosed):
            (tmp_path / name).write_bytes(broken)
            assert name in mistake(tmp_path / name) and "replace it" in mistake(tmp_path / name)


def npz(folder, **arrays):
    np.savez(folder / "set.npz", **arrays)
    return folder / "set.npz"


def test_npz_with_splits_names_and_string_labels(tmp_path):
    path = npz(
        tmp_path, x_train=numbered(6), y_train=list("bcbcaa"), x_test=numbered(2, 9), y_test=["c", "a"]
    )
    dataset = data.load(path, valid_fraction=0)
    assert dataset.classes == ["a", "b", "c"] and dataset.train.y.tolist() == [1, 2, 1, 2, 0, 0]
    assert dataset.test.y.tolist() == [2, 0] and len(dataset.train.y) == 6
    path = npz(tmp_path, images=numbered(6), labels=[30, 10, 10, 30, 20, 20])
    dataset = data.load(path, valid_fraction=0)
    assert dataset.classes == ["10", "20", "30"] and len(dataset.train.y) + len(dataset.test.y) == 6
    path = npz(tmp_path, x=numbered(20), y=[1, 0] * 10, classes=["cold", "hot", "never seen"])
    dataset = data.load(path)
    assert dataset.classes == ["cold", "hot", "never seen"]
    first = torch.from_numpy(numbered(1)[None])  # the first picture is labeled 1, wherever it went
    for x, y in (dataset.train, dataset.valid, dataset.test):
        assert all(label == 1 for picture, label in zip(x, y, strict=True) if torch.equal(picture, first[0]))
    path = npz(tmp_path, x=numbered(3), y=["hot", "cold", "hot"], classes=["hot", "cold"])
    assert data.load(path, valid_fraction=0).train.y.tolist() == [0, 1, 0]
    dataset = data.load(npz(tmp_path, x_train=numbered(4), x_test=numbered(3)))
    assert dataset.classes == ["set"] and dataset.test.y.tolist() == [0, 0, 0]


@pytest.mark.parametrize(
    "arrays, expected",
    [
        (dict(pictures=numbered(3)), "pictures"),
        (dict(x=numbered(3), y=[0, 1]), "not of shape [3]: give a label to each"),
        (dict(x=numbered(3), y=[[0], [1], [1]]), "not of shape [3]"),
        (dict(x=numbered(3), y=[0, -1, 1]), "below 0"),
        (dict(x=numbered(3), y=[0.0, 1.0, 1.0]), "float64"),
        (dict(x=numbered(3), y=[0, 1, 7], classes=["a", "b"]), "class 7 is not one of those named"),
        (dict(x=numbered(3), y=[0, 1, 1], classes=np.array([b"a", b"b"])), "holds |S1: give strings"),
        (dict(x=numbered(3), y=["a", "b", "q"], classes=["a", "b"]), "class q"),
        (dict(x_train=numbered(3), y_train=[0, 1, 1], x_test=numbered(1), y_test=[2]), "class 2 is not one"),
        (dict(x_train=numbered(3), y_train=[0, 1, 1], x_test=numbered(1)), "y_test"),
        (dict(x_train=numbered(3), x_test=numbered(2)[:, :14, :14]), "(1, 14, 14)"),
        (dict(x=np.array([{}], dtype=object)), "plain arrays"),
    ],
)
def test_npz_mistakes(tmp_path, arrays, expected):
    message = mistake(npz(tmp_path, **arrays))
    assert expected in message and "set.npz" in message


def test_a_zip_of_pictures_is_refused_without_a_list_of_all(tmp_path):
    with zipfile.ZipFile(tmp_path / "photographs.zip", "w") as archive:
        for i in range(1000):
            archive.writestr(f"cat/{i}.png", b"x")
    message = mistake(tmp_path / "photographs.zip")
    assert "holds cat/0.png, " in message and message.endswith(", ...: it needs x_train")
    assert len(message) < 300


def test_resizing_is_antialiased(tmp_path):
    # one-pixel squares, gray from afar; three to one, so that each third pixel alone is black or white
    board = (np.indices((63, 63)).sum(0) % 2 * 255).astype(np.uint8)
    np.save(tmp_path / "x.npy", np.stack([board] * 3))
    save(tmp_path / "folder", "x.png", board)
    for path in (tmp_path / "x.npy", tmp_path / "folder"):
        x = data.load(path, image_size=21).train.x[:, :, 1:-1, 1:-1].float()
        assert (x - 127.5).abs().max() < 3


def test_image_size_crops_the_center_and_fits_built_in_sets(tmp_path):
    x = np.zeros((3, 8, 16), np.uint8)
    x[:, :, 4:12] = 200
    np.save(tmp_path / "x.npy", x)
    assert data.load(tmp_path / "x.npy", image_size=4).train.x.unique().tolist() == [200]
    assert torch.equal(data.load("fashion2k", image_size=28).test.x, data.load("fashion2k").test.x)
    dataset = data.load("fashion2k", image_size=14)
    assert dataset.image_shape == (1, 14, 14) and dataset.train.x.dtype == torch.uint8
    mean = data.load("fashion2k").test.x.float().mean()
    assert (dataset.test.x.float().mean() - mean).abs() < 1


# ----------------------------------------------------------------------------------------------------------
# Image folders


def only(path, **options):
    """The one picture of a folder, uint8 [C, H, W]."""
    return data.load(path, valid_fraction=0, **options).train.x[0].numpy()


def test_gray_pictures_have_one_channel_and_any_color_makes_three(tmp_path):
    gray, color = noise(8, 8), noise(8, 8, 3)
    save(tmp_path / "a", "1.png", gray)
    save(tmp_path / "a", "2.PNG", np.stack([gray] * 3, -1))
    dataset = data.load(tmp_path / "a", valid_fraction=0)
    assert dataset.image_shape == (1, 8, 8) and dataset.classes == ["a"]
    assert all(np.array_equal(x[0], gray) for x in dataset.train.x)
    color[..., 1] = color[..., 0]  # the blue alone makes it color
    save(tmp_path / "a", "3.bmp", color)
    x = data.load(tmp_path / "a", valid_fraction=0).train.x
    assert x.shape == (3, 3, 8, 8) and np.array_equal(x[2], color.transpose(2, 0, 1))
    assert np.array_equal(x[0], np.stack([gray] * 3))


@pytest.mark.parametrize("name", ["x.png", "x.tif"])
def test_16_bits_are_scaled_not_clipped(tmp_path, name):
    deep = noise(8, 8, dtype=np.uint16)
    deep[0, :4] = [0, 255, 256, 65535]
    save(tmp_path, name, deep)
    assert np.array_equal(only(tmp_path)[0], np.round(deep / 65535 * 255))


def test_rgba_is_laid_on_white(tmp_path):
    rgba = noise(8, 8, 4)
    save(tmp_path, "x.png", rgba)
    alpha = rgba[..., 3:] / 255
    expected = rgba[..., :3] * alpha + 255 * (1 - alpha)
    assert np.abs(only(tmp_path).transpose(1, 2, 0) - expected).max() <= 1


def test_palettes_also_transparent_ones(tmp_path):
    index, palette = noise(8, 8) % 4, noise(4, 3)
    picture = Image.fromarray(index, mode="P")
    picture.putpalette(palette.tobytes())
    picture.save(tmp_path / "x.png")
    assert np.array_equal(only(tmp_path).transpose(1, 2, 0), palette[index])
    picture.save(tmp_path / "x.png", transparency=2)
    palette[2] = 255
    assert np.array_equal(only(tmp_path).transpose(1, 2, 0), palette[index])


def test_cmyk_exif_and_animations(tmp_path):
    Image.new("CMYK", (8, 8), (0, 255, 255, 0)).save(tmp_path / "x.jpg")
    assert np.abs(only(tmp_path)[:, 4, 4].astype(int) - [255, 0, 0]).max() < 8
    (tmp_path / "x.jpg").unlink()
    exif, x = Image.Exif(), noise(6, 8)
    exif[0x0112] = 6  # the camera was turned: show it a quarter turn clockwise
    save(tmp_path, "x.png", x, exif=exif)
    assert np.array_equal(only(tmp_path)[0], np.rot90(x, -1))
    (tmp_path / "x.png").unlink()
    frames = [Image.new("L", (8, 8), value) for value in (10, 200)]
    frames[0].save(tmp_path / "x.gif", save_all=True, append_images=frames[1:])
    assert np.unique(only(tmp_path)).tolist() == [10]


def test_folder_layouts(tmp_path):
    for split, n in (("train", 20), ("valid", 3), ("test", 4)):
        for name in ("ant", "bee"):
            for i in range(n):
                save(tmp_path / "own" / split / name, f"{i}.png", noise(4, 4, seed=i))
    dataset = data.load(tmp_path / "own")
    assert dataset.classes == ["ant", "bee"]
    assert [dataset.split(s).y.bincount().tolist() for s in data.SPLITS] == [[20, 20], [3, 3], [4, 4]]
    dataset = data.load(tmp_path / "own/train")
    assert [dataset.split(s).y.bincount().tolist() for s in data.SPLITS] == [[16, 16], [2, 2], [2, 2]]
    again = data.load(tmp_path / "own/train")
    assert all(torch.equal(dataset.split(s).x, again.split(s).x) for s in data.SPLITS)
    dataset = data.load(tmp_path / "own/train/ant")
    assert dataset.classes == ["ant"] and len(dataset.test.y) == 2
    # a class may be missing from test; hidden and other files are ignored; an unknown class is a mistake
    save(tmp_path / "own/train/cat", "1.png", noise(4, 4))
    save(tmp_path / "own/train/.hidden", "1.png", noise(4, 4))
    save(tmp_path / "own/train/ant", "._1.png", noise(5, 5))
    (tmp_path / "own/train/ant/Thumbs.db").write_bytes(b"x")
    dataset = data.load(tmp_path / "own")
    assert dataset.classes == ["ant", "bee", "cat"] and len(dataset.train.y) == 41
    save(tmp_path / "own/test/yak", "1.png", noise(4, 4))
    assert "yak" in mistake(tmp_path / "own")


def test_pictures_of_several_sizes_need_an_image_size(tmp_path, monkeypatch):
    save(tmp_path, "1.png", noise(8, 8))
    save(tmp_path, "2.png", noise(9, 8))
    save(tmp_path, "3.png", noise(8, 8))
    with monkeypatch.context() as patch:  # before the others take the memory
        read = data.read_picture
        patch.setattr(data, "read_picture", lambda path, size: path.name != "3.png" and read(path, size))
        assert "(8, 8) and (9, 8): give --image-size" in mistake(tmp_path)
    assert data.load(tmp_path, image_size=4).image_shape == (1, 4, 4)


def test_broken_pictures_are_skipped_with_one_note(tmp_path, capsys, monkeypatch):
    for i in range(4):
        save(tmp_path, f"{i}.png", noise(40, 40, seed=i))
    (tmp_path / "1.png").write_bytes((tmp_path / "1.png").read_bytes()[:300])
    (tmp_path / "2.png").write_bytes(b"not a picture")
    save(tmp_path, "bomb.png", noise(90, 90))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 2000)
    dataset = data.load(tmp_path, valid_fraction=0)
    lines = capsys.readouterr().err.splitlines()
    assert len(dataset.train.y) == 2 and len(lines) == 1
    assert "3 files are left out" in lines[0] and "1.png" in lines[0]
    for i in (0, 3):
        (tmp_path / f"{i}.png").unlink()
    assert "no readable picture" in mistake(tmp_path)


def test_empty_folder_and_wrong_names(tmp_path):
    assert "no readable picture" in mistake(tmp_path)
    save(tmp_path / "test", "1.png", noise(4, 4))
    (tmp_path / "train").mkdir()
    (tmp_path / "train" / "1.heic").write_bytes(b"x")
    assert "no readable picture" in mistake(tmp_path)  # rather than one class, test
    message = mistake(tmp_path / "nowhere")
    assert "nowhere" in message and all(name in message for name in data.DATASETS)
    assert "did you mean quickdraw5k?" in mistake("quickdrw5k")


def test_a_folder_of_photographs(whole):
    folder = whole / "butterflies/valid"
    dataset = data.load(folder, image_size=64)
    assert dataset.image_shape == (3, 64, 64) and len(dataset.classes) == 100
    assert sum(len(dataset.split(s).y) for s in data.SPLITS) == 500


# ----------------------------------------------------------------------------------------------------------
# Butterflies


def test_butterflies_are_ten_species_in_80_10_10():
    dataset = data.load("butterflies1k")
    assert dataset.image_shape == (3, 64, 64) and len(dataset.classes) == 10
    counts = [dataset.split(split).y.bincount().tolist() for split in data.SPLITS]
    assert counts == [[80] * 10, [10] * 10, [10] * 10]
    x = torch.cat([dataset.split(split).x for split in data.SPLITS])
    assert x.dtype == torch.uint8 and len(rows(x)) == 1000  # no picture twice
    assert x.float().std(0).min() > 20  # no pixel is alike in all


def test_the_place_of_a_butterfly_gives_its_species_and_split(tmp_path):
    tiles = np.zeros((20, 50, 3), np.uint8)
    tiles[:, :, 0] = np.arange(20)[:, None]
    tiles[:, :, 1] = np.arange(50)
    path = save(tmp_path, "mosaic.png", tiles.repeat(64, 0).repeat(64, 1))
    x, labels, splits, classes = data.read_butterflies(path)
    assert x.shape == (1000, 3, 64, 64)
    assert np.array_equal(x.min((2, 3)), x.max((2, 3)))  # no tile has pixels of another
    row, column, _ = x[:, :, 0, 0].T.astype(int)
    assert sorted(zip(row, column, strict=True)) == [(r, c) for r in range(20) for c in range(50)]
    assert np.array_equal(labels, row // 2) and classes[0] == "monarch" and classes[9] == "cinnabar moth"
    assert np.array_equal(splits, np.where(column < 40, "train", np.where(column < 45, "valid", "test")))


def test_the_color_of_a_butterfly_tells_its_species():
    def histograms(x):
        bins = (x[:, :, 8:56, 8:56].long() // 64).mul(torch.tensor([16, 4, 1]).view(3, 1, 1)).sum(1)
        return torch.stack([picture.bincount(minlength=64) for picture in bins.flatten(1)]).float().sqrt()

    dataset = data.load("butterflies1k")
    nearest = torch.cdist(histograms(dataset.test.x), histograms(dataset.train.x)).argmin(1)
    assert (dataset.train.y[nearest] == dataset.test.y).float().mean() > 0.65  # by chance 0.1


def test_butterflies_are_the_published_photographs(whole):
    train = data.load("butterflies1k").train
    for label, folder in enumerate(["MONARCH", "PEACOCK", "ULYSES", "LUNA MOTH", "ROSY MAPLE MOTH"]):
        published = data.read_picture(whole / "butterflies/train" / folder / "001.jpg", 64)
        error = train.x[train.y == label][0].permute(1, 2, 0).numpy() - published.astype(float)
        assert 10 * math.log10(255**2 / np.mean(error**2)) > 36  # dB


def test_a_damaged_mosaic_of_butterflies_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(data, "BUILT_IN", tmp_path)
    assert "butterflies1k.jpg" in mistake("butterflies1k")
    body = (ROOT / "datasets/butterflies1k.jpg").read_bytes()
    (tmp_path / "butterflies1k.jpg").write_bytes(body[:100_000])
    assert "replace it" in mistake("butterflies1k")
    save(tmp_path, "butterflies1k.jpg", noise(64, 128, 3))
    assert "128x64 pixels, not 3200x1280" in mistake("butterflies1k")


def test_the_size_of_butterflies():
    large = data.load("butterflies1k").train.x
    small = data.load("butterflies1k", image_size=32).train.x
    assert small.shape == (800, 3, 32, 32)
    for x, resized in zip(large[::80], small[::80], strict=True):
        expected = Image.fromarray(x.permute(1, 2, 0).numpy()).resize((32, 32), Image.BILINEAR)
        assert np.abs(resized.permute(1, 2, 0).numpy() - np.asarray(expected, int)).max() <= 1


# ----------------------------------------------------------------------------------------------------------
# Arithmetic


@pytest.fixture(scope="module")
def arithmetic():
    return data.load("arithmetic", drawn="query")


def texts(split):
    """{query: answer} of a split, as people would write them."""
    assert split.x.dtype == split.y.dtype == torch.int64 and split.x.shape[1:] == (5,)
    return {
        data.decode_text(x).rstrip(): data.decode_text(y).rstrip()
        for x, y in zip(split.x.tolist(), split.y.tolist(), strict=True)
    }


@pytest.mark.parametrize("keep_twins", [False, True])
def test_every_query_is_there_once_and_answered_as_python_does(keep_twins):
    dataset = data.load("arithmetic", keep_twins=keep_twins)
    train, valid, test = (texts(dataset.split(split)) for split in data.SPLITS)
    every = train | valid | test
    assert set(every) == {f"{i}{sign}{j}" for i in range(100) for j in range(100) for sign in "+-"}
    assert all(int(answer) == eval(query) for query, answer in every.items())
    n = [len(dataset.train.x), len(dataset.valid.x), len(dataset.test.x)]
    assert sum(n) == 20_000 and n == [len(train), len(valid), len(test)]  # none is in two splits
    assert dataset.classes == list(data.ALPHABET) and dataset.image_shape == (5,)
    together = 0
    for i in range(100):
        for j in range(i):
            sides = [f"{i}+{j}" in split for split in (train, valid, test)]
            together += sides == [f"{j}+{i}" in split for split in (train, valid, test)]
    if keep_twins:
        assert together == 4950 and abs(n[2] - 2000) < 160 and abs(n[1] - 1800) < 160
    else:
        assert together < 4000 and n == [16_200, 1800, 2000]


def test_the_split_of_arithmetic_hangs_on_nothing_but_its_flags(arithmetic):
    np.random.seed(7)
    torch.manual_seed(7)
    again = data.load("arithmetic", valid_fraction=0)
    assert torch.equal(again.test.x, arithmetic.test.x) and len(again.train.x) == 18_000
    assert len(again.valid.x) == len(again.valid.y) == 0 and again.valid.batch(slice(None))[0].shape == (
        0,
        5,
    )


def test_text_and_tokens():
    for text, padded in [("12+34", "12+34"), ("7-9", "7-9  "), (" 07 - 9\n", "7-9  "), ("0+0", "0+0  ")]:
        tokens = data.encode_text(text)
        assert tokens.dtype == torch.int64 and tokens.shape == (5,) and data.decode_text(tokens) == padded
    assert data.encode_text("12+34").tolist() == [1, 2, 10, 3, 4]
    assert data.encode_text("5-6").tolist() == [5, 11, 6, 12, 12]
    for text in ("", "12", "1+2+3", "100+1", "-1+2", "1*2", "1 2+3", "1+", "one+two", "٣+٤", "1+2\n3"):
        with pytest.raises(data.Mistake, match="12\\+34") as caught:
            data.encode_text(text)
        assert "\n" not in str(caught.value)


def test_the_drawn_side_is_pictures_and_the_other_tokens(arithmetic):
    index = torch.tensor([5, 17, 300])
    for drawn, shapes in {
        None: ((3, 5), (3, 3)),
        "query": ((3, 5, 1, 28, 28), (3, 3)),
        "answer": ((3, 5), (3, 3, 1, 28, 28)),
    }.items():
        x, y = arithmetic.test._replace(drawn=drawn).batch(index)
        assert (x.shape, y.shape) == shapes
        for side, name, tokens in ((x, "query", arithmetic.test.x), (y, "answer", arithmetic.test.y)):
            if drawn == name:
                assert side.dtype == torch.float32 and side.min() == 0 and 0.9 < side.max() <= 1
            else:
                assert torch.equal(side, tokens[index])
    assert data.load("arithmetic", drawn="answer").train.drawn == "answer"
    moved = arithmetic.test.to("meta")
    assert isinstance(moved, data.Queries) and moved.drawn == "query"
    assert all(part.is_meta for part in (*moved[:2], *moved.glyphs))


def test_draws_are_new_each_time_and_the_same_under_a_seed(arithmetic):
    torch.manual_seed(3)
    first, second = (arithmetic.train.batch(slice(0, 20))[0] for _ in range(2))
    torch.manual_seed(3)
    assert torch.equal(first, arithmetic.train.batch(slice(0, 20))[0]) and not torch.equal(first, second)


@pytest.mark.parametrize("drawn, side", [("query", 0), ("answer", 1)])
def test_digits_drawn_once_stay_the_same_in_every_batch_and_differ_between_queries(drawn, side):
    first, again = (data.load("arithmetic", draw_once=True, drawn=drawn) for _ in range(2))
    for split in data.SPLITS:
        order = torch.randperm(len(first.split(split).x))[:500]
        pictures = first.split(split).batch(order)[side]
        backwards = again.split(split).batch(order.flip(0))[side]
        assert torch.equal(pictures, backwards.flip(0))
        glyphs, symbols = first.split(split).glyphs
        tokens = first.split(split)[side][order]
        for symbol in (3, 11):
            shown = rows((pictures[tokens == symbol] * 255).round().byte())
            assert len(shown) > 20 and shown <= rows(glyphs[symbols == symbol])
    assert torch.equal(first.train.to("cpu").batch(order)[side], first.train.batch(order)[side])
    digest = data.digest(first)
    again.train.pictures[0, 0, 0, 14, 14] += 1
    assert data.digest(again) != digest


def test_each_digit_drawn_is_one_of_its_own_split_and_label(arithmetic):
    digits, drawn = data.load("mnist10k"), {}
    for split in data.SPLITS:
        known = {x.numpy().tobytes(): y for x, y in zip(*map(list, digits.split(split)), strict=True)}
        tokens = arithmetic.split(split).x[torch.randperm(1000)]
        pictures = arithmetic.split(split).draw(tokens).mul(255).round().byte()
        drawn[split] = set()
        for token, picture in zip(tokens.flatten(), pictures.flatten(0, 1), strict=True):
            if token < 10:
                assert known[picture.numpy().tobytes()] == token
                drawn[split].add(picture.numpy().tobytes())
            else:
                assert picture.any() == (token < 12)
        assert len(drawn[split]) > 500
    assert not drawn["train"] & drawn["test"] and not drawn["train"] & drawn["valid"]
    one, seven = arithmetic.test.draw(torch.tensor([1, 7])), arithmetic.test.draw(torch.tensor(7))
    assert one.shape == (2, 1, 28, 28) and seven.shape == (1, 28, 28)


def test_every_glyph_is_drawn_and_none_of_another_symbol(arithmetic):
    glyphs, symbols = arithmetic.test.glyphs
    assert symbols.bincount().tolist() == [*data.load("mnist10k").test.y.bincount().tolist(), 50, 50, 50]
    for symbol in (0, 9, 10, 11, 12):
        pictures = arithmetic.test.draw(torch.full((5000,), symbol))
        assert rows((pictures * 255).round().byte()) == rows(glyphs[symbols == symbol])
    x, y = arithmetic.test.glyphs.batch(slice(None))  # an ordinary split, to train a reader on
    assert x.shape == (len(y), 1, 28, 28) and y.unique().tolist() == list(range(13))


def test_signs_look_like_signs():
    plus, minus, blank = (data.draw_signs(50)[50 * k :][:50, 0] / 255.0 for k in range(3))
    assert not blank.any() and len(rows(plus)) == len(rows(minus)) == 50
    for sign in (plus, minus):
        assert sign.amax((1, 2)).min() > 0.9 and ((sign > 0) & (sign < 1)).any((1, 2)).all()  # soft edges
        assert not sign[:, [0, -1]].any() and not sign[:, :, [0, -1]].any()
        mass, place = sign.sum((1, 2)), torch.arange(28) - 13.5
        for middle in ((sign.sum(1) * place).sum(1) / mass, (sign.sum(2) * place).sum(1) / mass):
            assert middle.abs().max() < 1.6 and middle.std() > 0.3
    # a line 2 px wide has an area of 2 px for every px of its length; '+' is as high as it is wide
    wide, high = minus.amax(1).sum(1), minus.amax(2).sum(1)
    assert (minus.sum((1, 2)) / wide / 2 - 1).abs().max() < 0.15 and (high < wide / 2).all()
    assert ((plus.sum((1, 2)) + 4) / minus.sum((1, 2)) / 2 - 1).abs().max() < 0.05
    assert (plus.amax(1).sum(1) - plus.amax(2).sum(1)).abs().max() < 1


def test_arithmetic_takes_its_digits_from_mnist_only_where_the_folder_is_named(
    digits, tmp_path, monkeypatch, arithmetic
):
    put(tmp_path / "mnist", digits)
    monkeypatch.setenv("DGM_DATA_DIR", str(tmp_path))
    assert torch.equal(data.load("arithmetic").test.glyphs.x, arithmetic.test.glyphs.x)
    dataset = data.load("arithmetic", tmp_path)
    assert rows(dataset.test.glyphs.x[:50]) == rows(numbered(50, start=500))
    assert len(dataset.train.glyphs.x) == 90 + 150 and len(dataset.valid.glyphs.x) == 10 + 150


def test_arithmetic_mistakes():
    assert "--image-size" in mistake("arithmetic", image_size=28)
    assert "--classes" in mistake("arithmetic", classes="3,5")
    assert "--per-class" in mistake("arithmetic", per_class=5)
    assert "--keep-twins" in mistake("mnist10k", keep_twins=True)
    assert "'queries'" in mistake("arithmetic", drawn="queries")
    assert "--draw-once is for" in mistake("arithmetic", draw_once=True)  # as text
    assert "--draw-once is for" in mistake("mnist10k", draw_once=True, drawn="query")
    assert "--valid-fraction 0.0004 leaves a digit out" in mistake("arithmetic", valid_fraction=0.0004)
    assert "did you mean arithmetic?" in mistake("arithmetics")


def test_a_run_from_before_a_flag_was_there_has_its_default():
    flags = {"data": "arithmetic", "data_dir": None, "valid_fraction": 0.5}
    dataset = data.load_for_run({"flags": flags})
    assert len(dataset.valid.x) == 9000 and dataset.train.drawn is None
    assert data.load_for_run({"flags": flags | {"drawn": "answer"}}).train.drawn == "answer"


# ----------------------------------------------------------------------------------------------------------
# Command lines


@pytest.fixture
def parser():
    parser = data.Parser(prog="train.py", argument_default=argparse.SUPPRESS)
    parser.add_argument("--epochs", type=data.number(int, 1))
    parser.add_argument("--name")
    data.add_flags(parser)
    return parser


def refused(parser, capsys, *argv):
    with pytest.raises(SystemExit) as stop:
        parser.parse_args(list(argv))
    line = capsys.readouterr().err
    assert stop.value.code == 2 and line.startswith("train.py: error: ") and line.count("\n") == 1
    assert line.endswith("(see --help)\n")
    return line


@pytest.mark.parametrize("name", ["image_size", "per_class", "valid_fraction"])
def test_true_is_no_number(name):
    with pytest.raises(data.Mistake, match=f"{name} is True"):
        data.load("quickdraw5k", **{name: True})


def test_the_flags_are_the_arguments_of_load_with_its_defaults():
    parameters = inspect.signature(data.load).parameters
    assert {name: parameter.default for name, parameter in parameters.items()} == data.FLAGS


def test_flags_set_the_arguments_of_load(parser):
    argv = "--data d --data-dir e --image-size 8 --classes a,b --per-class 7 --valid-fraction 0"
    args = vars(parser.parse_args([*argv.split(), "--binarize", "static", "--keep-twins", "--draw-once"]))
    assert args == dict(
        data="d", data_dir="e", image_size=8, classes="a,b", per_class=7, valid_fraction=0.0,
        binarize="static", keep_twins=True, draw_once=True,
    )  # fmt: skip
    assert args.keys() == data.FLAGS.keys() - {"drawn"}  # which the model decides


def test_only_flags_that_are_given_are_returned(parser):
    assert vars(parser.parse_args([])) == {}
    assert vars(parser.parse_args(["--no-keep-twins"])) == {"keep_twins": False}


def test_the_help_describes_the_data_sets(parser):
    assert "quickdraw5k" in parser.format_help()


def test_wrong_flags(parser, capsys):
    assert "did you mean --epochs?" in refused(parser, capsys, "--epoch", "3")
    assert "did you mean --image-size?" in refused(parser, capsys, "--imagesize=3")
    assert "--xyzzy" in refused(parser, capsys, "--xyzzy")
    assert "stray" in refused(parser, capsys, "stray")
    assert "'three' is not a whole number from 1" in refused(parser, capsys, "--epochs", "three")
    assert "--image-size" in refused(parser, capsys, "--image-size", "0")


@pytest.fixture
def recipe(tmp_path):
    """recipe(content) writes a file of flags, text or bytes, and returns the argument that reads it."""
    path = tmp_path / "flags.txt"

    def write(content):
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return f"@{path}"

    return write


def test_a_recipe_has_comments_blank_lines_and_quoted_values(parser, recipe):
    argument = recipe("# a recipe\n\n--epochs 7   # enough\n--name 'two words'\n--valid-fraction=0.2\n")
    args = parser.parse_args([argument])
    assert (args.epochs, args.name, args.valid_fraction) == (7, "two words", 0.2)


@pytest.mark.parametrize(
    "order, epochs", [(["RECIPE", "--epochs", "9"], 9), (["--epochs", "9", "RECIPE"], 7)]
)
def test_the_last_of_equal_flags_wins_wherever_the_recipe_stands(parser, recipe, order, epochs):
    argument = recipe("--epochs 7")
    assert parser.parse_args([argument if arg == "RECIPE" else arg for arg in order]).epochs == epochs


def test_a_recipe_may_begin_with_a_byte_order_mark(parser, recipe):
    assert parser.parse_args([recipe("\ufeff--epochs 7".encode())]).epochs == 7


def test_windows_paths_in_a_recipe_keep_their_backslashes(parser, recipe):
    args = parser.parse_args([recipe('--data C:\\new\\table --data-dir "D:\\my data\\"')])
    assert (args.data, args.data_dir) == ("C:\\new\\table", "D:\\my data\\")


def test_a_recipe_is_utf_8_whatever_the_locale(recipe):
    code = "import data, sys; p = data.Parser(); p.add_argument('--name')\n"
    code += "print(ascii(p.parse_args(sys.argv[1:]).name))"
    ascii_only = os.environ | {"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"}
    command = [sys.executable, "-c", code, recipe("--name café")]
    process = subprocess.run(command, cwd=ROOT, env=ascii_only, capture_output=True, text=True)
    assert process.stdout.strip() == r"'caf\xe9'", process.stderr


@pytest.mark.parametrize(
    "content, phrase",
    [
        ("--name 'no end", "flags.txt: No closing quotation"),
        (b"\xff\xfe\x00", "flags.txt"),
        ("--epoch 3", "did you mean --epochs?"),
    ],
)
def test_wrong_recipes(parser, capsys, recipe, content, phrase):
    assert phrase in refused(parser, capsys, recipe(content))


def test_a_missing_recipe_is_named(parser, capsys, tmp_path):
    assert f"cannot read flags from {tmp_path}/missing.txt" in refused(
        parser, capsys, f"@{tmp_path}/missing.txt"
    )


def test_numbers():
    assert data.number(int, 0)("5") == 5 and data.number(float, 0, 1)("1") == 1.0
    assert data.number(float, 0, above=True)("1e-9") == 1e-9
    for kind, low, high, above, text in [
        (int, 0, 9, False, "10"),
        (int, 0, 9, False, "-1"),
        (int, 0, 9, False, "1.5"),
        (float, 0, 1, True, "0"),
        (float, 0, float("inf"), False, "nan"),
        (float, 0, float("inf"), False, "inf"),
        (float, 0, 1, False, ""),
    ]:
        with pytest.raises(argparse.ArgumentTypeError, match="is not a"):
            data.number(kind, low, high, above)(text)


def test_run_command_turns_errors_into_one_line(capsys, tmp_path):
    def fails(error):
        def function(argv):
            raise error

        return data.run_command("train.py", function, []), capsys.readouterr().err

    assert data.run_command("train.py", lambda argv: None, []) == 0
    assert data.run_command("train.py", lambda argv: len(argv), ["a", "b", "c"]) == 3
    assert fails(SystemExit(2)) == (2, "") and fails(SystemExit(None)) == (0, "")
    assert fails(data.Mistake("no such\nthing")) == (1, "train.py: error: no such thing\n")
    assert fails(FileNotFoundError(2, "No such file", "x.pt")) == (
        1,
        "train.py: error: No such file: x.pt\n",
    )
    assert fails(OSError("disk is full")) == (1, "train.py: error: disk is full\n")

    class Usage(data.Mistake):
        status = 2

    assert fails(Usage("no")) == (2, "train.py: error: no\n")

    class Other(Exception):
        status = 1

    def fails_otherwise(argv):
        raise Other("no")

    assert data.run_command("p", fails_otherwise, [], Other) == 1
    assert capsys.readouterr().err == "p: error: no\n"
    with pytest.raises(ZeroDivisionError):  # defects keep their traceback
        data.run_command("train.py", lambda argv: 1 / 0, [])


def test_a_closed_pipe_is_quiet():
    code = """
import data, sys

def talk(argv):
    for i in range(100_000):
        print("line", i)

sys.exit(data.run_command("p", talk, []))
"""
    command = [sys.executable, "-c", code]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        process.stdout.readline()
        process.stdout.close()
        assert process.stderr.read() == b"" and process.wait() == 1


def test_write_file_is_all_or_nothing(tmp_path):
    path = tmp_path / "x.bin"
    data.write_file(path, lambda file: file.write(b"old"))

    def breaks(file):
        file.write(b"half")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        data.write_file(path, breaks)
    assert path.read_bytes() == b"old" and left_in(tmp_path) == ["x.bin"]
    data.write_file(str(path), lambda file: file.write(b"new"))
    assert path.read_bytes() == b"new" and left_in(tmp_path) == ["x.bin"]
    assert path.stat().st_mode & 0o777 == 0o666 & ~umask()


def test_a_device_or_pipe_is_not_replaced(tmp_path):
    os.mkfifo(tmp_path / "x.bin")
    with pytest.raises(data.Mistake, match="name a file"):
        data.write_file(tmp_path / "x.bin", lambda file: file.write(b"new"))


@pytest.mark.parametrize("names, phrase", [
    ("x_train y_train", None),
    ("x_train y_train X_test Y_test", "not read: X_test, Y_test; read: x_train, y_train"),
    ("x x_dev", "not read: x_dev; read: x_train"),
    ("x labels_train", "not read: labels_train"),
    ("x_train y_train y_test", "not read: y_test"),
    ("x classes", "not read: classes"),
])  # fmt: skip
def test_what_is_not_read_of_an_npz_is_said(names, phrase, tmp_path, capsys):
    images = noise(10, 5, 5)
    labels = np.arange(10) % 2
    arrays = {name: images if name[0] in "xX" else labels for name in names.split()}
    np.savez(tmp_path / "set.npz", **arrays)
    data.load(tmp_path / "set.npz")
    notes = capsys.readouterr().err.splitlines()
    assert len(notes) == (phrase is not None) and (phrase is None or phrase in notes[0])


def test_one_color_picture_in_place_of_many_gray_ones_is_noted(tmp_path, capsys):
    np.save(tmp_path / "x.npy", noise(64, 64, 3))
    data.load(tmp_path / "x.npy")
    assert "is read as 64 gray pictures" in capsys.readouterr().err


def umask():
    mask = os.umask(0)
    os.umask(mask)
    return mask


def test_only_a_want_of_memory_is_told_as_one(capsys):
    def fails(message):
        def function(_):
            raise RuntimeError(message)

        return function

    for message in ("DefaultCPUAllocator: not enough memory: you tried to", "CUDA out of memory. Tried"):
        assert data.run_command("x.py", fails(message), []) == 1
        assert "out of memory" in capsys.readouterr().err
    with pytest.raises(RuntimeError, match="memory format"):  # a bug of ours keeps its traceback
        data.run_command("x.py", fails("unsupported memory format option"), [])


# ----------------------------------------------------------------------------------------------------------
# Doors: what is not right is refused in one line or left out with a note, and nothing is lost


FOLDERS = {  # files: the classes that are read, the number of train, valid and test pictures, the note
    "a class called train": (["a/1", "a/2", "train/1", "b/1"], ["a", "b", "train"], (4, 0, 0), None),
    "validation": (["train/a/1", "train/a/2", "validation/a/1"], ["a"], (2, 1, 0), None),
    "capitals": (["Train/a/1", "Train/a/2", "Testing/a/1"], ["a"], (2, 0, 1), None),
    "val": (["train/a/1", "val/a/1", "test/a/1"], ["a"], (1, 1, 1), None),
    "splits without classes": (["train/1", "train/2", "test/1"], None, (2, 0, 1), None),
    "beside splits without classes": (["train/1", "test/1", "masks/1"], None, (1, 0, 1), "masks"),
    "annotations of a split": (["train/1", "boxes/1.json"], None, (1, 0, 0), "boxes"),
    "a picture beside the classes of a split": (
        ["train/1", "train/a/1", "train/a/2", "test/a/1", "boxes/1.json"], ["a"], (2, 0, 1), "2 files"),
    "deeper": (["a/1", "a/deep/1", "a/deep/2", "b/1"], ["a", "b"], (2, 0, 0), "2 files are left out"),
    "beside classes": (["a/1", "b/1", "1"], ["a", "b"], (2, 0, 0), "or not in a class folder"),
    "beside splits": (["train/a/1", "extra/a/1"], ["a"], (1, 0, 0), "or not in a class folder"),
    "other formats": (["a/1", "a/2.pgm", "a/3.PPM"], ["a"], (3, 0, 0), None),
    "no pictures": (["a/1", "a/notes.txt"], ["a"], (1, 0, 0), "not a picture (.png, .jpg"),
}  # fmt: skip


@pytest.mark.parametrize("layout", FOLDERS)
def test_folders_are_read_without_guessing(layout, tmp_path, capsys):
    files, classes, sizes, phrase = FOLDERS[layout]
    for i, file in enumerate(files):
        path = tmp_path / (file if "." in file else f"{file}.png")
        path.parent.mkdir(parents=True, exist_ok=True)
        format = {".pgm": "ppm", ".ppm": "ppm"}.get(path.suffix.lower(), "png")
        Image.fromarray(noise(4, 4, seed=i)).save(path, format)
    pictures = data.read_folder(tmp_path, None)
    assert tuple((pictures.splits == split).sum() for split in data.SPLITS) == sizes
    assert np.unique(pictures.labels).tolist() == (classes or [tmp_path.name])
    notes = capsys.readouterr().err.splitlines()
    assert len(notes) == (phrase is not None) and (phrase is None or phrase in notes[0])


def plant(name, path):
    """Make something at `path` that has a picture's name and must not be read."""
    if name == "pipe":
        os.mkfifo(path)
    elif name == "device":
        path.symlink_to("/dev/zero")
    elif name == "EPS":
        path.write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\nshowpage\n")
    elif name == "too large":  # a PNG's declared size
        chunk = b"IHDR" + (13_400).to_bytes(4, "big") * 2 + b"\x08\x00\x00\x00\x00"
        body = b"\x89PNG\r\n\x1a\n\x00\x00\x00\x0d" + chunk + zlib.crc32(chunk).to_bytes(4, "big")
        path.write_bytes(body + b"\x00\x00\x00\x00IDAT\x35\xaf\x06\x1e")


@pytest.mark.parametrize(
    "name, phrase",
    [
        ("pipe", "not a regular file"),
        ("device", "not a regular file"),
        ("EPS", "its format is not PNG"),
        ("too large", "179560000 pixels) exceeds limit"),
    ],
)
def test_what_only_looks_like_a_picture_is_left_out(name, phrase, tmp_path, capfd, monkeypatch):
    monkeypatch.setattr(subprocess, "Popen", lambda *args, **options: pytest.fail("a program was started"))
    (tmp_path / "\x1b[2J").mkdir()
    save(tmp_path / "\x1b[2J", "1.png", noise(4, 4))
    plant(name, tmp_path / "\x1b[2J" / "2.png")
    assert len(data.load(tmp_path, valid_fraction=0).train.y) == 1
    (line,) = capfd.readouterr().err.splitlines()
    assert phrase in line and "\\x1b[2J" in line and "\x1b" not in line


def test_a_lack_of_memory_is_not_a_broken_picture(tmp_path, monkeypatch):
    def no_memory(path, size):
        raise MemoryError

    save(tmp_path, "1.png", noise(4, 4))
    monkeypatch.setattr(data, "read_picture", no_memory)
    with pytest.raises(MemoryError):
        data.load(tmp_path)


@pytest.mark.parametrize("change", [lambda x: x[::-1][::-1], lambda x: x[:, ::-1][:, ::-1].astype(">i4")])
def test_reversed_and_big_endian_arrays_are_pictures_too(change):
    x = noise(6, 5, 4)
    assert np.array_equal(data.as_pictures(change(x), "x"), x[:, None])


def test_floats_may_be_off_by_rounding():
    x = np.array([[-1e-7, 0.5, 1, 1.0000001]], np.float32)
    assert data.as_pictures(x, "x").flatten().tolist() == [0, 128, 255, 255]


def test_pictures_that_are_all_black_are_noted(tmp_path, capsys):
    x = noise(6, 4, 4) % 2
    data.as_pictures(x, "masks")
    assert "masks has pixels of 0 and 1 alone" in capsys.readouterr().err
    data.as_pictures(x.astype(bool), "masks")
    assert capsys.readouterr().err == ""
    Image.fromarray(noise(8, 8).astype(np.int32), "I").save(tmp_path / "x.tif")  # 32 bits of 0..255
    data.read_folder(tmp_path, None)
    assert "0 and 1 alone" in capsys.readouterr().err


def test_channels_first_and_last_are_noted(capsys):
    assert data.as_pictures(noise(5, 3, 6, 3), "x").shape == (5, 3, 6, 3)
    assert "is read as [n, C, H, W]" in capsys.readouterr().err


def test_x_val_is_the_valid_split(tmp_path):
    dataset = data.load(npz(tmp_path, x_train=numbered(6), x_val=numbered(2, 9), x_test=numbered(1, 20)))
    assert rows(dataset.valid.x) == rows(numbered(2, 9)[:, None]) and len(dataset.train.y) == 6
    assert "nothing else so" in mistake(npz(tmp_path, x=numbered(6), x_train=numbered(6)))


def test_arrays_are_read_only_if_they_are_used(tmp_path):
    path = npz(tmp_path, x=numbered(6), other=np.array([{}], dtype=object))
    assert data.load(path, valid_fraction=0).image_shape == (1, 28, 28)


def test_arrays_are_refused_by_their_declared_size_and_only_if_they_are_used(tmp_path, monkeypatch):
    monkeypatch.setattr(data, "MAX_BYTES", 10_000)
    path = tmp_path / "set.npz"
    np.savez_compressed(path, x=np.zeros((3, 4, 4), np.uint8), other=np.zeros(10**6))
    assert data.load(path, valid_fraction=0).image_shape == (1, 4, 4)
    np.savez_compressed(path, x=np.zeros((30, 40, 40), np.uint8))
    assert "more than 10,000" in mistake(path)
    np.savez(path, x=np.zeros((30, 40, 40), np.uint8))  # what lies on the disk is no bomb
    assert data.load(path).image_shape == (1, 40, 40)


def test_unzipping_stops_at_a_limit(monkeypatch):
    monkeypatch.setattr(data, "MAX_BYTES", 1000)
    with pytest.raises(ValueError, match="more than 1,000 bytes"):
        data.unzip(gzip.compress(b"0" * 10**6), "0")


def test_members_that_are_no_arrays_are_refused(tmp_path):
    with zipfile.ZipFile(tmp_path / "x.npz", "w") as archive:
        archive.writestr("x", "words")
    assert "x.npz" in mistake(tmp_path / "x.npz")


@pytest.mark.parametrize(
    "name, value",
    [
        ("data", None),
        ("data", "a\0b"),
        ("data", "~nosuchuser/x"),
        ("data_dir", 5),
        ("image_size", 0),
        ("image_size", -1),
        ("image_size", 2.5),
        ("image_size", "x"),
        ("image_size", 10**6),
        ("classes", 5),
        ("per_class", -1),
        ("valid_fraction", "x"),
        ("valid_fraction", None),
        ("binarize", "x"),
        ("keep_twins", "yes"),
        ("drawn", "x"),
    ],
)
def test_wrong_arguments_are_named(name, value):
    arguments = {"data": "quickdraw" if name == "per_class" else "mnist10k", name: value}
    assert name in mistake(**arguments).replace("-", "_")


@pytest.mark.parametrize("name", ["../x", "a/b", "", "a\\b"])
def test_classes_of_quickdraw_stay_in_its_folder(name, tmp_path, monkeypatch):
    monkeypatch.setattr(data, "fetch", lambda path, check: pytest.fail(f"{path} was fetched"))
    assert "no class of quickdraw" in mistake("quickdraw", tmp_path, classes=["cat", name])


def test_pictures_are_not_enlarged_beyond_reason():
    assert "give a smaller --image-size" in mistake("mnist10k", image_size=7000)


def test_a_digest_is_of_tensors_and_class_names():
    digests = {data.digest(data.load("mnist10k")), data.digest(data.load("mnist10k"))}
    assert len(digests) == 1
    for change in ("x", "y", "order", "classes"):
        dataset = data.load("mnist10k")
        x, y = dataset.test
        if change == "order":
            dataset.test = data.Split(x.flip(0), y.flip(0))
        elif change == "classes":
            dataset.classes[0] = "nil"
        else:
            (x if change == "x" else y).view(-1)[0] += 1
        digests.add(data.digest(dataset))
    arithmetic = data.load("arithmetic")
    digests.add(data.digest(arithmetic))
    arithmetic.train.glyphs.x[0] += 1
    digests.add(data.digest(arithmetic))
    assert len(digests) == 7


CONFIG = dict(
    flags=dict(model="ae", data="mnist10k", image_size=None),
    classes=["a", "b"],
    image_shape=[1, 28, 28],
    units={"loss": "nats"},
    threads=1,
)


def test_a_whole_config_is_read(tmp_path):
    data.write_json(tmp_path / "config.json", CONFIG)
    assert data.read_config(tmp_path) == CONFIG


@pytest.mark.parametrize(
    "change, phrase",
    [
        *[({name: None}, f"entry {name}") for name in CONFIG],
        ({"flags": []}, "entry flags"),
        ({"flags": {"model": None}}, "entry flags"),
        ({"flags": {"model": "ae"}}, "entry flags"),
        ({"classes": ["a", "a"]}, "entry classes"),
        ({"classes": 5}, "entry classes"),
        ({"image_shape": [1, 0, 28]}, "entry image_shape"),
        ({"threads": 10**9}, "entry threads"),
    ],
)
def test_a_damaged_config_says_which_entry(change, phrase, tmp_path):
    data.write_json(tmp_path / "config.json", CONFIG | change)
    with pytest.raises(data.Mistake, match=re.escape(phrase)):
        data.read_config(tmp_path)


@pytest.mark.parametrize(
    "name, value", [("data", 5), ("data_dir", 5), ("image_size", -1), ("binarize", "x")]
)
def test_a_damaged_flag_of_a_config_is_named(name, value):
    with pytest.raises(data.Mistake, match=f"{name} is {value!r}"):
        data.load_for_run({"flags": {name: value}})


@pytest.mark.parametrize("name", CONFIG)
def test_a_config_of_another_version_says_what_it_lacks(name, tmp_path):
    data.write_json(tmp_path / "config.json", {key: CONFIG[key] for key in CONFIG if key != name})
    with pytest.raises(data.Mistake, match=f"lacks the entry {name}"):
        data.read_config(tmp_path)


@pytest.mark.parametrize("content", [b"", b"{", b"\xff", b"[" * 10**5])
def test_damaged_json_is_one_line(content, tmp_path):
    (tmp_path / "x.json").write_bytes(content)
    with pytest.raises(data.Mistake, match="x.json is damaged"):
        data.read_json(tmp_path / "x.json")


def test_json_has_no_nan(tmp_path):
    data.write_json(tmp_path / "x.json", {"a": [math.nan, (math.inf, 1.5)], "b": {"c": -math.inf}})
    text = (tmp_path / "x.json").read_text()
    assert json.loads(text, parse_constant=pytest.fail) == {"a": [None, [None, 1.5]], "b": {"c": None}}


def test_what_a_kill_left_is_removed_by_the_next_write_of_the_same_file(tmp_path):
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    dead = 2**22 + 1  # beyond the largest number of a process on Linux
    for name in (f".x.{dead}.tmp", f".x.{process.pid}.tmp", f".y.{dead}.tmp", ".x.notes.tmp"):
        (tmp_path / name).write_text("old")
    victim = tmp_path / "victim"
    victim.write_text("dear")
    (tmp_path / f".x.{os.getpid()}.tmp").symlink_to(victim)
    data.write_file(tmp_path / "x", lambda file: file.write(b"new"))
    process.communicate(b"\n")
    left = {f".x.{process.pid}.tmp", f".y.{dead}.tmp", ".x.notes.tmp", "victim", "x"}
    assert {path.name for path in tmp_path.iterdir()} == left and victim.read_text() == "dear"


def test_a_folder_in_the_place_of_an_output_is_named(tmp_path):
    (tmp_path / "x").mkdir()
    with pytest.raises(data.Mistake, match=f"{tmp_path}/x is a folder"):
        data.write_file(tmp_path / "x", lambda file: file.write(b"new"))


def test_a_full_disk_is_an_os_error_that_names_the_file(tmp_path, capsys, monkeypatch):
    def is_full(file):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", is_full)
    path = tmp_path / "x.pt"
    writer = lambda file: torch.save(torch.zeros(3), file)  # noqa: E731
    assert data.run_command("p", lambda argv: data.write_file(path, writer), []) == 1
    assert capsys.readouterr().err == f"p: error: No space left on device: {path}\n"
    assert not list(tmp_path.iterdir())


def test_a_lock_ends_with_its_process(tmp_path):
    code = f"import data\nwith data.lock({str(tmp_path)!r}):\n    print('locked', flush=True)\n    input()"
    command = [sys.executable, "-c", code]
    with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout.readline() == b"locked\n"
        with pytest.raises(data.Mistake, match="in use by another process"), data.lock(tmp_path):
            pass
        process.kill()
    with data.lock(tmp_path):
        pass


@pytest.mark.parametrize("setting", ["PYTHONIOENCODING=ascii:strict", "PYTHONIOENCODING=cp1252:strict"])
def test_a_console_that_lacks_a_character_shows_another(setting):
    code = "import data, sys\nsys.exit(data.run_command('p', lambda _: print('猫 \\udcff'), []))"
    environment = os.environ | dict([setting.split("=")])
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=environment, capture_output=True)
    assert (done.returncode, done.stdout.strip(), done.stderr) == (0, b"? ?", b"")


def test_a_closed_stdout_is_not_an_error():
    code = "import data, sys\nsys.exit(data.run_command('p', lambda _: print('x'), []))"
    command = f"{shlex.quote(sys.executable)} -c {shlex.quote(code)} >&-"
    done = subprocess.run(command, shell=True, cwd=ROOT, stderr=subprocess.PIPE)
    assert (done.returncode, done.stderr) == (0, b"")


def test_control_characters_are_shown(parser, capsys):
    data.note("a \x1b[2J\n b é 猫")
    assert capsys.readouterr().err == "note: a \\x1b[2J\\n b é 猫\n"
    assert "\\x1b[2J" in refused(parser, capsys, "\x1b[2J")
    assert "NUL" in refused(parser, capsys, "--data", "a\0b")
    assert "an argument is empty" in refused(parser, capsys, "--data", "")


def test_the_home_folder_is_meant_wherever_a_path_begins_with_a_tilde(parser, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))  # of Windows
    (tmp_path / "recipe.txt").write_text("--data ~/pictures")
    for argv in (["--data", "~/pictures"], ["--data=~/pictures"], ["@~/recipe.txt"]):
        assert parser.parse_args(argv).data == f"{tmp_path}/pictures"
    assert parser.parse_args(["--data", "a~/b"]).data == "a~/b"


def test_numbers_beyond_reason_are_refused():
    for kind, text in ((int, "1" + "0" * 20), (int, "9" * 5000), (float, "1e308")):
        with pytest.raises(argparse.ArgumentTypeError):
            data.number(kind, 0)(text)


def test_an_absent_device_is_named():
    for name in ("hpu", "meta", "abacus", "cuda:99", "\0"):
        with pytest.raises(data.Mistake, match="--device"):
            data.pick_device(name)
