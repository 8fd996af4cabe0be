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
