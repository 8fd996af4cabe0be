"""Which runs may be compared, and how far chance may have moved each of their numbers.

Runs may be compared when their configs differ in defense and seed alone; such runs share a
``ComparisonGroup``. What is uncertain is drawn: ``DRAWS`` times the numbers that other identities, seeds and
test images could have given. A difference of two defenses is taken draw by draw, so that what both share
cancels.

- Attack accuracy, with ``record["per_identity"]["att_acc1"]`` (percent by attacked identity), and accuracy,
  with ``record["test_per_identity"]`` (how many of each private identity's test images are right): a
  bootstrap that resamples identities and seeds as clusters, the same ones for every defense of a group and
  for both numbers: where not all identities are attacked, those that are and the others are resampled apart.
  Identities are the units because the restarts and images of one succeed or fail together. Of S seeds S - 1
  are picked, which makes the variance of the drawn mean s^2 / S, as it should be; S picks would give 2/3 of
  it with three seeds. Where each seed has identities of its own (``vary``), they are resampled within it.
- Attack accuracy without them: a normal approximation. The standard error of a record is its 95 % interval
  over 2 x 1.96; over the seeds of a defense it is the root of the mean square (all seeds attack the same
  identities), and between seeds sd^2 / seeds is added in quadrature. Defenses are drawn independently, which
  makes differences look less certain than a paired bootstrap would.
- Robust accuracy, of diagnostics: the same of its interval over test images.
- Accuracy without them: a normal approximation of the binomial of ``counts["private_test"]`` images, with two
  successes and two failures added so that 100 % is not certainty, and sd^2 / seeds between seeds; defenses
  independent.

With one seed nothing here knows how much another training would have changed: the intervals are then of one
pair of models.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from midre_exp.plan.config import digest, without
from midre_exp.plan.spelling import attack_name, network_name
from midre_exp.plan.vary import WORDS, varied, with_seeds_of_run_0
from midre_exp.records import Record
from midre_exp.records.comparable import comparable, comparable_config
from midre_exp.report.claims.cells import Cells, Place
from midre_exp.report.runs.captions import alarms_of
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
        alarm = ALARM if any(map(alarms_of, self.records)) else ""
        return f"{self.label}{alarm}{MARK if underfits(self.records) else ''}"

    @property
    def seeds(self) -> tuple[int, ...]:
        """Seeds in order."""
        return tuple(int(record["seed"]) for record in self.records)

    def mean(self, metric: str) -> float:
        """A metric averaged over seeds."""
        return float(np.mean([record["metrics"][metric] for record in self.records]))

    def by_identity(self, metric: str) -> tuple[Numbers, Numbers] | None:
        """Sums of a metric in percent and how many it is summed over, by seed and identity, each
        [seeds, identities]; None where a record does not tell.
        """
        if metric == "acc":
            told = [record.get("test_per_identity") or {"right": [], "images": []} for record in self.records]
            lists = [(100.0 * np.asarray(each["right"]), np.asarray(each["images"])) for each in told]
        else:
            hits = [record.get("per_identity", {}).get(metric) or () for record in self.records]
            lists = [(np.asarray(each), np.ones(len(each))) for each in hits]
        if len({len(sums) for sums, _ in lists}) != 1 or not len(lists[0][0]):
            return None
        sums, counts = (np.asarray(values, dtype=np.float64) for values in zip(*lists, strict=True))
        return sums, counts

    def of_seed(self, seed: int) -> DefenseRuns:
        """The runs of one seed alone."""
        return replace(self, records=tuple(record for record in self.records if record["seed"] == seed))


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
        return f"{self.setup} ({attack_name(self.attack)} on {network_name(self.target)}, {self.data})"

    def with_defense(self, *names: str) -> list[DefenseRuns]:
        """The runs under exactly these defenses, by the paper's names; none for NoDef."""
        return [defense for defense in self.defenses if set(defense.name.names) == set(names)]

    @property
    def is_of_suites(self) -> bool:
        """Whether its runs are suites of attacks, whose attack accuracy is a worst case."""
        return any("suite" in record for defense in self.defenses for record in defense.records)

    @property
    def paired(self) -> bool:
        """Whether every attack accuracy is known by identity."""
        return all(defense.by_identity("att_acc1") is not None for defense in self.defenses)

    @property
    def varied(self) -> frozenset[str]:
        """What differs between the seeds, by the words of ``vary``."""
        records = [record for defense in self.defenses for record in defense.records]
        return frozenset(word for word in WORDS if len({_moved(record, word) for record in records}) > 1)

    def draws(self, defense: DefenseRuns, metric: str) -> Numbers:
        """What ``acc`` or ``att_acc1`` of a defense could have been, in percent: [DRAWS]."""
        key = (metric, defense.label + digest([defense.parts, *defense.seeds]))
        if key not in self._drawn:
            table = defense.by_identity(metric)
            self._drawn[key] = (
                _normal(defense, metric)
                if table is None
                else self._resampled(defense, *table, _attacked(defense, len(table[0][0])))
            )
        return self._drawn[key]

    def cells(self, defense: DefenseRuns, metric: str) -> Cells | None:
        """What each identity adds to the mean of a metric, for tests that exchange defenses identity by
        identity; None where that is not known.
        """
        table = defense.by_identity(metric)
        if table is None:
            return None
        each = table[1].sum(axis=1, keepdims=True) * len(defense.seeds)
        parts, weights = (values / each for values in table)
        if "identities" in self.varied:
            places: list[Place] = [(self.data, seed) for seed in defense.seeds]
            return Cells(dict(zip(places, parts, strict=True)), dict(zip(places, weights, strict=True)))
        place: Place = (self.data, None)
        return Cells({place: parts.sum(axis=0)}, {place: weights.sum(axis=0)})

    def _resampled(self, defense: DefenseRuns, sums: Numbers, counts: Numbers, attacked: int) -> Numbers:
        """Bootstrap over identities and seeds. The picks depend on the data and on the counts and seeds
        alone: all defenses of a group share them. The first ``attacked`` identities are picked apart from the
        others, so that accuracy and attack accuracy of a draw are of the same picks. Trainings of different
        targets are picked independently, unless what they share varies too.
        """
        seeds, identities = sums.shape
        name = defense.records[0]["data"]["name"]
        data = int(digest(name), 16)

        def picked(*stream: int) -> NDArray[np.int64]:
            parts = [(0, attacked), (2, identities - attacked)]
            return np.concatenate(
                [
                    np.random.default_rng([data, part, *stream]).multinomial(
                        count, np.full(count, 1 / count), DRAWS
                    )
                    for part, count in parts
                    if count
                ],
                axis=1,
            )

        picks = max(seeds - 1, 1)
        shared = self.varied & {"evaluator", "prior", "identities"}
        place = data if shared else int(digest([name, self.target]), 16)
        of_seeds = np.random.default_rng([place, 1, *defense.seeds]).multinomial(
            picks, np.full(seeds, 1 / seeds), DRAWS
        )
        if "identities" in self.varied:
            of_identities, axes = np.stack([picked(seed) for seed in defense.seeds]), "ds,si,sdi->d"
        else:
            of_identities, axes = picked(), "ds,si,di->d"
        total, over = (np.einsum(axes, of_seeds, values, of_identities) for values in (sums, counts))
        means: Numbers = total / over
        return means


