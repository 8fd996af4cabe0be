"""What a key holds instead of a path: the content of weight files; and where two configs differ."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

from midre_exp.store.files import Stamp, sha256, stamp

#: File endings by which a config value is taken for the path of a weight file.
WEIGHT_FILES = (".pt", ".pth", ".tar", ".pkl", ".safetensors", ".ckpt", ".bin")


def by_content(node: Any) -> Any:
    """The config with every path of an existing weight file replaced by the file's SHA-256: the same weights
    elsewhere are the same key.
    """
    if isinstance(node, Mapping):
        return {key: by_content(value) for key, value in node.items()}
    if isinstance(node, list):
        return [by_content(value) for value in node]
    if isinstance(node, str) and node.endswith(WEIGHT_FILES) and Path(node).is_file():
        return f"sha256:{_content_hash(node, stamp(Path(node)))}"
    return node


@lru_cache(maxsize=256)
def _content_hash(path: str, _: Stamp) -> str:
    return sha256(Path(path))


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
