"""Sweeps as jobs of submitit, on SLURM or as processes of this machine: submit them, let each give way;
endings.py tells how each ended.

Importing this needs the extra ``cluster``. hydra-submitit-launcher composes and runs the single job; what is
ours is the rest: a job that has to leave does so within seconds and is queued again with its arguments, and a
sweep outlives the death of any of its jobs.
"""

from __future__ import annotations

import contextlib
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType, MappingProxyType
from typing import Any

import submitit
from hydra.core.singleton import Singleton
from hydra.core.utils import JobReturn
from hydra_plugins.hydra_submitit_launcher.submitit_launcher import BaseSubmititLauncher
from submitit.core.utils import DelayedSubmission, FailedJobError, UncompletedJobError

from midre_exp.errors import ConfigError, StoreError
from midre_exp.machine.gpus import VISIBLE, show_gpus
from midre_exp.store.files import read_json
from midre_exp.store.lock import dies_as_fork
from midre_exp.store.progress import say
from midre_exp.sweep import slurm
from midre_exp.sweep.endings import ClusterError, SlurmQueue, collect, ended_here, last_line, lost

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


class SubmittedJob(BaseSubmititLauncher):
    """What is pickled for each job: Hydra's launcher composes the config of the job again and runs it, here
    under handlers of our own.
    """

    #: Of the runs, by their keys.
    names: Mapping[str, str] = MappingProxyType({})
    prefix = "midre"  #: of the names in the queue
    #: Show a job on this machine the GPUs that the sweep sees, so that the run leases one of them: submitit
    #: hides all unless ``gpus_per_node`` says otherwise.
    shows_gpus = False
    visible: str | None = None  #: CUDA_VISIBLE_DEVICES of the sweep

    def __call__(self, *arguments: Any, **keywords: Any) -> JobReturn:
        """Run one job; its log begins with what it is."""
        if self.shows_gpus:
            show_gpus(self.visible)
        with giving_way():
            self._introduce(_key_of(arguments[0]))
            return super().__call__(*arguments, **keywords)

    def _introduce(self, key: str) -> None:
        """Say which run this is, and let the queue show it."""
        if name := self.names.get(key):
            environment = submitit.JobEnvironment()
            say(f"run {name} (key {key}), job {environment.job_id} on {socket.gethostname()}")
            if environment.cluster == "slurm":
                slurm.rename(environment.job_id, f"{self.prefix}-{name}")

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
    workers: int | None = None,
) -> list[JobReturn]:
    """Submit every job and wait for all: one result each, in order; that of a lost job holds a ClusterError.

    ``kind`` is ``slurm`` or ``local``, ``options`` are those of hydra.launcher, ``context`` is what Hydra
    sets a launcher up with, and ``first`` is the number of the first job; ``workers``: of ``local``, how many
    run at a time. Raises ClusterError when nothing could be submitted, ConfigError for options that cannot
    be.
    """
    options = dict(options)
    poll_seconds = float(options.pop("poll_seconds", 1.0))
    size = int(options.pop("array_size", len(jobs)))
    names = [run_name(job, str(context["config"].paths.runs)) for job in jobs]
    call = SubmittedJob()
    call.setup(**context)
    call.prefix = str(options.get("name") or "midre")
    options["name"] = array_name(call.prefix, names)
    call.names = dict(zip(map(_key_of, jobs), names, strict=True))
    executor = make_executor(kind, options)
    state = Singleton.get_state()
    rows = [
        (list(job), "hydra.sweep.dir", number, str(number), state) for number, job in enumerate(jobs, first)
    ]
    labels = [
        f"{name}-{_key_of(overrides)}" if _key_of(overrides) else name
        for name, overrides in zip(names, jobs, strict=True)
    ]
    if kind == "local":
        call.shows_gpus, call.visible = not options.get("gpus_per_node"), os.environ.get(VISIBLE)
        return _run_here(executor, call, rows, labels, workers, poll_seconds)
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
    ids = " ".join(dict.fromkeys(job.job_id.partition("_")[0] for job in submitted))
    for job, label in zip(submitted, labels, strict=False):
        link_logs(job, label)
    print(
        f"{len(submitted)} jobs submitted ({kind} {ids}), their logs are in "
        f"{submitted[0].paths.folder.parent}, each also under the name of its run",
        flush=True,
    )
    try:
        results = collect(submitted, SlurmQueue(), poll_seconds=poll_seconds)
    except (KeyboardInterrupt, SystemExit):
        print(f"the jobs go on without this process; scancel {ids} ends them", file=sys.stderr, flush=True)
        raise
    return results + [lost(refused) for _ in rows[len(submitted) :] if refused is not None]


def _run_here(
    executor: submitit.AutoExecutor,
    call: SubmittedJob,
    rows: Sequence[tuple[Any, ...]],
    labels: Sequence[str],
    workers: int | None,
    poll_seconds: float,
) -> list[JobReturn]:
    """The results of jobs that run as processes of this machine, which end with this one."""
    jobs = _StartedHere(executor, call, rows, labels)
    print(
        f"{len(rows)} jobs, {min(workers or len(rows), len(rows))} at a time; their logs are in "
        f"{Path(executor.folder).parent}, each also under the name of its run",
        flush=True,
    )
    try:
        return collect(jobs, ended_here, poll_seconds=poll_seconds, at_a_time=workers)
    except (KeyboardInterrupt, SystemExit):
        for job in jobs.started.values():
            job.cancel()
        raise


class _StartedHere(Sequence[Any]):
    """Jobs of this machine, each of which starts when it is first asked for."""

    def __init__(
        self,
        executor: submitit.AutoExecutor,
        call: SubmittedJob,
        rows: Sequence[tuple[Any, ...]],
        labels: Sequence[str],
    ) -> None:
        self._executor, self._call, self._rows, self._labels = executor, call, rows, labels
        self.started: dict[int, Any] = {}

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, number: Any) -> Any:
        if number not in self.started:
            self.started[number] = job = self._executor.submit(self._call, *self._rows[number])
            link_logs(job, self._labels[number])
        return self.started[number]


def _key_of(overrides: Sequence[str]) -> str:
    """The key that a job was planned with; empty for one that nobody planned."""
    prefix = "plan.key="
    return next((part[len(prefix) :].strip("'\"") for part in overrides if part.startswith(prefix)), "")


def run_name(overrides: Sequence[str], runs: str) -> str:
    """``S27-midre-s0``: what the record of a job will be called, by the config that the sweep has kept."""
    try:
        settings = read_json(Path(runs) / "planned" / f"{_key_of(overrides)}.json")
        name = f"{settings['setup']['id']}-{'+'.join(settings['defense'])}-s{settings['seed']}"
    except (StoreError, KeyError, TypeError):  # the name is for people only
        name = "run"
    return re.sub(r"[^A-Za-z0-9_.+-]", "-", name)


def array_name(first: str, names: Sequence[str]) -> str:
    """What an array of jobs is called until each calls itself by its own name."""
    known = list(dict.fromkeys(names))
    more = f"-and-{len(names) - 1}-more" if len(names) > 1 else ""
    return f"{first}-{known[0]}{more}" if known else first


def link_logs(job: Any, name: str) -> None:
    """Let the logs of a job be found under the name of its run, too."""
    for path in (job.paths.stdout, job.paths.stderr):
        link = path.parent / f"{name}{path.suffix}"
        with contextlib.suppress(OSError):  # a help to people; some file systems have no links
            link.unlink(missing_ok=True)
            link.symlink_to(path.name)


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
