"""Sweeps on a real SLURM: preempted, requeued, timed out, cancelled, and compared with a sweep nobody
disturbed.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from midre_exp.plan.compose import packaged_configs, settings_of
from midre_exp.stages import make_plan
from midre_exp.store.lock import BuildLock
from tests.conftest import tiny_overrides
from tests.slurm.single_node import missing, single_node
from tests.worst_case.test_suite_run import SUITE, VALUES

pytestmark = pytest.mark.slurm

ROOT = Path(__file__).parents[2]
#: Long enough to be interrupted in the middle of every stage: half a minute each on one core.
LONGER = ("attack.prior.steps=150", "target.recipe.epochs=40", "attack.steps=60", "runtime.chunk=4")
PAIR = "defense=nodef,midre"
SMALL = ("hydra.launcher.mem_gb=3", "hydra.launcher.cpus_per_task=1", "hydra.launcher.poll_seconds=1")
CPU = ("hydra/launcher=slurm_cpu", "hydra.launcher.timeout_min=30", *SMALL)


@pytest.fixture(scope="module")
def slurm() -> Iterator[dict[str, str]]:
    if missing():
        pytest.skip(f"needs {', '.join(missing())}: apt-get install slurm-wlm munge, as root")
    with single_node() as environment:
        yield {**environment, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, slurm: dict[str, str]) -> Path:
    """The pair of runs, one after the other in one process that nobody disturbs."""
    folder = tmp_path_factory.mktemp("whole")
    sweep = Sweep(folder, slurm, PAIR, *LONGER)
    assert sweep.finish() == 0, sweep.output()
    return folder


@pytest.fixture(autouse=True)
def _nobody_waits_on() -> Iterator[None]:
    """A test that fails leaves no sweep behind."""
    yield
    for process in Sweep.processes:
        process.kill()


class Sweep:
    """``python -m midre_exp -m`` in the background, as from a login node."""

    processes: list[subprocess.Popen[bytes]] = []

    def __init__(self, folder: Path, environment: dict[str, str], *arguments: str, tiny: bool = True):
        self.folder, self.environment = folder, environment
        self.file = folder / f"sweep-{len(list(folder.glob('sweep-*')))}.txt"
        small = tiny_overrides(folder) if tiny else ()
        command = [sys.executable, "-m", "midre_exp", "-m", *small, *arguments]
        with self.file.open("wb") as output:
            self.process = subprocess.Popen(
                command, cwd=folder, env=environment, stdout=output, stderr=output
            )
        self.processes.append(self.process)

    def output(self) -> str:
        return self.file.read_text()

    def finish(self) -> int:
        return self.process.wait(timeout=900)

    def id(self) -> str:
        """Of the array, or of the only job."""
        until(lambda: "jobs submitted" in self.output() or self.process.poll() is not None, 120)
        found = re.search(r"\(slurm (\d+)", self.output())
        assert found, self.output()
        return found[1]

    def log(self, job: str) -> str:
        return "".join(file.read_text() for file in self.folder.glob(f"runs/slurm/*/{job}_0_log.err"))

    def logs(self) -> str:
        return "".join(file.read_text() for file in sorted(self.folder.glob("runs/slurm/*/*_log.err")))

    def building(self, job: str, stage: str) -> str | None:
        """The key of a stage that a job has begun, once there is a checkpoint of it."""
        begun = re.search(rf"\b{stage} (\w+): building$", self.log(job), re.MULTILINE)
        return begun[1] if begun and self.has_checkpoint(f"{stage}-{begun[1]}") else None

    def has_checkpoint(self, work: str) -> bool:
        return any(file.is_file() for file in self.folder.glob(f"store/work/{work}/[!.]*"))

    def ask(self, *command: str) -> str:
        return subprocess.run(
            command, env=self.environment, check=True, capture_output=True, text=True
        ).stdout.strip()

    def state(self, job: str) -> str:
        return self.ask("squeue", "--noheader", "--states=all", "--format=%T", f"--jobs={job}")

    def restarts(self, job: str) -> int:
        return int(re.search(r"Restarts=(\d+)", self.ask("scontrol", "show", "job", job))[1])


def until(condition: Callable[[], object], seconds: float) -> float:
    """Wait for a condition; returns how long that took."""
    started = time.monotonic()
    while not condition():
        assert time.monotonic() - started < seconds, "waited in vain"
        time.sleep(0.1)
    return time.monotonic() - started


def records(folder: Path) -> dict[str, dict]:
    found = {}
    for path in folder.glob("results/mini/records/*.json"):
        record = json.loads(path.read_text())
        record.pop("seconds"), record["config"].pop("paths")
        found[path.name] = record
    return found


def artifacts(folder: Path) -> dict[str, dict]:
    """The checksums of everything in the store."""
    manifests = folder.glob("store/[!.]*/*/manifest.json")
    return {
        f"{path.parents[1].name}/{path.parent.name}": json.loads(path.read_text())["files"]
        for path in manifests
    }


def assert_same(folder: Path, whole: Path) -> None:
    """Identical numbers, nothing twice, nothing missing, nothing left over."""
    assert len(records(whole)) == 2
    assert records(folder) == records(whole)
    assert artifacts(folder) == artifacts(whole)
    for name in ("work", "locks"):
        assert not list((folder / "store" / name).iterdir())
    assert not (folder / "store" / "damaged").exists()
    assert not list(folder.glob("runs/failed/*"))


def test_preempted_and_requeued_jobs_end_like_unbroken_ones(tmp_path, slurm, whole):
    sweep = Sweep(tmp_path, slurm, PAIR, *LONGER, *CPU)
    job = f"{sweep.id()}_0"
    until(lambda: sweep.building(job, "target"), 240)
    key = sweep.building(job, "target")
    sweep.ask("scontrol", "requeue", job)
    assert until(lambda: sweep.state(job) == "PENDING", 60) < 15  # KillWait, after which SLURM kills, is 30 s
    assert sweep.has_checkpoint(f"target-{key}") and not list(tmp_path.glob(f"store/locks/target-{key}*"))

    until(lambda: sweep.restarts(job) == 1 and sweep.state(job) == "RUNNING", 240)
    until(lambda: sweep.log(job).count("target") > 1, 60)  # it has begun again
    urgent = sweep.ask(
        "sbatch", "--parsable", "--partition=high", "--exclusive", "--output=/dev/null", "--wrap=true"
    )
    assert until(lambda: sweep.state(urgent) == "COMPLETED", 120) < 24  # the grace of the others is 25 s
    assert sweep.finish() == 0, sweep.output() + sweep.logs()
    assert "2 runs done, 0 failed" in sweep.output()
    assert_same(tmp_path, whole)
    built = re.findall(r"(\w+ \w+): building$", sweep.logs(), re.MULTILINE)
    assert set(built) == {name.replace("/", " ") for name in artifacts(tmp_path)}
    assert len(built) <= len(set(built)) + 3  # begun again: one at the requeue, two at most at the preemption


def test_a_suite_is_one_job_that_goes_on_where_it_was_requeued(tmp_path, slurm):
    (tmp_path / "conf" / "attack").mkdir(parents=True)
    (tmp_path / "conf" / "attack" / "pair.yaml").write_text(
        SUITE.replace("attack.steps=3", "attack.steps=1000")
    )
    words = [text for text in tiny_overrides(tmp_path) if text not in VALUES]
    given = ("--config-dir", str(tmp_path / "conf"), "attack=pair", "runtime.chunk=4")
    sweep = Sweep(tmp_path, slurm, *words, *given, *CPU, tiny=False)
    job = sweep.id()
    until(lambda: sweep.building(job, "attack") or sweep.process.poll() is not None, 300)
    key = sweep.building(job, "attack")
    sweep.ask("scontrol", "requeue", job)
    assert sweep.finish() == 0, sweep.output() + sweep.logs()
    assert sweep.logs().count(f"attack {key}: building") == 2, sweep.logs()
    found = records(tmp_path)
    (suite,) = [record for record in found.values() if record["attack"] == "pair"]
    assert set(suite["suite"]["members"]) == {"gmi", "double", "labels"} and len(found) == 4
    assert not list(tmp_path.glob("runs/failed/*")) and not list((tmp_path / "store" / "work").iterdir())


def test_when_the_builder_is_cancelled_the_waiting_job_takes_over(tmp_path, slurm, whole):
    gpu = ("hydra/launcher=slurm", *CPU[1:])
    sweep = Sweep(tmp_path, slurm, PAIR, *LONGER, *gpu)
    jobs = [f"{sweep.id()}_{number}" for number in (0, 1)]
    assert "gres:gpu:1" in sweep.ask("scontrol", "show", "job", jobs[0])

    def waiting() -> list[str]:
        return [
            job for job in jobs if re.search(r"\bprior \w+ is being built by", sweep.log(job), re.MULTILINE)
        ]

    until(lambda: waiting() and sweep.has_checkpoint("prior-*"), 240)
    (waiter,) = waiting()
    (builder,) = {*jobs} - {waiter}
    sweep.ask("scancel", builder)
    until(lambda: re.search(r"\bprior \w+: building", sweep.log(waiter), re.MULTILINE), 15)
    assert sweep.finish() == 2
    said = sweep.output()
    assert "1 runs done, 1 failed" in said and "Traceback" not in said
    assert f"SLURM ended job {builder} (CANCELLED) before it could report" in said
    (report,) = tmp_path.glob("runs/failed/*.json")
    assert "CANCELLED" in json.loads(report.read_text())["error"]
    again = Sweep(tmp_path, slurm, PAIR, *LONGER, *CPU)
    assert again.finish() == 0, again.output() + again.logs()
    assert "1 finished before" in again.output() and "1 runs done, 0 failed" in again.output()
    assert_same(tmp_path, whole)


def test_a_job_at_its_time_limit_is_queued_again_with_its_arguments(tmp_path, slurm, whole):
    arguments = ("defense=midre", *LONGER)
    with packaged_configs():
        plan = make_plan(settings_of([*tiny_overrides(tmp_path), *arguments]))
    stage = f"attack-{plan['attack'].key}"
    lock = BuildLock(tmp_path / "store" / "locks" / f"{stage}.lock", "an attack that never ends")
    lock.acquire()
    # SLURM counts in minutes and may tell a job a minute early: 90 to 150 seconds after its start.
    try:
        limits = ("hydra.launcher.timeout_min=3", "hydra.launcher.signal_delay_s=30")
        sweep = Sweep(tmp_path, slurm, *arguments, *CPU, *limits)
        job = sweep.id()
        until(lambda: sweep.restarts(job) >= 1, 400)
    finally:
        lock.release()
    assert sweep.finish() == 0, sweep.output() + sweep.logs()
    ((name, record),) = records(tmp_path).items()
    assert record == records(whole)[name]
    assert len(re.findall(r"\btarget \w+: building$", sweep.log(job), re.MULTILINE)) == 1


def test_a_job_killed_for_its_memory_is_one_sentence_in_the_summary(tmp_path, slurm):
    sweep = Sweep(tmp_path, slurm, "defense=nodef", *CPU, "hydra.launcher.mem_gb=0.1")
    job = sweep.id()
    assert sweep.finish() == 2
    assert "0 runs done, 1 failed" in sweep.output() and "Traceback" not in sweep.output()
    assert f"SLURM ended job {job} (OUT_OF_MEMORY)" in sweep.output()
    assert "raise hydra.launcher.mem_gb" in sweep.output()


@pytest.mark.parametrize(
    ("wrong", "named"),
    [
        (("defense=nodef", "hydra.launcher.partition=nowhere"), "Invalid partition"),
        (("defense=nodef,midre,nls,re,fe",), "Invalid job array"),
    ],
    ids=["a partition that does not exist", "a larger array than MaxArraySize"],
)
def test_what_sbatch_refuses_is_one_sentence(tmp_path, slurm, wrong, named):
    sweep = Sweep(tmp_path, slurm, *wrong, *CPU)
    assert sweep.finish() == 2
    last = sweep.output().splitlines()[-1]
    assert last.startswith("midre_exp: SLURM refused") and named in last
    assert "Traceback" not in sweep.output()


def test_a_sweep_can_be_left_alone_and_says_how_to_end_its_jobs(tmp_path, slurm):
    sweep = Sweep(tmp_path, slurm, "defense=nodef", *CPU)
    job = sweep.id()
    sweep.process.terminate()
    assert sweep.process.wait(timeout=20) == 143
    assert f"scancel {job} ends them" in sweep.output()
    assert sweep.state(job) in ("PENDING", "RUNNING")
    until(lambda: sweep.state(job) == "COMPLETED", 300)
    assert len(records(tmp_path)) == 1


def test_a_job_that_can_never_start_is_told_within_a_minute(tmp_path, slurm):
    beyond = ("hydra.launcher.timeout_min=240", "hydra.launcher.poll_seconds=10")  # the partition allows 60
    sweep = Sweep(tmp_path, slurm, PAIR, *CPU, *beyond)
    job = sweep.id()
    try:
        assert until(lambda: "are pending" in sweep.output(), 60) < 60
        assert "2 jobs are pending (PartitionTimeLimit): " in sweep.output()
        assert "lower hydra.launcher.timeout_min" in sweep.output()
        time.sleep(25)
        assert sweep.output().count("are pending") == 1
    finally:
        sweep.process.terminate()
        sweep.process.wait(timeout=20)
        sweep.ask("scancel", job)


def test_jobs_and_logs_are_found_by_the_name_of_their_run(tmp_path, slurm):
    sweep = Sweep(tmp_path, slurm, PAIR, *CPU)
    job = sweep.id()
    names = {number: f"midre-custom-{name}-s0" for number, name in enumerate(("nodef", "midre"))}
    assert "midre-custom-nodef-s0-and-1-more" in sweep.ask(
        "squeue", "--noheader", "--states=all", "--format=%j"
    )
    for number, name in names.items():
        shown = ("squeue", "--noheader", "--states=all", "--format=%j", f"--jobs={job}_{number}")
        until(lambda shown=shown, name=name: sweep.ask(*shown) == name, 180)
    assert sweep.finish() == 0, sweep.output() + sweep.logs()
    for path in tmp_path.glob("results/mini/records/*.json"):
        (log,) = tmp_path.glob(f"runs/slurm/*/{path.stem}.err")
        lines = log.read_text().splitlines()
        key = json.loads(path.read_text())["key"]
        assert any(
            f"run {path.stem.removesuffix('-' + key)} (key {key}), job {job}_" in line for line in lines
        )
        assert re.match(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d ", lines[0])


def test_without_slurm_it_is_one_sentence(tmp_path):
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PATH": "/nowhere"}
    sweep = Sweep(tmp_path, environment, "defense=nodef", *CPU)
    assert sweep.finish() == 2
    assert "call it on a login node" in sweep.output().splitlines()[-1]
