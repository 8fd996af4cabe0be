"""The registry of setups as a table (Table 2 of the paper), with what a defense did in each of them at a
scale.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from statistics import mean
from typing import Any

import pandas as pd
from omegaconf import OmegaConf

from midre_exp.errors import ConfigError
from midre_exp.plan.config import CONF_DIR
from midre_exp.records import results_folder
from midre_exp.report.runs.inconsistencies import INCONSISTENCIES
from midre_exp.report.runs.planned_runs import Cell
from midre_exp.report.tables import comparison as tables
from midre_exp.report.tables import html as page
from midre_exp.report.tables.comparison import trade_off
from midre_exp.report.tables.definitions import Definition


def render_listing(definition: Definition, cells: Sequence[Cell], *, other_data: bool) -> list[Path]:
    """Print the listing and write its files under ``results/<scale>/``; returns the paths.

    ``other_data``: the user chose the data, which then becomes part of the files' names. Raises ConfigError
    when the runs of a setup are not one undefended and one defended.
    """
    settings = cells[-1].settings
    scale = str(settings["scale"])
    records = [cell.record for cell in cells if cell.record is not None]
    table = listing(cells)
    shown = printable(table)
    stem = f"{definition.name}-{settings['data']['name']}" if other_data else definition.name
    ran = (
        f"Acc and AttAcc in percent; Δ is attack accuracy removed per point of accuracy lost, OP where none was lost. "
        f"{tables.provenance(records)}"
        if records
        else "Nothing has been run yet."
    )
    text = (
        f"{definition.title}. Data and resolution are those the paper names, certainty says how sure it is that the paper has this "
        f"setup. Scale {scale}{', on synthetic faces' if scale != 'paper' else ''}. {ran}"
    )
    notes = [" ".join(INCONSISTENCIES[number] for number in definition.inconsistencies)]
    missing = [cell.command for cell in cells if cell.record is None]
    folder = results_folder(settings)
    written = tables.write_tables(folder, stem, table, shown, text, notes)
    html = folder / f"{stem}.html"
    page.write_page(
        html, title=definition.title, caption=text, table=shown, rows=[], missing=missing, notes=notes
    )
    print(
        f"\n{shown.to_markdown(index=False, disable_numparse=True, tablefmt='simple')}\n\n{text}\n\n{notes[0]}\n"
    )
    if missing:
        print(f"not run yet: {len(missing)} of {len(cells)} runs; the first: {missing[0]}")
    print("written: " + ", ".join(str(path) for path in [*written, html]))
    return [*written, html]


def listing(cells: Sequence[Cell]) -> pd.DataFrame:
    """One row for each setup, in the order of the cells: the paper's description, and the means over seeds
    undefended and defended.

    Raises ConfigError when the runs of a setup differ in more than the seed and whether they are defended.
    """
    setups: dict[str, list[Cell]] = {}
    for cell in cells:
        setups.setdefault(str(cell.settings["setup"]["id"]), []).append(cell)
    return pd.DataFrame([_row(runs) for runs in setups.values()])


def _row(cells: Sequence[Cell]) -> dict[str, Any]:
    setup = cells[0].settings["setup"]
    published = OmegaConf.load(CONF_DIR / "setup" / f"{setup['id']}.yaml")  # before a scale reduced it
    undefended = [cell for cell in cells if not cell.arm.names]
    defended = [cell for cell in cells if cell.arm.names]
    for side in (undefended, defended):
        seeds = [cell.settings["seed"] for cell in side]
        if len({cell.label for cell in side}) > 1 or len(set(seeds)) < len(seeds):
            raise ConfigError(
                f"setup {setup['id']} has several runs per seed; a table with rows: setups takes one undefended and one defended run, "
                "so let only seed= be swept"
            )
    row = {
        "setup": setup["id"],
        "attack": setup["attack"],
        "sees": setup["attack_type"],
        "target": setup["target"],
        "private": setup["private"],
        "public": setup["public"],
        "px": published.resolution,
        "MIDRE": " ".join(f"[{low:g}, {high:g}]" for low, high in setup["midre_ranges"]),
        "runs": sum(cell.record is not None for cell in cells),
        **_means(undefended, ""),
        **_means(defended, "_defended"),
    }
    if None not in (row["acc"], row["acc_defended"]):
        row["delta"] = trade_off(row["acc_defended"], row["att_acc1_defended"], row["acc"], row["att_acc1"])
    return {**row, "certainty": setup["certainty"]}


def _means(cells: Sequence[Cell], ending: str) -> dict[str, float | None]:
    metrics = [cell.record["metrics"] for cell in cells if cell.record is not None]
    return {
        f"{name}{ending}": mean(found[name] for found in metrics) if metrics else None
        for name in ("acc", "att_acc1")
    }


def printable(table: pd.DataFrame) -> pd.DataFrame:
    """The listing with headings and rounded text; what was not run is empty."""
    shown = table[["setup", "attack", "sees", "target", "private", "public", "px", "MIDRE"]].copy()
    headings = {
        "acc": "Acc",
        "att_acc1": "AttAcc",
        "acc_defended": "Acc defended",
        "att_acc1_defended": "AttAcc defended",
        "delta": "Δ",
    }
    for name, heading in headings.items():
        if name in table:
            shown[heading] = [tables.rounded(value, 2) for value in table[name]]
    shown["runs"], shown["certainty"] = table["runs"], table["certainty"]
    return shown.astype(str)
