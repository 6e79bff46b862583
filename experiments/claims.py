"""Measures what the reports claim about their models, and prints it as JSON.

python experiments/claims.py wrong RUN --judge JUDGE      # R0: how confident is a judge that disagrees?
python experiments/claims.py halfway RUN --judge JUDGE    # R1: what lies between a trouser and a shirt?
python experiments/claims.py scaled RUN --judge JUDGE     # R1: is a latent times 0.5 the same garment?
python experiments/claims.py noise RUN --judge JUDGE      # R1: does N(0, I) decode to garments?
python experiments/claims.py reach RUN --term characters --at 70    # R2: in which epoch?
python experiments/claims.py gray RUN                     # R2: how blurred are the drawn answers?
"""

import json
import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
import data
import metrics
import models
import sample
from data import require

TROUSER, SHIRT = 1, 6  # class numbers of Fashion-MNIST


# -----------------------------------------------------------------------------------------------------------
# The claims: each takes a run and the flags, and returns what is printed


def wrong(run, args):
    """The judge's confidence, in %, in samples that it does not name as asked: minimum, quartiles, maximum,
    and the share of these samples with a confidence between 40% and 60%."""
    require(run.model.conditional, f"{run.folder} does not draw classes: give a conditional VAE")
    labels = torch.arange(args.n) % len(run.classes)
    torch.manual_seed(args.seed)
    named, confidence = classify(run, args, run.model.sample(args.n, labels))
    confidence = 100 * confidence[named != labels].double()
    if not len(confidence):
        return dict.fromkeys(("least", "low", "median", "high", "most", "from_40_to_60"))
    quartiles = confidence.quantile(torch.linspace(0, 1, 5, dtype=torch.float64)).tolist()
    answer = dict(zip(("least", "low", "median", "high", "most"), quartiles, strict=True))
    inside = (confidence >= 40) & (confidence <= 60)
    answer["from_40_to_60"] = 100 * inside.double().mean().item()
    return answer


def halfway(run, args):
    """How often, in %, the judge names a picture each class: decoded from the midpoints between the latents
    of 100 trousers and 100 shirts of the training split, and from these latents themselves."""
    y = run.dataset.train.y
    present = set(y.tolist())
    require({TROUSER, SHIRT} <= present, f"{run.folder} has no trousers and shirts, classes 1 and 6")
    trousers = run.latents("train", random_members(y, TROUSER, args.seed))
    shirts = run.latents("train", random_members(y, SHIRT, args.seed))
    return dict(
        ends=class_shares(run, args, torch.cat([trousers, shirts])),
        middle=class_shares(run, args, (trousers + shirts) / 2),
    )


def scaled(run, args):
    """How often, in %, the judge gives a decoded test latent the same name when the latent is multiplied by
    0.5 or by 1.5, and how often it names the halved ones each class."""
    n = min(args.n, len(run.dataset.test.x))
    z = run.latents("test", torch.arange(n))
    original, _ = classify(run, args, decode(run, z))
    halved, _ = classify(run, args, decode(run, 0.5 * z))
    grown, _ = classify(run, args, decode(run, 1.5 * z))
    return dict(
        halved=metrics.percent(halved == original),
        grown=metrics.percent(grown == original),
        named={name: metrics.percent(halved == c) for c, name in enumerate(run.classes)},
    )


def noise(run, args):
    """Pictures decoded from N(0, I), whatever the model samples: the judge's mean confidence in them and in
    test pictures, in %, and their FID-c from these, as metrics.py computes it."""
    torch.manual_seed(args.seed)
    images = decode(run, torch.randn(args.n, run.model.latent_dim))
    x, _ = run.dataset.test.batch(slice(None))
    _, confidence = classify(run, args, images)
    _, confidence_in_real = classify(run, args, x)
    judge = metrics.ClassifierFeatures(sample.open_judge(args.judge, run))
    sets = [metrics.in_chunks(lambda part: judge(part)[0], metrics.as_bytes(part)) for part in (images, x)]
    return dict(
        confidence=metrics.percent(confidence),
        real=metrics.percent(confidence_in_real),
        fid=metrics.fid(*sets),
    )


def reach(run, args):
    """The first epoch in which a term of the validation split is at least --at; null if there is none."""
    require(args.at is not None, "reach: which value? give --at")
    rows = sample.read_log(run.folder)
    columns = {name.partition(" [")[0]: name for row in rows for name in row if " [" in name}
    require(args.term in columns, f"reach: which --term? {run.folder} has {', '.join(sorted(columns))}")
    for row in rows:
        cell = row.get(columns[args.term])
        if row["split"] == "valid" and cell and float(cell) >= args.at:
            return dict(epoch=int(row["epoch"]))
    return dict(epoch=None)


def gray(run, args):
    """Share of gray pixels, in %, in drawn and in true answers (see gray_share)."""
    require(isinstance(run.model, models.Text2Image), f"{run.folder} draws no answers")
    split = run.dataset.test
    torch.manual_seed(args.seed)  # of the handwriting in the true answers
    x, y = split.batch(slice(min(args.n, len(split.x))))
    return dict(drawn=100 * gray_share(run.model.predict(x)), true=100 * gray_share(y))


CLAIMS = dict(wrong=wrong, halfway=halfway, scaled=scaled, noise=noise, reach=reach, gray=gray)


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
    """Class numbers [n] and confidences [n] of images [n, C, H, W] by the classifier of --judge."""
    require(args.judge, f"{args.claim}: by which classifier? give --judge RUN")
    return metrics.predictions(sample.open_judge(args.judge, run).model, images)


def class_shares(run, args, z):
    """How often, in %, the judge names a picture decoded from z [n, latents] each class."""
    named, _ = classify(run, args, decode(run, z))
    return {name: metrics.percent(named == c) for c, name in enumerate(run.classes)}


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
    add("--judge", metavar="RUN", help="run folder of a classifier, which names the pictures")
    add("--term", help="reach: a column of log.csv")
    add("--at", type=data.number(float, 0), help="reach: the value to reach")
    add("-n", type=data.number(int, 1), default=5000, help="number of samples or pictures (5000)")
    add("--seed", type=data.number(int, 0), default=0, help="seed of samples and random choices (0)")
    add("--json", action="store_true", help="no effect: the output is always JSON")
    return parser


def command(argv):
    args = flags().parse_args(argv)
    measure = CLAIMS[args.claim]
    with torch.inference_mode():
        answer = measure(sample.Run(args.run), args)
    print(json.dumps([answer]))


def main(argv=None):
    """Runs the command line; returns its exit status."""
    return data.run_command("claims.py", command, argv, models.ModelError)


if __name__ == "__main__":
    sys.exit(main())
