"""Leakage over robust accuracy: the straight line through the arms of a comparison group, by least squares.

Each arm, NoDef among them, is a point: how robust its targets are (``ROBUST`` of the diagnostics of a target)
on x, how often they are attacked with success on y. Left out are targets stopped early, which the frontier
is made of, and defenses that act at deployment alone, whose network is another arm's. Everything is taken
draw by draw, robust accuracies too: those are drawn from the interval over images and from what differs
between seeds, independently between arms. What is uncertain on x pulls a slope towards 0.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np

from midre_exp.report.claims import cells
from midre_exp.report.claims.cells import Numbers
from midre_exp.report.claims.effects import Effect
from midre_exp.report.claims.frontier import EARLY_STOPPING
from midre_exp.report.claims.intervals import ComparisonGroup, DefenseRuns

#: Mean robust accuracy over the logarithm of eps: one number of the whole curve.
ROBUST = "robust_area"
#: What is held constant beside robust accuracy.
Held = Literal["nothing", "accuracy"]
#: Robust accuracies that differ by less are one point, through which no line goes.
_SPREAD = 1e-6


def arms_of(group: ComparisonGroup) -> list[DefenseRuns]:
    """The arms of a group whose targets were diagnosed."""
    return [
        defense
        for defense in group.defenses
        if defense.name.names != (EARLY_STOPPING,)
        and all(ROBUST in record["metrics"] for record in defense.records)
        and not any("deployment" in record for record in defense.records)
    ]


def fitted(at: Sequence[Numbers], wanted: Numbers) -> Numbers | None:
    """By how much each arm's y counts, [arms, n], in a linear form ``wanted`` [1 + len(at), n] of the
    coefficients (constant, then one for each of ``at``) of the least-squares fit; ``at``: each [arms, n].
    None where there are no more arms than coefficients, or they do not fix them.
    """
    design = np.stack([np.ones_like(at[0]), *at], axis=-1).transpose(1, 0, 2)  # [n, arms, coefficients]
    _, arms, coefficients = design.shape
    centred = design - design.mean(axis=1, keepdims=True) * (np.arange(coefficients) > 0)
    spread = np.linalg.svd(centred, compute_uv=False)
    if arms <= coefficients or spread[..., -1].min() < _SPREAD:
        return None
    found: Numbers = np.einsum("pn,npa->an", wanted, np.linalg.pinv(design))
    return found


def slope(group: ComparisonGroup, held: Held) -> Effect | None:
    """Points of attack accuracy for each point of robust accuracy over the arms of a group; with accuracy
    ``held``, beside a slope over that. None where there are too few arms.
    """
    arms = arms_of(group)
    names = [ROBUST] if held == "nothing" else [ROBUST, "acc"]
    if len(arms) < 2:
        return None
    wanted = np.eye(1 + len(names))[:, 1:2]
    weights = fitted([_means(arms, name) for name in names], wanted)
    like = group.draws(arms[0], "att_acc1")
    drawn = fitted([_draws(group, arms, name) for name in names], wanted.repeat(len(like), axis=1))
    if weights is None or drawn is None:
        return None
    leaks, robust = _means(arms, "att_acc1"), _means(arms, ROBUST)
    order = float(np.corrcoef(_ranks(robust[:, 0]), _ranks(leaks[:, 0]))[0, 1])
    detail = f"rank correlation {order:.2f} over {len(arms)} arms: " + ", ".join(
        f"{arm.shown} {y:.2f} at {x:.2f}" for arm, x, y in zip(arms, robust[:, 0], leaks[:, 0], strict=True)
    )
    return Effect(
        str(group),
        detail,
        float(weights[:, 0] @ leaks[:, 0]),
        (drawn * _draws(group, arms, "att_acc1")).sum(axis=0),
        cells.combined(
            [(float(w[0]), group.cells(arm, "att_acc1")) for w, arm in zip(weights, arms, strict=True)]
        )
        if len({arm.seeds for arm in arms}) == 1
        else None,
    )


def off_the_line(group: ComparisonGroup, defense: DefenseRuns) -> Effect | None:
    """Attack accuracy of a defense less that of the line through the other arms at its robust accuracy, in
    points; None where it was not diagnosed or the others give no line. Arms of the same kind are no others.
    """
    arms = arms_of(group)
    others = [arm for arm in arms if arm.name.names != defense.name.names]
    if defense not in arms or len(others) < 3:
        return None

    def predicted(robust: Numbers, at: Numbers) -> Numbers | None:
        return fitted([robust], np.stack([np.ones_like(at), at]))

    weights = predicted(_means(others, ROBUST), _means([defense], ROBUST)[0])
    drawn = predicted(_draws(group, others, ROBUST), group.draws(defense, ROBUST))
    if weights is None or drawn is None:
        return None
    line = float(weights[:, 0] @ _means(others, "att_acc1")[:, 0])
    own = defense.mean("att_acc1")
    terms = [(-float(w[0]), group.cells(arm, "att_acc1")) for w, arm in zip(weights, others, strict=True)]
    return Effect(
        str(group),
        f"{defense.shown} {own:.2f} against {line:.2f} of the line through {len(others)} other arms at "
        f"robust accuracy {defense.mean(ROBUST):.2f}",
        own - line,
        group.draws(defense, "att_acc1") - (drawn * _draws(group, others, "att_acc1")).sum(axis=0),
        cells.combined([(1, group.cells(defense, "att_acc1")), *terms])
        if len({arm.seeds for arm in [defense, *others]}) == 1
        else None,
    )


def line_draws(group: ComparisonGroup, at: Numbers) -> Numbers | None:
    """Attack accuracy of the line through all arms at robust accuracies ``at`` [m]: the line itself, then its
    draws, [1 + DRAWS, m]; None without a line.
    """
    arms = arms_of(group)
    if len(arms) < 3:
        return None
    found = []
    drawn = (_draws(group, arms, ROBUST), _draws(group, arms, "att_acc1"))
    for robust, leaks in ((_means(arms, ROBUST), _means(arms, "att_acc1")), drawn):
        ends = []
        for wanted in np.eye(2):
            weights = fitted([robust], wanted[:, None].repeat(robust.shape[1], axis=1))
            if weights is None:
                return None
            ends.append((weights * leaks).sum(axis=0))
        found.append(ends[0][:, None] + ends[1][:, None] * at)
    return np.concatenate(found)


def _means(arms: Sequence[DefenseRuns], metric: str) -> Numbers:
    """[arms, 1]."""
    return np.asarray([[arm.mean(metric)] for arm in arms])


def _draws(group: ComparisonGroup, arms: Sequence[DefenseRuns], metric: str) -> Numbers:
    """[arms, DRAWS]."""
    return np.stack([group.draws(arm, metric) for arm in arms])


def _ranks(values: Numbers) -> Numbers:
    """From 0; equal ones share their mean."""
    below = (values[None] < values[:, None]).sum(axis=1)
    equal = (values[None] == values[:, None]).sum(axis=1)
    found: Numbers = below + (equal - 1) / 2
    return found
