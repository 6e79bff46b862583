"""What models.py promises, held against formulas, loops, torch.distributions and scipy."""

import inspect
import io
import math
import pickle
import re
from itertools import pairwise
from types import SimpleNamespace

import numpy as np
import pytest
import scipy.stats
import torch
import torch.nn as nn

import data
import models
import train
from models import Batch, Gaussian, ModelError

INF = math.inf
SMALL = dict(encoder_hidden=8, decoder_hidden=8, latent_dim=4)
MAKERS = [name for name in models.MODELS if hasattr(models.MODELS[name], "decode")]
DIGITS = np.load(data.BUILT_IN / "mnist10k.npz")


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


def build(model, image_shape=(1, 28, 28), **options):
    takes = models.keywords(model)
    n_classes = 13 if "drawn" in models.MODELS[model].defaults else 3  # arithmetic's symbols
    facts = dict(image_shape=image_shape, n_classes=n_classes, n_train=50) | options
    return models.build(model, **{name: value for name, value in facts.items() if name in takes})


def tiny(model="vae", **options):
    """A model of MLPs for pictures of 4 x 4, in eval mode."""
    return build(model, **SMALL | dict(image_shape=(1, 4, 4), encoder="mlp", decoder="mlp") | options).eval()


def batch(n=4, image_shape=(1, 28, 28), n_classes=3):
    return Batch(torch.rand(n, *image_shape), torch.arange(n) % n_classes, torch.arange(n))


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
    x, y, _ = given = batch(3, image_shape)
    ((_, groups, loss_function),) = built.turns()
    loss, parts = loss_function(given, 0)
    assert loss.shape == () and loss.isfinite() and built.monitor in parts
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
        assert hasattr(built, "sample") == (model != "ae")
        if model != "ae":
            assert images(built.sample(5), 5, *image_shape)
            assert images(built.sample(3, y, scale=2.0, truncate=1.0), 3, *image_shape)


@pytest.mark.parametrize("image_shape", [(1, 28, 28), (1, 32, 32), (3, 64, 64)], ids=str)
@pytest.mark.parametrize("encoder", models.ENCODERS)
def test_classifier_trains_with_every_encoder(encoder, image_shape):
    model = build("classifier", image_shape, encoder=encoder, encoder_hidden=8)
    x, y, _ = given = batch(4, image_shape)
    loss, parts = model.turns()[0][2](given, 0)
    loss.backward()
    assert loss.isfinite() and 0 <= parts["accuracy"] <= 100
    assert all(p.grad is not None and p.grad.any() for p in model.parameters())
    model.eval()
    chances = model.predict(x)
    assert chances.shape == (4, 3) and chances.min() >= 0
    torch.testing.assert_close(chances.sum(1), torch.ones(4))
    loss, parts = model.loss(given, INF)
    torch.testing.assert_close(loss, -chances[range(4), y].log().mean())
    assert parts["accuracy"] == 100 * (chances.argmax(1) == y).float().mean()


# -----------------------------------------------------------------------------------------------------------
# The reports' networks are flags alone. Parameters are counted by formula


def conv(*channels, k):  # of transposed ones as many
    return sum(b * (a * k * k + 1) for a, b in pairwise(channels))


def fc(*sizes):
    return conv(*sizes, k=1)


def rnn(gates, inputs, hidden, depth=1, directions=1):
    layers = [inputs] + [directions * hidden] * (depth - 1)
    return sum(directions * gates * hidden * (size + hidden + 2) for size in layers)


