"""What an annotation may say of a number besides its type: ``lr: LearningRate``, ``p: Probability``.

``midre_exp.plan.arguments`` holds every value of a config to them. Own classes take these names too, or state
another range as ``Annotated[float, Range(1, 3)]``.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated


@dataclass(frozen=True)
class Range:
    """Numbers from ``low`` to ``high``; without an end that is ``open``."""

    low: float = -math.inf
    high: float = math.inf
    open_low: bool = False
    open_high: bool = False

    def __contains__(self, number: float) -> bool:
        above = self.low < number or (number == self.low and not self.open_low)
        return above and (number < self.high or (number == self.high and not self.open_high))

    def __str__(self) -> str:
        """As it follows "a number", e.g. "above 0", "from 0 to 1"."""
        low = f"{'above' if self.open_low else 'from'} {_shown(self.low)}" if self.low > -math.inf else ""
        if not math.isfinite(self.high):
            return low
        high = f"{'below ' * self.open_high}{_shown(self.high)}"
        if not low:
            return high if self.open_high else f"up to {high}"
        joint = "to" if not self.open_low else "and" if self.open_high else "and at most"
        return f"{low} {joint} {high}"


@dataclass(frozen=True)
class NotEmpty:
    """Texts with more than blanks in them, and lists with an entry."""

    def __contains__(self, value: str | Sequence[object]) -> bool:
        return bool(value.strip() if isinstance(value, str) else value)

    def __str__(self) -> str:
        return "that is not empty"


def _shown(number: float) -> str:
    return str(int(number)) if number == int(number) else f"{number:g}"


Count = Annotated[int, Range(1)]
Natural = Annotated[int, Range(0)]
#: What torch's and numpy's generators take.
Seed = Annotated[int, Range(0, 2**63 - 1)]
Finite = Annotated[float, Range()]
Positive = Annotated[float, Range(0, open_low=True)]
NonNegative = Annotated[float, Range(0)]
Probability = Annotated[float, Range(0, 1)]
Share = Annotated[float, Range(0, 1)]
#: A share that leaves something over, or a factor by which something fades.
BelowOne = Annotated[float, Range(0, 1, open_high=True)]
#: Published ones lie between 1e-6 and 1; beyond the limit nothing in float32 converges.
LearningRate = Annotated[float, Range(0, 10_000, open_low=True)]
#: Factor of the channels of a network; published ones have 1, wide ones up to 10.
Width = Annotated[float, Range(0.01, 100)]
Text = Annotated[str, NotEmpty()]
