"""reproduce.py: rows fit their recipes, numbers are stored, and the tables are written from them alone."""

import dataclasses
import json
import re
from types import SimpleNamespace

import numpy as np
import pytest
import torch

import data
import metrics
import models
import sample
import train
from experiments import claims, reproduce

IDS = """
    R0.1 R0.2 R0.3 R0.4 R0.5 R1.1 R1.2 R2.1 R2.2 R2.3 R2.3b R2.4 R2.4b R2.5 R2.5b R3.1 R3.2 R3.3 R4.1 R4.2
    R4.3 R4.4 R4.5 R4.6
"""


CONFIG = dict(
    flags={"model": "vae", "data": "some"},
    classes=["0"],
    image_shape=[1, 28, 28],
    units={"loss": "nats"},
    threads=1,
)


def arguments(tmp_path, budget="full", data_dir=None):
    return SimpleNamespace(out=tmp_path, budget=budget, data_dir=data_dir)


def changed(like, **fields):
    return dataclasses.replace(reproduce.ROWS[like], **fields)


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A folder with another RESULTS.md, so that no test writes into the repository."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(reproduce, "HERE", tmp_path / "experiments")
    monkeypatch.setattr(reproduce, "RESULTS", tmp_path / "RESULTS.md")
    (tmp_path / "RESULTS.md").write_text(
        "before\n<!-- r4 -->\nold\n<!-- end -->\nbetween\n"
        + "".join(
            f"<!-- {part} -->\n<!-- end -->\n" for part in ("summary", "claims", "r0", "r1", "r2", "r3")
        )
    )
    return tmp_path


# -----------------------------------------------------------------------------------------------------------
# Rows


@pytest.mark.parametrize("experiment", IDS.split())
def test_every_experiment_of_the_reports_has_a_row(experiment):
    assert any(row.what.split()[0] == experiment for row in reproduce.ROWS.values())


@pytest.mark.parametrize("name", reproduce.ROWS)
def test_the_numbers_of_a_row_come_from_its_run_or_its_commands(name):
    row = reproduce.ROWS[name]
    for path, *commands in reproduce.definitions(row).values():
        key = path.split(".")[0]
        assert key in {"summary", "log", "best", *row.measure}
        assert len(commands) == (key in row.measure)


@pytest.mark.parametrize("name", reproduce.ROWS)
def test_a_cell_shows_at_most_three_numbers_in_a_line(name):
    lines = reproduce.ROWS[name].ours.split("<br>")
    assert len(lines) <= 2 and all(len(reproduce.NUMBER.findall(line)) <= 3 for line in lines)


@pytest.mark.parametrize("name", reproduce.ROWS)
def test_a_row_that_cannot_be_compared_says_why(name):
    row = reproduce.ROWS[name]
    assert row.reported or row.note or not row.report


@pytest.mark.parametrize("name", reproduce.ROWS)
def test_train_takes_the_flags_of_a_row(name, tmp_path):
    row = reproduce.ROWS[name]
    for budget, seeds in (("short", 1), ("full", row.seeds)):
        args = arguments(tmp_path, budget)
        assert len(reproduce.plan(row, args)) == seeds
        reproduce.check(row, args)  # refuses what train.py would refuse


@pytest.mark.parametrize("name", reproduce.ROWS)
def test_the_commands_of_a_row_name_scripts_and_rows_that_exist(name):
    row = reproduce.ROWS[name]
    for line in [*row.measure.values(), *row.pictures]:
        assert {name.rstrip("*") for name in re.findall(r"{([^}]+)}", line)} <= {"run", *reproduce.ROWS}
        assert "*}" not in line or line.startswith("claims.py")  # it alone takes several judges
        assert line.split()[0] in reproduce.SCRIPTS


@pytest.mark.parametrize("text", reproduce.CLAIMS.values(), ids=reproduce.CLAIMS)
def test_a_claim_is_tested_as_soon_as_its_rows_are_measured(text):
    quoted = reproduce.CLAIMED.findall(text)
    results = {row: dict(tenth=False, numbers={}) for row, _ in quoted}
    for k, (row, number) in enumerate(quoted):
        assert number in reproduce.definitions(reproduce.ROWS[row])
        results[row]["numbers"][number] = [1000.0 + k]  # larger than all numbers in the claims
    measured, word = reproduce.check_claim(text, results)
    assert word in ("holds (one seed)", "fails (one seed)")
    signs = re.findall("[<>] ", text)
    numbers = [float(digits) for digits in re.findall(r"(?:^| )(\d{4})\b", measured)]
    assert len(signs) >= 1 and len(numbers) == len(quoted)


