"""How fast is our t-SNE, and how good are its maps? Ours against scikit-learn, openTSNE and manifolds-rs.

    pip install -r requirements-dev.txt
    pip install --no-deps openTSNE==1.0.4 manifolds-rs==0.4.1 beartype==0.23.1
    python benchmarks/tsne.py --data-dir DIR                                       # 2,000 and 10,000 points
    python benchmarks/tsne.py --data-dir DIR --sizes 70000 --rounds 1 --keep maps  # take an hour
    python benchmarks/tsne.py --data-dir DIR --busy 2                              # beside busy processes
    python benchmarks/tsne.py --force maps/mnist-70000-ours.npy --figure docs/barnes-hut.png
    python benchmarks/tsne.py --quick                                              # seconds: does it run?

The data are digits and clothes in 50 principal components; every round draws another random sample of them.
Every fit runs in a process of its own, and the systems alternate. The table shows the median of the seconds
that fitting takes, and of the memory that it adds at its peak. With one thread and without --busy these are
seconds of processor time, which other programs change little, and otherwise of wall-clock time. --busy N
runs N processes beside every fit, each of which keeps one core busy and uses almost no memory. Rivals run
with their defaults, openTSNE also on our schedule of iterations, exaggeration, momentum and learning rates;
a rival that is not installed is left out. One function judges all maps: the KL divergence, with the
affinities of the exact 90 neighbors in float64 and every pair in Z, and the share of the 10 nearest
neighbors in the data that are so in the map; the table shows their means.
"""

import argparse
import contextlib
import functools
import importlib.util
import json
import re
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
import data
import tsne

# -----------------------------------------------------------------------------------------------------------
# The systems: functions of points [n, d] and threads that return a map


def ours(method):
    return lambda x, threads: tsne.TSNE(method=method).fit_transform(x)


def scikit_learn(x, threads):
    from sklearn.manifold import TSNE

    return TSNE(n_jobs=threads, random_state=0).fit_transform(x)


def open_tsne(method):
    def fit(x, threads):
        from openTSNE import TSNE

        model = TSNE(n_jobs=threads, negative_gradient_method=method, random_state=0)
        return np.asarray(model.fit(x))

    return fit


def open_tsne_on_our_schedule(method):
    def fit(x, threads):
        from openTSNE import TSNE

        model = TSNE(n_jobs=threads, negative_gradient_method=method, random_state=0)
        embedding = model.prepare_initial(x)
        iteration = 0
        for end, power, momentum, factor in tsne.SCHEDULE:
            exaggeration = 12**power
            embedding.optimize(
                round(250 * end) - iteration,
                exaggeration=exaggeration,
                momentum=momentum,
                learning_rate=factor * len(x) / exaggeration,  # its gradient lacks the factor 4
                inplace=True,
            )
            iteration = round(250 * end)
        return np.asarray(embedding)

    return fit


def manifolds(approximation):
    def fit(x, threads):
        import manifolds_rs

        manifolds_rs.set_num_threads(threads)
        return np.asarray(manifolds_rs.TSNE(approx=approximation).fit_transform(x))

    return fit


SYSTEMS = {
    "ours": ours("auto"),
    "ours, barnes_hut": ours("barnes_hut"),
    "scikit-learn": scikit_learn,
    "manifolds-rs barnes_hut": manifolds("barnes_hut"),
    "manifolds-rs qd": manifolds("qd"),
    "manifolds-rs fft": manifolds("fft"),
    "manifolds-rs fft_3k": manifolds("fft_3k"),
    "openTSNE bh": open_tsne("bh"),
    "openTSNE fft": open_tsne("fft"),
    "openTSNE bh, our schedule": open_tsne_on_our_schedule("bh"),
    "openTSNE fft, our schedule": open_tsne_on_our_schedule("fft"),
}


def is_installed(name):
    """Whether the package of a system, or of a method of --force, can be imported."""
    packages = {"openTSNE": "openTSNE", "scikit-learn": "sklearn", "manifolds-rs": "manifolds_rs"}
    package = packages.get(re.split("[ ,]", name)[0], "torch")
    return importlib.util.find_spec(package) is not None


def clock(threads, busy=0):
    return time.process_time() if threads == 1 and not busy else time.perf_counter()


