"""Phase by phase: the images of every phase are classified, none twice."""

from __future__ import annotations

import pytest
import torch

from midre_exp.metrics.base import Evaluation, Unavailable
from midre_exp.metrics.phases import PhaseAccuracy

CLASSES = 6


def picture_of(classes: torch.Tensor) -> torch.Tensor:
    """Pictures uint8 [n, 3, 2, 2] that ``logits_of`` takes for these classes."""
    return classes.to(torch.uint8)[:, None, None, None].expand(-1, 3, 2, 2).clone()


def logits_of(pictures: torch.Tensor) -> torch.Tensor:
    """A class is nearest to itself, then to its neighbours: logits [n, CLASSES]."""
    return -(pictures[:, 0, 0, 0].double()[:, None] - torch.arange(CLASSES)).abs()


def seen(seen_as, *, kept=-1, classify=logits_of, **more) -> Evaluation:
    """Four images of identity 0, which look in phase s like the classes ``seen_as[s]``; those of phase
    ``kept`` are the result.
    """
    stages = torch.stack([picture_of(torch.tensor(row)) for row in seen_as], 1)
    fields = {
        "images": stages[:, kept].clone(),
        "labels": torch.zeros(4, dtype=torch.int64),
        "restarts": torch.arange(4),
        "logits": logits_of(stages[:, kept]),
        "features": torch.zeros(4, 1),
        "private_features": torch.zeros(1, 1),
        "private_labels": torch.zeros(1, dtype=torch.int64),
        "private_images": torch.zeros(1, 3, 2, 2, dtype=torch.uint8),
        "private_rows": torch.zeros(1, dtype=torch.int64),
        "device": torch.device("cpu"),
        "phases": stages,
        "classify": classify,
    }
    return Evaluation(**{**fields, **more})


def test_each_phase_and_the_best_one_by_hindsight():
    numbers = PhaseAccuracy()(seen([[0, 5, 5, 5], [0, 0, 0, 5], [0, 2, 2, 0]]))
    assert numbers == {
        "att_acc1_stage0": 25,
        "att_acc1_stage1": 75,
        "att_acc1_stage2": 50,
        "att_acc5_stage0": 25,
        "att_acc5_stage1": 75,
        "att_acc5_stage2": 100,
        "best_stage": 1,
        "att_acc1_best_stage": 75,
    }


def test_among_equally_good_phases_the_first_is_best():
    assert PhaseAccuracy()(seen([[5, 5, 5, 5], [0, 5, 5, 5], [5, 0, 5, 5]]))["best_stage"] == 1


@pytest.mark.parametrize("kept", [0, -1])
def test_an_image_that_was_classified_is_not_shown_again(kept):
    shown = []

    def remember(pictures):
        shown.append(len(pictures))
        return logits_of(pictures)

    stages = [[0, 5, 3, 1], [0, 0, 2, 4]]  # the first picture does not change
    numbers = PhaseAccuracy()(seen(stages, kept=kept, classify=remember))
    assert shown == [3]
    assert numbers["att_acc1_stage0"] == 25 and numbers["att_acc1_stage1"] == 50


def test_pictures_of_another_size_are_all_logits_of():
    larger = torch.zeros(4, 3, 5, 5, dtype=torch.uint8)
    numbers = PhaseAccuracy()(seen([[0, 5, 3, 1], [0, 0, 2, 4]], images=larger))
    assert numbers["att_acc1_stage1"] == 50


def test_an_attack_without_phases_has_no_such_numbers():
    assert PhaseAccuracy()(seen([[0, 0, 0, 0]], phases=None)) == {}


def test_phases_without_an_evaluator_are_a_reason():
    with pytest.raises(Unavailable, match="need an evaluator"):
        PhaseAccuracy()(seen([[0, 0, 0, 0]], classify=None))
