"""Validation losses of one process and of two, as docs/distributed.png: python benchmarks/distributed.py

Takes about three minutes on two cores. Finished runs are kept in runs/distributed/.
"""

import subprocess
import sys
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
import sample
from sample import COLORS, STYLE, plt

ROOT = Path(sample.__file__).parent


def losses(model, processes, seed, epochs=8):
    """The validation loss in nats per image after each epoch, [epochs]."""
    folder = ROOT / f"runs/distributed/{model}-{processes}-{seed}"
    if not (folder / "summary.json").exists():
        torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc={processes}"]
        flags = f"--model {model} --image-size 14 --epochs {epochs} --seed {seed} --out {folder}"
        subprocess.run([*torchrun, ROOT / "train.py", *flags.split()], check=True)
    history = torch.load(folder / "last.pt", weights_only=True)["state"]["history"]
    return np.array([row["loss"] for row in history if row["split"] == "valid" and row["epoch"] > 0])


plt.rcParams.update(STYLE)
figure, axes = plt.subplots(1, 2, figsize=(9, 3.2), layout="constrained")
curves = {(model, n): [losses(model, n, k) for k in range(3)] for model in ("ae", "vae") for n in (1, 2)}
titles = ["autoencoder: no noise is drawn", "VAE: each process draws noise of its own"]
for axis, model, title in zip(axes, ("ae", "vae"), titles, strict=True):
    for n, style, label in (
        (1, "o-", "one process, three seeds"),
        (2, "s--", "two processes, the same seeds"),
    ):
        epochs = range(1, 1 + len(curves[model, n][0]))
        difference = np.transpose(curves[model, n] - np.mean(curves[model, 1], 0))  # (epochs, seeds)
        options = dict(markersize=6 / n, linewidth=3 / n, alpha=0.4 * n)  # two processes on top of one
        axis.plot(epochs, difference, style, color=COLORS[n - 1], label=[label, "_", "_"], **options)
    gap = np.abs(np.divide(curves[model, 2], curves[model, 1]) - 1).max()
    axis.set_title(f"{title}\nlargest difference of a seed: {gap:.0e} of the loss")
    axis.set(xlabel="epoch", ylabel="validation loss − mean of one process\n(nats/image)", xticks=epochs)
    axis.legend()
figure.savefig(ROOT / "docs/distributed.png")
