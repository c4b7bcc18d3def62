# SPDX-License-Identifier: AGPL-3.0-or-later
"""Fixed parts of PyTorch's own device tests. All of them: upstream/run; what fails and why: docs/upstream-tests.md."""

from __future__ import annotations

import importlib
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


@pytest.mark.fast
def test_a_test_that_is_slow_on_the_cpu_may_take_longer_on_the_machine(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.syspath_prepend(str(UPSTREAM))
    runner = importlib.import_module("runner")
    some = runner.Runner.__new__(runner.Runner)
    some.kept, some.machine, some.limit = tmp_path, "local", 120
    slow = runner.Result("slow", "passed", seconds=100)
    others = (runner.Result("quick", "passed"), runner.Result("hangs", "timeout", seconds=120))
    some.save("file", "cpu", {each.name: each for each in (slow, *others)})
    limits = some.limits("file", "remora")
    assert limits == {"slow": 100 * runner.TIMES_AS_LONG}
    assert some.limits("file", "cpu") == {}

    reading, writing = os.pipe()
    lines = runner._lines(reading, 0, limits)  # only slow tests have any time
    with os.fdopen(reading, "rb"), os.fdopen(writing, "wb", buffering=0) as report:
        report.write(b'{"start": "slow"}\n')
        assert next(lines) == {"start": "slow"}
        report.write(b'{"end": "slow"}\n{"start": "quick"}\n')
        assert next(lines) == {"end": "slow"}
        assert next(lines) == {"start": "quick"}
        assert next(lines) is None
