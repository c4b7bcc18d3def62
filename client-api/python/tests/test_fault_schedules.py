# SPDX-License-Identifier: AGPL-3.0-or-later
"""Trainings of three networks behind a gateway, whose nodes and connections suffer random faults.

Each schedule has a seed and one fault. The losses are those of an undisturbed run, bit for bit. Prints what was
survived. ``REMORA_FAULTS_SEED`` sets the first seed, ``REMORA_FAULTS_SECONDS`` how long it runs.
"""

from __future__ import annotations

import contextlib
import math
import os
import random
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from conftest import await_that
from test_gateway import Proxy
from test_recovery import end_node, node_of
from torch import nn

import remora
from remora import _gateway
from remora._settings import Settings

pytestmark = [pytest.mark.gateway, pytest.mark.full]

STEPS = 12
SETTINGS = {
    "link.heartbeat-interval": "100ms",
    "link.heartbeat-timeout": "700ms",
    "link.handshake-timeout": "700ms",
    "link.redial.max-backoff": "200ms",
    "link.give-up-after": "2s",
    "recovery.retry": "100ms",
}


class Transformer(nn.Module):
    """One block with causal attention, and a mean over the positions."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(32)
        self.attention = nn.MultiheadAttention(32, 4, dropout=0.1, batch_first=True)
        self.fed = nn.Sequential(
            nn.LayerNorm(32), nn.Linear(32, 64), nn.GELU(), nn.Dropout(0.1), nn.Linear(64, 32)
        )
        self.last = nn.Linear(32, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        normed = self.norm(x)
        x = x + self.attention(normed, normed, normed, need_weights=False)[0]
        return self.last((x + self.fed(x)).mean(1))


NETWORKS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "perceptron": (
        lambda: nn.Sequential(
            nn.Flatten(), nn.Linear(256, 64), nn.BatchNorm1d(64), nn.ReLU(), nn.Linear(64, 4)
        ),
        (16, 8, 32),
    ),
    "convolutions": (
        lambda: nn.Sequential(
            nn.Conv2d(3, 8, 3),
            nn.BatchNorm2d(8),
            nn.ReLU(),
            nn.Dropout(0.25),
            nn.Flatten(),
            nn.Linear(800, 4),
        ),
        (16, 3, 12, 12),
    ),
    "transformer": (Transformer, (16, 8, 32)),
}


def train(
    network: str, device: torch.device, at_step: Callable[[int], None] = lambda step: None
) -> list[float]:
    """Trains with AdamW and a learning rate that falls; returns the losses of all steps."""
    make, shape = NETWORKS[network]
    torch.manual_seed(3)
    model = make().to(device)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    schedule = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.9)
    losses = []
    for step in range(STEPS):
        at_step(step)
        inputs, labels = torch.randn(shape).to(device), torch.randint(4, (16,)).to(device)
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model(inputs), labels)
        loss.backward()
        optimizer.step()
        schedule.step()
        losses.append(loss.item())
    return losses


class Faults:
    """What is done to a machine's node or its connection to the gateway."""

    def __init__(
        self, machine: remora.RemoteMachine, gateway: _gateway.GatewayProcess, proxy: Proxy
    ) -> None:
        self.machine = machine
        self.gateway = gateway
        self.proxy = proxy
        self.all: dict[str, Callable[[random.Random], object]] = {
            "kill": lambda moments: self.signal(signal.SIGKILL),
            "kill twice": self.kill_twice,
            "kill between steps": self.kill_later,
            "terminate": lambda moments: self.signal(signal.SIGTERM),
            "suspend": lambda moments: self.signal(signal.SIGSTOP),
            "cut from the gateway": self.cut,
            "cut and kill": self.cut_and_kill,
        }

    def node(self) -> int:
        return node_of(self.machine, self.gateway)

    def signal(self, number: int) -> None:
        os.kill(self.node(), number)

    def kill(self) -> None:
        end_node(self.node())

    def kill_twice(self, moments: random.Random) -> None:
        self.kill()
        after = moments.random()

        def again() -> None:
            time.sleep(after)
            with contextlib.suppress(AssertionError, ProcessLookupError):  # no other node in time
                self.signal(signal.SIGKILL)

        self.later(again)

    def kill_later(self, moments: random.Random) -> None:
        node, after = self.node(), moments.random() / 2

        def strike() -> None:
            time.sleep(after)
            with contextlib.suppress(ProcessLookupError):
                os.kill(node, signal.SIGKILL)

        self.later(strike)

    def cut(self, moments: random.Random) -> None:
        self.proxy.refuses = moments.random() < 0.5
        self.proxy.cut()

        def heal() -> None:
            time.sleep(moments.random())
            self.proxy.refuses = False

        self.later(heal)

    def cut_and_kill(self, moments: random.Random) -> None:
        self.kill()
        self.cut(moments)

    def later(self, action: Callable[[], None]) -> None:
        """Runs an action on another thread; `settle` waits for it."""
        self._running = threading.Thread(target=action, daemon=True)
        self._running.start()

    _running: threading.Thread | None = None

    def settle(self) -> None:
        if self._running is not None:
            self._running.join(90)  # longer than the wait for a node
            assert not self._running.is_alive()
            self._running = None


