"""What inversion attacks minimise: pure functions of tensors, and the identity losses that configs choose.

One value per sample, [n], so that a batch never changes a sample. Identity losses are small where the target
takes an image for the label; prior losses keep images realistic. Official code averages over its batch; the
attacks restore that scale with their ``reference_batch``.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated

import torch
import torch.nn.functional as F
from torch import Tensor

from midre_exp.errors import ConfigError
from midre_exp.plan.ranges import Range
from midre_exp.seeding import ItemRNG
from midre_exp.surrogates.base import Surrogates
from midre_exp.threat import WhiteBoxVictim

# Identity losses


def cross_entropy_identity(logits: Tensor, labels: Tensor) -> Tensor:
    """Cross entropy -log softmax(logits)[label], [n], of ``logits`` [n, k] and ``labels`` int64 [n] (GMI,
    KedMI).
    """
    return F.cross_entropy(logits, labels, reduction="none")


def logit_identity(logits: Tensor, labels: Tensor) -> Tensor:
    """Minus the logit of the label, [n], of ``logits`` [n, k] and ``labels`` int64 [n] (LOMMA)."""
    return -logits.gather(1, labels[:, None]).squeeze(1)


def max_margin_identity(logits: Tensor, labels: Tensor) -> Tensor:
    """Largest logit of another class minus the label's logit, [n], of ``logits`` [n, k] with k >= 2 and
    ``labels`` int64 [n] (PLG-MI).

    Its gradient does not vanish when the target becomes confident, as that of the cross entropy does.
    """
    own = logits.gather(1, labels[:, None])
    others = logits.scatter(1, labels[:, None], float("-inf"))
    return (others.amax(1, keepdim=True) - own).squeeze(1)


def topk_identity(logits: Tensor, labels: Tensor, k: int = 20) -> Tensor:
    """Mean of the ``k`` largest logits of other classes, at most all, minus the label's logit, [n], of
    ``logits`` [n, classes] and ``labels`` int64 [n] (Diff-MI); with ``k`` 0 the latter alone.
    """
    own = logit_identity(logits, labels)
    if not k:
        return own
    others = logits.scatter(1, labels[:, None], float("-inf"))
    return own + others.topk(min(k, logits.shape[1] - 1), dim=1).values.mean(1)


def poincare(logits: Tensor, labels: Tensor, xi: float = 1e-4) -> Tensor:
    """Distance in the Poincare ball of the logits, divided by their L1 norm, from the label, [n] (PPA,
    Struppek et al. 2022, Sec. 4.2).

        arccosh(1 + 2 |u - v|^2 / ((1 - |u|^2) (1 - |v|^2))),  u = o / |o|_1,  v = 1 - xi at the label, else 0

    of ``logits`` o [n, k] and ``labels`` int64 [n]. Two kinds of logits have no distance by the formula and
    get one here, with finite gradients. All zero: u is the centre, as if |o|_1 were 1. A single one not zero:
    u lies on the boundary, infinitely far; 1 - |u|^2 is then the smallest step of floating point below 1, to
    which it rounds next to the boundary. No other value is changed. Raises ConfigError for an ``xi`` outside
    of [1e-6, 1): below, floating point takes v for the boundary.
    """
    if not 1e-6 <= xi < 1:
        raise ConfigError(f"xi={xi} of the Poincare loss must lie in [1e-6, 1)")
    limits = torch.finfo(logits.dtype)
    mass = logits.abs().sum(1, keepdim=True)
    point = logits / torch.where(mass < limits.tiny, 1.0, mass)  # below tiny, 1 / mass is not finite
    goal = (torch.zeros_like(point).scatter(1, labels[:, None], 1) - xi).clamp(0, 1)
    to_boundary = (1 - point.square().sum(1)).clamp(min=limits.eps / 2)
    apart = (point - goal).square().sum(1)
    return torch.acosh(1 + 2 * apart / (to_boundary * (1 - goal.square().sum(1))))


# Prior losses


def critic_prior(scores: Tensor) -> Tensor:
    """-D(x), [n], of a Wasserstein critic's ``scores`` [n], where larger is more real (GMI)."""
    return -scores


def real_class_prior(scores: Tensor) -> Tensor:
    """softplus(s) - s = -log sigmoid(s), [n], of the logit ``scores`` [n] of "real": logsumexp of K logits,
    fake fixed at 0 (KedMI).
    """
    return F.softplus(-scores)


def feature_regulariser(features: Tensor, towards: Tensor) -> Tensor:
    """mean_d (f - p)^2, [n], of ``features`` [n, d] and what they should be near, [d] or [n, d] (LOMMA)."""
    return (features - towards).square().mean(1)


# Choices of ``attack.identity_loss``; LOMMA's is in attacks/lomma.py


def log_scores(scores: Tensor) -> Tensor:
    """Logarithms of probabilities, finite where one has underflowed: -87.3 in single precision."""
    return scores.clamp_min(torch.finfo(scores.dtype).tiny).log()


class IdentityLoss(ABC):
    """How far images are from being taken for their labels by a white-box victim."""

    @abstractmethod
    def __call__(
        self,
        victim: WhiteBoxVictim,
        surrogates: Surrogates | None,
        images: Tensor,
        labels: Tensor,
        rng: ItemRNG,
        step: int,
    ) -> Tensor:
        """The loss of each item, [n], of images [n, 3, h, w] as the target takes them and labels int64 [n].

        ``surrogates`` is what the attack prepared against the target (None for most); random numbers come
        from ``rng`` row by row.
        """

    def with_loss(self, loss: Callable[[Tensor, Tensor], Tensor]) -> IdentityLoss:
        """The same with another function of logits [n, k] and labels int64 [n], [n]."""
        return GivenLoss(loss)


class OfLogits(IdentityLoss):
    """An identity loss that is a function of the target's logits and the labels."""

    @abstractmethod
    def loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        """The loss of each item, [n], of logits [n, k] and labels int64 [n]."""

    def __call__(
        self,
        victim: WhiteBoxVictim,
        surrogates: Surrogates | None,
        images: Tensor,
        labels: Tensor,
        rng: ItemRNG,
        step: int,
    ) -> Tensor:
        return self.loss(victim(images).logits, labels)


@dataclass(frozen=True, eq=False)
class GivenLoss(OfLogits):
    """A loss that a defense names (``Informed.identity_loss``)."""

    function: Callable[[Tensor, Tensor], Tensor]

    def loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        return self.function(logits, labels)


class CrossEntropy(OfLogits):
    """``cross_entropy_identity`` (GMI, KedMI, MIRROR)."""

    def loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        return cross_entropy_identity(logits, labels)


class MaxMargin(OfLogits):
    """``max_margin_identity`` (PLG-MI)."""

    def loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        return max_margin_identity(logits, labels)


@dataclass(kw_only=True, eq=False)
class Poincare(OfLogits):
    """``poincare`` (PPA, IF-GMI)."""

    #: Distance of the goal from the boundary of the ball, [1e-6, 1) (released: 1e-4).
    xi: Annotated[float, Range(1e-6, 1, open_high=True)]

    def __post_init__(self) -> None:
        if not 1e-6 <= self.xi < 1:
            raise ConfigError(f"attack.identity_loss.xi={self.xi} must lie in [1e-6, 1)")

    def loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        return poincare(logits, labels, self.xi)
