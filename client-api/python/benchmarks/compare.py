# SPDX-License-Identifier: AGPL-3.0-or-later
"""Compares a remote machine with the local CPU in one run, with the same number of compute threads.

    python benchmarks/compare.py [--json FILE] [--threads N] [--seconds S] [--only NAME …]

Remote and local measurements alternate over several rounds, so that other work on the computer affects both; the
table shows medians. Times and rates also stand as multiples of what a bare socket over the loopback address does
between two processes in the same rounds. The aims are those of the project.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from networks import Block, Language
from torch import nn

import remora

ROUNDS = 5
UPLOAD_BYTES = 64 * 1024 * 1024
SMALL_BYTES = 4 * 1024
PING_PONGS = 300
MESSAGE_BYTES = 64
WIRE_REPEATS = 20
CPU = torch.device("cpu")

# The process at the other end of the bare socket: it answers messages, then takes a transfer, and so on.
PEER = f"""
import socket, sys
near = socket.create_connection(("127.0.0.1", int(sys.argv[1])))
near.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
data = memoryview(bytearray({UPLOAD_BYTES}))
while near.recv_into(data[:1]):
    near.recv_into(data[1:{MESSAGE_BYTES}], {MESSAGE_BYTES} - 1, socket.MSG_WAITALL)
    near.sendall(data[:{MESSAGE_BYTES}])
    if data[0] == 1:
        at = 0
        while at < len(data):
            at += near.recv_into(data[at : at + (1 << 20)])
        near.sendall(data[:{MESSAGE_BYTES}])
