"""Runs as separate processes: killed, raced, launched in parallel."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests import ready
from tests.conftest import tiny_overrides, without_time

ROOT = Path(__file__).parents[2]


def start(
    folder: Path, *arguments: str, module: str = "midre_exp", table: str | None = None
) -> ready.Process:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    environment.pop("HYDRA_FULL_ERROR", None)
    flags = [argument for argument in arguments if argument.startswith("-")]
    overrides = [argument for argument in arguments if not argument.startswith("-")]  # a later one wins
    words = [*([table] if table else []), *flags, *tiny_overrides(folder), *overrides]
    return ready.start(["-m", module, *words], cwd=folder, env=environment)


def finish(process: ready.Process) -> str:
    output, _ = process.communicate(timeout=240)
    assert process.returncode == 0, output
    return output


def result(folder: Path) -> dict:
    (path,) = folder.glob("results/mini/records/*.json")
    record = json.loads(path.read_text())
    record.pop("seconds"), record["config"].pop("paths")
    for name in ("private", "public"):
        record["config"]["data"][name].pop("store")
    return record


def test_a_forked_program_is_like_one_that_is_started(tmp_path):
    code = (
        "import os, sys, midre_exp\n"
        "print(os.getcwd(), os.environ['WORD'], sys.argv, midre_exp.__file__)\n"
        "sys.stderr.write('wrong'); sys.exit(3)"
    )
    (tmp_path / "midre_exp.py").touch()  # ours is not loaded beforehand
    environment = {"PATH": os.environ["PATH"], "WORD": "said", "PYTHONPATH": "/nowhere"}
    done = ready.run(["-c", code, "x"], cwd=tmp_path, env=environment)
    assert (done.returncode, done.stderr) == (3, "wrong")
    assert done.stdout == f"{tmp_path} said ['-c', 'x'] {tmp_path / 'midre_exp.py'}\n"
    sleeper = ["-c", "import time; print('on', flush=True); time.sleep(60)"]
    with ready.start(sleeper, cwd=tmp_path, env=environment) as process:
        assert process.stdout.readline() == "on\n" and process.poll() is None
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(0.1)
        process.terminate()
        assert process.wait(20) == -signal.SIGTERM


LONGER = ("attack.prior.steps=120", "target.recipe.epochs=12", "attack.steps=60", "runtime.chunk=4")


@pytest.mark.slow
def test_a_run_killed_again_and_again_ends_like_an_unbroken_one(tmp_path):
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    whole.mkdir(), broken.mkdir()
    finish(start(whole, *LONGER))
    seen = ""
    for marker in ("target", "prior", "attack"):  # killed while each of these stages is being built
        process = start(broken, *LONGER)
        assert process.stdout is not None
        for line in process.stdout:
            seen += line
            if without_time(line).startswith(f"{marker} ") and "building" in line:
                break
        time.sleep(0.3)
        process.send_signal(signal.SIGKILL)
        process.wait()
    output = finish(start(broken, *LONGER))
    assert result(broken) == result(whole)
    assert "target" in output and f"target {result(broken)['artifacts']['target']}: building" not in output
    assert not list((broken / "store" / "work").iterdir()) and not list(
        (broken / "store" / "locks").iterdir()
    )


def test_two_runs_started_together_build_every_stage_once(tmp_path):
    pair = [start(tmp_path) for _ in range(2)]
    output = without_time("".join(finish(process) for process in pair))
    for stage in ("target", "evaluator", "prior", "attack", "metrics"):
        built = [line for line in output.splitlines() if line.startswith(f"{stage} ") and "building" in line]
        assert len(built) == 1, output
    result(tmp_path)


def test_the_joblib_launcher_runs_a_sweep(tmp_path):
    output = finish(
        start(tmp_path, "-m", "defense=nodef,midre", "hydra/launcher=joblib", "hydra.launcher.n_jobs=2")
    )
    assert re.search(r"^2 runs done, 0 failed, after \d+ (s|min)$", output, re.MULTILINE)
    assert len(list(tmp_path.glob("results/mini/records/*.json"))) == 2
    assert len(list((tmp_path / "store" / "prior").iterdir())) == 1
    again = finish(start(tmp_path, "-m", "defense=nodef,midre", "hydra/launcher=joblib"))
    assert "2 finished before" in again


def test_sigterm_ends_soon_and_releases_its_locks(tmp_path):
    process = start(tmp_path, "attack.prior.steps=100000")
    until = time.monotonic() + 120
    while not list(tmp_path.glob("store/work/prior-*/*")) and time.monotonic() < until:
        time.sleep(0.1)
    process.terminate()
    assert process.wait(timeout=10) == 143
    assert not list((tmp_path / "store" / "locks").iterdir())
    assert any((tmp_path / "store" / "work").iterdir())  # progress is kept


@pytest.mark.slow
def test_sigterm_to_a_table_ends_the_sweep_it_has_launched(tmp_path):
    table = start(tmp_path, "attack.prior.steps=100000", module="midre_exp.report", table="demo")
    until = time.monotonic() + 120
    while not list(tmp_path.glob("store/work/prior-*/*")) and time.monotonic() < until:
        time.sleep(0.1)
    table.terminate()
    assert table.wait(timeout=10) == 143
    table.communicate(timeout=10)  # the pipe closes when the sweep has ended too
    assert not list((tmp_path / "store" / "locks").iterdir())


def test_the_wheel_works_without_the_checkout(tmp_path):
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    build = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(tmp_path), str(ROOT)]
    subprocess.run(build, check=True, capture_output=True, env=environment)
    (wheel,) = tmp_path.glob("*.whl")
    site = tmp_path / "site"
    pip = [
        sys.executable,
        "-m",
        "pip",
        "install",
        "--no-deps",
        "--no-compile",
        "--quiet",
        "--target",
        str(site),
        str(wheel),
    ]
    subprocess.run(pip, check=True, env=environment)
    code = (
        "import sys; sys.path.insert(0, sys.argv[1])\n"
        "import midre_exp; assert midre_exp.__file__.startswith(sys.argv[1]), midre_exp.__file__\n"
        "from midre_exp.plan.compose import packaged_configs, settings_of\n"
        "from midre_exp.targets import build_target\n"
        "with packaged_configs(): print(settings_of(['setup=demo'])['attack']['_target_'])\n"
        "build_target('vgg16', num_classes=3, width=0.125)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(site)], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "attacks.GMI"
    for file in (
        *("midre_exp/py.typed", "attacks/py.typed", "defenses/py.typed", "attacks/__init__.pyi"),
        *(
            "midre_exp/conf/config.yaml",
            "midre_exp/conf/attack/prior/gmi.yaml",
            "midre_exp/report/conf/table/demo.yaml",
        ),
    ):
        assert (site / file).is_file(), file
    assert not (site / "tests").exists() and not (site / "results").exists() and not (site / "conf").exists()


def test_ctrl_c_in_a_training_is_told_as_one_and_continued(tmp_path):
    process = start(tmp_path, "target.recipe.epochs=5000")
    until = time.monotonic() + 120
    while not list(tmp_path.glob("store/work/target-*/last.ckpt")) and time.monotonic() < until:
        time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate(timeout=20)
    assert process.returncode == 130, output
    assert "interrupted; the same command continues" in output
    assert not list((tmp_path / "store" / "locks").iterdir())
