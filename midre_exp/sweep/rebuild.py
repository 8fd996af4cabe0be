"""One request to make stages anew (``--rebuild``, ``runtime.rebuild``), so that all runs of a sweep share
what the first of them made, and the same command goes on after a kill.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from midre_exp.errors import StoreError
from midre_exp.plan.config import digest
from midre_exp.store.files import read_json, remove_file, write_json


def request_of(settings: Mapping[str, Any], keys: Iterable[str], code: str) -> tuple[str, Path] | None:
    """The id of the request to rebuild that runs of these keys make with this code, and the file that keeps
    it until they are done; None where they make none.
    """
    stages = settings["runtime"].get("rebuild")
    if not stages:
        return None
    name = digest([sorted(map(str, stages)), sorted(keys), code])
    file = Path(settings["paths"]["runs"]) / "planned" / f"rebuild-{name}.json"
    try:
        known = read_json(file)
    except StoreError:  # a new request
        known = None
    if not isinstance(known, str):
        known = uuid.uuid4().hex
        write_json(file, known)
    return known, file


def fulfilled(file: Path) -> None:
    """The next command is another request."""
    remove_file(file)
