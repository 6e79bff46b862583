"""Every picture made from a run. Here an image is one of the data or of a model, a picture what shows them.

    python sample.py runs/cvae-mnist10k --what class --classes 3,5,8 -n 5 --judge runs/classifier-mnist10k
    python sample.py runs/vae-mnist10k runs/cvae-mnist10k --what curves
    python sample.py runs/vae-mnist10k --what interpolate --out walk.png

Without --what it draws every picture that the model supports. Files go to the run folder unless --out names
another. In this file: a run (`Run`), a grid of images (`image_grid`), one function for each picture, and the
table `PICTURES`, which says what each picture needs of a model.
"""

import argparse
import base64
import csv
import inspect
import json
import math
import sys
import textwrap
from collections import namedtuple
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import matplotlib
import numpy as np
import torch
from PIL import Image
from torch.nn.utils import fuse_conv_bn_weights

import data
import models
from data import Mistake, number, require, write_file

matplotlib.use("Agg")  # writes files and opens no window, so that it works over ssh and in tests
import matplotlib.pyplot as plt
from matplotlib.text import Text

# Okabe and Ito's colors, which color-blind readers can tell apart
COLORS = ["#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000"]
STYLE = {
    "font.size": 9,
    "axes.titlesize": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "legend.frameon": False,
    "savefig.dpi": 120,
    # what our pictures need, whatever the user's matplotlibrc says: names with a $ in them are no formulas
    "image.origin": "upper",
    "text.usetex": False,
    "text.parse_math": False,
    "axes.formatter.use_mathtext": False,
    "figure.autolayout": False,
    "figure.constrained_layout.use": False,
}
FORMATS = ("png", "jpg", "jpeg", "webp", "tif", "tiff", "gif", "pdf", "svg", "svgz", "eps", "ps")
CAPTION_STYLES = {  # of correct, wrong and other captions: a sign before the text, and its color
    True: ("✓ ", "#00795A"),
    False: ("✗ ", "#C24A00"),
    None: ("", "#333333"),
}


# -----------------------------------------------------------------------------------------------------------
# A run


class Run:
    """A run folder and its model in eval mode; the data set is read when it is first asked for.

    `name` is the folder's, `config` what config.json holds, `kind` the model's name in models.MODELS and
    `classes` the class names.
    """

    def __init__(self, folder, data_dir=None, model=None, dataset=None):
        self.folder = Path(folder)
        self.name = self.folder.absolute().name
        self.data_dir = data_dir  # where to look for the data set, if not where training found it
        self.config = data.read_config(folder)
        self.kind = self.config["flags"]["model"]
        self.classes = self.config["classes"]
        self.model = model or models.load(self.folder / "best.pt")
        if dataset:
            self.dataset = dataset

        image_shape = tuple(self.config["image_shape"])
        in_config = (self.kind, len(self.classes), image_shape)
        defaults = dict(n_classes=len(self.classes), image_shape=image_shape)  # not every model has both
        recipe = defaults | self.model.recipe["arguments"]
        in_checkpoint = (self.model.recipe["model"], recipe["n_classes"], tuple(recipe["image_shape"]))
        facts = f"model, classes and image shape are {in_config} in config.json, {in_checkpoint} in best.pt"
        require(in_config == in_checkpoint, f"{folder} is damaged: its {facts}")

    @cached_property
    def dataset(self):
        dataset = data.load_for_run(self.config, self.data_dir)
        expected = self.config.get("data_digest")  # older versions kept none
        if expected and data.digest(dataset) != expected:
            data.note(f"the data are not those that {self.folder} was trained on")
        classes = f"{len(dataset.classes)} classes in the data, {len(self.classes)} in {self.folder}"
        require(len(dataset.classes) == len(self.classes), f"{classes}: these are other data")
        shapes = f"{dataset.image_shape} in the data, {tuple(self.config['image_shape'])} in {self.folder}"
        same_shape = list(dataset.image_shape) == self.config["image_shape"]
        require(same_shape, f"the shape of images is {shapes}: these are other data")
        return dataset

    def batch(self, split, index):
        """Images x [B, C, H, W] in [0, 1] and labels y [B] at the places `index` [B] of a split."""
        return self.dataset.split(split).batch(index)

    def random_batch(self, split, n, seed):
        """(places [B], x, y) of n random examples of a split, or of all if it has fewer; the same places for
        the same seed."""
        size = len(self.dataset.split(split).x)
        require(size > 0, f"{self.folder} has no {split} images")
        generator = torch.Generator().manual_seed(seed)
        index = torch.randperm(size, generator=generator)[:n]
        return index, *self.batch(split, index)

    def latents(self, split, index, x=None, y=None):
        """Latents [B, latent_dim] of the images x at these places: learned ones, else the encoder's.

        Where x is shown, give it: with dynamic binarization, another batch of the same places differs.
        """
        if self.model.has_free_latents:
            return self.model.learned_latents(split)[index]
        if x is None:
            x, y = self.batch(split, index)
        return self.model.encode(x, y)

    def reconstructions(self, split, index, x, y):
        """The images decoded from `latents`, [B, C, H, W] in [0, 1]."""
        return self.model.decode(self.latents(split, index, x, y), y)


def open_judge(folder, run):
    """The classifier's run at `folder`, whose classes and image size must be those of `run`."""
    judge = Run(folder)
    is_classifier = judge.model.task == "classification"
    require(is_classifier, f"--judge {folder} holds a {judge.kind}, not a classifier")
    for key in ("classes", "image_shape"):
        values = f"{judge.config[key]} at {folder}, {run.config[key]} at {run.folder}"
        same = judge.config[key] == run.config[key]
        require(same, f"--judge: not the {key.replace('_', ' ')} of the run: {values}")
    return judge


