"""What tsne.py promises: forces against finite differences and against pairs, affinities against
scikit-learn's, and maps of data good and bad."""

import itertools
import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import scipy.sparse
import torch
from sklearn.base import clone
from sklearn.datasets import make_blobs
from sklearn.manifold import _t_sne, trustworthiness
from sklearn.neighbors import KNeighborsClassifier, NearestNeighbors
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

import data
import tsne
from tsne import TSNE

METHODS = ["exact", "barnes_hut", "fft"]


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


@pytest.fixture(scope="module")
def digits():
    """Pixels, as 30 principal components, and labels of 3,000 training and 2,000 test digits."""
    whole = data.load("mnist10k", valid_fraction=0)
    x = torch.cat([whole.train.x[:3000], whole.test.x]).flatten(1).float() / 255
    return tsne.pca(x, 30), torch.cat([whole.train.y[:3000], whole.test.y])


def blobs(n, d=10, centers=3, seed=0):
    return make_blobs(n, d, centers=centers, random_state=seed)[0].astype(np.float32)


def clusters(n, scale=20.0, dtype=torch.float64):
    """A map [n, 2] of uneven clusters, as t-SNE makes them."""
    centers = torch.randn(max(1, n // 60), 2, dtype=dtype) * scale
    return centers.repeat_interleave(60, 0)[:n] + torch.randn(min(n, 60 * len(centers)), 2, dtype=dtype) * 2


def sparse_affinities(x, perplexity):
    """Row, column and value of the pairs that have one, in float64."""
    k = min(len(x) - 1, int(3 * perplexity))
    neighbors, squares = tsne.nearest_neighbors(x, x, k, first=0)
    return tsne.symmetrize(neighbors, tsne.conditional_affinities(squares, perplexity))


def dense(row, column, value, n):
    return torch.zeros(n, n, dtype=value.dtype).index_put((row, column), value)


def divergence(p, y):
    """KL(P || Q) from its definition."""
    q = 1 / (1 + torch.cdist(y, y).square())
    q = q.fill_diagonal_(0) / q.sum()
    return torch.special.xlogy(p, p / q.where(q > 0, 1.0)).sum()


def relative_error(value, expected):
    return ((value - expected).norm() / expected.norm()).item()


# -----------------------------------------------------------------------------------------------------------
# Affinities


@pytest.mark.parametrize("n, d, k", [(300, 5, 20), (3000, 50, 90), (40, 2, 39), (2, 3, 1)])
def test_nearest_are_those_of_scikit_learn(n, d, k):
    x = torch.randn(n, d)
    neighbors, squares = tsne.nearest_neighbors(x, x, k, first=0)
    distances, expected = NearestNeighbors(n_neighbors=k, algorithm="brute").fit(x.double()).kneighbors()
    assert torch.equal(neighbors.sort(1).values, torch.from_numpy(expected).sort(1).values)
    np.testing.assert_allclose(squares.sort(1).values.sqrt(), distances, rtol=1e-5)


def test_nearest_training_points_of_others():
    x, new = torch.randn(500, 4), torch.randn(70, 4)
    expected = NearestNeighbors(n_neighbors=7).fit(x).kneighbors(new)[1]
    neighbors = tsne.nearest_neighbors(new, x, 7)[0]
    assert torch.equal(neighbors.sort(1).values, torch.from_numpy(expected).sort(1).values)


def test_nearest_where_products_lose_all_digits():
    x = torch.randn(400, 3) + 1e4 * torch.arange(2).repeat(200)[:, None]  # |q|^2 + |p|^2 - 2qp errs by 10
    neighbors = tsne.nearest_neighbors(x, x, 5, first=0)[0]
    expected = NearestNeighbors(n_neighbors=5, algorithm="brute").fit(x.double()).kneighbors()[1]
    assert torch.equal(neighbors.sort(1).values, torch.from_numpy(expected).sort(1).values)


@pytest.mark.parametrize("perplexity", [2, 5, 30, 80])
@pytest.mark.parametrize("scale", [1e-6, 1, 1e6])
def test_perplexity_is_recovered(perplexity, scale):
    p = tsne.conditional_affinities(scale * torch.rand(50, 90, dtype=torch.float64) ** 4, perplexity)
    recovered = torch.special.entr(p).sum(1).exp()
    assert (recovered - perplexity).abs().max() < 5e-4


def test_dense_affinities_are_those_of_scikit_learn():
    x = torch.randn(60, 4, dtype=torch.float64)
    squares = torch.cdist(x, x).square()
    others = torch.tensor([[j for j in range(60) if j != i] for i in range(60)])
    affinities = tsne.joint_affinities(others, tsne.conditional_affinities(squares.gather(1, others), 12))
    expected = scipy.spatial.distance.squareform(_t_sne._joint_probabilities(squares.numpy(), 12, 0))
    np.testing.assert_allclose(affinities, expected, atol=1e-7)
    assert affinities.sum().item() == pytest.approx(1)


@pytest.mark.parametrize("block", [1, 7, 100])
def test_sparse_affinities_are_the_same_in_blocks_of_any_size(block):
    random = torch.Generator().manual_seed(0)
    neighbors = torch.rand(30, 29, generator=random).topk(5).indices  # of all numbers but a point's own
    neighbors += neighbors >= torch.arange(30)[:, None]
    p = torch.rand(30, 5, generator=random, dtype=torch.float64)
    row, column, value = tsne.symmetrize(neighbors, p, block)
    assert torch.equal(row, row.sort().values)
    whole = torch.zeros(30, 30, dtype=torch.float64).scatter_(1, neighbors, p)
    torch.testing.assert_close(dense(row, column, value, 30), (whole + whole.T) / 60)


def test_sparse_affinities_are_those_of_scikit_learn():
    x = torch.randn(400, 6, dtype=torch.float64)
    row, column, value = sparse_affinities(x, 10)
    graph = NearestNeighbors(n_neighbors=30).fit(x).kneighbors_graph(mode="distance")
    graph.data **= 2
    expected = _t_sne._joint_probabilities_nn(graph, 10, 0)
    affinities = scipy.sparse.coo_matrix((value, (row, column)), shape=(400, 400))
    assert affinities.nnz == expected.nnz
    assert abs(affinities - expected).max() < 1e-7
    assert (row.diff() >= 0).all()


# -----------------------------------------------------------------------------------------------------------
# Forces


@pytest.mark.parametrize("components", [1, 2, 3])
def test_exact_gradient_is_that_of_the_divergence(components):
    x = torch.randn(30, 5, dtype=torch.float64)
    y = torch.randn(30, components, dtype=torch.float64)
    p = dense(*sparse_affinities(x, 5), 30)
    forces = (
        lambda y, want_kl: tsne.exact_attraction(p, y, want_kl),
        tsne.exact_repulsion,
        torch.special.xlogy(p, p).sum(),
    )
    gradient, kl = tsne.kl_gradient(*forces, y)
    assert kl == pytest.approx(divergence(p, y).item())
    assert tsne.kl_gradient(*forces, y, want_kl=False)[1] is None
    for i, c in itertools.product((0, 7, 29), range(components)):
        step = torch.zeros_like(y)
        step[i, c] = 1e-5
        slope = (divergence(p, y + step) - divergence(p, y - step)) / 2e-5
        assert gradient[i, c].item() == pytest.approx(slope.item(), rel=1e-5, abs=1e-9)


@pytest.mark.parametrize(
    "repulsion, tolerance",
    [(lambda y: tsne.barnes_hut_repulsion(y, 0.0), 1e-5), (lambda y: tsne.mesh_repulsion(y, 0.05), 1e-3)],
    ids=["barnes_hut", "fft"],
)
def test_other_gradients_are_those_of_the_divergence(repulsion, tolerance):
    x = torch.randn(200, 5, dtype=torch.float64)
    y = clusters(200, 5)[:180].repeat(2, 1)[:200] + torch.randn(200, 2)
    row, column, value = sparse_affinities(x, 5)
    p = dense(row, column, value, 200)
    attraction = tsne.SparseAttraction(row, column, value, 200)
    negative_entropy = torch.special.xlogy(p, p).sum()
    gradient, kl = tsne.kl_gradient(attraction, repulsion, negative_entropy, y)
    assert kl == pytest.approx(divergence(p, y).item(), rel=1e-4)
    for i, c in itertools.product((0, 50, 199), range(2)):
        step = torch.zeros_like(y)
        step[i, c] = 1e-4
        slope = (divergence(p, y + step) - divergence(p, y - step)) / 2e-4
        assert gradient[i, c].item() == pytest.approx(slope.item(), rel=tolerance, abs=tolerance * 1e-3)


def test_exaggeration_multiplies_the_attraction_only():
    y = torch.randn(20, 2)
    p = torch.rand(20, 20)

    def attraction(y, want_kl):
        return tsne.exact_attraction(p, y, want_kl)

    def no_repulsion(y):
        return torch.zeros_like(y), torch.ones(())

    forces = (attraction, no_repulsion, torch.zeros(()))
    plain, _ = tsne.kl_gradient(*forces, y)
    exaggerated, _ = tsne.kl_gradient(*forces, y, 12.0)
    torch.testing.assert_close(exaggerated, 12 * plain)


def test_sparse_attraction_equals_exact_attraction():
    x = torch.randn(700, 5, dtype=torch.float64)
    y = clusters(700, 5)[:1].expand(700, 2) + torch.randn(700, 2) * 9
    row, column, value = sparse_affinities(x, 10)
    attraction, log_term = tsne.SparseAttraction(row, column, value, 700)(y)
    expected, expected_log_term = tsne.exact_attraction(dense(row, column, value, 700), y)
    torch.testing.assert_close(attraction, expected)
    assert log_term.item() == pytest.approx(expected_log_term.item())


@pytest.mark.parametrize("n", [2, 3, 33, 1000, 3000])
def test_angle_0_is_exact(n):
    y = clusters(6000)[torch.randperm(6000)[:n]]
    expected, total = tsne.exact_repulsion(y)
    approximate, approximate_total = tsne.barnes_hut_repulsion(y, 0.0)
    assert relative_error(approximate, expected) < 1e-6
    assert approximate_total.item() == pytest.approx(total.item(), rel=1e-9)
    approximate = tsne.barnes_hut_repulsion(y.float(), 0.0)[0]
    assert n < 30 or relative_error(approximate, expected) < 1.5e-4  # what sums of so many float32 lose


def test_barnes_hut_errs_less_with_less_angle_and_stays_within_the_criterion():
    y = clusters(6000)
    expected, total = tsne.exact_repulsion(y)
    approximations = [tsne.barnes_hut_repulsion(y, angle) for angle in (0.8, 0.5, 0.25)]
    errors = [relative_error(repulsion, expected) for repulsion, _ in approximations]
    assert errors[0] > 2 * errors[1] > 4 * errors[2]
    assert errors[1] < 0.01
    assert approximations[1][1].item() == pytest.approx(total.item(), rel=0.01)


@pytest.mark.parametrize("extent", [1e-5, 1e-2, 0.5, 3, 30])
def test_mesh_is_near_exact_in_maps_of_any_size(extent):
    y = clusters(3000)
    y *= extent / (y - y.mean(0)).abs().max()
    expected, total = tsne.exact_repulsion(y)
    for dtype, spacing, tolerance in ((torch.float32, 0.35, 0.02), (torch.float64, 0.1, 1e-3)):
        approximate, approximate_total = tsne.mesh_repulsion(y.to(dtype), spacing)
        assert relative_error(approximate, expected) < tolerance
        assert approximate_total.item() == pytest.approx(total.item(), rel=1e-3)


def test_mesh_of_a_wide_map_where_its_period_is_not_twice_the_map():
    y = clusters(3000, scale=60)
    expected, total = tsne.exact_repulsion(y)
    approximate, approximate_total = tsne.mesh_repulsion(y, 0.25)
    assert y.amax() - y.amin() > 2 * 64
    assert relative_error(approximate, expected) < 0.01
    assert approximate_total.item() == pytest.approx(total.item(), rel=0.01)


def test_mesh_leaves_a_stretched_map_to_the_tree():
    y = torch.cat([clusters(900), torch.tensor([[1e8, 0.0]])])
    approximate, total = tsne.mesh_repulsion(y)
    expected, expected_total = tsne.exact_repulsion(y)
    assert relative_error(approximate, expected) < 0.01
    assert total.item() == pytest.approx(expected_total.item(), rel=0.01)


AWKWARD = {
    "twins": lambda: clusters(90).repeat(10, 1),
    "all equal": lambda: torch.ones(800, 2, dtype=torch.float64),
    "line": lambda: torch.stack([torch.linspace(-30, 30, 800), torch.zeros(800)], 1).double(),
    "outlier 1e4": lambda: torch.cat([clusters(900), torch.tensor([[1e4, -1e4]])]),
    "outlier 1e8": lambda: torch.cat([clusters(900), torch.tensor([[0.0, 1e8]])]),
    "two far apart": lambda: torch.cat([clusters(480), clusters(480) + 1e3]),
}


@pytest.mark.parametrize("name", AWKWARD)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_awkward_maps(name, dtype):
    y = AWKWARD[name]().to(dtype)
    expected, total = tsne.exact_repulsion(y.double())
    size = expected.norm().item() + 1e-3
    for repulsion, tolerance in (
        (lambda y: tsne.barnes_hut_repulsion(y, 0.0), 1e-6 if dtype == torch.float64 else 5e-5),
        (tsne.barnes_hut_repulsion, 0.05 if name == "line" else 0.01),
        (tsne.mesh_repulsion, 0.004),
    ):
        approximate, approximate_total = repulsion(y)
        assert (approximate - expected).norm() / size < tolerance
        assert approximate_total.item() == pytest.approx(total.item(), rel=0.01)


@pytest.mark.parametrize("repulsion", [tsne.exact_repulsion, tsne.barnes_hut_repulsion, tsne.mesh_repulsion])
def test_permuting_the_points_permutes_the_repulsion(repulsion):
    y = clusters(900)
    order = torch.randperm(900)
    torch.testing.assert_close(repulsion(y[order])[0], repulsion(y)[0][order], rtol=1e-3, atol=1e-3)


def test_permuting_the_points_permutes_the_sparse_attraction():
    x = torch.randn(300, 4).double()
    y = torch.randn(300, 2).double()
    order = torch.randperm(300)
    attraction, _ = tsne.SparseAttraction(*sparse_affinities(x, 10), 300)(y)
    permuted, _ = tsne.SparseAttraction(*sparse_affinities(x[order], 10), 300)(y[order])
    torch.testing.assert_close(permuted, attraction[order])


# -----------------------------------------------------------------------------------------------------------
# Maps


@pytest.mark.parametrize("init", ["pca", "random"])
@pytest.mark.parametrize("method", METHODS)
def test_neighbors_stay_together(method, init):
    x = np.random.RandomState(0).randn(100, 2).astype(np.float32)
    model = TSNE(init=init, method=method, max_iter=500)
    embedding = model.fit_transform(x)
    assert trustworthiness(x, embedding, n_neighbors=1) > 0.85
    assert embedding.shape == (100, 2) and embedding.dtype == np.float32 and model.n_iter_ == 500


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("seed", range(2))
def test_a_grid_is_spread_evenly(method, seed):
    """scikit-learn's: nearest neighbors in the map of a 2-D grid are about equally far."""
    axis = np.linspace(0, 1, 10)
    grid = np.array(np.meshgrid(axis, axis)).reshape(2, -1).T
    embedding = TSNE(
        init="random", random_state=seed, perplexity=50, method=method, max_iter=600
    ).fit_transform(grid)
    distances = NearestNeighbors(n_neighbors=1).fit(embedding).kneighbors()[0].ravel()
    assert distances.min() > 0.1
    assert distances.min() / distances.mean() > 0.5
    assert distances.max() / distances.mean() < 2


@pytest.mark.parametrize("method", METHODS)
def test_divergence_is_that_of_the_map(method):
    x = torch.from_numpy(blobs(300)).double()
    model = TSNE(method=method, perplexity=10, angle=0.2, max_iter=250).fit(x.numpy())
    if method == "exact":
        others = torch.tensor([[j for j in range(300) if j != i] for i in range(300)])
        squares = torch.cdist(x, x).square().gather(1, others)
        p = tsne.joint_affinities(others, tsne.conditional_affinities(squares, 10))
    else:
        p = dense(*sparse_affinities(x, 10), 300)
    expected = divergence(p, torch.from_numpy(model.embedding_).double()).item()
    assert model.kl_divergence_ == pytest.approx(expected, rel=2e-3)


@pytest.mark.parametrize("method", METHODS)
def test_the_same_seed_gives_the_same_map(method):
    x = blobs(200)

    def embedding(seed):
        return TSNE(method=method, init="random", max_iter=50, random_state=seed).fit_transform(x)

    assert np.array_equal(embedding(3), embedding(3))
    assert not np.array_equal(embedding(3), embedding(4))
    assert not np.array_equal(embedding(None), embedding(None))


@pytest.mark.parametrize("method", METHODS)
def test_the_map_does_not_depend_on_the_number_of_threads(method, digits):
    before = torch.get_num_threads()
    maps = []
    for n_threads in (1, 2, 3):
        torch.set_num_threads(n_threads)
        with torch.inference_mode(n_threads == 2):  # a mode of the calling thread only
            maps.append(TSNE(method=method, max_iter=20).fit_transform(digits[0][:800]))
        assert torch.get_num_threads() == n_threads
    torch.set_num_threads(before)
    assert torch.equal(maps[0], maps[1]) and torch.equal(maps[0], maps[2])


def test_the_fading_of_the_exaggeration_pays(digits, monkeypatch):
    """The default ends lower than the classical schedule does with twice the iterations."""
    ours = TSNE().fit(digits[0][:1500]).kl_divergence_
    monkeypatch.setattr(tsne, "SCHEDULE", [(0.2, 1, 0.8, 1), (1.0, 0, 0.9, 1)])
    assert ours < TSNE(max_iter=500).fit(digits[0][:1500]).kl_divergence_ - 0.01


def test_methods_agree_on_digits(digits):
    """Three approximations of one descent: about the same divergence, from the same affinities."""
    x = digits[0][:1000].numpy()
    p = dense(*sparse_affinities(torch.from_numpy(x).double(), 30), 1000)
    maps = [TSNE(method=method, max_iter=500).fit_transform(x) for method in ("barnes_hut", "fft")]
    divergences = [divergence(p, torch.from_numpy(y).double()).item() for y in maps]
    assert abs(divergences[0] - divergences[1]) < 0.05
    assert max(divergences) < 0.9545 + 0.02  # where scikit-learn 1.9 ends after 1,000 iterations


def test_any_number_of_components():
    x = blobs(100)
    for components in (1, 3, 4):
        embedding = TSNE(components, max_iter=300).fit_transform(x)
        assert embedding.shape == (100, components)
        assert trustworthiness(x, embedding, n_neighbors=5) > 0.85
    with pytest.raises(ValueError, match="n_components 3: give 2; more are for 'exact'"):
        TSNE(3, method="fft").fit(x)


def test_precomputed_distances_and_cosine():
    x = np.abs(blobs(150)) + 1
    squares = ((x[:, None].astype(float) - x[None]) ** 2).sum(2)
    unit = x / np.linalg.norm(x, axis=1, keepdims=True)
    start = np.random.RandomState(0).randn(150, 2) * 1e-4
    for method, (metric, distances) in itertools.product(
        METHODS, {"euclidean": np.sqrt(squares), "cosine": 1 - unit.astype(float) @ unit.T}.items()
    ):
        parameters = dict(method=method, init=start, max_iter=20)
        embedding = TSNE(metric=metric, **parameters).fit_transform(x)
        distances = distances.clip(0)
        expected = TSNE(metric="precomputed", **parameters).fit_transform(distances)
        np.testing.assert_allclose(embedding, expected, rtol=0.01, atol=0.01 * np.abs(expected).max())


def test_a_map_to_start_from():
    x, start = blobs(60), np.random.RandomState(0).randn(60, 2)
    before = start.copy()
    embedding = TSNE(init=start, max_iter=1, learning_rate=1e-9).fit_transform(x)
    np.testing.assert_allclose(embedding, start, atol=1e-5)
    assert np.array_equal(start, before)


def test_arrays_give_arrays_and_tensors_give_tensors():
    x = blobs(80)
    array = TSNE(max_iter=50).fit_transform(x)
    model = TSNE(max_iter=50).fit(torch.from_numpy(x))
    assert isinstance(array, np.ndarray) and isinstance(model.embedding_, torch.Tensor)
    assert np.array_equal(array, model.embedding_.numpy())
    assert isinstance(model.transform(torch.from_numpy(x)), torch.Tensor)
    assert isinstance(model.transform(x), np.ndarray)


class OnMac(torch.Tensor):
    """A tensor that says it is on a Mac's GPU, on which no result may be float64."""

    device = torch.device("mps")

    @classmethod
    def __torch_function__(cls, function, types, args=(), kwargs=None):
        if function is torch.Tensor.cpu:
            return args[0].as_subclass(torch.Tensor)
        result = super().__torch_function__(function, types, args, kwargs)
        if isinstance(result, cls) and result.dtype == torch.float64:
            raise TypeError("Cannot convert a MPS Tensor to float64 dtype")
        return result


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.int64])
def test_on_a_mac_all_is_computed_on_the_cpu(method, dtype, monkeypatch):
    x = (100 * torch.randn(800, 5)).to(dtype)
    to = torch.Tensor.to

    def to_mac(tensor, *args, **options):
        return tensor.as_subclass(OnMac) if args == (OnMac.device,) else to(tensor, *args, **options)

    monkeypatch.setattr(torch.Tensor, "to", to_mac)
    model = TSNE(method=method, max_iter=3)
    embedding, placed = model.fit_transform(x.as_subclass(OnMac)), model.transform(x[:5].as_subclass(OnMac))
    assert isinstance(embedding, OnMac) and isinstance(placed, OnMac)
    assert torch.equal(embedding.cpu(), TSNE(method=method, max_iter=3).fit_transform(x))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("method", METHODS)
