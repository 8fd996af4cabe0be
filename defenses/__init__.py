"""Defenses: one class per file, losses and kernels beside it as pure functions. ``compose`` makes several into one."""

from defenses.base import Batch, Clock, Defense, Sampler
from defenses.composer import Composed, compose
from defenses.midre import MIDRE, erase_squares, sample_squares
from defenses.nodef import NoDef

__all__ = [
    "MIDRE",
    "Batch",
    "Clock",
    "Composed",
    "Defense",
    "NoDef",
    "Sampler",
    "compose",
    "erase_squares",
    "sample_squares",
]
