"""Trains any model of models.py: flags in, a run folder out, one loop.

    python train.py --model cvae                                # the digits that come with the repository
    python train.py --model vae --encoder gru --data quickdraw5k --latent-dim 64 --epochs 100
    python train.py @experiments/quickdraw-cvae.txt --beta 2    # flags from a file; those after it win
    python train.py --resume runs/cvae-mnist10k                 # go on as if it had never stopped

A run folder holds config.json (every flag), log.csv (a row per epoch and split), best.pt and last.pt
(checkpoints), summary.json (the final numbers) and pictures. A kill at any moment leaves it usable, and on a
CPU a resumed run ends with the very weights of an uninterrupted one.
"""

import argparse
import csv
import io
import json
import math
import platform
import shlex
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import torch

import data
import models
import sample
from data import Mistake, number, pick_device, write_file

# -----------------------------------------------------------------------------------------------------------
# Flags


def flags():
    """The command line. Defaults of a model's flags stand in its constructor, those of training in its
    class; the help reads them there."""
    parser = data.Parser(prog="train.py", description=__doc__)

    group = parser.add_argument_group("run")
    group.add_argument("--model", choices=models.MODELS, help="what to train")
    group.add_argument("--out", metavar="DIR", help="run folder (default runs/<model>-<data>, then -2, -3)")
    group.add_argument(
        "--resume", metavar="RUN", help="go on with this run; beside it --epochs and --device"
    )
    group.add_argument("--seed", type=number(int, 0, 2**31), default=0, help="of weights, order and noise")
    group.add_argument("--device", default="auto", help="auto (default), cpu, cuda, cuda:1, mps")

    data.add_flags(parser)

    group = parser.add_argument_group("training")
    add = adder(group, lambda model: models.MODELS[model].defaults)
    add("--epochs", type=number(int, 1), help="times through the training pictures")
    add("--steps", type=number(int, 1), help="end after so many updates, whatever the epochs say")
    add("--batch-size", type=number(int, 1), help="pictures for each update")
    add("--lr", type=number(float, 0, above=True), help="Adam's learning rate")
    add("--lr-schedule", choices=("constant", "cosine"), help="cosine: falls to 0 at the last update")
    add("--clip", type=number(float, 0, above=True), help="largest norm of the gradient")
    group.add_argument(
        "--bf16", action="store_true", help="most sums in bfloat16: faster where the processor knows it"
    )
    add("--patience", type=number(int, 1), help="stop after so many epochs without a better validation loss")

    add_objective_flags(parser)
    add_network_flags(parser)
    return parser


def add_objective_flags(parser):
    add = adder(parser.add_argument_group("objective"), models.constructor_defaults)
    choices = "; ".join(f"{' '.join(cls.objectives)} ({name})" for name, cls in models.MODELS.items())
    add("--objective", help=f"what is minimized: {choices}")
    add("--likelihood", choices=models.LIKELIHOODS, help="of pixels: cross-entropy or squared error")
    add("--beta", type=number(float, 0), help="weight of the KL")
    add("--kl-warm-up", type=number(int, 0), metavar="UPDATES", help="during which that weight grows from 0")
    add(
        "--free-bits", type=number(float, 0), metavar="NATS", help="of KL that each latent spends at no cost"
    )
    add("--spelling", type=number(float, 0), help="weight of naming the drawn characters, 0 for none")
    add("--iwae-samples", type=number(int, 1), help="K of the IWAE bound")
    add("--shift", type=number(int, 0), metavar="PIXELS", help="move training pictures by up to so many")
    add(
        "--augment",
        action=argparse.BooleanOptionalAction,
        help="disguise training pictures: moved, blurred, ...",
    )
    add("--gradient-penalty", type=number(float, 0), help="gamma of R1 on the discriminator")
    add("--he-init", action=argparse.BooleanOptionalAction, help="weights that keep the size of signals")

    add("--latent-lr", type=number(float, 0, above=True), help="of the free latents")
    add(
        "--prior",
        choices=models.DISTRIBUTIONS,
        help="of the free latents, and their own kind of distribution",
    )
    add("--refine-epochs", type=number(int, 0), help="of the training latents alone, after training")
    add("--fit-epochs", type=number(int, 0), help="in which the test pictures' latents are found")
    add("--fit-lr", type=number(float, 0, above=True), help="learning rate of both")
    add("--fit-batch-size", type=number(int, 0), help="of both, 0 for all pictures at once")
    add("--fit-beta", type=number(float, 0), help="weight of the KL in both (without it: --beta)")


