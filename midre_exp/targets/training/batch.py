"""What one training step works on. Shared by the training module and the defenses."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from midre_exp.seeding import generator


@dataclass(frozen=True)
class TrainingProgress:
    """Training time: ``epoch`` counts from 0 to ``epochs - 1``."""

    epoch: int
    epochs: int


@dataclass(frozen=True)
class Batch:
    """One training batch on the device.

    ``images`` float [n, 3, h, w] in [0, 1]; ``labels`` int64 [n]; ``index`` int64 [n], the position of each
    image in the training set; ``soft_labels`` [n, k] where a defense mixes classes, else None.
    """

    images: Tensor
    labels: Tensor
    index: Tensor
    soft_labels: Tensor | None = None

    @property
    def targets(self) -> Tensor:
        """What the classification loss aims at: soft labels where there are any, else class indices."""
        return self.labels if self.soft_labels is None else self.soft_labels


class Sampler(Protocol):
    """Which training images make up each batch of an epoch; a pure function of the epoch, so that resuming
    needs no state.
    """

    def batches(self, epoch: int) -> Sequence[Tensor]:
        """The batches of one epoch, each an int64 tensor of image indices."""
        ...


class Shuffled:
    """Every image once per epoch in random order, the usual sampler."""

    def __init__(self, count: int, *, batch_size: int, drop_last: bool, seed: int):
        self.count, self.batch_size, self.seed = count, min(batch_size, count), seed
        self.drop_last = drop_last

    def batches(self, epoch: int) -> Sequence[Tensor]:
        """The batches of one epoch; the last, smaller one is left out with ``drop_last``."""
        order = torch.randperm(self.count, generator=generator(self.seed, "order", epoch))
        batches = list(order.split(self.batch_size))
        if self.drop_last and len(batches[-1]) < self.batch_size:
            batches.pop()
        return batches
