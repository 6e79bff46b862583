"""What the command line of tsne.py promises, and its page, as a browser shows it."""

import html
import inspect
import itertools
import json
import re
import shutil
import subprocess
import weakref
from pathlib import Path

import matplotlib
import numpy as np
import pytest
import scipy.spatial
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from PIL import Image

import data
import models
import tsne

SHORT = ["--max-iter", "30", "--perplexity", "5"]
HOSTILE = ["</script><script>hacked=1</script>", '$x_{"<b>&amp;', "_Ångström"]


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


@pytest.fixture
def blobs(tmp_path):
    """Files of three clouds of 40 points in 5 dimensions, and of their labels; also in one .npz."""
    random = np.random.RandomState(0)
    x = random.normal(0, 1, (120, 5)) + 8 * np.eye(5)[np.arange(120) % 3]
    y = np.array(["ant", "bee", "cat"])[np.arange(120) % 3]
    np.save(tmp_path / "x.npy", x)
    np.save(tmp_path / "y.npy", y)
    np.savez(tmp_path / "xy.npz", x=x, y=np.arange(120) % 3)
    return tmp_path


@pytest.fixture
def copied_run(run, tmp_path):
    """copied_run(model) is a copy of that run, so that no other test meets what is written into it."""
    return lambda model: shutil.copytree(run(model), tmp_path / model, dirs_exist_ok=True)


@pytest.fixture
def fitted(monkeypatch):
    """The points that t-SNE is given, in the order of the calls."""
    seen = []

    class Spy(tsne.TSNE):
        def fit_transform(self, X, y=None):
            seen.append(X.cpu())
            return super().fit_transform(X)

        def transform(self, X_new):
            seen.append(X_new.cpu())
            return super().transform(X_new)

    monkeypatch.setattr(tsne, "TSNE", Spy)
    return seen


def mapped(capsys, *argv):
    """What a command line wrote, as a dict of the .npz, and what it printed."""
    capsys.readouterr()
    assert tsne.main([str(arg) for arg in argv]) == 0
    printed = capsys.readouterr().out
    path = next(line for line in printed.splitlines() if line.endswith(".npz"))
    with np.load(path, allow_pickle=False) as arrays:
        return dict(arrays), printed


def test_an_array_is_mapped_as_the_class_does_it(blobs, capsys):
    flags = ["--labels", blobs / "y.npy", "--out", blobs / "new" / "map.png", *SHORT, "--seed", "3"]
    arrays, printed = mapped(capsys, blobs / "x.npy", *flags)
    model = tsne.TSNE(max_iter=30, perplexity=5, random_state=3)
    expected = model.fit_transform(np.load(blobs / "x.npy").astype(np.float64))
    np.testing.assert_allclose(arrays["embedding"], expected, atol=1e-4 * np.abs(expected).max())
    assert arrays["kl"] == pytest.approx(model.kl_divergence_, rel=1e-4)
    assert arrays["classes"].tolist() == ["ant", "bee", "cat"]
    assert arrays["labels"].tolist() == [0, 1, 2] * 40 and arrays["row"].tolist() == [*range(120)]
    assert json.loads(str(arrays["settings"]))["perplexity"] == "5.0"
    assert "x.npy: 120 points\n" in printed and f"KL {model.kl_divergence_:.3f} nats" in printed
    assert Image.open(blobs / "new" / "map.png").width == 804
    assert sorted(path.name for path in (blobs / "new").iterdir()) == ["map.npz", "map.png"]


def test_10_nn_accuracy_is_that_of_a_tree_and_a_vote(capsys, digits, tmp_path):
    arrays, printed = mapped(capsys, digits, "--split", "train", *SHORT, "--out", tmp_path / "a.png")
    places, y = arrays["embedding"], arrays["labels"]
    near = scipy.spatial.cKDTree(places).query(places, 11)[1][:, 1:]
    right = np.array([np.bincount(y[row], minlength=10).argmax() for row in near]) == y
    assert f"10-NN accuracy {right.mean():.1%}" in printed
    for c in range(10):
        assert f"{right[y == c].mean():7.1%}  {c}\n" in printed
        assert arrays["class_accuracy"][c] == pytest.approx(right[y == c].mean())


