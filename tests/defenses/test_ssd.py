"""SSD: the answer against an independent solution and the conditions of an optimum, its draws, its traps."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from defenses import SSD, class_law, class_means, compose, water_filled
from defenses.ssd import COPIES, Nudged, drawn_classes, entropy
from midre_exp.errors import ConfigError
from midre_exp.seeding import hashed

K = 6


def ssd(**changes: Any) -> SSD:
    return SSD(**{"eps": 0.5, "temperature": 0.1, "seed": "image", **changes})


def distributions(n: int, seed: int, power: float = 3.0) -> Tensor:
    drawn = torch.rand(n, K, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)) ** power
    return drawn / drawn.sum(1, keepdim=True)


def pictures(n: int, seed: int = 0) -> Tensor:
    drawn = torch.randint(0, 256, (n, 3, 4, 4), generator=torch.Generator().manual_seed(seed))
    return drawn.float() / 255


def deployed(key: str = "0123456789abcdef", **changes: Any) -> SSD:
    defense = ssd(**changes)
    held_out = distributions(60, seed=5)
    defense.deploy(
        defense.calibrate(
            held_out, torch.zeros(60, 3, 4, 4, dtype=torch.uint8), torch.arange(60) % K, key=key
        ),
        key=key,
    )
    return defense


def level(f: Tensor, q: Tensor, amount: float, *, up: bool) -> float:
    """The factor at which raising (or lowering) f to it times q takes ``amount``, by bisection."""
    low, high = (0.0, 1.0) if up else (1.0, float((f / q).max()))
    for _ in range(200):
        middle = (low + high) / 2
        taken = (middle * q - f if up else f - middle * q).clamp_min(0).sum()
        low, high = (middle, high) if (float(taken) < amount) == up else (low, middle)
    return (low + high) / 2


def test_the_answer_is_that_of_a_bisection_and_spends_its_budget() -> None:
    f, q = distributions(40, seed=0), distributions(40, seed=1, power=1.5)
    f[0], f[1, 2] = 0.0, 0.0
    f[0, 3] = 1.0
    f[1] /= f[1].sum()
    budget = torch.linspace(0.05, 0.9, 40, dtype=torch.float64)
    found = water_filled(f, q, budget)
    assert torch.allclose(found.sum(1), torch.ones(40, dtype=torch.float64), atol=1e-12, rtol=0)
    reach = (q - f).abs().sum(1)
    torch.testing.assert_close((found - f).abs().sum(1), budget.minimum(reach), atol=1e-12, rtol=0)
    clipped = [row for row in range(40) if reach[row] > budget[row]]
    assert 5 < len(clipped) < 40
    for row in range(40):
        expected = q[row]
        if row in clipped:
            half = float(budget[row]) / 2
            ends = [level(f[row], q[row], half, up=up) for up in (True, False)]
            expected = f[row].maximum(ends[0] * q[row]).minimum(ends[1] * q[row])
        torch.testing.assert_close(found[row], expected, atol=1e-12, rtol=0)


def test_no_allowed_distribution_is_nearer_to_the_class() -> None:
    f, q = distributions(1, seed=2), distributions(1, seed=3, power=1.5)
    budget = 0.5 * (q - f).abs().sum(1)
    p = water_filled(f, q, budget)
    slope = (p / q).log() + 1  # of KL(p || q), which is convex
    others = torch.cat([distributions(4000, seed=4, power=power) for power in (0.5, 3.0, 9.0)])
    share = (budget / (others - f).abs().sum(1)).clamp_max(1)[:, None]
    allowed = f + share * (others - f)
    assert bool(((allowed - f).abs().sum(1) <= budget + 1e-12).all())
    assert float(((allowed - p) * slope).sum(1).min()) > -1e-12


def test_a_budget_that_reaches_as_far_answers_the_class_and_none_the_network() -> None:
    f, q = distributions(3, seed=2), distributions(3, seed=3)
    assert torch.equal(water_filled(f, q, torch.full((3,), 2.0, dtype=torch.float64)), q)
    assert torch.equal(water_filled(f, q, torch.zeros(3, dtype=torch.float64)), f)
    given = f.float()
    assert ssd(eps=0).answer(given, pictures(3)) is given
    assert ssd(eps=0).calibrate(given, pictures(3), torch.arange(3), key="k") == {}


def test_a_zero_of_the_class_or_the_answer_is_no_trouble() -> None:
    f, q = torch.eye(3, dtype=torch.float64), torch.tensor([[0.5, 0.5, 0.0]], dtype=torch.float64)
    assert bool(water_filled(f, q.expand(3, 3), torch.full((3,), 0.2, dtype=torch.float64)).isfinite().all())
    certain = torch.zeros(2, K)
    certain[:, 1] = 1  # a softmax in single precision, of a gap above 104
    assert entropy(certain.double()).tolist() == [0, 0]
    assert torch.equal(deployed().answer(certain, pictures(2)), certain)


def test_what_is_no_number_stays_none_and_spoils_nothing_else() -> None:
    given = distributions(4, seed=0).float()
    broken = given.clone()
    broken[2, 0] = torch.nan
    defense, shown = deployed(), pictures(4)
    found, whole = defense.answer(broken, shown), defense.answer(given, shown)
    assert bool(found[2].isnan().any()) and torch.equal(found[[0, 1, 3]], whole[[0, 1, 3]])


def test_the_entropy_is_in_nats_and_both_halves_share_the_budget() -> None:
    f = torch.tensor([[0.5, 0.25, 0.25]], dtype=torch.float64)
    assert float(entropy(f)) == pytest.approx(1.5 * math.log(2))
    q = torch.tensor([[0.0, 0.5, 0.5]], dtype=torch.float64)
    found = water_filled(f, q, torch.tensor([0.2], dtype=torch.float64))
    torch.testing.assert_close(found, torch.tensor([[0.4, 0.3, 0.3]], dtype=torch.float64))


def test_a_certain_answer_draws_another_class_as_often_as_the_law_says() -> None:
    certain = torch.zeros(1, 50, dtype=torch.float64)
    certain[0, 7] = 1
    law = class_law(certain, 0.1)
    assert float(1 - law[0, 7]) == pytest.approx(49 * math.exp(-10) / (1 + 49 * math.exp(-10)))
    numbers = torch.linspace(0, 1, 1001, dtype=torch.float64)[:-1]
    skewed = class_law(torch.tensor([[0.2, 0.5, 0.3]], dtype=torch.float64), 0.5)
    drawn = drawn_classes(skewed.expand(1000, 3), numbers)
    torch.testing.assert_close(drawn.bincount() / 1000, skewed[0].float(), atol=1e-3, rtol=0)
    assert int(drawn_classes(law, torch.ones(1, dtype=torch.float64))) == 49  # whatever rounding left over


def test_class_means_are_of_all_images_of_a_class() -> None:
    rows = torch.tensor([[0.9, 0.1], [0.3, 0.7], [0.4, 0.6]])
    found = class_means(rows, torch.tensor([0, 1, 0]))
    torch.testing.assert_close(found, torch.tensor([[0.65, 0.35], [0.3, 0.7]], dtype=torch.float64))
    with pytest.raises(ConfigError, match="class 1 has none; use data with"):
        class_means(rows, torch.tensor([0, 0, 0]))


def test_an_image_is_answered_alike_in_any_company_and_by_another_target_otherwise() -> None:
    given, shown, defense = distributions(300, seed=0, power=1.0).float(), pictures(300), deployed()
    whole = defense.answer(given, shown)
    order = torch.randperm(300, generator=torch.Generator().manual_seed(0))
    for rows in (order[:7], order[7:]):
        assert torch.equal(defense.answer(given[rows], shown[rows]), whole[rows])
    assert torch.equal(defense.answer(given, shown + 1e-3), whole)  # the same picture in 8 bits
    other = deployed(key="fedcba9876543210").answer(given, shown)
    assert bool((other != whole).any(1).float().mean() > 0.3)
    nudged = defense.answer(given, Nudged(1)(shown))
    assert bool((nudged != whole).any(1).float().mean() > 0.3)


def test_numbers_of_pictures_are_uniform() -> None:
    drawn = hashed(torch.randint(0, 256, (4000, 13), dtype=torch.uint8), "test").sort().values
    even = torch.arange(1, 4001, dtype=torch.float64) / 4000
    assert float((drawn - even).abs().max()) < 1.63 / 4000**0.5  # Kolmogorov-Smirnov, 1 %
    black = torch.zeros(256, 8, dtype=torch.uint8)
    black[:, 3] = torch.arange(256)
    assert len(hashed(black, "test").unique()) == 256
    assert not torch.equal(hashed(black, "test"), hashed(black, "another"))


def test_drawn_anew_the_same_picture_is_answered_otherwise_and_an_alarm_says_so() -> None:
    given, shown = distributions(50, seed=0, power=1.0).float(), pictures(50)
    defense = deployed(seed="call")
    assert not torch.equal(defense.answer(given, shown), defense.answer(given, shown))
    assert torch.equal(deployed(seed="call").answer(given, shown), deployed(seed="call").answer(given, shown))
    (sentence,) = defense.answer_alarms()
    assert "defense.ssd.seed=call" in sentence and not deployed().answer_alarms()


def test_how_often_only_the_class_is_answered() -> None:
    given, shown = distributions(200, seed=0, power=1.0).float(), pictures(200)
    defense = deployed(eps=0.3)
    means = defense.calibrate(
        distributions(60, seed=5), torch.zeros(60, 3, 4, 4), torch.arange(60) % K, key=""
    )["class_means"]
    answered = defense.answer(given, shown)
    alone = (answered[:, None] - means.float()).abs().amax(2).amin(1) < 1e-7
    assert 0 < int(alone.sum()) < 200
    assert defense.measure_answers(given, shown)["replaced"] == pytest.approx(
        100 * float(alone.float().mean())
    )


def test_copies_that_an_informed_attacker_asks_are_the_image_and_neighbours() -> None:
    shown = pictures(2)
    copies = [Nudged(copy)(shown) for copy in range(COPIES)]
    assert copies[0] is shown
    for copy, one in enumerate(copies[1:], 1):
        assert float((one - shown).abs().max()) == pytest.approx(1 / 255, abs=1e-6)
        assert torch.equal(one[1:], Nudged(copy)(shown[1:])) and not torch.equal(one, copies[copy - 1])


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"eps": -1}, r"defense\.ssd\.eps=-1 must"),
        ({"temperature": 0}, r"defense\.ssd\.temperature=0 must be above 0"),
        ({"seed": "day"}, r"defense\.ssd\.seed=day is unknown; use one of image, call"),
    ],
)
def test_values_that_cannot_be_used_are_named(changes: dict[str, Any], named: str) -> None:
    with pytest.raises(ConfigError, match=named):
        ssd(**changes)


def test_before_it_is_deployed_it_does_not_answer() -> None:
    with pytest.raises(RuntimeError, match="calibrated and deployed"):
        compose(ssd=ssd()).answer(distributions(2, seed=0), pictures(2))
