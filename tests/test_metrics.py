"""What metrics.py promises: numbers against scipy, loops and known answers, and its command line."""

import ast
import hashlib
import http.server
import importlib.util
import io
import json
import math
import runpy
import shutil
import threading
from pathlib import Path

import matplotlib.axes
import numpy as np
import pytest
import scipy.linalg
import scipy.sparse
import scipy.spatial.distance
import scipy.stats
import torch
from PIL import Image

import data
import metrics
import models
import sample
import train


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


def test_only_the_command_line_imports_our_other_files():
    importers = set()
    for node in ast.walk(ast.parse(Path(metrics.__file__).read_text(encoding="utf-8"))):
        names = {name.name for name in node.names} if isinstance(node, ast.Import) else set()
        assert not names & {"tsne", "train"}
        for child in ast.iter_child_nodes(node):
            ours = isinstance(child, ast.Import) and child.names[0].name in ("data", "models", "sample")
            if ours or (isinstance(child, ast.ImportFrom) and child.module == "data"):
                importers.add(node.name if isinstance(node, ast.FunctionDef) else "module")
    assert importers == {"flags", "main", "command"}


def digits(path, classes, per_class=20):
    """An .npz of the first digits of these classes, numbered from 0; its path as text."""
    with np.load(data.BUILT_IN / "mnist10k.npz") as whole:
        x, y = whole["x_train"], whole["y_train"].astype(int)
    rows = np.concatenate([np.flatnonzero(y == c)[:per_class] for c in classes])
    np.savez(path, x=x[rows], y=np.searchsorted(classes, y[rows]))
    return str(path)


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Folders of tiny runs by name, trained for five updates."""
    folder = tmp_path_factory.mktemp("runs")
    ten, other = digits(folder / "ten.npz", range(10)), digits(folder / "other.npz", range(10), 25)
    two = digits(folder / "two.npz", [3, 8], 40)
    small = ["--encoder", "mlp", "--encoder-hidden", "16", "--steps", "5", "--batch-size", "32"]
    folders = dict(ten=ten, other=other, two=two)
    monkeypatch = pytest.MonkeyPatch()
    monkeypatch.setattr(train.sample, "draw_run", lambda *run: [])  # pictures take longer than training
    for name, source in [("cvae", ten), ("vae", ten), ("ae", ten), ("classifier", ten), ("vae-two", two)]:
        folders[name] = str(folder / name)
        flags = ["--model", name.split("-")[0], "--data", source, "--out", folders[name], *small]
        assert train.main(flags) == 0
    folders["small"] = str(folder / "small")
    flags = ["--model", "vae", "--data", ten, "--image-size", "16", "--out", folders["small"], *small]
    assert train.main(flags) == 0
    small = ["--steps", "5", "--batch-size", "32"]
    for name, more in [("vad", ["--fit-epochs", "2"]), ("gan", ["--encoder-layers", "4,3,2,1"])]:
        folders[name] = str(folder / name)
        flags = ["--model", name, "--data", ten, "--out", folders[name], *small, *more]
        assert train.main(flags) == 0
    monkeypatch.undo()
    return folders


def judged(capsys, *argv):
    """What `metrics.py --json` prints."""
    capsys.readouterr()
    assert metrics.main([*argv, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


class Fake(torch.nn.Module):
    """Reads its prediction from a picture's first pixel and its confidence from the second."""

    def __init__(self):
        super().__init__()
        self.unused = torch.nn.Parameter(torch.zeros(1))  # which tells the device

    def predict(self, x):
        predicted = (10 * x[:, 0, 0, 0]).round().long()
        confidence = x[:, 0, 0, 1]
        return torch.zeros(len(x), 3).scatter(1, predicted[:, None], confidence[:, None])


def pictures_of(predicted, confidence):
    """Pictures for which Fake predicts these classes with this confidence."""
    x = torch.rand(len(predicted), 1, 4, 4)
    x[:, 0, 0, 0] = torch.tensor(predicted) / 10
    x[:, 0, 0, 1] = torch.tensor(confidence)
    return x


@pytest.mark.parametrize("n", [2, 3, 60])
def test_mean_distance_agrees_with_scipy(n):
    images = torch.rand(n, 3, 4, 5)
    expected = scipy.spatial.distance.pdist(images.flatten(1).numpy()).mean()
    assert metrics.mean_distance(images) == pytest.approx(expected, rel=1e-4)


def test_mean_distance_needs_two_images_and_is_0_of_equal_ones():
    assert math.isnan(metrics.mean_distance(torch.rand(1, 4))) and math.isnan(
        metrics.mean_distance(torch.rand(0, 4))
    )
    for image in torch.rand(20, 1, 784):
        assert metrics.mean_distance(image.repeat(100, 1)) == pytest.approx(0, abs=1e-6)


def test_predictions_are_the_likeliest_class_and_its_chance():
    x = pictures_of([2, 0, 1, 1], [0.5, 0.75, 0.25, 1.0])
    named, confidence = metrics.predictions(Fake(), x, chunk=3)
    assert named.tolist() == [2, 0, 1, 1] and confidence.tolist() == [0.5, 0.75, 0.25, 1.0]


def test_confusion_matrix_agrees_with_a_loop():
    labels, named = torch.randint(4, (2, 50), generator=torch.Generator().manual_seed(0))
    named[named == 2] = 3  # an answer that never comes keeps its column
    expected = [[0] * 4 for _ in range(4)]
    for label, answer in zip(labels.tolist(), named.tolist(), strict=True):
        expected[label][answer] += 1
    assert metrics.confusion_matrix(labels, named, 4).tolist() == expected


def judge_fakes(images, labels, real, n_classes):
    predicted, confidence = metrics.predictions(Fake(), images)
    return metrics.judge_samples(images, labels, predicted, confidence, real, labels, n_classes)


def test_samples_are_judged_class_by_class():
    images = pictures_of([0, 0, 1, 2, 1, 0], [0.5, 0.75, 1.0, 0.25, 0.5, 1.0])
    scores = judge_fakes(images, torch.tensor([0, 0, 0, 0, 1, 1]), images, 3)
    assert scores["count"] == [4, 2, 0]
    assert scores["accuracy"][:2] == [50, 50]  # 0 and 0 of four; 1 of two
    assert scores["confidence"][:2] == [62.5, 75]
    assert scores["diversity"][:2] == [1, 1]  # the real ones themselves
    assert all(math.isnan(scores[name][2]) for name in ("accuracy", "confidence", "diversity"))


def test_diversity_is_relative_to_the_real_pictures_of_the_same_class():
    labels = torch.tensor([0, 1] * 4)
    real = pictures_of([0] * 8, [1.0] * 8)
    equal = real[:2].repeat(4, 1, 1, 1)  # one picture for each class, over and over
    assert judge_fakes(equal, labels, real, 2)["diversity"] == pytest.approx([0, 0], abs=1e-6)
    half = torch.where((labels == 1)[:, None, None, None], real / 2, real)
    assert judge_fakes(half, labels, real, 2)["diversity"] == pytest.approx([1, 0.5])


def test_conditional_samples_are_judged_by_the_class_asked_for(runs, capsys):
    (report,) = judged(capsys, runs["cvae"], "--features", f"classifier:{runs['classifier']}", "-n", "50")
    assert report["samples"] == dict(n=50, seed=0, scale=1.0, truncate=None)
    assert report["by_class"]["class"] == [*"0123456789"] and report["by_class"]["count"] == [5] * 10
    for name in ("accuracy", "confidence", "diversity"):
        assert report["mean"][name] == pytest.approx(np.mean(report["by_class"][name]))
    assert 0 <= report["accuracy_on_real"] <= 100 and 0 <= report["accuracy_on_reconstructions"] <= 100


def test_plain_samples_are_named_by_the_judge_and_have_no_accuracy(runs, capsys):
    judge = ["--features", f"classifier:{runs['classifier']}", "-n", "30"]
    (report,) = judged(capsys, runs["vae"], *judge)
    assert sum(report["by_class"]["count"]) == 30 and "accuracy" not in report["by_class"]
    first, second = (judged(capsys, runs["vae"], *judge, "--seed", seed) for seed in "01")
    assert first == [report] and second[0]["by_class"]["confidence"] != report["by_class"]["confidence"]
    narrow, plain = judged(capsys, runs["vae"], runs["ae"], *judge, "--scale", "0.1", "--truncate", "1")
    assert narrow["samples"]["scale"] == 0.1 and narrow["by_class"] != report["by_class"]
    assert "samples" not in plain and "accuracy_on_reconstructions" in plain


def test_drawn_answers_are_compared_pixel_by_pixel():
    truth = torch.tensor([0, 0, 0, 0.3, 0.8, 1, 1, 1])
    answers = torch.tensor([0, 0.4, 0.6, 0.3, 0.8, 1, 0.7, 0.2])  # exactly right, rounded: 1, 2, 6 and 7
    expected = dict(mse=(0.4**2 + 0.6**2 + 0.3**2 + 0.8**2) / 8, pixels=75, equal=50)
    assert metrics.compare_drawn(answers, truth) == pytest.approx(expected)
    assert metrics.compare_drawn(truth, truth)["equal"] == 75  # of two gray pixels none is equal


def test_confidence_by_class_is_of_the_pictures_with_that_label(runs, capsys):
    (report,) = judged(capsys, runs["classifier"])
    assert report["class_confidence"].keys() == report["class_accuracy"].keys()
    run = sample.Run(runs["classifier"])
    x, y = run.dataset.test.batch(slice(None))
    confidence = 100 * run.model.predict(x).amax(1)
    by_class = [confidence[y == c].mean().item() for c in range(10)]
    assert [*report["class_confidence"].values()] == pytest.approx(by_class, rel=1e-4)


