"""The trained target as the threat model of the run's attack shows it: for all stages that ask it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from midre_exp.stages.base import Job
from midre_exp.stages.classifier import Target
from midre_exp.store.artifact import Artifact

if TYPE_CHECKING:  # torch
    from midre_exp.threat import AnyVictim

#: The modules that show it, for the ``makers`` of those stages.
VICTIM = ("midre_exp.threat", "midre_exp.targets.assemble", "defenses.compose")


def load_victim(job: Job, target: Artifact) -> AnyVictim:
    """On the run's device, under its numerics."""
    from midre_exp.threat import Victim  # planning loads this module with the stages, and no torch

    model = Target().load(job.settings, target, job.parts.defense).to(job.runtime.device)
    job.numerics.accelerate(model)
    classes = int(target.metrics["counts"]["private_identities"])
    return Victim.of(model, classes, job.parts.attack.threat)
