"""Artifacts handed from one store to another: as a plain folder or one tar file, with a card for people.

Layout: ``midre-export.json`` names the artifacts; ``README.md`` says what they are; ``<stage>/<key>/`` holds
each as a store does, so that an exported folder can be listed in ``paths.store`` as it is. On the way in
nothing is executed and nothing trusted: only the files that manifests name are looked at, as bytes, and none
is published before all have passed their checksums.
"""

from __future__ import annotations

import contextlib
import io
import os
import shutil
import tarfile
import uuid
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO, NamedTuple

from midre_exp.errors import StoreError
from midre_exp.store.artifact import CHECKSUM, MANIFEST, Artifact, DamagedError, read_manifest, verify
from midre_exp.store.card import card
from midre_exp.store.files import dump_json, explain, is_special, make_folder, read_json, sync_folder
from midre_exp.store.lock import BuildLock
from midre_exp.store.store import Store

INDEX, CARD = "midre-export.json", "README.md"
_SCHEMA = 1
_MOST_FILES = 100_000
_MOST_TEXT = 64 * 2**20  # bytes of an index or manifest
_BLOCK = 1 << 20


class Taken(NamedTuple):
    """What became of one artifact of an export: ``imported`` or ``already here``."""

    stage: str
    key: str
    outcome: str


# out


def chosen(store: Store, names: Sequence[str], *, upstream: bool) -> list[Artifact]:
    """The artifacts called ``KEY`` or ``STAGE/KEY``, keys perhaps cut short, with what they were made from
    where ``upstream``. Raises StoreError for a name of none or of several, and for what is not in the store.
    """
    places = [store, *(Store(place) for place in store.upstream)]
    listed = {(a.stage, a.key): a for place in reversed(places) for a in place.list()}
    found: dict[tuple[str, str], None] = {}
    for name in names:
        stage, _, key = name.rpartition("/")
        fits = [each for each in listed if each[1].startswith(key) and stage in ("", each[0]) and key]
        exact = [each for each in fits if each[1] == key] or fits
        if len(exact) != 1:
            several = ", ".join("/".join(each) for each in exact[:4])
            what = f"is the beginning of {len(exact)} artifacts ({several})" if exact else "names no artifact"
            raise StoreError(f"{name} {what} in {store}; give STAGE/KEY as midre-exp --plan shows them")
        found[exact[0]] = None
    waiting = list(found)
    while upstream and waiting:
        below = sorted(listed[waiting.pop()].manifest.get("upstream", {}).items())
        waiting += [each for each in below if each not in found and each in listed]
        if absent := [each for each in below if each not in listed]:
            raise StoreError(
                f"{'/'.join(absent[0])}, of which an exported artifact was made, is not in {store}; run its "
                "command again, or leave out --upstream"
            )
        found |= dict.fromkeys(below)
    artifacts = [store.find(*each) for each in sorted(found)]
    if missing := ["/".join(e) for e, a in zip(sorted(found), artifacts, strict=True) if a is None]:
        raise StoreError(f"{missing[0]} is damaged; run its command again to rebuild it")
    return [artifact for artifact in artifacts if artifact is not None]


