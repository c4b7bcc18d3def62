# SPDX-License-Identifier: AGPL-3.0-or-later
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class NodeCall(_message.Message):
    __slots__ = ("load", "cancel_load", "save", "keep", "find_kept", "load_kept", "drop_kept")
    LOAD_FIELD_NUMBER: _ClassVar[int]
    CANCEL_LOAD_FIELD_NUMBER: _ClassVar[int]
    SAVE_FIELD_NUMBER: _ClassVar[int]
    KEEP_FIELD_NUMBER: _ClassVar[int]
    FIND_KEPT_FIELD_NUMBER: _ClassVar[int]
    LOAD_KEPT_FIELD_NUMBER: _ClassVar[int]
    DROP_KEPT_FIELD_NUMBER: _ClassVar[int]
    load: Load
    cancel_load: CancelLoad
    save: Save
    keep: Keep
    find_kept: FindKept
    load_kept: LoadKept
    drop_kept: DropKept
    def __init__(self, load: _Optional[_Union[Load, _Mapping]] = ..., cancel_load: _Optional[_Union[CancelLoad, _Mapping]] = ..., save: _Optional[_Union[Save, _Mapping]] = ..., keep: _Optional[_Union[Keep, _Mapping]] = ..., find_kept: _Optional[_Union[FindKept, _Mapping]] = ..., load_kept: _Optional[_Union[LoadKept, _Mapping]] = ..., drop_kept: _Optional[_Union[DropKept, _Mapping]] = ...) -> None: ...

class NodeAnswer(_message.Message):
    __slots__ = ("progress", "loaded", "cancelled", "saved", "error", "kept", "kept_loaded")
    PROGRESS_FIELD_NUMBER: _ClassVar[int]
    LOADED_FIELD_NUMBER: _ClassVar[int]
    CANCELLED_FIELD_NUMBER: _ClassVar[int]
    SAVED_FIELD_NUMBER: _ClassVar[int]
    ERROR_FIELD_NUMBER: _ClassVar[int]
    KEPT_FIELD_NUMBER: _ClassVar[int]
    KEPT_LOADED_FIELD_NUMBER: _ClassVar[int]
    progress: LoadProgress
    loaded: Loaded
    cancelled: LoadCancelled
    saved: Saved
    error: ModelError
    kept: KeptList
    kept_loaded: KeptLoaded
    def __init__(self, progress: _Optional[_Union[LoadProgress, _Mapping]] = ..., loaded: _Optional[_Union[Loaded, _Mapping]] = ..., cancelled: _Optional[_Union[LoadCancelled, _Mapping]] = ..., saved: _Optional[_Union[Saved, _Mapping]] = ..., error: _Optional[_Union[ModelError, _Mapping]] = ..., kept: _Optional[_Union[KeptList, _Mapping]] = ..., kept_loaded: _Optional[_Union[KeptLoaded, _Mapping]] = ...) -> None: ...

class Load(_message.Message):
    __slots__ = ("id", "source", "revision", "allow_patterns", "ignore_patterns", "variant", "token", "endpoint", "dtype")
    ID_FIELD_NUMBER: _ClassVar[int]
    SOURCE_FIELD_NUMBER: _ClassVar[int]
    REVISION_FIELD_NUMBER: _ClassVar[int]
    ALLOW_PATTERNS_FIELD_NUMBER: _ClassVar[int]
    IGNORE_PATTERNS_FIELD_NUMBER: _ClassVar[int]
    VARIANT_FIELD_NUMBER: _ClassVar[int]
    TOKEN_FIELD_NUMBER: _ClassVar[int]
    ENDPOINT_FIELD_NUMBER: _ClassVar[int]
    DTYPE_FIELD_NUMBER: _ClassVar[int]
    id: int
    source: str
    revision: str
    allow_patterns: _containers.RepeatedScalarFieldContainer[str]
    ignore_patterns: _containers.RepeatedScalarFieldContainer[str]
    variant: str
    token: str
    endpoint: str
    dtype: str
    def __init__(self, id: _Optional[int] = ..., source: _Optional[str] = ..., revision: _Optional[str] = ..., allow_patterns: _Optional[_Iterable[str]] = ..., ignore_patterns: _Optional[_Iterable[str]] = ..., variant: _Optional[str] = ..., token: _Optional[str] = ..., endpoint: _Optional[str] = ..., dtype: _Optional[str] = ...) -> None: ...

