"""The speed of train.py's loop beside the loops that people write: the same networks, data and batches.

    python benchmarks/train.py                          # the table, in Markdown; ten minutes on two cores
    python benchmarks/train.py vae cvae --rounds 9      # some models
    python benchmarks/train.py --busy 1                 # beside another process that is always busy
    python benchmarks/train.py --profile                # where the milliseconds of an epoch go
    python benchmarks/train.py --costs --data-dir DIR   # start, memory, and time per epoch of many images
    python benchmarks/train.py --quick                  # a few updates of each: does it run?

Ours: the data set is one uint8 tensor, a batch is an indexed slice of it, Adam is fused, and no update waits
for the value of the loss. The others, in float32, with Adam's defaults and `loss.item()` after each update:
(a) a Dataset that returns one image at a time, a transform to float tensors (what torchvision's ToTensor
does) and a DataLoader; (b) a TensorDataset of floats and a DataLoader; (c) the trainer of pythae, which is
for autoencoders, with the same network and loss in its BaseAE. They alternate, an epoch each; the table has
medians of images per second and of the ratios. Evaluation, checkpoints and pictures are not counted here,
but by --profile.
"""

import argparse
import collections
import contextlib
import copy
import functools
import importlib.util
import io
import itertools
import os
import statistics
import subprocess
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path
from unittest import mock

import numpy as np
import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset, TensorDataset

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
import data
import models
import sample
import train
from benchmarks.tsne import busy_processes

ROOT = Path(train.__file__).resolve().parent
MLP = "--encoder mlp --encoder-hidden 400 --decoder mlp --decoder-hidden 400"
MODELS = {  # the flags of each, and its name in the tables
    "vae": ("--model vae", "VAE"),
    "cvae": ("--model cvae", "conditional VAE"),
    "mlp": (f"--model vae {MLP} --latent-dim 20 --batch-size 128", "MLP VAE 784-400-20"),
    "lstm-ae": ("@experiments/r4-lstm-ae.txt", "LSTM autoencoder (R4.1)"),
    "lstm-vae": ("@experiments/r3-vae.txt", "LSTM VAE (R3)"),
    "gan": ("@experiments/best-gan.txt", "GAN"),
    "text2text": ("@experiments/r2-text2text.txt", "text2text"),
    "gru-vae": ("@experiments/r0-rnn-vae.txt", "bidirectional GRU VAE (R0)"),
}
QUICK_UPDATES = 3


def flags_of(name):
    flags, _ = MODELS[name]
    return flags.replace("@", f"@{ROOT}/").split()


def prepare(argv, updates=None):
    """The state of a new run (train.Training) and its training split, of `updates` batches (None: all)."""
    args, _ = train.read_flags(argv)
    dataset = data.load(**{name: vars(args)[name] for name in data.FLAGS})
    if updates:
        n = updates * args.batch_size
        dataset.train = dataset.train._replace(x=dataset.train.x[:n], y=dataset.train.y[:n])
    model = train.make_model(args, dataset, None)
    optimizers = train.make_optimizers(model, args.lr)
    cpu = torch.device("cpu")
    run = train.Training(args, {}, None, cpu, dataset, model, optimizers, train.State(), None)
    return run, dataset.train


# -----------------------------------------------------------------------------------------------------------
# The loops: functions that return the seconds of an epoch


def ours(argv, updates):
    run, split = prepare(argv, updates)
    console = train.Console(run)
    console.is_terminal = False
    return seconds_of(lambda: train.train_epoch(run, split, console))


def seconds_of(function):
    started = time.perf_counter()
    function()
    return time.perf_counter() - started


class Examples(Dataset):
    """Like torchvision's MNIST: an item is a PIL image made from an array, then transformed. Tokens stay."""

    def __init__(self, split):
        self.split = split

    def __len__(self):
        return len(self.split.x)

    def __getitem__(self, i):
        x = self.split.x[i]
        y = self.split.y[i]
        if x.ndim == 1:
            return x, y
        pixels = x.permute(1, 2, 0).squeeze(2).numpy()  # (H, W) or (H, W, 3)
        return to_tensor(Image.fromarray(pixels)), int(y)


def to_tensor(image):
    pixels = torch.from_numpy(np.array(image)).float().div(255)
    return pixels[None] if pixels.ndim == 2 else pixels.permute(2, 0, 1).contiguous()  # (C, H, W)


