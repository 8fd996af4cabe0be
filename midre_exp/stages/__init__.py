"""The stages of a run, one file each."""

from midre_exp.stages.base import Requirement, Stage
from midre_exp.stages.graph import (
    STAGES,
    attack,
    candidates,
    evaluator,
    evaluator_pretraining,
    features,
    make_plan,
    metrics,
    open_set,
    pretraining,
    prior,
    surrogates,
    target,
    trait_reader,
    traits,
    verifier,
)

__all__ = [
    "STAGES",
    "Requirement",
    "Stage",
    "attack",
    "candidates",
    "evaluator",
    "evaluator_pretraining",
    "features",
    "make_plan",
    "metrics",
    "open_set",
    "pretraining",
    "prior",
    "surrogates",
    "target",
    "trait_reader",
    "traits",
    "verifier",
]