@contextlib.contextmanager
def busy_processes(count):
    """Processes that do nothing but keep a core busy each, until the end of the with block."""
    processes = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(count)]
    try:
        yield
    finally:
        for process in processes:
            process.kill()
            process.wait()


def peak_memory():
    """MB, on Linux."""
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) / 1024


def fit(name, points_path, map_path, threads, busy):
    """Fits one system in this process and writes the map; prints seconds and MB as JSON."""
    torch.set_num_threads(threads)
    x = np.load(points_path)
    SYSTEMS[name](x[:100], threads)  # a first fit imports and compiles
    Path("/proc/self/clear_refs").write_text("5")  # resets the peak of memory
    before = peak_memory()
    with busy_processes(busy):
        started = clock(threads, busy)
        embedding = SYSTEMS[name](x, threads)
        seconds = clock(threads, busy) - started
    np.save(map_path, embedding)
    print(json.dumps(dict(seconds=seconds, megabytes=peak_memory() - before)))


# -----------------------------------------------------------------------------------------------------------
# The judge, which shares no code with what it judges


class Judge:
    """What all maps of points x [n, d] are judged by: affinities and neighbors from scikit-learn."""

    def __init__(self, x, threads):
        from sklearn.manifold._t_sne import _joint_probabilities_nn
        from sklearn.neighbors import NearestNeighbors

        search = NearestNeighbors(n_neighbors=90, algorithm="brute", n_jobs=threads).fit(
            x.astype(np.float64)
        )
        graph = search.kneighbors_graph(mode="distance")
        distances = graph.data.reshape(len(x), 90)
        nearest = np.take_along_axis(graph.indices.reshape(len(x), 90), distances.argsort(1), 1)
        self.neighbors = nearest[:, :10]
        graph.data **= 2
        pairs = _joint_probabilities_nn(graph, 30, 0).tocoo()
        self.row = pairs.row
        self.column = pairs.col
        self.p = pairs.data / pairs.data.sum()

    def __call__(self, y):
        """KL(P || Q) of a map y [n, 2] in nats, and the share of the 10 nearest neighbors that it keeps."""
        from sklearn.neighbors import NearestNeighbors

        y = y.astype(np.float64)
        k = 1 / (1 + ((y[self.row] - y[self.column]) ** 2).sum(1))
        kl = (self.p * np.log(self.p / k)).sum() + np.log(normalizer(y))
        neighbors = NearestNeighbors(n_neighbors=10).fit(y).kneighbors(return_distance=False)
        pairs = zip(neighbors, self.neighbors, strict=True)
        return kl, np.mean([len(np.intersect1d(in_map, in_data)) / 10 for in_map, in_data in pairs])


def normalizer(y):
    """Z, the sum of 1 / (1 + |y_i - y_j|^2) over every pair."""
    y = torch.from_numpy(y)
    parts = (torch.cdist(rows, y, compute_mode="donot_use_mm_for_euclid_dist") for rows in y.split(500))
    return sum((1 / (1 + part.square_())).sum().item() for part in parts) - len(y)


# -----------------------------------------------------------------------------------------------------------
# The table


def load_points(name, data_dir, n, sample):
    """n random points of a data set in 50 principal components, float32 [n, 50]; `sample` is the seed."""
    whole = data.load(name, data_dir, valid_fraction=0)
    x = torch.cat([whole.train.x, whole.test.x]).flatten(1)
    x = x[torch.randperm(len(x), generator=torch.Generator().manual_seed(sample))[:n]]
    return tsne.pca(x.float() / 255, 50).numpy()


