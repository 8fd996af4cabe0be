"""GMI, generative model inversion (Zhang et al. 2020): gradient descent on the latent of a GAN trained on
public images.
"""

from __future__ import annotations

import torch
from torch import Tensor

from attacks.losses import critic_prior
from attacks.parts.identity_losses import CrossEntropy, IdentityLoss
from attacks.parts.optimisers import nesterov_step
from midre_exp.attack import Attack, Transforms
from midre_exp.errors import ConfigError
from midre_exp.loop import Loop
from midre_exp.priors.base import Prior
from midre_exp.seeding import ItemRNG
from midre_exp.threat import Threat, WhiteBoxVictim


class GMI(Attack):
    """White box. Latents [n, latent_dim] from N(0, I); per step one look-ahead momentum step on

        ( -D(G(z)) + identity_weight * L_id(T, G(z), y) ) / reference_batch,

    L_id being ``identity_loss``: the target's cross entropy, or LOMMA's; then a clamp to [-clip, clip], none
    if None. Velocity and starting point are not clamped. ``reference_batch`` is the size of the batch whose
    mean loss the official code descends: since SGD is not scale free, it fixes the effective step size for
    any chunk. Raises ConfigError for settings under which nothing would be optimised.
    """

    threat = Threat.WHITE_BOX

    def __init__(
        self,
        *,
        steps: int,
        lr: float,
        momentum: float,
        identity_weight: float,
        clip: float | None,
        reference_batch: int,
        identities: int,
        restarts: int,
        identity_loss: IdentityLoss | None = None,
        image_to_target: Transforms = (),
    ):
        super().__init__(identities=identities, restarts=restarts, image_to_target=image_to_target)
        for name, value in (("steps", steps), ("reference_batch", reference_batch)):
            if value < 1:
                raise ConfigError(f"attack.{name}={value} must be at least 1")
        if clip is not None and clip <= 0:
            raise ConfigError(f"attack.clip={clip} must be positive; use null for no clamp")
        self.steps = steps
        self.lr = lr
        self.momentum = momentum
        self.identity_weight = identity_weight
        self.clip = clip
        self.reference_batch = reference_batch
        self.identity_loss = identity_loss or CrossEntropy()

    def invert(
        self, victim: WhiteBoxVictim, prior: Prior, labels: Tensor, rng: ItemRNG, loop: Loop
    ) -> Tensor:
        """Latents [n, latent_dim] after ``steps`` steps."""
        start = rng.normal("start", prior.latent_dim)
        state = {"latents": start, "velocity": torch.zeros_like(start)}
        for step in loop(self.steps, state):
            latents = state["latents"].requires_grad_()
            losses = self.losses(victim, prior, latents, labels, rng, step)
            loop.show(loss=losses)
            (gradient,) = torch.autograd.grad(losses.sum() / self.reference_batch, latents)
            latents, state["velocity"] = nesterov_step(
                latents.detach(), state["velocity"], gradient, lr=self.lr, momentum=self.momentum
            )
            state["latents"] = latents if self.clip is None else latents.clamp(-self.clip, self.clip)
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
        scores = prior.realism(images)
        for change in self.image_to_target:
            images = change(images)
        identity = self.identity_loss(victim, self.surrogates, images, labels, rng, step)
        return critic_prior(scores) + self.identity_weight * identity
