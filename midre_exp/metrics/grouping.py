"""Images side by side by identity, so that what is measured per identity needs no loop over identities."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

#: How many numbers of one padded block of features or distances are in memory at a time (float64: 256 MiB).
_NUMBERS = 2**25


def rows_of(labels: Tensor, classes: Tensor) -> tuple[Tensor, Tensor]:
    """Which rows of ``labels`` int64 [n] belong to each of ``classes`` int64 [c], sorted and unique, in their
    order, filled up to the most.

    Returns int64 [c, m] and bool [c, m]: where False, the row is 0 and stands for nothing.
    """
    place = torch.searchsorted(classes, labels)
    known = (classes[place.clamp(max=len(classes) - 1)] == labels).nonzero().squeeze(1)
    place, order = place[known].sort(stable=True)
    counts = place.bincount(minlength=len(classes))
    column = torch.arange(len(order)) - (counts.cumsum(0) - counts)[place]
    rows = torch.zeros(len(classes), int(counts.max()), dtype=torch.int64)
    rows[place, column] = known[order]
    return rows, torch.arange(rows.shape[1]) < counts[:, None]


def together(rows_a: Tensor, rows_b: Tensor, width: int) -> Iterator[slice]:
    """Ranges of classes whose features, ``width`` numbers an image, and pairwise distances fit into memory at
    once.
    """
    most = max(rows_a.shape[1], rows_b.shape[1], 1)
    step = max(1, _NUMBERS // (most * max(most, width)))
    for start in range(0, len(rows_a), step):
        yield slice(start, start + step)


def distances(a: Tensor, b: Tensor) -> Tensor:
    """L2 distances [c, n, m] of [c, n, d] and [c, m, d] without the cancellation of the matrix product form:
    0 for equal rows.
    """
    return torch.cdist(a, b, compute_mode="donot_use_mm_for_euclid_dist")
