# SPDX-License-Identifier: AGPL-3.0-or-later
"""The package itself: generated code, the native core for other versions of torch, the wheel."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
import textwrap
import zipfile
from pathlib import Path

import pytest
import torch

import remora
from remora import _build
from remora._native import core

PACKAGE = Path(__file__).resolve().parent.parent


def test_the_protocols_code_is_that_of_the_proto():
    pytest.importorskip("grpc_tools")
    spec = importlib.util.spec_from_file_location("generate", PACKAGE / "scripts/generate_proto.py")
    generate = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(generate)
    if not all(source.is_file() for source in generate.SOURCES):
        pytest.skip("not in a checkout")
    for name, text in generate.generate().items():
        if name.endswith(".py"):
            assert text == (generate.OUTPUT / name).read_text(), (
                f"{name} is older than the proto: run scripts/generate_proto.py"
            )


@pytest.mark.critical
def test_the_core_is_for_this_torch():
    assert core.built_for_torch().decode() == torch.__version__.split("+")[0]
    assert core.wire_version() >= 1
    assert remora.__version__


def run_build(environment: dict[str, str], text: str = "") -> subprocess.CompletedProcess[str]:
    """Looks for a core as a program with another torch would."""
    program = f"""
        import importlib.util, sys
        spec = importlib.util.spec_from_file_location("build", {str(_build.__file__)!r})
        build = importlib.util.module_from_spec(spec)
        sys.modules["build"] = build
        spec.loader.exec_module(build)
        build.SHIPPED_TORCH = "1.0.0"
        {text}
        print(build.find_library())
        """
    return subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)],
        env=os.environ | environment,
        capture_output=True,
        text=True,
        timeout=1500,
        check=False,
    )


def test_without_a_compiler_the_error_says_what_to_install(tmp_path):
    result = run_build({"CXX": "no-such-compiler", "REMORA_CACHE": str(tmp_path)})
    assert result.returncode == 1
    assert "NativeCoreError" in result.stderr
    assert "no-such-compiler" in result.stderr
    assert "apt-get install g++" in result.stderr


def test_a_compiler_that_fails_is_shown(tmp_path):
    compiler = tmp_path / "cc"
    compiler.write_text("#!/bin/sh\necho 'x.cpp:1: error: what is this' >&2\nexit 1\n")
    compiler.chmod(0o755)
    result = run_build({"CXX": str(compiler), "REMORA_CACHE": str(tmp_path)})
    assert "error: what is this" in result.stderr
    assert "building the native core" in result.stderr


def test_an_old_torch_is_refused(tmp_path):
    result = run_build({"REMORA_CACHE": str(tmp_path)}, 'build.torch.__version__ = "2.5.1"')
    assert "needs torch 2.6 or newer" in result.stderr


def test_a_named_library_that_is_not_there_is_an_error():
    result = run_build({"REMORA_NATIVE_LIBRARY": "/nowhere/libremora.so"})
    assert "names no file" in result.stderr


@pytest.mark.full
def test_the_core_builds_from_its_sources(tmp_path):
    result = run_build({"REMORA_CACHE": str(tmp_path)})
    assert result.returncode == 0, result.stderr
    library = result.stdout.strip()
    assert library.startswith(str(tmp_path))
    again = run_build({"REMORA_CACHE": str(tmp_path), "CXX": "no-such-compiler"})
    assert again.stdout.strip() == library  # it is kept
    program = """
        import torch, remora
        remora.disable_remote_execution()
        with remora.RemoteMachine("mock") as machine:
            assert torch.ones(3, device=machine.device()).sum().item() == 3
        """
    subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)],
        env=os.environ | {"REMORA_NATIVE_LIBRARY": library},
        check=True,
        timeout=100,
    )


def test_the_wheel_holds_the_core_and_its_sources(tmp_path):
    pytest.importorskip("hatchling")
    if not (PACKAGE / "hatch_build.py").is_file():
        pytest.skip("not in a checkout")
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)],
        cwd=PACKAGE,
        check=True,
        capture_output=True,
        timeout=100,
    )
    (wheel,) = tmp_path.glob("*.whl")
    assert "linux_x86_64" in wheel.name
    names = set(zipfile.ZipFile(wheel).namelist())
    assert {"remora/_lib/libremora.so", "remora/_cpp/session.cpp", "remora/_cpp/remora.h"} <= names
    assert {"remora/py.typed", "remora/_proto/gateway_pb2.py"} <= names
