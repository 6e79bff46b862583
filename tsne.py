"""t-SNE: a map of points, in two or three dimensions, that keeps neighbours together.

    from tsne import TSNE
    embedding = TSNE(perplexity=30).fit_transform(X)  # X [n, d], array or tensor; embedding [n, 2] of its kind

Each pair of points has an affinity p_ij, high where they are near in the data, and a similarity q_ij, high
where they are near in the map. t-SNE moves the points of the map until q is like p: it descends

    KL(P || Q) = sum_ij p_ij log(p_ij / q_ij),    q_ij = k_ij / Z,    k_ij = 1 / (1 + |y_i - y_j|^2),

where Z sums k over all pairs. Its gradient is a sum of springs between neighbours and of a push between all:

    dKL / dy_i = 4 sum_j p_ij k_ij (y_i - y_j)  -  4 / Z sum_j k_ij^2 (y_i - y_j)

Springs are few, for affinities fade quickly. The push is what the three methods differ in: they take it from
every pair (exact), from the cells of a tree (barnes_hut), or from a mesh (fft).
"""

import functools
import inspect
import math

import numpy as np
import torch

# -----------------------------------------------------------------------------------------------------------
# Exact: every pair of points, O(n^2) in time and memory (van der Maaten & Hinton 2008). Read this first; the
# other methods are tested against it


def squared_distances(a, b):
    """|a_i - b_j|^2 for points [n, c] and [m, c], as [n, m]; by differences, so that near points stay apart."""
    return sum((a[:, None, c] - b[:, c]).square_() for c in range(a.shape[1]))


def conditional_affinities(distances, perplexity):
    """p_j|i [n, k] of squared distances [n, k] (eq. 1), float64: each row a Gaussian, as wide as makes its 2^H
    the perplexity, found by bisection."""
    parts = []
    for rows in distances.split(1024):
        rows = rows.double()
        rows = rows - rows.amin(1, keepdim=True)  # changes no p, and exp() cannot underflow in a whole row
        rows = rows / rows.mean(1, keepdim=True).clamp(min=1e-300)
        beta = torch.ones_like(rows[:, :1])  # 1 / (2 sigma^2)
        low, high = 0 * beta, math.inf * beta
        for _ in range(60):
            p = torch.exp(-beta * rows)
            total = p.sum(1, keepdim=True)
            entropy = total.log() + beta * (p * rows).sum(1, keepdim=True) / total
            flat = entropy > math.log(perplexity)
            if (entropy - math.log(perplexity)).abs().max() < 1e-6:
                break
            low, high = torch.where(flat, beta, low), torch.where(flat, high, beta)
            beta = torch.where(high.isinf(), 2 * low, (low + high) / 2)
        parts.append(p / total)
    return torch.cat(parts)


def joint_affinities(distances, perplexity):
    """p_ij = (p_j|i + p_i|j) / 2n of squared distances [n, n] (sec. 3.1), which sum to 1."""
    n, p = len(distances), torch.zeros_like(distances)
    for rows in torch.arange(n, device=p.device).split(1024):
        others = torch.arange(n, device=p.device) != rows[:, None]
        of_others = conditional_affinities(distances[rows][others].view(-1, n - 1), perplexity)
        p[rows] = p[rows].masked_scatter_(others, of_others.to(p.dtype))
    return (p + p.T).div_(2 * n)


def exact_attraction(p, y, want_spread=True):
    """Springs sum_j p_ij k_ij (y_i - y_j) [n, c] of a map y [n, c], and sum_ij p_ij log(1 + |y_i - y_j|^2)."""
    forces, spread = [], 0.0
    for part, rows in zip(p.split(256), y.split(256), strict=True):  # what fits the cache
        stretch = squared_distances(rows, y).add_(1)
        if want_spread:
            spread += (part * stretch.log()).sum(dtype=torch.float64)
        weight = part / stretch
        forces.append(weight.sum(1, keepdim=True) * rows - weight @ y)
    return torch.cat(forces), spread


def exact_repulsion(y):
    """The push sum_j k_ij^2 (y_i - y_j) [n, c], yet to be divided by Z, and Z (eq. 4 and 5)."""
    forces, total = [], 0.0
    for rows in y.split(256):
        kernel = squared_distances(rows, y).add_(1).reciprocal_()
        total += kernel.sum(dtype=torch.float64)
        kernel.square_()
        forces.append(kernel.sum(1, keepdim=True) * rows - kernel @ y)
    return torch.cat(forces), total - len(y)  # each point has met itself, at distance 0


