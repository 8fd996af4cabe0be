"""Random boxes and flips that gradients pass through, as attacks on high-resolution targets use them: PPA and
IF-GMI.

The law is torchvision's RandomResizedCrop, antialiased. The official code calls it on whole batches, so that
all images share one box: here one row of uniform numbers serves all images, or every image brings its own.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from midre_exp.data.transforms.random_crop import TRIES, fitting_boxes, require_range
from midre_exp.errors import ConfigError
from midre_exp.plan.ranges import Count, Positive, Probability, Share
from midre_exp.seeding import ItemRNG

NUMBERS = 2 * TRIES + 3  #: uniform numbers that one view takes: those of its box, and a flip


@dataclass(kw_only=True, eq=False)
class RandomCrop:
    """A random box of the image, resized, mirrored or not."""

    scale: tuple[Share, Share]  # range of the box's share of the image area, within (0, 1]
    ratio: tuple[Positive, Positive]  # range of its width / height
    shared: bool = True  # one draw per step for all items (released: of a batch); False: each its own
    flip_p: Probability = 0.0  # probability that the box is mirrored
    size: Count | None = None  # pixels per side of the result; None: of the input

    def __post_init__(self) -> None:
        if not 0 <= self.flip_p <= 1:
            raise ConfigError(f"RandomCrop flip_p={self.flip_p} must lie in [0, 1]")
        if self.size is not None and self.size < 1:
            raise ConfigError(f"RandomCrop size={self.size} must be a positive number of pixels or null")
        self.scale = require_range("RandomCrop scale", self.scale, top=1.0)
        self.ratio = require_range("RandomCrop ratio", self.ratio)

    def __call__(self, images: Tensor, rng: ItemRNG, shared_rng: ItemRNG, name: str, step: int) -> Tensor:
        """One view of images [n, 3, h, w], drawn as ``name`` for ``step`` from ``shared_rng`` (one row) if
        shared, else from ``rng``.
        """
        numbers = (shared_rng if self.shared else rng).uniform(name, NUMBERS, step=step)
        return random_crop(
            images, numbers, scale=self.scale, ratio=self.ratio, size=self.size, flip_p=self.flip_p
        )


def shared_crop(
    images: Tensor,
    numbers: Tensor,
    scale: tuple[float, float],
    ratio: tuple[float, float],
    size: int | None = None,
) -> Tensor:
    """``random_crop`` with one box for all images, made by ``numbers`` [NUMBERS]; not mirrored."""
    return random_crop(images, numbers[None], scale=scale, ratio=ratio, size=size)


def random_crop(
    images: Tensor,
    numbers: Tensor,
    *,
    scale: tuple[float, float],
    ratio: tuple[float, float],
    size: int | None = None,
    flip_p: float = 0.0,
) -> Tensor:
    """A box of images [n, c, h, w], resized bilinearly and antialiased to ``size`` x ``size`` (None: h x w),
    mirrored or not.

    ``numbers`` [n, NUMBERS] are uniform in [0, 1), one row per image; [1, NUMBERS]: one for all. As
    torchvision's resized_crop with antialias=True: pixels outside of the box have no influence.
    Differentiable; the host never waits for the device.
    """
    height, width = images.shape[-2:]
    top, left, box_height, box_width = boxes(numbers, height, width, scale=scale, ratio=ratio)
    rows = interpolation(top, box_height, height, size or height)
    columns = interpolation(left, box_width, width, size or width)
    mirrored = (numbers[:, -1] < flip_p)[:, None, None]
    columns = torch.where(mirrored, columns.flip(1), columns)
    cropped: Tensor = rows[:, None] @ images @ columns[:, None].mT
    return cropped


def boxes(
    numbers: Tensor, height: int, width: int, *, scale: tuple[float, float], ratio: tuple[float, float]
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Top, left, height and width of boxes in images of ``height`` x ``width``, by the law of
    ``fitting_boxes``: whole numbers [n], in the type of ``numbers`` [n, NUMBERS].
    """
    found = fitting_boxes(numbers.T[:-1], height, width, scale=scale, ratio=ratio)
    top, left, box_height, box_width = (part.to(numbers) for part in found)
    return top, left, box_height, box_width


def interpolation(start: Tensor, length: Tensor, pixels: int, size: int) -> Tensor:
    """Weights [n, size, pixels] by which ``pixels`` in a row become ``size``, from those in [start, start +
    length) alone.

    ``start``, ``length``: whole numbers [n]. A triangle whose half width is the distance of the output
    pixels, at least one pixel, cut off at the ends of the box and scaled to sum 1. As matrices, because one
    product serves all images that share a box.
    """
    step = (length / size)[:, None, None]
    reach = step.clamp(min=1.0)
    centre = step * (torch.arange(size, device=start.device) + 0.5)[:, None]
    pixel = torch.arange(pixels, device=start.device) - start[:, None, None]
    weight = (1 - ((pixel + 0.5 - centre) / reach).abs()).clamp(min=0)
    weight = torch.where((pixel >= 0) & (pixel < length[:, None, None]), weight, 0.0)
    return weight / weight.sum(-1, keepdim=True)
