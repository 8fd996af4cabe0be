"""Random boxes and flips that gradients pass through, as attacks on high-resolution targets use them: PPA and
IF-GMI.

The law is torchvision's RandomResizedCrop, antialiased. The official code calls it on whole batches, so that
all images share one box: here one row of uniform numbers serves all images, or every image brings its own.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from midre_exp.data.transforms.random_crop import NUMBERS, random_crop, require_range
from midre_exp.errors import ConfigError
from midre_exp.plan.ranges import Count, Positive, Probability, Share
from midre_exp.seeding import ItemRNG


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
