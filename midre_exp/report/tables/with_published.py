"""The paper's numbers beside ours: every planned row, a column "paper" next to each of our own, footnotes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from midre_exp.report.runs.inconsistencies import INCONSISTENCIES
from midre_exp.report.runs.planned_runs import NOT_RUN, PlannedRun
from midre_exp.report.runs.published import PublishedResult, recomputed
from midre_exp.report.tables.comparison import KEYS, rounded

#: The paper's columns: name in the CSV, heading, digits, our heading that it follows.
PAPER = (
    ("paper_acc", "paper Acc", 2, "Acc"),
    ("paper_att_acc1", "paper AttAcc", 2, "to"),
    ("paper_att_acc1_std", "paper ±", 2, "paper AttAcc"),
    ("paper_delta", "paper Δ", 2, "Δ"),
)
JOINED = (*(name for name, *_ in PAPER), "paper_delta_recomputed", "inconsistencies")


def with_missing_rows(table: pd.DataFrame | None, runs: Sequence[PlannedRun]) -> pd.DataFrame:
    """The comparison with a row for every planned one, in the order planned; numbers of rows without any
    record are missing.

    ``table`` is None when there is no record at all.
    """
    planned = pd.DataFrame([run.row for run in runs]).drop_duplicates(ignore_index=True)
    if table is None:
        empty = {"acc": np.nan, "att_acc1": np.nan, "n": pd.NA, "seeds": 0, "delta": None}
        return planned.assign(**empty)
    if len(table) == len(planned):
        return table
    whole = planned.merge(table, how="left", on=KEYS)
    return whole.assign(n=whole["n"].astype("Int64"), seeds=whole["seeds"].fillna(0).astype(int))


def mark_missing(shown: pd.DataFrame, table: pd.DataFrame, runs: Sequence[PlannedRun]) -> pd.DataFrame:
    """The printable table with its empty rows marked: as not run, or as diverged."""
    absences = {tuple(run.row.values()): run.absence for run in runs if run.diverged is not None}
    rows = table[KEYS].itertuples(index=False, name=None)
    return shown.assign(
        Acc=[
            text if seeds else absences.get(row, NOT_RUN)
            for text, seeds, row in zip(shown["Acc"], table["seeds"], rows, strict=True)
        ]
    )


def with_published(
    table: pd.DataFrame, runs: Sequence[PlannedRun], rows: Sequence[PublishedResult]
) -> pd.DataFrame:
    """The comparison with the paper's numbers joined by setup and defense.

    Adds ``paper_delta`` as printed, ``paper_delta_recomputed`` from the printed accuracies, and
    ``inconsistencies``, numbers joined by spaces.
    """
    published = {
        (row.setup, row.defense): _columns(row, delta)
        for row, delta in zip(rows, recomputed(rows), strict=True)
    }
    defenses = {(run.setup, run.label): run.defense for run in runs}
    joined = [
        published.get((setup, defenses[setup, label]), {})
        for setup, label in zip(table["setup"], table["defense"], strict=True)
    ]
    return table.assign(**{name: [columns.get(name) for columns in joined] for name in JOINED})


def _columns(row: PublishedResult, delta: float | str | None) -> dict[str, float | str | None]:
    return {
        "paper_acc": row.acc,
        "paper_att_acc1": row.att_acc1,
        "paper_att_acc1_std": row.att_acc1_std,
        "paper_delta": row.delta,
        "paper_delta_recomputed": delta,
        "inconsistencies": " ".join(map(str, row.inconsistencies)),
    }


def printable_with_published(shown: pd.DataFrame, table: pd.DataFrame) -> pd.DataFrame:
    """The printable table with the paper's columns (those the paper prints at all) and the letters of its
    footnotes.
    """
    shown = shown.copy()
    for name, heading, digits, after in PAPER:
        if table[name].notna().any():
            shown.insert(
                _place(shown, heading, after), heading, [rounded(value, digits) for value in table[name]]
            )
    letters = footnote_letters(table)
    if letters:
        shown["Notes"] = [
            " ".join(sorted(letters[int(number)] for number in str(numbers or "").split()))
            for numbers in table["inconsistencies"]
        ]
    return shown


def _place(shown: pd.DataFrame, heading: str, after: str) -> int:
    """After our heading; in a table without it beside our number of the same name; else at the end."""
    columns = list(shown.columns)
    for ours in (after, heading.removeprefix("paper ")):
        if ours in columns:
            return columns.index(ours) + 1
    return len(columns)


def footnote_letters(table: pd.DataFrame) -> dict[int, str]:
    """A letter for each inconsistency that a row of the table points to, in order of appearance."""
    numbers = [int(number) for text in table["inconsistencies"] for number in str(text or "").split()]
    return {number: chr(ord("a") + place) for place, number in enumerate(dict.fromkeys(numbers))}


def footnotes(table: pd.DataFrame, general: Sequence[int]) -> list[str]:
    """The texts behind the letters, then those of inconsistencies that concern the whole table."""
    letters = footnote_letters(table)
    marked = [f"{letter}: {INCONSISTENCIES[number]}" for number, letter in letters.items()]
    rest = [INCONSISTENCIES[number] for number in general if number not in letters]
    return [*marked, *([f"Of the whole table: {' '.join(rest)}"] if rest else [])]
