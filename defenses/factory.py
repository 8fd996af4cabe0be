"""Defenses by name, for notebooks: the options of a yaml of conf/defense as keywords."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from defenses.base import Defense
from defenses.composer import compose
from midre_exp.errors import ConfigError
from midre_exp.plan.choice import choice
from midre_exp.plan.config import build, config_files


def build_defense(
    names: str | Sequence[str], *, scale: str = "paper", target: str = "resnet18", **options: Any
) -> Defense:
    """The defense of ``conf/defense/<name>.yaml`` with its values for ``target``; several names compose in
    their order.

    ``options`` replace values of the yaml: ``build_defense("midre", a_h=0.8)``; of several, by name of the
    part: ``build_defense(["midre", "nls"], midre={"a_h": 0.8})``. Raises ConfigError for an unknown name or
    option, listing the known ones, and for defenses that contradict each other.
    """
    several = [names] if isinstance(names, str) else list(names)
    known = config_files("defense")
    if unknown := [name for name in several if name not in known]:
        raise ConfigError(f"defense {', '.join(unknown)} is unknown; known defenses: {', '.join(known)}")
    nodes: dict[str, dict[str, Any]] = choice("defense", f"[{','.join(several)}]", scale=scale, target=target)
    if isinstance(names, str):
        ((part, node),) = nodes.items()
        return build(_replaced(part, node, options), kind=Defense)
    if unknown := [name for name in options if name not in nodes]:
        raise ConfigError(
            f"{', '.join(unknown)} is none of the composed defenses {', '.join(nodes)}; give options as "
            f"NAME={{...}}"
        )
    return compose(
        **{
            part: build(_replaced(part, node, options.get(part, {})), kind=Defense)
            for part, node in nodes.items()
        }
    )


def _replaced(part: str, node: Mapping[str, Any], options: Mapping[str, Any]) -> dict[str, Any]:
    accepted = sorted(key for key in node if key != "_target_")
    if unknown := sorted(set(options) - set(accepted)):
        raise ConfigError(f"defense {part} has no option {', '.join(unknown)}; it has: {', '.join(accepted)}")
    return {**node, **options}
