"""WGAN-GP (Gulrajani et al. 2017) as the GMI family trains it: its losses, and one step of the critic."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from midre_exp.priors.gan.training import GanTraining


def wasserstein(real_scores: Tensor, fake_scores: Tensor) -> Tensor:
    """The critic's estimate of the distance of fake from real, mean D(x) - mean D(G(z)), of scores [n] and
    [m].
    """
    return real_scores.mean() - fake_scores.mean()


def gradient_norms(critic: Callable[[Tensor], Tensor], images: Tensor) -> Tensor:
    """L2 norm [n] of the gradient of each score by its image; differentiable in the critic's weights."""
    images = images.detach().requires_grad_()
    (gradient,) = torch.autograd.grad(critic(images).sum(), images, create_graph=True)
    norms: Tensor = torch.linalg.vector_norm(gradient.flatten(1), dim=1)
    return norms


def gradient_penalty(critic: Callable[[Tensor], Tensor], real: Tensor, fake: Tensor, alpha: Tensor) -> Tensor:
    """Mean of (gradient norm - 1)^2 at real + alpha (fake - real): a scalar.

    ``alpha`` in [0, 1], one number per image, [n, 1, 1, 1].
    """
    return (gradient_norms(critic, real + alpha * (fake - real)) - 1).square().mean()


def critic_loss(real_scores: Tensor, fake_scores: Tensor, penalty: Tensor, gp_weight: float) -> Tensor:
    """What the critic minimises: -(mean D(x) - mean D(G(z))) + gp_weight * penalty."""
    return gp_weight * penalty - wasserstein(real_scores, fake_scores)


def generator_loss(fake_scores: Tensor) -> Tensor:
    """What the generator minimises: -mean D(G(z))."""
    return -fake_scores.mean()


def critic_step(
    gan: GanTraining,
    real: Tensor,
    latents: Tensor,
    alpha: Tensor,
    *,
    gp_weight: float,
    gp_every: int,
    step: int,
) -> Tensor:
    """Move the critic on a batch of float images; returns the distance estimate and the penalty, [2].

    The gradient penalty comes at every ``gp_every``-th ``step`` with ``gp_every`` times its weight, which is
    the same on average.
    """
    with torch.no_grad():
        fake = gan.generate(latents)
    scores = gan.judge(torch.cat([real, fake]))  # no layer mixes images, so one pass serves both
    real_scores, fake_scores = scores.chunk(2)
    penalty = scores.new_zeros(())
    if step % gp_every == 0:
        penalty = gp_every * gradient_penalty(gan.critic, real, fake, alpha)
    gan.critic_step(critic_loss(real_scores, fake_scores, penalty, gp_weight))
    return torch.stack([wasserstein(real_scores, fake_scores), penalty]).detach()
