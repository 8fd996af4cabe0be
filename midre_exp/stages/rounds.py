"""The stages of the rounds of an attack before its last: those of a run that ends with that round, and so the
first are the base attack's own, which its plain run shares.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple

from midre_exp.plan.config import Settings
from midre_exp.plan.keys import StageKey
from midre_exp.plan.rounds import at_round, named, rounds_of
from midre_exp.plan.shards import SHARD
from midre_exp.stages.attack import AttackStage
from midre_exp.stages.base import Fingerprint, Job, Remember, Requirement, Stage
from midre_exp.stages.metrics import MetricsStage
from midre_exp.stages.tuned_prior import TunedPriorStage
from midre_exp.store.artifact import Artifact

if TYPE_CHECKING:  # torch
    from midre_exp.stages.parts import Parts

#: Stages that every round has of its own; what others build on is shared by all.
_OWN = ("tuned_prior", "attack", "metrics")


class OfRound(Stage):
    """A stage of an earlier round."""

    def __init__(self, stage: Stage, number: int):
        self.stage, self.number = stage, number
        self.name = f"{stage.name}.round{number}"
        self.version, self.makers, self.highlights = stage.version, stage.makers, stage.highlights
        self.is_intermediate, self.is_tracked = stage.is_intermediate, stage.is_tracked
        self.changes_later, self.in_run_key = stage.changes_later, False

    def planned(self, settings: Settings, key: StageKey) -> StageKey:
        made = self.stage.planned(at_round(settings, self.number), key)
        return replace(made, name=f"{SHARD}.round{self.number}") if made.name == SHARD else made

    def sees(self, settings: Settings) -> Settings:
        return self.stage.sees(at_round(settings, self.number))

    def is_part_of(self, settings: Settings) -> bool:
        return self.stage.is_part_of(at_round(settings, self.number))

    def inputs(self, settings: Settings, fingerprint: Fingerprint) -> dict[str, Any]:
        return self.stage.inputs(at_round(settings, self.number), fingerprint)

    def upstream(self, settings: Settings) -> tuple[str, ...]:
        names = self.stage.upstream(at_round(settings, self.number))
        return tuple(f"{name}.round{self.number}" if name in _OWN else name for name in names)

    def check(self, settings: Settings, parts: Parts) -> None:
        self.stage.check(at_round(settings, self.number), parts)

    def make(self, job: Job, *inputs: Any) -> None:
        self.stage.make(replace(job, settings=at_round(job.settings, self.number)), *inputs)

    def accept(self, settings: Settings, artifact: Artifact) -> None:
        self.stage.accept(at_round(settings, self.number), artifact)

    def memory_remedy(self, settings: Settings) -> str:
        return self.stage.memory_remedy(at_round(settings, self.number))

    def describe(self, settings: Settings) -> str:
        return self.stage.describe(at_round(settings, self.number))

    def needs(self, settings: Settings, remember: Remember) -> Iterator[Requirement]:
        return self.stage.needs(at_round(settings, self.number), remember)


class Round(NamedTuple):
    """The stages of a round, and the tuning that follows it, which is the next round's."""

    attack: Stage
    metrics: Stage
    tuned_prior: Stage

    @property
    def before_the_next(self) -> tuple[Stage, ...]:
        """Those whose names end with a round's: the last tuning is called as that of any run."""
        return tuple(stage for stage in self if isinstance(stage, OfRound))


def earlier_rounds(settings: Settings) -> list[Round]:
    """All rounds before the last; none of an attack that is not in rounds."""
    count = rounds_of(settings["attack"])

    def at(stage: Stage, number: int) -> Stage:
        return stage if named(stage.name, number, count) == stage.name else OfRound(stage, number)

    return [
        Round(
            OfRound(AttackStage(), number),
            OfRound(MetricsStage(), number),
            at(TunedPriorStage(), number + 1),
        )
        for number in range(1, count)
    ]
