# SPDX-License-Identifier: AGPL-3.0-or-later
"""Puts the native core, its sources for other versions of torch, and the jars of the Java programs into the wheel."""

from __future__ import annotations

import importlib.util
import os
import re
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

_PLATFORM = "linux-x86_64"
_LIBRARY = f"runtime/src/main/resources/io/remora/runtime/native/{_PLATFORM}/libremora.so"
_SOURCES = "runtime/src/main/cpp"
_CLASS_PATH = "distribution/target/class-path.txt"
_LICENCES = "distribution/src/archive/licences"
# Not in the wheel: nodes take libtorch from the Python torch, and the benchmarks need bytedeco's.
_LEFT_OUT = re.compile(
    r"(pytorch|openblas)-.*-linux-x86_64\.jar|remora-(benchmarks|link-testkit)-.*\.jar"
)


def _prebuilt_libraries(root: Path, repository: Path) -> dict[str, Path]:
    """Returns the libraries built from the current sources. Loads only this module, since the package needs torch."""
    spec = importlib.util.spec_from_file_location("prebuilt", root / "src/remora/_prebuilt.py")
    if spec is None or spec.loader is None:
        raise FileNotFoundError("src/remora/_prebuilt.py")
    prebuilt = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(prebuilt)
    libraries: dict[str, Path] = prebuilt.prebuilt_libraries(repository / "runtime" / "src")
    return libraries


def _jars(repository: Path) -> list[Path]:
    """Returns the jars that Maven's build of the module distribution has listed; none without that build."""
    try:
        listed = (repository / _CLASS_PATH).read_text().strip().split(os.pathsep)
    except FileNotFoundError:
        return []
    jars = [Path(entry) for entry in listed if not _LEFT_OUT.fullmatch(Path(entry).name)]
    for jar in jars:
        if not jar.is_file():
            raise FileNotFoundError(
                f"{jar} of {_CLASS_PATH} is no jar: mvn -q -pl distribution -am package -DskipTests"
            )
    return jars


def _licences(repository: Path) -> list[Path]:
    """Returns the list of the jars' licences, and their texts."""
    texts = sorted((repository / _LICENCES).glob("*.txt"))
    return [repository / "LICENSE", repository / "docs" / "licences.md", *texts]


class PackageHook(BuildHookInterface):  # type: ignore[type-arg]
    """Adds files from the repository around this folder, or from a source distribution."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Lists the archive's files and sets its platform."""
        root = Path(self.root)
        repository = root.parent.parent
        packed = root / "src" / "remora"
        prefix = "src/remora" if self.target_name == "sdist" else "remora"
        include: dict[str, str] = build_data["force_include"]
        if (packed / "_lib" / _PLATFORM / "libremora.so").is_file():
            return  # a source distribution: the files are already in place
        if version != "editable":  # an editable package finds both in the repository
            include[str(repository / _LIBRARY)] = f"{prefix}/_lib/{_PLATFORM}/libremora.so"
            for torch, library in _prebuilt_libraries(root, repository).items():
                include[str(library)] = f"{prefix}/_lib/torch-{torch}/libremora.so"
            for pattern in ("*.cpp", "*.h"):
                for source in sorted((repository / _SOURCES).rglob(pattern)):
                    name = source.relative_to(repository / _SOURCES)
                    include[str(source)] = f"{prefix}/_cpp/{name}"
            jars = _jars(repository)
            for jar in jars:
                include[str(jar)] = f"{prefix}_command/jars/{jar.name}"
            for text in _licences(repository) if jars else []:
                include[str(text)] = f"{prefix}_command/licences/{text.name}"
            if not jars:
                self.app.display_warning(
                    "without Remora's jars, which a program needs to start machines itself: build them first by "
                    "mvn -q -pl distribution -am package -DskipTests"
                )
        if self.target_name == "wheel":
            build_data["pure_python"] = False
            build_data["tag"] = "py3-none-linux_x86_64"
