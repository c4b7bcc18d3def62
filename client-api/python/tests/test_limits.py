# SPDX-License-Identifier: AGPL-3.0-or-later
"""An impossible request fails one call, and the session continues with all its tensors."""

from __future__ import annotations

import uuid

import pytest
import torch

import remora


@pytest.fixture(autouse=True)
def everything_else_goes_on(device):
    kept = torch.arange(4.0, device=device)
    yield
    assert (kept + 1).tolist() == [1.0, 2.0, 3.0, 4.0]


_libraries: list[torch.library.Library] = []


@pytest.fixture
def library():
    """Operators of a library that the test defines, with kernels for the CPU."""
    name = f"remora_test_{uuid.uuid4().hex[:8]}"
    _libraries.append(torch.library.Library(name, "DEF"))  # never destroyed
    return _libraries[-1], getattr(torch.ops, name)


@pytest.mark.critical
@pytest.mark.parametrize(
    "make",
    [
        lambda d: torch.randn(10_000_000, 10_000_000, device=d),
        lambda d: torch.zeros(2**46 + 8, dtype=torch.uint8, device=d),
        lambda d: torch.empty(2**40, 2**40, device=d),
        lambda d: torch.ones(1, device=d).expand(2**50, 3).clone(),
        lambda d: torch.ones(1, device=d).expand(2**50) + 1,
        lambda d: torch.ones(1, device=d).resize_(2**50),
        lambda d: torch.ones(1, device=d).untyped_storage().resize_(2**50),
        lambda d: torch.add(torch.ones(1, device=d).expand(2**50), 1, out=torch.empty(0, device=d)),
    ],
)
def test_what_no_storage_holds_is_refused_at_the_call(device, make):
    with pytest.raises(RuntimeError, match=r"out of memory|overflowed|allocate memory"):
        make(device)


def test_a_refused_resize_leaves_the_tensor_as_it_was(device):
    x = torch.arange(6.0, device=device).view(2, 3)
    with pytest.raises(torch.OutOfMemoryError):
        x.resize_(2**50)
    assert x.shape == (2, 3)
    assert x.sum().item() == 15


@pytest.mark.critical
@pytest.mark.parametrize("dims", [64, 65, 128, 255, 256, 300])
def test_tensors_have_as_many_dimensions_as_in_torch(device, dims):
    x = torch.ones([1] * dims, device=device)
    assert x.cpu().shape == x.shape
    y = torch.arange(3.0, device=device).view([1] * (dims - 1) + [3])
    assert y.clone().cpu().flatten().tolist() == [0.0, 1.0, 2.0]
    y.fill_(2)
    assert y.reshape(3).tolist() == [2.0, 2.0, 2.0]


def test_sizes_and_strides_have_no_limit_of_their_own(device):
    x = torch.arange(3.0, device=device)
    far = torch.as_strided(x, (1, 3), (2**47, 1))
    assert (far * 2).tolist() == [[0.0, 2.0, 4.0]]
    assert torch.as_strided(x, (1, 3), (2**62, 1)).sum().item() == 3
    assert torch.empty(0, 2**40, 2**10, device=device).sum().item() == 0
    assert torch.empty(0, 2**62, device=device).sum().item() == 0
    assert x.expand(2**50, 3)[5].tolist() == [0.0, 1.0, 2.0]
    assert x.as_strided((2**50, 2**10, 3), (0, 0, 1))[7, 9].add(1).tolist() == [1.0, 2.0, 3.0]


def test_memory_that_the_node_does_not_have_fails_one_call(machine, device):
    x = torch.empty(2**45, dtype=torch.uint8, device=device)
    with pytest.raises(remora.RemoteOperationException, match="memory"):
        x[:2].fill_(1).cpu()


def test_a_text_of_any_length_is_an_argument(device, library):
    lib, ops = library
    lib.define("measure(Tensor x, str text) -> Tensor")
    lib.impl("measure", lambda x, text: x + len(text), "CPU")
    x = torch.zeros(1, device=device)
    if not _in_this_process():
        pytest.skip("the operator is in this process only")
    assert ops.measure(x, "a" * 100_000).item() == 100_000


