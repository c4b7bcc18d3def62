# SPDX-License-Identifier: AGPL-3.0-or-later
"""Printing a remote tensor reads it once.

PyTorch formats a tensor element by element, each a read of its own on a device. Here the elements that
will be shown are gathered on the device and read together; the text is the same.
"""

from __future__ import annotations

import threading
from typing import Any

import torch

_lock = threading.RLock()


def _shown(tensor: torch.Tensor, edge: int) -> torch.Tensor:
    """The part of a summarised tensor that is printed: each long dimension's two ends.

    One element more than the ends is kept of each, so that the formatter sees there is something between.
    """
    for dimension, size in enumerate(tensor.shape):
        if size > 2 * edge + 1:
            head = tensor.narrow(dimension, 0, edge + 1)
            tail = tensor.narrow(dimension, size - edge, edge)
            tensor = torch.cat((head, tail), dimension)
    return tensor


def install() -> None:
    """Puts itself before PyTorch's formatting of tensors."""
    module: Any = torch._tensor_str
    original = module._tensor_str

    def _tensor_str(self: torch.Tensor, indent: int) -> str:
        if self.device.type != "remora":
            text: str = original(self, indent)
            return text
        tensor = self.detach()
        options = module.PRINT_OPTS
        if tensor.numel() <= options.threshold:
            return str(original(tensor.cpu(), indent))
        small = _shown(tensor, options.edgeitems).cpu()
        with _lock:
            threshold = options.threshold
            options.threshold = -1  # it is a summary, although it is small now
            try:
                return str(original(small, indent))
            finally:
                options.threshold = threshold

    module._tensor_str = _tensor_str
