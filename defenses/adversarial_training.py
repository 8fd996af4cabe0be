"""Adversarial training: the network is trained on images that PGD has moved away from their classes. A
control, which is expected to make inversion easier: robust features look like faces.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor

from defenses.base import Batch, Classify, Informed, TrainingProgress
from defenses.parts.noise_view import NoiseView
from defenses.parts.pgd import CONFLICTS, TrainsOnPGD
from midre_exp.targets.base import Classifier, Output
from midre_exp.targets.predict import hits


@dataclass(kw_only=True, eq=False)
class AdversarialTraining(TrainsOnPGD):
    """CE(f(x'), y): x' is x moved away from y by untargeted PGD (Madry et al., ICLR 2018)."""

    name: ClassVar[str] = "adversarial_training"
    conflicts: ClassVar[Mapping[str, str]] = {
        "TrapMID": "trained against pushes the network forgets triggers, and only one can have the last word",
        **CONFLICTS,
    }

    @property
    def label(self) -> str:
        return f"Adversarial training, eps {255 * self.eps:.2g}/255"

    def before_step(
        self, batch: Batch, classify: Classify, progress: TrainingProgress, generator: torch.Generator
    ) -> Batch:
        """The batch moved away from its classes. What another defense has erased stays erased."""
        if not self.eps:
            return batch  # draws nothing either, so whoever uses the generator next is not disturbed
        moved = self._moved(
            classify, batch.images, batch.targets, towards=False, fixed=batch.erased, generator=generator
        )
        return replace(batch, images=moved)

    def reports(self, output: Output, batch: Batch) -> Mapping[str, Tensor]:
        """The accuracy on the moved images, which is what ``train_acc`` then is."""
        if not self.eps:
            return {}
        return {"adversarial_acc": 100 * hits(output.logits.detach(), batch.seen_labels).mean()}

    def informed(self, model: Classifier) -> Informed:
        if not self.eps:
            return Informed(reason="no image is moved, so the attack is the plain one")
        return Informed(
            views=(NoiseView(self.label),),
            reason="nothing is hidden, but a gradient averaged over noisy copies lies nearer to images, so "
            "the target is shown such",
        )
