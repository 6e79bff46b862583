"""What the tests share: a small set of digits, short runs, and a way to run a command line."""

import os

# Many tests compare bit for bit, so GPUs are hidden; TEST_GPU=0 shows one to the tests that need it
os.environ["CUDA_VISIBLE_DEVICES"] = os.environ.get("TEST_GPU", "-1")

import numpy as np
import pytest
import torch

import data
import models
import train

torch.set_num_threads(1)  # tiny models run faster so, and the same on every machine

DECODER = ["--latent-dim", "3", "--decoder", "mlp", "--decoder-hidden", "16"]
QUICK = ["--encoder-layers", "4,3,2,1 8,3,2,1", *DECODER]
FREE = [*DECODER, "--refine-epochs", "2", "--fit-epochs", "2"]
RECURRENT = ["--encoder-hidden", "8", "--decoder-hidden", "8", "--attention"]
MODEL_FLAGS = {  # a small one of every model
    "ae": QUICK,
    "vae": QUICK,
    "cvae": [*QUICK, "--label-dim", "4"],
    "ad": FREE,
    "vad": FREE,
    "gan": ["--encoder-layers", "4,3,2,1 4,3,2,1", "--latent-dim", "3"],
    "classifier": ["--encoder-layers", "4,3,2,1 8,3,2,1"],
    "text2text": RECURRENT,
    "image2text": [*RECURRENT, "--encoder-layers", "4,3,2,1 4,3,2,1"],
    "text2image": [*RECURRENT, "--decoder-start", "4,7,7", "--decoder-layers", "4,3,2,1,1 1,3,2,1,1"],
}
# the models of pictures; those of arithmetic have a test file of their own
PICTURED = [name for name, cls in models.MODELS.items() if cls.task != "arithmetic"]


def small(model, data, flags="", out=None):
    """The command line that trains a small model on `data`."""
    out = ["--out", str(out)] if out else []
    return ["--model", model, "--data", data, *MODEL_FLAGS[model], *flags.split(), *out]


@pytest.fixture(scope="session")
def digits(tmp_path_factory):
    """A file of 160 training and 40 test digits, 14 x 14."""
    mnist10k = data.load("mnist10k", image_size=14)
    arrays = {}
    for split, n in (("train", 160), ("test", 40)):
        x, y = mnist10k.split(split)
        rows = torch.from_numpy(data.stratified(y.numpy(), n))
        arrays |= {f"x_{split}": x[rows, 0].numpy(), f"y_{split}": y[rows].numpy()}
    path = tmp_path_factory.mktemp("data") / "digits.npz"
    np.savez(path, **arrays, classes=np.array(list("0123456789")))
    return str(path)


@pytest.fixture(scope="session")
def run(digits, tmp_path_factory):
    """run(model, *flags) trains a small model for two epochs, once for those flags; returns its folder."""
    folders = {}

    def train_once(model, *flags):
        if (model, flags) not in folders:
            folder = tmp_path_factory.mktemp("runs") / model
            data_and_budget = (digits, "--epochs 2") if model in PICTURED else ("arithmetic", "--steps 3")
            assert train.main([*small(model, *data_and_budget, folder), *flags]) == 0
            folders[model, flags] = folder
        return folders[model, flags]

    return train_once


@pytest.fixture
def refused(capsys):
    """refused(main, argv): a wrong command line must end with 1 or 2 and one error line on stderr, returned;
    notes may precede it."""

    def attempt(main, argv):
        capsys.readouterr()
        status = main([str(arg) for arg in argv])
        lines = capsys.readouterr().err.strip().splitlines()
        errors = [line for line in lines if not line.startswith("note: ")]
        assert status in (1, 2), f"status {status}"
        assert len(errors) == 1 and "Traceback" not in errors[0], lines
        return errors[0]

    return attempt