SSE, BCE = dict(likelihood="gaussian"), dict(likelihood="bernoulli")
R0_1 = dict(encoder="lstm", encoder_hidden=128, encoder_depth=2, latent_dim=64)
R0_1 |= dict(decoder="lstm", decoder_hidden=128, decoder_depth=2)
R0_STACK = dict(encoder="conv", encoder_layers="32,3,2,1 64,3,2,1 128,3,2,0", latent_dim=64)
R0_RNN = dict(encoder="gru", encoder_hidden=128, encoder_depth=3, bidirectional=True, latent_dim=64)
R0_RNN |= dict(decoder="conv", decoder_start=(128, 3, 3), decoder_layers="64,3,2,0 32,3,2,1,1 1,3,2,1,1")
R4_1 = dict(encoder="lstm", encoder_hidden=128, encoder_depth=2, latent_dim=128, decoder="lstm")
R4_1 |= dict(decoder_inputs=128, decoder_hidden=28, decoder_depth=2, decoder_readout=False)
R4_DECODER = dict(decoder="conv", decoder_start=(128, 7, 7), decoder_layers="64,4,2,1 32,4,2,1 1,3,1,1")
R4_DECODER |= dict(latent_dim=32) | BCE
R4_STACK = dict(encoder="conv", encoder_layers="32,3,2,1 64,3,2,1 128,3,1,1") | R4_DECODER
R0_UP, R0_DOWN, GRU3 = conv(128, 64, 32, 1, k=3), conv(1, 32, 64, 128, k=3), rnn(3, 28, 128, 3, 2)
R4_UP = fc(32, 6272) + conv(128, 64, 32, k=4) + conv(32, 1, k=3)
R4_DOWN = conv(1, 32, 64, 128, k=3)

# fmt: off
ADDED = dict(label="add", dense=0)
REPORTS = {  # name: (model, its flags, size of the features, parameters)
    "R0.1": ("ae", R0_1 | SSE, 128, rnn(4, 28, 128, 2) + fc(128, 64) + rnn(4, 64, 128, 2) + fc(128, 28)),
    "R0.2": ("ae", R0_STACK | SSE, 1152, R0_DOWN + fc(1152, 64, 1152) + R0_UP),
    "R0.3": ("vae", R0_RNN | SSE, 256, GRU3 + fc(256, 128) + fc(64, 1152) + R0_UP),
    "R0.3 full": ("vae", R0_RNN | dict(sequence="full") | SSE, 28 * 256,
                  GRU3 + fc(28 * 256, 128) + fc(64, 1152) + R0_UP),
    "R0.4": ("vae", R0_STACK | SSE, 1152, R0_DOWN + fc(1152, 128) + fc(64, 1152) + R0_UP),
    "R4.1": ("ae", R4_1 | SSE, 128, rnn(4, 28, 128, 2) + 2 * fc(128, 128) + rnn(4, 128, 28, 2)),
    "R4.2": ("ae", dict(encoder="conv", encoder_layers="16,3,2,1 32,3,2,1", latent_dim=64) | SSE, 1568,
             conv(1, 16, 32, k=3) + fc(1568, 64, 1568) + conv(32, 16, 1, k=3)),
    "R4.3": ("vae", dict(encoder="gru", encoder_hidden=256, bidirectional=True, sequence="full")
             | R4_DECODER, 14336, rnn(3, 28, 256, 1, 2) + 2 * fc(14336, 32) + R4_UP),
    "R4.4": ("vae", R4_STACK, 6272, R4_DOWN + 2 * fc(6272, 32) + R4_UP),
    "R4.5": ("cvae", R4_STACK | ADDED, 6272, R4_DOWN + 2 * fc(6272, 32) + R4_UP + 5 * 32),
    "R4.6": ("classifier", dict(encoder="mlp", encoder_hidden=256), 256, fc(784, 256, 256, 5)),
}
for beta in (1.0, 2.0, 4.0):
    told = dict(beta=beta, label="concat", label_dim=16, dense=0) | SSE
    more = 5 * 16 + fc(64 + 16, 1152) + R0_UP
    REPORTS |= {
        f"R0.5 RNN, beta {beta}": ("cvae", R0_RNN | told, 256, GRU3 + fc(256 + 16, 128) + more),
        f"R0.5 conv, beta {beta}": ("cvae", R0_STACK | told, 1152, R0_DOWN + fc(1152 + 16, 128) + more),
    }
