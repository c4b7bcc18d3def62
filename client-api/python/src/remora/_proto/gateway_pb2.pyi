# SPDX-License-Identifier: AGPL-3.0-or-later
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class OpenRequest(_message.Message):
    __slots__ = ("provider", "name", "gpu_type", "gpu_count", "idle_timeout_millis", "timeout_millis", "packages", "keep", "options", "recovery", "checkpoint_interval_millis", "record", "record_without_values", "mirror")
    class OptionsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    PROVIDER_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    GPU_TYPE_FIELD_NUMBER: _ClassVar[int]
    GPU_COUNT_FIELD_NUMBER: _ClassVar[int]
    IDLE_TIMEOUT_MILLIS_FIELD_NUMBER: _ClassVar[int]
    TIMEOUT_MILLIS_FIELD_NUMBER: _ClassVar[int]
    PACKAGES_FIELD_NUMBER: _ClassVar[int]
    KEEP_FIELD_NUMBER: _ClassVar[int]
    OPTIONS_FIELD_NUMBER: _ClassVar[int]
    RECOVERY_FIELD_NUMBER: _ClassVar[int]
    CHECKPOINT_INTERVAL_MILLIS_FIELD_NUMBER: _ClassVar[int]
    RECORD_FIELD_NUMBER: _ClassVar[int]
    RECORD_WITHOUT_VALUES_FIELD_NUMBER: _ClassVar[int]
    MIRROR_FIELD_NUMBER: _ClassVar[int]
    provider: str
    name: str
    gpu_type: str
    gpu_count: int
    idle_timeout_millis: int
    timeout_millis: int
    packages: _containers.RepeatedScalarFieldContainer[str]
    keep: bool
    options: _containers.ScalarMap[str, str]
    recovery: str
    checkpoint_interval_millis: int
    record: str
    record_without_values: bool
    mirror: bool
    def __init__(self, provider: _Optional[str] = ..., name: _Optional[str] = ..., gpu_type: _Optional[str] = ..., gpu_count: _Optional[int] = ..., idle_timeout_millis: _Optional[int] = ..., timeout_millis: _Optional[int] = ..., packages: _Optional[_Iterable[str]] = ..., keep: _Optional[bool] = ..., options: _Optional[_Mapping[str, str]] = ..., recovery: _Optional[str] = ..., checkpoint_interval_millis: _Optional[int] = ..., record: _Optional[str] = ..., record_without_values: _Optional[bool] = ..., mirror: _Optional[bool] = ...) -> None: ...

class AttachRequest(_message.Message):
    __slots__ = ("name",)
    NAME_FIELD_NUMBER: _ClassVar[int]
    name: str
    def __init__(self, name: _Optional[str] = ...) -> None: ...

class ListRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class ListResponse(_message.Message):
    __slots__ = ("machines",)
    MACHINES_FIELD_NUMBER: _ClassVar[int]
    machines: _containers.RepeatedCompositeFieldContainer[Machine]
    def __init__(self, machines: _Optional[_Iterable[_Union[Machine, _Mapping]]] = ...) -> None: ...

class MachineRequest(_message.Message):
    __slots__ = ("name", "session", "after_batch")
    NAME_FIELD_NUMBER: _ClassVar[int]
    SESSION_FIELD_NUMBER: _ClassVar[int]
    AFTER_BATCH_FIELD_NUMBER: _ClassVar[int]
    name: str
    session: int
    after_batch: int
    def __init__(self, name: _Optional[str] = ..., session: _Optional[int] = ..., after_batch: _Optional[int] = ...) -> None: ...

