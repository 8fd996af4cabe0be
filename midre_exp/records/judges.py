"""What the judges of a run say beside its published number: negative controls, the jury, and whether what
they say counts.

The numbers that tables and claims can name stand among ``metrics`` too: ``att_acc1_random`` (random pictures
of the prior), ``att_acc1_other`` (reconstructions scored for another person), ``att_acc1_all_judges`` (the
strict number), ``att_acc1_by_<judge>``, ``judges_same`` and ``judges_kappa`` (of the pair that agrees least).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from midre_exp.plan.config import Settings
from midre_exp.records.schema import ControlsEntry, JudgeEntry, JuryEntry, Record, at
from midre_exp.store.store import Artifact
from midre_exp.targets.floor import AT_CHANCE, doubt

#: Which control is which number.
_CONTROLS = {"prior": "att_acc1_random", "other_identity": "att_acc1_other"}
_ENDS = ("", "_low", "_high")
#: The numbers that every judge is asked for.
_ASKED = [f"att_acc{k}{end}" for k in (1, 5) for end in (*_ENDS, "_std", "_batch_std", "_unfiltered")]


def controls_of(artifacts: Mapping[str, Artifact]) -> ControlsEntry:
    """The negative controls of the evaluator."""
    found: ControlsEntry = artifacts["verdicts"].metrics["controls"]
    return found


def jury_of(settings: Settings, artifacts: Mapping[str, Artifact]) -> JuryEntry | None:
    """What all judges of a run say; None where the evaluator is the only one."""
    if "jury" not in artifacts:
        return None
    published, own = str(settings["evaluator"]["name"]), artifacts["metrics"].metrics
    nodes = {published: settings["evaluator"], **settings["jury"]}
    judges: dict[str, JudgeEntry] = {}
    for name, node in nodes.items():
        end = "" if name == published else f".{name}"
        said = artifacts[f"verdicts{end}"].metrics
        numbers = own if name == published else said
        judges[name] = {
            "acc": artifacts[f"evaluator{end}"].metrics["acc"],
            "resolution": int(node["resolution"]),
            "metrics": {key: numbers[key] for key in _ASKED if key in numbers},
            "per_identity": said.get("per_identity", {}).get("att_acc1", []),
            "controls": said["controls"],
        }
    together = artifacts["jury"].metrics
    if "missing" in together:
        return {"published": published, "judges": judges, "missing": together["missing"]}
    return {
        "published": published,
        "judges": judges,
        "agreement": together["agreement"],
        "all_agree": together["all_agree"],
    }


def numbers_of(controls: ControlsEntry, jury: JuryEntry | None) -> dict[str, float]:
    """What of it stands among the metrics of a record."""
    found: dict[str, float] = {}
    for control, name in _CONTROLS.items():
        found |= _named(name, controls.get(control))
    if jury is None or "missing" in jury:
        return found
    found |= _named("att_acc1_all_judges", jury["all_agree"])
    for judge, entry in jury["judges"].items():
        if judge != jury["published"]:
            found |= _named(f"att_acc1_by_{judge}", entry["metrics"])
    pairs = jury["agreement"]
    found["judges_same"] = min(pair["same"] for pair in pairs)
    kappas = [pair["kappa"] for pair in pairs if pair["kappa"] is not None]
    return {**found, **({"judges_kappa": min(kappas)} if kappas else {})}


def by_identity(jury: JuryEntry | None) -> dict[str, list[float]]:
    """The hits of each identity behind those numbers, for intervals of differences."""
    if jury is None or "missing" in jury:
        return {}
    further = {name: one for name, one in jury["judges"].items() if name != jury["published"]}
    return {
        "att_acc1_all_judges": jury["all_agree"]["per_identity"],
        **{f"att_acc1_by_{name}": one["per_identity"] for name, one in further.items()},
    }


def doubts(record: Record) -> dict[str, list[str]]:
    """A sentence, by stage, for each judge of a record whose word is in doubt (``targets/floor.py``) and of
    which the alarms of its training do not say already that it is at chance.
    """
    evaluator, floor = record["evaluator"], at(record, "config.evaluator.floor")
    accuracies = {"evaluator": (f"evaluator {evaluator}", record["metrics"]["evaluator_acc"])}
    for judge, entry in record.get("jury", {}).get("judges", {}).items():
        if judge != evaluator:
            accuracies[f"evaluator.{judge}"] = f"judge {judge}", entry["acc"]
    known = record.get("alarms", {})
    told = {
        stage: doubt(*judge, floor)
        for stage, judge in accuracies.items()
        if not any(AT_CHANCE in alarm for alarm in known.get(stage, ()))
    }
    return {stage: [sentence] for stage, sentence in told.items() if sentence is not None}


def _named(name: str, share: Any) -> dict[str, float]:
    if share is None or "att_acc1" not in share:
        return {}
    return {f"{name}{end}": share[f"att_acc1{end}"] for end in _ENDS}
