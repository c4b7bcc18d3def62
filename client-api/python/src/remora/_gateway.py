# SPDX-License-Identifier: AGPL-3.0-or-later
"""The gateway, a JVM process that manages the machines. Finds a running one, or starts one and ends it.

A gateway that this program started ends with the program, even if the program is killed: only the
program holds the other end of the gateway's standard input, a pipe.
"""

from __future__ import annotations

import base64
import collections
import contextlib
import hashlib
import ipaddress
import json
import logging
import os
import re
import secrets
import signal
import ssl
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any, TypeVar

import grpc
import torch

import remora_command
from remora_command import SHIPPED_TORCH, Java, StartError, find_java

from . import exceptions
from ._build import cache_folder
from ._native import core
from ._proto import gateway_pb2 as pb
from ._settings import Settings
from ._transport import DirectTransport, GrpcTransport, Transport

log = logging.getLogger("remora")
gateway_log = logging.getLogger("remora.gateway")

_MAIN = "io.remora.gateway.Main"
_READY = re.compile(r"remora-gateway listening on (\S+:\d+)")
_LEVEL = re.compile(r"\b(ERROR|WARN|INFO|DEBUG|TRACE)\b")
_LEVELS = {
    "ERROR": logging.ERROR,
    "WARN": logging.WARNING,
    "INFO": logging.INFO,
    "DEBUG": logging.DEBUG,
    "TRACE": logging.DEBUG,
}
_LAST_LINES = 20
_LARGEST_MESSAGE = 64 * 1024 * 1024
_STOP_SECONDS = 10.0
_DYING_SECONDS = 0.05
_SERVICES = "/remora.gateway.v1."
_OPTIONS = [
    ("grpc.max_send_message_length", _LARGEST_MESSAGE),
    ("grpc.max_receive_message_length", _LARGEST_MESSAGE),
    ("grpc.keepalive_time_ms", 30_000),
    ("grpc.keepalive_timeout_ms", 15_000),
    ("grpc.http2.max_pings_without_data", 0),
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 10_000),
    ("grpc.max_reconnect_backoff_ms", 2_000),
    ("grpc.enable_http_proxy", 0),
]

Response = TypeVar("Response")


