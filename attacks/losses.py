"""What inversion attacks minimise, as pure functions of tensors: one value per sample [n], so that a batch
never changes a sample.

Identity losses ask the target for a class; prior losses keep the images real. Official code averages over its
batch; the attacks restore that scale with their ``reference_batch``.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from midre_exp.errors import ConfigError


def cross_entropy_identity(logits: Tensor, labels: Tensor) -> Tensor:
    """Cross entropy -log softmax(logits)[label], [n], of ``logits`` [n, k] and ``labels`` int64 [n] (GMI,
    KedMI).
    """
    return F.cross_entropy(logits, labels, reduction="none")


def critic_prior(scores: Tensor) -> Tensor:
    """-D(x), [n], of a Wasserstein critic's ``scores`` [n], where larger is more real (GMI)."""
    return -scores


def gmi_objective(scores: Tensor, logits: Tensor, labels: Tensor, identity_weight: float) -> Tensor:
    """-D(x) + identity_weight * cross entropy, [n] (GMI, Zhang et al. 2020, with weight 100)."""
    return critic_prior(scores) + identity_weight * cross_entropy_identity(logits, labels)


def max_margin_identity(logits: Tensor, labels: Tensor) -> Tensor:
    """Largest logit of another class minus the label's logit, [n], of ``logits`` [n, k] with k >= 2 and
    ``labels`` int64 [n] (PLG-MI).

    Its gradient does not vanish when the target becomes confident, as that of the cross entropy does.
    """
    own = logits.gather(1, labels[:, None])
    others = logits.scatter(1, labels[:, None], float("-inf"))
    return (others.amax(1, keepdim=True) - own).squeeze(1)


def real_class_prior(scores: Tensor) -> Tensor:
    """softplus(s) - s = -log sigmoid(s), [n], of the logit ``scores`` [n] of "real": logsumexp of K logits,
    fake fixed at 0 (KedMI).
    """
    return F.softplus(-scores)


def kedmi_objective(
    discriminator_logits: Tensor, logits: Tensor, labels: Tensor, identity_weight: float
) -> Tensor:
    """softplus(s) - s + identity_weight * cross entropy, s = logsumexp of the discriminator, [n] (KedMI, with
    weight 100).
    """
    prior = real_class_prior(discriminator_logits.logsumexp(1))
    return prior + identity_weight * cross_entropy_identity(logits, labels)


def logit_identity(logits: Tensor, labels: Tensor) -> Tensor:
    """Minus the logit of the label, [n], of ``logits`` [n, k] and ``labels`` int64 [n] (LOMMA)."""
    return -logits.gather(1, labels[:, None]).squeeze(1)


def feature_regulariser(features: Tensor, towards: Tensor) -> Tensor:
    """mean_d (f - p)^2, [n], of ``features`` [n, d] and what they should be near, [d] or [n, d] (LOMMA)."""
    return (features - towards).square().mean(1)


def poincare(logits: Tensor, labels: Tensor, xi: float = 1e-4) -> Tensor:
    """Distance in the Poincare ball of the logits, divided by their L1 norm, from the label, [n] (PPA,
    Struppek et al. 2022, Sec. 4.2).

        arccosh(1 + 2 |u - v|^2 / ((1 - |u|^2) (1 - |v|^2))),   u = o / |o|_1,   v = 1 - ``xi`` at the label, 0 elsewhere

    of ``logits`` o [n, k] and ``labels`` int64 [n]. Two kinds of logits have no distance by the formula and
    get one here, with finite gradients. All zero: u is the centre, as if |o|_1 were 1. A single one not zero:
    u lies on the border, infinitely far; 1 - |u|^2 is then the smallest step of floating point below 1, to
    which it rounds next to the border. No other value is changed. Raises ConfigError for an ``xi`` outside of
    [1e-6, 1): below, floating point takes v for the border.
    """
    if not 1e-6 <= xi < 1:
        raise ConfigError(f"xi={xi} of the Poincare loss must lie in [1e-6, 1)")
    limits = torch.finfo(logits.dtype)
    mass = logits.abs().sum(1, keepdim=True)
    point = logits / torch.where(mass < limits.tiny, 1.0, mass)  # below tiny, 1 / mass is not finite
    goal = (torch.zeros_like(point).scatter(1, labels[:, None], 1) - xi).clamp(0, 1)
    to_border = (1 - point.square().sum(1)).clamp(min=limits.eps / 2)
    apart = (point - goal).square().sum(1)
    return torch.acosh(1 + 2 * apart / (to_border * (1 - goal.square().sum(1))))
