"""KedMI, knowledge-enriched distributional inversion (Chen et al. 2021): a Gaussian of latents per identity,
on a GAN that knows the target.
"""

from __future__ import annotations

import torch
from torch import Tensor

from attacks.losses import real_class_prior
from attacks.parts.identity_losses import CrossEntropy, IdentityLoss
from attacks.parts.optimisers import adam_step
from midre_exp.attack import Attack, Transforms
from midre_exp.errors import ConfigError
from midre_exp.loop import Loop
from midre_exp.priors.base import Prior
from midre_exp.priors.kedmi import KedMIPrior
from midre_exp.seeding import ItemRNG
from midre_exp.threat import Threat, WhiteBoxVictim


class KedMI(Attack):
    """White box. Per identity a diagonal Gaussian N(mu, exp(log_var)) of latents, started at mu = 0, log_var
    = 1; per step one draw z and one Adam step (default betas) on

        ( softplus(s) - s + identity_weight * L_id(T, G(z), y) ) / group,    s = logsumexp D(G(z)).

    The ``restarts`` of an identity are that many draws from the one Gaussian learned. ``group`` is the
    official batch: so many identities, counted from label 0, share the discriminator's minibatch
    discrimination and the mean of the loss (to which Adam is indifferent up to its eps). ``clip`` clamps
    every z to [-clip, clip] before G, also the final draws; None: never. The identity's numbers come from the
    stream of its first restart. Raises ConfigError for settings under which nothing would be optimised.
    """

    threat = Threat.WHITE_BOX

    def __init__(
        self,
        *,
        steps: int,
        lr: float,
        identity_weight: float,
        clip: float | None,
        group: int,
        identities: int,
        restarts: int,
        identity_loss: IdentityLoss | None = None,
        image_to_target: Transforms = (),
    ):
        super().__init__(identities=identities, restarts=restarts, image_to_target=image_to_target)
        for name, value in (("steps", steps), ("group", group)):
            if value < 1:
                raise ConfigError(f"attack.{name}={value} must be at least 1")
        if clip is not None and clip <= 0:
            raise ConfigError(f"attack.clip={clip} must be positive; use null for no clamp")
        self.steps = steps
        self.lr = lr
        self.identity_weight = identity_weight
        self.clip = clip
        self.group = group
        self.identity_loss = identity_loss or CrossEntropy()

    @property
    def group_size(self) -> int:
        """All items of the identities whose images the discriminator compares with each other."""
        return self.restarts * self.group

    def invert(
        self, victim: WhiteBoxVictim, prior: Prior, labels: Tensor, rng: ItemRNG, loop: Loop
    ) -> Tensor:
        """Latents [n, latent_dim], ``restarts`` draws from the Gaussian of each identity.

        Raises ConfigError for a prior whose discriminator is not KedMI's.
        """
        if not isinstance(prior, KedMIPrior):
            raise ConfigError(
                f"attack.prior is a {type(prior).__name__}, whose critic KedMI's loss does not fit; use prior kedmi"
            )
        people, own = labels[:: self.restarts], rng[:: self.restarts]
        start = torch.tensor([[0.0], [1.0]], device=labels.device).expand(len(people), 2, prior.latent_dim)
        state = {"gaussians": start, "mean": torch.zeros_like(start), "square": torch.zeros_like(start)}
        for step in loop(self.steps, state):
            gaussians = state["gaussians"].detach().requires_grad_()
            latents = self.draw(gaussians, own.normal("draw", prior.latent_dim, step=step))
            losses = self.losses(victim, prior, latents, people, own, step)
            loop.show(loss=losses)
            (gradient,) = torch.autograd.grad(losses.sum() / self.group, gaussians)
            moments = state["mean"], state["square"]
            state["gaussians"], (state["mean"], state["square"]) = adam_step(
                gaussians.detach(), moments, gradient, step, lr=self.lr
            )
        learned = state["gaussians"].repeat_interleave(self.restarts, 0)
        return self.draw(learned, rng.normal("sample", prior.latent_dim))

    def draw(self, gaussians: Tensor, noise: Tensor) -> Tensor:
        """Latents mu + exp(log_var / 2) noise [n, d], clamped if asked, of ``gaussians`` [n, 2, d] and
        standard normal ``noise`` [n, d].
        """
        mu, log_var = gaussians.unbind(1)
        latents = mu + (0.5 * log_var).exp() * noise
        return latents if self.clip is None else latents.clamp(-self.clip, self.clip)

    def losses(
        self,
        victim: WhiteBoxVictim,
        prior: KedMIPrior,
        latents: Tensor,
        labels: Tensor,
        rng: ItemRNG,
        step: int,
    ) -> Tensor:
        """The objective of each identity, [m], before the division by the group; its prior part depends on
        the identity's group.
        """
        images = prior.generate(latents, labels)
        scores = prior.realism(images, self.group)
        for change in self.image_to_target:
            images = change(images)
        identity = self.identity_loss(victim, self.surrogates, images, labels, rng, step)
        return real_class_prior(scores) + self.identity_weight * identity