class Gateway:
    """A connection to a gateway, with its unary calls. Thread-safe."""

    def __init__(
        self,
        address: str,
        token: str | None = None,
        *,
        tls: bool | None = None,
        ca_file: str | os.PathLike[str] | None = None,
        process: GatewayProcess | None = None,
    ) -> None:
        """Connects lazily: errors show at the first call.

        Args:
            address: ``"host:port"``.
            token: the bearer token; None for a gateway that needs none.
            tls: whether the connection is encrypted; by default it is, except on the loopback address.
            ca_file: certificates (PEM) to trust instead of the system's.
            process: the gateway's process, if this program has started it.

        """
        host, _, port = address.rpartition(":")
        if not host or not port.isdigit():
            raise ValueError(f"a gateway's address is 'host:port', not {address!r}")
        self.address = address
        self._process = process
        encrypted = (ca_file is not None or not _is_loopback(host)) if tls is None else tls
        self._encrypted = encrypted
        self._tls: ssl.SSLContext | None = None
        self._metadata = [] if token is None else [("authorization", f"Bearer {token}")]
        if token is not None and not encrypted and not _is_loopback(host):
            raise ValueError(
                "a token is sent to another computer only over an encrypted connection: give tls=True"
            )
        if encrypted:
            self._tls = ssl.create_default_context(cafile=ca_file)
            roots = None if ca_file is None else Path(ca_file).read_bytes()
            credentials = grpc.ssl_channel_credentials(roots)
            self._channel = grpc.secure_channel(address, credentials, _OPTIONS)
        else:
            self._channel = grpc.insecure_channel(address, _OPTIONS)

    def _call(
        self,
        method: str,
        request: Any,
        response: Callable[[bytes], Response],
        what: str,
        timeout: float,
    ) -> Response:
        call = self._channel.unary_unary(
            _SERVICES + method,
            request_serializer=type(request).SerializeToString,
            response_deserializer=response,
        )
        try:
            metadata = [*self._metadata, *_trace()]
            answer: Response = call(request, timeout=timeout, metadata=metadata)
            return answer
        except grpc.RpcError as e:
            raise self.error(e, what) from None

    def open(self, request: pb.OpenRequest, timeout: float) -> pb.Machine:
        """Opens a machine of a provider."""
        what = f"opening a machine of provider '{request.provider}'"
        return self._call("Machines/Open", request, pb.Machine.FromString, what, timeout)

    def attach(self, name: str, timeout: float) -> pb.Machine:
        """Returns a machine that another program has opened."""
        request = pb.AttachRequest(name=name)
        what = f"attaching to machine '{name}'"
        return self._call("Machines/Attach", request, pb.Machine.FromString, what, timeout)

    def list(self, timeout: float) -> pb.ListResponse:
        """Lists the gateway's machines."""
        what = "listing machines"
        return self._call(
            "Machines/List", pb.ListRequest(), pb.ListResponse.FromString, what, timeout
        )

    def get(self, name: str, timeout: float) -> pb.Machine:
        """Returns a machine's current state."""
        return self._of_machine("Get", name, pb.Machine.FromString, timeout)

    def pause(self, name: str, timeout: float) -> pb.Machine:
        """Pauses a machine."""
        return self._of_machine("Pause", name, pb.Machine.FromString, timeout)

    def resume(self, name: str, timeout: float) -> pb.Machine:
        """Resumes a paused machine."""
        return self._of_machine("Resume", name, pb.Machine.FromString, timeout)

    def migrate(self, request: pb.MigrateRequest, timeout: float) -> pb.Machine:
        """Moves a machine to another node."""
        what = f"moving machine '{request.name}'"
        return self._call("Machines/Migrate", request, pb.Machine.FromString, what, timeout)

    def stop(self, name: str, timeout: float) -> None:
        """Returns a machine to its provider."""
        self._of_machine("Stop", name, pb.StopResponse.FromString, timeout)

    def stats(self, request: pb.MachineRequest, timeout: float) -> dict[str, float]:
        """Returns the gateway's metrics of a machine."""
        what = f"asking for the figures of machine '{request.name}'"
        answer = self._call("Machines/Stats", request, pb.MachineStats.FromString, what, timeout)
        return dict(answer.values)

    def storage(self, request: pb.StorageRequest, timeout: float) -> pb.Storage:
        """Returns the gateway's data about a storage."""
        what = f"asking machine '{request.machine}' for storage {request.storage}"
        return self._call("Machines/GetStorage", request, pb.Storage.FromString, what, timeout)

    def dashboard(self, timeout: float) -> str:
        """Returns a link to the gateway's page, with a ticket if the gateway has a token."""
        root = f"{'https' if self._encrypted else 'http'}://{self.address}/dashboard"
        request = urllib.request.Request(
            f"{root}/ticket", data=b"", method="POST", headers=dict(self._metadata)
        )
        try:
            with urllib.request.urlopen(request, timeout=timeout, context=self._tls) as answer:
                ticket = json.load(answer)["ticket"]
        except urllib.error.HTTPError as e:
            raise exceptions.RemoraException(
                f"the gateway at {self.address} serves no page (remora.gateway.dashboard.enabled): {e}"
            ) from None
        except OSError as e:
            raise exceptions.ProviderException(
                f"the gateway at {self.address} cannot be reached: {e}"
            ) from None
        return f"{root}/login#ticket={ticket}" if ticket else f"{root}/"

    def _of_machine(
        self, method: str, name: str, response: Callable[[bytes], Response], timeout: float
    ) -> Response:
        what = f"{method.lower()} of machine '{name}'"
        return self._call(
            f"Machines/{method}", pb.MachineRequest(name=name), response, what, timeout
        )

    def progress(self, machine: str) -> Any:
        """Returns the stream of the progress of a machine, which need not be open yet."""
        call = self._channel.unary_stream(
            _SERVICES + "Machines/Logs",
            request_serializer=pb.LogsRequest.SerializeToString,
            response_deserializer=pb.LogLine.FromString,
        )
        return call(pb.LogsRequest(name=machine, progress=True), metadata=self._metadata)

    def transport(self, explain: bool = False) -> Transport:
        """Returns a connection for a session. `explain`: one that can tell why the gateway refuses it."""
        if self._encrypted or explain or os.environ.get("REMORA_TRANSPORT") == "grpc":
            return GrpcTransport(self._channel, self._metadata)
        return DirectTransport(self.address, self._metadata)

    def end(self) -> str | None:
        """Returns how the gateway has ended, if this program has started it and it has ended."""
        return None if self._process is None else self._process.end()

    def error(self, error: grpc.RpcError, what: str) -> BaseException:
        """Returns the exception for a failed call, by the gateway's error kind or else by the status."""
        if error.code() == grpc.StatusCode.UNAVAILABLE and not error_name(error):
            gone = self.end()
            details = error.details() or "no connection"
            return exceptions.ProviderException(
                f"{what}: {gone}"
                if gone is not None
                else f"{what}: the gateway at {self.address} cannot be reached: {details}{self._hint(details)}"
            )
        return rpc_error(error, what)

    def _hint(self, details: str) -> str:
        if "refused" in details:
            return "\n  Check that it is running and that this is its port."
        if "CERTIFICATE_VERIFY_FAILED" in details:
            return (
                "\n  This program does not trust its certificate, or the certificate is for another name: pass the "
                "file that contains it, or its issuer's, as ca_file=…, and connect to a name in the certificate"
            )
        if "WRONG_VERSION_NUMBER" in details:
            return "\n  It speaks no TLS, or no gateway listens there: pass tls=False to connect without TLS"
        if not self._encrypted:
            return "\n  If it uses TLS, pass tls=True, or the file of its certificate as ca_file=…"
        return ""

    def close(self) -> None:
        """Closes the connection."""
        self._channel.close()