"""


class Loopback:
    """A bare TCP connection over the loopback address to another process."""

    def __init__(self) -> None:
        with socket.create_server(("127.0.0.1", 0)) as listener:
            command = [sys.executable, "-c", PEER, str(listener.getsockname()[1])]
            self._peer = subprocess.Popen(command)
            self._socket, _ = listener.accept()
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._data = memoryview(bytearray(UPLOAD_BYTES))
        self._message = bytearray(MESSAGE_BYTES)

    def measure(self) -> dict[str, float]:
        """Returns the median time of a message there and back, and the rate of 64 MiB until they are confirmed."""
        times = []
        for _ in range(PING_PONGS):
            begin = time.perf_counter()
            self._ask(0)
            times.append(time.perf_counter() - begin)
        self._ask(1)
        begin = time.perf_counter()
        self._socket.sendall(self._data)
        self._answer()
        elapsed = time.perf_counter() - begin
        return {"us": statistics.median(times) * 1e6, "MB/s": UPLOAD_BYTES / elapsed / 1e6}

    def _ask(self, transfer: int) -> None:
        self._socket.sendall(bytes([transfer]).ljust(MESSAGE_BYTES))
        self._answer()

    def _answer(self) -> None:
        self._socket.recv_into(self._message, MESSAGE_BYTES, socket.MSG_WAITALL)

    def close(self) -> None:
        self._socket.close()
        self._peer.wait(10)


@dataclass
class Figure:
    """One line of the table. `bare` is what the bare socket did in the same rounds."""

    name: str
    unit: str
    remote: float
    local: float | None
    bare: float | None
    aim: str
    met: bool

    @property
    def ratio(self) -> float | None:
        return self.remote / self.local if self.local else None

    @property
    def multiple(self) -> float | None:
        return self.remote / self.bare if self.bare else None

    def print(self) -> None:
        multiple = "" if self.multiple is None else f"{self.multiple:.2f}"
        ratio = "" if self.ratio is None else f"{self.ratio:.2f}"
        local = "" if self.local is None else number(self.local)
        met = "yes" if self.met else "no"
        cells = (self.name, self.unit, number(self.remote), local, ratio, multiple, self.aim, met)
        print(f"| {' | '.join(cells)} |", flush=True)


def number(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}"


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


def add_steps(device: torch.device, size: int, count: int) -> Callable[[], None]:
    x = torch.ones(size, size, device=device)
    y = torch.full((size, size), 1e-6, device=device)

    def step() -> None:
        z = x
        for _ in range(count):
            z = z + y

    return step


def adds(size: int) -> Callable[[torch.device], Work]:
    return lambda device: (
        lambda seconds: rate(add_steps(device, size, 500), waiter(device), 500, seconds)
    )


def views(device: torch.device) -> Work:
    x = torch.ones(8, 8, device=device)

    def step() -> None:
        for _ in range(500):
            x.view(64)

    return lambda seconds: rate(step, waiter(device), 500, seconds)


Net = tuple[nn.Module, Callable[[nn.Module], torch.Tensor]]


def training_step(make: Callable[[], Net], device: torch.device) -> Callable[[], None]:
    torch.manual_seed(0)
    with torch.device(device):
        model, loss_of = make()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)

    def step() -> None:
        optimizer.zero_grad()
        loss_of(model).backward()
        optimizer.step()

    return step


def training(make: Callable[[], Net]) -> Callable[[torch.device], Work]:
    def work(device: torch.device) -> Work:
        step = training_step(make, device)
        return lambda seconds: rate(step, waiter(device), 1, seconds)

    return work


def mlp() -> Net:
    model = nn.Sequential(nn.Linear(784, 256), nn.ReLU(), nn.Linear(256, 10))
    x, y = torch.randn(128, 784), torch.randint(0, 10, (128,))
    return model, lambda m: nn.functional.cross_entropy(m(x), y)


def gpt() -> Net:
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


def convolutions() -> Net:
    """A small convolutional network; each step uploads 32 new images."""
    model = nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(16, 32, 3, padding=1),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(32, 10),
    )
    device = next(model.parameters()).device

    def loss(m: nn.Module) -> torch.Tensor:
        images = torch.randn(32, 3, 32, 32, device=CPU).to(device)
        labels = torch.randint(0, 10, (32,), device=CPU).to(device)
        return nn.functional.cross_entropy(m(images), labels)

    return model, loss


def latency(call: Callable[[], Any]) -> Work:
    """Returns the median time, in us, of a call that waits for its result."""

    def work(seconds: float) -> float:
        times: list[float] = []
        begin = time.perf_counter()
        while time.perf_counter() - begin < seconds:
            start = time.perf_counter()
            call()
            times.append(time.perf_counter() - start)
        return statistics.median(times) * 1e6

    return work


def item(device: torch.device) -> Work:
    x, y = torch.ones(8, 8, device=device), torch.ones(8, 8, device=device)
    return latency(lambda: (x + y).sum().item())


def on_values(call: Callable[[torch.Tensor], torch.Tensor]) -> Callable[[torch.device], Work]:
    """A call whose result's shape depends on values."""

    def work(device: torch.device) -> Work:
        x = torch.randn(64).to(device)
        return latency(lambda: call(x).shape[0])

    return work


