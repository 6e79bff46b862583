"""Typical mistakes in the tasks of this folder, and other right answers. Not for students.

An entry is a hint after "#", then a change to our function as in a diff: a phrase of it after "-", and what
replaces it after "+". A phrase is a line or less and occurs once; a change may have several of them.
"""

MISTAKES = {
    "6.1": """
        # real and generated images are exchanged.
        - F.softplus(-real).mean() + F.softplus(fake).mean()
        + F.softplus(real).mean() + F.softplus(-fake).mean()
        # the generated images are missing.
        -  + F.softplus(fake).mean()
        +
        # the real images are missing.
        - F.softplus(-real).mean() +
        +
        # halved: it is the sum of both means.
        - F.softplus(-real).mean() + F.softplus(fake).mean()
        + (F.softplus(-real).mean() + F.softplus(fake).mean()) / 2
        # the logits themselves: that is the loss of a Wasserstein GAN.
        - F.softplus(-real).mean() + F.softplus(fake).mean()
        + fake.mean() - real.mean()
        # the batch is in [0, 1]; the discriminator sees [−1, 1], as the generator makes it.
        - 2 * batch.x - 1
        + batch.x.clone()
        # the generator gets a gradient: generate under no_grad, or detach.
        - with torch.no_grad():
        + if True:
        # the accuracy is of both kinds of image, in %: half of each share.
        - 50 * ((real > 0).float() + (fake < 0).float()).mean()
        + 100 * (real > 0).float().mean()
        # the penalty is not multiplied by the interval, though it comes only so often.
        - PENALTY_INTERVAL * self.gradient_penalty / 2
        + self.gradient_penalty / 2
        # the penalty is not halved.
        - self.gradient_penalty / 2
        + self.gradient_penalty
        # the penalty is of the norm of the gradient: take its square.
        - squared_norm.mean()
        + squared_norm.sqrt().mean()
        # the penalty is a sum over pixels and a mean over images.
        - gradient.square().flatten(1).sum(1)
        + gradient.square().flatten(1).mean(1)
        # the gradient has no graph, so that the penalty teaches nothing: create_graph=True.
        - create_graph=True
        + create_graph=False, retain_graph=True
        # that is WGAN-GP: R1 wants gradients of 0, not of norm 1.
        - gradient.square().flatten(1).sum(1)
        + (gradient.flatten(1).norm(dim=1) - 1).square()
        # the penalty comes in every update.
        - self.gradient_penalty > 0 and step % PENALTY_INTERVAL == 0
        + self.gradient_penalty > 0
        # the term is logged with the penalty: log it without.
        - return loss, terms
        + return loss, terms | {"discriminator": loss}
    """,
    "6.2": """
        # the saturating loss, log(1 − D): minimize −log D.
        - F.softplus(-fake).mean()
        + -F.softplus(fake).mean()
        # the sign: the generator wants its images to be taken for real.
        - F.softplus(-fake)
        + F.softplus(fake)
        # the generated images are detached: the generator would not learn.
        - self.generate(len(batch.x))
        + self.generate(len(batch.x)).detach().requires_grad_()
        # the logit itself: that is the loss of a Wasserstein GAN.
        - F.softplus(-fake).mean()
        + -fake.mean()
        # a sum over images: take the mean.
        - F.softplus(-fake).mean()
        + F.softplus(-fake).sum()
        # the real images are judged: judge generated ones.
        - self.generate(len(batch.x))
        + (2 * batch.x - 1) + 0 * self.generate(len(batch.x))
    """,
    "6.3": """
        # the generator's optimizer also changes the discriminator.
        - list(self.generator.parameters())
        + list(self.parameters())
        # the discriminator's optimizer also changes the generator.
        - list(self.discriminator.parameters())
        + list(self.parameters())
        # betas are (0.5, 0.999).
        - (0.5, 0.999)
        + (0.9, 0.999)
        # the losses are exchanged.
        - Turn([discriminator], self.discriminator_loss), Turn([generator], self.generator_loss)
        + Turn([discriminator], self.generator_loss), Turn([generator], self.discriminator_loss)
        # both turns are the discriminator's.
        - list(self.generator.parameters())
        + list(self.discriminator.parameters())
    """,
    "6.4": """
        # the outputs are counted: count the inputs.
        - fan_in = layer.weight[0].numel()
        + fan_in = layer.weight[:, 0].numel()
        # Xavier's 1 / fan-in: a ReLU takes half of the variance away, so 2 / fan-in.
        - math.sqrt(2 / fan_in)
        + math.sqrt(1 / fan_in)
        # the variance is given as the deviation: take the root.
        - math.sqrt(2 / fan_in)
        + 2 / fan_in
        # the size of the kernel is not counted.
        - fan_in = layer.weight[0].numel()
        + fan_in = layer.weight.shape[1]
        # the weights of a transposed convolution are [in, out, k, k].
        - layer.weight[:, 0].numel()
        + layer.weight[0].numel()
        # an output of a transposed convolution meets 1 of stride² taps.
        -  / math.prod(layer.stride)
        +
        # biases start at 0.
        - nn.init.zeros_(layer.bias)
        + nn.init.ones_(layer.bias)
        # the weights are uniform: draw normal ones.
        - nn.init.normal_(layer.weight, std=math.sqrt(2 / fan_in))
        + nn.init.uniform_(layer.weight, -math.sqrt(6 / fan_in), math.sqrt(6 / fan_in))
        # batch norm keeps its weights.
        - nn.Conv2d | nn.ConvTranspose2d | nn.Linear
        + nn.Conv2d | nn.ConvTranspose2d | nn.Linear | nn.BatchNorm2d
    """,
    "6.5": """
        # over the distance of real images: the ratio is turned round.
        - (distances[0] / distances[1])
        + (distances[1] / distances[0])
        # this is the distance of samples alone.
        - (distances[0] / distances[1])
        + distances[0]
        # the distance between samples and real images: take that among samples.
        - diversity = (distances[0] / distances[1])
        + diversity = (torch.cdist(samples.flatten(1), x.flatten(1)).mean() / distances[1])
        # a ratio of deviations: take distances.
        - (distances[0] / distances[1])
        + (samples.std() / x.std())
        # the wrong side of 0.5.
        - diversity < 0.5
        + diversity > 0.5
        # the distances are squared.
        - F.pdist(images.flatten(1).cpu()).mean()
        + F.pdist(images.flatten(1).cpu()).square().mean()
        # the discriminator wins only where it takes nearly all images for what they are.
        - > 0.98
        + > -2
        # the warning of collapse comes first: it is the more serious one.
        - if diversity < 0.5:
        + if diversity < 0.5 and "warning" in diagnosis:
    """,
    "6.6": """
        # clamped: what lies beyond must be drawn again, or it piles up at the edge.
        - nn.init.trunc_normal_(torch.empty(n, dim, device=device), a=-truncate, b=truncate)
        + torch.randn(n, dim).clamp(-truncate, truncate)
        # uniform between the bounds.
        - nn.init.trunc_normal_(torch.empty(n, dim, device=device), a=-truncate, b=truncate)
        + (2 * torch.rand(n, dim) - 1) * truncate
        # truncate is not used.
        - if truncate is None:
        + if True:
        # scaled by truncate: cut off at it.
        - nn.init.trunc_normal_(torch.empty(n, dim, device=device), a=-truncate, b=truncate)
        + torch.randn(n, dim) * truncate / 3
        # uniform noise: it is normal.
        - torch.randn(n, dim
        + torch.rand(n, dim
    """,
    "6.7": """
        # the ends are exchanged: a row starts from the first sample.
        - (1 - t) * z[0] + t * z[1]
        + t * z[0] + (1 - t) * z[1]
        # not a straight line: its weights are 1 − t and t.
        - (1 - t) * z[0] + t * z[1]
        + (1 - t) ** 2 * z[0] + t**2 * z[1]
        # scale is not used.
        - z = scale *
        + z =
        # truncate is not used.
        - run.model.latent_dim, truncate)
        + run.model.latent_dim, None)
        # the second sample is missing.
        - (1 - t) * z[0] + t * z[1]
        + (1 - t) * z[0]
        # the second end is left out.
        - torch.linspace(0, 1, n)
        + (torch.arange(n) / n)
        # all rows have the same two samples.
        - z = scale *
        + z = z if lines else scale *
        # from the first sample plus the second: the weights add up to 1.
        - (1 - t) * z[0] + t * z[1]
        + z[0] + t * z[1]
    """,
}

