from __future__ import annotations

import json
import math
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from defenses import MIDRE, Batch, TrainingProgress
from defenses.nls import NLS, scheduled_alpha, smoothed_cross_entropy
from midre_exp.errors import ConfigError
from midre_exp.targets.base import Output

GOLDEN = json.loads((Path(__file__).parents[1] / "golden" / "defense_nls.json").read_text())
LOGITS = torch.tensor(GOLDEN["logits"], dtype=torch.float64)
LABELS = torch.tensor(GOLDEN["labels"])
FRACTIONS = {"start": 0.5, "full": 0.75}
END = TrainingProgress(epoch=99, epochs=100)


def nls(**changes: Any) -> NLS:
    return NLS(**{"alpha": -0.05, "schedule": "official", **FRACTIONS, **changes})


def batch(labels: Tensor = LABELS, soft_labels: Tensor | None = None) -> Batch:
    n = len(labels)
    return Batch(torch.zeros(n, 3, 2, 2), labels, torch.arange(n), soft_labels)


def output(logits: Tensor = LOGITS) -> Output:
    return Output(logits, torch.zeros(len(logits), 1))


def schedule(alpha: float, epochs: int, kind: str, start: float = 0.5, full: float = 0.75) -> list[float]:
    return [
        scheduled_alpha(alpha, TrainingProgress(epoch, epochs), schedule=kind, start=start, full=full)
        for epoch in range(epochs)
    ]


# -- the loss --


@pytest.mark.parametrize("case", GOLDEN["cases"], ids=lambda case: f"alpha {case['alpha']}")
def test_loss_and_gradient_are_the_golden_ones(case: dict[str, Any]) -> None:
    logits = LOGITS.clone().requires_grad_()
    losses = smoothed_cross_entropy(logits, LABELS, case["alpha"])
    losses.mean().backward()
    losses = losses.detach()
    assert losses.tolist() == pytest.approx(case["per_sample"], rel=1e-8)
    assert float(losses.mean()) == pytest.approx(case["loss"], rel=1e-8)
    assert float(losses.mean()) == pytest.approx(case["framework_cross_entropy_with_soft_targets"], rel=1e-8)
    assert logits.grad is not None
    torch.testing.assert_close(logits.grad, torch.tensor(case["grad_logits"]).double(), rtol=1e-6, atol=1e-8)
    single = smoothed_cross_entropy(LOGITS.float(), LABELS, case["alpha"]).mean()
    assert float(single) == pytest.approx(case["loss"], rel=1e-5)
    released = case["framework_cross_entropy_with_label_smoothing_alpha_and_integer_labels"]
    if case["alpha"] < 0:  # the built-in loss forgets a negative factor
        assert abs(float(losses.mean()) - released) > 1e-3
    else:
        assert float(losses.mean()) == pytest.approx(released, rel=1e-8)


@pytest.mark.parametrize("alpha", [-1.0, -0.05, 0.1, 1.0])
def test_one_hot_and_mixed_targets_take_the_same_formula(alpha: float) -> None:
    one_hot = F.one_hot(LABELS, 5).double()
    by_index = smoothed_cross_entropy(LOGITS, LABELS, alpha)
    torch.testing.assert_close(smoothed_cross_entropy(LOGITS, one_hot, alpha), by_index)
    mixed = 0.7 * one_hot + 0.3 * one_hot.roll(1, 0)
    expected = F.cross_entropy(LOGITS, (1 - alpha) * mixed + alpha / 5, reduction="none")
    torch.testing.assert_close(smoothed_cross_entropy(LOGITS, mixed, alpha), expected)


def test_a_confident_row_has_the_golden_negative_loss() -> None:
    example = GOLDEN["unbounded_example"]
    loss = smoothed_cross_entropy(
        torch.tensor(example["logits"]), torch.tensor([example["label"]]), example["alpha"]
    )
    assert float(loss) == pytest.approx(example["loss"], rel=1e-6)


def test_spreading_over_the_wrong_classes_is_another_alpha() -> None:
    other = GOLDEN["other_convention"]
    loss = smoothed_cross_entropy(LOGITS, LABELS, other["alpha"] * 5 / 4).mean()
    assert float(loss) == pytest.approx(other["loss_if_spread_over_K_minus_1"], rel=1e-8)


def test_half_precision_logits_give_a_single_precision_loss() -> None:
    loss = smoothed_cross_entropy(LOGITS.bfloat16(), LABELS, -0.05)
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, smoothed_cross_entropy(LOGITS.bfloat16().float(), LABELS, -0.05))


# -- the schedule --