def recovery_seconds(machine: remora.RemoteMachine) -> float:
    """The time of all recoveries so far, and that in which the program waited for moves."""
    stats = machine.stats()
    return stats["recovery.seconds"] + stats["move.wait.seconds"]


def print_table(survived: dict[str, list[float]], seed: int) -> None:
    print(f"\n{'fault':26} {'survived':>8} {'recovery p50':>14} {'p99':>14}")
    for fault, seconds in survived.items():
        seconds.sort()
        p50, p99 = seconds[len(seconds) // 2], seconds[math.ceil(len(seconds) * 0.99) - 1]
        print(f"{fault:26} {len(seconds):8} {p50:12.2f} s {p99:12.2f} s")
    print(f"seeds up to {seed}")


def test_many_schedules_change_no_value(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    states = tmp_path / "states"
    options = SETTINGS | {"state.directory": str(states)}
    monkeypatch.setenv(
        "REMORA_GATEWAY_JVM_OPTIONS",
        " ".join(f"-Dremora.{name}={value}" for name, value in options.items()),
    )
    seed = int(os.environ.get("REMORA_FAULTS_SEED", "1"))
    end = time.monotonic() + float(os.environ.get("REMORA_FAULTS_SECONDS", "20"))
    process = _gateway.GatewayProcess(_gateway.class_path(), Settings.from_environment())
    proxy = Proxy(process.address)
    survived: dict[str, list[float]] = {}
    try:
        with remora.RemoteMachine.connect(
            proxy.address,
            token=process.token,
            provider="mock",
            recovery="replay",
            checkpoint_interval=0.25,
        ) as machine:
            device = machine.device()
            faults = Faults(machine, process, proxy)
            undisturbed = {network: train(network, device) for network in NETWORKS}
            while time.monotonic() < end or len(survived) < len(faults.all):
                moments = random.Random(seed)
                # Each fault in turn, so that a short run has all of them.
                fault = list(faults.all)[seed % len(faults.all)]
                network = moments.choice(list(NETWORKS))
                at = moments.randrange(STEPS)
                before = recovery_seconds(machine)

                def inject(step: int) -> None:
                    if step == at:  # noqa: B023 - called before the next schedule
                        faults.all[fault](moments)  # noqa: B023

                losses = train(network, device, inject)
                faults.settle()
                torch.zeros(1, device=device).item()  # the machine has recovered
                assert losses == undisturbed[network], (
                    f"{network}, {fault} before step {at}, seed {seed}"
                )
                survived.setdefault(fault, []).append(recovery_seconds(machine) - before)
                seed += 1

        def left() -> list[Path]:
            try:
                return [path for path in states.rglob("*") if path.is_file()]
            except FileNotFoundError:  # a folder was deleted meanwhile
                return [states]

        # A node that was cut off or suspended may still end.
        await_that(lambda: not left(), left)
    finally:
        proxy.close()
        process.stop()
    with capsys.disabled():
        print_table(survived, seed - 1)
