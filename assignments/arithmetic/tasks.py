"""Assignment 7: arithmetic, read and written one character at a time."""

import torch
from probing import About, Assignment, train

extras = ["datasets/mnist10k.npz"]
assignment = Assignment(extras)
SYMBOLS = "0123456789+- "


def as_tokens(texts, length):
    return torch.tensor([[SYMBOLS.index(symbol) for symbol in text.ljust(length)] for text in texts])


# -----------------------------------------------------------------------------------------------------------
assignment.task(
    "7.1",
    "data.encode data.decode_text",
    """
    tokens int64 [n, length] of n texts, padded with blanks on the right, where a token is the place of a
    symbol in ALPHABET; and the text of tokens [length], with its blanks.
    """,
)


@assignment.part(8, "there and back")
def encode(files, draw):
    tokens = files.data.encode(["12+34", "5-7", "0+0", "99-99"], 5)
    kind = tokens.dtype if isinstance(tokens, torch.Tensor) else type(tokens).__name__
    text = files.data.decode_text(torch.tensor([3, 11, 10, 12, 12]))
    return {"tokens": tokens, "type": str(kind), "text": repr(text)}


# -----------------------------------------------------------------------------------------------------------
assignment.task(
    "7.2",
    "models.solve_queries",
    """
    the answers, tokens [B, 3] with blanks on the right, of queries, tokens [B, 5] such as "12+34" or "5-7".
    """,
)


@assignment.part(12, "sums, differences, signs and blanks")
def answers(files, draw):
    queries = ["12+34", "5-7", "0+0", "99+99", "0-99", "10-10", "7+5", "40-9"]
    pairs = zip(draw.integers(100, 9).tolist(), draw.integers(100, 9).tolist(), "+-+-+-+-+", strict=True)
    more = [f"{a}{sign}{b}" for a, b, sign in pairs]
    return {
        "answers of 12+34, 5-7, 0+0, ...": files.models.solve_queries(as_tokens(queries, 5)),
        "answers of others": files.models.solve_queries(as_tokens(more, 5)),
    }


# -----------------------------------------------------------------------------------------------------------
assignment.task(
    "7.3",
    "models.answer_accuracy models.Text2Text.loss",
    """
    {"characters", "exact"}: the percentage of characters that are right, and of answers that are right as a
    whole. In loss the cross-entropy of an answer, summed over its characters and averaged over the batch
    (eq. 1), and {"loss": it} with the accuracy of the most likely tokens.
    """,
)


@assignment.part(6, "characters and whole answers")
def accuracy(files, draw):
    y = draw.integers(13, 8, 3)
    tokens = torch.where(draw.uniform(8, 3) < 0.3, (y + 1) % 13, y)
    return dict(files.models.answer_accuracy(tokens, y))


@assignment.part(8, "the loss of an answer")
def loss(files, draw):
    model = draw.fill(files.models.Text2Text(13, encoder_hidden=5, decoder_hidden=5), scale=2)
    logits = draw.normal(7, 3, 13)
    model.forward = lambda x: logits
    files.models.answer_accuracy = lambda tokens, y: {
        "characters": tokens.float().mean(),
        "exact": y.float().mean(),
    }
    batch = files.models.Batch(draw.integers(13, 7, 5), draw.integers(13, 7, 3), None)
    loss, terms = model.loss(batch, 0)
    return {"loss": loss, "names": ", ".join(sorted(terms)), "mean of the tokens": terms["characters"]}


# -----------------------------------------------------------------------------------------------------------
assignment.task(
    "7.4",
    "models.Text2Text.states",
    """
    the decoder's states [B, 3, decoder_hidden]. It is fed the last hidden state of the encoder (of the last
    layer, of both directions), through `between`, at each of ANSWER_LENGTH steps. With attention each step
    looks back at the encoder's outputs (eq. 2 to 4).
    """,
    leaks="models.RNNEncoder.forward",
)


def states_of(files, draw, **options):
    model = draw.fill(files.models.Text2Text(13, encoder_hidden=5, decoder_hidden=6, **options), scale=2)
    return model.states(draw.integers(13, 4, 5))