def test_on_a_gpu(method, digits):
    x = digits[0][:1000].cuda()
    model = TSNE(method=method).fit(x)
    assert model.embedding_.device == x.device and model.transform(x[:9]).device == x.device
    assert model.kl_divergence_ == pytest.approx(TSNE(method=method).fit(x.cpu()).kl_divergence_, abs=0.05)


# -----------------------------------------------------------------------------------------------------------
# scikit-learn's habits


def test_parameters_as_in_scikit_learn():
    model = TSNE(perplexity=7, init=np.zeros((5, 2)))
    assert list(model.get_params()) == list(TSNE().get_params())
    assert model.get_params()["perplexity"] == 7
    assert (
        model.set_params(perplexity=9, angle=0.1) is model and model.perplexity == 9 and model.angle == 0.1
    )
    assert clone(TSNE(perplexity=3)).perplexity == 3
    theirs = _t_sne.TSNE().get_params()
    for name, value in TSNE().get_params().items():
        if name not in ("max_iter", "method", "random_state"):  # ours is a schedule, auto, 0
            assert theirs[name] == value, name
    with pytest.raises(ValueError, match="no parameter perplexty"):
        model.set_params(perplexty=3)


def test_in_a_pipeline_of_scikit_learn():
    x = blobs(60)
    pipeline = make_pipeline(StandardScaler(), TSNE(max_iter=3))
    places = clone(pipeline).fit(x).transform(x[:7])
    scaler = StandardScaler().fit(x)
    expected = TSNE(max_iter=3).fit(scaler.transform(x)).transform(scaler.transform(x[:7]))
    np.testing.assert_allclose(places, expected)
    assert "tsne" in pipeline._repr_html_()


