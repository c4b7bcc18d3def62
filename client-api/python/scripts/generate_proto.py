# SPDX-License-Identifier: AGPL-3.0-or-later
"""Writes src/remora/_proto from the protocols' .proto files. Needs grpcio-tools.

The Python code of protoc refuses to run with a protobuf older than the one that generated it. The code written here
does not: it contains the descriptor and lets the installed protobuf make the classes.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

PACKAGE = Path(__file__).resolve().parent.parent
REPOSITORY = PACKAGE.parent.parent
SOURCES = (
    REPOSITORY / "core/src/main/proto/remora/errors/v1/errors.proto",
    REPOSITORY / "gateway-protocol/src/main/proto/remora/gateway/v1/gateway.proto",
    REPOSITORY / "actors/src/main/proto/remora/models/v1/models.proto",
)
OUTPUT = PACKAGE / "src" / "remora" / "_proto"

CODE = '''\
# SPDX-License-Identifier: AGPL-3.0-or-later
# Made from {name} by scripts/generate_proto.py: do not edit.
"""The messages of {name}."""

{imports}from google.protobuf import descriptor_pool as _descriptor_pool
from google.protobuf.internal import builder as _builder

DESCRIPTOR = _descriptor_pool.Default().AddSerializedFile(
{data}
)
_builder.BuildMessageAndEnumDescriptors(DESCRIPTOR, globals())
_builder.BuildTopDescriptorsAndMessages(DESCRIPTOR, "remora._proto.{module}", globals())
'''


def generate() -> dict[str, str]:
    """Returns the text of each generated file, by name."""
    made = {
        "__init__.py": "# SPDX-License-Identifier: AGPL-3.0-or-later\n"
        '"""Generated code of the protocols."""\n'
    }
    for source in SOURCES:
        made |= _generate(source)
    return made


def _generate(source: Path) -> dict[str, str]:
    import grpc_tools  # type: ignore[import-untyped]
    from google.protobuf import descriptor_pb2
    from grpc_tools import protoc

    root = next(parent for parent in source.parents if parent.name == "proto")
    name = source.relative_to(root).as_posix()
    module = source.stem + "_pb2"
    well_known = Path(grpc_tools.__file__).parent / "_proto"
    with tempfile.TemporaryDirectory() as folder:
        binary = Path(folder, "descriptors")
        status = protoc.main(
            [
                "protoc",
                f"-I{root}",
                f"-I{well_known}",
                f"--descriptor_set_out={binary}",
                f"--pyi_out={folder}",
                name,
            ]
        )
        if status != 0:
            raise SystemExit(f"protoc failed with status {status}")
        # A set of one file: a tag, the length as a varint, the file as protoc has written it. Parsed and written again
        # it would depend on which extensions this process knows.
        data = binary.read_bytes()[1:]
        data = data[next(i for i, octet in enumerate(data) if octet < 0x80) + 1 :]
        file = descriptor_pb2.FileDescriptorProto.FromString(data)
        # What the file imports must be known before it is added.
        imports = "".join(
            f"from {package} import {imported} as _{imported}\n"
            for package, imported in map(_module, file.dependency)
        )
        lines = [f"    {data[i : i + 64]!r}" for i in range(0, len(data), 64)]
        stub = Path(folder, name.replace(".proto", "_pb2.pyi")).read_text()
    return {
        f"{module}.py": CODE.format(
            name=name, module=module, imports=imports, data="\n".join(lines)
        ),
        f"{module}.pyi": "# SPDX-License-Identifier: AGPL-3.0-or-later\n" + stub,
    }


def _module(name: str) -> tuple[str, str]:
    """The Python package and module of a .proto file."""
    path = Path(name)
    return ".".join(path.parent.parts), path.stem + "_pb2"


def main() -> None:
    OUTPUT.mkdir(exist_ok=True)
    for name, text in generate().items():
        (OUTPUT / name).write_text(text)
        sys.stdout.write(f"{OUTPUT / name}\n")


if __name__ == "__main__":
    main()
