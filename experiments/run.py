"""Runs a recipe, or a sweep of one, and writes its table and its curves.

    python experiments/run.py --list                           # recipes and sweeps
    python experiments/run.py r0-conv-vae                      # a recipe -> runs/r0-conv-vae/
    python experiments/run.py r3-hidden --seeds 3 --jobs 2     # -> runs/r3-hidden/encoder-hidden=64/, ...
    python experiments/run.py r3-hidden --data-dir DIR         # on all of MNIST, which is downloaded to DIR
    python experiments/run.py r3-hidden --out runs/short -- --epochs 2    # what follows -- goes to train.py

Stop it at any moment and start it again: what has ended is kept, what was interrupted goes on. The table is
table.md, the curves are curves.png.
"""

import difflib
import itertools
import json
import os
import re
import signal
import statistics
import subprocess
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
import data
import models
import sample
import train
from data import Mistake, number

ROOT = Path(train.__file__).parent
RECIPES = {path.stem: path for path in sorted((ROOT / "experiments").glob("*.txt"))}
SWEEPS = {  # name: (recipes, {flag: values}); every recipe meets every value
    "r0-lstm": ("r0-lstm-ae r0-best-lstm-ae", {}),
    "r0-encoder": ("r0-rnn-vae r0-conv-vae", {}),
    "r0-sequence": ("r0-rnn-vae", {"sequence": "last full"}),
    "r0-beta": ("r0-cvae-rnn r0-cvae-conv", {"beta": "1 2 4"}),
    "r1-priors": ("r1-vad-gaussian r1-vad-exponential r1-vad-uniform", {}),
    "r3-base": ("r3-vae", {"latent-dim": "2 6"}),
    "r3-hidden": ("r3-vae", {"encoder-hidden": "64 128 256"}),
    "r3-decoder": (" ".join(f"r3-decoder{k}" for k in range(1, 7)), {}),
    "r3-latent": ("r3-latent", {"latent-dim": "2 5 10 20"}),
    "r4-encoder": ("r4-rnn-vae r4-conv-vae", {}),
}
WHOLE = {  # the repository's data: flags of all the data, in a folder. The report of fashion2k had no more
    "mnist10k": "--data mnist --data-dir {0}",
    "quickdraw5k": "--data quickdraw --data-dir {0}",
    "butterflies": "--data {0}/butterflies --image-size 64",
    "arithmetic": "--data-dir {0}",
}


# -----------------------------------------------------------------------------------------------------------
# What there is to train


def plan(name, seeds=1, out=None, data_dir=None, more=()):
    """What a recipe or sweep trains: a list of (run folder, train.py's arguments). Raises Mistake.

    A recipe's folder is `out` (runs/<name>) itself; those of a sweep lie in it, called after what differs.
    """
    if name not in SWEEPS | RECIPES:
        close = difflib.get_close_matches(name, SWEEPS | RECIPES, n=1)
        raise Mistake(f"no recipe or sweep {name}: {f'did you mean {close[0]}?' if close else 'see --list'}")
    recipes, axes = SWEEPS.get(name, (name, {}))
    recipes, runs = recipes.split(), []
    settings = itertools.product(recipes, *(values.split() for values in axes.values()))
    for seed, (recipe, *values) in itertools.product(range(seeds), settings):
        varied = [f"{flag}={value}" for flag, value in zip(axes, values, strict=True)]
        argv = [f"@{RECIPES[recipe]}", *(f"--{setting}" for setting in varied)]
        argv += whole(argv, data_dir) if data_dir else []
        folder = Path(out or Path("runs", name), ",".join([recipe] * (len(recipes) > 1) + varied))
        folder = Path(f"{folder},seed={seed}") if seed else folder
        runs.append((folder, [*argv, *more, "--seed", str(seed), "--out", str(folder)]))
    return runs


def whole(argv, data_dir):
    """The flags that put the whole data set, in data_dir, in place of the one that argv names."""
    used = train.read_flags(argv)[0].data
    if used == "butterflies" and not Path(data_dir, used).is_dir():
        return []
    return [part.format(data_dir) for part in WHOLE.get(used, "").split()]


def check(runs):
    """Mistake if a folder holds a run of other flags than planned: a table must not mix them."""
    for folder, argv in runs:
        wanted = json.loads(json.dumps(vars(train.read_flags(argv)[0])))  # refuses what train.py would
        if (folder / "config.json").exists():
            had = data.read_config(folder)["flags"]
            for name in wanted:
                if name not in ("out", "resume") and had.get(name) != wanted[name]:
                    found = f"{folder} was trained with {train.dashed(name)} {had.get(name)}"
                    raise Mistake(f"{found}, not {wanted[name]}: delete it, or move it away")


# -----------------------------------------------------------------------------------------------------------
# Training it


