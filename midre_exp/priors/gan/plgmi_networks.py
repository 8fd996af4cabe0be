"""The conditional networks of PLG-MI (Yuan et al. 2023) in the official layout: a residual generator and a
projection discriminator.
"""

from __future__ import annotations

import math

from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import spectral_norm  # not the parametrised form: these keys are the published ones

from midre_exp.errors import ConfigError

_NEW_KEYS = {  # of the parametrised spectral norm -> ours
    ".parametrizations.weight.original": ".weight_orig",
    ".parametrizations.weight.0._u": ".weight_u",
    ".parametrizations.weight.0._v": ".weight_v",
}


def doublings(image_size: int) -> int:
    """How often 4 pixels are doubled to reach ``image_size``. Raises ConfigError unless it is a power of two
    of at least 16.
    """
    doublings = image_size.bit_length() - 3
    if image_size != 4 << max(doublings, 0) or doublings < 2:
        raise ConfigError(
            f"attack.prior.image_size={image_size} is not supported; use a power of two of at least 16"
        )
    return doublings


class ConditionalBatchNorm(nn.BatchNorm2d):
    """Batch norm whose gain and shift belong to the image's class; they start as 1 and 0."""

    def __init__(self, channels: int, num_classes: int):
        super().__init__(channels, affine=False)
        self.weights = nn.Embedding(num_classes, channels)
        self.biases = nn.Embedding(num_classes, channels)
        nn.init.ones_(self.weights.weight)
        nn.init.zeros_(self.biases.weight)

    # nn.BatchNorm2d takes no labels
    def forward(self, x: Tensor, labels: Tensor) -> Tensor:  # type: ignore[override]
        """Normalise [n, c, h, w] over the batch, then scale and shift each image by its class, ``labels``
        int64 [n].
        """
        gain, shift = (table(labels)[:, :, None, None] for table in (self.weights, self.biases))
        scaled: Tensor = gain * super().forward(x) + shift
        return scaled


class UpBlock(nn.Module):
    """Residual block of the generator: twice the pixels, bilinear, where spectral-norm GANs mostly repeat
    pixels.
    """

    def __init__(self, channels_in: int, channels_out: int, num_classes: int):
        super().__init__()
        self.c1 = nn.Conv2d(channels_in, channels_out, 3, padding=1)
        self.c2 = nn.Conv2d(channels_out, channels_out, 3, padding=1)
        self.b1 = ConditionalBatchNorm(channels_in, num_classes)
        self.b2 = ConditionalBatchNorm(channels_out, num_classes)
        self.c_sc = nn.Conv2d(channels_in, channels_out, 1)

    def forward(self, x: Tensor, labels: Tensor) -> Tensor:
        """[n, c_in, h, w] to [n, c_out, 2h, 2w]."""
        residual = self.c1(_doubled(F.relu(self.b1(x, labels))))
        residual = self.c2(F.relu(self.b2(residual, labels)))
        # A 1x1 convolution and interpolation commute: a quarter of the work in this order.
        block: Tensor = residual + _doubled(self.c_sc(x))
        return block


def _doubled(x: Tensor) -> Tensor:
    return F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False)


