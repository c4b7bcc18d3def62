# SPDX-License-Identifier: AGPL-3.0-or-later
"""Values that a program reads without waiting for them at once."""

from __future__ import annotations

import asyncio
import ctypes
import threading
from collections.abc import Generator
from typing import Any

import torch

from ._native import address_of, core
from ._session import Session
from .exceptions import MachineStateException
from .machine import get_all_machines


def _session_of(device: torch.device) -> Session:
    for machine in get_all_machines():
        session = machine._session
        if session is not None and session.has(device):
            return session
    raise MachineStateException(f"no machine is open on {device}")


class Later:
    """The value that a remote tensor had when :func:`later` was called. Thread-safe."""

    def __init__(self, tensor: torch.Tensor) -> None:
        self._lock = threading.Lock()
        self._error: BaseException | None = None
        self._requests: tuple[int, int, int] | None = None
        source = tensor.detach()
        if source.device.type != "remora":
            self._value = source.to("cpu", copy=True)
            return
        session = _session_of(source.device)
        source = source.resolve_conj().resolve_neg().contiguous()
        self._value = torch.empty(source.shape, dtype=source.dtype)
        if source.numel() == 0:
            return
        count = ctypes.c_int64()
        first = core.check(
            core.session_read(
                session.handle, address_of(source), address_of(self._value), ctypes.byref(count)
            )
        )
        self._requests = (session.handle, first, count.value)

    def result(self) -> torch.Tensor:
        """Returns the value as a CPU tensor, the same one at each call; waits until it has arrived.

        Raises:
            RemoteOperationException: the operation that makes the value has failed.
            MachineStateException: the machine was closed, or has failed, before the value arrived.
            ReadTimeoutException: the node finishes nothing for the read timeout.

        """
        with self._lock:
            if self._requests is not None:
                requests, self._requests = self._requests, None
                if core.session_await(*requests) < 0:
                    self._error = core.error()
            if self._error is not None:
                raise self._error
            return self._value

    def item(self) -> Any:
        """Returns the value of a tensor of one element as a Python number; waits like :meth:`result`."""
        return self.result().item()

    def __await__(self) -> Generator[Any, None, torch.Tensor]:
        return asyncio.get_running_loop().run_in_executor(None, self.result).__await__()

    def __del__(self) -> None:
        requests: tuple[int, int, int] | None = getattr(self, "_requests", None)
        if requests is not None:
            core.session_forget(*requests)


def later(tensor: torch.Tensor) -> Later:
    """Starts to read a tensor, and returns at once.

    ::

        shown = None
        for batch in batches:
            loss = step(batch)
            if shown is not None:
                print(shown.item())  # the loss of the step before: it has arrived meanwhile
            shown = remora.later(loss)

    The value is the one that the tensor has now, whatever is written to it afterwards. It is detached.
    Await it in a coroutine, or call :meth:`Later.result`. A value that nobody takes costs its transfer
    only. The tensor may be on a remote device of any dtype and shape; a local one is copied.

    Raises:
        MachineStateException: the tensor's machine is closed.

    """
    return Later(tensor)
