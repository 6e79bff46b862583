"""Makes what a class needs of an assignment.

python assignments/handout.py vae --out DIR         # for students: sources with gaps, worksheet, checks
python assignments/handout.py vae --gradescope FILE.zip --secret WORDS      # the autograder to upload
"""

import ast
import base64
import hashlib
import importlib.util
import json
import re
import shutil
import sys
import tempfile
import textwrap
import zipfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
sys.path[:0] = [str(ROOT), str(HERE)]

import grade  # noqa: E402
import probing  # noqa: E402

from data import Parser, require, run_command  # noqa: E402

NAMES = ("autoencoder", "vae", "tsne", "judge", "autodecoder", "gan", "arithmetic")
SEEDS_OF_CHECKS = [0, 1]
MAKEFILE = """\
# make check            every task on example numbers; make check TASK=2.1 for one
# make submit           the files to hand in, as submission.zip
PYTHON ?= python3
.PHONY: check submit
check:
	@$(PYTHON) grade.py $(TASK) || true
submit:
	$(PYTHON) -m zipfile -c submission.zip {files}
"""
TESTS = '''\
"""The tasks as tests, for `pytest -k 2.1`; `python grade.py` says the same."""

import json

import grade
import pytest

SPEC = json.loads((grade.HERE / "expected.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize("number", [task["number"] for task in SPEC["tasks"]])
def test_task(number):
    rows = grade.grade(grade.HERE, SPEC, [number])
    if not all(row["score"] for row in rows):
        pytest.fail("\\n".join(grade.report(rows)), pytrace=False)
'''
RUN_AUTOGRADER = """\
#!/usr/bin/env bash
cd /autograder/source
/autograder/venv/bin/python grade.py --submission /autograder/submission \\
    --json /autograder/results/results.json --user student
exit 0
"""
SETUP = """\
#!/usr/bin/env bash
set -e
apt-get update
apt-get install -y python3-venv
python3 -m venv /autograder/venv
/autograder/venv/bin/pip install -r /autograder/source/requirements.txt {pip_args}
adduser student --no-create-home --disabled-password --gecos ""
chmod -R o= /autograder/source/solution /autograder/source/expected.json
"""


# -----------------------------------------------------------------------------------------------------------
# Sources with gaps, and sources with a mistake


def empty(text, file, name, message, comment, keep):
    """The text of a file where a comment and a `raise` replace the body of a function, but for its docstring
    and first `keep` statements."""
    node = grade.find(ast.parse(text), name)
    require(node, f"there is no {name} in {file}.py: {message}")
    kept = node.body[: keep + (ast.get_docstring(node) is not None)]
    start = kept[-1].end_lineno if kept else node.body[0].lineno - 1
    indent = " " * (node.col_offset + 4)
    new = textwrap.wrap(comment, 105, initial_indent=f"{indent}# ", subsequent_indent=f"{indent}# ")
    new.append(f'{indent}raise NotImplementedError("{message}")')
    lines = text.split("\n")
    return "\n".join([*lines[:start], *new, *lines[node.end_lineno :]])


def with_gaps(texts, tasks):
    """The source texts with the functions of these tasks emptied."""
    texts = dict(texts)
    for task in tasks:
        number = task["number"]
        for file, name in task["functions"]:
            message = f"Task {number}: write {name} in {file}.py"
            comment = f"Task {number}: {task['text']}"
            texts[file] = empty(texts[file], file, name, message, comment, task["keep"])
        for file, name in task["leaks"]:
            message = f"Task {number}: {name} in {file}.py is left out, as it would show an answer"
            texts[file] = empty(texts[file], file, name, message, message, 0)
    return texts


