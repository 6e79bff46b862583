"""Deep generative models in the order of a textbook, and one table of them at the bottom.

    model = models.load("runs/cvae-mnist10k/best.pt")      # needs no flags; the model is in eval mode
    model.sample(10, labels=torch.arange(10))              # float [10, 1, 28, 28] in [0, 1]

The autoencoder, the VAE and the conditional VAE come first, with what they use: likelihoods, convolutional
networks, the Gaussian. Other networks, auto-decoders, the GAN, the classifier and sequence models follow.
The file needs only torch and works when it is copied into another project.

Conventions of every model:
- Images outside a model are float [B, C, H, W] in [0, 1]; labels are class numbers [B].
- Losses are in nats per image: summed over pixels and latents, averaged over the batch. KL terms are >= 0.
- A loss function takes (batch, step), where step counts the updates so far (infinity in evaluation, when a
  warm-up is over), and returns (loss, terms): the scalar to minimize and a dict of named scalars to log.
"""

import contextlib
import inspect
import math
import os
import zipfile
from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch.overrides import TorchFunctionMode


class ModelError(ValueError):
    """A model that cannot be built (status 2, of a wrong flag) or a checkpoint that cannot be read (1)."""

    def __init__(self, message, status=2):
        super().__init__(message)
        self.status = status


def require(condition, message, status=2):
    if not condition:
        raise ModelError(message, status)


def check_choice(name, value, choices):
    require(value in choices, f"{name} {value!r} does not exist here: choose from {', '.join(choices)}")


# -----------------------------------------------------------------------------------------------------------
# The contract between a model and the training loop


class Batch(NamedTuple):
    x: torch.Tensor  # images [B, C, H, W], or queries of the sequence models
    y: torch.Tensor | None  # class numbers [B], or answers
    index: torch.Tensor | None  # place of each example in the training split [B]; None in other splits


class Turn(NamedTuple):  # what one optimizer updates on each batch; a GAN has two turns
    param_groups: list  # for the optimizer, as torch.optim takes them
    loss: Callable  # (batch, step) -> (loss, terms)


class Model(nn.Module):
    """What a model declares about itself, with the values that hold for most."""

    task = "generation"  # or "classification", "arithmetic"
    objectives = ()  # choices of the argument `objective`, default first
    defaults = {}  # of training flags such as epochs
    has_validation_loss = True  # the term "loss" on the validation split chooses the best checkpoint
    conditional = False  # encode and decode need class labels; sample takes them
    has_encoder = False  # has encode and reconstruct (an auto-decoder's `encode` fits latents)
    has_posterior = False  # has posterior and log_weights
    has_free_latents = False  # latents are parameters: has learned_latents
    draws_samples = False  # has sample
    units = {}  # of logged terms, where they differ from UNITS
    kl_warm_up = 0  # updates until the KL has its full weight

    def __init__(self, objective):
        super().__init__()
        check_choice("objective", objective, self.objectives)
        self.objective = objective

    @property
    def device(self):
        return next(self.parameters()).device

    def turns(self):
        """One optimizer for all parameters."""
        return [Turn([{"params": list(self.parameters())}], self.loss)]

    def diagnose(self, split):
        """Numbers to log after each epoch, from a split; the text under "warning", if any, is printed."""
        return {}

    @torch.no_grad()
    def sample(self, n, labels=None, scale=1.0, truncate=None):
        """n images [n, C, H, W] decoded from the prior, if `draws_samples`. The latents are first limited to
        ± `truncate` standard deviations (None: no limit), then multiplied by `scale`."""
        require(self.draws_samples, "this model has no prior to sample from")
        z = self.distribution.prior(n, self.latent_dim, truncate, self.device)
        return self.decode(scale * z, labels)


# -----------------------------------------------------------------------------------------------------------
# Likelihoods of pixels, and what an autoencoder knows of z


def bernoulli_nll(logits, x):
    """−log p(x | z) [B] in nats of pixels that are 1 with probability sigmoid(logits).

    For gray pixels it is a cross-entropy, not a normalized likelihood: its minimum is their entropy, not 0.
    """
    return F.binary_cross_entropy_with_logits(logits, x, reduction="none").flatten(1).sum(1)


def gaussian_nll(mean, x):
    """Squared error [B]: −log p(x | z) in nats of a Gaussian with variance ½, less ½ log π per pixel."""
    return (mean - x).square().flatten(1).sum(1)


class Point:
    """A point estimate of z [B, D], in place of a distribution, for models that are not variational."""

    n_params = 1

    def __init__(self, mean):
        self.mean = mean

    @classmethod
    def from_params(cls, params):
        return cls(params)

    def sample(self):
        return self.mean

    def kl(self):
        """In place of a KL: −log N(z; 0, I) without its constant, which penalizes points far from 0."""
        return self.mean.square() / 2


# -----------------------------------------------------------------------------------------------------------
# Convolutional encoder and decoder. The defaults, for digits: 1 x 28 x 28 -> 16 x 14 x 14 -> 32 x 7 x 7 and
# back, each arrow a (transposed) convolution with kernel 4, stride 2 and padding 1.


class Stack(nn.Module):
    """A network that is the sequence `stack` of layers."""

    def forward(self, x):
        return self.stack(x)


class ConvEncoder(Stack):
    """Convolutions (channels, kernel, stride, padding) with ReLU: images -> features [B, size]."""

    def __init__(self, image_shape, layers, batch_norm=False):
        super().__init__()
        self.layers = layers
        self.size = math.prod(conv_shapes(image_shape, layers)[-1])  # channels x height x width at the end
        stack = []
        in_channels = image_shape[0]
        for channels, kernel, stride, padding in layers:
            stack.append(nn.Conv2d(in_channels, channels, kernel, stride, padding, bias=not batch_norm))
            if batch_norm:
                stack.append(nn.BatchNorm2d(channels))
            stack.append(nn.ReLU())
            in_channels = channels
        self.stack = nn.Sequential(*stack, nn.Flatten())


class ConvDecoder(Stack):
    """A linear layer to a small image of shape `start`, then transposed convolutions (channels, kernel,
    stride, padding, output padding): latents [B, size] -> logits of pixels [B, C, H, W].

    A ReLU precedes each convolution; or, with `batch_norm`, batch norm and ReLU follow each convolution but
    those that have the channels of the image.
    """

    outputs_logits = True  # rather than pixels

    def __init__(self, size, image_shape, start, layers, batch_norm=False):
        super().__init__()
        check_size(math.prod(start))
        stack = [nn.Linear(size, math.prod(start)), nn.Unflatten(1, start)]
        shape = start
        for channels, kernel, stride, padding, output_padding in layers:
            normalize = batch_norm and channels != image_shape[0]
            if not batch_norm:
                stack.append(nn.ReLU())
            conv = WideConvTranspose2d if shape[0] >= 1024 else nn.ConvTranspose2d  # faster on a CPU
            layer = conv(shape[0], channels, kernel, stride, padding, output_padding, bias=not normalize)
            stack.append(layer)
            if normalize:
                stack += [nn.BatchNorm2d(channels), nn.ReLU()]
            shape = (channels, *transposed_sides(layer, shape[1:]))
            fits = min(shape) >= 1 and max(layer.output_padding) < stride
            require(fits, f"the decoder's layers make an image of {shape}, output padding {output_padding}")
            check_size(math.prod(shape))
        image_shape = tuple(image_shape)
        require(shape == image_shape, f"the decoder's layers end at {shape}, the data are {image_shape}")
        self.stack = nn.Sequential(*stack)


# -----------------------------------------------------------------------------------------------------------
# Autoencoder: compress an image to a few numbers and reconstruct it (Hinton & Salakhutdinov 2006)


LIKELIHOODS = ("bernoulli", "gaussian")


class LatentModel(Model):
    """A model whose `decoder` turns latents z [B, latent_dim] into images, scored by a likelihood."""

    distribution = Point  # over z

    def set_likelihood(self, likelihood):
        """Sets how pixels are scored and how the decoder's output becomes pixels."""
        check_choice("likelihood", likelihood, LIKELIHOODS)
        message = "a decoder without a readout makes pixels, not logits: --likelihood gaussian"
        require(self.decoder.outputs_logits or likelihood == "gaussian", message)
        self.likelihood = likelihood
        self.to_pixels = nn.Sigmoid() if self.decoder.outputs_logits else nn.Identity()

    def negative_log_likelihood(self, logits, x):
        """−log p(x | z) of each image in nats, [B]. The Gaussian's mean is the image in [0, 1]."""
        if self.likelihood == "bernoulli":
            return bernoulli_nll(logits, x)
        return gaussian_nll(self.to_pixels(logits), x)

    def decode(self, z, labels=None):
        """Images [B, C, H, W] in [0, 1]."""
        return self.to_pixels(self.decode_logits(z, labels)).clamp(0, 1)

    @torch.no_grad()
    def reconstruct(self, x, labels=None):
        return self.decode(self.encode(x, labels), labels)

    def fit_latents(self, x, epochs, lr, **options):
        """See the function `fit_latents` below."""
        return fit_latents(self, x, epochs, lr, **options)

    def latent_loss(self, params, x, labels, beta):
        """What `fit_latents` minimizes: −log p(x | z) + beta KL(q(z), p(z)), in nats per image."""
        q = self.distribution.from_params(params)
        nll = self.negative_log_likelihood(self.decode_logits(q.sample(), labels), x)
        return (nll + beta * q.kl().sum(1)).mean()