@pytest.mark.parametrize(
    "name, number, other",
    [
        ("n_components", 2, np.int64(2)),
        ("perplexity", 5.0, np.float32(5)),
        ("perplexity", 5.0, np.int16(5)),
        ("early_exaggeration", 4.0, np.float16(4)),
        ("learning_rate", 20.0, np.float32(20)),
        ("max_iter", 7, np.uint8(7)),
        ("n_iter_without_progress", 3, np.int64(3)),
        ("min_grad_norm", 0.5, np.longdouble(0.5)),
        ("verbose", 0, np.float64(0)),
        ("random_state", 3, np.int32(3)),
        ("angle", 0.25, np.float16(0.25)),
    ],
)
def test_numbers_of_numpy_are_as_good_as_those_of_python(name, number, other):
    parameters = dict(max_iter=5, perplexity=9, method="barnes_hut", init="random")
    ours, theirs = (TSNE(**parameters | {name: value}).fit_transform(blobs(50)) for value in (number, other))
    assert np.array_equal(ours, theirs)


def test_a_random_state_is_drawn_from_as_in_scikit_learn():
    x = blobs(50)
    model = TSNE(init="random", max_iter=2, random_state=np.random.RandomState(3))
    again = clone(model)
    first, second = model.fit_transform(x), model.fit_transform(x)
    assert not np.array_equal(first, second)
    assert np.array_equal(again.fit_transform(x), first)


