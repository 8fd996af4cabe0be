"""Tensors as pictures: grids, and PNG data for self-contained pages."""

from __future__ import annotations

import base64
import io

import torch
from PIL import Image
from torch import Tensor


def to_picture(images: Tensor) -> Tensor:
    """uint8 images on the CPU from uint8, or from float in [0, 1]."""
    if images.dtype != torch.uint8:
        images = (images.detach().clamp(0, 1) * 255).round().to(torch.uint8)
    return images.cpu()


def grid(images: Tensor, *, columns: int | None = None, gap: int = 2) -> Image.Image:
    """Images [n, 3, h, w] side by side on white, row by row; as square as possible unless ``columns`` is
    given.
    """
    images = to_picture(images)
    n, _, height, width = images.shape
    columns = columns or max(1, round(n**0.5))
    rows = -(-n // columns)
    canvas = torch.full(
        (3, rows * (height + gap) - gap, columns * (width + gap) - gap), 255, dtype=torch.uint8
    )
    for i, image in enumerate(images):  # placing tiles on a canvas, at most a few dozen
        top, left = (i // columns) * (height + gap), (i % columns) * (width + gap)
        canvas[:, top : top + height, left : left + width] = image
    return Image.fromarray(canvas.permute(1, 2, 0).numpy())


def data_url(image: Tensor, *, largest: int | None = None) -> str:
    """One image [3, h, w] as a PNG data URL, scaled down until no side is longer than ``largest`` pixels."""
    picture = Image.fromarray(to_picture(image).permute(1, 2, 0).contiguous().numpy())
    if largest is not None:
        picture.thumbnail((largest, largest), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    picture.save(buffer, format="PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()
