# SPDX-License-Identifier: AGPL-3.0-or-later
"""Progress for programs, terminals and notebooks, and the traces of a program."""

from __future__ import annotations

import concurrent.futures
import io
import os
import queue
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import grpc
import pytest
import torch
from conftest import await_that

import remora
from remora import Progress, _gateway, _progress, models
from remora._proto import gateway_pb2 as pb

LIMIT = 60


@pytest.fixture
def reports() -> queue.Queue[Progress]:
    return queue.Queue()


@pytest.fixture
def reporter(reports: queue.Queue[Progress]) -> Iterator[_progress.Reporter]:
    made = _progress.Reporter("m", [reports.put])
    yield made
    made.close()


def until(reports: queue.Queue[Progress], wanted: Callable[[Progress], bool]) -> list[Progress]:
    """Returns the reports up to the first that is wanted."""
    seen = []
    while True:
        seen.append(reports.get(timeout=LIMIT))
        if wanted(seen[-1]):
            return seen


def test_only_what_lasts_is_reported(
    reporter: _progress.Reporter, reports: queue.Queue[Progress]
) -> None:
    with reporter._telling, _progress.activity(reporter, "short"):
        pass  # the reporter does not look at it before it has ended, however slow this computer is
    with _progress.activity(reporter, "load", "bytes") as loading:
        loading.message("file 1")
        loading.set(5, 10)
        seen = until(reports, lambda each: each.done == 5)
    seen += until(reports, lambda each: each.ended)
    assert {each.activity for each in seen} == {"load"}
    assert all(each.elapsed >= 1 for each in seen)
    told = next(each for each in seen if each.done == 5)
    assert (told.fraction, told.message, told.ended) == (0.5, "file 1", False)
    seconds = int(told.elapsed)
    assert str(told).startswith(f"m: load 50%, 0.0 kB of 0.0 kB, {seconds} s: file 1")


def test_who_listens_hears_of_an_end(
    reporter: _progress.Reporter, reports: queue.Queue[Progress]
) -> None:
    reporter.begin("open")
    assert not reports.get(timeout=LIMIT).ended
    reporter.close()
    assert until(reports, lambda each: each.ended)[-1].activity == "open"
    assert reports.empty()


def test_a_listener_that_raises_is_removed(
    reports: queue.Queue[Progress], caplog: pytest.LogCaptureFixture
) -> None:
    def bad(report: Progress) -> None:
        raise ValueError("a listener's mistake")

    made = _progress.Reporter("m", [bad, reports.put])
    made.begin("open")
    until(reports, lambda each: True)
    until(reports, lambda each: True)
    made.close()
    assert caplog.text.count("failed, and is removed") == 1


def test_a_terminals_line_is_written_over_and_cleared() -> None:
    stream = io.StringIO()
    bar = _progress.TerminalBar(stream)
    bar(Progress("m", "open", elapsed=9))
    bar(Progress("m", "load", 5, 10, "batches", elapsed=2))
    bar(Progress("m", "load", 10, 10, "batches", elapsed=3, ended=True))
    bar(Progress("m", "open", elapsed=10, ended=True))
    opening, loading, again, end = stream.getvalue().split("\r")[1:5]
    assert opening == "m: open, 9 s"
    assert loading == "[##########..........] m: load 50%, 5 of 10 batches, 2 s"
    assert again.rstrip() == opening
    assert len(again) == len(loading)
    assert end == " " * len(opening)


def test_where_there_is_no_terminal_nothing_is_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("REMORA_PROGRESS", raising=False)
    assert _progress.reporter("m", None) is None
    monkeypatch.setenv("REMORA_PROGRESS", "1")
    assert isinstance(_progress.display(), _progress.TerminalBar)
    monkeypatch.setenv("REMORA_PROGRESS", "0")
    monkeypatch.setattr("sys.stderr", _Terminal())
    assert _progress.display() is None
    monkeypatch.delenv("REMORA_PROGRESS")
    monkeypatch.delenv("CI", raising=False)
    assert isinstance(_progress.display(), _progress.TerminalBar)
    monkeypatch.setenv("CI", "true")
    assert _progress.display() is None


