"""What attacks that follow the target's gradient have in common: an identity loss, over which copies of an
image it is averaged, and what a defense that is known makes of both.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from attacks.base import (
    Informed,
    ItemRNG,
    PictureView,
    Prior,
    Runtime,
    WhiteBoxAttack,
    WhiteBoxVictim,
    apply,
)
from attacks.losses import IdentityLoss
from attacks.parts.expectation import Expectation
from attacks.parts.initial_selection import Score, probabilities
from midre_exp.memory.batches import in_batches
from midre_exp.priors.random_images import random_images

#: Copies of an image over which an informed attack averages that is given no expectation of its own.
COPIES = 8
#: Pictures of the prior that a view may show.
PICTURES = 64


@dataclass(kw_only=True, eq=False)
class GradientAttack(WhiteBoxAttack):
    """Base of attacks that descend an identity loss of the images that the target is shown."""

    can_be_informed = True

    identity_loss: IdentityLoss  # L_id of the method
    expectation: Expectation | None = None  # over which copies of an image; None: the image alone
    known: Informed | None = field(default=None, init=False, repr=False)  # of the defense

    def inform(self, known: Informed) -> None:
        """Average over the defense's views as well, 8 copies in search, optimisation and selection where
        ``expectation`` names no others; take its loss and its score.
        """
        self.known = known

    def prepare(self, prior: Prior, *, shared_rng: ItemRNG, runtime: Runtime) -> None:
        """Draw pictures for those views of a defense that show some, the same ones in every shard."""
        views = [] if self.known is None else self.known.views
        wanting = [view for view in views if isinstance(view, PictureView)]
        if not wanting:
            return
        streams = shared_rng.copies(PICTURES)

        def draw(part: slice) -> Tensor:
            images = random_images(prior, streams[part], self.identities)
            return apply(self.image_to_target, images).clamp(0, 1)

        drawn = torch.cat(list(in_batches(draw, PICTURES, min(runtime.chunk, PICTURES), what="pictures")))
        for view in wanting:
            view.pictures = drawn

    def told(self) -> dict[str, Any]:
        """What the defense says of itself, how many copies, and where they count."""
        averaging, places = self.averaging, ("search", "optimisation", "selection")
        return {
            **({} if self.known is None else self.known.told()),
            "copies": 1 if averaging is None else averaging.copies,
            "places": [place for place in places if averaging is not None and getattr(averaging, place)],
        }

    @property
    def averaging(self) -> Expectation | None:
        """Over which copies of what the target is shown: the attack's own views, then those of a defense that
        it knows.
        """
        if self.known is None or not self.known.views:
            return self.expectation
        own = self.expectation or Expectation(
            copies=COPIES, views=(), search=True, optimisation=True, selection=True
        )
        return replace(own, views=(*own.views, *self.known.views))

    @property
    def ranked_by(self) -> Score:
        """What search and selection rank by, of logits [n, k], [n, k]: probabilities, or what a defense that
        is known says.
        """
        known = None if self.known is None else self.known.score
        return known or probabilities

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
        averaging, identity_loss = self.averaging, self.identity_loss
        if self.known is not None and self.known.identity_loss is not None:
            identity_loss = identity_loss.with_loss(self.known.identity_loss)
        if averaging is None or not averaging.optimisation:
            return identity_loss(victim, self.surrogates, images, labels, rng, step)

        def loss(copies: Tensor, streams: ItemRNG) -> Tensor:
            theirs = labels.repeat(len(copies) // len(labels))
            return identity_loss(victim, self.surrogates, copies, theirs, streams, step)

        return averaging.of(images, rng, name, step, loss)

    def critic_term(
        self, images: Tensor, rng: ItemRNG, step: int, term: Callable[[Tensor], Tensor]
    ) -> Tensor:
        """``term`` of a critic, [n], for images [n, 3, h, w] of the prior: of the images themselves, or, as
        ``expectation.critic`` says, its mean over copies or nothing.

        The copies are changed by the attack's own views alone, by the numbers of ``identity``: a critic of
        whole images has no use for what a defense makes of them. Each copy of all images is one call.
        """
        own = self.expectation
        if own is None or not own.optimisation or own.critic == "image":
            return term(images)
        if own.critic == "nothing":
            return images.new_zeros(len(images))

        def judged(copies: Tensor, _: ItemRNG) -> Tensor:
            return torch.cat([term(part) for part in copies.split(len(images))])

        return own.of(images, rng, "copies", step, judged)
