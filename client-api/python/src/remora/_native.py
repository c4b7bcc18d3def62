# SPDX-License-Identifier: AGPL-3.0-or-later
"""The native core (remora.h), through ctypes: declarations, errors, interrupts.

ctypes releases the GIL in every call that may wait, so a thread that waits in the core blocks no other
thread.
"""

from __future__ import annotations

import ctypes
import sys
import threading
from ctypes import CFUNCTYPE, POINTER, c_char_p, c_int32, c_int64, c_void_p
from pathlib import Path
from typing import Any

import torch

from . import _call_sites, exceptions
from ._build import NativeCoreError, find_library

_DECLARATIONS: dict[str, tuple[Any, list[Any]]] = {
    "built_for_torch": (c_char_p, []),
    "wire_version": (c_int32, []),
    "source_hash": (c_char_p, []),
    "last_error": (c_char_p, []),
    "set_compute_threads": (None, [c_int32]),
    "compute_threads": (c_int32, []),
    "install_sessions": (c_int32, [c_void_p, c_void_p, c_void_p]),
    "set_python_exception": (None, [c_char_p, c_int64]),
    "set_python_lock": (None, [c_int64, c_int64, c_int64]),
    "slot_count": (c_int32, []),
    "machine_open": (c_int64, [c_char_p, c_int32, c_int64]),
    "machine_slot": (c_int32, [c_int64, c_int32]),
    "machine_flush": (c_int32, [c_int64]),
    "machine_flush_when_idle": (c_int32, [c_int64, c_int64, c_int64]),
    "machine_sequence": (c_int64, [c_int64]),
    "machine_fail": (None, [c_int64, c_char_p]),
    "machine_failure_told": (c_int32, [c_int64]),
    "machine_mark": (c_int32, [c_int64, c_int64]),
    "machine_set_trace": (None, [c_int64, c_int32, c_int32]),
    "machine_set_cuda": (None, [c_int64, c_int32]),
    "machine_set_node_address": (c_int32, [c_int64, c_char_p]),
    "machine_synchronize": (c_int32, [c_int64]),
    "declare_fixed_shapes": (None, [c_char_p]),
    "machine_memory": (c_int32, [c_int64, c_int32, POINTER(c_int64)]),
    "machine_empty_cache": (c_int32, [c_int64, c_int32]),
    "machine_reset_peak_memory": (c_int32, [c_int64, c_int32]),
    "default_generator": (c_int64, [c_int32]),
    "generator_release": (None, [c_int64]),
    "run": (
        c_int64,
        [c_int64, c_int32, c_int64, c_char_p, c_char_p, c_int64, POINTER(c_int64), c_int64],
    ),
    "call_node": (
        c_int64,
        [c_int64, c_int32, c_int64, c_char_p, c_char_p, c_int64, POINTER(c_int64), c_int64],
    ),
    "run_await": (c_int64, [c_int64, c_int64, c_void_p]),
    "run_bind": (c_int32, [c_int64, c_int64, POINTER(c_int64), c_int64]),
    "set_run_callback": (None, [c_void_p]),
    "run_answer": (c_int32, [c_char_p, c_int64]),
    "machine_close": (None, [c_int64]),
    "machine_statistic": (c_int64, [c_int64, c_int32]),
    "machine_metadata_waits": (c_char_p, [c_int64]),
    "machine_waits": (c_char_p, [c_int64]),
    "machine_hinder": (None, [c_int64, c_int32]),
    "machine_timeline_start": (c_char_p, [c_int64, c_char_p]),
    "machine_timeline_stop": (c_int32, [c_int64, c_int64]),
    "profiler_register": (c_int32, []),
    "profiler_settle": (c_char_p, [c_int64]),
    "set_python_functions": (c_int32, [c_void_p, c_int64, c_char_p]),
    "session_read": (c_int64, [c_int64, c_void_p, c_void_p, POINTER(c_int64)]),
    "session_await": (c_int32, [c_int64, c_int64, c_int64]),
    "session_forget": (None, [c_int64, c_int64, c_int64]),
    "session_next_warning": (c_int64, [c_int64, c_char_p, c_int64]),
    "session_configure": (c_int32, [c_int64, c_int64, c_int64, c_int64, c_int64]),
    "session_release": (c_int32, [c_int64]),
    "session_take": (c_int64, [c_int64, c_int64]),
    "session_executed": (c_int32, [c_int64, c_int64, c_void_p, c_int64]),
    "session_value": (c_int32, [c_int64, c_int64, c_int64, c_void_p, c_int64]),
    "session_next_restored": (c_int64, [c_int64, POINTER(c_int64), c_char_p, c_int64]),
    "session_next_failure": (c_int64, [c_int64, c_char_p, c_int64]),
    "session_unread_failure": (c_int64, [c_int64, c_char_p, c_int64]),
    "session_connect": (c_int32, [c_int64, c_int32, c_char_p, c_int64, c_char_p, c_int64]),
    "session_carry": (c_int32, [c_int64]),
    "session_welcome": (c_int64, [c_int64, POINTER(c_void_p)]),
    "session_disconnect": (None, [c_int64]),
    "session_resume": (c_int32, [c_int64, c_int64]),
    "session_use_direct": (c_int32, [c_int64, c_int64]),
    "session_last_executed": (c_int64, [c_int64]),
    "session_received": (c_int64, [c_int64]),
    "session_outgoing": (c_int64, [c_int64, c_int64, POINTER(c_void_p)]),
    "session_incoming": (c_int32, [c_int64, c_char_p, c_int64]),
    "batch_sequence": (c_int64, [c_int64]),
    "batch_data": (c_int64, [c_int64]),
    "batch_bytes": (c_int64, [c_int64]),
    "storage_id": (c_int64, [c_void_p]),
    "metadata_hash": (c_int64, [c_void_p]),
    "open_devices": (c_int32, []),
    "current_device": (c_int32, []),
    "executor_create": (c_int64, [c_char_p, c_char_p]),
    "executor_destroy": (None, [c_int64]),
    "executor_execute": (c_int64, [c_int64, c_void_p, c_int64]),
    "result_report": (c_int64, [c_int64]),
    "result_report_bytes": (c_int64, [c_int64]),
    "result_value_count": (c_int64, [c_int64]),
    "result_value_request": (c_int64, [c_int64, c_int64]),
    "result_value": (c_int64, [c_int64, c_int64]),
    "result_value_bytes": (c_int64, [c_int64, c_int64]),
    "result_release": (None, [c_int64]),
}

