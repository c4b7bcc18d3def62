# SPDX-License-Identifier: AGPL-3.0-or-later
"""benchmarks/soak.py detects figures that grow, and a run of two minutes finds none."""

from __future__ import annotations

import csv
import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

SOAK = Path(__file__).resolve().parent.parent / "benchmarks" / "soak.py"
spec = importlib.util.spec_from_file_location("soak", SOAK)
soak = importlib.util.module_from_spec(spec)
spec.loader.exec_module(soak)
MIB = 1024 * 1024


@pytest.mark.critical
def test_what_grows_beyond_its_tolerance_is_named():
    first = {"minute": 1, "storages": 8, "program.rss": 500 * MIB, "node.heap": 20 * MIB}
    last = {"minute": 9, "storages": 8, "program.rss": 570 * MIB, "node.heap": 27 * MIB}
    assert soak.grown(first, last) == []
    last |= {"storages": 9, "program.rss": 580 * MIB, "node.heap": 29 * MIB}
    assert [row[0] for row in soak.grown(first, last)] == ["storages", "program.rss", "node.heap"]


@pytest.mark.critical
def test_a_nodes_figures_are_compared_with_its_own_first_minute(capsys):
    sample = {"storages": 8, "node.process": 1, "node.rss": 100 * MIB}
    young = sample | {"node.process": 2, "node.rss": 300 * MIB}
    assert soak.report([sample, young, young]) == 0
    assert soak.report([sample, young, young | {"node.rss": 400 * MIB}]) == 1
    assert "node.rss grew from 300.0 MiB to 400.0 MiB" in capsys.readouterr().out


@pytest.mark.full
@pytest.mark.gateway
def test_nothing_grows_in_two_minutes(tmp_path):
    figures = tmp_path / "soak.csv"
    done = subprocess.run(
        [sys.executable, SOAK, "--minutes", "2", "--csv", figures],
        capture_output=True,
        text=True,
        timeout=400,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    with figures.open() as file:
        rows = list(csv.DictReader(file))
    assert [row["minute"] for row in rows] == ["1", "2"]
    assert all(float(row["node.rss"]) > 0 for row in rows)
