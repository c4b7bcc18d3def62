# SPDX-License-Identifier: AGPL-3.0-or-later
"""Nodes on simulated accelerators: memory that the host cannot touch, and work that is late.

A node that touches device memory ends by a signal, and one that does not wait for a stream finds other bytes, so that
every comparison with the CPU here is one of the node's synchronisation. REMORA_SIMULATED_SEEDS has the seeds of the
delays, by default "1".
"""

from __future__ import annotations

import contextlib
import gc
import os
import threading
from collections.abc import Callable, Iterator

import pytest
import torch
from conftest import await_that
from databases import run_operator
from torch import nn

import remora
from remora import _build, _gateway, exceptions
from remora._settings import Settings

pytestmark = [
    pytest.mark.full,
    pytest.mark.gateway,
    pytest.mark.skipif(
        torch.__version__.split("+")[0] != _build.SHIPPED_TORCH,
        reason="the node of a gateway has the shipped core's libtorch",
    ),
]

SEEDS = os.environ.get("REMORA_SIMULATED_SEEDS", "1").split(",")
MIB = 1 << 20


class Gateway:
    """A gateway whose machines have simulated accelerators."""

    def __init__(self, options: str, **variables: str) -> None:
        with pytest.MonkeyPatch.context() as patch:
            for name, value in ({"JAVA_TOOL_OPTIONS": options} | variables).items():
                patch.setenv(name, value)
            self.process = _gateway.GatewayProcess(
                _gateway.class_path(), Settings.from_environment()
            )

    def connect(self, devices: int = 1, **more: str) -> remora.RemoteMachine:
        if "machine" not in more:
            more["provider"] = "mock"
        return remora.RemoteMachine.connect(
            self.process.address, token=self.process.token, gpu_count=devices, **more
        )


@contextlib.contextmanager
def gateway_with(options: str, **variables: str) -> Iterator[Gateway]:
    gateway = Gateway(options, **variables)
    enabled = remora.is_remote_execution_enabled()
    remora.enable_remote_execution()
    try:
        yield gateway
    finally:
        gateway.process.stop()
        if not enabled:
            remora.disable_remote_execution()


@pytest.fixture(scope="module", params=SEEDS)
def gateway(accelerator_options, request) -> Iterator[Gateway]:
    with gateway_with(
        accelerator_options,
        REMORA_SIMULATED_SEED=request.param,
        REMORA_SIMULATED_DELAY_MICROS="500",
    ) as opened:
        yield opened


@pytest.fixture(scope="module")
def machine(gateway) -> Iterator[remora.RemoteMachine]:
    with gateway.connect(8) as opened:
        yield opened


_drawing = threading.Lock()  # threads share the CPU's generator


def work(device: torch.device, other: torch.device, steps: int = 6) -> list[torch.Tensor]:
    """Training, with everything that makes a node read or write device memory; the CPU gives the same bits."""
    with _drawing:
        torch.manual_seed(5)
        net = nn.Sequential(nn.Linear(12, 24), nn.BatchNorm1d(24), nn.ReLU(), nn.Linear(24, 4))
        data, labels = torch.randn(32, 12), torch.randint(4, (32,))
    net.to(device)
    optimizer = torch.optim.AdamW(net.parameters(), lr=1e-2)
    seen = []
    for step in range(steps):
        noise = torch.arange(32 * 12.0).view(32, 12).to(device).sin() * step  # an upload
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(net(data.to(device) + noise), labels.to(device))
        loss.backward()
        optimizer.step()
        seen.append(torch.tensor(loss.item()))  # a wait
        moved = net[0].weight.detach().to(other).mul(2).to(device)
        seen.append(moved[moved > 0].cpu())  # sizes that the values decide
        x = torch.zeros(7, device=device)
        x[::2] = step
        x.resize_(40).view(4, 10)[:, 3].copy_(torch.arange(4.0))
        x[7:].fill_(1)
        x.view(torch.int32)[1] = 3
        seen.append(x.cpu())
    return [*seen, *(each.detach().cpu().clone() for each in net.state_dict().values())]


