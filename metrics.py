"""Numbers that judge what a model makes.

    python metrics.py runs/vae-mnist10k runs/cvae-mnist10k                # FID, IS, KID, precision, recall
    python metrics.py generated/ --against real/                          # of any two sets of pictures
    python metrics.py RUN --features classifier:runs/classifier-mnist10k  # a judge of our own names them too
    python metrics.py runs/classifier-mnist10k --data mnist --split test  # and how good is the judge?
    python metrics.py runs/text2text-arithmetic                           # how many answers are right?

The distances compare two sets of images by their features, which are Inception's unless --features says
otherwise. A classifier also names each generated image. That alone can be bought with sameness, one perfect
3 drawn a hundred times, so the diversity within each class stands beside it: the mean distance between two
images of the class, over the same for real ones.
"""

import hashlib
import http.client
import io
import json
import math
import os
import socket
import sys
import textwrap
from pathlib import Path

import numpy as np
import torch
import torch.nn as nn
import torch.nn.functional as F


class MetricError(ValueError):
    """A number that cannot be had: one line that says why. `status` is what a command line ends with."""

    status = 1


def sha256(body):
    return hashlib.sha256(body).hexdigest()


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
    device = next((parameter.device for parameter in model.parameters()), None)
    with torch.inference_mode():
        answers = torch.cat([model.predict(part.to(device)).cpu() for part in images.split(chunk)])
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


def coverage(named, n_classes):
    """How many classes were named at all, and as how many equally frequent ones they count: exp of the
    entropy of their shares (modes that are missing or rare lower it)."""
    shares = torch.bincount(named, minlength=n_classes).double() / len(named)
    return dict(
        classes=int((shares > 0).sum()),
        evenly=shares[shares > 0].log().mul(-shares[shares > 0]).sum().exp().item(),
    )


def percent(values):
    return 100 * values.double().mean().item()


# -----------------------------------------------------------------------------------------------------------
# Two sets of images, each by its features [n, d]: how far apart are they? Tensors or arrays; in float64


def frechet_distance(mean1, cov1, mean2, cov2):
    """Squared Fréchet distance of two Gaussians (Dowson & Landau 1982, eq. 4):
    |m1 − m2|² + tr(C1 + C2 − 2 (C1 C2)^½). Means [d], covariances [d, d].

    With C1 = L Lᵀ the eigenvalues of C1 C2 are those of Lᵀ C2 L, which is symmetric and has no negative
    ones: no imaginary part can appear.
    """
    mean1, cov1, mean2, cov2 = map(as_float64, (mean1, cov1, mean2, cov2))
    root = square_root(cov1)
    values = eigenvalues(root, cov2)
    if (values < len(cov1) * torch.finfo(values.dtype).eps * values.norm()).any():
        other = square_root(cov2)  # some are 0 but for rounding; of the covariance of lesser rank none are
        if other.shape[1] < root.shape[1]:
            values = eigenvalues(other, cov1)
    cross = values.clamp(min=0).sqrt().sum()
    distance = (mean1 - mean2).square().sum() + cov1.trace() + cov2.trace() - 2 * cross
    return distance.clamp(min=0).item()


def square_root(cov):
    """Lower triangular L [d, rank] with L Lᵀ = cov: by Cholesky, or where that breaks down, as with fewer
    examples than dimensions, from the eigenvectors that rounding has not made up."""
    root, failed = torch.linalg.cholesky_ex(cov)
    pivots = root.diag().square()
    if not failed and pivots.min() > 1e-10 * pivots.max():
        return root
    values, vectors = torch.linalg.eigh(cov)
    sound = values > len(cov) * torch.finfo(cov.dtype).eps * values.max()
    return torch.linalg.qr((vectors[:, sound] * values[sound].sqrt()).T).R.T


def eigenvalues(root, cov, strip=256):
    """Those of rootᵀ cov root, root lower triangular [d, rank]: zeros are not multiplied, and of the product
    only the triangle that eigvalsh reads is made, which is a third of the work."""
    product = torch.empty(2 * root.shape[1:], dtype=root.dtype)
    for k in range(0, len(product), strip):
        product[k : k + strip, k:] = root[k:, k : k + strip].T @ cov[k:, k:] @ root[k:, k:]
    return torch.linalg.eigvalsh(product.T)


def fid(features1, features2):
    """Fréchet distance of the Gaussians of two sets (Heusel et al. 2017, eq. 6): with Inception's features,
    the FID.

    With fewer images than dimensions the covariances are known by their factors, C = Aᵀ A for the centerd
    features A [n, d] over √(n − 1), and the last trace is the sum of the singular values of A1 A2ᵀ [n, m].
    """
    few, many = sorted(map(as_float64, (features1, features2)), key=len)
    means, (d,) = (few.mean(0), many.mean(0)), few.shape[1:]
    if len(few) >= d:
        return frechet_distance(means[0], few.T.cov(), means[1], many.T.cov())
    few, many = ((f - m) / math.sqrt(len(f) - 1) for f, m in zip((few, many), means, strict=True))
    if len(many) <= d:
        cross = torch.linalg.svdvals(few @ many.T).sum()
    else:  # the same from a matrix that is not n wide
        cross = torch.linalg.eigvalsh(few @ (many.T @ many) @ few.T).clamp(min=0).sqrt().sum()
    distance = (means[0] - means[1]).square().sum() + few.square().sum() + many.square().sum() - 2 * cross
    return distance.clamp(min=0).item()


class Statistics:
    """Mean and covariance of features that come in parts, in memory that does not grow with their number."""

    def __init__(self):
        self.n = 0

    def add(self, features):
        """Features [n, d]."""
        features = as_float64(features)
        if self.n == 0:
            self.origin = features.mean(0)  # squares of small numbers round less
            self.total = torch.zeros_like(self.origin)
            self.squares = torch.zeros(2 * features.shape[1:], dtype=torch.float64)
        features = features - self.origin
        self.n += len(features)
        self.total += features.sum(0)
        self.squares += features.T @ features

    @property
    def mean(self):
        return self.origin + self.total / self.n

    @property
    def cov(self):
        return (self.squares - torch.outer(self.total, self.total) / self.n) / (self.n - 1)


