"""A soak: programs are killed, files damaged, flags made hostile, disks filled. What is lost?

    python benchmarks/soak.py --quick                                 # a little of each, as in the tests
    python benchmarks/soak.py --kills 1000 --inputs 20000 --jobs 2    # an hour on two cores
    python benchmarks/soak.py --only flags --seed 3 --case 17         # one case again

kills     work is killed at random moments and goes on until it is done: with the same bits?
system    a full disk, a read-only or deleted folder, outputs that are inputs, links, two processes at once
readers   damaged files of every kind that the commands read
flags     extreme and ill-typed values on the command lines
library   hostile arrays and parameters for the functions that users import

Every command runs in a fork of this process, in a copy of a folder with inputs. It must end as documented
(see `fault_of`) and leave all other files as they were. Functions return finite numbers or raise ValueError.
Each fault is printed after the flags that repeat it. Linux only; `system` mounts file systems as root.
"""

import argparse
import collections
import contextlib
import csv
import functools
import json
import math
import multiprocessing
import os
import random
import re
import resource
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
import numpy as np
import torch
from PIL import Image

import data
import metrics
import models
import sample
import train
import tsne
from experiments import reproduce

ROOT = Path(__file__).resolve().parent.parent
COMMANDS = {"train.py": train, "sample.py": sample, "metrics.py": metrics, "tsne.py": tsne}
COMMANDS["reproduce.py"] = reproduce
LIMIT = 200  # seconds that a command may take
MUCH = 2**30  # bytes of memory that it may take, of which torch needs a third
GUARD = 3 * 2**30  # bytes of data at which it is refused more


class Fault(Exception):
    """An outcome that is not documented."""


def require(condition, message):
    if not condition:
        raise Fault(message)


# -----------------------------------------------------------------------------------------------------------
# One runner, and one judge of how commands end

Ended = collections.namedtuple("Ended", "status out err memory")  # a negative status is that of a signal


def fault_of(name, ended):
    """What is not documented in how a command ended, or None. Documented are 0; 1, 2 or 3 after one line of
    its own on stderr, notes and warnings aside; 130 after Ctrl-C."""
    lines = [line for line in ended.err.splitlines() if line.strip()]
    errors = [line for line in lines if not line.startswith(("note: ", "warning: "))]
    has_one_line = len(errors) == 1 and errors[0].startswith(f"{name}: ")
    if "Exception ignored in" in ended.err and "KeyboardInterrupt" in ended.err:
        return None  # Python itself drops a Ctrl-C that comes in a destructor
    if "Traceback (most recent call last)" in ended.err:
        return f"ends with a traceback: {lines[-1][:300]}"
    if "out of memory" in ended.err or ended.memory > MUCH:
        return f"asks for much memory, and has {ended.memory / 2**20:.0f} MiB: {errors[:1]}"
    if "\x1b" in ended.out + ended.err:
        return "sends an escape sequence to the terminal"
    if ended.status == 0 and re.search("NaN|Infinity", ended.out):
        return "prints a score that is no number"
    is_documented = {0: not errors, 1: has_one_line, 2: has_one_line, 3: has_one_line, 130: True}
    return None if is_documented.get(ended.status) else f"says {errors[:3]}"


def execute(work, folder, after=math.inf, meanwhile=None, stdout=None):
    """Runs a command or a function in a fork. After so many seconds, meanwhile(process id) is called."""
    sys.stdout.flush()
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        pid = os.fork()
        if pid == 0:
            run_and_exit(work, folder, stdout or out.fileno(), err.fileno())
        started = time.monotonic()
        while not (ended := os.wait4(pid, os.WNOHANG))[0]:
            seconds = time.monotonic() - started
            if seconds > after:
                after = math.inf
                meanwhile(pid)
            if seconds > LIMIT:
                os.killpg(pid, signal.SIGKILL)
                os.waitpid(pid, 0)
                raise Fault(f"{work} takes more than {LIMIT} s")
            time.sleep(0.002)
        out.seek(0)
        err.seek(0)
        texts = [stream.read().decode(errors="replace") for stream in (out, err)]
    with contextlib.suppress(ProcessLookupError):  # when all that it has started has ended as well
        for _ in range(300):  # a training notices that its parent is gone once it has imported torch
            os.killpg(pid, 0)
            time.sleep(0.1)
        os.killpg(pid, signal.SIGKILL)
        raise Fault(f"{work} leaves processes at work")
    _, status, usage = ended
    return Ended(os.waitstatus_to_exitcode(status), *texts, usage.ru_maxrss * 1024)


