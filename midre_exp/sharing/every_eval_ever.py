"""Records in the format of Every Eval Ever, the shared schema of the EvalEval coalition for results of
evaluations (https://github.com/evaleval/every_eval_ever, ``eval.schema.json`` of version 0.3.0).

The evaluated model is the target under its defense, the evaluation an attack on it. Only metrics whose better
direction is plain are written; all others stay in the record, whose key is given.
"""

from __future__ import annotations

import re
import time
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from midre_exp.errors import StoreError
from midre_exp.plan.config import digest
from midre_exp.plan.publication import people_of
from midre_exp.plan.validate import is_line
from midre_exp.records import Record
from midre_exp.store.files import write_json

#: Of ``eval.schema.json``, as of August 2026.
VERSION = "0.3.0"
_LIBRARY = "midre-exp"
_UNBOUNDED = "Infinity"


class _Metric(NamedTuple):
    """A metric of a record as the format describes it; better is what is better for the model's owner."""

    kind: str
    name: str
    unit: str
    lower_is_better: bool
    highest: float | str
    told: str


_METRICS: Mapping[str, _Metric] = {
    "acc": _Metric(
        "accuracy", "Accuracy", "percent", False, 100.0, "Held-out images of the private identities"
    ),
    "att_acc1": _Metric(
        *("attack_accuracy", "Attack accuracy, top 1", "percent", True, 100.0),
        "Reconstructions that an independent evaluator takes for the attacked identity",
    ),
    "att_acc5": _Metric(
        *("attack_accuracy", "Attack accuracy, top 5", "percent", True, 100.0),
        "Reconstructions with the attacked identity among the evaluator's first five",
    ),
    "knn_dist": _Metric(
        *("distance", "KNN distance", "distance", False, _UNBOUNDED),
        "From a reconstruction to the nearest private image, in the evaluator's features",
    ),
    "delta_eval": _Metric(
        *("distance", "Distance, evaluator", "distance", False, _UNBOUNDED),
        "From a reconstruction to the nearest private image, in the evaluator's features",
    ),
    "delta_face": _Metric(
        *("distance", "Distance, FaceNet", "distance", False, _UNBOUNDED),
        "From a reconstruction to the nearest private image, in FaceNet's features",
    ),
}


def convert(
    records: Sequence[Record], folder: Path, *, organization: str, now: float | None = None
) -> list[Path]:
    """Write a file for each record, as that project lays them out: ``data/<benchmark>/<organization>/<model>/
    <uuid>.json``; equal records get equal names. ``now``: the time of writing, seconds of the Unix epoch.
    Raises StoreError for an organization that is no line of text.
    """
    if not is_line(organization) or not _slug(organization):
        raise StoreError("give --organization as a line of text with letters, such as 'Our Lab'")
    stamp = f"{time.time() if now is None else now:.3f}"
    paths = []
    for record in records:
        log = evaluation(record, organization=organization, stamp=stamp)
        model = log["model_info"]["id"].partition("/")[2]
        name = uuid.UUID(bytes=bytes.fromhex(digest([record["scale"], record["key"]]) * 2), version=4)
        path = folder / "data" / _benchmark(record) / _slug(organization) / model / f"{name}.json"
        write_json(path, log)
        paths.append(path)
    return paths


def evaluation(record: Record, *, organization: str, stamp: str) -> dict[str, Any]:
    """One record as such a log; ``stamp``: when it was written, as text."""
    config, counts = record["config"], record["counts"]
    model = _slug(f"{record['target']}-{record['defense']['label']}-s{record['seed']}")
    model_id = f"{_slug(organization)}/{model}"
    versions = record.get("versions", {})
    return {
        "schema_version": VERSION,
        "evaluation_id": f"{_benchmark(record)}/{model_id}/{stamp}",
        "retrieved_timestamp": stamp,
        "source_metadata": {
            "source_name": _LIBRARY,
            "source_type": "evaluation_run",
            "source_organization_name": organization,
            "evaluator_relationship": "first_party",  # who trains the target attacks it too
            "additional_details": _texts({"record": record["key"], "setup": record["setup"]["id"]}),
        },
        "eval_library": {
            "name": _LIBRARY,
            "version": versions.get(_LIBRARY, "unknown"),
            "additional_details": _texts({"commit": record.get("commit"), "scale": record["scale"]}),
        },
        "model_info": {
            "name": f"{record['target']}, {record['defense']['label']}, seed {record['seed']}",
            "id": model_id,
            "developer": organization,
            "inference_engine": {"name": "torch", "version": versions.get("torch", "unknown")},
            "additional_details": {
                "deployment_type": "self_deployed",
                "model_availability": "unknown",
                **_texts(
                    {
                        "architecture": record["target"],
                        "defense": record["defense"]["label"],
                        "resolution": record["data"]["resolution"],
                        "classes": counts["private_identities"],
                    }
                ),
            },
        },
        "evaluation_results": [
            _result(record, name, metric, people_of(config))
            for name, metric in _METRICS.items()
            if name in record["metrics"]
        ],
    }


def _result(record: Record, name: str, metric: _Metric, people: str) -> dict[str, Any]:
    attacked = name != "acc"
    metrics, counts = record["metrics"], record["counts"]
    score: dict[str, Any] = {"score": metrics[name]}
    if f"{name}_low" in metrics and f"{name}_high" in metrics:
        score["uncertainty"] = {
            "confidence_interval": {
                "lower": metrics[f"{name}_low"],
                "upper": metrics[f"{name}_high"],
                "confidence_level": 0.95,
                "method": "bootstrap over identities",
            },
            "num_samples": int(counts.get("counted", counts["reconstructions"])),
        }
    about = {"attack": record["attack"], "evaluator": record["evaluator"], "threat": record.get("threat")}
    return {
        "evaluation_result_id": f"{record['key']}/{name}",
        "evaluation_name": f"model inversion by {record['attack']}" if attacked else "classification",
        "source_data": {
            "dataset_name": f"{record['data']['name']} at {record['data']['resolution']} px",
            "source_type": "other",
            "additional_details": _texts({"people": people, "private_images": counts["private_train"]}),
        },
        "metric_config": {
            "evaluation_description": metric.told,
            "metric_id": "accuracy" if not attacked else f"{_LIBRARY}.{name}",
            "metric_name": metric.name,
            "metric_kind": metric.kind,
            "metric_unit": metric.unit,
            "lower_is_better": metric.lower_is_better,
            "score_type": "continuous",
            "min_score": 0.0,
            "max_score": metric.highest,
            "additional_details": _texts(about if attacked else {}),
        },
        "score_details": score,
    }


def _texts(values: Mapping[str, object]) -> dict[str, str]:
    """Details as the format wants them: texts, those that are known."""
    return {name: str(value) for name, value in values.items() if value is not None}


def _benchmark(record: Record) -> str:
    return _slug(f"{_LIBRARY}-{record['scale']}-{record['data']['name']}")


def _slug(text: str) -> str:
    """Text as a folder: letters, digits and dots, all else as one dash."""
    return re.sub(r"[^A-Za-z0-9.]+", "-", text).strip("-.")
