"""Sweeps as jobs of submitit, on SLURM or as processes of this machine: submit them, let each give way,
collect how each ended.

Importing this needs the extra ``cluster``. hydra-submitit-launcher composes and runs the single job; what is
ours is the rest: a job that has to leave does so within seconds and is queued again with its arguments, and a
sweep outlives the death of any of its jobs.
"""

from __future__ import annotations

import os
import pickle
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import FrameType
from typing import Any

import submitit
from hydra.core.singleton import Singleton
from hydra.core.utils import JobReturn, JobStatus
from hydra_plugins.hydra_submitit_launcher.submitit_launcher import BaseSubmititLauncher
from submitit.core.utils import DelayedSubmission, FailedJobError, UncompletedJobError
from tqdm import tqdm

from midre_exp.errors import ConfigError, UserError
from midre_exp.store.lock import dies_as_fork
from midre_exp.sweep import slurm
from midre_exp.sweep.job import Outcome

#: How often in a row a job must be seen ended and without a result before it is given up: files arrive late
#: on network file systems.
LOOKS = 3

#: Options of hydra.launcher that submitit knows for every kind of executor; all others belong to one kind.
_SHARED = frozenset(
    {
        "name",
        "timeout_min",
        "mem_gb",
        "nodes",
        "cpus_per_task",
        "gpus_per_node",
        "tasks_per_node",
        "stderr_to_stdout",
    }
)

#: Which of some jobs have ended, by their id: the state and what to do about it. None when that cannot be
#: told just now.
Ended = Callable[[Sequence[Any]], Mapping[str, tuple[str, str]] | None]


class ClusterError(UserError):
    """A cluster refused a job, or ended it before it could say how it went."""


class SubmittedJob(BaseSubmititLauncher):
    """What is pickled for each job: Hydra's launcher composes the config of the job again and runs it, here
    under handlers of our own.
    """

    def __call__(self, *arguments: Any, **keywords: Any) -> JobReturn:
        """Run one job."""
        with giving_way():
            return super().__call__(*arguments, **keywords)

    def checkpoint(self, *arguments: Any, **keywords: Any) -> DelayedSubmission:
        """What is queued again: the job as it was submitted, for pickling it as it is now would add what
        Hydra has set up meanwhile.
        """
        return DelayedSubmission.load(submitit.JobEnvironment().paths.submitted_pickle)


def launch(
    kind: str,
    options: Mapping[str, Any],
    context: Mapping[str, Any],
    jobs: Sequence[Sequence[str]],
    first: int,
) -> list[JobReturn]:
    """Submit every job and wait for all: one result each, in order; that of a lost job holds a ClusterError.

    ``kind`` is ``slurm`` or ``local``, ``options`` are those of hydra.launcher, ``context`` is what Hydra
    sets a launcher up with, and ``first`` is the number of the first job. Raises ClusterError when nothing
    could be submitted, ConfigError for options that cannot be.
    """
    options = dict(options)
    poll_seconds = float(options.pop("poll_seconds", 1.0))
    size = int(options.pop("array_size", len(jobs)))
    call = SubmittedJob()
    call.setup(**context)
    executor = make_executor(kind, options)
    state = Singleton.get_state()
    rows = [
        (list(job), "hydra.sweep.dir", number, str(number), state) for number, job in enumerate(jobs, first)
    ]
    submitted: list[Any] = []
    refused: ClusterError | None = None
    for start in range(0, len(rows), size):
        try:
            submitted += executor.map_array(call, *zip(*rows[start : start + size], strict=True))
        except FailedJobError as error:
            refused = ClusterError(
                f"SLURM refused {min(size, len(rows) - start)} jobs ({last_line(str(error))}); "
                "hydra.launcher.* says what was asked for, "
                "docs/slurm.md how to stay within limits"
            )
            if not submitted:
                raise refused from error
            break
    names = " ".join(dict.fromkeys(job.job_id.partition("_")[0] for job in submitted))
    print(
        f"{len(submitted)} jobs submitted ({kind} {names}), their logs are in "
        f"{submitted[0].paths.folder.parent}",
        flush=True,
    )
    try:
        ended = ended_on_slurm if kind == "slurm" else ended_here
        results = collect(submitted, ended, poll_seconds=poll_seconds)
    except (KeyboardInterrupt, SystemExit):
        if kind == "slurm":
            print(
                f"the jobs go on without this process; scancel {names} ends them", file=sys.stderr, flush=True
            )
        for job in submitted if kind == "local" else ():
            job.cancel()
        raise
    return results + [lost(refused) for _ in rows[len(submitted) :] if refused is not None]


def make_executor(kind: str, options: Mapping[str, Any]) -> submitit.AutoExecutor:
    """What submits jobs, with their requests set."""
    options = dict(options)
    folder, countdown = options.pop("submitit_folder"), options.pop("max_num_timeout", 5)
    try:
        executor = submitit.AutoExecutor(
            folder=folder, cluster=kind, **{f"{kind}_max_num_timeout": countdown}
        )
    except RuntimeError as error:
        raise ClusterError(
            "hydra/launcher=slurm finds no srun here; call it on a login node of a SLURM cluster, or use "
            "hydra/launcher=joblib"
        ) from error
    named = {name if name in _SHARED else f"{kind}_{name}": value for name, value in options.items()}
    try:
        executor.update_parameters(**named)
    except (NameError, AssertionError) as error:  # an unknown name, a wrong type
        raise ConfigError(f"hydra.launcher: {str(error).splitlines()[0]}; see conf/hydra/launcher") from error
    return executor


