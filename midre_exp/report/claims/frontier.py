"""The early-stopping frontier of a comparison group, and what a defense gains over it at equal accuracy.

An undefended target that is stopped early is less accurate and less attacked, for nothing: the control of
every defense. The frontier of a group are its NoDef and its early-stopped runs, accuracy on x and attack
accuracy on y, joined by straight lines. A defense gains what the frontier has at its accuracy less what it
has itself, in points of attack accuracy; above NoDef's accuracy NoDef's own value counts, below the lowest
point there is nothing to compare with. Everything is taken draw by draw, with the same resampled identities
and seeds; a draw that lies below the lowest point goes on along the lowest line.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from midre_exp.report.claims import cells
from midre_exp.report.claims.cells import Cells, Numbers
from midre_exp.report.claims.effects import Effect
from midre_exp.report.claims.intervals import ComparisonGroup, DefenseRuns

#: The paper's names of what the frontier is made of, beside no defense.
EARLY_STOPPING = "EarlyStopping"

Position = Literal["within", "above", "below"]


@dataclass(frozen=True)
class Gain:
    """What a defense gains at equal accuracy; nothing where it is less accurate than the whole frontier."""

    position: Position  # of its accuracy on the frontier; above: more accurate than NoDef
    effect: Effect | None  # positive: attacked less than the frontier

    @property
    def value(self) -> float | None:
        """In points of attack accuracy."""
        return None if self.effect is None else self.effect.value

    @property
    def interval(self) -> tuple[float, float] | None:
        """Its 95 % interval."""
        if self.effect is None:
            return None
        low, high = np.quantile(self.effect.draws, [0.025, 0.975])
        return float(low), float(high)


def frontier_of(group: ComparisonGroup) -> list[DefenseRuns]:
    """NoDef, then the early-stopped runs; empty where one of the two is missing."""
    undefended, stopped = group.with_defense(), group.with_defense(EARLY_STOPPING)
    return [undefended[0], *stopped] if undefended and stopped else []


def is_frontier(defense: DefenseRuns) -> bool:
    """Whether a defense is a point of frontiers itself."""
    return defense.name.names in ((), (EARLY_STOPPING,))


def gain_of(group: ComparisonGroup, defense: DefenseRuns) -> Gain | None:
    """What a defense gains over the frontier of its group; None where there is none, or for one of its own
    points.
    """
    points = frontier_of(group)
    if not points or is_frontier(defense):
        return None
    at = np.asarray([defense.mean("acc")])
    accuracies = np.asarray([[point.mean("acc")] for point in points])
    attacks = np.asarray([[point.mean("att_acc1")] for point in points])
    position = _position(accuracies[:, 0], float(at[0]))
    if position == "below":
        return Gain(position, None)
    on_frontier = interpolated(accuracies, attacks, at)[0]
    own = defense.mean("att_acc1")
    weights = interpolated(
        accuracies.repeat(len(points), axis=1), np.eye(len(points)), at.repeat(len(points))
    )
    draws = frontier_draws(group, points, group.draws(defense, "acc")) - group.draws(defense, "att_acc1")
    detail = (
        f"{defense.shown} {own:.2f} against {on_frontier:.2f} of the early-stopping frontier at "
        f"{min(at[0], accuracies[0, 0]):.2f} % accuracy"
    )
    effect = Effect(
        str(group), detail, float(on_frontier - own), draws, _cells(group, defense, points, weights)
    )
    return Gain(position, effect)


def frontier_draws(group: ComparisonGroup, points: Sequence[DefenseRuns], at: Numbers) -> Numbers:
    """Attack accuracy of the frontier at accuracies ``at`` [DRAWS], one for each draw."""
    accuracies, attacks = (
        np.stack([group.draws(point, metric) for point in points]) for metric in ("acc", "att_acc1")
    )
    return interpolated(accuracies, attacks, at)


def interpolated(accuracies: Numbers, attacks: Numbers, at: Numbers) -> Numbers:
    """Attack accuracy at accuracies ``at`` [n] on frontiers of points [points, n], the first of which is
    NoDef: linear between neighbours, NoDef's own from its accuracy on, along the lowest line below all.

    Points that are more accurate than NoDef do not count.
    """
    counts = accuracies <= accuracies[0]
    order = np.argsort(np.where(counts, accuracies, np.inf), axis=0, kind="stable")
    x = np.take_along_axis(np.where(counts, accuracies, np.inf), order, axis=0)
    y = np.take_along_axis(attacks, order, axis=0)
    last = counts.sum(axis=0) - 1
    right = np.clip((x <= at).sum(axis=0), np.minimum(1, last), last)
    left = np.maximum(right - 1, 0)
    (x_left, y_left), (x_right, y_right) = (
        tuple(np.take_along_axis(values, index[None], axis=0)[0] for values in (x, y))
        for index in (left, right)
    )
    width = x_right - x_left
    share = np.divide(at - x_left, width, out=np.ones_like(width), where=width > 0)
    found: Numbers = np.where(at >= accuracies[0], attacks[0], y_left + share * (y_right - y_left))
    return np.clip(found, 0.0, 100.0)


def _position(accuracies: Numbers, at: float) -> Position:
    if at > accuracies[0]:
        return "above"
    return "below" if at < accuracies.min() else "within"


def _cells(
    group: ComparisonGroup, defense: DefenseRuns, points: Sequence[DefenseRuns], weights: Numbers
) -> Cells | None:
    """What each identity adds to a gain, the accuracies held where they were measured."""
    used = [(float(weight), point) for weight, point in zip(weights, points, strict=True) if weight]
    if any(point.seeds != defense.seeds for _, point in used):
        return None
    terms = [(weight, group.cells(point, "att_acc1")) for weight, point in used]
    return cells.combined([*terms, (-1, group.cells(defense, "att_acc1"))])
