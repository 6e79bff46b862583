"""Are our metrics right, and fast? Ours beside the packages that everyone uses, the same random weights.

    pip install scipy pillow && pip install --no-deps -r requirements-bench.txt
    python benchmarks/metrics.py --data-dir DIR          # photographs DIR/butterflies and all of MNIST
    OMP_NUM_THREADS=1 python benchmarks/metrics.py extraction distance                # the speed alone
    python benchmarks/metrics.py --quick                                              # seconds: does it run?

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
    pairs = []
    for features in sets:
        array = np.asarray(features, np.float64)
        pairs += [array.mean(0), np.cov(array.T)]
    return pairs


def n_splits(logits):
    """The usual ten of the Inception score, or as many as our own allows of few images."""
    return min(10, len(logits) // metrics.IMAGES_PER_SPLIT)


def their_numbers(generated, real, logits):
    """torch-fidelity's IS of logits in their order, KID of one subset of all features, precision, recall."""
    from torch_fidelity.metric_isc import isc_features_to_metric
    from torch_fidelity.metric_kid import kid_features_to_metric
    from torch_fidelity.metric_prc import prc_features_to_metric

    size = min(len(generated), len(real))
    pair = generated.double(), real.double()
    kid = kid_features_to_metric(*pair, kid_subsets=1, kid_subset_size=size, verbose=False)
    shares = prc_features_to_metric(*pair, verbose=False)
    return {
        "IS": isc_features_to_metric(logits, n_splits(logits), shuffle=False)["inception_score_mean"],
        "KID": kid["kernel_inception_distance_mean"],
        "precision": shares["precision"],
        "recall": shares["recall"],
    }


def our_numbers(generated, real, logits):
    """The same from metrics.py. Ten equal parts are needed for an equal IS: give 10 k logits."""
    precision, recall = metrics.precision_recall(real, generated)
    return {
        "IS": metrics.inception_score(logits, n_splits(logits), seed=None)[0],
        "KID": metrics.kid(generated, real, 1, len(real))[0],
        "precision": precision,
        "recall": recall,
    }


def relative(values, expected):
    """|values − expected| / |expected| of two numbers or arrays."""
    values = torch.as_tensor(values, dtype=torch.float64)
    expected = torch.as_tensor(expected, dtype=torch.float64)
    return ((values - expected).norm() / expected.norm()).item()


def pictures(args):
    """{name: (generated, real)}: n pictures uint8 [n, 3, H, W], and n others an eighth darker."""
    sources = {"butterflies": "butterflies1k", "digits": "mnist10k"}
    if args.data_dir:
        sources = {"butterflies": Path(args.data_dir) / "butterflies", "digits": "mnist"}
    if args.quick:
        del sources["butterflies"]
    n = args.images
    pairs = {}
    for name, source in sources.items():
        x = data.load(source, args.data_dir).train.x
        x = x[torch.randperm(len(x), generator=torch.Generator().manual_seed(0))[: 2 * n]]
        x = x.expand(-1, 3, -1, -1)
        pairs[name] = x[:n] - x[:n] // 8, x[n:]
    return pairs


def row_of_agreement(name, package, features, fids, ours=None, theirs=None):
    """A line of the table: our number and its relative difference from theirs; of features that alone."""
    cells = [f"{features:.1e}" if features else "", f"{fids[0]:.6g}: {relative(*fids):.1e}", "", "", ""]
    if theirs:
        cells[2:4] = [f"{ours[k]:.5g}: {relative(ours[k], theirs[k]):.1e}" for k in ("IS", "KID")]
        cells[4] = ", ".join("{precision:.4f} {recall:.4f}".format(**numbers) for numbers in (ours, theirs))
    print(f"| {name} | {package} | " + " | ".join(cells) + " |", flush=True)


def agreement(args):
    """Print how far our numbers are from theirs: from pictures to numbers, and from features."""
    print("| | beside | features | FID | IS | KID | precision, recall: ours, theirs |")
    print("|---|---|---|---|---|---|---|")
    for name, (generated, real) in pictures(args).items():
        with tempfile.TemporaryDirectory() as folder, torch.no_grad():
            path = Path(folder) / "random.pth"
            random_weights(path, real[:16])
            for package, (_, network) in rivals(path).items():
                agreement_from_pictures(name, package, path, network, generated, real)
    generated, real, logits = torch.randn(3, 1000, 64, generator=torch.Generator().manual_seed(0))
    real = 1.1 * real
    logits = 3 * logits
    for package, function in distances().items():
        fids = metrics.fid(generated, real), function(*moments(generated, real))
        numbers = []
        if package == "torch-fidelity":  # the others have no more than FID
            numbers = [our_numbers(generated, real, logits), their_numbers(generated, real, logits)]
        row_of_agreement("1,000 x 64 random", package, None, fids, *numbers)


