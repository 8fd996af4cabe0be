"""PLG-MI, pseudo label-guided model inversion: optimise the latent of a conditional GAN that knows the
classes.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from attacks.base import ItemRNG, Loop, Prior, WhiteBoxVictim, apply
from attacks.losses import IdentityLoss
from attacks.parts.checks import at_least_one
from attacks.parts.gradient_attack import GradientAttack
from attacks.parts.optimisers import adam_step
from midre_exp.data.transforms.view import NUMBERS, RandomView
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
        start = rng.normal("start", prior.latent_dim)
        state = {"latents": start, "first": torch.zeros_like(start), "second": torch.zeros_like(start)}
        for step in loop(self.steps, state):
            latents = state["latents"].requires_grad_()
            losses = self.losses(victim, prior, latents, labels, rng, step)
            loop.show(loss=losses)
            (gradient,) = torch.autograd.grad(losses.sum() / self.reference_batch, latents)
            state["latents"], (state["first"], state["second"]) = adam_step(
                latents.detach(), (state["first"], state["second"]), gradient, step, lr=self.lr
            )
        return state["latents"]

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
        images = prior.generate(latents, labels)
        total = torch.zeros_like(latents[:, 0])
        for number in range(self.views):
            view = self.view(images, rng.uniform(f"view {number}", NUMBERS, step=step))
            seen = apply(self.image_to_target, view)
            total = total + self.identity(victim, seen, labels, rng, step, f"copies {number}")
        return total
