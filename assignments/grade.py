"""Grades an assignment task by task, and names the likely mistake.

    python grade.py                       # every task, on example numbers
    python grade.py 2.1 2.3               # some tasks
    python grade.py --submission DIR --json results.json      # as an autograder runs it

Each task runs in a process of its own, so that a crash or an endless loop costs that task alone. The process
only computes numbers; they are compared here with ours and with those of known mistakes. Beside a folder
`solution/` the student's functions are put into our files one task at a time: a wrong 2.1 costs 2.4 nothing.
"""

import argparse
import ast
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


@functools.lru_cache(64)
def definitions(text):
    """{name: node} of the functions, classes and methods ("Class.method") of a file."""
    tops = [node for node in ast.parse(text).body if isinstance(node, ast.FunctionDef | ast.ClassDef)]
    members = [(top, node) for top in tops for node in top.body if isinstance(node, ast.FunctionDef)]
    return {top.name: top for top in tops} | {f"{top.name}.{node.name}": node for top, node in members}


def span(node):
    """The first line of a definition with its decorators, counted from 0, and the line after its end."""
    decorators = node.decorator_list if isinstance(node, ast.FunctionDef | ast.ClassDef) else []
    return min(part.lineno for part in [node, *decorators]) - 1, node.end_lineno


def lines_of(text, node):
    return text.split("\n")[slice(*span(node))]


def names_bound(node):
    """The names that a statement binds."""
    if isinstance(node, ast.FunctionDef | ast.ClassDef):
        return {node.name}
    if isinstance(node, ast.Import | ast.ImportFrom):
        return {(alias.asname or alias.name).split(".")[0] for alias in node.names}
    names = [part for part in ast.walk(node) if isinstance(part, ast.Name)]
    return {name.id for name in names if isinstance(name.ctx, ast.Store)}


def names_used(node):
    names = {part.id for part in ast.walk(node) if isinstance(part, ast.Name)}
    return names | {part.attr for part in ast.walk(node) if isinstance(part, ast.Attribute)}


def new_definitions(body, reference, used):
    """The statements of a body that define names which the reference lacks, if they are in `used` or used by
    each other; and all names that are used then."""
    known = set().union(*map(names_bound, reference))
    candidates = [node for node in body if names_bound(node) - known]
    chosen = []
    while True:
        more = [node for node in candidates if node not in chosen and names_bound(node) & used]
        if not more:
            return [node for node in candidates if node in chosen], used
        chosen += more
        used = used.union(*map(names_used, more))


def graft(reference, student, name):
    """The reference text with the student's function `name`, and with what the student has defined for it.
    Raises ValueError if there is no such function."""
    ours = definitions(reference)
    theirs = definitions(student)
    if not isinstance(theirs.get(name), ast.FunctionDef):
        raise ValueError(f"there is no {name} in your file")
    text = lines_of(student, theirs[name])
    used = names_used(theirs[name])
    top, _, is_method = name.partition(".")
    if is_method:
        methods, used = new_definitions(theirs[top].body, ours[top].body, used)
        text += [line for node in methods for line in ["", *lines_of(student, node)]]
    helpers, _ = new_definitions(ast.parse(student).body, ast.parse(reference).body, used)
    lines = reference.split("\n")
    lines[slice(*span(ours[name]))] = text
    start, _ = span(ours[top])
    lines[start:start] = [line for node in helpers for line in lines_of(student, node)]
    return "\n".join(lines)


FUNCTION = re.compile(r"^( *)def (\w+)\(.*\n(?:(?:\1[ )].*)?\n)*", re.MULTILINE)


def salvage(text):
    """The text, where each function that is no Python is replaced by one that says so: it alone is lost.
    Raises SyntaxError where the error is in no function."""
    for _ in range(20):
        try:
            ast.parse(text)
            return text
        except SyntaxError as error:
            line = error.lineno or 0
            blocks = [(text.count("\n", 0, match.start()), match) for match in FUNCTION.finditer(text)]
            broken = [match for n, match in blocks if n < line <= n + match[0].count("\n") + 1]
            if not broken:
                raise
            margin, name = broken[0].groups()
            message = f"line {line}: {error.msg}"
            stub = f"{margin}def {name}(*_, **__):\n{margin}    raise SyntaxError({message!r})\n\n"
            text = text[: broken[0].start()] + stub + text[broken[0].end() :]
    raise SyntaxError("too many places are no Python")


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
            text = Path(SOLUTION if is_ours else folder, f"{name}.py").read_text(encoding="utf-8")
            texts[name] = salvage(text)
        except (OSError, ValueError, SyntaxError, RecursionError, MemoryError) as error:
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
        if GAP in "\n".join(lines_of(graded[file], definitions(graded[file])[name])):
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
    except (ValueError, SyntaxError, RecursionError) as error:
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


def changed_functions(folder, spec):
    """The functions that differ from those of solution/ although they belong to no task."""
    of_tasks = [function for task in spec["tasks"] for function in task["functions"] + task["leaks"]]
    for file in SOURCES:
        with contextlib.suppress(OSError, SyntaxError, ValueError, RecursionError, MemoryError):
            paths = Path(folder, f"{file}.py"), SOLUTION / f"{file}.py"
            student, ours = (path.read_text(encoding="utf-8") for path in paths)
            theirs = definitions(student)
            for name, node in definitions(ours).items():
                is_same = name in theirs and lines_of(student, theirs[name]) == lines_of(ours, node)
                if not is_same and isinstance(node, ast.FunctionDef) and [file, name] not in of_tasks:
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
    changed = list(changed_functions(args.submission, spec))
    names = ", ".join(changed[:5]) + ", ..." * (len(changed) > 5)
    note = f"note: you changed {names}: graded without that, as it belongs to no task" if changed else ""
    print("\n".join([note] * bool(changed) + report(rows)))
    if args.json:
        write_results(args.json, rows, note)
    return 0 if all(row["score"] for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