def usual(argv, updates, make_dataset):
    """The loop that a student writes."""
    run, split = prepare(argv, updates)
    model = run.model
    optimizers = [torch.optim.Adam(turn.param_groups, lr=run.args.lr) for turn in model.turns()]
    loader = DataLoader(make_dataset(split), run.args.batch_size, shuffle=True)

    def epoch():
        model.train()
        total_loss = 0.0
        for step, (x, y) in enumerate(loader):
            for optimizer, turn in zip(optimizers, model.turns(), strict=True):
                loss, _ = turn.loss(models.Batch(x, y, None), step)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                total_loss += loss.item() * len(x)

    return seconds_of(epoch)


def pythae(argv, updates):
    run, split = prepare(argv, updates)
    x, y = split.batch(slice(None))
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stderr(io.StringIO()):
        trainer = make_pythae_trainer(run, x, y, folder)
        trainer.prepare_training()
        return seconds_of(lambda: trainer.train_step(1))


def make_pythae_trainer(run, x, y, folder):
    import logging

    from pythae.data.datasets import BaseDataset
    from pythae.models import BaseAE, BaseAEConfig
    from pythae.models.base.base_utils import ModelOutput
    from pythae.models.nn import BaseDecoder
    from pythae.trainers import BaseTrainer, BaseTrainerConfig

    class Network(BaseAE):
        def __init__(self, network):
            super().__init__(BaseAEConfig(input_dim=tuple(x.shape[1:])), decoder=BaseDecoder())
            self.network = network

        def forward(self, inputs, **kwargs):
            loss, _ = self.network.loss(models.Batch(inputs["data"], inputs["labels"].long(), None), 0)
            return ModelOutput(loss=loss)

    logging.disable(logging.WARNING)
    options = dict(per_device_train_batch_size=run.args.batch_size, learning_rate=run.args.lr)
    config = BaseTrainerConfig(output_dir=folder, no_cuda=True, keep_best_on_train=True, **options)
    return BaseTrainer(Network(run.model), BaseDataset(x, y), training_config=config)


LOOPS = {
    "Dataset (a)": lambda argv, updates: usual(argv, updates, Examples),
    "TensorDataset (b)": lambda argv, updates: usual(
        argv, updates, lambda split: TensorDataset(*split.batch(slice(None)))
    ),
    "pythae (c)": pythae,
    "ours": ours,
    "ours, bf16": lambda argv, updates: ours([*argv, "--bf16"], updates),
}
RIVALS = list(LOOPS)[:3]


# -----------------------------------------------------------------------------------------------------------
# The table


def compare(name, rounds, updates):
    """Prints the line of a model in the table."""
    argv = flags_of(name)
    run, split = prepare(argv, updates)
    loops = dict(LOOPS)
    if not run.model.has_encoder or importlib.util.find_spec("pythae") is None:
        loops.pop("pythae (c)")
    speeds = {loop: [] for loop in loops}
    for _ in range(1 + rounds):  # the first round warms up
        for loop, epoch in loops.items():
            speeds[loop].append(len(split.x) / epoch(argv, updates))
    speeds = {loop: values[1:] for loop, values in speeds.items()}
    cells = [f"{statistics.median(speeds[loop]):,.0f}" if loop in speeds else "–" for loop in LOOPS]
    for own in ("ours", "ours, bf16"):
        cells += [ratio(speeds[own], speeds[rival]) if rival in speeds else "–" for rival in RIVALS]
    _, title = MODELS[name]
    print(f"| {title} | {run.args.batch_size} | {' | '.join(cells)} |", flush=True)


def ratio(own, other):
    return f"{statistics.median(fast / slow for fast, slow in zip(own, other, strict=True)):.2f}"


def print_header(columns):
    print(f"| {' | '.join(columns)} |\n|{'---|' * len(columns)}", flush=True)


def describe(args):
    packages = [name for name in ("torch", "numpy", "pythae") if importlib.util.find_spec(name)]
    versions = ", ".join(f"{name} {version(name)}" for name in packages)
    threads = torch.get_num_threads()
    return f"{versions}; {threads} threads, beside {args.busy} busy processes"


def compare_loops(args):
    rounds = 1 if args.quick else args.rounds
    updates = QUICK_UPDATES if args.quick else None
    print(f"Images per second of training, medians of {rounds} rounds. {describe(args)}\n")
    ratios = [f"{own} / {rival[-3:]}" for own in ("ours", "bf16") for rival in RIVALS]
    print_header(["model", "batch", *LOOPS, *ratios])
    for name in args.models:
        compare(name, rounds, updates)