def run_and_exit(work, folder, out, err):
    status = 70
    try:
        os.setsid()
        os.chdir(folder)
        os.dup2(out, 1)
        os.dup2(err, 2)
        resource.setrlimit(resource.RLIMIT_DATA, (GUARD, GUARD))
        if callable(work):
            status = work()
        elif work[0] in COMMANDS:
            status = COMMANDS[work[0]].main(work[1:])
        else:
            os.execv(sys.executable, [sys.executable, *work])
    except BaseException:
        traceback.print_exc()
    with contextlib.suppress(Exception):
        sys.stdout.flush()
    os._exit(status)


def call(command, folder, statuses=None, writes=(), after=math.inf, meanwhile=None, stdout=None):
    """Executes a command. It must end as documented (with one of the statuses, if they are given), leave no
    temporary file, and change no file but those in the paths that it writes."""
    argv = shlex.split(command) if isinstance(command, str) else command
    files = stamps(folder)
    ended = execute(argv, folder, after, meanwhile, stdout)
    files_after = stamps(folder)
    text = f"{shlex.join(argv)[:300]!r} ends with {ended.status}"
    is_killed = ended.status < 0 and ended.status in (statuses or ())
    fault = None if is_killed else fault_of(Path(argv[0]).name, ended)
    require(not fault, f"{text}: {fault}")
    require(statuses is None or ended.status in statuses, f"{text}: {ended.err!r}")
    others = {path for path in files if not any(path.is_relative_to(name) for name in writes)}
    lost = sorted(str(path) for path in others if files_after.get(path) != files[path])
    require(not lost, f"{text} and changes {lost[:4]}")
    left = [str(path) for path in files_after.keys() - others if path.suffix == ".tmp"]
    left = [path for path in left if not data.is_running(int(path.split(".")[-2]))]  # two at once
    require(is_killed or not left, f"{text} and leaves {left[:4]}")
    return ended


def stamps(folder):
    """Size, time and kind of every file in a folder, by its path there."""
    files = {path.relative_to(folder): path.lstat() for path in folder.rglob("*") if not path.is_dir()}
    return {path: (file.st_size, file.st_mtime_ns, file.st_mode) for path, file in files.items()}


# -----------------------------------------------------------------------------------------------------------
# The box: a folder with inputs of every kind

VAE = "--data pics.npz --epochs 3 --latent-dim 3 --encoder-layers '4,3,2,1 8,3,2,1' --model"
AD = "--data pics.npz --epochs 3 --latent-dim 3 --decoder mlp --refine-epochs 9 --fit-epochs 9 --model"
STATS = "metrics.py pics.npz --features pixels --save-stats"
RECIPE = shlex.quote(str(ROOT / "experiments" / "r4-classifier.txt"))
BOX = [f"train.py {VAE} vae --out run", f"train.py {AD} ad --out free", f"{STATS} stats.npz"]
BOX += ["sample.py run --what prior --out out/p.png"]
BOX += ["tsne.py pics.npy --max-iter 2 --out out/p.png"]


def make_box(box):
    for name in ("out", "photos/a", "photos/b"):
        (box / name).mkdir(parents=True)
    x = np.random.RandomState(0).randint(0, 256, (80, 14, 14)).astype(np.uint8)
    y = np.arange(80) % 10
    arrays = dict(x_train=x[:60], y_train=y[:60], x_test=x[60:], y_test=y[60:], classes=[*"0123456789"])
    np.savez(box / "pics.npz", **arrays)
    np.savez(box / "other.npz", **arrays | {"x_train": x[59::-1]})
    np.save(box / "pics.npy", x[:60])
    np.save(box / "labels.npy", y[:60])
    for k, suffix in enumerate(("png", "jpg", "gif", "tiff", "bmp", "png")):
        Image.fromarray(x[k]).save(box / "photos" / "ab"[k % 2] / f"{k}.{suffix}")
    (box / "recipe.txt").write_text(f"# a recipe\n{VAE} vae\n--beta 0.5  # of the KL\n--seed 1\n")
    os.chdir(box)
    torch.set_num_threads(1)  # a process with threads cannot be forked
    for line in BOX:  # in this process: all forks then have what the commands import and cache
        name, *argv = shlex.split(line)
        with open(os.devnull, "w") as null, contextlib.redirect_stdout(null):
            require(COMMANDS[name].main(argv) == 0, f"{line} fails")
    shutil.rmtree("out")
    os.mkdir("out")


