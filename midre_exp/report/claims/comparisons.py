"""The comparisons of records that the paper's claims rest on: each finds its effects in the comparison
groups, whose ``draws`` say how sure they are.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import combinations

import numpy as np

from midre_exp.plan.config import without
from midre_exp.report.claims.decisions import Effect, mean_effect
from midre_exp.report.claims.intervals import ComparisonGroup, DefenseRuns, Numbers
from midre_exp.report.runs.trade_off import trade_off

#: Stands for OP where trade-offs are put in order.
NOTHING_PAID = 1e9


def difference(group: ComparisonGroup, first: DefenseRuns, second: DefenseRuns, metric: str) -> Effect:
    """A metric of the first defense less that of the second, in points."""
    a, b = first.mean(metric), second.mean(metric)
    return Effect(
        str(group),
        f"{first.shown} {a:.2f} against {second.shown} {b:.2f}",
        a - b,
        group.draws(first, metric) - group.draws(second, metric),
    )


def erasing(groups: Sequence[ComparisonGroup], metric: str) -> Iterator[Effect]:
    """MIDRE, whatever its range, against no defense."""
    for group in groups:
        for undefended in group.with_defense():
            for midre in group.with_defense("MIDRE"):
                yield difference(group, midre, undefended, metric)


def cost(groups: Sequence[ComparisonGroup]) -> Iterator[Effect]:
    """Accuracy lost under MIDRE."""
    for effect in erasing(groups, "acc"):
        yield Effect(effect.where, effect.detail, -effect.value, -effect.draws)


def at_equal_share(
    groups: Sequence[ComparisonGroup], first: str, second: str, metric: str
) -> Iterator[Effect]:
    """Two ways of withholding the same share of the training images."""
    for group in groups:
        for a in group.with_defense(first):
            for b in group.with_defense(second):
                if a.name.share == b.name.share:
                    yield difference(group, a, b, metric)


def against(groups: Sequence[ComparisonGroup], other: str, metric: str) -> Iterator[Effect]:
    """MIDRE against another defense or augmentation."""
    for group in groups:
        for midre in group.with_defense("MIDRE"):
            for defense in group.with_defense(other):
                yield difference(group, midre, defense, metric)


def per_share(groups: Sequence[ComparisonGroup]) -> Iterator[Effect]:
    """Slope of attack accuracy over the share erased by RE: points for each further 10 % of the image, by
    least squares.
    """
    for group in groups:
        families: dict[str, list[DefenseRuns]] = {}
        for defense in group.with_defense("RE"):
            rules = [without(part, "a_l", "a_h") for part in defense.parts.values()]
            families.setdefault(repr(rules), []).append(defense)
        for family in families.values():
            defenses = sorted(family, key=lambda defense: defense.name.share or (0, 0))
            shares = np.asarray([10 * defense.name.share[0] for defense in defenses if defense.name.share])
            if len(set(shares)) < 2:
                continue
            weights = (shares - shares.mean()) / np.square(shares - shares.mean()).sum()
            values = np.asarray([defense.mean("att_acc1") for defense in defenses])
            draws = np.stack([group.draws(defense, "att_acc1") for defense in defenses])
            detail = ", ".join(
                f"{defense.shown} {value:.2f}" for defense, value in zip(defenses, values, strict=True)
            )
            yield Effect(str(group), detail, float(weights @ values), weights @ draws)


def wider(groups: Sequence[ComparisonGroup]) -> Iterator[Effect]:
    """A wider range of MIDRE against a narrower one with the same floor."""
    for group in groups:
        for a, b in combinations(group.with_defense("MIDRE"), 2):
            narrow, wide = sorted((a, b), key=lambda defense: defense.name.share or (0, 0))
            if narrow.name.share != wide.name.share:
                yield difference(group, wide, narrow, "att_acc1")


def combined(groups: Sequence[ComparisonGroup]) -> Iterator[Effect]:
    """MIDRE with another defense against each of the two alone, with the same parameters."""
    for group in groups:
        for defense in group.defenses:
            if "MIDRE" not in defense.name.names or len(defense.name.names) < 2:
                continue
            for name, part in defense.parts.items():
                for alone in group.defenses:
                    if dict(alone.parts) == {name: part}:
                        yield difference(group, defense, alone, "att_acc1")


def everywhere(groups: Sequence[ComparisonGroup], what: Callable[[ComparisonGroup], str]) -> Iterator[Effect]:
    """MIDRE against no defense, averaged for each target, attack or data set; nothing where there is only one
    of them.
    """
    by_name: dict[str, list[Effect]] = {}
    for group in groups:
        for effect in erasing([group], "att_acc1"):
            by_name.setdefault(what(group), []).append(effect)
    if len(by_name) < 2:
        return
    for name, effects in by_name.items():
        detail = f"mean of {len(effects)}" if len(effects) > 1 else effects[0].detail
        yield mean_effect(effects, name, detail)


def ordered_trade_off(taken: Numbers, lost: Numbers) -> Numbers:
    """Trade-offs as numbers in order of preference: nothing taken from the attacker (0, all alike), Δ, then
    OP by what it takes.
    """
    ratio = np.divide(taken, lost, out=np.zeros_like(taken), where=lost > 0)
    ordered: Numbers = np.where(taken <= 0, 0.0, np.where(lost > 0, ratio, NOTHING_PAID + taken))
    return ordered


def better_trade_off(groups: Sequence[ComparisonGroup], other: str) -> Iterator[Effect]:
    """Who has the better Δ: +1 MIDRE, -1 the other, 0 neither.

    TL-DMI is left out where its target was never trained on public data: it then freezes layers that nobody
    has trained.
    """
    for group in groups:
        for undefended in group.with_defense():
            for midre in group.with_defense("MIDRE"):
                for defense in group.with_defense(other):
                    if other == "TL-DMI" and _from_scratch(defense):
                        continue
                    yield _compared_trade_offs(group, undefended, midre, defense)


def _from_scratch(defense: DefenseRuns) -> bool:
    """Whether a target's layers began at random: it neither started from weights nor was loaded."""
    targets = [record["config"]["target"] for record in defense.records]
    return any(node.get("weights") is None and node.get("checkpoint") is None for node in targets)


def _compared_trade_offs(
    group: ComparisonGroup, undefended: DefenseRuns, midre: DefenseRuns, other: DefenseRuns
) -> Effect:
    ordered = [_trade_off_draws(group, undefended, defense) for defense in (midre, other)]
    values = [_trade_off_value(undefended, defense) for defense in (midre, other)]
    details = []
    for defense in (midre, other):
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
