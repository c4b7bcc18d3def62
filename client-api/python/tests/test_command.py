# SPDX-License-Identifier: AGPL-3.0-or-later
"""The command ``remora``, and the wheel in an environment of its own: what a new user has."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

import remora_command

PACKAGE = Path(__file__).resolve().parent.parent
README = PACKAGE.parent.parent / "README.md"
JARS = PACKAGE.parent.parent / "distribution/target/class-path.txt"
TEXTS = PACKAGE.parent.parent / "distribution/src/archive/licences"
LIMIT = 300


def fake_java(folder: Path, release: str | None, answer: str = "") -> Path:
    """Makes a Java that says nothing but its version."""
    java = folder / "bin" / "java"
    java.parent.mkdir(parents=True)
    java.write_text(f"#!/bin/sh\necho '{answer}' >&2\n")
    java.chmod(0o755)
    if release is not None:
        (folder / "release").write_text(f'IMPLEMENTOR="x"\nJAVA_VERSION="{release}"\n')
    return java


@pytest.mark.critical
def test_without_java_the_error_says_what_to_install(monkeypatch, tmp_path):
    monkeypatch.delenv("JAVA_HOME", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(
        remora_command.StartError, match="needs Java 17 or newer, and found none"
    ) as e:
        remora_command.find_java()
    assert "openjdk-17-jre-headless" in str(e.value)


@pytest.mark.critical
@pytest.mark.parametrize(
    ("release", "answer", "version"),
    [("11.0.22", "", 11), ("1.8.0_392", "", 8), (None, 'openjdk version "1.8.0_392"', 8)],
)
def test_an_old_java_is_refused_by_its_version(monkeypatch, tmp_path, release, answer, version):
    java = fake_java(tmp_path / "jdk", release, answer)
    monkeypatch.setenv("JAVA_HOME", str(tmp_path / "jdk"))
    with pytest.raises(
        remora_command.StartError, match=f"{java} is Java {version}: install Java 17"
    ):
        remora_command.find_java()


@pytest.mark.critical
@pytest.mark.parametrize(("release", "flags"), [("17.0.1", False), ("23", False), ("25.0.1", True)])
def test_newer_javas_get_their_flags(monkeypatch, tmp_path, release, flags):
    java = fake_java(tmp_path / "jdk", release)
    monkeypatch.setenv("JAVA_HOME", str(tmp_path / "jdk"))
    found = remora_command.find_java()
    assert found == (str(java), int(release.split(".", maxsplit=1)[0]))
    assert ("--enable-native-access=ALL-UNNAMED" in found.options()) is flags


@pytest.mark.critical
def test_the_environment_has_precedence_over_the_jars_of_the_package(monkeypatch, tmp_path):
    (tmp_path / "lib").mkdir()
    (tmp_path / "lib" / "a.jar").touch()
    monkeypatch.delenv("REMORA_GATEWAY_CLASSPATH", raising=False)
    monkeypatch.setenv("REMORA_HOME", str(tmp_path))
    assert remora_command.class_path() == f"{tmp_path}/lib/*"
    monkeypatch.setenv("REMORA_GATEWAY_CLASSPATH", "/some/classes")
    assert remora_command.class_path() == "/some/classes"


@pytest.fixture(scope="module")
def environment(tmp_path_factory) -> Path:
    """Returns a virtual environment with the wheel, and with the packages of this environment beside it."""
    pytest.importorskip("hatchling")
    if not JARS.is_file():
        pytest.skip("no jars: mvn -q -pl distribution -am package -DskipTests")
    folder = tmp_path_factory.mktemp("wheel")
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)],
        cwd=PACKAGE,
        check=True,
        capture_output=True,
        timeout=LIMIT,
    )
    (wheel,) = folder.glob("*.whl")
    assert wheel.stat().st_size < 100_000_000, "larger than PyPI takes"
    venv = folder / "venv"
    subprocess.run(
        [sys.executable, "-m", "venv", "--without-pip", str(venv)], check=True, timeout=LIMIT
    )
    subprocess.run(
        [
            *(sys.executable, "-m", "pip", "--python", str(venv / "bin" / "python"), "install"),
            *("-q", "--no-deps", "--no-index", "--disable-pip-version-check", str(wheel)),
        ],
        check=True,
        timeout=LIMIT,
    )
    # torch and the other dependencies, which take minutes to install; behind the environment's own packages.
    (site,) = venv.glob("lib/python*/site-packages")
    (site / "others.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return venv


@pytest.mark.full
def test_the_wheel_has_the_licences_of_its_jars(environment):
    (package,) = environment.glob("lib/python*/site-packages/remora_command")
    texts = {each.name for each in (package / "licences").iterdir() if each.stat().st_size > 0}
    sources = {each.name for each in TEXTS.iterdir()}
    assert "BSD.txt" in sources
    assert sources | {"LICENSE", "licences.md"} == texts


def run(venv: Path, *words: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """Runs a program of the environment without any setting of Remora's."""
    variables = {
        **{
            name: value
            for name, value in os.environ.items()
            if not name.startswith(("REMORA_", "PYTHON"))
        },
        **variables,
    }
    return subprocess.run(
        [str(venv / "bin" / words[0]), *words[1:]],
        env=variables,
        cwd=venv,
        capture_output=True,
        text=True,
        timeout=LIMIT,
        check=False,
    )


@pytest.mark.full
def test_the_readmes_program_runs_in_a_new_environment(environment, tmp_path):
    (program,) = re.findall(r"```python\n(.*?)```", README.read_text(), re.DOTALL)
    file = tmp_path / "program.py"
    file.write_text(
        f"import torch\nimport remora\n\nassert {str(environment)!r} in remora.__file__\n{program}"
    )
    result = run(environment, "python", str(file), XDG_CACHE_HOME=str(tmp_path))
    assert result.returncode == 0, result.stderr
    assert float(result.stdout) > 0


@pytest.mark.full
def test_the_command_runs_in_a_new_environment(environment, tmp_path):
    version = run(environment, "remora", "--version")
    assert version.stdout.startswith("remora 0."), version.stderr
    assert run(environment, "python", "-m", "remora", "--version").stdout == version.stdout
    result = run(environment, "remora", "doctor", "--json", XDG_CACHE_HOME=str(tmp_path))
    report = json.loads(result.stdout)
    findings = {each["name"]: each for each in report["findings"]}
    assert findings["libtorch"]["status"] == "ok", findings["libtorch"]
    assert "site-packages/torch" in findings["libtorch"]["found"]
    assert findings["Python"]["found"].startswith(str(environment))
    assert findings["Python"]["status"] == "ok"


@pytest.mark.full
def test_a_new_environment_without_java_says_what_to_install(environment):
    variables = {"PATH": str(environment / "bin"), "JAVA_HOME": ""}
    command = run(environment, "remora", "--version", **variables)
    assert command.returncode == 1
    assert "remora: Remora needs Java 17 or newer, and found none" in command.stderr
    program = "import remora; remora.RemoteMachine('mock').start()"
    result = run(environment, "python", "-c", program, **variables)
    assert "ProviderException: Remora needs Java 17 or newer" in result.stderr
