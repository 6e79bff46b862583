"""Trains any model of models.py: flags in, a run folder out, one loop.

    python train.py --model cvae                                # the digits that come with the repository
    python train.py --model vae --encoder gru --data quickdraw5k --latent-dim 64 --epochs 100
    python train.py @experiments/quickdraw-cvae.txt --beta 2    # flags from a file; later flags win
    python train.py --resume runs/cvae-mnist10k                 # continue as if it had never stopped
    torchrun --standalone --nproc_per_node=4 train.py --model vae    # on four processes

A run folder holds config.json (every flag), log.csv (a row per epoch and split), best.pt and last.pt
(checkpoints), summary.json (the final numbers) and pictures. It stays usable if the process is killed at any
moment, and on a CPU a resumed run ends with exactly the weights of an uninterrupted one.

Many processes share out each batch and sum their gradients: the updates are those of one process, except
that each draws noise of its own, and that batch norm is local: it normalizes by the statistics of a share.
"""

import argparse
import contextlib
import csv
import io
import itertools
import math
import os
import platform
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist

import data
import models
import sample
from data import note, number, pick_device, require, visible, write_file, write_json

# -----------------------------------------------------------------------------------------------------------
# Flags. Their defaults are in RUN_DEFAULTS, data.FLAGS and, for what depends on the model, MODEL_DEFAULTS

RUN_DEFAULTS = dict(
    out=None, resume=None, seed=0, device="auto", steps=None, clip=None, bf16=False, patience=None
)
MODEL_DEFAULTS = {  # of training, in the model's class, and of the network, in its constructor
    name: cls.defaults | models.constructor_defaults(name) for name, cls in models.MODELS.items()
}
POSITIVE_COUNT = number(int, 1)
COUNT = number(int, 0)
POSITIVE = number(float, 0, above=True)
WEIGHT = number(float, 0)
SWITCH = argparse.BooleanOptionalAction  # --flag and --no-flag


def flags():
    """The command line. Its parser has no defaults: it returns only the flags that are set."""
    parser = data.Parser(prog="train.py", description=__doc__, argument_default=argparse.SUPPRESS)
    group = parser.add_argument_group("run")
    group.add_argument("--model", choices=models.MODELS, help="what to train")
    group.add_argument("--out", metavar="DIR", help="run folder (default runs/<model>-<data>, then -2, -3)")
    resume_help = "continue this run; only --epochs, --device, --data and --data-dir go with it"
    group.add_argument("--resume", metavar="RUN", help=resume_help)
    group.add_argument("--seed", type=number(int, 0, 2**31), help="of weights, order and noise (default 0)")
    group.add_argument("--device", help="auto (default), cpu, cuda, cuda:1, mps")
    data.add_flags(parser)
    add_training_flags(parser.add_argument_group("training"))
    add_objective_flags(parser.add_argument_group("objective"))
    add_latent_flags(parser.add_argument_group("free latents"))
    add_network_flags(parser.add_argument_group("networks"))
    return parser


def add_training_flags(group):
    add(group, "--epochs", "passes through the training pictures", POSITIVE_COUNT)
    add(group, "--steps", "updates after which training ends, in place of --epochs", POSITIVE_COUNT)
    add(group, "--batch-size", "pictures per update", POSITIVE_COUNT)
    add(group, "--lr", "learning rate of Adam", POSITIVE)
    add(group, "--lr-schedule", "cosine: falls to 0 at the last update", choices=("constant", "cosine"))
    add(group, "--clip", "largest norm of the gradient", POSITIVE)
    add(group, "--bf16", "autocast to bfloat16: faster on processors that support it", action="store_true")
    add(group, "--patience", "stop after so many epochs without a better validation loss", POSITIVE_COUNT)


def add_objective_flags(group):
    objectives = "; ".join(f"{' '.join(cls.objectives)} ({name})" for name, cls in models.MODELS.items())
    add(group, "--objective", f"what is minimized: {objectives}")
    add(group, "--likelihood", "of pixels: cross-entropy or squared error", choices=models.LIKELIHOODS)
    add(group, "--beta", "weight of the KL", WEIGHT)
    add(group, "--kl-warm-up", "during which that weight grows from 0", COUNT, metavar="UPDATES")
    add(group, "--free-bits", "of KL that each latent may use without a penalty", WEIGHT, metavar="NATS")
    add(group, "--spelling", "weight of classifying the drawn characters, 0 for none", WEIGHT)
    add(group, "--iwae-samples", "K of the IWAE bound", POSITIVE_COUNT)
    add(group, "--shift", "largest random translation of training pictures", COUNT, metavar="PIXELS")
    add(group, "--augment", "distort training pictures: move, scale, blur, ...", action=SWITCH)
    add(group, "--gradient-penalty", "gamma of R1 on the discriminator", WEIGHT)
    add(group, "--he-init", "initial weights that preserve the variance of activations", action=SWITCH)


