# SPDX-License-Identifier: AGPL-3.0-or-later
"""Finds the native core for the installed torch, or builds it from the shipped sources."""

from __future__ import annotations

import concurrent.futures
import contextlib
import fcntl
import hashlib
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import torch

from remora_command import SHIPPED_TORCH

from ._prebuilt import prebuilt_libraries

# The range of supported minor versions, as in pyproject.toml.
OLDEST_TORCH = (2, 6)
NEWEST_TORCH = (2, 15)
# The first version whose headers need C++20; older ones need C++17.
_FIRST_WITH_CXX20 = (2, 14)
_ON_MAC = sys.platform == "darwin"
LIBRARY = "libremora.dylib" if _ON_MAC else "libremora.so"
_LINKED = (
    ("-Wl,-install_name,@rpath/libremora.dylib", "-lc10", "-ltorch_cpu")
    if _ON_MAC
    else ("-Wl,-soname,libremora.so", "-Wl,--as-needed", "-lc10", "-ltorch_cpu", "-ldl")
)

_PACKAGE = Path(__file__).resolve().parent


class NativeCoreError(ImportError):
    """Raised if there is no native core for this torch and none can be built; the message says what is missing."""


def find_library() -> Path:
    """Returns the native core to load: the one shipped for this torch, or one built here once per version.

    Raises:
        NativeCoreError: no library fits, and none can be built.

    """
    named = os.environ.get("REMORA_NATIVE_LIBRARY")
    if named:
        if not Path(named).is_file():
            raise NativeCoreError(f"REMORA_NATIVE_LIBRARY does not name a file: {named}")
        return Path(named)
    if sys.platform not in ("linux", "darwin"):
        raise NativeCoreError(f"Remora runs on Linux and macOS, not on {sys.platform}")
    version = torch.__version__.split("+")[0]
    if not OLDEST_TORCH <= minor_version(version) <= NEWEST_TORCH:
        oldest, newest, behind = (
            f"{major}.{minor}"
            for major, minor in (OLDEST_TORCH, NEWEST_TORCH, (NEWEST_TORCH[0], NEWEST_TORCH[1] + 1))
        )
        raise NativeCoreError(
            f"Remora works with torch {oldest} to {newest}, and this is torch {version}: "
            f"pip install 'torch>={oldest},<{behind}'"
        )
    if version == SHIPPED_TORCH:
        shipped = _shipped_library()
    else:
        shipped = _prebuilt_library(version) if native_platform() == "linux-x86_64" else None
    return shipped or _built_library(version)


def native_platform() -> str:
    """Returns the name of the folder of the libraries for this computer, such as ``linux-x86_64``."""
    return f"{'macos' if _ON_MAC else sys.platform}-{platform.machine()}"


def minor_version(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split(".")[:2])


def _shipped_library() -> Path | None:
    places = (
        _PACKAGE / "_lib" / native_platform() / LIBRARY,
        _checkout() / "main/resources/io/remora/runtime/native" / native_platform() / LIBRARY,
    )
    return next((library for library in places if library.is_file()), None)


def _shipped_platforms() -> str:
    folders = (_PACKAGE / "_lib", _checkout() / "main/resources/io/remora/runtime/native")
    libraries = [library for folder in folders for library in folder.glob("*/libremora.*")]
    names = {library.parent.name for library in libraries}
    return ", ".join(sorted(n for n in names if not n.startswith("torch-"))) or "no platform"


def _prebuilt_library(version: str) -> Path | None:
    """Returns the library for another version that the package includes, or that a checkout has built."""
    in_wheel = _PACKAGE / "_lib" / f"torch-{version}" / LIBRARY
    if in_wheel.is_file():
        return in_wheel
    return prebuilt_libraries(_checkout()).get(version)


def source_folder() -> Path:
    """Returns the folder with the C++ sources of the native core."""
    in_wheel = _PACKAGE / "_cpp"
    return in_wheel if in_wheel.is_dir() else _checkout() / "main/cpp"


def _checkout() -> Path:
    """Returns the folder runtime/src of the repository if the package is used from a checkout."""
    parents = _PACKAGE.parents
    return (parents[3] if len(parents) > 3 else _PACKAGE) / "runtime" / "src"


def cache_folder() -> Path:
    """Returns the folder for libraries built here: ``REMORA_CACHE``, else remora in the user's cache folder."""
    named = os.environ.get("REMORA_CACHE")
    if named:
        return Path(named)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "remora"