class MigrateRequest(_message.Message):
    __slots__ = ("name", "provider", "gpu_type", "gpu_count", "timeout_millis", "options")
    class OptionsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    NAME_FIELD_NUMBER: _ClassVar[int]
    PROVIDER_FIELD_NUMBER: _ClassVar[int]
    GPU_TYPE_FIELD_NUMBER: _ClassVar[int]
    GPU_COUNT_FIELD_NUMBER: _ClassVar[int]
    TIMEOUT_MILLIS_FIELD_NUMBER: _ClassVar[int]
    OPTIONS_FIELD_NUMBER: _ClassVar[int]
    name: str
    provider: str
    gpu_type: str
    gpu_count: int
    timeout_millis: int
    options: _containers.ScalarMap[str, str]
    def __init__(self, name: _Optional[str] = ..., provider: _Optional[str] = ..., gpu_type: _Optional[str] = ..., gpu_count: _Optional[int] = ..., timeout_millis: _Optional[int] = ..., options: _Optional[_Mapping[str, str]] = ...) -> None: ...

class StopResponse(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class Device(_message.Message):
    __slots__ = ("name", "kind", "memory")
    NAME_FIELD_NUMBER: _ClassVar[int]
    KIND_FIELD_NUMBER: _ClassVar[int]
    MEMORY_FIELD_NUMBER: _ClassVar[int]
    name: str
    kind: str
    memory: int
    def __init__(self, name: _Optional[str] = ..., kind: _Optional[str] = ..., memory: _Optional[int] = ...) -> None: ...

class Machine(_message.Message):
    __slots__ = ("name", "provider", "state", "reason", "devices", "libtorch_version", "node_address")
    NAME_FIELD_NUMBER: _ClassVar[int]
    PROVIDER_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    DEVICES_FIELD_NUMBER: _ClassVar[int]
    LIBTORCH_VERSION_FIELD_NUMBER: _ClassVar[int]
    NODE_ADDRESS_FIELD_NUMBER: _ClassVar[int]
    name: str
    provider: str
    state: str
    reason: str
    devices: _containers.RepeatedCompositeFieldContainer[Device]
    libtorch_version: str
    node_address: str
    def __init__(self, name: _Optional[str] = ..., provider: _Optional[str] = ..., state: _Optional[str] = ..., reason: _Optional[str] = ..., devices: _Optional[_Iterable[_Union[Device, _Mapping]]] = ..., libtorch_version: _Optional[str] = ..., node_address: _Optional[str] = ...) -> None: ...

class MachineStats(_message.Message):
    __slots__ = ("values",)
    class ValuesEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: float
        def __init__(self, key: _Optional[str] = ..., value: _Optional[float] = ...) -> None: ...
    VALUES_FIELD_NUMBER: _ClassVar[int]
    values: _containers.ScalarMap[str, float]
    def __init__(self, values: _Optional[_Mapping[str, float]] = ...) -> None: ...

class StorageRequest(_message.Message):
    __slots__ = ("machine", "session", "storage", "after_batch")
    MACHINE_FIELD_NUMBER: _ClassVar[int]
    SESSION_FIELD_NUMBER: _ClassVar[int]
    STORAGE_FIELD_NUMBER: _ClassVar[int]
    AFTER_BATCH_FIELD_NUMBER: _ClassVar[int]
    machine: str
    session: int
    storage: int
    after_batch: int
    def __init__(self, machine: _Optional[str] = ..., session: _Optional[int] = ..., storage: _Optional[int] = ..., after_batch: _Optional[int] = ...) -> None: ...

class Storage(_message.Message):
    __slots__ = ("state", "bytes", "device", "session", "reason")
    STATE_FIELD_NUMBER: _ClassVar[int]
    BYTES_FIELD_NUMBER: _ClassVar[int]
    DEVICE_FIELD_NUMBER: _ClassVar[int]
    SESSION_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    state: str
    bytes: int
    device: int
    session: int
    reason: str
    def __init__(self, state: _Optional[str] = ..., bytes: _Optional[int] = ..., device: _Optional[int] = ..., session: _Optional[int] = ..., reason: _Optional[str] = ...) -> None: ...

class LogsRequest(_message.Message):
    __slots__ = ("name", "progress")
    NAME_FIELD_NUMBER: _ClassVar[int]
    PROGRESS_FIELD_NUMBER: _ClassVar[int]
    name: str
    progress: bool
    def __init__(self, name: _Optional[str] = ..., progress: _Optional[bool] = ...) -> None: ...

class LogLine(_message.Message):
    __slots__ = ("unix_millis", "level", "source", "text", "progress")
    UNIX_MILLIS_FIELD_NUMBER: _ClassVar[int]
    LEVEL_FIELD_NUMBER: _ClassVar[int]
    SOURCE_FIELD_NUMBER: _ClassVar[int]
    TEXT_FIELD_NUMBER: _ClassVar[int]
    PROGRESS_FIELD_NUMBER: _ClassVar[int]
    unix_millis: int
    level: str
    source: str
    text: str
    progress: Progress
    def __init__(self, unix_millis: _Optional[int] = ..., level: _Optional[str] = ..., source: _Optional[str] = ..., text: _Optional[str] = ..., progress: _Optional[_Union[Progress, _Mapping]] = ...) -> None: ...

class Progress(_message.Message):
    __slots__ = ("activity", "done", "total", "unit", "message", "elapsed_millis", "ended")
    ACTIVITY_FIELD_NUMBER: _ClassVar[int]
    DONE_FIELD_NUMBER: _ClassVar[int]
    TOTAL_FIELD_NUMBER: _ClassVar[int]
    UNIT_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    ELAPSED_MILLIS_FIELD_NUMBER: _ClassVar[int]
    ENDED_FIELD_NUMBER: _ClassVar[int]
    activity: str
    done: int
    total: int
    unit: str
    message: str
    elapsed_millis: int
    ended: bool
    def __init__(self, activity: _Optional[str] = ..., done: _Optional[int] = ..., total: _Optional[int] = ..., unit: _Optional[str] = ..., message: _Optional[str] = ..., elapsed_millis: _Optional[int] = ..., ended: _Optional[bool] = ...) -> None: ...

class ClientFrame(_message.Message):
    __slots__ = ("received", "hello", "batches", "goodbye", "ping", "open_direct", "close_direct", "waits")
    RECEIVED_FIELD_NUMBER: _ClassVar[int]
    HELLO_FIELD_NUMBER: _ClassVar[int]
    BATCHES_FIELD_NUMBER: _ClassVar[int]
    GOODBYE_FIELD_NUMBER: _ClassVar[int]
    PING_FIELD_NUMBER: _ClassVar[int]
    OPEN_DIRECT_FIELD_NUMBER: _ClassVar[int]
    CLOSE_DIRECT_FIELD_NUMBER: _ClassVar[int]
    WAITS_FIELD_NUMBER: _ClassVar[int]
    received: int
    hello: Hello
    batches: Batches
    goodbye: Goodbye
    ping: Ping
    open_direct: OpenDirect
    close_direct: CloseDirect
    waits: Waits
    def __init__(self, received: _Optional[int] = ..., hello: _Optional[_Union[Hello, _Mapping]] = ..., batches: _Optional[_Union[Batches, _Mapping]] = ..., goodbye: _Optional[_Union[Goodbye, _Mapping]] = ..., ping: _Optional[_Union[Ping, _Mapping]] = ..., open_direct: _Optional[_Union[OpenDirect, _Mapping]] = ..., close_direct: _Optional[_Union[CloseDirect, _Mapping]] = ..., waits: _Optional[_Union[Waits, _Mapping]] = ...) -> None: ...

class Hello(_message.Message):
    __slots__ = ("protocol", "wire_version", "torch_version", "machine", "session", "secret")
    PROTOCOL_FIELD_NUMBER: _ClassVar[int]
    WIRE_VERSION_FIELD_NUMBER: _ClassVar[int]
    TORCH_VERSION_FIELD_NUMBER: _ClassVar[int]
    MACHINE_FIELD_NUMBER: _ClassVar[int]
    SESSION_FIELD_NUMBER: _ClassVar[int]
    SECRET_FIELD_NUMBER: _ClassVar[int]
    protocol: int
    wire_version: int
    torch_version: str
    machine: str
    session: int
    secret: bytes
    def __init__(self, protocol: _Optional[int] = ..., wire_version: _Optional[int] = ..., torch_version: _Optional[str] = ..., machine: _Optional[str] = ..., session: _Optional[int] = ..., secret: _Optional[bytes] = ...) -> None: ...

class Batches(_message.Message):
    __slots__ = ("batches",)
    BATCHES_FIELD_NUMBER: _ClassVar[int]
    batches: _containers.RepeatedCompositeFieldContainer[Batch]
    def __init__(self, batches: _Optional[_Iterable[_Union[Batch, _Mapping]]] = ...) -> None: ...

class Batch(_message.Message):
    __slots__ = ("sequence", "data", "born", "freed", "operations")
    SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    DATA_FIELD_NUMBER: _ClassVar[int]
    BORN_FIELD_NUMBER: _ClassVar[int]
    FREED_FIELD_NUMBER: _ClassVar[int]
    OPERATIONS_FIELD_NUMBER: _ClassVar[int]
    sequence: int
    data: bytes
    born: _containers.RepeatedScalarFieldContainer[int]
    freed: _containers.RepeatedScalarFieldContainer[int]
    operations: int
    def __init__(self, sequence: _Optional[int] = ..., data: _Optional[bytes] = ..., born: _Optional[_Iterable[int]] = ..., freed: _Optional[_Iterable[int]] = ..., operations: _Optional[int] = ...) -> None: ...

class Goodbye(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class Ping(_message.Message):
    __slots__ = ("number",)
    NUMBER_FIELD_NUMBER: _ClassVar[int]
    number: int
    def __init__(self, number: _Optional[int] = ...) -> None: ...

class Waits(_message.Message):
    __slots__ = ("causes", "lines")
    class Cause(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
        __slots__ = ()
        UNKNOWN: _ClassVar[Waits.Cause]
        VALUE: _ClassVar[Waits.Cause]
        SHAPE: _ClassVar[Waits.Cause]
        METADATA: _ClassVar[Waits.Cause]
        ROOM: _ClassVar[Waits.Cause]
        QUESTION: _ClassVar[Waits.Cause]
        PAUSED: _ClassVar[Waits.Cause]
        RECONNECTING: _ClassVar[Waits.Cause]
        RECOVERING: _ClassVar[Waits.Cause]
    UNKNOWN: Waits.Cause
    VALUE: Waits.Cause
    SHAPE: Waits.Cause
    METADATA: Waits.Cause
    ROOM: Waits.Cause
    QUESTION: Waits.Cause
    PAUSED: Waits.Cause
    RECONNECTING: Waits.Cause
    RECOVERING: Waits.Cause
    CAUSES_FIELD_NUMBER: _ClassVar[int]
    LINES_FIELD_NUMBER: _ClassVar[int]
    causes: _containers.RepeatedCompositeFieldContainer[Wait]
    lines: _containers.RepeatedCompositeFieldContainer[Wait]
    def __init__(self, causes: _Optional[_Iterable[_Union[Wait, _Mapping]]] = ..., lines: _Optional[_Iterable[_Union[Wait, _Mapping]]] = ...) -> None: ...

class Wait(_message.Message):
    __slots__ = ("cause", "count", "nanos", "subject", "line")
    CAUSE_FIELD_NUMBER: _ClassVar[int]
    COUNT_FIELD_NUMBER: _ClassVar[int]
    NANOS_FIELD_NUMBER: _ClassVar[int]
    SUBJECT_FIELD_NUMBER: _ClassVar[int]
    LINE_FIELD_NUMBER: _ClassVar[int]
    cause: Waits.Cause
    count: int
    nanos: int
    subject: bytes
    line: bytes
    def __init__(self, cause: _Optional[_Union[Waits.Cause, str]] = ..., count: _Optional[int] = ..., nanos: _Optional[int] = ..., subject: _Optional[bytes] = ..., line: _Optional[bytes] = ...) -> None: ...

class OpenDirect(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class CloseDirect(_message.Message):
    __slots__ = ("number",)
    NUMBER_FIELD_NUMBER: _ClassVar[int]
    number: int
    def __init__(self, number: _Optional[int] = ...) -> None: ...

class ServerFrame(_message.Message):
    __slots__ = ("index", "welcome", "executed", "value", "lost", "pong", "held", "notice", "direct", "direct_closed", "restored", "hindered")
    INDEX_FIELD_NUMBER: _ClassVar[int]
    WELCOME_FIELD_NUMBER: _ClassVar[int]
    EXECUTED_FIELD_NUMBER: _ClassVar[int]
    VALUE_FIELD_NUMBER: _ClassVar[int]
    LOST_FIELD_NUMBER: _ClassVar[int]
    PONG_FIELD_NUMBER: _ClassVar[int]
    HELD_FIELD_NUMBER: _ClassVar[int]
    NOTICE_FIELD_NUMBER: _ClassVar[int]
    DIRECT_FIELD_NUMBER: _ClassVar[int]
    DIRECT_CLOSED_FIELD_NUMBER: _ClassVar[int]
    RESTORED_FIELD_NUMBER: _ClassVar[int]
    HINDERED_FIELD_NUMBER: _ClassVar[int]
    index: int
    welcome: Welcome
    executed: Executed
    value: Value
    lost: Lost
    pong: Pong
    held: Held
    notice: Notice
    direct: Direct
    direct_closed: DirectClosed
    restored: Restored
    hindered: Hindered
    def __init__(self, index: _Optional[int] = ..., welcome: _Optional[_Union[Welcome, _Mapping]] = ..., executed: _Optional[_Union[Executed, _Mapping]] = ..., value: _Optional[_Union[Value, _Mapping]] = ..., lost: _Optional[_Union[Lost, _Mapping]] = ..., pong: _Optional[_Union[Pong, _Mapping]] = ..., held: _Optional[_Union[Held, _Mapping]] = ..., notice: _Optional[_Union[Notice, _Mapping]] = ..., direct: _Optional[_Union[Direct, _Mapping]] = ..., direct_closed: _Optional[_Union[DirectClosed, _Mapping]] = ..., restored: _Optional[_Union[Restored, _Mapping]] = ..., hindered: _Optional[_Union[Hindered, _Mapping]] = ...) -> None: ...

class Welcome(_message.Message):
    __slots__ = ("session", "secret", "machine", "last_batch", "max_in_flight_bytes", "lease_millis", "max_unreceived_bytes", "direct")
    SESSION_FIELD_NUMBER: _ClassVar[int]
    SECRET_FIELD_NUMBER: _ClassVar[int]
    MACHINE_FIELD_NUMBER: _ClassVar[int]
    LAST_BATCH_FIELD_NUMBER: _ClassVar[int]
    MAX_IN_FLIGHT_BYTES_FIELD_NUMBER: _ClassVar[int]
    LEASE_MILLIS_FIELD_NUMBER: _ClassVar[int]
    MAX_UNRECEIVED_BYTES_FIELD_NUMBER: _ClassVar[int]
    DIRECT_FIELD_NUMBER: _ClassVar[int]
    session: int
    secret: bytes
    machine: Machine
    last_batch: int
    max_in_flight_bytes: int
    lease_millis: int
    max_unreceived_bytes: int
    direct: bool
    def __init__(self, session: _Optional[int] = ..., secret: _Optional[bytes] = ..., machine: _Optional[_Union[Machine, _Mapping]] = ..., last_batch: _Optional[int] = ..., max_in_flight_bytes: _Optional[int] = ..., lease_millis: _Optional[int] = ..., max_unreceived_bytes: _Optional[int] = ..., direct: _Optional[bool] = ...) -> None: ...

class Executed(_message.Message):
    __slots__ = ("sequence", "reports")
    SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    REPORTS_FIELD_NUMBER: _ClassVar[int]
    sequence: int
    reports: _containers.RepeatedScalarFieldContainer[bytes]
    def __init__(self, sequence: _Optional[int] = ..., reports: _Optional[_Iterable[bytes]] = ...) -> None: ...

class Value(_message.Message):
    __slots__ = ("request", "offset", "data")
    REQUEST_FIELD_NUMBER: _ClassVar[int]
    OFFSET_FIELD_NUMBER: _ClassVar[int]
    DATA_FIELD_NUMBER: _ClassVar[int]
    request: int
    offset: int
    data: bytes
    def __init__(self, request: _Optional[int] = ..., offset: _Optional[int] = ..., data: _Optional[bytes] = ...) -> None: ...

class Lost(_message.Message):
    __slots__ = ("error", "message")
    ERROR_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    error: str
    message: str
    def __init__(self, error: _Optional[str] = ..., message: _Optional[str] = ...) -> None: ...

class Pong(_message.Message):
    __slots__ = ("number",)
    NUMBER_FIELD_NUMBER: _ClassVar[int]
    number: int
    def __init__(self, number: _Optional[int] = ...) -> None: ...

class Held(_message.Message):
    __slots__ = ("reason",)
    REASON_FIELD_NUMBER: _ClassVar[int]
    reason: str
    def __init__(self, reason: _Optional[str] = ...) -> None: ...

class Direct(_message.Message):
    __slots__ = ("refusal", "address", "token", "heartbeat_interval_millis", "heartbeat_timeout_millis", "max_frame_bytes")
    REFUSAL_FIELD_NUMBER: _ClassVar[int]
    ADDRESS_FIELD_NUMBER: _ClassVar[int]
    TOKEN_FIELD_NUMBER: _ClassVar[int]
    HEARTBEAT_INTERVAL_MILLIS_FIELD_NUMBER: _ClassVar[int]
    HEARTBEAT_TIMEOUT_MILLIS_FIELD_NUMBER: _ClassVar[int]
    MAX_FRAME_BYTES_FIELD_NUMBER: _ClassVar[int]
    refusal: str
    address: str
    token: str
    heartbeat_interval_millis: int
    heartbeat_timeout_millis: int
    max_frame_bytes: int
    def __init__(self, refusal: _Optional[str] = ..., address: _Optional[str] = ..., token: _Optional[str] = ..., heartbeat_interval_millis: _Optional[int] = ..., heartbeat_timeout_millis: _Optional[int] = ..., max_frame_bytes: _Optional[int] = ...) -> None: ...

class DirectClosed(_message.Message):
    __slots__ = ("last_batch", "number")
    LAST_BATCH_FIELD_NUMBER: _ClassVar[int]
    NUMBER_FIELD_NUMBER: _ClassVar[int]
    last_batch: int
    number: int
    def __init__(self, last_batch: _Optional[int] = ..., number: _Optional[int] = ...) -> None: ...

class Hindered(_message.Message):
    __slots__ = ("state",)
    class State(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
        __slots__ = ()
        NONE: _ClassVar[Hindered.State]
        PAUSED: _ClassVar[Hindered.State]
        RECONNECTING: _ClassVar[Hindered.State]
        RECOVERING: _ClassVar[Hindered.State]
    NONE: Hindered.State
    PAUSED: Hindered.State
    RECONNECTING: Hindered.State
    RECOVERING: Hindered.State
    STATE_FIELD_NUMBER: _ClassVar[int]
    state: Hindered.State
    def __init__(self, state: _Optional[_Union[Hindered.State, str]] = ...) -> None: ...

class Restored(_message.Message):
    __slots__ = ("epoch", "step", "message")
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    STEP_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    epoch: int
    step: int
    message: str
    def __init__(self, epoch: _Optional[int] = ..., step: _Optional[int] = ..., message: _Optional[str] = ...) -> None: ...

class Notice(_message.Message):
    __slots__ = ("text",)
    TEXT_FIELD_NUMBER: _ClassVar[int]
    text: str
    def __init__(self, text: _Optional[str] = ...) -> None: ...
