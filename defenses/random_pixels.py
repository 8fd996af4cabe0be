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


def erase_pixels(images: Tensor, count: Tensor, fill: Tensor, numbers: Tensor) -> Tensor:
    """A copy of ``images`` [n, c, h, w] with ``fill`` on ``count`` pixels of each, int64 [n], those whose
    ``numbers`` [n, h * w] are the lowest: uniform ones make every set of so many equally likely. Other pixels
    are bit-equal. ``fill``: [c] or [1, c, 1, 1] in the units of the images.
    """
    n, _, height, width = images.shape
    order = numbers.argsort(1)
    first = torch.arange(height * width, device=images.device) < count[:, None]
    erased = torch.zeros_like(first).scatter_(1, order, first).view(n, 1, height, width)
    return torch.where(erased, fill.reshape(1, -1, 1, 1).to(images), images)


@dataclass(kw_only=True, eq=False)
class RandomPixels(Erasing):
    """``fill`` on as many random pixels as MIDRE's square has, area A ~ U(a_l, a_h); options of ``MIDRE``."""

    name: ClassVar[str] = "random_pixels"

    @property
    def label(self) -> str:
        return f"Random pixels [{self.a_l:g}, {self.a_h:g}]"

    def _erase(
        self,
        images: Tensor,
        squares: tuple[Tensor, Tensor, Tensor],
        fill: Tensor,
        further: Callable[[int], Tensor],
    ) -> Tensor:
        side = squares[2]
        height, width = images.shape[-2:]
        return erase_pixels(images, side * side, fill, further(height * width))
