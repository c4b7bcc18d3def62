# SPDX-License-Identifier: AGPL-3.0-or-later
"""Gets PyTorch's test files from Debian's source package into a cache folder. None of them is in the repository."""

from __future__ import annotations

import os
import shutil
import subprocess
import tarfile
import tempfile
from pathlib import Path

# The Debian release whose package is used, and the version of PyTorch in it, which never changes. Tests of a version
# older than the supported one are the better choice: everything that they test still exists.
SUITE = "trixie"
VERSION = "2.6.0"


class NotToBeHadError(Exception):
    """The test files cannot be fetched here; the message has the reason."""


def cache_folder() -> Path:
    """Returns the folder for fetched files and results."""
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(home) / "remora-ci" / "upstream"


def test_files(source: str | None) -> Path:
    """Returns PyTorch's folder `test`: of the checkout `source`, or of the cache, which is filled if necessary."""
    if source:
        folder = Path(source) / "test"
        if not (folder / "test_torch.py").exists():
            raise NotToBeHadError(
                f"{source} is not a checkout of PyTorch: it has no test/test_torch.py"
            )
        return folder.resolve()
    kept = cache_folder() / f"pytorch-{VERSION}"
    if not kept.exists():
        kept.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=kept.parent) as scratch:
            unpacked = _fetch(Path(scratch))
            unpacked.rename(kept)
    return kept / "test"


def _fetch(scratch: Path) -> Path:
    """Downloads the source package by apt, with separate package lists, and unpacks the tests."""
    if not shutil.which("apt-get"):
        raise NotToBeHadError("apt-get is missing; name a checkout of PyTorch with --source")
    targets = _run("apt-get", "indextargets", "--format", "$(REPO_URI)").split()
    mirrors = [uri for uri in targets if uri.rstrip("/").endswith("/debian")]
    keys = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
    if not mirrors or not keys.exists():
        raise NotToBeHadError(
            "apt has no mirror of Debian; name a checkout of PyTorch with --source"
        )
    sources = scratch / "sources.list"
    sources.write_text(f"deb-src [signed-by={keys}] {mirrors[0]} {SUITE} main\n")
    lists, cache, download = (scratch / name for name in ("lists", "cache", "download"))
    for folder in (lists / "partial", cache / "archives" / "partial", download):
        folder.mkdir(parents=True)
    options = [
        f"-oDir::Etc::SourceList={sources}",
        "-oDir::Etc::SourceParts=/dev/null",
        f"-oDir::State::Lists={lists}",
        f"-oDir::Cache={cache}",
        "-oAPT::Sandbox::User=",
    ]
    _run("apt-get", *options, "update")
    _run("apt-get", *options, "source", "--download-only", f"pytorch/{SUITE}", folder=download)
    archives = list(download.glob(f"pytorch_{VERSION}*.orig.tar.*"))
    if not archives:
        raise NotToBeHadError(f"Debian {SUITE} no longer has PyTorch {VERSION}")
    unpacked = scratch / "unpacked"
    with tarfile.open(archives[0]) as archive:
        for member in archive:
            path = member.name.partition("/")[2]
            if path.startswith("test/") and ".." not in path and member.isfile():
                to = unpacked / path
                to.parent.mkdir(parents=True, exist_ok=True)
                content = archive.extractfile(member)
                assert content is not None
                with content, to.open("wb") as file:
                    shutil.copyfileobj(content, file)
    return unpacked


def _run(*command: str, folder: Path | None = None) -> str:
    done = subprocess.run(
        command, cwd=folder, capture_output=True, text=True, timeout=600, check=False
    )
    if done.returncode:
        raise NotToBeHadError(
            f"{' '.join(command[:1])} failed: {(done.stderr or done.stdout).strip()[-500:]}"
        )
    return done.stdout
