# SPDX-License-Identifier: AGPL-3.0-or-later
"""Builds the wheel of a package that is one module."""

import zipfile
from pathlib import Path

NAME = "remora_greeting-1.2"
METADATA = "Metadata-Version: 2.1\nName: remora-greeting\nVersion: 1.2\n"
WHEEL = "Wheel-Version: 1.0\nGenerator: backend\nRoot-Is-Purelib: true\nTag: py3-none-any\n"


def build_wheel(wheel_directory, config_settings=None, metadata_directory=None):
    file = Path(wheel_directory, f"{NAME}-py3-none-any.whl")
    with zipfile.ZipFile(file, "w") as wheel:
        wheel.writestr("remora_greeting.py", "def greet(name):\n    return f'hello {name}'\n")
        wheel.writestr(f"{NAME}.dist-info/METADATA", METADATA)
        wheel.writestr(f"{NAME}.dist-info/WHEEL", WHEEL)
        names = ["remora_greeting.py"]
        names += [f"{NAME}.dist-info/{name}" for name in ("METADATA", "WHEEL", "RECORD")]
        wheel.writestr(f"{NAME}.dist-info/RECORD", "".join(f"{name},,\n" for name in names))
    return file.name
