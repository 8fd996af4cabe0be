"""What a record tells besides the evaluator's word: what other judges say, what the target is like."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

from midre_exp.plan.config import without
from midre_exp.records.schema import DiagnosticsEntry, OpenSetEntry, Record, TraitsEntry
from midre_exp.store.store import Artifact


def judged_beside(artifacts: Mapping[str, Artifact]) -> Record:
    """What judges beside the evaluator say, where a run has any: blocks ``open_set`` and ``traits``."""
    found: Record = {}
    if (verdicts := artifacts.get("open_set")) is not None:
        verifier, told = artifacts["verifier"], verdicts.metrics
        counts = verifier.metrics["counts"]
        block: dict[str, Any] = {
            **without(told, "first", "per_identity", "alarms"),
            "verifier": {
                "key": verifier.key,
                "people": "of their own" if verifier.metrics["own_pool"] else "public, the attacker's too",
                "identities": counts["verifier_identities"],
                "images": counts["verifier_train"],
                "held_out": counts["held_out_identities"],
                "held_out_images": counts["held_out"],
                **{
                    name: verifier.metrics[name]
                    for name in ("eer", "pairs", "tar", "eer_alike", "pairs_alike")
                    if name in verifier.metrics
                },
            },
        }
        found["open_set"] = cast(OpenSetEntry, block)
    if (traits := artifacts.get("traits")) is not None:
        reader = artifacts["trait_reader"]
        counts = reader.metrics["counts"]
        block = {
            **without(traits.metrics, "alarms"),
            "reader": {
                "key": reader.key,
                "identities": counts["trait_reader_identities"],
                "held_out": counts["held_out_identities"],
            },
        }
        found["traits"] = cast(TraitsEntry, block)
    if (diagnostics := diagnosed(artifacts)) is not None:
        found["diagnostics"] = diagnostics
    return found


#: The stages behind the block ``diagnostics``; the first is of the target alone.
DIAGNOSTICS = ("diagnostics", "lira", "alignment", "trap", "extraction", "extraction_ceiling")


def diagnosed(artifacts: Mapping[str, Artifact]) -> DiagnosticsEntry | None:
    """The block ``diagnostics``; None of a run that was asked for none."""
    made = [artifacts[name] for name in DIAGNOSTICS if name in artifacts]
    if not made:
        return None
    block: dict[str, Any] = {"key": made[0].key}
    missing: dict[str, str] = {}
    for artifact in made:
        block.update(artifact.metrics["told"])
        missing.update(artifact.metrics["missing"])
    return cast(DiagnosticsEntry, {**block, **({"missing": missing} if missing else {})})


def numbers_beside(artifacts: Mapping[str, Artifact]) -> dict[str, float]:
    """The chief numbers of these blocks under names of their own, for tables and claims: ``tar@0.01``,
    ``rank`` (median), ``rank1``, ``traits_recovered``, ``traits_nearer``; those of diagnostics, as
    ``robust@1``, ``robust_area``, ``ece``, ``hsic_xz``, ``mia_auc`` (docs/diagnostics.md); with ``_low`` and
    ``_high``.
    """
    found: dict[str, float] = {}

    def with_interval(name: str, told: Mapping[str, float], value: str, ends: str) -> None:
        found[name] = told[value]
        found.update({f"{name}_{end}": told[f"{ends}{end}"] for end in ("low", "high")})

    if (verdicts := artifacts.get("open_set")) is not None:
        for rate, told in verdicts.metrics["tar"].items():
            with_interval(f"tar@{rate}", told, "value", "")
        rank = verdicts.metrics["rank"]
        found["rank"] = rank["median"]
        with_interval("rank1", rank, "first", "first_")
    if (traits := artifacts.get("traits")) is not None:
        found["traits_recovered"] = traits.metrics["recovered"]
        if "nearer" in traits.metrics:
            with_interval("traits_nearer", traits.metrics["nearer"], "value", "")
    for name in DIAGNOSTICS:
        if name in artifacts:
            found.update(artifacts[name].metrics["numbers"])
    return found
