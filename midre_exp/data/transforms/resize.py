"""Resizes: torchvision's and Pillow's bilinear one, to a square or of the shorter side, and the two that the
official 64 px evaluations use instead.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Annotated

import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from midre_exp.data.transforms.base import MAX_PIXELS, Transform, require_pixels
from midre_exp.errors import ConfigError, DataError
from midre_exp.plan.ranges import Count, Range

_PIL_BITS = 22  # Pillow's fixed-point precision for 8-bit images


@dataclass(frozen=True, kw_only=True)
class Resize(Transform):
    """Bilinear and antialiased to ``size`` x ``size``, as torchvision does it on Pillow pictures and on
    tensors; at that size already nothing changes.
    """

    size: Count  # px of a side

    def __post_init__(self) -> None:
        require_pixels(self, self.size)

    def on_picture(self, picture: Image.Image) -> Image.Image:
        """Resize by Pillow, which antialiases when it shrinks."""
        return picture.resize((self.size, self.size), Image.Resampling.BILINEAR)

    def __call__(self, images: Tensor) -> Tensor:
        """Resize by torch, antialiased."""
        return _resized(images, self.size, self.size)


@dataclass(frozen=True, kw_only=True)
class ResizeShorterSide(Transform):
    """Bilinear and antialiased so that the shorter side has ``margin * size`` pixels and the aspect ratio
    stays: torchvision's Resize of one number.
    """

    size: Count  # px of the shorter side, or of the CenterCrop that follows
    margin: Annotated[float, Range(1)] = (
        1.0  # by which the side is longer than size, at least 1 (VGGFace2's authors: 256 / 224)
    )

    def __post_init__(self) -> None:
        require_pixels(self, self.size)
        if self.margin < 1:
            raise ConfigError(f"ResizeShorterSide margin={self.margin} must be at least 1")

    def on_picture(self, picture: Image.Image) -> Image.Image:
        """Resize by Pillow, which antialiases when it shrinks."""
        height, width = self._sides(picture.height, picture.width)
        if height * width > MAX_PIXELS:
            raise DataError(
                f"a picture of {picture.width}x{picture.height} px would become {max(height, width)} px "
                "long; "
                "is it a picture?"
            )
        return picture.resize((width, height), Image.Resampling.BILINEAR)

    def __call__(self, images: Tensor) -> Tensor:
        """Resize by torch, antialiased."""
        return _resized(images, *self._sides(*images.shape[-2:]))

    def _sides(self, height: int, width: int) -> tuple[int, int]:
        """The sides after the resize; the longer one is rounded down."""
        short = round(self.margin * self.size)
        long = int(short * max(height, width) / min(height, width))
        return (short, long) if width >= height else (long, short)


def _resized(images: Tensor, height: int, width: int) -> Tensor:
    if images.shape[-2:] == (height, width):
        return images
    resized: Tensor = F.interpolate(
        images, size=(height, width), mode="bilinear", align_corners=False, antialias=True
    )
    return resized


@dataclass(kw_only=True, eq=False)
class AlignedResize:
    """Float images resized bilinearly to ``size`` x ``size``, corner pixels kept in the corners, not
    antialiased: PLG-MI's evaluation. At that size already nothing changes.
    """

    size: Count  # px of a side

    def __post_init__(self) -> None:
        require_pixels(self, self.size)

    def __call__(self, images: Tensor) -> Tensor:
        """Resize float images [n, 3, h, w]."""
        if images.shape[-2:] == (self.size, self.size):
            return images
        return F.interpolate(images, size=(self.size, self.size), mode="bilinear", align_corners=True)


@dataclass(kw_only=True, eq=False)
class EightBitResize:
    """Float images to 8 bits by truncation, then Resize on pictures, and back: the evaluation of GMI, KED-MI
    and LOMMA.

    Equal to Pillow bit for bit, on any device that has float64: of square images always, of others as in
    versions before 13, which puts the height first where it shrinks more than the width. At that size already
    only the 8 bits remain. No gradient comes through it.
    """

    size: Count  # px of a side

    def __post_init__(self) -> None:
        require_pixels(self, self.size)

    def __call__(self, images: Tensor) -> Tensor:
        """Images [n, 3, size, size] of multiples of 1/255, float32."""
        # The product is rounded to float32 before truncation, as the official pipelines do.
        levels = images.detach().float().mul(255).floor_()
        height, width = levels.shape[-2:]
        if (height, width) == (self.size, self.size):
            return levels.div_(255)
        # Whole numbers far below 2^53: float64 matrix products are exact, in any order of summation.
        levels = levels.double()
        if width != self.size:  # the width first, and 8 bits in between
            levels = _to_eight_bits(levels @ _pil_weights(width, self.size, levels.device).T)
        if height != self.size:
            levels = _to_eight_bits(_pil_weights(height, self.size, levels.device) @ levels)
        return levels.float().div_(255)


def _to_eight_bits(fixed_point: Tensor) -> Tensor:
    """Sums of levels times fixed-point weights, rounded half up to whole levels; means of levels, so within
    0..255. In place.
    """
    return fixed_point.add_(2 ** (_PIL_BITS - 1)).div_(2**_PIL_BITS).floor_()


@lru_cache(maxsize=64)
def _pil_weights(length: int, size: int, device: torch.device) -> Tensor:
    """Pillow's bilinear weights of ``length`` pixels in each of ``size``, in units of 2^-22: whole float64
    [size, length].

    Scalar arithmetic in Pillow's order of operations, because a last bit may decide how a weight is rounded.
    """
    step = length / size
    reach = max(step, 1.0)
    weights = torch.zeros(size, length, dtype=torch.float64)
    for row in range(size):
        centre = (row + 0.5) * step
        first, last = max(int(centre - reach + 0.5), 0), min(int(centre + reach + 0.5), length)
        triangle = [max(1 - abs((x - centre + 0.5) * (1 / reach)), 0.0) for x in range(first, last)]
        total = 0.0
        for share in triangle:  # not sum(), which compensates rounding errors from Python 3.12 on
            total += share
        weights[row, first:last] = torch.tensor(
            [int(0.5 + share / total * 2**_PIL_BITS) for share in triangle], dtype=torch.float64
        )
    return weights.to(device)