def add_network_flags(parser):
    add = adder(parser.add_argument_group("networks"), models.constructor_defaults)
    add("--latent-dim", type=number(int, 1), help="size of z")
    add("--dense", type=number(int, 0), help="units of a layer on each side of z, 0 for none")
    add("--encoder", choices=models.ENCODERS, help="an RNN reads a picture row by row")
    add("--encoder-layers", help="convolutions: channels,kernel,stride,padding as in '32,3,2,1 64,3,2,1'")
    add("--encoder-hidden", type=number(int, 1), help="units of an RNN or MLP")
    add("--encoder-depth", type=number(int, 1), help="layers of an RNN or MLP")
    add("--bidirectional", action=argparse.BooleanOptionalAction, help="the RNN also reads backwards")
    add("--frame-size", type=number(int, 0), help="numbers a character's picture becomes, 0: as they come")
    add("--attention", action=argparse.BooleanOptionalAction, help="each step of an answer sees the query")
    add("--sequence", choices=models.SEQUENCES, help="what an RNN hands on: its last state or every output")
    add("--batch-norm", action=argparse.BooleanOptionalAction, help="after each convolution of the encoder")
    add("--decoder", choices=models.DECODERS, help="an RNN writes a picture row by row")
    add("--squeeze", type=number(int, 0), help="units of a sigmoid layer before the latents, 0 for none")
    add(
        "--decoder-norm",
        action=argparse.BooleanOptionalAction,
        help="batch norm in a decoder of convolutions",
    )
    add("--decoder-start", type=shape, metavar="C,H,W", help="what its transposed convolutions start from")
    add("--decoder-layers", help="transposed convolutions, as --encoder-layers, perhaps with output padding")
    add("--decoder-hidden", type=number(int, 1), help="units of an RNN")
    add("--decoder-depth", type=number(int, 1), help="layers of an RNN")
    add("--decoder-inputs", type=number(int, 0), help="units of a linear layer before the RNN, 0 for none")
    add("--decoder-readout", action=argparse.BooleanOptionalAction, help="a linear layer after the RNN")
    add("--label", choices=models.LABELS, help="an embedding of it, beside features and z or added to z")
    add("--label-dim", type=number(int, 1), help="size of that embedding where it stands beside")


def adder(group, defaults):
    """add_argument for flags whose default hangs on the model: left at None here, told by the help."""

    def add(flag, help, **options):
        name = flag[2:].replace("-", "_")
        values = {}
        for model in models.MODELS:
            if name in defaults(model):
                values.setdefault(str(defaults(model)[name]), []).append(model)
        if "type" in options:
            options.setdefault("metavar", "N")
        told = "; ".join(f"{' '.join(which)} {value}" for value, which in values.items() if value != "None")
        group.add_argument(flag, help=f"{help} (default {told})" if told else help, **options)

    return add


def shape(text):
    parts = text.split(",")
    if len(parts) != 3 or not all(part.strip().isdigit() and int(part) for part in parts):
        raise argparse.ArgumentTypeError(f"{text!r} is not channels,height,width, as in 128,7,7")
    return tuple(int(part) for part in parts)


def dashed(name):
    return "--" + name.replace("_", "-")