def element(device: torch.device) -> Work:
    x = torch.ones(UPLOAD_BYTES // 4, device=device)

    def read() -> float:
        return x[UPLOAD_BYTES // 8].item()

    return latency(read)


def small_download(device: torch.device) -> Work:
    x = torch.randn(SMALL_BYTES // 4).to(device)
    return latency(x.clone if device == CPU else x.cpu)


def small_uploads(device: torch.device) -> Work:
    x = torch.randn(SMALL_BYTES // 4)
    return lambda seconds: rate(lambda: x.to(device, copy=True), waiter(device), 1, seconds)


def generation(device: torch.device) -> Work:
    """Greedy generation from the last 32 tokens, whose token the program reads before the next; us per token."""
    torch.manual_seed(0)
    net = Language().to(device).eval()
    window = torch.zeros(1, 32, dtype=torch.long).to(device)

    @torch.no_grad()
    def step() -> None:
        nonlocal window
        token = net(window)[:, -1].argmax(-1, keepdim=True)
        token.item()
        window = torch.cat([window[:, 1:], token], 1)

    return latency(step)


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


def least_ratio(least: float) -> tuple[str, Callable[[Figure], bool]]:
    return f">= {least} x local", lambda f: f.ratio is not None and f.ratio >= least


def most_pings(most: float) -> tuple[str, Callable[[Figure], bool]]:
    return f"<= {most:g} ping-pongs", lambda f: f.multiple is not None and f.multiple <= most


def share_of_socket(share: float) -> tuple[str, Callable[[Figure], bool]]:
    return f">= {share} of socket", lambda f: f.multiple is not None and f.multiple >= share


Aim = tuple[str, Callable[[Figure], bool]]

# The aim of everything that waits for one answer is that of an item.
ITEM = most_pings(3)
ITEM_BESIDE_WORK: Aim = (
    "local + 3 ping-pongs",
    lambda f: f.remote - (f.local or 0) <= 3 * (f.bare or 0),
)

# name, unit, work, aim; the unit decides which figure of the bare socket is shown beside it
BENCHMARKS: list[tuple[str, str, Callable[[torch.device], Work], Aim]] = [
    ("chained adds 8x8", "ops/s", adds(8), least_ratio(0.55)),
    ("chained adds 256x256", "ops/s", adds(256), least_ratio(0.9)),
    ("views", "ops/s", views, least_ratio(0.9)),
    ("(x+y).sum().item(), p50", "us", item, ITEM),
    ("nonzero, p50", "us", on_values(torch.nonzero), ITEM),
    ("unique, p50", "us", on_values(torch.unique), ITEM),
    ("masked_select, p50", "us", on_values(lambda x: torch.masked_select(x, x > 0)), ITEM),
    ("upload of 64 MiB", "MB/s", upload, share_of_socket(0.8)),
    ("download of 64 MiB", "MB/s", download, share_of_socket(0.8)),
    ("uploads of 4 KiB", "per s", small_uploads, (">= 50,000", lambda f: f.remote >= 50_000)),
    ("download of 4 KiB, p50", "us", small_download, ITEM),
    ("one element of 64 MiB, p50", "us", element, ITEM),
    ("MLP step", "steps/s", training(mlp), least_ratio(1.0)),
    ("GPT step", "steps/s", training(gpt), least_ratio(1.0)),
    ("convolution step with upload", "steps/s", training(convolutions), least_ratio(1.0)),
    ("greedy generation, per token", "us", generation, ITEM_BESIDE_WORK),
]

# the same for a program's first second: at least two thirds
FIRST_SECOND: list[tuple[str, str, Callable[[torch.device], Work], Aim]] = [
    ("first second: adds 8x8", "ops/s", adds(8), least_ratio(0.37)),
    ("first second: item(), p50", "us", item, most_pings(4.5)),
]


def wanted(name: str, only: list[str]) -> bool:
    return not only or any(each in name for each in only)


def figure(
    name: str,
    unit: str,
    aim: Aim,
    both: list[tuple[float, float]],
    bare: list[dict[str, float]],
) -> Figure:
    there, here = (statistics.median(each) for each in zip(*both, strict=True))
    beside = statistics.median(each[unit] for each in bare) if unit in bare[0] else None
    result = Figure(name, unit, there, here, beside, aim[0], False)
    result.met = aim[1](result)
    result.print()
    return result


def measure(
    device: torch.device, seconds: float, only: list[str], loopback: Loopback
) -> list[Figure]:
    figures = []
    for name, unit, make, aim in BENCHMARKS:
        if not wanted(name, only):
            continue
        remote, local = make(device), make(CPU)
        remote(seconds)  # warm-up, which also fills the plan cache
        local(seconds / 4)
        both, bare = [], []
        for _ in range(ROUNDS):
            both.append((remote(seconds), local(seconds / 2)))
            bare.append(loopback.measure())
        figures.append(figure(name, unit, aim, both, bare))
    return figures


def first_second(threads: int, only: list[str], loopback: Loopback) -> list[Figure]:
    """Measures programs that have just started, each in a process of its own."""
    figures = []
    for name, unit, _, aim in FIRST_SECOND:
        if wanted(name, only):
            command = [sys.executable, __file__, "--threads", str(threads), "--first-second", name]
            remote, local = (
                float(
                    subprocess.run(
                        [*command, side], stdout=subprocess.PIPE, text=True, timeout=300, check=True
                    ).stdout.split()[-1]
                )
                for side in ("remote", "local")
            )
            figures.append(figure(name, unit, aim, [(remote, local)], [loopback.measure()]))
    return figures


def measure_first_second(name: str, side: str) -> None:
    make = next(make for each, _, make, _ in FIRST_SECOND if each == name)
    if side == "local":
        print(make(CPU)(1.0))
        return
    with remora.RemoteMachine("mock") as machine:
        print(make(machine.device())(1.0))


def wire_bytes(machine: remora.RemoteMachine) -> dict[str, float]:
    """Returns the bytes on the wire per operation: of a step that the machine has not seen, and of later ones."""
    device = machine.device()
    steps = {
        "chained adds 8x8": add_steps(device, 8, 100),
        "MLP step": training_step(mlp, device),
        "GPT step": training_step(gpt, device),
    }
    result = {}

    def counters() -> tuple[float, float]:
        torch.remora.synchronize()  # type: ignore[attr-defined]
        stats = machine.stats()
        return stats["operations"], stats["batch_bytes"] - stats["uploaded_bytes"]

    for name, step in steps.items():
        for what, times in (("first", 1), ("repeated", WIRE_REPEATS)):
            operations, size = counters()
            for _ in range(times):
                step()
            after = counters()
            result[f"{name}, {what}"] = (after[1] - size) / (after[0] - operations)
    return result


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    parser.add_argument("--threads", type=int, default=1, help="compute threads on each side")
    parser.add_argument("--seconds", type=float, default=0.8, help="length of one measurement")
    parser.add_argument(
        "--only", nargs="*", default=[], help="measure only work whose name contains one of these"
    )
    parser.add_argument("--first-second", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    os.environ["REMORA_GATEWAY_JVM_OPTIONS"] = (
        os.environ.get("REMORA_GATEWAY_JVM_OPTIONS", "")
        + f" -Dremora.provider.mock.compute-threads={options.threads}"
    )
    if options.first_second:
        measure_first_second(*options.first_second)
        return 0
    loopback = Loopback()
    with remora.RemoteMachine("mock") as machine:
        print(
            f"torch {torch.__version__}, Python {platform.python_version()}, {os.cpu_count()} cores, "
            f"{options.threads} compute thread(s) on each side, median of {ROUNDS} rounds of {options.seconds:g} s\n"
        )
        wire = wire_bytes(
            machine
        )  # first of all, because later the machine has seen these operations
        print("| work | unit | remote | local | ratio | of a bare socket | aim | met |")
        print("|---|---|---|---|---|---|---|---|")
        figures = measure(machine.device(), options.seconds, options.only, loopback)
    figures += first_second(options.threads, options.only, loopback)
    bare = loopback.measure()
    loopback.close()
    print(f"\nbare loopback ping-pong: {bare['us']:.1f} us; socket: {bare['MB/s']:,.0f} MB/s")
    print("wire bytes per operation (aim: <= 30 first, <= 4 repeated):")
    for name, size in wire.items():
        print(f"  {name}: {size:.1f}")
    if options.json:
        lines = [
            asdict(each) | {"ratio": each.ratio, "multiple": each.multiple} for each in figures
        ]
        lines.append({"wire_bytes": wire})
        options.json.write_text(json.dumps(lines, indent=2) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
