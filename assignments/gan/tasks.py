"""Assignment 6: the GAN, against the VAE."""

from types import SimpleNamespace

import torch
from probing import About, Assignment, train
from torch import nn

assignment = Assignment(extras=["datasets/mnist10k.npz"])
SMALL = dict(latent_dim=3, encoder_layers="4,4,2,1 6,4,2,1", he_init=False)  # he_normal_ is a task


def gan(files, draw, **options):
    """A small GAN, whose generator makes the same images each time, and a batch."""
    model = files.models.GAN((1, 8, 8), decoder_norm=False, **SMALL, **options)
    draw.fill(model, scale=3)
    images = model.generator(draw.normal(5, 3))
    model.generate = lambda n: images[:n]
    return model, files.models.Batch(draw.uniform(5, 1, 8, 8), torch.zeros(5).long(), None)


# -----------------------------------------------------------------------------------------------------------
assignment.task(
    "6.1",
    "models.GAN.discriminator_loss",
    """
    the loss of the discriminator on the batch, in [−1, 1] as it sees images, and on as many generated
    images, through which no gradient reaches the generator (eq. 1); its terms are {"discriminator": this
    loss, "discriminator_accuracy": the percentage of images that it takes for what they are}. In every
    PENALTY_INTERVAL-th update the penalty, times the interval, is added to the loss, not to the term
    (eq. 2).
    """,
)


@assignment.part(10, "the loss on both kinds of image")
def discriminator(files, draw):
    model, batch = gan(files, draw, gradient_penalty=0.0)
    loss, terms = model.discriminator_loss(batch, 3)
    return {
        "loss": loss,
        "discriminator": terms["discriminator"],
        "discriminator_accuracy": terms["discriminator_accuracy"],
    }


@assignment.part(6, "the generator gets no gradient")
def no_gradient(files, draw):
    model, batch = gan(files, draw, gradient_penalty=0.0)
    model.discriminator_loss(batch, 3)[0].backward()
    norms = [p.grad.norm() for p in model.discriminator.parameters() if p.grad is not None]
    of_generator = [name for name, p in model.generator.named_parameters() if p.grad is not None]
    return {
        "parameters of the generator with a gradient": len(of_generator),
        "norm of the discriminator's gradient": sum(norms),
    }


@assignment.part(9, "the gradient penalty")
def penalty(files, draw):
    state = draw.random.get_state()
    outputs = {}
    for step in (0, 4, 8):
        draw.random.set_state(state)
        model, batch = gan(files, draw, gradient_penalty=2.0)
        loss, terms = model.discriminator_loss(batch, step)
        outputs[f"loss in step {step}"] = loss
        outputs[f"the term in step {step}"] = terms["discriminator"]
    (gradient,) = torch.autograd.grad(loss, model.discriminator[1].weight)
    return outputs | {"gradient with the penalty": gradient.flatten()[:20]}


# -----------------------------------------------------------------------------------------------------------
assignment.task(
    "6.2",
    "models.GAN.generator_loss",
    """
    the non-saturating loss of the generator on as many generated images as the batch has (eq. 3), and
    {"generator": it}.
    """,
)


@assignment.part(10, "the non-saturating loss")
def generator(files, draw):
    model, batch = gan(files, draw)
    loss, terms = model.generator_loss(batch, 0)
    gradient, *_ = torch.autograd.grad(loss, list(model.generator.parameters()), allow_unused=True)
    slope = "no gradient" if gradient is None else gradient.flatten()[:20]
    return {"loss": loss, "names": ", ".join(terms), "gradient of the generator": slope}


# -----------------------------------------------------------------------------------------------------------
assignment.task(
    "6.3",
    "models.GAN.turns",
    """
    two Turns, of the discriminator and then of the generator, each with a group of this player's parameters
    and betas (0.5, 0.999), and with this player's loss.
    """,
)


@assignment.part(8, "each player has its own parameters and loss")
def turns(files, draw):
    model = files.models.GAN((1, 8, 8), **SMALL)
    players = {id(parameter): name.split(".")[0] for name, parameter in model.named_parameters()}
    outputs = {}
    for number, turn in enumerate(model.turns(), 1):
        parameters = [players[id(p)] for group in turn.param_groups for p in group["params"]]
        betas = [group.get("betas") for group in turn.param_groups]
        of_players = f"{len(parameters)} of {', '.join(sorted(set(parameters)))}"
        outputs[f"turn {number}"] = f"{of_players}; betas {betas}; {turn.loss.__name__}"
    return outputs


# -----------------------------------------------------------------------------------------------------------
assignment.task(
    "6.4",
    "models.he_normal_",
    """
    initializes a convolution, a transposed convolution or a linear layer: normal weights of deviation
    sqrt(2 / fan-in), where the fan-in is the number of inputs that one output sums, and biases 0 (eq. 4).
    Other layers stay as they are.
    """,
)


