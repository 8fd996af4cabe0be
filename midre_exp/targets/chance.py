"""Does a classifier know more than chance would? An exact test of its accuracy on test images."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from scipy.special import bdtrc
from torch import Tensor

from midre_exp.targets.floor import AT_CHANCE

#: How improbable as many hits must be by chance to be taken for knowledge.
LEVEL = 0.01


@dataclass(frozen=True)
class Chance:
    """What always answering the commonest class of some test images would reach."""

    images: int
    share: float  # of the images, in [0, 1]; with equally many images of k classes 1 / k

    @classmethod
    def of(cls, labels: Tensor, classes: int) -> Chance:
        """Of test images with ``labels`` int64 [n] among so many ``classes``."""
        return cls(len(labels), max(1 / classes, float(torch.bincount(labels).max()) / len(labels)))

    def p_value(self, accuracy: float) -> float:
        """How probable at least as many hits are by chance; ``accuracy`` in percent of the images."""
        hits = round(accuracy * self.images / 100)
        return float(bdtrc(hits - 1, self.images, self.share)) if hits else 1.0

    def explains(self, accuracy: float) -> bool:
        """Whether an accuracy in percent may well be chance."""
        return self.share >= 1 or self.p_value(accuracy) > LEVEL

    def sentence(self, name: str, accuracy: float) -> str:
        """What to say of a classifier with such an accuracy."""
        hits = round(accuracy * self.images / 100)
        return (
            f"{name} recognises {hits} of its {self.images} test images ({accuracy:.1f} %), "
            f"{AT_CHANCE} ({100 * self.share:.1f} %, p = {self.p_value(accuracy):.2g})"
        )
