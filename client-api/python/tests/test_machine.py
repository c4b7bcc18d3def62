# SPDX-License-Identifier: AGPL-3.0-or-later
"""RemoteMachine: its arguments, its life cycle and its figures."""

from __future__ import annotations

import inspect
import logging
import pickle
import re
import sys
from pathlib import Path

import pytest
import torch
from conftest import await_that

import remora
from remora import exceptions

pytestmark = pytest.mark.fast


@pytest.mark.parametrize(
    "arguments",
    [
        {"provider": ""},
        {"provider": "mock", "gpu_count": 0},
        {"provider": "mock", "gpu_count": 9},
        {"provider": "mock", "timeout": -1},
        {"provider": "mock", "idle_timeout": float("inf")},
        {"provider": "mock", "packages": "numpy"},
    ],
)
def test_arguments_out_of_range_are_refused(arguments):
    with pytest.raises(ValueError, match="must"):
        remora.RemoteMachine(**arguments)


@pytest.mark.critical
def test_gpu_types_are_those_that_providers_know():
    source = (
        Path(__file__).parents[3] / "provider-api/src/main/java/io/remora/provider/GpuType.java"
    )
    names = re.findall(r'^  \w+\("(.+)"\)[,;]$', source.read_text(), re.MULTILINE)
    assert tuple(names) == remora.GPU_TYPES
    remora.RemoteMachine("mock", "a100_40gb")
    with pytest.raises(ValueError, match="GPU type 'INVALID_GPU'; the types are T4, L4, .*B200"):
        remora.RemoteMachine("mock", "INVALID_GPU")


@pytest.mark.critical
def test_nothing_limits_a_machine_s_or_a_function_s_life_unless_asked_for():
    for function in (remora.RemoteMachine, remora.RemoteMachine.connect, remora.remote):
        assert inspect.signature(function).parameters["timeout"].default is None


@pytest.mark.critical
def test_a_machine_from_start_to_stop(pytestconfig):
    machine = remora.RemoteMachine("mock")
    assert machine.state == "NEW"
    with pytest.raises(exceptions.MachineStateException, match="not started"):
        machine.synchronize()
    with machine:
        assert machine in remora.get_all_machines()
        assert machine.state == "READY"
        assert machine.name
        x = torch.arange(3.0, device=machine.device())
        assert x.sum().item() == 3
        stats = machine.stats()
        assert stats["blocking_reads"] >= 1
        assert stats["storages"] >= 1
        if "operations.executed" in stats:  # absent if remote execution is disabled
            # The machine learns of the end of the sum after the program has continued.
            await_that(lambda: _counts_differ(machine) == [], lambda: _counts_differ(machine))
        assert machine.start() is machine
        storage = machine.storage(x)
        assert storage.bytes == 12
        assert storage.state == "REALIZED"
    assert machine not in remora.get_all_machines()
    assert machine.state == "STOPPED"
    assert machine.stats()["blocking_reads"] >= 1
    machine.stop()
    with pytest.raises(exceptions.MachineStateException, match="start"):
        machine.device()
    with pytest.raises(exceptions.StaleReferenceException):
        x.cpu()
    assert "stopped" in repr(machine)


def _counts_differ(machine):
    """The machine's counts that differ from this process's, with both."""
    stats = machine.stats()
    pairs = (("operations", "operations.executed"), ("storages", "machine.storages"))
    return [
        (there, stats[there], stats[here]) for here, there in pairs if stats[here] != stats[there]
    ]


def test_a_stopped_machine_can_be_started_anew():
    machine = remora.RemoteMachine("mock").start()
    machine.stop()
    with machine:
        assert torch.ones(2, device=machine.device()).sum().item() == 2


def test_stop_raises_what_nobody_has_read():
    machine = remora.RemoteMachine("mock").start()
    torch.ones(3, device=machine.device())[torch.tensor([7], device=machine.device())]
    with pytest.raises(exceptions.RemoteOperationException, match="index"):
        machine.stop()
    assert machine.state == "STOPPED"


def test_an_error_in_the_with_block_is_the_one_that_is_raised():
    with pytest.raises(ZeroDivisionError), remora.RemoteMachine("mock") as machine:
        torch.ones(3, device=machine.device())[torch.tensor([7], device=machine.device())]
        _ = 1 / 0


def test_two_machines_do_not_mix_but_copy(machine, device):
    with remora.RemoteMachine("mock") as other:
        x = torch.arange(4.0, device=other.device())
        assert x.device != device
        with pytest.raises(remora.CrossMachineException, match=r"\.to\("):
            torch.dot(x, torch.ones(4, device=device))
        with pytest.raises(RuntimeError, match=f"{x.device} and {device}"):
            x + torch.ones(4, device=device)
        assert x.to(device).tolist() == [0, 1, 2, 3]
        with pytest.raises(ValueError, match="not on"):
            machine.storage(x)


def test_devices_by_name(machine):
    first, second = machine.device(), machine.device("cuda:1")
    assert machine.device("cuda") == machine.device("cuda:0") == first
    assert machine.device("cpu") == first  # a mock machine simulates its devices on its CPU
    assert second.index == first.index + 1
    assert [each.kind for each in machine.devices] == ["cpu", "cpu"]
    assert [machine.device(0), machine.device(1)] == [first, second]
    for wrong in ("cuda:2", "xpu", 2, -1):
        with pytest.raises(ValueError, match="has no device"):
            machine.device(wrong)


