# SPDX-License-Identifier: AGPL-3.0-or-later
"""Timelines of machines: files in Chrome's trace event format."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

import remora


def slices(file: Path, category: str) -> list[dict[str, Any]]:
    events = json.loads(file.read_text())
    return [each for each in events if each["ph"] == "X" and each["cat"] == category]


def test_a_loop_of_reads_shows_at_its_line_and_operations_lead_to_their_runs(
    machine, device, tmp_path
):
    x = torch.ones(8, 8).to(device)
    with machine.trace(tmp_path / "run.json") as trace:
        assert trace.file == tmp_path / "run.json"
        with pytest.raises(remora.MachineStateException, match="traced already"):
            machine.trace(tmp_path / "other.json")
        for _ in range(50):
            x = x + 1
            x.sum().item()
        line = f"{__file__}:{sys._getframe().f_lineno - 1} in {sys._getframe().f_code.co_name}"
    (x * 2).sum().item()

    waits = slices(trace.file, "wait")
    items = [each for each in waits if each["name"] == "wait: item()"]
    assert len(items) == 50 and {each["args"]["line"] for each in items} == {line}
    recorded = {each["args"]["call"]: each for each in slices(trace.file, "record")}
    runs = {each["args"]["call"]: each for each in slices(trace.file, "run") if "bind_id" in each}
    assert recorded.keys() == runs.keys() and len(runs) == 100
    for call, run in runs.items():
        assert run["name"] == recorded[call]["name"] != "aten::mul.Tensor"
        assert run["bind_id"] == recorded[call]["bind_id"]
        assert run["ts"] > recorded[call]["ts"], "after the node's clock was aligned"


@pytest.mark.gateway
def test_the_time_in_the_gateway_is_part_of_the_time_on_the_link(monkeypatch, tmp_path):
    monkeypatch.setenv("REMORA_DIRECT", "0")
    with remora.RemoteMachine("mock") as machine:
        x = torch.ones(8, 8).to(machine.device())
        x.sum().item()
        with machine.trace(tmp_path / "run.json") as trace:
            for _ in range(20):
                x = x + 1
                x.sum().item()

    events = json.loads(trace.file.read_text())
    ways: dict[tuple[str, str], dict[str, dict[str, float]]] = {}
    for each in events:
        if each["ph"] in "be":
            batches = ways.setdefault((each["cat"], each["name"]), {})
            batches.setdefault(each["id"], {})[each["ph"]] = each["ts"]
    error = max(each["args"].get("clock_error_us", 0) for each in events if "args" in each)
    for name in ("to the node", "from the node"):
        on_link, in_gateway = ways["link", name], ways["gateway", name]
        assert in_gateway.keys() <= on_link.keys() and len(in_gateway) >= 20
        for batch, stay in in_gateway.items():
            assert on_link[batch]["b"] - 2 * error <= stay["b"] <= stay["e"], batch
            assert stay["e"] <= on_link[batch]["e"] + 2 * error + 0.01, batch


def test_the_environment_traces_each_machine_into_a_file_of_its_own(monkeypatch, tmp_path):
    monkeypatch.setenv("REMORA_TRACE", str(tmp_path / "run.json"))
    for _ in range(2):
        with remora.RemoteMachine("mock") as machine:
            torch.ones(3).to(machine.device()).sum().item()
    for name in ("run.json", "run-2.json"):
        assert "aten::sum.dim_IntList" in {each["name"] for each in slices(tmp_path / name, "run")}


def test_a_trace_that_cannot_be_written(machine, tmp_path):
    with pytest.raises(remora.RemoraException, match="No such file"):
        machine.trace(tmp_path / "none" / "run.json")
