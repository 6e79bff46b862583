"""Assignments: nothing for gaps, everything for our own files, and the right hint for every mistake."""

import json
import re
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

import models
import train
from assignments import handout
from assignments.handout import grade, probing

ROOT = Path(train.__file__).parent
README = (ROOT / "assignments" / "README.md").read_text(encoding="utf-8")
# fields of results.json, and of each of its tests, with their types in Gradescope's documentation
RESULTS = dict(tests=list, output=str, visibility=str, stdout_visibility=str)
RESULT = dict(number=str, name=str, score=int, max_score=int, status=str, output=str)


def points(folder, submission, *more):
    """Grades a submission in processes; returns its tests by number, the points in all, and the note."""
    file = submission / "results.json"
    command = [sys.executable, folder / "grade.py", *more, "--submission", submission, "--json", file]
    ended = subprocess.run(list(map(str, command)), capture_output=True, text=True)
    assert not ended.stderr and ended.stdout.splitlines()[-1].endswith(" points"), ended
    results = json.loads(file.read_text())
    assert {name: type(value) for name, value in results.items()} == RESULTS
    assert {results["visibility"], results["stdout_visibility"]} <= {"visible", "hidden"}
    for test in results["tests"]:
        assert {name: type(value) for name, value in test.items()} == RESULT
        assert test["status"] == ("passed" if test["score"] == test["max_score"] else "failed")
    tests = {test["number"]: test for test in results["tests"]}
    return tests, sum(test["score"] for test in tests.values()), results["output"]


def build(name, folder):
    """The folders of a student and of the autograder."""
    handout.write_handout(name, folder / "student")
    handout.write_autograder(name, folder / "autograder.zip", "test")
    shutil.unpack_archive(folder / "autograder.zip", folder / "autograder")
    return folder / "student", folder / "autograder"


@pytest.mark.parametrize("name", handout.NAMES)
def test_points_add_up_and_every_mistake_fits_our_files(name):
    assignment = handout.load(name, "tasks")["assignment"]
    module = handout.load(name, "mistakes")
    texts = grade.read_sources(ROOT)
    assert sum(part["points"] for task in assignment.tasks for part in task["parts"]) == 100
    handout.with_gaps(texts, assignment.tasks)
    for task in assignment.tasks:
        mistakes = handout.parse_mistakes(module["MISTAKES"].get(task["number"], ""))
        right = handout.parse_mistakes(module["RIGHT_ANSWERS"].get(task["number"], ""))
        assert len(mistakes) >= 3 or not task["functions"]
        for _, changes in mistakes + right:
            assert handout.with_mistake(texts, task, changes) != texts


@pytest.mark.parametrize("name", handout.NAMES)
def test_every_handout_can_be_made_of_our_files(name, tmp_path):
    handout.write_handout(name, tmp_path / name)  # it runs every probe
    assert (tmp_path / name / "README.md").read_text().startswith("#")
    assert "## Attribution" in (tmp_path / name / "datasets" / "README.md").read_text(encoding="utf-8")


def test_the_worked_example_from_handout_to_results(tmp_path, monkeypatch):
    copy = tmp_path / "assignments"
    shutil.copytree(ROOT / "assignments", copy)
    tasks, mistakes = re.findall("```python\n(.*?)```", README, re.DOTALL)
    assert len((tasks + mistakes).splitlines()) < 25
    begin = "from probing import Assignment\n\nassignment = Assignment()\n"
    (copy / "vae" / "tasks.py").write_text(begin + tasks, encoding="utf-8")
    (copy / "vae" / "mistakes.py").write_text("MISTAKES = {}\n" + mistakes, encoding="utf-8")
    monkeypatch.setattr(handout, "HERE", copy)
    student, autograder = build("vae", tmp_path)
    assert not (student / "datasets").exists()  # this assignment has no data
    tests, score, note = points(autograder, student)
    assert score == 0 and tests["2.9a"]["output"] == "not started" and not note

    ours = (ROOT / "models.py").read_text(encoding="utf-8")
    body = "return (mean - x).square().flatten(1).sum(1)"
    wrong = ours.replace(body, f"{body} / 2")
    (student / "models.py").write_text(wrong, encoding="utf-8")
    tests, score, _ = points(student, student)
    hint, relation = tests["2.9a"]["output"].splitlines()
    assert score == 0 and hint == "Likely mistake: halved: it is the squared error itself."
    assert relation.endswith("every number is 0.5 times the right one")

    # a helper, an import that fails, a syntax error elsewhere, a wrong prerequisite, a changed __init__
    right = "import absent\n\nHALF = 0.5\n" + ours.replace(body, "return twice(HALF * (mean - x) ** 2)")
    right += "\n\ndef twice(x):\n    return 2 * x.sum(dim=(1, 2, 3))\n\n\ndef last():\n    return (\n"
    right = right.replace("if not condition:", "if condition:")
    right = right.replace("super().__init__()", "pass", 1)
    (student / "models.py").write_text(right, encoding="utf-8")
    _, score, note = points(autograder, student)
    assert score == 5 and "you changed Model.__init__ in models.py, require in" in note, note


