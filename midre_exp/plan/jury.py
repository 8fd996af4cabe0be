"""The further judges of a run (``jury``): each is the evaluator that ``evaluator=NAME`` would give the same
run, with all that its setup, its scale and the command line say of evaluators.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from midre_exp.errors import ConfigError
from midre_exp.plan.config import Settings, config_files

#: Overrides of the evaluator that hold for every judge, by what their key begins with; all others describe
#: one network.
_SHARED = ("evaluator.recipe", "evaluator.pretraining", "evaluator.seed", "evaluator.floor")
#: Values of ``evaluator.weights`` that mean something to every network.
_STARTS = ("null", "public", "imagenet")


def with_judges(
    settings: Settings, job: Sequence[str], settings_of: Callable[[list[str]], Settings]
) -> dict[str, Any]:
    """The settings of a job with the node of each further judge in place of its name; as they are without
    ``jury``.

    ``job``: the overrides that they were composed of; ``settings_of`` composes others. The evaluator itself
    may be named as well and judges once. Raises ConfigError for what is no list of evaluators.
    """
    given = settings.get("jury")
    if given is None or isinstance(given, Mapping):  # of a record: composed before
        return dict(settings)
    known = config_files("evaluator")
    if not isinstance(given, Sequence) or isinstance(given, str):
        raise ConfigError(
            f"jury={given} is no list of evaluators; give one such as jury=[resnet18], of {', '.join(known)}"
        )
    if unknown := [name for name in given if name not in known]:
        raise ConfigError(f"jury: {unknown[0]} is no evaluator; there are {', '.join(known)}")
    if unusable := [name for name in given if not re.fullmatch(r"\w{1,63}", name, re.ASCII)]:
        raise ConfigError(
            f"jury: the evaluator {unusable[0]} cannot be a further judge under that name; let its yaml be "
            "called by letters, digits and _ alone"
        )
    shared = [text for text in job if _is_shared(text)]
    found = {name: settings_of([*shared, f"evaluator={name}"])["evaluator"] for name in given}
    own = settings["evaluator"]["name"]
    return {**settings, "jury": {name: node for name, node in found.items() if node["name"] != own} or None}


def _is_shared(override: str) -> bool:
    """Whether an override of a job holds for its further judges too."""
    key, _, value = override.lstrip("+~").partition("=")
    if key == "evaluator.weights":
        return value in _STARTS
    if key in ("jury", "evaluator"):
        return False
    return not key.startswith(("jury.", "evaluator.")) or f"{key}.".startswith(
        tuple(f"{name}." for name in _SHARED)
    )
