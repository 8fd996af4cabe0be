"""PPA's final selection: of an identity's reconstructions, those count that the target recognises under
strong random views (Struppek et al. 2022, Sec. 4.3).

What only fools the target (an adversarial example) does not survive being cropped and mirrored.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from attacks.base import ItemRNG, Runtime, WhiteBoxVictim
from attacks.parts.expectation import Expectation
from attacks.parts.initial_selection import Score, probabilities
from midre_exp.data.transforms.random_crop import NUMBERS, random_crop, require_range
from midre_exp.errors import ConfigError
from midre_exp.plan.ranges import Count, Positive, Probability, Share

_VIEWED_AT_ONCE = 10  # batches, which are counted for the generator: the target takes less memory


@dataclass(kw_only=True, eq=False)
class FinalSelection:
    """How often and how the target sees each reconstruction: every view is one draw for all items, so that
    all of them, of whatever identity, are compared under the same boxes.
    """

    views: Count  # random boxes, each resized to the size before (released: 100)
    scale: tuple[Share, Share]  # range of a box's share of the image area, within (0, 1] (released: 0.5, 0.9)
    ratio: tuple[Positive, Positive]  # range of its width / height (released: 0.8, 1.2)
    flip_p: Probability  # probability that a view is mirrored (released: 0.5)
    #: A tenth of the images that are viewed at once: bounds memory, never changes a result.
    batch: Count

    def __post_init__(self) -> None:
        for name, value in (("views", self.views), ("batch", self.batch)):
            if value < 1:
                raise ConfigError(f"attack.selection.{name}={value} must be at least 1")
        if not 0 <= self.flip_p <= 1:
            raise ConfigError(f"attack.selection.flip_p={self.flip_p} must lie in [0, 1]")
        self.scale = require_range("attack.selection.scale", self.scale, top=1.0)
        self.ratio = require_range("attack.selection.ratio", self.ratio)

    @torch.no_grad()
    def robustness(
        self,
        victim: WhiteBoxVictim,
        images: Tensor,
        labels: Tensor,
        *,
        shared_rng: ItemRNG,
        runtime: Runtime,
        expectation: Expectation | None = None,
        score: Score = probabilities,
    ) -> Tensor:
        """The target's mean probability of each label over the views, or its mean ``score``, [n].

        ``images`` [n, 3, h, w] as the target gets them, not clipped; ``labels`` int64 [n]. ``shared_rng`` is
        one stream. With ``expectation`` every view is changed once more by its views, for all items alike.
        """
        at_once = min(self.batch, runtime.chunk)
        part = min(_VIEWED_AT_ONCE * at_once, runtime.chunk)
        total = torch.zeros(len(labels), device=images.device)
        batches = -(-len(labels) // part)
        for number in runtime.bar(range(batches * self.views), "final selection, views"):
            rows, view = (
                slice(number // self.views * part, (number // self.views + 1) * part),
                number % self.views,
            )
            numbers = shared_rng.uniform("selection", NUMBERS, step=view)
            seen = random_crop(images[rows], numbers, scale=self.scale, ratio=self.ratio, flip_p=self.flip_p)
            if expectation is not None and expectation.selection:
                seen = expectation.changed(seen, shared_rng.repeated(len(seen)), "selection copies", view)
            scores = score(victim(seen).logits)
            total[rows] += scores.gather(1, labels[rows][:, None]).squeeze(1)
        return total / self.views