ILL_TYPED = [None, "x", b"auto", [1], {}, (2,), 1j, math.nan, np.ones(2), np.ones((2, 2)), np.str_("x")]
ILL_TYPED += [torch.ones(()), torch.ones(3), object(), dict, len]


@pytest.mark.parametrize("name", TSNE().get_params())
def test_a_parameter_of_another_type_is_refused_in_one_line(name):
    for value in ILL_TYPED[1 if name == "random_state" else 0 :]:
        with pytest.raises(tsne.TSNEError, match=name) as caught:
            TSNE(**dict(perplexity=5) | {name: value}).fit(blobs(20))
        assert "\n" not in str(caught.value), value


def test_a_number_of_iterations_is_obeyed():
    for n in (1, 4, 7, 60, 251):
        assert TSNE(max_iter=n, min_grad_norm=0).fit(blobs(50)).n_iter_ == n


def test_stops_without_progress(capsys):
    model = TSNE(n_iter_without_progress=-1, init="random", learning_rate=1e8, max_iter=600, verbose=1)
    model.fit(np.random.RandomState(0).randn(100, 10))
    lines = [float(line.split("KL")[1].split()[0]) for line in capsys.readouterr().out.splitlines()]
    assert 210 < model.n_iter_ < 600 and model.n_iter_ % 50 == 0
    after = lines[4:]  # 210 iterations are exaggerated
    assert after[-1] >= min(after[:-1])
    assert all(b < a for a, b in itertools.pairwise(after[:-1]))  # it stopped at the first that did not fall


