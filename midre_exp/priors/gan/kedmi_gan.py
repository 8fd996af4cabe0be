"""The inversion-specific GAN of KedMI (Chen et al. 2021): losses as pure functions, and the training loop.

The discriminator has the K outputs of the target and no explicit fake class: s(x) = logsumexp of its logits
stands for "real" against a fake logit fixed at 0. The loop knows neither the networks nor where the soft
labels come from.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from midre_exp import seeding
from midre_exp.data.base import to_float
from midre_exp.errors import ConfigError
from midre_exp.plan.validate import require_counts, require_numbers
from midre_exp.priors.gan.base import Gan, GanRecipe, Shuffled
from midre_exp.priors.gan.wgan import LOG_EVERY, SAMPLES_EVERY
from midre_exp.runtime import Runtime

_SAMPLES = 64
_CHECKPOINT = "kedmi.pt"
_PASSES = (
    "labelled",
    "unlabelled",
    "unlabelled2",
)  # three orders of the public images, shuffled on their own


class Discriminator(Protocol):
    """Judges every ``group`` consecutive images as a batch of its own: features [n, d] and logits [n, k]."""

    def __call__(self, images: Tensor, group: int | None = None) -> tuple[Tensor, Tensor]:
        """Features and logits."""
        ...


@dataclass(frozen=True, kw_only=True)
class Recipe(GanRecipe):
    """How the GAN is trained.

    ``steps`` are the discriminator's, a generator step follows every ``critic_steps``-th; ``entropy_weight``
    of the summed entropy; ``group`` images share the minibatch discrimination, None for a whole batch.
    """

    critic_steps: int
    entropy_weight: float
    group: int | None

    def __post_init__(self) -> None:
        super().__post_init__()
        require_counts("attack.prior", critic_steps=self.critic_steps, group=self.group)
        require_numbers("attack.prior", entropy_weight=self.entropy_weight)


def supervised_loss(logits: Tensor, soft_labels: Tensor) -> Tensor:
    """Mean cross entropy of discriminator ``logits`` [n, k] against the target's probabilities
    ``soft_labels`` [n, k].
    """
    return F.cross_entropy(logits, soft_labels)


def unsupervised_loss(real_logits: Tensor, fake_logits: Tensor) -> Tensor:
    """Real against fake, 0.5 [mean softplus(s_real) - mean s_real + mean softplus(s_fake)], of logits [n, k]
    and [m, k].
    """
    real, fake = real_logits.logsumexp(1), fake_logits.logsumexp(1)
    return 0.5 * (F.softplus(real).mean() - real.mean() + F.softplus(fake).mean())


def discriminator_loss(
    labelled_logits: Tensor, soft_labels: Tensor, real_logits: Tensor, fake_logits: Tensor
) -> Tensor:
    """What the discriminator minimises: the supervised and the unsupervised loss."""
    return supervised_loss(labelled_logits, soft_labels) + unsupervised_loss(real_logits, fake_logits)


def feature_matching(fake_features: Tensor, real_features: Tensor) -> Tensor:
    """Mean distance of the mean features, mean_d |mean_i fake - mean_i real|, of features [n, d] and [m, d]."""
    return (fake_features.mean(0) - real_features.mean(0)).abs().mean()


def entropy(logits: Tensor) -> Tensor:
    """Entropy of the class probabilities of ``logits`` [n, k], summed over the batch as in the official code."""
    return -(logits.softmax(1) * logits.log_softmax(1)).sum()


def generator_loss(
    fake_features: Tensor, real_features: Tensor, fake_logits: Tensor, entropy_weight: float
) -> Tensor:
    """What the generator minimises: feature matching + entropy_weight * entropy, so images that one class
    claims.
    """
    return feature_matching(fake_features, real_features) + entropy_weight * entropy(fake_logits)


def train_kedmi_gan(
    generator: nn.Module,
    discriminator: nn.Module,
    images: Tensor,
    soft_labels: Tensor,
    recipe: Recipe,
    *,
    latent_dim: int,
    seed: int,
    work: Path,
    runtime: Runtime,
) -> dict[str, float]:
    """Train both networks in place, from the weights they have, on ``images`` uint8 [n, 3, h, w] and the
    target's answers [n, k].

    Returns the means of the last 100 steps. Continues from the checkpoint in ``work`` with the result of an
    unbroken run. Raises ConfigError when the images do not fill a batch or the losses stop being finite.
    """
    device = runtime.device
    images, soft_labels = images.to(device), soft_labels.to(device)
    batches = [
        Shuffled(len(images), recipe.batch_size, seed=seed, purpose=name, device=device) for name in _PASSES
    ]
    gan = Gan(generator, discriminator, lr=recipe.lr, betas=recipe.betas, ema=recipe.ema, device=device)
    saved = gan.restore(work / _CHECKPOINT)
    start = int(saved.get("step", 0))
    recent = saved.get("recent", torch.zeros(LOG_EVERY, 3)).to(device)
    shown = torch.randn(_SAMPLES, latent_dim, generator=seeding.generator(seed, "prior", "shown")).to(device)

    for step in runtime.bar(range(start, recipe.steps), "training the GAN", total=recipe.steps, done=start):
        labelled, unlabelled, unlabelled2 = (part.rows(step) for part in batches)
        draws = seeding.generator(seed, "prior", "step", step, device=device)
        latents = torch.randn(2, recipe.batch_size, latent_dim, generator=draws, device=device)
        real = to_float(images[torch.cat([labelled, unlabelled])])
        recent[step % LOG_EVERY, :2] = discriminator_step(
            gan, real, soft_labels[labelled], latents[0], group=recipe.group
        )
        done = step + 1
        if done % recipe.critic_steps == 0:
            recent[step % LOG_EVERY, 2] = generator_step(
                gan,
                to_float(images[unlabelled2]),
                latents[1],
                entropy_weight=recipe.entropy_weight,
                group=recipe.group,
            )
        else:  # the last value stands until the next generator step
            recent[step % LOG_EVERY, 2] = recent[(step - 1) % LOG_EVERY, 2]
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


def discriminator_step(
    gan: Gan, real: Tensor, soft_labels: Tensor, latents: Tensor, *, group: int | None = None
) -> Tensor:
    """Move the discriminator on float images [2n, 3, h, w], n labelled and n unlabelled; returns both losses,
    [2].
    """
    with torch.no_grad():
        fake = gan.generator(latents)
    # one pass for all three batches; they never meet, since minibatch discrimination stays within a group
    _, logits = gan.critic(torch.cat([real, fake]), group or len(latents))
    labelled, unlabelled, made = logits.chunk(3)
    losses = torch.stack([supervised_loss(labelled, soft_labels), unsupervised_loss(unlabelled, made)])
    gan.critic_step(losses.sum())
    return losses.detach()


def generator_step(
    gan: Gan, real: Tensor, latents: Tensor, *, entropy_weight: float, group: int | None = None
) -> Tensor:
    """Move the generator towards the features of float images [n, 3, h, w]; returns its loss."""
    with torch.no_grad():
        real_features, _ = gan.critic(real, group)
    features, logits = gan.critic(gan.generator(latents), group)
    loss = generator_loss(features, real_features, logits, entropy_weight)
    gan.generator_step(loss)
    return loss.detach()


def _means(recent: Tensor, done: int) -> dict[str, float]:
    """Means over the last steps. Raises ConfigError when they are not finite."""
    supervised, unsupervised, generator = recent[: min(done, LOG_EVERY)].mean(0).tolist()
    if not math.isfinite(supervised + unsupervised + generator):
        raise ConfigError(f"the GAN diverged before step {done}; lower attack.prior.lr")
    return {
        "supervised_loss": supervised,
        "unsupervised_loss": unsupervised,
        "generator_loss": generator,
    }
