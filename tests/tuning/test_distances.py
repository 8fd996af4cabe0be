"""Distances between sets of features, against loops written out and numbers worked by hand."""

from __future__ import annotations

import math

import pytest
import torch

from midre_exp.tuning.distances import conditional_transport, mean_discrepancy, pointwise


@pytest.fixture
def sets():
    draws = torch.Generator().manual_seed(0)
    return tuple(torch.randn(n, 4, generator=draws, dtype=torch.float64) for n in (3, 5))


def slow_transport(s, t):
    """The sum of the paper, pair by pair."""

    def cost(a, b):
        return 1 - float(a @ b) / math.sqrt(float(a @ a) * float(b @ b))

    def carried(starts, ends):
        total = 0.0
        for start in starts:
            weights = [math.exp(float(start @ end)) for end in ends]
            total += sum(w * cost(start, end) for w, end in zip(weights, ends, strict=True)) / sum(weights)
        return total / len(starts)

    return 0.5 * carried(s, t) + 0.5 * carried(t, s)


def slow_discrepancy(s, t):
    both = [*s, *t]
    squares = [[float((a - b).square().sum()) for b in both] for a in both]
    count = len(both)
    mean = sum(map(sum, squares)) / (count * count - count)

    def kernel(rows, columns):
        values = [
            sum(math.exp(-squares[i][j] / (mean / 4 * 2**k)) for k in range(5)) for i in rows for j in columns
        ]
        return sum(values) / len(values)

    own, other = range(len(s)), range(len(s), count)
    return kernel(own, own) + kernel(other, other) - 2 * kernel(own, other)


def test_they_are_their_formulas_pair_by_pair(sets):
    s, t = sets
    assert float(conditional_transport(s, t)) == pytest.approx(slow_transport(s, t), abs=1e-12)
    assert float(mean_discrepancy(s, t)) == pytest.approx(slow_discrepancy(s, t), abs=1e-12)


def test_two_points_by_hand():
    s, t = torch.tensor([[1.0, 0.0]]).double(), torch.tensor([[0.0, 2.0]]).double()
    assert pointwise(s, t).tolist() == [5.0]
    assert float(conditional_transport(s, t)) == 1.0  # at right angles, and nowhere else to go
    # D = 5 is the mean of the two pairs that are no point with itself, so the widths are 5/4, 5/2, ... 20
    kernel = sum(math.exp(-x) for x in (4, 2, 1, 0.5, 0.25))
    assert float(mean_discrepancy(s, t)) == pytest.approx(2 * 5 - 2 * kernel, abs=1e-12)


def test_equal_sets_are_not_apart(sets):
    s, _ = sets
    assert float(mean_discrepancy(s, s)) == pytest.approx(0, abs=1e-12)
    assert float(mean_discrepancy(s, s[[2, 0, 1]])) == pytest.approx(0, abs=1e-12)
    assert pointwise(s, s).tolist() == [0, 0, 0]
    alike = torch.ones(2, 3)
    assert float(mean_discrepancy(alike, alike)) == 0  # all in one place


def test_leading_dimensions_are_problems_of_their_own(sets):
    s, t = sets
    several = torch.stack((s, 2 * s)), torch.stack((t, t - 1))
    for distance in (conditional_transport, mean_discrepancy):
        found = distance(*several)
        each = [distance(s, t), distance(2 * s, t - 1)]
        torch.testing.assert_close(found, torch.stack(each), rtol=0, atol=1e-12)


def test_the_width_of_kernels_is_no_variable(sets):
    s, t = sets[0].clone().requires_grad_(), sets[1]
    (gradient,) = torch.autograd.grad(mean_discrepancy(s, t), s)
    both = torch.cat((s.detach(), t))
    mean = (both[:, None] - both).square().sum() / (8 * 8 - 8)

    def fixed(s):
        both = torch.cat((s, t))
        squares = (both[:, None] - both).square().sum(-1)
        kernels = sum((-squares / (mean / 4 * 2**k)).exp() for k in range(5))
        return kernels[:3, :3].mean() + kernels[3:, 3:].mean() - 2 * kernels[:3, 3:].mean()

    other = s.detach().clone().requires_grad_()
    (expected,) = torch.autograd.grad(fixed(other), other)
    torch.testing.assert_close(gradient, expected, rtol=0, atol=1e-12)