def test_a_report_brings_the_judges_that_its_rows_need():
    def choose(*names):
        return [row.name for row in reproduce.choose(names)]

    assert {"r0-judge", "r4-classifier", "r4-cvae"} <= set(choose("r4"))
    assert choose("r0-conv-vae") == ["r0-judge", "r0-conv-vae"]
    assert choose("r1-ad") == ["r1-judge", "r1-ad"]  # which takes all seeds of its judge
    assert choose() == list(reproduce.ROWS)
    assert choose("r2-text2text") == ["r2-text2text"]  # and not r2-text2text-deep


def test_a_budget_of_a_tenth_is_for_heavy_rows(tmp_path):
    def updates(name, budget):
        training = reproduce.plan(reproduce.ROWS[name], arguments(tmp_path, budget))[0]
        flags, _ = train.read_flags(training.argv)
        return flags.steps or flags.epochs

    assert (updates("r0-conv-ae", "tenth"), updates("r0-conv-ae", "full")) == (843, 8430)
    assert (updates("r3-vae-z6", "tenth"), updates("r3-vae-z6", "full")) == (5, 50)
    assert updates("r4-conv-ae", "tenth") == updates("r4-conv-ae", "full")


def test_whole_data_sets_serve_where_they_are(tmp_path):
    def data_of(name):
        training = reproduce.plan(reproduce.ROWS[name], arguments(tmp_path, data_dir=str(tmp_path)))[0]
        return train.read_flags(training.argv)[0].data

    (tmp_path / "quickdraw").mkdir()
    for n, expected in ((1000, "quickdraw5k"), (1001, "quickdraw")):  # no more than here, or more
        np.save(tmp_path / "quickdraw" / "rabbit.npy", np.zeros((n, 784), np.uint8))
        assert data_of("r0-conv-ae") == expected
    assert data_of("r3-vae-z6") == "mnist"
    assert data_of("r1-ad") == "fashion2k"  # has no whole
    assert data_of("r2-gan") == "butterflies1k"
    (tmp_path / "butterflies").mkdir()
    assert data_of("r2-gan") == str(tmp_path / "butterflies")
    (pictures,) = reproduce.plan(
        reproduce.ROWS["r2-image2text"], arguments(tmp_path, "short", str(tmp_path))
    )
    assert train.read_flags(pictures.argv)[0].data_dir == str(tmp_path)


@pytest.mark.parametrize("clip, is_refused", [("1", True), (None, False)])
def test_a_flag_that_is_younger_than_a_run_had_its_default(tmp_path, clip, is_refused):
    row = changed("r4-conv-vae", flags=f"--clip {clip}" if clip else "")
    planned = reproduce.plan(row, arguments(tmp_path))[:1]
    flags = vars(train.read_flags(planned[0].argv)[0]).copy()
    del flags["clip"]  # as if that flag had not existed
    planned[0].folder.mkdir()
    (planned[0].folder / "config.json").write_text(json.dumps(CONFIG | {"flags": flags}))
    if is_refused:
        with pytest.raises(data.Mistake, match="was trained with --clip None, not 1.0"):
            reproduce.check(row, arguments(tmp_path))
    else:
        reproduce.check(row, arguments(tmp_path))


# -----------------------------------------------------------------------------------------------------------
# Numbers


def test_a_number_is_looked_up():
    measurements = dict(a=dict(b=[1.0, 2.0, "4"]), c=None)
    assert reproduce.look_up("a.b.1", measurements) == 2
    assert reproduce.look_up("a.b.-1", measurements) == 4
    assert reproduce.look_up("c", measurements) is None
    assert reproduce.look_up("a.b.3", measurements) is None  # a log of fewer epochs


@pytest.mark.parametrize("path", ["a.d", "a.b.x"])
def test_a_number_that_does_not_exist_is_refused(path):
    with pytest.raises(data.Mistake, match="there is no"):
        reproduce.look_up(path, dict(a=dict(b=[1.0])))


def test_a_row_is_trained_and_measured_once(here, capsys):
    argv = ["r4-conv-ae", "--budget", "short"]
    assert reproduce.main(argv) == 0
    out = here / "runs" / "reproduce-short"
    path = out / "results" / "r4-conv-ae.json"
    summary_path = out / "r4-conv-ae" / "summary.json"
    result = json.loads(path.read_text())
    summary = json.loads(summary_path.read_text())
    assert result["numbers"]["summary.test.mse"] == [summary["test"]["mse"]]
    assert result["numbers"]["pca.mse.64"] == [pytest.approx(0.032677, abs=1e-6)]
    assert result["threads"] == data.read_config(out / "r4-conv-ae")["threads"]
    assert result["steps"] == [10] and result["data"] == "quickdraw5k" and len(result["seconds"]) == 1
    table = (out / "table.md").read_text()
    assert table.startswith("# 10 updates each: these numbers mean nothing")
    assert f"MSE test {summary['test']['mse']:.4g}, validation" in table
    assert (out / "r4-conv-ae" / "untrained.png").exists()  # one of the row's pictures
    assert (here / "RESULTS.md").read_text().startswith("before\n<!-- r4 -->\nold")  # not of a short budget

    times = [file.stat().st_mtime_ns for file in (path, summary_path)]
    assert reproduce.main([*argv]) == 0
    assert times == [file.stat().st_mtime_ns for file in (path, summary_path)]
    path.unlink()  # as if it had been stopped before measuring
    assert reproduce.main([*argv]) == 0
    assert json.loads(path.read_text())["numbers"] == result["numbers"]


