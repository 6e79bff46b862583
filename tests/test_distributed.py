"""Many processes: torchrun trains as one process does, and where one of them fails all end.

torchrun also runs this file itself: `train_and_measure`, at the end, is what each of its processes does.
"""

import contextlib
import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from unittest import mock

import pytest
import torch
import torch.distributed as dist
from conftest import PICTURED, small

import data
import metrics
import models
import train

ROOT = Path(train.__file__).parent
TORCHRUN = [sys.executable, "-m", "torch.distributed.run"]
ON_THIS_MACHINE = [*TORCHRUN, "--standalone", "--nproc_per_node"]
PROCESSES = 2
PATIENCE = 500  # seconds that torchrun may take to start and train on a busy machine

# Without batch norm, which is local to a process. Batches of 11 leave one picture for the last, so that one
# process has an empty share; the others have shares of 6 and 5
RUNS = {
    "ae": "--batch-size 11",
    "vae": "--batch-size 16 --clip 1",
    "cvae": "--batch-size 16",
    "ad": "--batch-size 11 --fit-batch-size 3",
    "vad": "--batch-size 16",
    "gan": "--batch-size 16 --no-decoder-norm",
    "classifier": "--batch-size 16 --no-batch-norm",
    "text2text": "--batch-size 11",
    "image2text": "--batch-size 16",
    "text2image": "--batch-size 16",
}


def command_of(model, digits, folder):
    """A short training of a small model; `digits` is the file of the fixture."""
    where = (digits, "--epochs 2") if model in PICTURED else ("arithmetic", "--steps 4")
    return small(model, where[0], f"{where[1]} {RUNS[model]}", folder)


def metrics_command(digits):
    return [digits, "--against", digits, "--split", "train", "--features", "pixels", "--json"]


