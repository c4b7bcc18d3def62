# SPDX-License-Identifier: AGPL-3.0-or-later
"""The native core's end of a connection, against a gateway that sends what a real one never would."""

from __future__ import annotations

import random
import struct
import threading
import time

import pytest
import torch
from conftest import await_that
from small_gateway import (
    ACK_FRAME,
    DATA,
    DIRECT_WELCOME,
    END_HEADERS,
    END_STREAM,
    GO_AWAY,
    GOODBYE,
    HEADERS,
    PADDED,
    PING,
    REFUSED,
    RESET,
    SETTINGS,
    VALUE_FRAME,
    WINDOW_UPDATE,
    SmallGateway,
    SmallNode,
    crc32c,
    frame,
    link_frame,
    message,
)

from remora import _session, exceptions
from remora._proto import gateway_pb2 as pb
from remora._session import GatewaySession
from remora._settings import Settings

pytestmark = pytest.mark.fast


@pytest.fixture
def opened(monkeypatch):
    """Opens sessions on small gateways."""
    all_ = []

    def open_session(gateway: SmallGateway) -> GatewaySession:
        all_.append(gateway)
        session = GatewaySession(gateway, "small", 1, False, Settings.from_environment())
        all_.append(session)
        return session

    yield open_session
    for each in reversed(all_):
        each.close()


@pytest.mark.critical
@pytest.mark.parametrize(
    ("piece", "window", "pings"), [(1 << 14, 65_535, False), (7, 65_535, True), (1000, 300, True)]
)
def test_frames_may_be_cut_anywhere_and_room_may_be_small(
    opened, monkeypatch, piece, window, pings
):
    gateway = SmallGateway(piece=piece, window=window, pings=pings)
    session = opened(gateway)
    monkeypatch.setattr(_session, "_GOODBYE_SECONDS", 60)
    device = session.device(0)
    x = torch.randn(40, 50)
    remote = x.to(device)
    assert torch.equal((remote + 1).cpu(), x + 1)
    assert torch.equal(remote[::2].sum(1).cpu(), x[::2].sum(1))
    session.close()
    await_that(lambda: gateway.goodbyes == 1)
    if pings:  # the gateway has read all that the core has sent
        assert gateway.answered_pings > 0


def test_the_gateway_is_told_of_waits_when_they_have_changed_and_at_the_end(opened, monkeypatch):
    monkeypatch.setattr(_session, "_GOODBYE_SECONDS", 60)
    gateway = SmallGateway()
    session = opened(gateway)
    begun = time.monotonic()
    x = torch.ones(3, device=session.device(0))
    for _ in range(100):
        x.sum().item()
    session.close()
    await_that(lambda: gateway.goodbyes == 1)
    assert 1 <= len(gateway.waits) <= 2 + (time.monotonic() - begun)
    last = gateway.waits[-1]
    known = session.waits()
    values = next(sum_ for sum_ in last.causes if sum_.cause == pb.Waits.VALUE)
    assert values.count == sum(wait.count for wait in known if wait.cause == "value")
    assert values.nanos / 1e9 == pytest.approx(
        sum(wait.seconds for wait in known if wait.cause == "value")
    )
    assert last.lines[0].line.startswith(b"test_stream.py:")
    assert last.lines[0].subject == known[0].subject.encode()
    assert last.lines[0].count == known[0].count


def test_a_wait_is_told_while_it_lasts(opened, monkeypatch):
    monkeypatch.setenv("REMORA_PING_INTERVAL", "100")  # the connection does not count as dead
    gateway = SmallGateway()
    session = opened(gateway)
    x = torch.ones(3, device=session.device(0))
    gateway.swallows = True
    raised: list[BaseException] = []

    def wait() -> None:
        try:
            x.sum().item()
        except exceptions.RemoraException as e:
            raised.append(e)

    thread = threading.Thread(target=wait)
    thread.start()
    await_that(lambda: len(gateway.waits) >= 2)
    first, second = (waits.causes[0] for waits in gateway.waits[:2])
    assert first.cause == second.cause == pb.Waits.VALUE
    assert first.count == second.count == 1
    assert second.nanos > first.nanos
    session.fail(exceptions.NodeLostException("the test is over"))
    thread.join(60)
    assert [type(each) for each in raised] == [exceptions.NodeLostException]


def test_a_connection_that_is_dead_without_a_word_is_taken_up_again(opened, monkeypatch):
    monkeypatch.setenv("REMORA_PING_INTERVAL", "0.05")
    gateway = SmallGateway()
    session = opened(gateway)
    x = torch.zeros(5, device=session.device(0))
    for step in range(3):
        before = gateway.connections
        gateway.swallows = True
        x += 1
        assert x.sum().item() == 5 * (step + 1)
        # A gateway that is too slow to answer in three intervals counts as dead, too.
        assert gateway.connections > before


def test_a_quiet_connection_is_asked_whether_it_lives(opened, monkeypatch):
    monkeypatch.setenv("REMORA_PING_INTERVAL", "1")  # without an answer it is dead after three
    gateway = SmallGateway()
    opened(gateway)
    await_that(lambda: gateway.pings_received >= 5)
    assert gateway.connections == 1


