"""What is written is true: commands that parse, files that exist."""

import re
import shlex
from pathlib import Path

import pytest

import metrics
import sample
import train
import tsne

ROOT = Path(train.__file__).parent
PAGES = ["README.md", "RESULTS.md", "Makefile", "train.py", "sample.py", "metrics.py", "tsne.py", "data.py"]
COMMAND = re.compile(r'python ((train|sample|metrics|tsne)\.py (?:[^`"\n]|"[^"\n]*")*)')
FOUND = [
    (page, match[1].partition("#")[0], match[2])
    for page in PAGES
    for match in COMMAND.finditer((ROOT / page).read_text())
    if not re.search(r"\.\.\.|\$|--help", match[1])
]


@pytest.mark.parametrize("page, command, script", FOUND)
def test_every_command_that_is_written_down_parses(page, command, script, monkeypatch):
    monkeypatch.chdir(ROOT)
    scripts = {"train": train, "sample": sample, "metrics": metrics, "tsne": tsne}
    scripts[script].flags().parse_args(shlex.split(command)[1:])


def test_there_are_commands_to_check():
    assert len(FOUND) > 15 and {script for _, _, script in FOUND} == {"train", "sample", "metrics", "tsne"}


@pytest.mark.parametrize("page", [page for page in PAGES if page.endswith(".md")])
def test_every_link_to_a_file_leads_somewhere(page):
    links = re.findall(r"\]\((?!https?:|#)([^)#]+)\)", (ROOT / page).read_text())
    assert links and all((ROOT / link).exists() for link in links), links
