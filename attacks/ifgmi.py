"""IF-GMI (Qiu et al. 2024): optimise the code of a StyleGAN2 image, then also the features between its
blocks, deeper and deeper.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, Literal

import torch
from torch import Tensor

from attacks.parts.identity_losses import IdentityLoss
from attacks.parts.initial_selection import InitialSelection, most_confident, style_prior
from attacks.parts.l1_ball import near
from attacks.parts.optimisers import adam_step
from attacks.parts.random_crops import RandomCrop
from midre_exp.attack import Attack, AttackResult, Transforms, apply, split_evenly, to_uint8
from midre_exp.errors import ConfigError
from midre_exp.loop import Loop
from midre_exp.priors.base import Prior
from midre_exp.priors.style_prior import StylePrior
from midre_exp.runtime import Runtime
from midre_exp.seeding import ItemRNG
from midre_exp.threat import Threat, WhiteBoxVictim


@dataclass(frozen=True)
class Stage:
    """``steps`` of Adam; the radii of the L1 balls around where features and w are when the stage starts,
    None: no ball.
    """

    steps: int
    radius_features: float | None
    radius_w: float | None

    @classmethod
    def of(cls, node: Mapping[str, Any], number: int) -> Stage:
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


class IFGMI(Attack):
    """White box, with a StyleGAN2 prior. Stage 0 optimises one code w [1, w_dim] per item for all layers;
    stage k > 0 optimises w and the features that enter block k, which w and the features of stage k - 1 gave
    when that stage was over. Every step is one of Adam (started anew with each stage) on L_id(T, v(G(w,
    features)), y) / ``reference_batch`` and a projection of both into L1 balls around where they were when
    the stage started. L_id is ``identity_loss``, v the random crop ``view`` after ``image_to_target``.

    Starts are the target's most confident candidates of ``search``, one w each. ``carry_image``: the sum of
    colours of the blocks before k is handed on (as it was after stage k - 1), else every stage starts it
    anew, as in the official code. ``picture_of``: a stage's picture is the one its last step looked at, or is
    rendered after it. ``report``: the stage whose picture is the reconstruction, "first", "last" or a number
    from 0; latents are w after it. ``keep_stages``: the pictures of all stages are kept as detail ``stages``,
    uint8 [n, stages, 3, h, w]; if not, stages after the reported one do not run. Raises ConfigError.
    """

    threat = Threat.WHITE_BOX

    def __init__(
        self,
        *,
        stages: Sequence[Mapping[str, Any]],
        lr: float,
        betas: Sequence[float],
        reference_batch: int,
        search: InitialSelection,
        view: RandomCrop,
        identity_loss: IdentityLoss,
        carry_image: bool,
        picture_of: Literal["before_last_update", "after"],
        report: Literal["first", "last"] | int,
        keep_stages: bool,
        identities: int,
        restarts: int,
        image_to_target: Transforms = (),
        picture: Transforms | None = None,
    ):
        super().__init__(
            identities=identities, restarts=restarts, image_to_target=image_to_target, picture=picture
        )
        self.stages = [Stage.of(node, number) for number, node in enumerate(stages)]
        if not any(stage.steps for stage in self.stages):
            raise ConfigError("attack.stages has no steps at all; give at least one stage with steps")
        if restarts > search.size:
            raise ConfigError(
                f"attack.restarts={restarts} exceeds attack.search.size={search.size}; an identity starts from different candidates"
            )
        if reference_batch < 1:
            raise ConfigError(f"attack.reference_batch={reference_batch} must be at least 1")
        if len(betas) != 2 or not all(0 <= beta < 1 for beta in betas):
            raise ConfigError(f"attack.betas={list(betas)} must be two numbers from 0 to below 1")
        if picture_of not in ("before_last_update", "after"):
            raise ConfigError(f"attack.picture_of={picture_of} is unknown; use before_last_update or after")
        reported = {"first": 0, "last": len(self.stages) - 1}.get(str(report), report)
        if type(reported) is not int or not 0 <= reported < len(self.stages):
            raise ConfigError(
                f"attack.report={report} is no stage; use first, last or 0 to {len(self.stages) - 1}"
            )
        if not lr > 0:
            raise ConfigError(f"attack.lr={lr} must be above 0")
        self.reported: int = reported
        self.lr = lr
        self.betas = (betas[0], betas[1])
        self.reference_batch = reference_batch
        self.search = search
        self.view = view
        self.identity_loss = identity_loss
        self.carry_image = carry_image
        self.picture_of = picture_of
        self.keep_stages = keep_stages

    def initialise(
        self, victim: Any, prior: Prior, labels: Tensor, *, common: ItemRNG, runtime: Runtime
    ) -> Tensor:
        """The w [n, 1, w_dim] of each item's candidate, on the CPU.

        It is the code of the first layer, truncated, for all layers; the candidate was judged with the later
        layers' own codes.
        """
        style = self._style(prior)
        codes = style.codes(self.search.z(style, common), psi=self.search.psi, cutoff=self.search.cutoff)
        style.run_blocks(codes[:1], stop=1)  # a generator that has no such blocks says so now
        confidences = self.search.confidences(victim, style, codes, self.image_to_target, runtime)
        return codes[:, :1].cpu()[most_confident(confidences, labels)]

    def invert(
        self, victim: WhiteBoxVictim, prior: Prior, labels: Tensor, rng: ItemRNG, loop: Loop
    ) -> AttackResult:
        """Stage by stage; the queries are the same for every item."""
        if loop.start is None:
            raise RuntimeError("IF-GMI starts from the codes that its initialise chose")
        style, asked = self._style(prior), victim.queries
        stages = self.stages if self.keep_stages else self.stages[: self.reported + 1]
        point, image, done = {"w": loop.start}, None, 0
        kept, images, latents = [], None, loop.start
        for number, stage in enumerate(stages):
            cut = Cut(style, number, image)
            point, outcome = self.optimise(stage, cut, point, victim, labels, rng, loop, done)
            done += stage.steps
            kept.append(outcome["kept"])
            if number == self.reported:
                images, latents = outcome["images"], point["w"]
            if number + 1 < len(stages):
                point["features"], image = cut.next(point, carry_image=self.carry_image)
        details = {"stages": torch.stack(kept, 1)} if self.keep_stages else {}
        return AttackResult(
            latents, split_evenly(victim.queries - asked, len(labels)), details=details, images=images
        )

    def optimise(
        self,
        stage: Stage,
        cut: Cut,
        start: Mapping[str, Tensor],
        victim: WhiteBoxVictim,
        labels: Tensor,
        rng: ItemRNG,
        loop: Loop,
        done: int,
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Codes and features after a stage that starts from ``start``, and what is kept of its picture
        (``outcome``).

        ``done`` steps of earlier stages: random numbers are drawn for the step counted through all stages.
        """
        radii = {"w": stage.radius_w, "features": stage.radius_features}
        state = dict(start)
        for name, value in start.items():
            state |= {f"{name} {moment}": torch.zeros_like(value) for moment in ("first", "second")}
        for step in loop(stage.steps, state):
            free = {name: state[name].detach().requires_grad_() for name in start}
            picture = cut.render(free)
            losses = self.losses(victim, picture, labels, rng, loop.common, done + step)
            loop.show(loss=losses)
            gradients = torch.autograd.grad(losses.sum() / self.reference_batch, list(free.values()))
            last = step + 1 == stage.steps
            for (name, value), gradient in zip(free.items(), gradients, strict=True):
                moments = state.pop(f"{name} first"), state.pop(f"{name} second")
                moved, moments = adam_step(
                    value.detach(), moments, gradient, step, lr=self.lr, betas=self.betas
                )
                state[name] = near(moved, start[name], radii[name])
                if not last:  # moments end with the stage; as large as the features, they are not to be saved for nothing
                    state[f"{name} first"], state[f"{name} second"] = moments
            if last and self.picture_of == "before_last_update":
                state |= self.outcome(picture.detach(), cut.number)
        after = {name: state[name] for name in start}
        if "kept" not in state:
            with torch.no_grad():
                state |= self.outcome(cut.render(after), cut.number)
        return after, {name: state[name] for name in ("kept", "images") if name in state}

    def losses(
        self,
        victim: WhiteBoxVictim,
        picture: Tensor,
        labels: Tensor,
        rng: ItemRNG,
        common: ItemRNG,
        step: int,
    ) -> Tensor:
        """The objective of each item, [n], of generated images [n, 3, s, s], before the division by the
        reference batch.
        """
        seen = self.view(apply(self.image_to_target, picture), rng, common, "crop", step)
        return self.identity_loss(victim, self.surrogates, seen, labels, rng, step)

    def outcome(self, picture: Tensor, number: int) -> dict[str, Tensor]:
        """What is kept of the picture [n, 3, s, s] of stage ``number``: 8 bits as the judge sees it, all of
        it if it is the result.
        """
        steps = self.image_to_target if self.picture is None else self.picture
        whole = {"images": picture} if number == self.reported else {}
        return {"kept": to_uint8(apply(steps, picture)), **whole}

    def _style(self, prior: Prior) -> StylePrior:
        """``prior``, if it can be cut in as many places as there are stages. Raises ConfigError."""
        style = style_prior(prior)
        places = style.num_blocks - 1  # the last block is never a start
        if len(self.stages) > places:
            raise ConfigError(
                f"attack.stages has {len(self.stages)} entries, but a generator of {style.num_blocks} blocks has places for {places}; "
                "remove the last ones"
            )
        return style


@dataclass(frozen=True)
class Cut:
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
