"""Damaged files and jumping clocks: a short campaign of each, and every fault that a long one has found."""

from __future__ import annotations

import json
import logging
import os
import pickle
import random
import shutil
import threading
import time
from pathlib import Path
from types import SimpleNamespace
from unittest import mock

import pytest
import torch
from hydra.core.utils import JobReturn, JobStatus

from midre_exp.cost.forecast import read_measured
from midre_exp.data import cache
from midre_exp.errors import DataError, StoreError
from midre_exp.plan.compose import packaged_configs, settings_of
from midre_exp.plan.config import digest
from midre_exp.plan.digests import by_content
from midre_exp.plan.explain import explain
from midre_exp.records import checksum_path, read_record
from midre_exp.run import run
from midre_exp.stages import make_plan
from midre_exp.store.__main__ import needed
from midre_exp.store.files import sha256
from midre_exp.store.lock import BuildLock
from midre_exp.store.store import Store
from midre_exp.study.answers import read_keys
from midre_exp.sweep.finished import failure_path, is_finished
from midre_exp.sweep.job import Outcome, carry_out
from midre_exp.weights import checkpoint
from tests.chaos import clocks, damage
from tests.chaos.ground import Stopped
from tests.chaos.kinds import KINDS
from tests.conftest import tiny_overrides

FAST = ("artifact, target: tensors", "checkpoint, prior", "record")


def test_damaged_files_are_named_and_rebuilt(tmp_path):
    counts = damage.campaign(tmp_path, len(FAST), random.Random(5), print, runs=["plain"], kinds=FAST)[
        "counts"
    ]
    assert {row["kind"] for row in counts} == set(FAST)
    assert damage.table(counts).count("\n") == len(FAST) + 3


@pytest.mark.slow
def test_every_kind_of_file_may_be_damaged(tmp_path):
    found = damage.campaign(tmp_path, len(KINDS), random.Random(0), print)
    assert found["records"] == 6 and {row["kind"] for row in found["counts"]} == set(KINDS)


def test_clocks_that_jump_and_impossible_dates_change_nothing(tmp_path):
    assert clocks.campaign(tmp_path, 1, random.Random(0), print)["jumps"] > 0


@pytest.mark.slow
def test_builders_with_jumping_clocks_are_neither_robbed_nor_forgotten(tmp_path):
    assert len(clocks.campaign(tmp_path, 5, random.Random(1), print)["scenes"]) == 5


@pytest.fixture(scope="module")
def one_run(tmp_path_factory, whole_run):
    """A folder with one finished run, and its settings."""
    folder = tmp_path_factory.mktemp("one")
    shutil.copytree(whole_run, folder / "store")
    with packaged_configs():
        settings = settings_of(tiny_overrides(folder))
    carry_out(settings)
    return folder, settings


@pytest.fixture
def finished(one_run, tmp_path):
    """The settings and the plan of a finished run that a test may spoil."""
    folder, settings = one_run
    shutil.copytree(folder, tmp_path, dirs_exist_ok=True)
    settings = {**settings, "paths": {name: str(tmp_path / name) for name in settings["paths"]}}
    return settings, make_plan(settings)


def test_a_changed_digit_of_a_record_is_never_taken_for_a_result(finished, capsys, caplog):
    settings, plan = finished
    (path,) = Path(settings["paths"]["results"]).glob("*/records/*.json")
    right = path.read_text()
    value = json.loads(right)["metrics"]["acc"]
    path.write_text(right.replace(f'"acc": {value}', f'"acc": {value + 1}', 1))
    assert not is_finished(settings, plan)
    for reader in (lambda: read_record(path), lambda: needed(Path(settings["paths"]["results"]))):
        with pytest.raises(StoreError, match=r"is damaged .*; run its command again"):
            reader()
    assert not read_measured(path.parent.parent)
    with caplog.at_level(logging.WARNING):
        carry_out(settings)
    assert path.name in caplog.text and "damaged" in caplog.text
    assert json.loads(path.read_text())["metrics"] == json.loads(right)["metrics"]
    assert is_finished(settings, plan) and read_record(path)


def test_the_checksum_of_a_record_is_one_for_sha256sum_and_may_be_absent(finished):
    settings, plan = finished
    (path,) = Path(settings["paths"]["results"]).glob("*/records/*.json")
    place, name = checksum_path(path).read_text().split()
    assert place == sha256(path) and (checksum_path(path).parent / name).samefile(path)
    checksum_path(path).unlink()
    assert read_record(path)["key"] == plan.key and is_finished(settings, plan)


