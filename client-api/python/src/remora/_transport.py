# SPDX-License-Identifier: AGPL-3.0-or-later
"""Two transports for a session's frames to and from the gateway; both speak gRPC.

:class:`DirectTransport` passes a socket to the native core. There, a thread that sends writes to the socket
and a thread that waits for a value reads from it, so a value needs neither Python nor another thread. It is
used without TLS, where latency matters most because the gateway is on this computer. If it cannot explain
the stream's end, such as a refusal, grpcio makes the request again. :class:`GrpcTransport` uses grpcio,
where each message passes through two more threads in each direction.
"""

from __future__ import annotations

import contextlib
import ctypes
import enum
import socket
import threading
from collections.abc import Iterator
from typing import Any, Protocol

import grpc

from ._native import core

PATH = "/remora.gateway.v1.Sessions/Connect"
_CONNECT_SECONDS = 10.0
_DEAD_MILLIS = 30_000
_TURN_MICROS = 100_000


class BrokenError(Exception):
    """A stream has ended.

    Attributes:
        code: gRPC's status, if the gateway sent one.
        unexplained: the gateway ended the stream and may have sent the reason; another transport can read
            it.
        cause: gRPC's own error.

    """

    def __init__(
        self,
        message: str,
        code: grpc.StatusCode | None = None,
        cause: grpc.RpcError | None = None,
        unexplained: bool = False,
    ) -> None:
        super().__init__(message)
        self.code = code
        self.cause = cause
        self.unexplained = unexplained


class Carried(Protocol):
    """A session, as a transport sees it."""

    handle: int
    """The machine's handle in the native core, which produces and consumes the frames."""

    def hello(self) -> bytes:
        """Returns the first frame of a connection."""

    def on_welcome(self, frame: bytes) -> None:
        """Handles the gateway's first frame; then the core may continue."""

    def log_failures(self) -> None:
        """Called when operations have failed."""

    def lose(self, error: BaseException) -> None:
        """Called when the session cannot continue."""


class Transport(Protocol):
    """One connection of a session."""

    def run(self, session: Carried) -> None:
        """Carries the session until the stream ends.

        Raises:
            BrokenError: the stream did not end regularly.

        """

    def cancel(self) -> None:
        """Ends the stream at once. May be called from any thread."""


class GrpcTransport:
    """Uses grpcio."""

    def __init__(self, channel: grpc.Channel, metadata: list[tuple[str, str]]) -> None:
        self._channel = channel
        self._metadata = metadata
        self._call: Any = None
        self._taking = threading.Lock()
        self._welcomed = threading.Event()
        self._ended = False

    def run(self, session: Carried) -> None:
        """Runs the stream."""
        # Messages are handled where they are decoded, on gRPC's own thread, which saves a switch to another
        # one.
        stream = self._channel.stream_stream(
            PATH,
            request_serializer=None,
            response_deserializer=lambda data: self._on_frame(session, data),
        )
        try:
            self._call = stream(self._frames(session), metadata=self._metadata)
            for _ in self._call:
                pass
        except grpc.RpcError as e:
            raise BrokenError(e.details() or e.code().name, e.code(), e) from None
        finally:
            with self._taking:  # from now on, frames belong to the next connection
                self._ended = True
            self._welcomed.set()

    def cancel(self) -> None:
        """Ends the stream."""
        if self._call is not None:
            self._call.cancel()

    def _frames(self, session: Carried) -> Iterator[bytes]:
        """Yields the frames to send; gRPC asks for the next one when the last is on its way."""
        yield session.hello()
        self._welcomed.wait()
        data = ctypes.c_void_p()
        while True:
            with self._taking:
                if self._ended:
                    return
                size = core.session_outgoing(session.handle, _TURN_MICROS, ctypes.byref(data))
                if size < 0:
                    return
                frame = ctypes.string_at(data, size) if size > 0 else None
            if frame is not None:
                yield frame

    def _on_frame(self, session: Carried, data: bytes) -> bool:
        if self._ended:
            return True
        result = core.session_incoming(session.handle, data, len(data))
        if result < 0:
            session.lose(core.error())
        elif result > 0:
            session.on_welcome(data)
            self._welcomed.set()
        else:
            session.log_failures()
        return True


class _End(enum.IntEnum):
    """The results of ``session_carry``: remora_carried of remora.h."""

    FAILURES = 0
    WELCOME = 1
    ENDED = 2
    BROKEN = 3
    UNEXPLAINED = 4
    FAILED = 5


class DirectTransport:
    """Uses a socket that the native core reads and writes."""

    def __init__(self, address: str, metadata: list[tuple[str, str]]) -> None:
        self._address = address
        self._metadata = metadata
        self._lock = threading.Lock()
        self._handle: int | None = None  # of the machine, while the core has the connection
        self._cancelled = False

    def run(self, session: Carried) -> None:
        """Runs the stream."""
        handle = session.handle
        self._connect(handle, session.hello())
        while True:
            result = core.session_carry(handle)
            if result == _End.FAILURES:
                session.log_failures()
            elif result == _End.WELCOME:
                data = ctypes.c_void_p()
                size = core.check(core.session_welcome(handle, ctypes.byref(data)))
                session.on_welcome(ctypes.string_at(data, size))
            else:
                break
        error = core.error()
        with self._lock:
            self._handle = None
        if result == _End.FAILED:
            session.lose(error)
        elif result in (_End.BROKEN, _End.UNEXPLAINED):
            raise BrokenError(str(error), unexplained=result == _End.UNEXPLAINED)
        elif result < 0:
            raise error

    def cancel(self) -> None:
        """Ends the stream."""
        with self._lock:
            self._cancelled = True
            if self._handle is not None:
                core.session_disconnect(self._handle)

    def _connect(self, handle: int, hello: bytes) -> None:
        """Connects, and passes the connection to the core."""
        host, _, port = self._address.rpartition(":")
        try:
            connection = socket.create_connection((host.strip("[]"), int(port)), _CONNECT_SECONDS)
        except OSError as e:
            raise BrokenError(str(e)) from None
        connection.settimeout(None)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        with contextlib.suppress(OSError, AttributeError):
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, _DEAD_MILLIS)
        fields = [
            (":method", "POST"),
            (":scheme", "http"),
            (":path", PATH),
            (":authority", self._address),
            ("te", "trailers"),
            ("content-type", "application/grpc"),
            ("user-agent", "remora-python"),
            *self._metadata,
        ]
        headers = b"".join(_header(*each) for each in fields)
        with self._lock:
            if self._cancelled:
                connection.close()
                raise BrokenError("cancelled")
            core.check(
                core.session_connect(
                    handle, connection.detach(), headers, len(headers), hello, len(hello)
                )
            )
            self._handle = handle


def _header(name: str, value: str) -> bytes:
    """Encodes a header field that is neither indexed nor compressed (RFC 7541, 6.2.2)."""
    return b"\0" + _string(name.encode()) + _string(value.encode())


def _string(text: bytes) -> bytes:
    if len(text) < 127:
        return bytes([len(text)]) + text
    length, rest = bytearray([127]), len(text) - 127
    while rest >= 128:
        length.append(rest % 128 + 128)
        rest //= 128
    length.append(rest)
    return bytes(length) + text