def kid(features1, features2, subsets=100, subset_size=1000, seed=0):
    """Kernel distance (Bińkowski et al. 2018, sec. 4) as its mean and spread over random subsets.

    The squared maximum mean discrepancy under k(x, y) = (xᵀy / d + 1)³, by the estimate that has no bias
    (Gretton et al. 2012, eq. 3), so that it may fall below 0. Subsets are no larger than the smaller set;
    where they are both sets whole they are all the same, and their spread 0 says nothing.
    """
    x, y = as_float64(features1), as_float64(features2)
    size, random = min(subset_size, len(x), len(y)), torch.Generator().manual_seed(seed)
    chosen = [torch.zeros(len(features), subsets, dtype=torch.float64) for features in (x, y)]
    for column in range(subsets):
        for mask in chosen:
            mask[torch.randperm(len(mask), generator=random)[:size], column] = 1
    of_x, of_y = chosen
    within = kernel_sums(x, of_x, x, of_x) - kernel_of_itself(x) @ of_x
    within += kernel_sums(y, of_y, y, of_y) - kernel_of_itself(y) @ of_y
    found = within / (size * (size - 1)) - 2 * kernel_sums(x, of_x, y, of_y) / size**2
    return found.mean().item(), found.std(correction=0).item()


def kernel_sums(x, of_x, y, of_y):
    """Sums of k(x_i, y_j) over the i and j of each subset, columns of 0 and 1: all subsets at once."""
    total = 0
    for rows, mask in zip(x.split(1000), of_x.split(1000), strict=True):
        total = total + (mask * ((rows @ y.T / x.shape[1] + 1) ** 3 @ of_y)).sum(0)
    return total


def kernel_of_itself(x):
    return (x.square().sum(1) / x.shape[1] + 1) ** 3


def precision_recall(real, generated, k=3):
    """Improved precision and recall (Kynkäänniemi et al. 2019, eq. 1 to 3): the share of generated images
    that lie among the real ones, and of real ones among the generated; both in [0, 1].

    A set's region is the union of balls around its members, each as wide as the way to its k-th neighbor.
    Published figures have the features of VGG-16: those of Inception are not to be held against them.
    """
    real, generated = as_float64(real), as_float64(generated)
    return share_within(real, generated, k), share_within(generated, real, k)


def share_within(members, others, k):
    radii = torch.cat([part.kthvalue(k + 1).values for part in distances(members, members)])  # 1st: itself
    inside = [(part <= radii).any(1) for part in distances(others, members)]
    return torch.cat(inside).double().mean().item()


def distances(a, b, block=1000):
    """Squared Euclidean distances of a [n, d] from b [m, d], so many rows at a time; what rounding alone
    could have made is 0."""
    for part in a.split(block):
        lengths = part.square().sum(1)[:, None] + b.square().sum(1)
        squares = lengths - 2 * part @ b.T
        yield squares.where(squares > 1e-12 * lengths, 0.0)


def inception_score(logits, splits=10, seed=0):
    """exp of the mean KL(p(y|x) ‖ p(y)) in each of so many parts (Salimans et al. 2016, sec. 4), as mean and
    spread over them; from 1 to the number of classes. Logits [n, classes]; shuffled, unless seed is None."""
    logits = as_float64(logits)
    if seed is not None:
        logits = logits[torch.randperm(len(logits), generator=torch.Generator().manual_seed(seed))]
    scores = []
    for part in logits.log_softmax(1).tensor_split(min(splits, len(logits))):
        marginal = part.logsumexp(0) - math.log(len(part))
        scores.append((part.exp() * (part - marginal)).sum(1).mean().exp())
    scores = torch.stack(scores)
    return scores.mean().item(), scores.std(correction=0).item()


def as_float64(values):
    return torch.as_tensor(values).double()


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
# What turns uint8 images [n, C, H, W] into features [n, d] and, if it can, logits of classes. `mark` follows
# the names of numbers that are not made with Inception


class Pixels:
    """The baseline: pixels in [0, 1], which know nothing of what a picture shows."""

    mark, protocol = "-p", "features: pixels"

    def __call__(self, x):
        return x.flatten(1).float() / 255, None


class Classifier:
    """What one of our own classifiers sees before its last layer, averaged over positions."""

    mark = "-c"

    def __init__(self, run):
        self.run, self.model = run, run["model"]
        file = Path(run["folder"]) / "best.pt"
        self.protocol = f"features: {file.parent.name}, SHA-256 {sha256(file.read_bytes())}"

    def __call__(self, x):
        shape, expected = list(x.shape[1:]), self.run["config"]["image_shape"]
        if shape != expected:
            raise MetricError(f"{self.run['folder']} knows pictures of {expected}, these are {shape}")
        features = self.model.encoder(x.float().to(self.model.to_logits.weight.device) / 255)
        logits = self.model.to_logits(features)
        if stack := getattr(self.model.encoder, "layers", None):  # of convolutions: channels, kernel, ...
            features = features.unflatten(1, (stack[-1][0], -1)).mean(2)
        return features, logits


KEPT = 10_000