def read_flags(argv):
    """(every flag of a run, what its last.pt holds); the latter is None in a new run."""
    parser = flags()
    args = parser.parse_args(argv)
    unset = argparse.Namespace(**dict.fromkeys(vars(args)))  # argparse sets no default over these
    given = {name for name, value in vars(parser.parse_args(argv, unset)).items() if value is not None}
    if args.resume:
        for name in given - {"resume", "epochs", "device"}:
            parser.error(f"{dashed(name)} does not go with --resume: only --epochs and --device do")
        return resumed_flags(args, given)
    if not args.model:
        parser.error(f"which model? --model {'|'.join(models.MODELS)}")
    takes = models.constructor_defaults(args.model)
    for name in (
        given
        & {name for model in models.MODELS for name in models.constructor_defaults(model)} - takes.keys()
    ):
        parser.error(f"{dashed(name)} does nothing for --model {args.model}")
    for side, kinds in (("encoder", models.ENCODERS), ("decoder", models.DECODERS)):
        kind = getattr(args, side) or takes.get(side)
        for name in given & set().union(*kinds.values()) - set(kinds.get(kind, given)):
            print(f"note: {dashed(name)} does nothing with --{side} {kind}", file=sys.stderr)
    if "label_dim" in given and args.label == "add":
        print("note: --label-dim does nothing with --label add", file=sys.stderr)
    if "iwae_samples" in given and args.objective != "iwae":
        print("note: --iwae-samples does nothing without --objective iwae", file=sys.stderr)
    for name, value in (takes | models.MODELS[args.model].defaults).items():
        if name not in given and hasattr(args, name):
            setattr(args, name, value)
    arithmetic = [name for name, cls in models.MODELS.items() if cls.task == "arithmetic"]
    if (args.data == "arithmetic") != (args.model in arithmetic):
        pairs = f"--data arithmetic is for --model {'|'.join(arithmetic)} and they for it"
        raise Mistake(f"{pairs}: --model {args.model} cannot have --data {args.data}")
    return args, None


def resumed_flags(args, given):
    last = read_last(Path(args.resume))
    flags = argparse.Namespace(**last["config"]["flags"] | {"resume": args.resume})
    if "device" in given:
        flags.device = args.device
    if "epochs" in given:
        flags.epochs, flags.steps = args.epochs, None
        if flags.lr_schedule == "cosine" and last["state"]["step"] > 0:
            print("note: the cosine schedule is stretched: the learning rate rises again", file=sys.stderr)
        if args.epochs < last["state"]["epoch"]:
            raise Mistake(f"{args.resume} is past --epochs {args.epochs}: it has {last['state']['epoch']}")
    return flags, last


def read_last(folder):
    path = folder / "last.pt"
    if not path.exists():
        raise Mistake(f"{folder} holds no last.pt, so there is no run to go on with")
    checkpoint = models.read_checkpoint(path)
    if not checkpoint.keys() >= {"config", "state", "optimizers"}:
        raise Mistake(f"{path} is a model without the state of its training, so it cannot be resumed")
    return checkpoint


# -----------------------------------------------------------------------------------------------------------
# Set-up


def main(argv=None):
    """Runs the command line; returns its exit status."""
    return data.run_command("train.py", run, argv, models.ModelError)


def run(argv):
    args, last = read_flags(argv)
    device = pick_device(args.device)
    if last:
        torch.set_num_threads(last["config"]["threads"])  # they share out sums: other threads, other bits
    dataset = data.load_for_run({"flags": vars(args)})  # older runs lack newer flags
    model = make_model(args, dataset, last).to(device)
    optimizers = [torch.optim.Adam(turn.param_groups, lr=args.lr, fused=True) for turn in model.turns()]
    if last:
        folder, config, state = Path(args.resume), last["config"] | {"flags": vars(args)}, last["state"]
        for optimizer, kept in zip(optimizers, last["optimizers"], strict=True):
            optimizer.load_state_dict(kept)
    else:
        folder, config = new_folder(args, dataset), describe(args, dataset, argv, model)
        state = dict(epoch=0, step=0, images=0, seconds=0.0, best=math.inf, best_epoch=0, history=[])
        state["finished_phases"] = []  # which phases after training an auto-decoder has behind it
    for unfinished in folder.glob(".*.*.[0-9]*.tmp"):  # what a kill left of a file half written
        unfinished.unlink()
    announce(config, model, dataset, device, folder)
    try:
        fit(model, optimizers, dataset, args, config, state, folder, device)
        if model.has_free_latents:
            fit_free_latents(model, optimizers, dataset, args, config, state, folder, device)
        finish(dataset, config, state, folder, device)
    except KeyboardInterrupt:
        if not (folder / "last.pt").exists():
            raise  # nothing is kept yet
        kept, where = read_last(folder)["state"]["epoch"], shlex.quote(str(folder))
        print(f"\nstopped after epoch {kept}; to go on: python train.py --resume {where}", file=sys.stderr)
        return 130


