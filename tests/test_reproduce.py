"""reproduce.py: rows fit their recipes, numbers are stored, and the tables are written from them alone."""

import contextlib
import dataclasses
import json
import os
import re
import signal
import string
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

import data
import metrics
import models
import sample
import train
from experiments import claims, reproduce, run

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


def fields(text):
    """The names in the braces of a format string."""
    return {field for _, field, _, _ in string.Formatter().parse(text) if field}


def changed(name, **fields):
    return dataclasses.replace(reproduce.ROWS[name], **fields)


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A folder with another RESULTS.md, so that no test writes into the repository."""
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
    assert any(row.what.split()[0] == experiment for row in reproduce.ROWS.values())


@pytest.mark.parametrize("name", reproduce.ROWS)
def test_a_row_shows_only_numbers_that_it_measures(name):
    row = reproduce.ROWS[name]
    assert fields(row.ours) <= row.numbers.keys()


@pytest.mark.parametrize("name", reproduce.ROWS)
def test_train_takes_the_flags_of_a_row(name, tmp_path):
    row = reproduce.ROWS[name]
    for budget, seeds in (("short", 1), ("full", row.seeds)):
        trainings = reproduce.trainings(row, arguments(tmp_path, budget))
        assert len(trainings) == (seeds if row.has_training else 0)
        run.check(trainings)  # refuses what train.py would refuse


@pytest.mark.parametrize("name", reproduce.ROWS)
def test_the_commands_of_a_row_name_scripts_and_rows_that_exist(name):
    row = reproduce.ROWS[name]
    for line in [*(row.measure or {}).values(), *row.pictures]:
        assert set(re.findall(r"{([^}]+)}", line)) <= {"run", *reproduce.ROWS}
        assert line.split()[0] in reproduce.SCRIPTS


def test_claims_quote_numbers_that_rows_measure():
    for claim in reproduce.CLAIMS:
        for row, number in (field.rstrip("]").split("[") for field in fields(claim["ours"])):
            assert number in reproduce.ROWS[row].numbers, (row, number)


def test_a_report_brings_the_judges_that_its_rows_need():
    def choose(*names):
        return [row.name for row in reproduce.choose(names)]

    assert {"r0-judge", "r4-classifier", "r4-cvae"} <= set(choose("r4"))
    assert choose("r0-conv-vae") == ["r0-judge", "r0-conv-vae"]
    assert choose() == list(reproduce.ROWS)
    assert choose("r2-text2text") == ["r2-text2text"]  # and not r2-text2text-deep


def test_a_budget_of_a_tenth_is_for_heavy_rows(tmp_path):
    def updates(name, budget):
        training = reproduce.trainings(reproduce.ROWS[name], arguments(tmp_path, budget))[0]
        flags, _ = train.read_flags(training.argv)
        return flags.steps or flags.epochs

    assert (updates("r0-conv-ae", "tenth"), updates("r0-conv-ae", "full")) == (843, 8430)
    assert (updates("r3-vae-z6", "tenth"), updates("r3-vae-z6", "full")) == (5, 50)
    assert updates("r4-conv-ae", "tenth") == updates("r4-conv-ae", "full")


def test_whole_data_are_for_the_rows_that_want_them(tmp_path):
    args = arguments(tmp_path, data_dir=str(tmp_path))
    whole, small = (
        reproduce.trainings(reproduce.ROWS[name], args)[0].argv for name in ("r3-vae-z6", "r0-conv-ae")
    )
    assert str(tmp_path) in whole
    assert not {"mnist", "quickdraw"} & set(small)


# -----------------------------------------------------------------------------------------------------------
# Numbers


def test_a_number_is_a_sum_of_products():
    measurements = dict(a=dict(b=[1.0, 2.0, "4"]), c=None)
    assert reproduce.evaluate("a.b.1", measurements) == 2
    assert reproduce.evaluate("0.5 * a.b.-1 + 3 * a.b.0 + 10", measurements) == 15
    assert reproduce.evaluate("a.b.0 + c", measurements) is None
    assert reproduce.evaluate("a.b.3", measurements) is None  # a log of fewer epochs


@pytest.mark.parametrize("path", ["a.d", "a.b.x"])
def test_a_number_that_does_not_exist_is_refused(path):
    with pytest.raises(data.Mistake, match="there is no"):
        reproduce.evaluate(path, dict(a=dict(b=[1.0])))


def test_pca_errors_agree_with_scikit_learn():
    sklearn = pytest.importorskip("sklearn.decomposition")
    dataset = data.load("quickdraw5k")
    x, test = (split.x.flatten(1).numpy() / 255 for split in (dataset.train, dataset.test))
    pca = sklearn.PCA(10, svd_solver="arpack", random_state=0).fit(x)
    expected = np.square(test - pca.inverse_transform(pca.transform(test))).mean()
    errors = reproduce.pca_error(changed("r0-pca64", floor=10))["test"]
    assert errors["mse"] == pytest.approx(expected, rel=1e-4)
    assert errors["rmse"] == pytest.approx(255 * expected**0.5, rel=1e-4)


def test_a_row_is_trained_and_measured_once(here, capsys):
    argv = ["r4-conv-ae", "r4-pca64", "--budget", "short"]
    assert reproduce.main(argv) == 0
    out = here / "runs" / "reproduce-short"
    path = out / "results" / "r4-conv-ae.json"
    summary_path = out / "r4-conv-ae" / "summary.json"
    result = json.loads(path.read_text())
    summary = json.loads(summary_path.read_text())
    assert result["numbers"]["test"] == [summary["test"]["mse"]]
    assert result["threads"] == data.read_config(out / "r4-conv-ae")["threads"]
    assert result["steps"] == [10] and result["data"] == "quickdraw5k" and result["seeds"] == 1
    table = (out / "table.md").read_text()
    assert table.startswith("# 10 updates each: these numbers mean nothing")
    assert f"MSE test {summary['test']['mse']:.4g}, validation" in table
    assert (out / "r4-conv-ae" / "untrained.png").exists()  # one of the row's pictures
    assert (here / "RESULTS.md").read_text().startswith("before\n<!-- r4 -->\nold")  # not of a short budget

    times = [file.stat().st_mtime_ns for file in (path, summary_path)]
    assert reproduce.main([*argv, "--jobs", "1"]) == 0
    assert times == [file.stat().st_mtime_ns for file in (path, summary_path)]
    path.unlink()  # as if it had been stopped before measuring
    assert reproduce.main([*argv, "--jobs", "1"]) == 0
    assert json.loads(path.read_text())["numbers"] == result["numbers"]


@pytest.mark.parametrize("damage", ["[]", "{}", "<<<<<<< HEAD", "numbers", "seeds"])
def test_a_damaged_result_is_measured_again(here, damage):
    path = here / "runs" / "reproduce-short" / "results" / "r4-pca64.json"
    argv = ["r4-pca64", "--budget", "short", "--jobs", "1"]
    assert reproduce.main(argv) == 0
    result = json.loads(path.read_text())
    numbers = result["numbers"]
    if damage in result:
        damage = json.dumps(result | {damage: "x"})
    path.write_text(damage)
    assert reproduce.main(argv) == 0
    assert json.loads(path.read_text())["numbers"] == numbers


STORED = sorted((reproduce.HERE / "results").glob("*.json"))


@pytest.mark.parametrize("path", STORED, ids=[path.stem for path in STORED])
def test_every_stored_result_is_up_to_date(path):
    result = reproduce.read_result(path)
    assert result.row == path.stem
    assert result.asked == reproduce.requirements(reproduce.ROWS[path.stem])


def test_a_row_that_fails_stops_no_other(here, capsys, monkeypatch):
    failing = changed("r4-pca64", numbers=dict(test="test.nothing"))
    monkeypatch.setitem(reproduce.ROWS, "r4-pca64", failing)
    assert reproduce.main(["r0-pca64", "r4-pca64", "--budget", "short", "--jobs", "1"]) == 1
    assert "r4-pca64: error: there is no nothing of test.nothing" in capsys.readouterr().err
    assert "`r0-pca64` | – | MSE test 0.03" in (here / "runs/reproduce-short/table.md").read_text()


def write_run(folder):
    """Writes the files of a finished run that reproduce.py reads."""
    folder.mkdir(parents=True)
    summary = dict(data="some", seconds=60.0, steps=10, best_epoch=1, units={})
    (folder / "summary.json").write_text(json.dumps(summary))
    (folder / "config.json").write_text(json.dumps(CONFIG))
    (folder / "best.pt").write_bytes(b"weights")


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
        return dict(j=dict(fid=7.0))

    monkeypatch.setattr(reproduce, "measure", measure)
    write_run(here / "r0-judge")
    write_run(here / "r4-vae")
    return measured


def collect(args):
    reproduce.collect(reproduce.ROWS["r4-vae"], args)


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
    monkeypatch.setitem(reproduce.ROWS, "r4-vae", changed("r4-vae", numbers=dict(fid="2 * j.fid")))
    assert reproduce.read_results(args) == {}
    collect(args)
    assert reproduce.read_results(args)["r4-vae"].numbers == dict(fid=[14.0])


@pytest.mark.parametrize("change", [dict(flags="--beta 4"), dict(recipe="r4-rnn-vae"), dict(measure={})])
def test_a_result_of_another_recipe_is_left_out(here, judged, monkeypatch, capsys, change):
    collect(arguments(here))
    assert list(reproduce.read_results(arguments(here))) == ["r4-vae"]
    monkeypatch.setitem(reproduce.ROWS, "r4-vae", changed("r4-vae", **change))
    assert reproduce.read_results(arguments(here)) == {}
    assert capsys.readouterr().err == "r4-vae: the row or its recipe has changed: run it again\n"


def test_a_run_with_other_flags_than_its_row_stops_no_other(here, judged, capsys, monkeypatch):
    (here / "runs" / "reproduce-full").mkdir(parents=True)
    (here / "r4-vae").rename(here / "runs" / "reproduce-full" / "r4-vae")
    monkeypatch.setattr(reproduce, "CLAIMS", [])
    mean = reproduce.Row("r4-mean", what="m", floor=0, data="quickdraw5k", numbers={}, ours="measured")
    monkeypatch.setitem(reproduce.ROWS, "r4-mean", mean)
    assert reproduce.main(["r4", "--no-training", "--jobs", "1"]) == 1
    out, error = capsys.readouterr()
    assert re.search("r4-vae: error: .*r4-vae was trained with --.*, not .*: delete it, or move it", error)
    assert "r4-mean: measured" in out


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
    assert result.seeds == 2 and not result.tenth


def test_fewer_seeds_do_not_replace_more(here, judged, capsys):
    for seed in (1, 2):
        write_run(here / f"r4-vae,seed={seed}")
    args = arguments(here)
    collect(args)
    (here / "r4-vae,seed=2" / "summary.json").unlink()
    collect(args)
    assert reproduce.read_results(args)["r4-vae"].seeds == 3
    kept = "r4-vae: the stored result is kept: it has 3 seeds, of which 2 have finished here"
    assert kept in capsys.readouterr().out


SLEEPY = """
import os, sys, time
sys.path.insert(0, {root!r})
from experiments import reproduce

