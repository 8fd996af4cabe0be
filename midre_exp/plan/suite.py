"""Suites of attacks (``attack=worst_high``): one choice of conf/attack that stands for several runs, each of
which is the run that its member's overrides make alone, under the same keys.

A suite's resolved settings are those of its leading member, with ``attack.members`` in place of the attack:
of each member the overrides that make it alone, and what of its settings is its own. ``runs_of`` is what
plan, estimate, doctor and sweep loop over.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal

from omegaconf import OmegaConf

from midre_exp.errors import ConfigError
from midre_exp.plan.arguments import Keys, fault
from midre_exp.plan.config import Settings, config_files
from midre_exp.plan.ranges import Count, Positive, Text

_MEMBERS = "members"
#: What a run is told of the sweep it belongs to, which is another for each member.
_FROZEN = ("key", "code", "commit")


@dataclass
class Member(Keys):
    """One attack of a suite, as its yaml has it."""

    overrides: Sequence[Text]  # what a user types to run it alone, attack=NAME first
    budget: Positive | None = None  # times its steps and milestones: for the alarm, not counted
    # times its steps, milestones and candidates: of an informed member, each of whose copies is a query (a
    # view of its selection is one, copied or not); it counts, and is told beside the informed one
    queries: Positive | None = None
    # starts: from random starts, for the alarm, not counted | loss: with another identity loss
    probes: Literal["starts", "loss"] | None = None
    resolutions: Sequence[Count] | None = None  # at which it can be run; elsewhere the suite goes without it


@dataclass
class Suite(Keys):
    """A choice of conf/attack that has members."""

    name: str
    leading: str  # the member whose variants the alarms compare, and that stands for the plain attacker
    members: Mapping[str, Member]
    identities: Count | None = None  # null: as many as every member attacks
    shard: str | None = None


Compose = Callable[[list[str]], dict[str, Any]]


def is_suite(settings: Settings) -> bool:
    """Whether resolved settings are of a suite."""
    return _MEMBERS in (settings.get("attack") or {})


def single_attacks() -> list[str]:
    """The choices of conf/attack that are no suites, the user's own among them."""
    return [name for name, path in config_files("attack").items() if not is_suite_file(path)]


def is_suite_file(path: Path) -> bool:
    """Whether a yaml of conf/attack is of a suite."""
    return b"members" in path.read_bytes() and _MEMBERS in (OmegaConf.load(path) or {})


def members_of(settings: Settings) -> dict[str, Settings]:
    """The settings of each member of a suite, as it has them alone; of a run of one attack none."""
    plan = {**settings["plan"], **dict.fromkeys(_FROZEN)} if "plan" in settings else {}
    members = settings["attack"].get(_MEMBERS) or {}
    return {name: {**settings, **node["settings"], "plan": plan} for name, node in members.items()}


def runs_of(settings: Settings) -> list[Settings]:
    """The runs that settings stand for: a suite's members, or the one run."""
    return list(members_of(settings).values()) if is_suite(settings) else [settings]


def expanded(node: Mapping[str, Any], words: Sequence[str], compose: Compose) -> dict[str, Any]:
    """The settings of a suite, ``node`` being the composed choice of conf/attack with what the command line
    lays over it, ``words`` the other overrides of the job. Raises ConfigError for a suite that none can be.
    """
    suite = _checked(node)
    made = {name: [*words, *_texts(member)] for name, member in suite.members.items()}
    every = {suite.leading: compose(list(made[suite.leading]))}
    resolution = every[suite.leading]["resolution"]
    members = {
        name: member
        for name, member in suite.members.items()
        if member.resolutions is None or resolution in member.resolutions or name == suite.leading
    }
    every = {name: every.get(name) or compose(list(made[name])) for name in members}
    for name, member in members.items():
        made[name] += _budgeted(suite, name, every[name]["attack"], member)
    fewest = min(int(settings["attack"]["identities"]) for settings in every.values())
    identities = fewest if suite.identities is None else suite.identities
    for name, settings in every.items():
        if settings["attack"]["identities"] != identities:
            made[name].append(f"attack.identities={identities}")
        if len(made[name]) > len(words) + len(suite.members[name].overrides):
            every[name] = compose(made[name])
    base = every[suite.leading]
    attack = {
        "name": suite.name,
        "identities": identities,
        "leading": suite.leading,
        "shard": suite.shard,
        _MEMBERS: {
            name: {
                "overrides": made[name][len(words) :],
                "budget": suite.members[name].budget,
                "queries": suite.members[name].queries,
                "probes": suite.members[name].probes,
                "settings": {key: value for key, value in settings.items() if _is_own(key, value, base)},
            }
            for name, settings in every.items()
        },
    }
    return {**base, "attack": attack}


def _is_own(key: str, value: object, base: Settings) -> bool:
    return key == "attack" or key not in base or base[key] != value


def _texts(member: Member) -> list[str]:
    return [str(text) for text in member.overrides]


def _checked(node: Mapping[str, Any]) -> Suite:
    """The suite of a node, its values looked at."""
    found = fault(node, Suite, "attack")
    if found is not None:
        raise ConfigError(str(found))
    known = {each.name for each in fields(Suite)}
    members = {name: Member(**values) for name, values in node[_MEMBERS].items()}
    suite = Suite(
        **{key: value for key, value in node.items() if key in known and key != _MEMBERS}, members=members
    )
    if suite.shard is not None:
        raise ConfigError(
            f"attack.shard={suite.shard} splits one attack, and {suite.name} is a suite of {len(members)}; "
            "run members of it in shards by their own commands (--plan names them), then the suite"
        )
    if suite.leading not in members:
        raise ConfigError(
            f"attack.leading={suite.leading} is no member of suite {suite.name}; give one of "
            f"{', '.join(members)}"
        )
    for name, member in members.items():
        texts = _texts(member)
        wrong = [text for text in texts if not text.lstrip("+~").startswith("attack")]
        if not texts or not texts[0].startswith("attack=") or wrong:
            raise ConfigError(
                f"attack.members.{name}.overrides has {wrong[0] if wrong else 'no attack=NAME at its head'}; "
                "give attack=NAME and values of that attack alone, for members differ in nothing else"
            )
        chosen = config_files("attack").get(texts[0].partition("=")[2])
        if chosen is not None and is_suite_file(chosen):
            raise ConfigError(
                f"attack.members.{name} of suite {suite.name} is a suite itself; list its members"
            )
    return suite


def _budgeted(suite: Suite, name: str, attack: Mapping[str, Any], member: Member) -> list[str]:
    """The overrides that give an attack the budget of a member, its schedule with its steps."""
    if member.budget is not None and member.queries is not None:
        raise ConfigError(
            f"attack.members.{name} of suite {suite.name} has a budget, which does not count, and queries, "
            "which does; give one of them"
        )
    kind, times = ("budget", member.budget) if member.queries is None else ("queries", member.queries)
    if times is None:
        return []
    steps = attack.get("steps")
    if type(steps) is not int:
        raise ConfigError(
            f"attack.members.{name}.{kind}={times:g} of suite {suite.name} is times the steps of an attack, "
            f"and {attack['name']} has no one number of them; choose another attack"
        )
    found = [f"attack.steps={max(1, round(times * steps))}"]
    if attack.get("milestones"):
        scaled = [max(1, round(times * milestone)) for milestone in attack["milestones"]]
        found.append(f"attack.milestones={scaled}".replace(" ", ""))
    candidates = (attack.get("search") or {}).get("size")
    if kind == "queries" and type(candidates) is int:
        found.append(f"attack.search.size={max(1, round(times * candidates))}")
    return found
