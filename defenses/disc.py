"""Disc: MIDRE's share of every training image, in a disc instead of a square. A difference between the two is
due to corners and edges.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from defenses.parts.erasing import Erasing
from defenses.parts.squares import square_side
from midre_exp.errors import ConfigError


def discs(size: tuple[int, int], down: Tensor, right: Tensor, radius: Tensor) -> Tensor:
    """Which pixels of images of ``size`` (height, width) have their centre, (row + 0.5, column + 0.5), in the
    disc of each: bool [n, 1, h, w]. ``down``, ``right``, ``radius``: [n], pixels, of its centre from the
    upper left corner of the image.
    """
    rows, columns = (
        (torch.arange(length, device=radius.device) + 0.5 - place[:, None]) ** 2
        for place, length in ((down, size[0]), (right, size[1]))
    )
    return rows[:, None, :, None] + columns[:, None, None, :] <= (radius**2)[:, None, None, None]


@dataclass(kw_only=True, eq=False)
class Disc(Erasing):
    """``fill`` on a disc that lies in the image and is as large as MIDRE's square, area A ~ U(a_l, a_h);
    options of ``MIDRE``.
    """

    name: ClassVar[str] = "disc"
    noun: ClassVar[str] = "Disc"

    def _erased(
        self,
        size: tuple[int, int],
        squares: tuple[Tensor, Tensor, Tensor],
        further: Callable[[int], Tensor],
    ) -> Tensor:
        if 2 * square_side(self.a_h, *size, self.rounding) > math.sqrt(math.pi) * min(size):
            raise ConfigError(
                f"defense.disc.a_h={self.a_h:g} asks for a disc wider than {size[0]}x{size[1]} images; "
                f"choose at most {math.floor(25 * math.pi * min(size) / max(size)) / 100}"
            )
        radius = squares[2] / math.sqrt(math.pi)
        down, right = (
            radius + place * (length - 2 * radius)
            for place, length in zip(further(2).unbind(1), size, strict=True)
        )
        return discs(size, down, right, radius)
