"""Rounding: the deployed target answers probabilities with few decimals (Fredrikson et al. 2015; Shokri et
al. 2017, "coarsen precision of the prediction vector").
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from defenses.base import Defense, Informed
from midre_exp.errors import ConfigError
from midre_exp.plan.ranges import Natural
from midre_exp.targets.base import Classifier


@dataclass(kw_only=True, eq=False)
class Rounding(Defense):
    """round(f, decimals), each probability by itself and halves to even; the sum is not restored."""

    acts_at: ClassVar[frozenset[str]] = frozenset({"deployment"})

    decimals: Natural | None  # of each probability; None: all there are

    def __post_init__(self) -> None:
        if self.decimals is not None and (type(self.decimals) is not int or self.decimals < 0):
            raise ConfigError(
                f"defense.rounding.decimals={self.decimals} must be a whole number from 0, or null"
            )

    @property
    def label(self) -> str:
        return f"Rounding {'null' if self.decimals is None else self.decimals}"

    def answer(self, probabilities: Tensor, images: Tensor) -> Tensor:
        if self.decimals is None:
            return probabilities
        return torch.round(probabilities.double(), decimals=self.decimals).to(probabilities.dtype)

    def informed(self, model: Classifier) -> Informed:
        return Informed(reason="what is rounded away is not answered to any other question either")
