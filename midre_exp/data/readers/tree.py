"""The files below a folder of images, by name and size alone: no image is opened here."""

from __future__ import annotations

import os
import re
import stat
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import NamedTuple

from midre_exp.errors import DataError

#: What cameras, network drives and archives leave beside pictures: copies of them, or none at all.
LITTER = frozenset(
    {
        "@eadir",
        ".thumbnails",
        ".thumbs",
        "thumbs.db",
        "ehthumbs.db",
        "desktop.ini",
        "__macosx",
        ".ds_store",
        "lost+found",
        "#recycle",
        "@recycle",
        "$recycle.bin",
        "system volume information",
    }
)
_TEXTS = frozenset({"readme", "license", "licence", "copying", "notice", "authors", "changelog", "makefile"})
_LINKS = 3  # on one path; more could multiply a small tree without end


class ImageFile(NamedTuple):
    """An image below the root: ``name`` relative to it, with "/" and in Unicode NFC, ``size`` in bytes, -1 of
    a dangling link or a pipe, which has none.
    """

    path: Path
    name: str
    size: int


@dataclass
class Folder:
    """A folder with the images right inside it, and its folders by their names on disk."""

    path: Path
    name: str  # as on disk
    images: list[ImageFile] = field(default_factory=list)
    folders: dict[str, Folder] = field(default_factory=dict)
    count: int = 0  # images in it and below

    def inhabited(self) -> list[Folder]:
        """Its folders with images in them or below, in natural order."""
        return [folder for folder in self.every() if folder.count]

    def every(self) -> list[Folder]:
        """Its folders in natural order."""
        return [self.folders[name] for name in sorted(self.folders, key=natural)]

    def walk(self) -> Iterator[ImageFile]:
        """All images in it and below."""
        waiting = [self]
        while waiting:
            folder = waiting.pop()
            yield from folder.images
            waiting += folder.folders.values()


@dataclass(frozen=True)
class Tree:
    """What a folder holds."""

    top: Folder
    endings: tuple[str, ...]  # of images
    foreign: Counter[str]  # files that are not read, by ending in lower case, "" for none
    litter: Counter[str]  # what was passed over, by its name among ``LITTER``
    circles: tuple[str, ...]  # links that lead back to a folder they lie in, or through too many links


def is_hidden(name: str) -> bool:
    """Whether an entry of a folder is passed over: hidden, or litter."""
    return name.startswith(".") or name.casefold() in LITTER


def natural(name: str) -> tuple[list[str | int], str]:
    """Sort key that reads digits as numbers: s2 before s10."""
    return [int(part) if i % 2 else part for i, part in enumerate(re.split(r"(\d+)", name))], name


def read_tree(root: Path, endings: Iterable[str]) -> Tree:
    """Everything below ``root``; files count as images by their ``endings`` (without dot, lower case).

    Hidden entries and ``LITTER`` are left out; links are followed unless they lead in a circle. Raises
    DataError naming a folder that cannot be read.
    """
    if not root.is_dir():
        problem = "is a file" if root.exists() else "does not exist"
        raise DataError(f"data.root={root} {problem}; give the folder that holds one folder per identity")
    known = tuple(endings)
    suffixes = {f".{ending}" for ending in known}
    tree = Tree(Folder(root, root.name), known, Counter(), Counter(), ())
    circles: list[str] = []
    order: list[tuple[Folder, Folder]] = []
    # a folder, the (device, inode) of every folder above and of itself, and the links on the way
    waiting: list[tuple[Folder, tuple[tuple[int, int], ...], int]] = [(tree.top, (_identity(root),), 0)]
    while waiting:
        folder, above, links = waiting.pop()
        for entry in _entries(folder.path):
            name = entry.name.casefold()
            if name in LITTER:
                tree.litter[name] += 1
            elif name.startswith("."):
                continue
            elif not _is_folder(entry):
                ending = os.path.splitext(name)[1]  # noqa: PTH122  of a name
                if ending in suffixes:
                    folder.images.append(_image(entry, root))
                elif name not in _TEXTS:
                    tree.foreign[ending.removeprefix(".")] += 1
            else:
                path = Path(entry.path)
                here, crossed = _identity(path), links + entry.is_symlink()
                if here in above or crossed > _LINKS:
                    circles.append(path.relative_to(root).as_posix())
                    continue
                inner = folder.folders[entry.name] = Folder(path, entry.name)
                order.append((folder, inner))
                waiting.append((inner, (*above, here), crossed))
        folder.images.sort(key=lambda image: natural(image.name))
    tree.top.count += len(tree.top.images)
    for outer, inner in reversed(order):  # what is inside comes first
        inner.count += len(inner.images)
        outer.count += inner.count
    return replace(tree, circles=tuple(sorted(circles, key=natural)))


def _entries(folder: Path) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            return list(entries)
    except OSError as error:
        raise DataError(f"{folder} cannot be read ({error.strerror}); mend its permissions") from error


def _is_folder(entry: os.DirEntry[str]) -> bool:
    """Also of a link; one that leads to itself is none."""
    try:
        return entry.is_dir()
    except OSError:
        return False


def _identity(folder: Path) -> tuple[int, int]:
    try:
        status = folder.stat()
    except OSError as error:
        raise DataError(f"{folder} cannot be read ({error.strerror}); mend its permissions") from error
    return status.st_dev, status.st_ino


def _image(entry: os.DirEntry[str], root: Path) -> ImageFile:
    path = Path(entry.path)
    try:
        status = entry.stat()
        size = status.st_size if stat.S_ISREG(status.st_mode) else -1
    except OSError:  # it is reported among the unreadable files when its turn comes
        size = -1
    return ImageFile(path, unicodedata.normalize("NFC", path.relative_to(root).as_posix()), size)
