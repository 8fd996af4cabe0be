"""From records to the rows of leaderboards: a defended target of one protocol in a row, with every attack on
it.

A track is of one scale, one data set and one threat: what the attacker sees of the target. A row is in a
track when an attack with this very view was tried on it; its worst case is of all attacks that see no more.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import fmean
from typing import Any

import numpy as np

from midre_exp.plan.config import digest, without
from midre_exp.plan.spelling import attack_name, network_name
from midre_exp.records import Record
from midre_exp.records.comparable import comparable
from midre_exp.report.claims.effects import difference
from midre_exp.report.claims.frontier import Gain, gain_of
from midre_exp.report.claims.intervals import (
    SHARED,
    ComparisonGroup,
    DefenseRuns,
    comparison_groups,
    rules,
)
from midre_exp.report.runs.captions import alarms_of
from midre_exp.report.runs.convergence import doubts
from midre_exp.report.runs.defense_names import DefenseName, display_name
from midre_exp.report.runs.folders import FoundRecord
from midre_exp.report.runs.listing import is_informed

#: What an attacker sees, from most to least, with its words.
THREATS: Mapping[str, str] = {"white_box": "white box", "scores": "scores only", "labels": "labels only"}
#: The metrics of the columns: of photographs of strangers as many pass (docs/judges.md); of 255 grey levels a
#: pixel changes by as many (docs/diagnostics.md).
OPEN_SET, ROBUST = "tar@0.01", "robust@1"
#: Points of attack accuracy that a defense must take away to protect, and not more than which it takes away
#: from an attack that breaks it.
BROKEN = 5.0
#: An attack that finds less than this share of what another finds without the defense has hardly anything to
#: lose: neither is a defense broken by it, nor does it tell the gain.
WEAK = 0.5
_ENDS = (0.025, 0.975)


@dataclass(frozen=True)
class Number:
    """A mean over seeds with its 95 % interval, where there is one."""

    value: float
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class Attacked:
    """What one attack, or suite of attacks, made of a defended target."""

    name: str
    threat: str  # one of ``THREATS``
    number: Number  # its attack accuracy
    by: str  # of a suite the best single attack
    members: int  # how many attacks it stands for
    gain: Gain | None  # at equal accuracy; None: no frontier was measured, or it is a part of it
    lowered: Number | None  # points that the defense takes from it, against no defense
    group: ComparisonGroup
    runs: DefenseRuns

    @property
    def records(self) -> tuple[Record, ...]:
        """One of each seed."""
        return self.runs.records

    @property
    def is_suite(self) -> bool:
        """Whether it is a suite, whose attack accuracy is of each identity that of the best attack."""
        return "suite" in self.records[0]


@dataclass(frozen=True)
class Row:
    """A defended target of one protocol."""

    slug: str
    scale: str
    data: str
    resolution: int
    target: str
    protocol: str  # a digest
    defense: DefenseName
    label: str
    attacks: tuple[Attacked, ...]  # the strongest first
    found: tuple[FoundRecord, ...]
    notes: tuple[str, ...]  # what a reader must know, sentences

    @property
    def records(self) -> list[Record]:
        """All of its runs."""
        return [one.record for one in self.found]

    @property
    def shown(self) -> str:
        """The paper's name of its defense where that tells it from others, else its own."""
        return (
            display_name(self.defense)
            if self.defense.share is not None or not self.defense.names
            else self.label
        )

    @property
    def setups(self) -> list[str]:
        """Where it is used."""
        return list(dict.fromkeys(record["setup"]["id"] for record in self.records))

    @property
    def seeds(self) -> list[int]:
        """In order."""
        return sorted({int(record["seed"]) for record in self.records})

    @property
    def commits(self) -> list[str]:
        """Of the processes that wrote the records."""
        return list(dict.fromkeys(str(record["commit"]) for record in self.records if record.get("commit")))

    @property
    def acc(self) -> Number:
        """Test accuracy of its targets."""
        one = self.attacks[0]
        return _number(one.group, one.runs, "acc")

    def of_target(self, metric: str) -> Number | None:
        """A number of its targets, whoever attacks them: each once; None where no record has it."""
        each = {
            str(record["artifacts"].get("target", record["key"])): record["metrics"]
            for record in self.records
            if metric in record["metrics"]
        }
        if not each:
            return None
        ends = [
            fmean(known) if (known := _all(each.values(), f"{metric}_{end}")) else None
            for end in ("low", "high")
        ]
        return Number(fmean(metrics[metric] for metrics in each.values()), *ends)


