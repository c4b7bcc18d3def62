# SPDX-License-Identifier: AGPL-3.0-or-later
"""Remora: a PyTorch device that lives on another machine.

::

    import torch, remora

    with remora.RemoteMachine("mock") as machine:
        model = Net().to(machine.device())

Importing it registers the device type ``remora`` with PyTorch and adds ``torch.remora``.
"""

from . import (
    _compile,
    _dlpack,
    _libraries,
    _native,
    _older_torch,
    _printing,
    _profiler,
    _storages,
    _torch_module,
)

_native.install()
_older_torch.install()
_torch_module.register()
_printing.install()
_storages.install()
_dlpack.install()
_compile.install()
_libraries.install()
_profiler.install()

from ._estimate import Estimate, Fit  # noqa: E402
from ._kept import Kept  # noqa: E402
from ._later import Later, later  # noqa: E402
from ._progress import Progress  # noqa: E402
from ._trace import Trace  # noqa: E402
from ._waits import Wait  # noqa: E402
from .exceptions import (  # noqa: E402
    AuthenticationException,
    CorruptDownloadException,
    CrossMachineException,
    EntryNotFoundException,
    GatedRepositoryException,
    HubException,
    HubUnreachableException,
    ImageBuildException,
    MachineStateException,
    ModelException,
    ModelFileException,
    NodeLostException,
    NoDiskSpaceException,
    NotEnoughMemoryException,
    OfflineException,
    ProtocolException,
    ProviderException,
    ProvisioningTimeoutException,
    ReadTimeoutException,
    RemoraException,
    RemoteFunctionError,
    RemoteIndexError,
    RemoteLinAlgError,
    RemoteNotImplementedError,
    RemoteOperationException,
    RemoteOutOfMemoryError,
    RemoteTypeError,
    RemoteValueError,
    RepositoryNotFoundException,
    ResourceExhaustedException,
    RestoredException,
    RevisionNotFoundException,
    StaleReferenceException,
    UnsupportedGpuException,
)
from .functions import RemoteFunction, remote  # noqa: E402
from .machine import (  # noqa: E402
    GPU_TYPES,
    DeviceInfo,
    RemoteMachine,
    StorageInfo,
    declare_fixed_shapes,
    disable_remote_execution,
    enable_remote_execution,
    get_all_machines,
    is_remote_execution_enabled,
    metadata_hash,
    storage_id,
)
from .models import LoadProgress, load_huggingface_state_dicts  # noqa: E402

__version__ = "0.1.0"

__all__ = [
    "GPU_TYPES",
    "AuthenticationException",
    "CorruptDownloadException",
    "CrossMachineException",
    "DeviceInfo",
    "EntryNotFoundException",
    "Estimate",
    "Fit",
    "GatedRepositoryException",
    "HubException",
    "HubUnreachableException",
    "ImageBuildException",
    "Kept",
    "Later",
    "LoadProgress",
    "MachineStateException",
    "ModelException",
    "ModelFileException",
    "NoDiskSpaceException",
    "NodeLostException",
    "NotEnoughMemoryException",
    "OfflineException",
    "Progress",
    "ProtocolException",
    "ProviderException",
    "ProvisioningTimeoutException",
    "ReadTimeoutException",
    "RemoraException",
    "RemoteFunction",
    "RemoteFunctionError",
    "RemoteIndexError",
    "RemoteLinAlgError",
    "RemoteMachine",
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
    "StorageInfo",
    "Trace",
    "UnsupportedGpuException",
    "Wait",
    "__version__",
    "declare_fixed_shapes",
    "disable_remote_execution",
    "enable_remote_execution",
    "get_all_machines",
    "is_remote_execution_enabled",
    "later",
    "load_huggingface_state_dicts",
    "metadata_hash",
    "remote",
    "storage_id",
]


def load_ipython_extension(ipython: object) -> None:
    """Adds the cell magic ``%%remora`` to IPython: called by ``%load_ext remora``."""
    from . import _notebook

    _notebook.load(ipython)
