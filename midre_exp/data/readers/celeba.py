"""CelebA: the identity split of the 64 px attacks (from its list files, or derived by its rule) and the split
of PPA.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal

from midre_exp.data.base import Part, Role
from midre_exp.data.cache import abbreviate
from midre_exp.data.readers.celeba_lists import LISTS, Splits, read_lists
from midre_exp.data.readers.file_list import PARTS, UNLABELLED, FileList, FileListDataset
from midre_exp.data.readers.layout import (
    first_existing,
    image_names,
    is_count,
    lines_of,
    require,
    warn_once,
    wrong_line,
)
from midre_exp.data.readers.splits import (
    drawn,
    frequent_by_number,
    hold_out_per_class,
    most_frequent,
    ninety_ten,
)
from midre_exp.errors import ConfigError, DataError
from midre_exp.plan.ranges import Count, Natural, Seed

LAYOUT = """\
  <root>/                               (or <root>/celeba/, with or without Img/ and Anno/)
    img_align_celeba/000001.jpg ...     202,599 images of 178x218 px, or img_align_celeba_png/000001.png ...
                                        (or img_align_celeba/img_align_celeba/, as Kaggle packs them)
    identity_CelebA.txt                 lines of <image> <identity>, or with commas, or identity_CelebA.csv;
                                        not needed beside the list files
    celeba_trainset.txt, celeba_testset.txt, celeba_ganset.txt
                                        optional: the attack literature's lists (or trainset.txt, testset.txt,
                                        ganset.txt)"""
IDENTITIES = "identity_CelebA.txt"
#: Folders of the high-resolution re-crop (HD-CelebA-Cropper, 224 px, face factor 0.65), as its tool names it.
RECROPPED = "align_size(224,224)_move(0.250,0.000)_face_factor(0.650)_jpg/data"

log = logging.getLogger(__name__)


@dataclass(kw_only=True, eq=False)
class CelebA(FileListDataset):
    """CelebA as downloaded. Results on different splits are not comparable; the fingerprint holds which one
    was used. Images are matched by stem, so .jpg and .png trees both work.
    """

    # lists: by the list files. derived: the same identities and counts by rule, see below, images drawn by
    # ``seed``. auto: the lists where there are any, else derived, with a warning. ppa: the ``identities``
    # with most images, 90 / 10 over all their images (numpy seed 42); everybody else is public
    split: Literal["auto", "lists", "derived", "ppa"]
    lists: Path | None  # folder of the list files, None: the root
    identities: Natural  # private ones; derived: the lowest numbers of those with ``least_images``
    least_images: Count  # derived: that a private identity has at least; floor(0.9 n) of its n images train
    public_images: Natural  # derived: drawn from the identities that follow
    public_above: Natural  # derived: public identities have larger numbers, and fewer than ``least_images``
    seed: Seed  # derived: of both draws

    title = "CelebA"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.split not in ("auto", "lists", "derived", "ppa"):
            raise ConfigError(f"data.private.split={self.split} is unknown; use auto, lists, derived or ppa")
        for key, value in (("identities", self.identities), ("public_images", self.public_images)):
            if value < 1:
                raise ConfigError(f"data.private.{key}={value} must be at least 1")
        if self.least_images < 2:
            raise ConfigError(
                f"data.private.least_images={self.least_images} must be at least 2: one to train, one to test"
            )

    def list_files(self, part: Part) -> FileList:
        """A part, with images found by stem. Raises DataError for missing images, wrong lines, images listed
        twice, shared identities.
        """
        prefix = self._folder.relative_to(self.root).as_posix()  # first: tells everything missing at once
        rows = self._splits[part]
        if absent := [stem for stem, _ in rows if stem not in self._images]:
            raise DataError(
                f"{self.title}: {len(absent)} of the {len(rows)} images of the {part} part are not in "
                f"{self._folder}: "
                f"{abbreviate(absent)}; complete the download"
            )
        names = tuple(f"{prefix}/{self._images[stem]}" for stem, _ in rows)
        if part == "public":
            return FileList(names, (0,) * len(names), UNLABELLED)
        count = 1 + max(label for _, label in self._splits["train"])
        classes = tuple(f"celeba-{number}" for number in self._numbers or range(count))
        return FileList(names, tuple(label for _, label in rows), classes)

    def fingerprint(self, role: Role) -> dict[str, object]:
        """As for every listed dataset, and which split it is."""
        return {**super().fingerprint(role), "split": self.used_split}

    def shown_identities(self) -> list[set[int]] | None:
        """The numbers of the identities that the private images of each label show; None without the identity
        file.
        """
        if self._identity_file is None:
            return None
        identity = dict(self._rows)
        shown: dict[int, set[int]] = {}
        for part in PARTS["private"]:
            for stem, label in self._splits[part]:
                shown.setdefault(label, set()).update({identity[stem]} if stem in identity else ())
        return [shown[label] for label in sorted(shown)]

    def everybody(self) -> list[int]:
        """The identity number of every image in the identity file, in its order; empty without the file."""
        return [] if self._identity_file is None else [number for _, number in self._rows]

    def absent(self) -> list[str]:
        """The images of the identity file that are not here, whether or not a split uses them."""
        stems = [] if self._identity_file is None else [stem for stem, _ in self._rows]
        return [stem for stem in stems if stem not in self._images]

    @cached_property
    def _folder(self) -> Path:
        """Where the images are."""
        names = ["img_align_celeba", "img_align_celeba_png"]
        if self.split == "ppa":
            names = [RECROPPED, f"img_align_celeba/{RECROPPED}", *names]
        names = [place for name in names for place in (f"{name}/{Path(name).name}", name)]
        places = [f"{base}{name}" for base in ("", "celeba/", "Img/", "celeba/Img/") for name in names]
        found = first_existing(self.root, places)
        wanted = [] if found else ["the folder img_align_celeba or img_align_celeba_png"]
        if self.used_split != "lists" and self._identity_file is None:
            wanted.append(IDENTITIES)
        require(self.root, wanted, title=self.title, layout=LAYOUT)
        if self.split == "ppa" and found is not None and not found.match(f"*/{RECROPPED}"):
            warn_once(
                log,
                f"CelebA: no high-resolution re-crop ({RECROPPED}) in {self.root}; using the aligned images, "
                "which PPA did not",
            )
        return found or self.root

    @cached_property
    def _images(self) -> Mapping[str, str]:
        """File name by stem."""
        return {Path(name).stem: name for name in image_names(self._folder, self.foreign)}

    @cached_property
    def _identity_file(self) -> Path | None:
        bases = ("", "celeba/", "Anno/", "celeba/Anno/")
        names = (IDENTITIES, IDENTITIES.replace(".txt", ".csv"))
        return first_existing(self.root, [f"{base}{name}" for base in bases for name in names])

    @cached_property
    def _list_files(self) -> dict[Part, Path]:
        """The list files that exist."""
        folder = self.root if self.lists is None else Path(self.lists).expanduser().absolute()
        bases = ("", "celeba/", "Anno/", "celeba/Anno/") if self.lists is None else ("",)
        found: dict[Part, Path | None] = {
            part: first_existing(
                folder, [f"{base}{prefix}{name}" for base in bases for prefix in ("celeba_", "")]
            )
            for part, name in LISTS.items()
        }
        return {part: path for part, path in found.items() if path is not None}

    @cached_property
    def used_split(self) -> str:
        """The split in effect: lists, derived or ppa."""
        require(self.root, [], title=self.title, layout=LAYOUT)
        if self.split == "lists" or (self.split == "auto" and (self._list_files or self.lists is not None)):
            absent = [f"celeba_{name}" for part, name in LISTS.items() if part not in self._list_files]
            where = self.root if self.lists is None else Path(self.lists).expanduser().absolute()
            require(where, absent, title="the list files of CelebA's split", layout=LAYOUT)
            return "lists"
        if self.split == "auto":
            warn_once(
                log,
                f"CelebA: no list files in {self.root}, so the split is derived by rule; published "
                "checkpoints need the published lists",
            )
        return "derived" if self.split == "auto" else self.split

    @cached_property
    def _rows(self) -> list[tuple[str, int]]:
        """(stem, identity number) of every image in the identity file, in file order."""
        path = self._identity_file
        if path is None:
            require(self.root, [IDENTITIES], title=self.title, layout=LAYOUT)
            return []
        rows: dict[str, int] = {}
        for number, words in lines_of(path):
            if not rows and not is_count(words[-1]):
                continue  # some copies have a header
            if len(words) != 2 or not is_count(words[1]):
                raise wrong_line(path, number, words, "<image> <identity number>")
            stem = Path(words[0]).stem
            if stem in rows:
                raise DataError(
                    f"{path} line {number} lists {words[0]} a second time; an image has one identity, so "
                    "correct the file"
                )
            rows[stem] = int(words[1])
        if not rows:
            raise DataError(f"{path} holds no rows; download it again")
        return list(rows.items())

    @cached_property
    def _numbers(self) -> list[int] | None:
        """The identity number behind every label, where the split knows them."""
        identities = [identity for _, identity in self._rows] if self.used_split != "lists" else []
        if self.used_split == "derived":
            return frequent_by_number(identities, self.identities, self.least_images)
        return most_frequent(identities, self.identities) if self.used_split == "ppa" else None

    @cached_property
    def _splits(self) -> Splits:
        splits = {"lists": self._listed, "derived": self._derived, "ppa": self._ppa}[self.used_split]()
        private = {stem for part in PARTS["private"] for stem, _ in splits[part]}
        if both := sorted(private & {stem for stem, _ in splits["public"]}):
            raise DataError(
                f"CelebA's private and public lists share the images {abbreviate(both)}; correct the lists"
            )
        if self._identity_file is not None:
            identity = dict(self._rows)
            identities = {identity[stem] for stem in private if stem in identity}
            if leaked := sorted({s for s, _ in splits["public"] if identity.get(s) in identities}):
                raise DataError(
                    f"CelebA's public list shows private identities, in {abbreviate(leaked)}; remove these "
                    "images from it"
                )
        return splits

    def _private_rows(self) -> list[tuple[str, int]]:
        """(stem, label) of every image of the private identities, in file order."""
        label = {identity: position for position, identity in enumerate(self._numbers or ())}
        rows = [(stem, label[identity]) for stem, identity in self._rows if identity in label]
        return [row for row in rows if self.keeps(self._name(row[0]))]

    def _name(self, stem: str) -> str:
        """The file of an image, relative to the root; one that is listed and not there keeps its stem."""
        return (self._folder.relative_to(self.root) / self._images.get(stem, stem)).as_posix()

    def _listed(self) -> Splits:
        splits = read_lists(self._list_files)
        count = 1 + max(label for _, label in splits["train"])
        if count != self.identities:
            raise DataError(
                f"{self._list_files['train']} lists {count} identities, "
                f"data.private.identities={self.identities}; make them equal"
            )
        return splits

    def _derived(self) -> Splits:
        rows = self._private_rows()
        stems, labels = [stem for stem, _ in rows], [label for _, label in rows]
        train, test = hold_out_per_class(stems, labels, share=0.1, seed=self.seed)
        counts: dict[int, int] = {}
        for _, identity in self._rows:
            counts[identity] = counts.get(identity, 0) + 1
        pool = [
            stem
            for stem, identity in self._rows
            if identity > self.public_above and counts[identity] < self.least_images
        ]
        if len(pool) < self.public_images:
            raise DataError(
                f"CelebA offers {len(pool)} public images of identities above {self.public_above} with fewer "
                "than "
                f"{self.least_images} images, {self.public_images} are wanted; lower "
                "data.public.public_images"
            )
        public = drawn(pool, self.public_images, seed=self.seed)
        return {
            "train": [rows[row] for row in train],
            "test": [rows[row] for row in test],
            "public": [(pool[row], 0) for row in public],
        }

    def _ppa(self) -> Splits:
        rows = self._private_rows()
        train, test = ninety_ten(len(rows))
        private = set(self._numbers or ())
        return {
            "train": [rows[row] for row in train],
            "test": [rows[row] for row in test],
            "public": [(stem, 0) for stem, identity in self._rows if identity not in private],
        }
