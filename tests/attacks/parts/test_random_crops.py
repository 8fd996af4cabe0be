"""Random boxes of the attacks on high-resolution targets, against torchvision and against a loop."""

from __future__ import annotations

import math

import pytest
import torch
from torchvision.transforms.functional import resized_crop

from attacks.parts.random_crops import RandomCrop, shared_crop
from midre_exp.data.transforms.random_crop import NUMBERS, boxes, random_crop
from midre_exp.errors import ConfigError
from midre_exp.seeding import ItemRNG

SCALE, RATIO = (0.3, 1.0), (0.6, 1.6)


def numbers(n: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(n, NUMBERS, generator=torch.Generator().manual_seed(seed))


def pictures(n: int = 3, height: int = 40, width: int = 52) -> torch.Tensor:
    return torch.rand(n, 3, height, width, generator=torch.Generator().manual_seed(1))


def rng(n: int) -> ItemRNG:
    return ItemRNG(0, "attack", items=torch.arange(n))


@pytest.mark.parametrize("size", [None, 16, 64])
def test_every_image_is_what_torchvision_cuts_out_and_resizes(size):
    images, drawn = pictures(20), numbers(20)
    found = random_crop(images, drawn, scale=SCALE, ratio=RATIO, size=size, flip_p=0.5)
    places = torch.stack(boxes(drawn, 40, 52, scale=SCALE, ratio=RATIO), 1).int().tolist()
    shape = [size or 40, size or 52]
    expected = torch.cat(
        [
            resized_crop(image[None], *box, shape, antialias=True)
            for image, box in zip(images, places, strict=True)
        ]
    )
    mirrored = drawn[:, -1] < 0.5
    assert 0 < mirrored.sum() < 20
    expected[mirrored] = expected[mirrored].flip(-1)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)


def test_the_law_of_the_boxes_is_torchvisions():
    drawn = numbers(200)
    found = torch.stack(boxes(drawn, 40, 52, scale=SCALE, ratio=RATIO), 1).int().tolist()
    for row, box in zip(drawn.double().tolist(), found, strict=True):
        for share, slant in zip(row[:10], row[10:20], strict=True):
            area = 40 * 52 * (SCALE[0] + (SCALE[1] - SCALE[0]) * share)
            aspect = math.exp(math.log(RATIO[0]) + math.log(RATIO[1] / RATIO[0]) * slant)
            width, height = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
            if 0 < width <= 52 and 0 < height <= 40:
                corner = int(row[20] * (40 - height + 1)), int(row[21] * (52 - width + 1))
                assert box == [*corner, height, width]
                break
    assert len({tuple(box) for box in found}) > 190


def test_where_no_try_fits_the_largest_central_box_counts():
    found = boxes(numbers(5), 20, 100, scale=(0.9, 1.0), ratio=(0.5, 2.0))
    assert torch.stack(found, 1).tolist() == [[0, 30, 20, 40]] * 5


def test_the_whole_image_is_left_as_it_is_bit_for_bit():
    images = pictures(height=40, width=40)
    assert torch.equal(random_crop(images, numbers(1), scale=(1, 1), ratio=(1, 1)), images)
    flipped = random_crop(images, numbers(1), scale=(1, 1), ratio=(1, 1), flip_p=1)
    assert torch.equal(flipped, images.flip(-1))


def test_one_row_of_numbers_is_one_box_for_all_images():
    images, row = pictures(), numbers(2)[1]
    together = shared_crop(images, row, SCALE, RATIO, 16)
    each = random_crop(images, row.expand(3, -1), scale=SCALE, ratio=RATIO, size=16)
    torch.testing.assert_close(together, each, rtol=0, atol=1e-6)
    torch.testing.assert_close(shared_crop(images[2:], row, SCALE, RATIO, 16), together[2:])


def test_gradients_reach_the_box_and_nothing_else():
    images = pictures(2).requires_grad_()
    drawn = numbers(2)
    random_crop(images, drawn, scale=SCALE, ratio=RATIO, size=16).sum().backward()
    places = torch.stack(boxes(drawn, 40, 52, scale=SCALE, ratio=RATIO), 1).int().tolist()
    for gradient, (top, left, height, width) in zip(images.grad, places, strict=True):
        inside = torch.zeros(40, 52, dtype=torch.bool)
        inside[top : top + height, left : left + width] = True
        assert (gradient[:, ~inside] == 0).all()
        assert (gradient[:, inside] > 0).all()


def test_shared_is_one_draw_per_step_for_all_and_not_shared_one_for_each():
    crop = {"scale": SCALE, "ratio": RATIO, "size": 16}
    images = pictures(1).expand(3, -1, -1, -1)
    shared_rng = rng(1)
    together = RandomCrop(**crop)(images, rng(3), shared_rng, "crop", 0)
    assert torch.equal(together[0], together[2])
    assert not torch.equal(RandomCrop(**crop)(images, rng(3), shared_rng, "crop", 1), together)
    own = RandomCrop(**crop, shared=False)
    each = own(images, rng(3), shared_rng, "crop", 0)
    assert not torch.equal(each[0], each[2])
    torch.testing.assert_close(own(images[2:], rng(3)[2:], shared_rng, "crop", 0), each[2:])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"scale": [0.5, 1.2]}, "RandomCrop scale=.0.5, 1.2. is no range; .* at most 1"),
        ({"scale": [0, 1]}, "scale"),
        ({"ratio": [2, 1]}, "RandomCrop ratio=.2, 1. is no range"),
        ({"flip_p": 2}, "flip_p=2 must lie in"),
        ({"size": 0}, "size=0 must be a positive number"),
    ],
)
def test_impossible_settings_are_refused_by_name(change, message):
    with pytest.raises(ConfigError, match=message):
        RandomCrop(**{"scale": SCALE, "ratio": RATIO, **change})
