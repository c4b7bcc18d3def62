# SPDX-License-Identifier: AGPL-3.0-or-later
"""torch.profiler shows remote operations with the node's times."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
import torch
from test_recovery import end_node, node_of
from torch._C._profiler import _ExperimentalConfig
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile, record_function, schedule

import remora
from remora import _profiler

BOTH = [ProfilerActivity.CPU, ProfilerActivity.PrivateUse1]
NODE = ("kernel", "gpu_memcpy")
ROUNDING = 0.01  # of sums of times that are microseconds since the computer's start

pytestmark = pytest.mark.filterwarnings("error:The profile is not complete", "ignore:.*acc_events")


@pytest.fixture(autouse=True)
def patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """A profile waits for a slow node, too."""
    monkeypatch.setattr(_profiler, "_LONGEST_WAIT", 60.0)


def exported(prof: Any, tmp_path: Path) -> list[dict[str, Any]]:
    file = tmp_path / "trace.json"
    prof.export_chrome_trace(str(file))
    return [each for each in json.loads(file.read_text())["traceEvents"] if "name" in each]


def slices(events: list[dict[str, Any]], *categories: str) -> list[dict[str, Any]]:
    return [each for each in events if each["ph"] == "X" and each.get("cat") in categories]


def end(slice: dict[str, Any]) -> float:
    return slice["ts"] + slice["dur"]


def of_operator(prof: Any, name: str) -> Any:
    """The row of an operator in the program, with the node's times."""
    rows = [e for e in prof.key_averages() if e.key == name and e.device_type == DeviceType.CPU]
    assert len(rows) == 1
    return rows[0]


def test_operators_have_the_nodes_times_and_python_frames(machine, device, tmp_path):
    a = torch.randn(300, 300).to(device)

    def multiply() -> torch.Tensor:
        with record_function("two products"):
            return a @ a @ a

    with profile(activities=BOTH, with_stack=True) as prof:
        total = multiply().sum()
        total.item()

    row = of_operator(prof, "aten::mm")
    assert row.count == 2 and row.self_device_time_total > 0
    assert row.device_time_total == row.self_device_time_total
    assert of_operator(prof, "two products").device_time_total == row.device_time_total
    assert of_operator(prof, "aten::sum").device_time_total > 0

    events = exported(prof, tmp_path)
    program = {e["args"]["External id"]: e for e in slices(events, "cpu_op")}
    (window,) = [e for e in slices(events, "Trace") if "PyTorch" in e["name"]]
    products = [e for e in slices(events, "kernel") if e["name"] == "aten::mm"]
    assert len(products) == 2
    for each in products:
        call = program[each["args"]["External id"]]
        assert call["name"] == "aten::mm"
        assert call["ts"] < each["ts"], "the node executes what the program has recorded"
        assert window["ts"] <= each["ts"] and end(each) <= end(window) + ROUNDING
        assert each["pid"] == device.index and each["pid"] != call["pid"]
    first, second = products
    assert end(first) <= second["ts"] + ROUNDING, "the node executes one operation at a time"
    (track,) = [e for e in events if e["name"] == "process_name" and e["pid"] == device.index]
    assert track["args"]["name"].startswith(f"remora:{device.index} (machine '")

    frames = slices(events, "python_function")
    call = program[products[0]["args"]["External id"]]
    around = [e for e in frames if e["ts"] <= call["ts"] and call["ts"] < end(e)]
    assert any(e["name"].endswith(": multiply") for e in around)


def test_reads_and_uploads_are_copies_and_cpu_profiles_have_no_track(machine, device, tmp_path):
    with profile(activities=BOTH) as prof:
        torch.ones(1000).to(device).cpu()
    names = {e["name"] for e in slices(exported(prof, tmp_path), "gpu_memcpy")}
    assert names == {"read", "write"}

    with profile(activities=[ProfilerActivity.CPU]) as prof:
        torch.ones(3).to(device).sum().item()
    assert slices(exported(prof, tmp_path), *NODE) == []


def test_the_default_covers_machines_and_so_does_the_older_profiler(machine, device):
    a = torch.randn(100, 100).to(device)
    with profile() as prof:
        (a @ a).sum().item()
    assert of_operator(prof, "aten::mm").self_device_time_total > 0
    with torch.autograd.profiler.profile(use_device="remora") as older:
        (a @ a).sum().item()
    assert of_operator(older, "aten::mm").self_device_time_total > 0


def test_threads_and_backward_passes(machine, device, tmp_path):
    weight = torch.randn(50, 50).to(device).requires_grad_()
    failures: list[BaseException] = []

    def work() -> None:
        try:
            for _ in range(20):
                torch.exp(torch.ones(20, 20, device=device)).sum().item()
        except BaseException as e:
            failures.append(e)

    everywhere = _ExperimentalConfig(profile_all_threads=True)
    with profile(activities=BOTH, experimental_config=everywhere) as prof:
        threads = [threading.Thread(target=work) for _ in range(3)]
        for each in threads:
            each.start()
        (weight @ weight).sum().backward()
        for each in threads:
            each.join(60)
    assert failures == []
    events = exported(prof, tmp_path)
    program = {e["args"]["External id"]: e for e in slices(events, "cpu_op")}
    runs = [e for e in slices(events, "kernel") if e["name"] in ("aten::exp", "aten::mm")]
    calls = [program[e["args"]["External id"]] for e in runs]
    assert [c["name"] for c in calls] == [e["name"] for e in runs]
    assert len({e["args"]["External id"] for e in runs}) == len(runs)
    products = [c for c in calls if c["name"] == "aten::mm"]
    assert len(products) == 3 and len({c["tid"] for c in products}) == 2