def test_a_call_that_throws_while_it_is_recorded_leaves_nothing_behind(device, library):
    lib, ops = library
    lib.define("measure(Tensor x, Tensor y, str text) -> Tensor")
    lib.impl("measure", lambda x, y, text: x + y + len(text), "CPU")
    lib.impl("measure", lambda x, y, text: torch.empty_like(x), "Meta")
    fresh = torch.empty(3, device=device)  # the node does not know its storage yet
    x = torch.ones(3, device=device)
    dtype = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        for _ in range(3):  # the operator is new to the node
            with pytest.raises(remora.RemoraException, match="description of one operation is"):
                ops.measure(x, fresh, "a" * (17 << 20))
    finally:
        torch.set_default_dtype(dtype)
    fresh.fill_(2)
    assert (fresh.erfc() + x.lgamma()).tolist() == pytest.approx([0.0046777] * 3, abs=1e-6)
    if _in_this_process():
        assert ops.measure(x, fresh, "abc").tolist() == [6.0] * 3


def _in_this_process() -> bool:
    return not remora.is_remote_execution_enabled()


@pytest.mark.critical
def test_generators_are_limited_by_how_many_live(machine, device):
    for seed in range(2**16 + 10):
        generator = torch.Generator(device).manual_seed(seed)
    assert (
        torch.rand(3, device=device, generator=generator).tolist()
        == torch.rand(3, generator=torch.Generator().manual_seed(2**16 + 9)).tolist()
    )
    alive = []
    with pytest.raises(remora.RemoraException, match="generators, the most"):
        for _ in range(2**16 + 10):
            alive.append(torch.Generator(device))
    assert len(alive) > 2**16 - 100
    alive.clear()
    assert torch.Generator(device).initial_seed() == torch.Generator().initial_seed()


def test_events_are_limited_by_how_many_live(machine, device):
    first = torch.Event(device, enable_timing=True)
    first.record()
    for _ in range(2**20 + 10):
        torch.Event(device).record()
    last = torch.Event(device, enable_timing=True)
    last.record()
    last.synchronize()
    assert first.elapsed_time(last) > 0


def test_what_is_of_another_machine_is_refused_at_the_call(device):
    with remora.RemoteMachine("mock") as other:
        generator = torch.Generator(other.device())
        with pytest.raises(remora.CrossMachineException):
            torch.rand(3, device=device, generator=generator)
        with pytest.raises(remora.CrossMachineException):
            torch.ones(3, device=device).normal_(generator=generator)


def test_quantized_scalars_are_refused_at_the_call(device):
    q = torch.quantize_per_tensor(torch.tensor(1.0), 0.1, 0, torch.qint8)
    with pytest.raises(RuntimeError):
        torch.ones(3, device=device) + q


def test_a_failed_write_leaves_what_a_device_of_its_own_would_have(machine, device):
    """The failure is thrown first; after that, the values equal those of the same calls on the CPU."""
    bad = torch.tensor([7])
    for write in (
        lambda x, i: x.index_add_(0, i, torch.ones(1, device=x.device)),
        lambda x, i: x.index_copy_(0, i, torch.ones(1, device=x.device)),
        lambda x, i: x.index_put_((i,), torch.ones(1, device=x.device)),
        lambda x, i: x.scatter_(0, i, torch.ones(1, device=x.device)),
        lambda x, i: x.put_(i, torch.ones(1, device=x.device)),
        lambda x, i: x.index_fill_(0, i, 5.0),
    ):
        local = torch.arange(3.0)
        with pytest.raises((IndexError, RuntimeError)):
            write(local, bad)
        x = torch.arange(3.0, device=device)
        with pytest.raises((IndexError, RuntimeError)):
            write(x, bad.to(device))
            x.cpu()
        assert x.tolist() == local.tolist()
        with pytest.raises((IndexError, RuntimeError)):
            write(x, bad.to(device))
            machine.synchronize()
        assert (x + 1).tolist() == (local + 1).tolist()


