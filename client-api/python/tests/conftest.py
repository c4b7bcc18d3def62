# SPDX-License-Identifier: AGPL-3.0-or-later
"""Fixtures: machines behind a real gateway if there is one, otherwise in this process."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

import remora

# A lost answer should fail a test instead of hanging it, and a slow computer should not.
os.environ.setdefault("REMORA_READ_TIMEOUT", "120")
os.environ.setdefault("REMORA_CALL_TIMEOUT", "120")
os.environ.setdefault("REMORA_GATEWAY_START_TIMEOUT", "300")

GATEWAY = any(
    os.environ.get(name) for name in ("REMORA_GATEWAY", "REMORA_GATEWAY_CLASSPATH", "REMORA_HOME")
)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--machine",
        choices=("gateway", "local"),
        default="gateway" if GATEWAY else "local",
        help="where machines run: behind a gateway (REMORA_GATEWAY_CLASSPATH has its class path), "
        "or in the test process",
    )


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    for item in items:
        if not any(item.get_closest_marker(tier) for tier in ("critical", "fast", "full")):
            item.add_marker(pytest.mark.fast)
        if item.get_closest_marker("gateway") and not GATEWAY:
            item.add_marker(
                pytest.mark.skip(reason="no gateway: set REMORA_GATEWAY_CLASSPATH or REMORA_HOME")
            )


def pytest_report_header(config: pytest.Config) -> str:
    return f"remora: machines {config.getoption('--machine')}, torch {torch.__version__}"


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "gateway: needs a gateway")
    if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:  # a shell's background jobs ignore it
        signal.signal(signal.SIGINT, signal.default_int_handler)
    if config.getoption("--machine") == "local":
        remora.disable_remote_execution()


def await_that(condition: Callable[[], object], what: Callable[[], object] | str = "") -> None:
    """Waits until a condition holds, and says otherwise what was missing. It asks a gateway less often than allowed."""
    deadline = time.monotonic() + 120
    while not condition():
        assert time.monotonic() < deadline, what() if callable(what) else what
        time.sleep(0.02)


@pytest.fixture(scope="session")
def machine() -> Iterator[remora.RemoteMachine]:
    """One machine with two devices for all tests."""
    with remora.RemoteMachine("mock", gpu_count=2) as opened:
        yield opened


@pytest.fixture
def device(machine: remora.RemoteMachine) -> Iterator[torch.device]:
    current = torch.remora.current_device()
    yield machine.device()
    left = torch.remora.current_device()
    torch.accelerator.set_device_index(current)
    assert left == current, "the test left another device current; later tests would have run on it"
    with contextlib.suppress(remora.RemoteOperationException):  # drops the test's own failures
        machine.synchronize()


@pytest.fixture
def reads(machine: remora.RemoteMachine) -> Callable[[], float]:
    """Returns a function that counts this process's waits for values since its last call."""
    last = 0.0

    def since() -> float:
        nonlocal last
        now = machine._session.statistics()["blocking_reads"]
        result, last = now - last, now
        return result

    since()
    return since


@pytest.fixture
def run_program(
    pytestconfig: pytest.Config, tmp_path: Path
) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Runs a program in its own Python process; `machine` is open in it."""

    def run(
        text: str, *, limit: float = 600, check: bool = True
    ) -> subprocess.CompletedProcess[str]:
        result = subprocess.run(
            [sys.executable, str(write_program(tmp_path, text, pytestconfig))],
            capture_output=True,
            text=True,
            timeout=limit,
            check=False,
        )
        if check:
            assert result.returncode == 0, result.stdout + result.stderr
        return result

    return run


ACCELERATOR = Path(__file__).parents[3] / "runtime" / "src" / "test" / "cpp" / "accelerator" / "run"


@pytest.fixture
def own_certificate(tmp_path: Path) -> tuple[Path, Path]:
    """A private key and its certificate for 127.0.0.1, which no authority has signed."""
    key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
    subprocess.run(
        "openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=localhost -addext "
        f"subjectAltName=IP:127.0.0.1 -keyout {key} -out {certificate}",
        shell=True,
        check=True,
        capture_output=True,
    )
    return key, certificate


@pytest.fixture(scope="session")
def accelerator_library() -> Path:
    """The library of simulated accelerators, built if it is not up to date."""
    return Path(_on_accelerators())


@pytest.fixture(scope="session")
def accelerator_options(accelerator_library: Path) -> str:
    """The JAVA_TOOL_OPTIONS with which nodes compute on simulated accelerators."""
    return _on_accelerators("printenv", "JAVA_TOOL_OPTIONS")


def _on_accelerators(*command: str) -> str:
    environment = os.environ | {"TORCH": str(Path(torch.__file__).parent)}
    done = subprocess.run(
        [ACCELERATOR, *command],
        capture_output=True,
        text=True,
        timeout=900,
        env=environment,
        check=False,
    )
    if "SKIPPED" in done.stderr:
        pytest.skip(done.stderr.strip())
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def write_program(folder: Path, text: str, config: pytest.Config) -> Path:
    """Writes a file with a program in which `machine`, `device` and `interrupt_at` are defined."""
    local = config.getoption("--machine") == "local"
    head = f"""\
    import os, signal, sys, threading, time
    import torch, remora
    {"remora.disable_remote_execution()" if local else ""}
    machine = remora.RemoteMachine("mock").start()
    device = machine.device()

    def interrupt_at(mark):
        "Interrupts the program while its main thread is at the line that ends with the mark."
        lines = open(__file__).read().splitlines()
        wanted = 1 + next(i for i, line in enumerate(lines) if line.endswith(mark))
        def interrupt():
            line = 0
            while line != wanted:
                time.sleep(0.01)
                frame = sys._current_frames()[threading.main_thread().ident]
                while frame.f_back is not None:
                    frame = frame.f_back
                line = frame.f_lineno
            time.sleep(0.5)  # until the line has begun to wait
            os.kill(os.getpid(), signal.SIGINT)
        threading.Thread(target=interrupt, daemon=True).start()

    """
    path = folder / "program.py"
    path.write_text(textwrap.dedent(head) + textwrap.dedent(text))
    return path


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    import databases

    lines = databases.summary()
    if lines:
        terminalreporter.section("PyTorch's databases")
        for line in lines:
            terminalreporter.write_line(line)