class CancelLoad(_message.Message):
    __slots__ = ("id",)
    ID_FIELD_NUMBER: _ClassVar[int]
    id: int
    def __init__(self, id: _Optional[int] = ...) -> None: ...

class LoadProgress(_message.Message):
    __slots__ = ("files_done", "files", "bytes_done", "bytes", "bytes_per_second")
    FILES_DONE_FIELD_NUMBER: _ClassVar[int]
    FILES_FIELD_NUMBER: _ClassVar[int]
    BYTES_DONE_FIELD_NUMBER: _ClassVar[int]
    BYTES_FIELD_NUMBER: _ClassVar[int]
    BYTES_PER_SECOND_FIELD_NUMBER: _ClassVar[int]
    files_done: int
    files: int
    bytes_done: int
    bytes: int
    bytes_per_second: float
    def __init__(self, files_done: _Optional[int] = ..., files: _Optional[int] = ..., bytes_done: _Optional[int] = ..., bytes: _Optional[int] = ..., bytes_per_second: _Optional[float] = ...) -> None: ...

class LoadCancelled(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class Loaded(_message.Message):
    __slots__ = ("commit", "directories")
    COMMIT_FIELD_NUMBER: _ClassVar[int]
    DIRECTORIES_FIELD_NUMBER: _ClassVar[int]
    commit: str
    directories: _containers.RepeatedCompositeFieldContainer[Directory]
    def __init__(self, commit: _Optional[str] = ..., directories: _Optional[_Iterable[_Union[Directory, _Mapping]]] = ...) -> None: ...

class Directory(_message.Message):
    __slots__ = ("path", "tensors")
    PATH_FIELD_NUMBER: _ClassVar[int]
    TENSORS_FIELD_NUMBER: _ClassVar[int]
    path: str
    tensors: _containers.RepeatedCompositeFieldContainer[NamedTensor]
    def __init__(self, path: _Optional[str] = ..., tensors: _Optional[_Iterable[_Union[NamedTensor, _Mapping]]] = ...) -> None: ...

class NamedTensor(_message.Message):
    __slots__ = ("name", "tensor")
    NAME_FIELD_NUMBER: _ClassVar[int]
    TENSOR_FIELD_NUMBER: _ClassVar[int]
    name: str
    tensor: int
    def __init__(self, name: _Optional[str] = ..., tensor: _Optional[int] = ...) -> None: ...

class Save(_message.Message):
    __slots__ = ("path", "tensors", "metadata")
    class MetadataEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    PATH_FIELD_NUMBER: _ClassVar[int]
    TENSORS_FIELD_NUMBER: _ClassVar[int]
    METADATA_FIELD_NUMBER: _ClassVar[int]
    path: str
    tensors: _containers.RepeatedCompositeFieldContainer[TensorToSave]
    metadata: _containers.ScalarMap[str, str]
    def __init__(self, path: _Optional[str] = ..., tensors: _Optional[_Iterable[_Union[TensorToSave, _Mapping]]] = ..., metadata: _Optional[_Mapping[str, str]] = ...) -> None: ...

class TensorToSave(_message.Message):
    __slots__ = ("name", "dtype", "sizes")
    NAME_FIELD_NUMBER: _ClassVar[int]
    DTYPE_FIELD_NUMBER: _ClassVar[int]
    SIZES_FIELD_NUMBER: _ClassVar[int]
    name: str
    dtype: str
    sizes: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, name: _Optional[str] = ..., dtype: _Optional[str] = ..., sizes: _Optional[_Iterable[int]] = ...) -> None: ...

