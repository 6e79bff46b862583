"""The documentation is right: its commands parse, its examples and changes run, and what it names exists."""

import functools
import importlib
import json
import re
import shlex
import sys
from pathlib import Path

import numpy as np
import pytest
from conftest import QUICK, small

import data
import metrics
import models
import sample
import train
import tsne
from assignments import handout
from experiments import claims, reproduce

ROOT = Path(train.__file__).parent
SOURCES = {module.__name__: module for module in (data, models, train, sample, metrics, tsne)}
SCRIPTS = {
    "train.py": train,
    "sample.py": sample,
    "metrics.py": metrics,
    "tsne.py": tsne,
    "experiments/reproduce.py": reproduce,
    "experiments/claims.py": claims,
    "assignments/handout.py": handout,
}
PAGES = ["README.md", "RESULTS.md", "CONTRIBUTING.md", "CHANGELOG.md", "docs/tour.md"]
PAGES += ["docs/measurements.md", "docs/processes.md", "docs/reliability.md", "docs/resize.md"]
PAGES += ["Makefile", "data.py"]
PAGES += [*SCRIPTS, "assignments/README.md"]
PAGES += [f"assignments/{name}/worksheet.md" for name in handout.NAMES]
COMMAND = re.compile(r'python ((\S+\.py) (?:[^`"\n]|"[^"\n]*")*)')
PLACEHOLDER = re.compile(r"\.\.\.|[${]|--help")  # what a shell or Python fills in, or that ends the program


def text_of(page):
    return (ROOT / page).read_text(encoding="utf-8")


def commands_of(text):
    """(command without its comment, script) of each command in a text that can be parsed."""
    for match in COMMAND.finditer(text):
        if match[2] in SCRIPTS and not PLACEHOLDER.search(match[1]):
            yield match[1].partition("#")[0], match[2]


COMMANDS = [(page, *command) for page in PAGES for command in commands_of(text_of(page))]


@pytest.mark.parametrize("page, command, script", COMMANDS)
def test_every_command_in_the_documentation_parses(page, command, script, monkeypatch):
    monkeypatch.chdir(ROOT)
    SCRIPTS[script].flags().parse_args(shlex.split(command)[1:])


def test_there_are_commands_of_every_script():
    assert len(COMMANDS) > 15
    assert {script for _, _, script in COMMANDS} == set(SCRIPTS)


@pytest.mark.parametrize("page", [page for page in PAGES if page.endswith(".md")])
def test_every_link_to_a_file_leads_to_one(page):
    links = re.findall(r"\]\((?!https?:|#)([^)#]+)\)", text_of(page))
    missing = [link for link in links if not (ROOT / page).parent.joinpath(link).exists()]
    assert not missing


