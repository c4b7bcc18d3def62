# SPDX-License-Identifier: AGPL-3.0-or-later
"""Writes src/remora/_proto from the gateway's gateway.proto. Needs grpcio-tools.

protoc's own Python code refuses to run with an older protobuf than the one it was made with. The code
written here does not: it holds the descriptor and lets the installed protobuf make the classes.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

PACKAGE = Path(__file__).resolve().parent.parent
PROTO_ROOT = PACKAGE.parent / "src" / "main" / "proto"
NAME = "remora/gateway/v1/gateway.proto"
OUTPUT = PACKAGE / "src" / "remora" / "_proto"

CODE = '''\
# SPDX-License-Identifier: AGPL-3.0-or-later
# Made from {name} by scripts/generate_proto.py: do not edit.
"""The messages of the gateway's protocol."""

from google.protobuf import descriptor_pool as _descriptor_pool
from google.protobuf.internal import builder as _builder

DESCRIPTOR = _descriptor_pool.Default().AddSerializedFile(
{data}
)
_builder.BuildMessageAndEnumDescriptors(DESCRIPTOR, globals())
_builder.BuildTopDescriptorsAndMessages(DESCRIPTOR, "remora._proto.gateway_pb2", globals())
'''


def generate(proto_root: Path = PROTO_ROOT) -> dict[str, str]:
    """Text of each generated file, by name."""
    from google.protobuf import descriptor_pb2
    from grpc_tools import protoc  # type: ignore[import-untyped]

    with tempfile.TemporaryDirectory() as folder:
        binary = Path(folder, "gateway.desc")
        status = protoc.main(
            [
                "protoc",
                f"-I{proto_root}",
                f"--descriptor_set_out={binary}",
                f"--pyi_out={folder}",
                NAME,
            ]
        )
        if status != 0:
            raise SystemExit(f"protoc failed with status {status}")
        files = descriptor_pb2.FileDescriptorSet.FromString(binary.read_bytes()).file
        data = files[0].SerializeToString(deterministic=True)
        lines = [f"    {data[i : i + 64]!r}" for i in range(0, len(data), 64)]
        stub = Path(folder, NAME.replace(".proto", "_pb2.pyi")).read_text()
    return {
        "gateway_pb2.py": CODE.format(name=NAME, data="\n".join(lines)),
        "gateway_pb2.pyi": "# SPDX-License-Identifier: AGPL-3.0-or-later\n" + stub,
        "__init__.py": "# SPDX-License-Identifier: AGPL-3.0-or-later\n"
        '"""Generated code of the gateway\'s protocol."""\n',
    }


def main() -> None:
    OUTPUT.mkdir(exist_ok=True)
    for name, text in generate().items():
        (OUTPUT / name).write_text(text)
        sys.stdout.write(f"{OUTPUT / name}\n")


if __name__ == "__main__":
    main()
