"""A finished table on its way out: Markdown, CSV, LaTeX and an HTML page beside the records, and the
terminal.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd

from midre_exp.report.tables.html import PictureRow, write_page
from midre_exp.report.tables.latex import latex
from midre_exp.store.files import write_atomic

#: Columns of text; numbers are aligned to the right.
WORDS = ("setup", "attack", "target", "Defense", "Notes", "sees", "private", "public", "MIDRE", "certainty")


@dataclass(frozen=True)
class RenderedTable:
    """A table with everything that is published of it."""

    title: str
    values: pd.DataFrame  # unrounded, for the CSV
    shown: pd.DataFrame  # text, with headings
    caption: str
    notes: Sequence[str] = ()  # footnotes
    missing: Sequence[str] = ()  # commands of runs without a record
    pictures: Sequence[PictureRow] = field(default=())


def publish(table: RenderedTable, folder: Path, stem: str) -> list[Path]:
    """Write ``<stem>.md``, ``.csv``, ``.tex`` and ``.html`` and print the table; returns the paths."""
    page = folder / f"{stem}.html"
    paths = [*write_tables(table, folder, stem), page]
    write_page(
        page,
        title=table.title,
        caption=table.caption,
        table=table.shown,
        rows=table.pictures,
        missing=table.missing,
        notes=table.notes,
    )
    text = table.shown.to_markdown(index=False, disable_numparse=True, tablefmt="simple")
    print("\n" + "\n\n".join([text, table.caption, *table.notes]) + "\n")
    return paths


def write_tables(table: RenderedTable, folder: Path, stem: str) -> list[Path]:
    """Write ``<stem>.md`` and ``.tex`` (booktabs) of what is shown, ``.csv`` of the values; returns the
    paths.
    """
    shown = table.shown
    aligned = tuple("left" if heading in WORDS else "right" for heading in shown)
    markdown = shown.to_markdown(index=False, disable_numparse=True, colalign=aligned)
    files = {
        "md": "\n\n".join([markdown, table.caption, *table.notes]) + "\n",
        "csv": table.values.to_csv(index=False),
        "tex": latex(
            shown, table.caption, table.notes, columns="".join(alignment[0] for alignment in aligned)
        ),
    }
    for suffix, content in files.items():
        write_atomic(folder / f"{stem}.{suffix}", content)
    return [folder / f"{stem}.{suffix}" for suffix in files]