def make_model(args, dataset, last):
    facts = dict(image_shape=dataset.image_shape, n_classes=len(dataset.classes))
    facts |= dict(n_train=len(dataset.train.x), n_test=len(dataset.test.x))
    takes = models.constructor_defaults(args.model)
    arguments = {name: value for name, value in (vars(args) | facts).items() if name in takes}
    if args.patience and not (models.MODELS[args.model].has_validation_loss and len(dataset.valid.x)):
        raise Mistake("--patience needs a validation loss, and there is none here")
    if last and (last["arguments"] != arguments or last["config"]["classes"] != dataset.classes):
        raise Mistake(f"the data are not those that {args.resume} was trained on")
    torch.manual_seed(args.seed)
    model = models.build(args.model, **arguments)
    if last:
        model.load_state_dict(last["weights"])
    return model


def new_folder(args, dataset):
    """A folder that holds no run. Nothing is ever overwritten."""
    if args.out:
        folder = Path(args.out)
        if (folder / "last.pt").exists():
            raise Mistake(f"--out {folder} holds a run already: name another, or --resume {folder}")
    else:
        name, count = f"{args.model}-{dataset.name}", 1
        while (folder := Path("runs", name if count == 1 else f"{name}-{count}")).exists():
            count += 1
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def describe(args, dataset, argv, model):
    """What config.json keeps: enough to do the run again."""
    commit = ["git", "-C", str(Path(__file__).parent), "rev-parse", "HEAD"]
    try:
        git = subprocess.run(commit, capture_output=True, text=True).stdout.strip() or None
    except OSError:  # no git here
        git = None
    return dict(
        command="python train.py " + shlex.join(argv),
        flags=vars(args),
        classes=dataset.classes,
        image_shape=list(dataset.image_shape),
        units=models.UNITS | model.units,
        threads=torch.get_num_threads(),
        versions=dict(python=platform.python_version(), torch=str(torch.__version__), numpy=np.__version__),
        git_commit=git,
    )


def announce(config, model, dataset, device, folder):
    sizes = ", ".join(f"{len(getattr(dataset, name).x):,} {name}" for name in data.SPLITS)
    shape = " x ".join(str(side) for side in dataset.image_shape)
    what = f"pictures of {shape}" if len(dataset.image_shape) > 1 else f"queries of {shape} characters"
    print(f"{config['flags']['model']} on {dataset.name} ({sizes}; {what}) -> {folder}")
    size = f"{sum(p.numel() for p in model.parameters()):,} parameters"
    print(f"{size}, {device}, {config['threads']} threads, torch {torch.__version__}")


# -----------------------------------------------------------------------------------------------------------
# The loop


