# SPDX-License-Identifier: AGPL-3.0-or-later
"""Remora: a PyTorch device that lives on another machine.

::

    import torch, remora

    with remora.RemoteMachine("mock") as machine:
        model = Net().to(machine.device())

Importing it registers the device type ``remora`` with PyTorch and adds ``torch.remora``.
"""

from . import _compile, _native, _older_torch, _printing, _storages, _torch_module

_native.install()
_older_torch.install()
_torch_module.register()
_printing.install()
_storages.install()
_compile.install()

from .exceptions import (  # noqa: E402
    AuthenticationException,
    CrossMachineException,
    ImageBuildException,
    MachineStateException,
    NodeLostException,
    ProtocolException,
    ProviderException,
    ProvisioningTimeoutException,
    ReadTimeoutException,
    RemoraException,
    RemoteFunctionError,
    RemoteOperationException,
    ResourceExhaustedException,
    StaleReferenceException,
    UnsupportedGpuException,
)
from .functions import RemoteFunction, remote  # noqa: E402
from .machine import (  # noqa: E402
    DeviceInfo,
    RemoteMachine,
    StorageInfo,
    disable_remote_execution,
    enable_remote_execution,
    get_all_machines,
    is_remote_execution_enabled,
    metadata_hash,
    storage_id,
)

__version__ = "0.1.0"

__all__ = [
    "AuthenticationException",
    "CrossMachineException",
    "DeviceInfo",
    "ImageBuildException",
    "MachineStateException",
    "NodeLostException",
    "ProtocolException",
    "ProviderException",
    "ProvisioningTimeoutException",
    "ReadTimeoutException",
    "RemoraException",
    "RemoteFunction",
    "RemoteFunctionError",
    "RemoteMachine",
    "RemoteOperationException",
    "ResourceExhaustedException",
    "StaleReferenceException",
    "StorageInfo",
    "UnsupportedGpuException",
    "__version__",
    "disable_remote_execution",
    "enable_remote_execution",
    "get_all_machines",
    "is_remote_execution_enabled",
    "metadata_hash",
    "remote",
    "storage_id",
]
