"""Assignment 5: the auto-decoder and the variational auto-decoder."""

from types import SimpleNamespace

import torch
from probing import About, Assignment, slope, train

assignment = Assignment(extras=["datasets/fashion2k.npz"])
N_SAMPLES = 20000


# -----------------------------------------------------------------------------------------------------------
assignment.task(
    "5.1",
    "models.Exponential.sample models.Uniform.sample",
    """
    one sample z [B, D], made of uniform noise in [0, 1) so that gradients reach the parameters (eq. 1
    and 2). It must be finite even where the noise is 0.
    """,
)


@assignment.part(8, "the exponential: its distribution, finite and differentiable")
def exponential(files, draw):
    log_rate = draw.normal(2, 3).requires_grad_()
    z = files.models.Exponential(log_rate.repeat(N_SAMPLES, 1)).sample().view(N_SAMPLES, 2, 3)
    means = z.detach().mean(0)
    (by_log_rate,) = slope(z.mean(0), log_rate)
    if not isinstance(by_log_rate, str):
        by_log_rate = About((by_log_rate / means).clamp(-5, 5), 0.08)
    rand_like = torch.rand_like
    torch.rand_like = torch.zeros_like
    try:
        smallest = files.models.Exponential(torch.zeros(1, 3)).sample()
    finally:
        torch.rand_like = rand_like
    log_ratio = means.abs().clamp(min=1e-6).log() + log_rate.detach()
    return {
        "log of the mean times the rate": About(log_ratio.clamp(-5, 5), 0.08),
        "no sample is below 0": str(bool((z >= 0).all())),
        "share of samples above the mean": About((z > means).float().mean(0), 0.04),
        "slope of the mean by log_rate, over the mean": by_log_rate,
        "finite where the noise is 0": str(bool(smallest.isfinite().all())),
    }


@assignment.part(8, "the uniform: between its ends, and differentiable")
def uniform(files, draw):
    width = draw.uniform(2, 3, low=0.2, high=0.5).requires_grad_()
    start = draw.uniform(2, 3, low=0.1, high=0.5).requires_grad_()
    q = files.models.Uniform(start.repeat(N_SAMPLES, 1), width.repeat(N_SAMPLES, 1))
    z = q.sample().view(N_SAMPLES, 2, 3)
    by_start, by_width = slope(z.mean(0), start, width)
    place = ((z - start) / width).detach()
    mean_place = place.mean(0) * (place.std(0) > 0.01)  # of equal samples it would say nothing
    if not isinstance(by_width, str):
        by_width = About(by_width - place.mean(0), 0.05)
    outputs = {
        "mean place between start (0) and end (1)": About(mean_place, 0.05),
        "deviation of this place": About(place.std(0), 0.03),
        "all between both ends": str(bool((place > -1e-4).all() and (place < 1 + 1e-4).all())),
        "slope of the mean by start": by_start,
        "slope of the mean by width − mean place": by_width,
    }
    pair = torch.stack([place[:, 0].flatten(), place[:, 1].flatten()])
    outputs["correlation of two images"] = About(torch.corrcoef(pair)[0, 1].nan_to_num(), 0.1)
    return outputs


# -----------------------------------------------------------------------------------------------------------
assignment.task(
    "5.2",
    "models.Exponential.kl models.Uniform.kl",
    """
    KL from the prior, which is Exp(1) and the uniform on [0, 1], in nats for each image and latent, [B, D]
    (eq. 3 and 4).
    """,
)


@assignment.part(6, "exponential")
def exponential_kl(files, draw):
    log_rate = draw.normal(4, 3).requires_grad_()
    kl = files.models.Exponential(log_rate).kl()
    of_prior = files.models.Exponential(torch.zeros(1, 2)).kl()
    return {"KL of the prior from itself": of_prior, "KL": kl, "slope": slope(kl, log_rate)[0]}


@assignment.part(4, "uniform")
def uniform_kl(files, draw):
    width = draw.uniform(4, 3, low=0.05).requires_grad_()
    kl = files.models.Uniform(draw.uniform(4, 3) * (1 - width), width).kl()
    of_prior = files.models.Uniform(torch.zeros(1, 2), torch.ones(1, 2)).kl()
    return {"KL of the prior from itself": of_prior, "KL": kl, "slope": slope(kl, width)[0]}


# -----------------------------------------------------------------------------------------------------------
assignment.task(
    "5.3",
    "models.Uniform.from_params",
    """
    a uniform on [start, start + width] inside [0, 1], of any numbers [..., 2 * D]: sigmoids of both halves,
    and the start scaled to the room that the width leaves (eq. 5).
    """,
)


