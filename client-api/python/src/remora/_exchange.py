# SPDX-License-Identifier: AGPL-3.0-or-later
"""The messages about functions between a program, a node's native core and a Python worker.

``node_call.h`` of the native core describes the bytes; ``PythonWorker.java`` describes the frames
between node and worker.
"""

from __future__ import annotations

import ctypes
import fcntl
import mmap
import os
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

VERSION = 2

# A pickle of up to this size is sent with the call, a larger one as a tensor.
INLINE_BYTES = 64 * 1024

inside = threading.local()
"""``inside.function`` is true in a thread that runs a function: remote functions called there run directly."""

MEMORY_NONE, MEMORY_SHARED, MEMORY_CUDA = 0, 1, 2
SOURCE_ARGUMENT, SOURCE_NEW = 0, 1


class Reader:
    """Decodes a message."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    def byte(self) -> int:
        """Reads one byte."""
        self._at += 1
        return self._data[self._at - 1]

    def raw(self, count: int) -> bytes:
        """Reads `count` bytes."""
        if count > len(self._data) - self._at:
            raise ValueError("the message ends too early")
        self._at += count
        return self._data[self._at - count : self._at]

    def number(self) -> int:
        """Reads a varint."""
        value = shift = 0
        while True:
            byte = self.byte()
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                return value
            shift += 7

    def left(self) -> int:
        """The number of bytes that are not read yet."""
        return len(self._data) - self._at

    def signed(self) -> int:
        """Reads a zigzag varint."""
        value = self.number()
        return (value >> 1) ^ -(value & 1)

    def block(self) -> bytes:
        """Reads bytes with a length prefix."""
        return self.raw(self.number())

    def text(self) -> str:
        """Reads a text with a length prefix."""
        return self.block().decode()


class Writer:
    """Encodes a message."""

    def __init__(self) -> None:
        self._data = bytearray()

    def byte(self, value: int) -> None:
        """Writes one byte."""
        self._data.append(value)

    def raw(self, data: bytes) -> None:
        """Writes bytes without a prefix."""
        self._data += data

    def number(self, value: int) -> None:
        """Writes a varint."""
        while value >= 0x80:
            self._data.append(value & 0x7F | 0x80)
            value >>= 7
        self._data.append(value)

    def signed(self, value: int) -> None:
        """Writes a zigzag varint."""
        self.number(value << 1 if value >= 0 else -2 * value - 1)

    def block(self, data: bytes) -> None:
        """Writes bytes with a length prefix."""
        self.number(len(data))
        self._data += data

    def text(self, text: str) -> None:
        """Writes a text with a length prefix."""
        self.block(text.encode())

    def bytes(self) -> bytes:
        """The bytes written so far."""
        return bytes(self._data)


def dressed(tensor: torch.Tensor, kind: type[torch.Tensor], requires_grad: bool) -> torch.Tensor:
    """Turns a plain tensor into what it was on the other side: a parameter, a subclass, one with a gradient."""
    if kind is torch.nn.Parameter:
        return torch.nn.Parameter(tensor, requires_grad)
    if kind is not torch.Tensor:
        tensor = tensor.as_subclass(kind)
    if requires_grad:
        tensor.requires_grad_()
    return tensor


def tensor_id(
    number: int, tensor: torch.Tensor, gradient_id: Callable[[torch.Tensor], tuple[Any, ...]]
) -> tuple[Any, ...]:
    """Returns the stand-in for a tensor in a pickle: its number, and the arguments of :func:`dressed`."""
    gradient = tensor.grad if tensor.is_leaf else None
    if gradient is not None and (
        gradient.layout != torch.strided or gradient.device != tensor.device
    ):
        gradient = None
    return (
        "tensor",
        number,
        type(tensor),
        tensor.is_leaf and tensor.requires_grad,
        None if gradient is None else gradient_id(gradient),
    )


@dataclass(frozen=True)
class Shape:
    """A tensor's view of its storage."""

    dtype: torch.dtype
    conj: bool
    neg: bool
    sizes: tuple[int, ...]
    strides: tuple[int, ...]
    offset: int

    @staticmethod
    def of(tensor: torch.Tensor) -> Shape:
        """Returns the shape of a tensor."""
        return Shape(
            tensor.dtype,
            tensor.is_conj(),
            tensor.is_neg(),
            tuple(tensor.shape),
            tensor.stride(),
            int(tensor.storage_offset()),
        )

    @staticmethod
    def read(reader: Reader) -> Shape:
        """Reads what :meth:`write` has written."""
        dtype = getattr(torch, reader.text())
        bits = reader.byte()
        dims = reader.number()
        sizes = tuple(reader.number() for _ in range(dims))
        strides = tuple(reader.signed() for _ in range(dims))
        return Shape(dtype, bool(bits & 1), bool(bits & 2), sizes, strides, reader.number())

    def write(self, writer: Writer) -> None:
        """Writes the shape."""
        writer.text(str(self.dtype).removeprefix("torch."))
        writer.byte(self.conj | self.neg << 1)
        writer.number(len(self.sizes))
        for size in self.sizes:
            writer.number(size)
        for stride in self.strides:
            writer.signed(stride)
        writer.number(self.offset)

    def over(self, storage: torch.UntypedStorage) -> torch.Tensor:
        """Returns a tensor of this shape over a storage."""
        tensor = torch.empty(0, dtype=self.dtype, device=storage.device)
        with torch.no_grad():
            tensor.set_(storage, self.offset, self.sizes, self.strides)
            if self.conj:
                tensor = tensor.conj()
            if self.neg:
                tensor = torch._neg_view(tensor)
        return tensor


