"""Where codes may go: the golden P-space bounds, and what must hold of the alternatives."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from attacks.parts.p_space import (
    BoxConstraint,
    ConstraintEstimator,
    Energy,
    NaiveBox,
    NormalBox,
    PercentileBox,
    PSpaceBox,
    from_p,
    spread,
    to_p,
)
from midre_exp.errors import ConfigError
from tests.golden.fill import golden

GOLDEN = golden("attack_mirror")
SMALL = GOLDEN["p_space_clip"]


def tensor(values) -> Tensor:
    return torch.tensor(values, dtype=torch.float32)


def normal(seed: int, *shape: int) -> Tensor:
    """Codes whose P-space is standard normal."""
    return F.leaky_relu(
        torch.from_numpy(np.random.RandomState(seed).standard_normal(shape).astype(np.float32)), 0.2
    )


def box(bounds: ConstraintEstimator, codes: Tensor) -> BoxConstraint:
    constraint = bounds.estimate(codes)
    assert isinstance(constraint, BoxConstraint)
    return constraint


def test_p_space_is_the_golden_one_and_leads_back():
    codes = tensor(SMALL["samples_w"])
    torch.testing.assert_close(to_p(codes), tensor(SMALL["p_of_samples"]), rtol=0, atol=1e-6)
    torch.testing.assert_close(from_p(to_p(codes)), codes)
    torch.testing.assert_close(spread(codes), tensor(SMALL["p_std_population"])[0], rtol=0, atol=1e-6)


@pytest.mark.parametrize(("size", "case"), [(1.0, SMALL), (0.5, SMALL["factor_0.5"])])
def test_bounds_and_clipped_codes_are_the_golden_ones(size, case):
    constraint = box(PSpaceBox(size=size), tensor(SMALL["samples_w"]))
    torch.testing.assert_close(constraint.low, tensor(case["w_min"])[0], rtol=0, atol=1e-6)
    torch.testing.assert_close(constraint.high, tensor(case["w_max"])[0], rtol=0, atol=1e-6)
    clipped = constraint.clip(tensor(SMALL["input"]))
    torch.testing.assert_close(clipped, tensor(case["output"]), rtol=0, atol=1e-6)
    assert torch.equal(constraint.clip(clipped), clipped)


def test_bounds_of_many_codes_are_the_golden_ones():
    expected = GOLDEN["p_space_clip_large"]
    constraint, wild = box(PSpaceBox(size=1.0), normal(23, 1000, 64)), normal(24, 3, 64)
    wild = from_p(3 * to_p(wild))
    clipped = constraint.clip(wild)
    for found, name in (
        (constraint.low[None], "w_min"),
        (constraint.high[None], "w_max"),
        (clipped, "output"),
    ):
        summary, flat = expected[name], found.double().flatten()
        assert list(found.shape) == summary["shape"]
        assert flat[:8].tolist() == pytest.approx(summary["first"], abs=1e-5)
        assert flat[-4:].tolist() == pytest.approx(summary["last"], abs=1e-5)
        for statistic, value in (("mean", flat.mean()), ("std", flat.std(correction=0)), ("l2", flat.norm())):
            assert value.item() == pytest.approx(summary[statistic], abs=1e-5), statistic
    assert (clipped != wild).double().mean().item() == expected["clipped_fraction"]


def test_codes_scaled_by_the_square_root_of_two_have_bounds_scaled_alike():
    codes = normal(0, 200, 6)
    one, other = (box(PSpaceBox(size=1.0), factor * codes) for factor in (1, 2**0.5))
    torch.testing.assert_close(other.low, 2**0.5 * one.low)
    torch.testing.assert_close(other.high, 2**0.5 * one.high)


@pytest.mark.parametrize("kind", [PSpaceBox, NormalBox])
def test_size_zero_bounds_nothing(kind):
    constraint, wild = kind(size=0).estimate(normal(0, 50, 4)), 100 * torch.randn(5, 4)
    assert torch.equal(constraint.clip(wild), wild)
    assert constraint.energy(wild) is None


def test_the_normal_box_is_made_in_w_itself():
    codes = normal(0, 50, 4)
    constraint = box(NormalBox(size=2.0), codes)
    mean, deviation = codes.numpy().mean(0), codes.numpy().std(0)
    np.testing.assert_allclose(constraint.low, mean - 2 * deviation, rtol=1e-5)
    np.testing.assert_allclose(constraint.high, mean + 2 * deviation, rtol=1e-5)


def test_the_naive_box_ignores_the_codes():
    clipped = NaiveBox(size=0.5).estimate(normal(0, 50, 3)).clip(tensor([[-3, 0.2, 0.6]]))
    assert torch.equal(clipped, tensor([[-0.5, 0.2, 0.5]]))


@pytest.mark.parametrize("percent", [50, 95, 100])
def test_the_percentile_box_holds_the_central_codes(percent):
    codes = normal(0, 101, 4)
    constraint = box(PercentileBox(size=percent), codes)
    for found, share in ((constraint.low, 50 - percent / 2), (constraint.high, 50 + percent / 2)):
        np.testing.assert_allclose(found, np.percentile(codes.numpy(), share, axis=0), rtol=1e-5, atol=1e-7)


def test_energy_is_the_mahalanobis_form_and_clips_nothing():
    codes, wild = normal(0, 60, 4), normal(1, 5, 4)
    constraint = Energy(size=0.1).estimate(codes)
    points = to_p(codes).double().numpy()
    precision = np.linalg.inv(np.cov(points.T, bias=True))
    apart = to_p(wild).double().numpy() - points.mean(0)
    expected = [0.1 * row @ precision @ row for row in apart]
    found = constraint.energy(wild)
    assert found is not None
    assert found.tolist() == pytest.approx(expected, rel=1e-4)
    assert torch.equal(constraint.clip(wild), wild)
    assert torch.equal(constraint.energy(wild[2:3]), found[2:3])


def test_an_energy_of_too_few_codes_is_refused():
    with pytest.raises(ConfigError, match=r"raise attack\.search\.size"):
        Energy(size=1e-4).estimate(normal(0, 4, 4))


@pytest.mark.parametrize(
    ("kind", "size"),
    [
        (PSpaceBox, -1),
        (NormalBox, -0.1),
        (Energy, -1),
        (NaiveBox, 0),
        (PercentileBox, 0),
        (PercentileBox, 101),
    ],
)
def test_sizes_that_cannot_be_are_refused(kind, size):
    with pytest.raises(ConfigError, match=f"attack.bounds.size={size}"):
        kind(size=size)
