"""Which runs are finished, and where a run leaves its result, its failure and what it was planned to be."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from midre_exp.errors import StoreError
from midre_exp.plan.keys import Plan
from midre_exp.plan.shards import SHARD
from midre_exp.plan.suite import members_of
from midre_exp.records import read_record, record_path
from midre_exp.stages import stale
from midre_exp.store.store import Store


def result_path(settings: Mapping[str, Any], plan: Plan) -> Path:
    """What a run leaves: its record, or, of a part of an attack, the artifact."""
    if SHARD in plan.stages:
        return Store(settings["paths"]["store"]).where(SHARD, plan[SHARD].key)
    return record_path(settings["paths"]["results"], settings, plan)


def failure_path(settings: Mapping[str, Any], key: str) -> Path:
    """Where the failure of a run is reported; removed when the run succeeds later."""
    return Path(settings["paths"]["runs"]) / "failed" / f"{key}.json"


def snapshot_path(settings: Mapping[str, Any], key: str) -> Path:
    """Where a sweep keeps the resolved config of one job as it was at launch."""
    return Path(settings["paths"]["runs"]) / "planned" / f"{key}.json"


def code_path(settings: Mapping[str, Any], code: str) -> Path:
    """Where a sweep keeps the checksum of every source file as it was at launch."""
    return Path(settings["paths"]["runs"]) / "planned" / f"code-{code}.json"


def is_finished(settings: Mapping[str, Any], plan: Plan) -> bool:
    """Whether every artifact is there and intact, and the record, if the run is to leave one, and nothing of
    it is to be made anew (``runtime.rebuild``, ``runtime.stale=rebuild``).

    A record without its artifacts, as in a fresh clone, is not a finished run.
    """
    if plan.members:
        return _has_record(settings, plan) and all(
            is_finished(member, plan.members[name]) for name, member in members_of(settings).items()
        )
    if not _is_complete(settings, plan):
        return False
    request = settings["plan"].get("rebuild")
    store = Store(settings["paths"]["store"])
    if stale.not_rebuilt(store, plan, stale.to_rebuild(settings, plan), request):
        return False
    return stale.policy(settings) != "rebuild" or not stale.stale_stages(store, plan)


def stale_in(settings: Mapping[str, Any], plan: Plan, commit: str | None) -> dict[str, str]:
    """Why stages of a run that are in the store are not of today's code, by stage; ``commit``: today's."""
    if plan.members:
        members = members_of(settings)
        found = {name: stale_in(members[name], one, commit) for name, one in plan.members.items()}
        return {f"{name}/{stage}": why for name, stale in found.items() for stage, why in stale.items()}
    return stale.stale_stages(Store(settings["paths"]["store"]), plan, commit)


def check_stale(settings: Mapping[str, Any], plan: Plan, commit: str | None) -> dict[str, str]:
    """``stale_in`` a finished run. Raises StaleError where there are some and ``runtime.stale=refuse``."""
    found = stale_in(settings, plan, commit)
    if found and stale.policy(settings) == "refuse":
        name, reason = next(iter(found.items()))
        raise stale.refuse(plan[name], reason)
    return found


def _is_complete(settings: Mapping[str, Any], plan: Plan) -> bool:
    if SHARD not in plan.stages and not _has_record(settings, plan):
        return False
    store = Store(settings["paths"]["store"])
    return all(store.peek(s.name, s.key) for s in plan.stages.values() if not s.is_intermediate)


def _has_record(settings: Mapping[str, Any], plan: Plan) -> bool:
    try:
        record = read_record(record_path(settings["paths"]["results"], settings, plan))
    except StoreError:  # missing or damaged
        return False
    told = record["artifacts"]  # of all, also of what no key names; of a suite its members' records tell
    stages = () if plan.members else plan.stages.values()
    beside = (s for s in stages if not (s.in_run_key or s.is_intermediate))
    return record.get("key") == plan.key and all(told.get(s.name) == s.key for s in beside)
