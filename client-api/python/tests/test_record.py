# SPDX-License-Identifier: AGPL-3.0-or-later
"""Recordings of Python programs, executed again by the command."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from test_recovery import train

import remora

pytestmark = pytest.mark.gateway

PROGRAM = """
import remora, torch
with remora.RemoteMachine("mock") as machine:
    print(torch.arange(5, device=machine.device()).sum().item())
"""


def run(
    *arguments: str, environment: dict[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "remora", *arguments],
        env=os.environ | (environment or {}),
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


@pytest.mark.fast
def test_a_training_is_executed_again_with_equal_reads(tmp_path: Path) -> None:
    file = tmp_path / "run.remora"
    with remora.RemoteMachine("mock", record=file) as machine:
        losses = train(machine.device())
    assert len(losses) == 12

    done = run("replay", str(file), "--json")

    assert done.returncode == 0, done
    report = json.loads(done.stdout)
    assert report["equal"] and not report["cut"]
    assert report["reads"] >= 12
    assert report["torch-now"].split("+")[0] == torch.__version__.split("+")[0]


@pytest.mark.full
def test_the_command_records_a_program(tmp_path: Path) -> None:
    file = tmp_path / "run.remora"

    done = run("record", "--without-values", str(file), sys.executable, "-c", PROGRAM)

    assert done.returncode == 0, done
    assert done.stdout.strip() == "10"
    assert str(file) in done.stderr
    replay = run("replay", str(file))
    assert replay.returncode == 0, replay
    assert "not compared" in replay.stdout


@pytest.mark.fast
def test_a_file_that_cannot_be_made_is_an_error(tmp_path: Path) -> None:
    machine = remora.RemoteMachine("mock", record=tmp_path / "no" / "folder" / "run.remora")
    with pytest.raises(remora.RemoraException, match="cannot be made"):
        machine.start()
