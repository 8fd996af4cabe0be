"""How much of its people a target gives away to whoever only keeps the reconstructions: a student that is
trained on these alone and tested on real photographs (knowledge extraction score, Struppek et al. 2024).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from midre_exp.data.base import Dataset, ImageSet, Part, Role, to_float
from midre_exp.diagnostics.intervals import measured
from midre_exp.metrics.base import Unavailable
from midre_exp.targets.base import Classifier
from midre_exp.targets.predict import Step, answers, predicted_classes


@dataclass(frozen=True)
class Lessons(Dataset):
    """What a student learns from and is tested on; never planned, so it has no fingerprint."""

    train: ImageSet
    test: ImageSet

    def load(self, part: Part) -> ImageSet:
        """``train`` or ``test``."""
        return {"train": self.train, "test": self.test}[part]

    def fingerprint(self, role: Role) -> dict[str, object]:
        """Nothing is keyed by it."""
        return {}


def of_identities(images: ImageSet, identities: int) -> ImageSet:
    """The images of the first so many classes alone."""
    rows = (images.labels < identities).nonzero().squeeze(1)
    return ImageSet(images.images[rows], images.labels[rows], images.classes[:identities])


def first_of_each(images: ImageSet, count: int) -> ImageSet:
    """The first so many images of every class, or all where it has fewer."""
    order = images.labels.argsort(stable=True)
    place = torch.arange(len(order)) - torch.searchsorted(images.labels[order], images.labels[order])
    rows = order[place < count].sort().values
    return ImageSet(images.images[rows], images.labels[rows], images.classes)


@torch.no_grad()
def as_the_student_sees(images: Tensor, steps: Sequence[Step]) -> Tensor:
    """Reconstructions uint8 [n, 3, h, w] after the steps between them and an evaluator, uint8 again."""
    parts = []
    for some in images.split(256):
        shown = to_float(some)
        for step in steps:
            shown = step(shown)
        parts.append(shown.clamp(0, 1).mul(255).round().to(torch.uint8))
    return torch.cat(parts) if parts else images


def lessons(reconstructions: ImageSet, test: ImageSet) -> Lessons:
    """Raises Unavailable where there is nothing to learn from."""
    if len(reconstructions) < 2:
        raise Unavailable(f"the attack left {len(reconstructions)} reconstructions; a student needs two")
    return Lessons(reconstructions, test)


def fitting(recipe: dict[str, Any], images: int) -> dict[str, Any]:
    """A recipe whose batches so many images fill: of one image alone batch norm makes nothing."""
    return {**recipe, "batch_size": min(int(recipe["batch_size"]), images), "drop_last": True}


def examined(student: Classifier, taught: Lessons, train: ImageSet, device: torch.device) -> dict[str, Any]:
    """Accuracy of a student on the target's training images and on its test images, in percent, with how many
    images of each class it learnt from.
    """
    counts = taught.train.labels.bincount(minlength=taught.train.num_classes)
    found: dict[str, Any] = {
        "identities": taught.train.num_classes,
        "per_class": {"least": int(counts.min()), "most": int(counts.max())},
        "chance": 100 / taught.train.num_classes,
    }
    for name, real in (("train", train), ("test", taught.test)):
        right = predicted_classes(answers(student, real, device)) == real.labels
        found[name] = {**measured(right, scale=100), "images": len(real)}
    return found
