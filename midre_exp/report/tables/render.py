"""From the runs of a table to its files and what the terminal shows."""

from __future__ import annotations

import dataclasses
import shlex
from collections.abc import Sequence
from pathlib import Path

from midre_exp.errors import ConfigError
from midre_exp.records import results_folder
from midre_exp.references import citations, footnote
from midre_exp.report.definitions import TableDefinition
from midre_exp.report.output import file_stem
from midre_exp.report.runs.convergence import told_once, verdicts
from midre_exp.report.runs.planned_runs import PlannedRun, disambiguate, diverged, unreadable
from midre_exp.report.runs.published import table_rows
from midre_exp.report.tables.comparison import KEYS, caption, comparison, printable
from midre_exp.report.tables.convergence import keep_verdicts, render_convergence
from midre_exp.report.tables.diagnostics import render_diagnostics
from midre_exp.report.tables.gains import EXPLAINED, frontier_records, printable_gains, with_gain
from midre_exp.report.tables.html import gallery
from midre_exp.report.tables.leakage import render_traits
from midre_exp.report.tables.notes import remarks_of, with_remarks
from midre_exp.report.tables.people import people_of_run
from midre_exp.report.tables.publish import RenderedTable, publish
from midre_exp.report.tables.setups import render_setups
from midre_exp.report.tables.with_published import (
    footnotes,
    mark_missing,
    printable_with_published,
    with_missing_rows,
    with_official,
    with_published,
)
from midre_exp.report.tables.worst_case import EXPLAINED as EXPLAINED_WORST
from midre_exp.report.tables.worst_case import (
    EXPLAINED_SUITES,
    is_of_suite,
    printable_worst_case,
    remarks_of_suites,
    suite_records,
    suites_of_rows,
    with_worst_case,
)

#: What the reader of a table with the paper's numbers must know, by whether it is of the paper's own scale.
PAPER_COLUMNS = {
    True: "Columns named paper: as printed there.",
    False: "Columns named paper: as printed there, for licensed data and full-size networks; "
    "at this scale compare directions, not values.",
}
#: What the reader of official numbers beside ours must know.
OFFICIAL_COLUMNS = (
    "Columns named official: ours as the official programs would print it, which those named paper are like "
    "(footnotes)."
)


def render_table(
    definition: TableDefinition,
    runs: Sequence[PlannedRun],
    *,
    other_data: bool,
    replace: bool = False,
) -> list[Path]:
    """Print the table and write its files under ``results/<scale>/``; returns the paths.

    ``other_data``: the user chose the data, which then becomes part of the files' names; ``replace``: also
    files that show more. A page that shows people lies in a folder of its own. Raises ConfigError when no run
    has a record and there is nothing published to show.
    """
    settings = runs[-1].settings
    if definition.rows == "setups":
        table, named_by_data = render_setups(definition, runs), other_data
    elif definition.rows == "traits":
        table, named_by_data = render_traits(definition, runs), other_data
    elif definition.rows == "diagnostics":
        table, named_by_data = render_diagnostics(definition, runs), other_data
    elif definition.rows == "convergence":
        table, named_by_data = render_convergence(definition, runs), other_data
    else:
        table = render_defenses(definition, runs)
        named_by_data = other_data if definition.published else settings["data"]["name"] != "synthfaces"
    folder = results_folder(settings)
    stem = file_stem(definition.name, settings, with_data=named_by_data)
    if definition.rows == "run":
        recorded = [run for run in runs if run.record is not None and run.path is not None]
        if len(recorded) == 1 and recorded[0].record is not None and recorded[0].path is not None:
            stem = f"run-{recorded[0].path.stem}"
            table = dataclasses.replace(table, people=people_of_run(recorded[0].record))
    if definition.rows in ("defenses", "run") and definition.pictures:
        pictures = gallery([run for run in disambiguate(runs) if run.record is not None])
        table = dataclasses.replace(table, gallery=pictures)
    table = with_references(table, definition, runs)
    table = dataclasses.replace(table, latex_columns=definition.columns)
    paths = publish(table, folder, stem, replace=replace, page=definition.pictures)
    if paths and definition.rows == "convergence":
        name = stem if stem.startswith("convergence") else f"convergence-{stem}"
        paths.append(keep_verdicts(definition, runs, folder / f"{name}.json"))
    if table.missing and definition.rows == "setups":
        print(f"not run yet: {len(table.missing)} of {len(runs)} runs; the first: {table.missing[0]}")
    else:
        for command in table.missing:
            print(f"not run yet: {command}")
    for command in diverged(runs):
        print(command)
    if paths:
        print("written: " + ", ".join(map(str, paths)))
    return paths


