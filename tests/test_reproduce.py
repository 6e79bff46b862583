"""The pipeline of RESULTS.md: rows fit their recipes, numbers are kept, tables come from them alone."""

import json
import re
import string
from types import SimpleNamespace

import numpy as np
import pytest
import torch

import data
import train
from experiments import claims, reproduce, run

IDS = (
    "R0.1 R0.2 R0.3 R0.4 R0.5 R1.1 R1.2 R2.1 R2.2 R2.3 R2.3b R2.4 R2.4b R2.5 R2.5b R3.1 R3.2 R3.3 R4.1 R4.2 "
)
IDS += "R4.3 R4.4 R4.5 R4.6"


def arguments(tmp_path, budget="full", data_dir=None):
    return SimpleNamespace(out=tmp_path, budget=budget, data_dir=data_dir)


def fields(text):
    return {field for _, field, _, _ in string.Formatter().parse(text) if field}


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A folder with a RESULTS.md of its own, so that a test writes nothing into the repository."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(reproduce, "HERE", tmp_path / "experiments")
    monkeypatch.setattr(reproduce, "RESULTS", tmp_path / "RESULTS.md")
    (tmp_path / "docs").mkdir()
    (tmp_path / "RESULTS.md").write_text(
        "before\n<!-- r4 -->\nold\n<!-- end -->\nbetween\n"
        + "".join(f"<!-- {part} -->\n<!-- end -->\n" for part in ("claims", "r0", "r1", "r2", "r3"))
    )
    return tmp_path


# -----------------------------------------------------------------------------------------------------------
# Rows


@pytest.mark.parametrize("experiment", IDS.split())
def test_every_experiment_of_the_reports_has_a_row(experiment):
    assert any(row["what"].split()[0] == experiment for row in reproduce.ROWS.values())


@pytest.mark.parametrize("name", reproduce.ROWS)
def test_a_row_is_of_a_recipe_that_takes_its_flags_and_tells_only_what_it_keeps(name, tmp_path):
    row = reproduce.ROWS[name]
    assert fields(row["ours"]) <= row["numbers"].keys()
    known = "what report note recipe flags seeds heavy whole floor data valid_fraction "
    known += "measure numbers ours pictures"
    assert row.keys() <= set(known.split())
    for budget in ("short", "full"):
        runs = reproduce.trainings(name, arguments(tmp_path, budget))
        assert len(runs) == (0 if "floor" in row else 1 if budget == "short" else row.get("seeds", 1))
        run.check(runs)  # refuses what train.py would
    for line in [*row.get("measure", {}).values(), *row.get("pictures", ())]:
        assert set(re.findall(r"{([^}]+)}", line)) <= {"run", *reproduce.ROWS}
        assert line.split(".py ")[0] in reproduce.SCRIPTS


def test_claims_speak_of_numbers_that_rows_keep():
    for claim in reproduce.CLAIMS:
        for row, number in (field.rstrip("]").split("[") for field in fields(claim["ours"])):
            assert number in reproduce.ROWS[row]["numbers"], (row, number)


def test_a_report_brings_the_judges_that_its_rows_need():
    assert {"r0-judge", "r4-classifier", "r4-cvae"} <= set(reproduce.choose(["r4"]))
    assert reproduce.choose(["r0-conv-vae"]) == ["r0-judge", "r0-conv-vae"]
    assert reproduce.choose([]) == list(reproduce.ROWS)
    assert reproduce.choose(["r2-text2text"]) == ["r2-text2text"]  # and not the deeper one


def test_heavy_rows_have_a_tenth_of_their_updates_without_a_gpu(tmp_path, monkeypatch):
    def updates(name, gpu):
        monkeypatch.setattr(reproduce, "GPU", gpu)
        flags = train.read_flags(reproduce.trainings(name, arguments(tmp_path))[0][1])[0]
        return flags.steps or flags.epochs

    assert (updates("r0-conv-ae", None), updates("r0-conv-ae", "a GPU")) == (843, 8430)
    assert (updates("r3-vae-z6", None), updates("r3-vae-z6", "a GPU")) == (5, 50)


