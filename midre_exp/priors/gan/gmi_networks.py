"""The two convolutional networks of GMI (Zhang et al., CVPR 2020) in the official layout; KedMI has the same
generator.
"""

from __future__ import annotations

from torch import Tensor, nn

from midre_exp.errors import ConfigError


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


class GMIGenerator(nn.Module):
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


class GMICritic(nn.Module):
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
