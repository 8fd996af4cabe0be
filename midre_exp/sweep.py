"""Sweeps that plan before they launch: compose every job, subtract what is finished, freeze the rest, report at the end."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any, NamedTuple

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.utils import JobReturn, JobStatus
from omegaconf import DictConfig, open_dict

from midre_exp.composing import Composer
from midre_exp.errors import UserError
from midre_exp.files import write_json
from midre_exp.job import failure_path, is_finished, report_failure, snapshot_path
from midre_exp.keys import fingerprints_once, make_plan
from midre_exp.records import git_commit


class SweepFailed(UserError):
    """Some jobs of a sweep failed; of each there is a report."""


class Planned(NamedTuple):
    """One job that is left to do: what it is launched with and what it was composed to."""

    key: str
    overrides: list[str]
    settings: dict[str, Any]


def sweep(sweeper: Any, arguments: Sequence[str]) -> list[Sequence[JobReturn]]:
    """The product of the swept overrides, minus finished runs, minus duplicates, with any launcher; ``sweeper`` is Hydra's, set up.

    Each job is launched with ``plan.key`` and ``plan.commit`` and refuses to run if it has become something else by the time it starts.
    Raises SweepFailed when a job failed, UserError when a job cannot even be planned.
    """
    parser = OverridesParser.create(config_loader=sweeper.hydra_context.config_loader)
    overrides = parser.parse_overrides(list(arguments))
    for override in overrides:
        if override.is_sweep_override() and override.get_key_element().startswith("hydra"):
            raise UserError(
                f"{override.get_key_element()} cannot be swept: all jobs of a sweep share one launcher"
            )
    jobs = [job for batch in sweeper.split_arguments(overrides, None) for job in batch]
    todo = plan_jobs(sweeper, jobs)
    if not todo:
        return []
    results = launch(sweeper.launcher, [job.overrides for job in todo])
    summarise(todo, results)
    return [results]


def launch(launcher: Any, jobs: Sequence[Sequence[str]]) -> Sequence[JobReturn]:
    """The results of all jobs, in order. What hydra-submitit-launcher brings itself breaks off at the first lost job, so its choices
    (``submitit_local``, ``submitit_slurm``) are carried out as ours are.
    """
    if not type(launcher).__module__.startswith("hydra_plugins.hydra_submitit_launcher"):
        results: Sequence[JobReturn] = launcher.launch(jobs, initial_job_idx=0)
        return results
    from midre_exp import cluster

    context = {name: getattr(launcher, name) for name in ("hydra_context", "task_function", "config")}
    return cluster.launch(launcher._EXECUTOR, launcher.params, context, jobs, 0)


def plan_jobs(sweeper: Any, jobs: Sequence[Sequence[str]]) -> list[Planned]:
    """The jobs that are left to do, each with its frozen key; keeps their resolved configs for comparison at their start."""
    with fingerprints_once():
        return _plan_jobs(sweeper, jobs)


def _plan_jobs(sweeper: Any, jobs: Sequence[Sequence[str]]) -> list[Planned]:
    commit = git_commit()
    composer = composer_of(sweeper)
    todo: dict[str, Planned] = {}
    finished = 0
    for job in jobs:
        settings = composer.settings(job)
        plan = make_plan(settings)
        if is_finished(settings, plan):
            finished += 1
            continue
        write_json(snapshot_path(settings, plan.key), settings)
        frozen = [f"plan.key='{plan.key}'", *([f"plan.commit='{commit}'"] if commit else [])]
        todo.setdefault(plan.key, Planned(plan.key, [*job, *frozen], settings))
    repeated = len(jobs) - finished - len(todo)
    print(
        f"{len(jobs)} runs planned: {finished} finished before, {repeated} repeated, {len(todo)} to do",
        flush=True,
    )
    return list(todo.values())


def composer_of(sweeper: Any) -> Composer:
    """What composes the jobs of a sweep as Hydra will when they start."""
    loader = sweeper.hydra_context.config_loader

    def compose(overrides: list[str]) -> DictConfig:
        composed: DictConfig = loader.load_sweep_config(sweeper.config, overrides)
        with open_dict(composed):
            del composed["hydra"]
        return composed

    return Composer(compose, lambda name: bool(loader.get_group_options(name)))


def summarise(jobs: Sequence[Planned], results: Sequence[JobReturn]) -> None:
    """Say how the jobs ended, each failure by its overrides and its error. Raises SweepFailed if there was one.

    A job that could not report its failure, because its cluster ended it, is reported here.
    """
    failures = []
    for job, result in zip(jobs, results, strict=True):
        value: Any = result._return_value
        if result.status is JobStatus.COMPLETED:
            error = value.error
        else:
            error = value
            report_failure(failure_path(job.settings, job.key), job.settings, error, trace="")
        if error is not None:
            failures.append((" ".join(part for part in job.overrides if not part.startswith("plan.")), error))
    print(f"{len(jobs) - len(failures)} runs done, {len(failures)} failed", flush=True)
    for shown, error in failures:
        text = str(error) if isinstance(error, UserError) else f"{type(error).__name__}: {error}"
        print(f"  failed: {shown}\n    {text}", file=sys.stderr, flush=True)
    if failures:
        raise SweepFailed(
            f"{len(failures)} of {len(jobs)} runs failed; their reports are in the failed folder of paths.runs"
        )
