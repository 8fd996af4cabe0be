"""Verification as biometrics measures it: thresholds at false accept rates, the equal error rate and ranks,
of scores of which larger means more alike. Whoever reaches a threshold is accepted.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor


class AtFar(NamedTuple):
    """What a threshold does."""

    threshold: float  # infinite: nobody is accepted
    tar: float  # share of genuine scores accepted
    far_reached: float  # share of impostor scores accepted


class EqualError(NamedTuple):
    """Where false accepts are as frequent as false rejects."""

    threshold: float
    value: float  # the mean of both shares


def threshold_at(far: float, genuine: Tensor, impostor: Tensor) -> float:
    """The smallest observed score, of ``genuine`` [n] or ``impostor`` [m], which at most the share ``far`` of
    impostor scores reaches; infinite where none is.
    """
    allowed = math.floor(far * len(impostor) + 1e-9)
    ranked = impostor.double().sort(descending=True).values
    observed = torch.cat([genuine.double(), ranked]).unique()
    # above the first that may not be accepted
    if allowed >= len(ranked):
        return float(observed[0])
    above = observed[observed > ranked[allowed]]
    return float(above[0]) if len(above) else math.inf


def at_far(far: float, genuine: Tensor, impostor: Tensor) -> AtFar:
    """The threshold and what it does. Both need at least one score."""
    threshold = threshold_at(far, genuine, impostor)
    return AtFar(threshold, share_from(genuine, threshold), share_from(impostor, threshold))


def share_from(scores: Tensor, threshold: float) -> float:
    """The share of ``scores`` [n] that reach a threshold."""
    return float((scores.double() >= threshold).double().mean())


def equal_error(genuine: Tensor, impostor: Tensor) -> EqualError:
    """The equal error rate: at the observed score at which the shares of impostors accepted and genuine ones
    rejected differ least (the smallest such), the mean of both.
    """
    genuine, impostor = genuine.double().sort().values, impostor.double().sort().values
    observed = torch.cat([genuine, impostor]).unique()
    rejected = torch.searchsorted(genuine, observed).double() / len(genuine)
    accepted = 1 - torch.searchsorted(impostor, observed).double() / len(impostor)
    best = int((accepted - rejected).abs().argmin())
    return EqualError(float(observed[best]), float(accepted[best] + rejected[best]) / 2)


def ranks(own: Tensor, others: Tensor) -> Tensor:
    """How many of ``others`` [n, k] are larger than ``own`` [n]: int64 [n], 0 for the first place."""
    return (others > own[:, None]).sum(1)