R3_DECODERS = {  # start, layers, their parameters
    1: ((128, 7, 7), "64,4,2,1 1,4,2,1", conv(128, 64, 1, k=4)),
    2: ((64, 7, 7), "32,4,2,1 16,4,2,1 1,3,1,1", conv(64, 32, 16, k=4) + conv(16, 1, k=3)),
    3: ((64, 1, 1), "56,4,1,0 28,4,2,1 14,3,2,1 1,2,2,1",
        conv(64, 56, 28, k=4) + conv(28, 14, k=3) + conv(14, 1, k=2)),
    4: ((6272, 1, 1), "56,4,1,0 28,4,2,1 14,3,2,1 1,2,2,1",
        conv(6272, 56, 28, k=4) + conv(28, 14, k=3) + conv(14, 1, k=2)),
    5: ((128, 7, 7), "56,3,2,1 28,3,1,1 14,4,2,1 1,3,1,0",
        conv(128, 56, 28, k=3) + conv(28, 14, k=4) + conv(14, 1, k=3)),
    6: ((64, 7, 7), "56,4,2,1 28,4,1,1 14,4,2,2 1,3,1,1", conv(64, 56, 28, 14, k=4) + conv(14, 1, k=3)),
}
for hidden, decoder, latents in [(64, 1, 2), (256, 1, 2), *((128, decoder, 2) for decoder in R3_DECODERS),
                                 (128, 1, 6), (128, 6, 5), (128, 6, 10), (128, 6, 20)]:
    start, layers, size = R3_DECODERS[decoder]
    REPORTS[f"R3 hidden {hidden}, decoder {decoder}, z {latents}"] = (
        "vae", dict(encoder="lstm", encoder_hidden=hidden, encoder_depth=1, latent_dim=latents)
        | dict(decoder="conv", decoder_start=start, decoder_layers=layers) | BCE, hidden,
        rnn(4, 28, hidden) + 2 * fc(hidden, latents) + fc(latents, math.prod(start)) + size,
    )
# fmt: on


def command_line(options):
    for name, value in options.items():
        flag = name.replace("_", "-")
        if isinstance(value, bool):
            yield f"--{'' if value else 'no-'}{flag}"
        else:
            text = ",".join(map(str, value)) if isinstance(value, tuple) else str(value)
            yield f"--{flag}={text}"


@pytest.mark.parametrize("name", REPORTS)
def test_report_is_flags_alone_with_its_sizes_and_parameters(name):
    model, options, features, parameters = REPORTS[name]
    built = build(model, n_classes=5, **options).eval()
    assert sum(p.numel() for p in built.parameters()) == parameters
    assert built.encoder.size == features
    given = batch(2, n_classes=5)
    assert built.encoder(given.x).shape == (2, features)
    if model == "classifier":
        assert built.predict(given.x).shape == (2, 5)
    else:
        assert built.reconstruct(given.x, given.y).shape == (2, 1, 28, 28)
    if model != "classifier" and options.get("decoder", "conv") == "conv":
        start = options.get("decoder_start") or {"R4.2": (32, 7, 7)}.get(name, (128, 3, 3))
        unflatten = next(layer for layer in built.decoder.stack if isinstance(layer, nn.Unflatten))
        assert tuple(unflatten.unflattened_size) == start

    argv = ["--model", model, *command_line(options)]
    parsed = vars(train.flags().parse_args(argv))
    assert {name: parsed[name] for name in options} == options
    dataset = SimpleNamespace(train=data.Split([], []), classes=[*"abcde"], image_shape=(1, 28, 28))
    same = train.make_model(train.read_flags(argv)[0], dataset, None)
    assert str(same) == str(built)
    for name in {"beta", "likelihood", "objective", "label"} & vars(built).keys():
        assert getattr(same, name) == getattr(built, name)


# -----------------------------------------------------------------------------------------------------------
# Likelihoods and the Gaussian


