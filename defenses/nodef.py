"""No defense: the recipe the others are compared with."""

from __future__ import annotations

from defenses.base import Defense


class NoDef(Defense):
    """Plain training. Every hook is the default of ``Defense``."""
