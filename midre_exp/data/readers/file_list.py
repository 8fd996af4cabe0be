"""What the readers of official data sets share: a reader lists files and labels per part, the rest (decoding,
cache, fingerprint) is done here.
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
#: The one class of images without identities.
UNLABELLED = ("unlabelled",)


@dataclass(frozen=True)
class FileList:
    """The images of one part in order: ``names`` relative to the root with "/", ``labels`` the index into
    ``classes`` of each, ``boxes`` None or the (left, upper, right, lower) pixels each is cut to.
    """

    names: tuple[str, ...]
    labels: tuple[int, ...]
    classes: tuple[str, ...]
    boxes: tuple[tuple[int, int, int, int], ...] | None = None

    def rows(self, rows: Sequence[int]) -> FileList:
        """These rows in this order."""
        boxes = None if self.boxes is None else tuple(self.boxes[row] for row in rows)
        names, labels = tuple(self.names[row] for row in rows), tuple(self.labels[row] for row in rows)
        return FileList(names, labels, self.classes, boxes)


@dataclass(kw_only=True, eq=False)
class FileListDataset(Dataset):
    """A dataset of image files whose parts are lists. Construction touches no file."""

    root: Path  # the official download, relative to the working directory if not absolute
    # from a decoded file to its pixels; one given as a partial takes ``size`` from here, so that one key
    # changes both
    transforms: Sequence[Transform | partial[Transform]]
    size: int  # px of a side of the pixels made
    store: Path  # root of the artifact store, where decoded images are cached

    title: ClassVar[str]

    def __post_init__(self) -> None:
        self.root = Path(self.root).expanduser().absolute()
        if not self.transforms:
            raise ConfigError(f"{self.title} has no transforms; end data.*.transforms with a Resize")
        self._transforms = tuple(
            transform(size=self.size) if isinstance(transform, partial) else transform
            for transform in self.transforms
        )
        for transform in self._transforms:
            if not isinstance(transform, Transform):
                raise ConfigError(
                    f"data.*.transforms of {self.title} names {type(transform).__name__}, which does not "
                    "work "
                    "on pictures; use Crop, CenterCrop, Resize or ResizeShorterSide"
                )
        self._file_lists: dict[Part, FileList] = {}

    @abstractmethod
    def list_files(self, part: Part) -> FileList:
        """The files of a part. Raises DataError naming what is missing or wrong and the remedy."""

    def file_list(self, part: Part) -> FileList:
        """``files``, worked out once, checked for images that appear twice or not at all."""
        if part not in ("train", "test", "public"):
            raise ConfigError(f"part {part!r} is unknown; use train, test or public")
        if part not in self._file_lists:
            files = self.list_files(part)
            if not files.names:
                raise DataError(f"the {part} part of {self.title} in {self.root} has no images")
            if len(set(files.names)) < len(files.names):
                seen: set[str] = set()
                twice = [name for name in files.names if name in seen or seen.add(name)]  # type: ignore[func-returns-value]
                raise DataError(
                    f"{self.title} lists {abbreviate(twice)} more than once; correct the list or rename the "
                    "copies"
                )
            self._file_lists[part] = files
        return self._file_lists[part]

    def load(self, part: Part) -> ImageSet:
        """The images of a part, memory-mapped from the cache; decoded on first use. Raises DataError naming
        unreadable files.
        """
        files = self.file_list(part)

        def read(row: int) -> Tensor:
            box = None if files.boxes is None else files.boxes[row]
            return self._of_size(read_picture(self.root / files.names[row], self._transforms, box))

        content = self._content(part)
        images = cached_images(
            self.store,
            digest(content),
            names=files.names,
            labels=files.labels,
            read=read,
            title=f"{self.title} ({part})",
            config={**content, "part": part},
        )
        return ImageSet(self._of_size(images), torch.tensor(files.labels), files.classes)

    def fingerprint(self, role: Role) -> dict[str, object]:
        """Names, sizes and labels of the files of a role, hashed, and the transforms; not where the
        layout lies.
        """
        parts = {part: self._content(part)["files"] for part in PARTS[role]}
        return {"dataset": self.title, "transforms": describe(self._transforms), "files": digest(parts)}

    def count_images(self, role: Role) -> int | None:
        """The number of images listed; whether each of them exists is not looked at."""
        return sum(len(self.file_list(part).names) for part in PARTS[role])

    def num_identities(self) -> int:
        """Those of the training part."""
        return len(self.class_names())

    def class_names(self) -> tuple[str, ...]:
        """Those of the training part, in the order of the papers' code (told where each class is defined)."""
        return self.file_list("train").classes

    def _of_size(self, images: Tensor) -> Tensor:
        """The pixels [.., h, w] themselves. Raises DataError unless they are ``size`` x ``size``."""
        height, width = images.shape[-2:]
        if (height, width) != (self.size, self.size):
            raise DataError(
                f"{self.title}: data.*.transforms make {width}x{height} px where data.*.size={self.size}; "
                "end it with a Resize that takes its size from there"
            )
        return images

    def _content(self, part: Part) -> dict[str, object]:
        """Everything the cached pixels and labels of a part are made from."""
        files = self.file_list(part)
        sizes = _sizes(self.root, files.names, self.title)
        content = [files.names, sizes, files.labels, files.boxes]
        return {
            "dataset": self.title,
            "reader": READER_VERSION,
            "transforms": describe(self._transforms),
            "files": digest(content),
        }


#: Raised by one when the pixels made from the same files and transforms change.
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
            f"{title}: {len(absent)} of {len(names)} listed images are not in {root}: {abbreviate(absent)}; "
            "complete the download"
        )
    return tuple(sizes)