@pytest.fixture
def gaussian():
    return Gaussian(torch.randn(3, 5, dtype=torch.float64), torch.randn(3, 5, dtype=torch.float64))


def test_gaussian_agrees_with_torch_distributions(gaussian):
    oracle = torch.distributions.Normal(gaussian.mean, gaussian.log_variance.exp().sqrt())
    prior = torch.distributions.Normal(torch.zeros(5), torch.ones(5))
    z = torch.randn(7, 3, 5, dtype=torch.float64)
    torch.testing.assert_close(gaussian.log_prob(z), oracle.log_prob(z).sum(-1))
    torch.testing.assert_close(gaussian.log_prob(z[0]), oracle.log_prob(z[0]).sum(-1))
    torch.testing.assert_close(gaussian.kl(), torch.distributions.kl_divergence(oracle, prior))


def test_gaussian_samples_and_kl_agree_with_monte_carlo(gaussian):
    z = gaussian.sample(40_000)
    assert z.shape == (40_000, 3, 5) and gaussian.sample().shape == (3, 5)
    scale = gaussian.log_variance.exp().sqrt()
    assert ((z.mean(0) - gaussian.mean).abs() < 5 * scale / 200).all()
    torch.testing.assert_close(z.std(0), scale, rtol=0.02, atol=0)
    prior = Gaussian(torch.zeros(3, 5), torch.zeros(3, 5))
    difference = gaussian.log_prob(z) - prior.log_prob(z)
    assert ((difference.mean(0) - gaussian.kl().sum(1)).abs() < 5 * difference.std(0) / 200).all()


def test_pixels_are_scored_as_a_loop_would():
    raw, x = torch.randn(2, 3, 4, 4, dtype=torch.float64), torch.rand(2, 3, 4, 4, dtype=torch.float64)
    bernoulli, gaussian = [0, 0], [0, 0]
    for k in range(2):
        for logit, pixel in zip(raw[k].flatten().tolist(), x[k].flatten().tolist(), strict=True):
            p = 1 / (1 + math.exp(-logit))
            bernoulli[k] -= pixel * math.log(p) + (1 - pixel) * math.log(1 - p)
            gaussian[k] += (logit - pixel) ** 2
    assert models.bernoulli_nats(raw, x).tolist() == pytest.approx(bernoulli)
    assert models.gaussian_nats(raw, x).tolist() == pytest.approx(gaussian)
    normal = torch.distributions.Normal(raw, 0.5**0.5)  # variance ½, as gaussian_nats says
    density = normal.log_prob(x).flatten(1).sum(1)
    torch.testing.assert_close(models.gaussian_nats(raw, x), -density - 48 / 2 * math.log(math.pi))


@pytest.mark.parametrize("nats", [models.bernoulli_nats, models.gaussian_nats])
def test_nats_have_the_right_gradient_and_sum_over_pixels(nats):
    raw = torch.randn(2, 1, 3, 3, dtype=torch.float64, requires_grad=True)
    x = torch.rand(2, 1, 3, 3, dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda raw: nats(raw, x), raw)
    assert nats(raw, x).shape == (2,)
    torch.testing.assert_close(nats(raw.tile(1, 1, 2, 1), x.tile(1, 1, 2, 1)), 2 * nats(raw, x))
    assert nats(1e4 * raw.detach(), x).isfinite().all()


# -----------------------------------------------------------------------------------------------------------
# Losses


@pytest.mark.parametrize("likelihood", models.LIKELIHOODS)
def test_autoencoder_loss_is_summed_over_pixels_and_averaged_over_images(likelihood):
    model, given = tiny("ae", likelihood=likelihood), batch(6, (1, 4, 4))
    image = model.reconstruct(given.x)
    cross = -(given.x * image.log() + (1 - given.x) * (1 - image).log())
    each = cross if likelihood == "bernoulli" else (given.x - image) ** 2
    torch.testing.assert_close(model.loss(given, 0)[0], each.sum() / 6)


