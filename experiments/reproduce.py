"""Runs the rows of rows.toml, each an experiment of a report, and writes the tables of RESULTS.md.

    python experiments/reproduce.py --budget short             # 10 updates for each: does everything work?
    python experiments/reproduce.py --budget tenth             # the heavy rows with a tenth of their updates
    python experiments/reproduce.py r4 r1-ad                   # a report or a row, at the full budget
    python experiments/reproduce.py --data-dir DIR             # everything: days on two cores
    python experiments/reproduce.py r4 --no-training           # only measure the finished runs

A row is trained with each of its seeds and measured by commands of metrics.py, tsne.py and claims.py. Its
numbers are stored in results/<row>.json, and the tables are written from these files alone. This script may
be stopped and started again at any moment: finished work is kept, interrupted runs are resumed. By default
two runs train at the same time and share the cores.
"""

import contextlib
import dataclasses
import difflib
import io
import itertools
import json
import math
import os
import re
import shlex
import signal
import statistics
import sys
import tomllib
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import active_children, get_context
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
import data
import metrics
import models
import sample
import train
import tsne
from data import Mistake, require
from experiments import claims, run

HERE = Path(__file__).resolve().parent
RESULTS = HERE.parent / "RESULTS.md"
SCRIPTS = {"metrics.py": metrics, "tsne.py": tsne, "sample.py": sample, "claims.py": claims}
SHORT = {"--steps": "10", "--fit-epochs": "1", "--refine-epochs": "1"}  # flags of the short budget
GPU = torch.cuda.get_device_name() if torch.cuda.is_available() else None


@dataclasses.dataclass
class Row:
    """An entry of rows.toml, where the fields are explained."""

    name: str
    what: str
    numbers: dict
    ours: str
    report: str = "–"
    note: str = ""
    recipe: str | None = None  # the row's name, unless rows.toml says otherwise
    flags: str = ""
    seeds: int = 1
    heavy: bool = False
    whole: bool = False
    floor: int | None = None
    data: str | None = None
    valid_fraction: float | None = None
    measure: dict | None = None
    pictures: list = dataclasses.field(default_factory=list)

    def __post_init__(self):
        self.recipe = self.recipe or self.name

    @property
    def has_training(self):
        return self.floor is None


@dataclasses.dataclass
class Result:
    """What results/<row>.json holds. Two results are equal if they come from the same runs, measured in the
    same way; the fields after `steps` follow from these, and are not compared."""

    row: str
    asked: dict  # what the numbers depend on, see requirements()
    budget: str
    tenth: bool  # trained with a tenth of the updates
    data: str
    of_data_dir: bool  # on the whole data set, from --data-dir
    judges: dict  # SHA-256 of the checkpoint of each row whose run is used to measure this one
    seeds: int
    seconds: list  # of training, for each seed
    steps: list  # updates, for each seed
    numbers: dict = dataclasses.field(default_factory=dict, compare=False)  # a list over seeds for each
    versions: dict | None = dataclasses.field(default=None, compare=False)
    threads: int | None = dataclasses.field(default=None, compare=False)
    gpu: str | None = dataclasses.field(default=None, compare=False)


def read_rows():
    """The rows by name, and the claims, as in rows.toml."""
    entries = tomllib.loads((HERE / "rows.toml").read_text(encoding="utf-8"))
    claim_entries = entries.pop("claims")
    rows = {}
    for name, entry in entries.items():
        base = entries.get(entry.pop("like", None), {})
        rows[name] = Row(name, **base | entry)
    return rows, claim_entries


ROWS, CLAIMS = read_rows()


# -----------------------------------------------------------------------------------------------------------
# The trainings of each row


def choose(names):
    """The rows with these names or of these reports (all without names), and the rows that measure them, in
    the order of rows.toml."""
    chosen = set() if names else set(ROWS)
    for name in names:
        matches = {name} if name in ROWS else {row for row in ROWS if row.startswith(f"{name}-")}
        similar = difflib.get_close_matches(name, ROWS, n=1)
        hint = f"did you mean {similar[0]}?" if similar else "they are listed in experiments/rows.toml"
        require(matches, f"no row or report {name}: {hint}")
        chosen |= matches
    for name in list(chosen):
        chosen |= set(judges(ROWS[name]))
    return [row for name, row in ROWS.items() if name in chosen]


