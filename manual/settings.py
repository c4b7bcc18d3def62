# SPDX-License-Identifier: AGPL-3.0-or-later
"""Reads the settings of the modules' files reference.conf, and writes them as tables.

Reads only the layout that these files have, and refuses any other. A setting's comment is the one right
above it, or above the group of settings without empty lines in which it stands; a group in braces without
comments inside has that of its braces. Settings of Akka's are kept as text.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path

_OPEN = re.compile(r"([\w.-]+) ?\{$")
_PAIR = re.compile(r"([\w.\"-]+) = (.+)$")
_EMPTY = re.compile(r"([\w.-]+) (\{\})$")
# Other libraries read what is below these names.
_OTHERS = ("akka", "embedded", "member", "process", "http", "dispatcher", "session-dispatcher")
_NO_UNIT = "number"


class LayoutError(Exception):
    """A file reference.conf has a line that this reader does not take, or a setting without a comment."""


@dataclass
class Setting:
    """One setting."""

    key: str
    default: str
    comment: str
    unit: str = ""
    block: bool = False  # of another library's settings, which `default` holds as text


@dataclass
class Module:
    """The settings of a module."""

    name: str
    file: str
    settings: list[Setting] = field(default_factory=list)


def modules(root: Path) -> list[Module]:
    """All modules that have settings."""
    files = sorted(root.glob("*/src/main/resources/reference.conf"))
    order = ["client-api", "runtime", "models", "link", "actors", "gpu-node", "provider-api"]
    found = [
        Module(file.relative_to(root).parts[0], str(file.relative_to(root)), read(file))
        for file in files
    ]
    return sorted(
        found,
        key=lambda each: (order.index(each.name) if each.name in order else len(order), each.name),
    )


def read(file: Path) -> list[Setting]:
    """The settings of a file, in its order."""
    lines = file.read_text().splitlines()
    settings: list[Setting] = []
    path: list[tuple[str, str]] = []  # names of the open braces, and their comments
    comment: list[str] = []
    above = ""  # the comment of the group of lines in which we are
    explained: set[int] = (
        set()
    )  # depths of the open braces in which settings have comments of their own
    number = 0

    def fail(reason: str) -> LayoutError:
        return LayoutError(f"{file}:{number}: {reason}")

    while number < len(lines):
        line = lines[number].strip()
        number += 1
        if not line:
            comment, above = [], ""
        elif line.startswith("#"):
            comment.append(line.removeprefix("#").strip())
        elif line == "}":
            if not path:
                raise fail("a brace too many")
            explained.discard(len(path))
            path.pop()
            comment, above = [], ""
        elif opened := _OPEN.match(line):
            above = _text(comment) or above
            name, comment = opened[1], []
            if name.split(".")[0] in _OTHERS:
                begin = number - 1
                depth = 1
                while depth:
                    code = lines[number].split("#")[0]
                    depth += code.count("{") - code.count("}")
                    number += 1
                key = _key(path, name)
                if not key.startswith("akka."):
                    if not above:
                        raise fail(f"{key} has no comment")
                    settings.append(
                        Setting(key, _unindented(lines[begin:number]), above, block=True)
                    )
                above = ""
            else:
                path.append((name, above))
                above = ""
        elif pair := _PAIR.match(line) or _EMPTY.match(line):
            value = pair[2]
            while value.count("[") > value.count("]") or value.count("{") > value.count("}"):
                value += " " + lines[number].strip()
                number += 1
            above = _text(comment) or above
            comment = []
            key = _key(path, pair[1])
            if above and path:
                explained.add(len(path))
            said = above
            if not said and len(path) > 1 and len(path) not in explained:
                said = path[-1][1]
            if not said:
                raise fail(f"{key} has no comment")
            default = re.sub(
                r"\[ (.*) \]", r"[\1]", re.sub(r'" "', '", "', re.sub(r"\] \[", "], [", value))
            )
            settings.append(Setting(key, default, said, _unit(default, said)))
        else:
            raise fail(f"not understood: {line}")
    if path:
        raise fail("a brace too few")
    return settings


def as_markdown(root: Path) -> str:
    """All settings as tables, a section for each module."""
    parts = []
    for module in modules(root):
        parts.append(f"## {module.name}\n\nFrom [reference.conf](../{module.file}).\n")
        rows = groupby(
            (each for each in module.settings if not each.block), lambda each: each.comment
        )
        parts.append("| setting | default | unit or values | meaning |\n|---|---|---|---|")
        for comment, together in rows:
            members = list(together)
            keys = "<br>".join(_breakable(each.key) for each in members)
            defaults = "<br>".join(_code(each.default) for each in members)
            units = "<br>".join(each.unit for each in members)
            parts.append(f"| {keys} | {defaults} | {units} | {_cell(comment)} |")
        parts.append("")
        for each in module.settings:
            if each.block:
                parts.append(
                    f"`{each.key}`: {_escaped(each.comment)}\n\n```hocon\n{each.default}\n```\n"
                )
    return "\n".join(parts)


def _key(path: list[tuple[str, str]], name: str) -> str:
    return ".".join([*(each for each, _ in path), name.strip('"')])


def _text(comment: list[str]) -> str:
    return " ".join(each for each in comment if each and not each.startswith("SPDX-"))


def _unindented(lines: list[str]) -> str:
    indent = len(lines[0]) - len(lines[0].lstrip())
    return "\n".join(line[indent:] for line in lines)


def _unit(default: str, comment: str) -> str:
    if re.fullmatch(
        r"[\d.]+ ?(ms|milliseconds?|microseconds?|s|seconds?|m|minutes?|h|hours?)", default
    ):
        return "duration"
    if re.fullmatch(r"[\d.]+ [KMG]iB", default):
        return "bytes"
    if default in ("on", "off"):
        return "`on`, `off`"
    if re.fullmatch(r"[\d.]+", default):
        return "US dollars" if "US dollars" in comment else _NO_UNIT
    if default.startswith("["):
        return "list"
    return "settings" if default.startswith("{") else "text"


def _code(value: str) -> str:
    return f"`{value}`".replace("|", "\\|") if value not in ('""', "[]", "{}") else "empty"


def _breakable(key: str) -> str:
    """The key as code that a narrow column may break after a dot."""
    return f"<code>{key.replace('.', '.<wbr>')}</code>"


def _escaped(text: str) -> str:
    return re.sub(r"([<|*_])", r"\\\1", text)


def _cell(text: str) -> str:
    return re.sub(r"\bdocs/([\w-]+\.md)", r"[\1](\1)", _escaped(text))
