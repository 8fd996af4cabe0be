"""One choice of one config group as plain values, for notebooks and for ``build_attack`` and its like."""

from __future__ import annotations

from copy import deepcopy
from functools import lru_cache
from pathlib import Path
from typing import Any

from midre_exp.plan.compose import packaged_configs, settings_of
from midre_exp.plan.config import own_configs


def choice(group: str, name: str, *, scale: str = "paper", **others: str) -> dict[str, Any]:
    """The resolved node of ``group=name`` under a scale, e.g. ``choice("attack", "ppa", scale="mini")``.

    ``paper`` holds the published values, ``mini`` the reduced ones. ``others``: choices of other groups that
    the node takes values from, e.g. ``choice("defense", "tldmi", target="vgg16")``. Raises HydraException for
    an unknown choice.
    """
    job = (f"{group}={name}", f"scale={scale}", *(f"{key}={value}" for key, value in others.items()))
    node: dict[str, Any] = deepcopy(_settings(job, own_configs())[group])
    return node


@lru_cache(maxsize=64)
def _settings(job: tuple[str, ...], own: Path | None) -> dict[str, Any]:
    """The settings of a job; composing them takes a while, and notebooks ask for the same again."""
    with packaged_configs():
        return settings_of(job)