def test_whole_data_are_for_the_rows_that_want_them(tmp_path):
    args = arguments(tmp_path, data_dir=str(tmp_path))
    assert str(tmp_path) in reproduce.trainings("r3-vae-z6", args)[0][1]
    assert not {"mnist", "quickdraw"} & set(reproduce.trainings("r0-conv-ae", args)[0][1])


# -----------------------------------------------------------------------------------------------------------
# Numbers


def test_a_number_is_a_sum_of_products():
    found = dict(a=dict(b=[1.0, 2.0, "4"]), c=None)
    assert reproduce.value(found, "a.b.1") == 2
    assert reproduce.value(found, "0.5 * a.b.-1 + 3 * a.b.0 + 10") == 15
    assert reproduce.value(found, "a.b.0 + c") is None
    assert reproduce.value(found, "a.b.3") is None  # a log of fewer epochs
    for wrong in ("a.d", "a.b.x"):
        with pytest.raises(data.Mistake, match="there is no"):
            reproduce.value(found, wrong)


def test_floors_are_those_of_a_principal_component_analysis():
    sklearn = pytest.importorskip("sklearn.decomposition")
    dataset = data.load("quickdraw5k")
    x, test = (split.x.flatten(1).numpy() / 255 for split in (dataset.train, dataset.test))
    pca = sklearn.PCA(10, svd_solver="full").fit(x)
    wanted = np.square(test - pca.inverse_transform(pca.transform(test))).mean()
    found = reproduce.floor(dict(floor=10, data="quickdraw5k"))["test"]
    assert found["mse"] == pytest.approx(wanted, rel=1e-4)
    assert found["rmse"] == pytest.approx(255 * wanted**0.5, rel=1e-4)


def test_a_row_is_trained_measured_and_told_once(here, capsys):
    argv = ["r4-conv-ae", "r4-pca64", "--budget", "short"]
    assert reproduce.main(argv) == 0
    place = here / "runs" / "reproduce-short"
    path = place / "results" / "r4-conv-ae.json"
    kept = json.loads(path.read_text())
    summary = json.loads((place / "r4-conv-ae" / "summary.json").read_text())
    assert kept["numbers"]["test"] == [summary["test"]["mse"]]
    assert kept["threads"] == data.read_config(place / "r4-conv-ae")["threads"]
    assert kept["steps"] == [10] and kept["data"] == "quickdraw5k" and kept["seeds"] == 1
    table = (place / "table.md").read_text()
    assert table.startswith("# 10 updates each: these numbers mean nothing")
    assert f"MSE test {summary['test']['mse']:.4g}, validation" in table
    assert (place / "r4-conv-ae" / "untrained.png").exists()  # one of the row's pictures
    assert (here / "RESULTS.md").read_text().startswith("before\n<!-- r4 -->\nold")  # short: left alone

    written = path.stat().st_mtime_ns, (place / "r4-conv-ae" / "summary.json").stat().st_mtime_ns
    assert reproduce.main([*argv, "--jobs", "1"]) == 0
    assert written == (path.stat().st_mtime_ns, (place / "r4-conv-ae" / "summary.json").stat().st_mtime_ns)
    for damaged in (None, "[]", "<<<<<<< HEAD"):  # None: as if it had been stopped before measuring
        path.unlink() if damaged is None else path.write_text(damaged)
        assert reproduce.main([*argv, "--jobs", "1"]) == 0
        assert json.loads(path.read_text())["numbers"] == kept["numbers"]


def test_one_row_that_fails_stops_no_other(here, capsys, monkeypatch):
    bad = reproduce.ROWS["r4-pca64"] | dict(numbers=dict(test="test.nothing"))
    monkeypatch.setitem(reproduce.ROWS, "r4-pca64", bad)
    assert reproduce.main(["r0-pca64", "r4-pca64", "--budget", "short", "--jobs", "1"]) == 1
    assert "r4-pca64: error: there is no nothing of test.nothing" in capsys.readouterr().err
    assert "`r0-pca64` | – | MSE test 0.03" in (here / "runs/reproduce-short/table.md").read_text()


def ended(folder, **summary):
    """As good as a run that has ended."""
    folder.mkdir(parents=True)
    summary = dict(data="some", seconds=60.0, steps=10) | summary
    (folder / "summary.json").write_text(json.dumps(summary))
    (folder / "config.json").write_text('{"flags": {}}')
    (folder / "best.pt").write_bytes(b"weights")


