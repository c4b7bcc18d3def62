# SPDX-License-Identifier: AGPL-3.0-or-later
"""Compares a remote machine with the local CPU in one run, with the same number of compute threads.

    python benchmarks/compare.py [--json FILE] [--threads N] [--seconds S] [--only NAME …]

Remote and local measurements alternate over several rounds, so that other work on the computer affects both; the
table shows medians. The aims are those of the project.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from networks import Block
from torch import nn

import remora

ROUNDS = 5
UPLOAD_BYTES = 64 * 1024 * 1024
CPU = torch.device("cpu")


@dataclass
class Figure:
    """One line of the table."""

    name: str
    unit: str
    remote: float
    local: float | None
    aim: str
    met: bool

    @property
    def ratio(self) -> float | None:
        return self.remote / self.local if self.local else None


Work = Callable[[float], float]


def rate(step: Callable[[], Any], wait: Callable[[], Any], per_step: int, seconds: float) -> float:
    """Returns how many units of work per second are executed; `step` does `per_step` of them."""
    step()
    wait()
    begin = time.perf_counter()
    count = 0
    while time.perf_counter() - begin < seconds:
        step()
        count += 1
    wait()
    return count * per_step / (time.perf_counter() - begin)


def waiter(device: torch.device) -> Callable[[], Any]:
    return torch.remora.synchronize if device.type == "remora" else lambda: None  # type: ignore[attr-defined]


def adds(device: torch.device) -> Work:
    x, y = torch.ones(8, 8, device=device), torch.full((8, 8), 1e-6, device=device)

    def step() -> None:
        z = x
        for _ in range(500):
            z = z + y

    return lambda seconds: rate(step, waiter(device), 500, seconds)


def views(device: torch.device) -> Work:
    x = torch.ones(8, 8, device=device)

    def step() -> None:
        for _ in range(500):
            x.view(64)

    return lambda seconds: rate(step, waiter(device), 500, seconds)


def training(
    make: Callable[[], tuple[nn.Module, Callable[[nn.Module], torch.Tensor]]],
) -> Callable[[torch.device], Work]:
    def work(device: torch.device) -> Work:
        torch.manual_seed(0)
        with torch.device(device):
            model, loss_of = make()
        optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)

        def step() -> None:
            optimizer.zero_grad()
            loss_of(model).backward()
            optimizer.step()

        return lambda seconds: rate(step, waiter(device), 1, seconds)

    return work


def mlp() -> tuple[nn.Module, Callable[[nn.Module], torch.Tensor]]:
    model = nn.Sequential(nn.Linear(784, 256), nn.ReLU(), nn.Linear(256, 10))
    x, y = torch.randn(128, 784), torch.randint(0, 10, (128,))
    return model, lambda m: nn.functional.cross_entropy(m(x), y)


def gpt() -> tuple[nn.Module, Callable[[nn.Module], torch.Tensor]]:
    width, words, length = 128, 512, 64
    model = nn.Sequential(
        nn.Embedding(words, width),
        Block(width, 4),
        Block(width, 4),
        nn.LayerNorm(width),
        nn.Linear(width, words),
    )
    tokens = torch.randint(0, words, (8, length + 1))

    def loss(m: nn.Module) -> torch.Tensor:
        return nn.functional.cross_entropy(
            m(tokens[:, :-1]).reshape(-1, words), tokens[:, 1:].reshape(-1)
        )

    return model, loss


def item_times(device: torch.device) -> Work:
    x, y = torch.ones(8, 8, device=device), torch.ones(8, 8, device=device)
    times: list[float] = []

    def work(seconds: float) -> float:
        times.clear()
        begin = time.perf_counter()
        while time.perf_counter() - begin < seconds:
            start = time.perf_counter()
            (x + y).sum().item()
            times.append(time.perf_counter() - start)
        return statistics.median(times) * 1e6

    return work


def upload(device: torch.device) -> Work:
    x = torch.randn(UPLOAD_BYTES // 4)
    target = torch.empty(UPLOAD_BYTES // 4, device=device)
    return lambda seconds: (
        rate(lambda: target.copy_(x), waiter(device), UPLOAD_BYTES, seconds) / 1e6
    )


def download(device: torch.device) -> Work:
    x = torch.randn(UPLOAD_BYTES // 4).to(device)
    target = torch.empty(UPLOAD_BYTES // 4)
    return lambda seconds: (
        rate(lambda: target.copy_(x), waiter(device), UPLOAD_BYTES, seconds) / 1e6
    )


# name, unit, work, minimum ratio to local (None: another aim), aim in the unit, larger is better
BENCHMARKS: list[tuple[str, str, Callable[[torch.device], Work], float | None, float | None]] = [
    ("chained adds 8x8", "ops/s", adds, 0.6, None),
    ("views", "ops/s", views, 0.9, None),
    ("(x+y).sum().item(), p50", "us", item_times, None, 350),
    ("MLP step", "steps/s", training(mlp), 0.9, None),
    ("GPT step", "steps/s", training(gpt), 0.9, None),
    ("upload of 64 MiB", "MB/s", upload, None, 400),
    ("download of 64 MiB", "MB/s", download, None, 400),
]


def measure(device: torch.device, seconds: float, only: list[str]) -> list[Figure]:
    figures = []
    for name, unit, make, least, aim in BENCHMARKS:
        if only and not any(each in name for each in only):
            continue
        remote, local = make(device), make(CPU)
        remote(seconds)  # warm-up, which also fills the plan cache
        local(seconds / 4)
        both = [(remote(seconds), local(seconds)) for _ in range(ROUNDS)]
        there, here = (statistics.median(each) for each in zip(*both, strict=True))
        if least is not None:
            figure = Figure(name, unit, there, here, f">= {least} x local", there >= least * here)
        else:
            assert aim is not None
            smaller = unit == "us"
            met = there <= aim if smaller else there >= aim
            figure = Figure(
                name, unit, there, here, f"{'<=' if smaller else '>='} {aim:g} {unit}", met
            )
        figures.append(figure)
        ratio = "" if figure.ratio is None else f"{figure.ratio:.2f}"
        cells = (
            name,
            unit,
            f"{there:,.0f}",
            f"{here:,.0f}",
            ratio,
            figure.aim,
            "yes" if figure.met else "no",
        )
        print(f"| {' | '.join(cells)} |", flush=True)
    return figures


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    parser.add_argument("--threads", type=int, default=1, help="compute threads on each side")
    parser.add_argument("--seconds", type=float, default=1.0, help="length of one measurement")
    parser.add_argument(
        "--only", nargs="*", default=[], help="measure only work whose name contains one of these"
    )
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    os.environ["REMORA_GATEWAY_JVM_OPTIONS"] = (
        os.environ.get("REMORA_GATEWAY_JVM_OPTIONS", "")
        + f" -Dremora.provider.mock.compute-threads={options.threads}"
    )
    with remora.RemoteMachine("mock") as machine:
        print(
            f"torch {torch.__version__}, Python {platform.python_version()}, {os.cpu_count()} cores, "
            f"{options.threads} compute thread(s) on each side, median of {ROUNDS} rounds of {options.seconds:g} s\n"
        )
        print("| work | unit | remote | local | ratio | aim | met |\n|---|---|---|---|---|---|---|")
        figures = measure(machine.device(), options.seconds, options.only)
    if options.json:
        lines = [asdict(figure) | {"ratio": figure.ratio} for figure in figures]
        options.json.write_text(json.dumps(lines, indent=2) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
