"""Run records: one JSON file per finished run, the only source of tables, figures and claims.

``records("results/mini")`` is a whole folder of them as one tidy table. Beside the ``records`` folder,
``checksums`` holds a line of sha256sum for each record that was written here, so that a damaged number is not
taken for a result. A record without one (from another place, or older) is believed. What a record must hold
is told once, in ``schema``, for the writer and every reader. A record is data: nothing that it names is
ever imported or built. ``diverged`` holds, for each run whose training diverged, that it did.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, cast

from midre_exp.errors import DivergedError, StoreError
from midre_exp.plan.config import without
from midre_exp.plan.keys import Plan
from midre_exp.plan.publication import people_of
from midre_exp.plan.validate import is_line
from midre_exp.plan.vary import varied
from midre_exp.records import judges
from midre_exp.records.beside import judged_beside, numbers_beside
from midre_exp.records.claims import registered_claims
from midre_exp.records.comparable import JUDGES
from midre_exp.records.deployment import behind_answers, deployment_of
from midre_exp.records.origin import RESULTS
from midre_exp.records.protection import protection
from midre_exp.records.rounds import numbers_of_rounds, rounds_in
from midre_exp.records.schema import SCHEMA, CodeEntry, Record, at, problem_of
from midre_exp.records.starts import starts
from midre_exp.records.verdicts import carry_verdicts, said_same
from midre_exp.store.files import dump_json, explain, read_json, remove_file, sha256, write_atomic, write_json
from midre_exp.store.store import Artifact, Store, versions
from midre_exp.tracking.provenance import git_commit

if TYPE_CHECKING:  # a sweep reads records to see what is finished, and must not wait for pandas
    import pandas as pd

__all__ = [
    "Readable",
    "Record",
    "add_verdict",
    "check_record",
    "checksum_path",
    "diverged_path",
    "make_record",
    "problem_of",
    "put_record",
    "read_diverged",
    "read_record",
    "read_records",
    "record_files",
    "record_path",
    "records",
    "results_folder",
    "try_record",
    "update_record",
    "write_diverged",
]

_log = logging.getLogger(__name__)


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
    controls, jury = judges.controls_of(artifacts), judges.jury_of(settings, artifacts)
    rounds = rounds_in(settings, artifacts)
    record: Record = {
        "schema": SCHEMA,
        "key": plan.key,
        "setup": settings["setup"],
        "scale": settings["scale"],
        "seed": settings["seed"],
        "vary": [*varied(settings)],
        "attack": settings["attack"]["name"],
        "target": settings["target"]["name"],
        "evaluator": settings["evaluator"]["name"],
        "defense": {"label": defense_label, "parts": settings["defense"]},
        "data": {"name": settings["data"]["name"], "resolution": settings["resolution"]},
        "metrics": {
            **{name: target[name] for name in ("acc", "train_acc") if name in target},
            **behind_answers(artifacts),
            "evaluator_acc": artifacts["evaluator"].metrics["acc"],
            **best_epoch(artifacts["target"].json("history")),
            **without(metrics, "missing", "per_identity", "counts", "alarms", "judged"),
            **judges.numbers_of(controls, jury),
            **numbers_beside(artifacts),
            **numbers_of_rounds(rounds),
        },
        "per_identity": {
            **metrics["per_identity"],
            **judges.by_identity(jury),
            **(artifacts["open_set"].metrics["per_identity"] if "open_set" in artifacts else {}),
        },
        "controls": controls,
        "missing": metrics.get("missing", {}),
        "counts": {
            name: count
            for stage in ("target", "prior", "attack", "metrics")
            for name, count in artifacts[stage].metrics["counts"].items()
        },
        "start": starts(settings, artifacts),
        "queries": attack["queries"],
        "queries_per_identity": attack["queries_per_identity"],
        **({"queries_before": before} if (before := _queries_before(artifacts)) else {}),
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
        "numerics": {
            name: found
            for name, artifact in artifacts.items()
            if isinstance(
                found := artifact.manifest.get("numerics"), dict
            )  # perhaps of somebody else's store
        },
        "claims": registered_claims(str(settings["scale"])),
        "artifacts": {name: stage.key for name, stage in plan.stages.items()},
        "config": without(settings, "plan"),
    }
    if "informed" in attack:
        record["informed"] = attack["informed"]
    if (answers := deployment_of(artifacts, str(attack["threat"]))) is not None:
        record["deployment"] = answers
    if "defended" in target:
        record["defended"] = target["defended"]
    if protected := protection(target.get("defended", {}), record["per_identity"]):
        record["protected"] = protected
    if rounds is not None:
        record["rounds"] = rounds
    record.update(judged_beside(artifacts))
    # what older artifacts do not tell
    tested = artifacts.get("deployment", artifacts["target"]).metrics
    if "test_per_identity" in tested:
        record["test_per_identity"] = tested["test_per_identity"]
    names = artifacts["target"].json("classes")["names"] if _is_named(settings, artifacts["target"]) else []
    if names:
        record["classes"] = [_line(name) for name in names]
    if "judged" in metrics:
        record["judged"] = metrics["judged"]
    own = Store(settings["paths"]["store"]).root
    if found_in := {name: str(a.store) for name, a in artifacts.items() if a.store != own}:
        record["found_in"] = found_in
    if jury is not None:
        record["jury"] = jury
    alarms = {name: [*map(_line, one.metrics.get("alarms", ()))] for name, one in artifacts.items()}
    doubtful = judges.doubts({**record, "alarms": alarms})
    if any(alarms.values()) or doubtful:
        told = {name: [*sentences, *doubtful.get(name, ())] for name, sentences in alarms.items()}
        record["alarms"] = {name: sentences for name, sentences in told.items() if sentences}
    return record


def _is_named(settings: Mapping[str, Any], target: Artifact) -> bool:
    """Whether a target's classes have names that tell something: those of rendered people count them."""
    return people_of(settings) != "synthetic" and "classes.json" in target.manifest["files"]


