"""Whether judges agree about reconstructions, and what they say of pictures of nobody in particular."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import combinations
from typing import Any

import torch
from torch import Tensor

from midre_exp.metrics.accuracy import identity_interval
from midre_exp.metrics.agreement import kappa
from midre_exp.seeding import generator


def share_of(hits: Tensor, labels: Tensor) -> dict[str, float]:
    """Percent of ``hits`` bool [n] and its 95 % bootstrap interval over the identities ``labels`` int64
    [n], as attack accuracy has it: ``att_acc1``, ``att_acc1_low``, ``att_acc1_high``.
    """
    values = hits.double()
    low, high = identity_interval(values, labels)
    return {"att_acc1": 100 * float(values.mean()), "att_acc1_low": 100 * low, "att_acc1_high": 100 * high}


def by_identity(hits: Tensor, labels: Tensor) -> list[float]:
    """Percent of ``hits`` bool [n] of each identity in ``labels`` int64 [n], in the order of the classes."""
    _, place = labels.unique(return_inverse=True)
    count = place.bincount()
    total = torch.zeros(len(count), dtype=torch.float64).index_add(0, place, hits.double())
    each: list[float] = (100 * total / count).tolist()
    return each


def agreement(first: Tensor, second: Tensor) -> dict[str, float | None]:
    """How far two judges agree about which reconstructions are hits, bool [n] each.

    ``same``: percent about which they say the same; ``both``: percent that both accept of those that either
    accepts, None where neither accepts any; ``kappa``: Cohen's (1 same always, 0 as often as by chance), None
    where both say one and the same of everything, which chance explains as well.
    """
    first, second = first.bool(), second.bool()
    either = int((first | second).sum())
    return {
        "same": 100 * float((first == second).double().mean()),
        "both": 100 * int((first & second).sum()) / either if either else None,
        "kappa": kappa(list(zip(first.tolist(), second.tolist(), strict=True))),
    }


def jury_of(hits: Mapping[str, Tensor], labels: Tensor) -> dict[str, Any]:
    """What several judges say together, each by ``hits`` bool [n] on the same reconstructions of the
    identities ``labels`` int64 [n]: how far each pair agrees, and the strict attack accuracy, of those that
    all of them accept.
    """
    every = torch.stack([each.bool() for each in hits.values()]).all(0)
    pairs = [
        {"judges": [one, other], **agreement(hits[one], hits[other])} for one, other in combinations(hits, 2)
    ]
    return {
        "judges": list(hits),
        "agreement": pairs,
        "all_agree": {**share_of(every, labels), "per_identity": by_identity(every, labels)},
    }


def other_identity(labels: Tensor) -> Tensor | None:
    """For each of ``labels`` int64 [n] another identity among them, int64 [n]: the next on a fixed round of
    all of them, so that no two share one. None where all are of one identity.
    """
    identities = labels.unique()
    if len(identities) < 2:
        return None
    order = torch.randperm(len(identities), generator=generator(0, "other identity"))
    following = torch.empty_like(identities)
    following[order] = identities[order.roll(-1)]
    return following[torch.searchsorted(identities, labels)]
