"""Every model of this project, leaf to root: blocks, encoders, decoders, models, one table at the bottom.

    model = models.load("runs/cvae-mnist10k/best.pt")      # rebuilt without any flag, in eval mode
    model.sample(10, labels=torch.arange(10))              # float [10, 1, 28, 28] in [0, 1]

One contract lets one loop train everything:
- `turns()` lists who steps on each batch: `Turn(name, param_groups, loss)`, one optimizer each.
- A loss function takes (batch, step), step being the updates so far (infinity when evaluating: every weight
  is at its final value), and returns (loss, parts): the scalar to minimize, and named scalars to log.
- Class attributes declare what a model can do, see `Model`.
- Outside a model images are float [B, C, H, W] in [0, 1]; labels are class numbers [B].
- Losses are in nats per image: summed over pixels and latents, averaged over the batch.
- `diagnose(split)`, if a model has it, is logged after each epoch; its "warning" is printed.

This file needs torch alone and works when copied into another project.
"""

import inspect
import math
from collections import namedtuple
from itertools import pairwise

import torch
import torch.nn as nn
import torch.nn.functional as F

# images, class numbers (or queries, answers), places in the training split (or None)
Batch = namedtuple("Batch", "x y index")

# a player of the training loop: parameter groups for its optimizer and the loss that they minimize
Turn = namedtuple("Turn", "name param_groups loss")

