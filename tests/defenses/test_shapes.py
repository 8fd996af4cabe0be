"""MIDRE's share of every image in other shapes than a square: the same dose, and each shape's own rule."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms import RandomErasing

from defenses import MIDRE, Blocks, Disc, GridMask, RandomPixels, Rectangle, TrainingProgress, grid_squares
from defenses.blocks import hidden_patches
from defenses.disc import discs
from defenses.parts.erasing import Erasing
from defenses.rectangle import rectangle_sides
from midre_exp.errors import ConfigError
from tests.defenses.test_midre import RELEASED, Toy, chi_square, chi_square_limit, random_batch, seeded

CLOCK = TrainingProgress(epoch=0, epochs=1)
SHAPES: dict[str, tuple[type[Erasing], dict[str, Any]]] = {
    "midre": (MIDRE, {}),
    "random_pixels": (RandomPixels, {}),
    "rectangle": (Rectangle, {"ratio": [0.3, 3.3]}),
    "disc": (Disc, {}),
    "blocks": (Blocks, {"patch": [0.125, 0.25]}),
    "gridmask": (GridMask, {"period": [0.25, 0.5], "degrees": 360}),
    "gridmask, not turned": (GridMask, {"period": [0.25, 0.5], "degrees": 1}),
}


def shaped(name: str, **changes: Any) -> Erasing:
    kind, options = SHAPES[name]
    return kind(**{**RELEASED, **options, **changes})


def erased_by(defense: Erasing, n: int, size: int = 32, seed: int = 0) -> Tensor:
    """Which pixels of black images a defense changes, bool [n, size, size]."""
    batch = random_batch(1, size)
    black = type(batch)(torch.zeros(n, 3, size, size), torch.zeros(n).long(), torch.arange(n))
    after = defense.on_batch(black, Toy(), CLOCK, seeded(seed))
    changed = after.images != 0
    assert torch.equal(changed.all(1), changed.any(1))  # in all three channels
    assert after.erased is not None and torch.equal(after.erased[:, 0], changed.all(1))  # as it tells others
    return changed.all(1)


# -- the dose --


@pytest.mark.parametrize(("a_l", "a_h"), [(0.1, 0.4), (0.1, 0.7)])
@pytest.mark.parametrize("name", SHAPES)
def test_the_mean_share_of_many_draws_is_that_of_the_law(name: str, a_l: float, a_h: float) -> None:
    share = erased_by(shaped(name, a_l=a_l, a_h=a_h), 10_000, size=16).float().mean()
    assert 100 * float(share) == pytest.approx(100 * (a_l + a_h) / 2, abs=0.5)


@pytest.mark.parametrize("area", ["uniform", "joint_rejection"])
@pytest.mark.parametrize("name", [name for name in SHAPES if name != "midre"])
def test_each_image_gets_the_dose_midre_would_give_it(name: str, area: str) -> None:
    shares, squares = (
        erased_by(shaped(which, area=area), 2000).float().mean((1, 2)) for which in (name, "midre")
    )
    assert 100 * float(shares.mean()) == pytest.approx(100 * float(squares.mean()), abs=0.5)
    off = float((shares - squares).abs().max())
    limit = {"random_pixels": 0.0, "disc": 0.02, "rectangle": 0.05}  # rounded sides, pixels on the edge
    assert off <= limit.get(name, 1.0)
    assert float(torch.corrcoef(torch.stack([shares, squares]))[0, 1]) > 0.6


@pytest.mark.parametrize("name", SHAPES)
def test_no_share_erases_nothing_and_draws_repeat_with_the_seed(name: str) -> None:
    squares, ours = (erased_by(shaped(which, a_l=0.0, a_h=0.005), 200) for which in ("midre", name))
    none = ~squares.any((1, 2))  # of a side below half a pixel
    assert none.any() and not none.all() and not ours[none].any()
    first, again, other = (erased_by(shaped(name), 4, seed=seed) for seed in (0, 0, 1))
    assert torch.equal(first, again) and not torch.equal(first, other) and not torch.equal(first[0], first[1])


# -- the rectangle --


def test_rectangles_have_the_sides_of_torchvision_and_fit() -> None:
    size, n = (32, 32), 20_000
    share = 0.2
    area = torch.full((n,), round(share * 1024))
    tall, wide = rectangle_sides(area, torch.rand(n, generator=seeded(0)), size, (0.3, 3.3))
    reference = RandomErasing(p=1.0, scale=(205 / 1024, 205 / 1024), ratio=(0.3, 3.3))
    torch.manual_seed(0)
    image = torch.zeros(3, *size)
    theirs = [reference.get_params(image, reference.scale, reference.ratio, [0.0])[2:4] for _ in range(4000)]
    pairs = set(zip(tall.tolist(), wide.tolist(), strict=True))
    assert set(theirs) <= pairs
    assert float(tall.double().mean()) == pytest.approx(float(np.mean([h for h, _ in theirs])), abs=0.25)


@pytest.mark.parametrize("share", [0.4, 0.8, 0.93])
def test_large_rectangles_are_smaller_than_the_image_and_none_is_left_out(share: float) -> None:
    area = torch.full((5000,), round(share * 20 * 30))
    tall, wide = rectangle_sides(area, torch.rand(5000, generator=seeded(0)), (20, 30), (0.3, 3.3))
    assert int(tall.max()) <= 19 and int(wide.max()) <= 29
    assert float((tall * wide).double().mean() / area[0]) == pytest.approx(1, abs=0.02)


def test_rectangles_lie_everywhere_and_go_both_ways() -> None:
    erased = erased_by(shaped("rectangle"), 4000, size=16)
    often = erased.float().mean(0)
    torch.testing.assert_close(often, often.flip(0), atol=0.05, rtol=0)
    torch.testing.assert_close(often, often.T, atol=0.05, rtol=0)
    tall, wide = erased.any(2).sum(1), erased.any(1).sum(1)
    assert torch.equal(erased.sum((1, 2)), tall * wide)  # full
    upright = float((tall > wide).float().mean())
    assert upright == pytest.approx(float((tall < wide).float().mean()), abs=0.05) and upright > 0.3


# -- the disc --


def test_a_disc_covers_the_pixels_whose_centres_lie_in_it() -> None:
    found = discs((4, 5), torch.tensor([2.0]), torch.tensor([2.5]), torch.tensor([1.6]))[0, 0]
    expected = [
        [(row + 0.5 - 2) ** 2 + (column + 0.5 - 2.5) ** 2 <= 1.6**2 for column in range(5)]
        for row in range(4)
    ]
    assert found.tolist() == expected
    assert found.int().tolist() == [[0, 0, 1, 0, 0], [0, 1, 1, 1, 0], [0, 1, 1, 1, 0], [0, 0, 1, 0, 0]]


def test_discs_lie_in_the_image_and_their_corners_stay() -> None:
    erased = erased_by(shaped("disc", a_l=0.4), 200)
    radius = math.sqrt(erased.sum((1, 2)).double().mean() / math.pi)
    assert int(erased.any(2).sum(1).max()) <= math.ceil(2 * radius) + 1
    assert not erased[:, 0, 0].any()


def test_a_disc_that_does_not_fit_is_refused_with_the_largest_that_does() -> None:
    with pytest.raises(
        ConfigError, match=r"defense\.disc\.a_h=0\.8 asks for a disc wider than 32x32 .* at most 0\.78$"
    ):
        erased_by(shaped("disc", a_h=0.8), 1)
    assert 0.7 < float(erased_by(shaped("disc", a_l=0.78, a_h=0.78), 50).float().mean()) < 0.79


# -- blocks --


def test_patches_are_hidden_up_to_the_probability_and_the_last_are_cut() -> None:
    numbers = torch.tensor([[0.3, 0.9, 0.31, 0.1, 0.30001, 0.2, 0.0, 0.0]])
    found = hidden_patches((4, 5), torch.tensor([2]), numbers, torch.tensor([0.3]))[0, 0].int()
    assert found.tolist() == [[1, 1, 0, 0, 0], [1, 1, 0, 0, 0], [1, 1, 0, 0, 1], [1, 1, 0, 0, 1]]


def test_every_patch_size_is_drawn_and_patches_are_whole() -> None:
    erased = erased_by(shaped("blocks", patch=[0.25, 0.5]), 400)
    of_16 = erased.view(400, 2, 16, 2, 16).float().mean((2, 4))
    wide = ((of_16 == 0) | (of_16 == 1)).all((1, 2))
    assert 0.4 < float(wide.float().mean()) < 0.7  # those of 16 pixels, and a few of 8 by chance
    of_8 = erased.view(400, 4, 8, 4, 8).float().mean((2, 4))
    assert bool(((of_8 == 0) | (of_8 == 1)).all())


# -- GridMask --


def pillow(size: tuple[int, int], d: int, stripe: int, down: int, right: int, degrees: int) -> np.ndarray:
    """The squares between stripes by loops, turned by Pillow."""
    canvas = math.ceil(math.hypot(*size))
    squares = np.ones((canvas, canvas), np.uint8)
    for at in range(canvas):
        if (at - down) % d < stripe:
            squares[at] = 0
        if (at - right) % d < stripe:
            squares[:, at] = 0
    turned = np.asarray(Image.fromarray(squares).rotate(degrees))
    top, left = ((canvas - length) // 2 for length in size)
    return turned[top : top + size[0], left : left + size[1]].astype(bool)


@pytest.mark.parametrize("size", [(16, 16), (32, 32), (15, 20), (33, 33)])
def test_turned_grids_are_those_of_pillow_to_the_pixel(size: tuple[int, int]) -> None:
    rng = np.random.default_rng(0)
    degrees = [0, 1, 30, 45, 60, 89, 90, 135, 180, 270, 359, *rng.integers(0, 360, 30).tolist()]
    n = len(degrees)
    period, ratio = rng.integers(4, 16, n), rng.uniform(0.2, 0.8, n)
    down, right = rng.integers(0, period), rng.integers(0, period)
    found = grid_squares(
        size, *map(torch.from_numpy, (period, period * ratio, down, right)), torch.tensor(degrees)
    )
    for i in range(n):
        stripe = math.ceil(period[i] * ratio[i])
        expected = pillow(size, period[i], stripe, down[i], right[i], degrees[i])
        np.testing.assert_array_equal(found[i, 0].numpy(), expected, err_msg=str(degrees[i]))


def test_a_grid_hides_every_pixel_as_often_and_in_squares() -> None:
    n = 4000
    defense = shaped("gridmask", a_l=0.25, a_h=0.25, period=[0.5, 0.5])
    counts = erased_by(defense, n, size=16).double().sum(0).flatten()
    expected = torch.full_like(counts, n * 0.25)
    assert chi_square(counts, expected) / 0.75 < chi_square_limit(256) * 1.1
    still = erased_by(shaped("gridmask", a_l=0.25, a_h=0.25, period=[0.5, 0.5], degrees=1), 50, size=16)
    assert torch.equal(still[:, :8, :8], still[:, 8:, 8:])  # a period of 8
    assert int(still.sum((1, 2)).min()) == 4 * 16  # four squares of four pixels, half of the period


# -- what is refused --


@pytest.mark.parametrize(
    ("name", "changes", "named"),
    [
        ("rectangle", {"ratio": [3.3, 0.3]}, r"defense\.rectangle\.ratio=.* is no range"),
        ("rectangle", {"a_h": 1.2}, r"defense\.rectangle\.a_h=1\.2 is no share"),
        ("blocks", {"patch": []}, r"defense\.blocks\.patch=\[\] is no list of sides"),
        ("blocks", {"patch": [0.7]}, r"defense\.blocks\.patch=\[0\.7\] is no list of sides"),
        ("gridmask", {"period": [0.5, 0.2]}, r"defense\.gridmask\.period=.* is no range of shares"),
        ("gridmask", {"degrees": 0}, r"defense\.gridmask\.degrees=0 must be a whole number"),
    ],
)
def test_mistakes_name_the_key(name: str, changes: dict[str, Any], named: str) -> None:
    with pytest.raises(ConfigError, match=named):
        shaped(name, **changes)