def bytes_of(storage: torch.UntypedStorage) -> torch.Tensor:
    """Returns a storage as a tensor of bytes."""
    return Shape(torch.uint8, False, False, (storage.nbytes(),), (1,), 0).over(storage)


# ---------------------------------------------------------------- memory on the CPU


class SharedMemory:
    """A copy of a storage in a memory file, which the node opens by its path and keeps."""

    def __init__(self, storage: torch.UntypedStorage) -> None:
        size = storage.nbytes()
        self._file = os.memfd_create("remora", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        try:
            os.ftruncate(self._file, size)
            fcntl.fcntl(self._file, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW)
            memory = mmap.mmap(self._file, size)
            torch.frombuffer(memory, dtype=torch.uint8).copy_(bytes_of(storage))
        except BaseException:
            self.close()
            raise

    @property
    def path(self) -> str:
        """The path under which the node opens it."""
        return f"/proc/{os.getpid()}/fd/{self._file}"

    def close(self) -> None:
        """Releases the memory."""
        os.close(self._file)


def open_shared(path: str, size: int) -> torch.UntypedStorage:
    """Opens memory of the node."""
    return torch.UntypedStorage.from_file(path, shared=True, nbytes=size)  # type: ignore[return-value]


# ---------------------------------------------------------------- memory on CUDA


class _CudaHandle(ctypes.Structure):
    _fields_ = [("bytes", ctypes.c_char * 64)]


class CudaMemory:
    """Device memory of another process, open until it is garbage-collected."""

    def __init__(self, device: torch.device, handle: bytes, offset: int, size: int) -> None:
        """Opens an allocation by the handle from its process."""
        torch.cuda.init()
        self._base = ctypes.c_uint64()
        with torch.cuda.device(device):
            torch.cuda.current_stream().synchronize()  # makes the device's context current in this thread
            _check_cuda(
                "cuIpcOpenMemHandle_v2",
                ctypes.byref(self._base),
                _CudaHandle.from_buffer_copy(handle),
                ctypes.c_uint(1),
            )
        self.__cuda_array_interface__ = {
            "data": (self._base.value + offset, False),
            "shape": (size,),
            "strides": None,
            "typestr": "|u1",
            "version": 3,
        }

    def __del__(self) -> None:
        if self._base.value:
            ctypes.CDLL("libcuda.so.1").cuIpcCloseMemHandle(self._base)


def open_cuda(device: torch.device, handle: bytes, offset: int, size: int) -> torch.UntypedStorage:
    """Opens device memory of the node."""
    opened = CudaMemory(device, handle, offset, size)
    return torch.as_tensor(opened, device=device).untyped_storage()


def cuda_handle(storage: torch.UntypedStorage) -> tuple[bytes, int]:
    """Returns handle and offset, with which another process opens a storage of the caching allocator."""
    base, size, handle = ctypes.c_uint64(), ctypes.c_size_t(), _CudaHandle()
    address = ctypes.c_uint64(storage.data_ptr())
    with torch.cuda.device(storage.device):
        _check_cuda("cuMemGetAddressRange_v2", ctypes.byref(base), ctypes.byref(size), address)
        _check_cuda("cuIpcGetMemHandle", ctypes.byref(handle), base)
    return bytes(ctypes.string_at(ctypes.byref(handle), 64)), address.value - base.value


def _check_cuda(name: str, *arguments: Any) -> None:
    code = getattr(ctypes.CDLL("libcuda.so.1"), name)(*arguments)
    if code != 0:
        raise RuntimeError(
            f"CUDA memory cannot be shared between processes: {name} returned {code}"
        )