def fill(folder, kind=None):
    """Makes a folder a copy of the box; for work of experiments/, also of the project, in which it runs."""
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(folder.parent / "box", folder)
    if "experiments/" in WORK.get(kind, ""):
        shutil.copytree(ROOT / "experiments", folder / "experiments")
        (folder / "datasets").symlink_to(ROOT / "datasets")
        (folder / "runs").symlink_to("out")
        for path in ROOT.glob("*.py"):
            shutil.copy(path, folder)


READ = {".pt": models.read_checkpoint, ".json": lambda path: json.loads(path.read_text())}
READ |= {".csv": lambda path: list(csv.DictReader(path.open()))}
IGNORED = {
    "seconds",
    "seconds [s]",
    "images_per_second",
    "peak_memory_mb",
    "resume",
    "out",
    "git_commit",
    "command",
}


def leaves(tree, path=""):
    """(path, value) of all that a nest of dicts, lists and tensors holds, without times and places."""
    if isinstance(tree, (list, tuple, dict)):
        for key, value in tree.items() if isinstance(tree, dict) else enumerate(tree):
            if key not in IGNORED:
                yield from leaves(value, f"{path}/{key}")
    elif isinstance(tree, torch.Tensor) and tree.layout == torch.strided:
        yield path, (tree.dtype, tree.shape, tree.contiguous().flatten().view(torch.uint8).numpy().tobytes())
    else:
        yield path, repr(tree)


def contents(folder):
    """What the files of a folder hold, by file and place."""
    parts = {}
    for path in folder.rglob("*"):
        name = str(path.relative_to(folder))
        if path.suffix in READ:
            parts |= leaves(READ[path.suffix](path), name)
        elif path.suffix in (".png", ".npz", ".tmp"):
            parts[name] = path.read_bytes()
    return parts


def require_same(parts, wanted):
    names = sorted(name for name in parts.keys() | wanted if parts.get(name) != wanted.get(name))
    require(not names, f"{len(names)} things differ from undisturbed work: {names[:4]}")


# -----------------------------------------------------------------------------------------------------------
# Kills

SEQUENCE = "--data arithmetic --steps 3 --encoder-hidden 8 --decoder-hidden 8 --out out --model"
DRAWING = "--decoder-start 4,7,7 --decoder-layers '4,3,2,1,1 1,3,2,1,1'"
WORK = {kind: f"train.py {VAE} {kind} --out out" for kind in ("ae", "vae", "cvae", "gan")}
WORK |= {kind: f"train.py {AD} {kind} --out out" for kind in ("ad", "vad")}
WORK["classifier"] = f"train.py @{RECIPE} --data pics.npz --steps 30 --out out"
WORK["text2text"] = f"train.py {SEQUENCE} text2text"
WORK["image2text"] = f"train.py {SEQUENCE} image2text --encoder-layers '4,3,2,1 4,3,2,1'"
WORK["text2image"] = f"train.py {SEQUENCE} text2image {DRAWING}"
WORK["--save-stats"] = f"{STATS} out/S.npz"
WORK["reproduce.py"] = "experiments/reproduce.py r0-judge --budget short"
KILLED = [*WORK][:10] * 6 + ["--save-stats"] * 12 + ["reproduce.py"] * 2
SIGNALS = [signal.SIGKILL] * 8 + [signal.SIGTERM, signal.SIGINT]
KILLS = 10  # in each case, at least


