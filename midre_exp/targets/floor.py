"""Whether the word of a judge counts: one rule for the evaluator and every further judge.

It is refused at chance or below a stated percentage (``evaluator.floor``). One that is let judge although it
is at chance, or recognises fewer test images than ``DOUBTFUL``, where no percentage was stated, is let judge
under a remark that goes with its numbers.
"""

from __future__ import annotations

from typing import Any

#: Percent of test images: who recognises fewer people when they stand before him is no witness to their
#: reconstructions, unless somebody has said which percentage will do.
DOUBTFUL = 90.0
#: How the alarm of a training says that a classifier is at chance.
AT_CHANCE = "which is not significantly more than chance"


def doubt(judge: str, accuracy: float, floor: Any) -> str | None:
    """The remark that goes with the numbers of a judge of such an accuracy in percent; None where there is
    none to make. ``floor``: ``evaluator.floor`` as the config has it.
    """
    stated = isinstance(floor, (int, float)) and floor > 0
    if stated or accuracy >= DOUBTFUL:
        return None
    return (
        f"{judge} recognises {accuracy:.1f} % of its test images, less than {DOUBTFUL:.0f} %: what it says "
        "of reconstructions is in doubt"
    )
