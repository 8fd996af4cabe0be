"""Photographs of private people stay out of what git keeps: a page, figure or study that would show them is
written only where git ignores the file or outside of every checkout, unless the user asks for it. Synthetic
faces are of nobody.
"""

from __future__ import annotations

import subprocess
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from midre_exp import data

if TYPE_CHECKING:  # torch, for which --help does not wait
    from midre_exp.data.base import Dataset

#: The flag of the commands that show them all the same.
SHOW = "--show-private"


def is_synthetic(dataset: Dataset) -> bool:
    """Whether nobody is on the images of a data set."""
    return isinstance(dataset, data.SynthFaces)


def may_show(dataset: Dataset, files: Iterable[Path], *, asked: bool) -> bool:
    """Whether these files may hold images of a private data set; ``asked``: the user gave ``SHOW``."""
    return asked or is_synthetic(dataset) or not any(map(is_kept_by_git, files))


def is_kept_by_git(path: Path) -> bool:
    """Whether a file at this path lies in a checkout that does not ignore it; it need not exist. A checkout
    that git does not answer for counts as one that keeps it.
    """
    path = path.expanduser().resolve()
    if not any((folder / ".git").exists() for folder in path.parents):
        return False
    folder = next(folder for folder in path.parents if folder.is_dir())
    command = ["git", "-c", "safe.directory=*", "-C", str(folder), "check-ignore", "--quiet", str(path)]
    try:
        return subprocess.run(command, capture_output=True, check=False).returncode != 0
    except OSError:  # no git here, but perhaps where the folder goes next
        return True
