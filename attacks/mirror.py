"""MIRROR with gradients: optimise one code w of a style generator, held where codes usually are."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from attacks.base import (
    AttackResult,
    ItemRNG,
    Loop,
    Prior,
    Runtime,
    WhiteBoxVictim,
    apply,
    split_evenly,
)
from attacks.losses import IdentityLoss
from attacks.parts.checks import above_zero, adam_betas, at_least_one, in_unit_interval, one_of
from attacks.parts.consistency import MOST, most_consistent
from attacks.parts.gradient_attack import GradientAttack
from attacks.parts.initial_selection import InitialSelection, most_confident, style_prior
from attacks.parts.optimisers import adam_step, ramp
from attacks.parts.p_space import ConstraintEstimator
from midre_exp.errors import ConfigError
from midre_exp.memory.batches import in_batches
from midre_exp.plan.ranges import BelowOne, Count, LearningRate, Positive, Probability, Share
from midre_exp.priors.style_prior import StylePrior

Keep = Literal["batch", "own", "last"]
Counted = Literal["all", "consistent"]
Score = Literal["logit", "softmax"]


@dataclass(kw_only=True, eq=False)
class Mirror(GradientAttack):
    """(w_id L_id(T, flip(G(truncate(w))), y) + energy(w)) / reference_batch, over one code w [w_dim] for all
    layers by Adam, each step clipped to the constraint (An et al., NDSS 2022).

    The loss of a step is that of the code before it, as in the official code. Latents are the truncated codes
    [n, num_ws, w_dim]; detail ``w`` [n, w_dim] holds what was optimised.
    """

    search: InitialSelection  # starts are its most confident codes, not truncated; it renders every image
    bounds: ConstraintEstimator  # from all codes of the search (released scripts: PSpaceBox of 1)
    steps: Count  # optimiser steps (released: 20,000)
    lr: LearningRate  # of Adam, at its height (released scripts: 0.25; the code's default: 0.2)
    betas: tuple[BelowOne, BelowOne]  # of Adam (released: 0.9, 0.999)
    rampup: Share  # share of the steps in which the rate rises (released: 0.05)
    rampdown: Share  # share of the steps in which it falls to 0 (released: 0.25)
    identity_loss: IdentityLoss  # L_id (released: CrossEntropy)
    identity_weight: Positive  # w_id, above 0 (released scripts: 10; the code's default: 1)
    flip_p: Probability  # probability that a step shows the images mirrored (released: 0.5)
    flip_shared: bool  # decided for all items at once (released), or for each
    #: The official loss is a mean over a class's codes; Adam is scale free but for its eps (released: 8).
    reference_batch: Count
    #: The code after the step whose mean loss over the items of an identity was lowest ("batch", released),
    #: whose own loss was lowest ("own"), or after the last step ("last").
    keep: Keep
    counted: Counted  # every item counts, or one per identity by ``most_consistent``
    score: Score  # which of the consistent ones counts: highest "logit" of the label (released) or "softmax"

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least_one(steps=self.steps, reference_batch=self.reference_batch)
        above_zero(lr=self.lr, identity_weight=self.identity_weight)
        in_unit_interval(rampup=self.rampup, rampdown=self.rampdown, flip_p=self.flip_p)
        self.betas = adam_betas(self.betas)
        one_of("attack.keep", self.keep, Keep)
        one_of("attack.counted", self.counted, Counted)
        one_of("attack.score", self.score, Score)
        self.search.require_candidates(self.restarts)
        if self.counted == "consistent" and self.restarts > MOST:
            raise ConfigError(
                f"attack.restarts={self.restarts} is more than the {MOST} that attack.counted=consistent can "
                "compare; lower it or use counted=all"
            )

    @property
    def group_size(self) -> int:
        """The items of an identity, where their mean loss decides for all of them."""
        return self.restarts if self.keep == "batch" else 1

    def initialise(
        self, victim: WhiteBoxVictim, prior: Prior, labels: Tensor, *, shared_rng: ItemRNG, runtime: Runtime
    ) -> Tensor:
        """The codes to start from, [n, w_dim] on the CPU, not truncated and not clipped."""
        style = style_prior(prior)
        codes = self.search.codes(style, shared_rng)
        confidences = self.search.confidences_of_first(
            self.identities,
            victim,
            style,
            codes,
            self.image_to_target,
            runtime,
            shared_rng=shared_rng,
            expectation=self.averaging,
            score=self.ranked_by,
        )
        return codes.cpu()[most_confident(confidences, labels)]

    def invert(
        self, victim: WhiteBoxVictim, prior: Prior, labels: Tensor, rng: ItemRNG, loop: Loop
    ) -> AttackResult:
        """The truncated codes of the step that ``keep`` chooses."""
        if loop.start is None:
            raise RuntimeError("MIRROR starts from the codes that its initialise chose")
        style, start, queries = style_prior(prior), loop.start, victim.queries
        # Estimated anew in every chunk, from the same numbers: a covariance has no place among what is saved
        # for each item.
        constraint = self.bounds.estimate(self.search.codes(style, loop.shared_rng))
        state = {
            "w": start,
            "first": torch.zeros_like(start),
            "second": torch.zeros_like(start),
            "best": start,
            "lowest": torch.full_like(start[:, 0], float("inf")),
        }
        for step in loop(self.steps, state):
            w = state["w"].detach().requires_grad_()
            losses = self.losses(victim, style, w, labels, rng, loop.shared_rng, step)
            loop.show(loss=losses)
            energy = constraint.energy(w)
            losses = losses if energy is None else losses + energy
            (gradient,) = torch.autograd.grad(losses.sum() / self.reference_batch, w)
            moved, (state["first"], state["second"]) = adam_step(
                w.detach(),
                (state["first"], state["second"]),
                gradient,
                step,
                lr=self.lr * ramp((step + 1) / self.steps, up=self.rampup, down=self.rampdown),
                betas=self.betas,
            )
            state["w"] = constraint.clip(moved)
            state["best"], state["lowest"] = self.better(state, losses.detach())
        w = state["best"]
        with torch.no_grad():
            images = self.search.render(style, w)
        spent = split_evenly(victim.queries - queries, len(labels))
        codes = self.search.truncate(style, w).contiguous()
        return AttackResult(codes, spent, details={"w": w}, images=images)

    def losses(
        self,
        victim: WhiteBoxVictim,
        prior: StylePrior,
        w: Tensor,
        labels: Tensor,
        rng: ItemRNG,
        shared_rng: ItemRNG,
        step: int,
    ) -> Tensor:
        """The identity loss of each item of w [n, w_dim], weighted, [n]."""
        images = apply(self.image_to_target, self.search.render(prior, w))
        number = (shared_rng if self.flip_shared else rng).uniform("flip", step=step)
        seen = torch.where((number < self.flip_p)[:, None, None, None], images.flip(-1), images)
        return self.identity_weight * self.identity(victim, seen, labels, rng, step)

    def better(self, state: Mapping[str, Tensor], losses: Tensor) -> tuple[Tensor, Tensor]:
        """The codes to keep [n, w_dim] and the loss they are kept for [n] after a step of ``losses`` [n]."""
        if self.keep == "last":
            return state["w"], losses
        if self.keep == "batch":
            means = losses.view(-1, self.restarts).mean(1)
            losses = means.repeat_interleave(self.restarts)
        lower = losses < state["lowest"]
        best = torch.where(lower[:, None], state["w"], state["best"])
        return best, torch.where(lower, losses, state["lowest"])

    def generated(self, prior: Prior, latents: Tensor, labels: Tensor) -> Tensor:
        """Images of codes as they are, [n, num_ws, w_dim]."""
        return self.search.clip(prior.generate(latents, labels))

    @torch.no_grad()
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
        """``selected`` bool [n], one per identity, if ``counted`` is "consistent"; costs a query per item."""
        if self.counted == "all":
            return {}

        def ask(part: slice) -> Tensor:
            codes, theirs = latents[part].to(runtime.device), labels[part].to(runtime.device)
            images, averaging = self.render(prior, codes, theirs), self.averaging
            if averaging is None or not averaging.selection:
                return victim(images).logits.cpu()
            logits = averaging.of(
                images, shared_rng, "selection copies", 0, lambda copies, _: victim(copies).logits
            )
            return logits.cpu()

        at_once = min(self.search.batch, runtime.chunk)
        logits = torch.cat(list(in_batches(ask, len(labels), at_once, what="reconstructions", victim=victim)))
        chosen = most_consistent(
            logits.unflatten(0, (-1, self.restarts)),
            labels[:: self.restarts],
            by_softmax=self.score == "softmax",
            score=None if self.known is None else self.known.score,
        )
        return {"selected": F.one_hot(chosen, self.restarts).bool().flatten()}