def kill_case(kind, choices, folder):
    """Does work undisturbed; then kills it until it is done, and again from the start. Returns how often."""
    wanted = None
    seconds = math.inf
    count = 0
    while count < KILLS:
        fill(folder, kind)
        started = time.monotonic()
        longest = seconds
        while kill(kind, choices, folder, choices.uniform(0.05, longest) if wanted else math.inf):
            count += 1
            longest *= 1.1  # the machine may be busier than it was
            stats = folder / "out" / "S.npz"
            require(not stats.exists() or stats.read_bytes() == wanted["S.npz"], "part of a file is left")
        if wanted is None:
            wanted = contents(folder / "out")
            seconds = time.monotonic() - started
        require_same(contents(folder / "out"), wanted)
    return count


def kill(kind, choices, folder, after):
    """Starts work, or goes on with it, and kills it after so many seconds. Returns whether it was killed."""
    how = choices.choice(SIGNALS)
    killed = []

    def send(pid):
        killed.append(pid)
        os.kill(pid, how)

    resumes = WORK[kind].startswith("train.py") and (folder / "out" / "last.pt").exists()
    line = "train.py --resume out" if resumes else WORK[kind]
    call(line, folder, (0, 130, -how), ["out"], after, send)
    return bool(killed)  # a training that gets Ctrl-C ends with 0 as well


# -----------------------------------------------------------------------------------------------------------
# A hostile system

NEW = f"train.py {VAE} vae --out"
RESUME = "train.py --resume run --epochs 4"
PHOTO = "photos --image-size 14 --out photos/a/0.png"
LINK = "mv run/epochs mine; echo 1 > mine/0004.png; ln -s ../mine run/epochs"
FILES = "mkdir mine; echo 1 | tee mine/config.json mine/best.pt mine/samples.png mine/.a.txt.1.tmp"
FULL = "mkdir full; mount -t tmpfs -o size=8k tmpfs full && echo 1 > full/S.npz"
READ_ONLY = "mount -o bind,ro run run"
SMALL = "mkdir full; mount -t tmpfs -o size={}k tmpfs full"
SYSTEM = [  # what is done before in a shell, a command, how it may end, and what it writes
    ("output is input", "", f"{STATS} pics.npz", (1, 2)),
    ("folder of another", FILES, f"{NEW} mine", (1, 2)),
    ("other pictures", "mv other.npz pics.npz", RESUME, (1, 2)),
    ("link to a folder", LINK, RESUME, (0, 1, 2), "run"),
    ("output is input", "ln -s pics.npz linked.npz", f"{STATS} linked.npz", (1, 2)),
    ("output is input", "", f"metrics.py {PHOTO} --against pics.npz --features pixels", (1, 2)),
    ("output is input", "", f"tsne.py {PHOTO} --perplexity 2 --max-iter 2", (1, 2)),
    ("full disk", FULL, f"{STATS} full/S.npz", (1,)),
    ("full disk", FULL, "sample.py run --what prior --out full/S.png", (1,)),
    ("full disk", FULL, "tsne.py pics.npy --max-iter 2 --out full/S.png", (1,)),
    ("full disk, then resumed", SMALL, f"{NEW} full/run", (0, 1), "full"),
    ("read-only folder", READ_ONLY, "sample.py run --what prior", (1,)),
    ("read-only folder", READ_ONLY, RESUME, (1,)),
    ("read-only folder", READ_ONLY, f"{NEW} run/new", (1,)),
    ("folder deleted meanwhile", "", f"{NEW} new", (0, 1), "new"),
    ("two at once", "", RESUME, (0, 1, 2), "run"),
]


def system_case(row, choices, folder):
    name, before, command, statuses, *writes = row
    others = []

    def disturb(pid):
        if name == "two at once":
            others.append(call(command, folder, statuses, writes).status)
        if name == "folder deleted meanwhile":
            shutil.rmtree(folder / "new", ignore_errors=True)

    shell = dict(shell=True, cwd=folder, stdout=subprocess.DEVNULL, check=True)
    try:
        subprocess.run(before.format(choices.randrange(4, 700)), **shell)
        ended = call(command, folder, statuses, writes, choices.uniform(0.05, 0.6), disturb)
        require({ended.status, *others} != {0} or not others, f"{command}: two at once end with 0")
        if name == "full disk, then resumed":
            subprocess.run("mount -o remount,size=64m full", **shell)
            resumes = (folder / "full/run/last.pt").exists()
            call("train.py --resume full/run" if resumes else command, folder, (0,), writes)
            require_same(contents(folder / "full/run"), contents(folder / "run"))
    finally:
        subprocess.run(["umount", "-l", folder / "full", folder / "run"], stderr=subprocess.DEVNULL)


