"""EE: every epoch leaves out a fresh random part of every identity's images; the others are whole (MIDRE
Table 1).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from defenses.base import Defense, Informed, Sampler
from defenses.parts.options import check_choice
from midre_exp.errors import ConfigError
from midre_exp.plan.ranges import BelowOne
from midre_exp.seeding import derive, generator
from midre_exp.targets.base import Classifier
from midre_exp.targets.training.batch import Shuffled

#: What stays as without the defense: the number of epochs, or also the number of steps in each.
KEEPS = ("epochs", "steps")


def kept_per_class(counts: Tensor, share: float) -> Tensor:
    """How many of the ``counts`` (int64 [k]) images of each class stay when ``share`` is left out: int64 [k].

    The number left out is rounded (halves to the even number), and at least one image of a class that has any
    stays.
    """
    # 9 decimals: 0.35 of 90 images is 31.5 and not a floating point error beside it.
    left_out = (share * counts.double()).round(decimals=9).round().long()
    return (counts - left_out).clamp(min=1).minimum(counts)


def stays(labels: Tensor, kept: Tensor, generator: torch.Generator) -> Tensor:
    """A random choice of ``kept[c]`` images of each class c: bool [n]. ``labels`` int64 [n] in 0..k - 1,
    ``kept`` int64 [k].
    """
    shuffled = torch.randperm(len(labels), generator=generator)
    grouped = shuffled[labels[shuffled].argsort(stable=True)]  # by class, at random within each
    classes = labels[grouped]
    counts = torch.bincount(labels, minlength=len(kept))
    first = counts.cumsum(0) - counts
    place = torch.arange(len(labels)) - first[classes]
    return torch.zeros(len(labels), dtype=torch.bool).scatter(0, grouped, place < kept[classes])


class PartialEpochs:
    """Batches of the images that stay in an epoch; with nothing left out, those of ``Shuffled``.

    ``labels`` int64 [n] of all training images; ``share`` and ``keep`` as in ``LeaveOut``. A pure function of
    (seed, epoch).
    """

    def __init__(
        self, labels: Tensor, *, share: float, keep: str, batch_size: int, drop_last: bool, seed: int
    ):
        self.labels = labels.cpu()
        self.kept = kept_per_class(torch.bincount(self.labels), share)
        self.keep = keep
        self.batch_size = min(batch_size, len(labels) if keep == "steps" else int(self.kept.sum()))
        self.drop_last = drop_last
        self.seed = seed

    def batches(self, epoch: int) -> Sequence[Tensor]:
        """The batches of one epoch; the last, smaller one is left out with ``drop_last``."""
        chosen = stays(self.labels, self.kept, generator(self.seed, "left out", epoch))
        size = int(self.kept.sum())
        length = len(self.labels) if self.keep == "steps" else size
        passes = [self._order(epoch, turn) for turn in range(-(-length // size))]
        order = torch.cat([turn[chosen[turn]] for turn in passes])[:length]
        batches = list(order.split(self.batch_size))
        if self.drop_last and len(batches[-1]) < self.batch_size:
            batches.pop()
        return batches

    def _order(self, epoch: int, turn: int) -> Tensor:
        """All images in the order of one pass of an epoch; the first is that of ordinary training."""
        seed = derive(self.seed, "pass", turn) if turn else self.seed
        whole = Shuffled(len(self.labels), batch_size=len(self.labels), drop_last=False, seed=seed)
        return whole.batches(epoch)[0]


@dataclass(kw_only=True, eq=False)
class LeaveOut(Defense):
    """Leaving images out epoch by epoch (EE of MIDRE Table 1): of the n images of an identity a random
    n - round(share n) train in each epoch.
    """

    exclusive = frozenset({"sampler"})

    share: BelowOne  # of each identity's images, left out anew in every epoch; 0 is no defense
    keep: str  # epochs: each is shorter | steps: as many batches as without it, by further passes

    def __post_init__(self) -> None:
        if not isinstance(self.share, (int, float)) or not 0 <= self.share < 1:
            raise ConfigError(
                f"defense.ee.share={self.share} is no share of the images; give a number from 0 to below 1"
            )
        check_choice("ee.keep", self.keep, KEEPS)

    @property
    def label(self) -> str:
        """``EE share``, in percent."""
        return f"EE {100 * self.share:g} %"

    def sampler(self, labels: Tensor, *, batch_size: int, seed: int, drop_last: bool) -> Sampler | None:
        return PartialEpochs(
            labels, share=self.share, keep=self.keep, batch_size=batch_size, drop_last=drop_last, seed=seed
        )

    def informed(self, model: Classifier) -> Informed:
        return Informed(
            reason="what is left out is whole images, so the target knows whole faces; nothing is to be done"
        )