STORED = sorted((reproduce.HERE / "results").glob("*.json"))


@pytest.mark.parametrize("path", STORED, ids=[path.stem for path in STORED])
def test_every_stored_result_is_of_its_row(path):
    result = reproduce.read_result(path)
    row = reproduce.ROWS[path.stem]
    assert (result["row"], result["command"]) == (row.name, reproduce.train_command(row))
    assert result["recipe"] == reproduce.read_recipe(row)
    assert result["numbers"].keys() == result["defined"].keys()
    assert all(len(values) == len(result["seconds"]) for values in result["numbers"].values())


def write_run(folder, flags=CONFIG["flags"]):
    """Writes the files of a finished run that reproduce.py reads."""
    folder.mkdir(parents=True)
    summary = dict(data="some", seconds=60.0, steps=10, best_epoch=2)
    (folder / "summary.json").write_text(json.dumps(summary))
    (folder / "config.json").write_text(json.dumps(CONFIG | {"flags": flags}))
    (folder / "best.pt").write_bytes(b"weights")


def test_the_log_is_measured_by_epoch_and_in_the_best_one(tmp_path):
    write_run(tmp_path / "run")  # its best epoch is the second
    lines = ["0,0,valid,9", "1,5,train,4", "1,5,valid,5", "2,10,train,2", "2,10,valid,3", "3,15,train,1"]
    (tmp_path / "run" / "log.csv").write_text("\n".join(["epoch,step,split,loss [nats/image]", *lines]))
    measurements = reproduce.measure(reproduce.ROWS["r3-decoder1"], tmp_path / "run", args=None)
    expected = {"best.train.loss": 2, "best.valid.loss": 3, "log.train.loss.-1": 1, "log.valid.loss.0": 9}
    assert {path: reproduce.look_up(path, measurements) for path in expected} == expected


@pytest.fixture
def judged(here, monkeypatch):
    """A row and its judge, each with a finished run. The value is a list of the run folders measured so far,
    whose FID is always 7."""
    row = reproduce.Row(
        name="r4-vae",
        what="a VAE",
        recipe="r4-conv-vae",
        seeds=3,
        measure=dict(j="metrics.py {run} --features classifier:{r0-judge}"),
        numbers=dict(fid="j.fid"),
        ours="FID-c {fid}",
    )
    monkeypatch.setattr(reproduce, "ROWS", {"r0-judge": reproduce.ROWS["r0-judge"], "r4-vae": row})
    measured = []

    def measure(row, folder, args):
        measured.append(folder.name)
        return dict(j=dict(fid=7.0, other=8.0))

    monkeypatch.setattr(reproduce, "measure", measure)
    write_run(here / "r0-judge")
    write_run(here / "r4-vae")
    return measured


def collect(args):
    reproduce.collect(reproduce.ROWS["r4-vae"], args)


OTHER_FORMS = [
    dict(numbers=None),
    dict(numbers=dict(fid=["x"])),
    dict(seconds=[]),
    dict(defined=None),
    dict(gpu=None),
]


@pytest.mark.parametrize("damage", ["[]", "{}", "<<<<<<< HEAD", *OTHER_FORMS])
def test_a_damaged_result_is_not_replaced(here, judged, capsys, damage):
    path = here / "experiments" / "results" / "r4-vae.json"
    collect(arguments(here))
    text = path.read_text()
    path.write_text(damage if isinstance(damage, str) else json.dumps(json.loads(text) | damage))
    damaged = path.read_text()
    for read in (reproduce.read_results, collect):
        with pytest.raises(data.Mistake, match=f"{path} is damaged or too old: restore it"):
            read(arguments(here))
    assert path.read_text() == damaged  # which may hold more seeds than there are here
    path.unlink()
    collect(arguments(here))
    assert path.read_text() == text