def _trace() -> list[tuple[str, str]]:
    """Returns the header of the calling thread's trace (W3C), if the program uses OpenTelemetry."""
    trace = sys.modules.get("opentelemetry.trace")
    if trace is None:
        return []
    span = trace.get_current_span().get_span_context()
    if not span.is_valid:
        return []
    return [("traceparent", f"00-{span.trace_id:032x}-{span.span_id:016x}-{span.trace_flags:02x}")]


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def error_name(error: grpc.RpcError) -> str:
    """Returns the name of the gateway's error kind; empty if the gateway has given none."""
    return str(dict(error.trailing_metadata() or ()).get("remora-error", ""))


def rpc_error(error: grpc.RpcError, what: str) -> BaseException:
    """Returns the exception for a failed call, by the gateway's error kind or else by the status."""
    code, details = error.code(), error.details() or ""
    kind = exceptions.BY_NAME.get(error_name(error))
    if code == grpc.StatusCode.UNIMPLEMENTED:
        return exceptions.MachineStateException(
            f"{what}: this gateway does not support it ({details})"
        )
    if code == grpc.StatusCode.UNAUTHENTICATED:
        return exceptions.AuthenticationException(
            f"{what} failed: {details or code.name}; pass the gateway's token as "
            "RemoteMachine.connect(…, token=…) or set REMORA_GATEWAY_TOKEN"
        )
    if kind is not None:
        return kind(details)
    if code == grpc.StatusCode.INVALID_ARGUMENT:
        return ValueError(details)
    text = f"{what} failed: {details or code.name}"
    if code == grpc.StatusCode.PERMISSION_DENIED:
        return exceptions.AuthenticationException(text)
    if code in (grpc.StatusCode.FAILED_PRECONDITION, grpc.StatusCode.NOT_FOUND):
        return exceptions.MachineStateException(text)
    if code == grpc.StatusCode.RESOURCE_EXHAUSTED:
        return exceptions.ResourceExhaustedException(text)
    if code == grpc.StatusCode.DEADLINE_EXCEEDED:
        return exceptions.ProviderException(f"{what}: no answer in time")
    return exceptions.RemoraException(text)


# ---------------------------------------------------------------- a gateway of this program's own


