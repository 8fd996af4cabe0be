"""The comparisons of records that claims rest on, by the name that a claim's yaml has for them: each finds
its effects in the comparison groups, whose ``draws`` say how sure they are.

A defense is written as the tables write it: ``MIDRE``, which is MIDRE of whatever range,
``MIDRE [0.1, 0.4]``, ``NoDef``, ``MIDRE+NLS``. What a contrast takes are its fields.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations, pairwise
from typing import Any, ClassVar, Literal

import numpy as np

from midre_exp.plan.arguments import Keys
from midre_exp.plan.config import without
from midre_exp.records import Record
from midre_exp.report.claims import cells
from midre_exp.report.claims.cells import Numbers
from midre_exp.report.claims.effects import Effect, difference, mean_effect
from midre_exp.report.claims.frontier import gain_of
from midre_exp.report.claims.intervals import ComparisonGroup, DefenseRuns
from midre_exp.report.claims.leakage_line import Held, off_the_line, slope
from midre_exp.report.runs.defense_names import display_name
from midre_exp.report.runs.trade_off import trade_off

#: Stands for OP where trade-offs are put in order.
NOTHING_PAID = 1e9

#: ``att_acc1_all_judges`` of runs with a jury; the last of runs with diagnostics; the three before it of runs
#: with a verifier, those before of suites of attacks alone.
Metric = Literal[
    "acc",
    "att_acc1",
    "att_acc1_all_judges",
    "plain",
    "informed",
    "tar@0.01",
    "tar@0.001",
    "rank1",
    "robust_area",
]
#: Metrics of which no record tells what each identity adds, so that a sum of them has no p-value.
NOT_BY_IDENTITY = ("robust_area",)
Groups = Sequence[ComparisonGroup]


@dataclass(frozen=True)
class Where(Keys):
    """Which groups a contrast looks at: a name or several of each; all where nothing is said."""

    setup: str | Sequence[str] | None = None
    attack: str | Sequence[str] | None = None
    target: str | Sequence[str] | None = None
    data: str | Sequence[str] | None = None

    def holds(self, group: ComparisonGroup) -> bool:
        """Whether a group is one of them. Suites of attacks, whose members are groups of their own, are only
        where they are asked for by name.
        """
        if group.is_of_suites and self.attack is None:
            return False
        return self._names(group.setup, group.attack, group.target, group.data)

    def admits(self, record: Record) -> bool:
        """Whether a record is of one of them."""
        return self._names(record["setup"]["id"], record["attack"], record["target"], record["data"]["name"])

    def _names(self, setup: str, attack: str, target: str, data: str) -> bool:
        wanted = (self.setup, setup), (self.attack, attack), (self.target, target), (self.data, data)
        return all(
            names is None or has in ([names] if isinstance(names, str) else names) for names, has in wanted
        )


class Contrast(Keys, ABC):
    """A kind of comparison. ``is_ranked``: its draws are +1, 0 or -1, who had the better of it, shown as the
    share of draws won. ``has_p``: its effects tell what each identity adds, which a p-value takes.
    """

    is_ranked: ClassVar[bool] = False
    has_p: ClassVar[bool] = True

    @abstractmethod
    def effects(self, groups: Groups) -> Iterator[Effect]:
        """One for each case that the groups hold."""


def of_defense(group: ComparisonGroup, name: str) -> list[DefenseRuns]:
    """The runs of a group under a defense, written with its range or without."""
    return [
        defense
        for defense in group.defenses
        if name == display_name(defense.name) or _names(name) == set(defense.name.names)
    ]


def _names(text: str) -> set[str]:
    return set() if text == "NoDef" else set(text.split("+"))


@dataclass(frozen=True)
class Difference(Contrast):
    """A metric of one defense less that of another, in points."""

    first: str
    second: str
    metric: Metric

    def effects(self, groups: Groups) -> Iterator[Effect]:
        for group in groups:
            for first in of_defense(group, self.first):
                for second in of_defense(group, self.second):
                    if self.compares(first, second) and _measured(self.metric, first, second):
                        yield difference(group, first, second, self.metric)

    def compares(self, first: DefenseRuns, second: DefenseRuns) -> bool:
        """Whether this pair is a case."""
        return True


def _measured(metric: str, *defenses: DefenseRuns) -> bool:
    return all(metric in record["metrics"] for defense in defenses for record in defense.records)


@dataclass(frozen=True)
class InformedGain(Contrast):
    """Attack accuracy of an attacker who knows the defense less that of one who does not, the same attack on
    the same targets, in points; of suites of attacks.
    """

    defense: str

    def effects(self, groups: Groups) -> Iterator[Effect]:
        for group in groups:
            for defense in of_defense(group, self.defense):
                if not _measured("informed", defense) or not _measured("plain", defense):
                    continue
                informed, plain = defense.mean("informed"), defense.mean("plain")
                equal = ""
                if _measured("informed_equal", defense):
                    found = defense.mean("informed_equal")
                    equal = f" (8 copies are 8 times the queries; with an eighth of the steps {found:.2f})"
                yield Effect(
                    str(group),
                    f"{defense.shown} informed {informed:.2f} against plain {plain:.2f}{equal}",
                    informed - plain,
                    group.draws(defense, "informed") - group.draws(defense, "plain"),
                    cells.combined(
                        [(1, group.cells(defense, "informed")), (-1, group.cells(defense, "plain"))]
                    ),
                )


@dataclass(frozen=True)
class BetweenAttacks(Contrast):
    """A metric of one attack less that of another on the same targets, defense by defense, in points.
    ``asked``: only where the first asked the target at most this share of what the second did, with what
    prepared each.
    """

    attack: str
    against: str
    metric: Metric
    asked: float | None = None

    def effects(self, groups: Groups) -> Iterator[Effect]:
        for group in groups:
            if group.attack != self.attack:
                continue
            for other in groups:
                if other.attack == self.against and _place(other) == _place(group):
                    yield from self._compared(group, other)

    def _compared(self, group: ComparisonGroup, other: ComparisonGroup) -> Iterator[Effect]:
        for first in group.defenses:
            for second in other.defenses:
                if first.parts != second.parts or not _measured(self.metric, first, second):
                    continue
                if self.asked is not None and _queries(first) > self.asked * _queries(second):
                    continue
                a, b = first.mean(self.metric), second.mean(self.metric)
                yield Effect(
                    f"{group}, {first.shown}",
                    f"{self.attack} {a:.2f} against {self.against} {b:.2f}",
                    a - b,
                    group.draws(first, self.metric) - other.draws(second, self.metric),
                    cells.combined(
                        [(1, group.cells(first, self.metric)), (-1, other.cells(second, self.metric))]
                    )
                    if first.seeds == second.seeds
                    else None,
                )


def _place(group: ComparisonGroup) -> tuple[str, str, str]:
    return group.setup, group.target, group.data


def _queries(defense: DefenseRuns) -> float:
    """The mean over seeds of all that an attack asked the target."""
    return float(np.mean([run["queries"] + run.get("queries_before", 0) for run in defense.records]))


@dataclass(frozen=True)
class AboveChance(Contrast):
    """Attack accuracy less ``times`` chance (one of all classes), in points, of each attack under each
    defense; nothing before there are runs of all of them.
    """

    attacks: Sequence[str]
    defenses: Sequence[str]
    times: float

    def effects(self, groups: Groups) -> Iterator[Effect]:
        for place in dict.fromkeys(map(_place, groups)):
            found: dict[tuple[str, str], Effect] = {}
            for group in (group for group in groups if _place(group) == place):
                for name in self.defenses if group.attack in self.attacks else ():
                    for defense in of_defense(group, name):
                        if all("controls" in record for record in defense.records):
                            found[group.attack, name] = self._effect(group, defense)
            if len(found) == len(self.attacks) * len(self.defenses):
                yield from found.values()

    def _effect(self, group: ComparisonGroup, defense: DefenseRuns) -> Effect:
        value = defense.mean("att_acc1")
        chance = float(np.mean([record["controls"]["chance"] for record in defense.records]))
        return Effect(
            str(group),
            f"{defense.shown} {value:.2f} against {self.times:g} times chance, {self.times * chance:.2f}",
            value - self.times * chance,
            group.draws(defense, "att_acc1") - self.times * chance,
            cells.shifted(group.cells(defense, "att_acc1"), self.times * chance),
        )


@dataclass(frozen=True)
class AccuracyLost(Contrast):
    """Accuracy of the base less that under a defense, in points."""

    defense: str
    base: str = "NoDef"

    def effects(self, groups: Groups) -> Iterator[Effect]:
        for effect in Difference(self.defense, self.base, "acc").effects(groups):
            turned = None if effect.cells is None else cells.combined([(-1, effect.cells)])
            yield Effect(effect.where, effect.detail, -effect.value, -effect.draws, turned)


@dataclass(frozen=True)
class AtEqualShare(Difference):
    """The same of two ways of withholding an equal share of the training images."""

    def compares(self, first: DefenseRuns, second: DefenseRuns) -> bool:
        return first.name.share == second.name.share


@dataclass(frozen=True)
class GainAtEqualAccuracy(Contrast):
    """Attack accuracy of the early-stopped undefended target that is as accurate as the defended one, less
    that of the defended one, in points (``midre_exp.report.claims.frontier``).
    """

    defense: str

    def effects(self, groups: Groups) -> Iterator[Effect]:
        for group in groups:
            for defense in of_defense(group, self.defense):
                gain = gain_of(group, defense)
                if gain is not None and gain.effect is not None:
                    yield gain.effect


@dataclass(frozen=True)
class BetweenSeeds(Contrast):
    """A metric of one defense under its first seed less that under its second, third less fourth, and so on:
    a comparison in which there is nothing to find but how much two trainings differ, which with one of them a
    side is neither in its interval nor in its p-value.
    """

    defense: str
    metric: Metric

    def effects(self, groups: Groups) -> Iterator[Effect]:
        for group in groups:
            if "identities" in group.varied:  # whose seeds have nothing in common
                continue
            known = (one for one in of_defense(group, self.defense) if _measured(self.metric, one))
            for defense in known:
                for a, b in list(pairwise(defense.seeds))[::2]:
                    yield self._effect(group, defense, a, b)

    def _effect(self, group: ComparisonGroup, defense: DefenseRuns, a: int, b: int) -> Effect:
        first, second = defense.of_seed(a), defense.of_seed(b)
        values = [runs.mean(self.metric) for runs in (first, second)]
        return Effect(
            str(group),
            f"{defense.shown} seed {a} {values[0]:.2f} against seed {b} {values[1]:.2f}",
            values[0] - values[1],
            group.draws(first, self.metric) - group.draws(second, self.metric),
            cells.combined([(1, group.cells(first, self.metric)), (-1, group.cells(second, self.metric))]),
        )


@dataclass(frozen=True)
class SlopeOverShare(Contrast):
    """Slope of attack accuracy over the share that a defense erases: points for each further 10 % of the
    image, by least squares.
    """

    defense: str

    has_p: ClassVar[bool] = False

    def effects(self, groups: Groups) -> Iterator[Effect]:
        for group in groups:
            families: dict[str, list[DefenseRuns]] = {}
            for defense in of_defense(group, self.defense):
                rules = [without(part, "a_l", "a_h") for part in defense.parts.values()]
                families.setdefault(repr(rules), []).append(defense)
            for family in families.values():
                defenses = sorted(family, key=lambda defense: defense.name.share or (0, 0))
                shares = np.asarray(
                    [10 * defense.name.share[0] for defense in defenses if defense.name.share]
                )
                if len(set(shares)) < 2:
                    continue
                weights = (shares - shares.mean()) / np.square(shares - shares.mean()).sum()
                values = np.asarray([defense.mean("att_acc1") for defense in defenses])
                draws = np.stack([group.draws(defense, "att_acc1") for defense in defenses])
                detail = ", ".join(
                    f"{defense.shown} {value:.2f}" for defense, value in zip(defenses, values, strict=True)
                )
                yield Effect(str(group), detail, float(weights @ values), weights @ draws)


@dataclass(frozen=True)
class SlopeOverRobustness(Contrast):
    """Slope of attack accuracy over the robust accuracy of all arms, in points for each point, by least
    squares; ``held``: nothing, or accuracy beside it (``midre_exp.report.claims.leakage_line``).
    """

    held: Held = "nothing"

    def effects(self, groups: Groups) -> Iterator[Effect]:
        for group in groups:
            if (effect := slope(group, self.held)) is not None:
                yield effect


@dataclass(frozen=True)
class OffTheLine(Contrast):
    """Attack accuracy of a defense less that of the line through the other arms at its robust accuracy, in
    points.
    """

    defense: str

    def effects(self, groups: Groups) -> Iterator[Effect]:
        for group in groups:
            for defense in of_defense(group, self.defense):
                if (effect := off_the_line(group, defense)) is not None:
                    yield effect


@dataclass(frozen=True)
class WiderRange(Contrast):
    """Attack accuracy under a wider range of a defense less that under a narrower one, in points."""

    defense: str

    def effects(self, groups: Groups) -> Iterator[Effect]:
        for group in groups:
            for a, b in combinations(of_defense(group, self.defense), 2):
                narrow, wide = sorted((a, b), key=lambda defense: defense.name.share or (0, 0))
                if narrow.name.share != wide.name.share:
                    yield difference(group, wide, narrow, "att_acc1")


@dataclass(frozen=True)
class Combination(Contrast):
    """Attack accuracy under a defense with another less that under each of the two alone, with the same
    parameters, in points.
    """

    defense: str

    def effects(self, groups: Groups) -> Iterator[Effect]:
        for group in groups:
            for both in group.defenses:
                if self.defense not in both.name.names or len(both.name.names) < 2:
                    continue
                for name, part in both.parts.items():
                    for alone in group.defenses:
                        if dict(alone.parts) == {name: part}:
                            yield difference(group, both, alone, "att_acc1")


@dataclass(frozen=True)
class Averaged(Contrast):
    """Attack accuracy of one defense less that of another, averaged for each target, attack or data set;
    nothing where there is only one of them.
    """

    first: str
    second: str
    by: Literal["target", "attack", "data"]

    def effects(self, groups: Groups) -> Iterator[Effect]:
        by_name: dict[str, list[Effect]] = {}
        for group in groups:
            for effect in Difference(self.first, self.second, "att_acc1").effects([group]):
                by_name.setdefault(getattr(group, self.by), []).append(effect)
        if len(by_name) < 2:
            return
        for name, effects in by_name.items():
            detail = f"mean of {len(effects)}" if len(effects) > 1 else effects[0].detail
            yield mean_effect(effects, name, detail)


@dataclass(frozen=True)
class BetterTradeOff(Contrast):
    """Which of two defenses has the better Δ: +1 the first, -1 the second, 0 neither.

    TL-DMI is left out where its target was never trained on public data: it then freezes layers that nobody
    has trained.
    """

    first: str
    second: str

    is_ranked: ClassVar[bool] = True
    has_p: ClassVar[bool] = False

    def effects(self, groups: Groups) -> Iterator[Effect]:
        for group in groups:
            for undefended in group.with_defense():
                for first in of_defense(group, self.first):
                    for second in of_defense(group, self.second):
                        if "TL-DMI" in second.name.names and _from_scratch(second):
                            continue
                        yield _compared_trade_offs(group, undefended, first, second)


def _from_scratch(defense: DefenseRuns) -> bool:
    """Whether a target's layers began at random: it neither started from weights nor was loaded."""
    targets = [record["config"]["target"] for record in defense.records]
    return any(node.get("weights") is None and node.get("checkpoint") is None for node in targets)