def test_a_row_that_fails_stops_no_other(here, judged, capsys, monkeypatch):
    monkeypatch.setitem(
        reproduce.ROWS, "r4-bad", changed("r4-vae", name="r4-bad", ours="{j.no}", numbers={})
    )
    write_run(here / "r4-bad")
    args = arguments(here)
    monkeypatch.setattr(reproduce, "check", lambda row, args: None)
    rows = [reproduce.ROWS["r4-bad"], reproduce.ROWS["r4-vae"]]
    args.no_training = True
    assert reproduce.reproduce_report(rows, args) == ["r4-bad"]
    assert "r4-bad: error: there is no no of j.no" in capsys.readouterr().err
    assert reproduce.read_results(args)["r4-vae"]["numbers"] == dict(fid=[7.0])


def test_a_result_is_measured_once(here, judged):
    collect(arguments(here))
    collect(arguments(here))
    assert judged == ["r4-vae"]


def test_a_result_is_measured_again_when_its_judge_has_changed(here, judged):
    collect(arguments(here))
    (here / "r0-judge" / "best.pt").write_bytes(b"other weights")
    collect(arguments(here))
    assert judged == ["r4-vae", "r4-vae"]


def test_a_result_is_measured_again_when_its_row_has_changed(here, judged, monkeypatch):
    args = arguments(here)
    collect(args)
    numbers = dict(fid="j.other", same="j.fid")
    monkeypatch.setitem(reproduce.ROWS, "r4-vae", changed("r4-vae", numbers=numbers))
    assert reproduce.read_results(args)["r4-vae"]["numbers"] == {}  # fid means something else now
    collect(args)
    assert reproduce.read_results(args)["r4-vae"]["numbers"] == dict(fid=[8.0], same=[7.0])


def test_numbers_stay_when_others_are_added(here, judged, monkeypatch):
    collect(arguments(here))
    numbers = dict(fid="j.fid", other="k.fid")
    measure = reproduce.ROWS["r4-vae"].measure | dict(k="metrics.py {run} -n 9")
    monkeypatch.setitem(reproduce.ROWS, "r4-vae", changed("r4-vae", numbers=numbers, measure=measure))
    assert reproduce.read_results(arguments(here))["r4-vae"]["numbers"] == dict(fid=[7.0])
    measure = dict(j="metrics.py {run} -n 9")
    monkeypatch.setitem(reproduce.ROWS, "r4-vae", changed("r4-vae", measure=measure))
    assert reproduce.read_results(arguments(here))["r4-vae"]["numbers"] == {}


@pytest.mark.parametrize("change", [dict(flags="--beta 4"), dict(recipe="r4-rnn-vae")])
def test_a_result_of_another_recipe_is_left_out(here, judged, monkeypatch, capsys, change):
    collect(arguments(here))
    assert list(reproduce.read_results(arguments(here))) == ["r4-vae"]
    monkeypatch.setitem(reproduce.ROWS, "r4-vae", changed("r4-vae", **change))
    assert reproduce.read_results(arguments(here)) == {}
    assert capsys.readouterr().err == "r4-vae: the row or its recipe has changed: run it again\n"


def test_a_run_with_other_flags_than_its_row_stops_no_other(here, judged, capsys, monkeypatch):
    out = here / "runs" / "reproduce-full"
    out.mkdir(parents=True)
    (here / "r4-vae").rename(out / "r4-vae")
    monkeypatch.setattr(reproduce, "CLAIMS", {})
    other = changed("r4-vae", name="r4-other", measure={}, numbers={}, ours="measured")
    monkeypatch.setitem(reproduce.ROWS, "r4-other", other)
    flags = vars(train.read_flags(reproduce.plan(other, arguments(out))[0].argv)[0])
    write_run(out / "r4-other", json.loads(json.dumps(flags)))
    assert reproduce.main(["r4", "--no-training"]) == 1
    out, error = capsys.readouterr()
    assert re.search("r4-vae: error: .*r4-vae was trained with --.*, not .*: delete it, or move it", error)
    assert "r4-other: measured" in out


def test_a_full_run_replaces_seeds_with_a_tenth_of_the_updates(here, judged):
    for seed in (1, 2):
        write_run(here / f"r4-vae,seed={seed}")
    args = arguments(here)
    collect(args)
    path = here / "experiments" / "results" / "r4-vae.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"tenth": True}))
    (here / "r4-vae,seed=2" / "summary.json").unlink()
    collect(args)
    result = reproduce.read_results(args)["r4-vae"]
    assert len(result["seconds"]) == 2 and not result["tenth"]


def test_a_result_needs_a_judge_that_has_finished(here, judged):
    (here / "r0-judge" / "summary.json").unlink()
    with pytest.raises(data.Mistake, match="its judge .*r0-judge has not finished"):
        collect(arguments(here))
    assert judged == []


def test_a_number_is_not_replaced_by_none(here, judged, monkeypatch):
    collect(arguments(here))
    text = (here / "experiments" / "results" / "r4-vae.json").read_text()
    (here / "r0-judge" / "best.pt").write_bytes(b"other weights")
    monkeypatch.setattr(reproduce, "measure", lambda row, folder, args: dict(j=dict(fid=None)))
    with pytest.raises(data.Mistake, match="the stored result is kept: fid is missing"):
        collect(arguments(here))
    assert (here / "experiments" / "results" / "r4-vae.json").read_text() == text


