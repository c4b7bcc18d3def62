# SPDX-License-Identifier: AGPL-3.0-or-later
"""Whole Python functions on the node, next to their tensors: :func:`remote`."""

from __future__ import annotations

import collections
import concurrent.futures
import contextlib
import ctypes
import functools
import io
import json
import logging
import math
import queue
import site
import sys
import sysconfig
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from types import CodeType, MethodType, ModuleType
from typing import TYPE_CHECKING, Any, ClassVar, Generic, ParamSpec, TypeVar, cast, overload

import cloudpickle
import torch

from . import _exchange as exchange
from . import exceptions
from ._exchange import SOURCE_ARGUMENT, Reader, Shape, Writer
from ._native import core
from ._session import Session, session_of

if TYPE_CHECKING:
    from .machine import RemoteMachine

log = logging.getLogger("remora")

_P = ParamSpec("_P")
_R = TypeVar("_R")

_TIMEOUT = 3600.0
_IDLE_SECONDS = 10.0
_FAILURE = "remora.remote "


# ---------------------------------------------------------------- the decorator


class RemoteFunction(Generic[_P, _R]):
    """A function that runs on the node when it is called; see :func:`remote`."""

    def __init__(
        self,
        function: Callable[_P, _R],
        machine: RemoteMachine | None,
        packages: Sequence[str],
        run_async: bool,
        timeout: float,
    ) -> None:
        self.__qualname__ = getattr(function, "__qualname__", repr(function))
        functools.update_wrapper(self, function)
        self._function = function
        self._machine = machine
        self._packages = [*packages]
        self._run_async = run_async
        self._timeout = timeout

    def __call__(self, *args: _P.args, **kwargs: _P.kwargs) -> _R:
        """Runs it: on the node, or, called by a function that runs there, just so."""
        if getattr(exchange.inside, "function", False):
            return self._function(*args, **kwargs)
        future = self.submit(*args, **kwargs)
        return cast(_R, future) if self._run_async else future.result()

    def submit(self, *args: _P.args, **kwargs: _P.kwargs) -> concurrent.futures.Future[_R]:
        """Starts it and returns at once, whatever ``run_async`` says."""
        pickled = _Pickled((self._function, args, kwargs))
        session, device = pickled.place(self._machine)
        return _submit(
            session,
            device,
            self.__qualname__,
            pickled,
            packages=self._packages,
            timeout=self._timeout,
        )

    @property
    def local(self) -> Callable[_P, _R]:
        """The function itself."""
        return self._function

    def __get__(self, instance: Any, owner: Any = None) -> Any:
        return self if instance is None else MethodType(self, instance)

    def __reduce__(self) -> tuple[Any, ...]:
        return _the_function, (self._function,)

    def __repr__(self) -> str:
        return f"<remote function {self.__qualname__}>"


def _the_function(function: Any) -> Any:
    """What a remote function is on the node: that which it runs."""
    return function


@overload
def remote(function: Callable[_P, _R]) -> RemoteFunction[_P, _R]: ...
@overload
def remote(
    *,
    machine: RemoteMachine | None = None,
    packages: Sequence[str] = (),
    run_async: bool = False,
    timeout: float = _TIMEOUT,
) -> Callable[[Callable[_P, _R]], RemoteFunction[_P, _R]]: ...
def remote(
    function: Callable[_P, _R] | None = None,
    *,
    machine: RemoteMachine | None = None,
    packages: Sequence[str] = (),
    run_async: bool = False,
    timeout: float = _TIMEOUT,
) -> Any:
    """Decorator: calls of the function run whole on a machine's node, in a Python process beside its tensors.

    ::

        @remora.remote
        def step(model, batch):
            loss = model(batch).square().mean()
            loss.backward()
            return loss, [p.grad for p in model.parameters()]

    It runs on the machine of the tensors among its arguments (also within containers, modules and
    closures), else on `machine`, else on that of the current device; in order with the operations
    recorded before and after the call. Tensors on the machine are the function's arguments as they are,
    nothing is copied: what it writes to them in place is seen by the program. Tensors in the result stay
    on the machine. Everything else is pickled: the function with what it refers to in the program's own
    files, arguments, result, and what it raises. What it prints is printed here when it has ended.

    Gradients do not flow through the call: tensors in the result are detached from their graph there.

    Args:
        function: given by ``@remora.remote`` without parentheses.
        machine: where to run when there are no tensors to say it.
        packages: requirements to install on the node first, as ``pip install`` takes them.
        run_async: a call returns a :class:`concurrent.futures.Future` at once. Functions of one
            machine run one after the other, all the same.
        timeout: seconds after which the function is ended.

    Raises:
        ValueError: an argument is out of range.

    """
    if isinstance(packages, str):
        raise ValueError("packages must be a list of requirements, not one string")
    if not (timeout > 0 and math.isfinite(timeout)):
        raise ValueError(f"timeout must be a positive number of seconds, not {timeout}")

    def decorate(decorated: Callable[_P, _R]) -> RemoteFunction[_P, _R]:
        if not callable(decorated):
            raise TypeError(f"@remora.remote decorates functions, not {decorated!r}")
        return RemoteFunction(decorated, machine, packages, run_async, timeout)

    return decorate if function is None else decorate(function)