def add_latent_flags(group):
    family = "prior of the free latents, and the family of their posteriors"
    add(group, "--prior", family, choices=models.DISTRIBUTIONS)
    add(group, "--latent-lr", "learning rate of the free latents", POSITIVE)
    add(group, "--refine-epochs", "of refining the training pictures' latents, after training", COUNT)
    add(group, "--fit-epochs", "of fitting latents to the test pictures, after training", COUNT)
    add(group, "--fit-lr", "learning rate of refining and fitting", POSITIVE)
    add(group, "--fit-batch-size", "of refining and fitting, 0 for all pictures at once", COUNT)
    add(group, "--fit-beta", "weight of the KL in refining and fitting (without it: --beta)", WEIGHT)


def add_network_flags(group):
    layers = "convolutions: channels,kernel,stride,padding as in '32,3,2,1 64,3,2,1'"
    transposed = "transposed convolutions, as --encoder-layers, perhaps with output padding"
    label = "its embedding is concatenated with features and with z, or added to z"
    add(group, "--latent-dim", "size of z", POSITIVE_COUNT)
    add(group, "--dense", "units of a layer on each side of z, 0 for none", COUNT)
    add(group, "--squeeze", "units of a sigmoid layer before the latents, 0 for none", COUNT)
    add(group, "--encoder", "an RNN reads a picture row by row", choices=models.ENCODERS)
    add(group, "--encoder-layers", layers)
    add(group, "--encoder-hidden", "units of an RNN or MLP", POSITIVE_COUNT)
    add(group, "--encoder-depth", "layers of an RNN or MLP", POSITIVE_COUNT)
    add(group, "--batch-norm", "after each convolution of the encoder", action=SWITCH)
    add(group, "--bidirectional", "the RNN also reads backwards", action=SWITCH)
    add(group, "--sequence", "features: the RNN's last state or all its outputs", choices=models.SEQUENCES)
    add(group, "--frame-size", "features of a character's picture, 0: as many as there are", COUNT)
    add(group, "--attention", "each step of an answer attends to the query", action=SWITCH)
    add(group, "--decoder", "an RNN writes a picture row by row", choices=models.DECODERS)
    add(group, "--decoder-layers", transposed)
    add(group, "--decoder-start", "the shape that they start from", shape, metavar="C,H,W")
    add(group, "--decoder-norm", "batch norm in a convolutional decoder", action=SWITCH)
    add(group, "--decoder-hidden", "units of an RNN or MLP", POSITIVE_COUNT)
    add(group, "--decoder-depth", "layers of an RNN or MLP", POSITIVE_COUNT)
    add(group, "--decoder-inputs", "units of a linear layer before the RNN, 0 for none", COUNT)
    add(group, "--decoder-readout", "a linear layer after the RNN", action=SWITCH)
    add(group, "--label", label, choices=models.LABELS)
    add(group, "--label-dim", "size of that embedding where it is concatenated", POSITIVE_COUNT)


def add(group, flag, help, type=None, **options):
    """group.add_argument(flag, ...); the help ends with each model's default."""
    name = flag[2:].replace("-", "_")
    models_with = {}  # {default: names of the models that have it}
    for model, defaults in MODEL_DEFAULTS.items():
        if defaults.get(name) is not None:
            models_with.setdefault(str(defaults[name]), []).append(model)
    if models_with:
        defaults = "; ".join(f"{' '.join(names)} {default}" for default, names in models_with.items())
        help = f"{help} (default {defaults})"
    if type:
        options = {"type": type, "metavar": "N"} | options
    group.add_argument(flag, help=help, **options)


def shape(text):
    parts = text.split(",")
    if len(parts) != 3:
        raise argparse.ArgumentTypeError(f"{text!r} is not channels,height,width, as in 128,7,7")
    return tuple(POSITIVE_COUNT(part) for part in parts)


def read_flags(argv):
    """(args, last): every flag of a run, and the content of its last.pt (None for a new run)."""
    parser = flags()
    explicit = vars(parser.parse_args(argv))
    if "resume" in explicit:
        return resumed_flags(parser, explicit)
    if "model" not in explicit:
        parser.error(f"which model? --model {'|'.join(models.MODELS)}")
    model = explicit["model"]
    defaults = default_flags(parser, model)
    for name in explicit:
        if name not in defaults and name != "model":
            parser.error(f"{dashed(name)} does nothing for --model {model}")
    args = argparse.Namespace(**(defaults | explicit))
    note_idle_flags(vars(args), explicit)
    arithmetic = [name for name, cls in models.MODELS.items() if cls.task == "arithmetic"]
    fits = (args.data == "arithmetic") == (model in arithmetic)
    pairs = f"--data arithmetic goes with --model {'|'.join(arithmetic)} and with no other"
    require(fits, f"{pairs}: --model {model} cannot have --data {args.data}")
    return args, None


def default_flags(parser, model):
    values = RUN_DEFAULTS | data.FLAGS | MODEL_DEFAULTS[model]
    known = parser.names | data.FLAGS.keys()  # a constructor's other arguments come from the data
    return {name: value for name, value in values.items() if name in known}