# -----------------------------------------------------------------------------------------------------------
# Damaged files

# fmt: off
WORDS = ["", "0", "-1", "1", "nan", "inf", "1e308", "1e-320", "1" + "0" * 20, "2147483648", "0.5", "x", "$",
         "\0", "\x1b[2J", "\udcff", "~nosuchuser", "../x", "a/b", "@x", "[", ",", "1,2", "0,0,0", "1,3,2,1",
         "é", "9" * 5000, "/dev/zero", "pics.npz", "photos", "run", "run/best.pt", "hpu", "meta"]
VALUES = [None, True, -1, 0, 3, 0.5, 1e308, math.nan, math.inf, 10**20, "", "x", "\x1b[2J$\\frac", "\0", [],
          {}, "~nosuchuser", [1, [2]], {"x": 1}, "9" * 5000, "vae", "pics.npz"]
TENSORS = [torch.zeros(0), torch.zeros(3, 3), torch.full((2,), math.nan), torch.ones(4, dtype=torch.int64),
           torch.zeros(3).to_sparse(), torch.zeros(1).expand(10**9), torch.rand(2, 2).double()]
SHAPES = [(), (0,), (1,), (5,), (0, 4), (1, 4), (2, 4), (12, 0), (12, 1), (12, 4), (40, 16), (6, 5, 5),
          (0, 5, 5), (6, 5, 5, 3), (6, 3, 5, 5), (6, 2, 5, 5), (1, 1, 1, 1), (60, 14, 14)]
KINDS = ["?", "i1", "u1", ">i4", "i8", "f2", "f4", "f8", ">f8", "g", "c8", "O", "U3", "S3", "M8[D]", "u1,f4"]
# fmt: on


def damage_bytes(path, choices):
    body = path.read_bytes()
    at, to = sorted(choices.randrange(len(body)) for _ in range(2))
    flipped = body[:at] + bytes([body[at] ^ 1 << choices.randrange(8)]) + body[at + 1 :]
    number = choices.choice([b"\xff" * 4, b"\xff\xff\xff\x7f", bytes(4), b"\x80\0\0\0"])
    bodies = [flipped, flipped, body[:at], body[:at] + body[to:], body[:to] + body[at:]]
    bodies += [body[:at] + bytes(4096) + body[at + 4096 :], body[:at] + body[to : to + 64] + body[at + 64 :]]
    bodies += [body[:at] + number + body[at + 4 :], body[: at % 128] + number + body[at % 128 + 4 :]]
    path.write_bytes(choices.choice(bodies))


def damage_content(path, choices):
    """Something else in a file, or in its place, that is well formed."""
    if path.suffix == ".json":
        path.write_text(json.dumps(damaged_tree(json.loads(path.read_text()), choices, VALUES)))
    elif path.suffix == ".pt":
        torch.save(damaged_tree(torch.load(path, weights_only=True), choices, VALUES + TENSORS), path)
    elif path.suffix in (".csv", ".txt"):
        parts = re.split(r"([\s,]+)", path.read_text())
        parts[choices.randrange(len(parts))] = choices.choice(WORDS)
        path.write_text("".join(parts), errors="surrogateescape")
    elif path.suffix == ".npy":
        lie = path.read_bytes().replace(b"(60, 14, 14), } ", b"(6000000000,), }")
        np.save(path, hostile_array(choices), allow_pickle=True)
        if choices.random() < 0.1:
            path.write_bytes(lie)
    elif path.suffix == ".npz":
        arrays = dict(np.load(path))
        key = choices.choice([*arrays])
        name = choices.choice([*arrays, "x", "y", "x_val", "../x"])
        arrays[name] = choices.choice([arrays[key], arrays[key], hostile_array(choices)])
        if choices.random() < 0.3:
            arrays.pop(key)
        if choices.random() < 0.02:
            arrays["more"] = np.broadcast_to(np.uint8(0), 10**9)
        np.savez_compressed(path, **arrays)
    else:
        damage_picture(path, choices)


