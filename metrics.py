"""Numbers that judge what a model makes.

    python metrics.py runs/vae-mnist10k runs/cvae-mnist10k                # FID, IS, KID, precision, recall
    python metrics.py generated/ --against real/                          # of any two sets of pictures
    python metrics.py RUN --features classifier:runs/classifier-mnist10k  # and by a classifier of our own
    python metrics.py runs/classifier-mnist10k --data mnist --split test  # how good is that classifier?
    python metrics.py runs/text2text-arithmetic                           # how many answers are right?

The distances compare two sets of images by their features, which are Inception's unless --features says
otherwise. A classifier also labels each generated image. A generator can score well there without any
variety, with one perfect 3 drawn a hundred times, so the diversity within each class stands beside it: the
mean distance between two images of the class, divided by the same for real images.

The file has two halves. The numbers, up to the banner "Command line", need nothing but torch and numpy, and
work where the file is copied alone; the command line compares runs, folders and arrays with them.
"""

import hashlib
import io
import json
import math
import os
import socket
import sys
import textwrap
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import torch.distributed as dist
import torch.nn as nn
import torch.nn.functional as F


class MetricError(ValueError):
    """A number that cannot be computed; the message is one line that says why."""

    status = 1  # exit status of the command line


def require(condition, message):
    if not condition:
        raise MetricError(message)


def as_float64(values, name, ndim=2, largest=1e40):
    """Numbers that users give, as a finite float64 tensor of ndim dimensions on the CPU. Raises MetricError.

    A tensor, or an array of any byte order and strides, or nested lists. Beyond `largest` products of three
    squares would overflow, and below its reciprocal they would be 0.
    """
    dense = f"{name} must be a dense array of real numbers with {ndim} dimensions"
    require(not np.ma.is_masked(values), f"{dense}: some are masked")
    try:
        if isinstance(values, torch.Tensor):  # float64 at least: numpy has no bfloat16
            values = values.detach().cpu()
            values = values.to(torch.promote_types(values.dtype, torch.float64)).numpy()
        array = np.asarray(values)
    except (TypeError, ValueError, RuntimeError) as error:  # lists of different lengths, a sparse tensor
        reason = str(error).partition("\n")[0]
        raise MetricError(f"{dense}: {reason}") from None
    require(array.dtype.kind in "biuf", f"{dense}, this one holds {array.dtype}")
    with np.errstate(over="ignore"):  # of a longdouble; the copy has the machine's byte order
        values = torch.from_numpy(array.astype(np.float64, order="C"))
    shape = list(values.shape)
    require(values.ndim == ndim and values.numel() > 0, f"{dense}, this one has shape {shape}")
    low, high = values.aminmax()  # NaN if one is among them
    peak = torch.maximum(-low, high)
    require(peak.isfinite(), f"{name}: NaN or infinity is among the numbers")
    in_range = peak == 0 or 1 / largest <= peak <= largest
    require(in_range, f"{name}: numbers up to {peak:.3g} are too large or too small, scale them")
    return values


def as_features(first, second):
    """Two sets of features as float64 [n, d] and [m, d] of two images or more. Raises MetricError."""
    first = as_float64(first, "features")
    second = as_float64(second, "features")
    require_same_width(first.shape[1], second.shape[1])
    sizes = f"sets of {len(first):,} and {len(second):,} images"
    require(len(first) > 1 and len(second) > 1, f"{sizes}: give 2 or more of each")
    return first, second


def require_same_width(first, second):
    require(first == second, f"features of {first} and {second} dimensions: are these the same ones?")


ROUNDING = 1e-5  # relative, of covariances from files in float32


def as_moments(mean, cov):
    """A mean [d] and a covariance [d, d] in float64. Raises MetricError."""
    mean = as_float64(mean, "a mean", 1)
    cov = as_float64(cov, "a covariance", largest=1e90)
    shapes = f"{list(mean.shape)} and {list(cov.shape)}"
    require(cov.shape == 2 * mean.shape, f"a mean [d] has a covariance [d, d], not {shapes}")
    strips = zip(cov.split(64), cov.split(64, 1), strict=True)  # which fit the cache
    asymmetry = max((rows - columns.T).abs().max() for rows, columns in strips)
    largest = cov.diag().abs().max()  # of all entries, as covariances are no larger than variances
    require(asymmetry <= ROUNDING * largest, "a covariance is symmetric, this one is not")
    return mean, cov


def as_count(value, name, low, high=2**63 - 1):
    """A whole number from low to high, of Python or numpy, as an int. Raises MetricError."""
    fits = isinstance(value, (int, np.integer)) and low <= value <= high
    require(fits, f"{name} is {value!r}: give a whole number from {low} to {high}")
    return int(value)


def percent(values):
    """Mean of a tensor of booleans or of shares in [0, 1], in %; nan if it is empty."""
    return 100 * values.double().mean().item()


def sha256(body):
    return hashlib.sha256(body).hexdigest()


def in_chunks(function, *tensors, size=500, dim=0):
    """function(*tensors) computed on `size` rows of the tensors at a time, to bound the memory, without
    gradients; the results are concatenated along dim."""
    with torch.inference_mode():
        chunks = zip(*(tensor.split(size) for tensor in tensors), strict=True)
        return torch.cat([function(*chunk) for chunk in chunks], dim)


# -----------------------------------------------------------------------------------------------------------
# Distances between two sets of images, each given by its features [n, d], tensors or arrays. All in float64


def frechet_distance(mean1, cov1, mean2, cov2):
    """Squared Fréchet distance of two Gaussians (Dowson & Landau 1982, eq. 4):
    |m1 − m2|² + tr(C1 + C2 − 2 (C1 C2)^½). Means [d], covariances [d, d].

    With C1 = L Lᵀ the eigenvalues of C1 C2 are those of Lᵀ C2 L, which is symmetric and positive
    semidefinite, so no imaginary part can appear.
    """
    mean1, cov1 = as_moments(mean1, cov1)
    mean2, cov2 = as_moments(mean2, cov2)
    require_same_width(len(mean1), len(mean2))
    root1 = square_root(cov1)
    eigenvalues = product_eigenvalues(root1, cov2)
    rounding = len(cov1) * torch.finfo(eigenvalues.dtype).eps * eigenvalues.norm()
    if root1.shape[1] < len(cov1) or (eigenvalues < rounding).any():  # else cov2 is positive definite, too
        root2 = square_root(cov2)
        if root2.shape[1] < root1.shape[1]:  # the product with the factor of lower rank has no zeros
            eigenvalues = product_eigenvalues(root2, cov1)
    cross = eigenvalues.clamp(min=0).sqrt().sum()
    distance = (mean1 - mean2).square().sum() + cov1.trace() + cov2.trace() - 2 * cross
    return distance.clamp(min=0).item()


def square_root(cov):
    """Lower triangular L [d, rank] with L Lᵀ = cov.

    By Cholesky; where that fails or its pivots are noise, as with fewer examples than dimensions, from the
    eigenvectors whose eigenvalues exceed the rounding error. Raises MetricError if some are negative.
    """
    root, failed = torch.linalg.cholesky_ex(cov)
    pivots = root.diag().square()
    if not failed and pivots.min() > 1e-10 * pivots.max():
        return root
    eigenvalues, eigenvectors = torch.linalg.eigh(cov)
    smallest = -ROUNDING * eigenvalues.abs().max()
    require(eigenvalues.min() >= smallest, "a covariance has no negative eigenvalues, this one has")
    significant = eigenvalues > len(cov) * torch.finfo(cov.dtype).eps * eigenvalues.max()
    scaled = eigenvectors[:, significant] * eigenvalues[significant].sqrt()  # (d, rank)
    return torch.linalg.qr(scaled.T).R.T


def product_eigenvalues(root, cov, size=256):
    """Eigenvalues of rootᵀ cov root for a lower triangular root [d, rank].

    Only rows from k on of the columns from k on of the root are not 0. So blocks of the product, from its
    diagonal to the right, are products of parts of the matrices, with a quarter of the multiplications. What
    lies below the blocks is not computed: eigvalsh reads the lower triangle of the transpose alone.
    """
    rank = root.shape[1]
    product = torch.empty(rank, rank, dtype=root.dtype)
    for k in range(0, rank, size):
        strip = root[k:, k : k + size].T @ cov[k:, k:]  # (size, d - k)
        for j in range(k, rank, size):
            product[k : k + size, j : j + size] = strip[:, j - k :] @ root[j:, j : j + size]
    return torch.linalg.eigvalsh(product.T)


