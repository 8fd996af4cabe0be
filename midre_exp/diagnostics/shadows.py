"""Shadow models for membership inference: targets of the same kind, each trained on other images of the same
people, so that of every image there are some that saw it and some that did not.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from midre_exp.data.base import Dataset, ImageSet, Part, Role
from midre_exp.diagnostics.intervals import flat
from midre_exp.diagnostics.membership import inference, lira, lira_statistic
from midre_exp.metrics.base import Unavailable
from midre_exp.seeding import generator
from midre_exp.targets.base import Classifier
from midre_exp.targets.predict import answers

#: Fewer shadows of one side than this say too little of an image for a deviation of its own (sheet of LiRA).
_FEW = 32


def kept_by(labels: Tensor, trained_on: Tensor, shadow: int, seed: int) -> Tensor:
    """Which images, of identities ``labels`` int64 [n], the shadow of that number is trained on, bool [n]: of
    each identity as many as the target, ``trained_on`` bool [n], was. Shadows leave images out in turn, in an
    order drawn for each identity, so that all are left out about equally often.
    """
    kept = torch.ones_like(trained_on)
    for identity in labels.unique().tolist():
        rows = (labels == identity).nonzero().squeeze(1)
        order = rows[torch.randperm(len(rows), generator=generator(seed, "shadows", identity))]
        out = len(rows) - int(trained_on[rows].sum())
        kept[order[(torch.arange(out) + shadow * out) % len(rows)]] = False
    return kept


def pooled(train: ImageSet, test: ImageSet) -> tuple[ImageSet, Tensor]:
    """All images of the private people, and which of them the target was trained on, bool [n]."""
    images = torch.cat([train.images, test.images])
    labels = torch.cat([train.labels, test.labels])
    trained_on = torch.arange(len(labels)) < len(train)
    return ImageSet(images, labels, train.classes), trained_on


@dataclass(frozen=True)
class ShadowImages(Dataset):
    """The private people in other parts: what one shadow is trained on, and the rest; never planned, so it
    has no fingerprint.
    """

    private: Dataset
    shadow: int
    seed: int

    def load(self, part: Part) -> ImageSet:
        """``train`` or ``test``."""
        every, trained_on = pooled(self.private.load("train"), self.private.load("test"))
        kept = kept_by(every.labels, trained_on, self.shadow, self.seed)
        rows = (kept if part == "train" else ~kept).nonzero().squeeze(1)
        return ImageSet(every.images[rows], every.labels[rows], every.classes)

    def fingerprint(self, role: Role) -> dict[str, object]:
        """Nothing is keyed by it."""
        return {}


def shadowed(
    target: Classifier,
    shadows: Sequence[Classifier],
    private: Dataset,
    *,
    seed: int,
    rates: Sequence[float],
    device: torch.device,
) -> tuple[dict[str, Any], dict[str, float]]:
    """LiRA against ``target`` by ``shadows`` in their order: what a record tells, and the chief numbers. One
    deviation for all images, for few shadows tell none of each. Raises Unavailable where some image has no
    shadow of one side.
    """
    every, trained_on = pooled(private.load("train"), private.load("test"))
    labels = every.labels.cpu()
    kept = torch.stack([kept_by(labels, trained_on, number, seed) for number in range(len(shadows))])
    sides = int(kept.sum(0).min()), int((~kept).sum(0).min())
    if not min(sides):
        raise Unavailable(
            f"{len(shadows)} shadows leave images that none of them was trained "
            f"{'without' if sides[0] else 'on'}; raise diagnostics.lira.shadows"
        )
    own, *others = (lira_statistic(answers(model, every, device), labels) for model in (target, *shadows))
    told: dict[str, Any] = {"shadows": len(shadows), "with": sides[0], "without": sides[1]}
    for name in ("online", "offline"):
        unlikely = lira(
            kept, torch.stack(others), own, offline=name == "offline", fix_variance=min(sides) < _FEW
        )
        told[name] = inference(-unlikely[trained_on], -unlikely[~trained_on], rates)
    numbers = {
        **flat("lira_auc", told["online"]["auc"]),
        **flat("lira_advantage", told["online"]["advantage"]),
    }
    return told, numbers
