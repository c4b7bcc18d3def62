# SPDX-License-Identifier: AGPL-3.0-or-later
"""Pauses between attempts."""

from __future__ import annotations

import math
import time


class GrowingPause:
    """A pause that is twice as long each time, in seconds, up to a longest one. For one thread."""

    def __init__(self, first: float, longest: float) -> None:
        self._first = self._next = first
        self._longest = longest

    def sleep(self, most: float = math.inf) -> None:
        """Pauses, but for at most this many seconds."""
        time.sleep(min(self._next, max(most, 0)))
        self._next = min(2 * self._next, self._longest)

    def reset(self) -> None:
        """Makes the next pause as short as the first one."""
        self._next = self._first
