"""MIDRE: every training image loses a random square, anew each time it is drawn (MIDRE Sec. 2.2).

A range ``a_l < a_h`` is the defense of the paper's main tables; ``a_l = a_h`` is the fixed share (RE) of its
Table 1. Loss, optimiser and schedule stay as they are, and test images are never touched.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from typing import ClassVar, TypeVar

import torch
from torch import Tensor

from midre_exp.defense import Batch, Defense, TrainingProgress
from midre_exp.errors import ConfigError
from midre_exp.targets.base import Classifier

#: How a length becomes a whole side, and how far below a whole side the lengths begin that are rounded to it.
ROUNDINGS: Mapping[str, tuple[Callable[[float], int], float]] = {
    "round": (round, 0.5),
    "floor": (math.floor, 0.0),
    "ceil": (math.ceil, 1.0),
}
#: How the erased share is distributed between ``a_l`` and ``a_h``.
AREAS = ("uniform", "joint_rejection")
#: What the three fill numbers mean.
FILL_SPACES = ("normalised_literal", "pixel")

_Length = TypeVar("_Length", float, Tensor)


def square_side(share: float, height: int, width: int, rounding: str) -> int:
    """Side in pixels of a square over ``share`` of an image: sqrt(share * height * width), rounded."""
    _require_one_of("rounding", rounding, ROUNDINGS)
    to_whole, _ = ROUNDINGS[rounding]
    # 9 decimals: a share meant as a whole side (0.81 of 70 x 70) must not miss it by a floating point error.
    return to_whole(round(math.sqrt(share * (height * width)), 9))


def sample_squares(
    n: int,
    height: int,
    width: int,
    *,
    a_l: float,
    a_h: float,
    area: str,
    rounding: str,
    generator: torch.Generator,
) -> tuple[Tensor, Tensor, Tensor]:
    """Draw one square per image: (top, left, side), each int64 [n] on the generator's device.

    The options are those of ``MIDRE``; the corner is uniform over all whole positions at which the square
    fits. The host never waits for the device. Raises ConfigError when the largest square has no pixel, or is
    as large as the shorter side of the image (torchvision would leave such an image whole without a word).
    """
    _require_one_of("area", area, AREAS)
    smallest, largest = (square_side(share, height, width, rounding) for share in (a_l, a_h))
    if a_h > 0 and not 0 < largest < min(height, width):
        raise ConfigError(
            f"defense.midre.a_h={a_h:g} asks for a square of side {largest} on {height}x{width} images; "
            f"choose an a_h that gives a side from 1 to {min(height, width) - 1}"
        )
    device = generator.device
    draw, down, right = torch.rand(3, n, generator=generator, device=device)
    # Only whole sides occur, so the law of the length is inverted by looking the draw up among the lengths at
    # which each side begins: exact, and no iteration.
    begins = torch.arange(smallest + 1, largest + 1, device=device) - ROUNDINGS[rounding][1]
    low, high = (
        _cumulative(area, math.sqrt(share * (height * width)), height, width) for share in (a_l, a_h)
    )
    level = low + draw * (high - low)
    side = smallest + torch.searchsorted(_cumulative(area, begins, height, width), level, right=True)
    top, left = (
        # The minimum guards against a product that float32 rounds up to the number of positions.
        torch.minimum((place * (length - side + 1)).long(), length - side)
        for place, length in ((down, height), (right, width))
    )
    return top, left, side


def erase_squares(images: Tensor, top: Tensor, left: Tensor, side: Tensor, fill: Tensor) -> Tensor:
    """A copy of ``images`` [n, c, h, w] with ``fill`` on the square of each; other pixels are bit-equal.

    ``top``, ``left``, ``side``: int64 [n], pixels; side 0 erases nothing. ``fill``: [c] or [1, c, 1, 1]
    in the units of the images. One elementwise pass; keeps the dtype of the images.
    """
    rows = _covered(images.shape[-2], top, side)[:, None, :, None]
    columns = _covered(images.shape[-1], left, side)[:, None, None, :]
    return torch.where(rows & columns, fill.reshape(1, -1, 1, 1).to(images), images)


def _cumulative(area: str, length: _Length, height: int, width: int) -> _Length:
    """Distribution function, not normalised, of the square's side s before rounding.

    An area s^2 that is uniform gives s a density proportional to s. Where area and corner are redrawn
    together until the square fits, a side s survives a draw if its corner, uniform in the image, falls into
    the (height - s) x (width - s) part where it fits; the density becomes s (1 - s/height) (1 - s/width).
    Integrated from 0, both are polynomials, so the second law needs no rejection loop either.
    """
    uniform = length**2 / 2
    if area == "uniform":
        return uniform
    return uniform - length**3 * (1 / height + 1 / width) / 3 + length**4 / (4 * height * width)


def _covered(length: int, start: Tensor, side: Tensor) -> Tensor:
    """Which of ``length`` positions lie in [start, start + side): bool [n, length]."""
    position = torch.arange(length, device=start.device)
    return (position >= start[:, None]) & (position < (start + side)[:, None])


def _require_one_of(key: str, value: str, accepted: Collection[str]) -> None:
    if value not in tuple(accepted):
        raise ConfigError(f"defense.midre.{key}={value} is unknown; use one of {', '.join(accepted)}")


class MIDRE(Defense):
    """Random erasing as a defense (MIDRE Sec. 2.2).

    ``a_l``, ``a_h``: smallest and largest erased share of the image, 0 <= a_l <= a_h < 1; 0 is no defense.
    ``area``: ``uniform`` draws the share, then a corner at which it fits; ``joint_rejection`` redraws both
    until the square fits, which favours small squares. ``rounding``: ``round``, ``floor`` or ``ceil``, of the
    side to pixels. ``fill``: three numbers; ``fill_space`` says whether they are ``pixel`` values in [0, 1]
    or written after the model's own normalisation (``normalised_literal``), as pixels fill * std + mean.
    Raises ConfigError for a value outside these.
    """

    exclusive: ClassVar[frozenset[str]] = frozenset({"erase"})

    def __init__(
        self,
        *,
        a_l: float,
        a_h: float,
        area: str,
        rounding: str,
        fill: Sequence[float],
        fill_space: str,
    ):
        for key, share in (("a_l", a_l), ("a_h", a_h)):
            if not isinstance(share, (int, float)) or not 0 <= share < 1:
                raise ConfigError(
                    f"defense.midre.{key}={share} is no share of the image; give a number from 0 to below 1"
                )
        if a_l > a_h:
            raise ConfigError(
                f"defense.midre.a_l={a_l} exceeds defense.midre.a_h={a_h}; lower a_l or raise a_h"
            )
        _require_one_of("area", area, AREAS)
        _require_one_of("rounding", rounding, ROUNDINGS)
        _require_one_of("fill_space", fill_space, FILL_SPACES)
        if not (
            isinstance(fill, Sequence)
            and len(fill) == 3
            and all(isinstance(v, (int, float)) and math.isfinite(v) for v in fill)
        ):
            raise ConfigError(
                f"defense.midre.fill={fill} is no colour; give three numbers, red, green and blue"
            )
        if fill_space == "pixel" and not all(0 <= value <= 1 for value in fill):
            raise ConfigError(
                f"defense.midre.fill={list(fill)} leaves [0, 1]; give pixel values from 0 to 1 "
                "or set fill_space=normalised_literal"
            )
        self.a_l = a_l
        self.a_h = a_h
        self.area = area
        self.rounding = rounding
        self.fill = tuple(fill)
        self.fill_space = fill_space

    @property
    def label(self) -> str:
        """``MIDRE [a_l, a_h]`` for a range, ``RE share`` for a fixed share."""
        return f"RE {self.a_h:g}" if self.a_l == self.a_h else f"MIDRE [{self.a_l:g}, {self.a_h:g}]"

    def on_batch(
        self, batch: Batch, model: Classifier, progress: TrainingProgress, generator: torch.Generator
    ) -> Batch:
        """Erase one square of its own from every image. ``generator`` lives on the device of the images.

        Raises ConfigError when the largest square does not fit in images of this size.
        """
        if self.a_h == 0:
            return batch  # draws nothing either, so whoever uses the generator next is not disturbed
        n, _, height, width = batch.images.shape
        top, left, side = sample_squares(
            n,
            height,
            width,
            a_l=self.a_l,
            a_h=self.a_h,
            area=self.area,
            rounding=self.rounding,
            generator=generator,
        )
        # A blocking copy would make the host wait for the device in every step.
        fill = torch.tensor(self.fill).view(1, 3, 1, 1).to(batch.images.device, non_blocking=True)
        if self.fill_space == "normalised_literal":
            fill = fill * model.std + model.mean
        return replace(batch, images=erase_squares(batch.images, top, left, side, fill))
