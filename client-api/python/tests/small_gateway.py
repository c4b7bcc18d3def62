# SPDX-License-Identifier: AGPL-3.0-or-later
"""A gateway for tests of a session's connection: HTTP/2 and gRPC written by hand, with an executor behind.

Everything about its frames can be chosen: the division of messages into frames, other frames in between, the size of
the flow-control windows, and invalid contents.
"""

from __future__ import annotations

import contextlib
import ctypes
import socket
import struct
import threading
from collections.abc import Iterator
from dataclasses import dataclass

from remora._native import core
from remora._proto import gateway_pb2 as pb
from remora._transport import BrokenError, DirectTransport

DATA, HEADERS, RESET, SETTINGS, PING, GO_AWAY, WINDOW_UPDATE = 0, 1, 3, 4, 6, 7, 8
END_STREAM, ACK, END_HEADERS, PADDED = 1, 1, 4, 8
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
FIRST_WINDOW = 65_535


def frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    return struct.pack(">I", len(payload))[1:] + struct.pack(">BBI", kind, flags, stream) + payload


def message(server_frame: pb.ServerFrame) -> bytes:
    data = server_frame.SerializeToString()
    return struct.pack(">BI", 0, len(data)) + data


class Silent:
    """A transport that explains nothing."""

    def run(self, session: object) -> None:
        raise BrokenError("the gateway does not say why")

    def cancel(self) -> None:
        pass


@dataclass
class Executed:
    """What became of a batch."""

    sequence: int
    values: list[tuple[int, bytes]]
    report: bytes