def resumed_flags(parser, explicit):
    """As read_flags, for --resume: the flags of the run, but for those that go with it."""
    for name in explicit:
        if name not in ("resume", "epochs", "device", "data", "data_dir"):
            others = "only --epochs, --device and, for data that have moved, --data and --data-dir do"
            parser.error(f"{dashed(name)} does not go with --resume: {others}")
    folder = explicit["resume"]
    last = read_last(Path(folder))
    saved = check_flags(parser, last["config"]["flags"], f"{folder}/last.pt")
    args = argparse.Namespace(**(saved | explicit))
    is_there = args.data in data.DATASETS or os.path.exists(args.data)
    advice = "give --data for where they are now"
    require(is_there, f"the data of {folder}, {args.data}, are not there: {advice}")
    if "epochs" in explicit:
        epoch = last["state"]["epoch"]
        require(args.epochs >= epoch, f"{folder} is past --epochs {args.epochs}: it has {epoch}")
        args.steps = None
        if args.lr_schedule == "cosine" and last["state"]["step"] > 0:
            note("the cosine schedule is stretched: the learning rate rises again")
    return args, last


def check_flags(parser, saved, where):
    """The flags of a checkpoint, and defaults for those that it lacks. What train.py refuses, it refuses."""
    require(saved["model"] in models.MODELS, f"{where} is damaged: there is no --model {saved['model']!r}")
    defaults = default_flags(parser, saved["model"])
    actions = {action.dest: action for action in parser._actions}
    for name, value in saved.items():
        action = actions.get(name)
        if action is None or value is None and defaults.get(name) is None:
            continue
        try:
            if action.nargs == 0 or isinstance(action, SWITCH):
                fits = isinstance(value, bool)
            elif action.choices:
                fits = value in list(action.choices)
            else:
                text = ",".join(map(str, value)) if action.type is shape else str(value)
                fits = (action.type or str)(text) == value
        except (argparse.ArgumentTypeError, TypeError):
            fits = False
        require(fits, f"{where} is damaged: it has {dashed(name)} {value!r}")
    return defaults | saved


def read_last(folder):
    """The checkpoint from which a run is resumed. Raises Mistake."""
    path = folder / "last.pt"
    require(folder.is_dir(), f"there is no folder {folder}: which run shall be resumed?")
    advice = "repeat the command that began it"
    require(path.exists(), f"{folder} holds no last.pt, so there is no run to resume: {advice}")
    checkpoint = models.read_checkpoint(path)
    is_complete = checkpoint.keys() >= {"config", "state", "optimizers"}
    require(is_complete, f"{path} is a model without the state of its training, so it cannot be resumed")
    data.check_config(checkpoint["config"], path)
    state = checkpoint["state"]
    types = {entry.name: entry.type for entry in fields(State)}
    fits = isinstance(state, dict) and state.keys() == types.keys()
    fits = fits and all(isinstance(state[name], kind) for name, kind in types.items())
    fits = fits and all(is_row(row) for row in state["history"])
    fits = fits and min(state["epoch"], state["step"], state["images"], state["best_epoch"]) >= 0
    fits = fits and 0 <= state["seconds"] < math.inf and state["best_epoch"] <= state["epoch"]
    fits = fits and state["best"] > -math.inf and (state["step"] == 0 or len(state["history"]) > 0)
    model = models.MODELS.get(checkpoint["config"]["flags"]["model"])
    phases = {"refined", "test_latents"} if model and model.has_free_latents else set()
    fits = fits and set(state["finished_phases"]) <= phases
    require(fits, f"{path} is damaged, or of another version: its state is not that of a run")
    return checkpoint


def is_row(row):
    """Whether a value is a row of log.csv: an epoch, a split, and numbers or lists of numbers."""
    if not isinstance(row, dict) or not isinstance(row.get("epoch"), int):
        return False
    lists = [value if isinstance(value, list) else [value] for name, value in row.items() if name != "split"]
    are_numbers = all(isinstance(number, int | float) for numbers in lists for number in numbers)
    return are_numbers and isinstance(row.get("split"), str)


def note_idle_flags(values, explicit):
    """Print which explicit flags have no effect because of the values of others."""
    reasons = {}  # name of an idle flag: why it is idle
    for side, flags_of in (("encoder", models.ENCODERS), ("decoder", models.DECODERS)):
        network = values.get(side)
        if network:
            idle = set().union(*flags_of.values()) - set(flags_of[network])
            reasons |= dict.fromkeys(idle, f"with --{side} {network}")
    if values.get("label") == "add":
        reasons["label_dim"] = "with --label add"
    if values["data"] not in ("mnist", "fashion", "quickdraw", "arithmetic"):
        reasons["data_dir"] = f"with --data {values['data']}"
    if values.get("objective") != "iwae":
        reasons["iwae_samples"] = "without --objective iwae"
    for name in explicit:
        if name in reasons:
            note(f"{dashed(name)} does nothing {reasons[name]}")


def dashed(name):
    return "--" + name.replace("_", "-")


# -----------------------------------------------------------------------------------------------------------
# A run


@dataclass
class State:
    """How far a run has come, as last.pt keeps it: plain numbers, text, and lists of them."""

    epoch: int = 0  # epochs that have ended
    step: int = 0  # updates
    images: int = 0  # seen in training and in fitting latents
    seconds: float = 0.0  # that this took
    best: float | int = math.inf  # validation loss
    best_epoch: int = 0
    history: list = field(default_factory=list)  # rows of log.csv
    finished_phases: list = field(default_factory=list)  # buffers that fit_free_latents has filled


