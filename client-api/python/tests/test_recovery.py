# SPDX-License-Identifier: AGPL-3.0-or-later
"""Machines that recover from the loss of their node."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from conftest import await_that
from torch import nn

import remora
from remora import _gateway

pytestmark = pytest.mark.gateway


def train(
    device: torch.device | str, at_step: Callable[[int], None] = lambda step: None
) -> list[float]:
    """Trains a net with dropout and a learning-rate schedule; returns the losses."""
    torch.manual_seed(5)
    model = nn.Sequential(
        nn.Linear(16, 64), nn.BatchNorm1d(64), nn.ReLU(), nn.Dropout(0.2), nn.Linear(64, 4)
    )
    model = model.to(device)
    inputs = torch.randn(128, 16)
    labels = torch.arange(128) % 4
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    schedule = torch.optim.lr_scheduler.StepLR(optimizer, 4, 0.5)
    torch.manual_seed(7)
    losses = []
    for step in range(12):
        at_step(step)
        part = slice(32 * (step % 4), 32 * (step % 4) + 32)
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model(inputs[part].to(device)), labels[part].to(device))
        loss.backward()
        optimizer.step()
        schedule.step()
        losses.append(loss.item())
    return losses


def node_of(machine: remora.RemoteMachine, gateway: _gateway.GatewayProcess | None = None) -> int:
    """Waits for the machine's node, and returns its process: the one that listens on the link's port.

    `gateway` is the process that has started it, by default that of this program's own gateway.
    """
    gateway = gateway or machine._gateway._process
    end = time.monotonic() + 60
    while time.monotonic() < end:
        (here,) = (m for m in machine._gateway.list(60).machines if m.name == machine.name)
        port = f":{int(here.node_address.rpartition(':')[2] or 0):04X}"
        lines = [
            line.split()
            for file in ("/proc/net/tcp", "/proc/net/tcp6")
            for line in Path(file).read_text().splitlines()
        ]
        sockets = {
            f"socket:[{line[9]}]" for line in lines if line[1].endswith(port) and line[3] == "0A"
        }
        children = ["pgrep", "-P", str(gateway._process.pid)]
        for child in subprocess.run(children, check=False, capture_output=True).stdout.split():
            with contextlib.suppress(OSError):  # it has ended, or has closed a file
                files = Path(f"/proc/{int(child)}/fd")
                if sockets & {str(file.readlink()) for file in files.iterdir()}:
                    return int(child)
        time.sleep(0.05)
    raise AssertionError("the machine has no node")


def end_node(node: int) -> None:
    """Kills a node and returns when it is gone."""
    os.kill(node, signal.SIGKILL)
    await_that(lambda: not Path(f"/proc/{node}").exists(), "a killed node does not end")


def kill(machine: remora.RemoteMachine) -> None:
    """Kills the machine's node and returns when it is gone."""
    end_node(node_of(machine))


def await_checkpoint(machine: remora.RemoteMachine) -> None:
    """Waits for a checkpoint that begins from now on."""
    before = machine.stats()["checkpoints"]
    await_that(lambda: machine.stats()["checkpoints"] > before, "no checkpoint was made")


def await_standby(machine: remora.RemoteMachine) -> None:
    """Waits until a second node follows the machine's sessions."""
    await_that(lambda: machine.stats()["standby"] == 1, "there is no standby")


def await_checkpoint_of(machine: remora.RemoteMachine, step: int) -> None:
    """Marks a step until a checkpoint of it is complete."""
    before = machine.stats()["checkpoints"]

    def is_complete() -> bool:
        machine.checkpoint(step)
        return machine.stats()["checkpoints"] >= before + 2

    await_that(is_complete, "no checkpoint was made")


@pytest.mark.fast
def test_a_killed_node_changes_no_value() -> None:
    with remora.RemoteMachine("mock", recovery="replay", checkpoint_interval=0.2) as machine:
        undisturbed = train(machine.device())

        def disturb(step: int) -> None:
            if step == 5:
                await_checkpoint(machine)
            if step in (2, 7):
                kill(machine)

        assert train(machine.device(), disturb) == undisturbed
        await_that(lambda: machine.stats()["recoveries"] == 2)
        assert machine.stats()["recovering_wait_seconds"] > 0
        recovering = [wait for wait in machine.waits() if wait.cause == "recovering"]
        assert all(wait.line.startswith(__file__) for wait in recovering)


@pytest.mark.full
def test_the_machine_continues_on_its_standby() -> None:
    with remora.RemoteMachine("mock", recovery="replay", mirror=True) as machine:
        undisturbed = train(machine.device())

        def disturb(step: int) -> None:
            if step == 6:
                await_standby(machine)
                kill(machine)

        assert train(machine.device(), disturb) == undisturbed
        await_that(lambda: machine.stats()["recoveries"] == 1)
        assert machine.stats()["takeovers"] == 1


def test_a_standby_needs_replay() -> None:
    with pytest.raises(ValueError, match='mirror=True needs recovery="replay"'):
        remora.RemoteMachine("mock", recovery="off", mirror=True)


