"""The numbers of a figure: one row per defense of a setup from records, with 95 % intervals, and the paper's
rows in the same columns.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pandas as pd

from midre_exp.plan.spelling import attack_name, network_name
from midre_exp.records import Record
from midre_exp.report.claims.intervals import (
    ComparisonGroup,
    DefenseRuns,
    Numbers,
    comparison_groups,
    is_measured,
)
from midre_exp.report.runs.as_published import explained, is_told, like_published, official_value
from midre_exp.report.runs.defense_names import DefenseName, display_name
from midre_exp.report.runs.planned_runs import NOT_RUN, PlannedRun
from midre_exp.report.runs.published import PublishedResult

OURS = "this project"
METRICS = ("acc", "att_acc1")
COLUMNS = [
    "source",
    "setup",
    "attack",
    "target",
    "defense",
    "name",
    *(f"{metric}{end}" for metric in (*METRICS, "att_acc1_change") for end in ("", "_low", "_high")),
    "n",
    "seeds",
    "note",
]
#: What the paper's points are like where our own differ on purpose; only in figures that have some.
OFFICIAL = ("acc_official", "att_acc1_official", "att_acc1_change_official")  # fmt: skip


def measured(runs: Sequence[PlannedRun]) -> tuple[pd.DataFrame, list[Record]]:
    """Rows of everything run, seeds averaged, and the records they are made of.

    Columns: ``source``, ``setup``, ``attack``, ``target``, ``defense`` (our label), ``name`` (the paper's, a
    ``DefenseName``); ``acc`` and ``att_acc1`` in percent, each with ``_low`` and ``_high``;
    ``att_acc1_change`` in points against NoDef of the setup with its interval, missing without NoDef; ``n``
    reconstructions; ``seeds``. Intervals are those of claims/intervals.py, cut at 0 and 100.
    """
    groups, _ = comparison_groups([run.record for run in runs if run.record is not None])
    rows = [_row(group, defense) for group in groups for defense in group.defenses]
    records = [record for group in groups for defense in group.defenses for record in defense.records]
    order = {setup: place for place, setup in enumerate(dict.fromkeys(run.setup for run in runs))}
    rows.sort(key=lambda row: order[row["setup"]])
    table = pd.DataFrame(rows, columns=[*COLUMNS, *OFFICIAL])
    return table.astype(dict.fromkeys(OFFICIAL, float)), records


def _row(group: ComparisonGroup, defense: DefenseRuns) -> dict[str, Any]:
    row: dict[str, Any] = {
        "source": OURS,
        "setup": group.setup,
        "attack": group.attack,
        "target": group.target,
        "defense": defense.label,
        "name": defense.name,
        "n": sum(record["counts"]["reconstructions"] for record in defense.records),
        "seeds": len(defense.seeds),
        "note": "",
    }
    configs = [record["config"] for record in defense.records]
    for metric in METRICS:
        if any(like_published(config, metric) for config in configs):
            row[f"{metric}_official"] = official_value(defense.records, metric)
        low, high = np.clip(np.quantile(group.draws(defense, metric), [0.025, 0.975]), 0, 100)
        row |= {metric: defense.mean(metric), f"{metric}_low": low, f"{metric}_high": high}
    undefended = group.with_defense()
    if undefended and defense is not undefended[0]:
        base = undefended[0]
        change = group.draws(defense, "att_acc1") - group.draws(base, "att_acc1")
        low, high = np.quantile(change, [0.025, 0.975])
        row["att_acc1_change"] = defense.mean("att_acc1") - base.mean("att_acc1")
        row |= {"att_acc1_change_low": low, "att_acc1_change_high": high}
        before, after = (official_value(each.records, "att_acc1") for each in (base, defense))
        if row.get("att_acc1_official") is not None and before is not None and after is not None:
            row["att_acc1_change_official"] = after - before
    return row


def likenesses(runs: Sequence[PlannedRun], ours: pd.DataFrame, scale: str, drawn: Sequence[str]) -> list[str]:
    """What must be said of a figure with the paper's points where those are like other numbers than ours: of
    which, and where these were not measured. ``drawn``: the metrics whose official numbers it draws.
    """
    records = [run.record for run in runs if run.record is not None]
    if not records or not is_told([run.settings for run in runs], records, scale):
        return []
    headings = {"acc": "Official accuracy", "att_acc1": "Official attack accuracy"}
    told = explained([record["config"] for record in records], {m: headings[m] for m in drawn})
    lacking = [
        str(record["setup"]["id"])
        for record in records
        for metric in drawn
        if like_published(record["config"], metric) and official_value([record], metric) is None
    ]
    marks = ["Crosses: ours as the official programs would print it, which the paper's are like."]
    gone = [f"It was not measured in {', '.join(dict.fromkeys(lacking))}."] if lacking else []
    return [" ".join([*(marks if has_official(ours) else []), *told, *gone])] if told else []


def has_official(ours: pd.DataFrame) -> bool:
    """Whether there is a number as an official program would print it that differs from ours on purpose."""
    return bool(ours[list(OFFICIAL)].notna().any().any())


def from_paper(rows: Sequence[PublishedResult], setups: Sequence[str]) -> pd.DataFrame:
    """The paper's rows of these setups in the columns of ``measured``. A bound is in the note."""
    points = [
        {
            "source": f"paper, {place_of(row.table)}",
            "setup": row.setup,
            "defense": str(row.defense),
            "name": row.defense,
            "acc": row.acc,
            "att_acc1": row.att_acc1,
            "att_acc1_change": row.att_acc1_change,
            "note": "; ".join(filter(None, [row.bound, row.note])),
        }
        for row in rows
        if row.setup in setups
    ]
    return pd.DataFrame(points, columns=COLUMNS)


