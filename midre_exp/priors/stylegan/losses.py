"""What StyleGAN2's training descends, as pure functions (Karras et al. 2020, "Analyzing and Improving the
Image Quality of StyleGAN").
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from midre_exp.seeding import integers, uniform


def generator_loss(fake_scores: Tensor) -> Tensor:
    """What the generator minimises: mean of -log sigmoid(D(G(z))), the non-saturating loss."""
    return F.softplus(-fake_scores).mean()


def discriminator_loss(real_scores: Tensor, fake_scores: Tensor) -> Tensor:
    """What the discriminator minimises: mean of -log sigmoid(D(x)) - log(1 - sigmoid(D(G(z))))."""
    return F.softplus(-real_scores).mean() + F.softplus(fake_scores).mean()


def squared_gradients(scores: Tensor, images: Tensor) -> Tensor:
    """Squared L2 norm [n] of the gradient of each score by its image (R1: Mescheder et al. 2018),
    differentiable once more.
    """
    (gradient,) = torch.autograd.grad(scores.sum(), images, create_graph=True)
    return gradient.square().sum((1, 2, 3))


def path_lengths(images: Tensor, codes: Tensor, noise: Tensor) -> Tensor:
    """How far images move with their codes [n, k, d]: [n], differentiable once more.

    The norm of the gradient of <image, noise> by the codes, root mean square over layers; ``noise``, standard
    normal and of the images' shape, is divided by the root of their pixel count.
    """
    scale = math.sqrt(images.shape[2] * images.shape[3])
    (gradient,) = torch.autograd.grad((images * noise).sum() / scale, codes, create_graph=True)
    return gradient.square().sum(2).mean(1).sqrt()


def mixed(first: Tensor, second: Tensor, probability: float, generator: torch.Generator) -> Tensor:
    """Codes [n, k, d] that with ``probability`` change from ``first`` to ``second`` at a layer from 1 to k -
    1, drawn per image.

    The official code draws one layer per batch; the law of a single image is the same.
    """
    n, layers = first.shape[:2]
    start = integers(generator, 1, layers, n, 1, device=first.device)
    changes = uniform(generator, n, 1, device=first.device) < probability
    late = torch.arange(layers, device=first.device) >= start
    return torch.where((changes & late)[:, :, None], second, first)
