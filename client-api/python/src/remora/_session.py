# SPDX-License-Identifier: AGPL-3.0-or-later
"""A program's connection to a machine: sends batches from the native core, receives reports and values.

The core keeps what PyTorch records as numbered batches. A session has two threads. One carries the session
over a connection, and over the next one if that breaks. The flusher closes batches while the node is idle.
No code here runs per operation or batch.
"""

from __future__ import annotations

import concurrent.futures
import ctypes
import logging
import os
import shutil
import sys
import tempfile
import threading
import time
import warnings
import weakref
from collections.abc import Callable
from ctypes import CFUNCTYPE, c_int32, c_int64, c_void_p
from pathlib import Path
from typing import Any

import grpc
import torch

from . import _call_sites, exceptions
from ._gateway import Gateway
from ._native import RECONNECTING, STATISTICS, core, text_of
from ._pauses import GrowingPause
from ._progress import Reporter
from ._proto import gateway_pb2 as pb
from ._settings import Settings
from ._trace import Trace
from ._transport import BrokenError, DirectTransport, Transport
from ._waits import Wait

log = logging.getLogger("remora")

_FLUSHER_TURN_MICROS = 250_000
_UNRECEIVED_BYTES = 16 * 1024 * 1024
_GOODBYE_SECONDS = 1.0
_FIRST_PAUSE, _LONGEST_PAUSE = 0.05, 2.0  # between attempts to connect
_BY_SLOT: dict[int, tuple[Session, int]] = {}
_forked = [False]
_ALL: weakref.WeakSet[Session] = weakref.WeakSet()

# After these statuses the session's stream cannot be resumed.
_FINAL = {
    grpc.StatusCode.UNAUTHENTICATED,
    grpc.StatusCode.PERMISSION_DENIED,
    grpc.StatusCode.NOT_FOUND,
    grpc.StatusCode.FAILED_PRECONDITION,
    grpc.StatusCode.INVALID_ARGUMENT,
    grpc.StatusCode.UNIMPLEMENTED,
    grpc.StatusCode.OUT_OF_RANGE,
    grpc.StatusCode.DATA_LOSS,
}


