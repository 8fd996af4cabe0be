"""What students learn from, and the official schedule of their rates."""

from __future__ import annotations

import pytest
import torch

from midre_exp.data.base import ImageSet
from midre_exp.diagnostics.extraction import (
    as_the_student_sees,
    first_of_each,
    fitting,
    lessons,
    of_identities,
)
from midre_exp.metrics.base import Unavailable
from midre_exp.targets.training.module import learning_rates
from tests.golden.fill import golden


def images(labels: list[int], classes: int) -> ImageSet:
    pixels = torch.arange(len(labels), dtype=torch.uint8).view(-1, 1, 1, 1).expand(-1, 3, 2, 2)
    return ImageSet(pixels.contiguous(), torch.tensor(labels), tuple(map(str, range(classes))))


def test_as_many_photographs_as_reconstructions_of_the_attacked_identities():
    everyone = images([2, 0, 1, 0, 0, 1, 2], 3)
    attacked = of_identities(everyone, 2)
    assert attacked.labels.tolist() == [0, 1, 0, 0, 1] and attacked.classes == ("0", "1")
    some = first_of_each(attacked, 2)
    assert some.labels.tolist() == [0, 1, 0, 1] and some.images[:, 0, 0, 0].tolist() == [1, 2, 3, 5]


def test_a_student_sees_what_an_evaluator_does_in_eight_bits():
    shown = as_the_student_sees(images([0, 1], 2).images + 100, [lambda x: x.repeat_interleave(2, -1)])
    assert (
        shown.dtype == torch.uint8 and shown.shape == (2, 3, 2, 4) and shown.unique().tolist() == [100, 101]
    )


def test_nothing_to_learn_from_is_a_reason():
    with pytest.raises(Unavailable, match="left 1 reconstructions"):
        lessons(images([0], 2), images([0], 2))
    assert fitting({"batch_size": 32, "drop_last": False}, 5) == {"batch_size": 5, "drop_last": True}


def test_the_official_schedule_can_be_asked_for():
    told = golden("target_diagnostics")["knowledge_extraction"]
    recipe = {
        "epochs": told["epochs"],
        "optimizer": {"_target_": "torch.optim.SGD", "lr": 0.1, "momentum": 0.9, "weight_decay": 1e-4},
        "scheduler": {
            "_target_": "torch.optim.lr_scheduler.CosineAnnealingLR",
            "T_max": told["epochs"],
            "eta_min": 1e-4,
        },
    }
    rates = learning_rates(recipe)
    for epoch, rate in told["learning_rate_by_epoch"].items():
        assert float(rates[int(epoch)]) == pytest.approx(rate, abs=1e-8)