def compare_systems(name, n, args):
    """Prints the table of one data set at one size."""
    fits = {system: [] for system in args.systems}
    for sample in range(args.rounds):
        x = load_points(name, args.data_dir, n, sample)
        judge = Judge(x, args.threads)
        with tempfile.TemporaryDirectory() as folder:
            points_path = Path(folder) / "x.npy"
            np.save(points_path, x)
            for system in args.systems:
                path = Path(args.keep or folder) / f"{name}-{n}-{re.sub('[, ]+', '-', system)}.npy"
                path.parent.mkdir(exist_ok=True)
                command = [sys.executable, __file__, "--fit", system, str(points_path), str(path)]
                command += ["--threads", str(args.threads), "--busy", str(args.busy)]
                process = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
                measured = json.loads(process.stdout.splitlines()[-1])
                measured["kl"], measured["neighbors_kept"] = judge(np.load(path))
                fits[system].append(measured)
                line = f"  {system}: {measured['seconds']:.2f} s, KL {measured['kl']:.4f}"
                print(line, file=sys.stderr, flush=True)
    beside = f", beside {args.busy} busy processes" if args.busy else ""
    print(f"\n{name}, {len(x):,} points, {args.threads} threads{beside}, {args.rounds} rounds")
    print(f"{'':<28}{'seconds':>9}{'ours is':>9}{'MB':>8}{'KL':>9}{'10-NN':>8}")
    seconds = {system: statistics.median(fit["seconds"] for fit in fits[system]) for system in fits}
    for system in fits:
        memory = statistics.median(fit["megabytes"] for fit in fits[system])
        kl = statistics.mean(fit["kl"] for fit in fits[system])
        neighbors_kept = statistics.mean(fit["neighbors_kept"] for fit in fits[system])
        ratio = seconds[system] / seconds.get("ours", np.nan)
        line = f"{system:<28}{seconds[system]:>9.2f}{ratio:>8.2f}x{memory:>8.0f}{kl:>9.4f}"
        print(f"{line}{neighbors_kept:>8.4f}", flush=True)


# -----------------------------------------------------------------------------------------------------------
# The repulsion alone: relative error of the force against time


def our_repulsions(y):
    """{name: {setting: function that returns the repulsion, up to a factor}} of a map [n, 2]."""
    y = torch.from_numpy(y)
    # a fit has one mesh, whose kernel it keeps; here each spacing keeps its own
    tsne.kernel_transform = functools.cache(tsne.kernel_transform.__wrapped__)
    return {
        "ours, barnes_hut (angle)": {
            angle: lambda angle=angle: tsne.barnes_hut_repulsion(y, angle)[0].numpy() for angle in ANGLES
        },
        "ours, fft (spacing)": {
            h: lambda h=h: tsne.mesh_repulsion(y, h)[0].numpy() for h in (0.7, 0.5, 0.35, 0.25, 0.18)
        },
    }


def scikit_learn_repulsions(y, threads):
    from sklearn.manifold import _barnes_hut_tsne

    def repulsion(angle):
        force = np.zeros_like(y)
        no_neighbors = np.zeros(len(y) + 1, np.int64)
        p = np.zeros(1, np.float32)
        pairs = (p, y, no_neighbors[:1], no_neighbors, force)
        _barnes_hut_tsne.gradient(*pairs, angle, 2, 0, dof=1, compute_error=False, num_threads=threads)
        return -force

    return {"scikit-learn (angle)": {angle: lambda angle=angle: repulsion(angle) for angle in ANGLES}}


def open_tsne_repulsions(y, threads):
    from openTSNE import _tsne, quad_tree

    y = y.astype(np.float64)

    def barnes_hut(angle):
        force = np.zeros_like(y)
        tree = quad_tree.QuadTree(y)
        _tsne.estimate_negative_gradient_bh(tree, y, force, theta=angle, dof=1, num_threads=threads)
        return -force

    def fft(nodes):
        force = np.zeros_like(y)
        _tsne.estimate_negative_gradient_fft_2d(y, force, n_interpolation_points=nodes, dof=1)
        return -force

    return {
        "openTSNE bh (angle)": {angle: lambda angle=angle: barnes_hut(angle) for angle in ANGLES},
        "openTSNE fft (nodes)": {nodes: lambda nodes=nodes: fft(nodes) for nodes in (2, 3, 4)},
    }


ANGLES = (0.3, 0.4, 0.5, 0.6, 0.7, 0.8)


