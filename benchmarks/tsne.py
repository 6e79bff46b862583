"""How fast is our t-SNE, and how good are its maps? Ours against scikit-learn and openTSNE.

    pip install -r requirements-dev.txt && pip install --no-deps openTSNE==1.0.4
    python benchmarks/tsne.py --data-dir DIR                                       # 2,000 and 10,000 points
    python benchmarks/tsne.py --data-dir DIR --sizes 70000 --rounds 1 --keep maps  # take an hour
    python benchmarks/tsne.py --force maps/mnist-70000-ours.npy --figure docs/barnes-hut.png

Digits and clothes, in 50 principal components. Every run is a process of its own, and they alternate; the
table has medians of the seconds that fitting takes, and of the memory that it adds at its peak. On one
thread they are the processor's seconds, to which other programs add little, else the wall's. Rivals run as
they come, and again with our number of iterations, learning rates and momentum (which in scikit-learn is
fixed). One function judges all maps: KL with the affinities of the exact 90 neighbors in float64 and every
pair in Z, and the share of the 10 nearest neighbors that the map keeps.
"""

import argparse
import json
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


def scikit_learn_on_our_schedule(x, threads):
    from sklearn.manifold import _t_sne

    descend, n = _t_sne._gradient_descent, len(x)

    def with_our_rate(*args, **options):
        options["learning_rate"] = n / 48 if options["it"] == 0 else n / 4
        return descend(*args, **options)

    _t_sne._gradient_descent = with_our_rate
    model = _t_sne.TSNE(n_jobs=threads, random_state=0)
    model._EXPLORATION_MAX_ITER, model.max_iter = 100, our_iterations(n)
    return model.fit_transform(x)


def open_tsne(method, **schedule):
    def fit(x, threads):
        from openTSNE import TSNE

        given = dict(schedule, n_iter=our_iterations(len(x)) - 100) if schedule else {}
        model = TSNE(n_jobs=threads, negative_gradient_method=method, random_state=0, **given)
        return np.asarray(model.fit(x))

    return fit


def our_iterations(n):
    return 500 if n >= 5000 else 700


OUR_SCHEDULE = dict(early_exaggeration_iter=100, initial_momentum=0.8, final_momentum=0.9)
SYSTEMS = {
    "ours": ours("auto"),
    "ours, barnes_hut": ours("barnes_hut"),
    "scikit-learn": scikit_learn,
    "scikit-learn, our schedule": scikit_learn_on_our_schedule,
    "openTSNE bh": open_tsne("bh"),
    "openTSNE fft": open_tsne("fft"),
    "openTSNE bh, our schedule": open_tsne("bh", **OUR_SCHEDULE),
    "openTSNE fft, our schedule": open_tsne("fft", **OUR_SCHEDULE),
}


def clock(threads):
    return time.process_time() if threads == 1 else time.perf_counter()


def peak_memory():
    """MB, on Linux."""
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) / 1024


def run_one(name, points, result, threads):
    """In a process of its own: fits, and writes the map; prints seconds and MB as JSON."""
    torch.set_num_threads(threads)
    x = np.load(points)
    SYSTEMS[name](x[:100], threads)  # warms up: imports, and what is compiled or planned at first
    Path("/proc/self/clear_refs").write_text("5")  # the peak counts from here on
    before = peak_memory()
    started = clock(threads)
    found = SYSTEMS[name](x, threads)
    seconds = clock(threads) - started
    np.save(result, found)
    print(json.dumps(dict(seconds=seconds, megabytes=peak_memory() - before)))


# -----------------------------------------------------------------------------------------------------------
# The judge, which shares nothing with what it judges


