"""Defenses: one class per file, losses and kernels beside it as pure functions. ``compose`` makes several into one."""

from defenses.base import Batch, Clock, Defense, Sampler
from defenses.composer import Composed, compose
from defenses.cutmix import CutMix
from defenses.ee import LeaveOut
from defenses.fe import FixedErasing
from defenses.gaussian_blur import GaussianBlur
from defenses.midre import MIDRE, erase_squares, sample_squares
from defenses.nodef import NoDef
from defenses.random_crop import RandomCrop

__all__ = [
    "MIDRE",
    "Batch",
    "Clock",
    "Composed",
    "CutMix",
    "Defense",
    "FixedErasing",
    "GaussianBlur",
    "LeaveOut",
    "NoDef",
    "RandomCrop",
    "Sampler",
    "compose",
    "erase_squares",
    "sample_squares",
]
