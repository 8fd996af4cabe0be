"""Rows of leaderboards that nobody recomputed here: what the paper prints (``results/published.csv``)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from midre_exp.plan.config import config_files, read_yaml
from midre_exp.plan.spelling import attack_name, network_name
from midre_exp.report.runs.defense_names import display_name
from midre_exp.report.runs.inconsistencies import INCONSISTENCIES
from midre_exp.report.runs.published import PublishedResult, read_published

#: The status of such rows.
REPORTED = "reported"


@dataclass(frozen=True)
class ReportedRow:
    """A defended target as the paper has it, under all attacks that are printed."""

    target: str
    defense: str
    acc: float | None
    attacks: Sequence[PublishedResult]  # the strongest first
    notes: Sequence[str]

    @property
    def worst(self) -> PublishedResult:
        """The one with the highest attack accuracy."""
        return self.attacks[0]


@dataclass(frozen=True)
class ReportedTrack:
    """Rows of one pair of data sets and one threat."""

    data: str
    threat: str
    rows: Sequence[ReportedRow]


def reported_tracks() -> list[ReportedTrack]:
    """Those of all printed results that have both accuracies, each once, by where they are printed first."""
    threats = _threats()
    found: dict[tuple[str, str], dict[tuple[str, str], list[PublishedResult]]] = {}
    for result in read_published():
        if result.acc is None or result.att_acc1 is None or not result.target:
            continue
        data = f"{result.private} (attacker: {result.public}) at {result.resolution} px"
        threat = threats.get(result.attack, "threat not stated")
        rows = found.setdefault((data, threat), {})
        rows.setdefault((network_name(result.target), display_name(result.defense)), []).append(result)
    return [
        ReportedTrack(data, threat, [_row(*place, results) for place, results in rows.items()])
        for (data, threat), rows in sorted(found.items())
    ]


def _row(target: str, defense: str, results: Sequence[PublishedResult]) -> ReportedRow:
    named = [replace(one, attack=attack_name(one.attack)) for one in results]
    strongest = sorted(named, key=lambda one: -(one.att_acc1 or 0.0))
    numbers = [number for one in results for number in one.inconsistencies]
    notes = [
        *(one.note for one in results if one.note),
        *(INCONSISTENCIES[number] for number in dict.fromkeys(numbers)),
    ]
    return ReportedRow(target, defense, strongest[0].acc, strongest, list(dict.fromkeys(notes)))


def _threats() -> Mapping[str, str]:
    """What each attack of the paper's setups sees, by the paper's name."""
    found = {}
    for path in config_files("setup").values():
        node = read_yaml(path)
        told = node.get("setup", {}) if isinstance(node, dict) else {}
        if isinstance(told, dict) and "attack_type" in told:
            found[str(told["attack"])] = str(told["attack_type"])
    return found
