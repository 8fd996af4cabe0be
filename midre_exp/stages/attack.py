"""The attack: reconstructions of every attacked identity, or of some of them (``attack.shard=3/16``), which a
run without ``attack.shard`` merges with the others.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, cast

from midre_exp.errors import UserError
from midre_exp.numerics import PRIOR_CALLS
from midre_exp.plan.config import Settings, without
from midre_exp.plan.deployment import NETWORK_CONFIDENCE, asks_answers
from midre_exp.plan.keys import StageKey
from midre_exp.plan.rounds import base_of, rounds_of
from midre_exp.plan.shards import SHARD, parse_shard, stored_shards
from midre_exp.plan.vary import seed_of
from midre_exp.stages.base import Fingerprint, Job, Remember, Requirement, Stage, lower
from midre_exp.stages.candidates import CandidatesStage, Search
from midre_exp.stages.classifier import Evaluator, Target, judges_phases
from midre_exp.stages.judging import keeps_floats
from midre_exp.stages.preflight import make_once, size_after
from midre_exp.stages.prior import PriorStage
from midre_exp.stages.requirements import dataset_of
from midre_exp.stages.surrogates import SurrogatesStage
from midre_exp.stages.tuned_prior import TunedPriorStage
from midre_exp.stages.victim import (
    VICTIM,
    Victims,
    answering_parts,
    informed_network,
    known_defense,
    load_victims,
)
from midre_exp.store.artifact import Artifact

if TYPE_CHECKING:  # torch
    from torch import Tensor

    from midre_exp.attack import Attack, Reconstructions
    from midre_exp.priors.base import Prior
    from midre_exp.stages.parts import Parts
    from midre_exp.threat import AnyVictim


class AttackStage(Stage):
    """Reconstruct the private identities; keep images, latents, queries and the target's agreement."""

    name = "attack"
    makers = ("midre_exp.attack_run", "midre_exp.numerics", *VICTIM)
    highlights = {"target_confidence": "target confidence {:.2f}"}

    def inputs(self, settings: Settings, fingerprint: Fingerprint) -> dict[str, Any]:
        steps, node = settings["metrics"]["image_to_evaluator"], base_of(settings["attack"])
        off = () if node.get("informed") else ("informed",)
        later = rounds_of(settings["attack"]) > 1
        return {
            "attack": without(node, "prior", "surrogates", "shard", "judged", *off),
            **({"keep_floats": keeps_floats(settings["attack"])} if later else {}),
            "seed": seed_of(settings, "attack"),
            **({"image_to_evaluator": steps} if judges_phases(settings) else {}),
        }

    def upstream(self, settings: Settings) -> tuple[str, ...]:
        judge = ("evaluator",) if judges_phases(settings) else ()
        answers = ("deployment",) if asks_answers(settings) else ()
        # of a later round starts are looked for with each identity's own prior
        drawn = "candidates" if rounds_of(settings["attack"]) == 1 else "tuned_prior"
        return ("target", *answers, "prior", "surrogates", drawn, *judge)

    def planned(self, settings: Settings, key: StageKey) -> StageKey:
        """A shard is an artifact of its own, named after the attack that it belongs to."""
        shard = parse_shard(settings["attack"]["shard"])
        if shard is None:
            return key
        config = {"attack": key.key, "shard": settings["attack"]["shard"]}
        return replace(key, name=SHARD, key=shard.key(key.key), config=config)

    def check(self, settings: Settings, parts: Parts) -> None:
        """The attack is one of the parts, and was made with them; here, whether the target takes what it
        shows.
        """
        pixels = int(settings["resolution"])
        made = int(settings["attack"]["prior"].get("image_size", pixels))
        seen = size_after(parts.attack.image_to_target, made)
        if seen != pixels:
            Target().check_size(settings, seen, "attack.image_to_target", parts.undefended)
        if parts.attack.informed:  # what defenses say of it may not go together
            known, answering = known_defense(settings, parts), answering_parts(settings)
            make_once(
                lambda: informed_network(
                    parts.attack, known, Target().untrained(settings, parts.trained), answering
                )
            )

    def make(
        self,
        job: Job,
        target: Artifact,
        prior: Artifact,
        surrogates: Artifact | None,
        candidates: Artifact | None = None,
        evaluator: Artifact | None = None,
        deployment: Artifact | None = None,
        tuned: Artifact | None = None,
    ) -> None:
        made = self.load(job, target, prior, surrogates, candidates, evaluator, deployment, tuned)
        if made.attack.informed:
            told = made.attack.told()
            job.work.metrics["informed"] = told
            for name, reason in told["reasons"].items():
                job.runtime.say(f"informed attacker, {name}: {reason}")
            for name in told["silent"]:
                job.runtime.say(
                    f"informed attacker, {name}: the defense does not say what an attacker does who knows it "
                    "(Defense.informed), so it is attacked as by one who does not"
                )
        shard = parse_shard(job.settings["attack"]["shard"])
        if shard is None:
            _attack_everyone(job, made)
        else:
            identities = shard.share(made.attack.identities)
            part = _attack(job, made, identities)
            job.work.save_tensors("part", part)
            asked = made.victims.asked
            job.work.metrics.update(queries=asked.queries, counts={"identities": len(identities)})

    def load(
        self,
        job: Job,
        target: Artifact,
        prior: Artifact,
        surrogates: Artifact | None,
        candidates: Artifact | None = None,
        evaluator: Artifact | None = None,
        deployment: Artifact | None = None,
        tuned: Artifact | None = None,
    ) -> _Made:
        """The attack with what was prepared for it; with tuned priors, one that has each identity its own."""
        # planning loads this module, and no torch
        from midre_exp.attack import build_attack
        from midre_exp.metrics.phases import PhaseJudge
        from midre_exp.targets.base import Classifier

        settings = job.settings
        if tuned is not None:  # that of the first round knows where its candidates lie
            job = replace(job, parts=replace(job.parts, attack=build_attack(settings["attack"], job.trusted)))
        attack = job.parts.attack
        victims = load_victims(job, target, deployment)
        classes = victims.asked.num_classes
        if surrogates is not None:
            attack.surrogates = SurrogatesStage().load(settings, surrogates, classes, job.runtime.device)
            for network in attack.surrogates.modules():
                if isinstance(network, Classifier):
                    job.numerics.accelerate(network)
        if candidates is not None:
            search = cast(Search, attack.search)  # type: ignore[attr-defined]
            search.pictures = CandidatesStage().load(candidates, search)
        if evaluator is not None:
            attack.judge = PhaseJudge(Evaluator().asked(job, evaluator))  # type: ignore[attr-defined]
        generator = PriorStage().load(settings, prior, classes)
        if tuned is not None:
            return _Made(_with_own_priors(job, attack, tuned), victims, generator, tuned)
        job.numerics.accelerate(generator, PRIOR_CALLS)
        return _Made(attack, victims, generator, None)

    def memory_remedy(self, settings: Settings) -> str:
        return lower(settings, "runtime.chunk", "attack.search.batch", "attack.selection.batch")

    def describe(self, settings: Settings) -> str:
        target = f"{settings['target']['name']} with {'+'.join(settings['defense'])}"
        attack = settings["attack"]
        informed = " informed" if attack.get("informed") else ""
        rounds = rounds_of(attack)
        which = f" round {rounds}" if rounds > 1 else ""
        copies = f" with {attack['expectation']['copies']} copies" if attack.get("expectation") else ""
        name = base_of(attack)["name"] if rounds == 1 else attack["name"]
        return f"{name}{which}{informed}{copies} on {target}"

    def needs(self, settings: Settings, remember: Remember) -> Iterator[Requirement]:
        wanted = settings["attack"]["identities"]
        try:
            private = dataset_of(settings, "private", remember)
            identities = remember(["identities", settings["data"]["private"]], private.num_identities)
        except UserError:  # told by the target, which needs the same images
            return
        if identities is not None and wanted > identities:
            yield Requirement(
                True,
                "identities",
                f"attack.identities={wanted} exceeds the {identities} private identities of the data; use "
                f"{identities} or fewer",
            )