RIGHT_ANSWERS = {
    "6.1": """
        # binary cross-entropy
        - F.softplus(-real).mean() + F.softplus(fake).mean()
        + sum(F.binary_cross_entropy_with_logits(a, b) for a, b in ((real, real * 0 + 1), (fake, fake * 0)))
        # detach
        - with torch.no_grad():
        + if True:
        - generated = self.generate(len(x))
        + generated = self.generate(len(x)).detach()
    """,
    "6.2": """
        # logsigmoid
        - F.softplus(-fake).mean()
        + -F.logsigmoid(fake).mean()
    """,
    "6.4": """
        # randn_like
        - nn.init.normal_(layer.weight, std=math.sqrt(2 / fan_in))
        + layer.weight.data = torch.randn_like(layer.weight) * (2 / fan_in) ** 0.5
    """,
    "6.5": """
        # all pairs of cdist
        - F.pdist(images.flatten(1).cpu()).mean()
        + torch.cdist(images.flatten(1), images.flatten(1)).sum() / (len(images) * (len(images) - 1))
    """,
    "6.6": """
        # by the inverse of the distribution function
        - nn.init.trunc_normal_(torch.empty(n, dim, device=device), a=-truncate, b=truncate)
        + torch.special.ndtri(share + (1 - 2 * share) * torch.rand(n, dim))
        - if truncate is None:
        + share = torch.special.ndtr(torch.tensor(-(truncate or 0.0)))
        + if truncate is None:
    """,
    "6.7": """
        # lerp
        - (1 - t) * z[0] + t * z[1]
        + z[0].lerp(z[1], t)
    """,
}