def test_relations_are_named():
    right = [1.0, -2.0, 3.5, 0.25]
    cases = {
        "-1 times the right one": [-x for x in right],
        "0.5 too large": [x + 0.5 for x in right],
        "in another order": right[::-1],
    }
    for relation, values in cases.items():
        student, ours = ({"x": {"shape": [4], "values": numbers}} for numbers in (values, right))
        assert grade.differences(student, ours)[0].endswith(relation)


def test_a_gap_is_one_line_with_status_3_and_leaves_no_folder(digits, tmp_path, monkeypatch, capsys):
    def gap(*_):
        raise NotImplementedError("Task 2.5: write VAE.loss in models.py")

    monkeypatch.chdir(tmp_path)
    flags = ["--data", digits, "--latent-dim", "2", "--encoder", "mlp", "--decoder", "mlp", "--epochs", "1"]
    for owner, name in ((models.VAE, "loss"), (models.VAE, "turns"), (models.MLPEncoder, "__init__")):
        with monkeypatch.context() as patch:
            patch.setattr(owner, name, gap)
            assert train.main(["--model", "vae", *flags]) == 3
        error = capsys.readouterr().err
        assert error == "train.py: error: Task 2.5: write VAE.loss in models.py\n"
        assert not list(tmp_path.glob("runs/*"))


@pytest.mark.long
@pytest.mark.parametrize("name", handout.NAMES)
def test_every_mistake_is_caught_and_named_and_right_answers_pass(name):
    assignment = handout.load(name, "tasks")["assignment"]
    module = handout.load(name, "mistakes")
    texts = grade.read_sources(ROOT)
    seeds = [5, 6, 7]
    for task in assignment.tasks[:-1]:  # the last one trains
        text = module["MISTAKES"][task["number"]]
        expected = handout.expectation(assignment, task, text, texts, seeds)

        def complaints(texts, task=task, expected=expected):
            outputs = probing.run_parts(assignment, task, texts, str(ROOT), seeds, salt=977)
            return [line for _, lines in grade.judge(dict(outputs), expected).values() for line in lines]

        right = handout.parse_mistakes(module["RIGHT_ANSWERS"].get(task["number"], ""))
        rights = [handout.with_mistake(texts, task, changes) for _, changes in [("", []), *right]]
        alone = handout.with_gaps(texts, [other for other in assignment.tasks if other is not task])
        for right in [*rights, alone]:
            assert complaints(right) == []
        for hint, changes in handout.parse_mistakes(text):
            lines = complaints(handout.with_mistake(texts, task, changes))
            hints = {line for line in lines if line.startswith("Likely mistake: ")}
            assert hints == {f"Likely mistake: {hint}"}


@pytest.mark.long
@pytest.mark.parametrize("name", handout.NAMES)
def test_gaps_earn_nothing_and_written_tasks_everything(name, tmp_path):
    student, autograder = build(name, tmp_path)
    assert points(student, student)[1] == points(autograder, student)[1] == 0
    texts = grade.read_sources(student)
    ours = grade.read_sources(ROOT)
    for task in handout.load(name, "tasks")["assignment"].tasks:
        for file, function in task["functions"]:
            texts[file] = grade.graft(texts[file], ours[file], function)
    handout.write_sources(texts, student)
    assert points(student, student)[1] == points(autograder, student)[1] == 100


@pytest.mark.long
def test_hostile_submissions_cost_their_own_task_alone(tmp_path):
    _, autograder = build("vae", tmp_path)
    texts = grade.read_sources(ROOT)
    kl = grade.block(texts["models"], "Gaussian.kl").splitlines()[-1]
    submission = tmp_path / "submission"
    for body, message in handout.load("vae", "mistakes")["HOSTILE"].items():
        models_py = texts["models"].replace(kl, textwrap.indent(body, 8 * " "))
        handout.write_sources(texts | {"models": models_py}, submission)
        tests, score, _ = points(autograder, submission, "2.2", "2.3")
        assert message in tests["2.2a"]["output"] and score == 10, (body, tests)