class Judge:
    def __init__(self, x, threads):
        from sklearn.manifold._t_sne import _joint_probabilities_nn
        from sklearn.neighbors import NearestNeighbors

        found = NearestNeighbors(n_neighbors=90, algorithm="brute", n_jobs=threads).fit(x.astype(np.float64))
        graph = found.kneighbors_graph(mode="distance")
        distances = graph.data.reshape(len(x), 90)
        nearest = np.take_along_axis(graph.indices.reshape(len(x), 90), distances.argsort(1), 1)
        self.neighbors = nearest[:, :10]
        graph.data **= 2
        pairs = _joint_probabilities_nn(graph, 30, 0).tocoo()
        self.row, self.column, self.p = pairs.row, pairs.col, pairs.data / pairs.data.sum()

    def __call__(self, y):
        """KL(P || Q) in nats, and the share of 10 neighbors kept."""
        from sklearn.neighbors import NearestNeighbors

        y = y.astype(np.float64)
        k = 1 / (1 + ((y[self.row] - y[self.column]) ** 2).sum(1))
        kl = (self.p * np.log(self.p / k)).sum() + np.log(normalizer(y))
        found = NearestNeighbors(n_neighbors=10).fit(y).kneighbors(return_distance=False)
        return kl, np.mean(
            [len(np.intersect1d(a, b)) / 10 for a, b in zip(found, self.neighbors, strict=True)]
        )


def normalizer(y):
    """Z over every pair."""
    y = torch.from_numpy(y)
    parts = (torch.cdist(rows, y, compute_mode="donot_use_mm_for_euclid_dist") for rows in y.split(500))
    return sum((1 / (1 + part.square_())).sum().item() for part in parts) - len(y)


# -----------------------------------------------------------------------------------------------------------
# The table


def load_points(name, data_dir, n):
    """n random points of a data set in 50 principal components, float32 [n, 50]."""
    whole = data.load(name, data_dir, valid_fraction=0)
    x = torch.cat([whole.train.x, whole.test.x]).flatten(1)
    x = x[torch.randperm(len(x), generator=torch.Generator().manual_seed(0))[:n]]
    return tsne.pca(x.float() / 255, 50).numpy()


def compare(name, n, args):
    """Print the table of one data set at one size."""
    x = load_points(name, args.data_dir, n)
    judge, runs = Judge(x, args.threads), {system: [] for system in args.systems}
    with tempfile.TemporaryDirectory() as folder:
        points = Path(folder) / "x.npy"
        np.save(points, x)
        for _ in range(args.rounds):
            for system in args.systems:
                path = (
                    Path(args.keep or folder)
                    / f"{name}-{n}-{system.replace(', ', '-').replace(' ', '-')}.npy"
                )
                path.parent.mkdir(exist_ok=True)
                command = [sys.executable, __file__, "--one", system, str(points), str(path)]
                done = subprocess.run(
                    [*command, "--threads", str(args.threads)], check=True, capture_output=True, text=True
                )
                runs[system].append(json.loads(done.stdout.splitlines()[-1]) | {"map": np.load(path)})
                print(f"  {system}: {runs[system][-1]['seconds']:.2f} s", file=sys.stderr, flush=True)
    print(f"\n{name}, {n:,} points, {args.threads} threads, {args.rounds} rounds")
    print(f"{'':<28}{'seconds':>9}{'ours is':>9}{'MB':>8}{'KL':>9}{'10-NN':>8}")
    taken = {s: statistics.median(run["seconds"] for run in runs[s]) for s in runs}
    for system in runs:
        kl, kept = judge(runs[system][-1]["map"])  # with a seed, all are the same but for the order of sums
        memory = statistics.median(run["megabytes"] for run in runs[system])
        times = taken[system] / taken.get("ours", np.nan)
        print(
            f"{system:<28}{taken[system]:>9.2f}{times:>8.2f}x{memory:>8.0f}{kl:>9.4f}{kept:>8.4f}",
            flush=True,
        )


# -----------------------------------------------------------------------------------------------------------
# The push alone: relative error of the force against time