def same(expected: list[torch.Tensor], got: list[torch.Tensor]) -> bool:
    return len(expected) == len(got) and all(
        torch.equal(a, b) for a, b in zip(expected, got, strict=True)
    )


CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def expected() -> list[torch.Tensor]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return work(CPU, CPU)
    finally:
        torch.set_num_threads(threads)


def test_the_machine_says_what_it_has(machine):
    assert [each.kind for each in machine.devices] == ["mtia"] * 8
    assert {each.memory for each in machine.devices} == {2048 * MIB}
    assert machine.device("mtia:3") == machine.device("cuda:3") == machine.device(3)
    with pytest.raises(ValueError, match="no device 'cpu'"):
        machine.device("cpu")


def test_training_gives_the_bits_of_the_cpu(machine, expected):
    for first, second in ((0, 0), (1, 2), (7, 6)):
        assert same(expected, work(machine.device(first), machine.device(second)))


def test_tensors_pass_through_all_devices_and_to_another_node(gateway, machine):
    values = torch.randn(1000, 1000)
    x = values
    for number in range(8):
        x = x.to(machine.device(number)) * 2
    assert torch.equal(x.cpu(), values * 256)
    with gateway.connect(2) as other:
        there = x.to(other.device(1))
        x.zero_()
        back = (there / 256).to(machine.device(4))
        assert torch.equal(there.cpu(), values * 256)
        assert torch.equal(back.cpu(), values)


def test_large_values_up_and_down(machine):
    values = torch.arange(9 * MIB, dtype=torch.int32)
    x = values.to(machine.device(2))
    down = (x + 1).to("cpu", non_blocking=True)
    x.zero_()
    machine.synchronize()
    assert torch.equal(down, values + 1)


def test_a_pause_keeps_all(gateway, expected):
    with gateway.connect(2) as machine:
        first, second = machine.device(0), machine.device(1)
        values = torch.randn(3, 2 * MIB)
        kept = [values.to(first), values.to(second).t(), torch.ones(4, device=second)[1:]]
        torch.manual_seed(3)
        torch.rand(5, device=second)
        machine.pause()
        machine.resume()
        drawn = torch.rand(5, device=second).cpu()
        torch.manual_seed(3)
        torch.rand(5, device=second)
        assert torch.equal(drawn, torch.rand(5, device=second).cpu())
        assert torch.equal(kept[0].cpu(), values)
        assert torch.equal(kept[1].cpu(), values.t())
        assert kept[2].tolist() == [1.0] * 3
        assert same(expected, work(first, second))


def test_two_sessions_at_once(gateway, expected):
    results: list[list[torch.Tensor]] = []
    with gateway.connect(2) as machine:
        machine.device()

        def run() -> None:
            with gateway.connect(machine=machine.name) as mine:
                results.append(work(mine.device(0), mine.device(1)))

        threads = [threading.Thread(target=run) for _ in range(2)]
        for each in threads:
            each.start()
        results.append(work(machine.device(0), machine.device(1)))
        for each in threads:
            each.join(120)
    assert len(results) == 3
    assert all(same(expected, each) for each in results)


def test_generators_and_events(machine):
    device = machine.device(1)
    generator = torch.Generator(device=device).manual_seed(7)
    there = torch.randn(50, device=device, generator=generator)
    assert torch.equal(there.cpu(), torch.randn(50, generator=torch.Generator().manual_seed(7)))
    begin, end = (torch.Event(device=device, enable_timing=True) for _ in range(2))
    begin.record()
    for _ in range(20):
        there = there + 1
    end.record()
    end.synchronize()
    assert begin.elapsed_time(end) > 0


