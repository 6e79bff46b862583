"""The test loss of report R1's auto-decoder if the latents of test pictures are fitted in other ways.

    python experiments/reproduce.py r1-ad
    python benchmarks/latents.py runs/reproduce-full/r1-ad            # 40 minutes on one core

First the loss of the latents that the run has fitted, as a mean over batches of several sizes, on which this
loss depends; then that of latents fitted anew: in the same way, from a start at 0, with batches in the same
order in each epoch, and with the statistics of each batch in batch norm.
"""

import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
import data
import models
import sample


def report_loss(model, z, x, batch_size):
    """Mean over batches of ‖x − x̂‖ / pixels on the scale 0..255, for latents z [n, D] and images x."""
    losses = []
    for part, images in zip(z.split(batch_size), x.split(batch_size), strict=True):
        losses.append(255 * (model.decode(part) - images).norm() / images.numel())
    return torch.stack(losses).mean()


def refit(model, x, epochs, from_zero=False, same_order=False, batch_statistics=False):
    """The loss of latents fitted as r1-ad fits them, in batches of 16, but for what is named."""
    torch.manual_seed(0)
    model.train(batch_statistics)
    z = torch.zeros(len(x), model.latent_dim) if from_zero else torch.randn(len(x), model.latent_dim)
    optimizer = torch.optim.Adam([z.requires_grad_()], lr=1e-2)
    for _ in range(epochs):
        order = torch.arange(len(x)) if same_order else torch.randperm(len(x))
        for index in order.split(16):
            loss = report_loss(model, z[index], x[index], 16)
            (z.grad,) = torch.autograd.grad(loss, z)
            optimizer.step()
    with torch.no_grad():
        return report_loss(model, z, x, 16)


def command(argv):
    parser = data.Parser(prog="latents.py", description=__doc__)
    parser.add_argument("run", metavar="RUN")
    parser.add_argument("--epochs", type=data.number(int, 1), default=100)
    args = parser.parse_args(argv)
    run = sample.Run(args.run)
    data.require(run.model.has_free_latents, f"{args.run} holds no auto-decoder")
    x, _ = run.dataset.test.batch(slice(None))
    z = run.latents("test", torch.arange(len(x)))
    with torch.inference_mode():
        for batch_size in (16, 20, 24, 32):
            print(f"batches of {batch_size}: {report_loss(run.model, z, x, batch_size):.4f}", flush=True)
    weights = {name: value.clone() for name, value in run.model.state_dict().items()}
    for change in ("as the run", "from_zero", "same_order", "batch_statistics"):
        loss = refit(run.model, x, args.epochs, **({} if change == "as the run" else {change: True}))
        print(f"{change}: {loss:.4f}", flush=True)
        run.model.load_state_dict(weights)  # batch norm's statistics have changed


def main(argv=None):
    return data.run_command("latents.py", command, argv, models.ModelError)


if __name__ == "__main__":
    sys.exit(main())
