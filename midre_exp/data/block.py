"""Pictures that are made once and mapped into memory by everyone who needs them: one block of numbers in an
artifact, filled part by part, so that a kill loses no more than the part at hand.
"""

from __future__ import annotations

import hashlib
import logging
import math
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from midre_exp.errors import StoreError
from midre_exp.store.artifact import Artifact, Workspace
from midre_exp.store.files import read_json, write_json
from midre_exp.store.progress import Progress

_log = logging.getLogger(__name__)

#: The numbers of a block, by the ending of its file.
KINDS: dict[str, type[np.generic]] = {"u8": np.uint8, "f32": np.float32}
_SIDES = ("count", "channels", "height", "width")
_MOST_THREADS = 16
_BAR_FROM = 2000  # images; fewer take a few seconds

#: Makes some rows of the whole block [n, c, h, w] in place; returns those that it could not make.
Make = Callable[[NDArray[Any], range], Sequence[int]]


def threads() -> int:
    """How many threads may make images here: one for each core that this process may use, a few at most."""
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(_MOST_THREADS, usable)


class Block:
    """The file ``name`` of images [n, c, h, w] in a work folder; its ending says of what numbers (``KINDS``).

    What an interrupted attempt has filled is kept if its bytes are those that it noted. ``missing``: the rows
    that could not be made.
    """

    def __init__(self, work: Workspace, name: str, shape: tuple[int, int, int, int], title: str):
        self._work, self._file, self._note = work, work.path / name, work.path / "filled.json"
        self._title = title
        start, self.missing, seal = _noted(self._note, shape[0]) if self._file.exists() else (0, [], "")
        kind = KINDS[self._file.suffix[1:]]
        self.numbers: NDArray[Any] = np.memmap(self._file, kind, mode="r+" if start else "w+", shape=shape)
        self._digest = self._digest_of(self.numbers[:start])
        if start and self._digest.hexdigest() != seal:
            _log.warning("%s is not what was noted of it; making %s from the start", self._file, title)
            start, self.missing, self._digest = 0, [], self._digest_of(self.numbers[:0])
        self._filled = start

    def fill(self, make: Make, *, at_once: int, doing: str) -> None:
        """All rows that are not there yet, ``at_once`` between two notes on disk of how far it has come."""
        count = len(self.numbers)
        with Progress(f"{doing} {self._title}", count, self._filled, bar=count > _BAR_FROM) as bar:
            for first in range(self._filled, count, at_once):
                rows = range(first, min(first + at_once, count))
                self.missing += make(self.numbers, rows)
                self._filled = rows.stop
                self._digest.update(np.ascontiguousarray(self.numbers[first : rows.stop]).data)
                self._write_note()
                bar.update(len(rows))

    def mended(self, rows: Sequence[int]) -> None:
        """Rows that were ``missing`` have been made after all."""
        if rows:
            self.missing = [row for row in self.missing if row not in rows]
            self._digest = self._digest_of(self.numbers)
            self._write_note()

    def publish(self) -> None:
        """Hand the whole block to the artifact."""
        self.numbers.flush()  # type: ignore[attr-defined]  # a memory map
        self._work.adopt_file(self._file.name, self._file)
        self._work.metrics.update(zip(_SIDES, self.numbers.shape, strict=True))

    def _write_note(self) -> None:
        self.numbers.flush()  # type: ignore[attr-defined]  # the note must never be ahead of the pixels
        seal = self._digest.hexdigest()
        write_json(self._note, {"rows": [self._filled], "bad": self.missing, "sha256": seal})

    def _digest_of(self, numbers: NDArray[Any]) -> Any:
        """A running SHA-256 of rows, begun with the artifact they are for: rows of another may have the same
        shape.
        """
        digest = hashlib.sha256(self._work.path.name.encode() + b"\0")
        digest.update(np.ascontiguousarray(numbers).data)
        return digest


def mapped(artifact: Artifact, name: str, count: int) -> Tensor:
    """The images [count, c, h, w] of a published block, memory-mapped (copy-on-write). Raises StoreError for
    an artifact that does not hold as many.
    """
    file, kind = artifact.path / name, KINDS[name.rpartition(".")[2]]
    sides = [artifact.metrics.get(side) for side in _SIDES]
    shape = tuple(side for side in sides if type(side) is int and side > 0)
    size = math.prod(shape) * np.dtype(kind).itemsize
    if len(shape) != len(sides) or shape[0] != count or file.stat().st_size != size:
        raise StoreError(f"{artifact.path} does not hold the images it says; delete it to make them again")
    return torch.from_numpy(np.memmap(file, kind, mode="c", shape=shape))


def _noted(note: Path, count: int) -> tuple[int, list[int], str]:
    """How many rows an earlier attempt has filled, which of them it could not, and the checksum of them all;
    none where its note is garbled.
    """
    try:
        done = read_json(note)
        start, missing, seal = done["rows"][0], list(done["bad"]), str(done["sha256"])
    except (StoreError, KeyError, IndexError, TypeError):  # no note, or another's
        return 0, [], ""
    rows = [start, *missing]
    if not all(type(row) is int and 0 <= row <= count for row in rows) or count in missing:
        return 0, [], ""
    return start, missing, seal
