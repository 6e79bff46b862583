"""Makes what a class needs of an assignment.

python assignments/handout.py vae --out DIR         # for students: sources with gaps, worksheet, checks
python assignments/handout.py vae --gradescope FILE.zip --secret WORDS      # the autograder to upload
"""

import ast
import gzip
import json
import random
import re
import runpy
import shutil
import sys
import tempfile
import textwrap
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
sys.path[:0] = [str(ROOT), str(HERE)]

import grade  # noqa: E402
import probing  # noqa: E402

from data import Mistake, Parser, require, run_command  # noqa: E402

NAMES = ("autoencoder", "vae", "tsne", "judge", "autodecoder", "gan", "arithmetic")


def empty(text, file, name, message, comment, keep=0):
    """The text of a file where a comment and a `raise` replace the body of a function, but for its docstring
    and first `keep` statements."""
    require(name in grade.blocks(text), f"there is no {name} in {file}.py: {message}")
    start, _ = grade.blocks(text)[name]
    function = ast.parse(textwrap.dedent(grade.block(text, name))).body[0]
    remaining = function.body[: keep + (ast.get_docstring(function) is not None)]
    first = start + (remaining[-1].end_lineno if remaining else function.body[0].lineno - 1)
    lines = text.split("\n")
    indent = re.match(" *", lines[start + function.body[0].lineno - 1])[0]
    new = textwrap.wrap(comment, 105, initial_indent=f"{indent}# ", subsequent_indent=f"{indent}# ")
    new.append(f'{indent}raise NotImplementedError("{message}")')
    return "\n".join([*lines[:first], *new, *lines[start + function.end_lineno :]])


def with_gaps(texts, tasks):
    """The source texts with the functions of these tasks emptied."""
    texts = dict(texts)
    for task in tasks:
        start = f"Task {task['number']}:"
        for file, name in task["functions"]:
            message = f"{start} write {name} in {file}.py"
            keep = task["keep"] if [file, name] == task["functions"][0] else 0
            texts[file] = empty(texts[file], file, name, message, f"{start} {task['text']}", keep)
        for file, name in task["leaks"]:
            message = f"{start} {name} in {file}.py is left out, as it would show an answer"
            texts[file] = empty(texts[file], file, name, message, "")
    return texts


def parse_mistakes(text):
    """[(hint, [(phrase, replacement), ...])] of entries as in mistakes.py."""
    entries = []
    for entry in re.split("^# ", textwrap.dedent(text).strip(), flags=re.MULTILINE)[1:]:
        hint, *lines = entry.splitlines()
        changes = []
        for line in lines:
            if line.startswith("- "):
                changes.append((line[2:], []))
            elif line.startswith("+") and changes:
                changes[-1][1].append(line[2:])
            else:
                raise Mistake(f"mistakes: after '# {hint}' come lines of '- phrase', then of '+ new'")
        entries.append((hint, [(phrase, "\n".join(new)) for phrase, new in changes]))
    return entries


def with_mistake(texts, task, changes):
    """The source texts with each phrase of a task's functions replaced; it must be there once."""
    lines = {file: text.split("\n") for file, text in texts.items()}
    for phrase, replacement in changes:
        places = [
            (file, k)
            for file, name in task["functions"]
            for k in range(*grade.blocks(texts[file])[name])
            for _ in range(lines[file][k].count(phrase))
        ]
        message = f"task {task['number']}: {phrase!r} stands {len(places)} times there, not once"
        require(len(places) == 1, message)
        file, k = places[0]
        margin = re.match(" *", lines[file][k])[0]  # for further lines of the replacement
        lines[file][k] = lines[file][k].replace(phrase, replacement.replace("\n", "\n" + margin))
    return {file: "\n".join(lines[file]) for file in texts}


