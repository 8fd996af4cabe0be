"""Your own images: one folder per identity under one root, any common format, any size.

Identities are divided into private and public ones, private images into train and test: by folders called so,
or by a draw. Nothing depends on the order in which the file system lists files or on where the folder lies: a
copy has the same parts and keys. Which folder names an identity is decided in ``identities``.
"""

from __future__ import annotations

import logging
import os
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import ClassVar, Literal, NamedTuple

import torch
from PIL import Image
from torch import Tensor

from midre_exp.data.base import Dataset, ImageSet, Part, Role, SourceFile
from midre_exp.data.cache import abbreviate
from midre_exp.data.picture import DECODER_VERSION, UNREADABLE, endings, open_rgb, reason
from midre_exp.data.readers.identities import Identities, Split, read_identities
from midre_exp.data.readers.label_file import named_identities, read_names, twice
from midre_exp.data.readers.layout import warn_once
from midre_exp.data.readers.remarks import remarks
from midre_exp.data.readers.tree import ImageFile, natural
from midre_exp.data.readers.unreadable import Policy, check_policy, refusal, warn_left_out
from midre_exp.errors import ConfigError, DataError
from midre_exp.plan.config import digest
from midre_exp.plan.ranges import Count, Seed, Share
from midre_exp.seeding import derive
from midre_exp.store.contents import content_hashes
from midre_exp.store.data import keep_inventory
from midre_exp.store.progress import Progress
from midre_exp.store.store import Places

_BAR_FROM = 2000  # files; fewer take a few seconds

log = logging.getLogger(__name__)


def decode(path: Path, size: int, crop: str) -> Tensor:
    """One image file as uint8 [3, size, size] RGB, upright (EXIF), shrunk with antialiasing.

    ``crop``: ``center`` takes the largest centred square, ``none`` stretches. Raises one of ``UNREADABLE``.
    """
    image = open_rgb(path)
    if crop == "center":
        side = min(image.size)
        left, top = (image.width - side) // 2, (image.height - side) // 2
        image = image.crop((left, top, left + side, top + side))
    image = image.resize(
        (size, size), Image.Resampling.BILINEAR
    )  # Pillow's bilinear antialiases when shrinking
    return (
        torch.frombuffer(bytearray(image.tobytes()), dtype=torch.uint8).view(size, size, 3).permute(2, 0, 1)
    )


def _decode_or_reason(file: ImageFile, size: int, crop: str) -> Tensor | str:
    try:
        return decode(file.path, size, crop)
    except UNREADABLE as error:
        return reason(error, file.path)


def read(files: Sequence[ImageFile], *, size: int, crop: str) -> tuple[Tensor, dict[int, str]]:
    """The readable images uint8 [m, 3, size, size] in the order of ``files``, and why each other one, by its
    position, cannot be read.
    """
    images = torch.empty(len(files), 3, size, size, dtype=torch.uint8)
    reasons: dict[int, str] = {}
    # Pillow decodes and resizes outside the interpreter lock, so threads do; map keeps the order.
    pool = ThreadPoolExecutor(min(8, os.cpu_count() or 1))
    try:
        decoded = pool.map(partial(_decode_or_reason, size=size, crop=crop), files)
        with Progress("reading images", len(files), bar=len(files) > _BAR_FROM) as bar:
            for row, image in enumerate(decoded):
                if isinstance(image, str):
                    reasons[row] = image
                else:
                    images[row] = image
                bar.update()
    finally:
        pool.shutdown(cancel_futures=True)  # after Ctrl-C, do not read the rest
    if reasons:
        images = images[[row for row in range(len(files)) if row not in reasons]]
    return images, reasons


def hold_out(labels: Tensor, scores: Tensor, share: float) -> Tensor:
    """Which images are for testing, bool [n]; ``labels`` and ``scores`` int64 [n].

    Of each label with c images those with the round(share * c) lowest scores, at least 1 and at most c - 1.
    """
    counts = labels.bincount()
    by_score = scores.argsort(stable=True)
    order = by_score[labels[by_score].argsort(stable=True)]
    starts = counts.cumsum(0) - counts
    rank = torch.empty_like(order)
    rank[order] = torch.arange(len(labels)) - starts[labels[order]]
    held_out = (counts.double() * share).round().long().clamp(min=1).minimum(counts - 1)
    return rank < held_out[labels]


