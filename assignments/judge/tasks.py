"""Assignment 4: the conditional VAE, and how to judge samples."""

import torch
from probing import About, Assignment, train

extras = ["datasets/mnist10k.npz"]
assignment = Assignment(extras)


# -----------------------------------------------------------------------------------------------------------
assignment.task(
    "4.1",
    "models.ConditionalVAE.features models.ConditionalVAE.decode_logits",
    """
    what encoder and decoder see of a label. With label "concat" its embedding is appended to the features
    and to z; with "add" it is added to z, and the encoder does not see it.
    """,
)


@assignment.part(14, "labels appended to features and z, or added to z")
def labels(files, draw):
    x = draw.uniform(4, 1, 5, 5)
    z = draw.normal(4, 4)
    y = torch.tensor([2, 0, 1, 2])
    sizes = dict(encoder="mlp", encoder_hidden=7, decoder="mlp", decoder_hidden=7, latent_dim=4, dense=6)
    outputs = {}
    for label in ("concat", "add"):
        model = draw.fill(files.models.ConditionalVAE((1, 5, 5), 3, label=label, **sizes), scale=2).eval()
        outputs[f"features, {label}"] = model.features(x, y)
        outputs[f"decode_logits, {label}"] = model.decode_logits(z, y)
    return outputs


# -----------------------------------------------------------------------------------------------------------
assignment.task(
    "4.2",
    "metrics.confusion_matrix",
    "counts [n_classes, n_classes]: a row for each label, a column for each prediction.",
)


@assignment.part(6, "labels in rows, predictions in columns, classes that nobody predicts")
def confusion(files, draw):
    counts = files.metrics.confusion_matrix(draw.integers(3, 60), draw.integers(4, 60), 5)
    return {"counts": counts}


# -----------------------------------------------------------------------------------------------------------
assignment.task(
    "4.3",
    "metrics.mean_distance",
    """
    the mean Euclidean distance between two different images of [n, ...], as a number: nan where n < 2, and
    exactly 0 for equal images.
    """,
    leaks="models.GAN.diagnose",
)


@assignment.part(10, "pairs of different images")
def diversity(files, draw):
    x = draw.uniform(7, 1, 4, 4)
    pixel = 0.25 * (torch.arange(16).view(1, 4, 4) == 5)
    bright = torch.stack([3000 + 0 * x[0], 3000 + pixel])
    return {
        "mean distance": files.metrics.mean_distance(x),
        "of two bright images that differ by 0.25 in a pixel": files.metrics.mean_distance(bright),
        "of one image": files.metrics.mean_distance(x[:1]),
    }


# -----------------------------------------------------------------------------------------------------------
assignment.task(
    "4.4",
    "metrics.coverage",
    """
    {"classes": how many classes were predicted, "evenly": the number of equally frequent classes that would
    be as even, exp of the entropy of their shares} (eq. 1).
    """,
    keep=1,
)


@assignment.part(10, "classes, and exp of the entropy")
def coverage(files, draw):
    predicted = torch.cat([draw.integers(3, 20), torch.tensor([5])])
    modes = files.metrics.coverage(predicted, 8)
    return {
        "names": ", ".join(sorted(modes)),
        "classes": modes["classes"],
        "evenly": modes["evenly"],
        "evenly, of 4 equal classes": files.metrics.coverage(torch.arange(4).repeat(3), 8)["evenly"],
    }


# -----------------------------------------------------------------------------------------------------------
assignment.task(
    "4.5",
    "metrics.inception_score",
    """
    exp of the mean KL(p(y|x) ‖ p(y)) in each of so many splits of the logits [n, classes] (eq. 2): its mean
    over the splits and its standard deviation, divided by their number.
    """,
    keep=5,
)


