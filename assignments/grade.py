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
            names = re.findall(r"\w+", " ".join(lines[k:end]).partition("import ")[2])
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
        raise ValueError(f"there is no {name} in what you have written")
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


def is_same(output, right):
    """Whether an output is right, numbers to 4 digits of the largest one or within the tolerance."""
    if any(output.get(key) != right.get(key) for key in ("shape", "text", "raised")):
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


def differences(outputs, right):
    """A line on each output of a probe that is wrong."""
    if "" in outputs:
        return ["{raised}{place}".format(**outputs[""])]
    missing = {"text": "missing"}
    pairs = {name: (outputs.get(name, missing), right[name]) for name in right}
    return [
        f"{name}: yours is {show(yours, ours)}, right is {show(ours, yours)}{relation(yours, ours)}"
        for name, (yours, ours) in pairs.items()
        if not is_same(yours, ours)
    ]


def show(output, other):
    """An output in short: its text, its shape if that of the other is different, or its first numbers."""
    if "values" not in output:
        return output["text"]
    if output["shape"] != other.get("shape"):
        return f"of shape {output['shape']}"
    numbers = [f"{value:.4g}" for value in output["values"][:3]]
    return ", ".join(numbers + ["..."] * (len(output["values"]) > 3))


def relation(output, right):
    """How all numbers differ from the right ones, if in one way: by a factor, a constant or their order."""
    if output.get("shape") != right.get("shape") or len(right.get("values", [])) < 2:
        return ""
    pairs = list(zip(output["values"], right["values"], strict=True))
    gaps = [a - b for a, b in pairs]
    ratios = [a / b for a, b in pairs if abs(b) > 1e-6]
    if len(ratios) == len(pairs) and max(ratios) - min(ratios) < 2e-3 < abs(ratios[0]):
        return f": every number is {ratios[0]:.4g} times the right one"
    if max(gaps) - min(gaps) < 1e-4 + 1e-3 * max(abs(b) for _, b in pairs):
        return f": every number is {abs(gaps[0]):.4g} too {'large' if gaps[0] > 0 else 'small'}"
    is_permuted = sorted(output["values"]) == sorted(right["values"])
    return ": the right numbers in another order" if is_permuted else ""


def judge(outputs, expected):
    """{part: (whether it is right, lines that say why not)} of a task's {part: outputs for each seed}.

    The hint is of the mistake whose outputs are the student's in the most parts of the task."""
    right = expected["right"]
    failed = {part for part in outputs if not agree(outputs[part], right[part])}
    candidates = []  # (number of parts that agree, hint, failed parts that agree)
    for hint, wrong in expected["mistakes"]:
        parts = {part for part in outputs if agree(outputs[part], wrong.get(part, right[part]))}
        candidates.append((len(parts), hint, parts & failed))
    most = max((n_parts for n_parts, _, explained in candidates if explained), default=0)
    judged = {part: (True, []) for part in outputs}
    for part in failed:
        hints = [hint for n_parts, hint, explained in candidates if n_parts == most and part in explained]
        differing = next(filter(None, map(differences, outputs[part], right[part])), [])
        judged[part] = False, [f"Likely mistake: {hint}" for hint in hints[:1]] + differing[:3]
    return judged


def run_task(texts, task, seeds, user):
    """({part: outputs for each seed}, what went wrong or None) of a task on these source texts."""
    command = [sys.executable, str(HERE / "probing.py")]
    if user:
        command = ["runuser", "-u", user, "--", *command]
    with contextlib.ExitStack() as stack:
        scratch = stack.enter_context(tempfile.TemporaryDirectory())
        stdin, out, err = (stack.enter_context(tempfile.TemporaryFile()) for _ in range(3))
        stdin.write(json.dumps(dict(task=task, texts=texts, folder=str(HERE), seeds=seeds)).encode())
        stdin.seek(0)
        options = dict(cwd=scratch, env=os.environ | {"OMP_NUM_THREADS": "1"}, start_new_session=True)
        process = subprocess.Popen(command, stdin=stdin, stdout=out, stderr=err, **options)
        status = OUT_OF_TIME
        with contextlib.suppress(subprocess.TimeoutExpired):
            status = process.wait(4 * task["seconds"])
        if hasattr(os, "killpg"):
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)  # and all that it has started
        process.kill()
        process.wait()
        for file in (out, err):
            file.seek(0)
        outputs = {}
        for line in out.read(10**7).decode(errors="replace").splitlines():
            with contextlib.suppress(ValueError, TypeError):  # of what a student's code has written there
                part, outputs[part] = json.loads(line)
        last = err.read().decode(errors="replace").strip().rpartition("\n")[2]
    if user and status > 128:
        status = 128 - status  # so runuser reports a signal
    if status == OUT_OF_TIME:
        limits = f"{task['seconds']} s of processor time or {4 * task['seconds']} s in all"
        return outputs, f"did not end within {limits}: is there an endless loop?"
    if status:
        return outputs, f"the process died: {last[:300] if status > 0 else signal.Signals(-status).name}"
    return outputs, None