def fit(model, optimizers, dataset, args, config, state, folder, device):
    """Trains until epochs, updates or patience are used up, and writes the run folder after each epoch."""
    train, valid = (split.to(device) for split in (dataset.train, dataset.valid))
    batches = math.ceil(len(train.x) / args.batch_size)
    total = args.steps or args.epochs * batches  # updates
    epochs = math.ceil(total / batches)
    warm_up = math.ceil(model.kl_warm_up / batches)  # patience counts from its end
    turns = [(optimizer, turn.loss) for optimizer, turn in zip(optimizers, model.turns(), strict=True)]
    console = Console(state, epochs, total, config["units"])

    def end_epoch(terms):
        scores = evaluate(model, valid) if len(valid.x) and model.has_validation_loss else {}
        if terms and not model.has_validation_loss:
            terms = terms | evaluate(model, train)
        refuse_nan(scores.get("loss", 0.0), f"the validation loss after step {state['step']}", folder, state)
        warning = (scores if model.has_validation_loss else terms).pop("warning", None)
        for split, found in (("train", terms), ("valid", scores)):
            row = dict(epoch=state["epoch"], step=state["step"], split=split, seconds=state["seconds"])
            state["history"] += [row | found] if found else []
        score = scores.get("loss", -state["epoch"])  # where nothing is monitored the last epoch is the best
        if score < state["best"]:
            state["best"], state["best_epoch"] = score, state["epoch"]
            write_file(folder / "best.pt", lambda file: models.save(file, model, epoch=state["epoch"]))
        save_last(folder, model, optimizers, config, state)
        if model.draws_samples:
            sample.snapshot(folder, model, state["epoch"])
        console.epoch(state, terms, scores, warning)

    if not state["history"]:
        end_epoch({})  # the untrained model
    while state["step"] < total and state["epoch"] < epochs:
        idle = state["epoch"] - max(state["best_epoch"], warm_up)
        if args.patience and idle >= args.patience:
            print(f"stopped: no better validation loss for {args.patience} epochs")
            break
        end_epoch(train_epoch(model, turns, train, args, state, total, console, folder))


def save_last(folder, model, optimizers, config, state):
    last = dict(config=config, state=state, optimizers=[o.state_dict() for o in optimizers])
    write_file(folder / "last.pt", lambda file: models.save(file, model, **last))
    write_logs(folder, config, state)


def train_epoch(model, turns, split, args, state, total, console, folder):
    """One pass over the shuffled pictures; returns the mean of each term that the losses report."""
    model.train()
    torch.manual_seed(args.seed * 1_000_003 + state["epoch"])  # nothing hangs on what ran before
    order = torch.randperm(len(split.x)).to(split.x.device)
    rows, sizes, seen, started = [], [], 0, time.perf_counter()
    for index in order.split(args.batch_size)[: total - state["step"]]:
        batch = models.Batch(*split.batch(index), index)
        factor = (1 + math.cos(math.pi * state["step"] / total)) / 2 if args.lr_schedule == "cosine" else 1
        parts = {}
        for optimizer, loss_function in turns:
            with torch.autocast(batch.x.device.type, torch.bfloat16, enabled=args.bf16):
                loss, terms = loss_function(batch, state["step"])
            optimizer.zero_grad()
            loss.backward()
            for group in optimizer.param_groups:
                group["lr"] = factor * group.setdefault("initial_lr", group["lr"])
            if args.clip:
                weights = [p for group in optimizer.param_groups for p in group["params"]]
                torch.nn.utils.clip_grad_norm_(weights, args.clip)
            optimizer.step()
            parts |= terms
        rows.append(torch.stack([term.detach() for term in parts.values()]))  # .item() would wait for a GPU
        sizes.append(len(index))
        seen += len(index)
        state["step"] += 1
        console.progress(state, seen, time.perf_counter() - started)
    table = torch.stack(rows)  # (updates, terms)
    for row in (~table.isfinite().all(1)).nonzero()[:1]:
        step = state["step"] - len(rows) + row.item() + 1
        refuse_nan(math.nan, f"the training loss at step {step}", folder, state)
    state["epoch"] += 1
    for name in state["finished_phases"]:  # latents that were found for the network as it was
        getattr(model, name).fill_(math.nan)
    state["finished_phases"] = []
    state["images"] += seen
    state["seconds"] += time.perf_counter() - started
    weights = torch.tensor(sizes, dtype=torch.float32, device=table.device) / seen
    return dict(zip(parts, (weights @ table).tolist(), strict=True))


