"""PPA, Plug & Play Attacks: optimise codes of a ready-made StyleGAN2, then select those whose class survives
random views.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from attacks.base import ItemRNG, Loop, Prior, Runtime, WhiteBoxVictim, apply
from attacks.losses import IdentityLoss, real_class_prior
from attacks.parts.checks import above_zero, adam_betas, at_least_one
from attacks.parts.final_selection import FinalSelection
from attacks.parts.gradient_attack import GradientAttack
from attacks.parts.initial_selection import InitialSelection, most_confident, place_in_class, style_prior
from attacks.parts.optimisers import adam_step
from attacks.parts.random_crops import RandomCrop
from midre_exp.errors import ConfigError
from midre_exp.plan.ranges import BelowOne, Count, LearningRate, Natural, NonNegative, Positive


@dataclass(kw_only=True, eq=False)
class PPA(GradientAttack):
    """(L_id(T, v(G(w)), y) + discriminator_weight * softplus(-D(G(w)))) / reference_batch, over codes w of a
    style prior by Adam (Struppek et al., ICML 2022, Sec. 4).

    ``restarts`` candidates per identity; details: their ``robustness`` in the final selection, and ``kept``
    of them as ``selected``. Latents are codes: [n, 1, w_dim] with ``single_w``, else [n, num_ws, w_dim].
    """

    search: InitialSelection  # candidates start from its codes that the target is most confident of
    #: One code for all layers (released), from the first layer's, which is truncated, although the target saw
    #: codes truncated in the first layers alone; False: a code per layer.
    single_w: bool
    steps: Count  # optimiser steps (released: 50; CelebA: 70)
    lr: LearningRate  # of Adam (released: 5e-3)
    betas: tuple[BelowOne, BelowOne]  # of Adam (released: 0.1, 0.1)
    #: Steps from which on lr is multiplied by gamma (MIDRE: 30, 40; released: -).
    milestones: Sequence[Natural]
    gamma: Positive  # (MIDRE: 0.1)
    view: RandomCrop  # v, drawn anew each step
    identity_loss: IdentityLoss  # L_id (released: Poincare)
    clip: bool  # clip images to [0, 1] before the target gets them (released: no)
    discriminator_weight: NonNegative  # >= 0 (released: 0); above 0 the prior needs a discriminator
    #: The batch whose mean the official code descends; Adam is scale free but for its eps (released: 25).
    reference_batch: Count
    selection: FinalSelection  # how candidates are ranked
    kept: Count  # most robust candidates per identity, which count (released: 50 of 200; MIDRE: 8 of 16)

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least_one(steps=self.steps, kept=self.kept, reference_batch=self.reference_batch)
        above_zero(lr=self.lr)
        self.betas = adam_betas(self.betas)
        if self.kept > self.restarts:
            raise ConfigError(
                f"attack.kept={self.kept} exceeds attack.restarts={self.restarts}, the candidates per "
                "identity; lower kept"
            )
        self.search.require_candidates(self.restarts)
        if self.discriminator_weight < 0:
            raise ConfigError(f"attack.discriminator_weight={self.discriminator_weight} must not be negative")

    def initialise(
        self, victim: WhiteBoxVictim, prior: Prior, labels: Tensor, *, shared_rng: ItemRNG, runtime: Runtime
    ) -> Tensor:
        """The codes to start from, [n, 1 or num_ws, w_dim] on the CPU."""
        style = style_prior(prior)
        codes = style.codes(self.search.z(style, shared_rng), psi=self.search.psi, cutoff=self.search.cutoff)
        confidences = self.search.confidences(
            victim,
            style,
            codes,
            self.image_to_target,
            runtime,
            shared_rng=shared_rng,
            expectation=self.averaging,
            score=self.ranked_by,
        )
        return codes[:, : 1 if self.single_w else None].cpu()[most_confident(confidences, labels)]

    def invert(
        self, victim: WhiteBoxVictim, prior: Prior, labels: Tensor, rng: ItemRNG, loop: Loop
    ) -> Tensor:
        """Codes [n, 1 or num_ws, w_dim] after ``steps`` steps."""
        if loop.start is None:
            raise RuntimeError("PPA starts from the codes that its initialise chose")
        start = loop.start
        state = {"latents": start, "first": torch.zeros_like(start), "second": torch.zeros_like(start)}
        for step in loop(self.steps, state):
            latents = state["latents"].requires_grad_()
            losses = self.losses(victim, prior, latents, labels, rng, loop.shared_rng, step)
            loop.show(loss=losses)
            (gradient,) = torch.autograd.grad(losses.sum() / self.reference_batch, latents)
            state["latents"], (state["first"], state["second"]) = adam_step(
                latents.detach(),
                (state["first"], state["second"]),
                gradient,
                step,
                lr=self.lr_at(step),
                betas=self.betas,
            )
        return state["latents"]

    def lr_at(self, step: int) -> float:
        """Adam's rate in ``step``, counted from 0."""
        return self.lr * self.gamma ** sum(milestone <= step for milestone in self.milestones)

    def losses(
        self,
        victim: WhiteBoxVictim,
        prior: Prior,
        latents: Tensor,
        labels: Tensor,
        rng: ItemRNG,
        shared_rng: ItemRNG,
        step: int,
    ) -> Tensor:
        """The objective of each item, [n], before the division by the reference batch."""
        images = prior.generate(latents, labels)
        seen = apply(self.image_to_target, images.clamp(0, 1) if self.clip else images)
        seen = self.view(seen, rng, shared_rng, "crop", step)
        losses = self.identity(victim, seen, labels, rng, step)
        if self.discriminator_weight:
            losses = losses + self.discriminator_weight * real_class_prior(prior.realism(images))
        return losses

    def examine(
        self, victim: WhiteBoxVictim, images: Tensor, labels: Tensor, *, shared_rng: ItemRNG, runtime: Runtime
    ) -> dict[str, Tensor]:
        """``robustness`` float [n], a query per view."""
        found = self.selection.robustness(
            victim,
            images,
            labels,
            shared_rng=shared_rng,
            runtime=runtime,
            expectation=self.averaging,
            score=self.ranked_by,
        )
        return {"robustness": found}

    def select(
        self,
        victim: WhiteBoxVictim,
        prior: Prior,
        labels: Tensor,
        latents: Tensor,
        details: Mapping[str, Tensor],
        *,
        shared_rng: ItemRNG,
        runtime: Runtime,
    ) -> dict[str, Tensor]:
        """``selected`` bool [n], exactly ``kept`` of each identity."""
        return {"selected": place_in_class(details["robustness"], labels) < self.kept}
