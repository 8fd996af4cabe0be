"""Builds what a run needs and the store lacks: whatever is ready and nobody else is building, first.

Within ``with Executor(...) as build:`` the stages of a run are only named, each with what it is made of. When
the block ends they are built, in any order that their dependencies allow: a stage that another process is
building is left for later while there is something else to do, and waited for when there is not.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any

from midre_exp.errors import DivergedError
from midre_exp.plan.config import Settings, without
from midre_exp.plan.keys import Plan, StageKey
from midre_exp.runtime import Runtime, make_runtime
from midre_exp.speed import Speed, make_speed
from midre_exp.stages import STAGES, Stage
from midre_exp.stages.base import Job
from midre_exp.stages.parts import Parts
from midre_exp.store.artifact import Artifact, Workspace
from midre_exp.store.files import write_atomic
from midre_exp.store.lock import LockedError
from midre_exp.store.store import Store
from midre_exp.tracking.provenance import device_name
from midre_exp.tracking.tracker import track
from midre_exp.weights.finite import require_finite_numbers


@dataclass(eq=False)
class Build:
    """A stage of a run and what it is made of. ``artifact``: None until it is built, and for ever where the
    run has no such stage.
    """

    stage: Stage
    inputs: tuple[Any, ...]
    artifact: Artifact | None = field(default=None)


class Executor:
    """Builds the stages of one run. Raises UserError on entry when a part of what is missing cannot work, and
    LockedError at the end where ``plan.wait`` is off and another process is building what is left.
    """

    def __init__(self, settings: Settings, plan: Plan, parts: Parts):
        self.settings, self.plan, self.parts = settings, plan, parts
        self.store = Store(settings["paths"]["store"])
        self.runtime: Runtime = make_runtime(settings["runtime"])
        self.speed: Speed = make_speed(settings["speed"], self.runtime.device)
        self._planned: dict[Build, StageKey] = {}

    @property
    def artifacts(self) -> dict[str, Artifact]:
        """What was built, by the name of the stage, in the order of a run."""
        built = {planned.name: build.artifact for build, planned in self._planned.items()}
        return {name: artifact for name in self.plan.stages if (artifact := built.get(name)) is not None}

    def __enter__(self) -> Executor:
        self.store.check()
        check_writable(self.settings["paths"])
        for stage in STAGES:
            planned = self.plan.of(stage.name)
            if planned is None:
                continue
            if not self.store.peek(planned.name, planned.key):
                stage.check(self.settings, self.parts)
            elif (artifact := self.store.find(planned.name, planned.key, reread=False)) is not None:
                stage.accept(self.settings, artifact)
        return self

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
        waiting = list(self._planned)
        while waiting:
            ready = [build for build in waiting if not any(b in waiting for b in self._upstream(build))]
            done = self._first_unlocked(ready) or self._build(ready[0], wait=self.settings["plan"]["wait"])
            waiting.remove(done)

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
        build.artifact = self.store.build(
            planned.name,
            planned.key,
            config=planned.config,
            upstream=planned.upstream,
            make=partial(self._make, build.stage, planned, inputs),
            device=device_name(self.runtime.device),
            wait=wait,
            wait_message=self.runtime.say,
        )
        self.runtime.say(build.stage.summary(build.artifact))
        for alarm in build.artifact.metrics.get("alarms", ()):
            self.runtime.say(f"ALARM: {alarm}")
        build.stage.accept(self.settings, build.artifact)
        return build

    def _make(self, stage: Stage, planned: StageKey, inputs: list[Any], work: Workspace) -> None:
        """Make a stage under a tracker of its own."""
        settings = self.settings
        self.runtime.say(f"{planned.name} {planned.key}: building")
        label = self.parts.defense.label
        with track(
            settings["tracking"] if stage.is_tracked else {"mode": "off"},
            stage=planned.name,
            group=settings["setup"]["id"],
            tags=(settings["attack"]["name"], label, settings["scale"]),
            config={
                **without(settings, "plan"),
                "stage": {"name": planned.name, "key": planned.key, "defense": label},
            },
            folder=Path(settings["paths"]["runs"]) / "wandb" / f"{planned.name}-{planned.key}",
        ) as tracker:
            runtime = replace(self.runtime, tracker=tracker)
            try:
                stage.make(Job(settings, self.parts, planned, self.store, work, runtime, self.speed), *inputs)
                require_finite_numbers(work.metrics, "what it reports", "look into its log")
            except DivergedError as error:
                error.stage, error.stage_key = planned.name, planned.key
                raise


def check_writable(paths: Mapping[str, str]) -> None:
    """Find out before hours of work whether failures and records can be written. Raises StoreError naming the
    folder.
    """
    for name in ("runs", "results"):
        probe = Path(paths[name]) / f".probe-{os.getpid()}"
        write_atomic(probe, "")
        probe.unlink()