def test_a_classifier_is_judged_on_its_own_data_and_on_others(runs, capsys):
    (report,) = judged(capsys, runs["classifier"])
    assert np.shape(report["confusion"]) == (10, 10) and np.sum(report["confusion"]) == count(
        runs["ten"], "test"
    )
    assert report["accuracy"] == pytest.approx(
        100 * np.trace(report["confusion"]) / np.sum(report["confusion"])
    )
    assert np.mean([*report["class_accuracy"].values()]) == pytest.approx(
        report["accuracy"]
    )  # classes of one size
    (train_split,) = judged(capsys, runs["classifier"], "--data", runs["other"], "--split", "train")
    assert np.sum(train_split["confusion"]) == count(runs["other"], "train") != count(runs["ten"], "train")


def count(source, split):
    return len(getattr(data.load(source), split).x)


def test_json_of_classes_that_were_never_drawn_is_still_json(runs, capsys):
    capsys.readouterr()
    judge = ["--features", f"classifier:{runs['classifier']}"]
    assert metrics.main([runs["vae"], *judge, "-n", "2", "--json"]) == 0  # at most two classes of ten
    (report,) = json.loads(capsys.readouterr().out, parse_constant=lambda word: pytest.fail(word))
    assert sum(report["by_class"]["count"]) == 2
    assert metrics.main([runs["vae"], *judge, "-n", "2"]) == 0
    out = capsys.readouterr().out
    assert "nan" not in out and "\n\n\n" not in out


def test_tables_tell_what_json_does(runs, capsys):
    judge = f"classifier:{runs['classifier']}"
    (report,) = judged(capsys, runs["cvae"], "--features", judge, "-n", "20")
    assert metrics.main([runs["cvae"], runs["classifier"], "--features", judge, "-n", "20"]) == 0
    out = capsys.readouterr().out
    assert f"{report['mean']['accuracy']:.1f}%" in out and f"{report['mean']['diversity']:.3f}" in out
    assert "mean confidence" in out and max(map(len, out.splitlines())) <= 200


@pytest.mark.parametrize(
    "argv, status, message",
    [
        ("{vae} --features classifier:{vae}", 1, "holds a vae, not a classifier"),
        ("{vae} --features inception:{classifier}", 1, "or classifier:RUN"),
        ("{vae} --features classifier:", 1, "or classifier:RUN"),
        ("{vae-two} --features classifier:{classifier}", 1, "other classes"),
        ("{classifier} --data {two}", 1, "other classes"),
        ("{classifier} --data nowhere.npz", 1, "nowhere.npz"),
        ("nowhere", 1, "nowhere"),
        ("{vae} --features classifier:nowhere", 1, "nowhere"),
        ("", 2, "SOURCE"),
        ("{vae} -n 1", 2, "-n"),
        ("{vae} --truncate 0", 2, "--truncate"),
        ("{vae} --seeds 3", 2, "did you mean --seed?"),
    ],
)
def test_wrong_uses_are_reported_in_one_line(argv, status, message, runs, capsys):
    capsys.readouterr()
    assert metrics.main([word.format(**runs) for word in argv.split()]) == status
    out, error = capsys.readouterr()
    assert message in error and error.count("\n") == 1 and not out


def test_a_run_without_its_files_is_reported_in_one_line(runs, tmp_path, capsys):
    (tmp_path / "config.json").write_text("{")
    (tmp_path / "best.pt").write_bytes(b"text")
    for _ in range(2):
        assert metrics.main([str(tmp_path)]) == 1
        error = capsys.readouterr().err
        assert str(tmp_path) in error and error.count("\n") == 1
        (tmp_path / "config.json").write_bytes((data.Path(runs["vae"]) / "config.json").read_bytes())


class LinearGaussian:
    """x = W z + b + noise of variance 1/2, z from N(0, I): p(x) is known. q is the posterior, widened."""

    likelihood = "gaussian"

    def __init__(self, widen):
        generator = torch.Generator().manual_seed(1)
        self.w, self.b = torch.randn(6, 2, generator=generator), torch.randn(6, generator=generator)
        precision = torch.eye(2) + 2 * self.w.T @ self.w
        self.covariance, self.widen = torch.linalg.inv(precision), widen

    def log_weights(self, x, labels, k):
        flat = x.flatten(1)
        mean = 2 * (flat - self.b) @ self.w @ self.covariance  # (B, 2)
        q = torch.distributions.MultivariateNormal(mean, self.widen * self.covariance)
        z = q.sample((k,))
        prior = torch.distributions.MultivariateNormal(torch.zeros(2), torch.eye(2))
        nats = (flat - z @ self.w.T - self.b).square().sum(-1)  # as our models score, without the constant
        return prior.log_prob(z) - q.log_prob(z) - nats, nats

    def exact(self, x):
        covariance = self.w @ self.w.T + torch.eye(6) / 2
        return torch.distributions.MultivariateNormal(self.b, covariance).log_prob(x.flatten(1))


def test_log_likelihood_is_the_closed_form_of_a_linear_gaussian_model():
    x = torch.randn(40, 1, 2, 3)
    exact = LinearGaussian(1).exact(x)
    weights = metrics.log_weights(LinearGaussian(1), x, None, 50)
    estimate, effective = metrics.log_likelihood(weights)
    assert torch.allclose(estimate.float(), exact, atol=1e-3)  # q is the posterior: every weight is p(x)
    assert effective.min() > 49.99 and metrics.iwae_bound(weights, 1) == pytest.approx(
        exact.mean().item(), abs=1e-3
    )
    weights = metrics.log_weights(LinearGaussian(2), x, None, 20_000, chunk=40_000)
    estimate, effective = metrics.log_likelihood(weights)
    assert torch.allclose(estimate.float(), exact, atol=0.05) and 1 < effective.min() < 19_000
    bounds = [metrics.iwae_bound(weights, k) for k in (1, 5, 50, 20_000)]
    assert bounds == sorted(bounds) and bounds[0] < exact.mean() - 0.1


def test_effective_samples_of_one_heavy_weight_are_one():
    _, effective = metrics.log_likelihood(torch.tensor([[0.0], [-50.0], [-60.0]]))
    assert effective.item() == pytest.approx(1)


@pytest.mark.filterwarnings("error::UserWarning")
def test_one_picture_has_no_standard_error(runs, monkeypatch, capsys):
    first = torch.zeros(1, dtype=torch.long)
    monkeypatch.setattr(metrics.torch, "randperm", lambda *args, **options: first)
    (report,) = judged(capsys, runs["vae"], "--log-likelihood", "50", "-n", "2")
    assert report["standard_error"] is None and report["elbo"] < 0


def test_bounds_of_a_vae_are_in_order(runs, capsys):
    (report,) = judged(capsys, runs["vae"], "--log-likelihood", "100", "-n", "20")
    assert report["elbo"] <= report["iwae_5"] <= report["iwae_50"] <= report["log_likelihood"] + 1e-6
    assert report["amortization_gap"] > 0 and "gray" in report["note"]
    assert metrics.main([runs["vae"], "--log-likelihood", "50", "-n", "5"]) == 0
    assert "IWAE, 5 samples" in capsys.readouterr().out


def test_log_likelihood_of_another_model_is_refused(runs, refused):
    assert "is of VAEs" in refused(metrics.main, [runs["ae"], "--log-likelihood", "50"])


# -----------------------------------------------------------------------------------------------------------
# Two sets of features


def spread_out(n, d, seed=0):
    random = np.random.RandomState(seed)
    return random.randn(n, d) @ random.randn(d, d) + random.randn(d)


def scipys_distance(a, b):
    c1, c2 = np.cov(a.T), np.cov(b.T)
    root = scipy.linalg.sqrtm(c1 @ c2).real
    return ((a.mean(0) - b.mean(0)) ** 2).sum() + np.trace(c1 + c2 - 2 * root)


def moments(features):
    return features.mean(0), np.cov(features.T)


def test_frechet_distance_is_scipys_and_the_closed_forms():
    a, b = spread_out(60, 8), spread_out(50, 8, seed=1)
    for one, two in ((a, b), (b, a)):
        assert metrics.fid(one, two) == pytest.approx(scipys_distance(a, b), rel=1e-9)
        assert metrics.frechet_distance(*moments(one), *moments(two)) == pytest.approx(metrics.fid(a, b))
    assert metrics.fid(a, a + 3) == pytest.approx(8 * 9)  # equal covariances: the means' distance alone
    assert 0 <= metrics.fid(a, a) < 1e-9
    c1, c2 = np.array([4.0, 1.0, 0.0]), np.array([1.0, 9.0, 0.25])  # diagonal: (2 - 1)² + (1 - 3)² + 0.5²
    zero = np.zeros(3)
    for one, two in ((c1, c2), (c2, c1)):
        assert metrics.frechet_distance(zero, np.diag(one), zero, np.diag(two)) == pytest.approx(5.25)


@pytest.mark.parametrize("n, m", [(5, 50), (5, 7), (12, 5), (2, 2)])
def test_with_fewer_images_than_dimensions_the_distance_is_that_of_the_moments(n, m):
    d = 10
    a, b = spread_out(n, d), spread_out(m, d, seed=1)
    exact = metrics.frechet_distance(*moments(a), *moments(b))
    for one, two in ((a, b), (b, a)):
        assert metrics.fid(one, two) == pytest.approx(exact, rel=1e-9)
    assert metrics.fid(a, a) == pytest.approx(0, abs=1e-9) and metrics.fid(a, a) >= 0


