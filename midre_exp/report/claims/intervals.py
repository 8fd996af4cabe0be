"""Records as evidence: which runs may be compared, and how far chance may have moved each of their numbers.

Runs may be compared when their configs differ in defense and seed alone; such runs share an ``Arena``. What
is uncertain is drawn: ``DRAWS`` times the numbers that other identities, seeds and test images could have
given. A difference of two arms is taken draw by draw, so that what both share cancels.

- Attack accuracy, with ``record["per_identity"]["att_acc1"]`` (percent by attacked identity): a bootstrap that resamples identities and
  seeds, the same ones for every arm of an arena. Identities are the units because the restarts of one succeed or fail together.
- Attack accuracy without it: a normal approximation. The standard error of a record is its 95 % interval over 2 x 1.96; over the seeds
  of an arm it is the root of the mean square (all seeds attack the same identities), and between seeds sd^2 / seeds is added in
  quadrature. Arms are drawn independently, which makes differences look less certain than a paired bootstrap would.
- Accuracy: a normal approximation of the binomial of ``counts["private_test"]`` images, with two successes and two failures added so that
  100 % is not certainty, and sd^2 / seeds between seeds; arms independent.

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
from midre_exp.report.runs.defense_names import Arm, arm_of
from midre_exp.report.runs.planned_runs import what_it_is

DRAWS = 4000
Z95 = 1.959964

Numbers = NDArray[np.float64]


@dataclass(frozen=True)
class Side:
    """One defense in an arena: its records, one for each seed."""

    arm: Arm
    parts: Mapping[str, Any]
    label: str
    records: tuple[Mapping[str, Any], ...]

    @property
    def seeds(self) -> tuple[int, ...]:
        """Seeds in order."""
        return tuple(int(record["seed"]) for record in self.records)

    def mean(self, metric: str) -> float:
        """A metric averaged over seeds."""
        return float(np.mean([record["metrics"][metric] for record in self.records]))


@dataclass(frozen=True)
class Arena:
    """Runs that differ in defense and seed alone. ``sides`` in order of the records."""

    setup: str
    attack: str
    target: str
    data: str
    sides: tuple[Side, ...]
    _drawn: dict[tuple[str, str], Numbers] = field(default_factory=dict, compare=False, repr=False)

    def __str__(self) -> str:
        return f"{self.setup} ({self.attack} on {self.target}, {self.data})"

    def find(self, *names: str) -> list[Side]:
        """The sides whose defense has exactly these names; none for NoDef."""
        return [side for side in self.sides if set(side.arm.names) == set(names)]

    @property
    def paired(self) -> bool:
        """Whether every attack accuracy is known by identity."""
        return all(_all_by_identity(side) for side in self.sides)

    def draws(self, side: Side, metric: str) -> Numbers:
        """What ``acc`` or ``att_acc1`` of a side could have been, in percent: [DRAWS]."""
        key = (metric, side.label + digest(side.parts))
        if key not in self._drawn:
            attacked = metric == "att_acc1"
            draw = _resampled if attacked and _all_by_identity(side) else _normal
            self._drawn[key] = draw(side, metric)
        return self._drawn[key]


def arenas(records: Sequence[Mapping[str, Any]]) -> tuple[list[Arena], int]:
    """The arenas of one scale's records, one for each (setup, attack, target, data), and how many records
    were left out.

    Where such a place has runs of several configurations (another budget, an older release), the one with
    most records counts.
    """
    pools: dict[tuple[str, str, str, str], dict[str, list[Mapping[str, Any]]]] = {}
    for record in records:
        place = (record["setup"]["id"], record["attack"], record["target"], record["data"]["name"])
        rules = digest(_rules(record["config"]))
        pools.setdefault(place, {}).setdefault(rules, []).append(record)
    found, left_out = [], 0
    for place, pool in pools.items():
        chosen = max(pool.values(), key=len)
        left_out += sum(len(other) for other in pool.values()) - len(chosen)
        found.append(Arena(*place, sides=_sides(chosen)))
    return found, left_out


#: What of a config two comparable runs share: which people, models, attack and judge, at which size.
SHARED = ("scale", "resolution", "data", "target", "evaluator", "attack", "speed")


def _rules(config: Mapping[str, Any]) -> dict[str, Any]:
    kept = what_it_is({name: config[name] for name in SHARED if name in config})
    return {**kept, "image_to_evaluator": config["metrics"]["image_to_evaluator"]}


def _sides(records: Sequence[Mapping[str, Any]]) -> tuple[Side, ...]:
    groups: dict[str, list[Mapping[str, Any]]] = {}
    for record in records:
        groups.setdefault(digest(record["defense"]["parts"]), []).append(record)
    sides = []
    for group in groups.values():
        by_seed = {int(record["seed"]): record for record in group}
        parts, label = group[0]["defense"]["parts"], group[0]["defense"]["label"]
        sides.append(Side(arm_of(parts), parts, label, tuple(by_seed[seed] for seed in sorted(by_seed))))
    return tuple(sides)


def _by_identity(record: Mapping[str, Any]) -> Sequence[float] | None:
    found: Sequence[float] | None = record.get("per_identity", {}).get("att_acc1")
    return found


def _all_by_identity(side: Side) -> bool:
    lengths = {len(_by_identity(record) or ()) for record in side.records}
    return len(lengths) == 1 and 0 not in lengths


def _resampled(side: Side, metric: str) -> Numbers:
    """Bootstrap over identities and seeds. The picks depend on the data and the counts alone: all sides of an
    arena share them.
    """
    table = np.asarray([_by_identity(record) for record in side.records], dtype=np.float64)
    seeds, identities = table.shape
    data = int(digest(side.records[0]["data"]["name"]), 16)
    of_identities = np.random.default_rng([data, 0]).multinomial(
        identities, np.full(identities, 1 / identities), DRAWS
    )
    of_seeds = np.random.default_rng([data, 1]).multinomial(seeds, np.full(seeds, 1 / seeds), DRAWS)
    means: Numbers = np.einsum("ds,si,di->d", of_seeds, table, of_identities) / table.size
    return means


def _normal(side: Side, metric: str) -> Numbers:
    """Normal draws about the mean over seeds, the same at every call and independent between arenas, sides
    and metrics.
    """
    values = np.asarray([record["metrics"][metric] for record in side.records], dtype=np.float64)
    error: Callable[[Mapping[str, Any]], float] = _attack_error if metric == "att_acc1" else _binomial_error
    variance = float(np.mean([error(record) ** 2 for record in side.records]))
    if len(values) > 1:
        variance += float(values.var(ddof=1)) / len(values)
    first = side.records[0]
    place = [first["setup"]["id"], first["attack"], first["target"], first["data"]["name"]]
    random = np.random.default_rng(int(digest([metric, side.parts, *place]), 16))
    drawn: Numbers = values.mean() + variance**0.5 * random.standard_normal(DRAWS)
    return drawn


def _attack_error(record: Mapping[str, Any]) -> float:
    metrics = record["metrics"]
    return float(metrics["att_acc1_high"] - metrics["att_acc1_low"]) / (2 * Z95)


def _binomial_error(record: Mapping[str, Any]) -> float:
    n = float(record["counts"]["private_test"]) + 4
    p = (record["metrics"]["acc"] / 100 * (n - 4) + 2) / n
    return float(100 * (p * (1 - p) / n) ** 0.5)
