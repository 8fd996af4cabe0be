"""PPA, Plug & Play Attacks (Struppek et al. 2022): optimise codes of a ready-made StyleGAN2, then keep what
survives random views.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from attacks.losses import real_class_prior
from attacks.parts.final_selection import FinalSelection
from attacks.parts.identity_losses import IdentityLoss
from attacks.parts.initial_selection import InitialSelection, most_confident, place_in_class, style_prior
from attacks.parts.optimisers import adam_step
from attacks.parts.random_crops import RandomCrop
from midre_exp.attack import Attack, Transforms, apply
from midre_exp.errors import ConfigError
from midre_exp.loop import Loop
from midre_exp.priors.base import Prior
from midre_exp.runtime import Runtime
from midre_exp.seeding import ItemRNG
from midre_exp.threat import Threat, WhiteBoxVictim


class PPA(Attack):
    """White box, on a style prior. ``restarts`` candidates per identity start from the codes of ``search``
    that the target takes for it most; each step is one of Adam on

        ( L_id(T, v(steps(G(w))), y) + discriminator_weight * softplus(-D(G(w))) ) / reference_batch,

    v being ``view``, drawn anew each step. ``selection`` then tells the ``robustness`` of every candidate,
    and the ``kept`` most robust of each identity are ``selected``. Latents are codes: [n, 1, w_dim] with
    ``single_w``, which all layers share, else [n, num_ws, w_dim].

    ``single_w`` starts from the code of the first layer, which is truncated, in all layers, although the
    target was asked about codes truncated in the first layers alone: as the official code. ``clip``: images
    are clipped to [0, 1] before the target sees them. ``lr`` is multiplied by ``gamma`` from each step of
    ``milestones`` on. ``reference_batch``: size of the batch whose mean loss the official code descends; Adam
    is scale free but for its eps. Raises ConfigError for settings that select or optimise nothing.
    """

    threat = Threat.WHITE_BOX

    def __init__(
        self,
        *,
        search: InitialSelection,
        steps: int,
        lr: float,
        betas: Sequence[float],
        milestones: Sequence[int],
        gamma: float,
        view: RandomCrop,
        identity_loss: IdentityLoss,
        single_w: bool,
        clip: bool,
        discriminator_weight: float,
        reference_batch: int,
        selection: FinalSelection,
        kept: int,
        identities: int,
        restarts: int,
        image_to_target: Transforms = (),
        picture: Transforms | None = None,
    ):
        super().__init__(
            identities=identities, restarts=restarts, image_to_target=image_to_target, picture=picture
        )
        for name, value in (("steps", steps), ("kept", kept), ("reference_batch", reference_batch)):
            if value < 1:
                raise ConfigError(f"attack.{name}={value} must be at least 1")
        if not lr > 0:
            raise ConfigError(f"attack.lr={lr} must be above 0")
        if len(betas) != 2 or not all(0 <= beta < 1 for beta in betas):
            raise ConfigError(f"attack.betas={list(betas)} must be two numbers from 0 to below 1")
        if kept > restarts:
            raise ConfigError(
                f"attack.kept={kept} exceeds attack.restarts={restarts}, the candidates per identity; lower kept"
            )
        if restarts > search.size:
            raise ConfigError(
                f"attack.restarts={restarts} exceeds attack.search.size={search.size}; an identity starts from different candidates"
            )
        if discriminator_weight < 0:
            raise ConfigError(f"attack.discriminator_weight={discriminator_weight} must not be negative")
        self.search = search
        self.steps = steps
        self.lr = lr
        self.betas = (betas[0], betas[1])
        self.milestones = tuple(milestones)
        self.gamma = gamma
        self.view = view
        self.identity_loss = identity_loss
        self.single_w = single_w
        self.clip = clip
        self.discriminator_weight = discriminator_weight
        self.reference_batch = reference_batch
        self.selection = selection
        self.kept = kept

    def initialise(
        self, victim: WhiteBoxVictim, prior: Prior, labels: Tensor, *, common: ItemRNG, runtime: Runtime
    ) -> Tensor:
        """The codes to start from, [n, 1 or num_ws, w_dim] on the CPU."""
        generator = style_prior(prior)
        z = self.search.z(generator, common)
        codes = generator.codes(z, psi=self.search.psi, cutoff=self.search.cutoff)
        confidences = self.search.confidences(victim, generator, codes, self.image_to_target, runtime)
        chosen = most_confident(confidences, labels)
        return codes[:, : 1 if self.single_w else None].cpu()[chosen]

    def invert(
        self, victim: WhiteBoxVictim, prior: Prior, labels: Tensor, rng: ItemRNG, loop: Loop
    ) -> Tensor:
        """Codes [n, 1 or num_ws, w_dim] after ``steps`` steps."""
        if loop.start is None:
            raise RuntimeError("PPA starts from the codes that its initialise chose")
        start = loop.start
        state = {"latents": start, "first": torch.zeros_like(start), "second": torch.zeros_like(start)}
        for step in loop(self.steps, state):
            latents = state["latents"].requires_grad_()
            losses = self.losses(victim, prior, latents, labels, rng, loop.common, step)
            loop.show(loss=losses)
            (gradient,) = torch.autograd.grad(losses.sum() / self.reference_batch, latents)
            state["latents"], (state["first"], state["second"]) = adam_step(
                latents.detach(),
                (state["first"], state["second"]),
                gradient,
                step,
                lr=self.lr_at(step),
                betas=self.betas,
            )
        return state["latents"]

    def lr_at(self, step: int) -> float:
        """Adam's rate in ``step``, counted from 0."""
        return self.lr * self.gamma ** sum(milestone <= step for milestone in self.milestones)

    def losses(
        self,
        victim: WhiteBoxVictim,
        prior: Prior,
        latents: Tensor,
        labels: Tensor,
        rng: ItemRNG,
        common: ItemRNG,
        step: int,
    ) -> Tensor:
        """The objective of each item, [n], before the division by the reference batch."""
        images = prior.generate(latents, labels)
        seen = apply(self.image_to_target, images.clamp(0, 1) if self.clip else images)
        seen = self.view(seen, rng, common, "crop", step)
        losses = self.identity_loss(victim, self.surrogates, seen, labels, rng, step)
        if self.discriminator_weight:
            losses = losses + self.discriminator_weight * real_class_prior(prior.realism(images))
        return losses

    def select(
        self,
        victim: WhiteBoxVictim,
        prior: Prior,
        labels: Tensor,
        latents: Tensor,
        details: Mapping[str, Tensor],
        *,
        common: ItemRNG,
        runtime: Runtime,
    ) -> dict[str, Tensor]:
        """``robustness`` float [n] and ``selected`` bool [n], exactly ``kept`` of each identity."""
        robustness = self.selection.robustness(
            victim, prior, labels, latents, self.image_to_target, common=common, runtime=runtime
        )
        return {"robustness": robustness, "selected": place_in_class(robustness, labels) < self.kept}
