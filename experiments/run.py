"""Runs a recipe or a sweep of one, and writes a table of its results and a plot of its learning curves.

    python experiments/run.py --list                           # recipes and sweeps
    python experiments/run.py r0-conv-vae                      # a recipe -> runs/r0-conv-vae/
    python experiments/run.py r3-hidden --seeds 3 --jobs 2     # -> runs/r3-hidden/encoder-hidden=64/, ...
    python experiments/run.py r3-hidden --data-dir DIR         # on all of MNIST, which is downloaded to DIR
    python experiments/run.py r3-hidden --out runs/short -- --epochs 2    # flags after -- go to train.py

It may be stopped and started again at any moment: finished runs are kept, interrupted ones are resumed. The
table is table.md and the plot curves.png, in the output folder.

A cluster's job array runs a sweep if each task trains one setting and seed into the folder it has here:
`python train.py @experiments/r3-vae.txt --encoder-hidden 64 --seed 1 --out DIR`, where DIR is
runs/r3-hidden/encoder-hidden=64,seed=1. Afterwards run.py finds all runs finished and writes their table.
"""

import difflib
import itertools
import json
import math
import os
import re
import signal
import statistics
import subprocess
import sys
import threading
import time
from collections import namedtuple
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
import data
import models
import sample
import train
from data import Mistake, number, require

ROOT = Path(train.__file__).parent
RECIPES = {path.stem: path for path in sorted((ROOT / "experiments").glob("*.txt"))}

Training = namedtuple("Training", "folder argv")  # a run folder, and train.py's arguments for it
Sweep = namedtuple("Sweep", "recipes flags")  # each recipe with each combination of the flags' values

SWEEPS = {
    "r0-lstm": Sweep(["r0-lstm-ae", "r0-best-lstm-ae"], {}),
    "r0-encoder": Sweep(["r0-rnn-vae", "r0-conv-vae"], {}),
    "r0-sequence": Sweep(["r0-rnn-vae"], {"sequence": ["last", "full"]}),
    "r0-beta": Sweep(["r0-cvae-rnn", "r0-cvae-conv"], {"beta": [1, 2, 4]}),
    "r1-priors": Sweep(["r1-vad-gaussian", "r1-vad-exponential", "r1-vad-uniform"], {}),
    "r3-base": Sweep(["r3-vae"], {"latent-dim": [2, 6]}),
    "r3-hidden": Sweep(["r3-vae"], {"encoder-hidden": [64, 128, 256]}),
    "r3-decoder": Sweep([f"r3-decoder{k}" for k in range(1, 7)], {}),
    "r3-latent": Sweep(["r3-latent"], {"latent-dim": [2, 5, 10, 20]}),
    "r4-encoder": Sweep(["r4-rnn-vae", "r4-conv-vae"], {}),
}
# For each data set of the repository, the flags of the whole data set in the folder {0}. fashion2k is not
# here: its report had no more than these 2,000 pictures.
WHOLE_DATA = {
    "mnist10k": "--data mnist --data-dir {0}",
    "quickdraw5k": "--data quickdraw --data-dir {0}",
    "butterflies1k": "--data {0}/butterflies --image-size 64",
    "arithmetic": "--data-dir {0}",
}


# -----------------------------------------------------------------------------------------------------------
# The trainings of a recipe or sweep


def plan(name, seeds=1, out=None, data_dir=None, more=()):
    """The trainings of a recipe or sweep, with the flags `more` added to each. Raises Mistake.

    The folder of a recipe is `out` (default runs/<name>). Those of a sweep lie inside it and are named after
    the settings that differ.
    """
    if name not in SWEEPS | RECIPES:
        similar = difflib.get_close_matches(name, SWEEPS | RECIPES, n=1)
        hint = f"did you mean {similar[0]}?" if similar else "see --list"
        raise Mistake(f"no recipe or sweep {name}: {hint}")
    sweep = SWEEPS.get(name, Sweep([name], {}))
    trainings = []
    for seed, recipe, *values in itertools.product(range(seeds), sweep.recipes, *sweep.flags.values()):
        settings = [f"{flag}={value}" for flag, value in zip(sweep.flags, values, strict=True)]
        argv = [f"@{RECIPES[recipe]}", *(f"--{setting}" for setting in settings)]
        if data_dir:
            argv += whole_data_flags(argv, data_dir)
        if len(sweep.recipes) > 1:
            settings = [recipe, *settings]
        folder = Path(out or Path("runs", name), ",".join(settings))
        trainings.append(with_seed(folder, [*argv, *more], seed))
    return trainings


def with_seed(folder, argv, seed):
    """The training with this seed; folders of seeds other than 0 are named after their seed."""
    if seed:
        folder = Path(f"{folder},seed={seed}")
    return Training(folder, [*argv, "--seed", str(seed), "--out", str(folder)])