def damage_picture(path, choices):
    """A picture of another kind, size or name, or something else in its place."""
    path.unlink()
    how = choices.choice(["mode", "large", "name", "name", "eps", "device", "fifo", "folder"])
    if how == "mode":
        mode = choices.choice(["1", "L", "LA", "P", "RGBA", "CMYK", "I", "I;16", "F", "YCbCr"])
        size = choices.choice([(1, 14), (7, 7), (200, 14), (14, 14)])
        Image.new(mode, size).save(path, "TIFF" if mode in ("CMYK", "F", "I", "YCbCr") else "PNG")
    elif how == "large":
        Image.new("1", (12_000, 12_000)).save(path, "PNG")
    elif how == "name":
        name = choices.choice(["\x1b[2J$", "train", "é\udcff", "$\\frac$", "x" * 200])
        (path.parent.parent / name).mkdir()
        Image.new("L", (14, 14)).save(path.parent.parent / name / f"{name[:50]}.png")
    elif how == "eps":
        path.write_text("%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 14 14\n%%EndComments\nshowpage\n")
    elif how == "device":
        path.symlink_to("/dev/zero")
    elif how == "fifo":
        os.mkfifo(path)
    else:
        path.mkdir()


def damaged_tree(tree, choices, values):
    """A nest of dicts and lists with one entry changed or renamed."""
    here = tree
    while choices.random() < 0.7:
        entries = here.values() if isinstance(here, dict) else here
        inner = [value for value in entries if isinstance(value, (dict, list)) and value]
        here = choices.choice(inner or [here])
    key = choices.choice([*here] if isinstance(here, dict) else range(len(here)))
    if isinstance(here, dict) and choices.random() < 0.4:
        here[f"{key}_"] = here.pop(key)
    else:
        here[key] = choices.choice(values)
    return tree


def hostile_array(choices, shapes=SHAPES, kinds=KINDS):
    """An array of any shape, kind, content and layout."""
    shape = choices.choice(shapes)
    kind = choices.choice(kinds)
    numbers = np.asarray(np.random.RandomState(choices.randrange(2**31)).rand(*shape))
    numbers *= choices.choice([1, 1, 255, 1e6])
    if numbers.size and choices.random() < 0.4:
        numbers.flat[choices.randrange(numbers.size)] = choices.choice([math.nan, math.inf, 1e308, -1, 256])
    with np.errstate(all="ignore"):
        array = np.zeros(shape, kind) if kind in ("M8[D]", "u1,f4") else numbers.astype(kind)
    return choices.choice([array, array, np.asfortranarray(array), np.flip(array)])


# a file and a command that reads it; --quick tries the first
READERS = """
run/config.json     sample.py run --what reconstruct --out out/p.png
pics.npz            metrics.py pics.npz --against photos --features pixels --json
run/best.pt         metrics.py run --features pixels -n 20 --json
photos/*/*          metrics.py photos --against pics.npz --features pixels --image-size 14 --json
run/log.csv         sample.py run --what curves --out out/p.png
pics.npy            tsne.py pics.npy --max-iter 2 --out out/p.png
run/last.pt         train.py --resume run --epochs 4
stats.npz           metrics.py pics.npz --against stats.npz --features pixels --json
recipe.txt          train.py @recipe.txt --steps 1 --out out
run/epochs/*        sample.py run --what epochs --out out/p.png
pics.npy            train.py --model ae --data pics.npy --steps 1 --out out
labels.npy          tsne.py pics.npy --labels labels.npy --max-iter 2 --out out/p.png
pics.npz            sample.py run --what reconstruct --out out/p.png
photos/*/*          tsne.py photos --max-iter 2 --perplexity 2 --image-size 8 --out out/p.png
photos/*/*          train.py --model cvae --data photos --image-size 8 --steps 1 --out out
run/best.pt         sample.py run --what reconstruct --out out/p.png
run/config.json     tsne.py run --max-iter 2 --perplexity 2 --out out/p.png
free/best.pt        sample.py free --what prior --out out/p.png
free/last.pt        train.py --resume free --epochs 4
"""
READERS = [line.split(maxsplit=1) for line in READERS.strip().splitlines()]


