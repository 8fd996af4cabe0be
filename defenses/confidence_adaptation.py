"""Confidence adaptation: in the last epochs of a training, confidence is drawn to a ceiling below 1 (CALoR,
arXiv 2410.05814 v1 to v3; version 4, LoFt, is without it).

The released code fine-tunes a trained network for a few epochs; here these are the last ones of the training
itself, at the rates that the recipe has for them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated

import torch
from torch import Tensor

from defenses.base import Batch, Defense, Informed, TrainingProgress
from midre_exp.errors import ConfigError
from midre_exp.plan.ranges import Positive, Range, Share
from midre_exp.targets.base import Classifier, Output


def adapted_loss(logits: Tensor, targets: Tensor, *, alpha: float, gamma: float) -> Tensor:
    """One loss per sample, [n]: alpha p^gamma log p of the label's probability p. The sign is meant: it is
    least, -alpha / (gamma e), at p = exp(-1 / gamma), and 0 for p near 0 as well as at 1.

    ``logits`` [n, k]; ``targets``: class indices int64 [n] or weights of the classes [n, k] that sum to 1.
    """
    surprise = log_probabilities(logits)
    loss = alpha * (gamma * surprise).exp() * surprise
    if targets.is_floating_point():
        return (targets * loss).sum(1)
    return loss.gather(1, targets[:, None]).squeeze(1)


def log_probabilities(logits: Tensor) -> Tensor:
    """Logarithms of the softmax, [n, k], at least in single precision."""
    return logits.log_softmax(1, dtype=torch.promote_types(logits.dtype, torch.float32))


def ceiling(gamma: float) -> float:
    """The confidence at which ``adapted_loss`` is least: exp(-1 / gamma), 0.882 for 8."""
    return math.exp(-1 / gamma)


@dataclass(frozen=True)
class DistanceToCeiling:
    """|log p_y + 1 / gamma|: cross entropy up to the ceiling, and its opposite above."""

    gamma: float

    def __call__(self, logits: Tensor, labels: Tensor) -> Tensor:
        return -NearnessToCeiling(self.gamma)(logits).gather(1, labels[:, None]).squeeze(1)


@dataclass(frozen=True)
class NearnessToCeiling:
    """-|log p + 1 / gamma| of every class, [n, k]: 0 at the ceiling and less elsewhere."""

    gamma: float

    def __call__(self, logits: Tensor) -> Tensor:
        return -(log_probabilities(logits) + 1 / self.gamma).abs()


@dataclass(kw_only=True, eq=False)
class ConfidenceAdaptation(Defense):
    """In the last epochs alpha p_y^gamma log p_y is the loss, which is least at p_y = exp(-1 / gamma)."""

    exclusive = frozenset({"base_loss"})
    conflicts = {"EarlyStopping": "the one may end training before the epochs in which the other acts"}

    alpha: Positive  # factor of the loss
    gamma: Annotated[float, Range(0, 1_000, open_low=True)]  # the ceiling of confidence is exp(-1 / gamma)
    share: Share  # of the epochs, the last ones, in which it is the loss; 0 is no defense

    def __post_init__(self) -> None:
        for key, value in (("alpha", self.alpha), ("gamma", self.gamma)):
            if not isinstance(value, (int, float)) or not 0 < value < math.inf:
                raise ConfigError(
                    f"defense.confidence_adaptation.{key}={value} must be a number above 0; share=0 is no "
                    "defense"
                )
        if not isinstance(self.share, (int, float)) or not 0 <= self.share <= 1:
            raise ConfigError(
                f"defense.confidence_adaptation.share={self.share} is no share of the epochs; give 0 to 1"
            )

    @property
    def label(self) -> str:
        return f"Confidence adaptation {self.gamma:g}"

    def base_loss(self, output: Output, batch: Batch, progress: TrainingProgress) -> Tensor | None:
        """The mean over the batch in the last epochs; cross entropy before."""
        if progress.epoch < progress.epochs - self.adapted_epochs(progress.epochs):
            return None
        return adapted_loss(output.logits, batch.targets, alpha=self.alpha, gamma=self.gamma).mean()

    def adapted_epochs(self, epochs: int) -> int:
        """How many of ``epochs`` are its own: round(share E), at least one unless the share is 0."""
        return max(1, round(self.share * epochs)) if self.share else 0

    def informed(self, model: Classifier) -> Informed:
        if self.share == 0:
            return Informed(reason="confidence is drawn nowhere, so the attack is the plain one")
        return Informed(
            identity_loss=DistanceToCeiling(self.gamma),
            score=NearnessToCeiling(self.gamma),
            reason="the target's own people lie at the ceiling of confidence, so the attack aims there "
            "instead of at certainty",
        )
