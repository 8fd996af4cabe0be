"""From the cells of a table to its files and what the terminal shows."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from midre_exp.errors import ConfigError
from midre_exp.records import results_folder
from midre_exp.report.runs.planned_runs import Cell, told_apart
from midre_exp.report.runs.published import table_rows
from midre_exp.report.tables import comparison as tables
from midre_exp.report.tables import html as page
from midre_exp.report.tables.definitions import Definition
from midre_exp.report.tables.with_paper import beside, complete, footnotes, mark_missing, shown_beside

#: What the reader of a table with the paper's numbers must know, by whether it is of the paper's own scale.
PAPER_COLUMNS = {
    True: "Columns named paper: as printed there.",
    False: "Columns named paper: as printed there, for licensed data and full-size networks; at this scale compare directions, not values.",
}


def render(definition: Definition, cells: Sequence[Cell], *, other_data: bool) -> list[Path]:
    """Print the table and write its files under ``results/<scale>/``; returns the paths.

    ``other_data``: the user chose the data, which then becomes part of the files' names. Raises ConfigError
    when no run has a record and there is nothing published to show.
    """
    cells = told_apart(cells)
    records = [cell.record for cell in cells if cell.record is not None]
    if not records and definition.published is None:
        raise ConfigError(f"table {definition.name} has no finished run yet; leave out --no-run to run it")
    missing = [cell.command for cell in cells if cell.record is None]
    settings = cells[-1].settings
    scale, data = str(settings["scale"]), str(settings["data"]["name"])
    named_by_data = other_data if definition.published else data != "synthfaces"
    stem = f"{definition.name}-{data}" if named_by_data else definition.name

    table = complete(tables.comparison(records) if records else None, cells)
    text = (
        tables.caption(definition.title, records)
        if records
        else f"{definition.title}. Scale {scale}: nothing has been run yet."
    )
    notes: list[str] = []
    if definition.published is None:
        shown = mark_missing(tables.printable(table), table)
    else:
        table = beside(table, cells, table_rows(definition.published))
        shown = shown_beside(mark_missing(tables.printable(table), table), table)
        text = f"{text} {PAPER_COLUMNS[scale == 'paper']}"
        notes = footnotes(table, definition.inconsistencies)

    folder = results_folder(settings)
    written = tables.write_tables(folder, stem, table, shown, text, notes)
    html = folder / f"{stem}.html"
    page.write_page(
        html,
        title=definition.title,
        caption=text,
        table=shown,
        rows=page.gallery(records),
        missing=missing,
        notes=notes,
    )
    print(f"\n{shown.to_markdown(index=False, disable_numparse=True, tablefmt='simple')}\n\n{text}\n")
    for note in notes:
        print(f"{note}\n")
    for command in missing:
        print(f"not run yet: {command}")
    print("written: " + ", ".join(str(path) for path in [*written, html]))
    return [*written, html]