@pytest.mark.critical
@pytest.mark.parametrize(
    "fill",
    [
        lambda x: x.zero_(),
        lambda x: x.fill_(2),
        lambda x: x.copy_(torch.ones(2, 3)),
        lambda x: x.copy_(torch.ones(2, 3, device=x.device)),
        lambda x: torch.add(torch.ones(2, 3, device=x.device), 1, out=x),
        lambda x: x.normal_(),
        lambda x: x.t().fill_(4),
    ],
)
def test_a_tensor_without_values_has_some_when_all_of_it_is_written(device, fill):
    x = torch.ones(2, 3, device=device)[torch.tensor([7, 7], device=device)]
    assert x.shape == (2, 3)
    with pytest.raises((IndexError, remora.RemoteOperationException)):
        x[0].zero_().cpu()  # only a part of it
    with pytest.raises((IndexError, remora.RemoteOperationException)):
        x.cpu()
    with pytest.raises((IndexError, remora.RemoteOperationException)):
        x[0].cpu()
    fill(x)
    assert torch.isfinite(x.cpu()).all()


def test_a_large_upload_gives_values_back(device):
    n = 3 << 20
    x = torch.ones(n, device=device)[torch.full((n,), n, device=device)]
    x.copy_(torch.arange(float(n)))
    assert x[-1].item() == n - 1


def test_what_was_never_computed_stays_without_values(device):
    bad = torch.ones(3, device=device)[torch.tensor([7], device=device)]
    for _ in range(3):
        with pytest.raises((IndexError, remora.RemoteOperationException)):
            bad.cpu()
        with pytest.raises((IndexError, remora.RemoteOperationException)):
            (bad + 1).cpu()


def test_an_operator_of_another_library_is_assumed_nothing_of(device, library):
    if not _in_this_process():
        pytest.skip("the operators are in this process only")
    lib, ops = library
    lib.define("positive(Tensor x) -> Tensor")
    lib.impl("positive", lambda x: x[x > 0], "CPU")
    for values in ([1.0, 2.0, 3.0], [1.0, -2.0, 3.0], [-1.0, -2.0, 3.0], [1.0, 2.0, -3.0]):
        x = torch.tensor(values, device=device)
        assert ops.positive(x).tolist() == [v for v in values if v > 0]


def test_an_operator_of_another_library_can_be_declared(device, library, reads):
    if not _in_this_process():
        pytest.skip("the operators are in this process only")
    lib, ops = library
    lib.define("twice(Tensor x) -> Tensor")
    lib.impl("twice", lambda x: x * 2, "CPU")
    lib.define("thrice(Tensor x) -> Tensor")
    lib.impl("thrice", lambda x: x * 3, "CPU")
    torch.library.register_fake(f"{lib.ns}::thrice", torch.empty_like)
    with pytest.raises(ValueError, match="library::operator"):
        remora.declare_fixed_shapes("twice")
    remora.declare_fixed_shapes(f"{lib.ns}::twice")
    x = torch.ones(3, device=device)
    reads()
    y = ops.twice(ops.twice(ops.twice(x)))
    assert reads() == 1
    z = ops.thrice(ops.thrice(x))
    assert reads() == 0
    assert (y.tolist(), z.tolist()) == ([8.0] * 3, [9.0] * 3)


def test_tensors_of_two_devices_are_not_mixed(machine):
    a = torch.ones(2, 2, device=torch.device(machine.device().type, machine.device().index))
    second = torch.device(a.device.type, a.device.index + 1)
    b = torch.ones(2, 2, device=second)
    for mix in (
        lambda: a + b,
        lambda: a @ b,
        lambda: torch.cat([a, b]),
        lambda: a.add_(b.sum()),
        lambda: torch.where(a > 0, a, b),
    ):
        with pytest.raises(RuntimeError, match="Expected all tensors to be on the same device"):
            mix()
    a.copy_(b * 3)
    torch._foreach_add_([a, b], [a, b])
    assert (a.sum().item(), b.sum().item()) == (24, 8)
    assert (a + torch.tensor(1.0)).sum().item() == 28
    assert a.to(second).device == second
