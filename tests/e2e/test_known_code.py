"""A checkout whose code changes between runs, and while a sweep goes."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import time
from pathlib import Path

import pytest

from tests import ready
from tests.conftest import tiny_overrides, without_time

ROOT = Path(__file__).parents[2]
CODE = ("midre_exp", "attacks", "defenses", "hydra_plugins", "conf")
GIT = ("git", "-c", "user.name=me", "-c", "user.email=me@here")


@pytest.fixture
def checkout(tmp_path) -> Path:
    folder = tmp_path / "checkout"
    for name in CODE:
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    (folder / ".gitignore").write_text("__pycache__\n")
    subprocess.run([*GIT, "init", "-q", folder], check=True)
    commit(folder)
    return folder


def commit(folder: Path) -> str:
    for words in (["add", "-A"], ["commit", "-qm", "state"]):
        subprocess.run([*GIT, "-C", folder, *words], check=True)
    head = [*GIT, "-C", folder, "rev-parse", "--short=12", "HEAD"]
    return subprocess.run(head, check=True, capture_output=True, text=True).stdout.strip()


def command(checkout: Path, *arguments: str) -> list[str]:
    places = checkout.parent / "out"
    places.mkdir(exist_ok=True)
    return ["-m", "midre_exp", *tiny_overrides(places), *arguments]


def environment(checkout: Path) -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(checkout), "HYDRA_FULL_ERROR": "0"}


def call(checkout: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    words = command(checkout, *arguments)
    return ready.run(words, cwd=checkout.parent / "out", env=environment(checkout))


def records(checkout: Path) -> list[dict]:
    return [json.loads(p.read_text()) for p in checkout.parent.glob("out/results/mini/records/*.json")]


def append(file: Path, text: str) -> None:
    file.write_text(file.read_text() + text)


@pytest.mark.slow
def test_code_that_changes_between_runs(checkout):
    (checkout.parent / "out").mkdir()
    first = commit(checkout) if (append(checkout / "defenses/midre.py", "\nONE = 1\n") or True) else ""
    assert call(checkout, "defense=midre").returncode == 0
    (record,) = records(checkout)
    assert {entry["commit"] for entry in record["code"].values()} == {record["commit"]} == {first}

    append(checkout / "defenses/midre.py", "# a remark\n")  # nothing to do, and no word about it
    done = call(checkout, "defense=midre")
    assert done.returncode == 0 and done.stdout.rstrip().endswith("is complete"), done.stderr

    append(checkout / "defenses/midre.py", "\nTWO = 2\n")
    second = commit(checkout)
    told = f"made by other code (commit {first}, now {second})"
    done = call(checkout, "defense=midre")
    assert done.returncode == 0 and "nothing to do" in done.stdout and f"target {told}" in done.stdout
    done = call(checkout, "--plan", "defense=midre")
    assert "1 of the finished are stale" in done.stdout and f"stale, {told}" in done.stdout
    done = call(checkout, "defense=midre", "runtime.stale=refuse")
    assert done.returncode == 2 and told in done.stderr and done.stderr.count("\n") == 1

    done = call(
        checkout, "defense=midre", "attack.steps=4"
    )  # another attack on the target of the first commit
    assert done.returncode == 0 and f"from the store, {told}" in done.stderr
    (other,) = (r for r in records(checkout) if r["key"] != record["key"])
    commits = {stage: entry["commit"] for stage, entry in other["code"].items()}
    assert commits["target"] == commits["prior"] == first and commits["attack"] == second == other["commit"]

    done = call(checkout, "defense=midre", "runtime.stale=rebuild")
    assert done.returncode == 0 and "prior" in done.stderr, done.stderr
    (again,) = (r for r in records(checkout) if r["key"] == record["key"])
    assert again["code"]["target"]["commit"] == second and again["code"]["prior"]["commit"] == first
    assert call(checkout, "defense=midre", "runtime.stale=refuse").returncode == 0


@pytest.mark.parametrize("launcher", ["basic", pytest.param("joblib", marks=pytest.mark.slow)])
def test_an_edit_while_a_sweep_goes_is_refused(checkout, launcher):
    options = [f"hydra/launcher={launcher}", *(["hydra.launcher.n_jobs=1"] if launcher == "joblib" else [])]
    words = command(checkout, "seed=5,6", *options, "-m")
    with ready.start(words, cwd=checkout.parent / "out", env=environment(checkout)) as sweep:
        deadline = time.monotonic() + 300
        while not records(checkout) and sweep.poll() is None and time.monotonic() < deadline:
            time.sleep(0.02)
        append(checkout / "midre_exp/metrics/prdc.py", "\nTWO = 2\n")
        commit(checkout)
        output, _ = sweep.communicate()
    assert sweep.returncode == 2, output
    assert "the code changed since the sweep was launched: midre_exp/metrics/prdc.py; launch" in output
    assert len(records(checkout)) == 1


def test_what_a_flag_asks_to_rebuild_is_made_anew_once_a_sweep(checkout):
    assert call(checkout, "seed=5,6", "-m").returncode == 0
    before = {record["seed"]: record["seconds"] for record in records(checkout)}
    done = call(checkout, "seed=5,6", "-m", "--rebuild", "evaluator")
    assert done.returncode == 0 and "2 to do" in done.stdout, done.stderr
    lines = without_time(done.stderr).splitlines()
    assert sum(line.startswith("evaluator") and line.endswith("building") for line in lines) == 1
    assert sum(line.startswith("metrics") and line.endswith("building") for line in lines) == 2
    assert not any(line.startswith(("target", "attack")) and line.endswith("building") for line in lines)
    after = {record["seed"]: record["seconds"] for record in records(checkout)}
    assert after[5]["evaluator"] == after[6]["evaluator"] != before[5]["evaluator"]
    assert after[5]["target"] == before[5]["target"]
    assert "2 finished before" in call(checkout, "seed=5,6", "-m").stdout
    done = call(checkout, "seed=5", "--rebuild=tarjet")
    assert done.returncode == 2 and "tarjet is no stage" in done.stderr
