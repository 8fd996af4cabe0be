from __future__ import annotations

import sys

import pytest
import torch

from midre_exp.errors import ConfigError
from midre_exp.tracking import NoTracker, track

SETTINGS = {"mode": "auto", "project": "midre", "entity": None}


def options(folder, stage="target"):
    return {
        "stage": stage,
        "group": "S01",
        "tags": ["gmi", "NoDef", "mini"],
        "config": {"a": 1},
        "folder": folder,
    }


@pytest.fixture
def offline(monkeypatch):
    monkeypatch.delenv("WANDB_API_KEY", raising=False)


def test_off_reports_nothing_and_never_imports_wandb(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)  # an import would raise
    with track({"mode": "off"}, **options(tmp_path)) as tracker:
        assert isinstance(tracker, NoTracker)
        tracker.log({"loss": 1.0}, step=0)
    assert not list(tmp_path.iterdir())


def test_two_stages_in_one_process_are_two_finished_offline_runs(tmp_path, offline):
    import wandb

    runs = []
    for stage in ("target", "prior"):
        with track(SETTINGS, **options(tmp_path / stage, stage)) as tracker:
            tracker.log({"loss": 1.0}, step=0)
            tracker.images("samples", torch.rand(4, 3, 8, 8), step=0)
            runs.append(tracker.run)
        assert wandb.run is None
    assert runs[0].id != runs[1].id
    assert [run.job_type for run in runs] == ["target", "prior"]
    assert all(run.group == "S01" and tuple(run.tags) == ("gmi", "NoDef", "mini") for run in runs)
    assert all(
        list((tmp_path / stage).glob("wandb/offline-run-*/run-*.wandb")) for stage in ("target", "prior")
    )
    assert list((tmp_path / "prior").glob("wandb/offline-run-*/files/media/images/samples*.png"))


def test_a_failing_stage_still_finishes_its_run(tmp_path, offline):
    import wandb

    with pytest.raises(RuntimeError, match="boom"), track(SETTINGS, **options(tmp_path)):
        raise RuntimeError("boom")
    assert wandb.run is None


def test_online_needs_a_key_and_modes_are_checked(tmp_path, offline):
    with (
        pytest.raises(ConfigError, match="WANDB_API_KEY"),
        track({**SETTINGS, "mode": "online"}, **options(tmp_path)),
    ):
        pass
    with (
        pytest.raises(ConfigError, match=r"tracking.mode=loud"),
        track({**SETTINGS, "mode": "loud"}, **options(tmp_path)),
    ):
        pass
