"""Assignment 2: the variational autoencoder."""

import torch
from probing import About, Assignment, slope, train

assignment = Assignment(extras=["datasets/mnist10k.npz"])


# -----------------------------------------------------------------------------------------------------------
assignment.task(
    "2.1",
    "models.Gaussian.sample",
    """
    one sample z [B, D] of this Gaussian, or n samples [n, B, D], through which gradients reach mean
    and log_variance (eq. 2).
    """,
)


@assignment.part(6, "samples have the right mean and deviation, and are differentiable")
def moments(files, draw):
    mean = draw.normal(2, 3).requires_grad_()
    log_variance = draw.normal(2, 3).requires_grad_()
    n = 20000
    z = files.models.Gaussian(mean.repeat(n, 1), log_variance.repeat(n, 1)).sample().view(n, 2, 3)
    centered = z - z.mean(0)
    deviation = centered.detach().square().mean(0).sqrt() + 1e-9
    slope_of_mean, _ = slope(z, mean, log_variance)
    _, slope_of_variance = slope(centered.square().mean(0), mean, log_variance)
    if not isinstance(slope_of_mean, str):
        slope_of_mean = slope_of_mean / n
    if not isinstance(slope_of_variance, str):
        slope_of_variance = About((slope_of_variance.abs() + 1e-9).log().clamp(-9), 0.12)
    noise = (centered / deviation).detach() * (deviation > 1e-6)
    # in units of the deviation and in logarithms, chance moves every number alike, whatever its size
    bias = (z.detach().mean(0) - mean.detach()) / deviation
    return {
        "|mean of 20,000 samples − mean of q|, in deviations": About(bias.abs().clamp(max=1), 0.06),
        "log of the samples' deviation over that of q": About(
            (deviation.log() - log_variance.detach() / 2).clamp(-9), 0.06
        ),
        "kurtosis of the noise": About(noise.square().square().mean(), 0.3),
        "slope of a sample by the mean": slope_of_mean,
        "log of the slope of the samples' variance by log_variance": slope_of_variance,
    }


@assignment.part(4, "every image, latent and sample has noise of its own")
def independence(files, draw):
    q = files.models.Gaussian(draw.normal(6, 7), draw.normal(6, 7))
    outputs = {
        "shape of sample()": str(list(q.sample().shape)),
        "shape of sample(3)": str(list(q.sample(3).shape)),
    }
    wide = files.models.Gaussian(torch.zeros(4000, 4), torch.ones(4000, 4))
    noise = wide.sample().detach()
    pair = wide.sample(2).detach()

    def correlation(a, b):
        return torch.corrcoef(torch.stack([a.flatten(), b.flatten()]))[0, 1].nan_to_num()

    of_images = correlation(noise[0::2], noise[1::2])
    outputs["correlation of two images"] = About(of_images, 0.15)
    if of_images < 0.5:  # else the others say nothing
        outputs["correlation of two latents"] = About(correlation(noise[:, 0::2], noise[:, 1::2]), 0.15)
        if pair.shape == (2, 4000, 4):
            outputs["correlation of two samples"] = About(correlation(pair[0], pair[1]), 0.15)
    return outputs


# -----------------------------------------------------------------------------------------------------------
assignment.task(
    "2.2",
    "models.Gaussian.kl",
    """
    KL(q ‖ N(0, I)) in nats for each image and latent, [B, D] (eq. 3).
    """,
)


@assignment.part(10, "the closed form, its zero and its gradient")
def kl(files, draw):
    mean = draw.normal(4, 3).requires_grad_()
    log_variance = draw.normal(4, 3).requires_grad_()
    kl = files.models.Gaussian(mean, log_variance).kl()
    slope_of_mean, slope_of_log_variance = slope(kl, mean, log_variance)
    return {
        "KL of the prior from itself": files.models.Gaussian(torch.zeros(2, 3), torch.zeros(2, 3)).kl(),
        "KL": kl,
        "slope by the mean": slope_of_mean,
        "slope by log_variance": slope_of_log_variance,
    }


# -----------------------------------------------------------------------------------------------------------
assignment.task(
    "2.3",
    "models.Gaussian.log_prob",
    """
    log density in nats of z, [B, D] or [n, B, D], summed over the latents (eq. 4).
    """,
)


@assignment.part(10, "the log density, its sum and its shapes")
def log_prob(files, draw):
    q = files.models.Gaussian(draw.normal(4, 3), draw.normal(4, 3))
    standard = files.models.Gaussian(torch.zeros(1, 1), torch.zeros(1, 1))
    return {
        "log density of 0 under N(0, 1)": standard.log_prob(torch.zeros(1, 1)),
        "log density of z [B, D]": q.log_prob(draw.normal(4, 3)),
        "log density of z [n, B, D]": q.log_prob(draw.normal(5, 4, 3)),
    }


