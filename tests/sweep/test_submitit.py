"""Collecting jobs, what SLURM says of them, and what crosses from one process to another; the whole is tested
in tests/slurm.
"""

from __future__ import annotations

import json
import pickle
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from hydra.core.utils import JobReturn, JobStatus

from midre_exp.errors import ConfigError
from midre_exp.plan.compose import packaged_composer, packaged_configs
from midre_exp.sweep import slurm
from midre_exp.sweep.job import Outcome
from tests.conftest import TINY

needs_extra = "needs the extra: pip install '.[cluster]'"


@pytest.fixture
def cluster():
    pytest.importorskip("hydra_plugins.hydra_submitit_launcher", reason=needs_extra)
    from midre_exp.sweep import submitit as cluster

    return cluster


@pytest.fixture
def endings(cluster):
    from midre_exp.sweep import endings

    return endings


def command(folder: Path, name: str, text: str) -> None:
    """A program that says ``text``."""
    (folder / name).write_text(f"#!/bin/sh\ncat <<'END'\n{text}\nEND\n")
    (folder / name).chmod(0o755)


@pytest.fixture
def programs(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    return tmp_path


def job(folder: Path, name: str):
    """What submitit knows of a job, as far as it is asked here."""
    paths = SimpleNamespace(result_pickle=folder / f"{name}.pkl", stderr=folder / f"{name}.err")
    return SimpleNamespace(job_id=name, paths=paths, stderr=lambda: None)


def leave(job, *content) -> None:
    job.paths.result_pickle.write_bytes(pickle.dumps(content))


def done() -> JobReturn:
    return JobReturn(status=JobStatus.COMPLETED, _return_value=Outcome(record="r"))


def test_the_queue_is_read_by_job_and_silence_is_told_from_an_empty_queue(programs):
    command(programs, "squeue", "12_0 RUNNING\n12_1 OUT_OF_MEMORY\n13 PENDING")
    assert slurm.states() == {"12_0": "RUNNING", "12_1": "OUT_OF_MEMORY", "13": "PENDING"}
    (programs / "squeue").write_text("#!/bin/sh\nexit 1\n")
    assert slurm.states() is None


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        ("JobId=1 JobName=x\n   JobState=RUNNING Reason=None\n   PreemptTime=2030-01-01T00:00:00", True),
        ("JobId=1 JobName=x\n   JobState=RUNNING Reason=None\n   PreemptTime=None", False),
        ("JobId=1\n   JobState=CANCELLED Reason=None\n   PreemptTime=2030-01-01T00:00:00", False),
        ("", False),
    ],
    ids=["in its grace", "signalled by somebody else", "cancelled", "silence"],
)
def test_only_a_running_job_that_was_told_to_make_room_is_being_preempted(programs, said, expected):
    command(programs, "scontrol", said)
    assert slurm.is_being_preempted("1") is expected


def test_a_kill_for_memory_is_known_by_the_log_where_slurm_says_failed():
    told = "slurmstepd-n1: error: Detected 1 oom_kill event in StepId=7.0."
    assert slurm.ending("FAILED", f"epoch 3\n{told}\n") == "OUT_OF_MEMORY"
    assert slurm.ending("FAILED", "a memory limit of the user's own") == "FAILED"
    assert slurm.ending("CANCELLED", told) == "CANCELLED"
    assert "mem_gb" in slurm.remedy("OUT_OF_MEMORY") and "launch the same" in slurm.remedy("NODE_FAIL")


def test_results_come_in_order_and_a_late_one_is_not_lost(endings, tmp_path):
    jobs = [job(tmp_path, name) for name in ("a", "b", "c")]
    leave(jobs[2], "success", done())
    looks = []

    def ended(waiting):
        looks.append([one.job_id for one in waiting])
        if len(looks) == endings.LOOKS:
            leave(jobs[1], "success", done())  # on its way for as long as a job may be
        return {"a": ("SLURM ended job a (NODE_FAIL)", "again"), "b": ("ended", "again")}

    results = endings.collect(jobs, ended, poll_seconds=0)
    assert [result.status for result in results] == [
        JobStatus.FAILED,
        JobStatus.COMPLETED,
        JobStatus.COMPLETED,
    ]
    assert str(results[0]._return_value).startswith(
        "SLURM ended job a (NODE_FAIL) before it could report; again"
    )
    assert looks == [["a", "b", "c"], ["a", "b"], ["a", "b"]]