def collect_one(row, args):
    print("measuring", os.getpid(), flush=True)
    time.sleep(60)

if __name__ in ("__main__", "__mp_main__"):
    reproduce.collect_one = collect_one
if __name__ == "__main__":
    import signal
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    sys.exit(reproduce.data.run_command("reproduce.py", lambda argv: reproduce.collect_all(
        list(reproduce.ROWS.values())[:2], reproduce.flags().parse_args([])), []))
"""


@pytest.mark.skipif(os.name != "posix", reason="signals as POSIX has them")
@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL])
def test_a_signal_ends_measuring_and_its_processes(tmp_path, how):
    script = tmp_path / "sleepy.py"
    script.write_text(SLEEPY.format(root=str(Path(reproduce.__file__).parent.parent)))
    process = subprocess.Popen(
        [sys.executable, script], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    children = [int(process.stdout.readline().split()[1]) for _ in range(2)]
    process.send_signal(how)
    if how == signal.SIGTERM:
        with contextlib.suppress(ProcessLookupError):
            process.send_signal(how)
    assert process.wait(20) == (130 if how == signal.SIGTERM else -how)
    end = time.monotonic() + 15
    while any(is_alive(pid) for pid in children) and time.monotonic() < end:
        time.sleep(0.05)
    assert not any(is_alive(pid) for pid in children)


def is_alive(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def test_no_two_of_the_script_work_on_one_row(here, judged, capsys):
    folder = here / "runs" / "reproduce-full" / "locks" / "r4-vae"
    folder.mkdir(parents=True)
    with data.lock(folder):
        assert reproduce.main(["r4-vae", "--no-training"]) == 1
    assert "another process" in capsys.readouterr().err


def test_ctrl_c_ends_the_measuring_of_all_rows(here, monkeypatch):
    started = []

    def collect(row, args):
        started.append(row.name)
        raise KeyboardInterrupt

    monkeypatch.setattr(reproduce, "collect", collect)
    assert reproduce.main(["r0-mean", "r0-pca64", "--budget", "short", "--jobs", "1"]) == 130
    assert started == ["r0-mean"]


@pytest.mark.parametrize("mark", ["<!-- end -->", "<!-- r4 -->"])
def test_no_text_is_lost_where_a_mark_is_missing(here, capsys, mark):
    text = (here / "RESULTS.md").read_text().replace(mark, "", 1)
    (here / "RESULTS.md").write_text(text)
    assert reproduce.main(["r4-lstm-ae", "--no-training", "--jobs", "1"]) == 1
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
        capsys.readouterr().out,
    )


@pytest.mark.parametrize("text", ["", "{}", "[]", '{"data": "x", "units": {}, "valid": null}'])
def test_a_damaged_summary_is_one_line(here, capsys, text):
    folder = here / "runs" / "reproduce-short" / "r4-conv-ae"
    folder.mkdir(parents=True)
    (folder / "summary.json").write_text(text)
    (folder / "config.json").write_text(json.dumps(CONFIG))
    assert reproduce.main(["r4-conv-ae", "--budget", "short", "--no-training", "--jobs", "1"]) == 1
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
    return reproduce.Result(
        row=name,
        asked=reproduce.requirements(reproduce.ROWS[name]),
        budget="full",
        tenth=fields.get("tenth", False),
        data="some",
        of_data_dir=fields.get("of_data_dir", False),
        judges={},
        seeds=seeds,
        seconds=[60.0] * seeds,
        steps=[10] * seeds,
        numbers=numbers,
        gpu=fields.get("gpu"),
    )


def write_result(here, *args):
    result = make_result(*args)
    folder = here / "experiments" / "results"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{result.row}.json").write_text(json.dumps(dataclasses.asdict(result)))


def test_tables_come_from_the_results_alone(here):
    numbers = dict(test=[1.0, 2.0, 3.0], valid=[2.0], rabbit=[60.0], yoga=[50.0], snowman=[90.0])
    write_result(here, "r4-conv-ae", numbers)
    write_result(here, "r4-cvae", dict.fromkeys(reproduce.ROWS["r4-cvae"].numbers, [7.0]), 2)
    assert reproduce.main(["r4-lstm-ae", "--no-training", "--jobs", "1"]) == 0
    text = (here / "RESULTS.md").read_text()
    assert text.startswith("before\n<!-- r4 -->\n| experiment |")
    assert "old" not in text and "\nbetween\n" in text
    assert "| MSE test 2.0 ± 1.0, validation 2 | some; 3, 1 |" in text
    assert "| some; 2 of 3, 1 |" in text  # one seed has not been run yet
    assert "rabbit 60%, yoga 50%, snowman 90%" in text  # a claim
    assert "| R2: the GAN drops modes | – |" in text
    assert text.count("`r4-") == sum(name.startswith("r4-") for name in reproduce.ROWS)


@pytest.mark.parametrize(
    "values, text",
    [([189.21, 188.77], "188.99 ± 0.31"), ([51.0, 63.0], "57.0 ± 8.5"), ([1000.0, 1500.0], "1250 ± 354"),
     ([0.0376112, 0.0376121], "0.037612 ± 0.000001"), ([0.02354], "0.02354"), ([2.0, 2.0], "2"),
     ([None, 3.0], "3 (1 of 2)"), ([None], "–")],
)  # fmt: skip
def test_a_mean_has_the_digits_that_its_deviation_supports(values, text):
    assert reproduce.cell(values) == text


def test_the_table_says_a_tenth_of_the_updates_and_a_gpu():
    row = changed("r4-conv-ae", numbers=dict(a="a"), ours="{a}", note="n", seeds=1)
    result = make_result("r4-conv-ae", dict(a=[None]), 1, tenth=True, of_data_dir=True, gpu="some GPU")
    line = reproduce.table_row(row, result)
    assert "| some of DIR; 1, 1, on a GPU | **a tenth of the updates.** n |" in line


def test_figures_are_drawn_where_their_rows_have_been_run(here):
    for name in ("r4-rnn-vae", "r4-conv-vae", "r4-cvae"):
        write_result(here, name, dict.fromkeys(reproduce.ROWS[name].numbers, [1.0, 2.0]))
    reproduce.draw_figures(reproduce.read_results(arguments(here)), arguments(here))
    assert (here / "docs" / "draws.png").exists() and not (here / "docs" / "betas.png").exists()


# -----------------------------------------------------------------------------------------------------------
# Claims


@pytest.mark.parametrize("value, epoch", [(70, 0), (91, None)])
def test_reach_is_the_first_epoch_of_that_value(tmp_path, value, epoch):
    rows = "epoch,step,split,characters [%]", "0,0,valid,90", "1,9,train,99", "1,9,valid,60", "2,18,valid,75"
    (tmp_path / "log.csv").write_text("\n".join(rows))
    args = SimpleNamespace(term="characters", at=value)
    assert claims.reach(SimpleNamespace(folder=tmp_path), args) == dict(epoch=epoch)


def test_gray_pixels_are_the_inked_ones_that_are_neither_black_nor_white():
    images = torch.tensor([0.0, 0.05, 0.2, 0.3, 0.7, 0.9])  # four have ink, and two of these are gray
    assert claims.gray_share(images) == pytest.approx(0.5)


class Latents:
    """A run whose pictures are its latents: z [n, 1] -> [n, 1, 1, 1]."""

    folder = "somewhere"
    classes = ["low", "high"]
    dataset = SimpleNamespace(
        train=SimpleNamespace(y=torch.tensor([1] * 120 + [6] * 120)),
        test=SimpleNamespace(x=torch.zeros(4)),
    )
    model = SimpleNamespace(
        conditional=True,
        decode=lambda z: z.view(-1, 1, 1, 1),
        sample=lambda n, labels: torch.linspace(0, 1, n).view(-1, 1, 1, 1),
    )

    def latents(self, split, index):
        if split == "test":
            return torch.tensor([[0.2], [0.4], [0.6], [1.2]])
        return torch.where(index < 120, 0.0, 0.9)[:, None]


def classify(run, args, images):
    """Names a picture high from 0.5 on, with a confidence that grows with the distance from 0.5."""
    x = images.flatten()
    return (x >= 0.5).long(), (x - 0.5).abs() + 0.5


def test_halfway_between_two_classes(monkeypatch):
    monkeypatch.setattr(claims, "classify", classify)
    answer = claims.halfway(Latents(), SimpleNamespace(n=4, seed=0))
    assert answer == dict(ends=dict(low=50, high=50), middle=dict(low=100, high=0))  # 0, 0.9 and 0.45


def test_scaled_latents_keep_their_class_or_change_it(monkeypatch):
    monkeypatch.setattr(claims, "classify", classify)
    answer = claims.scaled(Latents(), SimpleNamespace(n=4, seed=0))
    # halved: .1 .2 .3 .6, of which one changes its class; by 1.5: .3 .6 .9 1.8, of which another does
    assert answer == dict(halved=75, grown=75, named=dict(low=75, high=25))


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


def test_confidence_in_samples_that_are_not_named_as_asked(monkeypatch):
    monkeypatch.setattr(claims, "classify", classify)
    answer = claims.wrong(Latents(), SimpleNamespace(n=5, seed=0))
    # asked for: low high low high low; samples 0, .25, .5, .75, 1, of which the 2nd, 3rd and 5th are wrong
    expected = dict(least=50, low=62.5, median=75, high=87.5, most=100, from_40_to_60=100 / 3)
    assert answer == pytest.approx(expected)
