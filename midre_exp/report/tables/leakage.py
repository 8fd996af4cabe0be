"""What reconstructions give away besides the evaluator's word, in tables: columns of open-set verification
and traits where runs have them, and the table of traits (``rows: traits``).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import mean
from typing import Any

import pandas as pd

from midre_exp.errors import ConfigError
from midre_exp.plan.spelling import SPELLED
from midre_exp.records import Record, results_folder
from midre_exp.records.schema import at
from midre_exp.report.definitions import TableDefinition
from midre_exp.report.runs.captions import circumstances, provenance
from midre_exp.report.runs.convergence import told_once, verdicts
from midre_exp.report.runs.planned_runs import PlannedRun, unreadable
from midre_exp.report.tables.notes import remarks_of
from midre_exp.report.tables.publish import RenderedTable

#: Columns of a comparison: metric of the record, heading, digits.
COLUMNS = (
    ("tar@0.01", "TAR@FAR 1e-2", 1),
    ("tar@0.001", "TAR@FAR 1e-3", 1),
    ("rank", "rank", 0),
    ("rank1", "rank 1", 1),
    ("traits_recovered", "traits", 0),
    ("traits_nearer", "nearer", 1),
)


def about(records: Sequence[Record]) -> str:
    """What the columns mean, sentences that end in a space; nothing where there are none."""
    verifiers = [at(record, "open_set.verifier") for record in records if "open_set" in record]
    readers = [record["traits"] for record in records if "traits" in record]
    told = []
    if verifiers:
        first, decoys = verifiers[0], _joined(verifier["held_out"] for verifier in verifiers)
        told.append(
            "TAR@FAR: percent accepted as their person by a verifier that was shown no private picture "
            f"(learnt from {first['identities']:,} {_people(first)}; equal error rate on people held out "
            f"{_joined(format(verifier['eer'], '.1f') for verifier in verifiers)} %), where that share of "
            f"photographs of people held out passes as somebody else{_others(records)}; rank: median place "
            f"of the person among {decoys} decoys, rank 1: percent in first place."
        )
    if readers:
        told.append(
            "Traits: how many traits the reconstructions recover of the "
            f"{_joined(reader['readable'] for reader in readers)} that a reader sees in photographs; nearer: "
            "percent of other people whose traits lie farther from what is read than the person's own (50: "
            "nothing is told)."
        )
    return "".join(f"{sentence} " for sentence in told)


def _others(records: Sequence[Record]) -> str:
    """How many reconstructions pass as another private person at FAR 1e-2, the control of that number."""
    found = [at(record, "open_set.tar") or {} for record in records]
    told = [rates["0.01"]["false_others"] for rates in found if "false_others" in rates.get("0.01", {})]
    if not told:
        return ""
    return (
        f" (at 1e-2, up to {max(told):.1f} % of a run's pairs of a reconstruction and another private person)"
    )


def _people(verifier: Mapping[str, Any]) -> str:
    return (
        "people of their own" if verifier["people"] == "of their own" else "public people, the attacker's too"
    )


def _joined(values: Any) -> str:
    return ", ".join(dict.fromkeys(map(str, values)))


# the table of traits


def render_traits(definition: TableDefinition, runs: Sequence[PlannedRun]) -> RenderedTable:
    """One row for each trait, one column for each arm. Raises ConfigError when no run has traits, or arms
    cannot be told apart.
    """
    records = [run.record for run in runs if run.record is not None]
    arms: dict[str, list[Record]] = {}
    for run in runs:
        if run.record is not None and "traits" in run.record:
            arms.setdefault(_arm(run, runs), []).append(run.record)
    if not arms:
        raise ConfigError(
            f"table {definition.name} has no finished run that read traits; its sweep needs traits=default, "
            "and leave out --no-run to run it"
        )
    folder = results_folder(runs[-1].settings)
    values = pd.DataFrame(_rows(arms))
    notes = [  # of whole columns
        f"{' '.join(arm)}: {sentence}" for arm, told in remarks_of(runs).items() for sentence in told
    ]
    text = (
        f"{circumstances(definition.title, records)}. Numbers: correlation over people of what is read off "
        "reconstructions with the truth; kinds: percent read rightly; both with 95 % intervals over people, "
        "* where permuting the people does as well in fewer than 5 % (Holm over readable traits). Reader: on "
        "photographs of people held out; photographs: of the private people; floor: everybody read as "
        "somebody else. Traits that the reader does not see in photographs are marked unreadable and count "
        f"in no total. {_totals(arms)} {provenance(records)}"
    )
    return RenderedTable(
        title=definition.title,
        values=values,
        shown=printable(values, list(arms)),
        caption=" ".join(filter(None, [text, told_once(records, verdicts(folder)), unreadable(runs)])),
        notes=notes,
        missing=[run.command for run in runs if run.record is None and run.diverged is None],
    )


def _totals(arms: Mapping[str, Sequence[Record]]) -> str:
    """What all traits come to, arm by arm; of several seeds their means."""
    told = []
    for arm, records in arms.items():
        blocks = [record["traits"] for record in records]
        recovered, tested = (mean(block[name] for block in blocks) for name in ("recovered", "tested"))
        known = [block["nearer"]["value"] for block in blocks if "nearer" in block]
        near = f", own traits nearer than another person's in {mean(known):.1f} %" if known else ""
        told.append(f"{arm}: {recovered:g} of {tested:g} recovered{near}")
    return f"{'; '.join(told)} (50 %: nothing is told)."


def _arm(run: PlannedRun, runs: Sequence[PlannedRun]) -> str:
    """What tells its runs from those of other columns."""
    varying = [name for name in ("setup", "attack", "target") if len({one.row[name] for one in runs}) > 1]
    return " ".join([*(SPELLED.get(name, str)(run.row[name]) for name in varying), run.label])


def _rows(arms: Mapping[str, Sequence[Record]]) -> list[dict[str, Any]]:
    """Readable traits first, in the order of the first record; means over seeds, intervals the widest of
    them.
    """
    first = next(iter(arms.values()))[0]["traits"]
    rows = []
    for trait in first["by_trait"]:
        told = {
            arm: [
                record["traits"]["by_trait"][trait]
                for record in records
                if trait in record["traits"]["by_trait"]
            ]
            for arm, records in arms.items()
        }
        every = [entry for entries in told.values() for entry in entries]
        row: dict[str, Any] = {
            "trait": trait,
            "kind": every[0]["kind"],
            "readable": every[0]["readable"],
            "reader": every[0]["reader"],
            "photographs": _mean(every, "photographs"),
            "floor": _mean(every, "floor"),
        }
        for arm, entries in told.items():
            row[arm] = _mean(entries, "value")
            row[f"{arm} low"] = min((entry["low"] for entry in entries if "low" in entry), default=None)
            row[f"{arm} high"] = max((entry["high"] for entry in entries if "high" in entry), default=None)
            row[f"{arm} recovered"] = sum(bool(entry.get("recovered")) for entry in entries)
            row[f"{arm} seeds"] = len(entries)
        rows.append(row)
    return sorted(rows, key=lambda row: not row["readable"])


def _mean(entries: Sequence[Mapping[str, Any]], name: str) -> float | None:
    values = [float(entry[name]) for entry in entries if name in entry]
    return mean(values) if values else None


def printable(values: pd.DataFrame, arms: Sequence[str]) -> pd.DataFrame:
    """With headings and rounded text."""
    shown = pd.DataFrame()
    shown["trait"] = [
        f"{trait}{'' if readable else ' (unreadable)'}"
        for trait, readable in zip(values["trait"], values["readable"], strict=True)
    ]
    digits = [2 if kind == "number" else 1 for kind in values["kind"]]
    shown["kind"] = values["kind"]
    for name in ("reader", "photographs", "floor"):
        shown[name] = [_rounded(v, d) for v, d in zip(values[name], digits, strict=True)]
    for arm in arms:
        shown[arm] = [
            _cell(*cells, digits=d)
            for *cells, d in zip(
                *(values[f"{arm}{end}"] for end in ("", " low", " high", " recovered", " seeds")),
                digits,
                strict=True,
            )
        ]
    return shown


def _cell(value: Any, low: Any, high: Any, recovered: int, seeds: int, *, digits: int) -> str:
    """A value with its interval; recovered in every seed: a star."""
    if value is None or pd.isna(value):
        return ""
    star = "*" if seeds and recovered == seeds else ""
    return f"{_rounded(value, digits)}{star} [{_rounded(low, digits)}, {_rounded(high, digits)}]"


def _rounded(value: Any, digits: int) -> str:
    return "" if value is None or pd.isna(value) else f"{value:.{digits}f}"