class PLGMIGenerator(nn.Module):
    """Latents [n, latent_dim], standard normal, and labels int64 [n] to images [n, 3, image_size, image_size]
    in (-1, 1).

    Trained on images in [0, 1], which it learns to give although it ends in tanh. ``width``: channels at full
    resolution, doubled per halving down to the 4x4 map. The defaults are the official ``ResNetGenerator``
    (models/generators/resnet64.py); other sizes have more or fewer blocks. Raises ConfigError unless the size
    is a power of two of at least 16.
    """

    def __init__(
        self, *, num_classes: int = 1000, latent_dim: int = 128, width: int = 64, image_size: int = 64
    ):
        super().__init__()
        blocks = doublings(image_size)
        self.channels = width << blocks
        self.l1 = nn.Linear(latent_dim, self.channels * 4 * 4)
        self.blocks = [f"block{number}" for number in range(2, blocks + 2)]
        for halvings, name in enumerate(self.blocks):
            channels = self.channels >> halvings
            self.add_module(name, UpBlock(channels, channels // 2, num_classes))
        self.b6 = nn.BatchNorm2d(width)
        self.conv6 = nn.Conv2d(width, 3, 1)

    def forward(self, latents: Tensor, labels: Tensor) -> Tensor:
        """Draw the images of ``latents`` as identities ``labels``."""
        x = self.l1(latents).view(-1, self.channels, 4, 4)
        for name in self.blocks:
            x = self.get_submodule(name)(x, labels)
        images: Tensor = self.conv6(F.relu(self.b6(x))).tanh()
        return images


class DownBlock(nn.Module):
    """Residual block of the discriminator: half the pixels, averaged. ``first``: no activation before the
    first convolution, and the hidden width is ``channels_out`` instead of ``channels_in``.
    """

    def __init__(self, channels_in: int, channels_out: int, *, first: bool):
        super().__init__()
        hidden = channels_out if first else channels_in
        self.first = first
        self.c1 = _normed(nn.Conv2d(channels_in, hidden, 3, padding=1), math.sqrt(2))
        self.c2 = _normed(nn.Conv2d(hidden, channels_out, 3, padding=1), math.sqrt(2))
        self.c_sc = _normed(nn.Conv2d(channels_in, channels_out, 1), 1)

    def forward(self, x: Tensor) -> Tensor:
        """[n, c_in, h, w] to [n, c_out, h / 2, w / 2]."""
        residual = self.c2(F.relu(self.c1(x if self.first else F.relu(x))))
        # A 1x1 convolution and averaging commute: a quarter of the work in this order.
        block: Tensor = F.avg_pool2d(residual, 2) + self.c_sc(F.avg_pool2d(x, 2))
        return block


def _normed(layer: nn.Module, gain: float) -> nn.Module:
    """The layer with Xavier-uniform weights, spectrally normalised."""
    nn.init.xavier_uniform_(layer.get_parameter("weight"), gain)
    return spectral_norm(layer)


class PLGMIDiscriminator(nn.Module):
    """Images [n, 3, image_size, image_size] and labels int64 [n] to scores [n, 1]; larger is more real and
    more of that class.

    ``width``: channels at half resolution, doubled per halving down to the 2x2 map. The defaults are the
    official ``SNResNetProjectionDiscriminator`` (models/discriminators/snresnet64.py); other sizes have more
    or fewer blocks. State dicts with the keys of PyTorch's parametrised spectral norm load as well. Raises
    ConfigError unless the size is a power of two of at least 16.
    """

    def __init__(self, *, num_classes: int = 1000, width: int = 64, image_size: int = 64):
        super().__init__()
        self.blocks = [f"block{number}" for number in range(1, doublings(image_size) + 2)]
        features = 3
        for times, name in enumerate(self.blocks):
            self.add_module(name, DownBlock(features, width << times, first=times == 0))
            features = width << times
        self.l6 = _normed(nn.Linear(features, 1), 1)
        self.l_y = _normed(nn.Embedding(num_classes, features), 1)
        self.register_load_state_dict_pre_hook(_take_new_keys)  # type: ignore[no-untyped-call]

    def forward(self, images: Tensor, labels: Tensor | None = None) -> Tensor:
        """Score ``images``; each score depends on its own image and label alone. Without labels only the part
        no class has a share in.
        """
        x = images
        for name in self.blocks:
            x = self.get_submodule(name)(x)
        features = F.relu(x).sum((2, 3))
        scores: Tensor = self.l6(features)
        if labels is not None:
            scores = scores + (self.l_y(labels) * features).sum(1, keepdim=True)
        return scores


def _take_new_keys(module: nn.Module, state_dict: dict[str, Tensor], prefix: str, *_: object) -> None:
    for key in [key for key in state_dict if key.startswith(prefix)]:
        for new, ours in _NEW_KEYS.items():
            if key.endswith(new):
                state_dict[key.removesuffix(new) + ours] = state_dict.pop(key)
