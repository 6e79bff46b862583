"""Typical mistakes in the tasks of this folder, and other right answers. Not for students.

An entry is a hint after "#", then a change to our function as in a diff: a phrase of it after "-", and what
replaces it after "+". A phrase is a line or less and occurs once; a change may have several of them.
"""

MISTAKES = {
    "2.1": """
        # you scale the noise by the variance, exp(log_variance); the deviation is its root.
        - (self.log_variance / 2).exp()
        + self.log_variance.exp()
        # you scale the noise by log_variance itself: it is a logarithm.
        - (self.log_variance / 2).exp()
        + self.log_variance
        # log_variance / 2 is the log of the deviation: take exp.
        - (self.log_variance / 2).exp()
        + (self.log_variance / 2)
        # the deviation is exp(log_variance / 2), not exp(−log_variance / 2).
        - (self.log_variance / 2).exp()
        + (-self.log_variance / 2).exp()
        # the root of log_variance is not the deviation, and is nan below 0.
        - (self.log_variance / 2).exp()
        + self.log_variance.abs().sqrt()
        # uniform noise (torch.rand), where it is normal (torch.randn).
        - torch.randn(
        + torch.rand(
        # there is no noise: you return the mean.
        - (self.log_variance / 2).exp() * noise
        + 0 * self.log_variance
        # you return noise around 0: the mean is missing.
        - return self.mean +
        + return 0 * self.mean +
        # the sample is cut off from mean and log_variance (detach, no_grad, .data, torch.normal).
        - return self.mean + (self.log_variance / 2).exp() * noise
        + return (self.mean + (self.log_variance / 2).exp() * noise).detach().requires_grad_()
        # log_variance gets no gradient: is the deviation detached?
        - (self.log_variance / 2).exp()
        + (self.log_variance / 2).exp().detach()
        # one noise for all latents of an image: draw it in the shape of the mean.
        - torch.randn(shape
        + torch.randn((*shape[:-1], 1)
        # one noise for all images of the batch: draw it in the shape of the mean.
        - torch.randn(shape
        + torch.randn((*shape[:-2], 1, shape[-1])
        # the n samples share one noise.
        - torch.randn(shape, device=self.mean.device)
        + torch.randn(self.mean.shape).expand(shape)
        # n is not used: sample(n) is n samples, [n, B, D].
        - self.mean.shape if n is None else (n, *self.mean.shape)
        + self.mean.shape
    """,
    "2.2": """
        # the −1 is missing: the KL of the prior from itself must be 0.
        - exp() - 1 - self
        + exp() - self
        # the whole is not halved.
        - ) / 2
        + )
        # a wrong sign before log_variance.
        - 1 - self.log_variance
        + 1 + self.log_variance
        # this is −KL, as in the ELBO of Kingma & Welling, app. B: a KL is never below 0.
        - return (
        + return -(
        # log_variance is taken for the log of the deviation.
        - self.log_variance.exp() - 1 - self.log_variance
        + (2 * self.log_variance).exp() - 1 - 2 * self.log_variance
        # exp(log_variance / 2) is the deviation; the formula has the variance.
        - self.log_variance.exp()
        + (self.log_variance / 2).exp()
        # the mean is not squared.
        - self.mean.square()
        + self.mean
        # log_variance is used as the variance.
        - self.log_variance.exp() - 1 - self.log_variance
        + self.log_variance - 1 - self.log_variance.abs().log()
        # this is KL(p ‖ q), the other way around.
        - (self.mean.square() + self.log_variance.exp() - 1 - self.log_variance)
        + ((1 + self.mean.square()) / self.log_variance.exp() - 1 + self.log_variance)
        # do not sum here: return a number for each image and latent, [B, D].
        - ) / 2
        + ).sum(-1) / 2
        # do not average here: return a number for each image and latent, [B, D].
        - ) / 2
        + ).mean() / 2
    """,
    "2.3": """
        # the constant ln 2π is missing, once for each latent.
        -  + math.log(2 * math.pi)
        +
        # ln 2π stands once for each latent, not once in all.
        - (squares + self.log_variance + math.log(2 * math.pi)).sum(-1)
        + ((squares + self.log_variance).sum(-1) + math.log(2 * math.pi))
        # the minus sign is missing.
        - return -
        + return +
        # the whole is not halved.
        - .sum(-1) / 2
        + .sum(-1)
        # log_variance is missing: the density is lower where the Gaussian is wide.
        - squares + self.log_variance
        + squares
        # the square is divided by the deviation; divide by the variance.
        - self.log_variance.exp()
        + (self.log_variance / 2).exp()
        # the square is not divided by the variance.
        -  / self.log_variance.exp()
        +
        # sum over the latents alone, the last dimension.
        - .sum(-1)
        + .sum()
        # a mean over latents where a sum is wanted.
        - .sum(-1)
        + .mean(-1)
        # the latents are not summed: [B, D] must become [B].
        - .sum(-1)
        +
        # the distance is not squared.
        - .square()
        +
        # you sum over images: the latents are the last dimension.
        - .sum(-1)
        + .sum(-2)
    """,
    "2.4": """
        # a mean over pixels where a sum is wanted.
        - .sum(1)
        + .mean(1)
        # sum over the pixels of each image, [B], not over the batch as well.
        - .flatten(1).sum(1)
        + .sum()
        # a mean of everything: return the sum of each image, [B].
        - reduction="none").flatten(1).sum(1)
        + reduction="mean")
        # the logits are taken for probabilities: sigmoid comes first.
        - binary_cross_entropy_with_logits(logits,
        + binary_cross_entropy(logits.clamp(1e-6, 1 - 1e-6),
        # sigmoid twice: this cross-entropy takes logits.
        - (logits, x, r
        + (logits.sigmoid(), x, r
        # log(sigmoid(·)) overflows where the network is sure: compute from the logits.
        - F.binary_cross_entropy_with_logits(logits, x, reduction="none")
        + (-x * logits.sigmoid().log() - (1 - x) * (1 - logits.sigmoid()).log())
        # an epsilon in the log caps what a sure and wrong pixel costs.
        - F.binary_cross_entropy_with_logits(logits, x, reduction="none")
        + (-x * (logits.sigmoid() + 1e-8).log() - (1 - x) * (1 - logits.sigmoid() + 1e-8).log())
        # the sign: these are nats to pay, never below 0.
        - return F.
        + return -F.
        # the black pixels are missing: (1 − x) log(1 − p).
        - F.binary_cross_entropy_with_logits(logits, x, reduction="none")
        + (-x * F.logsigmoid(logits))
        # logits and pixels are exchanged.
        - (logits, x, r
        + (x, logits, r
    """,
    "2.5": """
        # the KL is averaged over latents: sum it.
        - .clamp(min=self.free_bits).sum(1).mean()
        + .clamp(min=self.free_bits).mean()
        # beta is not used.
        - return self.beta * (step / self.kl_warm_up)
        + return step / self.kl_warm_up
        - return self.beta
        + return 1
        # the warm-up is not used.
        - if step >= self.kl_warm_up:
        + if True:
        # the warm-up does not end: the weight may not grow past beta.
        - if step >= self.kl_warm_up:
        + if not self.kl_warm_up:
        # the warm-up ends at 1, not at beta.
        - self.beta * (step / self.kl_warm_up)
        + step / self.kl_warm_up
        # the warm-up runs the wrong way: the weight grows from 0.
        - (step / self.kl_warm_up)
        + (1 - step / self.kl_warm_up)
        # free bits are not used.
        - .clamp(min=self.free_bits)
        +
        # free bits are for each latent: clamp before the sum.
        - kl.clamp(min=self.free_bits).sum(1)
        + kl.sum(1).clamp(min=self.free_bits)
        # free bits are for each image, not for the mean of the batch.
        - kl.clamp(min=self.free_bits).sum(1).mean()
        + kl.mean(0).clamp(min=self.free_bits).sum()
        # free bits are a floor (min=), not a ceiling.
        - clamp(min=
        + clamp(max=
        # free bits are subtracted: a latent below them pays them, at no slope.
        - kl.clamp(min=self.free_bits)
        + (kl - self.free_bits).clamp(min=0)
        # the decoder sees the mean: show it a sample.
        - posterior.sample()
        + posterior.mean
        # the loss is a sum over the batch: take the mean over images.
        - loss = nll.mean() + self.kl_weight(step) * kl.clamp(min=self.free_bits).sum(1).mean()
        + loss = nll.sum() + self.kl_weight(step) * kl.clamp(min=self.free_bits).sum()
        # the KL is subtracted: −ELBO has it with a plus.
        - nll.mean() + self.kl_weight
        + nll.mean() - self.kl_weight
        # there is no KL in the loss.
        -  + self.kl_weight(step) * kl.clamp(min=self.free_bits).sum(1).mean()
        +
        # log the plain KL, not the weighted one.
        - "kl": kl.sum(1).mean()
        + "kl": self.beta * kl.sum(1).mean()
        # log the KL before the free bits.
        - "kl": kl.sum(1).mean()
        + "kl": kl.clamp(min=self.free_bits).sum(1).mean()
        # the sign of the bound: a loss is minimized.
        - loss = -iwae
        + loss = iwae
        # this is the mean of the log weights, the ELBO: the IWAE bound is the log of their mean.
        - -iwae_bound(log_weights).mean()
        + -log_weights.mean()
    """,
    "2.6": """
        # p(z) is missing.
        - prior.log_prob(z) - posterior
        + -posterior
        # q(z | x) is missing.
        -  - posterior.log_prob(z)
        +
        # q and p are exchanged.
        - prior.log_prob(z) - posterior.log_prob(z)
        + posterior.log_prob(z) - prior.log_prob(z)
        # the sign of the negative log-likelihood.
        -  - nll, nll
        +  + nll, nll
        # p(x | z) is missing.
        -  - nll, nll
        + , nll
        # the images are repeated image by image, z sample by sample: each z meets another image.
        - x.repeat(k, 1, 1, 1)
        + x.repeat_interleave(k, 0)
        # view the k * B numbers as [k, B], not as [B, k] transposed.
        - .view(k, -1)
        + .view(-1, k).T
        # the labels are repeated label by label, z sample by sample.
        - labels.repeat(k)
        + labels.repeat_interleave(k)
        # the prior is N(0, I): its log_variance is 0, not 1.
        - log_variance=zeros
        + log_variance=zeros + 1
        # one sample k times: each needs noise of its own.
        - posterior.sample(k)
        + posterior.sample().expand(k, *posterior.mean.shape)
    """,
    "2.7": """
        # log k is not subtracted: it is a mean, not a sum (models.py).
        - log_weights.logsumexp(0) - math.log(len(log_weights))
        + log_weights.logsumexp(0)
        # this is the mean of the logs: take the log of the mean (models.py).
        - log_weights.logsumexp(0) - math.log(len(log_weights))
        + log_weights.mean(0)
        # exp underflows at −5000: logsumexp does not.
        - log_weights.logsumexp(0) - math.log(len(log_weights))
        + log_weights.exp().mean(0).log()
        # sum over samples, the first dimension, not over images.
        - log_weights.logsumexp(0) -
        + log_weights.logsumexp(1) -
        # k is subtracted, not log k.
        - math.log(len(log_weights))
        + len(log_weights)
        # log k is that of the samples: you take the number of images.
        - math.log(len(log_weights))
        + math.log(log_weights.shape[1])
        # log k is not subtracted: it is a mean, not a sum (metrics.py).
        - groups.logsumexp(1) - math.log(k)
        + groups.logsumexp(1)
        # log K of all samples is subtracted: a group has k.
        - groups.logsumexp(1) - math.log(k)
        + groups.logsumexp(1) - math.log(len(log_weights))
        # only the first group of k is used.
        - log_weights[: len(log_weights) // k * k]
        + log_weights[:k]
        # this is the mean of the logs: take the log of the mean in each group (metrics.py).
        - (groups.logsumexp(1) - math.log(k))
        + groups.mean(1)
        # log k is not subtracted from log p(x): it is a mean, not a sum.
        - total - math.log(k)
        + total
        # the sum of the weights is not squared in the effective sample size.
        - 2 * total - (2
        + total - (2
        # the weights are not squared in the effective sample size.
        - (2 * log_weights).logsumexp(0)
        + log_weights.logsumexp(0)
    """,
}