def parse_mistakes(text):
    """[(hint, [(phrase, replacement), ...])] of entries as in mistakes.py; phrases are lists of lines."""
    text = textwrap.dedent(text).strip() + "\n"
    entries = re.findall(r"((?:#.*\n)+)((?:[-+].*\n)+)", text)
    complete = "".join(hint + changes for hint, changes in entries) == text or not text.strip()
    require(
        complete, f"mistakes: each is a line '# hint', lines '- phrase' and lines '+ phrase': {text[:60]!r}"
    )

    def content(lines):
        return [line[2:] for line in lines.splitlines()]

    return [
        (
            " ".join(content(hint)),
            [(content(a), content(b)) for a, b in re.findall(r"((?:-.*\n)+)((?:\+.*\n)*)", changes)],
        )
        for hint, changes in entries
    ]


def replace_phrase(texts, task, phrase, replacement):
    """The source texts with a phrase of a task's functions replaced; it must be there once."""
    places = []
    for file, name in task["functions"]:
        lines = texts[file].split("\n")
        start, end = grade.span(grade.find(grade.parse(texts[file]), name))
        body = "\n".join(lines[start:end])
        for line in lines[start:end]:
            margin = "\n" + re.match(" *", line)[0]  # further lines are indented as the first is
            if phrase[0] in line and margin.join(phrase) in body:
                body = body.replace(margin.join(phrase), margin.join(replacement))
                places += [(file, "\n".join([*lines[:start], body, *lines[end:]]))] * line.count(phrase[0])
    n_places = f"stands {len(places)} times in the functions of task {task['number']}, not once"
    require(len(places) == 1, f"mistakes: {' / '.join(phrase)!r} {n_places}")
    file, text = places[0]
    return texts | {file: text}


def with_mistake(texts, task, changes):
    for phrase, replacement in changes:
        texts = replace_phrase(texts, task, phrase, replacement)
    return texts


# -----------------------------------------------------------------------------------------------------------
# What the grader compares with


def run_parts(assignment, task, texts, seeds, salt=0):
    """{part: outputs for each seed} of a task."""
    outputs = {}
    for part in task["parts"]:
        probe = assignment.probes[part["id"]]
        outputs[part["id"]] = [probing.run_probe(probe, texts, str(ROOT), seed, salt) for seed in seeds]
    return outputs


def expectation(assignment, task, mistakes, texts, seeds):
    """The right outputs of a task, and those of each mistake in the parts that see it. Raises data.Mistake
    if no part sees one, or if two give the same outputs."""
    right = run_parts(assignment, task, texts, seeds)
    require("raised" not in str(right), f"task {task['number']} fails on our own files: {right}")
    expected = dict(right=right, mistakes=[])
    for hint, changes in parse_mistakes(mistakes):
        outputs = run_parts(assignment, task, with_mistake(texts, task, changes), seeds)
        wrong = {part: outputs[part] for part in outputs if not grade.agree(outputs[part], right[part])}
        require(wrong, f"task {task['number']}: no part sees the mistake {hint!r}")
        for other_hint, other in expected["mistakes"]:
            is_twin = other.keys() == wrong.keys() and all(
                grade.agree(other[part], wrong[part]) for part in wrong
            )
            twins = f"{hint!r} and {base64.b64decode(other_hint).decode()!r}"
            require(not is_twin, f"task {task['number']}: no part tells apart {twins}")
        expected["mistakes"].append([base64.b64encode(hint.encode()).decode(), wrong])
    return expected


def find_needs(assignment, texts):
    """Adds to each task the numbers of the tasks without which it cannot be right."""
    for other in assignment.tasks:
        gaps = with_gaps(texts, [other])
        for task in assignment.tasks:
            if task is not other and task["functions"] and other["functions"]:
                outputs = run_parts(assignment, task, gaps, SEEDS_OF_CHECKS[:1])
                if f"needs Task {other['number']} first" in str(outputs):
                    task["needs"].append(other["number"])


