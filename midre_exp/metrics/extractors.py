"""What metrics look at private images through, read off their config nodes: planning asks, without torch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

Kind = Literal["evaluator", "inception", "face"]

#: Metrics of ours by what they compare with private images; those that do not look at them: None.
_THROUGH: dict[str, Kind | None] = {
    "AttackAccuracy": None,
    "Confidence": None,
    "PhaseAccuracy": None,
    "LastSeedAccuracy": None,
    "RebuiltEvaluator": None,  # which looks at them itself
    "Fid": "inception",
    "OfficialFid": "inception",
    "FaceDistance": "face",
}


#: Metrics that are Fréchet distances.
_OF_CLOUDS = ("Fid", "EvaluatorFid", "OfficialFid")


class Extractor(NamedTuple):
    """A network that turns images into features."""

    kind: Kind
    weights: str | None = None  # of a published network
    official_range: bool = False  # of Inception, see ``InceptionFeatures``
    program: str = ""  # of Inception: whose evaluation is repeated, see ``InceptionFeatures``


def extractors(measure: Mapping[Any, Any]) -> list[Extractor]:
    """Those that the metrics of ``metrics.measure`` need, each once. A metric of the user's own may ask for
    the evaluator's features; what it computes itself is its own business.
    """
    found = {_extractor(node): None for node in measure.values() if node is not None}
    return [extractor for extractor in found if extractor is not None]


def of_clouds(measure: Mapping[str, Any]) -> list[Extractor]:
    """Those of which a Fréchet distance is taken."""
    nodes = [node for node in measure.values() if node is not None and _name(node) in _OF_CLOUDS]
    return extractors(dict(enumerate(nodes)))


def _extractor(node: Mapping[str, Any]) -> Extractor | None:
    kind = _THROUGH.get(_name(node), "evaluator")
    if _name(node) == "Prdc" and node.get("features") == "inception":
        kind = "inception"
    if kind is None or kind == "evaluator":
        return None if kind is None else Extractor(kind)
    weights = node.get("weights")
    if weights is None:
        return None
    official_range, program = bool(node.get("official_range", False)), str(node.get("program", ""))
    return Extractor(kind, str(weights), official_range, program)


def _name(node: Mapping[str, Any]) -> str:
    """Of one of our metrics; "" of another's."""
    package, _, name = str(node["_target_"]).rpartition(".")
    return name if package.startswith("midre_exp.metrics") else ""