class SmallGateway:
    """Serves sessions of one machine, one connection at a time."""

    def __init__(self, *, piece: int = 1 << 14, window: int = FIRST_WINDOW, pings: bool = False):
        """Sends frames of `piece` bytes, and accepts `window` bytes of batches at a time."""
        self.piece, self.window, self.pings = piece, window, pings
        self.answered_pings = 0
        self.swallows = False  # drops what it would send; the connection stays open
        self.connections = 0
        self.pings_received = 0
        self.mangle = lambda data: data
        self.goodbyes = 0
        self.waits: list[pb.Waits] = []
        self.node: SmallNode | None = None  # what it offers for direct connections
        self.closings = 0
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self._listener.getsockname()[1]}"
        self.executor = core.check(core.executor_create(b"cpu", b""))
        self._index = 0
        self._kept: list[pb.ServerFrame] = []
        self._last_batch = 0
        self._client: socket.socket | None = None
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def transport(self, explain: bool = False):
        if explain:
            return Silent()
        return DirectTransport(self.address, [("authorization", "Bearer " + "x" * 200)])

    def end(self) -> None:
        """Returns None: there is no gateway process."""

    def cut(self) -> None:
        client = self._client
        if client is not None:
            with contextlib.suppress(OSError):
                client.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.cut()
        self._thread.join(10)
        core.executor_destroy(self.executor)

    # ------------------------------------------------------------ a connection

    def _serve(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                self._client = self._listener.accept()[0]
                self.swallows = False
                self.connections += 1
                with contextlib.suppress(OSError, AssertionError), self._client:
                    self._session(self._client)

    def _session(self, client: socket.socket) -> None:
        self._send(
            frame(SETTINGS, 0, 0, struct.pack(">HI", 4, self.window))
            + frame(HEADERS, END_HEADERS, 1, b"\x88")
            + frame(99, 0, 1, b"of a later version")
        )
        for sent in self._frames(client):
            if sent.WhichOneof("frame") == "hello":
                self._index_of(sent)
                welcome = pb.Welcome(session=7, secret=b"s", last_batch=self._last_batch)
                welcome.direct = self.node is not None
                self._say(pb.ServerFrame(welcome=welcome))
                for kept in self._kept:
                    self._say(kept)
            elif sent.WhichOneof("frame") == "batches":
                self._index_of(sent)
                for batch in sent.batches.batches:
                    self._execute(batch)
            elif sent.WhichOneof("frame") == "open_direct":
                assert self.node is not None
                self._tell(direct=self.node.offer())
            elif sent.WhichOneof("frame") == "close_direct":
                assert self.node is not None
                self.closings += 1
                left = self.node.end()
                closed = pb.DirectClosed(
                    last_batch=self._last_batch, number=sent.close_direct.number
                )
                self._tell(direct_closed=closed)
                for executed in left:
                    self._report(executed)
            elif sent.WhichOneof("frame") == "waits":
                assert self.goodbyes == 0
                self.waits.append(sent.waits)
            elif sent.WhichOneof("frame") == "goodbye":
                self.goodbyes += 1
                self._send(frame(HEADERS, END_HEADERS | END_STREAM, 1, b""))
                return

    def _index_of(self, sent: pb.ClientFrame) -> None:
        self._kept = [each for each in self._kept if each.index > sent.received]

    def _execute(self, batch: pb.Batch) -> None:
        if batch.sequence > self._last_batch:
            self._report(self.run(batch.sequence, batch.data))

    def run(self, sequence: int, data: bytes) -> Executed:
        """Executes the next batch."""
        assert sequence == self._last_batch + 1
        self._last_batch = sequence
        result = core.check(core.executor_execute(self.executor, data, len(data)))
        values = [
            (
                core.result_value_request(result, i),
                ctypes.string_at(core.result_value(result, i), core.result_value_bytes(result, i)),
            )
            for i in range(core.result_value_count(result))
        ]
        report = ctypes.string_at(core.result_report(result), core.result_report_bytes(result))
        core.result_release(result)
        return Executed(sequence, values, report)

    def _report(self, executed: Executed) -> None:
        for request, data in executed.values:
            for at in range(0, len(data), 1 << 20):
                self._tell(
                    value=pb.Value(request=request, offset=at, data=data[at : at + (1 << 20)])
                )
        self._tell(executed=pb.Executed(sequence=executed.sequence, reports=[executed.report]))

    def _tell(self, **what: object) -> None:
        self._index += 1
        said = pb.ServerFrame(index=self._index, **what)  # type: ignore[arg-type]
        self._kept.append(said)
        self._say(said)

    def _say(self, said: pb.ServerFrame) -> None:
        data = self.mangle(message(said))
        for at in range(0, len(data), self.piece):
            piece = data[at : at + self.piece]
            if self.pings:
                self._send(frame(PING, 0, 0, b"12345678") + frame(SETTINGS, 0, 0, b""))
                self._send(frame(DATA, PADDED, 1, b"\3" + piece + b"\0\0\0"))
            else:
                self._send(frame(DATA, 0, 1, piece))

    def _send(self, data: bytes) -> None:
        assert self._client is not None
        if not self.swallows:
            self._client.sendall(data)

    # ------------------------------------------------------------ received frames

    def _frames(self, client: socket.socket) -> Iterator[pb.ClientFrame]:
        file = client.makefile("rb")
        assert file.read(len(PREFACE)) == PREFACE
        data, used = b"", 0
        room = FIRST_WINDOW
        while header := file.read(9):
            size, kind, flags = int.from_bytes(header[:3], "big"), header[3], header[4]
            payload = file.read(size)
            assert size <= 1 << 14
            if kind == PING and flags & ACK:
                self.answered_pings += payload == b"12345678"
            elif kind == PING:
                self.pings_received += 1
                self._send(frame(PING, ACK, 0, payload))
            elif kind == DATA:
                used += size
                assert used <= max(self.window, room), (
                    "the core has sent more than the window allows"
                )
                data += payload
                while len(data) >= 5 and len(data) >= 5 + int.from_bytes(data[1:5], "big"):
                    end = 5 + int.from_bytes(data[1:5], "big")
                    yield pb.ClientFrame.FromString(data[5:end])
                    data = data[end:]
                more = struct.pack(">I", used)
                used = 0
                room = 0
                if struct.unpack(">I", more)[0]:
                    self._send(frame(WINDOW_UPDATE, 0, 0, more) + frame(WINDOW_UPDATE, 0, 1, more))


# The types of frames of the link that a direct connection has.
ACK_FRAME, VALUE_FRAME, HEARTBEAT, GOODBYE, RECEIVED = 9, 10, 11, 12, 18
REFUSED, DIRECT_HELLO, DIRECT_WELCOME, DIRECT_BATCH = 3, 24, 25, 26
LINK_VERSION = 4
SESSION = 7


def crc32c(data: bytes) -> int:
    crc = 0xFFFFFFFF
    for byte in data:
        crc = _CRC[(crc ^ byte) & 0xFF] ^ crc >> 8
    return crc ^ 0xFFFFFFFF


def _table() -> list[int]:
    table = []
    for number in range(256):
        crc = number
        for _ in range(8):
            crc = crc >> 1 ^ (0x82F63B78 if crc & 1 else 0)
        table.append(crc)
    return table


_CRC = _table()


def link_frame(kind: int, sequence: int, payload: bytes, index: int) -> bytes:
    """Encodes a frame of the link, as FrameHeader.java does."""
    header = struct.pack(
        "<IBBHQQI", len(payload), kind, 0, LINK_VERSION, SESSION, sequence, crc32c(payload)
    )
    return header + struct.pack("<I", crc32c(header) ^ index) + payload


class SmallNode:
    """A node for direct connections to a small gateway, whose executor it uses. Frames are of `piece` bytes."""

    def __init__(self, gateway: SmallGateway, *, piece: int = 1 << 20, silence: int = 60_000):
        """The program may hear nothing for `silence` milliseconds."""
        self.piece, self.silence = piece, silence
        self.mangle = lambda kind, data: data  # of each frame that it sends
        self.connections = 0
        self.batches = 0
        self._gateway = gateway
        self._kept: list[Executed] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._client: socket.socket | None = None
        self._idle = threading.Lock()  # held while it serves a connection
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()
        gateway.node = self

    def offer(self) -> pb.Direct:
        return pb.Direct(
            address=f"127.0.0.1:{self._listener.getsockname()[1]}",
            token="small",
            heartbeat_interval_millis=200,
            heartbeat_timeout_millis=self.silence,
            max_frame_bytes=16 << 20,
        )

    def end(self) -> list[Executed]:
        """Ends the connection; returns what the program has not confirmed."""
        client = self._client
        if client is not None:
            with contextlib.suppress(OSError):
                client.shutdown(socket.SHUT_RDWR)
        with self._idle:
            left, self._kept = self._kept, []
            return left

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.end()
        self._thread.join(10)

    def _serve(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client = self._listener.accept()[0]
                with self._idle, contextlib.suppress(OSError), client:
                    self._client = client
                    self.connections += 1
                    self._carry(client)

    def _carry(self, client: socket.socket) -> None:
        file = client.makefile("rb")
        sent = 0
        received = 0

        def send(kind: int, sequence: int, payload: bytes) -> None:
            nonlocal sent
            data = self.mangle(kind, link_frame(kind, sequence, payload, sent))
            sent += 1
            for at in range(0, len(data), self.piece):
                client.sendall(data[at : at + self.piece])

        while len(header := file.read(32)) == 32:
            size, kind, _, _, session, sequence, _ = struct.unpack("<IBBHQQI", header[:28])
            payload = file.read(size)
            assert header + payload == link_frame(kind, sequence, payload, received)
            assert session == SESSION
            received += 1
            if kind == DIRECT_HELLO:
                assert b"small" in payload
                send(DIRECT_WELCOME, 0, b"\x08" + _varint(self._gateway._last_batch))
            elif kind == RECEIVED:
                self._kept = [each for each in self._kept if each.sequence > sequence]
            elif kind == DIRECT_BATCH:
                notes = int.from_bytes(payload[:4], "little")
                batch = payload[8 + notes :]
                assert int.from_bytes(payload[4 + notes : 8 + notes], "little") == len(batch)
                executed = self._gateway.run(sequence, batch)
                self.batches += 1
                self._kept.append(executed)
                send(HEARTBEAT, 0, b"")
                for request, data in executed.values:
                    for at in range(0, len(data), 1 << 16):
                        head = struct.pack("<QQQ", request, at, len(data))
                        send(VALUE_FRAME, sequence, head + data[at : at + (1 << 16)])
                send(ACK_FRAME, sequence, executed.report)
            else:
                assert kind == HEARTBEAT


def _varint(number: int) -> bytes:
    data = bytearray()
    while number >= 128:
        data.append(number % 128 + 128)
        number //= 128
    return bytes(data) + bytes([number])
