"""GMI, generative model inversion: gradient descent on the latent of a GAN trained on public images."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from attacks.base import ItemRNG, Loop, Prior, WhiteBoxVictim, apply
from attacks.losses import CrossEntropy, IdentityLoss, critic_prior
from attacks.parts.checks import at_least_one, clip_or_none
from attacks.parts.gradient_attack import GradientAttack
from attacks.parts.optimisers import nesterov_step
from midre_exp.plan.ranges import BelowOne, Count, LearningRate, NonNegative, Positive


@dataclass(kw_only=True, eq=False)
class GMI(GradientAttack):
    """(-D(G(z)) + w L_id(T, G(z), y)) / reference_batch over z from N(0, I), by look-ahead momentum (Zhang et
    al., CVPR 2020, eq. 3).
    """

    steps: Count  # optimiser steps (released: 1500; KedMI's and LOMMA's baseline: 2400)
    lr: LearningRate  # of the momentum step on z (released: 0.02)
    momentum: BelowOne  # (released: 0.9)
    identity_weight: NonNegative  # w (released: 100)
    #: z is clamped to [-clip, clip] after each step, the start is not; None: never (released: 1).
    clip: Positive | None
    #: The batch whose mean loss the official code descends: SGD is not scale free, so this fixes the
    #: effective step size for any chunk (released: 60; GMI's own: 100).
    reference_batch: Count
    identity_loss: IdentityLoss = field(default_factory=CrossEntropy)  # L_id: the target's, or LOMMA's

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least_one(steps=self.steps, reference_batch=self.reference_batch)
        clip_or_none(self.clip)

    def invert(
        self, victim: WhiteBoxVictim, prior: Prior, labels: Tensor, rng: ItemRNG, loop: Loop
    ) -> Tensor:
        start = rng.normal("start", prior.latent_dim)
        state = {"latents": start, "velocity": torch.zeros_like(start)}
        for step in loop(self.steps, state):
            latents = state["latents"].requires_grad_()
            losses = self.losses(victim, prior, latents, labels, rng, step)
            loop.show(loss=losses)
            (gradient,) = torch.autograd.grad(losses.sum() / self.reference_batch, latents)
            latents, state["velocity"] = nesterov_step(
                latents.detach(), state["velocity"], gradient, lr=self.lr, momentum=self.momentum
            )
            state["latents"] = latents if self.clip is None else latents.clamp(-self.clip, self.clip)
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
        critic = self.critic_term(images, rng, step, lambda shown: critic_prior(prior.realism(shown)))
        seen = apply(self.image_to_target, images)
        identity = self.identity(victim, seen, labels, rng, step)
        return critic + self.identity_weight * identity
