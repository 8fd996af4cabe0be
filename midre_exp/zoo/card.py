"""What a file of the zoo says of itself: read from the manifest of its artifact and from records alone."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from midre_exp.errors import StoreError
from midre_exp.plan.config import digest
from midre_exp.plan.keys import is_pretrained
from midre_exp.plan.publication import SWITCH
from midre_exp.records import read_record, record_files
from midre_exp.store.artifact import Artifact
from midre_exp.weights.formats import metadata
from midre_exp.zoo.files import ENTRY, Card

#: The stages whose weights are a classifier's.
CLASSIFIERS = ("target", "evaluator", "pretraining", "evaluator_pretraining")
PRIOR = "prior"
WEIGHTS = "weights.safetensors"
#: Of the private images: an artifact does not say whose faces they are, but for rendered ones.
_RENDERED = "synthfaces"


def card_of(artifact: Artifact, people: str | None = None) -> Card:
    """What a classifier's or prior's file says of it. ``people``: who is on its images (``data.people``),
    where the manifest cannot tell. Raises StoreError for another stage's artifact, for a prior that was made
    against one target and for published weights.
    """
    own = _prior(artifact) if artifact.stage == PRIOR else _classifier(artifact)
    manifest, metrics = artifact.manifest, artifact.metrics
    config: Mapping[str, Any] = manifest.get("config", {})
    return {
        "stage": artifact.stage,
        "key": artifact.key,
        **own,
        "data": config.get("data"),
        "people": people_in(config.get("data"), people),
        "counts": metrics.get("counts", {}),
        "alarms": metrics.get("alarms", []),
        "commit": manifest.get("commit"),
        "code": manifest.get("code"),
        "config": digest(dict(config)),
        "versions": manifest.get("versions", {}),
    }


def _classifier(artifact: Artifact) -> Card:
    config = artifact.manifest.get("config", {})
    node = config.get("evaluator" if artifact.stage.startswith("evaluator") else "target")
    if artifact.stage not in CLASSIFIERS or not isinstance(node, Mapping) or "model" not in node:
        raise StoreError(
            f"{artifact.stage}/{artifact.key} is no classifier ({', '.join(CLASSIFIERS)}) and no "
            "prior; export it to a folder or a .tar"
        )
    said = _said(artifact)
    model: dict[str, Any] = dict(node["model"])
    metrics = artifact.metrics
    return {
        "target": node["name"],
        "model": model,
        "normalisation": {name: model[name] for name in ("mean", "std") if name in model},
        "classes": said.get("classes", next(iter(metrics["counts"].values()))),
        **({"defense": said.get("defense")} if said.get("defense") is not None else {}),
        "resolution": config.get("data", {}).get("size"),
        "seed": config.get("seed"),
        "start": node.get("weights"),
        "epochs": node.get("recipe", {}).get("epochs"),
        "metrics": {name: metrics[name] for name in ("acc", "train_acc", "chance") if name in metrics},
    }


def _prior(artifact: Artifact) -> Card:
    node = artifact.manifest["config"]["prior"]
    if artifact.manifest.get("upstream"):
        raise StoreError(f"prior/{artifact.key} was made against one target; export it to a folder or a .tar")
    if is_pretrained(node):
        raise StoreError(f"prior/{artifact.key} holds published weights; name where its publisher has them")
    return {"prior": dict(node), "resolution": node.get("image_size"), "seed": node.get("seed")}


def people_in(fingerprint: object, told: str | None = None) -> str:
    """Who is on the images of a fingerprint: nobody where code renders them, else what the user told."""
    rendered = isinstance(fingerprint, Mapping) and fingerprint.get("dataset") == _RENDERED
    return "synthetic" if rendered else told or "unknown"


def check_people(what: str, people: str, *, consent: bool) -> None:
    """Raise StoreError where what was learnt from real people would be handed on without a word."""
    if people != "synthetic" and not consent:
        raise StoreError(
            f"{what} was made from pictures of people ({people}), and weights and latents may show them "
            f"again; add {SWITCH} if the licence of the data and these people allow it"
        )


def attacked_in(results: Path) -> dict[str, list[dict[str, Any]]]:
    """What the attacks of all records of a folder such as results/evidence reached, by the key of the target.
    Raises StoreError where there is no record.
    """
    paths = record_files(results)
    if not paths:
        raise StoreError(f"there is no record below {results}; give a folder such as results/evidence")
    found: dict[str, list[dict[str, Any]]] = {}
    for path in paths:
        record = read_record(path)
        metrics = record["metrics"]
        if "att_acc1" in metrics and "target" in record["artifacts"]:
            one: dict[str, Any] = {
                "attack": record["attack"],
                "threat": record.get("threat"),
                "scale": record["scale"],
            }
            one |= {name: metrics.get(name) for name in ("att_acc1", "att_acc1_low", "att_acc1_high")}
            one |= {name: record["counts"][name] for name in ("identities", "counted")}
            one |= {"evaluator": record["artifacts"].get("evaluator"), "seed": record["seed"]}
            one |= {"record": record["key"], "commit": record["commit"]}
            found.setdefault(record["artifacts"]["target"], []).append(one)
    return {
        key: sorted(several, key=lambda one: (one["attack"], one["record"])) for key, several in found.items()
    }


def _said(artifact: Artifact) -> dict[str, Any]:
    """What the run that made it let its weights say; nothing of older ones."""
    try:
        said = json.loads(metadata(artifact.path / WEIGHTS).get(ENTRY, "{}"))
    except (ValueError, RecursionError):
        return {}
    return said if isinstance(said, dict) else {}
