"""Random views of images that gradients pass through: PLG-MI shows its target crops, colours, flips and
rotations of what it generates.

The law is that of the official Kornia 0.6.6 chain. Every image draws for itself from uniform numbers that the
caller hands in, so a training feeds a generator's and an attack the streams of its items.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated

import torch
from torch import Tensor
from torch.nn import functional as F

from midre_exp.errors import ConfigError
from midre_exp.plan.ranges import NonNegative, Probability, Range, Share

NUMBERS = 10  #: uniform numbers that one view of one image takes

_GREY = (0.299, 0.587, 0.114)  # Kornia's luma


@dataclass(kw_only=True, eq=False)
class RandomView:
    """Crop and resize, colour jitter, horizontal flip, rotation, in this order; square images."""

    # range of the square crop's share of the area, 0 < low <= high <= 1; always applied, never with the full
    # side where the range allows a smaller one, as Kornia does
    scale: tuple[Share, Share]
    # factors from [1 - value, 1 + value], values in [0, 1], each followed by a clip to [0, 1]; in an order of
    # their own for each image, where the official code draws one per batch: the law of an image is the same
    brightness: NonNegative
    contrast: NonNegative
    #: Kornia's jitter has a saturation as well, by a factor of 1 but with a clip to [0, 1], which comes
    #: before both factors in a third of the orders (its hue, by nothing, changes nothing); False: left out.
    saturation: bool
    jitter_p: Probability  # probability of all of these, in [0, 1]
    flip_p: Probability  # probability of the flip, in [0, 1]
    #: Rotation by an angle from [-degrees, degrees], 0 to 180; corners are filled with 0.
    degrees: Annotated[float, Range(0, 180)]
    rotation_p: Probability  # probability of the rotation, in [0, 1]

    def __post_init__(self) -> None:
        scale = self.scale
        if not (len(scale) == 2 and 0 < scale[0] <= scale[1] <= 1):
            raise ConfigError(
                f"RandomView scale={scale} is no range; give two numbers above 0, at most 1, the smaller "
                "first"
            )
        for name in ("brightness", "contrast", "jitter_p", "flip_p", "rotation_p"):
            if not 0 <= getattr(self, name) <= 1:
                raise ConfigError(f"RandomView {name}={getattr(self, name)} must lie in [0, 1]")
        if not 0 <= self.degrees <= 180:
            raise ConfigError(f"RandomView degrees={self.degrees} must lie in [0, 180]")

    def __call__(self, images: Tensor, numbers: Tensor) -> Tensor:
        """One view of each square image of ``images`` [n, 3, s, s], made by its row of ``numbers`` [n,
        NUMBERS], uniform in [0, 1).
        """
        share, top, left, jittered, light, spread, order, flipped, rotated, turn = numbers.unbind(1)
        images = crop_and_resize(images, *square_boxes(images.shape[-1], self.scale, share, top, left))
        brightness = 1 + self.brightness * (2 * light - 1)
        contrast = 1 + self.contrast * (2 * spread - 1)
        # three operations have six orders: of the three with brightness first, one begins with saturation
        clipped = ((6 * order).floor() % 3 == 0) & self.saturation
        changed = jitter(images, brightness, contrast, order < 0.5, clipped)
        images = torch.where((jittered < self.jitter_p)[:, None, None, None], changed, images)
        degrees = torch.where(rotated < self.rotation_p, self.degrees * (2 * turn - 1), 0.0)
        return flip_and_rotate(images, flipped < self.flip_p, degrees)


def square_boxes(
    size: int, scale: tuple[float, float], share: Tensor, top: Tensor, left: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Top row, left column and side of square boxes in images of ``size`` x ``size``, whole numbers [n], from
    uniform numbers [n].

    Kornia draws a share of the area until the rounded side is smaller than the image: the same as one draw
    from the shares that are.
    """
    below = ((size - 0.5) / size) ** 2  # the first share whose side rounds to the whole image
    largest = size - 1 if below > scale[0] else size
    high = min(scale[1], max(below, scale[0]))
    side = (size * (scale[0] + (high - scale[0]) * share).sqrt() + 0.5).floor().clamp(1, largest)
    room = size - side
    # The minimum guards against a product that float32 rounds up to the number of positions.
    return (
        torch.minimum((top * (room + 1)).floor(), room),
        torch.minimum((left * (room + 1)).floor(), room),
        side,
    )