class Autoencoder(LatentModel):
    """x -> encoder -> features -> to_latent -> z -> from_latent -> decoder -> logits of x.

    `to_latent` is a linear layer and `from_latent` the identity. `dense` adds a ReLU layer of so many units
    to both; `squeeze` adds one of sigmoids to `to_latent` alone. `networks` are arguments of `make_encoder`
    and `make_decoder`, which choose other networks than the two above. `label_width` is the size of a label
    embedding that a conditional model appends to the features and to z.
    """

    objectives = ("reconstruction",)
    has_encoder = True
    defaults = dict(epochs=20, batch_size=64, lr=1e-3, lr_schedule="constant")

    def __init__(
        self,
        image_shape,
        latent_dim=32,
        objective="reconstruction",
        likelihood="gaussian",
        dense=0,
        squeeze=0,
        label_width=0,
        **networks,
    ):
        super().__init__(objective)
        self.latent_dim = latent_dim
        for_decoder = {name: value for name, value in networks.items() if name.startswith("decoder")}
        for_encoder = {name: value for name, value in networks.items() if name not in for_decoder}

        self.encoder = make_encoder(image_shape, **for_encoder)
        n_features = self.encoder.size + label_width
        n_latents = latent_dim + label_width
        require(not (dense and squeeze), "--squeeze does nothing with --dense: set --dense 0")
        output = nn.Linear(dense or squeeze or n_features, self.distribution.n_params * latent_dim)
        self.to_latent = output
        self.from_latent = nn.Identity()
        if dense:
            self.to_latent = nn.Sequential(nn.Linear(n_features, dense), nn.ReLU(), output)
            self.from_latent = nn.Sequential(nn.Linear(n_latents, dense), nn.ReLU())
        elif squeeze:
            self.to_latent = nn.Sequential(nn.Linear(n_features, squeeze), nn.Sigmoid(), output)
        self.decoder = make_decoder(dense or n_latents, image_shape, self.encoder.layers, **for_decoder)
        self.set_likelihood(likelihood)

    def features(self, x, labels=None):
        """Input of `to_latent`, [B, size]. Only conditional models use labels."""
        return self.encoder(x)

    def encode(self, x, labels=None):
        """z [B, latent_dim]."""
        return self.to_latent(self.features(x, labels))

    def decode_logits(self, z, labels=None):
        """Output of the decoder [B, C, H, W]: logits of pixels, or pixels if it has no readout."""
        return self.decoder(self.from_latent(z))

    def loss(self, batch, step):
        z = self.encode(batch.x, batch.y)  # (B, latent_dim)
        logits = self.decode_logits(z, batch.y)  # (B, C, H, W)
        loss = self.negative_log_likelihood(logits, batch.x).mean()
        return loss, {"loss": loss}

    def diagnose(self, split):
        """Mean squared error of a split's reconstructions, per pixel."""
        errors = [(self.reconstruct(x, y) - x).square().flatten(1).mean(1) for x, y in batches(split)]
        return {"mse": torch.cat(errors).mean().item()}


def batches(split, size=500):
    """A split in parts of `size`: float images in [0, 1] and labels."""
    for start in range(0, len(split.x), size):
        yield split.batch(slice(start, start + size))


# -----------------------------------------------------------------------------------------------------------
# VAE: the encoder predicts a Gaussian over z, and the decoder sees a sample of it (Kingma & Welling 2014)


class Gaussian:
    """Diagonal Gaussian over latents; mean and log_variance are [B, D]. Its prior is N(0, I)."""

    n_params = 2  # for each latent

    def __init__(self, mean, log_variance):
        self.mean = mean
        self.log_variance = log_variance

    @classmethod
    def from_params(cls, params):
        """From unconstrained parameters [B, 2 * D], such as a linear layer's outputs."""
        mean, log_variance = params.chunk(2, dim=-1)
        return cls(mean, log_variance)

    def sample(self, n=None):
        """z [B, D], or [n, B, D]. Scaling and shifting noise keeps z differentiable with respect to the
        parameters (Kingma & Welling 2014, eq. 4)."""
        shape = self.mean.shape if n is None else (n, *self.mean.shape)
        noise = torch.randn(shape, device=self.mean.device)
        return self.mean + (self.log_variance / 2).exp() * noise

    def log_prob(self, z):
        """Log density of z [..., B, D] in nats, summed over the latents: [..., B]."""
        squares = (z - self.mean).square() / self.log_variance.exp()
        return -(squares + self.log_variance + math.log(2 * math.pi)).sum(-1) / 2

    def kl(self):
        """KL from the prior in nats, of each image and latent [B, D] (Kingma & Welling 2014, app. B)."""
        return (self.mean.square() + self.log_variance.exp() - 1 - self.log_variance) / 2

    @staticmethod
    def prior(n, dim, truncate=None, device=None):
        """z [n, dim] from N(0, I), or from its truncation to ± `truncate` standard deviations."""
        if truncate is None:
            return torch.randn(n, dim, device=device)
        return nn.init.trunc_normal_(torch.empty(n, dim, device=device), a=-truncate, b=truncate)


class VAE(Autoencoder):
    """Minimizes the negative ELBO with its KL weighted by beta (Higgins et al. 2017, eq. 4), or the negative
    IWAE bound of `iwae_samples` samples (Burda et al. 2016).

    `kl_warm_up`: updates over which the weight of the KL grows from 0 to beta. `free_bits`: nats of KL that
    each latent of each image may have without penalty (Kingma et al. 2016, app. C.8: of a batch).
    `shift`: training images are moved at random by up to this many pixels, against overfitting.
    """

    objectives = ("elbo", "iwae")
    has_posterior = True
    draws_samples = True
    distribution = Gaussian

    def __init__(
        self,
        image_shape,
        latent_dim=16,
        objective="elbo",
        likelihood="bernoulli",
        beta=1.0,
        kl_warm_up=0,
        free_bits=0.0,
        iwae_samples=5,
        shift=0,
        **networks,
    ):
        super().__init__(image_shape, latent_dim, objective, likelihood, **networks)
        unweighted = beta == 1 and not kl_warm_up and not free_bits
        message = "--beta, --kl-warm-up, --free-bits are for --objective elbo, not for iwae"
        require(objective == "elbo" or unweighted, message)
        require(shift < min(image_shape[1:]), f"--shift {shift} moves images out of their frame")
        self.beta = beta
        self.kl_warm_up = kl_warm_up
        self.free_bits = free_bits
        self.iwae_samples = iwae_samples
        self.shift = shift

    def posterior(self, x, labels=None):
        """q(z | x)."""
        params = self.to_latent(self.features(x, labels))  # (B, 2 * latent_dim)
        return Gaussian.from_params(params)

    def encode(self, x, labels=None):
        """The mean of q(z | x), [B, latent_dim]."""
        return self.posterior(x, labels).mean

    def loss(self, batch, step):
        x, labels, _ = batch
        if self.shift and self.training:
            x = shifted(x, self.shift)
        posterior = self.posterior(x, labels)  # q(z | x)
        kl = posterior.kl()  # (B, D)
        if self.objective == "elbo":
            z = posterior.sample()  # (B, D)
            logits = self.decode_logits(z, labels)  # (B, C, H, W)
            nll = self.negative_log_likelihood(logits, x)  # (B,)
            loss = nll.mean() + self.kl_weight(step) * kl.clamp(min=self.free_bits).sum(1).mean()
        else:
            log_weights, nll = self.log_weights(x, labels, self.iwae_samples, posterior)  # both (k, B)
            loss = -iwae_bound(log_weights).mean()
        return loss, {"loss": loss, "reconstruction": nll.mean(), "kl": kl.sum(1).mean()}

    def kl_weight(self, step):
        """Grows linearly from 0 to beta during the warm-up."""
        if step >= self.kl_warm_up:
            return self.beta
        return self.beta * (step / self.kl_warm_up)

    def log_weights(self, x, labels, k, posterior=None):
        """Log importance weights log p(x | z) + log p(z) − log q(z | x) of k samples of q(z | x), and their
        −log p(x | z); in nats, both [k, B]."""
        if posterior is None:
            posterior = self.posterior(x, labels)
        z = posterior.sample(k)  # (k, B, D)
        zeros = torch.zeros_like(posterior.mean)
        prior = Gaussian(mean=zeros, log_variance=zeros)
        repeated_labels = None if labels is None else labels.repeat(k)
        logits = self.decode_logits(z.flatten(0, 1), repeated_labels)  # (k * B, C, H, W)
        nll = self.negative_log_likelihood(logits, x.repeat(k, 1, 1, 1)).view(k, -1)
        return prior.log_prob(z) - posterior.log_prob(z) - nll, nll

    def diagnose(self, split):
        """Also the KL of each latent, and the number of active latents: those whose posterior mean has a
        variance above 0.01 over the data (Burda et al. 2016, sec. 5.2)."""
        posteriors = [self.posterior(x, y) for x, y in batches(split)]
        kl = torch.cat([posterior.kl() for posterior in posteriors]).mean(0)
        means = torch.cat([posterior.mean for posterior in posteriors])
        active = (means.var(0, correction=0) > 0.01).sum().item()
        diagnosis = {"active_latents": active, "kl_per_dimension": kl.tolist()} | super().diagnose(split)
        if active == 0:
            diagnosis["warning"] = "the decoder ignores z: try --kl-warm-up, --free-bits or a lower --beta"
        return diagnosis


