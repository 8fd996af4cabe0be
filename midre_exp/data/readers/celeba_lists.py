"""The list files by which the 64 px attacks split CelebA: `107724.jpg 0` per private image, `075673.jpg` per
public one.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Mapping
from pathlib import Path

from midre_exp.data.base import Part
from midre_exp.data.cache import abbreviate
from midre_exp.data.readers.layout import is_count, lines_of, warn_once, wrong_line
from midre_exp.errors import DataError

LISTS: dict[Part, str] = {"train": "trainset.txt", "test": "testset.txt", "public": "ganset.txt"}
#: SHA-256 of the published training list as lines of <stem> <label>; published checkpoints belong to it.
PUBLISHED_TRAIN = "817fd78c373c69602aa67896aa41a7c9c696f98c04eca1ec1438340b49e0eab5"

Splits = dict[Part, list[tuple[str, int]]]  # rows of (stem, label)

log = logging.getLogger(__name__)


def read_lists(files: Mapping[Part, Path]) -> Splits:
    """The three lists. Raises DataError for wrong lines, images listed twice, gaps in the labels and labels
    never trained on.

    A warning says when the training list is not the published one.
    """
    splits: Splits = {part: _read_list(path, part) for part, path in files.items()}
    text = "".join(f"{stem} {label}\n" for stem, label in splits["train"])
    if hashlib.sha256(text.encode()).hexdigest() != PUBLISHED_TRAIN:
        warn_once(
            log,
            f"CelebA: {files['train']} is not the published list; published checkpoints do not belong to it",
        )
    labels = {label for _, label in splits["train"]}
    if labels != set(range(len(labels))):
        raise DataError(
            f"{files['train']} uses {len(labels)} labels up to {max(labels)}; they must be 0, 1, ... without "
            "gaps"
        )
    if strange := sorted({label for _, label in splits["test"]} - labels):
        unknown = abbreviate([str(label) for label in strange])
        raise DataError(
            f"{files['test']} uses the labels {unknown}, which have no training image; correct the lists"
        )
    if both := sorted({stem for stem, _ in splits["train"]} & {stem for stem, _ in splits["test"]}):
        raise DataError(f"{files['train']} and {files['test']} share {abbreviate(both)}; correct the lists")
    return splits


def _read_list(path: Path, part: Part) -> list[tuple[str, int]]:
    """(stem, label) per line of a list file; public lists may carry a second column, which is ignored."""
    rows: dict[str, int] = {}
    for number, words in lines_of(path):
        fits = len(words) in (1, 2) if part == "public" else len(words) == 2 and is_count(words[1])
        if not fits:
            expected = "<image>" if part == "public" else "<image> <label>"
            raise wrong_line(path, number, words, expected)
        stem = Path(words[0]).stem
        if stem in rows:
            raise DataError(f"{path} line {number} lists {words[0]} a second time; correct the list")
        rows[stem] = 0 if part == "public" else int(words[1])
    if not rows:
        raise DataError(f"{path} holds no rows; download it again")
    return list(rows.items())