UNITS = {  # of every term that a model logs, where its class says nothing else
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


class ModelError(ValueError):
    """A model that cannot be built, or a checkpoint that cannot be read: one line that says why. `status` is
    what a command line ends with: 2 for a wrong flag, 1 for a broken file."""

    def __init__(self, message, status=2):
        super().__init__(message)
        self.status = status


# -----------------------------------------------------------------------------------------------------------
# Blocks: convolutions written as data


class Model(nn.Module):
    """What every model declares about itself, so that other files ask and need not probe."""

    task = "generation"  # or "classification", "arithmetic"
    has_validation_loss = True  # whose term "loss" chooses the best checkpoint
    conditional = False  # sample, encode and decode take class labels
    has_encoder = False  # encode, reconstruct
    has_posterior = False  # posterior, log_weights
    has_free_latents = False  # learned_latents, in place of an encoder that is learned
    draws_samples = False  # sample
    units = {}  # of logged terms, where they are not those of UNITS
    kl_warm_up = 0  # updates

    def diagnose(self, split):
        """Named numbers about a split (x uint8 [n, C, H, W], y [n]), logged after each epoch."""
        return {}


def parse_layers(text, numbers=(4,)):
    """Text "32,3,2,1 64,3,2,1" -> [(32, 3, 2, 1), (64, 3, 2, 1)].

    Each entry is channels, kernel, stride, padding and, of transposed convolutions, perhaps output padding.
    """
    try:
        layers = [tuple(int(number) for number in entry.split(",")) for entry in text.split()]
    except ValueError:
        layers = []
    if not layers or any(len(e) not in numbers or min(e[:3]) < 1 or min(e) < 0 for e in layers):
        form = "channels,kernel,stride,padding for each, as in '32,3,2,1 64,3,2,1'"
        raise ModelError(f"layers {text!r}: write {form}")
    return layers


def default_layers(image_shape, channels=16, smallest=8):
    """Halve the picture until it is at most 8 wide: 28 pixels take two layers, 64 pixels three."""
    size, layers = min(image_shape[1:]), []
    while size > smallest or not layers:
        layers.append((channels, 4, 2, 1))
        size, channels = size // 2, 2 * channels
    return layers


def conv_shapes(shape, layers):
    """The shape (channels, height, width) before each convolution and after the last one."""
    shapes = [tuple(shape)]
    for channels, kernel, stride, padding, *_ in layers:
        size = [(side + 2 * padding - kernel) // stride + 1 for side in shapes[-1][1:]]
        if min(size) < 1:
            raise ModelError(f"convolutions leave nothing of a picture of {shape[1]} x {shape[2]} pixels")
        shapes.append((channels, *size))
    return shapes


def mirror(image_shape, layers):
    """The transposed convolutions that undo `layers`, as (shape they start from, layers).

    Output padding gives back the row that a stride dropped: 7 pixels become 14, not 13.
    """
    shapes = conv_shapes(image_shape, layers)
    mirrored = []
    for (channels, *size), (_, kernel, stride, padding, *_) in zip(shapes, layers, strict=False):
        dropped = tuple((side + 2 * padding - kernel) % stride for side in size)
        mirrored.insert(0, (channels, kernel, stride, padding, dropped))
    return shapes[-1], mirrored


# -----------------------------------------------------------------------------------------------------------
# Encoders: image -> features [B, size]


class ConvEncoder(nn.Module):
    """A stack of convolutions with ReLU, flattened."""

    def __init__(self, image_shape, layers, batch_norm=False):
        super().__init__()
        shapes = conv_shapes(image_shape, layers)
        self.layers, self.size = layers, math.prod(shapes[-1])
        stack = []
        for (inputs, *_), (outputs, kernel, stride, padding, *_) in zip(shapes, layers, strict=False):
            stack.append(nn.Conv2d(inputs, outputs, kernel, stride, padding, bias=not batch_norm))
            stack += [nn.BatchNorm2d(outputs), nn.ReLU()] if batch_norm else [nn.ReLU()]
        self.stack = nn.Sequential(*stack, nn.Flatten())

    def forward(self, x):
        return self.stack(x)  # (B, C, H, W) -> (B, size)


class RNNEncoder(nn.Module):
    """Reads a picture from top to bottom, one row of channels x width at each time step.

    `sequence`: "last" keeps the last layer's final hidden state (of both directions), "full" keeps every
    row's output.
    """

    def __init__(self, image_shape, cell, hidden, depth, bidirectional, sequence):
        super().__init__()
        channels, height, width = image_shape
        self.directions, self.sequence = 1 + bidirectional, sequence
        self.rnn = CELLS[cell](
            channels * width, hidden, depth, batch_first=True, bidirectional=bidirectional
        )
        self.size = self.directions * hidden * (height if sequence == "full" else 1)

    def forward(self, x):
        rows = x.transpose(1, 2).flatten(2)  # (B, C, H, W) -> (B, H, C * W)
        outputs, state = self.rnn(rows)  # (B, H, directions * hidden)
        if self.sequence == "full":
            return outputs.flatten(1)
        hidden = state[0] if isinstance(state, tuple) else state  # an LSTM also returns its cell state
        last = hidden[-self.directions :]  # (depth * directions, B, hidden) -> (directions, B, hidden)
        return last.transpose(0, 1).flatten(1)  # (B, size)


class MLPEncoder(nn.Module):
    """`depth` linear layers of `hidden` units with ReLU."""

    def __init__(self, image_shape, hidden, depth):
        super().__init__()
        self.stack = nn.Sequential(nn.Flatten(), *linear_layers(math.prod(image_shape), hidden, depth))
        self.size = hidden

    def forward(self, x):
        return self.stack(x)  # (B, C, H, W) -> (B, hidden)


def linear_layers(inputs, hidden, depth):
    sizes = [inputs] + [hidden] * depth
    return [layer for a, b in pairwise(sizes) for layer in (nn.Linear(a, b), nn.ReLU())]


# -----------------------------------------------------------------------------------------------------------
# Decoders: latents [B, size] -> what the likelihood wants, logits of pixels [B, C, H, W]


class ConvDecoder(nn.Module):
    """A linear layer to a small picture of many channels, then transposed convolutions with ReLU between.

    With `batch_norm` every layer but those that make pixels ends with batch norm and ReLU instead.
    """

    def __init__(self, size, image_shape, start, layers, batch_norm=False):
        super().__init__()
        made, stack = start, [nn.Linear(size, math.prod(start)), nn.Unflatten(1, start)]
        for outputs, kernel, stride, padding, *extra in layers:
            norm = batch_norm and outputs != image_shape[0]
            stack += [] if batch_norm else [nn.ReLU()]
            extra = extra[0] if extra else 0
            transposed = WideConvTranspose2d if made[0] >= 1024 else nn.ConvTranspose2d
            layer = transposed(made[0], outputs, kernel, stride, padding, extra, bias=not norm)
            try:
                made = tuple(layer(torch.zeros(1, *made)).shape[1:])
            except RuntimeError as error:
                raise ModelError(
                    f"the decoder's layers do not work: {str(error).splitlines()[0]}"
                ) from error
            stack += [layer, nn.BatchNorm2d(outputs), nn.ReLU()] if norm else [layer]
        if made != tuple(image_shape):
            raise ModelError(f"the decoder's layers end at {made}, the data are {tuple(image_shape)}")
        self.stack = nn.Sequential(*stack)

    def forward(self, z):
        return self.stack(z)  # (B, size) -> (B, C, H, W)


class WideConvTranspose2d(nn.ConvTranspose2d):
    """The same as one matrix product, whose results are added where they overlap.

    On a CPU it is 3 to 8 times as fast as torch's own where thousands of channels meet a few pixels, as at
    the start of report R1's decoder, and slower elsewhere.
    """

    def forward(self, x):
        if not x.is_cpu:
            return super().forward(x)
        rows, columns = [
            (n - 1) * self.stride[i] - 2 * self.padding[i] + self.kernel_size[i] + self.output_padding[i]
            for i, n in enumerate(x.shape[2:])
        ]
        pixels = x.permute(0, 2, 3, 1).flatten(0, 2)  # (B, C, H, W) -> (B * H * W, C)
        patches = pixels @ self.weight.flatten(1)  # what each draws, (B * H * W, out * k * k)
        patches = patches.unflatten(0, (len(x), math.prod(x.shape[2:]))).transpose(1, 2)
        drawn = F.fold(patches, (rows, columns), self.kernel_size, 1, self.padding, self.stride)
        return drawn if self.bias is None else drawn + self.bias[:, None, None]


class RNNDecoder(nn.Module):
    """Shows z to an RNN once for every row; each of its outputs becomes a row of the picture.

    `inputs`: units of a linear layer before the RNN, 0 for none. `readout`: a linear layer from hidden units
    to a row; without it the hidden state is the row.
    """

    def __init__(self, size, image_shape, cell, hidden, depth, inputs, readout):
        super().__init__()
        channels, _, width = self.image_shape = image_shape
        if not readout and hidden != channels * width:
            raise ModelError(
                f"without a readout --decoder-hidden must be a row of the picture, {channels * width}"
            )
        self.inputs = nn.Linear(size, inputs) if inputs else nn.Identity()
        self.rnn = CELLS[cell](inputs or size, hidden, depth, batch_first=True)
        self.readout = nn.Linear(hidden, channels * width) if readout else nn.Identity()

    def forward(self, z):
        channels, height, width = self.image_shape
        rows = self.inputs(z)[:, None].expand(-1, height, -1)  # (B, size) -> (B, H, inputs)
        rows = self.readout(self.rnn(rows)[0])  # (B, H, C * W)
        return rows.unflatten(2, (channels, width)).transpose(1, 2)  # (B, C, H, W)


class MLPDecoder(nn.Module):
    """`depth` linear layers of `hidden` units with ReLU, and one to the pixels."""

    def __init__(self, size, image_shape, hidden, depth):
        super().__init__()
        pixels = nn.Linear(hidden, math.prod(image_shape))
        self.stack = nn.Sequential(*linear_layers(size, hidden, depth), pixels, nn.Unflatten(1, image_shape))

    def forward(self, z):
        return self.stack(z)  # (B, size) -> (B, C, H, W)


CELLS = {"lstm": nn.LSTM, "gru": nn.GRU}
RNN_ENCODER = ("encoder_hidden", "encoder_depth", "bidirectional", "sequence")
RNN_DECODER = ("decoder_hidden", "decoder_depth", "decoder_inputs", "decoder_readout")
ENCODERS = {  # and the arguments that size each of them
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
SEQUENCES = ("last", "full")


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
    """The arguments are flags of train.py. `encoder_layers` is a convolution stack as text (None: derived
    from the picture's size), `encoder_hidden` and `encoder_depth` are units and layers of an RNN or MLP."""
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
    mirrored,
    decoder="conv",
    decoder_start=None,
    decoder_layers=None,
    decoder_hidden=128,
    decoder_depth=1,
    decoder_inputs=0,
    decoder_readout=True,
    decoder_norm=False,
):
    """As `make_encoder`. `mirrored` are the encoder's layers, if it has any, which the convolutions mirror
    where they are not told more; without them, the default of the picture's size."""
    check_choice("decoder", decoder, DECODERS)
    if decoder == "conv":
        start, layers = mirror(image_shape, mirrored or default_layers(image_shape))
        layers = parse_layers(decoder_layers, (4, 5)) if decoder_layers else layers
        return ConvDecoder(size, image_shape, tuple(decoder_start or start), layers, decoder_norm)
    if decoder == "mlp":
        return MLPDecoder(size, image_shape, decoder_hidden, decoder_depth)
    sizes = decoder_hidden, decoder_depth, decoder_inputs, decoder_readout
    return RNNDecoder(size, image_shape, decoder, *sizes)


def check_choice(name, value, choices):
    if value not in choices:
        raise ModelError(f"{name} {value!r} does not exist here: choose from {', '.join(choices)}")


# -----------------------------------------------------------------------------------------------------------
# Likelihoods, in nats for each image [B]


def bernoulli_nll(logits, x):
    """−log p(x | z) of pixels that are 1 with probability sigmoid(logits), [B].

    On gray pixels this is a score, not a likelihood: its least value is their entropy, not 0.
    """
    return F.binary_cross_entropy_with_logits(logits, x, reduction="none").flatten(1).sum(1)


def gaussian_nll(mean, x):
    """Squared error [B]: −log p(x | z) of a Gaussian with variance ½, less its constant D/2·ln π."""
    return (mean - x).square().flatten(1).sum(1)


LIKELIHOODS = ("bernoulli", "gaussian")


# -----------------------------------------------------------------------------------------------------------
# Distributions over latents. `from_params` makes one from unconstrained parameters [..., n_params * D]; `kl`
# is from the prior, in nats, for each image and dimension [B, D]; `prior` draws from it, [n, D].


class Point:
    """One value and no doubt: what a model that is not variational knows of z [B, D]."""

    n_params = 1  # for each latent

    def __init__(self, mean):
        self.mean = mean

    @classmethod
    def from_params(cls, numbers):
        return cls(numbers)

    def sample(self):
        return self.mean

    def kl(self):
        """−log density of z under N(0, I), less its constant: the price of a point far out."""
        return self.mean.square() / 2

    @staticmethod
    def prior(n, dim, truncate=None, device=None):
        return Gaussian.prior(n, dim, truncate, device)


class Gaussian:
    """Diagonal Gaussian; mean and log_variance are [B, D]. Prior N(0, I)."""

    n_params = 2

    def __init__(self, mean, log_variance):
        self.mean, self.log_variance = mean, log_variance

    @classmethod
    def from_params(cls, numbers):
        return cls(*numbers.chunk(2, dim=-1))

    def sample(self, n=None):
        """z [B, D], or [n, B, D]. Mean plus deviation times noise keeps the path differentiable
        (Kingma & Welling 2014, eq. 4)."""
        shape = self.mean.shape if n is None else (n, *self.mean.shape)
        return self.mean + (self.log_variance / 2).exp() * torch.randn(shape, device=self.mean.device)

    def log_prob(self, z):
        """log density in nats, summed over the D latents: [B], or [n, B]."""
        squares = (z - self.mean).square() / self.log_variance.exp()
        return -(squares + self.log_variance + math.log(2 * math.pi)).sum(-1) / 2

    def kl(self):
        """Kingma & Welling 2014, app. B."""
        return (self.mean.square() + self.log_variance.exp() - 1 - self.log_variance) / 2

    @staticmethod
    def prior(n, dim, truncate=None, device=None):
        """`truncate` draws again what lies beyond ± that many deviations."""
        if truncate is None:
            return torch.randn(n, dim, device=device)
        return nn.init.trunc_normal_(torch.empty(n, dim, device=device), a=-truncate, b=truncate)


class Exponential:
    """Independent exponentials; log_rate is [B, D]. Prior Exp(1)."""

    n_params = 1

    def __init__(self, log_rate):
        self.log_rate, self.mean = log_rate, (-log_rate).exp()

    @classmethod
    def from_params(cls, numbers):
        return cls(numbers)

    def sample(self):
        """z [B, D]: the inverse of the distribution function, of uniform noise that is kept off 0."""
        return -torch.rand_like(self.mean).clamp(min=1e-7).log() * self.mean

    def log_prob(self, z):
        inside = self.log_rate - z / self.mean
        return inside.masked_fill(z < 0, -math.inf).sum(-1)

    def kl(self):
        return self.log_rate + self.mean - 1

    @staticmethod
    def prior(n, dim, truncate=None, device=None):
        refuse_truncation(truncate)
        return torch.empty(n, dim, device=device).exponential_()


class Uniform:
    """Independent uniforms on [start, start + width], both [B, D], inside the prior's [0, 1]."""

    n_params = 2

    def __init__(self, start, width):
        self.start, self.width, self.mean = start, width, start + width / 2

    @classmethod
    def from_params(cls, numbers):
        start, width = numbers.sigmoid().chunk(2, dim=-1)
        return cls(start * (1 - width), width)

    def sample(self):
        return self.start + self.width * torch.rand_like(self.width)

    def log_prob(self, z):
        outside = (z < self.start) | (z > self.start + self.width)
        return (-self.width.log()).masked_fill(outside, -math.inf).sum(-1)

    def kl(self):
        return -self.width.log()

    @staticmethod
    def prior(n, dim, truncate=None, device=None):
        refuse_truncation(truncate)
        return torch.rand(n, dim, device=device)


def refuse_truncation(truncate):
    if truncate is not None:
        raise ModelError("--truncate cuts a Gaussian prior off; this model's is another")


DISTRIBUTIONS = {"gaussian": Gaussian, "exponential": Exponential, "uniform": Uniform}


# -----------------------------------------------------------------------------------------------------------
# What all models with latents share


class LatentModel(Model):
    """Subclasses set latent_dim, likelihood, squash (to pixels) and `decode_logits`, the network from z."""

    distribution = Point  # what is known of an image's z

    def set_likelihood(self, likelihood, networks):
        check_choice("likelihood", likelihood, LIKELIHOODS)
        logits = networks.get("decoder_readout", True) or networks.get("decoder") not in CELLS
        if not logits and likelihood != "gaussian":
            raise ModelError("a decoder without a readout makes pixels, not logits: --likelihood gaussian")
        self.likelihood = likelihood
        self.to_pixels = nn.Sigmoid() if logits else nn.Identity()  # to pixels

    @property
    def device(self):
        return next(self.parameters()).device

    def negative_log_likelihood(self, raw, x):
        """−log p(x | z) for each image, [B]."""
        if self.likelihood == "bernoulli":
            return bernoulli_nll(raw, x)
        return gaussian_nll(self.to_pixels(raw), x)

    def decode(self, z, labels=None):
        """Images [B, C, H, W] in [0, 1] of latents."""
        return self.to_pixels(self.decode_logits(z, labels)).clamp(0, 1)

    @torch.no_grad()
    def reconstruct(self, x, labels=None):
        return self.decode(self.encode(x, labels), labels)

    @torch.no_grad()
    def sample_prior(self, n, labels=None, scale=1.0, truncate=None):
        """n images decoded from the prior, its latents times scale, `truncate`d at that many deviations."""
        return self.decode(
            scale * self.distribution.prior(n, self.latent_dim, truncate, self.device), labels
        )

    def latent_loss(self, numbers, x, labels, beta):
        """What `fit_latents` minimizes, a mean over images."""
        q = self.distribution.from_params(numbers)
        return (
            self.negative_log_likelihood(self.decode_logits(q.sample(), labels), x) + beta * q.kl().sum(1)
        ).mean()

    def fit_latents(self, x, epochs, lr, batch_size=None, start=None, beta=0.0, labels=None, callback=None):
        """Latents that explain images [n, C, H, W] best, by Adam with the network frozen and in eval mode.

        Returns the numbers [n, numbers * D] that `self.distribution.of` makes distributions of. They
        start from N(0, I), or from `start`; `beta` weighs the KL; all images are one batch unless
        `batch_size` says less; `callback(epoch, loss)` is called after each epoch.
        """
        was_training = self.training
        self.eval()
        rnn = any(isinstance(layer, nn.RNNBase) for layer in self.modules())
        cudnn = torch.backends.cudnn.flags(enabled=not rnn)  # its RNNs have no gradient in eval mode
        with torch.inference_mode(False), torch.enable_grad(), cudnn:
            if start is None:
                start = torch.randn(len(x), self.distribution.n_params * self.latent_dim, device=x.device)
            numbers = start.detach().clone().requires_grad_()
            optimizer = torch.optim.Adam([numbers], lr)
            for epoch in range(epochs):
                total = 0.0
                for index in torch.randperm(len(x)).to(x.device).split(batch_size or len(x)):
                    own = None if labels is None else labels[index]
                    loss = self.latent_loss(numbers[index], x[index], own, beta)
                    (numbers.grad,) = torch.autograd.grad(loss, numbers)  # and none for the network
                    optimizer.step()
                    total += loss.item() * len(index) / len(x)
                if callback:
                    callback(epoch + 1, total)
        self.train(was_training)
        return numbers.detach()


# -----------------------------------------------------------------------------------------------------------
# Autoencoder: squeeze a picture through a few numbers and draw it again (Hinton & Salakhutdinov 2006)


class Autoencoder(LatentModel):
    """x -> encoder -> z [B, latent_dim] -> decoder -> x, as every model with an encoder.

    `dense` puts a layer of so many units, with ReLU, between features and latents and another between
    latents and decoder; `squeeze` one with sigmoid before the latents alone. `label_width` is what a
    conditional model adds to both. `networks` are the arguments of make_encoder and make_decoder.
    """

    objectives = ("reconstruction",)
    has_encoder = True
    defaults = dict(epochs=20, batch_size=64, lr=1e-3, lr_schedule="constant")
    networks = (make_encoder, make_decoder)

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
        super().__init__()
        check_choice("objective", objective, self.objectives)
        self.set_likelihood(likelihood, networks)
        self.latent_dim, self.objective = latent_dim, objective
        for_decoder = {name: value for name, value in networks.items() if name.startswith("decoder")}
        for_encoder = {name: value for name, value in networks.items() if name not in for_decoder}

        self.encoder = make_encoder(image_shape, **for_encoder)
        features, inputs = self.encoder.size + label_width, latent_dim + label_width
        self.to_latent = nn.Linear(dense or squeeze or features, self.distribution.n_params * latent_dim)
        self.from_latent = nn.Identity()
        if dense:
            self.to_latent = nn.Sequential(nn.Linear(features, dense), nn.ReLU(), self.to_latent)
            self.from_latent = nn.Sequential(nn.Linear(inputs, dense), nn.ReLU())
        elif squeeze:
            self.to_latent = nn.Sequential(nn.Linear(features, squeeze), nn.Sigmoid(), self.to_latent)
        mirrored = getattr(self.encoder, "layers", None)  # of convolutions
        self.decoder = make_decoder(dense or inputs, image_shape, mirrored, **for_decoder)

    # features and raw are where a conditional model adds the label

    def features(self, x, labels=None):
        return self.encoder(x)

    def decode_logits(self, z, labels=None):
        """What the likelihood wants: logits of pixels, or the pixels themselves without a readout."""
        return self.decoder(self.from_latent(z))

    def turns(self):
        return [Turn("model", [{"params": list(self.parameters())}], self.loss)]

    def loss(self, batch, step):
        raw = self.decode_logits(self.encode(batch.x, batch.y), batch.y)
        loss = self.negative_log_likelihood(raw, batch.x).mean()
        return loss, {"loss": loss}

    def encode(self, x, labels=None):
        """z [B, latent_dim] of images; of a VAE, the mean of q(z | x)."""
        return self.to_latent(self.features(x, labels))

    def diagnose(self, split):
        """Mean squared error of the reconstructions of a split (x uint8 [n, C, H, W], y [n])."""
        errors = [(self.reconstruct(x, y) - x).square().flatten(1).mean(1) for x, y in batches(split)]
        return {"mse": torch.cat(errors).mean().item()}


def batches(split, size=500):
    """A split as (float images in [0, 1], labels), `size` at a time."""
    for start in range(0, len(split.x), size):
        yield split.batch(slice(start, start + size))


# -----------------------------------------------------------------------------------------------------------
# VAE: the encoder guesses a Gaussian over latents, the decoder explains the picture (Kingma & Welling 2014)


class VAE(Autoencoder):
    """Minimizes the negative ELBO, its KL weighted by beta (Higgins et al. 2017, eq. 4), or the IWAE bound.

    `kl_warm_up`: updates over which the KL's weight grows from 0 to beta. `free_bits`: nats of KL that each
    image and latent may spend at no further cost (Kingma et al. 2016, app. C.8, there per minibatch).
    `shift`: pixels by which training pictures are moved at random, against overfitting.
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
        if objective == "iwae" and (beta != 1 or kl_warm_up or free_bits):
            raise ModelError("--beta, --kl-warm-up, --free-bits weigh the KL of the elbo; iwae has none")
        self.beta, self.kl_warm_up, self.free_bits = beta, kl_warm_up, free_bits
        self.iwae_samples, self.shift = iwae_samples, shift

    def posterior(self, x, labels=None):
        """q(z | x)."""
        return Gaussian.from_params(self.to_latent(self.features(x, labels)))

    def loss(self, batch, step):
        if self.shift and self.training:
            batch = batch._replace(x=shifted(batch.x, self.shift))
        posterior = self.posterior(batch.x, batch.y)
        kl = posterior.kl()  # (B, D)
        if self.objective == "iwae":
            log_weights, reconstruction = self.log_weights(batch.x, batch.y, self.iwae_samples, posterior)
            loss = -iwae_bound(log_weights).mean()
        else:
            reconstruction = self.negative_log_likelihood(
                self.decode_logits(posterior.sample(), batch.y), batch.x
            )
            weight = self.beta * min(1, step / self.kl_warm_up) if self.kl_warm_up else self.beta
            loss = reconstruction.mean() + weight * kl.clamp(min=self.free_bits).sum(1).mean()
        return loss, {"loss": loss, "reconstruction": reconstruction.mean(), "kl": kl.sum(1).mean()}

    def log_weights(self, x, labels, k, posterior=None):
        """log p(x | z) p(z) / q(z | x) for k samples z of q, and their −log p(x | z); nats, both [k, B]."""
        posterior = posterior or self.posterior(x, labels)
        z = posterior.sample(k)  # (k, B, D)
        prior = Gaussian(torch.zeros_like(posterior.mean), torch.zeros_like(posterior.mean))
        raw = self.decode_logits(
            z.flatten(0, 1), None if labels is None else labels.repeat(k)
        )  # (k * B, C, H, W)
        nats = self.negative_log_likelihood(raw, x.repeat(k, 1, 1, 1)).view(k, -1)
        return prior.log_prob(z) - posterior.log_prob(z) - nats, nats

    sample = LatentModel.sample_prior

    def encode(self, x, labels=None):
        return self.posterior(x, labels).mean

    def diagnose(self, split):
        """Also the KL of each latent, and how many are active: the variance of their mean over the data is
        above 0.01 (Burda et al. 2016, sec. 5.2)."""
        posteriors = [self.posterior(x, y) for x, y in batches(split)]
        kl = torch.cat([posterior.kl() for posterior in posteriors]).mean(0)
        means = torch.cat([posterior.mean for posterior in posteriors])
        active = (means.var(0, correction=0) > 0.01).sum().item()
        found = {"active_latents": active, "kl_per_dimension": kl.tolist()} | super().diagnose(split)
        if active == 0:
            found["warning"] = "the decoder ignores z: try a lower --beta, or --kl-warm-up or --free-bits"
        return found


def iwae_bound(log_weights):
    """log of the mean of k weights [k, B], a bound on log p(x), [B] (Burda et al. 2016, eq. 8); of one, the
    ELBO."""
    return log_weights.logsumexp(0) - math.log(len(log_weights))


def amortization(model, x, labels=None, epochs=200, lr=1e-2, samples=64):
    """What a VAE loses because one encoder serves all images (Cremer et al. 2018).

    Returns two pairs, of the encoder and of Gaussians fitted to each image for the same decoder from the
    encoder's answer: their numbers [B, 2 * D] and their −ELBO in nats [B], under the same noise for both.
    """
    posterior, found = model.posterior(x, labels), []
    encoded = torch.cat([posterior.mean, posterior.log_variance], 1).detach()
    fitted = model.fit_latents(x, epochs, lr, start=encoded, beta=1.0, labels=labels)
    for numbers in (encoded, fitted):
        torch.manual_seed(0)
        q = Gaussian.from_params(numbers)
        nats = (
            sum(
                model.negative_log_likelihood(model.decode_logits(q.sample(), labels), x)
                for _ in range(samples)
            )
            / samples
        )
        found.append((numbers, (nats + q.kl().sum(1)).detach()))
    return found


def shifted(x, most):
    """Images [B, C, H, W], each moved by up to `most` whole pixels either way; what comes in is 0."""
    n, _, height, width = x.shape
    padded = F.pad(x, (most,) * 4)
    rows = torch.randint(2 * most + 1, (n, 1), device=x.device) + torch.arange(height, device=x.device)
    columns = torch.randint(2 * most + 1, (n, 1), device=x.device) + torch.arange(width, device=x.device)
    image = torch.arange(n, device=x.device)[:, None, None]
    return padded.movedim(1, 3)[image, rows[:, :, None], columns[:, None]].movedim(3, 1)


# -----------------------------------------------------------------------------------------------------------
# Conditional VAE: encoder and decoder are told the class (Sohn et al. 2015)

LABELS = ("concat", "add")


class ConditionalVAE(VAE):
    """A VAE that draws what it is asked for. An embedding of the label is concatenated to the encoder's
    features and to z, or added to z alone (`label="add"`, where it has the size of z).

    The dense layers matter: a label that meets one linear layer can only shift its q(z | x), behind a
    hidden layer it can turn and scale it to fill the prior, and samples get better.
    """

    conditional = True
    defaults = dict(epochs=30, batch_size=32, lr=2e-3, lr_schedule="cosine")

    def __init__(
        self, image_shape, n_classes, latent_dim=8, dense=256, label="concat", label_dim=16, **options
    ):
        check_choice("label", label, LABELS)
        self.label, self.n_classes = label, n_classes
        width = label_dim if label == "concat" else 0
        super().__init__(image_shape, latent_dim, dense=dense, label_width=width, **options)
        if n_classes < 2:
            raise ModelError("a conditional model needs labels of two classes or more; these data have none")
        self.embedding = nn.Embedding(n_classes, label_dim if label == "concat" else latent_dim)

    def embed(self, labels):
        if labels is None:
            raise ModelError("a conditional model needs to be told the labels")
        return self.embedding(labels)

    def features(self, x, labels=None):
        features = super().features(x)
        return torch.cat([features, self.embed(labels)], 1) if self.label == "concat" else features

    def decode_logits(self, z, labels=None):
        e = self.embed(labels)
        return super().decode_logits(torch.cat([z, e], 1) if self.label == "concat" else z + e)

    def sample(self, n, labels=None, scale=1.0, truncate=None):
        """As of a VAE; without labels, each image is of a random class."""
        if labels is None:
            labels = torch.randint(self.n_classes, (n,), device=self.embedding.weight.device)
        return super().sample(n, labels, scale, truncate)


# -----------------------------------------------------------------------------------------------------------
# Auto-decoder: no encoder; each training picture owns its z, learned with the decoder (Park et al. 2019)


class AutoDecoder(LatentModel):
    """Free latents in an embedding, with an optimizer group of their own and learning rate `latent_lr`.

    Objective "nats": −log p(x | z) plus `beta` times what the prior asks for z. "report": the distance
    |x − x̂| of a batch's pixels in 0..255, over their number, plus beta times the KL's mean over images and
    latents; it depends on the batch size.
    After training the latents are refined for `refine_epochs` and those of the test pictures found in
    `fit_epochs`, the network frozen: see `fit_latents`, in batches of `fit_batch_size` (0: all at once), the
    KL weighted by `fit_beta` (None: beta).
    """

    objectives = ("nats", "report")
    has_encoder = True  # that fits latents
    has_free_latents = True
    draws_samples = True
    has_validation_loss = (
        False  # a new picture has no latents until some are fitted, which takes too long for each epoch
    )
    defaults = dict(epochs=100, batch_size=16, lr=1e-3, lr_schedule="constant", valid_fraction=0.0)
    networks = (make_decoder,)

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
        super().__init__()
        check_choice("objective", objective, self.objectives)
        self.set_likelihood(likelihood, networks)
        self.latent_dim, self.objective, self.beta, self.latent_lr = latent_dim, objective, beta, latent_lr
        self.refine_epochs, self.fit_epochs, self.fit_lr = refine_epochs, fit_epochs, fit_lr
        self.fit_batch_size, self.fit_beta = fit_batch_size, beta if fit_beta is None else fit_beta
        self.decoder = make_decoder(latent_dim, image_shape, None, **networks)
        width = self.distribution.n_params * latent_dim
        if objective == "report":
            self.units = dict(loss="report R1", reconstruction="report R1", kl="nats, mean")
        self.latents = nn.Embedding(n_train, width)  # starts from N(0, I)
        self.register_buffer("refined", torch.full((n_train, width), math.nan))  # NaN until they are found
        self.register_buffer("test_latents", torch.full((n_test, width), math.nan))

    def turns(self):
        groups = [
            {"params": list(self.decoder.parameters())},
            {"params": list(self.latents.parameters()), "lr": self.latent_lr},
        ]
        return [Turn("model", groups, self.loss)]

    def decode_logits(self, z, labels=None):
        return self.decoder(z)

    def loss(self, batch, step):
        return self.terms(self.latents(batch.index), batch.x, self.beta)

    def terms(self, numbers, x, beta):
        """The objective for images x whose latents have these numbers, and its parts."""
        q = self.distribution.from_params(numbers)
        raw = self.decode_logits(q.sample())
        error = self.to_pixels(raw) - x
        if self.objective == "report":  # see `units`
            reconstruction, kl = 255 * error.norm() / error.numel(), q.kl().mean()
        else:
            reconstruction, kl = self.negative_log_likelihood(raw, x).mean(), q.kl().sum(1).mean()
        loss = reconstruction + beta * kl
        price = "penalty" if self.distribution is Point else "kl"
        parts = {"loss": loss, "reconstruction": reconstruction, price: kl}
        return loss, parts | {"rmse": 255 * error.square().mean().sqrt()}

    def latent_loss(self, numbers, x, labels, beta):
        return self.terms(numbers, x, beta)[0]

    @torch.no_grad()
    def evaluate_latents(self, train, test, batch_size=16):
        """The terms for the latents of the training pictures, the refined ones and those of the test
        pictures, whichever there are; means over batches of 16, which matters to `report` alone."""
        found = {}
        latents = {"train": self.latents.weight, "refined": self.refined, "test": self.test_latents}
        for name, numbers in latents.items():
            if numbers.isnan().any() or not len(numbers):
                continue
            split = test if name == "test" else train
            pairs = zip(
                numbers.split(batch_size),
                batches(test if name == "test" else train, batch_size),
                strict=True,
            )
            totals = found[name] = {}
            torch.manual_seed(0)  # the same noise whatever was drawn before
            for part, (x, _) in pairs:
                for term, value in self.terms(part, x, self.beta)[1].items():
                    totals[term] = totals.get(term, 0.0) + value.item() * len(x) / len(numbers)
        return found

    def learned_latents(self, split):
        """The means z [n, latent_dim] that were found for a split, the refined ones where there are any."""
        tables = {"train": [self.refined, self.latents.weight.detach()], "test": [self.test_latents]}
        for numbers in tables.get(split, []):
            if not numbers.isnan().any():
                return self.distribution.from_params(numbers).mean
        raise ModelError(
            f"this auto-decoder keeps no latents for {split} pictures: see --fit-epochs", status=1
        )

    def encode(self, x, labels=None):
        """The mean z [B, latent_dim] of latents fitted to images."""
        fitted = self.fit_latents(x, self.fit_epochs, self.fit_lr, self.fit_batch_size, beta=self.fit_beta)
        return self.distribution.from_params(fitted).mean

    def sample(self, n, labels=None, scale=1.0, truncate=None):
        """As of any model, but from a Gaussian with the mean and covariance of the training latents."""
        z = self.latents.weight.detach()
        noise = Gaussian.prior(n, len(z), truncate, z.device) / math.sqrt(len(z) - 1)
        return self.decode(z.mean(0) + scale * noise @ (z - z.mean(0)))  # (n, n_train) @ (n_train, D)


class VariationalAutoDecoder(AutoDecoder):
    """Each picture owns the parameters of a distribution over z, the decoder sees samples of it
    (Zadeh et al. 2019): of which, `prior` says."""

    def __init__(self, image_shape, n_train, n_test, beta=1.0, prior="gaussian", **options):
        check_choice("prior", prior, DISTRIBUTIONS)
        self.distribution = DISTRIBUTIONS[prior]
        super().__init__(image_shape, n_train, n_test, beta=beta, **options)

    sample = LatentModel.sample_prior


# -----------------------------------------------------------------------------------------------------------
# GAN: a generator learns to draw what a discriminator cannot tell from photographs (Goodfellow et al. 2014)


class GAN(LatentModel):
    """Two players, each with its own optimizer. The discriminator D scores pictures, the generator G draws.

    `encoder_layers` are D's convolutions, without them each halves the picture and doubles the channels; G
    mirrors them, unless `decoder_start` and `decoder_layers` say otherwise.
    Objective: the non-saturating losses (Goodfellow et al. 2014, sec. 3).
    Remedies, each against one trouble; RESULTS.md has what each brought:
    `gradient_penalty`: gamma of R1, gamma/2 E|grad D(x)|² on real pictures (Mescheder et al. 2018, eq. 9);
    on every 8th step alone but eightfold, as good and cheaper (Karras et al. 2020, sec. 3.1).
    `he_init`: weights for which signals keep their size, see `he_normal_`.
    `decoder_norm`: batch norm in G (Radford et al. 2016).
    """

    objectives = ("nonsaturating",)
    draws_samples = True
    has_validation_loss = False  # neither player's loss says how good the pictures are
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
        super().__init__()
        check_choice("objective", objective, self.objectives)
        self.latent_dim, self.objective = latent_dim, objective
        self.likelihood, self.to_pixels = "gaussian", nn.Identity()  # `decode_logits` makes pixels
        self.gradient_penalty = gradient_penalty

        layers = parse_layers(encoder_layers) if encoder_layers else default_layers(image_shape, 32, 4)
        judge = ConvEncoder(image_shape, layers)
        self.discriminator = nn.Sequential(judge, nn.Linear(judge.size, 1))
        told = dict(decoder_start=decoder_start, decoder_layers=decoder_layers, decoder_norm=decoder_norm)
        self.generator = nn.Sequential(make_decoder(latent_dim, image_shape, layers, **told), nn.Tanh())
        if he_init:
            self.apply(he_normal_)
        self.to(memory_format=torch.channels_last)  # the same numbers, half again as fast on a CPU

    def turns(self):
        # a momentum of 0.5: what the other player did ten steps ago is no longer true (Radford et al. 2016)
        def player(network):
            return [{"params": list(network.parameters()), "betas": (0.5, 0.999)}]

        return [
            Turn("discriminator", player(self.discriminator), self.discriminator_loss),
            Turn("generator", player(self.generator), self.generator_loss),
        ]

    def draw(self, n):
        """n fresh pictures of G in [−1, 1], as D sees them."""
        return self.generator(torch.randn(n, self.latent_dim, device=self.device))

    def score(self, x):
        """D's logits [B] for pictures in [−1, 1]: above 0, it takes them for real."""
        return self.discriminator(x).squeeze(1)

    def discriminator_loss(self, batch, step):
        x = 2 * batch.x - 1
        with torch.no_grad():
            drawn = self.draw(len(x))
        penalized = self.gradient_penalty and step % 8 == 0
        if penalized:
            x.requires_grad_()
        real, fake = self.score(x), self.score(drawn)
        loss = F.softplus(-real).mean() + F.softplus(fake).mean()
        parts = {
            "discriminator": loss,
            "discriminator_accuracy": 50 * ((real > 0).float() + (fake < 0).float()).mean(),
        }
        if penalized:
            (slope,) = torch.autograd.grad(real.sum(), x, create_graph=True)
            loss = loss + 8 * self.gradient_penalty / 2 * slope.square().flatten(1).sum(1).mean()
        return loss, parts

    def generator_loss(self, batch, step):
        loss = F.softplus(-self.score(self.draw(len(batch.x)))).mean()
        return loss, {"generator": loss}

    sample = LatentModel.sample_prior

    def decode_logits(self, z, labels=None):
        return (self.generator(z) + 1) / 2

    def diagnose(self, split):
        """How varied samples are, their mean distance over that of real pictures; and who wins."""
        x, _ = split.batch(slice(None, None, max(1, len(split.x) // 200)))  # of every class
        drawn = self.sample(len(x))
        diversity = (F.pdist(drawn.flatten(1)).mean() / F.pdist(x.flatten(1)).mean()).item()
        real, fake = self.score(2 * x - 1) > 0, self.score(2 * drawn - 1) > 0
        found = {"diversity": diversity}
        if (real.float().mean() - fake.float().mean()) > 0.98:
            found["warning"] = "the discriminator wins: no sample fools it, so the generator learns little"
        if diversity < 0.5:  # the graver of the two
            found["warning"] = "the generator draws nearly the same picture again and again (mode collapse)"
        return found


def he_normal_(layer):
    """Starts a layer so that signals keep their size on the way through ReLUs (He et al. 2015, eq. 10).
    Torch's own weights shrink them 2.4-fold at each: all of a GAN's samples begin as one gray."""
    if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d | nn.Linear):
        inputs = layer.weight[0].numel()  # that add up to one output
        if isinstance(layer, nn.ConvTranspose2d):  # (in, out, k, k): each output meets 1 of stride² taps
            inputs = layer.weight[:, 0].numel() / math.prod(layer.stride)
        nn.init.normal_(layer.weight, std=math.sqrt(2 / inputs))
        if layer.bias is not None:
            nn.init.zeros_(layer.bias)


# -----------------------------------------------------------------------------------------------------------
# Classifier: judges what the others draw


class Classifier(Model):
    """An encoder and a linear layer. `augment` moves, blurs and dims the training pictures, so that the soft
    edges of a decoder's pictures do not fool a judge that has only seen sharp ones."""

    objectives = ("cross-entropy",)
    task = "classification"
    defaults = dict(epochs=20, batch_size=64, lr=2e-3, lr_schedule="cosine")
    networks = (make_encoder,)

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
        super().__init__()
        check_choice("objective", objective, self.objectives)
        if n_classes < 2:
            raise ModelError("a classifier needs labels of two classes or more; these data have none")
        self.augment = augment
        sizes = dict(encoder_hidden=encoder_hidden, encoder_depth=encoder_depth, batch_norm=batch_norm)
        self.encoder = make_encoder(image_shape, encoder_layers=encoder_layers, **sizes, **networks)
        self.to_logits = nn.Linear(self.encoder.size, n_classes)

    def forward(self, x):
        return self.to_logits(self.encoder(x))  # (B, C, H, W) -> (B, n_classes)

    def turns(self):
        return [Turn("model", [{"params": list(self.parameters())}], self.loss)]

    def loss(self, batch, step):
        logits = self(augmented(batch.x) if self.augment and self.training else batch.x)
        loss = F.cross_entropy(logits, batch.y)
        return loss, {"loss": loss, "accuracy": 100 * (logits.argmax(1) == batch.y).float().mean()}

    @torch.no_grad()
    def predict(self, x):
        """Probability of each class, [B, n_classes]."""
        return self(x).softmax(1)


def augmented(x):
    """Images [B, C, H, W], each sheared, turned and scaled by up to about a fifth and moved by up to 7% of
    its width, then blurred and dimmed by a random amount."""
    n, device = len(x), x.device
    affine = torch.eye(2, 3, device=device).repeat(n, 1, 1)
    affine[:, :, :2] += torch.empty(n, 2, 2, device=device).uniform_(-0.2, 0.2)
    affine[:, :, 2] = torch.empty(n, 2, device=device).uniform_(-0.14, 0.14)  # of a grid from -1 to 1
    x = F.grid_sample(x, F.affine_grid(affine, x.shape, align_corners=False), align_corners=False)
    blur, dim = torch.rand(2, n, 1, 1, 1, device=device)
    return x.lerp(F.avg_pool2d(x, 3, 1, 1), blur) * (1 - dim / 2)


# -----------------------------------------------------------------------------------------------------------
# Sequence models: arithmetic learned from examples, read and written one character at a time
# (Sutskever et al. 2014; Zaremba & Sutskever 2014)

SYMBOLS = "0123456789+- "  # a token is a symbol's place in it
ANSWER = 3  # characters
PICTURE = (1, 28, 28)  # of a character
READER = "16,5,2,2 32,5,2,2"  # convolutions of the classifier that reads drawn answers


class Text2Text(Model):
    """A query, tokens [B, 5] such as "12+34", to its answer, tokens [B, 3] such as "46 ".

    One LSTM reads the query; its last state, of both directions if `bidirectional`, is shown another LSTM 3
    times, which writes the answer. `dense` puts a layer of so many units, with ReLU, between the two. With
    `attention` each step of the answer also looks back at the query: at a mean of the encoder's outputs,
    weighted by how well they fit the decoder's state (Luong et al. 2015, eq. 5 to 8, score "general").
    The other sequence models change an end: `frames` makes vectors of a query, `write` an answer of states.
    """

    objectives = ("cross-entropy",)
    task = "arithmetic"
    units = {"loss": "nats/answer"}
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
    ):
        super().__init__()
        if n_classes != len(SYMBOLS):
            raise ModelError(f"a sequence model is for the {len(SYMBOLS)} symbols of --data arithmetic")
        check_choice("objective", objective, self.objectives)
        self.directions, self.attention = 1 + bidirectional, attention
        frame, size = self.make_reader(), self.directions * encoder_hidden
        self.encoder = nn.LSTM(
            frame, encoder_hidden, encoder_depth, batch_first=True, bidirectional=bidirectional
        )
        self.between = nn.Sequential(nn.Linear(size, dense), nn.ReLU()) if dense else nn.Identity()
        self.decoder = nn.LSTM(dense or size, decoder_hidden, decoder_depth, batch_first=True)
        if attention:
            self.to_score = nn.Linear(decoder_hidden, size, bias=False)
            self.combine = nn.Linear(size + decoder_hidden, decoder_hidden)
        self.make_writer(decoder_hidden)

    def make_reader(self):
        """The layers of `frames`; returns the size of a frame."""
        return len(SYMBOLS)

    def make_writer(self, size):
        """The layers of `write`, for states of that size."""
        self.writer = nn.Linear(size, len(SYMBOLS))

    def frames(self, x):
        return F.one_hot(x, len(SYMBOLS)).float()  # (B, 5) -> (B, 5, symbols)

    def write(self, states):
        return self.writer(states)  # (B, 3, decoder_hidden) -> logits (B, 3, symbols)

    def states(self, x):
        """The decoder's states [B, 3, decoder_hidden], one for each character of the answer."""
        outputs, (hidden, _) = self.encoder(self.frames(x))  # (B, 5, size), (depth * directions, B, hidden)
        last = hidden[-self.directions :].transpose(0, 1).flatten(1)  # (B, size)
        states, _ = self.decoder(self.between(last)[:, None].repeat(1, ANSWER, 1))  # (B, 3, decoder_hidden)
        if self.attention:
            score = self.to_score(states) @ outputs.transpose(1, 2)  # (B, 3, 5)
            context = score.softmax(2) @ outputs  # (B, 3, size)
            states = self.combine(torch.cat([context, states], 2)).tanh()
        return states

    def forward(self, x):
        return self.write(self.states(x))

    def turns(self):
        return [Turn("model", [{"params": list(self.parameters())}], self.loss)]

    def loss(self, batch, step):
        logits = self(batch.x)
        loss = F.cross_entropy(logits.flatten(0, 1), batch.y.flatten(), reduction="sum") / len(batch.y)
        return loss, {"loss": loss} | right(logits.argmax(2), batch.y)

    @torch.no_grad()
    def predict(self, x):
        """Answers of queries x, as the data hold them: tokens [B, 3] or pictures [B, 3, 1, 28, 28]."""
        return self(x).argmax(2)


def right(named, y):
    """% of characters right, and of answers right as a whole; tokens [B, 3]."""
    same = (named == y).float()
    return {"characters": 100 * same.mean(), "exact": 100 * same.amin(1).mean()}


class Image2Text(Text2Text):
    """Reads pictures of the query's characters, float [B, 5, 1, 28, 28]: each goes through `encoder_layers`,
    without them through one convolution and max-pooling. Nobody tells it which digit a picture shows.

    `frame_size` squeezes each picture into so many numbers, by batch norm and tanh (0: not at all). Without
    it the LSTM adds thousands of inputs, and one update of Adam, which moves each weight by about lr, can
    change its gates by more than 1. `augment` disguises the training pictures.
    """

    defaults = Text2Text.defaults | dict(epochs=25, drawn="query")

    def __init__(
        self, n_classes, encoder_layers=None, batch_norm=False, frame_size=0, augment=False, **options
    ):
        self.encoder_layers, self.batch_norm = encoder_layers, batch_norm
        self.frame_size, self.augment = frame_size, augment
        super().__init__(n_classes, **options)

    def make_reader(self):
        if self.encoder_layers:
            reader = ConvEncoder(PICTURE, parse_layers(self.encoder_layers), self.batch_norm)
            size = reader.size
        else:
            reader = nn.Sequential(nn.Conv2d(1, 32, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten())
            size = 32 * 13 * 13
        if self.frame_size:
            to_frame = nn.Linear(size, self.frame_size, bias=False)
            reader = nn.Sequential(reader, to_frame, nn.BatchNorm1d(self.frame_size), nn.Tanh())
        self.reader = reader
        return self.frame_size or size

    def frames(self, x):
        pictures = x.flatten(0, 1)
        if self.augment and self.training:
            pictures = augmented(pictures)
        return self.reader(pictures).unflatten(0, x.shape[:2])  # (B, 5, 1, 28, 28) -> (B, 5, size)


class Text2Image(Text2Text):
    """Draws the answer's characters, float [B, 3, 1, 28, 28], each a ConvDecoder's picture of a state.

    The squared error is least at the mean of all pictures of a symbol. Whether a drawn answer is right tells
    `reader`, a classifier of the symbols that a turn of its own trains on the true answers' pictures.
    `spelling` weighs a cross-entropy: the states that are drawn must spell the answer as well. Handwriting
    is drawn anew each time, so squared error alone says little of which symbol was meant.
    """

    objectives = ("mse",)
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
        self.decoder_start, self.decoder_layers = decoder_start, decoder_layers
        self.decoder_norm, self.spelling = decoder_norm, spelling
        super().__init__(n_classes, objective, dense=dense, **options)
        self.reader = Classifier(PICTURE, n_classes, encoder_layers=READER)

    def make_writer(self, size):
        layers = parse_layers(self.decoder_layers, (4, 5))
        self.writer = ConvDecoder(size, PICTURE, tuple(self.decoder_start), layers, self.decoder_norm)
        self.speller = nn.Linear(size, len(SYMBOLS)) if self.spelling else None

    def write(self, states):
        return self.writer(states.flatten(0, 1)).sigmoid().unflatten(0, states.shape[:2])

    def turns(self):
        own = [p for name, p in self.named_parameters() if not name.startswith("reader.")]
        reader = list(self.reader.parameters())
        return [
            Turn("reader", [{"params": reader}], self.reader_loss),
            Turn("model", [{"params": own}], self.loss),
        ]

    def reader_loss(self, batch, step):
        pictures = Batch(batch.y.flatten(0, 1), solve_queries(batch.x).flatten(), None)
        loss, parts = self.reader.loss(pictures, step)
        return loss, {"reader": parts["accuracy"]}

    def loss(self, batch, step):
        """Squared error of an answer, a Gaussian's nats less its constant, and of a pixel."""
        states = self.states(batch.x)
        error = gaussian_nll(self.write(states), batch.y).mean()
        parts = {"loss": error, "mse": error / batch.y[0].numel()}
        if self.spelling:
            parts["spelling"] = F.cross_entropy(self.speller(states).transpose(1, 2), solve_queries(batch.x))
            parts["loss"] = error + self.spelling * parts["spelling"]
        return parts["loss"], parts

    @torch.no_grad()
    def predict(self, x):
        return self(x)

    @torch.no_grad()
    def read(self, pictures):
        """Tokens [B, 3] of answers' pictures, as the reader names them."""
        return self.reader(pictures.flatten(0, 1)).argmax(1).unflatten(0, pictures.shape[:2])

    def diagnose(self, split):
        """The drawn answers as the reader reads them, and what it names right of true pictures."""
        read = [(self.read(self.predict(x)), self.read(y), solve_queries(x)) for x, y in batches(split)]
        drawn, shown, truth = (torch.cat(tokens) for tokens in zip(*read, strict=True))
        found = right(drawn, truth) | {"reader": right(shown, truth)["characters"]}
        return {name: value.item() for name, value in found.items()}


def solve_queries(x):
    """What queries, tokens [B, 5], come to: tokens [B, 3], for the reader's pictures and for spelling."""
    texts = ("".join(SYMBOLS[token] for token in query) for query in x.tolist())
    values = [sum(map(int, text.replace("-", "+-").split("+"))) for text in texts]  # 5-7 is 5 + -7
    answers = [[SYMBOLS.index(symbol) for symbol in str(value).ljust(ANSWER)] for value in values]
    return torch.tensor(answers, device=x.device)


# -----------------------------------------------------------------------------------------------------------
# The table, and what keeps a model in a file

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


def constructor_defaults(model):
    """The keyword arguments of MODELS[model] with their defaults, its own and those it passes on."""
    cls = MODELS[model]
    found = {}
    for network in getattr(cls, "networks", ()):
        takes = inspect.signature(network).parameters
        found |= {name: p for name, p in takes.items() if p.default is not p.empty}
    for parent in reversed(cls.__mro__):
        if issubclass(parent, nn.Module) and "__init__" in vars(parent) and parent is not nn.Module:
            found |= inspect.signature(parent.__init__).parameters
    return {name: p.default for name, p in found.items() if name != "self" and p.kind is not p.VAR_KEYWORD}


def build(model, **arguments):
    """MODELS[model](**arguments), which remembers how to build it again."""
    built = MODELS[model](**arguments)
    built.recipe = {"model": model, "arguments": arguments}
    return built


def save(file, model, **more):
    """Weights and what `load` needs to rebuild the model; `more` may hold tensors and plain types."""
    torch.save({**model.recipe, "weights": model.state_dict(), **more}, file)


def read_checkpoint(path, device="cpu"):
    """The dict that `save` wrote. ModelError where the file is not one."""
    try:
        checkpoint = torch.load(path, map_location=device, weights_only=True)
        if checkpoint.keys() >= {"model", "arguments", "weights"}:
            return checkpoint
        reason = None
    except FileNotFoundError:
        raise
    except Exception as error:  # a broken file makes torch raise anything from IndexError to OSError
        reason = error
    raise ModelError(f"{path} is not a checkpoint of this project, or is damaged", status=1) from reason


def load(path, device="cpu"):
    """The model of a checkpoint, in eval mode."""
    checkpoint = read_checkpoint(path, device)
    try:
        model = build(checkpoint["model"], **checkpoint["arguments"]).to(device)
        model.load_state_dict(checkpoint["weights"])
    except (KeyError, TypeError, RuntimeError, ModelError) as error:
        raise ModelError(f"{path} holds a model that this version cannot build", status=1) from error
    return model.eval()