def install(session: Session, packages: Sequence[str], timeout: float = _TIMEOUT) -> None:
    """Installs packages on a session's node.

    Raises:
        RemoteFunctionError: pip cannot; the message has its last lines.

    """
    pickled = _Pickled(None)
    _submit(session, 0, "pip_install", pickled, packages=packages, timeout=timeout).result()


# ---------------------------------------------------------------- what is sent


def _code_with_its_file(code: CodeType) -> tuple[Any, ...]:
    """As cloudpickle reduces code, with the file's name, which newer versions leave out: for tracebacks."""
    make, arguments, *rest = cloudpickle.Pickler.dispatch_table[CodeType](code)
    named = tuple(code.co_filename if each == "<dynamic-code>" else each for each in arguments)
    return make, named, *rest


class _Pickler(cloudpickle.Pickler):  # type: ignore[misc]
    """Pickles a call without the machine's tensors."""

    dispatch_table: ClassVar[Any] = collections.ChainMap(
        {CodeType: _code_with_its_file}, cloudpickle.Pickler.dispatch_table
    )

    def __init__(self, file: io.BytesIO, call: _Pickled) -> None:
        super().__init__(file, protocol=5)
        self._call = call

    def persistent_id(self, value: Any) -> Any:
        if isinstance(value, torch.Tensor):
            if value.device.type == "remora" and not torch.nn.parameter.is_lazy(value):
                return self._call.tensor(value)
        elif isinstance(value, torch.device) and value.type == "remora":
            return self._call.device(value)
        return None


class _Pickled:
    """A call, pickled, and the tensors in it."""

    def __init__(self, call: Any) -> None:
        self.tensors: list[torch.Tensor] = []
        self._numbers: dict[int, int] = {}
        self.session: Session | None = None
        self.first_device = 0
        file = io.BytesIO()
        with _own_modules_by_value():
            _Pickler(file, self).dump(call)
        self.data = file.getvalue()

    def tensor(self, tensor: torch.Tensor) -> tuple[Any, ...]:
        """What stands for a remote tensor."""
        number = self._numbers.get(id(tensor))
        if number is None:
            self._on(tensor.device)
            number = self._numbers[id(tensor)] = len(self.tensors)
            self.tensors.append(tensor)
        return ("tensor", number, type(tensor), tensor.is_leaf and tensor.requires_grad)

    def device(self, device: torch.device) -> tuple[Any, ...]:
        """What stands for a remote device."""
        slot = torch.remora.current_device() if device.index is None else device.index
        return ("device", self._on(torch.device("remora", slot)))

    def _on(self, device: torch.device) -> int:
        session, number = session_of(device.index)
        if self.session is None:
            self.session, self.first_device = session, number
        elif session is not self.session:
            raise exceptions.CrossMachineException(
                f"a function runs on one machine: one of its tensors is on machine '{self.session.machine_name}' "
                f"(remora:{self.session.first_slot}), another on '{session.machine_name}' ({device}); move one of "
                "them with tensor.to(machine.device())"
            )
        return number

    def place(self, machine: RemoteMachine | None) -> tuple[Session, int]:
        """Where it runs: session, and number of the device."""
        if machine is not None:
            wanted, number = session_of(machine.device().index)
            if self.session is not None and self.session is not wanted:
                raise exceptions.CrossMachineException(
                    f"the function is to run on machine '{wanted.machine_name}' (remora:{wanted.first_slot}), its "
                    f"tensors are on '{self.session.machine_name}' (remora:{self.session.first_slot})"
                )
            if self.session is None:
                return wanted, number
        if self.session is not None:
            return self.session, self.first_device
        return session_of(core.current_device())


# Modules of installed packages are imported on the node; the program's own files are not there, so that what a
# function uses of them goes along.
_pickling = threading.RLock()
_known_modules: set[str] = set()


