"""Text files that name people: one that says whom each image shows, and lists of names in some order."""

from __future__ import annotations

import csv
import json
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from midre_exp.data.cache import abbreviate
from midre_exp.data.readers.tree import ImageFile, Tree, natural
from midre_exp.errors import ConfigError, DataError
from midre_exp.plan.names import as_text, quoted

#: Words of a header, the surest first; "name" is whichever of the two the others leave.
_PATH = "path file filename file_name filepath image image_path image_name image_id img"
_IDENTITY = "identity identity_id person person_id subject label class class_name target id"
_SPLIT = "split part partition subset set"


class Row(NamedTuple):
    """A line of a label file, with the image it is about."""

    line: int
    image: ImageFile
    identity: str
    split: str  # "" without such a column


def read_labels(path: Path, tree: Tree) -> list[Row]:
    """The rows of a csv (commas, semicolons, tabs or blanks) with the columns path and identity, and perhaps
    split; other columns are passed over where a header names these. Everything is text: 007 stays 007.

    A path counts from the root or from the file's folder; a bare file name, with or without its ending, will
    do where it is the only one. Raises DataError for wrong lines and images that are not there.
    """
    table = _table(path)
    find = _Finder(tree, path)
    first = table[0][1]
    header = _header(first)
    if header is None and find(first[0]) is None and len(table) > 1 and find(table[1][1][0]) is not None:
        raise DataError(
            f"{path} line 1 reads {','.join(first)[:80]!r}, neither an image below {tree.top.path} nor a "
            "header; call the columns path and identity"
        )
    columns = header or (0, 1, None)
    rows: list[Row] = []
    absent: list[str] = []
    seen: dict[Path, str] = {}
    for line, words in table[1:] if header else table:
        if len(words) <= max(column for column in columns if column is not None) or (
            header is None and len(words) != 2
        ):
            raise DataError(
                f"{path} line {line} reads {','.join(words)[:80]!r}, expected a path and an identity; "
                "correct it, or give a header line path,identity"
            )
        name, identity = words[columns[0]], words[columns[1]]
        if not name or not identity:
            raise DataError(
                f"{path} line {line} has no {'identity' if name else 'path'}; complete or remove it"
            )
        image = find(name)
        if image is None:
            absent.append(name)
        elif image.path in seen:
            again = f"{path} line {line} lists {image.name} a second time"
            told = f", as {identity!r} after {seen[image.path]!r}" if seen[image.path] != identity else ""
            raise DataError(f"{again}{told}; an image has one identity, so remove one of the lines")
        else:
            seen[image.path] = identity
            rows.append(Row(line, image, identity, "" if columns[2] is None else words[columns[2]]))
    if absent:
        some = ", ".join(absent[:5]) + (f" and {len(absent) - 5} more" if len(absent) > 5 else "")
        raise DataError(
            f"{path} names {len(absent)} of {len(absent) + len(rows)} images that are not below "
            f"{tree.top.path}, or of which there are several: {some}; correct the paths, which count "
            "from there"
        )
    return rows


def read_names(path: Path, key: str) -> list[str]:
    """Names in the order of a text file (one a line), of a JSON list, or by the numbers of a JSON object such
    as torchvision's class_to_idx. Raises ConfigError, beginning with ``key``.
    """
    wanted = 'give a text file with one name per line, or JSON like {"anna": 0, "bob": 1}'
    try:
        text = path.read_text(encoding="utf-8-sig")
        content = json.loads(text) if path.suffix.lower() == ".json" else text.splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{key}={path} cannot be read as a text file; {wanted}") from error
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{key}={path} is not JSON; {wanted}") from error
    if isinstance(content, dict):
        labels = list(content.values())
        if any(type(label) is not int for label in labels) or sorted(labels) != list(range(len(labels))):
            raise ConfigError(f"{key}={path} must number its names 0, 1, 2, … without gaps; {wanted}")
        content = sorted(content, key=content.__getitem__)
    if not isinstance(content, list) or not all(isinstance(name, str) for name in content):
        raise ConfigError(f"{key}={path} must hold names; {wanted}")
    return [unicodedata.normalize("NFC", name.strip()) for name in content if name.strip()]


