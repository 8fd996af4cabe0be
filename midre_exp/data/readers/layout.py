"""The layout of a download and its text lists: one sentence for whatever is missing or malformed. Used by
every dataset reader.
"""

from __future__ import annotations

import logging
import os
import unicodedata
from collections import Counter
from collections.abc import Iterator, Sequence
from functools import lru_cache
from pathlib import Path

from midre_exp.data.picture import endings
from midre_exp.data.readers.tree import is_hidden
from midre_exp.errors import DataError

_DIGITS = 18  # of a label or an identity, as far as torch can hold it


def first_existing(root: Path, names: Sequence[str]) -> Path | None:
    """The first of these relative paths that exists below ``root``; where ``root`` holds a single folder, as
    unpacked archives do, also below that.
    """
    for name in names:
        if (root / name).exists():
            return root / name
    inner = folder_names(root) if root.is_dir() else ()
    return first_existing(root / inner[0], names) if len(inner) == 1 and inner[0] not in names else None


def require(root: Path, absent: Sequence[str], *, title: str, layout: str) -> None:
    """Raise DataError with everything that is absent and the expected layout, unless nothing is."""
    if not root.is_dir():
        absent = [f"the folder {root} itself"]
    if absent:
        raise DataError(
            f"{title} is incomplete in {root}: missing {'; '.join(absent)}; put the official download there "
            "or "
            f"point data.private.root or data.public.root at it. Expected:\n{layout.rstrip()}"
        )


def require_count(found: int, expected: int | None, *, title: str, what: str, folder: Path, key: str) -> None:
    """Raise DataError with both figures unless ``found`` is what is expected; None accepts any number."""
    if expected is not None and found != expected:
        raise DataError(
            f"{title} has {found} {what} in {folder}, expected {expected}; complete the download, or give "
            f"data.*.{key}={found} (null: any number)"
        )


def lines_of(path: Path, separator: str | None = None) -> Iterator[tuple[int, list[str]]]:
    """The words of every line that is not blank, with its number from 1; any line ends, blanks and byte-order
    mark are fine.

    ``separator``: what stands between words that may hold blanks, e.g. a tab; None: blanks or commas, as
    re-packaged lists have them.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path} cannot be read as a text file; download it again") from error
    refuse_web_page(path, text)
    for number, line in enumerate(text.splitlines(), start=1):
        words = line.replace(",", " ").split() if separator is None else line.split(separator)
        if line.strip():
            yield number, [word.strip() for word in words]


def refuse_web_page(path: Path, text: str) -> None:
    """Raise DataError for the page that a server sends in place of a file, as when a quota is used up."""
    if text.lstrip()[:9].lower().startswith(("<!doctype", "<html", "<head")):
        raise DataError(
            f"{path} is a web page, not the file: the server refused the download, perhaps for its quota; "
            "download it again"
        )


def is_count(word: str) -> bool:
    """Whether a word of a list is a whole number from 0 in plain digits: others that Python calls digits do
    not all become numbers.
    """
    return word.isascii() and word.isdigit() and len(word) <= _DIGITS


def wrong_line(path: Path, number: int, words: Sequence[str], expected: str) -> DataError:
    """The error for a line that is not as its format wants it."""
    return DataError(
        f"{path} line {number} reads {' '.join(words)[:80]!r}, expected {expected}; correct or download the "
        "file "
        "again"
    )


def image_names(folder: Path, foreign: Counter[str] | None = None) -> tuple[str, ...]:
    """Names of the images right inside a folder, by code point; hidden and other files are left out, the
    latter counted in ``foreign`` by their endings.
    """
    names, known = [], endings()
    for name in (entry.name for entry in _entries(folder) if not _is_folder(entry)):
        ending = name[name.rfind(".") :].lower() if "." in name else ""
        if ending in known:
            names.append(name)
        elif foreign is not None:
            foreign[ending.removeprefix(".")] += 1
    return tuple(sorted(names))


def folder_names(folder: Path) -> tuple[str, ...]:
    """Names of the folders right inside a folder, sorted by code point; hidden ones and thumbnails are
    left out.
    """
    return tuple(sorted(entry.name for entry in _entries(folder) if _is_folder(entry)))


def _is_folder(entry: os.DirEntry[str]) -> bool:
    """Also of a link; one that leads in a circle is none."""
    try:
        return entry.is_dir()
    except OSError:
        return False


def _entries(folder: Path) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            return [entry for entry in entries if not is_hidden(entry.name)]
    except OSError as error:
        raise DataError(f"{folder} cannot be listed ({error.strerror}); mend its permissions") from error


@lru_cache(maxsize=256)
def warn_once(log: logging.Logger, sentence: str) -> None:
    """Log a warning the first time it is given: a run asks its datasets the same thing several times."""
    log.warning(sentence)


def canonical(name: str) -> str:
    """An identity's name as classes are sorted and compared: blanks become underscores, Unicode NFC."""
    return unicodedata.normalize("NFC", name).replace(" ", "_")