def test_the_released_schedule_holds_in_all_of_100_epochs() -> None:
    # The released rule with its absolute epochs 50 and 75.
    released = [0.0] * 50 + [-0.05 * (epoch + 1 - 50) / 50 for epoch in range(50, 75)] + [-0.05] * 25
    factors = schedule(-0.05, 100, "official")
    assert factors == pytest.approx(released, abs=1e-15)
    for epoch, alpha in GOLDEN["released_schedule_alpha_-0.05_100_epochs"].items():
        assert factors[int(epoch)] == pytest.approx(alpha, abs=1e-15)


def test_short_trainings_reach_full_strength_as_well() -> None:
    assert schedule(-1.0, 4, "official") == [0, 0, -0.5, -1]
    assert schedule(-1.0, 8, "official") == [0, 0, 0, 0, -0.25, -0.5, -1, -1]
    assert schedule(-1.0, 18, "official")[-1] == -1
    assert schedule(-1.0, 20, "official", start=0.55)[10:12] == pytest.approx([0, -1 / 9])


def test_linear_reaches_alpha_at_full_without_a_jump() -> None:
    factors = schedule(-1.0, 100, "linear")
    assert factors[49:51] == pytest.approx([0, -1 / 26])
    assert factors[75:] == [-1.0] * 25
    steps = [b - a for a, b in pairwise(factors[49:76])]
    assert steps == pytest.approx([-1 / 26] * 26)


def test_constant_and_positive_factors_do_not_wait() -> None:
    assert schedule(-0.05, 6, "constant") == [-0.05] * 6
    for kind in ("official", "linear", "constant"):
        assert schedule(0.1, 6, kind) == [0.1] * 6


# -- the defense --


def test_the_base_loss_differs_from_cross_entropy_once_the_factor_is_negative() -> None:
    plain = float(F.cross_entropy(LOGITS, LABELS))
    loss = nls().base_loss(output(), batch(), END)
    assert loss is not None and float(loss) == pytest.approx(plain + 0.004725, abs=1e-9)


def test_without_a_factor_the_loss_is_left_to_cross_entropy() -> None:
    assert nls().base_loss(output(), batch(), TrainingProgress(epoch=49, epochs=100)) is None
    for kind in ("official", "linear", "constant"):
        assert nls(alpha=0.0, schedule=kind).base_loss(output(), batch(), END) is None


def test_soft_labels_and_a_wider_auxiliary_head_are_smoothed_over_their_own_classes() -> None:
    wide = torch.cat([LOGITS, LOGITS[:, :2] - 1], 1)
    loss = nls().base_loss(output(wide), batch(), END)
    assert loss is not None
    target = 1.05 * F.one_hot(LABELS, 7).double() - 0.05 / 7
    torch.testing.assert_close(loss, F.cross_entropy(wide, target))
    soft = F.one_hot(LABELS, 7).double() * 0.6 + F.one_hot((LABELS + 1) % 5, 7) * 0.4
    loss = nls().base_loss(output(wide), batch(soft_labels=soft), END)
    assert loss is not None
    torch.testing.assert_close(loss, F.cross_entropy(wide, 1.05 * soft - 0.05 / 7))


def test_training_under_it_and_erasing_reaches_the_negative_factor(tiny_training: Any) -> None:
    midre = MIDRE(a_l=0.1, a_h=0.4, area="uniform", rounding="round", fill=[0, 0, 0], fill_space="pixel")
    _, _, plain = tiny_training.train("plain", midre=midre)
    _, numbers, history = tiny_training.train("nls", midre=midre, nls=nls(alpha=-0.5))
    assert math.isfinite(numbers["acc"])
    # Of three epochs the first two are plain, the third is at full strength.
    assert [a["loss"] == b["loss"] for a, b in zip(history, plain, strict=True)] == [True, True, False]
    assert tiny_training.train("null", midre=midre, nls=nls(alpha=0.0))[2] == plain


def test_labels_tell_the_sign() -> None:
    assert [nls(alpha=alpha).label for alpha in (-0.05, 0.1)] == ["NLS -0.05", "LS 0.1"]


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"alpha": 1.1}, "defense.nls.alpha=1.1"),
        ({"alpha": float("nan")}, "alpha=nan"),
        ({"alpha": float("-inf")}, "alpha=-inf"),
        ({"alpha": "small"}, "alpha=small"),
        (
            {"schedule": "cosine"},
            "defense.nls.schedule=cosine is unknown; use one of official, linear, constant",
        ),
        ({"start": -0.1}, "defense.nls.start=-0.1"),
        ({"full": 50}, "defense.nls.full=50"),
        ({"start": 0.8}, "defense.nls.start=0.8 exceeds defense.nls.full=0.75"),
    ],
)
def test_values_out_of_range_are_refused_by_name(changes: dict[str, Any], named: str) -> None:
    with pytest.raises(ConfigError) as error:
        nls(**changes)
    assert named in str(error.value)
