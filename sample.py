"""Every picture made from a run.

    python sample.py runs/cvae-mnist10k --what class --classes 3,5,8 -n 5 --judge runs/classifier-mnist10k
    python sample.py runs/vae-mnist10k runs/cvae-mnist10k --what curves
    python sample.py runs/vae-mnist10k --what interpolate --out walk.png

Without --what it draws all that the model can. Pictures land in the run folder unless --out names a file.
"""

import csv
import math
import sys
import textwrap
from pathlib import Path

import matplotlib
import numpy as np
import torch
from PIL import Image

import data
import models
from data import Mistake, number, write_file

matplotlib.use("Agg")  # files only: no window, so that it works over ssh and in tests
import matplotlib.pyplot as plt

# Okabe and Ito's colors, which color-blind readers can tell apart
COLORS = ["#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000"]
RIGHT, WRONG = "#00795A", "#C24A00"  # and a tick or a cross beside the color
STYLE = {
    "font.size": 9,
    "axes.titlesize": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.prop_cycle": matplotlib.cycler(color=COLORS),
    "legend.frameon": False,
    "savefig.dpi": 120,
}


# -----------------------------------------------------------------------------------------------------------
# One kind of picture: a sheet of small images


def sheet(images, title, rows=None, columns=None, captions=None, right=None):
    """A figure of images [R, K, C, H, W] in [0, 1], with names of rows and columns, a caption under each
    and `right` [R, K] framing each with a tick or a cross."""
    n_rows, n_columns, channels, height, width = images.shape
    aspect, gap = height / width, 0.08
    side = max(0.45, min(0.75, 8 / n_columns))  # inches of one image, for about 8 inches in all
    side = side if aspect >= 0.9 else 1.6  # a strip of characters
    lines = 1 + captions[0][0].count("\n") if captions else 0
    drop = gap + 0.15 * lines / side  # room below each image, in image widths
    left = 0.12 + 0.085 * max(len(name) for name in rows) if rows else 0.0  # inches, for the rows' names
    wide = max(left + n_columns * side * (1 + gap) + 0.1, 2.6)
    title = textwrap.wrap(title, int(12 * wide))  # of 12 characters in an inch
    top = 0.18 + 0.17 * max(1, len(title)) + (0.2 if columns else 0)
    size = (wide, top + n_rows * side * (aspect + drop) + 0.1)
    figure = plt.figure(figsize=size)
    axes = figure.add_axes([left / size[0], 0, 1 - left / size[0], 1 - top / size[1]])
    axes.set_axis_off()
    for r in range(n_rows):
        for k in range(n_columns):
            x, y = k * (1 + gap), -r * (aspect + drop)
            picture = images[r, k].permute(1, 2, 0).cpu().numpy()  # (H, W, C)
            gray = dict(cmap="gray", vmin=0, vmax=1) if channels == 1 else {}
            axes.imshow(
                picture.squeeze(2) if channels == 1 else picture, extent=(x, x + 1, y - aspect, y), **gray
            )
            if captions:
                verdict = right[r][k] if right else None
                color, mark = {None: ("#333333", ""), True: (RIGHT, "✓ "), False: (WRONG, "✗ ")}[verdict]
                text = mark + captions[r][k]
                axes.text(x + 0.5, y - aspect - 0.04, text, ha="center", va="top", color=color, fontsize=7)
        if rows:
            axes.text(-0.1, -r * (aspect + drop) - aspect / 2, rows[r], ha="right", va="center")
    for k, name in enumerate(columns or ()):
        axes.text(k * (1 + gap) + 0.5, 0.08, name, ha="center", va="bottom")
    axes.set_xlim(-0.02, n_columns * (1 + gap))
    axes.set_ylim(-n_rows * (aspect + drop), 0.02)
    figure.text(0.5, 1 - 0.05 / size[1], "\n".join(title), ha="center", va="top", fontsize=10)
    return figure


SPLIT_LINES = (
    ("train", "--", "train"),
    ("valid", "-", "validation"),
    ("refined", "-.", "refining"),  # of an auto-decoder, whose latents are learned on after training
    ("test_latents", ":", "fitting test"),
)