def best_epoch(history: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """``accuracy_best_epoch_official``: the largest accuracy on the test images after any epoch, in percent,
    which is what KedMI, LOMMA, BiDO and TL-DMI print of a target, and the earliest such epoch from 0,
    ``best_epoch_official``. Nothing of ours is chosen by it. Nothing of a classifier that was loaded.
    """
    known = [(epoch["test_acc"], -epoch["epoch"]) for epoch in history if "test_acc" in epoch]
    if not known:
        return {}
    accuracy, epoch = max(known)
    return {"accuracy_best_epoch_official": accuracy, "best_epoch_official": -epoch}


def _queries_before(artifacts: Mapping[str, Artifact]) -> int:
    """How many images the target classified for what was prepared against it, as far as that was counted."""
    prepared = [artifacts[name] for name in ("prior", "surrogates") if name in artifacts]
    return sum(int(artifact.metrics.get("queries", 0)) for artifact in prepared)


def _line(sentence: object) -> str:
    """A sentence as a line of text, whatever stands in the names of files that it tells of."""
    return "".join(letter if letter.isprintable() else "?" for letter in str(sentence))


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
    replaced. One of this very store keeps the commit of the run that made it, and one that tells of further
    judges besides is kept. A damaged one is named by a
    warning and replaced. Raises StoreError for one that no reader would take.
    """
    if problem := problem_of(record):
        raise StoreError(
            f"the record of run {record.get('key')} is not written, for nobody could read it: {problem}; "
            "mend what makes it, the stages of the run are kept"
        )
    results = (*RESULTS, "seconds", "code")
    old: Mapping[str, object] = {}
    if path.exists():
        try:
            old = read_record(path)
        except StoreError as error:
            _log.warning("record damaged, it is written anew: %s", str(error).partition(";")[0])
    new: Mapping[str, object] = record
    if any(name in old and name not in new for name in JUDGES) and _says_all(old, new, results):
        return
    if any(old.get(name) != new.get(name) for name in results):
        _write(path, carry_verdicts(old, record, path))


def add_verdict(path: Path, name: str, block: Mapping[str, Any]) -> None:
    """Write what a judge outside of the run says of its reconstructions into its record, as the block
    ``name``, one of ``VERDICTS``. Raises StoreError when the record cannot be read.
    """
    record = {**read_record(path), name: block}
    if problem := problem_of(record):
        raise StoreError(f"the verdicts are not written into {path}: {problem}")
    _write(path, record)


def put_record(path: Path, record: Record) -> None:
    """Write a record of others as it is. Raises StoreError for one that no reader would take."""
    if problem := problem_of(record):
        raise StoreError(f"the record of run {record.get('key')} is not written into {path}: {problem}")
    _write(path, record)


def _write(path: Path, record: Mapping[str, Any]) -> None:
    file = checksum_path(path)
    remove_file(file)  # a record without one is believed, should this process die in between
    write_atomic(path, dump_json(record))
    write_atomic(file, _checksum_line(path))


def _says_all(old: Mapping[str, object], new: Mapping[str, object], names: Sequence[str]) -> bool:
    """Whether a record has all that another one says under ``names``, and perhaps more."""

    def holds(mine: object, theirs: object) -> bool:
        if isinstance(mine, Mapping) and isinstance(theirs, Mapping):
            return all(name in mine and mine[name] == value for name, value in theirs.items())
        return mine == theirs

    return all(holds(old.get(name), new[name]) for name in names if name in new)


# runs without a record


def diverged_path(record: Path) -> Path:
    """Where a run that diverged leaves its outcome, by the path that its record would have."""
    return record.parent.parent / "diverged" / record.name


def write_diverged(
    path: Path, settings: Mapping[str, Any], plan: Plan, error: DivergedError, *, defense_label: str
) -> None:
    """The outcome of a run that diverged: what it was and what happened, and no number."""
    outcome = {
        "schema": SCHEMA,
        "outcome": "diverged",
        **_identity(settings, plan, defense_label),
        "stage": error.stage,
        "stage_key": error.stage_key,
        "sentence": _line(error),
        "commit": git_commit(),
        "config": without(settings, "plan"),
    }
    write_json(path, outcome)


def _identity(settings: Mapping[str, Any], plan: Plan, defense_label: str) -> dict[str, Any]:
    """What a run is, whatever came of it."""
    return {
        "key": plan.key,
        "setup": settings["setup"],
        "scale": settings["scale"],
        "seed": settings["seed"],
        "attack": settings["attack"]["name"],
        "target": settings["target"]["name"],
        "evaluator": settings["evaluator"]["name"],
        "defense": {"label": defense_label, "parts": settings["defense"]},
    }


def read_diverged(path: Path) -> dict[str, Any] | None:
    """The outcome of a run that diverged, with its ``sentence`` and ``config``; None where there is none. A
    file that cannot be read is named by a warning and counts as none.
    """
    if not path.exists():
        return None
    try:
        outcome = read_json(path)
    except StoreError as error:
        _log.warning("passed over: %s", error)
        return None
    sentence, config = (at(outcome, name) for name in ("sentence", "config"))
    if at(outcome, "outcome") == "diverged" and is_line(sentence) and isinstance(config, dict):
        return cast("dict[str, Any]", outcome)
    _log.warning("passed over: %s does not tell of a run that diverged; remove it", path)
    return None


def checksum_path(path: Path) -> Path:
    """Where the checksum of a record lies."""
    return path.parent.parent / "checksums" / f"{path.stem}.sha256"


def _checksum_line(path: Path) -> bytes:
    try:
        return f"{sha256(path)}  ../records/{path.name}\n".encode()
    except OSError as error:
        raise explain(error, path, "read") from error


# reading


class Readable(NamedTuple):
    """The records of a folder, and how many files are none or are damaged."""

    records: list[Record]
    passed_over: int


def read_records(folder: Path | str) -> Readable:
    """All records of a results folder such as ``results/mini``, in the order of their names. A file that
    cannot be read is named by a warning and passed over.
    """
    files = record_files(folder)
    found = [record for record in map(try_record, files) if record is not None]
    return Readable(found, len(files) - len(found))


def try_record(path: Path) -> Record | None:
    """A run record, or None, with a warning, for a file that cannot be read."""
    try:
        return read_record(path)
    except StoreError as error:
        _log.warning("passed over: %s", error)
        return None


def read_record(path: Path) -> Record:
    """A run record with everything that tables and claims rely on. StoreError for a file that cannot be read,
    is none, or is damaged.
    """
    record = read_json(path)
    check_record(path)
    if problem := problem_of(record):
        raise StoreError(
            f"{path} is no run record; remove it, or restore it from version control ({problem})"
        )
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


# as a table


def records(folder: Path | str) -> pd.DataFrame:
    """The records of a results folder such as ``results/mini``, one row per run, in the order of their names.

    Columns: ``setup``, ``attack``, ``defense`` (its label), ``target``, ``evaluator``, ``data``,
    ``resolution``, ``seed``, ``scale``; every metric by its name in the record, NaN where a run lacks it;
    ``said_same_<judge>`` of people and multimodal models, where they were asked;
    ``n_<name>`` for every count; ``queries``; ``seconds_<stage>``; ``device``, ``commit``, ``key``,
    ``origin``, the bundle that it came by, if it did, and ``path``, the file. Percent are 0 to 100. A file
    that cannot be read is named by a warning and passed over. Raises StoreError when the folder has no
    records.
    """
    import pandas as pd  # takes half a second, which only whoever wants a table waits for

    files = record_files(folder)
    if not files:
        raise StoreError(f"{Path(folder) / 'records'} holds no records; give a folder such as results/mini")
    found = ((path, try_record(path)) for path in files)
    return pd.DataFrame([_row(record, path) for path, record in found if record is not None])


def _row(record: Record, path: Path) -> dict[str, object]:
    return {
        "setup": record["setup"]["id"],
        "attack": record["attack"],
        "defense": record["defense"]["label"],
        "target": record["target"],
        "evaluator": record["evaluator"],
        "data": record["data"]["name"],
        "resolution": record["data"]["resolution"],
        "seed": record["seed"],
        "scale": record["scale"],
        **record["metrics"],
        **said_same(record),
        **{f"n_{name}": count for name, count in record["counts"].items()},
        "queries": record.get("queries"),
        **{f"seconds_{stage}": seconds for stage, seconds in record.get("seconds", {}).items()},
        **{name: record.get(name) for name in ("device", "commit", "key")},
        "origin": record["origin"][-1]["bundle"] if record.get("origin") else None,
        "path": str(path),
    }
