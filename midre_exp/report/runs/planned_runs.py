"""The runs of a table or figure: for each its record, or the command that makes it."""

from __future__ import annotations

import shlex
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from midre_exp.errors import ConfigError, DataError
from midre_exp.plan.compose import packaged_composer, packaged_configs
from midre_exp.plan.config import digest, without
from midre_exp.plan.keys import fingerprints_once
from midre_exp.records import (
    Record,
    diverged_path,
    read_diverged,
    record_files,
    record_path,
    results_folder,
    try_record,
)
from midre_exp.records.comparable import comparable_config, numerics_of
from midre_exp.report.runs.captions import passed_over
from midre_exp.report.runs.defense_names import DefenseName, published_name
from midre_exp.stages import make_plan
from midre_exp.stages.stale import StaleError, told
from midre_exp.stages.trained_with import label_before_a_run
from midre_exp.store.store import Artifact, Store
from midre_exp.sweep.finished import check_stale, is_finished
from midre_exp.tracking.provenance import git_commit

#: What stands in place of the numbers of a run that has none.
NOT_RUN, DIVERGED = "not run", "diverged"


@dataclass(frozen=True)
class PlannedRun:
    """One run that a table or figure shows."""

    job: tuple[str, ...]  # the overrides that make it
    settings: dict[str, Any]  # its resolved config
    record: Record | None
    path: Path | None = None  # where its record belongs
    obstacle: DataError | None = None  # why it cannot be run here
    finished: bool = False  # record and artifacts are there; not a record alone, as in a fresh clone
    stale: str = ""  # of a finished one: which of its stages other code made
    refusal: StaleError | None = None  # why these must not be used (runtime.stale=refuse)
    earlier: bool = False  # its record was written by an earlier version of the code
    numerics_note: str = ""  # that its record is of other numerics than are asked for, a sentence
    diverged: str | None = None  # of a run without a record: how its training diverged, a sentence
    unreadable: frozenset[Path] = frozenset()  # record files that were passed over in the search for its own
    remark: str = ""  # what tells it from another run of the same row

    @cached_property
    def name(self) -> str:
        """Equal for jobs that are the same run."""
        return str(self.path or repr(comparable_config(self.settings)))

    @property
    def command(self) -> str:
        """What a user types to run it."""
        return "python -m midre_exp " + shlex.join(self.job)

    @property
    def absence(self) -> str:
        """What stands in place of its numbers: that it was not run, or that it diverged."""
        return DIVERGED if self.diverged is not None else NOT_RUN

    @property
    def setup(self) -> str:
        """The id of its setup."""
        return str(self.settings["setup"]["id"])

    @property
    def seed(self) -> int:
        """Its seed."""
        return int(self.settings["seed"])

    @property
    def defense(self) -> DefenseName:
        """The paper's name of its defense."""
        return published_name(self.settings["defense"])

    @cached_property
    def label(self) -> str:
        """The defense's own label, of a missing run that of the object it would use; and the remark."""
        settings = self.settings
        label = label_before_a_run(settings) if self.record is None else self.record["defense"]["label"]
        return f"{label} ({self.remark})" if self.remark else label

    @property
    def row(self) -> dict[str, str]:
        """The row of a comparison it belongs to."""
        return {
            "setup": self.setup,
            "attack": str(self.settings["attack"]["name"]),
            "target": str(self.settings["target"]["name"]),
            "defense": self.label,
        }

    def artifact(self, stage: str) -> Artifact | None:
        """What a stage of it left in the store; None without a record or where it is not there, as of a suite
        of attacks.
        """
        key = None if self.record is None else self.record["artifacts"].get(stage)
        return None if key is None else Store(self.settings["paths"]["store"]).find(stage, key)


def epochs_at(length: float, epochs: int) -> int:
    """How many epochs ``length`` times ``epochs`` are, at least one."""
    return max(1, round(length * epochs))


def at_lengths(jobs: Sequence[Sequence[str]], lengths: Sequence[float]) -> list[list[str]]:
    """Each job once for each length, trained for so many times the epochs of its target; at length 1 as it
    is.
    """
    found: list[list[str]] = []
    with packaged_configs():
        composer = packaged_composer()
        for job in jobs:
            words = [word for word in job if not word.startswith("hydra")]
            epochs = int(composer.settings(words)["target"]["recipe"]["epochs"])
            for length in lengths:
                changed = [] if length == 1 else [f"target.recipe.epochs={epochs_at(length, epochs)}"]
                found.append([*job, *changed])
    return found


