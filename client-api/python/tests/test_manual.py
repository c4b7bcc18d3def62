# SPDX-License-Identifier: AGPL-3.0-or-later
"""The manual: its programs in Python, its table of errors, its pictures, and the site that is made of it."""

from __future__ import annotations

import ast
import functools
import os
import re
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import NamedTuple

import pytest
import torch

import remora
from remora import exceptions

ROOT = Path(__file__).resolve().parents[3]
sys.path.insert(0, str(ROOT / "manual"))
BLOCK = re.compile(
    r"(?:^ *<!-- test: ([^\n]*) -->\n)?^ *```python\n(.*?)^ *```", re.DOTALL | re.MULTILINE
)


class Program(NamedTuple):
    place: str
    test: str
    text: str


def programs() -> list[Program]:
    """All programs of the manual, with what the comment above each says of its test."""
    pages = [
        *sorted(ROOT.glob("*.md")),
        *(ROOT / "docs").rglob("*.md"),
        ROOT / "examples" / "README.md",
        ROOT / "client-api" / "python" / "README.md",
    ]
    found = []
    for page in pages:
        text = page.read_text()
        for block in BLOCK.finditer(text):
            line = text[: block.start(2)].count("\n") + 1
            place = f"{page.relative_to(ROOT)}:{line}"
            found.append(Program(place, block[1] or "", textwrap.dedent(block[2])))
    return found


@pytest.mark.critical
@pytest.mark.parametrize("program", programs(), ids=lambda program: program.place)
def test_each_program_has_a_test_and_names_that_exist(program):
    if program.test.startswith("in "):
        page = program.place.split(":", maxsplit=1)[0]
        other = (Path(__file__).parent / program.test.removeprefix("in ")).read_text()
        assert f'"{page}"' in other, f"{program.test} does not read {page}"
    else:
        assert program.test in {"run", "compile"}, "how is it tested? <!-- test: … -->"
    for node in ast.walk(ast.parse(program.text)):
        names = ast.unparse(node).split(".") if isinstance(node, ast.Attribute) else []
        if names and names[0] in {"remora", "torch"} and all(map(str.isidentifier, names)):
            functools.reduce(getattr, names[1:], {"remora": remora, "torch": torch}[names[0]])


