"""Where training images wait for their batch, and how a batch reaches the device without making it wait."""

from __future__ import annotations

import contextlib
import queue
import threading
from collections.abc import Iterator
from dataclasses import replace
from typing import Literal, Protocol

import torch
from torch import Tensor

from midre_exp.data.base import ImageSet
from midre_exp.errors import ConfigError

Place = Literal["auto", "mapped", "ram", "device"]
Served = tuple[Tensor, Tensor, Tensor]
_SHARE = 0.4  # of the free GPU memory that ``auto`` gives to images; networks need the rest
_AHEAD = 2  # batches gathered before they are asked for


def serve(images: ImageSet, device: torch.device, place: Place) -> ImageSet:
    """The same images where batches are to be sliced from.

    ``device``: in the memory of ``device``, so that no batch is copied again. ``ram``: read once, then kept.
    ``mapped``: as they are; the operating system keeps what is used often. ``auto``: the GPU if there is one
    and the images take at most two fifths of its free memory, else ``mapped``. Raises ConfigError on another
    word.
    """
    if place == "auto":
        size = images.images.numel()
        fits = device.type == "cuda" and size <= _SHARE * torch.cuda.mem_get_info(device)[0]
        place = "device" if fits else "mapped"
    if place == "device":
        return replace(images, images=images.images.to(device), labels=images.labels.to(device))
    if place == "ram":
        return replace(images, images=images.images.clone())
    if place == "mapped":
        return images
    raise ConfigError(f"runtime.serve={place} is unknown; use auto, mapped, ram or device")


class Order(Protocol):
    """The positions of each batch, one epoch per iteration."""

    def __iter__(self) -> Iterator[Tensor]: ...

    def __len__(self) -> int: ...


class Batches:
    """One epoch of batches per iteration: images uint8 [n, 3, h, w], labels int64 [n], their positions int64
    [n].

    ``order`` gives the positions of each batch and is asked again for every epoch. With ``ahead`` a thread
    gathers coming batches, in page-locked memory where a GPU waits for them, while the current one is
    computed.
    """

    def __init__(self, images: ImageSet, order: Order, *, ahead: bool):
        self.images = images
        self.order = order
        self.ahead = ahead

    def __len__(self) -> int:
        return len(self.order)

    def __iter__(self) -> Iterator[Served]:
        # The order is asked with the first batch, not with the iterator: Lightning makes iterators it never
        # uses.
        batches = (self._gather(index) for index in self.order)
        yield from _read_ahead(batches) if self.ahead else batches

    def _gather(self, index: Tensor) -> Served:
        rows = index.to(self.images.images.device)
        batch = self.images.images[rows], self.images.labels[rows], rows
        if self.ahead and torch.cuda.is_available() and not rows.is_cuda:
            return batch[0].pin_memory(), batch[1].pin_memory(), batch[2].pin_memory()
        return batch


def _read_ahead(batches: Iterator[Served]) -> Iterator[Served]:
    """The same batches, made in a thread; an error there is raised here, and the thread ends when the reader
    stops early.
    """
    ready: queue.Queue[Served | BaseException | None] = queue.Queue(_AHEAD)
    stopped = threading.Event()

    def put(item: Served | BaseException | None) -> None:
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

    thread = threading.Thread(target=work, name="batches", daemon=True)
    thread.start()
    try:
        while (item := ready.get()) is not None:
            if isinstance(item, BaseException):
                raise item
            yield item
    finally:
        stopped.set()
        thread.join()
