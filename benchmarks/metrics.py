"""Are our metrics right, and fast? Ours beside the packages that everyone uses, the same random weights.

    pip install scipy pillow && pip install --no-deps -r requirements-bench.txt
    python benchmarks/metrics.py --data-dir DIR          # photographs DIR/butterflies and all of MNIST
    OMP_NUM_THREADS=1 python benchmarks/metrics.py extraction distance                # the speed alone

Tables in Markdown. agreement: ours from pictures to number against theirs from pictures to number; without
DIR the pictures are those of the repository. extraction: images per second of FID's Inception in float32,
theirs at the batch sizes that they take by default and at 8, ours at 8. distance: seconds of one Fréchet
distance. Seconds are the wall's, packages take turns, and the tables have medians.
"""

import argparse
import importlib
import platform
import statistics
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
import data
import metrics


def random_weights(path, images, seed=0):
    """A file in the format of the published weights, for which features of these images are of order 1.

    Convolutions are He-scaled, batch norm has the statistics of the images, and logits name few classes.
    torch's own initial weights would not do: all features come near 0, and any two networks agree.
    """
    torch.manual_seed(seed)
    graph = metrics.InceptionGraph().train()
    for layer in graph.modules():
        if isinstance(layer, metrics.Convolution):
            torch.nn.init.kaiming_normal_(layer.conv.weight, nonlinearity="relu")
            torch.nn.init.uniform_(layer.bn.weight, 0.5, 1.5)
            torch.nn.init.normal_(layer.bn.bias, 0, 0.2)
            layer.bn.momentum = 1.0  # the statistics become those of the next batch
    with torch.no_grad():
        graph(metrics.prepare(images, "torch"))
        features = graph.eval()(metrics.prepare(images, "torch"))[0]
        mean, weight = features.mean(0), graph.fc.weight
        torch.nn.init.normal_(weight, 0, 20 / (features - mean).norm(dim=1).mean().item())
        weight -= torch.outer(weight @ mean, mean) / (mean @ mean)  # what all images share names no class
    torch.save(dict(graph.state_dict()), path)


def import_torchvision():
    """torchvision of PyPI on a torch without CUDA finds no operators of its own, and needs two to start."""
    try:
        importlib.import_module("torchvision")
    except RuntimeError:
        for name in [name for name in sys.modules if name.startswith("torchvision")]:
            del sys.modules[name]
        import_torchvision.library = torch.library.Library("torchvision", "DEF")
        for name in ("nms", "qnms"):
            signature = f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
            import_torchvision.library.define(signature)
        importlib.import_module("torchvision")


def rivals(path):
    """Their networks with these weights: {name: (batch size by default, function)}. Raises ImportError.

    A function takes uint8 [n, 3, H, W] and returns a tuple: features [n, 2048], and torch-fidelity's logits
    [n, 1008].
    """
    import_torchvision()
    import pytorch_fid.inception
    import torch_fidelity

    state = torch.load(path, weights_only=True)
    pytorch_fid.inception.load_state_dict_from_url = lambda url, progress: state
    first = pytorch_fid.inception.InceptionV3().eval()
    names = ["2048", "logits_unbiased"]
    second = torch_fidelity.FeatureExtractorInceptionV3("", names, feature_extractor_weights_path=path)
    return {
        "pytorch-fid": (50, lambda x: (first(x.float() / 255)[0].flatten(1),)),
        "torch-fidelity": (64, second),
    }


def distances():
    """The Fréchet distance in each package: {name: function of mean, covariance, mean, covariance}."""
    import_torchvision()
    from pytorch_fid.fid_score import calculate_frechet_distance
    from torch_fidelity.metric_fid import fid_statistics_to_metric
    from torchmetrics.image.fid import _compute_fid

    def torch_fidelity(mu1, sigma1, mu2, sigma2):
        pair = (dict(mu=mu1, sigma=sigma1), dict(mu=mu2, sigma=sigma2))
        return fid_statistics_to_metric(*pair, verbose=False)["frechet_inception_distance"]

    def torchmetrics(*arrays):
        return _compute_fid(*map(torch.from_numpy, arrays)).item()

    return {
        "pytorch-fid": calculate_frechet_distance,
        "torch-fidelity": torch_fidelity,
        "torchmetrics": torchmetrics,
    }


