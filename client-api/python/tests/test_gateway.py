# SPDX-License-Identifier: AGPL-3.0-or-later
"""Connections to machines: real gateways, real sockets, and their failures."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import socket
import ssl
import subprocess
import threading
import time
import zipfile
from pathlib import Path

import pytest
import torch
from conftest import await_that
from test_recovery import end_node, node_of

import remora
from remora import _gateway, exceptions
from remora._settings import Settings

pytestmark = [pytest.mark.fast, pytest.mark.gateway]


@pytest.fixture(scope="module")
def gateway():
    """Starts a gateway process; its address and token."""
    process = _gateway.GatewayProcess(_gateway.class_path(), Settings.from_environment())
    yield process
    process.stop()


class Proxy:
    """Forwards bytes to a gateway until it is told to cut the connections."""

    def __init__(self, address: str) -> None:
        self._target = address.rpartition(":")[::2]
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self._listener.getsockname()[1]}"
        self._open: list[socket.socket] = []
        self._cutting = threading.Lock()
        self.refuses = False
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client = self._listener.accept()[0]
                with self._cutting:
                    try:
                        if self.refuses:
                            raise ConnectionRefusedError
                        server = socket.create_connection((self._target[0], int(self._target[1])))
                    except OSError:
                        client.close()
                        continue
                    self._open += [client, server]
                for pair in ((client, server), (server, client)):
                    threading.Thread(target=self._copy, args=pair, daemon=True).start()

    def _copy(self, source: socket.socket, target: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                target.sendall(data)
        with contextlib.suppress(OSError):
            target.shutdown(socket.SHUT_RDWR)

    def cut(self) -> None:
        """Ends all connections, also those that are being made."""
        with self._cutting:
            for each in self._open:
                with contextlib.suppress(OSError):
                    each.shutdown(socket.SHUT_RDWR)
                each.close()
            self._open.clear()

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)  # ends accept()
        self._listener.close()
        self.cut()


@pytest.fixture
def proxy(gateway):
    made = Proxy(gateway.address)
    yield made
    made.close()


def connect(gateway, address: str | None = None, **more) -> remora.RemoteMachine:
    more.setdefault("token", gateway.token)
    if "machine" not in more:
        more.setdefault("provider", "mock")
    return remora.RemoteMachine.connect(address or gateway.address, **more)


@pytest.fixture(autouse=True)
def remote():
    enabled = remora.is_remote_execution_enabled()
    remora.enable_remote_execution()
    yield
    if not enabled:
        remora.disable_remote_execution()


def test_a_machine_of_a_running_gateway(gateway):
    with connect(gateway, name="by-name") as machine:
        assert machine.name == "by-name"
        assert torch.ones(3, device=machine.device()).sum().item() == 3
        # Another program uses the same machine, and leaves it running.
        with connect(gateway, machine="by-name") as attached:
            assert attached.device() != machine.device()
            assert torch.ones(2, device=attached.device()).sum().item() == 2
        with remora.RemoteMachine.connect(gateway.address, token=gateway.token) as only:
            assert only.name == "by-name"
        assert torch.ones(4, device=machine.device()).sum().item() == 4


@pytest.mark.parametrize("transport", ["direct", "grpc"])
def test_a_gateway_knows_how_long_its_programs_have_waited(gateway, monkeypatch, transport):
    monkeypatch.setenv("REMORA_TRANSPORT", transport)
    with connect(gateway, name=f"waits-{transport}") as machine:
        x = torch.ones(3, device=machine.device())
        for _ in range(20):
            x.sum().item()
        known = machine.stats()
        await_that(
            lambda: machine.stats().get("waits.value.count") == known["value_waits"], machine.stats
        )
        told = machine.stats()
        assert told["waits.value.seconds"] == pytest.approx(known["value_wait_seconds"])


@pytest.mark.parametrize("transport", ["direct", "grpc"])
def test_a_machine_whose_time_is_over_is_paused_and_keeps_its_tensors(
    gateway, monkeypatch, transport, caplog
):
    monkeypatch.setenv("REMORA_TRANSPORT", transport)
    machine = connect(gateway, timeout=1.5).start()
    try:
        x = torch.zeros(3, device=machine.device())
        steps = 0

        def train() -> None:
            nonlocal steps
            while True:
                steps += 1
                x.add_(1)
                x.sum().item()

        for _ in range(2):
            with pytest.raises(exceptions.MachineStateException, match="has run for 1500 ms"):
                train()
            assert machine.state == "PAUSED"
            with pytest.raises(exceptions.MachineStateException, match="timeout of its opening"):
                x.cpu()
            with pytest.raises(exceptions.MachineStateException, match="resume"):
                connect(gateway, machine=machine.name).start()
            values: list[float] = []

            def is_read() -> bool:
                # A slow computer may not read it before the machine is paused again.
                with contextlib.suppress(exceptions.MachineStateException):
                    machine.resume()
                    values[:] = x.tolist()  # noqa: B023 - called before the next round
                return values != []  # noqa: B023

            await_that(is_read)
            assert values == [steps] * 3
        await_that(lambda: "is paused in 150 ms" in caplog.text)
    finally:
        with contextlib.suppress(exceptions.MachineStateException):  # it may be paused again
            machine.stop()


def test_without_a_machine_connect_says_what_to_give(gateway):
    with pytest.raises(ValueError, match="0 machines"):
        remora.RemoteMachine.connect(gateway.address, token=gateway.token)


@pytest.mark.parametrize("token", [None, "wrong"])
def test_a_wrong_token_is_refused(gateway, token):
    with pytest.raises(exceptions.AuthenticationException, match="token=.*REMORA_GATEWAY_TOKEN"):
        connect(gateway, token=token).start()


def test_an_unknown_provider_is_named(gateway):
    with pytest.raises((exceptions.ProviderException, ValueError), match="no-such"):
        connect(gateway, provider="no-such").start()


def test_an_unknown_machine_is_named(gateway):
    with pytest.raises(exceptions.MachineStateException, match="nobody"):
        connect(gateway, machine="nobody").start()


def test_a_gateway_that_is_not_there_is_named():
    with socket.socket() as deaf:  # it does not listen, and no other process gets its port
        deaf.bind(("127.0.0.1", 0))
        port = deaf.getsockname()[1]
        with pytest.raises(
            exceptions.ProviderException, match=rf"{port} cannot be .*\n.*that this is its port"
        ):
            remora.RemoteMachine.connect(f"127.0.0.1:{port}", provider="mock").start()


def test_what_does_not_fit_the_gateway_s_security_is_said(gateway, own_certificate):
    with pytest.raises(exceptions.ProviderException, match="speaks no TLS.*tls=False"):
        connect(gateway, tls=True).start()
    key, certificate = own_certificate
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    context.set_alpn_protocols(["h2"])
    with socket.create_server(("127.0.0.1", 0)) as listener:
        address = f"127.0.0.1:{listener.getsockname()[1]}"

        def serve() -> None:
            with contextlib.suppress(OSError):
                while True:
                    client = listener.accept()[0]
                    with contextlib.suppress(OSError), client:
                        context.wrap_socket(client, server_side=True).recv(1)

        threading.Thread(target=serve, daemon=True).start()
        for arguments, hint in (({}, "tls=True"), ({"tls": True}, "ca_file=")):
            machine = remora.RemoteMachine.connect(address, provider="mock", **arguments)
            with pytest.raises(exceptions.ProviderException, match=hint):
                machine.start()
        listener.shutdown(socket.SHUT_RDWR)


def test_a_token_is_not_sent_in_the_clear():
    with pytest.raises(ValueError, match="encrypted"):
        _gateway.Gateway("example.org:443", "secret", tls=False)
    with pytest.raises(ValueError, match="host:port"):
        _gateway.Gateway("example.org")


@pytest.mark.critical
def test_a_session_survives_broken_connections(gateway, proxy):
    with connect(gateway, proxy.address) as machine:
        device = machine.device()
        torch.manual_seed(0)
        x = torch.randn(30, 30)
        remote, local = x.to(device), x
        for step in range(40):
            for _ in range(50):
                remote = (remote @ x.to(device)).tanh()
                local = (local @ x).tanh()
            if step % 10 == 5:
                proxy.cut()
        torch.testing.assert_close(remote.cpu(), local, rtol=1e-2, atol=1e-2)
        big = torch.randn(3_000_000)
        cutting = threading.Timer(0.02, proxy.cut)
        cutting.start()
        assert torch.equal(big.to(device).cpu(), big)
        cutting.join()


def test_a_connection_that_stays_broken_is_an_error_in_time(gateway, proxy, monkeypatch):
    monkeypatch.setenv("REMORA_RECONNECT_TIMEOUT", "1.5")
    machine = connect(gateway, proxy.address).start()
    x = torch.ones(3, device=machine.device())
    assert x.sum().item() == 3
    proxy.refuses = True
    proxy.cut()
    # The direct way to the node is not cut: it may answer until the session is given up.
    with pytest.raises(exceptions.NodeLostException, match="connection") as lost:
        await_that(lambda: (x + 1).sum().item() != 6)
    (seconds,) = re.findall("could not be resumed within ([0-9]+) s", str(lost.value))
    assert int(seconds) < 30, "that is the default"
    machine.stop()  # the loss was raised before, so it is not raised again
    with contextlib.suppress(exceptions.RemoraException):
        _gateway.Gateway(gateway.address, gateway.token).stop(machine.name, 20)


@pytest.mark.parametrize("transport", ["direct", "grpc"])
def test_large_values_over_either_transport(gateway, transport, monkeypatch):
    monkeypatch.setenv("REMORA_TRANSPORT", transport)
    with connect(gateway) as machine:
        x = torch.randn(6_000_000)
        remote = x.to(machine.device())
        for _ in range(2):
            assert torch.equal(remote.cpu(), x)
        assert remote[::1000].sum().item() == pytest.approx(x[::1000].sum().item(), rel=1e-3)


def test_a_killed_node_is_said(gateway):
    machine = connect(gateway).start()
    x = torch.ones(3, device=machine.device())
    assert x.sum().item() == 3
    os.kill(node_of(machine, gateway), signal.SIGKILL)
    with pytest.raises(exceptions.NodeLostException):
        await_that(lambda: (x + 1).sum().item() != 6)
    machine.stop()


def test_a_loss_is_raised_at_the_end_of_the_block_unless_the_program_knows_of_it(gateway):
    with connect(gateway) as machine:
        x = torch.ones(3, device=machine.device())
        assert x.sum().item() == 3
        end_node(node_of(machine, gateway))
        with contextlib.suppress(exceptions.NodeLostException):
            x.sum().item()
            pytest.fail("a value came from a killed node")
    with pytest.raises(exceptions.NodeLostException), connect(gateway) as machine:
        x = torch.ones(3, device=machine.device())
        assert x.sum().item() == 3
        end_node(node_of(machine, gateway))
        x.add_(1)


def test_a_killed_gateway_is_said(monkeypatch):
    monkeypatch.setenv("REMORA_RECONNECT_TIMEOUT", "1")
    process = _gateway.GatewayProcess(_gateway.class_path(), Settings.from_environment())
    machine = connect(process).start()
    x = torch.ones(3, device=machine.device())
    assert x.sum().item() == 3
    process._process.kill()
    with pytest.raises(exceptions.NodeLostException):
        await_that(lambda: (x + 1).sum().item() != 6)
    machine.stop()
    process.stop()


def test_a_killed_gateway_of_the_program_s_own_is_noticed_at_once(run_program):
    run_program(
        """
        from remora import _gateway, exceptions

        _gateway._own[0]._process.kill()
        _gateway._own[0]._process.wait()
        begin = time.monotonic()
        try:
            while time.monotonic() < begin + 25:  # a remote gateway would be retried for 30 s
                torch.ones(3, device=device).sum().item()
        except exceptions.NodeLostException as error:
            assert "ended by signal SIGKILL" in str(error), error
        else:
            raise SystemExit("the end of the gateway was not noticed")
        """
    )


def test_without_a_gateway_the_error_says_how_to_get_one(run_plain):
    result = run_plain(
        "import remora; remora.RemoteMachine('mock').start()",
        REMORA_GATEWAY_CLASSPATH="",
        REMORA_HOME="",
        REMORA_GATEWAY="",
    )
    assert "REMORA_HOME" in result.stderr
    assert "ProviderException" in result.stderr


def test_a_gateway_that_does_not_start_shows_its_last_lines(run_plain):
    result = run_plain(
        "import remora; remora.RemoteMachine('mock').start()",
        REMORA_GATEWAY_CLASSPATH="/nowhere",
        REMORA_GATEWAY="",
    )
    assert "exit code 1" in result.stderr
    assert "io.remora.gateway.Main" in result.stderr


@pytest.mark.full
def test_a_second_start_takes_the_classes_from_an_archive(tmp_path, monkeypatch):
    monkeypatch.setenv("REMORA_CACHE", str(tmp_path / "cache"))
    class_path = os.pathsep.join(
        str(jar_of(Path(entry), tmp_path / f"{number}.jar") if Path(entry).is_dir() else entry)
        for number, entry in enumerate(_gateway.class_path().split(os.pathsep))
    )
    archives = tmp_path / "cache" / "classes"
    monkeypatch.setenv("REMORA_GATEWAY_JVM_OPTIONS", f"-Xlog:class+load:file={tmp_path}/loaded-%p")

    def start_takes_classes_from_an_archive() -> bool:
        process = _gateway.GatewayProcess(class_path, Settings.from_environment())
        process.stop()
        loaded = (tmp_path / f"loaded-{process._process.pid}").read_text().splitlines()
        shared = [line for line in loaded if "shared objects file (top)" in line]
        return any("io.remora.gateway.Gateway " in line for line in shared) and any(
            " akka." in line for line in shared
        )

    assert not start_takes_classes_from_an_archive()
    deadline = time.monotonic() + 600
    while True:
        while list(archives.glob("*.making")):
            assert time.monotonic() < deadline
            time.sleep(0.1)
        if start_takes_classes_from_an_archive():
            break
        # On a busy computer none was made, or one that lacks classes. The next start has another made.
        assert time.monotonic() < deadline
        for archive in archives.glob("*.jsa"):
            archive.unlink()


def jar_of(folder: Path, jar: Path) -> Path:
    with zipfile.ZipFile(jar, "w") as archive:
        for file in sorted(folder.rglob("*")):
            archive.write(file, file.relative_to(folder))
    return jar


def test_class_paths_with_folders_have_no_archive(tmp_path):
    (tmp_path / "a.jar").write_bytes(b"a")
    java = _gateway._java().command
    one = _gateway._class_archive(java, f"{tmp_path}/a.jar")
    assert one == _gateway._class_archive(java, f"{tmp_path}/a.jar")
    assert one != _gateway._class_archive(java, f"{tmp_path}/*{os.pathsep}{tmp_path}/a.jar")
    assert _gateway._class_archive(java, f"{tmp_path}/a.jar{os.pathsep}{tmp_path}") is None
    (tmp_path / "a.jar").write_bytes(b"ab")
    assert one != _gateway._class_archive(java, f"{tmp_path}/a.jar")


@pytest.fixture
def run_plain():
    import sys

    def run(text: str, **environment: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-c", text],
            env=os.environ | environment,
            capture_output=True,
            text=True,
            timeout=180,
            check=False,
        )

    return run