@dataclass
class Training:
    """What the epochs, the evaluation and the checkpoints of a run share."""

    args: argparse.Namespace  # every flag
    config: dict  # what config.json holds
    folder: Path
    device: torch.device
    dataset: data.Dataset  # on the CPU
    model: models.Model
    optimizers: list  # one for each of model.turns()
    state: State
    saved_epoch: int | None  # that last.pt holds

    @property
    def updates_per_epoch(self):
        return math.ceil(len(self.dataset.train.x) / self.args.batch_size)

    @property
    def total_steps(self):
        return self.args.steps or self.args.epochs * self.updates_per_epoch

    @property
    def total_epochs(self):
        return math.ceil(self.total_steps / self.updates_per_epoch)

    def log(self, split, terms, epoch):
        """Add a row to log.csv, unless there are no terms."""
        if terms:
            row = dict(epoch=epoch, step=self.state.step, split=split, seconds=self.state.seconds)
            self.state.history.append(row | terms)

    def seed(self, rank=0):
        """Seed by the run's seed and its number of epochs, so that a resumed run draws the same numbers, and
        by the number of a process."""
        # torch keeps 32 bits of a seed; this factor of the rank sets them far apart
        torch.manual_seed(self.args.seed * 1_000_003 + self.state.epoch + rank * 2_654_435_769)

    def save_best(self):
        epoch = self.state.epoch
        write_file(self.folder / "best.pt", lambda file: models.save(file, self.model, epoch=epoch))

    def save_last(self):
        """Write last.pt, from which a run is resumed, and log.csv; returns the epoch that it holds."""
        extras = dict(
            config=self.config,
            state=asdict(self.state),
            optimizers=[optimizer.state_dict() for optimizer in self.optimizers],
        )
        write_file(self.folder / "last.pt", lambda file: models.save(file, self.model, **extras))
        self.saved_epoch = self.state.epoch
        self.write_log()
        return self.saved_epoch

    def write_log(self):
        """Write log.csv from the whole history, so that a resumed run has no row twice."""
        units = {"seconds": "s"} | self.config["units"]
        names = list(dict.fromkeys(name for row in self.state.history for name in row))
        text = io.StringIO()
        table = csv.DictWriter(text, names)
        table.writerow({name: f"{name} [{units[name]}]" if units.get(name) else name for name in names})
        for row in self.state.history:
            table.writerow({name: csv_cell(value) for name, value in row.items()})
        try:
            write_file(self.folder / "log.csv", lambda file: file.write(text.getvalue().encode()))
        except PermissionError as error:  # on Windows, while a spreadsheet has the file open
            note(f"log.csv is not up to date ({error.strerror}): later epochs, or --resume, write it")


def csv_cell(value):
    return " ".join(f"{x:.4g}" for x in value) if isinstance(value, list) else value


def main(argv=None):
    """Runs the command line; returns its exit status."""
    return data.run_command("train.py", run, argv, models.ModelError)


@data.process_group()
def run(argv):
    args, last = data.from_first(read_flags, argv)
    if last and last["config"].get("processes", 1) == data.world_size() and not last["config"].get("gpu"):
        torch.set_num_threads(last["config"]["threads"])  # other threads round sums otherwise
    device = pick_device(args.device)
    dataset = data.from_first(data.load, **{name: vars(args)[name] for name in data.FLAGS})
    is_mean = args.objective != "report" or data.world_size() == 1
    require(is_mean, "--objective report is not a mean over pictures: train it with one process")
    has_validation_loss = models.MODELS[args.model].has_validation_loss and len(dataset.valid.x) > 0
    patience_fits = not args.patience or has_validation_loss
    require(patience_fits, "--patience needs a validation loss, and there is none here")
    model = make_model(args, dataset, last).to(device)
    optimizers = make_optimizers(model, args.lr)
    folder = Path(args.resume) if last else data.from_first(new_folder, args, dataset)
    with data.lock(folder) if data.rank() == 0 else contextlib.nullcontext():
        if last:
            config = last["config"] | dict(flags=vars(args), units=models.UNITS | model.units)
            config |= machine(device)
            config["gpu"] = config["gpu"] or last["config"].get("gpu")  # on which some epochs were trained
            state = State(**last["state"])
            load_optimizers(optimizers, last["optimizers"], folder / "last.pt")
        else:
            config = make_config(args, dataset, argv, model) | machine(device)
            state = State()
        # before last.pt, which no folder has without its flags
        data.from_first(write_json, folder / "config.json", config)
        saved_epoch = state.epoch if last else None
        training = Training(args, config, folder, device, dataset, model, optimizers, state, saved_epoch)
        epochs = math.ceil(state.step / training.updates_per_epoch)
        damaged = f"{folder}/last.pt is damaged: {state.step} steps are {epochs} epochs"
        require(epochs == state.epoch, damaged)
        return train_to_the_end(training)