class Features:
    """Features of the first `keep` images of a set, the mean and covariance of all where there are more, and
    the logits of all."""

    def __init__(self, keep=KEPT):
        self.keep, self.n, self.parts, self.logit_parts, self.statistics = keep, 0, [], [], None

    def add(self, features, logits):
        if not features.isfinite().all():
            raise MetricError("the network found no finite features: are these its weights?")
        features, room = features.cpu(), max(0, self.keep - self.n)
        self.n, self.width = self.n + len(features), features.shape[1]
        if logits is not None:
            self.logit_parts.append(logits.cpu())
        if self.statistics is None and self.n > self.keep:
            self.statistics = Statistics()
            for part in self.parts:
                self.statistics.add(part)
        if self.statistics:
            self.statistics.add(features)
        self.parts.append(features[:room])

    @property
    def kept(self):
        return torch.cat(self.parts)

    @property
    def logits(self):
        return torch.cat(self.logit_parts) if self.logit_parts else None

    def in_parts(self, k, seed):
        """So many disjoint parts of what is kept, of equal size, as Features."""
        index = torch.randperm(len(self.kept), generator=torch.Generator().manual_seed(seed))
        for own in index[: len(index) // k * k].chunk(k):
            part = Features()
            part.add(self.kept[own], self.logits[own] if self.logit_parts else None)
            yield part


@torch.inference_mode()
def extract(extractor, parts):
    """Features of a set of images that comes in parts, uint8 [n, C, H, W] each."""
    found = Features()
    for part in parts:
        found.add(*extractor(part))
    if found.n < 2:
        raise MetricError(f"a set of {found.n} images has no spread to compare: give 2 or more")
    return found


def moments(side):
    """Mean [d] and covariance [d, d] of Features, or a pair of them as it is."""
    if not isinstance(side, Features):
        return side
    if side.statistics:
        return side.statistics.mean, side.statistics.cov
    features = as_float64(side.kept)
    return features.mean(0), features.T.cov()


def set_distance(one, two):
    """The Fréchet distance of two sets, each Features or a pair of mean and covariance."""
    widths = [side.width if isinstance(side, Features) else len(side[0]) for side in (one, two)]
    if widths[0] != widths[1]:
        raise MetricError(f"features of {widths[0]} and {widths[1]} dimensions: are these the same ones?")
    if all(isinstance(side, Features) and side.statistics is None for side in (one, two)):
        return fid(one.kept, two.kept)
    return frechet_distance(*moments(one), *moments(two))


# -----------------------------------------------------------------------------------------------------------
# The weights of FID's Inception: those of TensorFlow's graph of 2015-12-05, ported by pytorch-fid

WEIGHTS = "pt_inception-2015-12-05-6726825d.pth"
WEIGHTS_SHA256 = "6726825d0af5f729cebd5821db510b11b1cfad8faad88a03f1befd49fb9129b2"
WEIGHTS_URL = f"https://github.com/mseitzer/pytorch-fid/releases/download/fid_weights/{WEIGHTS}"


def inception_weights(folder=None):
    """Path of the published weights (96 MB), downloaded once. Raises MetricError.

    They are kept in the folder, else in the one that the environment variable DGM_DATA_DIR names, else in
    torch.hub's: pytorch-fid keeps its own there under the same name, and each finds what the other fetched.
    """
    hub = Path(torch.hub.get_dir()) / "checkpoints"
    path = Path(folder or os.environ.get("DGM_DATA_DIR") or hub).expanduser() / WEIGHTS
    if path.is_file():
        return path
    patience, _ = socket.getdefaulttimeout(), socket.setdefaulttimeout(30)
    try:  # beside its place, then moved there: the file is either whole or not there
        path.parent.mkdir(parents=True, exist_ok=True)
        torch.hub.download_url_to_file(WEIGHTS_URL, str(path), WEIGHTS_SHA256)
    except (OSError, http.client.HTTPException, RuntimeError) as error:  # the last: another hash
        ways = "give --weights FILE, --features classifier:RUN or --features pixels"
        raise MetricError(f"no Inception weights at {path} ({WEIGHTS_URL}: {error}): {ways}") from None
    finally:
        socket.setdefaulttimeout(patience)
    print(f"note: {WEIGHTS_URL} is kept as {path}", file=sys.stderr)
    return path


def read_weights(path, own):
    """The file's tensors under the names of `own`, in their shapes; and its SHA-256. Raises MetricError."""
    try:
        body = Path(path).read_bytes()
    except OSError as error:
        raise MetricError(f"cannot read the weights {path}: {error.strerror}") from None
    digest = sha256(body)
    if Path(path).name == WEIGHTS and digest != WEIGHTS_SHA256:
        raise MetricError(f"{path} is damaged (its SHA-256 begins with {digest[:8]}): delete it")
    try:
        state = torch.load(io.BytesIO(body), map_location="cpu", weights_only=True)
    except Exception as error:  # what torch raises for broken files has no narrower class in common
        reason = str(error).partition("\n")[0][:100]
        raise MetricError(f"{path} is no whole file of weights ({reason}): give {WEIGHTS}") from None
    state = state if isinstance(state, dict) else {}
    own = {name: tensor for name, tensor in own.items() if "num_batches" not in name}
    for name, tensor in own.items():
        if getattr(state.get(name), "shape", None) != tensor.shape:
            wanted = f"{name} {list(tensor.shape)}"
            raise MetricError(f"{path} has no {wanted}, so is not FID's Inception: give {WEIGHTS}")
    return {name: state[name].float() for name in own}, digest


# -----------------------------------------------------------------------------------------------------------
# Command line. Our other files are imported from here on alone, so that what is above works without them


def flags():
    from data import SPLITS, Parser, number

    parser = Parser(prog="metrics.py", description=__doc__)
    add = parser.add_argument
    add("sources", nargs="+", metavar="SOURCE", help="run folders, image folders, .npy, .npz, data sets")
    add("--against", metavar="REAL", help="as a source, or .npz with mu, sigma (default: a run's own split)")
    add("--features", default="inception", metavar="inception|classifier:RUN|pixels", help="(inception)")
    add("--weights", metavar="FILE", help="Inception's, where there is no network to download them")
    resizes = "to 299 pixels as pytorch-fid (torch, the default) or torch-fidelity (tf1)"
    add("--resize", choices=("torch", "tf1"), default="torch", help=resizes)
    add("-n", type=number(int, 2), default=2048, help="generated images of a run (default 2048)")
    add("--sets", type=number(int, 1), default=5, help="of so many images each, for the spread (default 5)")
    add("--batch-size", type=number(int, 1), default=8, help="images at once: 8 suits a CPU, more a GPU (8)")
    add("--device", default="cpu", help="that computes features (default cpu)")
    add("--save-stats", metavar="F.npz", help="mean and covariance of the features, as pytorch-fid has them")
    add("--image-size", type=number(int, 1), help="crop and resize the pictures of folders to this side")
    add("--out", metavar="FILE.png", help="FID and IS as bars")
    likelihood = "of a VAE, by K importance samples for each of -n real images; and its amortization gap"
    add("--log-likelihood", type=number(int, 50), metavar="K", help=likelihood)
    add("--scale", type=number(float, 0), default=1.0, help="of a run's latents (default 1)")
    add("--truncate", type=number(float, 0, above=True), help="cut latents off at ± this")
    add("--seed", type=number(int, 0, 2**31), default=0, help="of latents and subsets (default 0)")
    add("--data", metavar="NAME|PATH", help="judge a classifier on these (default: its own data)")
    add("--split", choices=SPLITS, default="test", help="of real images (default test)")
    add("--data-dir", metavar="DIR", help="where whole data sets and Inception's weights are")
    add("--json", action="store_true", help="print JSON instead of tables")
    return parser


def main(argv=None):
    """Runs the command line; returns its exit status."""
    import data
    import models

    return data.run_command("metrics.py", command, argv, models.ModelError, MetricError)


def command(argv):
    import data

    args = flags().parse_args(argv)
    one = len(args.sources) == 1 or not args.save_stats
    data.require(one, "--save-stats writes the statistics of one source: give one")
    data.require(Path(args.save_stats or "F.npz").suffix == ".npz", "--save-stats: name a file F.npz")
    for path in filter(None, (args.save_stats, args.out)):  # now, not after an hour
        there = Path(path).absolute().parent.is_dir()
        data.require(there, f"{path}: there is no such folder, make it first")
    sources = [open_source(name, args) for name in args.sources]
    reports = [own_report(source, args) for source in sources]
    compares = None in reports or not (args.against or args.save_stats or args.out)
    data.require(compares, "--against, --save-stats and --out are of pictures: none are compared here")
    extractor = make_extractor(args) if None in reports else None
    real = open_source(args.against, args) if args.against else None
    data.require("model" not in (real or {}), f"--against {args.against}: a run's samples are not real ones")
    results, texts = [], []
    for source, report in zip(sources, reports, strict=True):
        found, lines = report(source, args) if report else report_pictures(source, real, extractor, args)
        results.append(dict(source=source["folder"]) | found)
        texts += ["\n".join(lines)] if lines else []
    if rows := [found["sets"] for found in results if "sets" in found]:
        texts.append("\n".join(set_lines(rows)))
    if args.json:  # which knows no NaN
        print(json.dumps(json.loads(json.dumps(results), parse_constant=lambda nan: None), indent=1))
    else:
        print("\n\n".join(texts))
    if args.out:
        draw_bars(rows, args.out)


def own_report(source, args):
    """The report of what is not judged by its pictures' features, or None."""
    import data

    model = source.get("model")
    held = f"{source['folder']} holds a {source.get('kind', 'set of pictures')}"
    known = getattr(model, "has_posterior", False) or not args.log_likelihood
    data.require(known, f"--log-likelihood is of VAEs: {held}")
    known = hasattr(model, "predict") or not args.data
    data.require(known, f"--data is for judging a classifier: {held}")
    if args.log_likelihood:
        return report_likelihood
    if hasattr(model, "predict"):
        return report_arithmetic if source["config"]["flags"]["data"] == "arithmetic" else report_classifier
    return None


def make_extractor(args):
    import data

    device, (kind, _, folder) = data.pick_device(args.device), args.features.partition(":")
    if kind == "classifier" and folder:
        judge = open_run(folder)
        if judge["kind"] != "classifier":
            raise data.Mistake(f"--features: {folder} holds a {judge['kind']}, not a classifier")
        judge["model"].to(device)
        return Classifier(judge)
    if args.features == "pixels":
        return Pixels()
    if args.features != "inception":
        raise data.Mistake(f"--features {args.features}: write inception, pixels or classifier:RUN")
    weights = args.weights or inception_weights(args.data_dir)
    return Inception(weights, args.resize, args.batch_size).to(device)


# -----------------------------------------------------------------------------------------------------------
# Sources: a dict with `folder`, and "model" and more of a run, "images" uint8 [n, C, H, W], or "moments"


def open_source(name, args):
    import data

    if (Path(name) / "config.json").exists():
        return open_run(name)
    if name in data.DATASETS:
        data.require(name != "arithmetic", "arithmetic is no set of pictures: give another source")
        x = getattr(data.load(name, args.data_dir), args.split).x
        return dict(folder=name, images=of_size(args.image_size, name, x))
    if Path(name).suffix == ".npz" and Path(name).is_file():
        arrays = data.open_arrays(name)
        if arrays.keys() >= {"mu", "sigma"}:
            made = str(arrays["protocol"]) if "protocol" in arrays else None  # not by pytorch-fid
            return dict(folder=name, moments=check_moments(name, arrays["mu"], arrays["sigma"]), made=made)
    empty = Path(name).is_dir() and not any(Path(name).iterdir())
    data.require(not empty, f"{name} is not a run folder and holds no pictures: it is empty")
    x = data.read(name, Path(name), None, args.image_size, None, None)[0]
    return dict(folder=name, images=of_size(args.image_size, name, torch.from_numpy(x.copy())))


def of_size(size, name, x):
    """Pictures x [n, C, H, W], if they have the size that is asked for. Folders have been resized by Pillow:
    other pictures would be by another filter, and no two sets may be treated differently."""
    import data

    wrong = f"{name} has pictures of {x.shape[2]}x{x.shape[3]}, and --image-size {size} is of folders alone"
    data.require(size is None or x.shape[2:] == (size, size), wrong)
    return x


def check_moments(name, mean, cov):
    sound = mean.dtype.kind in "fiu" and cov.dtype.kind in "fiu" and mean.ndim == 1
    if sound and (sound := mean.size > 0 and cov.shape == 2 * mean.shape):
        mean, cov = as_float64(mean), as_float64(cov)
        sound = mean.isfinite().all() and cov.isfinite().all() and cov.diag().min() >= 0
        sound = sound and (cov - cov.T).abs().max() <= 1e-5 * cov.abs().max()
    if not sound:
        raise MetricError(f"{name}: mu and sigma are not the mean [d] and covariance [d, d] of anything")
    return mean, cov


def open_run(folder):
    """A run's model and what its folder says of it."""
    import data
    import models

    config, model = data.read_config(folder), models.load(Path(folder) / "best.pt")
    kind, classes = config["flags"]["model"], config["classes"]
    return dict(folder=str(folder), config=config, kind=kind, model=model, classes=classes)


def add_real_pictures(run, args):
    """Real pictures of the run's kind, to hold it against."""
    import data

    config, folder, model = run["config"], run["folder"], run["model"]
    dataset = data.load_for_run(config, args.data_dir, args.data if hasattr(model, "predict") else None)
    if dataset.classes != config["classes"] or list(dataset.image_shape) != config["image_shape"]:
        raise data.Mistake(f"{folder} knows other classes or sizes of picture than {dataset.name} has")
    split = getattr(dataset, args.split)
    if not len(split.x):
        raise data.Mistake(f"{dataset.name} has no {args.split} pictures")
    torch.manual_seed(args.seed)  # of --binarize stochastic
    x, y = split.batch(slice(None))
    run |= dict(data=f"{dataset.name} {args.split}", real=x, labels=y)
    others = getattr(dataset, "test" if args.split == "train" else "train").batch(slice(None))[0]
    run["reference"] = dict(folder=run["data"], images=in_bytes(x), others=in_bytes(others))


@torch.inference_mode()
def samples(run, args, seed):
    """args.n images [n, C, H, W] in [0, 1] of a run, and their labels, each class in turn; or None, if the
    model takes none."""
    conditional = run["model"].conditional
    labels = torch.arange(args.n) % len(run["classes"]) if conditional else None
    torch.manual_seed(seed)
    parts = []
    for start in range(0, args.n, 500):
        own = labels[start : start + 500] if conditional else None
        parts.append(run["model"].sample(min(500, args.n - start), own, args.scale, args.truncate))
    return torch.cat(parts), labels


def told_latents(args):
    return f"x {args.scale:g}" + (f", cut off at ±{args.truncate:g}" if args.truncate else "")


def in_bytes(images):
    """Floats in [0, 1] as the uint8 that a file would hold."""
    return (255 * images).round().to(torch.uint8)


# -----------------------------------------------------------------------------------------------------------
# Reports: each returns its numbers, as --json prints them, and the lines that tell them on a terminal


def table(rows):
    """Rows of cells as lines; numbers end below each other, and what is missing (nan) is a dash."""
    missing = (math.nan, None, "nan", "nan%")
    rows = [["-" if cell != cell or cell in missing else str(cell) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    cells = [[row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])] for row in rows]
    return ["  ".join(row).rstrip() for row in cells]


def report_classifier(run, args):
    """A classifier's own accuracy and confusion matrix."""
    add_real_pictures(run, args)
    classes, (named, confidence) = run["classes"], predictions(run["model"], run["real"])
    counts = confusion_matrix(run["labels"], named, len(classes))
    shares = (100 * counts.diag() / counts.sum(1)).tolist()
    found = dict(
        accuracy=percent(named == run["labels"]),
        confidence=percent(confidence),
        class_accuracy=dict(zip(classes, shares, strict=True)),
        confusion=counts.tolist(),
    )
    rows = zip(classes, counts.tolist(), shares, strict=True)
    return found, [
        f"{run['folder']} on {len(named):,} pictures of {run['data']}: accuracy {found['accuracy']:.2f}%, "
        f"mean confidence {found['confidence']:.1f}%",
        "rows: the label, columns: the answer",
        *table([["", *classes, "right"], *([name, *row, f"{share:.1f}%"] for name, row, share in rows)]),
    ]


def report_likelihood(run, args):
    """Bounds on log p(x), its estimate, and what the encoder loses against fitted distributions."""
    import models

    model, flags = run["model"], run["config"]["flags"]
    add_real_pictures(run, args)
    torch.manual_seed(args.seed)
    chosen, k = torch.randperm(len(run["real"]))[: args.n], args.log_likelihood
    x, labels = run["real"][chosen], run["labels"][chosen]
    parts = zip(x.split(100), labels.split(100), strict=True)
    weights = torch.cat([log_weights(model, *part, k) for part in parts], 1)  # (K, n)
    value, effective = log_likelihood(weights)
    (_, encoded), (_, fitted) = models.amortization(model, x[:100], labels[:100])
    bits = -value.mean().item() / (x[0].numel() * math.log(2)) if flags.get("binarize") else None
    found = dict(
        elbo=bound(weights, 1),
        iwae_5=bound(weights, 5),
        iwae_50=bound(weights, 50),
        log_likelihood=value.mean().item(),
        standard_error=(value.std() / math.sqrt(len(value))).item(),
        bits_per_dimension=bits,
        effective_samples=effective.median().item(),
        amortization_gap=(encoded - fitted).mean().item(),
    )
    told = table([
        ["ELBO", f"{found['elbo']:.2f}"],
        ["IWAE, 5 samples", f"{found['iwae_5']:.2f}"],
        ["IWAE, 50 samples", f"{found['iwae_50']:.2f}"],
        [f"log p(x), {k:,} samples", f"{found['log_likelihood']:.2f}"],
        ["± over images", f"{found['standard_error']:.2f}"],
        ["effective samples, median", f"{found['effective_samples']:.1f}"],
        [f"amortization gap, of {len(encoded)} pictures", f"{found['amortization_gap']:.2f}"],
    ])  # fmt: skip
    found["note"] = "a density of pixels in [0, 1]"
    if bits:
        found["note"] = f"{bits:.4f} bits per dimension"
    elif model.likelihood == "bernoulli":
        found["note"] = "gray pixels: a score, not a likelihood; see --binarize"
    title = f"{run['folder']} on {len(x):,} pictures of {run['data']}, nats/image, seed {args.seed}"
    return found, [title, *told, found["note"]]


def report_arithmetic(run, args):
    """How many answers of a sequence model are right, where and by how much the others are wrong."""
    import data

    if args.data and args.data != "arithmetic":
        raise data.Mistake(f"--data is for judging a classifier, and {run['folder']} holds a {run['kind']}")
    split, model = getattr(data.load_for_run(run["config"], args.data_dir), args.split), run["model"]
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
    found = dict(characters=percent(same), exact=percent(exact))
    found["errors"] = {size: errors.count(size) for size in ERRORS}
    found["exact_by_carries"] = {n: percent(exact[carried == n]) for n in range(3)}
    shares = [f"{share:.2f}% with {n}" for n, share in found["exact_by_carries"].items() if share == share]
    lines = [
        f"{run['folder']} on {len(exact):,} {args.split} queries of arithmetic",
        f"{found['exact']:.2f}% of answers right, {found['characters']:.2f}% of characters",
        f"right by carries or borrows: {', '.join(shares)}",
        "wrong: " + ", ".join(f"{count} {size}" for size, count in found["errors"].items()),
    ]
    if split.drawn == "answer":
        y = torch.cat([y for _, y in parts])
        with torch.inference_mode():
            found["reader"] = percent(model.read(y) == split.y)
        lines.append(f"as its reader names them; of true symbols it names {found['reader']:.2f}% right")
        for name, pictures in (("drawn", answers), ("all_black", torch.zeros_like(y))):
            pixels, mse = percent((pictures > 0.5) == (y > 0.5)), (pictures - y).square().mean().item()
            found[name] = dict(mse=mse, pixels=pixels)
            what = f"{name.replace('_', '-')} answers"
            lines.append(f"{what}: MSE {mse:.4f} per pixel, {pixels:.2f}% of pixels right")
    return found, lines


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


def report_pictures(source, real, extractor, args):
    """What features and, if they are a classifier's, its answers say of a run's or a folder's pictures."""
    import data

    judge, found, lines = getattr(extractor, "run", None), {}, []
    if "model" in source:
        add_real_pictures(source, args)
        draws = source["model"].draws_samples
        kind = f"{source['folder']} holds an autoencoder ({source['kind']}), which draws no samples"
        data.require(draws or judge, f"{kind}: --features classifier:RUN judges its reconstructions")
        if judge:
            same = all(judge["config"][key] == source["config"][key] for key in ("classes", "image_shape"))
            other = f"{judge['folder']} knows other classes or sizes of picture than {source['folder']}"
            data.require(same, f"{other}: give a judge of the same data and --image-size")
            found, lines = report_judged(source, judge, args)
        if not draws:
            return found, lines
    found["sets"] = compare(source, real or source.get("reference"), extractor, args)
    if judge and "images" in source:
        named, confidence = predictions(judge["model"], source["images"] / 255)
        found["coverage"], found["first_answers"], lines = named_lines(named, confidence, judge["classes"])
        found["confidence"] = percent(confidence)
        mean = f"mean confidence {found['confidence']:.1f}%"
        lines.insert(0, f"{source['folder']} as {judge['folder']} names it, {mean}")
    return found, lines


def report_judged(run, judge, args):
    """What the judge makes of a run's reconstructions and samples."""
    model, x, y, classes = run["model"], run["real"], run["labels"], run["classes"]
    found = dict(accuracy_on_real=percent(predictions(judge["model"], x)[0] == y))
    lines = [f"{run['folder']} judged by {judge['folder']}",
             f"the judge names {found['accuracy_on_real']:.1f}% of {run['data']} as labeled"]  # fmt: skip
    if model.has_encoder:
        named = predictions(judge["model"], reconstructions(run, args.split))[0]
        found["accuracy_on_reconstructions"] = percent(named == y)
        lines.append(f"and {found['accuracy_on_reconstructions']:.1f}% of this run's reconstructions of it")
    if not model.draws_samples:
        return found, lines
    images, labels = samples(run, args, args.seed)
    named, confidence = predictions(judge["model"], images)
    asked = named if labels is None else labels  # where nobody asked, the judge says which was drawn
    by_class = judge_samples(judge["model"], images, asked, (x, y), len(classes))
    found["samples"] = dict(n=args.n, seed=args.seed, scale=args.scale, truncate=args.truncate)
    lines.append(f"{args.n:,} samples, seed {args.seed}, latents {told_latents(args)}:")
    if labels is None:
        del by_class["accuracy"]
    found["mean"] = {name: nan_free_mean(column) for name, column in by_class.items()}
    found["by_class"] = {"class": classes} | by_class
    forms = dict(count="{:,.0f}", accuracy="{:.1f}%", confidence="{:.1f}%", diversity="{:.3f}")
    columns = [[name, *map(forms[name].format, [*column, found["mean"][name]])]
               for name, column in by_class.items()]  # fmt: skip
    if labels is not None:
        counts = confusion_matrix(labels, named, len(classes))
        found["confusion"] = counts.tolist()
        columns += [[name, *column, ""] for name, column in zip(classes, counts.T.tolist(), strict=True)]
        lines.append("rows: the class asked for; accuracy: named so; right: how often each class is named")
    lines += table(zip(["class", *classes, "mean"], *columns, strict=True))
    lines.append("diversity: mean distance of two samples of a class over that of two real pictures of it")
    found["coverage"], found["first_answers"], told = named_lines(named, confidence, classes, labels)
    return found, lines + told


def named_lines(named, confidence, classes, labels=None):
    """Coverage, the first twenty answers and their confidences, and lines that tell them."""
    modes = coverage(named, len(classes))
    pairs = zip(named[:20].tolist(), confidence[:20].tolist(), strict=True)
    answers = [f"{classes[c]} {p:.0%}" for c, p in pairs]
    if labels is not None:
        answers = [f"{classes[c]}: {answer}" for c, answer in zip(labels[:20], answers, strict=True)]
    kinds = f"{modes['classes']} of {len(classes)} classes, as even as {modes['evenly']:.1f} equal ones"
    told = [f"modes: {kinds}", "first answers: " + ", ".join(answers[:10]), ", ".join(answers[10:])]
    return modes, answers, told


def nan_free_mean(values):
    """Over the classes that were drawn at all."""
    return torch.tensor(values, dtype=torch.float64).nanmean().item()


@torch.inference_mode()
def reconstructions(run, split):
    """Of an auto-decoder from the latents that it keeps, else through the encoder."""
    model, x, y = run["model"], run["real"], run["labels"]
    if model.has_free_latents:
        return torch.cat([model.decode(z) for z in model.learned_latents(split).split(500)])
    return torch.cat([model.reconstruct(*part) for part in zip(x.split(500), y.split(500), strict=True)])


def compare(source, real, extractor, args):
    """A row of the table: how far a source's images are from real ones."""
    import data

    def features(x):
        order = torch.arange(len(x))
        if len(x) > KEPT:  # folders come class after class, and the first are kept for KID and the like
            order = torch.randperm(len(x), generator=torch.Generator().manual_seed(args.seed))
        return extract(extractor, (x[part] for part in progress(order.split(args.batch_size))))

    for side in (source, real or {}):
        if side.get("made") not in (None, extractor.protocol):
            raise MetricError(f"{side['folder']} is of {side['made']}, but this is {extractor.protocol}")
    if "moments" in source:
        sets = [source["moments"]]
    elif "images" in source:
        sets = [features(source["images"])]
    else:
        sets = [features(in_bytes(samples(source, args, args.seed + k)[0])) for k in range(args.sets)]
    row = dict(name=source["folder"], mark=extractor.mark, n=getattr(sets[0], "n", None))
    row["protocol"] = f"{extractor.protocol}; 8-bit pixels, float32 features, float64 statistics"
    row["protocol"] += "; IS of 10 splits, KID of 100 subsets of up to 1,000, 3 neighbors for precision and"
    row["protocol"] += f" recall; seed {args.seed}"
    if "model" in source and (args.scale != 1 or args.truncate):
        row["protocol"] += f"; latents {told_latents(args)}"
    shapes = [list(side["images"][0].shape) for side in (source, real or {}) if "images" in side]
    shapes += [source["config"]["image_shape"]] if "model" in source else []
    if shapes[1:] and shapes[0][1:] != shapes[1][1:]:
        row["protocol"] += f"; NOTE: pictures of {shapes[0]} and {shapes[1]}: resizing alone sets them apart"
    if isinstance(extractor, Inception) and 1 in [shape[0] for shape in shapes]:
        row["protocol"] += "; gray pictures are repeated to three channels, unlike published numbers"
    if args.save_stats:
        mu, sigma = (part.numpy() for part in moments(sets[0]))
        kept = dict(mu=mu, sigma=sigma, protocol=extractor.protocol)
        data.write_file(args.save_stats, lambda file: np.savez(file, **kept))
        if real is None:
            return row
    data.require(real, f"{source['folder']}: compared with what? Give --against REAL")
    if "features" not in real:  # once for all sources
        real["features"] = real.get("moments") or features(real["images"])
        real["floor"] = floor(real, args, features)
    found = scores(sets, real["features"], args.seed)
    return row | found | dict(floor=real["floor"], against=real["folder"])


def progress(parts):
    """The parts as they come; a terminal is told how far it is."""
    for done, part in enumerate(parts):
        if sys.stderr.isatty():
            print(f"\rfeatures: {done / len(parts):.0%}", end="\r", file=sys.stderr, flush=True)
        yield part
    if sys.stderr.isatty():
        print(" " * 16, end="\r", file=sys.stderr, flush=True)


def floor(real, args, features):
    """FID of real images against other real ones, and the numbers of both: of the run's training pictures,
    or one half against the other."""
    if not isinstance(real["features"], Features):
        return None
    if len(real.get("others", ())) >= args.n:
        chosen = torch.randperm(len(real["others"]), generator=torch.Generator().manual_seed(args.seed))
        distance = set_distance(features(real["others"][chosen[: args.n]]), real["features"])
        return distance, args.n, real["features"].n
    if real["features"].n < 4:
        return None
    one, two = real["features"].in_parts(2, args.seed)
    return set_distance(one, two), one.n, two.n


def scores(sets, real, seed):
    """Every number of a row: its mean over the sets, and its spread over them or, of one set, over five
    disjoint parts."""
    first, found, parts = sets[0], dict(n_real=getattr(real, "n", None)), sets
    if len(sets) == 1 and isinstance(first, Features) and first.n >= 50:
        parts = [*first.in_parts(5, seed)]
    if len(parts) > 1:
        kind = "sets" if parts is sets else "disjoint parts"
        found["spread_over"] = f"{len(parts)} {kind} of {parts[0].n:,} images"
    measures = dict(fid=lambda one: set_distance(one, real))
    if isinstance(first, Features) and first.logit_parts:
        measures["is"] = lambda one: inception_score(one.logits, seed=seed)[0]
        found["is_splits"] = inception_score(first.logits, seed=seed)
    for name, measure in measures.items():
        of_parts = [measure(one) for one in parts]
        found[name] = float(np.mean(of_parts)) if parts is sets else measure(first)
        if len(parts) > 1:
            found[f"{name}_parts"] = float(np.mean(of_parts)), float(np.std(of_parts, ddof=1))
    if isinstance(first, Features) and isinstance(real, Features) and min(first.n, real.n) > 3:
        found["kid"] = kid(first.kept, real.kept, seed=seed)
        found["precision"], found["recall"] = precision_recall(real.kept, first.kept)
    return found


def set_lines(rows):
    """The table of sets of images, and what one must know to quote it."""
    mark = rows[0]["mark"]
    cells = [["", "n", f"FID{mark}", "floor", f"IS{mark}", f"KID{mark} x 1000", "precision", "recall"]]
    for row in rows:
        kid_ = "{:.2f} ± {:.2f}".format(*(1000 * x for x in row["kid"])) if "kid" in row else None
        if kid_ and row["n"] == row["n_real"] <= 1000:  # all subsets are the whole sets
            kid_ = kid_.partition(" ± ")[0]
        regions = [f"{row[name]:.3f}" if name in row else None for name in ("precision", "recall")]
        nearest = f"{row['floor'][0]:.3g}" if row.get("floor") else None
        sides = with_spread(row, "fid"), nearest, with_spread(row, "is")
        cells.append([row["name"], f"{row['n']:,}" if row["n"] else None, *sides, kid_, *regions])
    return [*table(cells), *dict.fromkeys(note for row in rows for note in notes(row))]


def with_spread(row, name):
    """As the table has it; the spread over disjoint parts is that of smaller sets, and has its own line."""
    if name not in row:
        return None
    sets = "sets" in row.get("spread_over", "")
    return f"{row[name]:.4g}" + (f" ± {row[name + '_parts'][1]:.2g}" if sets else "")


def notes(row):
    """Where a row's spread and floor come from, what is too small, and the protocol."""
    over = row.get("spread_over", "")
    if "disjoint" in over:
        names = [name for name in ("fid", "is") if name in row]
        of_each = [(name.upper() + row["mark"], *row[f"{name}_parts"]) for name in names]
        parts = ["{} {:.4g} ± {:.2g}".format(*one) for one in of_each]
        yield f"{row['name']}: over {over}: {', '.join(parts)}"
        if "is" in row:
            yield "{}: IS{} over 10 splits: {:.4g} ± {:.2g}".format(
                row["name"], row["mark"], *row["is_splits"]
            )
    elif over:
        yield f"{row['name']}: mean ± deviation over {over}; KID, precision and recall of the first"
    if row.get("floor"):
        _, others, n = row["floor"]
        of = f"{others:,} other real images against {row['against']} ({n:,})"
        if n != row["n_real"]:
            of = f"one half of {row['against']} against the other, {n:,} images each"
        yield f"floor: the FID{row['mark']} of {of}"
    few = [n for n in (row["n"], row.get("n_real")) if n and n < 2048]
    if few and "fid" in row:
        yield f"NOTE: {few[0]:,} images are few; FID falls as they grow more, so compare equal numbers"
    if many := [n for n in (row["n"], row.get("n_real")) if n and n > KEPT and "fid" in row]:
        yield f"KID, precision, recall, parts and halves: of {KEPT:,} images, at random of {many[0]:,}"
    yield from textwrap.wrap(row["protocol"], 110)


def draw_bars(rows, path):
    """FID and IS of the sources as bars, with their spread."""
    from matplotlib.figure import Figure

    import data

    names, places = [name for name in ("fid", "is") if any(name in row for row in rows)], range(len(rows))
    data.require(names, "there is no FID or IS to draw")
    width = len(names) * (4 + 0.1 * max(len(row["name"]) for row in rows))  # paths may be long
    figure = Figure(figsize=(width, 0.8 + 0.4 * len(rows)), layout="constrained")
    for axis, name in zip(figure.subplots(1, len(names), squeeze=False)[0], names, strict=True):
        values = [row.get(name, math.nan) for row in rows]
        spread = [row.get(f"{name}_parts", (0, 0))[1] for row in rows]
        axis.barh(places, values, xerr=spread, height=0.6)
        axis.set_yticks(places, [row["name"].replace("$", r"\$") for row in rows])
        axis.invert_yaxis()
        axis.spines[["top", "right"]].set_visible(False)
        better = "lower is better" if name == "fid" else "higher is better"
        axis.set_xlabel(f"{name.upper()}{rows[0]['mark']} ({better})")
    data.write_file(path, lambda file: figure.savefig(file, format="png", dpi=150))


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
    """FID's Inception: uint8 [n, 3, H, W], or gray [n, 1, H, W], -> float32 features [n, 2048] for FID and
    logits [n, 1008] for the Inception score.

    weights is a path, see inception_weights; `sha256` is that of its file. resize ("torch" or "tf1") is
    explained at prepare. Batch norm is folded, so that no train() changes a feature. Raises MetricError.
    """

    mark = ""

    def __init__(self, weights, resize="torch", batch_size=8):
        if resize not in ("torch", "tf1"):
            raise MetricError(f"resize is {resize!r}: give 'torch' or 'tf1'")
        with torch.device("meta"):  # no time is lost on weights that the file's replace
            super().__init__()
        self.resize, self.batch_size = resize, batch_size
        state, self.sha256 = read_weights(weights, self.state_dict())
        self.load_state_dict(state, strict=False, assign=True)  # not strict: batches need not be counted
        for layer in [layer for layer in self.modules() if isinstance(layer, Convolution)]:
            layer.fold()
        self.eval().requires_grad_(False).to(memory_format=torch.channels_last)

    @property
    def protocol(self):
        other = "" if self.sha256 == WEIGHTS_SHA256 else " (NOT THE PUBLISHED ONES: this is no FID)"
        return f"features: Inception, resize {self.resize}, weights' SHA-256 {self.sha256}{other}"

    def forward(self, images):
        """batch_size images at a time: few, as the large buffers of many cost a CPU more than they save. A
        picture's features hang on it by float32 rounding alone (6e-6 relative)."""
        if images.dtype != torch.uint8 or images.ndim != 4 or images.shape[1] not in (1, 3):
            raise MetricError(
                f"{images.dtype} {list(images.shape)}: give uint8 [n, 3, H, W] or [n, 1, H, W]"
            )
        device = self.fc.weight.device
        with torch.inference_mode(), torch.backends.cudnn.flags(allow_tf32=False):  # or a GPU keeps 10 bits
            parts = [super(Inception, self).forward(prepare(part.to(device), self.resize))
                     for part in images.split(self.batch_size)]  # fmt: skip
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
