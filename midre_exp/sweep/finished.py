"""Which runs are finished, and where a run leaves its result, its failure and what it was planned to be."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from midre_exp.errors import StoreError
from midre_exp.plan.keys import Plan
from midre_exp.plan.shards import SHARD
from midre_exp.records import read_record, record_path
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


def is_finished(settings: Mapping[str, Any], plan: Plan) -> bool:
    """Whether every artifact is there and intact, and the record, if the run is to leave one.

    A record without its artifacts, as in a fresh clone, is not a finished run.
    """
    if SHARD not in plan.stages:
        try:
            record = read_record(record_path(settings["paths"]["results"], settings, plan))
        except StoreError:  # missing or damaged
            return False
        if record.get("key") != plan.key:
            return False
    store = Store(settings["paths"]["store"])
    return all(store.peek(stage.name, stage.key) for stage in plan.stages.values())
