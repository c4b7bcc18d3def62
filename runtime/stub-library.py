#!/usr/bin/env python3
# SPDX-License-Identifier: AGPL-3.0-or-later
"""Writes a stub of a macOS system library: a text file to link against, with what other libraries use of it.

A program that links against the stub can use what those libraries use, which the real one must have, the symbols that
are named, and nothing else.

    stub-library.py /usr/lib/libc++.1.dylib LIBRARY… [+SYMBOL…] > libc++.tbd
"""

import mmap
import struct
import sys

MAGIC_64 = 0xFEEDFACF
SYMBOLS, DYLIB_COMMANDS = 0x2, {0xC, 0x80000018, 0x8000001F, 0x80000023, 0x20}
KIND, UNDEFINED, EXTERNAL, STAB = 0x0E, 0x00, 0x01, 0xE0


def uses(path: str, wanted: str) -> set[str]:
    """Returns the names of the symbols that a library takes from another one."""
    with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        magic, _, _, _, commands, _, _, _ = struct.unpack_from("<8I", data)
        if magic != MAGIC_64:
            sys.exit(f"{path} is not a 64-bit Mach-O library")
        libraries, table = [], None
        at = 32
        for _ in range(commands):
            command, size = struct.unpack_from("<2I", data, at)
            if command in DYLIB_COMMANDS:
                start = at + struct.unpack_from("<I", data, at + 8)[0]
                libraries.append(data[start : data.find(b"\0", start)].decode())
            elif command == SYMBOLS:
                table = struct.unpack_from("<4I", data, at + 8)
            at += size
        if table is None or wanted not in libraries:
            return set()
        ordinal = libraries.index(wanted) + 1
        offset, count, strings, _ = table
        names = set()
        for index in range(count):
            name, kind, _, description, _ = struct.unpack_from("<IBBHQ", data, offset + 16 * index)
            is_taken = kind & EXTERNAL and not kind & STAB and kind & KIND == UNDEFINED
            if is_taken and description >> 8 == ordinal:
                start = strings + name
                names.add(data[start : data.find(b"\0", start)].decode())
        return names


def main() -> None:
    """Writes the stub to standard output."""
    wanted, *others = sys.argv[1:]
    names = set().union(*(uses(path, wanted) for path in others if not path.startswith("+")))
    if not names:
        sys.exit(f"none of {others} uses {wanted}")
    names = sorted(names.union(each[1:] for each in others if each.startswith("+")))
    print("--- !tapi-tbd\ntbd-version: 4\ntargets: [ arm64-macos ]")
    print(f"install-name: '{wanted}'\nexports:\n  - targets: [ arm64-macos ]\n    symbols:")
    for name in names:
        print(f"      - '{name}'")
    print("...")


if __name__ == "__main__":
    main()
