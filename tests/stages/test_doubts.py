"""Whose word is in doubt, by a record."""

from midre_exp.records.judges import doubts
from midre_exp.targets.chance import Chance
from midre_exp.targets.floor import AT_CHANCE


def record(accuracy, floor="chance", **more):
    config = {"evaluator": {"floor": floor}}
    return {"evaluator": "vgg16", "metrics": {"evaluator_acc": accuracy}, "config": config, **more}


def test_every_judge_of_a_record_is_looked_at():
    jury = {"judges": {"vgg16": {"acc": 95.0}, "resnet18": {"acc": 80.0}, "facenet112": {"acc": 99.0}}}
    assert list(doubts(record(95.0, jury=jury))) == ["evaluator.resnet18"]
    assert list(doubts(record(85.0, jury=jury))) == ["evaluator", "evaluator.resnet18"]
    assert doubts(record(85.0, floor=80, jury=jury)) == {}


def test_what_is_at_chance_is_told_once():
    alarm = Chance(24, 1 / 6).sentence("evaluator vgg16", 16.7)
    assert AT_CHANCE in alarm and doubts(record(16.7, alarms={"evaluator": [alarm]})) == {}
    assert "evaluator" in doubts(record(16.7, alarms={"evaluator": ["something else"]}))
