"""What the cost of a stage depends on: of its settings those that change its work, and the sizes of its data.
No seed, no name.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from midre_exp.cost.sizes import Sizes
from midre_exp.plan.code import names_in, sources
from midre_exp.plan.config import Settings, digest, trusted_packages, without
from midre_exp.plan.deployment import trained_defense
from midre_exp.plan.keys import uses_target
from midre_exp.plan.rounds import base_of, rounds_of
from midre_exp.stages import STAGES
from midre_exp.stages.classifier import judges_phases
from midre_exp.stages.judging import judging

#: Raised by one when counting gives other numbers of the same programs.
_VERSION = 3
#: Numbers to which the time of a stage is proportional.
_LENGTHS = {
    "training": ("epochs", "steps"),
    "attack": ("steps", "episodes", "identities"),
    "deployment": (),
    "metrics": (),
    **dict.fromkeys(("verdicts", "diagnostics", "lira", "alignment", "trap"), ()),
    "jury": (),
}
#: The sizes that matter to a stage.
_SIZES = {
    **dict.fromkeys(
        ("pretraining", "evaluator_pretraining"),
        ("pretraining_train", "pretraining_test", "pretraining_classes"),
    ),
    **dict.fromkeys(("target", "evaluator", "features", "metrics"), ("train", "test", "classes")),
    "deployment": ("test", "classes"),
    "verdicts": ("classes",),
    "jury": (),
    **dict.fromkeys(("prior", "surrogates", "tuned_prior"), ("public", "classes")),
    **dict.fromkeys(("attack", "candidates"), ("classes",)),
    "verifier": ("verification_images", "verification_classes"),
    "open_set": ("test", "classes", "verification_classes"),
    "trait_reader": ("trait_images",),
    "traits": ("test", "classes"),
    "diagnostics": ("train", "test", "classes"),
    **dict.fromkeys(("lira", "trap"), ("train", "test", "classes")),
    "alignment": ("classes",),
    **dict.fromkeys(("extraction", "extraction_ceiling"), ("train", "test", "classes")),
}
#: What of the numerics changes how fast, with what runs had before there was a choice.
_PLAIN = {"precision": "float32", "channels_last": False, "compile": False}
#: What does not change how much there is to do.
_IDLE = (
    *("seed", "name", "floor", "checkpoint_entry", "checkpoint_prefix", "trained_with", "defense_defaults"),
    *("scheduler", "lr", "lr_epochs", "milestones", "gamma"),
    *("weights", "pretraining"),  # what a network starts from, and the recipe of another stage
)


def inputs_of(stage: str, settings: Settings) -> dict[str, Any]:
    """The settings behind the cost of a stage."""
    attack = settings["attack"]
    prior = attack["prior"]
    target = {"target": settings["target"], "defense": trained_defense(settings)}
    sizes = {"resolution": settings["resolution"], "image_size": prior.get("image_size")}
    judged = {"resolution": settings["evaluator"].get("resolution")}
    shown = {"attack": {name: attack.get(name) for name in ("identities", "restarts", "kept", "picture")}}
    asked = settings.get("diagnostics") or {}
    student = {"extraction": asked.get("extraction"), "evaluator": settings["evaluator"], **shown}
    found: dict[str, Any] = {
        "pretraining": {**_pretrained(settings["target"]), "resolution": settings["resolution"]},
        "evaluator_pretraining": {
            **_pretrained(settings["evaluator"]),
            "resolution": settings["evaluator"].get("resolution"),
        },
        "target": {**target, "resolution": settings["resolution"]},
        "deployment": {**target, "resolution": settings["resolution"]},
        "evaluator": {"evaluator": settings["evaluator"]},
        "prior": {
            "prior": prior,
            **({**target, **sizes} if uses_target(prior, trusted_packages(settings)) else {}),
        },
        "surrogates": {"surrogates": attack.get("surrogates"), **target, **sizes},
        "tuned_prior": {
            "tuning": without(attack.get("tuning") or {}, "rounds"),
            "prior": prior,
            **{name: attack.get(name) for name in ("identities", "restarts", "image_to_target")},
            **target,
            **sizes,
        },
        "attack": {
            "attack": without(base_of(attack), "shard"),
            **({"rounds": True} if rounds_of(attack) > 1 else {}),
            **target,
            "resolution": settings["resolution"],
            **({"evaluator": settings["evaluator"]} if judges_phases(settings) else {}),
        },
        "features": {
            "metrics": settings["metrics"]["measure"],
            "evaluator": settings["evaluator"],
            "identities": attack["identities"],
        },
        "candidates": {"search": attack.get("search"), "prior": prior, "resolution": settings["resolution"]},
        "metrics": {
            "metrics": settings["metrics"],
            "evaluator": settings["evaluator"],
            "attack": {name: attack.get(name) for name in ("identities", "restarts", "kept", "picture")},
            **({"prior": prior, "judged": attack["judged"]} if judging(settings).rendered else {}),
            "resolution": settings["resolution"],
        },
        "verifier": {"verifier": settings.get("open_set"), **judged},
        "open_set": {"verifier": settings.get("open_set"), **shown, **judged},
        "trait_reader": {"reader": settings.get("traits"), **judged},
        "traits": {"reader": settings.get("traits"), **shown, **judged},
        "lira": {"lira": asked.get("lira"), **target, "resolution": settings["resolution"]},
        "trap": {**target, **shown, "resolution": settings["resolution"]},
        "extraction": student,
        "extraction_ceiling": student,
        "diagnostics": {
            "measure": asked.get("measure"),
            **target,
            "resolution": settings["resolution"],
        },
        "alignment": {
            "alignment": asked.get("alignment"),
            "prior": prior,
            "image_to_target": attack.get("image_to_target"),
            **sizes,
        },
        "verdicts": {
            "image_to_evaluator": judging(settings).steps,
            "evaluator": settings["evaluator"],
            "attack": {name: attack.get(name) for name in ("identities", "restarts", "kept", "picture")},
            "prior": prior,
            "resolution": settings["resolution"],
        },
        "jury": {"judges": len(settings.get("jury") or ())},
    }[stage]
    stripped: dict[str, Any] = _stripped(found)
    node = settings.get("numerics") or {}  # which older records lack
    return {**stripped, "numerics": {name: node.get(name, plain) for name, plain in _PLAIN.items()}}


def _pretrained(node: Mapping[str, Any]) -> dict[str, Any]:
    """What of a classifier's node its pre-training is made by."""
    recipe = (node.get("pretraining") or {}).get("recipe")  # records of earlier versions have none
    return {"model": node.get("model"), "recipe": recipe}


