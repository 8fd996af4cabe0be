"""Scaling the skip connections that a network names (``Classifier.shortcuts``), for RoLSS, SSF and TTS."""

from __future__ import annotations

from collections.abc import Sequence

from midre_exp.errors import ConfigError
from midre_exp.targets.base import Classifier


def scale_shortcuts(model: Classifier, k: float, stages: Sequence[str] | None, *, defense: str) -> None:
    """Multiply the shortcuts of ``stages`` (taps; None: the last stage that has any) by ``k`` in [0, 1], in
    place.

    Raises ConfigError naming ``defense`` for a network without skip connections and for other stages.
    """
    kind, known = type(model).__name__, list(model.shortcuts())
    if not known:
        raise ConfigError(
            f"defense.{defense} acts on skip connections and {kind} has none; choose another target or "
            "defense"
        )
    chosen = known[-1:] if stages is None else list(stages)
    if unknown := [name for name in chosen if name not in known] or ["none"] * (not chosen):
        raise ConfigError(
            f"defense.{defense}.stages names {', '.join(unknown)}; the stages of {kind} with skip "
            "connections are "
            f"{', '.join(known)}"
        )
    try:
        model.scale_shortcuts(chosen, k)
    except ConfigError as error:
        raise ConfigError(f"defense.{defense}.stages={chosen} is not possible: {error}") from error
