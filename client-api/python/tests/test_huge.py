# SPDX-License-Identifier: AGPL-3.0-or-later
"""Tensors whose sizes in bytes do not fit into a 32-bit integer. Each test needs about 8 GiB of memory."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import remora

pytestmark = pytest.mark.full

TWO_GIBIBYTES = 2**31


def test_a_tensor_of_more_than_two_gibibytes_is_read(device: torch.device) -> None:
    remote = torch.ones(TWO_GIBIBYTES // 4 + 16, device=device)
    remote[-1] = 5
    local = remote.cpu()
    assert local[-1] == 5
    assert local[:-1].min() == 1
    assert local[:-1].max() == 1
    assert remote[:3].sum().item() == 3


def test_bytes_past_two_gibibytes_are_saved_and_loaded(
    machine: remora.RemoteMachine, device: torch.device, tmp_path: Path
) -> None:
    size = TWO_GIBIBYTES + 7
    remote = torch.ones(size, dtype=torch.uint8, device=device)
    remote[-1] = 5
    file = tmp_path / "huge.pt"
    torch.save({"huge": remote}, file)
    loaded = torch.load(file, map_location="cpu", mmap=True)["huge"]
    assert loaded.numel() == size
    assert loaded[-3:].tolist() == [1, 1, 5]
    del loaded
    file.unlink()

    machine.save({"huge": remote}, tmp_path / "huge.safetensors", where="program")
    with (tmp_path / "huge.safetensors").open("rb") as saved:
        saved.seek(-3, 2)
        assert [*saved.read()] == [1, 1, 5]


@pytest.mark.gateway
def test_functions_take_and_return_tensors_of_more_than_two_gibibytes(
    device: torch.device,
) -> None:
    @remora.remote
    def last_two(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return x[-2:].clone(), torch.full_like(x, 3)

    remote = torch.ones(TWO_GIBIBYTES + 7, dtype=torch.uint8, device=device)
    remote[-1] = 5
    ends, made = last_two(remote)
    assert ends.tolist() == [1, 5]
    assert made[-1].item() == 3