def moments(*sets):
    """Mean and covariance of each set of features [n, d], in float64, in one list."""
    sets = [np.asarray(features, np.float64) for features in sets]
    return [part for one in sets for part in (one.mean(0), np.cov(one.T))]


def their_numbers(generated, real, logits):
    """torch-fidelity's IS of logits in their order, KID of one subset of all features, precision, recall."""
    from torch_fidelity.metric_isc import isc_features_to_metric
    from torch_fidelity.metric_kid import kid_features_to_metric
    from torch_fidelity.metric_prc import prc_features_to_metric

    size = min(len(generated), len(real))
    pair, quiet = (generated.double(), real.double()), dict(verbose=False)
    kid = kid_features_to_metric(*pair, kid_subsets=1, kid_subset_size=size, **quiet)
    shares = prc_features_to_metric(*pair, **quiet)
    return {
        "IS": isc_features_to_metric(logits, shuffle=False)["inception_score_mean"],
        "KID": kid["kernel_inception_distance_mean"],
        "precision": shares["precision"],
        "recall": shares["recall"],
    }


def our_numbers(generated, real, logits):
    """The same from metrics.py. Ten equal parts are needed for an equal IS: give 10 k logits."""
    names = "IS", "KID", "precision", "recall"
    scores = metrics.inception_score(logits, seed=None)[0], metrics.kid(generated, real, 1, len(real))[0]
    return dict(zip(names, scores + metrics.precision_recall(real, generated), strict=True))


def relative(found, wanted):
    """|found − wanted| / |wanted| of two numbers or arrays."""
    found, wanted = (torch.as_tensor(values, dtype=torch.float64) for values in (found, wanted))
    return ((found - wanted).norm() / wanted.norm()).item()


def pictures(data_dir, n):
    """{name: (generated, real)}: n pictures uint8 [n, 3, H, W], and n others an eighth darker."""
    sources = {"butterflies": "butterflies", "digits": "mnist10k"}
    if data_dir:
        sources = {"butterflies": Path(data_dir) / "butterflies", "digits": "mnist"}
    found = {}
    for name, source in sources.items():
        x = data.load(source, data_dir).train.x
        x = x[torch.randperm(len(x), generator=torch.Generator().manual_seed(0))[: 2 * n]]
        x = x.expand(-1, 3, -1, -1)
        found[name] = x[:n] - x[:n] // 8, x[n:]
    return found


def row_of_agreement(name, package, features, fids, ours=None, theirs=None):
    """A line of the table: our number and its relative difference from theirs; of features that alone."""
    cells = [f"{features:.1e}" if features else "", f"{fids[0]:.6g}: {relative(*fids):.1e}", "", "", ""]
    if theirs:
        cells[2:4] = [f"{ours[k]:.5g}: {relative(ours[k], theirs[k]):.1e}" for k in ("IS", "KID")]
        cells[4] = ", ".join("{precision:.4f} {recall:.4f}".format(**numbers) for numbers in (ours, theirs))
    print(f"| {name} | {package} | " + " | ".join(cells) + " |", flush=True)


def agreement(args):
    """Print how far our numbers are from theirs: of pictures, by networks of their own, and of features."""
    print("| | beside | features | FID | IS | KID | precision, recall: ours, theirs |")
    print("|---|---|---|---|---|---|---|")
    for name, (generated, real) in pictures(args.data_dir, args.images).items():
        with tempfile.TemporaryDirectory() as folder, torch.no_grad():
            path = Path(folder) / "random.pth"
            random_weights(path, real[:16])
            for package, (_, network) in rivals(path).items():
                network_of_ours = metrics.Inception(path, "torch" if package == "pytorch-fid" else "tf1")
                ours, theirs = [], []  # (features, logits) of generated and of real
                for x in (generated, real):
                    ours.append(network_of_ours(x))
                    theirs.append([torch.cat(part) for part in zip(*map(network, x.split(8)), strict=True)])
                a, b = ([one[0] for one in both] for both in (ours, theirs))
                numbers = []
                if package == "torch-fidelity":  # the other has no more than FID
                    numbers = [our_numbers(*a, ours[0][1]), their_numbers(*b, theirs[0][1])]
                fids = metrics.fid(*a), distances()[package](*moments(*b))
                row_of_agreement(name, package, relative(torch.cat(a), torch.cat(b)), fids, *numbers)
    given = torch.randn(3, 1000, 64, generator=torch.Generator().manual_seed(0))
    given *= torch.tensor([1, 1.1, 3]).view(3, 1, 1)  # generated, real, logits
    for package, function in distances().items():
        fids = metrics.fid(*given[:2]), function(*moments(*given[:2]))
        numbers = [our_numbers(*given), their_numbers(*given)] if package == "torch-fidelity" else []
        row_of_agreement("1,000 x 64 random", package, None, fids, *numbers)


