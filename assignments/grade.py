"""Grades an assignment task by task, and names the likely mistake.

    python grade.py                       # every task, on example numbers
    python grade.py 2.1 2.3               # some tasks
    python grade.py --submission DIR --json results.json      # as an autograder runs it

Each task runs in a process of its own, so that a crash or an endless loop costs that task alone. The process
only computes numbers; they are compared here with ours and with those of known mistakes. Beside a folder
`solution/` the student's functions are put into our files one task at a time: a wrong 2.1 costs 2.4 nothing.
"""

import argparse
import contextlib
import functools
import gzip
import json
import math
import os
import re
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
SOLUTION = HERE / "solution"
SOURCES = ("data", "models", "train", "sample", "metrics", "tsne")
OUT_OF_TIME = -24  # the signal SIGXCPU
GAP = 'raise NotImplementedError("Task '

# -----------------------------------------------------------------------------------------------------------
# Source text: where a function stands, and how a student's function is put into our file

HEAD = re.compile(r"( {4})?(?:(def|class) (\w+)|(\w+) = |(?:from \S+ )?(import) )")


@functools.lru_cache(64)
def blocks(text):
    """{name: (first line, line after the last)} of the functions, classes, methods ("Class.method"),
    constants and imports of a file, found by their indentation: an error in one does not hide the others."""
    lines = text.split("\n")
    places = {}
    owner = None  # the class around
    for k, match in enumerate(map(HEAD.match, lines)):
        if not match or match[1] and not owner:
            continue
        indent = match[1] or ""
        inside = tuple(indent + first for first in " )]}")
        start = k
        while start and lines[start - 1].startswith(f"{indent}@"):
            start -= 1
        end = k + 1
        while end < len(lines) and (not lines[end].strip() or lines[end].startswith(inside)):
            end += 1
        names = [match[3] or match[4]]
        if match[5]:
            imports = " ".join(lines[k:end]).partition("import ")[2].partition("#")[0].rstrip()
            names = [name.split(".")[0] for name in re.findall(r"([\w.]+)\s*(?:,|\)|$)", imports)]
        for name in names:
            places[f"{owner}.{name}" if indent else name] = (start, end)
        if match[2] and not indent:
            owner = match[3] if match[2] == "class" else None
    return places


def block(text, name):
    return "\n".join(text.split("\n")[slice(*blocks(text)[name])]).rstrip()


def graft(reference, student, name):
    """The reference text with the student's function `name`, and with what the student has defined for it.
    Raises ValueError if there is no such function."""
    if name not in blocks(student):
        raise ValueError(f"there is no {name} in your file")
    function = block(student, name)
    owner, _, _ = name.rpartition(".")
    new = [other for other in blocks(student) if other not in blocks(reference)]
    helpers = []  # new methods of the class, and new functions, classes, constants and imports
    while True:
        words = set(re.findall(r"\w+", " ".join([function, *helpers])))
        needed = [other for other in new if other.rpartition(".")[2] in words]
        needed = [block(student, other) for other in needed if other.rpartition(".")[0] in ("", owner)]
        if needed == helpers:
            break
        helpers = needed
    methods = [helper for helper in helpers if helper.startswith(" ")]
    lines = reference.split("\n")
    start, end = blocks(reference)[name]
    lines[start:end] = [function, "", *methods, ""]
    start, _ = blocks(reference)[owner or name]
    lines[start:start] = [helper for helper in helpers if helper not in methods]
    return "\n".join(lines)


# -----------------------------------------------------------------------------------------------------------
# Comparing outputs: {"shape", "values", "tolerance"}, {"text"}, or {"raised"}

CONSTANTS = {"½": 0.5, "1": 1.0, "ln 2": math.log(2), "ln 2π": math.log(2 * math.pi)}
CONSTANTS["½ ln 2π"] = CONSTANTS["ln 2π"] / 2


def is_same(output, right):
    """Whether an output is right: to 4 digits of the largest number, or within the tolerance."""
    if any(output.get(key) != right.get(key) for key in ("shape", "text")):
        return False
    if output.get("raised", "").partition(" in ")[0] != right.get("raised", "").partition(" in ")[0]:
        return False
    values = right.get("values", [])
    tolerance = right.get("tolerance")
    if tolerance is None:
        tolerance = 1e-5 + 1e-4 * max([abs(value) for value in values if math.isfinite(value)], default=0)
    pairs = zip(output.get("values", []), values, strict=True)
    return all(a == b or a != a and b != b or abs(a - b) <= tolerance for a, b in pairs)


