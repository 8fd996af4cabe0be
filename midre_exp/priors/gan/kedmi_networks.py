"""KedMI's discriminator (Chen et al., ICCV 2021) in the official layout: it tells the target's classes apart
and compares the images of a batch with each other.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from midre_exp.errors import ConfigError


def _down(channels_in: int, channels_out: int, kernel: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(channels_in, channels_out, kernel, stride=2, padding=kernel // 2),
        nn.InstanceNorm2d(channels_out, affine=True),
        nn.LeakyReLU(0.2),
    )


class MinibatchDiscrimination(nn.Module):
    """Appends to each feature vector [n, d] how close it is to the others of its batch, in ``kernels`` views
    of ``kernel_dims`` numbers.

    M = features T; sum_j exp(-||M_i - M_j||_1) - 1 per view: a sum, so its scale grows with the batch
    (Salimans et al. 2016).
    """

    def __init__(self, features: int, kernels: int, kernel_dims: int):
        super().__init__()
        self.T = nn.Parameter(torch.randn(features, kernels, kernel_dims))

    def forward(self, features: Tensor, group: int | None = None) -> Tensor:
        """Features [n, d + kernels]; every ``group`` consecutive rows, the last ones possibly fewer, are a
        batch of their own.
        """
        views = torch.einsum("nd,dkc->nkc", features, self.T)
        size = min(group or len(views), len(views))
        whole = len(views) - len(views) % size
        near = [_closeness(views[:whole].unflatten(0, (-1, size)))]
        if whole < len(views):
            near.append(_closeness(views[whole:][None]))
        return torch.cat([features, torch.cat(near)], 1)


def _closeness(views: Tensor) -> Tensor:
    """[g * n, kernels] of views [g, n, kernels, dims]: closeness of each row to the other n - 1 of its
    batch.
    """
    views = views.transpose(1, 2)
    near = torch.cdist(views, views, p=1.0).neg().exp().sum(-1) - 1  # less itself
    return near.transpose(1, 2).flatten(0, 1)


class KedMIDiscriminator(nn.Module):
    """Images [n, 3, image_size, image_size] in [0, 1] to features [n, d] and logits [n, num_classes].

    The features are those before minibatch discrimination, d = width * image_size^2 / 64. ``width`` is the
    number of channels at half resolution. The defaults are the official network (KedMI repository,
    discri.py); 32 pixels keep all layers and end in a 2x2 map. Raises ConfigError unless the size is a
    multiple of 16 and at least 32.
    """

    def __init__(
        self,
        *,
        num_classes: int = 1000,
        width: int = 64,
        image_size: int = 64,
        kernels: int = 64,
        kernel_dims: int = 50,
    ):
        super().__init__()
        if image_size < 32 or image_size % 16:
            raise ConfigError(
                f"attack.prior.image_size={image_size} is not supported by KedMI's discriminator; use a "
                "multiple of 16, at least 32"
            )
        self.layer1 = _down(3, width, 5)
        self.layer2 = _down(width, 2 * width, 5)
        self.layer3 = _down(2 * width, 4 * width, 5)
        self.layer4 = _down(4 * width, 4 * width, 3)
        features = 4 * width * (image_size // 16) ** 2
        self.mbd1 = MinibatchDiscrimination(features, kernels, kernel_dims)
        self.fc_layer = nn.Linear(features + kernels, num_classes)

    def forward(self, images: Tensor, group: int | None = None) -> tuple[Tensor, Tensor]:
        """Features and logits; every ``group`` consecutive images, the last ones possibly fewer, are a batch
        of their own.

        None: all images are one batch.
        """
        features = self.layer4(self.layer3(self.layer2(self.layer1(images)))).flatten(1)
        return features, self.fc_layer(self.mbd1(features, group))
