"""What a key holds instead of a path: the content of a file; and where two configs differ."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from midre_exp.plan.paths import may_name_file
from midre_exp.store.contents import content_hash
from midre_exp.store.store import Places


def by_content(node: Any, store: Places | None = None) -> Any:
    """The config with every path of an existing file replaced by the file's SHA-256: the same weights
    elsewhere or under another name are the same key. ``store``: where hashes are remembered.
    """
    return _by_content("", node, store)


def _by_content(key: str, node: Any, store: Places | None) -> Any:
    if isinstance(node, Mapping):
        return {name: _by_content(_below(key, name), value, store) for name, value in node.items()}
    if isinstance(node, list):
        return [_by_content(key, value, store) for value in node]
    if may_name_file(key, node) and (held := content_hash(Path(node).expanduser(), store)):
        return f"sha256:{held}"
    return node


def _below(key: str, name: object) -> str:
    return f"{key}.{name}" if key else str(name)


def first_difference(old: Any, new: Any, path: str = "") -> str | None:
    """The first place in which two plain configs differ, as ``key was OLD, is NEW``."""
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        for key in sorted({*old, *new}):
            found = first_difference(
                old.get(key, "absent"), new.get(key, "absent"), f"{path}.{key}" if path else key
            )
            if found:
                return found
        return None
    return None if old == new else f"{path} was {old}, is {new}"