def test_packages_are_for_the_start():
    machine = remora.RemoteMachine("mock")
    machine.pip_install("einops", "numpy")
    assert machine._packages == ["einops", "numpy"]


def test_machines_cannot_be_pickled(machine):
    with pytest.raises(TypeError, match="each process"):
        pickle.dumps(machine)


def test_a_paused_machine_goes_on_where_it_was(request, machine):
    tensor = torch.arange(6.0, device=machine.device())
    if request.config.getoption("--machine") == "local":
        with pytest.raises(exceptions.MachineStateException):
            machine.pause()
    else:
        machine.pause()
        machine.resume()
        tensor += 1
        machine.pause()  # the read below resumes it
        tensor -= 1
    assert tensor.tolist() == [0, 1, 2, 3, 4, 5]


def test_many_machines_after_each_other_take_the_same_slots():
    indices = set()
    for _ in range(3):
        with remora.RemoteMachine("mock") as machine:
            indices.add(machine.device().index)
    assert len(indices) == 1


def test_exceptions_are_runtime_errors_named_as_in_java():
    for name in exceptions.__all__:
        kind = getattr(exceptions, name)
        assert issubclass(kind, RuntimeError)
        assert getattr(remora, name) is kind
    error = exceptions.from_text("NodeLostException: the node is gone: exit code 1")
    assert type(error) is exceptions.NodeLostException
    assert str(error) == "the node is gone: exit code 1"
    assert type(exceptions.from_text("plain: text")) is exceptions.RemoraException


def test_local_execution_is_chosen_and_left(machine):
    enabled = remora.is_remote_execution_enabled()
    remora.disable_remote_execution()
    try:
        with remora.RemoteMachine("anything", gpu_count=2) as local:
            assert local.name.startswith("local-")
            assert torch.ones(2, device=local.device("cuda:1")).sum().item() == 2
            with pytest.raises(exceptions.MachineStateException):
                local.pause()
    finally:
        if enabled:
            remora.enable_remote_execution()


def test_stale_tensors_do_not_reach_the_next_machine():
    with remora.RemoteMachine("mock") as first:
        x = torch.ones(3, device=first.device())
    with remora.RemoteMachine("mock") as second:
        assert second.device() == x.device
        with pytest.raises(exceptions.RemoraException):
            (x + torch.ones(3, device=second.device())).cpu()


def test_call_sites_are_named_where_they_are_recorded(monkeypatch):
    monkeypatch.setenv("REMORA_CALL_SITES", "1")
    with remora.RemoteMachine("mock") as machine:
        device = machine.device()
        layer = torch.nn.Embedding(4, 2, device=device)
        numbers = torch.tensor([1, 7], device=device)
        line = sys._getframe().f_lineno + 2
        with pytest.raises(remora.RemoteOperationException) as failure:
            (layer(numbers) + 1).cpu()
        assert f"called at {__file__}:{line} in test_call_sites" in str(failure.value)
        # A call from a thread of libtorch has no known line; its message is complete otherwise.
        x = torch.ones(3, device=device, requires_grad=True)
        assert (x * 2).sum().backward() is None
        assert x.grad.sum().item() == 6


def test_a_call_that_cannot_be_recorded_does_not_shift_call_sites(monkeypatch):
    monkeypatch.setenv("REMORA_CALL_SITES", "1")
    with remora.RemoteMachine("mock") as machine:
        device = machine.device()
        x = torch.ones(3, device=device)
        numbers = torch.tensor([1, 7], device=device)
        with pytest.raises(exceptions.RemoraException, match="is limited to"):
            torch.ops.aten._test_optional_intlist(numbers.int(), [1 << 62] * 2_000_000)
        line = sys._getframe().f_lineno + 1
        chosen = x[numbers]
        with pytest.raises(remora.RemoteOperationException) as failure:
            chosen.cpu()
        assert f"called at {__file__}:{line} in test_a_call_that_cannot" in str(failure.value)


def test_call_sites_are_off_by_default(machine, device):
    result = torch.ones(3, device=device)[torch.tensor([7], device=device)]
    with pytest.raises(remora.RemoteOperationException, match="out of bounds") as failure:
        result.cpu()
    assert "called at" not in str(failure.value)


def test_operations_are_logged_when_asked_for(monkeypatch, caplog):
    caplog.set_level(logging.DEBUG, "remora")
    for switch, count in (("1", 2), ("0", 0)):
        monkeypatch.setenv("REMORA_LOG_OPERATIONS", switch)
        caplog.clear()
        with remora.RemoteMachine("mock") as machine:
            x = torch.ones(2, 3, device=machine.device())
            torch.relu(x.t() @ x)
        lines = [each for each in caplog.records if each.name == "remora.operations"]
        assert (
            sum("aten::mm" in each.message or "aten::relu" in each.message for each in lines)
            == count
        )
        assert all(each.levelno == logging.DEBUG for each in lines)
    with pytest.raises(ValueError, match="REMORA_LOG_OPERATIONS"):
        monkeypatch.setenv("REMORA_LOG_OPERATIONS", "debug")
        remora.RemoteMachine("mock").start()


def test_a_switch_is_on_or_off(monkeypatch):
    monkeypatch.setenv("REMORA_CALL_SITES", "perhaps")
    with pytest.raises(ValueError, match="REMORA_CALL_SITES"):
        remora.RemoteMachine("mock").start()