RECONNECTING = 2  # of remora_hindrance in remora.h

# The order of remora_statistic in remora.h.
STATISTICS = (
    "operations",
    "batches",
    "batch_bytes",
    "uploaded_bytes",
    "downloaded_bytes",
    "blocking_reads",
    "plan_misses",
    "storages",
    "storage_bytes",
    "value_waits",
    "shape_waits",
    "metadata_waits",
    "room_waits",
    "kept_plans",
    "from_views",
    "from_rules",
    "from_libtorch",
    "from_node",
    "from_values",
    "value_wait_nanos",
    "shape_wait_nanos",
    "metadata_wait_nanos",
    "room_wait_nanos",
    "question_wait_nanos",
    "paused_wait_nanos",
    "reconnecting_wait_nanos",
    "recovering_wait_nanos",
)


class Core:
    """The loaded library: ``core.machine_open(…)`` is ``remora_machine_open``."""

    def __init__(self, library: ctypes.CDLL) -> None:
        self.library = library
        for name, (result, arguments) in _DECLARATIONS.items():
            function = getattr(library, "remora_" + name)
            function.restype = result
            function.argtypes = arguments
            setattr(self, name, function)

    def __getattr__(self, name: str) -> Any:  # for type checkers; __init__ sets the functions
        raise AttributeError(f"the native core has no function remora_{name}")

    def error(self) -> BaseException:
        """Returns the exception for the calling thread's last failed call."""
        return exceptions.from_text(self.last_error().decode(errors="replace"))

    def check(self, result: int) -> int:
        """Raises the error of a call if its result is negative."""
        if result < 0:
            raise self.error()
        return result


