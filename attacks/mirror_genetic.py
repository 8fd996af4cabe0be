"""MIRROR (An et al. 2022) without gradients: a genetic search among codes of a style generator, by the
target's scores alone.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor

from attacks.mirror import answered, clipped, first_impressions, rendered, sampled
from attacks.parts.initial_selection import InitialSelection, most_confident, style_prior
from attacks.parts.p_space import Bounds, Energy, Region, from_p, spread, to_p
from midre_exp.attack import Attack, AttackResult, Transforms, apply
from midre_exp.errors import ConfigError
from midre_exp.loop import Loop
from midre_exp.priors.base import Prior
from midre_exp.priors.style_prior import StylePrior
from midre_exp.runtime import Runtime
from midre_exp.seeding import ItemRNG
from midre_exp.threat import ScoreVictim, Threat


class MirrorGenetic(Attack):
    """Scores only, on a style prior. An item is a population of ``population`` codes w [w_dim], at first
    those of ``search`` whose pictures the target is most confident of. Fitness is the logarithm of that
    confidence.

    A generation: the fittest stays; every other place is taken by a child of two parents
    (``parent_weights``), each coordinate being the first one's with probability ``first_parent_share`` by the
    rule ``crossover``; then, in P-space, with probability ``mutation_p`` per coordinate, ``mutation_size`` *
    uniform(-s, s) is added, s being the coordinate's deviation and the random number the same for all
    children of the generation; then it is clipped to the region of ``bounds``. The fittest is not asked about
    again: its score is known, so a generation costs ``population`` - 1 queries (twice that with
    ``search.flip``). It may be a start outside of the region.

    An item ends after ``generations``, or as soon as its best confidence is at least ``enough`` (null:
    never), and asks nothing more. Details: ``generations`` int64 [n], how many it had; ``w`` [n, w_dim], the
    fittest. Latents are the truncated codes of w, [n, num_ws, w_dim]. Restarts of an identity start from the
    same population and draw differently. Raises ConfigError.
    """

    threat = Threat.SCORES

    def __init__(
        self,
        *,
        search: InitialSelection,
        bounds: Bounds,
        population: int,
        generations: int,
        enough: float | None,
        crossover: Literal["log_ratio", "ratio"],
        mutation_p: float,
        mutation_size: float,
        identities: int,
        restarts: int,
        image_to_target: Transforms = (),
        picture: Transforms | None = None,
    ):
        super().__init__(
            identities=identities, restarts=restarts, image_to_target=image_to_target, picture=picture
        )
        if population < 2:
            raise ConfigError(
                f"attack.population={population} must be at least 2: one stays, the others change"
            )
        if generations < 1:
            raise ConfigError(f"attack.generations={generations} must be at least 1")
        if population > search.size:
            raise ConfigError(
                f"attack.population={population} exceeds attack.search.size={search.size}; raise the latter"
            )
        if enough is not None and not 0 < enough <= 1:
            raise ConfigError(f"attack.enough={enough} must be a probability above 0, or null")
        if crossover not in ("log_ratio", "ratio"):
            raise ConfigError(f"attack.crossover={crossover} is unknown; use log_ratio or ratio")
        if not 0 <= mutation_p <= 1:
            raise ConfigError(f"attack.mutation_p={mutation_p} must lie in [0, 1]")
        if not mutation_size >= 0:
            raise ConfigError(f"attack.mutation_size={mutation_size} must be at least 0")
        if isinstance(bounds, Energy):
            raise ConfigError(
                "attack.bounds is an energy, which only a loss can hold; use one of the boxes for attack mirror_genetic"
            )
        self.search = search
        self.bounds = bounds
        self.population = population
        self.generations = generations
        self.enough = enough
        self.crossover = crossover
        self.mutation_p = mutation_p
        self.mutation_size = mutation_size

    def initialise(
        self, victim: ScoreVictim, prior: Prior, labels: Tensor, *, common: ItemRNG, runtime: Runtime
    ) -> Tensor:
        """The first populations, fittest first, [n, population, w_dim + 1] on the CPU: codes and, in the last
        column, their fitness.
        """
        style = style_prior(prior)
        codes = sampled(self.search, style, common)
        found = first_impressions(
            self.search, style, codes, victim.scores, self.identities, self.image_to_target, runtime
        )
        people = torch.arange(self.identities)
        chosen = most_confident(found, people.repeat_interleave(self.population)).view(self.identities, -1)
        scores = fitness(found[chosen, people[:, None]])
        first: Tensor = torch.cat((codes.cpu()[chosen], scores[..., None]), 2)
        return first[labels]

    def invert(
        self, victim: ScoreVictim, prior: Prior, labels: Tensor, rng: ItemRNG, loop: Loop
    ) -> AttackResult:
        """The fittest code of each item."""
        if loop.start is None:
            raise RuntimeError("MIRROR starts from the populations that its initialise chose")
        style = style_prior(prior)
        known = sampled(self.search, style, loop.common)
        region, deviation = self.bounds.region(known), spread(known)
        state = {
            "codes": loop.start[..., :-1].clone(),
            "scores": loop.start[..., -1].clone(),
            "generations": torch.zeros_like(labels),
        }
        for step in loop(self.generations, state, until=lambda now: bool(self.ended(now["scores"]).all())):
            rows = (~self.ended(state["scores"])).nonzero().squeeze(1)
            children = self.children(
                state["codes"][rows], state["scores"][rows], rng[rows], deviation, region, step
            )
            best = state["scores"][rows].argmax(1)
            fittest = state["codes"][rows, best]
            batch = min(self.search.batch, loop.runtime.chunk)
            scores = self.ask(victim, style, children, labels[rows], batch)
            state["scores"][rows] = torch.cat((state["scores"][rows, best][:, None], scores), 1)
            state["codes"][rows] = torch.cat((fittest[:, None], children), 1)
            state["generations"][rows] += 1
            loop.show(fitness=state["scores"].amax(1))
        w = state["codes"][torch.arange(len(labels), device=labels.device), state["scores"].argmax(1)]
        codes = style.truncate(w, psi=self.search.psi, cutoff=self.search.cutoff)
        with torch.no_grad():
            images = rendered(self.search, style, w)
        asked = state["generations"] * (self.population - 1) * (2 if self.search.flip else 1)
        return AttackResult(
            codes.contiguous(),
            asked,
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
        region: Region,
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
        return region.clip(torch.where(mutated, from_p(to_p(mixed) + noise), mixed))

    def ask(
        self, victim: ScoreVictim, prior: StylePrior, codes: Tensor, labels: Tensor, batch: int
    ) -> Tensor:
        """Fitness [n, m] of codes [n, m, w_dim] for labels int64 [n], ``batch`` pictures at a time."""
        wanted = labels.repeat_interleave(codes.shape[1])[:, None].split(batch)
        parts = codes.flatten(0, 1).split(batch)
        answers = answered(self.search, prior, parts, victim.scores, self.image_to_target)
        own = [answer.gather(1, theirs) for answer, theirs in zip(answers, wanted, strict=True)]
        return fitness(torch.cat(own).view(codes.shape[:2]))

    def render(self, prior: Prior, latents: Tensor, labels: Tensor) -> Tensor:
        """Images as the target gets them, of codes as they are, [n, num_ws, w_dim]."""
        return apply(self.image_to_target, clipped(self.search, prior.generate(latents, labels)))


def fitness(probabilities: Tensor) -> Tensor:
    """The logarithm of probabilities, finite: one too small for floating point counts as the smallest there
    is.
    """
    return probabilities.clamp(min=torch.finfo(probabilities.dtype).tiny).log()


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


def first_parent_share(first: Tensor, second: Tensor, *, rule: Literal["log_ratio", "ratio"]) -> Tensor:
    """Probability that a coordinate is the first parent's, of log-probabilities of one shape.

    "log_ratio" is f1 / (f1 + f2) of the log-probabilities, as the official code computes it: these are
    negative, so the LESS fit parent gives more. "ratio" is the textbook's p1 / (p1 + p2) of the
    probabilities. Two parents of probability 1 share equally.
    """
    if rule == "ratio":
        return torch.sigmoid(first - second)
    total = first + second
    return torch.where(total == 0, 0.5, first / torch.where(total == 0, 1.0, total))
