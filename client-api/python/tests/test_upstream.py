# SPDX-License-Identifier: AGPL-3.0-or-later
"""Fixed parts of PyTorch's own device tests. All of them: upstream/run; what fails and why: docs/upstream-tests.md."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

UPSTREAM = Path(__file__).resolve().parent.parent / "upstream"


def run(*arguments: str, limit: float) -> None:
    done = subprocess.run(
        [UPSTREAM / "run", *arguments],
        env=os.environ | {"PYTHON": sys.executable},
        capture_output=True,
        text=True,
        timeout=limit,
        check=False,
    )
    print(done.stdout)
    if done.returncode == 77:
        pytest.skip(done.stderr.strip())
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.fast
def test_a_part_that_takes_seconds_fails_only_for_reasons_that_are_known() -> None:
    run("--part", "smoke", limit=600)


@pytest.mark.full
def test_a_part_that_takes_minutes_fails_only_for_reasons_that_are_known() -> None:
    run("--part", "short", limit=1200)


@pytest.mark.full
@pytest.mark.gateway
def test_a_part_behind_a_gateway_fails_only_for_reasons_that_are_known() -> None:
    run("--part", "smoke", "--machine", "gateway", limit=600)
