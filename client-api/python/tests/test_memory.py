# SPDX-License-Identifier: AGPL-3.0-or-later
"""A tensor's memory: plans, storages and parts of them, addresses, copies."""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from databases import TORCH
from torch.utils.dlpack import from_dlpack, to_dlpack

import remora

CPU = torch.device("cpu")
NO_UNSIGNED = "before torch 2.9 no kernel outside of PyTorch gets integers above 2^63-1"


def everything(value: Any) -> Any:
    """Everything in which two results must agree."""
    if isinstance(value, torch.Tensor):
        layout = (value.dtype, value.size(), value.stride(), value.storage_offset())
        return (*layout, value.is_conj(), value.is_neg(), value.cpu().resolve_conj().tolist())
    return [everything(element) for element in value]


def outcome(call: Callable[[], Any]) -> Any:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return everything(call())
    except RuntimeError as error:
        return str(error).splitlines()[0].split("failed on the node: ")[-1]


def out_at(offset: int) -> Callable[[torch.device], Any]:
    def call(device: torch.device) -> Any:
        base = torch.zeros(12, device=device)
        out = base[offset:offset]
        torch.add(torch.arange(3.0, device=device), 1, out=out)
        return out, base

    return call


def resized(aliases: str) -> Callable[[torch.device], Any]:
    def call(device: torch.device) -> Any:
        x = torch.arange(1.0, 4.0, device=device)
        y = torch.ones(2, 3, device=device)
        out = {"itself": x, "alias": x.detach(), "other": torch.zeros(3, device=device)}[aliases]
        return torch.add(x, y, out=out), x, out

    return call


def overlapping(start: int) -> Callable[[torch.device], Any]:
    def call(device: torch.device) -> Any:
        base = torch.arange(6.0, device=device)
        return torch.neg(base[start : start + 3], out=base[:3])

    return call