# -----------------------------------------------------------------------------------------------------------
# Where the time of a run goes


class Clock:
    """Seconds of each part of a run. A part within "loop" or "rest" is counted apart, within others not."""

    def __init__(self):
        self.part = "rest"
        self.seconds = collections.Counter()
        self.started = time.perf_counter()

    def switch(self, part):
        now = time.perf_counter()
        self.seconds[self.part] += now - self.started
        self.started = now
        self.part = part

    def timed(self, part, function):
        @functools.wraps(function)
        def call(*args, **kwargs):
            outer = self.part
            if outer not in ("loop", "rest"):
                return function(*args, **kwargs)
            self.switch(part)
            try:
                return function(*args, **kwargs)
            finally:
                self.switch(outer)

        return call


PARTS = {  # of an epoch
    "copies": [(data.Split, "batch"), (data.Queries, "batch")],
    "forward": [
        (cls, name)
        for cls in models.MODELS.values()
        for name in ("loss", "discriminator_loss", "generator_loss", "reader_loss")
        if name in vars(cls)
    ],
    "backward": [(torch.Tensor, "backward")],
    "optimizer": [(torch.optim.Adam, "step"), (torch.optim.Adam, "zero_grad")],
    "loop": [(train, "train_epoch")],  # without the parts above
    "evaluation": [(train, "evaluate")],
    "snapshot": [(sample, "snapshot")],
    "checkpoints": [(train.Training, "save_best"), (train.Training, "save_last")],
    "end": [(train, "finish")],  # the best checkpoint's evaluation, and the pictures
}
PER_EPOCH = [part for part in PARTS if part != "end"]
BESIDE_TRAINING = ("evaluation", "snapshot", "checkpoints")


def run_timed(argv):
    """The Clock of a run of train.py."""
    clock = Clock()
    with contextlib.ExitStack() as stack:
        for part, functions in PARTS.items():
            for owner, name in functions:
                timed = clock.timed(part, getattr(owner, name))
                stack.enter_context(mock.patch.object(owner, name, timed))
        folder = stack.enter_context(tempfile.TemporaryDirectory())
        stack.enter_context(contextlib.redirect_stdout(io.StringIO()))
        status = train.main([*argv, "--out", folder])
        clock.switch("rest")
    if status != 0:
        sys.exit(f"python train.py {' '.join(argv)} failed")
    return clock


def profile(args):
    print(f"Milliseconds of an epoch, and those once at the end of a run. {describe(args)}\n")
    print_header(["model", *PER_EPOCH, "end", "epochs of the run", "beside training, of the whole run"])
    for name in args.models:
        for bf16 in ([], ["--bf16"]):
            profile_run(name, bf16, args.epochs, QUICK_UPDATES if args.quick else None)
    print("\nOperations by their own time, of the updates alone\n")
    print_header(["model", "operations per update", "shorter than 10 µs", "the longest"])
    for name in args.models:
        for bf16 in ([], ["--bf16"]):
            profile_operations(name, bf16)


def profile_run(name, bf16, epochs, updates):
    """Prints where the time of a few epochs of a run goes."""
    argv = flags_of(name) + bf16
    run, _ = prepare(argv)
    steps = updates or epochs * run.updates_per_epoch
    epochs = 1 if updates else epochs
    clock = run_timed([*argv, "--steps", str(steps)])
    ms = {part: 1000 * clock.seconds[part] / epochs for part in PARTS}
    for part in BESIDE_TRAINING:
        ms[part] *= epochs / (epochs + 1)  # the untrained model has them too
    ms["end"] *= epochs  # once
    total = run.total_epochs * sum(ms[part] for part in PER_EPOCH) + ms["end"]
    beside = run.total_epochs * sum(ms[part] for part in BESIDE_TRAINING) + ms["end"]
    cells = [f"{ms[part]:,.0f}" for part in (*PER_EPOCH, "end")]
    title = MODELS[name][1] + (", bf16" if bf16 else "")
    print(f"| {title} | {' | '.join(cells)} | {run.total_epochs} | {beside / total:.0%} |", flush=True)


