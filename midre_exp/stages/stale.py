"""Which artifacts of a run were made by other code than the one at hand, or are to be made anew, and what
then happens (``runtime.stale``, ``runtime.rebuild``).
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping
from typing import Any

from midre_exp.errors import ConfigError, UserError
from midre_exp.plan.config import Settings, digest
from midre_exp.plan.keys import Plan, StageKey
from midre_exp.plan.shards import SHARD
from midre_exp.stages.graph import stages_of
from midre_exp.store import shipped
from midre_exp.store.artifact import Artifact
from midre_exp.store.store import Store, versions

POLICIES = ("reuse", "refuse", "rebuild")
#: Libraries that compute: another version of one may give other numbers.
_LIBRARIES = ("torch", "torchvision", "pytorch-lightning", "timm", "numpy", "scipy")
_REMEDY = "runtime.stale=reuse takes it as it is, runtime.stale=rebuild makes it anew"


class StaleError(UserError):
    """An artifact was made by other code, and ``runtime.stale=refuse``."""


def policy(settings: Settings) -> str:
    """``runtime.stale``. Raises ConfigError for what is none of ``POLICIES``."""
    given = settings["runtime"].get("stale", POLICIES[0])
    if given not in POLICIES:
        raise ConfigError(f"runtime.stale={given} cannot be used; give one of {', '.join(POLICIES)}")
    return str(given)


def to_rebuild(settings: Settings, plan: Plan) -> set[str]:
    """The stages of a plan that ``runtime.rebuild`` names, ``shipped`` those that come with the package, and
    all that depend on them. Raises ConfigError for a name that no stage has.
    """
    given = settings["runtime"].get("rebuild") or []
    known = [*(stage.name for stage in stages_of(settings)), shipped.WORD]
    if not isinstance(given, list) or (unknown := [name for name in given if name not in known]):
        wrong = unknown[0] if isinstance(given, list) else given
        raise ConfigError(f"runtime.rebuild: {wrong} is no stage; give a list of some of {', '.join(known)}")
    chosen: set[str] = set()
    if shipped.WORD in given:
        chosen = {name for name, stage in plan.stages.items() if shipped.is_shipped(name, stage.key)}
        if not chosen:
            raise ConfigError(
                f"runtime.rebuild: no stage of this run comes with midre-exp, so {shipped.WORD} names none; "
                "name the stages"
            )
    for name, stage in plan.stages.items():  # in the order of a run
        if re.sub(f"^{SHARD}", "attack", name) in given or chosen & {*stage.upstream}:
            chosen.add(name)
    return chosen


def identity(manifest: Mapping[str, Any]) -> str:
    """What an artifact is to those that are made from it: its tensors, whoever made them and when."""
    files = {name: entry["sha256"] for name, entry in manifest["files"].items()}
    tensors = {name: checksum for name, checksum in files.items() if name.endswith(".safetensors")}
    return digest(tensors or files)


def rests_on(artifacts: Iterable[Artifact]) -> dict[str, str]:
    """The identity of each artifact that a stage is made from, by its stage."""
    return {artifact.stage: identity(artifact.manifest) for artifact in artifacts}


def other_code(code: str, made: Mapping[str, Any], commit: str | None) -> str | None:
    """Why what ``made`` tells of (a manifest) is not of this code and these libraries, as the end of a
    sentence; None if it is. ``commit``: today's.
    """
    if not isinstance(made.get("code"), str):
        return "made by unknown code (before artifacts named it)"
    if made["code"] != code:
        return f"made by other code ({_commits(made.get('commit'), commit)})"
    theirs, ours = made.get("versions", {}), versions()
    for library in _LIBRARIES:
        before, now = (_release(known.get(library)) for known in (theirs, ours))
        if before != now:
            return f"made with {library} {before or 'unknown'}, now {now or 'none'}"
    return None


def _commits(before: object, now: str | None) -> str:
    made = f"commit {before}" if before else "of no known commit"
    return f"{made}, now {now}" if now and now != before else made


def _release(version: object) -> str:
    """A version without what a build adds to it: ``2.4.1+cu121`` and ``2.4.1+cpu`` are one release."""
    return re.sub(r"\+.*", "", str(version or ""))


def other_upstream(made: Mapping[str, Any], upstream: Mapping[str, Mapping[str, Any]]) -> str | None:
    """Why an artifact does not rest on these manifests by stage, to end a sentence; None if it does."""
    known = made.get("rests_on")
    for stage, manifest in upstream.items():
        if isinstance(known, dict) and known.get(stage) not in (None, identity(manifest)):
            return f"made from another {stage} than the one there is now"
    return None


def stale_stages(store: Store, plan: Plan, commit: str | None = None) -> dict[str, str]:
    """Why each stale artifact of a plan that the store has is stale, by stage, in the order of a run; what
    rests on a stale one is stale too.
    """
    manifests = {name: store.manifest(name, stage.key) for name, stage in plan.stages.items()}
    found: dict[str, str] = {}
    for name, stage in plan.stages.items():
        made = manifests[name]
        if made is None:
            continue
        upstream = {other: manifest for other in stage.upstream if (manifest := manifests.get(other))}
        reason = other_code(stage.code, made, commit) or other_upstream(made, upstream)
        below = [other for other in stage.upstream if other in found]
        if reason is None and below:
            reason = f"rests on a stale {below[0]}"
        if reason is not None:
            found[name] = reason
    return found


def not_rebuilt(store: Store, plan: Plan, stages: Collection[str], request: str | None) -> set[str]:
    """Those of ``stages`` that are in the store and were not made for this request to rebuild."""
    return {
        name
        for name in stages
        if (made := store.manifest(name, plan[name].key)) is not None
        and made.get("rebuild") != (request or "")
    }


def refuse(stage: StageKey, reason: str) -> StaleError:
    """The sentence for an artifact that must not be used."""
    return StaleError(f"{stage.name} {stage.key} is in the store, {reason}; {_REMEDY}")


def not_continued(
    made_with: Mapping[str, Any], earlier: Mapping[str, Any] | None, commit: str | None
) -> str | None:
    """Why an unfinished attempt may not go on as ``made_with``, as the end of a sentence; None if it may."""
    if earlier is None:
        return "made by unknown code"
    if reason := other_code(made_with["code"], earlier, commit):
        return reason
    if earlier.get("rests_on") != made_with["rests_on"]:
        return "made from another artifact than the one there is now"
    if "rebuild" in made_with and earlier.get("rebuild") != made_with["rebuild"]:
        return "made before this was to be made anew"
    return None


def refuse_attempt(stage: StageKey, reason: str) -> StaleError:
    """The sentence for an unfinished attempt that must not be continued."""
    return StaleError(
        f"an unfinished attempt at {stage.name} {stage.key} was {reason}; runtime.stale=reuse or rebuild "
        "starts it anew, or go back to that code"
    )


def told(stages: Mapping[str, str]) -> str:
    """One line on the stale stages of a finished run."""
    return ", ".join(f"{name} {reason}" for name, reason in stages.items())