# Pairs of calls that plans must distinguish, one pair for each property that a plan depends on.
PLANS: dict[str, list[Callable[[torch.device], Any]]] = {
    "operator": [
        lambda d: torch.ones(3, device=d).cumsum(0),
        lambda d: torch.ones(3, device=d).argsort(0),
    ],
    "dtype": [
        lambda d: torch.ones(3, device=d).cumsum(0),
        lambda d: torch.ones(3, dtype=torch.int32, device=d).cumsum(0),
    ],
    "sizes": [lambda d: torch.ones(3, device=d).flip(0), lambda d: torch.ones(4, device=d).flip(0)],
    "strides": [
        lambda d: torch.arange(6.0, device=d).view(2, 3).flip(0),
        lambda d: torch.arange(6.0, device=d).view(3, 2).t().flip(0),
    ],
    "conj bit": [
        lambda d: torch.full((2,), 1 + 2j, device=d).cumsum(0),
        lambda d: torch.full((2,), 1 + 2j, device=d).conj().cumsum(0),
    ],
    "neg bit": [
        lambda d: torch.full((2,), 1 + 2j, device=d).imag.flip(0),
        lambda d: torch.full((2,), 1 + 2j, device=d).conj().imag.flip(0),
    ],
    "wrapped number": [
        lambda d: (
            torch.ones(2, dtype=torch.int32, device=d) * torch.tensor(2.0, dtype=torch.float64)
        ),
        lambda d: torch.ones(2, dtype=torch.int32, device=d) * 2.0,
    ],
    "device of a scalar": [
        lambda d: torch.where(
            torch.ones(2, device=d) > 0, torch.tensor(1.0), torch.zeros(2, device=d)
        ),
        lambda d: torch.where(
            torch.ones(2, device=d) > 0, torch.tensor(1.0, device=d), torch.zeros(2, device=d)
        ),
    ],
    "kind of a scalar": [
        lambda d: torch.full((2,), 1, device=d),
        lambda d: torch.full((2,), 1.0, device=d),
    ],
    "value of a factory's scalar": [
        lambda d: torch.arange(3, device=d),
        lambda d: torch.arange(4, device=d),
    ],
    "large integers": [
        lambda d: torch.full((2,), 2**63 - 1, dtype=torch.uint64, device=d),
        lambda d: torch.full((2,), 2**63, dtype=torch.uint64, device=d),
    ],
    "integers": [
        lambda d: torch.ones(2, 3, device=d).cumsum(0),
        lambda d: torch.ones(2, 3, device=d).sum(0),
    ],
    "booleans": [
        lambda d: torch.ones(2, 3, device=d).sum(0, keepdim=False),
        lambda d: torch.ones(2, 3, device=d).sum(0, keepdim=True),
    ],
    "none": [
        lambda d: torch.ones(2, 3, device=d).cumsum(0, dtype=None),
        lambda d: torch.ones(2, 3, device=d).cumsum(0, dtype=torch.float64),
    ],
    "lists of integers": [
        lambda d: torch.arange(6.0, device=d).view(2, 3).roll([1], [0]),
        lambda d: torch.arange(6.0, device=d).view(2, 3).roll([1, 1], [0, 1]),
    ],
    "lists of tensors": [
        lambda d: torch.block_diag(torch.ones(1, device=d)),
        lambda d: torch.block_diag(torch.ones(1, device=d), torch.ones(1, device=d)),
    ],
    "optional tensors": [
        lambda d: torch.arange(6.0, device=d).view(2, 3)[torch.tensor([1], device=d)],
        lambda d: torch.arange(6.0, device=d).view(2, 3)[:, torch.tensor([1], device=d)],
    ],
    "doubles": [
        lambda d: torch.nn.functional.interpolate(
            torch.ones(1, 1, 4, device=d), scale_factor=1.5, recompute_scale_factor=False
        ),
        lambda d: torch.nn.functional.interpolate(
            torch.ones(1, 1, 4, device=d), scale_factor=2.5, recompute_scale_factor=False
        ),
    ],
    "strings": [
        lambda d: torch.div(torch.arange(-3, 3, device=d), 2, rounding_mode="floor"),
        lambda d: torch.div(torch.arange(-3, 3, device=d), 2, rounding_mode="trunc"),
    ],
    "offset of an output": [out_at(2), out_at(5)],
    "an output that is an argument": [resized("other"), resized("itself")],
    "an output that shares memory": [resized("other"), resized("alias")],
    "an output that overlaps an argument": [overlapping(3), overlapping(1)],
}


@pytest.mark.parametrize("entry", PLANS)
def test_a_plan_is_not_taken_for_a_call_that_differs(device, entry):
    if entry == "large integers" and TORCH < (2, 9):
        pytest.skip(NO_UNSIGNED)
    calls = PLANS[entry]
    expected = [outcome(lambda call=call: call(CPU)) for call in calls]
    for _ in range(2):
        found = [outcome(lambda call=call: call(device)) for call in calls]
        assert found == expected


def test_a_plan_depends_on_the_default_dtype(device):
    before = torch.get_default_dtype()
    try:
        for dtype in (torch.float32, torch.float64, torch.float32):
            torch.set_default_dtype(dtype)
            assert (torch.ones(2, dtype=torch.int32, device=device) / 2).dtype == dtype
            assert (
                torch._foreach_sqrt([torch.ones(2, dtype=torch.int32, device=device)])[0].dtype
                == dtype
            )
    finally:
        torch.set_default_dtype(before)


def test_an_output_that_aliases_the_input_is_resized_alone(device):
    def total(where: torch.device, alias: Callable[[torch.Tensor], torch.Tensor]) -> torch.Tensor:
        x = torch.arange(1.0, 25.0, device=where)
        return torch.sum(alias(x), 0, out=x)

    for alias in (lambda x: x.detach(), lambda x: x[:], lambda x: x.view_as(x), lambda x: x):
        found = outcome(lambda alias=alias: total(device, alias))
        assert found == outcome(lambda alias=alias: total(CPU, alias))
    assert (
        total(device, torch.Tensor.detach).item() == 299
    )  # the output's first element is zero before the sum begins


