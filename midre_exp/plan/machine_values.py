"""Values of a config that the machine which composes it decides: ``numerics=auto``."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any

from omegaconf import OmegaConf

from midre_exp.machine.processor import fitting_numerics
from midre_exp.plan.config import config_files
from midre_exp.plan.overrides import quote


def fitting(device: str, key: str) -> bool | str:
    """A value of the numerics that fit this machine; ``why``: the reason for them."""
    choice = fitting_numerics(device)
    value: bool | str = (
        f"{choice.numerics}, because {choice.why}" if key == "why" else _values(choice.numerics)[key]
    )
    return value


@cache
def _values(choice: str) -> dict[str, Any]:
    files = config_files("numerics")
    base, own = (OmegaConf.load(files[name]) for name in ("strict", choice))
    return {str(key): value for key, value in OmegaConf.merge(base, own).items()}


def decided(settings: Mapping[str, Any]) -> list[str]:
    """What this machine decided of a resolved config, as overrides that have another machine decide alike."""
    node = settings["numerics"]
    if node["why"] is None:
        return []
    return [f"numerics.{key}={quote(value) if key == 'why' else value}" for key, value in node.items()]


def register() -> None:
    """Let configs use ``fitting`` as ``${fitting_numerics:DEVICE,KEY}``."""
    OmegaConf.register_new_resolver("fitting_numerics", fitting, replace=True)