def test_test_points_are_put_into_the_map_of_the_training_points(capsys, digits, tmp_path, fitted):
    alone, _ = mapped(capsys, digits, "--split", "train", "--pca", "7", *SHORT, "--out", tmp_path / "a.png")
    arrays, printed = mapped(
        capsys, digits, "--train-and-test", "--pca", "7", *SHORT, "--out", tmp_path / "b.png"
    )
    train, new = fitted[1:]
    np.testing.assert_allclose(arrays["embedding"][:-40], alone["embedding"], rtol=1e-4, atol=1e-4)
    assert arrays["n_placed"] == 40 and arrays["split"].tolist()[-40:] == ["test"] * 40
    # the axes are those of the training points, by numpy
    split = data.load(digits)
    x, x_new = (part.x.flatten(1).double().numpy() for part in (split.train, split.test))
    axes = np.linalg.svd(x - x.mean(0), full_matrices=False)[2][:7].T
    for scores, pixels in ((train, x), (new, x_new)):
        np.testing.assert_allclose(scores.abs().numpy(), np.abs((pixels - x.mean(0)) @ axes), atol=1)
    places, y = arrays["embedding"], arrays["labels"]
    near = scipy.spatial.cKDTree(places[:-40]).query(places[-40:], 10)[1]
    right = np.array([np.bincount(y[row], minlength=10).argmax() for row in near]) == y[-40:]
    assert f"of the ringed test points {right.mean():.1%}" in printed


def test_latents_are_those_that_the_encoder_says(copied_run, capsys, fitted):
    folder = copied_run("vae")
    arrays, printed = mapped(capsys, folder, *SHORT)
    dataset, model = data.load_for_run(data.read_config(folder)), models.load(folder / "best.pt")
    x, y = dataset.test.batch(slice(None))
    torch.testing.assert_close(fitted[0], model.posterior(x, y).mean.detach())
    assert arrays["labels"].tolist() == y.tolist() and "latents of vae: 40 test points" in printed
    assert (folder / "tsne.png").exists()
    mapped(capsys, folder, "--split", "all", *SHORT)
    assert len(fitted[1]) == 200


def test_latents_of_an_auto_decoder_are_those_of_each_phase(copied_run, capsys, fitted):
    folder = copied_run("vad")
    model = models.load(folder / "best.pt")
    tables = dict(latents=model.latents.weight, refined=model.refined, test=model.test_latents)
    for what, table in tables.items():
        arrays, printed = mapped(capsys, folder, "--what", what, *SHORT)
        torch.testing.assert_close(fitted[-1], model.distribution.from_params(table.detach()).mean)
        split = "test" if what == "test" else "train"
        assert printed.startswith("refined ") == (what == "refined")
        assert (
            set(arrays["split"]) == {split} and f"latents of vad: {len(table)} {split} points\n" in printed
        )
    mapped(capsys, folder, "--what", "refined", "--train-and-test", *SHORT)
    for seen, what in zip(fitted[-2:], ("refined", "test"), strict=True):
        torch.testing.assert_close(seen, model.distribution.from_params(tables[what].detach()).mean)
    names = {path.name for path in folder.glob("tsne*.png")}
    assert names == {"tsne.png", "tsne-refined.png", "tsne-test.png"}  # none was written over


def test_pixels_of_a_run_are_those_of_its_data(copied_run, capsys, fitted):
    folder = copied_run("classifier")
    arrays, printed = mapped(capsys, folder, "--what", "pixels", "--pca", "0", *SHORT)
    test = data.load_for_run(data.read_config(folder)).test
    assert torch.equal(fitted[0], test.x.flatten(1).float()) and "t-SNE of 196 dimensions, perp" in printed


def test_a_subset_is_the_same_for_the_same_seed(blobs, capsys):
    def rows(seed):
        flags = ["-n", "50", "--seed", seed, *SHORT, "--out", blobs / "a.png"]
        arrays, printed = mapped(capsys, blobs / "xy.npz", *flags)
        assert "xy.npz: 50 of 120 points" in printed and len(arrays["embedding"]) == 50
        assert arrays["labels"].tolist() == [row % 3 for row in arrays["row"]]
        return arrays["row"].tolist()

    assert rows(1) == rows(1) != rows(2)


def test_n_is_of_all_splits_together_or_of_train_and_of_test(digits, capsys, tmp_path):
    flags = [digits, "-n", "30", *SHORT, "--out", tmp_path / "a.png"]
    arrays, printed = mapped(capsys, *flags)
    assert "digits: 30 of 200 points" in printed and len(set(arrays["split"])) > 1
    labels = {split: getattr(data.load(digits), split).y for split in data.SPLITS}
    assert arrays["labels"].tolist() == [
        labels[split][row] for split, row in zip(arrays["split"], arrays["row"], strict=True)
    ]
    arrays, printed = mapped(capsys, *flags, "--train-and-test")
    assert "30 of 144 train and 30 of 40 test points" in printed and len(arrays["row"]) == 60


