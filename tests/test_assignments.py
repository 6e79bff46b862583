"""Assignments: nothing for gaps, everything for our own files, and the right hint for every mistake."""

import sys
from collections import Counter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT / "assignments")]
import grade  # noqa: E402
import handout  # noqa: E402


def count(name, secret, numbers=()):
    """A Counter of what happens to our files, to other right answers and to mistakes, whose noise differs from
    the grader's; and a line for each that is not as it should be."""
    assignment = handout.load(name, "tasks").assignment
    module = handout.load(name, "mistakes")
    texts = grade.read_sources(ROOT)
    seeds = handout.hidden_seeds(secret)
    counter = Counter()
    lines = []
    for task in assignment.tasks:
        number = task["number"]
        if not task["functions"] or numbers and number not in numbers:
            continue
        expected = handout.expectation(assignment, task, module.MISTAKES.get(number, ""), texts, seeds)

        def judge(changes, task=task, expected=expected):
            changed = handout.with_mistake(texts, task, changes)
            outputs = handout.run_parts(assignment, task, changed, seeds, salt=977)
            return grade.judge(outputs, expected)

        right = handout.parse_mistakes(module.RIGHT_ANSWERS.get(number, ""))
        for hint, changes in [("ours", []), *right]:
            for part, (is_right, why) in judge(changes).items():
                counter["right parts" if is_right else "FALSE ALARM"] += 1
                lines += [] if is_right else [f"{secret} {part}: {hint} is refused: {why}"]
        for hint, changes in handout.parse_mistakes(module.MISTAKES.get(number, "")):
            judged = judge(changes)
            why = [line for is_right, lines in judged.values() if not is_right for line in lines]
            hints = {line for line in why if line.startswith("Likely mistake: ")}
            outcome = "NOT CAUGHT" if not why else "caught, no hint"
            if hints:
                outcome = "named" if hints == {f"Likely mistake: {hint}"} else "ANOTHER NAMED"
            counter[outcome] += 1
            lines += [] if outcome == "named" else [f"{secret} {number}: {outcome}: {hint}: {why[:4]}"]
    return counter, lines


@pytest.mark.long
@pytest.mark.parametrize("name", handout.NAMES)
def test_every_mistake_is_caught_and_named_and_right_answers_pass(name):
    counter, lines = count(name, "test")
    assert counter["right parts"] and counter["named"]
    bad = [line for line in lines if "caught, no hint" not in line]
    assert not bad


KL = "        return (self.mean.square() + self.log_variance.exp() - 1 - self.log_variance) / 2\n"
HOSTILE = {  # bodies of Gaussian.kl, and what is said of them
    "while True:\n    pass": "endless loop",
    "import time\ntime.sleep(1000)": "endless loop",
    "import os\nos._exit(0)": "is there an exit",
    "import sys\nsys.exit(0)": "SystemExit",
    "import ctypes\nctypes.string_at(0)": "SIGSEGV",
    "tensors = []\nwhile True:\n    tensors.append(torch.zeros(10_000_000))": "allocate memory",
    "import os\nwhile True:\n    os.write(2, b'x' * 2**20)": "File too large",
    "return self.kl()": "RecursionError",
    "return (self.mean.square() +": "was never closed",
    "import torchvision_x": "No module named 'torchvision_x'",
    "return None": "is a return missing",
    "return self.mean.detach()": "yours is no gradient",
    "return self.logvar": "no attribute 'logvar'",
    "import glob\nfor file in glob.glob('out'):\n    open(file, 'a').write('{\"part\": \"2.2a\", \"outputs\": [1]}\\n')\n"
    "return self.mean": "yours",
}