def agree(outputs, right):
    """Whether the named outputs of a part agree for every seed."""
    pairs = zip(outputs, right, strict=True)
    return all(a.keys() == b.keys() and all(is_same(a[name], b[name]) for name in b) for a, b in pairs)


def shorten(values):
    return ", ".join(f"{value:.4g}" for value in values[:3]) + (", ..." if len(values) > 3 else "")


def explain(name, output, right):
    """One line on how an output differs from what is right."""
    if "values" not in right or "values" not in output:
        texts = [side.get("text", f"numbers of shape {side.get('shape')}") for side in (output, right)]
        return f"{name}: yours is {texts[0]}, right is {texts[1]}"
    if output["shape"] != right["shape"]:
        return f"{name}: yours has shape {output['shape']}, right is {right['shape']}"
    pairs = list(zip(output["values"], right["values"], strict=True))
    n_bad = sum(not math.isfinite(a) and math.isfinite(b) for a, b in pairs)
    if n_bad:
        return f"{name}: {n_bad} of your {len(pairs)} numbers are not finite, all of the right ones are"
    numbers = f"yours {shorten(output['values'])}, right {shorten(right['values'])}"
    return f"{name}: {numbers}{relation(pairs, right.get('tolerance') or 1e-4)}"


def relation(pairs, tolerance):
    """How all numbers differ from the right ones, if in one way: by a factor, a constant or their order."""
    largest = max(abs(b) for _, b in pairs)
    precision = tolerance / max(1e-9, largest) + 1e-3
    ratios = [a / b for a, b in pairs if abs(b) > 1e-6]
    gaps = [a - b for a, b in pairs]
    n_right = sum(abs(a - b) <= 1e-5 + 1e-3 * abs(b) for a, b in pairs)
    if len(pairs) > 1 and len(ratios) == len(pairs) and max(ratios) - min(ratios) < 2 * precision:
        ratio = sum(ratios) / len(ratios)
        sign = " (the sign)" if abs(ratio + 1) < precision else ""
        return f": every number is {ratio:.4g} times the right one{sign}" if abs(ratio) > precision else ""
    if len(pairs) > 1 and max(gaps) - min(gaps) < 1e-4 + 1e-4 * largest:
        gap = sum(gaps) / len(gaps)
        names = "".join(f" ({name})" for name, value in CONSTANTS.items() if abs(abs(gap) - value) < 2e-3)
        return f": every number is {abs(gap):.4g} too {'large' if gap > 0 else 'small'}{names}"
    if len(pairs) > 3 and sorted(a for a, _ in pairs) == sorted(b for _, b in pairs):
        return ": the right numbers in another order"
    return f": {n_right} of {len(pairs)} numbers are right" if 0 < n_right < len(pairs) else ""


def judge(outputs, expected):
    """{part: (whether it is right, lines that say why not)} of a task's {part: outputs for each seed}.

    The hint is of the mistake whose outputs are the student's in the most parts of the task."""
    right = {part: expected["right"][part] for part in expected["right"] if part in outputs}
    passed = {part: agree(outputs[part], right[part]) for part in right}
    candidates = []  # (parts that agree, hint, wrong parts that agree)
    for hint, wrong in expected["mistakes"]:
        parts = [part for part in right if agree(outputs[part], wrong.get(part, right[part]))]
        explained = [part for part in parts if not passed[part]]
        candidates.append((len(parts) if explained else 0, hint, explained))
    most = max((n_parts for n_parts, _, _ in candidates), default=0)
    judged = {}
    for part, is_right in passed.items():
        hints = [hint for n_parts, hint, explained in candidates if n_parts == most and part in explained]
        lines = [f"Likely mistake: {hint}" for hint in hints[:1]]
        if not is_right:
            lines += next(filter(None, map(differences, outputs[part], right[part])), [])[:3]
        judged[part] = is_right, lines
    return judged


