# SPDX-License-Identifier: AGPL-3.0-or-later
"""A program's connection to a machine: batches leave the native core, reports and values come back.

What PyTorch records waits in the core as numbered batches. A session has three threads: a sender
(core -> wire), a receiver (wire -> core), and a flusher that closes batches while the node is idle.
Nothing here runs per operation.
"""

from __future__ import annotations

import concurrent.futures
import ctypes
import functools
import logging
import os
import shutil
import sys
import tempfile
import threading
import time
import weakref
from collections.abc import Iterator
from ctypes import CFUNCTYPE, c_int32, c_int64, c_void_p
from pathlib import Path
from typing import Any

import grpc
import torch

from . import exceptions
from ._gateway import Gateway, rpc_error
from ._native import STATISTICS, core, text_of
from ._proto import gateway_pb2 as pb
from ._settings import Settings
from ._transport import BrokenError, Transport

log = logging.getLogger("remora")

_FLUSHER_TURN_MICROS = 250_000
_SHORT_WAIT_MICROS = 5_000
_LONG_WAIT_MICROS = 100_000
_BUSY_SECONDS = 1.0
_SILENCE_SECONDS = 10.0
_FRAME_BYTES = 1024 * 1024
_FRAME_BATCHES = 64
_OPERATIONS = STATISTICS.index("operations")
_FIRST_BACKOFF = 0.05
_LAST_BACKOFF = 2.0
_BY_SLOT: dict[int, tuple[Session, int]] = {}
_forked = [False]
_ALL: weakref.WeakSet[Session] = weakref.WeakSet()

# The session stream cannot be had again after these.
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
        """Takes device slots for a machine.

        Raises:
            MachineStateException: this process has no device slots left.

        """
        self.machine_name = machine_name
        self.devices = devices
        self.settings = settings
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
                int(settings.read_timeout_seconds * 1000),
            )
        )
        core.machine_set_cuda(handle, int(cuda))
        self.first_slot: int = core.check(core.machine_slot(handle, 0))
        for device in range(devices):
            _BY_SLOT[self.first_slot + device] = (self, device)
        _ALL.add(self)

    def set_node_address(self, address: str) -> None:
        """Says where other machines' nodes reach this machine's: tensors go straight then."""
        core.check(core.machine_set_node_address(self.handle, address.encode()))

    # ------------------------------------------------------------ for programs

    def device(self, index: int) -> torch.device:
        """The PyTorch device of the machine's device number `index`."""
        return torch.device("remora", self.first_slot + index)

    def synchronize(self) -> None:
        """Waits until all that was recorded is executed; raises the first failure nobody has read."""
        core.check(core.machine_synchronize(self.handle))
        text = text_of(core.session_unread_failure, self.handle)
        if text is not None:
            raise exceptions.from_text(text, exceptions.RemoteOperationException)

    def statistics(self) -> dict[str, int]:
        """The core's counters since the session began."""
        return {
            name: core.machine_statistic(self.handle, number)
            for number, name in enumerate(STATISTICS)
        }

    def close(self) -> None:
        """Ends the session; what is not executed is lost. Tensors left on it are stale. Idempotent."""
        with self._closing:
            if self.closed:
                return
            self.closed = True
        core.machine_close(self.handle)
        for device in range(self.devices):
            _BY_SLOT.pop(self.first_slot + device, None)
        self._ended()
        for thread in self._threads:
            if thread is not threading.current_thread():
                thread.join(2.0)

    def fail(self, error: BaseException) -> None:
        """From now on everything on this machine raises this error; wakes whoever waits."""
        core.machine_fail(self.handle, f"{type(error).__name__}: {error}".encode())

    # ------------------------------------------------------------ for subclasses

    def _ended(self) -> None:
        """The session was closed in the core: lets the threads end."""

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

    def _log_failures(self) -> None:
        while (text := text_of(core.session_next_failure, self.handle)) is not None:
            log.warning("Machine '%s': %s", self.machine_name, text.partition(": ")[2] or text)


def session_of(slot: int) -> tuple[Session, int]:
    """The session that owns a device slot, and the device's number on its machine.

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
    """Whether this process was forked from one with machines, and has none of its own."""
    return _forked[0] and not _BY_SLOT


def open_slots() -> list[int]:
    """The device slots in use, ascending."""
    return sorted(_BY_SLOT)


# ---------------------------------------------------------------- in this process


class LocalSession(Session):
    """A session whose batches this very process executes, on its CPU: remote execution is disabled."""

    def __init__(self, machine_name: str, devices: int, settings: Settings) -> None:
        super().__init__(machine_name, devices, False, settings)
        self._executor = core.check(
            core.executor_create(b",".join([b"cpu"] * devices), b"aten::from_file")
        )
        self._functions: concurrent.futures.Executor | None = None
        _LOCAL[self._executor] = self
        core.set_run_callback(ctypes.cast(_run_callback, c_void_p))
        self._start(self._execute)

    def run_function(self, request: bytes) -> None:
        """Runs a function for the executor, on whose thread this is, in this process."""
        from .worker import Functions

        if self._functions is None:
            folder = Path(tempfile.mkdtemp(prefix="remora-packages-"))
            weakref.finalize(self, shutil.rmtree, folder, True)
            sys.path.append(str(folder))
            self._runner = Functions(folder, lambda: None, list)
            # libtorch is not in its usual mode on the executor's thread.
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
            self._log_failures()
        del _LOCAL[self._executor]
        core.executor_destroy(self._executor)


_LOCAL: dict[int, LocalSession] = {}


def _run_function(*call: int) -> int:
    """The core's call for a function of a batch: remora_run_callback."""
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


