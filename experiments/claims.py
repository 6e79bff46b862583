"""Numbers for what the reports claim of their models, as JSON.

python experiments/claims.py wrong RUN --judge JUDGE     # R0: how sure is it of what it names otherwise?
python experiments/claims.py halfway RUN --judge JUDGE   # R1: what is between a trouser and a shirt?
python experiments/claims.py scaled RUN --judge JUDGE    # R1: is a latent times 0.5 the same garment?
python experiments/claims.py reach RUN --term characters --at 70    # R2: in which epoch?
python experiments/claims.py gray RUN                    # R2: how blurred are drawn answers?
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


def wrong(run, args):
    """Confidence of the judge in samples that it does not name as asked, %: least, quartiles, most."""
    data.require(run.model.conditional, f"{run.folder} does not draw classes: give a conditional VAE")
    labels = torch.arange(args.n) % len(run.classes)
    torch.manual_seed(args.seed)
    named, confidence = named_by(run, args, run.model.sample(args.n, labels))
    sure = 100 * confidence[named != labels].double()
    if not len(sure):
        return dict.fromkeys(("least", "low", "median", "high", "most", "from_40_to_60"))
    least, low, median, high, most = sure.quantile(torch.linspace(0, 1, 5, dtype=torch.float64)).tolist()
    between = ((sure >= 40) & (sure <= 60)).double().mean().item()
    return dict(least=least, low=low, median=median, high=high, most=most, from_40_to_60=100 * between)


def halfway(run, args):
    """How often the judge names a picture each class, %: decoded from the middle of the latents of a trouser
    and a shirt of the training pictures, and from the two themselves."""
    y = run.dataset.train.y
    data.require({1, 6} <= set(y.tolist()), f"{run.folder} knows no trousers and shirts, classes 1 and 6")
    pairs = [torch.randperm(int((y == c).sum()), generator=seeded(args))[:100] for c in (1, 6)]
    index = [(y == c).nonzero()[:, 0][chosen] for c, chosen in zip((1, 6), pairs, strict=True)]
    a, b = (run.latents("train", rows) for rows in index)
    return {
        name: shares(run, args, z) for name, z in dict(ends=torch.cat([a, b]), middle=(a + b) / 2).items()
    }


def scaled(run, args):
    """How often the judge gives a decoded test latent, times 0.5 or 1.5, the name that it gave it before, %;
    and how often it names the halved ones each class."""
    z = run.latents("test", torch.arange(min(args.n, len(run.dataset.test.x))))
    before, halved, grown = (named_by(run, args, decoded(run, scale * z))[0] for scale in (1.0, 0.5, 1.5))
    same = dict(halved=metrics.percent(halved == before), grown=metrics.percent(grown == before))
    return same | dict(named={name: metrics.percent(halved == c) for c, name in enumerate(run.classes)})


def reach(run, args):
    """The first epoch in which a term of the validation pictures is that high; null if none is."""
    column, rows = f"{args.term} [", sample.read_log(run.folder)
    data.require(args.at is not None, "reach: which value? give --at")
    known = sorted({name.partition(" [")[0] for row in rows for name in row if " [" in name})
    data.require(args.term in known, f"reach: which --term? {run.folder} has {', '.join(known)}")
    for row in rows:
        cell = next((row[name] for name in row if name.startswith(column)), None)
        if row["split"] == "valid" and cell and float(cell) >= args.at:
            return dict(epoch=int(row["epoch"]))
    return dict(epoch=None)


def gray(run, args):
    """Share of the inked pixels, those above 0.1, that are neither nearly black nor nearly white, %."""
    data.require(isinstance(run.model, models.Text2Image), f"{run.folder} draws no answers")
    split = run.dataset.test
    x, y = split.batch(slice(min(args.n, len(split.x))))
    return {name: 100 * between(images) for name, images in dict(drawn=run.model.predict(x), true=y).items()}


def between(images):
    inked = images[images > 0.1]
    return ((inked > 0.25) & (inked < 0.75)).double().mean().item()


def decoded(run, z):
    return torch.cat([run.model.decode(part) for part in z.split(500)])


def named_by(run, args, images):
    data.require(args.judge, f"{args.claim}: by which classifier? give --judge RUN")
    return metrics.predictions(sample.open_judge(args.judge, run).model, images)


def shares(run, args, z):
    named = named_by(run, args, decoded(run, z))[0]
    return {name: metrics.percent(named == c) for c, name in enumerate(run.classes)}


def seeded(args):
    return torch.Generator().manual_seed(args.seed)


CLAIMS = {claim.__name__: claim for claim in (wrong, halfway, scaled, reach, gray)}


def command(argv):
    parser = data.Parser(prog="claims.py", description=__doc__)
    add = parser.add_argument
    add("claim", choices=CLAIMS)
    add("run", metavar="RUN")
    add("--judge", metavar="RUN", help="a classifier's, which names pictures")
    add("--term", help="of log.csv")
    add("--at", type=data.number(float, 0), help="which value")
    add("-n", type=data.number(int, 1), default=5000, help="samples or pictures (5000)")
    add("--seed", type=data.number(int, 0), default=0, help="of samples and choices (0)")
    add("--json", action="store_true", help="as the others have it; it is JSON anyway")
    args = parser.parse_args(argv)
    with torch.inference_mode():
        print(json.dumps([CLAIMS[args.claim](sample.Run(args.run), args)]))


def main(argv=None):
    """Runs the command line; returns its exit status."""
    return data.run_command("claims.py", command, argv, models.ModelError)


if __name__ == "__main__":
    sys.exit(main())
