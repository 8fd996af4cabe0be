"""Sweeps that plan before they launch: compose every job, subtract what is finished, freeze the rest, report
at the end.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Sequence
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any, NamedTuple

from hydra.core.utils import JobReturn, JobStatus
from omegaconf import DictConfig, open_dict

from midre_exp.cards.named import check_named
from midre_exp.errors import ConfigError, DivergedError, UserError
from midre_exp.numerics import explained
from midre_exp.plan.compose import Composer, checked, expand
from midre_exp.plan.config import digest
from midre_exp.plan.explain import settings_of_job
from midre_exp.plan.imported import check_imported, take_snapshot
from midre_exp.plan.keys import Plan, StageKey, fingerprints_once
from midre_exp.plan.loaded_once import loaded_once
from midre_exp.plan.machine_values import decided
from midre_exp.plan.suite import runs_of
from midre_exp.stages import make_plan
from midre_exp.store.files import read_json, write_json
from midre_exp.store.lock import release_dead
from midre_exp.store.progress import duration
from midre_exp.store.store import Store
from midre_exp.store.streams import tell
from midre_exp.sweep.finished import check_stale, code_path, failure_path, is_finished, snapshot_path
from midre_exp.sweep.job import report_failure
from midre_exp.sweep.rebuild import fulfilled, request_of
from midre_exp.sweep.workers import at_a_time
from midre_exp.tracking.provenance import git_commit


class SweepFailed(UserError):
    """Some jobs of a sweep failed; of each there is a report."""


class Planned(NamedTuple):
    """One job that is left to do: what it is launched with and what it was composed to."""

    key: str
    overrides: list[str]
    settings: dict[str, Any]


def sweep(sweeper: Any, arguments: Sequence[str]) -> list[Sequence[JobReturn]]:
    """The product of the swept overrides, or the jobs of a file, minus finished runs, minus duplicates, with
    any launcher; ``sweeper`` is Hydra's, set up.

    Each job is launched with ``plan.key`` and ``plan.code`` and refuses to run if it, or a source file, has
    become something else by the time it starts. Raises SweepFailed when a job failed, UserError when a job
    cannot even be planned.
    """
    jobs = (
        expand(arguments, sweeper.hydra_context.config_loader)
        if sweeper.jobs is None
        else listed_jobs(Path(sweeper.jobs), arguments)
    )
    todo, requests = plan_jobs(sweeper, jobs)
    results: list[JobReturn] = []
    if todo:
        started = time.monotonic()
        workers = at_a_time(sweeper.config.hydra.launcher, [job.settings for job in todo])
        results = launch_all(sweeper.launcher, todo, workers)
        summarise(todo, results, time.monotonic() - started)
    for file in requests:
        fulfilled(file)
    return [results] if todo else []


def listed_jobs(file: Path, arguments: Sequence[str] = ()) -> list[list[str]]:
    """The jobs of a JSON file, each a list of overrides. Raises ConfigError when it is something else, and
    for further ``arguments``.
    """
    if arguments:
        raise ConfigError(
            f"hydra.sweeper.jobs={file} lists whole jobs, to which {arguments[0]} cannot be added; leave "
            "it out"
        )
    try:
        jobs = read_json(file)
    except (OSError, ValueError, UserError) as error:
        raise ConfigError(f"hydra.sweeper.jobs={file} cannot be read ({error}); correct the path") from error
    if not (isinstance(jobs, list) and all(isinstance(job, list) for job in jobs)):
        raise ConfigError(
            f"hydra.sweeper.jobs={file} is no list of jobs, each a list of overrides; correct it"
        )
    return [[str(part) for part in job] for job in jobs]


def launch_all(launcher: Any, todo: Sequence[Planned], workers: int | None) -> list[JobReturn]:
    """The result of every job, in order.

    A job that needs a stage which another process is building is queued again behind all others. The last
    jobs of a round wait instead, one for each other worker and at least one; all do where no job is without a
    worker, or where ``workers`` is None.
    """
    done: dict[str, JobReturn] = {}
    waiting = list(todo)
    while waiting:
        last = 0 if workers is None or workers >= len(waiting) else len(waiting) - max(1, workers - 1)
        jobs = [[*job.overrides, f"plan.wait={number >= last}"] for number, job in enumerate(waiting)]
        try:
            results = launch(launcher, jobs, workers)
        except BaseException as error:
            # SIGTERM, or a worker died: joblib has killed the others, which could give back nothing.
            for root in {Store(job.settings["paths"]["store"]).root for job in todo}:
                release_dead(root / "locks")
            if isinstance(error, BrokenProcessPool):
                raise SweepFailed(
                    "a worker of this sweep was killed, often for want of memory (hydra.launcher.n_jobs "
                    "lowers it), and joblib ended the "
                    "others; the same command continues where they stopped"
                ) from error
            raise
        for job, result in zip(waiting, results, strict=True):
            done[job.key] = result
        waiting = [job for job, result in zip(waiting, results, strict=True) if is_locked(result)]
    return [done[job.key] for job in todo]


def is_locked(result: JobReturn) -> bool:
    """Whether another process was building what a job needed."""
    value: Any = result._return_value
    return result.status is JobStatus.COMPLETED and value.locked is not None


def launch(launcher: Any, jobs: Sequence[Sequence[str]], workers: int | None = None) -> Sequence[JobReturn]:
    """The results of all jobs, in order, ``workers`` at a time on this machine. What hydra-submitit-launcher
    brings itself breaks off at the first lost job, so its choices (``submitit_local``, ``submitit_slurm``)
    are carried out as ours are.
    """
    if not type(launcher).__module__.startswith("hydra_plugins.hydra_submitit_launcher"):
        if workers is not None and hasattr(launcher, "joblib"):
            launcher.joblib["n_jobs"] = workers
        results: Sequence[JobReturn] = launcher.launch(jobs, initial_job_idx=0)
        return results
    from midre_exp.sweep import submitit as cluster

    context = {name: getattr(launcher, name) for name in ("hydra_context", "task_function", "config")}
    return cluster.launch(launcher._EXECUTOR, launcher.params, context, jobs, 0, workers)


def plan_jobs(sweeper: Any, jobs: Sequence[Sequence[str]]) -> tuple[list[Planned], list[Path]]:
    """The jobs that are left to do, each with its frozen key; keeps their resolved configs, and the checksums
    of all source files, for comparison at their start. And the files of requests to rebuild, to be removed
    when all are done.
    """
    with fingerprints_once():
        return _plan_jobs(sweeper, jobs)


def _plan_jobs(sweeper: Any, jobs: Sequence[Sequence[str]]) -> tuple[list[Planned], list[Path]]:
    composer = composer_of(sweeper)
    every = [
        (list(job), settings, make_plan(settings))
        for job in jobs
        for settings in [_usable(settings_of_job(composer, job))]
    ]
    codes, commit = _Codes(), git_commit()
    requests = _rebuild_requests(every, codes)
    todo: dict[str, Planned] = {}
    finished = 0
    stale: dict[str, str] = {}
    for job, settings, plan in every:
        request = requests.get(str(settings["runtime"]["rebuild"]))
        if request is not None:
            settings["plan"]["rebuild"] = request[0]
        if is_finished(settings, plan):
            finished += 1
            if found := check_stale(settings, plan, commit):
                stale[plan.key] = next(
                    f"{plan[name].name} {plan[name].key} {why}" for name, why in found.items()
                )
            continue
        write_json(snapshot_path(settings, plan.key), settings)
        code = codes.of(settings, plan.stages.values())
        frozen = [f"plan.key='{plan.key}'", f"plan.code='{code}'"]
        frozen += decided(settings)
        frozen += [] if request is None else [f"plan.rebuild='{request[0]}'"]
        todo.setdefault(plan.key, Planned(plan.key, [*job, *frozen], settings))
    repeated = len(jobs) - finished - len(todo)
    chosen = [settings["numerics"] for _, settings, _ in every if settings["numerics"]["why"]]
    for line in dict.fromkeys(map(explained, chosen)):
        tell(line)
    tell(f"{len(jobs)} runs planned: {finished} finished before, {repeated} repeated, {len(todo)} to do")
    if stale:
        tell(
            f"{len(stale)} of the finished runs rest on what other code made, such as "
            f"{next(iter(stale.values()))}; runtime.stale=rebuild makes them anew"
        )
    return list(todo.values()), [file for _, file in requests.values()]


def _usable(settings: dict[str, Any]) -> dict[str, Any]:
    """The settings of a job, if the weight files that they call by name are here."""
    for one in runs_of(settings):
        check_named(one)
    return settings


class _Codes:
    """The source files behind jobs, looked at once for all jobs that name the same classes."""

    def __init__(self) -> None:
        self._known: dict[tuple[frozenset[str], Path], str] = {}

    def of(self, settings: dict[str, Any], stages: Iterable[StageKey]) -> str:
        """Their digest; keeps the checksum of each file where a job will look for it. Raises CodeChangedError
        when this process has imported what is no longer there.
        """
        every = list(stages)
        place = (frozenset().union(*(stage.names for stage in every)), Path(settings["paths"]["runs"]))
        if place not in self._known:
            snapshot = take_snapshot(every)
            check_imported(snapshot, at_start=True)
            write_json(code_path(settings, snapshot.digest), snapshot.hashes)
            self._known[place] = snapshot.digest
        return self._known[place]


def _rebuild_requests(
    every: Sequence[tuple[list[str], dict[str, Any], Plan]], codes: _Codes
) -> dict[str, tuple[str, Path]]:
    """One request to rebuild for all jobs that name the same stages, by these."""
    found: dict[str, tuple[str, Path]] = {}
    for stages in {str(settings["runtime"]["rebuild"]) for _, settings, _ in every}:
        asking = [(s, plan) for _, s, plan in every if str(s["runtime"]["rebuild"]) == stages]
        first = asking[0][0]
        if first["runtime"]["rebuild"]:
            code = digest(sorted({codes.of(settings, plan.stages.values()) for settings, plan in asking}))
            request = request_of(first, [plan.key for _, plan in asking], code)
            if request is not None:
                found[stages] = request
    return found


def composer_of(sweeper: Any) -> Composer:
    """What composes the jobs of a sweep as Hydra will when they start."""
    loader = sweeper.hydra_context.config_loader
    files: dict[str, bytes] = {}

    def compose(overrides: list[str]) -> DictConfig:
        with loaded_once(loader, files):
            composed: DictConfig = loader.load_sweep_config(sweeper.config, overrides)
        with open_dict(composed):
            del composed["hydra"]
        return checked(composed)

    return Composer(compose, loader)


def summarise(jobs: Sequence[Planned], results: Sequence[JobReturn], seconds: float) -> None:
    """Say how the jobs ended after ``seconds``, each failure by its overrides and its error. Raises
    SweepFailed if there was one.

    A job that could not report its failure, because its cluster ended it, is reported here.
    """
    failures, diverged = [], 0
    for job, result in zip(jobs, results, strict=True):
        value: Any = result._return_value
        if result.status is JobStatus.COMPLETED:
            error = value.error
        else:
            error = value
            report_failure(failure_path(job.settings, job.key), job.settings, error, trace="")
        if error is not None:
            failures.append((" ".join(part for part in job.overrides if not part.startswith("plan.")), error))
            diverged += isinstance(error, DivergedError)
    done, failed = len(jobs) - len(failures), len(failures) - diverged
    told = f"{diverged} diverged, " if diverged else ""
    tell(f"{done} runs done, {told}{failed} failed, after {duration(seconds)}")
    for shown, error in failures:
        text = str(error) if isinstance(error, UserError) else f"{type(error).__name__}: {error}"
        outcome = "diverged" if isinstance(error, DivergedError) else "failed"
        tell(f"  {outcome}: {shown}\n    {text}", sys.stderr)
    where = {
        f"{failed} of {len(jobs)} runs failed; their reports are in the failed folder of paths.runs": failed,
        f"{diverged} of {len(jobs)} runs diverged; their outcomes are in the diverged folder beside the "
        "records": diverged,
    }
    if failures:
        raise SweepFailed(". ".join(sentence for sentence, count in where.items() if count))