def test_a_half_decoded_picture_that_changed_is_decoded_again(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(cache, "_BLOCK", 2)
    names, images = (
        [f"{row}.png" for row in range(6)],
        torch.arange(6 * 12, dtype=torch.uint8).view(6, 3, 2, 2),
    )
    asked: list[int] = []

    def read(row: int) -> torch.Tensor:
        asked.append(row)
        if row == 4 and len(asked) < 8:
            raise KeyboardInterrupt
        return images[row]

    def decode() -> torch.Tensor:
        return cache.cached_images(
            tmp_path, "key", names=names, labels=[0] * 6, read=read, title="pictures", config={}
        )

    with pytest.raises(KeyboardInterrupt):
        decode()
    pixels = tmp_path / "work" / "images-key" / "pixels.u8"
    content = bytearray(pixels.read_bytes())
    content[5] ^= 16
    pixels.write_bytes(content)
    asked[:] = range(8)
    assert torch.equal(decode(), images)
    assert (
        "is not what was noted of it" in caplog.text and asked[8:].count(0) == 2
    )  # for the shape, and again


@pytest.mark.parametrize("text", ["NaN", "-5", "1e400", "1" + "0" * 400, "[1]", '"x"', "{"])
def test_a_garbled_note_of_time_spent_spoils_no_artifact(tmp_path, text):
    store = Store(tmp_path)
    note = tmp_path / "work" / "target-key" / ".seconds.json"
    note.parent.mkdir(parents=True)
    note.write_text(text)
    built = store.build("target", "key", config={}, upstream={}, make=lambda work: None)
    assert 0 <= built.seconds < 60 and Store(tmp_path).find("target", "key")


def test_weights_of_the_same_date_and_other_content_are_other_weights(tmp_path):
    path = tmp_path / "w.pth"
    path.write_bytes(b"one")
    status, first = path.stat(), by_content(str(path))
    path.write_bytes(b"two")
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert by_content(str(path)) != first


def test_a_plan_is_not_stopped_by_a_record_of_classes_that_are_not_there(finished):
    settings, _ = finished
    (path,) = Path(settings["paths"]["results"]).glob("*/records/*.json")
    checksum_path(path).unlink()
    record = json.loads(path.read_text())
    record["config"]["attack"]["prior"]["_target_"] = "midre_exp.priors.gan.wgan.Gone"
    path.write_text(json.dumps(record))
    assert not any(measured.stage == "prior" for measured in read_measured(path.parent.parent))


def test_a_folder_where_a_report_of_failure_was_is_one_sentence(finished):
    settings, plan = finished
    failure_path(settings, plan.key).mkdir(parents=True)
    with pytest.raises(StoreError, match=r"cannot remove .*; mend this path"):
        carry_out(settings)


def test_a_folder_in_place_of_a_file_has_a_remedy(tmp_path):
    with pytest.raises(IsADirectoryError) as caught:
        tmp_path.read_bytes()
    assert "a folder stands where a file is needed; move it away" in explain(caught.value)


def test_the_heart_does_not_beat_by_the_wall_clock(tmp_path, monkeypatch):
    """Before Python 3.11 an Event waits by the clock on the wall; set back by an hour, it would let a living
    builder be robbed.
    """

    wait = threading.Event.wait

    def late(event: threading.Event, timeout: float | None = None) -> bool:
        return wait(event, None if timeout is None else timeout + 60)

    monkeypatch.setattr(threading.Event, "wait", late)
    lock = BuildLock(tmp_path / "x.lock", "work", beat_seconds=0.05)
    assert lock.acquire()
    before = lock.path.read_bytes()
    until = time.monotonic() + 10
    while lock.path.read_bytes() == before and time.monotonic() < until:
        time.sleep(0.05)
    assert lock.path.read_bytes() != before
    lock.release()


def test_a_changed_question_of_a_study_is_noticed(tmp_path):
    questions = [{"identity": 1, "name": "1", "left": "a"}]
    runs = {name: {"key": name} for name in ("a", "b")}
    key = {"seed": 0, "part": "train", "runs": runs, "questions": questions}
    path = tmp_path / "key.json"
    path.write_text(json.dumps({**key, "study": digest(["a", "b", "train", 0, questions])}))
    assert read_keys([path])
    path.write_text(path.read_text().replace('"left": "a"', '"left": "b"'))
    with pytest.raises(DataError, match="is damaged"):
        read_keys([path])


def test_a_job_that_left_something_else_is_lost_and_none_stops_the_others(tmp_path):
    pytest.importorskip(
        "hydra_plugins.hydra_submitit_launcher", reason="needs the extra: pip install '.[cluster]'"
    )
    from midre_exp.sweep import endings

    path = tmp_path / "1.pkl"
    job = SimpleNamespace(job_id="1", paths=SimpleNamespace(result_pickle=path, stderr=tmp_path / "1.err"))
    for value in ("text", None, Outcome):
        path.write_bytes(
            pickle.dumps(("success", JobReturn(status=JobStatus.COMPLETED, _return_value=value)))
        )
        found = endings.result_of(job)
        assert found is not None and isinstance(found._return_value, endings.ClusterError)
    path.unlink()
    path.mkdir()
    assert endings.result_of(job) is None


@pytest.mark.slow
def test_a_run_goes_on_from_no_checkpoint_of_another_run(tiny, tmp_path, caplog):
    """The weights of another defense fit as well; only the place tells."""
    save = checkpoint.save

    def stop(path: Path, state: dict) -> None:
        save(path, state)
        raise Stopped

    both = [tiny(), tiny("defense=midre")]
    places = [Path(s["paths"]["store"]) / "work" / f"target-{make_plan(s)['target'].key}" for s in both]
    for settings in both:
        with mock.patch.object(checkpoint, "save", stop), pytest.raises(Stopped):
            run(settings)
    (places[0] / "last.ckpt").write_bytes((places[1] / "last.ckpt").read_bytes())
    run(both[0])
    assert "belongs elsewhere" in caplog.text
    weights = Store(both[0]["paths"]["store"]).find("target", make_plan(both[0])["target"].key)
    elsewhere = {**both[0], "paths": {n: str(tmp_path / "whole" / n) for n in both[0]["paths"]}}
    run(elsewhere)
    whole = Store(elsewhere["paths"]["store"]).find("target", make_plan(elsewhere)["target"].key)
    assert weights.manifest["files"] == whole.manifest["files"]