# -----------------------------------------------------------------------------------------------------------
assignment.task(
    "2.4",
    "models.bernoulli_nll",
    """
    −log p(x | z) of pixels that are 1 with probability sigmoid(logits), summed over the pixels of
    each image, [B] (eq. 5).
    """,
)


@assignment.part(10, "nats of an image, also where the network is sure")
def bernoulli(files, draw):
    logits = draw.normal(3, 1, 4, 4, scale=2).requires_grad_()
    nll = files.models.bernoulli_nll(logits, draw.uniform(3, 1, 4, 4))
    sure = torch.tensor([200.0, -200.0, 200.0, -200.0]).view(2, 1, 1, 2)
    white = torch.tensor([1.0, 0.0, 0.0, 1.0]).view(2, 1, 1, 2)
    return {
        "nats of gray images": nll,
        "slope by the logits": slope(nll, logits)[0],
        "nats of sure logits, right and wrong": files.models.bernoulli_nll(sure, white),
    }


# -----------------------------------------------------------------------------------------------------------
assignment.task(
    "2.5",
    "models.VAE.loss models.VAE.kl_weight",
    """
    the loss to minimize and its terms {loss, reconstruction, kl}, all means over images. Objective
    elbo: −ELBO (eq. 1) with the KL weighted by kl_weight(step), where each latent of each image pays
    at least free_bits. Objective iwae: −log of the IWAE bound. The terms reconstruction and kl are
    plain: unweighted, without free bits. kl_weight grows from 0 to beta, linearly, over the first
    kl_warm_up updates.
    """,
    keep=2,
    leaks="models.LatentModel.latent_loss models.negative_elbo models.AutoDecoder.loss_terms",
)

SIZES = dict(encoder="mlp", encoder_hidden=8, decoder="mlp", decoder_hidden=8, latent_dim=3)


def small_vae(files, draw, **options):
    model = draw.fill(files.models.VAE((1, 6, 6), **SIZES, **options), scale=1.5).eval()
    return model, files.models.Batch(draw.uniform(5, 1, 6, 6), torch.zeros(5).long(), None)


def replace_other_tasks(files, draw):
    """Functions of other tasks become something else, with known noise, so that those cost nothing here."""
    noise = draw.normal(6, 7, 3)

    def sample(q, n=None):
        shape = noise[0, : len(q.mean)] if n is None else noise[:n, : len(q.mean)]
        return q.mean + q.log_variance.tanh() * shape

    files.models.Gaussian.sample = sample
    files.models.Gaussian.kl = lambda q: (q.mean + q.log_variance / 3).abs()
    files.models.bernoulli_nll = lambda logits, x: (logits - x).abs().flatten(1).sum(1)


def loss_of_vae(files, draw, step=10**9, **options):
    model, batch = small_vae(files, draw, **options)
    replace_other_tasks(files, draw)
    return model.loss(batch, step)


@assignment.part(8, "−ELBO, a mean over images of sums over pixels and latents")
def negative_elbo(files, draw):
    loss, _ = loss_of_vae(files, draw)
    return {"loss": loss}


@assignment.part(5, "beta and its warm-up")
def warm_up(files, draw):
    cases = {
        "beta 4": (10**9, dict(beta=4.0)),
        "beta 4, step 25 of 100": (25, dict(beta=4.0, kl_warm_up=100)),
        "beta 4, step 250 of 100": (250, dict(beta=4.0, kl_warm_up=100)),
        "beta 0": (0, dict(beta=0.0)),
    }
    state = draw.random.get_state()
    outputs = {}
    for name, (step, options) in cases.items():
        draw.random.set_state(state)
        outputs[name], _ = loss_of_vae(files, draw, step, **options)
    return outputs


@assignment.part(5, "free bits")
def free_bits(files, draw):
    model, batch = small_vae(files, draw)
    replace_other_tasks(files, draw)
    model.free_bits = model.posterior(batch.x).kl().median().item()  # half of the latents pay them
    half, _ = model.loss(batch, 10**9)
    model.free_bits = 50.0
    none, _ = model.loss(batch, 10**9)
    return {"loss, half of all latents below the free bits": half, "loss, all of them below": none}


@assignment.part(4, "the terms that are logged")
def terms(files, draw):
    loss, terms = loss_of_vae(files, draw, beta=3.0, free_bits=0.8)
    return {
        "names": ", ".join(sorted(terms)),
        "reconstruction": terms["reconstruction"],
        "kl": terms["kl"],
        "logged loss − loss": terms["loss"] - loss,
    }