def load(name, file):
    """The module assignments/NAME/FILE.py."""
    spec = importlib.util.spec_from_file_location(file, HERE / name / f"{file}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def hidden_seeds(secret):
    """Seeds that follow from a secret, so that a regrade agrees."""
    digests = [hashlib.sha256(f"{secret}/{k}".encode()).hexdigest() for k in range(3)]
    return [int(digest[:8], 16) for digest in digests]


def specification(name, seeds):
    """(the assignment, what expected.json holds)."""
    assignment = load(name, "tasks").assignment
    mistakes = load(name, "mistakes").MISTAKES
    texts = grade.read_sources(ROOT)
    expected = {}
    for task in assignment.tasks:
        of_task = seeds if task["functions"] else seeds[:1]
        text = mistakes.get(task["number"], "")
        expected[task["number"]] = expectation(assignment, task, text, texts, of_task)
    find_needs(assignment, texts)
    handed_out = {
        file: grade.fingerprints(text) for file, text in with_gaps(texts, assignment.tasks).items()
    }
    return assignment, dict(seeds=seeds, tasks=assignment.tasks, expected=expected, handed_out=handed_out)


# -----------------------------------------------------------------------------------------------------------
# Folders and archives


def write_files(name, seeds, folder):
    """What students and the autograder both get; returns the assignment."""
    assignment, spec = specification(name, seeds)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "expected.json").write_text(json.dumps(spec), encoding="utf-8")
    for path in (
        HERE / "grade.py",
        HERE / "probing.py",
        HERE / name / "tasks.py",
        ROOT / "requirements.txt",
    ):
        shutil.copy(path, folder)
    for extra in assignment.extras:
        (folder / extra).parent.mkdir(exist_ok=True)
        shutil.copy(ROOT / extra, folder / extra)
    return assignment


def write_handout(name, folder):
    """The folder that a student gets."""
    tasks = write_files(name, SEEDS_OF_CHECKS, folder).tasks
    for file, text in with_gaps(grade.read_sources(ROOT), tasks).items():
        (folder / f"{file}.py").write_text(text, encoding="utf-8")
    files = sorted({f"{file}.py" for task in tasks for file, _ in task["functions"]})
    (folder / "Makefile").write_text(MAKEFILE.format(files=" ".join(files)))
    (folder / "test_tasks.py").write_text(TESTS)
    shutil.copy(HERE / name / "worksheet.md", folder / "README.md")
    shutil.copy(ROOT / "LICENSE", folder)


def write_autograder(name, file, secret, pip_args):
    """The archive to upload."""
    scripts = {"run_autograder": RUN_AUTOGRADER, "setup.sh": SETUP.format(pip_args=pip_args)}
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        write_files(name, hidden_seeds(secret), folder)
        (folder / "solution").mkdir()
        for source in grade.SOURCES:
            shutil.copy(ROOT / f"{source}.py", folder / "solution")
        for script, text in scripts.items():
            (folder / script).write_text(text)
            (folder / script).chmod(0o755)
        with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
            for path in sorted(path for path in folder.rglob("*") if path.is_file()):
                archive.write(path, path.relative_to(folder))


def run(argv):
    parser = Parser(prog="handout.py", description=__doc__)
    parser.add_argument("assignment", choices=NAMES, metavar="ASSIGNMENT", help=", ".join(NAMES))
    parser.add_argument("--out", type=Path, metavar="DIR", help="make the students' folder")
    parser.add_argument("--gradescope", type=Path, metavar="FILE.zip", help="make the autograder to upload")
    parser.add_argument("--secret", metavar="WORDS", help="from which its hidden numbers are drawn")
    parser.add_argument("--pip-args", default="", metavar="ARGS", help="of pip install in its setup.sh")
    args = parser.parse_args(argv)
    if not args.out and not args.gradescope:
        parser.error("give --out DIR or --gradescope FILE.zip")
    if args.gradescope and not args.secret:
        parser.error("--gradescope needs --secret, words from which the hidden numbers are drawn")
    if args.out:
        require(not args.out.exists(), f"{args.out} exists: name a new folder")
        write_handout(args.assignment, args.out)
    if args.gradescope:
        write_autograder(args.assignment, args.gradescope, args.secret, args.pip_args)


if __name__ == "__main__":
    sys.exit(run_command("handout.py", run, None))
