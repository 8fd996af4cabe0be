"""PLG-MI's class-conditional GAN with hinge losses (Miyato and Koyama 2018): its losses, and one step of each
network. The generator has one more loss to please, the target's on what it generates.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from midre_exp.priors.gan.training import GanTraining

#: Images, labels and uniform numbers [n, NUMBERS] to a loss per image and whether the target takes it for its
#: label, both [n].
IdentityLoss = Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]


def hinge_discriminator(real_scores: Tensor, fake_scores: Tensor) -> Tensor:
    """What the discriminator minimises: mean relu(1 - D(x, y)) + mean relu(1 + D(G(z, y'), y'))."""
    return (1 - real_scores).relu().mean() + (1 + fake_scores).relu().mean()


def hinge_generator(fake_scores: Tensor) -> Tensor:
    """What the generator minimises against the discriminator: -mean D(G(z, y), y)."""
    return -fake_scores.mean()


def generator_step(
    gan: GanTraining, latents: Tensor, labels: Tensor, numbers: Tensor, identity: IdentityLoss, weight: float
) -> Tensor:
    """Move the generator; returns its hinge loss, its identity loss and the share taken for their label,
    [3].
    """
    fake = gan.generate(latents, labels)
    hinge = hinge_generator(gan.judge(fake, labels))
    losses, taken = identity(fake, labels, numbers)
    gan.generator_step(hinge + weight * losses.mean())
    return torch.stack((hinge, losses.mean(), taken.float().mean())).detach()


def discriminator_step(
    gan: GanTraining, real: Tensor, real_labels: Tensor, latents: Tensor, fake_labels: Tensor
) -> Tensor:
    """Move the discriminator on float images and as many generated ones; returns its loss."""
    with torch.no_grad():
        fake = gan.generate(latents, fake_labels)
    # No layer mixes images, but every pass refreshes the spectral norms: two as officially, generated ones
    # first. Of one pass for both, a discriminator moved by a quarter of its way to elsewhere in 20 steps.
    fake_scores = gan.judge(fake, fake_labels)
    loss = hinge_discriminator(gan.judge(real, real_labels), fake_scores)
    gan.critic_step(loss)
    return loss.detach()