@pytest.fixture
def judged(here, monkeypatch):
    """One row, judged by another, and what was measured of it."""
    row = dict(what="a VAE", recipe="r4-conv-vae", seeds=3, numbers=dict(fid="j.fid"), ours="FID-c {fid}")
    row["measure"] = dict(j="metrics.py {run} --features classifier:{r0-judge}")
    rows = {"r0-judge": reproduce.ROWS["r0-judge"], "r4-vae": row}
    monkeypatch.setattr(reproduce, "ROWS", rows)
    measured = []
    monkeypatch.setattr(
        reproduce,
        "measure",
        lambda name, folder, args: measured.append(folder.name) or dict(j=dict(fid=7.0)),
    )
    ended(here / "r0-judge")
    ended(here / "r4-vae")
    return measured


def test_a_result_is_measured_anew_when_its_judge_or_its_row_has_changed(here, judged, monkeypatch):
    args = arguments(here)
    for change in ("nothing yet", None, "judge", "numbers"):
        judged.clear()
        if change == "judge":
            (here / "r0-judge" / "best.pt").write_bytes(b"others")
        if change == "numbers":
            row = reproduce.ROWS["r4-vae"]
            monkeypatch.setitem(reproduce.ROWS, "r4-vae", row | dict(numbers=dict(fid="2 * j.fid")))
            assert reproduce.read_results(args) == {}
        reproduce.collect("r4-vae", args)
        assert judged == ([] if change is None else ["r4-vae"])
    assert reproduce.read_results(args)["r4-vae"]["numbers"] == dict(fid=[14.0])


def test_a_result_of_another_recipe_is_not_told(here, judged, monkeypatch, capsys):
    args = arguments(here)
    reproduce.collect("r4-vae", args)
    monkeypatch.setattr(reproduce, "CLAIMS", [])
    for change in (dict(flags="--beta 4"), dict(recipe="r4-rnn-vae"), dict(measure={})):
        with monkeypatch.context() as context:
            context.setitem(reproduce.ROWS, "r4-vae", reproduce.ROWS["r4-vae"] | change)
            assert reproduce.read_results(args) == {}
            told = "r4-vae: its result is of another recipe or row: run it again\n"
            assert capsys.readouterr().err == told
    assert list(reproduce.read_results(args)) == ["r4-vae"]


def test_a_row_of_other_flags_than_its_run_is_told_and_stops_no_other(here, judged, capsys, monkeypatch):
    (here / "runs" / "reproduce-full").mkdir(parents=True)
    (here / "r4-vae").rename(here / "runs" / "reproduce-full" / "r4-vae")
    monkeypatch.setattr(reproduce, "CLAIMS", [])
    monkeypatch.setitem(
        reproduce.ROWS, "r4-mean", dict(what="m", floor=0, data="quickdraw5k", numbers={}, ours="it")
    )
    assert reproduce.main(["r4", "--no-training", "--jobs", "1"]) == 1
    out, error = capsys.readouterr()
    assert re.search(
        "r4-vae: error: .*r4-vae was trained with --.* None, not .*: delete it, or move it", error
    )
    assert "r4-mean: it" in out


def test_fewer_seeds_do_not_replace_more(here, judged, capsys):
    for seed in (1, 2):
        ended(here / f"r4-vae,seed={seed}")
    args = arguments(here)
    reproduce.collect("r4-vae", args)
    (here / "r4-vae,seed=2" / "summary.json").unlink()
    reproduce.collect("r4-vae", args)
    assert reproduce.read_results(args)["r4-vae"]["seeds"] == 3
    assert "r4-vae: its result stays, of 3 seeds, of which 2 have ended here" in capsys.readouterr().out


def test_ctrl_c_ends_the_measuring_of_all_rows(here, capsys, monkeypatch):
    asked = []
    monkeypatch.setattr(reproduce, "collect", lambda name, args: asked.append(name) or interrupt())
    assert reproduce.main(["r0-mean", "r0-pca64", "--budget", "short", "--jobs", "1"]) == 130
    assert asked == ["r0-mean"]


def interrupt():
    raise KeyboardInterrupt


