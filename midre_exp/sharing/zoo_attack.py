"""Attack a target of the zoo with the prior and the evaluator that lie beside it."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor, ones_like

from midre_exp.attack import build_attack
from midre_exp.attack_run import run_attack
from midre_exp.errors import CheckpointError, ConfigError
from midre_exp.metrics.accuracy import identity_interval, topk_hits
from midre_exp.plan.choice import choice
from midre_exp.plan.config import config_files
from midre_exp.runtime import Runtime
from midre_exp.targets.predict import predict
from midre_exp.threat import Victim
from midre_exp.zoo.card import PRIOR
from midre_exp.zoo.files import SUFFIX, Card, find, read_card
from midre_exp.zoo.load import load_prior, load_target


@dataclass(frozen=True)
class Attacked:
    """What an attack on a target of the zoo reached."""

    images: Tensor  #: uint8 [n, 3, h, w], the reconstructions that count
    labels: Tensor  #: int64 [n], of whom each is
    hits: Tensor  #: float64 [n], 1 where the evaluator recognises that identity
    seconds: float  #: of the attack and the evaluator, without loading
    queries: int  #: of the target

    @property
    def accuracy(self) -> float:
        """Attack accuracy in percent."""
        return 100 * float(self.hits.mean())

    def interval(self) -> tuple[float, float]:
        """Its 95 % interval over identities, in percent."""
        low, high = identity_interval(self.hits, self.labels)
        return 100 * low, 100 * high


def attack_target(
    name: str | Path,
    attack: str = "ppa",
    *,
    identities: int | None = None,
    scale: str = "evidence",
    seed: int = 0,
) -> Attacked:
    """Attack the first ``identities`` classes of a target (None: as many as the scale does) with a choice of
    conf/attack under a scale.

    ``name`` as of ``load_target``; prior and evaluator are those of its folder. Raises CheckpointError where
    there is none that fits, ConfigError for an attack or a number of identities that cannot be.
    """
    if attack not in config_files("attack"):
        known = ", ".join(config_files("attack"))
        raise ConfigError(f"attack {attack} is unknown; known attacks: {known}")
    place = find(name)
    target, card = load_target(place), read_card(place)
    node = choice("attack", attack, scale=scale)
    count = min(node["identities"], card["classes"]) if identities is None else identities
    if not 0 < count <= card["classes"]:
        raise ConfigError(f"{count} identities of a target of {card['classes']}; give 1 to that many")
    prior = load_prior(_prior_beside(place, node, attack))
    evaluator = load_target(_evaluator_beside(place, card))
    method = build_attack({**node, "identities": count})
    began = time.monotonic()
    victim = Victim.of(target, card["classes"], method.threat)
    found = run_attack(method, victim, prior, seed=seed)
    counted = found.details.get("selected", ones_like(found.labels)).bool()  # an attack may choose of its own
    images, labels = found.images[counted], found.labels[counted]
    hits = topk_hits(predict(evaluator, images, Runtime().device)[0], labels, 1)
    return Attacked(images, labels, hits, time.monotonic() - began, int(found.queries.sum()))


def _prior_beside(place: Path, node: Mapping[str, Any], attack: str) -> Path:
    """The file of the prior that an attack takes, in the folder of its target."""
    wanted = node.get("prior", {}).get("name")
    there = {card["prior"]["name"]: path for path, card in _beside(place) if card["stage"] == PRIOR}
    if wanted not in there:
        raise CheckpointError(
            f"{attack} takes a prior {wanted}, and {place.parent} holds {', '.join(there) or 'none'}; choose "
            f"another attack, or let a run make the prior: attack={attack} target.checkpoint={place}"
        )
    return there[wanted]


def _evaluator_beside(place: Path, card: Card) -> Path:
    """The file of the evaluator of the same classes and size of images."""
    alike = ("classes", "resolution", "data")
    for path, other in _beside(place):
        if other["stage"] == "evaluator" and all(other.get(key) == card.get(key) for key in alike):
            return path
    raise CheckpointError(
        f"{place.parent} holds no evaluator of the classes of {place.stem}; export it into the same folder"
    )


def _beside(place: Path) -> list[tuple[Path, Card]]:
    return [(path, read_card(path)) for path in sorted(place.parent.glob(f"*{SUFFIX}"))]