def _attacked(defense: DefenseRuns, identities: int) -> int:
    """How many of the first ``identities`` are attacked (labels from 0 on); all where that is not known."""
    table = defense.by_identity("att_acc1")
    return identities if table is None else min(identities, len(table[0][0]))


def _moved(record: Record, word: str) -> int:
    """The seed of what a word of ``vary`` moves, less that of run 0."""
    return int(record["seed"]) if word in varied(record["config"]) else 0


def comparison_groups(records: Sequence[Record]) -> tuple[list[ComparisonGroup], int]:
    """The groups of one scale's records, one for each setup, attack, target and data, and how many records
    were left out. Those without an attack accuracy (``is_measured``) are not looked at.

    Where there are runs of several configurations (another budget, an older release), the one with most
    records counts. What a suite among the records made as a variant of another member (an informed attacker,
    another budget) is told by the suite alone.
    """
    pools: dict[tuple[str, str, str, str], dict[str, list[Record]]] = {}
    variants = _variants(records)
    for record in filter(is_measured, records):
        if record["key"] in variants:
            continue
        place = (record["setup"]["id"], record["attack"], record["target"], record["data"]["name"])
        alike = digest(rules(record["config"]))
        pools.setdefault(place, {}).setdefault(alike, []).append(record)
    groups, left_out = [], 0
    for place, pool in pools.items():
        chosen = max(pool.values(), key=len)
        left_out += sum(len(other) for other in pool.values()) - len(chosen)
        groups.append(ComparisonGroup(*place, defenses=_defenses(chosen)))
    return groups, left_out