def read_log(folder):
    """The rows of log.csv as dicts of strings. Mistake if it is damaged or holds no finished epoch.

    Epoch 0, the model before training, has no row of split "train".
    """
    path = Path(folder) / "log.csv"
    require(path.is_file(), f"{folder} holds no log.csv: is it a run folder?")
    try:
        titles, *table = csv.reader(path.read_text(encoding="utf-8").splitlines() or [""], strict=True)
        if any(len(cells) != len(titles) for cells in table):
            raise ValueError("a row has more or fewer cells than the first")
        rows = [dict(zip(titles, cells, strict=True)) for cells in table]
        for row in rows:
            if row["split"] not in LINE_STYLES:
                raise ValueError(f"a row has the split {row['split']!r}")
            int(row["epoch"])  # these raise ValueError for what is no number
            int(row["step"])
            for title, cell in row.items():
                if title != "split" and not title.startswith("kl_per_dimension"):
                    float(cell or 0)
    except (KeyError, ValueError, csv.Error) as error:
        raise Mistake(f"{path} is damaged: {error}") from None
    has_epoch = any(row["split"] == "train" for row in rows)
    require(has_epoch, f"{path} holds no finished epoch yet: nothing to draw")
    return rows


# -----------------------------------------------------------------------------------------------------------
# What options say


def pick_classes(run, text):
    """Class numbers of "dog,cat" or "1,0"; None without a text."""
    if not text:
        return None
    by_number = {str(k): k for k in range(len(run.classes))}
    by_name = {name: k for k, name in enumerate(run.classes)}
    known = by_number | by_name  # a class that is named "3" comes before class number 3
    names = [name.strip() for name in text.split(",")]
    for name in names:
        require(name in known, f"{run.folder} has no class {name!r}: choose from {', '.join(run.classes)}")
    return [known[name] for name in names]


def classes_to_decode(run, text):
    """Class numbers of the text, without it of all classes; [0] for a model that is not conditional."""
    if run.model.conditional:
        return pick_classes(run, text) or list(range(len(run.classes)))
    if text:
        data.note(f"--classes does nothing here: {run.folder} holds a {run.kind}, which is not conditional")
    return [0]


def describe_latents(scale, truncate, source=None):
    """How latents were drawn, as in "latents of a standard normal, cut off at ±1, x 0.5", in this order; ""
    for plain samples of the prior. `source` names another distribution."""
    changes = [f"of {source}"] if source else []
    if truncate is not None:
        changes.append(f"cut off at ±{truncate:g}")
    if scale != 1:
        changes.append(f"x {scale:g}")
    return f"latents {', '.join(changes)}" if changes else ""


def add_latents(title, scale, truncate, source=None):
    """The title, followed by how the latents were drawn if that is unusual."""
    description = describe_latents(scale, truncate, source)
    return f"{title}, {description}" if description else title


# -----------------------------------------------------------------------------------------------------------
# A figure of small images


def image_grid(images, title, rows=None, columns=None, captions=None, correct=None):
    """A figure of images [R, K, C, H, W] in [0, 1].

    `rows` and `columns` are names beside and above the images. `captions` are texts below them in reading
    order; `correct` marks each caption with a tick (True), a cross (False) or nothing (None).
    """
    n_rows, n_columns, _, height, width = images.shape

    # inside the axes the unit is an image's width, and the first image has its upper left corner at (0, 0)
    aspect = height / width
    image_width = max(0.45, min(0.75, 8 / n_columns))  # inches, so that a row takes about 8 if it can
    if aspect < 0.9:
        image_width = 1.6  # a strip of several characters
    caption_lines = 1 + captions[0].count("\n") if captions else 0
    gap = 0.08
    below = gap + 0.15 * caption_lines / image_width  # 0.15 inches for each line of a caption
    x_step = 1 + gap  # from an image to the next one on its right
    y_step = aspect + below  # from an image to the next one below

    # the figure around the axes, in inches
    left = 0.12 + 0.085 * max(len(name) for name in rows) if rows else 0.0  # 0.085 for each letter
    figure_width = max(left + n_columns * image_width * x_step + 0.1, 2.6)
    title_lines = textwrap.wrap(title, int(12 * figure_width))  # 12 letters to an inch
    top = 0.18 + 0.17 * max(1, len(title_lines))
    if columns:
        top += 0.2
    figure_height = top + n_rows * image_width * y_step + 0.1
    pixels = STYLE["savefig.dpi"] * max(figure_width, figure_height)
    fits = pixels < 2**16  # the most that matplotlib can draw
    require(fits, f"{n_rows} rows of {n_columns} images are too many for one picture")

    figure = plt.figure(figsize=(figure_width, figure_height))
    figure.text(0.5, 1 - 0.05 / figure_height, "\n".join(title_lines), ha="center", va="top", fontsize=10)
    left_share = left / figure_width
    axes = figure.add_axes([left_share, 0, 1 - left_share, 1 - top / figure_height])
    axes.set_axis_off()
    for place, image in enumerate(images.flatten(0, 1)):
        r, k = divmod(place, n_columns)
        show_image(axes, image, k * x_step, -r * y_step)
        if captions:
            sign, color = CAPTION_STYLES[correct[place] if correct else None]
            style = dict(ha="center", va="top", color=color, fontsize=7)
            axes.text(k * x_step + 0.5, -r * y_step - aspect - 0.04, sign + captions[place], **style)
    for r, name in enumerate(rows or []):
        axes.text(-0.1, -r * y_step - aspect / 2, name, ha="right", va="center")
    for k, name in enumerate(columns or []):
        axes.text(k * x_step + 0.5, 0.08, name, ha="center", va="bottom")
    axes.set_xlim(-0.02, n_columns * x_step)
    axes.set_ylim(-n_rows * y_step, 0.02)
    return figure


def show_image(axes, image, x, y):
    """Draw an image [C, H, W], one unit wide, with its upper left corner at (x, y)."""
    _, height, width = image.shape
    extent = (x, x + 1, y - height / width, y)
    pixels = image.permute(1, 2, 0).squeeze(2)  # (H, W, 3), or (H, W) of a gray image
    axes.imshow(pixels.cpu().numpy(), extent=extent, cmap="gray", vmin=0, vmax=1)  # the last three: of gray


def judge_images(images, labels, judge):
    """Captions and `correct` of `image_grid` for images [R, K, C, H, W]: which class the judge names and how
    confident it is, and whether that agrees with labels [R * K].

    Without a judge both are None; without labels `correct` is.
    """
    if judge is None:
        return None, None
    confidence, predicted = judge.model.predict(images.flatten(0, 1)).max(1)
    separator = "\n" if max(len(name) for name in judge.classes) > 5 else " "
    captions = [
        f"{judge.classes[c][:11]}{separator}{p:.0%}"
        for c, p in zip(predicted.tolist(), confidence.tolist(), strict=True)
    ]
    correct = None if labels is None else (predicted == labels).tolist()
    return captions, correct