def test_cycles_of_a_schedule(machine, device, tmp_path):
    a = torch.randn(50, 50).to(device)
    found: list[tuple[int, int]] = []

    def ready(prof: Any) -> None:
        events = exported(prof, tmp_path)
        program = {e["args"]["External id"]: e["name"] for e in slices(events, "cpu_op")}
        runs = [e for e in slices(events, "kernel") if e["name"] == "aten::mm"]
        linked = [e for e in runs if program[e["args"]["External id"]] == "aten::mm"]
        found.append((len(runs), len(linked)))

    plan = schedule(wait=1, warmup=1, active=2, repeat=3)
    with profile(activities=BOTH, schedule=plan, on_trace_ready=ready) as prof:
        for _ in range(13):
            (a @ a).sum()
            prof.step()
    assert found == [(2, 2)] * 3


def test_two_machines_one_of_them_opened_during_the_profile(machine, device, tmp_path):
    a = torch.randn(50, 50).to(device)
    with profile(activities=BOTH) as prof, remora.RemoteMachine("mock") as other:
        b = torch.randn(50, 50).to(other.device())
        (a @ a).sum().item()
        (b @ b).sum().item()
        (b @ b).sum()
        index = other.device().index
    events = exported(prof, tmp_path)
    products = [e["pid"] for e in slices(events, "kernel") if e["name"] == "aten::mm"]
    assert sorted(products) == sorted([device.index, index, index])
    tracks = {
        e["pid"] for e in events if e["name"] == "process_name" and "machine" in e["args"]["name"]
    }
    assert tracks == {device.index, index}


def test_an_operation_that_fails_does_not_end_the_profile(machine, device):
    a = torch.randn(50, 50).to(device)
    with profile(activities=BOTH) as prof:
        (a @ a).sum()
        index = torch.tensor([60]).to(device)
        a.index_select(0, index)  # the node finds out
    assert of_operator(prof, "aten::mm").self_device_time_total > 0
    with pytest.raises(IndexError):
        machine.synchronize()
    with profile(activities=BOTH) as prof:
        (a @ a).sum()
    assert of_operator(prof, "aten::mm").self_device_time_total > 0


def test_a_trace_and_a_profile_at_once(machine, device, tmp_path):
    a = torch.randn(50, 50).to(device)
    with machine.trace(tmp_path / "run.json") as trace:
        (a @ a).sum()
        with profile(activities=BOTH) as prof:
            (a @ a).sum()
        (a @ a).sum()
    assert of_operator(prof, "aten::mm").count == 1
    assert of_operator(prof, "aten::mm").self_device_time_total > 0
    recorded = json.loads(trace.file.read_text())
    runs = [e for e in recorded if e.get("cat") == "run" and e["name"] == "aten::mm"]
    assert len(runs) == 3


def test_a_trace_can_begin_during_a_profile(machine, device, tmp_path):
    a = torch.randn(50, 50).to(device)
    with profile(activities=BOTH) as prof:
        (a @ a).relu()
        with machine.trace(tmp_path / "run.json") as trace:
            with pytest.raises(remora.MachineStateException, match="traced already"):
                machine.trace(tmp_path / "other.json")
            (a @ a).sum()
        (a @ a).sum()
    assert of_operator(prof, "aten::mm").count == 3
    assert of_operator(prof, "aten::mm").self_device_time_total > 0
    recorded = json.loads(trace.file.read_text())
    runs = [e["name"] for e in recorded if e.get("cat") == "run" and "args" in e]
    assert runs == ["aten::mm", "aten::sum.dim_IntList"]


@pytest.mark.full
def test_without_a_machine_a_profile_is_like_any_other(tmp_path):
    program = tmp_path / "program.py"
    program.write_text(
        "import torch, remora\n"
        "with torch.profiler.profile() as prof:\n"
        "    torch.ones(3) + 1\n"
        "assert [e.count for e in prof.key_averages() if e.key == 'aten::add'] == [1]\n"
    )
    done = subprocess.run(
        [sys.executable, str(program)], capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0 and "Remora" not in done.stderr, done.stderr


def test_a_core_that_cannot_names_what_can(machine, device, monkeypatch):
    """As with the headers of torch 2.6."""
    inner = torch.autograd.profiler.profile
    monkeypatch.setattr(inner, "_prepare_trace", inner._prepare_trace)  # to be put back
    _profiler._refuse_machines()
    a = torch.ones(5, 5).to(device)
    for activities in (None, [ProfilerActivity.PrivateUse1]):
        with pytest.warns(UserWarning, match=r"machine\.trace\(file\)") as warned:
            prof = profile(activities=activities)
            prof.start()
        (a @ a).sum().item()
        prof.stop()
        assert warned[-1].filename == __file__
        assert of_operator(prof, "aten::mm").device_time_total == 0


@pytest.mark.full
@pytest.mark.gateway
def test_a_pause_and_a_lost_node_end_no_profile():
    machine = remora.RemoteMachine("mock").start()
    a = torch.randn(50, 50).to(machine.device())
    with profile(activities=BOTH) as prof:
        (a @ a).sum().item()
        machine.pause()
    assert machine.state == "PAUSED", "the end of a profile does not resume it"
    assert of_operator(prof, "aten::mm").self_device_time_total > 0

    (a @ a).sum().item()  # resumes it
    with (
        pytest.warns(UserWarning, match="The profile is not complete: machine .* has ended"),
        profile(activities=BOTH) as prof,
    ):
        (a @ a).sum().item()
        node = node_of(machine)
        os.kill(node, signal.SIGSTOP)
        (a @ a).sum()  # is never executed
        end_node(node)
        with pytest.raises(remora.NodeLostException):
            a.sum().item()
    assert of_operator(prof, "aten::mm").self_device_time_total > 0
    machine.stop()
