from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torchvision import transforms
from torchvision.transforms import functional

from midre_exp.data.transforms import RandomResizedCrop
from midre_exp.data.transforms.random_crop import resized_crop, sample_boxes
from midre_exp.errors import ConfigError
from tests.data.distributions import same_law


def batch(n: int = 400, height: int = 8, width: int = 6) -> Tensor:
    return torch.rand(n, 3, height, width, generator=torch.Generator().manual_seed(0))


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def boxes(n: int, height: int, width: int, seed: int = 0, *, scale=(0.2, 1.0), ratio=(0.5, 2.0)):
    return sample_boxes(n, height, width, scale=scale, ratio=ratio, generator=seeded(seed))


def torchvision_boxes(n: int, height: int, width: int, *, scale, ratio) -> list[Tensor]:
    torch.manual_seed(0)
    image = torch.empty(3, height, width)
    draws = [transforms.RandomResizedCrop.get_params(image, list(scale), list(ratio)) for _ in range(n)]
    return list(torch.tensor(draws).T)


@pytest.mark.parametrize(
    ("shape", "size"),
    [
        ((32, 32), (32, 32)),
        ((37, 50), (37, 50)),
        ((20, 30), (64, 41)),  # enlarges
        ((90, 70), (16, 23)),  # shrinks: antialiased
        ((40, 60), (80, 11)),  # shrinks one side alone
        ((224, 224), (224, 224)),
    ],
)
def test_a_crop_equals_torchvision_given_the_same_boxes(shape, size):
    images, drawn = batch(12, *shape), boxes(12, *shape)
    expected = [
        functional.resized_crop(image, *map(int, box), size=list(size), antialias=True)
        for image, *box in zip(images, *drawn, strict=True)
    ]
    assert torch.allclose(resized_crop(images, *drawn, size=size), torch.stack(expected), atol=1e-5, rtol=0)


def test_pixels_outside_the_box_have_no_influence():
    images, drawn = batch(30, 20, 20), boxes(30, 20, 20)
    outside = torch.full_like(images, 7.0)
    for image, other, top, left, height, width in zip(images, outside, *drawn, strict=True):
        inside = (slice(None), slice(top, top + height), slice(left, left + width))
        other[inside] = image[inside]
    cut = resized_crop(images, *drawn, size=(24, 9))
    assert torch.equal(resized_crop(outside, *drawn, size=(24, 9)), cut)


def test_the_whole_image_at_its_own_size_comes_back_as_it_is():
    images = batch(3, 9, 7)
    whole = RandomResizedCrop(size=None, scale=(1.0, 1.0), ratio=(7 / 9, 7 / 9))
    assert torch.allclose(whole(images, seeded(0)), images, atol=1e-6)
    assert RandomResizedCrop(size=5)(images, seeded(0)).shape == (3, 3, 5, 5)


@pytest.mark.parametrize(
    ("shape", "law"),
    [
        ((224, 224), {"scale": (0.85, 1.0), "ratio": (1.0, 1.0)}),  # the released recipe
        ((60, 90), {"scale": (0.5, 1.0), "ratio": (0.5, 2.0)}),  # many pairs do not fit
        ((50, 50), {"scale": (0.95, 1.0), "ratio": (0.4, 1.2)}),  # many images need the fallback
    ],
)
def test_boxes_follow_the_law_of_torchvision(shape, law):
    ours, theirs = boxes(6000, *shape, **law), torchvision_boxes(6000, *shape, **law)
    for mine, other in zip(ours, theirs, strict=True):  # top, left, height, width
        same_law(mine, other)
    (top, left, height, width), (their_top, their_left, their_height, their_width) = ours, theirs
    same_law(top + left, their_top + their_left)  # sums: the marginals could agree and the joint law not
    same_law(height + width, their_height + their_width)
    same_law(top + height, their_top + their_height)
    same_law(left - width, their_left - their_width)
    assert bool((top >= 0).all() and (left >= 0).all())
    assert bool((top + height <= shape[0]).all() and (left + width <= shape[1]).all())


@pytest.mark.parametrize(
    ("shape", "ratio"),
    [((20, 20), (2.0, 2.0)), ((20, 20), (0.3, 0.4)), ((31, 10), (0.9, 1.1)), ((9, 31), (1, 2))],
)
def test_where_no_draw_fits_the_largest_central_box_is_taken(shape, ratio):
    theirs = torchvision_boxes(1, *shape, scale=(1.0, 1.0), ratio=ratio)
    for mine, other in zip(boxes(5, *shape, scale=(1.0, 1.0), ratio=ratio), theirs, strict=True):
        assert mine.tolist() == other.tolist() * 5


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"size": 0}, "size=0 must be"),
        ({"size": 2.5}, "size=2.5 must be"),
        ({"size": 8, "scale": (0.0, 1.0)}, "scale=.* at most 1"),
        ({"size": 8, "scale": (0.9, 0.8)}, "the smaller first"),
        ({"size": 8, "scale": (0.5, 1.5)}, "at most 1"),
        ({"size": 8, "scale": 0.5}, "scale=0.5 is no range"),
        ({"size": 8, "ratio": (1.0, float("inf"))}, "ratio="),
        ({"size": 8, "ratio": ("1", 2)}, "ratio="),
    ],
)
def test_crops_that_cannot_work_are_refused(options, message):
    with pytest.raises(ConfigError, match=message):
        RandomResizedCrop(**options)
