# SPDX-License-Identifier: AGPL-3.0-or-later
"""Makes one site of the manual's pages, which are also read as files of the repository.

Pages outside of docs/ become pages of the site. A link to another file or folder of the repository leads to a page that
shows it. The settings are read from the files reference.conf, and diagrams are replaced by their pictures.
"""

from __future__ import annotations

import posixpath
import re
import sys
from pathlib import Path

from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, InclusionLevel

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))

import diagrams  # noqa: E402 - beside this file
import settings  # noqa: E402

ROOT = HERE.parent
# Pages of the repository outside of docs/, and their places in the site.
OUTSIDE = {
    "README.md": "index.md",
    "ARCHITECTURE.md": "ARCHITECTURE.md",
    "CONTRIBUTING.md": "CONTRIBUTING.md",
    "examples/README.md": "examples/README.md",
}
_LINK = re.compile(r"(?<=\]\()(?!https?://|mailto:|#)([^)\s#]+)((?:#[^)\s]*)?)(?=\))")
_FENCE = re.compile(r"^( *)(```+|~~~+).*?^\1\2 *$", re.MULTILINE | re.DOTALL)
_MARK = re.compile(r"^ *<!-- (?:test|main-job|tests|modules).*-->\n", re.MULTILINE)
# What the Markdown of a forge takes as a list or a table in the middle of a paragraph, and this one as text.
_NOT_TAKEN = re.compile(r"<p>(?:(?!</p>).)*\n(?:- |\* |\d+\. |\|)", re.DOTALL)
_FETCHED = re.compile(
    r"""<(?:script|link|img|iframe|source)\b[^>]*?\b(?:src|href)=["']?((?:https?:)?//[^"'\s>]+)"""
)
_LARGEST = 200_000

_repository_path: dict[str, str] = {}  # of each page of the site


def on_files(files, config):
    """Adds the pages from outside of docs/, and a page for each file that a page links to."""
    _repository_path.clear()
    for file in files.documentation_pages():
        _repository_path[file.src_uri] = f"docs/{file.src_uri}"
    for path, place in OUTSIDE.items():
        files.append(File.generated(config, place, content=(ROOT / path).read_text()))
        _repository_path[place] = path
    for name in ("manual.css", "iframe-worker.js"):
        files.append(File.generated(config, name, content=(HERE / name).read_text()))
    shown: set[str] = set()
    for path in list(_repository_path.values()):
        text = _without_fences((ROOT / path).read_text())
        for link in _LINK.finditer(text):
            target = _target(path, link[1])
            if (ROOT / target).exists() and _place(target) is None:
                shown.add(target)
    for target in sorted(shown):
        page = File.generated(config, _source_page(target), content=_shown(target, shown))
        page.inclusion = InclusionLevel.NOT_IN_NAV
        files.append(page)
    return files


def on_page_markdown(markdown, page, config, files):
    """Writes what the site has in other ways than the repository: links, settings, diagrams, lists."""
    path = _repository_path.get(page.file.src_uri)
    if path is None:
        return markdown
    if "<!-- settings -->" in markdown:
        markdown = markdown.replace("<!-- settings -->", settings.as_markdown(ROOT))
    markdown = diagrams.replace_by_pictures(markdown, path)
    markdown = _MARK.sub("", markdown)

    def in_site(link):
        target = _target(path, link[1])
        place = _place(target)
        if place is None:
            place = _source_page(target) if (ROOT / target).exists() else target
        return posixpath.relpath(place, posixpath.dirname(page.file.src_uri)) + link[2]

    return _with_wider_lists(_outside_fences(markdown, lambda text: _LINK.sub(in_site, text)))


def on_page_content(html, page, config, files):
    """Refuses text that was meant as a list or a table."""
    found = _NOT_TAKEN.search(html)
    if found and not page.file.src_uri.startswith("source/"):
        raise PluginError(
            f"{page.file.src_uri}: no empty line before a list or table: {found[0][-200:]}"
        )
    return html


