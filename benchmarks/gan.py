"""Has a GAN collapsed? A row for each run.

    python train.py --model classifier --data DIR/butterflies --image-size 64 --epochs 8
    python benchmarks/gan.py --judge runs/classifier-butterflies RUN ...

diversity, features: mean distance of two of 64 samples over that of two of 64 real pictures, in pixels and
in features.
distinct: how many different training pictures are the nearest ones of those 64, in features: 1 where a
generator draws the same picture again and again.
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


def print_row(name, images, features, real, real_features, train_features):
    """A line of the table for pictures [n, ...] with features [n, d]."""
    distinct = torch.cdist(features, train_features).argmin(1).unique().numel()
    pixel_diversity = metrics.mean_distance(images) / metrics.mean_distance(real)
    feature_diversity = metrics.mean_distance(features) / metrics.mean_distance(real_features)
    print(f"{name:40}{pixel_diversity:10.2f}{feature_diversity:10.2f}{distinct:10d}", flush=True)


def command(argv):
    parser = data.Parser(prog="gan.py", description=__doc__)
    parser.add_argument("runs", nargs="+", metavar="RUN")
    parser.add_argument("--judge", required=True, metavar="RUN", help="a classifier's")
    args = parser.parse_args(argv)
    runs = [sample.Run(folder) for folder in args.runs]
    dataset = runs[0].dataset
    judge = metrics.ClassifierFeatures(sample.Run(args.judge))

    def judge_features(images):
        return metrics.in_chunks(lambda part: judge(part)[0], images, size=250)

    train_features = judge_features(dataset.train.x)
    held_out = torch.cat([dataset.valid.x, dataset.test.x])
    real = held_out[torch.randperm(len(held_out), generator=torch.Generator().manual_seed(0))[:64]]
    real_features = judge_features(real)
    real = real / 255
    print(f"{'':40}{'diversity':>10}{'features':>10}{'distinct':>10}")
    print_row("held-out pictures", real, real_features, real, real_features, train_features)
    for run in runs:
        torch.manual_seed(0)
        images = run.model.sample(64)
        features = judge_features(metrics.as_bytes(images))
        print_row(run.folder.name, images, features, real, real_features, train_features)


def main(argv=None):
    return data.run_command("gan.py", command, argv, models.ModelError, metrics.MetricError)


if __name__ == "__main__":
    sys.exit(main())
