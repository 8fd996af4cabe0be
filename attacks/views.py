"""Random boxes and flips that gradients pass through, as attacks on high-resolution targets use them: PPA and IF-GMI.

The law is torchvision's RandomResizedCrop, antialiased. The official code calls it on whole batches, so that all images share one box:
here one row of uniform numbers serves all images, or every image brings its own.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from midre_exp.errors import ConfigError
from midre_exp.seeding import Streams

_TRIES = 10  # of torchvision's RandomResizedCrop
NUMBERS = (
    2 * _TRIES + 3
)  #: uniform numbers that one view takes: shares and ratios of ten tries, a corner, a flip


class RandomCrop:
    """A random box of the image, resized to ``size`` (null: of the input), mirrored with probability ``flip_p``.

    ``scale``: range of the box's share of the image area, 0 < low <= high <= 1; ``ratio``: range of its width / height. ``shared``: one
    draw per step for all items of the attack, as the official code has it for the images of a batch; false: every item draws its own.
    Raises ConfigError.
    """

    def __init__(
        self,
        *,
        scale: Sequence[float],
        ratio: Sequence[float],
        shared: bool = True,
        flip_p: float = 0.0,
        size: int | None = None,
    ):
        if not 0 <= flip_p <= 1:
            raise ConfigError(f"RandomCrop flip_p={flip_p} must lie in [0, 1]")
        if size is not None and size < 1:
            raise ConfigError(f"RandomCrop size={size} must be a positive number of pixels or null")
        self.scale = require_range("RandomCrop scale", scale, top=1.0)
        self.ratio = require_range("RandomCrop ratio", ratio)
        self.shared = shared
        self.flip_p = flip_p
        self.size = size

    def __call__(self, images: Tensor, streams: Streams, common: Streams, name: str, step: int) -> Tensor:
        """One view of images [n, 3, h, w], drawn as ``name`` for ``step`` from ``common`` (one row) if shared, else from ``streams``."""
        numbers = (common if self.shared else streams).uniform(name, NUMBERS, step=step)
        return random_crop(
            images, numbers, scale=self.scale, ratio=self.ratio, size=self.size, flip_p=self.flip_p
        )


def require_range(name: str, limits: Sequence[float], *, top: float = math.inf) -> tuple[float, float]:
    """``limits`` as low and high, 0 < low <= high <= ``top``. Raises ConfigError that begins with ``name``."""
    if not (len(limits) == 2 and 0 < limits[0] <= limits[1] <= top):
        raise ConfigError(
            f"{name}={list(limits)} is no range; give two numbers above 0, the smaller first"
            + (f", at most {top:g}" if math.isfinite(top) else "")
        )
    return limits[0], limits[1]


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
    """A box of images [n, c, h, w], resized bilinearly and antialiased to ``size`` x ``size`` (None: h x w), mirrored or not.

    ``numbers`` [n, NUMBERS] are uniform in [0, 1), one row per image; [1, NUMBERS]: one for all. As torchvision's resized_crop with
    antialias=True: pixels outside of the box have no influence. Differentiable; the host never waits for the device.
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
    """Top, left, height and width of boxes in images of ``height`` x ``width``, whole numbers [n] of ``numbers`` [n, NUMBERS].

    Share of the area and ratio (uniform in its logarithm) are drawn ten times, the first pair that fits counts; if none does, the
    largest central box with the nearest allowed ratio. The corner is uniform over all whole positions.
    """
    share, slant, corner, _ = numbers.T.split((_TRIES, _TRIES, 2, 1))
    area = height * width * (scale[0] + (scale[1] - scale[0]) * share)
    low, high = math.log(ratio[0]), math.log(ratio[1])
    aspect = torch.exp(low + (high - low) * slant)
    heights, widths = (area / aspect).sqrt().round(), (area * aspect).sqrt().round()
    fits = (heights > 0) & (heights <= height) & (widths > 0) & (widths <= width)
    first = fits.byte().argmax(0, keepdim=True)  # of equal values the first
    placed = fits.any(0)
    nearest = min(max(width / height, ratio[0]), ratio[1])
    central = min(height, max(1, round(width / nearest))), min(width, max(1, round(height * nearest)))
    box_height = torch.where(placed, heights.gather(0, first)[0], central[0])
    box_width = torch.where(placed, widths.gather(0, first)[0], central[1])
    room = torch.stack((height - box_height, width - box_width))
    # The minimum guards against a product that float32 rounds up to the number of positions.
    anywhere = torch.minimum((corner * (room + 1)).floor(), room)
    top, left = torch.where(placed, anywhere, (room / 2).floor())
    return top, left, box_height, box_width


def interpolation(start: Tensor, length: Tensor, pixels: int, size: int) -> Tensor:
    """Weights [n, size, pixels] by which ``pixels`` in a row become ``size``, from those in [start, start + length) alone.

    ``start``, ``length``: whole numbers [n]. A triangle whose half width is the distance of the output pixels, at least one pixel, cut
    off at the ends of the box and scaled to sum 1. As matrices, because one product serves all images that share a box.
    """
    step = (length / size)[:, None, None]
    reach = step.clamp(min=1.0)
    centre = step * (torch.arange(size, device=start.device) + 0.5)[:, None]
    pixel = torch.arange(pixels, device=start.device) - start[:, None, None]
    weight = (1 - ((pixel + 0.5 - centre) / reach).abs()).clamp(min=0)
    weight = torch.where((pixel >= 0) & (pixel < length[:, None, None]), weight, 0.0)
    return weight / weight.sum(-1, keepdim=True)
