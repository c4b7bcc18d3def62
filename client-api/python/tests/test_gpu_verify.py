# SPDX-License-Identifier: AGPL-3.0-or-later
"""benchmarks/gpu/verify from the folder that benchmarks/gpu/pack makes, on simulated accelerators in place of CUDA."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from remora import _build

ROOT = Path(__file__).resolve().parents[3]
spec = importlib.util.spec_from_file_location("gpu", ROOT / "client-api/python/benchmarks/gpu.py")
gpu = importlib.util.module_from_spec(spec)
spec.loader.exec_module(gpu)

# What only CUDA has, or what needs a compiler or Maven.
NOT_HERE = {"functions", "settings", "late-errors", "decoders", "walk", "collectives"}
FIGURES = {"small operations", "MLP step", "greedy generation", "digits"}


@pytest.mark.critical
def test_each_part_says_what_became_of_it(monkeypatch, capsys):
    def skips(bench):
        raise gpu.Skip("there is none")

    def fails(bench):
        gpu.need(bench is None, "other values")

    def breaks(bench):
        raise RuntimeError("no such thing")

    parts = {"works": lambda bench: "12 of 12", "skips": skips, "fails": fails, "breaks": breaks}
    monkeypatch.setattr(gpu, "PARTS", parts)
    bench = gpu.Bench(gpu.options_of([]))
    assert list(gpu.results(bench, [*parts])) == [
        ("works", "passed", "12 of 12"),
        ("skips", "skipped", "there is none"),
        ("fails", "FAILED", "other values"),
        ("breaks", "FAILED", "RuntimeError: no such thing"),
    ]
    assert "| fails | FAILED | other values |" in capsys.readouterr().out


@pytest.mark.full
@pytest.mark.gateway
@pytest.mark.skipif(
    torch.__version__.split("+")[0] != _build.SHIPPED_TORCH,
    reason="the simulated accelerators are written for the shipped core's libtorch",
)
def test_a_packed_folder_verifies_simulated_accelerators(tmp_path, accelerator_library):
    folder, report = tmp_path / "packed", tmp_path / "report.json"
    packed = run([ROOT / "benchmarks/gpu/pack", folder], os.environ)
    assert packed.returncode == 0, packed.stderr
    # Only the folder's Java and jars: neither those of this computer nor those of the checkout.
    environment = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("REMORA_", "JAVA_")) and name != "PYTHONPATH"
    }
    command = [folder / "benchmarks/gpu/verify", "--device", "mtia", "--quick"]
    command += ["--library", accelerator_library, "--json", report]
    environment |= {"PYTHON": sys.executable, "OMP_NUM_THREADS": "1"}
    done = run(command, environment | {"REMORA_SIMULATED_DELAY_MICROS": "5"})
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads(report.read_text())
    outcomes = {part: outcome for part, outcome, _ in found["results"]}
    assert set(outcomes) == set(gpu.PARTS)
    assert {part for part, outcome in outcomes.items() if outcome == "skipped"} == NOT_HERE
    assert set(found["figures"]) >= FIGURES
    assert all(found["figures"][name]["remote"] > 0 for name in FIGURES)
    assert "behind a gateway" in done.stdout


def run(command, environment):
    return subprocess.run(
        command, capture_output=True, text=True, timeout=600, check=False, env=environment
    )
