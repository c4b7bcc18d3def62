# SPDX-License-Identifier: AGPL-3.0-or-later
"""Trains a small network on handwritten digits, on a remote machine and on the local CPU.

    python train_digits.py [--model mlp|conv] [--epochs N] [--provider mock] [--local]

The data are 1,797 real digits of 8 x 8 pixels, from the repository's examples.
"""

from __future__ import annotations

import argparse
import gzip
import time
from pathlib import Path

import torch
from torch import nn

import remora

DIGITS = (
    Path(__file__).resolve().parents[3]
    / "examples/src/main/resources/io/remora/examples/digits.csv.gz"
)


def load_digits(path: Path) -> tuple[torch.Tensor, torch.Tensor]:
    """Returns images (N x 1 x 8 x 8, 0 to 1) and their digits (N)."""
    opener = gzip.open if path.suffix == ".gz" else open
    with opener(path, "rt") as file:
        rows = [[float(cell) for cell in line.split(",")] for line in file if line[0].isdigit()]
    table = torch.tensor(rows)
    return table[:, :64].reshape(-1, 1, 8, 8) / 16, table[:, 64].long()


def make_model(kind: str) -> nn.Module:
    if kind == "conv":
        return nn.Sequential(
            nn.Conv2d(1, 16, 3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(16, 32, 3, padding=1),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(512, 10),
        )
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 10))


def train(device: torch.device, kind: str, epochs: int, data: Path) -> list[float]:
    """Trains on a device; returns the mean loss of each epoch."""
    torch.manual_seed(0)
    images, digits = load_digits(data)
    order = torch.randperm(len(images))
    images, digits = images[order].to(device), digits[order].to(device)
    kept = len(images) * 4 // 5
    model = make_model(kind).to(device)
    optimizer = torch.optim.Adam(model.parameters(), lr=2e-3)
    losses = []
    for epoch in range(epochs):
        begin = time.perf_counter()
        total = torch.zeros((), device=device)
        for at in range(0, kept, 64):
            x, y = images[at : min(at + 64, kept)], digits[at : min(at + 64, kept)]
            loss = nn.functional.cross_entropy(model(x), y)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            total += loss.detach()  # stays on the device: reading every loss would wait each time
        losses.append(total.item() / (kept // 64))
        with torch.no_grad():
            right = (model(images[kept:]).argmax(1) == digits[kept:]).float().mean().item()
        print(
            f"{device}: epoch {epoch + 1}: loss {losses[-1]:.4f}, "
            f"{right:.1%} right, {time.perf_counter() - begin:.2f} s"
        )
    return losses


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", choices=("mlp", "conv"), default="mlp")
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--provider", default="mock")
    parser.add_argument("--data", type=Path, default=DIGITS)
    parser.add_argument("--local", action="store_true", help="also train on the local CPU")
    options = parser.parse_args()
    with remora.RemoteMachine(options.provider) as machine:
        remote = train(machine.device(), options.model, options.epochs, options.data)
    if options.local:
        local = train(torch.device("cpu"), options.model, options.epochs, options.data)
        print("losses are equal" if remote == local else f"losses differ: {remote}, {local}")


if __name__ == "__main__":
    main()
