"""How reconstructions come before the evaluator (``metrics.pictures``): as the official program of an attack
hands them on, which the attack's yaml says (``attack.judged``), or as the 8-bit images that are kept.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from midre_exp.plan.config import Settings

#: Of an attack that says nothing.
_UNSAID: Mapping[str, Any] = {"pictures": "eight_bit", "image_to_evaluator": None}


class Judging(NamedTuple):
    """What the evaluator and the networks of metrics are shown of an attack."""

    floats: bool  # floats, not clamped; else the kept images of 8 bits
    steps: list[Mapping[str, Any]]  # nodes of what lies between a picture and the evaluator
    rendered: bool  # the floats are rendered again from latents; else the attack kept them


def judging(settings: Settings) -> Judging:
    """As the settings have it."""
    node, attack = settings["metrics"], settings["attack"]
    own = {**_UNSAID, **(attack.get("judged") or {})}
    if node.get("pictures", "eight_bit") == "eight_bit":
        return Judging(False, node["image_to_evaluator"], False)
    steps = node["image_to_evaluator"] if own["image_to_evaluator"] is None else own["image_to_evaluator"]
    floats = own["pictures"] == "floats"
    return Judging(floats, steps, floats and not attack.get("keep_floats"))
