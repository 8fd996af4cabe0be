"""IF-GMI, intermediate features of the generator: optimise the code of a StyleGAN2 image, then also the
features between its blocks, deeper and deeper.
"""

from __future__ import annotations

import bisect
import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any, Literal

import torch
from torch import Tensor

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
from attacks.parts.checks import above_zero, adam_betas, at_least_one, one_of
from attacks.parts.gradient_attack import GradientAttack
from attacks.parts.initial_selection import InitialSelection, most_confident, style_prior
from attacks.parts.l1_ball import near
from attacks.parts.optimisers import adam_steps
from attacks.parts.random_crops import RandomCrop
from midre_exp.errors import ConfigError
from midre_exp.metrics.phases import PhaseJudge
from midre_exp.plan.ranges import BelowOne, Count, LearningRate
from midre_exp.priors.style_prior import StylePrior

PictureOf = Literal["before_last_update", "after"]


@dataclass(frozen=True)
class Phase:
    """One entry of ``attack.stages``."""

    steps: int  # of Adam, started anew
    radius_features: float | None  # L1 ball around the features when the phase starts; None: no ball
    radius_w: float | None  # L1 ball around w when the phase starts; None: no ball

    @classmethod
    def of(cls, node: Mapping[str, Any], number: int) -> Phase:
        """Entry ``number`` of ``attack.stages``; a radius of 0 or less is none. Raises ConfigError."""
        keys = [field.name for field in fields(cls)]
        if set(node) != set(keys):
            raise ConfigError(
                f"attack.stages[{number}] has the keys {', '.join(node)}; give {', '.join(keys)}"
            )
        if type(node["steps"]) is not int or node["steps"] < 0:
            raise ConfigError(f"attack.stages[{number}].steps={node['steps']} must be a number of steps")
        radii = {key: node[key] for key in keys[1:]}
        for key, radius in radii.items():
            if radius is not None and (type(radius) not in (int, float) or math.isnan(radius)):
                raise ConfigError(
                    f"attack.stages[{number}].{key}={radius} is no radius; give a number or null"
                )
        return cls(node["steps"], **{key: r if r is not None and r > 0 else None for key, r in radii.items()})