def part(x: torch.Tensor) -> torch.Tensor:
    """Elements 2 to 5 through a slice of the storage."""
    return torch.empty(0, dtype=x.dtype, device=x.device).set_(
        x.untyped_storage()[8:24], 0, (4,), (1,)
    )


PARTS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "a slice of the storage": part,
    "DLPack": lambda x: from_dlpack(to_dlpack(x[2:6])),
    "DLPack of a part": lambda x: from_dlpack(to_dlpack(part(x))),
    "torch.from_dlpack": lambda x: torch.from_dlpack(x[2:6]),
    "a DLPack capsule": lambda x: torch.asarray(to_dlpack(x[2:6]), copy=False),
}


@pytest.mark.parametrize("way", PARTS)
def test_a_part_of_a_storage_is_the_same_memory(device, way):
    x = torch.arange(0.0, 8.0, device=device)
    z = PARTS[way](x)
    assert z.tolist() == [2, 3, 4, 5]
    assert z.data_ptr() == x.data_ptr() + 8
    assert remora.storage_id(z) == remora.storage_id(x)
    assert (z + 1).tolist() == [3, 4, 5, 6]
    assert torch.cat([z, x, z]).sum().item() == 2 * 14 + 28
    z[0] = 50.0
    z[1:3].mul_(10)
    torch._foreach_add_([z[3:]], 1)
    torch.neg(x[7], out=z[2])
    assert x.tolist() == [0, 1, 50, 30, -7, 6, 6, 7]
    x.fill_(9)
    assert z.cpu().tolist() == [9] * 4
    assert "9., 9." in repr(z)
    assert z.clone().tolist() == [9] * 4
    z.copy_(torch.arange(4.0))
    assert x.tolist() == [9, 9, 0, 1, 2, 3, 9, 9]
    torch.ones(4).copy_(z)
    assert z.to("cpu", torch.int64).tolist() == [0, 1, 2, 3]


def test_a_part_of_a_storage_that_was_never_used(device):
    x = torch.empty(8, device=device)
    part(x).fill_(1.0)
    x[0:2].fill_(2.0)
    assert x[:6].tolist() == [2, 2, 1, 1, 1, 1]


def test_a_part_of_a_storage_does_not_grow(device):
    def grow(where: torch.device, way: Callable[[torch.Tensor], Any]) -> Any:
        x = torch.arange(0.0, 8.0, device=where)
        way(part(x))
        return x

    for way in (
        lambda z: z.resize_(5),
        lambda z: torch.cat([torch.ones(5, device=z.device)], out=z[:0]),
    ):
        found = outcome(lambda way=way: grow(device, way))
        assert found == outcome(lambda way=way: grow(CPU, way))
        assert "resize storage that is not resizable" in found


OF_VALUES: dict[str, Callable[[torch.Tensor, torch.Tensor, torch.Tensor], Any]] = {
    "as large as the part": lambda x, base, z: torch.nonzero(x > 1, out=z.view(2, 1)),
    "smaller": lambda x, base, z: torch.nonzero(x > 2, out=z),
    "empty": lambda x, base, z: torch.nonzero(x > 3, out=z),
    "larger": lambda x, base, z: torch.nonzero(x, out=z),
    "larger, of two dimensions": lambda x, base, z: torch.nonzero(x.view(2, 2), out=z),
    "masked_select": lambda x, base, z: torch.masked_select(x, x > 1, out=z),
    "masked_select, larger": lambda x, base, z: torch.masked_select(x, x > 0, out=z),
    "masked_select of what is around": lambda x, base, z: torch.masked_select(
        base, base > 5, out=z
    ),
    "of itself": lambda x, base, z: torch.masked_select(z, z > 2, out=z),
    "an index of the part": lambda x, base, z: torch.ops.aten.index.Tensor_out(x, [x > 1], out=z),
    "an index, larger": lambda x, base, z: torch.ops.aten.index.Tensor_out(x, [x > 0], out=z),
    "behind an offset": lambda x, base, z: torch.nonzero(x > 2, out=z[1:].view(1, 1)),
    "behind an offset, larger": lambda x, base, z: torch.nonzero(x > 1, out=z[1:].view(1, 1)),
}


