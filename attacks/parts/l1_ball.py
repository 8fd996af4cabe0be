"""How IF-GMI keeps what it optimises near where it started: Euclidean projection onto balls of the L1 norm,
one per item.
"""

from __future__ import annotations

import torch
from torch import Tensor


def project(offsets: Tensor, radius: float) -> Tensor:
    """The point nearest to each item of ``offsets`` [n, ...] among those whose absolute values add up to
    ``radius`` > 0 at most.

    Items within the ball stay as they are. Of an x outside comes sign(x) max(|x| - theta, 0), whose norm is
    the radius. Theta is found by Newton's method on that norm, from 0 upwards: entries only ever fall below
    it, and as soon as none does it is exact, after a few rounds (Michelot 1986). Sorting, the usual way,
    would need several times the memory of x.
    """
    sizes = offsets.flatten(1).abs()
    theta = torch.zeros_like(sizes[:, :1])
    count = torch.full_like(theta, -1, dtype=torch.long)
    while True:
        beyond = (sizes - theta).clamp(min=0)
        left = (beyond > 0).sum(1, keepdim=True)
        if torch.equal(left, count):
            return (offsets.flatten(1).sign() * beyond).view_as(offsets)
        # The lower bound leaves items within the ball alone and keeps rounding from letting an entry return;
        # an item that has arrived waits for the others, or its last digits would depend on them.
        further = ((beyond.sum(1, keepdim=True) - radius) / left.clamp(min=1)).clamp(min=0)
        theta = theta + further * (left != count)
        count = left


def near(points: Tensor, centre: Tensor, radius: float | None) -> Tensor:
    """``points`` [n, ...], each moved to the nearest point of the ball of ``radius`` around its ``centre``;
    None: left where it is.
    """
    return points if radius is None else centre + project(points - centre, radius)