def differences(outputs, right):
    """A line for each output of a probe that is wrong."""
    if "" in outputs:
        return [outputs[""]["raised"]]
    missing = {"text": "missing"}
    wrong = [name for name in right if not is_same(outputs.get(name, missing), right[name])]
    return [explain(name, outputs.get(name, missing), right[name]) for name in wrong]


# -----------------------------------------------------------------------------------------------------------
# The process of one task


def run_task(texts, task, seeds, user):
    """({part: outputs for each seed}, what went wrong or None) of a task on these source texts."""
    with tempfile.TemporaryDirectory() as scratch:
        job, out, err = (Path(scratch, name) for name in ("job", "out", "err"))
        parts = [part["id"] for part in task["parts"]]
        content = dict(texts=texts, folder=str(HERE), parts=parts, seeds=seeds, seconds=task["seconds"])
        job.write_text(json.dumps(content), encoding="utf-8")
        out.touch()
        command = [sys.executable, str(HERE / "probing.py"), str(job), str(out)]
        if user:
            os.chmod(scratch, 0o755)
            os.chmod(out, 0o666)
            command = ["runuser", "-u", user, "--", *command]
        environment = os.environ | {"OMP_NUM_THREADS": "1"}
        options = dict(cwd=scratch, env=environment, start_new_session=True, stdin=subprocess.DEVNULL)
        with open(err, "wb") as stderr:
            process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=stderr, **options)
        status = OUT_OF_TIME
        with contextlib.suppress(subprocess.TimeoutExpired):
            status = process.wait(4 * task["seconds"])
        if hasattr(os, "killpg"):
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)  # and all that it has started
        process.kill()
        process.wait()
        outputs = read_outputs(out.read_text(encoding="utf-8", errors="replace"))
        last = err.read_text(encoding="utf-8", errors="replace").strip().rpartition("\n")[2]
    if user and status > 128:
        status = 128 - status  # so runuser reports a signal
    if status == OUT_OF_TIME:
        seconds = f"{task['seconds']} s of processor time"
        return outputs, f"did not end within {seconds}: is there an endless loop?"
    if status:
        return outputs, f"the process died: {last[:300] if status > 0 else signal.Signals(-status).name}"
    return outputs, None


def read_outputs(text):
    """{part: outputs for each seed} of the lines of JSON that the process wrote, perhaps among others."""
    outputs = {}
    for line in text.splitlines():
        with contextlib.suppress(ValueError, TypeError, KeyError):
            row = json.loads(line)
            outputs[row["part"]] = row["outputs"]
    return outputs


# -----------------------------------------------------------------------------------------------------------
# All tasks


def read_specification():
    with gzip.open(HERE / "expected.json.gz") as file:
        return json.load(file)


def read_sources(folder):
    return {name: Path(folder, f"{name}.py").read_text(encoding="utf-8") for name in SOURCES}


def read_submission(folder, spec):
    """({file: text}, {file: why it cannot be used}). Files without tasks are those of solution/, if any."""
    texts = {}
    broken = {}
    with_tasks = {file for task in spec["tasks"] for file, _ in task["functions"]}
    for name in SOURCES:
        is_ours = SOLUTION.is_dir() and name not in with_tasks
        try:
            texts[name] = Path(SOLUTION if is_ours else folder, f"{name}.py").read_text(encoding="utf-8")
        except (OSError, ValueError) as error:
            broken[name] = f"{name}.py cannot be read: {error}"
    return texts, broken


def texts_to_grade(task, texts, broken):
    """The source texts on which a task is graded. Raises ValueError that says why there are none."""
    is_grafted = SOLUTION.is_dir() and task["functions"]
    for name in {file for file, _ in task["functions"]} if is_grafted else SOURCES:
        if name in broken:
            raise ValueError(broken[name])
    graded = read_sources(SOLUTION) if is_grafted else texts
    for file, name in task["functions"]:
        if is_grafted:
            graded[file] = graft(graded[file], texts[file], name)
        if GAP in block(graded[file], name):
            raise ValueError("not started")
    return graded