class GatewayProcess:
    """A gateway that this program started."""

    def __init__(
        self, class_path: str, settings: Settings, first: pb.OpenRequest | None = None
    ) -> None:
        """Starts a JVM and waits until the gateway serves requests.

        Args:
            class_path: the JVM's class path.
            settings: time limits.
            first: the machine that will be opened first. Its node starts together with the gateway.

        Raises:
            ProviderException: Java is missing, or the gateway did not start; the message has its last lines.

        """
        self.token = secrets.token_urlsafe(32)
        options = os.environ.get("REMORA_GATEWAY_JVM_OPTIONS", "").split()
        java = _java()
        archive = _class_archive(java.command, class_path)
        command = [
            java.command,
            *_archive_options(archive),
            "-XX:+UseSerialGC",
            "-Xshare:auto",
            *java.options(),
            *_same_libtorch(),
            # Nodes on this computer run functions with this Python, which has the program's packages.
            f"-Dremora.node.python={sys.executable}",
            # It runs as this program's user, and only this program knows its token.
            "-Dremora.gateway.record-directory=/",
            *options,
            _MAIN,
            *("--host", "127.0.0.1", "--port", "0", "--exit-with-stdin"),
        ]
        # These go into the environment: a class path can be too long for a process list, and a token
        # must not appear there.
        environment = os.environ | {"CLASSPATH": class_path, "REMORA_GATEWAY_TOKEN": self.token}
        if archive is not None and not archive.is_file():
            environment["REMORA_GATEWAY_CLASS_ARCHIVE"] = str(archive)
        if first is not None:
            request = base64.b64encode(first.SerializeToString()).decode()
            environment["REMORA_GATEWAY_PREPARE"] = request
        if torch.__version__.split("+")[0] != SHIPPED_TORCH:
            environment["REMORA_NATIVE_LIBRARY"] = core.library._name  # the nodes use this core
        self._last = collections.deque[str](maxlen=_LAST_LINES)
        self._address: str | None = None
        self._ready = threading.Event()
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=environment,
            text=True,
            errors="replace",
            start_new_session=True,  # Ctrl-C in the terminal reaches only the program
        )
        _STARTED.append(self)
        for target, stream in (
            (self._read_output, self._process.stdout),
            (self._read_log, self._process.stderr),
        ):
            threading.Thread(
                target=target, args=(stream,), name="remora-gateway", daemon=True
            ).start()
        if not self._ready.wait(settings.gateway_start_seconds) or self._address is None:
            code = None
            if self._ready.is_set():  # its output has ended, so the process ends too
                with contextlib.suppress(subprocess.TimeoutExpired):
                    code = self._process.wait(5)
            self.stop()
            lines = "\n  ".join(self._last)
            raise exceptions.ProviderException(
                f"the gateway did not start within {settings.gateway_start_seconds:g} s"
                if code is None
                else f"the gateway ended with exit code {code} before it was ready:\n  {lines}"
            )
        self.address: str = self._address

    def _read_output(self, stream: IO[str]) -> None:
        with contextlib.suppress(ValueError, OSError):
            for line in stream:
                match = _READY.search(line)
                if match:
                    self._address = match[1]
                    self._ready.set()
                else:
                    self._note(line)
        self._ready.set()

    def _read_log(self, stream: IO[str]) -> None:
        with contextlib.suppress(ValueError, OSError):
            for line in stream:
                self._note(line)

    def _note(self, line: str) -> None:
        line = line.rstrip()
        self._last.append(line)
        match = _LEVEL.search(line[:80])
        gateway_log.log(_LEVELS[match[1]] if match else logging.INFO, "%s", line)

    def end(self) -> str | None:
        """Returns how the process has ended; None if it runs. Waits briefly if its connections have just ended."""
        try:
            code = self._process.wait(_DYING_SECONDS)
        except subprocess.TimeoutExpired:
            return None
        how = f"with exit code {code}"
        if code < 0:
            how = f"by signal {signal.Signals(-code).name}"
        lines = "\n  ".join(self._last)
        return f"the gateway that this program started has ended {how}; its last lines:\n  {lines}"

    @property
    def running(self) -> bool:
        """Whether the process runs."""
        return self._process.poll() is None

    def stop(self) -> None:
        """Ends the gateway, which returns all its machines. Idempotent."""
        if self in _STARTED:
            _STARTED.remove(self)
        stdin = self._process.stdin
        with contextlib.suppress(OSError):
            if stdin is not None:
                stdin.close()
        for end in (self._process.terminate, self._process.kill):
            try:
                self._process.wait(_STOP_SECONDS)
                return
            except subprocess.TimeoutExpired:
                end()
        self._process.wait(_STOP_SECONDS)

    def forget(self) -> None:
        """In a forked child: closes the pipe, so that only the parent holds it."""
        if self._process.stdin is not None:
            with contextlib.suppress(OSError):
                os.close(self._process.stdin.fileno())


