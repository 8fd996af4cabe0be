"""Erasing one square or rectangle of every image: its side, its pixels, and the paint."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from defenses.parts.options import check_choice

#: How a length becomes a whole side, and how far below a whole side the lengths begin that are rounded to it.
ROUNDINGS: Mapping[str, tuple[Callable[[float], int], float]] = {
    "round": (round, 0.5),
    "floor": (math.floor, 0.0),
    "ceil": (math.ceil, 1.0),
}


def square_side(share: float, height: int, width: int, rounding: str) -> int:
    """Side in pixels of a square over ``share`` of an image: sqrt(share * height * width), rounded."""
    check_choice("midre.rounding", rounding, ROUNDINGS)
    to_whole, _ = ROUNDINGS[rounding]
    # 9 decimals: a share meant as a whole side (0.81 of 70 x 70) must not miss it by a floating point error.
    return to_whole(round(math.sqrt(share * (height * width)), 9))


def rectangles(size: tuple[int, int], top: Tensor, left: Tensor, height: Tensor, width: Tensor) -> Tensor:
    """Which pixels of images of ``size`` (height, width) lie in the rectangle of each: bool [n, 1, h, w].

    ``top``, ``left``, ``height``, ``width``: int64 [n], pixels; a side of 0 covers nothing.
    """
    rows = _covered(size[0], top, height)[:, None, :, None]
    columns = _covered(size[1], left, width)[:, None, None, :]
    return rows & columns


def painted(images: Tensor, erased: Tensor, fill: Tensor) -> Tensor:
    """A copy of ``images`` [n, c, h, w] with ``fill`` on the ``erased`` pixels, bool [n, 1, h, w]; others are
    bit-equal. ``fill``: [c] or [1, c, 1, 1] in the units of the images. One elementwise pass; keeps the dtype
    of the images.
    """
    return torch.where(erased, fill.reshape(1, -1, 1, 1).to(images), images)


def erase_squares(images: Tensor, top: Tensor, left: Tensor, side: Tensor, fill: Tensor) -> Tensor:
    """A copy of ``images`` with ``fill`` on the square of each, as ``rectangles`` and ``painted``."""
    return painted(images, rectangles((images.shape[-2], images.shape[-1]), top, left, side, side), fill)


def _covered(length: int, start: Tensor, side: Tensor) -> Tensor:
    """Which of ``length`` positions lie in [start, start + side): bool [n, length]."""
    position = torch.arange(length, device=start.device)
    return (position >= start[:, None]) & (position < (start + side)[:, None])
