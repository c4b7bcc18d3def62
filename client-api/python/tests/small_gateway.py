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
                self.connections += 1
                self.swallows = False
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
                self._say(pb.ServerFrame(welcome=welcome))
                for kept in self._kept:
                    self._say(kept)
            elif sent.WhichOneof("frame") == "batches":
                self._index_of(sent)
                for batch in sent.batches.batches:
                    self._execute(batch)
            elif sent.WhichOneof("frame") == "goodbye":
                self.goodbyes += 1
                self._send(frame(HEADERS, END_HEADERS | END_STREAM, 1, b""))
                return

    def _index_of(self, sent: pb.ClientFrame) -> None:
        self._kept = [each for each in self._kept if each.index > sent.received]

    def _execute(self, batch: pb.Batch) -> None:
        if batch.sequence <= self._last_batch:
            return
        assert batch.sequence == self._last_batch + 1
        self._last_batch = batch.sequence
        result = core.check(core.executor_execute(self.executor, batch.data, len(batch.data)))
        for i in range(core.result_value_count(result)):
            size = core.result_value_bytes(result, i)
            data = ctypes.string_at(core.result_value(result, i), size)
            for at in range(0, size, 1 << 20):
                self._tell(
                    value=pb.Value(
                        request=core.result_value_request(result, i),
                        offset=at,
                        data=data[at : at + (1 << 20)],
                    )
                )
        report = ctypes.string_at(core.result_report(result), core.result_report_bytes(result))
        core.result_release(result)
        self._tell(executed=pb.Executed(sequence=batch.sequence, reports=[report]))

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
