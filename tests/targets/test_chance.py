"""Accuracies that chance explains."""

from __future__ import annotations

import pytest
import torch
from scipy.stats import binomtest

from midre_exp.targets.chance import LEVEL, Chance


@pytest.mark.parametrize(
    ("hits", "images", "classes"), [(0, 24, 12), (2, 24, 12), (9, 40, 20), (530, 1060, 530)]
)
def test_the_p_value_is_that_of_the_exact_one_sided_test(hits, images, classes):
    chance = Chance.of(torch.arange(images) % classes, classes)
    expected = binomtest(hits, images, 1 / classes, alternative="greater").pvalue
    assert chance.p_value(100 * hits / images) == pytest.approx(expected, rel=1e-6)
    assert chance.explains(100 * hits / images) == (expected > LEVEL)


def test_always_answering_the_commonest_class_is_chance():
    labels = torch.tensor([0] * 90 + [1] * 10)
    assert Chance.of(labels, 2).explains(90.0)
    assert not Chance.of(labels, 2).explains(99.0)


def test_few_images_prove_nothing_and_one_class_never_does():
    assert Chance.of(torch.tensor([0, 0, 1, 1]), 2).explains(100.0)
    assert Chance.of(torch.zeros(50, dtype=torch.int64), 1).explains(100.0)
    told = Chance.of(torch.tensor([0, 0, 1, 1]), 2).sentence("evaluator vgg16", 100.0)
    assert told.startswith("evaluator vgg16 recognises 4 of its 4 test images (100.0 %), which is not")
    assert "(50.0 %, p = 0.062)" in told