def fid(features1, features2):
    """Fréchet distance of Gaussians fitted to two sets (Heusel et al. 2017, eq. 6); with Inception's
    features it is the FID.

    With fewer images than dimensions no covariance is formed. The centered features over √(n − 1) are
    factors A1 [n, d] and A2 [m, d] of C1 = A1ᵀ A1 and C2 = A2ᵀ A2, and the trace of (C1 C2)^½ is the sum of
    the singular values of A1 A2ᵀ [n, m].
    """
    small, large = sorted(as_features(features1, features2), key=len)
    dimensions = small.shape[1]
    mean_small = small.mean(0)
    mean_large = large.mean(0)
    if len(small) >= dimensions:
        return frechet_distance(mean_small, covariance(small), mean_large, covariance(large))
    factor_small = (small - mean_small) / math.sqrt(len(small) - 1)
    factor_large = (large - mean_large) / math.sqrt(len(large) - 1)
    product = factor_small @ factor_large.T  # (n, m)
    if len(large) > dimensions:  # first reduced to (n, n) with the same singular values, which is faster
        product = torch.linalg.qr(product.T, mode="r").R
    traces = factor_small.square().sum(), factor_large.square().sum()  # of the covariances
    cross = torch.linalg.svdvals(product).sum()
    distance = (mean_small - mean_large).square().sum() + traces[0] + traces[1] - 2 * cross
    return distance.clamp(min=0).item()


def covariance(features):
    """[d, d] of features [n, d]."""
    return features.T.cov().view(2 * features.shape[1:])  # torch's is a number where d = 1


def kid(features1, features2, subsets=100, subset_size=1000, seed=0):
    """Kernel distance (Bińkowski et al. 2018, sec. 4): its mean and standard deviation over random subsets.

    It is the squared maximum mean discrepancy under k(x, y) = (xᵀy / d + 1)³, by the unbiased estimate
    (Gretton et al. 2012, eq. 3), which may fall below 0. Subsets are no larger than the smaller set; where
    both sets are used whole, all subsets are equal and the deviation of 0 means nothing.
    """
    x, y = as_features(features1, features2)
    subsets = as_count(subsets, "subsets", 1)
    size = min(as_count(subset_size, "subset_size", 2), len(x), len(y))
    random = torch.Generator().manual_seed(as_count(seed, "the seed", 0))
    in_x = torch.zeros(len(x), subsets, dtype=torch.float64)  # 1 where an image is in a subset
    in_y = torch.zeros(len(y), subsets, dtype=torch.float64)
    for column in range(subsets):
        for members in (in_x, in_y):
            members[torch.randperm(len(members), generator=random)[:size], column] = 1
    within = 0  # the sums over pairs of two different images of a set
    for features, members in ((x, in_x), (y, in_y)):
        with_itself = (features.square().sum(1) / features.shape[1] + 1) ** 3  # k(x_i, x_i), (n,)
        within += kernel_sums(features, members, features, members) - with_itself @ members
    estimates = within / (size * (size - 1)) - 2 * kernel_sums(x, in_x, y, in_y) / size**2  # (subsets,)
    return estimates.mean().item(), estimates.std(correction=0).item()


def kernel_sums(x, in_x, y, in_y):
    """Sum of k(x_i, y_j) over the members i and j of each subset, [subsets]: all subsets at once."""
    total = 0
    for x_rows, in_rows in zip(x.split(1000), in_x.split(1000), strict=True):
        kernel = (x_rows @ y.T / x.shape[1] + 1) ** 3
        total = total + (in_rows * (kernel @ in_y)).sum(0)
    return total


def precision_recall(real, generated, k=3):
    """Improved precision and recall (Kynkäänniemi et al. 2019, eq. 1 and 2): the share of generated images
    that lie in the region of the real ones, and the reverse; both in [0, 1].

    The region of a set is the union of balls around its members, whose radius is the distance to the k-th
    nearest neighbor within the set. Published figures use features of VGG-16 and are not comparable with
    those of Inception's features.
    """
    real, generated = as_features(real, generated)
    k = as_count(k, "k", 1, min(len(real), len(generated)) - 1)
    return share_inside(real, generated, k), share_inside(generated, real, k)


def share_inside(members, others, k):
    """The share of `others` [m, d] that lie in the region of `members` [n, d]."""
    center = members.mean(0)
    if center.square().sum() > 1e4 * members.var(0, correction=0).sum():
        # far from 0 squares lose the digits that distances are in; elsewhere those of integers stay exact
        members = members - center
        others = others - center
    blocks = squared_distances(members, members)
    radii = torch.cat([block.kthvalue(k + 1).values for block in blocks])  # the nearest is the member itself
    inside = [(block <= radii).any(1) for block in squared_distances(others, members)]
    return torch.cat(inside).double().mean().item()


def squared_distances(a, b, size=1000):
    """Squared Euclidean distances of a [n, d] from b [m, d], in blocks [size, m]; those within the rounding
    error are 0."""
    for rows in a.split(size):
        lengths = rows.square().sum(1)[:, None] + b.square().sum(1)
        squares = lengths - 2 * rows @ b.T
        yield squares.where(squares > 1e-12 * lengths, 0.0)


IMAGES_PER_SPLIT = 10
LEAST_FOR_SCORE = 10 * IMAGES_PER_SPLIT  # images, for ten splits


def inception_score(logits, splits=10, seed=0):
    """exp of the mean KL(p(y|x) ‖ p(y)) (Salimans et al. 2016, sec. 4): its mean and standard deviation over
    the splits; from 1 to the number of classes. Logits [n, classes] are shuffled unless seed is None.

    No split can score more than it has images, so each must have IMAGES_PER_SPLIT or more.
    """
    logits = as_float64(logits, "logits")
    splits = as_count(splits, "splits", 1)
    needed = IMAGES_PER_SPLIT * splits
    require(len(logits) >= needed, f"{splits} splits need {needed} images or more, not {len(logits):,}")
    if seed is not None:
        random = torch.Generator().manual_seed(as_count(seed, "the seed", 0))
        logits = logits[torch.randperm(len(logits), generator=random)]
    scores = []
    for log_p in logits.log_softmax(1).tensor_split(splits):
        log_marginal = log_p.logsumexp(0) - math.log(len(log_p))
        scores.append((log_p.exp() * (log_p - log_marginal)).sum(1).mean().exp())
    scores = torch.stack(scores)
    return scores.mean().item(), scores.std(correction=0).item()


# -----------------------------------------------------------------------------------------------------------
# Judging by a classifier


def predictions(model, images, chunk=500):
    """A classifier's labels [n] of images [n, C, H, W] in [0, 1], and its confidence in each [n]."""
    device = next(model.parameters()).device
    probabilities = in_chunks(lambda x: model.predict(x.to(device)).cpu(), images, size=chunk)
    confidence, predicted = probabilities.max(1)
    return predicted, confidence


def confusion_matrix(labels, predicted, n_classes):
    """Counts [n_classes, n_classes]: a row for each label, a column for each prediction."""
    return torch.bincount(labels * n_classes + predicted, minlength=n_classes**2).view(n_classes, n_classes)


def mean_distance(images):
    """Mean Euclidean distance between two different images of [n, ...]; nan where n < 2."""
    n = len(images)
    if n < 2:
        return math.nan
    flat = images.flatten(1)
    # by differences: with matrix products, the default for large sets, rounding sets equal images apart
    distances = torch.cdist(flat, flat, compute_mode="donot_use_mm_for_euclid_dist")
    return distances.sum().item() / (n * (n - 1))


def judge_samples(images, labels, predicted, confidence, real_images, real_labels, n_classes):
    """Generated images [n, C, H, W] as a classifier labels them: columns with an entry for each class, nan
    where it has too few samples (none, or one for a distance) or no two different real images.

    labels [n] are the classes that were asked for; where they are None, a sample belongs to the class that
    the classifier predicts, and there is no accuracy. Accuracy and confidence are in %, and diversity is the
    mean distance of two samples over that of two real images of the class.
    """
    columns = dict(count=[], accuracy=[], confidence=[], diversity=[])
    for c in range(n_classes):
        in_class = (predicted if labels is None else labels) == c
        real_distance = mean_distance(real_images[real_labels == c]) or math.nan  # 0: all images are equal
        columns["count"].append(int(in_class.sum()))
        columns["accuracy"].append(percent(predicted[in_class] == c))
        columns["confidence"].append(percent(confidence[in_class]))
        columns["diversity"].append(mean_distance(images[in_class]) / real_distance)
    if labels is None:
        del columns["accuracy"]
    return columns


def coverage(predicted, n_classes):
    """How many modes a generator covers, by the predicted classes of its samples [n]: the number of classes,
    and exp of the entropy of their shares, the number of equally frequent ones."""
    require(len(predicted) > 0, "no samples cover no classes: give one or more")
    shares = torch.bincount(predicted, minlength=n_classes).double() / len(predicted)
    shares = shares[shares > 0]
    entropy = shares.log().mul(-shares).sum()
    return dict(classes=len(shares), evenly=entropy.exp().item())


# -----------------------------------------------------------------------------------------------------------
# log p(x) of a VAE


