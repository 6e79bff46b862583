"""The loop: what a run leaves behind, that stopping loses nothing, that wrong use ends in one line."""

import csv
import errno
import json
import math
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import PICTURED, small
from torch.utils._python_dispatch import TorchDispatchMode

import data
import metrics
import models
import sample
import train

MONITORED = [name for name in PICTURED if models.MODELS[name].has_validation_loss]
FREE = [name for name in models.MODELS if models.MODELS[name].has_free_latents]
ROOT = Path(train.__file__).parent


def last(folder):
    return torch.load(folder / "last.pt", weights_only=True)


def same(a, b):
    """Two trees of tensors and plain values, equal to the bit."""
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(same(x, y) for x, y in zip(a, b, strict=True))
    return a == b


def assert_same_run(one, other):
    """Same weights, optimizers and history, but for the seconds that it took."""
    one_last, other_last = last(one), last(other)
    for key in ("weights", "optimizers"):
        assert same(one_last[key], other_last[key]), key
    assert same(torch.load(one / "best.pt"), torch.load(other / "best.pt"))
    for state in (one_last["state"], other_last["state"]):
        state.pop("seconds")
        for row in state["history"]:
            row.pop("seconds")
    assert same(one_last["state"], other_last["state"])


# -----------------------------------------------------------------------------------------------------------
# A run and its folder


@pytest.mark.parametrize("model", PICTURED)
def test_a_run_leaves_everything_behind(model, run):
    folder = run(model)
    names = {path.name for path in folder.iterdir()}
    assert {"config.json", "log.csv", "best.pt", "last.pt", "summary.json", "loss.png"} <= names
    if models.MODELS[model].draws_samples:
        assert [path.name for path in sorted((folder / "epochs").iterdir())] == [
            "0000.png", "0001.png", "0002.png"]  # fmt: skip
    assert not [name for name in names if name.endswith(".tmp")]
    config = json.loads((folder / "config.json").read_text())
    assert config["flags"]["epochs"] == 2 and config["flags"]["seed"] == 0
    assert config["flags"]["batch_size"] == models.MODELS[model].defaults["batch_size"]  # a default too
    rows = list(csv.DictReader((folder / "log.csv").read_text().splitlines()))
    expected = [("0", "valid"), ("1", "train"), ("1", "valid"), ("2", "train"), ("2", "valid")]
    if not models.MODELS[model].has_validation_loss:
        expected = [("1", "train"), ("2", "train")]
    if model in FREE:
        expected += [("3", "refined"), ("4", "refined"), ("1", "test_latents"), ("2", "test_latents")]
    assert [(row["epoch"], row["split"]) for row in rows] == expected
    terms = ("discriminator", "generator") if model == "gan" else ("loss",)
    units = models.UNITS
    assert all(float(row[f"{name} [{units[name]}]"]) > 0 for row in rows for name in terms)


@pytest.mark.parametrize("model", MONITORED)
def test_the_best_checkpoint_scores_what_the_log_says(model, run, digits):
    folder = run(model)
    state = last(folder)["state"]
    logged = {row["epoch"]: row["loss"] for row in state["history"] if row["split"] == "valid"}
    assert state["best_epoch"] == min(logged, key=logged.get)
    scores = train.evaluate(models.load(folder / "best.pt"), data.load(digits).valid)
    assert scores["loss"] == pytest.approx(min(logged.values()), rel=1e-6)
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["valid"]["loss"] == pytest.approx(scores["loss"], rel=1e-6)
    assert summary["units"]["loss"] == "nats/image"


@pytest.mark.parametrize("model", sorted(set(PICTURED) - set(MONITORED)))
def test_without_a_validation_loss_the_last_epoch_is_the_best(model, run):
    folder = run(model)
    state = last(folder)["state"]
    assert state["best_epoch"] == state["epoch"] == 2
    best = torch.load(folder / "best.pt", weights_only=True)
    assert same(best["weights"], last(folder)["weights"]) and best["epoch"] == 2
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["best_epoch"] == 2 and "valid" not in summary


def test_evaluation_meets_the_same_noise_every_time_and_weighs_every_picture_alike(run, digits, monkeypatch):
    model, split = models.load(run("vae") / "best.pt"), data.load(digits).test
    torch.manual_seed(5)
    once, twice = train.evaluate(model, split), train.evaluate(model, split)
    assert once == twice
    monkeypatch.setattr(
        models.VAE,
        "posterior",
        lambda self, x, y=None: models.Gaussian(self.encode_mean(x), torch.full((len(x), 3), -100.0)),
    )  # no noise, so that the order of chunks is free
    monkeypatch.setattr(
        models.VAE, "encode_mean", lambda self, x: self.to_latent(self.features(x))[:, :3], raising=False
    )
    whole = train.evaluate(model, split)["loss"]
    chunks = models.batches
    monkeypatch.setattr(models, "batches", lambda split, size=7: chunks(split, size))
    assert train.evaluate(model, split)["loss"] == pytest.approx(whole, rel=1e-5)


def test_the_logged_training_loss_is_the_mean_over_the_epoch(digits, tmp_path):
    argv = small("ae", digits, "", tmp_path / "run")
    assert (
        train.main([*argv, "--epochs", "1", "--batch-size", "30", "--lr", "1e-12"]) == 0
    )  # the model stays put
    logged = next(
        row["loss"] for row in last(tmp_path / "run")["state"]["history"] if row["split"] == "train"
    )
    model = models.load(tmp_path / "run" / "last.pt")
    assert logged == pytest.approx(train.evaluate(model, data.load(digits).train)["loss"], rel=1e-5)


def test_steps_end_a_run_whatever_the_epochs_say(digits, tmp_path):
    argv = small("ae", digits, "--batch-size 50")  # 3 updates an epoch
    for steps, epochs in ((2, 1), (7, 3)):
        out = tmp_path / str(steps)
        assert train.main([*argv, "--epochs", "2", "--steps", str(steps), "--out", str(out)]) == 0
        assert (last(out)["state"]["step"], last(out)["state"]["epoch"]) == (steps, epochs)
        assert json.loads((out / "summary.json").read_text())["steps"] == steps


def test_cosine_learning_rate_falls_from_lr_to_nearly_nothing(digits, tmp_path, monkeypatch):
    rates, step = [], torch.optim.Adam.step
    monkeypatch.setattr(
        torch.optim.Adam, "step", lambda self: (rates.append(self.param_groups[0]["lr"]), step(self))[1]
    )
    argv = small("ae", digits, "--batch-size 30 --epochs 2 --lr 0.01")
    assert train.main([*argv, "--lr-schedule", "cosine", "--out", str(tmp_path / "cosine")]) == 0
    n = len(rates)
    assert rates == pytest.approx([0.01 * (1 + math.cos(math.pi * k / n)) / 2 for k in range(n)])
    rates.clear()
    assert train.main([*argv, "--lr-schedule", "constant", "--out", str(tmp_path / "constant")]) == 0
    assert rates == [0.01] * n


def test_without_validation_pictures_the_last_epoch_is_the_best(digits, tmp_path, capsys):
    assert train.main(small("vae", digits, "--epochs 2 --valid-fraction 0", tmp_path / "run")) == 0
    assert last(tmp_path / "run")["state"]["best_epoch"] == 2
    rows = list(csv.DictReader((tmp_path / "run" / "log.csv").read_text().splitlines()))
    assert [(row["epoch"], row["split"]) for row in rows] == [("1", "train"), ("2", "train")]
    assert (tmp_path / "run" / "loss.png").exists() and "kl" in capsys.readouterr().out


