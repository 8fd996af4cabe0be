"""From draws of an effect to an answer: supported, contradicted, undecided, or not measured."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from midre_exp.report.claims.intervals import Arena, Numbers

Answer = Literal["supported", "contradicted", "undecided", "not measured"]

#: Share of the draws that must be on one side: where a 95 % interval leaves a value out.
SURE = 0.975


@dataclass(frozen=True)
class Case:
    """One comparison. ``draws`` [DRAWS] of its effect; ``value`` from the records themselves; ``detail``:
    what was compared.
    """

    where: str
    detail: str
    value: float
    draws: Numbers


@dataclass(frozen=True)
class Claim:
    """A statement of the paper with what would show it.

    The effect, in ``unit``, is claimed to be ``below`` or ``above`` the ``threshold``. ``every``: each case
    must show it; otherwise their mean does. ``compare`` finds the cases among the arenas. ``ranked``: draws
    are +1, 0 or -1, who had the better of it, and the effect is shown as the share of draws won.
    """

    name: str
    statement: str
    source: str
    unit: str
    compare: Callable[[Sequence[Arena]], Iterable[Case]]
    claimed: Literal["below", "above"]
    threshold: float = 0.0
    every: bool = False
    ranked: bool = False
    needs: str = ""


@dataclass(frozen=True)
class Effect:
    """A number with its 95 % interval (None where the effect is a rank) and the answer it gives."""

    where: str
    detail: str
    value: float | None
    low: float | None
    high: float | None
    answer: Answer


@dataclass(frozen=True)
class Verdict:
    """A claim's answer, its overall effect, and the effect of every case."""

    claim: Claim
    answer: Answer
    overall: Effect
    cases: tuple[Effect, ...]


def judge(claim: Claim, arenas: Sequence[Arena]) -> Verdict:
    """The answer the records give. With ``every`` one contradicting case is enough, and all must support it."""
    found = list(claim.compare(arenas))
    effects = tuple(_effect(claim, case) for case in found)
    if not found:
        overall = Effect("", claim.needs, None, None, None, "not measured")
    elif claim.every:
        worst = min(effects, key=lambda effect: _rank(claim, effect))
        answers = {effect.answer for effect in effects}
        answer: Answer = (
            "contradicted"
            if "contradicted" in answers
            else ("supported" if answers == {"supported"} else "undecided")
        )
        overall = Effect(
            worst.where, "the case that speaks least for it", worst.value, worst.low, worst.high, answer
        )
    else:
        mean = Case(
            "",
            f"mean of {len(found)}",
            float(np.mean([case.value for case in found])),
            np.mean([case.draws for case in found], axis=0),
        )
        overall = _effect(claim, mean)
    return Verdict(claim, overall.answer, overall, effects)


def _effect(claim: Claim, case: Case) -> Effect:
    sign = 1 if claim.claimed == "above" else -1
    beyond = sign * (case.draws - claim.threshold)
    answer: Answer = "undecided"
    if np.mean(beyond > 0) >= SURE:
        answer = "supported"
    elif np.mean(beyond < 0) >= SURE:
        answer = "contradicted"
    if claim.ranked:
        won = 100 * float(np.mean(beyond > 0) + np.mean(beyond == 0) / 2)
        return Effect(case.where, case.detail, won, None, None, answer)
    low, high = np.quantile(case.draws, [1 - SURE, SURE])
    return Effect(case.where, case.detail, case.value, float(low), float(high), answer)


def _rank(claim: Claim, effect: Effect) -> float:
    value = effect.value if effect.value is not None else 0.0
    return value if claim.claimed == "above" or claim.ranked else -value
