"""GMI, generative model inversion (Zhang et al. 2020): gradient descent on the latent of a GAN trained on public images."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from attacks.base import Attack, Steps
from attacks.losses import gmi_objective
from midre_exp.errors import ConfigError
from midre_exp.priors.base import Prior
from midre_exp.seeding import Streams
from midre_exp.threat import Threat, WhiteBoxVictim


def nesterov_step(
    latents: Tensor, velocity: Tensor, gradient: Tensor, *, lr: float, momentum: float
) -> tuple[Tensor, Tensor]:
    """Latents and velocity after one step of momentum in look-ahead form: v' = m v - lr g, z' = z - m v + (1 + m) v'.

    The latents are those looked ahead to; equals SGD(nesterov=True). All tensors [n, d].
    """
    faster = momentum * velocity - lr * gradient
    return latents - momentum * velocity + (1 + momentum) * faster, faster


class GMI(Attack):
    """White box. Latents [n, latent_dim] from N(0, I); per step one look-ahead momentum step on

        ( -D(G(z)) + identity_weight * CE(T(G(z)), y) ) / reference_batch,

    then a clamp to [-clip, clip], none if None. Velocity and starting point are not clamped. ``reference_batch`` is the size of the
    batch whose mean loss the official code descends: since SGD is not scale free, it fixes the effective step size for any chunk.
    Raises ConfigError for settings under which nothing would be optimised.
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
        image_to_target: Steps = (),
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

    def invert(
        self,
        victim: WhiteBoxVictim,
        prior: Prior,
        labels: Tensor,
        streams: Streams,
        progress: Callable[..., Any],
    ) -> Tensor:
        """Latents [n, latent_dim] after ``steps`` steps."""
        latents = streams.normal("start", prior.latent_dim)
        velocity = torch.zeros_like(latents)
        for _ in progress(range(self.steps)):
            latents.requires_grad_()
            loss = self.losses(victim, prior, latents, labels).sum() / self.reference_batch
            (gradient,) = torch.autograd.grad(loss, latents)
            latents, velocity = nesterov_step(
                latents.detach(), velocity, gradient, lr=self.lr, momentum=self.momentum
            )
            if self.clip is not None:
                latents = latents.clamp(-self.clip, self.clip)
        return latents

    def losses(self, victim: WhiteBoxVictim, prior: Prior, latents: Tensor, labels: Tensor) -> Tensor:
        """The objective of each item, [n], before the division by the reference batch."""
        images = prior.generate(latents, labels)
        scores = prior.realism(images)
        for step in self.image_to_target:
            images = step(images)
        return gmi_objective(scores, victim(images).logits, labels, self.identity_weight)
