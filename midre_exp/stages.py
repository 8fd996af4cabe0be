"""What each of the five stages does, from settings and upstream artifacts to files of its own. ``run.py``
puts them in order.

Heavy imports stand inside the functions: a run that finds everything in the store never loads them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from midre_exp.attack import build_attack
from midre_exp.plan.config import Trusted
from midre_exp.plan.shards import KEY
from midre_exp.plan.shards import STAGE as SHARD

if TYPE_CHECKING:
    from midre_exp.store.store import Artifact, Store

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from midre_exp.data.base import Dataset
from midre_exp.errors import UserError
from midre_exp.plan.config import without
from midre_exp.plan.keys import Plan, is_pretrained, uses_target
from midre_exp.runtime import Runtime
from midre_exp.speed import PRIOR_CALLS, Speed
from midre_exp.store.files import write_atomic
from midre_exp.store.store import Artifact, Store, Workspace
from midre_exp.tracking.provenance import device_name
from midre_exp.tracking.tracker import track

if TYPE_CHECKING:
    from torch import Tensor

    from midre_exp.plan.shards import Shard
    from midre_exp.priors.base import Prior
    from midre_exp.surrogates.base import Surrogates
    from midre_exp.targets.base import Classifier
    from midre_exp.threat import AnyVictim

Make = Callable[[Workspace, Runtime], None]


def build_stage(
    plan: Plan,
    store: Store,
    runtime: Runtime,
    settings: Mapping[str, Any],
    defense_label: str,
    name: str,
    make: Make,
    meanwhile: Callable[[], object] | None = None,
    patient: bool = True,
) -> Artifact:
    """The artifact of one stage: from the store, or made now under a tracker of its own. Says what happens in
    a line each.

    ``meanwhile`` and ``patient`` are those of ``Store.build``, for a stage that another process is building.
    """
    stage = plan[name]

    def tracked(work: Workspace) -> None:
        runtime.say(f"{name} {stage.key}: building")
        with track(
            {"mode": "off"} if name == "metrics" else settings["tracking"],  # show_record tells of these
            stage=name,
            group=settings["setup"]["id"],
            tags=(settings["attack"]["name"], defense_label, settings["scale"]),
            config={
                **without(settings, "plan"),
                "stage": {"name": name, "key": stage.key, "defense": defense_label},
            },
            folder=Path(settings["paths"]["runs"]) / "wandb" / f"{name}-{stage.key}",
        ) as tracker:
            make(work, replace(runtime, tracker=tracker))

    artifact = store.build(
        name,
        stage.key,
        config=stage.config,
        upstream=stage.upstream,
        make=tracked,
        device=device_name(runtime.device),
        wait_message=runtime.say,
        meanwhile=meanwhile,
        patient=patient,
    )
    runtime.say(sentence(name, artifact))
    return artifact


def check_writable(paths: Mapping[str, str]) -> None:
    """Find out before hours of work whether results can be written. Raises StoreError naming the folder."""
    for name in ("store", "runs", "results"):
        probe = Path(paths[name]) / f".probe-{os.getpid()}"
        write_atomic(probe, "")
        probe.unlink()


def train_target(
    node: Mapping[str, Any],
    private: Dataset,
    defense: Any,
    seed: int,
    work: Workspace,
    runtime: Runtime,
    trusted: Trusted,
) -> None:
    """Train (or load from ``node.checkpoint``) a classifier of the private identities and keep weights,
    accuracy and training history.
    """
    from midre_exp.targets.training.published import published_classifier
    from midre_exp.targets.training.train import train_classifier

    train = private.load("train")
    make = train_classifier if node["checkpoint"] is None else published_classifier
    model, numbers, history = make(
        node,
        private,
        defense,
        seed=seed,
        work=work.path,
        runtime=runtime,
        title=f"training {node['name']}",
        trusted=trusted,
    )
    work.save_tensors("weights", model.state_dict())
    work.save_json("history", history)
    work.metrics.update(
        numbers,
        counts={
            "private_identities": train.num_classes,
            "private_train": len(train),
            "private_test": len(private.load("test")),
        },
    )


def load_target(node: Mapping[str, Any], artifact: Artifact, defense: Any, trusted: Trusted) -> Classifier:
    """Rebuild a trained classifier from its artifact, in the form that is attacked."""
    from midre_exp.targets.assemble import assemble

    model = assemble(
        node, int(artifact.metrics["counts"]["private_identities"]), defense, seed=0, trusted=trusted
    )
    model.load_state_dict(artifact.tensors("weights"))
    defense.on_inference(model)
    return model.eval()


def load_victim(
    settings: Mapping[str, Any],
    artifact: Artifact,
    defense: Any,
    runtime: Runtime,
    trusted: Trusted,
    speed: Speed = Speed(),  # noqa: B008 (frozen)
) -> AnyVictim:
    """The trained target as the threat model of the attack shows it."""
    from midre_exp.threat import make_victim

    model = load_target(settings["target"], artifact, defense, trusted).to(runtime.device)
    speed.accelerate(model)
    threat = build_attack(settings["attack"], trusted).threat
    return make_victim(model, int(artifact.metrics["counts"]["private_identities"]), threat)


def train_prior(
    node: Mapping[str, Any],
    public: Dataset,
    victim: Callable[[], AnyVictim],
    work: Workspace,
    runtime: Runtime,
    trusted: Trusted,
) -> None:
    """Train the attacker's generator on public images, or load it; only a prior that declares it sees the
    target.
    """
    from midre_exp.priors.base import initial_prior

    images = None if is_pretrained(node) else public.load("public")
    seen = victim() if uses_target(node) else None
    prior = initial_prior(node, trusted, num_classes=seen.num_classes if seen else None)
    numbers = prior.fit(images, seen, seed=node["seed"], work=work.path, runtime=runtime)
    work.save_tensors("weights", prior.state_dict())
    work.metrics.update(numbers, counts={"public": 0 if images is None else len(images)})


def train_surrogates(
    node: Mapping[str, Any],
    public: Dataset,
    victim: AnyVictim,
    work: Workspace,
    runtime: Runtime,
    trusted: Trusted,
) -> None:
    """Prepare what an attack needs of this target besides its prior."""
    from midre_exp.surrogates.base import initial_surrogates

    images = public.load("public")
    made = initial_surrogates(node, victim.num_classes, trusted)
    numbers = made.fit(images, victim, seed=node["seed"], work=work.path, runtime=runtime)
    work.save_tensors("weights", made.state_dict())
    work.metrics.update(numbers, counts={"public": len(images)})


def load_attack(
    node: Mapping[str, Any],
    victim: AnyVictim,
    prior_artifact: Artifact,
    surrogates_artifact: Artifact | None,
    runtime: Runtime,
    trusted: Trusted,
    speed: Speed,
) -> tuple[Any, AnyVictim, Prior]:
    """The attack with what was prepared for it, its victim and its trained prior."""
    from midre_exp.priors.base import initial_prior

    attack = build_attack(node, trusted)
    if surrogates_artifact is not None:
        attack.surrogates = load_surrogates(node["surrogates"], surrogates_artifact, victim, runtime, trusted)
    prior = initial_prior(node["prior"], trusted, num_classes=victim.num_classes)
    prior.load_state_dict(prior_artifact.tensors("weights"))
    speed.accelerate(prior, PRIOR_CALLS)
    return attack, victim, prior


def run_shard(
    attacker: tuple[Any, AnyVictim, Prior], shard: Shard, seed: int, work: Workspace, runtime: Runtime
) -> None:
    """Reconstruct some of the identities."""
    attack, victim, prior = attacker
    people = shard.people(attack.identities)
    part = attack.part(victim, prior, people, seed=seed, work=work.path, runtime=runtime)
    work.save_tensors("part", part)
    work.metrics.update(queries=victim.queries, counts={"identities": len(people)})


def run_attack(
    attacker: tuple[Any, AnyVictim, Prior],
    pieces: Sequence[tuple[range, Artifact | None]],
    seed: int,
    work: Workspace,
    runtime: Runtime,
) -> None:
    """Reconstruct every attacked identity, as far as no stored shard has, and keep images, latents and the
    target's agreement.
    """
    attack, victim, prior = attacker
    shards = [artifact for _, artifact in pieces if artifact is not None]
    if shards:
        runtime.say(f"{len(shards)} of {len(pieces)} shards of this attack are in the store")
    found = attack.merge(
        [
            attack.part(victim, prior, people, seed=seed, work=work.path, runtime=runtime)
            if artifact is None
            else artifact.tensors("part")
            for people, artifact in pieces
        ]
    )
    runtime.tracker.images("reconstructions", found.images[:64], step=0)
    work.save_tensors("reconstructions", found.tensors())
    failed = found.details.get("failed")
    work.metrics.update(
        threat=attack.threat.value,
        queries=int(found.queries.sum()),
        queries_per_identity=per_identity(found.queries, found.labels),
        target_confidence=float(found.confidence.mean()),
        counts={
            "identities": attack.identities,
            "restarts": attack.restarts,
            "reconstructions": len(found.labels),
            **({} if failed is None else {"failed": int(failed.sum())}),
        },
    )
    if shards:
        work.metrics["shard_seconds"] = sum(shard.seconds for shard in shards)


def per_identity(queries: Tensor, labels: Tensor) -> dict[str, float]:
    """Mean, least and most of the ``queries`` int64 [n] spent on all reconstructions of one of the identities
    in ``labels`` int64 [n].
    """
    people, place = labels.unique(return_inverse=True)
    each = queries.new_zeros(len(people)).index_add(0, place, queries)
    return {"mean": float(each.double().mean()), "min": int(each.min()), "max": int(each.max())}


def load_surrogates(
    node: Mapping[str, Any], artifact: Artifact, victim: AnyVictim, runtime: Runtime, trusted: Trusted
) -> Surrogates:
    """What was prepared against this target, frozen and in eval mode on the device."""
    from midre_exp.surrogates.base import initial_surrogates

    made = initial_surrogates(node, victim.num_classes, trusted)
    made.restore(artifact.tensors("weights"))
    return made.to(runtime.device).eval().requires_grad_(False)


def measure(
    node: Mapping[str, Any],
    attack: Artifact,
    evaluator: Classifier,
    judged: Dataset,
    work: Workspace,
    runtime: Runtime,
    trusted: Trusted,
) -> None:
    """Judge the reconstructions; a metric that cannot be computed is kept by name with its reason."""
    from midre_exp.metrics.evaluate import evaluate, hits_by_identity

    made = attack.tensors("reconstructions")
    numbers, missing, predicted = evaluate(
        node,
        made,
        evaluator,
        judged.load("train"),
        device=runtime.device,
        trusted=trusted,
    )
    if missing:
        runtime.say(f"metrics not measured: {', '.join(missing)}; the record says why")
    work.save_tensors("judgement", {"predicted": predicted})
    by_identity = {"att_acc1": hits_by_identity(made, predicted)}
    counted = int(made["selected"].sum()) if "selected" in made else len(predicted)
    work.metrics.update(numbers, missing=missing, per_identity=by_identity, counts={"counted": counted})


def show_record(settings: Mapping[str, Any], record: Mapping[str, Any], runtime: Runtime) -> None:
    """Hand a finished run's record to the tracker. The run is done whatever comes of it, so trouble is only
    told.
    """
    if settings["tracking"]["mode"] == "off":
        return
    from midre_exp.tracking.record import push_record

    try:
        push_record(record, settings["tracking"], settings["paths"])
    except UserError as error:
        runtime.say(f"the record is not in W&B: {error}; python -m midre_exp.report wandb does it later")


def sentence(name: str, artifact: Artifact) -> str:
    """What a user wants to know about a finished stage, in one line."""
    shown = {
        "acc": "acc {:.1f} %",
        "att_acc1": "attack accuracy {:.1f} %",
        "target_confidence": "target confidence {:.2f}",
    }
    facts = [text.format(artifact.metrics[key]) for key, text in shown.items() if key in artifact.metrics]
    return ", ".join([f"{name} {artifact.key}: ready ({artifact.seconds:.0f} s)", *facts])


def stored_shards(store: Store, attack: str, identities: int) -> list[tuple[range, Artifact | None]]:
    """All identities in order as ranges, each with the shard that holds it or None: the split of which most
    is in the store.

    Damaged shards count as absent.
    """
    numbers: dict[int, dict[int, Artifact]] = {}
    for folder in sorted((store.root / SHARD).glob(f"{attack}-*of*/")):
        match = KEY.fullmatch(folder.name.removeprefix(f"{attack}-"))
        if match and int(match[2]) <= identities and (artifact := store.find(SHARD, folder.name)):
            numbers.setdefault(int(match[2]), {})[int(match[1])] = artifact
    if not numbers:
        return [(range(identities), None)]
    count, found = max(numbers.items(), key=lambda item: len(item[1]) / item[0])
    return [(Shard(number, count).people(identities), found.get(number)) for number in range(1, count + 1)]