def judges(row):
    """Names of the rows whose runs are used to measure this one."""
    return re.findall(r"{(r\d[^}]*)}", " ".join((row.measure or {}).values()))


def trainings(row, args):
    """A training for each seed of a row; none for a row that trains nothing."""
    if not row.has_training:
        return []
    recipe = run.RECIPES[row.recipe]
    argv = [f"@{recipe}", *shlex.split(row.flags), *whole_data_flags(row, args)]
    seeds = row.seeds
    if args.budget == "short":
        seeds = 1
        text = recipe.read_text(encoding="utf-8")
        for flag, value in SHORT.items():
            if flag == "--steps" or flag in text:
                argv += [flag, value]
    elif args.budget == "tenth" and row.heavy:
        flags, _ = train.read_flags(argv)
        if flags.steps:
            argv += ["--steps", str(max(1, flags.steps // 10))]
        else:
            argv += ["--epochs", str(max(1, flags.epochs // 10))]
    return [run.with_seed(Path(args.out, row.name), argv, seed) for seed in range(seeds)]


def whole_data_flags(row, args):
    """train.py's flags for the whole data set in --data-dir, if the row wants it and it is there."""
    if not (args.data_dir and row.whole):
        return []
    return run.whole_data_flags([f"@{run.RECIPES[row.recipe]}"], args.data_dir)


# -----------------------------------------------------------------------------------------------------------
# Measuring the runs of a row


def collect_all(rows, args):
    """Measures rows, args.jobs at a time; returns the names of those that failed, which stop no others."""
    if args.jobs == 1:
        statuses = [collect_one(row, args) for row in rows]
    else:
        # spawned: a forked process would inherit torch's threads in whatever state they are
        context = get_context("spawn")
        pool = ProcessPoolExecutor(args.jobs, context, run.end_with_parent, (os.getpid(),))
        try:
            statuses = list(pool.map(collect_one, rows, itertools.repeat(args)))
        except BrokenProcessPool:
            raise Mistake("a measuring process was killed: out of memory? Try --jobs 1") from None
        except KeyboardInterrupt:
            for process in active_children():  # else the pool would wait for what they measure
                process.kill()
            raise
        finally:
            pool.shutdown(cancel_futures=True)
    return [row.name for row, status in zip(rows, statuses, strict=True) if status]


def collect_one(row, args):
    """Measures a row, whatever goes wrong with it; returns the exit status."""
    torch.set_num_threads(max(1, (os.cpu_count() or 1) // args.jobs))
    try:
        return run_guarded(row, lambda: collect(row, args))
    except Exception as error:  # a mistake in rows.toml, or a defect of ours
        print(f"{row.name}: error: {type(error).__name__}: {error}", file=sys.stderr)
        return 1


def run_guarded(row, function):
    """Calls function() and returns its exit status; its errors are reported under the row's name."""
    status = data.run_command(row.name, lambda _: function(), [], models.ModelError, metrics.MetricError)
    if status == 130:  # Ctrl-C is meant for all rows
        raise KeyboardInterrupt
    return status


def collect(row, args):
    """Measures a row's finished runs and writes results/<row>.json, unless that file is up to date."""
    folders = [folder for folder, _ in trainings(row, args) if run.is_finished(folder)]
    if row.has_training and not folders:
        return
    path = results_folder(args) / f"{row.name}.json"
    previous = read_result(path)
    result = new_result(row, folders, args)
    if previous == result:
        return
    is_comparable = previous and previous.asked == result.asked and previous.tenth == result.tenth
    if is_comparable and previous.seeds > len(folders):
        seeds = f"{previous.seeds} seeds, of which {len(folders)} have finished here"
        print(f"{row.name}: the stored result is kept: it has {seeds}")
        return
    runs = [measure(row, folder, args) for folder in folders] if row.has_training else [pca_error(row)]
    for key, expression in row.numbers.items():
        result.numbers[key] = [evaluate(expression, measurements) for measurements in runs]
    if row.has_training:
        config = data.read_config(folders[0])
        result.versions = config.get("versions")
        result.threads = config.get("threads")
        for line in row.pictures:
            call(line, row, folders[0], args)
    result.gpu = GPU
    path.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps(dataclasses.asdict(result), indent=1) + "\n"
    data.write_file(path, lambda file: file.write(text.encode()))
    print(f"{row.name}: {format_numbers(row, result)}", flush=True)


def new_result(row, folders, args):
    """The result of a row's finished runs, all but the numbers."""
    summaries = [run.read_summary(folder) for folder in folders]
    checkpoints = {name: args.out / name / "best.pt" for name in judges(row)}
    return Result(
        row=row.name,
        asked=requirements(row),
        budget=args.budget,
        tenth=args.budget == "tenth" and row.heavy,
        data=summaries[0]["data"] if summaries else row.data,
        of_data_dir=bool(whole_data_flags(row, args)),
        judges={name: metrics.sha256(path.read_bytes()) for name, path in checkpoints.items()},
        seeds=len(folders),
        seconds=[summary["seconds"] for summary in summaries],
        steps=[summary["steps"] for summary in summaries],
    )


def requirements(row):
    """What the numbers of a row depend on; a stored result with other requirements is out of date."""
    options = dict(
        floor=row.floor,
        valid_fraction=row.valid_fraction,
        measure=row.measure,
        numbers=row.numbers,
    )
    asked = {key: value for key, value in options.items() if value is not None}
    if not row.has_training:
        return asked | dict(command=None, recipe="")
    command = f"python train.py @experiments/{row.recipe}.txt {row.flags}".strip()
    lines = run.RECIPES[row.recipe].read_text(encoding="utf-8").splitlines()
    flags = [line.partition("#")[0].strip() for line in lines]
    return asked | dict(command=command, recipe=" ".join(line for line in flags if line))


def read_result(path):
    """The Result in a file, None if there is no such file or it is damaged."""
    if not path.exists():
        return None
    try:
        result = Result(**data.read_json(path))
        lists = [result.seconds, result.steps, *result.numbers.values()]
        require(isinstance(result.seeds, int), "seeds is no number")
        are_numbers = all(isinstance(value, int | float | None) for values in lists for value in values)
        require(are_numbers, "its numbers are none")
        return result
    except (Mistake, TypeError, AttributeError):  # no JSON, or other fields
        print(f"{path} is damaged: run its row again", file=sys.stderr)
        return None


def results_folder(args):
    return HERE / "results" if args.budget == "full" else args.out / "results"


def measure(row, folder, args):
    """What a row's numbers are computed from: the run's summary, its log (a list for each split and term),
    and the answer to each of the row's commands."""
    measurements = dict(summary=data.read_json(folder / "summary.json"), log={})
    for line in sample.read_log(folder):
        terms = measurements["log"].setdefault(line["split"], {})
        for column, cell in line.items():
            terms.setdefault(column.partition(" [")[0], []).append(cell)
    for key, line in (row.measure or {}).items():
        if line.startswith("tsne.py"):
            measurements[key] = measure_map(key, line, row, folder, args)
        else:
            if args.budget == "short" and " -n " in line:
                line += " -n 100"
            (measurements[key],) = json.loads(call(f"{line} --json", row, folder, args))
    return measurements


def measure_map(key, line, row, folder, args):
    """KL and neighbor shares of the map that a tsne.py command makes."""
    path = folder / f"tsne-{key}.png"
    if args.budget == "short":
        line += " --max-iter 20"
    call(f"{line} --out {shlex.quote(str(path))}", row, folder, args)
    with np.load(path.with_suffix(".npz")) as arrays:
        return {name: arrays[name].tolist() for name in ("kl", "shares")}


def call(line, row, folder, args):
    """The output of a command of ours. In it {run} stands for the folder, and {name} for the run of that row
    with seed 0."""
    folders = {name: args.out / name for name in ROWS} | {"run": folder}
    line = re.sub(r"{([^}]+)}", lambda match: shlex.quote(str(folders[match[1]])), line)
    script, *argv = shlex.split(line)
    if whole_data_flags(row, args) and script != "claims.py":
        argv += ["--data-dir", args.data_dir]
    with contextlib.redirect_stdout(io.StringIO()) as output:
        status = SCRIPTS[script].main(argv)
    if status == 130:
        raise KeyboardInterrupt
    require(status == 0, f"python {script} {shlex.join(argv)} failed")
    return output.getvalue()


def evaluate(expression, measurements):
    """The value of a sum of products, such as "5 * judge.by_class.accuracy.0 + log.valid.loss.-1"; None if
    one of its numbers is missing."""
    total = 0.0
    for term in expression.split(" + "):
        factors = [look_up(factor, measurements) for factor in term.split(" * ")]
        if None in factors:
            return None
        total += math.prod(factors)
    return total


def look_up(path, measurements):
    """A constant, or the number at a path such as log.valid.loss.-1; None if it is empty or a list is too
    short, as the log of a run with few epochs may be."""
    with contextlib.suppress(ValueError):
        return float(path)
    value = measurements
    for key in path.split("."):
        try:
            value = value[int(key)] if isinstance(value, list) else value[key]
        except IndexError:
            return None
        except (KeyError, ValueError):
            raise Mistake(f"there is no {key} of {path}") from None
    return None if value in (None, "") else float(value)


def pca_error(row):
    """The squared error per pixel that row.floor principal components of the training pictures leave, on
    training and on test pictures."""
    dataset = data.load(row.data, valid_fraction=0.1 if row.valid_fraction is None else row.valid_fraction)
    x = dataset.train.batch(slice(None))[0].flatten(1).double()  # (n, pixels)
    test = dataset.test.batch(slice(None))[0].flatten(1).double()
    mean = x.mean(0)
    scatter = (x - mean).T @ (x - mean)
    axes = torch.linalg.eigh(scatter).eigenvectors[:, len(scatter) - row.floor :]  # eigenvalues ascend
    errors = {}
    for split, points in (("train", x - mean), ("test", test - mean)):
        mse = (points - points @ axes @ axes.T).square().mean().item()
        errors[split] = dict(mse=mse, rmse=255 * math.sqrt(mse))
    return errors


# -----------------------------------------------------------------------------------------------------------
# Tables


def format_numbers(row, result):
    """A row's numbers in the words of rows.toml, with their standard deviation over seeds."""
    return row.ours.format(**{key: cell(values) for key, values in result.numbers.items()})


def cell(values):
    """Mean ± standard deviation over seeds, with two digits of the deviation and at most five of the mean.
    Missing values (None) are left out and counted."""
    numbers = [value for value in values if value is not None]
    if not numbers:
        return "–"
    mean = statistics.mean(numbers)
    deviation = statistics.stdev(numbers) if len(numbers) > 1 else 0
    text = f"{mean:.4g}"
    if deviation:
        digits = max(0, min(1 - magnitude(deviation), 4 - magnitude(mean)))
        text = f"{mean:.{digits}f} ± {deviation:.{digits}f}"
    if len(numbers) < len(values):
        text += f" ({len(numbers)} of {len(values)})"
    return text


def magnitude(value):
    """The power of ten of a number's first digit."""
    return math.floor(math.log10(abs(value))) if value else 0


def read_results(args):
    """The results by row, without those whose row or recipe has changed since."""
    results = {}
    for name, row in ROWS.items():
        result = read_result(results_folder(args) / f"{name}.json")
        if result and result.asked == requirements(row):
            results[name] = result
        elif result:
            print(f"{name}: the row or its recipe has changed: run it again", file=sys.stderr)
    return results


def tables(results):
    """Markdown tables by the name of their mark in RESULTS.md: one for each report, and "claims"."""
    header = "| experiment | the report | ours | data; runs, minutes of each | |\n|---|---|---|---|---|\n"
    parts = {}
    for name, row in ROWS.items():
        report = name.partition("-")[0]
        parts.setdefault(report, header)
        parts[report] += table_row(row, results.get(name))
    return parts | {"claims": claims_table(results)}


def claims_table(results):
    numbers = {
        name: {key: cell(values) for key, values in result.numbers.items()}
        for name, result in results.items()
    }
    text = "| the reports say | we measured |\n|---|---|\n"
    for claim in CLAIMS:
        try:
            measured = claim["ours"].format(**numbers)
        except KeyError:  # a row that has not been run yet
            measured = "–"
        text += f"| {claim['says']} | {measured} |\n"
    return text


def table_row(row, result):
    ours = "–"
    runs = "–"
    note = row.note
    if result:
        ours = format_numbers(row, result)
        runs = describe_runs(row, result)
        if result.tenth:
            note = f"**a tenth of the updates.** {note}".strip()
    return f"| {row.what}<br>`{row.name}` | {row.report} | {ours} | {runs} | {note} |\n"


def describe_runs(row, result):
    """Data set, number of runs and minutes of training, as in "mnist of DIR; 2 of 3, 1.5, on a GPU"."""
    text = result.data
    if result.of_data_dir:
        text += " of DIR"
    if not result.seconds:
        return text
    text += f"; {result.seeds}"
    if result.seeds < row.seeds and result.budget == "full":
        text += f" of {row.seeds}"
    minutes = statistics.mean(result.seconds) / 60
    text += f", {minutes:.2g}" if minutes < 10 else f", {minutes:.0f}"
    if result.gpu:
        text += ", on a GPU"
    return text


def write_tables(args):
    """Writes the tables between their marks in RESULTS.md; with a smaller budget, into their own file."""
    results = read_results(args)
    parts = tables(results)
    if args.budget != "full":
        path = args.out / "table.md"
        updates = "10 updates each: these numbers mean nothing"
        if args.budget == "tenth":
            updates = "A tenth of the updates for the heavy rows"
        text = f"# {updates}\n"
        text += "".join(f"\n## {part}\n\n{table}" for part, table in parts.items())
    else:
        path = RESULTS
        text = path.read_text(encoding="utf-8")
        for part, table in parts.items():
            text = replace_between_marks(text, part, table)
    path.parent.mkdir(parents=True, exist_ok=True)
    data.write_file(path, lambda file: file.write(text.encode()))
    print(f"tables: {path}")
    draw_figures(results, args)


def replace_between_marks(text, part, table):
    """The text with the table between <!-- part --> and the <!-- end --> that follows it."""
    pattern = rf"(<!-- {part} -->\n)(?:(?!<!-- ).)*(<!-- end -->)"
    text, count = re.subn(pattern, lambda match: match[1] + table + match[2], text, flags=re.DOTALL)
    require(count == 1, f"{RESULTS} needs one <!-- {part} --> with its <!-- end -->")
    return text


# -----------------------------------------------------------------------------------------------------------
# Figures


def draw_figures(results, args):
    """Draws the figures that need nothing but results, if the rows that they show have been run."""
    folder = HERE.parent / "docs" if args.budget == "full" else args.out
    for draw, name in ((draw_betas, "betas.png"), (draw_draws, "draws.png")):
        with contextlib.suppress(KeyError), plt.rc_context(sample.STYLE):
            figure = draw(results)
            data.write_file(folder / name, lambda file, figure=figure: figure.savefig(file, format="png"))
        plt.close("all")


def draw_betas(results):
    """Accuracy, confidence, diversity and FID-c of conditional VAEs of drawings against beta = 1, 2, 4."""
    betas = (1, 2, 4)
    panels = dict(
        accuracy="named as asked, %", confidence="confidence, %", diversity="diversity", fid="FID-c"
    )
    figure, axes = plt.subplots(1, len(panels), figsize=(9, 2.4), layout="constrained")
    for axis, (number, title) in zip(axes, panels.items(), strict=True):
        for encoder, line in (("conv", "o-"), ("rnn", "s--")):
            values = [results[f"r0-cvae-{encoder}-beta{beta}"].numbers[number] for beta in betas]
            means = [statistics.mean(seeds) for seeds in values]
            axis.plot(betas, means, line, ms=4, label=f"{encoder} encoder")
        axis.set(title=title, xlabel="beta", xscale="log", xticks=betas, xticklabels="124")
        axis.minorticks_off()
    axes[0].legend(fontsize=8)
    return figure


def draw_draws(results):
    """FID-c of R4's models for four ways of sampling latents, with the standard deviation over seeds."""
    ways = dict(fid="N(0, I)", fid_scale8="times 0.8", fid_scale6="times 0.6", fid_cut1="cut off at ±1")
    rows = {"r4-rnn-vae": "RNN VAE", "r4-conv-vae": "conv VAE", "r4-cvae": "conditional VAE"}
    figure, axis = plt.subplots(figsize=(7, 2.6), layout="constrained")
    for k, (number, way) in enumerate(ways.items()):
        values = [results[name].numbers[number] for name in rows]
        means = [statistics.mean(seeds) for seeds in values]
        deviations = [statistics.stdev(seeds) if len(seeds) > 1 else 0 for seeds in values]
        axis.bar([group + 0.2 * k for group in range(len(rows))], means, 0.18, yerr=deviations, label=way)
    axis.set_xticks([0.3, 1.3, 2.3], rows.values())
    axis.set_ylabel("FID-c (lower is better)")
    figure.legend(title="latents", loc="outside right center")
    return figure


# -----------------------------------------------------------------------------------------------------------
# Command line


def flags():
    parser = data.Parser(prog="reproduce.py", description=__doc__)
    add = parser.add_argument
    add("rows", nargs="*", metavar="ROW", help="rows or reports (default: all)")
    budgets = "short: 10 updates for each; tenth: a tenth of the updates for the heavy rows (full)"
    add("--budget", choices=("short", "tenth", "full"), default="full", help=budgets)
    add("--jobs", type=data.number(int, 1), default=2, help="trainings at a time (default 2)")
    add("--data-dir", metavar="DIR", help="folder with mnist/ and butterflies/, for R2 and R3")
    add("--no-training", action="store_true", help="only measure finished runs and write the tables")
    return parser


def command(argv):
    args = flags().parse_args(argv)
    require(not args.data_dir or Path(args.data_dir).is_dir(), f"{args.data_dir} is not a folder")
    args.out = Path(os.path.relpath(HERE.parent / "runs" / f"reproduce-{args.budget}"))
    rows = choose(args.rows)
    failed = []
    with contextlib.ExitStack() as locks:
        for row in rows:  # no two of these scripts may train or measure the same row at the same time
            folder = args.out / "locks" / row.name
            folder.mkdir(parents=True, exist_ok=True)
            locks.enter_context(data.lock(folder))
        for _, report in itertools.groupby(rows, lambda row: row.name.partition("-")[0]):
            failed += reproduce_report(list(report), args)
            write_tables(args)
    return 1 if failed else 0


def reproduce_report(rows, args):
    """Trains and measures rows; returns what failed."""
    valid = [row for row in rows if run_guarded(row, lambda row=row: run.check(trainings(row, args))) == 0]
    failed = [row.name for row in rows if row not in valid]
    if not args.no_training:
        # the first seed of every row, then the second: a table with one seed each comes first
        by_seed = itertools.zip_longest(*(trainings(row, args) for row in valid))
        failed += run.run_all([training for seed in by_seed for training in seed if training], args.jobs)
    return failed + collect_all(valid, args)


def main(argv=None):
    """Runs the command line; returns its exit status."""
    return data.run_command("reproduce.py", command, argv, models.ModelError, metrics.MetricError)


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # kill ends it in the same way as Ctrl-C
    sys.exit(main())
