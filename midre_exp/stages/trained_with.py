"""Which defense a given checkpoint was trained with: what the file or the user says, never a guess.

A run that loads its target trains nothing, so the chosen defense would be a mere label. Our own files say
what they are (metadata of the safetensors, a manifest beside them); of others the user does, by
``target.trained_with``.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from midre_exp.cards.named import with_files
from midre_exp.errors import ConfigError
from midre_exp.plan.config import Settings, trusted_packages
from midre_exp.plan.deployment import deployed_defense, trained_defense
from midre_exp.plan.digests import first_difference
from midre_exp.weights.formats import metadata

UNKNOWN = "unknown"
_NONE = "nodef"  # the choice of no defense


def check_trained_with(settings: Settings) -> None:
    """Raise ConfigError for a target's checkpoint that was trained with another defense than the chosen, and
    for a chosen defense that nobody says it was trained with; CheckpointError for a damaged file of a zoo.
    """
    node, chosen = with_files(settings)["target"], trained_defense(settings)
    path, stated = node["checkpoint"], _stated(settings)
    if path is None:
        if stated is not None:
            raise ConfigError(
                "target.trained_with is said of a file that is loaded (target.checkpoint), and none is; "
                "leave it out"
            )
        return
    from midre_exp.zoo.files import check_file  # planning loads this module, and no numpy

    check_file(Path(str(path)).expanduser())
    told = defense_of(Path(str(path)).expanduser())
    if told is not None:
        differs = _difference(told, chosen)
        if differs:
            choice, answering = ",".join(_names(told)) or _NONE, [*deployed_defense(settings)]
            raise ConfigError(
                f"target.checkpoint={path} was trained with {choice}, as it says itself, and this run has "
                f"another defense ({differs}); choose defense={_as_choice([*_names(told), *answering])}"
            )
        if stated not in (None, _names(told)):
            raise ConfigError(
                f"target.checkpoint={path} says that it was trained with {','.join(_names(told)) or _NONE}, "
                "and target.trained_with says otherwise; leave it out"
            )
        return
    if stated is None and _names(chosen):
        choice = _as_choice(_names(chosen))
        raise ConfigError(
            f"defense={choice} would only be a label of target.checkpoint={path}, which says nothing of its "
            f"training; add target.trained_with={choice} if it was trained so, or take defense={_NONE}"
        )
    if stated is not None and stated != _names(chosen) and (stated != UNKNOWN or _names(chosen)):
        choice = _as_choice(stated if isinstance(stated, list) else [])
        raise ConfigError(
            f"target.trained_with={node['trained_with']} is not defense={_as_choice(_names(chosen))}; take "
            f"defense={choice}"
        )


def defense_label(settings: Settings, label: str) -> str:
    """How tables call the defense of a run, ``label`` being that of the chosen one."""
    return "checkpoint (trained with unknown)" if is_unknown(settings) else label


def label_before_a_run(settings: Settings) -> str:
    """The same of a run that has left no record."""
    from midre_exp.defense import compose_defenses  # planning loads this module, and no torch

    return defense_label(settings, compose_defenses(settings["defense"], trusted_packages(settings)).label)


def is_unknown(settings: Settings) -> bool:
    """Whether the target is loaded and nobody says what it was trained with."""
    path = with_files(settings)["target"].get("checkpoint")
    if path is None or _names(trained_defense(settings)) or _stated(settings) not in (None, UNKNOWN):
        return False
    return defense_of(Path(str(path)).expanduser()) is None


def defense_of(path: Path) -> Mapping[str, Any] | None:
    """The ``defense`` node that one of our own files of weights was trained with; None of any other file."""
    try:
        said = metadata(path)
        if "midre_exp" in said:
            node = json.loads(said["midre_exp"]).get("defense")
        else:
            manifest = json.loads((path.parent / "manifest.json").read_bytes())
            named = path.name in manifest["files"] and manifest["stage"] == "target"
            node = manifest["config"]["defense"] if named else None
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None
    return node if isinstance(node, dict) else None


def _stated(settings: Settings) -> list[str] | str | None:
    """What the user says: names without that of no defense, ``unknown``, or None."""
    said = settings["target"].get("trained_with")
    if said is None or said == UNKNOWN:
        return None if said is None else UNKNOWN
    names = [said] if isinstance(said, str) else said
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise ConfigError(
            f"target.trained_with={said} cannot be used; give names of defenses, such as midre or "
            f"[midre,nls], or {UNKNOWN}"
        )
    return [name for name in names if name != _NONE]


def _names(defense: Mapping[str, Any]) -> list[str]:
    return [name for name in defense if name != _NONE]


def _as_choice(names: list[str]) -> str:
    return f"[{','.join(names)}]" if len(names) > 1 else (names or [_NONE])[0]


def _difference(told: Mapping[str, Any], chosen: Mapping[str, Any]) -> str | None:
    """Where two ``defense`` nodes differ; that of no defense is none."""
    if _names(told) != _names(chosen):
        return f"defense={_as_choice(_names(chosen))}"
    ours, theirs = ({k: v for k, v in node.items() if k != _NONE} for node in (chosen, told))
    return first_difference(theirs, ours, "defense")
