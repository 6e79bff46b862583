"""Assignment 1: autoencoders of convolutions and of recurrent networks."""

from types import SimpleNamespace

import torch
from probing import Assignment, train

assignment = Assignment(extras=["datasets/mnist10k.npz"])


# -----------------------------------------------------------------------------------------------------------
assignment.task(
    "1.1",
    "models.conv_shapes",
    """
    the shape (channels, height, width) before each convolution and after the last one (eq. 1). Where a side
    falls below 1, raise ModelError, for which `require` serves.
    """,
)


@assignment.part(8, "shapes with strides and paddings, of an image that is not square")
def shapes(files, draw):
    stacks = [[(4, 3, 1, 0)], [(8, 4, 2, 1), (16, 4, 2, 1)], [(3, 5, 3, 2), (6, 3, 2, 0), (2, 2, 1, 1)]]
    outputs = {}
    for image_shape in ((1, 28, 28), (3, 33, 17)):
        for layers in stacks:
            shapes = files.models.conv_shapes(image_shape, layers)
            outputs[f"{image_shape}, {layers}"] = str([tuple(map(int, shape)) for shape in shapes])
    return outputs


@assignment.part(2, "convolutions that leave nothing are refused")
def refusal(files, draw):
    cases = {
        "5 x 9 pixels, kernels of 5 and 3": ((1, 5, 9), [(4, 5, 1, 0), (4, 3, 1, 0)]),
        "5 x 5 pixels, a kernel of 6": ((1, 5, 5), [(4, 6, 1, 0)]),
        "5 x 5 pixels, a kernel of 5": ((1, 5, 5), [(4, 5, 1, 0)]),
    }
    outputs = {}
    for name, (image_shape, layers) in cases.items():
        try:
            outputs[name] = str(files.models.conv_shapes(image_shape, layers))
        except files.models.ModelError:
            outputs[name] = "ModelError"
    return outputs


# -----------------------------------------------------------------------------------------------------------
assignment.task(
    "1.2",
    "models.mirror",
    """
    the transposed convolutions that undo `layers`: the shape that they start from, and for each one
    (channels, kernel, stride, padding, output padding), where the output padding is a pair, of rows and of
    columns (eq. 2).
    """,
)


@assignment.part(12, "the convolutions in reverse, with the rows that a stride dropped")
def mirrored(files, draw):
    files.models.conv_shapes = lambda image_shape, layers: [(1, 28, 27), (8, 14, 13), (16, 6, 6), (5, 3, 2)]
    start, layers = files.models.mirror((1, 28, 27), [(8, 4, 2, 1), (16, 3, 2, 0), (5, 3, 2, 1)])
    return {"start": str(tuple(start)), "layers": str([tuple(layer) for layer in layers])}


# -----------------------------------------------------------------------------------------------------------
assignment.task(
    "1.3",
    "models.RNNEncoder.forward",
    """
    images [B, C, H, W], read as sequences of H rows of C * W numbers, become features [B, size]: every
    output for sequence "full", else the final hidden state of the last layer, of both directions if there
    are two.
    """,
    leaks="models.Text2Text.states",
)


def encode(files, draw, **options):
    sizes = dict(cell="gru", hidden=5, depth=1, bidirectional=False, sequence="last")
    encoder = files.models.RNNEncoder((2, 4, 3), **(sizes | options))
    return draw.fill(encoder, scale=2)(draw.uniform(3, 2, 4, 3))


@assignment.part(7, "rows in order, the last state; LSTM and GRU")
def last_state(files, draw):
    return {"GRU": encode(files, draw), "LSTM": encode(files, draw, cell="lstm")}


@assignment.part(5, "layers and directions")
def directions(files, draw):
    return {
        "3 layers": encode(files, draw, depth=3),
        "both directions": encode(files, draw, bidirectional=True),
        "LSTM, 2 layers, both directions": encode(files, draw, cell="lstm", depth=2, bidirectional=True),
    }


@assignment.part(3, "the full sequence")
def full_sequence(files, draw):
    return {
        "full": encode(files, draw, sequence="full"),
        "full, both directions": encode(files, draw, sequence="full", bidirectional=True),
    }


# -----------------------------------------------------------------------------------------------------------
assignment.task(
    "1.4",
    "models.RNNDecoder.forward",
    """
    feeds inputs(z) to the RNN once for each of H rows; the readout of each output is a row of C * W numbers.
    Returns [B, C, H, W].
    """,
)


