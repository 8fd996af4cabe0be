"""Identity losses as choices of an attack: how a white-box attacker asks the target for a class. Each returns one value per item."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

from torch import Tensor

from attacks.losses import cross_entropy_identity
from midre_exp.seeding import Streams
from midre_exp.threat import WhiteBoxVictim


class IdentityLoss(ABC):
    """How far images are from being taken for their labels."""

    @abstractmethod
    def __call__(
        self,
        victim: WhiteBoxVictim,
        surrogates: Any,
        images: Tensor,
        labels: Tensor,
        streams: Streams,
        step: int,
    ) -> Tensor:
        """The loss of each item, [n], of images [n, 3, h, w] as the target takes them and labels int64 [n].

        ``surrogates`` is what the attack prepared against the target (None for most); random numbers come from ``streams`` row by row.
        """


class CrossEntropy(IdentityLoss):
    """Cross entropy of the target's logits (GMI, KedMI)."""

    def __call__(
        self,
        victim: WhiteBoxVictim,
        surrogates: Any,
        images: Tensor,
        labels: Tensor,
        streams: Streams,
        step: int,
    ) -> Tensor:
        """See the base."""
        return cross_entropy_identity(victim(images).logits, labels)
