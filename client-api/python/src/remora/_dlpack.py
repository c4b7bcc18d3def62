# SPDX-License-Identifier: AGPL-3.0-or-later
"""``torch.from_dlpack`` and every caller of a tensor's ``__dlpack_device__``.

PyTorch's method recognizes a custom device only by the name ``privateuse1`` and refuses the device's
registered name. PyTorch itself can export the tensors.
"""

from __future__ import annotations

import enum
from typing import Any

import torch
from torch.overrides import has_torch_function_unary
from torch.utils.dlpack import DLDeviceType


def install() -> None:
    """Replaces PyTorch's method."""
    kind: Any = torch.Tensor
    device_of = kind.__dlpack_device__

    def __dlpack_device__(self: torch.Tensor) -> tuple[enum.IntEnum, int]:  # noqa: N807
        if self.device.type != "remora" or has_torch_function_unary(self):
            return device_of(self)  # type: ignore[no-any-return]
        return DLDeviceType.kDLExtDev, self.device.index

    kind.__dlpack_device__ = __dlpack_device__
