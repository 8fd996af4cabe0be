"""A Hydra sweeper that plans before it launches: composes every job, subtracts what is finished, freezes the rest, reports at the end."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.utils import JobReturn, JobStatus
from omegaconf import open_dict

from midre_exp.config import plain
from midre_exp.errors import UserError
from midre_exp.files import write_json
from midre_exp.job import is_finished, snapshot_path
from midre_exp.keys import make_plan
from midre_exp.records import git_commit


class SweepFailed(UserError):
    """Some jobs of a sweep failed; each left its own report."""


class PlannedSweeper(BasicSweeper):
    """The product of the swept overrides, minus finished runs, minus duplicates.

    Each remaining job is launched with ``plan.key`` and ``plan.commit`` and refuses to run if it has become something else by the time it
    starts. Works with every launcher.
    """

    def sweep(self, arguments: list[str]) -> Any:
        """Plan, launch, summarise. Raises SweepFailed when a job failed, UserError when a job cannot even be planned."""
        assert self.config is not None and self.launcher is not None and self.hydra_context is not None
        parser = OverridesParser.create(config_loader=self.hydra_context.config_loader)
        overrides = parser.parse_overrides([*self._parse_config(), *arguments])
        launcher_keys = [
            o.get_key_element() for o in overrides if o.is_sweep_override() and "hydra" in str(o.key_or_group)
        ]
        if launcher_keys:
            raise UserError(f"{launcher_keys[0]} cannot be swept: all jobs of a sweep share one launcher")
        jobs = [job for batch in self.split_arguments(overrides, None) for job in batch]
        todo = self._plan(jobs)
        if not todo:
            return []
        results: Sequence[JobReturn] = self.launcher.launch(todo, initial_job_idx=0)
        self._summarise(todo, results)
        return [results]

    def _plan(self, jobs: Sequence[Sequence[str]]) -> list[list[str]]:
        """The jobs that are left to do, each with its frozen key; writes their resolved configs."""
        assert self.config is not None and self.hydra_context is not None
        commit = git_commit()
        todo: dict[str, list[str]] = {}
        finished = 0
        for job in jobs:
            composed = self.hydra_context.config_loader.load_sweep_config(self.config, list(job))
            with open_dict(composed):
                del composed["hydra"]
            settings = plain(composed)
            plan = make_plan(settings)
            if is_finished(settings, plan):
                finished += 1
                continue
            write_json(snapshot_path(settings, plan.key), settings)
            frozen = [f"plan.key='{plan.key}'", *([f"plan.commit='{commit}'"] if commit else [])]
            todo.setdefault(plan.key, [*job, *frozen])
        print(
            f"{len(jobs)} runs planned: {finished} finished before, {len(jobs) - finished - len(todo)} repeated, "
            f"{len(todo)} to do",
            flush=True,
        )
        return list(todo.values())

    def _summarise(self, jobs: Sequence[Sequence[str]], results: Sequence[JobReturn]) -> None:
        failures = []
        for job, result in zip(jobs, results, strict=True):
            error = (
                result._return_value.error if result.status is JobStatus.COMPLETED else result._return_value
            )
            if error is not None:
                failures.append((" ".join(part for part in job if not part.startswith("plan.")), error))
        print(f"{len(jobs) - len(failures)} runs done, {len(failures)} failed", flush=True)
        for shown, error in failures:
            text = str(error) if isinstance(error, UserError) else f"{type(error).__name__}: {error}"
            print(f"  failed: {shown}\n    {text}", file=sys.stderr, flush=True)
        if failures:
            raise SweepFailed(
                f"{len(failures)} of {len(jobs)} runs failed; their tracebacks are in the failed folder of paths.runs"
            )
