# SPDX-License-Identifier: AGPL-3.0-or-later
"""The process next to a node that runs Python functions: ``python -m remora.worker``.

A node starts one for each session that calls a function, and communicates with it over its standard input
and output. The function's tensors use the node's own memory. Programs do not import this module.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import fcntl
import importlib
import io
import json
import os
import platform
import queue
import struct
import subprocess
import sys
import tempfile
import threading
import traceback
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NoReturn

import cloudpickle
import torch

from . import _exchange as exchange
from ._exchange import Reader, Shape, Writer

_HEADER = struct.Struct("<BI")
_MOST_OUTPUT = 1024 * 1024
_PIP_LINES = 15


class Refusal(Exception):  # noqa: N818
    """The function was not started; the message has the reason."""


# ---------------------------------------------------------------- a function, from request to answer


class _Arguments(cloudpickle.pickle.Unpickler):  # type: ignore[misc]
    """Loads a function with its arguments; remote tensors use the node's memory."""

    def __init__(self, data: bytes, call: _Call) -> None:
        super().__init__(io.BytesIO(data))
        self._call = call

    def persistent_load(self, pid: Any) -> Any:
        kind, number, *rest = pid
        if kind == "device":
            return torch.device(self._call.devices[number])
        return self._call.argument(number, *rest)


class _Result(cloudpickle.Pickler):  # type: ignore[misc]
    """Pickles a result without its tensors."""

    def __init__(self, file: io.BytesIO, call: _Call) -> None:
        super().__init__(file, protocol=5)
        self._call = call

    def persistent_id(self, value: Any) -> Any:
        if (
            not isinstance(value, torch.Tensor)
            or value.layout != torch.strided
            or value.is_quantized
            or value.device.type not in ("cpu", "cuda")
        ):
            return None
        return self._call.result(value)


