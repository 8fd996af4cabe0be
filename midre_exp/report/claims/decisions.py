"""From draws of an effect to an answer: supported, contradicted, undecided, or not measured.

A claim without ``scales`` is answered by the 95 % interval of its effect. One that is registered for a scale
needs a p-value below 5 % as well, corrected for all claims registered there, measured or not; of a claim
about every case it is the largest of theirs (an intersection-union test, whose level needs no correction for
the number of cases).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from midre_exp.report.claims.definitions import Claim
from midre_exp.report.claims.effects import Effect, mean_effect
from midre_exp.report.claims.intervals import ComparisonGroup
from midre_exp.report.claims.permutation import holm, sign_flip_p

Answer = Literal["supported", "contradicted", "undecided", "not measured"]

#: Share of the draws that must lie on one side: where a 95 % interval leaves a value out.
SURE = 0.975
#: What a corrected p-value must be below.
LEVEL = 0.05


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
    p: float | None = None  # of a registered claim; None: not measured, or not known identity by identity
    corrected_p: float | None = None


def decide_all(claims: Sequence[Claim], groups: Sequence[ComparisonGroup]) -> list[Decision]:
    """The answers the records give. All registered ``claims`` are one family of tests."""
    decisions = [decide(claim, groups) for claim in claims]
    family = [place for place, claim in enumerate(claims) if claim.scales is not None]
    corrected = holm([1.0 if (p := decisions[place].p) is None else p for place in family])
    for place, corrected_p in zip(family, corrected, strict=True):
        decisions[place] = _registered(decisions[place], corrected_p)
    return decisions


def _registered(decision: Decision, corrected_p: float) -> Decision:
    if decision.answer == "not measured":
        return decision
    if decision.p is None:
        return replace(decision, answer="undecided")
    answer: Answer = decision.answer if corrected_p < LEVEL else "undecided"
    return replace(decision, answer=answer, corrected_p=corrected_p)


def decide(claim: Claim, groups: Sequence[ComparisonGroup]) -> Decision:
    """The answer of the intervals, and the p-value of a registered claim. With ``every`` one contradicting
    effect is enough, and all must support it.
    """
    effects = claim.effects(groups)
    estimates = tuple(_estimate(claim, effect) for effect in effects)
    p: float | None = None
    if not effects:
        overall = Estimate("", claim.needs, None, None, None, "not measured")
    elif claim.every:
        overall = _least_favourable(claim, estimates)
        p = _largest_p(claim, effects) if claim.scales is not None else None
    else:
        mean = mean_effect(effects, "", f"mean of {len(effects)}")
        overall = _estimate(claim, mean)
        if claim.scales is not None and mean.cells is not None:
            p = sign_flip_p(mean.cells.less(claim.threshold))
    return Decision(claim, overall.answer, overall, estimates, p)


def _largest_p(claim: Claim, effects: Sequence[Effect]) -> float | None:
    known = [effect.cells for effect in effects if effect.cells is not None]
    if len(known) < len(effects):
        return None
    return max(sign_flip_p(cells.less(claim.threshold)) for cells in known)


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
    if claim.contrast.is_ranked:
        won = 100 * float(np.mean(beyond > 0) + np.mean(beyond == 0) / 2)
        return Estimate(effect.where, effect.detail, won, None, None, answer)
    low, high = np.quantile(effect.draws, [1 - SURE, SURE])
    return Estimate(effect.where, effect.detail, effect.value, float(low), float(high), answer)


def _support(claim: Claim, estimate: Estimate) -> float:
    value = estimate.value if estimate.value is not None else 0.0
    return value if claim.claimed == "above" or claim.contrast.is_ranked else -value