def fit_free_latents(model, optimizers, dataset, args, config, state, folder, device):
    """The phases after an auto-decoder's training, each kept as soon as it ends: refine the latents of the
    training pictures, find those of the test pictures."""
    refine = ("refined", dataset.train, model.refine_epochs, model.latents.weight.detach())
    for name, split, epochs, start in (refine, ("test_latents", dataset.test, model.fit_epochs, None)):
        if not epochs or not len(split.x) or name in state["finished_phases"]:
            continue

        def tell(epoch, loss, name=name, epochs=epochs):
            if not math.isfinite(loss):
                raise Mistake(
                    f"fitting the {name.replace('_', ' ')} does not converge: try a lower --fit-lr"
                )
            after = state["epoch"] if name == "refined" else 0  # its curve goes on where training's ended
            row = dict(epoch=after + epoch, step=state["step"], split=name, seconds=state["seconds"])
            state["history"].append(row | {"loss": loss})
            if epoch % math.ceil(epochs / 10) == 0 or epoch == epochs:
                print(f"{name.replace('_', ' ')}: epoch {epoch}/{epochs}, loss {loss:.5g}", flush=True)

        torch.manual_seed(args.seed * 1_000_003 + state["epoch"])
        x, started = split.to(device).batch(slice(None))[0], time.perf_counter()
        options = dict(batch_size=model.fit_batch_size, start=start, beta=model.fit_beta, callback=tell)
        getattr(model, name).copy_(model.fit_latents(x, epochs, model.fit_lr, **options))
        state["seconds"] += time.perf_counter() - started
        state["finished_phases"].append(name)
        write_file(folder / "best.pt", lambda file: models.save(file, model, epoch=state["epoch"]))
        save_last(folder, model, optimizers, config, state)


def refuse_nan(value, what, folder, state):
    if not math.isfinite(value):
        kept = max([row["epoch"] for row in state["history"] if row["split"] in data.SPLITS], default=0)
        good = f"{folder}/last.pt keeps epoch {kept}, the last good one"
        raise Mistake(f"{what} is not a finite number; {good}. Try a lower --lr, or --clip 1")


def evaluate(model, split):
    """Mean of every loss term over a split, at the final weights, and the model's diagnosis. Each example
    meets the same noise in every epoch, so that no lucky draw is the best."""
    model.eval()
    torch.manual_seed(0)
    totals = {}
    with torch.inference_mode():
        for x, y in models.batches(split) if model.has_validation_loss else ():
            _, terms = model.loss(models.Batch(x, y, None), math.inf)
            for name, value in terms.items():
                totals[name] = totals.get(name, 0) + value.item() * len(x) / len(split.x)
        return totals | model.diagnose(split)


# -----------------------------------------------------------------------------------------------------------
# What is told and what is kept