class _Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_gateways_reports_are_passed_on(
    reporter: _progress.Reporter, reports: queue.Queue[Progress]
) -> None:
    asked: queue.Queue[pb.LogsRequest] = queue.Queue()

    def logs(request: pb.LogsRequest, context: grpc.ServicerContext) -> Iterator[pb.LogLine]:
        asked.put(request)
        report = pb.Progress(
            activity="replay", done=3, total=12, unit="batches", elapsed_millis=1500
        )
        yield pb.LogLine(text="a line of the log")
        yield pb.LogLine(progress=report)
        report.ended = True
        yield pb.LogLine(progress=report)

    server = grpc.server(concurrent.futures.ThreadPoolExecutor(1))
    handler = grpc.unary_stream_rpc_method_handler(
        logs,
        request_deserializer=pb.LogsRequest.FromString,
        response_serializer=pb.LogLine.SerializeToString,
    )
    server.add_generic_rpc_handlers(
        [grpc.method_handlers_generic_handler("remora.gateway.v1.Machines", {"Logs": handler})]
    )
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    gateway = _gateway.Gateway(f"127.0.0.1:{port}")
    try:
        reporter.follow(gateway)
        assert asked.get(timeout=LIMIT) == pb.LogsRequest(name="m", progress=True)
        first, last = until(reports, lambda each: each.ended)
    finally:
        gateway.close()
        server.stop(None)
    assert first == Progress("m", "replay", 3, 12, "batches", elapsed=1.5)
    assert last == Progress("m", "replay", 3, 12, "batches", elapsed=1.5, ended=True)


@pytest.mark.gateway
def test_a_large_transfer_is_reported(
    machine: remora.RemoteMachine, device: torch.device, tmp_path: Path
) -> None:
    @remora.remote(run_async=True)
    def hold(file: str) -> None:
        while not os.path.exists(file):  # noqa: PTH110 - a path of this computer
            time.sleep(0.01)

    reports: queue.Queue[Progress] = queue.Queue()
    made = _progress.Reporter(machine.name, [reports.put])
    session = machine._session
    assert session is not None
    made.watch(session)
    gate = tmp_path / "gate"
    try:
        await_that(lambda: made._transfers._rest is not None)
        held = hold(str(gate))
        torch.ones(4 << 20).to(device)  # its upload is under way until the function ends
        uploading = until(reports, lambda each: each.activity == "upload")
        gate.touch()
        until(reports, lambda each: each.activity == "upload" and each.ended)
        held.result()
    finally:
        gate.touch()
        made.close()
    assert uploading[-1].unit == "bytes"
    assert uploading[-1].done >= 16 << 20


def test_saving_a_model_tells_its_bytes(device: torch.device, tmp_path: Path) -> None:
    told: list[tuple[int, int]] = []
    path = tmp_path / "model.safetensors"
    tensors = {"weight": torch.ones(300, device=device), "bias": torch.ones(3, device=device)}
    models._write(path, tensors, {}, lambda done, total: told.append((done, total)))
    size = path.stat().st_size
    assert [total for _, total in told] == [size, size]
    assert 0 < told[0][0] < told[1][0] == size


def test_the_magic_runs_a_cell_on_a_machine(capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("IPython")
    from IPython.core.interactiveshell import InteractiveShell

    shell = InteractiveShell()
    shell.run_line_magic("load_ext", "remora")
    done = shell.run_cell("%%remora mock\nimport torch\nx = torch.ones(3)\n(x + 1).sum().item()")
    assert done.success
    assert done.result == 6.0
    assert shell.user_ns["x"].device.type == "remora"
    assert torch.ones(1).device.type == "cpu", "the default device is the cell's only"
    assert "operations" in capsys.readouterr().out
    opened = remora.get_all_machines()[-1]
    again = shell.run_cell("%%remora\ny = torch.ones(2)\ny.sum().item() + x.sum().item()")
    assert again.result == 5.0
    assert remora.get_all_machines()[-1] is opened
    with pytest.raises(ZeroDivisionError):
        shell.run_cell("%%remora\n1 / 0").raise_error()
    opened.stop()


def test_a_call_carries_the_trace_of_its_program() -> None:
    trace = pytest.importorskip("opentelemetry.trace")
    assert _gateway._trace() == []
    span = trace.NonRecordingSpan(
        trace.SpanContext(0xABC, 0xDEF, is_remote=False, trace_flags=trace.TraceFlags(1))
    )
    with trace.use_span(span):
        assert _gateway._trace() == [
            ("traceparent", f"00-{0xABC:032x}-{0xDEF:016x}-01"),
        ]
