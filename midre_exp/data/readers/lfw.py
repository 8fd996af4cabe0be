"""Labeled Faces in the Wild: 13,233 photographs of 5,749 people of public life, in the layouts of its three
archives and in those that libraries and re-packagers leave.

People with many pictures are private, all others are public. Pictures of a private person beyond
``max_images`` are used by nobody.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal

from PIL import Image

from midre_exp.data.base import Part, Role
from midre_exp.data.cache import abbreviate
from midre_exp.data.picture import UNREADABLE
from midre_exp.data.readers.file_list import FileList, FileListDataset
from midre_exp.data.readers.label_file import named_identities
from midre_exp.data.readers.layout import folder_names, image_names, is_count, require, warn_once
from midre_exp.data.readers.splits import drawn, hold_out_per_class
from midre_exp.data.transforms.crop import Crop
from midre_exp.errors import ConfigError, DataError
from midre_exp.plan.ranges import Count, Seed, Share

LAYOUT = """\
  <root>/lfw/Aaron_Eckhart/Aaron_Eckhart_0001.jpg ...     lfw.tgz: the pictures as they were found, or
  <root>/lfw_funneled/...                                 lfw-funneled.tgz: turned upright, or
  <root>/lfw-deepfunneled/...                             lfw-deepfunneled.tgz
or the folders of people right in <root>, or one of these below lfw/, lfw_home/ (scikit-learn), lfw-py/
(torchvision), archive/ or a folder of the same name (as others pack them)"""
#: Folders of people, and those that others put around them, in the order in which they are looked for.
VARIANTS = ("lfw", "lfw_funneled", "lfw-funneled", "lfw-deepfunneled", "lfw_deepfunneled")
_AROUND = ("lfw_home", "lfw-py", "lfw-dataset", "archive")
_DEEP = 4  # folders, down to those of people

log = logging.getLogger(__name__)

#: Pictures and people of the official set, as many in each of its three archives.
OFFICIAL = (13_233, 5_749)
SIDE = 250  # px of every picture of all three: the detector's box, enlarged 2.2 times about its centre

#: (row, column, side) of the squares that are cut out, the same of all three archives, none of which moves
#: the centre. ``face``: the rows 70 to 195 that scikit-learn's fetch_lfw_people takes, and as many columns
#: about the centre of the 94 that it takes. ``tight``: eyes to mouth, the box (83, 92) to (166, 175) of
#: LFWcrop (Sanderson and Lovell, 2009). ``none``: the whole picture.
CROPS = {"face": (70, 62, 125), "tight": (92, 83, 84), "none": None}


@dataclass(kw_only=True, eq=False)
class LFW(FileListDataset):
    """LFW as downloaded: label = rank of the person's folder among the private ones, by code point."""

    # the private people by folder name, or a file of names (``read_names``); None: all with ``min_images``
    private: Sequence[str | int | float | bool | None] | str | Path | None = None
    min_images: Count  # that a private person has at least
    max_images: Count | None  # that are used of a private person, drawn by ``seed``; None: all
    test_share: Share  # of each private person's used pictures, held out, in (0, 1)
    crop: Literal["face", "tight", "none"]  # of ``CROPS``; ``transforms`` come after it
    seed: Seed  # of both draws
    # whose pictures are train and test: the private people's | pretraining: of those public people who have
    # at least ``pretraining_min_images``, ``test_share`` of each held out
    pool: Literal["private", "pretraining"] = "private"
    pretraining_min_images: Count = 2

    title = "LFW"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.crop not in CROPS:
            raise ConfigError(f"data.*.crop={self.crop} is unknown; use {', '.join(CROPS)}")
        if self.pool not in ("private", "pretraining"):
            raise ConfigError(f"data.*.pool={self.pool} is unknown; use private or pretraining")
        if not 0 < self.test_share < 1:
            raise ConfigError(f"data.*.test_share={self.test_share} must lie between 0 and 1, e.g. 0.2")
        for key in ("min_images", "max_images", "pretraining_min_images"):
            if (least := getattr(self, key)) is not None and least < 2:
                raise ConfigError(
                    f"data.*.{key}={least} must be at least 2, one image to train on and one to test on"
                )
        if (box := CROPS[self.crop]) is not None:
            top, left, size = box
            self._transforms = (Crop(top=top, left=left, size=size), *self._transforms)

    def list_files(self, part: Part) -> FileList:
        """A part. Raises DataError where no folder of people is found or too few have enough pictures."""
        for told in self._smaller:
            warn_once(log, f"{told} ({self.root})")
        if part == "public":
            return self._of([name for name in self._people if name not in self._private], None)
        chosen = sorted(self._private) if self.pool == "private" else self._to_pretrain_on
        every = self._of(chosen, self.max_images if self.pool == "private" else None)
        ids = [Path(name).stem for name in every.names]  # so that another format is split alike
        train, test = hold_out_per_class(ids, every.labels, share=self.test_share, seed=self.seed)
        return every.rows(train if part == "train" else test)

    def alarms(self, role: Role) -> list[str]:
        """A copy that is not the whole set, told of the private people alone: once is enough."""
        return self._smaller if role == "private" and self.pool == "private" else []

    @cached_property
    def _smaller(self) -> list[str]:
        """A sentence about a copy that has other numbers than the official set."""
        found = (sum(map(len, self._people.values())), len(self._people))
        if found == OFFICIAL:
            return []
        copy, whole = (f"{images:,} pictures of {people:,} people" for images, people in (found, OFFICIAL))
        return [f"this copy of LFW has {copy}, the official set {whole}"]

    def _of(self, people: Sequence[str], most: int | None) -> FileList:
        """The pictures of some people, of each at most so many; label = position."""
        names: list[str] = []
        labels: list[int] = []
        for label, person in enumerate(people):
            files = [file for file in self._people[person] if self.keeps(file)]
            if most is not None:
                files = [files[row] for row in drawn([Path(f).stem for f in files], most, seed=self.seed)]
            names += files
            labels += [label] * len(files)
        return FileList(tuple(names), tuple(labels), tuple(people))

    @cached_property
    def _people(self) -> dict[str, tuple[str, ...]]:
        """Everybody's pictures by name."""
        home = _home(self.root, _DEEP)
        absent = [] if home else ["a folder with <Name>/<Name>_0001.jpg of each person"]
        require(self.root, absent, title=self.title, layout=LAYOUT)
        home = home or self.root
        prefix = "" if home == self.root else f"{home.relative_to(self.root).as_posix()}/"
        found = {person: _pictures(home, person) for person in folder_names(home)}
        people = {
            person: tuple(f"{prefix}{file}" for file in files) for person, files in found.items() if files
        }
        _require_side(self.root / next(iter(people.values()))[0], self.crop)
        return people

    @cached_property
    def _private(self) -> frozenset[str]:
        """The private people. Raises UserError for names that nobody has and for a choice of all or none."""
        key = "data.private_identities"
        if self.private is not None:
            named = named_identities(self.private, list(self._people), self.root)
            if short := sorted(name for name in named if len(self._people[name]) < 2):
                raise ConfigError(
                    f"{key} names {abbreviate(short)}, who have one picture; name people with two at least, "
                    "one to train and one to test on"
                )
            return frozenset(named)
        found = frozenset(name for name, files in self._people.items() if len(files) >= self.min_images)
        most = max(map(len, self._people.values()))
        if not found or len(found) == len(self._people):
            raise DataError(
                f"{len(found)} of the {len(self._people):,} people in {self.root} have "
                f"data.*.min_images={self.min_images} pictures (the most are {most}); give another number, "
                f"that some are private and others public, or name the private ones in {key}"
            )
        return found

    @cached_property
    def _to_pretrain_on(self) -> list[str]:
        """The public people with enough pictures. Raises DataError where they are fewer than two."""
        least = self.pretraining_min_images
        public = {name: files for name, files in self._people.items() if name not in self._private}
        found = sorted(name for name, files in public.items() if len(files) >= least)
        if len(found) < 2:
            raise DataError(
                f"{self.root} has nobody to pre-train on: {len(found)} of the {len(public):,} public people "
                f"have data.pretraining_min_images={least} pictures, and two are needed; lower it (the most "
                f"are {max(map(len, public.values()))}), or start from other weights than public"
            )
        return found