class _Call:
    """The tensors of a function's arguments and results."""

    def __init__(self, request: bytes) -> None:
        reader = Reader(request)
        version = reader.byte()
        if version != exchange.VERSION:
            raise Refusal(
                f"the node uses version {version} of the function protocol, the package remora of {sys.executable} "
                f"version {exchange.VERSION}: install the node's version of remora there"
            )
        self.payload = reader.block()
        self.devices = [reader.text() for _ in range(reader.number())]
        self.device = reader.number()
        self.random_state = reader.block()
        self._storages = [self._storage(reader) for _ in range(reader.number())]
        self._shapes = [(reader.number(), Shape.read(reader)) for _ in range(reader.number())]
        self._arguments: dict[int, torch.Tensor] = {}
        self._gradients: dict[int, torch.Tensor | None] = {}  # of arguments, as received
        self._numbers: dict[int, int] = {}  # of arguments, by id
        self._by_address = {
            (str(storage.device), storage.data_ptr()): number
            for number, storage in enumerate(self._storages)
            if storage.nbytes() > 0
        }
        self._results: list[torch.Tensor] = []
        self._seen: dict[int, tuple[Any, ...]] = {}
        self._kept: list[Any] = []  # keeps the ids valid that are keys above
        self._random_state: Callable[[], bytes] = bytes
        self.shared: list[exchange.SharedMemory | torch.UntypedStorage] = []

    def _storage(self, reader: Reader) -> torch.UntypedStorage:
        kind, size = reader.byte(), reader.number()
        device = torch.device(self.devices[reader.number()])
        if kind == exchange.MEMORY_SHARED:
            return exchange.open_shared(reader.text(), size)
        if kind == exchange.MEMORY_CUDA:
            handle = reader.raw(64)
            return exchange.open_cuda(device, handle, reader.number(), size)
        return torch.UntypedStorage(0, device=device)

    def tensor(self, number: int) -> torch.Tensor:
        """Returns argument number `number` as a plain tensor."""
        storage, shape = self._shapes[number]
        return shape.over(self._storages[storage])

    def argument(
        self,
        number: int,
        kind: type[torch.Tensor],
        requires_grad: bool,
        gradient: tuple[Any, ...] | None,
    ) -> torch.Tensor:
        """Returns argument number `number` as the program has it."""
        found = self._arguments.get(number)
        if found is None:
            found = exchange.dressed(self.tensor(number), kind, requires_grad)
            self._arguments[number] = found
            self._numbers[id(found)] = number
            if gradient is not None:
                found.grad = self.argument(*gradient[1:])
            self._gradients[number] = found.grad
        return found

    def new_gradients(self) -> list[tuple[int, torch.Tensor | None]]:
        """Returns the arguments whose gradient was replaced, by number."""
        return [
            (number, tensor.grad)
            for number, tensor in self._arguments.items()
            if tensor.grad is not self._gradients[number]
        ]

    def result(self, value: torch.Tensor) -> tuple[Any, ...]:
        """Returns the stand-in for a tensor in the pickled result."""
        number = self._numbers.get(id(value))
        if number is not None:
            return ("argument", number)
        pid = self._seen.get(id(value))
        if pid is None:
            number = len(self._results)
            self._kept.append(value)
            self._results.append(value)
            pid = exchange.tensor_id(number, value, self.result)
            self._seen[id(value)] = pid
        return pid

    def forget_results(self) -> None:
        """Drops the results, because the result cannot be pickled."""
        self._results.clear()
        self._seen.clear()

    def answer(self, header: dict[str, Any], body: bytes) -> bytes:
        """Returns the answer. The memory of its new tensors is shared until :meth:`done`."""
        if len(body) > exchange.INLINE_BYTES:
            header["body"] = len(self._results)
            self._results.append(torch.frombuffer(bytearray(body), dtype=torch.uint8))
            body = b""
        writer = Writer()
        writer.byte(exchange.VERSION)
        text = json.dumps(header).encode()
        payload = Writer()
        payload.block(text)
        payload.raw(body)
        writer.block(payload.bytes())
        writer.block(self._random_state())
        placed, storages = self._place()
        writer.number(len(storages))
        for storage in storages:
            self._share(writer, storage)
        writer.number(len(placed))
        for source, number, shape in placed:
            writer.byte(source)
            writer.number(number)
            shape.write(writer)
        return writer.bytes()

    def _place(self) -> tuple[list[tuple[int, int, Shape]], list[torch.UntypedStorage]]:
        """Returns the place of each result, and the new storages."""
        home = torch.device(self.devices[self.device])
        users: dict[tuple[str, int], int] = {}
        tensors = []
        for each in self._results:
            tensor = each.detach().as_subclass(torch.Tensor).resolve_conj().resolve_neg()
            if tensor.device.type != home.type:
                tensor = tensor.to(home)
            tensors.append(tensor)
            key = (str(tensor.device), tensor.untyped_storage().data_ptr())
            users[key] = users.get(key, 0) + 1
        placed, storages = [], list[torch.UntypedStorage]()
        new: dict[tuple[str, int], int] = {}
        for each in tensors:
            tensor, storage = each, each.untyped_storage()
            key = (str(tensor.device), storage.data_ptr())
            if storage.nbytes() > 0 and key in self._by_address:
                placed.append((exchange.SOURCE_ARGUMENT, self._by_address[key], Shape.of(tensor)))
                continue
            if users[key] == 1 and tensor.nbytes < storage.nbytes():
                tensor = tensor.clone()  # without the parts that the program cannot see
                storage = tensor.untyped_storage()
            if key not in new or storage.nbytes() == 0:
                new[key] = len(storages)
                storages.append(storage)
            placed.append((exchange.SOURCE_NEW, new[key], Shape.of(tensor)))
        return placed, storages

    def _share(self, writer: Writer, storage: torch.UntypedStorage) -> None:
        size = storage.nbytes()
        cuda = storage.device.type == "cuda"
        if size == 0:
            writer.byte(exchange.MEMORY_NONE)
        else:
            writer.byte(exchange.MEMORY_CUDA if cuda else exchange.MEMORY_SHARED)
        writer.number(size)
        writer.number(self.devices.index(str(storage.device)) if cuda else self.device)
        if size == 0:
            return
        if cuda:
            handle, offset = exchange.cuda_handle(storage)
            writer.raw(handle)
            writer.number(offset)
            self.shared.append(storage)
        else:
            memory = exchange.SharedMemory(storage)
            self.shared.append(memory)
            writer.text(memory.path)

    @contextlib.contextmanager
    def random_numbers(self) -> Iterator[None]:
        """Uses the random numbers of the device's generator at this point of the program's operations."""
        device = torch.device(self.devices[self.device])
        self._random_state = lambda: bytes(_random_state(device).numpy())
        before = _random_state(device)
        state = torch.frombuffer(bytearray(self.random_state), dtype=torch.uint8)
        try:
            _set_random_state(device, state)
            yield
        finally:
            _set_random_state(device, before)

    def done(self) -> None:
        """Releases the shared memory, after the node has read the answer."""
        for each in self.shared:
            if isinstance(each, exchange.SharedMemory):
                each.close()
        self.shared.clear()