@pytest.mark.long
def test_the_commands_of_readme_and_tour_run_one_after_the_other(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("experiments").symlink_to(ROOT / "experiments")
    use = text_of("README.md").split("\n## Use\n")[1].split("\n## ")[0]
    commands = [*commands_of(use), *commands_of(text_of("docs/tour.md"))]
    for command, script in dict.fromkeys(commands):
        argv = shlex.split(command)[1:]
        if script == "train.py" and "--resume" not in argv:
            argv += ["--steps", "2"]
            argv += ["--fit-epochs", "1"] if {"ad", "vad"} & set(argv) else []
        assert SCRIPTS[script].main(argv) == 0, command


# -----------------------------------------------------------------------------------------------------------
# Changes of the code that a page proposes, made in a copy of the six files


@pytest.fixture
def imported(tmp_path, monkeypatch):
    """imported((file, old, new), ...) replaces texts, each of which must stand in its file exactly once, in
    copies of the six files; returns {name: module} of the copies."""

    def import_copies(*changes):
        folder = tmp_path / f"copy{len(list(tmp_path.iterdir()))}"
        folder.mkdir()
        for name in SOURCES:
            text = text_of(f"{name}.py")
            for file, old, new in changes:
                if file == f"{name}.py":
                    assert text.count(old) == 1, f"{file} has {text.count(old)} times {old!r}"
                    text = text.replace(old, new)
            (folder / f"{name}.py").write_text(text, encoding="utf-8")
            monkeypatch.delitem(sys.modules, name, raising=False)
        monkeypatch.syspath_prepend(folder)
        return {name: importlib.import_module(name) for name in SOURCES}

    return import_copies


def final_terms(files, out, argv):
    """The test terms of a run of three updates, trained by these files, without its pictures."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(files["sample"], "draw_run", lambda *run: [])
        assert files["train"].main([*argv, "--steps", "3", "--out", str(out)]) == 0
    return json.loads((out / "summary.json").read_text())["test"]


def test_the_model_of_the_readme_is_an_autoencoder_where_there_is_no_noise(imported, digits, tmp_path):
    section = text_of("README.md").split("\n## Add a model\n")[1].split("\n## ")[0]
    model, entry, flag = re.findall("```python\n(.*?)```", section, re.DOTALL)
    assert len((model + entry + flag).splitlines()) < 30
    table = "MODELS = {\n"
    function = "def add_objective_flags(group):\n"
    banner = "# The table of models, and checkpoints\n"
    files = imported(
        ("models.py", banner, f"{banner}\n{model}\n"),
        ("models.py", table, table + entry),
        ("train.py", function, function + flag),
    )
    argv = ["--data", digits, *QUICK]
    plain = final_terms(files, tmp_path / "ae", ["--model", "ae", *argv])
    silent = final_terms(files, tmp_path / "silent", ["--model", "dae", "--noise", "0", *argv])
    noisy = final_terms(files, tmp_path / "noisy", ["--model", "dae", "--noise", "3", *argv])
    assert silent == plain
    assert noisy["loss"] != plain["loss"]
    loaded = files["models"].load(tmp_path / "noisy" / "best.pt")
    assert type(loaded).__name__ == "DenoisingAutoencoder" and not loaded.training


# -----------------------------------------------------------------------------------------------------------
# The tour

STOP = re.compile(r"^## \d+\. `(\w+)\.py`: ([^\n]*) \((\d+) min\)\n(.*?)(?=^## )", re.MULTILINE | re.DOTALL)
STOPS = STOP.findall(text_of("docs/tour.md"))
DIFF = re.compile("```diff\n- (.*)\n\\+ (.*)\n```")
CHANGES = {}  # {first name of a stop's heading: (file, old line, new line)}
for file, names, _, text in STOPS:
    for old, new in DIFF.findall(text):
        CHANGES[re.findall("`(.*?)`", names)[0]] = (f"{file}.py", old, new)


@pytest.mark.parametrize("file, names, minutes, text", STOPS)
def test_every_stop_of_the_tour_exists_and_has_something_to_change(file, names, minutes, text):
    for name in re.findall("`(.*?)`", names):
        functools.reduce(getattr, name.split("."), SOURCES[file])
    assert list(commands_of(text))
    assert "Expect" in text


def test_the_tour_takes_as_long_as_it_says():
    total = sum(int(minutes) for _, _, minutes, _ in STOPS)
    hours = re.search(r"([\d.]+) hours", text_of("docs/tour.md"))[1]
    assert abs(total / 60 - float(hours)) <= 0.25


@pytest.fixture(scope="module")
def before(digits, tmp_path_factory):
    """The test terms of a small VAE without any change."""
    return final_terms(SOURCES, tmp_path_factory.mktemp("before") / "run", small("vae", digits))


@pytest.mark.parametrize("name", [name for name, (file, _, _) in CHANGES.items() if file != "tsne.py"])
def test_the_changes_of_the_tour_run_and_change_the_result(name, before, imported, digits, tmp_path):
    after = final_terms(imported(CHANGES[name]), tmp_path / "after", small("vae", digits))
    assert after["loss"] != before["loss"]
    if name == "Gaussian.kl":  # half a nat for each of 3 latents, and a constant has no gradient
        assert after["loss"] == pytest.approx(before["loss"] + 1.5, abs=1e-4)
        assert after["reconstruction"] == before["reconstruction"]


def test_the_change_of_tsne_runs_and_changes_the_map(imported):
    (change,) = [change for change in CHANGES.values() if change[0] == "tsne.py"]
    x = np.random.RandomState(0).randn(100, 5)
    before = tsne.TSNE(max_iter=50).fit_transform(x)
    after = imported(change)["tsne"].TSNE(max_iter=50).fit_transform(x)
    assert np.isfinite(after).all() and np.abs(after - before).max() > 1e-3
