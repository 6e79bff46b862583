"""The documentation is right: its commands parse, and the files that it links to exist."""

import re
import shlex
from pathlib import Path

import pytest

import metrics
import sample
import train
import tsne
from assignments import handout
from experiments import claims, reproduce, run

ROOT = Path(train.__file__).parent
SCRIPTS = {
    "train.py": train,
    "sample.py": sample,
    "metrics.py": metrics,
    "tsne.py": tsne,
    "experiments/run.py": run,
    "experiments/reproduce.py": reproduce,
    "experiments/claims.py": claims,
    "assignments/handout.py": handout,
}
PAGES = ["README.md", "RESULTS.md", "docs/measurements.md", "docs/resize.md", "Makefile", "data.py"]
PAGES += [*SCRIPTS, "assignments/README.md"]
PAGES += [f"assignments/{name}/worksheet.md" for name in handout.NAMES]
COMMAND = re.compile(r'python ((\S+\.py) (?:[^`"\n]|"[^"\n]*")*)')
PLACEHOLDER = re.compile(r"\.\.\.|[${]|--help")  # what a shell or Python fills in, or that ends the program
COMMANDS = [
    (page, match[1].partition("#")[0], match[2])
    for page in PAGES
    for match in COMMAND.finditer((ROOT / page).read_text(encoding="utf-8"))
    if match[2] in SCRIPTS and not PLACEHOLDER.search(match[1])
]


@pytest.mark.parametrize("page, command, script", COMMANDS)
def test_every_command_in_the_documentation_parses(page, command, script, monkeypatch):
    monkeypatch.chdir(ROOT)
    argv = shlex.split(command)[1:]
    if "--" in argv:  # run.py passes the rest to train.py
        argv = argv[: argv.index("--")]
    SCRIPTS[script].flags().parse_args(argv)


def test_there_are_commands_of_every_script():
    assert len(COMMANDS) > 15
    assert {script for _, _, script in COMMANDS} == set(SCRIPTS)


@pytest.mark.parametrize("page", [page for page in PAGES if page.endswith(".md")])
def test_every_link_to_a_file_leads_to_one(page):
    links = re.findall(r"\]\((?!https?:|#)([^)#]+)\)", (ROOT / page).read_text(encoding="utf-8"))
    missing = [link for link in links if not (ROOT / page).parent.joinpath(link).exists()]
    assert not missing
