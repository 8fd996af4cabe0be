"""MIRROR's one result per class: among those that the target takes for the same mixture of identities (An et
al. 2022).
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

_TOP = 5
MOST = 50  #: reconstructions of a class that can be compared


def most_consistent(
    logits: Tensor,
    labels: Tensor,
    *,
    by_softmax: bool = False,
    score: Callable[[Tensor], Tensor] | None = None,
) -> Tensor:
    """Which of the k reconstructions of each class to hand in, int64 [g] of ``logits`` [g, k, classes] and
    ``labels`` int64 [g]; k <= 50.

    A reconstruction that the target ranks its label first for has four neighbours, the next labels; any other
    has none. Looked for is the largest group of two or more that have two neighbours in common, or else one;
    failing that, all k are the group. In the group, the largest logit of the label wins, or with
    ``by_softmax`` its largest probability, or its largest ``score``, of logits [n, classes] to as many. Of
    groups of equal size, of which the method names none, the one counts whose first member comes first, then
    its second, and so on.
    """
    group = consistent_group(logits, labels)
    scores = logits.softmax(2) if by_softmax else logits
    if score is not None:
        scores = score(logits.flatten(0, 1)).view_as(logits)
    own = scores.gather(2, labels[:, None, None].expand(-1, logits.shape[1], 1)).squeeze(2)
    return own.masked_fill(~group, float("-inf")).argmax(1)


def consistent_group(logits: Tensor, labels: Tensor) -> Tensor:
    """Members of that group, bool [g, k]."""
    top = logits.topk(min(_TOP, logits.shape[2]), dim=2).indices
    first, others = top[..., 0] == labels[:, None], top[..., 1:]
    neighbours = torch.zeros_like(logits, dtype=torch.bool).scatter(2, others, True) & first[..., None]
    group = torch.ones_like(first)
    for shared in (1, 2):  # two in common overrule one
        larger, found = _largest(neighbours, others, shared)
        group = torch.where(found[:, None], larger, group)
    return group


def _largest(neighbours: Tensor, others: Tensor, shared: int) -> tuple[Tensor, Tensor]:
    """The largest group with ``shared`` neighbours in common, bool [g, k], and where there is one of at least
    two, bool [g].

    ``neighbours`` bool [g, k, classes], ``others`` int64 [g, k, m]. Groups are all that have one choice of
    labels in common, for every choice that some reconstruction offers.
    """
    classes, k = len(others), others.shape[1]
    choices = torch.combinations(torch.arange(others.shape[2], device=others.device), shared)
    if len(choices) == 0:
        return torch.zeros_like(neighbours[..., 0]), torch.zeros_like(neighbours[:, 0, 0])
    wanted = others[..., choices].flatten(1, 2)  # [g, k * choices, shared]
    flat = wanted.flatten(1)[:, None].expand(-1, k, -1)
    members = neighbours.gather(2, flat).view(classes, k, -1, shared).all(3).mT  # [g, k * choices, k]
    place = 2 ** torch.arange(k - 1, -1, -1, device=others.device)
    order = (members.sum(2) << k) + (members * place).sum(2)  # by size, then earlier members first
    best = order.argmax(1)
    group = members.gather(1, best[:, None, None].expand(-1, 1, k)).squeeze(1)
    return group, group.sum(1) >= 2
