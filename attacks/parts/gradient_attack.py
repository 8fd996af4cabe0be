"""What attacks that follow the target's gradient have in common: an identity loss, and over which copies of
an image it is averaged.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from attacks.base import ItemRNG, WhiteBoxAttack, WhiteBoxVictim
from attacks.losses import IdentityLoss
from attacks.parts.expectation import Expectation


@dataclass(kw_only=True, eq=False)
class GradientAttack(WhiteBoxAttack):
    """Base of attacks that descend an identity loss of the images that the target is shown."""

    identity_loss: IdentityLoss  # L_id of the method
    expectation: Expectation | None = None  # over which copies of an image; None: the image alone

    def identity(
        self,
        victim: WhiteBoxVictim,
        images: Tensor,
        labels: Tensor,
        rng: ItemRNG,
        step: int,
        name: str = "copies",
    ) -> Tensor:
        """The identity loss of each item, [n], of images [n, 3, h, w] as the target takes them and labels
        int64 [n], or its mean over copies of each.

        ``name`` is that of the random numbers of the copies: another for every call in a step.
        """
        if self.expectation is None or not self.expectation.optimisation:
            return self.identity_loss(victim, self.surrogates, images, labels, rng, step)

        def loss(copies: Tensor, streams: ItemRNG) -> Tensor:
            theirs = labels.repeat(len(copies) // len(labels))
            return self.identity_loss(victim, self.surrogates, copies, theirs, streams, step)

        return self.expectation.of(images, rng, name, step, loss)
