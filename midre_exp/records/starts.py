"""What target and evaluator of a run started from: a source of weights by name, a file, public pre-training,
or nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from midre_exp.cards.named import named_files
from midre_exp.plan.config import digest
from midre_exp.plan.keys import PUBLIC, is_pretrained_here
from midre_exp.records.schema import StartEntry
from midre_exp.store.store import Artifact

RANDOM = "random"
WEIGHTS = "weights.safetensors"


def starts(settings: Mapping[str, Any], artifacts: Mapping[str, Artifact]) -> dict[str, StartEntry]:
    """The start of target and evaluator, by the settings of a run as its user gave them and by the manifests
    of the two, which hold checksums.
    """
    named = {file.key: file for file in named_files(settings)}
    found: dict[str, StartEntry] = {}
    for role in ("target", "evaluator"):
        node, manifest = settings[role], artifacts[role].manifest
        key = "weights" if node.get("checkpoint") is None else "checkpoint"
        value, told = node[key], _told(manifest, role, key)
        entry: StartEntry = {"source": RANDOM, "file": None, "sha256": None, "trained": key == "weights"}
        if value == "imagenet":
            library: Mapping[str, Any] = next(iter(_mapping(manifest.get("weights")).values()), {})
            entry["source"] = "imagenet"
            entry["file"], entry["sha256"] = library.get("file"), library.get("sha256")
        elif is_pretrained_here(node):
            start = artifacts["pretraining" if role == "target" else "evaluator_pretraining"]
            entry["source"], entry["file"] = PUBLIC, WEIGHTS
            entry["sha256"] = start.manifest["files"][WEIGHTS]["sha256"]
            counts = start.metrics["counts"]
            entry["pretraining"] = {
                "key": start.key,
                "data": digest(_mapping(start.manifest.get("config")).get("data")),
                "identities": counts["pretraining_identities"],
                "images": counts["pretraining_train"],
                "tested": counts["pretraining_test"],
                "acc": start.metrics["acc"],
            }
        elif value is not None:
            file = named.get(f"{role}.{key}")
            entry["source"] = "file" if file is None else file.name
            entry["file"] = Path(str(value)).name if file is None else file.path.name
            entry["sha256"] = told.removeprefix("sha256:") if told.startswith("sha256:") else None
        found[role] = entry
    return found


def _told(manifest: Mapping[str, Any], role: str, key: str) -> str:
    return str(_mapping(_mapping(manifest.get("config")).get(role)).get(key))


def _mapping(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}  # of somebody else's store, perhaps
