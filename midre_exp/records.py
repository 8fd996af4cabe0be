"""Run records: one JSON file per finished run, the only source of tables, figures and claims.

``records("results/mini")`` is a whole folder of them as one tidy table. Beside the ``records`` folder,
``checksums`` holds a line of sha256sum for each record that was written here, so that a damaged number is not
taken for a result. A record without one (from another place, or older) is believed.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict, cast

from midre_exp.errors import DivergedError, StoreError
from midre_exp.plan.config import without
from midre_exp.plan.keys import Plan
from midre_exp.store.files import dump_json, explain, read_json, remove_file, sha256, write_atomic, write_json
from midre_exp.store.store import Artifact, Store, versions
from midre_exp.tracking.provenance import git_commit

if TYPE_CHECKING:  # a sweep reads records to see what is finished, and must not wait for pandas
    import pandas as pd

SCHEMA = 1

_log = logging.getLogger(__name__)


class DefenseEntry(TypedDict):
    """The defense of a run."""

    label: str  # as the tables show it, e.g. "MIDRE [0.1, 0.4]"
    parts: dict[str, dict[str, Any]]  # config nodes by name; several for a combination


class CodeEntry(TypedDict):
    """What made the artifact of a stage; None: it does not say, being older."""

    commit: str | None  # of the checkout, ``+changes.`` and a digest where code differed from it
    code: str | None  # digest of the code of our packages and the user's that the stage stands on
    packages: dict[str, dict[str, str | None]]  # commit and digest of each package of the user's own


class Record(TypedDict, total=False):
    """What a run leaves. Percent are 0 to 100, times are seconds."""

    schema: int
    key: str  # of the run: hash of setup, scale and the keys of all stages
    setup: dict[str, Any]  # conf/setup: id, title and what the paper says of it
    scale: str  # mini, synth or paper
    seed: int
    attack: str
    target: str
    evaluator: str
    defense: DefenseEntry
    data: dict[str, Any]  # name, resolution
    metrics: dict[str, float]
    per_identity: dict[str, list[float]]  # percent of each attacked identity's reconstructions, by metric
    missing: dict[str, str]  # why a metric could not be computed
    counts: dict[str, int]  # images, identities, restarts, reconstructions; counted: those behind the metrics
    queries: int  # of the target during the attack
    queries_per_identity: dict[str, float]  # mean, min, max
    threat: str  # what the attack saw: white_box, scores or labels
    seconds: dict[str, float]  # of the build of each stage's artifact
    device: str
    versions: dict[str, str]
    commit: str | None  # of the process that wrote the record; that of each stage stands in code
    code: dict[str, CodeEntry]  # what made each stage
    artifacts: dict[str, str]  # key of each stage in the store
    found_in: dict[str, str]  # of stages that lie in a store that is only read: its folder
    config: dict[str, Any]  # resolved


# writing


def results_folder(settings: Mapping[str, Any]) -> Path:
    """``results/<scale>``: where a config's records, tables and figures lie."""
    return Path(settings["paths"]["results"]) / str(settings["scale"])


def record_path(results: Path | str, settings: Mapping[str, Any], plan: Plan) -> Path:
    """Where a run's record lies: ``results/<scale>/records/<setup>-<defenses>-s<seed>-<key>.json``."""
    defenses = "+".join(settings["defense"])
    name = f"{settings['setup']['id']}-{defenses}-s{settings['seed']}-{plan.key}.json"
    return Path(results) / str(settings["scale"]) / "records" / name


