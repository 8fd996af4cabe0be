"""The table ``convergence``: every arm after shorter and longer trainings, and whether its own was long
enough (``runs/convergence.py`` has the rule).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from midre_exp.errors import ConfigError
from midre_exp.plan.spelling import SPELLED, network_name
from midre_exp.records import Record
from midre_exp.report.claims.intervals import comparison_groups, is_measured
from midre_exp.report.definitions import TableDefinition
from midre_exp.report.runs.captions import circumstances, provenance
from midre_exp.report.runs.controls import about_controls
from midre_exp.report.runs.convergence import (
    CONVERGED,
    LONGER,
    NOT_CONVERGED,
    NOT_TESTED,
    fit_of,
    training_of,
)
from midre_exp.report.runs.planned_runs import PlannedRun, epochs_at, unreadable
from midre_exp.report.tables.comparison import rounded
from midre_exp.report.tables.publish import RenderedTable
from midre_exp.store.files import write_json

METRICS = ("acc", "att_acc1")
#: Columns: name in the CSV, heading, digits.
COLUMNS = (
    ("length", "length", 2),
    ("epochs", "epochs", 0),
    ("train_acc", "train acc", 2),
    ("acc", "Acc", 2),
    ("acc_low", "95 % from", 1),
    ("acc_high", "to", 1),
    ("att_acc1", "AttAcc", 2),
    ("att_acc1_low", "from", 1),
    ("att_acc1_high", "to ", 1),
)
#: An arm: setup, attack, target and the label of its defense.
Arm = tuple[str, str, str, str]


@dataclass(frozen=True)
class Point:
    """What one arm came to after one training."""

    length: float  # times the epochs of its recipe
    epochs: int
    records: tuple[Record, ...]  # one of each seed
    train_acc: float | None
    values: Mapping[str, float]  # of ``METRICS``
    intervals: Mapping[str, tuple[float, float]]


def points_of(runs: Sequence[PlannedRun], lengths: Sequence[float]) -> dict[Arm, list[Point]]:
    """The points of every arm in the order of their lengths; of runs without a record there is none."""
    found: dict[Arm, list[Point]] = {}
    for arm, by_epochs in _by_epochs(runs).items():
        own = _own_epochs(list(by_epochs), lengths)
        told = {epochs_at(length, own): length for length in lengths if length != 1} | {own: 1.0}
        found[arm] = [
            _point(told[epochs], epochs, records) for epochs, records in by_epochs.items() if records
        ]
    return found


def _by_epochs(runs: Sequence[PlannedRun]) -> dict[Arm, dict[int, list[Record]]]:
    """The measured records of every arm by the epochs of its recipe, in rising order."""
    found: dict[Arm, dict[int, list[Record]]] = {}
    for run in sorted(runs, key=lambda run: int(run.settings["target"]["recipe"]["epochs"])):
        row = run.row
        arm = (row["setup"], row["attack"], row["target"], row["defense"])
        epochs = int(run.settings["target"]["recipe"]["epochs"])
        records = found.setdefault(arm, {}).setdefault(epochs, [])
        if run.record is not None and is_measured(run.record):
            records.append(run.record)
    return found


def _own_epochs(seen: Sequence[int], lengths: Sequence[float]) -> int:
    """Of which epochs those that were ``seen`` are the lengths."""
    return next(own for own in sorted(seen) if {epochs_at(each, own) for each in lengths} == set(seen))


def _point(length: float, epochs: int, records: Sequence[Record]) -> Point:
    (group,), _ = comparison_groups(records)
    (defense,) = group.defenses
    intervals = {}
    for metric in METRICS:
        low, high = np.clip(np.quantile(group.draws(defense, metric), [0.025, 0.975]), 0, 100)
        intervals[metric] = (float(low), float(high))
    values = {metric: defense.mean(metric) for metric in METRICS}
    return Point(length, epochs, tuple(records), fit_of(records), values, intervals)


def verdict(points: Sequence[Point]) -> tuple[str, list[str]]:
    """Whether the training of length 1 was long enough, and which metrics say that it was not: those that the
    longer training moved out of the interval of the shorter.
    """
    own, longer = (
        next((point for point in points if point.length == length), None) for length in (1.0, LONGER)
    )
    if own is None or longer is None:
        return NOT_TESTED, []
    moved = [
        metric for metric, (low, high) in own.intervals.items() if not low <= longer.values[metric] <= high
    ]
    return (NOT_CONVERGED if moved else CONVERGED), moved


def render_convergence(definition: TableDefinition, runs: Sequence[PlannedRun]) -> RenderedTable:
    """The table, with a sentence for each network. Raises ConfigError when no run has a record."""
    records = [run.record for run in runs if run.record is not None]
    if not records:
        raise ConfigError(f"table {definition.name} has no finished run yet; leave out --no-run to run it")
    arms = points_of(runs, definition.lengths)
    values = pd.DataFrame([row for arm, points in arms.items() for row in _rows(arm, points)])
    caption = (
        f"{circumstances(definition.title, records)}. Length: times the epochs of the recipe, each a "
        "training of its own with a schedule of its own. Acc, train acc (on what the target was shown in its "
        "last epoch) and AttAcc in percent with 95 % intervals. A training of length 1 is long enough "
        f"({CONVERGED}) when that of length {LONGER:g} leaves both accuracies within its intervals. "
        f"{about_controls(records)}{provenance(records)}"
    )
    return RenderedTable(
        title=definition.title,
        values=values,
        shown=_printable(values),
        caption=" ".join(filter(None, [caption, unreadable(runs)])),
        notes=summary(arms),
        missing=[run.command for run in runs if run.record is None and run.diverged is None],
    )


def _rows(arm: Arm, points: Sequence[Point]) -> list[dict[str, Any]]:
    answer, moved = verdict(points)
    names = dict(zip(("setup", "attack", "target", "defense"), arm, strict=True))
    return [
        {
            **names,
            "length": point.length,
            "epochs": point.epochs,
            "train_acc": point.train_acc,
            **{
                f"{metric}{end}": value
                for metric in METRICS
                for end, value in zip(
                    ("", "_low", "_high"), (point.values[metric], *point.intervals[metric]), strict=True
                )
            },
            "seeds": len(point.records),
            "verdict": answer if point.length == 1 else "",
            "moved": " ".join(moved) if point.length == 1 else "",
        }
        for point in points
    ]


def _printable(values: pd.DataFrame) -> pd.DataFrame:
    shown = pd.DataFrame()
    for name in ("setup", "attack", "target"):
        if values[name].nunique() > 1:
            shown[name] = values[name].map(SPELLED.get(name, str))
    shown["Defense"] = values["defense"]
    for name, heading, digits in COLUMNS:
        shown[heading] = [rounded(value, digits) for value in values[name]]
    shown["verdict"] = values["verdict"]
    return shown


def summary(arms: Mapping[Arm, Sequence[Point]]) -> list[str]:
    """A sentence for each network: for how many of its arms the training is long enough, and for which it is
    not.
    """
    by_target: dict[str, dict[str, list[str]]] = {}
    for (_, _, target, defense), points in arms.items():
        by_target.setdefault(target, {}).setdefault(verdict(points)[0], []).append(defense)
    sentences = []
    for target, found in by_target.items():
        good, arms_of = found.get(CONVERGED, []), sum(map(len, found.values()))
        text = f"{network_name(target)}: long enough for {len(good)} of {arms_of} arms"
        for name in (NOT_CONVERGED, NOT_TESTED):
            if names := found.get(name):
                text += f"; {name}: {', '.join(dict.fromkeys(names))}"
        sentences.append(f"{text}.")
    return sentences


def keep_verdicts(definition: TableDefinition, runs: Sequence[PlannedRun], path: Path) -> Path:
    """Write what other tables and the claims ask for: the verdict on every training of length 1."""
    rows = []
    for (setup, attack, target, defense), points in points_of(runs, definition.lengths).items():
        answer, moved = verdict(points)
        for own in (point for point in points if point.length == 1):
            row = {"setup": setup, "attack": attack, "target": target, "defense": defense}
            training = training_of(own.records[0]["config"])
            rows.append(
                {**row, "epochs": own.epochs, "training": training, "verdict": answer, "moved": moved}
            )
    write_json(path, {"longer": LONGER, "trainings": rows})
    return path
