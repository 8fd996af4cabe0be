"""What the readers of official data sets share: a reader lists files and labels per part, the rest (decoding,
cache, fingerprint, what to do about files that cannot be read or that are there twice) is done here.
"""

from __future__ import annotations

import hashlib
import logging
import os
import stat
from abc import abstractmethod
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import ClassVar, Literal

import torch
from torch import Tensor

from midre_exp.data.base import Dataset, ImageSet, Part, Role, SourceFile
from midre_exp.data.cache import UnreadableImagesError, abbreviate, cached_images
from midre_exp.data.picture import DECODER_VERSION, UNREADABLE, read_picture, reason
from midre_exp.data.readers.layout import warn_once
from midre_exp.data.readers.remarks import unread
from midre_exp.data.readers.unreadable import Policy, check_policy, find_unreadable, refusal, warn_left_out
from midre_exp.data.transforms.base import Transform, describe
from midre_exp.errors import ConfigError, DataError
from midre_exp.plan.code import code_of_classes
from midre_exp.plan.config import digest
from midre_exp.plan.ranges import Count
from midre_exp.store.contents import content_hashes
from midre_exp.store.data import keep_inventory
from midre_exp.store.store import Places

log = logging.getLogger(__name__)

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
    size: Count  # px of a side of the pixels made
    store: Places  # the artifact store, where decoded images are cached
    unreadable: Policy = "refuse"  # what to do when a listed file cannot be decoded: refuse | leave_out
    duplicates: Literal["tell", "refuse"] = "tell"  # files with the same content: told, or refused

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
        check_policy(self.unreadable)
        if self.duplicates not in ("tell", "refuse"):
            raise ConfigError(f"data.*.duplicates={self.duplicates} is unknown; use tell or refuse")
        self.foreign: Counter[str] = Counter()  # files passed over, by their endings
        self._file_lists: dict[Part, FileList] = {}
        self._digests: dict[Part, list[str]] = {}
        self._hashed: dict[Part, str] = {}
        self._without: frozenset[str] = frozenset()
        self._readable: dict[Role, FileListDataset] = {}

    @abstractmethod
    def list_files(self, part: Part) -> FileList:
        """The files of a part. Raises DataError naming what is missing or wrong and the remedy."""

    def file_list(self, part: Part) -> FileList:
        """``files``, worked out once, checked for images that appear twice or not at all."""
        if part not in ("train", "test", "public"):
            raise ConfigError(f"part {part!r} is unknown; use train, test or public")
        if part not in self._file_lists:
            files = self.list_files(part)
            if self._without:
                files = files.rows([row for row, name in enumerate(files.names) if self.keeps(name)])
            if not files.names:
                raise DataError(f"the {part} part of {self.title} in {self.root} has no images")
            if len(set(files.names)) < len(files.names):
                twice = [name for name, count in Counter(files.names).items() if count > 1]
                raise DataError(
                    f"{self.title} lists {abbreviate(twice)} more than once; correct the list or rename the "
                    "copies"
                )
            self._file_lists[part] = files
            for clause in unread(self.foreign):
                warn_once(log, f"{self.title} in {self.root}: {clause}")
        return self._file_lists[part]

    def load(self, part: Part) -> ImageSet:
        """The images of a part, memory-mapped from the cache; decoded on first use. Raises DataError naming
        unreadable files, those of the other part too.
        """
        files, role = self.file_list(part), _role_of(part)
        if not self._without:
            self._keep_inventory(role)
            if self.unreadable == "leave_out" and (readable := self._readable_files(role)) is not self:
                return readable.load(part)
        content = self._content(part)
        try:
            images = cached_images(
                self.store,
                digest(content),
                names=files.names,
                labels=files.labels,
                read=partial(self._decode, files),
                title=f"{self.title} ({part})",
                config={**content, "part": part},
            )
        except UnreadableImagesError as error:
            raise self._refusal(part, error) from error
        return ImageSet(self._of_size(images), torch.tensor(files.labels), files.classes)

    def fingerprint(self, role: Role) -> dict[str, object]:
        """Names, contents and labels of the files of a role, hashed, and the transforms; not where the
        layout lies.
        """
        return {
            "dataset": self.title,
            "decoder": DECODER_VERSION,
            "transforms": describe(self._transforms),
            "files": self.files_digest(role),
            **({} if self.unreadable == "refuse" else {"unreadable": self.unreadable}),
        }

    def files_digest(self, role: Role) -> str:
        """Names, contents and labels of the files of a role, hashed."""
        return digest({part: self._content(part)["files"] for part in PARTS[role]})

    def source_files(self, role: Role) -> list[SourceFile]:
        """Every file of a role."""
        return [
            SourceFile(part, name, files.classes[label], content)
            for part in PARTS[role]
            for files in [self.file_list(part)]
            for name, label, content in zip(files.names, files.labels, self._contents(part), strict=True)
        ]

    def file_contents(self, role: Role) -> dict[str, str]:
        """SHA-256 of the files of a role by their names."""
        return {
            name: content
            for part in PARTS[role]
            for name, content in zip(self.file_list(part).names, self._contents(part), strict=True)
        }

    def left_out(self, role: Role) -> int:
        """How many files of a role cannot be read and are left out."""
        return len(self._readable_files(role)._without) if self.unreadable == "leave_out" else 0

    def keeps(self, name: str) -> bool:
        """Whether a file, named relative to the root, is to be listed: one that is left out is as if it were
        not there, except that it counts among what a complete download has.
        """
        return name not in self._without

    def count_images(self, role: Role) -> int | None:
        """The number of images listed; whether each of them exists is not looked at."""
        return sum(len(self.file_list(part).names) for part in PARTS[role])

    def num_identities(self) -> int:
        """Those of the training part."""
        return len(self.class_names())

    def class_names(self) -> tuple[str, ...]:
        """Those of the training part, in the order of the papers' code (told where each class is defined)."""
        return self.file_list("train").classes

    def _keep_inventory(self, role: Role) -> None:
        keep_inventory(
            self.store,
            title=f"{self.title} ({role})",
            root=self.root,
            files=self.files_digest(role),
            contents=partial(self.file_contents, role),
        )

    def _decode(self, files: FileList, row: int) -> Tensor:
        """One image. Raises one of ``UNREADABLE`` with the reason as its text."""
        path = self.root / files.names[row]
        box = None if files.boxes is None else files.boxes[row]
        try:
            return self._of_size(read_picture(path, self._transforms, box, official=True))
        except UNREADABLE as error:
            raise ValueError(reason(error, path)) from error

    def _readable_files(self, role: Role) -> FileListDataset:
        """The dataset without the files of a role that cannot be read; itself where there are none."""
        if role not in self._readable:
            reasons = {name: why for part in PARTS[role] for name, why in self._unreadable(part).items()}
            self._readable[role] = self
            if reasons:
                total = sum(len(self.file_list(part).names) for part in PARTS[role])
                warn_left_out(f"{self.title} ({role})", total, reasons, self.store)
                other = replace(self)
                other._without = frozenset(reasons)
                other._require_everybody(role)
                self._readable[role] = other
        return self._readable[role]

    def _require_everybody(self, role: Role) -> None:
        """Raise DataError when what was left out leaves an identity nothing to train on."""
        if role == "private":
            files = self.file_list("train")
            trained = set(files.labels)
            if gone := [name for label, name in enumerate(files.classes) if label not in trained]:
                raise DataError(
                    f"{self.title} in {self.root} has no readable image of {abbreviate(gone)} to train on; "
                    "download these again or remove their folders"
                )

    def _unreadable(self, part: Part) -> dict[str, str]:
        """Why files of a part cannot be read, by name."""
        return find_unreadable(
            self.root,
            self.file_list(part).names,
            [content or None for content in self._contents(part)],
            self.store,
            official=True,
            title=f"{self.title} ({part})",
        )

    def _refusal(self, part: Part, error: UnreadableImagesError) -> DataError:
        """The error for unreadable files of a part, with those of the other part of its role."""
        role, reasons = _role_of(part), dict(error.reasons)
        for other in PARTS[role]:
            if other != part:
                reasons |= self._unreadable(other)
        total = sum(len(self.file_list(each).names) for each in PARTS[role])
        return refusal(f"{self.title} ({role})", total, reasons, self.store)

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
        return {
            "dataset": self.title,
            "decoder": DECODER_VERSION,
            "transforms": describe(self._transforms),
            "files": self._rows_digest(part),
            **code_of_classes([type(self), *map(type, self._transforms)]),
        }

    def _rows_digest(self, part: Part) -> str:
        """Names, contents, labels and boxes of a part, hashed once."""
        if part in self._hashed:
            return self._hashed[part]
        files = self.file_list(part)
        hashed = hashlib.sha256(repr(files.classes).encode("utf-8", "surrogateescape"))
        boxes = files.boxes or [None] * len(files.names)
        for row in zip(files.names, self._contents(part), files.labels, boxes, strict=True):
            hashed.update(f"{row!r}\n".encode("utf-8", "surrogateescape"))
        self._hashed[part] = hashed.hexdigest()[:16]
        return self._hashed[part]

    def _contents(self, part: Part) -> list[str]:
        """The SHA-256 of every file of a part; "" for one that cannot be opened. Raises DataError naming the
        files that are absent.
        """
        if part not in self._digests:
            names = self.file_list(part).names
            found = content_hashes(self.root, names, self.store, title=f"{self.title} ({part})")
            unopened = [name for name, content in zip(names, found, strict=True) if not content]
            require_files(self.root, unopened, of=len(names), title=self.title)
            self._digests[part] = [content or "" for content in found]
        return self._digests[part]


def _role_of(part: Part) -> Role:
    return "public" if part == "public" else "private"


def require_files(root: Path, names: Sequence[str], *, of: int, title: str) -> None:
    """Raise DataError for those of the ``of`` listed files that are not there; others may be unreadable."""
    absent = []
    for name in names:
        try:
            status = os.stat(f"{root}/{name}")  # noqa: PTH116  pathlib is slow for three million
        except (OSError, ValueError):  # ValueError: a list names what no file can be named
            absent.append(name)
        else:
            if not stat.S_ISREG(status.st_mode):  # opening a pipe would wait for ever
                absent.append(name)
    if absent:
        raise DataError(
            f"{title}: {len(absent)} of {of} listed images are not in {root}: {abbreviate(absent)}; complete "
            "the download"
        )