class Session:
    """A machine's end in the native core. Subclasses carry the batches. Thread-safe."""

    def __init__(self, machine_name: str, devices: int, cuda: bool, settings: Settings) -> None:
        """Reserves device slots for a machine.

        Raises:
            MachineStateException: this process has no device slots left.

        """
        self.machine_name = machine_name
        self.devices = devices
        self.settings = settings
        self.reporter: Reporter | None = (
            None  # of the machine's progress; None if nobody wants to know
        )
        self.on_restored: Callable[[int], object] | None = None
        handle = core.machine_open(machine_name.encode(), devices, settings.batch_bytes)
        if handle < 0:
            raise exceptions.MachineStateException(core.last_error().decode())
        self.handle: int = handle
        self.closed = False
        self._closing = threading.Lock()
        self._threads: list[threading.Thread] = []
        core.check(
            core.session_configure(
                handle,
                settings.max_in_flight_bytes,
                _UNRECEIVED_BYTES,
                int(settings.read_timeout_seconds * 1000),
                int(settings.ping_seconds * 1000),
            )
        )
        core.machine_set_cuda(handle, int(cuda))
        if settings.call_sites:
            _call_sites.record(handle)
        if settings.log_operations:
            _call_sites.log_all()  # starts the log's thread
        core.machine_set_trace(handle, int(settings.log_operations), int(settings.call_sites))
        self.first_slot: int = core.check(core.machine_slot(handle, 0))
        for device in range(devices):
            _BY_SLOT[self.first_slot + device] = (self, device)
        _ALL.add(self)
        self._trace: Trace | None = None
        if settings.trace:
            log.info("Machine %s is traced to %s", machine_name, self.trace(settings.trace).file)

    def trace(self, file: str | os.PathLike[str]) -> Trace:
        """Writes a timeline of the machine to a file."""
        self._trace = Trace(self.handle, file)
        return self._trace

    def set_node_address(self, address: str) -> None:
        """Sets where other machines' nodes reach this machine's node, so that tensors can go there directly."""
        core.check(core.machine_set_node_address(self.handle, address.encode()))

    # ------------------------------------------------------------ for programs

    def device(self, index: int) -> torch.device:
        """Returns the PyTorch device of the machine's device number `index`."""
        return torch.device("remora", self.first_slot + index)

    def has(self, device: torch.device) -> bool:
        """Whether the device is one of the machine's."""
        return device.type == "remora" and (
            self.first_slot <= (device.index or 0) < self.first_slot + self.devices
        )

    @property
    def failure_told(self) -> bool:
        """Whether an error has told the program that the machine has failed."""
        return bool(core.machine_failure_told(self.handle))

    def synchronize(self) -> None:
        """Waits until everything recorded is executed; raises the first failure that nothing has read."""
        core.check(core.machine_synchronize(self.handle))
        self.warn()
        text = text_of(core.session_unread_failure, self.handle)
        if text is not None:
            raise exceptions.from_text(text, exceptions.RemoteOperationException)

    def checkpoint(self, step: int) -> None:
        """Says that a step of the program is complete, and sends what was recorded so far."""
        core.check(core.machine_mark(self.handle, step))

    def warn(self) -> None:
        """Emits PyTorch's warnings on the node that no read has emitted."""
        while (text := text_of(core.session_next_warning, self.handle)) is not None:
            category, _, message = text.partition(": ")
            deprecation = category == "DeprecationWarning"
            warnings.warn(message, DeprecationWarning if deprecation else UserWarning, stacklevel=4)

    def statistics(self) -> dict[str, int]:
        """Returns the core's counters since the session began."""
        return {
            name: core.machine_statistic(self.handle, number)
            for number, name in enumerate(STATISTICS)
        }

    def metadata_waits(self) -> dict[str, int]:
        """Returns the operators whose results' metadata only the node could tell, and how often."""
        lines = core.machine_metadata_waits(self.handle).decode().splitlines()
        return {name: int(count) for name, count in (line.split() for line in lines)}

    def waits(self) -> list[Wait]:
        """Returns where this process has waited, the longest wait first."""
        lines = core.machine_waits(self.handle).decode(errors="replace").splitlines()
        return [Wait._parse(line) for line in lines]

    def close(self) -> None:
        """Ends the session; operations not yet executed are lost. Its tensors become stale. Idempotent."""
        with self._closing:
            if self.closed:
                return
            self.closed = True
        if self._trace is not None:
            try:
                self._trace.stop(0)
            except exceptions.RemoraException as e:
                log.warning("Machine '%s': %s", self.machine_name, e)
        core.machine_close(self.handle)
        _call_sites.forget(self.handle)
        if self.settings.log_operations:
            _call_sites.log_all()
        for device in range(self.devices):
            _BY_SLOT.pop(self.first_slot + device, None)
        self._ended()
        for thread in self._threads:
            if thread is not threading.current_thread():
                thread.join(2.0)

    def fail(self, error: BaseException) -> None:
        """Makes every later use of this machine raise this error; wakes waiting threads."""
        core.machine_fail(self.handle, f"{type(error).__name__}: {error}".encode())

    # ------------------------------------------------------------ for subclasses

    def _ended(self) -> None:
        """Lets the threads end, after the session was closed in the core."""

    def _forget_connection(self) -> None:
        """In a forked child: drops the connection, which is the parent's."""

    def _start(self, *targets: Any) -> None:
        for target in (self._flush_when_idle, *targets):
            name = f"remora{target.__name__.replace('_', '-')}-{self.machine_name}"
            thread = threading.Thread(target=target, name=name, daemon=True)
            self._threads.append(thread)
            thread.start()

    def _flush_when_idle(self) -> None:
        flush, handle, linger = (
            core.machine_flush_when_idle,
            self.handle,
            self.settings.flush_micros,
        )
        while flush(handle, _FLUSHER_TURN_MICROS, linger) >= 0:
            pass

    def log_failures(self) -> None:
        """Logs the operations that have failed since the last call, and the gateway's notices.

        Takes note of restored checkpoints, too.
        """
        step = c_int64()
        while (
            text := text_of(
                lambda handle, *buffer: core.session_next_restored(handle, step, *buffer),
                self.handle,
            )
        ) is not None:
            message = text.partition(": ")[2]
            log.warning("%s; what was recorded since then is void", message)
            if self.on_restored is not None:
                # On a thread of its own: the action may wait for values, which this thread carries.
                threading.Thread(
                    target=self.on_restored, args=(step.value,), name="remora-restored", daemon=True
                ).start()
        while (text := text_of(core.session_next_failure, self.handle)) is not None:
            kind, _, message = text.partition(": ")
            level = logging.INFO if kind == "Info" else logging.WARNING
            log.log(level, "Machine '%s': %s", self.machine_name, message or text)


def session_of(slot: int) -> tuple[Session, int]:
    """Returns the session that owns a device slot, and the device's number on its machine.

    Raises:
        MachineStateException: no machine is open there.

    """
    found = _BY_SLOT.get(slot)
    if found is None:
        raise exceptions.MachineStateException(
            f"no machine is open on remora:{slot}: open one with remora.RemoteMachine"
        )
    return found


