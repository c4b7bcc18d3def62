# SPDX-License-Identifier: AGPL-3.0-or-later
"""Machines, which give a program its remote devices."""

from __future__ import annotations

import atexit
import itertools
import logging
import math
import os
import pathlib
import secrets
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any

import torch

from . import (
    _estimate,
    _gateway,
    _kept,
    _progress,
    _session,
    _torch_module,
    exceptions,
    functions,
    models,
)
from ._estimate import Estimate
from ._gateway import Gateway
from ._kept import Kept
from ._native import address_of, core
from ._progress import Progress
from ._proto import gateway_pb2 as pb
from ._session import GatewaySession, LocalSession, Session
from ._settings import Settings
from ._trace import Trace
from ._waits import Wait

log = logging.getLogger("remora")

_OPEN_SECONDS = 600.0
_DRY_RUN = "estimate"  # the provider of dry runs
_PAUSE_SECONDS = 720.0  # longer than the gateway's time limit for saving a machine
_NOTABLE_WAITS = 1.0  # from these seconds on the waits are in the log when a machine is stopped
_MOST_LOGGED_WAITS = 3
_open_machines: list[RemoteMachine] = []
_local_numbers = itertools.count(1)
_remote_execution = True

GPU_TYPES = ("T4", "L4", "A10G", "A100", "A100-40GB", "A100-80GB", "L40S", "H100", "H200", "B200")
"""The kinds of GPU that a machine can have, in upper or lower case, with ``-`` or ``_``."""


def _figures(statistics: dict[str, int]) -> dict[str, float]:
    """Returns the core's counters as figures: times in seconds."""
    return {
        name.replace("_nanos", "_seconds"): value / 1e9 if name.endswith("_nanos") else float(value)
        for name, value in statistics.items()
    }


def _gpu_type(name: str) -> str:
    return name.strip().upper().replace("_", "-")


def _check_gpus(gpu_type: str | None, gpu_count: int | None) -> None:
    if gpu_type is not None and _gpu_type(gpu_type) not in GPU_TYPES:
        raise ValueError(f"unknown GPU type {gpu_type!r}; the types are {', '.join(GPU_TYPES)}")
    if gpu_count is not None and not 1 <= gpu_count <= 8:
        raise ValueError(f"gpu_count must be 1 to 8, not {gpu_count}")


def _check_seconds(what: str, seconds: float | None) -> None:
    if seconds is not None and not (seconds > 0 and math.isfinite(seconds)):
        raise ValueError(f"{what} must be a positive number of seconds, not {seconds}")


@dataclass(frozen=True)
class DeviceInfo:
    """A device of a machine: name, kind (``"cuda"``, ``"cpu"``, …), and memory in bytes (0: unknown)."""

    name: str
    kind: str
    memory: int


@dataclass(frozen=True)
class StorageInfo:
    """A machine's data about a tensor's storage.

    Attributes:
        state: ``"LAZY"``, ``"REALIZED"``, ``"FREED"``, ``"LOST"`` …
        bytes: the storage's size.
        device: number of the device on its machine.
        session: the session that owns it.
        reason: why the storage is in that state; may be empty.

    """

    state: str
    bytes: int
    device: int
    session: int
    reason: str


