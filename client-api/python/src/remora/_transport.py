# SPDX-License-Identifier: AGPL-3.0-or-later
"""Two ways to carry a session's frames to the gateway and back; both speak gRPC.

:class:`GrpcTransport` uses grpcio. Each message there passes through two threads of its own on either
way, about 150 us of a read's 300. :class:`DirectTransport` speaks the little of HTTP/2 that one
bidirectional stream needs, on a socket of its own: whoever sends writes to the socket, whoever
receives reads from it. It is used without TLS, where latency counts most (the gateway is on this
computer); and what it cannot explain, such as a refusal, is left to grpcio to ask again.
"""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from typing import Any, Protocol

import grpc

Handler = Callable[[bytes], Any]

PATH = "/remora.gateway.v1.Sessions/Connect"
_CONNECT_SECONDS = 10.0
_DEAD_MILLIS = 30_000

_DATA, _HEADERS, _RESET, _SETTINGS, _PING, _GO_AWAY, _WINDOW_UPDATE = 0, 1, 3, 4, 6, 7, 8
_END_STREAM, _ACK, _END_HEADERS, _PADDED = 1, 1, 4, 8
_INITIAL_WINDOW_SETTING, _MAX_FRAME_SETTING = 4, 5
_FIRST_WINDOW = 65_535
_FIRST_MAX_FRAME = 16_384
_WINDOW = 1 << 30
_REPLENISH = 1 << 26
_MAX_FRAME = 1 << 20
_LARGEST_MESSAGE = 64 * 1024 * 1024
_BUFFERS_A_WRITE = 512


