"""Which runs may be compared, and how far chance may have moved each of their numbers.

Runs may be compared when their configs differ in defense and seed alone; such runs share a
``ComparisonGroup``. What is uncertain is drawn: ``DRAWS`` times the numbers that other identities, seeds and
test images could have given. A difference of two defenses is taken draw by draw, so that what both share
cancels.

- Attack accuracy, with ``record["per_identity"]["att_acc1"]`` (percent by attacked identity): a bootstrap
  that resamples identities and seeds, the same ones for every defense of a group. Identities are the units
  because the restarts of one succeed or fail together.
- Attack accuracy without it: a normal approximation. The standard error of a record is its 95 % interval over
  2 x 1.96; over the seeds of a defense it is the root of the mean square (all seeds attack the same
  identities), and between seeds sd^2 / seeds is added in quadrature. Defenses are drawn independently, which
  makes differences look less certain than a paired bootstrap would.
- Accuracy: a normal approximation of the binomial of ``counts["private_test"]`` images, with two successes
  and two failures added so that 100 % is not certainty, and sd^2 / seeds between seeds; defenses independent.

With one seed nothing here knows how much another training would have changed: the intervals are then of one
pair of models.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from midre_exp.plan.config import digest
from midre_exp.records import Record
from midre_exp.records.comparable import comparable, comparable_config
from midre_exp.report.runs.convergence import MARK, underfits
from midre_exp.report.runs.defense_names import DefenseName, published_name

DRAWS = 4000
#: Stands at a defense whose numbers are in doubt.
ALARM = "†"
Z95 = 1.959964

Numbers = NDArray[np.float64]


@dataclass(frozen=True)
class DefenseRuns:
    """One defense in a comparison group: its records, one for each seed."""

    name: DefenseName  # the paper's
    parts: Mapping[str, Any]  # its config nodes
    label: str  # its own
    records: tuple[Record, ...]

    @property
    def shown(self) -> str:
        """Its label with a mark where a record carries an alarm, and with one where its targets fit too
        little of what they were shown.
        """
        alarm = ALARM if any(record.get("alarms") for record in self.records) else ""
        return f"{self.label}{alarm}{MARK if underfits(self.records) else ''}"

    @property
    def seeds(self) -> tuple[int, ...]:
        """Seeds in order."""
        return tuple(int(record["seed"]) for record in self.records)

    def mean(self, metric: str) -> float:
        """A metric averaged over seeds."""
        return float(np.mean([record["metrics"][metric] for record in self.records]))


@dataclass(frozen=True)
class ComparisonGroup:
    """Runs that differ in defense and seed alone."""

    setup: str
    attack: str
    target: str
    data: str
    defenses: tuple[DefenseRuns, ...]  # in order of the records
    _drawn: dict[tuple[str, str], Numbers] = field(default_factory=dict, compare=False, repr=False)

    def __str__(self) -> str:
        return f"{self.setup} ({self.attack} on {self.target}, {self.data})"

    def with_defense(self, *names: str) -> list[DefenseRuns]:
        """The runs under exactly these defenses, by the paper's names; none for NoDef."""
        return [defense for defense in self.defenses if set(defense.name.names) == set(names)]

    @property
    def paired(self) -> bool:
        """Whether every attack accuracy is known by identity."""
        return all(_all_by_identity(defense) for defense in self.defenses)

    def draws(self, defense: DefenseRuns, metric: str) -> Numbers:
        """What ``acc`` or ``att_acc1`` of a defense could have been, in percent: [DRAWS]."""
        key = (metric, defense.label + digest(defense.parts))
        if key not in self._drawn:
            attacked = metric == "att_acc1"
            draw = _resampled if attacked and _all_by_identity(defense) else _normal
            self._drawn[key] = draw(defense, metric)
        return self._drawn[key]


