"""How fast are our metrics? Ours against the packages that everyone uses, on the same random weights.

    pip install scipy pillow && pip install --no-deps -r requirements-bench.txt
    OMP_NUM_THREADS=1 python benchmarks/metrics.py    # about five minutes on one core

Images per second of FID's Inception, float32, one thread: pytorch-fid and torch-fidelity at the batch sizes
that they take by default and at 8, ours at 8. They alternate; the table has medians. The clock counts the
processor's seconds, which on one thread are those of the wall, less what other programs take.
"""

import argparse
import importlib
import statistics
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
import metrics


def random_weights(path, images, seed=0):
    """A file in the format of the published weights, for which features of these images are of order 1.

    Convolutions are He-scaled, batch norm has the statistics of the images, and logits name few classes.
    torch's own initial weights would not do: all features come near 0, and any two networks agree.
    """
    torch.manual_seed(seed)
    graph = metrics.Graph().train()
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


def compare(rounds, size):
    """Print a table of images per second, and how many times theirs ours are."""
    pictures = torch.randint(256, (64, 3, size, size), dtype=torch.uint8)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "random.pth"
        random_weights(path, pictures[:2])
        rows = {("ours", 8): metrics.Inception(path)}
        for name, (batch_size, function) in rivals(path).items():
            rows |= {(name, batch_size): function, (name, 8): function}
    speeds = {row: [] for row in rows}
    with torch.no_grad():
        for function in set(rows.values()):
            function(pictures[:2])  # the first call of each warms up
        for _ in range(rounds):
            for (name, n), function in rows.items():
                started = time.process_time()
                function(pictures[:n])
                speeds[name, n].append(n / (time.process_time() - started))
    found = {row: statistics.median(values) for row, values in speeds.items()}
    print(f"{'network':<16}{'batch':>8}{'images/s':>10}{'ours is':>10}")
    for (name, n), speed in found.items():
        print(f"{name:<16}{n:>8}{speed:>10.2f}{found['ours', 8] / speed:>9.2f}x")


def distances():
    """The Fréchet distance in each package: {name: function of mean, covariance, mean, covariance}."""
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


def compare_distances(rounds, dimensions=2048):
    """Print tables of seconds: from statistics, and from 500 features of each set."""
    random = np.random.RandomState(0)
    spectrum = np.logspace(0, -2, dimensions)  # features are correlated, and a few directions lead
    sets = [random.randn(3 * dimensions, dimensions) * spectrum + shift for shift in (0, 0.01)]

    def moments(features):
        return [part for one in features for part in (one.mean(0), np.cov(one.T))]

    theirs, few, whole = distances(), [one[:500] for one in sets], moments(sets)
    for title, ours, given in (
        (f"from statistics of {len(sets[0]):,}", metrics.frechet_distance, whole),
        ("from 500 features", metrics.fid, few),
    ):
        rows = {"ours": lambda ours=ours, given=given: ours(*given)}
        for name, function in theirs.items():  # they start from statistics
            rows[name] = lambda f=function, g=given: f(*(g if len(g) == 4 else moments(g)))
        seconds, values = {name: [] for name in rows}, {}
        for _ in range(rounds):
            for name, function in rows.items():
                started = time.process_time()
                values[name] = function()
                seconds[name].append(time.process_time() - started)
        print(f"\n{title + ', ' + str(dimensions) + ' dimensions':<46}{'s':>8}{'ours is':>10}   distance")
        for name in rows:
            taken, own = (statistics.median(seconds[which]) for which in (name, "ours"))
            print(f"{name:<46}{taken:>8.3f}{taken / own:>9.1f}x   {values[name]:.10g}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--size", type=int, default=64, help="of the pictures, in pixels")
    args = parser.parse_args()
    torch.set_num_threads(1)
    compare(args.rounds, args.size)
    compare_distances(args.rounds)