def iwae_bound(log_weights):
    """Log of the mean of k importance weights [k, B]: a lower bound on log p(x), [B], which is the ELBO for
    k = 1 (Burda et al. 2016, eq. 8)."""
    return log_weights.logsumexp(0) - math.log(len(log_weights))


def shifted(x, limit):
    """Images [B, C, H, W], each moved by up to `limit` whole pixels along each axis and padded with 0."""
    n, _, height, width = x.shape
    padded = F.pad(x, (limit, limit, limit, limit))
    top = torch.randint(2 * limit + 1, (n, 1), device=x.device)
    rows = top + torch.arange(height, device=x.device)  # (B, H)
    left = torch.randint(2 * limit + 1, (n, 1), device=x.device)
    columns = left + torch.arange(width, device=x.device)  # (B, W)
    image = torch.arange(n, device=x.device)[:, None, None]
    channels_last = padded.movedim(1, 3)[image, rows[:, :, None], columns[:, None]]  # (B, H, W, C)
    return channels_last.movedim(3, 1)


# -----------------------------------------------------------------------------------------------------------
# Conditional VAE: the decoder and, for label "concat", the encoder also see the class (Sohn et al. 2015)

LABELS = ("concat", "add")


class ConditionalVAE(VAE):
    """A VAE whose samples are of a class that the user chooses. An embedding of the label is concatenated to
    the encoder's features and to z; or added to z alone (`label="add"`), where it has the size of z.

    The `dense` layers matter. With linear layers alone a label adds the same numbers to the mean and
    log-variance of q(z | x) for every x; with a hidden layer it can also change how they depend on x, so
    that the latents of each class can match the prior, and samples improve.
    """

    conditional = True
    defaults = dict(epochs=30, batch_size=32, lr=2e-3, lr_schedule="cosine")

    def __init__(
        self, image_shape, n_classes, latent_dim=8, dense=256, label="concat", label_dim=16, **options
    ):
        check_choice("label", label, LABELS)
        require(n_classes >= 2, "a conditional model needs data with labels of two classes or more")
        label_width = label_dim if label == "concat" else 0
        super().__init__(image_shape, latent_dim, dense=dense, label_width=label_width, **options)
        self.label = label
        self.n_classes = n_classes
        self.embedding = nn.Embedding(n_classes, label_dim if label == "concat" else latent_dim)

    def embed(self, labels):
        require(labels is not None, "a conditional model needs labels")
        return self.embedding(labels)

    def features(self, x, labels=None):
        features = super().features(x)
        if self.label == "add":
            return features
        return torch.cat([features, self.embed(labels)], 1)

    def decode_logits(self, z, labels=None):
        if self.label == "add":
            return super().decode_logits(z + self.embed(labels))
        return super().decode_logits(torch.cat([z, self.embed(labels)], 1))

    def sample(self, n, labels=None, scale=1.0, truncate=None):
        """As of a VAE; without labels, the class of each image is random."""
        if labels is None:
            labels = torch.randint(self.n_classes, (n,), device=self.device)
        return super().sample(n, labels, scale, truncate)


# -----------------------------------------------------------------------------------------------------------
# Convolution stacks, written as text and mirrored


def parse_layers(text, transposed=False):
    """Text "32,3,2,1 64,3,2,1" -> [(32, 3, 2, 1), (64, 3, 2, 1)].

    Each entry is channels, kernel, stride and padding. A transposed convolution has an output padding as
    well, which is 0 where the text has none.
    """
    try:
        layers = [tuple(int(number) for number in entry.split(",")) for entry in text.split()]
    except ValueError:
        layers = []
    if transposed:
        layers = [(*layer, 0) if len(layer) == 4 else layer for layer in layers]
    length = 5 if transposed else 4
    valid = all(
        len(layer) == length and min(layer[:3]) > 0 and min(layer) >= 0 and max(layer) <= MAX_SIZE
        for layer in layers
    )
    example = "channels,kernel,stride,padding for each, as in '32,3,2,1 64,3,2,1'"
    require(layers and valid, f"layers {text!r}: write {example}")
    return layers


def default_layers(image_shape, channels=16, smallest=8):
    """Convolutions that each halve the image and double the channels, until the smaller side is at most
    `smallest`: two for 28 pixels, three for 64."""
    layers = []
    size = min(image_shape[1:])
    while size > smallest or not layers:
        layers.append((channels, 4, 2, 1))
        size = size // 2
        channels = 2 * channels
    return layers