def test_a_part_of_a_data_set_does_not_replace_the_whole(here, judged, monkeypatch, capsys):
    monkeypatch.setattr(reproduce, "whole_data_flags", lambda row, args: ["--data", args.data_dir])
    collect(arguments(here, data_dir="whole"))
    monkeypatch.setattr(reproduce, "whole_data_flags", lambda row, args: [])
    collect(arguments(here))
    assert "the stored result is kept: it is of the whole data set" in capsys.readouterr().out
    assert judged == ["r4-vae"]


def test_fewer_seeds_do_not_replace_more(here, judged, capsys):
    for seed in (1, 2):
        write_run(here / f"r4-vae,seed={seed}")
    args = arguments(here)
    collect(args)
    (here / "r4-vae,seed=2" / "summary.json").unlink()
    collect(args)
    assert len(reproduce.read_results(args)["r4-vae"]["seconds"]) == 3
    kept = "r4-vae: the stored result is kept: it has 3 seeds, of which 2 have finished here"
    assert kept in capsys.readouterr().out


def test_no_two_of_the_script_work_on_one_row(here, judged, capsys):
    folder = here / "runs" / "reproduce-full" / "locks" / "r4-vae"
    folder.mkdir(parents=True)
    with data.lock(folder):
        assert reproduce.main(["r4-vae", "--no-training"]) == 1
    assert "another process" in capsys.readouterr().err


def test_ctrl_c_ends_the_measuring_of_all_rows(here, judged, monkeypatch):
    started = []

    def collect(row, args):
        started.append(row.name)
        raise KeyboardInterrupt

    monkeypatch.setattr(reproduce, "collect", collect)
    assert reproduce.main(["r4", "--no-training"]) == 130
    assert started == ["r0-judge"]


@pytest.mark.parametrize("mark", ["<!-- end -->", "<!-- r4 -->"])
def test_no_text_is_lost_where_a_mark_is_missing(here, capsys, mark):
    text = (here / "RESULTS.md").read_text().replace(mark, "", 1)
    (here / "RESULTS.md").write_text(text)
    assert reproduce.main(["r4-lstm-ae", "--no-training"]) == 1
    assert re.search("RESULTS.md needs one <!-- r4 --> with its <!-- end -->\n", capsys.readouterr().err)
    assert (here / "RESULTS.md").read_text() == text


def test_a_training_that_fails_is_reported_with_its_reason(here, capsys):
    argv = ["r4-conv-ae", "--budget", "short"]
    folder = here / "runs" / "reproduce-short" / "r4-conv-ae"
    folder.mkdir(parents=True)
    (folder / "last.pt").write_bytes(b"no checkpoint")
    assert reproduce.main(argv) == 1
    assert re.search(
        "r4-conv-ae: FAILED, status 1: train.py: error: .* \\(more in .*r4-conv-ae.log\\)",
        capsys.readouterr().err,
    )


@pytest.mark.parametrize("text", ["", "{}", "[]", '{"data": "x", "seconds": 1}'])
def test_a_damaged_summary_is_one_line(here, capsys, text):
    folder = here / "runs" / "reproduce-short" / "r4-conv-ae"
    folder.mkdir(parents=True)
    (folder / "summary.json").write_text(text)
    (folder / "config.json").write_text(json.dumps(CONFIG))
    assert reproduce.main(["r4-conv-ae", "--budget", "short", "--no-training"]) == 1
    assert len(capsys.readouterr().err.splitlines()) == 1


@pytest.mark.parametrize(
    "argv, message",
    [
        ("r9", "no row or report r9: they are listed in experiments/rows.toml"),
        ("r4-convae", "no row or report r4-convae: did you mean r4-conv-ae?"),
        ("r4 --data-dir nowhere", "nowhere is not a folder"),
    ],
)
def test_wrong_use_is_refused_in_one_line(here, capsys, argv, message):
    assert reproduce.main(argv.split()) == 1
    assert capsys.readouterr().err == f"reproduce.py: error: {message}\n"


# -----------------------------------------------------------------------------------------------------------
# Tables


def make_result(name, numbers, seeds=3, **fields):
    row = reproduce.ROWS[name]
    result = dict(command=reproduce.train_command(row), recipe=reproduce.read_recipe(row))
    result |= dict(tenth=False, data="some", of_data_dir=False, gpu=[None] * seeds, seconds=[60.0] * seeds)
    return result | dict(defined=reproduce.definitions(row), numbers=numbers) | fields


