"""t-SNE: a map of points that keeps neighbors together.

    from tsne import TSNE
    embedding = TSNE(perplexity=30).fit_transform(X)  # X [n, d], array or tensor, as is embedding [n, 2]

    python tsne.py runs/vae-quickdraw5k --split test       # a run's latents: tsne.png and tsne.npz
    python tsne.py runs/vad-fashion2k --what refined --train-and-test
    python tsne.py X.npy --labels y.npy --html             # any array; and a page to zoom into

A pair of points has an affinity p_ij, high if they are near in the data, and a similarity q_ij, high if they
are near in the map. t-SNE moves the points of the map so as to make q like p, downhill on

    KL(P || Q) = sum_ij p_ij log(p_ij / q_ij),    q_ij = k_ij / Z,    k_ij = 1 / (1 + |y_i - y_j|^2),

where Z is the sum of k over all pairs. The gradient has springs between neighbors and a push between all:

    dKL / dy_i = 4 sum_j p_ij k_ij (y_i - y_j)  -  4 / Z sum_j k_ij^2 (y_i - y_j)

Few springs matter, since affinities fade fast. In the push the three methods differ: they sum it over every
pair (exact), over the cells of a tree (barnes_hut), or over the nodes of a mesh (fft).
"""

import base64
import functools
import inspect
import io
import json
import math
import sys
import textwrap
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

METRICS, METHODS = ("euclidean", "cosine", "precomputed"), ("auto", "exact", "barnes_hut", "fft")
EXACT_LIMIT = 10_000  # points, for which the exact method takes 3 GB
FEW = 700  # points, for which no method is faster than the exact one
LEVELS = 30  # of a tree: the bits of two coordinates fit the 64 of a Morton code

# -----------------------------------------------------------------------------------------------------------
# Exact: every pair of points, in O(n^2) time and memory (van der Maaten & Hinton 2008). Read this first: the
# other methods are approximations to it, and are tested against it


def squared_distances(a, b):
    """|a_i - b_j|^2 [n, m] of points [n, c] and [m, c]; by differences, so that near points stay apart."""
    pairs = zip(a.T.contiguous(), b.T.contiguous(), strict=True)
    return functools.reduce(torch.Tensor.add_, ((p[:, None] - q).square_() for p, q in pairs))


