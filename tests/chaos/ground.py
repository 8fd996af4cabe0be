"""Finished tiny runs of several attacks in one folder, to be damaged: what they left is known, the command
line runs in this process.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import logging
import os
import shutil
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest import mock

from midre_exp.__main__ import main
from midre_exp.data.readers.fixtures import write_celeba
from midre_exp.plan.compose import packaged_configs, settings_of
from midre_exp.plan.keys import Plan
from midre_exp.stages import make_plan
from tests.chaos import Violation
from tests.conftest import tiny_overrides

_LOMMA = (
    "attack=lomma_gmi",
    "attack.surrogates.students=[b0]",
    "attack.surrogates.width=0.1",
    "attack.surrogates.depth=0.1",
    "attack.surrogates.stem=small",
    "attack.surrogates.weights=null",
    "attack.surrogates.steps=4",
    "attack.surrogates.batch_size=8",
    "attack.surrogates.statistics_images=16",
)
#: The runs by what their artifacts are called for; with them there are two artifacts of every stage, to be
#: taken for each other.
RUNS: dict[str, tuple[str, ...]] = {
    "plain": (),
    "shard 1": ("seed=1", "attack.shard=1/2"),
    "shard 2": ("seed=1", "attack.shard=2/2"),
    "merged": ("seed=1",),
    "surrogates": (*_LOMMA, "evaluator.seed=1"),
    "other surrogates": (*_LOMMA, "seed=1", "attack.prior.seed=1"),
}
_DECODED = ("data=celeba_celeba", "attack.prior.batch_size=4")


@dataclass(frozen=True)
class Said:
    """What the command line answered: exit code, and everything on its streams and in its log."""

    code: int
    text: str


class Stopped(BaseException):
    """Ends a run in the middle, as a signal would; Ctrl-C is caught by Lightning."""


def call(function: Callable[[], object]) -> Said:
    """Call something that prints and logs; an exception that leaves it is a Violation, as it would be a
    traceback.
    """
    said = io.StringIO()
    handler = logging.StreamHandler(said)
    handler.setLevel(logging.WARNING)
    root, code = logging.getLogger(), 0
    before = signal.getsignal(signal.SIGTERM)
    root.addHandler(handler)
    try:
        with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
            code = int(function() or 0)  # type: ignore[call-overload]
    except Stopped:
        code = 130
    except SystemExit as stop:
        code = int(stop.code or 0)
    except Exception as error:
        raise Violation(f"{type(error).__name__} instead of a sentence: {error}") from error
    finally:
        root.removeHandler(handler)
        signal.signal(signal.SIGTERM, before)
    text = said.getvalue()
    if "Traceback" in text or code not in (0, 1, 2, 130):
        raise Violation(f"exit code {code}, and these words: {text[-800:]}")
    return Said(code, text)


@dataclass
class Ground:
    """A folder in which every run of ``RUNS`` has been carried out; ``records`` and ``files`` are what they
    left, times apart.
    """

    folder: Path
    runs: dict[str, tuple[str, ...]] = field(default_factory=dict)
    plans: dict[str, Plan] = field(default_factory=dict)
    records: dict[str, Any] = field(default_factory=dict)
    files: dict[str, Any] = field(default_factory=dict)
    images: dict[str, set[str]] = field(
        default_factory=dict
    )  # by run, the keys of the pictures it was first to decode
    _settings: dict[str, dict[str, Any]] = field(default_factory=dict)

    @property
    def store(self) -> Path:
        """The artifact store."""
        return self.folder / "store"

    def overrides(self, run: str) -> list[str]:
        """Everything a run is called with."""
        pictures = any(text.startswith("data=") for text in self.runs[run])
        sizes = [text for text in tiny_overrides(self.folder) if not (pictures and text.startswith("data."))]
        return [*sizes, "runtime.chunk=4", *self.runs[run]]

    def settings(self, run: str) -> dict[str, Any]:
        """The resolved config of a run."""
        if run not in self._settings:
            with packaged_configs():
                self._settings[run] = settings_of(self.overrides(run))
        return self._settings[run]

    def command(self, run: str, *more: str) -> Said:
        """``python -m midre_exp`` with a run's overrides and more."""
        arguments = ["midre_exp", *self.overrides(run), *more]
        surroundings = {key: value for key, value in os.environ.items() if key != "HYDRA_FULL_ERROR"}
        with (
            contextlib.chdir(self.folder) if sys.version_info >= (3, 11) else _inside(self.folder),
            mock.patch.dict(os.environ, surroundings, clear=True),
            mock.patch.object(sys, "argv", arguments),
        ):
            return call(main)

    def build(self, only: Sequence[str] = ()) -> None:
        """Carry out all runs, or only some, and remember what they left."""
        runs = dict(RUNS)
        if not only or "decoded" in only:
            decoded = (*_DECODED, *write_celeba(self.folder / "celeba", identities=6, images=6))
            runs["decoded"] = decoded
            runs["other decoded"] = (*decoded, "seed=1", "resolution=16", "evaluator.resolution=32")
        self.runs = {name: words for name, words in runs.items() if not only or name in only}
        for run in self.runs:
            said = self.command(run)
            if said.code:
                raise Violation(f"the undisturbed run {run} ended with {said.code}: {said.text[-800:]}")
            self.plans[run] = make_plan(self.settings(run))
            known = {key for keys in self.images.values() for key in keys}
            self.images[run] = {path.name for path in (self.store / "images").glob("*")} - known
        self.records, self.files = records_of(self.folder), files_of(self.store)

    def runs_with(self, stage: str, key: str) -> list[str]:
        """The runs that use an artifact, those first that build nothing else on it; decoded images belong to
        all that decode.
        """
        if stage == "images":
            return ["decoded", "other decoded"]
        return [name for name, plan in self.plans.items() if stage in plan.stages and plan[stage].key == key]

    def forget(self, run: str, *stages: str) -> None:
        """Remove artifacts of a run, so that they are built again."""
        for name in stages:
            shutil.rmtree(self.store / name / self.plans[run][name].key, ignore_errors=True)

    def check(self) -> None:
        """Everything that was there is there again, with the same content; nothing is left of the work.
        Raises Violation.
        """
        for what, before, now in (
            ("record", self.records, records_of(self.folder)),
            ("artifact file", self.files, files_of(self.store)),
        ):
            if before != now:
                raise Violation(f"{what} {_difference(before, now)}")
        left = [str(path) for name in ("work", "locks") for path in (self.store / name).glob("*")]
        if left:
            raise Violation(f"left over: {', '.join(left)}")