def named_identities(
    given: Sequence[str | int | float | bool | None] | str | Path, everybody: Sequence[str], root: Path
) -> set[str]:
    """The private identities that a user names, in a list or a file of names (``read_names``), checked
    against ``everybody`` in ``root``. Raises ConfigError.
    """
    key = "data.private_identities"
    if isinstance(given, (str, Path)):
        if str(given) in everybody and not Path(given).expanduser().is_file():
            raise ConfigError(f"{key}={given} is no list; write '{key}={quoted([str(given)])}'")
        given = read_names(Path(given).expanduser(), key)
    names = sorted(as_text(given, everybody, key), key=natural)
    if repeated := twice(names):
        raise ConfigError(f"{key} names {abbreviate(repeated)} more than once; name every identity once")
    if unknown := [name for name in names if name not in set(everybody)]:
        there = abbreviate(everybody)
        raise ConfigError(f"{key} names {abbreviate(unknown)}, but {root} holds {there}; correct the names")
    if not names:
        raise ConfigError(f"{key} names 0 of the {len(everybody)} identities in {root}; name at least one")
    return set(names)


def twice(names: Sequence[str]) -> list[str]:
    """Those that are there more than once."""
    return [name for name, times in Counter(names).items() if times > 1]


def _table(path: Path) -> list[tuple[int, list[str]]]:
    """The words of every line that is not blank, with its number."""
    try:
        text = path.read_text(encoding="utf-8-sig")
        lines = text.splitlines()
        first = next((line for line in lines if line.strip()), "")
        separator = next((mark for mark in "\t;," if mark in first), None)
        if separator is None:
            rows = [(number, line.rsplit(None, 1)) for number, line in enumerate(lines, start=1)]
        else:
            reader = csv.reader(lines, delimiter=separator, skipinitialspace=True, strict=True)
            rows = [(reader.line_num, [word.strip() for word in words]) for words in reader]
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"data.labels={path} cannot be read as a text file; give a csv file") from error
    except csv.Error as error:
        raise DataError(f"data.labels={path} cannot be read as a csv file ({error}); correct it") from error
    table = [(number, words) for number, words in rows if any(words)]
    if not table:
        raise DataError(f"data.labels={path} holds no lines; give the columns path and identity")
    return table


def _header(words: Sequence[str]) -> tuple[int, int, int | None] | None:
    """Where path, identity and split stand, by the words of a header; None if it is none."""
    lower = [word.casefold().replace(" ", "_") for word in words]

    def column(known: str) -> int | None:
        return next((lower.index(word) for word in known.split() if word in lower), None)

    path, identity = column(_PATH), column(_IDENTITY)
    name = column("name")
    if path is None:
        path = name
    elif name is not None:
        identity = name if identity is None else identity
    return None if path is None or identity is None else (path, identity, column(_SPLIT))


class _Finder:
    """Finds images by what a label file calls them."""

    def __init__(self, tree: Tree, file: Path):
        self._paths: dict[str, ImageFile] = {}
        self._names: dict[str, list[ImageFile]] = defaultdict(list)
        for image in tree.top.walk():
            self._paths[image.name] = image
            last = image.name.rpartition("/")[2]
            for name in {last, last.rpartition(".")[0]}:
                self._names[name].append(image)
        try:
            self._prefix = file.absolute().parent.relative_to(tree.top.path).as_posix() + "/"
        except ValueError:
            self._prefix = ""
        self._root = tree.top.path

    def __call__(self, name: str) -> ImageFile | None:
        """The image of a path, None if there is none, or are several."""
        name = unicodedata.normalize("NFC", name.replace("\\", "/")).removeprefix("./")
        if name.startswith("/"):
            name = name.removeprefix(f"{self._root.as_posix()}/")
        for path in (name, f"{self._prefix}{name}"):
            if path in self._paths:
                return self._paths[path]
        images = self._names.get(name, ()) if "/" not in name else ()
        return images[0] if len(images) == 1 else None
