"""One comparison of records as a number with its draws, and the mean of several."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from midre_exp.report.claims import cells
from midre_exp.report.claims.cells import Cells, Numbers
from midre_exp.report.claims.intervals import ComparisonGroup, DefenseRuns


@dataclass(frozen=True)
class Effect:
    """One comparison."""

    where: str
    detail: str  # what was compared
    value: float  # from the records themselves
    draws: Numbers  # [DRAWS], what it could have been
    cells: Cells | None = None  # what each identity adds to it; None: not known, or it is no sum


def mean_effect(effects: Sequence[Effect], where: str, detail: str) -> Effect:
    """The mean of effects, draw by draw."""
    value = float(np.mean([effect.value for effect in effects]))
    draws = np.mean([effect.draws for effect in effects], axis=0)
    return Effect(where, detail, value, draws, cells.mean_of([effect.cells for effect in effects]))


def difference(group: ComparisonGroup, first: DefenseRuns, second: DefenseRuns, metric: str) -> Effect:
    """A metric of the first defense less that of the second, in points."""
    a, b = first.mean(metric), second.mean(metric)
    return Effect(
        str(group),
        f"{first.shown} {a:.2f} against {second.shown} {b:.2f}",
        a - b,
        group.draws(first, metric) - group.draws(second, metric),
        cells.combined([(1, group.cells(first, metric)), (-1, group.cells(second, metric))])
        if first.seeds == second.seeds
        else None,
    )
