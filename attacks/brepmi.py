"""BREP-MI, boundary-repelling inversion (Kahla et al. 2022): a latent is pushed away from its class's
boundary by labels alone.
"""

from __future__ import annotations

import torch
from torch import Tensor

from attacks.parts.boundary import appearances, discover, repulsion, sphere
from midre_exp.attack import Attack, AttackResult, Transforms, split_evenly
from midre_exp.errors import ConfigError
from midre_exp.loop import Loop
from midre_exp.priors.base import Prior
from midre_exp.seeding import ItemRNG
from midre_exp.threat import LabelVictim, Threat

#: Whom to attack: the identities the generator reaches first (official), or labels 0..identities-1.
CHOICE = ("reached", "requested")
#: What is handed in: the point right after the last growth of the radius (official), or the last point of
#: all.
RESULT = ("last_growth", "final")

_AT_ONCE = 512  # images asked for in one call: 1,000 identities with 32 points each would not fit
_ENDLESS = 1e6  # a radius at which the class has no boundary: latents lie within about sqrt(latent_dim)


class BREPMI(Attack):
    """Labels only. Starts: batches of ``search_batch`` latents N(0, I), clamped to [-clip, clip], of which
    each (identity, restart) takes the first of its label that is still free; at most ``search_batches``, and
    half of ``max_queries``. With ``choice=reached`` the identities are those whose labels appear first, a
    choice that favours the attack; with ``requested``, labels 0..identities-1, reached or not.

    Then, per estimate, ``points`` labels on a sphere around the latent and one for the point proposed,

        z' = clamp(z + min(R / radius_per_step, max_step) g),    g, R' = attacks.parts.boundary.repulsion,

    taken only if it has the label; a growth of the radius R stays even if not. An item ends after
    ``patience`` moves without growth, after ``max_rejections`` proposals in a row that were refused, or
    before it would exceed ``max_queries``, its share of the search included; None is without limit, as the
    official code is.

    ``result`` chooses between the point after the last accepted growth and the final point. Kept in
    ``details``: ``failed`` bool, no success whatever the evaluator sees: never reached, or without growth
    under ``last_growth``; ``reached`` and ``grew`` bool; ``radius``; ``growth_latents`` (without growth: the
    final point) and ``final_latents``, the points of both rules; ``queries_to_result``, without those after
    the result. The latent of an item never reached is zero. Raises ConfigError for settings outside these.
    """

    threat = Threat.LABELS

    def __init__(
        self,
        *,
        points: int,
        radius: float,
        growth: float,
        threshold: float,
        outside_only: bool,
        radius_per_step: float,
        max_step: float,
        clip: float | None,
        patience: int,
        max_rejections: int | None,
        max_queries: int | None,
        choice: str,
        search_batch: int,
        search_batches: int,
        result: str,
        identities: int,
        restarts: int,
        image_to_target: Transforms = (),
    ):
        super().__init__(identities=identities, restarts=restarts, image_to_target=image_to_target)
        counts = {
            "points": points,
            "patience": patience,
            "max_rejections": max_rejections,
            "max_queries": max_queries,
            "search_batch": search_batch,
            "search_batches": search_batches,
        }
        for name, count in counts.items():
            if count is not None and count < 1:
                raise ConfigError(f"attack.{name}={count} must be at least 1")
        sizes = {"radius": radius, "radius_per_step": radius_per_step, "max_step": max_step, "clip": clip}
        for name, size in sizes.items():
            if size is not None and not size > 0:
                raise ConfigError(f"attack.{name}={size} must be positive")
        if not growth > 1:
            raise ConfigError(f"attack.growth={growth} must exceed 1, or the radius would not grow")
        if not -1 <= threshold < 1:
            raise ConfigError(f"attack.threshold={threshold} must be in [-1, 1); at 1 the radius never grows")
        for name, word, known in (("choice", choice, CHOICE), ("result", result, RESULT)):
            if word not in known:
                raise ConfigError(f"attack.{name}={word} is unknown; use one of {', '.join(known)}")
        self.points = points
        self.radius = radius
        self.growth = growth
        self.threshold = threshold
        self.outside_only = outside_only
        self.radius_per_step = radius_per_step
        self.max_step = max_step
        self.clip = clip
        self.patience = patience
        self.max_rejections = max_rejections
        self.max_queries = max_queries
        self.choice = choice
        self.search_batch = search_batch
        self.search_batches = search_batches
        self.result = result

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
                f"attack.prior is a {type(prior).__name__}, which knows the target; BREP-MI sees labels alone, use prior gmi"
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
            "asked": torch.zeros((), dtype=torch.int64),
        }
        batches = self.search_batches
        if self.max_queries is not None:
            batches = min(batches, self.max_queries * items // (2 * self.search_batch))
        for step in loop(batches, state, until=lambda now: bool(now["reached"].all())):
            drawn = rng[:1].normal("search", self.search_batch, prior.latent_dim, step=step)[0]
            latents = self.bound(drawn)
            answers = self.ask(victim, prior, latents, torch.zeros_like(known[:1]).expand(len(latents)))
            state["order"] = discover(answers, state["order"], self.identities)
            turn = appearances(answers, state["seen"])
            place = state["order"][answers]
            wanted = (place < self.identities) & (turn < self.restarts)
            items_met = (place * self.restarts + turn)[wanted]
            state["starts"][items_met] = latents[wanted]
            state["reached"][items_met] = True
            state["seen"] = state["seen"] + torch.bincount(answers, minlength=classes)
            state["asked"] = state["asked"] + len(answers)
        order = torch.where(state["order"] < 0, classes + known, state["order"])
        people = order.argsort(stable=True)[: self.identities]
        spent = split_evenly(int(state["asked"]), items).to(labels.device)
        return state["starts"], people.repeat_interleave(self.restarts), state["reached"], spent

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

        Of the answer, ``latents``, ``growth_latents`` (the start where nothing grew), ``radius``, ``grew``,
        ``moves`` without growth, ``rejections`` in a row, ``queries`` and ``queries_to_growth`` (all of them
        where nothing grew), both with ``spent``, are of use.
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
        for step in loop(None, state, until=lambda now: bool(now["done"].all())):
            rows = (~state["done"]).nonzero().squeeze(1)
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
        answers = self.ask(victim, prior, around, labels.repeat_interleave(self.points))
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
        taken = self.ask(victim, prior, proposed, labels) == labels
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

    @torch.no_grad()
    def ask(self, victim: LabelVictim, prior: Prior, latents: Tensor, labels: Tensor) -> Tensor:
        """What the victim takes the images of ``latents`` [m, d] for, int64 [m]; one query each."""
        parts = zip(latents.split(_AT_ONCE), labels.split(_AT_ONCE), strict=True)
        return torch.cat([victim.labels(self.render(prior, part, theirs)) for part, theirs in parts])