@dataclass(frozen=True)
class _Made:
    """What an attack is carried out with."""

    attack: Attack[AnyVictim]
    victims: Victims
    prior: Prior
    tuned: Artifact | None  # the priors of a later round


def _with_own_priors(job: Job, attack: Attack[AnyVictim], tuned: Artifact) -> Attack[AnyVictim]:
    """The attack of a later round."""
    # planning loads this module, and no torch
    from midre_exp.attack import WhiteBoxAttack
    from midre_exp.tuning.own_generators import OwnGenerators

    assert isinstance(attack, WhiteBoxAttack)  # as the tuning has seen to
    states, floats = TunedPriorStage().load(tuned), keeps_floats(job.settings["attack"])
    own = OwnGenerators.of(attack, states, job.work.path, keep_floats=floats)
    return cast("Attack[AnyVictim]", own)


def _attack_everyone(job: Job, made: _Made) -> None:
    """Attack whom no stored shard has, and put all parts together."""
    from midre_exp.attack_run import merge_shards  # planning loads this module with the stages, and no torch

    pieces = stored_shards(job.store, job.planned.key, made.attack.identities)
    shards = [artifact for _, artifact in pieces if artifact is not None]
    if shards:
        job.runtime.say(f"{len(shards)} of {len(pieces)} shards of this attack are in the store")
    parts = [
        _attack(job, made, identities) if shard is None else shard.tensors("part")
        for identities, shard in pieces
    ]
    found = merge_shards(parts)
    job.runtime.tracker.images("reconstructions", found.images[:64], step=0)
    job.work.save_tensors("reconstructions", found.tensors())
    job.work.metrics.update(_numbers(made.attack, found))
    if made.tuned is not None:  # whose artifact need not last
        job.work.metrics["tuning"] = made.tuned.metrics["tuning"]
    if shards:
        job.work.metrics["shard_seconds"] = sum(shard.seconds for shard in shards)