def write_result(here, name, *args):
    folder = here / "experiments" / "results"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{name}.json").write_text(json.dumps(make_result(name, *args)))


def test_tables_come_from_the_results_alone(here):
    numbers = dict.fromkeys(reproduce.definitions(reproduce.ROWS["r4-conv-ae"]), [2.0])
    write_result(here, "r4-conv-ae", numbers | {"summary.test.mse": [1.0, 2.0, 3.0], "map.clusters": [90.0]})
    write_result(here, "r4-lstm-ae", {"summary.test.mse": [1.5], "map.clusters": [80.0]}, 1)
    numbers = dict.fromkeys(reproduce.definitions(reproduce.ROWS["r4-conv-vae"]), [7.0])
    write_result(here, "r4-conv-vae", numbers, 2)
    assert reproduce.main(["r4-lstm-ae", "--no-training"]) == 0
    text = (here / "RESULTS.md").read_text()
    assert text.startswith("before\n<!-- r4 -->\n| experiment |")
    assert "\nold\n" not in text and "\nbetween\n" in text
    assert "| – | MSE test 2.0 ± 1.0, validation 2<br>64 principal components: 2 |  | some; 3, 1 |" in text
    assert "| beaten | some; 2 of 3, 1 |" in text  # one seed has not been run yet
    assert "MSE test 1.5, validation –<br>" in text  # which has not been measured yet
    assert "own class: conv 90% > LSTM 80% | holds (one seed) |" in text
    assert "- **beaten** 1: `r4-conv-vae`\n" in text
    assert "`r4-classifier` (it judged real drawings with noise)" in text
    assert (
        "effective number of 100 species – < 50; of our GAN – | untested: `r2-gan` is not trained yet |"
        in text
    )
    assert text.count("<br>`r4-") == sum(name.startswith("r4-") for name in reproduce.ROWS)


def row_with(**fields):
    return reproduce.Row("x", what="x", ours="{a}", **fields)


@pytest.mark.parametrize(
    "fields, values, word",
    [
        (dict(reported=dict(a=100)), [100.9], "reached"),
        (dict(reported=dict(a=100)), [101.1], "worse"),
        (dict(reported=dict(a=100)), [98.9], "beaten"),
        (dict(reported=dict(a=100), higher=True), [98.9], "worse"),
        (dict(reported=dict(a=100), margin=2), [98.9], "reached"),
        (dict(reported=dict(a=100)), [98.0, 106.0], "reached"),  # 102 ± 4: two standard errors are 8
        (dict(reported=dict(a=100, b=9)), [90.0], "unfinished"),  # b has not been measured
        (dict(report="some"), [1.0], "not comparable"),
        (dict(), [1.0], ""),
    ],
)
def test_the_verdict_on_a_row(fields, values, word):
    assert reproduce.verdict(row_with(**fields), dict(tenth=False, numbers=dict(a=values))) == word


def test_a_tenth_of_the_updates_gets_no_verdict():
    result = dict(tenth=True, numbers=dict(a=[1.0]))
    assert reproduce.verdict(row_with(reported=dict(a=1)), result) == "unfinished"
    assert reproduce.verdict(row_with(reported=dict(a=1)), None) == "unfinished"


@pytest.mark.parametrize(
    "text, measured, word",
    [
        ("A {r[a]} < B {r[b]} nats", "A 1 < B 2 nats", "holds (one seed)"),
        ("A {r[a]} > B {r[b]}", "A 1 < B 2", "fails (one seed)"),
        ("{r[a]} < {r[b]} > {r[a]}", "1 < 2 > 1", "holds (one seed)"),
        ("{r[a]} > 0.5, < 2; not {r[b]}%", "1 > 0.5, < 2; not 2%", "holds (one seed)"),
        ("{r[a]}% > 50%", "1% < 50%", "fails (one seed)"),
        ("{r[a]} < {r[b]}; beside {s[a]}, {t[a]}", "1 < 2; beside –, 1", "holds (one seed)"),  # not compared
        ("{r[e]} > 1.2 nats", "2.50 ± 0.71 > 1.2 nats", "holds"),  # the error is .5
        ("{r[b]} < {r[c]}", "2 ≈ 3.0 ± 2.0", "undecided (one seed)"),
        ("{r[b]} < {r[c]} < {r[a]}", "2 ≈ 3.0 ± 2.0 ≈ 1", "undecided (one seed)"),
        ("{r[d]} < {r[a]}", "– < 1", "untested: `r` is not measured yet"),
        ("{r[f]} < 4", "3 (1 of 2) < 4", "untested: `r` lacks a seed's number"),
        ("{s[a]} < {r[a]}", "– < 1", "untested: `s` is not trained yet"),
        ("{t[a]} < 2", "1 < 2", "untested: `t` had a tenth of its updates"),
    ],
)
def test_a_claim_is_a_comparison(text, measured, word):
    numbers = dict(a=[1.0], b=[2.0], c=[1.0, 5.0, 3.0], d=[None], e=[2.0, 3.0], f=[None, 3.0])
    results = dict(r=dict(tenth=False, numbers=numbers), t=dict(tenth=True, numbers=numbers))
    assert reproduce.check_claim(text, results) == (measured, word)


