"""Rounding, top k, labels only, and several answers in their order."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from defenses import MIDRE, SSD, Defense, LabelsOnly, Rounding, TopK, compose
from midre_exp.defense import answers_to
from midre_exp.errors import ConfigError
from midre_exp.threat import Threat, Victim
from tests.defenses.test_midre import RELEASED

GIVEN = torch.tensor([[0.06, 0.51, 0.25, 0.18], [0.4, 0.4, 0.16, 0.04]])
SHOWN = torch.zeros(2, 3, 2, 2)
BROKEN = torch.tensor([[torch.nan, 0.5, 0.3, 0.2]])


def test_rounding_keeps_decimals_and_not_the_sum() -> None:
    found = Rounding(decimals=1).answer(GIVEN, SHOWN)
    torch.testing.assert_close(found[0], torch.tensor([0.1, 0.5, 0.2, 0.2]))  # halves go to even
    assert float(Rounding(decimals=1).answer(GIVEN[1:], SHOWN)[0, 3]) == 0
    assert Rounding(decimals=None).answer(GIVEN, SHOWN) is GIVEN


@pytest.mark.parametrize(
    ("rest", "expected"), [("zero", [0.0, 0.51, 0.25, 0.0]), ("spread", [0.12, 0.51, 0.25, 0.12])]
)
def test_the_largest_are_answered_and_the_others_as_asked(rest: str, expected: list[float]) -> None:
    found = TopK(k=2, rest=rest).answer(GIVEN, SHOWN)  # type: ignore[arg-type]
    torch.testing.assert_close(found[0], torch.tensor(expected))
    assert TopK(k=1, rest="zero").answer(GIVEN, SHOWN)[1].tolist() == [pytest.approx(0.4), 0, 0, 0]
    assert TopK(k=4, rest="zero").answer(GIVEN, SHOWN) is GIVEN
    assert TopK(k=None, rest="zero").answer(GIVEN, SHOWN) is GIVEN


def test_a_label_is_one_hot_and_the_first_of_equal_ones() -> None:
    assert LabelsOnly().answer(GIVEN, SHOWN).tolist() == [[0, 1, 0, 0], [1, 0, 0, 0]]


@pytest.mark.parametrize(
    "defense",
    [Rounding(decimals=1), TopK(k=2, rest="zero"), TopK(k=2, rest="spread"), LabelsOnly()],
    ids=repr,
)
def test_no_number_is_made_of_none(defense: Defense) -> None:
    found = defense.answer(torch.cat([BROKEN, GIVEN]), torch.zeros(3, 3, 2, 2))
    assert bool(found[0].isnan().any())
    assert torch.equal(found[1:], defense.answer(GIVEN, SHOWN))


@pytest.mark.parametrize(
    ("defense", "named"),
    [
        (lambda: Rounding(decimals=-1), r"defense\.rounding\.decimals=-1 must be a whole number from 0"),
        (lambda: TopK(k=0, rest="zero"), r"defense\.top_k\.k=0 must be a whole number from 1"),
        (lambda: TopK(k=1, rest="some"), r"defense\.top_k\.rest=some is unknown"),  # type: ignore[arg-type]
    ],
)
def test_values_that_cannot_be_used_are_named(defense, named: str) -> None:
    with pytest.raises(ConfigError, match=named):
        defense()


# -- several --


def ssd() -> SSD:
    return SSD(eps=2.0, temperature=0.1, seed="image")


def test_several_answer_in_the_order_given_and_each_is_calibrated_behind_the_others() -> None:
    labels = torch.arange(4).repeat(2)
    held_out = torch.rand(8, 4, generator=torch.Generator().manual_seed(0)).softmax(1)
    pictures = torch.zeros(8, 3, 2, 2, dtype=torch.uint8)

    def means(**parts: Defense) -> Tensor:
        return compose(**parts).calibrate(held_out, pictures, labels, key="k")["ssd/class_means"]

    assert torch.equal(means(ssd=ssd()), means(ssd=ssd(), rounding=Rounding(decimals=1)))
    behind = means(rounding=Rounding(decimals=1), ssd=ssd())
    expected = torch.round(held_out.double(), decimals=1).view(2, 4, 4).mean(0)
    torch.testing.assert_close(behind, expected, atol=1e-7, rtol=0)
    both = compose(ssd=ssd(), labels_only=LabelsOnly())
    both.deploy(both.calibrate(held_out, pictures, labels, key="k"), key="k")
    found = answers_to(both, held_out, pictures)
    assert bool((found.sum(1) == 1).all()) and bool((found.amax(1) == 1).all())
    assert both.label == "SSD 2 + Labels only" and both.exclusive == frozenset()


def test_without_an_answer_the_very_tensor_comes_back() -> None:
    both = compose(midre=MIDRE(**RELEASED), rounding=Rounding(decimals=None))
    assert both.calibrate(GIVEN, SHOWN, torch.zeros(2), key="k") == {}
    assert both.answer(GIVEN, SHOWN) is GIVEN and not both.answer_alarms()


class Silent(Defense):
    def answer(self, probabilities: Tensor, images: Tensor) -> Tensor:
        return probabilities / 2


class Forgetful(Defense):
    acts_at = frozenset({"deployment"})

    def trained_epochs(self, epochs: int) -> int:
        return 1


@pytest.mark.parametrize(
    ("parts", "named"),
    [
        (
            {"rounding": Rounding(decimals=1), "labels_only": LabelsOnly()},
            "labels_only and rounding contradict each other: a label has no decimals",
        ),
        (
            {"labels_only": LabelsOnly(), "top_k": TopK(k=1, rest="zero")},
            "labels_only and top_k contradict each other: a label is answered",
        ),
        (
            {"labels_only": LabelsOnly(), "ssd": ssd()},
            "ssd comes after labels_only, .* name labels_only last",
        ),
        ({"own": Forgetful()}, r"own is a Forgetful, which overrides trained_epochs .* add \"training\""),
        ({"own": Silent()}, r"defense\.own is a Silent, which has an answer .* give the class acts_at"),
    ],
)
def test_answers_that_make_no_sense_together_are_refused(parts: dict[str, Defense], named: str) -> None:
    with pytest.raises(ConfigError, match=named):
        compose(**parts)


# -- whom it answers --


def network(images: Tensor) -> Tensor:
    return 8 * images.mean((2, 3))


def test_scores_and_labels_go_through_the_answer_and_who_holds_the_network_goes_past_it() -> None:
    images = torch.rand(5, 3, 4, 4, generator=torch.Generator().manual_seed(0))

    def turned(probabilities: Tensor, images: Tensor) -> Tensor:
        return probabilities.flip(1)

    plain, scores = (Victim.of(network, 3, Threat.SCORES, answer).scores(images) for answer in (None, turned))
    assert torch.equal(scores, plain.flip(1))
    labels = Victim.of(network, 3, Threat.LABELS, turned).labels(images)
    assert torch.equal(labels, scores.argmax(1))
    assert torch.equal(Victim.of(network, 3, Threat.WHITE_BOX, turned)(images).logits, network(images))
    victim = Victim.of(network, 3, Threat.SCORES, turned)
    assert torch.equal(victim.confidence(images, labels), scores.amax(1)) and victim.queries == 5


def test_labels_of_an_answer_that_changes_nothing_are_those_of_the_logits() -> None:
    certain = Victim.of(lambda images: torch.tensor([[900.0, 901.0, 901.00006]]), 3, Threat.LABELS)
    same = Victim.of(
        lambda images: torch.tensor([[900.0, 901.0, 901.00006]]), 3, Threat.LABELS, lambda p, images: p
    )
    assert certain.labels(SHOWN[:1]).tolist() == same.labels(SHOWN[:1]).tolist() == [2]


def test_an_answer_that_is_no_number_for_each_class_is_told() -> None:
    victim = Victim.of(network, 3, Threat.SCORES, lambda probabilities, images: probabilities[:, :2])
    with pytest.raises(ConfigError, match=r"the defense's answer is \[2, 2\]; it must be a tensor \[2, 3\]"):
        victim.scores(SHOWN)
