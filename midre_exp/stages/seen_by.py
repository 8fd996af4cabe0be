"""The settings of a run as a further judge sees them, as if it were the evaluator."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from midre_exp.plan.config import Settings
from midre_exp.plan.rounds import at_round, round_in


def seen_by(settings: Settings, judge: str) -> dict[str, Any]:
    """The settings of a run as if a judge of its jury were the evaluator, and the only one. Pictures and
    private images come to it at its own size: the last step with a size is given that.
    """
    node = settings["jury"][judge]
    pixels = int(node["resolution"])
    data, shown, attack = settings["data"], settings["metrics"], settings["attack"]
    evaluation = data["evaluation"]
    if "size" in evaluation:
        evaluation = {**evaluation, "size": pixels}
    if judged := attack.get("judged"):
        own = _resized(judged["image_to_evaluator"], pixels) if judged.get("image_to_evaluator") else None
        attack = {**attack, "judged": {**judged, "image_to_evaluator": own}}
    return {
        **settings,
        "jury": None,
        "evaluator": node,
        "data": {**data, "evaluation": evaluation},
        "metrics": {**shown, "image_to_evaluator": _resized(shown["image_to_evaluator"], pixels)},
        "attack": attack,
    }


def _resized(steps: Sequence[Mapping[str, Any]], pixels: int) -> list[Mapping[str, Any]]:
    sized = [number for number, step in enumerate(steps) if "size" in step]
    return (
        [{**step, "size": pixels} if number == sized[-1] else step for number, step in enumerate(steps)]
        if sized
        else list(steps)
    )


def behind(stage: str, settings: Settings) -> tuple[str, Settings]:
    """Which stage a name of a plan or record stands for, and the settings by which it is made: of a further
    judge those that it sees, of an earlier round those of a run that ends with it; a shadow is a target.
    """
    kind, _, judge = stage.partition(".")
    if kind == "shadow":
        return "target", settings
    if (number := round_in(stage)) is not None and judge not in (settings.get("jury") or {}):
        return kind, at_round(settings, number)
    return (kind, seen_by(settings, judge)) if judge else (kind, settings)