def _home(folder: Path, deep: int) -> Path | None:
    """The folder that holds a folder of pictures for each person, at or below ``folder``."""
    if not folder.is_dir():
        return None
    inner = folder_names(folder)
    if any(_pictures(folder, name) for name in inner if name not in (*VARIANTS, *_AROUND)):
        return folder
    known = [name for name in (*VARIANTS, *_AROUND) if name in inner]
    ways = known or (list(inner) if len(inner) == 1 else [])  # an archive's only folder, whatever its name
    homes = (_home(folder / name, deep - 1) for name in ways if deep)
    return next((home for home in homes if home is not None), None)


def _pictures(folder: Path, person: str) -> tuple[str, ...]:
    """The pictures <person>/<person>_<number>.<ending>, by number; other files there are none of LFW's."""
    files: list[tuple[int, str]] = []
    for file in image_names(folder / person):
        name, _, number = Path(file).stem.rpartition("_")
        if name == person and is_count(number):
            files.append((int(number), f"{person}/{file}"))
    return tuple(name for _, name in sorted(files))


def _require_side(path: Path, crop: str) -> None:
    """Raise DataError if a readable picture is not of the official size, so that a square would cut it
    elsewhere.
    """
    try:
        with Image.open(path) as picture:
            size = picture.size
    except UNREADABLE:
        return  # decoding names every unreadable file
    if CROPS[crop] is not None and size != (SIDE, SIDE):
        raise DataError(
            f"{path} has {size[0]}x{size[1]} px, the pictures of LFW have {SIDE}x{SIDE}; these are cut "
            "already, so give data.private.crop=none, or another root"
        )
