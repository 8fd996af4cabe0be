from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor
from torchvision import transforms
from torchvision.transforms import functional

from midre_exp.data.transforms import ColorJitter, colour
from midre_exp.data.transforms.colour import jitter_colours
from midre_exp.errors import ConfigError
from tests.data.distributions import same_law

ADJUST = (
    functional.adjust_brightness,
    functional.adjust_contrast,
    functional.adjust_saturation,
    functional.adjust_hue,
)
ORDERS = torch.tensor(list(itertools.permutations(range(4))))
STRONG = {"brightness": 0.6, "contrast": 0.5, "saturation": 0.7, "hue": 0.3}


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def pictures(n: int, size: int = 12) -> Tensor:
    """Noise with what is special: black, white, grey, pure colours, and two equal channels."""
    images = torch.rand(n, 3, size, size, generator=seeded(0))
    images[:, :, 0, :8] = torch.tensor(list(itertools.product((0.0, 1.0), repeat=3))).T
    images[:, :, 1] = images[:, :1, 1]
    images[:, 0, 2] = images[:, 1, 2]
    images[:, 1, 3] = images[:, 2, 3]
    images[:, 0, 4] = images[:, 2, 4]
    images[:, :, 5] = (images[:, :, 5] * 255).floor() / 255
    return images


def by_torchvision(images: Tensor, order: Tensor, *factors: Tensor | None) -> Tensor:
    changed = []
    for index, image in enumerate(images):
        for operation in order[index].tolist():
            factor = factors[operation]
            if factor is not None:
                image = ADJUST[operation](image, float(factor[index]))
        changed.append(image)
    return torch.stack(changed)


def factors(n: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    draw = torch.rand(4, n, generator=seeded(1))
    return draw[0] * 2, draw[1] * 2, draw[2] * 2, draw[3] - 0.5


def captured(monkeypatch: pytest.MonkeyPatch, n: int, **strengths) -> tuple[Tensor, ...]:
    """What a ColorJitter draws for ``n`` images: order [n, 4] and four factors [n]."""
    seen: list[Tensor] = []
    monkeypatch.setattr(colour, "jitter_colours", lambda images, *draws: seen.extend(draws) or images)
    ColorJitter(**strengths)(torch.zeros(n, 3, 1, 1), seeded(0))
    return tuple(seen)


def test_all_24_orders_equal_torchvision():
    images, order = pictures(96), ORDERS.repeat(4, 1)
    given = factors(96)
    expected = by_torchvision(images, order, *given)
    assert torch.allclose(jitter_colours(images, order, *given), expected, atol=1e-5, rtol=0)


def test_without_hue_all_orders_equal_torchvision_too():
    images, order = pictures(48), ORDERS.repeat(2, 1)
    given = (*factors(48)[:3], None)
    expected = by_torchvision(images, order, *given)
    assert torch.allclose(jitter_colours(images, order, *given), expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("turn", [-0.5, -0.1, 0.0, 1 / 6, 1 / 3, 0.5])
def test_hue_alone_equals_torchvision(turn):
    images = pictures(4)
    one, hue = torch.ones(4), torch.full((4,), turn)
    expected = functional.adjust_hue(images, turn)
    changed = jitter_colours(images, ORDERS[:4], one, one, one, hue)
    assert torch.allclose(changed, expected, atol=1e-5, rtol=0)
    assert float(changed.min()) >= 0 and float(changed.max()) <= 1


def test_what_is_switched_off_changes_nothing():
    images = pictures(8)
    for off in (ColorJitter(), ColorJitter(brightness=0, contrast=None, saturation=0.0, hue=0)):
        generator = seeded(0)
        assert off(images, generator) is images
        assert torch.equal(generator.get_state(), seeded(0).get_state())
    one = torch.ones(8)
    assert torch.equal(jitter_colours(images, ORDERS[:8], one, one, one, None), images)
    darker = ColorJitter(brightness=0.5)(images, seeded(0))
    ratio = (darker / images)[:, 0, 6:].flatten(1)  # one factor for every pixel, where none is clipped
    dark = ratio.max(1).values < 1
    assert bool(dark.any()) and torch.allclose(ratio[dark], ratio[dark, :1].expand_as(ratio[dark]), atol=1e-5)


def test_factors_are_uniform_in_their_ranges(monkeypatch):
    _, *drawn = captured(monkeypatch, 6000, brightness=0.2, contrast=1.5, saturation=0.1, hue=0.05)
    ranges = [(0.8, 1.2), (0.0, 2.5), (0.9, 1.1), (-0.05, 0.05)]
    for factor, (low, high) in zip(drawn, ranges, strict=True):
        assert low <= float(factor.min()) and float(factor.max()) <= high
        same_law(factor, torch.linspace(low, high, 6000))
    together = torch.corrcoef(torch.stack(list(drawn))) - torch.eye(4)
    assert float(together.abs().max()) < 0.05  # four standard deviations


def test_orders_are_equally_frequent_and_independent_of_the_factors(monkeypatch):
    order, brightness, *_ = captured(monkeypatch, 7200, **STRONG)
    code = order @ torch.tensor([64, 16, 4, 1])
    wanted = ORDERS @ torch.tensor([64, 16, 4, 1])
    counts = (code[:, None] == wanted).sum(0)
    assert int(counts.sum()) == 7200
    chi2 = float(((counts - 300.0) ** 2 / 300).sum())
    assert chi2 < 49.7  # passed by 999 of 1000 uniform samples, 23 degrees of freedom
    first = order[:, 0] == 0
    same_law(brightness[first], brightness[~first])


@pytest.mark.parametrize(
    "strengths", [STRONG, {"brightness": 0.2, "contrast": 0.2, "saturation": 0.1, "hue": 0.1}]
)
def test_colours_follow_the_law_of_torchvision(strengths):
    image = torch.tensor([0.9, 0.3, 0.1]).view(3, 1, 1) * (
        0.4 + 0.6 * torch.rand(3, 3, 3, generator=seeded(2))
    )
    n = 3000
    ours = ColorJitter(**strengths)(image.expand(n, -1, -1, -1), seeded(0))
    torch.manual_seed(0)
    theirs = torch.stack([transforms.ColorJitter(**strengths)(image) for _ in range(n)])
    same_law(ours.mean((1, 2, 3)), theirs.mean((1, 2, 3)))
    same_law(ours.amax((1, 2, 3)), theirs.amax((1, 2, 3)))
    same_law(ours.std((1, 2, 3)), theirs.std((1, 2, 3)))
    for channel in range(3):
        same_law(ours[:, channel].mean((1, 2)), theirs[:, channel].mean((1, 2)))
        same_law(ours[:, channel, 0, 0], theirs[:, channel, 0, 0])
    same_law(
        ours[:, 0].mean((1, 2)) - ours[:, 2].mean((1, 2)),
        theirs[:, 0].mean((1, 2)) - theirs[:, 2].mean((1, 2)),
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"brightness": -0.1}, "brightness=-0.1 is no strength; give a number from 0 on"),
        ({"contrast": "much"}, "contrast=much"),
        ({"saturation": float("nan")}, "saturation=nan"),
        ({"hue": 0.6}, "hue=0.6 is no strength; give a number from 0 to 0.5"),
    ],
)
def test_strengths_that_cannot_work_are_refused(options, message):
    with pytest.raises(ConfigError, match=message):
        ColorJitter(**options)
