"""VGGFace2: the identities of its train folder are private, the 500 others of its test folder are public."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from midre_exp.data.base import Part, Role
from midre_exp.data.cache import abbreviate
from midre_exp.data.readers.file_list import FileList, FileListDataset
from midre_exp.data.readers.layout import (
    first_existing,
    folder_names,
    image_names,
    refuse_web_page,
    require,
    require_count,
    wrong_line,
)
from midre_exp.data.readers.splits import Rows, hold_out_per_class
from midre_exp.errors import ConfigError, DataError
from midre_exp.plan.ranges import Count, Natural, NonNegative, Seed, Share

LAYOUT = """\
  <root>/                               (or <root>/vggface2/)
    train/n000002/0001_01.jpg ...       8,631 identities, 3,141,890 images
    test/n000001/0001_01.jpg ...        500 others; needed for the public part only
    bb_landmark/loose_bb_train.csv, bb_landmark/loose_bb_test.csv
                                        lines of NAME_ID,X,Y,W,H (or in <root>, meta/); for box_margin only"""
BASES = ("", "vggface2/", "VGGFace2/")

_FAR = 1 << 20  # pixels; no box is that large or that far out
_COUNTED = 50  # identities whose images are counted to estimate how many there are

Box = tuple[int, int, int, int]


@dataclass(kw_only=True, eq=False)
class VGGFace2(FileListDataset):
    """VGGFace2 as downloaded: label = rank of the folder in the sorted train folder."""

    identities: Natural | None  # private: the first so many, None for all
    test_share: Share  # of each identity's images, in (0, 1): there is no official closed-set split
    seed: Seed  # of the held-out images, which are drawn by image name
    # None: the loosely cropped images whole. A number: the detector's box of loose_bb_*.csv, width and height
    # enlarged by that share about its centre (its authors: 0.3), black outside the image
    box_margin: NonNegative | None
    expected_identities: Count | None  # in train/ of a complete download, None for any number
    expected_public_identities: Count | None  # in test/

    title = "VGGFace2"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.identities is not None and self.identities < 1:
            raise ConfigError(f"data.*.identities={self.identities} must be null or at least 1")
        if not 0 < self.test_share < 1:
            raise ConfigError(f"data.*.test_share={self.test_share} must lie between 0 and 1, e.g. 0.1")
        if self.box_margin is not None and self.box_margin < 0:
            raise ConfigError(f"data.*.box_margin={self.box_margin} must be null, 0 or more, e.g. 0.3")

    def list_files(self, part: Part) -> FileList:
        """A part. Raises DataError for missing folders, identities in both folders or without images, and
        images without a box.
        """
        if part == "public":
            identities = self._names("test")
            if both := sorted(set(identities) & set(self._names("train"))):
                raise DataError(
                    f"VGGFace2 in {self.root} has {abbreviate(both)} in train and test; they are different "
                    "people, so "
                    "correct the download"
                )
            return self._all_images("test", identities)
        train, test = self._split
        return self._private.rows(train if part == "train" else test)

    def count_images(self, role: Role) -> int | None:
        """The number of images by those of the first identities: listing them all takes most of a minute."""
        part = "train" if role == "private" else "test"
        identities, folder = self._names(part), self._folder(part)
        if role == "private" and self.identities is not None:
            identities = identities[: self.identities]
        some = identities[:_COUNTED]
        if self.box_margin is not None:
            self._box_file(part, self.box_margin)
        if not (images := sum(len(image_names(folder / identity)) for identity in some)):
            raise DataError(f"{folder} has no image of {abbreviate(some)}; complete the download")
        return round(images * len(identities) / len(some))

    @cached_property
    def _split(self) -> tuple[Rows, Rows]:
        """The rows of the private images to train and to test on."""
        every = self._private
        # ids, so that a tree one folder deeper or saved in another format is split alike
        ids = [_id("/".join(name.rsplit("/", 2)[-2:])) for name in every.names]
        return hold_out_per_class(ids, every.labels, share=self.test_share, seed=self.seed)

    @cached_property
    def _private(self) -> FileList:
        """All images of the private identities."""
        identities = self._names("train")
        if self.identities is not None and self.identities > len(identities):
            raise DataError(
                f"VGGFace2 has {len(identities)} identities in {self._folder('train')}, "
                f"data.*.identities={self.identities} are wanted; "
                "lower it"
            )
        return self._all_images("train", identities[: self.identities])

    def _folder(self, part: str) -> Path:
        """The folder ``train`` or ``test``."""
        found = first_existing(self.root, [f"{base}{part}" for base in BASES])
        require(self.root, [] if found else [f"the folder {part}"], title=self.title, layout=LAYOUT)
        return found or self.root

    def _names(self, part: str) -> tuple[str, ...]:
        """The names of everybody's folder, sorted."""
        folder = self._folder(part)
        identities = folder_names(folder)
        key = "expected_identities" if part == "train" else "expected_public_identities"
        expected = getattr(self, key)
        require_count(len(identities), expected, title=self.title, what="identities", folder=folder, key=key)
        return identities

    def _all_images(self, part: str, identities: Sequence[str]) -> FileList:
        """All images of these identities, with their boxes if those are wanted."""
        folder = self._folder(part)
        prefix = folder.relative_to(self.root).as_posix()
        images = [image_names(folder / identity, self.foreign) for identity in identities]
        if empty := [identity for identity, names in zip(identities, images, strict=True) if not names]:
            raise DataError(f"{folder} has no image of {abbreviate(empty)}; complete the download")
        rows = [
            (f"{identity}/{name}", label)
            for label, (identity, some) in enumerate(zip(identities, images, strict=True))
            for name in some
            if self.keeps(f"{prefix}/{identity}/{name}")
        ]
        names, labels = tuple(name for name, _ in rows), tuple(label for _, label in rows)
        boxes = None if self.box_margin is None else self._boxes(part, names, self.box_margin)
        return FileList(tuple(f"{prefix}/{name}" for name in names), labels, tuple(identities), boxes)

    def _boxes(self, part: str, names: Sequence[str], margin: float) -> tuple[Box, ...]:
        """The enlarged box of every image <identity>/<image>. Raises DataError when the csv is missing, or
        lacks images.
        """
        path = self._box_file(part, margin)
        ids = [_id(name) for name in names]
        boxes = read_boxes(path, set(ids), margin)
        if absent := [name for name in ids if name not in boxes]:
            raise DataError(
                f"{path} has no box of {len(absent)} images: {abbreviate(absent)}; download it again or set "
                "data.*.box_margin=null"
            )
        return tuple(boxes[name] for name in ids)

    def _box_file(self, part: str, margin: float) -> Path:
        """Where the detector's boxes are."""
        file = f"loose_bb_{part}.csv"
        places = ("bb_landmark/", "", "meta/", "meta/bb_landmark/")
        path = first_existing(self.root, [f"{base}{place}{file}" for base in BASES for place in places])
        wanted = [] if path else [f"bb_landmark/{file}, which data.*.box_margin={margin} needs"]
        require(self.root, wanted, title=self.title, layout=LAYOUT)
        return path or self.root


