"""Every recipe trains and is the network of its report; run.py trains what is missing and reports it."""

import dataclasses
import json
import math
import os
import re
import signal
import subprocess
import sys
import time
from itertools import pairwise

import numpy as np
import pytest
import torch
import torch.nn as nn
from conftest import small

import data
import models
import sample
import train
from experiments import run as experiments

# -----------------------------------------------------------------------------------------------------------
# Recipes


@pytest.fixture(scope="session")
def subset(tmp_path_factory):
    """subset(name) is a file with a few pictures of a data set, on which evaluation is fast."""
    folder = tmp_path_factory.mktemp("subset")

    def path(name):
        if not (folder / f"{name}.npz").exists():
            dataset = data.load(name)
            arrays = {"classes": np.array(dataset.classes)}
            for split, n in (("train", 100), ("valid", 20), ("test", 20)):
                x, y = dataset.split(split)
                rows = torch.from_numpy(data.stratified(y.numpy(), n))
                arrays |= {f"x_{split}": x[rows].numpy(), f"y_{split}": y[rows].numpy()}
            np.savez(folder / f"{name}.npz", **arrays)
        return str(folder / f"{name}.npz")

    return path


def first_queries(dataset):
    """The first 20 queries of each split."""
    splits = {name: dataset.split(name) for name in data.SPLITS}
    splits = {name: split._replace(x=split.x[:20], y=split.y[:20]) for name, split in splits.items()}
    return dataclasses.replace(dataset, **splits)