def test_duplicates_and_constant_features_have_a_distance():
    a = spread_out(30, 6)
    twice = np.concatenate([a, a])
    assert metrics.fid(twice, twice) == pytest.approx(0, abs=1e-9)
    black = np.zeros((40, 6))
    assert metrics.fid(black, black) == 0
    expected = (a.mean(0) ** 2).sum() + np.trace(np.cov(a.T))
    assert metrics.fid(black, a) == metrics.fid(a, black) == pytest.approx(expected)


@pytest.mark.parametrize("n, m", [(600, 700), (600, 90), (90, 600), (90, 40)])
def test_blocks_of_a_triangle_give_the_distance_of_the_whole(n, m):
    a, b = spread_out(n, 520), 0.5 * spread_out(m, 520, seed=1)  # more than two blocks
    c1, c2 = np.cov(a.T), np.cov(b.T)
    left, right = ((x - x.mean(0)) / math.sqrt(len(x) - 1) for x in (a, b))  # factors of c1 and c2
    cross = scipy.linalg.svdvals(left @ right.T).sum()
    expected = ((a.mean(0) - b.mean(0)) ** 2).sum() + np.trace(c1) + np.trace(c2) - 2 * cross
    distance = metrics.frechet_distance(a.mean(0), c1, b.mean(0), c2)
    assert distance == pytest.approx(expected, rel=1e-9)


def test_a_nearly_singular_covariance_adds_no_distance():
    a = spread_out(300, 20) * np.logspace(0, -9, 20)  # Cholesky works, its last pivots are noise
    b = a + 1e-3
    assert metrics.frechet_distance(*moments(a), *moments(b)) == pytest.approx(20 * 1e-6, rel=1e-2)


def test_statistics_in_parts_are_those_of_the_whole(monkeypatch):
    monkeypatch.setattr(metrics, "CAPACITY", 50)
    x = torch.from_numpy(spread_out(101, 7)) + 1e4  # far from 0, where squares would round
    for size in (1, 10, 101):
        mean, cov = metrics.extract(lambda part: (part, None), x.float(), size).moments
        np.testing.assert_allclose(mean, x.float().double().mean(0), rtol=1e-12)
        np.testing.assert_allclose(cov, np.cov(x.float().double().numpy().T), rtol=1e-9)


def plain_kid(x, y):
    """The unbiased estimate in loops."""

    def k(a, b):
        return (a @ b / len(a) + 1) ** 3

    n, m = len(x), len(y)
    xx = sum(k(x[i], x[j]) for i in range(n) for j in range(n) if i != j) / (n * (n - 1))
    yy = sum(k(y[i], y[j]) for i in range(m) for j in range(m) if i != j) / (m * (m - 1))
    return xx + yy - 2 * sum(k(a, b) for a in x for b in y) / (n * m)


def test_kid_of_one_whole_subset_is_the_formula():
    x, y = spread_out(12, 5), spread_out(12, 5, seed=1)
    assert metrics.kid(x, y, subsets=1, subset_size=100) == pytest.approx((plain_kid(x, y), 0), rel=1e-9)


def test_kid_of_subsets_is_that_of_the_chosen_ones():
    x, y = torch.from_numpy(spread_out(30, 4)), torch.from_numpy(spread_out(20, 4, seed=1))
    random, values = torch.Generator().manual_seed(3), []
    for _ in range(5):
        chosen = [f[torch.randperm(len(f), generator=random)[:7]].numpy() for f in (x, y)]
        values.append(plain_kid(*chosen))
    assert metrics.kid(x, y, 5, 7, seed=3) == pytest.approx((np.mean(values), np.std(values)), rel=1e-9)


def test_kid_has_no_bias():
    random, values = np.random.RandomState(0), []
    for seed in range(200):
        x = random.randn(40, 3)
        values.append(metrics.kid(x[:20], x[20:], 1, 20, seed)[0])
    assert abs(np.mean(values)) < 4 * np.std(values) / math.sqrt(200) and min(values) < 0


def test_precision_and_recall_agree_with_loops():
    real, drawn = spread_out(40, 3), spread_out(30, 3, seed=1)

    def share(members, others, k):
        gaps = scipy.spatial.distance.cdist(members, members)
        radii = [sorted(row)[k] for row in gaps]  # the first is the way to itself
        return np.mean(
            [any(np.linalg.norm(o - m) <= r for m, r in zip(members, radii, strict=True)) for o in others]
        )

    for k in (1, 3):
        expected = share(real, drawn, k), share(drawn, real, k)
        assert metrics.precision_recall(real, drawn, k) == pytest.approx(expected)
    assert 0 < metrics.precision_recall(real, drawn, 3)[0] < 1


def test_precision_and_recall_of_the_same_and_of_distant_sets():
    real = spread_out(50, 4)
    assert metrics.precision_recall(real, real) == (1, 1)
    assert metrics.precision_recall(real, real + 1e3) == (0, 0)
    assert metrics.precision_recall(np.ones((9, 4)), np.ones((7, 4))) == (1, 1)  # all alike
    one_mode = np.repeat(real[:1], 50, 0) + 1e-9 * spread_out(50, 4, seed=2)
    precision, recall = metrics.precision_recall(real, one_mode)
    assert precision == 1 and recall <= 0.02  # what it draws is good, and always the same


def test_inception_score_of_known_answers():
    sure = 50 * torch.eye(10).repeat(30, 1)
    assert metrics.inception_score(sure, seed=None) == pytest.approx((10, 0), rel=1e-6)
    assert metrics.inception_score(sure, splits=1) == pytest.approx((10, 0), rel=1e-6)
    assert metrics.inception_score(torch.zeros(100, 10)) == pytest.approx((1, 0))
    assert metrics.inception_score(50 * torch.eye(10)[:1].repeat(100, 1)) == pytest.approx((1, 0))


def test_inception_score_is_the_formula_and_shuffles_by_its_seed():
    logits, scores = 3 * torch.randn(50, 6), []
    for part in np.array_split(logits.double().softmax(1).numpy(), 5):
        divergences = [scipy.stats.entropy(row, part.mean(0)) for row in part]
        scores.append(np.exp(np.mean(divergences)))
    score = metrics.inception_score(logits, 5, seed=None)
    assert score == pytest.approx((np.mean(scores), np.std(scores)), rel=1e-6)
    assert metrics.inception_score(logits, 5, seed=1) == metrics.inception_score(logits, 5, seed=1) != score


# -----------------------------------------------------------------------------------------------------------
# What the functions take and what they refuse

X = spread_out(12, 4)
Y = spread_out(15, 4, seed=1)
OF_TWO_SETS = [metrics.fid, metrics.kid, metrics.precision_recall]


@pytest.mark.parametrize("function", OF_TWO_SETS)
@pytest.mark.parametrize("change", [
    lambda x: x[::-1][::-1],
    lambda x: np.ascontiguousarray(x[:, ::-1])[:, ::-1],
    lambda x: x.astype(">f8"),
    lambda x: x.astype(np.longdouble),
    lambda x: x.tolist(),
    lambda x: np.ma.masked_array(x),
    lambda x: torch.tensor(x, requires_grad=True),
])  # fmt: skip
def test_every_array_of_real_numbers_is_read(function, change):
    assert function(change(X), change(Y)) == function(X, Y)


@pytest.mark.parametrize("function", [*OF_TWO_SETS, lambda x, y: metrics.inception_score(x, splits=1)])
@pytest.mark.parametrize("wrong, message", [
    (X + 1j, "real numbers"),
    (torch.from_numpy(X + 1j), "real numbers"),
    (X.astype(object), "object"),
    (X.astype(str), "<U"),
    (X.astype("datetime64[s]"), "datetime64"),
    (np.ma.masked_greater(X, 0), "masked"),
    (scipy.sparse.csr_matrix(X), "dense"),
    (torch.from_numpy(X).to_sparse(), "dense"),
    (torch.zeros(12, 4, device="meta"), "meta"),
    ([[1, 2], [3]], "dense"),
    ("text", "<U4"),
    (None, "object"),
    (X[0], "2 dimensions"),
    (X[None], "2 dimensions"),
    (X[:0], "shape"),
    (X[:, :0], "shape"),
    (np.where(X > 1, math.nan, X), "NaN or infinity"),
    (np.where(X > 1, -math.inf, X), "NaN or infinity"),
    (1e200 * X, "too large"),
    (1e-200 * X, "too small"),
])  # fmt: skip
def test_what_has_no_distance_is_refused(function, wrong, message):
    with pytest.raises(metrics.MetricError) as error:
        function(wrong, Y)
    assert message in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize("function", OF_TWO_SETS)
def test_sets_that_cannot_be_compared_are_refused(function):
    for pair in ((X[:1], Y), (Y, X[:1])):
        with pytest.raises(metrics.MetricError, match="give 2 or more"):
            function(*pair)
    with pytest.raises(metrics.MetricError, match="features of 4 and 3 dimensions"):
        function(X, Y[:, :3])


@pytest.mark.parametrize("call", [
    lambda value: metrics.kid(X, Y, subsets=value),
    lambda value: metrics.kid(X, Y, subset_size=value),
    lambda value: metrics.kid(X, Y, seed=value),
    lambda value: metrics.precision_recall(X, Y, k=value),
    lambda value: metrics.inception_score(X, splits=value),
    lambda value: metrics.inception_score(X, 1, seed=value),
    lambda value: metrics.iwae_bound(torch.from_numpy(X), value),
])  # fmt: skip
@pytest.mark.parametrize("wrong", [-1, 1.5, "1", [1], 10**20])
def test_counts_that_mean_nothing_are_refused(call, wrong):
    with pytest.raises(metrics.MetricError) as error:
        call(wrong)
    assert call(np.int64(1)) if "subset_size" not in str(error.value) else call(np.int64(2))


