"""From draws of an effect to an answer: supported, contradicted, undecided, or not measured."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from midre_exp.report.claims.intervals import ComparisonGroup, Numbers

Answer = Literal["supported", "contradicted", "undecided", "not measured"]

#: Share of the draws that must lie on one side: where a 95 % interval leaves a value out.
SURE = 0.975


@dataclass(frozen=True)
class Effect:
    """One comparison."""

    where: str
    detail: str  # what was compared
    value: float  # from the records themselves
    draws: Numbers  # [DRAWS], what it could have been


@dataclass(frozen=True)
class Claim:
    """A statement of the paper with what would show it."""

    name: str
    statement: str
    source: str
    unit: str
    compare: Callable[[Sequence[ComparisonGroup]], Iterable[Effect]]  # finds its effects in the groups
    claimed: Literal["below", "above"]  # where the effect is claimed to be
    threshold: float = 0.0
    every: bool = False  # each effect must show it; otherwise their mean does
    ranked: bool = False  # draws are +1, 0 or -1, who had the better of it; shown as the share of draws won
    needs: str = ""  # which runs


@dataclass(frozen=True)
class Estimate:
    """An effect as a number with its 95 % interval (None where it is a rank) and the answer it gives."""

    where: str
    detail: str
    value: float | None
    low: float | None
    high: float | None
    answer: Answer


@dataclass(frozen=True)
class Decision:
    """A claim's answer, its overall effect, and every single one."""

    claim: Claim
    answer: Answer
    overall: Estimate
    effects: tuple[Estimate, ...]


def decide(claim: Claim, groups: Sequence[ComparisonGroup]) -> Decision:
    """The answer the records give. With ``every`` one contradicting effect is enough, and all must support
    it.
    """
    effects = list(claim.compare(groups))
    estimates = tuple(_estimate(claim, effect) for effect in effects)
    if not effects:
        overall = Estimate("", claim.needs, None, None, None, "not measured")
    elif claim.every:
        overall = _least_favourable(claim, estimates)
    else:
        overall = _estimate(claim, mean_effect(effects, "", f"mean of {len(effects)}"))
    return Decision(claim, overall.answer, overall, estimates)


def mean_effect(effects: Sequence[Effect], where: str, detail: str) -> Effect:
    """The mean of effects, draw by draw."""
    value = float(np.mean([effect.value for effect in effects]))
    return Effect(where, detail, value, np.mean([effect.draws for effect in effects], axis=0))


def _least_favourable(claim: Claim, estimates: Sequence[Estimate]) -> Estimate:
    worst = min(estimates, key=lambda estimate: _support(claim, estimate))
    answers = {estimate.answer for estimate in estimates}
    answer: Answer = "undecided"
    if "contradicted" in answers:
        answer = "contradicted"
    elif answers == {"supported"}:
        answer = "supported"
    return replace(worst, detail="the case that speaks least for it", answer=answer)


def _estimate(claim: Claim, effect: Effect) -> Estimate:
    sign = 1 if claim.claimed == "above" else -1
    beyond = sign * (effect.draws - claim.threshold)
    answer: Answer = "undecided"
    if np.mean(beyond > 0) >= SURE:
        answer = "supported"
    elif np.mean(beyond < 0) >= SURE:
        answer = "contradicted"
    if claim.ranked:
        won = 100 * float(np.mean(beyond > 0) + np.mean(beyond == 0) / 2)
        return Estimate(effect.where, effect.detail, won, None, None, answer)
    low, high = np.quantile(effect.draws, [1 - SURE, SURE])
    return Estimate(effect.where, effect.detail, effect.value, float(low), float(high), answer)


def _support(claim: Claim, estimate: Estimate) -> float:
    value = estimate.value if estimate.value is not None else 0.0
    return value if claim.claimed == "above" or claim.ranked else -value