def compare_forces(path, threads, rounds, figure):
    """Prints and draws error and milliseconds of each repulsion at the map in `path`, alternating."""
    torch.set_num_threads(threads)
    y = np.load(path).astype(np.float32)
    exact = tsne.exact_repulsion(torch.from_numpy(y).double())[0].numpy()
    systems = our_repulsions(y)
    if is_installed("scikit-learn"):
        systems |= scikit_learn_repulsions(y, threads)
    if is_installed("openTSNE"):
        systems |= open_tsne_repulsions(y, threads)
    errors = {}
    times = {}
    for _ in range(rounds + 1):  # the first warms up
        for name, settings in systems.items():
            for setting, function in settings.items():
                started = clock(threads)
                force = function().astype(np.float64)
                times.setdefault((name, setting), []).append(1000 * (clock(threads) - started))
                # the factor and the sign that bring the force nearest to the exact one
                product = (force * exact).sum()
                force *= abs(product) / (force * force).sum()
                errors[name, setting] = np.linalg.norm(force - exact) / np.linalg.norm(exact)
    times = {key: statistics.median(values[1:]) for key, values in times.items()}
    print(f"{Path(path).name}, {len(y):,} points, {threads} threads")
    curves = {}
    for name, settings in systems.items():
        curves[name] = np.array([(errors[name, s], times[name, s]) for s in settings])
        for setting in settings:
            key = (name, setting)
            print(f"{name:<28}{setting:>6}   error {errors[key]:.2e}{times[key]:>8.1f} ms")
    print_times_at_equal_error(curves, ("ours, barnes_hut (angle)", 0.5), errors, times)
    if figure:
        draw(curves, systems, figure, len(y))


def print_times_at_equal_error(curves, ours, errors, times):
    """The time, between two of its angles, at which each tree has the error of ours at one angle."""
    for name, curve in curves.items():
        if "(angle)" in name:
            points = curve[curve[:, 0].argsort()]
            same = np.exp(np.interp(np.log(errors[ours]), *np.log(points).T))
            print(f"{name:<28}at error {errors[ours]:.2e}: {same:.1f} ms, {same / times[ours]:.2f}x ours")


def draw(curves, systems, path, n):
    import matplotlib.pyplot as plt

    fig, ax = plt.subplots(figsize=(7, 4.5), layout="constrained")
    for name, curve in curves.items():
        ax.loglog(*curve.T, "o-" if name.startswith("ours") else "s--", label=name, markersize=4)
        for setting, point in zip(systems[name], curve, strict=True):
            ax.annotate(f"{setting:g}", point, xytext=(3, 3), textcoords="offset points", fontsize=7)
    ax.set(
        xlabel="relative error of the repulsive force", ylabel="milliseconds", title=f"a map of {n:,} points"
    )
    ax.grid(alpha=0.3, which="both")
    ax.legend(fontsize=8)
    fig.savefig(path, dpi=130)


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--data-dir", help="where mnist and fashion are")
    parser.add_argument("--data", nargs="+", default=["mnist", "fashion"])
    parser.add_argument("--sizes", nargs="+", type=int, default=[2000, 10000])
    parser.add_argument("--systems", nargs="+", default=list(SYSTEMS), choices=list(SYSTEMS), metavar="NAME")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--busy", type=int, default=0, metavar="N", help="busy processes beside every fit")
    parser.add_argument("--keep", metavar="DIR", help="keep the maps there")
    parser.add_argument("--force", metavar="MAP.npy", help="compare the repulsive force alone, at this map")
    parser.add_argument("--figure", metavar="PNG", help="of --force")
    parser.add_argument("--quick", action="store_true", help="ours on 300 digits, and its force, in seconds")
    parser.add_argument("--fit", nargs=3, help=argparse.SUPPRESS)  # what compare_systems starts
    args = parser.parse_args(argv)
    missing = [system for system in args.systems if not is_installed(system)]
    args.systems = [system for system in args.systems if system not in missing]
    if args.fit:
        fit(*args.fit, args.threads, args.busy)
    elif args.quick:
        quick(args)
    elif args.force:
        compare_forces(args.force, args.threads, args.rounds, args.figure)
    else:
        if missing:
            print(f"not installed, left out: {'; '.join(missing)}", file=sys.stderr)
        for size in args.sizes:
            for name in args.data:
                compare_systems(name, size, args)


def quick(args):
    """Every step once, on few digits, with our t-SNE only in the table of systems."""
    with tempfile.TemporaryDirectory() as folder:
        args.systems = ["ours"]
        args.rounds = 1
        args.threads = 1  # small tensors gain nothing from more
        args.keep = folder
        compare_systems("mnist10k", 300, args)
        compare_forces(Path(folder) / "mnist10k-300-ours.npy", args.threads, 1, args.figure)


if __name__ == "__main__":
    main()
