"""Batched training augmentation on the device, one file for all of it. Images float [n, 3, h, w] in [0, 1] in and out."""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

from midre_exp.errors import ConfigError


class Augmentation(Protocol):
    """A random change of a batch; every image draws for itself."""

    def __call__(self, images: Tensor, generator: torch.Generator) -> Tensor:
        """Change images [n, 3, h, w]; random numbers come from ``generator`` on the images' device."""
        ...


class HorizontalFlip:
    """Mirrors each image with probability ``p``."""

    def __init__(self, *, p: float):
        if not 0 <= p <= 1:
            raise ConfigError(f"HorizontalFlip p={p} must lie in [0, 1]")
        self.p = p

    def __call__(self, images: Tensor, generator: torch.Generator) -> Tensor:
        """Flip along the width."""
        chosen = torch.rand(len(images), generator=generator, device=images.device) < self.p
        return torch.where(chosen[:, None, None, None], images.flip(-1), images)


class RandomShift:
    """Moves each image by up to ``pixels`` in both directions, edge pixels repeated (the reduced scale's stand-in for random crops)."""

    def __init__(self, *, pixels: int):
        if pixels < 0:
            raise ConfigError(f"RandomShift pixels={pixels} must not be negative")
        self.pixels = pixels

    def __call__(self, images: Tensor, generator: torch.Generator) -> Tensor:
        """Shift by whole pixels, gathered in one indexing operation."""
        n, _, height, width = images.shape
        draw = torch.randint(
            -self.pixels, self.pixels + 1, (2, n, 1), generator=generator, device=images.device
        )
        rows = (torch.arange(height, device=images.device) + draw[0]).clamp(0, height - 1)
        columns = (torch.arange(width, device=images.device) + draw[1]).clamp(0, width - 1)
        batch = torch.arange(n, device=images.device)[:, None, None]
        return images.permute(0, 2, 3, 1)[batch, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)