@pytest.mark.parametrize("call", [
    lambda: metrics.kid(X, Y, subsets=0),
    lambda: metrics.kid(X, Y, subset_size=1),
    lambda: metrics.kid(X, Y, seed=None),
    lambda: metrics.precision_recall(X, Y, k=0),
    lambda: metrics.precision_recall(X, Y, k=12),
    lambda: metrics.precision_recall(X[:3], Y),
    lambda: metrics.inception_score(np.eye(10)),
    lambda: metrics.inception_score(np.zeros((99, 10))),
    lambda: metrics.inception_score(X, splits=0),
    lambda: metrics.coverage(torch.zeros(0, dtype=torch.long), 3),
    lambda: metrics.log_weights(LinearGaussian(1), torch.zeros(0, 1, 2, 3), None, 5),
])  # fmt: skip
def test_too_few_images_have_no_number(call):
    with pytest.raises(metrics.MetricError):
        call()


def test_one_feature_has_a_distance():
    a = spread_out(20, 1)
    b = spread_out(30, 1, seed=1)
    gap = a.mean() - b.mean(), a.std(ddof=1) - b.std(ddof=1)
    assert metrics.fid(a, b) == pytest.approx(gap[0] ** 2 + gap[1] ** 2)
    assert metrics.extract(metrics.Pixels(), torch.zeros(3, 1, 1, 1, dtype=torch.uint8)).n == 3


ZERO = np.zeros(2)
EYE = np.eye(2)


@pytest.mark.parametrize("mean, cov, message", [
    (ZERO, -EYE, "negative"),
    (ZERO, [[1, 2], [2, 1]], "negative"),
    (ZERO, [[1, 5], [0, 1]], "symmetric"),
    (ZERO[:1], EYE, r"not \[1\]"),
    (ZERO, np.ones((2, 3)), "not"),
    (ZERO, EYE[0], "2 dimensions"),
    (ZERO, EYE * math.nan, "NaN"),
    (ZERO + math.inf, EYE, "infinity"),
    (np.zeros(3), np.eye(3), "3 and 2|2 and 3"),
    (np.zeros(100), np.eye(100) + np.eye(100, k=90), "symmetric"),
])  # fmt: skip
def test_moments_of_nothing_have_no_distance(mean, cov, message):
    for moments in ((mean, cov, ZERO, EYE), (ZERO, EYE, mean, cov)):
        with pytest.raises(metrics.MetricError, match=message):
            metrics.frechet_distance(*moments)


@pytest.mark.parametrize("flat", [np.zeros((2, 2)), np.diag([1.0, 0.0])])
def test_a_negative_variance_is_found_where_the_other_covariance_is_flat(flat):
    for covariances in ((np.diag([1.0, -1.0]), flat), (flat, np.diag([1.0, -1.0]))):
        with pytest.raises(metrics.MetricError, match="negative"):
            metrics.frechet_distance(ZERO, covariances[0], ZERO, covariances[1])


def test_covariances_may_be_singular_and_rounded_to_float32():
    assert metrics.frechet_distance(ZERO, 0 * EYE, ZERO + 1, 0 * EYE) == 2
    _, cov = moments(spread_out(5, 8))  # of rank 4
    assert metrics.frechet_distance(X[0], cov[:4, :4], X[0], cov[:4, :4].astype(np.float32)) < 1e-3


@pytest.mark.parametrize("offset", [1e6, 1e8])
def test_precision_and_recall_do_not_depend_on_where_the_origin_is(offset):
    near = 0.7 * X[:, :4] + 0.3 * Y[:12]
    expected = metrics.precision_recall(X, near, 1)
    assert metrics.precision_recall(X + offset, near + offset, 1) == expected != (1, 1)
    assert metrics.precision_recall(X + offset, X + offset + 1e3) == (0, 0)


