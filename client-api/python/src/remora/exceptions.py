# SPDX-License-Identifier: AGPL-3.0-or-later
"""Remora's exceptions, with the names and meanings of its Java API.

All are :class:`RuntimeError`, like the errors of PyTorch's other devices. Mistakes in shapes, dtypes and
devices are raised at the call, with PyTorch's own exception types.
"""

from __future__ import annotations

import re

import torch

from ._proto import errors_pb2

__all__ = [
    "AuthenticationException",
    "CorruptDownloadException",
    "CrossMachineException",
    "EntryNotFoundException",
    "GatedRepositoryException",
    "HubException",
    "HubUnreachableException",
    "ImageBuildException",
    "MachineStateException",
    "ModelException",
    "ModelFileException",
    "NoDiskSpaceException",
    "NodeLostException",
    "NotEnoughMemoryException",
    "OfflineException",
    "ProtocolException",
    "ProviderException",
    "ProvisioningTimeoutException",
    "ReadTimeoutException",
    "RemoraException",
    "RemoteFunctionError",
    "RemoteIndexError",
    "RemoteLinAlgError",
    "RemoteNotImplementedError",
    "RemoteOperationException",
    "RemoteOutOfMemoryError",
    "RemoteTypeError",
    "RemoteValueError",
    "RepositoryNotFoundException",
    "ResourceExhaustedException",
    "RestoredException",
    "RevisionNotFoundException",
    "StaleReferenceException",
    "UnsupportedGpuException",
]


class RemoraException(RuntimeError):  # noqa: N818 - the names are those of the Java API
    """The base of all exceptions of Remora. The first line says what is wrong and how to fix it."""


class RemoteOperationException(RemoraException):
    """An operation failed on the node.

    Its outputs, and everything computed from them, have no values; all other operations continue. Reading
    such a value raises this error. If nothing has read one, ``synchronize()`` and ``stop()`` raise it. The
    message begins with PyTorch's own. If PyTorch raises another class than ``RuntimeError`` for the error,
    the exception is also of that class: :class:`RemoteIndexError` is an ``IndexError``.
    """


class RemoteIndexError(RemoteOperationException, IndexError):
    """A failed operation for which PyTorch raises ``IndexError``."""


class RemoteValueError(RemoteOperationException, ValueError):
    """A failed operation for which PyTorch raises ``ValueError``."""


class RemoteTypeError(RemoteOperationException, TypeError):
    """A failed operation for which PyTorch raises ``TypeError``."""


class RemoteNotImplementedError(RemoteOperationException, NotImplementedError):
    """A failed operation for which PyTorch raises ``NotImplementedError``."""


class RemoteLinAlgError(RemoteOperationException, torch.linalg.LinAlgError):  # type: ignore[name-defined, misc]
    """A failed operation for which PyTorch raises ``torch.linalg.LinAlgError``."""


class RemoteOutOfMemoryError(RemoteOperationException, torch.OutOfMemoryError):
    """A failed operation for which PyTorch raises ``torch.OutOfMemoryError``."""


class RemoteFunctionError(RemoteOperationException):
    """A function of ``@remora.remote`` failed to run on the node, or its result could not be returned.

    Exceptions of the function itself are raised unchanged. Their ``__cause__`` is an exception of this
    class with the traceback on the node.
    """


class StaleReferenceException(RemoraException):
    """A tensor was used whose storage no longer exists: it was freed, or its machine is closed."""


class CrossMachineException(RemoraException):
    """An operation was given tensors on different machines or devices; the message names both, and the fix."""


class NodeLostException(RemoraException):
    """A machine's node is gone, and its tensors with it."""


class RestoredException(RemoraException):
    """The machine's node was lost, and another node has restored the checkpoint of an earlier step.

    Tensors that existed then have their values of then; those made since are gone. The machine can be used:
    a program continues behind :attr:`step`. Machines with ``recovery="checkpoint"`` raise this.
    """

    @property
    def step(self) -> int:
        """The step that the program gave to the checkpoint: the last one that is complete."""
        found = re.search(r"restored to step (-?\d+)", str(self))
        return int(found[1]) if found else 0


class MachineStateException(RemoraException):
    """The machine's state does not allow the call."""


class ProtocolException(RemoraException):
    """A peer sent a message that does not follow the protocol."""


class ReadTimeoutException(RemoraException):
    """A value did not arrive in time."""


class ProviderException(RemoraException):
    """A machine, or its gateway, could not be started, found or ended."""


class AuthenticationException(ProviderException):
    """A provider, a gateway or a node refused the credentials."""


class ResourceExhaustedException(ProviderException):
    """A provider has no capacity, quota or credit left for the request."""


class ProvisioningTimeoutException(ProviderException):
    """A node was not ready within its time limit."""


class ModelException(RemoraException):
    """A model could not be read, written or fetched."""


class ModelFileException(ModelException):
    """A model's file cannot be read, or does not follow its format."""


class NotEnoughMemoryException(ModelException):
    """A device has too little memory for a model."""


class HubException(ModelException):
    """Files could not be fetched from a hub."""


class HubUnreachableException(HubException):
    """The hub could not be reached, was too slow, or answered with errors, in every attempt."""


class OfflineException(HubException):
    """The hub cannot be reached or must not be used, and the node's cache lacks the files."""


class RepositoryNotFoundException(HubException):
    """The hub has no such repository, or hides it from this token."""


class GatedRepositoryException(HubException):
    """The repository's owner grants access on request, and this token has no access.

    Attributes:
        access_page: the page for requesting access; may be empty.

    """

    def __init__(self, message: str, access_page: str = "") -> None:
        super().__init__(message)
        self.access_page = access_page


class RevisionNotFoundException(HubException):
    """The repository has no such branch, tag or commit."""


class EntryNotFoundException(HubException):
    """The repository has no such file at this revision."""


class CorruptDownloadException(HubException):
    """A download differs from the hub's announcement in size or checksum. Nothing of it is kept."""


class NoDiskSpaceException(HubException):
    """A disk has no room for the files."""


class UnsupportedGpuException(ProviderException):
    """A provider does not offer this kind or number of GPUs."""


class ImageBuildException(ProviderException):
    """The node's image could not be built; the message ends with the build's log."""


# Kinds that have no class of their own here.
_STAND_INS = {
    "IllegalArgumentException": ValueError,
    "RemoteRuntimeError": RemoteOperationException,
}
_ERRORS = errors_pb2.DESCRIPTOR.enum_types_by_name

# By the names that the native core, gateways and nodes use, which are those of errors.proto.
BY_NAME: dict[str, type[BaseException]] = {
    name: _STAND_INS.get(name) or globals()[name]
    for name in (
        *_ERRORS["ErrorKind"].values_by_name,
        *(f"Remote{error}" for error in _ERRORS["OperatorError"].values_by_name),
    )
}


def from_text(text: str, default: type[BaseException] = RemoraException) -> BaseException:
    """Returns the exception for a text of the native core: ``"NodeLostException: the node …"``."""
    name, colon, message = text.partition(": ")
    kind = BY_NAME.get(name) if colon else None
    return default(text) if kind is None else kind(message)