@pytest.mark.parametrize("gone", ["<!-- end -->", "<!-- r4 -->"])
def test_no_text_is_lost_where_a_mark_is_missing(here, capsys, gone):
    text = (here / "RESULTS.md").read_text().replace(gone, "", 1)
    (here / "RESULTS.md").write_text(text)
    assert reproduce.main(["r4-lstm-ae", "--no-training", "--jobs", "1"]) == 1
    assert re.search("RESULTS.md needs one <!-- r4 --> with its <!-- end -->\n", capsys.readouterr().err)
    assert (here / "RESULTS.md").read_text() == text


def test_a_training_that_fails_is_told_with_its_reason(here, capsys):
    argv = ["r4-conv-ae", "--budget", "short"]
    folder = here / "runs" / "reproduce-short" / "r4-conv-ae"
    folder.mkdir(parents=True)
    (folder / "last.pt").write_bytes(b"no checkpoint")
    assert reproduce.main(argv) == 1
    assert re.search(
        "r4-conv-ae: FAILED, status 1: train.py: error: .* \\(more in .*r4-conv-ae.log\\)",
        capsys.readouterr().out,
    )


@pytest.mark.parametrize("text", ["", "{}"])
def test_a_damaged_summary_is_one_line(here, capsys, text):
    folder = here / "runs" / "reproduce-short" / "r4-conv-ae"
    folder.mkdir(parents=True)
    (folder / "summary.json").write_text(text)
    (folder / "config.json").write_text('{"flags": {}}')
    assert reproduce.main(["r4-conv-ae", "--budget", "short", "--no-training", "--jobs", "1"]) == 1
    assert len(capsys.readouterr().err.splitlines()) == 1


def test_an_unknown_row_is_told_in_one_line(here, capsys):
    assert reproduce.main(["r9"]) == 1
    told = "no row or report r9: they stand in experiments/rows.toml\n"
    assert capsys.readouterr().err == f"reproduce.py: error: {told}"
    assert reproduce.main(["r4-convae"]) == 1
    assert "did you mean r4-conv-ae?" in capsys.readouterr().err
    assert reproduce.main(["r4", "--data-dir", "nowhere"]) == 1
    assert capsys.readouterr().err == "reproduce.py: error: nowhere is not a folder\n"


# -----------------------------------------------------------------------------------------------------------
# Tables


def result(name, numbers, seeds=3, **more):
    kept = dict(
        asked=reproduce.asked(name),
        numbers=numbers,
        seeds=seeds,
        seconds=[60.0] * seeds,
        budget="full",
        tenth=False,
        gpu=None,
    )
    kept |= dict(data="some", of_data_dir=False)
    return json.dumps(kept | more)


def test_tables_come_from_the_results_alone(here):
    folder = here / "experiments" / "results"
    folder.mkdir(parents=True)
    numbers = dict(test=[1.0, 2.0, 3.0], valid=[2.0], rabbit=[60.0], yoga=[50.0], snowman=[90.0])
    (folder / "r4-conv-ae.json").write_text(result("r4-conv-ae", numbers))
    (folder / "r4-cvae.json").write_text(
        result("r4-cvae", dict.fromkeys(reproduce.ROWS["r4-cvae"]["numbers"], [7.0]), 2)
    )
    assert reproduce.main(["r4-lstm-ae", "--no-training", "--jobs", "1"]) == 0
    text = (here / "RESULTS.md").read_text()
    assert (
        text.startswith("before\n<!-- r4 -->\n| experiment |")
        and "old" not in text
        and "\nbetween\n" in text
    )
    assert "| MSE test 2.0 ± 1.0, validation 2 | some; 3, 1 |" in text
    assert "| some; 2 of 3, 1 |" in text  # one seed is still to run
    assert "rabbit 60%, yoga 50%, snowman 90%" in text  # a claim
    assert "| R2: the GAN drops modes | – |" in text
    assert text.count("`r4-") == sum(name.startswith("r4-") for name in reproduce.ROWS)


@pytest.mark.parametrize(
    "values, told",
    [([189.21, 188.77], "188.99 ± 0.31"), ([51.0, 63.0], "57.0 ± 8.5"), ([1000.0, 1500.0], "1250 ± 354"),
     ([0.0376112, 0.0376121], "0.037612 ± 0.000001"), ([0.02354], "0.02354"), ([2.0, 2.0], "2"),
     ([None, 3.0], "3 (1 of 2)"), ([None], "–")],
)  # fmt: skip
def test_a_mean_has_the_digits_that_its_deviation_supports(values, told):
    assert reproduce.cell(values) == told


