"""What tasks are written with, and the process that runs their probes.

A probe is a function of `files`, the six source files as modules, and `draw`, random numbers. It returns
named outputs: tensors, numbers or texts. grade.py compares those of the student's functions with ours.
"""

import contextlib
import functools
import importlib.abc
import importlib.util
import io
import json
import math
import os
import sys
import tempfile
import traceback
import warnings
from typing import Any, NamedTuple

import numpy as np
import torch

torch.set_num_threads(1)
MEMORY = 2 << 30  # bytes, that a task may take
FILE_SIZE = 100 << 20  # bytes, of a file that it writes
compile_once = functools.lru_cache(64)(compile)


class Assignment:
    """The tasks of an assignment. `extras` are files that a student needs beside the sources."""

    def __init__(self, extras=()):
        self.extras = extras
        self.tasks = []
        self.probes = {}  # {id of a part: function}

    def task(self, number, functions, text, keep=0, leaks="", seconds=30):
        """Begins a task, to write functions such as "models.Gaussian.kl models.iwae_bound".

        They are emptied, but for `keep` statements at the start of the first one; `text` tells the student
        what to write. `leaks` are functions that show an answer: they are emptied as well. A task without
        functions tests the files as a whole. `seconds` of processor time are its limit.
        """
        functions, leaks = ([name.split(".", 1) for name in names.split()] for names in (functions, leaks))
        text = " ".join(text.split())
        task = dict(number=number, functions=functions, leaks=leaks, text=text, keep=keep, seconds=seconds)
        self.tasks.append(task | dict(parts=[]))

    def part(self, points, title):
        """Makes a function a probe of the last task, worth so many points."""

        def add(probe):
            task = self.tasks[-1]
            name = task["number"] + "abcdefgh"[len(task["parts"])]
            task["parts"].append(dict(id=name, points=points, title=title))
            self.probes[name] = probe
            return probe

        return add


class Draw:
    """Random numbers of numpy's RandomState, whose stream never changes."""

    def __init__(self, seed):
        self.random = np.random.RandomState(seed)

    def normal(self, *shape, scale=1.0):
        return torch.tensor(scale * self.random.standard_normal(shape), dtype=torch.float32)

    def uniform(self, *shape, low=0.0, high=1.0):
        return torch.tensor(self.random.uniform(low, high, shape), dtype=torch.float32)

    def integers(self, high, *shape):
        return torch.tensor(self.random.randint(high, size=shape))

    @torch.no_grad()
    def fill(self, module, scale=1.0):
        """Draws every weight of a module, the smaller the more inputs a unit has; returns the module."""
        for weight in module.parameters():
            fan_in = weight[0].numel() if weight.ndim > 1 else 9
            weight.copy_(self.normal(*weight.shape, scale=scale / math.sqrt(fan_in)))
        return module


class About(NamedTuple):
    """An output that chance moves by up to an absolute tolerance."""

    value: Any
    tolerance: float


def slope(output, *inputs):
    """Gradients of the sum of an output with respect to inputs; "no gradient" where there is no path."""
    if not (isinstance(output, torch.Tensor) and output.requires_grad):
        return ["no gradient" for _ in inputs]
    gradients = torch.autograd.grad(output.sum(), inputs, allow_unused=True, retain_graph=True)
    return ["no gradient" if gradient is None else gradient for gradient in gradients]


def train(files, flags):
    """The summary of a run of train.py with these flags, as a dict."""
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):
        files.train.run([*flags.split(), "--device", "cpu", "--out", f"{folder}/run"])
        with open(f"{folder}/run/summary.json", encoding="utf-8") as file:
            return json.load(file)


def encode(value):
    """An output as JSON: {"shape", "values", "tolerance"} or {"text"}."""
    value, tolerance = value if isinstance(value, About) else (value, None)
    if isinstance(value, np.ndarray | np.generic | bool | int | float):
        value = torch.as_tensor(value)
    if not isinstance(value, torch.Tensor):
        return {"text": "nothing (is a return missing?)" if value is None else str(value)[:200]}
    numbers = value.detach().double().flatten().tolist()
    return {"shape": list(value.shape), "values": numbers, "tolerance": tolerance}


class Files(importlib.abc.Loader):
    """Source texts as modules that import each other, executed anew for each instance on first use. Inside
    `with` they take the place of modules of the same names."""

    def __init__(self, texts, folder):
        self.texts = texts
        self.folder = folder  # where data.py looks for datasets/

    def __enter__(self):
        self.replaced = {name: sys.modules.pop(name) for name in self.texts if name in sys.modules}
        sys.meta_path.insert(0, self)
        return self

    def __exit__(self, *error):
        sys.meta_path.remove(self)
        for name in self.texts:
            sys.modules.pop(name, None)
        sys.modules.update(self.replaced)

    def __getattr__(self, name):
        if name not in self.texts:
            raise AttributeError(name)
        return importlib.import_module(name)

    def find_spec(self, name, path=None, target=None):
        return importlib.util.spec_from_loader(name, self) if name in self.texts else None

    def exec_module(self, module):
        file = f"{module.__name__}.py"
        module.__file__ = os.path.join(self.folder, file)
        exec(compile_once(self.texts[module.__name__], file, "exec"), module.__dict__)


def describe(error, texts):
    """{"raised": what was raised, "place": the last line of the student's files that it went through}."""
    reason, *_ = str(error).strip().splitlines() or [""]
    if isinstance(error, NotImplementedError) and reason.startswith("Task "):
        return {"raised": f"needs {reason.partition(':')[0]} first", "place": ""}
    place = ""
    for frame in traceback.extract_tb(error.__traceback__):
        text = texts.get(frame.filename.removesuffix(".py"))
        if text:
            line = text.splitlines()[frame.lineno - 1].strip()
            place = f" in {frame.name} ({frame.filename}): {line}"
    return {"raised": f"{type(error).__name__}: {reason[:200]}", "place": place}


def run_probe(probe, texts, folder, seed, salt=0):
    """Named outputs of a probe, or {"": why there are none}. `salt` changes the noise that torch draws."""
    torch.manual_seed(seed + salt)
    try:
        with Files(texts, folder) as files, warnings.catch_warnings(action="ignore"):
            outputs = probe(files, Draw(seed))
        return {name: encode(value) for name, value in outputs.items()}
    except (Exception, SystemExit) as error:
        return {"": describe(error, texts)}


def run_parts(assignment, task, texts, folder, seeds, salt=0):
    """Yields each part of a task and its outputs for each seed."""
    for part in task["parts"]:
        probe = assignment.probes[part["id"]]
        yield part["id"], [run_probe(probe, texts, folder, seed, salt) for seed in seeds]


def run_job():
    """Runs the task that stands on stdin, within limits of time and memory on systems that have them. Writes
    a line of JSON after each part: it stays if a later part does not end."""
    from tasks import assignment

    job = json.load(sys.stdin)
    out = sys.stdout
    sys.stdout = sys.stderr  # for what a student prints
    seconds = job["task"]["seconds"]
    with contextlib.suppress(ImportError):  # Windows has no limits
        import resource

        resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds + 5))
        resource.setrlimit(resource.RLIMIT_DATA, (MEMORY, MEMORY))
        resource.setrlimit(resource.RLIMIT_FSIZE, (FILE_SIZE, FILE_SIZE))
    for row in run_parts(assignment, **job):
        print(json.dumps(row), file=out, flush=True)


if __name__ == "__main__":
    import probing  # as tasks.py does, which must meet the same About

    probing.run_job()
