"""From a config to the key of every stage, before anything is built.

A stage's key is a hash of its own settings, of the fingerprint of the data it reads, of its seed and of the
keys of the stages it builds on, and of the code of classes outside of our packages. How a run is executed
(``runtime``, ``paths``, ``tracking``) enters no key.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

from midre_exp.errors import ConfigError, DataError
from midre_exp.plan.answers import answer
from midre_exp.plan.code import names_in, sources, sources_once
from midre_exp.plan.config import build, digest
from midre_exp.plan.digests import by_content
from midre_exp.plan.public_names import by_public_name
from midre_exp.plan.rounds import rounds_of
from midre_exp.plan.shards import SHARD
from midre_exp.plan.trust import named_class
from midre_exp.store.names import stored_as
from midre_exp.store.store import Places

#: The word of ``target.weights`` and ``evaluator.weights`` for a start from public identities.
PUBLIC = "public"


#: Images of judges beside the evaluator: the group of the config that asks for them, and what data lack that
#: have none.
_LEARNT_FROM = {
    "verification": ("open_set", "has no people that a verifier could learn from"),
    "traits": ("traits", "does not know the true traits of its people"),
}


@dataclass(frozen=True)
class StageKey:
    """One stage of one run: its key and everything the key was made from."""

    name: str
    key: str
    config: dict[str, Any]
    upstream: dict[str, str]
    names: frozenset[str] = frozenset()  # of the classes it is made with, those of earlier stages included
    makers: tuple[str, ...] = ()  # modules of ours that make it
    trusted: tuple[str, ...] = ()  # packages of the user's own
    is_intermediate: bool = False  # whether a finished run does without it
    in_later_keys: bool = True  # whether the keys of those that build on it name it
    in_run_key: bool = True  # whether it is among those that make a run another one

    @property
    def code(self) -> str:
        """The digest of the code behind all of these as it lies on disk now."""
        return sources().code({*self.names, *self.makers}, self.trusted)


@dataclass(frozen=True)
class Plan:
    """The stages of one run in order, and the key of the run itself (setup, scale and all stages but those
    that only spare work or only say more about the others).
    """

    key: str
    stages: dict[str, StageKey]  # of a suite those of all members, as MEMBER/STAGE
    members: dict[str, Plan] = field(default_factory=dict)  # of a suite of attacks: the plan of each

    def __getitem__(self, name: str) -> StageKey:
        return self.stages[name]

    def of(self, stage: str) -> StageKey | None:
        """How the run makes the stage of that name: an attack, or an earlier round of it, perhaps as a shard;
        None where it has none.
        """
        planned = self.stages.get(stage)
        if planned is None and stored_as(stage) == "attack":
            return self.stages.get(stage.replace("attack", SHARD, 1))
        return planned

    def is_needed(self, name: str, is_there: Callable[[StageKey], bool]) -> bool:
        """Whether a run takes or makes a stage: one that only spares work where it is there, or where a stage
        that it spares some is to be made.
        """
        stage = self.stages[name]
        if not stage.is_intermediate or is_there(stage):
            return True
        return any(name in other.upstream and not is_there(other) for other in self.stages.values())


#: What a data set tells of its images.
Fingerprint = Mapping[str, object]
#: What ``fingerprints_once`` remembers; None outside of it.
_known: ContextVar[dict[str, Fingerprint | DataError] | None] = ContextVar("fingerprints", default=None)
_absent_allowed: ContextVar[bool] = ContextVar("absent_allowed", default=False)


def stage_key(
    name: str,
    version: int,
    config: Mapping[str, Any],
    upstream: Mapping[str, StageKey],
    *,
    makers: Sequence[str] = (),
    data: Sequence[Mapping[str, Any]] = (),
    trusted: Sequence[str] = (),
    store: Places | None = None,
) -> StageKey:
    """The key of a stage: of its name and version, of its settings with plugins under their public names and
    files by their content, of the source of classes that are neither ours nor torch's, and of the keys
    of the stages it builds on.

    ``makers``: modules of ours that compute it whatever the settings; ``data``: the nodes of the images it
    reads; ``store``: where the content of files is remembered.
    """
    content = by_content(by_public_name(config), store)
    own = sources().own_code(config, trusted)
    if own:
        content["code"] = own
    keys = {stage: upstream[stage].key for stage in sorted(upstream)}
    whole = {"stage": name, "version": version, "config": content, "upstream": keys}
    names = names_in([content, *data], trusted).union(*(key.names for key in upstream.values()))
    return StageKey(name, digest(whole), content, keys, frozenset(names), tuple(makers), tuple(trusted))


def node_of(data: Mapping[str, Any], name: str) -> dict[str, Any]:
    """The dataset node behind some images of a run: ``private``, ``public``, private ones as the evaluator
    sees them (``evaluation``), those to pre-train the target on (``pretraining``) or the evaluator, those of
    other people that a defense needs (``others``; by default the people to pre-train on), those that a
    verifier (``verification``) and a reader of traits (``traits``) learn from.

    All but the public ones are the private node with what other nodes have different, so that target and
    evaluator always know the same identities. Raises ConfigError for data without the images asked for.
    """
    if name in ("private", "public"):
        return dict(data[name])
    if name in _LEARNT_FROM:
        if data.get(name) is None:
            group, lacks = _LEARNT_FROM[name]
            raise ConfigError(f"data={data['name']} {lacks} (data.{name}); use {group}=null, or other data")
        return {**data["private"], **data["evaluation"], **data[name]}
    if name == "others":
        pool = data.get("others") or data.get("pretraining")
        if pool is None:
            raise ConfigError(
                f"data={data['name']} has no people who are neither private nor the attacker's, and the "
                "defense needs some; give other pictures, +data.others={root: FOLDER}, or choose another "
                "defense"
            )
        return {**data["private"], **pool}
    pool = data.get("pretraining")
    if pool is None and name != "evaluation":
        raise ConfigError(
            f"data={data['name']} has no identities to pre-train on (data.pretraining); start from other "
            "weights than public: null, imagenet, or those of a file"
        )
    seen = {} if name == "pretraining" else data["evaluation"]
    return {**data["private"], **seen, **({} if name == "evaluation" else pool or {})}


@contextmanager
def fingerprints_once() -> Iterator[None]:
    """Within, every dataset is asked for every fingerprint once: for planning many runs over data that do not
    change meanwhile.
    """
    token = _known.set({})
    try:
        with sources_once():  # code neither
            yield
    finally:
        _known.reset(token)


@contextmanager
def absent_data_allowed() -> Iterator[None]:
    """Within, data sets that are not here, or damaged, have a fingerprint too, which is nobody's: for telling
    what runs would take. Their keys name nothing in a store.
    """
    token = _absent_allowed.set(True)
    try:
        yield
    finally:
        _absent_allowed.reset(token)


def fingerprint(node: Mapping[str, Any], role: str, trusted: Sequence[str]) -> Mapping[str, object]:
    """What a dataset tells of the images that a role has: plain values that change whenever these would.
    Those of a class outside of our packages change with its code.
    """
    known, name = _known.get(), digest([node, role])
    found = None if known is None else known.get(name)
    if found is None:
        found = _asked(node, role, trusted)
        if known is not None:
            known[name] = found
    if not isinstance(found, DataError):
        return found
    if not _absent_allowed.get():
        raise found
    return {"absent": name, **_own_code(node, trusted)}  # which no data set says of itself


def _asked(node: Mapping[str, Any], role: str, trusted: Sequence[str]) -> Fingerprint | DataError:
    """What the dataset itself says, or that it is not here."""
    asked: list[bool] = []

    def look() -> Mapping[str, object]:
        dataset = build(node, kind="midre_exp.data.Dataset", trusted=trusted)
        asked.append(dataset.is_rendered)
        told: Mapping[str, object] = dataset.fingerprint(role)
        return told

    # without a file that might change, the node alone decides
    try:
        found = answer(["fingerprint", node, role], look, trusted, lambda found: asked == [True])
    except DataError as error:
        return error
    return {**found, **_own_code(node, trusted)}


def _own_code(node: Mapping[str, Any], trusted: Sequence[str]) -> dict[str, object]:
    own = sources().own_code(node, trusted)
    return {"code": own} if own else {}


def is_pretrained_here(classifier: Mapping[str, Any]) -> bool:
    """Whether a node of conf/target or conf/evaluator starts from its own network as a run pre-trains it
    (``weights: public``).
    """
    return classifier.get("weights") == PUBLIC and classifier.get("checkpoint") is None


def learns_from_others(settings: Mapping[str, Any]) -> bool:
    """Whether the defense is trained with images of people who are neither private nor the attacker's: an
    option ``other_people`` asks for them.
    """
    trained = (settings.get("target") or {}).get("checkpoint") is None
    return trained and any("other_people" in node for node in (settings.get("defense") or {}).values())


def uses_target(prior: Mapping[str, Any], trusted: Sequence[str] = ()) -> bool:
    """Whether a prior's class is trained against the attacked target. Raises ConfigError as ``build``."""
    target = prior["_target_"]

    def look() -> bool:
        found: Any = named_class(target, "midre_exp.priors.Prior", trusted)
        return bool(found.uses_target)

    return answer(["uses_target", target], look, trusted)


