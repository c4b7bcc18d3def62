# SPDX-License-Identifier: AGPL-3.0-or-later
"""Printing of a remote tensor with a single read.

PyTorch formats a tensor element by element, and each element would be a read of its own. Here the device
gathers the elements to show, and one read fetches them; the text is the same.
"""

from __future__ import annotations

import threading
from typing import Any

import torch

_lock = threading.RLock()


def _shown(tensor: torch.Tensor, edge: int) -> torch.Tensor:
    """Returns the part of a summarised tensor that is printed: both ends of each long dimension.

    It keeps one element more than the ends, so that the formatter sees that elements are left out.
    """
    for dimension, size in enumerate(tensor.shape):
        if size > 2 * edge + 1:
            head = tensor.narrow(dimension, 0, edge + 1)
            tail = tensor.narrow(dimension, size - edge, edge)
            tensor = torch.cat((head, tail), dimension)
    return tensor


def install() -> None:
    """Wraps PyTorch's formatting of tensors."""
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
            options.threshold = -1  # summarise it, although it is small now
            try:
                return str(original(small, indent))
            finally:
                options.threshold = threshold

    module._tensor_str = _tensor_str
