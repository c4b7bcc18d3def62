# SPDX-License-Identifier: AGPL-3.0-or-later
"""PyTorch's operator database (OpInfo) on a remote device, compared with the CPU."""

from __future__ import annotations

import warnings

import databases
import pytest
import torch

import remora

warnings.filterwarnings("ignore")
pytest.importorskip("expecttest")
from torch.testing._internal.common_methods_invocations import op_db  # noqa: E402
from torch.testing._internal.opinfo.core import BinaryUfuncInfo  # noqa: E402

# The fast tier tests one in so many operators.
STEP = 12
FAST_SAMPLES = 3
MOST_SAMPLES = 10_000
OTHER_DTYPES = (torch.int64, torch.complex64, torch.bool, torch.bfloat16, torch.float64)
# These take only sparse tensors; their results are strided.
NOT_STRIDED = {"sparse.mm", "sparse.sampled_addmm"}
# Values decide these mistakes: the error is raised when a result is needed.
VALUES_DECIDE = {"gather", "scatter", "scatter_add", "multinomial"}
# For other devices than the CPU, PyTorch's message is different.
OTHER_WORDS = {"narrow_copy", "nn.functional.max_pool1d"}


def name_of(op) -> str:
    return op.name + (f".{op.variant_test_name}" if op.variant_test_name else "")


OPERATORS = [op for op in op_db if op.name not in NOT_STRIDED]
SOME = OPERATORS[::STEP]


def first_dtype(op) -> torch.dtype:
    for dtype in (torch.float32, torch.int64, torch.bool, torch.complex64):
        if op.supports_dtype(dtype, "cpu"):
            return dtype
    pytest.skip("not for the CPU")


def differentiable(op) -> bool:
    return op.supports_autograd and op.supports_dtype(torch.float32, "cpu")


def check(op, device: torch.device, dtype: torch.dtype, backward: bool, most: int) -> None:
    what = ("backward, " if backward else "forward, ") + str(dtype).removeprefix("torch.")
    databases.note(
        what, name_of(op), lambda: databases.run_operator(op, device, dtype, backward, most)
    )


WITH_MISTAKES = [
    op for op in OPERATORS if op.error_inputs_func is not None and op.name not in OTHER_WORDS
]

BINARY = [
    op
    for op in OPERATORS
    if isinstance(op, BinaryUfuncInfo) and not op.name.startswith("jiterator")
]


@pytest.mark.fast
@pytest.mark.parametrize("op", SOME, ids=name_of)
def test_some_operators(device, op):
    check(op, device, first_dtype(op), False, FAST_SAMPLES)
    if differentiable(op):
        check(op, device, torch.float32, True, FAST_SAMPLES)


@pytest.mark.parametrize("op", BINARY, ids=name_of)
def test_operands_on_two_devices_are_refused_with_the_fix(device, op):
    dtype = first_dtype(op)
    for sample in op.sample_inputs("cpu", dtype):
        other = sample.args[0]
        if (
            min(sample.input.numel(), other.numel()) == 0
            or min(sample.input.dim(), other.dim()) == 0
        ):
            continue
        for place, input, argument in [
            ("input", sample.input.to(device), other),
            ("other", sample.input, other.to(device)),
        ]:
            with pytest.raises(remora.CrossMachineException, match=r"tensor\.to\("):
                op.op(input, argument, *sample.args[1:], **sample.kwargs)
                pytest.fail(f"{place} alone on {device} was taken")
        return


@pytest.mark.full
@pytest.mark.parametrize("op", OPERATORS, ids=name_of)
def test_every_operator_forward(device, op):
    check(op, device, first_dtype(op), False, MOST_SAMPLES)


@pytest.mark.full
@pytest.mark.parametrize("op", filter(differentiable, OPERATORS), ids=name_of)
def test_every_operator_backward(device, op):
    check(op, device, torch.float32, True, MOST_SAMPLES)


@pytest.mark.full
@pytest.mark.parametrize("op", WITH_MISTAKES, ids=name_of)
def test_every_mistake(machine, device, op):
    databases.note(
        "mistakes",
        name_of(op),
        lambda: databases.compare_errors(op, device, machine.synchronize, VALUES_DECIDE),
    )


@pytest.mark.full
@pytest.mark.parametrize("dtype", OTHER_DTYPES, ids=str)
def test_other_dtypes_sampled(device, dtype):
    failed = []
    for number, op in enumerate(OPERATORS):
        if number % 3 != OTHER_DTYPES.index(dtype) % 3 or not op.supports_dtype(dtype, "cpu"):
            continue
        try:
            check(op, device, dtype, False, FAST_SAMPLES)
        except pytest.skip.Exception:
            continue
        except Exception as e:
            failed.append(f"{name_of(op)}: {str(e)[:200]}")
    assert not failed, "\n".join(failed)