def make_model(args, dataset, last):
    """The model that the flags describe, with the weights of `last` if a run is resumed."""
    known = vars(args) | dict(
        image_shape=dataset.image_shape,
        n_classes=len(dataset.classes),
        n_train=len(dataset.train.x),
        n_test=len(dataset.test.x),
    )
    takes = models.constructor_defaults(args.model)
    arguments = {name: value for name, value in known.items() if name in takes}
    if last:
        digest = last["config"].get("data_digest")  # which runs of older versions do not have
        # an argument that an older version did not have has its default
        is_same = arguments | last["arguments"] == arguments and digest in (None, data.digest(dataset))
        is_same = is_same and last["config"]["classes"] == dataset.classes
        advice = "if those lie elsewhere now, give --data or --data-dir"
        require(is_same, f"the data are not those that {args.resume} was trained on: {advice}")
    torch.manual_seed(args.seed)
    model = models.build(args.model, **arguments)
    if last:
        try:
            models.load_weights(model, last["weights"])
        except models.ModelError as error:
            raise data.Mistake(f"{args.resume}/last.pt is damaged: {error}") from None
    return model


def make_optimizers(model, lr):
    """An Adam for each turn; a parameter group may have a learning rate of its own."""
    optimizers = [torch.optim.Adam(turn.param_groups, lr=lr, fused=True) for turn in model.turns()]
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["initial_lr"] = group["lr"]  # which a schedule multiplies
    return optimizers


def is_like(saved, tensor):
    """Whether something is a tensor of the same type, shape and layout in memory as another."""
    if not isinstance(saved, torch.Tensor) or saved.layout != tensor.layout:
        return False
    return (saved.dtype, saved.shape, saved.stride()) == (tensor.dtype, tensor.shape, tensor.stride())


def load_optimizers(optimizers, saved, path):
    """Load Adam's moments, whose sizes its fused kernel trusts. Learning rates follow from the flags."""
    damaged = f"{path} is damaged: its optimizers are not those of its model"
    require(isinstance(saved, list) and len(saved) == len(optimizers), damaged)
    for optimizer, content in zip(optimizers, saved, strict=True):
        params = [param for group in optimizer.param_groups for param in group["params"]]
        require(isinstance(content, dict) and isinstance(content.get("state"), dict), damaged)
        for index, entry in content["state"].items():
            require(type(index) is int and 0 <= index < len(params), damaged)
            is_entry = isinstance(entry, dict) and entry.keys() == {"step", "exp_avg", "exp_avg_sq"}
            require(is_entry and is_like(entry["step"], torch.tensor(0.0)), damaged)
            moments = (entry["exp_avg"], entry["exp_avg_sq"])
            require(all(is_like(moment, params[index]) for moment in moments), damaged)
        optimizer.load_state_dict(optimizer.state_dict() | {"state": content["state"]})


def new_folder(args, dataset):
    """A new folder, or an empty --out. Nothing is ever overwritten."""
    if not args.out:
        name = f"{args.model}-{dataset.name}"
        Path("runs").mkdir(exist_ok=True)  # an OSError if it is a file, or a link to nowhere
        for count in itertools.count(1):
            folder = Path("runs", name if count == 1 else f"{name}-{count}")
            with contextlib.suppress(FileExistsError):
                folder.mkdir()  # no two processes make the same
                return folder
    folder = Path(args.out)
    require(folder.is_dir() or not folder.exists(), f"--out {folder} is a file: name a folder")
    folder.mkdir(parents=True, exist_ok=True)
    names = {path.name for path in folder.iterdir()}
    is_run = "last.pt" in names
    require(not is_run, f"--out {folder} holds a run already: name another, or --resume {folder}")
    # what a run leaves that was killed before its first last.pt
    ours = re.compile(r"\.lock|epochs|config\.json|best\.pt|\.(config\.json|(best|last)\.pt)\.\d+\.tmp")
    is_free = not names or ".lock" in names and all(ours.fullmatch(name) for name in names)
    if is_free and "best.pt" in names:  # of the untrained model; a later one may be all that the user kept
        is_free = models.read_checkpoint(folder / "best.pt").get("epoch") == 0
    require(is_free, f"--out {folder} is not empty: name a new folder, for nothing is overwritten")
    return folder


def train_to_the_end(training):
    """Train, fit free latents and evaluate; returns the exit status."""
    folder = training.folder.as_posix()  # backslashes would be quoted by ', which Windows' cmd does not know
    resume = visible(f"python train.py --resume {shlex.quote(folder)}")
    announce(training)
    try:
        fit(training)
        if training.model.has_free_latents:
            fit_free_latents(training)
        data.from_first(finish, training)
    except NotImplementedError:  # a function that an assignment leaves to its reader
        if training.state.step == 0 and not training.args.resume and data.rank() == 0:
            shutil.rmtree(training.folder, ignore_errors=True)
        raise
    except (KeyboardInterrupt, RuntimeError) as error:
        is_stop = isinstance(error, KeyboardInterrupt) or data.is_disconnection(error)
        if not is_stop or training.saved_epoch is None:
            raise
        stop = f"stopped after epoch {training.saved_epoch}; to continue: {resume}"
        raise KeyboardInterrupt(stop) from None
    except OSError as error:  # a full disk, or a file that Windows keeps because a program has it open
        where = f": {error.filename}" if error.filename else ""  # stdout, closed or full, has no name
        require(training.saved_epoch is None, f"{error.strerror}{where}; then {resume}")
        raise


