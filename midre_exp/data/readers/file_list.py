"""What the official datasets share: a reader lists files and labels per part, the rest (decoding, cache,
fingerprint) is done here.
"""

from __future__ import annotations

import os
import stat
from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import ClassVar

import torch
from torch import Tensor

from midre_exp.data.base import Dataset, ImageSet, Part, Role
from midre_exp.data.cache import abbreviate, cached_images
from midre_exp.data.readers.picture import read_picture
from midre_exp.data.transforms.base import Transform, describe
from midre_exp.errors import ConfigError, DataError
from midre_exp.plan.config import digest

PARTS: dict[Role, tuple[Part, ...]] = {"private": ("train", "test"), "public": ("public",)}
#: The one class of images nobody is named on.
UNLABELLED = ("unlabelled",)


@dataclass(frozen=True)
class Listing:
    """The images of one part in order: ``names`` relative to the root with "/", ``labels`` the index into
    ``classes`` of each, ``boxes`` None or the (left, upper, right, lower) pixels each is cut to.
    """

    names: tuple[str, ...]
    labels: tuple[int, ...]
    classes: tuple[str, ...]
    boxes: tuple[tuple[int, int, int, int], ...] | None = None

    def rows(self, rows: Sequence[int]) -> Listing:
        """These rows in this order."""
        boxes = None if self.boxes is None else tuple(self.boxes[row] for row in rows)
        names, labels = tuple(self.names[row] for row in rows), tuple(self.labels[row] for row in rows)
        return Listing(names, labels, self.classes, boxes)


class ListedDataset(Dataset):
    """A dataset of image files whose parts are lists.

    ``root``: the official download, relative to the working directory if not absolute. ``picture``: the steps
    from a decoded file to its pixels, ``size`` x ``size``; a step given as a partial takes ``size`` from
    here, so that one key changes both. ``store``: root of the artifact store, where decoded images are
    cached. Construction touches no file.
    """

    title: ClassVar[str]

    def __init__(
        self,
        *,
        root: str | Path,
        picture: Sequence[Transform | partial[Transform]],
        size: int,
        store: str | Path,
    ):
        if not picture:
            raise ConfigError(f"{self.title} has no picture steps; end data.*.picture with a Resize")
        self.root = Path(root).expanduser().absolute()
        self.picture = tuple(step if isinstance(step, Transform) else step(size=size) for step in picture)
        self.size = size
        self.store = store
        self._listings: dict[Part, Listing] = {}

    @abstractmethod
    def listing(self, part: Part) -> Listing:
        """The files of a part. Raises DataError naming what is missing or wrong and the remedy."""

    def list_once(self, part: Part) -> Listing:
        """``listing``, worked out once, checked for images that appear twice or not at all."""
        if part not in ("train", "test", "public"):
            raise ConfigError(f"part {part!r} is unknown; use train, test or public")
        if part not in self._listings:
            listing = self.listing(part)
            if not listing.names:
                raise DataError(f"the {part} part of {self.title} in {self.root} has no images")
            if len(set(listing.names)) < len(listing.names):
                seen: set[str] = set()
                twice = [name for name in listing.names if name in seen or seen.add(name)]  # type: ignore[func-returns-value]
                raise DataError(
                    f"{self.title} lists {abbreviate(twice)} more than once; correct the list or rename the copies"
                )
            self._listings[part] = listing
        return self._listings[part]

    def load(self, part: Part) -> ImageSet:
        """The images of a part, memory-mapped from the cache; decoded on first use. Raises DataError naming
        unreadable files.
        """
        listing = self.list_once(part)

        def read(row: int) -> Tensor:
            box = None if listing.boxes is None else listing.boxes[row]
            return self._of_size(read_picture(self.root / listing.names[row], self.picture, box))

        content = self._content(part)
        images = cached_images(
            self.store,
            digest(content),
            names=listing.names,
            labels=listing.labels,
            read=read,
            title=f"{self.title} ({part})",
            config={**content, "part": part},
        )
        return ImageSet(self._of_size(images), torch.tensor(listing.labels), listing.classes)

    def fingerprint(self, role: Role) -> dict[str, object]:
        """Names, sizes and labels of the files of a role, hashed, and the picture steps; not where the tree
        lies.
        """
        parts = {part: self._content(part)["files"] for part in PARTS[role]}
        return {"dataset": self.title, "picture": describe(self.picture), "files": digest(parts)}

    def count_images(self, role: Role) -> int | None:
        """The number of images listed; whether each of them exists is not looked at."""
        return sum(len(self.list_once(part).names) for part in PARTS[role])

    def num_identities(self) -> int:
        """Those whom the training part lists."""
        return len(self.list_once("train").classes)

    def _of_size(self, images: Tensor) -> Tensor:
        """The pixels [.., h, w] themselves. Raises DataError unless they are ``size`` x ``size``."""
        height, width = images.shape[-2:]
        if (height, width) != (self.size, self.size):
            raise DataError(
                f"{self.title}: data.*.picture makes {width}x{height} px where data.*.size={self.size}; "
                "end it with a Resize that takes its size from there"
            )
        return images

    def _content(self, part: Part) -> dict[str, object]:
        """Everything the cached pixels and labels of a part are made from."""
        listing = self.list_once(part)
        sizes = _sizes(self.root, listing.names, self.title)
        files = [listing.names, sizes, listing.labels, listing.boxes]
        return {
            "dataset": self.title,
            "reader": READER_VERSION,
            "picture": describe(self.picture),
            "files": digest(files),
        }


#: Raised by one when the pixels made from the same files and steps change.
READER_VERSION = 1


def _sizes(root: Path, names: Sequence[str], title: str) -> tuple[int, ...]:
    """The size in bytes of every file. Raises DataError naming the files that are absent."""
    sizes, absent = [], []
    for name in names:
        try:
            status = os.stat(f"{root}/{name}")  # noqa: PTH116  pathlib is slow for three million
        except (OSError, ValueError):  # ValueError: a list names what no file can be named
            absent.append(name)
            continue
        sizes.append(status.st_size)
        if not stat.S_ISREG(status.st_mode):  # opening a pipe would wait for ever
            absent.append(name)
    if absent:
        raise DataError(
            f"{title}: {len(absent)} of {len(names)} listed images are not in {root}: {abbreviate(absent)}; complete the download"
        )
    return tuple(sizes)
