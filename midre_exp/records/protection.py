"""Success of an attack on the people whom a defense protects, apart from the others."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any

from midre_exp.records.schema import ProtectedEntry


def protection(
    defended: Mapping[str, Mapping[str, Any]], per_identity: Mapping[str, Sequence[float]]
) -> ProtectedEntry | None:
    """``defended``: what the parts of a defense say of the training; ``per_identity``: percent of each
    attacked identity, those of the first labels, by metric. None where nobody is protected.
    """
    labels = {label for told in defended.values() for label in told.get("protected", ())}
    if not labels:
        return None
    attacked = len(next(iter(per_identity.values()), ()))
    ours = sorted(label for label in labels if label < attacked)
    return {
        "identities": ours,
        "others": attacked - len(ours),
        "metrics": {
            name: {
                "protected": _mean([value for label, value in enumerate(values) if label in labels]),
                "others": _mean([value for label, value in enumerate(values) if label not in labels]),
            }
            for name, values in per_identity.items()
        },
    }


def _mean(values: Sequence[float]) -> float | None:
    return fmean(values) if values else None
