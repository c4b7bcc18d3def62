# SPDX-License-Identifier: AGPL-3.0-or-later
"""``torch.remora``, the counterpart of ``torch.cuda``."""

from __future__ import annotations

import contextlib
import ctypes
import os
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from types import TracebackType
from typing import Any

import torch

from . import _legacy_types, _profiler, exceptions
from ._native import core, default_generator
from ._session import Session, forked_without_machines, open_slots, session_of

__all__ = [
    "Event",
    "Stream",
    "current_device",
    "current_stream",
    "default_generators",
    "default_stream",
    "device",
    "device_count",
    "device_of",
    "empty_cache",
    "get_amp_supported_dtype",
    "get_device_capability",
    "get_device_name",
    "get_device_properties",
    "get_rng_state",
    "get_rng_state_all",
    "init",
    "initial_seed",
    "is_available",
    "is_bf16_supported",
    "is_initialized",
    "manual_seed",
    "manual_seed_all",
    "max_memory_allocated",
    "max_memory_reserved",
    "mem_get_info",
    "memory_allocated",
    "memory_reserved",
    "memory_stats",
    "reset_peak_memory_stats",
    "seed",
    "seed_all",
    "set_device",
    "set_rng_state",
    "set_rng_state_all",
    "set_stream",
    "stream",
    "synchronize",
]

# PyTorch's checkpointing reads it before it saves the generators' states.
_initialized = True
_seed_of_all: int | None = None

DeviceLike = torch.device | str | int | None


def _is_in_bad_fork() -> bool:
    """Whether this process was forked from one with machines; if so, PyTorch seeds no devices."""
    return forked_without_machines()


def machine_opened(session: Session) -> None:
    """Seeds a new machine's generators like all others if ``torch.manual_seed`` was called."""
    if _seed_of_all is not None:
        for number in range(session.devices):
            default_generators[session.first_slot + number].manual_seed(_seed_of_all)


def _slot(which: DeviceLike) -> int:
    if which is None:
        return current_device()
    if isinstance(which, int):
        return which
    wanted = torch.device(which)
    if wanted.type != "remora":
        raise ValueError(f"expected a remora device, not {wanted}")
    return current_device() if wanted.index is None else wanted.index


# ---------------------------------------------------------------- devices


def init() -> None:
    """Does nothing: no initialisation is needed."""


def is_initialized() -> bool:
    """Always true."""
    return True


def is_available() -> bool:
    """Whether a machine is open in this process."""
    return bool(open_slots())


def device_count() -> int:
    """Returns one more than the highest device index in use: PyTorch treats all lower indices as valid.

    Machines take the lowest free indices, so this is the number of devices unless a machine was stopped
    before one that was started earlier.
    """
    slots = open_slots()
    return slots[-1] + 1 if slots else 0


def current_device() -> int:
    """Returns the index of the device on which this thread makes tensors for ``"remora"`` without an index."""
    index: int = core.current_device()
    return index


def set_device(device: DeviceLike) -> None:
    """Makes a device this thread's current one.

    Raises:
        MachineStateException: no machine is open there.

    """
    slot = _slot(device)
    if slot >= 0:
        session_of(slot)
        torch._C._accelerator_setDeviceIndex(slot)


class device:  # noqa: N801 - as torch.cuda.device
    """Context manager that changes the current device."""

    def __init__(self, device: DeviceLike) -> None:
        self._index = _slot(device)
        self._previous = -1

    def __enter__(self) -> None:
        self._previous = current_device()
        set_device(self._index)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        torch._C._accelerator_setDeviceIndex(self._previous)


class device_of(device):  # noqa: N801
    """Context manager that makes a tensor's device the current one, if it is a remote device."""

    def __init__(self, tensor: torch.Tensor) -> None:
        on_remora = tensor.device.type == "remora"
        super().__init__(tensor.device if on_remora else current_device())


def _exchange_device(index: int) -> int:
    previous = current_device()
    if index >= 0:
        torch._C._accelerator_setDeviceIndex(index)
    return previous


_maybe_exchange_device = _exchange_device