def plan_runs(jobs: Sequence[Sequence[str]], *, earlier: bool = False) -> list[PlannedRun]:
    """A run for each job, equal ones once, in order. Raises ConfigError when they are not all of one scale.

    A record is found by the run's key. Where the run's data is not on this machine there is no key, and the
    record is the one whose config is equal in everything but how it was carried out. With ``earlier`` such a
    record also serves where none has the key: it was written by another version of the code, under the
    commit that it names.
    """
    return plan_tables([jobs], earlier=earlier)[0]


def plan_tables(
    tables: Sequence[Sequence[Sequence[str]]], *, earlier: bool = False
) -> list[list[PlannedRun]]:
    """``plan_runs`` of the jobs of each of several tables, what they share planned once."""
    known: dict[tuple[str, ...], PlannedRun] = {}
    planned: list[list[PlannedRun]] = []
    index = _RecordIndex()
    with packaged_configs(), fingerprints_once():
        composer = packaged_composer()
        for jobs in tables:
            runs: dict[str, PlannedRun] = {}
            for words in jobs:
                job = tuple(part for part in words if not part.startswith("hydra"))
                if job not in known:
                    known[job] = _plan(job, composer.settings(job), index, earlier=earlier)
                runs.setdefault(known[job].name, known[job])
            planned.append(list(runs.values()))
    scales = sorted({str(run.settings["scale"]) for run in known.values()})
    if len(scales) > 1:
        raise ConfigError(f"a table shows runs of one scale, not of {' and '.join(scales)}; give one scale=")
    return planned


def _plan(
    job: tuple[str, ...], settings: dict[str, Any], index: _RecordIndex, *, earlier: bool
) -> PlannedRun:
    try:
        plan = make_plan(settings)
    except DataError as error:
        run = PlannedRun(job, settings, index.find(settings), obstacle=error)
        run = run if run.record is not None else _of_other_numerics(run, index, same_folders=False)
        return replace(run, unreadable=index.unreadable(settings), diverged=index.diverged(settings))
    path = record_path(settings["paths"]["results"], settings, plan)
    run = _with_outcome(PlannedRun(job, settings, None, path), path)
    if run.record is None and earlier and (former := index.find(settings, same_folders=True)) is not None:
        return replace(run, record=former, earlier=True, diverged=None)
    run = replace(run, finished=is_finished(settings, plan))
    if not run.finished:
        return _of_other_numerics(run, index, same_folders=True) if earlier and run.record is None else run
    try:
        return replace(run, stale=told(check_stale(settings, plan, index.commit)))
    except StaleError as error:
        return replace(run, refusal=error)


def _of_other_numerics(run: PlannedRun, index: _RecordIndex, *, same_folders: bool) -> PlannedRun:
    """The run with a record that differs in how it rounded alone, where there is one: better than none, and
    told.
    """
    record = index.find(run.settings, same_folders=same_folders, any_numerics=True)
    if record is None:
        return run
    made, asked = (numerics_of(config) for config in (record["config"], run.settings))
    return replace(
        run, record=record, numerics_note=f"Made with numerics {made}, not {asked} as asked for here"
    )


def _with_outcome(run: PlannedRun, path: Path) -> PlannedRun:
    """The run with what lies at the path of its record. One that is damaged is named and counts as none,
    since the run will write it anew.
    """
    record = try_record(path) if path.exists() else None
    return replace(
        run,
        record=record,
        unreadable=frozenset([path] if record is None and path.exists() else []),
        diverged=_sentence(read_diverged(diverged_path(path))) if record is None else None,
    )


def _sentence(outcome: Mapping[str, Any] | None) -> str | None:
    return None if outcome is None else str(outcome["sentence"])


#: What comparable configs have in common whatever else they hold: setup and seed.
_Label = tuple[str, str]


def _label(config: Mapping[str, Any]) -> _Label:
    setup = config.get("setup")
    return str(setup.get("id") if isinstance(setup, Mapping) else setup), str(config.get("seed"))


