from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch.nn import functional as F

from defenses import Batch, ConfidenceAdaptation, TrainingProgress, adapted_loss
from defenses.confidence_adaptation import DistanceToCeiling, NearnessToCeiling, ceiling
from midre_exp.errors import ConfigError
from midre_exp.targets.base import Output

LOGITS = torch.randn(6, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * 3
LABELS = torch.tensor([0, 1, 2, 3, 0, 1])


def adaptation(**changes: Any) -> ConfidenceAdaptation:
    return ConfidenceAdaptation(**{"alpha": 0.25, "gamma": 8.0, "share": 0.1, **changes})


def two_logits(p: float) -> torch.Tensor:
    """Logits of two classes of which the first has probability ``p``."""
    return torch.tensor([[math.log(p / (1 - p)), 0.0]], dtype=torch.float64)


@pytest.mark.parametrize("gamma", [2.0, 4.0, 8.0])
def test_the_loss_is_the_formula_for_classes_and_for_mixtures(gamma: float) -> None:
    p = LOGITS.softmax(1)
    expected = [
        -0.25 * float(row[label]) ** gamma * -math.log(float(row[label]))
        for row, label in zip(p, LABELS, strict=True)
    ]
    found = adapted_loss(LOGITS, LABELS, alpha=0.25, gamma=gamma)
    assert found.tolist() == pytest.approx(expected, rel=1e-12)
    weights = F.one_hot(LABELS, 4).double()
    torch.testing.assert_close(adapted_loss(LOGITS, weights, alpha=0.25, gamma=gamma), found)
    far = torch.tensor([[-1e4, 1e4]], requires_grad=True)  # half precision's range and beyond
    loss = adapted_loss(far, torch.tensor([0]), alpha=0.25, gamma=gamma).sum()
    assert float(loss.detach()) == 0 and torch.autograd.grad(loss, far)[0].isfinite().all()


@pytest.mark.parametrize(("gamma", "known"), [(8.0, 0.882), (4.0, 0.779)])
def test_it_is_least_at_the_ceiling_and_descends_to_it_from_both_sides(gamma: float, known: float) -> None:
    top = ceiling(gamma)
    assert top == pytest.approx(known, abs=1e-3)

    def loss_and_slope(p: float) -> tuple[float, float]:
        logits = two_logits(p).requires_grad_()
        loss = adapted_loss(logits, torch.tensor([0]), alpha=0.25, gamma=gamma).sum()
        return float(loss.detach()), float(torch.autograd.grad(loss, logits)[0][0, 0])

    assert loss_and_slope(top)[0] == pytest.approx(-0.25 / (gamma * math.e))
    assert loss_and_slope(top)[1] == pytest.approx(0, abs=1e-12)
    assert loss_and_slope(top - 0.05)[1] < 0 < loss_and_slope(top + 0.05)[1]
    logits = two_logits(0.99).requires_grad_()  # as after a training with cross entropy
    optimizer = torch.optim.SGD([logits], lr=5.0)
    for _ in range(500):
        optimizer.zero_grad()
        adapted_loss(logits, torch.tensor([0]), alpha=0.25, gamma=gamma).sum().backward()
        optimizer.step()
    assert float(logits.detach().softmax(1)[0, 0]) == pytest.approx(top, abs=1e-3)


@pytest.mark.parametrize(
    ("share", "epochs", "own"), [(0.1, 18, 2), (0.1, 3, 1), (0.0, 18, 0), (1.0, 4, 4), (0.5, 44, 22)]
)
def test_it_acts_in_the_last_epochs_alone(share: float, epochs: int, own: int) -> None:
    defense, batch = adaptation(share=share), Batch(torch.zeros(6, 3, 2, 2), LABELS, torch.arange(6))
    output = Output(LOGITS, torch.zeros(6, 1))
    losses = [defense.base_loss(output, batch, TrainingProgress(epoch, epochs)) for epoch in range(epochs)]
    assert [loss is not None for loss in losses] == [False] * (epochs - own) + [True] * own
    for loss in losses[epochs - own :]:
        assert loss is not None
        torch.testing.assert_close(loss, adapted_loss(LOGITS, LABELS, alpha=0.25, gamma=8.0).mean())


def test_an_informed_attacker_aims_at_the_ceiling() -> None:
    loss, score = DistanceToCeiling(8.0), NearnessToCeiling(8.0)
    at, above, below = (two_logits(p) for p in (ceiling(8.0), 0.99, 0.5))
    zero = torch.tensor([0])
    assert float(loss(at, zero)) == pytest.approx(0, abs=1e-12)
    assert float(loss(below, zero)) == pytest.approx(math.log(2) - 1 / 8)  # cross entropy, moved
    assert float(loss(above, zero)) > 0
    best = torch.cat([score(one) for one in (above, at, below)])[:, 0].argmax()
    assert int(best) == 1
    torch.testing.assert_close(loss(LOGITS, LABELS), -score(LOGITS).gather(1, LABELS[:, None])[:, 0])


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"gamma": 0}, r"defense\.confidence_adaptation\.gamma=0 must be a number above 0"),
        ({"alpha": -1}, r"defense\.confidence_adaptation\.alpha=-1 must be a number above 0"),
        ({"share": 2}, r"defense\.confidence_adaptation\.share=2 is no share of the epochs"),
    ],
)
def test_mistakes_name_the_key(changes: dict[str, Any], named: str) -> None:
    with pytest.raises(ConfigError, match=named):
        adaptation(**changes)