def collect(jobs: Sequence[Any], ended: Ended, *, poll_seconds: float) -> list[JobReturn]:
    """Wait until every job has left its result or is lost."""
    results: dict[int, JobReturn] = {}
    looks = [0] * len(jobs)
    silent = 0
    with tqdm(total=len(jobs), desc="jobs", disable=None, dynamic_ncols=True) as bar:
        while waiting := [number for number in range(len(jobs)) if number not in results]:
            # asked before the results are looked for: a job that ends in between has its result seen next
            # time
            gone = ended([jobs[number] for number in waiting])
            silent = silent + 1 if gone is None else 0
            if silent == LOOKS:
                tqdm.write("squeue does not answer; waiting for results all the same", file=sys.stderr)
            for number in waiting:
                job = jobs[number]
                found = result_of(job)
                if found is None and gone is not None:
                    looks[number] = looks[number] + 1 if job.job_id in gone else 0
                    if looks[number] == LOOKS:
                        how, remedy = gone[job.job_id]
                        found = lost(
                            ClusterError(f"{how} before it could report; {remedy} (log: {job.paths.stderr})")
                        )
                if found is not None:
                    results[number] = found
                    bar.update()
            if len(results) < len(jobs):
                time.sleep(poll_seconds)
    return [results[number] for number in range(len(jobs))]


def result_of(job: Any) -> JobReturn | None:
    """What a job left, None when there is nothing yet."""
    try:
        content = job.paths.result_pickle.read_bytes()
    except OSError:  # not there yet, or a network file system has its moment
        return None
    try:
        status, value = pickle.loads(content)
    except Exception as error:  # a pickle can raise anything
        trouble = f"its result cannot be read ({type(error).__name__}: {error})"
    else:
        if status == "success" and isinstance(value, JobReturn) and isinstance(value._return_value, Outcome):
            return value
        trouble = f"it failed outside of its run ({last_line(str(value))})"
    return lost(ClusterError(f"job {job.job_id}: {trouble}; see its log {job.paths.stderr}"))


def lost(error: ClusterError) -> JobReturn:
    """The result of a job that left none."""
    return JobReturn(status=JobStatus.FAILED, _return_value=error)


def ended_on_slurm(jobs: Sequence[Any]) -> Mapping[str, tuple[str, str]] | None:
    """Those of some jobs that SLURM has ended, whatever the reason, or forgotten."""
    known = slurm.states()
    if known is None:
        return None
    found = {}
    for job in jobs:
        state = known.get(job.job_id, "forgotten")
        if state in slurm.ENDED or state == "forgotten":
            state = slurm.ending(state, job.stderr() or "")
            found[job.job_id] = (f"SLURM ended job {job.job_id} ({state})", slurm.remedy(state))
    return found


def ended_here(jobs: Sequence[Any]) -> Mapping[str, tuple[str, str]]:
    """Those of some local jobs whose processes have gone."""
    return {job.job_id: (f"job {job.job_id} ended", slurm.AGAIN) for job in jobs if job.done()}


@contextmanager
def giving_way() -> Iterator[None]:
    """Within a submitted job: leave at once on SIGTERM and on the signal that comes before a time limit,
    locks released, progress kept.

    Such a job queues itself again with its arguments where SLURM would not: at a time limit, and when it
    leaves within the grace of a preemption. What SLURM requeues is in the queue already, what it cancels
    stays cancelled. submitit alone ignores SIGTERM until the job is killed.
    """
    job = submitit.JobEnvironment()
    notice = signal.Signals[f"SIG{job.USR_SIG}"]
    queue_again: Any = signal.getsignal(notice)  # of submitit; ends in SystemExit
    owner = os.getpid()

    def leave(number: int, frame: FrameType | None) -> None:
        if dies_as_fork(owner, number):
            return
        ignore()  # a second signal must not stop the first from cleaning up
        if number == notice or (job.cluster == "slurm" and slurm.is_being_preempted(job.job_id)):
            try:
                queue_again(number, frame)
            except UncompletedJobError as error:
                raise ClusterError(
                    f"job {job.job_id} reached its time limit more often than "
                    f"hydra.launcher.max_num_timeout allows; {slurm.AGAIN}"
                ) from error
            except (OSError, subprocess.SubprocessError) as error:
                raise ClusterError(
                    f"job {job.job_id} had to leave and could not be queued again ({error}); {slurm.AGAIN}"
                ) from error
        raise SystemExit(128 + number)

    def ignore() -> None:
        for number in (signal.SIGTERM, notice):
            signal.signal(number, signal.SIG_IGN)

    for number in (signal.SIGTERM, notice):
        signal.signal(number, leave)
    try:
        yield
    finally:
        ignore()  # what is left takes milliseconds


def last_line(text: str) -> str:
    """The last line that is not empty: of a traceback, or of what a command said, the error."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1] if lines else "no reason given"