def _variants(records: Sequence[Record]) -> frozenset[str]:
    """The keys of runs that suites among the records have made besides the plain run of an attack."""
    found: set[str] = set()
    for record in records:
        by_attack: dict[str, list[Mapping[str, Any]]] = {}
        for member in record.get("suite", {}).get("members", {}).values():
            by_attack.setdefault(member["attack"], []).append(member)
        for members in by_attack.values():
            plain = min(members, key=lambda member: len(member["overrides"]))
            found |= {str(member["key"]) for member in members if member is not plain}
    return frozenset(found)


def is_measured(record: Record) -> bool:
    """Whether the attack accuracy of a run was measured; a config may leave it out."""
    return "att_acc1" in record["metrics"]


#: What of a config two comparable runs share: which identities, models, attack and evaluator, at which size.
SHARED = ("scale", "resolution", "data", "target", "evaluator", "attack", "speed", "numerics")


def rules(config: Mapping[str, Any], shared: Sequence[str] = SHARED) -> dict[str, Any]:
    """What of a config, without its seed, comparable runs have in common."""
    shown = ("image_to_evaluator", "pictures")
    metrics = {name: config["metrics"][name] for name in shown if name in config["metrics"]}
    kept = {name: config[name] for name in shared if name in config}
    seeds = {name: config[name] for name in ("seed", "vary") if name in config}
    own = without(with_seeds_of_run_0({**kept, **seeds}), "seed", "vary")
    return comparable_config({**own, "metrics": metrics})


def _defenses(records: Sequence[Record]) -> tuple[DefenseRuns, ...]:
    by_parts: dict[str, list[Record]] = {}
    for record in records:
        by_parts.setdefault(digest(comparable(record["defense"]["parts"])), []).append(record)
    return tuple(map(_defense_runs, by_parts.values()))


def _defense_runs(records: Sequence[Record]) -> DefenseRuns:
    # of two records of a run the one that more judges looked at
    looked_at = sorted(records, key=lambda record: len(record["metrics"]))
    by_seed = {int(record["seed"]): record for record in looked_at}
    parts, label = records[0]["defense"]["parts"], records[0]["defense"]["label"]
    return DefenseRuns(published_name(parts), parts, label, tuple(by_seed[seed] for seed in sorted(by_seed)))


def _normal(defense: DefenseRuns, metric: str) -> Numbers:
    """Normal draws about the mean over seeds, the same at every call and independent between groups, defenses
    and metrics.
    """
    values = np.asarray([record["metrics"][metric] for record in defense.records], dtype=np.float64)
    variance = float(np.mean([_error(record, metric) ** 2 for record in defense.records]))
    if len(values) > 1:
        variance += float(values.var(ddof=1)) / len(values)
    first = defense.records[0]
    place = [first["setup"]["id"], first["attack"], first["target"], first["data"]["name"]]
    random = np.random.default_rng(int(digest([metric, defense.parts, *place]), 16))
    drawn: Numbers = values.mean() + variance**0.5 * random.standard_normal(DRAWS)
    return drawn


def _error(record: Record, metric: str) -> float:
    """Half of the metric's own 95 % interval over 1.96; of one without an interval that of accuracy."""
    metrics = record["metrics"]
    if f"{metric}_low" not in metrics:
        return _binomial_error(record)
    return float(metrics[f"{metric}_high"] - metrics[f"{metric}_low"]) / (2 * Z95)


def _binomial_error(record: Record) -> float:
    n = float(record["counts"]["private_test"]) + 4
    p = (record["metrics"]["acc"] / 100 * (n - 4) + 2) / n
    return float(100 * (p * (1 - p) / n) ** 0.5)
