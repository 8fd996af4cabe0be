"""Records of runs as one file for others, and what others made beside one's own.

A bundle is an archive (``archive``) of a manifest with the SHA-256 of every other file, the manifest's own
checksum, a JSON file for each record and, where they were asked for, weights of targets and latents of
reconstructions, safetensors with a card in them (``midre_exp.zoo``). Pictures are never in it. On the way in
all is verified before anything is written, names in a bundle are compared and never followed, and nothing in
it is executed.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, cast

from safetensors import SafetensorError
from safetensors.numpy import load

from midre_exp import __version__
from midre_exp.errors import CheckpointError, StoreError
from midre_exp.plan.publication import SWITCH, ignore_all, people_of
from midre_exp.plan.validate import is_id, is_line
from midre_exp.records import Record, put_record, read_record, record_files
from midre_exp.records.migration import migrated
from midre_exp.records.origin import at_home, difference
from midre_exp.records.schema import SCHEMA, OriginEntry, problem_of
from midre_exp.sharing import archive
from midre_exp.store.artifact import Artifact
from midre_exp.store.files import dump_json, explain, sha256, write_atomic
from midre_exp.store.store import Store
from midre_exp.zoo.card import check_people
from midre_exp.zoo.export import file_of
from midre_exp.zoo.files import SUFFIX, pack, unpack

#: Version of the bundle: another major is refused, a later minor has more than is read here.
BUNDLE = "1.0"
_FORMAT = "midre-exp results"
_MANIFEST, _CHECKSUM = "midre-results.json", "midre-results.sha256"
_RECORD = re.compile(r"records/([A-Za-z0-9][A-Za-z0-9._+-]{0,79})/([0-9a-f]{16})\.json")
_FILE = re.compile(r"(weights|latents)/(target|attack)-([0-9a-f]{16})\.safetensors")
_MOST_RECORD = 32 * 2**20  # bytes; the largest of a suite of attacks has a hundredth
_MOST_MANIFEST = 64 * 2**20
_MOST_FILE = 4 * 2**30
#: What of an attack goes into its latents: never ``images``, nor details, some of which are pictures.
_LATENTS = ("latents", "labels", "restarts", "confidence", "queries")
#: Beside records, the folder of what came with them; git ignores it.
SHARED = "shared"


class Bundled(NamedTuple):
    """A record of a bundle: the scale it is of, the name of its file, and what it says."""

    scale: str
    file: str
    record: Record


class Taken(NamedTuple):
    """What became of one file of a bundle: ``imported``, ``already here`` or ``kept yours``."""

    path: Path
    outcome: str


# out


def gathered(places: Sequence[Path]) -> list[Bundled]:
    """The records of results folders (``results``, ``results/mini``) and of single files, sorted. Raises
    StoreError for a place without any, and for one that is damaged.
    """
    found: dict[tuple[str, str], Bundled] = {}
    for place in places:
        files = _record_files(place)
        if not files:
            raise StoreError(f"{place} holds no records; give a folder such as results/mini, or a record")
        for path in files:
            record = read_record(path)
            key = (record["scale"], record["key"])
            if key in found and (where := difference(found[key].record, record)):
                raise StoreError(
                    f"{path} and another record of run {record['key']} differ ({where}); give one of them"
                )
            found.setdefault(key, Bundled(record["scale"], path.name, record))
    return [found[key] for key in sorted(found)]


def _record_files(place: Path) -> list[Path]:
    if place.is_file():
        return [place]
    return record_files(place) or [
        path for folder in sorted(place.glob("*/")) for path in record_files(folder)
    ]


def export(
    place: Path,
    runs: Sequence[Bundled],
    *,
    name: str,
    store: Store | None = None,
    weights: bool = False,
    latents: bool = False,
    consent: bool = False,
) -> str:
    """Write a bundle of ``runs`` called ``name``, with the weights of their targets and the latents of their
    reconstructions from ``store`` where asked; returns its SHA-256. Equal records give equal bytes.

    Names of classes are left out of records of real people, and their weights and latents are refused, unless
    ``consent``. Raises StoreError for what is missing in the store, and where ``place`` exists.
    """
    if place.exists() or place.is_symlink():
        raise StoreError(f"{place} exists already; give another name, or remove it first")
    if not is_line(name) or len(name) > 80:
        raise StoreError("the name of a bundle is a line of at most 80 characters; give another with --name")
    records, files = {}, {}
    for run in runs:
        record = migrated(run.record)
        record.pop("found_in", None)  # folders of this machine
        if people_of(record["config"]) != "synthetic" and not consent:
            record.pop("classes", None)
        records[f"records/{run.scale}/{record['key']}.json"] = (run.file, dump_json(record).encode())
        if weights or latents:
            files.update(_attached(record, store, weights=weights, latents=latents, consent=consent))
    manifest = {
        "format": _FORMAT,
        "bundle": BUNDLE,
        "record_schema": SCHEMA,
        "name": name,
        "midre_exp": __version__,
        "records": [
            {"member": member, "file": file, **_described(data)} for member, (file, data) in records.items()
        ],
        "files": [{"member": member, **_described(files[member])} for member in sorted(files)],
    }
    text = dump_json(manifest).encode()
    checksum = f"{hashlib.sha256(text).hexdigest()}  {_MANIFEST}\n".encode()
    members = [(_MANIFEST, text), (_CHECKSUM, checksum)]
    members += [(member, data) for member, (_, data) in records.items()]
    members += [(member, files[member]) for member in sorted(files)]
    return _written(place, members)


def _written(place: Path, members: Sequence[tuple[str, bytes]]) -> str:
    """Write the archive, all of it or nothing; its SHA-256."""
    part = place.with_name(f".{place.name}.tmp")
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        with part.open("xb") as file:
            archive.write(file, members)
            os.fsync(file.fileno())
        digest = sha256(part)
        part.rename(place)
    except BaseException as error:
        if not isinstance(error, FileExistsError):
            with suppress(OSError):
                part.unlink(missing_ok=True)
        if isinstance(error, OSError):
            raise explain(error, place) from error
        raise
    return digest


def _described(data: bytes) -> dict[str, Any]:
    return {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}


def _attached(
    record: Record, store: Store | None, *, weights: bool, latents: bool, consent: bool
) -> dict[str, bytes]:
    """Weights of the target and latents of the attack of one run, by the names of members."""
    people = people_of(record["config"])
    found = {}
    for wanted, kind, stage in ((weights, "weights", "target"), (latents, "latents", "attack")):
        key = record["artifacts"].get(stage)
        if not wanted or key is None:
            continue
        artifact = None if store is None else store.find(stage, key, reread=False)
        if artifact is None:
            raise StoreError(
                f"{stage}/{key} of run {record['key']} is not in {store}; give its store with --store, or "
                f"leave out --{kind}"
            )
        told = None if people == "synthetic" else people
        data = (
            file_of(artifact, people=told, consent=consent)
            if stage == "target"
            else latents_of(artifact, people, consent=consent)
        )
        found[f"{kind}/{stage}-{key}{SUFFIX}"] = data
    return found


def latents_of(artifact: Artifact, people: str, *, consent: bool) -> bytes:
    """The latents of an attack as a file with a card, without pictures. Raises StoreError where real people
    are behind them and nobody consents.
    """
    check_people(f"attack/{artifact.key}", people, consent=consent)
    path = artifact.path / "reconstructions.safetensors"
    try:
        tensors = load(path.read_bytes())
    except (OSError, SafetensorError, KeyError, AttributeError, TypeError) as error:
        raise StoreError(f"{path} cannot be read ({error}); rebuild it") from error
    card = {
        "stage": "attack",
        "key": artifact.key,
        "attack": artifact.manifest.get("config", {}).get("attack", {}).get("name"),
        "prior": artifact.manifest.get("upstream", {}).get("prior"),
        "people": people,
        "consent": consent and people != "synthetic",
        "commit": artifact.manifest.get("commit"),
    }
    return pack({name: tensors[name] for name in _LATENTS if name in tensors}, card)


# in


class Bundle(NamedTuple):
    """A bundle that is as it was written: what it calls itself, its SHA-256, and what it holds."""

    name: str
    sha256: str
    runs: list[Bundled]
    files: dict[str, bytes]


def read_bundle(place: Path) -> Bundle:
    """Verify a bundle, every byte of it. Raises StoreError, naming what is wrong, in one sentence."""
    with archive.opened(place) as file:
        members = archive.members_of(file, place)
        manifest = _manifest(file, members, place)
        runs = [_run(file, members, entry, place) for entry in _entries(manifest, "records", place)]
        entries = _entries(manifest, "files", place)
        known = {run.record["artifacts"].get(stage) for run in runs for stage in ("target", "attack")}
        files = {str(one["member"]): _file(file, members, one, known, place) for one in entries}
        listed = {_MANIFEST, _CHECKSUM, *files, *(f"records/{r.scale}/{r.record['key']}.json" for r in runs)}
        if len(listed) != len(members) or len(runs) + len(files) + 2 != len(members):
            other = sorted(set(members) - listed)
            raise StoreError(
                f"{place}: {(other or ['a file'])[0]!a} is not in its manifest, or there twice, so nothing "
                "was imported; export it again"
            )
        digest = archive.digest(file)
    return Bundle(str(manifest["name"]), digest, runs, files)


def _manifest(file: BinaryIO, members: Mapping[str, archive.Member], place: Path) -> dict[str, Any]:
    for name, most in ((_MANIFEST, _MOST_MANIFEST), (_CHECKSUM, 1024)):
        if name not in members or members[name].size > most:
            raise StoreError(f"{place} has no usable {name}; give what midre-exp results export wrote")
    text = archive.content(file, members[_MANIFEST])
    told = f"{hashlib.sha256(text).hexdigest()}  {_MANIFEST}\n".encode()
    if told != archive.content(file, members[_CHECKSUM]):
        raise StoreError(f"{place}: {_MANIFEST} does not match {_CHECKSUM}; copy or export it again")
    manifest = _json(text, _MANIFEST, place)
    if not isinstance(manifest, dict) or manifest.get("format") != _FORMAT:
        raise StoreError(f"{place} is no bundle of results; give what midre-exp results export wrote")
    version, schema = str(manifest.get("bundle")), manifest.get("record_schema")
    if version.partition(".")[0] != BUNDLE.partition(".")[0]:
        raise StoreError(
            f"{place} is a bundle of version {version[:20]!a}, and this program reads "
            f"{BUNDLE.partition('.')[0]}.x; use the version of midre-exp that made it"
        )
    if schema != SCHEMA:
        raise StoreError(
            f"{place} holds records of schema {str(schema)[:20]!a}, and this program reads {SCHEMA}; use the "
            "version of midre-exp that made it"
        )
    if not is_line(manifest.get("name")) or len(manifest["name"]) > 80:
        raise StoreError(f"{place} has no name that could stand in a table; export it again with --name")
    return manifest


def _entries(manifest: Mapping[str, Any], name: str, place: Path) -> list[dict[str, Any]]:
    entries = manifest.get(name)
    kinds = {"member": str, "sha256": str, "bytes": int}
    if not isinstance(entries, list) or not all(
        isinstance(entry, dict) and all(type(entry.get(key)) is kind for key, kind in kinds.items())
        for entry in entries
    ):
        raise StoreError(f"{place}: {_MANIFEST} does not list its {name}; export it again")
    return entries


def _verified(
    file: BinaryIO, members: Mapping[str, archive.Member], entry: Mapping[str, Any], most: int, place: Path
) -> bytes:
    """The content of a listed file, of the size and checksum that are listed."""
    name = entry["member"]
    member = members.get(name)
    if member is None:
        raise StoreError(f"{place} lacks {name!a}, which its manifest lists; copy or export it again")
    if member.size > most:
        raise StoreError(f"{place}: {name} is too large to be true ({member.size} bytes); export it again")
    data = archive.content(file, member)
    if len(data) != entry["bytes"] or hashlib.sha256(data).hexdigest() != entry["sha256"]:
        raise StoreError(f"{place}: {name} is damaged or was changed (its checksum differs); copy it again")
    return data


def _run(
    file: BinaryIO, members: Mapping[str, archive.Member], entry: Mapping[str, Any], place: Path
) -> Bundled:
    match = _RECORD.fullmatch(entry["member"])
    if match is None:
        raise StoreError(f"{place}: {entry['member']!a} is no name of a record, so nothing was imported")
    said = _json(_verified(file, members, entry, _MOST_RECORD, place), entry["member"], place)
    if problem := problem_of(said):
        raise StoreError(f"{place}: {entry['member']} is no run record ({problem}), so nothing was imported")
    record = migrated(cast(Record, said))
    scale, key = match.groups()
    if (record["scale"], record["key"]) != (scale, key):
        raise StoreError(f"{place}: {entry['member']} is the record of another run; export it again")
    if not _names(entry.get("file"), record):
        raise StoreError(
            f"{place}: {str(entry.get('file'))[:90]!a} is no name of the record of run {key}, so nothing was "
            "imported; export it again"
        )
    return Bundled(scale, entry["file"], record)


def _names(file: object, record: Record) -> bool:
    """Whether a file name is that of a record: the defenses of a combination may stand in any order."""
    start, end = f"{record['setup']['id']}-", f"-s{record['seed']}-{record['key']}.json"
    if not isinstance(file, str) or not (file.startswith(start) and file.endswith(end)):
        return False
    parts = file[len(start) : len(file) - len(end)].split("+")
    return all(map(is_id, parts)) and sorted(parts) == sorted(record["defense"]["parts"])


def _file(
    file: BinaryIO,
    members: Mapping[str, archive.Member],
    entry: Mapping[str, Any],
    known: set[str | None],
    place: Path,
) -> bytes:
    match = _FILE.fullmatch(entry["member"])
    if match is None or match[3] not in known:
        raise StoreError(f"{place}: {entry['member']!a} belongs to none of its runs, so nothing was imported")
    data = _verified(file, members, entry, _MOST_FILE, place)
    try:
        card = unpack(data, f"{place}: {entry['member']}").card
    except CheckpointError as error:
        raise StoreError(str(error)) from error
    if (card["stage"], card["key"]) != (match[2], match[3]):
        raise StoreError(f"{place}: {entry['member']} holds what another stage made; export it again")
    return data


def _json(text: bytes, name: str, place: Path) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise StoreError(f"{place}: {name} is not JSON; export it again") from error


def import_(place: Path, results: Path, *, keep: str | None = None) -> list[Taken]:
    """Put the records of a bundle beside those of ``results`` (``results/<scale>/records``), each with its
    origin, and what came with them into ``results/<scale>/shared``.

    A run that is there already with the same results stays as it is. Where it has others, everything is
    refused, unless ``keep`` says whose stay: ``ours`` or ``theirs``. All is verified before anything is
    written. Raises StoreError.
    """
    bundle = read_bundle(place)
    here: dict[str, dict[str, tuple[Path, Record]]] = {}
    for scale in {run.scale for run in bundle.runs}:
        files = record_files(results / scale)
        here[scale] = {record["key"]: (path, record) for path in files for record in [read_record(path)]}
    outcomes: list[tuple[Bundled, Path, str]] = []
    for run in bundle.runs:
        path, mine = here[run.scale].get(
            run.record["key"], (results / run.scale / "records" / run.file, None)
        )
        where = None if mine is None else difference(mine, run.record)
        if where is not None and keep is None:
            raise StoreError(
                f"{path} has other results of the same run than {place} ({where}), so nothing was imported; "
                "say whose stay with --keep ours or --keep theirs"
            )
        kept = "already here" if where is None else "kept yours"
        outcomes.append((run, path, "imported" if mine is None or (where and keep == "theirs") else kept))
    origin: OriginEntry = {"bundle": bundle.name, "sha256": bundle.sha256}
    for run, path, outcome in outcomes:
        if outcome == "imported":
            put_record(path, at_home(run.record, origin))
    return [*(Taken(path, outcome) for _, path, outcome in outcomes), *_put_files(bundle, results)]


def _put_files(bundle: Bundle, results: Path) -> list[Taken]:
    """Write weights and latents beside the records of the runs that they belong to."""
    taken = []
    for member, data in bundle.files.items():
        key = member[-16 - len(SUFFIX) : -len(SUFFIX)]
        for scale in sorted({r.scale for r in bundle.runs if key in r.record["artifacts"].values()}):
            folder = results / scale / SHARED
            path = folder / member
            folder.mkdir(parents=True, exist_ok=True)
            ignore_all(folder)
            is_new = not path.exists() or path.read_bytes() != data
            if is_new:
                write_atomic(path, data)
            taken.append(Taken(path, "imported" if is_new else "already here"))
    return taken


def remark_on_people(runs: Sequence[Bundled], *, consent: bool) -> str | None:
    """What is left out of records of real people, a sentence; None where nothing is."""
    named = [
        run for run in runs if people_of(run.record["config"]) != "synthetic" and "classes" in run.record
    ]
    if consent or not named:
        return None
    return (
        f"{len(named)} record(s) are of real people; the names of their classes are left out, unless {SWITCH}"
    )