def curves(folders):
    """Every term that training reports, a panel each: train dashed, validation solid, runs in colors."""
    logs = [read_log(folder) for folder in folders]
    place = ("epoch", "step", "split", "seconds [s]")
    trained = next(row for row in logs[0] if row["split"] == "train")
    terms = [name for name in trained if name not in place and trained[name]]
    size = 0.4 + 3.2 * len(terms), 3 if len(logs) == 1 else 3.6
    figure, panels = plt.subplots(1, len(terms), figsize=size, layout="constrained")
    for panel, term in zip([panels] if len(terms) == 1 else panels, terms, strict=True):
        for folder, log, color in zip(folders, logs, COLORS * len(logs), strict=False):
            for split, line, name in SPLIT_LINES:
                rows = [
                    row for row in log if row["split"] == split and row["epoch"] != "0" and row.get(term)
                ]
                if not rows:
                    continue
                points = [[float(row[column]) for row in rows] for column in ("epoch", term)]
                name = f"{Path(folder).name}, {name}" if len(logs) > 1 else name
                marker = "." if len(rows) < 20 else ""  # many dots would hide the dashes
                panel.plot(*points, line, marker=marker, color=color, lw=1.3, ms=3, label=name)
        title, _, unit = term.partition(" [")
        panel.set(title=title.replace("kl", "KL divergence"), xlabel="epoch", ylabel=unit.rstrip("]"))
        panel.xaxis.get_major_locator().set_params(integer=True)
    names = [Path(folder).name for folder in folders]
    if len(names) == 1:
        figure.axes[0].legend()
    else:  # a line for each run, below, where it hides no curve
        keys = [plt.Line2D([], [], color=color) for color, _ in zip(COLORS * len(logs), logs, strict=False)]
        figure.legend(keys, names, loc="outside lower center", ncols=4)
    figure.suptitle(names[0] if len(names) == 1 else "train dashed, validation solid", fontsize=10)
    return figure


def read_log(folder):
    """The rows of log.csv, at least one epoch's; the untrained model's, of epoch 0, has no train row."""
    path = Path(folder) / "log.csv"
    if not path.exists():
        raise Mistake(f"{folder} holds no log.csv: is it a run folder?")
    rows = list(csv.DictReader(path.read_text().splitlines()))
    if not any(row["split"] == "train" for row in rows):
        raise Mistake(f"{path} holds no finished epoch yet: nothing to draw")
    return rows


def snapshot(folder, model, epoch):
    """Nine samples of the same latents after every epoch, in folder/epochs."""
    torch.manual_seed(0)
    labels = torch.arange(9, device=model.device) % model.n_classes if model.conditional else None
    images = model.eval().sample(9, labels).cpu().unflatten(0, (3, 3))  # (3, 3, C, H, W)
    pixels = (255 * images).byte().permute(0, 3, 1, 4, 2).flatten(2, 3).flatten(0, 1)  # (3 * H, 3 * W, C)
    path = Path(folder) / "epochs" / f"{epoch:04d}.png"
    path.parent.mkdir(exist_ok=True)
    write_file(path, lambda file: Image.fromarray(pixels.squeeze(2).numpy()).save(file, "png"))


# -----------------------------------------------------------------------------------------------------------
# What can be drawn of a run: each function takes the run and the flags, and returns a figure


class Run:
    """A run folder and its model; the data set is read when a picture asks for it."""

    def __init__(self, folder, data_dir=None, model=None, dataset=None):
        self.folder, self.data_dir, self._dataset = Path(folder), data_dir, dataset
        self.config = data.read_config(folder)
        self.model = model or models.load(self.folder / "best.pt")
        self.classes = self.config["classes"]
        self.kind = self.config["flags"]["model"]

    @property
    def dataset(self):
        if self._dataset is None:
            self._dataset = data.load_for_run(self.config, self.data_dir)
        return self._dataset

    def batch(self, split, index):
        """Images in [0, 1] and labels at these places of a split."""
        return self.dataset.split(split).batch(index)

    def random_index(self, split, n, seed):
        """Places of n random pictures of a split, the same for the same seed."""
        size, random = len(self.dataset.split(split).x), torch.Generator().manual_seed(seed)
        if not size:
            raise Mistake(f"{self.folder} has no {split} pictures")
        return torch.randperm(size, generator=random)[:n]

    def latents(self, split, index):
        """z of pictures at these places of a split: an auto-decoder's own, else what the encoder says."""
        if self.model.has_free_latents:
            return self.model.learned_latents(split)[index]
        return self.model.encode(*self.batch(split, index))

    def reconstructions(self, split, index):
        _, labels = self.batch(split, index)
        return self.model.decode(self.latents(split, index), labels)