@contextlib.contextmanager
def _inside(folder: Path) -> Iterator[None]:
    before = Path.cwd()
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(before)


def records_of(folder: Path) -> dict[str, Any]:
    """Every record by file name, without times."""
    found = {}
    for path in folder.glob("results/*/records/*.json"):
        record = json.loads(path.read_text())
        del record["seconds"]
        found[path.name] = record
    return found


def files_of(store: Path) -> dict[str, Any]:
    """Every file of every published artifact: its SHA-256, of a manifest its content without times. Reads
    without the code under test.
    """
    found: dict[str, Any] = {}
    for path in store.glob("[a-z]*/*/*"):
        stage = path.parent.parent.name
        if stage in ("work", "damaged", "locks"):
            continue
        name = path.relative_to(store).as_posix()
        if path.name == "manifest.json":
            raw = path.read_bytes()
            line = path.with_name("manifest.sha256").read_text()
            if line.split()[0] != hashlib.sha256(raw).hexdigest():
                raise Violation(f"{name} does not match its checksum")
            content = json.loads(raw)
            del content["seconds"]
            content["metrics"].pop("shard_seconds", None)
            found[name] = content
        elif path.name != "manifest.sha256":
            found[name] = hashlib.sha256(path.read_bytes()).hexdigest()
    return found


def _difference(before: dict[str, Any], now: dict[str, Any]) -> str:
    for name in sorted(before.keys() | now.keys()):
        if before.get(name) != now.get(name):
            state = "missing" if name not in now else "new" if name not in before else "changed"
            return f"{name} is {state}: was {str(before.get(name))[:300]}, is {str(now.get(name))[:300]}"
    return "equal"
