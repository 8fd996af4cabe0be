"""Diff-MI: a picture that a diffusion model of the target's classes finds free of noise and the target takes
for the label; drawn anew from a little noise in the end, and moved towards the target if asked.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

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
from attacks.losses import IdentityLoss, cross_entropy_identity, feature_regulariser, topk_identity
from attacks.parts.checks import above_zero, at_least_one, one_of
from attacks.parts.diffusion_descent import Descent, jitter, noise_level
from attacks.parts.gradient_attack import GradientAttack
from attacks.parts.picture_ascent import TargetedPGD
from midre_exp.data.transforms import View
from midre_exp.errors import ConfigError
from midre_exp.plan.ranges import Count, LearningRate, Natural, NonNegative, Positive
from midre_exp.priors.ddpm import DDPMPrior
from midre_exp.surrogates.base import Surrogates
from midre_exp.surrogates.class_features import ClassFeatures

Counted = Literal["before_pgd", "after_pgd"]


@dataclass(kw_only=True, eq=False)
class TopKLogits(IdentityLoss):
    """mean of the k largest other logits - logit_y + regulariser * mean_d (f - f_y)^2 of the target's
    features f, f_y their mean over the public images of the class (``midre_exp.surrogates.ClassFeatures``).
    """

    k: Natural  # other logits (released: 20), at most all; 0: the label's alone
    regulariser: NonNegative  # weight, >= 0 (released: 1); 0: no features, no surrogates
    #: What a defense names in place of the logits' part (``Informed.identity_loss``).
    given: Callable[[Tensor, Tensor], Tensor] | None = field(default=None, init=False, repr=False)

    def __post_init__(self) -> None:
        if self.k < 0 or self.regulariser < 0:
            raise ConfigError(
                f"attack.identity_loss.k={self.k} and attack.identity_loss.regulariser={self.regulariser} "
                "must not be negative"
            )

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
        """As the base's. Raises ConfigError without the features of classes."""
        output = victim(images)
        losses = self.given(output.logits, labels) if self.given else None
        if losses is None:
            losses = topk_identity(output.logits, labels, self.k)
        if not self.regulariser:
            return losses
        if not isinstance(surrogates, ClassFeatures):
            raise ConfigError(
                "Diff-MI's regulariser needs the features of classes; set attack.surrogates to "
                "conf/attack/surrogates/class_features.yaml, or attack.identity_loss.regulariser=0"
            )
        return losses + self.regulariser * feature_regulariser(output.features, surrogates.means[labels])