def in_batches(network, images):
    """Each part of what a network returns, of 8 images at a time."""
    return [torch.cat(part) for part in zip(*map(network, images.split(8)), strict=True)]


def agreement_from_pictures(name, package, path, network, generated, real):
    """Print a line of the table for pictures, from the networks to the numbers."""
    our_network = metrics.Inception(path, "torch" if package == "pytorch-fid" else "tf1")
    our_generated, our_logits = in_batches(our_network, generated)
    our_real, _ = in_batches(our_network, real)
    their_generated, *their_logits = in_batches(network, generated)
    their_real, *_ = in_batches(network, real)
    numbers = []
    if package == "torch-fidelity":
        ours = our_numbers(our_generated, our_real, our_logits)
        theirs = their_numbers(their_generated, their_real, *their_logits)
        numbers = [ours, theirs]
    fids = metrics.fid(our_generated, our_real), distances()[package](*moments(their_generated, their_real))
    gap = relative(torch.cat([our_generated, our_real]), torch.cat([their_generated, their_real]))
    row_of_agreement(name, package, gap, fids, *numbers)


def medians(rows, rounds):
    """Median seconds of each function, in turns, and what it returned last: {name: ...} twice."""
    seconds = {name: [] for name in rows}
    values = {}
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
        networks = {("ours", 8): metrics.Inception(path)}
        for name, (batch_size, network) in rivals(path).items():
            if not args.quick:
                networks[name, batch_size] = network
            networks[name, 8] = network
        calls = {}
        for (name, n), network in networks.items():
            network(x[:2])  # warms up
            batches = x[: max(n, 16)].split(n)
            calls[name, n] = lambda network=network, batches=batches: [network(batch) for batch in batches]
        seconds, _ = medians(calls, args.rounds)
    speeds = {(name, n): max(n, 16) / taken for (name, n), taken in seconds.items()}
    print("| network | batch | images/s | ours is |\n|---|---|---|---|")
    for (name, n), speed in speeds.items():
        print(f"| {name} | {n} | {speed:.2f} | {speeds['ours', 8] / speed:.2f}x |")


def distance(args):
    """Print seconds of a Fréchet distance: from statistics, and from a few features of each set."""
    dimensions = args.dimensions
    random = np.random.RandomState(0)
    spectrum = np.logspace(0, -2, dimensions)  # features are correlated, and a few directions lead
    sets = [random.randn(3 * dimensions, dimensions) * spectrum + shift for shift in (0, 0.01)]
    statistics_of_all = moments(*sets)
    n = dimensions // 4 - 12  # 500 of 2,048
    small = [features[:n] for features in sets]
    print("| from | package | s | ours is | distance | differs by |\n|---|---|---|---|---|---|")
    from_statistics = {"ours": lambda: metrics.frechet_distance(*statistics_of_all)}
    from_features = {"ours": lambda: metrics.fid(*small)}
    for name, function in distances().items():  # they start from statistics
        from_statistics[name] = lambda function=function: function(*statistics_of_all)
        from_features[name] = lambda function=function: function(*moments(*small))
    for title, rows in (("statistics", from_statistics), (f"{n} features", from_features)):
        seconds, values = medians(rows, args.rounds)
        for name, value in values.items():
            ratio = seconds[name] / seconds["ours"]
            gap = relative(value, values["ours"])
            print(f"| {title} | {name} | {seconds[name]:.3f} | {ratio:.1f}x | {value:.9g} | {gap:.0e} |")


TABLES = {table.__name__: table for table in (agreement, extraction, distance)}


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("tables", nargs="*", help=f"of {', '.join(TABLES)} (default: all)")
    parser.add_argument("--data-dir", help="where the data sets lie, for the agreement")
    parser.add_argument("--images", type=int, default=260, help="in a set, a multiple of 10")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--size", type=int, default=64, help="of the pictures of the extraction, in pixels")
    parser.add_argument("--dimensions", type=int, default=2048, help="of the features of the distance")
    parser.add_argument("--quick", action="store_true", help="a run of seconds, whose numbers mean little")
    args = parser.parse_args(argv)
    unknown = set(args.tables) - set(TABLES)
    if unknown:
        parser.error(f"no table {', '.join(unknown)}: give some of {', '.join(TABLES)}")
    if args.quick:
        args.images = 10
        args.rounds = 1
        args.size = 32
        args.dimensions = 128
    machine = f"{platform.machine()}, {torch.get_num_threads()} threads"
    print(f"torch {torch.__version__}, numpy {np.__version__}, {machine}")
    for name, table in TABLES.items():
        if not args.tables or name in args.tables:
            print(f"\n{name}\n")
            table(args)


if __name__ == "__main__":
    main()
