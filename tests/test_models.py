"""What models.py promises, held against formulas, loops, torch.distributions and scipy."""

import argparse
import inspect
import io
import math
import os
import pickle
import re
import sys
import zipfile

import numpy as np
import pytest
import scipy.spatial.distance
import scipy.stats
import torch
import torch.nn as nn
from torch.utils._python_dispatch import TorchDispatchMode

import data
import models
import train
from models import Batch, Gaussian, ModelError

INF = math.inf
SMALL = dict(encoder_hidden=8, decoder_hidden=8, latent_dim=4, fit_epochs=2)
MAKERS = [
    name for name in models.MODELS if {"encoder", "decoder"} <= models.constructor_defaults(name).keys()
]
DIGITS = np.load(data.BUILT_IN / "mnist10k.npz")


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


def build(model, image_shape=(1, 28, 28), **options):
    takes = models.constructor_defaults(model)
    n_classes = 13 if "drawn" in models.MODELS[model].defaults else 3  # arithmetic's symbols
    facts = dict(image_shape=image_shape, n_classes=n_classes, n_train=50, n_test=20) | options
    return models.build(model, **{name: value for name, value in facts.items() if name in takes})


def tiny(model="vae", **options):
    """A model of MLPs for pictures of 4 x 4, in eval mode."""
    return build(model, **SMALL | dict(image_shape=(1, 4, 4), encoder="mlp", decoder="mlp") | options).eval()


def make_batch(n=4, image_shape=(1, 28, 28), n_classes=3):
    return Batch(torch.rand(n, *image_shape), torch.arange(n) % n_classes, torch.arange(n))


def drawn_alike(function, *arguments, **options):
    """What the function returns where the noise is always the same."""
    torch.manual_seed(1)
    return function(*arguments, **options)


def images(x, *shape):
    return tuple(x.shape) == shape and x.min() >= 0 and x.max() <= 1


# -----------------------------------------------------------------------------------------------------------
# Every combination of networks


@pytest.mark.parametrize("image_shape", [(1, 28, 28), (1, 32, 32), (3, 64, 64)], ids=str)
@pytest.mark.parametrize("decoder", models.DECODERS)
@pytest.mark.parametrize("encoder", models.ENCODERS)
@pytest.mark.parametrize("model", MAKERS)
def test_every_pair_of_networks_trains_and_keeps_the_contract(model, encoder, decoder, image_shape):
    built = build(model, image_shape, encoder=encoder, decoder=decoder, **SMALL)
    batch = make_batch(3, image_shape)
    x, y, _ = batch
    ((groups, loss_function),) = built.turns()
    loss, parts = loss_function(batch, 0)
    assert loss.shape == () and loss.isfinite() and "loss" in parts
    assert all(part.shape == () and part.isfinite() for part in parts.values())
    loss.backward()
    dead = [name for name, p in built.named_parameters() if p.grad is None or not p.grad.any()]
    assert not dead
    stepped = [p for group in groups for p in group["params"]]
    assert {id(p) for p in stepped} == {id(p) for p in built.parameters()}
    with torch.inference_mode():
        z = built.encode(x, y)
        assert z.shape == (3, 4)
        assert images(built.decode(100 * z, y), 3, *image_shape)
        assert images(built.reconstruct(x, y), 3, *image_shape)
        assert torch.equal(built.reconstruct(x, y), built.decode(z, y))
        assert built.draws_samples or not built.has_posterior
        if built.draws_samples:
            assert images(built.sample(5), 5, *image_shape)
            assert images(built.sample(3, y, scale=2.0, truncate=1.0), 3, *image_shape)


@pytest.mark.parametrize("image_shape", [(1, 28, 28), (1, 32, 32), (3, 64, 64)], ids=str)
@pytest.mark.parametrize("decoder", models.DECODERS)
@pytest.mark.parametrize("options", [
    ("ad", dict(beta=0.1)), ("vad", dict(prior="gaussian")), ("vad", dict(prior="exponential")),
    ("vad", dict(prior="uniform")),
], ids=lambda options: "-".join([options[0], *map(str, options[1].values())]))  # fmt: skip
def test_auto_decoders_train_with_every_decoder(options, decoder, image_shape):
    built = build(options[0], image_shape, decoder=decoder, **options[1], **SMALL)
    ((groups, loss_function),) = built.turns()
    loss, parts = loss_function(make_batch(3, image_shape), 0)
    assert loss.shape == () and loss.isfinite() and parts["loss"] is loss
    assert all(part.shape == () and part.isfinite() for part in parts.values())
    assert parts.keys() <= models.UNITS.keys()
    loss.backward()
    assert not [name for name, p in built.named_parameters() if p.grad is None or not p.grad.any()]
    stepped = [p for group in groups for p in group["params"]]
    assert len(stepped) == len({id(p) for p in stepped}) == len([*built.parameters()])
    with torch.inference_mode():
        z = built.encode(make_batch(3, image_shape).x)
        assert z.shape == (3, 4) and z.isfinite().all()
        assert images(built.decode(100 * z), 3, *image_shape)
        assert images(built.sample(5), 5, *image_shape)
        if built.distribution in (models.Point, Gaussian):
            assert images(built.sample(3, scale=2.0, truncate=1.0), 3, *image_shape)
        else:
            with pytest.raises(ModelError, match="--truncate"):
                built.sample(3, truncate=1.0)


@pytest.mark.parametrize("image_shape", [(1, 28, 28), (1, 32, 32), (3, 64, 64)], ids=str)
@pytest.mark.parametrize("encoder", models.ENCODERS)
def test_classifier_trains_with_every_encoder(encoder, image_shape):
    model = build("classifier", image_shape, encoder=encoder, encoder_hidden=8)
    batch = make_batch(4, image_shape)
    x, y, _ = batch
    loss, parts = model.turns()[0].loss(batch, 0)
    loss.backward()
    assert loss.isfinite() and 0 <= parts["accuracy"] <= 100
    assert all(p.grad is not None and p.grad.any() for p in model.parameters())
    model.eval()
    chances = model.predict(x)
    assert chances.shape == (4, 3) and chances.min() >= 0
    torch.testing.assert_close(chances.sum(1), torch.ones(4))
    loss, parts = model.loss(batch, INF)
    torch.testing.assert_close(loss, -chances[range(4), y].log().mean())
    assert parts["accuracy"] == 100 * (chances.argmax(1) == y).float().mean()


# -----------------------------------------------------------------------------------------------------------
# Likelihoods


def test_pixels_are_scored_as_a_loop_would():
    logits, x = torch.randn(2, 3, 4, 4, dtype=torch.float64), torch.rand(2, 3, 4, 4, dtype=torch.float64)
    bernoulli, gaussian = [0, 0], [0, 0]
    for k in range(2):
        for logit, pixel in zip(logits[k].flatten().tolist(), x[k].flatten().tolist(), strict=True):
            p = 1 / (1 + math.exp(-logit))
            bernoulli[k] -= pixel * math.log(p) + (1 - pixel) * math.log(1 - p)
            gaussian[k] += (logit - pixel) ** 2
    assert models.bernoulli_nll(logits, x).tolist() == pytest.approx(bernoulli)
    assert models.gaussian_nll(logits, x).tolist() == pytest.approx(gaussian)
    normal = torch.distributions.Normal(logits, 0.5**0.5)  # variance ½, as gaussian_nll says
    density = normal.log_prob(x).flatten(1).sum(1)
    torch.testing.assert_close(models.gaussian_nll(logits, x), -density - 48 / 2 * math.log(math.pi))


@pytest.mark.parametrize("nats", [models.bernoulli_nll, models.gaussian_nll])
def test_nats_have_the_right_gradient_and_sum_over_pixels(nats):
    logits = torch.randn(2, 1, 3, 3, dtype=torch.float64, requires_grad=True)
    x = torch.rand(2, 1, 3, 3, dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda logits: nats(logits, x), logits)
    assert nats(logits, x).shape == (2,)
    torch.testing.assert_close(nats(logits.tile(1, 1, 2, 1), x.tile(1, 1, 2, 1)), 2 * nats(logits, x))
    assert nats(1e4 * logits.detach(), x).isfinite().all()


# -----------------------------------------------------------------------------------------------------------
# Distributions over latents


def oracles(params):
    """torch.distributions with these unconstrained parameters, by the formulas of report R1."""
    first, second = params.chunk(2, dim=-1)
    width = 1 / (1 + (-second).exp())
    start = (1 - width) / (1 + (-first).exp())
    return {
        "gaussian": torch.distributions.Normal(first, second.exp().sqrt()),
        "exponential": torch.distributions.Exponential(params.exp()),
        "uniform": torch.distributions.Uniform(start, start + width, validate_args=False),
    }


PRIORS = dict(gaussian=scipy.stats.norm, exponential=scipy.stats.expon, uniform=scipy.stats.uniform)
KINDS = pytest.mark.parametrize("kind", models.DISTRIBUTIONS)


def is_drawn_from(z, cdf):
    return scipy.stats.kstest(z.flatten().double().numpy(), cdf).pvalue > 1e-4


def test_log_density_agrees_with_torch_distributions():
    params = torch.randn(3, 10, dtype=torch.float64)
    q, oracle = Gaussian.from_params(params), oracles(params)["gaussian"]
    z = oracle.sample((7,))
    torch.testing.assert_close(q.log_prob(z), oracle.log_prob(z).sum(-1))
    torch.testing.assert_close(q.log_prob(z[0]), oracle.log_prob(z[0]).sum(-1))


