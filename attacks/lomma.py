"""LOMMA: another identity loss for GMI and KedMI, the logit itself, of the target and of its students."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor

from attacks.base import ItemRNG, WhiteBoxVictim
from attacks.losses import IdentityLoss, cross_entropy_identity, feature_regulariser, logit_identity
from attacks.parts.checks import one_of
from midre_exp.errors import ConfigError
from midre_exp.plan.ranges import NonNegative
from midre_exp.surrogates.base import Surrogates
from midre_exp.surrogates.lomma import LommaSurrogates

Criterion = Literal["logit", "cross_entropy"]
FeatureGoal = Literal["mean", "sample"]

_LOSSES = {"logit": logit_identity, "cross_entropy": cross_entropy_identity}


@dataclass(kw_only=True, eq=False)
class LogitLoss(IdentityLoss):
    """mean over target and students of -logit_y, + regulariser * mean_d (f - p_reg)^2 of the target's
    penultimate features f (Nguyen et al., CVPR 2023).

    The parts of LOMMA: logit loss alone, ``surrogates.students=[]``; model augmentation alone, ``criterion``
    "cross_entropy" and ``regulariser`` 0.
    """

    criterion: Criterion  # "cross_entropy": in place of -logit_y (released: logit)
    regulariser: NonNegative  # weight, >= 0 (released configs: 1; the function's default: 0.1)
    #: "mean" of the target's features of public images (released), or "sample": drawn from N(mean, std) for
    #: every item and step (the paper; the released code overwrites its sample with the mean).
    p_reg: FeatureGoal
    #: What a defense names in place of the criterion (``Informed.identity_loss``), of target and students.
    given: Callable[[Tensor, Tensor], Tensor] | None = field(default=None, init=False, repr=False)

    def __post_init__(self) -> None:
        one_of("attack.identity_loss.criterion", self.criterion, Criterion)
        one_of("attack.identity_loss.p_reg", self.p_reg, FeatureGoal)
        if self.regulariser < 0:
            raise ConfigError(f"attack.identity_loss.regulariser={self.regulariser} must not be negative")

    def with_loss(self, loss: Callable[[Tensor, Tensor], Tensor]) -> IdentityLoss:
        other = copy.copy(self)
        other.given = loss
        return other

    def __call__(
        self,
        victim: WhiteBoxVictim,
        surrogates: Surrogates | None,
        images: Tensor,
        labels: Tensor,
        rng: ItemRNG,
        step: int,
    ) -> Tensor:
        """As the base's; its mean over a batch is the official loss. Raises ConfigError without LOMMA's
        surrogates.
        """
        if not isinstance(surrogates, LommaSurrogates):
            raise ConfigError(
                "LOMMA's identity loss needs students and feature statistics; "
                "set attack.surrogates to conf/attack/surrogates/lomma.yaml"
            )
        output = victim(images)
        criterion = self.given or _LOSSES[self.criterion]
        logits = [output.logits, *(student(images).logits for student in surrogates.networks.values())]
        losses = torch.stack([criterion(answer, labels) for answer in logits]).mean(0)
        if self.regulariser:
            goal = surrogates.feature_mean
            if self.p_reg == "sample":
                noise = rng.normal("p_reg", len(goal), step=step)
                goal = goal + surrogates.feature_std * noise
            losses = losses + self.regulariser * feature_regulariser(output.features, goal)
        return losses
