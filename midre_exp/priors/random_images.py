"""What a prior draws when nobody asks for anybody."""

from __future__ import annotations

import torch
from torch import Tensor

from midre_exp.priors.base import Prior
from midre_exp.priors.style_prior import StylePrior
from midre_exp.seeding import ItemRNG


@torch.no_grad()
def random_images(prior: Prior, rng: ItemRNG, classes: int) -> Tensor:
    """An image float [n, 3, s, s] for each row of ``rng``, of a latent drawn as the prior is trained on them;
    a conditional prior is given one of the first ``classes`` labels.
    """
    latents = rng.normal("random images", prior.latent_dim)
    if isinstance(prior, StylePrior):
        latents = prior.codes(latents)
    labels = (classes * rng.uniform("random labels", 1)[:, 0]).long()
    return prior.generate(latents, labels)
