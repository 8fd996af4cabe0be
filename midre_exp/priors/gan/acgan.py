"""LOKT's target-assisted ACGAN (Nguyen et al., NeurIPS 2023): an auxiliary classifier in the discriminator
learns from the labels that the target gives to generated images, and teaches the generator.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from midre_exp.priors.gan.plgmi_networks import DownBlock, doublings
from midre_exp.priors.gan.training import GanTraining

#: Generated images [n, 3, h, w] to the labels int64 [n] that the target gives them.
Labels = Callable[[Tensor], Tensor]


class ACGANDiscriminator(nn.Module):
    """Images [n, 3, image_size, image_size] to a score [n, 1], whose sigmoid is the probability that it is
    real, and to logits [n, num_classes].

    ``width``: channels at half resolution, doubled per halving down to the 2x2 map. The defaults are the
    official layout: the residual blocks of PLG-MI with spectral norm, and two plain linear layers on the
    summed map. Raises ConfigError unless the size is a power of two of at least 16.
    """

    def __init__(self, *, num_classes: int = 1000, width: int = 64, image_size: int = 64):
        super().__init__()
        self.blocks = [f"block{number}" for number in range(1, doublings(image_size) + 2)]
        features = 3
        for times, name in enumerate(self.blocks):
            self.add_module(name, DownBlock(features, width << times, first=times == 0))
            features = width << times
        self.l6 = nn.Linear(features, 1)
        self.l_y = nn.Linear(features, num_classes)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Score and class logits, of each image alone."""
        x = images
        for name in self.blocks:
            x = self.get_submodule(name)(x)
        features = F.relu(x).sum((2, 3))
        return self.l6(features), self.l_y(features)


def generator_loss(scores: Tensor, logits: Tensor, labels: Tensor, alpha: float) -> tuple[Tensor, Tensor]:
    """BCE(D(G(z, y)), real) + alpha CE(C(G(z, y)), y), and its two terms [2]; of 0 the second plays no part.

    ``scores`` [n, 1] and ``logits`` [n, k] are the discriminator's, ``labels`` y int64 [n] those asked for.
    """
    real, classes = _bce(scores, 1.0), F.cross_entropy(logits, labels)
    return (real + alpha * classes if alpha else real), torch.stack((real, classes)).detach()


def discriminator_loss(
    real: Tensor, fake: Tensor, logits: Tensor, labels: Tensor | None, alpha: float
) -> tuple[Tensor, Tensor]:
    """BCE(D(x), real) + BCE(D(G), fake) + alpha CE(C(G), T(G)), and its terms [2]; real images teach no
    class.

    ``real`` and ``fake`` [n, 1]: scores; ``logits`` [n, k]: of generated images; ``labels`` int64 [n]: what
    the target takes these for, None before anybody asks it.
    """
    apart = _bce(fake, 0.0) + _bce(real, 1.0)
    if labels is None or not alpha:
        return apart, torch.stack((apart, torch.zeros_like(apart))).detach()
    classes = F.cross_entropy(logits, labels)
    return apart + alpha * classes, torch.stack((apart, classes)).detach()


def generator_step(gan: GanTraining, latents: Tensor, labels: Tensor, alpha: float) -> Tensor:
    """Move the generator; returns its two terms, [2]."""
    scores, logits = gan.judge(gan.generate(latents, labels))
    loss, terms = generator_loss(scores, logits, labels, alpha)
    gan.generator_step(loss)
    return terms


def discriminator_step(
    gan: GanTraining,
    real: Tensor,
    latents: Tensor,
    labels: Tensor,
    target: Labels | None,
    alpha: float,
) -> Tensor:
    """Move the discriminator on float images and as many generated ones, which ``target`` labels; returns its
    two terms, [2].
    """
    with torch.no_grad():
        fake = gan.generate(latents, labels)
        taken = None if target is None else target(fake)
    fake_scores, logits = gan.judge(fake)
    real_scores, _ = gan.judge(real)
    loss, terms = discriminator_loss(real_scores, fake_scores, logits, taken, alpha)
    gan.critic_step(loss)
    return terms


def _bce(scores: Tensor, wanted: float) -> Tensor:
    return F.binary_cross_entropy_with_logits(scores, torch.full_like(scores, wanted))
