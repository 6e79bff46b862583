"""How much does the choice of resize move FID on the same pictures?

    python benchmarks/resize.py PICTURES --weights pt_inception-2015-12-05-6726825d.pth

Half of the pictures against the other half, each resize in turn; then a set against itself, one copy by each
resize. Without --weights the network has random ones, calibrated on the pictures: it shows that the numbers
move, not how far they do with the published weights.
"""

import runpy
import sys
import tempfile
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
import data
import metrics


def command(argv):
    parser = data.Parser(prog="resize.py", description=__doc__)
    parser.add_argument("pictures", help="image folder or .npy")
    parser.add_argument("--weights", metavar="FILE", help="Inception's (default: random)")
    parser.add_argument("-n", type=data.number(int, 4), default=1000, help="pictures (default 1000)")
    parser.add_argument("--image-size", type=data.number(int, 1), help="crop and resize to this side first")
    parser.add_argument("--quick", action="store_true", help="8 pictures: does it run?")
    args = parser.parse_args(argv)
    x = data.read(args.pictures, Path(args.pictures), None, args.image_size, None, None)[0]
    chosen = torch.randperm(len(x), generator=torch.Generator().manual_seed(0))
    chosen = chosen[: 8 if args.quick else args.n]
    x = torch.from_numpy(x[chosen.numpy()])
    with tempfile.TemporaryDirectory() as folder:
        path = args.weights
        if path is None:
            path = Path(folder) / "random.pth"
            runpy.run_path(Path(__file__).with_name("metrics.py"))["random_weights"](path, x[:8])
        features = {}
        for resize in ("torch", "tf1"):
            features[resize] = metrics.extract(metrics.Inception(path, resize), x).features
    print(f"{len(x):,} pictures of {list(x.shape[1:])}")
    halves = {resize: both.chunk(2) for resize, both in features.items()}
    for resize, (first, second) in halves.items():
        print(f"one half against the other, {resize:<28}{metrics.fid(first, second):10.4f}")
    distance = metrics.fid(halves["torch"][0], halves["tf1"][0])
    print(f"{'the first half by torch against itself by tf1':<56}{distance:10.4f}")


def main(argv=None):
    return data.run_command("resize.py", command, argv, metrics.MetricError)


if __name__ == "__main__":
    sys.exit(main())
