# SPDX-License-Identifier: AGPL-3.0-or-later
"""The command ``remora``, and what starts Remora's Java programs: it finds Java and the jars.

Imports neither torch nor the package ``remora``, so that ``remora doctor`` also runs where these do not work.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

OLDEST_JAVA = 17
# The version of torch that the shipped native core was built for.
SHIPPED_TORCH = "2.10.0"

_MAIN = "io.remora.command.Main"
_JARS = Path(__file__).resolve().parent / "jars"
_INSTALL = (
    f"install Java {OLDEST_JAVA} or newer (Debian, Ubuntu: apt-get install openjdk-17-jre-headless; "
    "conda: conda install openjdk), set JAVA_HOME to the folder of one, or use a gateway that "
    "runs elsewhere with RemoteMachine.connect"
)

HOW_TO_GET_A_GATEWAY = """\
Remora reaches its machines through its gateway, a Java program, and found none: this package was built without
Remora's jars. Either
  - install a package that has them; in a checkout: mvn -q -pl distribution -am package -DskipTests, then
    pip install ./client-api/python,
  - set REMORA_HOME to a folder with Remora's jars (in it or in its folder lib), such as an unpacked remora-*.tar.gz,
  - set REMORA_GATEWAY_CLASSPATH to a Java class path that holds io.remora.gateway.Main,
  - or set REMORA_GATEWAY (and REMORA_GATEWAY_TOKEN) to the host:port of a running gateway,
    or use remora.RemoteMachine.connect("host:port", token=…)."""


class StartError(RuntimeError):
    """Raised if Java or Remora's jars are missing; the message says what to install."""


class Java(NamedTuple):
    """A Java that can run Remora."""

    command: str
    """The path of its launcher."""
    version: int | None
    """Its feature version, such as 17; None if it does not say."""

    def options(self) -> list[str]:
        """Returns the options that Remora's programs need on this Java."""
        options = ["-Djava.util.concurrent.ForkJoinPool.common.parallelism=2"]
        if self.version is not None and self.version >= 24:
            # Without these the JVM warns about native code (JavaCPP) and sun.misc.Unsafe (Akka, protobuf).
            options += [
                "--enable-native-access=ALL-UNNAMED",
                "--sun-misc-unsafe-memory-access=allow",
            ]
        return options


def find_java() -> Java:
    """Finds the Java of JAVA_HOME, or else the first one on the PATH.

    Raises:
        StartError: there is none, or it is too old.

    """
    home = os.environ.get("JAVA_HOME")
    candidates = [str(Path(home, "bin", "java"))] if home else []
    for candidate in [*candidates, "java"]:
        found = shutil.which(candidate)
        if found:
            version = _version(found)
            if version is not None and version < OLDEST_JAVA:
                raise StartError(
                    f"Remora needs Java {OLDEST_JAVA} or newer, and {found} is Java {version}: {_INSTALL}"
                )
            return Java(found, version)
    raise StartError(f"Remora needs Java {OLDEST_JAVA} or newer, and found none: {_INSTALL}")


def _version(java: str) -> int | None:
    """Returns a Java's feature version, from the file beside it if possible: starting a JVM takes longer."""
    try:
        text = (Path(java).resolve().parent.parent / "release").read_text(errors="replace")
        match = re.search(r'^JAVA_VERSION="(?:1\.)?(\d+)', text, re.MULTILINE)
    except OSError:
        match = None
    if match is None:
        try:
            answer = subprocess.run(
                [java, "-version"], capture_output=True, text=True, timeout=30, check=False
            )
        except (OSError, subprocess.TimeoutExpired):
            return None
        match = re.search(r'version "(?:1\.)?(\d+)', answer.stderr)
    return None if match is None else int(match[1])


def class_path(path: str | os.PathLike[str] | None = None) -> str:
    """Returns the Java class path of Remora's programs.

    Args:
        path: a folder of jars, or a class path; None for the settings in the environment, or else the jars in this
            package.

    Raises:
        StartError: nothing names the jars, and this package has none.

    """
    if path is not None:
        return _jars(Path(path)) if Path(path).is_dir() else os.fspath(path)
    named = os.environ.get("REMORA_GATEWAY_CLASSPATH")
    if named:
        if named.startswith("@"):  # a file that contains it, as in java's own options
            return Path(named[1:]).read_text().strip()
        return named
    home = os.environ.get("REMORA_HOME")
    if home:
        return _jars(Path(home))
    if any(_JARS.glob("*.jar")):
        return f"{_JARS}/*"
    raise StartError(HOW_TO_GET_A_GATEWAY)


def _jars(folder: Path) -> str:
    for place in (folder / "lib", folder):
        if any(place.glob("*.jar")):
            return f"{place}/*"
    raise StartError(f"there are no jars in {folder} or {folder / 'lib'}")


def main(arguments: list[str] | None = None) -> None:
    """Becomes the Java program ``remora``, with this Python's torch as the nodes' libtorch."""
    given = sys.argv[1:] if arguments is None else arguments
    try:
        java = find_java()
        environment = os.environ | {"CLASSPATH": class_path()}
        command = [java.command, *java.options(), *_of_this_python(given, environment)]
    except StartError as e:
        raise SystemExit(f"remora: {e}") from None
    command += os.environ.get("REMORA_JAVA_OPTIONS", "").split()
    os.execve(java.command, [*command, _MAIN, *given], environment)


def _of_this_python(arguments: list[str], environment: dict[str, str]) -> list[str]:
    """Returns options that make nodes use this Python and its torch; adds to the environment."""
    options = [f"-Dremora.node.python={sys.executable}"]
    torch = importlib.util.find_spec("torch")
    if torch is None or not torch.submodule_search_locations:
        return options
    home = torch.submodule_search_locations[0]
    environment.setdefault("REMORA_NODE_TORCH_HOME", home)
    options.append(f"-Dremora.provider.mock.torch-home={home}")
    shipped = importlib.metadata.version("torch").split("+")[0] == SHIPPED_TORCH
    starts_nodes = bool(arguments) and arguments[0] in ("node", "gateway", "doctor")
    if starts_nodes and not shipped and "REMORA_NATIVE_LIBRARY" not in environment:
        try:
            from remora._native import core
        except ImportError as e:
            if arguments[0] != "doctor":
                raise StartError(str(e)) from None
        else:
            environment["REMORA_NATIVE_LIBRARY"] = core.library._name
    return options