@assignment.part(3, "the IWAE objective")
def iwae(files, draw):
    model, batch = small_vae(files, draw, objective="iwae", iwae_samples=4)
    weights = draw.normal(4, 5, scale=3)
    model.log_weights = lambda x, labels, k, posterior=None: (weights[:k], torch.full((k, 5), 2.0))
    replace_other_tasks(files, draw)
    files.models.iwae_bound = lambda log_weights: 3 * log_weights[0] - log_weights[1]
    loss, _ = model.loss(batch, 10**9)
    return {"loss, if the bound were 3 w_1 − w_2": loss}


# -----------------------------------------------------------------------------------------------------------
assignment.task(
    "2.6",
    "models.VAE.log_weights",
    """
    draw k samples z of q(z | x); return log p(x | z) + log p(z) − log q(z | x) and −log p(x | z),
    both [k, B] (eq. 6). The decoder takes [k * B, latent_dim], and ln p(z) and ln q(z | x) come from
    Gaussian.log_prob. `posterior` is q(z | x), if the caller has it already.
    """,
)


@assignment.part(15, "log weights of k samples")
def log_weights(files, draw):
    model, batch = small_vae(files, draw)
    replace_other_tasks(files, draw)
    files.models.Gaussian.log_prob = lambda q, z: (z * (q.mean + 1).tanh() - q.log_variance + 0.3).sum(-1)
    weights, nll = model.log_weights(batch.x, batch.y, 4)
    shapes = f"{list(weights.shape)}, {list(nll.shape)}"
    if shapes != "[4, 5], [4, 5]":
        return {"shapes": shapes}
    return {"shapes": shapes, "−log p(x | z)": nll, "log weights, with another log_prob": weights}


@assignment.part(4, "labels go with their images")
def labels(files, draw):
    model = files.models.ConditionalVAE((1, 6, 6), 3, dense=8, **SIZES)
    draw.fill(model, scale=1.5).eval()
    x = draw.uniform(3, 1, 6, 6)
    replace_other_tasks(files, draw)
    files.models.Gaussian.log_prob = lambda q, z: z.sum(-1)
    _, nll = model.log_weights(x, torch.tensor([0, 1, 2]), 2)
    unlabeled, _ = small_vae(files, draw)
    _, nll_of_unlabeled = unlabeled.log_weights(x, None, 2)
    return {"−log p(x | z)": nll, "−log p(x | z) without labels": nll_of_unlabeled}


# -----------------------------------------------------------------------------------------------------------
assignment.task(
    "2.7",
    "models.iwae_bound metrics.iwae_bound metrics.log_likelihood",
    """
    log of the mean of k weights that are given as logarithms (eq. 7). In metrics.py its mean over images and
    over consecutive groups of k of the K weights, where a rest of fewer than k is left out; and for each
    image the log of the mean of all weights and the effective sample size (eq. 8).
    """,
)


@assignment.part(3, "log of the mean weight, also of tiny ones")
def bound(files, draw):
    weights = draw.normal(4, 5, scale=3)
    return {
        "bound": files.models.iwae_bound(weights),
        "bound of one sample": files.models.iwae_bound(weights[:1]),
        "bound of weights near exp(−5000)": files.models.iwae_bound(weights - 5000),
    }


@assignment.part(2, "the bound of k out of K samples")
def bound_of_groups(files, draw):
    weights = draw.normal(10, 3, scale=3)
    return {
        "k = 1": files.metrics.iwae_bound(weights, 1),
        "k = 3 of 10": files.metrics.iwae_bound(weights, 3),
        "k = 10": files.metrics.iwae_bound(weights, 10),
    }


@assignment.part(2, "the effective sample size")
def effective_sample_size(files, draw):
    log_p, effective = files.metrics.log_likelihood(draw.normal(6, 5))
    _, equal = files.metrics.log_likelihood(torch.full((6, 1), -5000.0, dtype=torch.float64))
    return {"log p(x)": log_p, "effective": effective, "effective, of 6 equal weights": equal}


# -----------------------------------------------------------------------------------------------------------
assignment.task("2.8", "", "the VAE trains.", seconds=120)


@assignment.part(9, "train.py, 150 updates: −ELBO of test digits below 190 nats")
def trains(files, draw):
    scores = train(files, "--model vae --encoder mlp --decoder mlp --lr 2e-3 --steps 150 --batch-size 64")
    test = scores["test"]
    return {"test −ELBO below 190": str(test["loss"] < 190), "KL from 5 to 40": str(5 < test["kl"] < 40)}