def test_a_claim_that_compares_nothing_is_refused():
    results = dict(r=dict(tenth=False, numbers=dict(a=[1.0], b=[2.0])))
    with pytest.raises(data.Mistake, match="compares nothing"):
        reproduce.check_claim("{r[a]}>{r[b]}", results)


@pytest.mark.parametrize(
    "values, text",
    [([189.21, 188.77], "188.99 ± 0.31"), ([51.0, 63.0], "57.0 ± 8.5"), ([1000.0, 1500.0], "1250 ± 354"),
     ([0.0376112, 0.0376121], "0.037612 ± 0.000001"), ([0.02354], "0.02354"), ([2.0, 2.0], "2"),
     ([None, 3.0], "3 (1 of 2)"), ([None], "–")],
)  # fmt: skip
def test_a_mean_has_the_digits_that_its_deviation_supports(values, text):
    assert reproduce.cell(values) == text


def test_the_table_says_a_tenth_of_the_updates_and_a_gpu():
    row = changed("r4-conv-ae", ours="{a}", seeds=1)
    result = make_result("r4-conv-ae", dict(a=[None]), 1, tenth=True, of_data_dir=True, gpu=["some GPU"])
    line = reproduce.table_row(row, result)
    assert line.endswith("| some of DIR; 1 (1 on a GPU), 1, **a tenth of the updates** |\n")
    result |= dict(gpu=[None, "some GPU", None], seconds=[60.0, 6.0, 120.0])
    text = reproduce.describe_runs(row, result)
    assert text == "some of DIR; 3 (1 on a GPU), 1.5, **a tenth of the updates**"


# -----------------------------------------------------------------------------------------------------------
# Claims


@pytest.mark.parametrize(
    "at, within, epoch", [(70, None, 0), (91, None, None), (None, 20, 1), (None, 30, 1), (None, 50, 0)]
)
def test_reach_is_the_first_epoch_of_that_value(tmp_path, at, within, epoch):
    rows = "epoch,step,split,characters [%]", "0,0,valid,90", "1,9,train,99", "1,9,valid,60", "2,18,valid,75"
    (tmp_path / "log.csv").write_text("\n".join(rows))
    args = SimpleNamespace(term="characters", at=at, within=within)
    assert claims.reach(SimpleNamespace(folder=tmp_path), args) == dict(epoch=epoch)


def test_gray_pixels_are_the_inked_ones_that_are_neither_black_nor_white():
    images = torch.tensor([0.0, 0.05, 0.2, 0.3, 0.7, 0.9])  # four have ink, and two of these are gray
    assert claims.gray_share(images) == pytest.approx(0.5)


class Latents:
    """A run whose pictures are its latents: z [n, 1] -> [n, 1, 1, 1]."""

    folder = "somewhere"
    classes = ["low", "high"]
    dataset = SimpleNamespace(test=SimpleNamespace(x=torch.zeros(4)))
    model = SimpleNamespace(
        conditional=True,
        decode=lambda z: z.view(-1, 1, 1, 1),
        sample=lambda n, labels: torch.linspace(0, 1, n).view(-1, 1, 1, 1),
    )

    def latents(self, split, index):
        if split == "test":
            return torch.tensor([[0.2], [0.4], [0.6], [1.2]])
        return torch.where(index < 120, 0.0, 0.9)[:, None]


def two_judges(low, high):
    """A stand-in for claims.classify. Each judge names a picture `high` from its threshold on."""

    def classify(run, args, images):
        x = images.flatten()
        return torch.stack([x >= low, x >= high]).long(), torch.stack([x / 2, x / 2])

    return classify


def test_halfway_between_two_classes(monkeypatch):
    run = Latents()
    run.classes = ["0", "trouser", "2", "dress", "4", "5", "shirt"]
    run.dataset = SimpleNamespace(train=SimpleNamespace(y=torch.tensor([1] * 120 + [6] * 120 + [3])))

    def classify(run, args, images):
        x = images.flatten()  # the first judge sees a dress from 0.29 to 0.59, the second none
        first = torch.where(x < 0.29, 1, torch.where(x < 0.59, 3, 6))
        return torch.stack([first, torch.where(x < 0.5, 1, 6)]), torch.ones(2, len(x))

    monkeypatch.setattr(claims, "classify", classify)
    answer = claims.halfway(run, SimpleNamespace(n=4, seed=0))  # from 0 to 0.9
    assert answer["dress"] == [0, 0, 50, 50, 0, 0, 0]
    assert answer["middle"] == dict.fromkeys(run.classes, 0) | dict(trouser=50, dress=50)


