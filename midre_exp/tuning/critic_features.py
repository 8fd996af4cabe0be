"""How alike pictures look to a prior's own critic: the maps of its blocks in LPIPS' form, whose squared
differences are summed. No network that judges, and none of the target's, has a part in it.
"""

from __future__ import annotations

import torch
from torch import Tensor

from midre_exp.errors import ConfigError
from midre_exp.priors.style_prior import StylePrior
from midre_exp.priors.stylegan.discriminator import DiscriminatorBlock, StyleGAN2Discriminator

#: Pixels to which larger maps are averaged: what a published critic of 1024 px sees in its first blocks would
#: be millions of numbers of each picture.
_LARGEST = 32


def require_critic(prior: StylePrior) -> StyleGAN2Discriminator:
    """The prior's critic. Raises ConfigError for a prior without one."""
    if prior.discriminator is None:
        raise ConfigError(
            "attack.prior.pretrained holds no discriminator, by whose features attack.tuning compares "
            "pictures; give NVIDIA's pickle, or train the prior here"
        )
    return prior.discriminator


def critic_features(critic: StyleGAN2Discriminator, images: Tensor) -> Tensor:
    """[n, d] of images [n, 3, s, s] in [0, 1]: of each block's map every place a unit vector over channels,
    divided by the root of the number of places, so that a squared difference is the mean over places, summed
    over blocks.
    """
    x: Tensor | None = None
    image: Tensor | None = images * 2 - 1
    found = []
    for block in critic.children():
        if isinstance(block, DiscriminatorBlock):
            x, image = block(x, image, force_fp32=True)
            places = torch.nn.functional.normalize(x, dim=1)
            if places.shape[-1] > _LARGEST:
                places = torch.nn.functional.adaptive_avg_pool2d(places, _LARGEST)
            found.append(places.flatten(1) / places[0, 0].numel() ** 0.5)
    return torch.cat(found, 1)