def _installed_folders() -> list[str]:
    folders = {sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib")}
    folders.update(site.getsitepackages())
    folders.add(site.getusersitepackages())
    files = (torch.__file__, cloudpickle.__file__, __file__)
    folders.update(str(Path(file).parent) for file in files if file)
    return [folder + "/" for folder in folders if folder]


def _is_own(module: ModuleType) -> bool:
    file = getattr(module, "__file__", None)
    if not isinstance(file, str) or not file.endswith(".py"):
        return False
    return not any(file.startswith(folder) for folder in _installed_folders())


@contextlib.contextmanager
def _own_modules_by_value() -> Iterator[None]:
    with _pickling:
        for name, module in list(sys.modules.items()):
            if name in _known_modules:
                continue
            _known_modules.add(name)
            if (
                name not in ("__main__", "__mp_main__")
                and type(module) is ModuleType
                and _is_own(module)
            ):
                _own_modules.add(name)
        own = [sys.modules[name] for name in _own_modules if name in sys.modules]
        added = [
            each for each in own if each.__name__ not in cloudpickle.list_registry_pickle_by_value()
        ]
        for module in added:
            cloudpickle.register_pickle_by_value(module)
        try:
            yield
        finally:
            for module in added:
                cloudpickle.unregister_pickle_by_value(module)


_own_modules: set[str] = set()


# ---------------------------------------------------------------- calls under way


class _Future(concurrent.futures.Future[Any]):
    """Says so when nobody has looked at a failure."""

    name = ""
    _looked = False

    def result(self, timeout: float | None = None) -> Any:
        self._looked = True
        return super().result(timeout)

    def exception(self, timeout: float | None = None) -> BaseException | None:
        self._looked = True
        return super().exception(timeout)

    def __del__(self) -> None:
        if not self._looked and self.done() and not self.cancelled():
            error = super().exception()
            if error is not None:
                log.error(
                    "%s has failed, and nobody has asked for its result: %s", self.name, error
                )


class _Run:
    """A call on its way."""

    def __init__(self, session: Session, device: int, name: str, pickled: _Pickled) -> None:
        self.session = session
        self.name = name
        self.future = _Future()
        self.future.name = name
        self.future.set_running_or_notify_cancel()
        self.device = session.device(device)
        self.arguments = pickled.tensors
        self.request = 0


class _Waiter:
    """Waits for a session's calls, one after the other, as they end."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self.runs: queue.SimpleQueue[_Run] = queue.SimpleQueue()
        threading.Thread(
            target=self._wait, name=f"remora-remote-{session.machine_name}", daemon=True
        ).start()

    def _wait(self) -> None:
        while True:
            try:
                run = self.runs.get(timeout=_IDLE_SECONDS)
            except queue.Empty:
                with _waiters_lock:
                    if self.runs.empty():
                        del _waiters[self._session]
                        return
                continue
            try:
                run.future.set_result(_result(run))
            except BaseException as e:
                run.future.set_exception(e)
            del run


_waiters: dict[Session, _Waiter] = {}
_waiters_lock = threading.Lock()


def _submit(
    session: Session,
    device: int,
    name: str,
    pickled: _Pickled,
    *,
    packages: Iterable[str],
    timeout: float,
) -> _Future:
    run = _Run(session, device, name, pickled)
    header: dict[str, Any] = {
        "python": sys.version_info[:2],
        "torch": torch.__version__.split("+")[0],
        "call": name != "pip_install",
        "packages": [*packages],
        "default_dtype": str(torch.get_default_dtype()).removeprefix("torch."),
        "grad": torch.is_grad_enabled(),
        "body": None,
    }
    tensors, body = [*pickled.tensors], pickled.data
    if len(body) > exchange.INLINE_BYTES:
        header["body"] = len(tensors)
        tensors.append(torch.frombuffer(bytearray(body), dtype=torch.uint8).to(run.device))
        body = b""
    payload = Writer()
    payload.block(json.dumps(header).encode())
    payload.raw(body)
    data = payload.bytes()
    count = len(tensors)
    values = (ctypes.c_int64 * count)(*(tensor._cdata for tensor in tensors))
    start = ctypes.addressof(values)
    addresses = (ctypes.c_int64 * count)(*(start + 8 * i for i in range(count)))
    run.request = core.check(
        core.run(
            session.handle,
            device,
            max(1, int(timeout * 1000)),
            name.encode(),
            data,
            len(data),
            addresses,
            count,
        )
    )
    with _waiters_lock:
        waiter = _waiters.get(session)
        if waiter is None:
            waiter = _waiters[session] = _Waiter(session)
        waiter.runs.put(run)
    return run.future


# ---------------------------------------------------------------- what comes back


class _Unpickler(cloudpickle.pickle.Unpickler):  # type: ignore[misc]
    """Loads a result; its tensors are on the machine."""

    def __init__(self, data: bytes, load: Callable[[Any], Any]) -> None:
        super().__init__(io.BytesIO(data))
        self._load = load

    def persistent_load(self, pid: Any) -> Any:
        return self._load(pid)


def _result(run: _Run) -> Any:
    data = ctypes.c_void_p()
    size = core.run_await(run.session.handle, run.request, ctypes.byref(data))
    if size < 0:
        raise _failure(run, core.error())
    reader = Reader(ctypes.string_at(data, size))
    reader.byte()
    payload = reader.block()
    devices = []
    for _ in range(reader.number()):
        devices.append((reader.number(), run.session.device(reader.number())))
    storages = _bind(run, devices)
    tensors = []
    for _ in range(reader.number()):
        source, number = reader.byte(), reader.number()
        storage = (
            run.arguments[number].untyped_storage()
            if source == SOURCE_ARGUMENT
            else storages[number]
        )
        tensors.append(Shape.read(reader).over(storage))
    return _outcome(run, payload, tensors)


def _bind(run: _Run, sizes: list[tuple[int, torch.device]]) -> list[torch.UntypedStorage]:
    """Storages of this program for those that the function has left on the node."""
    if not sizes:
        return []
    tensors = [torch.empty(size, dtype=torch.uint8, device=device) for size, device in sizes]
    values = (ctypes.c_int64 * len(tensors))(*(tensor._cdata for tensor in tensors))
    start = ctypes.addressof(values)
    addresses = (ctypes.c_int64 * len(tensors))(*(start + 8 * i for i in range(len(tensors))))
    core.check(core.run_bind(run.session.handle, run.request, addresses, len(tensors)))
    return [tensor.untyped_storage() for tensor in tensors]


def _outcome(run: _Run, payload: bytes, tensors: list[torch.Tensor]) -> Any:
    reader = Reader(payload)
    header = json.loads(reader.block())
    large = header["body"]
    body = reader.raw(reader.left()) if large is None else bytes(tensors.pop(large).cpu().numpy())
    for stream, written in header["output"]:
        target = sys.stdout if stream == "out" else sys.stderr
        if target is not None:
            target.write(written)
            target.flush()

    made: dict[int, torch.Tensor] = {}

    def load(pid: Any) -> Any:
        kind, number, *rest = pid
        if kind == "argument":
            return run.arguments[number]
        if number not in made:
            cls, requires_grad = rest
            made[number] = exchange.dressed(tensors[number], cls, requires_grad)
        return made[number]

    error = header.get("error")
    if error is None:
        return _Unpickler(body, load).load() if body else None
    raise _raised(run, error, body, load)


def _raised(
    run: _Run, error: dict[str, Any], body: bytes, load: Callable[[Any], Any]
) -> BaseException:
    """The exception for what a function has raised."""
    what = f"{error['type']}: {error['text']}" if error["text"] else error["type"]
    if error["phase"] == "load":
        message = (
            f"{run.name} and its arguments cannot be unpickled on the node: {what}; a package that is missing "
            "there can be installed with packages=[…]"
        )
    elif error["phase"] == "result":
        message = f"the result of {run.name} cannot be pickled on the node: {what}"
    else:
        message = f"{run.name} has raised {what}"
    remote_error = exceptions.RemoteFunctionError(
        f"{message}\n\nOn the node:\n{error['traceback'].rstrip()}"
    )
    if error["phase"] == "call" and not error["exit"] and body:
        try:
            original = _Unpickler(body, load).load()
        except Exception as e:
            log.debug("What %s has raised cannot be unpickled: %s", run.name, e)
        else:
            if isinstance(original, BaseException):
                original.__cause__ = remote_error
                return original
    return remote_error


def _failure(run: _Run, error: BaseException) -> BaseException:
    """The exception for a function that has not come to its end."""
    text = str(error)
    if isinstance(error, exceptions.RemoteOperationException) and text.startswith(_FAILURE):
        _, _, why = text.partition(" failed on the node: ")
        return exceptions.RemoteFunctionError(f"{run.name} failed on the node: {why or text}")
    return error