_STARTED: list[GatewayProcess] = []
_own_lock = threading.Lock()
_own: tuple[GatewayProcess, Gateway] | None = None


def _java() -> Java:
    try:
        return find_java()
    except StartError as e:
        raise exceptions.ProviderException(str(e)) from None


def _class_archive(java: str, class_path: str) -> Path | None:
    """Returns where the archive of the gateway's classes is or will be (class data sharing, JEP 350).

    With it a gateway starts in less time; a gateway that has none yet makes it in the background. None if there can be
    none, because the class path has folders.
    """
    digest = hashlib.sha256(_MAIN.encode())
    try:
        for entry in [os.path.realpath(java), *class_path.split(os.pathsep)]:
            folder, name = os.path.split(entry)
            files = sorted(Path(folder).glob("*.jar")) if name == "*" else [Path(entry)]
            for file in files:
                if not file.is_file():
                    return None
                status = file.stat()
                digest.update(f"{file} {status.st_size} {status.st_mtime_ns}\n".encode())
    except OSError:
        return None
    return cache_folder() / "classes" / f"gateway-{digest.hexdigest()[:32]}.jsa"


def _archive_options(archive: Path | None) -> list[str]:
    if archive is None or not archive.is_file():
        return []
    with contextlib.suppress(OSError):
        archive.touch()  # archives that are not used for 30 days are deleted
    return [f"-XX:SharedArchiveFile={archive}", "-Xlog:cds=off,cds+dynamic=off"]


def _same_libtorch() -> list[str]:
    """Lets nodes on this computer compute with this program's libtorch: results are equal, bit for bit."""
    return [f"-Dremora.provider.mock.torch-home={Path(torch.__file__).parent}"]


def class_path(path: str | os.PathLike[str] | None = None) -> str:
    """Returns the gateway's Java class path.

    Args:
        path: a folder of jars, or a class path; None for the settings in the environment, or else the package's jars.

    Raises:
        ProviderException: nothing names the gateway, and the package has no jars.

    """
    try:
        return remora_command.class_path(path)
    except StartError as e:
        raise exceptions.ProviderException(str(e)) from None


def own_gateway(
    settings: Settings,
    path: str | os.PathLike[str] | None = None,
    first: pb.OpenRequest | None = None,
) -> Gateway:
    """Returns the gateway for programs that name none: that of ``REMORA_GATEWAY``, else one of this process.

    Args:
        settings: time limits.
        path: as for `class_path`.
        first: the machine that will be opened. If the gateway has yet to start, it prepares the machine.

    """
    global _own
    named = os.environ.get("REMORA_GATEWAY")
    if named and path is None:
        return Gateway(named, os.environ.get("REMORA_GATEWAY_TOKEN"))
    with _own_lock:
        if _own is None or not _own[0].running:
            begin = time.monotonic()
            process = GatewayProcess(class_path(path), settings, first)
            _own = (process, Gateway(process.address, process.token, process=process))
            log.info(
                "Gateway of this program at %s, %.1f s after its start",
                process.address,
                time.monotonic() - begin,
            )
        return _own[1]


def stop_own_gateway() -> None:
    """Ends the gateway that this process started, if there is one."""
    global _own
    with _own_lock:
        if _own is not None:
            process, gateway = _own
            _own = None
            gateway.close()
            process.stop()


def _after_fork_in_child() -> None:
    global _own, _own_lock
    for process in _STARTED:
        process.forget()
    _STARTED.clear()
    _own = None
    _own_lock = threading.Lock()


os.register_at_fork(after_in_child=_after_fork_in_child)