def make_record(
    settings: Mapping[str, Any],
    plan: Plan,
    artifacts: Mapping[str, Artifact],
    *,
    defense_label: str,
    device: str,
    commit: str | None,
) -> Record:
    """The record of a run from the finished artifact of each stage, by the stage's name. ``device`` and
    ``commit`` are those of this process.
    """
    target, attack, metrics = (artifacts[name].metrics for name in ("target", "attack", "metrics"))
    record: Record = {
        "schema": SCHEMA,
        "key": plan.key,
        "setup": settings["setup"],
        "scale": settings["scale"],
        "seed": settings["seed"],
        "attack": settings["attack"]["name"],
        "target": settings["target"]["name"],
        "evaluator": settings["evaluator"]["name"],
        "defense": {"label": defense_label, "parts": settings["defense"]},
        "data": {"name": settings["data"]["name"], "resolution": settings["resolution"]},
        "metrics": {
            **{name: target[name] for name in ("acc", "train_acc") if name in target},
            "evaluator_acc": artifacts["evaluator"].metrics["acc"],
            **without(metrics, "missing", "per_identity", "counts"),
        },
        "per_identity": metrics["per_identity"],
        "missing": metrics.get("missing", {}),
        "counts": {
            name: count
            for stage in ("target", "prior", "attack", "metrics")
            for name, count in artifacts[stage].metrics["counts"].items()
        },
        "queries": attack["queries"],
        "queries_per_identity": attack["queries_per_identity"],
        "threat": attack["threat"],
        # an attack that was split took what its shards took
        "seconds": {
            name: round(artifact.seconds + artifact.metrics.get("shard_seconds", 0), 3)
            for name, artifact in artifacts.items()
        },
        # that of whoever made the stages, not of who found them all in the store
        "device": "; ".join(dict.fromkeys(str(a.manifest.get("device", device)) for a in artifacts.values())),
        "versions": versions(),
        "commit": commit,
        "code": {name: _code_entry(artifact) for name, artifact in artifacts.items()},
        "artifacts": {name: stage.key for name, stage in plan.stages.items()},
        "config": without(settings, "plan"),
    }
    own = Store(settings["paths"]["store"]).root
    if found_in := {name: str(a.store) for name, a in artifacts.items() if a.store != own}:
        record["found_in"] = found_in
    return record


def _code_entry(artifact: Artifact) -> CodeEntry:
    told = artifact.manifest  # of somebody else's store, perhaps
    commit, code, packages = (told.get(name) for name in ("commit", "code", "packages"))
    return {
        "commit": commit if isinstance(commit, str) else None,
        "code": code if isinstance(code, str) else None,
        "packages": packages if isinstance(packages, dict) else {},
    }


def update_record(path: Path, record: Record) -> None:
    """Write a record atomically, unless the one there already tells of the same artifacts.

    A record that came with a clone belongs to artifacts built elsewhere: times or numbers differ, and it is
    replaced. One of this very store keeps the commit of the run that made it. A damaged one is
    named by a warning and replaced.
    """
    results = ("metrics", "per_identity", "missing", "counts", "queries", "seconds", "artifacts", "code")
    old: Mapping[str, object] = {}
    if path.exists():
        try:
            old = read_record(path)
        except StoreError as error:
            _log.warning("record damaged, it is written anew: %s", str(error).partition(";")[0])
    new: Mapping[str, object] = record
    if any(old.get(name) != new[name] for name in results):
        file = checksum_path(path)
        remove_file(file)  # a record without one is believed, should this process die in between
        write_atomic(path, dump_json(record))
        write_atomic(file, _checksum_line(path))


# runs without a record


def diverged_path(results: Path | str, settings: Mapping[str, Any], plan: Plan) -> Path:
    """Where a run that diverged leaves its outcome, under the name that its record would have had."""
    record = record_path(results, settings, plan)
    return record.parent.parent / "diverged" / record.name


def write_diverged(
    path: Path, settings: Mapping[str, Any], plan: Plan, error: DivergedError, *, defense_label: str
) -> None:
    """The outcome of a run that diverged: what it was and what happened, and no number."""
    outcome = {
        "schema": SCHEMA,
        "outcome": "diverged",
        "key": plan.key,
        "setup": settings["setup"],
        "scale": settings["scale"],
        "seed": settings["seed"],
        "attack": settings["attack"]["name"],
        "target": settings["target"]["name"],
        "evaluator": settings["evaluator"]["name"],
        "defense": {"label": defense_label, "parts": settings["defense"]},
        "stage": error.stage,
        "stage_key": error.stage_key,
        "sentence": str(error),
        "commit": git_commit(),
        "config": without(settings, "plan"),
    }
    write_json(path, outcome)


def checksum_path(path: Path) -> Path:
    """Where the checksum of a record lies."""
    return path.parent.parent / "checksums" / f"{path.stem}.sha256"


def _checksum_line(path: Path) -> bytes:
    try:
        return f"{sha256(path)}  ../records/{path.name}\n".encode()
    except OSError as error:
        raise explain(error, path, "read") from error


# reading


def read_records(folder: Path | str) -> list[Record]:
    """All records of a results folder such as ``results/mini``, in the order of their names. Raises
    StoreError for a damaged one.
    """
    return [read_record(path) for path in record_files(folder)]


