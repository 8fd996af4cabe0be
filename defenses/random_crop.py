"""Random cropping as a defense: training images are cropped more strongly than the recipe crops them (MIDRE
Table 4).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from defenses.base import Batch, Defense, Informed, TrainingProgress
from defenses.parts.batch_view import BatchView, Numbers
from midre_exp.data.transforms import RandomResizedCrop
from midre_exp.data.transforms.random_crop import NUMBERS, random_crop
from midre_exp.errors import ConfigError
from midre_exp.plan.ranges import Share
from midre_exp.targets.base import Classifier


@dataclass(kw_only=True, eq=False)
class RandomCrop(Defense):
    """A square of area A ~ U(low, high) cut out of each image and resized to its size (MIDRE Table 4)."""

    scale: tuple[Share, Share]  # low and high share of the image area, 0 < low <= high; [1, 1] is no defense

    def __post_init__(self) -> None:
        scale = self.scale
        if not (
            isinstance(scale, Sequence)
            and len(scale) == 2
            and all(isinstance(share, (int, float)) for share in scale)
            and 0 < scale[0] <= scale[1] <= 1
        ):
            raise ConfigError(
                f"defense.random_crop.scale={scale} is no range of shares; give two numbers above 0 and at "
                "most 1, "
                "the smaller first"
            )
        self._crop = RandomResizedCrop(size=None, scale=(scale[0], scale[1]), ratio=(1.0, 1.0))

    @property
    def label(self) -> str:
        return f"Random crop [{self.scale[0]:g}, {self.scale[1]:g}]"

    def on_batch(
        self, batch: Batch, model: Classifier, progress: TrainingProgress, generator: torch.Generator
    ) -> Batch:
        if self.scale[0] == 1:
            return batch  # draws nothing either, so whoever uses the generator next is not disturbed
        if batch.erased is None:
            return replace(batch, images=self._crop(batch.images, generator))
        cropped = self._crop(torch.cat((batch.images, batch.erased.to(batch.images)), 1), generator)
        return replace(batch, images=cropped[:, :-1], erased=cropped[:, -1:] > 0)  # the rim is erased in part

    def informed(self, model: Classifier) -> Informed:
        if self.scale[0] == 1:
            return Informed(reason="nothing is cropped, so the attack is the plain one")

        def crop(images: Tensor, numbers: Numbers) -> Tensor:
            return random_crop(
                images, numbers("box", NUMBERS), scale=self._crop.scale, ratio=self._crop.ratio
            )

        return Informed(
            views=(BatchView(self.label, crop),),
            reason="the target has seen parts of faces alone, so it is shown parts cut out by the same law",
        )