class Console:
    """A line for each epoch; on a terminal also one that moves: how far, how fast, how long still."""

    def __init__(self, state, epochs, total, units):
        self.epochs, self.total, self.units = epochs, total, units
        self.headed, self.warned = False, None
        self.started, self.first_step, self.drawn = time.perf_counter(), state["step"], 0.0
        self.live = sys.stdout.isatty()

    def left(self, state):
        """Time left at the pace so far."""
        done = state["step"] - self.first_step
        if not done:
            return ""
        seconds = round((time.perf_counter() - self.started) / done * (self.total - state["step"]))
        return f"{seconds // 60}:{seconds % 60:02d} left"

    def progress(self, state, images, seconds):
        if self.live and time.perf_counter() - self.drawn > 0.2:
            self.drawn = time.perf_counter()
            share, rate = state["step"] / self.total, f"{images / seconds:,.0f} images/s"
            line = f"epoch {state['epoch'] + 1}/{self.epochs}  {share:4.0%}  {rate}  {self.left(state)}"
            print(f"\r{line}\x1b[K", end="", flush=True)

    def epoch(self, state, train, valid, warning):
        of, found = ("validation", valid) if valid else ("train", train)
        shown = {("train", "loss"): train.get("loss")} if "loss" in found else {}
        shown |= {("validation", "loss"): valid["loss"]} if "loss" in valid else {}
        shown |= {(of, name): value for name, value in found.items() if name != "loss"}
        shown.pop((of, "kl_per_dimension"), None)  # too long for a column; log.csv has it
        if not found:
            return
        if not self.headed:
            self.headed = True
            rows = [(split, name.replace("_", " "), self.units[name]) for split, name in shown]
            for titles in zip(*rows, strict=True):
                print(" " * 9 + "".join(f"{title:>15}" for title in titles))
        cells = "".join(f"{'-':>15}" if value is None else f"{value:15.5g}" for value in shown.values())
        rate = f"{state['images'] / state['seconds']:>9,.0f} images/s" if state["seconds"] else ""
        start = "\r\x1b[K" if self.live else ""
        print(f"{start}{state['epoch']:>4}/{self.epochs:<4}{cells}{rate}  {self.left(state)}", flush=True)
        if state["epoch"] and warning != self.warned:  # before the first epoch any model would be warned of
            self.warned = warning
            print(f"warning: {warning or 'that is over'}", file=sys.stderr)


def write_logs(folder, config, state):
    """config.json, and log.csv from the whole history, so that a resumed run has no row twice."""
    write_json(folder / "config.json", config)
    names = list(dict.fromkeys(name for row in state["history"] for name in row))
    table = csv.writer(text := io.StringIO())
    units = {"seconds": "s"} | config["units"]
    table.writerow([f"{name} [{units[name]}]" if units.get(name) else name for name in names])
    for row in state["history"]:
        cells = [row.get(name, "") for name in names]
        table.writerow(
            [" ".join(f"{x:.4g}" for x in cell) if isinstance(cell, list) else cell for cell in cells]
        )
    write_file(folder / "log.csv", lambda file: file.write(text.getvalue().encode()))


def write_json(path, value):
    write_file(path, lambda file: file.write((json.dumps(value, indent=1) + "\n").encode()))


def finish(dataset, config, state, folder, device):
    """The best checkpoint's final numbers in summary.json, its pictures, and a few lines on the terminal."""
    model = models.load(folder / "best.pt", device)
    scores, units = {}, config["units"]
    for name in ("valid", "test") if model.has_validation_loss else ("train",):
        split = getattr(dataset, name)
        if len(split.x):
            scores[name] = evaluate(model, split.to(device))
            scores[name].pop("warning", None)
    if model.has_free_latents:
        scores = model.evaluate_latents(dataset.train.to(device), dataset.test.to(device))
    summary = dict(
        model=config["flags"]["model"],
        data=dataset.name,
        epochs=state["epoch"],
        steps=state["step"],
        best_epoch=state["best_epoch"],
        **scores,
        units={name: unit for name, unit in units.items() if any(name in s for s in scores.values())},
        parameters=sum(p.numel() for p in model.parameters()),
        seconds=state["seconds"],
        images_per_second=state["images"] / state["seconds"] if state["seconds"] else None,
        peak_memory_mb=peak_memory(device),
    )
    write_json(folder / "summary.json", summary)
    print(f"best epoch {state['best_epoch']} of {state['epoch']}, {state['seconds']:.0f} s of training")
    for name, found in scores.items():
        single = {term: value for term, value in found.items() if not isinstance(value, list)}
        told = [f"{term} {value:.5g} {units[term]}".strip() for term, value in single.items()]
        print(f"{name}: {', '.join(told)}")
    print("pictures: " + " ".join(str(path) for path in sample.draw_run(folder, model.cpu(), dataset)))


def peak_memory(device):
    """Of the GPU, else of this process, in MB; None where the system does not tell."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 1e6
    try:
        import resource
    except ImportError:  # Windows
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 1e6 if sys.platform == "darwin" else peak / 1e3  # macOS counts bytes, Linux KiB


if __name__ == "__main__":
    sys.exit(main())
