# SPDX-License-Identifier: AGPL-3.0-or-later
# Made from remora/models/v1/models.proto by scripts/generate_proto.py: do not edit.
"""The messages of remora/models/v1/models.proto."""

from google.protobuf import descriptor_pool as _descriptor_pool
from google.protobuf.internal import builder as _builder

DESCRIPTOR = _descriptor_pool.Default().AddSerializedFile(
    b'\n\x1dremora/models/v1/models.proto\x12\x10remora.models.v1"\xaf\x01\n\x08NodeCall\x12,'
    b'\n\x04load\x18\x01 \x01(\x0b2\x16.remora.models.v1.LoadH\x00R\x04load\x12?\n\x0bcancel_load\x18\x02 \x01('
    b'\x0b2\x1c.remora.models.v1.CancelLoadH\x00R\ncancelLoad\x12,\n\x04save\x18\x03 \x01(\x0b2\x16.re'
    b'mora.models.v1.SaveH\x00R\x04saveB\x06\n\x04call"\xb0\x02\n\nNodeAnswer\x12<\n\x08progress\x18\x01'
    b' \x01(\x0b2\x1e.remora.models.v1.LoadProgressH\x00R\x08progress\x122\n\x06loaded\x18\x02 \x01(\x0b'
    b'2\x18.remora.models.v1.LoadedH\x00R\x06loaded\x12?\n\tcancelled\x18\x03 \x01(\x0b2\x1f.remora'
    b'.models.v1.LoadCancelledH\x00R\tcancelled\x12/\n\x05saved\x18\x04 \x01(\x0b2\x17.remora.mo'
    b'dels.v1.SavedH\x00R\x05saved\x124\n\x05error\x18\x05 \x01(\x0b2\x1c.remora.models.v1.ModelEr'
    b'rorH\x00R\x05errorB\x08\n\x06answer"\xfc\x01\n\x04Load\x12\x0e\n\x02id\x18\x01 \x01(\x06R\x02id\x12\x16\n\x06source\x18\x02 \x01(\tR'
    b'\x06source\x12\x1a\n\x08revision\x18\x03 \x01(\tR\x08revision\x12%\n\x0eallow_patterns\x18\x04 \x03(\tR\rall'
    b"owPatterns\x12'\n\x0fignore_patterns\x18\x05 \x03(\tR\x0eignorePatterns\x12\x18\n\x07variant\x18\x06"
    b' \x01(\tR\x07variant\x12\x14\n\x05token\x18\x07 \x01(\tR\x05token\x12\x1a\n\x08endpoint\x18\x08 \x01(\tR\x08endpoint\x12'
    b'\x14\n\x05dtype\x18\t \x01(\tR\x05dtype"\x1c\n\nCancelLoad\x12\x0e\n\x02id\x18\x01 \x01(\x06R\x02id"\xa2\x01\n\x0cLoadProg'
    b'ress\x12\x1d\n\nfiles_done\x18\x01 \x01(\x03R\tfilesDone\x12\x14\n\x05files\x18\x02 \x01(\x03R\x05files\x12\x1d\n\nbyt'
    b'es_done\x18\x03 \x01(\x03R\tbytesDone\x12\x14\n\x05bytes\x18\x04 \x01(\x03R\x05bytes\x12(\n\x10bytes_per_seco'
    b'nd\x18\x05 \x01(\x01R\x0ebytesPerSecond"\x0f\n\rLoadCancelled"_\n\x06Loaded\x12\x16\n\x06commit\x18\x01 '
    b'\x01(\tR\x06commit\x12=\n\x0bdirectories\x18\x02 \x03(\x0b2\x1b.remora.models.v1.DirectoryR\x0bd'
    b'irectories"X\n\tDirectory\x12\x12\n\x04path\x18\x01 \x01(\tR\x04path\x127\n\x07tensors\x18\x02 \x03(\x0b2\x1d.r'
    b'emora.models.v1.NamedTensorR\x07tensors"9\n\x0bNamedTensor\x12\x12\n\x04name\x18\x01 \x01('
    b'\tR\x04name\x12\x16\n\x06tensor\x18\x02 \x01(\rR\x06tensor"\xd3\x01\n\x04Save\x12\x12\n\x04path\x18\x01 \x01(\tR\x04path\x128\n\x07'
    b'tensors\x18\x02 \x03(\x0b2\x1e.remora.models.v1.TensorToSaveR\x07tensors\x12@\n\x08metada'
    b'ta\x18\x03 \x03(\x0b2$.remora.models.v1.Save.MetadataEntryR\x08metadata\x1a;\n\rMeta'
    b'dataEntry\x12\x10\n\x03key\x18\x01 \x01(\tR\x03key\x12\x14\n\x05value\x18\x02 \x01(\tR\x05value:\x028\x01"N\n\x0cTensorT'
    b'oSave\x12\x12\n\x04name\x18\x01 \x01(\tR\x04name\x12\x14\n\x05dtype\x18\x02 \x01(\tR\x05dtype\x12\x14\n\x05sizes\x18\x03 \x03(\x03R\x05'
    b'sizes"\x1d\n\x05Saved\x12\x14\n\x05bytes\x18\x01 \x01(\x03R\x05bytes"L\n\nModelError\x12\x12\n\x04kind\x18\x01 \x01(\t'
    b'R\x04kind\x12\x18\n\x07message\x18\x02 \x01(\tR\x07message\x12\x10\n\x03url\x18\x03 \x01(\tR\x03urlB!\n\x1dio.remora.'
    b'actors.models.protoP\x01b\x06proto3'
)
_builder.BuildMessageAndEnumDescriptors(DESCRIPTOR, globals())
_builder.BuildTopDescriptorsAndMessages(DESCRIPTOR, "remora._proto.models_pb2", globals())
