"""What one training step works on, and which images make up each batch of an epoch."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from midre_exp.data.base import ImageSet
from midre_exp.seeding import generator
from midre_exp.targets.base import Output


@dataclass(frozen=True)
class TrainingProgress:
    """Training time: ``epoch`` counts from 0 to ``epochs - 1``."""

    epoch: int
    epochs: int


@dataclass(frozen=True)
class Companions:
    """Further images that go through the network together with a batch, in one batch norm."""

    name: str  #: of their accuracy in the history, ``<name>_acc``
    images: Tensor  #: float [m, 3, h, w] in [0, 1]
    labels: Tensor  #: int64 [m]
    weight: float  #: of their classification loss in the base loss; that of the batch weighs 1 - ``weight``


@dataclass(frozen=True)
class Batch:
    """One training batch on the device."""

    images: Tensor  #: float [n, 3, h, w] in [0, 1]
    labels: Tensor  #: int64 [n]
    index: Tensor  #: int64 [n], the position of each image in the training set
    soft_labels: Tensor | None = None  #: [n, k] where a defense mixes classes
    erased: Tensor | None = None  #: bool [n, 1, h, w], the pixels that a defense has erased; None: none
    companions: Companions | None = None  #: as many as the batch has images, or none

    @property
    def targets(self) -> Tensor:
        """What the classification loss aims at: soft labels where there are any, else class indices."""
        return self.labels if self.soft_labels is None else self.soft_labels

    @property
    def seen_labels(self) -> Tensor:
        """The class of which each image shows most: int64 [n]."""
        return self.labels if self.soft_labels is None else self.soft_labels.argmax(1)


class Classify(Protocol):
    """The network as a training step runs it: under the run's numerics, in its training mode, on all devices.

    For the images of a batch, or as many others. ``torch.autograd.grad`` gives gradients with respect to
    images without touching those of the network.
    """

    def __call__(self, images: Tensor, taps: Sequence[str] = ()) -> Output:
        """What the network makes of ``images``, float [n, 3, h, w] in [0, 1]."""
        ...


@dataclass(frozen=True, kw_only=True)
class Trained:
    """A training that has ended, for what a defense says of it."""

    train: ImageSet  #: the private training images before ``Defense.on_dataset``
    test: ImageSet
    answers: Callable[[ImageSet], Tensor]  #: logits [n, k] on the CPU, of the network as it is attacked
    epochs: int  #: that were trained
    seed: int


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


@dataclass(frozen=True)
class Share:
    """The part of every batch that the process ``rank`` of ``world_size`` trains on."""

    rank: int = 0
    world_size: int = 1

    def of(self, batch: Tensor) -> Tensor:
        """The rows of this process. All processes get equally many, at least two for batch norm: where a
        batch cannot be divided so, its first rows are used once more, as torch's DistributedSampler does.
        """
        if self.world_size == 1:
            return batch
        size = max(2, math.ceil(len(batch) / self.world_size))
        return batch[torch.arange(self.rank * size, (self.rank + 1) * size) % len(batch)]


class EpochBatches:
    """The batches of a ``Sampler``, one epoch per iteration, from batch ``first`` of ``epoch`` on, as far as
    they are this process's.

    Lightning announces epochs only to its own samplers and iterates before its epoch hooks, so the count is
    kept here and checked by the module.
    """

    def __init__(self, sampler: Sampler, epoch: int, share: Share, first: int = 0):
        self.sampler = sampler
        self.epoch = epoch - 1
        self.share = share
        self._first = first

    def __iter__(self) -> Iterator[Tensor]:
        self.epoch += 1
        first, self._first = self._first, 0
        return map(self.share.of, itertools.islice(self.sampler.batches(self.epoch), first, None))

    def __len__(self) -> int:
        return len(self.sampler.batches(max(self.epoch, 0)))
