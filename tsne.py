"""t-SNE: a map of points in the plane that keeps neighbors together.

    from tsne import TSNE
    embedding = TSNE(perplexity=30).fit_transform(X)  # X [n, d] and embedding [n, 2]: arrays or tensors

    python tsne.py runs/vae-quickdraw5k --split test       # the latents of a run: tsne.png and tsne.npz
    python tsne.py runs/vad-fashion2k --what refined --train-and-test
    python tsne.py X.npy --labels y.npy --html             # any array, and a page to zoom into

Each pair of points has an affinity p_ij, high if the two are near in the data, and a similarity q_ij, high
if they are near in the map. t-SNE moves the points of the map by gradient descent on

    KL(P || Q) = sum_ij p_ij log(p_ij / q_ij),    q_ij = k_ij / Z,    k_ij = 1 / (1 + |y_i - y_j|^2),

where Z is the sum of k over all pairs. The gradient has an attractive and a repulsive part:

    dKL / dy_i = 4 sum_j p_ij k_ij (y_i - y_j)  -  4 / Z sum_j k_ij^2 (y_i - y_j)

Affinities fade so fast with the distance that the attraction takes only a point's nearest neighbors. The
repulsion is between all pairs, and the three methods differ in how they sum it: over every pair (exact),
over the cells of a tree (barnes_hut), or over the nodes of a mesh (fft).
"""

import base64
import contextlib
import functools
import io
import json
import math
import sys
import textwrap
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import KW_ONLY, dataclass, fields
from numbers import Integral, Real
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

METRICS = ("euclidean", "cosine", "precomputed")
METHODS = ("auto", "exact", "barnes_hut", "fft")
# The exaggeration fades instead of ending at once, as in an annealing: the KL divergence ends .03 lower.
# Then long steps with much momentum spread the map, and at last shorter ones settle it. With all steps half
# or twice as long, the KL of 2,000 digits is .01 higher; four times as long, they tear the map apart
SCHEDULE = [
    # up to this share of the iterations; power of the early exaggeration; momentum; factor of the step
    (0.15, 1, 0.8, 1),
    (0.25, 1 / 2, 0.8, 1),
    (0.35, 1 / 4, 0.8, 1),
    (0.8, 0, 0.95, 4),
    (1.0, 0, 0.8, 8),
]
EXACT_LIMIT = 10_000  # points, for which the exact method takes 3 GB
EXACT_IS_FASTEST = 700  # below this number of points, no method is faster than the exact one
LARGEST = 1e15  # its square fits float32


class TSNEError(ValueError):
    """Data or parameters that have no map; the message is one line that says what to change."""

    status = 1  # of the command line


def require(condition, message):
    if not condition:
        raise TSNEError(message)


@contextlib.contextmanager
def thread_pool():
    """A pool of as many Python threads as torch may use. Meanwhile torch itself takes one thread at a time:
    where it shares out an operation, all threads wait for the last, and beside other busy programs one is
    always late. Those of the pool meet once in an iteration, and no sum depends on their number."""
    n_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        pool = ThreadPoolExecutor(n_threads, initializer=torch.set_num_threads, initargs=(1,))
        with pool, torch.inference_mode(False):  # the mode is a thread's own, and its tensors are no other's
            yield pool
    finally:
        torch.set_num_threads(n_threads)


# -----------------------------------------------------------------------------------------------------------
# Exact t-SNE: every pair of points, in O(n^2) time and memory (van der Maaten & Hinton 2008). Read this
# section first: the other two methods approximate it and are tested against it


def squared_distances(a, b):
    """|a_i - b_j|^2 [n, m] of points a [n, c] and b [m, c], from the differences of their coordinates:
    |a|^2 - 2ab + |b|^2 would lose the digits that tell near points apart."""
    a = a.T.contiguous()
    b = b.T.contiguous()
    squares = (a[0][:, None] - b[0]).square_()
    for p, q in zip(a[1:], b[1:], strict=True):
        squares += (p[:, None] - q).square_()
    return squares


def conditional_affinities(squares, perplexity):
    """p_j|i [n, k] of the squared distances [n, k] from each point to its neighbors (eq. 1).

    They are a Gaussian around each point. Bisection finds the precision at which 2^entropy, the effective
    number of neighbors, is the perplexity.
    """
    parts = []
    rows_in_cache = 1 + (1 << 17) // squares.shape[1]
    for rows in squares.split(rows_in_cache):
        # p does not change if a constant is subtracted, and this way not every exp() can underflow; in units
        # of their mean, all rows can begin with the same precision
        rows = rows.double() - rows.amin(1, keepdim=True)
        rows = rows / rows.mean(1, keepdim=True).clamp(min=1e-300)
        beta = torch.ones_like(rows[:, :1])  # the precision 1 / (2 sigma^2), in these units
        low = torch.zeros_like(beta)
        high = torch.full_like(beta, math.inf)
        for _ in range(200):  # a far outlier among the neighbors leaves the others a precision up to 2^150
            p = torch.exp(-beta * rows)
            total = p.sum(1, keepdim=True)
            moment = (p * rows).sum(1, keepdim=True)
            entropy = total.log() + beta * moment / total
            excess = entropy - math.log(perplexity)
            is_done = (excess.abs() < 1e-6) | (moment == 0)  # 0: only points that are equally near are left
            if is_done.all():
                break
            low = torch.where(excess > 0, beta, low)
            high = torch.where(excess > 0, high, beta)
            beta = torch.where(high.isinf(), 2 * low, (low + high) / 2)
        parts.append((p / total).to(squares.dtype))
    return torch.cat(parts)


def joint_affinities(neighbors, p):
    """p_ij = (p_j|i + p_i|j) / 2n [n, n] (sec. 3.1), from p_j|i [n, n - 1] and the index j of each
    [n, n - 1]."""
    p = p.new_zeros(len(p), len(p)).scatter_(1, neighbors, p)
    return (p + p.T).div_(2 * len(p))


def exact_attraction(p, y, want_kl=True):
    """The attraction sum_j p_ij k_ij (y_i - y_j) [n, c] in a map y [n, c], and a term of the KL divergence,
    sum_ij p_ij log(1 + |y_i - y_j|^2), or 0 if it is not wanted."""
    attraction = torch.empty_like(y)
    log_term = 0.0
    for i in range(0, len(y), 128):
        rows = y[i : i + 128]
        p_rows = p[i : i + 128]
        denominator = squared_distances(rows, y).add_(1)  # (128, n)
        if want_kl:
            log_term += (p_rows * denominator.log()).sum(dtype=torch.float64)
        attraction[i : i + 128] = weighted_differences(p_rows / denominator, rows, y)
    return attraction, log_term


def exact_repulsion(y):
    """The repulsion sum_j k_ij^2 (y_i - y_j) [n, c] in a map y [n, c], not yet divided by Z, and Z (eq. 4
    and 5)."""
    repulsion = torch.empty_like(y)
    total = 0.0
    for i in range(0, len(y), 128):
        rows = y[i : i + 128]
        kernel = squared_distances(rows, y).add_(1).reciprocal_()  # (128, n)
        total += kernel.sum(1).sum(dtype=torch.float64)
        repulsion[i : i + 128] = weighted_differences(kernel.square_(), rows, y)
    return repulsion, total - len(y)  # without the n pairs of a point with itself, whose k is 1


def weighted_differences(weights, y, partners):
    """sum_j w_ij (y_i - y_j) [n, c] of weights [n, m], points y_i [n, c] and their partners y_j [m, c]."""
    sums = F.pad(partners, (1, 0), value=1.0).T @ weights.T  # sum_j w_ij, and sum_j w_ij y_j: (1 + c, n)
    return y * sums[:1].T - sums[1:].T


def kl_gradient(attraction, repulsion, negative_entropy, y, exaggeration=1.0, want_kl=True, pool=None):
    """dKL / dy [n, c] in a map y [n, c] (eq. 5), with the attraction multiplied by the exaggeration, and the
    KL divergence in nats, or None if it is not wanted. It is that of P without exaggeration:
    sum_ij p_ij log p_ij (the negative entropy) + sum_ij p_ij log(1 + |y_i - y_j|^2) + log Z.

    attraction(y, want_kl) and repulsion(y) return what exact_attraction and exact_repulsion do. With a pool
    of threads, they are computed at the same time.
    """
    pending = pool.submit(repulsion, y) if pool else None
    attractive, log_term = attraction(y, want_kl)
    repulsive, z = pending.result() if pool else repulsion(y)
    z = z.clamp(min=1e-12)  # 0 by rounding where all points are far apart
    gradient = attractive.mul_(4 * exaggeration).sub_(repulsive.mul_(4 / z))
    kl = (negative_entropy + (log_term + z.log())).item() if want_kl else None
    return gradient, kl


