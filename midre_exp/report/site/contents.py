"""What lies in a results folder beside its records: tables, figures and answers to claims, as they were
rendered from the records there.
"""

from __future__ import annotations

import csv
import html
import json
import logging
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from midre_exp.plan.spelling import with_names
from midre_exp.records import Record
from midre_exp.report.definitions import definitions, load_definition
from midre_exp.report.runs.folders import FoundRecord, ResultsFolder

#: Files of a table or figure that are handed on as they are: nothing that a browser would carry out.
FILES = (".png", ".pdf", ".csv", ".tex")
#: What a table's CSV says of a row that its records say too.
_ROW = ("setup", "attack", "target", "defense")
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Exhibit:
    """A table or a figure."""

    kind: str  # table | figure
    name: str
    title: str
    folder: ResultsFolder
    headings: Sequence[str]  # of a table as it was shown
    lines: Sequence[Sequence[str]]
    text: Sequence[str]  # caption and notes, a paragraph each
    files: Sequence[Path]
    records: Sequence[FoundRecord]  # those of its rows

    @property
    def picture(self) -> str | None:
        """The name of its picture."""
        return next((path.name for path in self.files if path.suffix == ".png"), None)


@dataclass(frozen=True)
class Case:
    """One comparison behind the answer to a claim."""

    told: Mapping[str, Any]
    records: Sequence[FoundRecord]


@dataclass(frozen=True)
class Answer:
    """A claim as it was answered."""

    told: Mapping[str, Any]
    cases: Sequence[Case]
    bar: Mapping[str, Any] | None  # its effect as a bar of the forest plot


@dataclass(frozen=True)
class Answers:
    """The claims of a folder."""

    folder: ResultsFolder
    caption: str
    claims: Sequence[Answer]

    @property
    def counts(self) -> list[tuple[str, Counter[str]]]:
        """How many claims were answered how, those registered for the scale before the others."""
        kinds = {True: "registered", False: "others" if self._any_registered else "none registered"}
        found = {
            word: Counter(
                one.told["answer"] for one in self.claims if one.told["is_registered"] is registered
            )
            for registered, word in kinds.items()
        }
        return [(word, counts) for word, counts in found.items() if counts]

    @property
    def _any_registered(self) -> bool:
        return any(one.told["is_registered"] for one in self.claims)


def exhibits_of(folder: ResultsFolder, found: Sequence[FoundRecord]) -> list[Exhibit]:
    """The tables and figures of a folder that have a definition, those of other data (``NAME-DATA``) too."""
    own = [one for one in found if one.folder == folder]
    shown = []
    for kind in ("table", "figure"):
        for name in definitions(kind):
            title = load_definition(name).title
            for path in sorted({folder.path / f"{name}.md", *folder.path.glob(f"{name}-*.md")}):
                if path.is_file():
                    shown.append(_exhibit(kind, path, title, folder, own))
    forest = folder.path / "forest.md"
    if forest.is_file():
        shown.append(_exhibit("figure", forest, "Effects behind the claims", folder, []))
    return shown


def _exhibit(
    kind: str, path: Path, title: str, folder: ResultsFolder, found: Sequence[FoundRecord]
) -> Exhibit:
    headings, lines, text = parts_of(path.read_text(encoding="utf-8", errors="replace"))
    files = [path.with_suffix(ending) for ending in FILES if path.with_suffix(ending).is_file()]
    records = _of_rows(path.with_suffix(".csv"), found)
    return Exhibit(kind, path.stem, title, folder, headings, lines, text, files, records)


def parts_of(markdown: str) -> tuple[list[str], list[list[str]], list[str]]:
    """A page that we wrote: the first table as headings and lines, then all paragraphs without pictures."""
    headings: list[str] = []
    lines: list[list[str]] = []
    text = []
    for block in markdown.split("\n\n"):
        if block.startswith("|") and not headings:
            headings, _, *lines = [_fields(line) for line in block.strip().split("\n")]
        elif block.strip() and not block.startswith("!["):
            text.append(html.unescape(" ".join(block.split()).replace("\\|", "|")))
    return headings, [line for line in lines if len(line) == len(headings)], text


