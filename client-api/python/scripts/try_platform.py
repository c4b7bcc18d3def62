# SPDX-License-Identifier: AGPL-3.0-or-later
"""Trains a small network on a machine and on the local CPU, and compares; runs a function on the node.

runtime/test-aarch64 runs it in an emulator. It needs torch and this package only.

    python try_platform.py here|mock
"""

from __future__ import annotations

import os
import platform
import sys
import time

import torch
from torch import nn

import remora


def train(device: torch.device) -> tuple[list[float], list[torch.Tensor]]:
    """Returns the losses of some steps, and the parameters after them."""
    torch.manual_seed(1)
    model = nn.Sequential(
        nn.Conv2d(1, 4, 3),
        nn.GELU(),
        nn.Flatten(),
        nn.Linear(4 * 36, 16),
        nn.Tanh(),
        nn.Linear(16, 10),
    )
    inputs, targets = torch.randn(32, 1, 8, 8), torch.randint(10, (32,))
    model, inputs, targets = model.to(device), inputs.to(device), targets.to(device)
    optimizer = torch.optim.AdamW(model.parameters(), 0.01)
    losses = []
    for _ in range(8):
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model(inputs), targets)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses, [parameter.detach().cpu() for parameter in model.parameters()]


def check(condition: bool, what: str) -> None:
    """Ends the program unless the condition holds."""
    if not condition:
        sys.exit(f"FAILED: {what}")
    print(f"ok: {what}", flush=True)


@remora.remote
def describe(tensor: torch.Tensor) -> tuple[str, int, torch.Tensor]:
    """Runs on the node, in a process of its own, and shares memory with it."""
    return platform.machine(), os.getpid(), tensor * 2


def main() -> None:
    """Runs the checks."""
    where = sys.argv[1]
    if where == "here":
        remora.disable_remote_execution()
    print(
        f"torch {torch.__version__}, Python {platform.python_version()}, {platform.machine()}",
        flush=True,
    )
    begun = time.monotonic()
    with remora.RemoteMachine("mock") as machine:
        device = machine.device()
        check(
            torch.ones(3, device=device).sum().item() == 3,
            f"a machine opens ({time.monotonic() - begun:.0f} s)",
        )
        losses, parameters = train(device)
        expected_losses, expected = train(torch.device("cpu"))
        check(
            losses == expected_losses and losses[-1] < losses[0],
            f"the losses are equal: {losses[0]:.4f} to {losses[-1]:.4f}",
        )
        check(all(map(torch.equal, parameters, expected)), "the parameters are equal")
        large = torch.randn(3, 1 << 20)  # more than one batch and one frame hold
        check(torch.equal(large.to(device).t().cpu(), large.t()), "12 MiB come back as they were")
        try:
            torch.ones(2, 3, device=device) @ torch.ones(2, 3, device=device)
            check(False, "a wrong shape is refused")
        except RuntimeError as e:
            check("mat1 and mat2" in str(e), "a wrong shape is refused with libtorch's message")
        if where == "mock":
            kind, process, doubled = describe(torch.arange(300_000, device=device))
            check(
                kind == platform.machine() and process != os.getpid(),
                f"a function runs on the node ({kind})",
            )
            check(doubled.sum().item() == 300_000 * 299_999, "its tensors come back")


if __name__ == "__main__":
    main()
