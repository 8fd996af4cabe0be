"""The faces of FaceScrub, cut out of its photographs by the boxes of its lists, as the scripts do that made
the copies of the literature.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from PIL import Image

from midre_exp.data.picture import UNREADABLE, open_rgb, reason
from midre_exp.data.readers.layout import canonical, first_existing, is_count, lines_of, require, wrong_line
from midre_exp.store.files import write_atomic

GROUPS = ("actors", "actresses")
_BASES = ("", "facescrub/", "faceScrub/", "FaceScrub/")
_QUALITY = 95  # OpenCV's own, of the script that names files by their address

Box = tuple[int, int, int, int]


class Face(NamedTuple):
    """A face to be cut out of a photograph."""

    photograph: Path
    face: Path
    box: Box  # left, upper, right, lower
    sha256: str  # of the photograph, "" where the list does not say
    clipped: bool  # to the photograph, and saved as JPEG; else black outside, in the photograph's format


class Listed(NamedTuple):
    """A row of the lists."""

    name: str  # canonical
    image: int
    face: int
    url: str
    box: Box
    sha256: str


def faces(root: Path) -> list[Face]:
    """Every listed face whose photograph is here, in the order of the lists. Raises DataError for a missing
    list and a wrong line.
    """
    found: list[Face] = []
    absent = []
    for group in GROUPS:
        path = _list_of(root, group)
        if path is None:
            absent.append(f"facescrub_{group}.txt or {group}_users_normal_bbox.txt")
            continue
        found += _faces_of(root, group, path)
    require(root, absent, title="FaceScrub", layout=_LAYOUT)
    return found


_LAYOUT = """\
  <root>/
    facescrub_actors.txt, facescrub_actresses.txt               the lists that its authors hand out
    actors/images/<name>/<name>_<image id>.jpg, actresses/images/...   photographs by the script of its author
    <Name>/<sha1 of the address>.jpg                            or by the other script"""


def _list_of(root: Path, group: str) -> Path | None:
    names = (f"facescrub_{group}.txt", f"{group}_users_normal_bbox.txt")
    return first_existing(root, [f"{base}{name}" for base in _BASES for name in names])


def _faces_of(root: Path, group: str, path: Path) -> Iterator[Face]:
    """Of one list, in whichever of the two layouts its photographs lie."""
    base = path.parent
    photographs = _Photographs(base / group / "images")
    for row in listed(path):
        if (photograph := photographs.of(row)) is not None:
            name = f"{photograph.stem}_{row.face}{photograph.suffix}"
            face = base / group / "faces" / photograph.parent.name / name
            yield Face(photograph, face, row.box, row.sha256, clipped=False)
            continue
        named = hashlib.sha1(row.url.encode(), usedforsecurity=False).hexdigest() + ".jpg"
        flat = base / row.name / named
        if flat.is_file():
            yield Face(flat, flat.parent / "face" / named, row.box, row.sha256, clipped=True)


class _Photographs:
    """Those of a group by person and image id; names with blanks or underscores, whatever the ending."""

    def __init__(self, folder: Path):
        self._folders = {canonical(one.name): one for one in folder.iterdir()} if folder.is_dir() else {}
        self._known: dict[str, dict[str, Path]] = {}

    def of(self, row: Listed) -> Path | None:
        if row.name not in self._known:
            folder = self._folders.get(row.name)
            files = sorted(folder.iterdir()) if folder is not None and folder.is_dir() else []
            self._known[row.name] = {file.stem.rpartition("_")[2]: file for file in files if file.is_file()}
        return self._known[row.name].get(str(row.image))


def listed(path: Path) -> Iterator[Listed]:
    """The rows of a list: name, image id, face id, address, box, perhaps the SHA-256, between tabs."""
    for number, words in lines_of(path, "\t"):
        if number == 1 and words[0].lower() == "name":
            continue
        box = words[4].split(",") if len(words) > 4 else []
        if len(box) != 4 or not all(is_count(word) for word in (*words[1:3], *(b.lstrip("-") for b in box))):
            raise wrong_line(path, number, words, "<name> <image id> <face id> <url> <box> between tabs")
        left, upper, right, lower = (int(word) for word in box)
        digest = words[5].lower() if len(words) > 5 and len(words[5]) == 64 else ""
        name = canonical(words[0])
        yield Listed(name, int(words[1]), int(words[2]), words[3], (left, upper, right, lower), digest)


def cut(face: Face) -> str:
    """Write one face; "" or why it cannot be."""
    try:
        if face.sha256 and hashlib.sha256(face.photograph.read_bytes()).hexdigest() != face.sha256:
            return "another picture than the list means (its SHA-256 differs)"
        made = io.BytesIO()
        if face.clipped:
            picture = open_rgb(face.photograph)  # turned upright, as OpenCV reads
            left, upper, right, lower = face.box
            inside = (max(left, 0), max(upper, 0), min(right, picture.width), min(lower, picture.height))
            if inside[0] >= inside[2] or inside[1] >= inside[3]:
                return f"the box {face.box} lies outside"
            picture.crop(inside).save(made, "JPEG", quality=_QUALITY, subsampling="4:2:0")
        else:
            with Image.open(face.photograph) as photograph:
                photograph.load()
                photograph.crop(face.box).save(made, photograph.format)
    except UNREADABLE as error:
        return reason(error, face.photograph)
    write_atomic(face.face, made.getvalue())
    return ""