def test_network_features_take_no_float64_on_the_device():
    """As on Apple's GPUs, which have none."""

    class NoFloat64(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            result = function(*args, **(kwargs or {}))
            assert not (isinstance(result, torch.Tensor) and result.dtype == torch.float64), function
            return result

    x = torch.randint(256, (2, 1, 8, 8), dtype=torch.uint8)
    with NoFloat64():
        for resize in ("torch", "tf1"):
            metrics.prepare(x, resize)
        metrics.Pixels()(x)
        metrics.predictions(Fake(), pictures_of([0, 1], [0.5, 0.5]))


# -----------------------------------------------------------------------------------------------------------
# Sets of images on the command line


@pytest.fixture(scope="module")
def sets(tmp_path_factory):
    """Two sets of the same kind, 60 and 80 digits of 7 x 7: arrays, and paths of a folder and an .npy."""
    folder, arrays = tmp_path_factory.mktemp("sets"), {}
    with np.load(data.BUILT_IN / "mnist10k.npz") as whole:
        arrays["a"], arrays["b"] = whole["x_train"][:60, ::4, ::4], whole["x_train"][60:140, ::4, ::4]
    (folder / "a").mkdir()
    for k, picture in enumerate(arrays["a"]):
        Image.fromarray(picture).save(folder / "a" / f"{k:03}.png")
    np.save(folder / "b.npy", arrays["b"])
    np.save(folder / "color.npy", np.stack([arrays["b"]] * 3, 1))
    np.save(folder / "one.npy", arrays["b"][:1])
    np.save(folder / "nan.npy", np.full((9, 7, 7), math.nan))
    np.savez(folder / "moments.npz", mu=np.zeros(3), sigma=np.eye(4))
    np.savez(folder / "splits.npz", x_train=arrays["a"], x_test=arrays["b"])
    (folder / "folder.png").mkdir()
    (folder / "empty").mkdir()
    (folder / "broken.npy").write_bytes(b"text")
    (folder / "sizes").mkdir()
    for size in (7, 9):
        Image.fromarray(np.zeros((size, size), np.uint8)).save(folder / "sizes" / f"{size}.png")
    return arrays | {"folder": folder}


def test_two_sets_of_pictures_are_compared_by_one_command(sets, capsys):
    a, b = sets["folder"] / "a", sets["folder"] / "b.npy"
    (report,) = judged(capsys, str(a), "--against", str(b), "--features", "pixels")
    row, flat = report["sets"], [sets[name].reshape(-1, 49) / 255 for name in "ab"]
    assert row["fid"] == pytest.approx(metrics.fid(*flat), rel=1e-4) and row["n"], row["n_real"] == (60, 80)
    assert row["kid"] == pytest.approx(metrics.kid(*flat), rel=1e-3)
    assert [row["precision"], row["recall"]] == [*metrics.precision_recall(flat[1], flat[0])]
    assert row["spread_over"] == "5 disjoint parts of 12 images" and row["fid_parts"][0] > row["fid"]
    assert row["floor"][1:] == [40, 40] and row["floor"][0] > 0 and row["against"] == str(b)
    assert metrics.main([str(a), str(b), "--against", str(b), "--features", "pixels"]) == 0
    out = capsys.readouterr().out
    for message in (
        "FID-p",
        f"{row['fid']:.4g}",
        "NOTE: 60 images",
        "features: pixels",
        "floor: ",
        "12 images",
    ):
        assert message in out
    assert "IS-p" in out and max(map(len, out.splitlines())) < 250
    assert "against the other, 40 images each" in out  # the floor is of halves, and message so
    assert metrics.main([str(b), "--against", str(b), "--features", "pixels"]) == 0
    assert "± 0.00" not in capsys.readouterr().out  # whole sets have no spread


def test_samples_of_a_run_are_compared_with_its_test_pictures(runs, capsys):
    (report,) = judged(capsys, runs["vae"], "--features", "pixels", "-n", "40", "--sets", "3")
    row = report["sets"]
    run = sample.Run(runs["vae"])
    real = run.dataset.test.x.flatten(1) / 255
    values = []
    for seed in range(3):
        torch.manual_seed(seed)
        with torch.inference_mode():
            drawn = (255 * run.model.sample(40)).round() / 255
        values.append(metrics.fid(drawn.flatten(1), real))
    assert row["fid"] == pytest.approx(np.mean(values), rel=1e-3)
    assert row["fid_parts"][1] == pytest.approx(np.std(values, ddof=1), rel=1e-2)
    assert row["spread_over"] == "3 sets of 40 images" and row["floor"][1] == 40
    more = ["--scale", "0.5", "--truncate", "1"]
    (cut,) = judged(capsys, runs["vae"], "--features", "pixels", "-n", "40", "--sets", "3", *more)
    assert "latents cut off at ±1, x 0.5" in cut["sets"]["protocol"] and "latents" not in row["protocol"]


def test_a_classifier_has_the_name_of_its_folder_also_from_within(runs, monkeypatch, capsys):
    monkeypatch.chdir(runs["classifier"])
    argv = [runs["cvae"], "--features", "classifier:.", "-n", "9", "--sets", "1"]
    assert judged(capsys, *argv)[0]["sets"]["protocol"].startswith("features: classifier, SHA-256")


def test_a_classifiers_features_give_an_inception_score_of_their_own(runs, capsys):
    argv = [runs["cvae"], "--features", f"classifier:{runs['classifier']}", "-n", "100", "--sets", "2"]
    (report,) = judged(capsys, *argv)
    assert 1 <= report["sets"]["is"] <= 10 and np.sum(report["confusion"]) == 100
    assert metrics.main(argv) == 0
    out = capsys.readouterr().out
    assert "FID-c" in out and "IS-c" in out and "modes: " in out


def test_coverage_counts_classes_and_how_even_they_are():
    for predicted, expected in (([0, 1, 2, 3], 4), ([0] * 9, 1)):
        coverage = metrics.coverage(torch.tensor(predicted), 10)
        assert coverage["classes"] == expected
        assert coverage["evenly"] == pytest.approx(expected)
    uneven = metrics.coverage(torch.tensor([0] * 9 + [1]), 2)
    assert uneven["evenly"] == pytest.approx(math.exp(scipy.stats.entropy([0.9, 0.1])))


def test_statistics_are_saved_as_pytorch_fid_has_them_and_read_again(sets, tmp_path, capsys):
    a, b, stats = str(sets["folder"] / "a"), str(sets["folder"] / "b.npy"), str(tmp_path / "b.npz")
    assert metrics.main([b, "--features", "pixels", "--save-stats", stats]) == 0
    with np.load(stats) as arrays:
        flat = sets["b"].reshape(-1, 49) / 255
        np.testing.assert_allclose(arrays["mu"], flat.mean(0), atol=1e-6)
        np.testing.assert_allclose(arrays["sigma"], np.cov(flat.T), atol=1e-6)
    rows = [judged(capsys, a, "--against", real, "--features", "pixels")[0]["sets"] for real in (b, stats)]
    assert rows[0]["fid"] == pytest.approx(rows[1]["fid"], rel=1e-6) and "kid" not in rows[1]
    (both,) = judged(capsys, stats, "--against", stats, "--features", "pixels")
    assert both["sets"]["fid"] == pytest.approx(0, abs=1e-9)
    assert metrics.main([a, "--against", stats, "--features", "pixels"]) == 0


def test_statistics_of_other_features_are_refused_where_it_is_known(sets, tmp_path, refused):
    b, stats = str(sets["folder"] / "b.npy"), str(tmp_path / "b.npz")
    np.savez(stats, x=sets["a"])
    argv = [b, "--features", "pixels", "--save-stats", stats]
    assert "holds no statistics" in refused(metrics.main, argv)
    damaged = Path(stats).read_bytes().replace(b"PK\1\2", b"XXXX")  # in its list of contents
    Path(stats).write_bytes(damaged)
    assert "holds no statistics" in refused(metrics.main, argv)
    Path(stats).unlink()
    assert metrics.main(argv) == 0 and metrics.main(argv) == 0
    with np.load(stats) as arrays:
        mu, sigma, protocol = arrays["mu"], arrays["sigma"], str(arrays["protocol"])
    np.savez(stats, mu=mu, sigma=sigma, protocol="features: others")
    argv = [b, "--against", stats, "--features", "pixels"]
    assert f"{stats} is of features: others, but this is {protocol}" in refused(metrics.main, argv)
    np.savez(stats, mu=mu, sigma=sigma)  # as pytorch-fid writes it
    assert metrics.main(argv) == 0


@pytest.mark.filterwarnings("error::UserWarning")
def test_bars_are_drawn(sets, tmp_path, capsys):
    out = tmp_path / "bars.png"
    a, b = str(sets["folder"] / "a"), str(sets["folder"] / "b.npy")
    assert metrics.main([a, b, "--against", b, "--features", "pixels", "--out", str(out)]) == 0
    assert Image.open(out).width > 300
    np.save(tmp_path / "d$^$.npy", sets["b"])  # no formula
    argv = [str(tmp_path / "d$^$.npy"), "--against", b, "--features", "pixels"]
    assert metrics.main([*argv, "--out", str(out)]) == 0


def test_the_batch_size_changes_no_number(sets, capsys):
    a, b, rows = str(sets["folder"] / "a"), str(sets["folder"] / "b.npy"), []
    for size in ("1", "7", "500"):
        argv = [a, "--against", b, "--features", "pixels", "--batch-size", size]
        rows.append(judged(capsys, *argv)[0]["sets"])
    assert rows[0] == rows[1] == rows[2]


def test_more_images_than_the_capacity_are_compared_by_their_moments(monkeypatch):
    x, y = torch.randint(256, (2, 90, 1, 3, 3), dtype=torch.uint8)
    whole, other = (metrics.extract(metrics.Pixels(), images) for images in (x, y))
    monkeypatch.setattr(metrics, "CAPACITY", 50)
    large = metrics.extract(metrics.Pixels(), x, batch_size=20)
    assert len(large.features) == 50 and large.n == 90
    distance = metrics.set_distance(whole, other)
    assert metrics.set_distance(large, other) == pytest.approx(distance, rel=1e-9)


def test_a_random_part_of_many_images_is_held_whatever_their_order_and_the_batch_size(
    tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr(metrics, "CAPACITY", 50)
    x = np.random.RandomState(0).randint(0, 100, (400, 3, 3)).astype(np.uint8)
    x[200:] += 150  # as a folder comes, class after class
    np.save(tmp_path / "x.npy", x)
    np.save(tmp_path / "y.npy", x[np.random.RandomState(1).permutation(400)])
    argv = [str(tmp_path / "x.npy"), "--against", str(tmp_path / "y.npy"), "--features", "pixels"]
    rows = [judged(capsys, *argv, "--batch-size", size)[0]["sets"] for size in ("7", "60")]
    for row in rows:
        assert row["kid"] == rows[0]["kid"] and abs(row["kid"][0]) < 0.05 and row["recall"] > 0.5
        assert row["fid"] == pytest.approx(0, abs=1e-9) and row["spread_over"].endswith("of 10 images")
    assert metrics.main(argv) == 0 and "of 50 images, at random of 400" in capsys.readouterr().out


@pytest.mark.parametrize("flag, name", [
    ("--save-stats", "pics.npz"),
    ("--save-stats", "./pics.npz"),
    ("--save-stats", "link.npz"),
    ("--save-stats", "photos/new.npz"),
    ("--out", "photos/class/0.png"),
    ("--out", "photos/new.png"),
    ("--out", "link.png"),
])  # fmt: skip
def test_an_output_never_takes_the_place_of_an_input(flag, name, sets, tmp_path, monkeypatch, refused):
    monkeypatch.chdir(tmp_path)
    np.savez("pics.npz", x=sets["a"])
    Path("link.npz").symlink_to("pics.npz")
    Path("photos/class").mkdir(parents=True)
    Image.fromarray(sets["a"][0]).save("photos/class/0.png")
    Path("photos/class/1.png").symlink_to("0.png")
    Path("link.png").symlink_to("pics.npz")
    before = {path: path.read_bytes() for path in Path().rglob("*") if path.is_file()}
    source = "photos" if "photos" in name else "pics.npz"
    error = refused(metrics.main, [source, "--against", source, "--features", "pixels", flag, name])
    assert f"{name} belongs to {source}" in error
    assert {path: path.read_bytes() for path in Path().rglob("*") if path.is_file()} == before
    assert Path("link.npz").is_symlink() and Path("link.png").is_symlink()


@pytest.fixture
def split_sources(tmp_path):
    """A folder and an .npz of 8 black training and 6 white test pictures, and a folder without splits."""
    x = {"train": np.zeros((8, 5, 5), np.uint8), "test": np.full((6, 5, 5), 255, np.uint8)}
    np.savez(tmp_path / "pics.npz", x_train=x["train"], x_test=x["test"])
    for split, images in x.items():
        (tmp_path / "folder" / split / "digit").mkdir(parents=True)
        (tmp_path / "plain").mkdir(exist_ok=True)
        for k, image in enumerate(images):
            Image.fromarray(image).save(tmp_path / "folder" / split / "digit" / f"{k}.png")
            Image.fromarray(image).save(tmp_path / "plain" / f"{split}{k}.png")
    return tmp_path


@pytest.mark.parametrize("name, flags, mean, n", [
    ("pics.npz", "", 1, 6),
    ("pics.npz", "--split train", 0, 8),
    ("folder", "", 1, 6),
    ("folder", "--split train", 0, 8),
    ("plain", "", 6 / 14, 14),
])  # fmt: skip
def test_only_the_split_of_a_source_is_read(name, flags, mean, n, split_sources, capsys):
    stats = split_sources / "stats.npz"
    source = str(split_sources / name)
    argv = [source, "--features", "pixels", "--against", source, *flags.split()]
    assert metrics.main([*argv, "--save-stats", str(stats)]) == 0
    with np.load(stats) as arrays:
        np.testing.assert_allclose(arrays["mu"], mean, rtol=1e-6)
    row = judged(capsys, *argv)[0]["sets"]
    assert (row["n"], row["n_real"]) == (n, n)
    assert ("its t" in row["protocol"]) == (name != "plain")


@pytest.mark.parametrize("name", ["./mnist", "mnist10k/"])
def test_a_folder_may_have_the_name_of_a_data_set(name, sets, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(sets["folder"] / "a", name)
    row = judged(capsys, name, "--against", str(sets["folder"] / "b.npy"), "--features", "pixels")[0]["sets"]
    assert row["n"] == 60


def test_a_bar_has_the_deviation_of_what_it_shows(monkeypatch):
    errors = []
    barh = matplotlib.axes.Axes.barh

    def draw(*args, xerr, **style):
        errors.append(xerr)
        return barh(*args, xerr=xerr, **style)

    monkeypatch.setattr(matplotlib.axes.Axes, "barh", draw)
    row = dict(name="a", mark="-p", fid=2.0, fid_parts=(9.0, 0.5))
    whole, mean, without = row | dict(n_sets=1), row | dict(n_sets=5), dict(name="b", mark="-p", n_sets=1)
    metrics.draw_bars([whole, mean, without], io.BytesIO(), "png")
    assert errors == [[0, 0.5, 0]]


@pytest.mark.parametrize("kind, beginning", [("png", b"\x89PNG"), ("pdf", b"%PDF"), ("svg", b"<?xml")])
def test_bars_are_what_their_ending_says(kind, beginning, sets, tmp_path):
    out = tmp_path / f"bars.{kind}"
    b = str(sets["folder"] / "b.npy")
    assert metrics.main([b, "--against", b, "--features", "pixels", "--out", str(out)]) == 0
    assert out.read_bytes().startswith(beginning)


@pytest.mark.parametrize("argv, notes", [
    ("{a} --against {b} --features pixels -n 9", {"-n"}),
    ("{a} --against {b} --features pixels --scale 2 --truncate 1", {"--scale", "--truncate"}),
    ("{a} --against {b} --features pixels --resize tf1", {"--resize"}),
    ("{a} --against {b} --features pixels --split train", {"--split"}),
    ("{classifier} --features pixels --batch-size 4", {"--features", "--batch-size"}),
    ("{vae} --log-likelihood 50 -n 3 --sets 2 --image-size 9", {"--sets", "--image-size"}),
    ("{vae} --features pixels -n 9 --sets 2 --scale 2 --split train", set()),
])  # fmt: skip
def test_flags_that_change_nothing_are_noted(argv, notes, sets, runs, capsys):
    paths = runs | {"a": sets["folder"] / "a", "b": sets["folder"] / "b.npy"}
    capsys.readouterr()
    assert metrics.main([word.format(**paths) for word in argv.split()]) == 0
    lines = capsys.readouterr().err.splitlines()
    assert {line.split()[1] for line in lines if "does nothing" in line} == notes


def test_too_few_images_have_a_dash_and_a_note_for_an_inception_score(runs, capsys):
    argv = [runs["vae"], "--features", f"classifier:{runs['classifier']}", "-n", "99", "--sets", "1"]
    row = judged(capsys, *argv)[0]["sets"]
    assert "is" not in row and row["fid"] > 0
    assert metrics.main(argv) == 0
    assert "99 images are too few for an IS" in " ".join(capsys.readouterr().out.split())


def test_control_characters_in_names_are_shown(sets, tmp_path, capsys):
    path = tmp_path / "a\x1b[2J.npy"
    np.save(path, sets["a"])
    argv = [str(path), "--against", str(path), "--features", "pixels", "--out", str(tmp_path / "bars.png")]
    assert metrics.main(argv) == 0
    out, error = capsys.readouterr()
    assert "\x1b" not in out + error and "a\\x1b[2J.npy" in out


def test_statistics_that_none_can_be_are_refused(tmp_path, refused):
    path, mu, sigma = str(tmp_path / "s.npz"), np.zeros(3), np.eye(3)
    for wrong in (
        dict(mu=mu, sigma=-sigma),
        dict(mu=mu, sigma=sigma + np.triu(np.ones((3, 3)), 1)),
        dict(mu=mu + 1j, sigma=sigma),
        dict(mu=np.array(["a", "b", "c"]), sigma=sigma),
        dict(mu=np.array(1.0), sigma=np.array(1.0)),
        dict(mu=np.zeros(0), sigma=np.zeros((0, 0))),
        dict(mu=mu, sigma=np.full((3, 3), math.inf)),
    ):
        np.savez(path, **wrong)
        argv = [path, "--against", path, "--features", "pixels"]
        assert f"{path} has no usable mu and sigma: " in refused(metrics.main, argv)


def test_pixels_that_are_drawn_anew_are_seeded(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(train.sample, "draw_run", lambda *run: [])
    run = str(tmp_path / "run")
    small = ["--encoder", "mlp", "--encoder-hidden", "8", "--steps", "1", "--binarize", "stochastic"]
    assert (
        train.main(["--model", "vae", "--data", digits(tmp_path / "x.npz", [3, 8]), "--out", run, *small])
        == 0
    )
    for argv in (["--features", "pixels", "-n", "9"], ["--log-likelihood", "50", "-n", "4"]):
        assert judged(capsys, run, *argv) == judged(capsys, run, *argv)


@pytest.mark.parametrize("argv, message", [
    ("{sets}/a --features pixels", "--against REAL"),
    ("{sets}/one.npy --against {sets}/b.npy --features pixels", "a set of 1 images"),
    ("{sets}/b.npy --against {sets}/one.npy --features pixels", "a set of 1 images"),
    ("{sets}/empty --against {sets}/b.npy --features pixels", "is not a run folder and holds no pictures"),
    ("{sets}/nan.npy --against {sets}/b.npy --features pixels", "pixels from nan"),
    ("{sets}/broken.npy --against {sets}/b.npy --features pixels", "no whole .npy"),
    ("{sets}/a --against {vae} --features pixels", "a run's samples are not real ones"),
    ("{vae} --against {cvae} --features pixels", "a run's samples are not real ones"),
    ("{small} --features classifier:{classifier}", "sizes of picture"),
    ("arithmetic --against {sets}/b.npy --features pixels", "no set of pictures"),
    ("{sets}/moments.npz --against {sets}/b.npy --features pixels", "no usable mu and sigma"),
    ("{sets}/color.npy --against {sets}/b.npy --features pixels", "features of 147 and 49 dimensions"),
    ("{sets}/b.npy --against {sets}/b.npy --features classifier:{classifier}", "knows pictures of"),
    ("{ae} --features pixels", "draws no samples"),
    ("{vae} --features pixels --out {sets}/folder.png", "folder.png is a folder"),
    ("{vae} --features pixels --out bars.xyz", "name a file .png, .pdf, .svg"),
    ("{sets}/splits.npz --against {sets}/b.npy --features pixels --split valid", "has no valid pictures"),
    ("{sets}/a --against {sets}/b.npy --batch-size 1" + 20 * "0", "--batch-size"),
    ("{sets}/a --against {sets}/b.npy --weights {sets}/broken.npy", "no whole file of weights"),
    ("{sets}/a --against {sets}/b.npy --weights {sets}/none.pth", "cannot read the weights"),
    ("{sets}/a --against {sets}/b.npy --device nowhere", "--device nowhere cannot be used here"),
    ("{sets}/a --against {sets}/b.npy --features pixels --image-size 5", "is of folders alone"),
    ("{sets}/a --against mnist10k --features pixels --image-size 5", "mnist10k has pictures of 28x28"),
    ("{sets}/sizes --against {sets}/b.npy --features pixels", "--image-size"),
    ("{sets}/a {sets}/b.npy --features pixels --save-stats {sets}/f.npz", "give one"),
    ("{sets}/a --features pixels --save-stats {sets}/f", "name a file .npz"),
    ("{sets}/a --features pixels --save-stats {sets}/none/f.npz", "no such folder"),
    ("{sets}/a --against {sets}/b.npy --features pixels --out {sets}/none/f.png", "no such folder"),
    ("{sets}/a --against {sets}/b.npy --features pixels --log-likelihood 50", "is of VAEs"),
    ("{classifier} --log-likelihood 50", "is of VAEs"),
    ("{classifier} --save-stats {sets}/f.npz", "none are compared"),
    ("{classifier} --out {sets}/f.png", "none are compared"),
    ("{vae} --features pixels --data fashion2k", "--data is for judging a classifier"),
])  # fmt: skip
def test_images_that_cannot_be_measured_are_reported_in_one_line(argv, message, sets, runs, refused):
    words = [word.format(**runs | {"sets": sets["folder"]}) for word in argv.split()]
    assert message.format(sets=sets["folder"]) in refused(metrics.main, words)


def test_a_folder_is_named_by_a_classifier(runs, tmp_path, capsys):
    x = data.load(runs["ten"]).test.x[:30]
    np.save(tmp_path / "x.npy", x)
    argv = [
        str(tmp_path / "x.npy"),
        "--against",
        runs["ten"],
        "--features",
        f"classifier:{runs['classifier']}",
    ]
    (report,) = judged(capsys, *argv)
    judge = sample.Run(runs["classifier"]).model
    predicted, confidence = metrics.predictions(judge, x / 255)
    assert report["first_answers"][:2] == [
        f"{c} {p:.0%}" for c, p in zip(predicted[:2], confidence[:2], strict=True)
    ]
    assert report["confidence"] == pytest.approx(100 * confidence.mean().item())
    assert report["coverage"] == pytest.approx(metrics.coverage(predicted, 10))
    assert report["sets"]["fid"] >= 0
    assert metrics.main(argv) == 0 and "labels it" in capsys.readouterr().out


def test_black_pictures_have_a_distance(tmp_path, capsys):
    np.save(tmp_path / "black.npy", np.zeros((20, 7, 7), np.uint8))
    black = str(tmp_path / "black.npy")
    (report,) = judged(capsys, black, "--against", black, "--features", "pixels")
    assert report["sets"]["fid"] == 0 and report["sets"]["precision"] == 1


def test_reconstructions_of_an_auto_decoder_are_of_its_learned_latents(runs, capsys):
    judge = ["--features", f"classifier:{runs['classifier']}", "-n", "20"]
    for split in ("train", "test"):
        (report,) = judged(capsys, runs["vad"], *judge, "--split", split)
        run = sample.Run(runs["vad"])
        latents = run.model.latents.weight if split == "train" else run.model.test_latents
        images = run.model.decode(models.Gaussian.from_params(latents).mean)
        predicted, _ = metrics.predictions(sample.Run(runs["classifier"]).model, images)
        expected = 100 * (predicted == run.dataset.split(split).y).float().mean().item()
        assert report["accuracy_on_reconstructions"] == pytest.approx(expected)


def test_a_gan_is_judged_without_reconstructions(runs, capsys):
    argv = [runs["gan"], "--features", f"classifier:{runs['classifier']}", "-n", "20"]
    (report,) = judged(capsys, *argv)
    assert report["samples"]["n"] == 20 and "accuracy_on_reconstructions" not in report
    assert metrics.main(argv) == 0


# ----------------------------------------------------------------------------------------------------------
# Inception

BENCHMARK = runpy.run_path(str(Path(metrics.__file__).parent / "benchmarks" / "metrics.py"))


def butterflies(n=3):
    x = data.load("butterflies1k").test.x
    return x[:: len(x) // n][:n]  # of several species


@pytest.fixture(scope="module")
def random_weights(tmp_path_factory):
    """A weights file in the published format, calibrated on three pictures."""
    path = tmp_path_factory.mktemp("weights") / "random.pth"
    BENCHMARK["random_weights"](path, butterflies())
    yield path
    path.unlink()  # 96 MB, and pytest keeps the folders of three runs


@pytest.fixture(scope="module")
def inception(random_weights):
    return metrics.Inception(random_weights)


def test_inception_has_the_names_and_the_shapes_of_the_published_file():
    with torch.device("meta"):
        graph = metrics.InceptionGraph()
    shapes = {name: list(tensor.shape) for name, tensor in graph.state_dict().items()}
    for name, shape in {
        "Conv2d_1a_3x3.conv.weight": [32, 3, 3, 3],
        "Mixed_5b.branch5x5_2.bn.running_var": [64],
        "Mixed_5d.branch_pool.conv.weight": [64, 288, 1, 1],
        "Mixed_6a.branch3x3dbl_3.conv.weight": [96, 96, 3, 3],
        "Mixed_6c.branch7x7dbl_4.conv.weight": [160, 160, 7, 1],
        "Mixed_6e.branch7x7_2.conv.weight": [192, 192, 1, 7],
        "Mixed_7a.branch7x7x3_4.bn.bias": [192],
        "Mixed_7b.branch3x3dbl_3a.conv.weight": [384, 384, 1, 3],
        "Mixed_7c.branch_pool.conv.weight": [192, 2048, 1, 1],
        "fc.weight": [1008, 2048],
        "fc.bias": [1008],
    }.items():
        assert shapes[name] == shape, name
    assert len([name for name in shapes if "num_batches" not in name]) == 94 * 5 + 2
    # torchvision's inception_v3 without its auxiliary classifier has 23,834,568, with 8 classes less
    assert sum(parameter.numel() for parameter in graph.parameters()) == 23_834_568 + 8 * 2049


@pytest.mark.parametrize("branches", [*map(metrics.MIXED.get, ["Mixed_5b", "Mixed_6a", "Mixed_7c"])])
def test_folded_batch_norm_gives_what_it_gave(branches):
    block = metrics.Block(branches, 16).eval()
    layers = [layer for layer in block.modules() if isinstance(layer, metrics.Convolution)]
    for layer in layers:
        torch.nn.init.kaiming_normal_(layer.conv.weight)
        for tensor in (layer.bn.weight, layer.bn.bias, layer.bn.running_mean, layer.bn.running_var):
            torch.nn.init.uniform_(tensor, 0.2, 2)
    x = torch.randn(2, 16, 9, 9)
    with torch.no_grad():
        before = block(x)
        for layer in layers:
            layer.fold()
        after = block.train()(x)
    assert before.shape[1] == block.channels and before.std() > 0.1
    assert not any("bn" in name for name in block.state_dict())
    assert torch.allclose(before, after, rtol=1e-4, atol=1e-5)


def test_a_convolution_of_one_pixel_is_a_product_of_matrices():
    layer = metrics.Convolution(6, 5, (1, 1), 2, (0, 0))
    layer.fold()
    torch.nn.init.normal_(layer.conv.bias)
    x = torch.randn(3, 6, 7, 8)
    product = torch.einsum("oc,nchw->nohw", layer.conv.weight[:, :, 0, 0], x[:, :, ::2, ::2])
    expected = (product + layer.conv.bias[:, None, None]).clamp(min=0)
    torch.testing.assert_close(layer(x), expected)


def test_pools_are_those_of_the_graph_of_2015():
    x = torch.ones(1, 2, 5, 5)
    assert torch.equal(metrics.Block(["mean,3x3"], 2)(x), x)  # with padding counted, edges would be 2/3
    x = torch.randn(1, 2, 7, 7)
    assert torch.equal(metrics.Block(["max,3x3/2"], 2)(x), torch.nn.functional.max_pool2d(x, 3, 2))
    pools = {name: branches[-1].split(",")[0] for name, branches in metrics.MIXED.items()}
    assert [name for name, pool in pools.items() if pool == "max"] == ["Mixed_6a", "Mixed_7a", "Mixed_7c"]


def test_features_are_sensible_and_those_of_each_picture_alone(inception, monkeypatch):
    x = butterflies()
    features, logits = inception(x)
    assert features.shape == (3, 2048) and logits.shape == (3, 1008) and features.dtype == torch.float32
    assert 0.05 < features.mean() < 5
    assert torch.nn.functional.pdist(features).min() > 0.1 * features.norm(dim=1).mean()
    again = torch.cat([inception(part)[0] for part in x.split(2)])
    assert (again - features).norm() < 2e-5 * features.norm()
    assert torch.allclose(logits, features @ inception.graph.fc.weight.T, atol=1e-4)  # no bias
    monkeypatch.setattr(inception, "resize", "tf1")
    other, _ = inception(x[:1])
    assert 1e-3 < (other - features[:1]).norm() / features[:1].norm() < 1


@pytest.mark.parametrize("resize", ["torch", "tf1"])
def test_gray_is_three_equal_channels(resize):
    gray = data.load("mnist10k").test.x[:2]
    prepared = metrics.prepare(gray, resize)
    assert prepared.shape == (2, 3, 299, 299)
    assert torch.allclose(prepared, metrics.prepare(gray.expand(-1, 3, -1, -1), resize), atol=1e-6)
    assert -1 <= prepared.min() < -0.9 and 0.9 < prepared.max() <= 1


@pytest.mark.parametrize("height, width", [(28, 64), (299, 299), (500, 310)])
def test_resize_of_tensorflow_1_agrees_with_a_loop(height, width):
    x = torch.rand(height, width)
    resized, random = metrics.resize_tf1(x[None, None])[0, 0], np.random.RandomState(0)
    for i, j in [(0, 0), (298, 298), *random.randint(299, size=(50, 2))]:
        (top, down), (left, right) = divmod(i * height / 299, 1), divmod(j * width / 299, 1)
        rows = [int(top), min(int(top) + 1, height - 1)]
        columns = [int(left), min(int(left) + 1, width - 1)]
        expected = (
            torch.tensor([1 - down, down]).float()
            @ x[rows][:, columns]
            @ torch.tensor([1 - right, right]).float()
        )
        assert resized[i, j].item() == pytest.approx(expected.item(), abs=1e-4)


def test_a_gpu_uses_cudnn_in_full_float32(inception, monkeypatch):
    flags = []
    cudnn = torch.backends.cudnn
    monkeypatch.setattr(metrics, "prepare", lambda *_: flags.append((cudnn.enabled, cudnn.allow_tf32)))
    monkeypatch.setattr(inception.graph, "forward", lambda x: None)
    inception(butterflies())
    assert flags == [(True, False)]


def test_only_uint8_pictures_are_looked_at(inception):
    for wrong in (torch.rand(1, 3, 8, 8), torch.zeros(3, 8, 8, dtype=torch.uint8)):
        with pytest.raises(metrics.MetricError, match="uint8"):
            inception(wrong)
    with pytest.raises(metrics.MetricError, match="'torch' or 'tf1'"):
        metrics.Inception("unread", resize="bicubic")


def test_wrong_weights_are_reported_in_one_line(tmp_path, random_weights):
    def message(path):
        with pytest.raises(metrics.MetricError) as caught:
            metrics.Inception(path)
        assert str(path) in str(caught.value) and "\n" not in str(caught.value)
        return str(caught.value)

    assert "No such file" in message(tmp_path / "none.pth")
    assert "cannot read" in message(tmp_path) and "cannot read" in message("\0")
    path = tmp_path / "wrong.pth"
    path.write_bytes(b"no weights")
    assert "no whole file" in message(path)
    torch.save({"Conv2d_1a_3x3.conv.weight": torch.zeros(32, 3, 3, 3)}, path)
    assert "Conv2d_1a_3x3.bn.weight [32]" in message(path)
    path.write_bytes(path.read_bytes()[:-100])
    assert "no whole file" in message(path)
    torch.save({"fc.weight": torch.zeros(99)}, path, _use_new_zipfile_serialization=False)  # as published
    assert "not FID's Inception" in message(path)
    path.write_bytes(path.read_bytes()[:-100])
    assert "no whole file" in message(path)
    for other in ([1, 2], {"fc.weight": "text"}, {"Conv2d_1a_3x3.conv.weight": torch.zeros(32, 1, 3, 3)}):
        torch.save(other, path)
        assert "not FID's Inception" in message(path)
    torch.save(Fake(), path)  # a whole module would run code
    assert "no whole file" in message(path)
    state = torch.load(random_weights, weights_only=True) | {"fc.weight": torch.zeros(1000, 2048)}
    torch.save(state, path)  # as torchvision's
    assert "fc.weight [1008, 2048]" in message(path)
    path.unlink()


def test_sha256_is_that_of_the_file(inception, random_weights):
    assert inception.sha256 == hashlib.sha256(random_weights.read_bytes()).hexdigest()
    assert metrics.WEIGHTS_SHA256.startswith(metrics.WEIGHTS[-12:-4]) and len(metrics.WEIGHTS_SHA256) == 64


@pytest.fixture
def mirror(monkeypatch):
    """A server that sends .answer (status, body, bytes really sent) for every address; .asked counts."""
    monkeypatch.setenv("no_proxy", "127.0.0.1")

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            server.asked += 1
            status, body, limit = server.answer
            self.send_response(status)
            self.send_header("Content-Length", len(body))
            self.end_headers()
            self.wfile.write(body[:limit])

        def log_message(self, *args):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.asked = 0
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    monkeypatch.setattr(metrics, "WEIGHTS_URL", f"http://127.0.0.1:{server.server_port}/{metrics.WEIGHTS}")
    monkeypatch.setattr(metrics, "WEIGHTS_SHA256", hashlib.sha256(b"weights" * 1000).hexdigest())
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


def test_weights_are_downloaded_once(mirror, tmp_path, monkeypatch, capsys):
    mirror.answer = (200, b"weights" * 1000, None)
    for _ in range(2):
        path = metrics.inception_weights(folder=tmp_path / "new")
        assert path.read_bytes() == b"weights" * 1000 and mirror.asked == 1
    assert capsys.readouterr().err.count("is saved as") == 1
    assert [*(tmp_path / "new").iterdir()] == [tmp_path / "new" / metrics.WEIGHTS]
    monkeypatch.setenv("DGM_DATA_DIR", str(tmp_path / "new"))
    assert metrics.inception_weights() == path and mirror.asked == 1
    monkeypatch.delenv("DGM_DATA_DIR")
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    assert metrics.inception_weights() == tmp_path / "torch" / "hub" / "checkpoints" / metrics.WEIGHTS
    assert mirror.asked == 2
    path.write_bytes(b"weights")
    with pytest.raises(metrics.MetricError, match="delete it"):
        metrics.Inception(metrics.inception_weights(tmp_path / "new"))


@pytest.mark.parametrize(
    "answer, message",
    [
        ((200, b"weights" * 1000, 70), "invalid hash value"),
        ((200, b"weights" * 999, None), "invalid hash value"),
        ((200, b"<!DOCTYPE html><html>not today</html>", None), "invalid hash value"),
        ((404, b"gone", None), "404"),
        (None, "refused"),
    ],
)
def test_weights_that_do_not_come_are_reported_with_remedies(mirror, tmp_path, monkeypatch, answer, message):
    mirror.answer = answer
    if answer is None:
        monkeypatch.setattr(metrics, "WEIGHTS_URL", "http://127.0.0.1:9/x")
    with pytest.raises(metrics.MetricError) as caught:
        metrics.inception_weights(folder=tmp_path)
    for part in (message, "--weights FILE", "--features classifier:RUN", "--features pixels"):
        assert part in str(caught.value)
    assert "\n" not in str(caught.value) and caught.value.status == 1 and not any(tmp_path.iterdir())
    (tmp_path / "file").write_text("")
    with pytest.raises(metrics.MetricError, match="--weights FILE"):
        metrics.inception_weights(folder=tmp_path / "file")


@pytest.fixture
def packages():
    for package in ("torchvision", "pytorch_fid", "torch_fidelity", "torchmetrics"):
        if not importlib.util.find_spec(package):
            pytest.skip(f"{package} is not installed, see requirements-bench.txt")


@pytest.mark.parametrize("rival, resize", [("pytorch-fid", "torch"), ("torch-fidelity", "tf1")])
def test_features_are_those_of_the_packages(rival, resize, random_weights, packages):
    _, theirs = BENCHMARK["rivals"](random_weights)[rival]
    ours = metrics.Inception(random_weights, resize)
    digits = data.load("mnist10k").test.x[:1]
    for x in (butterflies(), digits):
        with torch.no_grad():
            expected = theirs(x.expand(-1, 3, -1, -1))
        for values, wanted in zip(ours(x), expected, strict=False):  # logits of torch-fidelity alone
            assert wanted.std() > 0.05 and BENCHMARK["relative"](values, wanted) < 1e-4
    log_p = ours(butterflies())[1].double().log_softmax(1)
    mean = log_p.exp().mean(0)
    assert (log_p.exp() * (log_p - mean.log())).sum(1).mean().exp() > 2  # they are message apart


def test_numbers_of_the_same_features_are_those_of_the_packages(packages):
    generated, real, logits = (torch.from_numpy(spread_out(200, 8, seed)) for seed in range(3))
    real = 0.7 * generated + 0.3 * real
    ours = BENCHMARK["our_numbers"](generated, real, logits)
    theirs = BENCHMARK["their_numbers"](generated, real, logits)
    assert ours == pytest.approx(theirs, rel=1e-6)  # shares in float32
    assert [ours[k] for k in ("IS", "KID")] == pytest.approx([theirs[k] for k in ("IS", "KID")], rel=1e-9)
    assert 0.1 < ours["precision"] < 1 and ours["IS"] > 2
    for theirs in BENCHMARK["distances"]().values():
        moments = BENCHMARK["moments"](generated, real)
        for values in (metrics.frechet_distance(*moments), metrics.fid(generated, real)):
            assert BENCHMARK["relative"](values, theirs(*moments)) < 1e-9


def test_inceptions_numbers_from_the_command_line(sets, random_weights, tmp_path, capsys):
    np.save(tmp_path / "few.npy", sets["a"][:4])
    np.save(tmp_path / "others.npy", sets["b"][:5])
    small, others = str(tmp_path / "few.npy"), str(tmp_path / "others.npy")
    (report,) = judged(capsys, small, "--against", others, "--weights", str(random_weights))
    network = metrics.Inception(random_weights)
    features = [network(torch.from_numpy(sets[k][:n, None]))[0] for k, n in (("a", 4), ("b", 5))]
    assert report["sets"]["fid"] == pytest.approx(metrics.fid(*features), rel=1e-5)
    for message in (network.sha256, "resize torch", "gray", "seed 0", "NOT THE PUBLISHED ONES"):
        assert message in report["sets"]["protocol"]


def test_samples_against_statistics_are_reported_to_be_gray(runs, random_weights, tmp_path, capsys):
    np.savez(tmp_path / "real.npz", mu=np.zeros(2048), sigma=np.eye(2048))
    argv = [runs["vae"], "--against", str(tmp_path / "real.npz"), "--weights", str(random_weights)]
    assert "gray" in judged(capsys, *argv, "-n", "2", "--sets", "1")[0]["sets"]["protocol"]


def test_without_weights_nothing_is_put_in_their_place(sets, tmp_path, monkeypatch, refused):
    monkeypatch.setattr(metrics, "WEIGHTS_URL", "http://127.0.0.1:9/weights.pth")
    monkeypatch.setenv("DGM_DATA_DIR", str(tmp_path))
    error = refused(metrics.main, [str(sets["folder"] / "a"), "--against", str(sets["folder"] / "b.npy")])
    for way in ("--weights FILE", "--features classifier:RUN", "--features pixels"):
        assert way in error


# ----------------------------------------------------------------------------------------------------------
# Benchmarks


def load_benchmark(name):
    return runpy.run_path(str(Path(metrics.__file__).parent / "benchmarks" / f"{name}.py"))


def test_the_benchmark_of_metrics_runs(packages, capsys):
    BENCHMARK["main"](["--quick"])
    out = capsys.readouterr().out
    for package in ("pytorch-fid", "torch-fidelity", "torchmetrics"):
        assert package in out


def test_the_benchmark_of_gans_runs(runs, capsys):
    status = load_benchmark("gan")["main"]([runs["gan"], "--judge", runs["classifier"]])
    lines = capsys.readouterr().out.splitlines()
    assert status == 0
    assert [line.split()[0] for line in lines[1:]] == [lines[1].split()[0], "gan"]


def test_the_benchmark_of_fitted_latents_agrees_with_the_run(digits, tmp_path, capsys):
    with np.load(digits) as arrays:
        few = {name: arrays[name][:32] for name in ("x_train", "x_test")}  # two batches
    np.savez(tmp_path / "few.npz", **few)
    flags = f"--model ad --data {tmp_path / 'few.npz'} --objective report --latent-dim 4 --epochs 1"
    flags += f" --fit-epochs 1 --fit-lr 1e-2 --fit-batch-size 16 --out {tmp_path / 'ad'}"
    assert train.main(flags.split()) == 0
    capsys.readouterr()
    assert load_benchmark("latents")["main"]([str(tmp_path / "ad"), "--epochs", "1"]) == 0
    losses = dict(line.split(": ") for line in capsys.readouterr().out.splitlines())
    expected = json.loads((tmp_path / "ad" / "summary.json").read_text())["test"]["reconstruction"]
    assert float(losses["batches of 16"]) == pytest.approx(expected, abs=1e-4)
    assert float(losses["as the run"]) == pytest.approx(expected, rel=0.05)
    assert len(losses) == 8


def test_the_benchmark_of_resizes_runs(sets, random_weights, capsys):
    argv = [str(sets["folder"] / "b.npy"), "--quick", "--weights", str(random_weights)]
    assert load_benchmark("resize")["main"](argv) == 0
    distances = [float(line.split()[-1]) for line in capsys.readouterr().out.splitlines()[1:]]
    assert len(distances) == 3 and min(distances) > 0
