"""From the runs of a figure to its files: SVG, PDF, PNG, its numbers as CSV and its caption."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import matplotlib
import pandas as pd

from midre_exp.errors import ConfigError
from midre_exp.plan.config import build
from midre_exp.plan.publication import people_folder, shows_people
from midre_exp.records import results_folder
from midre_exp.records.text import csv_of, inline, read_csv
from midre_exp.report.definitions import FigureDefinition
from midre_exp.report.figures.style import LOOK, Plot, Rendered, saved
from midre_exp.report.output import file_stem, kept, shows_more
from midre_exp.report.runs.captions import alarms, circumstances, provenance
from midre_exp.report.runs.inconsistencies import INCONSISTENCIES
from midre_exp.report.runs.planned_runs import PlannedRun, diverged, unreadable
from midre_exp.report.runs.published import PublishedResult, table_rows
from midre_exp.store.files import write_atomic


def render_figure(
    definition: FigureDefinition,
    runs: Sequence[PlannedRun],
    *,
    other_data: bool,
    replace: bool = False,
) -> list[Path]:
    """Draw the figure, write its files under ``results/<scale>/``, print its caption; returns the paths.

    ``other_data``: the user chose the data, which then becomes part of the files' names; ``replace``: also
    files that show more. A figure that shows people lies in a folder of its own. Raises ConfigError when
    there is nothing to draw, and what the figure's kind raises.
    """
    published = [row for table in definition.published for row in table_rows(table)]
    if not published and all(run.record is None for run in runs):
        raise ConfigError(f"figure {definition.name} has no finished run yet; leave out --no-run to run it")
    settings = runs[-1].settings
    folder = results_folder(settings)
    stem = file_stem(definition.name, settings, with_data=other_data)
    plot = build(definition.draw, kind=Plot)
    if plot.shows_pictures and any(shows_people(run.settings) for run in runs):
        folder = people_folder(folder)
    with matplotlib.rc_context(LOOK):
        rendered = plot.draw(runs, published, cached_tables(folder, stem))
    text = [*caption(definition, rendered, str(settings["scale"])), *filter(None, [unreadable(runs)])]
    missing = [run.command for run in runs if run.record is None and run.diverged is None]
    outcomes = diverged(runs)
    print("\n" + "\n\n".join(text) + "\n")
    for line in [*(f"not run yet: {command}" for command in missing), *outcomes]:
        print(line)
    gone = [*missing, *rendered.gone]
    if not replace and gone and shows_more(folder / f"{stem}.csv", rendered.tables[""]):
        print(kept(f"{folder / stem}.*", f"the figure shows more: {gone[0]} is not here"))
        return []
    files: dict[str, bytes | str] = {
        f"{stem}.{kind}": content for kind, content in saved(rendered.figure).items()
    }
    for suffix, table in rendered.tables.items():
        files[f"{stem}{suffix}.csv"] = csv_of(table)
    files[f"{stem}.md"] = as_markdown(f"{stem}.png", definition.title, [*text, *outcomes], missing)
    for name, content in files.items():
        write_atomic(folder / name, content)
    print("written: " + ", ".join(str(folder / name) for name in files))
    return [folder / name for name in files]


def cached_tables(folder: Path, stem: str) -> dict[str, pd.DataFrame]:
    """The CSV tables of an earlier rendering by what follows ``stem`` in their names."""
    paths = [folder / f"{stem}.csv", *sorted(folder.glob(f"{stem}-*.csv"))]
    keys = {"target": str, "reconstructed": str}  # sixteen hexadecimal digits may look like a number
    exact = dict.fromkeys(("x", "y", "share_x", "share_y"), float)  # pandas may miss the last bit
    return {
        path.stem.removeprefix(stem): read_csv(path, text=keys, exact=exact)
        for path in paths
        if path.exists()
    }


def caption(definition: FigureDefinition, rendered: Rendered, scale: str) -> list[str]:
    """The caption, then what its kind, the paper's rows and the inconsistencies add, a paragraph each."""
    records = rendered.records
    parts = [
        f"{circumstances(definition.title, records)}. {provenance(records)}"
        if records
        else f"{definition.title}. Scale {scale}: no run has a record yet.",
        *rendered.notes,
        *alarms(records),
    ]
    if definition.published:
        comparable = (
            "."
            if scale == "paper"
            else ", for licensed data and full-size networks; at this scale compare directions, not values."
        )
        parts.append(f"Points named paper: as printed there{comparable}")
    mentioned = [as_sentence(row) for table in definition.mentioned for row in table_rows(table)]
    if mentioned:
        parts.append(f"Printed without the setup it belongs to, so not drawn: {'; '.join(mentioned)}.")
    if definition.inconsistencies:
        parts.append(" ".join(INCONSISTENCIES[number] for number in definition.inconsistencies))
    return parts


def as_sentence(row: PublishedResult) -> str:
    """A printed result in words, for a caption."""
    place, _, number = row.table.partition("_setup")
    share = "" if row.defense.share is None else f" with {100 * row.defense.share[0]:g} % erased"
    changes = [
        f"{change:+.2f} points of {name}"
        for name, change in (("accuracy", row.acc_change), ("attack accuracy", row.att_acc1_change))
        if change is not None
    ]
    results = ", ".join([*changes, *filter(None, [row.bound])])
    return f"{place.replace('fig', 'Fig. ')} Setup {number}{share} {results}"


def as_markdown(picture: str, title: str, text: Sequence[str], missing: Sequence[str]) -> str:
    """The caption with the picture above and the commands of missing runs below."""
    commands = ["Not run yet:\n\n" + "\n".join(f"    {command}" for command in missing)] if missing else []
    shown = inline(title).replace("[", "(").replace("]", ")")
    return "\n\n".join([f"![{shown}]({picture})", *map(inline, text), *commands]) + "\n"
