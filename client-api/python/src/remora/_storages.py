# SPDX-License-Identifier: AGPL-3.0-or-later
"""Writing and reading storages: what ``pickle`` and the older format of ``torch.save`` do.

PyTorch makes a tensor over a storage's address to copy it through. A remote storage has no address, so
it goes through a CPU storage here.
"""

from __future__ import annotations

from typing import Any

import torch


def install() -> None:
    """Puts itself before PyTorch's methods."""
    kind: Any = torch.UntypedStorage
    write_file, set_from_file = kind._write_file, kind._set_from_file

    def _write_file(self: torch.UntypedStorage, *arguments: Any) -> Any:
        source = self.cpu() if self.device.type == "remora" else self
        return write_file(source, *arguments)

    def _set_from_file(self: torch.UntypedStorage, *arguments: Any) -> Any:
        if self.device.type != "remora":
            return set_from_file(self, *arguments)
        return self.copy_(set_from_file(torch.UntypedStorage(self.nbytes()), *arguments), False)

    kind._write_file, kind._set_from_file = _write_file, _set_from_file