def conv_shapes(image_shape, layers):
    """The shape (channels, height, width) before each convolution and after the last one."""
    shapes = [tuple(image_shape)]
    for channels, kernel, stride, padding in layers:
        _, *sides = shapes[-1]
        height, width = [(side + 2 * padding - kernel) // stride + 1 for side in sides]
        size = f"{image_shape[1]} x {image_shape[2]}"
        require(min(height, width) >= 1, f"convolutions leave nothing of an image of {size} pixels")
        shapes.append((channels, height, width))
        check_size(channels * height * width)
    return shapes


def mirror(image_shape, layers):
    """The transposed convolutions that undo `layers`: the shape that they start from, and the layers.

    Their output padding restores the rows and columns that a stride dropped: 7 pixels become 14, not 13.
    """
    shapes = conv_shapes(image_shape, layers)
    mirrored = []
    for (channels, *sides), (_, kernel, stride, padding) in zip(shapes[:-1], layers, strict=True):
        output_padding = tuple((side + 2 * padding - kernel) % stride for side in sides)
        mirrored.append((channels, kernel, stride, padding, output_padding))
    return shapes[-1], mirrored[::-1]


def transposed_sides(layer, sides):
    """Height and width that a transposed convolution makes of an image with these sides."""
    rim = layer.kernel_size[0] - 2 * layer.padding[0]  # kernel, padding and stride are those of squares
    covered = [(side - 1) * layer.stride[0] + rim for side in sides]
    return [size + extra for size, extra in zip(covered, layer.output_padding, strict=True)]


class WideConvTranspose2d(nn.ConvTranspose2d):
    """nn.ConvTranspose2d as one matrix product whose results are added where they overlap.

    On a CPU it is 3 to 8 times as fast as torch's where an image has thousands of channels and few pixels,
    and slower elsewhere.
    """

    def forward(self, x):
        if not x.is_cpu:
            return super().forward(x)
        pixels = x.permute(0, 2, 3, 1).flatten(0, 2)  # (B, C, H, W) -> (B * H * W, C)
        patches = pixels @ self.weight.flatten(1)  # what each pixel adds, (B * H * W, out * k * k)
        patches = patches.unflatten(0, (len(x), math.prod(x.shape[2:]))).transpose(1, 2)
        sides = transposed_sides(self, x.shape[2:])
        output = F.fold(patches, sides, self.kernel_size, 1, self.padding, self.stride)
        if self.bias is None:
            return output
        return output + self.bias[:, None, None]


# -----------------------------------------------------------------------------------------------------------
# Recurrent and fully connected networks, and the choice among encoders and decoders by name

CELLS = {"lstm": nn.LSTM, "gru": nn.GRU}
SEQUENCES = ("last", "full")


class RNNEncoder(nn.Module):
    """Reads an image from top to bottom, one row of channels x width at each time step.

    `sequence`: "last" returns the last layer's final hidden state (of both directions), "full" the outputs
    for all rows.
    """

    layers = None  # no convolutions that a decoder could mirror

    def __init__(self, image_shape, cell, hidden, depth, bidirectional, sequence):
        super().__init__()
        channels, height, width = image_shape
        self.directions = 2 if bidirectional else 1
        self.sequence = sequence
        self.rnn = CELLS[cell](
            channels * width, hidden, depth, batch_first=True, bidirectional=bidirectional
        )
        self.size = self.directions * hidden
        if sequence == "full":
            self.size *= height

    def forward(self, x):
        rows = x.transpose(1, 2).flatten(2)  # (B, C, H, W) -> (B, H, C * W)
        outputs, state = self.rnn(rows)  # (B, H, directions * hidden)
        if self.sequence == "full":
            return outputs.flatten(1)
        hidden = state[0] if isinstance(state, tuple) else state  # an LSTM also returns its cell state
        last = hidden[-self.directions :]  # (depth * directions, B, hidden) -> (directions, B, hidden)
        return last.transpose(0, 1).flatten(1)  # (B, directions * hidden)


class RNNDecoder(nn.Module):
    """Feeds z to an RNN once for each row of the image; each of its outputs becomes a row.

    `inputs`: units of a linear layer before the RNN, 0 for none. `readout`: whether a linear layer turns
    hidden units into a row; without it the hidden state is a row of pixels.
    """

    def __init__(self, size, image_shape, cell, hidden, depth, inputs, readout):
        super().__init__()
        self.image_shape = image_shape
        self.outputs_logits = readout
        row = image_shape[0] * image_shape[2]  # channels x width
        message = f"without a readout --decoder-hidden must be a row of the image, {row}"
        require(readout or hidden == row, message)
        self.inputs = nn.Linear(size, inputs) if inputs else nn.Identity()
        self.rnn = CELLS[cell](inputs or size, hidden, depth, batch_first=True)
        self.readout = nn.Linear(hidden, row) if readout else nn.Identity()

    def forward(self, z):
        channels, height, width = self.image_shape
        steps = self.inputs(z)[:, None].expand(-1, height, -1)  # (B, size) -> (B, H, inputs)
        outputs, _ = self.rnn(steps)  # (B, H, hidden)
        rows = self.readout(outputs)  # (B, H, C * W)
        return rows.unflatten(2, (channels, width)).transpose(1, 2)  # (B, C, H, W)


def relu_layers(size, hidden, depth):
    layers = []
    for _ in range(depth):
        layers += [nn.Linear(size, hidden), nn.ReLU()]
        size = hidden
    return layers


class MLPEncoder(Stack):
    """`depth` linear layers of `hidden` units with ReLU: images [B, C, H, W] -> features [B, hidden]."""

    layers = None

    def __init__(self, image_shape, hidden, depth):
        super().__init__()
        self.stack = nn.Sequential(nn.Flatten(), *relu_layers(math.prod(image_shape), hidden, depth))
        self.size = hidden


class MLPDecoder(Stack):
    """`depth` linear layers with ReLU, and one to the pixels: latents [B, size] -> logits [B, C, H, W]."""

    outputs_logits = True

    def __init__(self, size, image_shape, hidden, depth):
        super().__init__()
        pixels = nn.Linear(hidden, math.prod(image_shape))
        self.stack = nn.Sequential(*relu_layers(size, hidden, depth), pixels, nn.Unflatten(1, image_shape))


# Names of --encoder and --decoder, each with the arguments below that apply to it
RNN_ENCODER = ("encoder_hidden", "encoder_depth", "bidirectional", "sequence")
RNN_DECODER = ("decoder_hidden", "decoder_depth", "decoder_inputs", "decoder_readout")
ENCODERS = {
    "conv": ("encoder_layers", "batch_norm"),
    "lstm": RNN_ENCODER,
    "gru": RNN_ENCODER,
    "mlp": ("encoder_hidden", "encoder_depth"),
}
DECODERS = {
    "conv": ("decoder_start", "decoder_layers", "decoder_norm"),
    "lstm": RNN_DECODER,
    "gru": RNN_DECODER,
    "mlp": ("decoder_hidden", "decoder_depth"),
}


def make_encoder(
    image_shape,
    encoder="conv",
    encoder_layers=None,
    encoder_hidden=128,
    encoder_depth=1,
    bidirectional=False,
    sequence="last",
    batch_norm=False,
):
    """An encoder: images -> features [B, encoder.size]. The arguments are flags of train.py.

    `encoder_layers` are convolutions as text, or None for `default_layers`; `encoder_hidden` and
    `encoder_depth` are units and layers of an RNN or MLP.
    """
    check_choice("encoder", encoder, ENCODERS)
    check_choice("sequence", sequence, SEQUENCES)
    if encoder == "conv":
        layers = parse_layers(encoder_layers) if encoder_layers else default_layers(image_shape)
        return ConvEncoder(image_shape, layers, batch_norm)
    if encoder == "mlp":
        return MLPEncoder(image_shape, encoder_hidden, encoder_depth)
    return RNNEncoder(image_shape, encoder, encoder_hidden, encoder_depth, bidirectional, sequence)


def make_decoder(
    size,
    image_shape,
    convolutions,
    decoder="conv",
    decoder_start=None,
    decoder_layers=None,
    decoder_hidden=128,
    decoder_depth=1,
    decoder_inputs=0,
    decoder_readout=True,
    decoder_norm=False,
):
    """A decoder: latents [B, size] -> logits of pixels [B, C, H, W]. The arguments are flags of train.py.

    Transposed convolutions mirror the encoder's `convolutions` (None: those of `default_layers`), unless
    `decoder_start` and `decoder_layers` replace the shape that they start from and the layers.
    """
    check_choice("decoder", decoder, DECODERS)
    if decoder == "conv":
        start, layers = mirror(image_shape, convolutions or default_layers(image_shape))
        if decoder_start:
            start = tuple(decoder_start)
        if decoder_layers:
            layers = parse_layers(decoder_layers, transposed=True)
        return ConvDecoder(size, image_shape, start, layers, decoder_norm)
    if decoder == "mlp":
        return MLPDecoder(size, image_shape, decoder_hidden, decoder_depth)
    return RNNDecoder(
        size, image_shape, decoder, decoder_hidden, decoder_depth, decoder_inputs, decoder_readout
    )


# -----------------------------------------------------------------------------------------------------------
# Latents fitted to images with the network frozen


def fit_latents(model, x, epochs, lr, batch_size=None, start=None, beta=0.0, labels=None, callback=None):
    """Minimizes `model.latent_loss` of images x [n, C, H, W] over their latents by Adam, with the network
    frozen and in eval mode.

    Returns [n, n_params * latent_dim]: the parameters of distributions over z (of a Point, z itself).
    They start from `start`, or from N(0, I). `beta` weighs the KL. All images form one batch, or batches of
    `batch_size`; Adam's momentum then also moves the latents outside a batch. `callback(epoch, loss)` is
    called after each epoch.
    """
    was_training = model.training
    model.eval()
    has_rnn = any(isinstance(layer, nn.RNNBase) for layer in model.modules())
    without_cudnn = torch.backends.cudnn.flags(enabled=False)  # whose RNNs have no gradient in eval mode
    cudnn = without_cudnn if has_rnn else contextlib.nullcontext()
    with torch.inference_mode(False), torch.enable_grad(), cudnn:  # the caller may be in inference mode
        if start is None:
            start = torch.randn(len(x), model.distribution.n_params * model.latent_dim, device=x.device)
        params = start.detach().clone().requires_grad_()
        optimizer = torch.optim.Adam([params], lr)
        for epoch in range(epochs):
            mean_loss = 0.0
            order = torch.randperm(len(x)).to(x.device)
            for index in order.split(batch_size or len(x)):
                batch_labels = None if labels is None else labels[index]
                loss = model.latent_loss(params[index], x[index], batch_labels, beta)
                (params.grad,) = torch.autograd.grad(loss, params)  # leaves the network's gradients alone
                optimizer.step()
                mean_loss += loss.item() * len(index) / len(x)
            if callback is not None:
                callback(epoch + 1, mean_loss)
    model.train(was_training)
    return params.detach()


def amortization(model, x, labels=None, epochs=200, lr=1e-2, samples=64):
    """How much a VAE loses because one encoder serves all images (Cremer et al. 2018): for the encoder's
    Gaussians and for those fitted to each image, their parameters [B, 2 * D] and −ELBO [B] in nats."""
    posterior = model.posterior(x, labels)
    encoded = torch.cat([posterior.mean, posterior.log_variance], 1).detach()
    fitted = model.fit_latents(x, epochs, lr, start=encoded, beta=1.0, labels=labels)
    return [(params, negative_elbo(model, params, x, labels, samples)) for params in (encoded, fitted)]


@torch.no_grad()
def negative_elbo(model, params, x, labels, samples):
    """−ELBO [B] in nats of Gaussians with these parameters, a mean over samples of z. Every call draws the
    same noise."""
    torch.manual_seed(0)
    posterior = Gaussian.from_params(params)
    total = 0
    for _ in range(samples):
        logits = model.decode_logits(posterior.sample(), labels)
        total = total + model.negative_log_likelihood(logits, x)
    return total / samples + posterior.kl().sum(1)


# -----------------------------------------------------------------------------------------------------------
# The other distributions over latents, for auto-decoders


class Exponential:
    """Independent exponential distributions; log_rate is [B, D]. Their prior is Exp(1)."""

    n_params = 1

    def __init__(self, log_rate):
        self.log_rate = log_rate
        self.mean = (-log_rate).exp()

    @classmethod
    def from_params(cls, params):
        return cls(params)

    def sample(self):
        """z [B, D], by the inverse of the cumulative distribution function."""
        noise = torch.rand_like(self.mean).clamp(min=1e-7)  # log 0 is infinite
        return -noise.log() * self.mean

    def kl(self):
        return self.log_rate + self.mean - 1

    @staticmethod
    def prior(n, dim, truncate=None, device=None):
        refuse_truncation(truncate)
        return torch.empty(n, dim, device=device).exponential_()


class Uniform:
    """Independent uniform distributions on [start, start + width], both [B, D], inside [0, 1]. Their prior
    is uniform on [0, 1]."""

    n_params = 2

    def __init__(self, start, width):
        self.start = start
        self.width = width
        self.mean = start + width / 2

    @classmethod
    def from_params(cls, params):
        start, width = params.sigmoid().chunk(2, dim=-1)
        return cls(start * (1 - width), width)

    def sample(self):
        return self.start + self.width * torch.rand_like(self.width)

    def kl(self):
        return -self.width.log()

    @staticmethod
    def prior(n, dim, truncate=None, device=None):
        refuse_truncation(truncate)
        return torch.rand(n, dim, device=device)


def refuse_truncation(truncate):
    require(truncate is None, "--truncate needs a Gaussian prior, and this model has another")


DISTRIBUTIONS = {"gaussian": Gaussian, "exponential": Exponential, "uniform": Uniform}


# -----------------------------------------------------------------------------------------------------------
# Auto-decoder: no encoder; the latents of the training images are parameters, learned with the decoder
# (Park et al. 2019)


class AutoDecoder(LatentModel):
    """The latents are rows of an embedding table, learned by the optimizer with learning rate `latent_lr`.

    Objective "nats" is −log p(x | z) plus `beta` times the penalty or KL of z, in nats per image. Objective
    "report" is the loss of a student report, R1 in RESULTS.md, kept to compare with its numbers: the norm
    |x − x̂| over a batch's pixels in 0..255, divided by their number, plus beta times the mean KL over images
    and latents. It depends on the batch size.

    After training, the latents of the training images are refined for `refine_epochs`, and latents of the
    test images are fitted for `fit_epochs`, both by `fit_latents` in batches of `fit_batch_size` (0: one
    batch) with the KL weighted by `fit_beta` (None: beta).
    """

    objectives = ("nats", "report")
    has_encoder = True
    has_free_latents = True
    draws_samples = True
    has_validation_loss = False  # it would need latents fitted to the validation images in each epoch
    defaults = dict(epochs=100, batch_size=16, lr=1e-3, lr_schedule="constant", valid_fraction=0.0)

    def __init__(
        self,
        image_shape,
        n_train,
        n_test,
        latent_dim=32,
        objective="nats",
        likelihood="bernoulli",
        beta=0.0,
        latent_lr=1e-2,
        refine_epochs=0,
        fit_epochs=100,
        fit_lr=1e-2,
        fit_batch_size=64,
        fit_beta=None,
        **networks,
    ):
        super().__init__(objective)
        self.latent_dim = latent_dim
        self.beta = beta
        self.latent_lr = latent_lr
        self.refine_epochs = refine_epochs
        self.fit_epochs = fit_epochs
        self.fit_lr = fit_lr
        self.fit_batch_size = fit_batch_size
        self.fit_beta = beta if fit_beta is None else fit_beta
        if objective == "report":
            self.units = dict.fromkeys(("loss", "reconstruction"), "report R1")
            self.units |= dict.fromkeys(("kl", "penalty"), "nats, mean")

        self.decoder = make_decoder(latent_dim, image_shape, None, **networks)
        self.set_likelihood(likelihood)
        width = self.distribution.n_params * latent_dim
        self.latents = nn.Embedding(n_train, width)  # initialized from N(0, I)
        self.register_buffer("refined", torch.full((n_train, width), math.nan))  # NaN until they are fitted
        self.register_buffer("test_latents", torch.full((n_test, width), math.nan))

    def turns(self):
        groups = [
            {"params": list(self.decoder.parameters())},
            {"params": list(self.latents.parameters()), "lr": self.latent_lr},
        ]
        return [Turn(groups, self.loss)]

    def decode_logits(self, z, labels=None):
        return self.decoder(z)

    def loss(self, batch, step):
        params = self.latents(batch.index)  # (B, n_params * latent_dim)
        return self.loss_terms(params, batch.x, self.beta)

    def loss_terms(self, params, x, beta):
        """The objective for images x and the parameters of their latents, and its terms."""
        posterior = self.distribution.from_params(params)
        logits = self.decode_logits(posterior.sample())
        error = self.to_pixels(logits) - x
        if self.objective == "report":
            reconstruction = 255 * error.norm() / error.numel()
            kl = posterior.kl().mean()
        else:
            reconstruction = self.negative_log_likelihood(logits, x).mean()
            kl = posterior.kl().sum(1).mean()
        loss = reconstruction + beta * kl
        kl_name = "penalty" if self.distribution is Point else "kl"
        rmse = 255 * error.square().mean().sqrt()
        return loss, {"loss": loss, "reconstruction": reconstruction, kl_name: kl, "rmse": rmse}

    def latent_loss(self, params, x, labels, beta):
        loss, _ = self.loss_terms(params, x, beta)
        return loss

    @torch.no_grad()
    def evaluate_latents(self, train, test):
        """Mean loss terms of three tables of latents: "train" and "refined", for the training images, and
        "test". A table that is not fitted yet is left out."""
        tables = {
            "train": (self.latents.weight, train),
            "refined": (self.refined, train),
            "test": (self.test_latents, test),
        }
        return {
            name: self.mean_terms(params, split)
            for name, (params, split) in tables.items()
            if len(params) and not params.isnan().any()
        }

    def mean_terms(self, params, split, batch_size=16):
        """Means of the loss terms over a split. The batch size matters to the objective "report" alone."""
        torch.manual_seed(0)  # the same noise in every call
        means = {}
        parts = zip(params.split(batch_size), batches(split, batch_size), strict=True)
        for part, (x, _) in parts:
            _, terms = self.loss_terms(part, x, self.beta)
            for name, value in terms.items():
                means[name] = means.get(name, 0.0) + value.item() * len(x) / len(params)
        return means

    def learned_latents(self, split):
        """Mean z [n, latent_dim] of a split's latents; of the refined ones where there are any."""
        tables = {"train": [self.refined, self.latents.weight.detach()], "test": [self.test_latents]}
        for params in tables.get(split, []):
            if not params.isnan().any():
                return self.distribution.from_params(params).mean
        message = f"this auto-decoder keeps no latents for {split} images: see --fit-epochs"
        raise ModelError(message, status=1)

    def encode(self, x, labels=None):
        """Mean z [B, latent_dim] of latents fitted to images."""
        options = dict(batch_size=self.fit_batch_size, beta=self.fit_beta)
        params = self.fit_latents(x, self.fit_epochs, self.fit_lr, **options)
        return self.distribution.from_params(params).mean

    @torch.no_grad()
    def sample(self, n, labels=None, scale=1.0, truncate=None):
        """n images from a Gaussian with the mean and covariance of the latents learned in training, before
        they are refined: a sum of their deviations from the mean, weighted by noise of variance 1 /
        (n_train − 1), has that covariance. `truncate` limits the noise, not the latents; `scale` multiplies
        the sum."""
        z = self.latents.weight.detach()  # (n_train, D)
        require(len(z) > 1, "a single latent has no covariance to sample with")
        noise = Gaussian.prior(n, len(z), truncate, z.device) / math.sqrt(len(z) - 1)  # (n, n_train)
        return self.decode(z.mean(0) + scale * noise @ (z - z.mean(0)))


class VariationalAutoDecoder(AutoDecoder):
    """An auto-decoder whose table holds the parameters of a distribution over each z; the decoder sees
    samples of it (Zadeh et al. 2019). `prior` chooses the prior and with it the family of distributions."""

    def __init__(self, image_shape, n_train, n_test, beta=1.0, prior="gaussian", **options):
        check_choice("prior", prior, DISTRIBUTIONS)
        self.distribution = DISTRIBUTIONS[prior]
        super().__init__(image_shape, n_train, n_test, beta=beta, **options)

    sample = Model.sample  # from the prior


# -----------------------------------------------------------------------------------------------------------
# GAN: a generator learns to make images that a discriminator takes for real (Goodfellow et al. 2014)

PENALTY_INTERVAL = 8  # updates


class GAN(Model):
    """A discriminator D and a generator G, each with its own optimizer; non-saturating losses (Goodfellow et
    al. 2014, sec. 3).

    `encoder_layers` are D's convolutions; by default they halve the image until its smaller side has at
    most 4 pixels. G mirrors them, unless `decoder_start` and `decoder_layers` say otherwise. The next three
    steady the training; the report's GAN in RESULTS.md has none of them:
    `gradient_penalty`: gamma of the penalty gamma / 2 E|grad D(x)|² on real images (Mescheder et al. 2018,
    eq. 9, called R1), applied in every 8th update with 8 times the weight (Karras et al. 2020, sec. 3.1);
    `he_init`: initial weights that preserve the scale of signals, see `he_normal_`;
    `decoder_norm`: batch norm in G (Radford et al. 2016).
    """

    objectives = ("nonsaturating",)
    draws_samples = True
    has_validation_loss = False  # neither loss says how good the images are
    distribution = Gaussian
    defaults = dict(epochs=20, batch_size=32, lr=2e-4, lr_schedule="constant", valid_fraction=0.0)

    def __init__(
        self,
        image_shape,
        latent_dim=16,
        objective="nonsaturating",
        encoder_layers=None,
        decoder_start=None,
        decoder_layers=None,
        decoder_norm=True,
        gradient_penalty=1.0,
        he_init=True,
    ):
        super().__init__(objective)
        self.latent_dim = latent_dim
        self.gradient_penalty = gradient_penalty

        layers = parse_layers(encoder_layers) if encoder_layers else default_layers(image_shape, 32, 4)
        features = ConvEncoder(image_shape, layers)
        self.discriminator = nn.Sequential(features, nn.Linear(features.size, 1))
        options = dict(decoder_start=decoder_start, decoder_layers=decoder_layers, decoder_norm=decoder_norm)
        decoder = make_decoder(latent_dim, image_shape, layers, **options)
        self.generator = nn.Sequential(decoder, nn.Tanh())
        if he_init:
            self.apply(he_normal_)
        self.to(memory_format=torch.channels_last)  # 1.5 times as fast on a CPU, with the same results

    def turns(self):
        betas = (0.5, 0.999)  # beta1 not 0.9 (Radford et al. 2016): old gradients are of an old opponent
        discriminator = {"params": list(self.discriminator.parameters()), "betas": betas}
        generator = {"params": list(self.generator.parameters()), "betas": betas}
        return [Turn([discriminator], self.discriminator_loss), Turn([generator], self.generator_loss)]

    def generate(self, n):
        """n images of G in [−1, 1], the range of D's inputs."""
        return self.generator(torch.randn(n, self.latent_dim, device=self.device))

    def discriminate(self, x):
        """D's logits [B] for images in [−1, 1]; positive where D takes them for real."""
        return self.discriminator(x).squeeze(1)

    def discriminator_loss(self, batch, step):
        x = 2 * batch.x - 1
        with torch.no_grad():
            generated = self.generate(len(x))
        penalize = self.gradient_penalty > 0 and step % PENALTY_INTERVAL == 0
        if penalize:
            x.requires_grad_()
        real = self.discriminate(x)
        fake = self.discriminate(generated)
        loss = F.softplus(-real).mean() + F.softplus(fake).mean()  # −log D(x) − log(1 − D(G(z)))
        accuracy = 50 * ((real > 0).float() + (fake < 0).float()).mean()
        terms = {"discriminator": loss, "discriminator_accuracy": accuracy}  # without the penalty
        if penalize:
            (gradient,) = torch.autograd.grad(real.sum(), x, create_graph=True)
            squared_norm = gradient.square().flatten(1).sum(1)
            loss = loss + PENALTY_INTERVAL * self.gradient_penalty / 2 * squared_norm.mean()
        return loss, terms

    def generator_loss(self, batch, step):
        fake = self.discriminate(self.generate(len(batch.x)))
        loss = F.softplus(-fake).mean()  # −log D(G(z))
        return loss, {"generator": loss}

    def decode(self, z, labels=None):
        """Images [B, C, H, W] in [0, 1]."""
        return (self.generator(z) + 1) / 2

    def diagnose(self, split):
        """Diversity of samples: their mean distance over that of real images. Warns of mode collapse and of
        a discriminator that is always right."""
        stride = max(1, len(split.x) // 200)
        x, _ = split.batch(slice(None, None, stride))  # up to 399 images, of all classes
        samples = self.sample(len(x))
        distances = [F.pdist(images.flatten(1).cpu()).mean() for images in (samples, x)]  # mps has no pdist
        diversity = (distances[0] / distances[1]).item()
        real = self.discriminate(2 * x - 1) > 0
        fake = self.discriminate(2 * samples - 1) > 0
        diagnosis = {"diversity": diversity}
        if diversity < 0.5:  # the other warning, which is less serious, is then not given
            diagnosis["warning"] = "the generator draws nearly the same image each time (mode collapse)"
        elif real.float().mean() - fake.float().mean() > 0.98:
            diagnosis["warning"] = "the discriminator wins: no sample fools it, the generator learns little"
        return diagnosis


def he_normal_(layer):
    """Initializes a layer so that signals keep their scale through ReLUs (He et al. 2015, eq. 10). Torch's
    default weights shrink them √6-fold at a convolution and √12-fold at a transposed one that halves the
    channels, so that all samples of a new GAN are one gray."""
    if not isinstance(layer, nn.Conv2d | nn.ConvTranspose2d | nn.Linear):
        return
    fan_in = layer.weight[0].numel()
    if isinstance(layer, nn.ConvTranspose2d):  # weight (in, out, k, k); an output meets 1 of stride² taps
        fan_in = layer.weight[:, 0].numel() / math.prod(layer.stride)
    nn.init.normal_(layer.weight, std=math.sqrt(2 / fan_in))
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)


# -----------------------------------------------------------------------------------------------------------
# Classifier, which also judges the samples of the other models


class Classifier(Model):
    """An encoder and a linear layer. `augment` transforms the training images, see `augmented`, because the
    soft edges of decoded images would mislead a classifier that has only seen sharp ones."""

    objectives = ("cross-entropy",)
    task = "classification"
    defaults = dict(epochs=20, batch_size=64, lr=2e-3, lr_schedule="cosine")

    def __init__(
        self,
        image_shape,
        n_classes,
        objective="cross-entropy",
        encoder_layers="32,5,2,2 64,5,2,2 128,3,2,1",
        encoder_hidden=256,
        encoder_depth=2,
        batch_norm=True,
        augment=True,
        **networks,
    ):
        super().__init__(objective)
        require(n_classes >= 2, "a classifier needs data with labels of two classes or more")
        self.augment = augment
        networks |= dict(encoder_layers=encoder_layers, batch_norm=batch_norm)
        networks |= dict(encoder_hidden=encoder_hidden, encoder_depth=encoder_depth)
        self.encoder = make_encoder(image_shape, **networks)
        self.to_logits = nn.Linear(self.encoder.size, n_classes)

    def forward(self, x):
        return self.to_logits(self.encoder(x))  # (B, C, H, W) -> (B, n_classes)

    def loss(self, batch, step):
        x = batch.x
        if self.augment and self.training:
            x = augmented(x)
        logits = self(x)
        loss = F.cross_entropy(logits, batch.y)
        accuracy = 100 * (logits.argmax(1) == batch.y).float().mean()
        return loss, {"loss": loss, "accuracy": accuracy}

    @torch.no_grad()
    def predict(self, x):
        """Probability of each class, [B, n_classes]."""
        return self(x).softmax(1)


def augmented(x):
    """Images [B, C, H, W], each sheared, rotated and scaled by up to about a fifth, moved by up to 7% of its
    width, and blurred and dimmed by random amounts."""
    n = len(x)
    device = x.device
    affine = torch.eye(2, 3, device=device).repeat(n, 1, 1)
    affine[:, :, :2] += torch.empty(n, 2, 2, device=device).uniform_(-0.2, 0.2)
    affine[:, :, 2] = torch.empty(n, 2, device=device).uniform_(-0.14, 0.14)  # the grid is from −1 to 1
    grid = F.affine_grid(affine, x.shape, align_corners=False)
    x = F.grid_sample(x, grid, align_corners=False)
    blur, dim = torch.rand(2, n, 1, 1, 1, device=device)
    return x.lerp(F.avg_pool2d(x, 3, 1, 1), blur) * (1 - dim / 2)


# -----------------------------------------------------------------------------------------------------------
# Sequence models: arithmetic learned from examples, read and written one character at a time
# (Sutskever et al. 2014; Zaremba & Sutskever 2014)

SYMBOLS = "0123456789+- "  # a token is the place of its symbol in this text
ANSWER_LENGTH = 3  # characters
CHARACTER_SHAPE = (1, 28, 28)  # of the image of a character


class Text2Text(Model):
    """From a query, tokens [B, 5] such as "12+34", to its answer, tokens [B, 3] such as "46 ".

    One LSTM reads the query, in both directions if `bidirectional`. Another, which receives the last hidden
    state of the first at each of 3 steps, writes the answer. `dense` puts a ReLU layer between the two. With
    `attention`, each step of the answer also sees a mean of the encoder's outputs, weighted by how well they
    match the decoder's state (Luong et al. 2015, eq. 5 to 8, score "general").

    Subclasses replace one end: `frames` turns a query into vectors, `write` turns states into an answer.
    """

    objectives = ("cross-entropy",)
    task = "arithmetic"
    units = {"loss": "nats/answer"}
    draws_answers = False
    defaults = dict(epochs=40, batch_size=64, lr=1e-3, lr_schedule="constant", data="arithmetic", drawn=None)

    def __init__(
        self,
        n_classes,
        objective="cross-entropy",
        encoder_hidden=256,
        encoder_depth=1,
        bidirectional=False,
        attention=False,
        dense=0,
        decoder_hidden=256,
        decoder_depth=1,
        **frames,
    ):
        super().__init__(objective)
        require(n_classes == len(SYMBOLS), "this model is for the 13 symbols of --data arithmetic")
        self.directions = 2 if bidirectional else 1
        self.attention = attention
        frame_size = self.make_frame_layers(**frames)
        size = self.directions * encoder_hidden
        self.encoder = nn.LSTM(
            frame_size, encoder_hidden, encoder_depth, batch_first=True, bidirectional=bidirectional
        )
        self.between = nn.Sequential(nn.Linear(size, dense), nn.ReLU()) if dense else nn.Identity()
        self.decoder = nn.LSTM(dense or size, decoder_hidden, decoder_depth, batch_first=True)
        if attention:
            self.to_score = nn.Linear(decoder_hidden, size, bias=False)
            self.combine = nn.Linear(size + decoder_hidden, decoder_hidden)
        if not self.draws_answers:
            self.writer = nn.Linear(decoder_hidden, len(SYMBOLS))

    def make_frame_layers(self):
        """Makes the layers of `frames`; returns the size of a frame."""
        return len(SYMBOLS)

    def frames(self, x):
        return F.one_hot(x, len(SYMBOLS)).float()  # (B, 5) -> (B, 5, symbols)

    def write(self, states):
        return self.writer(states)  # (B, 3, decoder_hidden) -> logits (B, 3, symbols)

    def states(self, x):
        """States of the decoder [B, 3, decoder_hidden], for the characters of the answer."""
        outputs, (hidden, _) = self.encoder(self.frames(x))  # (B, 5, size), (depth * directions, B, hidden)
        last = hidden[-self.directions :].transpose(0, 1).flatten(1)  # (B, size)
        steps = self.between(last)[:, None].repeat(1, ANSWER_LENGTH, 1)  # (B, 3, dense or size)
        states, _ = self.decoder(steps)  # (B, 3, decoder_hidden)
        if self.attention:
            scores = self.to_score(states) @ outputs.transpose(1, 2)  # (B, 3, 5)
            context = scores.softmax(2) @ outputs  # (B, 3, size)
            states = self.combine(torch.cat([context, states], 2)).tanh()
        return states

    def forward(self, x):
        return self.write(self.states(x))

    def loss(self, batch, step):
        logits = self(batch.x)
        nll = F.cross_entropy(logits.flatten(0, 1), batch.y.flatten(), reduction="sum")
        loss = nll / len(batch.y)
        return loss, {"loss": loss} | answer_accuracy(logits.argmax(2), batch.y)

    @torch.no_grad()
    def predict(self, x):
        """Answers in the form of the data: tokens [B, 3], or images [B, 3, 1, 28, 28]."""
        return self(x).argmax(2)


def answer_accuracy(tokens, y):
    """Percentage of characters that are right, and of answers that are right as a whole; tokens [B, 3]."""
    correct = (tokens == y).float()
    return {"characters": 100 * correct.mean(), "exact": 100 * correct.amin(1).mean()}


class Image2Text(Text2Text):
    """Reads images of the query's characters, float [B, 5, 1, 28, 28]. Only whole answers are labels: no
    character of a query is labeled.

    Each image passes the convolutions `encoder_layers`; by default one convolution and max-pooling.
    `frame_size` reduces each to that many numbers, by batch norm and tanh (0: no reduction). Without it a
    gate of the LSTM sums thousands of inputs, and one update of Adam, which moves all their weights by about
    lr, can change the sum by more than 1. `augment` transforms the training images, see `augmented`.
    """

    defaults = Text2Text.defaults | dict(epochs=25, drawn="query")

    def make_frame_layers(self, encoder_layers=None, batch_norm=False, frame_size=0, augment=False):
        self.augment = augment
        if encoder_layers:
            self.reader = ConvEncoder(CHARACTER_SHAPE, parse_layers(encoder_layers), batch_norm)
            size = self.reader.size
        else:
            self.reader = nn.Sequential(nn.Conv2d(1, 32, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten())
            size = 32 * 13 * 13
        if not frame_size:
            return size
        to_frame = nn.Linear(size, frame_size, bias=False)
        self.reader = nn.Sequential(self.reader, to_frame, nn.BatchNorm1d(frame_size), nn.Tanh())
        return frame_size

    def frames(self, x):
        images = x.flatten(0, 1)
        if self.augment and self.training:
            images = augmented(images)
        return self.reader(images).unflatten(0, x.shape[:2])  # (B, 5, 1, 28, 28) -> (B, 5, size)


class Text2Image(Text2Text):
    """Draws the answer's characters, float [B, 3, 1, 28, 28]; a ConvDecoder turns each state into an image.

    The objective is the squared error. It is least for the mean image of a symbol and, as the handwriting in
    the data varies, says little about which symbol was meant. Which drawn answers are right is judged by
    `reader`, a classifier of characters that is trained in a turn of its own on the images of true answers.
    `spelling` weighs an additional cross-entropy: a linear layer predicts the answer's symbols from the
    states that are drawn.
    """

    objectives = ("mse",)
    draws_answers = True
    defaults = Text2Text.defaults | dict(epochs=50, drawn="answer")

    def __init__(
        self,
        n_classes,
        objective="mse",
        dense=128,
        decoder_start=(128, 7, 7),
        decoder_layers="64,3,2,1,1 1,3,2,1,1",
        decoder_norm=False,
        spelling=0.0,
        **options,
    ):
        super().__init__(n_classes, objective, dense=dense, **options)
        size = self.decoder.hidden_size
        layers = parse_layers(decoder_layers, transposed=True)
        self.writer = ConvDecoder(size, CHARACTER_SHAPE, tuple(decoder_start), layers, decoder_norm)
        self.spelling = spelling
        self.speller = nn.Linear(size, len(SYMBOLS)) if spelling else None
        self.reader = Classifier(CHARACTER_SHAPE, n_classes, encoder_layers="16,5,2,2 32,5,2,2")

    def write(self, states):
        return self.writer(states.flatten(0, 1)).sigmoid().unflatten(0, states.shape[:2])

    def turns(self):
        reader = list(self.reader.parameters())
        drawing = [p for name, p in self.named_parameters() if not name.startswith("reader.")]
        return [Turn([{"params": reader}], self.reader_loss), Turn([{"params": drawing}], self.loss)]

    def reader_loss(self, batch, step):
        symbols = solve_queries(batch.x).flatten()
        characters = Batch(batch.y.flatten(0, 1), symbols, None)  # (B * 3, 1, 28, 28), (B * 3,)
        loss, terms = self.reader.loss(characters, step)
        return loss, {"reader": terms["accuracy"]}

    def loss(self, batch, step):
        """Squared error of an answer, summed over its pixels, and mean squared error of a pixel."""
        states = self.states(batch.x)
        error = gaussian_nll(self.write(states), batch.y).mean()
        terms = {"loss": error, "mse": error / batch.y[0].numel()}
        if self.spelling:
            logits = self.speller(states).transpose(1, 2)  # (B, symbols, 3)
            terms["spelling"] = F.cross_entropy(logits, solve_queries(batch.x))
            terms["loss"] = error + self.spelling * terms["spelling"]
        return terms["loss"], terms

    @torch.no_grad()
    def predict(self, x):
        return self(x)

    @torch.no_grad()
    def read(self, images):
        """Tokens [B, 3] that the reader sees in images of answers [B, 3, 1, 28, 28]."""
        return self.reader(images.flatten(0, 1)).argmax(1).unflatten(0, images.shape[:2])

    def diagnose(self, split):
        """Accuracy of drawn answers as the reader reads them, and of the reader on the data's images."""
        parts = [(self.read(self.predict(x)), self.read(y), solve_queries(x)) for x, y in batches(split)]
        drawn, shown, truth = map(torch.cat, zip(*parts, strict=True))  # tokens [n, 3] each
        accuracy = answer_accuracy(drawn, truth)
        accuracy["reader"] = answer_accuracy(shown, truth)["characters"]
        return {name: value.item() for name, value in accuracy.items()}


def solve_queries(x):
    """The answers, tokens [B, 3], of queries, tokens [B, 5]."""
    answers = []
    for tokens in x.tolist():
        query = "".join(SYMBOLS[token] for token in tokens)
        terms = query.replace("-", "+-").split("+")  # "5-7" is 5 + -7
        answer = str(sum(int(term) for term in terms)).ljust(ANSWER_LENGTH)
        answers.append([SYMBOLS.index(symbol) for symbol in answer])
    return torch.tensor(answers, device=x.device)


# -----------------------------------------------------------------------------------------------------------
# The table of models, and checkpoints

MODELS = {
    "ae": Autoencoder,
    "vae": VAE,
    "cvae": ConditionalVAE,
    "ad": AutoDecoder,
    "vad": VariationalAutoDecoder,
    "gan": GAN,
    "classifier": Classifier,
    "text2text": Text2Text,
    "image2text": Image2Text,
    "text2image": Text2Image,
}

# Functions that receive the keyword arguments which a constructor collects in **networks or **frames
NETWORKS = {
    Autoencoder: (make_encoder, make_decoder),
    AutoDecoder: (make_decoder,),
    Classifier: (make_encoder,),
    Image2Text: (Image2Text.make_frame_layers,),
}

FACTS = ("image_shape", "n_classes", "n_train", "n_test")  # arguments that the data decide: no defaults

UNITS = {  # of logged terms, where `units` of a model does not replace them
    "loss": "nats/image",
    "reconstruction": "nats/image",
    "kl": "nats/image",
    "penalty": "nats/image",
    "kl_per_dimension": "nats",
    "active_latents": "",
    "mse": "per pixel",
    "rmse": "of 0..255",
    "accuracy": "%",
    "characters": "%",
    "exact": "%",
    "reader": "%",
    "discriminator": "nats",
    "generator": "nats",
    "discriminator_accuracy": "%",
    "spelling": "nats/character",
    "diversity": "",
}


def constructor_defaults(model):
    """Every keyword argument of MODELS[model], as {name: default}; FACTS map to inspect.Parameter.empty."""
    defaults = {}
    # A constructor passes **options to its parent's, **networks and **frames to the functions of NETWORKS.
    # From the oldest ancestor to the class itself, a default replaces that of an ancestor.
    ancestors = [cls for cls in reversed(MODELS[model].__mro__) if issubclass(cls, Model)]
    for cls in ancestors:
        for function in (*NETWORKS.get(cls, ()), cls.__init__):
            for name, parameter in inspect.signature(function).parameters.items():
                if parameter.default is not parameter.empty or name in FACTS:
                    defaults[name] = parameter.default
    return defaults


MAX_SIZE = 500_000_000  # parameters of a model, or numbers in one image inside it
MAX_DEPTH = 1000  # layers of an RNN or MLP


def check_size(n, things="numbers in an image"):
    require(n <= MAX_SIZE, f"{n:,} {things} are too many: the limit is {MAX_SIZE:,}")


class SkipNormal(TorchFunctionMode):
    """Leaves out `normal_`, for which torch spends seconds on imports if a tensor has no memory."""

    def __torch_function__(self, function, types, args=(), kwargs=None):
        if function is not nn.init.normal_:
            return function(*args, **(kwargs or {}))


def build(model, /, **arguments):
    """MODELS[model](**arguments), with the `recipe` that `save` keeps. Raises ModelError for a model that is
    too large, before it takes memory."""
    check_choice("model", model, MODELS)
    check_size(math.prod(arguments.get("image_shape", ())))
    for name in ("encoder_depth", "decoder_depth"):
        require(arguments.get(name, 1) <= MAX_DEPTH, f"{name} must be at most {MAX_DEPTH}")
    try:
        with torch.device("meta"), SkipNormal():  # meta tensors have a shape, but no memory
            outline = MODELS[model](**arguments)
    except NotImplementedError:  # a function that an assignment leaves to its reader
        raise
    except RuntimeError as error:  # sizes whose product overflows
        raise ModelError(f"there is no {model} of these sizes: {error}") from error
    check_size(sum(tensor.numel() for tensor in outline.state_dict().values()), "parameters")
    built = MODELS[model](**arguments)
    built.recipe = {"model": model, "arguments": arguments}
    return built


def save(file, model, **more):
    """Writes the weights and what `load` needs to rebuild the model; `more` are tensors and plain types."""
    torch.save({**model.recipe, "weights": model.state_dict(), **more}, file)


def read_checkpoint(path):
    """The dict that `save` wrote, on the CPU. Raises ModelError for any other file and for a damaged one."""
    message = f"{path} is not a checkpoint of this project, or is damaged"
    require(os.path.isfile(path) or not os.path.exists(path), message, status=1)
    with open(path, "rb") as file:
        try:
            with zipfile.ZipFile(file) as archive:  # torch does not compare the checksums of its records
                n_bytes = sum(record.file_size for record in archive.infolist())
                require(n_bytes < os.path.getsize(path) and archive.testzip() is None, message)
            file.seek(0)
            checkpoint = torch.load(file, map_location="cpu", weights_only=True)
        except Exception as error:  # for a damaged file zipfile and torch raise anything
            raise ModelError(message, status=1) from error
    require(isinstance(checkpoint, dict), message, status=1)
    for name, kind in (("model", str), ("arguments", dict), ("weights", dict)):
        present = isinstance(checkpoint.get(name), kind)
        require(present, f"{message}: it has no {name!r} of type {kind.__name__}", status=1)
    return checkpoint


def load_weights(model, weights):
    """Copies the weights of a checkpoint. Raises ModelError, which names the first that does not fit."""
    expected = model.state_dict()
    for name in expected | weights:
        forms = [(t.shape, t.dtype) for t in (expected.get(name), weights.get(name)) if torch.is_tensor(t)]
        fits = len(forms) == 2 and forms[0] == forms[1]
        require(fits, f"its weights {name} are missing, unknown, or of another shape or type", status=1)
    model.load_state_dict(weights)
    for name, param in model.named_parameters():  # latents that are not fitted yet, in buffers, are NaN
        require(param.isfinite().all(), f"its weights {name} are not finite", status=1)


def load(path, device="cpu"):
    """The model of a checkpoint, in eval mode. Raises ModelError for a file that `save` did not write."""
    checkpoint = read_checkpoint(path)
    try:
        model = build(checkpoint["model"], **checkpoint["arguments"])
        load_weights(model, checkpoint["weights"])
    except Exception as error:  # the arguments may be of another version, or anything
        reason, *_ = str(error).split("\n")
        message = f"{path} holds a model that this version cannot build: {reason}"
        raise ModelError(message, status=1) from error
    return model.to(device).eval()