def whole_data_flags(argv, data_dir):
    """The flags that replace the data set of argv by the whole one in data_dir. MNIST is downloaded to it;
    butterflies must be there, and more drawings than the repository has."""
    name = train.read_flags(argv)[0].data
    if name == "butterflies1k" and not Path(data_dir, "butterflies").is_dir():
        return []
    rabbits = Path(data_dir, "quickdraw", "rabbit.npy")
    if name == "quickdraw5k" and not (rabbits.is_file() and len(np.load(rabbits, mmap_mode="r")) > 1000):
        return []
    return [part.format(data_dir) for part in WHOLE_DATA.get(name, "").split()]


def check(trainings):
    """Raises Mistake if a folder holds a run with other flags than planned: a table must not mix them."""
    for folder, argv in trainings:
        args, _ = train.read_flags(argv)  # refuses what train.py would refuse
        planned = json.loads(json.dumps(vars(args)))  # tuples become lists, as in config.json
        if not (folder / "config.json").exists():
            continue
        defaults, _ = train.read_flags(["--model", args.model])  # of flags that are younger than the run
        existing = vars(defaults) | data.read_config(folder)["flags"]
        for name, value in planned.items():
            if name not in ("out", "resume") and existing[name] != value:
                flag = "--" + name.replace("_", "-")
                difference = f"{flag} {existing[name]}, not {value}"
                raise Mistake(f"{folder} was trained with {difference}: delete it, or move it away")


def require_ours(out, trainings):
    """Raises Mistake if a table or picture in the folder `out` is of other work and would be replaced."""
    require(out.is_dir() or not out.exists(), f"--out {out} is a file: name a folder")
    if any(Path(f"{folder}{ending}").exists() for folder, _ in trainings for ending in ("", ".log")):
        return
    for name in ("table.md", "curves.png"):
        require(not (out / name).exists(), f"{out} holds a {name} of other work: name another --out")


# -----------------------------------------------------------------------------------------------------------
# Training