def make_config(args, dataset, argv, model):
    """What config.json holds: enough to repeat the run."""
    git = ["git", "-C", str(Path(__file__).parent), "rev-parse", "HEAD"]
    try:
        commit = subprocess.run(git, capture_output=True, text=True).stdout.strip() or None
    except OSError:  # git is not installed
        commit = None
    return dict(
        command="python train.py " + shlex.join(argv),
        flags=vars(args),
        classes=dataset.classes,
        image_shape=list(dataset.image_shape),
        units=models.UNITS | model.units,
        data_digest=data.digest(dataset),
        versions=dict(python=platform.python_version(), torch=str(torch.__version__), numpy=np.__version__),
        git_commit=commit,
    )


def machine(device):
    """On what a run is trained, for config.json."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
    return dict(
        processes=data.world_size(),
        threads=torch.get_num_threads(),  # of each process
        gpu=None if device.type == "cpu" else name,
    )


def announce(training):
    """Print what is trained, on which data, and where."""
    dataset = training.dataset
    sizes = ", ".join(f"{len(dataset.split(name).x):,} {name}" for name in data.SPLITS)
    sides = " x ".join(str(side) for side in dataset.image_shape)
    content = f"pictures of {sides}" if len(dataset.image_shape) > 1 else f"queries of {sides} characters"
    print(visible(f"{training.args.model} on {dataset.name} ({sizes}; {content}) -> {training.folder}"))
    parameters = sum(p.numel() for p in training.model.parameters())
    threads = f"{training.config['threads']} threads"
    if data.world_size() > 1:
        threads = f"{data.world_size()} processes x {threads}"
    print(f"{parameters:,} parameters, {training.device}, {threads}, torch {torch.__version__}")


# -----------------------------------------------------------------------------------------------------------
# The loop


def fit(training):
    """Train until the epochs, updates or patience are used up; after each epoch, evaluate, save and sample.

    Epoch 0 evaluates the untrained model. A resumed run begins with the first epoch that has not ended.
    """
    model = training.model
    state = training.state
    train = training.dataset.train.to(training.device)
    valid = training.dataset.valid.to(training.device)
    console = Console(training)
    first = state.epoch + 1 if state.history else 0
    if first > training.total_epochs:
        print(f"all {state.epoch} epochs are trained already: --epochs trains more")
    elif data.rank() == 0:
        (training.folder / "summary.json").unlink(missing_ok=True)  # of fewer epochs: `finish` makes it anew
    for epoch in range(first, training.total_epochs + 1):
        if is_out_of_patience(training):
            print(f"stopped: no better validation loss for {training.args.patience} epochs")
            break
        trained = train_epoch(training, train, console) if epoch > 0 else {}
        validated = {}
        if model.has_validation_loss and len(valid.x):
            validated = data.from_first(evaluate, model, valid)
            is_finite = math.isfinite(validated["loss"])
            require_finite(training, is_finite, f"the validation loss after step {state.step}")
        elif trained and not model.has_validation_loss:
            trained |= data.from_first(evaluate, model, train)  # its diagnosis
        warning = (validated or trained).pop("warning", None)
        training.log("train", trained, epoch)
        training.log("valid", validated, epoch)
        score = validated.get("loss", -epoch)  # without a validation loss, the last epoch is the best
        if score < state.best:
            state.best = score
            state.best_epoch = epoch
            data.from_first(training.save_best)
        if model.draws_samples:
            data.from_first(sample.snapshot, training.folder, model, epoch)
        # after the snapshot, so that a killed epoch is repeated with its snapshot
        training.saved_epoch = data.from_first(training.save_last)
        console.end_epoch(trained, validated, warning)


def is_out_of_patience(training):
    """Whether the best epoch was --patience epochs ago. They are counted from the end of the KL warm-up."""
    patience = training.args.patience
    warm_up = math.ceil(training.model.kl_warm_up / training.updates_per_epoch)  # epochs
    idle = training.state.epoch - max(training.state.best_epoch, warm_up)
    return patience is not None and idle >= patience


def train_epoch(training, split, console):
    """One pass over the shuffled split; returns the mean of each term that the losses report."""
    model = training.model
    state = training.state
    model.train()
    training.seed()
    order = torch.randperm(len(split.x)).to(training.device)  # the same in every process
    if data.rank() > 0:
        training.seed(data.rank())  # for noise of its own
    rows = []  # the terms of each update
    sizes = []  # of the batches
    images = 0
    started = time.perf_counter()
    for index in order.split(training.args.batch_size)[: training.total_steps - state.step]:
        share = index[data.rank() :: data.world_size()]
        weight = len(share) / len(index)
        if weight == 0:  # the last batch may have fewer pictures than there are processes
            share = index  # of weight 0, so that this process has terms and gradients as the others have
        batch = models.Batch(*split.batch(share), share)
        terms = {}
        for optimizer, turn in zip(training.optimizers, model.turns(), strict=True):
            terms |= update(training, optimizer, turn.loss, batch, weight)
        values = torch.stack([term.detach() for term in terms.values()])  # .item() would wait for a GPU
        rows.append(weight * values)
        sizes.append(len(index))
        images += len(index)
        state.step += 1
        console.show_progress(images, time.perf_counter() - started)
    table = torch.stack(rows)  # (updates, terms)
    if data.world_size() > 1:
        dist.all_reduce(table)  # the sum
        for buffer in model.buffers():  # running means of batch norm, of which those of the first are saved
            dist.broadcast(buffer, 0)
    are_finite = table.isfinite().all(1).tolist()
    for step, is_finite in enumerate(are_finite, state.step - len(rows) + 1):
        require_finite(training, is_finite, f"the training loss at step {step}")
    are_finite = all(param.isfinite().all() for param in model.parameters())
    require_finite(training, are_finite, f"a weight after step {state.step}")
    for name in state.finished_phases:  # these latents were fitted to the decoder as it was
        model.get_buffer(name).fill_(math.nan)
    state.history = [row for row in state.history if row["split"] not in state.finished_phases]
    state.finished_phases = []
    state.epoch += 1
    state.images += images
    state.seconds += time.perf_counter() - started
    weights = torch.tensor(sizes, dtype=torch.float32, device=table.device) / images
    return dict(zip(terms, (weights @ table).tolist(), strict=True))


def update(training, optimizer, loss_function, batch, weight):
    """One step of one optimizer; returns the terms that the loss function reports. The weight is this
    process's share of the batch, 1 where there are no others."""
    args = training.args
    with torch.autocast(batch.x.device.type, torch.bfloat16, enabled=args.bf16):
        try:
            loss, terms = loss_function(batch, training.state.step)
        except ValueError:  # of batch norm, which cannot normalize a single number
            single = "a batch of one picture, which batch norm cannot normalize"
            require(len(batch.x) > 1, f"--batch-size {args.batch_size} leaves {single}: give another")
            raise
    optimizer.zero_grad()
    params = [p for group in optimizer.param_groups for p in group["params"] if p.requires_grad]
    # without the gradients of the discriminator in the generator's turn: 1.05 times as fast, 1.1 in bfloat16
    (weight * loss).backward(inputs=params)
    if data.world_size() > 1:
        sum_gradients(params)
    factor = 1
    if args.lr_schedule == "cosine":
        factor = (1 + math.cos(math.pi * training.state.step / training.total_steps)) / 2
    for group in optimizer.param_groups:
        group["lr"] = factor * group["initial_lr"]
    if args.clip:
        torch.nn.utils.clip_grad_norm_(params, args.clip)
    optimizer.step()
    return terms


