# SPDX-License-Identifier: AGPL-3.0-or-later
"""What versions of PyTorch before 2.10 lack for a device of another's making."""

from __future__ import annotations

from typing import Any

import torch

_AUTOGRAD = "AutogradPrivateUse1"
_kept: list[Any] = []


def install() -> None:
    """Adds it where it is missing."""
    dispatcher: Any = torch._C
    if not dispatcher._dispatch_has_backend_fallback(dispatcher._parse_dispatch_key(_AUTOGRAD)):
        # An operator that PyTorch derives from others, and that the device has a kernel of its own for,
        # would have none above it.
        library: Any = torch.library.Library("_", "IMPL")
        library.fallback(torch.library.fallthrough_kernel, _AUTOGRAD)
        _kept.append(library)
    if tuple(map(int, torch.__version__.split(".")[:2])) < (2, 7):
        _count_devices_of_machines()


def _count_devices_of_machines() -> None:
    """Torch 2.6 asks how many devices there may be, not how many there are."""
    accelerator: Any = torch.accelerator
    possible = accelerator.device_count

    def device_count() -> int:
        """The number of devices of the accelerator."""
        ours = accelerator.current_accelerator().type == "remora"
        return int(torch.remora.device_count() if ours else possible())  # type: ignore[attr-defined]

    accelerator.device_count = device_count
