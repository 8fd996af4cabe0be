"""Keys that nothing reads, in the two places where a config may hold more than the engine asks for: at its
top and in ``data``, whose further values are there to be taken by others (``${data.seed}``).
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator, Mapping
from typing import Any

from omegaconf import DictConfig, OmegaConf

from midre_exp.errors import ConfigError
from midre_exp.plan.arguments import options_of
from midre_exp.plan.validate import Data, Run

_TAKEN = re.compile(r"\$\{(?:oc\.\w+:)?([\w.]+)")


def check_read(config: DictConfig) -> None:
    """Raise ConfigError for a key at the top or in ``data`` that neither the run nor another value takes."""
    values = OmegaConf.to_container(config, resolve=False)
    assert isinstance(values, dict)
    taken = {name for text in _texts(values) for name in _TAKEN.findall(text)}
    data = values.get("data")
    places = [("", values, Run)] + ([("data.", data, Data)] if isinstance(data, Mapping) else [])
    for place, node, kind in places:
        known, names = options_of(kind).named, [str(name) for name in node]
        for name in names:
            if name in known or name == "hydra" or any(_takes(used, place, name) for used in taken):
                continue
            others = [other for other in (*known, *names) if other != name]
            close = difflib.get_close_matches(name, others, n=1)
            hint = f"did you mean {place}{close[0]}? " if close else ""
            raise ConfigError(
                f"{place}{name} is read by nothing; {hint}leave it out, or keep notes and values of your own "
                "under setup"
            )


def _takes(used: str, place: str, name: str) -> bool:
    """Whether an interpolation takes a key or something below it, absolute or relative to its own place."""
    if used.startswith("."):
        return used.lstrip(".").split(".")[0] == name
    return f"{used}.".startswith(f"{place}{name}.")


def _texts(node: Any) -> Iterator[str]:
    if isinstance(node, str):
        if "${" in node:
            yield node
    elif isinstance(node, Mapping):
        for value in node.values():
            yield from _texts(value)
    elif isinstance(node, list):
        for value in node:
            yield from _texts(value)