@dataclass(kw_only=True, eq=False)
class DiffMI(GradientAttack):
    """Adamax on a picture x by |w e(x_t, t, y) - (w - 1) e(x_t, t, none) - n|^2 and L_id(T, v(x), y) in turn;
    then x with the noise of a low level is brought back by DDIM (Li et al. 2024).

    Latents are the pictures before that, [n, d] in [-1, 1]. A random level t, a gradient's norm and its clip
    are each item's own (released: one of a batch).
    """

    latents_suffice = False  # fresh noise goes into the end

    steps: Natural  # of both losses (released: 30); 0: x is noise, so images of the class alone are drawn
    lr: LearningRate  # of Adamax (released: 1)
    guidance: NonNegative  # w, in the steps and in the end (released: 3); 1: without the second term
    norm_ratio: Positive  # largest norm of the gradient of L_id, times that of the other (released: 1.25)
    reference_batch: Count  # the batch whose mean the official code descends (released: 64)
    views: Count  # of a picture per step (released: 4)
    view: View  # v, drawn anew for every item, step and view; ``image_to_target`` follows it
    tail_from: Count  # level from which pictures are brought back (released: 100); all levels: from noise
    tail_steps: Count  # of the whole way back; those below ``tail_from`` are taken (released: 100)
    pgd: TargetedPGD | None  # moves the finished picture towards the target (released: on); None: it stays
    #: Which is the reconstruction where there are both; the other is judged beside it (released: after_pgd).
    counted: Counted

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least_one(views=self.views, reference_batch=self.reference_batch)
        at_least_one(tail_from=self.tail_from, tail_steps=self.tail_steps)
        above_zero(norm_ratio=self.norm_ratio)
        one_of("attack.counted", self.counted, Counted)

    def invert(
        self, victim: WhiteBoxVictim, prior: Prior, labels: Tensor, rng: ItemRNG, loop: Loop
    ) -> AttackResult:
        """The pictures, and those before and after PGD as detail ``stages``, uint8 [n, 2, 3, h, w]."""
        queries, model = victim.queries, self._model(prior)
        latents = self._descended(victim, model, labels, rng, loop)
        drawn = ((self._brought_back(model, latents, labels, rng, loop) + 1) / 2).clamp(0, 1)
        details, counted = {}, drawn
        if self.pgd is not None:
            moved = self._moved(self.pgd, victim, drawn, labels, rng, loop)
            both = [self.in_eight_bits(self.pictures(images)) for images in (drawn, moved)]
            details["stages"] = torch.stack(both, 1)
            counted = drawn if self.counted == "before_pgd" else moved
        spent = split_evenly(victim.queries - queries, len(labels))
        return AttackResult(latents, spent, details=details, images=counted)

    def _descended(
        self, victim: WhiteBoxVictim, model: DDPMPrior, labels: Tensor, rng: ItemRNG, loop: Loop
    ) -> Tensor:
        """Pictures [n, d] after the steps."""
        schedule, descent = model.schedule, Descent(self.lr, self.norm_ratio, self.reference_batch)
        state = descent.start(rng.normal("start", model.latent_dim))
        for step in loop(self.steps, state):
            offsets = jitter(rng.uniform("level", 1, step=step)[:, 0])
            levels = noise_level(step, self.steps, offsets, model.levels)
            noise = model.as_images(rng.normal("noise", model.latent_dim, step=step))

            def denoising(pictures: Tensor, levels: Tensor = levels, noise: Tensor = noise) -> Tensor:
                noisy = schedule.noised(model.as_images(pictures), levels, noise)
                found = model.noise(noisy, levels, labels, self.guidance)
                return (found - noise).square().mean((1, 2, 3))

            def identity(pictures: Tensor, step: int = step) -> Tensor:
                return self._identity(victim, (model.as_images(pictures) + 1) / 2, labels, rng, step)

            moved, errors, losses = descent.step(state, step, denoising, identity)
            state.update(moved)
            loop.show(noise_error=errors, loss=losses)
        return state["pictures"]

    def _identity(
        self, victim: WhiteBoxVictim, images: Tensor, labels: Tensor, rng: ItemRNG, step: int
    ) -> Tensor:
        """The mean loss of views of images [n, 3, h, w] in [0, 1], [n]."""
        total = torch.zeros_like(images[:, 0, 0, 0])
        for number in range(self.views):
            seen = apply(self.image_to_target, self.view(images, rng, f"view {number}", step))
            total = total + self.identity(victim, seen, labels, rng, step, f"copies {number}")
        return total / self.views

    @torch.no_grad()
    def _brought_back(
        self, model: DDPMPrior, latents: Tensor, labels: Tensor, rng: ItemRNG, loop: Loop
    ) -> Tensor:
        """Images [n, 3, h, w], nominally in [-1, 1], of pictures [n, d]."""
        schedule, x = model.schedule, model.as_images(latents)
        if self.tail_from > model.levels or model.levels % self.tail_steps:
            raise ConfigError(
                f"attack.tail_from={self.tail_from} must be at most attack.prior.levels={model.levels}, and "
                f"attack.tail_steps={self.tail_steps} divide it"
            )
        apart = model.levels // self.tail_steps
        if self.tail_from < model.levels:
            noise = model.as_images(rng.normal("tail start", model.latent_dim))
            x = schedule.noised(x, torch.full_like(labels, self.tail_from), noise)
        state = {"drawn": x}
        count = self.tail_from // apart
        for step in loop(count, state):
            number = count - step
            told = torch.full_like(labels, apart * number)
            noise = model.noise(state["drawn"], told, labels, self.guidance)
            fresh = model.as_images(rng.normal("tail", model.latent_dim, step=step))
            state["drawn"] = schedule.tail(state["drawn"], noise, number, self.tail_steps, fresh)
        return state["drawn"]

    def _moved(
        self,
        pgd: TargetedPGD,
        victim: WhiteBoxVictim,
        images: Tensor,
        labels: Tensor,
        rng: ItemRNG,
        loop: Loop,
    ) -> Tensor:
        """Images [n, 3, h, w] in [0, 1] near those given, by the target's cross entropy."""

        def losses(points: Tensor) -> Tensor:
            logits = victim(apply(self.image_to_target, points)).logits
            return cross_entropy_identity(logits, labels)

        state = pgd.start(images, rng.normal("pgd", *images.shape[1:]))
        for _ in loop(pgd.steps, state):
            state.update(pgd.moved(state, losses))
            loop.show(pgd_loss=state["loss"])
        return pgd.best(state, losses)

    def _model(self, prior: Prior) -> DDPMPrior:
        if not isinstance(prior, DDPMPrior):
            raise ConfigError(
                f"attack.prior is a {type(prior).__name__}, which predicts no noise; use prior ddpm with "
                "Diff-MI"
            )
        return prior
