"""Top k: the deployed target answers the k largest probabilities alone (Shokri et al. 2017, "restrict the
prediction vector to top k classes").
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal, get_args

import torch
from torch import Tensor

from defenses.base import Defense, Informed
from defenses.parts.options import check_choice
from midre_exp.errors import ConfigError
from midre_exp.plan.ranges import Count
from midre_exp.targets.base import Classifier

Rest = Literal["zero", "spread"]


def keep_largest(probabilities: Tensor, k: int, rest: Rest) -> Tensor:
    """The ``k`` largest of each row [n, K] as they are, of equal ones the first; the others are 0 (zero), or
    share alike what the largest leave over (spread).
    """
    order = probabilities.argsort(dim=1, descending=True, stable=True)
    kept = torch.zeros_like(probabilities, dtype=torch.bool)
    kept.scatter_(1, order[:, :k], value=True)
    over = 0.0 * probabilities.sum(1, keepdim=True)  # 0, and no number where there is none
    if rest == "spread":
        left = probabilities.masked_fill(kept, 0).sum(1, keepdim=True)
        over = left / (probabilities.shape[1] - k)
    return torch.where(kept, probabilities, over)


@dataclass(kw_only=True, eq=False)
class TopK(Defense):
    """f_i for the k classes with the largest f, what is left over for the others."""

    acts_at: ClassVar[frozenset[str]] = frozenset({"deployment"})

    k: Count | None  # classes whose probabilities are answered; None, or as many as there are: all
    rest: Rest  # of the others: zero, or spread: what is left over, shared alike

    def __post_init__(self) -> None:
        if self.k is not None and (type(self.k) is not int or self.k < 1):
            raise ConfigError(f"defense.top_k.k={self.k} must be a whole number from 1, or null")
        check_choice("top_k.rest", self.rest, get_args(Rest))

    @property
    def label(self) -> str:
        return f"Top {'all' if self.k is None else self.k}"

    def answer(self, probabilities: Tensor, images: Tensor) -> Tensor:
        if self.k is None or self.k >= probabilities.shape[1]:
            return probabilities
        return keep_largest(probabilities, self.k, self.rest)

    def informed(self, model: Classifier) -> Informed:
        return Informed(reason="what is left out is not answered to any other question either")