@assignment.part(14, "the score of one split, and its limits")
def score(files, draw):
    logits = draw.normal(60, 6, scale=2)
    sure = 500 * torch.eye(6).repeat(10, 1)

    def score(logits):
        return files.metrics.inception_score(logits, 1, None)[0]

    return {
        "score": score(logits),
        "of sure and even predictions of 6 classes": score(sure),
        "of predictions that are all the same": score(logits[:1].repeat(12, 1)),
    }


@assignment.part(6, "splits and their deviation")
def splits(files, draw):
    trend = torch.linspace(0, 9, 61)[:, None] * torch.eye(6)[0]
    mean, deviation = files.metrics.inception_score(draw.normal(61, 6, scale=2) + trend, 4, None)
    return {"mean of 4 splits": mean, "their deviation": deviation}


# -----------------------------------------------------------------------------------------------------------
assignment.task(
    "4.6",
    "metrics.frechet_distance",
    """
    |m1 − m2|² + tr(C1 + C2 − 2 (C1 C2)^½), as a number that is never below 0 (eq. 3). The trace of the root
    is the sum of the roots of the eigenvalues of C1 C2; square_root and product_eigenvalues help.
    """,
    keep=3,
)


def gaussian(draw, n, rank):
    factor = draw.normal(n, rank).double()
    return draw.normal(n).double(), factor @ factor.T / rank


@assignment.part(14, "Gaussians whose covariances do not commute")
def frechet(files, draw):
    first = gaussian(draw, 5, 9)
    second = gaussian(draw, 5, 9)
    distance = files.metrics.frechet_distance
    on_a_line = [torch.tensor(values).double() for values in ([1.0], [[4.0]], [3.0], [[9.0]])]
    return {
        "on a line: deviations 2 and 3, means 1 and 3": distance(*on_a_line),
        "of two Gaussians": distance(*first, *second),
        "of equal ones": distance(*first, *first),
    }


@assignment.part(6, "covariances without full rank: no nan, nothing below 0")
def singular(files, draw):
    flat = gaussian(draw, 6, 3)
    return {
        "rank 3 of 6, against rank 6": About(
            files.metrics.frechet_distance(*flat, *gaussian(draw, 6, 9)), 1e-4
        ),
        "equal, rank 3 of 6": About(files.metrics.frechet_distance(*flat, *flat), 1e-4),
    }


# -----------------------------------------------------------------------------------------------------------
assignment.task(
    "4.7",
    "metrics.share_inside",
    """
    the share of `others` [m, d] that lie in a ball around one of the `members` [n, d], each as wide as the
    distance to its k-th nearest neighbor among the members, not itself; the edge belongs to the ball
    (eq. 4). squared_distances(a, b) yields the rows of [len(a), len(b)] in blocks.
    """,
    keep=2,
)


@assignment.part(12, "balls up to the k-th neighbor, with their edges")
def inside(files, draw):
    def squared_distances(a, b, size=7):
        yield from (a[:, None] - b).square().sum(2).split(size)

    files.metrics.squared_distances = squared_distances
    members = draw.normal(20, 2).double()
    others = 1.3 * draw.normal(33, 2).double()
    outputs = {f"k = {k}": files.metrics.share_inside(members, others, k) for k in (1, 3, 5)}
    line = torch.tensor([[0.0], [1.0], [10.0]], dtype=torch.float64)
    points = torch.tensor([[2.0], [-1.0], [18.0], [20.0]], dtype=torch.float64)
    outputs["members 0, 1, 10; others 2, −1, 18, 20"] = files.metrics.share_inside(line, points, 1)
    return outputs


# -----------------------------------------------------------------------------------------------------------
assignment.task("4.8", "", "the conditional VAE trains.", seconds=120)


@assignment.part(8, "train.py, 150 updates: −ELBO of test digits below 190 nats")
def trains(files, draw):
    flags = "--model cvae --encoder mlp --decoder mlp --steps 150 --batch-size 64"
    return {"test −ELBO below 190": str(train(files, flags)["test"]["loss"] < 190)}
