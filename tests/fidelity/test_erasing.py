"""The law of MIDRE's squares against torchvision's RandomErasing, as the released code configures it."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor
from torchvision.transforms import Normalize, RandomErasing

from defenses import Batch, build_defense
from defenses.parts.erasing import sample_squares
from defenses.parts.squares import erase_squares
from midre_exp.targets.training.batch import TrainingProgress

pytestmark = pytest.mark.fidelity

FILL = (0.485, 0.456, 0.406)
DRAWS = 20_000
LEAST = 1e-6  #: probability below which two samples are not of one law; another law of the side gives 1e-30


def official(size: int, low: float, high: float, n: int) -> Tensor:
    """Top, left, height and width of torchvision's boxes, int64 [4, n]."""
    image = torch.empty(3, size, size)
    torch.manual_seed(size)
    drawn = [RandomErasing.get_params(image, (low, high), (1, 1), list(FILL))[:4] for _ in range(n)]
    return torch.tensor(drawn).T


def ours(size: int, low: float, high: float, n: int, *, area: str = "uniform") -> tuple[Tensor, ...]:
    """Top, left and side of our squares, int64 [n] each."""
    numbers = torch.rand(3, n, generator=torch.Generator().manual_seed(1))
    return sample_squares(numbers, size, size, a_l=low, a_h=high, area=area, rounding="round")


def likeness(first: Tensor, second: Tensor) -> float:
    """How probable so different whole numbers are under one law (chi-square)."""
    table = np.stack([np.bincount(numbers.numpy(), minlength=256) for numbers in (first, second)])
    return float(stats.chi2_contingency(table[:, table.sum(0) >= 10]).pvalue)


@pytest.mark.parametrize(("size", "low", "high"), [(224, 0.1, 0.4), (224, 0.1, 0.8), (64, 0.1, 0.4)])
def test_squares_follow_the_law_of_torchvision(size: int, low: float, high: float):
    """Sides by chi-square, corners by Kolmogorov and Smirnov, the same extremes; squares always."""
    *corner, height, width = official(size, low, high, DRAWS)
    assert torch.equal(height, width)
    *ours_corner, side = ours(size, low, high, DRAWS)
    assert (int(side.min()), int(side.max())) == (int(height.min()), int(height.max()))
    assert likeness(height, side) > LEAST
    assert likeness(height, ours(size, low, high, DRAWS, area="joint_rejection")[2]) < 1e-30
    for theirs, mine in zip(corner, ours_corner, strict=True):
        # also of the room that the square leaves, which makes corners of all sides comparable
        spread = (theirs + 0.5) / (size - height + 1), (mine + 0.5) / (size - side + 1)
        for first, second in (spread, (theirs, mine)):
            assert stats.ks_2samp(first.numpy(), second.numpy()).pvalue > LEAST


def test_pixels_are_those_of_the_released_transforms():
    """Normalised first, then erased with the released numbers: the same box gives the same network input."""
    images = torch.rand(12, 3, 64, 64, generator=torch.Generator().manual_seed(2))
    normalise = Normalize([0.5] * 3, [0.5] * 3)
    erase = RandomErasing(p=1, scale=(0.1, 0.4), ratio=(1, 1), value=list(FILL))
    midre: Any = build_defense("midre")
    model: Any = SimpleNamespace(mean=torch.full((3, 1, 1), 0.5), std=torch.full((3, 1, 1), 0.5))
    boxes, expected = [], []
    for number, image in enumerate(images):
        torch.manual_seed(number)
        boxes.append(erase.get_params(normalise(image), (0.1, 0.4), (1, 1), list(FILL))[:4])
        torch.manual_seed(number)
        torch.rand(1)  # whether to erase at all
        expected.append(normalise(image))
        top, left, side, _ = boxes[-1]
        expected[-1][:, top : top + side, left : left + side] = torch.tensor(FILL).view(3, 1, 1)
    top, left, side, _ = torch.tensor(boxes).T
    fill = torch.tensor(FILL).view(1, 3, 1, 1) * model.std + model.mean
    ours = normalise(erase_squares(images, top, left, side, fill))
    assert float((ours - torch.stack(expected)).abs().max()) <= 1e-6

    labels = torch.zeros(len(images), dtype=torch.int64)
    drawn = torch.Generator().manual_seed(3)
    defended = midre.on_batch(Batch(images, labels, labels), model, TrainingProgress(0, 1), drawn).images
    changed = normalise(defended)[(defended != images).all(1, keepdim=True).expand_as(images)]
    released = torch.tensor(FILL)
    assert torch.allclose(changed.view(-1).unique(), released.unique(), atol=1e-6)