def sizes_behind(stage: str, sizes: Sizes | None) -> dict[str, int]:
    """Those that matter to a stage."""
    found = {} if sizes is None else sizes.as_json()
    return {name: count for name, count in found.items() if name in _SIZES[stage]}


def count_key(stage: str, settings: Settings, sizes: Sizes) -> str:
    """The name under which a count is remembered: of what it depends on, the programs themselves included."""
    trusted = trusted_packages(settings)
    inputs = without(inputs_of(stage, settings), "numerics")  # counted in float32 whatever they are
    makers = next(one.makers for one in STAGES if one.name == stage)
    code = sources().code({*names_in([inputs], trusted), *makers}, trusted)
    chunk = settings["runtime"]["chunk"] if stage == "attack" else None
    return digest([_VERSION, stage, inputs, sizes_behind(stage, sizes), chunk, code])


def more_of_the_same(stage: str, one: Any, other: Any) -> float | None:
    """How many times as much ``one`` does as ``other``, both from ``inputs_of``, where they differ in the
    length of the same loop alone; None where they differ in anything else.
    """
    if isinstance(one, Mapping) and isinstance(other, Mapping) and one.keys() == other.keys():
        lengths = _LENGTHS.get(stage, _LENGTHS["training"])
        times = [
            one[key] / other[key]
            if key in lengths and _is_count(one[key]) and _is_count(other[key])
            else more_of_the_same(stage, one[key], other[key])
            for key in one
        ]
        return None if None in times else math.prod(factor for factor in times if factor is not None)
    return 1.0 if one == other else None


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and value > 0


def differ_in_numbers(one: Any, other: Any) -> bool:
    """Whether two configs name the same classes, files and choices, and differ in numbers at most: what the
    second says can then be counted where the first is the user's own.
    """
    if isinstance(one, Mapping) and isinstance(other, Mapping):
        return one.keys() == other.keys() and all(differ_in_numbers(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple) and isinstance(other, list | tuple):
        return len(one) == len(other) and all(map(differ_in_numbers, one, other))
    numbers = (int, float, type(None))
    return one == other or (isinstance(one, numbers) and isinstance(other, numbers))


def _stripped(node: Any) -> Any:
    if isinstance(node, Mapping):
        return {key: _stripped(value) for key, value in node.items() if key not in _IDLE}
    if isinstance(node, list | tuple):
        return [_stripped(one) for one in node]
    return node
