"""The rows of the literature's splits, as the checksums of the cards name them."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from pathlib import Path

from midre_exp.data.base import Part
from midre_exp.data.readers.file_list import FileList

#: What stands in the rows of a reader's split before the label, and whether public rows are sorted.
_ENDINGS = {"lists": "", "ppa": ".jpg"}


def split_sums(kind: str, lists: Mapping[Part, FileList]) -> dict[str, str]:
    """SHA-256 by part: of lines of <stem> <label> for CelebA's published lists, of <stem>.jpg <label> for
    PPA's split, in the order of the split; of the public part the stems alone, sorted. Empty for a split
    whose rows nobody published.
    """
    if kind not in _ENDINGS:
        return {}
    ending = _ENDINGS[kind]
    sums: dict[str, str] = {}
    for part, files in lists.items():
        stems = [Path(name).stem + ending for name in files.names]
        if part == "public":
            sums[part] = _sum(sorted(stems))
        else:
            sums[part] = _sum(f"{stem} {label}" for stem, label in zip(stems, files.labels, strict=True))
    return sums


def _sum(lines: Iterable[str]) -> str:
    hashed = hashlib.sha256()
    for line in lines:
        hashed.update(f"{line}\n".encode())
    return hashed.hexdigest()
