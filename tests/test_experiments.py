"""Every recipe trains and is the network of its report; several are trained at a time."""

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
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn as nn
from conftest import small

import data
import models
import sample
import train
from experiments import trainings
from experiments.reproduce import RECIPES

ROOT = Path(train.__file__).parent

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


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_trains(name, subset, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(sample, "draw_run", lambda *_: [])  # slow, and covered by test_sample.py
    load_arithmetic = data.load_arithmetic
    monkeypatch.setattr(data, "load_arithmetic", lambda *args: first_queries(load_arithmetic(*args)))
    recipe = RECIPES[name]
    argv = [f"@{recipe}", "--steps", "2", "--out", str(tmp_path / "run")]
    flags = train.read_flags(argv)[0]
    if flags.model in ("ad", "vad"):  # 16 channels: checkpoints of R1's 2,048 would be large
        _, height, width = flags.decoder_start
        argv += ["--fit-epochs", "1", "--refine-epochs", "1", "--decoder-start", f"16,{height},{width}"]
    if flags.data != "arithmetic":
        argv += ["--data", subset(flags.data)]
    assert train.main(argv) == 0
    assert "does nothing" not in capsys.readouterr().err


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_begins_with_a_title(name):
    assert re.match(r"# [A-Z].*\.\n", RECIPES[name].read_text())


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
    "r0-best-lstm-ae": (3584, None, rnn(4, 28, 128) + fc(3584, 64) + rnn(4, 64, 256) + fc(256, 28)),
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
    args, _ = train.read_flags([f"@{RECIPES[recipe]}", *flags])
    classes = list("0123456789" if args.data == "mnist10k" else "abcde")
    shape = (3, 64, 64) if args.data == "butterflies1k" else (1, 28, 28)
    sizes = dict(image_shape=shape, n_classes=len(classes), n_train=2, n_test=1)
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
# Trainings


def training(folder, digits, flags):
    return trainings.Training(folder, small("ae", digits, flags, folder))


def test_one_failure_stops_no_other_training_and_none_is_done_twice(digits, tmp_path, capsys, monkeypatch):
    planned = [training(tmp_path / lr, digits, f"--epochs 2 --lr {lr}") for lr in ("1e30", ".001", ".002")]
    assert trainings.run_all(planned, jobs=2) == [tmp_path / "1e30"]
    shown = capsys.readouterr().err
    assert "1e30: FAILED, status 1" in shown and "is not a finite number" in shown
    for folder, _ in planned[1:]:
        assert json.loads((folder / "summary.json").read_text())["epochs"] == 2
        assert "best epoch" in Path(f"{folder}.log").read_text()
    assert not (tmp_path / "1e30" / "summary.json").exists()

    started = []
    monkeypatch.setattr(trainings, "start", lambda folder, *_: started.append(folder) or 1 / 0)
    with pytest.raises(ZeroDivisionError):
        trainings.run_all(planned)
    assert started == [tmp_path / "1e30"]  # the others have finished


def wait_for(condition, seconds=60):
    end = time.monotonic() + seconds
    while not condition() and time.monotonic() < end:
        time.sleep(0.01)
    return condition()


RUN_ONE = """
import pathlib, signal, sys
from experiments import trainings
signal.signal(signal.SIGINT, signal.default_int_handler)  # which a shell may have ignored
trainings.run_all([trainings.Training(pathlib.Path(sys.argv[1]), sys.argv[2:])])
"""


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
@pytest.mark.skipif(os.name != "posix", reason="a process cannot see the end of its parent")
def test_no_training_is_left_behind_and_it_is_resumed(digits, tmp_path, how):
    folder = tmp_path / "out"
    planned = [training(folder, digits, "--epochs 150")]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", RUN_ONE, folder, *planned[0].argv]
    process = subprocess.Popen(command, cwd=ROOT, env=environment, stderr=subprocess.DEVNULL)
    assert wait_for((folder / "last.pt").exists)
    process.send_signal(how)
    assert process.wait(30) != 0

    def is_still():
        written = (folder / "last.pt").stat().st_mtime_ns
        time.sleep(0.5)
        return (folder / "last.pt").stat().st_mtime_ns == written

    assert wait_for(is_still, 5)  # no training is left running
    assert not (folder / "summary.json").exists()
    assert trainings.run_all(planned) == []
    assert json.loads((folder / "summary.json").read_text())["epochs"] == 150
    assert data.read_config(folder)["flags"]["resume"] == str(folder)
