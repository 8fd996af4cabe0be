"""Random shifts by whole pixels."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from midre_exp.errors import ConfigError
from midre_exp.plan.ranges import Natural
from midre_exp.seeding import integers


@dataclass(kw_only=True, eq=False)
class RandomShift:
    """Moves each image of a training batch by up to ``pixels`` in both directions, edge pixels repeated: the
    reduced scale's stand-in for random crops.
    """

    pixels: Natural  # largest shift, 0 or more

    def __post_init__(self) -> None:
        if self.pixels < 0:
            raise ConfigError(f"RandomShift pixels={self.pixels} must not be negative")

    def __call__(self, images: Tensor, generator: torch.Generator) -> Tensor:
        """Images [n, 3, h, w] in [0, 1], shifted exactly; in NHWC memory order.

        torch's nearest sampling: on one CPU thread 1.0 ms for 64 images of 32 px and 2.4 ms of 64 px, where
        gathering by index takes 2.4 and 8.2 ms (both 88 ms at 224 px).
        """
        n, _, height, width = images.shape
        if self.pixels >= min(height, width):
            raise ConfigError(
                f"RandomShift pixels={self.pixels} moves images of {width} px out of themselves; use "
                f"{min(height, width) - 1} or fewer"
            )
        shift = integers(generator, -self.pixels, self.pixels + 1, 2, n, 1, device=images.device)
        y, x = (
            (2 * (torch.arange(length, device=images.device) + by) + 1) / length - 1
            for length, by in zip((height, width), shift, strict=True)
        )
        grid = torch.stack((x[:, None].expand(n, height, width), y[:, :, None].expand(n, height, width)), -1)
        grid = grid.to(images.dtype)  # torch divides integers in its default type
        moved = F.grid_sample(images, grid, mode="nearest", padding_mode="border", align_corners=False)
        return moved.contiguous(memory_format=torch.channels_last)