def log_weights(model, x, labels, samples, chunk=2000):
    """log p(x | z) p(z) / q(z | x) in nats, [samples, n], of `samples` draws of z for images [n, C, H, W];
    at most `chunk` latents are decoded at once, or one for each image."""
    require(len(x) > 0 and samples > 0, f"{samples} samples for each of {len(x)} images weigh nothing")
    at_once = max(1, chunk // len(x))
    sizes = [min(at_once, samples - done) for done in range(0, samples, at_once)]
    with torch.inference_mode():
        log_w = torch.cat([model.log_weights(x, labels, size)[0] for size in sizes])
    log_w = log_w.cpu().double()  # in this order: Apple's GPUs have no float64
    if model.likelihood == "gaussian":  # of variance 1/2, whose constant training leaves out
        log_w = log_w - x[0].numel() / 2 * math.log(math.pi)
    return log_w


def log_likelihood(log_weights):
    """log p(x) in nats of each image [n] by importance sampling with weights [k, n], and the effective
    sample size [n]: 1 where one sample has all the weight, k where all weights are equal."""
    k = len(log_weights)
    total = log_weights.logsumexp(0)
    effective = (2 * total - (2 * log_weights).logsumexp(0)).exp()
    return total - math.log(k), effective


def iwae_bound(log_weights, k):
    """The IWAE bound of k samples in nats (Burda et al. 2016, eq. 8); with k = 1 it is the ELBO. The mean
    over images and consecutive groups of k of the weights [K, n]; a rest of fewer is left out."""
    k = as_count(k, "k", 1, len(log_weights))
    groups = log_weights[: len(log_weights) // k * k].unflatten(0, (-1, k))  # (groups, k, n)
    return (groups.logsumexp(1) - math.log(k)).mean().item()


# -----------------------------------------------------------------------------------------------------------
# Answers of arithmetic, texts such as "-7 "

ERRORS = ("off by 1", "off by 10", "off by another number", "no number")


def size_of_error(answer, truth):
    """Which of ERRORS an answer has; None where it is right."""
    if answer == truth:
        return None
    answer = answer.rstrip(" ")
    if not answer.removeprefix("-").isdigit() or str(int(answer)) != answer:  # such as 07 or -0
        return "no number"
    difference = abs(int(answer) - int(truth))
    return {1: "off by 1", 10: "off by 10"}.get(difference, "off by another number")


def carries(query):
    """How many columns of a query such as "58+67" carry, or borrow from the next. A difference borrows as
    that of the larger number minus the smaller."""
    low, high = sorted(int(number) for number in query.replace("-", "+").split("+"))
    if "+" in query:
        return int(low % 10 + high % 10 > 9) + int(low + high > 99)
    return int(high % 10 < low % 10)


# -----------------------------------------------------------------------------------------------------------
# A set of images as its features

CAPACITY = 10_000  # features of at most so many images of a set are held in memory


class Features(NamedTuple):
    """What is known of a set of images: the features of all of them, or the moments of all."""

    n: int | None  # images; None of moments from a file
    features: torch.Tensor | None  # [n, d], or of CAPACITY images where there are more
    logits: torch.Tensor | None  # [n, classes] of all images, of a classifier
    moments: tuple | None  # mean [d] and covariance [d, d]; None where features are those of all images


def extract(extractor, images, batch_size=8, seed=0):
    """The Features of images uint8 [n, C, H, W]. Raises MetricError."""
    n = len(images)
    require(n >= 2, f"a set of {n} images has no covariance: give 2 or more")
    order = torch.arange(n)
    if n > CAPACITY:  # the first are held, and folders come class after class
        order = torch.randperm(n, generator=torch.Generator().manual_seed(seed))
    feature_parts = []
    logit_parts = []
    room = CAPACITY
    total = 0
    squares = 0
    with torch.inference_mode():
        for index in progress(order.split(batch_size * n_processes())):
            features, logits = share_out(extractor, images[index], batch_size)
            require(features.isfinite().all(), "the features are not finite: are the weights right?")
            features = features.cpu()
            feature_parts.append(features[:room])
            room -= len(feature_parts[-1])
            if logits is not None:
                logit_parts.append(logits.cpu())
            if n > CAPACITY:  # then the moments of all are summed on the way
                if len(feature_parts) == 1:
                    origin = features.double().mean(0)  # near the mean, so that squares lose fewer digits
                centered = features.double() - origin
                total += centered.sum(0)
                squares += centered.T @ centered
    moments = None
    if n > CAPACITY:
        moments = origin + total / n, (squares - torch.outer(total, total) / n) / (n - 1)
    return Features(n, torch.cat(feature_parts), torch.cat(logit_parts) if logit_parts else None, moments)


def n_processes():
    """How many processes torchrun has started; 1 without it."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def share_out(extractor, images, batch_size):
    """extractor(images), of which each process computes a batch and learns the others from the others."""
    if n_processes() == 1:
        return extractor(images)
    batches = images.split(batch_size)  # at the end of a set there are fewer than processes
    outputs = [[] for _ in range(n_processes())]
    own = [extractor(batch) for batch in batches[dist.get_rank() :][:1]]
    dist.all_gather_object(outputs, [[x if x is None else x.cpu() for x in output] for output in own])
    features, logits = zip(*sum(outputs, []), strict=True)
    return torch.cat(features), None if logits[0] is None else torch.cat(logits)


def moments_of(images):
    """Mean [d] and covariance [d, d] of a set's Features."""
    if images.moments is not None:
        return images.moments
    features = images.features.double()
    return features.mean(0), covariance(features)


def disjoint_parts(images, k, seed):
    """k random parts of equal size of the features in memory, each as Features."""
    order = torch.randperm(len(images.features), generator=torch.Generator().manual_seed(seed))
    parts = []
    for index in order[: len(order) // k * k].chunk(k):
        logits = None if images.logits is None else images.logits[index]
        parts.append(Features(len(index), images.features[index], logits, None))
    return parts


def progress(batches):
    """The same batches; where stderr is a terminal, it shows the share that is done."""
    for done, batch in enumerate(batches):
        if sys.stderr.isatty():
            print(f"\rfeatures: {done / len(batches):.0%}", end="\r", file=sys.stderr, flush=True)
        yield batch
    if sys.stderr.isatty():
        print(" " * 16, end="\r", file=sys.stderr, flush=True)


def set_distance(a, b):
    """The Fréchet distance of two sets, each given as Features. Raises MetricError."""
    if a.moments is None and b.moments is None:
        return fid(a.features, b.features)
    return frechet_distance(*moments_of(a), *moments_of(b))


# -----------------------------------------------------------------------------------------------------------
# Feature extractors: functions of uint8 images [n, C, H, W] that return features [n, d], and logits of
# classes or None. `suffix` follows the names of numbers that are not made with Inception, as in FID-p;
# `protocol` says how the features are made; `judge` is the sample.Run of the classifier that makes them


class Pixels:
    """The baseline: pixels in [0, 1], which ignore what a picture shows."""

    suffix = "-p"
    protocol = "features: pixels"
    judge = None

    def __call__(self, x):
        return x.flatten(1).float() / 255, None


class ClassifierFeatures:
    """The features of the classifier of a sample.Run before its last layer, averaged over positions."""

    suffix = "-c"

    def __init__(self, run):
        self.judge = run
        self.model = run.model
        self.channels = None  # of the last convolution, if it has one
        if run.config["flags"]["encoder"] == "conv":
            self.channels = run.model.encoder.layers[-1][0]
        digest = sha256((run.folder / "best.pt").read_bytes())
        self.protocol = f"features: {run.name}, SHA-256 {digest}"

    def __call__(self, x):
        shape = list(x.shape[1:])
        expected = self.judge.config["image_shape"]
        require(shape == expected, f"{self.judge.folder} knows pictures of {expected}, these are {shape}")
        device = self.model.to_logits.weight.device
        features = self.model.encoder(x.float().to(device) / 255)
        logits = self.model.to_logits(features)
        if self.channels:
            features = features.unflatten(1, (self.channels, -1)).mean(2)  # (n, C * H * W) -> (n, C)
        return features, logits


class Inception(nn.Module):
    """FID's Inception: uint8 [n, 3, H, W], or gray [n, 1, H, W], -> float32 features [n, 2048] for FID and
    logits [n, 1008] for the Inception score.

    weights is a path, see inception_weights; resize is explained at prepare. Give few images at a time: a
    CPU loses more by large buffers than it gains by large batches. Their number changes features by float32
    rounding alone (6e-6 relative). Raises MetricError.
    """

    suffix = ""
    judge = None

    def __init__(self, weights, resize="torch"):
        super().__init__()
        require(resize in ("torch", "tf1"), f"resize is {resize!r}: give 'torch' or 'tf1'")
        self.resize = resize
        with torch.device("meta"):  # no time is spent on initial weights, which the file's replace
            self.graph = InceptionGraph()
        state, self.sha256 = read_weights(weights, self.graph.state_dict())
        other = "" if self.sha256 == WEIGHTS_SHA256 else " (NOT THE PUBLISHED ONES: this is no FID)"
        self.protocol = f"features: Inception, resize {resize}, weights' SHA-256 {self.sha256}{other}"
        self.graph.load_state_dict(state, strict=False, assign=True)  # the file counts no batches
        for layer in list(self.graph.modules()):
            if isinstance(layer, Convolution):
                layer.fold()
        self.eval().requires_grad_(False).to(memory_format=torch.channels_last)

    def forward(self, images):
        fits = images.dtype == torch.uint8 and images.ndim == 4 and images.shape[1] in (1, 3)
        require(fits, f"{images.dtype} {list(images.shape)}: give uint8 [n, 3, H, W] or [n, 1, H, W]")
        device = self.graph.fc.weight.device
        exact = torch.backends.cudnn.flags(enabled=True, allow_tf32=False)  # TF32 has only 10 bits
        with torch.inference_mode(), exact:
            return self.graph(prepare(images.to(device), self.resize))


def prepare(images, resize):
    """uint8 [n, 1 or 3, H, W] -> float [n, 3, 299, 299] in [−1, 1], resized bilinearly without antialiasing.

    "torch", as pytorch-fid: the edges of both pictures are aligned, x / 127.5 − 1. "tf1", as torch-fidelity
    and the code of Heusel et al. (2017): the centers of the top left pixels are, (x − 128) / 128. The two
    give different FIDs (Parmar et al. 2022), so a number must say which one it was computed with.
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
        position = torch.arange(size, device=x.device) * (n / size)
        low = position.long()
        high = (low + 1).clamp(max=n - 1)
        fraction = position - low
        if dim == 2:
            fraction = fraction[:, None]  # along rows
        x = x.index_select(dim, low).lerp(x.index_select(dim, high), fraction)
    return x


# -----------------------------------------------------------------------------------------------------------
# The graph of FID's Inception (Szegedy et al. 2016), as data. A block is a list of branches whose outputs
# are concatenated. A branch is a text of steps in a row. A step is a block of MIXED, by its name; "mean" or
# "max", a pool, with its KERNEL; or NAME,CHANNELS,KERNEL, a convolution with batch norm and ReLU; a + joins
# layers that share their input and whose outputs are concatenated. A KERNEL alone has stride 1 and keeps the
# size (TensorFlow's padding SAME); KERNEL/S has stride S and no padding (its VALID).

STEM = (
    "Conv2d_1a_3x3,32,3x3/2 Conv2d_2a_3x3,32,3x3/1 Conv2d_2b_3x3,64,3x3 max,3x3/2 "  # 299 -> 73 pixels
    "Conv2d_3b_1x1,80,1x1 Conv2d_4a_3x3,192,3x3/1 max,3x3/2"  # -> 35
)


def block_5(pooled):  # their figure 5, but with a 5x5 as the second branch
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
    "Mixed_7c": block_7("max"),  # as in the graph of 2015, which FID is defined on; torchvision has a mean
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
        conv = self.conv
        on_cpu = x.device.type == "cpu" and torch.backends.mkldnn.is_available()
        if on_cpu and conv.kernel_size == (1, 1):
            # as torch does with two threads or more; with one it prefers a routine of half the speed
            x = torch.mkldnn_convolution(x, conv.weight, conv.bias, conv.padding, conv.stride, (1, 1), 1)
        else:
            x = conv(x)
        return F.relu(self.bn(x), inplace=True)


def make_layer(text, channels):
    """The name, the module and the output channels of a layer such as "mean,3x3" or "Conv2d_1a,32,3x3/2"."""
    if text in MIXED:
        block = Block(MIXED[text], channels)
        return text, block, block.channels
    name, *sizes = text.split(",")
    kernel_text, _, stride_text = sizes[-1].partition("/")
    kernel = tuple(int(side) for side in kernel_text.split("x"))
    stride = int(stride_text or 1)
    padding = (0, 0) if stride_text else tuple(side // 2 for side in kernel)
    if name == "max":
        return name, nn.MaxPool2d(kernel, stride, padding), channels
    if name == "mean":  # over pixels of the image alone, as TensorFlow's; torchvision counts the padding
        return name, nn.AvgPool2d(kernel, stride, padding, count_include_pad=False), channels
    out = int(sizes[0])
    return name, Convolution(channels, out, kernel, stride, padding), out


class Block(nn.Module):
    """Branches side by side, written as above: [n, channels, H, W] -> [n, self.channels, H', W']."""

    def __init__(self, branches, channels):
        super().__init__()
        self.channels = 0
        self.branches = []  # a plain list, so that the layers keep the names of the published file
        for text in branches:
            steps = []  # lists of layers
            width = channels
            for step_text in text.split():
                parts = [make_layer(part, width) for part in step_text.split("+")]
                for name, layer, _ in parts:
                    self.add_module(name, layer)
                steps.append([layer for _, layer, _ in parts])
                width = sum(out for _, _, out in parts)
            self.branches.append(steps)
            self.channels += width

    def forward(self, x):
        outputs = []
        for steps in self.branches:
            y = x
            for layers in steps:
                y = concatenate([layer(y) for layer in layers])
            outputs.append(y)
        return concatenate(outputs)


def concatenate(parts):
    """Along channels; a single part is not copied."""
    return torch.cat(parts, 1) if len(parts) > 1 else parts[0]


class InceptionGraph(Block):
    """The whole network, its state dict named as the published file: prepared [n, 3, 299, 299] -> features
    [n, 2048], those of the layer pool3, and logits [n, 1008]."""

    def __init__(self):
        super().__init__([" ".join([STEM, *MIXED])], channels=3)
        self.fc = nn.Linear(self.channels, 1008)

    def forward(self, x):
        features = super().forward(x).mean((2, 3))  # (n, 2048, 8, 8) -> (n, 2048)
        return features, features @ self.fc.weight.T  # no bias, as in the code of Salimans et al. (2016)


# -----------------------------------------------------------------------------------------------------------
# The weights of FID's Inception: those of TensorFlow's graph of 2015-12-05, ported by pytorch-fid

WEIGHTS = "pt_inception-2015-12-05-6726825d.pth"
WEIGHTS_SHA256 = "6726825d0af5f729cebd5821db510b11b1cfad8faad88a03f1befd49fb9129b2"
WEIGHTS_URL = f"https://github.com/mseitzer/pytorch-fid/releases/download/fid_weights/{WEIGHTS}"


def inception_weights(folder=None):
    """Path of the published weights (96 MB), downloaded once. Raises MetricError.

    Without a folder they are in the one that the environment variable DGM_DATA_DIR names, else in
    torch.hub's, where pytorch-fid looks for the same file.
    """
    folder = folder or os.environ.get("DGM_DATA_DIR") or Path(torch.hub.get_dir()) / "checkpoints"
    path = Path(os.path.expanduser(folder)) / WEIGHTS  # Path.expanduser raises where there is no such user
    if path.is_file():
        return path
    timeout = socket.getdefaulttimeout()
    socket.setdefaulttimeout(30)  # seconds
    try:  # torch.hub moves the file to its place once it is whole and its hash is right
        path.parent.mkdir(parents=True, exist_ok=True)
        torch.hub.download_url_to_file(WEIGHTS_URL, str(path), WEIGHTS_SHA256)
    except Exception as error:  # of the network, the disk or the hash; they have no class in common
        remedies = "give --weights FILE, --features classifier:RUN or --features pixels"
        raise MetricError(f"no Inception weights at {path} ({WEIGHTS_URL}: {error}): {remedies}") from None
    finally:
        socket.setdefaulttimeout(timeout)
    print(f"note: {WEIGHTS_URL} is saved as {path}", file=sys.stderr)
    return path


def read_weights(path, expected):
    """The file's tensors, in float32, of the names and shapes of a state dict, and its SHA-256."""
    try:
        body = Path(path).read_bytes()
    except (OSError, ValueError) as error:  # ValueError: the path has a null byte
        raise MetricError(f"cannot read the weights {path}: {error}") from None
    digest = sha256(body)
    damaged = Path(path).name == WEIGHTS and digest != WEIGHTS_SHA256
    require(not damaged, f"{path} is damaged (its SHA-256 begins with {digest[:8]}): delete it")
    try:
        state = torch.load(io.BytesIO(body), map_location="cpu", weights_only=True)
    except Exception as error:  # what torch raises for broken files has no narrower class in common
        reason = str(error).partition("\n")[0][:100]
        raise MetricError(f"{path} is no whole file of weights ({reason}): give {WEIGHTS}") from None
    weights = {}
    for name, tensor in expected.items():
        if name.endswith("num_batches_tracked"):
            continue
        saved = state.get(name) if isinstance(state, dict) else None
        fits = isinstance(saved, torch.Tensor) and saved.shape == tensor.shape
        missing = f"{name} {list(tensor.shape)}"
        require(fits, f"{path} has no {missing}, so is not FID's Inception: give {WEIGHTS}")
        weights[name] = saved.float()
    return weights, digest


# -----------------------------------------------------------------------------------------------------------
# Command line. Each source is measured into a Report, which holds its numbers as JSON has them and as lines
# of text. Only flags, main and command import our other files; helpers receive what these have opened


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
    add("-n", type=number(int, 2, 10**6), default=2048, help="generated images of a run (default 2048)")
    add("--sets", type=number(int, 1, 1000), default=5, help="of -n images, for the deviation (default 5)")
    add("--batch-size", type=number(int, 1, 10**6), default=8, help="of features (8; more on a GPU)")
    add("--device", default="cpu", help="that computes features (default cpu)")
    add("--save-stats", metavar="F.npz", help="write mean and covariance of the (first) set's features")
    add("--image-size", type=number(int, 1, 10**4), help="crop and resize pictures of folders to this side")
    add("--out", metavar="FILE.png", help="FID and IS as bars; or .pdf, .svg")
    likelihood = "of a VAE, by K importance samples for each of -n real images; and its amortization gap"
    add("--log-likelihood", type=number(int, 50, 10**6), metavar="K", help=likelihood)
    add("--scale", type=number(float, 0), default=1.0, help="of a run's latents (default 1)")
    add("--truncate", type=number(float, 0, above=True), help="cut latents off at ± this")
    add("--seed", type=number(int, 0, 2**31), default=0, help="of latents and subsets (default 0)")
    add("--data", metavar="NAME|PATH", help="judge a classifier on these (default: its own data)")
    add("--split", choices=SPLITS, default="test", help="of all pictures that have splits (default test)")
    add("--data-dir", metavar="DIR", help="where whole data sets and Inception's weights are")
    add("--json", action="store_true", help="print JSON instead of tables")
    return parser


def main(argv=None):
    """Runs the command line; returns its exit status."""
    import data
    import models

    command_of_each = data.process_group()(command)
    return data.run_command("metrics.py", command_of_each, argv, models.ModelError, MetricError)


def command(argv):
    import data
    import models
    import sample

    parser = flags()
    args = data.from_first(parser.parse_args, argv)
    check_paths(args)

    def open_source(text):
        name = data.visible(text)
        path = Path(text)
        if (path / "config.json").exists():
            run = sample.Run(path, args.data_dir)
            if args.data:
                run.dataset = data.load_for_run(run.config, args.data_dir, args.data)
            return Source(name, run=run)
        if name in data.DATASETS:
            images = data.load(name, args.data_dir).split(args.split).x
            return image_source(name, images, args.split, args.image_size)
        if path.is_file() and holds_moments(path):
            return moments_source(name, data.open_arrays(path, ("mu", "sigma", "protocol")))
        pictures = data.read(text, path, None, args.image_size, None, None)  # Path("./mnist") is "mnist"
        rows, split = rows_of_split(name, pictures.splits, args.split)
        return image_source(name, torch.from_numpy(pictures.x[rows]), split, args.image_size)

    sources = [open_source(name) for name in args.sources]
    real = open_source(args.against) if args.against else None
    compares = not args.log_likelihood and any(source.task == "generation" for source in sources)
    check_sources(sources, compares, args)
    for note in idle_flags(parser, args, sources, real, compares):
        data.note(note)
    extractor = None
    reference = None
    if compares:
        folder = args.features.removeprefix("classifier:")
        judge = None if folder in ("", args.features) else sample.Run(folder)
        extractor = make_extractor(judge, data.pick_device(args.device), args)
        reference = make_reference(real, extractor, args) if real is not None else None
    sampling = sample.describe_latents(args.scale, args.truncate)
    tools = Tools(extractor, reference, sampling, models.amortization)
    reports = [measure(source, tools, args) for source in sources]
    text = reports_as_json(reports) if args.json else reports_as_text(reports)
    print("\n".join(data.visible(line) for line in text.split("\n")))
    if args.save_stats:
        arrays = stats_arrays(reports[0], extractor)
        data.from_first(data.write_file, args.save_stats, lambda file: np.savez(file, **arrays))
    if args.out:
        rows = [report.values["sets"] for report in reports if "sets" in report.values]
        kind = Path(args.out).suffix[1:]
        data.from_first(data.write_file, args.out, lambda file: draw_bars(rows, file, kind))


def check_paths(args):
    """Refuses wrong paths now, not after an hour of work."""
    single = len(args.sources) == 1 or not args.save_stats
    require(single, "--save-stats writes the statistics of one source: give one")
    inputs = [Path(name) for name in (*args.sources, args.against, args.weights, args.data) if name]
    for output, endings in ((args.save_stats, (".npz",)), (args.out, (".png", ".pdf", ".svg"))):
        if not output:
            continue
        path = Path(output)
        require(path.suffix in endings, f"{output}: name a file {', '.join(endings)}")
        folder = path.absolute().parent
        require(folder.is_dir(), f"{output}: there is no such folder, make it first")
        require(os.access(folder, os.W_OK), f"{output}: the folder is read-only, name a file elsewhere")
        require(not path.is_dir(), f"{output} is a folder: name a file")
        for source in inputs:
            is_read = is_part_of(path, source)
            require(not is_read, f"{output} belongs to {source}, which is read: name another file")
    if args.save_stats and Path(args.save_stats).exists():
        is_ours = holds_moments(Path(args.save_stats))
        require(is_ours, f"{args.save_stats} holds no statistics and would be replaced: name another file")
    for path in inputs:
        empty = path.is_dir() and not any(path.iterdir())
        require(not empty, f"{path} is not a run folder and holds no pictures: it is empty")


def is_part_of(path, source):
    """Whether a path is that of a source, also by a link, or lies in a folder of pictures."""
    if path.exists() and source.exists() and path.samefile(source):
        return True
    folder = path.absolute().parent.resolve()
    holds_pictures = source.is_dir() and not (source / "config.json").exists()
    return holds_pictures and source.resolve() in (folder, *folder.parents)


def idle_flags(parser, args, sources, real, compares):
    """Notes on the given flags that change nothing for these sources and real images."""
    draws = compares and any(source.run and source.run.model.draws_samples for source in sources)
    all_sources = [*sources, real] if real else sources
    have_splits = any(source.run or source.split for source in all_sources)
    have_images = any(source.images is not None for source in all_sources)
    has_other_features = compares and args.features != "inception"
    rules = [
        (not compares, "--features --weights --resize --batch-size --device", "without pictures to compare"),
        (has_other_features, "--weights --resize", f"with --features {args.features}"),
        (not draws, "--scale --truncate --sets", "where no samples are drawn"),
        (not draws and not args.log_likelihood, "-n", "where no samples are drawn"),
        (not have_splits, "--split", "where no pictures have splits: all of them are used"),
        (not have_images, "--image-size", "where no folder of pictures is read"),
    ]
    for is_idle, idle, reason in rules:
        for flag in idle.split():
            name = flag.lstrip("-").replace("-", "_")
            if is_idle and vars(args)[name] != parser.get_default(name):
                yield f"{flag} does nothing {reason}"


def check_sources(sources, compares, args):
    """Refuses flags that do not fit what the sources are."""
    for source in sources:
        kind = "set of pictures" if source.run is None else source.run.kind
        contents = f"{source.name} holds a {kind}"
        is_vae = source.run is not None and source.run.model.has_posterior
        require(is_vae or not args.log_likelihood, f"--log-likelihood is of VAEs: {contents}")
        is_own = source.task == "arithmetic" and args.data == "arithmetic"
        fits = source.task == "classification" or is_own or not args.data
        require(fits, f"--data is for judging a classifier: {contents}")
    fits = compares or not (args.against or args.save_stats or args.out)
    require(fits, "--against, --save-stats and --out are of pictures: none are compared here")


def make_extractor(judge, device, args):
    if judge is not None:
        is_classifier = judge.model.task == "classification"
        require(is_classifier, f"--features: {judge.folder} holds a {judge.kind}, not a classifier")
        judge.model.to(device)
        return ClassifierFeatures(judge)
    if args.features == "pixels":
        return Pixels()
    known = args.features == "inception"
    require(known, f"--features {args.features}: write inception, pixels or classifier:RUN")
    weights = args.weights or inception_weights(args.data_dir)
    return Inception(weights, args.resize).to(device)


class Tools(NamedTuple):
    """What sources are measured with."""

    extractor: object  # None where no pictures are compared
    reference: object  # the Reference of --against; None: a run's own real images
    sampling: str  # how latents are drawn, if not plainly from the prior
    amortization: object  # the function of models.py


class Report(NamedTuple):
    """What is known of one source."""

    source: str
    values: dict  # numbers, as --json prints them; those of sets of images are a row in one table of all
    lines: list  # the other numbers as text
    features: object = None  # Features of the first set, for --save-stats


def measure(source, tools, args):
    if args.log_likelihood:
        return measure_likelihood(source, tools.amortization, args)
    if source.task == "classification":
        return measure_classifier(source, args)
    if source.task == "arithmetic":
        return measure_arithmetic(source, args)
    if source.run is not None:
        return measure_run_pictures(source, tools, args)
    return measure_pictures(source, tools, args)


def reports_as_json(reports):
    values = [dict(source=report.source) | report.values for report in reports]
    without_nan = json.loads(json.dumps(values), parse_constant=lambda nan: None)  # JSON has no NaN
    return json.dumps(without_nan, indent=1)


def reports_as_text(reports):
    """The lines of each report, then one table of all sets of images and what must be known to quote it."""
    texts = ["\n".join(report.lines) for report in reports if report.lines]
    rows = [report.values["sets"] for report in reports if "sets" in report.values]
    if rows:
        suffix = rows[0]["mark"]
        head = ["", "n", f"FID{suffix}", "floor", f"IS{suffix}", f"KID{suffix} x 1000"]
        head += ["precision", "recall"]
        notes = []
        for row in rows:
            notes += make_notes(row) if "fid" in row else []  # nothing is compared with --save-stats alone
            notes += textwrap.wrap(row["protocol"], 110)
        unique_notes = dict.fromkeys(notes)  # in their order
        texts.append("\n".join([*table([head, *map(make_cells, rows)]), *unique_notes]))
    return "\n\n".join(texts)


# -----------------------------------------------------------------------------------------------------------
# Sources and references


@dataclass
class Source:
    """What a name on the command line stands for: a run, images or features, of which one is given."""

    name: str
    run: object = None  # a sample.Run
    images: torch.Tensor | None = None  # uint8 [n, C, H, W]
    split: str | None = None  # that the images are of, where they have splits
    features: Features | None = None  # moments from a file
    protocol: str | None = None  # of the features, where their file tells it

    @property
    def task(self):
        return "generation" if self.run is None else self.run.model.task

    @property
    def image_shape(self):
        """[C, H, W], or None where only moments are known."""
        if self.run is not None:
            return self.run.config["image_shape"]
        return None if self.images is None else list(self.images.shape[1:])


class Reference(NamedTuple):
    """Real images, as what sources are compared with."""

    source: Source
    features: Features
    floor: tuple | None = None  # FID of two sets of real images, a bound on what to expect, and their sizes
    floor_note: str | None = None  # which two


def rows_of_split(name, splits, split):
    """The rows of the pictures of that split, given the split of each; all where all are alike."""
    names = list(dict.fromkeys(splits.tolist()))
    if len(names) == 1:
        return np.arange(len(splits)), None
    require(split in names, f"{name} has no {split} pictures but {' and '.join(names)}: give --split")
    return np.flatnonzero(splits == split), split


def image_source(name, images, split, image_size):
    """Pillow has resized the pictures of folders; all other images must have the size that is asked for, as
    another filter would set them apart."""
    require(images.ndim == 4, f"{name} is no set of pictures: give another source")
    shape = tuple(images.shape[2:])
    fits = image_size is None or shape == (image_size, image_size)
    size = f"{shape[0]}x{shape[1]}"
    require(fits, f"{name} has pictures of {size}, and --image-size {image_size} is of folders alone")
    return Source(name, images=images, split=split)


def holds_moments(path):
    """Whether a file is an .npz of moments, not of pictures; nothing is read but the names in it."""
    try:
        with zipfile.ZipFile(path) as archive:
            return path.suffix == ".npz" and {"mu.npy", "sigma.npy"} <= set(archive.namelist())
    except (OSError, zipfile.BadZipFile):  # another kind of source, or one that its reader will refuse
        return False


def moments_source(name, arrays):
    """Mean mu [d] and covariance sigma [d, d], as pytorch-fid saves them; our own files add the protocol."""
    try:
        moments = as_moments(arrays["mu"], arrays["sigma"])
        square_root(moments[1])  # there is one unless some eigenvalues are negative
    except MetricError as error:
        raise MetricError(f"{name} has no usable mu and sigma: {error}") from None
    protocol = str(arrays["protocol"]) if "protocol" in arrays else None
    return Source(name, features=Features(None, None, None, moments), protocol=protocol)


def stats_arrays(report, extractor):
    """What moments_source reads."""
    require(report.features is not None, f"{report.source} draws no samples: there is nothing to save")
    mean, cov = moments_of(report.features)
    return dict(mu=mean.numpy(), sigma=cov.numpy(), protocol=extractor.protocol)


def features_of(source, extractor, args):
    """The Features of a source's images, or what its file tells of them."""
    if source.images is not None:
        return extract(extractor, source.images, args.batch_size, args.seed)
    same = source.protocol in (None, extractor.protocol)
    require(same, f"{source.name} is of {source.protocol}, but this is {extractor.protocol}")
    return source.features


def make_reference(source, extractor, args, others=()):
    """The Reference of a source. Its floor is the FID of -n of the other real images, uint8 [n, C, H, W] or,
    where there are fewer, of halves."""
    require(source.run is None, f"--against {source.name}: a run's samples are not real ones")
    features = features_of(source, extractor, args)
    if len(others) >= args.n:
        order = torch.randperm(len(others), generator=torch.Generator().manual_seed(args.seed))
        first = extract(extractor, others[order[: args.n]], args.batch_size, args.seed)
        second = features
        note = f"{first.n:,} other real images against {source.name} ({second.n:,})"
    elif features.features is None or features.n < 4:
        return Reference(source, features)
    else:
        first, second = disjoint_parts(features, 2, args.seed)
        note = f"one half of {source.name} against the other, {first.n:,} images each"
    return Reference(source, features, (set_distance(first, second), first.n, second.n), note)


def real_images(run, split, seed):
    """The name, images float [n, C, H, W] in [0, 1] and labels [n] of a split of the run's data set, which
    must have the run's classes and size."""
    dataset = run.dataset
    same = dataset.classes == run.classes and list(dataset.image_shape) == run.config["image_shape"]
    require(same, f"{run.folder} knows other classes or sizes of picture than {dataset.name} has")
    require(len(dataset.split(split).x) > 0, f"{dataset.name} has no {split} pictures")
    torch.manual_seed(seed)  # pixels are drawn at random with --binarize stochastic
    return f"{dataset.name} {split}", *run.batch(split, slice(None))


def own_reference(run, extractor, args):
    """The Reference of a run's own real images, beside those of another split."""
    name, x, _ = real_images(run, args.split, args.seed)
    others, _ = run.batch("test" if args.split == "train" else "train", slice(None))
    return make_reference(Source(name, images=as_bytes(x)), extractor, args, as_bytes(others))


def samples(run, args, seed):
    """args.n images [n, C, H, W] in [0, 1] of a run, and their labels, the classes in turn, or None where
    the model takes none."""
    model = run.model
    index = torch.arange(args.n)
    labels = index % len(run.classes) if model.conditional else None
    torch.manual_seed(seed)

    def draw(index):
        chunk_labels = None if labels is None else labels[index]
        return model.sample(len(index), chunk_labels, args.scale, args.truncate)

    return in_chunks(draw, index), labels


def as_bytes(images):
    """Floats in [0, 1] as the uint8 that a file would hold."""
    return (255 * images).round().to(torch.uint8)


def table(rows):
    """Rows of cells as lines, numbers aligned to the right; what is missing (None, nan) is a dash."""
    missing = (None, "nan", "nan%")
    rows = [["-" if cell in missing else str(cell) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    cells = [[row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])] for row in rows]
    return ["  ".join(row).rstrip() for row in cells]


# -----------------------------------------------------------------------------------------------------------
# Reports on a classifier, on the likelihood of a VAE, on the answers of a sequence model


def measure_classifier(source, args):
    run = source.run
    data_name, x, labels = real_images(run, args.split, args.seed)
    predicted, confidence = predictions(run.model, x)
    counts = confusion_matrix(labels, predicted, len(run.classes))
    shares = (100 * counts.diag() / counts.sum(1)).tolist()
    class_confidence = [percent(confidence[labels == c]) for c in range(len(run.classes))]
    values = dict(
        accuracy=percent(predicted == labels),
        confidence=percent(confidence),
        class_accuracy=dict(zip(run.classes, shares, strict=True)),
        class_confidence=dict(zip(run.classes, class_confidence, strict=True)),
        confusion=counts.tolist(),
    )
    rows = [["", *run.classes, "right", "confidence"]]
    for name, row, share, mean in zip(
        run.classes, values["confusion"], shares, class_confidence, strict=True
    ):
        rows.append([name, *row, f"{share:.1f}%", f"{mean:.1f}%"])
    title = f"{source.name} on {len(x):,} pictures of {data_name}"
    lines = [
        f"{title}: accuracy {values['accuracy']:.2f}%, mean confidence {values['confidence']:.1f}%",
        "rows: the label; columns: the prediction",
        *table(rows),
    ]
    return Report(source.name, values, lines)


def measure_likelihood(source, amortization, args):
    """Bounds on log p(x), its estimate, and what amortized inference loses (Cremer et al. 2018). Means over
    images, in nats where no unit is given."""
    run = source.run
    data_name, x, labels = real_images(run, args.split, args.seed)
    torch.manual_seed(args.seed)
    chosen = torch.randperm(len(x))[: args.n]
    x = x[chosen]
    labels = labels[chosen]
    k = args.log_likelihood
    log_w = in_chunks(lambda *part: log_weights(run.model, *part, k), x, labels, size=100, dim=1)  # (k, n)
    log_p, effective = log_likelihood(log_w)
    (_, encoder_nats), (_, fitted_nats) = amortization(run.model, x[:100], labels[:100])
    deviation = log_p.std().item() if len(log_p) > 1 else math.nan
    bits = None
    note = "gray pixels: a score, not a likelihood; see --binarize"
    if run.config["flags"].get("binarize"):
        bits = -log_p.mean().item() / (x[0].numel() * math.log(2))
        note = f"{bits:.4f} bits per dimension"
    elif run.model.likelihood == "gaussian":
        note = "a density of pixels in [0, 1]"
    values = dict(
        elbo=iwae_bound(log_w, 1),
        iwae_5=iwae_bound(log_w, 5),
        iwae_50=iwae_bound(log_w, 50),
        log_likelihood=log_p.mean().item(),
        standard_error=deviation / math.sqrt(len(log_p)),
        bits_per_dimension=bits,
        effective_samples=effective.median().item(),
        amortization_gap=(encoder_nats - fitted_nats).mean().item(),
        note=note,
    )
    rows = table([
        ["ELBO", f"{values['elbo']:.2f}"],
        ["IWAE, 5 samples", f"{values['iwae_5']:.2f}"],
        ["IWAE, 50 samples", f"{values['iwae_50']:.2f}"],
        [f"log p(x), {k:,} samples", f"{values['log_likelihood']:.2f}"],
        ["standard error over images", f"{values['standard_error']:.2f}"],
        ["effective samples, median", f"{values['effective_samples']:.1f}"],
        [f"amortization gap, {len(encoder_nats)} pictures", f"{values['amortization_gap']:.2f}"],
    ])  # fmt: skip
    title = f"{source.name} on {len(x):,} pictures of {data_name}, nats/image, seed {args.seed}"
    return Report(source.name, values, [title, *rows, note])


def measure_arithmetic(source, args):
    """How many answers of a sequence model are right, where and by how much the others are wrong."""
    run = source.run
    model = run.model
    split = run.dataset.split(args.split)
    n = len(split.x)
    require(n > 0, f"arithmetic has no {args.split} queries here")
    torch.manual_seed(args.seed)  # of the digits' pictures
    batches = [split.batch(index) for index in torch.arange(n).split(500)]
    x, y = (torch.cat(side) for side in zip(*batches, strict=True))
    answers = in_chunks(model.predict, x)
    draws = split.drawn == "answer"
    predicted = in_chunks(model.read, answers) if draws else answers  # tokens (n, 3)
    queries, texts, truth = (
        ["".join(run.classes[token] for token in row) for row in tokens.tolist()]
        for tokens in (split.x, predicted, split.y)
    )
    right = (predicted == split.y).all(1)
    carried = torch.tensor([carries(query) for query in queries])
    errors = [size_of_error(text, true) for text, true in zip(texts, truth, strict=True)]
    values = dict(
        characters=percent(predicted == split.y),
        exact=percent(right),
        errors={size: errors.count(size) for size in ERRORS},
        exact_by_carries={k: percent(right[carried == k]) for k in range(3)},
    )
    if draws:
        values["reader"] = percent(in_chunks(model.read, y) == split.y)
        values["drawn"] = compare_drawn(answers, y)
        values["all_black"] = compare_drawn(torch.zeros_like(y), y)
    title = f"{source.name} on {n:,} {args.split} queries of arithmetic"
    return Report(source.name, values, [title, *arithmetic_lines(values)])


def compare_drawn(answers, truth):
    """Pictures [n, 3, 1, H, W] in [0, 1] beside the true ones: MSE per pixel, % of pixels on the right side
    of gray, and % that equal the true ones when they are rounded to black or white, which those never do
    that are truly gray: this is what report R2 in RESULTS.md counts."""
    mse = (answers - truth).square().mean().item()
    is_white = answers > 0.5
    return dict(mse=mse, pixels=percent(is_white == (truth > 0.5)), equal=percent(is_white == truth))


def arithmetic_lines(values):
    carried = values["exact_by_carries"].items()
    shares = [f"{share:.2f}% with {k}" for k, share in carried if not math.isnan(share)]
    lines = [
        f"{values['exact']:.2f}% of answers right, {values['characters']:.2f}% of characters",
        f"right by carries or borrows: {', '.join(shares)}",
        "wrong: " + ", ".join(f"{count} {size}" for size, count in values["errors"].items()),
    ]
    if "reader" in values:
        lines.append(f"as read by its own reader, which reads {values['reader']:.2f}% of true symbols right")
        for name, answers in (("drawn", values["drawn"]), ("all-black", values["all_black"])):
            shares = f"{answers['pixels']:.2f}% of pixels right, {answers['equal']:.2f}% exactly"
            lines.append(f"{name} answers: MSE {answers['mse']:.4f} per pixel, {shares}")
    return lines


# -----------------------------------------------------------------------------------------------------------
# Generated images as a classifier labels them


def describe_predictions(predicted, confidence, classes, labels=None):
    """What a classifier predicts for a set of images: numbers, and lines of text. labels [n] are the classes
    that were asked for, if any."""
    modes = coverage(predicted, len(classes))
    answers = []  # such as "8 71%", or "3: 8 71%" for an 8 where a 3 was asked for
    for k, (c, p) in enumerate(zip(predicted[:20].tolist(), confidence[:20].tolist(), strict=True)):
        asked = "" if labels is None else f"{classes[labels[k]]}: "
        answers.append(f"{asked}{classes[c]} {p:.0%}")
    lines = [
        f"modes: {modes['classes']} of {len(classes)} classes, as even as {modes['evenly']:.1f} equal ones",
        "first answers: " + ", ".join(answers[:10]),
    ]
    if len(answers) > 10:
        lines.append(", ".join(answers[10:]))
    return dict(coverage=modes, first_answers=answers), lines


def judge_run(source, judge, sampling, args):
    """What a judge says of a run's reconstructions and samples: numbers, and lines of text."""
    run = source.run
    other = f"{judge.folder} knows other classes or sizes of picture than {source.name}"
    same = all(judge.config[key] == run.config[key] for key in ("classes", "image_shape"))
    require(same, f"{other}: give a judge of the same data and --image-size")
    data_name, x, labels = real_images(run, args.split, args.seed)
    accuracy = percent(predictions(judge.model, x)[0] == labels)
    values = dict(accuracy_on_real=accuracy)
    lines = [
        f"{source.name} judged by {judge.folder}",
        f"the judge labels {accuracy:.1f}% of {data_name} correctly",
    ]
    if run.model.has_encoder:
        index = torch.arange(len(x))
        images = in_chunks(lambda *part: run.reconstructions(args.split, *part), index, x, labels)
        predicted, _ = predictions(judge.model, images)
        accuracy = percent(predicted == labels)
        values["accuracy_on_reconstructions"] = accuracy
        lines.append(f"and {accuracy:.1f}% of this run's reconstructions of it")
    if run.model.draws_samples:
        sample_values, sample_lines = judge_run_samples(run, judge, x, labels, sampling, args)
        values |= sample_values
        lines += sample_lines
    return values, lines


def judge_run_samples(run, judge, real_x, real_labels, sampling, args):
    """As judge_run, of samples, beside real images and labels."""
    images, labels = samples(run, args, args.seed)
    predicted, confidence = predictions(judge.model, images)
    columns = judge_samples(images, labels, predicted, confidence, real_x, real_labels, len(run.classes))
    means = {
        name: torch.tensor(column, dtype=torch.float64).nanmean().item() for name, column in columns.items()
    }
    values = dict(
        samples=dict(n=args.n, seed=args.seed, scale=args.scale, truncate=args.truncate),
        mean=means,  # over the classes that have samples
        by_class={"class": run.classes} | columns,
    )
    title = f"{args.n:,} samples, seed {args.seed}"
    lines = [f"{title}, {sampling}:" if sampling else f"{title}:"]
    forms = dict(count="{:,.0f}", accuracy="{:.1f}%", confidence="{:.1f}%", diversity="{:.3f}")
    cells = [["class", *run.classes, "mean"]]
    for name, column in columns.items():
        cells.append([name, *map(forms[name].format, [*column, means[name]])])
    if labels is not None:
        values["confusion"] = confusion_matrix(labels, predicted, len(run.classes)).tolist()
        lines.append("rows: the class asked for; last columns: how often the judge gives each label")
        for name, *column in zip(run.classes, *values["confusion"], strict=True):
            cells.append([name, *column, ""])
    lines += table(zip(*cells, strict=True))
    lines.append("diversity: mean distance of two samples of a class over that of two real pictures of it")
    prediction_values, prediction_lines = describe_predictions(predicted, confidence, run.classes, labels)
    return values | prediction_values, lines + prediction_lines


# -----------------------------------------------------------------------------------------------------------
# Generated images against real ones


def make_row(source, sets, reference, tools, args):
    """The numbers of a source's sets of images, each given as Features, beside real ones. With --save-stats
    alone the reference may be None."""
    extractor = tools.extractor
    sides = [source] if reference is None else [source, reference.source]
    sampling = tools.sampling if source.run is not None else ""
    protocol = describe_protocol(extractor, sides, sampling, args.seed)
    row = dict(name=source.name, mark=extractor.suffix, n=sets[0].n, n_sets=len(sets), protocol=protocol)
    if reference is None:
        require(args.save_stats, f"{source.name}: compared with what? Give --against REAL")
        return row
    row |= compare_sets(sets, reference.features, args.seed)
    return row | dict(floor=reference.floor, floor_of=reference.floor_note, against=reference.source.name)


def compare_sets(sets, real, seed):
    """Every number of a source's sets against real ones, by its key in the JSON; FID and IS are means over
    independently drawn sets. fid_parts and is_parts are mean and deviation over these sets or, of a single
    one, over disjoint parts of it; is_splits those of the IS of the first set over its ten splits."""
    first = sets[0]
    independent = len(sets) > 1
    parts = sets
    if not independent and first.features is not None and first.n >= 50:
        parts = disjoint_parts(first, 5, seed)
    values = dict(n_real=real.n)
    if len(parts) > 1:
        kind = "sets" if independent else "disjoint parts"
        values["spread_over"] = f"{len(parts)} {kind} of {parts[0].n:,} images"

    numbers = dict(fid=lambda part: set_distance(part, real))
    if first.logits is not None and first.n >= LEAST_FOR_SCORE:
        values["is_splits"] = inception_score(first.logits, seed=seed)
        numbers["is"] = lambda part: inception_score(part.logits, seed=seed)[0]
    for key, number_of in numbers.items():
        large_enough = key != "is" or parts[0].n >= LEAST_FOR_SCORE
        results = [number_of(part) for part in (parts if large_enough else sets)]
        mean = float(np.mean(results))
        values[key] = mean if independent else number_of(first)
        if len(results) > 1:
            values[f"{key}_parts"] = mean, float(np.std(results, ddof=1))
    if first.features is not None and real.features is not None and min(first.n, real.n) > 3:
        values["kid"] = kid(first.features, real.features, seed=seed)
        values["precision"], values["recall"] = precision_recall(real.features, first.features)
    return values


def make_cells(values):
    """A row as cells of the table. The spread over disjoint parts is that of smaller sets, and stands in a
    note."""

    def cell(key):
        if key not in values:
            return None
        spread = f" ± {values[f'{key}_parts'][1]:.2g}" if values["n_sets"] > 1 else ""
        return f"{values[key]:.4g}{spread}"

    floor = f"{values['floor'][0]:.3g}" if values.get("floor") else None
    cells = [values["name"], f"{values['n']:,}" if values["n"] else None, cell("fid"), floor, cell("is")]
    if "kid" not in values:
        return [*cells, None, None, None]
    mean, deviation = values["kid"]
    kid_cell = f"{1000 * mean:.2f}"
    if values["n"] != values["n_real"] or values["n"] > 1000:  # else all subsets are the whole sets
        kid_cell += f" ± {1000 * deviation:.2f}"
    return [*cells, kid_cell, f"{values['precision']:.3f}", f"{values['recall']:.3f}"]


def make_notes(values):
    """Over what the spreads of a row are taken, and those that the table leaves out; where the floor comes
    from; and whether sets are small, or larger than what is held of them."""
    name = values["name"]
    suffix = values["mark"]
    if values["n_sets"] > 1:
        deviation = f"mean ± standard deviation over {values['spread_over']}"
        yield f"{name}: {deviation}; KID, precision and recall of the first"
    elif "spread_over" in values:
        spreads = [
            "{}{} {:.4g} ± {:.2g}".format(key.upper(), suffix, *values[f"{key}_parts"])
            for key in ("fid", "is")
            if f"{key}_parts" in values
        ]
        yield f"{name}: over {values['spread_over']}: {', '.join(spreads)}"
        if "is_splits" in values:
            mean, deviation = values["is_splits"]
            yield f"{name}: IS{suffix} over 10 splits: {mean:.4g} ± {deviation:.2g}"
    if values["floor"]:
        yield f"floor: the FID{suffix} of {values['floor_of']}"
    n = values["n"]
    if n and n < LEAST_FOR_SCORE and suffix != Pixels.suffix:  # pixels have no classes
        yield f"NOTE: {n:,} images are too few for an IS of 10 splits: {LEAST_FOR_SCORE} are needed"
    sizes = [size for size in (n, values["n_real"]) if size]
    small = [size for size in sizes if size < 2048]
    if small:
        yield f"NOTE: {small[0]:,} images: FID falls as sets grow, so compare sets of equal size"
    large = [size for size in sizes if size > CAPACITY]
    if large:
        held = f"of {CAPACITY:,} images, at random of {large[0]:,}"
        yield f"KID, precision, recall, parts and halves: {held}"


def describe_protocol(extractor, sides, sampling, seed):
    """How the numbers of a row are made; `sides` are the source and, if there is one, the real images'."""
    protocol = f"{extractor.protocol}; 8-bit pixels, float32 features, float64 statistics; IS of 10 splits, "
    protocol += f"KID of 100 subsets of up to 1,000, 3 neighbors for precision and recall; seed {seed}"
    if sampling:
        protocol += f"; {sampling}"
    shapes = [side.image_shape for side in sides if side.image_shape]
    if len(shapes) == 2 and shapes[0][1:] != shapes[1][1:]:
        protocol += f"; NOTE: pictures of {shapes[0]} and {shapes[1]}: resizing alone sets them apart"
    if isinstance(extractor, Inception) and 1 in [shape[0] for shape in shapes]:
        protocol += "; gray pictures are repeated to three channels, unlike published numbers"
    for side in sides:
        if side.split:
            protocol += f"; {side.name}: its {side.split} pictures"
    return protocol


def measure_pictures(source, tools, args):
    """The Report on a set of images, or on moments from a file."""
    extractor = tools.extractor
    judge = extractor.judge
    features = features_of(source, extractor, args)
    values = dict(sets=make_row(source, [features], tools.reference, tools, args))
    lines = []
    if judge is not None and source.images is not None:
        predicted, confidence = predictions(judge.model, source.images / 255)
        prediction_values, prediction_lines = describe_predictions(predicted, confidence, judge.classes)
        values |= prediction_values | dict(confidence=percent(confidence))
        title = f"{source.name} as {judge.folder} labels it, mean confidence {values['confidence']:.1f}%"
        lines = [title, *prediction_lines]
    return Report(source.name, values, lines, features)


def measure_run_pictures(source, tools, args):
    """The Report on a run's samples and, by a judge, its reconstructions."""
    run = source.run
    extractor = tools.extractor
    judge = extractor.judge
    draws_samples = run.model.draws_samples
    kind = f"{source.name} holds an autoencoder ({run.kind}), which draws no samples"
    judged_at_all = draws_samples or judge is not None
    require(judged_at_all, f"{kind}: --features classifier:RUN judges its reconstructions")
    values = {}
    lines = []
    if judge is not None:
        values, lines = judge_run(source, judge, tools.sampling, args)
    if not draws_samples:
        return Report(source.name, values, lines)
    sets = []
    for k in range(args.sets):
        images, _ = samples(run, args, args.seed + k)
        sets.append(extract(extractor, as_bytes(images), args.batch_size, args.seed))
    reference = tools.reference or own_reference(run, extractor, args)
    values |= dict(sets=make_row(source, sets, reference, tools, args))
    return Report(source.name, values, lines, sets[0])


def draw_bars(rows, file, kind):
    """Write FID and IS of the sources as bars, a "png", "pdf" or "svg"; those that are means over sets have
    their deviation, but that over disjoint parts is of smaller sets."""
    import matplotlib
    from matplotlib.figure import Figure

    keys = [key for key in ("fid", "is") if any(key in values for values in rows)]
    require(keys, "there is no FID or IS to draw")
    names = [values["name"] for values in rows]
    width = 4 * len(keys) + 0.1 * max(map(len, names))  # inches; paths may be long
    with matplotlib.rc_context({"text.usetex": False, "text.parse_math": False}):  # $x^$ is no formula
        figure = Figure(figsize=(width, 0.8 + 0.4 * len(rows)), layout="constrained")
        for axis, key in zip(figure.subplots(1, len(keys), squeeze=False)[0], keys, strict=True):
            deviations = [
                values.get(f"{key}_parts", (0, 0))[1] if values["n_sets"] > 1 else 0 for values in rows
            ]
            widths = [values.get(key, math.nan) for values in rows]
            axis.barh(range(len(rows)), widths, xerr=deviations, height=0.6, tick_label=names)
            names = [""] * len(rows)  # the first panel has them
            axis.invert_yaxis()
            axis.spines[["top", "right"]].set_visible(False)
            better = "lower is better" if key == "fid" else "higher is better"
            axis.set_xlabel(f"{key.upper()}{rows[0]['mark']} ({better})")
        figure.savefig(file, format=kind, dpi=150)


if __name__ == "__main__":
    sys.exit(main())