def reader_case(row, choices, folder):
    pattern, line = row
    path = choices.choice(sorted(folder.glob(pattern)))
    damage = choices.choice([damage_bytes, damage_content])
    if path.name == "last.pt":  # train.py trusts what it wrote itself, if its checksums are right
        damage = damage_bytes
    damage(path, choices)
    if path.suffix == ".pt" and damage is damage_bytes:
        whole = folder.parent / "box" / path.relative_to(folder)
        fault = fault_of("", execute(lambda: reads_the_same(path, whole), folder))
        require(not fault, f"{path.name}: {fault}")
    call(line, folder, writes=outputs(line))


def outputs(line):
    return re.findall(r"(?:--resume|--out) (\w+)", line)


def reads_the_same(path, whole):
    """A checkpoint with damaged bytes must be refused, unless it holds the same."""
    with contextlib.suppress(models.ModelError):
        same = dict(leaves(models.read_checkpoint(path))) == dict(leaves(models.read_checkpoint(whole)))
        require(same, "damaged bytes of a checkpoint are read as other numbers")
    return 0


# -----------------------------------------------------------------------------------------------------------
# Hostile flags, and hostile arguments of functions

LINES = [f"train.py --data pics.npz --steps 1 --model {kind}" for kind in ("ae", "vae", "cvae", "gan", "ad")]
LINES += ["train.py --model vae --data nowhere", "train.py --model ad --data nowhere"]
LINES += [line for _, line in READERS if "@" not in line]
LINES += ["reproduce.py nosuch"]
FULL_DEVICE = os.open("/dev/full", os.O_WRONLY)  # a stdout that takes nothing
ENDLESS = {"--steps", "--epochs", "--max-iter", "--sets", "--fit-epochs", "--refine-epochs"}


@functools.cache
def flags_of(name, folder):
    flags = set(re.findall(r"(?m)^  (-[-\w]+)", call([name, "--help"], folder, (0,)).out))
    return sorted(flags - {"-h", "--resume"})


def flag_case(line, choices, folder):
    argv = shlex.split(line)
    for _ in range(choices.choice([1, 1, 2, 3])):
        flag = choices.choice(flags_of(argv[0], folder))
        word = choices.choice([word for word in WORDS if flag not in ENDLESS or len(word) < 9])
        argv += choices.choice([[flag, word], [flag, word], [f"{flag}={word}"], [flag], [word]])
    call(argv, folder, writes=outputs(line), stdout=choices.choice([None] * 19 + [FULL_DEVICE]))


POINTS = np.random.RandomState(0).rand(40, 4)
SHORT = dict(max_iter=3, verbose=0)
TSNE = [name for name in tsne.TSNE().get_params() if name not in SHORT]
ROWS = [(0, 4), (1, 4), (3, 4), (4, 4), (20, 4)]
LOADED = ["image_size", "binarize", "classes", "per_class", "valid_fraction", "data_dir"]
FUNCTIONS = {  # of two arrays, a number, and a hostile value for a parameter that is chosen
    "fid": lambda a, b, k, choose: metrics.fid(a, b),
    "kid": lambda a, b, k, choose: metrics.kid(a, b, subsets=3, subset_size=k),
    "precision_recall": lambda a, b, k, choose: metrics.precision_recall(a, b, k=k),
    "inception_score": lambda a, b, k, choose: metrics.inception_score(b, splits=k),
    "frechet_distance": lambda a, b, k, choose: metrics.frechet_distance(a.ravel()[:4], b, b.ravel()[:4], b),
    "TSNE.fit": lambda a, b, k, choose: tsne.TSNE(max_iter=3, perplexity=2).fit_transform(b),
    "TSNE.transform": lambda a, b, k, choose: tsne.TSNE(max_iter=3, perplexity=2).fit(POINTS).transform(a),
    "TSNE()": lambda a, b, k, choose: tsne.TSNE(**{choose(TSNE): choose(VALUES)} | SHORT).fit_transform(
        POINTS
    ),
    "data.load": lambda a, b, k, choose: data.load("pics.npz", **{choose(LOADED): choose(VALUES)}).test.x,
    "data.as_pictures": lambda a, b, k, choose: data.as_pictures(a, "a"),
}


