"""Which values of a config are paths: the one place that knows, so that what is read and what a key holds
agree.

``~`` is expanded here once, when a config becomes settings. A file enters keys by its content (``digests``);
a folder never does, its images by their fingerprint.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

#: Keys whose value is a file or a folder wherever they stand, with the words that are none. A mapping or a
#: list below one holds paths too (``pretrained: {generator: PATH, ...}``).
PATH_KEYS: Mapping[str, tuple[str, ...]] = {
    "checkpoint": (),
    "pretrained": (),
    "weights": ("imagenet", "public", "vggface2", "pytorch_fid"),
    "face_weights": ("vggface2",),
    "inception_weights": ("imagenet",),
    "fid_weights": ("pytorch_fid",),
    "root": (),
    "lists": (),
}
#: Keys with a place of their own, and the node of which every value is a path.
_PLACES = ("data.private_identities", "data.order", "data.labels")
_PATHS = "paths"
#: Endings by which a value under any other key, such as one of a plug-in, is taken for the path of a file.
WEIGHT_FILES = (".pt", ".pth", ".tar", ".pkl", ".safetensors", ".ckpt", ".bin")


def expand_paths(settings: Any) -> Any:
    """Settings with ``~`` expanded in every value that is a path, and in every other that begins with
    ``~/``.
    """
    return _expanded("", settings)


def is_path_key(key: str) -> bool:
    """Whether the value of a key such as ``target.checkpoint`` is a path."""
    names = key.split(".")
    return names[0] == _PATHS or key in _PLACES or any(name in PATH_KEYS for name in names)


def wants_file(key: str, value: Any) -> bool:
    """Whether a value is meant to be a file: below a key of ``PATH_KEYS`` any text but its words, elsewhere
    one with the ending of a weight file.
    """
    if not isinstance(value, str) or not value or key.endswith("_target_"):
        return False
    known = [PATH_KEYS[name] for name in key.split(".") if name in PATH_KEYS]
    if known:
        return all(value not in words for words in known)
    return value.lower().endswith(WEIGHT_FILES)


def may_name_file(key: str, value: Any) -> bool:
    """Whether a value enters a key by the content of the file it names, if there is one: what wants to be a
    file, and any text with a folder in it, such as a plug-in may have.
    """
    return wants_file(key, value) or (
        isinstance(value, str) and os.sep in value and not key.endswith("_target_")
    )


def _expanded(key: str, node: Any) -> Any:
    if isinstance(node, Mapping):
        return {name: _expanded(f"{key}.{name}" if key else str(name), value) for name, value in node.items()}
    if isinstance(node, list):
        return [_expanded(key, value) for value in node]
    if isinstance(node, str) and (node.startswith("~/") or (node.startswith("~") and is_path_key(key))):
        return os.path.expanduser(node)  # noqa: PTH111  a text stays a text
    return node
