"""WGAN-GP (Gulrajani et al. 2017) as the GMI family trains it: losses as pure functions, and the training
loop.

It knows neither the networks nor where images come from.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from midre_exp import seeding
from midre_exp.data.base import to_float
from midre_exp.errors import ConfigError
from midre_exp.plan.validate import require_counts, require_numbers
from midre_exp.priors.gan.base import Gan, GanRecipe, Shuffled
from midre_exp.runtime import Runtime

LOG_EVERY = 100  #: critic steps between reports: the only moments the host waits for the device
SAMPLES_EVERY = 2000  #: critic steps between sample grids
_SAMPLES = 64
_CHECKPOINT = "wgan.pt"


@dataclass(frozen=True, kw_only=True)
class Recipe(GanRecipe):
    """How a WGAN-GP is trained.

    ``steps`` are the critic's, a generator step follows every ``critic_steps``-th; the gradient penalty comes
    at every ``gp_every``-th critic step with ``gp_every`` times its weight, which is the same on average.
    """

    critic_steps: int
    gp_weight: float
    gp_every: int

    def __post_init__(self) -> None:
        super().__post_init__()
        require_counts("attack.prior", critic_steps=self.critic_steps, gp_every=self.gp_every)
        require_numbers("attack.prior", gp_weight=self.gp_weight)


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


def train_wgan(
    generator: nn.Module,
    critic: nn.Module,
    images: Tensor,
    recipe: Recipe,
    *,
    latent_dim: int,
    seed: int,
    work: Path,
    runtime: Runtime,
) -> dict[str, float]:
    """Train both networks in place, from the weights they have, on ``images`` uint8 [n, 3, h, w].

    Returns the means of the last 100 steps. Continues from the checkpoint in ``work`` with the result of an
    unbroken run. Raises ConfigError when the images do not fill a batch or the losses stop being finite.
    """
    device = runtime.device
    images = images.to(device)
    batches = Shuffled(len(images), recipe.batch_size, seed=seed, purpose="epoch", device=device)
    gan = Gan(generator, critic, lr=recipe.lr, betas=recipe.betas, ema=recipe.ema, device=device)
    saved = gan.restore(work / _CHECKPOINT)
    start = int(saved.get("step", 0))
    recent = saved.get("recent", torch.zeros(LOG_EVERY, 2)).to(device)
    shown = torch.randn(_SAMPLES, latent_dim, generator=seeding.generator(seed, "prior", "shown")).to(device)

    for step in runtime.bar(range(start, recipe.steps), "training the GAN", total=recipe.steps, done=start):
        real = to_float(images[batches.rows(step)])
        draws = seeding.generator(seed, "prior", "step", step, device=device)
        latents = torch.randn(2, len(real), latent_dim, generator=draws, device=device)
        alpha = torch.rand(len(real), 1, 1, 1, generator=draws, device=device)
        recent[step % LOG_EVERY] = critic_step(
            gan, real, latents[0], alpha, gp_weight=recipe.gp_weight, gp_every=recipe.gp_every, step=step
        )
        done = step + 1
        if done % recipe.critic_steps == 0:
            gan.generator_step(generator_loss(critic(generator(latents[1]))))
        if done % LOG_EVERY == 0:
            runtime.tracker.log(_means(recent, done), done)
        if done % SAMPLES_EVERY == 0:
            with torch.no_grad():
                runtime.tracker.images("samples", generator.eval()(shown), done)
            generator.train()
        if done % runtime.checkpoint_every == 0:
            gan.save(work / _CHECKPOINT, step=done, recent=recent)
    gan.finish(latent_dim, seed)
    return _means(recent, recipe.steps)


def critic_step(
    gan: Gan, real: Tensor, latents: Tensor, alpha: Tensor, *, gp_weight: float, gp_every: int, step: int
) -> Tensor:
    """Move the critic on a batch of float images; returns the distance estimate and the penalty, [2]."""
    with torch.no_grad():
        fake = gan.generator(latents)
    scores = gan.critic(torch.cat([real, fake]))  # no layer mixes images, so one pass serves both
    real_scores, fake_scores = scores.chunk(2)
    penalty = scores.new_zeros(())
    if step % gp_every == 0:
        penalty = gp_every * gradient_penalty(gan.critic, real, fake, alpha)
    gan.critic_step(critic_loss(real_scores, fake_scores, penalty, gp_weight))
    return torch.stack([wasserstein(real_scores, fake_scores), penalty]).detach()


def _means(recent: Tensor, done: int) -> dict[str, float]:
    """Means over the last steps. Raises ConfigError when they are not finite."""
    distance, penalty = recent[: min(done, LOG_EVERY)].mean(0).tolist()
    if not math.isfinite(distance + penalty):
        raise ConfigError(
            f"the GAN diverged before step {done}; lower attack.prior.lr or raise attack.prior.gp_weight"
        )
    return {"wasserstein": distance, "gradient_penalty": penalty}