def crop_and_resize(images: Tensor, top: Tensor, left: Tensor, side: Tensor) -> Tensor:
    """The square box of each image [n, 3, h, w] enlarged to h x w, bilinear, its corner pixels kept in the
    corners.

    ``top``, ``left``, ``side`` [n] are whole numbers. As cutting the box out and
    F.interpolate(align_corners=True).
    """
    height, width = images.shape[-2:]
    down, right = (torch.linspace(0, 1, n, device=side.device, dtype=side.dtype) for n in (height, width))
    rows = top[:, None] + (side - 1)[:, None] * down
    columns = left[:, None] + (side - 1)[:, None] * right
    y = (2 * rows / (height - 1) - 1)[:, :, None].expand(-1, height, width)
    x = (2 * columns / (width - 1) - 1)[:, None, :].expand(-1, height, width)
    return _sample(images, torch.stack((x, y), -1))


def jitter(
    images: Tensor,
    brightness: Tensor,
    contrast: Tensor,
    brightness_first: Tensor,
    clipped: Tensor,
) -> Tensor:
    """Each image [n, 3, h, w] with its factors [n] of brightness (times) and contrast (about its mean grey),
    a clip to [0, 1] after each.

    ``brightness_first``: bool [n]. Both operations mix the image with its mean grey, brightness with none of
    it. ``clipped``: bool [n], a clip comes before both.
    """
    images = torch.where(clipped[:, None, None, None], images.clamp(0, 1), images)
    none = torch.zeros_like(contrast)
    first = (
        torch.where(brightness_first, brightness, contrast),
        torch.where(brightness_first, none, 1 - contrast),
    )
    then = (
        torch.where(brightness_first, contrast, brightness),
        torch.where(brightness_first, 1 - contrast, none),
    )
    weights = images.new_tensor(_GREY)
    for own, of_mean in (first, then):
        mean = (images.mean((2, 3)) * weights).sum(1)
        images = (own[:, None, None, None] * images + (of_mean * mean)[:, None, None, None]).clamp(0, 1)
    return images


def flip_and_rotate(images: Tensor, flipped: Tensor, degrees: Tensor) -> Tensor:
    """Mirror the images [n, c, h, w] where ``flipped`` (bool [n]), then turn each counter-clockwise about its
    centre by ``degrees`` [n].

    Bilinear, outside is 0. A mirrored image is the same image at mirrored coordinates, so both are one
    resampling.
    """
    height, width = images.shape[-2:]
    y = (torch.arange(height, device=images.device) - (height - 1) / 2)[:, None].expand(height, width)
    x = (torch.arange(width, device=images.device) - (width - 1) / 2)[None, :].expand(height, width)
    angle = (degrees * (math.pi / 180))[:, None, None]
    sine, cosine = angle.sin(), angle.cos()
    side = torch.where(flipped, -1.0, 1.0)[:, None, None]
    from_x = side * (cosine * x - sine * y) * (2 / (width - 1))
    from_y = (sine * x + cosine * y) * (2 / (height - 1))
    return _sample(images, torch.stack((from_x, from_y), -1))


def rotate(images: Tensor, degrees: Tensor, *, fill: float) -> Tensor:
    """The images [n, c, h, w], each turned counter-clockwise about its centre by ``degrees`` [n], bilinear;
    outside is ``fill``.

    As torchvision's rotate with a fill: a pixel of the border is mixed with zeros, then by the same weight
    with the fill.
    """
    whole = torch.cat((images, torch.ones_like(images[:, :1])), 1)
    turned = flip_and_rotate(whole, torch.zeros_like(degrees, dtype=torch.bool), degrees)
    inside = turned[:, -1:]
    return turned[:, :-1] * inside + (1 - inside) * fill


def _sample(images: Tensor, grid: Tensor) -> Tensor:
    return F.grid_sample(
        images, grid.to(images.dtype), mode="bilinear", padding_mode="zeros", align_corners=True
    )