def export(artifacts: Sequence[Artifact], place: Path) -> None:
    """Write artifacts with index and card to a new folder, or to a file that ends in ``.tar``. Equal
    artifacts give equal bytes. Raises StoreError when ``place`` exists or cannot be written.
    """
    place = place.expanduser().absolute()
    if place.exists() or place.is_symlink():
        raise StoreError(f"{place} exists already; give another name, or remove it first")
    index = {
        "schema": _SCHEMA,
        "artifacts": [{"stage": a.stage, "key": a.key} for a in artifacts],
    }
    texts = {CARD: card(artifacts), INDEX: dump_json(index)}  # last: an archive without one is cut short
    part = place.with_name(f".{place.name}.{uuid.uuid4().hex[:12]}.tmp")
    try:
        make_folder(place.parent)
        if place.suffix == ".tar":
            with (
                part.open("xb") as file,
                tarfile.open(fileobj=file, mode="w", format=tarfile.PAX_FORMAT) as tar,
            ):
                for name, path in _files(artifacts):
                    _add(tar, name, path.stat().st_size, path.open("rb"))
                for name, text in texts.items():
                    _add(tar, name, len(text.encode()), io.BytesIO(text.encode()))
        else:
            part.mkdir()
            for name, path in _files(artifacts):
                (part / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(path, part / name)
            for name, text in texts.items():
                (part / name).write_text(text, encoding="utf-8")
        _sync(part)
        part.rename(place)
        sync_folder(place.parent)
    except BaseException as error:
        with contextlib.suppress(OSError):
            shutil.rmtree(part) if part.is_dir() else part.unlink(missing_ok=True)
        if isinstance(error, OSError):
            raise explain(error, place) from error
        raise


def _files(artifacts: Sequence[Artifact]) -> Iterator[tuple[str, Path]]:
    for artifact in artifacts:
        for name in (MANIFEST, CHECKSUM, *sorted(artifact.manifest["files"])):
            yield f"{artifact.stage}/{artifact.key}/{name}", artifact.path / name


def _add(tar: tarfile.TarFile, name: str, size: int, content: BinaryIO) -> None:
    """A file without owner and dates, which say something of the machine and nothing of the artifact."""
    entry = tarfile.TarInfo(name)
    entry.size, entry.mode = size, 0o644
    with content:
        tar.addfile(entry, content)


def _sync(place: Path) -> None:
    """Every file below a path, or the file itself, on disk."""
    for path in [place] if place.is_file() else [p for p in place.rglob("*") if p.is_file()]:
        with path.open("rb") as file:
            os.fsync(file.fileno())


# in


class _Export:
    """An export to be read: its files by name, each a plain file within it."""

    def __init__(self, place: Path, sizes: Mapping[str, int], open_file: Callable[[str], BinaryIO]):
        self.place, self.sizes, self.open = place, sizes, open_file

    def copy(self, name: str, target: Path, size: int | None = None) -> None:
        """Copy one file; StoreError unless it is there, with ``size`` bytes if that is known."""
        have = self.sizes.get(name)
        if have is None:
            raise StoreError(f"{self.place} lacks {name}; export it again")
        if size is not None and have != size:
            raise StoreError(f"{self.place}: {name} has {have} bytes instead of {size}; copy it again")
        if size is None and have > _MOST_TEXT:
            raise StoreError(f"{self.place}: {name} is too large to be true ({have} bytes); export it again")
        left = have
        with self.open(name) as source, target.open("xb") as file:
            while left and (block := source.read(min(left, _BLOCK))):
                file.write(block)
                left -= len(block)
            file.flush()
            os.fsync(file.fileno())
        if left:
            raise StoreError(f"{self.place}: {name} is cut short; copy it again")


def import_(store: Store, place: Path, *, only: Collection[tuple[str, str]] | None = None) -> list[Taken]:
    """Take over what ``export`` wrote, or ``only`` these (stage, key) of it; all or, where a file is wrong or
    an artifact is another than the one here, nothing. Raises StoreError that names what is wrong.
    """
    place = place.expanduser().absolute()
    store.check()
    name = f"import-{uuid.uuid4().hex[:12]}"
    work = store.root / "work" / name
    lock = BuildLock(store.root / "locks" / f"{name}.lock", f"import of {place}")
    lock.acquire()
    try:
        make_folder(work)
        with ExitStack() as stack:
            return _take(store, _opened(place, stack), work, only)
    except OSError as error:
        failed = Path(error.filename) if isinstance(error.filename, str) else place
        raise explain(error, failed, "import") from error
    finally:
        shutil.rmtree(work, ignore_errors=True)
        lock.release()


def _take(store: Store, source: _Export, work: Path, only: Collection[tuple[str, str]] | None) -> list[Taken]:
    """Unpack below ``work``, verify everything, publish."""
    source.copy(INDEX, work / INDEX)
    try:
        index = read_json(work / INDEX)
    except StoreError as error:
        raise StoreError(f"{source.place}: {INDEX} is not JSON; copy or export it again") from error
    wanted = [each for each in entries_of(source.place, index) if only is None or each in only]
    try:
        for stage, key in wanted:
            store.where(stage, key)
    except StoreError as error:
        raise StoreError(f"{source.place}: {error}") from error
    taken, fresh = [], []
    for stage, key in wanted:
        folder = work / stage / key
        here = store.find(stage, key)
        make_folder(folder)
        for name in (MANIFEST, CHECKSUM):
            source.copy(f"{stage}/{key}/{name}", folder / name)
        try:
            manifest = read_manifest(folder, stage, key)
            if here is not None:
                _check_same(source.place, here, manifest)
                taken.append(Taken(stage, key, "already here"))
                continue
            for name, entry in manifest["files"].items():
                source.copy(f"{stage}/{key}/{name}", folder / name, entry["bytes"])
            verify(folder, stage, key)
        except DamagedError as damage:
            raise StoreError(f"{source.place}: {stage}/{key}: {damage}; copy or export it again") from damage
        fresh.append((stage, key))
    for stage, key in fresh:
        first = store.publish(work / stage / key, stage, key)
        taken.append(Taken(stage, key, "imported" if first else "already here"))
    return sorted(taken)


def entries_of(place: Path, index: Any) -> list[tuple[str, str]]:
    """The (stage, key) that an index names. Raises StoreError for what is none."""
    entries = index.get("artifacts") if isinstance(index, dict) else None
    if not isinstance(entries, list) or index.get("schema") != _SCHEMA or len(entries) > _MOST_FILES:
        raise StoreError(f"{place}: {INDEX} is no index that this version reads; export it again")
    found: list[tuple[str, str]] = []
    for entry in entries:
        pair = (entry.get("stage"), entry.get("key")) if isinstance(entry, dict) else (None, None)
        if not all(isinstance(name, str) for name in pair) or pair in found:
            raise StoreError(f"{place}: {INDEX} does not name its artifacts; export it again")
        found.append((str(pair[0]), str(pair[1])))
    return found


def _check_same(place: Path, here: Artifact, manifest: Mapping[str, Any]) -> None:
    """Raise StoreError when an artifact of the same key holds other bytes: results that rest on either must
    not be mixed.
    """
    names = sorted({*here.manifest["files"], *manifest["files"]})
    differing = [name for name in names if here.manifest["files"].get(name) != manifest["files"].get(name)]
    if differing:
        raise StoreError(
            f"{here.stage}/{here.key} of {place} is another build than {here.path} ({', '.join(differing)} "
            "differ), so nothing was imported; keep yours, or remove it and what rests on it and import again"
        )


def _opened(place: Path, stack: ExitStack) -> _Export:
    """An export as its plain files. StoreError for anything that could lead out of it: links, pipes, absolute
    or climbing names.
    """
    if place.is_dir():
        return _Export(place, *_files_of_folder(place))
    if is_special(place):  # opening a pipe would wait for ever
        raise StoreError(f"{place} is no file; give what midre-exp store export wrote")
    try:
        tar = stack.enter_context(tarfile.open(place, mode="r:"))  # noqa: SIM115
        members: dict[str, tarfile.TarInfo] = {}
        for entry in tar:
            if entry.isdir() and _is_within(entry.name):
                continue
            if entry.type not in (tarfile.REGTYPE, tarfile.AREGTYPE) or not _is_within(entry.name):
                raise StoreError(
                    f"{place}: {entry.name!r} is no plain file within the archive, so nothing was imported"
                )
            if entry.name in members or len(members) >= _MOST_FILES:
                raise StoreError(f"{place}: {entry.name!r} is there twice, or there are too many files")
            members[entry.name] = entry
    except FileNotFoundError as error:
        raise StoreError(f"there is no {place}; give what midre-exp store export wrote") from error
    except (tarfile.TarError, EOFError, ValueError, OverflowError) as error:
        raise StoreError(f"{place} is no tar file of midre-exp store export ({error})") from error

    def open_member(name: str) -> BinaryIO:
        found = tar.extractfile(members[name])
        assert found is not None, "a plain file"
        return found  # type: ignore[return-value]

    return _Export(place, {name: entry.size for name, entry in members.items()}, open_member)


def _files_of_folder(place: Path) -> tuple[dict[str, int], Callable[[str], BinaryIO]]:
    sizes: dict[str, int] = {}
    for folder, inner, names in os.walk(place):
        for name in (*inner, *names):
            path = Path(folder, name)
            relative = path.relative_to(place).as_posix()
            if path.is_symlink() or not (path.is_dir() or path.is_file()):
                raise StoreError(f"{place}: {relative!r} is no plain file, so nothing was imported")
            if path.is_file():
                sizes[relative] = path.stat().st_size
            if len(sizes) > _MOST_FILES:
                raise StoreError(f"{place} holds too many files to be an export; give what export wrote")

    def open_file(name: str) -> BinaryIO:
        return os.fdopen(os.open(place / name, os.O_RDONLY | os.O_NOFOLLOW), "rb")

    return sizes, open_file


def _is_within(name: str) -> bool:
    path = PurePosixPath(name)
    return not path.is_absolute() and ".." not in path.parts and "\\" not in name and "\0" not in name
