from __future__ import annotations

import pytest
import torch

from midre_exp.data.augment import HorizontalFlip, RandomShift
from midre_exp.data.steps import CenterCrop, Resize
from midre_exp.errors import ConfigError


def batch(n: int = 400) -> torch.Tensor:
    return torch.rand(n, 3, 8, 6, generator=torch.Generator().manual_seed(0))


def test_flips_are_exact_and_happen_with_the_given_probability():
    images = batch()
    flipped = HorizontalFlip(p=0.3)(images, torch.Generator().manual_seed(1))
    same = (flipped == images).flatten(1).all(1)
    mirrored = (flipped == images.flip(-1)).flatten(1).all(1)
    assert bool((same ^ mirrored).all())
    assert 0.22 < float(mirrored.float().mean()) < 0.38
    assert torch.equal(HorizontalFlip(p=0.0)(images, torch.Generator()), images)
    assert torch.equal(HorizontalFlip(p=1.0)(images, torch.Generator()), images.flip(-1))


def test_shifts_move_whole_pixels_and_repeat_the_edge():
    images = batch(50)
    shifted = RandomShift(pixels=2)(images, torch.Generator().manual_seed(0))
    padded = torch.nn.functional.pad(images, (2, 2, 2, 2), mode="replicate")
    windows = torch.stack([padded[:, :, y : y + 8, x : x + 6] for y in range(5) for x in range(5)])
    found = (windows == shifted).flatten(2).all(2)
    assert bool((found.sum(0) >= 1).all())
    assert len(found.float().argmax(0).unique()) > 5  # images move independently


def test_steps_crop_the_centre_and_leave_the_right_size_alone():
    images = batch(2)
    assert torch.equal(CenterCrop(size=4)(images), images[..., 2:6, 1:5])
    square = images[..., :6, :6]
    assert Resize(size=6)(square) is square
    assert Resize(size=3)(images).shape == (2, 3, 3, 3)
    assert torch.allclose(Resize(size=4)(torch.full((1, 3, 9, 9), 0.3)), torch.tensor(0.3))


def test_values_that_cannot_work_are_refused():
    with pytest.raises(ConfigError, match="p=-1"):
        HorizontalFlip(p=-1)
    with pytest.raises(ConfigError, match="pixels=-2"):
        RandomShift(pixels=-2)
    with pytest.raises(ConfigError, match="size=9 exceeds the image of 8x6"):
        CenterCrop(size=9)(batch(1))