@pytest.mark.parametrize("beta", [0.0, 1.0, 4.0])
@pytest.mark.parametrize("model", ["vae", "cvae"])
def test_elbo_is_reconstruction_plus_beta_kl(model, beta):
    loss, parts = tiny(model, beta=beta).loss(batch(4, (1, 4, 4)), INF)
    torch.testing.assert_close(loss, parts["reconstruction"] + beta * parts["kl"])
    assert parts["loss"] is loss and parts["kl"] > 0
    assert set(parts) <= models.UNITS.keys()


def test_warm_up_raises_the_weight_of_the_kl_from_nothing_to_beta():
    model, given = tiny(beta=3.0, kl_warm_up=200), batch(4, (1, 4, 4))
    for step, weight in [(0, 0), (50, 0.75), (100, 1.5), (200, 3), (1000, 3), (INF, 3)]:
        loss, parts = model.loss(given, step)
        torch.testing.assert_close(loss, parts["reconstruction"] + weight * parts["kl"])


def test_free_bits_clamp_per_image_and_latent():
    """One latent of two images: KLs of 0 and 2 cost (½ + 2) / 2. Clamped by their mean they would cost 1."""
    model, given = tiny(latent_dim=2, free_bits=0.5, beta=2.0), batch(2, (1, 4, 4))
    mean = torch.tensor([[0.0, 1.0], [2.0, 0.4]])  # KL mean² / 2: 0, ½, 2, .08
    model.posterior = lambda x, labels: Gaussian(mean, torch.zeros(2, 2))
    loss, parts = model.loss(given, 0)
    assert (loss - parts["reconstruction"]).item() == pytest.approx(2 * (0.5 + 0.5 + 2 + 0.5) / 2, abs=1e-5)
    assert parts["kl"].item() == pytest.approx((0 + 0.5 + 2 + 0.08) / 2)


def own_noise(monkeypatch, noise):
    """torch.randn then hands out noise [..., N, D], each example its own; returns what starts over."""
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
    model, given = tiny(model, **options), batch(11, (1, 4, 4))
    k = (model.iwae_samples,) if options.get("objective") == "iwae" else ()
    start = own_noise(monkeypatch, torch.randn(*k, 11, 4))
    _, whole = model.loss(given, INF)
    start()
    parts = [model.loss(Batch(*part), INF)[1] for part in zip(*(t.split(4) for t in given), strict=True)]
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


# -----------------------------------------------------------------------------------------------------------
# Bounds on log p(x), known in closed form where encoder and decoder are linear


def linear_vae(exact):
    """(model, x, log p(x)): pictures of 6 pixels from 2 latents; x | z ~ N(W z + b, I / 2)."""
    networks = dict(encoder_hidden=6, encoder_depth=0, decoder_hidden=2, decoder_depth=0)
    model = tiny(image_shape=(1, 2, 3), latent_dim=2, objective="iwae", likelihood="gaussian", **networks)
    model.double().squash = nn.Identity()
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


def bounds(model, given, k, repeats):
    """Importance weighted bounds of k samples [repeats, B], with the constant of the likelihood."""
    model.iwae_samples = k
    posterior = model.posterior(given.x)
    with torch.no_grad():
        found = torch.stack([model.importance_weighted(given, posterior)[0] for _ in range(repeats)])
    return found - given.x[0].numel() / 2 * math.log(math.pi)


def elbo(model, given, repeats=1):
    model.objective = "elbo"
    with torch.no_grad():
        found = torch.stack([model.loss(given, INF)[0] for _ in range(repeats)])
    return -found - given.x[0].numel() / 2 * math.log(math.pi)


def test_with_the_true_posterior_every_bound_is_log_p():
    model, given, log_p = linear_vae(exact=True)
    for k in (1, 7):
        torch.testing.assert_close(bounds(model, given, k, 1)[0], log_p)
    found = elbo(model, given, 4000)
    assert abs(found.mean() - log_p.mean()) < 5 * found.std() / 4000**0.5


