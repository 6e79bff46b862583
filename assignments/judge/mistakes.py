"""Typical mistakes in the tasks of this folder, and other right answers. Not for students.

An entry is a hint after "#", then a change to our function as in a diff: a phrase of it after "-", and what
replaces it after "+". A phrase is a line or less and occurs once; a change may have several of them.
"""

MISTAKES = {
    "4.1": """
        # the encoder does not see the label.
        - torch.cat([features, self.embed(labels)], 1)
        + torch.cat([features, 0 * self.embed(labels)], 1)
        # the decoder does not see the label.
        - torch.cat([z, self.embed(labels)], 1)
        + torch.cat([z, 0 * self.embed(labels)], 1)
        - z + self.embed(labels)
        + z
        # the features come first, then the embedding.
        - torch.cat([features, self.embed(labels)], 1)
        + torch.cat([self.embed(labels), features], 1)
        # z comes first, then the embedding.
        - torch.cat([z, self.embed(labels)], 1)
        + torch.cat([self.embed(labels), z], 1)
        # with "add" z is multiplied by the embedding: add it.
        - z + self.embed(labels)
        + z * self.embed(labels)
        # with "add" the embedding is subtracted.
        - z + self.embed(labels)
        + z - self.embed(labels)
    """,
    "4.2": """
        # rows and columns are exchanged: the label is the row.
        - labels * n_classes + predicted
        + predicted * n_classes + labels
        # these are shares of a row: counts are wanted.
        - .view(n_classes, n_classes)
        + .view(n_classes, n_classes) / labels.bincount(minlength=n_classes).clamp(min=1)[:, None]
        # only right predictions are counted.
        - torch.bincount(labels * n_classes + predicted, minlength=n_classes**2).view(n_classes, n_classes)
        + torch.bincount(labels[labels == predicted], minlength=n_classes).diag()
        # a pair that occurs several times is counted once.
        - .view(n_classes, n_classes)
        + .view(n_classes, n_classes).clamp(max=1)
    """,
    "4.3": """
        # the distance of an image from itself, 0, is averaged in: divide by n (n − 1).
        - (n * (n - 1))
        + n**2
        # each pair is counted twice but divided by once.
        - (n * (n - 1))
        + (n * (n - 1) / 2)
        # squared distances: take their root.
        - distances.sum()
        + distances.square().sum()
        # by matrix products two equal images are not equal: take differences.
        - torch.cdist(flat, flat, compute_mode="donot_use_mm_for_euclid_dist")
        + (flat.square().sum(1)[:, None] + flat.square().sum(1) - 2 * flat @ flat.T).clamp(min=0).sqrt()
        # a single image has no distance: nan.
        - return math.nan
        + return 0.0
        # divided by the root of the number of pixels: a distance is the root of a sum.
        - distances.sum().item()
        + distances.sum().item() / flat.shape[1] ** 0.5
        # the city-block distance: take the Euclidean one.
        - torch.cdist(flat, flat, compute_mode
        + torch.cdist(flat, flat, 1.0, compute_mode
    """,
    "4.4": """
        # the entropy itself: exp is missing.
        - entropy.exp().item()
        + entropy.item()
        # the sign of the entropy: exp(−entropy) is one over what is wanted.
        - .mul(-shares)
        + .mul(shares)
        # in bits: exp goes with the natural logarithm.
        - .log().mul
        + .log2().mul
        # 0 log 0 is 0, not nan: leave out the classes that were not predicted.
        - classes=len(shares)
        + classes=int((shares > 0).sum())
        - shares = shares[shares > 0]
        + shares = shares + 0
        # one over the sum of squares is another number of classes.
        - evenly=entropy.exp().item()
        + evenly=1 / shares.square().sum().item()
        # all classes are counted: count those that were predicted.
        - classes=len(shares)
        + classes=n_classes
        # counts are taken for shares: divide by their sum.
        - .double() / len(predicted)
        + .double()
    """,
    "4.5": """
        # KL(p(y) ‖ p(y|x)), the other way around.
        - (log_p.exp() * (log_p - log_marginal)).sum(1).mean().exp()
        + (log_marginal.exp() * (log_marginal - log_p)).sum(1).mean().exp()
        # exp is inside the mean: take the mean KL first.
        - .sum(1).mean().exp()
        + .sum(1).exp().mean()
        # exp is missing.
        - .sum(1).mean().exp()
        + .sum(1).mean()
        # a mean over classes: the KL sums them.
        - .sum(1).mean().exp()
        + .mean(1).mean().exp()
        # the marginal is the mean of p(y|x), not of its logarithm.
        - log_p.logsumexp(0) - math.log(len(log_p))
        + log_p.mean(0)
        # the marginal does not sum to 1: divide by the number of images.
        -  - math.log(len(log_p))
        +
        # logits are taken for log p(y|x): log_softmax comes first.
        - logits.log_softmax(1)
        + logits
        # the softmax is over images: take it over classes.
        - log_softmax(1)
        + log_softmax(0)
        # one marginal for all splits: each has its own.
        - log_marginal = log_p.logsumexp(0) - math.log(len(log_p))
        + log_marginal = logits.log_softmax(1).logsumexp(0) - math.log(len(logits))
        # the deviation is divided by n − 1: here by n.
        - correction=0
        + correction=1
        # this is the entropy of the marginal alone.
        - (log_p.exp() * (log_p - log_marginal)).sum(1).mean().exp()
        + (-(log_marginal.exp() * log_marginal).sum()).exp()
    """,
    "4.6": """
        # the cross term counts twice: 2 tr (C1 C2)^½.
        - - 2 * cross
        + - cross
        # the root of the distance: this one is squared.
        - return distance.clamp(min=0).item()
        + return distance.clamp(min=0).sqrt().item()
        # the distance of the means is not squared.
        - (mean1 - mean2).square().sum()
        + (mean1 - mean2).norm()
        # the means are missing.
        - (mean1 - mean2).square().sum() +
        +
        # the root of each eigenvalue is missing.
        - .clamp(min=0).sqrt().sum()
        + .clamp(min=0).sum()
        # tr C1^½ C2^½ of sorted eigenvalues is right only for covariances that commute.
        - cross = eigenvalues.clamp(min=0).sqrt().sum()
        + roots = [torch.linalg.eigvalsh(cov).clamp(min=0).sqrt() for cov in (cov1, cov2)]
        + cross = (roots[0] * roots[1]).sum()
        # the roots of the entries: a matrix has another root.
        - cross = eigenvalues.clamp(min=0).sqrt().sum()
        + cross = (cov1 @ cov2).diag().clamp(min=0).sqrt().sum()
        # the cross term is added: subtract it.
        - - 2 * cross
        + + 2 * cross
        # only the variances are used: the covariances matter.
        - cross = eigenvalues.clamp(min=0).sqrt().sum()
        + cross = (cov1.diag() * cov2.diag()).sqrt().sum()
    """,
    "4.7": """
        # a member is its own nearest neighbor: the k-th is the k + 1st.
        - kthvalue(k + 1)
        + kthvalue(k)
        # within all balls: one is enough.
        - .any(1)
        + .all(1)
        # the edge of a ball belongs to it.
        - block <= radii
        + block < radii
        # the distances of others from each other: take those from the members.
        - squared_distances(others, members)
        + squared_distances(others, others[: len(members)])
        # the balls are around the others: they belong around the members.
        - squared_distances(members, members)
        + squared_distances(others[: len(members)], others)
        # the largest radius for all: each ball has its own.
        - block <= radii
        + block <= radii.max()
        # others are counted once for each ball.
        - (block <= radii).any(1)
        + (block <= radii).double().sum(1)
        # the radii are squared, the distances are not.
        - block <= radii
        + block.sqrt() <= radii
    """,
}