def read_record(path: Path) -> Record:
    """A run record with everything that tables and claims rely on. StoreError for a file that cannot be read,
    is none, or is damaged.
    """
    record = read_json(path)
    check_record(path)
    if not _is_record(record):
        raise StoreError(f"{path} is no run record; remove it, or restore it from version control")
    return cast(Record, record)


def check_record(path: Path) -> None:
    """Raises StoreError when a record is not byte for byte what was written; one without a checksum is
    believed.
    """
    file = checksum_path(path)
    while (known := _content(file)) is not None:
        if known == _checksum_line(path):
            return
        if _content(file) == known:  # else it was just written anew
            raise StoreError(
                f"{path} is damaged (it differs from {file.name}); run its command again to write it anew, "
                "or remove that file if you changed the record yourself"
            )


def record_files(folder: Path | str) -> list[Path]:
    """The record files of a results folder such as ``results/mini``, in the order of their names."""
    return sorted((Path(folder) / "records").glob("*.json"))


def _content(file: Path) -> bytes | None:
    """A checksum file; None if there is none."""
    try:
        return file.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError:
        return b""


#: What every record has, by the names on the way to it.
_FIELDS: dict[str, type] = {
    **dict.fromkeys(("scale", "attack", "target", "setup.id", "data.name", "defense.label"), str),
    **dict.fromkeys(("artifacts", "defense.parts", "config.data", "config.metrics"), dict),
    "seed": int,
    "config.metrics.image_to_evaluator": list,
}
_METRICS = {"acc", "att_acc1", "att_acc1_low", "att_acc1_high"}


def _is_record(value: object) -> bool:
    if not all(isinstance(_at(value, place), kind) for place, kind in _FIELDS.items()):
        return False
    metrics, counts, by_identity = (_at(value, name) for name in ("metrics", "counts", "per_identity"))
    tested, lists = _at(counts, "private_test"), {} if by_identity is None else by_identity
    return (
        _are_numbers(metrics)
        and metrics.keys() >= _METRICS
        and _are_numbers(counts)
        and isinstance(tested, int)
        and tested > 0
        and isinstance(lists, dict)
        and all(isinstance(row, list) and _are_numbers(dict(enumerate(row))) for row in lists.values())
        and all(isinstance(part, dict) for part in _at(value, "defense.parts").values())
    )


def _at(value: object, place: str) -> Any:
    for name in place.split("."):
        value = value.get(name) if isinstance(value, dict) else None
    return value


def _are_numbers(value: object) -> bool:
    """Whether a mapping has only finite numbers."""
    return isinstance(value, dict) and all(
        type(number) in (int, float) and abs(number) <= 1e300 for number in value.values()
    )


# as a table


def records(folder: Path | str) -> pd.DataFrame:
    """The records of a results folder such as ``results/mini``, one row per run, in the order of their names.

    Columns: ``setup``, ``attack``, ``defense`` (its label), ``target``, ``evaluator``, ``data``,
    ``resolution``, ``seed``, ``scale``; every metric by its name in the record, NaN where a run lacks it;
    ``n_<name>`` for every count; ``queries``; ``seconds_<stage>``; ``device``, ``commit``, ``key`` and
    ``path``, the file. Percent are 0 to 100. A damaged record is named by a warning and left out. Raises
    StoreError when the folder has no records.
    """
    import pandas as pd  # takes half a second, which only whoever wants a table waits for

    rows, files = [], record_files(folder)
    if not files:
        raise StoreError(f"{Path(folder) / 'records'} holds no records; give a folder such as results/mini")
    for path in files:
        try:
            rows.append(_row(read_record(path), path))
        except StoreError as error:
            _log.warning("left out: %s", error)
    return pd.DataFrame(rows)


def _row(record: Record, path: Path) -> dict[str, object]:
    return {
        "setup": record["setup"]["id"],
        "attack": record["attack"],
        "defense": record["defense"]["label"],
        "target": record["target"],
        "evaluator": record.get("evaluator"),
        "data": record["data"]["name"],
        "resolution": record["data"].get("resolution"),
        "seed": record["seed"],
        "scale": record["scale"],
        **record["metrics"],
        **{f"n_{name}": count for name, count in record["counts"].items()},
        "queries": record.get("queries"),
        **{f"seconds_{stage}": seconds for stage, seconds in record.get("seconds", {}).items()},
        **{name: record.get(name) for name in ("device", "commit", "key")},
        "path": str(path),
    }