def _load() -> Core:
    path = find_library()
    try:
        core = Core(ctypes.CDLL(str(path)))
    except (OSError, AttributeError) as e:
        raise NativeCoreError(f"Remora's native core {path} cannot be loaded: {e}") from e
    built_for = core.built_for_torch().decode()
    if built_for != torch.__version__.split("+")[0]:
        raise NativeCoreError(
            f"{path} was built for torch {built_for}, and this is torch {torch.__version__}"
        )
    return core


core = _load()

# Called every 100 ms by a thread that waits in the core. It is a C function, not a Python one: entering
# Python code would run the signal's handler and raise where nothing can catch the exception. Returns 1
# on the main thread after SIGINT.
_interrupted = CFUNCTYPE(c_int32)(ctypes.pythonapi.PyOS_InterruptOccurred)


# The order of PythonFunctions in python_line.cpp.
_LINE_FUNCTIONS = (
    "PyGILState_GetThisThreadState",
    "PyGILState_Ensure",
    "PyGILState_Release",
    "PyEval_GetFrame",
    "PyFrame_GetBack",
    "PyFrame_GetCode",
    "PyFrame_GetLineNumber",
    "PyObject_GetAttrString",
    "PyUnicode_AsUTF8",
    "Py_IncRef",
    "Py_DecRef",
    "PyErr_Clear",
)


def install() -> None:
    """Registers the backend "remora" with PyTorch. Once per process."""
    for name, kind in exceptions.BY_NAME.items():
        core.set_python_exception(name.encode(), id(kind))
    core.set_python_exception(b"KeyboardInterrupt", id(KeyboardInterrupt))
    python = ctypes.pythonapi
    locks = (python.PyGILState_Check, python.PyEval_SaveThread, python.PyEval_RestoreThread)
    core.set_python_lock(*(ctypes.cast(function, c_void_p).value for function in locks))
    functions = (c_int64 * len(_LINE_FUNCTIONS))(
        *(ctypes.cast(getattr(python, name), c_void_p).value or 0 for name in _LINE_FUNCTIONS)
    )
    ours = "\n".join(_call_sites.OURS).encode()
    core.check(core.set_python_functions(functions, len(functions), ours))
    told = (_interrupted, _call_sites.on_call, _call_sites.where)
    core.check(core.install_sessions(*(ctypes.cast(function, c_void_p) for function in told)))


def address_of(tensor: torch.Tensor) -> Any:
    """Returns the address of an ``at::Tensor`` that is this tensor, valid during a call.

    An ``at::Tensor`` is one pointer to its implementation, and ``_cdata`` has that pointer.
    """
    return ctypes.byref(c_int64(tensor._cdata))


# PyObject* THPGenerator_Wrap(const at::Generator&), torch/csrc/Generator.h
_wrap_generator = ctypes.PyDLL(
    str(
        Path(torch.__file__).parent
        / "lib"
        / f"libtorch_python.{'dylib' if sys.platform == 'darwin' else 'so'}"
    )
)._Z17THPGenerator_WrapRKN2at9GeneratorE
_wrap_generator.restype, _wrap_generator.argtypes = ctypes.py_object, [c_void_p]


def default_generator(slot: int) -> torch.Generator:
    """Returns the default generator of a device. PyTorch itself has them only for its own devices.

    Raises:
        RemoraException: no machine is open there.

    """
    address = core.check(core.default_generator(slot))
    try:
        wrapped: torch.Generator = _wrap_generator(address)
        return wrapped
    finally:
        core.generator_release(address)


def text_of(function: Any, machine: int) -> str | None:
    """Calls a function that writes a text (``session_next_failure`` …); None if there is none."""
    buffer = _text.buffer
    length = function(machine, buffer, _TEXT_BYTES)
    if length <= 0:
        return None
    return buffer.raw[: min(length, _TEXT_BYTES)].rstrip(b"\0").decode(errors="replace")


_TEXT_BYTES = 8192


class _Text(threading.local):
    """A thread's buffer for texts of the core."""

    def __init__(self) -> None:
        self.buffer = ctypes.create_string_buffer(_TEXT_BYTES)


_text = _Text()


__all__ = ["STATISTICS", "Core", "address_of", "core", "default_generator", "install", "text_of"]
