"""One run, start to end:

    public people ────► pretraining (networks for target and evaluator to start from, where weights: public)
    private data ─────► target      (architecture + defense, trained)  ──► acc
    target ───────────► deployment  (what it answers instead, where a defense acts there)
    private data ─────► evaluator   (independent, undefended; sees the same identities at its own size)
    public data  ─────► prior       (generator, for some attacks trained against the target)
    target, seen through a threat model + prior (+ surrogates) ──► attack ──► reconstructions
    the best reconstructions + prior ──► tuned_prior (one of each identity) ──► attack, in its next round
    reconstructions + evaluator + private data ──► metrics ──► record
    other people ──► verifier, trait_reader (if asked for) ──► open_set, traits ──► record
    target, shadows of it ──► lira (if asked for) ──► record
    target ──► diagnostics, with the prior ──► alignment (if asked for) ──► record
    reconstructions, and as many real images ──► extraction, extraction_ceiling (if asked for) ──► record
    reconstructions, random pictures of the prior ──► verdicts (of each judge) ──► jury (do they agree?)

Two more stages only spare work that is the same in many runs: ``features`` (what the evaluator sees in
private images) and ``candidates`` (the pictures among which an attack looks for starts).

Each stage is built once under its key and taken from the store afterwards; a killed run goes on where it
stopped.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from midre_exp import stages
from midre_exp.cards.named import with_files
from midre_exp.errors import ConfigError
from midre_exp.executor import Executor
from midre_exp.plan.shards import SHARD
from midre_exp.plan.suite import is_suite
from midre_exp.records import make_record, record_path, update_record
from midre_exp.stages.parts import make_parts
from midre_exp.stages.trained_with import defense_label
from midre_exp.tracking.provenance import device_name
from midre_exp.tracking.record import show_record


def run(settings: Mapping[str, Any]) -> Path:
    """Carry out one resolved config and return the path of its record; of a part of an attack
    (``attack.shard``), that of its artifact.

    Raises UserError for what the user can mend, LockedError where ``plan.wait`` is off and another process is
    building what the run needs.
    """
    if is_suite(settings):
        raise ConfigError(
            f"attack={settings['attack']['name']} is a suite of several runs; carry it out by "
            "midre_exp.sweep.job.carry_out(settings), or on the command line"
        )
    plan = stages.make_plan(settings)
    found = with_files(settings)
    parts = make_parts(found)  # a mistake in one of them is told here
    with Executor(found, plan, parts) as build:
        start = build(stages.pretraining, parts.pretraining, parts.undefended)
        target = build(stages.target, parts.private, parts.trained, start)
        deployment = build(stages.deployment, target, parts.private)
        its_start = build(stages.evaluator_pretraining, parts.evaluator_pretraining, parts.undefended)
        evaluator = build(stages.evaluator, parts.evaluation, parts.undefended, its_start)
        features = build(stages.features, parts.evaluation, evaluator)
        prior = build(stages.prior, parts.public, target, deployment)
        surrogates = build(stages.surrogates, parts.public, target, deployment, prior)
        candidates = build(stages.candidates, prior)
        tuned = None
        for earlier in stages.earlier_rounds(found):  # of an attack in rounds
            first = build(earlier.attack, target, prior, surrogates, candidates, evaluator, deployment, tuned)
            build(earlier.metrics, first, evaluator, parts.evaluation, features, prior)
            tuned = build(earlier.tuned_prior, target, prior, first, tuned, parts.public)
        attack = build(stages.attack, target, prior, surrogates, candidates, evaluator, deployment, tuned)
        metrics = build(stages.metrics, attack, evaluator, parts.evaluation, features, prior)
        verifier = build(stages.verifier, parts.verification)
        open_set = build(stages.open_set, attack, verifier, parts.evaluation)
        reader = build(stages.trait_reader, parts.traits)
        build(stages.traits, attack, reader, metrics, open_set, parts.evaluation)
        build(stages.diagnostics, target, parts.private)
        shadows = [build(one, parts.private, parts.trained, start) for one in stages.shadows_of(settings)]
        build(stages.lira, parts.private, target, *shadows)
        build(stages.alignment, target, prior)
        build(stages.trap, target, attack, parts.private)
        build(stages.extraction, attack, parts.evaluation, its_start)
        build(stages.extraction_ceiling, parts.evaluation, its_start)
        verdicts = [build(stages.verdicts, attack, evaluator, prior, metrics)]
        for judge, seen in parts.jury.items():
            own = stages.further(judge)
            start = build(own.pretraining, seen.evaluator_pretraining, seen.undefended)
            trained = build(own.evaluator, seen.evaluation, seen.undefended, start)
            verdicts.append(build(own.verdicts, attack, trained, prior))
        build(stages.jury, *verdicts)
    if SHARD in plan.stages:  # a part of an attack leaves no record
        return build.artifacts[SHARD].path
    return write_record(settings, build)


def write_record(settings: Mapping[str, Any], build: Executor) -> Path:
    """The record of a finished run, on disk and in the tracker."""
    path = record_path(settings["paths"]["results"], settings, build.plan)
    label = defense_label(settings, build.parts.defense.label)
    device = device_name(build.runtime.device)
    record = make_record(
        settings, build.plan, build.artifacts, defense_label=label, device=device, commit=build.commit
    )
    if "deployment" in record and record["deployment"]["bypassed"]:
        build.runtime.say(
            f"{record['attack']} holds the network and goes past {'+'.join(record['deployment']['parts'])}: "
            "its results are those without"
        )
    update_record(path, record)
    show_record(settings, record, build.runtime.say)
    return path