def test_stops_at_a_small_gradient(capsys):
    model = TSNE(min_grad_norm=0.002, init="random", method="exact", verbose=1, max_iter=2000)
    model.fit(np.random.RandomState(0).randn(100, 2))
    norms = [float(line.split()[-1]) for line in capsys.readouterr().out.splitlines()]
    assert model.n_iter_ < 2000
    # once in each row of the schedule at most
    assert norms[-1] <= 0.002 and sum(norm <= 0.002 for norm in norms) <= len(tsne.SCHEDULE)


def test_exaggeration_and_learning_rate():
    x = blobs(60)
    one, other = (TSNE(early_exaggeration=e, max_iter=100).fit_transform(x) for e in (1, 100))
    assert not np.allclose(one, other)
    assert TSNE(max_iter=20).fit(x).learning_rate_ == tsne.SCHEDULE[-1][-1] * 60 / 4
    assert TSNE(max_iter=20, learning_rate=3).fit(x).learning_rate_ == 3


# -----------------------------------------------------------------------------------------------------------
# Points that come later


def test_new_points_come_among_their_class(digits):
    x, labels = (part.numpy() for part in digits)
    model = TSNE(max_iter=400).fit(x[:3000])
    before = model.embedding_.copy()
    placed = model.transform(x[3000:])
    assert np.array_equal(before, model.embedding_)
    np.testing.assert_allclose(model.transform(x[3000:3003]), placed[:3], atol=1e-3)  # each by itself
    voters = KNeighborsClassifier(10).fit(before, labels[:3000])
    neighbors = NearestNeighbors(n_neighbors=10).fit(before).kneighbors()[1]  # without the point itself
    majority = [np.bincount(row).argmax() for row in labels[:3000][neighbors]]
    training_accuracy = np.mean(majority == labels[:3000])
    assert voters.score(placed, labels[3000:]) > training_accuracy - 0.01


