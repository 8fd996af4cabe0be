"""The paper's numbers beside ours: every planned row, a column "paper" next to each of our own, footnotes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from midre_exp.report.runs.defense_names import Arm
from midre_exp.report.runs.inconsistencies import INCONSISTENCIES
from midre_exp.report.runs.planned_runs import Cell
from midre_exp.report.runs.published import Published, recomputed

KEYS = ["setup", "attack", "target", "defense"]

#: What a cell says whose run has no record.
NOT_RUN = "not run"

#: The paper's columns: name in the CSV, heading, digits, our heading that it follows.
PAPER = (
    ("paper_acc", "paper Acc", 2, "Acc"),
    ("paper_att_acc1", "paper AttAcc", 2, "to"),
    ("paper_att_acc1_std", "paper ±", 2, "paper AttAcc"),
    ("paper_delta", "paper Δ", 2, "Δ"),
)


def complete(table: pd.DataFrame | None, cells: Sequence[Cell]) -> pd.DataFrame:
    """The comparison with a row for every planned one, in the order planned; numbers of rows without any
    record are missing.

    ``table`` is None when there is no record at all.
    """
    planned = pd.DataFrame([cell.place for cell in cells]).drop_duplicates(ignore_index=True)
    if table is None:
        empty = {"acc": np.nan, "att_acc1": np.nan, "n": pd.NA, "seeds": 0, "delta": None}
        return planned.assign(**empty)
    if len(table) == len(planned):
        return table
    whole = planned.merge(table, how="left", on=KEYS)
    return whole.assign(n=whole["n"].astype("Int64"), seeds=whole["seeds"].fillna(0).astype(int))


def mark_missing(shown: pd.DataFrame, table: pd.DataFrame) -> pd.DataFrame:
    """The printable table with its empty rows marked."""
    return shown.assign(
        Acc=[NOT_RUN if not seeds else text for text, seeds in zip(shown["Acc"], table["seeds"], strict=True)]
    )


def beside(table: pd.DataFrame, cells: Sequence[Cell], rows: Sequence[Published]) -> pd.DataFrame:
    """The comparison with the paper's numbers joined by setup and defense.

    Adds ``paper_delta`` as printed, ``paper_delta_recomputed`` from the printed accuracies, and
    ``inconsistencies``, numbers joined by spaces.
    """
    printed = {(row.setup, row.arm): (row, delta) for row, delta in zip(rows, recomputed(rows), strict=True)}
    arms: dict[tuple[str, str], Arm] = {(cell.place["setup"], cell.label): cell.arm for cell in cells}

    def numbers(place: tuple[str, str]) -> Mapping[str, Any]:
        row, delta = printed.get((place[0], arms[place]), (None, None))
        if row is None:
            return {}
        return {
            "paper_acc": row.acc,
            "paper_att_acc1": row.att_acc1,
            "paper_att_acc1_std": row.att_acc1_std,
            "paper_delta": row.delta,
            "paper_delta_recomputed": delta,
            "inconsistencies": " ".join(map(str, row.inconsistencies)),
        }

    names = [name for name, *_ in PAPER] + ["paper_delta_recomputed", "inconsistencies"]
    found = [numbers(place) for place in zip(table["setup"], table["defense"], strict=True)]
    return table.assign(**{name: [values.get(name) for values in found] for name in names})


def shown_beside(shown: pd.DataFrame, table: pd.DataFrame) -> pd.DataFrame:
    """The printable table with the paper's columns (those the paper prints at all) and the letters of its
    footnotes.
    """
    shown = shown.copy()
    for name, heading, digits, after in PAPER:
        if table[name].notna().any():
            place = list(shown.columns).index(after) + 1 if after in shown else _fallback(shown, heading)
            shown.insert(place, heading, [_number(value, digits) for value in table[name]])
    letters = footnote_letters(table)
    if letters:
        shown["Notes"] = [
            " ".join(sorted(letters[int(number)] for number in str(numbers or "").split()))
            for numbers in table["inconsistencies"]
        ]
    return shown


def _fallback(shown: pd.DataFrame, heading: str) -> int:
    """Beside our number of the same name, when a table has no interval; at the end when it has not even that."""
    columns = list(shown.columns)
    ours = heading.removeprefix("paper ")
    return columns.index(ours) + 1 if ours in columns else len(columns)


def _number(value: Any, digits: int) -> str:
    if isinstance(value, str):
        return value
    return "" if value is None or pd.isna(value) else f"{value:.{digits}f}"


def footnote_letters(table: pd.DataFrame) -> dict[int, str]:
    """A letter for each inconsistency that a row of the table points to, in order of appearance."""
    numbers = [int(number) for cell in table["inconsistencies"] for number in str(cell or "").split()]
    return {number: chr(ord("a") + place) for place, number in enumerate(dict.fromkeys(numbers))}


def footnotes(table: pd.DataFrame, general: Sequence[int]) -> list[str]:
    """The texts behind the letters, then those of inconsistencies that concern the whole table."""
    letters = footnote_letters(table)
    marked = [f"{letter}: {INCONSISTENCIES[number]}" for number, letter in letters.items()]
    rest = [INCONSISTENCIES[number] for number in general if number not in letters]
    return [*marked, *([f"Of the whole table: {' '.join(rest)}"] if rest else [])]
