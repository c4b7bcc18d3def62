# SPDX-License-Identifier: AGPL-3.0-or-later
"""``torch.compile``: a clear error where inductor cannot work."""

from __future__ import annotations

from typing import Any

import torch

from .exceptions import RemoraException


def install() -> None:
    """Installs a check in front of inductor, which would fail with a KeyError."""
    wrapper: Any = getattr(torch, "_TorchCompileInductorWrapper", None)
    if wrapper is None:
        return
    original = wrapper.__call__

    def __call__(self: Any, model_: Any, inputs_: Any) -> Any:  # noqa: N807
        if any(isinstance(each, torch.Tensor) and each.device.type == "remora" for each in inputs_):
            raise RemoraException(
                "torch.compile's backend 'inductor' generates code for devices of this computer, not for "
                "a remora device: use torch.compile(…, backend='aot_eager') or backend='eager', or call the "
                "function without torch.compile; operations on a remora device run ahead of the program anyway"
            )
        return original(self, model_, inputs_)

    wrapper.__call__ = __call__
