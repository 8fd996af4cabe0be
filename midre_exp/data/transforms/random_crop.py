"""Random boxes of training images, resized: torchvision's RandomResizedCrop, batched."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from midre_exp.data.transforms.base import images_at_once, require_pixels
from midre_exp.errors import ConfigError
from midre_exp.plan.ranges import Count, Positive, Share
from midre_exp.seeding import moved

TRIES = 10  #: of torchvision's RandomResizedCrop
NUMBERS = 2 * TRIES + 3  #: uniform numbers that ``random_crop`` takes: those of a box, and a flip


@dataclass(kw_only=True, eq=False)
class RandomResizedCrop:
    """Cuts a random box out of each image of a training batch and resizes it, bilinear and antialiased: the
    law of torchvision.transforms.RandomResizedCrop.
    """

    size: Count | None  # px of a side of the result, None for the size of the input
    scale: tuple[Share, Share] = (0.85, 1.0)  # range of the box's share of the area, 0 < low <= high <= 1
    ratio: tuple[Positive, Positive] = (
        1.0,
        1.0,
    )  # range of width / height, positive, uniform in its logarithm

    def __post_init__(self) -> None:
        if self.size is not None:
            require_pixels(self, self.size)
        self.scale = require_range("RandomResizedCrop scale", self.scale, top=1.0)
        self.ratio = require_range("RandomResizedCrop ratio", self.ratio)

    def __call__(self, images: Tensor, generator: torch.Generator) -> Tensor:
        """Images [n, 3, h, w] in [0, 1], each cut and resized."""
        n, _, height, width = images.shape
        drawn = sample_boxes(n, height, width, scale=self.scale, ratio=self.ratio, generator=generator)
        boxes = [moved(part, images.device) for part in drawn]
        return resized_crop(images, *boxes, size=(self.size or height, self.size or width))


def require_range(name: str, limits: Sequence[float], *, top: float = math.inf) -> tuple[float, float]:
    """``limits`` as low and high, 0 < low <= high <= ``top``. Raises ConfigError naming ``name``."""
    fine = isinstance(limits, Sequence) and len(limits) == 2
    fine = fine and all(isinstance(limit, (int, float)) and math.isfinite(limit) for limit in limits)
    if not (fine and 0 < limits[0] <= limits[1] <= top):
        raise ConfigError(
            f"{name}={limits} is no range; give two numbers above 0, the smaller first"
            + (f", at most {top:g}" if math.isfinite(top) else "")
        )
    return limits[0], limits[1]


def sample_boxes(
    n: int,
    height: int,
    width: int,
    *,
    scale: tuple[float, float],
    ratio: tuple[float, float],
    generator: torch.Generator,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """One box per image, by the law of ``fitting_boxes``, each int64 [n] on the CPU."""
    numbers = torch.rand(2 * TRIES + 2, n, generator=generator)
    return fitting_boxes(numbers, height, width, scale=scale, ratio=ratio)


def fitting_boxes(
    numbers: Tensor, height: int, width: int, *, scale: tuple[float, float], ratio: tuple[float, float]
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """(top, left, height, width), each int64 [n], of boxes in images of ``height`` x ``width``, as
    torchvision's RandomResizedCrop.

    ``numbers`` float [2 TRIES + 2, n], uniform in [0, 1): TRIES shares of the image area from ``scale``, as
    many ratios width / height from ``ratio``, uniform in their logarithm, and a corner. The first pair that
    fits counts; if none does, the largest central box with the nearest allowed ratio. The corner is uniform
    over all whole positions. The host never waits for the device.
    """
    share, slant, corner = numbers.split((TRIES, TRIES, 2))
    area = height * width * (scale[0] + (scale[1] - scale[0]) * share)
    low, high = math.log(ratio[0]), math.log(ratio[1])
    aspect = torch.exp(low + (high - low) * slant)
    heights, widths = (area / aspect).sqrt().round().long(), (area * aspect).sqrt().round().long()
    fits = (heights > 0) & (heights <= height) & (widths > 0) & (widths <= width)
    first = fits.byte().argmax(0, keepdim=True)  # of equal values the first
    placed = fits.any(0)
    nearest = min(max(width / height, ratio[0]), ratio[1])
    central = min(height, max(1, round(width / nearest))), min(width, max(1, round(height * nearest)))
    box_height = torch.where(placed, heights.gather(0, first)[0], central[0])
    box_width = torch.where(placed, widths.gather(0, first)[0], central[1])
    room = torch.stack((height - box_height, width - box_width))
    # The minimum guards against a product that float32 rounds up to the number of positions.
    anywhere = torch.minimum((corner * (room + 1)).long(), room)
    top, left = torch.where(placed, anywhere, room // 2)
    return top, left, box_height, box_width


def resized_crop(
    images: Tensor, top: Tensor, left: Tensor, height: Tensor, width: Tensor, *, size: tuple[int, int]
) -> Tensor:
    """The box of each image, resized bilinearly to ``size`` (height, width), antialiased where that shrinks
    it.

    ``images`` float [n, c, h, w]; ``top``, ``left``, ``height``, ``width`` int64 [n], inside the images. As
    torchvision's resized_crop with antialias=True on each image: pixels outside the box have no influence.
    """
    resized = images.new_empty(*images.shape[:2], *size)
    chunk = images_at_once(images)
    for some, result, *box in zip(
        *(part.split(chunk) for part in (images, resized, top, left, height, width)), strict=True
    ):
        rows = _resample(some, box[0], box[2], size[0])
        columns = _resample(rows.transpose(2, 3), box[1], box[3], size[1])
        result.copy_(columns.transpose(2, 3))
    return resized


def _resample(images: Tensor, start: Tensor, length: Tensor, size: int) -> Tensor:
    """Interpolate [n, c, h, w] along the height: rows [start, start + length) of each image become ``size``
    rows.

    A resampled row is a weighted sum of a few rows, which is what an embedding bag computes: one fused pass
    in full precision, antialiased, not subject to TF32 or autocast, and the host need not know the boxes.
    Torch's own are no better here. For 64 images of 224 px on one CPU thread (median): this 134 ms,
    F.interpolate image by image, which must know the boxes, 155 to 184 ms, matrix products 325 ms;
    F.grid_sample takes 91 ms but does not antialias and is off by 1.3e-5.
    """
    n, channels, height, width = images.shape
    step = (length / size)[:, None]  # input rows per output row
    reach = step.clamp(min=1.0)  # half the width of the triangle
    centre = step * (torch.arange(size, device=images.device) + 0.5)
    taps = math.ceil(
        2 * max(height / size, 1.0)
    )  # enough for the largest box; its size is known without asking the device
    row = (centre - reach + 0.5).floor()[..., None] + torch.arange(taps, device=images.device)
    weight = (1 - ((row + 0.5 - centre[..., None]) / reach[..., None]).abs()).clamp(min=0)
    bottom = (length - 1)[:, None, None]
    weight = torch.where((row >= 0) & (row <= bottom), weight, 0.0)
    weight = weight / weight.sum(-1, keepdim=True)
    row = torch.minimum(row.long().clamp(min=0), bottom) + start[:, None, None]  # [n, size, taps]
    image = torch.arange(n * channels, device=images.device).view(n, channels, 1, 1) * height
    resampled = F.embedding_bag(
        (row[:, None] + image).view(-1, taps),
        images.reshape(-1, width),
        per_sample_weights=weight[:, None].expand(n, channels, size, taps).reshape(-1, taps).to(images.dtype),
        mode="sum",
    )
    return resampled.view(n, channels, size, width)


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