def test_scaled_latents_keep_their_class_or_change_it(monkeypatch):
    monkeypatch.setattr(claims, "classify", two_judges(0.5, 0.15))
    answer = claims.scaled(Latents(), SimpleNamespace(n=4, seed=0))
    # .2 .4 .6 1.2; halved: .1 .2 .3 .6, of which each judge names one anew; by 1.5: the first judge, another
    assert answer == dict(halved=75, grown=87.5, sure=pytest.approx([15, 30, 45]))


def test_samples_that_are_named_as_asked(monkeypatch):
    # asked for: low high low high low; samples 0, .25, .5, .75, 1, of which the first judge names the last
    # three high, the second all but the first
    monkeypatch.setattr(claims, "classify", two_judges(0.5, 0.25))
    answer = claims.named(Latents(), SimpleNamespace(n=5, seed=0))
    assert answer["accuracy"] == pytest.approx([100 / 3, 75])
    assert answer["confidence"] == pytest.approx([25, 25])
    assert answer["mean"] == pytest.approx(dict(accuracy=50, confidence=25))


def test_noise_is_judged_beside_real_pictures(run, capsys):
    judge = run("classifier")
    answers = {}
    for model in ("ad", "vad"):
        argv = ["noise", str(run(model)), "--judge", str(judge), "-n", "50", "--seed", "3"]
        capsys.readouterr()
        assert claims.main(argv) == 0
        (answers[model],) = json.loads(capsys.readouterr().out)
    classifier = models.load(judge / "best.pt")
    decoder = models.load(run("ad") / "best.pt")
    torch.manual_seed(3)
    images = decoder.decode(torch.randn(50, 3))
    real, _ = sample.Run(run("ad")).dataset.test.batch(slice(None))
    for name, x in (("confidence", images), ("real", real)):
        expected = 100 * classifier.predict(x).amax(1).mean().item()
        assert answers["ad"][name] == pytest.approx(expected, rel=1e-5)
    # N(0, I) is what a Gaussian variational auto-decoder samples itself
    argv = [
        str(run("vad")),
        "--features",
        f"classifier:{judge}",
        "-n",
        "50",
        "--seed",
        "3",
        "--sets",
        "1",
        "--json",
    ]
    assert metrics.main(argv) == 0
    (report,) = json.loads(capsys.readouterr().out)
    assert answers["vad"]["fid"] == pytest.approx(report["sets"]["fid"], rel=1e-6)
    assert answers["ad"]["fid"] != answers["vad"]["fid"]


@pytest.mark.parametrize(
    "claim, model, flags",
    [
        ("halfway", "classifier", "--judge JUDGE"),
        ("scaled", "classifier", "--judge JUDGE"),
        ("noise", "classifier", "--judge JUDGE"),
        ("noise", "ad", "--judge JUDGE -n 1"),  # FID needs two pictures
        ("named", "cvae", "--judge JUDGE -n 9"),  # of ten classes
        ("reach", "ad", "--term loss --within 5"),  # has no validation loss
        ("reach", "vae", "--term kl_per_dimension --at 1"),  # a list in each epoch
    ],
)
def test_claims_refuse_what_they_cannot_measure(claim, model, flags, run, refused):
    refused(claims.main, [claim, run(model), *flags.replace("JUDGE", str(run("classifier"))).split()])


def test_confidence_in_samples_that_are_not_named_as_asked(monkeypatch):
    monkeypatch.setattr(claims, "classify", two_judges(0.5, 0.25))
    answer = claims.wrong(Latents(), SimpleNamespace(n=5, seed=0))
    # wrong are .25, .5 and 1 by the first judge, .5 and 1 by the second; a confidence is half of these
    assert answer == dict(least=12.5, median=25, most=50, from_40_to_60=40)


def test_principal_components_agree_with_scikit_learn():
    sklearn = pytest.importorskip("sklearn.decomposition")
    dataset = data.load("quickdraw5k")
    x, test = (split.x.flatten(1).numpy() / 255 for split in (dataset.train, dataset.test))
    pca = sklearn.PCA(64, svd_solver="arpack", random_state=0).fit(x)
    expected = np.square(test - pca.inverse_transform(pca.transform(test))).mean()
    answer = claims.pca(SimpleNamespace(dataset=dataset), None)
    assert answer["mse"][64] == pytest.approx(expected, rel=1e-4)
    assert answer["rmse"][64] == pytest.approx(255 * expected**0.5, rel=1e-4)
    assert answer["mse"][0] == pytest.approx(np.square(test - x.mean(0)).mean(), rel=1e-4)
