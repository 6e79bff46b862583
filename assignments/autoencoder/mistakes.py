"""Typical mistakes in the tasks of this folder, and other right answers. Not for students.

An entry is a hint after "#", then a change to our function as in a diff: a phrase of it after "-", and what
replaces it after "+". A phrase is a line or less and occurs once; a change may have several of them.
"""

MISTAKES = {
    "1.1": """
        # padding counts on both sides: 2 * padding.
        - 2 * padding
        + padding
        # + 1 is missing: a kernel as large as the image still fits once.
        - // stride + 1
        + // stride
        # the division by the stride is rounded down.
        - (side + 2 * padding - kernel) // stride + 1
        + -(-(side + 2 * padding - kernel) // stride) + 1
        # the stride is not used.
        - // stride + 1
        + // 1 + 1
        # each layer starts where the one before it ended.
        - _, *sides = shapes[-1]
        + _, *sides = image_shape
        # the height is used for the width as well.
        - shapes.append((channels, height, width))
        + shapes.append((channels, height, height))
        # a side of 0 is refused too.
        - >= 1
        + >= 0
        # both sides count: refuse where the smaller falls below 1.
        - min(height, width)
        + max(height, width)
        # the shape before the first convolution is missing.
        - return shapes
        + return shapes[1:]
    """,
    "1.2": """
        # the layers are not reversed.
        - mirrored[::-1]
        + mirrored
        # each layer makes the channels that its convolution saw, not those that it made.
        - for (channels, *sides), (_, kernel
        + for (_, *sides), (channels, kernel
        # there is no output padding: a row that the stride dropped does not come back.
        - % stride for
        + * 0 for
        # the output padding has the padding of both sides.
        - side + 2 * padding - kernel
        + side + padding - kernel
        # the decoder starts from the shape after the last convolution.
        - return shapes[-1]
        + return shapes[0]
        # the output padding is what the size before the convolution leaves, not the size after it.
        - zip(shapes[:-1], layers, strict=True)
        + zip([(a[0], *b[1:]) for a, b in zip(shapes, shapes[1:])], layers, strict=True)
    """,
    "1.3": """
        # columns are read instead of rows.
        - x.transpose(1, 2).flatten(2)
        + x.permute(0, 3, 1, 2).flatten(2)
        # a row holds all channels: put the rows before the channels, then flatten.
        - x.transpose(1, 2).flatten(2)
        + x.reshape(len(x), x.shape[2], -1)
        # the image is read from the bottom.
        - x.transpose(1, 2).flatten(2)
        + x.transpose(1, 2).flatten(2).flip(1)
        # this is the cell state of the LSTM: the hidden state is the first of the pair.
        - state[0] if
        + state[1] if
        # this is the state of the first layer.
        - hidden[-self.directions :]
        + hidden[: self.directions]
        # only one direction is kept.
        - hidden[-self.directions :]
        + hidden[-1:]
        # the states of all layers are kept: return the last layer's alone.
        - hidden[-self.directions :]
        + hidden
        # the directions of each image belong side by side: transpose before you flatten.
        - last.transpose(0, 1).flatten(1)
        + last.reshape(last.shape[1], -1)
        # the last output is not the last state of both directions: the backward one ends at the first row.
        - return last.transpose(0, 1).flatten(1)
        + return outputs[:, -1]
        # the outputs are averaged over rows: keep those of every row.
        - outputs.flatten(1)
        + outputs.mean(1)
        # the batch is read in reverse: image i belongs in row i.
        - self.rnn(rows)
        + self.rnn(rows.flip(0))
    """,
    "1.4": """
        # z is shown at the first step alone.
        - .expand(-1, height, -1)
        + * (torch.arange(height) == 0).float()[None, :, None]
        # inputs() is not used.
        - self.inputs(z)[:, None]
        + F.pad(z, (0, self.rnn.input_size - z.shape[1]))[:, None]
        # each output is a row of all channels: rows and channels must change places.
        - rows.unflatten(2, (channels, width)).transpose(1, 2)
        + rows.reshape(len(rows), channels, height, width)
        # the image is upside down.
        - return rows.unflatten
        + return rows.flip(1).unflatten
        # each row is (channels, width), not (width, channels).
        - rows.unflatten(2, (channels, width)).transpose(1, 2)
        + rows.unflatten(2, (width, channels)).permute(0, 3, 1, 2)
        # a sigmoid does not belong here: these are logits.
        - return rows.unflatten
        + return rows.sigmoid().unflatten
    """,
    "1.5": """
        # a mean over pixels where a sum is wanted.
        - .sum(1)
        + .mean(1)
        # a sum over the batch as well: return that of each image, [B].
        - .flatten(1).sum(1)
        + .sum()
        # halved: it is the squared error itself.
        - .sum(1)
        + .sum(1) / 2
        # the absolute error: square it.
        - .square()
        + .abs()
        # the root of the sum: leave it out.
        - .sum(1)
        + .sum(1).sqrt()
        # only one dimension is summed: flatten all but the first.
        - .flatten(1).sum(1)
        + .sum(1)
        # a mean over the batch as well: return the sum of each image, [B].
        - .flatten(1).sum(1)
        + .mean()
    """,
    "1.6": """
        # a sum over images: take the mean.
        - batch.x).mean()
        + batch.x).sum()
        # the target is the image, not the reconstruction.
        - self.negative_log_likelihood(logits, batch.x)
        + self.negative_log_likelihood(logits, logits.detach())
        # the arguments of negative_log_likelihood are exchanged: the decoder's output comes first.
        - self.negative_log_likelihood(logits, batch.x)
        + self.negative_log_likelihood(batch.x, logits)
        # the code is detached: the encoder would not learn.
        - self.encode(batch.x, batch.y)
        + self.encode(batch.x, batch.y).detach()
        # the mean of the means of batches: the last batch is smaller, so weigh by images.
        - torch.cat(errors).mean()
        + torch.stack([error.mean() for error in errors]).mean()
        # a sum over pixels: mse is of one pixel.
        - .flatten(1).mean(1)
        + .flatten(1).sum(1)
        # the root is taken: mse has none.
        - torch.cat(errors).mean().item()
        + torch.cat(errors).mean().sqrt().item()
        # the absolute error: square it.
        - .square()
        + .abs()
        # only the last batch counts.
        - torch.cat(errors)
        + errors[-1]
    """,
    "1.7": """
        # the mean of the means of batches: weigh each by its images.
        - value.item() * len(x) / len(split.x)
        + value.item() / 3
        # a sum over batches: divide by the number of images.
        - value.item() * len(x) / len(split.x)
        + value.item() * len(x)
        # the model is not put into eval mode.
        - model.eval()
        + pass
        # gradients are computed: use torch.inference_mode.
        - torch.inference_mode()
        + torch.enable_grad()
        # step 0 is not the end of training: with a warm-up the KL would have no weight.
        - math.inf
        + 0
        # the seed is not 0: each epoch would meet other noise.
        - torch.manual_seed(0)
        + torch.manual_seed(1)
        # a model without a validation loss has none to evaluate: skip it.
        - if model.has_validation_loss:
        + if True:
        # the diagnosis is missing.
        - return means | model.diagnose(split)
        + return means
    """,
}

RIGHT_ANSWERS = {
    "1.1": """
        # a new list each time
        - shapes.append((channels, height, width))
        + shapes = shapes + [(channels, height, width)]
    """,
    "1.3": """
        # torch.cat of the directions
        - last.transpose(0, 1).flatten(1)
        + torch.cat(list(last), dim=-1)
        # permute and reshape
        - x.transpose(1, 2).flatten(2)
        + x.permute(0, 2, 1, 3).reshape(x.shape[0], x.shape[2], -1)
    """,
    "1.4": """
        # repeat
        - .expand(-1, height, -1)
        + .repeat(1, height, 1)
    """,
    "1.5": """
        # F.mse_loss
        - (mean - x).square().flatten(1).sum(1)
        + F.mse_loss(mean, x, reduction="none").sum(dim=(1, 2, 3))
    """,
    "1.6": """
        # totals and counts
        - return {"mse": torch.cat(errors).mean().item()}
        + total = sum(float(error.sum()) for error in errors)
        + return {"mse": total / len(split.x)}
    """,
    "1.7": """
        # weights first
        - value.item() * len(x) / len(split.x)
        + float(value) * (len(x) / len(split.x))
    """,
}