RIGHT_ANSWERS = {
    "4.2": """
        # pair by pair
        - torch.bincount(labels * n_classes + predicted, minlength=n_classes**2).view(n_classes, n_classes)
        + torch.stack([predicted[labels == c].bincount(minlength=n_classes) for c in range(n_classes)])
    """,
    "4.3": """
        # broadcasting
        - torch.cdist(flat, flat, compute_mode="donot_use_mm_for_euclid_dist")
        + (flat[:, None] - flat).square().sum(2).sqrt()
    """,
    "4.4": """
        # torch.distributions
        - entropy = shares.log().mul(-shares).sum()
        + entropy = torch.distributions.Categorical(shares).entropy()
    """,
    "4.5": """
        # F.kl_div
        - (log_p.exp() * (log_p - log_marginal)).sum(1).mean().exp()
        + F.kl_div(log_marginal.expand_as(log_p), log_p, reduction="batchmean", log_target=True).exp()
        # the mean of p
        - log_p.logsumexp(0) - math.log(len(log_p))
        + log_p.exp().mean(0).log()
    """,
    "4.6": """
        # eigenvalues of the product itself
        - cross = eigenvalues.clamp(min=0).sqrt().sum()
        + cross = torch.linalg.eigvals(cov1 @ cov2).real.clamp(min=0).sqrt().sum()
    """,
    "4.7": """
        # topk of the negative distances
        - block.kthvalue(k + 1).values
        + (-(-block).topk(k + 1).values[:, -1])
    """,
}
