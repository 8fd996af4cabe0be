"""What the lists say that publishers hand out beside their pictures: counts and checksums."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from pathlib import Path

from midre_exp.data.readers.layout import first_existing, image_names, is_count, lines_of, wrong_line
from midre_exp.downloads.faces import faces
from midre_exp.errors import DataError, UserError

_FFHQ_JSON = "ffhq-dataset-v2.json"

Complaints = Iterator[tuple[str, str]]  # what is concerned, and what is wrong


def complaints(folder: str, root: Path) -> Complaints:
    """What is not as the lists of a data set say, by the folder of its card."""
    if folder in _COMPLAINTS:
        yield from _COMPLAINTS[folder](root)


def picture_sums(folder: str, root: Path) -> dict[str, str]:
    """The published MD5 or SHA-256 of pictures by name, as far as their lists are here."""
    return _SUMS[folder](root) if folder in _SUMS else {}


def plain_md5(path: Path) -> str:
    """The MD5 of a text list as its publishers write it: CRLF, single blanks, no header."""
    hashed = hashlib.md5(usedforsecurity=False)
    try:
        for number, words in lines_of(path):
            if number > 1 or is_count(words[-1]):
                hashed.update(f"{' '.join(words)}\r\n".encode())
    except UserError:
        return ""
    return hashed.hexdigest()


def _vggface2(root: Path) -> Complaints:
    """Identities whose folder has another number of images than identity_meta.csv says."""
    meta = first_existing(root, ["meta/identity_meta.csv", "identity_meta.csv"])
    if meta is None:
        return
    for number, words in lines_of(meta, ","):
        if number == 1 and words[0] == "Class_ID":
            continue
        if len(words) < 4 or not is_count(words[2]) or words[3] not in ("0", "1"):
            raise wrong_line(meta, number, words, "<class>, <name>, <images>, <1 of train>, <gender>")
        part = "train" if words[3] == "1" else "test"
        parts = first_existing(root, [part, f"vggface2/{part}"])
        if parts is None:
            continue  # test/ is needed by few
        place = parts / words[0]
        found = len(image_names(place)) if place.is_dir() else 0
        if found != int(words[2]):
            yield f"{part}/{words[0]}", f"{found} images, identity_meta.csv counts {words[2]}"


def _ffhq(root: Path) -> dict[str, str]:
    """By the JSON file, which has the MD5 of every picture."""
    path = first_existing(root, [_FFHQ_JSON])
    if path is None:
        return {}
    try:
        entries = json.loads(path.read_text(encoding="utf-8"))
        files = [entry[kind] for entry in entries.values() for kind in ("thumbnail", "image")]
        sums = {str(file["file_path"]): str(file["file_md5"]).lower() for file in files}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(f"{path} is not the file of FFHQ's publishers; fetch it again") from error
    if any(len(value) != 32 for value in sums.values()):
        raise DataError(f"{path} holds checksums that are no MD5; fetch it again")
    base = path.parent
    return {
        (base / name).relative_to(root).as_posix(): md5
        for name, md5 in sums.items()
        if (base / name).exists()
    }


def _facescrub(root: Path) -> dict[str, str]:
    """Of the photographs, by the lists; the faces cut out of them have none."""
    try:
        listed = faces(root)
    except UserError:  # without the lists
        return {}
    return {face.photograph.relative_to(root).as_posix(): face.sha256 for face in listed if face.sha256}


_COMPLAINTS: dict[str, Callable[[Path], Complaints]] = {"vggface2": _vggface2}
_SUMS: dict[str, Callable[[Path], dict[str, str]]] = {"ffhq": _ffhq, "facescrub": _facescrub}
