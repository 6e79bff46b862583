"""Has a GAN collapsed, and how near to the photographs is it? A row for each run.

    python train.py --model classifier --data DIR/butterflies --image-size 64 --epochs 8
    python benchmarks/gan.py --judge runs/classifier-butterflies RUN ...

diversity, features: mean distance of two of 64 samples over that of two of 64 real pictures, in pixels and
in features.
distinct: how many different training pictures are the nearest ones of those 64, in features: 1 where a
generator draws the same picture again and again.
Fréchet: distance of 2,000 samples from the training pictures in features (not FID, which has Inception's).
The features are the last convolution's of a classifier of these pictures, averaged over positions.
"""

import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
import data
import metrics
import models
import sample


def mean_distance(x):
    return torch.nn.functional.pdist(x.flatten(1)).mean().item()


def row(name, x, f, real, real_f, train_f):
    """A line of the table for pictures x [n, ...] with features f, 64 of which are looked at closely."""
    distinct = torch.cdist(f[:64], train_f).argmin(1).unique().numel()
    near, far = (
        mean_distance(x[:64]) / mean_distance(real[:64]),
        mean_distance(f[:64]) / mean_distance(real_f[:64]),
    )
    distance = metrics.fid(f, train_f)
    print(f"{name:40}{near:10.2f}{far:10.2f}{distinct:10d}{distance:10.2f}", flush=True)


def command(argv):
    parser = data.Parser(prog="gan.py", description=__doc__)
    parser.add_argument("runs", nargs="+", metavar="RUN")
    parser.add_argument("--judge", required=True, metavar="RUN", help="a classifier's")
    args = parser.parse_args(argv)
    runs = [sample.Run(folder) for folder in args.runs]
    dataset, judge = runs[0].dataset, metrics.Classifier(metrics.open_run(args.judge))

    def features(x):
        with torch.inference_mode():
            return torch.cat([judge(part)[0] for part in x.split(250)])

    train_f = features(dataset.train.x)
    held_out = torch.cat([dataset.valid.x, dataset.test.x])
    real = held_out[torch.randperm(len(held_out), generator=torch.Generator().manual_seed(0))]
    real_f, real = features(real), real / 255
    print(f"{'':40}{'diversity':>10}{'features':>10}{'distinct':>10}{'Fréchet':>10}")
    row(f"{len(real):,} held-out pictures", real, real_f, real, real_f, train_f)
    for run in runs:
        torch.manual_seed(0)
        x = torch.cat([run.model.sample(250) for _ in range(8)])
        row(run.folder.name, x, features(metrics.in_bytes(x)), real, real_f, train_f)


if __name__ == "__main__":
    sys.exit(data.run_command("gan.py", command, None, models.ModelError))
