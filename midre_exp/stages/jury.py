"""Several judges: each further one (``jury``) is trained as the evaluator is, on the same identities, and
looks at the reconstructions that are stored; then they are asked how far they agree.

The stages of a further judge are the evaluator's, carried out as if that judge were the evaluator of the run
(``seen_by``), and are called after both: ``evaluator.resnet18``.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple

from midre_exp.plan.config import Settings
from midre_exp.stages.base import Fingerprint, Job, Remember, Requirement, Stage
from midre_exp.stages.classifier import Evaluator
from midre_exp.stages.pretraining import EvaluatorPretraining
from midre_exp.stages.seen_by import seen_by
from midre_exp.stages.verdicts import FurtherVerdicts
from midre_exp.store.artifact import Artifact

if TYPE_CHECKING:  # torch
    from midre_exp.stages.parts import Parts

#: Stages that every judge has of its own; what others build on is shared by all.
_OWN = ("evaluator_pretraining", "evaluator", "verdicts")


class OfJudge(Stage):
    """A stage of the evaluator, for a further judge."""

    def __init__(self, stage: Stage, judge: str):
        self.stage, self.judge = stage, judge
        self.name = f"{stage.name}.{judge}"
        self.version, self.makers, self.highlights = stage.version, stage.makers, stage.highlights
        self.is_intermediate, self.is_tracked, self.in_run_key = (
            stage.is_intermediate,
            stage.is_tracked,
            False,
        )

    def sees(self, settings: Settings) -> Settings:
        return seen_by(settings, self.judge)

    def is_part_of(self, settings: Settings) -> bool:
        return settings["attack"]["shard"] is None and self.stage.is_part_of(seen_by(settings, self.judge))

    def inputs(self, settings: Settings, fingerprint: Fingerprint) -> dict[str, Any]:
        return self.stage.inputs(seen_by(settings, self.judge), fingerprint)

    def upstream(self, settings: Settings) -> tuple[str, ...]:
        names = self.stage.upstream(seen_by(settings, self.judge))
        return tuple(f"{name}.{self.judge}" if name in _OWN else name for name in names)

    def check(self, settings: Settings, parts: Parts) -> None:
        self.stage.check(seen_by(settings, self.judge), parts.jury[self.judge])

    def make(self, job: Job, *inputs: Any) -> None:
        settings, parts = seen_by(job.settings, self.judge), job.parts.jury[self.judge]
        self.stage.make(replace(job, settings=settings, parts=parts), *inputs)

    def accept(self, settings: Settings, artifact: Artifact) -> None:
        self.stage.accept(seen_by(settings, self.judge), artifact)

    def memory_remedy(self, settings: Settings) -> str:
        return self.stage.memory_remedy(seen_by(settings, self.judge))

    def describe(self, settings: Settings) -> str:
        return self.stage.describe(seen_by(settings, self.judge))

    def needs(self, settings: Settings, remember: Remember) -> Iterator[Requirement]:
        return self.stage.needs(seen_by(settings, self.judge), remember)


class OneJudge(NamedTuple):
    """The stages of a further judge."""

    pretraining: Stage
    evaluator: Stage
    verdicts: Stage


def further(judge: str) -> OneJudge:
    """The stages of a judge of the jury."""
    stages = EvaluatorPretraining(), Evaluator(), FurtherVerdicts()
    return OneJudge(*(OfJudge(stage, judge) for stage in stages))


class JuryStage(Stage):
    """How far all judges agree, and what all of them accept."""

    name = "jury"
    makers = ("midre_exp.metrics.jury",)
    is_tracked = False
    in_run_key = False

    def is_part_of(self, settings: Settings) -> bool:
        return bool(settings.get("jury")) and settings["attack"]["shard"] is None

    def inputs(self, settings: Settings, fingerprint: Fingerprint) -> dict[str, Any]:
        return {"judges": _named(settings)}

    def upstream(self, settings: Settings) -> tuple[str, ...]:
        return ("verdicts", *(further(judge).verdicts.name for judge in settings.get("jury") or ()))

    def check(self, settings: Settings, parts: Parts) -> None:
        """What can be wrong is told by the judges."""

    def make(self, job: Job, *verdicts: Artifact) -> None:
        from midre_exp.metrics.jury import jury_of  # planning loads this module, and no torch

        said = [one.tensors("verdicts") for one in verdicts]
        if not len(said[0]["hits"]):
            job.work.metrics["missing"] = "the attack selected no reconstruction"
            return
        hits = {name: each["hits"] for name, each in zip(_named(job.settings), said, strict=True)}
        job.work.metrics.update(jury_of(hits, said[0]["labels"]))

    def describe(self, settings: Settings) -> str:
        return f"{', '.join(_named(settings))} on {settings['attack']['name']}"


def _named(settings: Settings) -> list[str]:
    """All judges, the one that gives the published number first."""
    return [str(settings["evaluator"]["name"]), *(settings.get("jury") or ())]
