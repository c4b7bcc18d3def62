# SPDX-License-Identifier: AGPL-3.0-or-later
"""``torch.remora.FloatTensor``, ``torch.remora.FloatStorage`` and so on, like those of ``torch.cuda``.

PyTorch's older interface names a tensor's device and dtype by a type: ``x.type()``, ``x.storage_type()``,
``isinstance(x, torch.cuda.FloatTensor)``.
"""

from __future__ import annotations

from types import ModuleType
from typing import Any

import torch
from torch.storage import _dtype_to_storage_type_map, _LegacyStorage

_TENSORS = {
    "BFloat16Tensor": torch.bfloat16,
    "BoolTensor": torch.bool,
    "ByteTensor": torch.uint8,
    "CharTensor": torch.int8,
    "DoubleTensor": torch.float64,
    "FloatTensor": torch.float32,
    "HalfTensor": torch.float16,
    "IntTensor": torch.int32,
    "LongTensor": torch.int64,
    "ShortTensor": torch.int16,
}


class _TensorType(type):
    """The type of tensor types, which have no instances of their own."""

    dtype: torch.dtype

    def __call__(cls, *args: Any, **kwargs: Any) -> torch.Tensor:
        """Makes a tensor of a size or with a sequence's values, on the current device."""
        made = getattr(torch, cls.__name__.rpartition(".")[2])(*args, **kwargs)
        return torch.empty_like(made, device="remora").copy_(made)

    def __instancecheck__(cls, instance: Any) -> bool:
        return (
            isinstance(instance, torch.Tensor)
            and instance.device.type == "remora"
            and instance.dtype == cls.dtype
        )


def install(module: ModuleType) -> None:
    """Adds the types to ``torch.remora``."""
    for name, dtype in _TENSORS.items():
        # tensor.type(…) takes the type's full name as the target.
        made = _TensorType(
            f"torch.remora.{name}", (), {"dtype": dtype, "__module__": "torch.remora"}
        )
        setattr(module, name, made)
    for dtype, name in _dtype_to_storage_type_map().items():
        if not name.startswith("Q"):  # skips quantized dtypes
            members = {"dtype": dtype, "_dtype": dtype, "__module__": "torch.remora"}
            setattr(module, name, type(name, (_LegacyStorage,), members))