def run_all(runs, jobs=1):
    """Trains what has not ended yet, `jobs` at once; returns the folders whose training failed.

    They share the cores, unless OMP_NUM_THREADS is set. One that fails does not stop the others, and however
    this function ends it leaves no training behind.
    """
    threads = {"OMP_NUM_THREADS": str(max(1, (os.cpu_count() or 1) // jobs))}
    waiting = [run for run in runs if not (run[0] / "summary.json").exists()]
    running, failed = {}, []
    try:
        while waiting or running:
            while waiting and len(running) < jobs:
                folder, argv = waiting.pop(0)
                running[folder] = start(folder, argv, threads | os.environ, shown=jobs == 1)
            time.sleep(0.1)
            for folder in [folder for folder, process in running.items() if process.poll() is not None]:
                status = running.pop(folder).returncode
                failed += [folder] if status else []
                print(f"{folder}: {failure(folder, status, jobs) if status else 'done'}", flush=True)
    finally:
        for process in running.values():
            process.terminate()  # whenever it comes, what the run has written stays usable
        for process in running.values():
            process.wait()
    return failed


def failure(folder, status, jobs):
    if jobs == 1:  # it was shown
        return f"FAILED, status {status}"
    *_, last = ["", *Path(f"{folder}.log").read_text(errors="replace").splitlines()]
    return f"FAILED, status {status}: {last} (more in {folder}.log)"


def start(folder, argv, environment, shown):
    """A process that trains a run or goes on with it; what it says is shown or goes to <folder>.log."""
    argv = ["--resume", str(folder)] if (folder / "last.pt").exists() else argv
    command = [sys.executable, str(ROOT / "train.py"), *argv]
    if shown:
        return subprocess.Popen(command, env=environment)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with open(f"{folder}.log", "a") as log:
        return subprocess.Popen(command, env=environment, stdout=log, stderr=log)


# -----------------------------------------------------------------------------------------------------------
# What came out


def unseeded(folder):
    return re.sub(r",seed=\d+$", "", folder.name)


def table(folders):
    """Markdown: a row for each setting among run folders that have ended, a column for each final number (of
    several seeds the mean ± the standard deviation)."""
    settings, columns = {}, {}  # a dict keeps the order in which its keys came
    for folder in folders:
        summary = json.loads((folder / "summary.json").read_text())
        found = {}
        for split, (term, value) in ((s, pair) for s in data.SPLITS for pair in summary.get(s, {}).items()):
            if not isinstance(value, list):
                unit = summary["units"].get(term)
                found[f"{split} {term}".replace("_", " ") + (f", {unit}" if unit else "")] = value
        found |= {"best epoch": summary["best_epoch"], "training, s": summary["seconds"], "seeds": 1}
        settings.setdefault(unseeded(folder), []).append(found)
        columns |= dict.fromkeys(found)
    lines = [["", *columns], ["---"] * (1 + len(columns))]
    for setting, runs in settings.items():
        cells = [cell([run[name] for run in runs if name in run]) for name in columns if name != "seeds"]
        lines.append([setting, *cells, str(len(runs))])
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def cell(values):
    if len(values) > 1:
        return f"{statistics.mean(values):.5g} ± {statistics.stdev(values):.2g}"
    return f"{values[0]:.5g}" if values else "–"


def report(runs, out):
    """Prints and writes the table of the runs that have ended, and draws their curves; the exit status."""
    ended = [folder for folder, _ in runs if (folder / "summary.json").exists()]
    if ended:
        text = table(ended)
        print(f"\n{text}")
        out.mkdir(parents=True, exist_ok=True)
        data.write_file(out / "table.md", lambda file: file.write(text.encode()))
        first = [folder for folder in ended if folder.name == unseeded(folder)]  # one line for each setting
        drawn = first if len(first) > 1 else ended
        return sample.main([*map(str, drawn), "--what", "curves", "--out", str(out / "curves.png")])


# -----------------------------------------------------------------------------------------------------------
# Command line


def flags():
    parser = data.Parser(prog="run.py", description=__doc__)
    parser.add_argument("name", nargs="?", metavar="NAME", help="a recipe or sweep")
    parser.add_argument("--list", action="store_true", help="what NAME can be")
    parser.add_argument("--seeds", type=number(int, 1), default=1, help="trainings of each (default 1)")
    parser.add_argument("--jobs", type=number(int, 1), default=1, help="trainings at once (default 1)")
    parser.add_argument("--data-dir", metavar="DIR", help="train on the whole data sets, which are there")
    parser.add_argument("--out", metavar="DIR", help="folder of the runs (default runs/NAME)")
    return parser


def show_list():
    for name, path in RECIPES.items():
        print(f"{name:20} {path.read_text().splitlines()[0].lstrip('# ')}")
    print("\nsweeps")
    for name, (recipes, axes) in SWEEPS.items():
        print(f"{name:20} {', '.join([recipes, *(f'--{flag} {values}' for flag, values in axes.items())])}")


def command(argv):
    own = argv[: argv.index("--")] if "--" in argv else argv
    args = flags().parse_args(own)
    if args.list:
        return show_list()
    if not args.name:
        flags().error("which recipe or sweep? see --list")
    runs = plan(args.name, args.seeds, args.out, args.data_dir, argv[len(own) + 1 :])
    check(runs)
    failed = run_all(runs, args.jobs)
    status = report(runs, Path(args.out or Path("runs", args.name)))
    return 1 if failed else status


def main(argv=None):
    """Runs the command line; returns its exit status."""
    return data.run_command("run.py", command, argv, models.ModelError)


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # a plain kill is as good as Ctrl-C
    sys.exit(main())
