"""MIRROR without gradients: a genetic search among codes of a style generator, by scores alone."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from attacks.base import AttackResult, ItemRNG, Loop, Prior, Runtime, ScoreAttack, ScoreVictim
from attacks.losses import log_scores
from attacks.parts.checks import at_least_one, in_unit_interval, one_of
from attacks.parts.initial_selection import InitialSelection, most_confident, style_prior
from attacks.parts.p_space import Constraint, ConstraintEstimator, Energy, from_p, spread, to_p
from midre_exp.errors import ConfigError
from midre_exp.memory.batches import AtOnce, in_batches
from midre_exp.plan.ranges import Count, NonNegative, Probability, Share
from midre_exp.priors.style_prior import StylePrior

Crossover = Literal["log_ratio", "ratio"]


@dataclass(kw_only=True, eq=False)
class MirrorGenetic(ScoreAttack):
    """Maximise log p_y(G(truncate(w))), the fitness, over a population of codes w [w_dim] per item, by
    selection, crossover and mutation in P-space (An et al., NDSS 2022).

    A generation: the fittest stays; every other place is taken by a child of two parents
    (``parent_weights``), each coordinate being the first one's with probability ``first_parent_share``, then
    mutated and clipped to the constraint. The fittest is not queried again, so a generation costs
    ``population`` - 1 queries (twice that with ``search.flip``); it may be a start outside of the constraint.

    Details: ``generations`` int64 [n], how many an item had; ``w`` [n, w_dim], the fittest. Latents are the
    truncated codes of w, [n, num_ws, w_dim]. Restarts of an identity start from the same population and draw
    differently.
    """

    search: InitialSelection  # the first population: its most confident codes; it renders every image
    bounds: ConstraintEstimator  # of children, from all codes of the search (released: PSpaceBox of 1)
    population: Count  # codes per item (released scripts: 1000; the code's default: 100)
    generations: Count  # at most (released: 100)
    enough: Share | None  # best confidence at which an item ends; None: never (released: 0.95)
    #: "log_ratio" (released): f1 / (f1 + f2) of log-probabilities, by which the less fit parent gives more;
    #: "ratio" (textbook): p1 / (p1 + p2).
    crossover: Crossover
    mutation_p: Probability  # probability of each coordinate of a child (released: 0.1)
    #: Times uniform(-s, s), s the coordinate's deviation in P-space and the random number the same for all
    #: children of the generation, is what a mutation adds (released: 0.1).
    mutation_size: NonNegative

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.population < 2:
            raise ConfigError(
                f"attack.population={self.population} must be at least 2: one stays, the others change"
            )
        at_least_one(generations=self.generations)
        if self.population > self.search.size:
            raise ConfigError(
                f"attack.population={self.population} exceeds attack.search.size={self.search.size}; "
                "raise the latter"
            )
        if self.enough is not None and not 0 < self.enough <= 1:
            raise ConfigError(f"attack.enough={self.enough} must be a probability above 0, or null")
        one_of("attack.crossover", self.crossover, Crossover)
        in_unit_interval(mutation_p=self.mutation_p)
        if not self.mutation_size >= 0:
            raise ConfigError(f"attack.mutation_size={self.mutation_size} must be at least 0")
        if isinstance(self.bounds, Energy):
            raise ConfigError(
                "attack.bounds is an energy, which only a loss can hold; use one of the boxes for attack "
                "mirror_genetic"
            )

    def initialise(
        self, victim: ScoreVictim, prior: Prior, labels: Tensor, *, shared_rng: ItemRNG, runtime: Runtime
    ) -> Tensor:
        """The first populations, fittest first, [n, population, w_dim + 1] on the CPU: codes and, in the last
        column, their fitness.
        """
        style = style_prior(prior)
        codes = self.search.codes(style, shared_rng)
        confidences = self.search.confidences_of_first(
            self.identities, victim, style, codes, self.image_to_target, runtime, shared_rng=shared_rng
        )
        identities = torch.arange(self.identities)
        chosen = most_confident(confidences, identities.repeat_interleave(self.population))
        chosen = chosen.view(self.identities, -1)
        scores = log_scores(confidences[chosen, identities[:, None]])
        first: Tensor = torch.cat((codes.cpu()[chosen], scores[..., None]), 2)
        return first[labels]

    def invert(
        self, victim: ScoreVictim, prior: Prior, labels: Tensor, rng: ItemRNG, loop: Loop
    ) -> AttackResult:
        """The fittest code of each item."""
        if loop.start is None:
            raise RuntimeError("MIRROR starts from the populations that its initialise chose")
        style = style_prior(prior)
        sampled = self.search.codes(style, loop.shared_rng)
        constraint, deviation = self.bounds.estimate(sampled), spread(sampled)
        state = {
            "codes": loop.start[..., :-1].clone(),
            "scores": loop.start[..., -1].clone(),
            "generations": torch.zeros_like(labels),
            "queries": torch.zeros_like(labels),
        }
        spent = (self.population - 1) * (2 if self.search.flip else 1) * self.copies
        at_once = AtOnce(min(self.search.batch, loop.runtime.chunk))
        for step in loop(self.generations, state, until=lambda now: bool(self.ended(now["scores"]).all())):
            rows = (~self.ended(state["scores"])).nonzero().squeeze(1)
            children = self.children(
                state["codes"][rows], state["scores"][rows], rng[rows], deviation, constraint, step
            )
            best = state["scores"][rows].argmax(1)
            fittest = state["codes"][rows, best]
            scores = self.evaluate(victim, style, children, labels[rows], at_once)
            state["scores"][rows] = torch.cat((state["scores"][rows, best][:, None], scores), 1)
            state["codes"][rows] = torch.cat((fittest[:, None], children), 1)
            state["generations"][rows] += 1
            state["queries"][rows] += spent
            loop.show(fitness=state["scores"].amax(1))
        w = state["codes"][torch.arange(len(labels), device=labels.device), state["scores"].argmax(1)]
        with torch.no_grad():
            images = self.search.render(style, w)
        return AttackResult(
            self.search.truncate(style, w).contiguous(),
            state["generations"] * spent,
            details={"generations": state["generations"], "w": w},
            images=images,
        )

    def ended(self, scores: Tensor) -> Tensor:
        """Which items, bool [n] of scores [n, population], need no further generation."""
        if self.enough is None:
            return torch.zeros_like(scores[:, 0], dtype=torch.bool)
        return scores.amax(1) >= math.log(self.enough)

    def children(
        self,
        codes: Tensor,
        scores: Tensor,
        rng: ItemRNG,
        deviation: Tensor,
        constraint: Constraint,
        step: int,
    ) -> Tensor:
        """``population`` - 1 children [n, population - 1, w_dim] of populations [n, population, w_dim] with
        ``scores`` [n, population].
        """
        count, size = self.population - 1, codes.shape[2]
        parents = drawn(parent_weights(scores), rng.uniform("parents", 2 * count, step=step))
        pairs = parents.view(-1, 2, count)
        own = scores.gather(1, parents).view(-1, 2, count)
        share = first_parent_share(own[:, 0], own[:, 1], rule=self.crossover)
        first, second = (codes.gather(1, pair[..., None].expand(-1, -1, size)) for pair in pairs.unbind(1))
        mixed = torch.where(
            rng.uniform("crossover", count, size, step=step) < share[..., None], first, second
        )
        noise = (2 * rng.uniform("noise", 1, size, step=step) - 1) * self.mutation_size * deviation
        mutated = rng.uniform("mutation", count, size, step=step) < self.mutation_p
        return constraint.clip(torch.where(mutated, from_p(to_p(mixed) + noise), mixed))

    def evaluate(
        self, victim: ScoreVictim, prior: StylePrior, codes: Tensor, labels: Tensor, at_once: AtOnce
    ) -> Tensor:
        """Fitness [n, m] of codes [n, m, w_dim] for labels int64 [n], ``at_once`` images at a time."""
        wanted, flat = labels.repeat_interleave(codes.shape[1])[:, None], codes.flatten(0, 1)

        @torch.no_grad()
        def ask(part: slice) -> Tensor:
            answer = self.search.answer(victim, prior, flat[part], self.image_to_target)
            return answer.gather(1, wanted[part])

        own = list(in_batches(ask, len(flat), at_once, what="codes", victim=victim))
        return log_scores(torch.cat(own).view(codes.shape[:2]))

    def generated(self, prior: Prior, latents: Tensor, labels: Tensor) -> Tensor:
        """Images of codes as they are, [n, num_ws, w_dim]."""
        return self.search.clip(prior.generate(latents, labels))


def parent_weights(scores: Tensor) -> Tensor:
    """How often each of a population becomes a parent: softmax of its log-probabilities, [n, population] as
    ``scores``.
    """
    return scores.softmax(-1)


def drawn(weights: Tensor, numbers: Tensor) -> Tensor:
    """Members int64 [n, m] drawn with ``weights`` [n, population] that sum to 1, with replacement, by uniform
    ``numbers`` [n, m].
    """
    ends = weights.cumsum(-1)
    found = torch.searchsorted(ends, numbers * ends[:, -1:], right=True)  # the sum is 1 but for rounding
    return found.clamp(max=weights.shape[-1] - 1)


def first_parent_share(first: Tensor, second: Tensor, *, rule: Crossover) -> Tensor:
    """Probability that a coordinate is the first parent's, of log-probabilities of one shape.

    "log_ratio" is f1 / (f1 + f2) of the log-probabilities, as the official code computes it: these are
    negative, so the LESS fit parent gives more. "ratio" is the textbook's p1 / (p1 + p2) of the
    probabilities. Two parents of probability 1 share equally.
    """
    if rule == "ratio":
        return torch.sigmoid(first - second)
    total = first + second
    return torch.where(total == 0, 0.5, first / torch.where(total == 0, 1.0, total))
