"""Records as a run leaves them, as far as tables and claims read them."""

from __future__ import annotations

from typing import Any

from midre_exp.plan.config import digest

PARTS: dict[str, dict[str, Any]] = {
    "nodef": {"_target_": "defenses.NoDef"},
    "midre": {"_target_": "defenses.MIDRE", "a_l": 0.1, "a_h": 0.4},
    "nls": {"_target_": "defenses.NLS", "alpha": -0.05},
    "bido": {"_target_": "defenses.BiDO", "measure": "hsic"},
    "tldmi": {"_target_": "defenses.TLDMI"},
    "cutmix": {"_target_": "defenses.CutMix"},
    "fe": {"_target_": "defenses.FixedErasing", "share": 0.4},
    "ee": {"_target_": "defenses.LeaveOut", "share": 0.4},
}


def parts(*names: str, **values: Any) -> dict[str, dict[str, Any]]:
    """The defense node of a config; ``values`` go into the first part."""
    found = {name: dict(PARTS[name]) for name in names or ("nodef",)}
    found[next(iter(found))].update(values)
    return found


def record(
    acc: float,
    att: float,
    *names: str,
    seed: int = 0,
    setup: str = "S19",
    attack: str = "plgmi",
    target: str = "vgg16",
    weights: str | None = "imagenet",
    width: float = 4.0,
    by_identity: list[float] | None = None,
    config: dict[str, Any] | None = None,
    **values: Any,
) -> dict[str, Any]:
    """One record; ``width`` is half of the interval of its attack accuracy."""
    defense = parts(*names, **values)
    found: dict[str, Any] = {
        "schema": 1,
        "key": digest([acc, att, names, seed, setup, attack, target, weights, width, values]),
        "setup": {"id": setup},
        "scale": "mini",
        "seed": seed,
        "attack": attack,
        "target": target,
        "evaluator": "facenet112",
        "defense": {
            "label": "+".join(names) + "".join(f" {value}" for value in values.values()),
            "parts": defense,
        },
        "data": {"name": "synthfaces", "resolution": 32},
        "metrics": {
            "acc": acc,
            "att_acc1": att,
            "att_acc1_low": att - width,
            "att_acc1_high": att + width,
            "evaluator_acc": 95.0,
        },
        "counts": {
            "private_test": 3000,
            "reconstructions": 1500,
            "private_identities": 1000,
            "private_train": 27018,
            "public": 30000,
            "identities": 300,
            "restarts": 5,
        },
        "artifacts": {"attack": "0" * 16, "metrics": "1" * 16},
        "commit": "abc",
        "device": "one CPU",
        "config": {
            "scale": "mini",
            "seed": seed,
            "setup": {"id": setup},
            "data": {"private": {"root": "somewhere"}, "name": "synthfaces"},
            "target": {"name": target, "weights": weights},
            "evaluator": {"name": "facenet112"},
            "attack": {"name": attack},
            "metrics": {"image_to_evaluator": []},
            "defense": defense,
            "paths": {"results": "results"},
            **(config or {}),
        },
    }
    if not names:
        found["defense"]["label"] = "NoDef"
    if by_identity is not None:
        found["per_identity"] = {"att_acc1": by_identity}
    return found
