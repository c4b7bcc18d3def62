# SPDX-License-Identifier: AGPL-3.0-or-later
"""``torch.from_dlpack`` and all that asks a tensor for its DLPack device.

PyTorch's method knows a device of another's making by the name ``privateuse1`` alone, and refuses the name
that the device has been given. The tensors themselves PyTorch can hand over.
"""

from __future__ import annotations

import enum
from typing import Any

import torch
from torch.overrides import has_torch_function_unary
from torch.utils.dlpack import DLDeviceType


def install() -> None:
    """Puts itself before PyTorch's method."""
    kind: Any = torch.Tensor
    device_of = kind.__dlpack_device__

    def __dlpack_device__(self: torch.Tensor) -> tuple[enum.IntEnum, int]:  # noqa: N807
        if self.device.type != "remora" or has_torch_function_unary(self):
            return device_of(self)  # type: ignore[no-any-return]
        return DLDeviceType.kDLExtDev, self.device.index

    kind.__dlpack_device__ = __dlpack_device__
