"""Scaling the skip connections that a network names (``Classifier.shortcuts``), for RoLSS, SSF and TTS."""

from __future__ import annotations

from collections.abc import Sequence

from defenses.base import Informed
from midre_exp.errors import ConfigError
from midre_exp.targets.base import Classifier
from midre_exp.targets.shortcut import Shortcut


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


def known_shortcuts(model: Classifier) -> Informed:
    """What is known of a network whose shortcuts are scaled down: gradients can be led past them all the same
    (straight-through, a backward pass as in BPDA of Athalye et al. 2018).
    """
    if any(shortcut.k != 1 for shortcut in _shortcuts(model)):
        return Informed(
            target=(full_shortcuts_backward,),
            reason="scaled shortcuts weaken gradients, so the backward pass takes them with a factor of 1",
        )
    if model.fresh != type(model).fresh:
        return Informed(
            reason=f"a {type(model).__name__} without its connections has other shapes, in which no gradient "
            "finds a place for them"
        )
    return Informed(reason="all shortcuts are whole, so the attack is the plain one")


def full_shortcuts_backward(model: Classifier) -> None:
    """Let gradients pass all scaled shortcuts as if they were whole; answers stay as they are. Where a
    shortcut has layers, gradients pass these as they lie there, trained or not.
    """
    for shortcut in _shortcuts(model):
        shortcut.is_straight = True


def _shortcuts(model: Classifier) -> list[Shortcut]:
    return [module for module in model.modules() if isinstance(module, Shortcut)]
