"""Random pixels: as many pixels of every training image are erased as MIDRE would erase, scattered instead of
in one square. A difference between the two is due to the shape of what is gone.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from defenses.parts.erasing import Erasing
from defenses.parts.squares import painted


def scattered(size: tuple[int, int], count: Tensor, numbers: Tensor) -> Tensor:
    """``count`` pixels of images of ``size`` (height, width), int64 [n], those whose ``numbers`` [n, h * w]
    are the lowest: bool [n, 1, h, w]. Uniform numbers make every set of so many equally likely.
    """
    order = numbers.argsort(1)
    first = torch.arange(size[0] * size[1], device=numbers.device) < count[:, None]
    return torch.zeros_like(first).scatter_(1, order, first).view(-1, 1, *size)


def erase_pixels(images: Tensor, count: Tensor, fill: Tensor, numbers: Tensor) -> Tensor:
    """A copy of ``images`` with ``fill`` on ``count`` pixels of each, as ``scattered`` and ``painted``."""
    return painted(images, scattered((images.shape[-2], images.shape[-1]), count, numbers), fill)


@dataclass(kw_only=True, eq=False)
class RandomPixels(Erasing):
    """``fill`` on as many random pixels as MIDRE's square has, area A ~ U(a_l, a_h); options of ``MIDRE``."""

    name: ClassVar[str] = "random_pixels"
    noun: ClassVar[str] = "Random pixels"

    def _erased(
        self,
        size: tuple[int, int],
        squares: tuple[Tensor, Tensor, Tensor],
        further: Callable[[int], Tensor],
    ) -> Tensor:
        side = squares[2]
        return scattered(size, side * side, further(size[0] * size[1]))
