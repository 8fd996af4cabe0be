"""Named, deterministic steps between generator, target and evaluator: crop and resize. Images float [n, 3, h,
w] in [0, 1].

Normalising is never a step: models normalise their own input.
"""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor
from torch.nn import functional as F

from midre_exp.errors import ConfigError

_PIL_BITS = 22  # Pillow's fixed-point precision for 8-bit images


class CenterCrop:
    """Cuts the central ``size`` x ``size`` square."""

    def __init__(self, *, size: int):
        self.size = size

    def __call__(self, images: Tensor) -> Tensor:
        """Crop. Raises ConfigError when the images are smaller than the crop."""
        height, width = images.shape[-2:]
        if min(height, width) < self.size:
            raise ConfigError(
                f"CenterCrop size={self.size} exceeds the image of {height}x{width}; lower the size"
            )
        top, left = (height - self.size) // 2, (width - self.size) // 2
        return images[..., top : top + self.size, left : left + self.size]


class Resize:
    """Bilinear resize to ``size`` x ``size`` with antialiasing, as PIL and torchvision do it; a no-op at that
    size already.
    """

    def __init__(self, *, size: int):
        self.size = size

    def __call__(self, images: Tensor) -> Tensor:
        """Resize."""
        if images.shape[-2:] == (self.size, self.size):
            return images
        resized: Tensor = F.interpolate(
            images, size=(self.size, self.size), mode="bilinear", align_corners=False, antialias=True
        )
        return resized


class AlignedResize:
    """Bilinear resize to ``size`` x ``size`` that keeps the corner pixels in the corners, not antialiased:
    PLG-MI's evaluation.

    A no-op at that size already. Raises ConfigError for a size that is no positive whole number.
    """

    def __init__(self, *, size: int):
        self.size = _pixels("AlignedResize", size)

    def __call__(self, images: Tensor) -> Tensor:
        """Resize."""
        if images.shape[-2:] == (self.size, self.size):
            return images
        return F.interpolate(images, size=(self.size, self.size), mode="bilinear", align_corners=True)


class EightBitResize:
    """To 8 bits by truncation, Pillow's bilinear resize to ``size`` x ``size``, and back: the evaluation of
    GMI, KED-MI and LOMMA.

    Equal to Pillow bit for bit, on any device that has float64: of square images always, of others as in
    versions before 13, which puts the height first where it shrinks more than the width. At that size already
    only the 8 bits remain. No gradient comes through it. Raises ConfigError for a size that is no positive
    whole number.
    """

    def __init__(self, *, size: int):
        self.size = _pixels("EightBitResize", size)

    def __call__(self, images: Tensor) -> Tensor:
        """Quantise and resize, to multiples of 1/255 in float32."""
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


def _pixels(step: str, size: int) -> int:
    if not isinstance(size, int) or size < 1:
        raise ConfigError(f"{step} size={size} must be a positive whole number of pixels")
    return size
