# SPDX-License-Identifier: AGPL-3.0-or-later
"""Where a program has waited for a machine."""

from __future__ import annotations

from dataclasses import dataclass

_HINDRANCES = ("paused", "reconnecting", "recovering")


@dataclass(frozen=True)
class Wait:
    """How often and how long this process has waited for a machine, for one cause, at one of its lines.

    Each wait of a millisecond or more is looked at. Of the shorter ones only a sample is, so their counts and
    times are estimates for each line. The sums over all lines are exact.
    """

    cause: str
    """Why: ``"value"``, ``"shape"`` (it depends on values), ``"metadata"`` (only the node could tell it),
    ``"room"`` (to send more), ``"question"`` (``synchronize()``, memory figures, functions); or what the
    machine did meanwhile: ``"paused"``, ``"reconnecting"``, ``"recovering"``. Their time counts for no other
    cause."""
    subject: str
    """What for: ``"item()"``, ``"a copy to the CPU"``, an operator such as ``"aten::nonzero"``, …"""
    line: str
    """The program's line, ``"train.py:88 in step"`` with the file's path; empty if a thread of PyTorch waited."""
    count: int
    """How often."""
    seconds: float
    """How long in all."""

    @staticmethod
    def _parse(line: str) -> Wait:
        """Reads a line of ``remora_machine_waits``."""
        cause, count, nanos, subject, where = line.split("\t")
        return Wait(cause, subject, where, int(count), int(nanos) / 1e9)

    def __str__(self) -> str:
        """Returns such as ``item() 940 times, 0.80 s, train.py:88 in step``."""
        why = f" while the machine was {self.cause}" if self.cause in _HINDRANCES else ""
        times = "once" if self.count == 1 else f"{self.count} times"
        where = f", {self.line}" if self.line else ""
        return f"{self.subject}{why} {times}, {self.seconds:.2f} s{where}"
