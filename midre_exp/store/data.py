"""Whether the images on disk are still those that artifacts were made from.

Whoever loads images leaves an inventory in the store: which files, where, and the SHA-256 of each, as the
command sha256sum writes it. It belongs to artifacts by the hash of files in their manifests.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from midre_exp.errors import StoreError
from midre_exp.store.contents import content_hashes
from midre_exp.store.files import dump_json
from midre_exp.store.store import Artifact, Places, Store, Workspace

#: The stage of inventories; they belong to data on disk, as decoded images do.
INVENTORY = "inventory"
_FILE = "SHA256SUMS"


@dataclass(frozen=True)
class Comparison:
    """An inventory beside the files it names: ``changed`` and ``missing`` are names below ``root``."""

    title: str
    root: Path
    files: str  # the hash that manifests hold
    count: int
    changed: tuple[str, ...]
    missing: tuple[str, ...]

    @property
    def is_same(self) -> bool:
        """Whether every file is there and as it was."""
        return not (self.changed or self.missing)


def keep_inventory(
    store: Places, *, title: str, root: Path, files: str, contents: Callable[[], Mapping[str, str]]
) -> None:
    """Leave the inventory of images that are being used; ``files``: the hash that manifests will hold,
    ``contents`` gives SHA-256 by name, "" for a file that cannot be opened.
    """

    def make(work: Workspace) -> None:
        known = contents()
        lines = [f"{_escaped(content or '-', name)}\n" for name, content in known.items()]
        work.save_file(_FILE, "".join(lines).encode("utf-8", "surrogateescape"))
        work.metrics.update(count=len(known))

    config = {"title": title, "root": str(root), "files": files}
    key = hashlib.sha256(dump_json(config).encode("utf-8", "surrogateescape")).hexdigest()[:16]
    Store(store).build(INVENTORY, key, config=config, upstream={}, make=make, reread=False)


def compare(store: Store) -> list[Comparison]:
    """Every inventory of a store, all files read again."""
    return [_compare(found) for found in store.list() if found.stage == INVENTORY]


def artifacts_of(store: Store) -> dict[str, list[Artifact]]:
    """The artifacts that were made from images, by the hash of the files in their manifests."""
    found: dict[str, list[Artifact]] = {}
    for artifact in store.list():
        files = _files_in(artifact.manifest.get("config"))
        if artifact.stage != INVENTORY and files is not None:
            found.setdefault(files, []).append(artifact)
    return found


def _files_in(config: Any) -> str | None:
    data = config.get("data") if isinstance(config, Mapping) else None
    files = data.get("files") if isinstance(data, Mapping) else None
    return files if isinstance(files, str) else None


def _compare(inventory: Artifact) -> Comparison:
    config = inventory.manifest["config"]
    title, root, files = (config.get(key) for key in ("title", "root", "files"))
    if not (isinstance(title, str) and isinstance(root, str) and isinstance(files, str)):
        raise StoreError(f"{inventory.path} is no inventory; delete it")
    text = (inventory.path / _FILE).read_bytes().decode("utf-8", "surrogateescape")
    known = dict(_unescaped(line) for line in text.split("\n") if line)
    names = list(known)
    found = content_hashes(root, names, None, title=title, reread=True)
    changed = [n for n, held in zip(names, found, strict=True) if held and held != known[n]]
    missing = [n for n, held in zip(names, found, strict=True) if not held and known[n] != "-"]
    return Comparison(title, Path(root), files, len(names), tuple(changed), tuple(missing))


def _escaped(content: str, name: str) -> str:
    """A line of sha256sum, which escapes names with line breaks and begins such a line with a backslash."""
    safe = name.replace("\\", "\\\\").replace("\n", "\\n").replace("\r", "\\r")
    return f"{'' if safe == name else chr(92)}{content}  {safe}"


def _unescaped(line: str) -> tuple[str, str]:
    content, _, name = line.removeprefix("\\").partition("  ")
    if line.startswith("\\"):
        letters = {"n": "\n", "r": "\r", "\\": "\\"}
        parts, rest = [], iter(name)
        for letter in rest:
            parts.append(letters.get(next(rest, ""), "") if letter == "\\" else letter)
        name = "".join(parts)
    return name, content