@assignment.part(12, "z at each step, rows back to an image")
def decode(files, draw):
    decoder = files.models.RNNDecoder(3, (2, 4, 3), "gru", 5, 1, 6, True)
    return {"image": draw.fill(decoder, scale=2)(draw.normal(2, 3))}


# -----------------------------------------------------------------------------------------------------------
assignment.task(
    "1.5", "models.gaussian_nll", "squared error summed over the pixels of each image, [B] (eq. 3)."
)


@assignment.part(8, "a sum for each image")
def squared_error(files, draw):
    return {"nll": files.models.gaussian_nll(draw.uniform(3, 2, 4, 4), draw.uniform(3, 2, 4, 4))}


# -----------------------------------------------------------------------------------------------------------
assignment.task(
    "1.6",
    "models.Autoencoder.loss models.Autoencoder.diagnose",
    """
    the mean over images of negative_log_likelihood, of what the decoder makes of each image's code, and
    {"loss": it} (eq. 4). In diagnose {"mse": the mean squared error of a pixel over a whole split}, which
    comes in batches, the last of which is smaller.
    """,
    leaks="models.VAE.loss models.LatentModel.latent_loss",
)


@assignment.part(6, "the loss")
def loss(files, draw):
    sizes = dict(encoder="mlp", encoder_hidden=7, decoder="mlp", decoder_hidden=7)
    model = draw.fill(files.models.Autoencoder((1, 6, 6), 3, **sizes), scale=2)
    files.models.gaussian_nll = lambda a, b: (a - 2 * b).flatten(1).sum(1)
    batch = files.models.Batch(draw.uniform(5, 1, 6, 6), torch.zeros(5).long(), None)
    loss, terms = model.loss(batch, 0)
    (gradient,) = torch.autograd.grad(loss, model.to_latent.bias, allow_unused=True)
    return {
        "loss": loss,
        "names": ", ".join(terms),
        "slope": "no gradient" if gradient is None else gradient,
    }


@assignment.part(6, "mean squared error over batches of unequal size")
def mse(files, draw):
    x = (255 * draw.uniform(1203, 1, 3, 3)).byte()
    x[1000:] //= 3
    model = SimpleNamespace(reconstruct=lambda x, y=None: x * 0.9 - 0.1)
    split = files.data.Split(x, torch.zeros(len(x)).long())
    return {"mse": files.models.Autoencoder.diagnose(model, split)["mse"]}


# -----------------------------------------------------------------------------------------------------------
assignment.task(
    "1.7",
    "train.evaluate",
    """
    the mean over all examples of each term of model.loss on a split, whose last batch is smaller, together
    with what model.diagnose returns: in eval mode, without gradients, at step infinity, with torch's seed
    set to 0. A model without a validation loss has its diagnosis alone.
    """,
    leaks="models.AutoDecoder.mean_terms",
)


@assignment.part(12, "means over all examples, eval mode, no gradient")
def evaluate(files, draw):
    x = (255 * draw.uniform(1203, 1, 2, 2)).byte()
    x[1000:] //= 3
    split = files.data.Split(x, torch.zeros(len(x)).long())
    modes = []

    class Model(torch.nn.Module):
        has_validation_loss = True

        def loss(self, batch, step):
            modes.append(f"{self.training}, {torch.is_grad_enabled()}, {step}")
            return None, {"loss": batch.x.mean(), "noise": torch.rand(())}

        def diagnose(self, split):
            return {"mse": 7.0}

    means = files.train.evaluate(Model().train(), split)
    without = Model()
    without.has_validation_loss = False
    outputs = {"training mode, gradients, step": modes[0], "names": ", ".join(sorted(means))}
    outputs["names without a validation loss"] = ", ".join(sorted(files.train.evaluate(without, split)))
    return outputs | {name: means[name] for name in sorted(means)}


# -----------------------------------------------------------------------------------------------------------
assignment.task("1.8", "", "the autoencoders train.", seconds=120)


@assignment.part(9, "train.py, 250 updates with a GRU, 14 x 14 pixels: squared error of test digits below 6")
def trains(files, draw):
    flags = (
        "--model ae --encoder gru --encoder-hidden 64 --decoder mlp --image-size 14 --steps 250 --lr 5e-3"
    )
    return {"test loss below 6": str(train(files, flags + " --clip 1")["test"]["loss"] < 6)}


@assignment.part(10, "train.py, 60 updates with convolutions, 14 x 14 pixels: squared error below 11")
def trains_convolutions(files, draw):
    flags = "--model ae --encoder-layers 4,4,2,1 --decoder conv --image-size 14 --steps 60 --lr 5e-3"
    return {"test loss below 11": str(train(files, flags)["test"]["loss"] < 11)}