def comparison_groups(records: Sequence[Record]) -> tuple[list[ComparisonGroup], int]:
    """The groups of one scale's records, one for each setup, attack, target and data, and how many records
    were left out. Those without an attack accuracy (``is_measured``) are not looked at.

    Where there are runs of several configurations (another budget, an older release), the one with most
    records counts.
    """
    pools: dict[tuple[str, str, str, str], dict[str, list[Record]]] = {}
    for record in filter(is_measured, records):
        place = (record["setup"]["id"], record["attack"], record["target"], record["data"]["name"])
        rules = digest(_rules(record["config"]))
        pools.setdefault(place, {}).setdefault(rules, []).append(record)
    groups, left_out = [], 0
    for place, pool in pools.items():
        chosen = max(pool.values(), key=len)
        left_out += sum(len(other) for other in pool.values()) - len(chosen)
        groups.append(ComparisonGroup(*place, defenses=_defenses(chosen)))
    return groups, left_out


def is_measured(record: Record) -> bool:
    """Whether the attack accuracy of a run was measured; a config may leave it out."""
    return "att_acc1" in record["metrics"]


#: What of a config two comparable runs share: which identities, models, attack and evaluator, at which size.
SHARED = ("scale", "resolution", "data", "target", "evaluator", "attack", "speed", "numerics")


def _rules(config: Mapping[str, Any]) -> dict[str, Any]:
    shown = ("image_to_evaluator", "pictures")
    metrics = {name: config["metrics"][name] for name in shown if name in config["metrics"]}
    kept = {name: config[name] for name in SHARED if name in config}
    return comparable_config({**kept, "metrics": metrics})


def _defenses(records: Sequence[Record]) -> tuple[DefenseRuns, ...]:
    by_parts: dict[str, list[Record]] = {}
    for record in records:
        by_parts.setdefault(digest(comparable(record["defense"]["parts"])), []).append(record)
    return tuple(map(_defense_runs, by_parts.values()))


def _defense_runs(records: Sequence[Record]) -> DefenseRuns:
    by_seed = {int(record["seed"]): record for record in records}
    parts, label = records[0]["defense"]["parts"], records[0]["defense"]["label"]
    return DefenseRuns(published_name(parts), parts, label, tuple(by_seed[seed] for seed in sorted(by_seed)))


def _by_identity(record: Record) -> Sequence[float] | None:
    return record.get("per_identity", {}).get("att_acc1")


def _all_by_identity(defense: DefenseRuns) -> bool:
    lengths = {len(_by_identity(record) or ()) for record in defense.records}
    return len(lengths) == 1 and 0 not in lengths


def _resampled(defense: DefenseRuns, metric: str) -> Numbers:
    """Bootstrap over identities and seeds. The picks depend on the data and the counts alone: all defenses
    of a group share them.
    """
    table = np.asarray([_by_identity(record) for record in defense.records], dtype=np.float64)
    seeds, identities = table.shape
    data = int(digest(defense.records[0]["data"]["name"]), 16)
    of_identities = np.random.default_rng([data, 0]).multinomial(
        identities, np.full(identities, 1 / identities), DRAWS
    )
    of_seeds = np.random.default_rng([data, 1]).multinomial(seeds, np.full(seeds, 1 / seeds), DRAWS)
    means: Numbers = np.einsum("ds,si,di->d", of_seeds, table, of_identities) / table.size
    return means


def _normal(defense: DefenseRuns, metric: str) -> Numbers:
    """Normal draws about the mean over seeds, the same at every call and independent between groups, defenses
    and metrics.
    """
    values = np.asarray([record["metrics"][metric] for record in defense.records], dtype=np.float64)
    error: Callable[[Record], float] = _attack_error if metric == "att_acc1" else _binomial_error
    variance = float(np.mean([error(record) ** 2 for record in defense.records]))
    if len(values) > 1:
        variance += float(values.var(ddof=1)) / len(values)
    first = defense.records[0]
    place = [first["setup"]["id"], first["attack"], first["target"], first["data"]["name"]]
    random = np.random.default_rng(int(digest([metric, defense.parts, *place]), 16))
    drawn: Numbers = values.mean() + variance**0.5 * random.standard_normal(DRAWS)
    return drawn


def _attack_error(record: Record) -> float:
    metrics = record["metrics"]
    return float(metrics["att_acc1_high"] - metrics["att_acc1_low"]) / (2 * Z95)


def _binomial_error(record: Record) -> float:
    n = float(record["counts"]["private_test"]) + 4
    p = (record["metrics"]["acc"] / 100 * (n - 4) + 2) / n
    return float(100 * (p * (1 - p) / n) ** 0.5)