def test_bounds_rise_with_the_samples_to_log_p():
    model, given, log_p = linear_vae(exact=False)
    found = {k: bounds(model, given, k, 1500).mean(1) for k in (1, 5, 50)}
    at = {k: values.mean() for k, values in found.items()}
    assert at[1] + 0.05 < at[5] and at[5] + 0.005 < at[50] < log_p.mean()
    torch.testing.assert_close(bounds(model, given, 30_000, 1)[0], log_p, rtol=0, atol=0.02)
    single, direct = found[1], elbo(model, given, 1500)
    error = (single.var() + direct.var()).sqrt() / 1500**0.5
    assert abs(single.mean() - direct.mean()) < 4 * error
    assert (direct.mean() + 4 * error) < log_p.mean()


def test_iwae_loss_is_the_negative_bound_with_a_finite_gradient():
    model = tiny(objective="iwae", iwae_samples=4)
    given = batch(3, (1, 4, 4))
    torch.manual_seed(1)
    loss, parts = model.loss(given, INF)
    torch.manual_seed(1)
    bound, reconstruction = model.importance_weighted(given, model.posterior(given.x))
    torch.testing.assert_close(loss, -bound.mean())
    torch.testing.assert_close(parts["reconstruction"], reconstruction.mean())
    torch.testing.assert_close(parts["kl"], model.posterior(given.x).kl().sum() / 3)
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
    model, given = tiny("ae", **options), batch(3, (1, 4, 4))
    raw = model.raw(model.encode(given.x))
    torch.testing.assert_close(model.reconstruct(given.x), raw.clamp(0, 1))
    torch.testing.assert_close(model.loss(given, 0)[0], (raw - given.x).square().sum() / 3)
    with pytest.raises(ModelError, match="--likelihood gaussian"):
        tiny("vae", **options | dict(likelihood="bernoulli"))
    with pytest.raises(ModelError, match="a row of the picture, 4$"):
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
    made = encoder.stack[:-1](torch.rand(1, *shape))
    assert made.shape[1:] == start == models.conv_shapes(shape, layers)[-1]
    assert encoder.size == made.numel()
    decoder = models.ConvDecoder(5, shape, start, mirrored)
    image = decoder(torch.randn(3, 5))
    assert image.shape == (3, *shape)
    kinds = [type(layer).__name__ for layer in [*encoder.stack, *decoder.stack]]
    up, down = ["ReLU", "ConvTranspose2d"], ["Conv2d", "ReLU"]
    assert kinds == down * len(layers) + ["Flatten", "Linear", "Unflatten"] + up * len(layers)


@pytest.mark.parametrize("text", [
    "", " ", "32", "32,3,2", "a,b,c,d", "0,3,2,1", "8,0,2,1", "8,3,0,1", "8,3,2,1,0,0", "8,3,2,-1",
    "8,3,2,1,-1", "8,3,2,1;8,3,2,1", "8,3.5,2,1",
])  # fmt: skip
def test_layers_that_make_no_sense_are_refused(text):
    assert models.parse_layers("32,3,2,1 64,4,2,0,1", (4, 5)) == [(32, 3, 2, 1), (64, 4, 2, 0, 1)]
    with pytest.raises(ModelError, match="channels,kernel,stride,padding"):
        models.parse_layers(text)


@pytest.mark.parametrize("options, told", [
    (dict(encoder_layers="8,3,2,0 8,3,2,0 8,3,2,0 8,3,2,0"), "nothing of a picture of 28 x 28"),
    (dict(encoder_layers="8,29,1,0"), "nothing of a picture of 28 x 28"),
    (dict(decoder_layers="8,4,2,1 1,4,1,1"), r"\(1, 15, 15\), the data are \(1, 28, 28\)"),
    (dict(decoder_start=(9, 7, 7), decoder_layers="3,4,2,1 2,4,2,1"), r"\(2, 28, 28\)"),
    (dict(decoder_start=(9, 28, 28), decoder_layers="1,3,1,1,1"), "."),  # output padding, but no stride
    (dict(decoder_start=(9, 1, 1), decoder_layers="1,1,1,1"), "."),  # nothing is left
])  # fmt: skip
def test_convolutions_that_do_not_fit_the_picture_are_refused(options, told):
    with pytest.raises(ModelError, match=told):
        build("ae", **options)