def forked_without_machines() -> bool:
    """Whether this process was forked from one with machines and has none of its own."""
    return _forked[0] and not _BY_SLOT


def open_slots() -> list[int]:
    """Returns the device slots in use, ascending."""
    return sorted(_BY_SLOT)


# ---------------------------------------------------------------- in this process


# The type of the devices on which this process executes batches. Only benchmarks/gpu.py sets another.
LOCAL_DEVICE = "cpu"


class LocalSession(Session):
    """A session whose batches this process executes, on its CPU: remote execution is disabled."""

    def __init__(self, machine_name: str, devices: int, settings: Settings) -> None:
        super().__init__(machine_name, devices, LOCAL_DEVICE == "cuda", settings)
        names = ("cpu" if LOCAL_DEVICE == "cpu" else f"{LOCAL_DEVICE}:{i}" for i in range(devices))
        self._executor = core.check(
            core.executor_create(",".join(names).encode(), b"aten::from_file")
        )
        self._functions: concurrent.futures.Executor | None = None
        _LOCAL[self._executor] = self
        core.set_run_callback(ctypes.cast(_run_callback, c_void_p))
        self._start(self._execute)

    def run_function(self, request: bytes) -> None:
        """Runs a function for the executor in this process; called on the executor's thread."""
        from .worker import Functions

        if self._functions is None:
            folder = Path(tempfile.mkdtemp(prefix="remora-packages-"))
            weakref.finalize(self, shutil.rmtree, folder, True)
            sys.path.append(str(folder))
            self._runner = Functions(folder, lambda: None, list)
            # On the executor's thread, libtorch is not in its usual mode.
            self._functions = concurrent.futures.ThreadPoolExecutor(1, "remora-functions")
        answer = self._functions.submit(self._runner.run, request).result()
        core.check(core.run_answer(answer, len(answer)))
        self._runner.done()

    def _execute(self) -> None:
        handle = self.handle
        while (batch := core.session_take(handle, 200_000)) >= 0:
            if batch == 0:
                continue
            result = core.executor_execute(
                self._executor, core.batch_data(batch), core.batch_bytes(batch)
            )
            if result < 0:
                self.fail(exceptions.ProtocolException(core.last_error().decode()))
                break
            for i in range(core.result_value_count(result)):
                core.session_value(
                    handle,
                    core.result_value_request(result, i),
                    0,
                    core.result_value(result, i),
                    core.result_value_bytes(result, i),
                )
            core.session_executed(
                handle,
                core.batch_sequence(batch),
                core.result_report(result),
                core.result_report_bytes(result),
            )
            core.result_release(result)
            self.log_failures()
        del _LOCAL[self._executor]
        core.executor_destroy(self._executor)


_LOCAL: dict[int, LocalSession] = {}


def _run_function(*call: int) -> int:
    """The core's callback for a function of a batch: remora_run_callback."""
    executor, request, size, _, error, error_size = call
    try:
        _LOCAL[executor].run_function(ctypes.string_at(request, size))
        return 0
    except BaseException as e:
        text = (str(e) or repr(e)).encode()[: error_size - 1] + b"\0"
        ctypes.memmove(error, text, len(text))
        return -1


_run_callback = CFUNCTYPE(c_int32, c_int64, c_void_p, c_int64, c_int64, c_void_p, c_int32)(
    _run_function
)


# ---------------------------------------------------------------- through the gateway


