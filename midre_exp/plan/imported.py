"""The source files a run computes with: as they are at one moment, and whether what was imported is still
what lies on disk.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType

from midre_exp.errors import UserError
from midre_exp.plan.code import Sources
from midre_exp.plan.config import digest
from midre_exp.plan.keys import StageKey
from midre_exp.plan.trust import OURS
from midre_exp.store.files import known_sha256

_ROOT = Path(__file__).resolve().parents[2]
#: What of ours looks at runs from outside, and may change while they go.
_OUTSIDE = tuple(f"midre_exp/{name}/" for name in ("report", "study", "doctor"))
#: The modules of this process by name: from which import, and the SHA-256 of the file then.
_imported: dict[str, tuple[ModuleSpec, str]] = {}


class CodeChangedError(UserError):
    """Source files are no longer what a run was planned or begun with."""


@dataclass(frozen=True)
class Snapshot:
    """SHA-256 and place of every source file of ours, and of the user's own behind some stages, by label."""

    hashes: dict[str, str]
    paths: dict[str, Path]

    @property
    def digest(self) -> str:
        """16 hex digits for all of them."""
        return digest(self.hashes)

    def difference(self, earlier: Mapping[str, str]) -> str | None:
        """The first file that is not as it was earlier."""
        labels = sorted({*earlier, *self.hashes})
        return next((name for name in labels if earlier.get(name) != self.hashes.get(name)), None)


def take_snapshot(stages: Iterable[StageKey]) -> Snapshot:
    """The files as they are now."""
    paths = dict(_our_files())
    names = {name for stage in stages for name in stage.names}
    trusted = {package for stage in stages for package in stage.trusted}
    own = {name for name in names if name.split(".")[0] in {package.split(".")[0] for package in trusted}}
    now = Sources()  # not as they were when a sweep was planned in this process
    paths |= {label: module.file for label, module in now.own(own, trusted).items() if module.file}
    return Snapshot({label: _hash(path) for label, path in paths.items()}, paths)


def check_imported(snapshot: Snapshot, *, at_start: bool) -> None:
    """Raise CodeChangedError when a module of this process was, or may have been, imported from another file
    than that of ``snapshot``.

    ``at_start``: the snapshot was just taken, so modules imported before must be what it holds. Otherwise a
    run has gone on since: what it had imported by then cannot change any more, and only modules that came
    later are looked at.
    """
    labels = {str(path): label for label, path in snapshot.paths.items()}
    for name, module in list(sys.modules.items()):
        spec = module.__dict__.get("__spec__") if isinstance(module, ModuleType) else None
        label = labels.get(str(spec.origin)) if isinstance(spec, ModuleSpec) else None
        if spec is None or label is None:
            continue
        known = _imported.get(name)
        is_known = known is not None and known[0] is spec  # a reloaded module has another
        if is_known and not at_start:
            continue
        if is_known and known is not None and known[1] != snapshot.hashes[label]:
            raise CodeChangedError(
                f"{label} changed after this process had imported it; start a new one (in a notebook: "
                "restart the kernel)"
            )
        if not is_known:
            if not at_start and _hash(snapshot.paths[label]) != snapshot.hashes[label]:
                raise CodeChangedError(
                    f"{label} changed while this run was under way and before it was needed, so that nobody "
                    "can tell what this stage was computed with; run again"
                )
            _imported[name] = (spec, snapshot.hashes[label])


def _our_files() -> Iterable[tuple[str, Path]]:
    for package in OURS:
        for path in (_ROOT / package).rglob("*.py"):
            label = path.relative_to(_ROOT).as_posix()
            if not label.startswith(_OUTSIDE):
                yield label, path


def _hash(path: Path) -> str:
    try:
        return known_sha256(path)
    except OSError:
        return "absent"
