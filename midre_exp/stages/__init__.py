"""The stages of a run, one file each."""

from midre_exp.stages.base import Requirement, Stage
from midre_exp.stages.graph import (
    STAGES,
    attack,
    candidates,
    deployment,
    evaluator,
    evaluator_pretraining,
    features,
    jury,
    make_plan,
    metrics,
    open_set,
    pretraining,
    prior,
    stages_of,
    surrogates,
    target,
    trait_reader,
    traits,
    verdicts,
    verifier,
)
from midre_exp.stages.jury import further
from midre_exp.stages.seen_by import behind

__all__ = [
    "STAGES",
    "Requirement",
    "Stage",
    "attack",
    "behind",
    "candidates",
    "deployment",
    "evaluator",
    "evaluator_pretraining",
    "features",
    "further",
    "jury",
    "make_plan",
    "metrics",
    "open_set",
    "pretraining",
    "prior",
    "stages_of",
    "surrogates",
    "target",
    "trait_reader",
    "traits",
    "verdicts",
    "verifier",
]