@pytest.mark.parametrize("name", OF_VALUES)
@pytest.mark.filterwarnings("ignore:An output with one or more elements was resized")
def test_a_result_of_which_values_decide_the_size_fits_in_a_part_or_changes_nothing(device, name):
    def found(where: torch.device) -> Any:
        base = torch.arange(8, device=where)
        z = torch.empty(0, dtype=base.dtype, device=where)
        z.set_(base.untyped_storage()[16:32], 0, (2,), (1,))
        x = torch.tensor([0, 1, 2, 3], device=where)
        written = outcome(lambda: OF_VALUES[name](x, base, z))
        # After an error the CPU leaves the part with a shape that is larger than its memory.
        if isinstance(written, str):
            return written, base.tolist()
        return written, z.shape, z.stride(), z.tolist(), base.tolist()

    expected = found(CPU)
    for _ in range(2):
        assert found(device) == expected


def test_copies_through_dlpack(device):
    x = torch.arange(0.0, 8.0, device=device)
    z = torch.asarray(to_dlpack(x), copy=True)
    z[0] = 5.0
    assert (x[0].item(), z[0].item()) == (0, 5)


def test_memory_that_no_machine_has_is_refused_at_each_use(device):
    x = torch.arange(0.0, 8.0, device=device)
    moved = part(x)
    x.resize_(100_000)  # its memory is at another address now, as on the CPU
    odd = torch.empty(0, device=device).set_(x.untyped_storage()[2:10], 0, (2,), (1,))

    def assign(z: torch.Tensor) -> None:
        z[0] = 5.0

    uses: list[Callable[[torch.Tensor], Any]] = [
        lambda z: z + 1,
        lambda z: torch.cat([x, z]),
        lambda z: torch._foreach_add([z], 1),
        lambda z: x.index_put_((torch.zeros(2, dtype=torch.int64, device=device),), z[:2]),
        lambda z: x[0:2].copy_(z[:2]),
        lambda z: z.copy_(torch.zeros_like(z, device="cpu")),
        lambda z: torch.zeros(z.shape).copy_(z),
        assign,
        torch.Tensor.tolist,
        torch.Tensor.cpu,
        repr,
        lambda z: z.sum().item(),
        lambda z: z[0].item(),
        lambda z: z.fill_(1),
        remora.storage_id,
    ]
    for use in uses:
        for z in (moved, odd):
            with pytest.raises((RuntimeError, ValueError)):
                use(z)
    assert x[:8].tolist() == list(range(8))


def test_addresses_are_of_one_tensor_each(device):
    tensors = [torch.empty(size, device=device) for size in (1, 0, 2, 1000, 1) for _ in range(50)]
    tensors += [torch.empty(2**44, device=device) for _ in range(3)]
    places = sorted((t.untyped_storage().data_ptr(), t.untyped_storage().nbytes()) for t in tensors)
    for (first, size), (second, _) in itertools.pairwise(places):
        assert first + size < second
    x = torch.zeros(4, 4, device=device)
    assert x[1, 2].data_ptr() - x.data_ptr() == 24
    assert x.detach().data_ptr() == x.view(torch.int32).data_ptr() == x.data_ptr()
    assert x.t()[1].data_ptr() - x.data_ptr() == 4


