"""Counts are made once, in a process of their own, and remembered in files: planning never loads torch."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from midre_exp.cost.counted import Counted
from midre_exp.cost.inputs import count_key
from midre_exp.cost.sizes import Sizes
from midre_exp.errors import UserError
from midre_exp.plan.config import Settings
from midre_exp.store.files import make_folder, read_json, write_json


class Wanted(NamedTuple):
    """A stage of a run to be counted, and the name of its count."""

    stage: str
    settings: Settings
    sizes: Sizes
    key: str

    @classmethod
    def of(cls, stage: str, settings: Settings, sizes: Sizes) -> Wanted:
        """With its name."""
        return cls(stage, settings, sizes, count_key(stage, settings, sizes))

    @property
    def file(self) -> Path:
        """Where its count is remembered."""
        return Path(self.settings["paths"]["runs"]) / "costs" / f"{self.key}.json"


def remembered(wanted: Wanted) -> Counted | None:
    """The count of a stage, if it was made before."""
    try:
        return Counted.from_json(read_json(wanted.file))
    except (OSError, UserError, KeyError, TypeError, ValueError):
        return None


def refused(wanted: Wanted) -> str | None:
    """Why a stage cannot be counted, if that was tried."""
    try:
        found = read_json(wanted.file)
        return str(found["error"]) if isinstance(found, Mapping) and "error" in found else None
    except (OSError, UserError, ValueError):
        return None


def count_all(
    wanted: Iterable[Wanted], limit: float | None = None, say: Callable[[str], None] = lambda _: None
) -> list[Wanted]:
    """Count what is not remembered, for at most ``limit`` seconds (None: until all is done); returns what is
    still to count then.
    """
    missing = [
        one
        for one in {one.key: one for one in wanted}.values()
        if remembered(one) is None and refused(one) is None
    ]
    if not missing or limit == 0:
        return missing
    say(f"counting {len(missing)} stages, once; they are remembered in {missing[0].file.parent}")
    asked = [
        {"stage": one.stage, "settings": one.settings, "sizes": one.sizes.as_json(), "file": str(one.file)}
        for one in missing
    ]
    command = [sys.executable, "-m", "midre_exp.cost.worker"]
    child = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True)
    try:
        child.communicate(json.dumps(asked), timeout=limit)
    except subprocess.TimeoutExpired:
        pass
    finally:
        child.kill()
        child.wait()
    return [one for one in missing if remembered(one) is None and refused(one) is None]


def write_count(file: Path, found: Mapping[str, Any]) -> None:
    """Remember a count, whole or not at all."""
    make_folder(file.parent)
    write_json(file, found)
