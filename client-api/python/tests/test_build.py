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
from remora import _build, _prebuilt
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
        import sys, types
        package = types.ModuleType("remora")  # its __init__ would load the core
        package.__path__ = [{str(Path(_build.__file__).parent)!r}]
        sys.modules["remora"] = package
        import remora._build as build
        build.SHIPPED_TORCH = "1.0.0"
        build._prebuilt_library = lambda version: None
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


@pytest.mark.parametrize("version", ["2.5.1", "2.16.0+cpu", "3.0.0"])
def test_a_torch_that_is_not_supported_is_refused_in_one_line_and_at_once(tmp_path, version):
    result = run_build(
        {"REMORA_CACHE": str(tmp_path), "CXX": "no-such-compiler"},
        f"build.torch.__version__ = {version!r}",
    )
    last = result.stderr.splitlines()[-1]
    assert "NativeCoreError: Remora works with torch 2.6 to 2.15, and this is torch" in last
    assert version.split("+")[0] in last
    assert "pip install 'torch>=2.6,<2.16'" in last


def test_the_package_requires_the_versions_that_it_supports():
    if not (PACKAGE / "pyproject.toml").is_file():
        pytest.skip("not in a checkout")
    (major, oldest), (_, newest) = _build.OLDEST_TORCH, _build.NEWEST_TORCH
    wanted = f'"torch>={major}.{oldest},<{major}.{newest + 1}"'
    assert wanted in (PACKAGE / "pyproject.toml").read_text()


def test_prebuilt_cores_are_of_todays_sources(tmp_path):
    sources = PACKAGE.parent.parent / "runtime" / "src"
    if not sources.is_dir():
        pytest.skip("not in a checkout")
    if torch.__version__.split("+")[0] == _build.SHIPPED_TORCH:
        assert _prebuilt.source_hash(sources / "main") in core.source_hash().decode(), (
            "the hash differs from that of runtime/build-native, or the core is older than its sources"
        )
    built = _prebuilt.prebuilt_libraries(sources, current=False)
    if not built:
        pytest.skip("there are none: runtime/build-native --python builds them")
    assert list(_prebuilt.prebuilt_libraries(sources)) == list(_prebuilt.PREBUILT_TORCH), (
        "the native sources have changed: run runtime/build-native --python and commit client-api/python/native"
    )


def test_a_prebuilt_core_is_used_only_while_it_is_current(tmp_path):
    main = tmp_path / "runtime" / "src" / "main"
    (main / "cpp").mkdir(parents=True)
    (main / "java/io/remora/runtime/internal").mkdir(parents=True)
    for name in (
        "cpp/CMakeLists.txt",
        "cpp/a.cpp",
        "java/io/remora/runtime/internal/NativeCore.java",
    ):
        (main / name).write_text(name)
    version = _prebuilt.PREBUILT_TORCH[-1]
    library = tmp_path / "client-api" / "python" / "native" / f"torch-{version}" / "libremora.so"
    library.parent.mkdir(parents=True)
    library.write_bytes(b"\x7fELF" + _prebuilt.source_hash(main).encode() + b"\0")
    assert _prebuilt.prebuilt_libraries(main.parent) == {version: library}
    (main / "cpp/a.cpp").write_text("changed")
    assert _prebuilt.prebuilt_libraries(main.parent) == {}


def test_a_named_library_that_is_not_there_is_an_error():
    result = run_build({"REMORA_NATIVE_LIBRARY": "/nowhere/libremora.so"})
    assert "does not name a file" in result.stderr


@pytest.mark.full
def test_the_core_builds_from_its_sources(tmp_path):
    result = run_build({"REMORA_CACHE": str(tmp_path)})
    assert result.returncode == 0, result.stderr
    library = result.stdout.strip()
    assert library.startswith(str(tmp_path))
    again = run_build({"REMORA_CACHE": str(tmp_path), "CXX": "no-such-compiler"})
    assert again.stdout.strip() == library  # the built library is kept
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
        timeout=300,
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
        timeout=300,
    )
    (wheel,) = tmp_path.glob("*.whl")
    assert "linux_x86_64" in wheel.name
    names = set(zipfile.ZipFile(wheel).namelist())
    assert {
        "remora/_lib/linux-x86_64/libremora.so",
        "remora/_cpp/client/session/session.cpp",
        "remora/_cpp/api/remora.h",
    } <= names
    assert {"remora/py.typed", "remora/_proto/gateway_pb2.py"} <= names