def test_training_points_come_back_to_their_place(digits):
    x = digits[0][:800].numpy()
    model = TSNE(max_iter=400).fit(x)
    away = np.linalg.norm(model.transform(x) - model.embedding_, axis=1)
    assert np.median(away) < 0.05 * np.ptp(model.embedding_)


@pytest.mark.parametrize("n", [2, 3, 8])
def test_new_points_differ_in_a_map_of_few(n):
    x = blobs(n)
    model = TSNE(perplexity=min(n - 1, 3)).fit(x)
    neighbors = NearestNeighbors(n_neighbors=1).fit(model.embedding_).kneighbors(model.transform(x))[1]
    assert (neighbors[:, 0] == np.arange(n)).mean() > 0.5


def test_new_points_by_their_distances():
    x = blobs(120).astype(float)
    distances = np.linalg.norm(x[:, None] - x, axis=2)
    model = TSNE(metric="precomputed", init="random").fit(distances[:100, :100])
    same = TSNE(init="random").fit(x[:100])
    same._map = model._map
    np.testing.assert_allclose(model.transform(distances[100:, :100]), same.transform(x[100:]), atol=1e-2)


def test_transform_refuses():
    with pytest.raises(ValueError, match="call fit first"):
        TSNE().transform(blobs(9))
    with pytest.raises(ValueError, match="give .points, 10"):
        TSNE(max_iter=1).fit(blobs(50)).transform(blobs(9, d=3))


def fitted(metric):
    """A map of 40 points, whose distances to themselves are as many features as points have."""
    x = blobs(40, d=40)
    distances = np.linalg.norm(x[:, None] - x, axis=2)
    parameters = dict(metric=metric, max_iter=2, init="random", perplexity=5)
    return TSNE(**parameters).fit(distances if metric == "precomputed" else x)


@pytest.mark.parametrize("metric", tsne.METRICS)
def test_no_new_points_have_an_empty_map(metric):
    assert fitted(metric).transform(np.zeros((0, 40))).shape == (0, 2)
    assert fitted(metric).transform(torch.zeros(0, 40)).shape == (0, 2)


@pytest.mark.parametrize("far", [1e6, 1e9, 1e14, 1e20, 1e38, 1e300])
@pytest.mark.parametrize("metric", tsne.METRICS)
def test_new_points_far_away_have_a_finite_place_or_none(metric, far):
    x = np.abs(random(3, 40)) * far
    for points in [x, x.astype(np.float32)] if far < 1e38 else [x]:
        try:
            assert np.isfinite(fitted(metric).transform(points)).all()
        except tsne.TSNEError as error:
            assert far > 1e14 and "times as far out as the points of the map" in str(error)


