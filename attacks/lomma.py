"""LOMMA (Nguyen et al. 2023): another identity loss for GMI and KedMI, the logit itself, asked of the target
and of its students.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor

from attacks.losses import cross_entropy_identity, feature_regulariser, logit_identity
from attacks.parts.identity_losses import IdentityLoss
from midre_exp.errors import ConfigError
from midre_exp.seeding import ItemRNG
from midre_exp.surrogates.lomma import LommaSurrogates
from midre_exp.threat import WhiteBoxVictim

_LOSSES = {"logit": logit_identity, "cross_entropy": cross_entropy_identity}


class LogitLoss(IdentityLoss):
    """mean over target and students of -logit_y, plus ``regulariser`` * mean_d (f - p_reg)^2 of the target's
    penultimate features f.

    p_reg is the mean of the target's features of public images (``p_reg`` "mean", the official code), or
    drawn from N(mean, std) for every item and step ("sample", the paper). The parts of LOMMA: logit loss
    alone, ``surrogates.students=[]``; model augmentation alone, ``criterion`` "cross_entropy" and
    ``regulariser`` 0. Raises ConfigError for another choice or a negative weight.
    """

    def __init__(
        self,
        *,
        criterion: Literal["logit", "cross_entropy"],
        regulariser: float,
        p_reg: Literal["mean", "sample"],
    ):
        choices = (
            ("criterion", criterion, tuple(_LOSSES)),
            ("p_reg", p_reg, ("mean", "sample")),
        )
        for name, value, known in choices:
            if value not in known:
                raise ConfigError(f"attack.identity_loss.{name}={value} is unknown; use {' or '.join(known)}")
        if regulariser < 0:
            raise ConfigError(f"attack.identity_loss.regulariser={regulariser} must not be negative")
        self.criterion = _LOSSES[criterion]
        self.regulariser = regulariser
        self.p_reg = p_reg

    def __call__(
        self,
        victim: WhiteBoxVictim,
        surrogates: Any,
        images: Tensor,
        labels: Tensor,
        rng: ItemRNG,
        step: int,
    ) -> Tensor:
        """See the base. The mean over a batch is the official loss. Raises ConfigError without LOMMA's
        surrogates.
        """
        if not isinstance(surrogates, LommaSurrogates):
            raise ConfigError(
                "LOMMA's identity loss needs students and feature statistics; set attack.surrogates to conf/attack/surrogates/lomma.yaml"
            )
        output = victim(images)
        logits = [output.logits, *(student(images).logits for student in surrogates.students.values())]
        losses = torch.stack([self.criterion(answer, labels) for answer in logits]).mean(0)
        if self.regulariser:
            towards = surrogates.feature_mean
            if self.p_reg == "sample":
                noise = rng.normal("p_reg", len(towards), step=step)
                towards = towards + surrogates.feature_std * noise
            losses = losses + self.regulariser * feature_regulariser(output.features, towards)
        return losses
