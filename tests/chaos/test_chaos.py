"""The fault campaign with a round or two of each part about processes, and proof that it can fail."""

from __future__ import annotations

import json
import random
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from joblib.externals.loky.process_executor import TerminatedWorkerError

from midre_exp.store.files import write_json
from midre_exp.sweep.sweeper import Planned, SweepFailed, launch_all
from tests.chaos import Violation, kills, races, sweeps, terms
from tests.chaos.sweep import ROOT, Started, compare, ended
from tests.conftest import TINY


def silent(text: str) -> None:
    pass


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("whole")
    with ended([run := Started(folder, *TINY)]):
        run.finish()
    return folder


@pytest.fixture
def copy(whole: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(whole, tmp_path / "copy"))


def only(folder: Path, pattern: str) -> Path:
    (path,) = folder.glob(pattern)
    return path


def test_a_copy_is_the_same(copy, whole):
    assert compare(copy, whole) == {"records": 1, "artifacts": 7}


def change_record(folder: Path) -> None:
    path = only(folder, "results/mini/records/*.json")
    record = json.loads(path.read_text())
    record["metrics"]["att_acc1"] += 1
    write_json(path, record)
    for checksum in folder.glob("results/mini/checksums/*"):
        checksum.unlink()


def respace_record(folder: Path) -> None:
    path = only(folder, "results/mini/records/*.json")
    path.write_text(path.read_text() + "\n")


def change_manifest(folder: Path) -> None:
    path = only(folder, "artifacts/prior/*/manifest.json")
    manifest = json.loads(path.read_text())
    manifest["files"]["weights.safetensors"]["sha256"] = "0" * 64
    write_json(path, manifest)


def drop_record(folder: Path) -> None:
    only(folder, "results/mini/records/*.json").unlink()


def leave_lock(folder: Path) -> None:
    (folder / "artifacts" / "locks" / "prior-1.lock").touch()


def leave_temporary(folder: Path) -> None:
    (folder / "results" / "mini" / "records" / ".record.json.0123.tmp").touch()


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (change_record, "metrics.att_acc1 was"),
        (respace_record, "not written as records are"),
        (change_manifest, "weights.safetensors.sha256 was"),
        (drop_record, "missing"),
        (leave_lock, "left over"),
        (leave_temporary, "left over"),
    ],
)
def test_whatever_differs_is_a_violation(copy, whole, change, named):
    change(copy)
    with pytest.raises(Violation, match=named):
        compare(copy, whole)


@pytest.mark.parametrize(
    ("end", "told"),
    [
        (SystemExit(143), SystemExit),
        (TerminatedWorkerError("a long\n\ntext"), SweepFailed),
    ],
)
def test_a_sweep_that_breaks_off_gives_back_the_locks_of_its_dead_workers(tmp_path, end, told):
    locks = tmp_path / "locks"

    class Launcher:
        """As joblib's when its parent gets SIGTERM or a worker is killed: all workers are dead, their locks
        are left.
        """

        def launch(self, jobs, initial_job_idx):
            code = "import sys; from pathlib import Path; from midre_exp.store.lock import BuildLock\n"
            code += "import os; BuildLock(Path(sys.argv[1]), 'prior 1').acquire(); os._exit(9)"
            subprocess.run([sys.executable, "-c", code, str(locks / "prior-1.lock")], cwd=ROOT)
            assert list(locks.iterdir())
            raise end

    job = Planned("key", ["defense=nodef"], {"paths": {"store": str(tmp_path)}})
    with pytest.raises(told):
        launch_all(Launcher(), [job], 2)
    assert not list(locks.iterdir())


@pytest.mark.slow
def test_two_kills_change_nothing(tmp_path):
    counts = kills.campaign(tmp_path, 2, random.Random(0), silent, (*terms.PAIR, *terms.LONGER))
    assert counts["kills"] >= 2 and counts["records"] >= 2


@pytest.mark.slow
def test_three_processes_build_each_stage_once(tmp_path):
    counts = races.campaign(tmp_path, 1, random.Random(0), silent, processes=3)
    assert counts["stages built, each once"] == 14 and counts["records"] == 3


@pytest.mark.slow
def test_a_run_that_gets_sigterm_goes_on_later(tmp_path):
    counts = terms.campaign(tmp_path, 1, random.Random(1), silent, terms.KINDS[:1])
    assert counts["SIGTERMs to a run"] == 1


SHORT = (*terms.PAIR, *terms.LONGER)


@pytest.mark.slow
@pytest.mark.parametrize("scene", sweeps.SCENES, ids=str)
def test_a_sweep_that_is_disturbed_ends_equal_or_refuses(tmp_path, scene):
    counts = sweeps.campaign(tmp_path, 1, random.Random(str(scene)), silent, SHORT, (scene,))
    if f"{scene}: not tried, for want of rights" in counts:
        pytest.skip("needs root, to make a small disk")
    assert counts[str(scene)] == 1 and counts["records"] == 2


@pytest.mark.slow
def test_a_sweep_that_computed_with_edited_code_would_be_seen(tmp_path):
    """The edit is one that changes numbers: with it from the start, another record comes out."""
    checkout = sweeps.copy_of_the_code(tmp_path / "checkout")
    with ended([run := Started(tmp_path / "whole", *TINY, root=checkout)]):
        run.finish()
    file = checkout / sweeps.EDITED
    file.write_text(file.read_text() + sweeps.EDIT)
    with ended([run := Started(tmp_path / "edited", *TINY, root=checkout)]):
        run.finish()
    with pytest.raises(Violation, match="differs"):
        compare(tmp_path / "edited", tmp_path / "whole")
