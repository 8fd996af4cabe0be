"""How IF-GMI keeps what it optimises near where it started: Euclidean projection onto balls of the L1 norm,
one per item.
"""

from __future__ import annotations

import itertools

import torch
from torch import Tensor

#: Rounds of Newton's method between two questions whether all items have arrived; to ask waits for a GPU.
_ROUNDS = {"cpu": 1, "other": 8}


def project(offsets: Tensor, radius: float, rounds: int | None = None) -> Tensor:
    """The point nearest to each item of ``offsets`` [n, ...] among those whose absolute values add up to
    ``radius`` > 0 at most.

    Items within the ball stay as they are. Of an x outside comes sign(x) max(|x| - theta, 0), whose norm is
    the radius. Theta is found by Newton's method on that norm, from 0 upwards: entries only ever fall below
    it, and as soon as none does it is exact, after a few rounds (Michelot 1986). Sorting, the usual way,
    would need several times the memory of x. ``rounds`` at a time are made unasked: those that an item
    did not need leave it as it is.
    """
    rounds = rounds or _ROUNDS.get(offsets.device.type, _ROUNDS["other"])
    sizes = offsets.flatten(1).abs()
    theta = torch.zeros_like(sizes[:, :1])
    count = torch.full_like(theta, -1, dtype=torch.long)
    for number in itertools.count():
        beyond = (sizes - theta).clamp(min=0)
        left = (beyond > 0).sum(1, keepdim=True)
        if number and number % rounds == 0 and torch.equal(left, count):
            break
        # The lower bound leaves items within the ball alone and keeps rounding from letting an entry return;
        # an item that has arrived waits for the others, or its last digits would depend on them.
        further = ((beyond.sum(1, keepdim=True) - radius) / left.clamp(min=1)).clamp(min=0)
        theta = theta + further * (left != count)
        count = left
    return (offsets.flatten(1).sign() * beyond).view_as(offsets)


def near(points: Tensor, centre: Tensor, radius: float | None) -> Tensor:
    """``points`` [n, ...], each moved to the nearest point of the ball of ``radius`` around its ``centre``;
    None: left where it is.
    """
    return points if radius is None else centre + project(points - centre, radius)