@assignment.part(12, "the deviation for each kind of layer")
def initialization(files, draw):
    layers = {
        "linear": nn.Linear(200, 90),
        "convolution": nn.Conv2d(24, 30, 5),
        "transposed, stride 2": nn.ConvTranspose2d(24, 30, 4, 2, 1),
        "transposed, stride 1": nn.ConvTranspose2d(24, 30, 3),
    }
    outputs = {}
    for name, layer in layers.items():
        files.models.he_normal_(layer)
        weight = layer.weight.detach()
        standardized = weight / weight.std()
        outputs[f"{name}: log of the deviation"] = About(weight.std().log(), 0.05)
        outputs[f"{name}: mean over deviation"] = About(standardized.mean(), 0.06)
        outputs[f"{name}: kurtosis"] = About((standardized**4).mean(), 0.45)
        outputs[f"{name}: biases are 0"] = str(bool((layer.bias == 0).all()))
    files.models.he_normal_(nn.Linear(3, 2, bias=False))
    norm = nn.BatchNorm2d(3)
    try:
        files.models.he_normal_(norm)
    except Exception as error:
        return outputs | {"batch norm": f"raises {type(error).__name__}"}
    return outputs | {"batch norm": "stays" if (norm.weight == 1).all() else "changes"}


# -----------------------------------------------------------------------------------------------------------
assignment.task(
    "6.5",
    "models.GAN.diagnose",
    """
    {"diversity": the mean distance between two samples over that between two real images x (eq. 5)}, with a
    "warning" that contains the word "collapse" where it is below 0.5; else one with the word "wins" where
    the share of x that the discriminator takes for real, less that of the samples, is above 0.98.
    """,
    keep=2,
)


@assignment.part(16, "diversity and warnings")
def diagnosis(files, draw):
    split = files.data.Split((255 * draw.uniform(40, 1, 4, 4)).byte(), torch.zeros(40).long())
    cases = {  # samples, and the discriminator's logits
        "varied": (draw.uniform(60, 1, 4, 4, low=0.1, high=0.8), lambda x: torch.zeros(len(x)) + 0.1),
        "nearly the same": (0.3 * draw.uniform(60, 1, 4, 4), lambda x: torch.zeros(len(x))),
        "recognized": (draw.uniform(60, 1, 4, 4) > 0.8, lambda x: (x.mean((1, 2, 3)) + 0.4).sign()),
    }
    outputs = {}
    for name, (samples, discriminate) in cases.items():
        model = SimpleNamespace(sample=lambda n, x=samples: x[:n].float(), discriminate=discriminate)
        diagnosis = files.models.GAN.diagnose(model, split)
        warning = diagnosis.get("warning", "")
        words = [word for word in ("collapse", "wins") if word in warning]
        outputs[f"{name}: diversity"] = diagnosis["diversity"]
        outputs[f"{name}: words of the warning"] = ", ".join(words) or "none"
    return outputs


# -----------------------------------------------------------------------------------------------------------
assignment.task(
    "6.6",
    "models.Gaussian.prior",
    """
    z [n, dim] from N(0, I); with `truncate`, from its truncation to ± so many standard deviations, as if
    what lies beyond were drawn again (eq. 6).
    """,
)


@assignment.part(10, "normal, and truncated")
def prior(files, draw):
    z = files.models.Gaussian.prior(30000, 2)
    cut = files.models.Gaussian.prior(30000, 2, 1.0)
    return {
        "shapes": f"{list(z.shape)}, {list(cut.shape)}",
        "deviation": About(z.std(), 0.03),
        "deviation, truncated to 1": About(cut.std(), 0.03),
        "all within 1, truncated to 1": str(bool(cut.abs().max() <= 1)),
        "share at the edge, truncated to 1": About((cut.abs() > 0.999).float().mean(), 0.01),
    }


# -----------------------------------------------------------------------------------------------------------
assignment.task(
    "6.7",
    "sample.interpolate_samples",
    """
    image_grid(images [rows, n, C, H, W], title): each row decodes n latents on the straight line from one
    sample of N(0, I) to another (eq. 7). `scale` multiplies the samples, `truncate` is for `Gaussian.prior`.
    """,
)


@assignment.part(6, "a straight line between two samples")
def interpolation(files, draw):
    files.sample.image_grid = lambda images, *title, **options: images
    ends = draw.normal(4, 2, 3)
    calls = []

    def prior(n, dim, truncate=None, device=None):
        calls.append(f"{n}, {dim}, {truncate}")
        return ends[(len(calls) - 1) % 4][:n]

    files.models.Gaussian.prior = staticmethod(prior)
    model = SimpleNamespace(latent_dim=3, conditional=False)
    model.decode = lambda z, labels=None: z.view(-1, 1, 1, 3)
    run = SimpleNamespace(model=model, name="run")
    images = files.sample.interpolate_samples(run, n=5, rows=2, scale=2.0, truncate=1.5)
    return {"asked of the prior: n, dim, truncate": calls[0], "latents, row by row": images}


# -----------------------------------------------------------------------------------------------------------
assignment.task("6.8", "", "the GAN trains.", seconds=120)


@assignment.part(13, "train.py, 300 updates on 14 x 14 pixels: samples are neither all alike nor noise")
def trains(files, draw):
    flags = "--model gan --image-size 14 --encoder-layers 16,4,2,1 --no-decoder-norm --steps 300 --lr 2e-3"
    diversity = train(files, flags)["train"]["diversity"]
    return {"diversity from 0.5 to 1.5": str(0.5 < diversity < 1.5)}
