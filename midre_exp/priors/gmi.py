"""The GAN prior of GMI (Zhang et al. 2020), also the general GAN of the KedMI, LOMMA and PLG-MI benchmarks.

Two small convolutional networks in the official layout, and the prior that trains them on public images.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from torch import Tensor, nn

from midre_exp.data.base import ImageSet
from midre_exp.errors import ConfigError
from midre_exp.plan.validate import require_counts
from midre_exp.priors.base import Prior, needed
from midre_exp.priors.gan.wgan import Recipe, train_wgan
from midre_exp.runtime import Runtime
from midre_exp.threat import LabelVictim, ScoreVictim, WhiteBoxVictim
from midre_exp.weights.state_dict import load_checkpoint


def _halvings(image_size: int) -> int:
    """How often ``image_size`` is halved to reach 4 pixels.

    Raises ConfigError unless it is a power of two of at least 16.
    """
    halvings = image_size.bit_length() - 3
    if image_size != 4 << max(halvings, 0) or halvings < 2:
        raise ConfigError(
            f"attack.prior.image_size={image_size} is not supported; use a power of two of at least 16"
        )
    return halvings


def _up(channels_in: int, channels_out: int, *, bias: bool) -> nn.ConvTranspose2d:
    return nn.ConvTranspose2d(channels_in, channels_out, 5, stride=2, padding=2, output_padding=1, bias=bias)


def _down(channels_in: int, channels_out: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(channels_in, channels_out, 5, stride=2, padding=2),
        nn.InstanceNorm2d(channels_out, affine=True),  # where WGAN-GP asks for layer norm
        nn.LeakyReLU(0.2),
    )


class Generator(nn.Module):
    """Latents [n, latent_dim], standard normal, to images [n, 3, image_size, image_size] in (0, 1).

    ``width`` is the number of channels at half resolution, doubled per halving down to the 4x4 map. The
    defaults are the official network (GMI repository, Celeba/generator.py); 32 pixels take one up-layer less,
    so the map has 4 * width channels instead of 8. Raises ConfigError unless the size is a power of two of at
    least 16.
    """

    def __init__(self, *, latent_dim: int = 100, width: int = 64, image_size: int = 64):
        super().__init__()
        ups = _halvings(image_size) - 1
        self.channels = width << ups
        first = self.channels * 4 * 4
        self.l1 = nn.Sequential(nn.Linear(latent_dim, first, bias=False), nn.BatchNorm1d(first), nn.ReLU())
        blocks = [
            nn.Sequential(_up(2 * channels, channels, bias=False), nn.BatchNorm2d(channels), nn.ReLU())
            for channels in (width << level for level in reversed(range(ups)))
        ]
        self.l2_5 = nn.Sequential(*blocks, _up(width, 3, bias=True), nn.Sigmoid())

    def forward(self, latents: Tensor) -> Tensor:
        """Draw the images of ``latents``."""
        images: Tensor = self.l2_5(self.l1(latents).view(-1, self.channels, 4, 4))
        return images


class Critic(nn.Module):
    """Images [n, 3, image_size, image_size] in [0, 1] to scores [n]; larger is more real.

    ``width`` is the number of channels at half resolution, doubled per halving down to the 4x4 map. The
    defaults are the official ``DGWGAN`` (GMI repository, Celeba/discri.py); 32 pixels take one down-layer
    less. Raises ConfigError unless the size is a power of two of at least 16.
    """

    def __init__(self, *, width: int = 64, image_size: int = 64):
        super().__init__()
        downs = _halvings(image_size) - 1
        self.ls = nn.Sequential(
            nn.Conv2d(3, width, 5, stride=2, padding=2),
            nn.LeakyReLU(0.2),
            *(_down(width << level, width << (level + 1)) for level in range(downs)),
            nn.Conv2d(width << downs, 1, 4),
        )

    def forward(self, images: Tensor) -> Tensor:
        """Score ``images``; each score depends on its own image alone."""
        scores: Tensor = self.ls(images)
        return scores.flatten()


class GMIPrior(Prior):
    """Generator and critic trained as a WGAN-GP on public images, once for all targets.

    ``critic_width`` None means ``width``. ``epochs`` counts the critic's passes over the public images;
    ``steps``, if not None, is its number of steps instead. ``pretrained`` holds the paths ``generator`` and
    ``critic`` of published weights that replace training, or None for both. The rest is ``wgan.Recipe``.
    Raises ConfigError for numbers that cannot be, and when one of the two paths is missing.
    """

    def __init__(
        self,
        *,
        latent_dim: int,
        width: int,
        critic_width: int | None,
        image_size: int,
        epochs: int,
        steps: int | None,
        batch_size: int,
        critic_steps: int,
        lr: float,
        betas: Sequence[float],
        gp_weight: float,
        gp_every: int,
        ema: float,
        pretrained: Mapping[str, str | None],
    ):
        super().__init__()
        require_counts(
            "attack.prior",
            latent_dim=latent_dim,
            width=width,
            critic_width=critic_width,
            epochs=epochs,
            steps=steps,
        )
        self.pretrained = {name: path for name, path in pretrained.items() if path is not None}
        if self.pretrained and set(self.pretrained) != {"generator", "critic"}:
            raise ConfigError(
                "attack.prior.pretrained needs the paths of both generator and critic, or null for both to train; "
                f"it has only {', '.join(self.pretrained)}"
            )
        self.latent_dim = latent_dim
        self.image_size = image_size
        self.epochs = epochs
        self.recipe = Recipe(
            steps=steps or 0,  # 0: as many as the epochs take
            batch_size=batch_size,
            critic_steps=critic_steps,
            lr=lr,
            betas=betas,
            gp_weight=gp_weight,
            gp_every=gp_every,
            ema=ema,
        )
        self.generator = Generator(latent_dim=latent_dim, width=width, image_size=image_size)
        self.critic = Critic(width=critic_width or width, image_size=image_size)

    def generate(self, latents: Tensor, labels: Tensor | None = None) -> Tensor:
        """Images float [n, 3, h, w] in (0, 1) of latents [n, latent_dim]; the labels play no part."""
        images: Tensor = self.generator(latents)
        return images

    def realism(self, images: Tensor) -> Tensor:
        """The critic's scores, [n]."""
        scores: Tensor = self.critic(images)
        return scores

    def fit(
        self,
        public: ImageSet | None,
        victim: WhiteBoxVictim | ScoreVictim | LabelVictim | None,
        *,
        seed: int,
        work: Path,
        runtime: Runtime,
    ) -> dict[str, float]:
        """Train on ``public``, or load published weights. The victim plays no part.

        Returns the final distance estimate and gradient penalty, nothing when weights were loaded. Raises
        ConfigError for images of another size and for fewer images than a batch, CheckpointError for weight
        files that do not fit.
        """
        if self.pretrained:
            for name, path in self.pretrained.items():
                load_checkpoint(self.get_submodule(name), path)
            return {}
        public = needed(public)
        height, width = public.images.shape[-2:]
        if (height, width) != (self.image_size, self.image_size):
            raise ConfigError(
                f"attack.prior.image_size={self.image_size}, but the public images have {height}x{width} pixels; "
                "make them equal"
            )
        steps = self.recipe.steps or self.epochs * (len(public) // self.recipe.batch_size)
        return train_wgan(
            self.generator,
            self.critic,
            public.images,
            replace(self.recipe, steps=steps),
            latent_dim=self.latent_dim,
            seed=seed,
            work=work,
            runtime=runtime,
        )