@dataclass(frozen=True)
class TrackRow:
    """A row in one track: only attacks that see no more than the track allows."""

    row: Row
    attacks: tuple[Attacked, ...]

    @property
    def worst(self) -> Attacked:
        """The attack, or suite, with the highest attack accuracy."""
        return self.attacks[0]

    @property
    def tried(self) -> int:
        """How many attacks the worst case is of, those inside of suites counted."""
        alone = sum(not one.is_suite for one in self.attacks)
        return max(alone, *(one.members for one in self.attacks))

    @property
    def _telling(self) -> list[Attacked]:
        """The attacks without those that are ``WEAK``; all where nothing was measured without the defense."""
        bare = {one.name: one.number.value + one.lowered.value for one in self.attacks if one.lowered}
        least = WEAK * max(bare.values(), default=0.0)
        return [one for one in self.attacks if bare.get(one.name, least) >= least]

    @property
    def gain(self) -> tuple[Attacked, Gain] | None:
        """The least gain at equal accuracy, and under which attack; one that could not be measured comes
        last. ``WEAK`` attacks do not count.
        """
        known = [(one, one.gain) for one in self._telling if one.gain is not None]
        measured = [(one, gain) for one, gain in known if gain.value is not None]
        return min(measured, key=lambda each: each[1].value or 0.0) if measured else next(iter(known), None)

    @property
    def open_set(self) -> tuple[Attacked, Number] | None:
        """The most reconstructions that a judge who knows nobody accepts, and whose they are."""
        known = [
            (one, told) for one in self.attacks if (told := over_seeds(one.records, OPEN_SET)) is not None
        ]
        return max(known, key=lambda each: each[1].value, default=None)

    @property
    def broken_by(self) -> str | None:
        """An attack from which the defense takes at most ``BROKEN`` points, where it takes more from another,
        both with 95 % certainty; None where there is none. ``WEAK`` attacks do not count.
        """
        tried = [(one.name, one.lowered) for one in self._telling if one.lowered is not None]
        protects = any(lowered.low is not None and lowered.low > BROKEN for _, lowered in tried)
        through = [name for name, lowered in tried if lowered.high is not None and lowered.high <= BROKEN]
        return through[0] if protects and through else None

    @property
    def status(self) -> str:
        """How far its numbers are to be trusted, by who computed them."""
        outside = list(dict.fromkeys(one.origin for one in self.row.found if one.origin is not None))
        ours = [one for one in self.row.found if one.origin is None]
        parts = []
        if ours:
            checked = all(one.checked for one in ours)
            parts.append("verified" if checked else "recomputed here, no checksum")
        if outside:
            parts.append(f"external ({', '.join(outside)})")
        told = ", ".join(parts)
        return f"{told}: broken by {self.broken_by}" if self.broken_by else told


@dataclass(frozen=True)
class Track:
    """Rows that may be compared."""

    scale: str
    data: str
    resolution: int
    threat: str
    rows: tuple[TrackRow, ...] = field(repr=False)

    @property
    def slug(self) -> str:
        """The name of its page."""
        return slug(self.scale, self.data, str(self.resolution), self.threat)

    @property
    def title(self) -> str:
        """What it is of."""
        return f"Scale {self.scale}, {self.data} at {self.resolution} px, {THREATS[self.threat]}"


def slug(*words: str) -> str:
    """Words as one name of a file."""
    return re.sub(r"[^a-z0-9.]+", "-", "-".join(words).lower()).strip("-.")[:120]


def rows_of(found: Sequence[FoundRecord], verdicts: Mapping[str, str]) -> list[Row]:
    """The rows of all records, by scale, data set and target. Runs without an attack accuracy, and those of
    other budgets than most of their setup, are in none. ``verdicts``: on trainings, by ``training_of``.
    """
    by_scale: dict[str, list[Record]] = {}
    for one in found:
        by_scale.setdefault(one.record["scale"], []).append(one.record)
    sources = {(one.record["scale"], one.record["key"]): one for one in found}
    arms: dict[tuple[str, ...], list[Attacked]] = {}
    for records in by_scale.values():
        for group in _groups(records):
            bare = next(iter(group.with_defense()), None)
            for runs in group.defenses:
                first = runs.records[0]
                place = (
                    first["scale"], group.data, str(first["data"]["resolution"]), group.target,
                    digest(protocol_of(first)),
                    digest(comparable(runs.parts)),
                )  # fmt: skip
                arms.setdefault(place, []).append(_attacked(group, runs, bare))
    rows = [_row(place, attacks, sources, verdicts) for place, attacks in arms.items()]
    return sorted(rows, key=lambda row: (row.scale, row.data, row.target, row.setups, row.label))


