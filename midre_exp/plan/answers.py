"""What was found out about parts of configs by loading the classes that they name, kept for later commands:
so that planning a run whose parts were looked at before does not load torch.

An answer counts only under the very same source files of ours, versions of libraries and Python. Of what a
user's own packages name nothing is kept. Used by commands alone (``kept_answers``); a library call asks anew.
"""

from __future__ import annotations

import contextlib
import json
import os
import platform
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from importlib import metadata
from pathlib import Path
from typing import Any, TypeVar

from midre_exp.errors import StoreError
from midre_exp.plan.config import digest
from midre_exp.plan.trust import OURS
from midre_exp.store.files import known_sha256, write_atomic

T = TypeVar("T")

_ROOT = Path(__file__).resolve().parents[2]
_LIBRARIES = ("torch", "torchvision", "pytorch-lightning", "timm", "numpy", "hydra-core", "omegaconf")
_FILES = 20  # of as many versions of the code answers are kept


class _Answers:
    """Answers by the digest of their question; in ``file`` those of earlier commands."""

    def __init__(self, file: Path) -> None:
        self.file, self.changed = file, False
        self.known: dict[str, Any] = {}
        with contextlib.suppress(OSError, ValueError):
            found = json.loads(file.read_text())
            self.known = found if isinstance(found, dict) else {}


_answers: ContextVar[_Answers | None] = ContextVar("answers", default=None)


@contextmanager
def kept_answers() -> Iterator[None]:
    """Within, answers of earlier commands are used, and new ones kept for later ones."""
    code = _code()
    answers = _Answers(folder() / f"answers-{code}.json")
    token = _answers.set(answers)
    try:
        yield
    finally:
        _answers.reset(token)
        if answers.changed:
            with contextlib.suppress(OSError, StoreError):  # a help only: the next command asks again
                if _code() == code:
                    _keep(answers)


def answer(
    question: Sequence[object],
    find: Callable[[], T],
    trusted: Sequence[str],
    keep: Callable[[T], bool] = lambda found: True,
) -> T:
    """What ``find`` gives (plain values), perhaps as found earlier. ``question``: plain values of which, with
    the code, the answer is made; ``trusted``: packages of the user's own, whose changes nobody follows;
    ``keep``: whether an answer will be the same next time.
    """
    answers = _answers.get()
    if answers is None or trusted:
        return find()
    name = digest(list(question))
    if name in answers.known:
        known: T = answers.known[name]
        return known
    found = find()
    if keep(found):
        answers.known[name], answers.changed = found, True
    return found


def folder() -> Path:
    """The user's folder for caches."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "midre-exp"


def _keep(answers: _Answers) -> None:
    answers.file.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(answers.file, json.dumps(answers.known))
    files = sorted(answers.file.parent.glob("answers-*.json"), key=lambda file: file.stat().st_mtime)
    for file in files[:-_FILES]:
        file.unlink(missing_ok=True)


def _code() -> str:
    """The digest of all that decides an answer besides its question."""
    files = sorted(
        path for package in OURS for path in (_ROOT / package).rglob("*.py*") if path.suffix != ".pyc"
    )
    hashes = {path.relative_to(_ROOT).as_posix(): known_sha256(path) for path in files}
    versions = {name: metadata.version(name) for name in _LIBRARIES}
    return digest([str(_ROOT), hashes, versions, platform.python_version()])
