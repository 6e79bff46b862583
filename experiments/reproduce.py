"""Runs the rows of rows.toml, each an experiment of a report, and writes the tables of RESULTS.md.

    python experiments/reproduce.py --budget short             # 10 updates for each: does everything work?
    python experiments/reproduce.py --budget tenth             # the heavy rows with a tenth of their updates
    python experiments/reproduce.py r4 r1-ad                   # a report or a row, at the full budget
    python experiments/reproduce.py --data-dir DIR             # everything, on the whole data sets in DIR
    python experiments/reproduce.py r4 --no-training           # only measure the finished runs

A row is trained with each of its seeds and measured by commands of metrics.py, tsne.py and claims.py. Its
numbers are stored in results/<row>.json, and the tables are written from these files alone. This script may
be stopped and started again at any moment: finished work is kept, interrupted runs are resumed. By default
two runs train at the same time and share the cores.

On a cluster, each task of a job array may train one seed of a row, with the row's flags, into the folder
that it has here, and --no-training measures them afterwards:
`python train.py @experiments/r4-cvae.txt --seed 1 --out runs/reproduce-full/r4-cvae,seed=1`.
"""

import collections
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
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
import data
import metrics
import sample
import train
import tsne
from data import Mistake, require
from experiments import claims, trainings
from experiments.trainings import Training

HERE = Path(__file__).resolve().parent
RESULTS = HERE.parent / "RESULTS.md"
RECIPES = {path.stem: path for path in sorted(HERE.glob("*.txt"))}
SCRIPTS = {"metrics.py": metrics, "tsne.py": tsne, "sample.py": sample, "claims.py": claims}
SHORT = {"--steps": "10", "--fit-epochs": "1", "--refine-epochs": "1"}  # flags of the short budget
NUMBER = re.compile(r"{([^{}]+)}")  # in what a row shows
CLAIMED = re.compile(r"{([\w-]+)\[([^]]+)\]}")  # {row[number]}, in what a claim shows
# For each data set of the repository, the flags of the whole data set in the folder {0}. fashion2k is not
# here: its report had no more than these 2,000 pictures.
WHOLE_DATA = {
    "mnist10k": "--data mnist --data-dir {0}",
    "quickdraw5k": "--data quickdraw --data-dir {0}",
    "butterflies1k": "--data {0}/butterflies --image-size 64",
    "arithmetic": "--data-dir {0}",
}


@dataclasses.dataclass
class Row:
    """An entry of rows.toml, where the fields are explained."""

    name: str
    what: str
    ours: str
    report: str = ""
    reported: dict = dataclasses.field(default_factory=dict)
    higher: bool = False
    margin: float = 0
    note: str = ""
    recipe: str = ""
    flags: str = ""
    seeds: int = 1
    heavy: bool = False
    measure: dict = dataclasses.field(default_factory=dict)
    numbers: dict = dataclasses.field(default_factory=dict)
    pictures: list = dataclasses.field(default_factory=list)


def complete(entries, name):
    """The fields of a row, with those of the row that it is like."""
    entry = dict(entries[name])
    base = complete(entries, entry.pop("like")) if "like" in entry else {"recipe": name}
    if name in RECIPES:
        base["recipe"] = name
    added = {key: base.get(key, {}) | entry.get(key, {}) for key in ("measure", "numbers")}
    added["pictures"] = base.get("pictures", []) + entry.get("pictures", [])
    return base | entry | added


try:
    entries = tomllib.loads((HERE / "rows.toml").read_text(encoding="utf-8"))
    CLAIMS = entries.pop("claims")
    ROWS = {name: Row(name, **complete(entries, name)) for name in entries}
except (LookupError, RecursionError, TypeError, ValueError) as error:
    sys.exit(f"reproduce.py: error: rows.toml: {type(error).__name__}: {error}")


# -----------------------------------------------------------------------------------------------------------
# The trainings of each row


