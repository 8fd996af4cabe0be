"""Builds what a run needs and the store lacks: whatever is ready and nobody else is building, first.

Within ``with Executor(...) as build:`` the stages of a run are only named, each with what it is made of. When
the block ends they are built, in any order that their dependencies allow: a stage that another process is
building is left for later while there is something else to do, and waited for when there is not.
"""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any

from midre_exp.errors import DivergedError, OutOfMemory, UserError, is_out_of_memory
from midre_exp.memory.batches import reason
from midre_exp.numerics import explained, make_numerics
from midre_exp.plan.code import sources_once
from midre_exp.plan.config import Settings, without
from midre_exp.plan.imported import check_imported, take_snapshot
from midre_exp.plan.keys import Plan, StageKey
from midre_exp.plan.publication import may_show
from midre_exp.plan.scale import full_size_parts
from midre_exp.plan.shards import SHARD
from midre_exp.runtime import Runtime, give_memory_back, make_runtime
from midre_exp.stages import Stage, stages_of, stale
from midre_exp.stages.base import Job
from midre_exp.stages.parts import Parts
from midre_exp.store import progress, shipped
from midre_exp.store.artifact import Artifact, Workspace
from midre_exp.store.files import write_atomic
from midre_exp.store.lock import LockedError
from midre_exp.store.names import stored_as
from midre_exp.store.store import Store
from midre_exp.tracking.provenance import device_name, git_commit, numerics, own_packages, versions
from midre_exp.tracking.tracker import track
from midre_exp.weights.finite import require_finite_numbers
from midre_exp.weights.published import weights_used


@dataclass(eq=False)
class Build:
    """A stage of a run and what it is made of. ``artifact``: None until it is built, and for ever where the
    run has no such stage.
    """

    stage: Stage
    inputs: tuple[Any, ...]
    artifact: Artifact | None = field(default=None)


