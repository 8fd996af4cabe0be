"""p-values by sign flips, and their correction for the number of claims.

Null hypothesis: exchanging the two sides of a comparison within an identity changes nothing, so what an
identity adds to effect - margin is as likely as its negative, independently of other identities. An identity
flips as a whole, with all of its seeds, attacks and targets, because a person easy to reconstruct once is so
again; where each seed has identities of its own, each of them flips alone. Trainings are not exchanged (three
seeds have no test below 0.25): that another training would give other numbers is in the interval, which an
answer needs as well.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Numbers = NDArray[np.float64]

#: Sign patterns that are drawn where there are too many to try all.
FLIPS = 20_000
#: Up to so many clusters all patterns are tried.
EXACT = 14


def sign_flip_p(parts: Numbers) -> float:
    """Two-sided p-value of the sum of ``parts`` [clusters]: the share of sign patterns whose sum is at least
    as far from 0. Exact up to ``EXACT`` clusters; else of ``FLIPS`` patterns, always the same ones, with the
    observed one counted in. Parts that are 0 say nothing and leave it as it is.
    """
    moving = parts[parts != 0]
    if not len(moving):
        return 1.0
    observed = abs(float(moving.sum()))
    least = observed - 1e-9 * float(np.abs(moving).sum())  # sums in another order round differently
    if len(moving) <= EXACT:
        patterns = np.arange(2 ** len(moving))[:, None] >> np.arange(len(moving)) & 1
        return float(np.mean(np.abs((1 - 2 * patterns) @ moving) >= least))
    random = np.random.default_rng(20)
    patterns = random.integers(0, 2, (FLIPS, len(moving)), dtype=np.int8)
    sums = moving.sum() - 2 * (patterns @ moving)
    return float((1 + np.sum(np.abs(sums) >= least)) / (1 + FLIPS))


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's step-down correction, in the order given: the i-th smallest of m times m - i, never below a
    smaller one, at most 1.
    """
    corrected = [1.0] * len(p_values)
    largest = 0.0
    for rank, place in enumerate(np.argsort(p_values, kind="stable")):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[place]))
        corrected[place] = largest
    return corrected
