# SPDX-License-Identifier: AGPL-3.0-or-later
# Made from remora/models/v1/models.proto by scripts/generate_proto.py: do not edit.
"""The messages of remora/models/v1/models.proto."""

from google.protobuf import descriptor_pool as _descriptor_pool
from google.protobuf.internal import builder as _builder

DESCRIPTOR = _descriptor_pool.Default().AddSerializedFile(
    b'\n\x1dremora/models/v1/models.proto\x12\x10remora.models.v1"\x8e\x03\n\x08NodeCall\x12,'
    b'\n\x04load\x18\x01 \x01(\x0b2\x16.remora.models.v1.LoadH\x00R\x04load\x12?\n\x0bcancel_load\x18\x02 \x01('
    b'\x0b2\x1c.remora.models.v1.CancelLoadH\x00R\ncancelLoad\x12,\n\x04save\x18\x03 \x01(\x0b2\x16.re'
    b'mora.models.v1.SaveH\x00R\x04save\x12,\n\x04keep\x18\x04 \x01(\x0b2\x16.remora.models.v1.Kee'
    b'pH\x00R\x04keep\x129\n\tfind_kept\x18\x05 \x01(\x0b2\x1a.remora.models.v1.FindKeptH\x00R\x08find'
    b'Kept\x129\n\tload_kept\x18\x06 \x01(\x0b2\x1a.remora.models.v1.LoadKeptH\x00R\x08loadKept\x12'
    b'9\n\tdrop_kept\x18\x07 \x01(\x0b2\x1a.remora.models.v1.DropKeptH\x00R\x08dropKeptB\x06\n\x04ca'
    b'll"\xa3\x03\n\nNodeAnswer\x12<\n\x08progress\x18\x01 \x01(\x0b2\x1e.remora.models.v1.LoadProgr'
    b'essH\x00R\x08progress\x122\n\x06loaded\x18\x02 \x01(\x0b2\x18.remora.models.v1.LoadedH\x00R\x06loa'
    b'ded\x12?\n\tcancelled\x18\x03 \x01(\x0b2\x1f.remora.models.v1.LoadCancelledH\x00R\tcance'
    b'lled\x12/\n\x05saved\x18\x04 \x01(\x0b2\x17.remora.models.v1.SavedH\x00R\x05saved\x124\n\x05error\x18\x05'
    b' \x01(\x0b2\x1c.remora.models.v1.ModelErrorH\x00R\x05error\x120\n\x04kept\x18\x06 \x01(\x0b2\x1a.remo'
    b'ra.models.v1.KeptListH\x00R\x04kept\x12?\n\x0bkept_loaded\x18\x07 \x01(\x0b2\x1c.remora.mode'
    b'ls.v1.KeptLoadedH\x00R\nkeptLoadedB\x08\n\x06answer"\xfc\x01\n\x04Load\x12\x0e\n\x02id\x18\x01 \x01(\x06R\x02i'
    b'd\x12\x16\n\x06source\x18\x02 \x01(\tR\x06source\x12\x1a\n\x08revision\x18\x03 \x01(\tR\x08revision\x12%\n\x0eallow_p'
    b"atterns\x18\x04 \x03(\tR\rallowPatterns\x12'\n\x0fignore_patterns\x18\x05 \x03(\tR\x0eignorePat"
    b'terns\x12\x18\n\x07variant\x18\x06 \x01(\tR\x07variant\x12\x14\n\x05token\x18\x07 \x01(\tR\x05token\x12\x1a\n\x08endpoin'
    b't\x18\x08 \x01(\tR\x08endpoint\x12\x14\n\x05dtype\x18\t \x01(\tR\x05dtype"\x1c\n\nCancelLoad\x12\x0e\n\x02id\x18\x01 \x01('
    b'\x06R\x02id"\xa2\x01\n\x0cLoadProgress\x12\x1d\n\nfiles_done\x18\x01 \x01(\x03R\tfilesDone\x12\x14\n\x05files\x18\x02'
    b' \x01(\x03R\x05files\x12\x1d\n\nbytes_done\x18\x03 \x01(\x03R\tbytesDone\x12\x14\n\x05bytes\x18\x04 \x01(\x03R\x05bytes'
    b'\x12(\n\x10bytes_per_second\x18\x05 \x01(\x01R\x0ebytesPerSecond"\x0f\n\rLoadCancelled"_\n\x06L'
    b'oaded\x12\x16\n\x06commit\x18\x01 \x01(\tR\x06commit\x12=\n\x0bdirectories\x18\x02 \x03(\x0b2\x1b.remora.mode'
    b'ls.v1.DirectoryR\x0bdirectories"X\n\tDirectory\x12\x12\n\x04path\x18\x01 \x01(\tR\x04path\x127\n'
    b'\x07tensors\x18\x02 \x03(\x0b2\x1d.remora.models.v1.NamedTensorR\x07tensors"9\n\x0bNamedT'
    b'ensor\x12\x12\n\x04name\x18\x01 \x01(\tR\x04name\x12\x16\n\x06tensor\x18\x02 \x01(\rR\x06tensor"\xd3\x01\n\x04Save\x12\x12\n\x04pa'
    b'th\x18\x01 \x01(\tR\x04path\x128\n\x07tensors\x18\x02 \x03(\x0b2\x1e.remora.models.v1.TensorToSaveR'
    b'\x07tensors\x12@\n\x08metadata\x18\x03 \x03(\x0b2$.remora.models.v1.Save.MetadataEntry'
    b'R\x08metadata\x1a;\n\rMetadataEntry\x12\x10\n\x03key\x18\x01 \x01(\tR\x03key\x12\x14\n\x05value\x18\x02 \x01(\tR\x05va'
    b'lue:\x028\x01"N\n\x0cTensorToSave\x12\x12\n\x04name\x18\x01 \x01(\tR\x04name\x12\x14\n\x05dtype\x18\x02 \x01(\tR\x05dtyp'
    b'e\x12\x14\n\x05sizes\x18\x03 \x03(\x03R\x05sizes"\x1d\n\x05Saved\x12\x14\n\x05bytes\x18\x01 \x01(\x03R\x05bytes"\xf8\x01\n\x04Keep\x12'
    b'\x12\n\x04name\x18\x01 \x01(\tR\x04name\x12#\n\rlease_seconds\x18\x02 \x01(\x04R\x0cleaseSeconds\x128\n\x07tens'
    b'ors\x18\x03 \x03(\x0b2\x1e.remora.models.v1.TensorToSaveR\x07tensors\x12@\n\x08metadata\x18\x04'
    b' \x03(\x0b2$.remora.models.v1.Keep.MetadataEntryR\x08metadata\x1a;\n\rMetadata'
    b'Entry\x12\x10\n\x03key\x18\x01 \x01(\tR\x03key\x12\x14\n\x05value\x18\x02 \x01(\tR\x05value:\x028\x01"\x1e\n\x08FindKept\x12\x12\n'
    b'\x04name\x18\x01 \x01(\tR\x04name"\x1c\n\x08LoadKept\x12\x10\n\x03key\x18\x01 \x01(\tR\x03key"\x1e\n\x08DropKept\x12\x12\n\x04n'
    b'ame\x18\x01 \x01(\tR\x04name"6\n\x08KeptList\x12*\n\x04kept\x18\x01 \x03(\x0b2\x16.remora.models.v1.Kep'
    b'tR\x04kept"\x80\x01\n\x04Kept\x12\x12\n\x04name\x18\x01 \x01(\tR\x04name\x12\x10\n\x03key\x18\x02 \x01(\tR\x03key\x12-\n\x13kept_a'
    b't_unix_millis\x18\x03 \x01(\x04R\x10keptAtUnixMillis\x12#\n\rlease_seconds\x18\x04 \x01(\x04R\x0cle'
    b'aseSeconds"\xca\x01\n\nKeptLoaded\x127\n\x07tensors\x18\x01 \x03(\x0b2\x1d.remora.models.v1.Na'
    b'medTensorR\x07tensors\x12F\n\x08metadata\x18\x02 \x03(\x0b2*.remora.models.v1.KeptLoad'
    b'ed.MetadataEntryR\x08metadata\x1a;\n\rMetadataEntry\x12\x10\n\x03key\x18\x01 \x01(\tR\x03key\x12\x14\n'
    b'\x05value\x18\x02 \x01(\tR\x05value:\x028\x01"L\n\nModelError\x12\x12\n\x04kind\x18\x01 \x01(\tR\x04kind\x12\x18\n\x07mes'
    b'sage\x18\x02 \x01(\tR\x07message\x12\x10\n\x03url\x18\x03 \x01(\tR\x03urlB!\n\x1dio.remora.actors.models'
    b'.protoP\x01b\x06proto3'
)
_builder.BuildMessageAndEnumDescriptors(DESCRIPTOR, globals())
_builder.BuildTopDescriptorsAndMessages(DESCRIPTOR, "remora._proto.models_pb2", globals())