def test_large_values_come_in_many_frames(opened):
    session = opened(SmallGateway(piece=(1 << 14) - 1))
    x = torch.randn(1_000_000)
    assert torch.equal(x.to(session.device(0)).cpu(), x)


def test_several_threads_wait_on_one_connection(opened):
    session = opened(SmallGateway())
    device = session.device(0)
    results: dict[int, list[float]] = {}

    def work(number: int) -> None:
        x = torch.full((3,), float(number), device=device)
        results[number] = [(x + i).sum().item() for i in range(60)]

    threads = [threading.Thread(target=work, args=(n,)) for n in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert results == {n: [3.0 * (n + i) for i in range(60)] for n in range(6)}


def test_a_cut_connection_is_taken_up_again_while_threads_wait(opened):
    gateway = SmallGateway(piece=200)
    session = opened(gateway)
    device = session.device(0)
    stopped = threading.Event()

    def cut() -> None:
        while not stopped.wait(0.05):
            gateway.cut()

    cutting = threading.Thread(target=cut)
    cutting.start()
    try:
        x = torch.zeros(5, device=device)
        for i in range(60):
            x = x + 1
            assert x.sum().item() == 5 * (i + 1)
    finally:
        stopped.set()
        cutting.join()


VALUE = message(pb.ServerFrame(index=1, value=pb.Value(request=1, offset=1 << 62, data=b"1234")))
WRONG = {
    "a frame that is too large": frame(DATA, 0, 1, b"")[3:].rjust(9, b"\xff"),
    "a compressed message": frame(DATA, 0, 1, b"\1\0\0\0\1x"),
    "an endless message": frame(DATA, 0, 1, b"\0\xff\xff\xff\xffx"),
    "padding without end": frame(DATA, PADDED, 1, b"\xff12"),
    "padding of nothing": frame(DATA, PADDED, 1, b""),
    "no protobuf": frame(DATA, 0, 1, b"\0\0\0\0\5\xff\xff\xff\xff\xff"),
    "a field past the end": frame(DATA, 0, 1, b"\0\0\0\0\2\x1a\x7f"),
    "a report that is not one": frame(
        DATA,
        0,
        1,
        message(pb.ServerFrame(index=1, executed=pb.Executed(sequence=1, reports=[b"?"]))),
    ),
    "a report of nothing": frame(
        DATA,
        0,
        1,
        message(pb.ServerFrame(index=1, executed=pb.Executed(sequence=9, reports=[b""]))),
    ),
    "a frame that skips others": frame(
        DATA, 0, 1, message(pb.ServerFrame(index=5, pong=pb.Pong()))
    ),
    "a value that does not fit": frame(DATA, 0, 1, VALUE),
    "a second welcome": frame(DATA, 0, 1, message(pb.ServerFrame(welcome=pb.Welcome()))),
    "a window that is too far open": frame(WINDOW_UPDATE, 0, 0, b"\x7f\xff\xff\xff") * 2,
    "a short window update": frame(WINDOW_UPDATE, 0, 0, b"\1"),
    "many pings": frame(PING, 0, 0, b"12345678") * 20_000,
    "a reset": frame(RESET, 0, 1, struct.pack(">I", 2)),
    "a short reset": frame(RESET, 0, 1, b""),
    "the end": frame(GO_AWAY, 0, 0, bytes(8)),
    "a status": frame(HEADERS, END_HEADERS | END_STREAM, 1, b"\xff\xff"),
    "odd settings": frame(SETTINGS, 0, 0, b"\0\4\xff\xff\xff\xff\0\5\0\0\0\0\0"),
    "lost": frame(
        DATA,
        0,
        1,
        message(pb.ServerFrame(index=1, lost=pb.Lost(error="NodeLostException", message="gone"))),
    ),
}


@pytest.mark.parametrize("what", WRONG)
def test_a_gateway_that_breaks_the_rules_is_an_error_and_not_a_crash(opened, monkeypatch, what):
    monkeypatch.setenv("REMORA_RECONNECT_TIMEOUT", "0.3")
    # Connections that break after the welcome are retried for this long.
    monkeypatch.setenv("REMORA_READ_TIMEOUT", "2")
    gateway = SmallGateway()
    session = opened(gateway)
    device = session.device(0)
    gateway.mangle = lambda data: (gateway._send(WRONG[what]), data)[1]
    try:
        for i in range(3):
            assert torch.full((2,), float(i), device=device).sum().item() == 2 * i
        assert what in ("a short reset", "odd settings", "many pings")
    except exceptions.RemoraException as e:
        kinds = ("NodeLostException", "ProtocolException", "ReadTimeoutException")
        assert type(e).__name__ in kinds, e


@pytest.mark.parametrize("seed", range(4))
def test_frames_with_wrong_bytes_are_errors_and_not_crashes(opened, monkeypatch, seed):
    monkeypatch.setenv("REMORA_RECONNECT_TIMEOUT", "0.3")
    # The core waits for the rest of a half message.
    monkeypatch.setenv("REMORA_READ_TIMEOUT", "0.3")
    rng = random.Random(seed)

    def mangle(data: bytes) -> bytes:
        changed = bytearray(data)
        for _ in range(rng.randint(0, 3)):
            if len(changed) > 1:
                at = rng.randrange(len(changed))
                changed[at] = rng.choice((0, 0xFF, rng.randrange(256)))
                if rng.random() < 0.2:
                    del changed[at:]
        return bytes(changed)

    for _ in range(5):
        gateway = SmallGateway(piece=rng.choice((3, 50, 1 << 14)))
        session = opened(gateway)
        device = session.device(0)
        gateway.mangle = mangle
        try:
            for i in range(10):
                torch.full((100,), float(i), device=device).sum().item()
        except (exceptions.RemoraException, RuntimeError):
            pass
        finally:
            gateway.mangle = lambda data: data
            session.close()


# ---------------------------------------------------------------- straight to the node


def await_direct(session: GatewaySession, node: SmallNode) -> None:
    """Reads values until one has come straight from the node."""
    x = torch.ones(3, device=session.device(0))
    await_that(lambda: x.sum().item() == 3 and node.batches > 0)


def _work(session: GatewaySession) -> None:
    device = session.device(0)
    x = torch.randn(100, 700)
    remote = x.to(device)
    for i in range(30):
        assert torch.equal((remote + i).cpu(), x + i)
        assert (remote[0, :3] + i).sum().item() == pytest.approx(float((x[0, :3] + i).sum()))


@pytest.mark.parametrize("piece", [7, 1 << 20])
def test_frames_of_the_node_may_be_cut_anywhere(opened, piece):
    gateway = SmallGateway()
    node = SmallNode(gateway, piece=piece)
    session = opened(gateway)
    await_direct(session, node)
    before = node.batches
    _work(session)
    assert node.connections == 1
    assert node.batches - before > 30
    session.close()
    node.close()


def _flip(at: int):
    def mangle(data: bytes) -> bytes:
        where = at if at >= 0 else len(data) + at
        return data[:where] + bytes([data[where] ^ 4]) + data[where + 1 :]

    return mangle


def _checked(change):
    """Changes a header and gives it a correct checksum."""

    def mangle(data: bytes) -> bytes:
        index = int.from_bytes(data[28:32], "little") ^ crc32c(data[:28])
        header = change(data[:28])
        return header + struct.pack("<I", crc32c(header) ^ index) + data[32:]

    return mangle


@pytest.mark.parametrize("kind", [DIRECT_WELCOME, VALUE_FRAME, ACK_FRAME])
@pytest.mark.parametrize(
    "mangle",
    [
        *[_flip(at) for at in (0, 3, 4, 6, 9, 17, 25, 30, -1)],
        _checked(lambda header: struct.pack("<I", 17 << 20) + header[4:]),  # too long
        _checked(lambda header: header[:4] + b"\x63" + header[5:]),  # an unknown type
        _checked(lambda header: header[:5] + b"\1" + header[6:]),  # unknown flags
        _checked(lambda header: header[:6] + b"\3" + header[7:]),  # another version
        lambda data: data[:40] + b"!" * 100,
        lambda data: data[:-1],
        lambda data: data + data,  # the same frame again
        lambda data: b"",  # a frame is missing
        lambda data: link_frame(REFUSED, 0, b"\x12\3no!", 0),
        lambda data: link_frame(GOODBYE, 0, b"\x12\3bye", 0),
    ],
)
def test_after_damaged_frames_of_the_node_the_session_continues_through_the_gateway(
    opened, kind, mangle
):
    gateway = SmallGateway()
    node = SmallNode(gateway, silence=1000)
    seen = 0

    def damage(of: int, data: bytes) -> bytes:
        nonlocal seen
        seen += of == kind
        return mangle(data) if of == kind and seen == (1 if kind == DIRECT_WELCOME else 5) else data

    node.mangle = damage
    session = opened(gateway)
    _work(session)
    x = torch.ones(3, device=session.device(0))
    await_that(lambda: x.sum().item() == 3 and gateway.closings >= 1)
    session.close()
    node.close()


def test_a_report_of_the_node_that_cannot_be_read_fails_the_machine(opened):
    gateway = SmallGateway()
    node = SmallNode(gateway)
    session = opened(gateway)
    remote = torch.ones(3).to(session.device(0))
    await_direct(session, node)

    def spoil(kind: int, data: bytes) -> bytes:
        if kind != ACK_FRAME:
            return data
        index = int.from_bytes(data[28:32], "little") ^ crc32c(data[:28])
        sequence = int.from_bytes(data[16:24], "little")
        return link_frame(ACK_FRAME, sequence, b"\xb8\x03\xff", index)

    node.mangle = spoil
    with pytest.raises(exceptions.ProtocolException, match="from the node"):
        remote.sum().item()
    node.close()
