"""Typical mistakes in the tasks of this folder, and other right answers. Not for students.

An entry is a hint after "#", then a change to our function as in a diff: a phrase of it after "-", and what
replaces it after "+". A phrase is a line or less and occurs once; a change may have several of them.
"""

MISTAKES = {
    "7.1": """
        # the blanks are on the left.
        - text.ljust(length)
        + text.rjust(length)
        # these are codes of characters: a token is a symbol's place in ALPHABET.
        - ALPHABET.index(symbol)
        + ord(symbol)
        # texts are padded with 0: pad with blanks.
        - text.ljust(length)
        + text.ljust(length, "0")
        # the blanks of the text are cut off: keep them.
        - "".join(ALPHABET[token] for token in tokens)
        + "".join(ALPHABET[token] for token in tokens).strip()
        # the tokens are read backwards.
        - for token in tokens)
        + for token in reversed(tokens))
        # there is a blank between symbols.
        - "".join(ALPHABET
        + " ".join(ALPHABET
    """,
    "7.2": """
        # the minus is taken for a plus.
        - .replace("-", "+-")
        + .replace("-", "+")
        # the difference is turned round.
        - str(sum(int(term) for term in terms))
        + str(sum(int(term) for term in terms) * (1 if "+" in query else -1))
        # the blanks are on the left.
        - .ljust(ANSWER_LENGTH)
        + .rjust(ANSWER_LENGTH)
        # the minus sign of the answer is missing.
        - str(sum(int(term) for term in terms))
        + str(abs(sum(int(term) for term in terms)))
        # answers are padded with 0: pad with blanks.
        - .ljust(ANSWER_LENGTH)
        + .ljust(ANSWER_LENGTH, "0")
        # there is a plus sign before the answer.
        - str(sum(int(term) for term in terms))
        + f"{sum(int(term) for term in terms):+}"[:3]
    """,
    "7.3": """
        # a share: in %.
        - 100 * correct.mean()
        + correct.mean()
        # an answer is right if all of its characters are, not one of them.
        - correct.amin(1)
        + correct.amax(1)
        # this is the mean over characters: all of an answer must be right.
        - correct.amin(1).mean()
        + correct.mean(1).mean()
        # all answers must be right at a position: all positions of an answer.
        - correct.amin(1)
        + correct.amin(0)
        # a mean over characters: sum those of an answer.
        - loss = nll / len(batch.y)
        + loss = nll / batch.y.numel()
        # a sum over the batch: divide by the number of answers.
        - loss = nll / len(batch.y)
        + loss = nll
        # softmax before a cross-entropy that takes logits.
        - F.cross_entropy(logits.flatten(0, 1)
        + F.cross_entropy(logits.softmax(2).flatten(0, 1)
        # argmax over positions: over symbols.
        - logits.argmax(2)
        + logits.argmax(1)
    """,
    "7.4": """
        # this is the cell state: the hidden state is the first of the pair.
        - outputs, (hidden, _) =
        + outputs, (_, hidden) =
        # this is the state of the first layer.
        - hidden[-self.directions :]
        + hidden[: self.directions]
        # only one direction is kept.
        - hidden[-self.directions :].transpose(0, 1).flatten(1)
        + hidden[-1].repeat(1, self.directions)
        # the last output is not the last state of both directions.
        - last = hidden[-self.directions :].transpose(0, 1).flatten(1)
        + last = outputs[:, -1]
        # the directions of a query belong side by side: transpose before you flatten.
        - hidden[-self.directions :].transpose(0, 1).flatten(1)
        + hidden[-self.directions :].reshape(len(x), -1)
        # `between` is not used.
        - self.between(last)[:, None]
        + last[:, None, : self.decoder.input_size]
        # the state is fed once, and then zeros: feed it at each step.
        - .repeat(1, ANSWER_LENGTH, 1)
        + .repeat(1, ANSWER_LENGTH, 1) * torch.tensor([1.0, 0, 0])[None, :, None]
        # softmax over the steps of the answer: over those of the query.
        - scores.softmax(2)
        + scores.softmax(1)
        # the scores are no weights yet: softmax is missing.
        - scores.softmax(2)
        + scores
        # the context comes first, then the states.
        - torch.cat([context, states], 2)
        + torch.cat([states, context], 2)
        # tanh is missing (eq. 4).
        - self.combine(torch.cat([context, states], 2)).tanh()
        + self.combine(torch.cat([context, states], 2))
        # the scores are divided by a root: not here.
        - self.to_score(states) @ outputs.transpose(1, 2)
        + self.to_score(states) @ outputs.transpose(1, 2) / outputs.shape[2] ** 0.5
        # the states are missing: combine them with the context.
        - torch.cat([context, states], 2)
        + torch.cat([context, 0 * states], 2)
    """,
    "7.5": """
        # this is always the first glyph of a symbol.
        - torch.rand(tokens.shape, device=tokens.device)
        + torch.zeros(tokens.shape)
        # these are any glyphs at all: draw one of the symbol's own.
        - first + (torch.rand(tokens.shape, device=tokens.device) * (end - first)).long()
        + (torch.rand(tokens.shape) * len(self.glyphs.y)).long()
        # the last glyph of a symbol is never drawn.
        - * (end - first)
        + * (end - first - 1).clamp(min=0)
        # the last one is the first glyph of the next symbol.
        - * (end - first)).long()
        + * (end - first + 1)).long().clamp(max=9 - first)
        # there is one glyph for all places of a symbol.
        - torch.rand(tokens.shape, device=tokens.device)
        + torch.rand(4)[tokens]
        # rounding makes the first and the last glyph half as frequent: cut off the decimals.
        - * (end - first)).long()
        + * (end - first - 1)).round().long()
    """,
    "7.6": """
        # 07 and −0 are no numbers.
        -  or str(int(answer)) != answer
        +
        # off by 1 in either direction: take the absolute value.
        - abs(int(answer) - int(truth))
        + int(answer) - int(truth)
        # a minus sign belongs to a number.
        - answer.removeprefix("-").isdigit()
        + answer.isdigit()
        # off by 10 is a kind of its own.
        - 10: "off by 10"
        + 11: "off by 10"
        # a sum above 9 carries, and 10 is above it.
        - low % 10 + high % 10 > 9
        + low % 10 + high % 10 > 10
        # the second column carries, too.
        -  + int(low + high > 99)
        +
        # the second column also counts the carry of the first.
        - int(low + high > 99)
        + int(low // 10 + high // 10 > 9)
        # a difference borrows as that of the larger number minus the smaller.
        - high % 10 < low % 10
        + int(query.split("-")[0]) % 10 < int(query.split("-")[1]) % 10
        # a difference is treated as a sum.
        - if "+" in query:
        + if True:
        # equal digits do not borrow.
        - high % 10 < low % 10
        + high % 10 <= low % 10
    """,
}

