# SPDX-License-Identifier: AGPL-3.0-or-later
"""Trains and generates with a node that is some milliseconds away, and prints what each step costs.

    benchmarks/distance --python [--rtt MS …] [--mbit N] [--json FILE]

A forwarder between the machine and its node holds every byte back for half the round trip, in both directions, and
passes no more than --mbit megabits a second. Each column of the table is a process of its own, with the local CPU
beside them; both sides compute with one thread. The provider `process` starts the node: benchmarks/distance builds it
and sets REMORA_GATEWAY_CLASSPATH and REMORA_NODE_CLASSPATH.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from networks import Language, Residual
from torch import Tensor, nn

LOCAL = "local"
PIECE = 64 * 1024
WAITING_PIECES = 4096
STEPS = 30
UNREAD_STEPS = 50
TOKENS = 31

# ---------------------------------------------------------------- the way to the node


class Forwarder:
    """Forwards connections to a port of this computer, late and slowly."""

    def __init__(self, target: int, one_way_seconds: float, bytes_per_second: float | None) -> None:
        self.target, self.delay, self.rate = target, one_way_seconds, bytes_per_second
        self.port = 0
        started = threading.Event()
        threading.Thread(target=lambda: asyncio.run(self._serve(started)), daemon=True).start()
        started.wait(10)

    async def _serve(self, started: threading.Event) -> None:
        server = await asyncio.start_server(self._connected, "127.0.0.1", 0)
        self.port = server.sockets[0].getsockname()[1]
        started.set()
        async with server:
            await server.serve_forever()

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for _ in range(600):  # the node may not listen yet
            try:
                node_reader, node_writer = await asyncio.open_connection("127.0.0.1", self.target)
                break
            except OSError:
                await asyncio.sleep(0.1)
        else:
            writer.close()
            return
        for end in (writer, node_writer):
            end.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        await asyncio.gather(self._pass(reader, node_writer), self._pass(node_reader, writer))

    async def _pass(self, source: asyncio.StreamReader, to: asyncio.StreamWriter) -> None:
        pieces: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue(WAITING_PIECES)

        async def take() -> None:
            free = 0.0  # when the line has passed on what it has taken
            while piece := await source.read(PIECE):
                now = time.monotonic()
                if self.rate:
                    now = free = max(free, now) + len(piece) / self.rate
                await pieces.put((now + self.delay, piece))
            await pieces.put((0.0, b""))

        async def give() -> None:
            while True:
                at, piece = await pieces.get()
                if not piece:
                    break
                if (wait := at - time.monotonic()) > 0:
                    await asyncio.sleep(wait)
                to.write(piece)
                await to.drain()
            to.close()

        try:
            await asyncio.gather(take(), give())
        except OSError:
            to.close()


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


@contextmanager
def device_at(rtt: str, mbit: float | None) -> Iterator[tuple[torch.device, Any]]:
    """Yields the device, and its machine unless it is the local CPU."""
    if rtt == LOCAL:
        yield torch.device("cpu"), None
        return
    node = free_port()
    forwarder = Forwarder(node, float(rtt) / 2000, mbit * 125_000 if mbit else None)
    command = ["java", "-XX:+UseSerialGC", "-cp", os.environ["REMORA_NODE_CLASSPATH"]]
    command += ["-Dremora.link.shared-memory-bytes=0"]
    command += ["io.remora.node.Main", "--listen", f"127.0.0.1:{node}", "--device", "cpu"]
    command += ["--compute-threads", "1"]
    command += ["--secrets-from-stdin", "--exit-with-stdin"]
    settings = {f"command.{i}": word for i, word in enumerate(command)}
    settings |= {"host": "127.0.0.1", "port": str(forwarder.port), "tls": "off"}
    os.environ["REMORA_GATEWAY_JVM_OPTIONS"] = " ".join(
        f"-Dremora.provider.process.{name}={value}" for name, value in settings.items()
    )
    import remora

    with remora.RemoteMachine("process") as machine:
        yield machine.device(), machine


# ---------------------------------------------------------------- the work


def resnet() -> nn.Module:
    """The 18 layers of a ResNet, a sixteenth as wide, for images of 32 x 32."""
    widths = [4, 4, 4, 8, 8, 16, 16, 32, 32]
    blocks = [Residual(a, b) for a, b in pairwise(widths)]
    stem = [nn.Conv2d(3, 4, 3, 1, 1, bias=False), nn.BatchNorm2d(4), nn.ReLU()]
    return nn.Sequential(*stem, *blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 10))


def small_net() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1),
        nn.BatchNorm2d(16),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(16, 32, 3, padding=1),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(32, 10),
    )


def seconds(work: Callable[[], Any]) -> float:
    begin = time.perf_counter()
    work()
    return time.perf_counter() - begin


def last(step: Callable[[], Tensor], times: int) -> Tensor:
    return [step() for _ in range(times)][-1]


def language_rows(device: torch.device) -> Iterator[tuple[str, float]]:
    torch.manual_seed(0)
    net = Language().to(device)
    optimizer = torch.optim.AdamW(net.parameters(), lr=1e-3)
    letters = torch.Generator().manual_seed(1)

    def step(shape: tuple[int, int] = (8, 33)) -> Tensor:
        ids = torch.randint(0, 65, shape, generator=letters).to(device)
        optimizer.zero_grad()
        loss = F.cross_entropy(net(ids[:, :-1]).flatten(0, 1), ids[:, 1:].flatten())
        loss.backward()
        optimizer.step()
        return loss.detach()

    yield "first GPT step, s", seconds(lambda: step().item())
    yield "second GPT step, s", seconds(lambda: step().item())
    yield "GPT step of a new shape, s", seconds(lambda: step((5, 21)).item())
    yield (
        "GPT step, loss read each step, ms",
        seconds(lambda: [step().item() for _ in range(STEPS)]) / STEPS * 1000,
    )
    yield (
        f"GPT step, loss read each {UNREAD_STEPS}, ms",
        seconds(lambda: last(step, UNREAD_STEPS).item()) / UNREAD_STEPS * 1000,
    )
    yield from generation_rows(net.eval(), device)


def generation_rows(net: nn.Module, device: torch.device) -> Iterator[tuple[str, float]]:
    start = torch.zeros(1, 1, dtype=torch.long).to(device)

    @torch.no_grad()
    def without_cache() -> None:
        ids = start
        for _ in range(TOKENS):
            token = net(ids)[:, -1].argmax(-1, keepdim=True)
            token.item()
            ids = torch.cat([ids, token], 1)

    @torch.no_grad()
    def with_cache() -> None:
        token = start
        caches: list[list[Tensor]] = [[] for _ in range(3)]
        for _ in range(TOKENS):
            token = net(token, caches)[:, -1].argmax(-1, keepdim=True)
            token.item()

    for name, generate in (("no cache", without_cache), ("cache", with_cache)):
        for length in ("new", "known"):
            yield (
                f"token of a {length} length, {name}, ms",
                seconds(generate) / TOKENS * 1000,
            )


def image_rows(name: str, net: nn.Module, device: torch.device) -> Iterator[tuple[str, float]]:
    net = net.to(device)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.01, momentum=0.9)

    def step() -> Tensor:
        images, labels = (
            torch.randn(32, 3, 32, 32).to(device),
            torch.randint(0, 10, (32,)).to(device),
        )
        optimizer.zero_grad()
        loss = F.cross_entropy(net(images), labels)
        loss.backward()
        optimizer.step()
        return loss.detach()

    yield f"first {name} step, s", seconds(lambda: step().item())
    step().item()
    yield (
        f"{name} step with upload, ms",
        seconds(lambda: last(step, STEPS).item()) / STEPS * 1000,
    )


def rows_at(rtt: str, mbit: float | None) -> dict[str, float]:
    torch.set_num_threads(1)
    rows: dict[str, float] = {}
    begin = time.perf_counter()
    with device_at(rtt, mbit) as (device, machine):
        torch.zeros(1).to(device).item()
        rows["open to first value, s"] = time.perf_counter() - begin
        rows |= dict(language_rows(device))
        rows |= dict(image_rows("conv", small_net(), device))
        rows |= dict(image_rows("ResNet", resnet(), device))
        if machine is not None:
            causes = ("value_waits", "shape_waits", "metadata_waits", "room_waits")
            rows |= {cause: machine.stats()[cause] for cause in causes}
    return rows


# ---------------------------------------------------------------- the table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument(
        "--rtt", nargs="+", default=["0", "10", "30", "100"], metavar="MS", help="round trips"
    )
    parser.add_argument(
        "--mbit", type=float, metavar="N", help="megabits a second; no limit without"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the figures")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        print(json.dumps(rows_at(options.one, options.mbit)), flush=True)
        return
    columns: dict[str, dict[str, float]] = {}
    for rtt in [LOCAL, *options.rtt]:
        print(f"measuring at {rtt} …", file=sys.stderr, flush=True)
        command = [sys.executable, __file__, "--one", rtt]
        if options.mbit:
            command += ["--mbit", str(options.mbit)]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, timeout=900, check=False)
        if done.returncode != 0:
            sys.exit(f"the measurement at {rtt} failed with exit code {done.returncode}; see above")
        columns[rtt if rtt == LOCAL else f"{rtt} ms"] = json.loads(done.stdout.splitlines()[-1])
    names = list(dict.fromkeys(name for column in columns.values() for name in column))
    print("| | " + " | ".join(columns) + " |")
    print("|---" * (len(columns) + 1) + "|")
    for name in names:
        cells = (f"{c[name]:.3g}" if name in c else "" for c in columns.values())
        print(f"| {name} | " + " | ".join(cells) + " |")
    if options.json:
        options.json.write_text(json.dumps(columns, indent=1) + "\n")


if __name__ == "__main__":
    main()
