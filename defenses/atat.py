"""AT-AT, anti adversarial training: the network is taught that an imperceptible push towards a class makes an
image that class, so that its gradients lead to pushes instead of faces (ICLR 2026).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from defenses.base import Batch, Classify, Informed, TrainingProgress
from defenses.parts.noise_view import NoiseView
from defenses.parts.pgd import CONFLICTS, TrainsOnPGD
from midre_exp.errors import ConfigError
from midre_exp.plan.ranges import NonNegative
from midre_exp.seeding import integers
from midre_exp.targets.base import Classifier, Output
from midre_exp.targets.predict import hits


def other_classes(drawn: Tensor, labels: Tensor, classes: int) -> Tensor:
    """The classes ``drawn``, int64 [n], with the next one where an image's own was drawn, as released: it
    comes twice as often as any other.
    """
    return torch.where(drawn == labels, (drawn + 1) % classes, drawn)


@dataclass(kw_only=True, eq=False)
class ATAT(TrainsOnPGD):
    """CE(f(x), y) + weight CE(f(x'), t): x' is x pushed towards a random other class t by targeted PGD."""

    name: ClassVar[str] = "atat"
    conflicts: ClassVar[Mapping[str, str]] = {
        "AdversarialTraining": "one teaches the network to follow imperceptible pushes, the other to resist "
        "them",
        "TrapMID": "both teach the network marks of classes, each on images without those of the other",
        **CONFLICTS,
    }

    weight: NonNegative  # of the loss on pushed images, >= 0; 0 is no defense
    _success: Tensor | None = field(init=False, default=None, repr=False)  # of the last step, percent

    def __post_init__(self) -> None:
        super().__post_init__()
        if not isinstance(self.weight, (int, float)) or not 0 <= self.weight < float("inf"):
            raise ConfigError(
                f"defense.atat.weight={self.weight} must be a number from 0 on; 0 is no defense"
            )

    @property
    def label(self) -> str:
        return f"AT-AT {self.weight:g}, eps {255 * self.eps:.2g}/255"

    @property
    def _acts(self) -> bool:
        return self.weight > 0 and self.eps > 0

    def extra_losses(
        self,
        output: Output,
        batch: Batch,
        progress: TrainingProgress,
        *,
        classify: Classify,
        generator: torch.Generator,
    ) -> Mapping[str, Tensor]:
        """The loss on images pushed towards other classes. What another defense has erased stays erased."""
        self._success = None
        if not self._acts:
            return {}  # draws nothing and asks nothing, so batch norms see the batch alone
        images, classes = batch.images, output.logits.shape[1]
        drawn = integers(generator, 0, classes, len(images), device=images.device)
        wanted = other_classes(drawn, batch.seen_labels, classes)
        pushed = self._moved(classify, images, wanted, towards=True, fixed=batch.erased, generator=generator)
        logits = classify(pushed).logits
        self._success = 100 * hits(logits.detach(), wanted).mean()
        return {"pushed": self.weight * F.cross_entropy(logits, wanted)}

    def reports(self, output: Output, batch: Batch) -> Mapping[str, Tensor]:
        """How many pushed images are taken for the class they were pushed to; near 0 the defense does not
        act.
        """
        return {} if self._success is None else {"targeted_success": self._success}

    def informed(self, model: Classifier) -> Informed:
        if not self._acts:
            return Informed(reason="no image is pushed, so the attack is the plain one")
        return Informed(
            views=(NoiseView(self.label),),
            reason="gradients lead to imperceptible pushes, which noise averages out, so the target is shown "
            "noisy copies",
        )