# -----------------------------------------------------------------------------------------------------------
# Draws


@pytest.mark.parametrize("cut", [0.1, 0.5, 2.0, 5.0])
def test_truncated_latents_are_those_of_a_truncated_normal(cut):
    z = models.standard_normal(5000, 8, cut)
    assert z.shape == (5000, 8) and z.abs().max() <= cut
    assert z.var().item() == pytest.approx(scipy.stats.truncnorm(-cut, cut).var(), rel=0.03)
    assert abs(z.mean()) < 5 * min(1, cut) / 200
    assert models.standard_normal(5000, 8).abs().max() > 3
    model = tiny("vae", latent_dim=8)
    model.decode = lambda z, labels=None: z
    assert model.sample(500, scale=3.0, truncate=cut).abs().max() <= 3 * cut
    assert model.sample(500, scale=3.0).std().item() == pytest.approx(3, rel=0.1)


def centre(x):
    x = x[:, 0] / x.sum((1, 2, 3))[:, None, None]
    along = torch.arange(x.shape[-1], dtype=x.dtype)
    return torch.stack([(x.sum(2) * along).sum(1), (x.sum(1) * along).sum(1)], 1)


def test_augmented_pictures_differ_a_little_and_keep_their_meaning():
    x = torch.from_numpy(DIGITS["x_train"][:400, None]).float() / 255
    moved = models.augmented(x)
    assert images(moved, 400, 1, 28, 28)
    apart = (centre(moved) - centre(x)).norm(dim=1)
    assert apart.max() < 6 and apart.mean() > 0.5
    ink = moved.sum((1, 2, 3)) / x.sum((1, 2, 3))
    assert ink.min() > 0.3 and ink.max() < 1.6 and 0.6 < ink.mean() < 0.9
    assert (moved.amax((1, 2, 3)) > 0.2).all()
    same = models.augmented(x[:1].repeat(20, 1, 1, 1)).flatten(1)
    assert (torch.pdist(same) > 0).all() and same.amax(1).std() > 0.05  # dimmed each by its own amount
    assert not models.augmented(torch.zeros(5, 3, 9, 7)).any()


@pytest.mark.parametrize("augment", [True, False])
def test_augmentation_is_for_training_alone(augment):
    model, given = tiny("classifier", encoder="conv", augment=augment), batch(8, (1, 4, 4))
    assert torch.equal(model.loss(given, 0)[0], model.loss(given, 0)[0])
    model.train()
    assert torch.equal(model.loss(given, 0)[0], model.loss(given, 0)[0]) != augment


# -----------------------------------------------------------------------------------------------------------
# Diagnosis


@pytest.mark.parametrize("model", MAKERS)
def test_diagnosis_agrees_with_a_direct_computation(model):
    model = tiny(model)
    split = data.Split(torch.randint(256, (501, 1, 4, 4), dtype=torch.uint8), torch.arange(501) % 3)
    x = split.x / 255
    found = model.diagnose(split)
    error = (model.reconstruct(x, split.y) - x).square().mean().item()
    assert found["mse"] == pytest.approx(error) and found.keys() <= {*models.UNITS, "warning"}
    if hasattr(model, "posterior"):
        kl = model.loss(Batch(x, split.y, None), INF)[1]["kl"].item()
        assert len(found["kl_per_dimension"]) == 4 and sum(found["kl_per_dimension"]) == pytest.approx(kl)
        means = model.encode(x, split.y).detach().numpy()
        assert found["active_latents"] == (means.var(0, ddof=1) > 0.01).sum()


