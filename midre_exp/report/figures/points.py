"""The numbers of a figure: one row per defense of a setup from records, with 95 % intervals, and the paper's
rows in the same columns.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from midre_exp.report.claims.intervals import Arena, Numbers, Side, arenas
from midre_exp.report.figures.style import name_of
from midre_exp.report.runs.defense_names import Arm
from midre_exp.report.runs.planned_runs import Cell
from midre_exp.report.runs.published import Published

OURS = "this project"
METRICS = ("acc", "att_acc1")


def measured(cells: Sequence[Cell]) -> tuple[pd.DataFrame, list[Mapping[str, Any]]]:
    """Rows of everything run, seeds averaged, and the records they are made of.

    Columns: ``source``, ``setup``, ``attack``, ``target``, ``defense`` (our label), ``arm`` (the paper's
    name, an ``Arm``); ``acc`` and ``att_acc1`` in percent, each with ``_low`` and ``_high``;
    ``att_acc1_change`` in points against NoDef of the setup with its interval, missing without NoDef; ``n``
    reconstructions; ``seeds``. Intervals are those of ``evidence``, cut at 0 and 100.
    """
    found, _ = arenas([cell.record for cell in cells if cell.record is not None])
    rows = [_row(arena, side) for arena in found for side in arena.sides]
    records = [record for arena in found for side in arena.sides for record in side.records]
    order = {name: place for place, name in enumerate(dict.fromkeys(_setup(cell) for cell in cells))}
    rows.sort(key=lambda row: order[row["setup"]])
    return pd.DataFrame(rows, columns=COLUMNS), records


COLUMNS = [
    "source", "setup", "attack", "target", "defense", "arm",
    *(f"{metric}{end}" for metric in (*METRICS, "att_acc1_change") for end in ("", "_low", "_high")),
    "n", "seeds", "note",
]  # fmt: skip


def _row(arena: Arena, side: Side) -> dict[str, Any]:
    row: dict[str, Any] = {
        "source": OURS,
        "setup": arena.setup,
        "attack": arena.attack,
        "target": arena.target,
        "defense": side.label,
        "arm": side.arm,
        "n": sum(record["counts"]["reconstructions"] for record in side.records),
        "seeds": len(side.seeds),
        "note": "",
    }
    for metric in METRICS:
        low, high = np.clip(np.quantile(arena.draws(side, metric), [0.025, 0.975]), 0, 100)
        row |= {metric: side.mean(metric), f"{metric}_low": low, f"{metric}_high": high}
    undefended = arena.find()
    if undefended and side is not undefended[0]:
        base = undefended[0]
        drawn = arena.draws(side, "att_acc1") - arena.draws(base, "att_acc1")
        low, high = np.quantile(drawn, [0.025, 0.975])
        row["att_acc1_change"] = side.mean("att_acc1") - base.mean("att_acc1")
        row |= {"att_acc1_change_low": low, "att_acc1_change_high": high}
    return row


def from_paper(rows: Sequence[Published], setups: Sequence[str]) -> pd.DataFrame:
    """The paper's rows of these setups in the columns of ``measured``. A bound is in the note."""
    found = [
        {
            "source": f"paper, {place_of(row.table)}",
            "setup": row.setup,
            "defense": str(row.arm),
            "arm": row.arm,
            "acc": row.acc,
            "att_acc1": row.att_acc1,
            "att_acc1_change": row.att_acc1_change,
            "note": "; ".join(filter(None, [row.bound, row.note])),
        }
        for row in rows
        if row.setup in setups
    ]
    return pd.DataFrame(found, columns=COLUMNS)


def place_of(table: str) -> str:
    """``Table 1`` of ``table1``, ``Fig. 2 Setup 5`` of ``fig2_setup5``."""
    return table.replace("_setup", " Setup ").replace("table", "Table ").replace("fig", "Fig. ")


def as_csv(*parts: pd.DataFrame) -> pd.DataFrame:
    """All rows as they are written: the arm as its name and its share."""
    rows = [row for part in parts for row in part.to_dict("records")]
    table = pd.DataFrame(rows, columns=COLUMNS)
    shares = [arm.share or (None, None) for arm in table["arm"]]
    return table.assign(
        arm=[str(arm) for arm in table["arm"]],
        share_low=[low for low, _ in shares],
        share_high=[high for _, high in shares],
    )


def derived(paper: pd.DataFrame) -> list[str]:
    """What must be said of the paper's points that are not printed as such."""
    return [
        f"Paper, {row.setup} {row.arm}: {row.note}."
        for row in paper.itertuples()
        if "DERIVED" in row.note or "derived" in row.note
    ]


def panels_of(cells: Sequence[Cell]) -> dict[str, list[Cell]]:
    """The cells of each setup, in order."""
    found: dict[str, list[Cell]] = {}
    for cell in cells:
        found.setdefault(_setup(cell), []).append(cell)
    return found


def named(cells: Sequence[Cell]) -> str:
    """Who is attacked by what in the setup of these cells: the paper's words where the setup has them."""
    settings = cells[0].settings
    setup = settings["setup"]
    return f"{setup.get('attack', settings['attack']['name'])}, {setup.get('target', settings['target']['name'])}"


def not_run(cells: Sequence[Cell]) -> list[str]:
    """What has no record, in words for a panel."""
    names = list(dict.fromkeys(name_of(cell.arm) for cell in cells if cell.record is None))
    if all(cell.record is None for cell in cells):
        return ["nothing run yet"]
    return [f"not run: {names[0]}", *names[1:]] if names else []


def pick(table: pd.DataFrame, setup: str, arm: Arm | None = None) -> pd.DataFrame:
    """The rows of a setup, and of one defense of it."""
    rows = table[table["setup"] == setup]
    return rows if arm is None else keep(rows, lambda other: other == arm)


def keep(rows: pd.DataFrame, wanted: Callable[[Arm], bool]) -> pd.DataFrame:
    """The rows whose defense is wanted."""
    return rows[np.array([wanted(arm) for arm in rows["arm"]], dtype=bool)]


def bars_about(rows: pd.DataFrame, metric: str) -> Numbers:
    """Distances from the value to the ends of its interval, [2, n], never negative."""
    value, low, high = (rows[f"{metric}{end}"].to_numpy(dtype=float) for end in ("", "_low", "_high"))
    ends: Numbers = np.clip(np.stack([value - low, high - value]), 0, None)
    return ends


def _setup(cell: Cell) -> str:
    return str(cell.settings["setup"]["id"])