def test_a_requeued_job_and_a_silent_slurm_are_waited_for(endings, tmp_path):
    one = job(tmp_path, "a")
    gone = {"a": ("ended", "again")}
    answers = [gone, gone, {}, gone, None, gone, None, None]  # never three looks in a row without a return

    def ended(waiting):
        if not answers:
            leave(one, "success", done())
            return {}
        return answers.pop(0)

    (result,) = endings.collect([one], ended, poll_seconds=0)
    assert result.status is JobStatus.COMPLETED and not answers


def test_a_slurm_that_stays_silent_is_told_of_once(endings, tmp_path, capsys):
    one, left = job(tmp_path, "a"), [None] * 3 * endings.LOOKS

    def ended(waiting):
        left.pop()
        if not left:
            leave(one, "success", done())

    (result,) = endings.collect([one], ended, poll_seconds=0)
    assert result.status is JobStatus.COMPLETED
    assert capsys.readouterr().err.count("does not answer") == 1


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (
            pickle.dumps(("error", "Traceback ...\nKeyError: 'x'\n")),
            "failed outside of its run (KeyError: 'x')",
        ),
        (b"half a pickle", "its result cannot be read"),
    ],
    ids=["an exception of submitit", "a damaged file"],
)
def test_a_result_that_is_none_is_one_sentence(endings, tmp_path, content, said):
    one = job(tmp_path, "a")
    one.paths.result_pickle.write_bytes(content)
    result = endings.result_of(one)
    assert result.status is JobStatus.FAILED and said in str(result._return_value)


class Unpicklable(Exception):
    def __init__(self, one, two):
        super().__init__(f"{one} and {two}")


def test_every_error_crosses_to_another_process():
    kept = pickle.loads(pickle.dumps(Outcome(error=ConfigError("a sentence"))))
    assert type(kept.error) is ConfigError and str(kept.error) == "a sentence"
    told = pickle.loads(pickle.dumps(Outcome(error=Unpicklable("this", "that"))))
    assert str(told.error) == "Unpicklable: this and that"
    assert pickle.loads(pickle.dumps(Outcome(record="r"))) == Outcome(record="r")


def test_options_of_the_launcher_leave_configs_alone_and_planning_fast(monkeypatch):
    with packaged_configs():
        composer = packaged_composer()
        plain = composer.settings(TINY)
        monkeypatch.setattr(composer, "_compose", None)  # Hydra is not asked again
        assert composer.settings([*TINY, "hydra.launcher.partition=gpu"]) == plain


def test_without_the_extra_it_is_one_sentence(monkeypatch):
    from hydra_plugins.midre_launchers import SlurmLauncher

    monkeypatch.setitem(sys.modules, "submitit", None)
    monkeypatch.delitem(sys.modules, "midre_exp.sweep.submitit", raising=False)
    with pytest.raises(ConfigError, match=r"pip install '\.\[cluster\]'"):
        SlurmLauncher().launch([["seed=0"]], 0)


@pytest.mark.parametrize(
    ("reason", "key", "passes"),
    [
        ("PartitionTimeLimit", "hydra.launcher.timeout_min", False),
        ("QOSMaxWallDurationPerJobLimit", "hydra.launcher.timeout_min", False),
        ("AssocMaxWallDurationPerJobLimit", "hydra.launcher.timeout_min", False),
        ("QOSMaxCpuPerJobLimit", "hydra.launcher.cpus_per_task", False),
        ("QOSMaxCpuPerUserLimit", "hydra.launcher.cpus_per_task", False),
        ("QOSMaxGRESPerUser", "hydra.launcher.gpus_per_node", False),
        ("AssocMaxMemPerJob", "hydra.launcher.mem_gb", False),
        ("PartitionNodeLimit", "hydra.launcher.partition", False),
        ("BadConstraints", "hydra.launcher.constraint", False),
        ("InvalidAccount", "hydra.launcher.account", False),
        ("InvalidQOS", "hydra.launcher.qos", False),
        ("JobHeldUser", "scontrol release", False),
        ("QOSMaxJobsPerUserLimit", "array_parallelism", True),
        ("JobArrayTaskLimit", "array_parallelism", True),
        ("AssocGrpGRES", "hydra.launcher.qos", True),
        ("ReqNodeNotAvail, UnavailableNodes:n1", "maintenance", True),
        ("Resources", "free", True),
        ("Priority", "higher priority", True),
        ("SomethingOfNextYear", "man squeue", True),
    ],
)
def test_what_keeps_a_job_pending_is_told_with_the_key_to_change(reason, key, passes):
    text, goes_away = slurm.reason(reason)
    assert key in text and goes_away is passes


