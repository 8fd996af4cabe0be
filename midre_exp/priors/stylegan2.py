"""The StyleGAN2 prior of PPA, IF-GMI and MIRROR: published weights, or one trained on public images."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from midre_exp import seeding
from midre_exp.data.base import ImageSet, to_float
from midre_exp.data.loader import Shuffled, place_images
from midre_exp.errors import ConfigError
from midre_exp.plan.ranges import BelowOne, Count, LearningRate, Positive
from midre_exp.plan.validate import require_counts, require_numbers
from midre_exp.priors.gan.training import require_optimiser, sample_latents, train
from midre_exp.priors.style_prior import StylePrior
from midre_exp.priors.stylegan.discriminator import StyleGAN2Discriminator
from midre_exp.priors.stylegan.files import load_networks
from midre_exp.priors.stylegan.generator import StyleGAN2Generator
from midre_exp.priors.stylegan.layers import Rendering
from midre_exp.priors.stylegan.nvidia import load_pickle
from midre_exp.priors.stylegan.training import NAMES, LossOptions, StyleGAN2Training
from midre_exp.runtime import Runtime
from midre_exp.threat import AnyVictim

__all__ = ["StyleGAN2Prior", "load_pickle"]


@dataclass(kw_only=True, eq=False, repr=False)
class StyleGAN2Prior(StylePrior, LossOptions):
    """A StyleGAN2 with its discriminator (Karras et al. 2020), or the generator of a published file."""

    #: Path of NVIDIA's pickle, genforce's checkpoint (StyleGAN as well) or IF-GMI's converted weights; None:
    #: trained. With a path the networks are what the file says, and of the options only image_size, which
    #: must be the file's, and conv_clamp, which converted weights do not tell, count.
    pretrained: str | None
    image_size: Count  # px; a power of two from 8
    z_dim: Count  # numbers in a latent
    w_dim: Count  # numbers in a code
    mapping_layers: Count  # of the mapping network
    mapping_lr: LearningRate  # of the mapping network, times lr
    channel_base: Count  # channels at resolution r: channel_base / r, at most channel_max
    channel_max: Count
    conv_clamp: Positive | None  # bounds features; None: nothing does
    group_size: Count  # images that share the discriminator's minibatch deviation
    steps: Count  # each one of the generator and one of the discriminator
    batch_size: Count  # public images per step
    lr: LearningRate  # of Adam, both networks
    betas: tuple[BelowOne, BelowOne]  # of Adam, both networks
    ema: BelowOne  # decay per step of the average that replaces the generator's weights; 0: none

    def __post_init__(self) -> None:
        """Read the file or make both networks. Raises ConfigError for options that cannot be, CheckpointError
        for a file that is none of the three.
        """
        if self.pretrained is not None:
            wanted = self.image_size
            self.take(*load_networks(self.pretrained, conv_clamp=self.conv_clamp))
            if self.image_size != wanted:
                raise ConfigError(
                    f"attack.prior.image_size={wanted}, but {self.pretrained} draws {self.image_size} "
                    "pixels; "
                    f"set it to {self.image_size}"
                )
            return
        self._check()
        generator = StyleGAN2Generator(
            z_dim=self.z_dim,
            w_dim=self.w_dim,
            img_resolution=self.image_size,
            mapping_kwargs={"num_layers": self.mapping_layers, "lr_multiplier": self.mapping_lr},
            synthesis_kwargs={
                "channel_base": self.channel_base,
                "channel_max": self.channel_max,
                "conv_clamp": self.conv_clamp,
            },
        )
        discriminator = StyleGAN2Discriminator(
            img_resolution=self.image_size,
            channel_base=self.channel_base,
            channel_max=self.channel_max,
            conv_clamp=self.conv_clamp,
            epilogue_kwargs={"mbstd_group_size": self.group_size},
        )
        self.take(generator, discriminator)

    def _check(self) -> None:
        require_counts(
            "attack.prior",
            z_dim=self.z_dim,
            w_dim=self.w_dim,
            mapping_layers=self.mapping_layers,
            channel_base=self.channel_base,
            channel_max=self.channel_max,
            group_size=self.group_size,
            steps=self.steps,
            r1_every=self.r1_every,
            path_every=self.path_every,
        )
        require_optimiser(batch_size=self.batch_size, lr=self.lr, betas=self.betas, ema=self.ema)
        require_numbers("attack.prior", r1_gamma=self.r1_gamma, path_weight=self.path_weight)
        require_numbers("attack.prior", mixing=self.mixing, high=1)
        if self.batch_size % min(self.group_size, self.batch_size):
            raise ConfigError(
                f"attack.prior.batch_size={self.batch_size} does not divide into groups of "
                f"attack.prior.group_size={self.group_size}; make it a multiple"
            )
        Rendering(self.noise)  # refuses an unknown one
        if self.ada and (set(self.ada) != {"target", "images"} or not self.ada["images"] >= 1):
            raise ConfigError(
                f"attack.prior.ada={dict(self.ada)} is not usable; give target and images, at least 1, or "
                "null"
            )

    def fit(
        self,
        public: ImageSet | None,
        victim: AnyVictim | None = None,
        *,
        seed: int,
        work: Path,
        runtime: Runtime,
    ) -> dict[str, float]:
        """Train on ``public``; with ``pretrained`` there is nothing to do. Returns the final losses and what
        else is reported.
        """
        if self.pretrained is not None:
            return {}
        self.training_images(public)
        assert public is not None
        assert isinstance(self.generator, StyleGAN2Generator)
        assert self.discriminator is not None  # both made by the constructor
        device = runtime.device
        images = place_images(public, device, runtime.image_placement).images
        batches = Shuffled(len(images), self.batch_size, seed=seed, purpose="epoch", device=images.device)
        gan = StyleGAN2Training(
            self.generator,
            self.discriminator,
            self,
            lr=self.lr,
            betas=self.betas,
            ema=self.ema,
            device=device,
            numerics=runtime.numerics,
        )

        def step(number: int, previous: Tensor) -> Tensor:
            real = to_float(images[batches.rows(number)].to(device)) * 2 - 1
            return gan.step(real, seeding.generator(seed, "prior", "step", number), number)

        shown = sample_latents(self.z_dim, seed, device)
        numbers = train(
            gan,
            step,
            steps=self.steps,
            names=NAMES,
            samples=lambda: gan.samples(shown, self.batch_size),
            remedy="lower attack.prior.lr or raise attack.prior.r1_gamma",
            title="training StyleGAN2",
            work=work,
            runtime=runtime,
        )
        gan.finish(self.z_dim, seed)
        return numbers