def test_defaults_are_those_of_the_class():
    parameters = inspect.signature(tsne.TSNE).parameters
    args = vars(tsne.flags().parse_args(["x.npy"]))
    for name in ("perplexity", "method", "angle", "metric", "max_iter"):
        assert args[name] == parameters[name].default, name
    assert args["seed"] == parameters["random_state"].default


def test_an_image_folder_is_mapped_with_its_classes(tmp_path, capsys):
    random = np.random.RandomState(0)
    for name in ("dark", "light"):
        (tmp_path / "folder" / name).mkdir(parents=True)
        for k in range(8):
            pixels = (random.randint(0, 50, (12, 10, 3)) + (200 if name == "light" else 0)).astype(np.uint8)
            Image.fromarray(pixels).save(tmp_path / "folder" / name / f"{k}.png")
    flags = ["--image-size", "8", "--perplexity", "3", "--out", tmp_path / "a.svg"]
    arrays, printed = mapped(capsys, tmp_path / "folder", *flags)
    assert "10-NN accuracy" in printed and "folder: 16 points" in printed
    assert arrays["classes"].tolist() == ["dark", "light"] and np.bincount(arrays["labels"]).tolist() == [
        8,
        8,
    ]
    # by darkness the two are far apart
    dark, light = (arrays["embedding"][arrays["labels"] == c] for c in (0, 1))
    assert scipy.spatial.distance.cdist(dark, light).min() > scipy.spatial.distance.pdist(dark).mean()


@pytest.mark.parametrize(
    "argv, message",
    [
        ("gone.npy", "there is no data set or file gone.npy"),
        ("x.npy --labels gone.npy", "gone.npy is not a file"),
        (
            "x.npy --labels short.npy",
            "labels of shape [119], <U3: give a whole number or a string to each of 120",
        ),
        ("x.npy --labels float.npy", "labels of shape [120], float64: give a whole number"),
        ("x.npy --perplexity 120", "perplexity 120.0: give 1 or more, but less than"),
        ("x.npy --perplexity 0", "'0' is not a number from 1"),
        ("x.npy --split test", "x.npy: there are no test points"),
        ("x.npy --train-and-test", "x.npy: there are no train points"),
        ("x.npy --train-and-test --split test", "leave --split out"),
        ("x.npy --what latents", "--what latents is for runs"),
        ("x.npy --image-size 8", "--image-size is not for x.npy"),
        ("x.npy --method tree", "invalid choice: 'tree'"),
        ("x.npy --device tpu", "--device tpu cannot be used here"),
        ("x.npy --out map.gif", "--out map.gif: end it in .png, .pdf or .svg"),
        ("x.npy --out y.npy/map.png", "y.npy"),
        ("xy.npz --out xy.png", "xy.npz is, or lies in, the input xy.npz"),
        ("x.npy --labels named.npz --out named.svg", "named.npz is, or lies in, the input"),
        ("x.npy --labels broken.npy", "broken.npy is no whole .npy"),
        ("x.npy --labels bytes.npy", "labels of shape [120], |S3: give a whole number or a string"),
        ("line.npy", "X has shape [120]: give [points, features]"),
        ("nan.npy", "X holds NaN or infinite values"),
        ("text.npy", "text.npy"),
        ("one.npy", "1 points"),
        ("huge.npy", "X holds numbers too large for PCA"),
        ("none.npy", "none.npy: there are no such points"),
        ("number.npy", "X has shape [1]: give [points, features]"),
        ("x.npy --labels empty.npz", "empty.npz holds nothing: it needs x"),
        ("empty.npz", "empty.npz"),
        ("other.npz --labels y.npy", "other.npz holds a: it needs x"),
        ("other.npz", "other.npz holds a"),
        ("broken.npy --labels y.npy", "broken.npy is no whole .npy"),
        ("broken.npy", "broken.npy is no whole .npy"),
        ("zero.npy --metric cosine", "a point at 0, which has no direction"),
        ("mnist10k --labels y.npy", "--labels is for arrays"),
        ("train.npz --labels y.npy", "--labels is for arrays x: train.npz holds none"),
        ("mnist10", "did you mean mnist10k?"),
        ("arithmetic", "arithmetic is queries"),
        ("folder", "no readable picture"),
        ("{gan}", "holds a gan, which has no --what latents: --what pixels maps"),
        ("{text2text}", "holds a text2text, which has no --what latents"),
        ("{text2text} --what pixels", "arithmetic is queries"),
        ("{vae} --what refined", "holds a vae, which has no --what refined"),
        ("{vae} --labels y.npy", "--labels is for arrays"),
        ("{vad} --what test --split train", ": there are no train points, or no latents of them"),
        ("{vad} --split valid", ": there are no valid points, or no latents of them"),
    ],
)
def test_wrong_uses_are_told_in_one_line(argv, message, blobs, run, refused, monkeypatch):
    x, y = np.load(blobs / "x.npy"), np.load(blobs / "y.npy")
    wrong = dict(short=y[1:], float=np.ones(120), line=x[:, 0], nan=x + np.inf, one=x[:1], zero=0 * x)
    wrong["bytes"] = y.astype("S3")
    wrong["huge"] = np.repeat(1e307 * x, 20, 1)
    for name, array in dict(wrong, text=y[:, None], none=x[:0], number=x[0, 0]).items():
        np.save(blobs / f"{name}.npy", array)
    archives = dict(train=dict(x_train=np.zeros((120, 8, 8))), empty={}, other=dict(a=x), named=dict(x=y))
    for name, arrays in archives.items():
        np.savez(blobs / f"{name}.npz", **arrays)
    (blobs / "broken.npy").write_bytes((blobs / "x.npy").read_bytes()[:500])
    (blobs / "folder").mkdir()
    monkeypatch.chdir(blobs)
    before = {path: path.stat().st_mtime_ns for path in blobs.rglob("*")}
    kinds = {kind: run(kind) for kind in ("vae", "vad", "gan", "text2text") if f"{{{kind}}}" in argv}
    assert message in refused(tsne.main, argv.format(**kinds).split())
    assert {path: path.stat().st_mtime_ns for path in blobs.rglob("*")} == before