def conditional_affinities(squares, perplexity):
    """p_j|i [n, k] of squared distances [n, k]: a Gaussian around each point (eq. 1), as wide as makes
    2^entropy the perplexity, which bisection finds."""
    parts = []
    for rows in squares.split(1 + (1 << 17) // squares.shape[1]):  # as many as the cache holds
        rows = rows.double() - rows.amin(1, keepdim=True)  # changes no p, and some exp() will not be 0
        rows = rows / rows.mean(1, keepdim=True).clamp(min=1e-300)
        beta = torch.ones_like(rows[:, :1])  # 1 / (2 sigma^2)
        low, high = 0 * beta, math.inf * beta
        for _ in range(64):
            p = torch.exp(-beta * rows)
            total = p.sum(1, keepdim=True)
            excess = total.log() + beta * (p * rows).sum(1, keepdim=True) / total - math.log(perplexity)
            if excess.abs().max() < 1e-6:
                break
            low, high = torch.where(excess > 0, beta, low), torch.where(excess > 0, high, beta)
            beta = torch.where(high.isinf(), 2 * low, (low + high) / 2)
        parts.append((p / total).to(squares.dtype))
    return torch.cat(parts)


def joint_affinities(neighbors, p):
    """p_ij = (p_j|i + p_i|j) / 2n [n, n] (sec. 3.1) of the numbers of all others and p_j|i, [n, n - 1]."""
    p = p.new_zeros(len(p), len(p)).scatter_(1, neighbors, p)
    return (p + p.T).div_(2 * len(p))


def exact_attraction(p, y, want_spread=True):
    """Springs sum_j p_ij k_ij (y_i - y_j) of a map y [n, c], and sum_ij p_ij log(1 + |y_i - y_j|^2)."""
    pull, spread = torch.empty_like(y), 0.0
    for i in range(0, len(y), 128):
        rows, part = y[i : i + 128], p[i : i + 128]
        stretch = squared_distances(rows, y).add_(1)  # (128, n)
        if want_spread:
            spread += (part * stretch.log()).sum(dtype=torch.float64)
        pull[i : i + 128] = weighted_differences(part / stretch, rows, y)
    return pull, spread


def exact_repulsion(y):
    """The push sum_j k_ij^2 (y_i - y_j) [n, c] in a map y [n, c], not yet divided by Z, and Z (eq. 4, 5)."""
    push, total = torch.empty_like(y), 0.0
    for i in range(0, len(y), 128):
        kernel = squared_distances(y[i : i + 128], y).add_(1).reciprocal_()
        total += kernel.sum(1).sum(dtype=torch.float64)
        push[i : i + 128] = weighted_differences(kernel.square_(), y[i : i + 128], y)
    return push, total - len(y)  # each point has met itself, at distance 0


def weighted_differences(weights, y, partners):
    """sum_j w_ij (y_i - y_j) [n, c] of weights [n, m], points [n, c] and partners [m, c]."""
    sums = F.pad(partners, (1, 0), value=1.0).T @ weights.T  # of w_ij and of w_ij y_j, (1 + c, n)
    return y * sums[:1].T - sums[1:].T


def kl_gradient(y, attraction, repulsion, exaggeration=1.0, want_kl=True):
    """dKL / dy [n, c] of a map y [n, c] (eq. 5), the springs being so many times as strong, and, if wanted,
    the KL less sum_ij p_ij log p_ij, which is sum_ij p_ij log(1 + |y_i - y_j|^2) + log Z."""
    pull, spread = attraction(y, want_kl)
    push, total = repulsion(y)
    return pull.mul_(4 * exaggeration).sub_(push.mul_(4 / total)), spread + total.log()


# -----------------------------------------------------------------------------------------------------------
# Affinities of neighbors alone, 3 perplexity of them, beyond which a Gaussian has little left (van der
# Maaten 2014, sec. 4.1). The neighbors are exact: O(n^2) time, mostly matrix products, and O(n) memory


def nearest(queries, points, k, first=None):
    """The k nearest of points [n, d] to each of queries [m, d]: numbers [m, k] and squared distances [m, k].
    If the queries are the points from number `first` on, none is its own neighbor.

    The n distances of a query are cut into groups of 16. The k nearest are in the k groups with the least
    minima, since each other group has k groups before it: only these are searched.
    """
    n, groups = len(points), 16 if 16 * k < len(points) else 1
    width = -(-n // groups)
    block = min(256, 1 + (1 << 24) // (k * points.shape[1]))
    columns = F.pad(points, (0, 0, 0, width * groups - n)).T.contiguous()
    lengths = F.pad(points.square().sum(1), (0, width * groups - n), value=math.inf)
    buffer = points.new_empty(block, width * groups)  # for all blocks: memory that is new is slow
    steps, squares = width * torch.arange(groups, device=points.device), queries.new_empty(len(queries), k)
    found = torch.empty_like(squares, dtype=torch.long)
    for start in range(0, len(queries), block):
        rows = queries[start : start + block]
        scores = torch.addmm(lengths, rows, columns, alpha=-2, out=buffer[: len(rows)])  # less |q|^2
        if first is not None:
            scores.diagonal(first + start).fill_(math.inf)
        best = scores.view(-1, groups, width).amin(1).topk(k, largest=False, sorted=False).indices
        members = (best[:, :, None] + steps).flatten(1)  # (block, k * groups)
        best = scores.gather(1, members).topk(k, largest=False, sorted=False).indices
        found[start : start + block] = members.gather(1, best)
        # |q|^2 - 2qp + |p|^2 has lost digits: once more, by differences
        exact = (rows[:, None] - points[found[start : start + block]]).square_().sum(2)
        squares[start : start + block] = exact
        lost = torch.finfo(rows.dtype).eps * rows.square().sum(1) > 1e-4 * exact.amax(1)
        if rows.dtype == torch.float32 and lost.any():  # so many that it chose the wrong ones
            return nearest(queries.double(), points.double(), k, first)
    return found, squares


def symmetrize(neighbors, p, block=4096):
    """p_ij = (p_j|i + p_i|j) / 2n of neighbors [n, k] and p_j|i [n, k]: row, column and value of each pair
    that has one, sorted by row. A block of rows at a time: sorting all would take most of the memory."""
    n, k = neighbors.shape
    column, p, parts = neighbors.flatten(), p.flatten(), []
    for start in range(0, n, block):
        own = torch.arange(start * k, min(n, start + block) * k, device=p.device)
        other = ((column >= start) & (column < start + block)).nonzero()[:, 0]
        key, order = torch.cat([own // k * n + column[own], column[other] * n + other // k]).sort()
        key, pair = torch.unique_consecutive(key, return_inverse=True)
        value = p.new_zeros(len(key)).index_add_(0, pair, p[torch.cat([own, other])[order]])
        parts.append(((key // n).int(), (key % n).int(), value.div_(2 * n)))
    return map(torch.cat, zip(*parts, strict=True))


def rectangles(group, n, entries):
    """Lists for n groups, given by the group of each member, in order: groups with about as many members
    together. Yields rows, the groups; place [rows, width] of their members; and which places are filled."""
    count = torch.bincount(group, minlength=n)
    first, by_count = count.cumsum(0) - count, count.argsort(descending=True)
    widths, start = count[by_count].tolist(), 0
    while start < n and widths[start]:
        rows = by_count[start : start + max(1, entries // widths[start])]
        step = torch.arange(widths[start], device=group.device)
        yield rows, (first[rows, None] + step).clamp_(max=len(group) - 1), step < count[rows, None]
        start += len(rows)


class Springs:
    """exact_attraction for maps [n, 2] and affinities that have few pairs: row, column, p, sorted by row.

    Points with about as many neighbors form a rectangle [points, neighbors] that the cache holds, with
    p = 0 where one has fewer. Each step is one operation on all of it, in memory used again and again.
    """

    def __init__(self, row, column, p, n):
        self.rectangles = [
            (rows, torch.where(filled, column[place], rows[:, None]), torch.where(filled, p[place], 0))
            for rows, place, filled in rectangles(row, n, 1 << 17)
        ]
        self.size = max(partner.numel() for _, partner, _ in self.rectangles)

    def __call__(self, y, want_spread=True):
        pull, spread, y = torch.zeros_like(y.T), 0.0, y.T.contiguous()
        buffer = y.new_empty(3 * self.size)
        for rows, partner, p in self.rectangles:
            work = buffer[: 3 * p.numel()].view(3, *p.shape)
            away, weight = work[:2], work[2]
            torch.gather(y[:, None].expand(2, *p.shape[:1], -1), 2, partner.expand(2, -1, -1), out=away)
            torch.sub(y[:, rows, None], away, out=away)
            torch.mul(away[0], away[0], out=weight).addcmul_(away[1], away[1]).add_(1)
            if want_spread:
                spread += (p * weight.log()).sum(dtype=torch.float64)
            torch.div(p, weight, out=weight)
            pull[:, rows] = away.mul_(weight).sum(2)
        return pull.T.contiguous(), spread


# -----------------------------------------------------------------------------------------------------------
# Barnes-Hut: what is far away pushes together, as the cells of a quadtree, in O(n log n) (van der Maaten
# 2014, sec. 4.2). A cell of some size at a distance d counts as one point at its center of mass if
# size / d < angle; else its children are asked, and in the end the points themselves. Angle 0 is exact


def morton_order(y):
    """Points [n, 2] in the order of a quadtree's leaves. Returns their codes in that order, of which the
    first 2l bits name the cell at level l; their numbers in y; and the width of the tree."""
    low = y.amin(0).double()
    extent = (y - low).max().item() * (1 + 1e-6) + 1e-30
    code = ((y - low) / extent * 2**LEVELS).long()
    for shift in (16, 8, 4, 2, 1):  # spread the bits: the upper half of each 2 * shift moves up by shift
        mask = sum((1 << shift) - 1 << place for place in range(0, 64, 2 * shift))
        code = (code | code << shift) & mask
    return *(code[:, 0] | code[:, 1] << 1).sort(), extent


def quadtree(code, y, extent):
    """A quadtree over points y [n, 2] in Morton order, where each cell holds a slice of them.

    Returns an entry for each cell, level after level, and then for each point: x and y of its center and
    how many points it holds [3, entries]; size; and child, the first of its `children` children. A cell of
    up to 8 points has these as children, and their size is 0.
    """
    start, end, levels, cells = code.new_zeros(1), code.new_full((1,), len(code)), [], 1
    for level in range(LEVELS + 1):
        # points in one cell of the last level are at one place, whatever the angle
        size = y.new_full((len(start),), extent / 2**level if level < LEVELS else 0)
        split, rest = (end - start > 8) & (level < LEVELS), max(0, 2 * (LEVELS - level - 1))
        # a quadrant begins where the name of its cell would stand among those of the points
        quadrants = (code[start[split], None] >> rest + 2) * 4 + torch.arange(5, device=code.device)
        borders = torch.searchsorted(code >> rest, quadrants)  # (split, 5)
        filled = borders[:, 1:] > borders[:, :-1]
        children = torch.zeros_like(start).masked_scatter_(split, filled.sum(1))
        levels.append((start, end, size, cells + children.cumsum(0) - children, children))
        start, end = borders[:, :-1][filled], borders[:, 1:][filled]
        cells += len(start)
        if not len(start):
            break
    start, end, size, child, children = map(torch.cat, zip(*levels, strict=True))
    leaf, mass = children == 0, end - start
    child, children = torch.where(leaf, cells + start, child), torch.where(leaf, mass, children)
    sums = F.pad(y.double().cumsum(0), (0, 0, 1, 0))
    center = torch.cat([(sums[end] - sums[start]) / mass[:, None], y])
    entries = torch.cat([center.T, F.pad(mass, (0, len(y)), value=1)[None]]).to(y.dtype)
    return entries, *(F.pad(values, (0, len(y))) for values in (size, child, children))


def sources(tree, low, high, angle):
    """What pushes tiles, boxes from low to high [tiles, 2]: a tile and an entry of the tree for each pair,
    sorted by tile. A cell's distance is that of its center from the box, less than from a point in there."""
    (x, y, _), size, child, children = tree
    tile, cell, found = torch.arange(len(low), device=low.device), 0 * child[: len(low)], []
    while len(tile):
        center = torch.stack([x.take(cell), y.take(cell)], 1)
        below, above = low.index_select(0, tile) - center, center - high.index_select(0, tile)
        outside = torch.maximum(below, above).clamp_(min=0)
        far = size.take(cell) <= angle * outside.square().sum(1).sqrt()
        found.append((tile[far].int(), cell[far]))
        tile, cell = tile[~far], cell[~far]
        count = children[cell]  # in their place, all children
        shift = child[cell] - (count.cumsum(0) - count)
        tile, cell = tile.repeat_interleave(count), shift.repeat_interleave(count)
        cell += torch.arange(len(cell), device=cell.device)
    tile, cell = map(torch.cat, zip(*found, strict=True))
    tile, order = tile.sort()
    return tile, cell[order]


def barnes_hut_repulsion(y, angle=0.5, tile_size=32):
    """exact_repulsion for maps [n, 2], by the tree."""
    code, order, extent = morton_order(y)
    points = y[order]
    tree = quadtree(code, points, extent)
    # tiles of neighbors along the curve share their sources; the last is filled up with points before it
    fill = (torch.arange(-len(y) % tile_size, device=y.device) + len(y) - tile_size).clamp_(min=0)
    targets = torch.cat([points, points[fill]]).view(-1, tile_size, 2)
    push, potential = torch.empty_like(targets), torch.empty_like(targets[..., 0])
    tile, source = sources(tree, targets.amin(1), targets.amax(1), angle)
    for rows, place, filled in rectangles(tile, len(targets), (1 << 18) // tile_size):
        sx, sy, mass = (values.take(source.take(place)) for values in tree[0])  # (rows, width)
        mass = mass * filled
        middle = targets[rows].median(1).values  # seen from there, numbers are small
        sx, sy, t = sx - middle[:, :1], sy - middle[:, 1:], targets[rows] - middle[:, None]
        kernel = (t[..., :1] - sx[:, None]).square_()  # (rows, tile_size, width)
        dy = t[..., 1:] - sy[:, None]
        kernel.addcmul_(dy, dy).add_(1).reciprocal_()
        potential[rows] = (mass[:, None] @ kernel.mT)[:, 0]
        sums = torch.stack([mass, mass * sx, mass * sy], 1) @ kernel.square_().mT  # (rows, 3, tile_size)
        push[rows] = t * sums[:, :1].mT - sums[:, 1:].mT
    out = torch.empty_like(y)
    out[order] = push.view(-1, 2)[: len(y)]
    return out, potential.flatten()[: len(y)].sum(dtype=torch.float64) - len(y)


# -----------------------------------------------------------------------------------------------------------
# Mesh: the push as a convolution, by FFT, in O(n + m log m) for m nodes (after Linderman et al. 2019, who
# take two kernels and four charges). One potential does, phi(y) = sum_j 1 / (1 + |y - y_j|^2): the push on
# y_i is -grad phi(y_i) / 2, and Z = sum_i phi(y_i) - n. Cubic B-splines spread the points onto the nodes
# around them, and read phi and its gradient from there (Essmann et al. 1995)


def good_size(size):
    """The first whole number from there on that an FFT likes, 2^a 3^b 5^c."""
    size = math.ceil(size)
    while 60**size % size:
        size += 1
    return size


# Cubic B-spline: the weights of the four nodes around places t in [0, 1), where 0 is the second node, and
# then their derivatives, each as the factors of 1, t, t^2 and t^3
SPLINE = [[1, -3, 3, -1], [4, 0, -6, 3], [1, 3, 3, -3], [0, 0, 0, 1]]
SPLINE = torch.tensor([*SPLINE, [-3, 6, -3, 0], [0, -12, 9, 0], [3, 6, -9, 0], [0, 0, 3, 0]]) / 6


class Mesh:
    """exact_repulsion for maps [n, 2], by a mesh with so much spacing between its nodes.

    A far outlier would stretch it without bound: where the tree is faster, Barnes-Hut takes over.
    """

    def __init__(self, spacing=0.35):
        self.spacing, self.key = spacing, None

    def __call__(self, y):
        n = len(y)
        if n < FEW:
            return exact_repulsion(y)
        places = y.T.contiguous()
        low, high = places.aminmax(dim=1, keepdim=True)
        extent = (high - low).flatten().tolist()
        # both in steps of 6%, so that the kernel's transform is used for a while
        h = min(self.spacing, 1.06 ** math.ceil(math.log(max(extent) / 32 + 1e-30, 1.06)))
        if not max(extent) < h * (256 + 8 * math.isqrt(n)):
            return barnes_hut_repulsion(y)
        nodes = [math.ceil(1.06 ** math.ceil(math.log(length / h + 4, 1.06))) for length in extent]
        # an FFT is periodic: room for the map twice, or once and so much that what comes around is weak
        size = [good_size(min(2 * m, m + 32 / h)) for m in nodes]
        lack = float(max(extent) < 1)  # of the kernel to 1: in a small map, all that has digits
        if self.key != (size, h, lack):
            self.key, self.transform = (size, h, lack), kernel_transform(size, h, lack, y)
        place = (places - low) / h
        cell = place.floor()
        t = place.sub_(cell).flatten()
        powers = torch.stack([torch.ones_like(t), t, t * t, t * t * t])
        (wx, wy), (dx, dy) = (SPLINE.to(t) @ powers).view(2, 4, 2, n).transpose(1, 2)  # (4, n) each
        step, cell = torch.arange(4, device=y.device), cell.long()
        node = (cell[0] + step[:, None, None]) * size[1] + cell[1] + step[:, None]  # (4, 4, n)
        charge = y.new_zeros(nodes[0], size[1])
        charge.view(-1).index_add_(0, node.flatten(), (wx[:, None] * wy).flatten())
        # one axis after the other, for most of what the other sees is empty, or not wanted
        field = torch.fft.fft(torch.fft.rfft(charge), n=size[0], dim=0).mul_(self.transform)
        field = torch.fft.irfft(torch.fft.ifft(field, dim=0)[: nodes[0]], n=size[1]).take(node)
        along, across = (field * wy).sum(1), (field * dy).sum(1)  # (4, n)
        potential, push = (along * wx).sum(0), torch.stack([(along * dx).sum(0), (across * wx).sum(0)], 1)
        return push.div_(-2 * h), potential.sum(dtype=torch.float64) + (lack * n - 1) * n


def kernel_transform(size, h, lack, like):
    """Of 1 / (1 + r^2) - lack at the nodes, over the spline's squared: one spread, and one will read."""
    steps = [torch.arange(length, device=like.device, dtype=like.dtype) for length in size]
    x, y = (torch.minimum(s, length - s).mul_(h).square_() for s, length in zip(steps, size, strict=True))
    square = x[:, None] + y
    kernel = (1 - lack - lack * square) / (1 + square)
    a, b = ((2 + (2 * math.pi / length * s).cos()) / 3 for s, length in zip(steps, size, strict=True))
    return torch.fft.rfft2(kernel) / (a[:, None] * b[: size[1] // 2 + 1]).square_()


# -----------------------------------------------------------------------------------------------------------
# The class


def require(condition, message):
    if not condition:
        raise ValueError(message)


def as_points(X, name="X"):
    """Numbers [n, d] of any kind, as a tensor of float32, or float64 where that would lose digits."""
    if not isinstance(X, torch.Tensor):
        X = np.asarray(X)
        require(X.dtype.kind in "fiub", f"{name} holds {X.dtype}: give real numbers")
        short = X.dtype.itemsize < 4 or X.dtype == np.float32
        X = torch.from_numpy(np.array(X, np.float32 if short else np.float64, order="C"))
    require(not X.is_complex(), f"{name} holds complex numbers: give real ones")
    x = X.detach().to(torch.float32 if X.element_size() < 4 or X.dtype == torch.float32 else torch.float64)
    require(x.ndim == 2 and x.shape[1] > 0, f"{name} has shape {list(x.shape)}: give [points, features]")
    require(bool(x.isfinite().all()), f"{name} holds NaN or infinite values: remove or replace them")
    return x


def principal_axes(x, n_components):
    """Directions [d, n_components], or as many as there are, in which x [n, d] around 0 varies most. The
    largest entry of each is positive, so that all runs agree."""
    with torch.random.fork_rng():
        torch.manual_seed(0)  # of the subspace that is iterated: no d x d matrix is needed
        axes = torch.pca_lowrank(x, min(n_components + 8, *x.shape), center=False, niter=10)[2]
    axes = axes[:, :n_components]
    return axes * axes.gather(0, axes.abs().argmax(0, keepdim=True)).sign()


def pca(x, n_components):
    """Principal components [n, n_components] of x [n, d], 0 where there are not so many."""
    x = x - x.mean(0)
    scores = x @ principal_axes(x, n_components)
    return F.pad(scores, (0, n_components - scores.shape[1]))


class TSNE:
    """A map of points by t-SNE, with scikit-learn's names and habits.

    n_components     of the map. All but 2 take the exact method, of up to 10,000 points
    perplexity       how many neighbors a point has, as it were. Less than the number of points
    early_exaggeration  how many times as strong springs are at first: 100 iterations, or a fifth if fewer
    learning_rate    of the gradient with its factor 4. "auto": n / 4, over the exaggeration while that lasts
                     (after Belkina et al. 2019)
    max_iter         iterations in all; None: 500, or 700 for less than 5,000 points
    n_iter_without_progress, min_grad_norm  stop if the KL has not fallen for so long, or the gradient is so
                     small, as seen every 50 iterations; while springs are exaggerated only the gradient can
    metric           "euclidean", "cosine", or "precomputed": X is [n, n] distances
    init             "pca", "random", or a map to start from, [n, n_components]
    verbose          1 prints the KL every 50 iterations
    random_state     a number, or None: another each time
    method           "exact", "barnes_hut", "fft", or "auto": the fastest
    angle            of barnes_hut; with less it is slower and nearer to exact

    fit() sets embedding_ [n, n_components], float32, an array or a tensor as X is; kl_divergence_ in nats,
    as the method sees it; n_iter_; and learning_rate_, as it was in the end. Raises ValueError.
    """

    def __init__(
        self,
        n_components=2,
        *,
        perplexity=30.0,
        early_exaggeration=12.0,
        learning_rate="auto",
        max_iter=None,
        n_iter_without_progress=300,
        min_grad_norm=1e-7,
        metric="euclidean",
        init="pca",
        verbose=0,
        random_state=0,
        method="auto",
        angle=0.5,
    ):
        vars(self).update((name, value) for name, value in locals().items() if name != "self")

    def get_params(self, deep=True):
        return {name: getattr(self, name) for name in inspect.signature(TSNE).parameters}

    def set_params(self, **params):
        unknown = ", ".join(params.keys() - self.get_params().keys())
        require(not unknown, f"no parameter {unknown}: there are {', '.join(self.get_params())}")
        vars(self).update(params)
        return self

    def fit_transform(self, X, y=None):
        """The map [n, n_components] of points X [n, d]; y is not used."""
        return self.fit(X).embedding_

    def fit(self, X, y=None):
        x = as_points(X)
        self._check(x)
        n, embedding = len(x), self._start(x)
        attraction, repulsion, entropy = self._forces(x)
        self.n_iter_, last = 0, self.max_iter or (500 if n >= 5000 else 700)
        early = min(100, last // 5), self.early_exaggeration, 0.8
        for end, exaggeration, momentum in (early, (last, 1.0, 0.9)):
            auto = self.learning_rate == "auto"
            self.learning_rate_ = n / 4 / exaggeration if auto else float(self.learning_rate)
            self._descend(embedding, attraction, repulsion, entropy, end, exaggeration, momentum)
        self.kl_divergence_ = (entropy + kl_gradient(embedding, attraction, repulsion)[1]).item()
        self._map = embedding
        self.embedding_ = embedding if isinstance(X, torch.Tensor) else embedding.cpu().numpy()
        return self

    def _check(self, x):
        n, c, rate, named = len(x), self.n_components, self.learning_rate, isinstance(self.init, str)
        require(n > 1, f"X has {n} points: a map takes two or more")
        few, distances = n <= EXACT_LIMIT, self.metric == "precomputed"
        exact, from_pca = few and self.method in ("auto", "exact"), named and self.init == "pca"
        limit = f"for up to {EXACT_LIMIT:,} points"
        for name, fits, wanted in (
            ("n_components", isinstance(c, int) and c > 0, "a whole number from 1"),
            ("n_components", c == 2 or exact, f"2; more are for 'exact', {limit}"),
            ("perplexity", 1 <= self.perplexity < n, f"1 or more, but less than the {n} points"),
            ("early_exaggeration", self.early_exaggeration >= 1, "1 or more"),
            ("learning_rate", rate == "auto" or rate > 0, "auto, or more than 0"),
            ("max_iter", self.max_iter is None or self.max_iter > 0, "1 or more, or None"),
            ("angle", 0 <= self.angle <= 1, "0 to 1"),
            ("metric", self.metric in METRICS, " or ".join(METRICS)),
            ("method", self.method in METHODS, " or ".join(METHODS)),
            ("method", few or self.method != "exact", f"another; this is {limit}"),
            ("init", not named or self.init in ("pca", "random"), "pca, random or a map"),
            ("init", not (distances and from_pca), "random or a map: distances have no PCA"),
        ):
            require(fits, f"{name} {getattr(self, name)!r}: give {wanted}")
        square = x.shape == (n, n) and bool((x >= 0).all())
        told = f"X is {list(x.shape)}: precomputed takes distances [n, n], from 0 up"
        require(square or not distances, told)
        zeros = self.metric == "cosine" and not x.any(1).all()
        require(not zeros, "X has a point at 0, which has no direction for metric='cosine'")

    def _start(self, x):
        """The map to start from, [n, n_components] in float32; from PCA, its first axis deviates by 1e-4."""
        # a middle that one far outlier does not move, so that float32 can tell the others apart
        self._middle = x[:: 1 + len(x) // 1000].median(0).values
        self._scale = (x if self.metric == "precomputed" else x - self._middle).abs().max().item() or 1.0
        random = torch.Generator()
        random.seed() if self.random_state is None else random.manual_seed(self.random_state)
        noise = torch.randn(len(x), self.n_components, generator=random).to(x.device)
        if not isinstance(self.init, str):
            y = as_points(self.init, "init").to(x.device, torch.float32, copy=True)
            require(y.shape == noise.shape, f"init has shape {list(y.shape)}: give {list(noise.shape)}")
            require(y.abs().max().item() < 1e15, "init reaches 1e15, where squares leave float32: scale it")
            return y
        if self.init == "random":
            return 1e-4 * noise
        y = pca((x - self._middle) / self._scale, self.n_components)
        y = y / y[:, 0].std().clamp(min=1e-30) * 1e-4
        return y.float() + 1e-6 * noise  # or twins would stay together, and a line a line

    def _nearest(self, x, k, first=None):
        """The k nearest training points of x [m, d] and their squared distances, as nearest() does."""
        if self.metric == "precomputed":
            x = x / self._scale
            distances, found = (x if first is None else x.fill_diagonal_(math.inf)).topk(k, largest=False)
            return found, distances.square()
        if self.metric == "cosine":
            x = F.normalize(x / x.abs().amax(1, keepdim=True))
        else:
            x = (x - self._middle) / self._scale
        if first is not None:
            self._points = x.float()
        found, squares = nearest(x.float(), self._points, k, first)
        if self.metric == "cosine":
            squares = (squares / 2).square()  # 1 - cos is |x - x'|^2 / 2
        return found, squares

    def _forces(self, x):
        """Attraction and repulsion, as functions of the map, and sum_ij p_ij log p_ij."""
        n, method = len(x), self.method
        if method == "auto":
            method = "exact" if n < FEW or self.n_components != 2 else "fft"
        k = n - 1 if method == "exact" else min(n - 1, int(3 * self.perplexity))
        neighbors, p = self._nearest(x, k, first=0)
        p = conditional_affinities(p.float(), self.perplexity)
        if method == "exact":
            p = joint_affinities(neighbors, p)
            attraction, repulsion = functools.partial(exact_attraction, p), exact_repulsion
        else:
            row, column, p = symmetrize(neighbors, p)
            del neighbors  # or they would be there at the peak of memory
            attraction = Springs(row, column, p, n)
            repulsion = Mesh(0.3 if n < 20_000 else 0.35)
            if method == "barnes_hut":
                repulsion = functools.partial(barnes_hut_repulsion, angle=self.angle)
        return attraction, repulsion, torch.special.xlogy(p, p).sum(dtype=torch.float64)

    def _descend(self, y, attraction, repulsion, entropy, end, exaggeration, momentum):
        """Moves the map y, in place, until iteration `end`. Each coordinate has a gain, which grows as long
        as its gradient keeps its sign (Jacobs 1988)."""
        velocity, gain = torch.zeros_like(y), torch.ones_like(y)
        best, best_iter = math.inf, self.n_iter_
        while self.n_iter_ < end:
            self.n_iter_ += 1
            check = self.n_iter_ % 50 == 0
            gradient, kl = kl_gradient(y, attraction, repulsion, exaggeration, check)
            gain = torch.where(velocity * gradient < 0, gain + 0.2, gain * 0.8).clamp_(min=0.01)
            velocity.mul_(momentum).sub_(gradient.mul_(gain), alpha=self.learning_rate_)
            y += velocity.clamp_(-5, 5)  # far for a step: no learning rate makes the map fly apart
            if check:
                kl, norm = (entropy + kl).item(), gradient.norm().item()
                if self.verbose:
                    print(f"iteration {self.n_iter_}   KL {kl:.4f}   gradient norm {norm:.2e}", flush=True)
                waited = self.n_iter_ - best_iter if kl >= best and exaggeration == 1 else -math.inf
                if waited > self.n_iter_without_progress or norm <= self.min_grad_norm:
                    break
                best, best_iter = min((best, best_iter), (kl, self.n_iter_))

    def transform(self, X_new):
        """Places [m, n_components] in the map for new points [m, d], or for their distances [m, n] if
        precomputed. Each is where the springs to its 30 nearest training points rest, at perplexity 10: the
        minimum of sum_j p_j log(1 + |y - y_j|^2), by weighted means. Nothing else moves."""
        require(hasattr(self, "_map"), "there is no map yet: call fit first")
        x = as_points(X_new, "X_new").to(self._map.device)
        wanted = len(self._map) if self.metric == "precomputed" else self._points.shape[1]
        require(x.shape[1] == wanted, f"X_new has shape {list(x.shape)}: give [points, {wanted}]")
        neighbors, squares = self._nearest(x, min(len(self._map), 30))
        p = conditional_affinities(squares, 10).to(self._map.dtype)[:, :, None]
        partners = self._map[neighbors]  # (m, k, n_components)
        places = (p * partners).sum(1, keepdim=True)
        for _ in range(50):
            weights = p / (1 + (places - partners).square().sum(2, keepdim=True))
            places = (weights * partners).sum(1, keepdim=True) / weights.sum(1, keepdim=True)
        return places[:, 0] if isinstance(X_new, torch.Tensor) else places[:, 0].cpu().numpy()


# -----------------------------------------------------------------------------------------------------------
# Command line. Our other files are imported from here on alone, so that what is above works without them

TEMPLATE = Path(__file__).resolve().parent / "docs" / "map-template.html"
# Okabe and Ito's and two more, as far apart for color-blind readers; from the 11th class on they repeat
COLORS = ["#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#F0E442"]
COLORS += ["#8A2BE2", "#692D0F"]


def flags():
    from data import SPLITS, Parser, number

    parser = Parser(prog="tsne.py", description=__doc__)
    add = parser.add_argument
    add("source", metavar="SOURCE", help="a run, .npy or .npz of any [n, ...], an image folder, a data set")
    latents = "a run's latents, an auto-decoder's refined ones or those of test pictures, or pixels"
    add("--what", choices=("latents", "refined", "test", "pixels"), help=latents)
    add("--split", choices=(*SPLITS, "all"), help="(test of runs, train of auto-decoders, else all)")
    add("--train-and-test", action="store_true", help="a map of train, into which test points are put")
    add("--labels", metavar="Y.npy", help="of an array: a whole number or string for each point")
    add("-n", type=number(int, 2), help="at most so many points, chosen by --seed; of train and test each")
    add("--pca", type=number(int, 0), default=50, help="to so many dimensions before t-SNE (50; 0: never)")
    add("--perplexity", type=number(float, 1), default=30, help="neighbors of a point, so to speak (30)")
    add("--method", choices=METHODS, default="auto", help="(auto: the fastest that is accurate enough)")
    add("--angle", type=number(float, 0, 1), default=0.5, help="of barnes_hut; less is more exact (0.5)")
    add("--metric", choices=METRICS[:2], default="euclidean", help="(euclidean); cosine goes without PCA")
    add("--max-iter", type=number(int, 1), help="iterations (as many as so many points take)")
    add("--seed", type=number(int, 0, 2**31), default=0, help="of -n and of where points start (0)")
    add("--device", default="auto", help="auto (default), cpu, cuda, cuda:1, mps")
    add("--html", action="store_true", help="also a page to zoom into, with pictures")
    add("--out", metavar="FILE.png", help="(tsne.png in the run or here); .npz and .html go beside it")
    add("--image-size", type=number(int, 1), help="crop and resize pictures of a folder to this side")
    add("--data-dir", metavar="DIR", help="where whole data sets are")
    return parser


def main(argv=None):
    """Runs the command line; returns its exit status."""
    import data
    import models

    return data.run_command("tsne.py", command, argv, models.ModelError)


def command(argv):
    from data import Mistake, load, pick_device, require, write_file

    args = flags().parse_args(argv)
    args.device, place = pick_device(args.device), Path(args.source)
    is_run, is_array = (place / "config.json").exists(), place.suffix in (".npy", ".npz") and place.is_file()
    require(is_run or args.what in (None, "pixels"), f"--what {args.what} is of runs: {place} is none")
    require(is_array or not args.labels, f"--labels are of an array: {place} is none")
    require(not (args.image_size and (is_run or is_array)), f"--image-size is not of {place}: leave it out")
    require(not (args.train_and_test and args.split), "--train-and-test takes both: leave --split out")
    name = f"tsne-{args.what}.png" if args.what in ("refined", "test", "pixels") else "tsne.png"
    picture = Path(args.out or (place / name if is_run else name))
    arrays, html = picture.with_suffix(".npz"), picture.with_suffix(".html")
    require(picture.suffix in (".png", ".pdf", ".svg"), f"--out {picture}: end it in .png, .pdf or .svg")
    is_other = arrays.resolve() not in [Path(given).resolve() for given in (place, args.labels or "")]
    require(is_other, f"{arrays} would be written over: give another --out")
    picture.parent.mkdir(parents=True, exist_ok=True)
    template = TEMPLATE.read_text(encoding="utf-8") if args.html else None
    if is_run or is_array:
        source = (open_run if is_run else open_array)(args)
    else:
        source = pixels_of(load(args.source, args.data_dir, args.image_size), "all")
    try:
        found = embed(choose(*source, args), args)
    except ValueError as error:  # what the class above has to say of these points
        raise Mistake(f"{place}: {error}") from None
    settings = json.dumps({name: str(value) for name, value in vars(args).items()})
    kept = {name: value for name, value in found.items() if name not in ("pictures", "order")}
    write_file(arrays, lambda file: np.savez(file, **kept, settings=settings))
    figure = draw(found)
    write_file(picture, lambda file: figure.savefig(file, format=picture.suffix[1:], dpi=120))
    shares = [f"{share:7.1%}  {name}" for name, share in zip(found["classes"], found["shares"], strict=True)]
    print(found["title"], found["caption"], *shares * (len(shares) > 1), picture, arrays, sep="\n")
    if template:
        text = page(template, found).encode()
        write_file(html, lambda file: file.write(text))
        print(html)


# -----------------------------------------------------------------------------------------------------------
# Sources: a title, the class names ([""] without labels), the default split, each split's pictures, uint8
# [n, C, H, W] or None, and labels [n], and a function: split, rows -> points [rows, ...]


def pixels_of(dataset, default):
    from data import SPLITS, require

    require(dataset.name != "arithmetic", "arithmetic is queries: only pictures and arrays have a map")
    parts = {split: getattr(dataset, split) for split in SPLITS}
    title = f"pixels of {dataset.name}"
    return title, dataset.classes, default, parts, lambda split, rows: parts[split].x[rows]


def open_run(args):
    """A run's latents, distributions by their means, or the pixels of its data."""
    import data
    import models

    config, model = data.read_config(args.source), models.load(Path(args.source) / "best.pt").to(args.device)
    kind, what, is_free = config["flags"]["model"], args.what or "latents", model.has_free_latents
    has = what == "pixels" or (model.has_encoder and (is_free or what == "latents"))
    told = f"{args.source} holds a {kind}, which has no --what {what}: --what pixels maps its pictures"
    data.require(has, told)
    dataset, learned = data.load_for_run(config, args.data_dir), {}
    if what == "pixels":
        return pixels_of(dataset, "test")
    parts = {split: getattr(dataset, split) for split in data.SPLITS}
    if is_free:  # not encoded but kept, and NaN until they are known
        learned["train"] = model.refined if what == "refined" else model.latents.weight
        learned = (learned if what != "test" else {}) | dict(test=model.test_latents)
        parts = {split: parts[split] for split, table in learned.items() if not table.isnan().any()}

    def points(split, rows):
        if is_free:
            return model.distribution.from_params(learned[split][rows.to(args.device)]).mean
        batches = (parts[split].batch(few) for few in rows.split(500))
        return torch.cat([model.encode(x.to(args.device), y.to(args.device)) for x, y in batches])

    title = f"{'refined ' * (what == 'refined')}latents of {Path(args.source).resolve().name}"
    return title, dataset.classes, next(iter(learned), "test"), parts, points


def open_array(args):
    """X.npy of points [n, ...], or an .npz of them as x and of labels as y; --labels go before y."""
    import data

    arrays = data.open_arrays(args.source)
    if "x" not in arrays and not args.labels:  # x_train and so on, as train.py takes them
        return pixels_of(data.load(args.source), "all")
    data.require("x" in arrays, f"{args.source} holds {', '.join(arrays)}: call the points x")
    x = np.atleast_1d(arrays["x"])
    y = arrays.get("y", np.full(len(x), ""))
    y = data.open_arrays(args.labels).get("x", np.empty(0)) if args.labels else y
    told = f"{args.labels or args.source} has labels of shape {list(y.shape)}, {y.dtype}"
    fits = y.shape == x.shape[:1] and y.dtype.kind in "iubU"
    data.require(fits, f"{told}: give a whole number or a string to each of {len(x):,} points")
    names, y = np.unique(y, return_inverse=True)
    try:  # rows of 14 x 14 and more may be pictures, shorter ones are rather features
        is_row = x.ndim < 3 and x.size < 196 * len(x)
        pictures = None if is_row else torch.from_numpy(data.as_pictures(x, args.source))
    except data.Mistake:
        pictures = None
    parts, title = dict(row=(pictures, torch.from_numpy(y))), Path(args.source).name
    return title, [*map(str, names)], "all", parts, lambda split, rows: x[rows.numpy()]


def choose(title, classes, default, parts, points, args):
    """The wanted points: x [n, d], labels, split and row [n], pictures or None, beside classes and title."""
    from data import require

    splits = ["train", "test"] if args.train_and_test else [args.split or default]
    groups = {"": [*parts]} if splits == ["all"] else {split: [split] for split in splits}
    chosen, sizes = [], []
    for kind, names in groups.items():  # -n is of each
        totals = [len(parts[name][1]) if name in parts else 0 for name in names]
        told = f"{args.source} has no {kind or 'such'} points, or keeps no such latents of them"
        require(sum(totals), told)
        wanted, random = torch.zeros(sum(totals), dtype=bool), torch.Generator().manual_seed(args.seed)
        wanted[torch.randperm(len(wanted), generator=random)[: args.n]] = True
        sizes.append(f"{wanted.sum():,} {f'of {len(wanted):,} ' * (not wanted.all())}{kind}".strip())
        for name, part in zip(names, wanted.split(totals), strict=True):
            rows, (pictures, labels) = part.nonzero()[:, 0], parts[name]
            if not len(rows):
                continue
            torch.manual_seed(args.seed)  # of pixels that are drawn anew at every look
            with torch.no_grad():
                x = points(name, rows)
            x = as_points(x.reshape(len(x), -1) if x.ndim > 2 else x)
            pictures = None if pictures is None else pictures[rows]
            chosen.append((x, labels[rows].numpy(), np.repeat(name, len(rows)), rows.numpy(), pictures))
    x, labels, split, row, pictures = zip(*chosen, strict=True)
    found = dict(x=torch.cat(x), pictures=None if pictures[0] is None else torch.cat(pictures))
    found |= dict(labels=np.concatenate(labels), split=np.concatenate(split), row=np.concatenate(row))
    return found | dict(classes=classes, title=f"{title}: {' and '.join(sizes)} points")


# -----------------------------------------------------------------------------------------------------------
# The map of the chosen points, as a picture and as a page


def embed(found, args):
    """Adds embedding [n, 2], whose last `put` points are there by transform, and what can be told of it."""
    x, y = found.pop("x"), torch.from_numpy(found["labels"])
    put = found["split"].tolist().count("test") if args.train_and_test else 0
    n = len(x) - put  # points that make the map
    told = f"t-SNE of {x.shape[1]} dimensions"
    if 0 < args.pca < x.shape[1] and args.metric == "euclidean":
        x = x - x[:n].mean(0)
        x = x @ principal_axes(x[:n], args.pca)
        told += f", {x.shape[1]} after PCA"
    names = ("perplexity", "method", "angle", "metric", "max_iter")
    tsne = TSNE(**{name: getattr(args, name) for name in names}, random_state=args.seed)
    places = tsne.fit_transform(x[:n].to(args.device))
    near = nearest(places, places, min(10, n - 1), 0)[0]
    if n < len(x):
        new = tsne.transform(x[n:].to(args.device))
        near = torch.cat([near, nearest(new, places, near.shape[1])[0]])
        places = torch.cat([places, new])
    right = (y[near.cpu()].mode(1).values == y).double()  # is it what most of its neighbors in the map are?
    shares = [right[y == c].mean().item() for c in range(len(found["classes"]))]  # nan, if it has no points
    told += f", perplexity {args.perplexity:g}, KL {tsne.kl_divergence_:.3f} nats"
    if len(shares) > 1:
        told += f"; 10-NN accuracy {right[:n].mean():.1%}"
        told += f", of the ringed test points {right[n:].mean():.1%}" if n < len(x) else ""
    order = np.append(np.random.RandomState(0).permutation(n), np.arange(n, len(x)))
    found |= dict(order=order, put=put, shares=shares, caption=told, kl=tsne.kl_divergence_)
    return found | dict(embedding=places.cpu().numpy())


def draw(found):
    """A figure of the map: classes by color and, where they keep together, by name."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D
    from matplotlib.patheffects import withStroke

    order, classes, put = found["order"], found["classes"], found["put"]
    (x, y), labels = found["embedding"][order].T, found["labels"][order]  # so that no class lies on top
    n, present = len(x) - put, np.unique(labels) if len(classes) > 1 else ()
    is_few, shades = len(present) <= 20, np.array(COLORS)[labels % len(COLORS)]
    height = 0.8 + np.clip(5.7 * np.ptp(y) / max(np.ptp(x), 1e-30), 3, 8)
    height += 0 if is_few else 0.02 * min(len(present), 100)
    figure = Figure(figsize=(6.7, height), layout="constrained")
    axis = figure.add_subplot(aspect="equal", xticks=[], yticks=[])
    axis.spines[:].set_visible(False)
    size, faint = np.clip(20000 / len(x), 0.7, 25), 0.4 if put else 0.8
    crisp = dict(linewidths=0, antialiased=len(x) < 5000)  # many points with soft edges make a large file
    axis.scatter(x[:n], y[:n], size, shades[:n], alpha=faint, **crisp)
    axis.scatter(x[n:], y[n:], 2 * size, shades[n:], edgecolors="black", linewidths=0.4)
    keys, edge = [], [withStroke(linewidth=3, foreground="white")]
    with rc_context({"text.parse_math": False}):  # a class may be called $
        figure.suptitle(textwrap.fill(found["title"], 90), fontsize=10)
        told = found["caption"].replace("; ", "\n") + ", of each class in the legend" * (len(classes) > 1)
        (figure.supxlabel if is_few else axis.set_xlabel)(told, fontsize=8)
        for c in present:
            name, share, own = " ".join(classes[c].split())[:18], found["shares"][c], labels == c
            keys.append(Line2D([], [], color=COLORS[c % len(COLORS)], marker="o", linestyle=""))
            keys[-1].set(label=f" {name} ({share:.0%})", markersize=6 if is_few else 3)
            if is_few and share > 0.5:
                style = dict(ha="center", va="center", weight="bold", path_effects=edge)
                axis.text(np.median(x[own]), np.median(y[own]), name, **style)
        style = dict(loc="outside right center", fontsize=8)
        if not is_few:
            style = dict(loc="outside lower center", fontsize=5.5, ncols=5, columnspacing=0.5)
        figure.legend(handles=keys[:100], frameon=False, handletextpad=0, **style)
    return figure


def page(template, found):
    """The page: the template with the map as JSON, in which no name can end the script."""
    places, order = found["embedding"] * [1, -1], found["order"]  # y grows downwards
    places = places[order] - places.min(0)
    x, y = np.rint(places.T * 20000 / max(places.max(), 1e-30)).astype(int).tolist()
    told = dict(x=x, y=y, colors=COLORS, sheet=None, side=0)
    told |= {name: found[name] for name in ("title", "caption", "classes", "put")}
    told |= {name: found[name][order].tolist() for name in ("labels", "split", "row")}
    if found["pictures"] is not None:
        told["sheet"], told["side"] = sheet(found["pictures"][order])
    return template.replace("__MAP__", json.dumps(told).replace("<", r"\u003c"))


def sheet(pictures):
    """Small copies of pictures uint8 [n, C, H, W] side by side in a JPEG, as its URI, and their side in
    pixels, which keeps a page of 10,000 under 5 MB."""
    from PIL import Image

    from data import resize

    n = len(pictures)
    columns, side = math.isqrt(n - 1) + 1, min(*pictures.shape[2:], 28 if n > 2000 else 56)
    side = min(side, math.isqrt(16_000_000 // n) + 1)
    small = resize(pictures, side)
    small = torch.cat([small, small.new_zeros(columns**2 - n, *small.shape[1:])])
    small = small.unflatten(0, (columns, -1)).permute(0, 3, 1, 4, 2)  # (row, H, column, W, C)
    image = small.flatten(2, 3).flatten(0, 1).squeeze(2).numpy()
    Image.fromarray(image).save(file := io.BytesIO(), "JPEG", quality=75)
    return f"data:image/jpeg;base64,{base64.b64encode(file.getvalue()).decode()}", side


if __name__ == "__main__":
    sys.exit(main())