# -----------------------------------------------------------------------------------------------------------
# Curves. From here on each function makes one kind of picture and returns its figure. It takes a run, or the
# runs that share a picture, and the options that the picture has: the flags of the command line.

LINE_STYLES = {  # of each split of log.csv, and the split's name in the legend
    "train": ("dashed", "train"),
    "valid": ("solid", "validation"),
    "refined": ("dashdot", "refining"),  # an auto-decoder's latents after training
    "test_latents": ("dotted", "fitting test"),
}


def draw_curves(*runs):
    """Logged terms, dashed for training and solid for validation. Several runs have a color each, and a
    panel for each term of the first; of one run, similar terms share a panel, but for the loss.

    The squared error of autoencoders is shown per pixel, and what was trained for --steps by update.
    """
    logs = [read_log(run.folder) for run in runs]
    if all(run.kind == "ae" and run.model.likelihood == "gaussian" for run in runs):
        for run, log in zip(runs, logs, strict=True):
            replace_loss(log, math.prod(run.config["image_shape"]))
    in_steps = all(run.config["flags"].get("steps") and not run.model.has_free_latents for run in runs)
    not_terms = ("epoch", "step", "split", "seconds [s]")
    train_row = next(row for row in logs[0] if row["split"] == "train")
    terms = [name for name, value in train_row.items() if value and name not in not_terms]
    terms = [name for name in terms if not name.startswith("kl_per_dimension")]  # a list
    require(len(terms) > 0, f"{runs[0].folder} has no loss in its log.csv")
    panels = share_panels(logs[0], terms) if len(runs) == 1 else [[term] for term in terms]

    width = 0.4 + 3.2 * len(panels)  # inches
    height = 3 if len(runs) == 1 else 3.4 + 0.2 * math.ceil(len(runs) / len(panels))  # with a legend below
    size = (width, height)
    figure, axes = plt.subplots(1, len(panels), figsize=size, layout="constrained", squeeze=False)
    for axis, panel in zip(axes[0], panels, strict=True):
        titles = [term_title(term) for term in panel]
        if len(runs) > 1:
            lines = [(log, panel[0], f"{run.name}, ") for run, log in zip(runs, logs, strict=True)]
        else:
            prefixes = [f"{title}, " for title in titles] if len(panel) > 1 else [""]
            lines = [(logs[0], term, prefix) for term, prefix in zip(panel, prefixes, strict=True)]
        for line, color in zip(lines, line_colors(len(lines)), strict=True):
            plot_term(axis, *line, color, "step" if in_steps else "epoch")
        axis.set_title(" and ".join(titles))
        axis.set_xlabel("update" if in_steps else "epoch")
        axis.set_ylabel(unit_of(panel[0]))
        axis.xaxis.get_major_locator().set_params(integer=True, min_n_ticks=1, nbins=6)  # 10000 is wide
        if len(runs) == 1 and (len(panel) > 1 or axis is axes[0, 0]):
            axis.legend(fontsize=8)

    title = runs[0].name
    if len(runs) > 1:  # a legend with an entry for each run, below the panels so that it covers no curve
        names = distinct_names(runs)
        handles = [plt.Line2D([], [], color=color) for color in line_colors(len(runs))]
        n_rows = math.ceil(len(names) / len(panels))
        figure.legend(handles, names, loc="outside lower center", ncols=math.ceil(len(names) / n_rows))
        splits = {row["split"] for log in logs for row in log}
        styles = [f"{name} {style}" for split, (style, name) in LINE_STYLES.items() if split in splits]
        title = ", ".join(styles)
    figure.suptitle(textwrap.fill(title, int(12 * width)), fontsize=10)  # 12 letters to an inch
    return figure


def distinct_names(runs):
    """The names of runs; where different ones have the same name, with that of the folder above."""
    folders = {run.folder.absolute() for run in runs}
    is_clear = len({folder.name for folder in folders}) == len(folders)
    return [run.name if is_clear else f"{run.folder.absolute().parent.name}/{run.name}" for run in runs]


def line_colors(n):
    """n colors: of COLORS or, where these are too few, of a rainbow."""
    return COLORS[:n] if n <= len(COLORS) else plt.get_cmap("turbo")(np.linspace(0.05, 0.95, n))


def replace_loss(log, n_pixels):
    """Put the mean squared error of a pixel in the place of an autoencoder's loss, which is their sum."""
    for row in log:
        loss = row.pop("loss [nats/image]", "")
        row["MSE [per pixel]"] = str(float(loss) / n_pixels) if loss else ""


def term_title(column):
    """The title of a column of log.csv, such as "loss [nats/image]"."""
    name = column.partition(" [")[0]
    return {"kl": "KL divergence", "mse": "MSE", "rmse": "RMSE"}.get(name, name.replace("_", " "))


def unit_of(column):
    return column.partition(" [")[2].rstrip("]")


def share_panels(log, terms):
    """The terms in groups of the same unit and of similar size at the end of training; the loss alone."""
    last = [row for row in log if row["split"] == "train"][-1]
    size = {term: abs(float(last[term] or 0)) for term in terms}
    groups = []
    for term in terms:
        for group in groups:
            small, large = sorted([size[term], size[group[0]]])
            is_like = unit_of(term) == "%" or small > large / 20
            if is_like and unit_of(term) == unit_of(group[0]) and term_title(group[0]) != "loss":
                group.append(term)
                break
        else:
            groups.append([term])
    return groups


def plot_term(panel, log, term, prefix, color, x_column):
    """One line for each split whose rows have the term. Epoch 0, before training, would dwarf the others."""
    for split, (line_style, name) in LINE_STYLES.items():
        rows = [row for row in log if row["split"] == split and row["epoch"] != "0" and row.get(term)]
        if not rows:
            continue
        x = [float(row[x_column]) for row in rows]
        values = [float(row[term]) for row in rows]
        marker = "." if len(rows) < 20 else ""  # more dots would hide the dashes
        style = dict(marker=marker, color=color, linewidth=1.3, markersize=3, label=prefix + name)
        panel.plot(x, values, linestyle=line_style, **style)


