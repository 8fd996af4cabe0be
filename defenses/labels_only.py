"""Labels only: the deployed target answers the predicted class and no number (Shokri et al. 2017, the top
label without its probability).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from defenses.base import Defense, Informed
from midre_exp.targets.base import Classifier


@dataclass(kw_only=True, eq=False)
class LabelsOnly(Defense):
    """One-hot scores: 1 for the largest, the first of equal ones, else 0. An attack on labels sees no
    difference.
    """

    acts_at: ClassVar[frozenset[str]] = frozenset({"deployment"})
    ends_answers: ClassVar[bool] = True
    conflicts: ClassVar[Mapping[str, str]] = {
        "Rounding": "a label has no decimals",
        "TopK": "a label is answered, whatever probabilities would be",
    }

    @property
    def label(self) -> str:
        return "Labels only"

    def answer(self, probabilities: Tensor, images: Tensor) -> Tensor:
        largest, classes = probabilities.max(1, keepdim=True)
        sharp = torch.zeros_like(probabilities).scatter_(1, classes, 1.0)
        return sharp + 0 * largest  # what is no number stays none

    def informed(self, model: Classifier) -> Informed:
        return Informed(
            reason="scores are one-hot whoever asks; an attack on labels such as brepmi fits them"
        )
