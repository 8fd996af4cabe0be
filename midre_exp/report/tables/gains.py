"""The column ``gain`` of comparisons: attack accuracy under the early-stopping frontier at equal accuracy."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from midre_exp.records import Record, record_files, try_record
from midre_exp.report.claims.frontier import gain_of
from midre_exp.report.claims.intervals import comparison_groups
from midre_exp.report.tables.comparison import KEYS

#: Columns in the CSV: points, the ends of its 95 % interval, where on the frontier the accuracy lies.
GAIN = ("gain", "gain_low", "gain_high", "gain_at")
#: What a caption says of the column.
EXPLAINED = (
    "gain: points of attack accuracy by which the row lies below the early-stopping frontier at its own "
    "accuracy, with the paired 95 % interval over identities and seeds; the frontier joins undefended "
    "targets stopped at several accuracies and NoDef by straight lines; above: more accurate than NoDef, "
    "whose own attack accuracy counts; below: less accurate than the whole frontier, not measured."
)


def frontier_records(folder: Path, known: Sequence[Record]) -> list[Record]:
    """The early-stopped runs of a results folder that are not among the records of a table."""
    keys = {record["key"] for record in known}
    files = [path for path in record_files(folder) if "-early_stopping-s" in path.name]
    return [r for r in map(try_record, files) if r is not None and r["key"] not in keys]


def with_gain(table: pd.DataFrame, records: Sequence[Record], stopped: Sequence[Record]) -> pd.DataFrame:
    """The comparison with the columns ``GAIN``; as it is where no group has a frontier."""
    found: dict[tuple[str, ...], tuple[float | None, float | None, float | None, str]] = {}
    for group in comparison_groups([*records, *stopped])[0]:
        for defense in group.defenses:
            gain = gain_of(group, defense)
            if gain is not None:
                low, high = gain.interval or (None, None)
                place = (group.setup, group.attack, group.target, defense.label)
                found[place] = (gain.value, low, high, gain.position)
    if not found:
        return table
    rows = [found.get(row, (None, None, None, "")) for row in table[KEYS].itertuples(index=False, name=None)]
    return table.assign(**dict(zip(GAIN, map(list, zip(*rows, strict=True)), strict=True)))


def printable_gains(table: pd.DataFrame) -> list[str]:
    """The column as text."""
    return [_text(*row) for row in table[[*GAIN]].itertuples(index=False, name=None)]


def _text(value: float | None, low: float | None, high: float | None, position: str) -> str:
    if value is None or pd.isna(value):
        return position if position == "below" else ""
    shown = f"{value:.1f} [{low:.1f}, {high:.1f}]"
    return f"{shown} above" if position == "above" else shown
