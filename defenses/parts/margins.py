"""How far a class is ahead of all others, in logits: what does not saturate where probabilities do."""

from __future__ import annotations

import torch
from torch import Tensor


def margins(logits: Tensor) -> Tensor:
    """Each class's logit minus the largest of the others, [n, k], of ``logits`` [n, k] with k >= 2."""
    first, second = logits.topk(2).values.split(1, 1)
    return logits - torch.where(logits == first, second, first)


def negative_margin(logits: Tensor, labels: Tensor) -> Tensor:
    """Minus the margin of each label, [n], of ``logits`` [n, k] and ``labels`` int64 [n]: PLG-MI's loss."""
    return -margins(logits).gather(1, labels[:, None]).squeeze(1)
