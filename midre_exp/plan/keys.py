"""From a config to the key of every stage, before anything is built.

A stage's key is a hash of its own settings, of the fingerprint of the data it reads, of its seed and of the
keys of the stages it builds on. How a run is executed (``runtime``, ``paths``, ``tracking``) enters no key.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from midre_exp.errors import ConfigError
from midre_exp.plan.config import build, digest, without
from midre_exp.plan.digests import by_content
from midre_exp.plan.public_names import by_public_name
from midre_exp.plan.shards import STAGE as SHARD
from midre_exp.plan.shards import parse_shard
from midre_exp.plan.validate import check_settings
from midre_exp.speed import switched_on

if TYPE_CHECKING:  # planning must not wait for torch
    from midre_exp.data.base import Dataset, Role

#: The stages of every run; attacks that prepare more than a prior against their target have ``surrogates`` as
#: well.
STAGES = ("target", "evaluator", "prior", "attack", "metrics")

#: Raised by one when a stage's code changes what it computes from the same settings; older artifacts are then
#: not reused.
VERSIONS = {"target": 1, "evaluator": 1, "prior": 1, "surrogates": 1, "attack": 1, "metrics": 3}


@dataclass(frozen=True)
class Stage:
    """One stage of one run: its key and everything the key was made from."""

    name: str
    key: str
    config: dict[str, Any]
    upstream: dict[str, str]


@dataclass(frozen=True)
class Plan:
    """The stages of one run in order, and the key of the run itself (setup, scale and all stages)."""

    key: str
    stages: dict[str, Stage]

    def __getitem__(self, name: str) -> Stage:
        return self.stages[name]


#: What ``fingerprints_once`` remembers; None outside of it.
_known: ContextVar[dict[str, Mapping[str, object]] | None] = ContextVar("fingerprints", default=None)


def _stage(name: str, config: dict[str, Any], upstream: Mapping[str, Stage]) -> Stage:
    config = by_content(by_public_name(config))
    keys = {stage: upstream[stage].key for stage in sorted(upstream)}
    content = {"stage": name, "version": VERSIONS[name], "config": config, "upstream": keys}
    return Stage(name, digest(content), config, keys)


def nodes_of(data: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
    """The dataset nodes of a run: private and public images, and the private images as the evaluator sees
    them.

    The last is the first with what ``data.evaluation`` has different, so that both always hold the same
    people.
    """
    return dict(data["private"]), dict(data["public"]), {**data["private"], **data["evaluation"]}


@contextmanager
def fingerprints_once() -> Iterator[None]:
    """Within, every dataset is asked for every fingerprint once: for planning many runs over data that do not
    change meanwhile.
    """
    token = _known.set({})
    try:
        yield
    finally:
        _known.reset(token)


def _fingerprint(node: Mapping[str, Any], role: Role, trusted: Sequence[str]) -> Mapping[str, object]:
    known, name = _known.get(), digest([node, role])
    if known is not None and name in known:
        return known[name]
    dataset: Dataset = build(node, trusted=trusted)
    found = dataset.fingerprint(role)
    if known is not None:
        known[name] = found
    return found


def make_plan(settings: Mapping[str, Any]) -> Plan:
    """The plan of a run from its resolved config. Datasets are asked for their fingerprints; nothing is
    trained or decoded.

    With ``attack.shard`` it ends with that part of the attack; nothing is judged.

    Raises UserError when a dataset is missing or a part of the config cannot be built.
    """
    check_settings(settings)
    trusted = settings["runtime"]["trusted_packages"]
    attack, seed = settings["attack"], settings["seed"]
    nodes = dict(zip(("private", "public", "judged"), nodes_of(settings["data"]), strict=True))
    if not reads_public(attack):
        del nodes["public"]
    roles: dict[str, Role] = {"private": "private", "public": "public", "judged": "private"}
    data = {name: _fingerprint(node, roles[name], trusted) for name, node in nodes.items()}
    private, public, judged = data["private"], data.get("public"), data["judged"]

    target = _stage(
        "target",
        {"data": private, "target": settings["target"], "defense": settings["defense"], "seed": seed},
        {},
    )
    evaluator = _stage("evaluator", {"data": judged, "evaluator": settings["evaluator"]}, {})
    prior = _stage(
        "prior",
        {"data": public, "prior": attack["prior"]},
        {"target": target} if uses_target(attack["prior"]) else {},
    )
    prepared = {"prior": prior}
    if attack.get("surrogates"):
        prepared["surrogates"] = _stage(
            "surrogates", {"data": public, "surrogates": attack["surrogates"]}, {"target": target}
        )
    on = switched_on(settings["speed"])
    speed = {"speed": list(on)} if on else {}  # off leaves the keys of older runs alone
    attacked = _stage(
        "attack",
        {"attack": without(attack, "prior", "surrogates", "shard"), "seed": seed, **speed},
        {"target": target, **prepared},
    )
    metrics = _stage(
        "metrics",
        {"data": judged, "metrics": settings["metrics"]},
        {"attack": attacked, "evaluator": evaluator},
    )
    shard = parse_shard(attack["shard"])
    if shard is None:
        every = (target, evaluator, *prepared.values(), attacked, metrics)
    else:
        key, config = shard.key(attacked.key), {"attack": attacked.key, "shard": attack["shard"]}
        every = (target, *prepared.values(), Stage(SHARD, key, config, attacked.upstream))
    stages = {stage.name: stage for stage in every}
    run = {
        "setup": settings["setup"]["id"],
        "scale": settings["scale"],
        "stages": [s.key for s in stages.values()],
    }
    return Plan(digest(run), stages)


def uses_target(prior: Mapping[str, Any]) -> bool:
    """Whether a prior's class is trained against the attacked target."""
    import hydra.utils

    try:
        return bool(getattr(hydra.utils.get_class(prior["_target_"]), "uses_target"))  # noqa: B009 (a plugin's attribute)
    except (ImportError, ValueError, AttributeError) as error:
        raise ConfigError(f"attack.prior._target_={prior['_target_']} is no prior class: {error}") from error


def reads_public(attack: Mapping[str, Any]) -> bool:
    """Whether an attack learns from public images here: not one whose generator is loaded ready and that
    prepares nothing else.
    """
    return bool(attack.get("surrogates")) or not is_pretrained(attack["prior"])


def is_pretrained(prior: Mapping[str, Any]) -> bool:
    """Whether a prior's node names published weights (``pretrained``: a path, or paths by name), so that
    nothing is trained.
    """
    named = prior.get("pretrained")
    return (
        any(path is not None for path in named.values()) if isinstance(named, Mapping) else named is not None
    )
