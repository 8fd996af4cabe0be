"""RoLSS: the skip connections of the last stage are removed (Koh et al. 2024)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from defenses.base import Defense, Informed
from defenses.parts.skip_connections import known_shortcuts, scale_shortcuts
from midre_exp.targets.base import Classifier


@dataclass(kw_only=True, eq=False)
class RoLSS(Defense):
    """Removal of last-stage skip connections: F(x) instead of F(x) + x, for the whole training.

    Koh et al. 2024, "On the Vulnerability of Skip Connections to Model Inversion Attacks".
    """

    exclusive = frozenset({"skip"})

    stages: Sequence[str] | None  # taps whose shortcuts are removed; None: the last stage that has any

    def modify_backbone(self, model: Classifier) -> None:
        scale_shortcuts(model, 0.0, self.stages, defense="rolss")

    def informed(self, model: Classifier) -> Informed:
        return known_shortcuts(model)
