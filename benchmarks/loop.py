"""The speed of train.py's loop beside the usual one: the same network, the same digits.

    python benchmarks/loop.py                  # about three minutes on two cores
    python benchmarks/loop.py --rounds 9 --model cvae
    python benchmarks/loop.py --quick          # a few updates: does it run?

Ours: the data set is one uint8 tensor on the device, a batch is an indexed slice of it, Adam is fused, and
no update waits for the value of the loss. The usual loop: a Dataset that returns one picture at a time, a
transform to float tensors (what torchvision's ToTensor does), a DataLoader and Adam with their defaults,
and `loss.item()` after each update. The two alternate, an epoch each; the table gives medians of images per
second and the median of the ratios. Time for evaluation, checkpoints and pictures is not counted.
"""

import argparse
import contextlib
import io
import itertools
import json
import statistics
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
import data
import models
import train

MODELS = ["ae", "vae", "cvae", "classifier"]  # models of images with one loss
QUICK_STEPS = 5


# -----------------------------------------------------------------------------------------------------------
# The usual loop


class Pictures(Dataset):
    """Like torchvision's MNIST: each item is a PIL picture made from an array, then transformed."""

    def __init__(self, split, transform):
        self.split = split
        self.transform = transform

    def __len__(self):
        return len(self.split.x)

    def __getitem__(self, i):
        picture = Image.fromarray(self.split.x[i].squeeze(0).numpy())
        return self.transform(picture), int(self.split.y[i])


def to_tensor(picture):
    return torch.from_numpy(np.array(picture))[None].float().div(255)  # (1, H, W)


def usual_speed(model, loader, lr, steps, device):
    """Images per second of an epoch, or of its first `steps` updates."""
    model.train()
    optimizer = torch.optim.Adam(model.parameters(), lr=lr)
    total_loss = 0.0
    images = 0
    start = time.perf_counter()
    for x, y in itertools.islice(loader, steps):
        x = x.to(device)
        y = y.to(device)
        loss, _ = model.loss(models.Batch(x, y, None), 0)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        total_loss += loss.item() * len(x)
        images += len(x)
    return images / (time.perf_counter() - start)


# -----------------------------------------------------------------------------------------------------------
# Ours


def our_speed(argv, folder):
    """Images per second of the training loop, as train.py reports them of a run."""
    with contextlib.redirect_stdout(io.StringIO()):
        status = train.main([*argv, "--out", str(folder)])
    if status != 0:
        sys.exit(f"python train.py {' '.join(argv)} failed")
    summary = json.loads((folder / "summary.json").read_text())
    return summary["images_per_second"]


# -----------------------------------------------------------------------------------------------------------
# The two side by side


def compare(name, args, dataset, device):
    """Prints the line of a model in the table."""
    rounds = 1 if args.quick else args.rounds
    steps = QUICK_STEPS if args.quick else None  # None: an epoch
    budget = ["--steps", str(steps)] if args.quick else ["--epochs", "1"]
    argv = ["--model", name, "--data", args.data, "--device", args.device, *budget]
    ours = []
    usual = []
    with tempfile.TemporaryDirectory() as root:
        for k in range(1 + rounds):
            folder = Path(root, f"round{k}")
            ours.append(our_speed(argv, folder))
            flags = data.read_config(folder)["flags"]
            model = models.load(folder / "best.pt", device)  # the same network
            loader = DataLoader(Pictures(dataset.train, to_tensor), flags["batch_size"], shuffle=True)
            usual.append(usual_speed(model, loader, flags["lr"], steps, device))
    ours = ours[1:]  # the first round warms up
    usual = usual[1:]
    ratios = [fast / slow for fast, slow in zip(ours, usual, strict=True)]
    speeds = f"{statistics.median(usual):>18,.0f}{statistics.median(ours):>18,.0f}"
    ratio = f"{statistics.median(ratios):>8.2f}  ({min(ratios):.2f} to {max(ratios):.2f})"
    print(f"{name:<12}{flags['batch_size']:>6}{speeds}{ratio}", flush=True)


def main(argv=None):
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", choices=MODELS, nargs="+", default=["cvae", "vae", "classifier"])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--data", default="mnist10k", help="a gray data set (default mnist10k)")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--quick", action="store_true", help=f"one round of {QUICK_STEPS} updates")
    args = parser.parse_args(argv)
    device = data.pick_device(args.device)
    dataset = data.load(args.data)
    images = f"{len(dataset.train.x):,} images an epoch"
    print(f"{device}, {torch.get_num_threads()} threads, torch {torch.__version__}, {images}")
    print("model        batch   usual, images/s    ours, images/s   ratio  (minimum to maximum)")
    for name in args.model:
        compare(name, args, dataset, device)


if __name__ == "__main__":
    main()