class BrokenError(Exception):
    """A stream has ended.

    Attributes:
        code: gRPC's status, if the gateway said one.
        unexplained: the gateway ended it and may have said why; another transport can tell.
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


class Transport(Protocol):
    """One connection of a session."""

    def run(self, requests: Iterator[bytes], handle: Handler) -> None:
        """Sends what `requests` gives and hands what comes to `handle`, until the stream ends.

        Raises:
            BrokenError: it did not end as both sides wanted.

        """

    def cancel(self) -> None:
        """Ends the stream at once. From any thread."""


class GrpcTransport:
    """Through grpcio."""

    def __init__(self, channel: grpc.Channel, metadata: list[tuple[str, str]]) -> None:
        self._channel = channel
        self._metadata = metadata
        self._call: Any = None

    def run(self, requests: Iterator[bytes], handle: Handler) -> None:
        """Runs the stream."""
        # Handling a message where it is decoded, on gRPC's own thread, saves the way through another one.
        stream = self._channel.stream_stream(
            PATH, request_serializer=None, response_deserializer=lambda data: handle(data) or True
        )
        try:
            self._call = stream(requests, metadata=self._metadata)
            for _ in self._call:
                pass
        except grpc.RpcError as e:
            raise BrokenError(e.details() or e.code().name, e.code(), e) from None

    def cancel(self) -> None:
        """Ends the stream."""
        if self._call is not None:
            self._call.cancel()


class DirectTransport:
    """Over a socket of its own: HTTP/2 (RFC 9113) with one stream, without compression of its own headers."""

    def __init__(self, address: str, metadata: list[tuple[str, str]]) -> None:
        self._address = address
        self._metadata = metadata
        self._socket: socket.socket | None = None
        self._cancelled = False
        self._writing = threading.Lock()
        self._room = threading.Condition()
        self._connection_window = _FIRST_WINDOW
        self._stream_window = _FIRST_WINDOW
        self._initial_window = _FIRST_WINDOW
        self._max_frame = _FIRST_MAX_FRAME
        self._ended = False
        self._consumed = 0

    def run(self, requests: Iterator[bytes], handle: Handler) -> None:
        """Runs the stream."""
        sender: threading.Thread | None = None
        try:
            connection = self._connect()
            sender = threading.Thread(
                target=self._send_all, args=(requests,), name="remora-sender", daemon=True
            )
            sender.start()
            self._receive_all(connection, handle)
        except OSError as e:
            raise BrokenError(str(e) or "the connection is broken") from None
        finally:
            self._ended = True
            with self._room:
                self._room.notify_all()
            self._close()
            if sender is not None:
                sender.join(1.0)

    def cancel(self) -> None:
        """Ends the stream."""
        self._cancelled = True
        self._close(keep=True)

    def _connect(self) -> socket.socket:
        host, _, port = self._address.rpartition(":")
        connection = socket.create_connection((host.strip("[]"), int(port)), _CONNECT_SECONDS)
        connection.settimeout(None)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        with contextlib.suppress(OSError, AttributeError):
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, _DEAD_MILLIS)
        self._socket = connection
        if self._cancelled:
            raise OSError("cancelled")
        headers = [
            (":method", "POST"),
            (":scheme", "http"),
            (":path", PATH),
            (":authority", self._address),
            ("te", "trailers"),
            ("content-type", "application/grpc"),
            ("user-agent", "remora-python"),
            *self._metadata,
        ]
        settings = struct.pack(
            ">HIHI", _INITIAL_WINDOW_SETTING, _WINDOW, _MAX_FRAME_SETTING, _MAX_FRAME
        )
        self._write(
            b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
            _frame(_SETTINGS, 0, 0, settings),
            _frame(_WINDOW_UPDATE, 0, 0, struct.pack(">I", _WINDOW - _FIRST_WINDOW)),
            _frame(_HEADERS, _END_HEADERS, 1, b"".join(_header(*each) for each in headers)),
        )
        return connection

    def _write(self, *parts: bytes | memoryview) -> None:
        connection = self._socket
        if connection is None:
            raise OSError("the connection is closed")
        with self._writing:
            if len(parts) == 1:
                connection.sendall(parts[0])
                return
            waiting = [memoryview(part) for part in parts]
            while waiting:
                sent = connection.sendmsg(waiting[:_BUFFERS_A_WRITE])
                while sent:
                    if sent < len(waiting[0]):
                        waiting[0] = waiting[0][sent:]
                        break
                    sent -= len(waiting.pop(0))

    # ------------------------------------------------------------ sending

    def _send_all(self, requests: Iterator[bytes]) -> None:
        try:
            for message in requests:
                self._send(message)
            self._write(_frame(_DATA, _END_STREAM, 1, b""))
        except OSError:
            self._close(keep=True)  # the receiver finds the connection broken

    def _send(self, message: bytes) -> None:
        prefix = struct.pack(">BI", 0, len(message))
        if len(message) + 5 <= min(self._max_frame, 4096):
            self._take_room(len(message) + 5, whole=True)
            self._write(_frame(_DATA, 0, 1, prefix + message))
            return
        rest = memoryview(prefix + message)
        while rest:
            room = self._take_room(len(rest))
            parts: list[bytes | memoryview] = []
            while room > 0:
                size = min(room, self._max_frame)
                parts += (_frame_header(size, _DATA, 0, 1), rest[:size])
                rest = rest[size:]
                room -= size
            self._write(*parts)

    def _take_room(self, wanted: int, whole: bool = False) -> int:
        """Waits until the peer takes more; answers how much of what is wanted."""
        with self._room:
            while True:
                room = min(self._connection_window, self._stream_window)
                if room >= wanted or (room > 0 and not whole):
                    break
                if self._ended or self._cancelled:
                    raise OSError("the stream has ended")
                self._room.wait(1.0)
            room = min(room, wanted)
            self._connection_window -= room
            self._stream_window -= room
            return room

    # ------------------------------------------------------------ receiving

    def _receive_all(self, connection: socket.socket, handle: Handler) -> None:
        reader = _Reader(connection)
        message = bytearray()  # what has come of a message that is not complete
        while True:
            header = bytes(reader.read(9))
            size = int.from_bytes(header[:3], "big")
            kind, flags = header[3], header[4]
            if size > _MAX_FRAME:
                raise OSError(f"a frame of {size} bytes")
            if kind == _DATA:
                payload = reader.read(size)
                if flags & _PADDED:
                    payload = payload[1 : size - payload[0]]
                self._replenish(size)
                message = _messages(message, payload, handle)
            elif kind == _WINDOW_UPDATE:
                stream = int.from_bytes(header[5:9], "big")
                self._on_window_update(stream, int.from_bytes(reader.read(size)[:4], "big"))
            elif not self._on_control(kind, flags, reader.read(size)):
                return
            if flags & _END_STREAM and kind == _DATA:
                return

    def _on_control(self, kind: int, flags: int, payload: memoryview) -> bool:
        """Handles a frame that is not data; whether the stream goes on."""
        if kind == _SETTINGS and not flags & _ACK:
            self._on_settings(payload)
            self._write(_frame(_SETTINGS, _ACK, 0, b""))
        elif kind == _PING and not flags & _ACK:
            self._write(_frame(_PING, _ACK, 0, bytes(payload)))
        elif kind == _HEADERS and flags & _END_STREAM:
            if self._cancelled:
                return False
            raise BrokenError("the gateway has ended the stream", unexplained=True)
        elif kind == _RESET:
            code = int.from_bytes(payload[:4], "big")
            if code == 0 or self._cancelled:
                return False
            raise BrokenError(f"the gateway has reset the stream (HTTP/2 code {code})")
        elif kind == _GO_AWAY:
            raise BrokenError("the gateway is ending its connections")
        return True

    def _on_settings(self, payload: memoryview) -> None:
        with self._room:
            for at in range(0, len(payload) - 5, 6):
                name, value = struct.unpack_from(">HI", payload, at)
                if name == _INITIAL_WINDOW_SETTING:
                    self._stream_window += value - self._initial_window
                    self._initial_window = value
                elif name == _MAX_FRAME_SETTING:
                    self._max_frame = min(value, _MAX_FRAME)
            self._room.notify_all()

    def _on_window_update(self, stream: int, more: int) -> None:
        with self._room:
            if stream == 0:
                self._connection_window += more
            else:
                self._stream_window += more
            self._room.notify_all()

    def _replenish(self, size: int) -> None:
        self._consumed += size
        if self._consumed >= _REPLENISH:
            more = struct.pack(">I", self._consumed)
            self._consumed = 0
            self._write(_frame(_WINDOW_UPDATE, 0, 0, more), _frame(_WINDOW_UPDATE, 0, 1, more))

    def _close(self, keep: bool = False) -> None:
        """Ends the connection; `keep` leaves closing to the thread that reads from it."""
        connection = self._socket
        if connection is not None:
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
            if not keep:
                self._socket = None
                connection.close()


class _Reader:
    """Reads from a socket through a buffer: a small frame costs one system call."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._buffer = memoryview(bytearray(_MAX_FRAME + 64 * 1024))
        self._begin = self._end = 0

    def read(self, size: int) -> memoryview:
        """The next bytes; valid until the next call."""
        if self._end - self._begin < size:
            self._fill(size)
        begin = self._begin
        self._begin += size
        return self._buffer[begin : self._begin]

    def _fill(self, size: int) -> None:
        buffer = self._buffer
        if self._begin + size > len(buffer):
            left = bytes(buffer[self._begin : self._end])
            buffer[: len(left)] = left
            self._begin, self._end = 0, len(left)
        elif self._begin == self._end:
            self._begin = self._end = 0
        while self._end - self._begin < size:
            count = self._connection.recv_into(buffer[self._end :])
            if count == 0:
                raise OSError("the gateway has closed the connection")
            self._end += count


