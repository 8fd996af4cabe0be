"""midre-exp diagnose: targets without an attack, and records of runs that were not asked."""

from __future__ import annotations

import json

import pytest

from midre_exp.run import run
from midre_exp.sweep.diagnose import main
from midre_exp.sweep.judge import main as judge
from tests.conftest import tiny_overrides
from tests.stages.test_diagnostics import DIAGNOSED


def test_a_target_is_measured_without_an_attack(stocked, tmp_path, capsys):
    for stage in ("attack", "prior", "evaluator"):
        assert (stocked / stage).exists()
    assert main([*tiny_overrides(tmp_path), *DIAGNOSED, "attack.steps=7", "attack.restarts=5"]) == 0
    told = capsys.readouterr().out
    assert "resnet18 with nodef, seed 0: " in told and "robust@8" in told and "mia_auc" in told
    assert len([*(stocked / "diagnostics").iterdir()]) == 1
    assert len([*(stocked / "attack").iterdir()]) == 1 and not (stocked / "alignment").exists()
    assert not (tmp_path / "results" / "mini" / "records").exists()


def test_records_of_runs_that_were_not_asked_are_diagnosed(stocked, tiny, tmp_path, capsys, monkeypatch):
    path = run(tiny())
    before = json.loads(path.read_text())
    own = [text for text in DIAGNOSED if text != "diagnostics=default"]
    places = [f"paths.{name}={tmp_path / name}" for name in ("store", "runs")]
    assert main([str(tmp_path / "results" / "mini"), *own, *places, "runtime.device=cpu"]) == 0
    assert "1 of 1 records diagnosed" in capsys.readouterr().out
    record = json.loads(path.read_text())
    assert record["key"] == before["key"] and record["diagnostics"]["extraction"]["student"] == "vgg16"
    assert record["metrics"].items() >= before["metrics"].items()
    # whoever judges such a record again takes nothing away
    assert judge([str(tmp_path / "results" / "mini"), *places, "runtime.device=cpu"]) == 0
    assert json.loads(path.read_text())["diagnostics"] == record["diagnostics"]


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["results/none"], "holds no records"),
        (["defense=midree"], "midree"),
        (["diagnostics=null"], "give diagnostics=default"),
        ([], "see midre-exp diagnose --help"),
    ],
)
def test_mistakes_are_one_sentence(words, told, capsys):
    assert main(words) == 2
    assert told in capsys.readouterr().err
