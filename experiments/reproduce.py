"""Runs the rows of rows.toml, an experiment of a report each, and writes the tables of RESULTS.md.

    python experiments/reproduce.py --budget short             # 10 updates for each: does everything work?
    python experiments/reproduce.py r4 r1-ad                   # a report or a row, at full budget
    python experiments/reproduce.py --data-dir DIR             # everything: days on two cores
    python experiments/reproduce.py r4 --no-training           # measures what has ended, and tells it

A row is trained with each of its seeds, measured by commands of metrics.py, tsne.py and claims.py, and kept
in results/<row>.json, from which alone the tables are made. Stop it at any moment and start it again: what
has ended is kept, what was interrupted goes on. Two runs train at once and share the cores.
"""

import contextlib
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
from multiprocessing import get_context
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
ROWS = tomllib.loads((HERE / "rows.toml").read_text(encoding="utf-8"))
CLAIMS = ROWS.pop("claims")
ROWS = {name: ROWS.get(row.pop("like", None), {}) | row for name, row in ROWS.items()}
SCRIPTS = {"metrics": metrics, "tsne": tsne, "sample": sample, "claims": claims}
SHORT = {"--steps": "10", "--fit-epochs": "1", "--refine-epochs": "1"}  # of these, those that a recipe has
GPU = torch.cuda.get_device_name() if torch.cuda.is_available() else None


# -----------------------------------------------------------------------------------------------------------
# What there is to train


def choose(names):
    """The rows of those names or reports (r4), and those that measure them, in the order of the file."""
    chosen = set() if names else set(ROWS)
    for name in names:
        found = {name} & set(ROWS) or {row for row in ROWS if row.startswith(f"{name}-")}
        close = difflib.get_close_matches(name, ROWS, n=1)
        hint = f"did you mean {close[0]}?" if close else "they stand in experiments/rows.toml"
        require(found, f"no row or report {name}: {hint}")
        chosen |= found
    for row in list(chosen):
        chosen |= set(judges(row))
    return [row for row in ROWS if row in chosen]


def judges(name):
    """Rows whose runs measure those of this row."""
    return re.findall(r"{(r\d[^}]*)}", " ".join(ROWS[name].get("measure", {}).values()))