def _messages(begun: bytearray, payload: memoryview, handle: Handler) -> bytearray:
    """Hands over the messages that a frame completes; answers what is left of the last one."""
    while begun or payload:
        if begun:  # a message that began in an earlier frame
            missing = 5 - len(begun) if len(begun) < 5 else _length(begun) + 5 - len(begun)
            begun += payload[:missing]
            payload = payload[missing:]
            if len(begun) < 5 or len(begun) < _length(begun) + 5:
                if not payload:
                    return begun
                continue
            handle(bytes(memoryview(begun)[5:]))
            begun = bytearray()
            continue
        if len(payload) < 5 or len(payload) < _length(payload) + 5:
            return bytearray(payload)
        end = _length(payload) + 5
        handle(bytes(payload[5:end]))
        payload = payload[end:]
    return begun


def _length(prefixed: bytearray | memoryview) -> int:
    if prefixed[0] != 0:
        raise OSError("a compressed message came, which nobody asked for")
    length = int.from_bytes(prefixed[1:5], "big")
    if length > _LARGEST_MESSAGE:
        raise OSError(f"a message of {length} bytes is larger than {_LARGEST_MESSAGE}")
    return length


def _frame_header(size: int, kind: int, flags: int, stream: int) -> bytes:
    return struct.pack(">BHBBI", size >> 16, size & 0xFFFF, kind, flags, stream)


def _frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    return _frame_header(len(payload), kind, flags, stream) + payload


def _header(name: str, value: str) -> bytes:
    """A header field that is neither indexed nor compressed (RFC 7541, 6.2.2)."""
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
