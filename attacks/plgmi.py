"""PLG-MI, pseudo label-guided model inversion (Yuan et al. 2023): optimise the latent of a conditional GAN
that knows the classes.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from attacks.losses import max_margin_identity
from attacks.parts.identity_losses import IdentityLoss
from attacks.parts.optimisers import adam_step
from midre_exp.attack import Attack, Transforms
from midre_exp.data.transforms.view import NUMBERS, RandomView
from midre_exp.errors import ConfigError
from midre_exp.loop import Loop
from midre_exp.priors.base import Prior
from midre_exp.seeding import ItemRNG
from midre_exp.threat import Threat, WhiteBoxVictim


class MaxMargin(IdentityLoss):
    """The largest other logit of the target minus the label's (PLG-MI)."""

    def __call__(
        self,
        victim: WhiteBoxVictim,
        surrogates: Any,
        images: Tensor,
        labels: Tensor,
        rng: ItemRNG,
        step: int,
    ) -> Tensor:
        """See the base."""
        return max_margin_identity(victim(images).logits, labels)


class PLGMI(Attack):
    """White box, with a prior that draws people of a label. Latents [n, latent_dim] from N(0, I); per step
    one Adam step on

        sum over ``views`` independent random views v of  L_id(T, v(G(z, y)), y) / reference_batch,

    L_id being ``identity_loss``, v drawn anew by ``view``. No term for realism, no clamp: the prior has
    learned what the target takes for the class. ``reference_batch`` is the size of the batch whose mean loss
    the official code descends; Adam is scale free but for its eps. The steps of ``image_to_target`` follow
    the view. Raises ConfigError for settings under which nothing would be optimised.
    """

    threat = Threat.WHITE_BOX

    def __init__(
        self,
        *,
        steps: int,
        lr: float,
        views: int,
        view: RandomView,
        identity_loss: IdentityLoss,
        reference_batch: int,
        identities: int,
        restarts: int,
        image_to_target: Transforms = (),
    ):
        super().__init__(identities=identities, restarts=restarts, image_to_target=image_to_target)
        for name, value in (("steps", steps), ("views", views), ("reference_batch", reference_batch)):
            if value < 1:
                raise ConfigError(f"attack.{name}={value} must be at least 1")
        self.steps = steps
        self.lr = lr
        self.views = views
        self.view = view
        self.identity_loss = identity_loss
        self.reference_batch = reference_batch

    def invert(
        self, victim: WhiteBoxVictim, prior: Prior, labels: Tensor, rng: ItemRNG, loop: Loop
    ) -> Tensor:
        """Latents [n, latent_dim] after ``steps`` steps."""
        start = rng.normal("start", prior.latent_dim)
        state = {"latents": start, "first": torch.zeros_like(start), "second": torch.zeros_like(start)}
        for step in loop(self.steps, state):
            latents = state["latents"].requires_grad_()
            losses = self.losses(victim, prior, latents, labels, rng, step)
            loop.show(loss=losses)
            (gradient,) = torch.autograd.grad(losses.sum() / self.reference_batch, latents)
            state["latents"], (state["first"], state["second"]) = adam_step(
                latents.detach(), (state["first"], state["second"]), gradient, step, lr=self.lr
            )
        return state["latents"]

    def losses(
        self,
        victim: WhiteBoxVictim,
        prior: Prior,
        latents: Tensor,
        labels: Tensor,
        rng: ItemRNG,
        step: int,
    ) -> Tensor:
        """The objective of each item, [n], before the division by the reference batch."""
        images = prior.generate(latents, labels)
        total = torch.zeros_like(latents[:, 0])
        for number in range(self.views):
            seen = self.view(images, rng.uniform(f"view {number}", NUMBERS, step=step))
            for change in self.image_to_target:
                seen = change(seen)
            total = total + self.identity_loss(victim, self.surrogates, seen, labels, rng, step)
        return total
