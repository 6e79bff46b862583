"""What data.py promises: pictures, splits, downloads, and one clear line for every wrong use."""

import argparse
import gzip
import hashlib
import http.server
import importlib.util
import inspect
import os
import subprocess
import sys
import threading
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
        (dict(x=numbered(3), y=[0, 1]), "each of 3"),
        (dict(x=numbered(3), y=[0, -1, 1]), "below 0"),
        (dict(x=numbered(3), y=[0.0, 1.0, 1.0]), "float64"),
        (dict(x=numbered(3), y=[0, 1, 7], classes=["a", "b"]), "class 7"),
        (dict(x=numbered(3), y=["a", "b", "q"], classes=["a", "b"]), "class q"),
        (dict(x_train=numbered(3), y_train=[0, 1, 1], x_test=numbered(1), y_test=[2]), "class 2"),
        (dict(x_train=numbered(3), y_train=[0, 1, 1], x_test=numbered(1)), "y_test"),
        (dict(x_train=numbered(3), x_test=numbered(2)[:, :14, :14]), "(1, 14, 14)"),
        (dict(x=np.array([{}], dtype=object)), "plain arrays"),
    ],
)
def test_npz_mistakes(tmp_path, arrays, expected):
    message = mistake(npz(tmp_path, **arrays))
    assert expected in message and "set.npz" in message


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


def test_pictures_of_several_sizes_need_an_image_size(tmp_path):
    save(tmp_path, "1.png", noise(8, 8))
    save(tmp_path, "2.png", noise(9, 8))
    assert "--image-size" in mistake(tmp_path)
    assert data.load(tmp_path, image_size=4).image_shape == (1, 4, 4)


def test_broken_pictures_are_skipped_with_one_note(tmp_path, capsys, monkeypatch):
    for i in range(4):
        save(tmp_path, f"{i}.png", noise(40, 40, seed=i))
    (tmp_path / "1.png").write_bytes((tmp_path / "1.png").read_bytes()[:300])
    (tmp_path / "2.png").write_bytes(b"not a picture")
    save(tmp_path, "bomb.png", noise(90, 90))
    monkeypatch.setattr(data, "MAX_PIXELS", 2000)
    dataset = data.load(tmp_path, valid_fraction=0)
    lines = capsys.readouterr().err.splitlines()
    assert len(dataset.train.y) == 2 and len(lines) == 1
    assert "3 files are left out" in lines[0] and "1.png" in lines[0]
    for i in (0, 3):
        (tmp_path / f"{i}.png").unlink()
    assert "no readable picture" in mistake(tmp_path)


def test_empty_folder_and_wrong_names(tmp_path):
    assert "no readable picture" in mistake(tmp_path)
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


def test_butterflies_are_many_varied_and_always_the_same():
    dataset = data.load("butterflies")
    assert dataset.image_shape == (3, 64, 64) and dataset.classes == list(data.SPECIES)
    assert all(split.x.dtype == torch.uint8 for split in (dataset.train, dataset.valid, dataset.test))
    assert [dataset.split(s).y.bincount().tolist() for s in data.SPLITS] == [
        [320] * 5,
        [40] * 5,
        [40] * 5,
    ]
    x = torch.cat([dataset.train.x, dataset.valid.x, dataset.test.x])
    assert len(rows(x)) == 2000  # no picture twice
    np.random.seed(5)
    assert np.array_equal(data.read_butterflies(40)[0], dataset.train.x[:40])
    # no pixel is alike in all, and a species is known by the mean color around its middle
    assert x.float().std(0).min() > 20
    middle = [split.x[:, :, 20:40, 20:44].float().mean((2, 3)) for split in (dataset.train, dataset.test)]
    means = torch.stack([middle[0][dataset.train.y == k].mean(0) for k in range(5)])
    assert (torch.cdist(middle[1], means).argmin(1) == dataset.test.y).float().mean() > 0.7


def test_both_sides_of_a_butterfly_are_alike(monkeypatch):
    class Still(np.random.RandomState):  # neither moved nor turned, and in front of one color
        def uniform(self, low, high, size=None):
            return super().uniform(low, high, size) * (0 if np.shape(size) == (3,) else 1)

        def normal(self, mean, deviation, size=None):
            return 0.0 if size is None else np.zeros(size)

    for species in data.SPECIES.values():
        x = data.draw_butterfly(*species, Still(1)).astype(int)
        assert np.abs(x - x[:, :, ::-1]).max() <= 1
        background = np.abs(x - x[:, :1, :1]).max(0) <= 1
        assert 0.4 < background.mean() < 0.8 and not background[22:42, 31:33].any()
        edges = [background[:, 0], background[:, -1], background[0]]
        assert np.mean(edges) > 0.9  # the wings are within the picture


def test_the_size_of_butterflies(monkeypatch):
    butterflies = data.read_butterflies(50)
    monkeypatch.setattr(data, "read_butterflies", lambda: butterflies)
    dataset = data.load("butterflies", image_size=32)
    assert dataset.image_shape == (3, 32, 32) and len(dataset.train.x) == 40
    blocks = torch.from_numpy(butterflies.x[0]).float().unflatten(1, (32, 2)).unflatten(3, (32, 2))
    assert (dataset.train.x[0] - blocks.mean((2, 4))).abs().mean() < 6  # (3, 32, 2, 32, 2) -> (3, 32, 32)


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
    plus, minus, blank = (data.draw_signs()[50 * k :][:50, 0] / 255.0 for k in range(3))
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


def test_the_flags_are_the_arguments_of_load_with_its_defaults():
    parameters = inspect.signature(data.load).parameters
    assert {name: parameter.default for name, parameter in parameters.items()} == data.FLAGS


def test_flags_set_the_arguments_of_load(parser):
    argv = "--data d --data-dir e --image-size 8 --classes a,b --per-class 7 --valid-fraction 0"
    args = vars(parser.parse_args([*argv.split(), "--binarize", "static", "--keep-twins"]))
    assert args == dict(
        data="d", data_dir="e", image_size=8, classes="a,b", per_class=7, valid_fraction=0.0,
        binarize="static", keep_twins=True,
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
        (float, float("-inf"), 0, False, "-inf"),
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
