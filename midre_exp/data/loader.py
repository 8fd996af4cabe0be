"""The way of a training batch: from image memory, gathered by index, to the compute device.

An ``ImageSet`` is 8-bit and lies where ``place_images`` put it (disk cache, main memory or GPU memory). A
``BatchLoader`` gathers the rows that its batch sampler names; with ``prefetch`` a thread gathers the next
batches meanwhile. The training module then makes float images of them on the device (``to_float``) and
augments there.
"""

from __future__ import annotations

import contextlib
import queue
import threading
from collections.abc import Iterator
from dataclasses import replace
from typing import Protocol

import torch
from torch import Tensor

from midre_exp import seeding
from midre_exp.data.base import ImageSet
from midre_exp.errors import ConfigError
from midre_exp.runtime import Placement, free_memory

#: Images uint8 [n, 3, h, w], labels int64 [n], their rows in the set int64 [n].
Batch = tuple[Tensor, Tensor, Tensor]

_MEMORY_SHARE = 0.4  # of the free GPU memory that ``auto`` gives to images; networks need the rest
_PREFETCHED = 2  # batches gathered before they are asked for


def place_images(images: ImageSet, device: torch.device, placement: Placement) -> ImageSet:
    """The same images in the memory from which batches are gathered.

    ``device``: the memory of ``device``, so that no batch is copied to it. ``ram``: read once into main
    memory. ``mapped``: as loaded, a memory map of which the operating system keeps what is used often.
    ``auto``: ``device`` if it is a GPU and the images take at most two fifths of its free memory, else
    ``mapped``; what torch keeps without using it is free. Raises ConfigError for another word.
    """
    if placement == "auto":
        size = images.images.numel()
        fits = device.type == "cuda" and size <= _MEMORY_SHARE * (free_memory(device) or 0)
        placement = "device" if fits else "mapped"
    if placement == "device":
        return replace(images, images=images.images.to(device), labels=images.labels.to(device))
    if placement == "ram":
        return replace(images, images=images.images.clone())
    if placement == "mapped":
        return images
    raise ConfigError(f"runtime.image_placement={placement} is unknown; use auto, mapped, ram or device")


class BatchSampler(Protocol):
    """The rows (int64 [n]) of each batch; one iteration is one epoch."""

    def __iter__(self) -> Iterator[Tensor]: ...

    def __len__(self) -> int: ...


class BatchLoader:
    """One epoch of batches per iteration, in the order of ``sampler``, which is iterated anew each epoch.

    ``prefetch``: a thread gathers the coming batches while the current one is computed, in page-locked memory
    where a GPU waits for them.
    """

    def __init__(self, images: ImageSet, sampler: BatchSampler, *, prefetch: bool):
        self.images = images
        self._sampler = sampler
        self.prefetch = prefetch

    def __len__(self) -> int:
        return len(self._sampler)

    def __iter__(self) -> Iterator[Batch]:
        # The sampler is asked with the first batch, not with the iterator: Lightning makes iterators that it
        # never uses.
        batches = (self._gather(rows) for rows in self._sampler)
        yield from _prefetched(batches) if self.prefetch else batches

    def _gather(self, rows: Tensor) -> Batch:
        rows = rows.to(self.images.images.device)
        batch = self.images.images[rows], self.images.labels[rows], rows
        if self.prefetch and torch.cuda.is_available() and not rows.is_cuda:
            return batch[0].pin_memory(), batch[1].pin_memory(), batch[2].pin_memory()
        return batch


def _prefetched(batches: Iterator[Batch]) -> Iterator[Batch]:
    """The same batches, made in a thread; an error there is raised here, and the thread ends when the reader
    stops early.
    """
    ready: queue.Queue[Batch | BaseException | None] = queue.Queue(_PREFETCHED)
    stopped = threading.Event()

    def put(item: Batch | BaseException | None) -> None:
        """Wait for room, but not for a reader who has gone."""
        while not stopped.is_set():
            with contextlib.suppress(queue.Full):
                ready.put(item, timeout=0.1)
                return

    def work() -> None:
        try:
            for batch in batches:
                put(batch)
                if stopped.is_set():
                    return
            put(None)
        except BaseException as error:  # the reader raises it
            put(error)

    thread = threading.Thread(target=work, name="prefetch", daemon=True)
    thread.start()
    try:
        while (item := ready.get()) is not None:
            if isinstance(item, BaseException):
                raise item
            yield item
    finally:
        stopped.set()
        thread.join()


class Shuffled:
    """Batches of row numbers of ``count`` images, in a new order each epoch, the incomplete last batch left
    out.

    ``purpose`` separates several passes over one set. Raises ConfigError when ``count`` does not fill a
    batch.
    """

    def __init__(self, count: int, batch_size: int, *, seed: int, purpose: str, device: torch.device):
        if not 0 < batch_size <= count:
            raise ConfigError(
                f"attack.prior.batch_size={batch_size} must lie between 1 and the {count} public images "
                "there are"
            )
        self.per_epoch = count // batch_size
        self._count, self._batch_size = count, batch_size
        self._seed, self._purpose = seed, purpose
        self._device = device
        self._epoch, self._order = -1, torch.empty(0)

    def rows(self, step: int) -> Tensor:
        """Row numbers int64 [batch_size] of the batch at ``step``, counted from the start of training."""
        epoch, batch = divmod(step, self.per_epoch)
        if epoch != self._epoch:
            draws = seeding.generator(self._seed, "prior", self._purpose, epoch)
            self._epoch, self._order = epoch, torch.randperm(self._count, generator=draws).to(self._device)
        return self._order[batch * self._batch_size : (batch + 1) * self._batch_size]