def test_memory_is_that_of_the_device_s_allocator(machine):
    device = machine.device(5)
    gc.collect()  # nothing of earlier tests is freed from now on
    torch.remora.empty_cache()
    before = torch.remora.memory_allocated(device)
    x = torch.ones(4 * MIB, device=device)
    stats = torch.remora.memory_stats(device)
    assert stats["allocated_bytes.all.current"] == before + x.nbytes
    assert torch.remora.mem_get_info(device)[1] == 2048 * MIB
    await_that(
        lambda: (
            machine.stats().get("device.5.allocated.bytes") == torch.remora.memory_allocated(device)
        ),
        machine.stats,
    )
    figures = machine.stats()
    assert figures["device.5.reserved.bytes"] >= figures["device.5.allocated.bytes"]
    assert figures["device.5.peak.bytes"] >= before + x.nbytes
    assert figures["device.5.total.bytes"] == 2048 * MIB
    assert figures["node.resident.bytes"] > MIB
    del x
    assert torch.remora.memory_allocated(device) == before
    assert torch.remora.max_memory_allocated(device) >= before + 16 * MIB
    torch.remora.reset_peak_memory_stats(device)
    assert torch.remora.max_memory_allocated(device) == before


def test_memory_runs_out_for_one_and_comes_back(accelerator_options):
    with (
        gateway_with(accelerator_options, REMORA_SIMULATED_MIB="64") as gateway,
        gateway.connect(2) as machine,
        gateway.connect(machine=machine.name) as other,
    ):
        device = machine.device()

        def fill(make: Callable[[], torch.Tensor]) -> int:
            held = []
            with pytest.raises(torch.OutOfMemoryError, match="out of memory") as caught:
                while True:
                    held.append(make())
                    machine.synchronize()
            assert isinstance(caught.value, exceptions.RemoteOutOfMemoryError)
            count = len(held)
            held.clear()  # the error's traceback keeps the list
            return count

        x = torch.ones(MIB, device=device)
        kept = torch.full((3,), 4.0, device=other.device())
        for make in (
            lambda: torch.zeros(MIB, device=device),
            lambda: x + 1,
            lambda: torch.ones(MIB).to(device),
        ):
            assert 5 < fill(make) < 16
            assert x.sum().item() == MIB
            assert (kept + 1).tolist() == [5.0] * 3
            assert torch.ones(MIB, device=machine.device(1)).sum().item() == MIB


def test_a_function_says_that_its_process_has_no_such_memory(machine):
    @remora.remote
    def double(x: torch.Tensor) -> torch.Tensor:
        return x * 2

    with pytest.raises(exceptions.RemoraException, match=r"mtia:0 cannot be shared"):
        double(torch.ones(3, device=machine.device()))


def test_operators_of_the_host_alone_are_refused(machine):
    device = machine.device(1)
    x = torch.arange(64.0, device=device)
    for call in (
        lambda: torch.choose_qparams_optimized(x, 64, 200, 0.16, 8),
        lambda: torch._saturate_weight_to_fp16(x.view(8, 8)).cpu(),
        lambda: torch._sobol_engine_ff_(x.long(), 1, x.long().view(2, 32), 2, 0).cpu(),
    ):
        with pytest.raises(exceptions.RemoteOperationException, match="host's memory only"):
            call()
    assert (x + 1).sum().item() == 64 * 65 / 2


def test_operators_of_pytorch_s_database(machine):
    from test_opinfo import OPERATORS, SOME, STEP, first_dtype, name_of

    step = int(os.environ.get("REMORA_SIMULATED_STEP", STEP))
    device = machine.device(3)
    wrong = []
    for op in SOME if step == STEP else OPERATORS[::step]:
        if not any(op.supports_dtype(dtype, "cpu") for dtype in (torch.float32, torch.int64)):
            continue
        dtype = first_dtype(op)
        for backward in (False, True):
            if backward and not (op.supports_autograd and dtype == torch.float32):
                continue
            try:
                run_operator(op, device, dtype, backward, 2)
            except Exception as e:
                if type(e).__name__ != "Skipped":
                    wrong.append(f"{name_of(op)}: {type(e).__name__}: {e}")
    assert not wrong, "\n".join(wrong)
