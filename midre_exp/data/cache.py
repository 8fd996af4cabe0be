"""Images decoded or rendered once: a block of 8-bit pixels in the artifact store, mapped into memory by
everyone who needs it.

An ``images`` artifact holds ``pixels.u8`` (uint8 [n, 3, h, w], row-major) and ``files.txt`` (one name and
label per row, so that a split can be repeated elsewhere). The key of decoded ones is a hash of the listed
names, of what the files hold, and of the transforms; that of rendered ones, of what is rendered and by which
code. Building it is resumable and guarded by the store's lock, so several jobs make the images of one dataset
once; a file unchanged since it was last verified is not hashed again.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from midre_exp.data.block import Block, mapped, threads
from midre_exp.data.picture import UNREADABLE
from midre_exp.errors import DataError
from midre_exp.store.store import Places, Store, Workspace

PIXELS = "pixels.u8"  # the block of an artifact


class UnreadableImagesError(DataError):
    """Images that cannot be decoded: ``reasons`` by the name of the file, ``title`` of the part and how many
    it has.
    """

    def __init__(self, title: str, count: int, reasons: Mapping[str, str]):
        self.title, self.count, self.reasons = title, count, dict(reasons)
        named = abbreviate([f"{name} ({why})" for name, why in self.reasons.items()])
        super().__init__(
            f"{title}: {len(reasons)} of {count} images cannot be read: {named}; download them again"
        )


_BLOCK = 1024  # images between two notes of progress


def abbreviate(names: Sequence[str]) -> str:
    """The first names for a message, and how many more there are."""
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")


def cached_images(
    store: Places,
    key: str,
    *,
    names: Sequence[str],
    labels: Sequence[int],
    read: Callable[[int], Tensor],
    title: str,
    config: dict[str, object],
) -> Tensor:
    """The images uint8 [n, 3, h, w] of ``names``, memory-mapped (copy-on-write); decoded by ``read(row)`` if
    the store lacks ``key``.

    ``read`` raises one of ``UNREADABLE`` with the reason as its text. Raises UnreadableImagesError naming
    every such file, and DataError for files whose size differs from the first.
    """
    artifact = Store(store).build(
        "images",
        key,
        config=config,
        upstream={},
        make=lambda work: _decode(work, names, labels, read, title),
        reread=False,
    )
    return mapped(artifact, PIXELS, len(names))


def _decode(
    work: Workspace, names: Sequence[str], labels: Sequence[int], read: Callable[[int], Tensor], title: str
) -> None:
    """Fill the block of the artifact from where an interrupted attempt stopped."""
    shape = (len(names), *_first_shape(names, read, title))
    block = Block(work, PIXELS, shape, title)
    reasons: dict[str, str] = {}

    def decode(row: int) -> bool:
        """Whether the row's file could be read."""
        try:
            image = read(row)
        except UNREADABLE as error:
            reasons[names[row]] = str(error)
            return False
        except DataError as error:  # of a transform, which knows no names
            raise DataError(f"{names[row]}: {error}") from error
        if tuple(image.shape) != shape[1:]:
            raise DataError(
                f"{names[row]} becomes {image.shape[1]}x{image.shape[2]} px, {names[0]} "
                f"{shape[2]}x{shape[3]} px; "
                "end data.*.transforms with a Resize"
            )
        block.numbers[row] = image.numpy()
        return True

    # Pillow decodes and resizes outside the interpreter lock, so threads do; map keeps the order.
    pool = ThreadPoolExecutor(threads())
    try:
        block.fill(
            lambda _, rows: [row for row, good in zip(rows, pool.map(decode, rows), strict=True) if not good],
            at_once=_BLOCK,
            doing="decoding",
        )
        block.mended([row for row in block.missing if decode(row)])  # since an earlier attempt
    finally:
        pool.shutdown(cancel_futures=True)  # after Ctrl-C, do not read the rest
    if block.missing:  # each was tried again just now
        bad = {names[row]: reasons[names[row]] for row in block.missing}
        raise UnreadableImagesError(title, len(names), bad)
    _publish(work, block, names, labels)


def rendered_images(
    store: Places,
    key: str,
    *,
    size: int,
    names: Sequence[str],
    labels: Sequence[int],
    render: Callable[[Tensor, range], None],
    title: str,
    config: dict[str, object],
) -> Tensor:
    """The images uint8 [n, 3, size, size] of ``names``, memory-mapped (copy-on-write); if the store lacks
    ``key``, made by ``render``, which fills some rows of all images that it is given.
    """

    def make(work: Workspace) -> None:
        block = Block(work, PIXELS, (len(names), 3, size, size), title)

        def some(pixels: NDArray[np.uint8], rows: range) -> list[int]:
            render(torch.from_numpy(pixels[rows.start : rows.stop]), rows)
            return []

        block.fill(some, at_once=_BLOCK, doing="rendering")
        _publish(work, block, names, labels)

    artifact = Store(store).build("images", key, config=config, upstream={}, make=make, reread=False)
    return mapped(artifact, PIXELS, len(names))


def _publish(work: Workspace, block: Block, names: Sequence[str], labels: Sequence[int]) -> None:
    block.publish()
    lines = [f"{name} {label}\n" for name, label in zip(names, labels, strict=True)]
    work.save_file("files.txt", os.fsencode("".join(lines)))  # names in whatever bytes the disk has them


def _first_shape(names: Sequence[str], read: Callable[[int], Tensor], title: str) -> tuple[int, int, int]:
    """The shape of the first readable image."""
    reasons = {}
    for row in range(len(names)):
        try:
            channels, height, width = read(row).shape
        except UNREADABLE as error:
            reasons[names[row]] = str(error)
            continue
        except DataError as error:
            raise DataError(f"{names[row]}: {error}") from error
        return channels, height, width
    raise UnreadableImagesError(title, len(names), reasons)