class _RecordIndex:
    """What lies in results folders, by comparable configs, read when first asked for."""

    def __init__(self) -> None:
        self.commit = git_commit()  # of today's code
        self._by_config: dict[tuple[Path, bool, bool, _Label], dict[str, Record]] = {}
        self._by_label: dict[Path, dict[_Label, list[Record]]] = {}
        self._read: dict[Path, tuple[list[Record], frozenset[Path]]] = {}
        self._diverged: dict[Path, dict[str, str]] = {}

    def find(
        self, settings: Mapping[str, Any], *, same_folders: bool = False, any_numerics: bool = False
    ) -> Record | None:
        """The record of an equal config; ``same_folders``: only where its data lay in the same folders;
        ``any_numerics``: however it rounded.
        """

        def name(config: Mapping[str, Any]) -> str:
            config = without(config, "numerics") if any_numerics else config
            return digest(comparable_config(config, data_folders=same_folders))

        folder, label = results_folder(settings), _label(settings)
        place = (folder, same_folders, any_numerics, label)
        if place not in self._by_config:
            self._by_config[place] = {name(one["config"]): one for one in self._labelled(folder, label)}
        return self._by_config[place].get(name(settings))

    def _labelled(self, folder: Path, label: _Label) -> list[Record]:
        """The records of that setup and seed."""
        if folder not in self._by_label:
            found: dict[_Label, list[Record]] = defaultdict(list)
            for record in self._records(folder)[0]:
                found[_label(record["config"])].append(record)
            self._by_label[folder] = found
        return self._by_label[folder].get(label, [])

    def unreadable(self, settings: Mapping[str, Any]) -> frozenset[Path]:
        """The files beside them that are no records, or damaged."""
        return self._records(results_folder(settings))[1]

    def diverged(self, settings: Mapping[str, Any]) -> str | None:
        """How the run of an equal config diverged, if it did and left no record."""
        folder = results_folder(settings)
        if folder not in self._diverged:
            files = sorted(diverged_path(folder / "records" / "any.json").parent.glob("*.json"))
            self._diverged[folder] = {
                digest(comparable_config(outcome["config"])): str(outcome["sentence"])
                for outcome in map(read_diverged, files)
                if outcome is not None
            }
        if self.find(settings) is not None:
            return None
        return self._diverged[folder].get(digest(comparable_config(settings)))

    def _records(self, folder: Path) -> tuple[list[Record], frozenset[Path]]:
        if folder not in self._read:
            found = {path: try_record(path) for path in record_files(folder)}
            self._read[folder] = (
                [record for record in found.values() if record is not None],
                frozenset(path for path, record in found.items() if record is None),
            )
        return self._read[folder]


def with_current_records(runs: Sequence[PlannedRun]) -> list[PlannedRun]:
    """The runs with the records and outcomes that have come or changed since they were planned."""
    return [run if run.path is None else _with_outcome(run, run.path) for run in runs]


def diverged(runs: Sequence[PlannedRun]) -> list[str]:
    """A line for each run that diverged: its command and what happened."""
    return [f"diverged: {run.command}: {run.diverged}" for run in runs if run.diverged is not None]


def unreadable(runs: Sequence[PlannedRun]) -> str:
    """How many record files the search for these runs passed over: a sentence, or nothing."""
    return passed_over(len(frozenset().union(*(run.unreadable for run in runs))))


def disambiguate(runs: Sequence[PlannedRun]) -> list[PlannedRun]:
    """The runs, those of one row and one seed with the overrides by which they differ as a remark, so that
    only seeds are averaged. Their records carry the remark in the label.
    """
    rows: dict[tuple[str, ...], list[PlannedRun]] = {}
    for run in runs:
        rows.setdefault(tuple(run.row.values()), []).append(run)
    return [_with_remark(run, rows[tuple(run.row.values())]) for run in runs]


def _with_remark(run: PlannedRun, row: Sequence[PlannedRun]) -> PlannedRun:
    seeds = [other.seed for other in row]
    if len(set(seeds)) == len(seeds):
        return run
    common = set.intersection(*(set(other.job) for other in row))
    remark = ", ".join(part for part in run.job if part not in common and not part.startswith("seed="))
    marked = replace(run, remark=remark)
    if run.record is None:
        return marked
    record: Record = {**run.record, "defense": {**run.record["defense"], "label": marked.label}}
    return replace(run, record=record)