@pytest.mark.parametrize(
    "metric, value, message",
    [
        ("euclidean", math.nan, "X_new holds NaN"),
        ("cosine", 0, "X_new has a point at 0, which has no direction"),
        ("precomputed", -1, "X_new holds numbers below 0"),
    ],
)
def test_new_points_without_distances_are_refused(metric, value, message):
    with pytest.raises(tsne.TSNEError, match=message):
        fitted(metric).transform(np.full((2, 40), value))


# -----------------------------------------------------------------------------------------------------------
# Bad input


@pytest.mark.parametrize(
    "x, parameters, message",
    [
        (np.full((50, 3), np.nan), {}, "NaN or infinite"),
        (np.where(np.eye(50) > 0, np.inf, 0), {}, "NaN or infinite"),
        (np.zeros((1, 3)), {}, "two or more"),
        (np.zeros((0, 3)), {}, "two or more"),
        (np.zeros((50, 0)), {}, "give .points, features"),
        (np.zeros(50), {}, "give .points, features"),
        (np.zeros((5, 5, 5)), {}, "give .points, features"),
        (np.zeros((50, 3), complex), {}, "complex"),
        (torch.zeros(50, 3, dtype=torch.complex64), {}, "complex"),
        (np.array([["a", "b"]] * 50), {}, "real numbers"),
        (np.zeros((30, 3)), {}, "perplexity 30.0: give 1 or more, but less than the 30 points"),
        (np.zeros((30, 3)), dict(perplexity=0.5), "perplexity"),
        (np.zeros((30, 3)), dict(perplexity=math.nan), "perplexity"),
        (np.zeros((50, 3)), dict(angle=-1), "angle"),
        (np.zeros((50, 3)), dict(angle=2), "angle"),
        (np.zeros((50, 3)), dict(n_components=0), "n_components"),
        (np.zeros((50, 3)), dict(n_components=2.5), "n_components"),
        (np.zeros((50, 3)), dict(n_components=10**20), "n_components"),
        (np.zeros((50, 3)), dict(early_exaggeration=0.5), "early_exaggeration"),
        (np.zeros((50, 3)), dict(early_exaggeration=math.inf), "early_exaggeration"),
        (np.zeros((50, 3)), dict(early_exaggeration=1e308), "early_exaggeration"),
        (np.zeros((50, 3)), dict(learning_rate=-1), "learning_rate"),
        (np.zeros((50, 3)), dict(learning_rate=math.inf), "learning_rate"),
        (np.zeros((50, 3)), dict(learning_rate=1e308), "learning_rate"),
        (np.zeros((50, 3)), dict(random_state=-1), "random_state"),
        (np.zeros((50, 3)), dict(max_iter=0), "max_iter"),
        (np.zeros((50, 3)), dict(metric="hamming"), "euclidean or cosine or precomputed"),
        (np.zeros((50, 3)), dict(method="tree"), "auto or exact or barnes_hut or fft"),
        (np.zeros((50, 3)), dict(init="spectral"), "pca or random or a map"),
        (np.zeros((50, 3)), dict(init=np.zeros((50, 3))), "init has shape"),
        (np.zeros((50, 3)), dict(init=np.full((50, 2), np.nan)), "init holds NaN"),
        (np.zeros((50, 3)), dict(init=np.full((50, 2), 1e30)), "init reaches"),
        (scipy.sparse.eye(50).tocsr(), {}, "X.toarray\\(\\) of a sparse matrix"),
        (torch.eye(50).to_sparse(), {}, "X is sparse, nested"),
        (torch.nested.nested_tensor([torch.ones(2), torch.ones(3)]), {}, "X is sparse, nested"),
        (torch.zeros(50, 3, device="meta"), {}, "meta or complex: give a dense tensor"),
        (np.ma.masked_less(np.arange(150.0).reshape(50, 3), 5), {}, "X has masked values"),
        (np.full((50, 3), None), {}, "X holds object"),
        (np.zeros((50, 3), "M8[s]"), {}, "X holds datetime64"),
        (np.zeros((50, 3), "i4,f4"), {}, "real numbers"),
        (None, {}, "X holds object"),
        (np.full((50, 3), np.longdouble("1e4000")), {}, "NaN or infinite"),
        ([[1.0, 2.0], [3.0]], {}, "X is no array"),
        (np.array([[-1.7e308], [1.7e308]] * 25), {}, "too far apart"),
        (np.zeros((50, 3)), dict(init=None), "init holds object"),
        (np.zeros((50, 3)), dict(metric="precomputed", init="random"), "precomputed takes distances"),
        (np.full((50, 50), -1.0), dict(metric="precomputed", init="random"), "precomputed takes distances"),
        (np.zeros((50, 50)), dict(metric="precomputed"), "init 'pca': give random or a map"),
        (np.eye(50)[:, 1:], dict(metric="cosine"), "no direction"),
        (np.broadcast_to(np.float32(0), (10_001, 3)), dict(method="exact"), "10,000"),
    ],
)
def test_refuses_in_one_line(x, parameters, message):
    with pytest.raises(tsne.TSNEError, match=message) as caught:
        TSNE(**parameters).fit(x)
    assert "\n" not in str(caught.value)


