"""Judges look at stored reconstructions again, and attacks are not repeated."""

import json
import re
import shutil

import pytest

from midre_exp.records import read_record
from midre_exp.report.runs.captions import alarms_of
from midre_exp.report.tables.comparison import caption, comparison, printable
from midre_exp.run import run
from midre_exp.stages import make_plan
from midre_exp.sweep.finished import is_finished
from midre_exp.sweep.judge import _pace, main
from tests.conftest import tiny_overrides


def test_a_run_with_a_jury_adds_to_the_record_of_the_run_without(tiny, stocked):
    alone, judged = tiny(), tiny("jury=[resnet18]")
    path = run(alone)
    before = read_record(path)
    assert before["controls"]["chance"] == 25 and before["controls"]["pictures"] == 8
    assert set(before["controls"]) == {"chance", "pictures", "prior", "other_identity"}
    assert "jury" not in before and is_finished(alone, make_plan(alone))
    assert not is_finished(judged, make_plan(judged))

    assert run(judged) == path
    record = read_record(path)
    assert is_finished(judged, make_plan(judged)) and is_finished(alone, make_plan(alone))
    kept = ("target", "prior", "attack", "metrics", "verdicts")
    assert {name: record["artifacts"][name] for name in kept} == {
        name: before["artifacts"][name] for name in kept
    }
    assert record["seconds"]["attack"] == before["seconds"]["attack"]
    jury, numbers = record["jury"], record["metrics"]
    assert jury["published"] == "vgg16" and set(jury["judges"]) == {"vgg16", "resnet18"}
    assert jury["judges"]["vgg16"]["metrics"]["att_acc1"] == before["metrics"]["att_acc1"]
    least = min(judge["metrics"]["att_acc1"] for judge in jury["judges"].values())
    assert numbers["att_acc1_all_judges"] == jury["all_agree"]["att_acc1"] <= least
    assert record["per_identity"]["att_acc1_by_resnet18"] == jury["judges"]["resnet18"]["per_identity"]

    shown, text = printable(comparison([record])), caption("A table", [record])
    assert {"all judges", "random", "as other"} <= set(shown) and "chance is 25.0 %" in text
    assert "vgg16 (" in text and "resnet18 (" in text

    for stage, judge in (("evaluator", "vgg16"), ("evaluator.resnet18", "resnet18")):  # of two photographs
        words = (f"evaluator {judge} recognises", f"judge {judge} recognises")
        assert sum(sentence.startswith(words) for sentence in record["alarms"][stage]) == 1
        assert sum(sentence.startswith(words) for sentence in alarms_of(record)) == 1

    run(alone)  # which has nothing to add and takes nothing away
    assert read_record(path) == record


def test_the_numbers_of_a_further_judge_are_those_it_has_as_evaluator(tiny, stocked):
    judged = tiny("jury=[resnet18]")
    # the evaluator of tiny runs is narrower than the packaged one, which a further judge is
    width = judged["jury"]["resnet18"]["model"]["width"]
    other = read_record(run(tiny("evaluator=resnet18", f"evaluator.model.width={width}")))
    record = read_record(run(judged))
    told = record["jury"]["judges"]["resnet18"]
    assert told["acc"] == other["metrics"]["evaluator_acc"]
    assert told["metrics"]["att_acc1"] == other["metrics"]["att_acc1"]
    assert told["metrics"]["att_acc1_low"] == other["metrics"]["att_acc1_low"]
    assert told["controls"] == other["controls"]


def test_all_records_of_a_folder_are_judged_in_one_call(tiny, stocked, tmp_path, capsys):
    path = run(tiny())
    words = [
        text for text in tiny_overrides(tmp_path) if text.startswith(("paths.store", "paths.runs", "runtime"))
    ]
    command = [str(tmp_path / "results" / "mini"), "jury=[resnet18]", "evaluator.floor=0", *words]
    assert main(command) == 0
    assert re.search(r"1 of 1 records judged in .*, \d+\.\d s a record", capsys.readouterr().out)
    assert set(read_record(path)["jury"]["judges"]) == {"vgg16", "resnet18"}

    shutil.rmtree(stocked / "attack")
    assert main([*command, "jury=[facenet112]"]) == 2
    told = capsys.readouterr().out
    assert "0 of 1 records judged" in told and "has no attack" in told
    assert not (stocked / "attack").exists()


def test_a_verifier_looks_at_all_records_of_a_folder(tiny, stocked, tmp_path, capsys):
    few = ("identities=60", "per_identity=3", "test_per_identity=1")
    path = run(tiny(*(f"data.verification_{text}" for text in few)))
    words = [
        text for text in tiny_overrides(tmp_path) if text.startswith(("paths.store", "paths.runs", "runtime"))
    ]
    words += ["open_set=verifier", "open_set.epochs=1", "open_set.batch_size=32", "open_set.held_out=0.5"]
    assert main([str(tmp_path / "results" / "mini"), *words]) == 0, capsys.readouterr().out
    assert read_record(path)["open_set"]["decoys"] == 30


def test_what_is_left_to_judge_is_told_by_the_median_of_what_was():
    assert _pace([50.0, 3.0, 4.0], 30) == "4.0 s, 30 more in about 2 min"
    assert _pace([3.0], 0) == "3.0 s"


def test_a_record_says_no_class_that_a_judge_would_build(tiny, stocked, tmp_path, capsys):
    path = run(tiny())
    record = json.loads(path.read_text())
    record["config"]["attack"]["_target_"] = "os.system"
    path.write_text(json.dumps(record))
    (path.parent.parent / "checksums" / f"{path.stem}.sha256").unlink()
    words = [
        text for text in tiny_overrides(tmp_path) if text.startswith(("paths.store", "paths.runs", "runtime"))
    ]
    assert main([str(tmp_path / "results" / "mini"), "jury=[resnet18]", *words]) == 2
    assert "attack._target_ is another" in capsys.readouterr().out


@pytest.mark.parametrize("word", ["attack.steps=9", "seed=1", "evaluator=resnet18"])
def test_a_run_cannot_be_made_another_one_by_judging_it(tmp_path, capsys, word):
    assert main([str(tmp_path), word]) == 2
    assert "the runs are those of the records" in capsys.readouterr().err
