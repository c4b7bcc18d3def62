# SPDX-License-Identifier: AGPL-3.0-or-later
"""Timelines of machines."""

from __future__ import annotations

import os
from pathlib import Path
from types import TracebackType

from ._native import core

_LONGEST_WAIT = 10.0


class Trace:
    """A timeline of a machine that is being written to a file; :meth:`RemoteMachine.trace` starts one.

    It is written about each second, so a program that is killed leaves what it has done until then. As a
    context manager it is stopped at the end. All methods may be called from any thread.
    """

    def __init__(self, handle: int, file: str | os.PathLike[str]) -> None:
        """Starts the timeline of the core's machine.

        Raises:
            MachineStateException: the machine is traced already, or has stopped.
            RemoraException: the file cannot be created.

        """
        name = core.machine_timeline_start(handle, os.fsencode(file))
        if name is None:
            raise core.error()
        self._handle = handle
        self._stopped = False
        self.file = Path(os.fsdecode(name))
        """The file: the name that was given, or with a number if there was such a file."""

    def stop(self, wait: float = _LONGEST_WAIT) -> None:
        """Sends what is recorded, waits until the node has executed it, and completes the file.

        A second call does nothing. Stopping the machine completes the file too.

        Args:
            wait: how many seconds to wait at most; 0 sends nothing.

        Raises:
            RemoraException: not all of the file could be written.

        """
        if not self._stopped:
            self._stopped = True
            core.check(core.machine_timeline_stop(self._handle, int(wait * 1000)))

    def __enter__(self) -> Trace:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stop()
