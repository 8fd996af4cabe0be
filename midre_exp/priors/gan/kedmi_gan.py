"""The inversion-specific GAN of KedMI (Chen et al., ICCV 2021): its losses, and one step of each network.

The discriminator has the K outputs of the target and no explicit fake class: s(x) = logsumexp of its logits
stands for "real" against a fake logit fixed at 0.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from midre_exp.priors.gan.training import GanTraining


def supervised_loss(logits: Tensor, soft_labels: Tensor) -> Tensor:
    """Mean cross entropy of discriminator ``logits`` [n, k] against the target's probabilities
    ``soft_labels`` [n, k].
    """
    return F.cross_entropy(logits, soft_labels)


def unsupervised_loss(real_logits: Tensor, fake_logits: Tensor) -> Tensor:
    """Real against fake, 0.5 [mean softplus(s_real) - mean s_real + mean softplus(s_fake)], of logits [n, k]
    and [m, k].
    """
    real, fake = real_logits.logsumexp(1), fake_logits.logsumexp(1)
    return 0.5 * (F.softplus(real).mean() - real.mean() + F.softplus(fake).mean())


def discriminator_loss(
    labelled_logits: Tensor, soft_labels: Tensor, real_logits: Tensor, fake_logits: Tensor
) -> Tensor:
    """What the discriminator minimises: the supervised and the unsupervised loss."""
    return supervised_loss(labelled_logits, soft_labels) + unsupervised_loss(real_logits, fake_logits)


def feature_matching(fake_features: Tensor, real_features: Tensor) -> Tensor:
    """Mean distance of the mean features, mean_d |mean_i fake - mean_i real|, of features [n, d] and [m,
    d].
    """
    return (fake_features.mean(0) - real_features.mean(0)).abs().mean()


def entropy(logits: Tensor) -> Tensor:
    """Entropy of the class probabilities of ``logits`` [n, k], summed over the batch as in the official
    code.
    """
    return -(logits.softmax(1) * logits.log_softmax(1)).sum()


def generator_loss(
    fake_features: Tensor, real_features: Tensor, fake_logits: Tensor, entropy_weight: float
) -> Tensor:
    """What the generator minimises: feature matching + entropy_weight * entropy, so images that one class
    claims.
    """
    return feature_matching(fake_features, real_features) + entropy_weight * entropy(fake_logits)


def discriminator_step(
    gan: GanTraining, real: Tensor, soft_labels: Tensor, latents: Tensor, *, group: int | None = None
) -> Tensor:
    """Move the discriminator on float images [2n, 3, h, w], n labelled and n unlabelled; returns both losses,
    [2].
    """
    with torch.no_grad():
        fake = gan.generate(latents)
    # one pass for all three batches; they never meet, since minibatch discrimination stays within a group
    _, logits = gan.judge(torch.cat([real, fake]), group or len(latents))
    labelled, unlabelled, generated = logits.chunk(3)
    losses = torch.stack([supervised_loss(labelled, soft_labels), unsupervised_loss(unlabelled, generated)])
    gan.critic_step(losses.sum())
    return losses.detach()


def generator_step(
    gan: GanTraining, real: Tensor, latents: Tensor, *, entropy_weight: float, group: int | None = None
) -> Tensor:
    """Move the generator towards the features of float images [n, 3, h, w]; returns its loss."""
    with torch.no_grad():
        real_features, _ = gan.judge(real, group)
    features, logits = gan.judge(gan.generate(latents), group)
    loss = generator_loss(features, real_features, logits, entropy_weight)
    gan.generator_step(loss)
    return loss.detach()