class _Row(NamedTuple):
    """An image of a role; ``split`` is "" where none is used."""

    file: ImageFile
    label: int
    identity: str
    split: Split


@dataclass(kw_only=True, eq=False)
class FaceFolder(Dataset):
    """Images under ``root/<identity>/``, subfolders included, or in the other layouts of ``identities``.

    Private identities are drawn among those with images to train and to test on; of public ones all images
    are public. Labels follow ``order``, however ``private`` lists them.
    """

    title: ClassVar[str] = "folder"

    root: Path  # relative to the working directory if not absolute
    size: Count  # px of a side of the pixels made
    # the private identities by name, or a file of names (``read_names``); None draws ``private_share`` of
    # all. What yaml takes for a number, a truth value or nothing is refused in ``plan.names``
    private: Sequence[str | int | float | bool | None] | str | Path | None
    private_share: Share  # in (0, 1)
    test_share: Share  # of each private identity's readable images, held out, in (0, 1)
    crop: Literal["center", "none"]  # the largest centred square, or stretched to a square
    seed: Seed  # of both draws
    extensions: Sequence[str] | None = None  # file endings to read, None for all that can be
    # auto: folders called train, val, test are the split where there are such, else ``test_share`` is drawn |
    # folders: there must be some | drawn: always
    split: Literal["auto", "folders", "drawn"] = "auto"
    # which of a split's folders is tested on; the other one is not used. None: test, or val without it
    test_folder: Literal["test", "val"] | None = None
    identity_level: Count | None = None  # which folder names the identity, from 1; None: by structure
    labels: Path | None = None  # a csv of paths and identities (``read_labels``) instead of folder names
    min_images: Count | None = None  # identities with fewer are left out; None: all must have enough
    # of private labels: alphabetical, by code point as torchvision's ImageFolder | natural, s2 before s10 | a
    # file of names (``read_names``)
    order: str | Path = "alphabetical"
    # a file cannot be decoded: leave_out, with a warning and a list on disk | refuse
    unreadable: Policy = "leave_out"
    duplicates: Literal["tell", "refuse"] = "tell"  # files with the same content: told, or refused
    # whose images are train and test: the private identities' | pretraining: of those public identities who
    # have at least ``pretraining_min_images``, ``test_share`` of each held out
    pool: Literal["private", "pretraining"] = "private"
    pretraining_min_images: Count = 2
    store: Places | None = None  # the artifact store, where what files hold is remembered

    def __post_init__(self) -> None:
        if self.size < 1:
            raise ConfigError(f"resolution={self.size} must be at least 1 pixel")
        for key, share in (("private_share", self.private_share), ("test_share", self.test_share)):
            if not 0 < share < 1:
                raise ConfigError(f"data.{key}={share} must lie between 0 and 1, both excluded")
        if self.crop not in ("center", "none"):
            raise ConfigError(
                f"data.crop={self.crop} is unknown; use center (centred square) or none (stretch)"
            )
        if self.test_folder not in (None, "test", "val"):
            raise ConfigError(f"data.test_folder={self.test_folder} is unknown; use test, val or null")
        if self.min_images is not None and self.min_images < 1:
            raise ConfigError(f"data.min_images={self.min_images} must be at least 1, or null")
        if self.pool not in ("private", "pretraining"):
            raise ConfigError(f"data.*.pool={self.pool} is unknown; use private or pretraining")
        if self.pretraining_min_images < 2:
            raise ConfigError(
                f"data.pretraining_min_images={self.pretraining_min_images} must be at least 2, one image to "
                "train on and one to test on"
            )
        check_policy(self.unreadable)
        if self.duplicates not in ("tell", "refuse"):
            raise ConfigError(f"data.*.duplicates={self.duplicates} is unknown; use tell or refuse")
        given = self.extensions
        if given is not None and (isinstance(given, str) or not given):
            raise ConfigError(f"data.extensions={given} must be a list like [jpg,png], or null for all")
        if not str(self.root).strip():
            raise ConfigError("data.root is empty; give the folder that holds one folder per identity")
        self.root = Path(self.root).expanduser().absolute()
        self.endings = sorted({ending.lower().removeprefix(".") for ending in given or endings()})
        self._left_out: dict[Role, int] = {}

    def load(self, part: Part) -> ImageSet:
        """One part; every image is decoded once, and the split sees readable images only.

        Raises DataError naming identities with too few readable images (private: 2, or 1 in each folder of a
        split; public: 1).
        """
        if part not in ("train", "test", "public"):
            raise ConfigError(f"part {part!r} is unknown; use train, test or public")
        if self.store is not None:
            role: Role = "public" if part == "public" else "private"
            keep_inventory(
                self.store,
                title=f"folder ({self._who(role)})",
                root=self.root,
                files=self.files_digest(role),
                contents=partial(self.file_contents, role),
            )
        if part == "public":
            return self._public[0]
        return self._private_parts[part]

    def fingerprint(self, role: Role) -> dict[str, object]:
        """What shapes a role's images, and a hash of their files' names and contents by identity and part;
        not where they lie. A file that cannot be opened belongs to it.
        """
        found: dict[str, object] = {
            "dataset": "folder",
            "decoder": DECODER_VERSION,
            "size": self.size,
            "crop": self.crop,
            "files": self.files_digest(role),
            **({} if self.unreadable == "leave_out" else {"unreadable": self.unreadable}),
        }
        if role == "private":
            found["classes"] = digest(self.class_names())
            found |= {"seed": self.seed, "test_share": self.test_share} if not self._parts(role) else {}
        return found

    def files_digest(self, role: Role) -> str:
        """Names, contents, identities and folders of a split of a role's files, hashed."""
        rows = zip(self._rows(role), self._contents(role), strict=True)
        return digest(sorted((row.file.name, held, row.identity, row.split) for row, held in rows))

    def _contents(self, role: Role) -> list[str]:
        """The SHA-256 of every file of a role; "" for one that cannot be opened."""
        below = len(str(self.root)) + 1
        names = [str(row.file.path)[below:] for row in self._rows(role)]
        held = content_hashes(self.root, names, self.store, title=f"{self.root.name} ({self._who(role)})")
        return [content or "" for content in held]

    def source_files(self, role: Role) -> list[SourceFile]:
        """The readable files of a role, which are decoded to know them."""
        held = self.file_contents(role)
        if role == "public":
            rows, parts = self._public[1], list[Part](["public"] * len(self._public[1]))
        else:
            _, rows, test = self._private
            parts = ["test" if tested else "train" for tested in test.tolist()]
        return [
            SourceFile(part, row.file.name, row.identity, held[row.file.name])
            for part, row in zip(parts, rows, strict=True)
        ]

    def file_contents(self, role: Role) -> dict[str, str]:
        """SHA-256 of the files of a role by their names, readable or not."""
        names = [row.file.name for row in self._rows(role)]
        return dict(zip(names, self._contents(role), strict=True))

    def left_out(self, role: Role) -> int:
        """How many files of a role cannot be read; all are decoded to know it."""
        self.load("public" if role == "public" else "train")
        return self._left_out[role]

    def count_images(self, role: Role) -> int:
        """The number of files, readable or not."""
        return len(self._rows(role))

    def num_identities(self) -> int:
        """The private identities, or those to pre-train on."""
        return len(self._private_names if self.pool == "private" else self._pretraining_names)

    def public_names(self) -> tuple[str, ...]:
        """The public identities, in natural order: their labels mean nothing."""
        return tuple(name for name in self._found.files if name not in self._private_names)

    def class_names(self) -> tuple[str, ...]:
        """The private identities in the order of their labels; those to pre-train on in natural order."""
        if self.pool == "pretraining":
            return self._pretraining_names
        names, order = self._private_names, str(self.order)
        if order == "natural":
            return tuple(sorted(names, key=natural))
        if order == "alphabetical":
            return tuple(sorted(names, key=lambda name: self._found.on_disk[name]))
        return self._ordered_by(Path(order).expanduser())

    def _ordered_by(self, path: Path) -> tuple[str, ...]:
        """The private identities as a file orders them."""
        listed = read_names(path, "data.order (alphabetical, natural or a file)")
        if repeated := twice(listed):
            raise ConfigError(f"data.order={path} names {abbreviate(repeated)} more than once; correct it")
        absent = sorted(self._private_names - set(listed), key=natural)
        others = [name for name in listed if name not in self._private_names]
        if absent or others:
            lacks = f"lacks the private identities {abbreviate(absent)}" if absent else ""
            more = f"names {abbreviate(others)}, who are not private" if others else ""
            raise ConfigError(
                f"data.order={path} {' and '.join(filter(None, (lacks, more)))}; it must name each private "
                f"identity once, so correct it, or make private whom it names: "
                f"data.private_identities={path}"
            )
        return tuple(listed)

    @cached_property
    def everybody(self) -> Identities:
        """All identities, also those with too few images. Raises DataError for a layout that is open."""
        labels = None if self.labels is None else self._label_file(Path(self.labels).expanduser())
        return read_identities(
            self.root, self.endings, split=self.split, level=self.identity_level, labels=labels
        )

    @cached_property
    def _found(self) -> Identities:
        """Everybody with enough images."""
        every = self.everybody
        if every.empty and self.min_images is None:
            known = "any common format" if self.extensions is None else " ".join(self.endings)
            raise DataError(
                f"{self.root} holds no image of {abbreviate(every.empty)}; add images ({known}), remove the "
                "folder, or leave such people out with data.min_images=1"
            )
        found = every.with_at_least(self.min_images or 1)
        if said := remarks(every, found, self.min_images):
            warn_once(log, f"data.root={self.root}: {'; '.join(said)} (midre-exp data inspect tells more)")
        if not found.files:
            raise DataError(
                f"nobody in {self.root} has data.min_images={self.min_images} images; lower it (the most are "
                f"{max(map(every.count, every.files))})"
            )
        if len(found.files) == 1:
            only = next(iter(found.files))
            raise DataError(
                f"data.root={self.root} holds the images of one identity, {only}; at least two are needed, "
                "one of them for the attacker's public images, so add identities or give another root"
            )
        return found

    def _label_file(self, path: Path) -> Path:
        """The label file, from the working directory or beside the images."""
        places = [path.absolute(), self.root / path]
        if (found := next((place for place in places if place.is_file()), None)) is None:
            raise ConfigError(
                f"data.labels={path} is no file, neither here nor in {self.root}; give a csv with the "
                "columns path and identity"
            )
        return found

    @cached_property
    def _tested_on(self) -> Split:
        """The folder of the split that is tested on, "" where the split is drawn."""
        splits = self._found.splits
        if not splits:
            if self.test_folder is not None:
                raise ConfigError(
                    f"data.test_folder={self.test_folder}, but the split of {self.root} is drawn; leave it "
                    "null"
                )
            return ""
        wanted = self.test_folder or ("test" if "test" in splits else "val")
        if "train" not in splits or wanted not in splits:
            raise ConfigError(
                f"{self.root} has the split folders {', '.join(splits)}, but train and {wanted} are needed; "
                "give another data.test_folder, or data.split=drawn"
            )
        if len(splits) == 3:
            other = "val" if wanted == "test" else "test"
            warn_once(
                log,
                f"data.root={self.root}: private identities are tested on their images in {wanted}; those in "
                f"{other} are not used (data.test_folder={other} tests on these)",
            )
        return wanted

    @cached_property
    def _private_names(self) -> set[str]:
        if self.private is not None:
            return named_identities(self.private, list(self._found.files), self.root)
        everybody = self._found.files
        candidates = list(everybody)
        if wanted := self._tested_on:
            candidates = [name for name in candidates if {"train", wanted} <= everybody[name].keys()]
            if not candidates:
                raise DataError(
                    f"nobody in {self.root} has images in both train and {wanted}; these folders hold "
                    "different people, so draw the split with data.split=drawn"
                )
        count, total = round(self.private_share * len(candidates)), len(everybody)
        if 0 < count < total:
            return set(
                sorted(candidates, key=lambda name: derive(self.seed, "folder", "private", name))[:count]
            )
        raise ConfigError(
            f"data.private_share={self.private_share} makes {count} of the {total} identities in "
            f"{self.root} private ({abbreviate(list(everybody))}); both sides need at least one, so change "
            "the share or add identities"
        )

    @cached_property
    def _pretraining_names(self) -> tuple[str, ...]:
        """The public identities with enough images. Raises DataError where they are fewer than two."""
        public, least = self.public_names(), self.pretraining_min_images
        counts = {name: self._found.count(name) for name in public}
        found = tuple(name for name in public if counts[name] >= least)
        if len(found) < 2:
            raise DataError(
                f"{self.root} has no identities with enough images to pre-train on: {len(found)} of the "
                f"{len(public)} public ones have data.pretraining_min_images={least}, and two are needed; "
                f"lower it (the most are {max(counts.values())}), or start from other weights than public: "
                "null, imagenet, or those of a file"
            )
        return found

    def _rows(self, role: Role) -> list[_Row]:
        """The images of a role in the order of labels, a split's training images first."""
        files = self._found.files
        if role == "public" and not self.public_names():
            raise ConfigError(
                f"data.private_identities names {len(files)} of the {len(files)} identities in {self.root}; "
                "leave at least one for the attacker's public images, or give other public images"
            )
        rows = []
        for label, name in enumerate(self._names(role)):
            if split := self._parts(role):
                chosen = [(part, file) for part in split for file in files[name].get(part, ())]
            else:
                chosen = [("", file) for file in self._found.of(name)]
            rows += [_Row(file, label, name, part) for part, file in chosen]
        self._require(role, rows)
        return rows

    def _names(self, role: Role) -> tuple[str, ...]:
        """The identities of a role by label."""
        return self.class_names() if role == "private" else self.public_names()

    def _parts(self, role: Role) -> tuple[Split, ...]:
        """The folders of a split that a role uses, none for all images."""
        if role == "public" or self.pool == "pretraining":
            return ()
        return ("train", self._tested_on) if self._tested_on else ()

    def _who(self, role: Role) -> str:
        """How the identities of a role are called."""
        return "pretraining" if role == "private" and self.pool == "pretraining" else role

    def _require(self, role: Role, rows: Sequence[_Row]) -> None:
        """Raise DataError naming identities with too few images, in a folder of a split or altogether."""
        parts = self._parts(role)
        least = 2 if role == "private" and not parts else 1
        for part in parts or ("",):
            counts = Counter(row.identity for row in rows if row.split == part)
            if short := [name for name in self._names(role) if counts[name] < least]:
                need = "2 readable images (to train and to test)" if least == 2 else "a readable image"
                need += f" in the folder {part}" if part else ""
                remedy = "add images or remove the folder"
                if few := sum(self._found.count(name) < least for name in self._found.files):
                    remedy += f", or leave out the {few:,} who have fewer: data.min_images={least}"
                who = f"{self._who(role)} identity {abbreviate(short)}"
                raise DataError(f"{self.root}: {who} needs at least {need}; {remedy}")

    def _read(self, role: Role) -> tuple[ImageSet, list[_Row]]:
        """All readable images of a role, and what is known of each."""
        rows = self._rows(role)
        images, reasons = read([row.file for row in rows], size=self.size, crop=self.crop)
        if reasons:
            named = {rows[row].file.name: why for row, why in reasons.items()}
            tell = f"{self.root.name} ({self._who(role)})", len(rows), named, self.store
            if self.unreadable == "refuse":
                raise refusal(*tell)
            warn_left_out(*tell)
        self._left_out[role] = len(reasons)
        rows = [row for number, row in enumerate(rows) if number not in reasons]
        self._require(role, rows)
        return ImageSet(images, torch.tensor([row.label for row in rows]), self._names(role)), rows

    @cached_property
    def _private(self) -> tuple[ImageSet, list[_Row], Tensor]:
        """All private images, what is known of each, and which are for testing, bool [n]."""
        every, rows = self._read("private")
        if self._parts("private"):
            test = torch.tensor([row.split != "train" for row in rows])
        else:
            scores = [derive(self.seed, "folder", "test", row.file.name) for row in rows]
            test = hold_out(every.labels, torch.tensor(scores), self.test_share)
        return every, rows, test

    @cached_property
    def _private_parts(self) -> dict[str, ImageSet]:
        every, _, test = self._private
        chosen = {"train": ~test, "test": test}
        return {part: ImageSet(every.images[r], every.labels[r], every.classes) for part, r in chosen.items()}

    @cached_property
    def _public(self) -> tuple[ImageSet, list[_Row]]:
        return self._read("public")
