"""BiDO: hidden layers shall depend little on the image and much on the label (Peng et al. 2022)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from defenses.base import Informed
from defenses.parts.dependence import DependenceLosses
from midre_exp.targets.base import Classifier


@dataclass(kw_only=True, eq=False)
class BiDO(DependenceLosses):
    """Bilateral dependency optimisation: CE + sum_Z lambda_x d(X, Z) - lambda_y d(Z, Y), the terms of
    ``DependenceLosses``.

    Peng et al. 2022, "Bilateral Dependency Optimization: Defending Against Model-inversion Attacks".
    """

    name: ClassVar[str] = "bido"

    @property
    def label(self) -> str:
        return f"BiDO-{self.measure.upper()} [{self.lambda_x:g}, {self.lambda_y:g}]"

    def informed(self, model: Classifier) -> Informed:
        return Informed(
            reason="features depend less on the image, but gradients are not hidden and no weakness is known"
        )