def random(*shape):
    return np.random.RandomState(0).randn(*shape)


def with_outlier(far):
    x = random(300, 4)
    x[17] = far
    return x


HARD = {
    "constant": lambda: np.ones((200, 3)),
    "constant, large": lambda: np.full((200, 3), 1e9 + 0.1),
    "ten copies of each point": lambda: np.repeat(random(40, 5), 10, 0),
    "two points, many copies": lambda: np.repeat(random(2, 5), 100, 0),
    "a line": lambda: np.linspace(0, 1, 300)[:, None] * [1.0, 2, 3],
    "one feature": lambda: random(200, 1),
    "outlier 1e4": lambda: with_outlier(1e4),
    "outlier 1e8": lambda: with_outlier(1e8),
    "1e300": lambda: random(200, 3) * 1e300,
    "1e-300": lambda: random(200, 3) * 1e-300,
    "float16": lambda: random(200, 3).astype(np.float16),
    "big endian": lambda: random(200, 3).astype(">f4"),
    "integers": lambda: (random(200, 3) * 100).astype(int),
    "bytes": lambda: (random(200, 3) * 20 + 128).clip(0, 255).astype(np.uint8),
    "booleans": lambda: random(200, 12) > 0,
    "fortran order": lambda: np.asfortranarray(random(200, 3)),
    "backwards": lambda: random(200, 6)[::-1, ::-2],
    "read only": lambda: np.broadcast_to(random(1, 3), (100, 3)),
    "longdouble": lambda: random(200, 3).astype(np.longdouble),
    "a masked array without a mask": lambda: np.ma.masked_invalid(random(200, 3)),
    "a list": lambda: random(100, 3).tolist(),
    "bfloat16 tensor": lambda: torch.randn(100, 3).bfloat16(),
    "tensor with a gradient": lambda: torch.randn(100, 3, requires_grad=True),
    "transposed tensor": lambda: torch.randn(3, 100).T,
    "more features than points": lambda: random(40, 3000),
}


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", HARD)
def test_hard_data_have_a_map(name, method):
    x = HARD[name]()
    model = TSNE(method=method, max_iter=20).fit(x)
    embedding = torch.as_tensor(model.embedding_)
    assert (
        embedding.shape == (len(x), 2) and embedding.isfinite().all() and math.isfinite(model.kl_divergence_)
    )
    assert embedding.abs().max() < 1e4 and not embedding.requires_grad
    assert np.isfinite(model.transform(np.array(x.tolist() if torch.is_tensor(x) else x)[:3])).all()


@pytest.mark.parametrize("far", [1e4, 1e8, 1e12, 1e20])
@pytest.mark.parametrize("method", METHODS)
def test_an_outlier_does_not_blur_the_others(method, far):
    x = blobs(300, d=4, centers=5).astype(float)
    x[17] = far
    embedding = TSNE(method=method, max_iter=250).fit_transform(x)
    keep = np.arange(300) != 17
    assert trustworthiness(x[keep], embedding[keep], n_neighbors=5) > 0.9


@pytest.mark.parametrize("far", [1e4, 1e8])
@pytest.mark.parametrize("method", METHODS)
def test_an_outlier_in_the_first_map(method, far):
    x, start = blobs(300), np.random.RandomState(0).randn(300, 2) * 1e-4
    start[17] = far
    embedding = TSNE(method=method, init=start, max_iter=200).fit_transform(x)
    keep = np.arange(300) != 17
    assert np.isfinite(embedding).all()
    assert trustworthiness(x[keep], embedding[keep], n_neighbors=5) > 0.85


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("extent", [1e5, 1e10, 9e14])
def test_a_first_map_of_points_far_apart(method, extent):
    start = np.linspace(-extent, extent, 100).reshape(50, 2)
    model = TSNE(method=method, init=start, max_iter=60, perplexity=5).fit(blobs(50))
    assert np.isfinite(model.embedding_).all() and math.isfinite(model.kl_divergence_)


@pytest.mark.parametrize("method", METHODS)
def test_few_points(method):
    for n in [2, 3, 4, 5, 7, 10, 23, 50]:
        x = blobs(n, d=4)
        for perplexity in {1, (n - 1) / 2, n - 0.5} - {0.5}:
            model = TSNE(method=method, perplexity=perplexity, max_iter=40).fit(x)
            assert np.isfinite(model.embedding_).all() and np.abs(model.embedding_).max() < 1e3
            assert math.isfinite(model.kl_divergence_) and model.kl_divergence_ > -1e-3


def test_five_points_do_not_run_away():
    embedding = TSNE(perplexity=2, method="fft").fit_transform(random(5, 3))
    assert 0.01 < np.ptp(embedding) < 1e3


def test_the_benchmark_runs():
    pytest.importorskip("sklearn", reason="the judge of the benchmark is scikit-learn")
    script = Path(__file__).resolve().parent.parent / "benchmarks" / "tsne.py"
    process = subprocess.run(
        [sys.executable, script, "--quick"], capture_output=True, text=True, timeout=300
    )
    assert process.returncode == 0, process.stderr
    assert "mnist10k, 300 points" in process.stdout
    assert "ours, barnes_hut (angle)" in process.stdout
