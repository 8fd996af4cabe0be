"""Images decoded once: a block of 8-bit pixels in the artifact store, mapped into memory by everyone who
needs it.

An ``images`` artifact holds ``pixels.u8`` (uint8 [n, 3, h, w], row-major) and ``files.txt`` (one name and
label per row, so that a split can be repeated elsewhere). Its key is a hash of the listed names, of what the
files hold, and of the transforms. Building it is resumable and guarded by the store's lock, so several jobs
decode one dataset once; a file unchanged since it was last verified is not hashed again.
"""

from __future__ import annotations

import hashlib
import logging
import math
import os
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from midre_exp.data.picture import UNREADABLE
from midre_exp.errors import DataError, StoreError
from midre_exp.store.files import read_json, write_json
from midre_exp.store.progress import Progress
from midre_exp.store.store import Places, Store, Workspace

_log = logging.getLogger(__name__)


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
_BAR_FROM = 2000  # images; fewer take a few seconds


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
    pixels = artifact.path / "pixels.u8"
    sides = [artifact.metrics.get(side) for side in ("count", "channels", "height", "width")]
    shape = tuple(side for side in sides if type(side) is int and side > 0)
    whole = len(shape) == len(sides) and shape[:2] == (len(names), 3)
    if not whole or pixels.stat().st_size != math.prod(shape):
        raise StoreError(f"{artifact.path} does not hold the images it says; delete it to decode them again")
    return torch.from_numpy(np.memmap(pixels, np.uint8, mode="c", shape=shape))


def _decode(
    work: Workspace, names: Sequence[str], labels: Sequence[int], read: Callable[[int], Tensor], title: str
) -> None:
    """Fill ``pixels.u8`` block by block from where an interrupted attempt stopped, and hand it to the
    artifact.
    """
    note, file = work.path / "decoded.json", work.path / "pixels.u8"
    start, bad, seal = _noted(note, len(names)) if file.exists() else (0, [], "")
    shape = (len(names), *_first_shape(names, read, title))
    pixels = np.memmap(file, np.uint8, mode="r+" if start else "w+", shape=shape)
    digest = _digest(work, pixels[:start])
    if start and digest.hexdigest() != seal:
        _log.warning("%s is not what was decoded into it; decoding %s from the start", file, title)
        start, bad, digest = 0, [], _digest(work, pixels[:0])

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
        pixels[row] = image.numpy()
        return True

    # Pillow decodes and resizes outside the interpreter lock, so threads do; map keeps the order.
    pool = ThreadPoolExecutor(min(16, os.cpu_count() or 1))
    try:
        with Progress(f"decoding {title}", len(names), start, bar=len(names) > _BAR_FROM) as bar:
            for first in range(start, len(names), _BLOCK):
                rows = range(first, min(first + _BLOCK, len(names)))
                bad += [row for row, good in zip(rows, pool.map(decode, rows), strict=True) if not good]
                pixels.flush()  # the note must never be ahead of the pixels
                digest.update(pixels[first : rows.stop])
                write_json(note, {"rows": [rows.stop], "bad": bad, "sha256": digest.hexdigest()})
                bar.update(len(rows))
        mended = [row for row in bad if decode(row)]  # since an earlier attempt
        if mended:
            bad = [row for row in bad if row not in mended]
            pixels.flush()
            write_json(note, {"rows": [len(names)], "bad": bad, "sha256": _digest(work, pixels).hexdigest()})
    finally:
        pool.shutdown(cancel_futures=True)  # after Ctrl-C, do not read the rest
    if bad:  # each was tried again just now
        raise UnreadableImagesError(title, len(names), {names[row]: reasons[names[row]] for row in bad})
    pixels.flush()
    work.adopt_file("pixels.u8", file)
    lines = [f"{name} {label}\n" for name, label in zip(names, labels, strict=True)]
    work.save_file("files.txt", os.fsencode("".join(lines)))  # names in whatever bytes the disk has them
    work.metrics.update(zip(("count", "channels", "height", "width"), shape, strict=True))


def _digest(work: Workspace, pixels: NDArray[np.uint8]) -> Any:
    """A running SHA-256 of decoded rows, begun with the artifact they are for: rows of another may have the
    same shape.
    """
    digest = hashlib.sha256(work.path.name.encode() + b"\0")
    digest.update(np.ascontiguousarray(pixels).data)
    return digest


def _noted(note: Path, count: int) -> tuple[int, list[int], str]:
    """How many rows an earlier attempt has decoded, which of them it could not read, and the checksum of them
    all; none where its note is garbled.
    """
    try:
        done = read_json(note)
        start, bad, seal = done["rows"][0], list(done["bad"]), str(done["sha256"])
    except (StoreError, KeyError, IndexError, TypeError):  # no note, or another's
        return 0, [], ""
    rows = [start, *bad]
    if not all(type(row) is int and 0 <= row <= count for row in rows) or count in bad:
        return 0, [], ""
    return start, bad, seal


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
