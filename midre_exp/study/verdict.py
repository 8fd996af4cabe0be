"""What judges that are no classifier say of a run's reconstructions: people, and multimodal models. Their
verdicts stand in the record, beside the numbers of the evaluator and never among them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypedDict

#: How often a judge has to say yes to further photographs of the same person, at least, and to photographs of
#: somebody else, at most, in percent.
KNOWS_SAME, KNOWS_OTHER = 80.0, 20.0


class Share(TypedDict):
    """How many pictures of a kind are said to show the person."""

    said_same: float  # percent
    pictures: int


class Confusion(TypedDict):
    """The evaluator beside a judge whose word is taken for the truth, in pictures and percent; a rate of none
    is 0, as in the published metric.
    """

    TP: int  # both accept
    TN: int  # both refuse
    FP: int  # the evaluator alone accepts
    FN: int  # the judge alone accepts
    FPR: float  # of the pictures that the judge refuses, how many the evaluator accepts
    FNR: float
    false_hits: float  # of the pictures that the evaluator accepts, how many the judge refuses: 1 - precision


def confusion(judge: Sequence[bool], evaluator: Sequence[bool]) -> Confusion:
    """The evaluator's hits against a judge's, picture by picture."""
    pairs = list(zip(judge, evaluator, strict=True))
    tp, tn, fp, fn = (
        pairs.count(pair) for pair in ((True, True), (False, False), (False, True), (True, False))
    )
    return {
        "TP": tp,
        "TN": tn,
        "FP": fp,
        "FN": fn,
        "FPR": percent(fp, fp + tn),
        "FNR": percent(fn, fn + tp),
        "false_hits": percent(fp, fp + tp),
    }


def share(said: Sequence[bool]) -> Share:
    """The share of yes among verdicts on pictures of a kind."""
    return {"said_same": percent(sum(said), len(said)), "pictures": len(said)}


def percent(count: int, total: int) -> float:
    """A share in percent, 0 of nothing."""
    return 100 * count / total if total else 0.0


def is_fit(same: Share | None, other: Share | None) -> bool:
    """Whether a judge tells people apart, as far as its answers to the controls say; unknown without them."""
    if not same or not other or not same["pictures"] or not other["pictures"]:
        return False
    return same["said_same"] >= KNOWS_SAME and other["said_same"] <= KNOWS_OTHER


def why_unfit(name: str, same: Share | None, other: Share | None) -> str:
    """Why a judge's verdicts cannot be relied on, a sentence."""
    if not same or not other or not same["pictures"] or not other["pictures"]:
        return f"{name} has answered no controls: nobody knows whether this judge tells people apart"
    return (
        f"{name} says the same person to {same['said_same']:.0f} % of {same['pictures']} further photographs "
        f"of that person (at least {KNOWS_SAME:.0f} % are expected) and to {other['said_same']:.0f} % of "
        f"{other['pictures']} photographs of somebody else (at most {KNOWS_OTHER:.0f} %)"
    )