def uses_prior(surrogates: Mapping[str, Any], trusted: Sequence[str] = ()) -> bool:
    """Whether surrogates learn from pictures of the attack's prior in place of public images. Raises
    ConfigError as ``build``.
    """
    target = surrogates["_target_"]

    def look() -> bool:
        found: Any = named_class(target, "midre_exp.surrogates.base.Surrogates", trusted)
        return bool(found.uses_prior)

    return answer(["uses_prior", target], look, trusted)


def reads_public(attack: Mapping[str, Any], trusted: Sequence[str] = ()) -> bool:
    """Whether an attack learns from public images here: not one whose generator is loaded ready and that
    prepares nothing else of them.
    """
    prepared = attack.get("surrogates")
    return bool(prepared and not uses_prior(prepared, trusted)) or not is_pretrained(attack["prior"])


def tunes_on_public(attack: Mapping[str, Any], trusted: Sequence[str] = ()) -> bool:
    """Whether an attack in rounds tunes its prior on public images beside its own reconstructions."""
    if rounds_of(attack) == 1:
        return False
    target = attack["tuning"]["_target_"]

    def look() -> bool:
        found: Any = named_class(target, "midre_exp.tuning.Tuning", trusted)
        return bool(found.reads_public)

    return answer(["reads_public", target], look, trusted)


def is_pretrained(prior: Mapping[str, Any]) -> bool:
    """Whether a prior's node names published weights (``pretrained``: a path, or paths by name), so that
    nothing is trained.
    """
    named = prior.get("pretrained")
    return (
        any(path is not None for path in named.values()) if isinstance(named, Mapping) else named is not None
    )