def synchronize(device: DeviceLike = None) -> None:
    """Waits until everything recorded on the device's machine is executed.

    Raises:
        RemoteOperationException: an operation has failed, and nothing has read its result.

    """
    if not _profiler.is_ending():
        session_of(_slot(device))[0].synchronize()


@dataclass(frozen=True)
class DeviceProperties:
    """A device's name, with its machine's, and its memory in bytes (0: unknown)."""

    name: str
    machine: str
    total_memory: int
    major: int = 0
    minor: int = 0
    multi_processor_count: int = 0


def get_device_properties(device: DeviceLike = None) -> DeviceProperties:
    """Returns a device's name and memory."""
    session, number = session_of(_slot(device))
    return DeviceProperties(
        f"remora:{_slot(device)} (device {number} of machine '{session.machine_name}')",
        session.machine_name,
        _memory(device)[4],
    )


def get_device_name(device: DeviceLike = None) -> str:
    """Returns a device's name."""
    return get_device_properties(device).name


def get_device_capability(device: DeviceLike = None) -> dict[str, Any] | None:
    """Returns None: a remote device does not report its capability."""
    return None


# ---------------------------------------------------------------- random numbers


class _Generators:
    """The default generator of each device, by index."""

    def __getitem__(self, index: int) -> torch.Generator:
        session_of(index)
        return default_generator(index)

    def __len__(self) -> int:
        return device_count()

    def __iter__(self) -> Iterator[torch.Generator]:
        return (self[slot] for slot in open_slots())


default_generators = _Generators()


def manual_seed(seed: int) -> None:
    """Seeds the current device's generator; does nothing if no machine is open."""
    if current_device() in open_slots():
        default_generators[current_device()].manual_seed(int(seed))


def manual_seed_all(seed: int) -> None:
    """Seeds the generators of all devices, and those of machines that are opened later.

    ``torch.manual_seed`` calls it. It does not wait: seeds are in order with the operations. On a machine
    that computes on its CPU, the random numbers equal those of the local CPU with this seed.
    """
    global _seed_of_all
    _seed_of_all = int(seed)
    for slot in open_slots():
        default_generators[slot].manual_seed(_seed_of_all)


def seed() -> None:
    """Seeds the current device's generator with a random number."""
    manual_seed(_random_seed())


def seed_all() -> None:
    """Seeds the generators of all devices with one random number."""
    manual_seed_all(_random_seed())


def _random_seed() -> int:
    return int.from_bytes(os.urandom(8), "little") >> 1


def initial_seed() -> int:
    """Returns the seed that the current device's generator was given last."""
    return default_generators[current_device()].initial_seed()


def get_rng_state(device: DeviceLike = "remora") -> torch.Tensor:
    """Returns the state of a device's generator as a CPU tensor of bytes. Waits for the machine."""
    return default_generators[_slot(device)].get_state()


def get_rng_state_all() -> list[torch.Tensor]:
    """Returns the states of the generators of all devices."""
    return [get_rng_state(slot) for slot in open_slots()]


def set_rng_state(new_state: torch.Tensor, device: DeviceLike = "remora") -> None:
    """Sets the state of a device's generator to a result of :func:`get_rng_state`."""
    default_generators[_slot(device)].set_state(new_state)


def set_rng_state_all(new_states: Iterable[torch.Tensor]) -> None:
    """Sets the states of the generators of all devices."""
    for slot, state in zip(open_slots(), new_states, strict=False):
        set_rng_state(state, slot)


# ---------------------------------------------------------------- streams and events


class Stream(torch.Stream):
    """A device's stream. A machine's operations are in one order, so all its streams are the same."""

    def __new__(cls, device: DeviceLike = None, priority: int = 0, **more: Any) -> Stream:
        """Returns the stream of a device, by default the current one."""
        if "stream_id" in more:
            return super().__new__(cls, priority=priority, **more)
        return super().__new__(cls, torch.device("remora", _slot(device)), priority=priority)


class _RemoteEvent(type):
    """Makes instances plain ``torch.Event`` objects: PyTorch 2.15 refuses those of subclasses."""

    def __instancecheck__(cls, instance: Any) -> bool:
        return isinstance(instance, torch.Event) and instance.device.type == "remora"