def library_case(name, choices, folder):
    sizes = choices.choice([(SHAPES, SHAPES), (ROWS, ROWS[3:]), (ROWS, ROWS[3:])])
    kinds = choices.choice([KINDS, ["f4", "f8", ">f8", "u1"]])
    arrays = [hostile_array(choices, shapes, kinds) for shapes in sizes]
    k = choices.choice([3, 3, 1, 0, -1, 100, None])

    def work():
        with contextlib.suppress(ValueError, data.Mistake), np.errstate(all="ignore"):
            answer = np.asarray(FUNCTIONS[name](*arrays, k, choices.choice), float)
            require(np.isfinite(answer).all(), f"returns {answer}")
        return 0

    fault = fault_of("", execute(work, folder))
    kinds = [f"{np.asarray(array).dtype} {np.shape(array)}" for array in arrays]
    require(not fault, f"{name}, {kinds}, {k}: {fault}")


# -----------------------------------------------------------------------------------------------------------
# Command line

PARTS = {  # labels with what they stand for, and the function that tries it
    "kills": ([(kind, kind) for kind in KILLED], kill_case),
    "system": ([(row[0], row) for row in SYSTEM], system_case),
    "readers": ([(row[0], row) for row in READERS], reader_case),
    "flags": ([(line.split()[0], line) for line in LINES], flag_case),
    "library": ([(name, name) for name in FUNCTIONS], library_case),
}


def try_case(place, seed, part, number):
    """Label, count of kills or inputs, and the fault of a case."""
    entries, function = PARTS[part]
    label, entry = entries[number % len(entries)]
    folder = place / f"work-{os.getpid()}"
    fill(folder)
    try:
        return label, function(entry, random.Random(f"{seed} {part} {number}"), folder) or 1, None
    except Fault as fault:
        return label, 1, str(fault)
    except Exception:  # of the soak itself, which should go on
        return label, 1, traceback.format_exc()


def main(argv=None):
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(prog="soak.py", description=__doc__, formatter_class=raw)
    add = parser.add_argument
    add("--kills", type=int, default=100, help="at least so many (default 100)")
    add("--inputs", type=int, default=1000, help="damaged files, flags and arrays (default 1000)")
    add("--jobs", type=int, default=1, help="cases at a time (default 1)")
    add("--seed", type=int, default=0, help="of all random choices (default 0)")
    add("--only", choices=PARTS, help="one part")
    add("--case", type=int, metavar="NUMBER", help="one case of it")
    add("--quick", action="store_true", help="a little of each part")
    args = parser.parse_args(argv)
    counts = dict(kills=math.ceil(args.kills / KILLS), system=10 * len(SYSTEM), readers=args.inputs // 2)
    counts |= dict(flags=args.inputs // 4, library=args.inputs // 4)
    if args.quick:
        counts = dict(kills=1, system=4, readers=10, flags=5, library=10)
    tasks = [(part, number) for part in PARTS for number in range(counts[part]) if args.only in (None, part)]
    if args.case is not None:
        tasks = [(args.only, args.case)]
    tried = collections.Counter()
    faults = collections.Counter()
    with tempfile.TemporaryDirectory(prefix="soak-") as top:
        place = Path(top).resolve()
        make_box(place / "box")
        with ProcessPoolExecutor(args.jobs, multiprocessing.get_context("fork")) as pool:
            results = [pool.submit(try_case, place, args.seed, *task) for task in tasks]
            for (part, number), result in zip(tasks, results, strict=True):
                label, count, fault = result.result()
                tried[part, label] += count
                if fault:
                    faults[part, label] += 1
                    print(f"--only {part} --seed {args.seed} --case {number}: {fault!a}", flush=True)
    for part, label in tried:
        print(f"{part:8} {label:25} {tried[part, label]:6,} tried {faults[part, label]:5,} faults")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
