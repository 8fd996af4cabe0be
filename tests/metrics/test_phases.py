"""Phase by phase: the images of every phase are classified, none twice."""

from __future__ import annotations

import pytest
import torch

from midre_exp.metrics.base import Evaluation, Unavailable
from midre_exp.metrics.judge import Judge
from midre_exp.metrics.phases import PhaseAccuracy, PhaseJudge
from midre_exp.targets.base import Output
from tests.golden.loops.read import loop

CLASSES = 6


def picture_of(classes: torch.Tensor) -> torch.Tensor:
    """Pictures uint8 [n, 3, 2, 2] that ``logits_of`` takes for these classes."""
    return classes.to(torch.uint8)[:, None, None, None].expand(-1, 3, 2, 2).clone()


def logits_of(pictures: torch.Tensor) -> torch.Tensor:
    """A class is nearest to itself, then to its neighbours: logits [n, CLASSES]."""
    return -(pictures[:, 0, 0, 0].double()[:, None] - torch.arange(CLASSES)).abs()


class Answers(torch.nn.Module):
    """Gives the logits of pictures as the network of a judge, which sees them in [0, 1]."""

    def __init__(self, classify):
        super().__init__()
        self.classify = classify

    def forward(self, images: torch.Tensor) -> Output:
        return Output(self.classify(images.mul(255).round().to(torch.uint8)), torch.zeros(len(images), 1))


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
        "judge": None if classify is None else Judge(Answers(classify)),
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
        "best_stage_official": 1,
        "att_acc1_best_stage_official": 75,
        "att_acc5_best_stage_official": 75,
    }


def test_among_equally_good_phases_the_first_is_best():
    assert PhaseAccuracy()(seen([[5, 5, 5, 5], [0, 5, 5, 5], [5, 0, 5, 5]]))["best_stage_official"] == 1


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


def test_phases_judged_in_passing_need_no_pictures_and_the_rebuilt_judge_has_a_best_phase_of_its_own():
    hits = torch.zeros(4, 3, 2, 2, dtype=torch.bool)  # items, phases, judges, top-1 and top-5
    hits[:3, 0, 0] = hits[0, 1, 0] = True
    hits[:2, 2, 1] = True
    hits[:, :, :, 1] |= hits[:, :, :, 0]
    numbers = PhaseAccuracy()(seen([[0, 0, 0, 0]], phases=None, judge=None, phase_hits=hits))
    assert [numbers[f"att_acc1_stage{phase}"] for phase in range(3)] == [75, 25, 0]
    assert numbers["best_stage_official"] == 0 and numbers["att_acc1_best_stage_official"] == 75
    assert numbers["best_stage_rebuilt_official"] == 2
    assert numbers["att_acc1_best_stage_rebuilt_official"] == 50


@pytest.mark.parametrize("pictures", ["floats", "eight_bit"])
def test_the_best_phase_is_the_one_that_the_official_program_prints(pictures):
    golden = loop("ifgmi")
    meta, logits = golden["meta"], torch.from_numpy(golden[f"judge_logits_{pictures}"])
    labels = torch.tensor(meta["labels"])
    rows = iter(logits.unbind(1))
    judge = PhaseJudge(Judge(Answers(lambda _: next(rows))))
    hits = torch.stack([judge(torch.zeros(12, 3, 2, 2), labels) for _ in range(3)], 1)
    evaluation = seen([[0, 0, 0, 0]], phases=None, judge=None, phase_hits=hits)
    numbers = PhaseAccuracy()(evaluation)
    printed = meta[f"official_{pictures}"]
    for phase, (top1, top5, *_) in enumerate(printed):
        assert numbers[f"att_acc1_stage{phase}"] == pytest.approx(top1)
        assert numbers[f"att_acc5_stage{phase}"] == pytest.approx(top5)
    best = meta[f"best_stage_{pictures}"]
    assert numbers["best_stage_official"] == best != len(printed) - 1
    assert numbers["att_acc1_best_stage_official"] == pytest.approx(printed[best][0])