def _id(name: str) -> str:
    """<identity>/<image> without the extension, as the csv files name images; by hand, since pathlib is slow
    for three million.
    """
    return name.rpartition(".")[0]


def read_boxes(path: Path, wanted: set[str], margin: float) -> dict[str, Box]:
    """(left, upper, right, lower) of the ``wanted`` ids in a csv of NAME_ID,X,Y,W,H, enlarged by ``margin``
    about the centre.
    """
    boxes: dict[str, Box] = {}
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            refuse_web_page(path, file.read(512))
            file.seek(0)
            rows = csv.reader(file, skipinitialspace=True)
            for words in rows:
                if not words or (rows.line_num == 1 and words[0] == "NAME_ID"):
                    continue
                try:
                    name, left, upper, width, height = words[0], *(int(word) for word in words[1:])
                    fits = max(abs(left), abs(upper), width, height) < _FAR
                except ValueError:
                    fits = False
                if not fits or width < 1 or height < 1:
                    raise wrong_line(path, rows.line_num, words, "an id and whole numbers X, Y, W, H")
                if name in boxes:
                    raise DataError(
                        f"{path} line {rows.line_num} lists {name} a second time; correct the file"
                    )
                if name in wanted:
                    boxes[name] = enlarged(left, upper, width, height, margin)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path} cannot be read as a csv file; download it again") from error
    return boxes


def enlarged(left: int, upper: int, width: int, height: int, margin: float) -> Box:
    """(left, upper, right, lower) of the box whose width and height are (1 + margin) times as large, about
    the same centre.
    """
    across, down = width * margin / 2, height * margin / 2
    return (
        round(left - across),
        round(upper - down),
        round(left + width + across),
        round(upper + height + down),
    )
