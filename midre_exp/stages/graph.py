"""The stages in the order of a run, and the plan of a run: the key of each before anything is built."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from midre_exp.cards.named import with_files
from midre_exp.numerics import in_key
from midre_exp.plan.config import Settings, digest, trusted_packages
from midre_exp.plan.keys import Plan, StageKey, fingerprint, node_of, stage_key
from midre_exp.plan.suite import is_suite, members_of
from midre_exp.plan.trust import check_names
from midre_exp.plan.validate import check_settings
from midre_exp.stages.attack import AttackStage
from midre_exp.stages.base import Stage
from midre_exp.stages.candidates import CandidatesStage
from midre_exp.stages.classifier import Evaluator, Target
from midre_exp.stages.deployment import DeploymentStage
from midre_exp.stages.diagnostics import AlignmentStage, DiagnosticsStage, TrapStage
from midre_exp.stages.extraction import CeilingStage, ExtractionStage
from midre_exp.stages.features import FeaturesStage
from midre_exp.stages.jury import JuryStage, further
from midre_exp.stages.metrics import MetricsStage
from midre_exp.stages.pretraining import EvaluatorPretraining, Pretraining
from midre_exp.stages.prior import PriorStage
from midre_exp.stages.requirements import ROLES
from midre_exp.stages.rounds import earlier_rounds
from midre_exp.stages.shadows import LiraStage, shadows_of
from midre_exp.stages.surrogates import SurrogatesStage
from midre_exp.stages.traits import TraitReaderStage, TraitsStage
from midre_exp.stages.tuned_prior import TunedPriorStage
from midre_exp.stages.verdicts import VerdictsStage
from midre_exp.stages.verification import OpenSetStage, VerifierStage
from midre_exp.store.names import stored_as

pretraining = Pretraining()
target = Target()
deployment = DeploymentStage()
evaluator_pretraining = EvaluatorPretraining()
evaluator = Evaluator()
features = FeaturesStage()
prior = PriorStage()
surrogates = SurrogatesStage()
candidates = CandidatesStage()
tuned_prior = TunedPriorStage()
attack = AttackStage()
metrics = MetricsStage()
verifier = VerifierStage()
open_set = OpenSetStage()
trait_reader = TraitReaderStage()
traits = TraitsStage()
diagnostics = DiagnosticsStage()
alignment = AlignmentStage()
trap = TrapStage()
lira = LiraStage()
extraction = ExtractionStage()
extraction_ceiling = CeilingStage()
verdicts = VerdictsStage()
jury = JuryStage()

#: In the order in which they stand in plans, tables of seconds and records; those of further judges and of
#: earlier rounds ``stages_of``.
STAGES: tuple[Stage, ...] = (
    pretraining,
    target,
    deployment,
    evaluator_pretraining,
    evaluator,
    features,
    prior,
    surrogates,
    candidates,
    tuned_prior,
    attack,
    metrics,
    verdicts,
    verifier,
    open_set,
    trait_reader,
    traits,
    diagnostics,
    lira,
    alignment,
    trap,
    extraction,
    extraction_ceiling,
    jury,
)


def stages_of(settings: Settings) -> tuple[Stage, ...]:
    """All that a run with these settings may have: those of earlier rounds before what is made of them,
    shadows of its target before they are asked, those of its further judges before they are asked how far
    they agree.
    """
    own = [stage for judge in settings.get("jury") or () for stage in further(judge)]
    rounds = [stage for one in earlier_rounds(settings) for stage in one.before_the_next]
    first, before = STAGES.index(tuned_prior), STAGES.index(lira)
    shadows = shadows_of(settings)
    return (*STAGES[:first], *rounds, *STAGES[first:before], *shadows, *STAGES[before:-1], *own, STAGES[-1])


def make_plan(settings: Settings) -> Plan:
    """The plan of a run from its resolved config. Datasets are asked for their fingerprints; nothing is
    trained or decoded. With ``attack.shard`` it ends with that part of the attack; nothing is evaluated.

    That of a suite of attacks has the plans of its members; its own key is a digest of theirs.

    Raises UserError when a dataset is missing or a part of the config cannot be built.
    """
    if is_suite(settings):
        return _plan_of_suite(settings)
    check_settings(settings)
    check_names(settings, trusted_packages(settings))
    settings = with_files(settings)

    known: dict[str, Mapping[str, object]] = {}

    def images(node: Mapping[str, Any], role: str) -> Mapping[str, object]:
        name = digest([node, role])
        if name not in known:
            known[name] = fingerprint(node, role, trusted_packages(settings))
        return known[name]

    planned: dict[str, StageKey] = {}
    whole: dict[str, StageKey] = {}  # keys of others name an attack, never a shard of it
    for stage in stages_of(settings):
        if stage.is_part_of(settings):
            looked_at: dict[str, Mapping[str, Any]] = {}

            def fingerprint_of(
                name: str,
                seen: dict[str, Mapping[str, Any]] = looked_at,
                data: Mapping[str, Any] = stage.sees(settings)["data"],
            ) -> Mapping[str, object]:
                seen[name] = node_of(data, name)
                return images(seen[name], ROLES[name])

            inputs = {**stage.inputs(settings, fingerprint_of), "numerics": in_key(settings["numerics"])}
            below = {name: planned[name] for name in stage.upstream(settings) if name in planned}
            key = stage_key(
                stored_as(stage.name),
                stage.version,
                inputs,
                {stored_as(name): whole[name] for name, other in below.items() if other.in_later_keys},
                makers=stage.makers,
                data=list(looked_at.values()),
                trusted=trusted_packages(settings),
                store=settings["paths"]["store"],
            )
            key = replace(
                key,
                name=stage.name,
                upstream={name: other.key for name, other in below.items()},
                is_intermediate=stage.is_intermediate,
                in_later_keys=stage.changes_later or not stage.is_intermediate,
                in_run_key=stage.in_run_key and not stage.is_intermediate,
            )
            whole[stage.name], planned[stage.name] = key, stage.planned(settings, key)
    stages = {key.name: key for key in planned.values()}
    run = {
        "setup": settings["setup"]["id"],
        "scale": settings["scale"],
        "stages": [key.key for key in stages.values() if key.in_run_key],
    }
    return Plan(digest(run), stages)


def _plan_of_suite(settings: Settings) -> Plan:
    members = {name: make_plan(member) for name, member in members_of(settings).items()}
    attack = settings["attack"]
    shown = ("budget", "probes")
    suite = {
        "suite": attack["name"],
        "leading": attack["leading"],
        "members": {
            name: [plan.key, *(attack["members"][name][key] for key in shown)]
            for name, plan in members.items()
        },
    }
    stages = {f"{name}/{stage}": key for name, plan in members.items() for stage, key in plan.stages.items()}
    return Plan(digest(suite), stages, members)
