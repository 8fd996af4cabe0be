"""GridMask: MIDRE's share of every training image, in the squares of a turned grid (Chen et al. 2020). A
difference between the two is due to one part of a face being gone, or many evenly spread ones.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from torch import Tensor

from defenses.parts.erasing import Erasing
from midre_exp.errors import ConfigError
from midre_exp.plan.ranges import Range

#: Distance of two stripes as a share of the image's shorter side.
Period = Annotated[float, Range(0, 1, open_low=True)]
Degrees = Annotated[int, Range(1, 360)]

_ONE = 1 << 16  # of Pillow's fixed-point numbers


def grid_squares(
    size: tuple[int, int], period: Tensor, stripe: Tensor, down: Tensor, right: Tensor, degrees: Tensor
) -> Tensor:
    """Which pixels of images of ``size`` (height, width) lie in the squares that the stripes of a grid leave
    between them: bool [n, 1, h, w]. GridMask erases these squares in its mode 1 and all others in its mode 0.

    All arguments are [n]: ``period``, whole pixels from stripe to stripe; ``stripe``, their width in pixels,
    whose end is rounded up to the next pixel; ``down`` and ``right``, where a stripe begins in the first
    period; ``degrees``, by which the grid is then turned about its middle, counter-clockwise. The grid is a
    square as wide as the diagonal of the image, and what a turn brings in from outside is stripe.
    """
    canvas = math.ceil(math.hypot(*size))
    row, column = _turned(size, canvas, degrees)
    inside = (row >= 0) & (row < canvas) & (column >= 0) & (column < canvas)
    for place, begin in ((row, down), (column, right)):
        along = torch.remainder(place - begin[:, None, None], period[:, None, None])
        inside = inside & (along >= stripe[:, None, None])
    return inside[:, None]


def _turned(size: tuple[int, int], canvas: int, degrees: Tensor) -> tuple[Tensor, Tensor]:
    """(row, column), int64 [n, h, w] each, of the canvas that a turn brings to each pixel of the image in its
    middle: the nearest neighbour of Pillow's ``rotate``, whose fixed-point numbers are repeated here.
    """
    angle = torch.deg2rad(degrees.double())
    cos, sin = angle.cos(), angle.sin()
    middle = canvas / 2
    rows, columns = (torch.arange(length, device=degrees.device) + (canvas - length) // 2 for length in size)

    def turned(by_column: Tensor, by_row: Tensor) -> Tensor:
        start = middle + (by_column + by_row) * (0.5 - middle)
        across = _fixed(by_column)[:, None, None] * columns
        return (_fixed(start)[:, None, None] + across + _fixed(by_row)[:, None, None] * rows[:, None]) // _ONE

    return turned(sin, cos), turned(cos, -sin)


def _fixed(number: Tensor) -> Tensor:
    return (number * _ONE + 0.5).floor().long()


@dataclass(kw_only=True, eq=False)
class GridMask(Erasing):
    """``fill`` on the squares of a turned grid that have MIDRE's share together, area A ~ U(a_l, a_h); other
    options of ``MIDRE``.

    The share is met on average over the places of the grid, which are no whole pixels: squares as wide as
    sqrt(A) times the period hide a pixel with probability A.
    """

    name: ClassVar[str] = "gridmask"
    noun: ClassVar[str] = "GridMask"

    #: Smallest and largest distance of two stripes as shares of the image's shorter side; any whole number of
    #: pixels between the two is as likely.
    period: tuple[Period, Period]
    degrees: Degrees  # the grid is turned by a whole number of them below this one; 1: it is not turned

    def __post_init__(self) -> None:
        super().__post_init__()
        period = self.period
        if not (
            isinstance(period, Sequence)
            and len(period) == 2
            and all(isinstance(end, (int, float)) for end in period)
            and 0 < period[0] <= period[1] <= 1
        ):
            raise ConfigError(
                f"defense.gridmask.period={period} is no range of shares; give two numbers above 0 and at "
                "most 1, the smaller first"
            )
        if not isinstance(self.degrees, int) or not 1 <= self.degrees <= 360:
            raise ConfigError(f"defense.gridmask.degrees={self.degrees} must be a whole number from 1 to 360")

    def _erased(
        self,
        size: tuple[int, int],
        squares: tuple[Tensor, Tensor, Tensor],
        further: Callable[[int], Tensor],
    ) -> Tensor:
        length, down, right, turn = further(4).unbind(1)
        shortest, longest = (max(2, round(end * min(size))) for end in self.period)
        period = shortest + (length * (longest - shortest + 1)).long().clamp(max=longest - shortest)
        stripe = period * (1 - squares[2] / math.sqrt(size[0] * size[1]))
        degrees = (turn * self.degrees).long().clamp(max=self.degrees - 1)
        return grid_squares(size, period, stripe, down * period, right * period, degrees)
