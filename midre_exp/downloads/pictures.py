"""Every picture of a data set, decoded and held against what is known of it."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from midre_exp.data.picture import UNREADABLE, open_rgb, reason
from midre_exp.store.progress import Progress

_BATCH = 4096
_BAR_FROM = 2000  # pictures; fewer take a few seconds
#: Hash functions by the digits of their sums.
_HASHES = {32: "md5", 64: "sha256"}


@dataclass
class Expected:
    """What is known of pictures: the names that runs read and their size, and checksums of any."""

    size: tuple[int, ...] | None = None  # width, height; None: any
    names: set[str] = field(default_factory=set)  # relative to the root
    sums: Mapping[str, str] = field(default_factory=dict)  # MD5 or SHA-256 by name


def check_pictures(root: Path, names: Sequence[str], expected: Expected) -> Iterator[tuple[str, str]]:
    """Name and reason of every picture that is missing, damaged, or not as expected, in the order of
    ``names``.
    """
    pool = ThreadPoolExecutor(min(16, os.cpu_count() or 1))  # Pillow decodes outside the interpreter lock
    try:
        with Progress("checking pictures", len(names), bar=len(names) > _BAR_FROM) as shown:
            for first in range(0, len(names), _BATCH):
                some = names[first : first + _BATCH]
                for name, why in zip(some, pool.map(partial(_look, root, expected), some), strict=True):
                    shown.update()
                    if why:
                        yield name, why
    finally:
        pool.shutdown(cancel_futures=True)  # after Ctrl-C, do not read the rest


def _look(root: Path, expected: Expected, name: str) -> str:
    """What is wrong with one picture, "" for nothing."""
    path = root / name
    try:
        picture = open_rgb(path, official=True)
        if name in expected.sums:
            wanted = expected.sums[name]
            found = hashlib.new(_HASHES[len(wanted)], path.read_bytes(), usedforsecurity=False).hexdigest()
            if found != wanted:
                return "readable, but not the published file (its checksum differs)"
    except FileNotFoundError:
        return "missing"
    except UNREADABLE as error:
        return reason(error, path)
    if name in expected.names and expected.size is not None and picture.size != expected.size:
        return "{}x{} px, not {}x{}".format(*picture.size, *expected.size)
    return ""