def choose(names):
    """The rows with these names or of these reports (all without names), and the rows that judge them."""
    chosen = set() if names else set(ROWS)
    for name in names:
        matches = {name} if name in ROWS else {row for row in ROWS if row.startswith(f"{name}-")}
        similar = difflib.get_close_matches(name, ROWS, n=1)
        hint = f"did you mean {similar[0]}?" if similar else "they are listed in experiments/rows.toml"
        require(matches, f"no row or report {name}: {hint}")
        chosen |= matches
    for name in list(chosen):
        chosen |= {judge for _, judge, _ in judges(ROWS[name])}
    return [row for name, row in ROWS.items() if name in chosen]


def judges(row):
    """What stands for the rows whose runs judge this one, such as "{r0-judge*}", with the row's name, and
    "*" if all its seeds judge, else ""."""
    return re.findall(r"({(r\d[\w-]*)(\*?)})", " ".join([*row.measure.values(), *row.pictures]))


def judge_trainings(row, args):
    """The trainings of each of judges(row), as {"{r0-judge*}": [training, training, training]}."""
    return {part: plan(ROWS[name], args)[: None if star else 1] for part, name, star in judges(row)}


def plan(row, args):
    """A training for each seed of a row. The folders of seeds other than 0 are named after their seed."""
    argv = [f"@{RECIPES[row.recipe]}", *shlex.split(row.flags), *whole_data_flags(row, args)]
    seeds = row.seeds
    if args.budget == "short":
        seeds = 1
        for flag, value in SHORT.items():
            if flag == "--steps" or flag in read_recipe(row):
                argv += [flag, value]
    elif args.budget == "tenth" and row.heavy:
        flags, _ = train.read_flags(argv)
        unit = "steps" if flags.steps else "epochs"
        argv += [f"--{unit}", str(max(1, vars(flags)[unit] // 10))]
    folders = [Path(args.out, f"{row.name},seed={seed}" if seed else row.name) for seed in range(seeds)]
    return [
        Training(folder, [*argv, "--seed", str(seed), "--out", str(folder)])
        for seed, folder in enumerate(folders)
    ]


def data_set(row):
    """The name in the row's recipe."""
    return train.read_flags([f"@{RECIPES[row.recipe]}"])[0].data


def whole_data_flags(row, args):
    """train.py's flags for the whole data set in --data-dir. MNIST is downloaded to it; butterflies must be
    there, and more drawings than the repository has."""
    if not args.data_dir:
        return []
    name = data_set(row)
    if name == "butterflies1k" and not Path(args.data_dir, "butterflies").is_dir():
        return []
    rabbits = Path(args.data_dir, "quickdraw", "rabbit.npy")
    if name == "quickdraw5k" and not (rabbits.is_file() and len(np.load(rabbits, mmap_mode="r")) > 1000):
        return []
    return [part.format(args.data_dir) for part in WHOLE_DATA.get(name, "").split()]


def check(row, args):
    """Raises Mistake if a folder of this row, or of its judges, holds a run with other flags than planned: a
    table must not mix them."""
    for folder, argv in itertools.chain(plan(row, args), *judge_trainings(row, args).values()):
        flags, _ = train.read_flags(argv)  # refuses what train.py would refuse
        flags = json.loads(json.dumps(vars(flags)))  # tuples become lists, as in config.json
        if not (folder / "config.json").exists():
            continue
        defaults, _ = train.read_flags(["--model", flags["model"]])  # of flags that are younger than the run
        existing = vars(defaults) | data.read_config(folder)["flags"]
        for name, value in flags.items():
            if name not in ("out", "resume") and existing[name] != value:
                difference = f"{train.dashed(name)} {existing[name]}, not {value}"
                raise Mistake(f"{folder} was trained with {difference}: delete it, or move it away")


# -----------------------------------------------------------------------------------------------------------
# Measuring the runs of a row


def guarded(name, step, *args):
    """Calls step(*args) and returns its exit status; whatever goes wrong is reported under a row's name."""
    try:
        status = data.run_command(name, lambda _: step(*args), [])
    except Exception as error:  # a mistake in rows.toml, or a defect of ours
        print(f"{name}: error: {type(error).__name__}: {error}", file=sys.stderr)
        return 1
    if status == 130:  # Ctrl-C is meant for all rows
        raise KeyboardInterrupt
    return status


def collect(row, args):
    """Measures a row's finished runs and writes results/<row>.json, unless that file is up to date."""
    folders = [folder for folder, _ in plan(row, args) if trainings.is_finished(folder)]
    if not folders:
        return
    path = results_folder(args) / f"{row.name}.json"
    result = describe(row, folders, args)
    previous = read_result(path) or {}
    if previous | result == previous:
        return
    is_comparable = all(previous.get(key) == result[key] for key in ("command", "recipe", "tenth"))
    if is_comparable and previous["of_data_dir"] and not result["of_data_dir"]:
        print(f"{row.name}: the stored result is kept: it is of the whole data set, which --data-dir names")
        return
    if is_comparable and len(previous["seconds"]) > len(folders):
        seeds = f"{len(previous['seconds'])} seeds, of which {len(folders)} have finished here"
        print(f"{row.name}: the stored result is kept: it has {seeds}")
        return
    runs = [measure(row, folder, args) for folder in folders]
    result["numbers"] = {
        name: [look_up(path, measurements) for measurements in runs]
        for name, (path, *_) in result["defined"].items()
    }
    if is_comparable:
        for name, values in result["numbers"].items():
            lost = None in values and None not in previous["numbers"].get(name, [None])
            require(not lost, f"the stored result is kept: {name} is missing in what was measured now")
    configs = [data.read_config(folder) for folder in folders]
    result |= {key: configs[0].get(key) for key in ("versions", "threads")}
    result["gpu"] = [config.get("gpu") for config in configs]  # on which each seed was trained, None: a CPU
    for line in row.pictures:
        call(line, row, folders[0], args)
    path.parent.mkdir(parents=True, exist_ok=True)
    data.write_json(path, result)
    print(f"{row.name}: {show(row.ours, result).replace('<br>', '; ')}", flush=True)


def describe(row, folders, args):
    """The result of a row's finished runs, all but the numbers and what follows from the runs."""
    summaries = [read_summary(folder) for folder in folders]
    checkpoints = {}  # SHA-256
    for judge, _ in itertools.chain(*judge_trainings(row, args).values()):
        require(trainings.is_finished(judge), f"its judge {judge} has not finished: train that first")
        checkpoints[judge.name] = metrics.sha256((judge / "best.pt").read_bytes())
    return dict(
        row=row.name,
        command=train_command(row),
        recipe=read_recipe(row),
        defined=definitions(row),
        tenth=args.budget == "tenth" and row.heavy,
        data=summaries[0]["data"],
        of_data_dir=bool(whole_data_flags(row, args)),
        judges=checkpoints,
        seconds=[summary["seconds"] for summary in summaries],  # of training, for each seed
        steps=[summary["steps"] for summary in summaries],  # updates
    )


def read_summary(folder):
    """The content of a finished run's summary.json. Raises Mistake."""
    path = folder / "summary.json"
    summary = data.read_json(path)
    is_whole = isinstance(summary, dict) and isinstance(summary.get("data"), str)
    numbers = ("seconds", "steps", "best_epoch")
    is_whole = is_whole and all(isinstance(summary.get(name), int | float) for name in numbers)
    require(is_whole, f"{path} is damaged: delete {folder} and train again")
    return summary


def train_command(row):
    return f"python train.py @experiments/{row.recipe}.txt {row.flags}".strip()


def read_recipe(row):
    """The flags of a row's recipe, without its comments."""
    lines = RECIPES[row.recipe].read_text(encoding="utf-8").splitlines()
    flags = [line.partition("#")[0].strip() for line in lines]
    return " ".join(line for line in flags if line)


def definitions(row):
    """Each number that the row or a claim shows: its path in the measurements, and the command that it is in
    the answer of. A stored number with another definition is out of date."""
    names = [*NUMBER.findall(row.ours), *row.reported, *row.numbers]
    claimed = CLAIMED.findall(" ".join(CLAIMS.values()))
    names += [number for name, number in claimed if name == row.name]
    defined = {}
    for name in dict.fromkeys(names):
        path = row.numbers.get(name, name)
        key = path.partition(".")[0]
        defined[name] = [path, row.measure[key]] if key in row.measure else [path]
    return defined


def read_result(path):
    """What a file in results/ holds, None if there is no such file. Raises Mistake if it is damaged."""
    if not path.exists():
        return None
    keys = {"command", "recipe", "defined", "tenth", "data", "of_data_dir", "gpu"}
    with contextlib.suppress(Mistake, AttributeError, LookupError, TypeError, ValueError):  # in another form
        result = data.read_json(path)
        statistics.mean(result["seconds"])
        cpu_seconds(result)
        for values in result["numbers"].values():
            estimate(values)
        if keys <= result.keys() and isinstance(result["defined"], dict):
            return result
    raise Mistake(f"{path} is damaged or too old: restore it, or delete it and run its row again")


def results_folder(args):
    return HERE / "results" if args.budget == "full" else args.out / "results"


def measure(row, folder, args):
    """What a row's numbers are computed from: the run's summary, its log (a list for each split and term),
    the terms of its best epoch, and the answer to each of the row's commands that a number needs."""
    measurements = dict(summary=read_summary(folder), log={}, best={})
    for line in sample.read_log(folder):
        terms = {column.partition(" [")[0]: cell for column, cell in line.items()}
        lists = measurements["log"].setdefault(line["split"], {})
        for term, cell in terms.items():
            lists.setdefault(term, []).append(cell)
        if int(line["epoch"]) == measurements["summary"]["best_epoch"]:
            measurements["best"][line["split"]] = terms
    needed = {line for _, *lines in definitions(row).values() for line in lines}
    for key, line in row.measure.items():
        if line in needed:
            measurements[key] = answer(key, line, row, folder, args)
    return measurements


def answer(key, line, row, folder, args):
    """What a command answers about a run. Of a map by tsne.py: how many points of each class, in %, lie
    among their own (most of their 10 neighbors are of their class), their mean `clusters`, and the number of
    classes that overlap others, of which less than half do."""
    if not line.startswith("tsne.py"):
        has_n = " -n " in line or line.startswith("claims.py")
        more = " -n 100" if args.budget == "short" and has_n else ""
        return json.loads(call(f"{line}{more} --json", row, folder, args))[0]
    path = folder / f"tsne-{key}.png"
    more = " --max-iter 20" if args.budget == "short" else ""
    call(f"{line}{more} --out {shlex.quote(str(path))}", row, folder, args)
    with np.load(path.with_suffix(".npz")) as arrays:
        shares = 100 * arrays["class_accuracy"]
    by_class = dict(zip(data.read_config(folder)["classes"], shares.tolist(), strict=True))
    return by_class | dict(clusters=shares.mean().item(), overlapping=int((shares < 50).sum()))


def call(line, row, folder, args):
    """The output of a command of ours. In it {run} stands for the folder, {name} for the run of that row
    with seed 0, and {name*} for its runs with all seeds."""
    line = line.replace("{run}", shlex.quote(str(folder)))
    for placeholder, judging in judge_trainings(row, args).items():
        line = line.replace(placeholder, shlex.join(str(judge) for judge, _ in judging))
    script, *argv = shlex.split(line)
    with contextlib.redirect_stdout(io.StringIO()) as output:
        status = SCRIPTS[script].main(argv)
    if status == 130:
        raise KeyboardInterrupt
    require(status == 0, f"python {script} {shlex.join(argv)} failed")
    return output.getvalue()


def look_up(path, measurements):
    """The number at a path such as log.valid.loss.-1; None if it is empty or a list is too short, as the log
    of a run with few epochs may be."""
    value = measurements
    for key in path.split("."):
        try:
            value = value[int(key)] if isinstance(value, list) else value[key]
        except IndexError:
            return None
        except (KeyError, ValueError):
            raise Mistake(f"there is no {key} of {path}") from None
    return None if value in (None, "") else float(value)


# -----------------------------------------------------------------------------------------------------------
# Verdicts: how a row stands to its report, and whether a claim holds


def read_results(args):
    """The results by row, without numbers that are now defined in another way, and without those of rows
    whose recipe has changed since."""
    results = {}
    for name, row in ROWS.items():
        result = read_result(results_folder(args) / f"{name}.json")
        if result and (result["command"], result["recipe"]) == (train_command(row), read_recipe(row)):
            results[name] = result
            defined = definitions(row)
            for number in list(result["numbers"]):
                if result["defined"].get(number) != defined.get(number):
                    del result["numbers"][number]
        elif result:
            print(f"{name}: the row or its recipe has changed: run it again", file=sys.stderr)
    return results


def estimate(values):
    """Mean over seeds and its standard error, 0 for one seed; None without values."""
    numbers = [value for value in values if value is not None]
    if not numbers:
        return None
    deviation = statistics.stdev(numbers) if len(numbers) > 1 else 0
    return statistics.mean(numbers), deviation / math.sqrt(len(numbers))


def verdict(row, result):
    """How a row stands to its report; "" if the report has no number for it."""
    if not row.reported:
        return "not comparable" if row.report else ""
    numbers = [estimate(result["numbers"].get(name, [])) for name in row.reported] if result else [None]
    if None in numbers or result["tenth"]:
        return "unfinished"
    gains = []  # in margins
    for reported, (mean, error) in zip(row.reported.values(), numbers, strict=True):
        margin = max(row.margin or 0.01 * reported, 2 * error)
        gains.append((mean - reported if row.higher else reported - mean) / margin)
    if min(gains) < -1:
        return "worse"
    return "beaten" if min(gains) > 1 else "reached"


def check_claim(text, results):
    """What was measured of a claim, and the verdict. The text's < and > compare the number before with the
    one that follows; in what is returned, they are as measured."""
    parts = re.split(r"({[^{}]+}|(?<=[<>] )\d+(?:\.\d+)?(?!\w))", text)  # numbers stand at odd places
    signs = []  # claimed and measured
    compared = []  # (row, number)
    left = None
    left_reference = None
    for k in range(1, len(parts), 2):
        reference = CLAIMED.fullmatch(parts[k])
        if reference:
            values = results.get(reference[1], {"numbers": {}})["numbers"].get(reference[2], [])
            parts[k] = cell(values)
        else:
            values = [float(parts[k])]
        right = estimate(values)
        claimed = re.search("[<>](?= )", parts[k - 1])
        if claimed:
            compared += [side.groups() for side in (left_reference, reference) if side]
        if claimed and left and right:
            signs.append((claimed[0], relation(left, right)))
            parts[k - 1] = parts[k - 1].replace(*signs[-1])
        if reference:  # in "5 > 2, < 7" the 5 is compared twice
            left = right
            left_reference = reference
    require(compared, f"this claim of rows.toml compares nothing: {text}")
    return "".join(parts), judge_claim(compared, signs, results)


def relation(left, right):
    """<, >, or ≈ for two means within two standard errors of their difference."""
    difference = left[0] - right[0]
    if abs(difference) <= 2 * math.hypot(left[1], right[1]):
        return "≈"
    return "<" if difference < 0 else ">"


def judge_claim(compared, signs, results):
    """The verdict on a claim, from the numbers that it compares, as pairs of row and name, and from pairs of
    the sign that is claimed and the one that was measured."""
    for name, number in compared:
        if name not in results:
            return f"untested: `{name}` is not trained yet"
        if results[name]["tenth"]:
            return f"untested: `{name}` had a tenth of its updates"
        values = results[name]["numbers"].get(number, [])
        if not estimate(values):
            return f"untested: `{name}` is not measured yet"
        if None in values:
            return f"untested: `{name}` lacks a seed's number"
    seeds = min(len(results[name]["numbers"][number]) for name, number in compared)
    weaker = "" if seeds > 1 else " (one seed)"
    if any(measured not in (claimed, "≈") for claimed, measured in signs):
        return f"fails{weaker}"
    if any(measured == "≈" for _, measured in signs):
        return f"undecided{weaker}"
    return f"holds{weaker}"


# -----------------------------------------------------------------------------------------------------------
# Tables


def tables(results):
    """Markdown by the name of its mark in RESULTS.md: a table for each report, "claims" and "summary"."""
    header = "| experiment | the report | ours | | data; runs, minutes of each |\n|---|---|---|---|---|\n"
    parts = {}
    for name, row in ROWS.items():
        report = name.partition("-")[0]
        parts.setdefault(report, header)
        parts[report] += table_row(row, results.get(name))
    checked = [(claim, *check_claim(text, results)) for claim, text in CLAIMS.items()]
    lines = [f"| {' | '.join(cells)} |\n" for cells in checked]
    parts["claims"] = "| the reports claim | we measured | |\n|---|---|---|\n" + "".join(lines)
    return parts | {"summary": summary(results, [word for *_, word in checked])}


def show(text, result):
    """A text of rows.toml, in which {name} stands for a number, with the numbers of a result."""
    numbers = result["numbers"] if result else {}
    return NUMBER.sub(lambda match: cell(numbers.get(match[1], [])), text)


def cell(values):
    """Mean ± standard deviation over seeds, with two digits of the deviation and at most five of the mean; a
    mean without a deviation has four. Missing values (None) are left out and counted."""
    numbers = [value for value in values if value is not None]
    if not numbers:
        return "–"
    mean = statistics.mean(numbers)
    deviation = statistics.stdev(numbers) if len(numbers) > 1 else 0
    text = f"{mean:.4g}"
    if deviation:
        places = max(0, min(1 - magnitude(deviation), 4 - magnitude(mean)))
        text = f"{mean:.{places}f} ± {deviation:.{places}f}"
    return text if len(numbers) == len(values) else f"{text} ({len(numbers)} of {len(values)})"


def magnitude(value):
    """The power of ten of a number's first digit."""
    return math.floor(math.log10(abs(value))) if value else 0


def table_row(row, result):
    report = row.report or "–"
    if row.reported and not row.report:
        numbers = {name: [value] for name, value in row.reported.items()}
        report = show(row.ours.partition("<br>")[0], {"numbers": numbers})
    cells = [f"{row.what}<br>`{row.name}`", report, show(row.ours, result), verdict(row, result)]
    return f"| {' | '.join(cells)} | {describe_runs(row, result) if result else '–'} |\n"


def describe_runs(row, result):
    """Data set, number of runs and minutes of training, as in "mnist of DIR; 2 of 3 (1 on a GPU), 1.5".

    The minutes are the mean over the runs on a CPU, where there are any.
    """
    text = f"{result['data']}{' of DIR' if result['of_data_dir'] else ''}; {len(result['seconds'])}"
    if len(result["seconds"]) < row.seeds:
        text += f" of {row.seeds}"
    on_cpu = cpu_seconds(result)
    minutes = statistics.mean(on_cpu or result["seconds"]) / 60
    if any(result["gpu"]):
        text += f" ({len(result['gpu']) - len(on_cpu)} on a GPU)"
    text += f", {minutes:.2g}" if minutes < 10 else f", {minutes:.0f}"
    return text + ", **a tenth of the updates**" if result["tenth"] else text


def cpu_seconds(result):
    """Seconds of training of each seed that was trained on a CPU."""
    return [seconds for seconds, gpu in zip(result["seconds"], result["gpu"], strict=True) if not gpu]


def summary(results, claim_words):
    """A line for each verdict: how many rows have it, which, and why; and one for the claims."""
    rows = {}  # by verdict and note
    for name, row in ROWS.items():
        result = results.get(name)
        word = verdict(row, result)
        note = f" ({row.note})" if row.note and word in ("worse", "not comparable") else ""
        if word == "unfinished":
            note = " (a tenth of the updates)" if result and result["tenth"] else " (not measured yet)"
        rows.setdefault(word, {}).setdefault(note, []).append(f"`{name}`")
    text = ""
    for word in ("beaten", "reached", "worse", "not comparable", "unfinished"):
        if word in rows:
            reasons = [", ".join(names) + note for note, names in rows[word].items()]
            text += f"- **{word}** {sum(map(len, rows[word].values()))}: {'; '.join(reasons)}\n"
    counts = collections.Counter(re.match(r"\w+", word)[0] for word in claim_words)
    text += f"- of {len(claim_words)} claims {counts['holds']} hold, {counts['fails']} fail, "
    text += f"{counts['undecided']} are undecided and {counts['untested']} untested\n"
    seconds = [
        statistics.mean(on_cpu) * ROWS[name].seeds * (10 if result["tenth"] else 1)
        for name, result in results.items()
        if (on_cpu := cpu_seconds(result))
    ]
    share = f"all seeds of {len(seconds)} of the {len(ROWS)} rows in full on a CPU"
    return text + f"- training {share} takes {sum(seconds) / 3600:.0f} core-hours\n"


def write_tables(args):
    """Writes the tables between their marks in RESULTS.md; with a smaller budget, into their own file."""
    parts = tables(read_results(args))
    if args.budget == "full":
        path = RESULTS
        text = path.read_text(encoding="utf-8")
        for part, table in parts.items():
            text = replace_between_marks(text, part, table)
    else:
        path = args.out / "table.md"
        is_short = args.budget == "short"
        updates = "10 updates each: these numbers mean nothing" if is_short else "A tenth of the updates"
        text = f"# {updates}\n" + "".join(f"\n## {part}\n\n{table}" for part, table in parts.items())
    data.write_file(path, lambda file: file.write(text.encode()))
    print(f"tables: {path}")


def replace_between_marks(text, part, table):
    """The text with the table between <!-- part --> and the <!-- end --> that follows it."""
    pattern = rf"(<!-- {part} -->\n)(?:(?!<!-- ).)*(<!-- end -->)"
    text, count = re.subn(pattern, lambda match: match[1] + table + match[2], text, flags=re.DOTALL)
    require(count == 1, f"{RESULTS} needs one <!-- {part} --> with its <!-- end -->")
    return text


# -----------------------------------------------------------------------------------------------------------
# Command line


def flags():
    parser = data.Parser(prog="reproduce.py", description=__doc__)
    add = parser.add_argument
    add("rows", nargs="*", metavar="ROW", help="rows or reports (default: all)")
    budgets = "short: 10 updates for each; tenth: a tenth of the updates for the heavy rows (full)"
    add("--budget", choices=("short", "tenth", "full"), default="full", help=budgets)
    add("--jobs", type=data.number(int, 1), default=2, help="trainings at a time (default 2)")
    add("--data-dir", metavar="DIR", help="folder of the whole data sets: mnist/, quickdraw/, butterflies/")
    add("--no-training", action="store_true", help="only measure finished runs and write the tables")
    return parser


def command(argv):
    args = flags().parse_args(argv)
    if args.data_dir:
        require(Path(args.data_dir).is_dir(), f"{args.data_dir} is not a folder")
        args.data_dir = os.path.abspath(args.data_dir)  # the flags of a run have it
    args.out = Path(os.path.relpath(HERE.parent / "runs" / f"reproduce-{args.budget}"))
    rows = choose(args.rows)
    parts = {data_set(row) for row in rows if not whole_data_flags(row, args)} & WHOLE_DATA.keys()
    if args.data_dir and parts:
        data.note(f"{args.data_dir} has no more pictures than {', '.join(sorted(parts))} of the repository")
    failed = []
    with contextlib.ExitStack() as locks:
        for row in rows:  # no two of these scripts may train or measure the same row at the same time
            folder = args.out / "locks" / row.name
            folder.mkdir(parents=True, exist_ok=True)
            locks.enter_context(data.lock(folder))
        for _, report in itertools.groupby(rows, lambda row: row.name.partition("-")[0]):
            failed += reproduce_report(list(report), args)
            if guarded("tables", write_tables, args):
                failed.append("tables")
    return 1 if failed else 0


def reproduce_report(rows, args):
    """Trains and measures rows; returns what failed, which stops no others."""
    valid = [row for row in rows if guarded(row.name, check, row, args) == 0]
    failed = [row.name for row in rows if row not in valid]
    if not args.no_training:
        # the first seed of every row, then the second: a table with one seed each comes first
        by_seed = itertools.chain.from_iterable(itertools.zip_longest(*(plan(row, args) for row in valid)))
        failed += trainings.run_all(list(filter(None, by_seed)), args.jobs)
    for row in valid:
        # checked again: a run that was resumed has a config.json by now
        if guarded(row.name, check, row, args) or guarded(row.name, collect, row, args):
            failed.append(row.name)
    return failed


def main(argv=None):
    """Runs the command line; returns its exit status."""
    return data.run_command("reproduce.py", command, argv)


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # kill ends it in the same way as Ctrl-C
    sys.exit(main())