def with_references(
    table: RenderedTable, definition: TableDefinition, runs: Sequence[PlannedRun]
) -> RenderedTable:
    """The table with a footnote that cites its attacks and defenses, and says which command prints BibTeX."""
    of_one = definition.rows == "run" and runs[0].job
    command = f"cite {shlex.join(runs[0].job)}" if of_one else f"report {definition.name} --cite"
    cited = [citation for run in runs for citation in citations(run.settings)]
    told = footnote(cited, f"midre-exp {command}")
    return table if told is None else dataclasses.replace(table, notes=[*table.notes, told])


def render_defenses(definition: TableDefinition, runs: Sequence[PlannedRun]) -> RenderedTable:
    """A table with a row for each defense. Raises ConfigError as ``render_table``."""
    runs = disambiguate(runs)
    records = [run.record for run in runs if run.record is not None]
    if not records and definition.published is None and all(run.diverged is None for run in runs):
        raise ConfigError(f"table {definition.name} has no finished run yet; leave out --no-run to run it")
    scale, folder = str(runs[-1].settings["scale"]), results_folder(runs[-1].settings)
    table = with_missing_rows(comparison(records, definition.metrics) if records else None, runs)
    text = (
        caption(definition.title, records)
        if records
        else f"{definition.title}. Scale {scale}: no run has a record yet."
    )
    notes: list[str] = []
    table = with_gain(table, records, frontier_records(folder, records))
    shown = mark_missing(printable(table, definition.metrics), table, runs)
    if "gain" in table:
        shown.insert(list(shown).index("Δ") + 1, "gain", printable_gains(table))
        text = f"{text} {EXPLAINED}"
    suites = suites_of_rows(records, suite_records(folder))
    table = with_worst_case(table, suites)
    whole = bool(records) and all(map(is_of_suite, records))
    if suites:
        found = printable_worst_case(table)
        shown = shown.assign(**({"by which attack": found["by which attack"]} if whole else found))
        text = f"{text} {EXPLAINED_SUITES if whole else EXPLAINED_WORST}"
    if whole:
        shown = shown.rename(columns={"AttAcc": "worst case"})
    if definition.published is not None:
        table, likenesses = with_official(table, runs, scale)
        table = with_published(table, runs, table_rows(definition.published))
        shown = printable_with_published(shown, table)
        official = [OFFICIAL_COLUMNS] if likenesses else []
        text = " ".join([text, *official, PAPER_COLUMNS[scale == "paper"]])
        notes = [*likenesses, *footnotes(table, definition.inconsistencies)]
    remarks, masked = remarks_of(runs), remarks_of_suites(runs, suites)
    rows = [
        [*remarks.get(row, []), *masked.get(row, [])]
        for row in table[KEYS].itertuples(index=False, name=None)
    ]
    shown, table, numbered = with_remarks(shown, table, rows)
    return RenderedTable(
        title=definition.title,
        values=table,
        shown=shown,
        caption=" ".join(filter(None, [text, told_once(records, verdicts(folder)), unreadable(runs)])),
        notes=[*numbered, *notes],
        missing=[run.command for run in runs if run.record is None and run.diverged is None],
    )