class RemoteMachine:
    """A machine with GPUs elsewhere, whose devices this program uses like its own.

    ::

        with remora.RemoteMachine("mock") as machine:
            model = Net().to(machine.device())

    Operations on a machine's tensors are recorded and sent without waiting. A thread waits only where a
    value is read (``item``, ``cpu``, printing) and in :meth:`synchronize` and :meth:`stop`. Mistakes in
    shapes, dtypes and devices are raised at the call. If an operation fails on the machine, reading
    anything computed from it raises the error. If nothing is read, the next ``synchronize()`` or ``stop()``
    raises it.

    The machine starts in ``with``, in :meth:`start`, or at the first :meth:`device`. Machines that are
    still open are stopped when the program ends. All methods may be called from any thread.
    """

    def __init__(
        self,
        provider: str,
        gpu_type: str | None = None,
        *,
        gpu_count: int = 1,
        packages: Sequence[str] | None = (),
        idle_timeout: float | None = None,
        timeout: float | None = None,
        name: str | None = None,
        options: dict[str, str] | None = None,
        recovery: str | None = None,
        checkpoint_interval: float | None = None,
        on_restored: Callable[[int], object] | None = None,
        mirror: bool = False,
        record: str | os.PathLike[str] | None = None,
        record_values: bool = True,
        on_progress: Callable[[Progress], None] | None = None,
        gateway: str | os.PathLike[str] | None = None,
    ) -> None:
        """Describes a machine; does not start it.

        Args:
            provider: the name of the machine's provider; ``"mock"`` is this computer.
            gpu_type: one of :data:`GPU_TYPES`, such as ``"A100"``; None leaves the choice to the provider.
            gpu_count: the number of devices, 1 to 8.
            packages: Python packages to install for functions of :func:`remora.remote`; None for none.
            idle_timeout: seconds without work after which the machine may be paused; None for no limit.
            timeout: seconds that the machine may run; None for no limit. A tenth of it before the end, but
                at most five minutes before, a warning is logged. At the end the machine is paused and its
                tensors are kept. Threads that wait for it get :class:`MachineStateException` until
                :meth:`resume`, after which it may run for `timeout` seconds again.
            name: unique among the gateway's machines; None lets the gateway choose.
            options: the provider's settings, such as ``{"mode": "in-jvm"}``.
            recovery: what the machine does when its node is lost. ``"off"``: it fails with
                :class:`NodeLostException`. ``"replay"``: another node restores its last checkpoint and
                executes what came after it again, and the program only waits. ``"checkpoint"``: another node
                restores the last checkpoint of a step that the program has marked by :meth:`checkpoint`, and
                the program gets a :class:`RestoredException` with that step. None for the gateway's setting.
            checkpoint_interval: seconds between checkpoints; None for the gateway's setting, by default 60.
            on_restored: called with the step when another node has restored a checkpoint
                (``recovery="checkpoint"``), on a thread of its own. It may use the machine.
            mirror: whether a second node executes the same batches as the first, so that the machine
                continues there at once when the first is lost. It is a whole second node, which its
                provider charges for. Needs ``recovery="replay"``. False for the gateway's setting, which
                is off by default.
            record: a file in which the gateway writes what the machine's sessions do, for ``remora replay``. If
                it is there, a number is added to its name. It is complete when the machine is stopped. The
                gateway that this program starts writes anywhere; for others the name is one in their
                ``remora.gateway.record-directory``. None for the value of ``REMORA_RECORD``, or else none.
            record_values: whether the recording has the uploaded values; without them it can be executed and
                measured, but not compared. ``REMORA_RECORD_VALUES=off`` is the same.
            on_progress: called with a :class:`Progress` for what takes longer than a second, a few times each second
                and at its end: the opening with the provider's news, loading a model, large transfers, checkpoints,
                recovery, pauses, moves. It runs on a thread of its own and must return soon; if it raises, it is
                not called again. A terminal or a notebook shows the same, see ``REMORA_PROGRESS``.
            gateway: folder of jars, or class path, of the gateway to start; None for the value of
                ``REMORA_GATEWAY``, ``REMORA_GATEWAY_CLASSPATH`` or ``REMORA_HOME``, or else the package's jars.

        Raises:
            ValueError: an argument is out of range.

        """
        if not provider:
            raise ValueError("provider must not be empty")
        _check_gpus(gpu_type, gpu_count)
        if recovery not in (None, "off", "replay", "checkpoint"):
            raise ValueError(f'recovery must be "off", "replay" or "checkpoint", not {recovery!r}')
        if mirror and recovery not in (None, "replay"):
            raise ValueError(f'mirror=True needs recovery="replay", but recovery is "{recovery}"')
        for what, seconds in (
            ("idle_timeout", idle_timeout),
            ("timeout", timeout),
            ("checkpoint_interval", checkpoint_interval),
        ):
            _check_seconds(what, seconds)
        if isinstance(packages, str):
            raise ValueError("packages must be a list of names, not one string")
        self._provider = provider
        self._gpu_type = gpu_type
        self._gpu_count = gpu_count
        self._packages = [*(packages or ())]
        self._idle_timeout = idle_timeout
        self._timeout = timeout
        self._wanted_name = name
        self._options = dict(options or {})
        self._recovery = recovery
        self._checkpoint_interval = checkpoint_interval
        self._on_restored = on_restored
        self._mirror = mirror
        self._record = os.fspath(record) if record is not None else None
        self._record_values = record_values
        self._on_progress = on_progress
        self._reporter: _progress.Reporter | None = None
        self._gateway_path = gateway
        self._given_gateway: Gateway | None = None
        self._attach = False
        self._lock = threading.RLock()
        self._session: Session | None = None
        self._gateway: Gateway | None = None
        self._machine: pb.Machine | None = None
        self._stopped = False
        self._last_statistics: dict[str, int] = {}
        self._last_waits: list[Wait] = []
        self._last_estimate: Estimate | None = None

    @classmethod
    def connect(
        cls,
        address: str,
        *,
        token: str | None = None,
        machine: str | None = None,
        provider: str | None = None,
        gpu_type: str | None = None,
        gpu_count: int = 1,
        packages: Sequence[str] | None = (),
        idle_timeout: float | None = None,
        timeout: float | None = None,
        name: str | None = None,
        options: dict[str, str] | None = None,
        recovery: str | None = None,
        checkpoint_interval: float | None = None,
        on_restored: Callable[[int], object] | None = None,
        mirror: bool = False,
        record: str | os.PathLike[str] | None = None,
        record_values: bool = True,
        on_progress: Callable[[Progress], None] | None = None,
        tls: bool | None = None,
        ca_file: str | os.PathLike[str] | None = None,
    ) -> RemoteMachine:
        """Returns a machine of a running gateway. Like the constructor, it does not start the machine.

        Args:
            address: the gateway's ``"host:port"``.
            token: the gateway's bearer token.
            machine: name of a machine that another program has opened. This program uses it but does not
                stop it.
            provider: opens a machine of this provider. With neither, the gateway's only machine is used.
            gpu_type: as in the constructor, like all arguments not listed here.
            gpu_count: as in the constructor.
            packages: as in the constructor.
            idle_timeout: as in the constructor.
            timeout: as in the constructor.
            name: as in the constructor.
            options: as in the constructor.
            recovery: as in the constructor.
            checkpoint_interval: as in the constructor.
            on_restored: as in the constructor.
            mirror: as in the constructor.
            record: as in the constructor.
            record_values: as in the constructor.
            on_progress: as in the constructor.
            tls: whether the connection is encrypted; by default it is, except on the loopback address.
            ca_file: certificates (PEM) to trust instead of the system's.

        Raises:
            ValueError: an argument is out of range, or the gateway has none or several machines to choose
                from.

        """
        if machine is not None and provider is not None:
            raise ValueError("pass either the name of a machine or a provider, not both")
        gateway = Gateway(address, token, tls=tls, ca_file=ca_file)
        if machine is None and provider is None:
            names = [
                each.name
                for each in gateway.list(Settings.from_environment().call_seconds).machines
            ]
            if len(names) != 1:
                raise ValueError(
                    f"the gateway at {address} has {len(names)} machines ({', '.join(names) or 'none'}): "
                    "pass machine=… for one of them, or provider=… for a new one"
                )
            machine = names[0]
        self = cls(
            provider or "attached",
            gpu_type,
            gpu_count=gpu_count,
            packages=packages,
            idle_timeout=idle_timeout,
            timeout=timeout,
            name=machine or name,
            options=options,
            recovery=recovery,
            checkpoint_interval=checkpoint_interval,
            on_restored=on_restored,
            mirror=mirror,
            record=record,
            record_values=record_values,
            on_progress=on_progress,
        )
        self._given_gateway = gateway
        self._attach = machine is not None
        return self

    # ------------------------------------------------------------ life

    def start(self) -> RemoteMachine:
        """Starts the machine and returns when it is ready. Does nothing if it runs.

        A stopped machine can be started again: that is a new machine, without the tensors of the old one.

        Raises:
            ProviderException: the provider or the gateway cannot provide a machine; subclasses give the
                reason.

        """
        with self._lock:
            if self._session is not None:
                return self
            settings = Settings.from_environment()
            if not _remote_execution:
                name = self._wanted_name or f"local-{next(_local_numbers)}"
                self._machine = pb.Machine(name=name, provider="local", state="READY")
                self._machine.devices.extend(
                    pb.Device(name=_session.LOCAL_DEVICE.upper(), kind=_session.LOCAL_DEVICE)
                    for _ in range(self._gpu_count)
                )
                self._session = LocalSession(name, self._gpu_count, settings)
            else:
                self._open(settings)
            self._session.on_restored = self._on_restored  # type: ignore[union-attr]
            self._stopped = False
            self._last_estimate = None
            _open_machines.append(self)
            _torch_module.machine_opened(self._session)  # type: ignore[arg-type]
            try:
                if self._packages and not self._attach:
                    # A node started by its provider has the packages; install the missing ones now.
                    functions.install(self._session, self._packages)  # type: ignore[arg-type]
            except BaseException:
                self._stop(False)
                raise
            log.info("%s is ready", self)
            return self

    def _open(self, settings: Settings) -> None:
        begin = time.monotonic()
        request = pb.OpenRequest(
            provider=self._provider,
            name=self._wanted_name or f"{self._provider}-{secrets.token_hex(4)}",
            gpu_type=self._gpu_type or "",
            gpu_count=self._gpu_count,
            idle_timeout_millis=int((self._idle_timeout or 0) * 1000),
            timeout_millis=int((self._timeout or 0) * 1000),
            packages=self._packages,
            options=self._options,
            recovery=self._recovery or "",
            checkpoint_interval_millis=int((self._checkpoint_interval or 0) * 1000),
            mirror=self._mirror,
            record=self._recording(),
            record_without_values=not self._record_values
            or os.environ.get("REMORA_RECORD_VALUES") == "off",
        )
        reporter = _progress.reporter(request.name, self._on_progress)
        try:
            self._open_as(request, reporter, settings, begin)
        except BaseException:
            if reporter is not None:
                reporter.close()
            raise
        self._reporter = reporter

    def _open_as(
        self,
        request: pb.OpenRequest,
        reporter: _progress.Reporter | None,
        settings: Settings,
        begin: float,
    ) -> None:
        with _progress.activity(reporter, "start") as starting:
            starting.message(
                "reaching the gateway" if self._given_gateway else "the gateway starts"
            )
            gateway = self._given_gateway or _gateway.own_gateway(
                settings, self._gateway_path, None if self._attach else request
            )
        reached = time.monotonic()
        if reporter is not None:
            reporter.follow(gateway)
        if self._attach:
            machine = gateway.attach(self._wanted_name or "", settings.call_seconds)
        else:
            machine = gateway.open(request, _OPEN_SECONDS)
        ready = time.monotonic()
        cuda = any(device.kind == "cuda" for device in machine.devices)
        try:
            self._session = GatewaySession(
                gateway, machine.name, max(1, len(machine.devices)), cuda, settings
            )
            self._session.set_node_address(machine.node_address)
            if reporter is not None:
                self._session.reporter = reporter
                reporter.watch(self._session)
        except BaseException:
            if not self._attach:
                gateway.stop(machine.name, settings.call_seconds)
            raise
        self._gateway, self._machine = gateway, machine
        log.debug(
            "Opening machine %s took %.2f s: starting or reaching the gateway %.2f, getting the node %.2f, "
            "opening the session %.2f",
            machine.name,
            time.monotonic() - begin,
            reached - begin,
            ready - reached,
            time.monotonic() - ready,
        )

    def _recording(self) -> str:
        """Returns the name of the recording for the gateway; empty for none."""
        record = self._record or os.environ.get("REMORA_RECORD", "")
        elsewhere = self._given_gateway is not None or (
            "REMORA_GATEWAY" in os.environ and self._gateway_path is None
        )
        return record if elsewhere or not record else str(pathlib.Path(record).absolute())

    def stop(self) -> None:
        """Waits until everything recorded is executed, then returns the machine to its provider.

        The machine is returned even if an error occurs. Does nothing if it does not run.

        Raises:
            RemoteOperationException: an operation has failed, and nothing has read its result.
            NodeLostException: the machine was lost before everything was executed, and no earlier error has
                reported it.

        """
        self._stop(True)

    def _stop(self, synchronize: bool) -> None:
        with self._lock:
            session, gateway, machine = self._session, self._gateway, self._machine
            if session is None:
                return
            self._session = self._gateway = None
            self._stopped = True
            if self in _open_machines:
                _open_machines.remove(self)
            told = session.failure_told
            reporter, self._reporter = self._reporter, None
            try:
                if synchronize and not told:
                    session.synchronize()
            finally:
                try:
                    if self._provider == _DRY_RUN and gateway is not None and not told:
                        self._print_estimate(session)
                    self._last_statistics = session.statistics()
                    self._last_waits = session.waits()
                    self._log_waits(session.machine_name)
                    if reporter is not None:
                        reporter.unwatch()
                    session.close()
                finally:
                    if gateway is not None and machine is not None and not self._attach:
                        try:
                            gateway.stop(machine.name, session.settings.call_seconds)
                        except exceptions.RemoraException as e:
                            if not told:
                                raise
                            log.warning(
                                "%s had failed, and its gateway did not stop it: %s", self, e
                            )
                    if reporter is not None:
                        reporter.close()
            log.info("%s is stopped", self)

    def pause(self) -> None:
        """Saves the node's state and ends the node, so that it costs nothing. Tensors are kept.

        The machine's next use resumes it.

        Raises:
            MachineStateException: the machine does not run, or cannot be paused.

        """
        session, gateway, machine = self._running()
        if gateway is None:
            raise exceptions.MachineStateException("a machine in this process cannot be paused")
        session.synchronize()
        self._machine = gateway.pause(machine.name, _PAUSE_SECONDS)

    def resume(self) -> None:
        """Starts a node for a paused machine and restores the saved state.

        A machine that was paused after its ``timeout`` may run for that long again.

        Raises:
            MachineStateException: the machine was not started, or cannot be resumed.

        """
        session, gateway, machine = self._running()
        if gateway is None:
            raise exceptions.MachineStateException("a machine in this process cannot be resumed")
        self._machine = gateway.resume(machine.name, _OPEN_SECONDS + _PAUSE_SECONDS)
        session.set_node_address(self._machine.node_address)
        core.check(core.session_release(session.handle))

    def migrate(
        self,
        provider: str | None = None,
        *,
        gpu_type: str | None = None,
        gpu_count: int | None = None,
        timeout: float | None = None,
        options: Mapping[str, str] | None = None,
    ) -> None:
        """Moves the machine to another node, while the program continues. Tensors are kept.

        The other node is started first. Then the node saves its state to the state store, which both nodes must
        reach, and the other node restores it. Returns when the former node has ended. A paused machine is resumed
        first.

        Args:
            provider: the other node's provider; None for the machine's present one.
            gpu_type: the kind of its GPUs; None for the present one, or for the provider's choice if the provider
                is another one.
            gpu_count: their number; None for as many as now. Another number of devices is refused.
            timeout: seconds that the other node may take to start; None for the gateway's limit.
            options: settings of the provider.

        Raises:
            ProviderException: the other node cannot be started, or has other devices. The machine continues on its
                node.
            MachineStateException: the machine does not run, or its state cannot be saved or restored. It continues
                on its node.
            ValueError: an argument is out of range.

        """
        _check_gpus(gpu_type, gpu_count)
        _check_seconds("timeout", timeout)
        session, gateway, machine = self._running()
        if gateway is None:
            raise exceptions.MachineStateException("a machine in this process cannot be moved")
        request = pb.MigrateRequest(
            name=machine.name,
            provider=provider or "",
            gpu_type=gpu_type or "",
            gpu_count=gpu_count or 0,
            timeout_millis=int((timeout or 0) * 1000),
            options=dict(options or {}),
        )
        self._machine = gateway.migrate(request, (timeout or _OPEN_SECONDS) + 2 * _PAUSE_SECONDS)
        session.set_node_address(self._machine.node_address)

    def pip_install(self, *packages: str) -> None:
        """Installs Python packages for functions of :func:`remora.remote`: now, or when the machine starts.

        Packages that the node's Python already has are not installed again. If a function has imported a
        package before, that version stays in use until the session ends.

        Args:
            packages: requirements and options, as for ``pip install``.

        Raises:
            RemoteFunctionError: pip failed; the message has its last lines.

        """
        if not packages:
            return
        with self._lock:
            session = self._session
            if session is None:
                self._packages.extend(packages)
                return
        functions.install(session, packages)

    def __enter__(self) -> RemoteMachine:
        return self.start()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if error is None:
            self._stop(True)
            return
        try:
            self._stop(False)
        except Exception as e:
            log.warning("Stopping %s after an error failed too: %s", self, e)

    # ------------------------------------------------------------ use

    def device(self, which: str | int | None = None) -> torch.device:
        """Returns one of the machine's devices, for ``tensor.to(…)``. Starts the machine if necessary.

        Args:
            which: ``"cuda"`` or ``"cuda:0"`` for the first device, ``"cuda:1"`` for the second; on a
                machine that simulates GPUs on its CPU, these are the simulated ones. ``"cpu"`` for a device
                that computes on the machine's CPU; a number for the device with that number, from 0; None
                for the first device.

        Raises:
            ValueError: the machine has no such device.
            MachineStateException: the machine was stopped.

        """
        with self._lock:
            if self._stopped:
                raise exceptions.MachineStateException(
                    f"{self} is stopped: call start() to open a new machine"
                )
            self.start()
            session, _, machine = self._running()
            return session.device(self._device_number(which, machine))

    def _device_number(self, which: str | int | None, machine: pb.Machine) -> int:
        if which is None:
            return 0
        kinds = [device.kind for device in machine.devices] or ["cpu"]
        if isinstance(which, int):
            if 0 <= which < len(kinds):
                return which
            raise ValueError(f"{self} has no device {which}: it has {len(kinds)}, numbered from 0")
        wanted = torch.device(which)
        # Simulated GPUs have the names of real ones, so that a program can be tried without a GPU.
        matching = [
            number
            for number, kind in enumerate(kinds)
            if wanted.type == kind or (wanted.type == "cuda" and "cuda" not in kinds)
        ]
        index = wanted.index or 0
        if index >= len(matching):
            raise ValueError(
                f"{self} has no device '{which}': it has {len(kinds)} ({', '.join(kinds)})"
            )
        return matching[index]

    def checkpoint(self, step: int) -> None:
        """Marks that a step of the program is complete: a place to which the program can go back.

        Returns at once. For machines with ``recovery="checkpoint"``; with another value nothing follows from
        it. The node makes a checkpoint of exactly what was recorded before the call, at most one in each
        ``checkpoint_interval``, so a program may call this after each step. When the node is lost, another
        one restores the last checkpoint, and the reads that wait, or else the next use of the machine, raise
        a :class:`RestoredException` with its step.

        Args:
            step: any number; it means something to the program only.

        Raises:
            RestoredException: the machine was restored, and the program does not know it yet.
            NodeLostException: the machine is gone.

        """
        self._running()[0].checkpoint(step)

    def synchronize(self) -> None:
        """Waits until everything recorded so far is executed.

        Raises:
            RemoteOperationException: an operation has failed, and nothing has read its result. It is the
                first such operation's error.
            NodeLostException: the machine is gone.
            ReadTimeoutException: the machine has finished nothing for ``REMORA_READ_TIMEOUT`` seconds.

        """
        self._running()[0].synchronize()

    def load_state_dicts(
        self,
        source: str | os.PathLike[str],
        device: torch.device | str | None = None,
        **options: Any,
    ) -> dict[str, dict[str, torch.Tensor]]:
        """Calls :func:`remora.load_huggingface_state_dicts`, by default for this machine's first device."""
        return models.load_huggingface_state_dicts(
            source, self.device() if device is None else device, **options
        )

    def save(
        self,
        state_dict: Mapping[str, torch.Tensor],
        path: str | os.PathLike[str],
        *,
        metadata: Mapping[str, str] | None = None,
        where: str = "program",
    ) -> None:
        """Writes tensors of this machine to a safetensors file.

        The new file replaces an existing one only when it is complete. Identical tensors are written once.
        As in safetensors' own library, the file's metadata has their other names, and loading restores
        these.

        Args:
            state_dict: the tensors by name.
            path: the file. On the node, an absolute path that ends with ``.safetensors``, within a folder
                that the node allows (``remora.node.models.save-directories``).
            metadata: further entries of the file's metadata; ``format`` is ``pt`` unless given.
            where: ``"program"`` for a file on this computer, for which one tensor after the other is read;
                ``"node"`` for a file on the node, for which no tensor passes through this program.

        Raises:
            ModelException: the file cannot be written, or safetensors does not support a dtype.
            ValueError: a tensor is not on this machine, or an argument is out of range.

        """
        models.save(self._running()[0], state_dict, path, metadata, where)

    def keep(self, name: str, state: Any, *, lease: float = _kept.DEFAULT_LEASE) -> Kept:
        """Keeps the present values of tensors on the machine under a name.

        ::

            machine.keep("run", {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "step": step})
            …
            state = machine.kept("run")  # in the next program

        They replace what was kept under this name before, as a whole. They stay when the program ends or is
        killed, when the machine is paused, stopped or moves, and when its node is lost: the node writes them to
        its state store (``remora.state``). Any program with a machine of this name gets them, from Python, Java or
        Kotlin. Only tensors of the CPU, such as an optimizer's number of steps, pass through the program.

        The call returns when the values are stored. The node executes nothing else of this program meanwhile.

        Args:
            name: 1 to 64 letters, digits, ``-`` and ``_``. Machines of another name have names of their own.
            state: a tensor, or dicts, lists and tuples of tensors, strings, numbers and None, such as state dicts.
                Keys are strings or integers.
            lease: seconds for which they are kept, from now on; a day by default.

        Raises:
            ModelException: the store has no room, or safetensors does not support a dtype. What was kept before
                is kept still.
            ValueError: a tensor is on another machine, or an argument is out of range.

        """
        return _kept.keep(self._running()[0], name, state, lease)

    def kept(self, name: str, device: str | int | None = None) -> Any:
        """Returns what was kept under a name, or None.

        Tensors are in new memory of the machine, except for those that :meth:`keep` found on the CPU. From a Java
        program it is a dict of tensors. They are kept further, until they are replaced or dropped, or their lease is
        over.

        Args:
            name: as for :meth:`keep`.
            device: the device for the tensors, as for :meth:`device`; the machine's first by default.

        Raises:
            ModelException: they cannot be read.

        """
        session, _, machine = self._running()
        return _kept.kept(session, name, self._device_number(device, machine))

    def list_kept(self) -> list[Kept]:
        """Returns what is kept for machines of this name, sorted by name."""
        return _kept.list_kept(self._running()[0])

    def drop_kept(self, name: str) -> bool:
        """Deletes what is kept under a name. Returns whether something was."""
        return _kept.drop(self._running()[0], name)

    def stats(self) -> dict[str, float]:
        """Returns this machine's figures so far; those of this process remain available after :meth:`stop`.

        ``operations`` and ``batches`` recorded, ``batch_bytes``, ``uploaded_bytes``, ``downloaded_bytes``,
        ``blocking_reads``, ``plan_misses``, ``storages`` (live) are figures of this process. Each of the
        ``blocking_reads`` is a round trip for which a thread waited. By cause, they are ``value_waits`` (a
        value that was read: ``item``, ``cpu``, ``print``, ``if tensor``), ``shape_waits`` (a result's shape
        that depends on values), ``metadata_waits`` (a result's metadata that only the node could tell; see
        :meth:`metadata_waits`) and questions, such as that for a device's memory. ``room_waits`` are waits
        for room to send more. ``value_wait_seconds``, ``shape_wait_seconds``, ``metadata_wait_seconds``,
        ``question_wait_seconds`` and ``room_wait_seconds`` are how long this process has waited;
        ``paused_wait_seconds``, ``reconnecting_wait_seconds`` and ``recovering_wait_seconds`` how long it has
        waited because the machine was in such a state. :meth:`waits` has the program's lines.
        ``from_views``, ``from_rules``, ``from_libtorch``, ``from_node`` and
        ``from_values`` count operations by the origin of their results' metadata: the arguments' memory, Remora's
        rules, libtorch's code, the node that was asked once for such arguments, and the node that is asked
        each time because values decide. ``kept_plans`` are predictions of results that are kept, 65,536 at
        most. ``plan_misses`` are
        operations whose results' shapes had to be computed because the operation was not recorded with such
        arguments before. They grow during a program's first steps and hardly after that, unless shapes
        change with each step. The other figures are the machine's, over all its sessions, under the names
        that Java, the gateway and Prometheus use (``docs/operations.md``); names that occur in the list
        above have the prefix ``machine.``.
        """
        with self._lock:
            session, gateway, machine = self._session, self._gateway, self._machine
        if session is None:
            return _figures(self._last_statistics)
        result = _figures(session.statistics())
        if gateway is not None and machine is not None:
            request = pb.MachineRequest(name=machine.name)
            if isinstance(session, GatewaySession):
                # The gateway may learn later than this program what a node has executed.
                request.session = session.session_id
                request.after_batch = core.session_last_executed(session.handle)
            for name, value in gateway.stats(request, session.settings.call_seconds).items():
                result[name if name not in result else "machine." + name] = value
        return result

    def waits(self) -> list[Wait]:
        """Returns where this process has waited for the machine, the longest wait first.

        Also available after :meth:`stop`. The log ``remora`` has the first three at INFO when the machine is
        stopped, if the process has waited for a second or more.
        """
        with self._lock:
            session = self._session
        return session.waits() if session is not None else list(self._last_waits)

    def trace(self, file: str | os.PathLike[str]) -> Trace:
        """Writes a timeline of this machine to a file, until the trace or the machine is stopped.

        ::

            with machine.trace("run.json"):
                step()

        The file is in Chrome's trace event format, which Perfetto (ui.perfetto.dev) and Chrome show: what this
        process's threads record and wait for and at which lines, the batches on their way, and what the node
        executes, with all clocks aligned. With ``REMORA_TRACE=run.json`` each machine is traced from its start
        to its stop.

        Args:
            file: if it exists, a number is added to its name; ``.file`` of the result tells.

        Raises:
            MachineStateException: the machine does not run, or is traced already.
            RemoraException: the file cannot be created.

        """
        return self._running()[0].trace(file)

    def _log_waits(self, name: str) -> None:
        waits = self._last_waits
        seconds = sum(wait.seconds for wait in waits)
        if seconds >= _NOTABLE_WAITS:
            first = "; ".join(str(wait) for wait in waits[:_MOST_LOGGED_WAITS])
            log.info("Machine %s: this program has waited %.2f s for it: %s", name, seconds, first)

    def estimate(self) -> Estimate:
        """Returns what this program has needed of the machine so far, and the GPUs on which it would fit.

        A machine of provider ``"estimate"`` finds that without a GPU and without computing
        (``docs/dry-run.md``). It also prints this on standard error when it stops, and knows it after that.

        Raises:
            MachineStateException: the machine does not run, and was not one of provider ``"estimate"``.

        """
        with self._lock:
            last = self._last_estimate
        return last if last is not None else self._measured(self._running()[0])

    @staticmethod
    def _measured(session: Session) -> Estimate:
        peaks = [
            _torch_module.max_memory_allocated(session.device(number))
            for number in range(session.devices)
        ]
        return _estimate.estimate(session.statistics(), peaks)

    def _print_estimate(self, session: Session) -> None:
        try:
            self._last_estimate = self._measured(session)
        except exceptions.RemoraException as e:
            log.warning("There is no estimate of %s: %s", self, e)
            return
        print(f"Dry run of machine {self.name}\n{self._last_estimate}", file=sys.stderr)

    def dashboard(self) -> str:
        """Returns a link to the live page of this machine's gateway (``docs/dashboard.md``).

        It signs one browser in, once, within two minutes; without a token of the gateway it needs no ticket and works
        for as long as the gateway runs. A gateway that this program has started ends with the program.

        Raises:
            MachineStateException: the machine is not started.
            RemoraException: the machine runs in this process, without a gateway, or the gateway serves no page.

        """
        session, gateway, _ = self._running()
        if gateway is None:
            raise exceptions.RemoraException(
                "a machine of this process has no gateway, and so no page: remora.enable_remote_execution()"
            )
        return gateway.dashboard(session.settings.call_seconds)

    def metadata_waits(self) -> dict[str, int]:
        """Returns the operators for which this process waited to learn the metadata of their results.

        Keys are names such as ``"aten::_fft_r2c"``, values the number of waits. Each is a round trip; a
        call with the same shapes, dtypes and arguments does not wait again.

        Raises:
            MachineStateException: the machine does not run.

        """
        return self._running()[0].metadata_waits()

    def storage(self, tensor: torch.Tensor) -> StorageInfo:
        """Returns the machine's data about a tensor's storage: whether it has memory, and its size.

        Raises:
            ValueError: the tensor is not on this machine.
            MachineStateException: the machine does not run.

        """
        session, gateway, machine = self._running()
        if not session.has(tensor.device):
            raise ValueError(f"the tensor is on {tensor.device}, not on {self}")
        number = storage_id(tensor)
        if not isinstance(session, GatewaySession) or gateway is None:
            return StorageInfo(
                "REALIZED",
                tensor.untyped_storage().nbytes(),
                (tensor.device.index or 0) - session.first_slot,
                0,
                "remote execution is disabled",
            )
        core.check(core.machine_flush(session.handle))
        request = pb.StorageRequest(
            machine=machine.name,
            session=session.session_id,
            storage=number,
            after_batch=session.statistics()["batches"],
        )
        answer = gateway.storage(request, session.settings.call_seconds)
        return StorageInfo(answer.state, answer.bytes, answer.device, answer.session, answer.reason)

    @property
    def name(self) -> str:
        """The machine's name; empty until the machine is started, unless a name was given."""
        machine = self._machine
        return machine.name if machine is not None else self._wanted_name or ""

    @property
    def state(self) -> str:
        """``"NEW"`` before the start, ``"STOPPED"`` after the stop, else the gateway's, such as ``"READY"``."""
        with self._lock:
            session, gateway, machine = self._session, self._gateway, self._machine
        if session is None:
            return "STOPPED" if self._stopped else "NEW"
        if gateway is None or machine is None:
            return "READY"
        return gateway.get(machine.name, session.settings.call_seconds).state

    @property
    def devices(self) -> list[DeviceInfo]:
        """The machine's devices; empty before the start."""
        machine = self._machine
        if machine is None:
            return []
        return [DeviceInfo(each.name, each.kind, each.memory) for each in machine.devices]

    def __repr__(self) -> str:
        state = (
            "runs" if self._session is not None else "stopped" if self._stopped else "not started"
        )
        return f"RemoteMachine({self.name or self._provider}, {state})"

    def __reduce__(self) -> tuple[object, ...]:
        raise TypeError("a RemoteMachine cannot be pickled: each process opens its own")

    def _running(self) -> tuple[Session, Gateway | None, pb.Machine]:
        with self._lock:
            if self._session is None or self._machine is None:
                what = "is stopped" if self._stopped else "is not started"
                raise exceptions.MachineStateException(
                    f"{self.name or self._provider} {what}: call start()"
                )
            return self._session, self._gateway, self._machine


