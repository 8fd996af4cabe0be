"""Shadow models of a target, a stage each, and the membership inference that asks them (LiRA). Each is a
training under the target's own defense and recipe: eight take as long as eight targets.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from midre_exp.errors import ConfigError
from midre_exp.plan.config import Settings
from midre_exp.plan.deployment import trained_defense
from midre_exp.plan.vary import seed_of
from midre_exp.stages.base import Fingerprint, Job, Stage
from midre_exp.stages.classifier import Target
from midre_exp.stages.diagnostics import diagnosed_target, is_diagnosed
from midre_exp.store.artifact import Artifact

if TYPE_CHECKING:  # torch
    from midre_exp.data.base import Dataset
    from midre_exp.defense import Defense
    from midre_exp.stages.parts import Parts


class ShadowStage(Target):
    """Train one shadow: the target once more, on other images of the same people."""

    in_run_key = False
    is_tracked = False

    def __init__(self, number: int):
        self.number = number
        self.name = f"shadow.{number}"

    def is_part_of(self, settings: Settings) -> bool:
        return asks_shadows(settings)

    def inputs(self, settings: Settings, fingerprint: Fingerprint) -> dict[str, Any]:
        seed = settings["diagnostics"]["lira"]["seed"]
        return {**super().inputs(settings, fingerprint), "shadow": {"number": self.number, "seed": seed}}

    def check(self, settings: Settings, parts: Parts) -> None:
        """What can be wrong is told by the target, but that it was trained here."""
        if settings["target"]["checkpoint"] is not None:
            raise ConfigError(
                "diagnostics.lira trains shadows as the target was trained, which its checkpoint does not "
                "tell; use diagnostics.lira=null"
            )

    def make(self, job: Job, private: Dataset, defense: Defense, pretraining: Artifact | None = None) -> None:
        # planning loads this module, and no torch
        from midre_exp.defense import compose_defenses
        from midre_exp.diagnostics.shadows import ShadowImages
        from midre_exp.seeding import derive

        lira = job.settings["diagnostics"]["lira"]
        images = ShadowImages(private, self.number, int(lira["seed"]))
        seed = derive(seed_of(job.settings, "training"), "shadow", self.number)
        # of its own: some defenses remember the training that they were part of
        own = compose_defenses(trained_defense(job.settings), job.trusted)
        self._make(job, images, own, seed, pretraining, job.parts.others)

    def describe(self, settings: Settings) -> str:
        return f"shadow of {super().describe(settings)}"


class LiraStage(Stage):
    """Ask the target and its shadows which images they were trained on."""

    name = "lira"
    in_run_key = False
    is_tracked = False
    makers = ("midre_exp.diagnostics.shadows", "midre_exp.targets.assemble", "defenses.compose")
    highlights = {"summary": "{}"}

    def is_part_of(self, settings: Settings) -> bool:
        return asks_shadows(settings)

    def upstream(self, settings: Settings) -> tuple[str, ...]:
        return ("target", *(stage.name for stage in shadows_of(settings)))

    def inputs(self, settings: Settings, fingerprint: Fingerprint) -> dict[str, Any]:
        return {"data": fingerprint("private"), "lira": settings["diagnostics"]["lira"]}

    def check(self, settings: Settings, parts: Parts) -> None:
        """What can be wrong is told by the shadows."""

    def make(self, job: Job, private: Dataset, target: Artifact, *shadows: Artifact) -> None:
        # planning loads this module, and no torch
        from midre_exp.diagnostics.shadows import shadowed
        from midre_exp.metrics.base import Unavailable

        node = job.settings["diagnostics"]["lira"]
        try:
            told, numbers = shadowed(
                diagnosed_target(job, target),
                [diagnosed_target(job, shadow) for shadow in shadows],
                private,
                seed=int(node["seed"]),
                rates=node["rates"],
                device=job.runtime.device,
            )
        except Unavailable as reason:
            job.work.metrics.update(told={}, numbers={}, missing={"lira": str(reason)})
            return
        job.work.metrics.update(
            told={"lira": told},
            numbers=numbers,
            missing={},
            summary=f"LiRA AUC {told['online']['auc']['value']:.1f} %",
        )

    def memory_remedy(self, settings: Settings) -> str:
        return "end other programs there, or set runtime.device=cpu"

    def describe(self, settings: Settings) -> str:
        return f"LiRA on {Target().describe(settings)}"


def asks_shadows(settings: Settings) -> bool:
    """Whether a run asks shadows of its target."""
    return is_diagnosed(settings) and settings["diagnostics"].get("lira") is not None


def shadows_of(settings: Settings) -> tuple[ShadowStage, ...]:
    """The stages of the shadows that a run has."""
    if not asks_shadows(settings):
        return ()
    return tuple(ShadowStage(number) for number in range(settings["diagnostics"]["lira"]["shadows"]))
