"""The trained target as the threat model of the run's attack shows it: for all stages that ask it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from midre_exp.stages.base import Job
from midre_exp.stages.classifier import Target
from midre_exp.store.artifact import Artifact

if TYPE_CHECKING:  # torch
    from midre_exp.attack import Attack
    from midre_exp.defense import Defense, Informed
    from midre_exp.targets.base import Classifier
    from midre_exp.threat import AnyVictim

#: The modules that show it, for the ``makers`` of those stages.
VICTIM = ("midre_exp.threat", "midre_exp.targets.assemble", "defenses.compose")


def load_victim(job: Job, target: Artifact) -> AnyVictim:
    """On the run's device, under its numerics."""
    return _shown(job, target, _network(job, target))


def load_victims(job: Job, target: Artifact) -> tuple[AnyVictim, AnyVictim]:
    """The target as the run's attack asks it, and as it is deployed: one and the same, unless the attack is
    informed of a defense that has it ask a changed copy. Tells the attack what it knows.
    """
    model = _network(job, target)
    # before it is accelerated: a copy of an accelerated network would still compute with the first one
    asked = informed_network(job.parts.attack, job.parts.defense, model)
    deployed = _shown(job, target, model)
    return (deployed if asked is model else _shown(job, target, asked)), deployed


def informed_network(attack: Attack[AnyVictim], defense: Defense, model: Classifier) -> Classifier:
    """The network that an attack asks of a target: with ``informed`` as one who knows the defense does, which
    the attack is told.
    """
    if not attack.informed:
        return model
    known = known_of(defense, model)
    attack.inform(known)
    return known.network(model)


def known_of(defense: Defense, model: Classifier) -> Informed:
    """What an attacker knows of a defense, nothing where nobody has said."""
    from midre_exp.defense import Informed  # planning loads this module with the stages, and no torch

    return defense.informed(model) or Informed(silent=[type(defense).__name__])


def _network(job: Job, target: Artifact) -> Classifier:
    return Target().load(job.settings, target, job.parts.defense).to(job.runtime.device)


def _shown(job: Job, target: Artifact, model: Classifier) -> AnyVictim:
    from midre_exp.threat import Victim  # as above

    job.numerics.accelerate(model)
    classes = int(target.metrics["counts"]["private_identities"])
    return Victim.of(model, classes, job.parts.attack.threat)
