"""Diagnostics as stages: what their keys depend on, what they leave alone, what a record tells."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from midre_exp.cost.programs import count_stage
from midre_exp.cost.sizes import sizes_of
from midre_exp.errors import ConfigError
from midre_exp.plan.keys import absent_data_allowed
from midre_exp.plan.validate import check_settings
from midre_exp.records import problem_of
from midre_exp.records.comparable import comparable_config
from midre_exp.run import run
from midre_exp.stages import behind, make_plan
from midre_exp.stages.shadows import ShadowStage
from midre_exp.sweep.estimate import estimate, lines
from midre_exp.sweep.finished import is_finished

DIAGNOSED = (
    "diagnostics=default",
    "diagnostics.measure.robust_accuracy.eps=[1,8]",
    "diagnostics.measure.robust_accuracy.steps=2",
    "diagnostics.measure.auto_pgd.steps=2",
    "diagnostics.measure.hsic.batch_size=4",
    "diagnostics.measure.hsic.batches=2",
    "diagnostics.alignment.images=2",
    "diagnostics.extraction.recipe.epochs=1",
)
OF_TARGET = {"diagnostics", "alignment", "extraction"}
STUDENTS = {"extraction", "extraction_ceiling"}
NEW = OF_TARGET | STUDENTS


def keys(settings) -> dict[str, str]:
    return {name: stage.key for name, stage in make_plan(settings).stages.items()}


def test_a_run_is_the_same_one_with_them_and_without(tiny):
    usual, asked = keys(tiny()), keys(tiny(*DIAGNOSED))
    assert {name: key for name, key in asked.items() if name in usual} == usual
    assert {*asked} - {*usual} == NEW
    assert make_plan(tiny(*DIAGNOSED)).key == make_plan(tiny()).key
    assert comparable_config(tiny(*DIAGNOSED)) == comparable_config(tiny())
    older = {name: node for name, node in tiny().items() if name != "diagnostics"}
    assert keys(older) == usual


@pytest.mark.parametrize(
    ("changed", "moves"),
    [
        ("attack.steps=4", {"extraction"}),
        ("attack=plgmi", {"alignment", "extraction"}),
        ("attack.restarts=3", STUDENTS),
        ("evaluator=resnet18", STUDENTS),
        ("defense=midre", OF_TARGET),
        ("seed=1", OF_TARGET),
        ("diagnostics.measure.calibration.bins=[5]", {"diagnostics"}),
        ("diagnostics.measure.hsic=null", {"diagnostics"}),
        ("diagnostics.alignment.images=3", {"alignment"}),
        ("diagnostics.extraction.recipe.epochs=2", STUDENTS),
        ("diagnostics.name=other", set()),
    ],
)
def test_what_a_key_depends_on(tiny, changed, moves):
    usual, other = keys(tiny(*DIAGNOSED)), keys(tiny(*DIAGNOSED, changed))
    assert {name for name in NEW if usual[name] != other[name]} == moves


def test_a_part_of_an_attack_has_none(tiny):
    assert not NEW & {*keys(tiny(*DIAGNOSED, "attack.shard=1/2"))}


@pytest.mark.parametrize(
    ("job", "told"),
    [
        (("diagnostics.measure.robust_accuracy.eps=[300]",), "robust_accuracy.eps"),
        (("diagnostics.measure.calibration.bins=[]",), "calibration.bins"),
        (("diagnostics.alignment.loss=hinge",), "diagnostics.alignment.loss"),
        (("diagnostics.measure.hsic.part=public",), "part=public is unknown"),
        (("diagnostics.extraction.recipe.select=best",), "recipe.select"),
    ],
)
def test_mistakes_are_told_before_anything_is_built(tiny, job, told):
    settings = tiny(*DIAGNOSED, *job)
    with pytest.raises(ConfigError, match=told):
        check_settings(settings)
        run(settings)
    assert not (Path(settings["paths"]["store"]) / "target").exists()


def test_they_are_added_to_a_finished_run_which_stays_the_same(tiny, stocked):
    first = json.loads(run(tiny()).read_text())
    assert "diagnostics" not in first
    assert not is_finished(tiny(*DIAGNOSED), make_plan(tiny(*DIAGNOSED)))
    path = run(tiny(*DIAGNOSED))
    record = json.loads(path.read_text())
    assert problem_of(record) is None and record["key"] == first["key"]
    assert record["metrics"].items() >= first["metrics"].items()
    block = record["diagnostics"]
    assert block["key"] == record["artifacts"]["diagnostics"]
    assert [point["eps"] for point in block["robust_accuracy"]["points"]] == [1, 8]
    assert block["robust_accuracy"]["images"] == 8 == block["calibration"]["images"]
    assert block["membership"]["members"] == 16 and block["alignment"]["prior"] == "gmi"
    student, ceiling = block["extraction"], block["extraction_ceiling"]
    assert student["per_class"] == ceiling["per_class"] == {"least": 2, "most": 2}
    assert student["train"]["images"] == 16 and student["test"]["images"] == 8 and student["chance"] == 25
    assert record["metrics"]["knowledge_test_ceiling"] == ceiling["test"]["value"]
    assert record["metrics"]["robust@1"] == block["robust_accuracy"]["points"][0]["value"]
    assert {"robust_area_low", "ece_high", "hsic_xz", "mia_auc", "alignment_chance"} <= {*record["metrics"]}
    assert is_finished(tiny(*DIAGNOSED), make_plan(tiny(*DIAGNOSED)))
    # a run that does not ask keeps what is known
    assert run(tiny()) == path and json.loads(path.read_text()) == record
    # and the numbers are the same again
    shutil.rmtree(stocked / "diagnostics")
    run(tiny(*DIAGNOSED))
    again = json.loads(path.read_text())
    assert again["diagnostics"] == block


def test_what_they_cost_is_counted(tiny):
    settings = tiny(*DIAGNOSED)
    with absent_data_allowed():
        sizes = sizes_of(settings, lambda _, look: look())
    counted = {name: count_stage(name, settings, sizes) for name in NEW}
    phases = {phase.name for phase in counted["diagnostics"].phases}
    assert {"robust_accuracy (gradients)", "auto_pgd (gradients)", "calibration", "hsic"} <= phases
    assert all(sum(phase.flops for phase in one.phases) > 0 for one in counted.values())


def test_only_a_target_with_triggers_is_asked_for_traps(tiny):
    asked = keys(tiny(*DIAGNOSED, "defense=[midre,trapmid]"))
    assert {*asked} - {*keys(tiny(*DIAGNOSED))} == {"trap"}
    other = keys(tiny(*DIAGNOSED, "defense=[midre,trapmid]", "attack.steps=4"))
    assert other["trap"] != asked["trap"] and other["diagnostics"] == asked["diagnostics"]
    assert "trap" not in keys(tiny(*DIAGNOSED, "defense=trapmid", "diagnostics.trap=false"))


LIRA = ("diagnostics=full", *DIAGNOSED[1:], "diagnostics.lira.shadows=4", "diagnostics.lira.rates=[0.5]")


def test_shadows_are_trainings_of_their_own_that_arms_do_not_share(tiny):
    usual, asked = keys(tiny(*DIAGNOSED)), keys(tiny(*LIRA))
    new = {*asked} - {*usual}
    assert new == {"lira", *(f"shadow.{number}" for number in range(4))}
    assert {name: asked[name] for name in usual} == usual and len({*asked.values()}) == len(asked)
    fewer = keys(tiny(*LIRA, "diagnostics.lira.shadows=3"))
    assert all(fewer[f"shadow.{number}"] == asked[f"shadow.{number}"] for number in range(3))
    other = keys(tiny(*LIRA, "defense=midre"))
    assert not {other[name] for name in new} & {asked[name] for name in new}


def test_shadows_are_planned_and_counted_as_targets(tiny):
    settings = tiny(*LIRA)
    with absent_data_allowed():
        sizes = sizes_of(settings, lambda _, look: look())
    assert sum(phase.flops for phase in count_stage("lira", settings, sizes).phases) > 0
    assert behind("shadow.2", settings) == ("target", settings)
    shown = "\n".join(lines(estimate([(settings, make_plan(settings))])))
    assert "shadow.3" in shown and "shadow of resnet18 with nodef" in shown


def test_a_checkpoint_has_no_shadows():
    with pytest.raises(ConfigError, match="trains shadows as the target was trained"):
        ShadowStage(0).check({"target": {"checkpoint": "file"}}, None)


@pytest.mark.slow
def test_a_target_is_told_from_its_shadows(tiny, stocked):
    record = json.loads(run(tiny(*LIRA)).read_text())
    assert problem_of(record) is None
    told = record["diagnostics"]["lira"]
    assert (told["shadows"], told["with"], told["without"]) == (4, 2, 1)
    assert told["online"]["members"] == 16 and told["online"]["others"] == 8
    assert {"lira_auc", "lira_advantage_high"} <= {*record["metrics"]}
    assert {f"shadow.{number}" for number in range(4)} <= {*record["seconds"]}


@pytest.mark.slow
def test_traps_are_looked_for_in_reconstructions(tiny, stocked):
    told = json.loads(run(tiny(*DIAGNOSED, "defense=trapmid")).read_text())
    assert problem_of(told) is None
    block = told["diagnostics"]["trap"]
    assert block["reconstructions"]["images"] == 8 and block["clean"]["images"] == 8
    assert told["metrics"]["trap_cosine"] == block["reconstructions"]["cosine"]["value"]
