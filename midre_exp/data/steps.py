"""Named, deterministic steps between generator, target and evaluator: crop and resize. Images float [n, 3, h, w] in [0, 1]."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F

from midre_exp.errors import ConfigError


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
    """Bilinear resize to ``size`` x ``size`` with antialiasing, as PIL and torchvision do it; a no-op at that size already."""

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