def grade_task(task, spec, submission, user):
    """(whether it is right, lines that say why not) for each part of a task."""
    judged = {}
    try:
        texts = texts_to_grade(task, *submission)
        seeds = spec["seeds"] if task["functions"] else spec["seeds"][:1]
        outputs, trouble = run_task(texts, task, seeds, user)
        trouble = trouble or "the process ended before it had computed this: is there an exit()?"
        judged = judge(outputs, spec["expected"][task["number"]])
    except ValueError as error:
        trouble = str(error)
    except (TypeError, KeyError, AttributeError):
        trouble = "there is no such function, or the process wrote something else than outputs"
    return [judged.get(part["id"], (False, [trouble])) for part in task["parts"]]


def grade(folder, spec, chosen=(), user=None):
    """A row for each part: its id, title, points, score and lines."""
    submission = read_submission(folder, spec)
    rows = []
    for task in spec["tasks"]:
        if not chosen or task["number"] in chosen:
            parts = zip(task["parts"], grade_task(task, spec, submission, user), strict=True)
            for part, (is_right, lines) in parts:
                rows.append(part | dict(score=part["points"] if is_right else 0, lines=lines))
    return rows


def changed_blocks(folder, spec):
    """The functions, constants and imports that differ from those of solution/ although they are no task."""
    of_tasks = [function for task in spec["tasks"] for function in task["functions"] + task["leaks"]]
    for file in SOURCES if SOLUTION.is_dir() else []:
        with contextlib.suppress(OSError, ValueError):
            student, ours = (
                Path(place, f"{file}.py").read_text(encoding="utf-8") for place in (folder, SOLUTION)
            )
            for name in blocks(ours):
                is_same = name in blocks(student) and block(student, name) == block(ours, name)
                if (
                    not is_same
                    and [file, name] not in of_tasks
                    and not block(ours, name).startswith("class ")
                ):
                    yield f"{name} in {file}.py"


def report(rows):
    """The lines that a student reads."""
    lines = []
    width = max(len(row["title"]) for row in rows)
    for row in rows:
        mark = "ok" if row["score"] else "--"
        lines.append(f"{mark}  {row['id']:<6}{row['title']:<{width}}  {row['score']:>3} / {row['points']}")
        lines += [f"          {line}" for line in row["lines"]]
    score, points = (sum(row[name] for row in rows) for name in ("score", "points"))
    return [*lines, f"{score} of {points} points"]


def write_results(file, rows, note=""):
    """Writes results.json as Gradescope reads it."""
    tests = []
    for row in rows:
        test = dict(number=row["id"], name=row["title"], score=row["score"], max_score=row["points"])
        status = "passed" if row["score"] else "failed"
        tests.append(test | dict(status=status, output="\n".join(row["lines"]) or "right"))
    results = dict(tests=tests, output=note, visibility="visible", stdout_visibility="hidden")
    Path(file).write_text(json.dumps(results, indent=1), encoding="utf-8")


def main(argv=None):
    keep_lines = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=keep_lines, allow_abbrev=False)
    parser.add_argument("tasks", nargs="*", metavar="TASK", help="such as 2.1 (default: all)")
    parser.add_argument("--submission", default=HERE, metavar="DIR", help="what to grade (default: here)")
    parser.add_argument("--json", metavar="FILE", help="write the results as Gradescope reads them")
    parser.add_argument("--user", help="run the student's code as this user, who must not read solution/")
    args = parser.parse_args(argv)
    spec = read_specification()
    numbers = [task["number"] for task in spec["tasks"]]
    unknown = [task for task in args.tasks if task not in numbers]
    if unknown:
        parser.error(f"there is no task {', '.join(unknown)}: there are {', '.join(numbers)}")
    if args.json:  # first of all, so that there are results whatever happens
        parts = [part for task in spec["tasks"] for part in task["parts"]]
        write_results(args.json, [part | dict(score=0, lines=["was not graded"]) for part in parts])
    rows = grade(args.submission, spec, args.tasks, args.user)
    changed = list(changed_blocks(args.submission, spec))
    names = ", ".join(changed[:5]) + ", ..." * (len(changed) > 5)
    note = f"note: you changed {names}: graded without that, as it belongs to no task" if changed else ""
    print("\n".join([note] * bool(changed) + report(rows)))
    if args.json:
        write_results(args.json, rows, note)
    return 0 if all(row["score"] for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