def _random_state(device: torch.device) -> torch.Tensor:
    return torch.get_rng_state() if device.type == "cpu" else torch.cuda.get_rng_state(device)


def _set_random_state(device: torch.device, state: torch.Tensor) -> None:
    if device.type == "cpu":
        torch.set_rng_state(state)
    else:
        torch.cuda.set_rng_state(state, device)


class Functions:
    """Runs functions, one at a time."""

    def __init__(
        self,
        packages: Path,
        begin: Callable[[], None],
        output: Callable[[], list[Any]],
        requirements: Sequence[str] = (),
    ) -> None:
        """Prepares to run functions.

        Args:
            packages: the folder where packages are installed.
            begin: called before a function runs.
            output: the functions' output: lists of stream (``"out"``, ``"err"``) and text.
            requirements: packages to install before the first function runs.

        """
        self._packages = packages
        self._requirements = [*requirements]
        self._begin = begin
        self._output = output
        self._last: _Call | None = None

    def run(self, request: bytes) -> bytes:
        """Runs a function; returns the answer for the node.

        Raises:
            Refusal: the function cannot be started.

        """
        call = _Call(request)
        self._last = call
        reader = Reader(call.payload)
        header = json.loads(reader.block())
        _check_versions(header)
        payload = reader.raw(reader.left())
        if header["body"] is not None:
            payload = bytes(call.tensor(header["body"]).cpu().numpy())
        if wanted := [*self._requirements, *header["packages"]]:
            install(wanted, self._packages)
            self._requirements.clear()
        body = b""
        with call.random_numbers(), _grad_mode(header):
            self._begin()
            answer: dict[str, Any] = {"body": None}
            try:
                body = self._call(call, header, payload, answer) if header["call"] else b""
            finally:
                answer["output"] = self._output()
            if torch.cuda.is_initialized():
                torch.cuda.synchronize()
            return call.answer(answer, body)

    def _call(
        self, call: _Call, header: dict[str, Any], payload: bytes, answer: dict[str, Any]
    ) -> bytes:
        """Runs the function; returns its result or its exception, pickled."""
        phase = "load"
        try:
            function, args, kwargs = _Arguments(payload, call).load()
            phase = "call"
            exchange.inside.function = True
            try:
                result = function(*args, **kwargs)
            finally:
                exchange.inside.function = False
            phase = "result"
            return self._pickled(call, result)
        except BaseException as e:
            call.forget_results()
            trace = e.__traceback__
            # Skip the first frame, which is this one.
            text = "".join(traceback.format_exception(type(e), e, trace.tb_next if trace else None))
            answer["error"] = {"phase": phase, "type": type(e).__qualname__, "text": str(e)}
            answer["error"]["traceback"] = text
            answer["error"]["exit"] = not isinstance(e, Exception)
            with contextlib.suppress(Exception):
                return self._pickled(call, e.with_traceback(None))
            call.forget_results()
            return b""

    def _pickled(self, call: _Call, value: Any) -> bytes:
        file = io.BytesIO()
        _Result(file, call).dump((value, call.new_gradients()))
        return file.getvalue()

    def done(self) -> None:
        """Releases the shared memory, after the node has read the answer."""
        if self._last is not None:
            self._last.done()
            self._last = None