def test_a_storage_that_grows_has_room(device):
    x, y = torch.zeros(1, device=device), torch.ones(1, device=device)
    for size in (2, 100, 1000, 100_000):
        x.resize_(size)
        begin = x.data_ptr()
        assert not begin <= y.data_ptr() < begin + 4 * size
        assert x[-1].data_ptr() == begin + 4 * (size - 1)
    torch.arange(200_000.0, device=device, out=x)
    assert not x.data_ptr() <= y.data_ptr() < x[-1].data_ptr()
    assert (x[-1].item(), y.item()) == (199_999, 1)


def test_addresses_are_found_again_when_all_have_been_used(device):
    kept = torch.ones(3, device=device)
    for _ in range(2**17):
        torch.empty(2**46, dtype=torch.uint8, device=device)
    assert [torch.zeros(2, device=device).data_ptr() == kept.data_ptr() for _ in range(3)] == [
        False
    ] * 3
    assert kept.tolist() == [1, 1, 1]


@pytest.mark.parametrize("target", [(3,), (2, 3), (0,), ()])
@pytest.mark.parametrize("source", [(0,), (2,), (3,), (2, 3), (1,), ()])
@pytest.mark.parametrize("sides", ["up", "down", "there"])
def test_copies_between_sizes_are_those_of_the_cpu(device, target, source, sides):
    there = (device if sides != "down" else CPU, device if sides != "up" else CPU)

    def copy(to: torch.device, of: torch.device) -> Any:
        values = torch.arange(float(torch.Size(source).numel())).reshape(source)
        return torch.ones(target, device=to).copy_(values.to(of))

    assert outcome(lambda: copy(*there)) == outcome(lambda: copy(CPU, CPU))


def test_no_copy_goes_into_memory_that_overlaps_itself(device):
    for target, source in ((CPU, device), (device, CPU), (device, device), (CPU, CPU)):
        with pytest.raises(RuntimeError, match="more than one element of the written-to tensor"):
            torch.ones(1, device=target).expand(3).copy_(torch.zeros(3, device=source))


def test_set_is_as_on_the_cpu(machine, device):
    calls: list[Callable[[torch.Tensor, torch.Tensor], Any]] = [
        lambda x, y: x.set_(y.untyped_storage(), 4, (2,), (1,)),
        lambda x, y: x.set_(y.untyped_storage(), -1, (2,), (1,)),
        lambda x, y: x.set_(y.untyped_storage(), 0, (2, 2), (1,)),
        lambda x, y: x.set_(y),
        lambda x, y: x.set_(y.long()),
        lambda x, y: y[1:5].view(2, 2).t().set_(y.untyped_storage(), 2, (2, 2)),
    ]
    if TORCH >= (2, 7):  # older ones let the CPU's storage grow, with undefined values
        calls.append(lambda x, y: x.set_(y.untyped_storage(), 5, (2,), (1,)))
    for call in calls:
        found = outcome(
            lambda call=call: call(torch.zeros(2, device=device), torch.arange(6.0, device=device))
        )
        assert found == outcome(lambda call=call: call(torch.zeros(2), torch.arange(6.0)))
    with pytest.raises(RuntimeError, match="the devices must match"):
        torch.zeros(2, device=device).set_(torch.zeros(2, device=machine.device("cuda:1")))
    with pytest.raises(RuntimeError, match="the devices must match"):
        torch.zeros(2, device=device).set_(torch.zeros(2).untyped_storage())


@pytest.mark.skipif(TORCH < (2, 9), reason=NO_UNSIGNED)
def test_unsigned_numbers_above_the_largest_signed_one(device):
    for where in (device, CPU):
        t = torch.full((2,), 2**64 - 1, dtype=torch.uint64, device=where)
        assert t.tolist() == [2**64 - 1] * 2
        assert (t == 2**64 - 1).tolist() == [True] * 2
        assert t.fill_(2**63).tolist() == [2**63] * 2
