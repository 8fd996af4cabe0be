"""Labels in another order than the data's are recognised by the answers themselves."""

from __future__ import annotations

import pytest
import torch

from midre_exp.targets import likely_order

NAMES = tuple(f"s{number}" for number in range(1, 21))  # in natural order
ALPHABETICAL = tuple(sorted(NAMES))


def answers(here: tuple[str, ...], there: tuple[str, ...], *, right: float = 0.95, each: int = 8):
    """What a network of classes ``there`` says of images whose labels are those of ``here``."""
    labels = torch.arange(len(here)).repeat_interleave(each)
    predicted = torch.tensor([there.index(here[label]) for label in labels])
    wrong = torch.rand(len(labels), generator=torch.Generator().manual_seed(0)) > right
    return torch.where(wrong, (predicted + 3) % len(here), predicted), labels


@pytest.mark.parametrize(
    ("here", "there", "said"),
    [
        (ALPHABETICAL, NAMES, "if labels follow natural order: add data.order=natural"),
        (NAMES, ALPHABETICAL, "if labels follow alphabetical order: add data.order=alphabetical"),
        (NAMES, NAMES[::-1], "reversed order: give data.order=FILE"),
        (NAMES, (NAMES[-1], *NAMES[:-1]), "an order that begins with the last"),
        (NAMES, NAMES[7:] + NAMES[:7][::-1], "an order of their own: give data.order=FILE"),
    ],
)
def test_the_order_of_a_file_is_told_with_the_accuracy_it_gives(here, there, said):
    predicted, labels = answers(here, there)
    sentence = likely_order(predicted, labels, here, "data.order")
    assert sentence is not None and said in sentence
    own = 100 * float((predicted == labels).double().mean())
    assert sentence.startswith(f"acc {own:.1f} %, but 9")


def test_a_data_set_of_fixed_order_has_another_remedy():
    predicted, labels = answers(NAMES, ALPHABETICAL)
    sentence = likely_order(predicted, labels, NAMES, None)
    assert sentence is not None and "permute the rows of the file's head" in sentence


@pytest.mark.parametrize("each", [1, 2, 4, 20])
def test_a_network_that_knows_nobody_follows_no_order(each):
    labels = torch.arange(20).repeat_interleave(each)
    for seed in range(20):
        guess = torch.randint(20, (len(labels),), generator=torch.Generator().manual_seed(seed))
        assert likely_order(guess, labels, NAMES, "data.order") is None
    assert likely_order(torch.zeros_like(labels), labels, NAMES, "data.order") is None


def test_a_network_that_knows_the_people_is_left_alone():
    for right in (0.6, 0.95):
        predicted, labels = answers(NAMES, NAMES, right=right)
        assert likely_order(predicted, labels, NAMES, "data.order") is None
