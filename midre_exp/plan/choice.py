"""One choice of one config group as plain values, for notebooks and for ``build_attack``, ``build_defense`` and their like."""

from __future__ import annotations

from typing import Any

from midre_exp.plan.compose import packaged_configs, settings_of


def choice(group: str, name: str, *, scale: str = "paper") -> dict[str, Any]:
    """The resolved node of ``group=name`` under a scale, e.g. ``choice("attack", "ppa", scale="mini")``.

    ``paper`` holds the published values, ``mini`` the reduced ones. Raises HydraException for an unknown choice.
    """
    with packaged_configs():
        settings = settings_of([f"{group}={name}", f"scale={scale}"])
    node: dict[str, Any] = settings[group]
    return node