def _built_library(version: str) -> Path:
    folder = source_folder()
    sources = sorted(folder.rglob("*.cpp"))
    if not sources:
        raise NativeCoreError(
            f"Remora's native core is built for torch {SHIPPED_TORCH}, this is {torch.__version__}, and "
            f"its sources are not installed either ({folder}): install torch=={SHIPPED_TORCH} or remora's wheel"
        )
    digest = hashlib.sha256()
    for source in sorted([*sources, *folder.rglob("*.h")]):
        digest.update(str(source.relative_to(folder)).encode() + b"\0" + source.read_bytes())
    digest.update(
        f"{torch.__version__} {torch._C._GLIBCXX_USE_CXX11_ABI} {platform.machine()}".encode()
    )
    target = cache_folder() / f"torch-{version}-{digest.hexdigest()[:16]}" / LIBRARY
    if target.is_file():
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    with _lock(target.parent / "lock"):
        if not target.is_file():  # otherwise another process has built it meanwhile
            _build(folder, sources, target, digest.hexdigest())
    return target


@contextlib.contextmanager
def _lock(path: Path) -> Iterator[None]:
    """Holds a file's lock; the system releases it when the process ends."""
    with path.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            _say("another process is building the native core; waiting for it")
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _compiler() -> str:
    from torch.utils import cpp_extension

    wanted = str(os.environ.get("CXX") or cpp_extension.get_cxx_compiler())
    found = shutil.which(wanted.split(maxsplit=1)[0])
    if found is None:
        raise NativeCoreError(
            f"This package has Remora's native core of torch {SHIPPED_TORCH} for {_shipped_platforms()}. For torch "
            f"{torch.__version__} on {native_platform()} it is built on first import, which needs a {_standard()} "
            f"compiler, but there is no '{wanted}'.\nInstall one (Debian, Ubuntu: apt-get install g++), set CXX to "
            f"yours, or install torch=={SHIPPED_TORCH}."
        )
    return wanted


def _standard() -> str:
    return "C++20" if minor_version(torch.__version__) >= _FIRST_WITH_CXX20 else "C++17"


def _build(root: Path, sources: list[Path], target: Path, digest: str) -> None:
    from torch.utils import cpp_extension

    compiler = _compiler().split()
    flags = [
        f"-std={_standard().lower()}", "-O2", "-fPIC", "-fvisibility=hidden", "-w",
        f"-D_GLIBCXX_USE_CXX11_ABI={int(torch._C._GLIBCXX_USE_CXX11_ABI)}",
        f'-DREMORA_SOURCE_HASH="{digest}"',
        f"-ffile-prefix-map={root}/=",
        f"-I{root}",
    ]  # fmt: skip
    includes = [flag for path in cpp_extension.include_paths() for flag in ("-isystem", path)]
    libraries = [f"-L{path}" for path in cpp_extension.library_paths()]
    jobs = max(1, min(len(sources), (os.cpu_count() or 1), int(os.environ.get("MAX_JOBS") or 64)))
    _say(
        f"building the native core for torch {torch.__version__} with {compiler[0]}, once "
        f"({len(sources)} files, about {max(1, len(sources) * 40 // jobs // 60)} minutes) -> {target}"
    )
    with tempfile.TemporaryDirectory(dir=target.parent) as folder:
        objects = [Path(folder, f"{number}.o") for number in range(len(sources))]

        def compile_one(source: Path, into: Path) -> Path:
            _run([*compiler, *flags, *includes, "-c", str(source), "-o", str(into)])
            return source

        with concurrent.futures.ThreadPoolExecutor(jobs) as pool:
            tasks = [pool.submit(compile_one, *pair) for pair in zip(sources, objects, strict=True)]
            for done, task in enumerate(concurrent.futures.as_completed(tasks), 1):
                try:
                    _say(f"  {done}/{len(sources)} {task.result().relative_to(root)}")
                except BaseException:
                    pool.shutdown(cancel_futures=True)
                    raise
        library = Path(folder, LIBRARY)
        _run([*compiler, "-shared", "-o", str(library), *map(str, objects), *libraries, *_LINKED])
        library.replace(target)
    _say("the native core is built")


def _run(command: list[str]) -> None:
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    if result.returncode != 0:
        lines = [line for line in result.stderr.splitlines() if "error" in line][:5]
        raise NativeCoreError(
            f"Remora's native core does not build against torch {torch.__version__}:\n"
            + "\n".join(lines or result.stderr.splitlines()[-5:])
            + f"\nInstall torch=={SHIPPED_TORCH}, for which a built core is shipped.\ncommand: {' '.join(command)}"
        )


def _say(text: str) -> None:
    print(f"remora: {text}", file=sys.stderr, flush=True)
