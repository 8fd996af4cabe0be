"""``midre-exp store verify|gc|du|mark|export|import``: check every checksum of the store, remove what no
record needs, say what takes space, hand artifacts to others and take theirs: as artifacts, or classifiers as
files of a zoo.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import re
import shlex
import shutil
import stat
import sys
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from midre_exp.errors import StoreError, UserError
from midre_exp.plan.publication import SWITCH
from midre_exp.records import check_record
from midre_exp.store.artifact import NAME, DamagedError, readable, verify
from midre_exp.store.data import INVENTORY, artifacts_of, compare
from midre_exp.store.exchange import chosen, export, import_
from midre_exp.store.files import explain, read_json, sha256, write_atomic
from midre_exp.store.lock import BuildLock
from midre_exp.store.names import stored_as
from midre_exp.store.progress import log_to_stderr
from midre_exp.store.store import MARKER, Artifact, Store
from midre_exp.zoo.export import file_of, is_of_zoo, make_zoo, take_files
from midre_exp.zoo.files import PRECISIONS, SUFFIX

#: Decoded images belong to data on disk, not to a run: records do not name them and the next run on the data
#: needs them.
_SHARED = ("images", INVENTORY)
_FORGOTTEN_SECONDS = 3600.0
_JSON = re.compile(r"[^.].*\.json")
#: Names that the store gives, and nobody else would: of unfinished builds, of what was set aside, of files of
#: ``write_atomic`` and of the check that a place can be written, of files beside a lock.
_WORK = re.compile(rf"[a-z][a-z0-9_]*-{NAME.pattern}")
_DAMAGED = re.compile(rf"{_WORK.pattern}-[0-9]+")
_TEMPORARY = re.compile(r"\..+\.[0-9a-f]{4,32}\.tmp|\.probe-[0-9]+")
_BESIDE_LOCKS = re.compile(r".+\.lock\.([0-9a-f]{4,32}\.(tmp|gone)|takeover(\.[0-9a-f]{4,32}\.(tmp|gone))?)")


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
    """(stage, key) of every artifact that a record below ``results`` names, in whatever folder it lies.

    Raises StoreError for a file of a ``records`` folder that cannot be read.
    """
    found = set()
    for path in _json_files(results):
        record = _record_in(path)
        if record is not None:
            found |= {(stored_as(stage), key) for stage, key in record.items()}
    return found


def _json_files(results: Path) -> Iterator[Path]:
    """Every JSON file below a folder, links to folders followed."""
    seen: set[str] = set()
    for folder, inner, names in os.walk(results, followlinks=True):
        real = os.path.realpath(folder)
        if real in seen:
            inner.clear()
            continue
        seen.add(real)
        inner.sort()
        yield from (Path(folder, name) for name in sorted(names) if _JSON.fullmatch(name))


def _record_in(path: Path) -> dict[str, str] | None:
    """The artifacts that a record names; None for a file outside of ``records`` that is none."""
    must_be = "records" in path.parts[:-1]
    try:
        record = read_json(path)
    except StoreError:
        if must_be:
            raise
        return None
    artifacts = record.get("artifacts") if isinstance(record, dict) else None
    if isinstance(artifacts, dict) and all(isinstance(key, str) for key in artifacts.values()):
        if must_be:
            check_record(path)
        return artifacts
    if must_be:
        raise StoreError(f"{path} is no run record; remove it, or restore it from version control")
    return None


def leftovers(store: Store, keep: set[tuple[str, str]], *, images: bool) -> list[Leftover]:
    """What could go: artifacts not in ``keep`` (decoded images only on demand), unfinished builds and what
    was set aside. Nothing that does not carry a name that the store gives.
    """
    locks = store.root / "locks"
    found = [
        Leftover(a.path, "no record needs it", size_of(a.path), locks / f"{a.stage}-{a.key}.lock")
        for a in store.list()
        if (a.stage, a.key) not in keep and (images or a.stage not in _SHARED) and not a.path.is_symlink()
    ]
    for work in _named(store.root / "work", _WORK):
        found.append(Leftover(work, "an unfinished build", size_of(work), locks / f"{work.name}.lock"))
    for folder in _named(store.root / "damaged", _DAMAGED):
        found.append(Leftover(folder, "set aside as damaged", size_of(folder)))
    for folder in _named(store.root / "replaced", _DAMAGED):
        found.append(Leftover(folder, "set aside for one made anew", size_of(folder)))
    return found


def _named(folder: Path, name: re.Pattern[str]) -> list[Path]:
    """The folders in a folder whose names are of a kind, links left out."""
    return [path for path in sorted(folder.glob("*/")) if name.fullmatch(path.name) and not path.is_symlink()]


def forgotten(store: Store, results: Sequence[Path]) -> Iterator[Leftover]:
    """Temporary files, which no reader looks at, of writers that were killed: older than an hour, for living
    ones keep them for moments.
    """
    places: list[tuple[Iterable[Path], re.Pattern[str]]] = [
        (store.root.glob(".*"), _TEMPORARY),
        ((store.root / ".verified").rglob(".*"), _TEMPORARY),
        ((store.root / "locks").glob("*.lock.*"), _BESIDE_LOCKS),
        *((folder.rglob(".*"), _TEMPORARY) for folder in results),
    ]
    paths = {path for found, name in places for path in found if name.fullmatch(path.name)}
    for path in sorted(paths):
        with contextlib.suppress(FileNotFoundError):
            status = path.lstat()
            if stat.S_ISREG(status.st_mode) and time.time() - status.st_mtime > _FORGOTTEN_SECONDS:
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
    for place in (store.root, *store.upstream):
        found = 0
        for folder, reason in damaged(Store(place)):
            found += 1
            print(f"damaged: {folder}: {reason}")
        total = sum(1 for _ in Store(place).folders())
        remedy = "the next run rebuilds them" + (
            "" if place == store.root else f" in {store.root}; tell the owner of {place}"
        )
        where = f" in {place}, which is only read" if place != store.root else ""
        print(f"{total} artifacts checked{where}, {found} damaged" + (f"; {remedy}" if found else ""))
        bad += found
    return 1 if bad else 0


def _verify_data(store: Store) -> int:
    """1 when images that artifacts were made from have changed or are missing."""
    made, compared = artifacts_of(store), compare(store)
    for found in compared:
        of = [f"{artifact.stage} {artifact.key}" for artifact in made.get(found.files, ())]
        resting = f"{len(of)} artifact(s) made from them" + (f": {', '.join(of)}" if of else "")
        if found.is_same:
            print(f"{found.title} in {found.root}: same, {found.count:,} files; {resting}")
            continue
        for what, names in (("changed", found.changed), ("missing", found.missing)):
            for name in names:
                print(f"{what}: {found.root / name}")
        numbers = (
            f"{len(found.changed):,} changed and {len(found.missing):,} missing of {found.count:,} files"
        )
        print(f"{found.title} in {found.root}: {numbers}; {resting} as they were")
    known = {found.files for found in compared}
    if unknown := sum(len(artifacts) for files, artifacts in made.items() if files not in known):
        print(f"{unknown} artifact(s) rest on images of which this store holds no inventory")
    if not compared:
        print(f"{store.root} holds no inventory of images; the next run on images on disk leaves one")
    return 0 if all(found.is_same for found in compared) else 1


def _gc(store: Store, results: Sequence[Path], *, delete: bool, images: bool) -> int:
    _require_mark(store)
    keep = set().union(*(needed(folder) for folder in results))
    if not keep:
        raise StoreError(
            f"there is no record below {', '.join(map(str, results))}, so nothing would be kept; give the "
            "right folder with --results"
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
    if strangers := store.strangers():
        print(f"left alone, for they are not the store's: {', '.join(strangers)}")
    for place in store.upstream:
        print(f"left alone, for it is only read: {place}")
    return 0


def _require_mark(store: Store) -> None:
    """Raise StoreError unless the folder carries the mark of a store: nothing is removed from any other."""
    if store.is_marked():
        return
    strangers = store.strangers()
    if strangers:
        raise StoreError(
            f"{store.root} carries no mark of a store ({MARKER}) and holds other things "
            f"({', '.join(strangers[:3])}{', ...' if len(strangers) > 3 else ''}), so nothing in it is "
            "removed; give the folder of the artifacts with --store, or move the rest elsewhere"
        )
    if next(store.list(), None) is None:
        raise StoreError(
            f"{store.root} carries no mark of a store ({MARKER}) and holds no artifacts; give the folder of "
            "the artifacts with --store"
        )
    raise StoreError(
        f"{store.root} is a store of an earlier version, without the mark {MARKER}; the next run writes it, "
        f"or midre-exp store mark --store {shlex.quote(str(store.root))} does now"
    )


def _mark(store: Store) -> int:
    """Give a store of an earlier version its mark."""
    if not store.is_marked():
        if store.strangers() or next(store.list(), None) is None:
            _require_mark(store)  # says what is wrong
        store.mark()
    print(f"{store.root} is marked as a store")
    return 0


def _du(store: Store) -> int:
    for place in (store.root, *store.upstream):
        _du_of(Store(place), "" if place == store.root else ", which is only read")
    return 0


def _du_of(store: Store, remark: str) -> None:
    sizes: dict[str, list[Artifact]] = defaultdict(list)
    for artifact in store.list():
        sizes[artifact.stage].append(artifact)
    total = 0
    for stage, artifacts in sorted(sizes.items()):
        count = sum(size_of(artifact.path) for artifact in artifacts)
        seconds = sum(artifact.seconds for artifact in artifacts)
        total += count
        print(f"{stage:<12}{len(artifacts):>6}  {readable(count):>10}  {seconds / 3600:>8.2f} h to build")
    for name in ("work", "damaged", "replaced"):
        count = size_of(store.root / name)
        total += count
        if count:
            print(f"{name:<12}{'':>6}  {readable(count):>10}")
    print(f"{'total':<12}{'':>6}  {readable(total):>10}  in {store.root}{remark}")


def _export(store: Store, names: Sequence[str], place: Path, *, upstream: bool) -> int:
    artifacts = chosen(store, names, upstream=upstream)
    export(artifacts, place)
    for artifact in artifacts:
        print(f"exported: {artifact.stage} {artifact.key} ({readable(size_of(artifact.path))})")
    print(f"{len(artifacts)} artifacts written to {place}; README.md in it says what they are")
    return 0


def _classifiers_of(results: Path) -> list[str]:
    """The targets and evaluators that records below a folder name. Raises StoreError where there are none."""
    found = [f"{stage}/{key}" for stage, key in sorted(needed(results)) if stage in ("target", "evaluator")]
    if not found:
        raise StoreError(f"no record below {results} names a classifier; give a folder such as results/mini")
    return found


def _export_files(store: Store, options: argparse.Namespace) -> int:
    """Classifiers as files with a card inside: one, or a zoo of several."""
    said = {"precision": options.precision, "people": options.people, "consent": options.consent}
    named: dict[str, Artifact] = {}
    words = [
        word
        for key in options.key
        for word in (_classifiers_of(Path(key)) if options.zoo and Path(key).is_dir() else [key])
    ]
    for word in words:
        name, _, key = word.rpartition("=") if options.zoo else ("", "", word)
        (artifact,) = chosen(store, [key], upstream=False)
        if name in named:
            raise StoreError(f"{name} is given to two artifacts; give each a name of its own")
        named[name or f"={artifact.stage}/{artifact.key}"] = artifact
    if options.zoo:
        files = make_zoo(named, options.place, results=options.records, **said)
    elif len(named) != 1:
        raise StoreError(f"{options.place} holds one artifact; give one key, or a folder with --zoo")
    elif options.place.exists():
        raise StoreError(f"{options.place} exists already; give another name, or remove it first")
    else:
        write_atomic(options.place, file_of(next(iter(named.values())), **said))
        files = [options.place]
    for path in files:
        print(f"written: {path} ({readable(path.stat().st_size)}, SHA-256 {sha256(path)})")
    return 0


def _import(store: Store, place: Path) -> int:
    for taken in import_(store, place):
        print(f"{taken.outcome}: {taken.stage} {taken.key}")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="midre-exp store", description=__doc__)
    where = argparse.ArgumentParser(add_help=False)
    for each, default in ((parser, None), (where, argparse.SUPPRESS)):
        each.add_argument(
            "--store",
            action="append",
            default=default,
            help="folder of the artifacts (default: artifacts); given again: further stores, only read",
        )
    commands = parser.add_subparsers(dest="command", required=True)

    def command(name: str, purpose: str) -> argparse.ArgumentParser:
        return commands.add_parser(name, help=purpose, description=purpose, parents=[where])

    checked = command("verify", "read every file and compare it with its checksum")
    checked.add_argument(
        "--data",
        action="store_true",
        help="instead, read the images that artifacts were made from and say which are no longer the same",
    )
    command("du", "space and build time by stage")
    gc = command("gc", "list what no record needs; with --delete, remove it")
    gc.add_argument(
        "--results",
        action="append",
        help="folder of the records (default: results); give it again for each folder whose records count",
    )
    gc.add_argument("--delete", action="store_true", help="remove it")
    gc.add_argument("--images", action="store_true", help="decoded images too")
    command("mark", "mark a store of an earlier version, so that gc works in it")
    out = command("export", "write artifacts with a model card to a folder, or a file that ends in .tar")
    out.add_argument(
        "key",
        nargs="+",
        help="of an artifact, or its beginning, as KEY or STAGE/KEY; of a zoo also NAME=KEY, or a folder of "
        f"results: the classifiers of its records; {SWITCH}: those of real people too",
    )
    out.add_argument(
        "place", type=Path, help="a new folder, or FILE.tar; FILE.safetensors: a classifier with a card in it"
    )
    out.add_argument("--upstream", action="store_true", help="what they were made from, too")
    out.add_argument("--zoo", action="store_true", help="a folder of such files, with an index and a page")
    out.add_argument(
        "--precision", choices=PRECISIONS, default="float32", help="of weights in such files (float32)"
    )
    out.add_argument(
        "--records",
        type=Path,
        metavar="RESULTS",
        help="of a zoo: cards say what attacks on their target reached in the records of a folder such as "
        "results/evidence",
    )
    out.add_argument(
        "--people",
        choices=("public_figures", "consented", "unknown"),
        help="who is on the images of such a classifier, where code did not render them (data.people)",
    )
    into = command("import", "take over exported artifacts, every checksum verified, nothing executed")
    into.add_argument("place", type=Path, help="what export wrote")
    into.add_argument(
        "--zoo", type=Path, default=Path("zoo"), help="where files with a card go, of a zoo or alone (zoo)"
    )
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code: 1 when verify finds damage, 2 for a mistake."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    options = _parser().parse_args([word for word in words if word != SWITCH])
    options.consent = SWITCH in words  # wherever it stands, as on every command line of this program
    log_to_stderr()
    try:
        store = Store(options.store or ["artifacts"])
        for place in (store.root, *store.upstream):
            if not place.is_dir() and options.command != "import":
                raise StoreError(f"there is no store {place}; give its folder with --store")
        if options.command == "verify":
            return _verify_data(store) if options.data else _verify(store)
        if options.command == "du":
            return _du(store)
        if options.command == "mark":
            return _mark(store)
        if options.command == "export" and (options.zoo or options.place.suffix == SUFFIX):
            return _export_files(store, options)
        if options.command == "export":
            return _export(store, options.key, options.place, upstream=options.upstream)
        if options.command == "import" and is_of_zoo(options.place):
            for path in take_files(options.place, options.zoo):
                print(f"imported: {path}")
            return 0
        if options.command == "import":
            return _import(store, options.place)
        results = [Path(folder) for folder in options.results or ["results"]]
        return _gc(store, results, delete=options.delete, images=options.images)
    except UserError as error:
        print(f"midre_exp: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
