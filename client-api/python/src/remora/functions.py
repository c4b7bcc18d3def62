# SPDX-License-Identifier: AGPL-3.0-or-later
"""Python functions that run whole on the node, next to their tensors: :func:`remote`."""

from __future__ import annotations

import collections
import concurrent.futures
import contextlib
import functools
import io
import json
import logging
import math
import re
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

from . import _calls as calls
from . import _exchange as exchange
from . import exceptions
from ._exchange import Reader, Writer
from ._native import core
from ._progress import activity
from ._session import Session, session_of

if TYPE_CHECKING:
    from .machine import RemoteMachine

log = logging.getLogger("remora")

_P = ParamSpec("_P")
_R = TypeVar("_R")

_LONGEST_SECONDS = 366 * 24 * 3600.0  # the native core's limit, used for no limit
_INSTALL_SECONDS = 3600.0
_FAILED = re.compile(r"\n  (\w+ )?in remora\.remote .* on the node")


# ---------------------------------------------------------------- the decorator


class RemoteFunction(Generic[_P, _R]):
    """A function whose calls run on the node; see :func:`remote`."""

    def __init__(
        self,
        function: Callable[_P, _R],
        machine: RemoteMachine | None,
        packages: Sequence[str] | None,
        run_async: bool,
        timeout: float,
    ) -> None:
        self.__qualname__ = getattr(function, "__qualname__", repr(function))
        functools.update_wrapper(self, function)
        self._function = function
        self._machine = machine
        self._packages = [*(packages or ())]
        self._run_async = run_async
        self._timeout = timeout

    def __call__(self, *args: _P.args, **kwargs: _P.kwargs) -> _R:
        """Runs the function: on the node, or directly if a function on the node calls it."""
        if getattr(exchange.inside, "function", False):
            return self._function(*args, **kwargs)
        future = self.submit(*args, **kwargs)
        return cast(_R, future) if self._run_async else future.result()

    def submit(self, *args: _P.args, **kwargs: _P.kwargs) -> concurrent.futures.Future[_R]:
        """Starts the function and returns at once, regardless of ``run_async``."""
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
    """Returns the plain function that a remote function unpickles to on the node."""
    return function


@overload
def remote(function: Callable[_P, _R]) -> RemoteFunction[_P, _R]: ...
@overload
def remote(
    *,
    machine: RemoteMachine | None = None,
    packages: Sequence[str] | None = (),
    run_async: bool = False,
    timeout: float | None = None,
) -> Callable[[Callable[_P, _R]], RemoteFunction[_P, _R]]: ...
def remote(
    function: Callable[_P, _R] | None = None,
    *,
    machine: RemoteMachine | None = None,
    packages: Sequence[str] | None = (),
    run_async: bool = False,
    timeout: float | None = None,
) -> Any:
    """Decorator: calls of the function run whole on a machine's node, in a Python process next to the tensors.

    ::

        @remora.remote
        def step(model, batch):
            loss = model(batch).square().mean()
            loss.backward()
            return loss, [p.grad for p in model.parameters()]

    The function runs on the machine of the tensors among its arguments (also within containers, modules and
    closures), else on `machine`, else on the machine of the current device. It runs in order with the
    operations recorded before and after the call. The machine's tensors are passed to it without a copy:
    the program sees what the function writes to them in place. Tensors in the result stay on the machine.
    Everything else is pickled: the function with everything it uses from the program's own files, its
    arguments, its result and its exceptions. Its output is printed here after it has ended.

    Gradients do not flow through the call: tensors in the result are detached from their graph. Both sides
    share ``.grad``: the program sees what ``backward()`` accumulates there, and the function sees the
    program's gradients.

    Args:
        function: the function, with ``@remora.remote`` without parentheses.
        machine: where to run if no argument is a remote tensor.
        packages: requirements to install on the node first, as for ``pip install``; None for none.
        run_async: whether a call returns a :class:`concurrent.futures.Future` at once. Functions of one
            machine still run one after the other.
        timeout: seconds after which the function is stopped; None for no limit.

    Raises:
        ValueError: an argument is out of range.

    """
    if isinstance(packages, str):
        raise ValueError("packages must be a list of requirements, not one string")
    if timeout is not None and not (timeout > 0 and math.isfinite(timeout)):
        raise ValueError(f"timeout must be a positive number of seconds, not {timeout}")

    def decorate(decorated: Callable[_P, _R]) -> RemoteFunction[_P, _R]:
        if not callable(decorated):
            raise TypeError(f"@remora.remote decorates functions, not {decorated!r}")
        return RemoteFunction(decorated, machine, packages, run_async, timeout or _LONGEST_SECONDS)

    return decorate if function is None else decorate(function)


def install(session: Session, packages: Sequence[str]) -> None:
    """Installs packages on a session's node.

    Raises:
        RemoteFunctionError: pip failed; the message has its last lines.

    """
    pickled = _Pickled(None)
    with activity(session.reporter, "install packages") as installing:
        installing.message(" ".join(packages))
        _submit(
            session, 0, "pip_install", pickled, packages=packages, timeout=_INSTALL_SECONDS
        ).result()


# ---------------------------------------------------------------- what is sent


