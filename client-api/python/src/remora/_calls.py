# SPDX-License-Identifier: AGPL-3.0-or-later
"""Calls in order with the operations that are no operators: functions, models.

``node_call.h`` of the native core describes the bytes. A thread waits for each call's answer, so that
nothing stays on the node when the caller stops waiting.
"""

from __future__ import annotations

import concurrent.futures
import ctypes
import logging
import queue
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from ._exchange import SOURCE_ARGUMENT, Reader, Shape
from ._native import core
from ._session import Session

log = logging.getLogger("remora")

_IDLE_SECONDS = 10.0

Outcome = Callable[[bytes, list[torch.Tensor]], Any]
"""Turns the answer's payload and tensors into a call's result."""
Failure = Callable[[BaseException], BaseException]
"""Turns the core's error into the exception to raise when there is no answer."""


def _as_it_is(error: BaseException) -> BaseException:
    return error


class Future(concurrent.futures.Future[Any]):
    """A future that logs its failure if the program never looks at it."""

    name = ""
    _looked = False

    def result(self, timeout: float | None = None) -> Any:
        self._looked = True
        return super().result(timeout)

    def exception(self, timeout: float | None = None) -> BaseException | None:
        self._looked = True
        return super().exception(timeout)

    def __del__(self) -> None:
        if not self._looked and self.done() and not self.cancelled():
            error = super().exception()
            if error is not None:
                log.error(
                    "%s has failed, and the program has not asked for its result: %s",
                    self.name,
                    error,
                )


@dataclass
class _Call:
    """A call without an answer yet."""

    session: Session
    request: int
    arguments: Sequence[torch.Tensor]
    outcome: Outcome
    failure: Failure
    future: Future


class _Waiter:
    """Waits for a session's calls, in order."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self.calls: queue.SimpleQueue[_Call] = queue.SimpleQueue()
        threading.Thread(
            target=self._wait, name=f"remora-calls-{session.machine_name}", daemon=True
        ).start()

    def _wait(self) -> None:
        while True:
            try:
                call = self.calls.get(timeout=_IDLE_SECONDS)
            except queue.Empty:
                with _waiters_lock:
                    if self.calls.empty():
                        del _waiters[self._session]
                        return
                continue
            try:
                call.future.set_result(call.outcome(*_answer(call)))
            except BaseException as e:
                call.future.set_exception(e)
            del call


_waiters: dict[Session, _Waiter] = {}
_waiters_lock = threading.Lock()


def record(
    function: Any,
    session: Session,
    device: int,
    name: str,
    *,
    payload: bytes,
    tensors: Sequence[torch.Tensor],
    timeout: float,
) -> int:
    """Records a call by ``core.run`` or ``core.call_node``; returns its number, for :func:`await_answer`."""
    request: int = core.check(
        function(
            session.handle,
            device,
            max(1, int(timeout * 1000)),
            name.encode(),
            payload,
            len(payload),
            *_addresses(tensors),
        )
    )
    return request


def await_answer(
    session: Session,
    request: int,
    name: str,
    *,
    arguments: Sequence[torch.Tensor],
    outcome: Outcome,
    failure: Failure = _as_it_is,
) -> Future:
    """Returns a future of the call's result. A separate thread waits for the answer and calls `outcome`.

    Args:
        session: where the call was recorded.
        request: its number.
        name: for messages.
        arguments: the tensors that the answer may refer to.
        outcome: turns the answer into the result.
        failure: turns the core's error into the exception to raise.

    """
    future = Future()
    future.name = name
    future.set_running_or_notify_cancel()
    with _waiters_lock:
        waiter = _waiters.get(session)
        if waiter is None:
            waiter = _waiters[session] = _Waiter(session)
        waiter.calls.put(_Call(session, request, arguments, outcome, failure, future))
    return future


def _addresses(tensors: Sequence[torch.Tensor]) -> tuple[Any, int]:
    """Returns the addresses of the tensors' ``at::Tensor``, valid during a call, and their number."""
    count = len(tensors)
    values = (ctypes.c_int64 * count)(*(tensor._cdata for tensor in tensors))
    start = ctypes.addressof(values)
    addresses = (ctypes.c_int64 * count)(*(start + 8 * i for i in range(count)))
    addresses.values = values  # type: ignore[attr-defined]  # keeps them alive
    return addresses, count


def _answer(call: _Call) -> tuple[bytes, list[torch.Tensor]]:
    data = ctypes.c_void_p()
    size = core.run_await(call.session.handle, call.request, ctypes.byref(data))
    if size < 0:
        raise call.failure(core.error())
    reader = Reader(ctypes.string_at(data, size))
    reader.byte()
    payload = reader.block()
    made = []
    for _ in range(reader.number()):
        size, device = reader.number(), call.session.device(reader.number())
        made.append(torch.empty(size, dtype=torch.uint8, device=device))
    if made:
        core.check(core.run_bind(call.session.handle, call.request, *_addresses(made)))
    storages = [each.untyped_storage() for each in made]
    tensors = []
    for _ in range(reader.number()):
        source, number = reader.byte(), reader.number()
        storage = (
            call.arguments[number].untyped_storage()
            if source == SOURCE_ARGUMENT
            else storages[number]
        )
        tensors.append(Shape.read(reader).over(storage))
    return payload, tensors
