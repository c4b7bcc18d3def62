# SPDX-License-Identifier: AGPL-3.0-or-later
"""Reports of single operations, for errors and for the log.

With ``REMORA_CALL_SITES=1``, errors name the program's line that recorded the operation. With
``REMORA_LOG_OPERATIONS=1``, each operation is a line of the log.

The core reports each operation before it is recorded, but only while a machine records call sites. It
asks for the line when an operation has failed. Only the latest call sites are remembered, because
failures arrive soon or never.

A separate thread writes the log: the core reports an operation under a machine's lock, and a log handler
may wait for that machine.
"""

from __future__ import annotations

import ctypes
import logging
import queue
import sys
import threading
from ctypes import CFUNCTYPE, c_char_p, c_int32, c_int64, c_void_p
from pathlib import Path
from types import CodeType, FrameType

import torch

_REMEMBERED = 1 << 16
OURS = tuple(f"{Path(module).resolve().parent}/" for module in (__file__, torch.__file__))
_sites: dict[int, list[tuple[int, CodeType, int] | None]] = {}


_operations_log = logging.getLogger("remora.operations")
_to_log: queue.SimpleQueue[str | threading.Event] = queue.SimpleQueue()
_logging = threading.Lock()
_logger: threading.Thread | None = None
_LOG_SECONDS = 5.0


def _log_operations() -> None:
    while True:
        line = _to_log.get()
        if isinstance(line, threading.Event):
            line.set()
        else:
            _operations_log.debug("%s", line)


def log_all() -> None:
    """Waits until everything reported so far is in the log."""
    global _logger
    with _logging:
        if _logger is None or not _logger.is_alive():  # for example in a forked child
            _logger = threading.Thread(
                target=_log_operations, name="remora-operations", daemon=True
            )
            _logger.start()
    done = threading.Event()
    _to_log.put(done)
    done.wait(_LOG_SECONDS)


def record(machine: int) -> None:
    """Remembers the machine's calls from now on."""
    _sites[machine] = [None] * _REMEMBERED


def forget(machine: int) -> None:
    """Forgets the calls of a closed machine."""
    _sites.pop(machine, None)


def _caller(frame: FrameType | None) -> FrameType | None:
    """Returns the nearest frame outside PyTorch and Remora; None in a thread of libtorch."""
    while frame is not None and frame.f_code.co_filename.startswith(OURS):
        frame = frame.f_back
    return frame


def _on_call(machine: int, call: int, line: bytes) -> None:
    """remora_trace_callback."""
    if line:
        _to_log.put(line.decode(errors="replace"))
    sites = _sites.get(machine)
    if sites is None:
        return
    frame = _caller(sys._getframe().f_back)
    if frame is not None:
        sites[call % _REMEMBERED] = (call, frame.f_code, frame.f_lineno)


def _where(machine: int, call: int, text: int, capacity: int) -> int:
    """remora_call_site_callback."""
    sites = _sites.get(machine)
    site = None if sites is None else sites[call % _REMEMBERED]
    if site is None or site[0] != call:
        return 0
    _, code, line = site
    where = f"{code.co_filename}:{line} in {code.co_name}".encode()[: capacity - 1]
    ctypes.memmove(text, where + b"\0", len(where) + 1)
    return len(where)


on_call = CFUNCTYPE(None, c_int64, c_int64, c_char_p)(_on_call)
where = CFUNCTYPE(c_int32, c_int64, c_int64, c_void_p, c_int32)(_where)
