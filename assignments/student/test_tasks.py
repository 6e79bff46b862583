"""The tasks as tests, for `pytest -k 2.1`; `python grade.py` says the same."""

import grade
import pytest

SPEC = grade.read_specification()


@pytest.mark.parametrize("task", SPEC["tasks"], ids=lambda task: task["number"])
def test_task(task):
    rows = grade.grade(task, grade.HERE, SPEC)
    if not all(row["score"] for row in rows):
        pytest.fail(grade.report(rows), pytrace=False)
