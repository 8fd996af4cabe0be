"""What suites of attacks say of the rows of a table: the columns ``worst case`` and ``by which attack``, and
footnotes on masked gradients and on defenses that only uninformed attackers were tried against.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import mean
from typing import Any

import pandas as pd

from midre_exp.defense import Defense
from midre_exp.errors import UserError
from midre_exp.plan.config import Settings, trusted_packages
from midre_exp.plan.spelling import attack_name
from midre_exp.plan.trust import named_class
from midre_exp.records import Record, record_files, try_record
from midre_exp.report.runs.planned_runs import PlannedRun
from midre_exp.report.tables.comparison import KEYS

#: Columns in the CSV: percent, the ends of its 95 % interval, the best single attack.
WORST = ("worst_case", "worst_case_low", "worst_case_high", "by_which_attack")
#: What a caption says of the columns.
EXPLAINED = (
    "worst case: of each identity the best that any attack of a suite made, in percent, with its 95 % "
    "interval over identities (an upper bound, for the evaluator chooses); by which attack: the best single "
    "one."
)
#: What a caption says of a table of suites.
EXPLAINED_SUITES = (
    "worst case: of each identity the best that any attack of the suite made (an upper bound, for the "
    "evaluator chooses); best single: the best attack for all identities; chosen by target: of each identity "
    "the attack whose result the target likes most, which an attacker can do; plain and informed: one attack "
    "by somebody who does not know the defense and by somebody who does, who asks 8 times the queries "
    "where the defense has it average over 8 copies (informed, equal queries: with an eighth of the steps); "
    "scores, labels: the best that sees no more."
)


def is_of_suite(record: Record) -> bool:
    """Whether a record is of a suite of attacks."""
    return "suite" in record


def suite_records(folder: Path) -> list[Record]:
    """The records of suites in a results folder."""
    files = [path for path in record_files(folder) if _may_be_of_suite(path)]
    return [record for record in map(try_record, files) if record is not None and is_of_suite(record)]


def _may_be_of_suite(path: Path) -> bool:
    try:
        return b'"suite"' in path.read_bytes()
    except OSError:
        return False


def suites_of_rows(
    records: Sequence[Record], suites: Sequence[Record]
) -> dict[tuple[str, ...], list[Record]]:
    """By the row of a comparison, the suites of its targets that have its attack as a member, one of each
    seed: of several suites the one with the higher worst case.
    """
    found: dict[tuple[str, ...], list[Record]] = {}
    rows: dict[tuple[str, ...], list[Record]] = {}
    for record in records:
        row: tuple[str, ...] = (
            record["setup"]["id"],
            record["attack"],
            record["target"],
            record["defense"]["label"],
        )
        rows.setdefault(row, []).append(record)
    for place, own in rows.items():
        judged = {_models(record) for record in own}
        by_suite: dict[str, list[Record]] = {}
        for suite in suites:
            members = [suite["attack"], *(str(m["attack"]) for m in suite["suite"]["members"].values())]
            if place[1] in members and suite["setup"]["id"] == place[0] and _models(suite) in judged:
                by_suite.setdefault(suite["attack"], []).append(suite)
        if by_suite:
            found[place] = max(by_suite.values(), key=_worst)
    return found


def _models(record: Record) -> tuple[str | None, str | None]:
    return record["artifacts"].get("target"), record["artifacts"].get("evaluator")


def _worst(suites: Sequence[Record]) -> float:
    return mean(suite["metrics"]["att_acc1"] for suite in suites)


def with_worst_case(table: pd.DataFrame, suites: Mapping[tuple[str, ...], list[Record]]) -> pd.DataFrame:
    """The comparison with the columns ``WORST``; as it is where there are no suites."""
    if not suites:
        return table
    rows = [_columns(suites.get(row)) for row in table[KEYS].itertuples(index=False, name=None)]
    return table.assign(**dict(zip(WORST, map(list, zip(*rows, strict=True)), strict=True)))


def _columns(suites: Sequence[Record] | None) -> tuple[float | None, float | None, float | None, str]:
    if not suites:
        return None, None, None, ""
    values = [
        mean(one["metrics"][name] for one in suites) for name in ("att_acc1", "att_acc1_low", "att_acc1_high")
    ]
    accuracies: dict[str, list[float]] = {}
    for suite in suites:
        for name, member in suite["suite"]["members"].items():
            if member["counts"]:
                accuracies.setdefault(name, []).append(float(member["att_acc1"]))
    best = max(accuracies, key=lambda name: mean(accuracies[name]))
    return values[0], values[1], values[2], f"{attack_name(best)} {mean(accuracies[best]):.1f}"


def printable_worst_case(table: pd.DataFrame) -> dict[str, list[str]]:
    """The columns as text, by their headings."""
    numbers = table[[*WORST[:3]]].itertuples(index=False, name=None)
    return {
        "worst case": [_interval(*row) for row in numbers],
        "by which attack": [str(text) for text in table[WORST[3]]],
    }


def _interval(value: float | None, low: float | None, high: float | None) -> str:
    return "" if value is None or pd.isna(value) else f"{value:.1f} [{low:.1f}, {high:.1f}]"


def remarks_of_suites(
    runs: Sequence[PlannedRun], suites: Mapping[tuple[str, ...], list[Record]]
) -> dict[tuple[str, ...], list[str]]:
    """By row, the alarms of its suites, and which part of its defense does not say what an attacker does who
    knows it.
    """
    found: dict[tuple[str, ...], list[str]] = {}
    for run in runs:
        row = tuple(run.row.values())
        own = found.setdefault(row, [])
        told = [
            f"suite {suite['attack']}: {sentence}"
            for suite in suites.get(row, ())
            if suite["attack"] != row[1]  # else it is among the row's own
            for sentence in suite.get("alarms", {}).get("suite", ())
        ]
        told += [
            f"{name} says nothing of an attacker who knows it (Defense.informed): only uninformed attackers "
            "were tried"
            for name in silent_parts(run.settings)
        ]
        own += [sentence for sentence in dict.fromkeys(told) if sentence not in own]
    return found


def silent_parts(settings: Settings) -> list[str]:
    """The parts of a run's defense whose class does not say what an attacker does who knows it."""
    found = []
    for name, node in settings["defense"].items():
        try:
            kind: Any = named_class(node["_target_"], Defense, trusted_packages(settings))
        except UserError:  # of a package that is not trusted here
            continue
        if kind.informed is Defense.informed:
            found.append(name)
    return found
