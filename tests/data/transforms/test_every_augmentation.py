"""What holds for every augmentation: a new one adds a line to the list. And what flips and shifts do."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode

from midre_exp.data.transforms import ColorJitter, HorizontalFlip, RandomResizedCrop, RandomShift, base
from midre_exp.errors import ConfigError
from tests.devices import never_waiting

AUGMENTATIONS = [
    HorizontalFlip(p=0.5),
    RandomShift(pixels=2),
    RandomResizedCrop(size=None, scale=(0.3, 1.0)),
    RandomResizedCrop(size=5),
    ColorJitter(brightness=0.4, contrast=0.4, saturation=0.4, hue=0.2),
    ColorJitter(brightness=0.4, contrast=0.4),
]


def batch(n: int = 400, height: int = 8, width: int = 6) -> Tensor:
    return torch.rand(n, 3, height, width, generator=torch.Generator().manual_seed(0))


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("augment", AUGMENTATIONS, ids=lambda augment: type(augment).__name__)
def test_the_generator_alone_decides_and_every_image_draws_for_itself(augment):
    images = batch(1, 24, 24).expand(60, -1, -1, -1)
    before = images.clone()
    torch.manual_seed(1)
    once = augment(images, seeded(3))
    torch.manual_seed(2)
    assert torch.equal(augment(images, seeded(3)), once)
    assert not torch.equal(augment(images, seeded(4)), once)
    assert torch.equal(images, before)
    assert once.dtype == torch.float32 and float(once.min()) >= 0 and float(once.max()) <= 1
    kinds = len(once.flatten(1).unique(dim=0))
    assert kinds == 2 if isinstance(augment, HorizontalFlip) else kinds > 8


@pytest.mark.parametrize("augment", AUGMENTATIONS, ids=lambda augment: type(augment).__name__)
def test_how_many_images_are_worked_on_together_changes_nothing(augment, monkeypatch):
    images = batch(50)
    together = augment(images, seeded(0))
    monkeypatch.setattr(base, "_CHUNK_PIXELS", 7 * 48)
    assert torch.allclose(augment(images, seeded(0)), together, atol=1e-6)


@pytest.mark.parametrize("augment", AUGMENTATIONS, ids=lambda augment: type(augment).__name__)
def test_the_host_never_asks_for_a_value(augment):
    with FakeTensorMode():  # a tensor without values: a question for one is an error
        assert augment(torch.rand(9, 3, 8, 6), torch.Generator()).shape[:2] == (9, 3)
        with pytest.raises(DataDependentOutputException):
            torch.rand(1).item()


def test_flips_are_exact_and_happen_with_the_given_probability():
    images = batch()
    flipped = HorizontalFlip(p=0.3)(images, seeded(1))
    same = (flipped == images).flatten(1).all(1)
    mirrored = (flipped == images.flip(-1)).flatten(1).all(1)
    assert bool((same ^ mirrored).all())
    assert 0.22 < float(mirrored.float().mean()) < 0.38
    assert torch.equal(HorizontalFlip(p=0.0)(images, torch.Generator()), images)
    assert torch.equal(HorizontalFlip(p=1.0)(images, torch.Generator()), images.flip(-1))


def test_shifts_move_whole_pixels_and_repeat_the_edge():
    images = batch(50)
    shifted = RandomShift(pixels=2)(images, seeded(0))
    padded = torch.nn.functional.pad(images, (2, 2, 2, 2), mode="replicate")
    windows = torch.stack([padded[:, :, y : y + 8, x : x + 6] for y in range(5) for x in range(5)])
    found = (windows == shifted).flatten(2).all(2)
    assert bool((found.sum(0) >= 1).all())
    assert len(found.float().argmax(0).unique()) > 5  # images move independently


def test_values_that_cannot_work_are_refused():
    with pytest.raises(ConfigError, match="p=-1"):
        HorizontalFlip(p=-1)
    with pytest.raises(ConfigError, match="pixels=-2"):
        RandomShift(pixels=-2)


@pytest.mark.gpu
@pytest.mark.parametrize("augment", AUGMENTATIONS, ids=lambda augment: type(augment).__name__)
def test_on_a_gpu_nothing_waits_and_the_range_holds(augment):
    images, generator = batch(50).cuda(), torch.Generator().manual_seed(0)
    with never_waiting():
        changed = augment(images, generator)
    assert changed.device == images.device and float(changed.min()) >= 0 and float(changed.max()) <= 1
