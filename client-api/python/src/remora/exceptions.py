# SPDX-License-Identifier: AGPL-3.0-or-later
"""What Remora raises: the same names and meanings as in its Java API.

All are :class:`RuntimeError`, as the errors of PyTorch's other devices are. Mistakes that show in
shapes, types and devices are raised at the call, with PyTorch's own types.
"""

from __future__ import annotations

import torch

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
    "RevisionNotFoundException",
    "StaleReferenceException",
    "UnsupportedGpuException",
]


class RemoraException(RuntimeError):  # noqa: N818 - the names are those of the Java API
    """Everything Remora itself raises; the first line says what is wrong and, if there is one, the fix."""


class RemoteOperationException(RemoraException):
    """An operation failed on the node.

    Its outputs, and whatever is computed from them, have no values; everything else continues. Raised
    where such a value is read, and by ``synchronize()`` and ``stop()`` when nobody has read one.
    The message begins with PyTorch's own. Where PyTorch raises an exception of another class than
    ``RuntimeError`` for it, this is one of that class, too: :class:`RemoteIndexError` is an ``IndexError``.
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
    """A function of ``@remora.remote`` did not come to its end on the node, or its result not to the program.

    What the function itself raises comes as it is, with one of these as its ``__cause__`` that has the
    traceback on the node.
    """


class StaleReferenceException(RemoraException):
    """A tensor was used whose storage is not there any more: it was freed, or its machine is closed."""


class CrossMachineException(RemoraException):
    """An operation was given tensors of different places; the message names both, and the fix."""


class NodeLostException(RemoraException):
    """The node that computes for a machine is gone, and with it the tensors it held."""


class MachineStateException(RemoraException):
    """A machine is not in a state that allows the call."""


class ProtocolException(RemoraException):
    """The two ends of a connection do not understand each other."""


class ReadTimeoutException(RemoraException):
    """A value did not arrive in time."""


class ProviderException(RemoraException):
    """A machine, or the gateway to it, could not be started, found or ended."""


class AuthenticationException(ProviderException):
    """A provider, a gateway or a node refused the credentials."""


class ResourceExhaustedException(ProviderException):
    """A provider has no capacity, quota or credit left for what was asked."""


class ProvisioningTimeoutException(ProviderException):
    """A node was not ready within the time allowed for it."""


class ModelException(RemoraException):
    """A model could not be read, written or fetched."""


class ModelFileException(ModelException):
    """A model's file cannot be read, or is not what its format demands."""


class NotEnoughMemoryException(ModelException):
    """A device has no memory left for a model."""


class HubException(ModelException):
    """Files could not be fetched from a hub."""


class HubUnreachableException(HubException):
    """The hub could not be reached, was too slow, or answered with errors, as often as it was asked."""


class OfflineException(HubException):
    """The hub is not to be asked or cannot be reached, and the node's cache does not hold what is needed."""


class RepositoryNotFoundException(HubException):
    """The hub has no such repository, or does not show it to the holder of this token."""


class GatedRepositoryException(HubException):
    """The repository's owner gives access to those who ask for it, and this token has none.

    Attributes:
        access_page: where access is asked for; may be empty.

    """

    def __init__(self, message: str, access_page: str = "") -> None:
        super().__init__(message)
        self.access_page = access_page


class RevisionNotFoundException(HubException):
    """The repository has no such branch, tag or commit."""


class EntryNotFoundException(HubException):
    """The repository has no such file at this revision."""


class CorruptDownloadException(HubException):
    """What the hub sent is not what it had announced, by size or checksum. Nothing of it is kept."""


class NoDiskSpaceException(HubException):
    """A disk has no room for the files."""


class UnsupportedGpuException(ProviderException):
    """A provider does not have the kind or number of GPUs that was asked for, and never will."""


class ImageBuildException(ProviderException):
    """The image that a node was to run in could not be built; the message ends with the build's log."""


BY_NAME: dict[str, type[BaseException]] = {
    name: value
    for name, value in list(globals().items())
    if isinstance(value, type) and issubclass(value, RemoraException)
}


def from_text(text: str, default: type[BaseException] = RemoraException) -> BaseException:
    """The exception for a text of the native core: ``"NodeLostException: the node …"``."""
    name, colon, message = text.partition(": ")
    kind = BY_NAME.get(name) if colon else None
    return default(text) if kind is None else kind(message)
