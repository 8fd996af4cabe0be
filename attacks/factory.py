"""Attacks by name, for notebooks: the options of a yaml of conf/attack as keywords."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from attacks.base import Attack
from midre_exp import attack as contract
from midre_exp.errors import ConfigError
from midre_exp.plan.choice import choice
from midre_exp.plan.config import without
from midre_exp.plan.suite import single_attacks
from midre_exp.threat import AnyVictim


def build_attack(name: str, *, scale: str = "paper", **options: object) -> Attack[AnyVictim]:
    """The attack of conf/attack/``name``.yaml under ``scale`` ("paper", "synth" or "mini").

    ``options`` are laid over the yaml: ``steps=10``, ``search={"size": 100}``; a mapping changes the keys it
    names, or replaces the whole node if it names another ``_target_``. Raises ConfigError for an unknown
    name, option or value.
    """
    known = single_attacks()
    if name not in known:
        raise ConfigError(f"attack {name} is unknown; known attacks: {', '.join(known)}")
    node = without(choice("attack", name, scale=scale), *contract.NOT_OPTIONS)
    return contract.build_attack(_laid_over(node, options, f"attack {name}"))


def _laid_over(node: Mapping[str, Any], options: Mapping[str, object], where: str) -> dict[str, Any]:
    """``node`` with some of its values replaced, nested mappings key by key."""
    known = sorted(key for key in node if not key.startswith("_"))
    for key in options:
        if key not in node:
            raise ConfigError(f"{where} has no option {key}; its options are {', '.join(known)}")
    return {**node, **{key: _replaced(node[key], value, f"{where}.{key}") for key, value in options.items()}}


def _replaced(old: object, new: object, where: str) -> object:
    if not isinstance(old, Mapping) or not isinstance(new, Mapping):
        return new
    if new.get("_target_", old.get("_target_")) != old.get("_target_"):
        return dict(new)
    return _laid_over(old, new, where)
