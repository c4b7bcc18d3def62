# SPDX-License-Identifier: AGPL-3.0-or-later
"""benchmarks/soak.py detects figures that grow, and a run of two minutes finds none."""

from __future__ import annotations

import csv
import importlib.util
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

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


@pytest.mark.critical
def test_the_plot_has_a_line_for_each_process_that_ran():
    minute = {"storages": 8, "program.rss": 300 * MIB, "program.process": 1}
    samples = [
        minute | {"minute": 1, "node.rss": 200 * MIB, "node.process": 2},
        minute | {"minute": 2, "node.rss": 400 * MIB, "node.process": 3},
    ]
    drawing = ElementTree.fromstring(soak.plot(samples))
    lines = drawing.findall("{http://www.w3.org/2000/svg}polyline")
    assert len(lines) == 4  # the program, two nodes, and the storages
    program, first_node, second_node = (
        [*map(height, line.get("points").split())] for line in lines[:3]
    )
    assert program[0] == program[1]
    assert first_node[0] > program[0] > second_node[0]  # in SVG, what is more is further up


def height(point):
    return float(point.split(",")[1])


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
