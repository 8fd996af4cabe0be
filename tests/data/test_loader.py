"""Where training images lie, and the thread that prefetches batches."""

from __future__ import annotations

import threading
import time

import pytest
import torch

from midre_exp.data.base import ImageSet
from midre_exp.data.loader import BatchLoader, place_images
from midre_exp.errors import ConfigError


def some_images(n: int = 10) -> ImageSet:
    images = torch.arange(n, dtype=torch.uint8).view(n, 1, 1, 1).expand(n, 3, 2, 2)
    return ImageSet(images, torch.arange(n) % 3, ("a", "b", "c"))


def prefetch_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "prefetch"]


@pytest.mark.parametrize("prefetch", [False, True])
def test_every_epoch_gives_the_batches_of_the_sampler(prefetch):
    sampler = [torch.tensor([3, 1]), torch.tensor([0]), torch.tensor([9, 8, 7])]
    batches = BatchLoader(some_images(), sampler, prefetch=prefetch)
    assert len(batches) == 3
    for _ in range(2):
        for (images, labels, index), expected in zip(batches, sampler, strict=True):
            assert torch.equal(index, expected)
            assert torch.equal(images[:, 0, 0, 0].long(), expected)
            assert torch.equal(labels, expected % 3)


def test_an_iterator_that_is_never_used_asks_for_no_epoch():
    asked = []

    class Counting:
        def __iter__(self):
            asked.append(1)
            return iter([torch.tensor([0])])

        def __len__(self):
            return 1

    batches = BatchLoader(some_images(), Counting(), prefetch=False)
    iter(batches)
    assert not asked
    list(batches)
    assert len(asked) == 1


def test_batches_are_gathered_while_the_reader_works_but_not_without_end():
    taken = []

    class Watched(list):
        def __iter__(self):
            for item in super().__iter__():
                taken.append(item)
                yield item

    loader = iter(BatchLoader(some_images(), Watched([torch.tensor([i]) for i in range(10)]), prefetch=True))
    next(loader)
    deadline = time.monotonic() + 5
    while len(taken) < 3 and time.monotonic() < deadline:
        time.sleep(0.01)
    time.sleep(0.05)
    assert 3 <= len(taken) <= 5
    loader.close()


def test_the_thread_ends_with_an_epoch_that_is_left_early():
    loader = iter(BatchLoader(some_images(), [torch.tensor([i]) for i in range(10)], prefetch=True))
    next(loader)
    assert prefetch_threads()
    loader.close()
    assert not prefetch_threads()


def test_an_error_while_gathering_reaches_the_reader():
    with pytest.raises(IndexError):
        list(BatchLoader(some_images(), [torch.tensor([0]), torch.tensor([99])], prefetch=True))
    assert not prefetch_threads()


def test_ram_is_a_copy_and_mapped_is_not():
    images = some_images()
    cpu = torch.device("cpu")
    assert place_images(images, cpu, "mapped") is images
    assert place_images(images, cpu, "auto") is images
    copy = place_images(images, cpu, "ram")
    assert torch.equal(copy.images, images.images)
    assert copy.images.data_ptr() != images.images.data_ptr()


def test_device_moves_images_and_labels():
    moved = place_images(some_images(), torch.device("meta"), "device")
    assert moved.images.is_meta
    assert moved.labels.is_meta


def test_another_placement_is_refused():
    with pytest.raises(
        ConfigError, match=r"runtime\.image_placement=moon is unknown; use auto, mapped, ram or device"
    ):
        place_images(some_images(), torch.device("cpu"), "moon")