def _fields(line: str) -> list[str]:
    return [html.unescape(field.strip().replace("\\|", "|")) for field in re.split(r"(?<!\\)\|", line)[1:-1]]


def _of_rows(path: Path, found: Sequence[FoundRecord]) -> list[FoundRecord]:
    """The records that have the setup, attack, target and defense of a row; none where the CSV lacks one."""
    try:
        with path.open(newline="", encoding="utf-8") as file:
            rows = {tuple(row.get(name) for name in _ROW) for row in csv.DictReader(file)}
    except (OSError, ValueError, csv.Error):
        return []
    return [one for one in found if _row_of(one.record) in rows]


def _row_of(record: Record) -> tuple[str, str, str, str]:
    return record["setup"]["id"], record["attack"], record["target"], record["defense"]["label"]


def answers_of(folder: ResultsFolder, groups: Mapping[str, Sequence[FoundRecord]]) -> Answers | None:
    """The answers that ``claims`` left in a folder; None where there are none, or no readable ones, which a
    warning names. ``groups``: the records of each comparison group, by its words.
    """
    path = folder.path / "claims.json"
    if not path.is_file():
        return None
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        told = [_claim(claim) for claim in content["claims"]]
        scales = _scales(told)
        claims = [
            Answer(
                claim,
                [Case(case, _compared(case, groups.get(case["where"], ()))) for case in claim["cases"]],
                _bar(claim, scales[claim["unit"]]),
            )
            for claim in told
        ]
        return Answers(folder, with_names(str(content["caption"])), claims)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        _log.warning(
            "passed over: %s holds no answers to claims (%s); make them anew with midre-exp report claims",
            path,
            error,
        )
        return None


def _claim(told: Mapping[str, Any]) -> dict[str, Any]:
    """What pages show of an answer, as the kinds they expect. Raises what a file of others can lack."""
    texts = {name: str(told[name]) for name in ("statement", "source", "claimed", "unit", "answer")}
    p = told.get("corrected_p")
    return {
        **texts,
        "threshold": float(told["threshold"]),
        "registered": str(told.get("registered", "")),
        "is_registered": "corrected_p" in told,
        "corrected_p": None if p is None else float(p),
        "effect": _effect(told["effect"]),
        "cases": [_effect(case) for case in told["cases"]],
    }


def _effect(told: Mapping[str, Any]) -> dict[str, Any]:
    numbers = {name: None if told[name] is None else float(told[name]) for name in ("value", "low", "high")}
    return {**numbers, **{name: with_names(str(told[name])) for name in ("where", "detail", "answer")}}


def _compared(case: Mapping[str, Any], group: Sequence[FoundRecord]) -> list[FoundRecord]:
    """Those records of a group whose defense the words of a case name."""
    return [one for one in group if one.record["defense"]["label"] in case["detail"]]


def _scales(claims: Sequence[Mapping[str, Any]]) -> dict[str, tuple[float, float]]:
    """The ends of the axis of each unit: all claims of one unit share it."""
    found: dict[str, list[float]] = {}
    for claim in claims:
        effect = claim["effect"]
        values = [effect[name] for name in ("low", "value", "high")]
        found.setdefault(claim["unit"], [claim["threshold"]]).extend(
            value for value in values if value is not None
        )
    return {unit: (min(values), max(values)) for unit, values in found.items()}


def _bar(claim: Mapping[str, Any], ends: tuple[float, float]) -> dict[str, Any] | None:
    """Percent of the width of a bar: the effect, its interval and the claimed limit; None: not measured."""
    effect = claim["effect"]
    if effect["value"] is None:
        return None
    width = (ends[1] - ends[0]) or 1.0

    def at(value: float) -> float:
        return round(4 + 92 * (float(value) - ends[0]) / width, 2)

    low, high = effect["low"], effect["high"]
    return {
        "value": at(effect["value"]),
        "low": None if low is None else at(low),
        "high": None if high is None else at(high),
        "limit": at(claim["threshold"]),
        "answer": str(claim["answer"]).replace(" ", "-"),
    }