# -----------------------------------------------------------------------------------------------------------
# Pictures of data and samples


def draw_real(run, n=8, split="test", seed=0, judge=None):
    """A square of images from the run's data, with their classes or what the judge says. A classifier is its
    own judge."""
    if judge is None and run.model.task == "classification":
        judge = run
    _, x, y = run.random_batch(split, n * n, seed)
    n = min(n, len(x))
    n_shown = len(x) // n * n  # whole rows
    images = x[:n_shown].unflatten(0, (-1, n))
    labels = y[:n_shown]
    captions, correct = judge_images(images, labels, judge)
    title = f"{run.dataset.name}, {split} images"
    if judge:
        title += f", named by {judge.name}"
    else:
        captions = [run.classes[c][:12] for c in labels.tolist()]
    return image_grid(images, title, captions=captions, correct=correct)


def draw_prior(run, n=8, rows=None, scale=1.0, truncate=None, standard_normal=False, seed=0, judge=None):
    """Samples of the model, n in a row; a square of them without `rows`. With `standard_normal` the latents
    are drawn from N(0, I), whatever the model samples."""
    torch.manual_seed(seed)
    rows = rows or n
    source = None
    if standard_normal:
        source = "a standard normal"
        z = scale * models.Gaussian.prior(rows * n, run.model.latent_dim, truncate)
        images = run.model.decode(z, torch.arange(rows * n) % len(run.classes))
    else:
        if run.model.distribution is models.Point:  # an auto-decoder has no prior
            source = "a Gaussian fitted to the training latents"
        images = run.model.sample(rows * n, scale=scale, truncate=truncate)
    images = images.unflatten(0, (rows, n))
    captions, _ = judge_images(images, None, judge)
    title = add_latents(f"samples of {run.name}", scale, truncate, source)
    return image_grid(images, title, captions=captions)


def draw_class(run, n=10, classes=None, scale=1.0, truncate=None, seed=0, judge=None):
    """A row of samples of each class, with what the judge says of each."""
    torch.manual_seed(seed)
    classes = classes_to_decode(run, classes)
    labels = torch.tensor(classes).repeat_interleave(n)
    images = run.model.sample(len(labels), labels, scale, truncate).unflatten(0, (-1, n))
    captions, correct = judge_images(images, labels, judge)
    title = add_latents(f"samples of {run.name} by class", scale, truncate)
    if judge:
        share = torch.tensor(correct).float().mean()
        title += f": {share:.0%} named as their class by {judge.name}"
    names = [run.classes[c] for c in classes]
    return image_grid(images, title, names, captions=captions, correct=correct)


def snapshot(folder, model, epoch):
    """Nine samples from the same latents, 3 x 3 in one picture, as folder/epochs/<epoch>.png."""
    torch.manual_seed(0)
    labels = torch.arange(9, device=model.device) % model.n_classes if model.conditional else None
    images = model.eval().sample(9, labels).cpu()  # (9, C, H, W)
    pixels = (255 * images).byte().unflatten(0, (3, 3))  # (3, 3, C, H, W)
    pixels = pixels.permute(0, 3, 1, 4, 2).flatten(2, 3).flatten(0, 1)  # (3 * H, 3 * W, C)
    path = Path(folder) / "epochs" / f"{epoch:04d}.png"
    require(not path.parent.is_symlink(), f"{path.parent} is a link to another folder: remove the link")
    path.parent.mkdir(exist_ok=True)
    write_file(path, lambda file: Image.fromarray(pixels.squeeze(2).numpy()).save(file, "png"))


def read_snapshot(path, image_shape):
    """The nine images [9, C, H, W] of a snapshot. Mistake if it is damaged or has another size."""
    channels, height, width = image_shape
    try:
        pixels = torch.from_numpy(np.array(data.read_picture(path, None)))
    except Exception as error:  # the errors of Pillow for broken files have no class in common
        raise Mistake(f"{path} is damaged: {error}") from error
    fits = pixels.shape == (3 * height, 3 * width, 3)
    require(fits, f"{path} is no snapshot of this run, which has {3 * height} x {3 * width} pixels")
    images = pixels[:, :, :channels] / 255  # of gray images the three channels are alike
    images = images.unflatten(0, (3, height)).unflatten(2, (3, width))  # (3, H, 3, W, C)
    return images.permute(0, 2, 4, 1, 3).flatten(0, 1)


def draw_epochs(run, rows=10):
    """A row for each epoch's snapshot, or of more than `rows` for evenly spaced ones, ends included."""
    paths = [path for path in run.folder.glob("epochs/*.png") if path.stem.isdecimal()]
    paths.sort(key=lambda path: int(path.stem))
    require(len(paths) > 0, f"{run.folder} holds no snapshots of its epochs")
    n = min(rows, len(paths))
    paths = [paths[round(place)] for place in torch.linspace(0, len(paths) - 1, n).tolist()]
    images = torch.stack([read_snapshot(path, run.config["image_shape"]) for path in paths])
    names = [f"epoch {int(path.stem)}" for path in paths]
    return image_grid(images, f"the same nine latents, {run.name}", names)


# -----------------------------------------------------------------------------------------------------------
# Pictures of reconstructions


def draw_reconstruct(run, n=10, seed=0):
    """Originals above their reconstructions, of each split."""
    sizes = {split: len(run.dataset.split(split).x) for split in data.SPLITS}
    if run.model.has_free_latents:
        sizes["valid"] = 0  # such a model learns no latents for them
    splits = [split for split in data.SPLITS if sizes[split] > 0]
    n = min([n, *(sizes[split] for split in splits)])
    rows = []
    names = []
    for split in splits:
        index, x, y = run.random_batch(split, n, seed)
        rows += [x, run.reconstructions(split, index, x, y)]
        names += [f"{split}: original", "reconstruction"]
    return image_grid(torch.stack(rows), f"reconstructions of {run.name}", names)


