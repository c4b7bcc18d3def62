# SPDX-License-Identifier: AGPL-3.0-or-later
"""What a program needs of a machine, and the GPUs on which it would fit: ``RemoteMachine.estimate``."""

from __future__ import annotations

import functools
import json
import pathlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Fit:
    """A kind of GPU for each of a machine's devices.

    Attributes:
        gpu: the kind, one of :data:`remora.GPU_TYPES`.
        memory: its bytes, 10⁹ for each gigabyte that the maker names.
        dollars_per_hour: the price of one, in US dollars; the table that :class:`Estimate` prints has its source.
        fits: ``"yes"`` if the tensors of the device with the most take at most nine tenths of the memory, ``"tight"``
            if they take more than that, ``"no"`` if they take more than there is.

    """

    gpu: str
    memory: int
    dollars_per_hour: float
    fits: str


@dataclass(frozen=True)
class Estimate:
    """What this program has needed of a machine since it was started. ``print`` shows a table.

    Attributes:
        operations: operations recorded.
        batches: batches sent. They depend on timing, and so do their bytes, a little.
        sent_bytes: bytes of the batches, uploaded tensors included.
        uploaded_bytes: bytes of tensors that were sent.
        downloaded_bytes: bytes of tensors that were read.
        value_waits: waits for values.
        shape_waits: waits for shapes that depend on values.
        metadata_waits: waits for metadata that only the node could tell.
        room_waits: waits for room to send more.
        peak_bytes: of each device, the most memory that tensors had at one time.
        fits: each kind of GPU that Remora knows.

    """

    operations: int
    batches: int
    sent_bytes: int
    uploaded_bytes: int
    downloaded_bytes: int
    value_waits: int
    shape_waits: int
    metadata_waits: int
    room_waits: int
    peak_bytes: tuple[int, ...]
    fits: tuple[Fit, ...]

    def __str__(self) -> str:
        rows = [
            ("operations", self.operations),
            ("batches", self.batches),
            ("bytes to the machine", self.sent_bytes),
            ("  of which tensors", self.uploaded_bytes),
            ("bytes read from it", self.downloaded_bytes),
        ]
        for number, peak in enumerate(self.peak_bytes):
            of = "" if len(self.peak_bytes) == 1 else f" of device {number}"
            rows.append((f"peak memory{of}", peak))
        rows += [
            ("waits for values", self.value_waits),
            ("  for shapes", self.shape_waits),
            ("  for metadata", self.metadata_waits),
            ("  for room", self.room_waits),
        ]
        lines = [f"{name:<24} {value:15,d}" for name, value in rows]
        lines += ["", "GPU          memory   $/hour   fits"]
        lines += [
            f"{fit.gpu:<10} {fit.memory // 10**9:5d} GB {fit.dollars_per_hour:8.2f}   {fit.fits}"
            for fit in self.fits
        ]
        table = _table()
        lines.append(f"Prices of one GPU: {table['source']}, {table['recorded']}")
        return "\n".join(lines)


def estimate(statistics: Mapping[str, int], peaks: Sequence[int]) -> Estimate:
    most = max(peaks, default=0)
    return Estimate(
        operations=statistics["operations"],
        batches=statistics["batches"],
        sent_bytes=statistics["batch_bytes"],
        uploaded_bytes=statistics["uploaded_bytes"],
        downloaded_bytes=statistics["downloaded_bytes"],
        value_waits=statistics["value_waits"],
        shape_waits=statistics["shape_waits"],
        metadata_waits=statistics["metadata_waits"],
        room_waits=statistics["room_waits"],
        peak_bytes=tuple(peaks),
        fits=tuple(
            _fit(gpu["name"], gpu["memory-gb"] * 10**9, gpu["dollars-per-hour"], most)
            for gpu in _table()["gpus"]
        ),
    )


def _fit(gpu: str, memory: int, price: float, needed: int) -> Fit:
    room = "no" if needed > memory else "tight" if needed > memory // 10 * 9 else "yes"
    return Fit(gpu, memory, price, room)


@functools.cache
def _table() -> dict[str, Any]:
    file = pathlib.Path(__file__).with_name("gpus.json")
    table: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    return table
