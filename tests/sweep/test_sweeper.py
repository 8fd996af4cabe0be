from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hydra.core.utils import JobReturn, JobStatus

from midre_exp.store.lock import BuildLock, LockedError
from midre_exp.store.store import Store
from midre_exp.sweep.job import Outcome
from midre_exp.sweep.sweeper import Planned, launch_all
from tests.e2e.test_processes import start


class Launcher:
    """Runs no job: those named in ``locked`` are so until the round after ``rounds``, unless told to wait."""

    def __init__(self, locked, rounds=1):
        self.locked, self.rounds, self.launched = locked, rounds, []

    def launch(self, jobs, initial_job_idx):
        self.launched.append([(name, waits == "plan.wait=True") for name, waits in jobs])
        late = len(self.launched) > self.rounds
        return [self.outcome(name, waits == "plan.wait=True" or late) for name, waits in jobs]

    def outcome(self, name, served):
        outcome = (
            Outcome(record=name) if served or name not in self.locked else Outcome(locked="built elsewhere")
        )
        return JobReturn(status=JobStatus.COMPLETED, _return_value=outcome)


def planned(names):
    return [Planned(name, [name], {}) for name in names]


def records(results):
    return [result.return_value.record for result in results]


def test_locked_jobs_are_queued_again_and_results_keep_their_order():
    launcher = Launcher(locked="ac")
    assert records(launch_all(launcher, planned("abcde"), workers=2)) == list("abcde")
    first, second = launcher.launched
    assert first == [("a", False), ("b", False), ("c", False), ("d", False), ("e", True)]
    assert second == [("a", True), ("c", True)]  # no other job is left to go before


def test_each_of_the_other_workers_has_a_job_that_waits():
    launcher = Launcher(locked="")
    launch_all(launcher, planned("abcdef"), workers=4)
    assert [name for name, waits in launcher.launched[0] if waits] == ["d", "e", "f"]


def test_jobs_that_are_locked_forever_wait_in_the_end():
    launcher = Launcher(locked="abcd", rounds=100)
    assert records(launch_all(launcher, planned("abcd"), workers=1)) == list("abcd")
    assert [len(jobs) for jobs in launcher.launched] == [4, 3, 2, 1]


def test_on_a_cluster_everybody_waits():
    launcher = Launcher(locked="ab")
    launch_all(launcher, planned("abc"), workers=None)
    assert launcher.launched == [[("a", True), ("b", True), ("c", True)]]


def test_without_waiting_the_builder_is_named(tmp_path):
    lock = BuildLock(tmp_path / "locks" / "prior-aa.lock", "prior aa")
    assert lock.acquire()
    try:
        started = time.monotonic()
        with pytest.raises(LockedError, match=f"prior aa is being built by process {os.getpid()}"):
            Store(tmp_path).build(
                "prior", "aa", config={}, upstream={}, make=lambda _: pytest.fail("built"), wait=False
            )
        assert time.monotonic() - started < 5
        assert lock.is_held()
    finally:
        lock.release()
    assert not list((tmp_path / "locks").iterdir())


@pytest.mark.parametrize(
    ("part", "evaluates"),
    [((), True), pytest.param(("attack.shard=1/2",), False, marks=pytest.mark.slow)],
)
def test_a_run_trains_its_evaluator_while_another_process_trains_its_target(
    stocked, tmp_path, part, evaluates
):
    store = tmp_path / "store"
    (target,) = (store / "target").iterdir()
    key = target.name
    target.rename(tmp_path / key)  # as if neither were there yet
    shutil.rmtree(store / "evaluator")
    lock = BuildLock(store / "locks" / f"target-{key}.lock", f"target {key}")
    assert lock.acquire()
    run = start(tmp_path, *part)
    try:
        lines = []
        for line in run.stdout:
            lines.append(line)
            if f"target {key} is being built" in line:
                (tmp_path / key).rename(target)
                lock.release()
    finally:
        lock.release()
    assert run.wait() == 0, lines
    said = "".join(lines)
    assert said.index("waiting for it") < said.index(f"target {key}: ready")
    assert ("evaluator" in said.split("waiting for it")[0]) == evaluates


def test_a_sweep_does_its_other_runs_while_somebody_builds_what_one_needs(stocked, tmp_path):
    (target,) = (tmp_path / "store" / "target").iterdir()
    key = target.name
    target.rename(tmp_path / key)  # as if it were not there yet
    lock = BuildLock(tmp_path / "store" / "locks" / f"target-{key}.lock", f"target {key}")
    assert lock.acquire()
    sweep = start(tmp_path, "-m", "attack.steps=1,2")
    try:
        output = ""
        for line in sweep.stdout:
            output += line
            if "queued again" in line:
                (tmp_path / key).rename(target)
                lock.release()
    finally:
        lock.release()
    assert sweep.wait() == 0, output
    assert "queued again behind the others" in output and "0 failed" in output


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_workers_end_and_give_back_their_locks_when_their_sweep_is_killed(tmp_path):
    """A worker is a child that is busy within a lock; its parent gets SIGKILL."""
    lock = tmp_path / "x.lock"
    worker = (
        "import os, sys, time; from pathlib import Path\n"
        "from midre_exp.store.lock import BuildLock, end_with_parent, sigterm_as_exit\n"
        "end_with_parent(lambda: True, grace=5.0)\n"
        "with sigterm_as_exit():\n"
        "    lock = BuildLock(Path(sys.argv[1]), 'x'); lock.acquire(); print(os.getpid(), flush=True)\n"
        "    try: time.sleep(120)\n"
        "    finally: lock.release()\n"
    )
    parent = (
        "import subprocess, sys, time\n"
        "subprocess.Popen([sys.executable, '-c', sys.argv[1], sys.argv[2]]); time.sleep(120)"
    )
    with subprocess.Popen(
        [sys.executable, "-c", parent, worker, str(lock)], stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        pid = int(process.stdout.readline())
        assert lock.exists()
        process.kill()
    end = time.monotonic() + 20
    while time.monotonic() < end and Path(f"/proc/{pid}").exists():
        time.sleep(0.1)
    assert not Path(f"/proc/{pid}").exists() and not lock.exists()
