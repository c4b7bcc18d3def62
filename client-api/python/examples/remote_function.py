# SPDX-License-Identifier: AGPL-3.0-or-later
"""Runs a training loop that reads every loss: as a function on the machine, and step by step from the program.

    python remote_function.py [--steps N] [--provider mock]

Step by step, reading a loss is a round trip. In a function on the node, it is a read of memory.
"""

from __future__ import annotations

import argparse
import time

import torch
from torch import nn

import remora


def train(
    model: nn.Module, x: torch.Tensor, y: torch.Tensor, steps: int
) -> tuple[int, torch.Tensor]:
    """Trains until the loss is small; returns the number of steps, and the last loss."""
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    loss = torch.zeros(())
    for step in range(steps):
        loss = (model(x) - y).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if loss.item() < 1e-3:
            return step, loss.detach()
    return steps, loss.detach()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--provider", default="mock")
    options = parser.parse_args()

    with remora.RemoteMachine(options.provider) as machine:
        device = machine.device()
        x = torch.linspace(-1, 1, 64, device=device).unsqueeze(1)
        y = x.pow(3) - x
        for name, function in (("step by step", train), ("on the node", remora.remote(train))):
            torch.manual_seed(0)
            model = nn.Sequential(nn.Linear(1, 32), nn.Tanh(), nn.Linear(32, 1)).to(device)
            function(model, x, y, 1)  # warm-up
            reads = machine.stats()["blocking_reads"]
            begin = time.perf_counter()
            steps, loss = function(model, x, y, options.steps)
            seconds = time.perf_counter() - begin
            reads = machine.stats()["blocking_reads"] - reads
            print(
                f"{name}: {steps} steps, loss {loss.item():.4f}, {seconds:.2f} s, {reads:.0f} waits"
            )


if __name__ == "__main__":
    main()
