"""Measures what the reports claim about their models, and prints it as JSON.

python experiments/claims.py named RUN --judge JUDGE      # R0, R4: how many samples are named as asked?
python experiments/claims.py wrong RUN --judge JUDGE      # R0: how confident is a judge that disagrees?
python experiments/claims.py halfway RUN --judge JUDGE    # R1: what lies between a trouser and a shirt?
python experiments/claims.py scaled RUN --judge JUDGE     # R1: is a latent times 0.5 the same garment?
python experiments/claims.py noise RUN --judge JUDGE      # R1: does N(0, I) decode to garments?
python experiments/claims.py reach RUN --term characters --at 70    # R2: in which epoch?
python experiments/claims.py gray RUN                     # R2: how blurred are the drawn answers?
python experiments/claims.py pca RUN                      # what do as many principal components leave?

With several judges, all shares and confidences are means over them: --judge JUDGE JUDGE JUDGE.
"""

import json
import math
import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
import data
import metrics
import models
import sample
from data import require

CARDS = ("rabbit", "yoga", "snowman")  # classes of R0's pictures
TROUSER, DRESS, SHIRT = 1, 3, 6  # class numbers of Fashion-MNIST


# -----------------------------------------------------------------------------------------------------------
# The claims: each takes a run and the flags, and returns what is printed


def named(run, args):
    """How many samples, in %, are named as asked, and the confidence in them, by class; and how many are in
    R0's cards, which have five of each of three classes."""
    labels, names, confidence = judge_samples(run, args)
    members = [labels == c for c in range(len(run.classes))]
    accuracy = [metrics.percent(names[:, rows] == c) for c, rows in enumerate(members)]
    cards = [share for name, share in zip(run.classes, accuracy, strict=True) if name in CARDS]
    return dict(
        accuracy=accuracy,
        of_15=5 * sum(cards) / 100,
        confidence=[metrics.percent(confidence[:, rows]) for rows in members],
        mean=dict(accuracy=metrics.percent(names == labels), confidence=metrics.percent(confidence)),
    )


def wrong(run, args):
    """The judge's confidence, in %, in samples that it does not name as asked: minimum, median, maximum, and
    the share of these samples with a confidence between 40% and 60%."""
    labels, names, confidence = judge_samples(run, args)
    confidence = 100 * confidence[names != labels].double()
    if not len(confidence):
        return dict.fromkeys(("least", "median", "most", "from_40_to_60"))
    inside = (confidence >= 40) & (confidence <= 60)
    return dict(
        least=confidence.min().item(),
        median=confidence.quantile(0.5).item(),
        most=confidence.max().item(),
        from_40_to_60=metrics.percent(inside),
    )


def halfway(run, args):
    """How often, in %, the judge names a picture each class: decoded from the midpoints between the latents
    of 100 trousers and 100 shirts of the training split; and how often it names one a dress at each of seven
    steps from trouser to shirt."""
    y = run.dataset.train.y
    present = set(y.tolist())
    require({TROUSER, DRESS, SHIRT} <= present, f"{run.folder} holds no clothes: give a run of fashion2k")
    trousers = run.latents("train", random_members(y, TROUSER, args.seed))
    shirts = run.latents("train", random_members(y, SHIRT, args.seed))
    n = min(len(trousers), len(shirts))
    steps = [decode(run, torch.lerp(trousers[:n], shirts[:n], k / 6)) for k in range(7)]
    names = [classify(run, args, images)[0] for images in steps]
    return dict(
        middle={name: metrics.percent(names[3] == c) for c, name in enumerate(run.classes)},
        dress=[metrics.percent(step == DRESS) for step in names],
    )


def scaled(run, args):
    """How often, in %, the judge gives a decoded test latent the same name when the latent is multiplied by
    0.5 or by 1.5, and its mean confidence at 0.5, 1 and 1.5."""
    z = run.latents("test", torch.arange(min(args.n, len(run.dataset.test.x))))
    pictures = [decode(run, scale * z) for scale in (0.5, 1, 1.5)]
    names, confidence = zip(*(classify(run, args, images) for images in pictures), strict=True)
    return dict(
        halved=metrics.percent(names[0] == names[1]),
        grown=metrics.percent(names[2] == names[1]),
        sure=[metrics.percent(values) for values in confidence],
    )


def noise(run, args):
    """Pictures decoded from N(0, I), whatever the model samples: the judge's mean confidence in them and in
    test pictures, in %, and their FID-c from these by the first judge, as metrics.py computes it."""
    torch.manual_seed(args.seed)
    images = decode(run, torch.randn(args.n, run.model.latent_dim))
    x, _ = run.dataset.test.batch(slice(None))
    _, confidence = classify(run, args, images)
    _, confidence_in_real = classify(run, args, x)
    judge = metrics.ClassifierFeatures(sample.open_judge(args.judge[0], run))
    sets = [metrics.in_chunks(lambda part: judge(part)[0], metrics.as_bytes(part)) for part in (images, x)]
    return dict(
        confidence=metrics.percent(confidence),
        real=metrics.percent(confidence_in_real),
        fid=metrics.fid(*sets),
    )


