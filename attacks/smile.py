"""SMILE, inversion by scores with few queries: a gradient attack on a surrogate that learned from a few
thousand scores, then a search without gradients that asks the target itself.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from attacks.base import ItemRNG, Loop, Prior, Runtime, ScoreAttack, ScoreVictim, apply
from attacks.losses import log_scores
from attacks.parts.checks import above_zero, adam_betas, at_least_one, in_unit_interval, one_of
from attacks.parts.initial_selection import most_confident, style_prior
from attacks.parts.long_tailed import LongTailedSurrogate
from attacks.parts.optimisers import adam_step, ramp
from attacks.parts.p_space import Constraint, ConstraintEstimator, Energy
from midre_exp.errors import ConfigError
from midre_exp.plan.ranges import BelowOne, Count, LearningRate, Natural, Positive, Share
from midre_exp.priors.style_prior import StylePrior
from midre_exp.surrogates.base import Surrogates

StepIn = Literal["code", "spread"]


@dataclass(kw_only=True, eq=False)
class SMILE(ScoreAttack):
    """Per item, from the code of which the target was most confident among those it was shown before:
    ``steps`` of Adam on the surrogate's cross entropy, then a (1+1) evolution strategy of ``proposals``
    queries that maximises log p_y(G(w)) of the target (Li et al., CVPR 2025).

    Codes w [w_dim] are not truncated, one for all layers; latents are [n, 1, w_dim]. Queries per item:
    ``proposals``; those behind the surrogate are the stage's that made it.
    """

    steps: Natural  # of Adam on the surrogate (released: 201); 0: none
    lr: LearningRate  # of Adam, at its height (released: 0.2)
    betas: tuple[BelowOne, BelowOne]  # of Adam (released: 0.9, 0.999)
    rampup: Share  # share of the steps in which the rate rises (released: 0.05)
    rampdown: Share  # share of the steps in which it falls to 0 (released: 0.25)
    bounds: ConstraintEstimator  # of codes after each step (released: PSpaceBox of 1)
    proposals: Count  # queries per item (released: 1,000); 1: the code of the surrogate is shown alone
    proposal_bounds: ConstraintEstimator  # of proposals (released: PSpaceBox of 1.7)
    #: Deviation of a proposal around the best code before the first query, which doubles it (released: 1).
    step_size: Positive
    #: Of what a step of 1 is one: "code" (released), or "spread", the deviation of each coordinate of codes.
    step_in: StepIn
    growth: Positive  # factor of the deviation after a better proposal, above 1 (released: 2)
    decay: BelowOne  # and after a worse one, above 0 (released: 0.84)

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least_one(proposals=self.proposals)
        above_zero(lr=self.lr, step_size=self.step_size, decay=self.decay)
        in_unit_interval(rampup=self.rampup, rampdown=self.rampdown)
        self.betas = adam_betas(self.betas)
        one_of("attack.step_in", self.step_in, StepIn)
        if self.growth <= 1 or self.decay >= 1:
            raise ConfigError(
                f"attack.growth={self.growth} must be above 1 and attack.decay={self.decay} below it, or the "
                "search never narrows"
            )
        for name, bounds in (("bounds", self.bounds), ("proposal_bounds", self.proposal_bounds)):
            if isinstance(bounds, Energy):
                raise ConfigError(
                    f"attack.{name} is an energy, which only a loss can hold; use one of the boxes for "
                    "attack smile"
                )

    def initialise(
        self, victim: ScoreVictim, prior: Prior, labels: Tensor, *, shared_rng: ItemRNG, runtime: Runtime
    ) -> Tensor:
        """The codes [n, w_dim] of which the target was most confident, of each identity the best first."""
        known = long_tailed(self.surrogates)
        return known.codes.cpu()[most_confident(known.answers.cpu(), labels)]

    def invert(self, victim: ScoreVictim, prior: Prior, labels: Tensor, rng: ItemRNG, loop: Loop) -> Tensor:
        """The best code of each item, [n, 1, w_dim]."""
        if loop.start is None:
            raise RuntimeError("SMILE starts from the codes that its initialise chose")
        surrogate, style = long_tailed(self.surrogates), style_prior(prior)
        code = self.followed(surrogate, style, labels, loop)
        return self.searched(victim, surrogate.codes, style, code, labels, rng, loop)[:, None]

    def followed(
        self, surrogate: LongTailedSurrogate, prior: StylePrior, labels: Tensor, loop: Loop
    ) -> Tensor:
        """Codes [n, w_dim] after ``steps`` steps down the surrogate's cross entropy, which cost no query."""
        assert loop.start is not None
        box = self.bounds.estimate(surrogate.codes)
        zeros = torch.zeros_like(loop.start)
        state = {"w": loop.start, "first": zeros, "second": zeros.clone()}
        for step in loop(self.steps, state):
            w = state["w"].requires_grad_()
            losses = F.cross_entropy(surrogate(pictures(prior, w)), labels, reduction="none")
            loop.show(surrogate_loss=losses)
            (gradient,) = torch.autograd.grad(losses.sum(), w)
            moved, (state["first"], state["second"]) = adam_step(
                w.detach(),
                (state["first"], state["second"]),
                gradient,
                step,
                lr=self.lr * ramp(step / max(1, self.steps - 1), up=self.rampup, down=self.rampdown),
                betas=self.betas,
            )
            state["w"] = box.clip(moved)
        return state["w"]

    def searched(
        self,
        victim: ScoreVictim,
        codes: Tensor,
        prior: StylePrior,
        start: Tensor,
        labels: Tensor,
        rng: ItemRNG,
        loop: Loop,
    ) -> Tensor:
        """The codes [n, w_dim] with the best score among ``proposals``, the first of them the start."""
        box = self.proposal_bounds.estimate(codes)
        scale = codes.std(0, correction=0) if self.step_in == "spread" else torch.ones_like(codes[0])
        state = {
            "best": start,
            "loss": start.new_full((len(start),), torch.inf),
            "size": start.new_full((len(start),), self.step_size),
        }
        for number in loop(self.proposals, state):
            proposal = state["best"]
            if number:
                noise = rng.normal("proposal", proposal.shape[1], step=number)
                proposal = proposed(proposal, state["size"], scale * noise, box)
            with torch.no_grad():
                images = apply(self.image_to_target, pictures(prior, proposal))
                scores = victim.scores(images)
            losses = -log_scores(scores.gather(1, labels[:, None]).squeeze(1))
            loop.show(target_loss=losses)
            state.update(judged(state, proposal, losses, growth=self.growth, decay=self.decay))
        return state["best"]

    def generated(self, prior: Prior, latents: Tensor, labels: Tensor) -> Tensor:
        """Images of codes [n, 1, w_dim] as the target saw them."""
        return pictures(style_prior(prior), latents)


