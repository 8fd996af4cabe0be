"""The steps of BREP-MI as pure functions of tensors: who is met in a batch of labels, and one repulsion from
a class's boundary.

Every identity has a row of its own; rows never meet, so any number of them share a step.
"""

from __future__ import annotations

import torch
from torch import Tensor


def discover(answers: Tensor, order: Tensor, identities: int) -> Tensor:
    """Places int64 [k] of all classes in the order of their first appearance, after the labels ``answers``
    int64 [b] came in.

    ``order`` holds the places given so far, -1 for a class not met; a class with ``identities`` or more is
    passed over.
    """
    rows = torch.arange(len(answers), device=answers.device)
    first = torch.full_like(order, len(answers)).scatter_reduce(0, answers, rows, "amin")
    new = (order < 0) & (first < len(answers))
    rank = (new[None, :] & (first[None, :] < first[:, None])).sum(1)
    taken = ((order >= 0) & (order < identities)).sum()
    return torch.where(new, taken + rank, order)


def appearances(answers: Tensor, seen: Tensor) -> Tensor:
    """How often each label of ``answers`` int64 [b] appeared before: earlier in the batch, and ``seen`` int64
    [k] times before it.
    """
    earlier = (answers[:, None] == answers[None, :]).tril(-1)
    return seen[answers] + earlier.sum(1)


def sphere(noise: Tensor, radius: Tensor) -> Tensor:
    """Offsets [n, points, d] of length ``radius`` [n], along standard normal ``noise`` [n, points, d]."""
    directions: Tensor = noise / noise.norm(dim=2, keepdim=True)
    return directions * radius[:, None, None]


def repulsion(
    signs: Tensor, offsets: Tensor, radius: Tensor, *, threshold: float, growth: float, outside_only: bool
) -> tuple[Tensor, Tensor]:
    """Direction [n, d] away from the boundary and radius [n] after one estimate (official code,
    brep_mi_utils).

    ``signs`` [n, points]: 1 where the offset leads to a point of the class, -1 elsewhere. The radius grows by
    the factor ``growth`` where their sum exceeds ``threshold`` times the points: of 32 points and 0.75, 29
    must be inside. The direction is the mean over all offsets, weighted by -1 outside and 0 inside (1 inside
    unless ``outside_only``), divided by the radius after growing.
    """
    grows = signs.sum(1) > threshold * signs.shape[1]
    wider = torch.where(grows, growth * radius, radius)
    weights = (signs - 1) / 2 if outside_only else signs
    direction: Tensor = (weights[:, :, None] * offsets).mean(1) / wider[:, None]
    return direction, wider