@assignment.part(8, "inside [0, 1], whatever the numbers")
def from_params(files, draw):
    q = files.models.Uniform.from_params(draw.normal(4, 6, scale=3))
    far = files.models.Uniform.from_params(torch.tensor([[40.0, -40.0, 40.0, -40.0]]))
    return {"start": q.start, "width": q.width, "end of large numbers": far.start + far.width}


# -----------------------------------------------------------------------------------------------------------
assignment.task(
    "5.4",
    "models.AutoDecoder.turns",
    """
    a list with one Turn, of self.loss and two parameter groups: the decoder's parameters, and the latents
    with a learning rate of their own, latent_lr.
    """,
)


@assignment.part(10, "two groups, their parameters and rates")
def turns(files, draw):
    sizes = dict(decoder="mlp", decoder_hidden=6)
    model = files.models.AutoDecoder((1, 5, 5), 4, 2, 3, latent_lr=0.03, **sizes)
    (turn,) = model.turns()
    rates = {}
    for group in torch.optim.Adam(turn.param_groups, 0.001).param_groups:
        rates |= {id(parameter): group["lr"] for parameter in group["params"]}
    by_name = {name: rates.get(id(parameter)) for name, parameter in model.named_parameters()}
    return {"loss": turn.loss.__name__, "learning rate of each parameter": str(by_name)}


# -----------------------------------------------------------------------------------------------------------
assignment.task(
    "5.5",
    "models.AutoDecoder.loss_terms",
    """
    the loss of images whose latents have these parameters, and the terms {loss, reconstruction, kl, rmse},
    where "kl" is called "penalty" if the distribution is Point. Objective nats: eq. 6. Objective report:
    eq. 7. rmse is the root of the mean squared error of all pixels, in 0..255.
    """,
    leaks="models.LatentModel.latent_loss models.VAE.loss models.negative_elbo",
)


def auto_decoder(files, draw, name, **options):
    """A small model, and images; functions of other tasks become something else, with known noise."""
    sizes = dict(latent_dim=3, decoder="mlp", decoder_hidden=6)
    model = getattr(files.models, name)((1, 5, 5), 9, 2, beta=0.7, **sizes, **options)
    noise = draw.normal(9, 3)
    gaussian = files.models.Gaussian
    gaussian.sample = lambda q, n=None: q.mean + q.log_variance.tanh() * noise[: len(q.mean)]
    gaussian.kl = lambda q: (q.mean + q.log_variance / 3).abs()
    files.models.Point.kl = lambda q: q.mean.abs()
    files.models.bernoulli_nll = lambda logits, x: (logits - x).abs().flatten(1).sum(1)
    return draw.fill(model, scale=2), draw.uniform(9, 1, 5, 5)


@assignment.part(8, "nats, of points and of Gaussians")
def nats(files, draw):
    outputs = {}
    for name in ("AutoDecoder", "VariationalAutoDecoder"):
        model, x = auto_decoder(files, draw, name)
        loss, terms = model.loss_terms(model.latents.weight, x, 0.7)
        outputs[f"{name}: loss"] = loss
        outputs[f"{name}: names"] = ", ".join(sorted(terms))
        outputs[f"{name}: KL or penalty"] = terms.get("kl", terms.get("penalty"))
    return outputs


@assignment.part(7, "the loss of the report")
def report(files, draw):
    model, x = auto_decoder(files, draw, "VariationalAutoDecoder", objective="report")
    loss, terms = model.loss_terms(model.latents.weight, x, 0.7)
    return {
        "reconstruction": terms["reconstruction"],
        "KL": terms["kl"],
        "loss": loss,
        "rmse": terms["rmse"],
    }


# -----------------------------------------------------------------------------------------------------------
assignment.task(
    "5.6",
    "models.fit_latents",
    """
    parameters [n, n_params * latent_dim] that minimize model.latent_loss(params, images, labels, beta) by
    Adam, from `start`, which stays as it is, or from N(0, I). The network is in eval mode meanwhile and
    gathers no gradients. Each epoch sees every image once, in a new random order, in batches of batch_size
    (None: all at once). Return them without a graph; after each epoch, counted from 1, call
    callback(epoch, mean loss).
    """,
)


class Bowl(torch.nn.Module):
    """A model whose latent_loss is the squared distance of the latents from three pixels of each image."""

    distribution = SimpleNamespace(n_params=1)
    latent_dim = 3

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(1))
        self.batches = []  # (numbers of the images, whether in training mode, labels)

    def latent_loss(self, params, x, labels, beta):
        self.batches.append((x[:, 0, 0, 0].long().tolist(), self.training, labels))
        distance = (params - x[:, 0, 0, 1:]).square().sum(1) * self.weight
        return (distance + beta * params.square().sum(1)).mean()


def numbered_images(draw):
    return torch.cat([torch.arange(11.0).view(11, 1, 1, 1), draw.normal(11, 1, 1, 3)], 3)