def test_the_queue_is_asked_for_reasons_too(programs):
    command(
        programs, "squeue", "12_0 RUNNING None\n12_1 PENDING ReqNodeNotAvail, UnavailableNodes:n1\n13 PENDING"
    )
    assert slurm.queue() == {
        "12_0": ("RUNNING", "None"),
        "12_1": ("PENDING", "ReqNodeNotAvail, UnavailableNodes:n1"),
        "13": ("PENDING", ""),
    }


def test_a_pending_reason_is_told_once_it_lasts_and_again_when_it_comes_back(endings, capsys, monkeypatch):
    now = [0.0]
    monkeypatch.setattr("midre_exp.sweep.endings.time.monotonic", lambda: now[0])
    queue = endings.SlurmQueue()

    def look(seconds: float, *found: tuple[str, str]) -> list[str]:
        now[0] += seconds
        queue.tell(found)
        return [line.partition(" ")[2].partition(" ")[2] for line in capsys.readouterr().err.splitlines()]

    limit = ("PENDING", "PartitionTimeLimit")
    assert look(10, limit, limit, ("RUNNING", "None"), ("PENDING", "None")) == []
    assert look(10, limit, limit) == []
    first, second = look(10, limit, limit)
    assert first.startswith("2 jobs are pending (PartitionTimeLimit): ") and "timeout_min" in first
    assert "scancel" in second
    assert look(10, limit, limit) == look(600, limit) == []
    assert look(10, ("RUNNING", "None")) == []
    assert look(10, limit) == [] and len(look(20, limit)) == 2
    for _ in range(10):  # these two take turns all the time
        look(20, ("PENDING", "Priority")), look(20, ("PENDING", "Resources"))
    assert look(60, ("PENDING", "Priority")) == look(60, ("PENDING", "Resources")) == []


def test_a_squeue_in_the_path_is_read_and_its_reason_told(endings, programs, capsys):
    command(programs, "squeue", "a PENDING QOSMaxWallDurationPerJobLimit")
    queue = endings.SlurmQueue(patience=0.0)
    assert queue([job(programs, "a")]) == {}
    assert "1 job is pending (QOSMaxWallDurationPerJobLimit)" in capsys.readouterr().err
    command(programs, "squeue", "a OUT_OF_MEMORY None")
    assert "OUT_OF_MEMORY" in queue([job(programs, "a")])["a"][0]
    command(programs, "squeue", "")
    assert "forgotten" in queue([job(programs, "a")])["a"][0]


def test_jobs_and_logs_carry_the_names_of_their_runs(cluster, tmp_path):
    planned = tmp_path / "planned"
    planned.mkdir()
    settings = {"setup": {"id": "S27"}, "defense": {"midre": {}, "nls": {}}, "seed": 3}
    (planned / "abc.json").write_text(json.dumps(settings))
    overrides = ["setup=S27", "plan.key='abc'"]
    assert cluster.run_name(overrides, str(tmp_path)) == "S27-midre+nls-s3"
    assert cluster.run_name(["setup=S27"], str(tmp_path)) == "run"
    (planned / "bad.json").write_text('{"setup": {"id": "a b/../c; x"}, "defense": {}, "seed": 0}')
    assert cluster.run_name(["plan.key=bad"], str(tmp_path)) == "a-b-..-c--x--s0"
    assert cluster.array_name("midre", ["S27-midre-s0"]) == "midre-S27-midre-s0"
    assert cluster.array_name("midre", ["S27-midre-s0", "x"]) == "midre-S27-midre-s0-and-1-more"
    log = tmp_path / "12_0_0_log.err"
    log.write_text("what happened")
    paths = SimpleNamespace(stdout=tmp_path / "12_0_0_log.out", stderr=log)
    cluster.link_logs(SimpleNamespace(paths=paths), "S27-midre-s0-abc")
    assert (tmp_path / "S27-midre-s0-abc.err").read_text() == "what happened"