class Executor:
    """Builds the stages of one run. Raises UserError on entry when a part of what is missing cannot work or
    what is there must not be used, and LockedError at the end where ``plan.wait`` is off and another process
    is building what is left.

    All that is told of the code is that of its first moment; modules which are imported later must still be
    the same.
    """

    def __init__(self, settings: Settings, plan: Plan, parts: Parts):
        self.settings, self.plan, self.parts = settings, plan, parts
        self.store = Store(settings["paths"]["store"])
        self.runtime: Runtime = make_runtime(settings["runtime"], make_numerics(settings["numerics"]))
        self._planned: dict[Build, StageKey] = {}
        self.commit = git_commit()
        self._snapshot = take_snapshot(plan.stages.values())
        check_imported(self._snapshot, at_start=True)
        with sources_once(), self.runtime.numerics.applied(self.runtime.device):
            self._made_with = {name: self._provenance(planned) for name, planned in plan.stages.items()}
        self._policy = stale.policy(settings)
        self._rebuild = stale.to_rebuild(settings, plan)
        self._anew: set[str] = set()  # what is to be made although the store has it
        self._request = settings["plan"].get("rebuild") or uuid.uuid4().hex

    def _provenance(self, planned: StageKey) -> dict[str, Any]:
        """What the manifest tells of how a stage is made here."""
        device = self.runtime.device
        return {
            "code": planned.code,
            "commit": self.commit,
            "packages": own_packages(planned.names, planned.trusted),
            "versions": versions(),
            "device": device_name(device),
            "numerics": numerics(device, self.runtime.devices),
        }

    @property
    def artifacts(self) -> dict[str, Artifact]:
        """What was built, by the name of the stage, in the order of a run."""
        built = {planned.name: build.artifact for build, planned in self._planned.items()}
        return {name: artifact for name in self.plan.stages if (artifact := built.get(name)) is not None}

    def __enter__(self) -> Executor:
        for part in full_size_parts(self.settings):
            self.runtime.say(part)
        if self.settings["numerics"]["why"]:
            self.runtime.say(explained(self.settings["numerics"]))
        self.store.check()
        check_writable(self.settings["paths"])
        self._take_shipped()
        found = stale.stale_stages(self.store, self.plan, self.commit)
        kept = [name for name in found if name not in self._rebuild]
        if kept and self._policy == "refuse":
            raise stale.refuse(self.plan[kept[0]], found[kept[0]])
        self._anew.update(self._rebuild, found if self._policy == "rebuild" else ())
        for stage in stages_of(self.settings):
            planned = self.plan.of(stage.name)
            if planned is None:
                continue
            if not self._is_there(planned):
                stage.check(self.settings, self.parts)
            elif (artifact := self.store.find(planned.name, planned.key, reread=False)) is not None:
                stage.accept(self.settings, artifact)
        return self

    def _take_shipped(self) -> None:
        """Take over what comes with the package, and say so in a line."""
        wanted = [(one.name, one.key) for one in self.plan.stages.values() if one.name not in self._rebuild]
        if taken := shipped.take(self.store, wanted):
            names = ", ".join(f"{one.stage} {one.key}" for one in taken)
            self.runtime.say(f"came with midre-exp, verified: {names}")

    def __call__(self, stage: Stage, *inputs: Any) -> Build:
        """Name a stage: its ``inputs`` are parts of the run and stages named before."""
        build = Build(stage, inputs)
        planned = self.plan.of(stage.name)
        if planned is not None:
            self._planned[build] = planned
        return build

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            self._build_everything()

    def _build_everything(self) -> None:
        waiting = [
            build
            for build, planned in self._planned.items()
            if self.plan.is_needed(planned.name, self._is_there)
        ]
        while waiting:
            ready = [build for build in waiting if not any(b in waiting for b in self._upstream(build))]
            done = self._first_unlocked(ready) or self._build(ready[0], wait=self.settings["plan"]["wait"])
            waiting.remove(done)

    def _is_there(self, planned: StageKey) -> bool:
        """Whether the store has it and it is not to be made anew."""
        return planned.name not in self._anew and self.store.peek(planned.name, planned.key)

    def _first_unlocked(self, builds: list[Build]) -> Build | None:
        """Builds the first that no other process is building; None when there is none."""
        for build in builds:
            try:
                return self._build(build, wait=False)
            except LockedError:
                continue
        return None

    def _upstream(self, build: Build) -> list[Build]:
        """The stages it builds on, as planned: a prior may or may not look at the target."""
        names = self._planned[build].upstream
        return [part for part in build.inputs if isinstance(part, Build) and part.stage.name in names]

    def _build(self, build: Build, *, wait: bool) -> Build:
        """From the store, or made now; says so in a line."""
        planned, upstream = self._planned[build], self._upstream(build)
        inputs = [
            (part.artifact if part in upstream else None) if isinstance(part, Build) else part
            for part in build.inputs
        ]
        below = [part.artifact for part in upstream if part.artifact is not None]
        made_with = {**self._made_with[planned.name], "rests_on": stale.rests_on(below)}
        if planned.name in self._rebuild:
            made_with["rebuild"] = self._request
        for name, key in self._stored(planned):
            self._set_aside(name, key, made_with, below)
        made: list[str] = []
        build.artifact = self.store.build(
            planned.name,
            planned.key,
            config=planned.config,
            upstream=planned.upstream,
            make=partial(self._make, build.stage, planned, inputs, made),
            made_with=made_with,
            continues=partial(self._continues, planned, made_with),
            wait=wait,
            wait_message=self.runtime.say,
            reread=not planned.is_intermediate,  # they may take many gigabytes
        )
        if made:
            give_memory_back(self.runtime.device)  # the next stage plans with what is free
        else:
            self._tell_origin(planned, build.artifact, below)
        self.runtime.say(build.stage.summary(build.artifact))
        for alarm in build.artifact.metrics.get("alarms", ()):
            self.runtime.say(f"ALARM: {alarm}")
        build.stage.accept(self.settings, build.artifact)
        return build

    def _stored(self, planned: StageKey) -> list[tuple[str, str]]:
        """What the store may have of a stage: itself and, of an attack that is not there, its shards."""
        found = [(planned.name, planned.key)]
        if stored_as(planned.name) == "attack" and (
            planned.name in self._rebuild or not self.store.peek(planned.name, planned.key)
        ):
            for root in (self.store.root, *self.store.upstream):
                found += [(SHARD, path.name) for path in root.glob(f"{SHARD}/{planned.key}-*of*")]
        return found

    def _set_aside(self, name: str, key: str, made_with: dict[str, Any], below: list[Artifact]) -> None:
        """Set aside what is in the store where it is to be made anew; refuse or tell of shards of other code,
        which are merged without another word.
        """
        while (manifest := self.store.manifest(name, key)) is not None:  # of one store, then of the next
            if "rebuild" in made_with:
                asked = "as asked for (runtime.rebuild)"
                reason = None if manifest.get("rebuild") == self._request else f"to be made anew {asked}"
            else:
                reason = self._reason(made_with, manifest, below)
            if reason is None:
                return
            if "rebuild" in made_with or self._policy == "rebuild":
                if self.store.replace(name, key, manifest):
                    self.runtime.say(f"{name} {key}: set aside, {reason}")
                continue
            if name == SHARD and self._policy == "refuse":
                raise stale.refuse(StageKey(name, key, {}, {}), reason)
            if name == SHARD:
                self.runtime.say(f"{name} {key}: from the store, {reason}")
            return

    def _tell_origin(self, planned: StageKey, artifact: Artifact, below: list[Artifact]) -> None:
        """A line on what was found in the store and is not of this code, or a refusal."""
        reason = self._reason(self._made_with[planned.name], artifact.manifest, below)
        if reason is not None and self._policy == "refuse":
            raise stale.refuse(planned, reason)
        if reason is not None:
            self.runtime.say(f"{planned.name} {planned.key}: from the store, {reason}")

    def _reason(
        self, made_with: Mapping[str, Any], manifest: Mapping[str, Any], below: list[Artifact]
    ) -> str | None:
        upstream = {artifact.stage: artifact.manifest for artifact in below}
        return stale.other_code(made_with["code"], manifest, self.commit) or stale.other_upstream(
            manifest, upstream
        )

    def _continues(
        self, planned: StageKey, made_with: Mapping[str, Any], earlier: Mapping[str, Any] | None
    ) -> bool:
        """Whether an interrupted attempt in the work folder goes on: only with the code it began with."""
        reason = stale.not_continued(made_with, earlier, self.commit)
        if reason is None:
            return True
        if self._policy == "refuse":
            raise stale.refuse_attempt(planned, reason)
        self.runtime.say(f"{planned.name} {planned.key}: an unfinished attempt was {reason}; starting anew")
        return False

    def _make(
        self,
        stage: Stage,
        planned: StageKey,
        inputs: list[Any],
        made: list[str],
        work: Workspace,
    ) -> None:
        """Make a stage under a tracker of its own."""
        settings, name = self.settings, f"{planned.name} {planned.key}"
        made.append(planned.key)
        self.runtime.say(f"{planned.name} {planned.key}: building")
        label = self.parts.defense.label
        with (
            track(
                settings["tracking"] if stage.is_tracked else {"mode": "off"},
                stage=planned.name,
                group=settings["setup"]["id"],
                tags=(settings["attack"]["name"], label, settings["scale"]),
                config={
                    **without(settings, "plan"),
                    "stage": {"name": planned.name, "key": planned.key, "defense": label},
                },
                folder=Path(settings["paths"]["runs"]) / "wandb" / f"{planned.name}-{planned.key}",
                pictures=may_show(settings),
            ) as tracker,
            progress.stage(name),
        ):
            runtime = replace(self.runtime, tracker=tracker)
            try:
                with (
                    weights_used() as weights,
                    self._memory_told(stage, planned),
                    runtime.numerics.applied(runtime.device),
                ):
                    job = Job(settings, self.parts, planned, self.store, work, runtime)
                    stage.make(job, *inputs)
                require_finite_numbers(work.metrics, "what it reports", "look into its log")
            except DivergedError as error:
                error.stage, error.stage_key = planned.name, planned.key
                raise
        check_imported(self._snapshot, at_start=False)
        work.weights = weights

    @contextmanager
    def _memory_told(self, stage: Stage, planned: StageKey) -> Iterator[None]:
        """Raise OutOfMemory with what a stage can do about it in place of whatever says so within."""
        try:
            yield
        except Exception as error:
            is_told = isinstance(error, UserError) and not isinstance(error, OutOfMemory)
            if is_told or not is_out_of_memory(error):
                raise
            if isinstance(error, OutOfMemory):  # of what could be done in smaller parts, and was
                raise OutOfMemory(
                    f"{planned.name} {planned.key}: {error}; what is finished is kept"
                ) from error
            raise OutOfMemory(
                f"{planned.name} {planned.key}: not enough memory on {device_name(self.runtime.device)} "
                f"({reason(error)}); {stage.memory_remedy(self.settings)}; what is finished is kept"
            ) from error


def check_writable(paths: Mapping[str, str]) -> None:
    """Find out before hours of work whether failures and records can be written. Raises StoreError naming the
    folder.
    """
    for name in ("runs", "results"):
        probe = Path(paths[name]) / f".probe-{os.getpid()}"
        write_atomic(probe, "")
        probe.unlink()