def test_the_programs_run(tmp_path, pytestconfig):
    local = pytestconfig.getoption("--machine") == "local"
    lines = ["import remora", "remora.disable_remote_execution()" if local else ""]
    for number, program in enumerate(each for each in programs() if each.test == "run"):
        lines += [
            f"def program_{number}():",
            textwrap.indent(program.text, "    "),
            f"print({program.place!r})",
            f"program_{number}()",
        ]
    file = tmp_path / "programs.py"
    file.write_text("\n".join(lines))
    done = subprocess.run(
        [sys.executable, str(file)], capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Parameter containing" in done.stdout, "docs/remote-functions.md prints the weights"


NAME = re.compile(r"`(\w+(?:Exception|Error))`")


@pytest.mark.critical
def test_the_table_of_errors_is_complete():
    lines = (ROOT / "docs" / "errors.md").read_text().splitlines()
    rows = [line.split("|") for line in lines if line.startswith("|")]
    in_java = {name for row in rows for name in NAME.findall(row[1])}
    in_python = {name for row in rows for name in NAME.findall(row[2])}
    assert all(len(row) == 6 and all(map(str.strip, row[3:5])) for row in rows)

    proto = (ROOT / "core/src/main/proto/remora/errors/v1/errors.proto").read_text()
    kinds, operators = (
        set(re.findall(r"^  (\w+) = \d+", part, re.MULTILINE))
        for part in proto.split("\nenum ")[1:]
    )
    public = {
        file.stem
        for file in ROOT.glob("*/src/main/java/**/*Exception.java")
        if re.search(r"^public (?:final )?class ", file.read_text(), re.MULTILINE)
    }
    assert len(public) > 25
    assert in_java == kinds | public | (operators - {"RuntimeError"})
    bases = {"IndexError", "TypeError", "NotImplementedError", "ImportError", "RuntimeError"}
    bases |= {"LinAlgError", "OutOfMemoryError"}
    assert in_python - bases == {*exceptions.__all__, "NativeCoreError", "ValueError"}


VERSIONS = {
    "version of the link's protocol": (
        "link/src/main/java/io/remora/actors/link/FrameHeader.java",
        r"PROTOCOL_VERSION = (\d+);",
    ),
    "version of the wire format": ("runtime/src/main/cpp/common/wire.h", r"kWireVersion = (\d+);"),
    "version of the sessions' protocol": (
        "gateway/src/main/java/io/remora/gateway/internal/GatewaySessions.java",
        r"PROTOCOL = (\d+);",
    ),
    "version of the format of saved sessions": (
        "runtime/src/main/cpp/node/snapshot.cpp",
        r"kStateVersion = (\d+);",
    ),
}


@pytest.mark.critical
@pytest.mark.parametrize("what", VERSIONS)
def test_the_versions_are_those_of_the_code(what):
    file, pattern = VERSIONS[what]
    (now,) = re.findall(pattern, (ROOT / file).read_text())
    (row,) = [
        line for line in (ROOT / "docs" / "upgrading.md").read_text().splitlines() if what in line
    ]
    assert row.split("|")[3].strip() == now, "docs/upgrading.md: the table, and what has changed"


@pytest.mark.critical
def test_the_pictures_are_drawn_from_their_sources():
    import diagrams

    assert len(diagrams.sources(ROOT)) >= 7
    assert diagrams.outdated(ROOT) == [], "run manual/pictures"


@pytest.mark.critical
def test_the_picture_of_a_machines_states_shows_all_of_them_and_no_wrong_change():
    import diagrams

    text = (ROOT / "docs" / "images" / "machine-states.dot").read_text()
    drawn = set(re.findall(r"^  (\w+) -> (\w+)", text, re.MULTILINE))
    changes = diagrams.seen_changes(ROOT)
    assert drawn <= changes
    assert {state for change in drawn for state in change} == {
        state for change in changes for state in change
    }


@pytest.mark.critical
def test_every_setting_has_a_comment(tmp_path):
    import settings

    found = [setting for module in settings.modules(ROOT) for setting in module.settings]
    assert len(found) > 120
    assert all(len(setting.comment) > 10 for setting in found)
    file = tmp_path / "reference.conf"
    file.write_text("remora.a {\n  # What it does.\n  b = 1\n\n  c = 2\n}\n")
    with pytest.raises(settings.LayoutError, match=r"remora\.a\.c has no comment"):
        settings.read(file)


@pytest.mark.critical
def test_the_settings_that_the_pages_name_exist():
    import settings

    found = [setting for module in settings.modules(ROOT) for setting in module.settings]
    keys = {setting.key for setting in found}
    blocks = tuple(setting.key for setting in found if setting.block)
    groups = {key.split(".")[1] for key in keys}
    named = {
        (page.name, name[0])
        for page in (*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"))
        # Figures have such names, too, and so have the properties of Spring.
        if page.name not in {"operations.md", "spring-boot.md"}
        for name in re.finditer(r"(?<![\w./-])remora\.([a-z]+)(\.[a-z0-9-]+)+", page.read_text())
        if name[1] in groups
    }
    assert len(named) > 80
    assert {
        (page, name)
        for page, name in named
        if not name.startswith(blocks) and not any(f"{key}.".startswith(f"{name}.") for key in keys)
    } == {("providers.md", "remora.provider.cloud")}  # of a provider that the page makes up


@pytest.mark.full
def test_the_site_is_built_and_shows_the_settings(tmp_path):
    built = subprocess.run(
        [ROOT / "manual" / "build", tmp_path],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
        env={name: value for name, value in os.environ.items() if name != "PYTHONPATH"},
    )
    assert built.returncode == 0, built.stdout + built.stderr
    settings = (tmp_path / "configuration.html").read_text()
    assert "remora.<wbr>link.<wbr>give-up-after</code>" in settings
    assert "python:3.12-slim-bookworm" in settings
    for page in ("index", "pictures", "ARCHITECTURE"):
        shown = re.findall(r'<img[^>]* src="([^"]+\.svg)"', (tmp_path / f"{page}.html").read_text())
        assert shown
        assert all((tmp_path / each).is_file() for each in shown)
