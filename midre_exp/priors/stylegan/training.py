"""How a StyleGAN2 is trained (Karras et al. 2020, "Analyzing and Improving the Image Quality of StyleGAN",
Appendix B).

It knows neither the sizes of the networks nor where images come from.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from midre_exp import seeding
from midre_exp.numerics import Numerics
from midre_exp.plan.ranges import Count, NonNegative, Probability
from midre_exp.priors.gan.training import GanTraining
from midre_exp.priors.stylegan.ada import adapted, augment
from midre_exp.priors.stylegan.discriminator import StyleGAN2Discriminator
from midre_exp.priors.stylegan.generator import StyleGAN2Generator
from midre_exp.priors.stylegan.losses import (
    discriminator_loss,
    generator_loss,
    mixed,
    path_lengths,
    squared_gradients,
)
from midre_exp.weights.checkpointer import State

ADAPT_EVERY = 4  #: steps between changes of the augmentation's strength (official)
#: What ``StyleGAN2Training.step`` returns, in this order.
NAMES = ("generator_loss", "discriminator_loss", "r1", "real_sign", "augmented", "path_length")
_W_AVG_DECAY = 0.995  # of the mean code, per step (official)
_PATH_MEAN_SHARE = 0.01  # of a batch's path length in the mean path length (official)


@dataclass(kw_only=True, eq=False, repr=False)
class LossOptions:
    """What a StyleGAN2 descends besides the non-saturating loss, and what its networks are shown."""

    r1_gamma: NonNegative  # of half the squared gradient of the discriminator at real images; 0: none
    r1_every: Count  # R1 takes a step of its own at every n-th, times n
    path_weight: NonNegative  # of path length regularisation; 0: none
    path_every: Count  # path lengths take a step of their own at every n-th, times n
    mixing: Probability  # probability that an image has two codes
    noise: str  # in the generator while it is trained: random, const (that of all later images) or none
    mirror: bool  # real images are mirrored at random
    #: Adaptive augmentation of what the discriminator is shown (Karras et al. 2020, "Training GANs with
    #: Limited Data"), None for none: target, the share of positive signs of the scores of real images above
    #: which there is more of it; images, that take its probability from 0 to 1.
    ada: Mapping[str, float] | None


class StyleGAN2Training(GanTraining):
    """The two networks in training, with what their losses remember: the mean path length and the strength of
    the augmentation.

    Regularisers take steps of their own at every n-th step only; Adam's rate and decays are made up for the n
    + 1 steps instead of n.
    """

    generator: StyleGAN2Generator
    average: StyleGAN2Generator

    def __init__(
        self,
        generator: StyleGAN2Generator,
        discriminator: StyleGAN2Discriminator,
        losses: LossOptions,
        *,
        lr: float,
        betas: Sequence[float],
        ema: float,
        device: torch.device,
        numerics: Numerics | None = None,
    ):
        numerics = numerics or Numerics()
        super().__init__(
            generator, discriminator, lr=lr, betas=betas, ema=ema, device=device, numerics=numerics
        )
        self.synthesise = numerics.call(generator.synthesis)  # codes are made in full precision
        self.losses = losses
        self.path_mean, self.strength, self.signs = torch.zeros(3, device=device)
        if losses.path_weight:
            _make_up_for(self.generator_adam, losses.path_every)
        if losses.r1_gamma:
            _make_up_for(self.critic_adam, losses.r1_every)

    def state(self) -> State:
        """As of any GAN, with what the losses remember."""
        return {**super().state(), "remembered": torch.stack((self.path_mean, self.strength, self.signs))}

    def restore(self, saved: State) -> None:
        """As of any GAN, with what the losses remember."""
        super().restore(saved)
        self.path_mean, self.strength, self.signs = saved["remembered"].to(self.device)

    def averaged(self, generator: nn.Module) -> list[Tensor]:
        """Parameters and the mean code."""
        assert isinstance(generator, StyleGAN2Generator)
        return [*super().averaged(generator), generator.mapping.w_avg]

    def step(self, real: Tensor, draws: torch.Generator, number: int) -> Tensor:
        """Move both networks on images [n, 3, s, s] in [-1, 1]; returns what is reported, in the order of the
        reports.
        """
        losses = self.losses
        if losses.path_weight and number % losses.path_every == 0:
            self._regularise_generator(max(1, len(real) // 2), draws)  # half a batch, as official
        codes = self._codes(len(real), draws, remember=True)
        loss = generator_loss(self.judge(self._seen(self._images(codes, draws), draws)))
        self.generator_step(loss)
        if losses.mirror:
            mirrored = seeding.uniform(draws, len(real), 1, 1, 1, device=self.device) < 0.5
            real = torch.where(mirrored, real.flip(3), real)
        critic_loss, sign = self._discriminate(real, draws)
        penalty = real.new_zeros(())
        if losses.r1_gamma and number % losses.r1_every == 0:
            penalty = self._regularise_discriminator(real, draws)
        if losses.ada:
            self._adapt(sign, losses.ada, number, len(real))
        return torch.stack(
            (loss.detach(), critic_loss, penalty * losses.r1_every, sign, self.strength, self.path_mean)
        )

    def _codes(self, n: int, draws: torch.Generator, *, remember: bool = False) -> Tensor:
        mapping = self.generator.mapping
        z = seeding.normal(draws, 2, n, mapping.z_dim, device=self.device)
        codes: Tensor = mapping(z[0])
        if remember:
            with torch.no_grad():
                mapping.w_avg.lerp_(codes[:, 0].mean(0), 1 - _W_AVG_DECAY)
        if self.losses.mixing:
            codes = mixed(codes, mapping(z[1]), self.losses.mixing, draws)
        return codes

    def _images(self, codes: Tensor, draws: torch.Generator, *, exact: bool = False) -> Tensor:
        """``exact``: in full precision, for gradients of gradients."""
        synthesis = self.generator.synthesis if exact else self.synthesise
        images: Tensor = synthesis(codes, noise_mode=self.losses.noise, generator=draws)
        return images

    def _seen(self, images: Tensor, draws: torch.Generator) -> Tensor:
        """The images as the discriminator sees them."""
        return augment(images, self.strength, draws) if self.losses.ada else images

    def _discriminate(self, real: Tensor, draws: torch.Generator) -> tuple[Tensor, Tensor]:
        """Move the discriminator; returns its loss and the mean sign of its scores of real images."""
        with torch.no_grad():
            fake = self._images(self._codes(len(real), draws), draws)
        # two passes: in one, real and fake would share the groups of the minibatch deviation
        fake_scores = self.judge(self._seen(fake, draws))
        real_scores = self.judge(self._seen(real, draws))
        loss = discriminator_loss(real_scores, fake_scores)
        self.critic_step(loss)
        return loss.detach(), real_scores.detach().sign().mean()

    def _regularise_discriminator(self, real: Tensor, draws: torch.Generator) -> Tensor:
        losses, images = self.losses, real.detach().requires_grad_()
        penalty = squared_gradients(self.critic(self._seen(images, draws)), images).mean()
        self.critic_step(losses.r1_gamma / 2 * losses.r1_every * penalty)
        return penalty.detach()

    def _regularise_generator(self, n: int, draws: torch.Generator) -> None:
        losses, codes = self.losses, self._codes(n, draws)
        images = self._images(codes, draws, exact=True)
        noise = seeding.normal(draws, *images.shape, device=self.device)
        lengths = path_lengths(images, codes, noise)
        self.path_mean = self.path_mean.lerp(lengths.detach().mean(), _PATH_MEAN_SHARE)
        penalty = (lengths - self.path_mean).square().mean()
        self.move_generator(losses.path_weight * losses.path_every * penalty)

    def _adapt(self, sign: Tensor, ada: Mapping[str, float], number: int, n: int) -> None:
        self.signs = self.signs + sign
        if (number + 1) % ADAPT_EVERY == 0:
            sign, images = self.signs / ADAPT_EVERY, n * ADAPT_EVERY
            self.strength = adapted(
                self.strength, sign, target=ada["target"], images=images, full=ada["images"]
            )
            self.signs = torch.zeros_like(self.signs)

    @torch.no_grad()
    def samples(self, latents: Tensor, batch_size: int) -> Tensor:
        """What the prior would generate by now of ``latents`` [n, z_dim], in [0, 1]."""
        network = self.average if self.ema else self.generator
        images = torch.cat([network(z.to(self.device)) for z in latents.split(batch_size)])
        return ((images + 1) / 2).clamp(0, 1)


def _make_up_for(adam: torch.optim.Adam, every: int) -> None:
    """Rate and decays of an optimiser that makes ``every`` + 1 steps where it would make ``every``."""
    share = every / (every + 1)
    for group in adam.param_groups:
        group["lr"] *= share
        group["betas"] = tuple(beta**share for beta in group["betas"])
