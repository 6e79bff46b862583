"""The tasks as tests, for `pytest -k 2.1`; `python grade.py` says the same."""

import grade
import pytest


@pytest.mark.parametrize("number", [task["number"] for task in grade.read_specification()["tasks"]])
def test_task(number):
    rows = grade.grade(grade.HERE, grade.read_specification(), [number])
    if not all(row["score"] for row in rows):
        pytest.fail("\n".join(grade.report(rows)), pytrace=False)
