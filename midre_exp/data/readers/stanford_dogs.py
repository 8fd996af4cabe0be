"""Stanford Dogs: 120 breeds, split as PPA splits them; optionally cut to the first dog of each picture."""

from __future__ import annotations

import contextlib
import struct
import zlib
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from xml.etree import ElementTree

from midre_exp.data.base import Part, Role
from midre_exp.data.readers.file_list import FileList, FileListDataset
from midre_exp.data.readers.layout import first_existing, refuse_web_page, require, require_count
from midre_exp.data.readers.matlab import read_variables
from midre_exp.data.readers.splits import ninety_ten
from midre_exp.errors import ConfigError, DataError
from midre_exp.plan.ranges import Count

LAYOUT = """\
  <root>/                               (or <root>/stanford_dogs/)
    Images/n02085620-Chihuahua/n02085620_10074.jpg ...    120 breeds, 20,580 images
    Annotation/n02085620-Chihuahua/n02085620_10074 ...    XML without extension; needed for cropped=true only
    train_list.mat, test_list.mat       (or in lists/)"""
BASES = ("", "stanford_dogs/", "StanfordDogs/", "Stanford_Dogs/")
LISTS = ("train_list.mat", "test_list.mat")

Box = tuple[int, int, int, int]


@dataclass(kw_only=True, eq=False)
class StanfordDogs(FileListDataset):
    """Stanford Dogs as downloaded; private only. Label = label of the lists - 1 = rank of the breed's folder.

    The official split is ignored, as PPA does: of the train list followed by the test list a permutation
    (numpy seed 42) gives 90 % to train.
    """

    cropped: bool  # cut every picture to the first box of its annotation
    expected_images: Count | None  # of a complete download, None for any number

    title = "Stanford Dogs"

    def list_files(self, part: Part) -> FileList:
        """A part. Raises DataError for missing files, wrong entries and labels that are not the rank of the
        folder.
        """
        if part == "public":
            raise ConfigError(
                "Stanford Dogs has no public part; use AFHQ-Dogs as data.public (data=dogs_afhq)"
            )
        prefix = self._images.relative_to(self.root).as_posix()
        rows = [row for row in self._rows if self.keeps(f"{prefix}/{row[0]}")]
        train, test = ninety_ten(len(rows))
        chosen = [rows[row] for row in (train if part == "train" else test)]
        boxes = tuple(self._box(name) for name, _ in chosen) if self.cropped else None
        names = tuple(f"{prefix}/{name}" for name, _ in chosen)
        return FileList(names, tuple(label for _, label in chosen), self._classes, boxes)

    def fingerprint(self, role: Role) -> dict[str, object]:
        """As for every listed dataset, and whether pictures are cut to the first dog."""
        return {**super().fingerprint(role), "cropped": self.cropped}

    def count_images(self, role: Role) -> int | None:
        """The number of images listed; annotations are not opened."""
        if role == "public":
            return super().count_images(role)
        return len(self._rows)

    @cached_property
    def _found(self) -> dict[str, Path]:
        """Where the images, the lists and, if needed, the annotations are."""
        places = {"Images": ("",), "train_list.mat": ("", "lists/"), "test_list.mat": ("", "lists/")}
        if self.cropped:
            places["Annotation"] = ("",)
        found = {
            name: first_existing(self.root, [f"{base}{place}{name}" for base in BASES for place in inside])
            for name, inside in places.items()
        }
        absent = [name for name, path in found.items() if path is None]
        require(self.root, absent, title=self.title, layout=LAYOUT)
        return {name: path for name, path in found.items() if path is not None}

    @property
    def _images(self) -> Path:
        return self._found["Images"]

    @cached_property
    def _rows(self) -> list[tuple[str, int]]:
        """(<folder>/<file>, label) of both lists, the training list first."""
        rows = [row for name in LISTS for row in read_list(self._found[name])]
        rank = {
            folder: position for position, folder in enumerate(sorted({_folder(name) for name, _ in rows}))
        }
        for name, label in rows:
            if label != rank[_folder(name)]:
                raise DataError(
                    f"{self._found[LISTS[0]].parent}: the lists give {name} the label {label + 1}, but "
                    f"{_folder(name)} is folder number "
                    f"{rank[_folder(name)] + 1} of {len(rank)} in order; download the lists again"
                )
        require_count(
            len(rows),
            self.expected_images,
            title=self.title,
            what="images listed",
            folder=self._found[LISTS[0]].parent,
            key="expected_images",
        )
        return rows

    @cached_property
    def _classes(self) -> tuple[str, ...]:
        """The breeds: what follows the WordNet number in their folders' names."""
        return tuple(folder.partition("-")[2] for folder in sorted({_folder(name) for name, _ in self._rows}))

    def _box(self, name: str) -> Box:
        """The first dog of a picture."""
        return first_box(self._found["Annotation"] / Path(name).with_suffix(""))


def _folder(name: str) -> str:
    return name.split("/")[0]


def read_list(path: Path) -> list[tuple[str, int]]:
    """(<folder>/<file>, label from 0) of a MATLAB list: ``file_list`` a cell [n, 1] of text, ``labels`` [n,
    1] from 1.

    Raises DataError naming the file, and the entry that is wrong.
    """
    with contextlib.suppress(OSError), path.open(encoding="latin-1") as start:
        refuse_web_page(path, start.read(512))
    try:
        content = read_variables(path, ("file_list", "labels"))
        names, labels = content["file_list"], content["labels"]
    except KeyError as error:
        raise DataError(f"{path} has no variable {error}; download the lists again") from error
    except (OSError, ValueError, TypeError, zlib.error, struct.error) as error:
        raise DataError(f"{path} cannot be read as a MATLAB file; download the lists again") from error
    if len(names) != len(labels):
        raise DataError(f"{path} has {len(names)} names and {len(labels)} labels; download the lists again")
    rows = []
    for number, (cell, label) in enumerate(zip(names, labels, strict=True), start=1):
        name = cell if isinstance(cell, str) else ""
        folder, slash, file = name.partition("/")
        named = folder.partition("-")[2] and slash and file and "/" not in file
        if not (named and isinstance(label, (int, float)) and label >= 1 and float(label).is_integer()):
            raise DataError(
                f"{path} entry {number} reads {name[:80]!r} with label {label}, expected "
                "<number>-<breed>/<image> and a label from 1; "
                "download the lists again"
            )
        rows.append((name, int(label) - 1))
    return rows


def first_box(path: Path) -> Box:
    """(xmin, ymin, xmax, ymax) of the first object of an annotation. Raises DataError naming the file."""
    again = "download the annotations again or set data.*.cropped=false"
    try:
        text = path.read_text(encoding="utf-8")
        if "<!" in text:  # comments, and document types whose entities could unfold to gigabytes
            raise DataError(f"{path} holds XML declarations that no annotation has; {again}")
        box = ElementTree.fromstring(text).find("object/bndbox")
        if box is None:
            raise DataError(f"{path} marks no dog; {again}")
        left, upper, right, lower = (int(box.findtext(side, "")) for side in ("xmin", "ymin", "xmax", "ymax"))
    except (OSError, ValueError, ElementTree.ParseError) as error:
        raise DataError(f"{path} cannot be read as an annotation; {again}") from error
    if not (left < right and upper < lower):
        raise DataError(f"{path} marks an empty box {left, upper, right, lower}; {again}")
    return left, upper, right, lower
