"""What the rounds of an attack made (PPDG-MI), as a record tells it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from midre_exp.plan.config import Settings
from midre_exp.plan.rounds import base_of, rounds_of
from midre_exp.records.schema import RoundsEntry
from midre_exp.store.store import Artifact

_ACCURACIES = [f"att_acc{k}{end}" for k in (1, 5) for end in ("", "_low", "_high")]


def rounds_in(settings: Settings, artifacts: Mapping[str, Artifact]) -> RoundsEntry | None:
    """Of an attack in rounds: how priors were tuned, and what each round before the last had reached, by
    identity too, so that what a round gains can be told in pairs.
    """
    count = rounds_of(settings["attack"])
    if count == 1:
        return None
    earlier: list[dict[str, Any]] = []
    for number in range(1, count):
        attack, metrics = (artifacts[f"{stage}.round{number}"] for stage in ("attack", "metrics"))
        earlier.append(
            {
                "attack": attack.key,
                "queries": attack.metrics["queries"],
                "target_confidence": attack.metrics["target_confidence"],
                "metrics": {name: metrics.metrics[name] for name in _ACCURACIES if name in metrics.metrics},
                "per_identity": metrics.metrics["per_identity"],
            }
        )
    last = artifacts["attack"].metrics
    return {
        "base": str(base_of(settings["attack"])["name"]),
        "tuning": last["tuning"],
        "target_confidence": last["target_confidence"],
        "earlier": earlier,
    }


def numbers_of_rounds(block: RoundsEntry | None) -> dict[str, float]:
    """The attack accuracy of the first round beside that of the last, for tables: ``att_acc1_round1``."""
    if block is None or "att_acc1" not in block["earlier"][0]["metrics"]:
        return {}
    first = block["earlier"][0]["metrics"]
    return {f"att_acc1_round1{end}": first[f"att_acc1{end}"] for end in ("", "_low", "_high")}
