"""Columns of judges outside of the runs: what people and multimodal models say of the reconstructions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from midre_exp.records import Record
from midre_exp.records.verdicts import PEOPLE, verdicts_of

_PREFIX = "said_same_"


def judges_of(table: pd.DataFrame) -> list[str]:
    """The columns of a table that are such judges', people first."""
    return sorted((name for name in table if str(name).startswith(_PREFIX)), key=_people_first)


def heading_of(name: str) -> str:
    """The heading of such a column."""
    return f"same: {name.removeprefix(_PREFIX)}"


def about_judges(records: Sequence[Record]) -> str:
    """What a reader must know of these columns, sentences that end in a space; nothing without any."""
    judges: dict[str, list[Mapping[str, Any]]] = {}
    for record in records:
        for name, verdict in verdicts_of(record):
            judges.setdefault(name, []).append(verdict)
    if not judges:
        return ""
    told = "; ".join(_told(name, judges[name]) for name in sorted(judges, key=_people_first))
    return f"same: percent of the pictures that a judge takes for the person on photographs, {told}. "


def _people_first(name: str) -> tuple[bool, str]:
    bare = name.removeprefix(_PREFIX)
    return bare != PEOPLE, bare


def _told(name: str, verdicts: Sequence[Mapping[str, Any]]) -> str:
    """One judge: raters and their agreement, then the rates of its controls."""
    parts = []
    if raters := _range(verdicts, "raters", "{:.0f}"):
        kappa = _range(verdicts, "kappa", "{:.2f}")
        parts.append(f"{raters} raters, {f'kappa {kappa}' if kappa else 'no kappa'}")
    words = {
        "same": "of further photographs of the person",
        "other": "of somebody else's",
        "crossed": "of somebody else's reconstructions",
    }
    found = [verdict["controls"] for verdict in verdicts]
    controls = [
        f"{rate} % {text}"
        for kind, text in words.items()
        if (rate := _range([c[kind] for c in found if c.get(kind)], "said_same", "{:.0f}"))
    ]
    parts.append(f"yes to {', '.join(controls)}" if controls else "no controls were asked")
    return f"{name} ({'; '.join(parts)})"


def _range(values: Sequence[Mapping[str, Any]], name: str, form: str) -> str:
    """The value of a name in several verdicts, or from the least to the largest; nothing if none has it."""
    known = sorted(value[name] for value in values if isinstance(value.get(name), (int, float)))
    ends = dict.fromkeys(form.format(value) for value in (known[:1] + known[-1:]))
    return " to ".join(ends)
