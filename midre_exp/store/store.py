"""The artifact store: every stage's result under the hash of what it was made from, built once, verified when
used.

Layout: ``<root>/<stage>/<key>/`` published artifacts; ``work/<stage>-<key>/`` unfinished builds; ``locks/``;
``damaged/`` and ``replaced/`` what was set aside; ``.verified/`` stamps of files known to be good;
``.midre-store`` the mark by which a folder is known to be a store. An artifact appears by one rename and
never changes afterwards.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import hashlib
import itertools
import json
import logging
import os
import platform
import re
import shutil
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

from midre_exp.errors import StoreError
from midre_exp.store.artifact import (
    CHECKSUM,
    MANIFEST,
    NAME,
    Artifact,
    DamagedError,
    Workspace,
    read_manifest,
    stamps,
    verify,
)
from midre_exp.store.files import (
    FORBIDDEN,
    FULL,
    Stamp,
    explain,
    is_settled,
    make_folder,
    read_json,
    remove_file,
    stamp,
    sync_folder,
    write_atomic,
    write_json,
)
from midre_exp.store.lock import BuildLock, clear_aside, sigterm_as_exit
from midre_exp.store.names import stored_as

__all__ = ["Artifact", "Places", "Store", "Workspace", "versions"]

_log = logging.getLogger(__name__)

# perhaps with whose it is behind a dot; no dash: "<stage>-<key>" stays unambiguous
_STAGE = re.compile(r"[a-z][a-z0-9_]{0,63}(\.[A-Za-z0-9_]{1,63})?")
_RESERVED = frozenset({"work", "locks", "damaged", "replaced"})
MARKER = ".midre-store"
_MARK = {"store": "midre-exp", "version": 1}
#: What may lie in a store's folder besides: what is noted of files of data, the pages of an export, litter of
#: file systems.
_HARMLESS = re.compile(
    r"\.verified|\.contents\.sqlite.*|\.lists|\.probe-.*|\..*\.tmp|README\.md|midre-export\.json"
    r"|\.nfs.*|\.DS_Store|\.snapshot|lost\+found"
)
_OCCUPIED = frozenset({errno.ENOTEMPTY, errno.EEXIST})
_CENTURY = 100 * 365 * 86400.0  # seconds; no attempt takes longer, so a file that says so is damaged
_MADE_WITH = ".made-with.json"  # in a work folder: what the attempt there is made with
_PACKAGES = (
    *("midre-exp", "torch", "torchvision", "pytorch-lightning", "timm", "numpy", "scipy", "pillow"),
    *("safetensors", "hydra-core"),
)


#: A folder, or several (``paths.store``): the first is written, the others are only read.
Places: TypeAlias = Path | str | Sequence[Path | str]


class Store:
    """Artifacts under one root folder, shared by any number of processes and hosts.

    ``places`` may name further stores, which are only read: what the first lacks is looked for there, in
    their order. What is damaged there is told of and built again in the first. A stage may be named as in a
    plan (``stored_as``). ``beat_seconds`` and ``stale_seconds`` are those of ``BuildLock``. Nothing is
    written before the first ``build``.
    """

    def __init__(
        self,
        places: Places,
        *,
        beat_seconds: float = 5.0,
        stale_seconds: float = 60.0,
    ) -> None:
        listed = [places] if isinstance(places, (Path, str)) else list(places)
        if not listed:
            raise StoreError("paths.store names no folder; give one, or several, the first to be written")
        self.root, *others = (Path(place).expanduser().absolute() for place in listed)
        self.upstream: tuple[Path, ...] = tuple(dict.fromkeys(p for p in others if p != self.root))
        self._passed_over: set[Path] = set()  # artifacts of stores that are only read
        self._beat_seconds = beat_seconds
        self._stale_seconds = stale_seconds

    def __str__(self) -> str:
        return ", ".join(map(str, (self.root, *self.upstream)))

    def check(self) -> None:
        """Raise StoreError for what would fail only after hours: a store to be read that is none, a root that
        cannot be written, unfinished work on another file system. Clears locks half removed by the dead.
        """
        for place in self.upstream:
            if not place.is_dir():
                raise StoreError(f"paths.store lists {place}, which is no folder; correct or leave it out")
            if not os.access(place, os.R_OK | os.X_OK):
                raise StoreError(
                    f"paths.store lists {place}, which you may not read; ask its owner (docs/store.md), or "
                    "leave it out"
                )
            if not (place / MARKER).exists() and next(_folders(place), None) is None:
                raise StoreError(f"paths.store lists {place}, which is no store; correct or leave it out")
        probe = self.root / f".probe-{os.getpid()}"
        try:
            write_atomic(probe, "")
            remove_file(probe)
        except StoreError as error:
            if isinstance(error.__cause__, OSError) and error.__cause__.errno in FORBIDDEN:
                raise StoreError(
                    f"{self.root} is read-only for you; change its permissions or, if it is another's store, "
                    f"read it and write your own: paths.store=[artifacts,{self.root}]"
                ) from error
            raise
        self._check_one_device(*(folder for folder in self.root.glob("*/") if folder.name not in _RESERVED))
        clear_aside(self.root / "locks")
        self.mark()

    def _check_one_device(self, *folders: Path) -> None:
        """Raise StoreError unless a rename can lead from unfinished work to each of these folders."""
        work = self.root / "work"
        with contextlib.suppress(FileNotFoundError):
            for folder in folders:
                if work.stat().st_dev != folder.stat().st_dev:
                    raise StoreError(
                        f"{work} and {folder} lie on different file systems, so nothing finished could be "
                        "published by one rename; put all of a store on one"
                    )

    def mark(self) -> None:
        """Mark the folder as a store, unless other things lie in it, of which nobody may think that they are
        the store's.
        """
        marker = self.root / MARKER
        if not marker.exists() and not self.strangers():
            with contextlib.suppress(StoreError):  # a store that may only be read stays as it is
                write_json(marker, _MARK)

    def is_marked(self) -> bool:
        """Whether the root is known to be a store. StoreError for a mark of a later version."""
        marker = self.root / MARKER
        if not marker.is_file():
            return False
        mark = read_json(marker)
        if mark != _MARK:
            raise StoreError(
                f"{marker} is not the mark of a store that this version knows; use the version that made "
                "it, or delete the file, and the next run writes it anew"
            )
        return True

    def strangers(self) -> list[str]:
        """What lies in the root and is not the store's, by name."""
        if not self.root.is_dir():
            return []
        try:
            names = sorted(entry.name for entry in self.root.iterdir())
        except OSError as error:
            raise explain(error, self.root, "read") from error
        return [name for name in names if not self._is_ours(name)]

    def _is_ours(self, name: str) -> bool:
        if name in _RESERVED or name == MARKER or _HARMLESS.fullmatch(name):
            return True
        if not _STAGE.fullmatch(name):
            return False
        with contextlib.suppress(OSError):
            entries = [entry for entry in (self.root / name).iterdir() if not entry.name.startswith(".")]
            return all((entry / MANIFEST).is_file() or (entry / CHECKSUM).is_file() for entry in entries)
        return False

    def find(self, stage: str, key: str, *, reread: bool = True) -> Artifact | None:
        """The artifact if it is published and every byte is right, else None.

        ``reread=False`` trusts files unchanged since they were last verified, as ``peek`` does: for artifacts
        of many gigabytes. A damaged one is reported by a warning and counts as absent; it is moved to
        ``damaged/``, or left alone in a store that is only read. StoreError when the store cannot be read.
        """
        stage = stored_as(stage)
        for root in self._roots(stage, key):
            folder = self._folder(stage, key, root)
            try:
                inode = folder.stat().st_ino
            except FileNotFoundError:
                continue
            except OSError as error:
                raise explain(error, folder, "read") from error
            try:
                if not reread and self._peek(root, stage, key):
                    return Artifact(stage, key, folder, read_manifest(folder, stage, key))
                return Artifact(stage, key, folder, verify(folder, stage, key))
            except DamagedError as damage:
                if root == self.root:
                    self._set_aside(folder, inode, str(damage))
                else:
                    _tell_of_damage(folder, str(damage), self.root)
            except OSError as error:
                raise explain(error, folder, "read") from error
        return None

    def peek(self, stage: str, key: str) -> bool:
        """True when ``find`` would find the artifact; files unchanged since last verified are not read."""
        stage = stored_as(stage)
        return any(self._peek(root, stage, key) for root in self._roots(stage, key))

    def where(self, stage: str, key: str) -> Path:
        """The folder of an artifact in the first store that has it; where it would be built if none has."""
        stage = stored_as(stage)
        folders = [self._folder(stage, key, root) for root in self._roots(stage, key)]
        return next((folder for folder in folders if (folder / MANIFEST).exists()), folders[0])

    def _peek(self, root: Path, stage: str, key: str) -> bool:
        folder = self._folder(stage, key, root)
        stamps_file = self._stamps_of(root) / stage / f"{key}.json"
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

    def _stamps_of(self, root: Path) -> Path:
        """Where the stamps of a store's artifacts are kept: always in the one that is written."""
        own = self.root / ".verified"
        if root == self.root:
            return own
        return own / f"of-{hashlib.sha256(os.fsencode(root)).hexdigest()[:16]}"

    def build(
        self,
        stage: str,
        key: str,
        *,
        config: Mapping[str, Any],
        upstream: Mapping[str, str],
        make: Callable[[Workspace], None],
        made_with: Mapping[str, Any] | None = None,
        continues: Callable[[Mapping[str, Any] | None], bool] = lambda earlier: True,
        wait_message: Callable[[str], None] = _log.warning,
        wait: bool = True,
        reread: bool = True,
    ) -> Artifact:
        """The artifact: found, or awaited while another process builds it, or made now.

        Where another process is building it, ``wait_message`` gets one sentence; without ``wait``, that is a
        LockedError. ``reread`` is that of ``find``. ``make`` fills the workspace it is
        given; after an interrupted attempt that attempt's files are still in ``workspace.path``, unless
        ``continues`` says no to what that one was made with (None: nobody knows), which may raise. Its
        exceptions propagate, the work folder stays and the lock is released. ``config``, ``upstream`` and
        ``made_with`` (code, commit, versions, device ...) are recorded in the manifest. StoreError when the
        store cannot be written or its disk is full.
        """
        stage = stored_as(stage)
        folder = self._folder(stage, key)
        lock_file = self._lock_file(stage, key)
        self.mark()
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
                    record = {
                        "versions": versions(),
                        "device": "cpu",
                        **(made_with or {}),
                        "config": dict(config),
                        "upstream": dict(upstream),
                    }
                    artifact = self.find(stage, key, reread=reread)
                    if artifact is not None:
                        # its builder, whose lock we took over, was killed when it had published
                        shutil.rmtree(self._work(stage, key), ignore_errors=True)
                    else:
                        artifact = self._make(stage, key, record, make, lock, continues)
                    if artifact is not None:
                        return artifact
                except Exception as error:
                    if lock.is_held():
                        raise
                    # Another process thought this one dead and uses the same folder: it may have caused this.
                    _log.warning("%s %s: lost its lock and failed (%s); starting over", stage, key, error)
                finally:
                    lock.release()

    def publish(self, folder: Path, stage: str, key: str) -> bool:
        """Make a complete, verified folder of ``work/`` the artifact; False where there is one already."""
        return _publish(folder, self._folder(stage, key))

    def manifest(self, stage: str, key: str) -> dict[str, Any] | None:
        """What is told of the artifact that ``find`` would give, whose files are not looked at; None where
        there is none, or it is damaged, as ``find`` will say.
        """
        stage = stored_as(stage)
        for root in self._roots(stage, key):
            folder = self._folder(stage, key, root)
            with contextlib.suppress(OSError, DamagedError):
                return dict(_manifest(folder, stage, key, stamp(folder / MANIFEST)))
        return None

    def replace(self, stage: str, key: str, manifest: Mapping[str, Any]) -> bool:
        """Move the artifact to ``replaced/``, so that it is built anew; one in a store that is only read is
        passed over from here on. False when it is no longer the one with this ``manifest``, for instance
        because another process was faster.
        """
        stage = stored_as(stage)
        for root in self._roots(stage, key):
            folder = self._folder(stage, key, root)
            try:
                inode = folder.stat().st_ino
            except OSError:
                continue
            if self.manifest(stage, key) != manifest:
                return False
            if root == self.root:
                return self._move(folder, inode, "replaced") is not None
            self._passed_over.add(folder)
            return True
        return False

    def _roots(self, stage: str, key: str) -> Sequence[Path]:
        """The stores in which an artifact is looked for."""
        every = (self.root, *self.upstream)
        return [root for root in every if self._folder(stage, key, root) not in self._passed_over]

    def list(self) -> Iterator[Artifact]:
        """Every artifact in the root, ordered by stage and key; the manifest is verified, the files are not.

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
        return _folders(self.root)

    def _make(
        self,
        stage: str,
        key: str,
        record: dict[str, Any],
        make: Callable[[Workspace], None],
        lock: BuildLock,
        continues: Callable[[Mapping[str, Any] | None], bool],
    ) -> Artifact | None:
        """Run the builder and publish. None when somebody else has published first: ours is discarded."""
        work = self._work(stage, key)
        for leftover in work.glob(".publish-*"):
            shutil.rmtree(leftover, ignore_errors=True)
        self._begin(work, record, continues)
        output = work / f".publish-{uuid.uuid4().hex[:12]}"
        make_folder(output)
        parent = self._folder(stage, key).parent
        self._check_one_device(parent if parent.exists() else self.root)
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
        manifest = workspace.seal({**record, "stage": stage, "key": key, "seconds": seconds})
        folder = self._folder(stage, key)
        was_first = _publish(output, folder)
        if lock.is_held():
            shutil.rmtree(work, ignore_errors=True)  # what cannot be removed is only litter
        return Artifact(stage, key, folder, manifest) if was_first else None

    def _begin(
        self,
        work: Path,
        record: Mapping[str, Any],
        continues: Callable[[Mapping[str, Any] | None], bool],
    ) -> None:
        """Clear the work folder of an attempt that is not to be continued, and note what this one is made
        with.
        """
        note = work / _MADE_WITH
        if work.is_dir() and any(path != note for path in work.iterdir()):
            try:
                earlier = read_json(note)
            except StoreError:  # damaged, or of a version that left none
                earlier = None
            if not continues(earlier if isinstance(earlier, dict) else None):
                shutil.rmtree(work, ignore_errors=True)
        write_json(note, {name: value for name, value in record.items() if name != "config"})

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
        place = self._move(folder, inode, "damaged")
        if place is not None:
            _log.warning("artifact %s is damaged: %s; moved to %s, it will be rebuilt", folder, reason, place)

    def _move(self, folder: Path, inode: int, where: str) -> Path | None:
        """Move an artifact to a folder of what was set aside; None when another process was faster."""
        make_folder(self.root / where)
        for number in itertools.count(1):
            place = self.root / where / f"{folder.parent.name}-{folder.name}-{number}"
            if place.exists():
                continue
            try:
                if folder.stat().st_ino != inode:
                    return None
                folder.rename(place)
            except FileNotFoundError:
                return None
            except OSError as error:
                if error.errno in _OCCUPIED:
                    continue
                raise explain(error, folder, f"set aside the {where}") from error
            return place
        raise AssertionError("there is always another number")

    def _work(self, stage: str, key: str) -> Path:
        return self.root / "work" / f"{stage}-{key}"

    def _lock_file(self, stage: str, key: str) -> Path:
        return self.root / "locks" / f"{stage}-{key}.lock"

    def _folder(self, stage: str, key: str, root: Path | None = None) -> Path:
        """Where an artifact belongs, in the store that is written or in ``root``. StoreError for names that
        could lead out of it.
        """
        if not _STAGE.fullmatch(stage) or stage in _RESERVED:
            raise StoreError(
                f"stage name {stage!r} cannot be used; give lower-case letters, digits and '_', with "
                "letters, digits and '_' behind a dot where it is somebody's, "
                f"but none of {', '.join(sorted(_RESERVED))}"
            )
        if not NAME.fullmatch(key):
            raise StoreError(f"artifact key {key!r} cannot be used; give letters, digits, '_', '-' and '.'")
        return (root or self.root) / stage / key


def _folders(root: Path) -> Iterator[Path]:
    """The folder of every published artifact below a root, good or damaged, ordered by stage and key."""
    for folder in sorted(root.glob("*/*/")):
        stage = folder.parent.name
        if _STAGE.fullmatch(stage) and stage not in _RESERVED and NAME.fullmatch(folder.name):
            yield folder


@functools.cache
def _tell_of_damage(folder: Path, reason: str, root: Path) -> None:
    """Say once that an artifact of somebody else's store is damaged."""
    _log.warning("artifact %s is damaged: %s; it is left alone and built again in %s", folder, reason, root)


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


@functools.lru_cache(maxsize=4096)
def _manifest(folder: Path, stage: str, key: str, _: Stamp) -> dict[str, Any]:
    """A manifest; planning many runs asks for that of a stage which they share many times."""
    return read_manifest(folder, stage, key)


@functools.cache
def versions() -> dict[str, str]:
    """Versions of Python and of the packages that shape results, as far as installed."""
    from importlib import metadata  # a third of this module's import time, and needed only to publish

    found = {"python": platform.python_version()}
    for package in _PACKAGES:
        with contextlib.suppress(metadata.PackageNotFoundError):
            found[package] = metadata.version(package)
    return found