@pytest.mark.fast
def test_a_move_changes_no_value() -> None:
    with remora.RemoteMachine("mock") as machine:
        undisturbed = train(machine.device())

        def disturb(step: int) -> None:
            if step == 5:
                former = node_of(machine)
                machine.migrate()
                assert node_of(machine) != former

        assert train(machine.device(), disturb) == undisturbed
        with pytest.raises(remora.ProviderException, match="continues on its node"):
            machine.migrate(provider="nobody")
        assert machine.stats()["moves"] == 1
        assert machine.state == "READY"
        with pytest.raises(ValueError, match="gpu_count must be"):
            machine.migrate(gpu_count=9)


def train_in_steps(
    machine: remora.RemoteMachine, at_step: Callable[[int], None], caught: list[int]
) -> dict[int, float]:
    """Trains with momentum and dropout, and continues behind the step that was restored."""
    torch.manual_seed(5)
    model = nn.Sequential(nn.Linear(16, 64), nn.ReLU(), nn.Dropout(0.2), nn.Linear(64, 4))
    model = model.to(machine.device())
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    losses: dict[int, float] = {}
    step = disturbed = 0
    while step < 12:
        try:
            if step == disturbed:
                disturbed += 1
                at_step(step)
            chance = torch.Generator().manual_seed(step)  # a step's data depends on its number only
            inputs = torch.randn(32, 16, generator=chance).to(machine.device())
            labels = torch.randint(4, (32,), generator=chance).to(machine.device())
            optimizer.zero_grad()
            loss = nn.functional.cross_entropy(model(inputs), labels)
            loss.backward()
            optimizer.step()
            losses[step] = loss.item()
            machine.checkpoint(step)
            step += 1
        except remora.RestoredException as e:
            caught.append(e.step)
            step = e.step + 1
    return losses


@pytest.mark.fast
def test_a_program_continues_behind_the_step_that_was_restored() -> None:
    told: list[int] = []
    with remora.RemoteMachine(
        "mock", recovery="checkpoint", checkpoint_interval=0.1, on_restored=told.append
    ) as machine:
        undisturbed = train_in_steps(machine, lambda step: None, [])
        caught: list[int] = []

        def disturb(step: int) -> None:
            if step == 5:
                await_checkpoint_of(machine, step - 1)
                kill(machine)

        assert train_in_steps(machine, disturb, caught) == undisturbed
        assert caught == [4]
        await_that(lambda: told == caught, lambda: told)
        # What was made since is gone, and says why. The machine can be used.
        machine.checkpoint(99)
        kept = torch.ones(3, device=machine.device())
        await_checkpoint_of(machine, 100)
        since = kept + 1
        assert since.sum().item() == 6
        kill(machine)
        with pytest.raises(remora.RestoredException, match="restored to step 100"):
            since.sum().item()
        assert kept.sum().item() == 3
        with pytest.raises(remora.StaleReferenceException, match="made after the step"):
            since.sum().item()


@pytest.mark.full
def test_kills_at_any_moment_change_no_value() -> None:
    seed = random.randrange(1 << 30)
    print("seed", seed)
    moments = random.Random(seed)
    with remora.RemoteMachine("mock", recovery="replay", checkpoint_interval=0.5) as machine:
        undisturbed = train(machine.device())
        for _ in range(5):
            at = moments.randrange(12)
            assert (
                train(machine.device(), lambda step, at=at: kill(machine) if step == at else None)
                == undisturbed
            )
        await_that(lambda: machine.stats()["recoveries"] == 5)


@pytest.mark.full
def test_a_function_that_gives_another_value_ends_the_session_with_an_error() -> None:
    @remora.remote
    def drawn(zero: torch.Tensor) -> torch.Tensor:
        import random

        return zero + random.random()

    with remora.RemoteMachine("mock", recovery="replay") as machine:
        first = drawn(torch.zeros(1, device=machine.device()))
        assert 0 <= first.item() < 1
        kill(machine)
        with pytest.raises(
            remora.NodeLostException, match="executed again by another node, gave another answer"
        ):
            (first + 1).item()


@pytest.mark.full
def test_a_standby_that_differs_is_given_up_and_the_machine_continues() -> None:
    @remora.remote
    def drawn(zero: torch.Tensor) -> torch.Tensor:
        import random

        return zero + random.random()

    with remora.RemoteMachine("mock", recovery="replay", mirror=True) as machine:
        await_standby(machine)
        first = drawn(torch.zeros(1, device=machine.device()))
        value = first.item()
        await_that(lambda: machine.stats()["standby"] == 0, "the standby was not given up")

        assert first.item() == value
        assert machine.state == "READY"
        assert machine.stats()["recoveries"] == 0


@pytest.mark.fast
def test_without_recovery_a_killed_node_is_an_error() -> None:
    with pytest.raises(ValueError, match="recovery must be"):
        remora.RemoteMachine("mock", recovery="sometimes")
