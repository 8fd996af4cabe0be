"""The artifact store: every stage's result under the hash of what it was made from, built once, verified when
used.

Layout: ``<root>/<stage>/<key>/`` published artifacts; ``work/<stage>-<key>/`` unfinished builds; ``locks/``;
``damaged/`` what was set aside; ``.verified/`` stamps of files known to be good. An artifact appears by one
rename and never changes afterwards.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import itertools
import json
import logging
import os
import platform
import re
import shutil
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from midre_exp.errors import StoreError
from midre_exp.store.artifact import NAME, Artifact, DamagedError, Workspace, read_manifest, stamps, verify
from midre_exp.store.files import (
    FORBIDDEN,
    FULL,
    explain,
    is_settled,
    make_folder,
    read_json,
    sync_folder,
    write_json,
)
from midre_exp.store.lock import BuildLock, sigterm_as_exit

__all__ = ["Artifact", "Store", "Workspace"]

_log = logging.getLogger(__name__)

_STAGE = re.compile(r"[a-z][a-z0-9_]{0,63}")  # no dash: "<stage>-<key>" stays unambiguous
_RESERVED = frozenset({"work", "locks", "damaged"})
_OCCUPIED = frozenset({errno.ENOTEMPTY, errno.EEXIST})
_CENTURY = 100 * 365 * 86400.0  # seconds; no attempt takes longer, so a file that says so is damaged
_PACKAGES = ("midre-exp", "torch", "torchvision", "pytorch-lightning", "safetensors")


class Store:
    """Artifacts under one root folder, shared by any number of processes and hosts.

    ``beat_seconds`` and ``stale_seconds`` are those of ``BuildLock``. Nothing is written before the first
    ``build``.
    """

    def __init__(
        self,
        root: Path | str,
        *,
        beat_seconds: float = 5.0,
        stale_seconds: float = 60.0,
    ) -> None:
        self.root = Path(root).expanduser().absolute()
        self._beat_seconds = beat_seconds
        self._stale_seconds = stale_seconds

    def find(self, stage: str, key: str, *, reread: bool = True) -> Artifact | None:
        """The artifact if it is published and every byte is right, else None.

        ``reread=False`` trusts files unchanged since they were last verified, as ``peek`` does: for artifacts
        of many gigabytes. A damaged one is reported by a warning, moved to ``damaged/`` and counts as absent.
        StoreError when the store cannot be read.
        """
        folder = self._folder(stage, key)
        if not reread and self.peek(stage, key):
            return Artifact(stage, key, folder, read_manifest(folder, stage, key))
        try:
            inode = folder.stat().st_ino
        except FileNotFoundError:
            return None
        except OSError as error:
            raise explain(error, folder, "read") from error
        try:
            return Artifact(stage, key, folder, verify(folder, stage, key))
        except DamagedError as damage:
            self._set_aside(folder, inode, str(damage))
            return None
        except OSError as error:
            raise explain(error, folder, "read") from error

    def peek(self, stage: str, key: str) -> bool:
        """True when ``find`` would find the artifact; files unchanged since last verified are not read."""
        folder = self._folder(stage, key)
        stamps_file = self.root / ".verified" / stage / f"{key}.json"
        garbled = (ValueError, TypeError, AttributeError, RecursionError)
        with contextlib.suppress(OSError, *garbled):  # OSError: no stamps
            known = {name: tuple(values) for name, values in json.loads(stamps_file.read_bytes()).items()}
            if known == stamps(folder, known):
                return True
        try:
            names = read_manifest(folder, stage, key)["files"]
            before = stamps(folder, names)
            verify(folder, stage, key)
            steady = before == stamps(folder, names)
        except (OSError, DamagedError):  # find() will say what is wrong
            return False
        if steady and all(is_settled(values) for values in before.values()):
            with contextlib.suppress(StoreError):  # a store that may only be read is verified anew each time
                write_json(stamps_file, before)
        return steady

    def build(
        self,
        stage: str,
        key: str,
        *,
        config: Mapping[str, Any],
        upstream: Mapping[str, str],
        make: Callable[[Workspace], None],
        device: str = "cpu",
        wait_message: Callable[[str], None] = _log.warning,
        wait: bool = True,
        reread: bool = True,
    ) -> Artifact:
        """The artifact: found, or awaited while another process builds it, or made now.

        Where another process is building it, ``wait_message`` gets one sentence; without ``wait``, that is a
        LockedError. ``reread`` is that of ``find``. ``make`` fills the workspace it is
        given; after an interrupted attempt that attempt's files are still in ``workspace.path``. Its
        exceptions propagate, the work folder stays and the lock is released. ``config``, ``upstream`` and
        ``device`` are recorded in the manifest. StoreError when the store cannot be written or its disk is
        full.
        """
        folder = self._folder(stage, key)
        lock_file = self._lock_file(stage, key)
        beats = {"beat_seconds": self._beat_seconds, "stale_seconds": self._stale_seconds}
        with sigterm_as_exit():
            while True:
                artifact = self.find(stage, key, reread=reread)
                if artifact is not None:
                    self._tidy(stage, key)
                    return artifact
                lock = BuildLock(lock_file, f"{stage} {key}", **beats)
                if not lock.acquire(stop_waiting=folder.exists, wait_message=wait_message, wait=wait):
                    continue
                try:
                    record = {"config": dict(config), "upstream": dict(upstream), "device": device}
                    artifact = self.find(stage, key, reread=reread)
                    if artifact is not None:
                        # its builder, whose lock we took over, was killed when it had published
                        shutil.rmtree(self._work(stage, key), ignore_errors=True)
                    else:
                        artifact = self._make(stage, key, record, make, lock)
                    if artifact is not None:
                        return artifact
                except Exception as error:
                    if lock.is_held():
                        raise
                    # Another process thought this one dead and uses the same folder: it may have caused this.
                    _log.warning("%s %s: lost its lock and failed (%s); starting over", stage, key, error)
                finally:
                    lock.release()

    def list(self) -> Iterator[Artifact]:
        """Every published artifact, ordered by stage and key; the manifest is verified, the files are not.

        A damaged manifest is reported by a warning and left out. StoreError when the store cannot be read.
        """
        for folder in self.folders():
            stage, key = folder.parent.name, folder.name
            try:
                manifest = read_manifest(folder, stage, key)
            except DamagedError as damage:
                _log.warning("artifact %s is damaged: %s", folder, damage)
                continue
            except OSError as error:
                raise explain(error, folder, "read") from error
            yield Artifact(stage, key, folder, manifest)

    def folders(self) -> Iterator[Path]:
        """The folder of every published artifact, good or damaged, ordered by stage and key."""
        for folder in sorted(self.root.glob("*/*/")):
            stage = folder.parent.name
            if _STAGE.fullmatch(stage) and stage not in _RESERVED and NAME.fullmatch(folder.name):
                yield folder

    def _make(
        self,
        stage: str,
        key: str,
        record: dict[str, Any],
        make: Callable[[Workspace], None],
        lock: BuildLock,
    ) -> Artifact | None:
        """Run the builder and publish. None when somebody else has published first: ours is discarded."""
        work = self._work(stage, key)
        for leftover in work.glob(".publish-*"):
            shutil.rmtree(leftover, ignore_errors=True)
        output = work / f".publish-{uuid.uuid4().hex[:12]}"
        make_folder(output)
        workspace = Workspace(work, output)
        spent_file = work / ".seconds.json"
        spent = _seconds_in(spent_file)
        started = time.monotonic()
        try:
            make(workspace)
        except BaseException as error:
            with contextlib.suppress(StoreError):
                write_json(spent_file, spent + time.monotonic() - started)
            if isinstance(error, OSError):
                self._raise_if_ours(error, f"{stage} {key}", work)
            raise
        seconds = round(spent + time.monotonic() - started, 3)
        manifest = workspace.seal(
            {**record, "stage": stage, "key": key, "seconds": seconds, "versions": _versions()}
        )
        folder = self._folder(stage, key)
        was_first = _publish(output, folder)
        if lock.is_held():
            shutil.rmtree(work, ignore_errors=True)  # what cannot be removed is only litter
        return Artifact(stage, key, folder, manifest) if was_first else None

    def _tidy(self, stage: str, key: str) -> None:
        """Remove the work folder and the lock of a builder that was killed when it had just published."""
        work, lock_file = self._work(stage, key), self._lock_file(stage, key)
        if not (work.exists() or lock_file.exists()):
            return
        lock = BuildLock(lock_file, f"removal of {work.name}")
        with contextlib.suppress(StoreError):  # a store that may only be read keeps its litter
            if lock.acquire(stop_waiting=lambda: True):  # a living builder tidies up itself
                try:
                    shutil.rmtree(work, ignore_errors=True)
                finally:
                    lock.release()

    def _raise_if_ours(self, error: OSError, what: str, work: Path) -> None:
        """Raise the sentence for a builder's OSError that is the store's doing; others stay the builder's."""
        if error.errno in FULL and error.filename is None:  # a failing write() does not know its file's name
            raise StoreError(
                f"a disk became full while {what} was being built; free space or choose another folder "
                f"(paths.* of the config) and run again: unfinished work is kept in {work}"
            ) from error
        if error.errno in FULL | FORBIDDEN and isinstance(error.filename, (str, os.PathLike)):
            path = Path(error.filename).absolute()
            if path.is_relative_to(self.root):
                raise explain(error, path) from error

    def _set_aside(self, folder: Path, inode: int, reason: str) -> None:
        """Move a damaged artifact to ``damaged/`` and say so, unless another process was faster."""
        make_folder(self.root / "damaged")
        for number in itertools.count(1):
            place = self.root / "damaged" / f"{folder.parent.name}-{folder.name}-{number}"
            if place.exists():
                continue
            try:
                if folder.stat().st_ino != inode:
                    return
                folder.rename(place)
            except FileNotFoundError:
                return
            except OSError as error:
                if error.errno in _OCCUPIED:
                    continue
                raise explain(error, folder, "set aside the damaged") from error
            _log.warning("artifact %s is damaged: %s; moved to %s, it will be rebuilt", folder, reason, place)
            return

    def _work(self, stage: str, key: str) -> Path:
        return self.root / "work" / f"{stage}-{key}"

    def _lock_file(self, stage: str, key: str) -> Path:
        return self.root / "locks" / f"{stage}-{key}.lock"

    def _folder(self, stage: str, key: str) -> Path:
        """Where an artifact belongs. StoreError for names that could lead out of the root."""
        if not _STAGE.fullmatch(stage) or stage in _RESERVED:
            raise StoreError(
                f"stage name {stage!r} cannot be used; give lower-case letters, digits and '_', "
                f"but none of {', '.join(sorted(_RESERVED))}"
            )
        if not NAME.fullmatch(key):
            raise StoreError(f"artifact key {key!r} cannot be used; give letters, digits, '_', '-' and '.'")
        return self.root / stage / key


def _publish(output: Path, folder: Path) -> bool:
    """Make an output folder the artifact by one rename; False, discarding it, if another was first."""
    make_folder(folder.parent)
    try:
        output.rename(folder)
    except OSError as error:
        if error.errno not in _OCCUPIED:
            raise explain(error, folder, "publish") from error
        shutil.rmtree(output, ignore_errors=True)
        return False
    sync_folder(folder.parent)
    return True


def _seconds_in(file: Path) -> float:
    """What earlier attempts took; 0 where nobody can tell, as usually there was none."""
    try:
        spent = float(read_json(file))
    except (StoreError, ValueError, TypeError, OverflowError):
        return 0.0
    return spent if 0 <= spent < _CENTURY else 0.0


@functools.cache
def _versions() -> dict[str, str]:
    """Versions of Python and of the packages that shape results, as far as installed."""
    from importlib import metadata  # a third of this module's import time, and needed only to publish

    versions = {"python": platform.python_version()}
    for package in _PACKAGES:
        with contextlib.suppress(metadata.PackageNotFoundError):
            versions[package] = metadata.version(package)
    return versions
