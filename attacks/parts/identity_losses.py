"""Identity losses as choices of an attack: how a white-box attacker asks the target for a class. Each returns
one value per item.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

from torch import Tensor

from attacks.losses import cross_entropy_identity, poincare
from midre_exp.errors import ConfigError
from midre_exp.seeding import ItemRNG
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
        rng: ItemRNG,
        step: int,
    ) -> Tensor:
        """The loss of each item, [n], of images [n, 3, h, w] as the target takes them and labels int64 [n].

        ``surrogates`` is what the attack prepared against the target (None for most); random numbers come
        from ``rng`` row by row.
        """


class CrossEntropy(IdentityLoss):
    """Cross entropy of the target's logits (GMI, KedMI)."""

    def __call__(
        self,
        victim: WhiteBoxVictim,
        surrogates: Any,
        images: Tensor,
        labels: Tensor,
        rng: ItemRNG,
        step: int,
    ) -> Tensor:
        """See the base."""
        return cross_entropy_identity(victim(images).logits, labels)


class Poincare(IdentityLoss):
    """Distance of the target's logits from the label in the Poincare ball (PPA, IF-GMI); ``xi`` as in
    ``attacks.losses.poincare``.
    """

    def __init__(self, *, xi: float):
        if not 1e-6 <= xi < 1:
            raise ConfigError(f"attack.identity_loss.xi={xi} must lie in [1e-6, 1)")
        self.xi = xi

    def __call__(
        self,
        victim: WhiteBoxVictim,
        surrogates: Any,
        images: Tensor,
        labels: Tensor,
        rng: ItemRNG,
        step: int,
    ) -> Tensor:
        """See the base."""
        return poincare(victim(images).logits, labels, self.xi)