def start(command, **options):
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)} | options.pop("env", {})
    pipes = dict(stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    return subprocess.Popen([str(part) for part in command], env=environment, **pipes, **options)


def history(folder):
    return torch.load(folder / "last.pt", weights_only=True)["state"]["history"]


# Lines of torchrun and torch, among them the stack that torch writes where a process loses torchrun's store
TORCH = re.compile(r"(\[rank\d+\]:)?\[?[WE][01]\d|Exception raised from|frame #\d|<omitting python frames>")


def messages(stderr):
    """The lines on stderr that are not those of torchrun and torch."""
    lines = stderr.split("Traceback (most recent call last)")[0].splitlines()
    return [line for line in lines if line and not TORCH.match(line)]


def workers(torchrun):
    """The processes that torchrun has started, in their order."""
    listing = subprocess.run(["pgrep", "-P", str(torchrun.pid)], capture_output=True, text=True)
    return sorted(int(line) for line in listing.stdout.split())


def wait_for_epoch(epoch, folder, process):
    deadline = time.time() + PATIENCE
    while time.time() < deadline and process.poll() is None:
        with contextlib.suppress(FileNotFoundError):
            if torch.load(folder / "last.pt", weights_only=True)["state"]["epoch"] >= epoch:
                return
        time.sleep(0.1)
    process.terminate()
    raise AssertionError(f"{folder} has not come to epoch {epoch}: {process.communicate()}")


# -----------------------------------------------------------------------------------------------------------
# The same numbers


@pytest.fixture(scope="module")
def folders(digits, tmp_path_factory):
    """The runs of one process and of PROCESSES, as {number: folder of a run folder for each model}."""
    root = tmp_path_factory.mktemp("distributed")
    one = root / "one"
    many = root / "many"
    no_pictures = mock.patch.object(train.sample, "draw_run", lambda *args: [])
    with mock.patch.object(models, "augmented", lambda x: x), no_pictures:
        for model in RUNS:
            assert train.main(command_of(model, digits, one / model)) == 0
    shutil.copytree(one / "ae", many / "resumed")
    torchrun = start([*ON_THIS_MACHINE, PROCESSES, __file__, digits, many])
    output, errors = torchrun.communicate(timeout=PATIENCE)
    assert torchrun.returncode == 0, errors
    (many / "output.txt").write_text(output)
    return {1: one, PROCESSES: many}


@pytest.mark.parametrize("model", RUNS)
def test_many_processes_train_as_one_does(model, folders):
    """With the noise of one process, which train_and_measure sees to, all that differs is rounding."""
    one, many = (history(folder / model) for folder in folders.values())
    assert [(row["epoch"], row["step"], row["split"]) for row in many] == [
        (row["epoch"], row["step"], row["split"]) for row in one
    ]
    compared = 0
    for expected, row in zip(one, many, strict=True):
        if model == "vad" and row["split"] in ("refined", "test_latents"):
            continue  # fitted with noise of the processes' own
        for term in ("loss", "discriminator", "generator"):
            if term in expected:
                assert row[term] == pytest.approx(expected[term], rel=2e-6), (
                    row["epoch"],
                    row["split"],
                    term,
                )
                compared += 1
    assert compared > 0


def test_fitted_latents_are_those_of_one_process(folders):
    for name in ("refined", "test_latents"):
        one, many = (models.load(folder / "ad" / "best.pt").get_buffer(name) for folder in folders.values())
        assert torch.allclose(one, many, rtol=0, atol=1e-4)
        assert one.abs().max() > 1


def test_the_run_folder_says_how_many_processes_there_were(folders):
    for count, folder in folders.items():
        config = data.read_config(folder / "ae")
        assert (config["processes"], config["threads"]) == (count, 1)
    output = (folders[PROCESSES] / "output.txt").read_text()
    assert output.count("2 processes x 1 threads") == len(RUNS) + 1  # the first process alone prints


def test_another_number_of_processes_resumes_a_run(folders, digits, tmp_path):
    """From one process to many, in train_and_measure, and from many to one."""
    assert train.main(["--resume", str(folders[PROCESSES] / "ae"), "--epochs", "3"]) == 0
    whole = [*command_of("ae", digits, tmp_path / "whole"), "--epochs", "3"]
    assert train.main(whole) == 0
    expected = history(tmp_path / "whole")
    for folder in (folders[PROCESSES] / "resumed", folders[PROCESSES] / "ae"):
        rows = history(folder)
        assert [row["loss"] for row in rows] == pytest.approx([row["loss"] for row in expected], rel=2e-6)
    assert data.read_config(folders[PROCESSES] / "ae")["processes"] == 1
    assert data.read_config(folders[PROCESSES] / "resumed")["processes"] == PROCESSES


def test_metrics_of_many_processes_are_those_of_one(folders, digits, capsys):
    capsys.readouterr()
    assert metrics.main(metrics_command(digits)) == 0
    assert json.loads((folders[PROCESSES] / "metrics.json").read_text()) == json.loads(
        capsys.readouterr().out
    )


def test_every_process_and_epoch_has_noise_of_its_own(run):
    training = train.Training(*[None] * 9)
    training.args = mock.Mock(seed=3)
    training.state = train.State()
    draws = []
    for rank in range(4):
        for training.state.epoch in range(4):
            training.seed(rank)
            draws.append(torch.rand(1).item())
    assert len(set(draws)) == 16


# -----------------------------------------------------------------------------------------------------------
# Failures


def test_a_mistake_is_one_line(tmp_path, digits):
    """That the folder holds a run, which all processes learn of from the first."""
    (tmp_path / "last.pt").touch()
    torchrun = start([*ON_THIS_MACHINE, 2, ROOT / "train.py", *small("ae", digits, out=tmp_path)])
    output, errors = torchrun.communicate(timeout=PATIENCE)
    assert torchrun.returncode == 1 and output == ""
    (line,) = messages(errors)
    assert line.startswith(f"train.py: error: --out {tmp_path} holds a run already")


@pytest.mark.parametrize("flags", ["--objective report", "--device cuda:1", "--device mps"])
def test_what_many_processes_cannot_do_is_refused(flags, refused, digits, tmp_path, monkeypatch):
    monkeypatch.setattr(data, "world_size", lambda: 2)
    monkeypatch.setattr(data, "from_first", lambda function, *args, **options: function(*args, **options))
    message = refused(train.main, small("ad", digits, flags, tmp_path / "run"))
    assert "one process" in message and flags.split()[0] in message
    assert not (tmp_path / "run").exists()


def test_each_process_has_a_gpu_of_its_own(monkeypatch):
    monkeypatch.setattr(data, "world_size", lambda: 3)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(data, "from_first", lambda function: function())
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "3")
    monkeypatch.setenv("LOCAL_RANK", "2")
    for name in ("auto", "cuda"):
        with pytest.raises(data.Mistake, match="3 processes need as many GPUs, and there are 2: start"):
            data.pick_device(name)
    assert data.pick_device("cpu") == torch.device("cpu")


def test_what_is_on_the_cpu_is_exchanged_on_a_machine_with_gpus_too(monkeypatch):
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "none")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(dist, "is_nccl_available", lambda: True)
    monkeypatch.setattr(dist, "rendezvous", lambda url: iter([(None, 0, 2)]))
    init = mock.Mock(side_effect=KeyboardInterrupt)
    monkeypatch.setattr(dist, "init_process_group", init)
    with pytest.raises(KeyboardInterrupt), data.process_group():
        pass
    backends = dict(pair.split(":") for pair in init.call_args.args[0].split(","))
    assert backends == {"cpu": "gloo", "cuda": "nccl"}


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_processes_train_on_a_machine_with_a_gpu(device, digits, tmp_path):
    flags = small("gan", digits, f"--epochs 1 --device {device}", tmp_path)
    processes = 2 if device == "cpu" else torch.cuda.device_count()
    torchrun = start([*ON_THIS_MACHINE, processes, ROOT / "train.py", *flags])
    _, errors = torchrun.communicate(timeout=PATIENCE)
    assert torchrun.returncode == 0, errors


