from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from torchvision.transforms.functional import resized_crop

from defenses import Batch, TrainingProgress
from defenses.random_crop import RandomCrop
from midre_exp.data.transforms.random_crop import sample_boxes
from midre_exp.errors import ConfigError
from midre_exp.targets.architectures.vgg import VGG16

CLOCK = TrainingProgress(epoch=0, epochs=1)
MODEL = VGG16(num_classes=2, width=0.125)


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def batch(n: int = 6, size: int = 32) -> Batch:
    return Batch(torch.rand(n, 3, size, size, generator=seeded(1)), torch.zeros(n).long(), torch.arange(n))


def test_each_image_becomes_a_square_crop_of_its_own_as_torchvision_makes_it() -> None:
    given = batch()
    after = RandomCrop(scale=[0.5, 1.0]).on_batch(given, MODEL, CLOCK, seeded(0))
    boxes = sample_boxes(6, 32, 32, scale=(0.5, 1.0), ratio=(1.0, 1.0), generator=seeded(0))
    assert len(set(zip(*(edge.tolist() for edge in boxes), strict=True))) == 6
    for image, cropped, *box in zip(given.images, after.images, *(b.tolist() for b in boxes), strict=True):
        top, left, height, width = box
        assert height == width
        expected = resized_crop(image, top, left, height, width, [32, 32], antialias=True)
        assert torch.allclose(cropped, expected, atol=1e-5)
    assert after.labels is given.labels and after.index is given.index


def test_the_share_that_stays_is_uniform_in_the_range() -> None:
    n, size = 2000, 64
    ramp = (torch.arange(size) / size).expand(
        n, 1, size, size
    )  # a crop of this picture is flatter by its side
    after = RandomCrop(scale=[0.5, 1.0]).on_batch(replace(batch(n), images=ramp), MODEL, CLOCK, seeded(0))
    side = size * (after.images[:, 0, 32, 40] - after.images[:, 0, 32, 24]) / 16 * size
    share = (side / size).double().square()
    assert float(share.min()) == pytest.approx(0.5, abs=0.02) and float(share.max()) > 0.98
    # Five standard errors, and what rounding the side may move.
    assert float(share.mean()) == pytest.approx(0.75, abs=5 * 0.5 / math.sqrt(12 * n) + 1e-3)
    assert float(share.std()) == pytest.approx(0.5 / math.sqrt(12), rel=0.05)


def test_training_sees_cropped_images_and_tests_on_whole_ones(tiny_training: Any) -> None:
    seen = tiny_training.Seen()
    _, numbers, history = tiny_training.train("crop", random_crop=RandomCrop(scale=[0.5, 1.0]), seen=seen)
    assert numbers["acc"] > 30
    whole = tiny_training.data.load("train").images / 255
    changed = (seen.images(0) != whole).flatten(1).any(1)
    assert int(changed.sum()) >= 15  # a share near 1 may round to the whole image
    assert not torch.equal(seen.images(0), seen.images(1))
    null = tiny_training.train("null", random_crop=RandomCrop(scale=[1, 1]))[2]
    assert null == tiny_training.train("plain")[2] != history


@pytest.mark.parametrize("scale", [[0, 1], [0.8, 0.5], [0.5, 1.2], [0.5], 0.5, ["a", "b"], [float("nan"), 1]])
def test_values_out_of_range_are_refused_by_name(scale: Any) -> None:
    with pytest.raises(ConfigError) as error:
        RandomCrop(scale=scale)
    assert f"defense.random_crop.scale={scale} is no range" in str(error.value)
