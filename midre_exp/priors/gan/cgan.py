"""A class-conditional GAN with hinge losses (Miyato and Koyama 2018) whose generator has one more loss to
please: PLG-MI's training loop.

It knows neither the networks nor the target nor where images come from.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import update_bn

from midre_exp import seeding
from midre_exp.data.base import to_float
from midre_exp.data.transforms.view import NUMBERS
from midre_exp.errors import ConfigError
from midre_exp.plan.validate import require_counts, require_numbers
from midre_exp.priors.gan.base import Gan, GanRecipe, Shuffled
from midre_exp.runtime import Runtime

LOG_EVERY = 100  #: steps between reports: the only moments the host waits for the device
SAMPLES_EVERY = 2000  #: steps between sample grids
_SAMPLES = 64
_CALIBRATION = (40, 64)  # batches x images that give averaged weights their batch-norm statistics
_CHECKPOINT = "cgan.pt"

#: Images, labels and uniform numbers [n, NUMBERS] to a loss per image and whether the target takes it for its
#: label, both [n].
Identity = Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]


@dataclass(frozen=True, kw_only=True)
class Recipe(GanRecipe):
    """How the GAN is trained: each of the ``steps`` is one of the generator and then ``discriminator_steps``
    of the discriminator; ``identity_weight`` of the further loss.
    """

    discriminator_steps: int
    identity_weight: float

    def __post_init__(self) -> None:
        super().__post_init__()
        require_counts("attack.prior", steps=self.steps, discriminator_steps=self.discriminator_steps)
        require_numbers("attack.prior", identity_weight=self.identity_weight)


def hinge_discriminator(real_scores: Tensor, fake_scores: Tensor) -> Tensor:
    """What the discriminator minimises: mean relu(1 - D(x, y)) + mean relu(1 + D(G(z, y'), y'))."""
    return (1 - real_scores).relu().mean() + (1 + fake_scores).relu().mean()


def hinge_generator(fake_scores: Tensor) -> Tensor:
    """What the generator minimises against the discriminator: -mean D(G(z, y), y)."""
    return -fake_scores.mean()


def train_cgan(
    generator: nn.Module,
    discriminator: nn.Module,
    images: Tensor,
    labels: Tensor,
    recipe: Recipe,
    identity: Identity,
    *,
    latent_dim: int,
    seed: int,
    work: Path,
    runtime: Runtime,
) -> dict[str, float]:
    """Train both networks in place, from the weights they have, on ``images`` uint8 [n, 3, h, w] of classes
    ``labels`` int64 [n].

    The generator draws people of all classes alike often. Returns the means of the last 100 steps. Continues
    from the checkpoint in ``work`` with the result of an unbroken run. Raises ConfigError when the images do
    not fill a batch or the losses stop being finite.
    """
    device = runtime.device
    images, labels = images.to(device), labels.to(device)
    classes = int(labels.max()) + 1
    batches = Shuffled(len(images), recipe.batch_size, seed=seed, purpose="epoch", device=device)
    gan = ConditionalGan(
        generator, discriminator, lr=recipe.lr, betas=recipe.betas, ema=recipe.ema, device=device
    )
    saved = gan.restore(work / _CHECKPOINT)
    start, total = int(saved.get("step", 0)), recipe.steps
    recent = saved.get("recent", torch.zeros(LOG_EVERY, 4)).to(device)
    shown = torch.randn(_SAMPLES, latent_dim, generator=seeding.generator(seed, "prior", "shown")).to(device)

    for step in runtime.bar(range(start, total), "training the conditional GAN", total=total, done=start):
        draws = seeding.generator(seed, "prior", "step", step, device=device)
        count, size = recipe.discriminator_steps + 1, recipe.batch_size
        latents = torch.randn(count, size, latent_dim, generator=draws, device=device)
        wanted = torch.randint(classes, (count, size), generator=draws, device=device)
        numbers = torch.rand(size, NUMBERS, generator=draws, device=device)
        made = generator_step(gan, latents[0], wanted[0], numbers, identity, recipe.identity_weight)
        losses = []
        for turn in range(1, count):
            rows = batches.rows(step * recipe.discriminator_steps + turn - 1)
            real = to_float(images[rows])
            # 8-bit images made continuous: noise of one grey level, never beyond white by more than that
            real += torch.rand(real.shape, generator=draws, device=device) / 256
            losses.append(discriminator_step(gan, real, labels[rows], latents[turn], wanted[turn]))
        recent[step % LOG_EVERY] = torch.cat((torch.stack(losses).mean(0, keepdim=True), made))
        done = step + 1
        if done % LOG_EVERY == 0:
            runtime.tracker.log(_means(recent, done), done)
        if done % SAMPLES_EVERY == 0:
            with torch.no_grad():
                grid = generator.eval()(shown, torch.arange(_SAMPLES, device=device) % classes)
            runtime.tracker.images("samples", grid.clamp(0, 1), done)
            generator.train()
        if done % runtime.checkpoint_every == 0:
            gan.save(work / _CHECKPOINT, step=done, recent=recent)
    gan.calibrate(latent_dim, classes, seed)
    return _means(recent, total)


def generator_step(
    gan: Gan, latents: Tensor, labels: Tensor, numbers: Tensor, identity: Identity, weight: float
) -> Tensor:
    """Move the generator; returns its hinge loss, its identity loss and the share taken for their label, [3]."""
    fake = gan.generator(latents, labels)
    hinge = hinge_generator(gan.critic(fake, labels))
    losses, taken = identity(fake, labels, numbers)
    gan.generator_step(hinge + weight * losses.mean())
    return torch.stack((hinge, losses.mean(), taken.float().mean())).detach()


def discriminator_step(
    gan: Gan, real: Tensor, real_labels: Tensor, latents: Tensor, fake_labels: Tensor
) -> Tensor:
    """Move the discriminator on float images and as many generated ones; returns its loss."""
    with torch.no_grad():
        fake = gan.generator(latents, fake_labels)
    # No layer mixes images, so one pass serves both; the official two passes refresh the spectral norms twice
    # as often.
    scores = gan.critic(torch.cat((real, fake)), torch.cat((real_labels, fake_labels)))
    loss = hinge_discriminator(*scores.chunk(2))
    gan.critic_step(loss)
    return loss.detach()


class ConditionalGan(Gan):
    """A ``Gan`` whose generator takes latents and labels."""

    def calibrate(self, latent_dim: int, classes: int, seed: int) -> None:
        """Put the averaged weights, if any, into the generator, with batch-norm statistics of their own from
        latents and labels drawn as in training, and both networks into eval mode.
        """
        if self.ema:
            self.generator.load_state_dict(self.average.state_dict())
            draws = seeding.generator(seed, "prior", "calibration", device=self.device)
            latents = torch.randn(*_CALIBRATION, latent_dim, generator=draws, device=self.device)
            labels = torch.randint(classes, _CALIBRATION, generator=draws, device=self.device)
            pairs = [{"latents": z, "labels": y} for z, y in zip(latents, labels, strict=True)]
            update_bn(pairs, _OfPair(self.generator))
        self.generator.eval()
        self.critic.eval()


class _OfPair(nn.Module):
    """A generator as a function of one argument, which is all that ``update_bn`` passes on."""

    def __init__(self, generator: nn.Module):
        super().__init__()
        self.generator = generator

    def forward(self, pair: dict[str, Tensor]) -> Any:
        return self.generator(pair["latents"], pair["labels"])


def _means(recent: Tensor, done: int) -> dict[str, float]:
    """Means over the last steps. Raises ConfigError when they are not finite."""
    names = ("discriminator_loss", "generator_loss", "identity_loss", "taken_for_label")
    means = dict(zip(names, recent[: min(done, LOG_EVERY)].mean(0).tolist(), strict=True))
    if not all(map(math.isfinite, means.values())):
        raise ConfigError(f"the GAN diverged before step {done}; lower attack.prior.lr")
    return means
