"""``python -m midre_exp.store verify|gc|du``: check every checksum of the store, remove what no record needs,
say what takes space.
"""

from __future__ import annotations

import argparse
import contextlib
import logging
import shutil
import sys
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from midre_exp.errors import StoreError, UserError
from midre_exp.records import check_record
from midre_exp.store.artifact import DamagedError, readable, verify
from midre_exp.store.files import explain, read_json
from midre_exp.store.lock import BuildLock
from midre_exp.store.store import Artifact, Store

#: Decoded images belong to data on disk, not to a run: records do not name them and the next run on the data
#: needs them.
_SHARED = "images"
_FORGOTTEN_SECONDS = 3600.0


@dataclass(frozen=True)
class Leftover:
    """Something that no record needs: where it lies, why, its bytes, and the lock that guards it if it may be
    in use.
    """

    path: Path
    reason: str
    bytes: int
    lock: Path | None = None


def damaged(store: Store) -> Iterator[tuple[Path, str]]:
    """Every published artifact of which a byte is wrong, with the reason. All files are read."""
    for folder in store.folders():
        try:
            verify(folder, folder.parent.name, folder.name)
        except DamagedError as damage:
            yield folder, str(damage)
        except OSError as error:
            raise explain(error, folder, "read") from error


def needed(results: Path) -> set[tuple[str, str]]:
    """(stage, key) of every artifact that a record below ``results`` names. Raises StoreError for a record
    that cannot be read.
    """
    found = set()
    for path in sorted(results.glob("*/records/*.json")):
        record = read_json(path)
        check_record(path)
        artifacts = record.get("artifacts") if isinstance(record, dict) else None
        if not isinstance(artifacts, dict) or not all(isinstance(key, str) for key in artifacts.values()):
            raise StoreError(f"{path} is no run record; remove it, or restore it from version control")
        found |= set(artifacts.items())
    return found


def leftovers(store: Store, keep: set[tuple[str, str]], *, images: bool) -> list[Leftover]:
    """What could go: artifacts not in ``keep`` (decoded images only on demand), unfinished builds and what
    was set aside.
    """
    locks = store.root / "locks"
    found = [
        Leftover(a.path, "no record needs it", size_of(a.path), locks / f"{a.stage}-{a.key}.lock")
        for a in store.list()
        if (a.stage, a.key) not in keep and (images or a.stage != _SHARED)
    ]
    for work in sorted((store.root / "work").glob("*/")):
        found.append(Leftover(work, "an unfinished build", size_of(work), locks / f"{work.name}.lock"))
    for folder in sorted((store.root / "damaged").glob("*/")):
        found.append(Leftover(folder, "set aside as damaged", size_of(folder)))
    return found


def forgotten(store: Store, results: Path) -> Iterator[Leftover]:
    """Temporary files, which no reader looks at, of writers that were killed: older than an hour, for living
    ones keep them for moments.
    """
    written = (".*.tmp", ".probe-*")
    places = [(store.root, written), (store.root / "locks", ("*.lock.*",)), (results, written)]
    for path in sorted({path for top, names in places for name in names for path in top.rglob(name)}):
        with contextlib.suppress(FileNotFoundError):
            status = path.stat()
            within_build = path.is_relative_to(store.root / "work")  # goes with it
            if not within_build and path.is_file() and time.time() - status.st_mtime > _FORGOTTEN_SECONDS:
                yield Leftover(path, "a writer that was killed left it", status.st_size)


def remove(leftover: Leftover) -> bool:
    """Delete it; False when a living process is building it."""
    lock = None
    if leftover.lock is not None:
        lock = BuildLock(leftover.lock, f"removal of {leftover.path.name}")
        if not lock.acquire(stop_waiting=lambda: True):
            return False
    try:
        if leftover.path.is_dir():
            shutil.rmtree(leftover.path)
        else:
            leftover.path.unlink(missing_ok=True)
    except OSError as error:
        raise explain(error, leftover.path, "remove") from error
    finally:
        if lock is not None:
            lock.release()
    return True


def size_of(folder: Path) -> int:
    """Bytes of all files below a folder."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def _verify(store: Store) -> int:
    bad = 0
    for folder, reason in damaged(store):
        bad += 1
        print(f"damaged: {folder}: {reason}")
    total = sum(1 for _ in store.folders())
    print(f"{total} artifacts checked, {bad} damaged" + ("; the next run rebuilds them" if bad else ""))
    return 1 if bad else 0


def _gc(store: Store, results: Path, *, delete: bool, images: bool) -> int:
    keep = needed(results)
    if not keep:
        raise StoreError(
            f"there is no record below {results}, so nothing would be kept; give the right folder with "
            "--results"
        )
    freed, locked = 0, 0
    for leftover in (*leftovers(store, keep, images=images), *forgotten(store, results)):
        if delete and not remove(leftover):
            locked += 1
            print(f"in use:  {leftover.path}")
            continue
        freed += leftover.bytes
        print(
            f"{'removed' if delete else 'would remove'}: {leftover.path} ({readable(leftover.bytes)}, "
            f"{leftover.reason})"
        )
    left = f", {locked} in use" if locked else ""
    print(f"{readable(freed)} {'freed' if delete else 'would be freed; add --delete to do it'}{left}")
    return 0


def _du(store: Store) -> int:
    sizes: dict[str, list[Artifact]] = defaultdict(list)
    for artifact in store.list():
        sizes[artifact.stage].append(artifact)
    total = 0
    for stage, artifacts in sorted(sizes.items()):
        count = sum(size_of(artifact.path) for artifact in artifacts)
        seconds = sum(artifact.seconds for artifact in artifacts)
        total += count
        print(f"{stage:<12}{len(artifacts):>6}  {readable(count):>10}  {seconds / 3600:>8.2f} h to build")
    for name in ("work", "damaged"):
        count = size_of(store.root / name)
        total += count
        if count:
            print(f"{name:<12}{'':>6}  {readable(count):>10}")
    print(f"{'total':<12}{'':>6}  {readable(total):>10}  in {store.root}")
    return 0


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code: 1 when verify finds damage, 2 for a mistake."""
    parser = argparse.ArgumentParser(prog="python -m midre_exp.store", description=__doc__)
    parser.add_argument("--store", default="artifacts", help="folder of the artifacts (default: artifacts)")
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("verify", help="read every file and compare it with its checksum")
    commands.add_parser("du", help="space and build time by stage")
    gc = commands.add_parser("gc", help="list what no record needs; with --delete, remove it")
    gc.add_argument("--results", default="results", help="folder of the records (default: results)")
    gc.add_argument("--delete", action="store_true", help="remove it")
    gc.add_argument("--images", action="store_true", help="decoded images too")
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s: %(message)s")
    try:
        store = Store(options.store)
        if not store.root.is_dir():
            raise StoreError(f"there is no store {store.root}; give its folder with --store")
        if options.command == "verify":
            return _verify(store)
        if options.command == "du":
            return _du(store)
        return _gc(store, Path(options.results), delete=options.delete, images=options.images)
    except UserError as error:
        print(f"midre_exp: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