def compare_reconstructions(*runs, n=10, split="test", seed=0):
    """The same images as several runs reconstruct them, a row for each run."""
    first = runs[0]
    index, x, _ = first.random_batch(split, n, seed)
    rows = [x]
    for run in runs:
        same = torch.equal(run.dataset.split(split).x, first.dataset.split(split).x)
        require(same, f"{run.folder} has other {split} images than {first.folder}")
        y = run.dataset.split(split).y[index]  # each run may number the classes in its own way
        rows.append(run.reconstructions(split, index, x, y))
    names = ["original", *distinct_names(runs)]
    return image_grid(torch.stack(rows), "reconstructions", names)


def draw_untrained(run, n=10, split="test", seed=0):
    """Images, and their reconstructions by the model before and after training."""
    index, x, y = run.random_batch(split, n, seed)
    trained = run.reconstructions(split, index, x, y)
    torch.manual_seed(run.config["flags"]["seed"])  # draws the weights that training began with
    initial = models.build(run.kind, **run.model.recipe["arguments"]).eval()
    z = run.latents(split, index, x, y) if initial.has_free_latents else initial.encode(x, y)
    rows = torch.stack([x, initial.decode(z, y), trained])
    return image_grid(rows, f"what training did for {run.name}", ["original", "untrained", "trained"])


def draw_amortization(run, n=8, split="test", seed=0):
    """The encoder's posteriors against Gaussians fitted to each image for the same decoder. The difference
    of their ELBOs is the amortization gap (Cremer et al. 2018)."""
    _, x, y = run.random_batch(split, n, seed)
    with torch.random.fork_rng():
        encoded, fitted = models.amortization(run.model, x, y)  # each: parameters [B, 2 * D], −ELBO [B]
    rows = [x]
    captions = [""] * len(x)
    for params, negative_elbo in (encoded, fitted):
        rows.append(run.model.decode(models.Gaussian.from_params(params).mean, y))
        captions += [f"{value:.1f}" for value in negative_elbo.tolist()]
    gap = (encoded[1] - fitted[1]).mean()
    title = f"amortization gap of {run.name}: {gap:.2f} nats/image; below each its −ELBO"
    names = ["original", "by the encoder", "fitted"]
    return image_grid(torch.stack(rows), title, names, captions=captions)


# -----------------------------------------------------------------------------------------------------------
# Pictures of the latent space


def draw_scale(run, n=5, seed=0):
    """Test images, and what their latents times 0.5, 1 and 1.5 decode to."""
    index, x, y = run.random_batch("test", n, seed)
    z = run.latents("test", index, x, y)
    factors = (0.5, 1.0, 1.5)
    rows = [x] + [run.model.decode(factor * z, y) for factor in factors]
    names = ["original"] + [f"z x {factor:g}" for factor in factors]
    return image_grid(torch.stack(rows), f"scaled latents of {run.name}", names)


def draw_constant(run, classes=None):
    """What z = 0 and z = 1 in every dimension decode to, for each class if the model is conditional."""
    classes = classes_to_decode(run, classes)
    labels = torch.tensor(classes)
    zeros = run.model.decode(torch.zeros(len(classes), run.model.latent_dim), labels)
    ones = run.model.decode(torch.ones(len(classes), run.model.latent_dim), labels)
    names = [run.classes[c] for c in classes] if run.model.conditional else None
    title = f"constant latents of {run.name}"
    return image_grid(torch.stack([zeros, ones], 1), title, names, ["all zeros", "all ones"])


def draw_interpolate(run, n=9, rows=5, classes=None, scale=1.0, seed=0):
    """Images along a straight line between the latents of two test images, which stand at its ends. All
    latents are multiplied by `scale`.

    The two are of `classes` "A,B"; without it, of different classes, or of the same class for a conditional
    model, so that the label does not change halfway.
    """
    t = torch.linspace(0, 1, n)[:, None]  # (n, 1)
    lines = []
    for index in choose_pairs(run, rows, classes, seed):
        x, y = run.batch("test", index)
        z = scale * run.latents("test", index, x, y)  # (2, D)
        labels = torch.where(t[:, 0] < 0.5, y[0], y[1])
        between = run.model.decode((1 - t) * z[0] + t * z[1], labels)
        lines.append(torch.cat([x[:1], between, x[1:]]))
    columns = ["original", *[""] * n, "original"]
    title = add_latents(f"interpolations of {run.name}", scale, None)
    return image_grid(torch.stack(lines), title, columns=columns)


def choose_pairs(run, n, text, seed):
    """n pairs of test images for `draw_interpolate`, each as the two places [2] in the split."""
    y = run.dataset.test.y
    require(len(y) > 0, f"{run.folder} has no test images")
    classes = pick_classes(run, text) or []
    if len(classes) not in (0, 2):  # they may be meant for other pictures of the same command
        data.note(f"--classes {text} does nothing for --what interpolate, which takes two")
        classes = []
    for c in classes:
        require((y == c).any(), f"{run.folder}: no test image is of class {run.classes[c]}")

    generator = torch.Generator().manual_seed(seed)
    firsts = (y == classes[0]).nonzero()[:, 0] if classes else torch.arange(len(y))
    firsts = firsts[torch.randperm(len(firsts), generator=generator)][:n]
    pairs = []
    for first in firsts:
        if classes:
            is_partner = y == classes[1]
        elif run.model.conditional or (y == y[first]).all():
            is_partner = y == y[first]
        else:
            is_partner = y != y[first]
        if is_partner.sum() > 1:
            is_partner[first] = False  # an image is no partner of its own, unless there is no other
        partners = is_partner.nonzero()[:, 0]
        second = partners[torch.randint(len(partners), (1,), generator=generator)]
        pairs.append(torch.cat([first[None], second]))
    return pairs


def interpolate_samples(
    run, n=5, rows=5, classes=None, scale=1.0, truncate=None, standard_normal=False, seed=0
):
    """Images along a straight line between two latents of N(0, I): for `standard_normal`, and for a GAN,
    whose prior it is. The rows of a conditional model are of `classes` in turn."""
    torch.manual_seed(seed)
    t = torch.linspace(0, 1, n)[:, None]  # (n, 1)
    classes = classes_to_decode(run, classes)
    lines = []
    for row in range(rows):
        z = scale * models.Gaussian.prior(2, run.model.latent_dim, truncate)  # (2, D)
        labels = torch.full((n,), classes[row % len(classes)])
        lines.append(run.model.decode((1 - t) * z[0] + t * z[1], labels))
    title = add_latents(f"interpolations of {run.name}", scale, truncate, "a standard normal")
    return image_grid(torch.stack(lines), title)


