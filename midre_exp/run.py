"""One run, start to end:

    private data ──┬──► target      (architecture + defense, trained)  ──► acc
                   └──► evaluator   (independent, undefended)
    public data  ─────► prior       (generator, for some attacks trained against the target)
    target, seen through a threat model + prior ──► attack ──► reconstructions
    reconstructions + evaluator + private data ──► metrics ──► record

Each stage is built once under its key and taken from the store afterwards; a killed run goes on where it stopped.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from midre_exp import stages
from midre_exp.config import build
from midre_exp.keys import make_plan
from midre_exp.records import device_name, make_record, record_path, write_record
from midre_exp.runtime import Runtime, make_runtime
from midre_exp.store import Artifact, Store, Workspace
from midre_exp.tracking import track


def run(settings: Mapping[str, Any]) -> Path:
    """Carry out one resolved config and return the path of its record. Raises UserError for what the user can mend."""
    plan = make_plan(settings)
    store = Store(settings["paths"]["store"])
    runtime = make_runtime(settings["runtime"])
    allow = tuple(settings["runtime"]["allow"])

    private, public = (build(settings["data"][role], allow=allow) for role in ("private", "public"))
    defense = build({**settings["composer"], **settings["defense"]}, allow=allow)
    undefended = build(settings["composer"], allow=allow)

    def stage(name: str, make: Callable[[Workspace, Runtime], None]) -> Artifact:
        """The artifact of one stage: from the store, or made now under the stage's tracker."""

        def tracked(work: Workspace) -> None:
            runtime.say(f"{name} {plan[name].key}: building")
            with track(
                settings["tracking"],
                stage=name,
                group=settings["setup"]["id"],
                tags=(settings["attack"]["name"], defense.label, settings["scale"]),
                config=plan[name].config,
                folder=Path(settings["paths"]["runs"]) / "wandb" / f"{name}-{plan[name].key}",
            ) as tracker:
                make(work, replace(runtime, tracker=tracker))

        artifact = store.build(
            name, plan[name].key, config=plan[name].config, upstream=plan[name].upstream, make=tracked
        )
        runtime.say(stages.sentence(name, artifact))
        return artifact

    def target_stage(work: Workspace, runtime: Runtime) -> None:
        stages.train_target(settings["target"], private, defense, settings["seed"], work, runtime, allow)

    def evaluator_stage(work: Workspace, runtime: Runtime) -> None:
        node = settings["evaluator"]
        stages.train_target(node, private, undefended, node["seed"], work, runtime, allow)

    target = stage("target", target_stage)
    evaluator = stage("evaluator", evaluator_stage)

    def victim() -> Any:
        model = stages.load_target(settings["target"], target, defense, allow)
        return stages.make_attack_victim(model, settings["attack"], target, runtime, allow)

    def prior_stage(work: Workspace, runtime: Runtime) -> None:
        stages.train_prior(settings["attack"]["prior"], public, victim, work, runtime, allow)

    prior = stage("prior", prior_stage)

    def attack_stage(work: Workspace, runtime: Runtime) -> None:
        stages.run_attack(settings["attack"], victim(), prior, settings["seed"], work, runtime, allow)

    attack = stage("attack", attack_stage)

    def metrics_stage(work: Workspace, runtime: Runtime) -> None:
        judge = stages.load_target(settings["evaluator"], evaluator, undefended, allow)
        stages.measure(settings["metrics"], attack, judge, private, work, runtime, allow)

    metrics = stage("metrics", metrics_stage)

    artifacts = {
        "target": target,
        "evaluator": evaluator,
        "prior": prior,
        "attack": attack,
        "metrics": metrics,
    }
    record = make_record(
        settings, plan, artifacts, defense_label=defense.label, device=device_name(runtime.device)
    )
    path = record_path(settings["paths"]["results"], settings, plan)
    write_record(path, record)
    return path
