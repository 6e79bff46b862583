"""The benchmarks run: each has a quick path of a few seconds."""

import pytest

from benchmarks import train as benchmark


def table(text):
    """The last table of a Markdown text, as a list of {column: cell}."""
    rows = [line.strip("| ").split(" | ") for line in text.splitlines() if line.startswith("|")]
    start = max(i for i, row in enumerate(rows) if set("".join(row)) <= set("-|")) - 1
    return [dict(zip(rows[start], row, strict=True)) for row in rows[start + 2 :]]


def test_training_is_compared_with_the_usual_loops(capsys):
    benchmark.main(["--quick", "vae"])
    (row,) = table(capsys.readouterr().out)
    assert (row["model"], row["batch"]) == ("VAE", "64")
    speeds = {name: float(row[name].replace(",", "")) for name in benchmark.LOOPS if row[name] != "–"}
    assert min(speeds.values()) > 0
    expected = speeds["ours"] / speeds["Dataset (a)"]  # of one round the medians are the values themselves
    assert float(row["ours / (a)"]) == pytest.approx(expected, abs=0.01, rel=0.01)
