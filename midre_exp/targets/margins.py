"""How far a class is ahead of all others, in logits: what does not saturate where probabilities do."""

from __future__ import annotations

import torch
from torch import Tensor


def max_margin_identity(logits: Tensor, labels: Tensor) -> Tensor:
    """Largest logit of another class minus the label's logit, [n], of ``logits`` [n, k] with k >= 2 and
    ``labels`` int64 [n] (PLG-MI).

    Its gradient does not vanish when the target becomes confident, as that of the cross entropy does.
    """
    own = logits.gather(1, labels[:, None])
    others = logits.scatter(1, labels[:, None], float("-inf"))
    return (others.amax(1, keepdim=True) - own).squeeze(1)


def margins(logits: Tensor) -> Tensor:
    """Each class's logit minus the largest of the others, [n, k], of ``logits`` [n, k] with k >= 2."""
    first, second = logits.topk(2).values.split(1, 1)
    return logits - torch.where(logits == first, second, first)
