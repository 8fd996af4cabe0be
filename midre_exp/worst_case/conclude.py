"""The record of a suite of attacks, from the records and artifacts of its members and a look at the target.

It is a record as of a run, whose attack accuracy is the worst case; ``suite`` tells of the members, the
aggregations and the alarms.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple, cast

import numpy as np
import torch
from torch import Tensor

from midre_exp.cards.named import with_files
from midre_exp.data.transforms import Resize
from midre_exp.errors import ConfigError, StoreError
from midre_exp.numerics import make_numerics
from midre_exp.plan.config import Settings, without
from midre_exp.plan.deployment import NETWORK_CONFIDENCE
from midre_exp.plan.keys import Plan
from midre_exp.plan.suite import members_of
from midre_exp.records import Record, read_record, record_path, update_record
from midre_exp.records.claims import registered_claims
from midre_exp.runtime import Runtime, make_runtime
from midre_exp.stages.classifier import Target
from midre_exp.stages.deployment import DeploymentStage
from midre_exp.stages.parts import make_parts
from midre_exp.stages.stored import finite_tensors
from midre_exp.store.store import Store, versions
from midre_exp.threat import ScoreVictim, Threat, Victim, WhiteBoxVictim
from midre_exp.tracking.provenance import git_commit
from midre_exp.tracking.record import show_record
from midre_exp.worst_case.aggregate import Numbers, aggregate, chosen, intervals, lead
from midre_exp.worst_case.alarms import SENTENCES, Evidence, raised
from midre_exp.worst_case.checks import Checks, check_target, liking

#: Images of the leading member that the target is checked with, one of each identity.
_CHECKED = 32
#: From which probability on the target is sure, and the false accept rate of the judge beside it.
_CONFIDENT, _FAR = 0.9, 0.01


class Made(NamedTuple):
    """What one member left."""

    record: Record
    node: Mapping[str, Any]  # of attack.members
    hits: Numbers  # percent by identity
    liked: Numbers  # mean of the target's liking by identity
    sure: float | None = None  # percent of its reconstructions that the target is sure of; None: labels alone

    @property
    def counts(self) -> bool:
        """Whether it is one of the attacks that the worst case is of."""
        return self.node["budget"] is None and self.node["probes"] != "starts"

    @property
    def accuracy(self) -> float:
        """Percent, every identity alike."""
        return float(self.hits.mean())

    @property
    def threat(self) -> str:
        """What it saw."""
        return self.record.get("threat", Threat.WHITE_BOX.value)

    @property
    def attack(self) -> dict[str, Any]:
        """Its node of the config."""
        return cast(dict[str, Any], self.record["config"]["attack"])

    @property
    def informed(self) -> bool:
        """Whether it knew the defense."""
        return self.attack.get("informed") is True


def conclude(settings: Settings, plan: Plan) -> Path:
    """Write the record of a suite whose members are finished; returns its path. Raises UserError where one is
    not, or was of other identities than the rest.
    """
    path = record_path(settings["paths"]["results"], settings, plan)
    runtime = make_runtime(settings["runtime"], make_numerics(settings["numerics"]))
    with runtime.numerics.applied(runtime.device):
        victim, deployed = _load_target(settings, plan, runtime)
        members = _members(settings, plan, victim, runtime)
        checks = _check(settings, plan, victim, deployed, runtime)
    record = suite_record(settings, plan, members, checks)
    update_record(path, record)
    show_record(settings, record, runtime.say)
    for sentence in record.get("alarms", {}).get("suite", ()):
        runtime.say(f"ALARM: {sentence}")
    return path


def _load_target(
    settings: Settings, plan: Plan, runtime: Runtime
) -> tuple[WhiteBoxVictim, ScoreVictim | None]:
    """The target with gradients, and behind what it answers at deployment, where that is something else."""
    leading = settings["attack"]["leading"]
    found = with_files(members_of(settings)[leading])
    key = plan.members[leading]["target"].key
    target = Store(settings["paths"]["store"]).find("target", key)
    if target is None:
        raise StoreError(f"target {key} is gone from the store; the same command builds it again")
    parts = make_parts(found)
    model = Target().load(found, target, parts.trained).to(runtime.device)
    runtime.numerics.accelerate(model)
    classes = int(target.metrics["counts"]["private_identities"])
    victim = Victim.of(model, classes)
    planned = plan.members[leading].of("deployment")
    if planned is None:
        return victim, None
    deployment = Store(settings["paths"]["store"]).find("deployment", planned.key)
    if deployment is None:
        raise StoreError(f"deployment {planned.key} is gone from the store; the same command builds it again")
    answer = DeploymentStage().load(parts, target, deployment, runtime.device)
    return victim, Victim.of(model, classes, Threat.SCORES, answer)


def _members(settings: Settings, plan: Plan, victim: WhiteBoxVictim, runtime: Runtime) -> dict[str, Made]:
    found = {}
    for name, member in members_of(settings).items():
        record = read_record(record_path(settings["paths"]["results"], member, plan.members[name]))
        tensors = _reconstructions(settings, plan, name)
        counted = tensors.get("selected", torch.ones_like(tensors["labels"])).bool()
        labels = tensors["labels"][counted]
        identities = int(settings["attack"]["identities"])
        if labels.unique().tolist() != list(range(identities)):
            raise ConfigError(
                f"member {name} of suite {settings['attack']['name']} did not attack the identities 0 to "
                f"{identities - 1} as the others did; give it values under which it does (attack.choice="
                f"requested) in attack.members.{name}.overrides"
            )
        images = Resize(size=int(settings["resolution"]))(tensors["images"][counted].float()).round()
        liked = liking(victim, images.clamp(0, 255).to(torch.uint8), labels, runtime.device)
        if "failed" in tensors:  # no reconstruction by the attack's own rule
            liked = liked.masked_fill(tensors["failed"][counted].bool(), 0.0)
        each = torch.zeros(identities, dtype=torch.float64).index_add(0, labels, liked)
        hits = np.asarray(record["per_identity"]["att_acc1"], dtype=np.float64)
        node = settings["attack"]["members"][name]
        sure = _sure(record, tensors, counted)
        found[name] = Made(record, node, hits, (each / labels.bincount()).numpy(), sure)
    return found


def _sure(record: Record, tensors: Mapping[str, Tensor], counted: Tensor) -> float | None:
    """Percent of the reconstructions for which the network gives its label at least ``_CONFIDENT``."""
    if record.get("threat") == Threat.LABELS.value:
        return None
    told = tensors.get(NETWORK_CONFIDENCE, tensors["confidence"])[counted]
    return 100 * float((told >= _CONFIDENT).float().mean())


def _reconstructions(settings: Settings, plan: Plan, name: str) -> dict[str, Tensor]:
    key = plan.members[name]["attack"].key
    attack = Store(settings["paths"]["store"]).find("attack", key)
    if attack is None:
        raise StoreError(
            f"attack {key} of member {name} is gone from the store; the same command builds it again"
        )
    return finite_tensors(attack, "reconstructions")


def _check(
    settings: Settings,
    plan: Plan,
    victim: WhiteBoxVictim,
    deployed: ScoreVictim | None,
    runtime: Runtime,
) -> Checks:
    """On what the leading member made of one identity each, going for the next one."""
    tensors = _reconstructions(settings, plan, settings["attack"]["leading"])
    rows = (tensors["restarts"] == 0).nonzero().squeeze(1)[:_CHECKED]
    images = Resize(size=int(settings["resolution"]))(tensors["images"][rows].float() / 255)
    labels = (tensors["labels"][rows] + 1) % victim.num_classes
    return check_target(victim, images.to(runtime.device), labels.to(runtime.device), deployed)


def suite_record(settings: Settings, plan: Plan, members: Mapping[str, Made], checks: Checks) -> Record:
    """The record of a suite: that of its leading member, with the numbers of all."""
    attack = settings["attack"]
    leading = members[attack["leading"]]
    counting = {name: made for name, made in members.items() if made.counts}
    names = list(counting)
    hits, liked = (np.stack([getattr(made, key) for made in counting.values()]) for key in ("hits", "liked"))
    ends, picked = intervals(hits, liked), chosen(liked)
    aggregates = {
        name: {"value": value, "low": ends[name][0], "high": ends[name][1]}
        for name, value in aggregate(hits, liked)._asdict().items()
    }
    best = max(names, key=lambda name: counting[name].accuracy)
    evidence, compared = evidence_of(members, attack["leading"], checks)
    alarms = {name: SENTENCES[name].format(compared.get(name, "")) for name in raised(evidence)}
    shown = _attackers(members, attack["leading"])
    base = leading.record
    worst = aggregates["mean_of_identity_maxima"]
    record: dict[str, Any] = {
        **{name: base[name] for name in _SHARED if name in base},  # type: ignore[literal-required]
        "key": plan.key,
        "attack": attack["name"],
        "versions": versions(),
        "commit": git_commit(),
        "claims": registered_claims(str(settings["scale"])),
        "metrics": {
            **{name: base["metrics"][name] for name in _OF_TARGET if name in base["metrics"]},
            "att_acc1": worst["value"],
            "att_acc1_low": worst["low"],
            "att_acc1_high": worst["high"],
            **{name: float(values.mean()) for name, values in shown.items()},
            "best_attack": aggregates["maximum_of_means"]["value"],
            "chosen_by_target": aggregates["chosen_by_target"]["value"],
        },
        "per_identity": {
            "att_acc1": hits.max(axis=0).tolist(),
            **{name: values.tolist() for name, values in shown.items()},
            "chosen_by_target": hits[picked, np.arange(hits.shape[1])].tolist(),
        },
        "missing": {},
        "counts": {
            **base["counts"],
            "restarts": sum(made.record["counts"]["restarts"] for made in counting.values()),
            "reconstructions": sum(made.record["counts"]["reconstructions"] for made in counting.values()),
            "counted": sum(
                made.record["counts"].get("counted", made.record["counts"]["reconstructions"])
                for made in counting.values()
            ),
        },
        "queries": sum(made.record["queries"] for made in members.values()),
        "threat": Threat.WHITE_BOX.value,
        "seconds": {name: spent for name, spent in base["seconds"].items() if name in _STAGES},
        "code": {name: entry for name, entry in base.get("code", {}).items() if name in _STAGES},
        "artifacts": {name: key for name, key in base["artifacts"].items() if name in _STAGES},
        "numerics": {name: one for name, one in base.get("numerics", {}).items() if name in _STAGES},
        "config": without(settings, "plan"),
        "suite": {
            "leading": attack["leading"],
            "members": {name: _told(name, made, plan) for name, made in members.items()},
            "aggregates": aggregates,
            "best": best,
            "chosen": [names[number] for number in picked],
            "checks": asdict(checks),
            "evidence": {name: value for name, value in asdict(evidence).items() if value is not None},
            "alarms": alarms,
            "silent": _silent(members),
        },
    }
    if "deployment" in base:  # members of other threats than the leading one may meet the answers
        met = [made.record["deployment"]["bypassed"] for made in members.values()]
        record["deployment"] = {**base["deployment"], "bypassed": all(met)}
    earlier = {stage: told for stage, told in base.get("alarms", {}).items() if stage in _STAGES}
    told = {**earlier, **({"suite": [*alarms.values()]} if alarms else {})}
    if told:
        record["alarms"] = told
    found = {stage: place for stage, place in base.get("found_in", {}).items() if stage in _STAGES}
    if found:
        record["found_in"] = found
    return cast(Record, record)


#: What a suite's record shares with that of its leading member, and what of its numbers is of the target.
_SHARED = (
    *(
        "schema",
        "setup",
        "scale",
        "seed",
        "vary",
        "target",
        "evaluator",
        "defense",
        "data",
        "judged",
        "start",
    ),
    *("test_per_identity", "classes", "device"),
)
_OF_TARGET = (
    "acc",
    "network_acc",
    "train_acc",
    "evaluator_acc",
    "accuracy_best_epoch_official",
    "best_epoch_official",
)
_STAGES = ("pretraining", "target", "deployment", "evaluator_pretraining", "evaluator", "features")


def _told(name: str, made: Made, plan: Plan) -> dict[str, Any]:
    record = made.record
    return {
        "key": plan.members[name].key,
        "attack": record["attack"],
        "overrides": list(made.node["overrides"]),
        "counts": made.counts,
        "budget": made.node["budget"],
        "at_queries": made.node["queries"],
        "probes": made.node["probes"],
        "threat": made.threat,
        "informed": made.informed,
        "att_acc1": made.accuracy,
        "hits": made.hits.tolist(),
        "liked": made.liked.tolist(),
        "queries": record["queries"],
        "seconds": record["seconds"].get("attack", 0.0),
        "artifacts": dict(record["artifacts"]),
    }


def _attackers(members: Mapping[str, Made], leading: str) -> dict[str, Numbers]:
    """Percent by identity of the plain attacker, the informed one, also at equal queries, the best of scores
    and of labels alone.
    """
    found = {"plain": members[leading].hits}
    pair = _informed_pair(members, leading)
    if pair is not None:
        found["informed"] = members[pair[1]].hits
    equal = _informed_pair(members, leading, at_equal_queries=True)
    if equal is not None:
        found["informed_equal"] = members[equal[1]].hits
    for name, threat in (("scores_only", Threat.SCORES), ("labels_only", Threat.LABELS)):
        best = _best(members, threat.value)
        if best is not None:
            found[name] = members[best].hits
    return found


def _best(members: Mapping[str, Made], *threats: str) -> str | None:
    fitting = [name for name, made in members.items() if made.counts and made.threat in threats]
    return max(fitting, key=lambda name: members[name].accuracy, default=None)


def _informed_pair(
    members: Mapping[str, Made], leading: str, *, at_equal_queries: bool = False
) -> tuple[str, str] | None:
    """The leading member and the informed one of the same attack, with the queries of its copies or with as
    many as the leading one.
    """
    attack = members[leading].record["attack"]
    informed = [
        name
        for name, made in members.items()
        if made.informed
        and made.record["attack"] == attack
        and (made.node["queries"] is not None) == at_equal_queries
    ]
    return (leading, informed[0]) if informed else None


def evidence_of(members: Mapping[str, Made], leading: str, checks: Checks) -> tuple[Evidence, dict[str, str]]:
    """What the members say of masked gradients, and by alarm who was compared."""
    plain, compared = members[leading], {}

    def ahead(alarm: str, first: str | None, second: str | None, of: int = 1) -> Any:
        if first is None or second is None:
            return None
        one, other = members[first], members[second]
        compared[alarm] = f" ({first} {one.accuracy:.1f} %, {second} {other.accuracy:.1f} %)"
        return lead(one.hits, other.hits, of)

    budgets = {
        name: made.node["budget"] or 1.0
        for name, made in members.items()
        if made.node["budget"] is not None or name == leading
    }
    longest = max(budgets, key=lambda name: budgets[name])
    shorter = max(
        (name for name in budgets if name != longest), key=lambda name: members[name].accuracy, default=None
    )
    pair = _informed_pair(members, leading)
    starts, losses = (
        max(
            (name for name, made in members.items() if made.node["probes"] == probes),
            key=lambda name: members[name].accuracy,
            default=None,
        )
        for probes in ("starts", "loss")
    )
    surest = _surest(members)
    if surest is not None:
        name, sure, accepted = surest
        compared["confidence_without_judge"] = f" ({name}: sure of {sure:.0f} %, accepts {accepted:.0f} %)"
    compared["zero_gradient"] = f" ({100 * checks.zero_gradient_share:.0f} % of them)"
    compared["randomised"] = f" (by {checks.repeat_max_difference:.2g} of their length)"
    compared["unbounded_fails"] = f" (only of {100 * checks.pixels_share:.0f} % of the images)"
    black, white = _best(members, Threat.SCORES.value, Threat.LABELS.value), _best(members, plain.threat)
    evidence = Evidence(
        black_box=ahead("black_box_beats_white_box", black, white),
        fewer_steps=ahead("more_steps_are_worse", shorter, longest, of=len(budgets) - 1),
        random_start=ahead("random_start_wins", starts, leading),
        plain=None if pair is None else ahead("informed_is_worse", *pair),
        other_loss=ahead("loss_was_the_problem", losses, leading),
        zero_gradient_share=checks.zero_gradient_share,
        repeat_max_difference=checks.repeat_max_difference,
        probabilities=checks.probabilities,
        sure=None if surest is None else surest[1],
        accepted=None if surest is None else surest[2],
        pixels_share=checks.pixels_share,
    )
    return evidence, compared


def _accepted(record: Record) -> float | None:
    """Percent of the reconstructions that an open-set judge accepts at a false accept rate of 1 %."""
    rates = record.get("open_set", {}).get("tar", {})
    return next((float(told["value"]) for rate, told in rates.items() if float(rate) == _FAR), None)


def _surest(members: Mapping[str, Made]) -> tuple[str, float, float] | None:
    """Of the members that an open-set judge has seen the one that convinces the target most often: name,
    percent that do, percent that the judge accepts.
    """
    seen = [
        (name, made.sure, accepted)
        for name, made in members.items()
        if made.counts and made.sure is not None and (accepted := _accepted(made.record)) is not None
    ]
    return max(seen, key=lambda one: one[1], default=None)


def _silent(members: Mapping[str, Made]) -> list[str]:
    """The parts of the defense that say nothing of an attacker who knows them."""
    told = [made.record.get("informed") for made in members.values() if made.informed]
    names = [name for block in told if isinstance(block, dict) for name in block.get("silent", ())]
    return [str(name) for name in dict.fromkeys(names)]