# -----------------------------------------------------------------------------------------------------------
# Affinities of neighbours only: of about 3 perplexity neighbours each, beyond which a Gaussian of that
# perplexity has nothing left (van der Maaten 2014, eq. 6 and 7). Time O(n^2), but of matrix products; memory O(n)


def nearest(queries, points, k, first=None, block=256, groups=16):
    """The k nearest of points [n, d] to each of queries [m, d]: their numbers [m, k] and squared distances. Where
    the queries are the points from number `first` on, a point is not its own neighbour.

    A row of distances is cut into groups of 16. The k groups with the least minima must hold the k nearest,
    so that only these are looked through.
    """
    n, width = len(points), -(-len(points) // groups)
    lengths = torch.cat([points.square().sum(1), points.new_full((width * groups - n,), math.inf)])
    columns = torch.cat([points, points.new_zeros(width * groups - n, points.shape[1])]).T.contiguous()
    steps, found, squares = width * torch.arange(groups, device=points.device), [], []
    for start in range(0, len(queries), block):
        rows = queries[start : start + block]
        scores = torch.addmm(lengths, rows, columns, alpha=-2)  # |q - p|^2 less |q|^2, (block, n)
        if first is not None:
            place = torch.arange(len(rows), device=rows.device)
            scores[place, first + start + place] = math.inf
        if k < width:
            chosen = scores.view(-1, groups, width).amin(1).topk(k, largest=False, sorted=False).indices
            numbers = (chosen[:, :, None] + steps).flatten(1)
            numbers = numbers.gather(
                1, scores.gather(1, numbers).topk(k, largest=False, sorted=False).indices
            )
        else:
            numbers = scores.topk(k, largest=False, sorted=False).indices
        found.append(numbers)
        # once more for these few by differences: |q|^2 + |p|^2 - 2qp has lost digits
        squares.append((rows[:, None] - points[numbers]).square_().sum(2))
        lost = rows.square().sum(1) * torch.finfo(rows.dtype).eps > 1e-4 * squares[-1].amax(1)
        if rows.dtype == torch.float32 and lost.any():  # too many, even to tell who is near
            return nearest(queries.double(), points.double(), k, first, block, groups)
    return torch.cat(found), torch.cat(squares)


def symmetrise(neighbours, p):
    """p_ij = (p_j|i + p_i|j) / 2n of neighbours [n, k] and p_j|i [n, k]: row, column and value of each pair
    that has one, sorted by rows."""
    n, k = neighbours.shape
    row, column = torch.arange(n, device=p.device).repeat_interleave(k), neighbours.flatten()
    key, order = torch.cat([row * n + column, column * n + row]).sort()
    key, group = torch.unique_consecutive(key, return_inverse=True)
    value = p.new_zeros(len(key)).index_add_(0, group, p.flatten().repeat(2)[order])
    return key // n, key % n, value / (2 * n)


class Springs:
    """Attraction of sparse affinities, sum_j p_ij k_ij (y_i - y_j) (van der Maaten 2014, eq. 8, first part).

    Rows of about the same number of neighbours are put together in rectangles [rows, width] that the cache
    holds, filled up with p = 0: each step is then one operation on a whole rectangle, in memory that is used
    over and over. Twice as fast as a sparse matrix product.
    """

    def __init__(self, row, column, p, n, entries=1 << 17):
        degree = torch.bincount(row, minlength=n)
        first, by_degree = degree.cumsum(0) - degree, degree.argsort(descending=True)
        widths, start, self.rectangles = degree[by_degree].tolist(), 0, []
        while start < n:
            width = max(1, widths[start])
            rows = by_degree[start : start + max(1, entries // width)]
            step = torch.arange(width, device=row.device)
            inside = step < degree[rows, None]
            place = (first[rows, None] + step).clamp_(max=len(column) - 1)
            partner = torch.where(inside, column[place], rows[:, None]).int()
            self.rectangles.append((rows, partner, torch.where(inside, p[place], 0)))
            start += len(rows)
        self.size = max(partner.numel() for _, partner, _ in self.rectangles)

    def __call__(self, y, want_spread=True):
        """Forces [n, 2] and, if wanted, sum_ij p_ij log(1 + |y_i - y_j|^2)."""
        coordinates, force, spread = y.T.contiguous(), torch.empty_like(y), 0.0
        buffers = y.new_empty(3, self.size)
        for rows, partner, p in self.rectangles:
            dx, dy, weight = (buffer[: p.numel()].view(p.shape) for buffer in buffers)
            for values, d in zip(coordinates, (dx, dy), strict=True):
                torch.index_select(values, 0, partner.view(-1), out=d.view(-1))
                torch.sub(values[rows, None], d, out=d)
            torch.mul(dx, dx, out=weight).addcmul_(dy, dy).add_(1)
            if want_spread:
                spread += (p * weight.log()).sum(dtype=torch.float64)
            torch.div(p, weight, out=weight)
            force[rows] = torch.stack([dx.mul_(weight).sum(1), dy.mul_(weight).sum(1)], 1)
        return force, spread


# -----------------------------------------------------------------------------------------------------------
# Barnes-Hut: far points push together, as the cells of a quadtree, O(n log n) (van der Maaten 2014, sec. 4.2).
# A cell of that size at that distance d counts as one point at its centre of mass when size / d < angle
# (eq. 9); else its children are asked, and the points themselves where it has none. Angle 0 is exact

LEVELS = 30  # two coordinates of so many bits fit the 64 of a Morton code


def morton_order(y):
    """Points [n, 2] in the order of a quadtree's leaves: codes [n], sorted, whose leading 2l bits name the cell
    of level l; the points' numbers in that order; and the width of the whole."""
    low = y.amin(0).double()
    extent = (y.double() - low).max().item() * (1 + 1e-6) + 1e-30
    bits = ((y.double() - low) / extent * 2**LEVELS).long()
    for shift, mask in ((16, 0xFFFF0000FFFF), (8, 0xFF00FF00FF00FF), (4, 0xF0F0F0F0F0F0F0F)):
        bits = (bits | bits << shift) & mask
    for shift, mask in ((2, 0x3333333333333333), (1, 0x5555555555555555)):
        bits = (bits | bits << shift) & mask
    return *(bits[:, 0] | bits[:, 1] << 1).sort(), extent


def runs(counts):
    """For groups of so many members: the group of each member and its place there, [2, 1] -> [0, 0, 1], [0, 1, 0]."""
    group = torch.repeat_interleave(counts)
    return group, torch.arange(len(group), device=counts.device) - (counts.cumsum(0) - counts)[group]


class Tree:
    """A quadtree over points [n, 2] in Morton order, where each cell is a slice start : start + mass of them.

    Tensors with an entry per cell, level after level: start, mass, centre [cells, 2], size, and child, the
    first of the cell's `children` children, which stand together. A cell of up to leaf_size points has none.
    """

    def __init__(self, code, y, extent, leaf_size=8):
        start, end = code.new_zeros(1), code.new_full((1,), len(code))
        levels, cells = [], 1
        for level in range(LEVELS + 1):
            split = (end - start > leaf_size) & (level < LEVELS)
            prefix, shift = code[start[split]] >> 2 * (LEVELS - level), 2 * (LEVELS - level - 1)
            # a quadrant begins where its prefix would stand among the sorted codes
            quadrants = 4 * prefix[:, None] + torch.arange(5, device=code.device)  # (split, 5)
            borders = torch.searchsorted(code >> max(shift, 0), quadrants)
            filled = borders[:, 1:] > borders[:, :-1]
            children, child = torch.zeros_like(start), torch.zeros_like(start)
            children[split] = filled.sum(1)
            child[split] = cells + children[split].cumsum(0) - children[split]
            levels.append(
                (start, end, torch.full_like(start, extent / 2**level, dtype=y.dtype), child, children)
            )
            start, end = borders[:, :-1][filled], borders[:, 1:][filled]
            cells += len(start)
            if not len(start):
                break
        self.start, end, self.size, self.child, self.children = map(torch.cat, zip(*levels, strict=True))
        self.mass = end - self.start
        sums = torch.cat([y.new_zeros(1, 2, dtype=torch.float64), y.double().cumsum(0)])
        self.centre = ((sums[end] - sums[self.start]) / self.mass[:, None]).to(y.dtype)

    def sources(self, low, high, angle):
        """For tiles, boxes of points from low to high [tiles, 2]: what pushes them, as lists of (tile, cell), one
        for each level, and of (tile, point), sorted by tile.

        The distance is that of the box from the centre of mass: less than any of the tile's points has.
        """
        tile, cell = (
            torch.arange(len(low), device=low.device),
            torch.zeros_like(self.start[:1]).expand(len(low)),
        )
        far, near = [], []
        while len(tile):
            centre = self.centre[cell]
            outside = torch.maximum(low[tile] - centre, centre - high[tile]).clamp_(min=0)
            accept = self.size[cell].square() < angle**2 * outside.square().sum(1)
            leaf = self.children[cell] == 0
            # points of one cell of the last level are at one place, however many they are
            accept |= leaf & (self.size[cell] == self.size[-1]) & (self.mass[cell] > 8)
            far.append((tile[accept], cell[accept]))
            end = leaf & ~accept
            group, place = runs(self.mass[cell[end]])
            near.append((tile[end][group], self.start[cell[end]][group] + place))
            more = ~(leaf | accept)
            tile, cell = tile[more], cell[more]
            group, place = runs(self.children[cell])
            tile, cell = tile[group], self.child[cell][group] + place
        return far, near


def merge(lists, groups):
    """Lists of (group, member), each sorted by group, as one: its members, and each group's first and count."""
    counts = torch.stack([torch.bincount(group, minlength=groups) for group, _ in lists])  # (lists, groups)
    count = counts.sum(0)
    first = count.cumsum(0) - count
    shift = (
        first + counts.cumsum(0) - counts - (counts.cumsum(1) - counts)
    )  # from a place in the list to one in all
    members = torch.empty_like(torch.cat([member for _, member in lists]))
    for (group, member), move in zip(lists, shift, strict=True):
        members[move[group] + torch.arange(len(group), device=group.device)] = member
    return members, first, count


def barnes_hut_repulsion(y, angle=0.5, tile_size=32, entries=1 << 17):
    """exact_repulsion for maps [n, 2], by the tree."""
    n, tiles = len(y), -(-len(y) // tile_size)
    code, order, extent = morton_order(y)
    points = y[order]
    tree = Tree(code, points, extent)
    # neighbours along the curve share one list of sources; the last tile is filled up with copies
    targets = torch.cat([points, points[-1:].expand(tiles * tile_size - n, 2)]).view(tiles, tile_size, 2)
    far, near = tree.sources(targets.amin(1), targets.amax(1), angle)
    cells = len(tree.mass)
    near = [(tile, point + cells) for tile, point in near]
    source, first, count = merge(far + near, tiles)
    x_y_mass = torch.cat(
        [torch.cat([tree.centre, points]).T, torch.cat([tree.mass, torch.ones_like(code)])[None]]
    )
    force, potential, start = torch.empty_like(targets), torch.empty_like(targets[..., 0]), 0
    by_count = count.argsort(descending=True)
    widths = count[by_count].tolist()
    while start < tiles:
        rows = by_count[start : start + max(1, entries // (widths[start] * tile_size))]
        step = torch.arange(widths[start], device=y.device)
        place = source[(first[rows, None] + step).clamp_(max=len(source) - 1)]
        sx, sy, mass = (values[place] for values in x_y_mass)  # (rows, width)
        mass = mass * (step < count[rows, None])
        # as seen from a point in the tile
        middle = targets[rows, tile_size // 2]
        sx, sy = sx - middle[:, :1], sy - middle[:, 1:]
        t = targets[rows] - middle[:, None]
        kernel = (t[:, :, :1] - sx[:, None]).square_()  # (rows, tile_size, width)
        dy = t[:, :, 1:] - sy[:, None]
        kernel.addcmul_(dy, dy).add_(1).reciprocal_()
        sums = (kernel @ mass[:, :, None])[..., 0]
        potential[rows] = sums
        kernel.square_()
        sums = kernel @ torch.stack([mass, mass * sx, mass * sy], 2)  # (rows, tile_size, 3)
        force[rows] = sums[..., :1] * t - sums[..., 1:]
        start += len(rows)
    out = torch.empty_like(y)
    out[order] = force.view(-1, 2)[:n]
    return out, potential.flatten()[:n].sum(dtype=torch.float64) - n


# -----------------------------------------------------------------------------------------------------------
# Mesh: all pushes at once, as a convolution by FFT, O(n + m log m) for m nodes (Linderman et al. 2019 have the
# idea with other kernels and charges). The potential of a place y, phi(y) = sum_j 1 / (1 + |y - y_j|^2),
# holds all that is needed: the push on y is -grad phi / 2, and Z = sum_i phi(y_i) - n.
# Cubic B-splines spread the points onto the nodes and read phi and its gradient from them


def good_size(size):
    """The next number that an FFT likes, 2^a 3^b 5^c."""
    while True:
        rest = size
        for prime in (2, 3, 5):
            while rest % prime == 0:
                rest //= prime
        if rest == 1:
            return size
        size += 1


def spline(t):
    """Cubic B-spline weights of the four nodes around a place t in [0, 1) past the second, and their slopes, each
    [..., 4]."""
    s = 1 - t
    weights = [s**3, 3 * t**3 - 6 * t**2 + 4, 3 * s**3 - 6 * s**2 + 4, t**3]
    slopes = [-(s**2), 3 * t**2 - 4 * t, 4 * s - 3 * s**2, t**2]
    return torch.stack(weights, -1) / 6, torch.stack(slopes, -1) / 2


class Mesh:
    """exact_repulsion for maps [n, 2], by FFT, as a function of the map; `spacing` is between nodes.

    A map stretched by an outlier would need a mesh of any size: above max_size nodes a side, which is when the
    tree is faster, Barnes-Hut takes over.
    """

    def __init__(self, spacing=0.35, max_size=None):
        self.spacing, self.max_size, self.cached = spacing, max_size, None

    def __call__(self, y):
        low = y.amin(0)
        extent = (y.amax(0) - low).tolist()
        widest = max(extent)
        h = min(self.spacing, widest / 32 + 1e-30)
        max_size = self.max_size or 256 + 8 * math.isqrt(len(y))
        if not widest / h < max_size:
            return barnes_hut_repulsion(y)
        # twice the map, for the FFT is periodic; 5% to spare, so that the kernel's transform is kept a while
        size = [2 * good_size(int(1.05 * length / h) + 4) for length in extent]
        # in a small map only what the kernel lacks to 1 has digits: 1 / (1 + r^2) - 1
        lack = float(widest < 1)
        if self.cached is None or self.cached[0] != (size, h):
            self.cached = (size, h), self.transform(size, h, lack, y)
        place = (y - low) / h
        cell = place.floor()
        (wx, wy), (sx, sy) = (values.unbind(1) for values in spline(place - cell))  # (n, 4) each
        node = cell.long() @ torch.tensor([size[1] // 2, 1], device=y.device)
        steps = torch.arange(4, device=y.device)
        node = node[:, None] + (steps[:, None] * (size[1] // 2) + steps).flatten()  # (n, 16)
        charge = y.new_zeros(size[0] * size[1] // 4)
        charge.index_add_(0, node.flatten(), (wx[:, :, None] * wy[:, None]).flatten())
        spectrum = torch.fft.rfft2(charge.view(size[0] // 2, size[1] // 2), s=size)
        field = torch.fft.irfft2(spectrum.mul_(self.cached[1]), s=size)[: size[0] // 2, : size[1] // 2]
        field = field.flatten()[node].view(-1, 4, 4)
        along_y, across = (field @ torch.stack([wy, sy], 2)).unbind(2)  # (n, 4) each
        potential = (along_y * wx).sum(1)
        slope = torch.stack([(along_y * sx).sum(1), (across * wx).sum(1)], 1) / h
        return slope / -2, potential.sum(dtype=torch.float64) + (lack * len(y) - 1) * len(y)

    @staticmethod
    def transform(size, h, lack, like):
        """Of the kernel on the nodes, divided by that of the spline once for spreading and once for reading."""
        one, two = (torch.arange(length, device=like.device, dtype=torch.float64) for length in size)
        square = sum(
            (h * torch.minimum(steps, length - steps)).square().view(shape)
            for steps, length, shape in ((one, size[0], (-1, 1)), (two, size[1], (1, -1)))
        )
        kernel = -square / (1 + square) if lack else 1 / (1 + square)
        b_one, b_two = (
            (4 + 2 * (2 * math.pi * k / length).cos()) / 6 for k, length in ((one, size[0]), (two, size[1]))
        )
        b = b_one[:, None] * b_two[: size[1] // 2 + 1]
        return (torch.fft.rfft2(kernel).real / b.square()).to(like.dtype)


# -----------------------------------------------------------------------------------------------------------
# The descent, and the class that does it all


def kl_gradient(y, attraction, repulsion, exaggeration=1.0, want_kl=True):
    """dKL/dy [n, c] at a map y [n, c] (2008, eq. 5; 2014, eq. 8) where the springs pull so many times as hard,
    and the KL less sum_ij p_ij log p_ij, if wanted: sum_ij p_ij log(1 + |y_i - y_j|^2) + log Z."""
    pull, spread = attraction(y, want_kl)
    push, total = repulsion(y)
    return pull.mul_(4 * exaggeration).sub_(push.mul_(4 / total)), spread + total.log()


def pca(x, n_components, seed=0, rounds=10):
    """Principal components [n, n_components] of x [n, d], as many as there are, the rest 0: by subspace
    iteration, which needs no d x d matrix. In each the largest loading is positive."""
    x = x - x.mean(0)
    random = torch.Generator().manual_seed(seed)
    width = min(n_components + 8, *x.shape)
    basis = torch.randn(x.shape[1], width, generator=random, dtype=torch.float64).to(x)
    for _ in range(rounds):
        basis = torch.linalg.qr(x.T @ (x @ basis)).Q
    rotation = torch.linalg.svd(x @ basis, full_matrices=False).Vh.T
    loadings = (basis @ rotation)[:, :n_components]
    loadings = loadings * loadings.gather(0, loadings.abs().argmax(0, keepdim=True)).sign()
    return torch.nn.functional.pad(x @ loadings, (0, n_components - loadings.shape[1]))


def require(condition, message):
    if not condition:
        raise ValueError(message)


def as_points(X, name="X"):
    """Numbers [n, d] of any kind as a float tensor. Raises ValueError."""
    if not isinstance(X, torch.Tensor):
        X = np.ascontiguousarray(X)
        require(X.dtype.kind in "fiub", f"{name} holds {X.dtype}: give real numbers")
        X = torch.from_numpy(X.astype(X.dtype.newbyteorder("=")))
    require(not X.is_complex(), f"{name} holds complex numbers: give real ones")
    x = X.detach().to(torch.float64 if X.dtype in (torch.float64, torch.int64) else torch.float32)
    require(x.ndim == 2, f"{name} has shape {list(x.shape)}: give [points, features]")
    require(x.shape[1] > 0, f"{name} has points without features")
    require(x.isfinite().all(), f"{name} holds NaN or infinite values: remove or replace them")
    return x


METRICS, METHODS = ("euclidean", "cosine", "precomputed"), ("auto", "exact", "barnes_hut", "fft")
EXACT_LIMIT = 20_000  # points, whose affinities take 1.6 GB


class TSNE:
    """A map of points by t-SNE, with the habits of scikit-learn's class of that name.

    n_components: of the map; other than 2 takes the exact method.
    perplexity: how many neighbours a point has, so to speak; less than the number of points.
    early_exaggeration: how many times as hard the springs pull in the first fifth of the iterations, or the first
        100 of more.
    learning_rate: for the gradient with its factor 4, as in scikit-learn. "auto": a quarter of the number of
        points, over the exaggeration as long as that lasts (Belkina et al. 2019).
    max_iter: None for what was measured to do: 500, fewer points take more.
    n_iter_without_progress, min_grad_norm: looked at every 50 iterations, as in scikit-learn; the KL has to
        fall only after the exaggeration.
    metric: "euclidean", "cosine", or "precomputed" for X [n, n] of distances.
    init: "pca", "random", or the map [n, n_components] to start from.
    verbose: 1 prints the KL every 50 iterations.
    random_state: a number, or None for another each time.
    method: "exact", "barnes_hut", "fft", or "auto" for the fastest that is accurate enough.
    angle: of barnes_hut: less is slower and nearer to exact.

    After fit: embedding_ [n, n_components], kl_divergence_ in nats (by the method's own estimate), n_iter_,
    learning_rate_ after the exaggeration. Arrays give arrays, tensors give tensors on their device, float32.
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
        vars(self).update({name: value for name, value in locals().items() if name != "self"})

    def get_params(self, deep=True):
        return {name: getattr(self, name) for name in inspect.signature(type(self)).parameters}

    def set_params(self, **params):
        unknown = sorted(params.keys() - self.get_params().keys())
        require(
            not unknown, f"{', '.join(unknown)}: no such parameter, there are {', '.join(self.get_params())}"
        )
        vars(self).update(params)
        return self

    def fit_transform(self, X, y=None):
        """The map [n, n_components] of X [n, d]; y is not used."""
        return self.fit(X).embedding_

    def fit(self, X, y=None):
        x = as_points(X)
        self._check(x)
        attraction, repulsion, entropy = self._forces(x)
        embedding, self.n_iter_, n = self._start(x), 0, len(x)
        last = self.max_iter or 500
        for end, exaggeration, momentum in (
            (min(100, last // 5), self.early_exaggeration, 0.8),
            (last, 1.0, 0.9),
        ):
            self.learning_rate_ = (
                n / 4 / exaggeration if self.learning_rate == "auto" else float(self.learning_rate)
            )
            self._descend(embedding, attraction, repulsion, entropy, end, exaggeration, momentum)
        kl = entropy + kl_gradient(embedding, attraction, repulsion)[1]
        self.kl_divergence_ = max(0.0, kl.item())
        self._map = embedding
        self.embedding_ = embedding if isinstance(X, torch.Tensor) else embedding.cpu().numpy()
        return self

    def _check(self, x):
        """Refuse what scikit-learn refuses, and what has no map. Raises ValueError."""
        n, c = len(x), self.n_components
        require(n >= 2, f"X has {n} points: a map takes two or more")
        require(isinstance(c, int) and c > 0, f"n_components {c!r}: give 1 or more")
        require(
            1 <= self.perplexity < n, f"perplexity {self.perplexity}: give 1 or more, but less than n = {n}"
        )
        require(
            self.early_exaggeration >= 1, f"early_exaggeration {self.early_exaggeration}: give 1 or more"
        )
        require(
            self.learning_rate == "auto" or self.learning_rate > 0,
            "learning_rate: give 'auto' or more than 0",
        )
        require(
            self.max_iter is None or self.max_iter > 0, f"max_iter {self.max_iter}: give 1 or more, or None"
        )
        require(0 <= self.angle <= 1, f"angle {self.angle}: give one from 0 to 1")
        require(self.metric in METRICS, f"metric {self.metric!r}: choose from {', '.join(METRICS)}")
        require(self.method in METHODS, f"method {self.method!r}: choose from {', '.join(METHODS)}")
        require(
            c == 2 or self.method in ("auto", "exact"), f"{self.method} makes maps of 2 components, not {c}"
        )
        if self.metric == "precomputed":
            require(
                x.shape[0] == x.shape[1], f"X has shape {list(x.shape)}: precomputed takes distances [n, n]"
            )
            require(bool((x >= 0).all()), "X has distances below 0")
            require(
                not isinstance(self.init, str) or self.init != "pca",
                "distances have no PCA: give another init",
            )
        if self.metric == "cosine":
            require(
                bool(x.any(1).all()), "X has a point at 0, which has no direction: cosine cannot place it"
            )

    def _features(self, x):
        """Points as nearest() takes them: float32, of order 1 and around 0, or of length 1 for cosine."""
        if self.metric == "cosine":
            return torch.nn.functional.normalize(x / x.abs().amax(1, keepdim=True)).float()
        return ((x - self._middle) / self._scale).float()

    def _nearest(self, x, k, first=None):
        """The k nearest training points of x [m, d] and the squares of their distances, [m, k] each."""
        if self.metric == "precomputed":
            x = x.clone().fill_diagonal_(math.inf) if first == 0 else x
            distances, found = x.topk(k, largest=False)
            return found, (distances / self._scale).square()
        found, squares = nearest(self._features(x), self._points, k, first)
        return found, (squares / 2).square() if self.metric == "cosine" else squares

    def _forces(self, x):
        """Attraction and repulsion as functions of the map, and sum_ij p_ij log p_ij."""
        n, method = len(x), self.method
        # a middle that one far outlier does not move, for float32 to tell the others apart
        self._middle = x[:: 1 + n // 1000].median(0).values
        self._scale = (
            (x if self.metric == "precomputed" else x - self._middle).abs().amax().clamp(min=1e-300)
        )
        self._points = None if self.metric == "precomputed" else self._features(x)
        if method == "auto":
            method = "exact" if n < 700 or self.n_components != 2 else "fft"
        if method == "exact":
            require(
                n <= EXACT_LIMIT,
                f"exact holds n^2 affinities: it takes up to {EXACT_LIMIT:,} points, not {n:,}",
            )
            if self.metric == "precomputed":
                squares = (x / self._scale).square().float()
            else:
                squares = torch.cdist(
                    self._points, self._points, compute_mode="donot_use_mm_for_euclid_dist"
                ).square()
            p = joint_affinities(
                (squares / 2).square() if self.metric == "cosine" else squares, self.perplexity
            )
            attraction, repulsion = functools.partial(exact_attraction, p), exact_repulsion
        else:
            found, squares = self._nearest(x, min(n - 1, int(3 * self.perplexity)), first=0)
            row, column, p = symmetrise(found, conditional_affinities(squares, self.perplexity).float())
            attraction = Springs(row, column, p, n)
            repulsion = (
                Mesh() if method == "fft" else functools.partial(barnes_hut_repulsion, angle=self.angle)
            )
        return attraction, repulsion, torch.special.xlogy(p, p).sum(dtype=torch.float64)

    def _start(self, x):
        """The first map, float32: of standard deviation 1e-4 along its first component."""
        n, shape = len(x), (len(x), self.n_components)
        random = torch.Generator()
        random.manual_seed(self.random_state) if self.random_state is not None else random.seed()
        noise = torch.randn(shape, generator=random).to(x.device)
        if not isinstance(self.init, str):
            y = as_points(self.init, "init").to(x.device, torch.float32, copy=True)
            require(y.shape == shape, f"init has shape {list(y.shape)}: give {list(shape)}")
            require(y.abs().max() < 1e15, "init reaches 1e15, where the squares of float32 end: scale it")
            return y
        require(
            self.init in ("pca", "random"), f"init {self.init!r}: choose from pca, random, or give a map"
        )
        if self.init == "random":
            return 1e-4 * noise
        y = pca((x - self._middle) / self._scale, self.n_components)
        y = 1e-4 * y / y[:, 0].std().clamp(min=1e-30)
        return y.float() + 1e-6 * noise  # lest twins stay together, and a line a line

    def _descend(self, y, attraction, repulsion, entropy, last, exaggeration, momentum):
        """Gradient steps on the map y, in place, up to iteration `last`: each coordinate has a gain that grows
        while its gradient keeps its sign (Jacobs 1988)."""
        velocity, gain = torch.zeros_like(y), torch.ones_like(y)
        best, best_iter = math.inf, self.n_iter_
        while self.n_iter_ < last:
            check = (self.n_iter_ + 1) % 50 == 0
            gradient, kl = kl_gradient(y, attraction, repulsion, exaggeration, check)
            gain = torch.where(velocity * gradient < 0, gain + 0.2, gain * 0.8).clamp_(min=0.01)
            gradient.mul_(gain)
            # a step of 5 is far in any map: nothing flies off, whatever the learning rate
            y.add_(velocity.mul_(momentum).sub_(gradient, alpha=self.learning_rate_).clamp_(-5, 5))
            self.n_iter_ += 1
            if not check:
                continue
            kl, norm = (entropy + kl).item(), gradient.norm().item()
            if self.verbose:
                print(
                    f"[t-SNE] iteration {self.n_iter_:5d}   KL {kl:.4f}   gradient norm {norm:.7f}",
                    flush=True,
                )
            if kl < best:
                best, best_iter = kl, self.n_iter_
            elif exaggeration == 1 and self.n_iter_ - best_iter > self.n_iter_without_progress:
                break
            if norm <= self.min_grad_norm:
                break

    def transform(self, X_new, rounds=50):
        """Places [m, n_components] in the map for new points [m, d] (or distances [m, n], if precomputed).

        Each goes where the springs to its nearest training points, at perplexity 5, are at rest; points that were
        there do not move, and new ones do not see each other. The minimum of sum_j p_j log(1 + |y - y_j|^2),
        by weighted means.
        """
        require(hasattr(self, "_map"), "nothing was fitted: call fit first")
        x = as_points(X_new, "X_new").to(self._map.device)
        found, distances = self._nearest(x, min(len(self._map), 15))
        p = conditional_affinities(distances, min(5, found.shape[1] / 2)).to(self._map.dtype)
        partner = self._map[found]  # (m, k, c)
        place = partner.gather(1, p.argmax(1)[:, None, None].expand(-1, 1, partner.shape[2]))
        for _ in range(rounds):
            weight = p[..., None] / (1 + (place - partner).square().sum(2, keepdim=True))
            place = (weight * partner).sum(1, keepdim=True) / weight.sum(1, keepdim=True)
        return place[:, 0] if isinstance(X_new, torch.Tensor) else place[:, 0].cpu().numpy()