def _attack(job: Job, made: _Made, identities: range) -> dict[str, Tensor]:
    from midre_exp.attack_run import run_shard  # as above

    part = run_shard(
        made.attack,
        made.victims.asked,
        made.prior,
        identities,
        seed=round_seed(job.settings),
        work=job.work.path,
        runtime=job.runtime,
        deployed=made.victims.deployed,
        network=made.victims.network,
    )
    if made.tuned is not None:
        _count_earlier(part, made.tuned, identities)
    return part


def round_seed(settings: Settings) -> int:
    """The seed of the attack in the last round of a run: that of the first is the base attack's."""
    from midre_exp.seeding import derive  # as above

    seed, number = seed_of(settings, "attack"), rounds_of(settings["attack"])
    return seed if number == 1 else derive(seed, "round", number)


def _count_earlier(part: dict[str, Tensor], tuned: Artifact, identities: range) -> None:
    """Add to the queries of each item those of earlier rounds and of tuning."""
    from midre_exp.attack_run import INITIAL_QUERIES  # as above

    part["queries"] = part["queries"] + TunedPriorStage().spent(tuned, identities)
    part[INITIAL_QUERIES] = part[INITIAL_QUERIES] + int(tuned.metrics["shared_queries"])


def _numbers(attack: Attack[AnyVictim], found: Reconstructions) -> dict[str, Any]:
    """What the record tells of an attack that is done."""
    failed, network = (found.details.get(name) for name in ("failed", NETWORK_CONFIDENCE))
    return {
        "threat": attack.threat.value,
        "queries": int(found.queries.sum()),
        "queries_per_identity": queries_per_identity(found.queries, found.labels),
        "target_confidence": float(found.confidence.mean()),
        **({} if network is None else {NETWORK_CONFIDENCE: float(network.mean())}),
        "counts": {
            "identities": attack.identities,
            "restarts": attack.restarts,
            "reconstructions": len(found.labels),
            **({} if failed is None else {"failed": int(failed.sum())}),
        },
    }


def queries_per_identity(queries: Tensor, labels: Tensor) -> dict[str, float]:
    """Mean, least and most of the ``queries`` int64 [n] spent on all reconstructions of one of the identities
    in ``labels`` int64 [n].
    """
    identities, place = labels.unique(return_inverse=True)
    each = queries.new_zeros(len(identities)).index_add(0, place, queries)
    return {"mean": float(each.double().mean()), "min": int(each.min()), "max": int(each.max())}