def place_of(table: str) -> str:
    """``Table 1`` of ``table1``, ``Fig. 2 Setup 5`` of ``fig2_setup5``."""
    return table.replace("_setup", " Setup ").replace("table", "Table ").replace("fig", "Fig. ")


def as_csv(*parts: pd.DataFrame) -> pd.DataFrame:
    """All rows as they are written: the paper's name in the column ``arm``, its share in two."""
    rows = [row for part in parts for row in part.to_dict("records")]
    official = [name for name in OFFICIAL if any(name in part and part[name].notna().any() for part in parts)]
    table = pd.DataFrame(rows, columns=[*COLUMNS, *official])
    shares = [name.share or (None, None) for name in table["name"]]
    return table.assign(
        name=[str(name) for name in table["name"]],
        share_low=[low for low, _ in shares],
        share_high=[high for _, high in shares],
    ).rename(columns={"name": "arm"})


def derived(paper: pd.DataFrame) -> list[str]:
    """What must be said of the paper's points that are not printed as such."""
    return [
        f"Paper, {row['setup']} {row['name']}: {row['note']}."
        for row in paper.to_dict("records")
        if "DERIVED" in row["note"] or "derived" in row["note"]
    ]


def by_setup(runs: Sequence[PlannedRun]) -> dict[str, list[PlannedRun]]:
    """The runs of each setup, in order: a panel each."""
    panels: dict[str, list[PlannedRun]] = {}
    for run in runs:
        panels.setdefault(run.setup, []).append(run)
    return panels


def attack_and_target(runs: Sequence[PlannedRun]) -> str:
    """What is attacked by what in the setup of these runs: the paper's words where the setup has them."""
    settings = runs[0].settings
    setup = settings["setup"]
    attack = attack_name(setup.get("attack", settings["attack"]["name"]))
    return f"{attack}, {network_name(setup.get('target', settings['target']['name']))}"


def not_run(runs: Sequence[PlannedRun]) -> list[str]:
    """What has no numbers and why, in words for a panel."""
    names: dict[str, list[str]] = {}
    for run in runs:
        if why := absence(run):
            names.setdefault(why, []).append(display_name(run.defense))
    if names.keys() == {NOT_RUN} and all(run.record is None for run in runs):
        return ["nothing run yet"]
    return [
        text
        for why, given in names.items()
        for first, *others in [list(dict.fromkeys(given))]
        for text in (f"{why}: {first}", *others)
    ]


def absence(run: PlannedRun) -> str:
    """Why a run has no numbers; empty where it has."""
    if run.record is None:
        return run.absence
    return "" if is_measured(run.record) else "not measured"


def select(table: pd.DataFrame, setup: str, defense: DefenseName | None = None) -> pd.DataFrame:
    """The rows of a setup, and of one defense of it."""
    rows = table[table["setup"] == setup]
    return rows if defense is None else filter_defenses(rows, lambda other: other == defense)


def filter_defenses(rows: pd.DataFrame, wanted: Callable[[DefenseName], bool]) -> pd.DataFrame:
    """The rows whose defense is wanted."""
    return rows[np.array([wanted(name) for name in rows["name"]], dtype=bool)]


def error_bars(rows: pd.DataFrame, metric: str) -> Numbers:
    """Distances from the value to the ends of its interval, [2, n], never negative."""
    value, low, high = (rows[f"{metric}{end}"].to_numpy(dtype=float) for end in ("", "_low", "_high"))
    ends: Numbers = np.clip(np.stack([value - low, high - value]), 0, None)
    return ends
