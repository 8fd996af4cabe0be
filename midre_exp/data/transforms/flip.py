"""Random mirror images."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from midre_exp.errors import ConfigError
from midre_exp.plan.ranges import Probability
from midre_exp.seeding import uniform


@dataclass(kw_only=True, eq=False)
class HorizontalFlip:
    """Mirrors each image of a training batch, left to right, with probability ``p``."""

    p: Probability  # in [0, 1]

    def __post_init__(self) -> None:
        if not 0 <= self.p <= 1:
            raise ConfigError(f"HorizontalFlip p={self.p} must lie in [0, 1]")

    def __call__(self, images: Tensor, generator: torch.Generator) -> Tensor:
        """Images [n, 3, h, w] in [0, 1], some of them mirrored."""
        chosen = uniform(generator, len(images), device=images.device) < self.p
        return torch.where(chosen[:, None, None, None], images.flip(-1), images)
