"""How fast is the loop? Ours against the one that everyone writes, on the same network and the same digits.

    python benchmarks/loop.py                  # about two minutes on two cores
    python benchmarks/loop.py --rounds 9 --model cvae

Ours: the data set is one uint8 tensor on the device, a batch is an indexed slice, Adam is fused, and no step
waits for a number. The plain loop: a Dataset that gives one picture at a time, a transform to float tensors
(what torchvision's ToTensor does), a DataLoader and Adam as they come, `loss.item()` in each step. The
two alternate, an epoch each; the table gives medians of images per second, and the median of the ratios.
"""

import argparse
import statistics
import sys
import time
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset

sys.path.insert(0, str(Path(__file__).parent.parent))
import data
import models
import train


class Pictures(Dataset):
    """As torchvision's MNIST: a PIL picture from a row of the tensor, then the transform."""

    def __init__(self, split, transform):
        self.split, self.transform = split, transform

    def __len__(self):
        return len(self.split.x)

    def __getitem__(self, i):
        picture = Image.fromarray(self.split.x[i].squeeze(0).numpy())
        return self.transform(picture), int(self.split.y[i])


def to_tensor(picture):
    return torch.from_numpy(np.array(picture))[None].float().div(255)


def plain_epoch(model, optimizer, loader, device):
    model.train()
    total = 0.0
    for x, y in loader:
        x, y = x.to(device), y.to(device)
        loss, _ = model.loss(models.Batch(x, y, None), 0)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        total += loss.item() * len(x)
    return total


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", choices=models.MODELS, nargs="+", default=["cvae", "vae", "classifier"])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--data", default="mnist10k")
    parser.add_argument("--device", default="auto")
    args = parser.parse_args()
    device, dataset = data.pick_device(args.device), data.load(args.data)
    n = len(dataset.train.x)
    print(f"{device}, {torch.get_num_threads()} threads, torch {torch.__version__}, {n:,} images an epoch")
    print("model        batch   plain, images/s    ours, images/s   ratio  (least to most)")
    for name in args.model:
        report(name, args, device, dataset)


def report(name, args, device, dataset):
    steps = str(10**9)  # more than the rounds take
    flags, _ = train.read_flags(["--model", name, "--data", args.data, "--steps", steps])
    pair = [train.make_model(flags, dataset, None).to(device) for _ in range(2)]
    plain = torch.optim.Adam(pair[0].parameters(), lr=flags.lr)
    loader = DataLoader(Pictures(dataset.train, to_tensor), flags.batch_size, shuffle=True)
    optimizers = train.make_optimizers(pair[1], flags.lr)
    ours = train.Training(flags, {}, None, device, dataset, pair[1], optimizers, train.State())
    split = dataset.train.to(device)
    console = train.Console(ours)
    console.is_terminal = False
    speeds = []
    for _ in range(args.rounds + 1):
        started = time.perf_counter()
        plain_epoch(pair[0], plain, loader, device)
        middle = time.perf_counter()
        train.train_epoch(ours, split, console)
        ended = time.perf_counter()
        speeds.append((len(split.x) / (middle - started), len(split.x) / (ended - middle)))
    speeds = speeds[1:]  # the first round warms up
    ratios = sorted(after / before for before, after in speeds)
    a, b = (statistics.median(column) for column in zip(*speeds, strict=True))
    spread = f"({ratios[0]:.2f} to {ratios[-1]:.2f})"
    print(
        f"{name:<12}{flags.batch_size:>6}{a:>18,.0f}{b:>18,.0f}{statistics.median(ratios):>8.2f}  {spread}",
        flush=True,
    )


if __name__ == "__main__":
    main()