def test_latents_that_say_nothing_are_counted_and_warned_of():
    model = tiny()
    split = data.Split(torch.randint(256, (50, 1, 4, 4), dtype=torch.uint8), torch.zeros(50))
    with torch.no_grad():
        model.to_latent.weight.zero_()
        assert model.diagnose(split)["active_latents"] == 0
        assert "--kl-warm-up" in model.diagnose(split)["warning"]
        model.to_latent.weight[1] = 1.0
        found = model.diagnose(split)
    assert found["active_latents"] == 1 and "warning" not in found


# -----------------------------------------------------------------------------------------------------------
# Files, and what train.py asks of the table


@pytest.mark.parametrize("model", models.MODELS)
def test_a_saved_model_comes_back_without_flags(model, tmp_path):
    for encoder, decoder in [("conv", "conv"), ("gru", "lstm")]:
        made = build(model, encoder=encoder, decoder=decoder, **SMALL)
        made.train()(batch().x) if model == "classifier" else None  # moves the running means
        models.save(tmp_path / "best.pt", made, epoch=3, told=["plain", 1.0])
        assert torch.load(tmp_path / "best.pt", weights_only=True)["told"] == ["plain", 1.0]
        assert models.read_checkpoint(tmp_path / "best.pt")["epoch"] == 3
        back = models.load(tmp_path / "best.pt")
        assert type(back) is type(made) and not back.training and back.recipe == made.recipe
        made.eval()
        x, y, _ = batch()
        for method in {"encode", "reconstruct"} & set(dir(made)):
            assert torch.equal(getattr(back, method)(x, y), getattr(made, method)(x, y))
        if model == "classifier":
            assert torch.equal(back.predict(x), made.predict(x))
        models.save(tmp_path / "again.pt", back)
        assert models.load(tmp_path / "again.pt").state_dict().keys() == made.state_dict().keys()


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


FACTS = {"image_shape", "n_classes", "n_train"}  # of the data, which train.py fills in


@pytest.mark.parametrize("model", models.MODELS)
def test_keywords_are_what_the_constructor_takes(model):
    found = models.keywords(model)
    own = inspect.signature(models.MODELS[model]).parameters
    named = {name: p.default for name, p in own.items() if p.kind is not p.VAR_KEYWORD}
    assert named.items() <= found.items()
    if len(named) == len(own):  # it passes nothing on
        assert found == named
    optional = {name: value for name, value in found.items() if value is not inspect.Parameter.empty}
    assert found.keys() - optional.keys() <= FACTS and "self" not in found
    plain = build(model)
    spelled_out = build(model, **{k: v for k, v in optional.items() if k != "label_width"})
    assert str(spelled_out) == str(plain)
    with pytest.raises(TypeError):
        models.build(model, image_shape=(1, 28, 28), n_classes=3, no_such_option=1)


def test_help_tells_each_default_and_the_parser_holds_none_of_its_own():
    parser = train.flags()
    actions = {action.dest: action for action in parser._actions}
    told = {}
    for model, cls in models.MODELS.items():
        for name, value in (models.keywords(model) | cls.defaults).items():
            if name not in FACTS | {"label_width", "data", "drawn"}:
                assert actions[name].default is None, name
                told.setdefault(name, {})
                told[name] |= {model: str(value)} if value is not None else {}
    for name, expected in told.items():
        found, text = {}, re.search(r"\(default (.*)\)$", actions[name].help)
        for group in re.split(r"; (?=\w+ )", text.group(1)) if text else []:
            which = [word for word in group.split() if word in models.MODELS]
            found |= dict.fromkeys(which, group.removeprefix(" ".join(which) + " "))
        assert found == expected, name
    help_text = " ".join(parser.format_help().split())
    assert "(default ae 32; vae 16; cvae 8)" in help_text and "(default vae cvae 1.0)" in help_text
