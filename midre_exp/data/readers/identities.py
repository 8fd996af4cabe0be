"""Whom a folder of images shows: which folder names a person, which a split, and what is left over.

Identities are the folders right in the root, unless these hold no images of their own:

* one folder alone is gone through (``root/images/<person>``),
* folders called train and val or test (any case; valid, validation, eval, training, testing) are the split,
  above the identities or below each of them,
* anything else could be read in several ways, which are told in one sentence with the keys that choose.
"""

from __future__ import annotations

import unicodedata
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from midre_exp.data.readers.label_file import read_labels
from midre_exp.data.readers.tree import Folder, ImageFile, Tree, natural, read_tree
from midre_exp.errors import ConfigError, DataError

#: The part of a split that an image lies in, "" where there is none.
Split = Literal["", "train", "val", "test"]
#: What ``data.split`` may be.
SPLIT_RULES = ("auto", "folders", "drawn")
SPLITS: Mapping[str, Split] = {
    "train": "train",
    "training": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "eval": "val",
    "test": "test",
    "testing": "test",
}

Files = tuple[ImageFile, ...]


@dataclass(frozen=True)
class Identities:
    """The people of a tree with their images."""

    tree: Tree
    root: Path  # the folder that the names of images count from
    files: Mapping[str, Mapping[Split, Files]]  # by identity (NFC, in natural order) and part of a split
    on_disk: Mapping[str, str]  # each identity's name as the disk or the label file spells it
    where: str  # the path that names an identity, e.g. "<split>/<identity>"
    left_over: Files  # images that belong to nobody
    empty: tuple[str, ...]  # identities without images

    @property
    def splits(self) -> tuple[Split, ...]:
        """The parts of the split that the tree has, none of a tree without one."""
        found = {split for files in self.files.values() for split in files}
        return tuple(split for split in ("train", "val", "test") if split in found)

    def count(self, name: str) -> int:
        """The images of an identity."""
        return sum(map(len, self.files[name].values()))

    def of(self, name: str) -> Files:
        """All images of an identity, in natural order."""
        return tuple(sorted((f for files in self.files[name].values() for f in files), key=_by_name))

    def with_at_least(self, images: int) -> Identities:
        """Those who have so many."""
        files = {name: self.files[name] for name in self.files if self.count(name) >= images}
        return replace(self, files=files)

    def alike(self) -> list[tuple[str, ...]]:
        """Identities whose names differ in upper and lower case alone."""
        groups: dict[str, list[str]] = defaultdict(list)
        for name in self.files:
            groups[name.casefold()].append(name)
        return [tuple(group) for group in groups.values() if len(group) > 1]


def read_identities(
    root: Path, endings: Iterable[str], *, split: str = "auto", level: int | None = None, labels: Path | None
) -> Identities:
    """The identities of the tree below ``root``.

    ``split``: auto (folders named train, val, test are the split), folders (there must be some, others are
    left out), drawn (they mean nothing). ``level``: which component of a path below the root names the
    identity, from 1; None: see above. ``labels``: a file that says whom each image shows.
    Raises DataError telling a layout that cannot be used, and what to give.
    """
    if split not in SPLIT_RULES:
        raise ConfigError(f"data.split={split} is unknown; use {', '.join(SPLIT_RULES)}")
    if level is not None and (isinstance(level, bool) or not isinstance(level, int) or level < 1):
        raise ConfigError(f"data.identity_level={level} must be a whole number from 1, or null")
    if labels is not None and level is not None:
        raise ConfigError("data.labels and data.identity_level both say who is who; leave one of them null")
    tree = read_tree(root, endings)
    if labels is not None:
        found = _labelled(tree, labels, split)
    elif level is not None:
        found = _at_level(tree, level, split)
    else:
        found = _by_structure(tree, split)
    if split == "folders" and not found.splits:
        raise ConfigError(
            f"data.split=folders, but {root} has no folders called train and val or test; use "
            "data.split=drawn"
        )
    return found


