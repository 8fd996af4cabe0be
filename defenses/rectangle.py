"""Rectangle: MIDRE's share of every training image, in a rectangle of random proportions instead of a square.
A difference between the two is due to the proportions of what is gone.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from defenses.parts.erasing import Erasing
from defenses.parts.squares import rectangles
from midre_exp.errors import ConfigError
from midre_exp.plan.ranges import Positive


def rectangle_sides(
    area: Tensor, draw: Tensor, size: tuple[int, int], ratio: Sequence[float]
) -> tuple[Tensor, Tensor]:
    """(height, width), int64 [n] each, of rectangles with about ``area`` pixels (int64 [n]), as torchvision's
    RandomErasing: round(sqrt(area r)) and round(sqrt(area / r)), r log-uniform in ``ratio`` (low, high).

    Both sides are smaller than those of the image (``size``), as there. torchvision draws again where they
    are not and after ten tries leaves the image whole, so that large areas would be erased less often; here r
    is drawn, by ``draw`` [n] in [0, 1), from that part of its range which fits.
    """
    # what a side may be before rounding; of a range that fits nowhere the ratio nearest to it that does
    tallest, widest = ((length - 0.5) ** 2 for length in size)
    pixels = area.to(draw.dtype)
    least, most = (pixels / widest).log(), (tallest / pixels).log()
    low, high = (torch.full_like(draw, float(end)).log() for end in ratio)
    low, high = low.clamp(least, most), high.clamp(least, most)
    half = (low + draw * (high - low)) / 2
    root = pixels.sqrt()
    sides = (root * half.exp(), root * (-half).exp())
    # the minimum guards against a side at the end of the range that float32 rounds up
    tall, wide = (side.round().long().clamp(max=length - 1) for side, length in zip(sides, size, strict=True))
    return tall, wide


@dataclass(kw_only=True, eq=False)
class Rectangle(Erasing):
    """``fill`` on a rectangle as large as MIDRE's square, A ~ U(a_l, a_h); other options of ``MIDRE``."""

    name: ClassVar[str] = "rectangle"
    noun: ClassVar[str] = "Rectangle"

    ratio: tuple[Positive, Positive]  # smallest and largest height / width, log-uniform between the two

    def __post_init__(self) -> None:
        super().__post_init__()
        ratio = self.ratio
        if not (
            isinstance(ratio, Sequence)
            and len(ratio) == 2
            and all(isinstance(end, (int, float)) for end in ratio)
            and 0 < ratio[0] <= ratio[1] < float("inf")
        ):
            raise ConfigError(
                f"defense.rectangle.ratio={ratio} is no range; give two numbers above 0, the smaller first"
            )

    def _erased(
        self,
        size: tuple[int, int],
        squares: tuple[Tensor, Tensor, Tensor],
        further: Callable[[int], Tensor],
    ) -> Tensor:
        proportion, down, right = further(3).unbind(1)
        area = squares[2] * squares[2]
        tall, wide = rectangle_sides(area, proportion, size, self.ratio)
        top, left = (
            # The minimum guards against a product that float32 rounds up to the number of positions.
            torch.minimum((place * (length - side + 1)).long(), length - side)
            for place, length, side in ((down, size[0], tall), (right, size[1], wide))
        )
        return rectangles(size, top, left, tall, wide)