def expectation(assignment, task, mistakes, texts, seeds):
    """The right outputs of a task, and those of each mistake in the parts that see it. Raises data.Mistake
    if no part sees one, or if two give the same outputs."""
    entries = parse_mistakes(mistakes)
    versions = [texts] + [with_mistake(texts, task, changes) for _, changes in entries]
    right, *others = (
        dict(probing.run_parts(assignment, task, version, str(ROOT), seeds)) for version in versions
    )
    require("'raised':" not in str(right), f"task {task['number']} fails on our own files: {right}")
    expected = dict(right=right, mistakes=[])
    for (hint, _), outputs in zip(entries, others, strict=True):
        wrong = {part: outputs[part] for part in outputs if not grade.agree(outputs[part], right[part])}
        require(wrong, f"task {task['number']}: no part sees the mistake {hint!r}")
        for other_hint, other in expected["mistakes"]:
            is_twin = other.keys() == wrong.keys()
            is_twin = is_twin and all(map(grade.agree, other.values(), wrong.values()))
            require(not is_twin, f"task {task['number']}: no part tells {hint!r} from {other_hint!r}")
        expected["mistakes"].append([hint, wrong])
    return expected


def load(name, file):
    """The names that assignments/NAME/FILE.py defines."""
    return runpy.run_path(str(HERE / name / f"{file}.py"))


def write_sources(texts, folder):
    folder.mkdir(exist_ok=True)
    for file, text in texts.items():
        (folder / f"{file}.py").write_text(text, encoding="utf-8")


def write_common(name, seeds, folder):
    """Writes what students and the autograder both get; returns the assignment."""
    assignment = load(name, "tasks")["assignment"]
    mistakes = load(name, "mistakes")["MISTAKES"]
    texts = grade.read_sources(ROOT)
    expected = {}
    for task in assignment.tasks:
        of_task = seeds if task["functions"] else seeds[:1]  # those without functions train
        text = mistakes.get(task["number"], "")
        expected[task["number"]] = expectation(assignment, task, text, texts, of_task)
    spec = dict(seeds=seeds, tasks=assignment.tasks, expected=expected)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "expected.json.gz").write_bytes(gzip.compress(json.dumps(spec).encode()))
    shutil.copy(ROOT / "requirements.txt", folder)
    for file in ("grade.py", "probing.py", f"{name}/tasks.py"):
        shutil.copy(HERE / file, folder)
    for extra in assignment.extras:
        (folder / extra).parent.mkdir(exist_ok=True)
        shutil.copy(ROOT / extra, folder / extra)
    return assignment


def write_handout(name, folder):
    """Makes the folder that a student gets."""
    assignment = write_common(name, [0, 1], folder)
    shutil.copytree(HERE / "student", folder, dirs_exist_ok=True)
    shutil.copy(HERE / name / "worksheet.md", folder / "README.md")
    shutil.copy(ROOT / "LICENSE", folder)
    if (folder / "datasets").is_dir():
        shutil.copy(ROOT / "datasets" / "README.md", folder / "datasets")  # the licenses of the data
    write_sources(with_gaps(grade.read_sources(ROOT), assignment.tasks), folder)


def write_autograder(name, file, secret):
    """Makes the archive to upload. Its seeds follow from the secret, so that a regrade agrees."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        write_common(name, random.Random(secret).choices(range(2**32), k=3), folder)
        shutil.copytree(HERE / "autograder", folder, dirs_exist_ok=True)
        write_sources(grade.read_sources(ROOT), folder / "solution")
        shutil.move(shutil.make_archive(scratch + "-archive", "zip", folder), file)


def flags():
    parser = Parser(prog="handout.py", description=__doc__)
    parser.add_argument("assignment", choices=NAMES, metavar="ASSIGNMENT", help=", ".join(NAMES))
    which = parser.add_mutually_exclusive_group(required=True)
    which.add_argument("--out", type=Path, metavar="DIR", help="make the students' folder")
    which.add_argument("--gradescope", type=Path, metavar="FILE.zip", help="make the autograder to upload")
    parser.add_argument("--secret", metavar="WORDS", help="from which its hidden numbers are drawn")
    return parser


def run(argv):
    args = flags().parse_args(argv)
    if args.gradescope and not args.secret:
        flags().error("--gradescope needs --secret, words from which the hidden numbers are drawn")
    if args.out:
        require(not args.out.exists(), f"{args.out} exists: name a new folder")
        write_handout(args.assignment, args.out)
    else:
        write_autograder(args.assignment, args.gradescope, args.secret)


if __name__ == "__main__":
    sys.exit(run_command("handout.py", run, None))
