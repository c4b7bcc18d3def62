# SPDX-License-Identifier: AGPL-3.0-or-later
"""Native cores built in advance for other versions of torch than that of the shipped one.

Imports no torch: the wheel's build uses it.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

# The versions that runtime/build-native --python builds for.
PREBUILT_TORCH = ("2.14.1", "2.15.0")


def prebuilt_libraries(sources: Path, *, current: bool = True) -> dict[str, Path]:
    """Returns the libraries that runtime/build-native --python has built, by the version of torch.

    Args:
        sources: the folder runtime/src of the repository.
        current: only those built from the current sources.

    """
    if len(sources.parents) < 2:
        return {}
    folder = sources.parents[1] / "client-api" / "python" / "native"
    found = {version: folder / f"torch-{version}" / "libremora.so" for version in PREBUILT_TORCH}
    found = {version: library for version, library in found.items() if library.is_file()}
    if current and found:
        wanted = source_hash(sources / "main").encode()
        found = {v: library for v, library in found.items() if wanted in library.read_bytes()}
    return found


def source_hash(main: Path) -> str:
    """Returns the hash that runtime/build-native puts into a library."""
    names = ["cpp/CMakeLists.txt", "java/io/remora/runtime/internal/NativeCore.java"]
    for pattern in ("*.cpp", "*.h"):
        names += [str(source.relative_to(main)) for source in (main / "cpp").rglob(pattern)]
    lines = (
        f"{hashlib.sha256((main / name).read_bytes()).hexdigest()}  {name}\n"
        for name in sorted(names)
    )
    return hashlib.sha256("".join(lines).encode()).hexdigest()