# -----------------------------------------------------------------------------------------------------------
# Sparse affinities, between each point and its 3 * perplexity nearest neighbors only: a Gaussian has little
# mass beyond them (van der Maaten 2014, sec. 4.1). The neighbors are exact, in O(n^2) time, mostly matrix
# products, and O(n) memory


def nearest_neighbors(queries, points, k, first=None, each=map):
    """The indices of the k points [n, d] nearest to each of the queries [m, d], unsorted, and the squared
    distances to them, both [m, k].

    If the queries are themselves points, those from index `first` on, none is its own neighbor.

    The n distances of a query are laid out in 16 rows and n / 16 columns. The k nearest points lie in the k
    columns with the least minima: for a point in any other column, each of these k columns holds a nearer
    one. So only k columns are searched.
    """
    n = len(points)
    n_rows = 16 if 16 * k < n else 1
    width = math.ceil(n / n_rows)
    padding = width * n_rows - n
    block = min(256, 1 + (1 << 24) // (k * points.shape[1]))
    transposed = F.pad(points, (0, 0, 0, padding)).T.contiguous()
    squared_norms = F.pad(points.square().sum(1), (0, padding), value=math.inf)
    row_starts = width * torch.arange(n_rows, device=points.device)
    squares = queries.new_empty(len(queries), k)
    neighbors = torch.empty_like(squares, dtype=torch.long)

    @functools.cache  # every block of a thread uses the same memory: new memory is slow
    def buffer(thread):
        return points.new_empty(block, width * n_rows)

    def search(start):
        """Fills in a block of rows, and returns whether lost digits may have changed its neighbors."""
        batch = queries[start : start + block]
        # |p|^2 - 2qp, which orders the points as their distance does
        scores = buffer(threading.get_ident())[: len(batch)]
        torch.addmm(squared_norms, batch, transposed, alpha=-2, out=scores)
        if first is not None:
            scores.diagonal(first + start).fill_(math.inf)
        columns = scores.view(-1, n_rows, width).amin(1).topk(k, largest=False, sorted=False).indices
        candidates = (columns[:, :, None] + row_starts).flatten(1)  # (block, k * n_rows)
        nearest = scores.gather(1, candidates).topk(k, largest=False, sorted=False).indices
        nearest = candidates.gather(1, nearest)
        # the scores have lost digits, so the distances are computed again from differences
        exact = (batch[:, None] - points[nearest]).square_().sum(2)
        neighbors[start : start + block] = nearest
        squares[start : start + block] = exact
        rounding = torch.finfo(batch.dtype).eps * batch.square().sum(1)
        return batch.dtype == torch.float32 and bool((rounding > 1e-4 * exact.amax(1)).any())

    if any(each(search, range(0, len(queries), block))):
        return nearest_neighbors(queries.double(), points.double(), k, first, each)
    return neighbors, squares


def symmetrize(neighbors, p, block=4096, each=map):
    """p_ij = (p_j|i + p_i|j) / 2n of neighbors [n, k] and p_j|i [n, k]: row, column and value [pairs] of
    every pair that is not 0, sorted by row.

    It takes a block of rows at a time, since to sort all pairs at once would need the most memory of all.
    """
    n, k = neighbors.shape
    targets = neighbors.flatten()
    p = p.flatten()

    def rows_from(start):
        # row i of this block collects p_j|i where j is a neighbor of i, and p_i|j where i is one of j
        outgoing = torch.arange(start * k, min(n, start + block) * k, device=p.device)
        incoming = ((targets >= start) & (targets < start + block)).nonzero()[:, 0]
        key_outgoing = outgoing // k * n + targets[outgoing]  # i * n + j
        key_incoming = targets[incoming] * n + incoming // k
        key, pair = torch.cat([key_outgoing, key_incoming]).unique(return_inverse=True)
        terms = p[torch.cat([outgoing, incoming])]
        value = p.new_zeros(len(key)).index_add_(0, pair, terms)
        return (key // n).int(), (key % n).int(), value.div_(2 * n)

    parts = each(rows_from, range(0, n, block))
    return tuple(torch.cat(part) for part in zip(*parts, strict=True))


def padded_blocks(group, n_groups, max_entries):
    """Arranges the members of many groups in a few rectangles, a row for each group, so that one tensor
    operation can treat many groups (the sliced ELLPACK format of Monakov et al. 2010).

    group [members] is the group of each member, sorted. Yields for each rectangle, of up to max_entries
    places: groups [rows] of about the same size; the index of their members [rows, width]; and a mask
    [rows, width], False at the places that pad a shorter row.
    """
    count = torch.bincount(group, minlength=n_groups)
    first = count.cumsum(0) - count
    by_count = count.argsort(descending=True)
    widths = count[by_count].tolist()
    start = 0
    while start < n_groups and widths[start] > 0:
        width = widths[start]
        groups = by_count[start : start + max(1, max_entries // width)]
        step = torch.arange(width, device=group.device)
        members = (first[groups, None] + step).clamp_(max=len(group) - 1)
        yield groups, members, step < count[groups, None]
        start += len(groups)


class SparseAttraction:
    """exact_attraction for maps [n, 2] and sparse affinities: row, column, p [pairs], sorted by row.

    The rectangles [neighbors, points] fit the processor's cache and are padded with p = 0. Within them, the
    points are in order of their numbers of neighbors, so that those of a rectangle are a slice.
    """

    def __init__(self, row, column, p, n, each=map):
        self.each = each
        self.order = torch.bincount(row, minlength=n).argsort(descending=True)
        self.place = self.order.argsort()
        self.rectangles = []
        start = 0
        for rows, pairs, is_pair in padded_blocks(row, n, 1 << 17):
            partners = torch.where(is_pair, column[pairs], rows[:, None])
            partners = self.place[partners].int().T.contiguous()
            weights = torch.where(is_pair, p[pairs], 0).T.contiguous()
            self.rectangles.append((slice(start, start + len(rows)), partners, weights))
            start += len(rows)

    def __call__(self, y, want_kl=True):
        y = y[self.order].T.contiguous()  # (2, n)
        attraction = torch.zeros_like(y)

        def attract(first):
            """Fills in every eighth slice; returns the sum of their log terms."""
            log_term = 0.0
            for points, partners, p in self.rectangles[first::8]:
                difference = y.new_empty(2, *p.shape)
                for coordinate, partner in zip(y, difference, strict=True):
                    torch.index_select(coordinate, 0, partners.view(-1), out=partner.view(-1))
                torch.sub(y[:, None, points], difference, out=difference)  # y_i - y_j
                denominator = difference[0].square().addcmul_(difference[1], difference[1]).add_(1)
                if want_kl:
                    log_term += (p * denominator.log()).sum(dtype=torch.float64)
                weight = torch.div(p, denominator, out=denominator)
                torch.sum(difference.mul_(weight), 1, out=attraction[:, points])
            return log_term

        log_term = sum(self.each(attract, range(min(8, len(self.rectangles)))))
        return attraction[:, self.place].T.contiguous(), log_term


# -----------------------------------------------------------------------------------------------------------
# Barnes-Hut: points that are far away repel together, as the cells of a quadtree, in O(n log n) (van der
# Maaten 2014, sec. 4.2). A cell of some size at distance d counts as one point at its center of mass if
# size / d < angle; if not, its children are examined, and in the end its points. With angle 0 it is exact

MAX_LEVEL = 30  # of a tree: the bits of two coordinates fit the 64 of a Morton code


def morton_order(y):
    """Sorts points [n, 2] along the Morton curve, on which every cell of a quadtree is an interval.

    Returns their codes in that order [n], of which the first 2l bits name a point's cell at level l; the
    index of each in y [n]; and the width of the root cell.
    """
    low = y.amin(0).double()
    extent = (y - low).max().item() * (1 + 1e-6) + 1e-30
    code = ((y - low) / extent * 2**MAX_LEVEL).long()
    # to interleave the bits of x and y, a 0 is put between any two bits of each coordinate
    for shift in (16, 8, 4, 2, 1):
        # the upper half of every 2 * shift bits moves up; the mask is 1 at the `shift` lowest of them
        mask = sum((1 << shift) - 1 << place for place in range(0, 64, 2 * shift))
        code = (code | code << shift) & mask
    code, order = (code[:, 0] | code[:, 1] << 1).sort()
    return code, order, extent


def split_cells(code, start, end, level, n_bodies):
    """The next level of the quadtree, below cells that hold the points start to end of the sorted codes.

    The children of a cell are its filled quadrants or, if it holds up to 8 points, the points. Returns start
    and end of the quadrants, which are numbered from n_bodies on; and, for each cell, the number of its
    first child, and how many it has.
    """
    mass = end - start
    is_split = mass > 8
    # the leading bits of a code name its cell, and two more bits one of its four quadrants, 0 to 3; a binary
    # search finds where in the sorted codes each quadrant begins
    bits_below = 2 * (MAX_LEVEL - level - 1)
    cell_name = code[start[is_split], None] >> bits_below + 2
    quadrant_names = cell_name * 4 + torch.arange(5, device=code.device)
    borders = torch.searchsorted(code >> bits_below, quadrant_names)  # (split cells, 5)
    lower = borders[:, :-1]
    upper = borders[:, 1:]
    is_filled = upper > lower
    n_quadrants = is_filled.sum(1)
    first_quadrant = n_bodies + n_quadrants.cumsum(0) - n_quadrants
    first_child = start.masked_scatter(is_split, first_quadrant)
    n_children = mass.masked_scatter(is_split, n_quadrants)
    return lower[is_filled], upper[is_filled], first_child, n_children


def interaction_list(code, points, extent, targets, angle):
    """Which bodies repel the points in each tile of targets [tiles, points, 2]. A body is one of the points
    [n, 2], which are in Morton order, or a cell of the quadtree over them.

    Returns a tile and a body for each interaction, [pairs], sorted by tile; and the bodies, [3, bodies]: x
    and y of the center of mass, and the number of points. The distance of a cell is that of its center of
    mass from the box around a tile, which is at most that from any point in it.
    """
    n = len(points)
    low = targets.amin(1)
    high = targets.amax(1)
    sums = F.pad(points.double().cumsum(0), (0, 0, 1, 0))
    bodies = [F.pad(points, (0, 1), value=1.0)]
    n_bodies = n
    start = code.new_zeros(1)  # a cell holds the points start to end; level 0 is the root
    end = code.new_full((1,), n)
    tile = torch.arange(len(targets), device=code.device)
    body = torch.full_like(tile, n)  # every tile begins at the root
    far_tiles = []
    far_bodies = []
    for level in range(MAX_LEVEL + 1):
        mass = (end - start)[:, None]
        center = (sums[end] - sums[start]) / mass
        bodies.append(torch.cat([center, mass], 1).to(points.dtype))
        # the points of a cell of the last level coincide, so it is one body whatever the angle
        size = points.new_tensor(extent / 2**level if level < MAX_LEVEL else 0.0)
        is_far = body < n  # a point has no children
        cell_tile = tile[~is_far]
        center = bodies[-1][body[~is_far] - n_bodies, :2]
        below = low.index_select(0, cell_tile) - center
        above = center - high.index_select(0, cell_tile)
        outside = torch.maximum(below, above).clamp_(min=0)
        is_far.masked_scatter_(~is_far, size <= angle * outside.square().sum(1).sqrt())
        far_tiles.append(tile[is_far].int())
        far_bodies.append(body[is_far])
        if is_far.all():
            break
        # all others are replaced by their children
        cell = body[~is_far] - n_bodies
        n_bodies += len(start)
        start, end, first_child, n_children = split_cells(code, start, end, level, n_bodies)
        count = n_children[cell]
        shift = first_child[cell] - (count.cumsum(0) - count)
        tile = tile[~is_far].repeat_interleave(count)
        body = shift.repeat_interleave(count)
        body += torch.arange(len(body), device=body.device)
    tile, order = torch.cat(far_tiles).sort()
    return tile, torch.cat(far_bodies)[order], torch.cat(bodies).T.contiguous()


def barnes_hut_repulsion(y, angle=0.5, tile_size=32, each=map):
    """exact_repulsion for maps [n, 2], by a quadtree. Points that follow each other on the Morton curve form
    a tile, whose points share one interaction list."""
    n = len(y)
    code, order, extent = morton_order(y)
    points = y[order]
    # the last tile is filled up with points that come before it
    fill = torch.arange(-n % tile_size, device=y.device) + n - tile_size
    targets = torch.cat([points, points[fill.clamp_(min=0)]]).view(-1, tile_size, 2)
    repulsion = torch.empty_like(targets)
    potential = torch.empty_like(targets[..., 0])  # sum_j k_ij
    tile, body, bodies = interaction_list(code, points, extent, targets, angle)

    def repel(rectangle):
        tiles, pairs, is_pair = rectangle
        sources = body.take(pairs)  # (tiles, width)
        x_source, y_source, mass = (values.take(sources) for values in bodies)
        mass = mass * is_pair
        # relative to the middle of the tile, coordinates are small and lose no digits
        middle = targets[tiles].median(1).values
        x_source = x_source - middle[:, :1]
        y_source = y_source - middle[:, 1:]
        target = targets[tiles] - middle[:, None]
        dx = target[..., :1] - x_source[:, None]  # (tiles, tile_size, width)
        dy = target[..., 1:] - y_source[:, None]
        kernel = dx.square_().addcmul_(dy, dy).add_(1).reciprocal_()
        potential[tiles] = (mass[:, None] @ kernel.mT)[:, 0]
        weights = torch.stack([mass, mass * x_source, mass * y_source], 1)
        sums = weights @ kernel.square_().mT  # (tiles, 3, tile_size)
        repulsion[tiles] = target * sums[:, :1].mT - sums[:, 1:].mT

    list(each(repel, padded_blocks(tile, len(targets), (1 << 18) // tile_size)))
    in_order_of_y = torch.empty_like(y)
    in_order_of_y[order] = repulsion.view(-1, 2)[:n]
    return in_order_of_y, potential.flatten()[:n].sum(dtype=torch.float64) - n


# -----------------------------------------------------------------------------------------------------------
# FFT: the repulsion as a convolution on a mesh, in O(n + m log m) for m nodes (after Linderman et al. 2019,
# who take two kernels and four charges). One potential is enough, phi(y) = sum_j 1 / (1 + |y - y_j|^2): the
# repulsion of y_i is -grad phi(y_i) / 2, and Z = sum_i phi(y_i) - n. Cubic B-splines distribute each point
# over the nodes around it, and interpolate phi and its gradient between the nodes (Essmann et al. 1995)

# A cubic B-spline at t in [0, 1) between the second and the third of four nodes: the weight of each node and
# then the derivative of each weight, as the coefficients of 1, t, t^2 and t^3
WEIGHTS = [[1, -3, 3, -1], [4, 0, -6, 3], [1, 3, 3, -3], [0, 0, 0, 1]]
DERIVATIVES = [[-3, 6, -3, 0], [0, -12, 9, 0], [3, 6, -9, 0], [0, 0, 3, 0]]
SPLINE = torch.tensor(WEIGHTS + DERIVATIVES) / 6


def round_up_by_6_percent(value):
    """The next power of 1.06, so that a map that grows slowly keeps its mesh for many iterations."""
    return 1.06 ** math.ceil(math.log(value, 1.06))


def fast_fft_size(size):
    """The first whole number from `size` on of the form 2^a 3^b 5^c, which FFTs handle fast."""
    size = math.ceil(size)
    while 60**size % size:  # size divides a power of 60 only if it has no prime factor but 2, 3 and 5
        size += 1
    return size


@functools.lru_cache(maxsize=1)  # a map keeps its mesh for many iterations
def kernel_transform(size, h, offset, dtype, device):
    """The real FFT of 1 / (1 + r^2) - offset on a periodic mesh of spacing h, divided by the square of the
    spline's FFT, which undoes the smoothing by the spline, onto the nodes and from them."""
    step_x, step_y = (torch.arange(length, device=device, dtype=dtype) for length in size)
    x = torch.minimum(step_x, size[0] - step_x).mul_(h).square_()
    y = torch.minimum(step_y, size[1] - step_y).mul_(h).square_()
    square = x[:, None] + y
    kernel = (1 - offset - offset * square) / (1 + square)
    spline_x = (2 + (2 * math.pi / size[0] * step_x).cos()) / 3
    spline_y = (2 + (2 * math.pi / size[1] * step_y).cos()) / 3
    return torch.fft.rfft2(kernel) / (spline_x[:, None] * spline_y[: size[1] // 2 + 1]).square_()


def mesh_repulsion(y, spacing=0.35):
    """exact_repulsion for maps [n, 2], by a mesh whose nodes are `spacing` apart, or less in a small map.

    For few points the sum over all pairs is faster, and in a map with a far outlier, whose mesh would be
    large, the tree: then these are used instead.
    """
    n = len(y)
    if n < EXACT_IS_FASTEST:
        return exact_repulsion(y)
    points = y.T.contiguous()
    low, high = points.aminmax(dim=1, keepdim=True)
    extent = (high - low).flatten().tolist()
    h = min(spacing, round_up_by_6_percent(max(extent) / 32 + 1e-30))
    if max(extent) >= h * (256 + 8 * math.isqrt(n)):
        return barnes_hut_repulsion(y)
    n_nodes = [math.ceil(round_up_by_6_percent(length / h + 4)) for length in extent]
    # an FFT is periodic, as if copies of the map lay around it: the gap between them is as wide as the
    # map, or 32, a distance at which the kernel is weak enough to be ignored
    size = tuple(fast_fft_size(min(2 * m, m + 32 / h)) for m in n_nodes)
    # in a small map the kernel is near 1 everywhere, and float32 keeps more digits of kernel - 1; that
    # takes n from the potential of each point, which is added to Z below
    offset = 1.0 if max(extent) < 1 else 0.0
    transform = kernel_transform(size, h, offset, y.dtype, y.device)

    place = (points - low) / h
    cell = place.floor()
    t = place.sub_(cell).flatten()
    powers = torch.stack([torch.ones_like(t), t, t * t, t * t * t])
    weights, derivatives = (SPLINE.to(t) @ powers).view(2, 4, 2, n)
    wx, wy = weights.transpose(0, 1)  # (4, n) each
    dx, dy = derivatives.transpose(0, 1)
    step = torch.arange(4, device=y.device)
    cell = cell.long()
    node = (cell[0] + step[:, None, None]) * size[1] + cell[1] + step[:, None]  # (4, 4, n)
    charge = y.new_zeros(n_nodes[0], size[1])
    charge.view(-1).index_add_(0, node.flatten(), (wx[:, None] * wy).flatten())
    # one axis after the other, since most of the padded mesh is empty or not needed
    spectrum = torch.fft.fft(torch.fft.rfft(charge), n=size[0], dim=0).mul_(transform)
    phi = torch.fft.irfft(torch.fft.ifft(spectrum, dim=0)[: len(charge)], n=size[1]).take(node)
    phi_x = (phi * wy).sum(1)  # interpolated along y at each of four x: (4, n)
    slope_y = (phi * dy).sum(1)
    potential = (phi_x * wx).sum(0)
    gradient = torch.stack([(phi_x * dx).sum(0), (slope_y * wx).sum(0)], 1)
    z = potential.sum(dtype=torch.float64) + (offset * n - 1) * n
    return gradient.div_(-2 * h), z


# -----------------------------------------------------------------------------------------------------------
# The class, with scikit-learn's interface


def as_points(X, name="X"):
    """Real numbers [n, d] of any type as a tensor: float32, or float64 where float32 would lose digits.

    A tensor stays on its device, unless that is a Mac's GPU ("mps"): it has no float64, the CPU has.
    """
    if isinstance(X, torch.Tensor):
        is_plain = X.layout == torch.strided and not (X.is_meta or X.is_nested or X.is_complex())
        require(is_plain, f"{name} is sparse, nested, meta or complex: give a dense tensor of real numbers")
        x = X.detach().cpu() if X.device.type == "mps" else X.detach()
        fits_float32 = x.element_size() < 4 or x.dtype == torch.float32
        x = x.to(torch.float32 if fits_float32 else torch.float64)
    else:
        require(not np.ma.is_masked(X), f"{name} has masked values: remove or replace them")
        try:
            X = np.asarray(X)
        except (TypeError, ValueError, RuntimeError) as error:  # a list of rows of many lengths
            raise TSNEError(f"{name} is no array: {str(error).splitlines()[0]}") from None
        advice = "give an array of real numbers (X.toarray() of a sparse matrix X)"
        require(X.dtype.kind in "fiub", f"{name} holds {X.dtype}: {advice}")
        fits_float32 = X.dtype.itemsize < 4 or X.dtype == np.float32
        x = torch.from_numpy(np.array(X, np.float32 if fits_float32 else np.float64, order="C"))
    require(x.ndim == 2 and x.shape[1] > 0, f"{name} has shape {list(x.shape)}: give [points, features]")
    require(x.isfinite().all(), f"{name} holds NaN or infinite values: remove or replace them")
    return x


def in_short(value):
    """A value of any type in one line, for an error message."""
    return " ".join(repr(value).split())[:60]


def principal_axes(x, n_components):
    """The directions [d, n_components], or as many as there are, in which centered points x [n, d] vary
    most. The largest entry of each is positive, so that all runs agree on the sign."""
    with torch.random.fork_rng():
        torch.manual_seed(0)  # of the random subspace that is iterated, so that no [d, d] matrix is needed
        axes = torch.pca_lowrank(x, min(n_components + 8, *x.shape), center=False, niter=10)[2]
    axes = axes[:, :n_components]
    largest = axes.abs().argmax(0, keepdim=True)
    return axes * axes.gather(0, largest).sign()


def pca(x, n_components):
    """The principal components [n, n_components] of x [n, d]; those beyond the rank are 0."""
    x = x - x.mean(0)
    scores = x @ principal_axes(x, n_components)
    return F.pad(scores, (0, n_components - scores.shape[1]))


@dataclass(eq=False)
class TSNE:
    """A map of points by t-SNE, with the parameter names and the interface of scikit-learn.

    n_components     dimensions of the map; other than 2 only with the exact method, for up to 10,000 points
    perplexity       the effective number of neighbors of a point, less than the number of points
    early_exaggeration  factor of the attraction at first. SCHEDULE says how it fades to 1
    learning_rate    step size, for the gradient with its factor 4. "auto" is n / 4, divided by the
                     exaggeration (Belkina et al. 2019), times the factor of the step in SCHEDULE
    max_iter         iterations in all; with 1,000, the KL divergence of 2,000 digits is .01 lower
    n_iter_without_progress  stop if the KL divergence has not fallen for more iterations than this; it is
                     computed every 50 iterations, and does not stop the early exaggeration
    min_grad_norm    end a row of SCHEDULE if the norm of the gradient, computed every 50 iterations, is at
                     most this
    metric           "euclidean", "cosine", or "precomputed": then X is a matrix of distances [n, n]
    init             "pca", "random", or the map to start from, [n, n_components]
    verbose          1 prints the KL divergence every 50 iterations
    random_state     the seed, or a numpy RandomState that draws it; None takes a new one each time
    method           "exact", "barnes_hut", "fft", or "auto", the fastest
    angle            of barnes_hut: a smaller one is slower and more accurate

    fit() sets embedding_ [n, n_components], float32, an array or a tensor as X is; kl_divergence_ in nats,
    as the method approximates it; n_iter_; and learning_rate_, its value in the last iterations. Wrong input
    raises TSNEError, a ValueError.
    """

    n_components: int = 2
    _: KW_ONLY
    perplexity: float = 30.0
    early_exaggeration: float = 12.0
    learning_rate: float | str = "auto"
    max_iter: int = 250
    n_iter_without_progress: int = 300
    min_grad_norm: float = 1e-7
    metric: str = "euclidean"
    init: str | np.ndarray | torch.Tensor = "pca"
    verbose: int = 0
    random_state: int | np.random.RandomState | None = 0
    method: str = "auto"
    angle: float = 0.5
    _map = None  # the tensor that fit leaves for transform

    def get_params(self, deep=True):
        return {field.name: vars(self)[field.name] for field in fields(TSNE)}

    def set_params(self, **params):
        unknown = ", ".join(params.keys() - self.get_params().keys())
        require(not unknown, f"no parameter {unknown}: there are {', '.join(self.get_params())}")
        for name, value in params.items():
            setattr(self, name, value)
        return self

    def __sklearn_tags__(self):
        """What a Pipeline of scikit-learn asks for, which is there then."""
        from sklearn.base import BaseEstimator

        return BaseEstimator.__sklearn_tags__(self)

    def fit_transform(self, X, y=None):
        """The map [n, n_components] of points X [n, d]; y is ignored."""
        return self.fit(X).embedding_

    def fit(self, X, y=None):
        x = as_points(X)
        n = len(x)
        require(n > 1, f"X has {n} points: a map takes two or more")
        self._check_parameters(n)
        is_table = self.metric != "precomputed" or x.shape == (n, n)
        require(is_table, f"X has shape {list(x.shape)}: precomputed takes distances [n, n]")
        # the center is the median of some points: one far outlier does not move it, and so leaves the others
        # their digits
        self._center = x[:: 1 + n // 1000].median(0).values
        offsets = x if self.metric == "precomputed" else x - self._center
        self._scale = offsets.abs().max().item() or 1.0
        require(math.isfinite(self._scale), "X holds numbers too far apart for their type: scale it")
        del offsets
        with thread_pool() as pool:
            embedding = self._initial_map(x)
            gradient_at = self._kl_gradient(x, pool)
            self._descend(embedding, gradient_at)
            _, self.kl_divergence_ = gradient_at(embedding)
        self._map = embedding
        self.embedding_ = embedding.to(X.device) if isinstance(X, torch.Tensor) else embedding.numpy()
        return self

    def transform(self, X_new):
        """Places [m, n_components] in the map for new points [m, d], or for their distances [m, n] from the
        training points if the metric is "precomputed". The map itself does not change.

        Each new point has affinities p_j to its 30 nearest training points, or to all of fewer, at a
        perplexity of a third of their number. Iterated weighted means find its place y, a minimum of
        sum_j p_j log(1 + |y - y_j|^2), where their attractions cancel.
        """
        require(self._map is not None, "there is no map yet: call fit first")
        x = as_points(X_new, "X_new").to(self._map.device)
        width = len(self._map) if self.metric == "precomputed" else self._points.shape[1]
        require(x.shape[1] == width, f"X_new has shape {list(x.shape)}: give [points, {width}]")
        x = self._scaled(x, "X_new")
        is_near = (x.abs() < LARGEST).all()
        require(is_near, f"X_new lies {LARGEST:g} times as far out as the points of the map")
        k = min(len(self._map), 30)
        neighbors, squares = self._neighbors(x, k)
        p = conditional_affinities(squares, k / 3).to(self._map.dtype)[:, :, None]
        partners = self._map[neighbors]  # (m, k, n_components)
        places = (p * partners).sum(1, keepdim=True)
        for _ in range(50):
            weights = p / (1 + (places - partners).square().sum(2, keepdim=True))
            places = (weights * partners).sum(1, keepdim=True) / weights.sum(1, keepdim=True)
        places = places[:, 0]
        return places.to(X_new.device) if isinstance(X_new, torch.Tensor) else places.cpu().numpy()

    def _check_parameters(self, n):
        check = self._check_number
        check("n_components", Integral, 1, EXACT_LIMIT, f"a whole number from 1 to {EXACT_LIMIT:,}")
        check("perplexity", Real, 1, math.nextafter(n, 0), f"1 or more, but less than the {n} points")
        check("early_exaggeration", Real, 1, LARGEST, f"1 to {LARGEST:g}")
        if not (isinstance(self.learning_rate, str) and self.learning_rate == "auto"):
            check("learning_rate", Real, 1e-300, LARGEST, f"auto, or more than 0, up to {LARGEST:g}")
        check("max_iter", Integral, 1, math.inf, "a whole number from 1")
        check("n_iter_without_progress", Real, -math.inf, math.inf, "a number of iterations")
        check("min_grad_norm", Real, -math.inf, math.inf, "a number")
        check("verbose", Real, 0, math.inf, "0 or 1")
        if self.random_state is not None and not isinstance(self.random_state, np.random.RandomState):
            check("random_state", Integral, 0, 2**64 - 1, "a whole number from 0, a RandomState or None")
        check("angle", Real, 0, 1, "0 to 1")
        for name, choices in (("metric", METRICS), ("method", METHODS)):
            value = vars(self)[name]
            is_choice = isinstance(value, str) and value in choices
            require(is_choice, f"{name} {in_short(value)}: give {' or '.join(choices)}")

        limit = f"for up to {EXACT_LIMIT:,} points"
        require(self.method != "exact" or n <= EXACT_LIMIT, f"method 'exact': give another; this is {limit}")
        c = self.n_components
        is_exact = self.method in ("auto", "exact") and n <= EXACT_LIMIT
        require(c == 2 or is_exact, f"n_components {c}: give 2; more are for 'exact', {limit}")
        if isinstance(self.init, str):
            # distances have no PCA
            choices = ["random"] if self.metric == "precomputed" else ["pca", "random"]
            wanted = " or ".join([*choices, "a map"])
            require(self.init in choices, f"init {in_short(self.init)}: give {wanted}")

    def _check_number(self, name, kind, low, high, wanted):
        value = vars(self)[name]
        value = value.item() if isinstance(value, np.generic) else value
        fits = isinstance(value, kind) and low <= value <= high
        require(fits, f"{name} {in_short(value)}: give {wanted}")

    def _initial_map(self, x):
        """The map to start from, float32 [n, n_components]. The first axis of one by PCA has a standard
        deviation of 1e-4."""
        random = torch.Generator()
        seed = self.random_state
        if isinstance(seed, np.random.RandomState):
            seed = seed.randint(2**31)
        if seed is None:
            random.seed()
        else:
            random.manual_seed(int(seed))
        noise = torch.randn(len(x), int(self.n_components), generator=random).to(x.device)
        if not isinstance(self.init, str):
            y = as_points(self.init, "init").to(x.device, torch.float32, copy=True)
            require(y.shape == noise.shape, f"init has shape {list(y.shape)}: give {list(noise.shape)}")
            require(y.abs().max().item() < LARGEST, f"init reaches {LARGEST:g}: scale it")
            return y
        if self.init == "random":
            return 1e-4 * noise
        y = pca((x - self._center) / self._scale, noise.shape[1])
        y = y / y[:, 0].std().clamp(min=1e-30) * 1e-4
        return y.float() + 1e-6 * noise  # without noise equal points, or points on a line, would stay so

    def _scaled(self, x, name):
        """Points [m, d] or distances [m, n] in the range of float32, as the neighbors are searched."""
        if self.metric == "precomputed":
            require((x >= 0).all(), f"{name} holds numbers below 0: precomputed takes distances")
            return x / self._scale
        if self.metric == "cosine":
            require(x.any(1).all(), f"{name} has a point at 0, which has no direction for metric='cosine'")
            return F.normalize(x / x.abs().amax(1, keepdim=True)).float()
        return ((x - self._center) / self._scale).float()

    def _neighbors(self, x, k, first=None, each=map):
        """nearest_neighbors of x [m, d] among the training points, in the chosen metric."""
        if self.metric == "precomputed":
            if first is not None:
                x.fill_diagonal_(math.inf)
            distances, neighbors = x.topk(k, largest=False)
            return neighbors, distances.square()
        neighbors, squares = nearest_neighbors(x, self._points, k, first, each)
        if self.metric == "cosine":
            squares = (squares / 2).square()  # of the distance 1 - cos, which is |x - x'|^2 / 2
        return neighbors, squares

    def _kl_gradient(self, x, pool):
        """kl_gradient for training points x [n, d] by the chosen method, a function of the map."""
        n = len(x)
        perplexity = float(self.perplexity)
        method = self.method
        if method == "auto":
            method = "exact" if n < EXACT_IS_FASTEST or self.n_components != 2 else "fft"
        k = n - 1 if method == "exact" else min(n - 1, int(3 * perplexity))
        points = self._scaled(x, "X")
        if self.metric != "precomputed":
            self._points = points
        neighbors, squares = self._neighbors(points, k, 0, pool.map)
        p = conditional_affinities(squares.float(), perplexity)
        del points, squares  # and neighbors below: memory that the largest allocations need
        if method == "exact":
            p = joint_affinities(neighbors, p)
            attraction = functools.partial(exact_attraction, p)
            repulsion = exact_repulsion
        else:
            row, column, p = symmetrize(neighbors, p, each=pool.map)
            del neighbors
            attraction = SparseAttraction(row, column, p, n, pool.map)
            if method == "barnes_hut":
                angle = float(self.angle)
                repulsion = functools.partial(barnes_hut_repulsion, angle=angle, each=pool.map)
                pool = None  # the tree shares out its own work
            else:
                spacing = 0.3 if n < 20_000 else 0.35  # a finer mesh costs little where points are few
                repulsion = functools.partial(mesh_repulsion, spacing=spacing)
        negative_entropy = torch.special.xlogy(p, p).sum(dtype=torch.float64)
        return functools.partial(kl_gradient, attraction, repulsion, negative_entropy, pool=pool)

    def _descend(self, y, gradient_at):
        """Moves the map y [n, c], in place: gradient descent with momentum, and with a gain for each
        coordinate that grows while its gradient keeps its sign (Jacobs 1988)."""
        self.n_iter_ = 0
        for end, power, momentum, factor in SCHEDULE:
            exaggeration = float(self.early_exaggeration) ** power
            # n / exaggeration (Belkina et al. 2019), whose gradient lacks the factor 4
            auto_rate = factor * len(y) / 4 / exaggeration
            self.learning_rate_ = auto_rate if self.learning_rate == "auto" else float(self.learning_rate)
            velocity = torch.zeros_like(y)
            gain = torch.ones_like(y)
            best_kl = math.inf
            best_iteration = self.n_iter_
            while self.n_iter_ < round(end * self.max_iter):
                self.n_iter_ += 1
                is_check = self.n_iter_ % 50 == 0
                gradient, kl = gradient_at(y, exaggeration, is_check)
                gain = torch.where(velocity * gradient < 0, gain + 0.2, gain * 0.8).clamp_(min=0.01)
                gradient.mul_(gain)
                velocity.mul_(momentum).sub_(gradient, alpha=self.learning_rate_)
                # the bound on the step keeps the map together at any learning rate
                y += velocity.clamp_(-5, 5)
                if not is_check:
                    continue
                norm = gradient.norm().item()  # with the gains, as scikit-learn computes it
                if self.verbose:
                    print(f"iteration {self.n_iter_}   KL {kl:.4f}   gradient norm {norm:.2e}", flush=True)
                if norm <= self.min_grad_norm:
                    break
                if kl < best_kl:
                    best_kl = kl
                    best_iteration = self.n_iter_
                elif power == 0 and self.n_iter_ - best_iteration > self.n_iter_without_progress:
                    return


# -----------------------------------------------------------------------------------------------------------
# Command line. Our other files are imported by flags, main, command and open_source only: all else here
# works without them

TEMPLATE = Path(__file__).resolve().parent / "docs" / "map-template.html"
# Okabe and Ito's colors and two more, as different as possible for color-blind readers; the 11th class has
# the first color again
COLORS = ["#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#F0E442"]
COLORS += ["#8A2BE2", "#692D0F"]


def flags():
    from data import SPLITS, Parser, number

    parser = Parser(prog="tsne.py", description=__doc__)
    add = parser.add_argument
    add("source", metavar="SOURCE", help="a run, .npy or .npz of shape [n, ...], image folder or data set")
    what = "of a run: latents, the refined or test latents of an auto-decoder, or the pixels of its data"
    add("--what", choices=("latents", "refined", "test", "pixels"), help=what)
    add("--split", choices=(*SPLITS, "all"), help="(test of runs, train of auto-decoders, else all)")
    add("--train-and-test", action="store_true", help="map train, then place test points in that map")
    add("--labels", metavar="Y.npy", help="of an array: a whole number or a string for each point")
    add("-n", type=number(int, 2), help="at most this many random points (of train and of test each)")
    add("--pca", type=number(int, 0), default=50, help="dimensions after PCA, before t-SNE (50; 0: no PCA)")
    add("--perplexity", type=number(float, 1), default=30, help="effective number of neighbors (30)")
    add("--method", choices=METHODS, default="auto", help="(auto: the fastest that is accurate enough)")
    add("--angle", type=number(float, 0, 1), default=0.5, help="of barnes_hut; smaller is more exact (0.5)")
    add("--metric", choices=METRICS[:2], default="euclidean", help="(euclidean); cosine is without PCA")
    add("--max-iter", type=number(int, 1), default=250, help="iterations (250)")
    add("--seed", type=number(int, 0, 2**31), default=0, help="of -n and of t-SNE (0)")
    add("--device", default="auto", help="auto (default), cpu, cuda, cuda:1, mps")
    add("--html", action="store_true", help="also write a page to zoom into, with pictures")
    add("--out", metavar="FILE.png", help="(tsne.png in the run or here); .npz and .html go beside it")
    add("--image-size", type=number(int, 1), help="crop and resize the pictures of a folder to this side")
    add("--data-dir", metavar="DIR", help="where the whole data sets are")
    return parser


def main(argv=None):
    """Runs the command line; returns its exit status."""
    import data
    import models

    return data.run_command("tsne.py", command, argv, TSNEError, models.ModelError)


def command(argv):
    import data

    args = flags().parse_args(argv)
    args.device = data.pick_device(args.device)
    if args.device.type == "mps":  # a Mac's GPU has no float64, which t-SNE needs
        args.device = torch.device("cpu")
    require(not (args.train_and_test and args.split), "--train-and-test takes both: leave --split out")
    source, inputs = open_source(args)
    paths = output_paths(args, [*inputs, TEMPLATE, data.BUILT_IN])
    template = TEMPLATE.read_text(encoding="utf-8") if args.html else None
    if args.angle != 0.5 and args.method != "barnes_hut":
        data.note(f"--angle does nothing with --method {args.method}")
    if args.pca != 50 and args.metric == "cosine":
        data.note("--pca does nothing with --metric cosine")

    source.name = data.visible(source.name)
    source.classes = [data.visible(name) for name in source.classes]
    try:
        tsne_map = compute_map(select(source, args), args)
    except TSNEError as error:
        raise TSNEError(f"{args.source}: {error}") from None
    settings = json.dumps({name: str(value) for name, value in vars(args).items()})
    data.write_file(paths[1], lambda file: np.savez(file, **as_arrays(tsne_map), settings=settings))
    figure = draw(tsne_map)
    file_format = paths[0].suffix[1:]
    data.write_file(paths[0], lambda file: figure.savefig(file, format=file_format, dpi=120))
    print(tsne_map.title, "; ".join(tsne_map.caption), sep="\n")
    if tsne_map.has_classes:
        for name, accuracy in zip(tsne_map.classes, tsne_map.class_accuracy, strict=True):
            print(f"{accuracy:7.1%}  {name}")
    if args.html:
        thumbnails = tsne_map.pictures
        if thumbnails is not None:
            thumbnails = data.resize(thumbnails, thumbnail_side(thumbnails))
        text = page(template, tsne_map, thumbnails).encode()
        data.write_file(paths[2], lambda file: file.write(text))
    for path in paths:
        print(data.visible(f"{path}"))


def is_run(args):
    return (Path(args.source) / "config.json").exists()


def output_paths(args, inputs):
    """Where the picture, the arrays and the page go, in a folder that exists afterwards. None may be one of
    the input files, or lie in one of the input folders, but for the run's own."""
    name = "tsne.png" if args.what in (None, "latents") else f"tsne-{args.what}.png"
    folder = Path(args.source) if is_run(args) else Path()
    picture = Path(args.out) if args.out else folder / name
    require(picture.suffix in (".png", ".pdf", ".svg"), f"--out {picture}: end it in .png, .pdf or .svg")
    paths = [picture, picture.with_suffix(".npz")]
    if args.html:
        paths.append(picture.with_suffix(".html"))
    for path in paths:
        places = [place for place in (path, *path.resolve().parents) if place.exists()]
        is_in_run = is_run(args) and any(place.samefile(folder) for place in places)
        for source in inputs:
            is_input = source.exists() and any(place.samefile(source) for place in places)
            message = f"{path} is, or lies in, the input {source}: give another --out"
            require(is_in_run or not is_input, message)
    page = picture.with_suffix(".html")
    if args.html and page.exists():
        is_map = "<title>t-SNE map</title>" in page.read_text(encoding="utf-8", errors="replace")[:1000]
        require(is_map, f"{page} is no map of ours and would be replaced: give another --out")
    arrays = paths[1]
    if arrays.exists():
        with arrays.open("rb") as file:
            is_map = b"embedding.npy" in file.read(100)  # where a .npz has the name of its first array
        require(is_map, f"{arrays} holds no map and would be replaced: give another --out")
    picture.parent.mkdir(parents=True, exist_ok=True)
    return paths


# -----------------------------------------------------------------------------------------------------------
# Sources: everything that can be mapped, and the points that the flags select from it


@dataclass
class Source:
    """What the command line maps: points by split, with their labels and pictures."""

    name: str  # "latents of vae-mnist10k", for the title
    classes: list  # class names; [""] without labels
    default_split: str  # a split, or "all"
    splits: dict  # {name: (pictures uint8 [n, C, H, W] or None, class numbers int64 [n])}
    read: Callable  # read(split, rows) returns the points [rows, ...]


def open_source(args):
    """The Source that the flags name, and the paths that it is read from."""
    import data
    import sample

    name = args.source
    path = Path(name)
    is_array = path.suffix in (".npy", ".npz") and path.is_file()
    require(is_run(args) or args.what in (None, "pixels"), f"--what {args.what} is for runs: {name} is none")
    has_own_size = is_array or is_run(args)
    require(not (has_own_size and args.image_size), f"--image-size is not for {name}: leave it out")
    arrays = data.open_arrays(path, ["x", "y", "x_train"]) if is_array else {}
    require("x" in arrays or not args.labels, f"--labels is for arrays x: {name} holds none")
    if is_run(args):
        run = sample.Run(path, args.data_dir)
        run.model.to(args.device)
        inputs = [Path(run.config["flags"]["data"])]
        return run_source(run, args.what or "latents"), inputs

    if args.data_dir and path.exists():
        data.note(f"--data-dir does nothing for {name}")
    if "x" not in arrays:
        # pictures of a data set, of a folder, or of a .npz with x_train as train.py takes it
        return pixel_source(data.load(name, args.data_dir, args.image_size), "all"), [path]
    if args.labels:
        arrays["y"] = data.open_arrays(args.labels, ["x"])["x"]
    x = np.atleast_1d(arrays["x"])
    pictures = None
    if args.html and (x.ndim > 2 or (x.ndim == 2 and x.shape[1] >= 14 * 14)):  # shorter rows are features
        with contextlib.suppress(data.Mistake):  # then they are features, too
            pictures = torch.from_numpy(data.as_pictures(x, path))
    labels_path = Path(args.labels or path)
    return array_source(path.name, x, arrays.get("y"), labels_path, pictures), [path, labels_path]


def pixel_source(dataset, default_split):
    """The pixels of a data set, as points."""
    require(dataset.name != "arithmetic", "arithmetic is queries: only pictures and arrays have a map")
    splits = {"train": dataset.train, "valid": dataset.valid, "test": dataset.test}
    name = f"pixels of {dataset.name}"
    return Source(name, dataset.classes, default_split, splits, lambda split, rows: splits[split].x[rows])


@torch.no_grad()
def run_source(run, what):
    """The latents of a run, a distribution being represented by its mean, or the pixels of its data."""
    model = run.model
    has_latents = model.has_encoder and (what == "latents" or model.has_free_latents)
    message = f"{run.folder} holds a {run.kind}, which has no --what {what}: --what pixels maps its pictures"
    require(what == "pixels" or has_latents, message)
    source = pixel_source(run.dataset, "test")
    if what == "pixels":
        return source
    prefix = "refined latents" if what == "refined" else "latents"
    source.name = f"{prefix} of {run.folder.resolve().name}"

    def encode(split, rows):
        batches = (run.batch(split, batch_rows) for batch_rows in rows.split(500))
        return torch.cat([model.encode(x.to(model.device), y.to(model.device)) for x, y in batches])

    if not model.has_free_latents:
        source.read = encode
        return source

    tables = {"train": model.latents.weight, "test": model.test_latents}
    if what == "refined":
        tables["train"] = model.refined
    if what == "test":
        del tables["train"]
    # a table holds NaN until its latents are learned
    tables = {split: table for split, table in tables.items() if not table.isnan().any()}
    means = {split: model.distribution.from_params(table).mean for split, table in tables.items()}
    source.splits = {split: source.splits[split] for split in means}
    source.default_split = "test" if what == "test" else "train"
    source.read = lambda split, rows: means[split][rows.to(model.device)]
    return source


def array_source(name, x, y, labels_path, pictures):
    """Points x [n, ...] and, unless y is None, their labels y [n]. The only split is called "row"."""
    y = np.full(len(x), "") if y is None else y
    fits = y.shape == x.shape[:1] and y.dtype.kind in "iubU"
    problem = f"{labels_path} has labels of shape {list(y.shape)}, {y.dtype}"
    require(fits, f"{problem}: give a whole number or a string to each of {len(x):,} points")
    names, class_numbers = np.unique(y, return_inverse=True)
    splits = {"row": (pictures, torch.from_numpy(class_numbers))}
    return Source(name, [*map(str, names)], "all", splits, lambda split, rows: x[rows.numpy()])


@dataclass
class Map:
    """The selected points and, once it is computed, their map."""

    title: str  # "latents of vae-mnist10k: 300 of 2,000 test points"
    classes: list  # class names
    x: torch.Tensor  # [n, d], which compute_map replaces by their principal components
    labels: np.ndarray  # class numbers [n]
    split: np.ndarray  # the name of the split [n] that each point is from
    row: np.ndarray  # its index there [n]
    pictures: torch.Tensor | None  # uint8 [n, C, H, W]
    n_placed: int = 0  # the last ones are test points, which are placed in the map of the others
    embedding: np.ndarray | None = None  # [n, 2]
    kl: float | None = None  # nats
    class_accuracy: list | None = None  # the 10-NN accuracy of each class; NaN for a class without points
    caption: list | None = None  # lines: about t-SNE and, if there are classes, their accuracy

    @property
    def has_classes(self):
        return len(self.classes) > 1

    @property
    def drawing_order(self):
        """Random, so that no class covers another, with the placed points last."""
        n = len(self.embedding)
        order = np.random.RandomState(0).permutation(n - self.n_placed)
        return np.append(order, np.arange(n - self.n_placed, n))


@torch.no_grad()
def select(source, args):
    """A Map of the points that the flags ask for: all, or -n random ones, of train and of test each with
    --train-and-test, and of all splits together otherwise. It has no embedding yet."""
    split = args.split or source.default_split
    if args.train_and_test:
        groups = {"train": ["train"], "test": ["test"]}
    elif split == "all":
        groups = {"": list(source.splits)}
    else:
        groups = {split: [split]}
    sizes = []  # "300 of 1,000 train"
    parts = []  # of each split: points, labels, split, row and pictures
    for group, names in groups.items():
        totals = [len(source.splits[name][1]) for name in names if name in source.splits]
        n = sum(totals)
        require(n > 0, f"there are no {group or 'such'} points, or no latents of them were saved")
        is_selected = torch.zeros(n, dtype=torch.bool)
        random = torch.Generator().manual_seed(args.seed)
        is_selected[torch.randperm(n, generator=random)[: args.n]] = True
        n_selected = int(is_selected.sum())
        size = f"{n_selected:,}" if n_selected == n else f"{n_selected:,} of {n:,}"
        sizes.append(f"{size} {group}".strip())
        for name, mask in zip(names, is_selected.split(totals), strict=True):
            if not mask.any():
                continue
            rows = mask.nonzero()[:, 0]
            torch.manual_seed(args.seed)  # dynamic binarization samples the pixels that are read
            points = source.read(name, rows)
            points = as_points(points.reshape(len(points), -1) if points.ndim > 2 else points)
            pictures, labels = source.splits[name]
            pictures = None if pictures is None else pictures[rows]
            parts.append((points, labels[rows], np.repeat(name, len(rows)), rows, pictures))
    x, labels, split, row, pictures = zip(*parts, strict=True)
    return Map(
        title=f"{source.name}: {' and '.join(sizes)} points",
        classes=source.classes,
        x=torch.cat(x),
        labels=torch.cat(labels).numpy(),
        split=np.concatenate(split),
        row=torch.cat(row).numpy(),
        pictures=None if pictures[0] is None else torch.cat(pictures),
    )


# -----------------------------------------------------------------------------------------------------------
# The map of the selected points: computed, drawn, and written as a page


def compute_map(points, args):
    """Completes the Map of the selected points: PCA, then t-SNE, then a vote of each point's 10 neighbors in
    the map.

    The points before PCA are freed at once: of 70,000 digits they take 220 MB.
    """
    points.n_placed = int((points.split == "test").sum()) if args.train_and_test else 0
    n = len(points.x) - points.n_placed
    dimensions = f"{points.x.shape[1]} dimensions"
    if 0 < args.pca < points.x.shape[1] and args.metric == "euclidean":
        points.x = points.x - points.x[:n].mean(0)
        require(points.x.norm().isfinite(), "X holds numbers too large for PCA: scale it")
        points.x = points.x @ principal_axes(points.x[:n], args.pca)
        dimensions += f", {points.x.shape[1]} after PCA"
    tsne = TSNE(
        perplexity=args.perplexity,
        max_iter=args.max_iter,
        metric=args.metric,
        random_state=args.seed,
        method=args.method,
        angle=args.angle,
    )
    embedding = tsne.fit_transform(points.x[:n].to(args.device))
    points.kl = tsne.kl_divergence_
    points.caption = [f"t-SNE of {dimensions}, perplexity {args.perplexity:g}, KL {points.kl:.3f} nats"]
    k = min(10, n - 1)
    neighbors, _ = nearest_neighbors(embedding, embedding, k, first=0)
    if points.n_placed:
        placed = tsne.transform(points.x[n:].to(args.device))
        neighbors_of_placed, _ = nearest_neighbors(placed, embedding, k)
        embedding = torch.cat([embedding, placed])
        neighbors = torch.cat([neighbors, neighbors_of_placed])
    points.embedding = embedding.cpu().numpy()

    # a point is correct if the most frequent class among its neighbors is its own
    labels = torch.from_numpy(points.labels)
    is_correct = (labels[neighbors.cpu()].mode(1).values == labels).numpy()
    of_class = [is_correct[points.labels == c] for c in range(len(points.classes))]
    points.class_accuracy = [correct.mean() if len(correct) else math.nan for correct in of_class]
    if points.has_classes:
        accuracy = f"10-NN accuracy {is_correct[:n].mean():.1%}"
        if points.n_placed:
            accuracy += f", of the ringed test points {is_correct[n:].mean():.1%}"
        points.caption.append(accuracy)
    return points


def as_arrays(tsne_map):
    """What tsne.npz holds of a map."""
    return {
        "embedding": tsne_map.embedding,
        "n_placed": tsne_map.n_placed,
        "kl": tsne_map.kl,
        "class_accuracy": tsne_map.class_accuracy,
        "labels": tsne_map.labels,
        "split": tsne_map.split,
        "row": tsne_map.row,
        "classes": tsne_map.classes,
        "title": tsne_map.title,
        "caption": "; ".join(tsne_map.caption),
    }


def draw(tsne_map):
    """A figure of the map, in which colors show the classes."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    order = tsne_map.drawing_order
    x, y = tsne_map.embedding[order].T
    labels = tsne_map.labels[order]
    n = len(x) - tsne_map.n_placed
    classes = np.unique(labels) if tsne_map.has_classes else np.empty(0, int)  # those that have points
    has_few_classes = len(classes) <= 20

    map_height = np.clip(5.7 * np.ptp(y) / max(np.ptp(x), 1e-30), 3, 8)
    legend_height = 0 if has_few_classes else 0.02 * min(len(classes), 100)
    # a class name may hold a $, whatever the user's matplotlibrc says
    with rc_context({"text.parse_math": False, "text.usetex": False}):
        figure = Figure(figsize=(6.7, 0.8 + map_height + legend_height), layout="constrained")
        axis = figure.add_subplot(aspect="equal", xticks=[], yticks=[])
        axis.spines[:].set_visible(False)
        colors = np.array(COLORS)[labels % len(COLORS)]
        size = np.clip(20000 / len(x), 0.7, 25)
        alpha = 0.4 if tsne_map.n_placed else 0.8
        smooth = len(x) < 5000  # many points with smooth edges make a large file
        axis.scatter(x[:n], y[:n], size, colors[:n], alpha=alpha, linewidths=0, antialiased=smooth)
        axis.scatter(x[n:], y[n:], 2 * size, colors[n:], edgecolors="black", linewidths=0.4)
        figure.suptitle(textwrap.fill(tsne_map.title, 90), fontsize=10)
        caption = "\n".join(tsne_map.caption)
        if tsne_map.has_classes:
            caption += ", of each class in the legend"
        if has_few_classes:
            figure.supxlabel(caption, fontsize=8)
        else:
            axis.set_xlabel(caption, fontsize=8)
        name_classes(figure, tsne_map, classes[:100], has_few_classes)
    return figure


def name_classes(figure, tsne_map, classes, has_few_classes):
    """The legend: few classes at the right of the map, many below it. The name of one of few classes is also
    at the median of its points, or below names that are there, if over half of its points are correct."""
    from matplotlib.lines import Line2D
    from matplotlib.patheffects import withStroke
    from matplotlib.textpath import TextPath

    outline = [withStroke(linewidth=3, foreground="white")]
    key_style = dict(marker="o", markersize=6 if has_few_classes else 3, linestyle="")
    letter_height, letter_width = np.ptp(tsne_map.embedding, 0).max() * np.array([0.035, 0.02])
    places = []  # of the names in the map
    keys = []
    for c in classes:
        name = " ".join(tsne_map.classes[c].split())[:18]
        accuracy = tsne_map.class_accuracy[c]
        label = f" {name} ({accuracy:.0%})"
        keys.append(Line2D([], [], color=COLORS[c % len(COLORS)], label=label, **key_style))
        if has_few_classes and accuracy > 0.5:
            x, y = np.median(tsne_map.embedding[tsne_map.labels == c], 0)
            while any(
                abs(y - other_y) < letter_height and abs(x - other_x) < letter_width * (len(name) + n) / 2
                for other_x, other_y, n in places
            ):
                y -= letter_height
            places.append((x, y, len(name)))
            text_style = dict(ha="center", va="center", weight="bold", path_effects=outline)
            figure.axes[0].text(x, y, name, **text_style)
    if has_few_classes:
        style = dict(loc="outside right center", fontsize=8)
    else:
        widths = [TextPath((0, 0), key.get_label(), size=5.5).get_extents().width for key in keys]
        columns = int(min(5, 480 // (max(widths) + 18)))  # the picture is 482 points wide
        style = dict(loc="outside lower center", fontsize=5.5, ncols=columns, columnspacing=0.5)
    figure.legend(handles=keys, frameon=False, handletextpad=0, **style)


def page(template, tsne_map, thumbnails):
    """The page: the template with the map as JSON, in which no name can end the script. thumbnails are
    small pictures uint8 [n, C, side, side] of the points, or None."""
    order = tsne_map.drawing_order
    places = tsne_map.embedding * [1, -1]  # on a page, y grows downward
    places = places[order] - places.min(0)
    x, y = np.rint(places.T * 20000 / max(places.max(), 1e-30)).astype(int).tolist()
    content = {
        "x": x,
        "y": y,
        "colors": COLORS,
        "atlas": None if thumbnails is None else picture_atlas(thumbnails[order]),
        "side": 0 if thumbnails is None else thumbnails.shape[2],
        "title": tsne_map.title,
        "caption": "; ".join(tsne_map.caption),
        "classes": tsne_map.classes,
        "n_placed": tsne_map.n_placed,
        "labels": tsne_map.labels[order].tolist(),
        "split": tsne_map.split[order].tolist(),
        "row": tsne_map.row[order].tolist(),
    }
    return template.replace("__MAP__", json.dumps(content).replace("<", r"\u003c"))


def thumbnail_side(pictures):
    """The side in pixels of n pictures [n, C, H, W] on a page: a smaller one where n is large, so that the
    page of 10,000 points stays under 5 MB."""
    n = len(pictures)
    side = 28 if n > 2000 else 56
    return min(side, *pictures.shape[2:], math.isqrt(16_000_000 // n) + 1)


def picture_atlas(thumbnails):
    """Pictures uint8 [n, C, side, side] in the rows of one square JPEG picture, as a data: URI."""
    from PIL import Image

    n = len(thumbnails)
    columns = math.isqrt(n - 1) + 1
    empty = thumbnails.new_zeros(columns**2 - n, *thumbnails.shape[1:])
    grid = torch.cat([thumbnails, empty]).unflatten(0, (columns, columns))
    grid = grid.permute(0, 3, 1, 4, 2)  # (row, side, column, side, C)
    pixels = grid.flatten(2, 3).flatten(0, 1)  # (row * side, column * side, C)
    file = io.BytesIO()
    Image.fromarray(pixels.squeeze(2).numpy()).save(file, "JPEG", quality=75)
    return f"data:image/jpeg;base64,{base64.b64encode(file.getvalue()).decode()}"


if __name__ == "__main__":
    sys.exit(main())
