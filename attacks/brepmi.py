"""BREP-MI, boundary-repelling inversion: push a latent away from its class's boundary by labels alone."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Annotated, Literal

import torch
from torch import Tensor

from attacks.base import AttackResult, ItemRNG, LabelAttack, LabelVictim, Loop, Prior, split_evenly
from attacks.parts.boundary import appearances, discover, repulsion, sphere
from attacks.parts.checks import at_least_one, one_of
from midre_exp.errors import ConfigError
from midre_exp.memory.batches import AtOnce, in_batches
from midre_exp.plan.ranges import Count, Positive, Range

Choice = Literal["reached", "requested"]
Result = Literal["last_growth", "final"]

_AT_ONCE = 512  # images per query batch at most: 1,000 identities with 32 points each would not fit
_ENDLESS = 1e6  # a radius at which the class has no boundary: latents lie within about sqrt(latent_dim)


@dataclass(kw_only=True, eq=False)
class BREPMI(LabelAttack):
    """z' = clamp(z + min(R / radius_per_step, max_step) g), where g and R' are ``repulsion`` of the labels on
    a sphere of radius R around z; z' is taken only if it has the label, R' even if not (Kahla et al., CVPR
    2022).

    Starts: batches of latents N(0, I), clamped, of which each (identity, restart) takes the first of its
    label that is still free. An item ends after ``patience`` moves without growth, after ``max_rejections``
    refused proposals in a row, or before it would exceed ``max_queries``.

    Details: ``failed`` bool, no success whatever the evaluator says: never reached, or without growth under
    ``last_growth``; ``reached`` and ``grew`` bool; ``radius``; ``growth_latents`` (without growth: the final
    point) and ``final_latents``, the points of both rules; ``queries_to_result``, without those after the
    result. The latent of an item never reached is zero.
    """

    points: Count  # labels on the sphere per estimate, and one more for the point proposed (released: 32)
    radius: Positive  # R at the start, above 0 (released: 2)
    #: Factor of R when a sphere lies inside the class, above 1 (released: 1.3).
    growth: Annotated[float, Range(1, open_low=True)]
    #: When R grows: of the mean of +1 inside and -1 outside, [-1, 1) (released: 0.75).
    threshold: Annotated[float, Range(-1, 1, open_high=True)]
    outside_only: bool  # repelled by points outside (released); False: also drawn to those inside
    radius_per_step: Positive  # above 0 (released: 3)
    max_step: Positive  # above 0 (released: 3)
    #: Of starts and moved latents to [-clip, clip], not of points on the sphere; None: never (released: 1.5).
    clip: Positive | None
    patience: Count  # moves without growth after which an item ends (released: 1000)
    max_rejections: Count | None  # refused proposals in a row after which it ends; None: no limit (released)
    #: Per item, its share of the search included, which takes half at most; None: no limit (released).
    max_queries: Count | None
    #: "reached" (released): the identities whose labels appear first, a choice that favours the attack;
    #: "requested": labels 0 to identities - 1, reached or not.
    choice: Choice
    search_batch: Count  # latents per batch of the search for starts (released: 256)
    search_batches: Count  # at most (released: no limit)
    #: The point after the last accepted growth of R ("last_growth", released), or the last of all ("final").
    result: Result

    at_once: AtOnce = field(init=False, repr=False)  # images per query batch

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least_one(
            points=self.points,
            patience=self.patience,
            max_rejections=self.max_rejections,
            max_queries=self.max_queries,
            search_batch=self.search_batch,
            search_batches=self.search_batches,
        )
        for name in ("radius", "radius_per_step", "max_step", "clip"):
            size = getattr(self, name)
            if size is not None and not size > 0:
                raise ConfigError(f"attack.{name}={size} must be positive")
        if not self.growth > 1:
            raise ConfigError(f"attack.growth={self.growth} must exceed 1, or the radius would not grow")
        if not -1 <= self.threshold < 1:
            raise ConfigError(
                f"attack.threshold={self.threshold} must be in [-1, 1); at 1 the radius never grows"
            )
        one_of("attack.choice", self.choice, Choice)
        one_of("attack.result", self.result, Result)
        self.at_once = AtOnce(_AT_ONCE)

    @property
    def group_size(self) -> int:
        """All items: they share the search for starting points."""
        return self.identities * self.restarts

    def invert(
        self, victim: LabelVictim, prior: Prior, labels: Tensor, rng: ItemRNG, loop: Loop
    ) -> AttackResult:
        """Latents [n, latent_dim] of all (identity, restart), with labels of its own choice under
        ``choice=reached``.

        Raises ConfigError for a prior trained against the target, which more than labels are needed for or
        which wants them given.
        """
        if prior.uses_target:
            raise ConfigError(
                f"attack.prior is a {type(prior).__name__}, which knows the target; BREP-MI sees labels "
                "alone, use prior gmi"
            )
        starts, labels, reached, spent = self.search(victim, prior, labels, rng, loop)
        end = self.walk(victim, prior, starts, labels, rng, loop, reached=reached, spent=spent)
        final = self.result == "final"
        at_growth = torch.where(end["grew"][:, None], end["growth_latents"], end["latents"])
        details = {
            "failed": ~(reached if final else end["grew"]),
            "reached": reached,
            "grew": end["grew"],
            "radius": end["radius"],
            "growth_latents": at_growth,
            "final_latents": end["latents"],
            "queries_to_result": end["queries" if final else "queries_to_growth"],
        }
        return AttackResult(end["latents"] if final else at_growth, end["queries"], labels, details)

    def search(
        self, victim: LabelVictim, prior: Prior, labels: Tensor, rng: ItemRNG, loop: Loop
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Starting points [n, latent_dim], the identities int64 [n], which of them were reached, and each
        item's share of the queries.

        All draws come from the stream of the first item. Identities that were to be reached and were not are
        the lowest labels left over.
        """
        items, classes = len(labels), victim.num_classes
        known = torch.arange(classes, device=labels.device)
        requested = torch.where(known < self.identities, known, self.identities)
        state = {
            "starts": torch.zeros(items, prior.latent_dim, device=labels.device),
            "reached": torch.zeros(items, dtype=torch.bool, device=labels.device),
            "order": requested if self.choice == "requested" else torch.full_like(known, -1),
            "seen": torch.zeros_like(known),
            "queries": torch.zeros((), dtype=torch.int64),
        }
        batches = self.search_batches
        if self.max_queries is not None:
            batches = min(batches, self.max_queries * items // (2 * self.search_batch))
        for step in loop(batches, state, until=lambda now: bool(now["reached"].all())):
            drawn = rng[:1].normal("search", self.search_batch, prior.latent_dim, step=step)[0]
            latents = self.bound(drawn)
            answers = self.classify(victim, prior, latents, torch.zeros_like(known[:1]).expand(len(latents)))
            state["order"] = discover(answers, state["order"], self.identities)
            turn = appearances(answers, state["seen"])
            place = state["order"][answers]
            wanted = (place < self.identities) & (turn < self.restarts)
            items_met = (place * self.restarts + turn)[wanted]
            state["starts"][items_met] = latents[wanted]
            state["reached"][items_met] = True
            state["seen"] = state["seen"] + torch.bincount(answers, minlength=classes)
            state["queries"] = state["queries"] + len(answers)
        order = torch.where(state["order"] < 0, classes + known, state["order"])
        identities = order.argsort(stable=True)[: self.identities]
        spent = split_evenly(int(state["queries"]), items).to(labels.device)
        return state["starts"], identities.repeat_interleave(self.restarts), state["reached"], spent

    def walk(
        self,
        victim: LabelVictim,
        prior: Prior,
        starts: Tensor,
        labels: Tensor,
        rng: ItemRNG,
        loop: Loop,
        *,
        reached: Tensor,
        spent: Tensor,
    ) -> dict[str, Tensor]:
        """The end of every item's way from ``starts`` [n, d]; items not ``reached`` stay. Items are
        independent of each other.

        Returns ``latents``, ``growth_latents`` (the start where nothing grew), ``radius``, ``grew``,
        ``moves`` without growth, ``rejections`` in a row, ``queries`` and ``queries_to_growth`` (all of them
        where nothing grew), both with ``spent``.
        """
        zeros = torch.zeros_like(labels)
        state = {
            "latents": starts.clone(),
            "growth_latents": starts.clone(),
            "radius": torch.full_like(starts[:, 0], self.radius),
            "grew": zeros.bool(),
            "moves": zeros.clone(),
            "moves_at_growth": zeros.clone(),
            "rejections": zeros.clone(),
            "queries": spent.clone(),
            "queries_to_growth": spent.clone(),
        }
        state["done"] = ~reached | self.ended(state)
        active = _Active(self)
        for step in loop(None, state, until=active.are_none):
            rows = active.rows
            now = {name: value[rows] for name, value in state.items()}
            noise = rng[rows].normal("sphere", self.points, prior.latent_dim, step=step)
            for name, value in self.move(victim, prior, now, labels[rows], noise).items():
                state[name][rows] = value
            loop.show(radius=state["radius"])
        return state

    def move(
        self, victim: LabelVictim, prior: Prior, now: dict[str, Tensor], labels: Tensor, noise: Tensor
    ) -> dict[str, Tensor]:
        """The state of some items after one estimate with ``noise`` [n, points, d]."""
        latents, radius = now["latents"], now["radius"]
        offsets = sphere(noise, radius)
        around = (latents[:, None] + offsets).flatten(0, 1)
        answers = self.classify(victim, prior, around, labels.repeat_interleave(self.points))
        signs = torch.where(answers.view(-1, self.points) == labels[:, None], 1.0, -1.0)
        direction, wider = repulsion(
            signs,
            offsets,
            radius,
            threshold=self.threshold,
            growth=self.growth,
            outside_only=self.outside_only,
        )
        length = (radius / self.radius_per_step).clamp(max=self.max_step)
        proposed = self.bound(latents + length[:, None] * direction)
        taken = self.classify(victim, prior, proposed, labels) == labels
        grows = wider > radius
        result, queries = taken & grows, now["queries"] + self.points + 1
        grew = now["grew"] | result
        after = {
            "latents": torch.where(taken[:, None], proposed, latents),
            "growth_latents": torch.where(result[:, None], proposed, now["growth_latents"]),
            "radius": wider,
            "grew": grew,
            "moves": now["moves"] + (taken & ~grows),
            "moves_at_growth": torch.where(grows, now["moves"], now["moves_at_growth"]),
            "rejections": torch.where(taken, 0, now["rejections"] + 1),
            "queries": queries,
            "queries_to_growth": torch.where(result | ~grew, queries, now["queries_to_growth"]),
        }
        return {**after, "done": self.ended(after)}

    def estimates_ahead(self, now: dict[str, Tensor]) -> Tensor:
        """How many estimates, int64 [n], the items that go on make at least, whatever they bring: an estimate
        is one move, one rejection or one growth at most.
        """
        growths = ((_ENDLESS / now["radius"]).log() / math.log(self.growth)).floor().long()
        least = torch.minimum(self.patience - (now["moves"] - now["moves_at_growth"]), growths)
        if self.max_rejections is not None:
            least = torch.minimum(least, self.max_rejections - now["rejections"])
        if self.max_queries is not None:
            least = torch.minimum(least, (self.max_queries - now["queries"]) // (self.points + 1))
        return least.clamp(min=1)

    def ended(self, now: dict[str, Tensor]) -> Tensor:
        """Which items, bool [n], make no further estimate."""
        ended = (now["moves"] - now["moves_at_growth"] >= self.patience) | (now["radius"] > _ENDLESS)
        if self.max_rejections is not None:
            ended = ended | (now["rejections"] >= self.max_rejections)
        if self.max_queries is not None:
            ended = ended | (now["queries"] + self.points + 1 > self.max_queries)
        return ended

    def bound(self, latents: Tensor) -> Tensor:
        """Latents clamped to [-clip, clip], if asked."""
        return latents if self.clip is None else latents.clamp(-self.clip, self.clip)

    def classify(self, victim: LabelVictim, prior: Prior, latents: Tensor, labels: Tensor) -> Tensor:
        """What the victim takes the images of ``latents`` [m, d] for, int64 [m]; one query each."""

        @torch.no_grad()
        def ask(part: slice) -> Tensor:
            return victim.labels(self.render(prior, latents[part], labels[part]))

        return torch.cat(list(in_batches(ask, len(latents), self.at_once, what="images", victim=victim)))


class _Active:
    """The ``rows`` of a walk that make estimates. To ask who has ended waits for the device, so it is asked
    only when one of them may have; the last, which go on for long, are asked rarely.
    """

    rows: Tensor  # int64 [m]

    def __init__(self, attack: BREPMI):
        self._attack, self._ahead = attack, 0

    def are_none(self, state: dict[str, Tensor]) -> bool:
        """Whether all items have ended, asked before every estimate."""
        if not self._ahead:
            self.rows = (~state["done"]).nonzero().squeeze(1)
            if not len(self.rows):
                return True
            self._ahead = int(self._attack.estimates_ahead(state)[self.rows].min())
        self._ahead -= 1
        return False