def test_clipping_bounds_the_norm_of_all_gradients_together(digits, tmp_path, monkeypatch):
    norms, step = [], torch.optim.Adam.step

    def spy(self):
        grads = [p.grad for group in self.param_groups for p in group["params"]]
        norms.append(torch.cat([g.flatten() for g in grads]).norm().item())
        return step(self)

    monkeypatch.setattr(torch.optim.Adam, "step", spy)
    argv = small("ae", digits, "--epochs 1")
    assert train.main([*argv, "--out", str(tmp_path / "free")]) == 0
    free = max(norms)
    norms.clear()
    assert train.main([*argv, "--clip", str(free / 10), "--out", str(tmp_path / "clipped")]) == 0
    assert max(norms) == pytest.approx(free / 10, rel=1e-3)


def test_frozen_weights_stay_and_the_others_learn(digits, tmp_path, monkeypatch):
    class Frozen(models.Autoencoder):
        def __init__(self, image_shape, **options):
            super().__init__(image_shape, **options)
            self.decoder.requires_grad_(False)
            self.frozen = {name for name, p in self.named_parameters() if not p.requires_grad}

    monkeypatch.setitem(models.MODELS, "ae", Frozen)
    assert train.main(small("ae", digits, "--steps 1 --clip 1", tmp_path / "run")) == 0
    arguments = last(tmp_path / "run")["arguments"]
    torch.manual_seed(0)
    model = Frozen(**arguments)
    weights = last(tmp_path / "run")["weights"]
    same_as_before = {name for name, p in model.named_parameters() if torch.equal(p, weights[name])}
    assert same_as_before == model.frozen != set()


def test_patience_stops_and_counts_from_the_end_of_the_warm_up(digits, tmp_path, monkeypatch):
    scores = iter([5.0, 4.0, 3.0] + [9.0] * 99)  # best after epoch 2
    monkeypatch.setattr(train, "evaluate", lambda *_: {"loss": next(scores)})
    argv = small("vae", digits, "--batch-size 36 --epochs 50")
    assert train.main([*argv, "--patience", "3", "--out", str(tmp_path / "a")]) == 0
    assert last(tmp_path / "a")["state"]["epoch"] == 5
    scores = iter([5.0, 4.0, 3.0] + [9.0] * 99)
    assert train.main([*argv, "--patience", "3", "--kl-warm-up", "16", "--out", str(tmp_path / "b")]) == 0
    assert (
        last(tmp_path / "b")["state"]["epoch"] == 4 + 3
    )  # 16 updates of 36 pictures out of 144 are 4 epochs


@pytest.mark.parametrize("model", models.MODELS)
def test_a_run_has_the_flags_of_its_model_and_no_others(model):
    flags = vars(train.read_flags(["--model", model])[0])
    of_model = models.constructor_defaults(model)
    of_any = set().union(*(models.constructor_defaults(name) for name in models.MODELS))
    from_data = {"image_shape", "n_classes", "n_train", "n_test", "label_width"}
    assert flags.keys() & of_any == of_model.keys() - from_data
    assert flags.keys() >= data.FLAGS.keys() | models.MODELS[model].defaults.keys()


def test_flags_win_over_the_class_which_wins_over_the_data():
    flags, last = train.read_flags(["--model", "text2image", "--lr", "0.5", "--valid-fraction", "0.2"])
    defaults = models.Text2Image.defaults
    assert (flags.lr, flags.valid_fraction, last) == (0.5, 0.2, None)
    assert (flags.data, flags.drawn, flags.epochs) == ("arithmetic", "answer", defaults["epochs"])


def test_flags_from_a_file_come_first_and_later_flags_win(digits, tmp_path):
    recipe = tmp_path / "recipe.txt"
    recipe.write_text(
        '# a comment\n\n--model vae\n--encoder-layers "4,3,2,1 8,3,2,1"  # quoted\n--beta 3\n--epochs 1\n'
    )
    assert train.main([f"@{recipe}", "--data", digits, "--beta", "2", "--out", str(tmp_path / "run")]) == 0
    flags = json.loads((tmp_path / "run" / "config.json").read_text())["flags"]
    assert (flags["beta"], flags["epochs"], flags["encoder_layers"]) == (2, 1, "4,3,2,1 8,3,2,1")


