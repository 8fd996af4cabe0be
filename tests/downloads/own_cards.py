"""Cards of small data sets in a config folder of one's own."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import yaml

from midre_exp.plan.config import CONF_DIR


def own_card(
    folder: Path, name: str, *, card: str | None = None, reader: str | None = None, **keys: Any
) -> Path:
    """A packaged card under another name, with other values. ``reader``: its choice of data/dataset, copied
    with ``expect`` laid over.
    """
    expect = keys.pop("expect", {})
    values = yaml.safe_load((CONF_DIR / "card" / "dataset" / f"{card or name}.yaml").read_text())
    (folder / "card" / "dataset").mkdir(parents=True, exist_ok=True)
    if reader is not None:
        node = yaml.safe_load((CONF_DIR / "data" / "dataset" / f"{reader}.yaml").read_text())
        (folder / "data" / "dataset").mkdir(parents=True, exist_ok=True)
        (folder / "data" / "dataset" / f"{name}.yaml").write_text(yaml.safe_dump({**node, **expect}))
        values["used_by"] = [name]
    path = folder / "card" / "dataset" / f"{name}.yaml"
    path.write_text(yaml.safe_dump({**values, **keys}))
    return folder


def md5(path: Path) -> str:
    return hashlib.md5(path.read_bytes(), usedforsecurity=False).hexdigest()
