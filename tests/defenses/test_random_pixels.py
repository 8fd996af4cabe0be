from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from defenses import MIDRE, TrainingProgress, erase_pixels, sample_squares
from defenses.parts.erasing import Erasing
from defenses.random_pixels import RandomPixels
from midre_exp.errors import ConfigError
from midre_exp.seeding import uniform
from tests.defenses.test_midre import RELEASED, Toy, chi_square, chi_square_limit, random_batch, seeded

CLOCK = TrainingProgress(epoch=0, epochs=1)


def pixels(**changes: Any) -> RandomPixels:
    return RandomPixels(**{**RELEASED, **changes})


def erased_by(defense: Erasing, n: int, seed: int) -> Tensor:
    """Which pixels a defense changes, bool [n, 16, 16]."""
    batch = random_batch(n)
    after = defense.on_batch(batch, Toy(), CLOCK, seeded(seed)).images
    changed = after != batch.images
    assert torch.equal(changed.all(1), changed.any(1))  # in all three channels
    assert bool((after.movedim(1, -1)[changed.all(1)] == after.movedim(1, -1)[changed.all(1)][0]).all())
    return changed.all(1)


def test_as_many_pixels_go_as_midre_would_erase_image_by_image() -> None:
    ours, squares = (erased_by(defense, 64, seed=3) for defense in (pixels(), MIDRE(**RELEASED)))
    assert torch.equal(ours.sum((1, 2)), squares.sum((1, 2)))
    _, _, side = sample_squares(
        torch.rand(3, 64, generator=seeded(3)), 16, 16, a_l=0.1, a_h=0.4, area="uniform", rounding="round"
    )
    assert torch.equal(ours.sum((1, 2)), side * side) and len(set(side.tolist())) > 3
    assert not torch.equal(ours, squares)


def test_every_pixel_goes_equally_often_and_neighbours_independently() -> None:
    n, gone = 4000, 64
    images = torch.zeros(n, 3, 16, 16)
    fill = torch.ones(3)
    erased = erase_pixels(images, torch.full((n,), gone), fill, uniform(seeded(0), n, 256))[:, 0].bool()
    assert torch.equal(erased.sum((1, 2)), torch.full((n,), gone))
    counts = erased.double().sum(0).flatten()
    assert chi_square(counts, torch.full_like(counts, n * gone / 256)) < chi_square_limit(256)
    both = float((erased[:, :, 1:] & erased[:, :, :-1]).double().mean())
    assert both == pytest.approx(gone / 256 * (gone - 1) / 255, abs=2e-3)


def test_none_and_all_of_the_pixels_can_go() -> None:
    images = random_batch(2).images
    after = erase_pixels(images, torch.tensor([0, 256]), torch.ones(3), uniform(seeded(0), 2, 256))
    assert torch.equal(after[0], images[0]) and bool((after[1] == 1).all())


def test_it_repeats_with_the_seed_and_differs_between_images() -> None:
    first, again, other = (erased_by(pixels(), 4, seed) for seed in (0, 0, 1))
    assert torch.equal(first, again) and not torch.equal(first, other) and not torch.equal(first[0], first[1])


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"a_h": 1.2}, r"defense\.random_pixels\.a_h=1\.2 is no share"),
        ({"area": "square"}, r"defense\.random_pixels\.area=square is unknown"),
        ({"a_l": 0.5}, r"defense\.random_pixels\.a_l=0\.5 exceeds defense\.random_pixels\.a_h"),
    ],
)
def test_mistakes_name_its_own_keys(changes: dict[str, Any], named: str) -> None:
    with pytest.raises(ConfigError, match=named):
        pixels(**changes)
    with pytest.raises(ConfigError, match=r"defense\.random_pixels\.a_h=0\.99 asks for a square"):
        erased_by(pixels(a_h=0.99), 1, 0)