def sum_gradients(params):
    """Replace each gradient by its sum over all processes. They travel as one flat buffer, because every
    message costs time of its own.

    torch's DistributedDataParallel does so from hooks on `forward`, which our losses do not call, and waits
    for a gradient of every parameter, while each of a GAN's turns has those of one network.
    """
    for param in params:
        if param.grad is None:  # here, while it may have one in another process
            param.grad = torch.zeros_like(param)
    gradients = [param.grad for param in params]
    flat = torch.cat([gradient.flatten() for gradient in gradients])
    dist.all_reduce(flat)
    sums = flat.split([gradient.numel() for gradient in gradients])
    for gradient, total in zip(gradients, sums, strict=True):
        gradient.copy_(total.view_as(gradient))


def evaluate(model, split):
    """The mean of each loss term over a split, at the final weights of the terms, and the model's diagnosis.

    Each example meets the same noise in every epoch, so that no lucky draw chooses the best checkpoint.
    """
    model.eval()
    torch.manual_seed(0)
    means = {}
    with torch.inference_mode():
        if model.has_validation_loss:  # else its loss is only defined in training
            for x, y in models.batches(split):
                _, terms = model.loss(models.Batch(x, y, None), math.inf)
                for name, value in terms.items():
                    means[name] = means.get(name, 0) + value.item() * len(x) / len(split.x)
        return means | model.diagnose(split)


def require_finite(training, is_finite, quantity):
    advice = f"try a lower --lr, or --clip 1 (last good epoch: {training.saved_epoch})"
    require(is_finite, f"{quantity} is not a finite number: {advice}")


def fit_free_latents(training):
    """The two phases after an auto-decoder's training, with the decoder frozen: refine the latents of the
    training pictures, then fit those of the test pictures."""
    model = training.model
    dataset = training.dataset
    fit_phase(training, "refined", dataset.train, model.refine_epochs, model.latents.weight.detach())
    fit_phase(training, "test_latents", dataset.test, model.fit_epochs, None)


def fit_phase(training, name, split, epochs, start):
    """Fit latents to a split, from `start` (None: random), into the model's buffer of that name."""
    model = training.model
    state = training.state
    if epochs == 0 or len(split.x) == 0 or name in state.finished_phases:
        return
    title = name.replace("_", " ")
    first = state.epoch if name == "refined" else 0  # its curve continues that of training
    advice = f"train again with --fit-lr {model.fit_lr / 10:g}"

    def callback(epoch, loss):
        require(math.isfinite(loss), f"fitting the {title} does not converge: {advice}")
        training.log(name, {"loss": loss}, first + epoch)
        if epoch % math.ceil(epochs / 10) == 0 or epoch == epochs:
            print(f"{title}: epoch {epoch}/{epochs}, loss {loss:.5g}", flush=True)

    training.seed()
    x, _ = split.to(training.device).batch(slice(None))
    started = time.perf_counter()
    options = dict(batch_size=model.fit_batch_size, start=start, beta=model.fit_beta, callback=callback)
    latents = model.fit_latents(x, epochs, model.fit_lr, **options)
    model.get_buffer(name).copy_(latents)
    state.images += epochs * len(x)
    state.seconds += time.perf_counter() - started
    state.finished_phases.append(name)
    data.from_first(training.save_best)  # without a validation loss, the last model is the best
    training.saved_epoch = data.from_first(training.save_last)