class _Stream:
    """One connection of a session; a later one takes the session up again."""

    def __init__(self) -> None:
        self.welcomed = threading.Event()
        self.welcome: pb.Welcome | None = None
        self.ended = False


class GatewaySession(Session):
    """A session through a gateway. Survives broken connections for as long as the gateway keeps it."""

    def __init__(
        self, gateway: Gateway, machine_name: str, devices: int, cuda: bool, settings: Settings
    ) -> None:
        """Opens the session; returns when the gateway has accepted it.

        Raises:
            RemoraException: the gateway refuses, or does not answer in time.

        """
        super().__init__(machine_name, devices, cuda, settings)
        self._gateway = gateway
        self._taking = threading.Lock()
        self._received = 0  # index of the last ServerFrame
        self._acknowledged = 0
        self._submitted_operations = 0
        self._heard = time.monotonic()
        self._saying_goodbye = False
        self.session_id = 0
        self._secret = b""
        self._opened = threading.Event()
        self._stream = _Stream()
        self._transport: Transport | None = None
        self._failure: BaseException | None = None
        self._start(self._receive)
        if not self._opened.wait(settings.call_seconds):
            self._failure = exceptions.ProviderException(
                f"the gateway at {gateway.address} did not open a session within {settings.call_seconds:g} s"
            )
        if self._failure is not None:
            self.close()
            raise self._failure

    # ------------------------------------------------------------ receiving

    def _receive(self) -> None:
        broken_since: float | None = None
        backoff = _FIRST_BACKOFF
        explain = False
        while not self.closed:
            stream = self._stream = _Stream()
            error = BrokenError("the gateway has ended the connection")
            transport = self._transport = self._gateway.transport(explain)
            try:
                transport.run(self._requests(stream), functools.partial(self._on_frame, stream))
            except BrokenError as e:
                error = e
            except Exception as e:
                log.exception("The session of machine '%s' has failed", self.machine_name)
                self._lose(exceptions.RemoraException(f"the session has failed: {e}"))
            finally:
                stream.ended = True
                stream.welcomed.set()
            if self.closed or self._failure is not None:
                return
            if stream.welcome is not None:
                broken_since, backoff = None, _FIRST_BACKOFF
            now = time.monotonic()
            broken_since = broken_since or now
            explain = error.unexplained
            if error.code in _FINAL or now - broken_since > self.settings.reconnect_seconds:
                self._lose(self._why(error, now - broken_since))
                return
            if stream.welcome is not None:
                log.info(
                    "The connection to machine '%s' is broken (%s); trying again",
                    self.machine_name,
                    error,
                )
            if not explain:
                time.sleep(backoff)
                backoff = min(backoff * 2, _LAST_BACKOFF)

    def _why(self, error: BrokenError, seconds: float) -> BaseException:
        if error.cause is not None and (error.code in _FINAL or not self._opened.is_set()):
            what = (
                "opening a session" if not self._opened.is_set() else "taking the session up again"
            )
            return rpc_error(error.cause, f"{what} on machine '{self.machine_name}'")
        return exceptions.NodeLostException(
            f"the connection to machine '{self.machine_name}' is lost and could not be taken up again "
            f"within {seconds:.0f} s: {error}"
        )

    def _on_frame(self, stream: _Stream, data: bytes) -> bool:
        """Handles a frame, on the thread that has received it."""
        if stream.ended:
            return True
        try:
            frame = pb.ServerFrame.FromString(data)
            index = frame.index
            if index != 0:
                if index <= self._received:
                    return True  # sent again
                if index != self._received + 1:
                    raise exceptions.ProtocolException(
                        f"frame {index} came after frame {self._received}"
                    )
                self._received = index
            kind = frame.WhichOneof("frame")
            if kind == "executed":
                self._on_executed(frame.executed)
            elif kind == "value":
                value = frame.value
                data = value.data
                core.check(
                    core.session_value(self.handle, value.request, value.offset, data, len(data))
                )
            elif kind == "welcome":
                self._on_welcome(stream, frame.welcome)
            elif kind == "lost":
                self._lose(exceptions.from_text(f"{frame.lost.error}: {frame.lost.message}"))
            self._heard = time.monotonic()
        except BaseException as e:
            log.exception("A frame from the gateway could not be handled")
            if not isinstance(e, exceptions.RemoraException):
                e = exceptions.ProtocolException(f"a frame could not be handled: {e}")
            self._lose(e)
        return True

    def _on_executed(self, executed: pb.Executed) -> None:
        reports = executed.reports
        sequence = executed.sequence - len(reports)
        for report in reports:
            sequence += 1
            if core.session_report(self.handle, sequence, report, len(report)) != 0:
                raise core.error()
        self._log_failures()

    def _on_welcome(self, stream: _Stream, welcome: pb.Welcome) -> None:
        stream.welcome = welcome
        self.session_id, self._secret = welcome.session, welcome.secret
        settings = self.settings
        limit = min(
            settings.max_in_flight_bytes,
            welcome.max_in_flight_bytes or settings.max_in_flight_bytes,
        )
        core.session_configure(self.handle, limit, int(settings.read_timeout_seconds * 1000))
        stream.welcomed.set()
        self._opened.set()

    def _lose(self, error: BaseException) -> None:
        if self._failure is None and not self.closed:
            self._failure = error
            self.fail(error)
            self._opened.set()
            if self._transport is not None:
                self._transport.cancel()

    # ------------------------------------------------------------ sending

    def _requests(self, stream: _Stream) -> Iterator[bytes]:
        """The frames of one connection; gRPC asks for the next when the last is on its way."""
        yield pb.ClientFrame(
            received=self._received,
            hello=pb.Hello(
                protocol=1,
                wire_version=core.wire_version(),
                torch_version=core.built_for_torch().decode(),
                machine=self.machine_name,
                session=self.session_id,
                secret=self._secret,
            ),
        ).SerializeToString()
        self._acknowledged = self._received
        stream.welcomed.wait(self.settings.call_seconds)
        if stream.ended or stream.welcome is None:
            return
        with self._taking:
            core.session_rewind(self.handle, stream.welcome.last_batch)
        said = busy = pinged = time.monotonic()
        while not stream.ended:
            with self._taking:
                if stream.ended:
                    return
                # While values come, the gateway is told often what has arrived: it keeps the rest.
                active = said - max(busy, self._heard) < _BUSY_SECONDS
                wait = _SHORT_WAIT_MICROS if active else _LONG_WAIT_MICROS
                frame = self._next_batches(wait)
            said = time.monotonic()
            if frame is not None:
                busy = said
            elif self._saying_goodbye or self.closed:
                yield pb.ClientFrame(
                    received=self._received, goodbye=pb.Goodbye()
                ).SerializeToString()
                return
            elif self._failure is not None:
                return
            elif self._received != self._acknowledged or said - pinged > _SILENCE_SECONDS:
                pinged = said
                frame = pb.ClientFrame(received=self._received, ping=pb.Ping(number=1))
            else:
                continue
            self._acknowledged = frame.received
            yield frame.SerializeToString()

    def _next_batches(self, wait_micros: int) -> pb.ClientFrame | None:
        """What waits to be sent, up to a limit; None when nothing came in time or the machine is closed."""
        batch = core.session_take(self.handle, wait_micros)
        if batch <= 0:
            if batch < 0 and not self.closed and self._failure is None:
                self._failure = core.error()
            return None
        frame = pb.ClientFrame(received=self._received)
        batches = frame.batches.batches
        total = 0
        recorded = core.machine_statistic(self.handle, _OPERATIONS)
        while batch > 0:
            size = core.batch_bytes(batch)
            message = batches.add()
            message.sequence = core.batch_sequence(batch)
            message.operations = recorded - self._submitted_operations
            self._submitted_operations = recorded
            message.data = ctypes.string_at(core.batch_data(batch), size)
            born = core.batch_born_count(batch)
            if born:
                message.born.extend(
                    (ctypes.c_int64 * (3 * born)).from_address(core.batch_born(batch))
                )
            freed = core.batch_freed_count(batch)
            if freed:
                message.freed.extend((ctypes.c_int64 * freed).from_address(core.batch_freed(batch)))
            total += size
            if total >= _FRAME_BYTES or len(batches) >= _FRAME_BATCHES:
                break
            batch = core.session_poll(self.handle, 0)
        return frame

    def _ended(self) -> None:
        self._saying_goodbye = True
        self._stream.welcomed.set()
        transport = self._transport
        if transport is not None:
            # The sender says goodbye, then the gateway ends the stream.
            deadline = time.monotonic() + 1.0
            while not self._stream.ended and time.monotonic() < deadline:
                time.sleep(0.002)
            transport.cancel()


# ---------------------------------------------------------------- forks


def _after_fork_in_child() -> None:
    # The threads that carry sessions are the parent's: whatever records here would wait for ever.
    for session in list(_ALL):
        if not session.closed:
            core.machine_fail(
                session.handle,
                b"MachineStateException: this process was forked from the one that opened machine '"
                + session.machine_name.encode()
                + b"', and cannot use it: open a machine here, or start the process with the method 'spawn'",
            )
    _forked[0] = _forked[0] or bool(_BY_SLOT)
    _BY_SLOT.clear()


os.register_at_fork(after_in_child=_after_fork_in_child)
