"""MIDRE: every training image loses a random square, anew each time it is drawn (MIDRE Sec. 2.2).

A range ``a_l < a_h`` is the defense of the paper's main tables; ``a_l = a_h`` is the fixed share (RE) of its
Table 1. Loss, optimiser and schedule stay as they are, and test images are never touched.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from defenses.parts.erasing import Erasing
from defenses.parts.squares import rectangles


@dataclass(kw_only=True, eq=False)
class MIDRE(Erasing):
    """Random erasing (MIDRE Sec. 2.2): x outside a random square of area A ~ U(a_l, a_h), ``fill`` within."""

    name: ClassVar[str] = "midre"
    noun: ClassVar[str] = "MIDRE"

    @property
    def label(self) -> str:
        """``MIDRE [a_l, a_h]`` for a range, ``RE share`` for a fixed share."""
        return f"RE {self.a_h:g}" if self.a_l == self.a_h else super().label

    def _erased(
        self,
        size: tuple[int, int],
        squares: tuple[Tensor, Tensor, Tensor],
        further: Callable[[int], Tensor],
    ) -> Tensor:
        top, left, side = squares
        return rectangles(size, top, left, side, side)
