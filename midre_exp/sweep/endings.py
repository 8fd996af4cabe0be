"""How the jobs of a sweep ended: wait for each, and tell those that SLURM, or death, took before they could
say so.

Importing this needs the extra ``cluster``, as submitit.py does.
"""

from __future__ import annotations

import pickle
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from hydra.core.utils import JobReturn, JobStatus

from midre_exp.errors import UserError
from midre_exp.store.progress import Progress, say
from midre_exp.sweep import slurm
from midre_exp.sweep.job import Outcome

#: How often in a row a job must be seen ended and without a result before it is given up: files arrive late
#: on network file systems.
LOOKS = 3

#: Which of some jobs have ended, by their id: the state and what to do about it. None when that cannot be
#: told just now.
Ended = Callable[[Sequence[Any]], Mapping[str, tuple[str, str]] | None]


class ClusterError(UserError):
    """A cluster refused a job, or ended it before it could say how it went."""


def collect(
    jobs: Sequence[Any], ended: Ended, *, poll_seconds: float, at_a_time: int | None = None
) -> list[JobReturn]:
    """Wait until every job has left its result or is lost; no more than ``at_a_time`` are looked at, so that
    jobs which start when they are looked at run one after another.
    """
    results: dict[int, JobReturn] = {}
    looks = [0] * len(jobs)
    silent = 0
    with Progress("jobs", len(jobs)) as bar:
        while waiting := [number for number in range(len(jobs)) if number not in results][:at_a_time]:
            # asked before the results are looked for: a job that ends in between has its result seen next
            # time
            gone = ended([jobs[number] for number in waiting])
            silent = silent + 1 if gone is None else 0
            if silent == LOOKS:
                say("squeue does not answer; waiting for results all the same")
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


class SlurmQueue:
    """Tells which of some jobs SLURM has ended, whatever the reason, or forgotten; says of those that it does
    not start why, each reason once it has lasted ``patience`` seconds, and again when it comes back.
    """

    def __init__(self, patience: float = 15.0) -> None:
        self.patience = patience
        self._since: dict[str, float] = {}
        self._told: set[str] = set()

    def __call__(self, jobs: Sequence[Any]) -> Mapping[str, tuple[str, str]] | None:
        """Ask squeue once for all."""
        known = slurm.queue()
        if known is None:
            return None
        self.tell([known.get(job.job_id, ("", "")) for job in jobs])
        return ended_on_slurm(jobs, known)

    def tell(self, found: Sequence[tuple[str, str]]) -> None:
        """Say what is new about the states and reasons of the jobs that are waited for."""
        pending = Counter(why for state, why in found if state == "PENDING" and why not in ("", "None"))
        now = time.monotonic()
        self._since = {why: self._since.get(why, now) for why in pending}
        for why, count in pending.items():
            if why in self._told or now - self._since[why] < self.patience:
                continue
            self._told.add(why)
            text, passes = slurm.reason(why)
            jobs = "1 job is" if count == 1 else f"{count} jobs are"
            say(f"{jobs} pending ({why}): {text}")
            if not passes:
                say("ending this command leaves the jobs in the queue; scancel removes them")
        # what comes and goes with every look at the queue is told once
        self._told &= {why for why in self._told if why in pending or slurm.reason(why)[1]}


def ended_on_slurm(
    jobs: Sequence[Any], known: Mapping[str, tuple[str, str]]
) -> Mapping[str, tuple[str, str]]:
    """Those of some jobs that SLURM has ended, whatever the reason, or forgotten, by what squeue said."""
    found = {}
    for job in jobs:
        state = known.get(job.job_id, ("forgotten", ""))[0]
        if state in slurm.ENDED or state == "forgotten":
            state = slurm.ending(state, job.stderr() or "")
            found[job.job_id] = (f"SLURM ended job {job.job_id} ({state})", slurm.remedy(state))
    return found


def ended_here(jobs: Sequence[Any]) -> Mapping[str, tuple[str, str]]:
    """Those of some local jobs whose processes have gone."""
    return {job.job_id: (f"job {job.job_id} ended", slurm.AGAIN) for job in jobs if job.done()}


def last_line(text: str) -> str:
    """The last line that is not empty: of a traceback, or of what a command said, the error."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1] if lines else "no reason given"