def reach(run, args):
    """The first epoch in which a term of the validation split is at least --at, or at most --within percent
    above its least value; null if there is none."""
    require((args.at is None) != (args.within is None), "reach: which value? give --at or --within")
    rows = sample.read_log(run.folder)
    columns = {name.partition(" [")[0]: name for row in rows for name in row if " [" in name}
    require(args.term in columns, f"reach: which --term? {run.folder} has {', '.join(sorted(columns))}")
    cells = {row["epoch"]: row[columns[args.term]] for row in rows if row["split"] == "valid"}
    is_curve = any(cells.values()) and not any(" " in cell for cell in cells.values())
    require(is_curve, f"reach: {run.folder} has no curve of {args.term} on the validation split")
    values = {int(epoch): float(cell) for epoch, cell in cells.items() if cell}
    if args.within is not None:
        highest = min(values.values()) * (1 + args.within / 100)
        epochs = [epoch for epoch, value in values.items() if value <= highest]
    else:
        epochs = [epoch for epoch, value in values.items() if value >= args.at]
    return dict(epoch=min(epochs, default=None))


def gray(run, args):
    """Share of gray pixels, in %, in drawn and in true answers (see gray_share)."""
    require(isinstance(run.model, models.Text2Image), f"{run.folder} draws no answers")
    split = run.dataset.test
    torch.manual_seed(args.seed)  # of the handwriting in the true answers
    x, y = split.batch(slice(min(args.n, len(split.x))))
    return dict(drawn=100 * gray_share(run.model.predict(x)), true=100 * gray_share(y))


def pca(run, args):
    """What 0, 64 and 128 principal components of the training pictures leave of the test pictures: squared
    error per pixel, and RMSE on the scale 0..255."""
    splits = (run.dataset.train, run.dataset.test)
    x, test = (split.batch(slice(None))[0].flatten(1).double() for split in splits)  # (n, pixels)
    mean = x.mean(0)
    axes = torch.linalg.eigh((x - mean).T @ (x - mean)).eigenvectors.flip(1)  # the largest first
    mse = {}
    for n in (0, 64, 128):
        projected = (test - mean) @ axes[:, :n] @ axes[:, :n].T
        mse[n] = (test - mean - projected).square().mean().item()
    return dict(mse=mse, rmse={n: 255 * math.sqrt(error) for n, error in mse.items()})


CLAIMS = {
    function.__name__: function for function in (named, wrong, halfway, scaled, noise, reach, gray, pca)
}
NEEDS = dict(halfway=sample.ENCODER, scaled=sample.ENCODER, noise=sample.DECODER, pca=sample.IMAGE_MODEL)


# -----------------------------------------------------------------------------------------------------------
# What they share


def random_members(y, label, seed):
    """Indices of 100 random examples of a class (all of them, in random order, if there are fewer)."""
    members = (y == label).nonzero()[:, 0]
    order = torch.randperm(len(members), generator=torch.Generator().manual_seed(seed))
    return members[order[:100]]


def decode(run, z):
    return torch.cat([run.model.decode(part) for part in z.split(500)])


def classify(run, args, images):
    """Class numbers and confidences [judges, n] of images [n, C, H, W] by the classifiers of --judge."""
    require(args.judge, f"{args.claim}: by which classifier? give --judge RUN")
    judges = [sample.open_judge(judge, run).model for judge in args.judge]
    names, confidence = zip(*(metrics.predictions(judge, images) for judge in judges), strict=True)
    return torch.stack(names), torch.stack(confidence)


def judge_samples(run, args):
    """Classes [n] that are asked for, and what the judges say of the samples: as of classify()."""
    require(run.model.conditional, f"{run.folder} does not draw classes: give a conditional VAE")
    require(args.n >= len(run.classes), f"-n {args.n} leaves classes without samples: give a larger one")
    labels = torch.arange(args.n) % len(run.classes)
    torch.manual_seed(args.seed)
    return labels, *classify(run, args, run.model.sample(args.n, labels))


def gray_share(images):
    """Share of the inked pixels (above 0.1) that are neither nearly black nor nearly white."""
    inked = images[images > 0.1]
    is_gray = (inked > 0.25) & (inked < 0.75)
    return is_gray.double().mean().item()


# -----------------------------------------------------------------------------------------------------------
# Command line


def flags():
    parser = data.Parser(prog="claims.py", description=__doc__)
    add = parser.add_argument
    add("claim", choices=CLAIMS)
    add("run", metavar="RUN", help="run folder of the model")
    add("--judge", metavar="RUN", nargs="+", help="run folders of classifiers, which name the pictures")
    add("--term", help="reach: a column of log.csv")
    add("--at", type=data.number(float, 0), help="reach: the value to reach")
    add("--within", type=data.number(float, 0), help="reach: the percent above the least value to reach")
    add("-n", type=data.number(int, 1), default=5000, help="number of samples or pictures (5000)")
    add("--seed", type=data.number(int, 0), default=0, help="seed of samples and random choices (0)")
    add("--json", action="store_true", help="no effect: the output is always JSON")
    return parser


def command(argv):
    args = flags().parse_args(argv)
    run = sample.Run(args.run)
    needs = NEEDS.get(args.claim, sample.ANY_MODEL)
    require(needs.is_met(run.model), f"{run.folder} is of no use to {args.claim}: that needs {needs.text}")
    with torch.inference_mode():
        answer = CLAIMS[args.claim](run, args)
    print(json.dumps([answer]))


def main(argv=None):
    """Runs the command line; returns its exit status."""
    return data.run_command("claims.py", command, argv, models.ModelError, metrics.MetricError)


if __name__ == "__main__":
    sys.exit(main())
