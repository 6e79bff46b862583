"""Numbers that judge what a model makes.

    python metrics.py runs/cvae-mnist10k --features classifier:runs/classifier-mnist10k
    python metrics.py runs/classifier-mnist10k --data mnist --split test    # how good is the judge itself?
    python metrics.py runs/text2text-arithmetic                             # how many answers are right?

A classifier names each generated image. That alone can be bought with sameness, one perfect 3 drawn a
hundred times, so the diversity within each class stands beside it: the mean distance between two images of
the class, over the same for real ones.
"""

import hashlib
import http.client
import io
import json
import math
import os
import sys
import urllib.request
from pathlib import Path

import torch
import torch.nn as nn
import torch.nn.functional as F


class MetricError(ValueError):
    """A number that cannot be had: one line that says why. `status` is what a command line ends with."""

    status = 1


# -----------------------------------------------------------------------------------------------------------
# Judging by a classifier


def mean_distance(images):
    """Mean Euclidean distance between two different images of [n, ...]; nan where n < 2."""
    n, flat = len(images), images.flatten(1)
    # the default for large sets, by matrix products, would tell two equal images apart
    distances = torch.cdist(flat, flat, compute_mode="donot_use_mm_for_euclid_dist")
    return distances.sum().item() / (n * (n - 1)) if n > 1 else math.nan


def predictions(model, images, chunk=500):
    """A classifier's answers to images [n, C, H, W] in [0, 1]: class numbers [n] and confidences [n]."""
    with torch.inference_mode():
        answers = torch.cat([model.predict(part) for part in images.split(chunk)])
    confidence, named = answers.max(1)
    return named, confidence


def confusion_matrix(labels, named, n_classes):
    """Counts [n_classes, n_classes]: row for the label, column for the answer."""
    return torch.bincount(labels * n_classes + named, minlength=n_classes**2).view(n_classes, n_classes)


def judge_samples(model, images, labels, real, n_classes):
    """What a classifier makes of images [n, C, H, W] drawn as `labels` [n]: for each class `count`,
    `accuracy` and `confidence` in %, and `diversity`, 1 where they are as varied as the real (x, y)."""
    named, confidence = predictions(model, images)
    own = [labels == c for c in range(n_classes)]
    return dict(
        count=[int(of_class.sum()) for of_class in own],
        accuracy=[percent(named[of_class] == c) for c, of_class in enumerate(own)],
        confidence=[percent(confidence[of_class]) for of_class in own],
        diversity=[
            mean_distance(images[of_class]) / (mean_distance(real[0][real[1] == c]) or math.nan)
            for c, of_class in enumerate(own)
        ],
    )


def percent(values):
    return 100 * values.float().mean().item()


# -----------------------------------------------------------------------------------------------------------
# Fréchet distance


def frechet_distance(mean1, cov1, mean2, cov2):
    """Squared Fréchet distance of two Gaussians (Dowson & Landau 1982, eq. 4):
    |m1 − m2|² + tr(C1 + C2 − 2 (C1 C2)^½).

    The last trace is of (C1^½ C2 C1^½)^½, whose eigenvalues are real and not negative, so that no imaginary
    part can appear. Means [d], covariances [d, d]; in float64.
    """
    mean1, cov1, mean2, cov2 = (torch.as_tensor(part).double() for part in (mean1, cov1, mean2, cov2))
    values, vectors = torch.linalg.eigh(cov1)
    root = vectors * values.clamp(min=0).sqrt() @ vectors.T
    cross = torch.linalg.eigvalsh(root @ cov2 @ root).clamp(min=0).sqrt().sum()
    distance = (mean1 - mean2).square().sum() + cov1.trace() + cov2.trace() - 2 * cross
    return distance.clamp(min=0).item()


def fid(features1, features2):
    """Fréchet distance of features [n, d] and [m, d] (Heusel et al. 2017, eq. 6)."""
    features1, features2 = (torch.as_tensor(features).double() for features in (features1, features2))
    return frechet_distance(features1.mean(0), features1.T.cov(), features2.mean(0), features2.T.cov())


# -----------------------------------------------------------------------------------------------------------
# log p(x) of a VAE