@assignment.part(12, "without attention")
def states(files, draw):
    options = dict(encoder_depth=2, bidirectional=True, dense=4)
    return {
        "one layer": states_of(files, draw),
        "two layers, both directions, dense": states_of(files, draw, **options),
    }


@assignment.part(13, "with attention")
def attention(files, draw):
    return {
        "attention": states_of(files, draw, attention=True),
        "both directions": states_of(files, draw, attention=True, bidirectional=True),
    }


# -----------------------------------------------------------------------------------------------------------
assignment.task(
    "7.5",
    "data.Queries.draw",
    """
    pictures float [..., 1, 28, 28] in [0, 1] of tokens [...], each a random glyph of its symbol. The glyphs
    are a Split that is sorted by symbol: y holds the token of each.
    """,
)


@assignment.part(12, "a glyph of the right symbol, any of them")
def glyphs(files, draw):
    sizes = torch.tensor([3, 1, 4, 2])
    y = torch.arange(4).repeat_interleave(sizes)
    x = torch.arange(len(y)).byte()[:, None, None, None].expand(-1, 1, 2, 2)  # each shows its number
    queries = files.data.Queries(None, None, files.data.Split(x, y), None)
    tokens = draw.integers(4, 1500, 3)
    pictures = queries.draw(tokens)
    glyph = (255 * pictures[..., 0, 0, 0]).round().long()
    outputs = {"shape": str(list(pictures.shape))}
    if glyph.shape != tokens.shape:
        return outputs
    share_right = (y[glyph.clamp(0, 9)] == tokens).double().mean()
    is_right = share_right.item() == 1
    counts = torch.bincount(glyph.flatten(), minlength=10)[:10]
    share = counts / torch.bincount(tokens.flatten(), minlength=4)[y]
    is_even = ((share * sizes[y] - 1).abs() < 0.25).all().item()
    is_fixed = all(torch.equal(queries.draw(tokens), pictures) for _ in range(5))
    is_varied = ((tokens[:, 0] == tokens[:, 1]) & (glyph[:, 0] != glyph[:, 1])).any().item()
    return outputs | {
        "all of the right symbol": str(is_right),
        "share of the right symbol": About(share_right, 0.05),
        "all glyphs of a symbol equally often": str(is_right and is_even),
        "glyphs that are never drawn": int((share == 0).sum()),
        "five calls draw the same": str(is_fixed),
        "a query can show a symbol in two ways": str(is_varied),
    }


# -----------------------------------------------------------------------------------------------------------
assignment.task(
    "7.6",
    "metrics.size_of_error metrics.carries",
    """
    which of ERRORS an answer has, a text such as "-7 ", and None where it is right; and how many columns of
    a query carry, or borrow from the next, where a difference borrows as that of the larger number minus
    the smaller.
    """,
)


@assignment.part(8, "kinds of error")
def errors(files, draw):
    answers = ["46 ", "45 ", "56 ", "64 ", "07 ", "-0 ", "+7 ", "-7 ", "1 2", "   ", "-5 "]
    truths = ["46 ", "46 ", "46 ", "46 ", "7  ", "0  ", "7  ", "-6 ", "12 ", "3  ", "5  "]
    pairs = zip(answers, truths, strict=True)
    return {
        f"{answer!r} for {truth!r}": str(files.metrics.size_of_error(answer, truth))
        for answer, truth in pairs
    }


@assignment.part(7, "carries and borrows")
def carries(files, draw):
    queries = ["12+34", "58+67", "9+1", "95+5", "99+1", "50-25", "25-50", "31-9", "9-31", "7-7", "64+32"]
    return {query: files.metrics.carries(query.ljust(5)) for query in queries}


# -----------------------------------------------------------------------------------------------------------
assignment.task("7.7", "", "the model learns.", seconds=120)


@assignment.part(14, "train.py, 300 updates: over 45% of the characters of test answers are right")
def trains(files, draw):
    flags = "--model text2text --encoder-hidden 96 --decoder-hidden 96 --lr 4e-3 --steps 300"
    return {"over 45%": str(train(files, flags)["test"]["characters"] > 45)}