@pytest.mark.parametrize("name", experiments.RECIPES)
def test_every_recipe_trains(name, subset, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(sample, "draw_run", lambda *_: [])  # slow, and covered by test_sample.py
    load_arithmetic = data.load_arithmetic
    monkeypatch.setattr(data, "load_arithmetic", lambda *args: first_queries(load_arithmetic(*args)))
    recipe = experiments.RECIPES[name]
    argv = [f"@{recipe}", "--steps", "2", "--out", str(tmp_path / "run")]
    flags = train.read_flags(argv)[0]
    if flags.model in ("ad", "vad"):  # 16 channels: checkpoints of R1's 2,048 would be large
        _, height, width = flags.decoder_start
        argv += ["--fit-epochs", "1", "--refine-epochs", "1", "--decoder-start", f"16,{height},{width}"]
    if flags.data != "arithmetic":
        argv += ["--data", subset(flags.data)]
    assert train.main(argv) == 0
    assert "does nothing" not in capsys.readouterr().err


@pytest.mark.parametrize("name", experiments.RECIPES)
def test_every_recipe_begins_with_a_title(name):
    assert re.match(r"# [A-Z].*\.\n", experiments.RECIPES[name].read_text())  # --list shows it


# -----------------------------------------------------------------------------------------------------------
# The flags of a recipe give the network of its report. Here its parameters are counted by formula


def conv(*channels, k):
    """Weights and biases of convolutions, transposed or not, with k x k kernels."""
    return sum(b * (a * k * k + 1) for a, b in pairwise(channels))


def fc(*sizes):
    """Weights and biases of linear layers."""
    return conv(*sizes, k=1)


def rnn(gates, inputs, hidden, depth=1, directions=1):
    """Weights and biases of a GRU (3 gates) or an LSTM (4)."""
    layers = [inputs] + [directions * hidden] * (depth - 1)
    return sum(directions * gates * hidden * (size + hidden + 2) for size in layers)


R0_UP = conv(128, 64, 32, 1, k=3)
R0_DOWN = conv(1, 32, 64, 128, k=3)
GRU3 = rnn(3, 28, 128, 3, 2)
R0_LSTM = rnn(4, 28, 128, 2) + fc(128, 64) + rnn(4, 64, 128, 2) + fc(128, 28)
R0_CVAE_UP = 5 * 16 + fc(64 + 16, 1152) + R0_UP
R4_UP = fc(32, 6272) + conv(128, 64, 32, k=4) + conv(32, 1, k=3)
R4_VAE = conv(1, 32, 64, 128, k=3) + 2 * fc(6272, 32) + R4_UP
R3_3 = conv(56, 28, k=4) + conv(28, 14, k=3) + conv(14, 1, k=2)
R3_DECODERS = {  # what they start from, parameters of their transposed convolutions
    1: ((128, 7, 7), conv(128, 64, 1, k=4)),
    2: ((64, 7, 7), conv(64, 32, 16, k=4) + conv(16, 1, k=3)),
    3: ((64, 1, 1), conv(64, 56, k=4) + R3_3),
    4: ((6272, 1, 1), conv(6272, 56, k=4) + R3_3),
    5: ((128, 7, 7), conv(128, 56, 28, k=3) + conv(28, 14, k=4) + conv(14, 1, k=3)),
    6: ((64, 7, 7), conv(64, 56, 28, 14, k=4) + conv(14, 1, k=3)),
}


def r3(decoder, hidden=128, latents=2):
    start, layers = R3_DECODERS[decoder]
    parameters = rnn(4, 28, hidden) + 2 * fc(hidden, latents) + fc(latents, math.prod(start)) + layers
    return hidden, start, parameters


R1_UP = (
    fc(128, 8192) + 16 * (2048 * 512 + 512 * 256 + 256 * 128) + 2 * (512 + 256 + 128)
)  # batch norms in place of biases
R1_UP += conv(128, 1, k=4) + conv(1, 1, k=1)
R2_DOWN = conv(3, 32, 32, 64, 128, 256, k=3)
R2_UP = conv(256, 128, 64, 32, 32, 3, k=3)
R2_GAN = fc(16, 1024) + conv(64, 64, 64, 64, 64, k=3) + conv(64, 3, k=3)
R2_GAN += conv(3, 64, 64, 64, 64, 64, k=3) + fc(256, 1)
BEST_GAN = conv(3, 32, 64, 128, 256, k=4) + fc(4096, 1) + fc(16, 4096) + conv(256, 128, 64, 32, 3, k=4)
BEST_GAN += 128 + 64 + 32  # batch norm has two numbers where a convolution had its bias
NETWORKS = {  # recipe and flags: (size of the features, first shape of a convolutional decoder, weights)
    "r0-lstm-ae": (128, None, R0_LSTM),
    "r0-best-lstm-ae": (128, None, R0_LSTM),
    "r0-conv-ae": (1152, (128, 3, 3), R0_DOWN + fc(1152, 64, 1152) + R0_UP),
    "r0-rnn-vae": (256, (128, 3, 3), GRU3 + fc(256, 128) + fc(64, 1152) + R0_UP),
    "r0-rnn-vae --sequence full": (7168, (128, 3, 3), GRU3 + fc(7168, 128) + fc(64, 1152) + R0_UP),
    "r0-conv-vae": (1152, (128, 3, 3), R0_DOWN + fc(1152, 128) + fc(64, 1152) + R0_UP),
    "r0-cvae-rnn": (256, (128, 3, 3), GRU3 + fc(256 + 16, 128) + R0_CVAE_UP),
    "r0-cvae-conv": (1152, (128, 3, 3), R0_DOWN + fc(1152 + 16, 128) + R0_CVAE_UP),
    **{
        f"r1-{kind}": (None, None, R1_UP)
        for kind in ("ad", "vad-gaussian", "vad-exponential", "vad-uniform")
    },
    **{
        name: (None, None, fc(128, 64 * 7 * 7) + conv(64, 64, 32, k=4) + conv(32, 1, k=3))
        for name in ("best-ad", "best-vad")
    },
    "r2-vae": (1024, (256, 2, 2), R2_DOWN + fc(1024, 32, 2 * 16) + fc(16, 1024) + R2_UP),
    "r2-gan": (None, None, R2_GAN),
    "best-gan": (None, None, BEST_GAN),
    "r3-vae": r3(1),
    "r3-vae --encoder-hidden 64": r3(1, hidden=64),
    "r3-vae --encoder-hidden 256": r3(1, hidden=256),
    "r3-vae --latent-dim 6": r3(1, latents=6),
    **{f"r3-decoder{k}": r3(k) for k in R3_DECODERS},
    **{f"r3-latent --latent-dim {k}": r3(6, latents=k) for k in (2, 5, 10, 20)},
    "r4-lstm-ae": (128, None, rnn(4, 28, 128, 2) + 2 * fc(128, 128) + rnn(4, 128, 28, 2)),
    "r4-conv-ae": (1568, (32, 7, 7), conv(1, 16, 32, k=3) + fc(1568, 64, 1568) + conv(32, 16, 1, k=3)),
    "r4-rnn-vae": (14336, (128, 7, 7), rnn(3, 28, 256, 1, 2) + 2 * fc(14336, 32) + R4_UP),
    "r4-conv-vae": (6272, (128, 7, 7), R4_VAE),
    "r4-cvae": (6272, (128, 7, 7), R4_VAE + 5 * 32),
    "r4-classifier": (256, None, fc(784, 256, 256, 5)),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_a_recipe_is_the_network_of_its_report(name):
    features, start, parameters = NETWORKS[name]
    recipe, *flags = name.split()
    args, _ = train.read_flags([f"@{experiments.RECIPES[recipe]}", *flags])
    classes = list("0123456789" if args.data == "mnist10k" else "abcde")
    shape = (3, 64, 64) if args.data == "butterflies1k" else (1, 28, 28)
    sizes = dict(image_shape=shape, n_classes=len(classes), n_train=1, n_test=1)
    takes = models.constructor_defaults(args.model)
    arguments = {name: value for name, value in (vars(args) | sizes).items() if name in takes}
    model = models.build(args.model, **arguments).eval()
    network = [p for name, p in model.named_parameters() if name != "latents.weight"]
    assert sum(p.numel() for p in network) == parameters
    x, y = torch.rand(2, *shape), torch.arange(2)
    if features is None:
        assert model.sample(2).shape == x.shape
        return
    assert model.encoder.size == features
    assert model.encoder(x).shape == (2, features)
    if args.model == "classifier":
        assert model.predict(x).shape == (2, 5)
    else:
        assert model.reconstruct(x, y).shape == x.shape
    if start:
        unflatten = next(layer for layer in model.decoder.stack if isinstance(layer, nn.Unflatten))
        assert tuple(unflatten.unflattened_size) == start


# -----------------------------------------------------------------------------------------------------------
# run.py: what it plans


@pytest.mark.parametrize("name", experiments.SWEEPS)
def test_every_sweep_names_recipes_and_flags_that_exist(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    trainings = experiments.plan(name)
    experiments.check(trainings)  # train.py takes the flags
    assert len({folder for folder, _ in trainings}) == len(trainings) > 1


def test_folders_are_named_after_what_differs():
    def names(*args, **options):
        return [str(folder) for folder, _ in experiments.plan(*args, **options)]

    assert names("r0-conv-vae", seeds=2) == ["runs/r0-conv-vae", "runs/r0-conv-vae,seed=1"]
    assert names("r3-decoder")[5] == "runs/r3-decoder/r3-decoder6"
    assert names("r3-hidden", seeds=2, out="here") == [
        f"here/encoder-hidden={units}{seed}" for seed in ("", ",seed=1") for units in (64, 128, 256)
    ]
    assert names("r0-beta")[4] == "runs/r0-beta/r0-cvae-conv,beta=2"


def test_a_sweep_combines_the_values_of_its_flags(monkeypatch):
    sweep = experiments.Sweep(["r3-vae"], {"latent-dim": [2, 5], "beta": [1, 4]})
    monkeypatch.setitem(experiments.SWEEPS, "both", sweep)
    trainings = experiments.plan("both")
    assert [folder.name for folder, _ in trainings][1:3] == ["latent-dim=2,beta=4", "latent-dim=5,beta=1"]
    folder, argv = trainings[-1]
    args, _ = train.read_flags(argv)
    assert (args.latent_dim, args.beta, args.out) == (5, 4.0, str(folder))


def test_data_dir_replaces_a_part_of_a_data_set_by_the_whole(tmp_path):
    def added(name, more=()):
        training = experiments.plan(name, data_dir=str(tmp_path), more=more)[0]
        return training.argv[1:-4]

    data_dir = ["--data-dir", str(tmp_path)]
    assert added("r0-conv-vae", ["--steps", "9"]) == ["--steps", "9"]  # there are no drawings
    (tmp_path / "quickdraw").mkdir()
    np.save(tmp_path / "quickdraw" / "rabbit.npy", np.zeros((1001, 784), np.uint8))
    assert added("r3-vae") == ["--data", "mnist", *data_dir]
    assert added("r0-conv-vae", ["--steps", "9"]) == ["--data", "quickdraw", *data_dir, "--steps", "9"]


@pytest.mark.parametrize(
    "recipe, flags",
    [
        ("--model vae --data fashion2k", ""),  # has no whole
        ("--model image2text", "--data-dir {0}"),  # arithmetic is its default
        ("--model gan --data butterflies1k", "--data {0}/butterflies --image-size 64"),
    ],
)
def test_flags_of_the_whole_data_set(tmp_path, recipe, flags):
    (tmp_path / "butterflies").mkdir()
    expected = [part.format(tmp_path) for part in flags.split()]
    assert experiments.whole_data_flags(recipe.split(), str(tmp_path)) == expected


def test_the_butterflies_of_the_repository_serve_where_there_are_no_others(tmp_path):
    argv = ["--model", "gan", "--data", "butterflies1k"]
    assert experiments.whole_data_flags(argv, str(tmp_path)) == []


@pytest.mark.parametrize("clip, is_refused", [("1", True), (None, False)])
def test_a_flag_that_is_younger_than_a_run_had_its_default(tmp_path, clip, is_refused):
    training = experiments.plan("r4-conv-vae", out=tmp_path / "run", more=["--clip", clip] if clip else [])[
        0
    ]
    flags = vars(train.read_flags(training.argv)[0]).copy()
    del flags["clip"]  # as if that flag had not existed
    training.folder.mkdir()
    config = dict(flags=flags, classes=["a"], image_shape=[1, 28, 28], units={"loss": "nats"}, threads=1)
    (training.folder / "config.json").write_text(json.dumps(config))
    if is_refused:
        with pytest.raises(data.Mistake, match="was trained with --clip None, not 1.0"):
            experiments.check([training])
    else:
        experiments.check([training])


def test_wrong_use_is_refused_in_one_line(refused, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert "did you mean r3-hidden?" in refused(experiments.main, ["r3-hiden"])
    assert "--list" in refused(experiments.main, ["xyz"])
    assert "--list" in refused(experiments.main, [])
    assert "did you mean --steps?" in refused(experiments.main, ["r3-hidden", "--", "--stepps", "2"])
    assert "did you mean --seeds?" in refused(experiments.main, ["r3-hidden", "--seed", "2"])
    assert not list(tmp_path.iterdir())


def test_list_shows_recipes_and_sweeps(capsys):
    assert experiments.main(["--list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    for name in experiments.RECIPES | experiments.SWEEPS:
        assert any(line.split()[:1] == [name] and len(line.split()) > 1 for line in lines), name


# -----------------------------------------------------------------------------------------------------------
# run.py: what it does


def summary(folder):
    return json.loads((folder / "summary.json").read_text())


def test_a_sweep_trains_what_is_missing_and_one_failure_stops_nothing(digits, tmp_path, monkeypatch, capsys):
    recipe = tmp_path / "tiny.txt"
    out = tmp_path / "sweep"
    recipe.write_text("\n".join(f"'{arg}'" for arg in small("ae", digits, "--epochs 2")))
    monkeypatch.setitem(experiments.RECIPES, "tiny", recipe)
    sweep = experiments.Sweep(["tiny"], {"lr": ["1e30", "0.001", "0.002"]})
    monkeypatch.setitem(experiments.SWEEPS, "tiny-lr", sweep)
    argv = ["tiny-lr", "--jobs", "2", "--out", str(out)]
    assert experiments.main(argv) == 1
    finished = [out / "lr=0.001", out / "lr=0.002"]
    for folder in finished:
        assert summary(folder)["epochs"] == 2 and "best epoch" in (out / f"{folder.name}.log").read_text()
    assert not (out / "lr=1e30" / "summary.json").exists()
    assert "is not a finite number" in (out / "lr=1e30.log").read_text()
    shown = capsys.readouterr().out
    written = (out / "table.md").read_text()
    assert "lr=1e30: FAILED, status 1" in shown and written in shown
    header, _, *rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in written.splitlines()]
    assert [row[0] for row in rows] == ["lr=0.001", "lr=0.002"]
    for row, folder in zip(rows, finished, strict=True):
        numbers = summary(folder)
        cells = dict(zip(header, row, strict=True))
        assert float(cells["valid loss, nats/image"]) == pytest.approx(numbers["valid"]["loss"], rel=1e-4)
        assert float(cells["test mse, per pixel"]) == pytest.approx(numbers["test"]["mse"], rel=1e-4)
        assert float(cells["best epoch"]) == numbers["best_epoch"] and cells["seeds"] == "1"
    assert (out / "curves.png").read_bytes().startswith(b"\x89PNG")

    started = []
    monkeypatch.setattr(experiments, "start", lambda folder, *_, **__: started.append(folder) or 1 / 0)
    with pytest.raises(ZeroDivisionError):
        experiments.main(argv)
    assert started == [out / "lr=1e30"]  # the others have finished


def test_the_table_has_mean_and_standard_deviation_over_seeds(tmp_path):
    runs = []
    for seed, loss in enumerate((10.0, 14.0, 12.0)):
        runs.append(tmp_path / (f"beta=1,seed={seed}" if seed else "beta=1"))
        runs[-1].mkdir()
        scores = {"loss": loss, "active_latents": 3, "kl_per_dimension": [1.0]}
        summary = dict(
            data="x", steps=9, best_epoch=5, seconds=1.5, valid=scores, units={"loss": "nats/answer"}
        )
        (runs[-1] / "summary.json").write_text(json.dumps(summary))
    assert experiments.table(runs).splitlines() == [
        "|  | valid loss, nats/answer | valid active latents | best epoch | training, s | seeds |",
        "| --- | --- | --- | --- | --- | --- |",
        "| beta=1 | 12.0 ± 2.0 | 3 | 5 | 1.5 | 3 |",
    ]


@pytest.mark.parametrize(
    "text", ["[]", "{}", '{"best_epoch": 1, "seconds": 1, "valid": {"loss": "x"}, "units": {}}']
)
def test_a_damaged_summary_is_refused(tmp_path, text):
    (tmp_path / "summary.json").write_text(text)
    with pytest.raises(data.Mistake, match="is damaged"):
        experiments.final_numbers(tmp_path)


def test_a_table_shows_escape_sequences_and_does_not_send_them(tmp_path):
    content = dict(data="x", steps=1, seconds=1, best_epoch=1, valid={"loss": 2}, units={"loss": "\x1b[2J"})
    (tmp_path / "summary.json").write_text(json.dumps(content))
    assert "valid loss, \\x1b[2J" in experiments.final_numbers(tmp_path)


@pytest.mark.parametrize("name", ["table.md", "curves.png"])
def test_a_table_of_other_work_is_not_replaced(name, tmp_path, refused):
    (tmp_path / name).write_text("mine")
    assert f"holds a {name} of other work" in refused(experiments.main, ["r3-base", "--out", tmp_path])
    assert "is a file" in refused(experiments.main, ["r3-base", "--out", tmp_path / name])
    assert (tmp_path / name).read_text() == "mine"


def wait_for(condition, seconds=60):
    end = time.monotonic() + seconds
    while not condition() and time.monotonic() < end:
        time.sleep(0.01)
    return condition()


@pytest.mark.parametrize(
    "how",
    [
        signal.SIGTERM,
        pytest.param(
            signal.SIGKILL,
            marks=pytest.mark.skipif(
                os.name != "posix", reason="a process cannot see the end of its parent"
            ),
        ),
    ],
)
def test_a_killed_recipe_resumes_and_refuses_other_flags(digits, tmp_path, refused, monkeypatch, how):
    command = [sys.executable, str(experiments.ROOT / "experiments" / "run.py"), "r4-classifier"]
    more = ["--out", "out", "--", "--data", digits, "--encoder-hidden", "8", "--epochs", "150"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    folder = tmp_path / "out"
    quiet = dict(cwd=tmp_path, env=environment, stdout=subprocess.DEVNULL)
    process = subprocess.Popen([*command, *more], **quiet)
    assert wait_for((folder / "last.pt").exists)
    process.send_signal(how)
    assert process.wait(30) == (130 if how == signal.SIGTERM else -how)
    assert not (folder / "summary.json").exists()

    def is_still():
        written = (folder / "last.pt").stat().st_mtime_ns
        time.sleep(0.5)
        return (folder / "last.pt").stat().st_mtime_ns == written

    assert wait_for(is_still, 5)  # no training is left running
    assert not (folder / "summary.json").exists()

    monkeypatch.chdir(tmp_path)
    other = ["r4-classifier", "--out", "out", "--", "--data", digits, "--epochs", "150"]
    assert "trained with --encoder-hidden 8, not 256" in refused(experiments.main, other)

    assert subprocess.run([*command, *more], **quiet).returncode == 0
    assert summary(folder)["epochs"] == 150
    assert data.read_config(folder)["flags"]["resume"] == "out"
    assert (folder / "table.md").exists() and (folder / "curves.png").exists()