def draw_manifold(run, n=11, scale=1.0, classes=None):
    """What a grid over two latents decodes to, each from −2 to 2 times `scale`; under N(0, 1) 95% of the
    values lie within ±2. A conditional model is asked for the first of `classes`."""
    line = torch.linspace(-2 * scale, 2 * scale, n)
    upwards, rightwards = torch.meshgrid(line.flip(0), line, indexing="ij")
    z = torch.stack([rightwards, upwards], 2).flatten(0, 1)  # (n * n, 2)
    title = f"latent space of {run.name}"
    first, *_ = classes_to_decode(run, classes)
    if run.model.conditional:
        title += f", class {run.classes[first]}"
    images = run.model.decode(z, torch.full((n * n,), first)).unflatten(0, (n, n))
    labels = [f"{round(value, 2) + 0:+.2f}" for value in line.tolist()]  # + 0: no -0.00
    return image_grid(images, title, labels[::-1], labels)


# -----------------------------------------------------------------------------------------------------------
# A page that computes the decoder in a browser

PLAY_TEMPLATE = Path(__file__).resolve().parent / "docs" / "play-template.html"
PLAY_LAYERS = ("Embedding", "Linear", "Unflatten", "ConvTranspose2d", "WideConvTranspose2d", "LSTM", "GRU")
PLAY_LAYERS += ("ReLU", "Sigmoid", "Tanh", "Identity")  # the functions of the template


