"""One choice of one config group as plain values, for notebooks and for ``build_attack`` and its like."""

from __future__ import annotations

from copy import deepcopy
from functools import lru_cache
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from midre_exp.plan.compose import packaged_configs, settings_of
from midre_exp.plan.config import config_files, own_configs


def choice(group: str, name: str, *, scale: str = "paper", **others: str) -> dict[str, Any]:
    """The resolved node of ``group=name`` under a scale, e.g. ``choice("attack", "ppa", scale="mini")``.

    ``paper`` holds the published values, ``mini`` the reduced ones. ``others``: choices of other groups that
    the node takes values from, e.g. ``choice("defense", "tldmi", target="vgg16")``. A nested group
    (``attack/prior``) is read within a choice of the group around it that is meant for ``name``, because
    scales have values for those. Raises HydraException for an unknown choice.
    """
    parent, _, part = group.rpartition("/")
    if parent and (around := _choice_with(parent, part, name)) is not None:
        others = {parent: around, **others}
    job = (f"{group}={name}", f"scale={scale}", *(f"{key}={value}" for key, value in others.items()))
    node = _settings(job, own_configs())
    for key in group.split("/"):
        node = node[key]
    return deepcopy(node)


def _choice_with(group: str, part: str, name: str) -> str | None:
    """The choice of ``group`` whose defaults have ``part: name``: the one of that name, else the first; None
    if there is none.
    """
    nodes = {found: OmegaConf.load(path) for found, path in config_files(group).items()}
    defaults = {found: OmegaConf.select(node, "defaults") or [] for found, node in nodes.items()}
    fitting = [found for found, parts in defaults.items() if {part: name} in parts]
    return name if name in fitting else next(iter(fitting), None)


@lru_cache(maxsize=64)
def _settings(job: tuple[str, ...], own: Path | None) -> dict[str, Any]:
    """The settings of a job; composing them takes a while, and notebooks ask for the same again."""
    with packaged_configs():
        return settings_of(job)
