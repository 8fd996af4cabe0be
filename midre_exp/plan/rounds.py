"""Attacks in rounds (PPDG-MI): between two rounds the prior is tuned on what the round before has found
(``attack.tuning``). The stages of round 2 of 3 are called ``attack.round2``, ``tuned_prior.round2``; those of
the last round have no such end. A run is made of the settings that each of its rounds has.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from midre_exp.plan.config import without


def rounds_of(attack: Mapping[str, Any]) -> int:
    """How many rounds a node of conf/attack has."""
    tuning = attack.get("tuning")
    return 1 if tuning is None else int(tuning["rounds"])


def at_round(settings: Mapping[str, Any], number: int) -> dict[str, Any]:
    """The settings of a run that ends with round ``number``; with the first, that of the base attack."""
    return {**settings, "attack": _ended(settings["attack"], number)}


def _ended(attack: Mapping[str, Any], number: int) -> dict[str, Any]:
    if attack.get("tuning") is None:
        return dict(attack)
    if number == 1:
        return {**without(attack, "tuning"), "name": attack["tuning"]["base"]}
    return {**attack, "tuning": {**attack["tuning"], "rounds": number}}


def base_of(attack: Mapping[str, Any]) -> dict[str, Any]:
    """The node of the attack that every round carries out."""
    return _ended(attack, 1)


def named(stage: str, number: int, rounds: int) -> str:
    """What a stage of round ``number`` is called in a plan."""
    return stage if number == rounds else f"{stage}.round{number}"


def round_in(stage: str) -> int | None:
    """The number of the round that the name of a stage ends with; None for one of the last."""
    number = stage.rpartition(".round")[2]
    return int(number) if ".round" in stage and number.isdigit() else None
