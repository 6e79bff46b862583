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


def losses(model, processes, seed, epochs=8):
    """The validation loss in nats per image after each epoch, [epochs]."""
    folder = ROOT / f"runs/distributed/{model}-{processes}-{seed}"
    if not (folder / "summary.json").exists():
        torchrun = ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={processes}"]
        flags = f"train.py --model {model} --image-size 14 --epochs {epochs} --seed {seed} --out {folder}"
        subprocess.run([sys.executable, *torchrun, *flags.split()], cwd=ROOT, check=True)
    history = torch.load(folder / "last.pt", weights_only=True)["state"]["history"]
    return np.array([row["loss"] for row in history if row["split"] == "valid" and row["epoch"] > 0])


plt.rcParams.update(sample.STYLE)
figure, axes = plt.subplots(1, 2, figsize=(9, 3.2), layout="constrained")
titles = {"ae": "autoencoder: no noise is drawn", "vae": "VAE: each process draws its own noise"}
for axis, (model, title) in zip(axes, titles.items(), strict=True):
    one, two = (np.stack([losses(model, n, seed) for seed in range(3)]) for n in (1, 2))  # (seeds, epochs)
    epochs = range(1, 1 + one.shape[1])
    for curves, style, label in ((one, "-", "one process, three seeds"), (two, "--s", "two processes")):
        wide = dict(linewidth=5, alpha=0.4) if curves is one else dict(linewidth=1, markersize=4)
        color = COLORS[0 if curves is one else 1]
        axis.plot(epochs, (curves - one.mean(0)).T, style, color=color, label=[label, "_", "_"], **wide)
    axis.set(title=title, xlabel="epoch", ylabel="validation loss − mean of one process\n(nats/image)")
    axis.legend()
figure.savefig(ROOT / "docs/distributed.png")
