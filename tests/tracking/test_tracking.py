from __future__ import annotations

import json
import sys

import pytest
import torch

from midre_exp.errors import ConfigError
from midre_exp.report.wandb.push import push_records
from midre_exp.run import run
from midre_exp.runtime import NoTracker
from midre_exp.store.store import Store
from midre_exp.tracking.tracker import goes_online, has_key, track
from tests.report import paper_records

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
def offline(monkeypatch, tmp_path):
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))


@pytest.fixture
def created(monkeypatch):
    """The W&B runs made by a test, with which arguments, the summary among them once a run is finished."""
    import wandb

    made, init = [], wandb.init

    def spy(**arguments):
        run = init(**arguments)
        finish = run.finish

        def kept(**outcome):
            arguments["summary"] = {key: run.summary[key] for key in run.summary.keys()}  # noqa: SIM118
            finish(**outcome)

        run.finish = kept
        made.append((run, arguments))
        return run

    monkeypatch.setattr(wandb, "init", spy)
    return made


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
        with track(SETTINGS, **options(tmp_path / stage, stage), pictures=stage == "prior") as tracker:
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
    assert not list((tmp_path / "target").glob("wandb/offline-run-*/files/media/images/*"))  # of people


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


def test_a_key_may_come_from_the_environment_or_from_wandb_login(offline, tmp_path, monkeypatch):
    assert not has_key() and not goes_online({"mode": "auto"})
    (tmp_path / "netrc").write_text("machine elsewhere.org login a password b\n")
    assert not has_key()
    (tmp_path / "netrc").write_text("machine api.forge.coreweave.com login user password 0123\n")
    assert has_key()
    (tmp_path / "netrc").write_text("machine api.wandb.ai login user password 0123\n")
    assert has_key() and goes_online({"mode": "auto"}) and not goes_online({"mode": "offline"})
    monkeypatch.setenv("WANDB_BASE_URL", "https://wandb.example.org")
    assert not has_key()
    monkeypatch.setenv("WANDB_API_KEY", "0123")
    assert goes_online({"mode": "online"})


def test_an_unreachable_server_is_one_sentence(tmp_path, monkeypatch):
    import wandb

    def unreachable(**arguments):
        raise wandb.errors.CommError("no route\nto host.")

    monkeypatch.setenv("WANDB_API_KEY", "0123")
    monkeypatch.setattr(wandb, "init", unreachable)
    with (
        pytest.raises(ConfigError, match=r"\(no route to host\); use tracking.mode=offline"),
        track(SETTINGS, **options(tmp_path)),
    ):
        pass


def test_tags_longer_than_wandb_takes_are_cut(tmp_path, offline, created):
    with track(SETTINGS, **{**options(tmp_path), "tags": ["x" * 70]}):
        pass
    assert created[0][1]["tags"] == ["x" * 61 + "..."]


def test_a_tracked_run_is_one_wandb_run_per_stage_and_the_last_holds_the_record(
    tiny, offline, created, monkeypatch, tmp_path, capsys
):
    monkeypatch.chdir(tmp_path)
    settings = tiny("tracking=wandb")
    record = json.loads(run(settings).read_bytes())
    runs = {arguments["job_type"]: (made, arguments) for made, arguments in created}
    assert list(runs) == ["target", "evaluator", "prior", "attack", "metrics"]
    for made, arguments in runs.values():
        assert made.group == record["setup"]["id"]
        assert arguments["tags"] == [record["attack"], record["defense"]["label"], record["scale"]]
        assert arguments["config"]["attack"]["steps"] == 3 and arguments["config"]["seed"] == 0
    last, arguments = runs["metrics"]
    assert arguments["id"] == last.id == f"record-{record['key']}"
    assert arguments["summary"]["metrics"]["att_acc1"] == record["metrics"]["att_acc1"]
    assert arguments["summary"]["artifacts"]["attack"] == record["artifacts"]["attack"]
    (table,) = tmp_path.glob("runs/wandb/record-*/wandb/offline-run-*/files/media/table/identities*.json")
    found = json.loads(table.read_bytes())
    assert found["columns"] == ["identity", "att_acc1"]
    assert [row[1] for row in found["data"]] == record["per_identity"]["att_acc1"]
    assert list(tmp_path.glob("runs/wandb/record-*/wandb/*/files/media/images/reconstructions*.png"))

    paths = [f"paths.{name}={path}" for name, path in settings["paths"].items()]
    again = len(created)
    assert push_records(["mini", *paths]) == 0  # the run has pushed it
    assert len(created) == again
    assert push_records(["mini", *paths, "tracking.project=other"]) == 1
    assert created[-1][1]["id"] == f"record-{record['key']}"
    assert (
        len(list(tmp_path.glob("runs/wandb/record-*/wandb/offline-run-*"))) == 1
    )  # not two states of one run
    assert "wandb sync" in capsys.readouterr().out


def test_nobody_real_is_shown_or_named_without_the_switch(tmp_path, offline, created):
    tensors = {
        "images": torch.zeros(2, 3, 8, 8, dtype=torch.uint8),
        "labels": torch.arange(2),
        "restarts": torch.zeros(2, dtype=torch.int64),
    }
    Store(tmp_path / "store").build(
        "attack",
        "a" * 16,
        config={},
        upstream={},
        make=lambda work: work.save_tensors("reconstructions", tensors),
    )
    made = paper_records.record(50, 50, setup="S01") | {"key": "0123456789abcdef", "classes": ["anna", "bo"]}
    made["artifacts"] |= {"attack": "a" * 16}
    made["config"]["data"]["people"] = "consented"
    folder = tmp_path / "results" / "mini" / "records"
    folder.mkdir(parents=True)
    (folder / "a.json").write_text(json.dumps(made))
    paths = [f"paths.{name}={tmp_path / name}" for name in ("store", "runs", "results")]
    pictures = "runs/wandb/record-*/wandb/*/files/media/images/reconstructions*.png"
    assert push_records(["mini", *paths]) == 1 and not list(tmp_path.glob(pictures))
    assert push_records(["mini", *paths, "publish.people=true"]) == 1 and list(tmp_path.glob(pictures))
    assert not any("classes" in arguments["summary"] for _, arguments in created)


def test_pushing_without_records_or_with_tracking_off_is_a_sentence(tmp_path, offline):
    with pytest.raises(ConfigError, match="no records of scale synth"):
        push_records(["synth", f"paths.results={tmp_path}"])
    with pytest.raises(ConfigError, match=r"tracking\.mode=off"):
        push_records(["tracking.mode=off"])


def test_online_a_pushed_record_continues_its_own_run(tmp_path, monkeypatch):
    import wandb

    asked = {}

    def refuse(**arguments):
        asked.update(arguments)
        raise wandb.errors.CommError("enough")

    monkeypatch.setenv("WANDB_API_KEY", "0123")
    monkeypatch.setattr(wandb, "init", refuse)
    folder = tmp_path / "mini" / "records"
    folder.mkdir(parents=True)
    made = paper_records.record(50, 50, setup="S01") | {"key": "0123456789abcdef"}
    (folder / "a.json").write_text(json.dumps(made))
    with pytest.raises(ConfigError, match="enough"):
        push_records(["mini", f"paths.results={tmp_path}", f"paths.runs={tmp_path / 'runs'}"])
    assert (asked["id"], asked["resume"], asked["mode"]) == ("record-0123456789abcdef", "allow", "online")
    assert not list(tmp_path.glob("runs/wandb/*/pushed.json"))  # what failed is pushed again