def repulsions(y, threads):
    """{name: {setting: function that returns the push, up to a factor}} of a map [n, 2]."""
    from openTSNE import _tsne, quad_tree
    from sklearn.manifold import _barnes_hut_tsne

    n, wide, tensor = len(y), y.astype(np.float64), torch.from_numpy(y)

    def scikit_learn(angle):
        force, none = np.zeros_like(y), np.zeros(n + 1, np.int64)
        one = np.zeros(1, np.float32), y, none[:1], none, force
        _barnes_hut_tsne.gradient(*one, angle, 2, 0, dof=1, compute_error=False, num_threads=threads)
        return -force

    def open_tsne(angle):
        force = np.zeros_like(wide)
        tree = quad_tree.QuadTree(wide)
        _tsne.estimate_negative_gradient_bh(tree, wide, force, theta=angle, dof=1, num_threads=threads)
        return -force

    def open_tsne_fft(nodes):
        force = np.zeros_like(wide)
        _tsne.estimate_negative_gradient_fft_2d(wide, force, n_interpolation_points=nodes, dof=1)
        return -force

    meshes = {h: tsne.Mesh(h) for h in (0.7, 0.5, 0.35, 0.25, 0.18)}
    angles = (0.3, 0.4, 0.5, 0.6, 0.7, 0.8)
    return {
        "ours, barnes_hut (angle)": {
            angle: lambda angle=angle: tsne.barnes_hut_repulsion(tensor, angle)[0].numpy()
            for angle in angles
        },
        "scikit-learn (angle)": {angle: lambda angle=angle: scikit_learn(angle) for angle in angles},
        "openTSNE bh (angle)": {angle: lambda angle=angle: open_tsne(angle) for angle in angles},
        "ours, fft (spacing)": {h: lambda mesh=mesh: mesh(tensor)[0].numpy() for h, mesh in meshes.items()},
        "openTSNE fft (nodes)": {nodes: lambda nodes=nodes: open_tsne_fft(nodes) for nodes in (2, 3, 4)},
    }


def compare_forces(path, threads, rounds, figure):
    """Print and draw error and milliseconds of each repulsion at the map in `path`, alternating."""
    torch.set_num_threads(threads)
    y = np.load(path).astype(np.float32)
    exact = tsne.exact_repulsion(torch.from_numpy(y).double())[0].numpy()
    systems = repulsions(y, threads)
    errors, times = {}, {}
    for _ in range(rounds + 1):  # the first warms up
        for name, settings in systems.items():
            for setting, function in settings.items():
                started = clock(threads)
                force = function().astype(np.float64)
                times.setdefault((name, setting), []).append(1000 * (clock(threads) - started))
                force *= (force * exact).sum() / (force * force).sum() / np.sign((force * exact).sum())
                errors[name, setting] = np.linalg.norm(force - exact) / np.linalg.norm(exact)
    times = {key: statistics.median(values[1:]) for key, values in times.items()}
    print(f"{Path(path).name}, {len(y):,} points, {threads} threads")
    curves = {}
    for name, settings in systems.items():
        curves[name] = np.array([(errors[name, s], times[name, s]) for s in settings])
        for setting in settings:
            print(
                f"{name:<28}{setting:>6}   error {errors[name, setting]:.2e}{times[name, setting]:>8.1f} ms"
            )
    for name, curve in curves.items():
        if "(angle)" in name:  # their time for the error that ours has at angle 0.5, between two of theirs
            error, own = errors["ours, barnes_hut (angle)", 0.5], times["ours, barnes_hut (angle)", 0.5]
            points = curve[curve[:, 0].argsort()]
            same = np.exp(np.interp(np.log(error), *np.log(points).T))
            print(f"{name:<28}at error {error:.2e}: {same:.1f} ms, {same / own:.2f}x ours")
    if figure:
        draw(curves, systems, figure, len(y))


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


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--data-dir", help="where mnist and fashion lie")
    parser.add_argument("--data", nargs="+", default=["mnist", "fashion"])
    parser.add_argument("--sizes", nargs="+", type=int, default=[2000, 10000])
    parser.add_argument("--systems", nargs="+", default=list(SYSTEMS), choices=list(SYSTEMS), metavar="NAME")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--keep", metavar="DIR", help="keep the maps there")
    parser.add_argument("--force", metavar="MAP.npy", help="compare the repulsive force alone, at this map")
    parser.add_argument("--figure", metavar="PNG", help="of --force")
    parser.add_argument("--one", nargs=3, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one:
        run_one(*args.one, args.threads)
    elif args.force:
        compare_forces(args.force, args.threads, args.rounds, args.figure)
    else:
        for size in args.sizes:
            for name in args.data:
                compare(name, size, args)