def draw_play(run, n=20, seed=0):
    """The page: a slider for each latent, the image that the decoder makes of them, n real images to start
    from and 100 latents to walk to: samples of the prior, or the latents of images where there is none."""
    torch.manual_seed(seed)
    model = run.model
    x = y = torch.empty(0)
    q = models.Point(torch.empty(0, model.latent_dim))
    if model.has_encoder:
        index, x, y = run.random_batch("train" if model.has_free_latents else "test", 500, seed)
        if model.has_free_latents:
            q = model.distribution.from_params(model.latents.weight[index])
        else:
            q = model.posterior(x, y) if model.has_posterior else models.Point(model.encode(x, y))
    has_prior = model.distribution is not models.Point
    samples = model.distribution.prior(100, model.latent_dim) if has_prior else q.mean[:100]
    shown = y.argsort()[:: max(1, -(-len(y) // n))]  # of all classes
    content = {
        "title": data.visible(run.name),
        "shape": run.config["image_shape"],
        "names": [data.visible(name) for name in run.classes],
        "condition": model.label if model.conditional else None,
        "layers": decoder_layers(run),
        "kl": [] if isinstance(q, models.Point) else q.kl().mean(0).tolist(),
        "samples": samples.double().round(decimals=3).tolist(),
        "labels": y[shown].tolist(),
        "latents": q.mean[shown].double().round(decimals=3).tolist(),
        "pixels": base64_of((255 * x[shown]).round().byte()),
    }
    page = json.dumps(content).replace("<", r"\u003c")  # no name can end the script
    return PLAY_TEMPLATE.read_text(encoding="utf-8").replace("__PLAY__", page)


def decoder_layers(run):
    """The layers that `decode` calls, in order, as dicts of names, sizes and float16 weights. Mistake if the
    page lacks one."""
    calls = []  # (layer, inputs, output)
    leaves = [layer for layer in run.model.modules() if not list(layer.children())]
    hooks = [layer.register_forward_hook(lambda *call: calls.append(call)) for layer in leaves]
    run.model.decode(torch.zeros(1, run.model.latent_dim), torch.zeros(1, dtype=torch.long))
    for hook in hooks:
        hook.remove()
    layers = []
    for layer, (x, *_), _ in calls:
        name = type(layer).__name__
        weights = list(layer.parameters())
        if name == "BatchNorm2d":  # a factor and a shift for each channel, which the convolution can apply
            moments = (layer.running_mean, layer.running_var, layer.eps)
            convolution = (*layers[-1]["weights"], None)  # it has no bias
            layers[-1]["weights"] = fuse_conv_bn_weights(*convolution, *moments, *weights, transpose=True)
            continue
        require(name in PLAY_LAYERS, f"{run.folder}: the page of --what play cannot compute a {name}")
        sizes = {key: value for key, value in vars(layer).items() if isinstance(value, int | tuple)}
        layers.append(sizes | dict(name=name, weights=weights, input=x.shape[1:]))
    is_finite = all(w.half().isfinite().all() for layer in layers for w in layer["weights"])
    require(is_finite, f"{run.folder} has weights above 65504, too large for the page of --what play")
    return [layer | dict(weights=[base64_of(w.half()) for w in layer["weights"]]) for layer in layers]


def base64_of(tensor):
    return base64.b64encode(tensor.numpy(force=True).tobytes()).decode()


# -----------------------------------------------------------------------------------------------------------
# Pictures of arithmetic: cards of queries and answers, as text and, where a model draws them, as images


def draw_answers(run, n=5, rows=6, split="test", seed=0):
    """Random queries of a split and their answers."""
    torch.manual_seed(seed)
    queries = run.dataset.split(split)
    index, x, y = run.random_batch(split, rows * n, seed)
    return answer_cards(run, queries.x[index], queries.y[index], x, y, n, "answers")


def draw_errors(run, n=5, rows=6, split="test", seed=0):
    """Random queries of a split whose answers are wrong."""
    torch.manual_seed(seed)
    queries = run.dataset.split(split)
    batches = list(models.batches(queries))
    predicted = torch.cat([answer_tokens(run, run.model.predict(x)) for x, _ in batches])
    wrong = (predicted != queries.y).any(1).nonzero()[:, 0]
    require(len(wrong) > 0, f"{run.folder} answers every {split} query correctly: no error to show")
    index = wrong[torch.randperm(len(wrong))[: rows * n]]
    x = torch.cat([x for x, _ in batches])[index]  # in the very handwriting that was misread
    y = torch.cat([y for _, y in batches])[index]
    title = f"{len(wrong):,} of {len(queries.x):,} answers are wrong"
    return answer_cards(run, queries.x[index], queries.y[index], x, y, n, title)


def draw_query(run, query="12+34", seed=0):
    """The answer to a query; five answers where the query is drawn, each time in other handwriting."""
    torch.manual_seed(seed)
    n = 5 if run.dataset.test.drawn == "query" else 1
    tokens = data.encode_text(query).repeat(n, 1)  # (n, 5)
    solutions = models.solve_queries(tokens)  # (n, 3)
    x, y = run.dataset.test._replace(x=tokens, y=solutions, pictures=None).batch(slice(None))
    return answer_cards(run, tokens, solutions, x, y, n, "answers")


def answer_cards(run, queries, solutions, x, y, n_columns, title):
    """A card for each query with the model's answer. `queries` [B, 5] and `solutions` [B, 3] are tokens; x
    and y are the same as the model meets them: tokens, or images of characters."""
    prediction = run.model.predict(x)
    predicted = answer_tokens(run, prediction)
    drawn = run.dataset.test.drawn
    if drawn == "query":
        images = side_by_side(x)
    elif drawn == "answer":
        images = torch.cat([side_by_side(y), side_by_side(prediction)], 2)  # the true one above
        title += ", drawn below the true ones"
    else:
        images = torch.ones(len(x), 1, 1, 25)  # a thin white strip above the text
    captions = [answer_caption(*tokens) for tokens in zip(queries, predicted, solutions, strict=True)]
    correct = (predicted == solutions).all(1).tolist()

    n_blanks = -len(x) % n_columns  # that fill the last row
    images = torch.cat([images, torch.ones(n_blanks, *images.shape[1:])]).unflatten(0, (-1, n_columns))
    captions += [""] * n_blanks
    correct += [None] * n_blanks
    return image_grid(images, f"{run.name}: {title}", captions=captions, correct=correct)


def answer_caption(query, predicted, solution):
    """Tokens of a query, the model's answer and the true one as text, such as "12+34 = 45, not 46"."""
    text = f"{data.decode_text(query).strip()} = {data.decode_text(predicted).strip()}"
    if (predicted != solution).any():
        text += f", not {data.decode_text(solution).strip()}"
    return text


def answer_tokens(run, prediction):
    """Tokens [B, 3] of predicted answers; drawn ones are read by the classifier inside the model."""
    return run.model.read(prediction) if run.dataset.test.drawn == "answer" else prediction


def side_by_side(characters):
    """Images of characters [B, n, C, H, W] as strips [B, C, H, n * W]."""
    return characters.movedim(1, 3).flatten(3)


# -----------------------------------------------------------------------------------------------------------
# The table of pictures: what each needs of a model


# which models can draw a picture, as a test of a model and as words that follow "needs"
Requirement = namedtuple("Requirement", "is_met text")
ANY_MODEL = Requirement(lambda model: True, "any model")
IMAGE_MODEL = Requirement(lambda model: model.task != "arithmetic", "a model of images")
DECODER = Requirement(lambda model: model.task == "generation", "a model that decodes latents")
ENCODER = Requirement(lambda model: model.has_encoder, "a model with an encoder")
POSTERIOR = Requirement(lambda model: model.has_posterior, "a model with a posterior, such as a VAE")
SAMPLES = Requirement(lambda model: model.draws_samples, "a model that draws samples")
CONDITIONAL = Requirement(lambda model: model.conditional, "a conditional model")
TWO_LATENTS = Requirement(lambda model: DECODER.is_met(model) and model.latent_dim == 2, "--latent-dim 2")
ARITHMETIC = Requirement(lambda model: model.task == "arithmetic", "a model of arithmetic")


@dataclass
class Picture:
    """One choice of --what. Its functions take the options that they name as arguments."""

    draw: Callable  # (run, **options) -> figure
    filename: str
    needs: Requirement
    after_training: bool = True  # train.py draws it when a run ends
    compare: Callable | None = None  # (*runs, **options) -> figure of several runs
    of_samples: Callable | None = None  # in place of `draw`, without an encoder or with --standard-normal

    def function(self, runs, options):
        """The function that draws these runs."""
        if len(runs) > 1:
            return self.compare
        if self.of_samples and (options.get("standard_normal") or not runs[0].model.has_encoder):
            return self.of_samples
        return self.draw


PICTURES = {
    "curves": Picture(draw_curves, "loss.png", ANY_MODEL, compare=draw_curves),
    "real": Picture(draw_real, "real.png", IMAGE_MODEL),
    "prior": Picture(draw_prior, "samples.png", SAMPLES),
    "class": Picture(draw_class, "classes.png", CONDITIONAL),
    "epochs": Picture(draw_epochs, "epochs.png", SAMPLES),
    "reconstruct": Picture(
        draw_reconstruct, "reconstructions.png", ENCODER, compare=compare_reconstructions
    ),
    "untrained": Picture(draw_untrained, "untrained.png", ENCODER, after_training=False),
    "interpolate": Picture(draw_interpolate, "interpolation.png", DECODER, of_samples=interpolate_samples),
    "scale": Picture(draw_scale, "scaled.png", ENCODER, after_training=False),
    "constant": Picture(draw_constant, "constant.png", DECODER, after_training=False),
    "amortization": Picture(draw_amortization, "amortization.png", POSTERIOR, after_training=False),
    "manifold": Picture(draw_manifold, "manifold.png", TWO_LATENTS),
    "play": Picture(draw_play, "play.html", DECODER, after_training=False),
    "answers": Picture(draw_answers, "answers.png", ARITHMETIC),
    "errors": Picture(draw_errors, "errors.png", ARITHMETIC),
    "query": Picture(draw_query, "query.png", ARITHMETIC, after_training=False),
}


def draw(what, runs, out=None, **options):
    """Draw one picture of a run, or of several, into the file `out`; returns the path.

    Without `out` the file lies in the (first) run folder. A picture ignores options that it does not have.
    """
    picture = PICTURES[what]
    for run in runs:
        refusal = f"{run.folder} holds a {run.kind}, which cannot draw --what {what}"
        require(picture.needs.is_met(run.model), f"{refusal}: that needs {picture.needs.text}")
    filename = picture.filename if len(runs) == 1 else f"compared-{picture.filename}"
    path = Path(out) if out else runs[0].folder / filename
    if out:
        refuse_input(path, runs)
    formats = FORMATS if picture.filename.endswith(".png") else ("html",)
    ending = path.suffix[1:].lower() or formats[0]
    require(ending in formats, f"--out {path}: {ending} is no picture format here: {', '.join(formats)}")
    function = picture.function(runs, options)
    options = {name: value for name, value in options.items() if name in options_of(function)}
    torch.manual_seed(options.get("seed", 0))  # dynamic binarization draws from torch's own generator
    with plt.rc_context(STYLE), torch.inference_mode():
        figure = function(*runs, **options)
        path.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(figure, str):  # a page
            write_file(path, lambda file: file.write(figure.encode()))
            return path
        for text in figure.findobj(Text):  # fonts have no control characters, nor bytes that are no text
            lines = text.get_text().split("\n")
            text.set_text("\n".join(data.visible(line) for line in lines))
        try:
            write_file(path, lambda file: figure.savefig(file, format=ending))
        finally:
            plt.close(figure)
    return path


def refuse_input(path, runs):
    """Mistake if a path is, or lies in, what is read: pictures of the data, snapshots, the template."""
    for run in runs:
        pictures = Path(run.config["flags"]["data"])
        for source in (pictures, data.BUILT_IN, run.folder / "epochs", PLAY_TEMPLATE):
            is_input = path.resolve().is_relative_to(source.resolve())
            require(not is_input, f"--out {path} is a file that {run.folder} reads: name another file")


def options_of(function):
    """The names of the options that a picture has."""
    return inspect.signature(function).parameters.keys() - {"run", "runs"}


def draw_each(names, run, **options):
    """Draw several pictures of a run; returns their paths. One that cannot be drawn becomes a note and costs
    no other: of a defect too, whose traceback is seen when that picture is drawn alone."""
    paths = []
    for what in names:
        try:
            paths.append(draw(what, [run], **options))
        except Exception as error:
            is_foreseen = isinstance(error, (Mistake, models.ModelError, OSError))
            reason = error if is_foreseen else f"{type(error).__name__}: {error}"
            data.note(f"no picture of --what {what}: {reason}")
    return paths


def possible_pictures(run):
    """The names of the pictures that the model of a run can draw."""
    return [what for what, picture in PICTURES.items() if picture.needs.is_met(run.model)]


def draw_run(folder, model, dataset):
    """Draw the pictures of a run whose training has just ended; returns their paths."""
    run = Run(folder, model=model, dataset=dataset)
    return draw_each([name for name in possible_pictures(run) if PICTURES[name].after_training], run)


# -----------------------------------------------------------------------------------------------------------
# Command line


def flags():
    """The parser of the command line. It returns only the flags that are set: a picture has the defaults."""
    parser = data.Parser(prog="sample.py", description=__doc__, argument_default=argparse.SUPPRESS)
    add = parser.add_argument
    add("runs", nargs="+", metavar="RUN", help="run folders; more than one for curves and reconstruct")
    add("--what", choices=PICTURES, help="which picture (default: all that the model can draw)")
    add("-n", type=number(int, 1, 100), help="images in a row")
    add("--rows", type=number(int, 1, 100), help="rows of images")
    add("--query", metavar="TEXT", help='of --what query (default "12+34")')
    add("--classes", metavar="A,B", help="which classes, by name or number")
    add("--judge", metavar="RUN", help="a classifier's run, which names the images")
    add("--split", choices=data.SPLITS, help="of the images or queries (default test)")
    add("--scale", type=number(float, 0), help="factor of the latents (default 1)")
    limit = "largest size of a latent drawn from the prior, in standard deviations (default: no limit)"
    add("--truncate", type=number(float, 0, above=True), help=limit)
    normal = "latents of N(0, I), not of images, nor of the Gaussian that is fitted to an auto-decoder's"
    add("--standard-normal", action="store_true", help=normal)
    add("--seed", type=number(int, 0, 2**31), help="of latents and choices (default 0)")
    add("--data-dir", metavar="DIR", help="where whole data sets are (default: where training found them)")
    add("--out", metavar="FILE", help="picture file (default: in the run folder, named after --what)")
    return parser


def command(argv):
    options = vars(flags().parse_args(argv))
    folders = options.pop("runs")
    what = options.pop("what", None)
    out = options.pop("out", None)
    data_dir = options.pop("data_dir", None)
    runs = [Run(folder, data_dir) for folder in folders]
    comparable = [name for name, picture in PICTURES.items() if picture.compare]
    fits = len(runs) == 1 or what in comparable
    require(fits, f"several runs share a picture only with --what {' or '.join(comparable)}")
    require(what or not out, "--out names one file: say which picture with --what")
    names = [what] if what else possible_pictures(runs[0])
    note_idle(options, names, runs)
    if "judge" in options:
        options["judge"] = open_judge(options["judge"], runs[0])
    paths = [draw(what, runs, out, **options)] if what else draw_each(names, runs[0], **options)
    for path in paths:
        print(data.visible(str(path)))
    if data_dir and not any("dataset" in vars(run) for run in runs):  # where cached_property keeps it
        data.note("--data-dir does nothing here: no data set is read")
    return 0 if len(paths) == len(names) else 1


def note_idle(options, names, runs):
    """Print which options none of the pictures has."""
    pictures = f"--what {names[0]}" if len(names) == 1 else "any picture of this model"
    used = set().union(*(options_of(PICTURES[name].function(runs, options)) for name in names))
    for option in options:
        if option not in used:
            flag = f"--{option.replace('_', '-')}" if len(option) > 1 else f"-{option}"
            data.note(f"{flag} does nothing for {pictures}")


def main(argv=None):
    """Runs the command line; returns its exit status."""
    return data.run_command("sample.py", command, argv, models.ModelError)


if __name__ == "__main__":
    sys.exit(main())
