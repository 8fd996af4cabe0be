"""Whether two samples come from the same law."""

from __future__ import annotations

import torch
from torch import Tensor


def distance(one: Tensor, other: Tensor) -> float:
    """Kolmogorov-Smirnov: the largest gap between the two distribution functions of the samples [n] and [m],
    ties allowed.
    """
    points = torch.cat((one, other)).unique()
    below = [
        torch.searchsorted(sample.sort().values, points, right=True).double() / len(sample)
        for sample in (one, other)
    ]
    return float((below[0] - below[1]).abs().max())


def same_law(one: Tensor, other: Tensor) -> None:
    """Fail if the samples differ by what happens to one law in a thousand pairs of samples, or more. Draws
    must be seeded.
    """
    limit = 1.95 * (1 / len(one) + 1 / len(other)) ** 0.5
    gap = distance(one, other)
    assert gap < limit, f"distributions differ by {gap:.4f}, limit {limit:.4f}"
