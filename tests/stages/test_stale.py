"""Artifacts of other code: told, refused or made anew; and those that are asked for anew."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from midre_exp.plan.keys import StageKey
from midre_exp.run import run
from midre_exp.stages import make_plan, stale
from midre_exp.stages.stale import StaleError, stale_stages
from midre_exp.store.store import Store
from midre_exp.sweep.finished import is_finished

LATER = ("attack", "metrics", "verdicts")


@pytest.fixture
def ran(tiny, stocked):
    """Settings and plan of a run that is done."""
    settings = tiny()
    run(settings)
    return settings, make_plan(settings)


def change(monkeypatch, *stages: str) -> None:
    """The code of some stages becomes another."""
    honest = StageKey.code.fget
    code = property(lambda self: "0" * 16 if self.name in stages else honest(self))
    monkeypatch.setattr(StageKey, "code", code)


def with_runtime(settings, **values):
    return {**settings, "runtime": {**settings["runtime"], **values}}


def manifest(settings, plan, stage: str) -> dict:
    return Store(settings["paths"]["store"]).manifest(stage, plan[stage].key)


def replaced(settings) -> list[str]:
    folder = Path(settings["paths"]["store"]) / "replaced"
    return sorted(path.name.split("-")[0] for path in folder.glob("*/"))


def test_a_manifest_and_a_record_name_what_made_them(ran):
    settings, plan = ran
    made = manifest(settings, plan, "attack")
    assert made["code"] == plan["attack"].code and made["rests_on"].keys() == {"target", "prior"}
    assert {"torch", "torchvision", "timm", "pytorch-lightning", "numpy"} <= made["versions"].keys()
    assert made["numerics"]["device_kind"] == "cpu" and made["numerics"]["threads"] == 1
    (path,) = Path(settings["paths"]["results"]).glob("*/records/*.json")
    entry = json.loads(path.read_text())["code"]["target"]
    assert entry == {"commit": made["commit"], "code": plan["target"].code, "packages": {}}
    assert stale_stages(Store(settings["paths"]["store"]), plan) == {}


def test_by_default_other_code_is_told_and_its_results_are_used(ran, monkeypatch, capfd):
    settings, plan = ran
    change(monkeypatch, "target")
    assert is_finished(settings, plan)
    run(settings)
    told = [line for line in capfd.readouterr().err.splitlines() if "from the store" in line]
    assert len(told) == 1 and f" target {plan['target'].key}: from the store, made by other" in told[0]
    assert replaced(settings) == []


def test_other_code_is_refused_on_demand(ran, monkeypatch):
    settings, plan = ran
    change(monkeypatch, "prior")
    with pytest.raises(StaleError, match=rf"prior {plan['prior'].key} .*made by other code.*stale=rebuild"):
        run(with_runtime(settings, stale="refuse"))


def test_other_code_is_replaced_on_demand_with_all_that_rests_on_it(ran, monkeypatch):
    settings, plan = ran
    before = manifest(settings, plan, "evaluator")
    change(monkeypatch, "target", *LATER)
    anew = with_runtime(settings, stale="rebuild")
    assert not is_finished(anew, plan)
    run(anew)
    assert replaced(settings) == sorted(["target", *LATER])
    assert manifest(settings, plan, "target")["code"] == "0" * 16
    assert manifest(settings, plan, "evaluator") == before
    assert is_finished(anew, plan)


def test_what_is_stale_makes_stale_what_rests_on_it(ran, monkeypatch):
    settings, plan = ran
    change(monkeypatch, "evaluator")
    found = stale_stages(Store(settings["paths"]["store"]), plan)
    assert list(found) == ["evaluator", "features", "metrics", "verdicts"]
    assert found["metrics"] == "rests on a stale evaluator"


@pytest.mark.parametrize(
    ("told", "reason"),
    [
        ({}, "unknown code"),
        ({"code": "1", "commit": "abc"}, r"other code \(commit abc, now def\)"),
        ({"code": "0", "versions": {}}, "torch unknown, now"),
    ],
)
def test_why_something_is_stale(told, reason):
    assert pytest.importorskip("re").search(reason, stale.other_code("0", told, "def"))


def test_builds_of_one_release_are_one():
    now = {name: f"{version.partition('+')[0]}+cu999" for name, version in stale.versions().items()}
    assert stale.other_code("0", {"code": "0", "versions": now}, None) is None


def test_an_artifact_made_from_another_one_is_told(ran):
    settings, plan = ran
    made = manifest(settings, plan, "attack")
    target = {**manifest(settings, plan, "target"), "files": {"weights.safetensors": {"sha256": "0"}}}
    assert (
        stale.other_upstream(made, {"target": target}) == "made from another target than the one there is now"
    )
    assert stale.other_upstream(made, {"target": manifest(settings, plan, "target")}) is None


def test_stages_are_made_anew_once_for_a_request(ran):
    settings, plan = ran
    asked = with_runtime(settings, rebuild=["prior"])
    asked["plan"] = {**settings["plan"], "rebuild": "one"}
    assert stale.to_rebuild(asked, plan) == {"prior", *LATER} and not is_finished(asked, plan)
    run(asked)
    assert replaced(settings) == sorted(["prior", *LATER]) and is_finished(asked, plan)
    run(asked)
    assert len(replaced(settings)) == 4
    asked["plan"] = {**settings["plan"], "rebuild": "two"}
    assert not is_finished(asked, plan)


def test_a_shard_is_part_of_its_attack(tiny):
    settings = tiny("attack.shard=1/2", "runtime.rebuild=[target]")
    assert stale.to_rebuild(settings, make_plan(settings)) == {"target", "shard"}


def test_shards_of_other_code_are_not_merged_on_demand(tiny, stocked, monkeypatch, capfd):
    shutil.rmtree(stocked / "attack")
    run(tiny("attack.shard=1/2"))
    change(monkeypatch, "attack", "shard")
    with pytest.raises(StaleError, match=r"shard .*-1of2 is in the store, made by other code"):
        run(tiny("runtime.stale=refuse"))
    run(tiny())
    assert "-1of2: from the store, made by other code" in capfd.readouterr().err
    settings = tiny("runtime.stale=rebuild", "runtime.rebuild=[attack]")
    run(settings)
    assert "shard" in replaced(settings)


def test_an_unfinished_attempt_goes_on_with_its_own_code_only(tmp_path):
    store, seen = Store(tmp_path), []

    def attempt(code: str, continues, *, fails: bool):
        def make(work):
            state = work.path / "state"
            seen.append(state.read_text() if state.exists() else None)
            state.write_text(code)
            if fails:
                raise KeyboardInterrupt
            work.save_json("number", 1)

        return store.build(
            "target", "k", config={}, upstream={}, make=make, made_with={"code": code}, continues=continues
        )

    def same(code: str):
        return lambda earlier: earlier is not None and earlier["code"] == code

    for code in ("A", "A", "B"):
        with pytest.raises(KeyboardInterrupt):
            attempt(code, same(code), fails=True)
    (tmp_path / "work/target-k/.made-with.json").write_text("{")
    artifact = attempt("B", same("B"), fails=False)
    assert seen == [None, "A", None, None] and artifact.manifest["code"] == "B"


@pytest.mark.parametrize(
    ("values", "sentence"),
    [({"stale": "maybe"}, "runtime.stale=maybe"), ({"rebuild": ["tarjet"]}, "tarjet is no stage")],
)
def test_what_is_neither_a_policy_nor_a_stage_is_a_sentence(tiny, values, sentence):
    with pytest.raises(Exception, match=sentence):
        run(with_runtime(tiny(), **values))
