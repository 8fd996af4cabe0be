import json
from pathlib import Path

import pytest

from midre_exp.worst_case.aggregate import Lead
from midre_exp.worst_case.alarms import SENTENCES, Evidence, is_clear, raised

GOLDEN = json.loads((Path(__file__).parents[1] / "golden" / "alarms.json").read_text())


def evidence(case) -> Evidence:
    white = case["plain"]["white"]
    return Evidence(
        black_box=Lead(max(case["plain"]["scores"], case["plain"]["labels"]) - white),
        fewer_steps=Lead(max(case["steps"][:-1]) - case["steps"][-1]),
        random_start=Lead(case["random_start"] - case["searched_start"]),
        surrogate=Lead(case["surrogate"] - white),
        other_loss=Lead(case["loss_swap"] - white),
        zero_gradient_share=case["zero_gradient_share"],
        repeat_max_difference=case["repeat_max_difference"],
        probabilities=case["probabilities"],
    )


@pytest.mark.parametrize("name", GOLDEN["cases"])
def test_the_decision_table_of_the_sheet(name):
    assert raised(evidence(GOLDEN["cases"][name])) == GOLDEN["alarms"][name]


def test_a_lead_must_exceed_the_tolerance_and_chance():
    assert not is_clear(None) and not is_clear(Lead(2.0, 1.0)) and not is_clear(Lead(30.0, -0.1))
    assert is_clear(Lead(2.1, 0.1)) and is_clear(Lead(2.1))


@pytest.mark.parametrize(
    ("field", "value", "alarm"),
    [
        ("plain", Lead(5.0, 1.0), "informed_is_worse"),
        ("pixels_share", 0.95, "unbounded_fails"),
        ("surrogate", Lead(5.0), "surrogate_beats_target_gradient"),
        ("random_start", Lead(5.0), "random_start_wins"),
    ],
)
def test_each_alarm_has_its_own_sign(field, value, alarm):
    assert raised(Evidence(**{field: value})) == [alarm]
    assert SENTENCES[alarm].format(" (a, b)").count("a, b") == 1


def test_nothing_asked_is_nothing_told():
    assert raised(Evidence()) == []
    assert raised(Evidence(pixels_share=1.0, zero_gradient_share=0.0, probabilities=False)) == []
