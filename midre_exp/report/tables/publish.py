"""A finished table on its way out: Markdown, CSV, LaTeX and an HTML page beside the records, and the
terminal.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd

from midre_exp.plan.publication import people_folder
from midre_exp.records.text import csv_of, inline
from midre_exp.report.output import kept, pictures_in, shows_more
from midre_exp.report.tables.html import Gallery, page_of
from midre_exp.report.tables.kept_pictures import Kept, keep
from midre_exp.report.tables.latex import latex
from midre_exp.store.files import write_atomic

#: Columns of text; numbers are aligned to the right.
WORDS = (
    "setup",
    "attack",
    "target",
    "Defense",
    "Notes",
    "sees",
    "private",
    "public",
    "MIDRE",
    "certainty",
    "verdict",
    "trait",
    "kind",
)


@dataclass(frozen=True)
class RenderedTable:
    """A table with everything that is published of it."""

    title: str
    values: pd.DataFrame  # unrounded, for the CSV
    shown: pd.DataFrame  # text, with headings
    caption: str
    notes: Sequence[str] = ()  # footnotes
    missing: Sequence[str] = ()  # commands of runs that have not been run
    gallery: Gallery = field(default=Gallery())
    people: pd.DataFrame | None = None  # of one run, for its page
    latex_columns: Sequence[str] = ()  # headings of its LaTeX form; none: that chooses


def publish(
    table: RenderedTable, folder: Path, stem: str, *, replace: bool = False, page: bool = True
) -> list[Path]:
    """Write ``<stem>.md``, ``.csv``, ``.tex`` and, with ``page``, ``.html`` and print the table; returns what
    was written.

    Files that show more stay, which is said, unless ``replace``: all of them where runs are missing that they
    have, the page where pictures are. One that shows people lies in a folder that git ignores; of faces that
    code renders small copies of the reconstructions are kept beside the records.
    """
    text = table.shown.to_markdown(index=False, disable_numparse=True, tablefmt="simple")
    print("\n" + "\n\n".join([text, table.caption, *table.notes]) + "\n")
    old, pictures = folder / f"{stem}.csv", table.gallery
    place = (people_folder(folder) if pictures.banners else folder) / f"{stem}.html"
    if not replace and table.missing and shows_more(old, table.values):
        print(kept(f"{folder / stem}.*", f"they show more runs: {len(table.missing)} have no record here"))
        return []
    paths = write_tables(table, folder, stem)
    if not page:
        return paths
    html = page_of(
        title=table.title,
        caption=table.caption,
        table=table.shown,
        rows=pictures.rows,
        missing=table.missing,
        notes=[*table.notes, *pictures.notes],
        banners=pictures.banners,
        people=table.people,
    )
    gone = [*table.missing, *pictures.gone]
    if not replace and gone and pictures_in(place) > pictures_in(html):
        print(kept(str(place), f"it shows more pictures: those of {gone[0]} are not here"))
        return paths
    write_atomic(place, html)
    for row in pictures.rows:
        if row.key is not None:
            keep(folder, row.key, [Kept(picture.url, picture.recognised) for picture in row.pictures])
    return [*paths, place]


def write_tables(table: RenderedTable, folder: Path, stem: str) -> list[Path]:
    """Write ``<stem>.md`` and ``.tex`` of what is shown, ``.csv`` of the values; returns the paths. Raises
    ConfigError for LaTeX columns there are none of.
    """
    shown = table.shown
    aligned = tuple("left" if heading in WORDS else "right" for heading in shown)
    markdown = shown.map(inline).to_markdown(index=False, disable_numparse=True, colalign=aligned)
    files = {
        "md": "\n\n".join([markdown, inline(table.caption), *map(inline, table.notes)]) + "\n",
        "csv": csv_of(table.values),
        "tex": latex(
            shown,
            table.title,
            [_without_title(table), *table.notes],
            columns="".join(alignment[0] for alignment in aligned),
            label=stem,
            chosen=table.latex_columns,
        ),
    }
    for suffix, content in files.items():
        write_atomic(folder / f"{stem}.{suffix}", content)
    return [folder / f"{stem}.{suffix}" for suffix in files]


def _without_title(table: RenderedTable) -> str:
    """The caption as a note below a table that has its title above."""
    return table.caption.removeprefix(table.title).lstrip(".:, ")