def judged(images, labels, judge):
    """Captions and, where the labels are known, rights and wrongs, by a classifier's run or None."""
    if judge is None:
        return None, None
    confidence, named = judge.model.predict(images.flatten(0, 1)).max(1)
    shape, gap = images.shape[:2], "\n" if max(len(name) for name in judge.classes) > 5 else " "
    captions = [
        [f"{judge.classes[c][:11]}{gap}{p:.0%}" for c, p in zip(*row, strict=True)]
        for row in zip(named.view(shape).tolist(), confidence.view(shape).tolist(), strict=True)
    ]
    return captions, None if labels is None else (named.view(shape) == labels).tolist()


def real(run, args, judge):
    """Pictures of the data; those of a classifier's run with its own answers."""
    judge = judge or (run if isinstance(run.model, models.Classifier) else None)
    n = args.n or 8
    images, labels = run.batch(args.split, run.random_index(args.split, n * n, args.seed))
    n = min(n, len(images))
    images, labels = (t[: len(t) // n * n].unflatten(0, (-1, n)) for t in (images, labels))
    captions, right = judged(images, labels, judge)
    captions = captions or [[run.classes[c][:12] for c in row] for row in labels.tolist()]
    by = f", named by {judge.folder.name}" if judge else ""
    title = f"{run.dataset.name}, {args.split} pictures{by}"
    return sheet(images, title, captions=captions, right=right)


def prior(run, args, judge):
    """Images decoded from the prior."""
    n = args.n or 8
    shape = (args.rows or n, n)
    images = run.model.sample(math.prod(shape), scale=args.scale, truncate=args.truncate).unflatten(0, shape)
    captions, _ = judged(images, None, judge)
    return sheet(images, f"samples of {run.folder.name}{spread(args)}", captions=captions)


def epochs(run, args, judge):
    """Samples of the same latents after each epoch, from the run's own snapshots."""
    paths = sorted(run.folder.glob("epochs/*.png"))
    if not paths:
        raise Mistake(f"{run.folder} holds no snapshots of its epochs")
    most = args.rows or 10
    paths = [paths[round(k)] for k in torch.linspace(0, len(paths) - 1, min(most, len(paths))).tolist()]
    rows = []
    for path in paths:
        pixels = torch.from_numpy(np.array(Image.open(path))) / 255
        pixels = pixels if pixels.dim() == 3 else pixels[:, :, None]  # (3 * H, 3 * W, C)
        rows.append(pixels.unflatten(0, (3, -1)).unflatten(2, (3, -1)).permute(0, 2, 4, 1, 3).flatten(0, 1))
    names = [f"epoch {int(path.stem)}" for path in paths]
    return sheet(torch.stack(rows), f"the same nine latents, {run.folder.name}", names)


def untrained(run, args, judge):
    """Test pictures, what the model made of them before training, and after."""
    index = run.random_index(args.split, args.n or 10, args.seed)
    x, y = run.batch(args.split, index)
    torch.manual_seed(run.config["flags"]["seed"])
    blank = models.build(run.config["flags"]["model"], **run.model.recipe["arguments"]).eval()
    z = run.latents(args.split, index) if blank.has_free_latents else blank.encode(x, y)
    rows = torch.stack([x, blank.decode(z, y), run.reconstructions(args.split, index)])
    return sheet(rows, f"what training did for {run.folder.name}", ["original", "untrained", "trained"])


def scaled(run, args, judge):
    """Latents of test pictures times 0.5, 1 and 1.5."""
    index, factors = run.random_index("test", args.n or 5, args.seed), (0.5, 1.0, 1.5)
    z, (x, y) = run.latents("test", index), run.batch("test", index)
    rows = torch.stack([x, *(run.model.decode(factor * z, y) for factor in factors)])
    names = ["original", *(f"z x {factor:g}" for factor in factors)]
    return sheet(rows, f"scaled latents of {run.folder.name}", names)


def constant(run, args, judge):
    """What z = 0 and z = 1 in every dimension decode to."""
    z = torch.tensor([0.0, 1.0])[:, None].expand(2, run.model.latent_dim)
    chosen = pick_classes(run, args.classes) or list(range(len(run.classes) if run.model.conditional else 1))
    rows = [run.model.decode(z[:1].expand(len(chosen), -1), torch.tensor(chosen))]
    rows.append(run.model.decode(z[1:].expand(len(chosen), -1), torch.tensor(chosen)))
    columns = [run.classes[c] for c in chosen] if run.model.conditional else None
    return sheet(
        torch.stack(rows), f"constant latents of {run.folder.name}", ["all zeros", "all ones"], columns
    )


def amortization(run, args, judge):
    """A VAE's encoder against distributions fitted to each test picture for the same decoder."""
    index = run.random_index(args.split, args.n or 8, args.seed)
    x, y = run.batch(args.split, index)
    with torch.random.fork_rng():
        encoded, fitted = models.amortization(run.model, x, y)
    rows, nats = [x], [[""] * len(x)]
    for numbers, bound in (encoded, fitted):
        rows.append(run.model.decode(models.Gaussian.from_params(numbers).mean, y))
        nats.append([f"{value:.1f}" for value in bound.tolist()])
    gap = (encoded[1] - fitted[1]).mean()
    title = f"amortization gap of {run.folder.name}: {gap:.2f} nats/image; below each its −ELBO"
    return sheet(torch.stack(rows), title, ["original", "by the encoder", "fitted"], captions=nats)


def by_class(run, args, judge):
    """A row of samples for each class, with the judge's label and confidence."""
    if not run.model.conditional:
        raise Mistake(f"{run.folder} is not conditional, so it cannot draw a class: --what prior")
    chosen, n = pick_classes(run, args.classes) or list(range(len(run.classes))), args.n or 10
    labels = torch.tensor(chosen).repeat_interleave(n)
    images = run.model.sample(len(labels), labels, args.scale, args.truncate).unflatten(0, (len(chosen), n))
    captions, right = judged(images, labels.view(-1, n), judge)
    title = f"samples of {run.folder.name} by class{spread(args)}"
    if right:
        share = torch.tensor(right).float().mean()
        title += f": {share:.0%} named as their class by {judge.folder.name}"
    return sheet(images, title, [run.classes[c] for c in chosen], captions=captions, right=right)


def reconstruct(run, args, judge):
    """Originals above reconstructions, of each split."""
    rows, names = [], []
    sizes = {split: len(run.dataset.split(split).x) for split in data.SPLITS}
    if run.model.has_free_latents:
        sizes["valid"] = 0  # it has no latents for them
    n = min([args.n or 10, *(size for size in sizes.values() if size)])
    for split in data.SPLITS:
        if sizes[split]:
            index = run.random_index(split, n, args.seed)
            rows += [run.batch(split, index)[0], run.reconstructions(split, index)]
            names += [f"{split}: original", "reconstruction"]
    return sheet(torch.stack(rows), f"reconstructions of {run.folder.name}", names)


def compare(runs, args):
    """The same test pictures as several runs reconstruct them."""
    index = runs[0].random_index(args.split, args.n or 10, args.seed)
    rows = [runs[0].batch(args.split, index)[0]]
    for run in runs:
        if run.config["image_shape"] != runs[0].config["image_shape"]:
            raise Mistake(f"{run.folder} has pictures of another size than {runs[0].folder}")
        rows.append(run.reconstructions(args.split, index))
    return sheet(torch.stack(rows), "reconstructions", ["original", *(run.folder.name for run in runs)])


def between_samples(run, args, judge):
    """Straight lines between pairs of latents from the prior, for a model without an encoder."""
    n, t = args.n or 5, torch.linspace(0, 1, args.n or 5)[:, None]
    rows = []
    for _ in range(args.rows or 5):
        z = args.scale * run.model.distribution.prior(2, run.model.latent_dim, args.truncate)
        rows.append(run.model.decode((1 - t) * z[0] + t * z[1]))
    return sheet(torch.stack(rows), f"{n} steps between latents of {run.folder.name}{spread(args)}")


def interpolate(run, args, judge):
    """Straight lines in latent space between pairs of test pictures, which stand at the ends as they are.
    Pairs are of different classes, or of one class where the decoder is told it."""
    if not run.model.has_encoder:
        return between_samples(run, args, judge)
    n, chosen = args.n or 9, pick_classes(run, args.classes)
    labels = run.dataset.test.y
    ends = chosen if chosen and len(chosen) == 2 else None
    if args.classes and not ends and args.what:
        raise Mistake(f"--what interpolate takes two classes, --classes A,B, not {args.classes}")
    for end in ends or ():
        if not (labels == end).any():
            raise Mistake(f"{run.folder}: no test picture is of class {run.classes[end]}")
    if not len(labels):
        raise Mistake(f"{run.folder} has no test pictures")
    first = labels == ends[0] if ends else torch.ones_like(labels, dtype=torch.bool)
    random = torch.Generator().manual_seed(args.seed)
    rows = []
    for a in first.nonzero().flatten()[torch.randperm(int(first.sum()), generator=random)][: args.rows or 5]:
        same = labels == (ends[1] if ends else labels[a])
        others = (same if ends or run.model.conditional or same.all() else ~same).nonzero().flatten()
        b = others[torch.randint(len(others), (1,), generator=random)]
        index = torch.cat([a[None], b])
        (x, y), z, t = (
            run.batch("test", index),
            run.latents("test", index),
            torch.linspace(0, 1, n)[:, None],
        )
        y = torch.where(t[:, 0] < 0.5, y[0], y[1])
        rows.append(torch.cat([x[:1], run.model.decode((1 - t) * z[0] + t * z[1], y), x[1:]]))
    columns = ["original", *[""] * n, "original"]
    return sheet(torch.stack(rows), f"interpolations of {run.folder.name}", columns=columns)


def manifold(run, args, judge):
    """What a two-dimensional latent space decodes to, over ±2·scale, where most of the prior lies."""
    if run.model.latent_dim != 2:
        raise Mistake(
            f"{run.folder} has {run.model.latent_dim} latents: --what manifold needs --latent-dim 2"
        )
    n, label = args.n or 11, (pick_classes(run, args.classes) or [0])[0]
    line = torch.linspace(-2 * args.scale, 2 * args.scale, n)
    z = torch.cartesian_prod(line.flip(0), line).flip(1)  # x grows to the right, y upwards
    images = run.model.decode(z, torch.full((n * n,), label) if run.model.conditional else None)
    rows = [f"{y:+.1f}" if k % 2 == 0 else "" for k, y in enumerate(line.flip(0))]
    columns = [f"{x:+.1f}" if k % 2 == 0 else "" for k, x in enumerate(line)]
    which = f", class {run.classes[label]}" if run.model.conditional else ""
    return sheet(images.unflatten(0, (n, n)), f"latent space of {run.folder.name}{which}", rows, columns)


def answers(run, args, judge):
    """Cards of random queries of a split and their answers, drawn where the model sees or draws pictures."""
    split = run.dataset.split(args.split)
    chosen = run.random_index(args.split, (args.rows or 6) * (args.n or 5), args.seed)
    return cards(run, chosen, split, args.n or 5)


def errors(run, args, judge):
    """Cards of queries whose answers are wrong."""
    split, model = run.dataset.split(args.split), run.model
    parts = [split.batch(slice(start, start + 500)) for start in range(0, len(split.x), 500)]
    found = torch.cat([model.predict(x) for x, _ in parts])
    named = model.read(found) if split.drawn == "answer" else found
    wrong = (named != split.y).any(1).nonzero().flatten()
    if not len(wrong):
        raise Mistake(f"{run.folder} answers every {args.split} query rightly: no error to show")
    few = wrong[torch.randperm(len(wrong))[: (args.rows or 6) * (args.n or 5)]]
    x, y = (torch.cat(side)[few] for side in zip(*parts, strict=True))  # the very pictures it erred on
    title = f"{len(wrong):,} of {len(split.x):,} answers are wrong"
    return cards(run, few, split, args.n or 5, title, (x, y))


def query(run, args, judge):
    """The answer to --query, a dozen times where its digits are drawn."""
    tokens = data.encode_text(args.query or "12+34")[None]
    n = 5 if run.dataset.test.drawn == "query" else 1
    own = run.dataset.test._replace(x=tokens.repeat(n, 1), y=models.solve_queries(tokens).repeat(n, 1))
    return cards(run, torch.arange(n), own, n)


def cards(run, index, split, columns, title="answers", shown=None):
    """A sheet of queries with the answers given: as pictures, an answer below the true one, and as text.
    `shown` are the queries and answers as the model meets them, if they are drawn already."""
    (x, y), model = shown or split.batch(index), run.model
    found = model.predict(x)
    named = model.read(found) if split.drawn == "answer" else found
    if split.drawn:
        strips = [x] if split.drawn == "query" else [y, found]
        pictures = torch.cat([part.movedim(1, 3).flatten(3) for part in strips], 2)  # (B, 1, H, 5 or 3 * W)
    else:
        pictures = torch.ones(len(x), 1, 1, 25)  # nothing but the line below it
    told = zip(
        *(map(data.decode_text, rows) for rows in (split.x[index], named, split.y[index])), strict=True
    )
    captions = [f"{q.strip()} = {a.strip()}" + (f", not {t.strip()}" if a != t else "") for q, a, t in told]
    right, blanks = (named == split.y[index]).all(1).tolist(), -len(x) % columns
    pictures = torch.cat([pictures, torch.ones(blanks, *pictures.shape[1:])]).unflatten(0, (-1, columns))
    captions, right = captions + [""] * blanks, right + [None] * blanks
    rows = [slice(k, k + columns) for k in range(0, len(captions), columns)]
    title = f"{run.folder.name}: {title}" + (
        ", drawn below the true ones" if split.drawn == "answer" else ""
    )
    return sheet(pictures, title, captions=[captions[k] for k in rows], right=[right[k] for k in rows])


def spread(args):
    """How the latents were drawn, for a title, where it is not plainly N(0, I)."""
    scale = f", latents x {args.scale:g}" if args.scale != 1 else ""
    return scale + (f", cut off at ±{args.truncate:g}" if args.truncate else "")


def describe_latents(scale, truncate):
    """How latents were drawn, as in "latents x 0.5, cut off at ±1"; "" for plain samples of the prior."""
    changes = []
    if scale != 1:
        changes.append(f"x {scale:g}")
    if truncate is not None:
        changes.append(f"cut off at ±{truncate:g}")
    return f"latents {', '.join(changes)}" if changes else ""


def pick_classes(run, text):
    """Class numbers from names or numbers with commas between; None from None."""
    known = {
        name: k
        for k, name in reversed([*enumerate(run.classes), *enumerate(map(str, range(len(run.classes))))])
    }
    chosen = [name.strip() for name in text.split(",")] if text else []
    for name in chosen:
        if name not in known:
            raise Mistake(f"{run.folder} has no class {name!r}: choose from {', '.join(run.classes)}")
    return [known[name] for name in chosen] or None


# name: (function, methods that the model must have, file name)
PICTURES = {
    "curves": (None, (), "loss.png"),
    "real": (real, (), "real.png"),
    "prior": (prior, ("sample",), "samples.png"),
    "class": (by_class, ("sample",), "classes.png"),
    "epochs": (epochs, ("sample",), "epochs.png"),
    "reconstruct": (reconstruct, ("encode",), "reconstructions.png"),
    "untrained": (untrained, ("encode",), "untrained.png"),
    "interpolate": (interpolate, ("decode",), "interpolation.png"),
    "scale": (scaled, ("encode",), "scaled.png"),
    "constant": (constant, ("decode",), "constant.png"),
    "amortization": (amortization, ("posterior",), "amortization.png"),
    "manifold": (manifold, ("decode",), "manifold.png"),
    "answers": (answers, ("frames",), "answers.png"),
    "errors": (errors, ("frames",), "errors.png"),
    "query": (query, ("frames",), "query.png"),
}


AFTER_TRAINING = ("curves", "real", "prior", "class", "epochs", "reconstruct", "interpolate", "manifold")
AFTER_TRAINING += ("answers", "errors")


# -----------------------------------------------------------------------------------------------------------
# Command line


def flags():
    parser = data.Parser(prog="sample.py", description=__doc__)
    parser.add_argument(
        "runs", nargs="+", metavar="RUN", help="run folders; more than one for curves and reconstruct"
    )
    parser.add_argument(
        "--what", choices=PICTURES, help="which picture (default: all that the model can draw)"
    )
    parser.add_argument("-n", type=number(int, 1, 100), help="images in a row")
    parser.add_argument("--query", metavar="TEXT", help='of --what query, such as "12+34"')
    parser.add_argument("--rows", type=number(int, 1, 100), help="rows of images")
    parser.add_argument("--classes", metavar="A,B", help="which classes, by name or number")
    parser.add_argument("--judge", metavar="RUN", help="a classifier's run, which names what it sees")
    parser.add_argument(
        "--split", choices=data.SPLITS, default="test", help="of real pictures (default test)"
    )
    parser.add_argument("--scale", type=number(float, 0), default=1.0, help="of the latents (default 1)")
    parser.add_argument("--truncate", type=number(float, 0, above=True), help="cut latents off at ± this")
    parser.add_argument(
        "--seed", type=number(int, 0, 2**31), default=0, help="of latents and choices (default 0)"
    )
    parser.add_argument(
        "--data-dir", metavar="DIR", help="where whole data sets are, if not where training had them"
    )
    parser.add_argument(
        "--out", metavar="FILE", help="picture file (default: named after --what, in the run folder)"
    )
    return parser


def is_sequence(model):
    return isinstance(model, models.Text2Text)


def possible(run, what):
    """Whether the model can draw that."""
    function, methods, _ = PICTURES[what]
    return (
        all(hasattr(run.model, method) for method in methods)
        and (function is not by_class or run.model.conditional)
        and (function is not manifold or run.model.latent_dim == 2)
        and not (function is real and is_sequence(run.model))  # a query is no picture
    )


def draw(what, runs, args, judge=None):
    """Draws one kind of picture into its file; returns the path."""
    function, methods, name = PICTURES[what]
    run, name = runs[0], name if len(runs) == 1 else "comparison.png"
    path = Path(args.out) if args.out else run.folder / name
    if not all(hasattr(run.model, method) for method in methods) or (
        what == "real" and is_sequence(run.model)
    ):
        raise Mistake(
            f"{run.folder} holds a {run.config['flags']['model']}, which cannot draw --what {what}"
        )
    torch.manual_seed(args.seed)
    with plt.rc_context(STYLE), torch.inference_mode():
        if what == "curves":
            figure = curves([run.folder for run in runs])
        else:
            figure = function(run, args, judge) if len(runs) == 1 else compare(runs, args)
        kind = path.suffix[1:].lower() or "png"
        if kind not in figure.canvas.get_supported_filetypes():
            raise Mistake(f"--out {path}: no picture format has the ending .{kind}; write .png or .pdf")
        path.parent.mkdir(parents=True, exist_ok=True)
        write_file(path, lambda file: figure.savefig(file, format=kind))
        plt.close(figure)
    return path


def draw_run(folder, model, dataset):
    """All pictures of a run that has just ended; returns their paths."""
    args, run, paths = flags().parse_args([str(folder)]), Run(folder, model=model, dataset=dataset), []
    for what in AFTER_TRAINING:
        if possible(run, what):
            try:
                paths.append(draw(what, [run], args))
            except Mistake as mistake:  # as for want of test pictures: the run is done all the same
                print(f"note: no picture of --what {what}: {mistake}", file=sys.stderr)
    return paths


def open_judge(folder, run):
    """The classifier's run at folder, which must know the run's classes and size of picture."""
    judge = Run(folder)
    if not isinstance(judge.model, models.Classifier):
        raise Mistake(f"--judge {folder} holds a {judge.config['flags']['model']}, not a classifier")
    for what in ("classes", "image_shape"):
        if judge.config[what] != run.config[what]:
            told = f"{judge.config[what]} at {folder}, {run.config[what]} at {run.folder}"
            raise Mistake(f"--judge: its {what.replace('_', ' ')} differ from the run's: {told}")
    return judge


def main(argv=None):
    """Runs the command line; returns its exit status."""
    return data.run_command("sample.py", command, argv, models.ModelError)


def command(argv):
    args = flags().parse_args(argv)
    runs = [Run(folder, args.data_dir) for folder in args.runs]
    if len(runs) > 1 and args.what not in ("curves", "reconstruct"):
        raise Mistake("several runs share a picture only with --what curves or reconstruct")
    judge = open_judge(args.judge, runs[0]) if args.judge else None
    if args.out and not args.what:
        raise Mistake("--out names one file: say which picture with --what")
    for what in [args.what] if args.what else [what for what in PICTURES if possible(runs[0], what)]:
        print(draw(what, runs, args, judge))


if __name__ == "__main__":
    sys.exit(main())
