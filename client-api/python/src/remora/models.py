# SPDX-License-Identifier: AGPL-3.0-or-later
"""Models that a machine's node downloads, loads and saves: no weights pass through the program.

``models.proto`` describes the messages between program and node.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import glob
import json
import logging
import math
import os
import random
import re
import shutil
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from . import _calls as calls
from . import exceptions
from ._native import address_of, core
from ._pauses import GrowingPause
from ._progress import activity
from ._proto import models_pb2 as pb
from ._session import LocalSession, Session, session_of

if TYPE_CHECKING:
    from .machine import RemoteMachine

log = logging.getLogger("remora")

_LEFT_BEHIND_SECONDS = 3600.0  # a file without writes for so long is abandoned
_METADATA = "__metadata__"  # no tensor of a safetensors file can have this name
_FIRST_PAUSE, _LONGEST_PAUSE = 0.005, 0.2
_BETWEEN_LOG_LINES = 5.0
TIMEOUT = 7200.0
_OUT_OF_MEMORY = re.compile("out of memory|can't allocate memory")


@dataclass(frozen=True)
class LoadProgress:
    """The progress of a node's download of a model's files.

    Attributes:
        files_done: files that are complete.
        files: number of files; 0 while unknown.
        bytes_done: bytes of all files so far, including files that were cached.
        bytes: size of all files.
        bytes_per_second: average download rate since the load began.

    """

    files_done: int
    files: int
    bytes_done: int
    bytes: int
    bytes_per_second: float


# ---------------------------------------------------------------- loading


def load_huggingface_state_dicts(
    repo: str | os.PathLike[str],
    device: torch.device | str | RemoteMachine,
    *,
    revision: str | None = None,
    allow_patterns: str | Sequence[str] | None = None,
    ignore_patterns: str | Sequence[str] | None = None,
    variant: str | None = None,
    dtype: torch.dtype | None = None,
    token: str | None = None,
    endpoint: str | None = None,
    progress: Callable[[LoadProgress], None] | None = None,
    timeout: float = TIMEOUT,
) -> dict[str, dict[str, torch.Tensor]]:
    """Makes a machine's node load a model's weights onto one of its devices.

    ::

        weights = remora.load_huggingface_state_dicts("owner/name", machine.device())[""]
        model.load_state_dict(weights, assign=True)

    The node downloads files that are not in its cache from the hub. Meanwhile the program's other threads
    can use the machine. Tensors that share memory in the files share it on the device. Ctrl-C, or an
    exception from `progress`, also ends the load on the node.

    Args:
        repo: a repository on the hub, ``owner/name``; or a folder or file on the node's disk that the node
            allows (``remora.node.models.directories``), as a path that begins with ``/``, ``./`` or
            ``../``.
        device: the device for the tensors, or a machine for its first device.
        revision: a branch, tag or commit of the repository; ``main`` by default.
        allow_patterns: loads only those of the repository's weight files that match one of these patterns,
            such as ``unet/*``.
        ignore_patterns: skips files that match one of these patterns.
        variant: selects one of several versions of the weights, such as ``fp16`` in
            ``model.fp16.safetensors``.
        dtype: the dtype to which the node converts floating point tensors; None keeps their dtypes.
        token: the token that the node sends to the hub instead of its own. It is not logged.
        endpoint: address of the hub, one that the node allows (``remora.node.models.endpoints``); None for
            the node's own.
        progress: called with the node's progress, about five times a second, on the calling thread. In any
            case the logger ``remora`` logs the progress every five seconds.
        timeout: seconds within which the load must complete.

    Returns:
        For each of the model's directories that has weights (``""`` is the model's own directory), the
        tensors by name. Tied weights are one tensor with two names.

    Raises:
        ModelException: the model does not exist, or the node may not or cannot load it; subclasses
            distinguish missing and gated repositories, damaged files, full disks and devices.
        RemoraException: the load did not complete within `timeout`.
        ValueError: an argument is out of range, or the device is not a machine's.

    """
    if not (timeout > 0 and math.isfinite(timeout)):
        raise ValueError(f"timeout must be a positive number of seconds, not {timeout}")
    if dtype is not None and not dtype.is_floating_point:
        raise ValueError(f"dtype must be a floating point type, not {dtype}")
    session, number = _place(device)
    load = pb.Load(
        id=random.SystemRandom().getrandbits(64),
        source=repo if isinstance(repo, str) else os.path.join(".", repo),  # noqa: PTH118 - Path drops "./"
        revision=revision,
        allow_patterns=_patterns(allow_patterns),
        ignore_patterns=_patterns(ignore_patterns),
        variant=variant,
        token=token,
        endpoint=endpoint,
        dtype="" if dtype is None else _name(dtype),
    )
    try:
        with activity(session.reporter, "load model", "bytes") as loading:
            loading.message(load.source)

            def report(now: LoadProgress) -> None:
                loading.set(now.bytes_done, now.bytes)
                if progress is not None:
                    progress(now)

            return _poll(session, number, load, dtype=dtype, progress=report, timeout=timeout)
    except BaseException:
        _cancel(session, load)
        raise


def _place(device: torch.device | str | RemoteMachine) -> tuple[Session, int]:
    """Returns the session of a device, and its number on the machine."""
    if not isinstance(device, str | torch.device):
        device = device.device()
    device = torch.device(device)
    if device.type != "remora":
        raise ValueError(f"a model can be loaded only onto a machine's device, not onto {device}")
    slot = core.current_device() if device.index is None else device.index
    session, number = session_of(slot)
    require_node(session)
    return session, number


def require_node(session: Session) -> None:
    """Raises an error if the session has no node."""
    if isinstance(session, LocalSession):
        raise exceptions.MachineStateException(
            "a machine in this process cannot load or save models; only a node can"
        )


def _patterns(patterns: str | Sequence[str] | None) -> Sequence[str]:
    return [patterns] if isinstance(patterns, str) else patterns or []


def _poll(
    session: Session,
    number: int,
    load: pb.Load,
    *,
    dtype: torch.dtype | None,
    progress: Callable[[LoadProgress], None],
    timeout: float,
) -> dict[str, dict[str, torch.Tensor]]:
    call = pb.NodeCall(load=load)
    begin = time.monotonic()
    next_line = begin + _BETWEEN_LOG_LINES
    pause = GrowingPause(_FIRST_PAUSE, _LONGEST_PAUSE)
    while True:
        left = begin + timeout - time.monotonic()
        if left <= 0:
            raise exceptions.RemoraException(
                f"machine '{session.machine_name}' has not loaded {load.source} within {timeout:g} s (timeout)"
            )
        answer, tensors = ask(session, f"loading {load.source}", call, device=number, timeout=left)
        if answer.HasField("loaded"):
            log.info(
                "Machine '%s': %s is loaded, %d tensors in %.1f s",
                session.machine_name,
                load.source,
                len(tensors),
                time.monotonic() - begin,
            )
            return _state_dicts(answer.loaded, tensors, dtype)
        now = answer.progress
        progress(
            LoadProgress(now.files_done, now.files, now.bytes_done, now.bytes, now.bytes_per_second)
        )
        if time.monotonic() >= next_line:
            next_line += _BETWEEN_LOG_LINES
            log.info(
                "Machine '%s' fetches %s: %d of %d files, %d of %d MB, %.0f MB/s",
                session.machine_name,
                load.source,
                now.files_done,
                now.files,
                now.bytes_done // 1_000_000,
                now.bytes // 1_000_000,
                now.bytes_per_second / 1e6,
            )
        pause.sleep(left)


def _cancel(session: Session, load: pb.Load) -> None:
    """Tells the node to stop loading. It does not matter if the message is lost."""
    call = pb.NodeCall(cancel_load=pb.CancelLoad(id=load.id))
    with contextlib.suppress(Exception):
        ask(session, "cancelling a load", call, timeout=_LONGEST_PAUSE)


def _state_dicts(
    loaded: pb.Loaded, tensors: list[torch.Tensor], dtype: torch.dtype | None
) -> dict[str, dict[str, torch.Tensor]]:
    if dtype is not None:
        for i, tensor in enumerate(tensors):
            if tensor.is_floating_point():
                tensors[i] = tensor.to(dtype)
    return {
        directory.path: {named.name: tensors[named.tensor] for named in directory.tensors}
        for directory in loaded.directories
    }


# ---------------------------------------------------------------- saving

# Safetensors' names, strictest alignment first: the order of the tensors in a file.
_DTYPES = {
    "uint64": "U64",
    "int64": "I64",
    "float64": "F64",
    "complex64": "C64",
    "float32": "F32",
    "uint32": "U32",
    "int32": "I32",
    "bfloat16": "BF16",
    "float16": "F16",
    "uint16": "U16",
    "int16": "I16",
    "float8_e5m2fnuz": "F8_E5M2FNUZ",
    "float8_e4m3fnuz": "F8_E4M3FNUZ",
    "float8_e8m0fnu": "F8_E8M0",
    "float8_e4m3fn": "F8_E4M3",
    "float8_e5m2": "F8_E5M2",
    "int8": "I8",
    "uint8": "U8",
    "bool": "BOOL",
}
_RANKS = {name: rank for rank, name in enumerate(_DTYPES)}


def save(
    session: Session,
    state_dict: Mapping[str, torch.Tensor],
    path: str | os.PathLike[str],
    metadata: Mapping[str, str] | None,
    where: str,
) -> None:
    """Writes tensors of a session's machine to a safetensors file; see ``RemoteMachine.save``."""
    if where not in ("node", "program"):
        raise ValueError(f"where must be 'node' or 'program', not {where!r}")
    tensors, texts = distinct(session, state_dict, metadata or {})
    if where == "program":
        with activity(session.reporter, "save model", "bytes") as saving:
            saving.message(os.fspath(path))
            _write(Path(path), tensors, texts, saving.set)
        return
    require_node(session)
    call = pb.NodeCall(
        save=pb.Save(
            path=os.fspath(path),
            tensors=descriptions(tensors),
            metadata=texts,
        )
    )
    with activity(session.reporter, "save model") as saving:
        saving.message(os.fspath(path))
        ask(
            session, f"saving {os.fspath(path)}", call, tensors=[*tensors.values()], timeout=TIMEOUT
        )


def descriptions(tensors: Mapping[str, torch.Tensor]) -> list[pb.TensorToSave]:
    """Describes the distinct tensors of a call that writes them to a file."""
    return [
        pb.TensorToSave(name=name, dtype=_name(tensor.dtype), sizes=tensor.shape)
        for name, tensor in tensors.items()
    ]


def distinct(
    session: Session, state_dict: Mapping[str, torch.Tensor], metadata: Mapping[str, str]
) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    """Returns the distinct tensors, and the metadata, which includes the names of duplicates."""
    tensors: dict[str, torch.Tensor] = {}
    texts = {"format": "pt", **metadata}
    names: dict[tuple[object, ...], str] = {}
    for name, tensor in state_dict.items():
        if not isinstance(tensor, torch.Tensor):
            raise ValueError(
                f"{name}: a model file can contain only tensors, not a {type(tensor).__name__}"
            )
        if name == _METADATA:
            raise ValueError(
                f"a tensor cannot be named {name!r}: safetensors files keep their metadata under that name; "
                "save it under another name"
            )
        if not session.has(tensor.device):
            raise ValueError(
                f"{name} is on {tensor.device}, not on machine '{session.machine_name}'"
            )
        if _name(tensor.dtype) not in _DTYPES:
            raise exceptions.ModelException(f"{name}: model files do not support {tensor.dtype}")
        same = (
            core.storage_id(address_of(tensor)),
            tensor.dtype,
            tensor.shape,
            tensor.stride(),
            tensor.storage_offset(),
            tensor.is_conj(),
            tensor.is_neg(),
        )
        first = names.setdefault(same, name)
        if first == name:
            tensors[name] = tensor.detach()
        elif name in texts:
            raise ValueError(f"metadata must not contain {name!r}, which is the name of a tensor")
        else:
            texts[name] = first
    return tensors, texts


def _write(
    path: Path,
    tensors: Mapping[str, torch.Tensor],
    metadata: Mapping[str, str],
    progress: Callable[[int, int], None],
) -> None:
    """Writes a file on this computer, one tensor after the other."""
    order = sorted(tensors, key=lambda name: (_RANKS[_name(tensors[name].dtype)], name.encode()))
    header: dict[str, object] = {_METADATA: dict(sorted(metadata.items()))}
    end = 0
    for name in order:
        tensor = tensors[name]
        begin, end = end, end + tensor.numel() * tensor.element_size()
        header[name] = {
            "dtype": _DTYPES[_name(tensor.dtype)],
            "shape": [*tensor.shape],
            "data_offsets": [begin, end],
        }
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    size = 8 + len(text) + end
    with _new_file(path, size) as file, file.open("xb") as output:
        output.write(len(text).to_bytes(8, "little"))
        output.write(text)
        for name in order:
            local = tensors[name].cpu().resolve_conj().resolve_neg().contiguous()
            output.write(local.reshape(-1).view(torch.uint8).numpy().data)
            progress(output.tell(), size)
        output.flush()
        os.fsync(output.fileno())


@contextlib.contextmanager
def _new_file(path: Path, size: int) -> Iterator[Path]:
    """Yields a temporary file that replaces `path` when it is complete; otherwise `path` is unchanged.

    A temporary file that a killed program left is removed by the next one that writes the same `path`.
    """
    part = path.with_name(f".{path.name}.{uuid.uuid4()}.part")
    long_ago = time.time() - _LEFT_BEHIND_SECONDS
    try:
        for old in path.parent.glob(f".{glob.escape(path.name)}.*.part"):
            with contextlib.suppress(FileNotFoundError):
                if old.stat().st_mtime < long_ago:
                    old.unlink()
        free = shutil.disk_usage(path.parent).free
        if free < size:
            raise exceptions.NoDiskSpaceException(
                f"{path} needs {size} bytes, but the disk of {path.parent} has only {free} left"
            )
        yield part
        part.replace(path)
    except OSError as e:
        raise exceptions.ModelException(f"{path} cannot be written: {e}") from e
    finally:
        part.unlink(missing_ok=True)


# ---------------------------------------------------------------- both


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def ask(
    session: Session,
    what: str,
    call: pb.NodeCall,
    *,
    device: int = 0,
    tensors: Sequence[torch.Tensor] = (),
    timeout: float,
) -> tuple[pb.NodeAnswer, list[torch.Tensor]]:
    """Calls the node and waits for its answer."""
    request = calls.record(
        core.call_node,
        session,
        device,
        what,
        payload=call.SerializeToString(),
        tensors=tensors,
        timeout=timeout,
    )
    future = calls.await_answer(
        session,
        request,
        what,
        arguments=tensors,
        outcome=lambda *answer: answer,
        failure=_failure,
    )
    try:
        payload, made = future.result(timeout)
    except concurrent.futures.TimeoutError:
        raise exceptions.RemoraException(
            f"machine '{session.machine_name}' has not answered within {timeout:g} s: {what}"
        ) from None
    answer = pb.NodeAnswer.FromString(payload)
    if answer.HasField("error"):
        raise _error(session, answer.error)
    return answer, made


def _failure(error: BaseException) -> BaseException:
    # The node had enough memory when it checked, but not when it allocated: this is the allocator's error.
    text = str(error)
    if isinstance(error, exceptions.RemoteOperationException) and _OUT_OF_MEMORY.search(text):
        return exceptions.NotEnoughMemoryException(text)
    return error


def _error(session: Session, error: pb.ModelError) -> exceptions.ModelException:
    message = f"machine '{session.machine_name}': {error.message}"
    if error.kind == "GatedRepositoryException":
        return exceptions.GatedRepositoryException(message, error.url)
    kind = exceptions.BY_NAME.get(error.kind, exceptions.ModelException)
    if not issubclass(kind, exceptions.ModelException):
        kind = exceptions.ModelException
    return kind(message)