@KINDS
def test_mean_agrees_with_torch_distributions(kind):
    params = torch.randn(3, 10, dtype=torch.float64)
    q = models.DISTRIBUTIONS[kind].from_params(params)
    assert q.mean.shape == (3, 10 // q.n_params)
    torch.testing.assert_close(q.mean, oracles(params)[kind].mean)


@KINDS
def test_kl_agrees_with_monte_carlo_of_log_densities(kind):
    """300 sets of parameters; each estimate is compared with its standard error."""
    from_params, n = models.DISTRIBUTIONS[kind].from_params, 4000
    params = 1.5 * torch.randn(300, 2, dtype=torch.float64)
    z = from_params(params.expand(n, -1, -1)).sample()
    prior = scipy.stats.norm.logpdf, scipy.stats.expon.logpdf, scipy.stats.uniform.logpdf
    prior = dict(zip(models.DISTRIBUTIONS, prior, strict=True))[kind]
    log_q = oracles(params)[kind].log_prob(z).sum(-1)
    difference = log_q - torch.from_numpy(prior(z.numpy())).sum(-1)
    kl = from_params(params).kl()
    assert kl.shape == (300, z.shape[2]) and (kl >= 0).all()
    error = difference.std(0) / n**0.5
    away = (difference.mean(0) - kl.sum(1)).abs()
    assert (away <= 5 * error + 1e-9).all()
    assert (
        kind == "uniform" or 0.8 < (away / error).square().mean() < 1.25
    )  # neither biased nor too cautious


def test_gaussian_kl_agrees_with_torch_distributions():
    params = torch.randn(3, 10, dtype=torch.float64)
    prior = torch.distributions.Normal(torch.zeros(5), torch.ones(5))
    expected = torch.distributions.kl_divergence(oracles(params)["gaussian"], prior)
    torch.testing.assert_close(Gaussian.from_params(params).kl(), expected)
    z = Gaussian.from_params(params).sample(40_000)
    assert z.shape == (40_000, 3, 5)
    torch.testing.assert_close(z.std(0), oracles(params)["gaussian"].stddev, rtol=0.02, atol=0)


@KINDS
def test_samples_have_the_distribution_and_its_moments(kind):
    params, n = torch.randn(4, 2), 20_000
    q, oracle = models.DISTRIBUTIONS[kind].from_params(params.expand(n, -1, -1)), oracles(params)[kind]
    z = q.sample()
    assert ((z.mean(0) - oracle.mean).abs() < 5 * oracle.stddev / n**0.5).all()
    torch.testing.assert_close(z.std(0), oracle.stddev, rtol=0.05, atol=0)
    unit = oracle.cdf(z)  # uniform, whatever the distribution
    assert all(is_drawn_from(unit[:, row, k], "uniform") for row in range(4) for k in range(z.shape[-1]))
    assert (unit.amax(0) > 0.999).all() and (unit.amin(0) < 0.001).all()  # tails and all
    assert (q.sample() != z).any(-1).float().mean() > 0.99


@KINDS
def test_priors_are_drawn_as_they_are_called(kind):
    distribution = models.DISTRIBUTIONS[kind]
    z = distribution.prior(5000, 4)
    assert z.shape == (5000, 4) and is_drawn_from(z, PRIORS[kind].cdf)
    if kind == "gaussian":
        assert distribution.prior(5000, 4, truncate=1.0).abs().max() <= 1
    else:
        with pytest.raises(ModelError, match="--truncate"):
            distribution.prior(5, 4, truncate=1.0)


@KINDS
def test_any_numbers_make_a_distribution(kind):
    distribution = models.DISTRIBUTIONS[kind]
    ends = torch.tensor([-50.0, -8.0, 0.0, 8.0, 50.0])
    params = torch.cartesian_prod(ends, ends)[:, : distribution.n_params].repeat(40, 1).requires_grad_()
    q = distribution.from_params(params)
    z = q.sample()
    for value in (z, q.mean, q.kl()):
        assert value.isfinite().all()
    assert (q.kl() > -1e-6).all()
    (z.sum() + q.kl().sum()).backward()
    assert params.grad.isfinite().all() and params.grad.abs().max() > 0.5
    if kind == "uniform":
        assert q.start.min() >= 0 and (q.width > 0).all() and (q.start + q.width).max() <= 1 + 1e-6


def test_a_point_costs_its_negative_log_density_less_the_constant():
    z = torch.randn(3, 5)
    density = torch.distributions.Normal(0.0, 1.0).log_prob(z)
    torch.testing.assert_close(models.Point.from_params(z).kl(), -density - math.log(2 * math.pi) / 2)
    assert torch.equal(models.Point.from_params(z).sample(), z) and torch.equal(
        models.Point.from_params(z).mean, z
    )


# -----------------------------------------------------------------------------------------------------------
# Losses


@pytest.mark.parametrize("likelihood", models.LIKELIHOODS)
def test_autoencoder_loss_is_summed_over_pixels_and_averaged_over_images(likelihood):
    model = tiny("ae", likelihood=likelihood)
    batch = make_batch(6, (1, 4, 4))
    image = model.reconstruct(batch.x)
    cross = -(batch.x * image.log() + (1 - batch.x) * (1 - image).log())
    each = cross if likelihood == "bernoulli" else (batch.x - image) ** 2
    torch.testing.assert_close(model.loss(batch, 0)[0], each.sum() / 6)


@pytest.mark.parametrize("beta", [0.0, 1.0, 4.0])
@pytest.mark.parametrize("model", ["vae", "cvae"])
def test_elbo_is_reconstruction_plus_beta_kl(model, beta):
    loss, parts = tiny(model, beta=beta).loss(make_batch(4, (1, 4, 4)), INF)
    torch.testing.assert_close(loss, parts["reconstruction"] + beta * parts["kl"])
    assert parts["loss"] is loss and parts["kl"] > 0
    assert set(parts) <= models.UNITS.keys()


def test_warm_up_raises_the_weight_of_the_kl_from_nothing_to_beta():
    model = tiny(beta=3.0, kl_warm_up=200)
    batch = make_batch(4, (1, 4, 4))
    for step, weight in [(0, 0), (50, 0.75), (100, 1.5), (200, 3), (1000, 3), (INF, 3)]:
        loss, parts = model.loss(batch, step)
        torch.testing.assert_close(loss, parts["reconstruction"] + weight * parts["kl"])


def test_free_bits_clamp_per_image_and_latent():
    """One latent of two images: KLs of 0 and 2 cost (½ + 2) / 2. Clamped by their mean they would cost 1."""
    model = tiny(latent_dim=2, free_bits=0.5, beta=2.0)
    batch = make_batch(2, (1, 4, 4))
    mean = torch.tensor([[0.0, 1.0], [2.0, 0.4]])  # KL mean² / 2: 0, ½, 2, .08
    model.posterior = lambda x, labels: Gaussian(mean, torch.zeros(2, 2))
    loss, parts = model.loss(batch, 0)
    assert (loss - parts["reconstruction"]).item() == pytest.approx(2 * (0.5 + 0.5 + 2 + 0.5) / 2, abs=1e-5)
    assert parts["kl"].item() == pytest.approx((0 + 0.5 + 2 + 0.08) / 2)


def noise_of_each_example(monkeypatch, noise):
    """Replaces torch.randn by noise [..., N, D] of which each example keeps its part in any batch; returns a
    function that starts over."""
    place = 0

    def randn(shape, device=None):
        nonlocal place
        place += shape[-2]
        return noise[..., place - shape[-2] : place, :].expand(shape)

    def start():
        nonlocal place
        place = 0

    monkeypatch.setattr(torch, "randn", randn)
    return start


@pytest.mark.parametrize("model, options", [
    ("ae", {}), ("vae", dict(free_bits=0.1)), ("vae", dict(objective="iwae")),
    ("cvae", dict(likelihood="gaussian")), ("cvae", dict(objective="iwae", iwae_samples=3)),
    ("cvae", dict(label="add", beta=4.0)), ("classifier", dict(encoder="conv")),
])  # fmt: skip
def test_batch_size_changes_no_loss(model, options, monkeypatch):
    model = tiny(model, **options)
    batch = make_batch(11, (1, 4, 4))
    k = (model.iwae_samples,) if options.get("objective") == "iwae" else ()
    start = noise_of_each_example(monkeypatch, torch.randn(*k, 11, 4))
    _, whole = model.loss(batch, INF)
    start()
    parts = [model.loss(Batch(*part), INF)[1] for part in zip(*(t.split(4) for t in batch), strict=True)]
    for name, value in whole.items():
        mean = sum(size * part[name] for size, part in zip((4, 4, 3), parts, strict=True)) / 11
        torch.testing.assert_close(mean, value)


@pytest.mark.parametrize("model, options, names", [
    ("ae", dict(objective="elbo"), ["reconstruction"]),
    ("vae", dict(objective="reconstruction"), ["elbo", "iwae"]),
    ("classifier", dict(objective="mse"), ["cross-entropy"]),
    ("vae", dict(likelihood="poisson"), ["bernoulli", "gaussian"]),
    ("cvae", dict(label="multiply"), ["concat", "add"]),
    ("ae", dict(encoder="rnn"), ["conv", "lstm", "gru", "mlp"]),
    ("ae", dict(decoder="rnn"), ["conv", "lstm", "gru", "mlp"]),
    ("classifier", dict(encoder="gru", sequence="middle"), ["last", "full"]),
])  # fmt: skip
def test_a_choice_that_does_not_exist_is_refused_with_those_that_do(model, options, names):
    with pytest.raises(ModelError) as caught:
        build(model, **options)
    assert str(caught.value).endswith(": choose from " + ", ".join(names))
    assert caught.value.status == 2 and list(options.values())[-1] in str(caught.value)


@pytest.mark.parametrize("weight", [dict(beta=2.0), dict(kl_warm_up=10), dict(free_bits=0.1)])
def test_iwae_refuses_weights_of_a_kl(weight):
    with pytest.raises(ModelError, match="iwae"):
        tiny(objective="iwae", **weight)
    tiny(objective="elbo", **weight)


def test_a_shift_leaves_something_of_every_image():
    x = torch.ones(300, 1, 5, 7)
    build("vae", image_shape=(1, 5, 7), shift=4)
    assert models.shifted(x, 4).amax((1, 2, 3)).min() == 1
    with pytest.raises(ModelError, match="--shift 5"):
        build("vae", image_shape=(1, 5, 7), shift=5)


# -----------------------------------------------------------------------------------------------------------
# Bounds on log p(x), known in closed form where encoder and decoder are linear


def linear_vae(exact):
    """(model, x, log p(x)): pictures of 6 pixels from 2 latents; x | z ~ N(W z + b, I / 2)."""
    networks = dict(encoder_hidden=6, encoder_depth=0, decoder_hidden=2, decoder_depth=0)
    model = tiny(image_shape=(1, 2, 3), latent_dim=2, objective="iwae", likelihood="gaussian", **networks)
    model.double().to_pixels = nn.Identity()
    pixels = model.decoder.stack[0]
    assert isinstance(pixels, nn.Linear) and model.encoder.size == 6
    w = torch.linalg.qr(torch.randn(6, 2, dtype=torch.float64))[0] * torch.tensor([0.8, 1.3])
    with torch.no_grad():
        pixels.weight.copy_(w)
        # The posterior, whose precision I + 2 W'W is diagonal here, or something beside it
        variance = 1 / (1 + 2 * (w**2).sum(0))
        mean = 2 * variance[:, None] * w.T
        model.to_latent.weight.copy_(torch.cat([mean if exact else 0.8 * mean, torch.zeros(2, 6)]))
        model.to_latent.bias.copy_(torch.cat([-mean @ pixels.bias, variance.log() + (0 if exact else 0.4)]))
    x = torch.randn(4, 1, 2, 3, dtype=torch.float64)
    covariance = (w @ w.T + torch.eye(6) / 2).numpy()
    marginal = scipy.stats.multivariate_normal(pixels.bias.detach().numpy(), covariance)
    return model.eval(), Batch(x, None, None), torch.from_numpy(marginal.logpdf(x.flatten(1).numpy()))


def bounds(model, batch, k, repeats):
    """Importance weighted bounds of k samples [repeats, B], with the constant of the likelihood."""
    with torch.no_grad():
        weights = [model.log_weights(batch.x, batch.y, k)[0] for _ in range(repeats)]
        values = torch.stack([models.iwae_bound(weight) for weight in weights])
    return values - batch.x[0].numel() / 2 * math.log(math.pi)


def elbo(model, batch, repeats=1):
    model.objective = "elbo"
    with torch.no_grad():
        losses = torch.stack([model.loss(batch, INF)[0] for _ in range(repeats)])
    return -losses - batch.x[0].numel() / 2 * math.log(math.pi)


def test_with_the_true_posterior_every_bound_is_log_p():
    model, batch, log_p = linear_vae(exact=True)
    for k in (1, 7):
        torch.testing.assert_close(bounds(model, batch, k, 1)[0], log_p)
    elbos = elbo(model, batch, 4000)
    assert abs(elbos.mean() - log_p.mean()) < 5 * elbos.std() / 4000**0.5


def test_bounds_rise_with_the_samples_to_log_p():
    model, batch, log_p = linear_vae(exact=False)
    by_k = {k: bounds(model, batch, k, 1500).mean(1) for k in (1, 5, 50)}
    means = {k: values.mean() for k, values in by_k.items()}
    assert means[1] + 0.05 < means[5] and means[5] + 0.005 < means[50] < log_p.mean()
    torch.testing.assert_close(bounds(model, batch, 30_000, 1)[0], log_p, rtol=0, atol=0.02)
    single, direct = by_k[1], elbo(model, batch, 1500)
    error = (single.var() + direct.var()).sqrt() / 1500**0.5
    assert abs(single.mean() - direct.mean()) < 4 * error
    assert (direct.mean() + 4 * error) < log_p.mean()


def test_iwae_loss_is_the_negative_bound_with_a_finite_gradient():
    model = tiny(objective="iwae", iwae_samples=4)
    batch = make_batch(3, (1, 4, 4))
    torch.manual_seed(1)
    loss, parts = model.loss(batch, INF)
    torch.manual_seed(1)
    log_weights, nats = model.log_weights(batch.x, batch.y, 4)
    assert log_weights.shape == nats.shape == (4, 3)
    torch.testing.assert_close(loss, -log_weights.exp().mean(0).log().mean())
    torch.testing.assert_close(parts["reconstruction"], nats.mean())
    torch.testing.assert_close(parts["kl"], model.posterior(batch.x).kl().sum() / 3)
    assert loss.requires_grad


# -----------------------------------------------------------------------------------------------------------
# Conditional VAE


@pytest.mark.parametrize("label", models.LABELS)
def test_labels_change_the_picture(label):
    model, x = tiny("cvae", label=label), torch.rand(2, 1, 4, 4)
    y, z = torch.tensor([0, 2]), torch.zeros(2, 4)
    first, second = model.decode(z, y)
    assert not torch.allclose(first, second)
    assert not torch.allclose(model.decode(z, y.flip(0))[0], first)
    heard = not torch.allclose(model.encode(x, y), model.encode(x, y.flip(0)))
    assert heard == (label == "concat")


@pytest.mark.parametrize("label", models.LABELS)
def test_samples_follow_the_labels_or_are_of_several_classes(label):
    model = tiny("cvae", label=label)
    labels = torch.arange(60) % 3
    each = model.decode(torch.zeros(3, 4), torch.arange(3))
    torch.testing.assert_close(model.sample(60, labels, scale=0.0), each[labels])
    drawn = model.sample(60, scale=0.0)  # all latents 0: the class alone differs
    apart = (drawn[:, None] - each).abs().amax((2, 3, 4))  # (60, 3)
    assert apart.min(1).values.max() < 1e-5 and (apart < 1e-5).sum(0).min() > 5


@pytest.mark.parametrize("model", ["ae", "classifier", "text2text"])
def test_a_model_without_a_prior_refuses_to_sample(model):
    with pytest.raises(ModelError, match="no prior"):
        build(model).sample(3)


@pytest.mark.parametrize("n_classes", [0, 1])
@pytest.mark.parametrize("model", ["cvae", "classifier"])
def test_models_of_classes_need_two(model, n_classes):
    with pytest.raises(ModelError, match="two classes"):
        build(model, n_classes=n_classes)
    build(model, n_classes=2)


# -----------------------------------------------------------------------------------------------------------
# Encoders and decoders


@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("depth", [1, 3])
@pytest.mark.parametrize("cell", models.CELLS)
def test_last_state_is_the_output_at_the_ends_of_the_full_sequence(cell, depth, bidirectional):
    last, full = (
        models.RNNEncoder((3, 6, 5), cell, 7, depth, bidirectional, name) for name in models.SEQUENCES
    )
    full.load_state_dict(last.state_dict())
    x = torch.rand(2, 3, 6, 5)
    outputs = full(x).unflatten(1, (6, -1))
    ends = [outputs[:, -1, :7]] + [outputs[:, 0, 7:]] * bidirectional
    torch.testing.assert_close(last(x), torch.cat(ends, 1))
    assert (last.size, full.size) == (7 * (1 + bidirectional), 6 * 7 * (1 + bidirectional))
    x[:, :, 4:] = 0  # what a row says, in all its channels, is known from that row on
    if depth == 1 or not bidirectional:  # else the second layer hears of it from below
        changed = (full(x).unflatten(1, (6, -1)) != outputs)[..., :7].any(2).any(0)
        assert changed.tolist() == [False] * 4 + [True] * 2


@pytest.mark.parametrize("cell", models.CELLS)
def test_decoder_without_readout_returns_the_output_of_its_rnn(cell):
    decoder = models.RNNDecoder(4, (3, 6, 5), cell, 15, 2, 9, readout=False)
    z = torch.randn(2, 4)
    rows = decoder.rnn(torch.stack([decoder.inputs(z)] * 6, 1))[0]
    image = decoder(z)
    assert image.shape == (2, 3, 6, 5)
    for row in range(6):
        torch.testing.assert_close(image[:, :, row].flatten(1), rows[:, row])


def test_decoder_without_readout_makes_pixels_of_its_rows():
    options = dict(decoder="lstm", decoder_hidden=4, decoder_readout=False, likelihood="gaussian")
    model = tiny("ae", **options)
    batch = make_batch(3, (1, 4, 4))
    logits = model.decode_logits(model.encode(batch.x))
    torch.testing.assert_close(model.reconstruct(batch.x), logits.clamp(0, 1))
    torch.testing.assert_close(model.loss(batch, 0)[0], (logits - batch.x).square().sum() / 3)
    with pytest.raises(ModelError, match="--likelihood gaussian"):
        tiny("vae", **options | dict(likelihood="bernoulli"))
    with pytest.raises(ModelError, match="a row of the image, 4$"):
        tiny("ae", **options | dict(decoder_hidden=5))


@pytest.mark.parametrize("size", [(28, 28), (27, 30), (33, 17)], ids=str)
@pytest.mark.parametrize("layers", [
    "8,3,2,1", "8,4,2,1 6,4,2,1", "8,3,2,1 6,3,2,1 4,3,2,0",
    "8,5,3,2 6,2,2,0", "8,5,3,0 6,3,4,1", "8,1,1,0 6,7,1,3",
])  # fmt: skip
def test_mirror_undoes_a_stack_of_convolutions(size, layers):
    shape, layers = (2, *size), models.parse_layers(layers)
    start, mirrored = models.mirror(shape, layers)
    encoder = models.ConvEncoder(shape, layers)
    features = encoder.stack[:-1](torch.rand(1, *shape))
    assert features.shape[1:] == start == models.conv_shapes(shape, layers)[-1]
    assert encoder.size == features.numel()
    decoder = models.ConvDecoder(5, shape, start, mirrored)
    image = decoder(torch.randn(3, 5))
    assert image.shape == (3, *shape)
    kinds = [type(layer).__name__ for layer in [*encoder.stack, *decoder.stack]]
    up, down = ["ReLU", "ConvTranspose2d"], ["Conv2d", "ReLU"]
    assert kinds == down * len(layers) + ["Flatten", "Linear", "Unflatten"] + up * len(layers)


@pytest.mark.parametrize("batch", [0, 1, 3])
@pytest.mark.parametrize("size", [(1, 1), (2, 2), (2, 3)], ids=str)
@pytest.mark.parametrize("arguments", [(4, 2, 1), (4, 1, 0), (3, 2, 1, 1), (2, 3, 0, 2)], ids=str)
def test_a_wide_transposed_convolution_is_torchs_own(arguments, size, batch):
    ours = models.WideConvTranspose2d(6, 5, *arguments).double()
    x = torch.randn(batch, 6, *size, dtype=torch.float64, requires_grad=True)
    theirs = nn.functional.conv_transpose2d(x, ours.weight, ours.bias, *arguments[1:])
    assert torch.allclose(ours(x), theirs, atol=1e-12)
    inputs, weights = [x, ours.weight, ours.bias], torch.randn_like(theirs)
    gradients = [torch.autograd.grad((y * weights).sum(), inputs) for y in (ours(x), theirs)]
    for ours, theirs in zip(*gradients, strict=True):
        assert torch.allclose(ours, theirs, atol=1e-12)


def test_only_wide_layers_are_matrix_products():
    decoder = models.ConvDecoder(8, (1, 4, 4), (1024, 1, 1), [(16, 2, 2, 0, 0), (1, 2, 2, 0, 0)])
    kinds = [type(layer) for layer in decoder.stack if isinstance(layer, nn.ConvTranspose2d)]
    assert kinds == [models.WideConvTranspose2d, nn.ConvTranspose2d]


@pytest.mark.parametrize("text", [
    "", " ", "32", "32,3,2", "a,b,c,d", "0,3,2,1", "8,0,2,1", "8,3,0,1", "8,3,2,1,0,0", "8,3,2,-1",
    "8,3,2,1,-1", "8,3,2,1;8,3,2,1", "8,3.5,2,1",
])  # fmt: skip
def test_layers_that_make_no_sense_are_refused(text):
    assert models.parse_layers("32,3,2,1 64,4,2,0") == [(32, 3, 2, 1), (64, 4, 2, 0)]
    with pytest.raises(ModelError, match="channels,kernel,stride,padding"):
        models.parse_layers(text)


def test_two_kinds_of_layers_before_z_are_refused():
    with pytest.raises(ModelError, match="--squeeze does nothing with --dense"):
        build("cvae", squeeze=8)  # whose dense layer has 256 units
    build("cvae", squeeze=8, dense=0)


def test_output_padding_may_be_left_out():
    layers = models.parse_layers("32,3,2,1 64,4,2,0,1", transposed=True)
    assert layers == [(32, 3, 2, 1, 0), (64, 4, 2, 0, 1)]


@pytest.mark.parametrize("options, message", [
    (dict(encoder_layers="8,3,2,0 8,3,2,0 8,3,2,0 8,3,2,0"), "nothing of an image of 28 x 28"),
    (dict(encoder_layers="8,29,1,0"), "nothing of an image of 28 x 28"),
    (dict(decoder_layers="8,4,2,1 1,4,1,1"), r"\(1, 15, 15\), the data are \(1, 28, 28\)"),
    (dict(decoder_start=(9, 7, 7), decoder_layers="3,4,2,1 2,4,2,1"), r"\(2, 28, 28\)"),
    (dict(decoder_start=(9, 28, 28), decoder_layers="1,3,1,1,1"), "."),  # output padding, but no stride
    (dict(decoder_start=(9, 1, 1), decoder_layers="1,1,1,1"), "."),  # nothing is left
])  # fmt: skip
def test_convolutions_that_do_not_fit_the_picture_are_refused(options, message):
    with pytest.raises(ModelError, match=message):
        build("ae", **options)


# -----------------------------------------------------------------------------------------------------------
# Latents fitted to pictures


def linear_decoder(model="ad", **options):
    """A model whose pixels are W z + b, without a sigmoid, with W and b."""
    network = dict(image_shape=(1, 3, 4), likelihood="gaussian", decoder_depth=0, decoder_hidden=4)
    built = tiny(model, **network, **options).double()
    built.to_pixels = nn.Identity()
    pixels = built.decoder.stack[0]
    assert isinstance(pixels, nn.Linear)
    with torch.no_grad():
        pixels.weight.copy_(torch.linalg.qr(torch.randn(12, 4, dtype=torch.float64))[0] * 2)
    return built, pixels.weight.detach().numpy(), pixels.bias.detach().numpy()


@pytest.mark.parametrize("beta", [0.0, 3.0])
@pytest.mark.parametrize("batch_size", [None, 3])
def test_fitted_latents_are_the_least_squares_solution(batch_size, beta):
    model, w, b = linear_decoder()
    x = torch.randn(7, 1, 3, 4, dtype=torch.float64)
    # Least |x - W z - b|² + beta |z|² / 2, as one system with rows sqrt(beta / 2) I below W
    rows = np.concatenate([w, (beta / 2) ** 0.5 * np.eye(4)])
    wanted = np.linalg.lstsq(rows, np.concatenate([(x.flatten(1).numpy() - b).T, np.zeros((4, 7))]))[0].T
    fitted = model.fit_latents(
        x,
        1200 if batch_size is None else 400,
        0.02,
        batch_size=batch_size,
        start=torch.zeros(7, 4, dtype=torch.float64),
        beta=beta,
    )
    # Adam never quite rests where batches come in random order: it divides by what the gradients were
    np.testing.assert_allclose(fitted.numpy(), wanted, rtol=0, atol=1e-4 if batch_size is None else 0.02)


@pytest.mark.parametrize("training", [True, False])
def test_fitting_latents_leaves_the_model_as_it_was(training):
    networks = dict(
        decoder="conv", decoder_norm=True, decoder_start=(3, 2, 2), decoder_layers="5,2,1,0 1,2,1,0"
    )
    model = tiny("ad", **networks).train(training)
    for p in model.parameters():
        p.grad = torch.randn_like(p)
    before = {name: t.clone() for name, t in model.state_dict().items()}
    grads = [p.grad.clone() for p in model.parameters()]
    x, start = torch.rand(5, 1, 4, 4), torch.randn(5, 4)
    x_before = x.clone()
    start_before = start.clone()
    fitted = model.fit_latents(x, 3, 0.1, start=start)
    assert not torch.equal(fitted, start) and not fitted.requires_grad
    torch.testing.assert_close(dict(model.state_dict()), before, rtol=0, atol=0, equal_nan=True)
    assert all(torch.equal(p.grad, grad) for p, grad in zip(model.parameters(), grads, strict=True))
    assert all(p.requires_grad for p in model.parameters())
    assert all(module.training == training for module in model.modules())
    assert torch.equal(x, x_before) and torch.equal(start, start_before)


def test_latents_are_fitted_with_the_network_in_eval_mode():
    model = tiny("ad").train()
    modes = []
    model.decoder.register_forward_hook(lambda decoder, z, output: modes.append(decoder.training))
    model.fit_latents(torch.rand(5, 1, 4, 4), 2, 0.1, batch_size=3)
    assert modes == [False] * 4


def test_latents_are_fitted_under_the_callers_settings_of_cudnn():
    model = tiny("ad")
    seen = []
    cudnn = torch.backends.cudnn
    model.decoder.register_forward_hook(lambda *_: seen.append((cudnn.deterministic, cudnn.allow_tf32)))
    with cudnn.flags(deterministic=True, allow_tf32=False):
        model.fit_latents(torch.rand(5, 1, 4, 4), 1, 0.1)
    assert seen == [(True, False)]


@pytest.mark.parametrize("model", ["vae", "cvae", "ad", "vad"])
def test_latents_are_fitted_alike_in_inference_mode_and_under_one_seed(model):
    model = tiny(model)

    def fit(seed=1):
        torch.manual_seed(seed)
        x, y = torch.linspace(0, 1, 5 * 16).view(5, 1, 4, 4), torch.arange(5) % 3
        return model.fit_latents(x, 4, 0.1, batch_size=2, labels=y)

    with torch.inference_mode():
        inside = fit()
    assert torch.equal(inside, fit()) and not torch.equal(inside, fit(2))
    assert inside.shape == (5, 4 * model.distribution.n_params)


@pytest.mark.parametrize("batch_size, sizes", [(None, [11]), (0, [11]), (4, [4, 4, 3]), (50, [11])])
def test_every_epoch_of_a_fit_shows_each_picture_once_with_its_own_label(batch_size, sizes, monkeypatch):
    model = tiny("cvae")
    seen = []
    reports = []
    x = torch.linspace(0, 1, 11)[:, None, None, None].expand(-1, 1, 4, 4)
    y, start = torch.arange(11) % 3, torch.arange(11.0)[:, None].expand(-1, 8) / 10
    latent_loss = model.latent_loss

    def spy(params, images, labels, beta):
        loss = latent_loss(params, images, labels, beta)
        places = (10 * images[:, 0, 0, 0]).round().long()
        assert torch.equal(labels, y[places]) and torch.equal(images, x[places]) and beta == 0.25
        assert (params - start[places]).abs().max() < 1e-3  # of the same pictures; they hardly move
        seen.append((places.tolist(), loss.item()))
        return loss

    monkeypatch.setattr(model, "latent_loss", spy)

    def callback(epoch, loss):
        reports.append((epoch, loss))

    options = dict(batch_size=batch_size, start=start, beta=0.25, labels=y, callback=callback)
    model.fit_latents(x, 3, 1e-6, **options)
    assert [len(places) for places, _ in seen] == 3 * sizes and [epoch for epoch, _ in reports] == [1, 2, 3]
    orders = []
    for epoch in range(3):
        part = seen[epoch * len(sizes) : (epoch + 1) * len(sizes)]
        orders.append([place for places, _ in part for place in places])
        assert sorted(orders[-1]) == [*range(11)]
        mean = sum(len(places) * loss for places, loss in part) / 11
        assert reports[epoch][1] == pytest.approx(mean)
    assert orders[0] != orders[1]


def test_labels_change_the_fitted_latents():
    model, x = tiny("cvae"), torch.rand(4, 1, 4, 4)
    fitted = [drawn_alike(model.fit_latents, x, 20, 0.1, labels=torch.full((4,), c)) for c in (0, 0, 1)]
    assert torch.equal(fitted[0], fitted[1]) and not torch.allclose(fitted[0], fitted[2], atol=1e-3)


@KINDS
def test_fitted_latents_start_from_the_prior_of_their_numbers_or_where_they_are_told(kind):
    model = tiny("vad", prior=kind, latent_dim=50)
    x = torch.rand(100, 1, 4, 4)
    start = model.fit_latents(x, 0, 0.1)
    assert start.shape == (100, 50 * models.DISTRIBUTIONS[kind].n_params)
    assert is_drawn_from(start, "norm")
    assert torch.equal(model.fit_latents(x, 0, 0.1, start=2 * start), 2 * start)
    near = model.fit_latents(x, 3, 1e-3, start=2 * start)
    assert 0 < (near - 2 * start).abs().max() < 0.0035  # a step of Adam is at most about its learning rate


def trained_vae(steps=150):
    """A VAE of 14 x 14 digits, trained for a moment, and 100 of the digits."""
    x = torch.from_numpy(DIGITS["x_train"][:400, None]).float() / 255
    x = nn.functional.avg_pool2d(x, 2)
    model = build(
        "vae", (1, 14, 14), encoder="mlp", decoder="mlp", encoder_hidden=24, decoder_hidden=24, latent_dim=4
    )
    optimizer = torch.optim.Adam(model.parameters(), 0.01)
    for step in range(steps):
        loss = model.loss(Batch(x[torch.randint(400, (64,))], None, None), step)[0]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return model.eval(), x[:100]


def mean_elbo(model, params, x, draws=300):
    """Mean ELBO of Gaussians with these parameters, by its formula; every call draws the same noise."""
    torch.manual_seed(3)
    mean, log_variance = params.detach().chunk(2, 1)
    q = torch.distributions.Normal(mean, (log_variance / 2).exp())
    kl = torch.distributions.kl_divergence(q, torch.distributions.Normal(0.0, 1.0)).sum(1)
    likelihood = 0.0
    with torch.no_grad():
        for _ in range(draws):
            logits = model.decode_logits(mean + q.stddev * torch.randn_like(mean))
            pixels = torch.distributions.Bernoulli(logits=logits, validate_args=False)
            likelihood += pixels.log_prob(x).flatten(1).sum(1) / draws
    return (likelihood - kl).mean().item()


def test_latents_fitted_from_the_encoders_answer_are_better_ones():
    """The amortization gap: one encoder for all pictures loses something (Cremer et al. 2018)."""
    model, x = trained_vae()
    q = model.posterior(x)
    encoded = torch.cat([q.mean, q.log_variance], 1).detach()
    fitted = model.fit_latents(x, 200, 0.01, start=encoded, beta=1.0)
    gap = mean_elbo(model, fitted, x) - mean_elbo(model, encoded, x)
    assert 0.5 < gap < 3
    again = model.fit_latents(x, 200, 0.01, start=fitted, beta=1.0)
    assert abs(mean_elbo(model, again, x) - mean_elbo(model, fitted, x)) < gap / 5  # that was all


def test_bounds_of_a_trained_vae_rise_with_the_samples():
    model, x = trained_vae()
    batch = Batch(x, None, None)
    repeats = 60
    by_k = {k: bounds(model, batch, k, repeats).mean(1) for k in (5, 50)}
    by_k[1] = elbo(model, batch, repeats)
    constant = 196 / 2 * math.log(math.pi)
    assert by_k[1].mean() == pytest.approx(
        mean_elbo(model, model.to_latent(model.features(x)), x) - constant, abs=0.3
    )
    for fewer, more in [(1, 5), (5, 50)]:
        error = (by_k[fewer].var() + by_k[more].var()).sqrt() / repeats**0.5
        assert by_k[fewer].mean() + 4 * error < by_k[more].mean()


def test_gaussians_fitted_to_a_linear_model_are_its_true_posteriors():
    model, batch, log_p = linear_vae(exact=False)
    posterior = model.posterior(batch.x)
    beside = torch.cat([posterior.mean, posterior.log_variance], 1).detach()
    many = Batch(batch.x.repeat(200, 1, 1, 1), None, None)  # each 200 times, so that noise averages out
    fitted = model.fit_latents(many.x, 300, 0.02, start=beside.repeat(200, 1), beta=1.0)
    fitted = fitted.view(200, 4, 4).mean(0)
    w = model.decoder.stack[0].weight.detach()
    variance = 1 / (1 + 2 * (w**2).sum(0))
    mean = 2 * variance * ((batch.x.flatten(1) - model.decoder.stack[0].bias) @ w)
    torch.testing.assert_close(fitted[:, :2], mean.detach(), rtol=0, atol=0.03)
    torch.testing.assert_close(fitted[:, 2:], variance.log().expand(4, 2), rtol=0, atol=0.1)


# -----------------------------------------------------------------------------------------------------------
# Auto-decoder


@pytest.mark.parametrize("n", [1, 4, 16])
@pytest.mark.parametrize("model", ["ad", "vad"])
def test_the_loss_of_the_report_is_its_formula(model, n):
    model = build(model, objective="report", beta=0.5, **SMALL).eval()
    batch = make_batch(n)
    params = model.latents(batch.index).detach()
    loss, parts = drawn_alike(model.loss, batch, 0)
    drawn = drawn_alike(model.distribution.from_params(params).sample)
    error = 255 * model.decode(drawn).detach().numpy().astype(float) - 255 * batch.x.numpy()
    distance = np.sqrt((error**2).sum()) / (n * 784)
    assert parts["reconstruction"].item() == pytest.approx(distance)
    assert parts["rmse"].item() == pytest.approx(distance * (n * 784) ** 0.5)
    assert parts["rmse"].item() == pytest.approx(np.sqrt((error**2).mean()))
    name = "penalty" if model.distribution is models.Point else "kl"
    price = parts[name].item()
    z = params.numpy().astype(float)
    if model.distribution is models.Point:
        mean_kl = (z**2 / 2).mean()
    else:
        mean, log_variance = z[:, :4], z[:, 4:]
        mean_kl = ((mean**2 + np.exp(log_variance) - log_variance - 1) / 2).mean()
    assert price == pytest.approx(mean_kl) and loss.item() == pytest.approx(distance + 0.5 * mean_kl)
    assert model.units["reconstruction"] == "report R1" and model.units[name] == "nats, mean"


@pytest.mark.parametrize("likelihood", models.LIKELIHOODS)
def test_nats_of_an_auto_decoder_do_not_depend_on_the_batch_size_and_the_reports_loss_does(likelihood):
    model = tiny("ad", likelihood=likelihood, beta=0.7)
    batch = make_batch(11, (1, 4, 4))
    _, whole = model.loss(batch, 0)
    parts = [model.loss(Batch(*part), 0)[1] for part in zip(*(t.split(4) for t in batch), strict=True)]
    for name in ("loss", "reconstruction", "penalty"):
        mean = sum(size * part[name] for size, part in zip((4, 4, 3), parts, strict=True)) / 11
        torch.testing.assert_close(mean, whole[name])
    image, z = model.decode(model.latents(batch.index)), model.latents(batch.index)
    cross = -(batch.x * image.log() + (1 - batch.x) * (1 - image).log())
    each = cross if likelihood == "bernoulli" else (batch.x - image) ** 2
    torch.testing.assert_close(whole["loss"], each.sum() / 11 + 0.7 * z.square().sum() / 2 / 11)
    model.objective, twice = "report", Batch(*(t.repeat(4, *[1] * (t.dim() - 1)) for t in batch))
    once, fourfold = (model.loss(b, 0)[1]["reconstruction"] for b in (batch, twice))
    torch.testing.assert_close(fourfold, once / 2)


@pytest.mark.parametrize("model", ["ad", "vad"])
def test_training_latents_are_found_by_index(model):
    model = tiny(model, image_shape=(1, 28, 28))
    x, index = torch.rand(6, 1, 28, 28), torch.tensor([41, 3, 8, 0, 17, 22])

    def gradient(order):
        model.zero_grad()
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(torch, "randn", lambda shape, device=None: torch.zeros(shape))
            loss, _ = model.loss(Batch(x[order], None, index[order]), 0)
        loss.backward()
        return loss.detach(), model.latents.weight.grad.clone()

    order = torch.tensor([4, 2, 0, 5, 1, 3])
    (loss, grad), (shuffled_loss, shuffled_grad) = gradient(torch.arange(6)), gradient(order)
    torch.testing.assert_close(loss, shuffled_loss)
    torch.testing.assert_close(grad, shuffled_grad)
    assert sorted(grad.any(1).nonzero().flatten().tolist()) == sorted(index.tolist())
    wrong = model.loss(Batch(x, None, index.roll(1)), 0)[0]
    assert not torch.allclose(loss, wrong)


def test_free_latents_have_their_own_learning_rate():
    model = tiny("ad", latent_lr=0.3)
    ((groups, loss_function),) = model.turns()
    optimizer = torch.optim.Adam(groups, lr=0.001)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    loss_function(make_batch(50, (1, 4, 4)), 0)[0].backward()
    optimizer.step()
    for name, p in model.named_parameters():  # Adam's first step is its learning rate, whatever the slope
        step = 0.3 if name.startswith("latents") else 0.001
        assert (p - before[name]).abs().max().item() == pytest.approx(step, rel=1e-2)


def test_the_network_of_report_1_is_in_the_order_it_says():
    layers = "512,4,2,1 256,4,2,1 128,4,2,1 1,4,2,1 1,1,1,2"
    sizes = dict(latent_dim=128, decoder_norm=True, decoder_start=(2048, 2, 2), decoder_layers=layers)
    stack = build("ad", **sizes, fit_epochs=0).decoder.stack
    kinds = [type(layer).__name__.removeprefix("Wide") for layer in stack]
    block = ["ConvTranspose2d", "BatchNorm2d", "ReLU"]
    assert kinds == ["Linear", "Unflatten", *block, *block, *block, "ConvTranspose2d", "ConvTranspose2d"]
    x, sizes = torch.zeros(2, 128), []
    for layer in stack:
        x = layer(x)
        sizes.append(tuple(x.shape[1:]))
    assert sizes[1] == (2048, 2, 2) and sizes[4] == (512, 4, 4) and sizes[7] == (256, 8, 8)
    assert sizes[10:] == [(128, 16, 16), (1, 32, 32), (1, 28, 28)]


def test_samples_have_the_mean_and_covariance_of_the_latents():
    model = tiny("ad", latent_dim=3, n_train=200)
    mixing = torch.tensor([[1.0, 0, 0], [0.9, 0.3, 0], [-0.5, 0.2, 2.0]])
    with torch.no_grad():
        model.latents.weight.copy_(torch.randn(200, 3) @ mixing.T + torch.tensor([1.0, -2.0, 0.5]))
    model.decode = lambda z, labels=None: z
    z, latents, n = model.sample(40_000), model.latents.weight.detach().numpy(), 40_000
    covariance = np.cov(latents.T)
    error = np.sqrt((covariance**2 + np.outer(np.diag(covariance), np.diag(covariance))) / n)
    assert (abs(np.cov(z.numpy().T) - covariance) < 5 * error).all()
    assert (abs(z.numpy().mean(0) - latents.mean(0)) < 5 * np.sqrt(np.diag(covariance) / n)).all()
    narrow = model.sample(n, scale=0.1).numpy()
    assert np.allclose(np.cov(narrow.T), covariance / 100, rtol=0.1, atol=1e-3)
    assert np.allclose(narrow.mean(0), latents.mean(0), atol=0.01)
    assert np.allclose(model.sample(2, scale=0.0).numpy(), latents.mean(0), atol=1e-5)


def test_a_single_latent_is_no_distribution_to_sample():
    with pytest.raises(ModelError, match="a single latent"):
        tiny("ad", n_train=1).sample(2)


@KINDS
def test_samples_of_a_variational_auto_decoder_come_from_its_prior(kind):
    model = tiny("vad", prior=kind)
    model.decode = lambda z, labels=None: z
    assert is_drawn_from(model.sample(3000), PRIORS[kind].cdf)
    torch.testing.assert_close(drawn_alike(model.sample, 9, scale=0.5), drawn_alike(model.sample, 9) / 2)


def test_an_auto_decoder_scores_the_latents_that_it_has():
    model = build("ad", objective="report", n_train=40, n_test=20, **SMALL).eval()
    splits = [
        data.Split(torch.randint(256, (n, 1, 28, 28), dtype=torch.uint8), torch.zeros(n)) for n in (40, 20)
    ]
    assert model.evaluate_latents(*splits).keys() == {"train"}
    with torch.no_grad():
        model.refined.normal_()
        model.test_latents.normal_()
    scores = model.evaluate_latents(*splits)
    tables = dict(train=model.latents.weight.detach(), refined=model.refined, test=model.test_latents)
    assert scores.keys() == tables.keys()
    for name, z in tables.items():
        x, each = (splits[1] if name == "test" else splits[0]).x.numpy(), []
        for first in range(0, len(x), 16):
            error = 255 * model.decode(z[first : first + 16]).detach().numpy() - x[first : first + 16]
            each += [np.linalg.norm(error) / error.size] * len(error)
        assert scores[name]["reconstruction"] == pytest.approx(np.mean(each), rel=1e-5)


# -----------------------------------------------------------------------------------------------------------
# GAN

REMEDIES = [dict(gradient_penalty=0.0), dict(he_init=False), dict(decoder_norm=False)]


def small_gan(image_shape=(1, 8, 8), **options):
    return build("gan", image_shape, **dict(encoder_layers="4,3,2,1 4,3,2,1", latent_dim=3) | options)


@pytest.mark.parametrize("size, halvings", [(28, 3), (32, 3), (64, 4)])
@pytest.mark.parametrize("colors", [1, 3])
def test_both_players_of_a_gan_have_the_right_depth_and_shapes(colors, size, halvings):
    model = build("gan", (colors, size, size))
    drawn = model.generate(5)
    assert drawn.shape == (5, colors, size, size) and drawn.abs().max() <= 1
    assert model.discriminate(drawn).shape == (5,)
    assert images(model.sample(4), 4, colors, size, size)
    counts = [
        sum(isinstance(layer, kind) for layer in player.modules())
        for player in (model.generator, model.discriminator)
        for kind in (nn.Conv2d, nn.ConvTranspose2d, nn.Linear)
    ]
    assert counts == [0, halvings, 1, halvings, 0, 1]
    z = torch.randn(2, 16)
    torch.testing.assert_close(model.decode(z), (model.generator(z) + 1) / 2)


def test_a_gan_draws_pictures_that_are_not_square():
    model = small_gan((3, 12, 20))
    assert images(model.sample(2), 2, 3, 12, 20) and model.discriminate(model.generate(2)).shape == (2,)


def test_without_flags_the_generator_mirrors_the_discriminator():
    model = build("gan", (3, 64, 64))
    kinds = [type(layer).__name__ for layer in [*model.discriminator[0].stack, model.discriminator[1]]]
    assert kinds == [*4 * ["Conv2d", "ReLU"], "Flatten", "Linear"]
    kinds = [type(layer).__name__ for layer in [*model.generator[0].stack, model.generator[1]]]
    block = ["ConvTranspose2d", "BatchNorm2d", "ReLU"]
    assert kinds == ["Linear", "Unflatten", *3 * block, "ConvTranspose2d", "Tanh"]
    assert [m.in_channels for m in model.generator.modules() if hasattr(m, "stride")] == [256, 128, 64, 32]


@pytest.mark.parametrize("remedy", [{}, *REMEDIES], ids=str)
def test_each_player_of_a_gan_steps_alone(remedy):
    model = small_gan(**remedy).train()
    players = dict(discriminator=model.discriminator, generator=model.generator)
    optimizers = [torch.optim.Adam(turn.param_groups, 0.01) for turn in model.turns()]
    for name, (groups, loss_function), optimizer in zip(players, model.turns(), optimizers, strict=True):
        before = {key: [p.detach().clone() for p in player.parameters()] for key, player in players.items()}
        loss, parts = loss_function(make_batch(6, (1, 8, 8)), 0)
        assert loss.isfinite() and parts.keys() <= models.UNITS.keys()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        assert all(p.grad is not None and p.grad.any() for group in groups for p in group["params"])
        if name == "discriminator":  # which asks for no gradient of the pictures that it is shown
            assert all(p.grad is None for p in model.generator.parameters())
        for key, player in players.items():
            still = [torch.equal(p, old) for p, old in zip(player.parameters(), before[key], strict=True)]
            assert not any(still) if key == name else all(still)


def test_losses_of_both_players_are_their_formulas():
    model = small_gan(gradient_penalty=0.0, he_init=False)
    batch = make_batch(40, (1, 8, 8))
    with torch.no_grad():  # scores around 0, of both signs
        model.discriminator[1].weight.mul_(50)
        fake = drawn_alike(lambda: model.discriminate(model.generate(40)))
        model.discriminator[1].bias.sub_(fake.median())
        fake = drawn_alike(lambda: model.discriminate(model.generate(40))).double().numpy()
        real = model.discriminate(2 * batch.x - 1).double().numpy()
        loss, parts = drawn_alike(model.discriminator_loss, batch, 0)
        generator_loss, generator_parts = drawn_alike(model.generator_loss, batch, 0)

    def sigmoid(logit):
        return 1 / (1 + np.exp(-logit))

    wanted = -(np.log(sigmoid(real)) + np.log(1 - sigmoid(fake))).mean(), -np.log(sigmoid(fake)).mean()
    assert (loss.item(), generator_loss.item()) == pytest.approx(wanted, rel=1e-4)
    assert parts["discriminator"] == loss and generator_parts["generator"] == generator_loss
    discriminator_accuracy = 50 * ((real > 0).mean() + (fake < 0).mean())
    assert (
        parts["discriminator_accuracy"].item() == pytest.approx(discriminator_accuracy)
        and 10 < discriminator_accuracy < 90
    )


def test_gradient_penalty_is_half_gamma_times_the_squared_slope_at_real_pictures():
    model = small_gan((1, 5, 5), gradient_penalty=3.0).double()
    batch = Batch(torch.rand(2, 1, 5, 5, dtype=torch.float64), None, None)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(model, "generate", lambda n: torch.zeros(n, 1, 5, 5, dtype=torch.float64))
        loss, parts = model.discriminator_loss(batch, 16)
        spared, its_parts = model.discriminator_loss(batch, 17)
    assert spared == its_parts["discriminator"] == parts["discriminator"]
    x, h, squares = 2 * batch.x - 1, 1e-6, 0.0
    with torch.no_grad():
        for k in range(2):
            for pixel in range(25):
                step = torch.zeros(25, dtype=torch.float64)
                step[pixel] = h
                ends = [model.discriminate((x[k] + sign * step.view(1, 5, 5))[None]) for sign in (1, -1)]
                squares += ((ends[0] - ends[1]) / (2 * h)).item() ** 2
    assert (loss - parts["discriminator"]).item() == pytest.approx(8 * 3 / 2 * squares / 2, rel=1e-5)
    assert not batch.x.requires_grad
    (slope, *_) = torch.autograd.grad(loss - parts["discriminator"], model.discriminator[1].weight)
    assert slope.any()  # it changes the discriminator


def gan_split():
    x = torch.from_numpy(DIGITS["x_train"][:450, None, ::4, ::4].copy())  # 7 x 7
    return data.Split(x, torch.zeros(450))


def test_a_constant_generator_is_warned_of():
    model, split = small_gan((1, 7, 7)).eval(), gan_split()
    with torch.no_grad():
        model.generator[0].stack[-1].weight.zero_()
        diagnosis = model.diagnose(split)
    assert diagnosis["diversity"] == pytest.approx(0, abs=1e-4) and "mode collapse" in diagnosis["warning"]


def test_a_generator_as_varied_as_the_data_is_not_warned_of():
    model, split = small_gan((1, 7, 7)).eval(), gan_split()
    model.sample = lambda n: split.x[1::2][:n] / 255
    with torch.no_grad():
        diagnosis = model.diagnose(split)
    real, drawn = ((split.x[k::2] / 255).flatten(1).double().numpy() for k in (0, 1))
    distance = [scipy.spatial.distance.pdist(x).mean() for x in (real, drawn)]
    assert diagnosis["diversity"] == pytest.approx(distance[1] / distance[0], rel=1e-4)
    assert "warning" not in diagnosis


def test_a_discriminator_that_is_never_fooled_is_warned_of():
    model, split = small_gan((1, 7, 7)).eval(), gan_split()
    drawn = split.x[1::2] / 255
    model.sample = lambda n: drawn[:n]
    split.x[::2, :, 0, 0] = 255  # real pictures have a white corner
    model.discriminate = lambda x: x[:, 0, 0, 0]
    with torch.no_grad():
        assert "discriminator wins" in model.diagnose(split)["warning"]
        drawn[:20, :, 0, 0] = 1
        assert "warning" not in model.diagnose(split)


# -----------------------------------------------------------------------------------------------------------
# Draws


@pytest.mark.parametrize("cut", [0.1, 0.5, 2.0, 5.0])
def test_truncated_latents_are_those_of_a_truncated_normal(cut):
    z = Gaussian.prior(5000, 8, cut)
    assert z.shape == (5000, 8) and z.abs().max() <= cut
    assert z.var().item() == pytest.approx(scipy.stats.truncnorm(-cut, cut).var(), rel=0.03)
    assert abs(z.mean()) < 5 * min(1, cut) / 200
    assert Gaussian.prior(5000, 8).abs().max() > 3
    model = tiny("vae", latent_dim=8)
    model.decode = lambda z, labels=None: z
    assert model.sample(500, scale=3.0, truncate=cut).abs().max() <= 3 * cut
    assert model.sample(500, scale=3.0).std().item() == pytest.approx(3, rel=0.1)


def center(x):
    x = x[:, 0] / x.sum((1, 2, 3))[:, None, None]
    along = torch.arange(x.shape[-1], dtype=x.dtype)
    return torch.stack([(x.sum(2) * along).sum(1), (x.sum(1) * along).sum(1)], 1)


def test_augmented_pictures_differ_a_little_and_keep_their_meaning():
    x = torch.from_numpy(DIGITS["x_train"][:400, None]).float() / 255
    moved = models.augmented(x)
    assert images(moved, 400, 1, 28, 28)
    apart = (center(moved) - center(x)).norm(dim=1)
    assert apart.max() < 6 and apart.mean() > 0.5
    ink = moved.sum((1, 2, 3)) / x.sum((1, 2, 3))
    assert ink.min() > 0.3 and ink.max() < 1.6 and 0.6 < ink.mean() < 0.9
    assert (moved.amax((1, 2, 3)) > 0.2).all()
    same = models.augmented(x[:1].repeat(20, 1, 1, 1)).flatten(1)
    assert (torch.pdist(same) > 0).all() and same.amax(1).std() > 0.05  # dimmed each by its own amount
    assert not models.augmented(torch.zeros(5, 3, 9, 7)).any()


@pytest.mark.parametrize("augment", [True, False])
def test_augmentation_is_for_training_alone(augment):
    model = tiny("classifier", encoder="conv", augment=augment)
    batch = make_batch(8, (1, 4, 4))
    assert torch.equal(model.loss(batch, 0)[0], model.loss(batch, 0)[0])
    model.train()
    assert torch.equal(model.loss(batch, 0)[0], model.loss(batch, 0)[0]) != augment


# -----------------------------------------------------------------------------------------------------------
# Diagnosis


@pytest.mark.parametrize("model", MAKERS)
def test_diagnosis_agrees_with_a_direct_computation(model):
    model = tiny(model)
    split = data.Split(torch.randint(256, (501, 1, 4, 4), dtype=torch.uint8), torch.arange(501) % 3)
    x = split.x / 255
    diagnosis = model.diagnose(split)
    error = (model.reconstruct(x, split.y) - x).square().mean().item()
    assert diagnosis["mse"] == pytest.approx(error) and diagnosis.keys() <= {*models.UNITS, "warning"}
    if model.has_posterior:
        kl = model.loss(Batch(x, split.y, None), INF)[1]["kl"].item()
        assert len(diagnosis["kl_per_dimension"]) == 4 and sum(
            diagnosis["kl_per_dimension"]
        ) == pytest.approx(kl)
        means = model.encode(x, split.y).detach().numpy()
        assert diagnosis["active_latents"] == (means.var(0, ddof=1) > 0.01).sum()


def test_latents_that_say_nothing_are_counted_and_warned_of():
    model = tiny()
    split = data.Split(torch.randint(256, (50, 1, 4, 4), dtype=torch.uint8), torch.zeros(50))
    with torch.no_grad():
        model.to_latent.weight.zero_()
        assert model.diagnose(split)["active_latents"] == 0
        assert "--kl-warm-up" in model.diagnose(split)["warning"]
        model.to_latent.weight[1] = 1.0
        diagnosis = model.diagnose(split)
    assert diagnosis["active_latents"] == 1 and "warning" not in diagnosis


# -----------------------------------------------------------------------------------------------------------
# Files, and what train.py asks of the table


@pytest.mark.parametrize("model", models.MODELS)
def test_a_saved_model_comes_back_without_flags(model, tmp_path):
    for encoder, decoder in [("conv", "conv"), ("gru", "lstm")]:
        saved = build(model, encoder=encoder, decoder=decoder, **SMALL)
        saved.train()(make_batch().x) if model == "classifier" else None  # moves the running means
        models.save(tmp_path / "best.pt", saved, epoch=3, notes=["plain", 1.0])
        assert torch.load(tmp_path / "best.pt", weights_only=True)["notes"] == ["plain", 1.0]
        assert models.read_checkpoint(tmp_path / "best.pt")["epoch"] == 3
        loaded = models.load(tmp_path / "best.pt")
        assert type(loaded) is type(saved) and not loaded.training and loaded.recipe == saved.recipe
        saved.eval()
        x, y, _ = make_batch()
        for method in ("encode", "reconstruct") if saved.has_encoder else ():
            restored, original = (drawn_alike(getattr(m, method), x, y) for m in (loaded, saved))
            assert torch.equal(restored, original)
        if saved.draws_samples:
            assert torch.equal(drawn_alike(loaded.sample, 4, y), drawn_alike(saved.sample, 4, y))
        if model == "classifier":
            assert torch.equal(loaded.predict(x), saved.predict(x))
        models.save(tmp_path / "again.pt", loaded)
        assert models.load(tmp_path / "again.pt").state_dict().keys() == saved.state_dict().keys()


def broken_files():
    file = io.BytesIO()
    models.save(file, tiny())
    whole = file.getvalue()
    for share in (0.0, 0.01, 0.3, 0.9, 0.999):
        yield f"first {share:.1%}", whole[: int(share * len(whole))]
    yield "text", b"This is a text.\n"
    for letter in "es(}.":  # which say something to the unpickler
        yield f"text that begins with {letter}", letter.encode() + b"poch,step,split\n0,0,valid\n"
    yield "zip of text", b"PK\x03\x04" + b"text" * 20
    yield "pickle of a list", pickle.dumps([1, 2])
    yield "pickle of a function", pickle.dumps(print)
    unknown = dict(model="no-such-model", arguments={}, weights={})
    kinds = dict(tensor=torch.ones(3), dict={"weights": {}}, number=3, model_unknown_here=unknown)
    kinds["model_with_other_flags"] = dict(model="ae", arguments=dict(no_such_flag=1), weights={})
    kinds["model_with_other_weights"] = tiny().recipe | dict(weights={})
    for name, value in kinds.items():
        file = io.BytesIO()
        torch.save(value, file)
        yield f"checkpoint of a {name}", file.getvalue()


@pytest.mark.parametrize("content", [pytest.param(body, id=name) for name, body in broken_files()])
@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
def test_a_file_that_is_no_checkpoint_is_refused_in_one_line(content, tmp_path):
    path = tmp_path / "best.pt"
    path.write_bytes(content)
    with pytest.raises(ModelError) as caught:
        models.load(path)
    assert str(path) in str(caught.value) and "\n" not in str(caught.value) and caught.value.status == 1


def checkpoint_bytes(checkpoint):
    file = io.BytesIO()
    torch.save(checkpoint, file)
    return file.getvalue()


def refusal(path):
    """The line in which `load` refuses a file."""
    with pytest.raises(ModelError) as caught:
        models.load(path)
    message = str(caught.value)
    assert message.startswith(str(path)) and "\n" not in message and caught.value.status == 1
    return message.removeprefix(str(path))


def flip_a_bit(content, place):
    content[place] ^= 1 << place % 8


def zero_a_sector(content, place):
    content[place : place + 512] = bytes(len(content[place : place + 512]))


def swap_blocks(content, place):
    first, second = content[place : place + 100], content[place + 100 : place + 200]
    content[place : place + 200] = second + first


def cut(content, place):
    del content[place:]


@pytest.mark.parametrize("damage", [flip_a_bit, zero_a_sector, swap_blocks, cut])
def test_a_damaged_byte_never_changes_a_model(damage, tmp_path):
    saved = tiny()
    content = checkpoint_bytes(saved.recipe | {"weights": saved.state_dict()})
    n_refused = 0
    for place in range(0, len(content), len(content) // 150):
        damaged = bytearray(content)
        damage(damaged, place)
        (tmp_path / "best.pt").write_bytes(damaged)
        try:
            loaded = models.load(tmp_path / "best.pt")  # bytes of the archive that mean nothing may differ
        except ModelError as error:
            assert "is damaged" in str(error)
            n_refused += 1
        else:
            weights = loaded.state_dict()
            assert all(torch.equal(tensor, weights[name]) for name, tensor in saved.state_dict().items())
    assert n_refused > 75


def test_a_compressed_record_is_refused_before_it_is_read(tmp_path):
    models.save(tmp_path / "best.pt", tiny(), filler=torch.zeros(1_000_000))
    with zipfile.ZipFile(tmp_path / "best.pt") as stored, zipfile.ZipFile(tmp_path / "bomb.pt", "w") as bomb:
        for name in stored.namelist():
            bomb.writestr(name, stored.read(name), zipfile.ZIP_DEFLATED)
    assert torch.load(tmp_path / "bomb.pt", weights_only=True)["filler"].shape == (1_000_000,)
    assert "is damaged" in refusal(tmp_path / "bomb.pt")


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such files")
def test_only_a_regular_file_is_opened(tmp_path):
    os.mkfifo(tmp_path / "pipe.pt")  # which nobody writes: to open it would wait without end
    assert "is damaged" in refusal(tmp_path / "pipe.pt")
    assert "is damaged" in refusal(tmp_path)
    with pytest.raises(FileNotFoundError):
        models.load(tmp_path / "none.pt")


def test_a_device_that_is_not_there_is_no_damage(tmp_path):
    models.save(tmp_path / "best.pt", tiny())
    with pytest.raises(RuntimeError, match="gpu"):  # torch's own message, which names the devices
        models.load(tmp_path / "best.pt", "gpu")


MISSING = object()
BIAS = "decoder.stack.0.bias"


@pytest.mark.parametrize("place, value, message", [
    (["model"], MISSING, "no 'model'"), (["model"], 5, "'model' of type str"), (["model"], "gone", "'gone'"),
    (["arguments"], MISSING, "no 'arguments'"), (["arguments"], [], "'arguments' of type dict"),
    (["arguments", "image_shape"], MISSING, "'image_shape'"),
    (["arguments", "image_shape"], (1, 28), "cannot build"),
    (["arguments", "image_shape"], (1, 4.0, 4), "cannot build"), (["arguments", "image_shape"], 5, "build"),
    (["arguments", "gone"], 1, "argument 'gone'"), (["arguments", 5], 1, "must be strings"),
    (["arguments", "model"], "vae", "argument 'model'"),
    (["arguments", "latent_dim"], "4", "cannot build"),
    (["arguments", "latent_dim"], True, "to_latent.weight"),
    (["arguments", "latent_dim"], 5, "to_latent.weight"), (["arguments", "latent_dim"], -1, "cannot build"),
    (["arguments", "encoder_hidden"], 10**20, "cannot build"),
    (["arguments", "encoder"], None, "encoder None"), (["arguments", "encoder"], "lstm", "weights"),
    (["arguments", "encoder"], [], "cannot build"),
    (["arguments", "decoder"], "conv", "cannot build"),
    (["arguments", "encoder_depth"], "1", "cannot build"),
    (["weights"], MISSING, "no 'weights'"), (["weights"], torch.ones(3), "'weights' of type dict"),
    (["weights", BIAS], MISSING, BIAS), (["weights", "gone"], torch.ones(1), "weights gone"),
    (["weights", BIAS], None, BIAS), (["weights", BIAS], torch.ones(9), BIAS),
    (["weights", BIAS], torch.ones(8).double(), BIAS), (["weights", BIAS], torch.ones(8).cfloat(), BIAS),
    (["weights", BIAS], torch.ones(8, device="meta"), "cannot build"),
    (["weights", BIAS], torch.full((8,), math.nan), "not finite"),
    (["weights", 5], torch.ones(1), "weights 5"),
])  # fmt: skip
def test_an_entry_that_is_missing_unknown_or_ill_typed_is_named(place, value, message, tmp_path):
    saved = tiny()
    checkpoint = {**saved.recipe, "weights": dict(saved.state_dict())}
    *outer, name = place
    entries = checkpoint[outer[0]] if outer else checkpoint
    if value is MISSING:
        del entries[name]
    else:
        entries[name] = value
    (tmp_path / "best.pt").write_bytes(checkpoint_bytes(checkpoint))
    assert message in refusal(tmp_path / "best.pt")


class Watch(TorchDispatchMode):
    """Calls check(function, first argument, result) for every operation on tensors."""

    def __init__(self, check):
        super().__init__()
        self.check = check

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        for tensor in result if isinstance(result, tuple | list) else [result]:
            self.check(function, args and args[0], tensor)
        return result


def takes_no_memory(function, argument, result):
    assert not isinstance(result, torch.Tensor) or result.is_meta, function


def runs_on_mps(function, argument, result):
    """That device has no float64 and no pdist, which a tensor that was moved to the CPU may use."""
    assert not isinstance(result, torch.Tensor) or result.dtype != torch.float64, function
    moved = getattr(argument, "was_moved", False)
    assert moved or function is not torch.ops.aten._pdist_forward.default


@pytest.mark.parametrize("model, options", [
    ("vae", dict(latent_dim=2**31)), ("vae", dict(dense=2**31)), ("ae", dict(squeeze=10**11)),
    ("ad", dict(latent_dim=2**31 - 1, decoder="mlp")), ("ad", dict(n_train=10**8)),
    ("ad", dict(n_test=10**8)),
    ("ae", dict(encoder="mlp", encoder_depth=10**6)), ("ae", dict(decoder="gru", decoder_depth=2**31 - 1)),
    ("text2text", dict(encoder_depth=10**20)), ("text2text", dict(encoder_hidden=10**6)),
    ("ae", dict(image_shape=(1, 10**6, 10**6))), ("gan", dict(image_shape=(1, 10**6, 10**6))),
    ("classifier", dict(image_shape=(1, 10**6, 10**6), encoder="lstm", encoder_hidden=1)),
    ("cvae", dict(image_shape=(3, 2**31, 2**31))), ("cvae", dict(n_classes=10**9)),
    ("gan", dict(decoder_start=(1, 10**6, 10**6))), ("gan", dict(decoder_start=3 * (2**31,))),
    ("text2text", dict(encoder_hidden=2**31)), ("ae", dict(encoder_layers="100000000,28,1,0")),
    ("ae", dict(encoder_layers="8,3,100000000000000000000,1")),
    ("ae", dict(encoder_layers="1,1,1,1000000 1,1,1000000,0")),
    ("ae", dict(decoder_start=(1, 2, 2), decoder_layers="1,1,30000,0 1,1,1,14987")),
    ("text2image", dict(decoder_start=(10**5, 10**5, 1))), ("image2text", dict(frame_size=10**7)),
    ("vae", dict(shift=2_000_000)),
], ids=str)  # fmt: skip
def test_sizes_beyond_reason_are_refused_before_they_take_memory(model, options):
    with Watch(takes_no_memory), pytest.raises(ModelError) as caught:
        build(model, **options)
    assert "\n" not in str(caught.value)


def test_a_model_is_initialized_as_without_the_check_of_its_size():
    built = tiny("cvae")
    torch.manual_seed(0)
    direct = models.ConditionalVAE(**built.recipe["arguments"])
    assert all(map(torch.equal, built.state_dict().values(), direct.state_dict().values()))


@pytest.mark.parametrize("model", models.MODELS)
def test_models_do_without_float64_and_pdist(model, monkeypatch):
    def cpu(tensor):
        moved = tensor.clone()
        moved.was_moved = True
        return moved

    monkeypatch.setattr(torch.Tensor, "cpu", cpu)
    split = data.Split(torch.from_numpy(DIGITS["x_train"][:20, None].copy()), torch.arange(20) % 3)
    if models.MODELS[model].task == "arithmetic":
        split = data.load("arithmetic", drawn=models.MODELS[model].defaults["drawn"]).train
        split = split._replace(x=split.x[:20], y=split.y[:20])
    with Watch(runs_on_mps):
        built = build(model, **{k: v for k, v in SMALL.items() if k in models.constructor_defaults(model)})
        batch = Batch(*split.batch(slice(0, 20)), torch.arange(20))
        for turn in built.turns():
            loss, _ = turn.loss(batch, 0)
            loss.backward()
        built.eval()
        with torch.no_grad():
            built.diagnose(split)
        if built.draws_samples:
            built.sample(3, scale=0.5)
        if built.has_encoder:
            built.reconstruct(batch.x, batch.y)


FACTS = {"image_shape", "n_classes", "n_train", "n_test"}  # of the data, which train.py fills in


@pytest.mark.parametrize("model", models.MODELS)
def test_keywords_are_what_the_constructor_takes(model):
    defaults = models.constructor_defaults(model)
    cls, empty = models.MODELS[model], inspect.Parameter.empty
    signature = inspect.signature(cls).parameters
    named = {name: p.default for name, p in signature.items() if p.kind is not p.VAR_KEYWORD}
    assert named.items() <= defaults.items()
    networks = [inspect.signature(network).parameters for network in models.NETWORKS.get(cls, ())]
    passed_on = {
        name: p.default for taken in networks for name, p in taken.items() if p.default is not empty
    }
    assert passed_on.keys() <= defaults.keys()
    if not set(cls.__mro__[1:]) & set(models.MODELS.values()):  # else a parent takes some too
        assert defaults == passed_on | named
    optional = {name: value for name, value in defaults.items() if value is not empty}
    assert defaults.keys() - optional.keys() <= FACTS and "self" not in defaults
    plain = build(model)
    spelled_out = build(model, **{k: v for k, v in optional.items() if k != "label_width"})
    assert str(spelled_out) == str(plain)
    with pytest.raises(TypeError, match="no_such_option"):
        models.build(model, **plain.recipe["arguments"], no_such_option=1)


def test_help_tells_each_default_and_the_parser_holds_none_of_its_own():
    parser = train.flags()
    actions = {action.dest: action for action in parser._actions}
    expected = {}
    for model, cls in models.MODELS.items():
        for name, value in (models.constructor_defaults(model) | cls.defaults).items():
            if name not in FACTS | {"label_width", *data.FLAGS}:
                assert actions[name].default is argparse.SUPPRESS, name
                expected.setdefault(name, {})
                expected[name] |= {model: str(value)} if value is not None else {}
    for name, defaults in expected.items():
        from_help, text = {}, re.search(r"\(default (.*)\)$", actions[name].help)
        for group in re.split(r"; (?=\w+ )", text.group(1)) if text else []:
            which = [word for word in group.split() if word in models.MODELS]
            from_help |= dict.fromkeys(which, group.removeprefix(" ".join(which) + " "))
        assert from_help == defaults, name
    help_text = " ".join(parser.format_help().split())
    assert "(default ae ad vad 32; vae gan 16; cvae 8)" in help_text
    assert "(default vae cvae vad 1.0; ad 0.0)" in help_text


def test_signals_keep_their_size_on_the_way_through_a_gan():
    sizes = {}
    for he_init in (True, False):
        torch.manual_seed(0)
        gan = build("gan", (3, 64, 64), he_init=he_init, decoder_norm=False)
        with torch.no_grad():
            logits = gan.generator[:-1](torch.randn(200, 16))[:, :, 8:-8, 8:-8]  # borders meet fewer taps
            score = gan.discriminator(torch.rand(200, 3, 64, 64) * 2 - 1)
        sizes[he_init] = logits.square().mean().sqrt().item(), score.std().item()
    assert 0.5 < sizes[True][0] < 3  # of 2 squared at each layer, half of it cut off by the ReLU after
    assert sizes[False][0] < 0.1 * sizes[True][0] and sizes[False][1] < 0.1 * sizes[True][1]
