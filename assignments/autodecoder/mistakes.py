"""Typical mistakes in the tasks of this folder, and other right answers. Not for students.

An entry is a hint after "#", then a change to our function as in a diff: a phrase of it after "-", and what
replaces it after "+". A phrase is a line or less and occurs once; a change may have several of them.
"""

MISTAKES = {
    "5.1": """
        # you divide by the mean, 1 / rate: multiply by it.
        - -noise.log() * self.mean
        + -noise.log() / self.mean
        # the sign: −ln(u) is above 0.
        - return -noise
        + return noise
        # ln(0) is −inf: keep the uniform noise off 0.
        - .clamp(min=1e-7)
        +
        # the exponential sample is cut off from the rate (detach, or a sample that torch draws).
        - -noise.log() * self.mean
        + -noise.log() * self.mean.detach()
        # the logarithm is missing: this is uniform.
        - -noise.log() * self.mean
        + (1 - noise) * self.mean
        # the uniform noise is not multiplied by the width.
        - self.width * torch.rand_like(self.width)
        + 0 * self.width + torch.rand_like(self.width)
        # the start is missing.
        - self.start + self.width * torch
        + 0 * self.start + self.width * torch
        # start is the left end of the uniform, not its middle.
        - torch.rand_like(self.width)
        + (torch.rand_like(self.width) - 0.5)
        # the uniform has normal noise: take torch.rand.
        - torch.rand_like(self.width)
        + torch.randn_like(self.width)
        # one noise for all images of the batch: draw it in the shape of the width.
        - torch.rand_like(self.width)
        + torch.rand_like(self.width[:1])
    """,
    "5.2": """
        # the −1 is missing: the KL of the prior from itself must be 0.
        - + self.mean - 1
        + + self.mean
        # the sign of log_rate.
        - self.log_rate + self.mean - 1
        + -self.log_rate + self.mean - 1
        # the rate stands for 1 / rate: that is KL(p ‖ q).
        - self.log_rate + self.mean - 1
        + -self.log_rate + 1 / self.mean - 1
        # do not sum: return a number for each latent.
        - self.log_rate + self.mean - 1
        + (self.log_rate + self.mean - 1).sum(-1)
        # the sign: −ln(width) is never below 0.
        - -self.width.log()
        + self.width.log()
        # the width itself: take its logarithm.
        - -self.width.log()
        + 1 - self.width
        # the log of the end: take that of the width.
        - -self.width.log()
        + -(self.start + self.width).log()
    """,
    "5.3": """
        # the end may be above 1: scale the start to the room that the width leaves.
        - cls(start * (1 - width), width)
        + cls(start, width)
        # no sigmoid: the parameters can be any numbers.
        - params.sigmoid().chunk
        + params.chunk
        # start and width are exchanged.
        - start, width = params
        + width, start = params
        # the first half is a start, not an end: the width does not shrink with it.
        - cls(start * (1 - width), width)
        + cls(start * width, width * (1 - start))
        # the halves are the first D and the last D numbers, not every other one.
        - params.sigmoid().chunk(2, dim=-1)
        + params.sigmoid().unflatten(-1, (-1, 2)).unbind(-1)
        # exp, where a sigmoid keeps the width below 1.
        - params.sigmoid().chunk
        + params.exp().chunk
    """,
    "5.4": """
        # the latents are not trained.
        - {"params": list(self.latents.parameters()), "lr": self.latent_lr},
        +
        # the latents have no learning rate of their own.
        - , "lr": self.latent_lr
        +
        # the decoder has the learning rate of the latents.
        - {"params": list(self.decoder.parameters())}
        + {"params": list(self.decoder.parameters()), "lr": self.latent_lr}
        # the decoder is not trained.
        - {"params": list(self.decoder.parameters())},
        +
    """,
    "5.5": """
        # the KL is averaged over latents: in nats it is summed.
        - posterior.kl().sum(1).mean()
        + posterior.kl().mean()
        # beta is missing.
        - reconstruction + beta * kl
        + reconstruction + kl
        # the decoder sees the mean: show it a sample.
        - posterior.sample()
        + posterior.mean
        # a sum over images: take the mean.
        - self.negative_log_likelihood(logits, x).mean()
        + self.negative_log_likelihood(logits, x).sum()
        # the error of the report is a norm, not its square.
        - error.norm()
        + error.square().sum()
        # the pixels of the report are from 0 to 255.
        - 255 * error.norm()
        + error.norm()
        # divided by the number of pixels of one image: of the whole batch.
        - error.numel()
        + error[0].numel()
        # divided by the root of the number of pixels: that is the RMSE.
        - error.numel()
        + error.numel() ** 0.5
        # the KL of the report is a mean over images and latents.
        - kl = posterior.kl().mean()
        + kl = posterior.kl().sum(1).mean()
        # logits are compared with pixels: to_pixels comes first.
        - error = self.to_pixels(logits) - x
        + error = logits - x
    """,
    "5.6": """
        # start is changed in place: clone it.
        - start.detach().clone().requires_grad_()
        + start.requires_grad_()
        # the labels of other images: index them, too.
        - labels[index]
        + labels[: len(index)]
        # always in the same order.
        - torch.randperm(len(x))
        + torch.arange(len(x))
        # only the first batch of each epoch is seen.
        - .split(batch_size or len(x)):
        + .split(batch_size or len(x))[:1]:
        # batch_size is not used.
        - .split(batch_size or len(x))
        + .split(len(x))
        # the model is in training mode meanwhile.
        - model.eval()
        + pass
        # the model is not put back into training mode.
        - model.train(was_training)
        + pass
        # the network gathers gradients: ask for those of the parameters of the latents alone.
        - (params.grad,) = torch.autograd.grad(loss, params)
        + optimizer.zero_grad()
        + loss.backward()
        # the gradient is never zeroed.
        - (params.grad,) = torch.autograd.grad(loss, params)
        + before = 0 if params.grad is None else params.grad
        + params.grad = torch.autograd.grad(loss, params)[0] + before
        # beta is not passed on.
        - batch_labels, beta)
        + batch_labels, 0.0)
        # start is not used.
        - if start is None:
        + if True:
        # the result still has a graph: detach it.
        - return params.detach()
        + return params
        # uphill: Adam minimizes.
        - torch.autograd.grad(loss, params)
        + torch.autograd.grad(-loss, params)
        # the epochs of the callback count from 1.
        - callback(epoch + 1, mean_loss)
        + callback(epoch, mean_loss)
    """,
    "5.7": """
        # a standard normal: the latents have a mean and a covariance of their own.
        - z.mean(0) + scale * noise @ (z - z.mean(0))
        + scale * torch.randn(n, z.shape[1])
        # the mean is missing.
        - z.mean(0) + scale
        + scale
        # the covariance of the latents is wanted, not their deviations alone.
        - z.mean(0) + scale * noise @ (z - z.mean(0))
        + z.mean(0) + scale * z.std(0) * torch.randn(n, z.shape[1])
        # not divided by the root of n − 1.
        -  / math.sqrt(len(z) - 1)
        +
        # scale is not used.
        - scale * noise
        + noise
        # scale moves the mean as well.
        - z.mean(0) + scale * noise @ (z - z.mean(0))
        + scale * (z.mean(0) + noise @ (z - z.mean(0)))
        # noise times the covariance: multiply by a root of it.
        - noise @ (z - z.mean(0))
        + torch.randn(n, z.shape[1]) @ z.T.cov()
        # the latents are not centered.
        - noise @ (z - z.mean(0))
        + noise @ z
        # divided by n − 1, not by its root.
        - math.sqrt(len(z) - 1)
        + (len(z) - 1)
    """,
}

RIGHT_ANSWERS = {
    "5.1": """
        # torch.distributions
        - return -noise.log() * self.mean
        + return torch.distributions.Exponential(self.log_rate.exp()).rsample()
        # lerp between both ends
        - self.start + self.width * torch.rand_like(self.width)
        + torch.lerp(self.start, self.start + self.width, torch.rand(self.width.shape))
    """,
    "5.2": """
        # from log_rate
        - self.log_rate + self.mean - 1
        + self.log_rate + torch.exp(-self.log_rate) - 1
    """,
    "5.3": """
        # slices
        - start, width = params.sigmoid().chunk(2, dim=-1)
        + half = params.shape[-1] // 2
        + start, width = torch.sigmoid(params[..., :half]), torch.sigmoid(params[..., half:])
    """,
    "5.6": """
        # a list of inputs
        - (params.grad,) = torch.autograd.grad(loss, params)
        + params.grad = torch.autograd.grad(loss, [params])[0]
    """,
    "5.7": """
        # by the Cholesky factor
        - z.mean(0) + scale * noise @ (z - z.mean(0))
        + z.mean(0) + scale * torch.randn(n, z.shape[1]) @ torch.linalg.cholesky(z.T.cov()).T
    """,
}
