"""What mkdocs does not do by itself: pages that lie outside of docs/, links to files of the repository, pages
of methods filled from conf/, and formulas as MathML (no script, no font, no network).
"""

from __future__ import annotations

import html
import os
import re
import sys
from pathlib import Path
from typing import Any

from latex2mathml.converter import convert
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from docs import methods  # noqa: E402

# pages and pictures of other folders, each with its place on the site
OUTSIDE = {
    "README.md": "index.md",
    "midre_exp/README.md": "engine.md",
    "results/README.md": "results/index.md",
    "tests/README.md": "tests.md",
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
    "RESPONSIBLE_USE.md": "responsible_use.md",
}
RESULTS = ("*/*.md", "*/*.png")  # tables and figures, below results/
_LINK = re.compile(r"(!?)\[((?:[^\[\]]|\[[^\]]*\])*)\]\(([^)\s#]*)(#[^)\s]*)?\)")
_FENCE = re.compile(r"^(```.*?^```|    .*?$)", re.M | re.S)
_MATH = re.compile(r'<(span|div) class="arithmatex">\\[(\[](.*?)\\[)\]]</\1>', re.S)


def repository() -> str:
    """The address of the repository as pyproject.toml states it, without a final slash; empty without one."""
    stated = re.search(r'^Repository = "(.*?)"', (ROOT / "pyproject.toml").read_text(), re.M)
    return "" if stated is None or ".invalid/" in stated.group(1) else stated.group(1).rstrip("/")


def on_files(files: Files, *, config: MkDocsConfig) -> Files:
    """Adds the pages of ``OUTSIDE`` and of results/."""
    outside = {source: place for source, place in OUTSIDE.items() if (ROOT / source).exists()}
    for pattern in RESULTS:
        paths = [path for path in (ROOT / "results").glob(pattern) if path.name != "README.md"]
        outside |= {str(path.relative_to(ROOT)): str(path.relative_to(ROOT)) for path in sorted(paths)}
    for source, place in outside.items():
        files.append(File.generated(config, place, abs_src_path=str(ROOT / source)))
    return files


def on_page_markdown(markdown: str, *, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Fills pages of methods; points links to other pages, or to the repository."""
    if "choices" in page.meta:
        markdown = methods.page(markdown, page.meta, Path(page.file.src_uri).parent.name)
    folder = Path(page.file.src_uri).parent.name
    if page.file.src_uri.startswith("results/"):
        markdown = markdown.replace("] [", "] \\[")  # two ranges of a table are no link
    markdown = markdown.replace("<!-- table -->", methods.table("../../", (folder,)))
    places = {file.abs_src_path: file.src_uri for file in files if file.abs_src_path}
    return with_links(markdown, Path(str(page.file.abs_src_path)), page.file.src_uri, places)


def with_links(markdown: str, source: Path, place: str, places: dict[str, str]) -> str:
    """Every link as the site needs it: of a page, that page; of another file of the repository, its address
    there, or the words alone where none is stated. What is neither stays, for mkdocs to complain.
    """

    def changed(match: re.Match[str]) -> str:
        picture, words, link, anchor = match.groups()
        if not link or "://" in link or link.startswith("mailto:"):
            return match.group()
        target = Path(os.path.normpath(source.parent / link))
        if str(target) in places:
            relative = os.path.relpath(places[str(target)], Path(place).parent)
            return f"{picture}[{words}]({relative}{anchor or ''})"
        if not target.exists() or not target.is_relative_to(ROOT):
            return match.group()
        address = repository()
        path = target.relative_to(ROOT)
        return f"[{words}]({address}/blob/HEAD/{path})" if address else words

    parts = _FENCE.split(markdown)  # code stays as it is
    return "".join(part if _FENCE.fullmatch(part) else _LINK.sub(changed, part) for part in parts)


def on_page_content(content: str, **_: Any) -> str:
    """Formulas as MathML."""

    def changed(match: re.Match[str]) -> str:
        display = "inline" if match.group(1) == "span" else "block"
        made = convert(html.unescape(match.group(2)), display=display)
        # bars of a norm would grow with whatever stands beside them, the first more than the second
        return re.sub(r"<mo>(&#x0(?:2016|007C);)</mo>", r'<mo stretchy="false">\1</mo>', made)

    return _MATH.sub(changed, content)