def get_all_machines() -> list[RemoteMachine]:
    """Returns the machines that this process has open, in the order of their starts."""
    return list(_open_machines)


def disable_remote_execution() -> None:
    """Makes machines that are started from now on run in this process, on its CPU, whatever their provider.

    Semantics are the same, without a gateway or another process: for tests, and for debugging. Running
    machines are not affected.
    """
    global _remote_execution
    _remote_execution = False


def enable_remote_execution() -> None:
    """Makes machines that are started from now on use their provider again."""
    global _remote_execution
    _remote_execution = True


def is_remote_execution_enabled() -> bool:
    """Whether machines that are started use their provider."""
    return _remote_execution


def declare_fixed_shapes(operator: str) -> None:
    """Declares that values never decide the output shapes of an operator of another library.

    Without it, and without a Meta kernel (``torch.library.register_fake``), each call of the operator
    waits for the node. Must be called before the operator's first call in the process.

    Args:
        operator: the operator's name with its library, such as ``"torchvision::roi_align"``, for all overloads.

    Raises:
        ValueError: the name has no library.

    """
    library, separator, name = operator.partition("::")
    if not (library and separator and name):
        raise ValueError(f"an operator is named library::operator, not {operator!r}")
    core.declare_fixed_shapes(operator.encode())


