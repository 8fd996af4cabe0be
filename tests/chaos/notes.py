"""The kinds of file that lie beside the artifacts and are damaged too: records, notes, locks, and what
studies and clusters leave.
"""

from __future__ import annotations

import csv
import json
import os
import pickle
import random
import shutil
import subprocess
import sys
from contextlib import AbstractContextManager, ExitStack, nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

from hydra.core.utils import JobReturn, JobStatus

from midre_exp.records import checksum_path
from midre_exp.report.wandb.push import push_records
from midre_exp.store import lock as locks
from midre_exp.store import lockfile as lockfiles
from midre_exp.store.store import Store
from midre_exp.study import __main__ as study
from midre_exp.sweep.finished import failure_path, snapshot_path
from midre_exp.sweep.job import Outcome, report_failure
from midre_exp.tracking import record as tracked
from tests.chaos import Violation
from tests.chaos.damage import Case
from tests.chaos.ground import Ground, Said, call
from tests.conftest import STAGES


def record(ground: Ground, draw: random.Random) -> Case:
    """A record."""
    run = draw.choice(_recorded(ground))
    path = _record_of(ground, run)
    others = [other for other in path.parent.glob("*.json") if other != path]
    return Case(path, lambda: ground.command(run), path.name, others)


def record_checksum(ground: Ground, draw: random.Random) -> Case:
    """The checksum of a record."""
    case = record(ground, draw)
    path = checksum_path(case.path)
    case.named, case.others = case.path.name, [checksum_path(other) for other in case.others]
    if not path.exists():  # removed in an earlier round, which is harmless: let the record be written anew
        case.path.unlink()
        case.again()
    case.path = path
    return case


def _recorded(ground: Ground) -> list[str]:
    return [run for run, plan in ground.plans.items() if "shard" not in plan.stages]


def _record_of(ground: Ground, run: str) -> Path:
    (path,) = ground.folder.glob(f"results/*/records/*-{ground.plans[run].key}.json")
    return path


def stamp(ground: Ground, draw: random.Random) -> Case:
    """The note that an artifact was found intact, by the dates of its files."""
    run = draw.choice(_recorded(ground))
    stage = draw.choice(STAGES)
    path = ground.store / ".verified" / stage / f"{ground.plans[run][stage].key}.json"
    if not path.is_file():
        if path.is_dir():
            shutil.rmtree(path)
        old = path.parent.parent.parent / stage / path.stem
        while not path.exists():  # files changed less than two seconds ago are not noted
            Store(ground.store).peek(stage, old.name)
    others = [other for other in path.parent.glob("*.json") if other != path and other.is_file()]
    return Case(path, lambda: ground.command(run), path.name, others, silent=True)


def lock(ground: Ground, draw: random.Random) -> Case:
    """The lock of a builder that has died."""
    run, stage = draw.choice(_recorded(ground)), draw.choice(("attack", "metrics"))
    key = ground.plans[run][stage].key
    ground.forget(run, stage)
    path = ground.store / "locks" / f"{stage}-{key}.lock"
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(_of_the_dead(f"{stage} {key}"))
    spare = ground.folder / "spare" / "other.lock"
    spare.parent.mkdir(exist_ok=True)
    spare.write_bytes(_of_the_dead("another stage"))

    def again() -> Said:
        with _impatient():
            return ground.command(run)

    return Case(path, again, path.name, [spare], silent=True)


def _of_the_dead(what: str) -> bytes:
    with subprocess.Popen([sys.executable, "-c", ""]) as process:
        process.wait()
    return lockfiles.content("0" * 32, what).replace(b'"pid": %d' % os.getpid(), b'"pid": %d' % process.pid)


def _impatient() -> AbstractContextManager[Any]:
    """Wait a second for a sign of life instead of a minute."""
    patches = ExitStack()
    patches.enter_context(mock.patch.object(locks, "EMPTY_SECONDS", 0.2))
    kept = Store.__init__.__kwdefaults__
    patches.enter_context(mock.patch.dict(kept, {"beat_seconds": 0.1, "stale_seconds": 0.6}))
    return patches


def snapshot(ground: Ground, draw: random.Random) -> Case:
    """The config that a job of a sweep was launched with; it serves to name what changed since."""
    run = draw.choice(_recorded(ground))
    settings, key = ground.settings(run), ground.plans[run].key
    path = snapshot_path(settings, key)
    sweep_wrote(path, settings)
    others = []
    for other in _recorded(ground):
        if other != run:
            others.append(snapshot_path(settings, ground.plans[other].key))
            sweep_wrote(others[-1], ground.settings(other))

    def again() -> Said:
        changed = ground.command(run, f"plan.key='{key}'", "+target.recipe.more=1")
        last = changed.text.strip().splitlines()[-1]
        if changed.code != 2 or not last.startswith("midre_exp: ") or ";" not in last:
            raise Violation(f"a changed job was not refused in a sentence: {changed.text[-800:]}")
        return ground.command(run, f"plan.key='{key}'")

    return Case(path, again, path.name, others, silent=True)


