"""Assignment 3: t-SNE."""

import math

import torch
from probing import About, Assignment

extras = ["datasets/mnist10k.npz", "docs/map-template.html"]
assignment = Assignment(extras)


# -----------------------------------------------------------------------------------------------------------
assignment.task(
    "3.1",
    "tsne.squared_distances",
    """
    |a_i − b_j|² [n, m] of points a [n, c] and b [m, c], also of near points that are far from 0.
    """,
)


@assignment.part(10, "all pairs, also near points far from the origin")
def distances(files, draw):
    far = torch.tensor([[3000.0, 0], [3000.25, 0]])
    return {
        "squares": files.tsne.squared_distances(draw.normal(4, 3), draw.normal(5, 3)),
        "a quarter apart, at 3,000": files.tsne.squared_distances(far, far),
    }


# -----------------------------------------------------------------------------------------------------------
assignment.task(
    "3.2",
    "tsne.conditional_affinities",
    """
    p_j|i [n, k] of the squared distances [n, k] from each point to its neighbors (eq. 1). Find the precision
    1 / (2 sigma²) of each row, at which 2^entropy is the perplexity, by bisection (eq. 2).
    """,
)


@assignment.part(15, "each row has the perplexity")
def affinities(files, draw):
    squares = (draw.normal(12, 5)[:, None] - draw.normal(30, 5)).square().sum(2)
    squares = squares * draw.uniform(12, 1, low=0.1, high=10)
    outputs = {}
    for perplexity in (5.0, 12.0):
        p = files.tsne.conditional_affinities(squares, perplexity)
        entropy = -torch.special.xlogy(p, p).sum(1)
        outputs[f"sums of rows, perplexity {perplexity:g}"] = p.sum(1)
        outputs[f"entropy − ln {perplexity:g}, in nats"] = About(entropy - math.log(perplexity), 0.002)
        outputs[f"p, perplexity {perplexity:g}"] = About(p[:3], 0.001)
    return outputs


@assignment.part(8, "large and nearly equal distances")
def extremes(files, draw):
    squares = draw.uniform(4, 20, low=1, high=2)
    affinities = files.tsne.conditional_affinities
    return {
        "squares a million times as large": About(affinities(1e6 * squares, 6.0), 0.001),
        "10,000 added to each square": About(affinities(10_000 + squares, 6.0), 0.003),
    }


# -----------------------------------------------------------------------------------------------------------
assignment.task(
    "3.3",
    "tsne.joint_affinities",
    """
    p_ij = (p_j|i + p_i|j) / 2n [n, n], of the index j of each point's neighbors and of their p_j|i, both
    [n, n − 1] (eq. 3).
    """,
)


@assignment.part(12, "in its place, symmetric, divided by 2n")
def joint(files, draw):
    neighbors = torch.tensor([[1, 2, 3, 4], [0, 4, 2, 3], [1, 0, 3, 4], [4, 2, 0, 1], [3, 1, 0, 2]])
    return {"p": files.tsne.joint_affinities(neighbors, draw.uniform(5, 4))}


# -----------------------------------------------------------------------------------------------------------
assignment.task(
    "3.4",
    "tsne.exact_attraction tsne.exact_repulsion",
    """
    with k_ij = 1 / (1 + |y_i − y_j|²): the attraction sum_j p_ij k_ij (y_i − y_j) and, if wanted, the sum
    p_ij log(1 + |y_i − y_j|²); the repulsion sum_j k_ij² (y_i − y_j) and Z, the sum of k over all pairs of
    different points (eq. 4 to 6). weighted_differences helps. Work on 128 rows at a time.
    """,
    leaks="tsne.SparseAttraction.__call__ tsne.barnes_hut_repulsion",
)


def replace_squared_distances(files):
    files.tsne.squared_distances = lambda a, b: (a[:, None] - b).square().sum(2)


@assignment.part(10, "attraction")
def attraction(files, draw):
    replace_squared_distances(files)
    p = draw.uniform(150, 150).fill_diagonal_(0)
    y = draw.normal(150, 2)
    attraction, log_term = files.tsne.exact_attraction(p, y)
    without, _ = files.tsne.exact_attraction(p, y, False)
    return {
        "attraction": attraction[125:132],
        "sum of p log(1 + squares)": log_term,
        "attraction, without the sum": without[:3],
    }


@assignment.part(10, "repulsion and Z")
def repulsion(files, draw):
    replace_squared_distances(files)
    repulsion, z = files.tsne.exact_repulsion(draw.normal(150, 2))
    return {"repulsion": repulsion[125:132], "Z": z}


# -----------------------------------------------------------------------------------------------------------
assignment.task(
    "3.5",
    "tsne.kl_gradient",
    """
    dKL / dy, with the attraction multiplied by the exaggeration, and the KL divergence as a number, or None
    if it is not wanted (eq. 7 and 8). Here attraction(y, want_kl) and repulsion(y) are functions.
    """,
)


@assignment.part(15, "both forces with their factors, and the KL")
def gradient(files, draw):
    attractive = draw.normal(4, 2)
    repulsive = draw.normal(4, 2)
    log_term = torch.tensor(1.7, dtype=torch.float64)
    z = torch.tensor(23.0, dtype=torch.float64)
    forces = (lambda y, want_kl=True: (attractive.clone(), log_term), lambda y: (repulsive.clone(), z))
    gradient, kl = files.tsne.kl_gradient(*forces, torch.tensor(-4.1).double(), draw.normal(4, 2), 12.0)
    return {"gradient": gradient, "KL": kl}


# -----------------------------------------------------------------------------------------------------------
assignment.task(
    "3.6",
    "tsne.pca",
    """
    the principal components [n, n_components] of points x [n, d]; those beyond the rank are 0.
    principal_axes finds the axes of centered points, and fewer than n_components where d is smaller.
    """,
)


@assignment.part(10, "centered, in order, as many as asked for")
def components(files, draw):
    x = draw.normal(40, 4) @ torch.diag(torch.tensor([4.0, 2.0, 1.0, 0.5])) + 7
    return {
        "components, but for their sign": files.tsne.pca(x, 2).abs()[:6],
        "three components of points [6, 2]": files.tsne.pca(x[:6, :2], 3).abs(),
    }


# -----------------------------------------------------------------------------------------------------------
assignment.task("3.7", "", "t-SNE maps digits.", seconds=120)


@assignment.part(10, "300 digits: for over 65% the nearest neighbor in the map is of the same class")
def maps(files, draw):
    x, y = files.data.load("mnist10k").test
    x = x[:300].flatten(1).float() / 255
    embedding = files.tsne.TSNE(perplexity=20, max_iter=300, method="exact").fit_transform(x)
    nearest = torch.cdist(embedding, embedding).fill_diagonal_(math.inf).argmin(1)
    share = (y[:300][nearest] == y[:300]).float().mean().item()
    return {"same class for over 65%": str(share > 0.65)}
