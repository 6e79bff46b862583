"""Typical mistakes in the tasks of this folder, and other right answers. Not for students.

An entry is a hint after "#", then a change to our function as in a diff: a phrase of it after "-", and what
replaces it after "+". A phrase is a line or less and occurs once; a change may have several of them.
"""

MISTAKES = {
    "3.1": """
        # |a|² − 2ab + |b|² loses the digits of near points: take differences.
        - return squares
        + return (a * a).sum(0)[:, None] + (b * b).sum(0) - 2 * a.T @ b
        # the root is taken: these are squares.
        - return squares
        + return squares.sqrt()
        # rows and columns are exchanged: [n, m], with a in rows.
        - return squares
        + return squares.T
        # a mean over coordinates: sum them.
        - return squares
        + return squares / len(a)
        # absolute differences: square them.
        - return squares
        + return (a.T[:, None] - b.T).abs().sum(2)
    """,
    "3.2": """
        # the entropy is in nats: compare it with ln of the perplexity, not log2.
        - math.log(perplexity)
        + math.log2(perplexity)
        # the perplexity is e^entropy in nats: compare the entropy with its logarithm.
        - - math.log(perplexity)
        + - perplexity / 10
        # the bisection runs the wrong way: too much entropy asks for a larger precision.
        - low = torch.where(excess > 0, beta, low)
        + low = torch.where(excess < 0, beta, low)
        - high = torch.where(excess > 0, high, beta)
        + high = torch.where(excess < 0, high, beta)
        # the rows are not divided by their sum.
        - (p / total).to
        + p.to
        # one width for all points: each row needs its own.
        - excess = entropy - math.log(perplexity)
        + excess = (entropy - math.log(perplexity)).mean(0, keepdim=True).expand_as(beta)
        # exp() underflows for large distances: subtract the smallest of each row first.
        - rows = rows.double() - rows.amin(1, keepdim=True)
        + rows = rows.double()
        - rows = rows / rows.mean(1, keepdim=True).clamp(min=1e-300)
        + rows = rows
        # too few steps of the bisection.
        - range(200)
        + range(4)
        # the entropy lacks the mean of beta * squares.
        -  + beta * moment / total
        +
        # the distances themselves are used: a Gaussian has their squares.
        - p = torch.exp(-beta * rows)
        + p = torch.exp(-beta * rows.sqrt())
    """,
    "3.3": """
        # not symmetric: add the transpose.
        - p + p.T
        + p + p
        # divided by n: it is 2n, so that all sum to 1.
        - div_(2 * len(p))
        + div_(len(p))
        # not divided by 2n.
        - .div_(2 * len(p))
        +
        # halved only: divide by n as well.
        - div_(2 * len(p))
        + div_(2)
        # the neighbors are ignored: p_j|i belongs in column j, which neighbors names.
        - scatter_(1, neighbors, p)
        + scatter_(1, neighbors.sort(1).values, p)
    """,
    "3.4": """
        # the attraction is not weakened by k: divide by 1 + |y_i − y_j|².
        - p_rows / denominator
        + p_rows
        # the k of the attraction is squared: that is the repulsion.
        - p_rows / denominator
        + p_rows / denominator**2
        # the log of the squares: of 1 + squares.
        - denominator.log()
        + (denominator - 1 + 1e-12).log()
        # the last block of rows is missing.
        - attraction = torch.empty_like(y)
        + attraction = torch.zeros_like(y)
        - p_rows = p[i : i + 128]
        + if i + 128 >= len(y):
        +     break
        + p_rows = p[i : i + 128]
        # the attraction has the wrong sign.
        - weighted_differences(p_rows / denominator, rows, y)
        + -weighted_differences(p_rows / denominator, rows, y)
        # k is not squared in the repulsion.
        - kernel.square_()
        + kernel
        # Z counts each point with itself.
        - total - len(y)
        + total
        # the 1 + is missing in k.
        - squared_distances(rows, y).add_(1).reciprocal_()
        + squared_distances(rows, y).add_(1e-3).reciprocal_()
        # a Gaussian kernel: that is SNE; t-SNE has 1 / (1 + |y_i − y_j|²).
        - squared_distances(rows, y).add_(1).reciprocal_()
        + squared_distances(rows, y).neg().exp()
        # Z sums k squared: it is the sum of k.
        - total += kernel.sum(1)
        + total += kernel.square().sum(1)
        # Z counts each pair once: both orders count.
        - return repulsion, total - len(y)
        + return repulsion, (total - len(y)) / 2
    """,
    "3.5": """
        # the factor 4 of the attraction is missing.
        - 4 * exaggeration
        + exaggeration
        # the exaggeration is missing.
        - 4 * exaggeration
        + 4
        # the repulsion is not divided by Z.
        - repulsive.mul_(4 / z)
        + repulsive.mul_(4)
        # the repulsion is subtracted in the gradient: it drives points apart.
        - .sub_(repulsive
        + .add_(repulsive
        # the exaggeration belongs to the attraction alone.
        - repulsive.mul_(4 / z)
        + repulsive.mul_(4 * exaggeration / z)
        # the factor 4 of the repulsion is missing.
        - repulsive.mul_(4 / z)
        + repulsive.mul_(1 / z)
        # the factor is 2: it is 4, as each pair stands twice in the KL.
        - 4 * exaggeration).sub_(repulsive.mul_(4 / z))
        + 2 * exaggeration).sub_(repulsive.mul_(2 / z))
        # the KL lacks log Z.
        - (log_term + z.log())
        + log_term
        # log Z is subtracted in the KL.
        - log_term + z.log()
        + log_term - z.log()
        # the KL lacks the negative entropy, sum p log p.
        - (negative_entropy + (log_term + z.log()))
        + (log_term + z.log())
        # the negative entropy is subtracted: the KL has sum p log p with a plus.
        - (negative_entropy + (log_term + z.log()))
        + (-negative_entropy + (log_term + z.log()))
    """,
    "3.6": """
        # x is not centered.
        - x = x - x.mean(0)
        + x = x + 0
        # centered over features: subtract the mean over points.
        - x.mean(0)
        + x.mean(1, keepdim=True)
        # missing components are 0: pad.
        - F.pad(scores, (0, n_components - scores.shape[1]))
        + scores
        # the components are divided by their deviation.
        - return F.pad(scores
        + return F.pad(scores / scores.std(0)
        # the components are in the reverse order.
        - scores = x @ principal_axes(x, n_components)
        + scores = (x @ principal_axes(x, n_components)).flip(1)
    """,
}

RIGHT_ANSWERS = {
    "3.1": """
        # broadcasting
        - return squares
        + return ((a.T.unsqueeze(1) - b.T.unsqueeze(0)) ** 2).sum(dim=-1)
        # cdist by differences
        - return squares
        + return torch.cdist(a.T, b.T, compute_mode="donot_use_mm_for_euclid_dist") ** 2
    """,
    "3.2": """
        # fewer steps: enough without far outliers
        - range(200)
        + range(64)
    """,
    "3.4": """
        # without weighted_differences
        - attraction[i : i + 128] = weighted_differences(p_rows / denominator, rows, y)
        + w = p_rows / denominator
        + attraction[i : i + 128] = (w[:, :, None] * (rows[:, None] - y)).sum(1)
    """,
    "3.5": """
        # in one expression
        - gradient = attractive.mul_(4 * exaggeration).sub_(repulsive.mul_(4 / z))
        + gradient = 4 * (exaggeration * attractive - repulsive / z.float())
    """,
    "3.6": """
        # by the SVD
        - scores = x @ principal_axes(x, n_components)
        + u, s, v = torch.linalg.svd(x, full_matrices=False)
        + scores = (u * s)[:, :n_components]
    """,
}