def on_post_build(config):
    """Refuses pages for which a browser would fetch something from elsewhere."""
    for file in Path(config.site_dir).rglob("*.html"):
        fetched = [
            each[1]
            for each in _FETCHED.finditer(file.read_text())
            if 'rel="canonical"' not in each[0]
        ]
        if fetched:
            raise PluginError(f"{file}: a browser would fetch {fetched}")


def _target(path: str, link: str) -> str:
    return posixpath.normpath(posixpath.join(posixpath.dirname(path), link))


def _place(target: str) -> str | None:
    """The page or picture of the site that a file of the repository is; None if it is none."""
    for place, path in _repository_path.items():
        if path in (target, f"{target}/README.md"):
            return place
    return target.removeprefix("docs/") if re.fullmatch(r"docs/.*\.svg", target) else None


def _source_page(target: str) -> str:
    return f"source/{target}/index.md" if (ROOT / target).is_dir() else f"source/{target}.md"


def _shown(target: str, shown: set[str]) -> str:
    """A page with the content of a file, or the list of a folder's."""
    head = f"---\nsearch: {{exclude: true}}\nhide: [toc]\n---\n# {posixpath.basename(target)}\n\n`{target}`\n\n"
    path = ROOT / target
    if path.is_dir():
        lines = []
        for each in sorted(path.iterdir(), key=lambda each: (each.is_file(), each.name)):
            if each.name in ("target", "__pycache__") or each.name.startswith("."):
                continue
            name = f"`{each.name}{'/' * each.is_dir()}`"
            inside = f"{target}/{each.name}"
            if inside in shown:
                name = f"[{name}]({posixpath.relpath(_source_page(inside), posixpath.dirname(_source_page(target)))})"
            lines.append(f"- {name}")
        return head + "\n".join(lines) + "\n"
    content = path.read_bytes()
    try:
        text = content.decode()
    except UnicodeDecodeError:
        return head + f"A binary file of {len(content)} bytes.\n"
    if len(text) > _LARGEST:
        return head + f"A file of {len(content)} bytes, too large to be shown here.\n"
    fence = "`" * (max((len(run) for run in re.findall("`+", text)), default=2) + 1)
    fence = fence if len(fence) >= 3 else "```"
    return f"{head}{fence}{_language(path, text)}\n{text.rstrip()}\n{fence}\n"


def _language(path: Path, text: str) -> str:
    names = {
        ".java": "java", ".kt": "kotlin", ".py": "python", ".cpp": "cpp", ".h": "cpp", ".proto": "protobuf",
        ".xml": "xml", ".json": "json", ".conf": "hocon", ".yml": "yaml", ".toml": "toml",
    }  # fmt: skip
    return names.get(
        path.suffix,
        "bash" if text.startswith("#!") and "bash" in text.split("\n", 1)[0] else "text",
    )


def _without_fences(markdown: str) -> str:
    return _FENCE.sub("", markdown)


def _outside_fences(markdown: str, change) -> str:
    parts, end = [], 0
    for fence in _FENCE.finditer(markdown):
        parts += [change(markdown[end : fence.start()]), fence[0]]
        end = fence.end()
    return "".join(parts) + change(markdown[end:])


def _with_wider_lists(markdown: str) -> str:
    """Indents what belongs to an item of a list by four, as the site wants it, not by the marker's width."""
    lines, width, fence = [], 0, ""
    parts = False  # the item has an empty line in it, after which the next item needs one, too
    for line in markdown.split("\n"):
        marker = re.match(r"[-*] |\d+\. ", line)
        before = lines[-1].strip() if lines else ""
        if fence:
            fence = "" if line.rstrip() == fence else fence
        elif opened := re.match(r"```+|~~~+", line):
            fence, width = opened[0], 0
        elif marker:
            if width and parts and before:
                lines.append("")
            width, parts = len(marker[0]), False
        elif width and line.startswith(" " * width):
            parts = parts or not before
            lines.append(" " * max(0, 4 - width) + line)
            continue
        elif line.strip() and not before:
            width = 0
        lines.append(line)
    return "\n".join(lines)