@assignment.part(12, "the minimum, from a start and with beta")
def minimum(files, draw):
    outputs = {}
    cases = {"all at once": {}, "batches of 4": dict(batch_size=4), "beta 1": dict(beta=1.0)}
    for name, options in cases.items():
        x = numbered_images(draw)
        start = draw.normal(11, 3)
        before = start.clone()
        params = files.models.fit_latents(Bowl(), x, 100, 0.2, start=start, **options)
        minimum = x[:, 0, 0, 1:] / (2 if "beta" in options else 1)
        after_one = files.models.fit_latents(Bowl(), x, 1, 0.2, start=before.clone(), **options)
        is_nearer = (after_one - minimum).abs().mean() < (before - minimum).abs().mean()
        outputs[f"{name}: at the minimum"] = str(bool((params - minimum).abs().mean() < 0.03))
        outputs[f"{name}: nearer after one epoch"] = str(bool(is_nearer))
        outputs[f"{name}: start stays as it is"] = str(torch.equal(start, before))
        outputs[f"{name}: has a graph"] = str(params.requires_grad)
    return outputs


@assignment.part(8, "every image once in each epoch, eval mode, a network that stays as it was")
def epochs(files, draw):
    fit_latents = files.models.fit_latents
    x = numbered_images(draw)
    start = draw.normal(11, 3)
    labels = torch.arange(11)
    model = Bowl()
    numbers = []
    fit_latents(
        model, x, 2, 0.1, batch_size=4, labels=labels, callback=lambda epoch, loss: numbers.append(epoch)
    )
    orders = [[i for batch, _, _ in part for i in batch] for part in (model.batches[:3], model.batches[3:])]
    goes_with = [batch_labels.tolist() == batch for batch, _, batch_labels in model.batches]
    return {
        "sizes of batches": str([len(batch) for batch, _, _ in model.batches]),
        "every image once": str([sorted(order) == list(range(11)) for order in orders]),
        "the same order twice": str(orders[0] == orders[1]),
        "no epochs: start comes back": str(torch.equal(fit_latents(Bowl(), x, 0, 0.1, start=start), start)),
        "shape without a start": str(list(fit_latents(Bowl(), x, 0, 0.1).shape)),
        "training mode meanwhile": str(any(training for _, training, _ in model.batches)),
        "training mode afterwards": str(model.training),
        "the network has a gradient": str(model.weight.grad is not None),
        "labels go with their images": str(all(goes_with)),
        "epochs of the callback": str(numbers),
    }


# -----------------------------------------------------------------------------------------------------------
assignment.task(
    "5.7",
    "models.AutoDecoder.sample",
    """
    n images that self.decode makes of samples of a Gaussian with the mean and covariance of the training
    latents self.latents.weight; `scale` multiplies the deviations from the mean (eq. 8).
    """,
)


@assignment.part(10, "mean and covariance of the latents")
def sample(files, draw):
    mixing = torch.tensor([[2.0, 0.6], [0.0, 0.5]])
    latents = draw.normal(40, 2) @ mixing + torch.tensor([3.0, -1.0])
    model = SimpleNamespace(latents=SimpleNamespace(weight=latents), decode=lambda z, labels=None: z)
    z = files.models.AutoDecoder.sample(model, 40000)
    if z.shape != (40000, 2):
        return {"shape": str(list(z.shape))}
    twice = files.models.AutoDecoder.sample(model, 40000, scale=2.0)
    outputs = {"shape": str(list(z.shape))}
    for name, samples in (("scale 1", z), ("scale 2", twice)):
        deviation = samples.std(0)
        bias = ((samples.mean(0) - latents.mean(0)) / deviation).clamp(-1, 1)
        log_ratio = (deviation / latents.std(0)).log().clamp(-5, 5)
        correlation = torch.corrcoef(samples.T)[0, 1] - torch.corrcoef(latents.T)[0, 1]
        outputs[f"{name}: mean − mean of the latents, in deviations"] = About(bias, 0.06)
        outputs[f"{name}: log of the deviation over that of the latents"] = About(log_ratio, 0.05)
        outputs[f"{name}: correlation − that of the latents"] = About(correlation, 0.06)
    return outputs


# -----------------------------------------------------------------------------------------------------------
assignment.task("5.8", "", "the variational auto-decoder trains.", seconds=120)


@assignment.part(11, "train.py, 8 epochs: root mean squared error of training images below 60 of 255")
def trains(files, draw):
    flags = "--model vad --data fashion2k --decoder mlp --epochs 8 --lr 3e-3 --latent-lr 3e-2 --fit-epochs 2"
    return {"train RMSE below 60": str(train(files, flags + " --beta 0.1")["train"]["rmse"] < 60)}
