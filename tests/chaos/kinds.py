"""The kinds of file the damage campaign chooses from: where they lie, how they come to be, what must go on
when one is damaged.
"""

from __future__ import annotations

import random
import shutil
from pathlib import Path
from typing import Any
from unittest import mock

from midre_exp.data import block, cache
from midre_exp.weights import checkpoint
from tests.chaos import Violation, notes
from tests.chaos.damage import Case, Kind
from tests.chaos.ground import Ground, Said, Stopped
from tests.conftest import STAGES

_BUILT = (*STAGES, "surrogates", "shard")


def artifact(stage: str, *endings: str) -> Kind:
    """A published file of a stage."""

    def choose(ground: Ground, draw: random.Random) -> Case:
        found = [path for path in ground.store.glob(f"{stage}/*/*") if _ends(path, endings)]
        path = draw.choice(sorted(found))
        run = draw.choice(ground.runs_with(stage, path.parent.name)[:1])
        if stage == "images":
            run = _decoding(ground, path.parent.name)
        others = [other for other in found if other.name == path.name and other != path]
        return Case(
            path,
            lambda: _again(ground, run, stage),
            f"{stage}/{path.parent.name}",
            others,
            verified=True,
        )

    return choose


def _ends(path: Path, endings: tuple[str, ...]) -> bool:
    published = path.name.startswith("manifest.")
    return path.name.endswith(endings) and published == endings[0].startswith("manifest")


def _decoding(ground: Ground, key: str) -> str:
    """Which of the runs on pictures has decoded an artifact."""
    return next(run for run, keys in ground.images.items() if key in keys)


def _again(ground: Ground, run: str, stage: str) -> Said:
    """The same command; pictures and features are wanted only by what is still to be built, so that goes
    first.
    """
    if stage == "images":
        ground.forget(run, *STAGES)
    if stage == "features":
        ground.forget(run, "metrics")
    return ground.command(run)


def unfinished(stage: str, *, notes: bool = False) -> Kind:
    """A checkpoint (or what else lies about) of a stage that was interrupted."""

    def choose(ground: Ground, draw: random.Random) -> Case:
        # the merged attack takes all it needs from shards
        runs = {
            plan[stage].key: run
            for run, plan in ground.plans.items()
            if stage in plan.stages and (stage, run) != ("attack", "merged")
        }
        first, spare = min(runs.values()), ground.folder / "spare" / stage
        if len(runs) > 1 and not spare.exists():
            shutil.copytree(interrupted(ground, first, stage, 2), spare)
            ground.command(first)
        key = draw.choice(sorted(key for key, run in runs.items() if run != first or len(runs) == 1))
        saves = draw.randint(1, 5)
        work = interrupted(ground, runs[key], stage, saves)
        found = [path for path in sorted(work.rglob("*")) if path.is_file() and _is_checkpoint(path) != notes]
        path = draw.choice(found)
        others = [
            other
            for other in spare.rglob("*")
            if other.is_file() and _is_checkpoint(other) != notes and other.name == path.name
        ]
        others += [other for other in found if other != path]
        return Case(path, lambda: ground.command(runs[key]), path.name, others, silent=notes)

    return choose


def _is_checkpoint(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(16) == b"midre-checkpoint"


def interrupted(ground: Ground, run: str, stage: str, saves: int) -> Path:
    """The work folder of a stage that was interrupted after it had written a checkpoint so many times, or as
    often as it does.
    """
    key = ground.plans[run][stage].key
    work = ground.store / "work" / f"{stage}-{key}"
    save, left = checkpoint.save, [saves]

    def save_and_stop(path: Path, state: dict[str, Any]) -> None:
        save(path, state)
        if work in path.parents:
            left[0] -= 1
            if left[0] == 0:
                raise Stopped

    while True:
        ground.forget(run, stage)
        with mock.patch.object(checkpoint, "save", save_and_stop):
            said = ground.command(run)
        if said.code == 130:
            return work
        if said.code or saves == 1:
            raise Violation(f"{stage} was to be interrupted and ended with {said.code}: {said.text[-800:]}")
        saves = left[0] = max(1, saves - max(left[0], 1))


def decoding(ground: Ground, draw: random.Random) -> Case:
    """What an interrupted decoding of pictures has left."""
    key = draw.choice(sorted(key for keys in ground.images.values() for key in keys))
    run = _decoding(ground, key)
    write, work = block.write_json, ground.store / "work" / f"images-{key}"

    def write_and_stop(path: Path, value: Any) -> None:
        write(path, value)
        if path.parent == work:
            raise Stopped

    ground.forget(run, *STAGES)
    shutil.rmtree(ground.store / "images" / key)
    with mock.patch.object(cache, "_BLOCK", 4), mock.patch.object(block, "write_json", write_and_stop):
        said = ground.command(run)
    if said.code != 130:
        raise Violation(f"decoding was to be interrupted and ended with {said.code}: {said.text[-800:]}")
    path = draw.choice((work / "filled.json", work / "pixels.u8"))
    others = [
        other / path.name for other in (ground.store / "images").iterdir() if (other / path.name).exists()
    ]
    # a garbled note is no note, and rows that were not yet decoded are no loss: decoding goes over them
    # anyway
    return Case(path, lambda: ground.command(run), path.name, others, silent=True)


#: By name, every kind of file that this project writes and reads again.
KINDS: dict[str, Kind] = {
    **{f"artifact, {stage}: tensors": artifact(stage, ".safetensors") for stage in _BUILT},
    **{
        f"artifact, {stage}: manifest": artifact(stage, "manifest.json", ".sha256")
        for stage in (*_BUILT, "images")
    },
    **{f"artifact, {stage}: history": artifact(stage, ".json") for stage in ("target", "evaluator")},
    "artifact, images: pixels": artifact("images", "pixels.u8"),
    "artifact, images: list of files": artifact("images", "files.txt"),
    **{
        f"checkpoint, {stage}": unfinished(stage)
        for stage in ("target", "evaluator", "prior", "surrogates", "attack", "shard")
    },
    "unfinished work: times and logs": unfinished("target", notes=True),
    "unfinished work: decoded pictures": decoding,
    "record": notes.record,
    "record's checksum": notes.record_checksum,
    "stamp of a verified artifact": notes.stamp,
    "lock of a dead builder": notes.lock,
    "config snapshot": notes.snapshot,
    "failure report": notes.failure,
    "note of a push to W&B": notes.pushed,
    "key of a user study": notes.study_key,
    "result of a submitit job": notes.result,
}
