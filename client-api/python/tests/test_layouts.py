# SPDX-License-Identifier: AGPL-3.0-or-later
"""Strides, names and layouts of results are the same as on the CPU."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from databases import TORCH, first_line, raised
from torch import Tensor

CPU = torch.device("cpu")
DTYPES = [torch.float32, torch.float64, torch.float16, torch.int32, torch.int64, torch.uint8]

# ---------------------------------------------------------------- strides

BINARY: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "add": torch.add,
    "sub": torch.sub,
    "mul": torch.mul,
    "div": torch.div,
    "div by rounding": lambda a, b: torch.div(a, b, rounding_mode="floor"),
    "remainder": torch.remainder,
    "fmod": torch.fmod,
    "pow": torch.pow,
    "atan2": torch.atan2,
    "copysign": torch.copysign,
    "xlogy": torch.xlogy,
    "maximum": torch.maximum,
    "fmin": torch.fmin,
    "clamp": lambda a, b: torch.clamp(a, min=b),
    "eq": torch.eq,
    "lt": torch.lt,
    "floor_divide": torch.floor_divide,
    "logical_and": torch.logical_and,
    "where": lambda a, b: torch.where(a > b, a, b),
    "addcmul": lambda a, b: torch.addcmul(a, a, b),
    "zeta": torch.special.zeta,
    "in place": lambda a, b: torch.ones(a.shape, dtype=torch.float64, device=a.device).mul_(a + b),
}


def operand(draw: random.Random, shape: list[int]) -> Callable[[torch.device], Tensor]:
    """Makes a tensor of the shape: permuted in memory, with gaps, broadcast, or none of these."""
    dtype = draw.choice(DTYPES)
    order = draw.sample(range(len(shape)), len(shape))
    sizes = [1 if draw.random() < 0.25 else size for size in shape]
    steps = [draw.choice([1, 1, 1, 2]) for _ in shape]
    expands = draw.random() < 0.6

    def make(device: torch.device) -> Tensor:
        memory = torch.Size(sizes[i] * steps[i] for i in order)
        values = torch.arange(memory.numel()).remainder(7).add(1).to(dtype).to(device)
        laid_out = values.view(memory).permute([order.index(i) for i in range(len(order))])
        part = laid_out[tuple(slice(None, None, step) for step in steps)]
        return part.expand(shape) if expands else part

    return make


def outcome(call: Callable[[Tensor, Tensor], Tensor], a: Tensor, b: Tensor) -> Any:
    try:
        result = call(a, b)
        bits = result.cpu().contiguous().numpy().tobytes()
    except RuntimeError as error:
        return first_line(error)
    return result.dtype, result.shape, result.stride(), bits


@pytest.mark.parametrize("name", BINARY)
def test_operands_of_any_layout_and_dtype_give_strides_and_bits_of_the_cpu(device, name):
    draw = random.Random(name)
    for _ in range(60):
        shape = [draw.choice([1, 2, 3, 4]) for _ in range(draw.choice([2, 2, 3, 4]))]
        a, b = operand(draw, shape), operand(draw, shape)
        call = BINARY[name]
        found = outcome(call, a(device), b(device))
        expected = outcome(call, a(CPU), b(CPU))
        assert found == expected, (shape, a(CPU).stride(), a(CPU).dtype, b(CPU).stride())


def test_an_operand_that_is_converted_is_laid_out_first(device):
    first = torch.ones(4, device=device).expand(3, 4)
    second = torch.ones(4, 3, dtype=torch.float64, device=device).t()
    assert (first + second).stride() == (4, 1)


def test_attention_takes_a_mask_of_any_strides(device):
    torch.manual_seed(0)
    q = torch.randn(2, 2, 5, 8)
    mask = torch.randn(2, 1, 7, 5)
    k = torch.randn(2, 2, 7, 8)
    masks: list[Callable[[Tensor], Tensor]] = [
        lambda m: m.transpose(2, 3),
        lambda m: m.transpose(2, 3) > 0,
        lambda m: m[:, :, :1].transpose(2, 3).expand(2, 1, 5, 7),
    ]
    for seen in masks:
        expected = F.scaled_dot_product_attention(q, k, k, attn_mask=seen(mask))
        there = [each.to(device) for each in (q, k, mask)]
        found = F.scaled_dot_product_attention(*there[:2], there[1], attn_mask=seen(there[2]))
        assert torch.equal(found.cpu(), expected)


FOURIER = [
    torch.fft.fft,
    torch.fft.ifft,
    torch.fft.rfft,
    torch.fft.irfft,
    torch.fft.hfft,
    torch.fft.fft2,
]


@pytest.mark.parametrize("transform", FOURIER, ids=lambda f: f.__name__)
def test_gradients_of_transforms_of_transposed_tensors_have_the_strides_of_the_cpu(
    device, transform
):
    def found(where: torch.device, order: tuple[int, ...]) -> Any:
        x = torch.arange(192.0).sin().view(4, 6, 8).to(where).permute(order).requires_grad_()
        result = transform(x)
        (gradient,) = torch.autograd.grad(result, x, torch.ones_like(result) * 0.5)
        return result.stride(), gradient.stride(), gradient.cpu().tolist()

    for order in ((0, 2, 1), (2, 0, 1), (0, 1, 2)):
        assert found(device, order) == found(CPU, order)


@pytest.mark.parametrize("affine", [True, False], ids=["affine", "plain"])
@pytest.mark.parametrize("dims", [2, 3])
def test_gradients_of_group_norm_have_the_layout_of_the_cpu(device, dims, affine):
    memory = torch.channels_last if dims == 2 else torch.channels_last_3d
    values = torch.arange(2 * 6 * 5**dims).sin().view(2, 6, *[5] * dims)

    def found(where: torch.device, layout: torch.memory_format) -> Any:
        layer = torch.nn.GroupNorm(3, 6, affine=affine).to(where)
        x = values.to(where).contiguous(memory_format=layout).requires_grad_()
        y = layer(x)
        (y * y.detach().cos()).sum().backward()
        gradients = [x.grad, *(p.grad for p in layer.parameters())]
        return y.stride(), [(g.stride(), g.cpu().tolist()) for g in gradients]

    def twice(where: torch.device) -> Any:
        x = values.to(where).contiguous(memory_format=memory).requires_grad_()
        y = torch.nn.functional.group_norm(x, 3)
        (first,) = torch.autograd.grad((y**3).sum(), x, create_graph=True)
        (second,) = torch.autograd.grad((first**2).sum(), x)
        return second.stride(), second.cpu().tolist()

    for layout in (memory, torch.contiguous_format):
        assert found(device, layout) == found(CPU, layout)
    assert twice(device) == twice(CPU)


# ---------------------------------------------------------------- names

NAMED: dict[str, Callable[[Tensor], Any]] = {
    "abs": torch.abs,
    "abs_": lambda x: x.clone().abs_(),
    "angle": torch.angle,
    "isinf": torch.isinf,
    "isnan": torch.isnan,
    "logical_not": torch.logical_not,
    "relu": torch.relu,
    "floor_divide": lambda x: torch.floor_divide(x, x),
    "floor_divide by a number": lambda x: torch.floor_divide(x, 2.0),
    "logical_and": lambda x: torch.logical_and(x, x.rename(None)),
    "logical_or": lambda x: torch.logical_or(x[0], x),
    "logical_xor": lambda x: torch.logical_xor(x, x),
    "rsub": lambda x: torch.rsub(x, x),
    "rsub, names that do not fit": lambda x: torch.rsub(x, x.rename("N", "D", "C")),
    "masked_select": lambda x: torch.masked_select(x, x.rename(None) > 3),
    "masked_select, names that do not fit": lambda x: torch.masked_select(
        x, x.rename("N", "D", "C") > 3
    ),
    "masked_select of a vector": lambda x: torch.masked_select(x[0, 0], x[0, 0] > 1),
    "any": lambda x: torch.any(x > 3),
    "all": lambda x: torch.all(x > 3),
    "gaussian_nll_loss": lambda x: F.gaussian_nll_loss(x, x, x + 1),
    "max_pool2d": lambda x: F.max_pool2d(x, 2, return_indices=True),
    "max_pool2d, without indices": lambda x: F.max_pool2d(x, 2),
    "l1_loss": lambda x: F.l1_loss(x, x, reduction="none"),
    "kthvalue": lambda x: x.kthvalue(1, "C"),
    "median": lambda x: x.median("C"),
    "median of all": torch.median,
    "nanmedian": lambda x: x.nanmedian(-1, keepdim=True),
    "mode": lambda x: x.mode(1),
    "std": lambda x: x.std("C"),
    "std of two": lambda x: x.std((0, -1)),
    "std of all": torch.std,
    "std_mean": lambda x: torch.std_mean(x, "N", keepdim=True),
    "var": lambda x: x.var(("N", "C")),
    "var_mean": lambda x: torch.var_mean(x, -1),
    "max_pool1d": lambda x: F.max_pool1d(x, 2),
    "add": lambda x: x + x,
    "sum": lambda x: x.sum("N"),
    "out=": lambda x: torch.abs(x, out=torch.empty(0, device=x.device)),
    "names that do not fit": lambda x: torch.logical_or(x, x.rename("N", "D", "C")),
    "resize_": lambda x: x.resize_(7),
}


def names(value: Any) -> Any:
    return value.names if isinstance(value, Tensor) else [names(each) for each in value]


@pytest.mark.skipif(TORCH >= (2, 14), reason="this torch has no named tensors")
@pytest.mark.filterwarnings("ignore:Named tensors")
@pytest.mark.parametrize("name", NAMED)
def test_dimensions_have_the_names_that_the_cpu_gives(device, name):
    def found(where: torch.device) -> Any:
        x = torch.arange(24.0).view(2, 3, 4).to(where).refine_names("N", "C", "H")
        result: list[Any] = []
        error = raised(lambda: result.append(names(NAMED[name](x))))
        return result or first_line(error)

    expected = found(CPU)
    for _ in range(2):
        assert found(device) == expected


# ---------------------------------------------------------------- layouts


@pytest.mark.filterwarnings("ignore")
def test_jagged_tensors_compute_on_the_device(device):
    def found(where: torch.device) -> list[Tensor]:
        parts = [torch.arange(8.0).view(2, 2, 2), torch.ones(3, 2, 2)]
        x = torch.nested.nested_tensor(parts, device=where, layout=torch.jagged)
        heads = x.transpose(1, 2)
        attended = F.scaled_dot_product_attention(heads, heads, heads).transpose(1, 2)
        return [each.cpu() for each in (*(x * 2 + 1).unbind(), *attended.unbind())]

    for got, expected in zip(found(device), found(CPU), strict=True):
        torch.testing.assert_close(got, expected)


def test_index_fill_takes_an_empty_index_on_the_cpu(device):
    x = torch.arange(3.0, device=device)
    nothing = torch.tensor([], dtype=torch.int64)
    assert x.index_fill(0, nothing, 1.0).tolist() == [0, 1, 2]
    assert x.index_fill_(0, nothing, torch.tensor(5.0, device=device)).tolist() == [0, 1, 2]
    assert x.index_fill(0, torch.tensor([1], device=device), 7.0).tolist() == [0, 7, 2]