def storage_id(tensor: torch.Tensor) -> int:
    """Returns the id of a remote tensor's storage: 1, 2, 3 … in the order in which this process made them.

    An id is never reused. Tensors that are views of each other have the same id.

    Raises:
        ValueError: the tensor is not on a remote device.

    """
    number: int = core.storage_id(address_of(tensor))
    if number < 0:
        raise ValueError(f"{core.last_error().decode()}: only remote tensors have storage ids")
    return number


def metadata_hash(tensor: torch.Tensor) -> int:
    """Returns a 64-bit FNV-1a hash of shape, strides, dtype, offset and storage id, for logs.

    It is computed at the call. For a tensor that is not on a remote device, the storage id counts as 0.
    """
    number: int = core.metadata_hash(address_of(tensor))
    return number & 0xFFFF_FFFF_FFFF_FFFF


# ---------------------------------------------------------------- the program's end


def _stop_all() -> None:
    """Stops the open machines; recorded operations may be executed for a few seconds more."""
    _stop_profiler()
    seconds = Settings.from_environment().exit_seconds
    for machine in list(_open_machines):
        session = machine._session
        if session is None:
            continue
        waiting = threading.Thread(target=_synchronize_quietly, args=(session,), daemon=True)
        waiting.start()
        waiting.join(seconds)
        try:
            machine._stop(False)
        except Exception as e:
            log.warning("%s could not be stopped: %s", machine, e)
    _gateway.stop_own_gateway()


def _stop_profiler() -> None:
    """Stops a profiler that is still running: PyTorch's profiler crashes a program that ends while it runs.

    PyTorch's profiler synchronizes the device before it stops. If an operation's error is raised then, it
    keeps running.
    """
    if torch._C._autograd._profiler_enabled():
        torch._C._autograd._disable_profiler()


def _synchronize_quietly(session: Session) -> None:
    try:
        session.synchronize()
    except Exception as e:
        log.error("At the program's end, machine '%s': %s", session.machine_name, e)


def _after_fork_in_child() -> None:
    _open_machines.clear()


atexit.register(_stop_all)
os.register_at_fork(after_in_child=_after_fork_in_child)