def medians(rows, rounds):
    """Median seconds of each function, in turns, and what it returned last: {name: ...} twice."""
    seconds, values = {name: [] for name in rows}, {}
    for _ in range(rounds):
        for name, function in rows.items():
            started = time.perf_counter()
            values[name] = function()
            seconds[name].append(time.perf_counter() - started)
    return {name: statistics.median(taken) for name, taken in seconds.items()}, values


def extraction(args):
    """Print images per second, and how many times theirs ours are."""
    x = torch.randint(256, (64, 3, args.size, args.size), dtype=torch.uint8)
    with tempfile.TemporaryDirectory() as folder, torch.no_grad():
        path = Path(folder) / "random.pth"
        random_weights(path, x[:2])
        rows = {("ours", 8): metrics.Inception(path)}
        for name, (batch_size, function) in rivals(path).items():
            rows |= {(name, batch_size): function, (name, 8): function}
        for function in set(rows.values()):
            function(x[:2])  # the first call of each warms up
        calls = {row: lambda f=f, n=row[1]: [f(part) for part in x[: max(n, 16)].split(n)]
                 for row, f in rows.items()}  # fmt: skip
        seconds, _ = medians(calls, args.rounds)
    speeds = {(name, n): max(n, 16) / taken for (name, n), taken in seconds.items()}
    print("| network | batch | images/s | ours is |\n|---|---|---|---|")
    for (name, n), speed in speeds.items():
        print(f"| {name} | {n} | {speed:.2f} | {speeds['ours', 8] / speed:.2f}x |")


def distance(args, dimensions=2048):
    """Print seconds of a Fréchet distance: from statistics, and from 500 features of each set."""
    random = np.random.RandomState(0)
    spectrum = np.logspace(0, -2, dimensions)  # features are correlated, and a few directions lead
    sets = [random.randn(3 * dimensions, dimensions) * spectrum + shift for shift in (0, 0.01)]
    whole, few = moments(*sets), [one[:500] for one in sets]
    print("| from | package | s | ours is | distance | differs by |\n|---|---|---|---|---|---|")
    for title, given, ours in (
        ("statistics", whole, metrics.frechet_distance),
        ("500 features", few, metrics.fid),
    ):
        rows = {"ours": lambda ours=ours, given=given: ours(*given)}
        for name, function in distances().items():  # they start from statistics
            rows[name] = lambda f=function, g=given: f(*(g if len(g) == 4 else moments(*g)))
        seconds, values = medians(rows, args.rounds)
        for name, value in values.items():
            ratio, gap = seconds[name] / seconds["ours"], relative(value, values["ours"])
            print(f"| {title} | {name} | {seconds[name]:.3f} | {ratio:.1f}x | {value:.9g} | {gap:.0e} |")


if __name__ == "__main__":
    parts = [agreement, extraction, distance]
    names = [part.__name__ for part in parts]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("tables", nargs="*", help=f"of {', '.join(names)} (default: all)")
    parser.add_argument("--data-dir", help="where the data sets lie, for the agreement")
    parser.add_argument("--images", type=int, default=260, help="in a set, a multiple of 10")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--size", type=int, default=64, help="of the pictures of the extraction, in pixels")
    args = parser.parse_args()
    if unknown := set(args.tables) - set(names):
        parser.error(f"no table {', '.join(unknown)}: give some of {', '.join(names)}")
    print(f"torch {torch.__version__}, numpy {np.__version__}, {platform.machine()}, "
          f"{torch.get_num_threads()} threads")  # fmt: skip
    for part in parts:
        if not args.tables or part.__name__ in args.tables:
            print(f"\n{part.__name__}\n")
            part(args)
