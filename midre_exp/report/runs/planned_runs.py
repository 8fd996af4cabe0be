"""The runs a table is made of: for each its record, or the command that makes it."""

from __future__ import annotations

import logging
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from midre_exp.errors import ConfigError, DataError, StoreError
from midre_exp.plan.compose import packaged_composer, packaged_configs
from midre_exp.plan.config import build, without
from midre_exp.plan.keys import fingerprints_once
from midre_exp.records import Record, read_record, read_records, record_path, results_folder
from midre_exp.report.runs.defense_names import Arm, arm_of
from midre_exp.stages import make_plan
from midre_exp.sweep.finished import is_finished

#: What of a config may differ between two runs of the same thing: where and how it was carried out.
EXECUTION = ("paths", "runtime", "plan", "tracking")


@dataclass(frozen=True)
class Cell:
    """One planned run of a table: the overrides that make it, its resolved config, and its record or None."""

    job: tuple[str, ...]
    settings: dict[str, Any]
    record: Record | None
    path: Path | None = None  # where its record belongs
    obstacle: DataError | None = None  # why it cannot be run here
    finished: bool = (
        False  # record and artifacts are there; a record alone, as in a fresh clone, does not count
    )
    remark: str = ""  # what tells it from another cell of the same row

    @cached_property
    def name(self) -> str:
        """Equal for cells that are the same run."""
        return str(self.path or repr(what_it_is(self.settings)))

    @property
    def command(self) -> str:
        """What a user types to run it."""
        return "python -m midre_exp " + shlex.join(self.job)

    @property
    def arm(self) -> Arm:
        """The paper's name of its defense."""
        return arm_of(self.settings["defense"])

    @cached_property
    def label(self) -> str:
        """The defense's own label, of a missing run that of the object it would use; and the remark."""
        settings = self.settings
        if self.record is not None:
            label = str(self.record["defense"]["label"])
        else:
            parts = {**settings["composer"], **settings["defense"]}
            label = str(build(parts, trusted=settings["runtime"]["trusted_packages"]).label)
        return f"{label} ({self.remark})" if self.remark else label

    @property
    def place(self) -> dict[str, str]:
        """The row of a comparison it belongs to."""
        settings = self.settings
        return {
            "setup": str(settings["setup"]["id"]),
            "attack": str(settings["attack"]["name"]),
            "target": str(settings["target"]["name"]),
            "defense": self.label,
        }


def plan_cells(jobs: Sequence[Sequence[str]]) -> list[Cell]:
    """A cell for each job, equal ones once, in order. Raises ConfigError when they are not all of one scale.

    A record is found by the run's key. Where its data is not on this machine there is no key, and the record
    is the one whose config is equal in everything but how it was carried out.
    """
    return plan_tables([jobs])[0]


def plan_tables(tables: Sequence[Sequence[Sequence[str]]]) -> list[list[Cell]]:
    """``plan_cells`` of the jobs of each of several tables, what they share planned once."""
    known: dict[tuple[str, ...], Cell] = {}
    planned = []
    with packaged_configs(), fingerprints_once():
        composer = packaged_composer()
        for jobs in tables:
            cells: dict[str, Cell] = {}
            for words in jobs:
                job = tuple(part for part in words if not part.startswith("hydra"))
                if job not in known:
                    known[job] = _find(job, composer.settings(job))
                cells.setdefault(known[job].name, known[job])
            planned.append(list(cells.values()))
    scales = sorted({str(cell.settings["scale"]) for cell in known.values()})
    if len(scales) > 1:
        raise ConfigError(f"a table shows runs of one scale, not of {' and '.join(scales)}; give one scale=")
    return planned


def told_apart(cells: Sequence[Cell]) -> list[Cell]:
    """The cells, those of one row and one seed with the overrides by which they differ as a remark, so that
    only seeds are averaged.

    Their records carry the remark in the label.
    """
    rows: dict[tuple[str, ...], list[Cell]] = {}
    for cell in cells:
        rows.setdefault(tuple(cell.place.values()), []).append(cell)
    return [_with_remark(cell, rows[tuple(cell.place.values())]) for cell in cells]


def _with_remark(cell: Cell, row: Sequence[Cell]) -> Cell:
    seeds = [other.settings["seed"] for other in row]
    if len(set(seeds)) == len(seeds):
        return cell
    common = set.intersection(*(set(other.job) for other in row))
    remark = ", ".join(part for part in cell.job if part not in common and not part.startswith("seed="))
    marked = replace(cell, remark=remark)
    if cell.record is None:
        return marked
    record: Record = {**cell.record, "defense": {**cell.record["defense"], "label": marked.label}}
    return replace(cell, record=record)


def _find(job: tuple[str, ...], settings: dict[str, Any]) -> Cell:
    try:
        plan = make_plan(settings)
        path = record_path(settings["paths"]["results"], settings, plan)
    except DataError as error:
        wanted = what_it_is(settings)
        same = (
            record
            for record in read_records(results_folder(settings))
            if what_it_is(record["config"]) == wanted
        )
        return Cell(job, settings, next(same, None), obstacle=error)
    return Cell(job, settings, _read(path), path, finished=is_finished(settings, plan))


def _read(path: Path) -> Record | None:
    """A record, or None where there is none; a damaged one is named and counts as none, since the run will
    write it anew.
    """
    if not path.exists():
        return None
    try:
        return read_record(path)
    except StoreError as error:
        logging.warning("%s; the table takes its run for missing", error)
        return None


def read_again(cells: Sequence[Cell]) -> list[Cell]:
    """The cells with the records that have come or changed since they were planned."""
    return [cell if cell.path is None else replace(cell, record=_read(cell.path)) for cell in cells]


def what_it_is(settings: Mapping[str, Any]) -> dict[str, Any]:
    """A config without how and where it is carried out, in which folders its data lie, and what is off.

    An option that came after a record was written, and is off, makes no difference.
    """
    data = {
        name: without(node, "root") if isinstance(node, Mapping) else node
        for name, node in settings["data"].items()
    }
    kept: dict[str, Any] = _what_is_on({**without(settings, *EXECUTION), "data": data})
    return kept


def _what_is_on(node: Any) -> Any:
    if isinstance(node, Mapping):
        inner = {key: _what_is_on(value) for key, value in node.items()}
        return {
            key: value
            for key, value in inner.items()
            if value is not None and value is not False and value != {}
        }
    return [_what_is_on(value) for value in node] if isinstance(node, list) else node
