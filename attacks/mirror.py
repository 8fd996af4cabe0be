"""MIRROR (An et al. 2022), with gradients: optimise one code w of a style generator, kept where codes usually
are.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor

from attacks.parts.consistency import MOST, most_consistent
from attacks.parts.identity_losses import IdentityLoss
from attacks.parts.initial_selection import InitialSelection, most_confident, style_prior
from attacks.parts.optimisers import adam_step
from attacks.parts.p_space import Bounds
from midre_exp.attack import Attack, AttackResult, Transforms, apply, split_evenly
from midre_exp.errors import ConfigError
from midre_exp.loop import Loop
from midre_exp.priors.base import Prior
from midre_exp.priors.style_prior import StylePrior
from midre_exp.runtime import Runtime
from midre_exp.seeding import ItemRNG
from midre_exp.threat import Threat, WhiteBoxVictim


class Mirror(Attack):
    """White box, on a style prior. An item is one code w [w_dim] for all layers; each step is one of Adam on

        ( identity_weight * L_id(T, flip(steps(G(truncate(w)))), y) + energy(w) ) / reference_batch

    at the rate of ``ramp``, after which w is clipped to the region of ``bounds``. Every picture of the attack
    is rendered as those of ``search`` are (``psi``, ``cutoff``, ``clamp``). Starts are its codes, not
    truncated, whose pictures the target is most confident of; all of its codes make the region.

    ``flip_p``: a step shows the images mirrored with this probability, decided for all items at once
    (``flip_shared``) or for each. ``keep``: the code after the step whose mean loss over the items of an
    identity was lowest ("batch", official), whose own loss was lowest ("own"), or after the last step
    ("last"). The loss of a step is that of the code before it, as in the official code. ``counted``: every
    item counts ("all"), or one per identity by ``most_consistent`` ("consistent"), with the highest ``score``
    of the label, "logit" or "softmax". Latents are the truncated codes [n, num_ws, w_dim]; detail ``w`` [n,
    w_dim] holds what was optimised. Raises ConfigError.
    """

    threat = Threat.WHITE_BOX

    def __init__(
        self,
        *,
        search: InitialSelection,
        bounds: Bounds,
        steps: int,
        lr: float,
        betas: Sequence[float],
        rampup: float,
        rampdown: float,
        identity_loss: IdentityLoss,
        identity_weight: float,
        flip_p: float,
        flip_shared: bool,
        reference_batch: int,
        keep: Literal["batch", "own", "last"],
        counted: Literal["all", "consistent"],
        score: Literal["logit", "softmax"],
        identities: int,
        restarts: int,
        image_to_target: Transforms = (),
        picture: Transforms | None = None,
    ):
        super().__init__(
            identities=identities, restarts=restarts, image_to_target=image_to_target, picture=picture
        )
        for name, count in (("steps", steps), ("reference_batch", reference_batch)):
            if count < 1:
                raise ConfigError(f"attack.{name}={count} must be at least 1")
        for name, size in (("lr", lr), ("identity_weight", identity_weight)):
            if not size > 0:
                raise ConfigError(f"attack.{name}={size} must be above 0")
        for name, share in (("rampup", rampup), ("rampdown", rampdown), ("flip_p", flip_p)):
            if not 0 <= share <= 1:
                raise ConfigError(f"attack.{name}={share} must lie in [0, 1]")
        if len(betas) != 2 or not all(0 <= beta < 1 for beta in betas):
            raise ConfigError(f"attack.betas={list(betas)} must be two numbers from 0 to below 1")
        words = {
            "keep": (keep, ("batch", "own", "last")),
            "counted": (counted, ("all", "consistent")),
            "score": (score, ("logit", "softmax")),
        }
        for name, (word, known) in words.items():
            if word not in known:
                raise ConfigError(f"attack.{name}={word} is unknown; use one of {', '.join(known)}")
        if restarts > search.size:
            raise ConfigError(
                f"attack.restarts={restarts} exceeds attack.search.size={search.size}; an identity starts from different codes"
            )
        if counted == "consistent" and restarts > MOST:
            raise ConfigError(
                f"attack.restarts={restarts} is more than the {MOST} that attack.counted=consistent can compare; lower it or use counted=all"
            )
        self.search = search
        self.bounds = bounds
        self.steps = steps
        self.lr = lr
        self.betas = (betas[0], betas[1])
        self.rampup = rampup
        self.rampdown = rampdown
        self.identity_loss = identity_loss
        self.identity_weight = identity_weight
        self.flip_p = flip_p
        self.flip_shared = flip_shared
        self.reference_batch = reference_batch
        self.keep = keep
        self.counted = counted
        self.score = score

    @property
    def group_size(self) -> int:
        """The items of an identity, where their mean loss decides for all of them."""
        return self.restarts if self.keep == "batch" else 1

    def initialise(
        self, victim: WhiteBoxVictim, prior: Prior, labels: Tensor, *, common: ItemRNG, runtime: Runtime
    ) -> Tensor:
        """The codes to start from, [n, w_dim] on the CPU, not truncated and not clipped."""
        style = style_prior(prior)
        codes = sampled(self.search, style, common)

        def ask(images: Tensor) -> Tensor:
            return victim(images).logits.softmax(1)

        confidences = first_impressions(
            self.search, style, codes, ask, self.identities, self.image_to_target, runtime
        )
        return codes.cpu()[most_confident(confidences, labels)]

    def invert(
        self, victim: WhiteBoxVictim, prior: Prior, labels: Tensor, rng: ItemRNG, loop: Loop
    ) -> AttackResult:
        """The truncated codes of the step that ``keep`` chooses."""
        if loop.start is None:
            raise RuntimeError("MIRROR starts from the codes that its initialise chose")
        style, start, asked = style_prior(prior), loop.start, victim.queries
        # Made anew in every chunk, from the same numbers: a covariance has no place among what is kept for
        # each item.
        region = self.bounds.region(sampled(self.search, style, loop.common))
        state = {
            "w": start,
            "first": torch.zeros_like(start),
            "second": torch.zeros_like(start),
            "best": start,
            "lowest": torch.full_like(start[:, 0], float("inf")),
        }
        for step in loop(self.steps, state):
            w = state["w"].detach().requires_grad_()
            losses = self.losses(victim, style, w, labels, rng, loop.common, step)
            loop.show(loss=losses)
            energy = region.energy(w)
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
            state["w"] = region.clip(moved)
            state["best"], state["lowest"] = self.better(state, losses.detach())
        w = state["best"]
        codes = style.truncate(w, psi=self.search.psi, cutoff=self.search.cutoff)
        with torch.no_grad():
            images = rendered(self.search, style, w)
        queries = split_evenly(victim.queries - asked, len(labels))
        return AttackResult(codes.contiguous(), queries, details={"w": w}, images=images)

    def losses(
        self,
        victim: WhiteBoxVictim,
        prior: StylePrior,
        w: Tensor,
        labels: Tensor,
        rng: ItemRNG,
        common: ItemRNG,
        step: int,
    ) -> Tensor:
        """The identity loss of each item of w [n, w_dim], weighted, [n]."""
        images = apply(self.image_to_target, rendered(self.search, prior, w))
        number = (common if self.flip_shared else rng).uniform("flip", step=step)
        seen = torch.where((number < self.flip_p)[:, None, None, None], images.flip(-1), images)
        return self.identity_weight * self.identity_loss(victim, self.surrogates, seen, labels, rng, step)

    def better(self, state: Mapping[str, Tensor], losses: Tensor) -> tuple[Tensor, Tensor]:
        """The codes to keep [n, w_dim] and the loss they are kept for [n], after a step with ``losses`` [n]."""
        if self.keep == "last":
            return state["w"], losses
        if self.keep == "batch":
            means = losses.view(-1, self.restarts).mean(1)
            losses = means.repeat_interleave(self.restarts)
        lower = losses < state["lowest"]
        best = torch.where(lower[:, None], state["w"], state["best"])
        return best, torch.where(lower, losses, state["lowest"])

    def render(self, prior: Prior, latents: Tensor, labels: Tensor) -> Tensor:
        """Images as the target gets them, of codes as they are, [n, num_ws, w_dim]."""
        return apply(self.image_to_target, clipped(self.search, prior.generate(latents, labels)))

    @torch.no_grad()
    def select(
        self,
        victim: WhiteBoxVictim,
        prior: Prior,
        labels: Tensor,
        latents: Tensor,
        details: Mapping[str, Any],
        *,
        common: ItemRNG,
        runtime: Runtime,
    ) -> dict[str, Tensor]:
        """``selected`` bool [n], one per identity, if ``counted`` is "consistent"; it costs a query per item."""
        if self.counted == "all":
            return {}
        parts = zip(*(t.split(min(self.search.batch, runtime.chunk)) for t in (latents, labels)), strict=True)
        logits = torch.cat(
            [
                victim(self.render(prior, codes.to(runtime.device), theirs.to(runtime.device))).logits.cpu()
                for codes, theirs in parts
            ]
        )
        chosen = most_consistent(
            logits.unflatten(0, (-1, self.restarts)),
            labels[:: self.restarts],
            by_softmax=self.score == "softmax",
        )
        selected = torch.nn.functional.one_hot(chosen, self.restarts).bool()
        return {"selected": selected.flatten()}


def ramp(done: float, *, up: float, down: float) -> float:
    """Factor of the learning rate in the step with which the share ``done`` of all steps, in (0, 1], is over.

        (0.5 - 0.5 cos(pi min(1, (1 - done) / down))) * min(1, done / up)

    A linear rise over the share ``up``, a fall along a cosine over the share ``down``; 0 is none. With a
    fall, the last step has rate 0.
    """
    falling = 0.5 - 0.5 * math.cos(math.pi * min(1.0, (1 - done) / down)) if down else 1.0
    return falling * (min(1.0, done / up) if up else 1.0)


@torch.no_grad()
def sampled(search: InitialSelection, prior: StylePrior, common: ItemRNG) -> Tensor:
    """The codes of ``search``, not truncated, one for all layers: [size, w_dim] on the device of ``common``,
    equal at every call.
    """
    return prior.codes(search.z(prior, common))[:, 0]


def rendered(search: InitialSelection, prior: StylePrior, codes: Tensor) -> Tensor:
    """Images [n, 3, s, s] of codes [n, w_dim], rendered as ``search`` does."""
    return clipped(search, prior.synthesise(prior.truncate(codes, psi=search.psi, cutoff=search.cutoff)))


def clipped(search: InitialSelection, images: Tensor) -> Tensor:
    """Images, in [0, 1] if ``search`` wants them so."""
    return images.clamp(0, 1) if search.clamp else images


def first_impressions(
    search: InitialSelection,
    prior: StylePrior,
    codes: Tensor,
    ask: Callable[[Tensor], Tensor],
    classes: int,
    steps: Transforms,
    runtime: Runtime,
) -> Tensor:
    """The target's probabilities of the first ``classes`` labels for the pictures of codes [N, w_dim], [N,
    classes] on the CPU.

    Of thousands of labels and many codes, nobody would have the memory for all.
    """
    parts = codes.split(min(search.batch, runtime.chunk))
    answers = answered(search, prior, runtime.bar(parts, "candidates, batches", total=len(parts)), ask, steps)
    return torch.cat([answer[:, :classes].cpu() for answer in answers])


@torch.no_grad()
def answered(
    search: InitialSelection,
    prior: StylePrior,
    parts: Iterable[Tensor],
    ask: Callable[[Tensor], Tensor],
    steps: Transforms,
) -> Iterator[Tensor]:
    """What ``ask`` tells of the pictures of each part of codes [m, w_dim] after ``steps``: probabilities [m,
    k].

    With ``search.flip`` it is asked about their mirror images as well, and the answer is the mean.
    """
    for codes in parts:
        images = apply(steps, rendered(search, prior, codes))
        answer = ask(images)
        yield (answer + ask(images.flip(-1))) / 2 if search.flip else answer
