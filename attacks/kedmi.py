"""KedMI, knowledge-enriched distributional inversion: a Gaussian of latents per identity, on a GAN that knows
the target.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from attacks.base import (
    AttackResult,
    ItemRNG,
    Loop,
    Prior,
    WhiteBoxVictim,
    apply,
    split_evenly,
)
from attacks.losses import CrossEntropy, IdentityLoss, real_class_prior
from attacks.parts.checks import at_least_one, clip_or_none
from attacks.parts.gradient_attack import GradientAttack
from attacks.parts.optimisers import adam_step
from midre_exp.errors import ConfigError
from midre_exp.plan.ranges import Count, LearningRate, NonNegative, Positive
from midre_exp.priors.kedmi import KedMIPrior


@dataclass(kw_only=True, eq=False)
class KedMI(GradientAttack):
    """(softplus(s) - s + w L_id(T, G(z), y)) / group, s = logsumexp D(G(z)), over mu and log_var of the draws
    z = mu + exp(log_var / 2) e, by Adam from mu = 0, log_var = 1 (Chen et al., ICCV 2021).

    The ``restarts`` of an identity are that many draws from the one Gaussian learned, whose numbers come from
    the random stream of the first.
    """

    steps: Count  # optimiser steps, one draw each (released: 2400)
    lr: LearningRate  # of Adam, default betas (released: 0.02)
    identity_weight: NonNegative  # w (released: 100)
    clip: Positive | None  # of z to [-clip, clip] before G, also of the final draws; None: never (LOMMA: 1)
    #: Identities, counted from label 0, that share the discriminator's minibatch discrimination and the mean
    #: of the loss, to which Adam is indifferent up to its eps (released: batches of 60).
    group: Count
    identity_loss: IdentityLoss = field(default_factory=CrossEntropy)  # L_id: the target's, or LOMMA's

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least_one(steps=self.steps, group=self.group)
        clip_or_none(self.clip)

    @property
    def group_size(self) -> int:
        """All items of the identities whose images the discriminator compares with each other."""
        return self.restarts * self.group

    @property
    def items_per_row(self) -> int:
        """The restarts of an identity: one Gaussian is learned for all of them."""
        return self.restarts

    def invert(
        self, victim: WhiteBoxVictim, prior: Prior, labels: Tensor, rng: ItemRNG, loop: Loop
    ) -> AttackResult:
        """Latents [n, latent_dim], ``restarts`` draws from the Gaussian of each identity, and its queries.

        Raises ConfigError for a prior whose discriminator is not KedMI's.
        """
        if not isinstance(prior, KedMIPrior):
            raise ConfigError(
                f"attack.prior is a {type(prior).__name__}, whose critic KedMI's loss does not fit; "
                "use prior kedmi"
            )
        queries = victim.queries
        identities, own = labels[:: self.restarts], rng[:: self.restarts]
        start = torch.tensor([[0.0], [1.0]], device=labels.device)
        start = start.expand(len(identities), 2, prior.latent_dim)
        state = {"gaussians": start, "mean": torch.zeros_like(start), "square": torch.zeros_like(start)}
        for step in loop(self.steps, state):
            gaussians = state["gaussians"].detach().requires_grad_()
            latents = self.draw(gaussians, own.normal("draw", prior.latent_dim, step=step))
            losses = self.losses(victim, prior, latents, identities, own, step)
            loop.show(loss=losses)
            (gradient,) = torch.autograd.grad(losses.sum() / self.group, gaussians)
            moments = state["mean"], state["square"]
            state["gaussians"], (state["mean"], state["square"]) = adam_step(
                gaussians.detach(), moments, gradient, step, lr=self.lr
            )
        learned = state["gaussians"].repeat_interleave(self.restarts, 0)
        latents = self.draw(learned, rng.normal("sample", prior.latent_dim))
        spent = (victim.queries - queries) // len(identities)
        return AttackResult(latents, split_evenly(spent, self.restarts).repeat(len(identities)))

    def draw(self, gaussians: Tensor, noise: Tensor) -> Tensor:
        """Latents mu + exp(log_var / 2) noise [n, d], clamped if asked, of ``gaussians`` [n, 2, d] and
        standard normal ``noise`` [n, d].
        """
        mu, log_var = gaussians.unbind(1)
        latents = mu + (0.5 * log_var).exp() * noise
        return latents if self.clip is None else latents.clamp(-self.clip, self.clip)

    def losses(
        self,
        victim: WhiteBoxVictim,
        prior: KedMIPrior,
        latents: Tensor,
        labels: Tensor,
        rng: ItemRNG,
        step: int,
    ) -> Tensor:
        """The objective of each identity, [m], before the division by the group; its prior part depends on
        the identity's group.
        """
        images = prior.generate(latents, labels)
        realism = self.critic_term(
            images, rng, step, lambda shown: real_class_prior(prior.realism(shown, self.group))
        )
        seen = apply(self.image_to_target, images)
        identity = self.identity(victim, seen, labels, rng, step)
        return realism + self.identity_weight * identity
