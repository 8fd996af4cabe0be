"""What inversion attacks minimise, as pure functions of tensors: one value per sample [n], so that a batch never changes a sample.

Identity losses ask the target for a class; prior losses keep the images real. Official code averages over its batch; the
attacks restore that scale with their ``reference_batch``.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor


def cross_entropy_identity(logits: Tensor, labels: Tensor) -> Tensor:
    """Cross entropy -log softmax(logits)[label], [n], of ``logits`` [n, k] and ``labels`` int64 [n] (GMI, KedMI)."""
    return F.cross_entropy(logits, labels, reduction="none")


def critic_prior(scores: Tensor) -> Tensor:
    """-D(x), [n], of a Wasserstein critic's ``scores`` [n], where larger is more real (GMI)."""
    return -scores


def gmi_objective(scores: Tensor, logits: Tensor, labels: Tensor, identity_weight: float) -> Tensor:
    """-D(x) + identity_weight * cross entropy, [n] (GMI, Zhang et al. 2020, with weight 100)."""
    return critic_prior(scores) + identity_weight * cross_entropy_identity(logits, labels)


def max_margin_identity(logits: Tensor, labels: Tensor) -> Tensor:
    """Largest logit of another class minus the label's logit, [n], of ``logits`` [n, k] with k >= 2 and ``labels`` int64 [n] (PLG-MI).

    Its gradient does not vanish when the target becomes confident, as that of the cross entropy does.
    """
    own = logits.gather(1, labels[:, None])
    others = logits.scatter(1, labels[:, None], float("-inf"))
    return (others.amax(1, keepdim=True) - own).squeeze(1)


def real_class_prior(scores: Tensor) -> Tensor:
    """softplus(s) - s = -log sigmoid(s), [n], of the logit ``scores`` [n] of "real": logsumexp of K logits, fake fixed at 0 (KedMI)."""
    return F.softplus(-scores)


def kedmi_objective(
    discriminator_logits: Tensor, logits: Tensor, labels: Tensor, identity_weight: float
) -> Tensor:
    """softplus(s) - s + identity_weight * cross entropy, s = logsumexp of the discriminator, [n] (KedMI, with weight 100)."""
    prior = real_class_prior(discriminator_logits.logsumexp(1))
    return prior + identity_weight * cross_entropy_identity(logits, labels)


def logit_identity(logits: Tensor, labels: Tensor) -> Tensor:
    """Minus the logit of the label, [n], of ``logits`` [n, k] and ``labels`` int64 [n] (LOMMA)."""
    return -logits.gather(1, labels[:, None]).squeeze(1)


def feature_regulariser(features: Tensor, towards: Tensor) -> Tensor:
    """mean_d (f - p)^2, [n], of ``features`` [n, d] and what they should be near, [d] or [n, d] (LOMMA)."""
    return (features - towards).square().mean(1)
