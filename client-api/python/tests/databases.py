# SPDX-License-Identifier: AGPL-3.0-or-later
"""Runs entries of PyTorch's own test databases on a remote device and on the CPU, and compares."""

from __future__ import annotations

import collections
import math
from collections.abc import Iterator
from typing import Any

import torch
from torch.utils._pytree import tree_flatten, tree_map

from remora._build import minor_version

CPU = torch.device("cpu")
TORCH = minor_version(torch.__version__)

# Arguments do not determine the results of these: only shapes, dtypes and strides are compared.
UNDETERMINED = {
    "empty", "empty_like", "empty_permuted", "empty_strided", "new_empty", "new_empty_strided",
    "resize_", "resize_as_",
}  # fmt: skip

# Kind of comparison -> counts of "passed", "failed", "skipped" and "samples".
table: dict[str, collections.Counter[str]] = collections.defaultdict(collections.Counter)
failures: list[str] = []


class Skipped(Exception):
    """The entry has nothing to compare."""


def on(device: torch.device, value: Any) -> Any:
    """Copies the tensors of a sample to a device."""

    def moved(leaf: Any) -> Any:
        if isinstance(leaf, torch.Tensor):
            return leaf.detach().clone().to(device).requires_grad_(leaf.requires_grad)
        if isinstance(leaf, torch.device) or (isinstance(leaf, str) and leaf == "cpu"):
            return device
        return leaf

    return tree_map(moved, value)


def tensors(value: Any) -> list[torch.Tensor]:
    return [leaf for leaf in tree_flatten(value)[0] if isinstance(leaf, torch.Tensor)]


def compare(expected: Any, got: Any, values: bool = True) -> None:
    wanted, found = tree_flatten(expected)[0], tree_flatten(got)[0]
    assert len(wanted) == len(found), "the number of results"
    for a, b in zip(wanted, found, strict=True):
        if isinstance(a, torch.Tensor):
            assert a.shape == b.shape, f"shape {tuple(b.shape)}, not {tuple(a.shape)}"
            assert a.dtype == b.dtype, f"dtype {b.dtype}, not {a.dtype}"
            if a.layout == torch.strided and a.numel() > 0:
                assert a.stride() == b.stride(), f"strides {b.stride()}, not {a.stride()}"
            if values:
                torch.testing.assert_close(
                    b.detach().cpu().resolve_conj().resolve_neg(),
                    a.detach().cpu().resolve_conj().resolve_neg(),
                    equal_nan=True,
                )
        elif isinstance(a, (bool, int, float, complex)) and values:
            assert a == b or math.isnan(abs(a)), f"{b}, not {a}"


def run_operator(
    op: Any,
    device: torch.device,
    dtype: torch.dtype,
    backward: bool,
    most: int,
    *,
    reference: torch.device = CPU,
) -> int:
    """Compares samples of an OpInfo on a device with those on another; returns their number."""
    try:
        samples: Iterator[Any] = iter(list(op.sample_inputs("cpu", dtype, requires_grad=backward)))
    except Exception as e:
        raise Skipped(f"no samples: {e}") from None
    count = 0
    for sample in samples:
        if count >= most:
            break
        given = (sample.input, sample.args, sample.kwargs)
        if any(each.layout != torch.strided for each in tensors(given)):
            continue
        local, remote = on(reference, given), on(device, given)
        torch.manual_seed(0)
        try:
            expected = op(local[0], *local[1], **local[2])
        except Exception:  # samples that raise errors are not compared
            continue
        if any(each.layout != torch.strided for each in tensors(expected)):
            continue
        torch.manual_seed(0)
        got = op(remote[0], *remote[1], **remote[2])
        compare(expected, got, op.name not in UNDETERMINED)
        if backward:
            try:
                wanted = gradients(expected, local)
            except Exception:  # the CPU cannot differentiate this sum
                continue
            compare(wanted, gradients(got, remote))
        count += 1
    if count == 0:
        raise Skipped("no strided samples")
    return count


def raised(run: Any) -> Exception | None:
    """Returns the exception that a call raises."""
    try:
        run()
    except Exception as e:
        return e
    return None


def compare_errors(op: Any, device: torch.device, synchronize: Any, later: set[str]) -> int:
    """Compares the errors for an OpInfo's mistakes; returns the number of mistakes.

    An error is raised at the call, with PyTorch's class and PyTorch's first line. For the operators in `later`, it
    may be raised when a result is needed, because values decide.
    """
    count = 0
    for mistake in op.error_inputs("cpu"):
        sample = mistake.sample_input
        given = (sample.input, sample.args, sample.kwargs)
        if any(each.device.type == "meta" or each.is_sparse for each in tensors(given)):
            continue
        local, remote = on(CPU, given), on(device, given)
        expected = raised(lambda local=local: op(local[0], *local[1], **local[2]))
        got = raised(lambda remote=remote: op(remote[0], *remote[1], **remote[2]))
        late = raised(synchronize)
        what = f"mistake {count}: {type(expected).__name__}: {first_line(expected)}"
        if op.name in later and got is None:
            got, late = late, None
        assert late is None, f"{what}: came late: {late}"
        assert (got is None) == (expected is None), f"{what}: got {got!r}"
        if expected is not None:
            assert isinstance(got, type(expected)), f"{what}: a {type(got).__name__}"
            assert first_line(got) == first_line(expected), f"{what}: {first_line(got)}"
        count += 1
    if count == 0:
        raise Skipped("no mistakes of strided tensors")
    return count


def first_line(error: Any) -> str:
    return str(error).partition("\n")[0]


def gradients(results: Any, arguments: Any) -> list[torch.Tensor | None]:
    outputs = [each for each in tensors(results) if each.requires_grad]
    if not outputs:
        return []
    sums = [(each * torch.ones_like(each)).sum() for each in outputs]
    loss = sum(each.abs() if each.is_complex() else each for each in sums)
    assert isinstance(loss, torch.Tensor)
    loss.backward()
    return [each.grad for each in tensors(arguments) if each.requires_grad and each.is_leaf]


def note(what: str, name: str, test: Any) -> None:
    """Runs a comparison and counts it; re-raises its error."""
    import pytest

    counts = table[what]
    try:
        counts["samples"] += test() or 1
        counts["passed"] += 1
    except Skipped as e:
        counts["skipped"] += 1
        pytest.skip(str(e))
    except BaseException as e:
        counts["failed"] += 1
        failures.append(f"{what}: {name}: {type(e).__name__}: {str(e).splitlines()[0][:150]}")
        raise


def summary() -> list[str]:
    """Returns the table as lines of Markdown."""
    if not table:
        return []
    lines = [
        "| compared with the CPU | passed | failed | skipped | samples |",
        "|---|---|---|---|---|",
    ]
    for what, counts in sorted(table.items()):
        cells = (counts[key] for key in ("passed", "failed", "skipped", "samples"))
        lines.append(f"| {what} | " + " | ".join(map(str, cells)) + " |")
    return [*lines, *failures]
