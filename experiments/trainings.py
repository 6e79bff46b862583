"""Trains several runs at a time: finished ones are kept and interrupted ones are resumed.

Each has a process of its own, `python trainings.py PARENT FLAGS`; PARENT is the number of this process.
"""

import os
import signal
import subprocess
import sys
import threading
import time
from collections import namedtuple
from pathlib import Path

Training = namedtuple("Training", "folder argv")  # a run folder, and train.py's arguments for it


def run_all(trainings, jobs=1):
    """Runs what has not finished yet, `jobs` trainings at a time; returns the folders whose training failed.

    The trainings share the cores, unless OMP_NUM_THREADS is set. A failure does not stop the others. However
    this function ends, it leaves no training running.
    """
    threads = max(1, (os.cpu_count() or 1) // jobs)
    environment = {"OMP_NUM_THREADS": str(threads)} | os.environ
    waiting = [training for training in trainings if not is_finished(training.folder)]
    running = {}  # folder: process
    failed = []
    try:
        while waiting or running:
            while waiting and len(running) < jobs:
                folder, argv = waiting.pop(0)
                running[folder] = start(folder, argv, environment)
            time.sleep(0.1)
            for folder in [folder for folder, process in running.items() if process.poll() is not None]:
                status = running.pop(folder).returncode
                if status:
                    failed.append(folder)
                    lines = ["", *Path(f"{folder}.log").read_text(errors="replace").splitlines()]
                    reason = f"FAILED, status {status}: {lines[-1]}"
                    print(f"{folder}: {reason} (more in {folder}.log)", file=sys.stderr, flush=True)
                else:
                    print(f"{folder}: done", flush=True)
    finally:
        for process in running.values():
            process.terminate()  # at any moment: a run folder always stays usable
        for process in running.values():
            process.wait()
    return failed


def is_finished(folder):
    return (folder / "summary.json").exists()


def start(folder, argv, environment):
    """Starts a process that trains or resumes a run, and appends its output to <folder>.log."""
    if (folder / "last.pt").exists():
        argv = ["--resume", str(folder)]
    folder.parent.mkdir(parents=True, exist_ok=True)
    with open(f"{folder}.log", "a") as log:
        command = [sys.executable, __file__, str(os.getpid()), *argv]
        return subprocess.Popen(command, env=environment, stdout=log, stderr=log)


def end_with_parent(parent):
    """Ends this process as Ctrl-C would once its parent is gone, even if that was killed with `kill -9`."""

    def watch():
        while os.getppid() == parent:
            time.sleep(0.5)
        os.kill(os.getpid(), signal.SIGTERM)  # not SIGINT, which a shell may have made us ignore

    if os.name == "posix":  # elsewhere the id of the parent stays the same when it ends
        threading.Thread(target=watch, daemon=True).start()


if __name__ == "__main__":
    end_with_parent(int(sys.argv[1]))
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
    import train  # here, since torch takes seconds to import, in which the parent may end

    signal.signal(signal.SIGTERM, signal.default_int_handler)
    status = train.main(sys.argv[2:])
    sys.stdout.flush()
    os._exit(status)  # sys.exit would take torch apart first, which takes seconds on a busy machine