def test_a_run_never_overwrites_another(digits, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    argv = small("ae", digits, "--steps 1")
    for _ in range(3):
        assert train.main(argv) == 0
    assert sorted(os.listdir("runs")) == ["ae-digits", "ae-digits-2", "ae-digits-3"]


def test_runs_that_is_a_link_to_nowhere_is_refused(digits, tmp_path, monkeypatch, refused):
    monkeypatch.chdir(tmp_path)
    Path("runs").symlink_to(tmp_path / "unmounted")
    assert "File exists: runs" in refused(train.main, small("ae", digits, "--steps 1"))


def test_the_seed_makes_the_run(digits, tmp_path):
    argv = small("vae", digits, "--epochs 1")
    for name, seed in (("a", "1"), ("b", "1"), ("c", "2")):
        assert train.main([*argv, "--seed", seed, "--out", str(tmp_path / name)]) == 0
    assert_same_run(tmp_path / "a", tmp_path / "b")
    assert not same(last(tmp_path / "a")["weights"], last(tmp_path / "c")["weights"])


# -----------------------------------------------------------------------------------------------------------
# Stopping loses nothing


@pytest.mark.parametrize("model", PICTURED)
def test_six_epochs_equal_three_a_kill_in_the_fourth_and_three_more(model, digits, tmp_path, monkeypatch):
    argv = small(model, digits, "--lr-schedule cosine --epochs 6 --batch-size 64")
    assert train.main([*argv, "--out", str(tmp_path / "whole")]) == 0
    optimizer_step, steps, players = torch.optim.Adam.step, [], 2 if model == "gan" else 1

    class Killed(BaseException):
        """Like a kill it runs no handler of ours."""

    def step_then_die(self):
        steps.append(1)
        if len(steps) > players * 3 * 3 + 1:  # 144 pictures are 3 batches: in the middle of the fourth epoch
            raise Killed
        return optimizer_step(self)

    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(torch.optim.Adam, "step", step_then_die)
        train.main([*argv, "--out", str(tmp_path / "killed")])
    assert last(tmp_path / "killed")["state"]["epoch"] == 3
    assert train.main(["--resume", str(tmp_path / "killed")]) == 0
    assert_same_run(tmp_path / "whole", tmp_path / "killed")


def test_more_epochs_extend_a_finished_run(digits, tmp_path):
    argv = small("vae", digits, "--lr-schedule constant")
    assert train.main([*argv, "--epochs", "4", "--out", str(tmp_path / "whole")]) == 0
    assert train.main([*argv, "--epochs", "2", "--out", str(tmp_path / "two")]) == 0
    assert train.main(["--resume", str(tmp_path / "two"), "--epochs", "4"]) == 0
    assert_same_run(tmp_path / "whole", tmp_path / "two")
    rows = list(csv.DictReader((tmp_path / "two" / "log.csv").read_text().splitlines()))
    assert [row["epoch"] for row in rows if row["split"] == "valid"] == list("01234")


def test_a_run_that_is_extended_has_no_summary_until_it_ends(digits, tmp_path, monkeypatch, no_pictures):
    folder = tmp_path / "run"
    assert train.main(small("ae", digits, "--epochs 1", folder)) == 0
    more = ["--resume", str(folder), "--epochs", "3"]
    killed_after(3, more, monkeypatch)  # after another epoch, which may have changed best.pt
    assert last(folder)["state"]["epoch"] == 2 and not (folder / "summary.json").exists()
    assert train.main(more) == 0
    assert json.loads((folder / "summary.json").read_text())["epochs"] == 3


def test_ctrl_c_keeps_the_last_epoch_and_says_how_to_go_on(digits, tmp_path, monkeypatch, capsys):
    argv = small("ae", digits, "--epochs 4", tmp_path / "run")
    train_epoch = train.train_epoch

    def interrupted(training, *rest):
        if training.state.epoch == 2:
            raise KeyboardInterrupt
        return train_epoch(training, *rest)

    monkeypatch.setattr(train, "train_epoch", interrupted)
    assert train.main(argv) == 130
    assert f"python train.py --resume {tmp_path / 'run'}" in capsys.readouterr().err
    assert last(tmp_path / "run")["state"]["epoch"] == 2


@pytest.mark.parametrize("where", ["training", "validation"])
def test_a_loss_that_is_no_number_stops_with_one_line_and_keeps_the_last_good_epoch(
    where, digits, tmp_path, monkeypatch, refused
):
    argv = small("ae", digits, "--epochs 4", tmp_path / "run")
    loss, calls = models.Autoencoder.loss, []

    def poisoned(self, batch, step):
        calls.append(1)
        value, parts = loss(self, batch, step)
        bad = step == 4 if where == "training" else self.training is False and len(calls) > 6
        return (value * math.nan, {"loss": value.detach() * math.nan}) if bad else (value, parts)

    monkeypatch.setattr(models.Autoencoder, "loss", poisoned)
    error = refused(train.main, argv)
    assert "step 5" in error if where == "training" else "step 6" in error, error
    assert "last good epoch: 1" in error and last(tmp_path / "run")["state"]["epoch"] == 1


class Killed(BaseException):
    """Like a kill it runs no handler of ours."""


def killed_after(steps, argv, monkeypatch):
    """Runs a command line that dies at the optimizers' step after so many."""
    optimizer_step, done = torch.optim.Adam.step, []

    def step_then_die(self):
        done.append(1)
        if len(done) > steps:
            raise Killed
        return optimizer_step(self)

    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(torch.optim.Adam, "step", step_then_die)
        train.main(argv)


@pytest.fixture
def no_pictures(monkeypatch):
    """Of the end of a run, which take longer than these runs."""
    monkeypatch.setattr(train.sample, "draw_run", lambda *run: [])


# 144 and 40 pictures in batches of 64: 2 epochs x 3 steps of training, then 2 x 3 and 2 x 1 for the latents
PHASES = "--epochs 2 --batch-size 64 --fit-batch-size 64"


@pytest.mark.parametrize(
    "steps, finished_phases", [(6, []), (6 + 4, []), (6 + 6, ["refined"]), (6 + 6 + 1, ["refined"])]
)
@pytest.mark.parametrize("model", FREE)
def test_a_kill_while_latents_are_fitted_loses_nothing(
    model, steps, finished_phases, digits, tmp_path, monkeypatch, no_pictures
):
    argv = small(model, digits, PHASES)
    assert train.main([*argv, "--out", str(tmp_path / "whole")]) == 0
    killed_after(steps, [*argv, "--out", str(tmp_path / "killed")], monkeypatch)
    checkpoint = last(tmp_path / "killed")
    assert checkpoint["state"]["epoch"] == 2 and checkpoint["state"]["finished_phases"] == finished_phases
    splits = ["train", "train"] + ["refined", "refined"] * len(finished_phases)
    assert [row["split"] for row in checkpoint["state"]["history"]] == splits
    assert checkpoint["weights"]["refined"].isfinite().all() == bool(finished_phases)
    assert checkpoint["weights"]["test_latents"].isnan().all()
    assert train.main(["--resume", str(tmp_path / "killed")]) == 0
    assert_same_run(tmp_path / "whole", tmp_path / "killed")
    weights = last(tmp_path / "killed")["weights"]
    assert weights["refined"].isfinite().all() and weights["test_latents"].isfinite().all()
    summaries = [json.loads((tmp_path / name / "summary.json").read_text()) for name in ("whole", "killed")]
    for name in ("train", "refined", "test"):
        assert summaries[0][name] == summaries[1][name]


@pytest.mark.parametrize("model", FREE)
def test_more_epochs_find_the_latents_anew(model, digits, tmp_path, monkeypatch, no_pictures):
    argv = small(model, digits, "--batch-size 64 --fit-batch-size 64")
    assert train.main([*argv, "--epochs", "4", "--out", str(tmp_path / "whole")]) == 0
    assert train.main([*argv, "--epochs", "2", "--out", str(tmp_path / "two")]) == 0
    first = last(tmp_path / "two")["weights"]
    more = ["--resume", str(tmp_path / "two"), "--epochs", "4"]
    killed_after(3 + 1, more, monkeypatch)  # in the fourth epoch
    checkpoint = last(tmp_path / "two")
    assert checkpoint["state"]["epoch"] == 3 and checkpoint["state"]["finished_phases"] == []
    assert {row["split"] for row in checkpoint["state"]["history"]} == {"train"}
    for name in ("refined", "test_latents"):  # they were those of another network
        assert checkpoint["weights"][name].isnan().all()
    assert train.main(more) == 0
    weights, whole = last(tmp_path / "two")["weights"], last(tmp_path / "whole")["weights"]
    assert same(weights, whole) and not same(weights["test_latents"], first["test_latents"])
    state = last(tmp_path / "two")["state"]
    assert state["images"] > last(tmp_path / "whole")["state"]["images"] > 4 * 144  # of the phases too
    splits = [row["split"] for row in state["history"]]
    assert splits == [*["train"] * 4, "refined", "refined", "test_latents", "test_latents"]


@pytest.mark.parametrize("model", FREE)
def test_a_finished_run_that_is_resumed_finds_no_latents_again(
    model, digits, tmp_path, monkeypatch, no_pictures
):
    folder = tmp_path / "run"
    assert train.main(small(model, digits, PHASES, folder)) == 0
    before, summary = last(folder), json.loads((folder / "summary.json").read_text())
    monkeypatch.setattr(torch.optim.Adam, "step", lambda self: pytest.fail("a step too many"))
    assert train.main(["--resume", str(folder)]) == 0
    assert same(before["weights"], last(folder)["weights"]) and same(before["state"], last(folder)["state"])
    again = json.loads((folder / "summary.json").read_text())
    for name in ("train", "refined", "test"):  # the same noise each time
        assert again[name] == summary[name]


def test_a_kill_before_the_pictures_leaves_a_run_that_still_draws_them(digits, tmp_path, monkeypatch):
    def stop(*_):
        raise KeyboardInterrupt

    folder = tmp_path / "run"
    with monkeypatch.context() as patch:
        patch.setattr(sample, "draw_run", stop)
        assert train.main(small("ae", digits, "--epochs 1", folder)) == 130
    assert not (folder / "summary.json").exists() and not list(folder.glob("*.png"))
    assert train.main(["--resume", str(folder)]) == 0
    assert (folder / "summary.json").exists() and (folder / "reconstructions.png").exists()


def test_phases_that_are_not_wanted_are_left_out(digits, tmp_path, no_pictures):
    argv = small("ad", digits, "--epochs 1 --refine-epochs 0 --fit-epochs 0", tmp_path / "run")
    assert train.main(argv) == 0
    weights = last(tmp_path / "run")["weights"]
    assert weights["refined"].isnan().all() and weights["test_latents"].isnan().all()
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert "train" in summary and not {"refined", "test"} & summary.keys()


def test_refinement_goes_on_from_the_trained_latents(digits, tmp_path, no_pictures):
    assert train.main(small("ad", digits, "--epochs 2 --latent-lr 0.1 --fit-lr 1e-6", tmp_path / "run")) == 0
    weights = last(tmp_path / "run")["weights"]
    assert 0 < (weights["refined"] - weights["latents.weight"]).abs().max() < 1e-4


def test_a_loss_that_is_no_number_after_the_phases_tells_the_right_epoch(
    digits, tmp_path, monkeypatch, refused, no_pictures
):
    folder = tmp_path / "run"
    assert train.main(small("ad", digits, "--epochs 2 --refine-epochs 5 --fit-epochs 7", folder)) == 0
    loss = models.AutoDecoder.loss
    monkeypatch.setattr(
        models.AutoDecoder, "loss", lambda *args: (loss(*args)[0], {"loss": torch.tensor(math.nan)})
    )
    error = refused(train.main, ["--resume", folder, "--epochs", "3"])
    assert "last good epoch: 2" in error and last(folder)["state"]["epoch"] == 2


@pytest.mark.parametrize("objective, unit", [("nats", "nats/image"), ("report", "report R1")])
def test_the_summary_of_an_auto_decoder_tells_each_kind_of_latents_with_units(
    objective, unit, digits, tmp_path, no_pictures
):
    folder = tmp_path / "run"
    flags = "--epochs 2 --likelihood gaussian --beta 0.5 --refine-epochs 30 --fit-epochs 30 --fit-beta 0"
    assert train.main(small("ad", digits, f"{flags} --objective {objective}", folder)) == 0
    summary, dataset = json.loads((folder / "summary.json").read_text()), data.load(digits, valid_fraction=0)
    model = models.load(folder / "best.pt")
    tables = dict(train=model.latents.weight.detach(), refined=model.refined, test=model.test_latents)
    for name, z in tables.items():
        x = (dataset.test if name == "test" else dataset.train).x.numpy() / 255
        error = model.decode(z).detach().numpy() - x
        parts = np.array_split(error, range(16, len(x), 16))
        distance = np.mean([np.linalg.norm(255 * part) / part.size for part in parts for _ in part])
        wanted = (error**2).sum() / len(x) if objective == "nats" else distance
        assert summary[name]["reconstruction"] == pytest.approx(wanted, rel=1e-5)
        squares = (z.numpy() ** 2 / 2).mean()
        price = squares * 3 if objective == "nats" else squares
        assert summary[name]["penalty"] == pytest.approx(price, rel=1e-5)
        assert summary[name]["loss"] == pytest.approx(wanted + 0.5 * price, rel=1e-5)
    assert summary["refined"]["reconstruction"] < summary["train"]["reconstruction"]
    units = {name: summary["units"][name] for name in ("loss", "reconstruction", "rmse")}
    assert units == dict(loss=unit, reconstruction=unit, rmse="of 0..255")
    header = (folder / "log.csv").read_text().splitlines()[0]
    assert f"loss [{unit}]" in header and f"reconstruction [{unit}]" in header


@pytest.mark.parametrize("remedy", [
    "", "--gradient-penalty 0", "--no-he-init", "--no-decoder-norm"
])  # fmt: skip
def test_a_gan_with_each_remedy_goes_on_bit_for_bit(remedy, digits, tmp_path, monkeypatch, no_pictures):
    argv = small("gan", digits, f"--epochs 2 --batch-size 64 {remedy}")
    assert train.main([*argv, "--out", str(tmp_path / "whole")]) == 0
    killed_after(2 * 3 + 3, [*argv, "--out", str(tmp_path / "killed")], monkeypatch)  # between the players
    assert last(tmp_path / "killed")["state"]["epoch"] == 1
    assert train.main(["--resume", str(tmp_path / "killed")]) == 0
    assert_same_run(tmp_path / "whole", tmp_path / "killed")


@pytest.mark.parametrize("model", PICTURED)
def test_bfloat16_trains_nearly_as_well(model, digits, tmp_path, no_pictures):
    losses = {}
    for flag in ([], ["--bf16"]):
        out = tmp_path / str(len(flag))
        assert train.main([*small(model, digits, "--epochs 1", out), *flag]) == 0
        row = next(row for row in last(out)["state"]["history"] if row["split"] == "train")
        losses[len(flag)] = row["loss"] if "loss" in row else row["discriminator"]
        assert all(t.dtype != torch.bfloat16 for t in last(out)["weights"].values())
    assert losses[1] != losses[0] and losses[1] == pytest.approx(losses[0], rel=0.03)


def start(argv):
    command = [sys.executable, str(ROOT / "train.py"), *argv]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def kill_and_resume(argv, folder, kills, longest):
    """Starts a run, kills it at random moments after its folder has appeared, and ends it undisturbed."""
    for k, when in enumerate(kills):
        process = start(["--resume", str(folder)] if (folder / "last.pt").exists() else argv)
        deadline = time.monotonic() + 60
        while k == 0 and not folder.exists() and time.monotonic() < deadline:
            time.sleep(0.002)
        time.sleep(when * longest)
        process.send_signal(signal.SIGKILL)
        process.wait()
        for path in folder.rglob("*"):  # whatever is there can be read
            if path.is_dir():
                assert path == folder / "epochs"
            elif path.suffix == ".pt":
                torch.load(path, weights_only=True)
            elif path.suffix == ".json":
                json.loads(path.read_text())
            elif path.suffix == ".csv":
                assert all(None not in row for row in csv.DictReader(path.read_text().splitlines()))
            elif path.suffix == ".png":
                data.read_picture(path, None)
            else:
                assert path.name == ".lock" or path.name.endswith(".tmp"), path
    assert start(["--resume", str(folder)] if (folder / "last.pt").exists() else argv).wait() == 0
    assert not list(folder.glob(".*.tmp"))


def check_kills(n, digits, tmp_path, longest):
    argv = small("vae", digits, "--epochs 12 --batch-size 8")
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    assert start([*argv, "--out", str(whole)]).wait() == 0
    dice = random.Random(n)
    kill_and_resume(
        [*argv, "--out", str(killed)], killed, [0.02, *(dice.random() for _ in range(n - 1))], longest
    )
    assert_same_run(whole, killed)


def test_kill_9_at_two_moments(digits, tmp_path):
    check_kills(2, digits, tmp_path, 5.0)


@pytest.mark.long
def test_kill_9_at_twenty_random_moments(digits, tmp_path):
    check_kills(20, digits, tmp_path, 5.0)


# -----------------------------------------------------------------------------------------------------------
# Wrong use: one clear line, status 1 or 2, nothing lost

TRAIN = {  # flags of train.py, after --out NEW: a phrase that the one line must hold
    "no model": ([], "which model? --model ae|vae"),
    "unknown model": (["--model", "gpt"], "invalid choice: 'gpt'"),
    "mistyped flag": (["--model", "ae", "--epoch", "3"], "did you mean --epochs"),
    "word for a number": (["--model", "ae", "--epochs", "three"], "'three' is not a whole number"),
    "no epochs": (["--model", "ae", "--epochs", "0"], "from 1"),
    "empty batch": (["--model", "ae", "--batch-size", "0"], "from 1"),
    "negative rate": (["--model", "ae", "--lr", "-1"], "not a number above 0"),
    "rate of nan": (["--model", "ae", "--lr", "nan"], "not a number above 0"),
    "flag of another model": (["--model", "ae", "--beta", "4"], "--beta does nothing for --model ae"),
    "objective of another model": (["--model", "ae", "--objective", "elbo"], "choose from reconstruction"),
    "beta of iwae": (["--model", "vae", "--objective", "iwae", "--beta", "4"], "not for iwae"),
    "unknown likelihood": (["--model", "ae", "--likelihood", "poisson"], "invalid choice"),
    "unknown data": (["--model", "ae", "--data", "mnist10"], "did you mean mnist10k"),
    "missing path": (["--model", "ae", "--data", "nowhere/"], "there is no data set or file"),
    "text as data": (["--model", "ae", "--data", "TEXT"], "TEXT"),
    "empty folder": (["--model", "ae", "--data", "EMPTY"], "no readable picture"),
    "classes of digits": (["--model", "ae", "--classes", "1,2"], "--data quickdraw"),
    "all is validation": (["--model", "ae", "--valid-fraction", "1"], "[0, 1)"),
    "labels missing": (["--model", "cvae", "--data", "UNLABELED"], "labels of two classes"),
    "nothing to classify": (["--model", "classifier", "--data", "UNLABELED"], "labels of two classes"),
    "layers as words": (["--model", "ae", "--encoder-layers", "32x3"], "channels,kernel,stride,padding"),
    "too many layers": (["--model", "ae", "--encoder-layers", "4,9,9,0 4,9,9,0"], "leave nothing"),
    "decoder of another size": (["--model", "ae", "--decoder-layers", "1,3,1,1"], "data are (1, 14, 14)"),
    "bad start": (["--model", "ae", "--decoder-start", "128"], "channels,height,width"),
    "rows that do not fit": (
        ["--model", "ae", "--decoder", "lstm", "--no-decoder-readout"], "--decoder-hidden must be a row"),
    "no such device": (["--model", "ae", "--device", "abacus"], "--device abacus cannot be used"),
    "patience without validation": (
        ["--model", "ae", "--valid-fraction", "0", "--patience", "2"], "needs a validation loss"),
    "patience of a GAN": (["--model", "gan", "--patience", "2"], "needs a validation loss"),
    "patience of free latents": (["--model", "ad", "--patience", "2"], "needs a validation loss"),
    "encoder of free latents": (["--model", "ad", "--encoder", "mlp"], "--encoder does nothing for"),
    "decoder of a GAN": (["--model", "gan", "--decoder", "mlp"], "--decoder does nothing for --model gan"),
    "unknown prior": (["--model", "vad", "--prior", "cauchy"], "invalid choice: 'cauchy'"),
    "resume of nothing": (["--resume", "EMPTY"], "holds no last.pt"),
    "resume of no folder": (["--resume", "nowhere"], "there is no folder nowhere"),
    "resume with other flags": (["--resume", "RUN", "--lr", "1"], "--lr does not go with --resume"),
    "fewer epochs than done": (["--resume", "RUN", "--epochs", "1"], "it has 2"),
    "folder taken": (["--model", "ae", "--out", "RUN"], "holds a run already"),
    "out is a file": (["--model", "ae", "--out", "TEXT"], "is a file: name a folder"),
    "size without end": (["--model", "ae", "--image-size", "1000000"], "give pixels from 1 to 7,071"),
    "missing recipe": (["@nowhere.txt", "--model", "ae"], "cannot read flags from nowhere.txt"),
    "recipe is a folder": (["@EMPTY"], "not a regular file"),
    "missing recipe after flags": (["--model", "ae", "@nowhere.txt"], "cannot read flags from nowhere.txt"),
}  # fmt: skip
OTHERS = {
    "sample: no run": (sample, ["EMPTY"], "is not a run folder"),
    "sample: damaged checkpoint": (sample, ["DAMAGED"], "not a checkpoint of this project, or is damaged"),
    "sample: damaged config": (sample, ["NO_CONFIG"], "config.json is damaged"),
    "sample: unknown picture": (sample, ["RUN", "--what", "poem"], "invalid choice: 'poem'"),
    "sample: nothing to sample": (sample, ["RUN", "--what", "prior"], "cannot draw --what prior"),
    "sample: no classes": (sample, ["VAE", "--what", "class"], "needs a conditional model"),
    "sample: three latents": (sample, ["VAE", "--what", "manifold"], "needs --latent-dim 2"),
    "sample: unknown class": (sample, ["CVAE", "--what", "class", "--classes", "cat"], "no class 'cat'"),
    "sample: judge is no classifier": (
        sample,
        ["CVAE", "--what", "class", "--judge", "VAE"],
        "not a classifier",
    ),
    "sample: unknown format": (
        sample,
        ["RUN", "--what", "real", "--out", "TEXT.doc"],
        "doc is no picture",
    ),
    "sample: two runs, one picture": (sample, ["RUN", "VAE", "--what", "real"], "only with --what curves"),
    "metrics: no judge": (metrics, ["CVAE"], "--features classifier:RUN"),
    "metrics: unknown features": (metrics, ["CVAE", "--features", "eyes"], "or classifier:RUN"),
    "metrics: no run": (metrics, ["EMPTY"], "is not a run folder"),
}


@pytest.fixture
def places(run, tmp_path, monkeypatch):
    """Words that stand for files and folders, right ones and wrong ones."""
    monkeypatch.chdir(tmp_path)
    for name in ("EMPTY", "DAMAGED", "NO_CONFIG"):
        (tmp_path / name).mkdir()
    (tmp_path / "TEXT").write_text("not a picture")
    np.save(tmp_path / "UNLABELED.npy", np.zeros((50, 14, 14), np.uint8))
    (tmp_path / "DAMAGED" / "config.json").write_bytes((run("ae") / "config.json").read_bytes())
    (tmp_path / "DAMAGED" / "best.pt").write_bytes((run("ae") / "best.pt").read_bytes()[:-100])
    (tmp_path / "NO_CONFIG" / "config.json").write_text('{"flags": ')
    words = {"RUN": run("ae"), "VAE": run("vae"), "CVAE": run("cvae"), "UNLABELED": "UNLABELED.npy"}
    return lambda argv: [str(words.get(arg, arg)) for arg in argv]


@pytest.mark.parametrize("name", TRAIN)
def test_wrong_use_of_train(name, places, refused, digits):
    argv, phrase = TRAIN[name]
    new = [] if "--resume" in argv else ["--out", "NEW", "--data", digits]
    error = refused(train.main, [*new, *places(argv)])
    assert phrase in error, error
    assert not Path("NEW", "last.pt").exists()


@pytest.mark.parametrize("name", OTHERS)
def test_wrong_use_of_the_others(name, places, refused):
    script, argv, phrase = OTHERS[name]
    error = refused(script.main, places(argv))
    assert phrase in error, error


def test_idle_flags_are_noted_but_do_no_harm(digits, tmp_path, capsys):
    argv = ["--model", "ae", "--data", digits, "--steps", "1"]
    argv += ["--encoder", "mlp", "--encoder-layers", "4,3,2,1", "--data-dir", str(tmp_path)]
    assert train.main([*argv, "--out", str(tmp_path / "run")]) == 0
    notes = capsys.readouterr().err
    assert "--encoder-layers does nothing with --encoder mlp" in notes
    assert f"--data-dir does nothing with --data {digits}" in notes


def test_help_tells_every_default(capsys):
    assert train.main(["--help"]) == 0
    text = " ".join(capsys.readouterr().out.split()).replace("cross- entropy", "cross-entropy")  # wrapped
    for model, cls in models.MODELS.items():
        for name, value in (models.constructor_defaults(model) | cls.defaults).items():
            if isinstance(value, int | float | str) and name not in {"label_width", *data.FLAGS}:
                default = rf"\b{model}\b[a-z2 ]* {re.escape(str(value))}[;)]"
                assert re.search(default, text), (model, name, value)


# -----------------------------------------------------------------------------------------------------------
# Odd moments and odd data


def test_a_decoder_that_ignores_z_is_warned_of_once(digits, tmp_path, capsys):
    argv = small("vae", digits, "--beta 1000 --lr 0.01 --epochs 6", tmp_path / "run")
    assert train.main(argv) == 0
    assert last(tmp_path / "run")["state"]["history"][-1]["active_latents"] == 0
    assert capsys.readouterr().err.count("the decoder ignores z") == 1


def test_a_kill_between_the_first_best_and_the_first_last_leaves_a_folder_to_start_in(
    digits, tmp_path, monkeypatch, capsys
):
    argv, write_file = small("ae", digits, "--epochs 1", tmp_path / "run"), train.write_file

    def die(path, writer):
        if path.name == "last.pt":
            raise KeyboardInterrupt
        write_file(path, writer)

    with monkeypatch.context() as patch:
        patch.setattr(train, "write_file", die)
        assert train.main(argv) == 130
    assert (tmp_path / "run" / "best.pt").exists() and "--resume" not in capsys.readouterr().err
    assert train.main(argv) == 0


def test_a_best_checkpoint_in_the_place_of_the_last_is_refused(run, tmp_path, refused):
    (tmp_path / "last.pt").write_bytes((run("ae") / "best.pt").read_bytes())
    assert "cannot be resumed" in refused(train.main, ["--resume", tmp_path])


def test_three_pictures_are_enough_to_train(tmp_path, capsys):
    np.save(tmp_path / "three.npy", np.random.RandomState(0).randint(0, 256, (3, 14, 14), np.uint8))
    assert train.main(small("vae", str(tmp_path / "three.npy"), "--epochs 1", tmp_path / "run")) == 0
    assert "note: no picture of --what real" in capsys.readouterr().err


def test_color_and_pictures_that_are_not_square_train(tmp_path):
    np.save(tmp_path / "wide.npy", np.random.RandomState(0).randint(0, 256, (40, 3, 12, 20), np.uint8))
    for kind in models.DECODERS:
        argv = ["--model", "vae", "--data", str(tmp_path / "wide.npy"), "--steps", "2", "--decoder", kind]
        assert train.main([*argv, "--out", str(tmp_path / kind)]) == 0


def test_want_of_memory_is_told_in_one_line(refused, digits, tmp_path, monkeypatch):
    def want_memory(*args, **options):
        return torch.empty(2**50)

    monkeypatch.setattr(models, "build", want_memory)
    assert "out of memory" in refused(train.main, small("ae", digits, "", tmp_path / "run"))


def test_steps_then_epochs_end_at_those_epochs(digits, tmp_path):
    argv = small("ae", digits, "--batch-size 50 --steps 2", tmp_path / "run")  # 3 updates an epoch
    assert train.main(argv) == 0 and train.main(["--resume", str(tmp_path / "run"), "--epochs", "2"]) == 0
    assert last(tmp_path / "run")["state"]["epoch"] == 2


def test_latents_that_do_not_converge_are_told_in_one_line(
    digits, tmp_path, no_pictures, refused, monkeypatch
):
    def nowhere(self, numbers, *_):
        return numbers.sum() * math.nan

    monkeypatch.setattr(models.AutoDecoder, "latent_loss", nowhere)
    error = refused(train.main, small("ad", digits, "--epochs 1 --fit-lr 0.5", tmp_path / "run"))
    assert "train again with --fit-lr 0.05" in error  # for --resume refuses that flag
    assert not last(tmp_path / "run")["state"]["finished_phases"]


# -----------------------------------------------------------------------------------------------------------
# Doors: what is not ours is left alone, and what is damaged is refused before it is used


def content(folder):
    """{name: bytes} of all files below a folder, but for the lock, which is empty."""
    return {str(path): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("name", ["config.json", "best.pt", "summary.json", ".notes.txt.1.tmp", "a/b.png"])
def test_a_new_run_takes_no_folder_that_holds_files(name, digits, tmp_path, refused):
    path = tmp_path / "mine" / name
    path.parent.mkdir(parents=True)
    path.write_text("dear")
    before = content(tmp_path / "mine")
    assert "is not empty" in refused(train.main, small("ae", digits, "--steps 1", tmp_path / "mine"))
    assert content(tmp_path / "mine") == before


def test_what_is_kept_of_a_finished_run_is_not_replaced(run, digits, tmp_path, refused):
    for name in (".lock", "config.json", "best.pt"):
        shutil.copy(run("ae") / name, tmp_path)
    assert "is not empty" in refused(train.main, small("ae", digits, "--steps 1", tmp_path))


def test_a_lock_that_no_run_makes_is_refused(run, tmp_path, refused):
    shutil.copytree(run("ae"), tmp_path / "run")
    (tmp_path / "run" / ".lock").unlink()
    (tmp_path / "run" / ".lock").symlink_to(tmp_path / "elsewhere")
    assert "remove it" in refused(train.main, ["--resume", tmp_path / "run", "--epochs", "3"])
    assert not (tmp_path / "elsewhere").exists()


def test_a_run_killed_before_its_first_checkpoint_is_started_again(run, digits, tmp_path):
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "epochs").mkdir()
    for name in (".lock", "config.json", ".best.pt.4194305.tmp", ".last.pt.4194305.tmp"):
        (folder / name).write_text("half")
    torch.save(last(run("ae")) | {"epoch": 0}, folder / "best.pt")
    assert train.main(small("ae", digits, "--steps 1", folder)) == 0
    assert not list(folder.glob(".*.tmp"))


@pytest.mark.parametrize("flag", ["--resume", "--out"])
def test_a_run_in_use_is_refused(flag, run, digits, tmp_path, refused):
    folder = tmp_path / "run"
    argv = ["--resume", folder]
    if flag == "--out":
        folder.mkdir()
        argv = small("ae", digits, "--steps 1", folder)
    else:
        shutil.copytree(run("ae"), folder)
    with data.lock(folder):
        assert "in use by another process" in refused(train.main, argv)


def test_a_run_of_a_version_that_lacked_a_flag_is_resumed(run, tmp_path):
    shutil.copytree(run("vae"), tmp_path / "run")
    checkpoint = last(tmp_path / "run")
    del checkpoint["arguments"]["shift"], checkpoint["config"]["flags"]["shift"]
    torch.save(checkpoint, tmp_path / "run" / "last.pt")
    assert train.main(["--resume", str(tmp_path / "run"), "--epochs", "3"]) == 0
    assert last(tmp_path / "run")["arguments"]["shift"] == 0


@pytest.mark.parametrize("gpu", [None, "some GPU"])
def test_a_resumed_run_has_the_threads_that_it_had_on_a_cpu(gpu, run, tmp_path):
    shutil.copytree(run("ae"), tmp_path, dirs_exist_ok=True)
    checkpoint = last(tmp_path)
    checkpoint["config"] |= dict(threads=2, gpu=gpu)
    torch.save(checkpoint, tmp_path / "last.pt")
    try:
        assert train.main(["--resume", str(tmp_path), "--epochs", "3", "--device", "cpu"]) == 0
    finally:
        torch.set_num_threads(1)
    config = json.loads((tmp_path / "config.json").read_text())
    assert config["threads"] == (1 if gpu else 2)
    assert config["gpu"] == gpu


def test_a_run_of_a_version_that_lacked_a_unit_is_resumed(run, tmp_path):
    shutil.copytree(run("vae"), tmp_path / "run")
    checkpoint = last(tmp_path / "run")
    del checkpoint["config"]["units"]["reconstruction"]
    torch.save(checkpoint, tmp_path / "run" / "last.pt")
    assert train.main(["--resume", str(tmp_path / "run"), "--epochs", "3"]) == 0


def test_a_term_without_a_unit_is_logged(digits, tmp_path, monkeypatch, no_pictures):
    class Penalized(models.Autoencoder):  # as a reader's first model may be
        def loss(self, batch, step):
            loss, terms = super().loss(batch, step)
            return loss, terms | {"sparsity": loss}

    monkeypatch.setitem(models.MODELS, "ae", Penalized)
    assert train.main(small("ae", digits, "--steps 1", tmp_path / "run")) == 0
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert summary["test"]["sparsity"] == summary["test"]["loss"]


def test_weights_that_are_not_finite_are_not_saved(digits, tmp_path, refused, monkeypatch):
    step = torch.optim.Adam.step

    def break_weights(optimizer):  # an update can do so although the loss before it is finite
        step(optimizer)
        with torch.no_grad():
            optimizer.param_groups[0]["params"][0].view(-1)[0] = math.inf

    monkeypatch.setattr(torch.optim.Adam, "step", break_weights)
    argv = small("ad", digits, "--steps 1", tmp_path / "run")
    assert "a weight after step 1 is not a finite number" in refused(train.main, argv)
    assert last(tmp_path / "run")["state"]["epoch"] == 0


@pytest.mark.parametrize("split", ["x_train", "y_train", "x_test"])
def test_a_run_is_not_resumed_on_other_data(split, digits, tmp_path, refused):
    arrays = dict(np.load(digits))
    np.savez(tmp_path / "set.npz", **arrays)
    assert train.main(small("ae", str(tmp_path / "set.npz"), "--steps 1", tmp_path / "run")) == 0
    np.savez(tmp_path / "set.npz", **arrays | {split: arrays[split][::-1]})
    assert "data are not those" in refused(train.main, ["--resume", tmp_path / "run"])


def test_a_run_whose_data_have_moved_is_resumed(digits, tmp_path, refused):
    shutil.copy(digits, tmp_path / "set.npz")
    folder = tmp_path / "run"
    assert train.main(small("ae", str(tmp_path / "set.npz"), "--steps 1", folder)) == 0
    (tmp_path / "set.npz").rename(tmp_path / "moved.npz")
    assert "give --data for where they are now" in refused(train.main, ["--resume", folder])
    again = ["--resume", str(folder), "--data", str(tmp_path / "moved.npz"), "--epochs", "2"]
    assert train.main(again) == 0
    assert train.main(["--resume", str(folder), "--epochs", "3"]) == 0  # the run knows the new place
    x = np.zeros((40, 14, 14), np.uint8)
    np.savez(tmp_path / "others.npz", x_train=x)
    argv = ["--resume", folder, "--data", tmp_path / "others.npz"]
    assert "data are not those" in refused(train.main, argv)


def test_resuming_removes_temporary_files_of_its_own_names_alone(run, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(run("vae"), folder)
    others = (".notes.txt.1.tmp", ".log.csv.bak.tmp", "epochs/.0003.jpg.4194305.tmp")
    for name in (*others, ".log.csv.4194305.tmp", ".loss.png.4194305.tmp", "epochs/.0003.png.4194305.tmp"):
        (folder / name).write_text("half")
    assert train.main(["--resume", str(folder), "--epochs", "3"]) == 0
    assert {str(path.relative_to(folder)) for path in folder.rglob(".*.tmp")} == set(others)


def test_a_linked_folder_of_snapshots_is_refused(run, tmp_path, refused):
    folder = tmp_path / "run"
    shutil.copytree(run("vae"), folder)
    (folder / "epochs").rename(tmp_path / "pictures")
    (folder / "epochs").symlink_to(tmp_path / "pictures")
    assert "epochs is a link" in refused(train.main, ["--resume", folder, "--epochs", "3"])
    assert not (tmp_path / "pictures" / "0003.png").exists()


def moment(checkpoint):
    return checkpoint["optimizers"][0]["state"][0]


DAMAGE = {  # what happens to the content of last.pt, and a phrase of the refusal
    "config is a list": (lambda c: c.update(config=[]), "not a table of entries"),
    "no flags": (lambda c: c["config"].pop("flags"), "lacks the entry flags"),
    "another model": (lambda c: c["config"]["flags"].update(model="gpt"), "no --model 'gpt'"),
    "flag of another type": (lambda c: c["config"]["flags"].update(epochs="x"), "--epochs 'x'"),
    "flag out of range": (lambda c: c["config"]["flags"].update(lr=-1.0), "--lr -1.0"),
    "flag without a value": (lambda c: c["config"]["flags"].update(batch_size=None), "--batch-size None"),
    "switch of another type": (lambda c: c["config"]["flags"].update(he_init="x"), "--he-init 'x'"),
    "threads": (lambda c: c["config"].update(threads=10**6), "entry threads"),
    "state is a number": (lambda c: c.update(state=5), "its state is not"),
    "no epoch": (lambda c: c["state"].pop("epoch"), "its state is not"),
    "epoch is text": (lambda c: c["state"].update(epoch="x"), "its state is not"),
    "best is text": (lambda c: c["state"].update(best="x"), "its state is not"),
    "history is text": (lambda c: c["state"].update(history="x"), "its state is not"),
    "a row is text": (lambda c: c["state"]["history"].append("x"), "its state is not"),
    "a cell is text": (lambda c: c["state"]["history"][0].update(loss="x"), "its state is not"),
    "phases": (lambda c: c["state"].update(finished_phases=["x"]), "its state is not"),
    "phases of free latents": (lambda c: c["state"].update(finished_phases=["refined"]), "its state is not"),
    "another entry": (lambda c: c["state"].update(more=1), "its state is not"),
    "step below 0": (lambda c: c["state"].update(step=-5), "its state is not"),
    "steps beyond its epochs": (lambda c: c["state"].update(step=10**6), "is damaged"),
    "seconds are nan": (lambda c: c["state"].update(seconds=math.nan), "its state is not"),
    "best is -inf": (lambda c: c["state"].update(best=-math.inf), "its state is not"),
    "best epoch is to come": (lambda c: c["state"].update(best_epoch=99), "its state is not"),
    "other classes": (lambda c: c["config"].update(classes=["a", "b"]), "data are not those"),
    "best is nan": (lambda c: c["state"].update(best=math.nan), "its state is not"),
    "no history": (lambda c: c["state"].update(history=[]), "its state is not"),
    "no optimizers": (lambda c: c.update(optimizers=[]), "its optimizers"),
    "an optimizer is a number": (lambda c: c.update(optimizers=[5]), "its optimizers"),
    "no moment": (lambda c: moment(c).pop("exp_avg"), "its optimizers"),
    "moment is None": (lambda c: moment(c).update(exp_avg=None), "its optimizers"),
    "moment of another shape": (lambda c: moment(c).update(exp_avg=torch.zeros(1)), "its optimizers"),
    "moment of another type": (
        lambda c: moment(c).update(exp_avg_sq=moment(c)["exp_avg_sq"].double()), "its optimizers"),
    "moment of another layout": (
        lambda c: moment(c).update(exp_avg=torch.zeros(1).expand(moment(c)["exp_avg"].shape)),
        "its optimizers"),
    "moment is sparse": (
        lambda c: moment(c).update(exp_avg=moment(c)["exp_avg"].to_sparse()), "its optimizers"),
    "step is an int": (lambda c: moment(c).update(step=3), "its optimizers"),
    "weights of another shape": (
        lambda c: c["weights"].update({name: torch.zeros(1) for name in c["weights"]}), "its weights"),
    "weights of another type": (
        lambda c: c.update(weights={name: x.half() for name, x in c["weights"].items()}), "its weights"),
}  # fmt: skip


@pytest.mark.parametrize("name", DAMAGE)
def test_a_damaged_last_checkpoint_is_refused(name, run, tmp_path, refused):
    change, phrase = DAMAGE[name]
    checkpoint = last(run("ae"))
    change(checkpoint)
    torch.save(checkpoint, tmp_path / "last.pt")
    error = refused(train.main, ["--resume", tmp_path])
    assert phrase in error, error


def test_a_batch_of_one_under_batch_norm_is_one_line(tmp_path, refused):
    np.save(tmp_path / "x.npy", np.random.RandomState(0).randint(0, 256, (73, 8, 8), np.uint8))
    argv = [
        "--model",
        "ae",
        "--data",
        tmp_path / "x.npy",
        "--valid-fraction",
        "0",
        "--out",
        tmp_path / "run",
    ]
    argv += ["--batch-norm", "--encoder-layers", "4,3,2,1 4,3,2,1 4,3,2,1"]  # down to 1 x 1
    error = refused(train.main, [*argv, "--batch-size", "5"])  # 66 training pictures = 13 * 5 + 1
    assert "--batch-size 5 leaves a batch of one picture" in error


def test_a_full_disk_says_how_to_go_on(digits, tmp_path, monkeypatch, refused):
    fsync = os.fsync

    def fail_later(file):
        if (tmp_path / "run" / "log.csv").exists():  # the first epoch is there
            raise OSError(errno.ENOSPC, "No space left on device")
        return fsync(file)

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", fail_later)
        error = refused(train.main, small("ae", digits, "--epochs 3", tmp_path / "run"))
    assert "No space left on device" in error and f"--resume {tmp_path / 'run'}" in error
    assert train.main(["--resume", str(tmp_path / "run")]) == 0


def test_a_closed_stdout_says_how_to_go_on(digits, tmp_path, monkeypatch, refused):
    def fail(*_):
        raise BrokenPipeError(errno.EPIPE, "Broken pipe")  # as of `python train.py ... | head`

    monkeypatch.setattr(train.Console, "end_epoch", fail)
    error = refused(train.main, small("ae", digits, "--epochs 3", tmp_path / "run"))
    assert f"error: Broken pipe; then python train.py --resume {tmp_path / 'run'}" in error


@pytest.mark.parametrize("name", ["log.csv", "last.pt"])
def test_a_file_that_windows_keeps_open(name, digits, tmp_path, monkeypatch, capsys, no_pictures):
    folder = tmp_path / "run"
    replace = os.replace

    def refuse(source, target):
        if target.name == name and (folder / name).exists():
            raise PermissionError(errno.EACCES, "Permission denied")
        return replace(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", refuse)
        status = train.main(small("ae", digits, "--epochs 2", folder))
    error = capsys.readouterr().err
    if name == "log.csv":  # it can be written later
        assert status == 0 and "note:" in error and "log.csv is not up to date" in error
    else:
        assert status == 1 and f"last.pt; then python train.py --resume {folder}" in error
    assert train.main(["--resume", str(folder)]) == 0
    assert "2,train" in re.sub(r"2,\d+,train", "2,train", (folder / "log.csv").read_text())


def test_summaries_are_valid_json(digits, tmp_path, monkeypatch, no_pictures):
    monkeypatch.setattr(train, "score_splits", lambda *args: {"test": {"loss": math.nan}})
    assert train.main(small("ae", digits, "--steps 1", tmp_path / "run")) == 0
    summary = json.loads((tmp_path / "run" / "summary.json").read_text(), parse_constant=pytest.fail)
    assert summary["test"]["loss"] is None


class WithoutFloat64(TorchDispatchMode):
    """As on a Mac's GPU, where no tensor is float64."""

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **kwargs or {})
        for tensor in torch.utils._pytree.tree_leaves(result):
            if isinstance(tensor, torch.Tensor) and tensor.dtype == torch.float64:
                raise TypeError(f"{function} makes float64, which a Mac's GPU does not have")
        return result


@pytest.mark.parametrize("model", ["ad", "classifier", "gan", "vae"])
def test_training_needs_no_float64(model, digits, tmp_path, no_pictures):
    with WithoutFloat64():
        assert train.main(small(model, digits, "--epochs 1 --lr-schedule cosine", tmp_path / "run")) == 0


EXTREME = "--epochs --steps --batch-size --latent-dim --encoder-hidden --encoder-depth --dense --squeeze"
EXTREME += " --image-size --shift --per-class --seed --free-bits --beta"


@pytest.mark.parametrize("flag", EXTREME.split())
def test_extreme_flags_are_refused(flag, digits, tmp_path, refused):
    number = "1e308" if flag in ("--free-bits", "--beta") else "1" + "0" * 20
    error = refused(
        train.main, ["--model", "vae", "--data", digits, flag, number, "--out", tmp_path / "run"]
    )
    assert flag in error and not (tmp_path / "run").exists()


@pytest.mark.parametrize("flag", ["--out", "--data", "--data-dir"])
def test_a_nul_byte_is_refused(flag, refused):
    assert "NUL" in refused(train.main, ["--model", "ae", flag, "a\0b"])
