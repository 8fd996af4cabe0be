"""Defenses: one class per file, losses and kernels beside it as pure functions. ``compose`` makes several into one."""

from defenses.base import Batch, Clock, Defense, Sampler
from defenses.bido import BiDO, IdentityBatches, coco, gaussian_gram, label_gram, nhsic
from defenses.composer import Composed, compose
from defenses.cutmix import CutMix
from defenses.ee import LeaveOut
from defenses.fe import FixedErasing
from defenses.gaussian_blur import GaussianBlur
from defenses.mid import MID, bottleneck_kl, bottleneck_std
from defenses.midre import MIDRE, erase_squares, sample_squares
from defenses.nls import NLS, scheduled_alpha, smoothed_cross_entropy
from defenses.nodef import NoDef
from defenses.random_crop import RandomCrop
from defenses.rolss import RoLSS
from defenses.skip import scale_shortcuts
from defenses.ssf import SSF
from defenses.tldmi import TLDMI
from defenses.tts import TTS

__all__ = [
    "MID",
    "MIDRE",
    "NLS",
    "SSF",
    "TLDMI",
    "TTS",
    "Batch",
    "BiDO",
    "Clock",
    "Composed",
    "CutMix",
    "Defense",
    "FixedErasing",
    "GaussianBlur",
    "IdentityBatches",
    "LeaveOut",
    "NoDef",
    "RandomCrop",
    "RoLSS",
    "Sampler",
    "bottleneck_kl",
    "bottleneck_std",
    "coco",
    "compose",
    "erase_squares",
    "gaussian_gram",
    "label_gram",
    "nhsic",
    "sample_squares",
    "scale_shortcuts",
    "scheduled_alpha",
    "smoothed_cross_entropy",
]
