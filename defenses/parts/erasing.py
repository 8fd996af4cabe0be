"""What defenses that erase a random share of every training image have in common: their options, the square
that is drawn for each image and whose area each shape takes, and the colour that is painted.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, ClassVar, TypeVar

import torch
from torch import Tensor

from defenses.base import Batch, Defense, Informed, TrainingProgress
from defenses.parts.batch_view import BatchView, Numbers
from defenses.parts.options import check_choice
from defenses.parts.squares import ROUNDINGS, painted, square_side
from midre_exp.errors import ConfigError
from midre_exp.plan.ranges import BelowOne, Range
from midre_exp.seeding import moved, uniform
from midre_exp.targets.base import Classifier

#: How the erased share is distributed between ``a_l`` and ``a_h``.
AREAS = ("uniform", "joint_rejection")
#: What the three fill numbers mean.
FILL_SPACES = ("normalised_literal", "pixel")

_Length = TypeVar("_Length", float, Tensor)


def sample_squares(
    numbers: Tensor,
    height: int,
    width: int,
    *,
    a_l: float,
    a_h: float,
    area: str,
    rounding: str,
    name: str = "midre",
) -> tuple[Tensor, Tensor, Tensor]:
    """One square per column of ``numbers`` [3, n], uniform in [0, 1): (top, left, side), each int64 [n].

    The options are those of ``MIDRE``, or of the defense ``name`` that shares them; the corner is uniform
    over all whole positions at which the square fits. The host never waits for the device. Raises ConfigError
    when the largest square has no pixel, or is as large as the shorter side of the image (torchvision would
    leave such an image whole without a word).
    """
    check_choice(f"{name}.area", area, AREAS)
    smallest, largest = (square_side(share, height, width, rounding) for share in (a_l, a_h))
    if a_h > 0 and not 0 < largest < min(height, width):
        raise ConfigError(
            f"defense.{name}.a_h={a_h:g} asks for a square of side {largest} on {height}x{width} images; "
            f"choose an a_h that gives a side from 1 to {min(height, width) - 1}"
        )
    draw, down, right = numbers
    # Only whole sides occur, so the law of the length is inverted by looking the draw up among the lengths at
    # which each side begins: exact, and no iteration.
    begins = torch.arange(smallest + 1, largest + 1, device=draw.device) - ROUNDINGS[rounding][1]
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


#: A value of ``fill``: normalised by ImageNet's statistics, pixels lie between -2.2 and 2.7.
Channel = Annotated[float, Range(-3, 3)]


@dataclass(kw_only=True, eq=False)
class Erasing(Defense):
    """``fill`` on a share of each image of area A ~ U(a_l, a_h), in the shape that ``_erased`` of a class
    lays out.
    """

    exclusive = frozenset({"erase"})
    name: ClassVar[str]  # of its yaml, for messages
    noun: ClassVar[str]  # of its label

    a_l: BelowOne  # smallest erased share of the image, 0 <= a_l <= a_h
    a_h: BelowOne  # largest, below 1; both 0 is no defense
    area: str  # uniform: draw A, then a corner that fits | joint_rejection: redraw both until they fit
    rounding: str  # round | floor | ceil, of the side to pixels
    fill: tuple[Channel, Channel, Channel]  # red, green, blue, in fill_space
    fill_space: str  # pixel: in [0, 1] | normalised_literal: fill * std + mean of the model's normalisation

    def __post_init__(self) -> None:
        for key, share in (("a_l", self.a_l), ("a_h", self.a_h)):
            if not isinstance(share, (int, float)) or not 0 <= share < 1:
                raise ConfigError(
                    f"defense.{self.name}.{key}={share} is no share of the image; give a number from 0 to "
                    "below 1"
                )
        if self.a_l > self.a_h:
            raise ConfigError(
                f"defense.{self.name}.a_l={self.a_l} exceeds defense.{self.name}.a_h={self.a_h}; lower a_l "
                "or raise a_h"
            )
        if self.a_h == 0:
            raise ConfigError(
                f"defense.{self.name}.a_h=0 erases nothing; give a share above 0, or use defense=nodef"
            )
        check_choice(f"{self.name}.area", self.area, AREAS)
        check_choice(f"{self.name}.rounding", self.rounding, ROUNDINGS)
        check_choice(f"{self.name}.fill_space", self.fill_space, FILL_SPACES)
        fill = self.fill
        if not (
            isinstance(fill, Sequence)
            and len(fill) == 3
            and all(isinstance(v, (int, float)) and math.isfinite(v) for v in fill)
        ):
            raise ConfigError(
                f"defense.{self.name}.fill={fill} is no colour; give three numbers, red, green and blue"
            )
        if self.fill_space == "pixel" and not all(0 <= value <= 1 for value in fill):
            raise ConfigError(
                f"defense.{self.name}.fill={list(fill)} leaves [0, 1]; give pixel values from 0 to 1 "
                "or set fill_space=normalised_literal"
            )

    @property
    def label(self) -> str:
        return f"{self.noun} [{self.a_l:g}, {self.a_h:g}]"

    def on_batch(
        self, batch: Batch, model: Classifier, progress: TrainingProgress, generator: torch.Generator
    ) -> Batch:
        """Erase an area of its own from every image. Raises ConfigError when the largest does not fit."""
        if self.a_h == 0:
            return batch  # draws nothing either, so whoever uses the generator next is not disturbed
        n, device = len(batch.images), batch.images.device
        # squares are looked up by the processor, and only they go to the device
        drawn = self._squares(batch.images, torch.rand(3, n, generator=generator))
        places = (moved(drawn[0], device), moved(drawn[1], device), moved(drawn[2], device))
        erased = self._erased(
            _size(batch.images), places, lambda count: uniform(generator, n, count, device=device)
        )
        images = painted(batch.images, erased, self._pixel_fill(model, device))
        return replace(batch, images=images, erased=erased)

    def informed(self, model: Classifier) -> Informed:
        def erase(images: Tensor, numbers: Numbers) -> Tensor:
            places = self._squares(images, numbers("square", 3).T)
            erased = self._erased(_size(images), places, lambda count: numbers("pixels", count))
            return painted(images, erased, self._pixel_fill(model, images.device))

        return Informed(
            views=(BatchView(self.label, erase),),
            reason="the target has seen erased faces alone, so it is shown faces erased by the same law",
        )

    def _squares(self, images: Tensor, numbers: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The squares of ``images`` [n, c, h, w] by ``numbers`` [3, n]."""
        height, width = _size(images)
        law = {"a_l": self.a_l, "a_h": self.a_h}
        return sample_squares(
            numbers, height, width, **law, area=self.area, rounding=self.rounding, name=self.name
        )

    def _pixel_fill(self, model: Classifier, device: torch.device) -> Tensor:
        """``fill`` as a value of pixels in [0, 1], [1, 3, 1, 1]."""
        # A blocking copy would make the host wait for the device in every step.
        fill = torch.tensor(self.fill).view(1, 3, 1, 1).to(device, non_blocking=True)
        if self.fill_space == "pixel":
            return fill
        return fill * model.std.to(device) + model.mean.to(device)

    @abstractmethod
    def _erased(
        self,
        size: tuple[int, int],
        squares: tuple[Tensor, Tensor, Tensor],
        further: Callable[[int], Tensor],
    ) -> Tensor:
        """Which pixels of images of ``size`` (height, width) go, bool [n, 1, h, w]: as many, exactly or on
        average, as the squares drawn have, (top, left, side); ``further``: as many more uniform numbers of
        each image, [n, count], asked for once.
        """


def _size(images: Tensor) -> tuple[int, int]:
    return images.shape[-2], images.shape[-1]
