"""One run, start to end:

    private data ─────► target      (architecture + defense, trained)  ──► acc
    public data  ─────► prior       (generator, for some attacks trained against the target)
    target, seen through a threat model + prior (+ surrogates) ──► attack ──► reconstructions
    private data ─────► evaluator   (independent, undefended; sees the same people at its own size)
    reconstructions + evaluator + private data ──► metrics ──► record

Each stage is built once under its key and taken from the store afterwards; a killed run goes on where it
stopped.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from midre_exp import stages
from midre_exp.plan.config import build
from midre_exp.plan.keys import make_plan, nodes_of
from midre_exp.plan.shards import parse_shard
from midre_exp.preflight import rehearse
from midre_exp.records import make_record, record_path, update_record
from midre_exp.runtime import make_runtime
from midre_exp.speed import Speed, make_speed
from midre_exp.stages import stored_shards
from midre_exp.store.store import Artifact, Store
from midre_exp.tracking.provenance import device_name


def run(settings: Mapping[str, Any]) -> Path:
    """Carry out one resolved config and return the path of its record; of a part of an attack, that of its
    artifact.

    Raises UserError for what the user can mend.
    """
    plan = make_plan(settings)
    store = Store(settings["paths"]["store"], patient=settings["plan"]["patient"])
    runtime = make_runtime(settings["runtime"])
    speed = make_speed(settings["speed"], runtime.device)
    trusted = tuple(settings["runtime"]["trusted_packages"])
    shard = parse_shard(settings["attack"]["shard"])
    record = record_path(settings["paths"]["results"], settings, plan)
    stages.check_writable(settings["paths"])

    private, public, judged = (build(node, trusted=trusted) for node in nodes_of(settings["data"]))
    defense = build({**settings["composer"], **settings["defense"]}, trusted=trusted)
    undefended = build(settings["composer"], trusted=trusted)
    # A mistake is to be told before a target is trained.
    rehearse(settings, plan, store, private, undefended, trusted)
    stage = partial(stages.build_stage, plan, store, runtime, settings, defense.label)

    def train_judge(patient: bool = True) -> Artifact:
        return stage(
            "evaluator",
            lambda work, runtime: stages.train_target(
                settings["evaluator"],
                judged,
                undefended,
                settings["evaluator"]["seed"],
                work,
                runtime,
                trusted,
            ),
            patient=patient,
        )

    # While another process builds what this run needs next, it trains the judge, which needs nothing else; a
    # shard has none.
    meanwhile = partial(train_judge, patient=False) if shard is None else None

    target = stage(
        "target",
        lambda work, runtime: stages.train_target(
            settings["target"], private, defense, settings["seed"], work, runtime, trusted
        ),
        meanwhile=meanwhile,
    )

    def victim(speed: Speed = Speed()) -> Any:  # noqa: B008 (frozen)
        return stages.load_victim(settings, target, defense, runtime, trusted, speed)

    prior = stage(
        "prior",
        lambda work, runtime: stages.train_prior(
            settings["attack"]["prior"], public, victim, work, runtime, trusted
        ),
        meanwhile=meanwhile,
    )
    surrogates = "surrogates" in plan.stages and stage(
        "surrogates",
        lambda work, runtime: stages.train_surrogates(
            settings["attack"]["surrogates"], public, victim(), work, runtime, trusted
        ),
    )

    def attacker() -> Any:
        return stages.load_attack(
            settings["attack"], victim(speed), prior, surrogates or None, runtime, trusted, speed
        )

    if shard is not None:
        part = stage(
            "shard",
            lambda work, runtime: stages.run_shard(attacker(), shard, settings["seed"], work, runtime),
        )
        return part.path
    attack = stage(
        "attack",
        lambda work, runtime: stages.run_attack(
            attacker(),
            stored_shards(store, plan["attack"].key, settings["attack"]["identities"]),
            settings["seed"],
            work,
            runtime,
        ),
    )

    evaluator = train_judge()

    def judge() -> Any:
        return stages.load_target(settings["evaluator"], evaluator, undefended, trusted)

    metrics = stage(
        "metrics",
        lambda work, runtime: stages.measure(
            settings["metrics"], attack, judge(), judged, work, runtime, trusted
        ),
    )

    built = (target, evaluator, prior, surrogates, attack, metrics)
    artifacts = {artifact.stage: artifact for artifact in built if artifact}
    content = make_record(
        settings, plan, artifacts, defense_label=defense.label, device=device_name(runtime.device)
    )
    update_record(record, content)
    stages.show_record(settings, content, runtime)
    return record