def ordered_trade_off(taken: Numbers, lost: Numbers) -> Numbers:
    """Trade-offs as numbers in order of preference: nothing taken from the attacker (0, all alike), Δ, then
    OP by what it takes.
    """
    ratio = np.divide(taken, lost, out=np.zeros_like(taken), where=lost > 0)
    ordered: Numbers = np.where(taken <= 0, 0.0, np.where(lost > 0, ratio, NOTHING_PAID + taken))
    return ordered


def _compared_trade_offs(
    group: ComparisonGroup, undefended: DefenseRuns, first: DefenseRuns, second: DefenseRuns
) -> Effect:
    ordered = [_trade_off_draws(group, undefended, defense) for defense in (first, second)]
    values = [_trade_off_value(undefended, defense) for defense in (first, second)]
    details = []
    for defense in (first, second):
        delta = trade_off(*_accuracies(defense), *_accuracies(undefended))
        details.append(f"{defense.shown} Δ {delta if isinstance(delta, str) else f'{delta:.2f}'}")
    return Effect(
        str(group),
        " against ".join(details),
        float(np.sign(values[0] - values[1])),
        np.sign(ordered[0] - ordered[1]),
    )


def _trade_off_draws(group: ComparisonGroup, undefended: DefenseRuns, defense: DefenseRuns) -> Numbers:
    return ordered_trade_off(
        group.draws(undefended, "att_acc1") - group.draws(defense, "att_acc1"),
        group.draws(undefended, "acc") - group.draws(defense, "acc"),
    )


def _trade_off_value(undefended: DefenseRuns, defense: DefenseRuns) -> float:
    (acc, att_acc), (base_acc, base_att_acc) = _accuracies(defense), _accuracies(undefended)
    return float(ordered_trade_off(np.asarray([base_att_acc - att_acc]), np.asarray([base_acc - acc]))[0])


def _accuracies(defense: DefenseRuns) -> tuple[float, float]:
    return defense.mean("acc"), defense.mean("att_acc1")


#: The contrasts by what a yaml calls them.
CONTRASTS: Mapping[str, type[Any]] = {
    "difference": Difference,
    "informed_gain": InformedGain,
    "between_attacks": BetweenAttacks,
    "above_chance": AboveChance,
    "accuracy_lost": AccuracyLost,
    "at_equal_share": AtEqualShare,
    "gain_at_equal_accuracy": GainAtEqualAccuracy,
    "between_seeds": BetweenSeeds,
    "slope_over_share": SlopeOverShare,
    "slope_over_robustness": SlopeOverRobustness,
    "off_the_line": OffTheLine,
    "wider_range": WiderRange,
    "combination": Combination,
    "averaged": Averaged,
    "better_trade_off": BetterTradeOff,
}
