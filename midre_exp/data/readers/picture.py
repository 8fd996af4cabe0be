"""From an image file to a fixed block of 8-bit pixels, as the published pipelines decode it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from midre_exp.data.transforms.base import MAX_PIXELS, Transform


def read_picture(
    path: Path, transforms: Sequence[Transform], box: tuple[int, int, int, int] | None = None
) -> Tensor:
    """One file as uint8 [3, h, w] RGB: decoded, cut to ``box`` (left, upper, right, lower; outside is black),
    sent through ``transforms``.

    Raises what Pillow raises on a damaged file, and DataError of a transform.
    """
    with Image.open(path) as file:
        check_pixels(file.width, file.height)
        picture = file.convert("RGB")
    if box is not None:
        left, upper, right, lower = box
        check_pixels(right - left, lower - upper)
        picture = picture.crop((left, upper, right, lower))
    for transform in transforms:
        picture = transform.on_picture(picture)
    return torch.from_numpy(np.array(picture)).permute(2, 0, 1)


def check_pixels(width: int, height: int) -> None:
    """Raise ValueError for more pixels than any photograph: kilobytes can unpack to gigabytes."""
    if width * height > MAX_PIXELS:
        raise ValueError(f"{width}x{height} px are more than {MAX_PIXELS}")
