"""The trained target as the threat model of the run's attack shows it: for all stages that ask it."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import TYPE_CHECKING

from midre_exp.plan.deployment import deployed_defense, holds_network
from midre_exp.stages.base import Job
from midre_exp.stages.classifier import Target
from midre_exp.stages.deployment import DeploymentStage
from midre_exp.store.artifact import Artifact

if TYPE_CHECKING:  # torch
    from midre_exp.attack import Attack
    from midre_exp.defense import Defense, Informed
    from midre_exp.plan.config import Settings
    from midre_exp.stages.parts import Parts
    from midre_exp.targets.base import Classifier
    from midre_exp.threat import Answer, AnyVictim

#: The modules that show it, for the ``makers`` of those stages.
VICTIM = ("midre_exp.threat", "midre_exp.targets.assemble", "defenses.compose")


@dataclass(frozen=True)
class Victims:
    """A target as a run's attack meets it."""

    asked: AnyVictim  # whom it asks
    deployed: AnyVictim  # whose confidence is told: ``asked``, unless an informed attack asks in its own way
    network: AnyVictim | None  # the same target without what it answers at deployment; None: it has nothing


def load_victim(job: Job, target: Artifact, deployment: Artifact | None) -> AnyVictim:
    """On the run's device, under its numerics. ``deployment``: what it answers to whom the attack is, if not
    its probabilities.
    """
    return _shown(job, target, _network(job, target), _answer(job, target, deployment))


def load_victims(job: Job, target: Artifact, deployment: Artifact | None) -> Victims:
    """The target as the run's attack asks it and as it is deployed: one and the same, unless the attack is
    informed of a defense. Tells the attack what it knows.
    """
    model, attack = _network(job, target), job.parts.attack
    answer = _answer(job, target, deployment)
    # before it is accelerated: a copy of an accelerated network would still compute with the first one
    known, answering = known_defense(job.settings, job.parts), answering_parts(job.settings)
    own = informed_network(attack, known, model, answering)
    deployed = _shown(job, target, model, answer)
    asked = attack.asking(deployed if own is model else _shown(job, target, own, answer))
    return Victims(asked, deployed, None if answer is None else _network_alone(target, model))


def known_defense(settings: Settings, parts: Parts) -> Defense:
    """What of the defense an attacker meets who knows it: who holds the network, all but what is answered to
    others.
    """
    return parts.trained if holds_network(settings) else parts.defense


def answering_parts(settings: Settings) -> Collection[str] | None:
    """The parts of the defense behind the answers that the run's attack sees; None: it holds the network."""
    return None if holds_network(settings) else deployed_defense(settings)


def informed_network(
    attack: Attack[AnyVictim], defense: Defense, model: Classifier, answering: Collection[str] | None
) -> Classifier:
    """The network that an attack asks of a target: with ``informed`` as one who knows the defense does, which
    the attack is told. ``answering``: of one that sees answers alone, the parts of the defense behind them.
    """
    if not attack.informed:
        return model
    known = known_of(defense, model)
    if answering is not None:
        attack.inform(known.of_answers(answering))
        return model
    attack.inform(known)
    return known.network(model)


def known_of(defense: Defense, model: Classifier) -> Informed:
    """What an attacker knows of a defense, nothing where nobody has said."""
    from midre_exp.defense import Informed  # planning loads this module with the stages, and no torch

    return defense.informed(model) or Informed(silent=[type(defense).__name__])


def _network(job: Job, target: Artifact) -> Classifier:
    return Target().load(job.settings, target, job.parts.trained).to(job.runtime.device)


def _answer(job: Job, target: Artifact, deployment: Artifact | None) -> Answer | None:
    if deployment is None:
        return None
    return DeploymentStage().load(job.parts, target, deployment, job.runtime.device)


def _shown(job: Job, target: Artifact, model: Classifier, answer: Answer | None) -> AnyVictim:
    from midre_exp.threat import Victim  # as above

    job.numerics.accelerate(model)
    return Victim.of(model, _classes(target), job.parts.attack.threat, answer)


def _network_alone(target: Artifact, model: Classifier) -> AnyVictim:
    from midre_exp.threat import Victim  # as above

    return Victim.of(model, _classes(target))


def _classes(target: Artifact) -> int:
    return int(target.metrics["counts"]["private_identities"])
