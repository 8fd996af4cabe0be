"""NLS: label smoothing with a negative factor, which pushes wrong classes further down than the labels ask
(Struppek et al. 2024).

The loss is written out here because ``torch.nn.functional.cross_entropy`` takes a negative
``label_smoothing`` without a word and computes plain cross entropy.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated

import torch
from torch import Tensor

from defenses.base import Batch, Defense, Informed, TrainingProgress
from defenses.parts.margins import margins, negative_margin
from defenses.parts.options import check_choice
from midre_exp.errors import ConfigError
from midre_exp.plan.ranges import Range, Share
from midre_exp.targets.base import Classifier, Output

#: How a negative factor comes in over the epochs.
SCHEDULES = ("official", "linear", "constant")


def smoothed_cross_entropy(logits: Tensor, targets: Tensor, alpha: float) -> Tensor:
    """Cross entropy against (1 - alpha) t + alpha / k, one loss per sample, [n]; unbounded below for alpha <
    0.

    ``logits`` [n, k]; ``targets`` t: class indices int64 [n] or weights of the classes [n, k] that sum to 1.
    """
    surprise = -logits.log_softmax(1, dtype=torch.promote_types(logits.dtype, torch.float32))
    aimed_at = (
        (targets * surprise).sum(1)
        if targets.is_floating_point()
        else surprise.gather(1, targets[:, None]).squeeze(1)
    )
    return (1 - alpha) * aimed_at + alpha * surprise.mean(1)


def scheduled_alpha(
    alpha: float, progress: TrainingProgress, *, schedule: str, start: float, full: float
) -> float:
    """The smoothing factor of an epoch.

    A positive ``alpha``, or ``constant``: alpha throughout. Otherwise 0 before the share ``start`` of the
    epochs and alpha from the share ``full`` on. In between, epoch e of E has alpha (e + 1 - start E) / (E -
    start E) with ``official``, a slope that would end at the last epoch and so jumps at ``full``; ``linear``
    rises evenly to alpha at ``full``.
    """
    if alpha >= 0 or schedule == "constant":
        return alpha
    # 9 decimals: a share meant as a whole epoch must not miss it by a floating point error.
    begin, end = (round(share * progress.epochs, 9) for share in (start, full))
    if progress.epoch < begin:
        return 0.0
    if progress.epoch >= end:
        return alpha
    last = progress.epochs if schedule == "official" else end + 1
    return alpha * (progress.epoch + 1 - begin) / (last - begin)


@dataclass(kw_only=True, eq=False)
class NLS(Defense):
    """Negative label smoothing: cross entropy against (1 - alpha) y + alpha / k with alpha < 0.

    Struppek et al. 2024, "Be Careful What You Smooth For".
    """

    exclusive = frozenset({"base_loss"})

    #: Smoothing factor: negative for the defense, positive smooths as usual, 0: none.
    alpha: Annotated[float, Range(-1_000, 1)]
    schedule: str  # official | linear | constant, of a negative alpha over the epochs; see scheduled_alpha
    start: Share  # share of the epochs before which alpha is 0
    full: Share  # share of the epochs from which alpha is reached, start <= full <= 1

    def __post_init__(self) -> None:
        if not isinstance(self.alpha, (int, float)) or not -math.inf < self.alpha <= 1:
            raise ConfigError(
                f"defense.nls.alpha={self.alpha} must be a number up to 1; the defense is below 0"
            )
        check_choice("nls.schedule", self.schedule, SCHEDULES)
        for key, share in (("start", self.start), ("full", self.full)):
            if not isinstance(share, (int, float)) or not 0 <= share <= 1:
                raise ConfigError(f"defense.nls.{key}={share} is no share of the epochs; give 0 to 1")
        if self.start > self.full:
            raise ConfigError(
                f"defense.nls.start={self.start} exceeds defense.nls.full={self.full}; lower start or raise "
                "full"
            )

    @property
    def label(self) -> str:
        """``NLS alpha``, or ``LS alpha`` for ordinary smoothing."""
        return f"{'LS' if self.alpha > 0 else 'NLS'} {self.alpha:g}"

    def base_loss(self, output: Output, batch: Batch, progress: TrainingProgress) -> Tensor | None:
        """The mean smoothed cross entropy over the batch; plain cross entropy while the factor is 0."""
        alpha = scheduled_alpha(
            self.alpha, progress, schedule=self.schedule, start=self.start, full=self.full
        )
        return None if alpha == 0 else smoothed_cross_entropy(output.logits, batch.targets, alpha).mean()

    def informed(self, model: Classifier) -> Informed:
        if self.alpha >= 0:
            return Informed(reason="no wrong class is pushed down, so the attack is the plain one")
        return Informed(
            identity_loss=negative_margin,
            score=margins,
            reason="probabilities saturate under it, so loss, search and selection go by margins of logits",
        )
