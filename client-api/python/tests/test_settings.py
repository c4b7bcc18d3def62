# SPDX-License-Identifier: AGPL-3.0-or-later
"""PyTorch's settings that change results: they follow the order of the operations, and each program has its own."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import pytest
import torch
import torch.nn.functional as F

pytestmark = pytest.mark.fast


@contextlib.contextmanager
def default_dtype(dtype: torch.dtype) -> Iterator[None]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


@contextlib.contextmanager
def deterministic(fill: bool = True) -> Iterator[None]:
    before = torch.utils.deterministic.fill_uninitialized_memory
    torch.use_deterministic_algorithms(True)
    torch.utils.deterministic.fill_uninitialized_memory = fill
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(False)
        torch.utils.deterministic.fill_uninitialized_memory = before


@pytest.mark.critical
def test_operations_run_under_the_default_dtype_they_were_recorded_under(device):
    whole = torch.arange(4, device=device)
    torch.accelerator.synchronize()  # a machine of this process shares its settings
    with default_dtype(torch.float64):
        wide = whole.sin()
        (listed,) = torch._foreach_sqrt([whole])
        torch.accelerator.synchronize()
    narrow = whole.sin()
    local = torch.arange(4)
    assert torch.equal(narrow.cpu(), local.sin())
    assert torch.equal(wide.cpu(), local.double().sin())
    assert torch.equal(listed.cpu(), local.double().sqrt())
    assert torch.get_default_dtype() == torch.float32


def test_determinism_is_asked_for_where_the_operation_was_recorded(device):
    pooled, indices = F.max_pool2d(torch.randn(1, 1, 4, 4, device=device), 2, return_indices=True)
    allowed = F.max_unpool2d(pooled, indices, 2)
    with deterministic():
        assert allowed.cpu().shape == (1, 1, 4, 4)
    with pytest.raises(RuntimeError, match="does not have a deterministic implementation"):
        with deterministic():
            refused = F.max_unpool2d(pooled, indices, 2)
        refused.cpu()


def test_memory_that_nobody_has_written_is_filled_under_determinism(device):
    with deterministic():
        for dtype in (torch.float32, torch.int16, torch.bool, torch.complex64):
            remote = torch.empty(3, dtype=dtype, device=device).cpu()
            assert torch.equal(remote.isnan(), torch.empty(3, dtype=dtype).isnan())
            if not dtype.is_floating_point and not dtype.is_complex:
                assert torch.equal(remote, torch.empty(3, dtype=dtype))
        grown = torch.ones(2, device=device).resize_(4).cpu()
        assert grown[:2].tolist() == [1, 1]
        assert grown[2:].isnan().all()
    with deterministic(fill=False):
        assert not torch.empty(3, device=device).fill_(1).cpu().isnan().any()


def test_flags_of_onednn_travel_with_the_operations(device):
    data, weight = torch.randn(4, 16, 32, 32), torch.randn(8, 16, 3, 3)
    remote, local = [], []
    for enabled in (True, False, True):
        with torch.backends.mkldnn.flags(enabled=enabled):
            remote.append(F.conv2d(data.to(device), weight.to(device)))
            local.append(F.conv2d(data, weight))
    for ours, theirs in zip(remote, local, strict=True):
        assert torch.equal(ours.cpu(), theirs)
