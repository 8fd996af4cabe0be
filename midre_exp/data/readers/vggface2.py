"""VGGFace2: the people of its train folder are private, the 500 other people of its test folder are public."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from functools import cached_property, partial
from pathlib import Path

from midre_exp.data.base import Part, Role
from midre_exp.data.cache import abbreviate
from midre_exp.data.readers.file_list import ListedDataset, Listing
from midre_exp.data.readers.layout import (
    demand,
    demand_count,
    first_existing,
    folder_names,
    image_names,
    wrong_line,
)
from midre_exp.data.readers.splits import Rows, hold_out_per_class
from midre_exp.data.transforms import Transform
from midre_exp.errors import ConfigError, DataError

TREE = """\
  <root>/                               (or <root>/vggface2/)
    train/n000002/0001_01.jpg ...       8,631 people, 3,141,890 images
    test/n000001/0001_01.jpg ...        500 other people; needed for the public part only
    bb_landmark/loose_bb_train.csv, bb_landmark/loose_bb_test.csv
                                        lines of NAME_ID,X,Y,W,H (also right in <root> or in meta/); needed for box_margin only"""
BASES = ("", "vggface2/", "VGGFace2/")

_FAR = 1 << 20  # pixels; no box is that large or that far out
_COUNTED = 50  # people whose images are counted to estimate how many there are

Box = tuple[int, int, int, int]


class VGGFace2(ListedDataset):
    """VGGFace2 as downloaded: label = rank of the folder in the sorted train folder.

    ``identities``: the first so many people, None for all. There is no official closed-set split, so
    ``test_share`` of each person's images is drawn by ``seed`` and image name. ``box_margin`` None takes the
    loosely cropped images whole; a number cuts out the detector's box of loose_bb_*.csv, width and height
    enlarged by that share about its centre (its authors: 0.3), black outside the image. ``expected_people``
    and ``expected_public_people``: of a complete download, None for any number.
    """

    title = "VGGFace2"

    def __init__(
        self,
        *,
        root: str | Path,
        picture: Sequence[Transform | partial[Transform]],
        size: int,
        store: str | Path,
        identities: int | None,
        test_share: float,
        seed: int,
        box_margin: float | None,
        expected_people: int | None,
        expected_public_people: int | None,
    ):
        super().__init__(root=root, picture=picture, size=size, store=store)
        if identities is not None and identities < 1:
            raise ConfigError(f"data.*.identities={identities} must be null or at least 1")
        if not 0 < test_share < 1:
            raise ConfigError(f"data.*.test_share={test_share} must lie between 0 and 1, e.g. 0.1")
        if box_margin is not None and box_margin < 0:
            raise ConfigError(f"data.*.box_margin={box_margin} must be null, 0 or more, e.g. 0.3")
        self.identities, self.test_share, self.seed, self.box_margin = (
            identities,
            test_share,
            seed,
            box_margin,
        )
        self.expected = {
            "train": ("expected_people", expected_people),
            "test": ("expected_public_people", expected_public_people),
        }

    def listing(self, part: Part) -> Listing:
        """A part. Raises DataError for missing folders, people in both folders, people without images and
        images without a box.
        """
        if part == "public":
            people = self._people("test")
            if both := sorted(set(people) & set(self._people("train"))):
                raise DataError(
                    f"VGGFace2 in {self.root} has {abbreviate(both)} in train and test; they are different people, so correct the download"
                )
            return self._listing("test", people)
        train, test = self._split
        return self._private.rows(train if part == "train" else test)

    def count_images(self, role: Role) -> int | None:
        """The number of images by those of the first people: listing all of them takes most of a minute."""
        part = "train" if role == "private" else "test"
        people, folder = self._people(part), self._folder(part)
        if role == "private" and self.identities is not None:
            people = people[: self.identities]
        some = people[:_COUNTED]
        if self.box_margin is not None:
            self._box_file(part, self.box_margin)
        if not (images := sum(len(image_names(folder / person)) for person in some)):
            raise DataError(f"{folder} has no image of {abbreviate(some)}; complete the download")
        return round(images * len(people) / len(some))

    @cached_property
    def _split(self) -> tuple[Rows, Rows]:
        """The rows of the private images to train and to test on."""
        every = self._private
        # ids, so that a tree one folder deeper or saved in another format is split alike
        ids = [_id("/".join(name.rsplit("/", 2)[-2:])) for name in every.names]
        return hold_out_per_class(ids, every.labels, share=self.test_share, seed=self.seed)

    @cached_property
    def _private(self) -> Listing:
        """All images of the private people."""
        people = self._people("train")
        if self.identities is not None and self.identities > len(people):
            raise DataError(
                f"VGGFace2 has {len(people)} people in {self._folder('train')}, data.*.identities={self.identities} are wanted; "
                "lower it"
            )
        return self._listing("train", people[: self.identities])

    def _folder(self, part: str) -> Path:
        """The folder ``train`` or ``test``."""
        found = first_existing(self.root, [f"{base}{part}" for base in BASES])
        demand(self.root, [] if found else [f"the folder {part}"], title=self.title, tree=TREE)
        return found or self.root

    def _people(self, part: str) -> tuple[str, ...]:
        """The names of everybody's folder, sorted."""
        folder = self._folder(part)
        people = folder_names(folder)
        key, expected = self.expected[part]
        demand_count(len(people), expected, title=self.title, what="people", folder=folder, key=key)
        return people

    def _listing(self, part: str, people: Sequence[str]) -> Listing:
        """All images of these people, with their boxes if those are wanted."""
        folder = self._folder(part)
        prefix = folder.relative_to(self.root).as_posix()
        images = [image_names(folder / person) for person in people]
        if empty := [person for person, names in zip(people, images, strict=True) if not names]:
            raise DataError(f"{folder} has no image of {abbreviate(empty)}; complete the download")
        names = tuple(
            f"{person}/{name}" for person, some in zip(people, images, strict=True) for name in some
        )
        labels = tuple(label for label, some in enumerate(images) for _ in some)
        boxes = None if self.box_margin is None else self._boxes(part, names, self.box_margin)
        return Listing(tuple(f"{prefix}/{name}" for name in names), labels, tuple(people), boxes)

    def _boxes(self, part: str, names: Sequence[str], margin: float) -> tuple[Box, ...]:
        """The enlarged box of every image <person>/<image>. Raises DataError when the csv is missing, or
        lacks images.
        """
        path = self._box_file(part, margin)
        ids = [_id(name) for name in names]
        boxes = read_boxes(path, set(ids), margin)
        if absent := [name for name in ids if name not in boxes]:
            raise DataError(
                f"{path} has no box of {len(absent)} images: {abbreviate(absent)}; download it again or set data.*.box_margin=null"
            )
        return tuple(boxes[name] for name in ids)

    def _box_file(self, part: str, margin: float) -> Path:
        """Where the detector's boxes are."""
        file = f"loose_bb_{part}.csv"
        places = ("bb_landmark/", "", "meta/", "meta/bb_landmark/")
        path = first_existing(self.root, [f"{base}{place}{file}" for base in BASES for place in places])
        wanted = [] if path else [f"bb_landmark/{file}, which data.*.box_margin={margin} needs"]
        demand(self.root, wanted, title=self.title, tree=TREE)
        return path or self.root


def _id(name: str) -> str:
    """<person>/<image> without the extension, as the csv files name images; by hand, since pathlib is slow
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
