"""What an attack derives from, returns and is handed: the engine's contract, under the name of plugins."""

from midre_exp.attack import (
    Attack,
    AttackResult,
    LabelAttack,
    Reconstructions,
    ScoreAttack,
    Transforms,
    WhiteBoxAttack,
    apply,
    split_evenly,
    to_uint8,
)
from midre_exp.defense import Informed, PictureView
from midre_exp.loop import Loop
from midre_exp.priors.base import Prior
from midre_exp.runtime import Runtime
from midre_exp.seeding import ItemRNG
from midre_exp.threat import LabelVictim, ScoreVictim, Victim, WhiteBoxVictim

__all__ = [
    "Attack",
    "AttackResult",
    "Informed",
    "ItemRNG",
    "LabelAttack",
    "LabelVictim",
    "Loop",
    "PictureView",
    "Prior",
    "Reconstructions",
    "Runtime",
    "ScoreAttack",
    "ScoreVictim",
    "Transforms",
    "Victim",
    "WhiteBoxAttack",
    "WhiteBoxVictim",
    "apply",
    "split_evenly",
    "to_uint8",
]