def run_all(trainings, jobs=1):
    """Runs what has not finished yet, `jobs` trainings at a time; returns the folders whose training failed.

    The trainings share the cores, unless OMP_NUM_THREADS is set. A failure does not stop the others. However
    this function ends, it leaves no training running.
    """
    threads = max(1, (os.cpu_count() or 1) // jobs)
    environment = {"OMP_NUM_THREADS": str(threads)} | os.environ
    waiting = [training for training in trainings if not is_finished(training.folder)]
    running = {}  # folder: process
    failed = []
    try:
        while waiting or running:
            while waiting and len(running) < jobs:
                folder, argv = waiting.pop(0)
                running[folder] = start(folder, argv, environment, show_output=jobs == 1)
            time.sleep(0.1)
            for folder in [folder for folder, process in running.items() if process.poll() is not None]:
                status = running.pop(folder).returncode
                if status:
                    failed.append(folder)
                    print(f"{folder}: {failure(folder, status, jobs)}", flush=True)
                else:
                    print(f"{folder}: done", flush=True)
    finally:
        for process in running.values():
            process.terminate()  # at any moment: a run folder always stays usable
        for process in running.values():
            process.wait()
    return failed


def is_finished(folder):
    return (folder / "summary.json").exists()


def failure(folder, status, jobs):
    """Why a training failed: the last line of its log, if it has one of its own."""
    if jobs == 1:  # the user has seen the output
        return f"FAILED, status {status}"
    lines = Path(f"{folder}.log").read_text(errors="replace").splitlines()
    reason = lines[-1] if lines else ""
    return f"FAILED, status {status}: {reason} (more in {folder}.log)"


def start(folder, argv, environment, show_output):
    """Starts a process that trains or resumes a run; its output is shown, or appended to <folder>.log."""
    if (folder / "last.pt").exists():
        argv = ["--resume", str(folder)]
    command = [sys.executable, __file__, "--child-of", str(os.getpid()), *argv]
    if show_output:
        return subprocess.Popen(command, env=environment)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with open(f"{folder}.log", "a") as log:
        return subprocess.Popen(command, env=environment, stdout=log, stderr=log)


def end_with_parent(parent):
    """Ends this process as Ctrl-C would once its parent is gone, even if that was killed with `kill -9`."""

    def watch():
        while os.getppid() == parent:
            time.sleep(0.5)
        os.kill(os.getpid(), signal.SIGTERM)  # a shell may have started us with Ctrl-C ignored

    if os.name == "posix":  # elsewhere the id of the parent stays the same when it ends
        threading.Thread(target=watch, daemon=True).start()


# -----------------------------------------------------------------------------------------------------------
# Results


def without_seed(folder):
    """A run folder's name without its seed: the setting that it shares with the other seeds."""
    return re.sub(r",seed=\d+$", "", folder.name)


def read_summary(folder):
    """The content of a finished run's summary.json. Raises Mistake."""
    path = folder / "summary.json"
    summary = data.read_json(path)
    damaged = f"{path} is damaged: delete {folder} and train again"
    require(isinstance(summary, dict) and isinstance(summary.get("data"), str), damaged)
    numbers = [summary.get(name) for name in ("seconds", "steps", "best_epoch")]
    tables = [summary.get("units"), *(summary.get(split, {}) for split in data.SPLITS)]
    require(all(isinstance(table, dict) for table in tables), damaged)
    for table in tables[1:]:
        numbers += [value for value in table.values() if value is not None and not isinstance(value, list)]
    require(all(isinstance(number, int | float) for number in numbers), damaged)
    return summary


def final_numbers(folder):
    """The numbers of a finished run by name, with their units. Raises Mistake."""
    summary = read_summary(folder)
    numbers = {}
    for split in data.SPLITS:
        for term, value in summary.get(split, {}).items():
            if value is None or isinstance(value, list):  # such as the KL of each dimension
                continue
            name = f"{split} {term}".replace("_", " ")
            unit = summary["units"].get(term)
            numbers[data.visible(f"{name}, {unit}" if unit else name)] = float(value)
    numbers["best epoch"] = float(summary["best_epoch"])
    numbers["training, s"] = float(summary["seconds"])
    return numbers


def table(folders):
    """A Markdown table of finished runs: a row for each setting, a column for each final number (mean ±
    standard deviation, if there are several seeds)."""
    settings = {}
    for folder in folders:
        settings.setdefault(without_seed(folder), []).append(final_numbers(folder))
    columns = dict.fromkeys(name for runs in settings.values() for numbers in runs for name in numbers)
    lines = [["", *columns, "seeds"]]
    lines.append(["---"] * len(lines[0]))
    for setting, runs in settings.items():
        cells = [cell([numbers[name] for numbers in runs if name in numbers], digits=5) for name in columns]
        lines.append([setting, *cells, str(len(runs))])
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def cell(values, digits=4):
    """Mean ± standard deviation over seeds, with two digits of the deviation and at most five of the mean; a
    mean without a deviation has `digits`. Missing values (None) are left out and counted."""
    numbers = [value for value in values if value is not None]
    if not numbers:
        return "–"
    mean = statistics.mean(numbers)
    deviation = statistics.stdev(numbers) if len(numbers) > 1 else 0
    text = f"{mean:.{digits}g}"
    if deviation:
        places = max(0, min(1 - magnitude(deviation), 4 - magnitude(mean)))
        text = f"{mean:.{places}f} ± {deviation:.{places}f}"
    return text if len(numbers) == len(values) else f"{text} ({len(numbers)} of {len(values)})"


def magnitude(value):
    """The power of ten of a number's first digit."""
    return math.floor(math.log10(abs(value))) if value else 0


def report(trainings, out):
    """Prints and writes the table of the finished runs and draws their curves; returns the exit status."""
    finished = [folder for folder, _ in trainings if is_finished(folder)]
    if not finished:
        return 0
    text = table(finished)
    print(f"\n{text}")
    out.mkdir(parents=True, exist_ok=True)
    data.write_file(out / "table.md", lambda file: file.write(text.encode()))
    first_seeds = [folder for folder in finished if folder.name == without_seed(folder)]
    shown = first_seeds if len(first_seeds) > 1 else finished  # a curve for each setting, else for each seed
    return sample.main([*map(str, shown), "--what", "curves", "--out", str(out / "curves.png")])


# -----------------------------------------------------------------------------------------------------------
# Command line


def flags():
    parser = data.Parser(prog="run.py", description=__doc__)
    parser.add_argument("name", nargs="?", metavar="NAME", help="a recipe or sweep")
    parser.add_argument("--list", action="store_true", help="list the recipes and sweeps")
    parser.add_argument("--seeds", type=number(int, 1), default=1, help="seeds for each setting (default 1)")
    parser.add_argument("--jobs", type=number(int, 1), default=1, help="trainings at a time (default 1)")
    parser.add_argument("--data-dir", metavar="DIR", help="train on the whole data sets in this folder")
    parser.add_argument("--out", metavar="DIR", help="folder of the runs (default runs/NAME)")
    return parser


def show_list():
    for name, path in RECIPES.items():
        title = path.read_text(encoding="utf-8").splitlines()[0]
        print(f"{name:20} {title.lstrip('# ')}")
    print("\nsweeps")
    for name, sweep in SWEEPS.items():
        parts = [" ".join(sweep.recipes)]
        parts += [f"--{flag} {' '.join(map(str, values))}" for flag, values in sweep.flags.items()]
        print(f"{name:20} {', '.join(parts)}")


def command(argv):
    split = argv.index("--") if "--" in argv else len(argv)
    train_argv = argv[split + 1 :]
    args = flags().parse_args(argv[:split])
    if args.list:
        return show_list()
    if not args.name:
        flags().error("which recipe or sweep? see --list")
    trainings = plan(args.name, args.seeds, args.out, args.data_dir, train_argv)
    check(trainings)
    out = Path(args.out or Path("runs", args.name))
    require_ours(out, trainings)
    failed = run_all(trainings, args.jobs)
    status = report(trainings, out)
    return 1 if failed else status


def main(argv=None):
    """Runs the command line; returns its exit status."""
    return data.run_command("run.py", command, argv, models.ModelError)


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # kill ends it in the same way as Ctrl-C
    if sys.argv[1:2] == ["--child-of"]:  # started by start(), with the arguments of train.py
        end_with_parent(int(sys.argv[2]))
        sys.exit(train.main(sys.argv[3:]))
    sys.exit(main())
