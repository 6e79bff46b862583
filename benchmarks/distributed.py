"""Validation losses of one process and of two, as docs/distributed.png: python benchmarks/distributed.py

Takes about three minutes on two idle cores. Finished runs are kept in runs/distributed/.
"""

import subprocess
import sys
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
import sample
from sample import COLORS, plt

ROOT = Path(sample.__file__).parent


def losses(model, processes, seed, epochs=10):
    """The validation loss in nats per image after each epoch, [epochs]."""
    folder = ROOT / f"runs/distributed/{model}-{processes}-{seed}"
    if not (folder / "summary.json").exists():
        torchrun = f"-m torch.distributed.run --standalone --nproc_per_node={processes}"
        flags = f"--data fashion2k --epochs {epochs} --seed {seed} --out {folder}"
        command = f"{torchrun if processes > 1 else ''} train.py --model {model} {flags}"
        subprocess.run([sys.executable, *command.split()], cwd=ROOT, check=True)
    history = torch.load(folder / "last.pt", weights_only=True)["state"]["history"]
    return np.array([row["loss"] for row in history if row["split"] == "valid" and row["epoch"] > 0])


plt.rcParams.update(sample.STYLE)
figure, axes = plt.subplots(1, 2, figsize=(9, 3.4), layout="constrained")
titles = {"ae": "autoencoder: no noise is drawn", "vae": "VAE: each process draws its own noise"}
for axis, (model, title) in zip(axes, titles.items(), strict=True):
    for n, style, width, alpha in ((1, "-", 5, 0.4), (2, "--s", 1, 1)):  # two processes on top of one
        for seed in range(3):
            label = f"{n} process{'es' if n > 1 else ''}, three seeds" if seed == 0 else None
            loss = losses(model, n, seed)
            look = dict(color=COLORS[n - 1], linewidth=width, alpha=alpha, markersize=4, label=label)
            axis.plot(range(1, 1 + len(loss)), loss, style, **look)
    axis.set(title=title, xlabel="epoch", ylabel="validation loss (nats/image)")
    axis.legend()
figure.savefig(ROOT / "docs/distributed.png")