@contextlib.contextmanager
def _grad_mode(header: dict[str, Any]) -> Iterator[None]:
    dtype = torch.get_default_dtype()
    torch.set_default_dtype(getattr(torch, header["default_dtype"]))
    try:
        with torch.set_grad_enabled(header["grad"]):
            yield
    finally:
        torch.set_default_dtype(dtype)


def _check_versions(header: dict[str, Any]) -> None:
    python = list(sys.version_info[:2])
    if header["python"] != python:
        raise Refusal(
            "a function needs the same Python version on both sides: the program has Python "
            f"{'.'.join(map(str, header['python']))}, the node {'.'.join(map(str, python))} ({sys.executable}); "
            "set remora.node.python to a matching one"
        )
    here = torch.__version__.split("+")[0]
    if header["torch"] != here:
        raise Refusal(
            f"the program has torch {header['torch']}, the node's Python ({sys.executable}) torch {here}: "
            "install the same version there"
        )


# ---------------------------------------------------------------- packages


def install(packages: list[str], folder: Path) -> None:
    """Installs those of the packages and their requirements that are missing into the folder.

    Raises:
        Refusal: pip failed; the message has its last lines.

    """
    options = [each for each in packages if each.startswith("-")]
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        # Packages that this Python already has, above all torch, are neither installed again nor replaced.
        # Other options of pip would replace them.
        with tempfile.NamedTemporaryFile(suffix=".json") as report:
            _pip(folder, "--dry-run", "--report", report.name, *packages)
            missing = [_requirement(each) for each in json.load(report)["install"]]
        if missing:
            _pip(folder, "--no-deps", "--upgrade", "--target", str(folder), *options, *missing)
    importlib.invalidate_caches()


def _requirement(item: dict[str, Any]) -> str:
    """Returns one item of pip's report as a requirement."""
    metadata, source = item["metadata"], item["download_info"]
    if "dir_info" in source or "vcs_info" in source or source["url"].startswith("file:"):
        url = source["url"]
        if "vcs_info" in source:
            url = f"{source['vcs_info']['vcs']}+{url}@{source['vcs_info']['commit_id']}"
        return f"{metadata['name']} @ {url}"
    return f"{metadata['name']}=={metadata['version']}"


def _pip(folder: Path, *arguments: str) -> None:
    paths = [str(folder), *filter(None, [os.environ.get("PYTHONPATH")])]
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-input"]
    result = subprocess.run(
        [*command, "--disable-pip-version-check", "--no-warn-conflicts", *arguments],
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(paths)},
        check=False,
    )
    if result.returncode == 0:
        return
    lines = [line for line in (result.stderr or result.stdout).splitlines() if line.strip()]
    if any("No module named pip" in line for line in lines):
        raise Refusal(f"the node's Python ({sys.executable}) has no pip to install packages with")
    names = " ".join(
        each for each in arguments if not each.startswith("-") and not each.endswith(".json")
    )
    raise Refusal(f"pip cannot install {names} on the node:\n  " + "\n  ".join(lines[-_PIP_LINES:]))


# ---------------------------------------------------------------- the process


class _Output(io.TextIOBase):
    """``sys.stdout`` or ``sys.stderr`` of functions: kept for the program, and also written to the node."""

    def __init__(self, process: _Process, stream: str) -> None:
        self._process = process
        self._stream = stream

    @property
    def encoding(self) -> str:  # type: ignore[override]
        return "utf-8"

    def writable(self) -> bool:
        return True

    def isatty(self) -> bool:
        return False

    def fileno(self) -> int:
        return 2

    def write(self, text: str) -> int:
        self._process.written(self._stream, text)
        return len(text)


