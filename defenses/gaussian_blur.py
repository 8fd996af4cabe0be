"""Gaussian blur as a defense: training images are blurred, each by a width of its own; test images stay sharp
(MIDRE Table 4).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from defenses.base import Batch, Defense, Informed, TrainingProgress
from defenses.parts.batch_view import BatchView, Numbers
from defenses.parts.blur import gaussian_blur
from midre_exp.errors import ConfigError
from midre_exp.plan.ranges import Count, NonNegative
from midre_exp.seeding import uniform
from midre_exp.targets.base import Classifier


@dataclass(kw_only=True, eq=False)
class GaussianBlur(Defense):
    """Gaussian blur, sigma ~ U(low, high) for each image, as torchvision's GaussianBlur (MIDRE Table 4)."""

    sigma: tuple[NonNegative, NonNegative]  # low, high standard deviation in pixels; [0, 0] is no defense
    kernel_size: Count  # side of the kernel in pixels, odd

    def __post_init__(self) -> None:
        sigma, size = self.sigma, self.kernel_size
        if not (
            isinstance(sigma, Sequence)
            and len(sigma) == 2
            and all(isinstance(value, (int, float)) for value in sigma)
            and (0 < sigma[0] <= sigma[1] < float("inf") or sigma[0] == sigma[1] == 0)
        ):
            raise ConfigError(
                f"defense.gaussian_blur.sigma={sigma} is no range; give two numbers of pixels above 0, the "
                "smaller "
                "first, or [0, 0]"
            )
        if not isinstance(size, int) or size < 1 or size % 2 == 0:
            raise ConfigError(f"defense.gaussian_blur.kernel_size={size} must be an odd number of pixels")

    @property
    def label(self) -> str:
        return f"Gaussian blur [{self.sigma[0]:g}, {self.sigma[1]:g}]"

    def on_batch(
        self, batch: Batch, model: Classifier, progress: TrainingProgress, generator: torch.Generator
    ) -> Batch:
        """Blur every image. Raises ConfigError when it is smaller than half the kernel."""
        if self.sigma[1] == 0:
            return batch  # draws nothing either, so whoever uses the generator next is not disturbed
        draw = uniform(generator, len(batch.images), device=batch.images.device)
        return replace(batch, images=self._blurred(batch.images, draw))

    def informed(self, model: Classifier) -> Informed:
        if self.sigma[1] == 0:
            return Informed(reason="nothing is blurred, so the attack is the plain one")

        def blur(images: Tensor, numbers: Numbers) -> Tensor:
            return self._blurred(images, numbers("blur", 1)[:, 0])

        return Informed(
            views=(BatchView(self.label, blur),),
            reason="the target has seen blurred faces alone, so it is shown faces blurred by the same law",
        )

    def _blurred(self, images: Tensor, draw: Tensor) -> Tensor:
        """Every image blurred by its number of ``draw`` [n], uniform in [0, 1)."""
        low, high = self.sigma
        height, width = images.shape[-2:]
        if self.kernel_size // 2 >= min(height, width):
            raise ConfigError(
                f"defense.gaussian_blur.kernel_size={self.kernel_size} is too wide for {height}x{width} "
                "images; "
                f"use at most {2 * min(height, width) - 1}"
            )
        return gaussian_blur(images, low + (high - low) * draw, self.kernel_size)