def _code_with_its_file(code: CodeType) -> tuple[Any, ...]:
    """Reduces code as cloudpickle does, but keeps the file's name, which newer versions drop, for tracebacks."""
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
    """A pickled call, and the tensors in it."""

    def __init__(self, call: Any) -> None:
        self.tensors: list[torch.Tensor] = []
        self._numbers: dict[int, int] = {}
        self._kept: list[torch.Tensor] = []
        self.session: Session | None = None
        self.first_device = 0
        file = io.BytesIO()
        with _own_modules_by_value():
            _Pickler(file, self).dump(call)
        self.data = file.getvalue()

    def tensor(self, tensor: torch.Tensor) -> tuple[Any, ...]:
        """Returns the stand-in for a remote tensor."""
        number = self._numbers.get(id(tensor))
        if number is None:
            self._on(tensor.device)
            number = self._numbers[id(tensor)] = len(self.tensors)
            self.tensors.append(tensor)
        return exchange.tensor_id(number, tensor, self._gradient)

    def _gradient(self, gradient: torch.Tensor) -> tuple[Any, ...]:
        self._kept.append(gradient)  # keeps the id valid
        return self.tensor(gradient)

    def device(self, device: torch.device) -> tuple[Any, ...]:
        """Returns the stand-in for a remote device."""
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
        """Returns where the function runs: session, and number of the device."""
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


# Modules of installed packages are imported on the node. The program's own files do not exist there, so the
# pickle includes what a function uses of them.
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
    if any(file.startswith(folder) for folder in _installed_folders()):
        return False
    # If pip has installed to a folder of PYTHONPATH, there is a dist-info folder next to the package.
    path = Path(file)
    depth = module.__name__.count(".") + (path.name == "__init__.py")
    root = path.parents[min(depth, len(path.parents) - 1)]
    return not any(root.glob("*.dist-info"))


@contextlib.contextmanager
def _own_modules_by_value() -> Iterator[None]:
    with _pickling:
        for name, module in list(sys.modules.items()):
            if name in _known_modules:
                continue
            _known_modules.add(name)
            # A module with several names in sys.modules is pickled under its __name__.
            if (
                name not in ("__main__", "__mp_main__")
                and type(module) is ModuleType
                and sys.modules.get(module.__name__) is module
                and _is_own(module)
            ):
                _own_modules.add(module.__name__)
        others = _own_modules - cloudpickle.list_registry_pickle_by_value()
        added = [sys.modules[name] for name in others if name in sys.modules]
        for module in added:
            cloudpickle.register_pickle_by_value(module)
        try:
            yield
        finally:
            for module in added:
                cloudpickle.unregister_pickle_by_value(module)


_own_modules: set[str] = set()


# ---------------------------------------------------------------- pending calls


def _submit(
    session: Session,
    device: int,
    name: str,
    pickled: _Pickled,
    *,
    packages: Iterable[str],
    timeout: float,
) -> calls.Future:
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
        data = torch.frombuffer(bytearray(body), dtype=torch.uint8)
        tensors.append(data.to(session.device(device)))
        body = b""
    payload = Writer()
    payload.block(json.dumps(header).encode())
    payload.raw(body)
    request = calls.record(
        core.run,
        session,
        device,
        name,
        payload=payload.bytes(),
        tensors=tensors,
        timeout=timeout,
    )
    return calls.await_answer(
        session,
        request,
        name,
        arguments=pickled.tensors,
        outcome=functools.partial(_outcome, name, pickled.tensors),
        failure=functools.partial(_failure, name),
    )


# ---------------------------------------------------------------- results


class _Unpickler(cloudpickle.pickle.Unpickler):  # type: ignore[misc]
    """Loads a result, whose tensors are on the machine."""

    def __init__(self, data: bytes, load: Callable[[Any], Any]) -> None:
        super().__init__(io.BytesIO(data))
        self._load = load

    def persistent_load(self, pid: Any) -> Any:
        return self._load(pid)


def _outcome(
    name: str, arguments: list[torch.Tensor], payload: bytes, tensors: list[torch.Tensor]
) -> Any:
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
            return arguments[number]
        if number not in made:
            cls, requires_grad, gradient = rest
            made[number] = exchange.dressed(tensors[number], cls, requires_grad)
            if gradient is not None:
                made[number].grad = load(gradient)
        return made[number]

    error = header.get("error")
    result: Any = None
    if body:
        try:
            result, gradients = _Unpickler(body, load).load()
        except Exception as e:
            if error is None:
                raise
            log.debug("The exception of %s cannot be unpickled: %s", name, e)
        else:
            for number, gradient in gradients:
                arguments[number].grad = gradient
    if error is None:
        return result
    raise _raised(name, error, result)


def _raised(name: str, error: dict[str, Any], original: Any) -> BaseException:
    """Returns the exception to raise for an exception of the function."""
    what = f"{error['type']}: {error['text']}" if error["text"] else error["type"]
    if error["phase"] == "load":
        message = (
            f"{name} and its arguments cannot be unpickled on the node: {what}; if a package is missing "
            "there, install it with packages=[…]"
        )
    elif error["phase"] == "result":
        message = f"the result of {name} cannot be pickled on the node: {what}"
    else:
        message = f"{name} raised {what}"
    remote_error = exceptions.RemoteFunctionError(
        f"{message}\n\nOn the node:\n{error['traceback'].rstrip()}"
    )
    if error["phase"] == "call" and not error["exit"] and isinstance(original, BaseException):
        original.__cause__ = remote_error
        return original
    return remote_error


def _failure(name: str, error: BaseException) -> BaseException:
    """Returns the exception for a function that did not complete."""
    text = str(error)
    found = _FAILED.search(text)
    if isinstance(error, exceptions.RemoteOperationException) and found:
        why = text[: found.start()]
        return exceptions.RemoteFunctionError(f"{name} failed on the node: {why}")
    return error