RIGHT_ANSWERS = {
    "2.1": """
        # randn_like
        - torch.randn(shape, device=self.mean.device)
        + torch.randn_like(self.mean.expand(shape))
        # rsample
        - return self.mean + (self.log_variance / 2).exp() * noise
        + normal = torch.distributions.Normal(self.mean, self.log_variance.mul(0.5).exp())
        + return normal.rsample(() if n is None else (n,))
        # the root of the variance, and noise in place
        - (self.log_variance / 2).exp() * noise
        + self.log_variance.exp().sqrt() * torch.empty(shape).normal_()
        # torch.normal of 0 and 1
        - (self.log_variance / 2).exp() * noise
        + self.log_variance.exp() ** 0.5 * torch.normal(0.0, 1.0, shape)
    """,
    "2.2": """
        # as in the paper, with the sign of a KL
        - return (self.mean.square() + self.log_variance.exp() - 1 - self.log_variance) / 2
        + return -0.5 * (1 + self.log_variance - self.mean.pow(2) - self.log_variance.exp())
        # torch.distributions
        - return (self.mean.square() + self.log_variance.exp() - 1 - self.log_variance) / 2
        + normal = torch.distributions.Normal
        + q = normal(self.mean, (self.log_variance / 2).exp())
        + p = normal(torch.zeros_like(self.mean), torch.ones_like(self.mean))
        + return torch.distributions.kl_divergence(q, p)
    """,
    "2.3": """
        # torch.distributions
        - return -(squares + self.log_variance + math.log(2 * math.pi)).sum(-1) / 2
        + return torch.distributions.Normal(self.mean, (self.log_variance / 2).exp()).log_prob(z).sum(-1)
    """,
    "2.4": """
        # softplus
        - F.binary_cross_entropy_with_logits(logits, x, reduction="none").flatten(1).sum(1)
        + (F.softplus(logits) - x * logits).sum(dim=(1, 2, 3))
        # logsigmoid
        - F.binary_cross_entropy_with_logits(logits, x, reduction="none").flatten(1).sum(1)
        + -(x * F.logsigmoid(logits) + (1 - x) * F.logsigmoid(-logits)).flatten(1).sum(1)
        # image by image
        - return F.binary_cross_entropy_with_logits(logits, x, reduction="none").flatten(1).sum(1)
        + sums = [F.binary_cross_entropy_with_logits(a, b, reduction="sum") for a, b in zip(logits, x)]
        + return torch.stack(sums)
    """,
    "2.5": """
        # one mean of both, and maximum
        - loss = nll.mean() + self.kl_weight(step) * kl.clamp(min=self.free_bits).sum(1).mean()
        + paid = torch.maximum(kl, torch.tensor(self.free_bits))
        + loss = (nll + self.kl_weight(step) * paid.sum(-1)).mean()
    """,
    "2.6": """
        # sample by sample
        - logits = self.decode_logits(z.flatten(0, 1), repeated_labels)  # (k * B, C, H, W)
        - nll = self.negative_log_likelihood(logits, x.repeat(k, 1, 1, 1)).view(k, -1)
        + nll = torch.stack([self.negative_log_likelihood(self.decode_logits(one, labels), x) for one in z])
    """,
    "2.7": """
        # the largest weight first
        - log_weights.logsumexp(0) - math.log(len(log_weights))
        + (log_weights - log_weights.amax(0)).exp().mean(0).log() + log_weights.amax(0)
        # group by group
        - return (groups.logsumexp(1) - math.log(k)).mean().item()
        + bounds = [(group.logsumexp(0) - math.log(k)).mean() for group in groups]
        + return sum(bounds) / len(bounds)
    """,
}

HOSTILE = {  # bodies of Gaussian.kl, and what is said of them
    "while True:\n    pass": "endless loop",
    "import time\ntime.sleep(1000)": "endless loop",
    "import os\nos._exit(0)": "is there an exit",
    "import sys\nsys.exit(0)": "SystemExit",
    "import ctypes\nctypes.string_at(0)": "SIGSEGV",
    "tensors = []\nwhile True:\n    tensors.append(torch.zeros(50_000_000))": "allocate memory",
    "import os\nwhile True:\n    os.write(2, b'x' * 2**20)": "File too large",
    "return self.kl()": "RecursionError",
    "return (self.mean.square() +": "was never closed",
    "import torchvision_x": "No module named 'torchvision_x'",
    "return None": "is a return missing",
    "return self.mean.detach()": "no gradient",
    "return self.logvar": "no attribute 'logvar'",
    "import os\nos.write(1, b'[\"2.2a\", [1]]\\n')\nos._exit(0)": "something else than outputs",
    "import os\nos.write(1, b'[]\\n{}\\nnull\\n\\0\\n')\nreturn self.mean": "yours",
}
