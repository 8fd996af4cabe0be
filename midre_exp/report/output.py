"""What the files of tables and figures are called, and when those of before stay: nothing that lacks runs or
pictures replaces what shows more of them.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from midre_exp.plan.config import digest
from midre_exp.records.comparable import is_own_folder

#: The flag of the command that replaces them all the same.
REPLACE = "--replace"


def file_stem(name: str, settings: Mapping[str, Any], *, with_data: bool) -> str:
    """The name of a table's or figure's files without ending, not twice that of its data. Two folders of
    images are two data sets, told apart by the folder's name and a few digits of its path.
    """
    data = settings["data"]
    if not with_data or data["name"] == name:
        return name
    private = data.get("private")
    if not isinstance(private, Mapping) or not is_own_folder(private):
        return f"{name}-{data['name']}"
    root = Path(str(private.get("root"))).expanduser().resolve()
    readable = re.sub(r"[^A-Za-z0-9._+-]+", "-", root.name).strip("-.")[:40]
    return "-".join(filter(None, [name, data["name"], readable, digest(str(root))[:6]]))


def runs_shown(table: pd.DataFrame) -> int:
    """How many runs the numbers of a table are of, or how many rows there are where it does not tell."""
    for name in ("seeds", "runs"):
        if name in table:
            return int(pd.to_numeric(table[name], errors="coerce").fillna(0).sum())
    return len(table)


def shows_more(path: Path, table: pd.DataFrame) -> bool:
    """Whether the CSV of an earlier rendering is of more runs than a table."""
    try:
        return runs_shown(pd.read_csv(path)) > runs_shown(table)
    except (OSError, ValueError):  # there is none, or it is no CSV
        return False


def pictures_in(page: Path | str) -> int:
    """How many pictures an HTML page shows, a file or its text; 0 for one that is not there."""
    if isinstance(page, Path):
        try:
            page = page.read_text(errors="replace")
        except OSError:
            return 0
    return page.count('src="data:image/')


def kept(files: str, reason: str) -> str:
    """What the command says of files that stay."""
    return f"kept as before: {files}, for {reason}; {REPLACE} writes what there is now"
