"""What the deployed target answers in place of its probabilities, as a record tells it."""

from __future__ import annotations

from collections.abc import Mapping

from midre_exp.records.schema import DeploymentEntry
from midre_exp.store.store import Artifact

_WHITE_BOX = "white_box"


def deployment_of(artifacts: Mapping[str, Artifact], threat: str) -> DeploymentEntry | None:
    """The block ``deployment`` of a run whose attack sees what ``threat`` says; None where the target answers
    its probabilities.
    """
    found = artifacts.get("deployment")
    if found is None:
        return None
    told, counts = found.metrics, found.metrics["counts"]
    return {
        "key": found.key,
        "parts": [str(name) for name in found.manifest["config"]["order"]],
        "bypassed": threat == _WHITE_BOX,
        "acc": told["acc"],
        "network_acc": told["network_acc"],
        "distortion": told["distortion"],
        "changed_labels": told["changed_labels"],
        "calibrated_on": counts["calibrated_on"],
        "answered": counts["answered"],
        "own": told["own"],
    }


def behind_answers(artifacts: Mapping[str, Artifact]) -> dict[str, float]:
    """``acc`` behind the answer, which is what an owner pays, and ``network_acc`` of the network alone, on
    all test images; nothing where the two are the same.
    """
    found = artifacts.get("deployment")
    if found is None:
        return {}
    return {"acc": found.metrics["acc"], "network_acc": artifacts["target"].metrics["acc"]}