def test_a_tenth_and_a_gpu_are_told(here):
    row = dict(what="w", ours="{a}", note="n")
    kept = dict(
        json.loads(result("r4-conv-ae", dict(a=[None]), 1)), tenth=True, of_data_dir=True, gpu="some GPU"
    )
    told = reproduce.table_row("r4-conv-ae", row, kept)
    assert "| some of DIR; 1, 1, on a GPU | **a tenth of the updates.** n |" in told


def test_figures_are_drawn_where_their_rows_have_been_run(here):
    folder = here / "experiments" / "results"
    folder.mkdir(parents=True)
    for name in ("r4-rnn-vae", "r4-conv-vae", "r4-cvae"):
        (folder / f"{name}.json").write_text(
            result(name, dict.fromkeys(reproduce.ROWS[name]["numbers"], [1.0, 2.0]))
        )
    reproduce.draw_figures(reproduce.read_results(arguments(here)), arguments(here))
    assert (here / "docs" / "draws.png").exists() and not (here / "docs" / "betas.png").exists()


# -----------------------------------------------------------------------------------------------------------
# Claims


def test_reach_is_the_first_epoch_of_that_value(tmp_path, capsys, monkeypatch):
    rows = "epoch,step,split,characters [%]", "0,0,valid,90", "1,9,train,99", "1,9,valid,60", "2,18,valid,75"
    (tmp_path / "log.csv").write_text("\n".join(rows))
    run_ = SimpleNamespace(folder=tmp_path)
    for at, epoch in ((70, 0), (91, None)):
        assert claims.reach(run_, SimpleNamespace(term="characters", at=at)) == dict(epoch=epoch)


def test_gray_is_the_share_of_inked_pixels_between():
    images = torch.tensor([0.0, 0.05, 0.2, 0.3, 0.7, 0.9])  # two of the four above 0.1
    assert claims.between(images) == pytest.approx(0.5)


class Latents:
    """A run whose pictures are its latents: z [n, 1] -> [n, 1, 1, 1]."""

    folder, classes, conditional = "somewhere", ["low", "high"], True
    dataset = SimpleNamespace(
        train=SimpleNamespace(y=torch.tensor([1] * 120 + [6] * 120)), test=SimpleNamespace(x=torch.zeros(4))
    )
    model = SimpleNamespace(
        decode=lambda z: z.view(-1, 1, 1, 1),
        sample=lambda n, labels: torch.linspace(0, 1, n).view(-1, 1, 1, 1),
    )

    def latents(self, split, index):
        if split == "test":
            return torch.tensor([[0.2], [0.4], [0.6], [1.2]])
        return torch.where(index < 120, 0.0, 0.9)[:, None]


def judge(run, args, images):
    """Names a picture high from a half on, and is surer the further it is from there."""
    x = images.flatten()
    return (x >= 0.5).long(), (x - 0.5).abs() + 0.5


def test_what_a_judge_says_of_latents_moved(monkeypatch):
    monkeypatch.setattr(claims, "named_by", judge)
    args = SimpleNamespace(n=4, seed=0)
    found = claims.halfway(Latents(), args)
    assert found == dict(ends=dict(low=50, high=50), middle=dict(low=100, high=0))  # 0, 0.9 and 0.45
    found = claims.scaled(Latents(), args)
    # halved: .1 .2 .3 .6, one name of four changes; by 1.5: .3 .6 .9 1.8, one other
    assert found == dict(halved=75, grown=75, named=dict(low=75, high=25))


def test_confidence_in_samples_that_are_named_otherwise(monkeypatch):
    monkeypatch.setattr(claims, "named_by", judge)
    found = claims.wrong(Latents(), SimpleNamespace(n=5, seed=0))
    # asked for: low high low high low; drawn 0, .25, .5, .75, 1: 2nd, 3rd and 5th are named otherwise
    wanted = dict(least=50, low=62.5, median=75, high=87.5, most=100, from_40_to_60=100 / 3)
    assert found == pytest.approx(wanted)
