"""What each cluster of a comparison adds to its effect: the units that a permutation test exchanges.

A cluster is an identity with all of its seeds, or an identity of one seed where each seed has its own.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Numbers = NDArray[np.float64]
#: Data set and, where each seed has identities of its own, seed; within it identities by their label.
Place = tuple[str, int | None]


@dataclass(frozen=True)
class Cells:
    """``parts`` sum up to the effect, ``weights`` to 1; both by place, [identities]."""

    parts: Mapping[Place, Numbers]
    weights: Mapping[Place, Numbers]

    def less(self, margin: float) -> Numbers:
        """Every part less its share of a margin, [clusters]: they sum up to effect - margin."""
        return np.concatenate([self.parts[place] - margin * self.weights[place] for place in self.parts])


def combined(terms: Iterable[tuple[float, Cells | None]]) -> Cells | None:
    """The cells of a sum of effects, each times a number, over the same identities; None where those of one
    are not known or of others.
    """
    factors, cells = zip(*terms, strict=True)
    first = cells[0]
    if first is None:
        return None
    shapes = {place: len(row) for place, row in first.parts.items()}
    parts = {place: np.zeros(length) for place, length in shapes.items()}
    for factor, other in zip(factors, cells, strict=True):
        if other is None or {place: len(row) for place, row in other.parts.items()} != shapes:
            return None
        for place, row in other.parts.items():
            parts[place] = parts[place] + factor * row
    return Cells(parts, first.weights)


def shifted(cells: Cells | None, by: float) -> Cells | None:
    """The cells of an effect less a number; None where they are not known."""
    if cells is None:
        return None
    parts = {place: row - by * cells.weights[place] for place, row in cells.parts.items()}
    return Cells(parts, cells.weights)


def mean_of(effects: Sequence[Cells | None]) -> Cells | None:
    """The cells of the mean of several effects: identities that appear in several of them stay one cluster;
    None where those of one are not known.
    """
    known = [cells for cells in effects if cells is not None]
    if len(known) < len(effects) or not known:
        return None
    longest: dict[Place, int] = {}
    for cells in known:
        for place, row in cells.parts.items():
            longest[place] = max(longest.get(place, 0), len(row))
    parts, weights = ({place: np.zeros(count) for place, count in longest.items()} for _ in range(2))
    for cells in known:
        for place, row in cells.parts.items():
            parts[place][: len(row)] += row / len(known)
            weights[place][: len(row)] += cells.weights[place] / len(known)
    return Cells(parts, weights)
