# SPDX-License-Identifier: AGPL-3.0-or-later
"""The program's own connection to the node, past the gateway: real gateways, nodes and sockets, and their failures."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import socket
import struct
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
import torch
from conftest import await_that
from test_recovery import node_of

import remora
from remora import _gateway, exceptions
from remora._settings import Settings

pytestmark = [pytest.mark.fast, pytest.mark.gateway]


@pytest.fixture(scope="module")
def gateway():
    """Starts a gateway process."""
    process = _gateway.GatewayProcess(_gateway.class_path(), Settings.from_environment())
    yield process
    process.stop()


@pytest.fixture(autouse=True)
def remote():
    enabled = remora.is_remote_execution_enabled()
    remora.enable_remote_execution()
    yield
    if not enabled:
        remora.disable_remote_execution()


def connect(gateway, **more) -> remora.RemoteMachine:
    return remora.RemoteMachine.connect(
        gateway.address, token=gateway.token, provider="mock", **more
    )


def sockets(machine: remora.RemoteMachine) -> list[socket.socket]:
    """Returns copies of this process's sockets that are connected to the machine's node."""
    assert machine._machine is not None
    node = machine._machine.node_address.rpartition(":")[2]
    found: dict[int, socket.socket] = {}  # by their own ports: copies are listed, too
    for path in list(Path("/proc/self/fd").iterdir()):
        with contextlib.suppress(OSError, IndexError):
            if not path.is_socket():
                continue
            each = socket.socket(fileno=os.dup(int(path.name)))
            if each.getpeername()[1] == int(node):
                found.setdefault(each.getsockname()[1], each)
    return list(found.values())


def is_direct(machine: remora.RemoteMachine) -> bool:
    return machine.stats()["direct"] == 1


def differences(machine: remora.RemoteMachine) -> dict[str, float]:
    """Returns the machine's figures that differ from those of this process, its only program."""
    now = machine.stats()
    expected = {
        "machine.batches": now["batches"],
        "batches.executed": now["batches"],
        "machine.operations": now["operations"],
        "operations.executed": now["operations"],
        "machine.storages": now["storages"],
    }
    return {name: now[name] for name, value in expected.items() if now[name] != value}


def work(device: torch.device) -> list[torch.Tensor]:
    """Uploads, computes, and reads small and large values."""
    torch.manual_seed(7)
    x = torch.randn(700, 900)
    remote = x.to(device)
    results = [torch.tensor((remote * i).sum().item()) for i in range(20)]
    for i in range(300):
        remote = torch.roll(remote, i, 0) * 0.999
        if i % 100 == 0:
            results.append(remote.cpu())
    results += [remote.nonzero().cpu(), remote[3:5].cpu(), remote.cpu()]
    return results


def test_results_are_the_same_bits_with_and_without(gateway, monkeypatch):
    with connect(gateway) as machine:
        await_that(lambda: is_direct(machine))
        assert len(sockets(machine)) == 1
        direct = work(machine.device())
        assert is_direct(machine)
    monkeypatch.setenv("REMORA_DIRECT", "0")
    with connect(gateway) as machine:
        through_gateway = work(machine.device())
        assert not is_direct(machine)
        assert not sockets(machine)
    assert len(direct) == len(through_gateway)
    assert all(torch.equal(a, b) for a, b in zip(direct, through_gateway, strict=True))


def test_the_machine_s_figures_and_storages_are_those_of_the_node(gateway):
    with connect(gateway) as machine:
        device = machine.device()
        await_that(lambda: is_direct(machine))
        before = machine.stats()
        x = torch.ones(1000, device=device)
        for _ in range(10):
            x = x + 1
            assert x.sum().item() > 0
        big = torch.ones(100_000, device=device).cpu()
        await_that(lambda: not differences(machine))
        await_that(
            lambda: machine.stats()["value.bytes"] - before["value.bytes"] == big.nbytes,
            lambda: machine.stats()["value.bytes"] - before["value.bytes"],
        )
        after = machine.stats()
        assert is_direct(machine)
        assert after["batches"] > before["batches"]
        assert after["batch.bytes"] >= after["batch_bytes"] > 0
        info = machine.storage(x)
        assert (info.state, info.bytes) == ("REALIZED", 4000)
        bad = torch.ones(2, device=device)[torch.tensor([5], device=device)]
        with pytest.raises(exceptions.RemoraException):
            bad.cpu()
        await_that(lambda: machine.stats()["operations.failed"] - before["operations.failed"] == 1)
        del bad


