"""Sweeps as jobs of submitit's local executor: the rehearsal of what tests/slurm does on SLURM."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from midre_exp.store import lockfile as lockfiles
from tests.conftest import tiny_overrides

pytest.importorskip(
    "hydra_plugins.hydra_submitit_launcher", reason="needs the extra: pip install '.[cluster]'"
)

LOCAL = "hydra/launcher=submitit_local"
ROOT = Path(__file__).parents[2]


def start(folder: Path, *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "midre_exp", "-m", *tiny_overrides(folder), LOCAL, *arguments],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def finish(process: subprocess.Popen[str], code: int = 0) -> str:
    output, _ = process.communicate(timeout=240)
    assert process.returncode == code, output
    return output


def until(condition: Callable[[], object], seconds: float = 240) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.1)


def test_the_local_executor_runs_a_sweep_and_the_next_one_finds_it_finished(stocked, tmp_path):
    output = finish(start(tmp_path, "defense=nodef,midre"))
    assert "2 jobs, 2 at a time" in output and "2 runs done, 0 failed" in output
    assert len(list(tmp_path.glob("results/mini/records/*.json"))) == 2
    assert len(list((tmp_path / "store" / "prior").iterdir())) == 1
    again = finish(start(tmp_path, "defense=nodef,midre"))
    assert "2 finished before, 0 repeated, 0 to do" in again


# A signal in a job's first seconds, before submitit listens, ends it: on a loaded machine it may be early.
@pytest.mark.slow
def test_a_job_leaves_when_told_and_comes_back_and_its_death_is_one_sentence(tmp_path):
    sweep = start(tmp_path, "defense=nodef", "attack.prior.steps=1000000")

    def builder() -> int:
        """The process that builds the prior and has a checkpoint of it; 0 when there is none."""
        begun = any(file.is_file() for file in tmp_path.glob("store/work/prior-*/[!.]*"))
        holders = [lockfiles.read(path) for path in tmp_path.glob("store/locks/prior-*.lock")]
        return holders[0].pid if begun and holders and holders[0] else 0

    def log(name: str) -> str:
        (file,) = tmp_path.glob(f"runs/.submitit/*/*_log.{name}")
        return file.read_text()

    try:
        until(builder)
        first = builder()
        os.kill(first, signal.SIGUSR2)
        until(lambda: builder() not in (0, first))
        assert log("out").count("Starting with") == 2
        assert (
            log("err").count("prior") == 2 and log("err").count("target") == 3
        )  # ready at once the second time
        second, told = builder(), time.monotonic()
        os.kill(second, signal.SIGTERM)
        until(lambda: not list(tmp_path.glob("store/locks/prior-*.lock")))
        assert time.monotonic() - told < 10
        output = finish(sweep, code=2)
    finally:
        sweep.terminate()  # and with it the job
    assert "0 runs done, 1 failed" in output and "Traceback" not in output
    assert "ended before it could report; launch the same sweep again" in output
    (report,) = tmp_path.glob("runs/failed/*.json")
    assert "before it could report" in json.loads(report.read_text())["error"]
    assert list(tmp_path.glob("store/work/prior-*/*"))  # progress is kept
