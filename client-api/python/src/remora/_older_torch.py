# SPDX-License-Identifier: AGPL-3.0-or-later
"""Additions for custom devices that PyTorch before 2.10 lacks."""

from __future__ import annotations

from typing import Any

import torch

from ._build import minor_version

_AUTOGRAD = "AutogradPrivateUse1"
_kept: list[Any] = []


def install() -> None:
    """Adds them if they are missing."""
    dispatcher: Any = torch._C
    if not dispatcher._dispatch_has_backend_fallback(dispatcher._parse_dispatch_key(_AUTOGRAD)):
        # Without this, an operator that PyTorch composes from others would get no autograd kernel if the
        # device has its own kernel for it.
        library: Any = torch.library.Library("_", "IMPL")
        library.fallback(torch.library.fallthrough_kernel, _AUTOGRAD)
        _kept.append(library)
    if minor_version(torch.__version__) < (2, 8):
        _count_devices_of_machines()


def _count_devices_of_machines() -> None:
    """Corrects torch before 2.8, which asks for the possible number of devices instead of the actual one."""
    accelerator: Any = torch.accelerator
    possible = accelerator.device_count

    def device_count() -> int:
        """Returns the number of devices of the accelerator."""
        ours = accelerator.current_accelerator().type == "remora"
        return int(torch.remora.device_count() if ours else possible())  # type: ignore[attr-defined]

    accelerator.device_count = device_count
