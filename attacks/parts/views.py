"""Random changes of an image over which an attack may average its loss: noise (PAA), crop, mirror and
rotation (TAA) and, for GMI, filling [0, 1] afterwards, of AlignMI (Peng et al., NeurIPS 2025); mirror,
brightness and blur of Diff-MI (Li et al. 2024).

Every image draws for itself, so that items stay independent. The official code draws once for a whole batch,
and takes the range of PAA's noise from it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

import torch
from torch import Tensor
from torchvision.transforms.functional import gaussian_blur

from attacks.parts.checks import one_of
from midre_exp.data.transforms.random_crop import NUMBERS, random_crop, require_range
from midre_exp.data.transforms.view import rotate
from midre_exp.errors import ConfigError
from midre_exp.plan.ranges import Count, NonNegative, Positive, Probability, Range, Share
from midre_exp.seeding import ItemRNG

RangeOf = Literal["image", "scale"]
_TINY = 1e-12  # so that an image of one colour is no division by nothing


@dataclass(kw_only=True, eq=False)
class GaussianNoise:
    """x + sigma range(x) e, e from N(0, I) (PAA)."""

    sigma: NonNegative  # released: 0.06 at 224 px, 0.05 with KedMI, 0.003 with GMI; 0: none
    #: image: its largest value less its smallest, a constant for the gradient (released: of the batch) |
    #: scale: 1, the width of [0, 1].
    range_of: RangeOf

    def __post_init__(self) -> None:
        if self.sigma < 0:
            raise ConfigError(f"GaussianNoise sigma={self.sigma} must not be negative")
        one_of("GaussianNoise range_of", self.range_of, RangeOf)

    def __call__(self, images: Tensor, rng: ItemRNG, name: str, step: int) -> Tensor:
        """As ``View``."""
        width: Tensor | float = 1.0
        if self.range_of == "image":
            width = images.detach().amax((1, 2, 3), keepdim=True) - images.detach().amin(
                (1, 2, 3), keepdim=True
            )
        return images + self.sigma * width * rng.normal(name, *images.shape[1:], step=step)


@dataclass(kw_only=True, eq=False)
class CropMirrorRotate:
    """A random box resized to the image, mirrored or not, then turned (TAA); bilinear, as torchvision does
    each.
    """

    scale: tuple[Share, Share]  # range of the box's share of the area (released: 0.8, 1; with GMI 0.9, 1)
    ratio: tuple[Positive, Positive]  # range of its width / height (released: 0.9, 1.1)
    flip_p: Probability  # probability that it is mirrored (released: 0.5)
    #: The angle is drawn from [-degrees, degrees], 0 to 180 (released: 5; with GMI 3).
    degrees: Annotated[float, Range(0, 180)]
    fill: Share  # value of the corners that a turn uncovers (released: 0 of [-1, 1], which is 0.5 here)

    def __post_init__(self) -> None:
        if not 0 <= self.flip_p <= 1:
            raise ConfigError(f"CropMirrorRotate flip_p={self.flip_p} must lie in [0, 1]")
        if not 0 <= self.degrees <= 180:
            raise ConfigError(f"CropMirrorRotate degrees={self.degrees} must lie in [0, 180]")
        self.scale = require_range("CropMirrorRotate scale", self.scale, top=1.0)
        self.ratio = require_range("CropMirrorRotate ratio", self.ratio)

    def __call__(self, images: Tensor, rng: ItemRNG, name: str, step: int) -> Tensor:
        """As ``View``."""
        numbers = rng.uniform(name, NUMBERS + 1, step=step)
        box, turn = numbers[:, :NUMBERS], numbers[:, NUMBERS]
        images = random_crop(images, box, scale=self.scale, ratio=self.ratio, flip_p=self.flip_p)
        return rotate(images, self.degrees * (2 * turn - 1), fill=self.fill)


@dataclass(kw_only=True, eq=False)
class FillRange:
    """(x - min x) / (max x - min x) (AlignMI with GMI): extremes of each image (released: of the batch),
    constants for the gradient. An image of one colour stays as it is.
    """

    def __call__(self, images: Tensor, rng: ItemRNG, name: str, step: int) -> Tensor:
        """As ``View``; draws nothing."""
        low, high = (end(images.detach(), (1, 2, 3), keepdim=True) for end in (torch.amin, torch.amax))
        return torch.where(high > low, (images - low) / (high - low).clamp(min=_TINY), images)


@dataclass(kw_only=True, eq=False)
class MirrorBrightnessBlur:
    """Mirrored or not, brighter or darker, blurred or not, in this order, and clamped to [0, 1] (Diff-MI)."""

    flip_p: Probability  # probability that it is mirrored (released: 0.5)
    brightness: Share  # the factor is drawn from [1 - brightness, 1 + brightness] (released: 0.2)
    brightness_p: Probability  # probability that there is one (released: 0.5)
    blur_size: Count  # px of the Gaussian kernel, odd (released: 7 of 64)
    blur_sigma: Positive  # its deviation, px (released: 3)
    blur_p: Probability  # probability of the blur (released: 0.5)

    def __post_init__(self) -> None:
        for name in ("flip_p", "brightness", "brightness_p", "blur_p"):
            if not 0 <= getattr(self, name) <= 1:
                raise ConfigError(f"MirrorBrightnessBlur {name}={getattr(self, name)} must lie in [0, 1]")
        if self.blur_size < 1 or self.blur_size % 2 == 0 or self.blur_sigma <= 0:
            raise ConfigError(
                f"MirrorBrightnessBlur blur_size={self.blur_size} must be odd and "
                f"blur_sigma={self.blur_sigma} above 0"
            )

    def __call__(self, images: Tensor, rng: ItemRNG, name: str, step: int) -> Tensor:
        """As ``View``."""
        flipped, lit, light, blurred = rng.uniform(name, 4, step=step)[..., None, None, None].unbind(1)
        images = torch.where(flipped < self.flip_p, images.flip(-1), images)
        factor = 1 + self.brightness * (2 * light - 1)
        images = torch.where(lit < self.brightness_p, (images * factor).clamp(0, 1), images)
        if self.blur_p:
            soft = gaussian_blur(images, [self.blur_size] * 2, [self.blur_sigma] * 2)
            images = torch.where(blurred < self.blur_p, soft, images)
        return images.clamp(0, 1)