def profile_operations(name, bf16, updates=20):
    """Prints which operations of torch take the most time of their own."""
    run, split = prepare(flags_of(name) + bf16, updates)
    console = train.Console(run)
    console.is_terminal = False
    train.train_epoch(run, split, console)
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profiler:
        train.train_epoch(run, split, console)
    rows = sorted(profiler.key_averages(), key=lambda row: -row.self_cpu_time_total)
    total = sum(row.self_cpu_time_total for row in rows)  # µs
    short = sum(row.self_cpu_time_total for row in rows if row.self_cpu_time_total < 10 * row.count)
    count = sum(row.count for row in rows if row.key.startswith("aten::")) / updates
    longest = [f"{row.key.removeprefix('aten::')} {row.self_cpu_time_total / total:.0%}" for row in rows[:7]]
    title = MODELS[name][1] + (", bf16" if bf16 else "")
    print(f"| {title} | {count:,.0f} | {short / total:.0%} | {', '.join(longest)} |", flush=True)


# -----------------------------------------------------------------------------------------------------------
# What a run costs beside its training


def costs(args):
    print(f"{describe(args)}\n")
    print_header(["command", "seconds", "peak memory, MB"])
    with tempfile.TemporaryDirectory() as folder:
        outs = (str(Path(folder, str(i))) for i in itertools.count())
        rounds = 1 if args.quick else args.rounds
        time_command("python -c 'import torch'", rounds, lambda: ["-c", "import torch"])
        script = str(ROOT / "train.py")
        time_command("train.py --help", rounds, lambda: [script, "--help"])
        tiny = ["--model", "vae", "--steps", "1"]
        time_command(f"train.py {' '.join(tiny)}", rounds, lambda: [script, *tiny, "--out", next(outs)])
        if args.data_dir:
            whole = ["--model", "vae", "--data", "mnist", "--epochs", "1"]
            where = ["--data-dir", args.data_dir]
            title = f"train.py {' '.join(whole)}"
            time_command(title, 1, lambda: [script, *whole, *where, "--out", next(outs)])
    print()
    print_header(["images", "seconds of an epoch", "of 1,000 images"])
    for n in [1000, 3000] if args.quick else [1000, 3000, 10_000, 30_000, 100_000, 200_000]:
        seconds = epoch_seconds(n, 1 if args.quick else 3)
        print(f"| {n:,} | {seconds:.2f} | {1000 * seconds / n:.4f} |", flush=True)


def time_command(title, rounds, make_argv):
    """Prints the median seconds of a command of Python, and its peak memory."""
    seconds = []
    for _ in range(rounds):
        started = time.perf_counter()
        process = subprocess.Popen([sys.executable, *make_argv()], stdout=subprocess.DEVNULL)
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        seconds.append(time.perf_counter() - started)
        if process.returncode != 0:
            sys.exit(f"{title} failed")
    print(f"| `{title}` | {statistics.median(seconds):.2f} | {usage.ru_maxrss / 1000:,.0f} |", flush=True)


def epoch_seconds(n, rounds):
    """Median seconds in which the default VAE trains on n images and is evaluated on a tenth as many."""
    run, _ = prepare(["--model", "vae", "--epochs", str(rounds)])
    x = torch.randint(256, (n, 1, 28, 28), dtype=torch.uint8)
    run.dataset = copy.copy(run.dataset)
    run.dataset.train = data.Split(x, torch.zeros(n, dtype=torch.int64))
    run.dataset.valid = data.Split(x[: n // 10], torch.zeros(n // 10, dtype=torch.int64))
    console = train.Console(run)
    console.is_terminal = False

    def epoch():
        train.train_epoch(run, run.dataset.train, console)
        train.evaluate(run.model, run.dataset.valid)

    return statistics.median(seconds_of(epoch) for _ in range(rounds))


def main(argv=None):
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("models", nargs="*", default=list(MODELS), help=f"of {', '.join(MODELS)}")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--busy", type=int, default=0, metavar="N", help="beside N processes that compute")
    parser.add_argument("--profile", action="store_true", help="where the time of an epoch goes")
    parser.add_argument("--epochs", type=int, default=2, help="of --profile")
    parser.add_argument("--costs", action="store_true", help="start, memory, time per epoch of many images")
    parser.add_argument("--data-dir", help="of --costs: the folder of the whole of MNIST")
    parser.add_argument("--quick", action="store_true", help=f"one round of {QUICK_UPDATES} updates")
    args = parser.parse_args(argv)
    for name in args.models:
        if name not in MODELS:
            parser.error(f"there is no {name}: choose from {', '.join(MODELS)}")
    task = profile if args.profile else costs if args.costs else compare_loops
    with busy_processes(args.busy):
        task(args)


if __name__ == "__main__":
    main()
