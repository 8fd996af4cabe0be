"""How far judges agree, the strict number, and whose picture a control is scored as."""

import pytest
import torch

from midre_exp.metrics.jury import agreement, jury_of, other_identity, share_of

YES, NO = True, False


def test_agreement_of_two_judges_by_hand():
    first = torch.tensor([YES, YES, YES, NO, NO, NO, NO, NO, NO, YES])
    second = torch.tensor([YES, YES, NO, NO, NO, NO, NO, NO, YES, YES])
    found = agreement(first, second)
    assert found["same"] == pytest.approx(80)
    assert found["both"] == pytest.approx(100 * 3 / 5)
    by_chance = 0.4 * 0.4 + 0.6 * 0.6
    assert found["kappa"] == pytest.approx((0.8 - by_chance) / (1 - by_chance))


def test_judges_who_say_one_thing_of_everything_have_no_kappa():
    nothing = torch.zeros(4, dtype=torch.bool)
    assert agreement(nothing, nothing) == {"same": 100, "both": None, "kappa": None}
    assert agreement(~nothing, ~nothing) == {"same": 100, "both": 100, "kappa": None}


def test_the_strict_number_is_what_all_judges_accept():
    labels = torch.tensor([3, 3, 5, 5])
    hits = {
        "a": torch.tensor([YES, YES, YES, NO]),
        "b": torch.tensor([YES, NO, YES, NO]),
        "c": torch.tensor([YES, YES, NO, YES]),
    }
    found = jury_of(hits, labels)
    assert found["all_agree"]["att_acc1"] == 25 and found["all_agree"]["per_identity"] == [50, 0]
    assert [pair["judges"] for pair in found["agreement"]] == [["a", "b"], ["a", "c"], ["b", "c"]]
    assert found["all_agree"]["att_acc1"] <= min(share_of(each, labels)["att_acc1"] for each in hits.values())


def test_a_control_is_scored_as_somebody_else_and_nobody_twice():
    labels = torch.tensor([9, 2, 2, 4, 7, 9])
    other = other_identity(labels)
    assert (other != labels).all() and torch.equal(other.unique(), labels.unique())
    assert torch.equal(other, other_identity(labels)) and other[1] == other[2] and other[0] == other[5]
    assert other_identity(torch.tensor([4, 4])) is None
