"""No defense: the recipe the others are compared with."""

from __future__ import annotations

from defenses.base import Defense, Informed
from midre_exp.targets.base import Classifier


class NoDef(Defense):
    """Plain training. Every hook is the default of ``Defense``."""

    def informed(self, model: Classifier) -> Informed:
        return Informed(reason="there is no defense to know of, so the attack is the plain one")