def pictures(prior: StylePrior, codes: Tensor) -> Tensor:
    """The generator's images of codes [n, w_dim] or [n, 1, w_dim], not truncated, in [0, 1]."""
    return prior.synthesise(codes).clamp(0, 1)


def proposed(best: Tensor, size: Tensor, noise: Tensor, box: Constraint) -> Tensor:
    """Proposals [n, d], ``size`` [n] times ``noise`` [n, d] from the best codes, inside the box."""
    return box.clip(best + size[:, None] * noise)


def judged(
    state: Mapping[str, Tensor], proposal: Tensor, losses: Tensor, *, growth: float, decay: float
) -> dict[str, Tensor]:
    """The state after proposals [n, d] with ``losses`` [n]: the better codes ``best`` [n, d], their ``loss``
    [n], and the deviation ``size`` [n], times ``growth`` after a better one, times ``decay`` after a worse
    one.
    """
    better, worse = losses < state["loss"], losses > state["loss"]
    size = state["size"]
    narrower = torch.where(worse, decay * size, size)
    return {
        "best": torch.where(better[:, None], proposal, state["best"]),
        "loss": torch.where(better, losses, state["loss"]),
        "size": torch.where(better, growth * size, narrower),
    }


def long_tailed(surrogates: Surrogates | None) -> LongTailedSurrogate:
    """The surrogate of SMILE. Raises ConfigError for another one or none."""
    if not isinstance(surrogates, LongTailedSurrogate):
        raise ConfigError(
            "SMILE attacks a surrogate that learned the target's scores; set attack.surrogates to "
            "conf/attack/surrogates/smile.yaml"
        )
    return surrogates
