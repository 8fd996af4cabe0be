"""FE: every training image has lost one square, at a place of its own that stays for the whole training
(MIDRE Table 1).

The square is painted on the stored images, before crop, jitter and flip. It is thus fixed in the picture,
while RE and MIDRE erase anew each time, and last.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from defenses.base import Defense, Informed
from defenses.parts.batch_view import BatchView, Numbers
from defenses.parts.options import check_choice
from defenses.parts.squares import ROUNDINGS, erase_squares, square_side
from midre_exp.data.base import ImageSet
from midre_exp.errors import ConfigError
from midre_exp.plan.ranges import BelowOne, Share
from midre_exp.seeding import ItemRNG
from midre_exp.targets.base import Classifier

#: Whether the last place at which the square fits counts.
CORNERS = ("half_open", "closed")

_BLOCK = 256  # images worked on together: about 50 MB at 224 px, whatever the size of the data set


def fixed_corners(n: int, rows: int, columns: int, *, seed: int) -> tuple[Tensor, Tensor]:
    """(top, left) of each of ``n`` images: int64 [n], uniform in 0..rows - 1 and 0..columns - 1.

    A pure function of (seed, position of the image), so that epochs, workers and resumed runs agree.
    """
    numbers = ItemRNG(seed, "fixed erasing", items=torch.arange(n)).uniform("corner", 2)
    return corners(numbers, rows, columns)


def corners(numbers: Tensor, rows: int, columns: int) -> tuple[Tensor, Tensor]:
    """(top, left), int64 [n] each, of ``numbers`` [n, 2], uniform in [0, 1)."""
    down, right = numbers.unbind(1)
    return (down * rows).long(), (right * columns).long()


@dataclass(kw_only=True, eq=False)
class FixedErasing(Defense):
    """Erasing at a fixed location (FE of MIDRE Table 1; details from the early history of its repository):
    ``fill`` on a square of area ``share`` whose corner is drawn once for each image.
    """

    exclusive = frozenset({"erase"})
    conflicts = {
        "LeaveOut": "FE and EE are two arms of one ablation, which hide a part of each image or some whole "
        "images"
    }

    share: BelowOne  # erased share of the image, 0 <= share < 1; 0 is no defense
    rounding: str  # round | floor | ceil, of the side to pixels
    corner: str  # half_open: uniform over whole numbers below (size - side) | closed: up to it
    fill: tuple[Share, Share, Share]  # red, green, blue, pixel values in [0, 1], rounded to 8 bits

    def __post_init__(self) -> None:
        if not isinstance(self.share, (int, float)) or not 0 <= self.share < 1:
            raise ConfigError(
                f"defense.fe.share={self.share} is no share of the image; give a number from 0 to below 1"
            )
        check_choice("fe.rounding", self.rounding, ROUNDINGS)
        check_choice("fe.corner", self.corner, CORNERS)
        if not (
            isinstance(self.fill, Sequence)
            and len(self.fill) == 3
            and all(isinstance(value, (int, float)) and 0 <= value <= 1 for value in self.fill)
        ):
            raise ConfigError(
                f"defense.fe.fill={self.fill} is no colour; give three pixel values from 0 to 1"
            )

    @property
    def label(self) -> str:
        return f"FE {self.share:g}"

    def on_dataset(self, train: ImageSet, *, seed: int) -> ImageSet:
        """The images, in memory of their own, each without its square; the given ones may be mapped and stay
        as they are.

        Raises ConfigError when the square has no pixel or is as large as the shorter side of the image.
        """
        if self.share == 0:
            return train
        n, _, height, width = train.images.shape
        side, rows, columns = self._sizes(height, width)
        top, left = fixed_corners(n, rows, columns, seed=seed)
        fill = (255 * torch.tensor(self.fill)).round().to(train.images.dtype)
        erased = torch.empty(train.images.shape, dtype=train.images.dtype)
        for first in range(0, n, _BLOCK):
            block = slice(first, first + _BLOCK)
            sides = torch.full_like(top[block], side)
            erased[block] = erase_squares(train.images[block], top[block], left[block], sides, fill)
        return replace(train, images=erased)

    def informed(self, model: Classifier) -> Informed:
        """The square as it lies in stored images, at the size of the target's; what augmentation made of it
        in training is left out.
        """
        if self.share == 0:
            return Informed(reason="nothing is erased, so the attack is the plain one")
        fill = (255 * torch.tensor(self.fill)).round() / 255

        def erase(images: Tensor, numbers: Numbers) -> Tensor:
            side, rows, columns = self._sizes(*images.shape[-2:])
            top, left = corners(numbers("corner", 2), rows, columns)
            sides = torch.full_like(top, side)
            return erase_squares(images, top, left, sides, fill.to(images.device, non_blocking=True))

        return Informed(
            views=(BatchView(self.label, erase),),
            stored=True,
            reason="the target has seen erased faces alone, so it is shown faces erased by the same law",
        )

    def _sizes(self, height: int, width: int) -> tuple[int, int, int]:
        """The side of the square in an image, and in how many rows and columns its corner may lie."""
        side = square_side(self.share, height, width, self.rounding)
        if not 0 < side < min(height, width):
            raise ConfigError(
                f"defense.fe.share={self.share:g} asks for a square of side {side} on {height}x{width} "
                "images; "
                f"choose a share that gives a side from 1 to {min(height, width) - 1}"
            )
        further = self.corner == "closed"
        return side, height - side + further, width - side + further