@pytest.mark.parametrize("large", [False, True])
def test_a_cut_connection_loses_nothing_and_repeats_nothing(gateway, large, caplog):
    with connect(gateway) as machine, caplog.at_level(logging.INFO, "remora"):
        device = machine.device()
        await_that(lambda: is_direct(machine))
        steps = torch.zeros(3_000_000 if large else 3, device=device)
        cuts = 0
        for i in range(1, 400):
            steps += 1  # twice, or not at all, would be seen
            if i % 40 == 39:
                for each in sockets(machine):
                    each.shutdown(socket.SHUT_RDWR)
                    each.close()
                    cuts += 1
            if i % 20 == 19 or i > 390:
                read = steps.cpu()
                assert bool((read == i).all()), (i, read)
        assert cuts > 0
        await_that(lambda: not differences(machine))
        # The program asks again after a while.
        await_that(lambda: (steps + 1).sum().item() > 0 and is_direct(machine))
        steps += 1
        assert steps[0].item() == 400
    told = [each for each in caplog.messages if "data goes through the gateway" in each]
    assert 1 <= len(told) <= cuts


def test_a_damaged_connection_is_left(gateway):
    with connect(gateway) as machine:
        device = machine.device()
        await_that(lambda: is_direct(machine))
        x = torch.ones(3, device=device)
        assert x.sum().item() == 3
        (own,) = sockets(machine)
        own.sendall(struct.pack("<I", 5) + b"\xff" * 40)  # between two frames: nothing is under way
        own.close()
        for i in range(50):
            assert (x + i).sum().item() == 3 + 3 * i


def test_a_pause_ends_it_and_a_resumed_machine_gets_another(gateway):
    with connect(gateway) as machine:
        device = machine.device()
        await_that(lambda: is_direct(machine))
        x = torch.arange(1000.0, device=device)
        for _ in range(200):
            x = x + 1
        machine.pause()
        assert machine.state == "PAUSED"
        await_that(lambda: not is_direct(machine))
        assert torch.equal(x.cpu(), torch.arange(1000.0) + 200)  # this resumes it
        await_that(lambda: (x + 1).sum().item() > 0 and is_direct(machine))
        assert torch.equal((x * 2).cpu(), (torch.arange(1000.0) + 200) * 2)


def test_a_killed_node_is_the_same_error(gateway):
    machine = connect(gateway).start()
    await_that(lambda: is_direct(machine))
    x = torch.ones(3, device=machine.device())
    assert x.sum().item() == 3
    os.kill(node_of(machine, gateway), signal.SIGKILL)
    with pytest.raises(exceptions.NodeLostException, match="node"):
        await_that(lambda: (x + 1).sum().item() != 6)
    machine.stop()


def test_a_killed_program_frees_its_session(gateway, tmp_path):
    program = tmp_path / "program.py"
    program.write_text(
        textwrap.dedent(
            """
            import sys, time, torch, remora
            machine = remora.RemoteMachine.connect(sys.argv[1], token=sys.argv[2], machine="shared").start()
            x = torch.ones(1000, device=machine.device())
            while machine.stats()["direct"] != 2:
                time.sleep(0.02)
            print("works", flush=True)
            while True:
                x = x + 1
                x.sum().item()
            """
        )
    )
    with connect(gateway, name="shared") as machine:
        process = subprocess.Popen(
            [sys.executable, str(program), gateway.address, gateway.token],
            stdout=subprocess.PIPE,
            text=True,
        )
        assert process.stdout is not None
        assert process.stdout.readline() == "works\n"
        await_that(lambda: machine.stats()["machine.storages"] > 0)
        process.kill()
        process.wait()
        await_that(lambda: machine.stats()["direct"] == 1)
        assert torch.ones(4, device=machine.device()).sum().item() == 4


def test_over_another_transport_data_goes_through_the_gateway_and_this_is_said_once(
    gateway, monkeypatch, caplog
):
    monkeypatch.setenv("REMORA_TRANSPORT", "grpc")
    with caplog.at_level(logging.INFO, "remora"), connect(gateway) as machine:
        x = torch.ones(3, device=machine.device())
        for _ in range(5):
            assert x.sum().item() == 3
        assert not is_direct(machine)
    assert len([each for each in caplog.messages if "data goes through the gateway" in each]) == 1