@pytest.fixture
def photographs(tmp_path):
    """photographs(*names) is a folder of 8 pictures in each of the classes of these names."""

    def write(*names):
        folder = tmp_path / "photographs"
        for name in names:
            (folder / name).mkdir(parents=True)
            for k in range(8):
                pixels = np.random.RandomState(k).randint(0, 256, (12, 10, 3)).astype(np.uint8)
                Image.fromarray(pixels).save(folder / name / f"{k}.png")
        return folder

    return write


FOLDER_FLAGS = ["--image-size", "8", "--perplexity", "3", "--max-iter", "5"]


def test_arrays_beside_the_picture_are_not_replaced(refused, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    np.save("points.npy", np.random.RandomState(0).rand(30, 4))
    np.savez("mine.npz", x=np.zeros(3))
    assert "holds no map" in refused(tsne.main, ["points.npy", "--out", "mine.png"])
    flags = ["--perplexity", "5", "--max-iter", "5", "--out", "map.png"]
    assert [tsne.main(["points.npy", *flags]) for _ in range(2)] == [0, 0]  # its own map may be


def test_a_page_beside_the_picture_is_not_replaced(refused, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    np.save("x.npy", np.zeros((9, 2)))
    Path("m.html").write_text("<title>mine</title>")
    assert "no map of ours" in refused(tsne.main, ["x.npy", "--out", "m.png", "--html"])
    assert Path("m.html").read_text() == "<title>mine</title>"


def test_no_output_is_an_input(photographs, copied_run, refused, monkeypatch):
    folder = photographs("ant", "bee")
    monkeypatch.chdir(folder.parent)
    (folder.parent / "link").symlink_to(folder)
    before = {path: path.read_bytes() for path in folder.rglob("*.*")}
    for out in ("photographs/ant/0.png", "photographs/new/map.png", "link/map.svg", "link/ant/0.png"):
        assert "lies in, the input" in refused(tsne.main, [folder, *FOLDER_FLAGS, "--out", out])
    assert {path: path.read_bytes() for path in folder.rglob("*.*")} == before
    monkeypatch.chdir(folder)
    assert "tsne.png is, or lies in, the input" in refused(tsne.main, [".", *FOLDER_FLAGS])
    built_in = folder.parent / "datasets"
    built_in.mkdir()
    for path in (tsne.TEMPLATE, data.BUILT_IN / "fashion2k.npz"):
        shutil.copy(path, built_in)
    monkeypatch.setattr(tsne, "TEMPLATE", built_in / tsne.TEMPLATE.name)
    out = tsne.TEMPLATE.with_suffix(".png")
    assert "the input" in refused(tsne.main, [folder, *FOLDER_FLAGS, "--html", "--out", out])
    monkeypatch.setattr(data, "BUILT_IN", built_in)
    out = built_in / "fashion2k.png"
    assert "the input" in refused(tsne.main, ["fashion2k", "-n", "9", *SHORT, "--out", out])
    run, pictures = copied_run("vae"), folder / "pictures.npz"
    config = json.loads((run / "config.json").read_text())
    shutil.copy(config["flags"]["data"], pictures)
    config["flags"]["data"] = str(pictures)
    (run / "config.json").write_text(json.dumps(config))
    out = pictures.with_suffix(".png")
    assert "pictures.npz is, or lies in, the input" in refused(tsne.main, [run, *SHORT, "--out", out])


def test_a_run_within_the_folder_of_its_data_keeps_its_map(copied_run, monkeypatch, capsys):
    run = copied_run("vae")
    dataset = data.load_for_run(data.read_config(run))
    config = json.loads((run / "config.json").read_text())
    config["flags"]["data"] = str(run.parent)
    (run / "config.json").write_text(json.dumps(config))
    monkeypatch.setattr(data, "load", lambda **flags: dataset)
    mapped(capsys, run, *SHORT)
    assert (run / "tsne.png").exists()


@pytest.mark.parametrize(
    "flags, note",
    [
        ("--angle 0.2", "--angle does nothing with --method auto"),
        ("--pca 3 --metric cosine", "--pca does nothing with --metric cosine"),
        ("--data-dir .", "--data-dir does nothing for "),
        ("--angle 0.2 --method barnes_hut --pca 3", ""),
    ],
)
def test_flags_that_do_nothing_are_noted(flags, note, blobs, capsys):
    assert tsne.main([str(blobs / "x.npy"), *flags.split(), *SHORT, "--out", str(blobs / "a.png")]) == 0
    assert capsys.readouterr().err.startswith(f"note: {note}" if note else "")


NAMES = ["$\\frac$", "tab\there", "\x1b[2J\x1b]0;owned\x07", "\udcff\udc80", "名", "_", "$"]


@pytest.mark.filterwarnings("ignore:Glyph")  # the font has none of Chinese
def test_names_of_any_characters_are_shown_and_not_obeyed(photographs, capsys, monkeypatch):
    monkeypatch.setitem(matplotlib.rcParams, "text.usetex", True)
    folder = photographs(*NAMES)
    out = folder.parent / "map.png"
    arrays, printed = mapped(capsys, folder, *FOLDER_FLAGS, "--html", "--out", out)
    assert printed.replace("\n", "").isprintable()
    page = out.with_suffix(".html").read_text(encoding="utf-8")
    content = json.loads(re.search(r"const data = (.*);", page).group(1))
    assert content["classes"] == arrays["classes"].tolist()
    assert all(name.isprintable() for name in content["classes"]) and len(set(content["classes"])) == len(
        NAMES
    )
    assert {"$\\frac$", "名", "_", "$"} < set(content["classes"])


def test_labels_and_files_of_any_characters(blobs, capsys):
    np.save(blobs / "y.npy", np.array(["\x1b[2J", "$a_{$"])[np.arange(120) % 2])
    shutil.copy(blobs / "x.npy", blobs / "\x07$x_{$.npy")
    flags = ["--labels", blobs / "y.npy", "--out", blobs / "a.pdf", *SHORT]
    _, printed = mapped(capsys, blobs / "\x07$x_{$.npy", *flags)
    assert printed.startswith("\\x07$x_{$.npy: 120 points\n") and printed.replace("\n", "").isprintable()


def test_a_mac_computes_on_the_cpu(blobs, capsys, copied_run, monkeypatch):
    expected, _ = mapped(capsys, blobs / "x.npy", *SHORT, "--out", blobs / "a.png")
    latents, _ = mapped(capsys, copied_run("vae"), *SHORT)
    monkeypatch.setattr(data, "pick_device", lambda name: torch.device("mps"))
    arrays, _ = mapped(capsys, blobs / "x.npy", *SHORT, "--out", blobs / "a.png")
    assert np.array_equal(arrays["embedding"], expected["embedding"])
    assert np.array_equal(mapped(capsys, copied_run("vae"), *SHORT)[0]["embedding"], latents["embedding"])


def test_the_points_before_pca_are_freed(digits, capsys, tmp_path, monkeypatch):
    references = []
    select = tsne.select

    def remember(*args):
        points = select(*args)
        references.append(weakref.ref(points.x))
        return points

    class Spy(tsne.TSNE):
        def fit_transform(self, X, y=None):
            references.append(references[0]())
            return super().fit_transform(X)

    monkeypatch.setattr(tsne, "select", remember)
    monkeypatch.setattr(tsne, "TSNE", Spy)
    mapped(capsys, digits, "--pca", "7", *SHORT, "--out", tmp_path / "a.png")
    assert references[1] is None


# -----------------------------------------------------------------------------------------------------------
# The picture


def map_of(embedding, labels, classes, n_placed=0, **fields):
    """A tsne.Map of that embedding, whose points are of train but for the last n_placed."""
    n = len(embedding)
    defaults = dict(
        title="a <title>",
        x=None,
        split=np.repeat(["train", "test"], [n - n_placed, n_placed]),
        row=np.arange(n),
        pictures=None,
        kl=1.234,
        class_accuracy=np.ones(len(classes)),
        caption=["t-SNE of 12288 dimensions, 50 after PCA, perplexity 30, KL 1.234 nats"],
    )
    parts = dict(embedding=embedding, labels=labels, classes=classes, n_placed=n_placed)
    return tsne.Map(**defaults | parts | fields)


@pytest.mark.parametrize("long_name", ["AFRICAN GIANT SWALLOWTAIL", "W" * 30])
@pytest.mark.parametrize("n_classes, n_placed", [(1, 0), (3, 30), (10, 0), (20, 0), (100, 0), (300, 0)])
def test_every_word_of_the_picture_lies_within_it(n_classes, n_placed, long_name):
    random = np.random.RandomState(0)
    names = [*HOSTILE, *[f"{long_name} {k}" for k in range(300)]][:n_classes]
    labels = np.arange(600) % n_classes
    line = "t-SNE of 12288 dimensions, 50 after PCA, perplexity 30, KL 1.234 nats"
    accuracy = "10-NN accuracy 50.0%, of the ringed test points 50.0%"
    title = "pixels of $name: 12,345 of 67,890 train and 12,345 of 67,890 test points"
    figure = tsne.draw(
        map_of(
            embedding=random.normal(0, 1, (600, 2)) * [40, 25],
            labels=labels,
            classes=names if n_classes > 1 else [""],
            n_placed=n_placed,
            title=title,
            class_accuracy=np.linspace(0, 1, n_classes),
            caption=[line, accuracy] if n_classes > 1 else [line],
        )
    )
    figure.set_dpi(120)
    renderer = FigureCanvasAgg(figure).get_renderer()
    figure.draw(renderer)
    (axis,), (legend,) = figure.axes, figure.legends
    caption = figure._supxlabel or axis.xaxis.label
    words = [figure._suptitle, caption, *axis.texts, *legend.get_texts()]
    for word in words:
        box = word.get_window_extent(renderer)
        inside = box.x0 >= 0 and box.y0 >= 0 and box.x1 <= figure.bbox.x1 and box.y1 <= figure.bbox.y1
        assert inside, word.get_text()
    shown = [word.get_text() for word in legend.get_texts()]
    title, caption, legend = (
        part.get_window_extent(renderer) for part in (figure._suptitle, caption, legend)
    )
    for one, other in ((title, caption), (title, legend), (caption, legend)):
        assert n_classes == 1 or not one.overlaps(other)
    assert len(shown) == (min(n_classes, 100) if n_classes > 1 else 0)
    assert figure.bbox.width == 804 and figure.bbox.height < 1500


def test_names_of_classes_in_one_place_do_not_cover_each_other():
    random = np.random.RandomState(0)
    names = ["T-shirt/top", "Pullover", "Coat", "Shirt", "Dress", "Bag"]
    embedding = random.normal(0, 1, (600, 2)) * [40, 25]
    figure = tsne.draw(map_of(embedding, np.arange(600) % 6, names))
    figure.set_dpi(120)
    renderer = FigureCanvasAgg(figure).get_renderer()
    figure.draw(renderer)
    words = figure.axes[0].texts
    assert [word.get_text() for word in words] == names
    boxes = [word.get_window_extent(renderer) for word in words]
    for one, other in itertools.combinations(boxes, 2):
        assert not one.overlaps(other)


# -----------------------------------------------------------------------------------------------------------
# The page


def page_of_map(n=300, n_placed=10):
    """A page of n points in three classes, whose pictures are even and the darker the lower their row; and
    the embedding in the order in which the page draws it."""
    embedding = np.random.RandomState(0).normal(0, 9, (n, 2))
    embedding[-3:] = [60, 60], [60, -60], [-60, -60]  # far from all others
    shades = torch.linspace(0, 255, n).byte()[:, None, None, None].expand(n, 1, 28, 28)
    tsne_map = map_of(embedding, np.arange(n) % 3, HOSTILE, n_placed)
    page = tsne.page(tsne.TEMPLATE.read_text(encoding="utf-8"), tsne_map, shades)
    return page, tsne_map


def test_no_name_can_end_the_script_of_the_page():
    page, _ = page_of_map()
    assert page.count("<script") == page.count("</script") == 1
    text = page.split("const data = ")[1].split(";\n")[0]
    assert json.loads(text)["classes"] == HOSTILE and json.loads(text)["title"] == "a <title>"


@pytest.mark.parametrize("name", ["mnist10k", "fashion2k"])
def test_a_page_of_10_000_points_with_pictures_is_under_5_mb(name):
    x = torch.cat([getattr(data.load(name), split).x for split in data.SPLITS])
    pictures = x if len(x) == 10_000 else x.repeat(5, 3, 1, 1)
    if name == "fashion2k":  # in false colors, with more of them than photographs have
        pictures[:, 1], pictures[:, 2] = pictures[:, 1].flip(2), pictures[:, 2].flip(1)
    n = len(pictures)
    assert n == 10_000
    embedding = np.random.RandomState(0).normal(0, 9, (n, 2))
    tsne_map = map_of(embedding, np.arange(n) % 10, [*"0123456789"])
    thumbnails = data.resize(pictures, tsne.thumbnail_side(pictures))
    page = tsne.page(tsne.TEMPLATE.read_text(encoding="utf-8"), tsne_map, thumbnails)
    assert 1e6 < len(page) < 5e6


BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
LONELY = (
    "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
)
LONELY += "--disable-component-update --disable-sync --hide-scrollbars --window-size=900,700"


HARNESS = """<script>
const result = {};
window.onerror = (message) => { result.error = message; };
const hit = (type, x, y) => map.dispatchEvent(new PointerEvent(type, {
  bubbles: true, clientX: x, clientY: y + map.getBoundingClientRect().y,
}));
addEventListener("load", () => {
  try { SCRIPT } catch (error) { result.error = `${error} ${error.stack}`; }
  document.body.textContent = JSON.stringify(result);
});
</script>"""


def in_browser(page, script, folder):
    """What a script appended to the page puts into `result`, as a browser runs it."""
    if BROWSER is None:
        pytest.skip("there is no chromium: apt-get install chromium")
    (folder / "page.html").write_text(page + HARNESS.replace("SCRIPT", script), encoding="utf-8")
    flags = ["--virtual-time-budget=3000", f"--user-data-dir={folder / 'profile'}", "--dump-dom"]
    command = [BROWSER, *LONELY.split(), *flags, (folder / "page.html").as_uri()]
    process = subprocess.run(command, capture_output=True, text=True, timeout=120)
    body = process.stdout.partition("<body>")[2].partition("</body>")[0]
    assert body.startswith("{"), process.stdout[-2000:] + process.stderr[-2000:]
    result = json.loads(html.unescape(body))
    assert "error" not in result, result["error"]
    return result


def test_the_page_shows_hides_and_moves_the_map(tmp_path):
    page, tsne_map = page_of_map()
    order = tsne_map.drawing_order  # point k of the page is in row order[k]
    embedding = tsne_map.embedding[order]
    result = in_browser(
        page,
        """
        const color = (k) => [...pen.getImageData(across(k), down(k), 1, 1).data];
        const text = (name) => find(name).textContent, place = () => [across(20), down(20)];
        const legend = [...document.querySelectorAll("#legend button")];
        const since = (x, y) => [across(20) - x, down(20) - y];
        const [x, y] = place();
        Object.assign(result, { title: document.title, heading: text("h1"), caption: text("#caption") });
        result.legend = legend.map((key) => key.textContent), result.hacked = window.hacked ?? null;
        result.size = [map.clientWidth, map.clientHeight];
        result.places = data.x.map((_, k) => [across(k), down(k)]);
        result.colors = [297, 298, 299].map(color);
        result.hovers = [3, 20, 299].map((k) => {
          hit("pointermove", across(k), down(k));
          const shade = find("#card canvas").getContext("2d").getImageData(56, 56, 1, 1).data[0];
          return [card.style.display, text("#card span"), shade];
        });
        legend[1].click(), hit("pointermove", across(297), down(297));
        result.hidden = color(297), result.unseen = text("#card span");
        result.pressed = legend.map((key) => key.getAttribute("aria-pressed"));
        legend[0].click(), result.again = color(297);
        legend[0].click(), result.none = color(298), legend[0].click();
        const { scale } = view, top = map.getBoundingClientRect().y;
        map.dispatchEvent(new WheelEvent("wheel", { deltaY: -400, clientX: x, clientY: y + top }));
        result.zoomed = [view.scale / scale, ...since(x, y)];
        const before = place();
        map.setPointerCapture = () => {};
        hit("pointerdown", 100, 100), hit("pointermove", 130, 90);
        hit("pointerup", 130, 90), hit("pointermove", 5, 5);
        result.moved = since(...before);
        zoom(20, ...place()), result.close = color(20);
        const zoomed = view.scale;
        dispatchEvent(new Event("resize")), result.afterResize = view.scale / zoomed;
        document.querySelectorAll("#tools button")[2].click(), result.home = since(x, y);
        result.fetched = performance.getEntriesByType("resource").map((entry) => entry.name.slice(0, 30));
        """,
        tmp_path,
    )
    assert result["title"] == result["heading"] == "a <title>"
    assert result["caption"] == "; ".join(tsne_map.caption)
    assert result["legend"] == ["all / none", *HOSTILE] and result["hacked"] is None
    # the places in the window are those of the map, turned over, scaled and shifted
    places, embedding = np.array(result["places"]), embedding * [1, -1]
    scale = np.ptp(places, 0) / np.ptp(embedding, 0)
    assert scale[0] == pytest.approx(scale[1], rel=1e-3)
    np.testing.assert_allclose(places, places.min(0) + scale * (embedding - embedding.min(0)), atol=0.1)
    assert (places > 0).all() and (places < result["size"]).all()
    assert result["colors"] == [[*bytes.fromhex(tsne.COLORS[c][1:]), 255] for c in range(3)]
    for k, (display, text, shade) in zip((3, 20, 299), result["hovers"], strict=True):
        row = order[k]
        assert (
            display == "block" and text == f"{HOSTILE[row % 3]} ({'test' if row >= 290 else 'train'} {row})"
        )
        assert shade == pytest.approx(255 * row / 299, abs=4)
    assert result["hidden"] == [0, 0, 0, 0] != result["again"] == result["colors"][0]
    assert result["none"] == [0, 0, 0, 0]
    assert result["pressed"] == [None, "false", "true", "true"]
    assert not result["unseen"].startswith(HOSTILE[0])
    assert result["zoomed"][0] == pytest.approx(np.exp(0.6)) and np.abs(result["zoomed"][1:]).max() < 1
    assert result["moved"] == pytest.approx([30, -10], abs=1e-6)
    assert result["close"] == pytest.approx([255 * order[20] / 299] * 3 + [255], abs=4)  # its picture
    assert result["afterResize"] == 1
    assert result["home"] == pytest.approx([0, 0], abs=1e-6)
    assert not [name for name in result["fetched"] if not name.startswith(("data:", "file:"))]


def test_a_page_without_pictures_and_labels_tells_the_rows(tmp_path, blobs, capsys):
    _, printed = mapped(capsys, blobs / "x.npy", "--html", *SHORT, "--out", blobs / "map.png")
    assert str(blobs / "map.html") in printed
    result = in_browser(
        (blobs / "map.html").read_text(encoding="utf-8"),
        """
        result.legend = find("#legend").textContent, result.title = document.title;
        hit("pointermove", across(7), down(7));
        result.card = find("#card span").textContent, result.row = data.row[hovered];
        result.pictures = document.querySelectorAll("#card canvas").length;
        """,
        tmp_path,
    )
    assert result["legend"] == "" and result["title"] == "x.npy: 120 points"
    assert result["card"] == f"row {result['row']}" and result["pictures"] == 0