@pytest.mark.parametrize("end", ["kill the first", pytest.param("interrupt all", marks=pytest.mark.long)])
def test_when_one_process_ends_all_end_and_the_last_epoch_is_kept(end, tmp_path, digits):
    flags = small("vae", digits, "--epochs 100000", tmp_path)
    torchrun = start([*ON_THIS_MACHINE, 3, ROOT / "train.py", *flags])
    wait_for_epoch(2, tmp_path, torchrun)
    processes = workers(torchrun)
    assert len(processes) == 3
    if end == "kill the first":
        os.kill(processes[0], signal.SIGKILL)
    else:
        torchrun.send_signal(signal.SIGINT)  # what Ctrl-C sends
    _, errors = torchrun.communicate(timeout=PATIENCE)
    assert torchrun.returncode == 1
    lines = [line for line in messages(errors) if "decoder ignores z" not in line]
    assert len(lines) == 1, lines
    (line,) = lines
    kept = torch.load(tmp_path / "last.pt", weights_only=True)["state"]["epoch"]
    assert line.startswith("stopped after epoch ") and line.endswith(f"train.py --resume {tmp_path}")
    assert int(line.split()[3].strip(";")) in (kept - 1, kept)  # killed before it could tell the others
    assert train.main(["--resume", str(tmp_path), "--epochs", str(kept + 1)]) == 0


# -----------------------------------------------------------------------------------------------------------
# Machines


@pytest.fixture
def hosts():
    """Two network namespaces, which are hosts to each other: their names, at 10.77.0.1 and 10.77.0.2."""
    names = [f"dgm{os.getpid()}-{k}" for k in (1, 2)]
    if not shutil.which("ip") or subprocess.run(["ip", "netns", "add", names[0]]).returncode != 0:
        pytest.skip("network namespaces need the command ip, and root's rights")
    try:
        subprocess.run(["ip", "netns", "add", names[1]], check=True)
        link = f"ip link add link0 netns {names[0]} type veth peer name link0 netns {names[1]}"
        subprocess.run(link.split(), check=True)
        for k, name in enumerate(names, 1):
            for command in (f"addr add 10.77.0.{k}/24 dev link0", "link set link0 up", "link set lo up"):
                subprocess.run(["ip", "-n", name, *command.split()], check=True)
        yield names
    finally:
        for name in names:
            subprocess.run(["ip", "netns", "del", name], stderr=subprocess.DEVNULL)


def test_two_machines_without_a_common_disk(hosts, digits, tmp_path):
    """They train as one process does, and when the process of one is killed the other's ends."""
    flags = [*command_of("ae", digits, "run"), "--epochs", "100000"]
    runs = []
    for k, host in enumerate(hosts):
        folder = tmp_path / str(k)
        folder.mkdir()
        address = ["--master-addr=10.77.0.1", "--master-port=29400"]
        command = [*TORCHRUN, "--nnodes=2", f"--node-rank={k}", "--nproc_per_node=1", *address]
        env = {"GLOO_SOCKET_IFNAME": "link0"}
        in_host = ["ip", "netns", "exec", host, *command, ROOT / "train.py", *flags]
        runs.append(start(in_host, cwd=folder, env=env))
    first = tmp_path / "0" / "run"
    wait_for_epoch(2, first, runs[0])
    os.kill(workers(runs[1])[0], signal.SIGKILL)
    errors = [run.communicate(timeout=PATIENCE)[1] for run in runs]
    lines = messages(errors[0])
    assert len(lines) == 1, errors[0]
    assert lines[0].startswith("stopped after epoch ")
    assert messages(errors[1]) == []
    assert list((tmp_path / "1").iterdir()) == []
    assert train.main([*flags, "--epochs", "2", "--out", str(tmp_path / "one")]) == 0
    expected = [row["loss"] for row in history(tmp_path / "one")]
    assert [row["loss"] for row in history(first)][: len(expected)] == pytest.approx(expected, rel=2e-6)


# -----------------------------------------------------------------------------------------------------------
# What each process of torchrun does in the fixture `folders`


def draw_share(draw):
    """torch.randn or torch.rand: each process draws the numbers of the whole batch and returns its share."""

    def share(*size, **options):
        n, *rest = size if isinstance(size[0], int) else size[0]
        return draw(n * PROCESSES, *rest, **options)[data.rank() :: PROCESSES]

    return share


def train_and_measure(digits, folder):
    train_epoch = train.train_epoch
    seed = train.Training.seed

    def train_epoch_with_noise_of_one(*args):
        with mock.patch.multiple(torch, randn=draw_share(torch.randn), rand=draw_share(torch.rand)):
            return train_epoch(*args)

    train.train_epoch = train_epoch_with_noise_of_one
    train.Training.seed = lambda training, rank=0: None if rank else seed(training)
    models.augmented = lambda x: x
    train.sample.draw_run = lambda *args: []
    run = train.run.__wrapped__  # which does not join the processes, nor leave them
    with data.process_group():
        for model in RUNS:
            run(command_of(model, digits, folder / model))
        run(["--resume", str(folder / "resumed"), "--epochs", "3"])
        with contextlib.redirect_stdout(io.StringIO()) as output:
            metrics.command(metrics_command(digits))
        if data.rank() == 0:
            (folder / "metrics.json").write_text(output.getvalue())


if __name__ == "__main__":
    torch.set_num_threads(1)
    train_and_measure(sys.argv[1], Path(sys.argv[2]))
