"""Early stopping: the undefended recipe, left before its end. It is free, so a defense that protects no
better at the same accuracy is worth no more than training less.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, ClassVar

from defenses.base import Defense, Informed
from midre_exp.errors import ConfigError
from midre_exp.plan.ranges import Range
from midre_exp.targets.base import Classifier


@dataclass(kw_only=True, eq=False)
class EarlyStopping(Defense):
    """The first max(1, round(share E)) of the recipe's E epochs, each as in the whole training."""

    conflicts: ClassVar[Mapping[str, str]] = {
        "TTS": "the first may end training before the second removes the shortcuts"
    }

    share: Annotated[float, Range(0, 1, open_low=True)]  # of the epochs, above 0; 1 is no defense

    def __post_init__(self) -> None:
        if not isinstance(self.share, (int, float)) or not 0 < self.share <= 1:
            raise ConfigError(
                f"defense.early_stopping.share={self.share} must be a share of the epochs, above 0, at most 1"
            )

    @property
    def label(self) -> str:
        return f"Early stopping {self.share:g}"

    def trained_epochs(self, epochs: int) -> int:
        return max(1, round(self.share * epochs))

    def informed(self, model: Classifier) -> Informed:
        return Informed(
            reason="a target trained for less hides nothing, so there is nothing to do against it"
        )
