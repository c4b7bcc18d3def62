# SPDX-License-Identifier: AGPL-3.0-or-later
from google.protobuf import descriptor_pb2 as _descriptor_pb2
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from typing import ClassVar as _ClassVar

DESCRIPTOR: _descriptor.FileDescriptor

class ErrorKind(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    RemoraException: _ClassVar[ErrorKind]
    RemoteOperationException: _ClassVar[ErrorKind]
    StaleReferenceException: _ClassVar[ErrorKind]
    CrossMachineException: _ClassVar[ErrorKind]
    NodeLostException: _ClassVar[ErrorKind]
    MachineStateException: _ClassVar[ErrorKind]
    ProtocolException: _ClassVar[ErrorKind]
    ReadTimeoutException: _ClassVar[ErrorKind]
    ProviderException: _ClassVar[ErrorKind]
    AuthenticationException: _ClassVar[ErrorKind]
    ResourceExhaustedException: _ClassVar[ErrorKind]
    ProvisioningTimeoutException: _ClassVar[ErrorKind]
    UnsupportedGpuException: _ClassVar[ErrorKind]
    ImageBuildException: _ClassVar[ErrorKind]
    RestoredException: _ClassVar[ErrorKind]
    ModelException: _ClassVar[ErrorKind]
    ModelFileException: _ClassVar[ErrorKind]
    NotEnoughMemoryException: _ClassVar[ErrorKind]
    HubException: _ClassVar[ErrorKind]
    HubUnreachableException: _ClassVar[ErrorKind]
    OfflineException: _ClassVar[ErrorKind]
    RepositoryNotFoundException: _ClassVar[ErrorKind]
    GatedRepositoryException: _ClassVar[ErrorKind]
    RevisionNotFoundException: _ClassVar[ErrorKind]
    EntryNotFoundException: _ClassVar[ErrorKind]
    CorruptDownloadException: _ClassVar[ErrorKind]
    NoDiskSpaceException: _ClassVar[ErrorKind]
    IllegalArgumentException: _ClassVar[ErrorKind]

class OperatorError(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    RuntimeError: _ClassVar[OperatorError]
    IndexError: _ClassVar[OperatorError]
    ValueError: _ClassVar[OperatorError]
    TypeError: _ClassVar[OperatorError]
    NotImplementedError: _ClassVar[OperatorError]
    LinAlgError: _ClassVar[OperatorError]
    OutOfMemoryError: _ClassVar[OperatorError]
RemoraException: ErrorKind
RemoteOperationException: ErrorKind
StaleReferenceException: ErrorKind
CrossMachineException: ErrorKind
NodeLostException: ErrorKind
MachineStateException: ErrorKind
ProtocolException: ErrorKind
ReadTimeoutException: ErrorKind
ProviderException: ErrorKind
AuthenticationException: ErrorKind
ResourceExhaustedException: ErrorKind
ProvisioningTimeoutException: ErrorKind
UnsupportedGpuException: ErrorKind
ImageBuildException: ErrorKind
RestoredException: ErrorKind
ModelException: ErrorKind
ModelFileException: ErrorKind
NotEnoughMemoryException: ErrorKind
HubException: ErrorKind
HubUnreachableException: ErrorKind
OfflineException: ErrorKind
RepositoryNotFoundException: ErrorKind
GatedRepositoryException: ErrorKind
RevisionNotFoundException: ErrorKind
EntryNotFoundException: ErrorKind
CorruptDownloadException: ErrorKind
NoDiskSpaceException: ErrorKind
IllegalArgumentException: ErrorKind
RuntimeError: OperatorError
IndexError: OperatorError
ValueError: OperatorError
TypeError: OperatorError
NotImplementedError: OperatorError
LinAlgError: OperatorError
OutOfMemoryError: OperatorError
BASE_FIELD_NUMBER: _ClassVar[int]
base: _descriptor.FieldDescriptor
STATUS_FIELD_NUMBER: _ClassVar[int]
status: _descriptor.FieldDescriptor