class Event(torch.Event, metaclass=_RemoteEvent):
    """A place in a device's operation stream, to query, wait for, or measure times with (ms)."""

    def __new__(  # type: ignore[misc]
        cls, enable_timing: bool = False, blocking: bool = False, interprocess: bool = False
    ) -> torch.Event:
        """Makes an event that is not recorded yet."""
        if interprocess:
            raise exceptions.RemoraException(
                "events of a remote device cannot be shared between processes"
            )
        return torch.Event("remora", enable_timing=enable_timing, blocking=blocking)


def current_stream(device: DeviceLike = None) -> Stream:
    """Returns the device's stream."""
    return Stream(device)


def default_stream(device: DeviceLike = None) -> Stream:
    """Returns the device's stream."""
    return Stream(device)


def set_stream(stream: torch.Stream) -> None:
    """Makes the stream's device the current one."""
    set_device(stream.device)


@contextlib.contextmanager
def stream(stream: torch.Stream | None) -> Iterator[None]:
    """Context manager that makes the stream's device the current one. None changes nothing."""
    if stream is None:
        yield
        return
    with device(stream.device):
        yield


# ---------------------------------------------------------------- memory


def _memory(which: DeviceLike) -> list[int]:
    """Returns allocated, peak allocated, reserved, peak reserved and total memory, in bytes."""
    session, number = session_of(_slot(which))
    values = (ctypes.c_int64 * 5)()
    core.check(core.machine_memory(session.handle, number, values))
    return list(values)


def memory_allocated(device: DeviceLike = None) -> int:
    """Returns the bytes of the device's tensors. Waits for the machine, as all memory figures do."""
    return _memory(device)[0]


def max_memory_allocated(device: DeviceLike = None) -> int:
    """Returns the peak of :func:`memory_allocated` since the last :func:`reset_peak_memory_stats`."""
    return _memory(device)[1]


def memory_reserved(device: DeviceLike = None) -> int:
    """Returns the bytes that the node's allocator holds."""
    return _memory(device)[2]


def max_memory_reserved(device: DeviceLike = None) -> int:
    """Returns the peak of :func:`memory_reserved`."""
    return _memory(device)[3]


def memory_stats(device: DeviceLike = None) -> dict[str, int]:
    """Returns the figures above, under the names of ``torch.cuda.memory_stats``."""
    allocated, most_allocated, reserved, most_reserved, _ = _memory(device)
    return {
        "allocated_bytes.all.current": allocated,
        "allocated_bytes.all.peak": most_allocated,
        "reserved_bytes.all.current": reserved,
        "reserved_bytes.all.peak": most_reserved,
    }


def mem_get_info(device: DeviceLike = None) -> tuple[int, int]:
    """Returns free and total bytes; (0, 0) if the total is unknown."""
    figures = _memory(device)
    return max(0, figures[4] - figures[2]), figures[4]


def reset_peak_memory_stats(device: DeviceLike = None) -> None:
    """Resets the peak figures."""
    session, number = session_of(_slot(device))
    core.check(core.machine_reset_peak_memory(session.handle, number))


def empty_cache() -> None:
    """Makes the nodes return memory kept for reuse to their devices."""
    for slot in open_slots():
        session, number = session_of(slot)
        core.check(core.machine_empty_cache(session.handle, number))


# ---------------------------------------------------------------- PyTorch's hooks


def get_amp_supported_dtype() -> list[torch.dtype]:
    """Returns the dtypes that autocast supports."""
    return [torch.float16, torch.bfloat16, torch.float32]


def is_bf16_supported(including_emulation: bool = True) -> bool:
    """Returns whether bfloat16 works; recent CPUs and GPUs all support it."""
    return True


def register() -> None:
    """Makes this module ``torch.remora`` and gives tensors, modules and storages their methods."""
    from torch.utils import backend_registration

    torch._register_device_module("remora", sys.modules[__name__])
    sys.modules["torch.remora"] = sys.modules[__name__]
    backend_registration.rename_privateuse1_backend("remora")
    backend_registration.generate_methods_for_privateuse1_backend(
        for_tensor=True, for_module=True, for_packed_sequence=True, for_storage=True
    )
    _legacy_types.install(sys.modules[__name__])