def _by_structure(tree: Tree, split: str) -> Identities:
    """The identities of a tree by the rules above."""
    base = _base(tree.top)
    kids = base.inhabited()
    parts = [kid for kid in kids if _split_of(kid) and kid.inhabited()]
    people: list[tuple[Split, Folder]] = [("", kid) for kid in base.every()]
    where = "<identity>"
    if parts != kids and _is_split(kids) and all(map(_split_of, kids)):
        raise _flat_split(base, parts, [kid for kid in kids if kid not in parts])
    if _is_split(parts) and (len(parts) == len(kids) or split == "folders"):
        people = [(_split_of(part), kid) for part in parts for kid in _base(part).every()]
        where = "<split>/<identity>"
    elif _is_split(parts):
        raise DataError(
            f"{base.path} holds the split folders {_some([part.name for part in parts])} beside "
            f"{_some([kid.name for kid in kids if kid not in parts])}; give data.split=folders to leave the "
            "others out, or data.identity_level=1 if all of them are people"
        )
    elif _is_split_below(kids):
        where = "<identity>/<split>"
    elif branching := [kid for kid in kids if _branches(kid)]:
        raise _ambiguous(tree, kids, branching)
    if not any(kid.count for _, kid in people):
        raise _no_identities(tree)
    rows: list[tuple[str, Split, ImageFile]] = []
    for part, kid in people:
        for image in kid.walk():
            if where == "<identity>/<split>":
                part = SPLITS[image.path.relative_to(kid.path).parts[0].casefold()]
            rows.append((kid.name, "" if split == "drawn" else part, image))
    return _gathered(tree, base.path, rows, where, [kid.name for _, kid in people])


def _at_level(tree: Tree, level: int, split: str) -> Identities:
    """The identities of a tree by the component of the path that names them."""
    root = tree.top.path
    paths = [(image, image.path.relative_to(root).parts[:-1]) for image in tree.top.walk()]
    deep = [(image, parts) for image, parts in paths if len(parts) >= level]
    if not deep:
        raise DataError(
            f"data.identity_level={level}, but no image in {root} lies that many folders deep; lower it"
        )
    at = _split_component([parts for _, parts in deep], level - 1)
    rows: list[tuple[str, Split, ImageFile]] = [
        (parts[level - 1], "" if at is None or split == "drawn" else SPLITS[parts[at].casefold()], image)
        for image, parts in deep
    ]
    where = "/".join("<split>" if place == at else "*" for place in range(level - 1))
    return _gathered(tree, root, rows, f"{where}/<identity>".removeprefix("/"), [])


def _labelled(tree: Tree, path: Path, split: str) -> Identities:
    """The identities that a label file names."""
    rows: list[tuple[str, Split, ImageFile]] = []
    labelled = read_labels(path, tree)
    at = None
    if not any(row.split for row in labelled):
        folders = [row.image.path.relative_to(tree.top.path).parts[:-1] for row in labelled]
        at = _split_component(folders, min(map(len, folders)))
    for row in labelled:
        part: Split = ""
        if split != "drawn" and at is not None:
            part = SPLITS[row.image.path.relative_to(tree.top.path).parts[at].casefold()]
        elif split != "drawn" and row.split:
            if row.split.casefold() not in SPLITS:
                raise DataError(
                    f"{path} line {row.line} puts {row.image.name} into the split {row.split!r}; use train, "
                    "val or test"
                )
            part = SPLITS[row.split.casefold()]
        rows.append((row.identity, part, row.image))
    return _gathered(tree, tree.top.path, rows, f"named by {path.name}", [])


def _gathered(
    tree: Tree, root: Path, rows: Sequence[tuple[str, Split, ImageFile]], where: str, folders: Sequence[str]
) -> Identities:
    """Identities from (name, part, image); ``folders``: names that should have images."""
    spellings: dict[str, str] = {}
    for name in (*folders, *(row[0] for row in rows)):
        spelt = spellings.setdefault(_nfc(name), name)
        if spelt != name:
            raise DataError(
                f"{tree.top.path} holds two folders whose names both read {_nfc(name)!r}; rename one"
            )
    offset = len(tree.top.path.parts)
    prefix = "/".join(root.parts[offset:])
    start = len(_nfc(prefix)) + 1 if prefix else 0
    by_person: dict[str, dict[Split, list[ImageFile]]] = {_nfc(name): {} for name in folders}
    for name, part, image in rows:
        named = image._replace(name=image.name[start:])
        by_person.setdefault(_nfc(name), {}).setdefault(part, []).append(named)
    taken = {image.path for _, _, image in rows}
    names = sorted((name for name, files in by_person.items() if files), key=natural)
    return Identities(
        tree=tree,
        root=root,
        files={
            name: {part: tuple(sorted(files, key=_by_name)) for part, files in by_person[name].items()}
            for name in names
        },
        on_disk={name: spellings[name] for name in names},
        where=where,
        left_over=tuple(sorted((f for f in tree.top.walk() if f.path not in taken), key=_by_name)),
        empty=tuple(sorted((name for name, files in by_person.items() if not files), key=natural)),
    )


def _base(folder: Folder) -> Folder:
    """Where identities or splits are: the folder, or further down while one folder alone holds folders."""
    while len(kids := folder.inhabited()) == 1 and kids[0].inhabited() and not kids[0].images:
        folder = kids[0]
    return folder