def sweep_wrote(path: Path, settings: dict[str, Any]) -> None:
    """What a sweep keeps of a job."""
    if path.is_dir():
        shutil.rmtree(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(settings))


def failure(ground: Ground, draw: random.Random) -> Case:
    """The report of a failure, which goes when the run has succeeded."""
    run = draw.choice(_recorded(ground))
    settings = ground.settings(run)
    path = failure_path(settings, ground.plans[run].key)
    report_failure(path, settings, RuntimeError("once"), "Traceback")

    def check() -> None:
        ground.check()
        if path.exists():
            raise Violation(f"{path} is still there after a success")

    return Case(
        path, lambda: ground.command(run), path.name, [_record_of(ground, run)], silent=True, check=check
    )


def pushed(ground: Ground, draw: random.Random) -> Case:
    """The note that a record is in W&B."""
    run = draw.choice(_recorded(ground))
    path = ground.folder / "runs" / "wandb" / f"record-{ground.plans[run].key}" / "pushed.json"
    fake = SimpleNamespace(summary=SimpleNamespace(update=lambda _: None), log=lambda _: None)

    def again() -> Said:
        with (
            mock.patch.object(tracked, "wandb_run", lambda *_, **__: nullcontext(fake)),
            mock.patch.object(tracked, "_tables", lambda _: {}),
            mock.patch.object(tracked, "_pictures", lambda *_: {}),
        ):
            paths = [text for text in ground.overrides(run) if text.startswith("paths.")]
            said = call(lambda: push_records(["tracking.mode=offline", *paths]) and 0)
        if not path.is_file():
            raise Violation(f"{path} was not written")
        return said

    if not path.exists():
        again()
    others = [other for other in path.parent.parent.glob("*/pushed.json") if other != path]
    return Case(path, again, path.name, others, silent=True)


def study_key(ground: Ground, draw: random.Random) -> Case:
    """The key of a user study, without which answers mean nothing."""
    folder = ground.folder / "study"
    folder.mkdir(exist_ok=True)
    page, path, answers = folder / "study.html", folder / "study.key.json", folder / "answers.csv"
    records = [str(_record_of(ground, run)) for run in ("plain", "merged")]

    def make(seed: int, page: Path) -> None:
        said = call(lambda: study.main(["make", *records, "--out", str(page), "--seed", str(seed)]))
        if said.code:
            raise Violation(f"no study could be made: {said.text}")

    def score() -> Said:
        return call(lambda: study.main(["score", str(answers), "--key", str(path)]))

    make(0, page)
    make(1, folder / "other.html")
    key = json.loads(path.read_text())
    with answers.open("w", newline="") as file:
        rows = [[key["study"], "p", number, "left", 900] for number in range(1, len(key["questions"]) + 1)]
        csv.writer(file).writerows([["study", "participant", "question", "answer", "milliseconds"], *rows])
    expected = score()

    def again() -> Said:
        if not path.exists():  # the remedy: the same study is the same bytes
            make(0, page)
        said = score()
        if said.code == 0 and said.text != expected.text:
            raise Violation(f"another score: {said.text} instead of {expected.text}")
        return said

    return Case(path, again, path.name, [folder / "other.key.json"])


def result(ground: Ground, draw: random.Random) -> Case:
    """What a job of submitit leaves for the process that waits for it."""
    from midre_exp.sweep import endings

    folder = ground.folder / "submitit"
    folder.mkdir(exist_ok=True)
    path, other = folder / "1_0_result.pkl", folder / "1_1_result.pkl"
    for place, outcome in ((path, Outcome(record="r.json")), (other, Outcome(error=ValueError("x")))):
        done = JobReturn(status=JobStatus.COMPLETED, _return_value=outcome)
        place.write_bytes(pickle.dumps(("success", done)))
    job: Any = SimpleNamespace(
        job_id="1_0", paths=SimpleNamespace(result_pickle=path, stderr=folder / "1_0_log.err")
    )

    def again() -> Said:
        found = endings.collect(
            [job], lambda jobs: {"1_0": ("job 1_0 ended", "launch it again")}, poll_seconds=0
        )
        value = found[0]._return_value
        if isinstance(value, Outcome):
            return Said(0, "")
        if not isinstance(value, endings.ClusterError):
            raise Violation(f"a job's result was taken for {value!r}")
        return Said(0, str(value).replace("1_0:", f"1_0: {path.name}:"))

    # a pickle may hold the same in other bytes, and what is behind its end is not read
    return Case(path, again, path.name, [other], silent=True)
