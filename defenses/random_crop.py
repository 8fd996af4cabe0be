"""Random cropping as a defense: training images are cropped more strongly than the recipe crops them (MIDRE
Table 4).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch

from midre_exp.data.transforms import RandomResizedCrop
from midre_exp.defense import Batch, Defense, TrainingProgress
from midre_exp.errors import ConfigError
from midre_exp.targets.base import Classifier


class RandomCrop(Defense):
    """A square of its own cut out of each image and resized to the image's size.

    ``scale``: smallest and largest share of the image area, 0 < low <= high <= 1; [1, 1] is no defense.
    Raises ConfigError otherwise.
    """

    def __init__(self, *, scale: Sequence[float]):
        if not (
            isinstance(scale, Sequence)
            and len(scale) == 2
            and all(isinstance(share, (int, float)) for share in scale)
            and 0 < scale[0] <= scale[1] <= 1
        ):
            raise ConfigError(
                f"defense.random_crop.scale={scale} is no range of shares; give two numbers above 0 and at most 1, the smaller first"
            )
        self.scale = (scale[0], scale[1])
        self.crop = RandomResizedCrop(size=None, scale=self.scale, ratio=(1.0, 1.0))

    @property
    def label(self) -> str:
        """``Random crop [low, high]``."""
        return f"Random crop [{self.scale[0]:g}, {self.scale[1]:g}]"

    def on_batch(
        self, batch: Batch, model: Classifier, progress: TrainingProgress, generator: torch.Generator
    ) -> Batch:
        """Crop and resize every image. ``generator`` lives on the device of the images."""
        if self.scale[0] == 1:
            return batch  # draws nothing either, so whoever uses the generator next is not disturbed
        return replace(batch, images=self.crop(batch.images, generator))