# -----------------------------------------------------------------------------------------------------------
# What a run prints and writes


class Console:
    """Prints a line for each epoch and, on a terminal, one that shows the progress within an epoch."""

    def __init__(self, training):
        self.training = training
        self.is_terminal = sys.stdout.isatty()
        self.has_header = False
        self.warning = None  # the last one
        self.refreshed = 0.0  # when the line of progress last changed

    def pace(self, images, seconds):
        """Images per second and, from that, the time left."""
        if seconds == 0:
            return ""
        rate = images / seconds
        steps_left = self.training.total_steps - self.training.state.step
        seconds_left = round(steps_left * self.training.args.batch_size / rate)
        return f"{rate:>9,.0f} images/s  {seconds_left // 60}:{seconds_left % 60:02d} left"

    def show_progress(self, images, seconds):
        """Show how far training is, after so many images and seconds of this epoch."""
        now = time.perf_counter()
        if self.is_terminal and now - self.refreshed > 0.2:
            self.refreshed = now
            state = self.training.state
            epoch = f"epoch {state.epoch + 1}/{self.training.total_epochs}"
            share = f"{state.step / self.training.total_steps:4.0%}"
            print(f"\r{epoch}  {share}{self.pace(images, seconds)}\x1b[K", end="", flush=True)

    def end_epoch(self, trained, validated, warning):
        """Print both losses, and the other terms of the validation or, without one, of the training."""
        if not trained and not validated:
            return
        split = "validation" if validated else "train"
        terms = validated or trained
        columns = {}  # (split, term): value
        if "loss" in terms:
            columns["train", "loss"] = trained.get("loss")  # None before the first epoch
        for name, value in terms.items():
            if name != "kl_per_dimension":  # which, in log.csv, is too long for a column
                columns[split, name] = value
        if not self.has_header:
            self.has_header = True
            units = self.training.config["units"]
            titles = [(split, name.replace("_", " "), units.get(name, "")) for split, name in columns]
            for line in zip(*titles, strict=True):
                print(" " * 9 + "".join(f"{title:>15}" for title in line))
        state = self.training.state
        cells = "".join(f"{'-':>15}" if value is None else f"{value:15.5g}" for value in columns.values())
        start = "\r\x1b[K" if self.is_terminal else ""
        epoch = f"{state.epoch:>4}/{self.training.total_epochs:<4}"
        print(f"{start}{epoch}{cells}{self.pace(state.images, state.seconds)}", flush=True)
        if state.epoch and warning not in (None, self.warning):  # an untrained model deserves every warning
            self.warning = warning
            print(f"warning: {warning}", file=sys.stderr)


def finish(training):
    """Print the best checkpoint's final numbers, draw the pictures, and write the numbers to summary.json,
    which comes last: a run that has it is complete."""
    state = training.state
    units = training.config["units"]
    model = models.load(training.folder / "best.pt", training.device)
    scores = score_splits(model, training.dataset, training.device)
    names = {name for terms in scores.values() for name in terms}
    summary = dict(
        model=training.args.model,
        data=training.dataset.name,
        epochs=state.epoch,
        steps=state.step,
        best_epoch=state.best_epoch,
        **scores,
        units={name: unit for name, unit in units.items() if name in names},
        parameters=sum(p.numel() for p in model.parameters()),
        seconds=state.seconds,
        images_per_second=state.images / state.seconds if state.seconds else None,
        peak_memory_mb=peak_memory(training.device),
    )
    training.write_log()  # once more, if a program had it open
    print(f"best epoch {state.best_epoch} of {state.epoch}, {state.seconds:.0f} s of training")
    for split, terms in scores.items():
        numbers = {name: value for name, value in terms.items() if not isinstance(value, list)}
        parts = [f"{name} {value:.5g} {units.get(name, '')}" for name, value in numbers.items()]
        print(f"{split}: " + ", ".join(part.strip() for part in parts))
    paths = sample.draw_run(training.folder, model.cpu(), training.dataset)
    print("pictures: " + " ".join(str(path) for path in paths))
    write_json(training.folder / "summary.json", summary)


def score_splits(model, dataset, device):
    """{split: {term: mean}} of every split on which the model can be scored."""
    if model.has_free_latents:
        return model.evaluate_latents(dataset.train.to(device), dataset.test.to(device))
    scores = {}
    for name in ("valid", "test") if model.has_validation_loss else ("train",):
        split = dataset.split(name)
        if len(split.x):
            scores[name] = evaluate(model, split.to(device))
            scores[name].pop("warning", None)
    return scores


def peak_memory(device):
    """Of the GPU, else of this process, in MB; None where the system does not report it."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 1e6
    try:
        import resource
    except ImportError:  # Windows
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 1e6 if sys.platform == "darwin" else peak / 1e3  # macOS counts bytes, Linux KiB


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # kill ends training in the same way as Ctrl-C
    sys.exit(main())
