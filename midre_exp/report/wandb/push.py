"""``python -m midre_exp.report wandb``: records made before as W&B runs, one for each record.

A run that is tracked pushes its own record when it is finished (tracking/record.py).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from midre_exp.errors import ConfigError
from midre_exp.plan.compose import packaged_configs, settings_of
from midre_exp.records import read_records, results_folder
from midre_exp.report.runs.captions import passed_over
from midre_exp.tracking.record import push_record
from midre_exp.tracking.tracker import goes_online


def push_records(overrides: Sequence[str]) -> int:
    """Push all records of a scale: ``overrides`` are Hydra's, a word alone is a scale. Prints what was done;
    returns how many were pushed.

    Raises ConfigError when there are none or W&B cannot be reached.
    """
    overrides = [part if "=" in part else f"scale={part}" for part in overrides]
    with packaged_configs():
        settings = settings_of(["tracking=wandb", *overrides])
    tracking, paths = settings["tracking"], settings["paths"]
    if tracking["mode"] == "off":
        raise ConfigError("tracking.mode=off pushes nothing; use auto, online or offline")
    records, unreadable = read_records(results_folder(settings))
    if not records:
        raise ConfigError(
            f"{paths['results']} has no records of scale {settings['scale']}; run something, or give another "
            "scale"
        )
    pushed = sum(push_record(record, settings) for record in records)
    print(f"{pushed} of {len(records)} records pushed, {len(records) - pushed} were there unchanged")
    if unreadable:
        print(passed_over(unreadable))
    if pushed and not goes_online(tracking):
        folders = Path(paths["runs"]) / "wandb" / "record-*/wandb/offline-run-*"
        print(f"offline, for want of a key or as asked; upload with: wandb sync {folders}")
    return pushed