@dataclass(kw_only=True, eq=False)
class IFGMI(GradientAttack):
    """L_id(T, v(G(w, features)), y) / reference_batch by Adam: phase 0 over one code w [1, w_dim] for all
    layers, phase k > 0 over w and the features that enter block k, each step projected into L1 balls around
    where the phase started (Qiu et al., ECCV 2024).

    Starts are the target's most confident candidates of ``search``, one w each; the features of phase k are
    those that the result of phase k - 1 gives. Latents are w after the reported phase.
    """

    latents_suffice = False  # images come of features of the generator, up to 34 MB each, as well

    search: InitialSelection  # items start from its codes that the target is most confident of
    #: Phase by phase steps, radius_features and radius_w; at most one less than the generator has blocks.
    stages: Sequence[Mapping[str, Any]]
    lr: LearningRate  # of Adam (released: 5e-3; dogs: 0.01)
    betas: tuple[BelowOne, BelowOne]  # of Adam (released: 0.1, 0.1)
    reference_batch: Count  # the official loss is a mean over the batch (released: 5 on each of 3 GPUs)
    view: RandomCrop  # v, after ``image_to_target``, drawn anew each step
    identity_loss: IdentityLoss  # L_id (released: Poincare)
    #: Hand on the sum of colours of the blocks before k (as it was after phase k - 1); False: every phase
    #: starts it anew (released).
    carry_image: bool
    picture_of: PictureOf  # a phase's image: the one its last step saw (released), or rendered "after" it
    report: Literal["first", "last"] | int  # the phase whose image is the reconstruction; a number from 0
    #: Keep the images of all phases as detail ``stages``, uint8 [n, phases, 3, h, w]; False: phases after the
    #: reported one do not run.
    keep_stages: bool
    #: Show the images of every phase, exact as they are, to the evaluator when the phase ends, for the record
    #: alone; nothing of the attack knows what it says. Details ``stage_hits``, see ``metrics.PhaseJudge``.
    judge_stages: bool = False

    #: Who is asked then; the stage of the attack puts it here.
    judge: PhaseJudge | None = field(default=None, init=False, repr=False)
    phases: list[Phase] = field(init=False, repr=False)
    reported: int = field(init=False, repr=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        self.phases = [Phase.of(node, number) for number, node in enumerate(self.stages)]
        if not any(phase.steps for phase in self.phases):
            raise ConfigError("attack.stages has no steps at all; give at least one stage with steps")
        self.search.require_candidates(self.restarts)
        at_least_one(reference_batch=self.reference_batch)
        self.betas = adam_betas(self.betas)
        one_of("attack.picture_of", self.picture_of, PictureOf)
        reported = {"first": 0, "last": len(self.phases) - 1}.get(str(self.report), self.report)
        if type(reported) is not int or not 0 <= reported < len(self.phases):
            raise ConfigError(
                f"attack.report={self.report} is no stage; use first, last or 0 to {len(self.phases) - 1}"
            )
        self.reported = reported
        above_zero(lr=self.lr)

    def initialise(
        self, victim: WhiteBoxVictim, prior: Prior, labels: Tensor, *, shared_rng: ItemRNG, runtime: Runtime
    ) -> Tensor:
        """The w [n, 1, w_dim] of each item's candidate, on the CPU.

        It is the code of the first layer, truncated, for all layers; the target's confidence was that of the
        candidate with the later layers' own codes.
        """
        style = self._style(prior)
        codes = style.codes(self.search.z(style, shared_rng), psi=self.search.psi, cutoff=self.search.cutoff)
        style.run_blocks(codes[:1], stop=1)  # a generator that has no such blocks says so now
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
        return codes[:, :1].cpu()[most_confident(confidences, labels)]

    def invert(
        self, victim: WhiteBoxVictim, prior: Prior, labels: Tensor, rng: ItemRNG, loop: Loop
    ) -> AttackResult:
        """Phase by phase; the queries are the same for every item.

        Between phases alone is the state saved: features and the moments of Adam are large, and those of
        earlier phases are needed no more.
        """
        if loop.start is None:
            raise RuntimeError("IF-GMI starts from the codes that its initialise chose")
        style, queries = self._style(prior), victim.queries
        goes_on = self.keep_stages or self.judge is not None
        phases = self.phases if goes_on else self.phases[: self.reported + 1]
        ends = list(itertools.accumulate(phase.steps for phase in phases))
        state = {"w": loop.start}
        self._end_phases(style, phases, bisect.bisect_right(ends, 0), state, labels)
        entered = -1
        for step in loop(ends[-1], state, saved_after=ends):
            number = bisect.bisect_right(ends, step)
            phase, first = phases[number], ends[number] - phases[number].steps
            if number != entered:
                entered = number
                self._end_phases(style, phases, number, state, labels)
                tail = GeneratorTail(style, number, state.get("image"))
                start = {name: state[name] for name in state if name in ("w", "features")}
                moments = [(torch.zeros_like(value), torch.zeros_like(value)) for value in start.values()]
            point = {name: state[name].detach().requires_grad_() for name in start}
            images = tail.render(point)
            losses = self.losses(victim, images, labels, rng, loop.shared_rng, step)
            loop.show(loss=losses)
            loss = losses.sum() / self.reference_batch
            gradients = list(torch.autograd.grad(loss, list(point.values())))
            radii = {"w": phase.radius_w, "features": phase.radius_features}
            after, moments = adam_steps(
                list(point.values()), moments, gradients, step - first, lr=self.lr, betas=self.betas
            )
            for name, moved in zip(point, after, strict=True):
                state[name] = near(moved, start[name], radii[name])
            if step + 1 == ends[number]:
                if self.picture_of == "before_last_update":
                    state |= self.outcome(images.detach(), number, labels)
                self._end_phases(style, phases, bisect.bisect_right(ends, step + 1), state, labels)
        self._end_phases(style, phases, len(phases), state, labels)
        details = {}
        if self.keep_stages:
            details["stages"] = torch.stack([state[f"picture {number}"] for number in range(len(phases))], 1)
        if self.judge is not None:
            details["stage_hits"] = torch.stack([state[f"hits {number}"] for number in range(len(phases))], 1)
        spent = split_evenly(victim.queries - queries, len(labels))
        return AttackResult(state["latents"], spent, details=details, images=state["images"])

    @torch.no_grad()
    def _end_phases(
        self,
        style: StylePrior,
        phases: Sequence[Phase],
        count: int,
        state: dict[str, Tensor],
        labels: Tensor,
    ) -> None:
        """Make of the ``state`` at the end of a phase what the next starts from, until ``count`` phases have
        ended; they are several where some have no steps. Keeps what is wanted of their images.
        """
        for number in range(count):
            if f"ended {number}" in state:
                continue
            tail = GeneratorTail(style, number, state.pop("image", None))
            if f"picture {number}" not in state:
                state |= self.outcome(tail.render(state), number, labels)
            if number == self.reported:
                state["latents"] = state["w"]
            if number + 1 < len(phases):
                state["features"], image = tail.next(state, carry_image=self.carry_image)
                if image is not None:
                    state["image"] = image
            else:
                state.pop("features", None)
            state[f"ended {number}"] = torch.ones(len(state["w"]), dtype=torch.bool)

    def losses(
        self,
        victim: WhiteBoxVictim,
        images: Tensor,
        labels: Tensor,
        rng: ItemRNG,
        shared_rng: ItemRNG,
        step: int,
    ) -> Tensor:
        """The objective of each item, [n], of generated images [n, 3, s, s], before the division by the
        reference batch.
        """
        seen = self.view(apply(self.image_to_target, images), rng, shared_rng, "crop", step)
        return self.identity(victim, seen, labels, rng, step)

    def outcome(self, images: Tensor, number: int, labels: Tensor) -> dict[str, Tensor]:
        """What is kept of the images [n, 3, s, s] of phase ``number``: ``picture <number>``, 8 bits as the
        evaluator gets them, ``images``, all of them, if they are the result, and ``hits <number>``, what the
        judge says of them.
        """
        pictures = self.pictures(images)
        found = {f"picture {number}": self.in_eight_bits(pictures)}
        if number == self.reported:
            found["images"] = images
        if self.judge is not None:
            found[f"hits {number}"] = self.judge(pictures, labels).to(images.device)
        return found

    def _style(self, prior: Prior) -> StylePrior:
        """``prior``, if it can be cut in as many places as there are phases. Raises ConfigError."""
        style = style_prior(prior)
        places = style.num_blocks - 1  # the last block is never a start
        if len(self.phases) > places:
            raise ConfigError(
                f"attack.stages has {len(self.phases)} entries, but a generator of {style.num_blocks} blocks "
                f"has places for {places}; remove the last ones"
            )
        return style


@dataclass(frozen=True)
class GeneratorTail:
    """The generator from block ``number`` on, with the colours ``image`` of the blocks before it, raw, or
    without (None).
    """

    prior: StylePrior
    number: int
    image: Tensor | None

    def render(self, point: Mapping[str, Tensor]) -> Tensor:
        """Images [n, 3, s, s], nominally in [0, 1], of w and, but at block 0, the features that enter."""
        raw = self.prior.run_blocks(point["w"], point.get("features"), self.image, start=self.number)[1]
        assert raw is not None  # the last block has colours in every architecture
        return self.prior.as_picture(raw)

    @torch.no_grad()
    def next(self, point: Mapping[str, Tensor], *, carry_image: bool) -> tuple[Tensor, Tensor | None]:
        """The features that enter the next block and the colours so far, None if they are not carried on."""
        features, image = self.prior.run_blocks(
            point["w"], point.get("features"), self.image, start=self.number, stop=self.number + 1
        )
        return features.detach(), image if carry_image else None