def _through(folder: Folder) -> Folder:
    """The first folder downwards that holds images or several folders with images."""
    while not folder.images and len(kids := folder.inhabited()) == 1:
        folder = kids[0]
    return folder


def _branches(folder: Folder) -> bool:
    """Whether a folder, taken for a person, holds several folders and no image that is theirs for sure."""
    folder = _through(folder)
    return not folder.images and len(folder.inhabited()) > 1


def _split_of(folder: Folder) -> Split:
    return SPLITS.get(folder.name.casefold(), "")


def _is_split(folders: Iterable[Folder]) -> bool:
    """Whether the folders are a split: train and another part."""
    parts = set(map(_split_of, folders))
    return "train" in parts and len(parts) > 1


def _is_split_below(people: Sequence[Folder]) -> bool:
    """Whether each of them holds the parts of a split and nothing else."""
    inner = [folder for person in people for folder in person.inhabited()]
    return not any(person.images for person in people) and all(map(_split_of, inner)) and _is_split(inner)


def _split_component(paths: Sequence[Sequence[str]], depth: int) -> int | None:
    """Which of the first ``depth`` components is the split of all paths; None if none is."""
    for at in range(depth):
        names = {parts[at].casefold() for parts in paths}
        parts = {SPLITS.get(name, "") for name in names}
        if "train" in parts and len(parts) > 1 and "" not in parts:
            return at
    return None


def _no_identities(tree: Tree) -> DataError:
    """What to say of a tree without folders of images."""
    root = tree.top.path
    if tree.top.count:
        return DataError(
            f"data.root={root} holds no identity folders, but {_images(tree.top.count)}; arrange it as "
            "<root>/<identity>/<image>, or say who is who in data.labels=FILE (columns path and identity)"
        )
    if tree.top.folders:
        known = " ".join(tree.endings)
        others = ", ".join(f"{count} .{ending}" for ending, count in tree.foreign.most_common(3) if ending)
        return DataError(
            f"data.root={root} holds no image of {_some([f.name for f in tree.top.every()])} (read are "
            f"{known}; there are {others or 'no files with endings'}); add images, list their endings in "
            "data.extensions, or give another root"
        )
    return DataError(f"data.root={root} holds no identity folders; arrange it as <root>/<identity>/<image>")


def _flat_split(base: Folder, parts: Sequence[Folder], flat: Sequence[Folder]) -> DataError:
    """What to say of split folders that hold images instead of people."""
    names = [folder.name for folder in (*parts, *flat)]
    alone = f"give data.root={_shell(parts[0].path)} to use that alone, or " if len(parts) == 1 else ""
    return DataError(
        f"{base.path} holds the split folders {_some(names)}, but {_some([f.name for f in flat])} without "
        f"one folder per identity; {alone}arrange them as <split>/<identity>/<image>, or say who is who in "
        "data.labels=FILE (columns path and identity)"
    )


def _ambiguous(tree: Tree, people: Sequence[Folder], branching: Sequence[Folder]) -> DataError:
    """What to say of a tree whose identities may be at several levels: the readings, each with its key."""
    root = tree.top.path
    names: dict[int, set[str]] = defaultdict(set)
    for image in tree.top.walk():
        for depth, name in enumerate(image.path.relative_to(root).parts[:-1], start=1):
            names[depth].add(name)
    readings = [
        f"data.identity_level={depth} for {len(found)} identities ({_some(sorted(found, key=natural), 3)})"
        for depth, found in sorted(names.items())
        if len(found) > 1
    ]
    inner = [_through(folder).path for folder in branching[:2]]
    roots = " or ".join(f"data.root={_shell(path)}" for path in inner)
    own = [folder.name for folder in people if folder not in branching]
    beside = f" beside {_some(own)}, which hold images" if own else ""
    return DataError(
        f"data.root={root} holds {_some([f.name for f in branching])}, folders of folders without images of "
        f"their own{beside}, so it is open which folder is a person; give "
        + ", ".join(readings)
        + f", or one of these folders alone: {roots}"
    )


def _shell(path: Path) -> str:
    text = str(path)
    return text if all(c.isalnum() or c in "/._-" for c in text) else f"'\"{text}\"'"


def _images(count: int) -> str:
    return "1 image" if count == 1 else f"{count:,} images"


def _some(names: Sequence[str], most: int = 5) -> str:
    return ", ".join(names[:most]) + (f" and {len(names) - most:,} more" if len(names) > most else "")


def _nfc(name: str) -> str:
    return unicodedata.normalize("NFC", name)


def _by_name(image: ImageFile) -> tuple[list[str | int], str]:
    return natural(image.name)