def read_specification():
    with gzip.open(HERE / "expected.json.gz") as file:
        return json.load(file)


def read_sources(folder):
    """{name: text} of the source files that are there."""
    files = [Path(folder, f"{name}.py") for name in SOURCES]
    return {
        file.stem: file.read_text(encoding="utf-8", errors="replace") for file in files if file.is_file()
    }


def texts_to_grade(task, folder, spec):
    """The source texts on which a task is graded: those of the folder, or beside solution/ ours with the
    student's functions of this task, or of all if it has none. Raises ValueError that says why not."""
    functions = task["functions"] or [function for other in spec["tasks"] for function in other["functions"]]
    student = read_sources(folder)
    texts = read_sources(SOLUTION) if SOLUTION.is_dir() else student
    for file, name in functions:
        if SOLUTION.is_dir():
            texts[file] = graft(texts[file], student.get(file, ""), name)
        if GAP in block(texts[file], name) and task["functions"]:
            raise ValueError("not started")
    return texts


def grade(task, folder, spec, user=None):
    """A row for each part of a task: its id, title, points, score, and lines that say why."""
    judged = {}
    try:
        texts = texts_to_grade(task, folder, spec)
        seeds = spec["seeds"] if task["functions"] else spec["seeds"][:1]
        outputs, trouble = run_task(texts, task, seeds, user)
        trouble = trouble or "the process ended before it had computed this: is there an exit()?"
        judged = judge(outputs, spec["expected"][task["number"]])
    except ValueError as error:
        trouble = str(error)
    except (TypeError, KeyError, AttributeError):
        trouble = "there is no such function, or the process wrote something else than outputs"
    rows = []
    for part in task["parts"]:
        is_right, lines = judged.get(part["id"], (False, [trouble]))
        rows.append(part | dict(score=part["points"] if is_right else 0, lines=lines))
    return rows


def describe_changes(folder, spec):
    """A line on the functions and constants that are not as in solution/ although they belong to no task."""
    of_tasks = [function for task in spec["tasks"] for function in task["functions"] + task["leaks"]]
    ours = read_sources(SOLUTION)
    changed = []
    for file, text in read_sources(folder).items() if ours else ():
        classes = {name.partition(".")[0] for name in blocks(text) if "." in name}
        for name in blocks(text).keys() & blocks(ours[file]).keys() - classes:
            if [file, name] not in of_tasks and block(text, name) != block(ours[file], name):
                changed.append(f"{name} in {file}.py")
    names = ", ".join(sorted(changed)[:5]) + ", ..." * (len(changed) > 5)
    return f"note: you changed {names}: graded without that, as it belongs to no task\n" if changed else ""


def report(rows):
    """The lines that a student reads."""
    lines = []
    width = max(len(row["title"]) for row in rows)
    for row in rows:
        mark = "ok" if row["score"] else "--"
        lines.append(f"{mark}  {row['id']:<6}{row['title']:<{width}}  {row['score']:>3} / {row['points']}")
        lines += [f"          {line}" for line in row["lines"]]
    score, points = (sum(row[name] for row in rows) for name in ("score", "points"))
    return "\n".join([*lines, f"{score} of {points} points"])


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
    tasks = {task["number"]: task for task in spec["tasks"]}
    unknown = [number for number in args.tasks if number not in tasks]
    if unknown:
        parser.error(f"there is no task {', '.join(unknown)}: there are {', '.join(tasks)}")
    if args.json:  # first of all, so that there are results whatever happens
        parts = [part for task in spec["tasks"] for part in task["parts"]]
        write_results(args.json, [part | dict(score=0, lines=["was not graded"]) for part in parts])
    note = describe_changes(args.submission, spec)
    rows = []
    for number in args.tasks or tasks:
        rows += grade(tasks[number], args.submission, spec, args.user)
    print(note + report(rows))
    if args.json:
        write_results(args.json, rows, note)
    return 0 if all(row["score"] for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
