"""SSF: the skip connections of the last stage are scaled down (Koh et al. 2024); RoLSS is its limit k = 0."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from defenses.base import Defense, Informed
from defenses.parts.options import check_factor
from defenses.parts.skip_connections import known_shortcuts, scale_shortcuts
from midre_exp.plan.ranges import Share
from midre_exp.targets.base import Classifier


@dataclass(kw_only=True, eq=False)
class SSF(Defense):
    """Skip connection scaling factor: F(x) + k x instead of F(x) + x.

    Koh et al. 2024, "On the Vulnerability of Skip Connections to Model Inversion Attacks".
    """

    exclusive = frozenset({"skip"})

    k: Share  # a constant in [0, 1]; 1 is no defense
    stages: Sequence[str] | None  # taps whose shortcuts are scaled; None: the last stage that has any

    def __post_init__(self) -> None:
        check_factor("ssf.k", self.k)

    @property
    def label(self) -> str:
        return f"SSF {self.k:g}"

    def modify_backbone(self, model: Classifier) -> None:
        scale_shortcuts(model, self.k, self.stages, defense="ssf")

    def informed(self, model: Classifier) -> Informed:
        return known_shortcuts(model)