class GatewaySession(Session):
    """A session through a gateway. Survives broken connections as long as the gateway keeps the session."""

    def __init__(
        self, gateway: Gateway, machine_name: str, devices: int, cuda: bool, settings: Settings
    ) -> None:
        """Opens the session; returns when the gateway has accepted it.

        Raises:
            RemoraException: the gateway refuses the session, or does not answer in time.

        """
        super().__init__(machine_name, devices, cuda, settings)
        self._gateway = gateway
        self.session_id = 0
        self._secret = b""
        self._opened = threading.Event()
        self._welcomed = False  # over the current connection
        self._carried = threading.Event()  # set when there is no connection any more
        self._transport: Transport | None = None
        self._failure: BaseException | None = None
        self._start(self._carry)
        if not self._opened.wait(settings.call_seconds):
            self._failure = exceptions.ProviderException(
                f"the gateway at {gateway.address} did not open a session within {settings.call_seconds:g} s"
            )
        if self._failure is not None:
            self.close()
            raise self._failure

    def _carry(self) -> None:
        try:
            self._carry_over_connections()
        except Exception as e:
            log.exception("The session of machine '%s' has failed", self.machine_name)
            self.lose(exceptions.RemoraException(f"the session has failed: {e}"))
        finally:
            self._carried.set()

    def _carry_over_connections(self) -> None:
        broken_since: float | None = None
        pause = GrowingPause(_FIRST_PAUSE, _LONGEST_PAUSE)
        explain = False
        while not self.closed:
            error = BrokenError("the gateway has ended the connection")
            self._welcomed = False
            transport = self._transport = self._gateway.transport(explain)
            try:
                transport.run(self)
            except BrokenError as e:
                error = e
            if self.closed or self._failure is not None:
                return
            if self._welcomed:
                broken_since = None
                pause.reset()
            core.machine_hinder(self.handle, RECONNECTING)  # until session_resume
            now = time.monotonic()
            broken_since = broken_since or now
            explain = error.unexplained
            gone = self._gateway.end()
            if gone is not None:
                self.lose(
                    exceptions.NodeLostException(f"machine '{self.machine_name}' is lost: {gone}")
                )
                return
            if error.code in _FINAL or now - broken_since > self.settings.reconnect_seconds:
                self.lose(self._why(error, now - broken_since))
                return
            if self._welcomed:
                log.info(
                    "The connection to machine '%s' broke (%s); reconnecting",
                    self.machine_name,
                    error,
                )
            if not explain:
                pause.sleep()

    def _why(self, error: BrokenError, seconds: float) -> BaseException:
        if error.cause is not None and (error.code in _FINAL or not self._opened.is_set()):
            what = "opening a session" if not self._opened.is_set() else "resuming the session"
            return self._gateway.error(error.cause, f"{what} on machine '{self.machine_name}'")
        return exceptions.NodeLostException(
            f"the connection to machine '{self.machine_name}' is lost; the session could not be resumed "
            f"within {seconds:.0f} s: {error}"
        )

    # ------------------------------------------------------------ for the transport

    def hello(self) -> bytes:
        """Returns the first frame of a connection, which opens or resumes the session."""
        return pb.ClientFrame(
            received=core.session_received(self.handle),
            hello=pb.Hello(
                protocol=1,
                wire_version=core.wire_version(),
                torch_version=core.built_for_torch().decode(),
                machine=self.machine_name,
                session=self.session_id,
                secret=self._secret,
            ),
        ).SerializeToString()

    def on_welcome(self, frame: bytes) -> None:
        """Handles the gateway's Welcome: the core sends the batches that the gateway does not have."""
        welcome = pb.ServerFrame.FromString(frame).welcome
        self.session_id, self._secret = welcome.session, welcome.secret
        settings = self.settings
        core.check(
            core.session_configure(
                self.handle,
                min(
                    settings.max_in_flight_bytes,
                    welcome.max_in_flight_bytes or settings.max_in_flight_bytes,
                ),
                welcome.max_unreceived_bytes or _UNRECEIVED_BYTES,
                int(settings.read_timeout_seconds * 1000),
                int(settings.ping_seconds * 1000),
            )
        )
        core.check(core.session_resume(self.handle, welcome.last_batch))
        if settings.direct and welcome.direct:
            if isinstance(self._transport, DirectTransport):
                core.check(core.session_use_direct(self.handle, self.session_id))
            elif not self._opened.is_set():
                log.info(
                    "Machine '%s': data goes through the gateway, not straight to the node: "
                    "the connection to the gateway is not the native core's",
                    self.machine_name,
                )
        self._welcomed = True
        self._opened.set()

    def lose(self, error: BaseException) -> None:
        """Ends the session: everything on the machine raises this error from now on."""
        if self._failure is None and not self.closed:
            self._failure = error
            self.fail(error)
            self._opened.set()
            if self._transport is not None:
                self._transport.cancel()

    def _forget_connection(self) -> None:
        self._transport = None
        self._carried.set()

    def _ended(self) -> None:
        # The core says goodbye, then the gateway ends the stream.
        if not self._carried.wait(_GOODBYE_SECONDS) and self._transport is not None:
            self._transport.cancel()


# ---------------------------------------------------------------- forks


def _after_fork_in_child() -> None:
    # The parent has the threads that carry sessions: without this, recording here would wait forever.
    for session in list(_ALL):
        if not session.closed:
            core.machine_fail(
                session.handle,
                b"MachineStateException: this process was forked from the one that opened machine '"
                + session.machine_name.encode()
                + b"', and cannot use it: open a machine here, or start the process with the method 'spawn'",
            )
            session._forget_connection()
    _forked[0] = _forked[0] or bool(_BY_SLOT)
    _BY_SLOT.clear()


os.register_at_fork(after_in_child=_after_fork_in_child)