def log_weights(model, x, labels, samples, chunk=2000):
    """log p(x | z) p(z) / q(z | x) of `samples` draws of z for images [n, C, H, W], [samples, n] in nats."""
    found, at_once = [], max(1, chunk // len(x))
    with torch.inference_mode():
        for done in range(0, samples, at_once):
            found.append(model.log_weights(x, labels, min(at_once, samples - done))[0])
    found = torch.cat(found).double()
    if model.likelihood == "gaussian":  # a variance of 1/2 has this constant, which training leaves out
        found -= x[0].numel() / 2 * math.log(math.pi)
    return found


def log_likelihood(log_weights):
    """log p(x) in nats of each image [n] by importance sampling, and the effective sample size [n] of k
    weights [k, n]: 1 where a single sample carries it all, k where all weigh the same."""
    k = len(log_weights)
    total = log_weights.logsumexp(0)
    return total - math.log(k), (2 * total - (2 * log_weights).logsumexp(0)).exp()


def bound(log_weights, k):
    """The IWAE bound of k samples (Burda et al. 2016, eq. 8; of one, the ELBO): its mean over images and
    over all disjoint groups of k of the weights [K, n], nats."""
    groups = log_weights[: len(log_weights) // k * k].unflatten(0, (-1, k))
    return (groups.logsumexp(1) - math.log(k)).mean().item()


# -----------------------------------------------------------------------------------------------------------
# The weights of FID's Inception: those of TensorFlow's graph of 2015-12-05, ported by pytorch-fid

WEIGHTS = "pt_inception-2015-12-05-6726825d.pth"
WEIGHTS_SHA256 = "6726825d0af5f729cebd5821db510b11b1cfad8faad88a03f1befd49fb9129b2"
WEIGHTS_MIRRORS = [  # tried in order; the second sends the same bytes under another name
    f"https://github.com/mseitzer/pytorch-fid/releases/download/fid_weights/{WEIGHTS}",
    "https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/"
    "weights-inception-2015-12-05-6726825d.pth",
]


def inception_weights(file=None, folder=None):
    """Path of the weights: `file`, else the published ones (96 MB), downloaded once. Raises MetricError.

    They are kept in the folder, else in the one that the environment variable DGM_DATA_DIR names, else in
    torch.hub's: pytorch-fid keeps its own there under the same name, and each finds what the other fetched.
    """
    if file:
        return Path(file)
    hub = Path(torch.hub.get_dir()) / "checkpoints"
    path = Path(folder or os.environ.get("DGM_DATA_DIR") or hub).expanduser() / WEIGHTS
    if not path.is_file():
        download_weights(path)
    elif (found := sha256(path.read_bytes())) != WEIGHTS_SHA256:
        raise MetricError(f"{path} is damaged (its SHA-256 begins with {found[:8]}): delete it")
    return path


def download_weights(path):
    """Fetch the published weights from the first mirror that sends them whole."""
    answers = []
    for url in WEIGHTS_MIRRORS:
        try:
            request = urllib.request.Request(url, headers={"User-Agent": "Mozilla/5.0 (metrics.py)"})
            with urllib.request.urlopen(request, timeout=30) as response:
                megabytes = int(response.headers.get("Content-Length", 0)) / 1e6
                print(f"note: downloading {url}, {megabytes:,.1f} MB", file=sys.stderr)
                body = response.read()
            if (found := sha256(body)) != WEIGHTS_SHA256:
                page = body[:100].lstrip().startswith(b"<")
                raise ValueError("sent an HTML page" if page else f"sent other bytes, SHA-256 {found[:8]}")
        except (OSError, http.client.HTTPException, ValueError) as error:
            answers.append(f"{url.split('/')[2]}: {error}")
        else:
            return write_whole(path, body)
    why = "; ".join(dict.fromkeys(answers))  # both are at one host, and often fail alike
    ways = "give --weights FILE, --features classifier:RUN or --features pixels"
    raise MetricError(f"no Inception weights at {path} ({why}): {ways}")


def write_whole(path, body):
    """A file that is either not there or whole, whatever happens: written beside its place, then moved."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open(temporary, "wb") as file:
            file.write(body)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def read_weights(path, own):
    """The file's tensors under the names of `own`, in their shapes; and its SHA-256. Raises MetricError."""
    try:
        body = Path(path).read_bytes()
        state = torch.load(io.BytesIO(body), map_location="cpu", weights_only=True)
    except OSError as error:
        raise MetricError(f"cannot read the weights {path}: {error.strerror}") from None
    except Exception as error:  # what torch raises for broken files has no narrower class in common
        reason = str(error).partition("\n")[0][:100]
        raise MetricError(f"{path} is no whole file of weights ({reason}): give {WEIGHTS}") from None
    state = state if isinstance(state, dict) else {}
    own = {name: tensor for name, tensor in own.items() if "num_batches" not in name}
    for name, tensor in own.items():
        if getattr(state.get(name), "shape", None) != tensor.shape:
            wanted = f"{name} {list(tensor.shape)}"
            raise MetricError(f"{path} has no {wanted}, so is not FID's Inception: give {WEIGHTS}")
    return {name: state[name].float() for name in own}, sha256(body)


def sha256(body):
    return hashlib.sha256(body).hexdigest()


# -----------------------------------------------------------------------------------------------------------
# Command line. Our other files are imported here alone, so that what is above works without them


def flags():
    from data import SPLITS, Parser, number

    parser = Parser(prog="metrics.py", description=__doc__)
    parser.add_argument("runs", nargs="+", metavar="RUN", help="run folders")
    parser.add_argument("--features", metavar="classifier:RUN", help="the classifier that judges")
    parser.add_argument(
        "-n", type=number(int, 2), default=1000, help="generated images of a run (default 1000)"
    )
    parser.add_argument(
        "--log-likelihood",
        type=number(int, 50),
        metavar="K",
        help="of a VAE, by K importance samples for each of -n real images; and its amortisation gap",
    )
    parser.add_argument("--scale", type=number(float, 0), default=1.0, help="of their latents (default 1)")
    parser.add_argument("--truncate", type=number(float, 0, above=True), help="cut latents off at ± this")
    parser.add_argument("--seed", type=number(int, 0, 2**31), default=0, help="of their latents (default 0)")
    parser.add_argument(
        "--data", metavar="NAME|PATH", help="judge a classifier on these (default: its own data)"
    )
    parser.add_argument("--split", choices=SPLITS, default="test", help="of real images (default test)")
    parser.add_argument("--data-dir", metavar="DIR", help="where whole data sets are")
    parser.add_argument("--json", action="store_true", help="print JSON instead of tables")
    return parser


def main(argv=None):
    """Runs the command line; returns its exit status."""
    import data
    import models

    return data.run_command("metrics.py", command, argv, models.ModelError)


def command(argv):
    import data

    args, results = flags().parse_args(argv), []
    judge = None
    if args.features:
        kind, _, folder = args.features.partition(":")
        if kind != "classifier" or not folder:
            raise data.Mistake(f"--features {args.features}: write classifier:RUN")
        judge = open_run(folder)
        if judge["kind"] != "classifier":
            raise data.Mistake(f"--features: {folder} holds a {judge['kind']}, not a classifier")
    for folder in args.runs:
        run = open_run(folder)
        if run["config"]["flags"]["data"] == "arithmetic":
            results.append(report_arithmetic(run, args))
            continue
        add_real_pictures(run, args)
        if hasattr(run["model"], "predict"):
            results.append(report_classifier(run))
        elif args.data:
            raise data.Mistake(f"--data is for judging a classifier, and {folder} holds a {run['kind']}")
        elif args.log_likelihood:
            results.append(report_likelihood(run, args))
        elif judge is None:
            hint = ", or --log-likelihood 500" if hasattr(run["model"], "log_weights") else ""
            raise data.Mistake(f"who judges {folder}? --features classifier:RUN{hint}")
        elif any(judge["config"][fact] != run["config"][fact] for fact in ("classes", "image_shape")):
            raise data.Mistake(f"{judge['folder']} knows other classes or sizes of picture than {folder}")
        else:
            results.append(report_generated(run, judge, args))
    if args.json:
        print(json.dumps(nan_as_null(results), indent=1))
    else:
        print("\n\n".join(as_text(result) for result in results))


def open_run(folder):
    """A run's model and what its folder says of it."""
    import data
    import models

    config = data.read_config(folder)
    model = models.load(Path(folder) / "best.pt")
    return dict(folder=str(folder), config=config, kind=config["flags"]["model"], model=model,
                classes=config["classes"])  # fmt: skip


def add_real_pictures(run, args):
    """Real pictures of the run's kind, to hold it against."""
    import data

    config, folder, model = run["config"], run["folder"], run["model"]
    dataset = data.of_run(config, args.data_dir, args.data if hasattr(model, "predict") else None)
    if dataset.classes != config["classes"] or list(dataset.image_shape) != config["image_shape"]:
        raise data.Mistake(f"{folder} knows other classes or sizes of picture than {dataset.name} has")
    split = getattr(dataset, args.split)
    if not len(split.x):
        raise data.Mistake(f"{dataset.name} has no {args.split} pictures")
    x, y = split.batch(slice(None))
    run |= dict(data=f"{dataset.name} {args.split}", real=x, labels=y)


def report_classifier(run):
    """A classifier's own accuracy and confusion matrix."""
    named, confidence = predictions(run["model"], run["real"])
    counts = confusion_matrix(run["labels"], named, len(run["classes"]))
    return dict(
        title=f"{run['folder']} on {len(named):,} pictures of {run['data']}",
        accuracy=percent(named == run["labels"]),
        confidence=percent(confidence),
        class_accuracy=dict(
            zip(run["classes"], (100 * counts.diag() / counts.sum(1)).tolist(), strict=True)
        ),
        confusion=counts.tolist(),
    )


def report_generated(run, judge, args):
    """What the judge makes of a run's samples and reconstructions."""
    model, x, y = run["model"], run["real"], run["labels"]
    found = dict(title=f"{run['folder']} judged by {judge['folder']}", data=run["data"])
    found["accuracy_on_real"] = percent(predictions(judge["model"], x)[0] == y)
    with torch.inference_mode():
        if hasattr(model, "encode"):
            named = predictions(judge["model"], reconstructions(run, args.split))[0]
            found["accuracy_on_reconstructions"] = percent(named == y)
        if hasattr(model, "sample"):
            conditional = hasattr(model, "embedding")
            labels = torch.arange(args.n) % len(run["classes"]) if conditional else None
            torch.manual_seed(args.seed)
            images = model.sample(args.n, labels, args.scale, args.truncate)
            if not conditional:  # nobody asked for a class: the judge says which was drawn
                labels = predictions(judge["model"], images)[0]
            table = judge_samples(judge["model"], images, labels, (x, y), len(run["classes"]))
            if not conditional:
                del table["accuracy"]  # of what it named itself
            found["samples"] = dict(n=args.n, seed=args.seed, scale=args.scale, truncate=args.truncate)
            found["mean"] = {name: nan_free_mean(column) for name, column in table.items()}
            found["by_class"] = {"class": run["classes"]} | table
    return found


def reconstructions(run, split):
    """Of an auto-decoder from the latents that it keeps, else through the encoder."""
    model, x, y = run["model"], run["real"], run["labels"]
    if hasattr(model, "kept_latents"):
        return torch.cat([model.decode(z) for z in model.kept_latents(split).split(500)])
    return torch.cat([model.reconstruct(*part) for part in zip(x.split(500), y.split(500), strict=True)])


def report_likelihood(run, args):
    """Bounds on log p(x), its estimate, and what the encoder loses against fitted distributions."""
    import data
    import models

    model, flags = run["model"], run["config"]["flags"]
    if not hasattr(model, "log_weights"):
        raise data.Mistake(f"{run['folder']} holds a {run['kind']}: --log-likelihood is of VAEs")
    torch.manual_seed(args.seed)
    chosen = torch.randperm(len(run["real"]))[: args.n]
    x, labels = run["real"][chosen], run["labels"][chosen]
    weights = [
        log_weights(model, *part, args.log_likelihood)
        for part in zip(x.split(100), labels.split(100), strict=True)
    ]
    weights = torch.cat(weights, 1)  # (K, n)
    value, effective = log_likelihood(weights)
    few = slice(min(len(x), 100))
    (_, encoded), (_, fitted) = models.amortisation(model, x[few], labels[few])
    grey = model.likelihood == "bernoulli" and not flags.get("binarize")
    return dict(
        title=f"{run['folder']} on {len(x):,} pictures of {run['data']}, nats/image, seed {args.seed}",
        elbo=bound(weights, 1),
        iwae_5=bound(weights, 5),
        iwae_50=bound(weights, 50),
        log_likelihood=value.mean().item(),
        standard_error=(value.std() / math.sqrt(len(value))).item(),
        importance_samples=args.log_likelihood,
        effective_samples=effective.median().item(),
        amortisation_gap=(encoded - fitted).mean().item(),
        amortisation_pictures=len(encoded),
        note="grey pixels: a score, not a likelihood; see --binarize" if grey else None,
    )


def report_arithmetic(run, args):
    """How many answers of a sequence model are right, where and by how much the others are wrong."""
    import data

    if args.data and args.data != "arithmetic":
        raise data.Mistake(f"--data is for judging a classifier, and {run['folder']} holds a {run['kind']}")
    split, model = getattr(data.of_run(run["config"], args.data_dir), args.split), run["model"]
    data.require(len(split.x), f"arithmetic has no {args.split} queries here")
    torch.manual_seed(args.seed)  # of the digits' pictures
    with torch.inference_mode():
        parts = [split.batch(slice(i, i + 500)) for i in range(0, len(split.x), 500)]
        answers = torch.cat([model.predict(x) for x, _ in parts])
        named = model.read(answers) if split.drawn == "answer" else answers
    queries, truth, told = ([data.decode_text(row) for row in rows] for rows in (split.x, split.y, named))
    same, exact = named == split.y, (named == split.y).all(1)
    carried = torch.tensor([carries(query) for query in queries])
    errors = [size_of_error(*pair) for pair in zip(told, truth, strict=True)]
    found = dict(title=f"{run['folder']} on {len(exact):,} {args.split} queries of arithmetic")
    found |= dict(characters=percent(same), exact=percent(exact))
    found["errors"] = {size: errors.count(size) for size in ERRORS}
    found["exact_by_carries"] = {n: percent(exact[carried == n]) for n in range(3)}
    if split.drawn == "answer":
        y = torch.cat([y for _, y in parts])
        with torch.inference_mode():
            found["reader"] = percent(model.read(y) == split.y)
        for name, pictures in (("drawn", answers), ("all_black", torch.zeros_like(y))):
            pixels = percent((pictures > 0.5) == (y > 0.5))
            found[name] = dict(mse=(pictures - y).square().mean().item(), pixels=pixels)
    return found


ERRORS = ("off by 1", "off by 10", "off by another number", "no number")


def size_of_error(told, truth):
    """Which of ERRORS an answer is, texts such as "-7 "; None where it is right."""
    if told == truth:
        return None
    told = told.rstrip(" ")
    if not told.removeprefix("-").isdigit() or str(int(told)) != told:  # nor is 07 or -0
        return "no number"
    return {1: "off by 1", 10: "off by 10"}.get(abs(int(told) - int(truth)), "off by another number")


def carries(query):
    """How many columns of a query such as "58+67" carry, or borrow from the next (of the larger number)."""
    plus = "+" in query
    low, high = sorted(int(part) for part in query.replace("-", "+").split("+"))
    if plus:
        return int(low % 10 + high % 10 > 9) + int(low + high > 99)
    return int(high % 10 < low % 10)


def nan_free_mean(values):
    """Over the classes that were drawn at all."""
    return torch.tensor(values, dtype=torch.float64).nanmean().item()


def nan_as_null(tree):
    """JSON knows no NaN."""
    if isinstance(tree, dict):
        return {key: nan_as_null(value) for key, value in tree.items()}
    if isinstance(tree, list):
        return [nan_as_null(value) for value in tree]
    return None if isinstance(tree, float) and math.isnan(tree) else tree


def as_text(found):
    """A report as the tables that the terminal shows."""
    lines = [found["title"]]
    if "errors" in found:
        return "\n".join(lines + arithmetic_lines(found))
    if "confusion" in found:
        names = list(found["class_accuracy"])
        width = max(6, *(len(name) + 2 for name in names))
        lines.append(f"accuracy {found['accuracy']:.2f}%, mean confidence {found['confidence']:.1f}%")
        lines.append("rows: the label, columns: the answer" + " " * 4 + "accuracy in %")
        lines.append(" " * width + "".join(f"{name:>{width}}" for name in names))
        for name, row, share in zip(
            names, found["confusion"], found["class_accuracy"].values(), strict=True
        ):
            lines.append(f"{name:>{width}}" + "".join(f"{n:>{width}}" for n in row) + f"{share:>10.1f}")
        return "\n".join(lines)
    if "elbo" in found:
        for name, label in (
            ("elbo", "ELBO"),
            ("iwae_5", "IWAE, 5 samples"),
            ("iwae_50", "IWAE, 50 samples"),
        ):
            lines.append(f"{label:>24}{found[name]:>12.2f}")
        error = f" ± {found['standard_error']:.2f} over images"
        label = f"log p(x), {found['importance_samples']:,} samples"
        lines.append(f"{label:>24}{found['log_likelihood']:>12.2f}{error}")
        lines.append(f"{'effective samples':>24}{found['effective_samples']:>12.1f} (median)")
        gap = f"{found['amortisation_gap']:>12.2f} on {found['amortisation_pictures']} of them"
        lines.append(f"{'amortisation gap':>24}{gap}")
        return "\n".join(lines + ([f"note: {found['note']}"] if found["note"] else []))
    lines.append(f"the judge names {found['accuracy_on_real']:.1f}% of {found['data']} as labelled")
    if "accuracy_on_reconstructions" in found:
        lines.append(f"and {found['accuracy_on_reconstructions']:.1f}% of this run's reconstructions of it")
    if "samples" in found:
        drawn = found["samples"]
        cut = f", cut off at ±{drawn['truncate']:g}" if drawn["truncate"] else ""
        lines.append(f"{drawn['n']:,} samples, seed {drawn['seed']}, latents x {drawn['scale']:g}{cut}:")
        forms = {
            "class": "{}",
            "count": "{:,.0f}",
            "accuracy": "{:.1f}%",
            "confidence": "{:.1f}%",
            "diversity": "{:.3f}",
        }
        columns = found["by_class"]
        lines.append("".join(f"{name:>14}" for name in columns))
        for row in [*zip(*columns.values(), strict=True), ("mean", *found["mean"].values())]:
            cells = (forms[n].format(v) if v == v else "-" for n, v in zip(columns, row, strict=True))
            lines.append("".join(f"{cell:>14}" for cell in cells))
        if "accuracy" in columns:
            lines.append("accuracy: named as the class asked for")
        lines.append(
            "diversity: mean distance of two samples of a class over that of two real pictures of it"
        )
    return "\n".join(lines)


def arithmetic_lines(found):
    lines = [f"{found['exact']:.2f}% of answers right, {found['characters']:.2f}% of characters"]
    shares = [f"{share:.2f}% with {n}" for n, share in found["exact_by_carries"].items() if share == share]
    lines.append(f"right by carries or borrows: {', '.join(shares)}")
    lines.append("wrong: " + ", ".join(f"{count} {size}" for size, count in found["errors"].items()))
    if "drawn" in found:
        lines.append(f"as its reader names them; of true symbols it names {found['reader']:.2f}% right")
        for name, what in (("drawn", "drawn answers"), ("all_black", "all-black ones")):
            row = found[name]
            lines.append(f"{what}: MSE {row['mse']:.4f} per pixel, {row['pixels']:.2f}% of pixels right")
    return lines


# -----------------------------------------------------------------------------------------------------------
# FID's Inception (Szegedy et al. 2016), as data. A block is branches side by side, whose ends are
# concatenated; a branch is steps in a row; a step is a pool, mean or max, or NAME,CHANNELS,KERNEL: a
# convolution with batch norm and ReLU. A + joins two steps that share their input. A kernel alone keeps the
# size (stride 1, TensorFlow's padding SAME), KERNEL/S has stride S and no padding (its VALID).

STEM = [
    "Conv2d_1a_3x3,32,3x3/2 Conv2d_2a_3x3,32,3x3/1 Conv2d_2b_3x3,64,3x3 max,3x3/2 "  # 299 -> 73 pixels
    "Conv2d_3b_1x1,80,1x1 Conv2d_4a_3x3,192,3x3/1 max,3x3/2"  # -> 35
]


def block_5(pooled):  # their figure 5
    return [
        "branch1x1,64,1x1",
        "branch5x5_1,48,1x1 branch5x5_2,64,5x5",
        "branch3x3dbl_1,64,1x1 branch3x3dbl_2,96,3x3 branch3x3dbl_3,96,3x3",
        f"mean,3x3 branch_pool,{pooled},1x1",
    ]


def block_6(c):  # their figure 6, n = 7
    return [
        "branch1x1,192,1x1",
        f"branch7x7_1,{c},1x1 branch7x7_2,{c},1x7 branch7x7_3,192,7x1",
        f"branch7x7dbl_1,{c},1x1 branch7x7dbl_2,{c},7x1 branch7x7dbl_3,{c},1x7 "
        f"branch7x7dbl_4,{c},7x1 branch7x7dbl_5,192,1x7",
        "mean,3x3 branch_pool,192,1x1",
    ]


def block_7(pool):  # their figure 7
    return [
        "branch1x1,320,1x1",
        "branch3x3_1,384,1x1 branch3x3_2a,384,1x3+branch3x3_2b,384,3x1",
        "branch3x3dbl_1,448,1x1 branch3x3dbl_2,384,3x3 branch3x3dbl_3a,384,1x3+branch3x3dbl_3b,384,3x1",
        f"{pool},3x3 branch_pool,192,1x1",
    ]


MIXED = {
    "Mixed_5b": block_5(32),
    "Mixed_5c": block_5(64),
    "Mixed_5d": block_5(64),
    "Mixed_6a": [  # their figure 10, as is 7a; -> 17 pixels
        "branch3x3,384,3x3/2",
        "branch3x3dbl_1,64,1x1 branch3x3dbl_2,96,3x3 branch3x3dbl_3,96,3x3/2",
        "max,3x3/2",
    ],
    "Mixed_6b": block_6(128),
    "Mixed_6c": block_6(160),
    "Mixed_6d": block_6(160),
    "Mixed_6e": block_6(192),
    "Mixed_7a": [  # -> 8 pixels
        "branch3x3_1,192,1x1 branch3x3_2,320,3x3/2",
        "branch7x7x3_1,192,1x1 branch7x7x3_2,192,1x7 branch7x7x3_3,192,7x1 branch7x7x3_4,192,3x3/2",
        "max,3x3/2",
    ],
    "Mixed_7b": block_7("mean"),
    "Mixed_7c": block_7("max"),  # so it is in the graph of 2015, on which FID stands; torchvision: mean
}


class Convolution(nn.Module):
    """Convolution, batch norm and ReLU, under the names that the published file gives them."""

    def __init__(self, channels, out, kernel, stride, padding):
        super().__init__()
        self.conv = nn.Conv2d(channels, out, kernel, stride, padding, bias=False)
        self.bn = nn.BatchNorm2d(out, eps=1e-3)

    @torch.no_grad()
    def fold(self):
        """With fixed statistics batch norm is linear: g (W x − m) / s + b = (g / s W) x + (b − m g / s)."""
        scale = self.bn.weight / (self.bn.running_var + self.bn.eps).sqrt()
        self.conv.weight = nn.Parameter(scale[:, None, None, None] * self.conv.weight)
        self.conv.bias = nn.Parameter(self.bn.bias - self.bn.running_mean * scale)
        self.bn = nn.Identity()

    def forward(self, x):
        return F.relu(self.bn(self.conv(x)), inplace=True)


class Block(nn.Module):
    """Branches side by side, written as above: [n, channels, H, W] -> [n, self.channels, H', W']."""

    def __init__(self, branches, channels):
        super().__init__()
        self.branches, self.channels = [], 0  # a branch is a list of steps, a step a list of layers' names
        for branch in branches:
            width, steps = channels, []
            for step in branch.split():
                layers = [layer.split(",") for layer in step.split("+")]
                width = sum([self.add_layer(width, *layer) for layer in layers])
                steps.append([layer[0] for layer in layers])
            self.branches.append(steps)
            self.channels += width

    def add_layer(self, channels, name, *numbers):
        """Make the layer (name, kernel) or (name, channels, kernel); returns how many channels come out."""
        kernel, _, stride = numbers[-1].partition("/")
        kernel = tuple(map(int, kernel.split("x")))
        shape = kernel, int(stride or 1), (0, 0) if stride else tuple(side // 2 for side in kernel)
        out = channels if name in ("mean", "max") else int(numbers[0])
        if name == "max":
            layer = nn.MaxPool2d(*shape)
        elif name == "mean":  # over the pixels that are there, as TensorFlow's; torchvision counts padding
            layer = nn.AvgPool2d(*shape, count_include_pad=False)
        else:
            layer = Convolution(channels, out, *shape)
        self.add_module(name, layer)
        return out

    def forward(self, x):
        ends = []
        for steps in self.branches:
            y = x
            for names in steps:
                y = concatenate([getattr(self, name)(y) for name in names])
            ends.append(y)
        return concatenate(ends)


def concatenate(parts):
    """Along channels; one part is not copied."""
    return torch.cat(parts, 1) if len(parts) > 1 else parts[0]


class Graph(Block):
    """The whole network, its state dict named as the published file: prepared [n, 3, 299, 299] -> features
    [n, 2048], those of the layer pool3, and logits [n, 1008]."""

    def __init__(self):
        super().__init__(STEM, 3)
        for name, branches in MIXED.items():
            block = Block(branches, self.channels)
            self.add_module(name, block)
            self.channels = block.channels
        self.fc = nn.Linear(self.channels, 1008)

    def forward(self, x):
        x = super().forward(x)  # the stem
        for name in MIXED:
            x = getattr(self, name)(x)
        features = x.mean((2, 3))  # (n, 2048, 8, 8) -> (n, 2048)
        return features, features @ self.fc.weight.T  # no bias: so does the code of Salimans et al. (2016)


class Inception(Graph):
    """FID's Inception: uint8 [n, 3, H, W], or grey [n, 1, H, W], -> float32 features [n, 2048] for FID and
    logits [n, 1008] for the Inception score.

    weights is a path, see inception_weights; `sha256` is that of its file. resize ("torch" or "tf1") is
    explained at prepare. Batch norm is folded, so that no train() changes a feature. Raises MetricError.
    """

    def __init__(self, weights, resize="torch"):
        if resize not in ("torch", "tf1"):
            raise MetricError(f"resize is {resize!r}: give 'torch' or 'tf1'")
        with torch.device("meta"):  # no time is lost on weights that the file's replace
            super().__init__()
        self.resize = resize
        state, self.sha256 = read_weights(weights, self.state_dict())
        self.load_state_dict(state, strict=False, assign=True)  # not strict: batches need not be counted
        for layer in [layer for layer in self.modules() if isinstance(layer, Convolution)]:
            layer.fold()
        self.eval().requires_grad_(False).to(memory_format=torch.channels_last)

    def forward(self, images, chunk=8):
        """chunk images at a time: few, as the large buffers of many cost a CPU more than they save."""
        if images.dtype != torch.uint8 or images.ndim != 4 or images.shape[1] not in (1, 3):
            raise MetricError(
                f"{images.dtype} {list(images.shape)}: give uint8 [n, 3, H, W] or [n, 1, H, W]"
            )
        device = self.fc.weight.device
        with torch.inference_mode():
            parts = [super(Inception, self).forward(prepare(part.to(device), self.resize))
                     for part in images.split(chunk)]  # fmt: skip
            features, logits = zip(*parts, strict=True)
            return torch.cat(features), torch.cat(logits)


def prepare(images, resize):
    """uint8 [n, 1 or 3, H, W] -> float [n, 3, 299, 299] in [−1, 1], resized bilinearly without antialiasing.

    "torch", as pytorch-fid: pixels' middles are matched, x / 127.5 − 1. "tf1", as torch-fidelity and the
    code of Heusel et al. (2017): pixels' corners are, (x − 128) / 128. The two give different FIDs
    (Parmar et al. 2022), so a number must say which it has.
    """
    x = images.float()
    if resize == "tf1":
        x = (resize_tf1(x) - 128) / 128
    else:
        x = F.interpolate(x, size=(299, 299), mode="bilinear", align_corners=False) / 127.5 - 1
    return x.expand(-1, 3, -1, -1).contiguous(memory_format=torch.channels_last)


def resize_tf1(x, size=299):
    """TensorFlow 1's bilinear resize of [n, C, H, W]: the new pixel i is read at the old i H / size, where
    torch reads at (i + ½) H / size − ½."""
    for dim in (2, 3):
        n = x.shape[dim]
        place = torch.arange(size, device=x.device) * (n / size)
        low = place.long()
        share = (place - low).view(-1, 1) if dim == 2 else place - low
        x = x.index_select(dim, low).lerp(x.index_select(dim, (low + 1).clamp(max=n - 1)), share)
    return x


if __name__ == "__main__":
    sys.exit(main())
