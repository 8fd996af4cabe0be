"""How a StyleGAN2 is trained (Karras et al. 2020, "Analyzing and Improving the Image Quality of StyleGAN",
Appendix B).

It knows neither the sizes of the networks nor where images come from.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from midre_exp import seeding
from midre_exp.data.base import ImageSet, to_float
from midre_exp.data.loader import place_images
from midre_exp.errors import ConfigError
from midre_exp.plan.validate import require_counts, require_numbers
from midre_exp.priors.gan.base import Gan, GanRecipe, Shuffled
from midre_exp.priors.stylegan.ada import adapted, augment
from midre_exp.priors.stylegan.discriminator import Discriminator
from midre_exp.priors.stylegan.generator import Generator
from midre_exp.priors.stylegan.losses import (
    discriminator_loss,
    generator_loss,
    mixed,
    path_lengths,
    squared_gradients,
)
from midre_exp.runtime import Runtime

LOG_EVERY = 100  #: steps between reports: the only moments the host waits for the device
SAMPLES_EVERY = 2000  #: steps between sample grids
ADAPT_EVERY = 4  #: steps between changes of the augmentation's strength (official)
_SAMPLES = 64
_CHECKPOINT = "stylegan2.pt"
_W_AVG_KEPT = 0.995  # of the mean code at each step (official)
_PATH_MOVED = 0.01  # of the mean path length towards that of a batch (official)
_NUMBERS = ("generator_loss", "discriminator_loss", "r1", "real_sign", "augmented", "path_length")


@dataclass(frozen=True, kw_only=True)
class Ada:
    """Adaptive augmentation: ``target`` share of positive signs, and ``images`` that take its probability
    from 0 to 1.
    """

    target: float
    images: int


@dataclass(frozen=True, kw_only=True)
class Recipe(GanRecipe):
    """How a StyleGAN2 is trained.

    Each of the ``steps`` is one of the generator and one of the discriminator; R1 with ``r1_gamma`` in a step
    of its own at every ``r1_every``-th, path lengths with ``path_weight`` likewise at every ``path_every``-th
    (0: never); ``mixing``: probability that an image has two codes; ``noise``: of the generator while it is
    trained, as in ``Rendering``; ``mirror``: real images are mirrored at random.
    """

    r1_gamma: float
    r1_every: int
    path_weight: float
    path_every: int
    mixing: float
    noise: str
    mirror: bool
    ada: Ada | None

    def __post_init__(self) -> None:
        super().__post_init__()
        require_counts("attack.prior", steps=self.steps, r1_every=self.r1_every, path_every=self.path_every)
        require_numbers("attack.prior", r1_gamma=self.r1_gamma, path_weight=self.path_weight)
        require_numbers("attack.prior", mixing=self.mixing, high=1)


class StyleGan(Gan):
    """A ``Gan`` of a StyleGAN2's networks, with what its losses remember: mean path length and strength of
    the augmentation.

    Regularisers take steps of their own at every n-th step only; Adam's rate and decays are made up for the n
    + 1 steps instead of n.
    """

    generator: Generator
    average: Generator

    def __init__(
        self, generator: Generator, discriminator: Discriminator, recipe: Recipe, device: torch.device
    ):
        super().__init__(
            generator, discriminator, lr=recipe.lr, betas=recipe.betas, ema=recipe.ema, device=device
        )
        self.recipe = recipe
        self.path_mean, self.strength, self.signs = torch.zeros(3, device=device)
        if recipe.path_weight:
            _make_up_for(self.generator_adam, recipe.path_every)
        if recipe.r1_gamma:
            _make_up_for(self.critic_adam, recipe.r1_every)

    def averaged(self, generator: nn.Module) -> list[Tensor]:
        """Parameters and the mean code."""
        assert isinstance(generator, Generator)
        return [*super().averaged(generator), generator.mapping.w_avg]

    def step(self, real: Tensor, draws: torch.Generator, number: int) -> Tensor:
        """Move both networks on images [n, 3, s, s] in [-1, 1]; returns what is reported, in the order of the
        reports.
        """
        recipe = self.recipe
        if recipe.path_weight and number % recipe.path_every == 0:
            self._regularise_generator(max(1, len(real) // 2), draws)  # half a batch, as official
        codes = self._codes(len(real), draws, remember=True)
        loss = generator_loss(self.critic(self._seen(self._images(codes, draws), draws)))
        self.generator_step(loss)
        if recipe.mirror:
            mirrored = torch.rand(len(real), 1, 1, 1, generator=draws, device=self.device) < 0.5
            real = torch.where(mirrored, real.flip(3), real)
        judged, sign = self._discriminate(real, draws)
        penalty = real.new_zeros(())
        if recipe.r1_gamma and number % recipe.r1_every == 0:
            penalty = self._regularise_discriminator(real, draws)
        if recipe.ada:
            self._adapt(sign, recipe.ada, number, len(real))
        return torch.stack(
            (loss.detach(), judged, penalty * recipe.r1_every, sign, self.strength, self.path_mean)
        )

    def _codes(self, n: int, draws: torch.Generator, *, remember: bool = False) -> Tensor:
        mapping = self.generator.mapping
        z = torch.randn(2, n, mapping.z_dim, generator=draws, device=self.device)
        codes: Tensor = mapping(z[0])
        if remember:
            with torch.no_grad():
                mapping.w_avg.lerp_(codes[:, 0].mean(0), 1 - _W_AVG_KEPT)
        if self.recipe.mixing:
            codes = mixed(codes, mapping(z[1]), self.recipe.mixing, draws)
        return codes

    def _images(self, codes: Tensor, draws: torch.Generator) -> Tensor:
        images: Tensor = self.generator.synthesis(codes, noise_mode=self.recipe.noise, generator=draws)
        return images

    def _seen(self, images: Tensor, draws: torch.Generator) -> Tensor:
        """The images as the discriminator sees them."""
        return augment(images, self.strength, draws) if self.recipe.ada else images

    def _discriminate(self, real: Tensor, draws: torch.Generator) -> tuple[Tensor, Tensor]:
        """Move the discriminator; returns its loss and the mean sign of its scores of real images."""
        with torch.no_grad():
            fake = self._images(self._codes(len(real), draws), draws)
        # two passes: in one, real and fake would share the groups of the minibatch deviation
        fake_scores = self.critic(self._seen(fake, draws))
        real_scores = self.critic(self._seen(real, draws))
        loss = discriminator_loss(real_scores, fake_scores)
        self.critic_step(loss)
        return loss.detach(), real_scores.detach().sign().mean()

    def _regularise_discriminator(self, real: Tensor, draws: torch.Generator) -> Tensor:
        recipe, images = self.recipe, real.detach().requires_grad_()
        penalty = squared_gradients(self.critic(self._seen(images, draws)), images).mean()
        self.critic_step(recipe.r1_gamma / 2 * recipe.r1_every * penalty)
        return penalty.detach()

    def _regularise_generator(self, n: int, draws: torch.Generator) -> None:
        recipe, codes = self.recipe, self._codes(n, draws)
        images = self._images(codes, draws)
        noise = torch.randn(images.shape, generator=draws, device=self.device)
        lengths = path_lengths(images, codes, noise)
        self.path_mean = self.path_mean.lerp(lengths.detach().mean(), _PATH_MOVED)
        penalty = (lengths - self.path_mean).square().mean()
        self.move_generator(recipe.path_weight * recipe.path_every * penalty)

    def _adapt(self, sign: Tensor, ada: Ada, number: int, n: int) -> None:
        self.signs = self.signs + sign
        if (number + 1) % ADAPT_EVERY == 0:
            sign, images = self.signs / ADAPT_EVERY, n * ADAPT_EVERY
            self.strength = adapted(self.strength, sign, target=ada.target, images=images, full=ada.images)
            self.signs = torch.zeros_like(self.signs)


def _make_up_for(adam: torch.optim.Adam, every: int) -> None:
    """Rate and decays of an optimiser that makes ``every`` + 1 steps where it would make ``every``."""
    share = every / (every + 1)
    for group in adam.param_groups:
        group["lr"] *= share
        group["betas"] = tuple(beta**share for beta in group["betas"])


def train_stylegan2(
    generator: Generator,
    discriminator: Discriminator,
    public: ImageSet,
    recipe: Recipe,
    *,
    seed: int,
    work: Path,
    runtime: Runtime,
) -> dict[str, float]:
    """Train both networks in place, from the weights they have, on the images of ``public``.

    Returns the means of the last 100 steps. Continues from the checkpoint in ``work`` with the result of an
    unbroken run. Raises ConfigError when the images do not fill a batch or the losses stop being finite.
    """
    device, total = runtime.device, recipe.steps
    images = place_images(public, device, runtime.image_placement).images
    batches = Shuffled(len(images), recipe.batch_size, seed=seed, purpose="epoch", device=images.device)
    gan = StyleGan(generator, discriminator, recipe, device)
    saved = gan.restore(work / _CHECKPOINT)
    start = int(saved.get("step", 0))
    recent = saved.get("recent", torch.zeros(LOG_EVERY, len(_NUMBERS))).to(device)
    if saved:
        gan.path_mean, gan.strength, gan.signs = saved["remembered"].to(device)
    shown = torch.randn(_SAMPLES, generator.z_dim, generator=seeding.generator(seed, "prior", "shown"))

    for step in runtime.bar(range(start, total), "training StyleGAN2", total=total, done=start):
        real = to_float(images[batches.rows(step)].to(device)) * 2 - 1
        draws = seeding.generator(seed, "prior", "step", step, device=device)
        recent[step % LOG_EVERY] = gan.step(real, draws, step)
        done = step + 1
        if done % LOG_EVERY == 0:
            runtime.tracker.log(_means(recent, done), done)
        if done % SAMPLES_EVERY == 0:
            runtime.tracker.images("samples", _samples(gan, shown, recipe.batch_size), done)
        if done % runtime.checkpoint_every == 0:
            remembered = torch.stack((gan.path_mean, gan.strength, gan.signs))
            gan.save(work / _CHECKPOINT, step=done, recent=recent, remembered=remembered)
    gan.finish(generator.z_dim, seed)
    return _means(recent, total)


@torch.no_grad()
def _samples(gan: StyleGan, latents: Tensor, at_once: int) -> Tensor:
    """What the prior would draw by now, in [0, 1]."""
    network = gan.average if gan.ema else gan.generator
    images = torch.cat([network(z.to(gan.device)) for z in latents.split(at_once)])
    return ((images + 1) / 2).clamp(0, 1)


def _means(recent: Tensor, done: int) -> dict[str, float]:
    """Means over the last steps. Raises ConfigError when they are not finite."""
    means = dict(zip(_NUMBERS, recent[: min(done, LOG_EVERY)].mean(0).tolist(), strict=True))
    if not all(map(math.isfinite, means.values())):
        raise ConfigError(
            f"the GAN diverged before step {done}; lower attack.prior.lr or raise attack.prior.r1_gamma"
        )
    return means