def trainings(name, args):
    """(run folder, train.py's arguments) for each seed of a row; none for a row that trains nothing."""
    row = ROWS[name]
    if "floor" in row:
        return []
    recipe, seeds = run.RECIPES[row.get("recipe", name)], row.get("seeds", 1)
    argv = [f"@{recipe}", *shlex.split(row.get("flags", ""))]
    argv += whole(name, args)
    if args.budget == "short":
        told, seeds = recipe.read_text(), 1
        argv += [part for flag in SHORT if flag == "--steps" or flag in told for part in (flag, SHORT[flag])]
    elif is_tenth(row):
        flags = train.read_flags(argv)[0]
        budget = "steps" if flags.steps else "epochs"
        argv += [f"--{budget}", str(max(1, getattr(flags, budget) // 10))]
    folders = [Path(args.out, name + (f",seed={seed}" if seed else "")) for seed in range(seeds)]
    return [(f, [*argv, "--seed", str(seed), "--out", str(f)]) for seed, f in enumerate(folders)]


def whole(name, args):
    """Flags of train.py for the data of --data-dir, where it has those of a row that wants them."""
    row = ROWS[name]
    wanted = args.data_dir and row.get("whole")
    return run.whole([f"@{run.RECIPES[row.get('recipe', name)]}"], args.data_dir) if wanted else []


def is_tenth(row):
    """Heavy rows have a tenth of their updates, unless there is a GPU."""
    return row.get("heavy", False) and not GPU


def command_line(name):
    """What a reader types for a run of a row."""
    row = ROWS[name]
    if "floor" in row:
        return None
    return f"python train.py @experiments/{row.get('recipe', name)}.txt {row.get('flags', '')}".strip()


# -----------------------------------------------------------------------------------------------------------
# What a row gave


def collect_all(names, args):
    """Measures rows, args.jobs at once; returns those that failed. One that fails stops no other."""
    if args.jobs == 1:
        statuses = [collect_one(name, args) for name in names]
    else:
        # spawned, for a forked process would inherit torch's threads in whatever state they are
        with ProcessPoolExecutor(args.jobs, get_context("spawn")) as pool:
            try:
                statuses = list(pool.map(collect_one, names, itertools.repeat(args)))
            except BrokenProcessPool:
                raise Mistake("a process that measured was killed: out of memory? Try --jobs 1") from None
    return [name for name, status in zip(names, statuses, strict=True) if status]


def collect_one(name, args):
    """The exit status of measuring a row, whatever goes wrong with it."""
    torch.set_num_threads(max(1, (os.cpu_count() or 1) // args.jobs))
    try:
        return guarded(name, lambda: collect(name, args))
    except Exception as error:  # a mistake in rows.toml, or a defect of ours
        print(f"{name}: error: {type(error).__name__}: {error}", file=sys.stderr)
        return 1


def guarded(name, function):
    """The exit status of a part of a row's work, whose mistakes are told under its name."""
    status = data.run_command(name, lambda _: function(), [], models.ModelError, metrics.MetricError)
    if status == 130:  # Ctrl-C is for all rows
        raise KeyboardInterrupt
    return status


def collect(name, args):
    """Measures a row's runs that have ended, and writes <row>.json, unless it is of these runs already."""
    row, path = ROWS[name], results(args) / f"{name}.json"
    folders = [folder for folder, _ in trainings(name, args) if (folder / "summary.json").exists()]
    if not folders and "floor" not in row:
        return
    configs, summaries = [data.read_config(folder) for folder in folders], [summary(f) for f in folders]
    kept = dict(
        row=name,
        asked=asked(name),
        budget=args.budget,
        tenth=args.budget == "full" and is_tenth(row),
        data=summaries[0]["data"] if summaries else row["data"],
        of_data_dir=bool(whole(name, args)),
        judges={one: metrics.sha256((args.out / one / "best.pt").read_bytes()) for one in judges(name)},
        seeds=len(folders),
        seconds=[one["seconds"] for one in summaries],
        steps=[one["steps"] for one in summaries],
    )
    had = read_result(path)
    if all(had.get(key) == value for key, value in kept.items()):
        return
    if had.get("asked") == kept["asked"] and had["seeds"] > len(folders):
        print(f"{name}: its result stays, of {had['seeds']} seeds, of which {len(folders)} have ended here")
        return
    found = [measure(name, folder, args) for folder in folders] or [floor(row)]
    kept["numbers"] = {key: [value(one, text) for one in found] for key, text in row["numbers"].items()}
    config = configs[0] if configs else {}
    kept |= dict(versions=config.get("versions"), threads=config.get("threads"), gpu=GPU)
    if folders:
        for line in row.get("pictures", ()):
            call(line, name, folders[0], args)
    path.parent.mkdir(parents=True, exist_ok=True)
    data.write_file(path, lambda file: file.write((json.dumps(kept, indent=1) + "\n").encode()))
    print(f"{name}: {told(row, kept)}", flush=True)


def asked(name):
    """What the numbers of a row depend on; a result of anything else is out of date."""
    row, text = ROWS[name], ""
    if "floor" not in row:
        lines = run.RECIPES[row.get("recipe", name)].read_text(encoding="utf-8").splitlines()
        text = " ".join(filter(None, (line.partition("#")[0].strip() for line in lines)))
    kinds = ("floor", "valid_fraction", "measure", "numbers")
    return {key: row[key] for key in kinds if key in row} | dict(command=command_line(name), recipe=text)


def read_result(path):
    """What a file of results/ holds, nothing if it is not there or damaged."""
    try:
        found = json.loads(path.read_text())
    except FileNotFoundError:
        return {}
    except ValueError:
        found = None
    if isinstance(found, dict):
        return found
    print(f"{path} is damaged: run its row again", file=sys.stderr)
    return {}


def summary(folder):
    path = folder / "summary.json"
    try:
        return json.loads(path.read_text())
    except ValueError:
        raise Mistake(f"{path} is damaged: delete {folder} and run the row again") from None


def results(args):
    return HERE / "results" if args.budget == "full" else args.out / "results"


def measure(name, folder, args):
    """A run's summary, its log as lists by split and term, and what each command of the row says of it."""
    found = dict(summary=summary(folder), log={})
    for line in sample.read_log(folder):
        terms = found["log"].setdefault(line["split"], {})
        for column, cell in line.items():
            terms.setdefault(column.partition(" [")[0], []).append(cell)
    short = args.budget == "short"
    for key, line in ROWS[name].get("measure", {}).items():
        if line.startswith("tsne.py"):
            place = folder / f"tsne-{key}.png"
            line += " --max-iter 20" * short
            call(f"{line} --out {shlex.quote(str(place))}", name, folder, args)
            with np.load(place.with_suffix(".npz")) as arrays:
                found[key] = {what: arrays[what].tolist() for what in ("kl", "shares")}
        else:
            few = " -n 100" * (short and " -n " in line)
            text = call(f"{line}{few} --json", name, folder, args)
            (found[key],) = json.loads(text)
    return found


def call(line, name, folder, args):
    """What a command of ours prints; {run} in it is the folder, {row} that of another row's first seed."""
    places = {row: args.out / row for row in ROWS} | {"run": folder}
    script, *argv = shlex.split(re.sub(r"{([^}]+)}", lambda hole: shlex.quote(str(places[hole[1]])), line))
    if whole(name, args) and script != "claims.py":
        argv += ["--data-dir", args.data_dir]
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        status = SCRIPTS[script.removesuffix(".py")].main(argv)
    if status == 130:
        raise KeyboardInterrupt
    require(not status, f"python {script} {shlex.join(argv)} failed")
    return printed.getvalue()


def value(found, text):
    """A number of a run, such as "5 * judge.by_class.accuracy.0 + log.valid.loss.-1"; None where one is."""
    total = 0.0
    for term in text.split(" + "):
        factors = [look_up(found, factor) for factor in term.split(" * ")]
        if None in factors:
            return None
        total += math.prod(factors)
    return total


def look_up(found, path):
    """The number at a path, or None where a list is shorter, as the log of few epochs."""
    with contextlib.suppress(ValueError):
        return float(path)
    here = found
    for key in path.split("."):
        try:
            here = here[int(key)] if isinstance(here, list) else here[key]
        except IndexError:
            return None
        except (KeyError, ValueError):
            raise Mistake(f"there is no {key} of {path}") from None
    return None if here in (None, "") else float(here)


def floor(row):
    """Squared error per pixel of test and training pictures that a PCA of training pictures leaves."""
    dataset = data.load(row["data"], valid_fraction=row.get("valid_fraction", 0.1))
    x, test = (split.batch(slice(None))[0].flatten(1).double() for split in (dataset.train, dataset.test))
    scatter = (x - x.mean(0)).T @ (x - x.mean(0))  # its eigenvectors are the axes, the longest last
    axes = torch.linalg.eigh(scatter).eigenvectors[:, len(scatter) - row["floor"] :]
    found = {}
    for split, points in (("train", x), ("test", test)):
        points = points - x.mean(0)
        mse = (points - points @ axes @ axes.T).square().mean().item()
        found[split] = dict(mse=mse, rmse=255 * math.sqrt(mse))
    return found


# -----------------------------------------------------------------------------------------------------------
# Tables


def told(row, kept):
    """A row's numbers in words, as rows.toml has them, with the deviation over seeds."""
    return row["ours"].format(**{key: cell(values) for key, values in kept["numbers"].items()})


def cell(values):
    """Mean ± deviation over seeds, with two digits of the latter, five of the former at most."""
    asked_for, values = len(values), [value for value in values if value is not None]
    few = f" ({len(values)} of {asked_for})" if 0 < len(values) < asked_for else ""
    spread = statistics.stdev(values) if len(values) > 1 else 0
    if spread:
        mean = statistics.mean(values)
        own, most = (math.floor(math.log10(abs(x) or 1)) for x in (spread, mean))
        digits = max(0, min(1 - own, 4 - most))
        return f"{mean:.{digits}f} ± {spread:.{digits}f}{few}"
    return f"{statistics.mean(values):.4g}{few}" if values else "–"


def read_results(args):
    """The results that are of today's rows and recipes."""
    found = {name: read_result(results(args) / f"{name}.json") for name in ROWS}
    for name, one in found.items():
        if one and one.get("asked") != asked(name):
            print(f"{name}: its result is of another recipe or row: run it again", file=sys.stderr)
    return {name: one for name, one in found.items() if one.get("asked") == asked(name)}


def tables(kept):
    """Markdown for each report, and for the claims, of what there is in results/."""
    parts = {}
    for name, row in ROWS.items():
        lines = parts.setdefault(name.partition("-")[0], [])
        lines.append(table_row(name, row, kept.get(name)))
    head = "| experiment | the report | ours | data; runs, minutes of each | |\n|---|---|---|---|---|\n"
    parts = {report: head + "".join(lines) for report, lines in parts.items()}
    numbers = {
        name: {key: cell(values) for key, values in one["numbers"].items()} for name, one in kept.items()
    }
    claims_ = "| the reports say | we measured |\n|---|---|\n"
    for claim in CLAIMS:
        try:
            claims_ += f"| {claim['says']} | {claim['ours'].format(**numbers)} |\n"
        except KeyError:  # a row that is still to run
            claims_ += f"| {claim['says']} | – |\n"
    return parts | {"claims": claims_}


def table_row(name, row, kept):
    what = f"{row['what']}<br>`{name}`"
    cells = [what, row.get("report", "–"), "–", "–", row.get("note", "")]
    if kept:
        cells[2] = told(row, kept)
        cells[3] = kept["data"] + " of DIR" * kept["of_data_dir"]
        if kept["seconds"]:
            minutes, wanted = statistics.mean(kept["seconds"]) / 60, row.get("seeds", 1)
            of = f" of {wanted}" if kept["seeds"] < wanted and kept["budget"] == "full" else ""
            minutes = f"{minutes:.2g}" if minutes < 10 else f"{minutes:.0f}"
            cells[3] += f"; {kept['seeds']}{of}, {minutes}" + (", on a GPU" if kept["gpu"] else "")
        if kept["tenth"]:
            cells[4] = f"**a tenth of the updates.** {cells[4]}".strip()
    return f"| {' | '.join(cells)} |\n"


def write_tables(args):
    """Into RESULTS.md between its marks, or at a short budget into a file of their own."""
    kept = read_results(args)
    parts = tables(kept)
    if args.budget == "short":
        path, text = args.out / "table.md", "# 10 updates each: these numbers mean nothing\n"
        text += "".join(f"\n## {part}\n\n{table}" for part, table in parts.items())
    else:
        path, text = RESULTS, RESULTS.read_text(encoding="utf-8")
        for part, table in parts.items():
            marked = rf"(<!-- {part} -->\n)(?:(?!<!-- ).)*(<!-- end -->)"
            text, times = re.subn(marked, lambda m, t=table: m[1] + t + m[2], text, flags=re.DOTALL)
            require(times == 1, f"{path} needs one <!-- {part} --> with its <!-- end -->")
    path.parent.mkdir(parents=True, exist_ok=True)
    data.write_file(path, lambda file: file.write(text.encode()))
    print(f"tables: {path}")
    draw_figures(kept, args)


# -----------------------------------------------------------------------------------------------------------
# Figures


def draw_figures(kept, args):
    """Those that need nothing but the results, where the rows that they show have been run."""
    folder = HERE.parent / "docs" if args.budget == "full" else args.out
    for draw, name in ((draw_betas, "betas.png"), (draw_draws, "draws.png")):
        with contextlib.suppress(KeyError), plt.rc_context(sample.STYLE):
            figure = draw(kept)
            data.write_file(folder / name, lambda file, f=figure: f.savefig(file, format="png"))
        plt.close("all")


def draw_betas(kept):
    """What a heavier KL costs and buys: conditional VAEs of drawings for beta 1, 2, 4."""
    panels = dict(
        accuracy="named as asked, %", confidence="confidence, %", diversity="diversity", fid="FID-c"
    )
    figure, axes = plt.subplots(1, len(panels), figsize=(9, 2.4), layout="constrained")
    for axis, (number, title) in zip(axes, panels.items(), strict=True):
        for kind, mark in (("conv", "o-"), ("rnn", "s--")):
            values = [kept[f"r0-cvae-{kind}-beta{beta}"]["numbers"][number] for beta in (1, 2, 4)]
            axis.plot((1, 2, 4), [statistics.mean(v) for v in values], mark, ms=4, label=f"{kind} encoder")
        axis.set(title=title, xlabel="beta", xscale="log", xticks=(1, 2, 4), xticklabels="124")
        axis.minorticks_off()
    axes[0].legend(fontsize=8)
    return figure


def draw_draws(kept):
    """FID-c of R4's models for four ways of drawing latents, with the deviation over seeds."""
    ways = dict(fid="N(0, I)", fid_scale8="times 0.8", fid_scale6="times 0.6", fid_cut1="cut off at ±1")
    figure, axis = plt.subplots(figsize=(7, 2.6), layout="constrained")
    for k, (number, way) in enumerate(ways.items()):
        values = [kept[name]["numbers"][number] for name in ("r4-rnn-vae", "r4-conv-vae", "r4-cvae")]
        spread = [statistics.stdev(v) if len(v) > 1 else 0 for v in values]
        places = [place + 0.2 * k for place in range(3)]
        axis.bar(places, [statistics.mean(v) for v in values], 0.18, yerr=spread, label=way)
    axis.set_xticks([0.3, 1.3, 2.3], ["RNN VAE", "conv VAE", "conditional VAE"])
    axis.set_ylabel("FID-c (lower is better)")
    figure.legend(title="latents", loc="outside right center")
    return figure


# -----------------------------------------------------------------------------------------------------------
# Command line


def command(argv):
    parser = data.Parser(prog="reproduce.py", description=__doc__)
    add = parser.add_argument
    add("rows", nargs="*", metavar="ROW", help="rows or reports (default: all)")
    add("--budget", choices=("short", "full"), default="full", help="short: 10 updates for each (full)")
    add("--jobs", type=data.number(int, 1), default=2, help="how many trainings at once (default 2)")
    add("--data-dir", metavar="DIR", help="with mnist/ and butterflies/, for R2 and R3; else small ones")
    add("--no-training", action="store_true", help="only measure what has ended, and write the tables")
    args = parser.parse_args(argv)
    require(not args.data_dir or Path(args.data_dir).is_dir(), f"{args.data_dir} is not a folder")
    args.out = Path(os.path.relpath(HERE.parent / "runs" / f"reproduce-{args.budget}"))
    if GPU:
        print(f"on {GPU}: R0 and R3 in full too")
    failed = []
    for _, rows in itertools.groupby(choose(args.rows), lambda name: name.partition("-")[0]):
        group, plans = list(rows), {}
        for name in group:
            if guarded(name, lambda name=name: run.check(trainings(name, args))) == 0:
                plans[name] = trainings(name, args)
        failed += [name for name in group if name not in plans]
        by_seed = [one for seed in itertools.zip_longest(*plans.values()) for one in seed if one]
        if not args.no_training:
            failed += run.run_all(by_seed, args.jobs)
        failed += collect_all(list(plans), args)
        write_tables(args)
    return 1 if failed else 0


def main(argv=None):
    """Runs the command line; returns its exit status."""
    return data.run_command("reproduce.py", command, argv, models.ModelError, metrics.MetricError)


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # a plain kill is as good as Ctrl-C
    sys.exit(main())