def protocol_of(record: Record) -> dict[str, Any]:
    """What two records of one row have in common besides their defense: data, target and evaluator, without
    the attack and the steps that belong to it.
    """
    shared = rules(record["config"], [name for name in SHARED if name != "attack"])
    return without(shared, "metrics")


def _groups(records: Sequence[Record]) -> list[ComparisonGroup]:
    """Those of attackers who know the defense apart: they are compared, not left out as rarer ones."""
    told = [comparison_groups([r for r in records if is_informed(r) is knows])[0] for knows in (False, True)]
    return [group for groups in told for group in groups]


def _attacked(group: ComparisonGroup, runs: DefenseRuns, bare: DefenseRuns | None) -> Attacked:
    first = runs.records[0]
    name, by, members = attack_name(group.attack), "", 1
    if "suite" in first:
        accuracies: dict[str, list[float]] = {}
        for record in runs.records:
            for member, told in record["suite"]["members"].items():
                if told.get("counts"):
                    accuracies.setdefault(member, []).append(float(told["att_acc1"]))
        best = max(accuracies, key=lambda member: fmean(accuracies[member]), default="")
        by = f"{attack_name(best)} {fmean(accuracies[best]):.1f}" if best else ""
        members = max(len(accuracies), 1)
    elif is_informed(first):
        name = f"{name}, informed"
    lowered = None
    if bare is not None and bare is not runs:
        effect = difference(group, bare, runs, "att_acc1")
        lowered = Number(effect.value, *map(float, np.quantile(effect.draws, _ENDS)))
    threat = str(first.get("threat", "white_box"))
    return Attacked(
        name=name,
        threat=threat if threat in THREATS else "white_box",
        number=_number(group, runs, "att_acc1"),
        by=by,
        members=members,
        gain=gain_of(group, runs),
        lowered=lowered,
        group=group,
        runs=runs,
    )


def _row(
    place: tuple[str, ...],
    attacks: Sequence[Attacked],
    sources: Mapping[tuple[str, str], FoundRecord],
    verdicts: Mapping[str, str],
) -> Row:
    scale, data, resolution, target, protocol, _ = place
    first = attacks[0].runs
    found = {
        record["key"]: sources[scale, record["key"]] for attacked in attacks for record in attacked.records
    }
    records = [one.record for one in found.values()]
    alarms = [sentence for record in records for sentence in alarms_of(record)]
    return Row(
        slug=slug(scale, data, target, first.label, digest([*place])[:6]),
        scale=scale,
        data=data,
        resolution=int(resolution),
        target=network_name(target),
        protocol=protocol,
        defense=first.name,
        label=first.label,
        attacks=tuple(sorted(attacks, key=_strength)),
        found=tuple(found.values()),
        notes=tuple(dict.fromkeys([*alarms, *doubts(records, verdicts)])),
    )


def _strength(one: Attacked) -> tuple[float, str]:
    return -one.number.value, one.name


def tracks_of(rows: Iterable[Row]) -> list[Track]:
    """All tracks, each with its rows by target, the least attacked first."""
    found: dict[tuple[str, str, int, str], list[TrackRow]] = {}
    views = list(THREATS)
    for row in rows:
        for place, threat in enumerate(views):
            if any(one.threat == threat for one in row.attacks):
                allowed = tuple(one for one in row.attacks if one.threat in views[place:])
                found.setdefault((row.scale, row.data, row.resolution, threat), []).append(
                    TrackRow(row, allowed)
                )
    return [
        Track(*place, rows=tuple(sorted(own, key=_order)))
        for place, own in sorted(found.items(), key=lambda each: (*each[0][:3], views.index(each[0][3])))
    ]


def _order(one: TrackRow) -> tuple[str, list[str], float]:
    return one.row.target, one.row.setups, one.worst.number.value


def _number(group: ComparisonGroup, runs: DefenseRuns, metric: str) -> Number:
    low, high = np.clip(np.quantile(group.draws(runs, metric), _ENDS), 0, 100)
    return Number(runs.mean(metric), float(low), float(high))


def over_seeds(records: Sequence[Record], metric: str) -> Number | None:
    """Of several seeds the mean and the widest ends; None unless each has it."""
    values = _all([record["metrics"] for record in records], metric)
    if not values:
        return None
    low, high = (
        _all([record["metrics"] for record in records], f"{metric}_{end}") for end in ("low", "high")
    )
    return Number(fmean(values), min(low, default=None), max(high, default=None))


def _all(metrics: Iterable[Mapping[str, float]], name: str) -> list[float]:
    """The values of a metric; nothing unless each has it."""
    values = [each.get(name) for each in metrics]
    known = [float(value) for value in values if value is not None]
    return known if len(known) == len(values) else []
