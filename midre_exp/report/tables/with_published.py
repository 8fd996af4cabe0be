"""The paper's numbers beside ours: every planned row, a column "paper" next to each of our own and, where
official programs print another number than ours, a column "official" between the two; footnotes.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from midre_exp.records import Record
from midre_exp.report.runs.as_published import (
    NOT_MEASURED,
    explained,
    is_told,
    like_published,
    official_value,
)
from midre_exp.report.runs.inconsistencies import INCONSISTENCIES
from midre_exp.report.runs.planned_runs import NOT_RUN, PlannedRun
from midre_exp.report.runs.published import PublishedResult, recomputed
from midre_exp.report.runs.trade_off import trade_off
from midre_exp.report.tables.comparison import KEYS, rounded

#: The paper's columns: name in the CSV, heading, digits, our heading that it follows.
PAPER = (
    ("paper_acc", "paper Acc", 2, "Acc"),
    ("paper_att_acc1", "paper AttAcc", 2, "to"),
    ("paper_att_acc1_std", "paper ±", 2, "paper AttAcc"),
    ("paper_delta", "paper Δ", 2, "Δ"),
)
#: Columns of what the paper's are like: name in the CSV, heading.
OFFICIAL = {
    "acc": ("acc_official", "official Acc"),
    "att_acc1": ("att_acc1_official", "official AttAcc"),
    "delta": ("delta_official", "official Δ"),
}
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


def with_official(
    table: pd.DataFrame, runs: Sequence[PlannedRun], scale: str
) -> tuple[pd.DataFrame, list[str]]:
    """The comparison with what the paper's numbers are like (``as_published``), and a footnote for each kind;
    as it is where our own are like them, and at a reduced scale whose records have no other.

    ``acc_official`` and ``att_acc1_official`` are numbers, ours where the official program prints the same,
    or ``not measured``; ``delta_official`` follows from them.
    """
    settings = [run.settings for run in runs]
    if not is_told(settings, [run.record for run in runs if run.record is not None], scale):
        return table, []
    by_row: dict[tuple[str, ...], list[PlannedRun]] = {}
    for run in runs:
        by_row.setdefault(tuple(run.row.values()), []).append(run)
    rows = list(table[KEYS].itertuples(index=False, name=None))
    found = {
        metric: [_official(by_row.get(row, []), metric) for row in rows]
        for metric in ("acc", "att_acc1")
        if any(like_published(config, metric) for config in settings)
    }
    own = {m: list(table[m]) if m in table else [None] * len(rows) for m in ("acc", "att_acc1")}
    pairs = list(zip(*(found.get(metric, values) for metric, values in own.items()), strict=True))
    undefended = {
        (setup, attack, target): pair
        for (setup, attack, target, defense), pair in zip(rows, pairs, strict=True)
        if defense == "NoDef"
    }
    found["delta"] = [
        None if row[-1] == "NoDef" else _delta(pair, undefended.get((row[0], row[1], row[2])))
        for row, pair in zip(rows, pairs, strict=True)
    ]
    columns = {OFFICIAL[metric][0]: values for metric, values in found.items()}
    headings = {metric: OFFICIAL[metric][1] for metric in ("acc", "att_acc1")}
    return table.assign(**columns), explained(settings, headings)


def _official(runs: Sequence[PlannedRun], metric: str) -> float | str | None:
    records: list[Record] = [run.record for run in runs if run.record is not None]
    if not records:
        return None
    value = official_value(records, metric)
    return NOT_MEASURED if value is None else value


def _delta(own: Sequence[object], base: Sequence[object] | None) -> float | str | None:
    numbers = [value for value in (*own, *(base or ())) if isinstance(value, float) and not np.isnan(value)]
    return trade_off(*numbers) if len(numbers) == 4 else None


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
    for name, heading in OFFICIAL.values():
        if name in table:
            place = _before(shown, heading)
            shown.insert(place, heading, [rounded(value, 2) for value in table[name]])
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


def _before(shown: pd.DataFrame, heading: str) -> int:
    """Before the paper's number of the same name; else after ours."""
    columns, own = list(shown.columns), heading.removeprefix("official ")
    return columns.index(f"paper {own}") if f"paper {own}" in columns else columns.index(own) + 1


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
