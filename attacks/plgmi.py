"""PLG-MI, pseudo label-guided model inversion: optimise the latent of a conditional GAN that knows the
classes.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from attacks.base import ItemRNG, Loop, Prior, WhiteBoxVictim
from attacks.losses import IdentityLoss
from attacks.parts.checks import at_least_one
from attacks.parts.gradient_attack import GradientAttack
from attacks.parts.viewed_descent import descended, viewed_losses
from midre_exp.data.transforms.view import RandomView
from midre_exp.plan.ranges import Count, LearningRate


@dataclass(kw_only=True, eq=False)
class PLGMI(GradientAttack):
    """sum over random views v of L_id(T, v(G(z, y)), y) / reference_batch, over z from N(0, I) by Adam (Yuan
    et al., AAAI 2023).

    No term for realism and no clamp: the prior has learned what the target takes for the class.
    """

    steps: Count  # optimiser steps (released: 600)
    lr: LearningRate  # of Adam (released: 0.1)
    views: Count  # independent random views per step, whose losses add up (released: 2)
    view: RandomView  # v, drawn anew for every item, step and view; ``image_to_target`` follows it
    identity_loss: IdentityLoss  # L_id (released: MaxMargin; CrossEntropy is the official alternative)
    #: The batch whose mean the official code descends; Adam is scale free but for its eps (released: 60).
    reference_batch: Count

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least_one(steps=self.steps, views=self.views, reference_batch=self.reference_batch)

    def invert(
        self, victim: WhiteBoxVictim, prior: Prior, labels: Tensor, rng: ItemRNG, loop: Loop
    ) -> Tensor:
        return descended(
            lambda latents, step: self.losses(victim, prior, latents, labels, rng, step),
            rng.normal("start", prior.latent_dim),
            loop,
            steps=self.steps,
            lr=self.lr,
            reference_batch=self.reference_batch,
        )

    def losses(
        self,
        victim: WhiteBoxVictim,
        prior: Prior,
        latents: Tensor,
        labels: Tensor,
        rng: ItemRNG,
        step: int,
    ) -> Tensor:
        """The objective of each item, [n], before the division by the reference batch."""
        return viewed_losses(
            prior,
            latents,
            labels,
            rng,
            step,
            views=self.views,
            view=self.view,
            image_to_target=self.image_to_target,
            loss=lambda seen, number: self.identity(victim, seen, labels, rng, step, f"copies {number}"),
        )