class _Process:
    def __init__(self, packages: Path, requirements: Sequence[str]) -> None:
        # Standard input and output belong to the node. A function gets an empty input, and the output of
        # native code and child processes goes to the node's log.
        self._input = os.fdopen(os.dup(0), "rb")
        self._frames = os.fdopen(os.dup(1), "wb")
        nothing = os.open(os.devnull, os.O_RDONLY)
        os.dup2(nothing, 0)
        os.close(nothing)
        os.dup2(2, 1)
        sys.stdin = open(0, closefd=False)  # noqa: SIM115
        self._sending = threading.Lock()
        self._chunks: list[list[str]] = []
        self._size = 0
        self._line = ""
        self._requests: queue.Queue[bytes] = queue.Queue()
        self._done = threading.Event()
        self.functions = Functions(packages, self._begin, self._written, requirements)
        sys.stdout, sys.stderr = _Output(self, "out"), _Output(self, "err")
        os.register_at_fork(after_in_child=self._forked)

    def _forked(self) -> None:
        # When these close, the node notices the end of this process.
        for file in (self._input, self._frames):
            with contextlib.suppress(OSError):
                os.close(file.fileno())

    def send(self, kind: str, data: bytes = b"") -> None:
        with self._sending:
            self._frames.write(_HEADER.pack(ord(kind), len(data)) + data)
            self._frames.flush()

    def written(self, stream: str, text: str) -> None:
        with self._sending:
            if self._size < _MOST_OUTPUT:
                if self._chunks and self._chunks[-1][0] == stream:
                    self._chunks[-1][1] += text
                else:
                    self._chunks.append([stream, text])
                self._size += len(text)
                if self._size >= _MOST_OUTPUT:
                    self._chunks.append(
                        ["err", "\n… (the function's output is too long; the rest is omitted)\n"]
                    )
            self._line += text
            lines, newline, rest = self._line.rpartition("\n")
            if not newline and len(rest) < 1000:
                return
            self._line = rest if newline else ""
        self.send("O", (lines if newline else rest).encode(errors="replace"))

    def _begin(self) -> None:
        with self._sending:
            self._chunks, self._size, self._line = [], 0, ""

    def _written(self) -> list[list[str]]:
        with self._sending:
            return self._chunks

    def _read(self) -> NoReturn:
        while True:
            header = self._input.read(_HEADER.size)
            if len(header) < _HEADER.size:
                os._exit(0)  # the node is gone
            kind, size = _HEADER.unpack(header)
            data = self._input.read(size)
            if kind == ord("R"):
                self._requests.put(data)
            elif kind == ord("D"):
                self._done.set()

    def run(self) -> NoReturn:
        threading.Thread(target=self._read, name="remora-node", daemon=True).start()
        self.send(
            "H",
            f"Python {platform.python_version()}, torch {torch.__version__}, {sys.executable}".encode(),
        )
        while True:
            request = self._requests.get()
            self._done.clear()
            try:
                answer = self.functions.run(request)
            except Refusal as e:
                self.send("F", str(e).encode())
                continue
            except Exception as e:
                self.send("F", f"the worker failed: {traceback.format_exc()}{e}".encode())
                continue
            self.send("A", answer)
            self._done.wait()
            self.functions.done()


def main() -> NoReturn:
    """Serves a node until the node ends."""
    parser = argparse.ArgumentParser(prog="python -m remora.worker", description=__doc__)
    parser.add_argument("--packages", type=Path, required=True, help="folder of installed packages")
    parser.add_argument(
        "--install",
        action="append",
        default=[],
        help="packages to install before the first function",
    )
    parser.add_argument("--compute-threads", type=int, default=0, help="0: torch's default")
    options = parser.parse_args()
    if sys.stdin.isatty():
        parser.error("this program is started by a node, not by hand")
    sys.path.insert(0, str(options.packages))
    if options.compute_threads > 0:
        torch.set_num_threads(options.compute_threads)
    ctypes.CDLL(None).prctl(15, b"remora-worker", 0, 0, 0)  # PR_SET_NAME
    _Process(options.packages, options.install).run()


if __name__ == "__main__":
    # Pickles refer to this module by its name, so import it under that name only.
    from remora.worker import main as imported_main

    imported_main()