class Saved(_message.Message):
    __slots__ = ("bytes",)
    BYTES_FIELD_NUMBER: _ClassVar[int]
    bytes: int
    def __init__(self, bytes: _Optional[int] = ...) -> None: ...

class Keep(_message.Message):
    __slots__ = ("name", "lease_seconds", "tensors", "metadata")
    class MetadataEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    NAME_FIELD_NUMBER: _ClassVar[int]
    LEASE_SECONDS_FIELD_NUMBER: _ClassVar[int]
    TENSORS_FIELD_NUMBER: _ClassVar[int]
    METADATA_FIELD_NUMBER: _ClassVar[int]
    name: str
    lease_seconds: int
    tensors: _containers.RepeatedCompositeFieldContainer[TensorToSave]
    metadata: _containers.ScalarMap[str, str]
    def __init__(self, name: _Optional[str] = ..., lease_seconds: _Optional[int] = ..., tensors: _Optional[_Iterable[_Union[TensorToSave, _Mapping]]] = ..., metadata: _Optional[_Mapping[str, str]] = ...) -> None: ...

class FindKept(_message.Message):
    __slots__ = ("name",)
    NAME_FIELD_NUMBER: _ClassVar[int]
    name: str
    def __init__(self, name: _Optional[str] = ...) -> None: ...

class LoadKept(_message.Message):
    __slots__ = ("key",)
    KEY_FIELD_NUMBER: _ClassVar[int]
    key: str
    def __init__(self, key: _Optional[str] = ...) -> None: ...

class DropKept(_message.Message):
    __slots__ = ("name",)
    NAME_FIELD_NUMBER: _ClassVar[int]
    name: str
    def __init__(self, name: _Optional[str] = ...) -> None: ...

class KeptList(_message.Message):
    __slots__ = ("kept",)
    KEPT_FIELD_NUMBER: _ClassVar[int]
    kept: _containers.RepeatedCompositeFieldContainer[Kept]
    def __init__(self, kept: _Optional[_Iterable[_Union[Kept, _Mapping]]] = ...) -> None: ...

class Kept(_message.Message):
    __slots__ = ("name", "key", "kept_at_unix_millis", "lease_seconds")
    NAME_FIELD_NUMBER: _ClassVar[int]
    KEY_FIELD_NUMBER: _ClassVar[int]
    KEPT_AT_UNIX_MILLIS_FIELD_NUMBER: _ClassVar[int]
    LEASE_SECONDS_FIELD_NUMBER: _ClassVar[int]
    name: str
    key: str
    kept_at_unix_millis: int
    lease_seconds: int
    def __init__(self, name: _Optional[str] = ..., key: _Optional[str] = ..., kept_at_unix_millis: _Optional[int] = ..., lease_seconds: _Optional[int] = ...) -> None: ...

class KeptLoaded(_message.Message):
    __slots__ = ("tensors", "metadata")
    class MetadataEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    TENSORS_FIELD_NUMBER: _ClassVar[int]
    METADATA_FIELD_NUMBER: _ClassVar[int]
    tensors: _containers.RepeatedCompositeFieldContainer[NamedTensor]
    metadata: _containers.ScalarMap[str, str]
    def __init__(self, tensors: _Optional[_Iterable[_Union[NamedTensor, _Mapping]]] = ..., metadata: _Optional[_Mapping[str, str]] = ...) -> None: ...

class ModelError(_message.Message):
    __slots__ = ("kind", "message", "url")
    KIND_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    URL_FIELD_NUMBER: _ClassVar[int]
    kind: str
    message: str
    url: str
    def __init__(self, kind: _Optional[str] = ..., message: _Optional[str] = ..., url: _Optional[str] = ...) -> None: ...
