"""Three ways to make one number of several attacks on the same identities. They differ by much, so each is
always named.

``maximum_of_means``: the best single attack. ``chosen_by_target``: of each identity the attack whose result
the target likes most, which an attacker can do. ``mean_of_identity_maxima``: of each identity the best that
any attack made, an upper bound, for it takes the evaluator to choose; this is called the worst case.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

DRAWS = 4000
Numbers = NDArray[np.float64]


class Aggregates(NamedTuple):
    """Percent of attack accuracy."""

    maximum_of_means: float
    chosen_by_target: float
    mean_of_identity_maxima: float


class Lead(NamedTuple):
    """By how many points one is ahead of another, and the lower end of the paired 95 % interval, None where
    nothing is known by identity.
    """

    value: float
    low: float | None = None


def chosen(liked: Numbers) -> NDArray[np.int64]:
    """The member [identities] whose result the target likes most, the first of several, of ``liked``
    [members, identities].
    """
    found: NDArray[np.int64] = np.argmax(liked, axis=0).astype(np.int64)
    return found


def aggregate(hits: Numbers, liked: Numbers) -> Aggregates:
    """The three of ``hits`` [members, identities] in percent."""
    picked = hits[chosen(liked), np.arange(hits.shape[1])]
    return Aggregates(float(hits.mean(axis=1).max()), float(picked.mean()), float(hits.max(axis=0).mean()))


def intervals(hits: Numbers, liked: Numbers) -> dict[str, tuple[float, float]]:
    """The 95 % bootstrap interval of each of the three, by its name: identities are resampled and the number
    is made anew in every draw. A maximum is biased upwards where identities are few; so is its interval.
    """
    weights = _weights(hits.shape[1])
    picked = hits[chosen(liked), np.arange(hits.shape[1])]
    drawn = {
        "maximum_of_means": (weights @ hits.T).max(axis=1),
        "chosen_by_target": weights @ picked,
        "mean_of_identity_maxima": weights @ hits.max(axis=0),
    }
    return {
        name: (float(low), float(high)) for name, values in drawn.items() for low, high in [_ends(values)]
    }


def lead(first: Numbers, second: Numbers, of: int = 1) -> Lead:
    """How far the first is ahead of the second, both percent by identity, [identities]; its lower end holds
    for all of the ``of`` from which the first was picked (Bonferroni).
    """
    difference = np.asarray(first, dtype=np.float64) - np.asarray(second, dtype=np.float64)
    low = np.quantile(_weights(len(difference)) @ difference, 0.025 / max(of, 1))
    return Lead(float(difference.mean()), float(low))


def _weights(identities: int) -> Numbers:
    """How much each identity counts in each draw, [DRAWS, identities]: the same ones at every call."""
    even = np.full(identities, 1 / identities)
    counts = np.random.default_rng([identities, 21]).multinomial(identities, even, DRAWS)
    weights: Numbers = counts / identities
    return weights


def _ends(values: Numbers) -> tuple[float, float]:
    low, high = np.quantile(values, [0.025, 0.975])
    return float(low), float(high)