RIGHT_ANSWERS = {
    "7.2": """
        # a sign for the second number
        - terms = query.replace("-", "+-").split("+")
        + a, b = query.replace("-", "+").split("+")
        + terms = [a, int(b) if "+" in query else -int(b)]
    """,
    "7.3": """
        # symbols in the second dimension
        - nll = F.cross_entropy(logits.flatten(0, 1), batch.y.flatten(), reduction="sum")
        + nll = F.cross_entropy(logits.transpose(1, 2), batch.y, reduction="none").sum()
        # all
        - correct.amin(1).mean()
        + (tokens == y).all(dim=1).float().mean()
    """,
    "7.4": """
        # torch.cat of the directions
        - hidden[-self.directions :].transpose(0, 1).flatten(1)
        + torch.cat([*hidden[-self.directions :]], 1)
        # expand
        - .repeat(1, ANSWER_LENGTH, 1)
        + .expand(-1, 3, -1)
    """,
    "7.5": """
        # counts of each symbol
        - first = torch.searchsorted(self.glyphs.y, tokens)
        - end = torch.searchsorted(self.glyphs.y, tokens, right=True)
        + sizes = torch.bincount(self.glyphs.y, minlength=13)
        + first = (sizes.cumsum(0) - sizes)[tokens]
        + end = sizes.cumsum(0)[tokens]
    """,
    "7.6": """
        # map
        - sorted(int(number) for number in query.replace("-", "+").split("+"))
        + sorted(map(int, query.replace("-", "+").split("+")))
    """,
}
