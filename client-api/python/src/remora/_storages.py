# SPDX-License-Identifier: AGPL-3.0-or-later
"""Copies of storages, for ``pickle``, ``copy.deepcopy``, ``torch.save`` and ``torch.load``.

PyTorch copies through a tensor over a storage's address, or holds the interpreter lock while it waits
for a device. A remote storage has no address, and its values arrive through the interpreter. So this
module copies through tensors instead.
"""

from __future__ import annotations

from typing import Any

import torch


def _bytes_of(storage: torch.UntypedStorage) -> torch.Tensor:
    """Returns the storage as a tensor of bytes."""
    empty = torch.empty(0, dtype=torch.uint8, device=storage.device)
    with torch.no_grad():
        return empty.set_(storage)


def install() -> None:
    """Replaces PyTorch's methods."""
    kind: Any = torch.UntypedStorage
    copy, write_file, set_from_file = kind.copy_, kind._write_file, kind._set_from_file

    def copy_(
        self: torch.UntypedStorage, source: torch.UntypedStorage, non_blocking: bool | None = None
    ) -> torch.UntypedStorage:
        source = getattr(source, "_untyped_storage", source)
        if "remora" not in (self.device.type, source.device.type):
            return copy(self, source, non_blocking)  # type: ignore[no-any-return]
        with torch.no_grad():
            _bytes_of(self).copy_(_bytes_of(source))
        return self

    def _write_file(self: torch.UntypedStorage, *arguments: Any) -> Any:
        source = kind.cpu(self) if self.device.type == "remora" else self
        return write_file(source, *arguments)

    def _set_from_file(self: torch.UntypedStorage, *arguments: Any) -> Any:
        if self.device.type != "remora":
            return set_from_file(self, *arguments)
        return self.copy_(set_from_file(kind(self.nbytes()), *arguments), False)

    kind.copy_, kind._write_file, kind._set_from_file = copy_, _write_file, _set_from_file
