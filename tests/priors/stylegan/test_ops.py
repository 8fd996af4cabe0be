"""The operations of StyleGAN2-ADA against the official ones; inputs are drawn as the golden file says."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from midre_exp.errors import ConfigError
from midre_exp.priors.stylegan.layers import FullyConnectedLayer
from midre_exp.priors.stylegan.ops import (
    bias_act,
    conv2d_resample,
    downsample2d,
    filter2d,
    fir_filter,
    modulated_conv2d,
    normalize_2nd_moment,
    upfirdn2d,
    upsample2d,
)
from tests.golden.fill import golden

GOLDEN = golden("stylegan2_ops")
FIR = fir_filter([1, 3, 3, 1])


def draw(recipe: dict[str, Any]) -> Tensor:
    values = np.random.RandomState(recipe["seed"]).standard_normal(recipe["shape"]).astype(np.float32)
    return torch.from_numpy(values) * recipe.get("scale", 1)


def check(found: Tensor, case: dict[str, Any]) -> None:
    expected = torch.tensor(case["out"])
    shape = case.get("shape")
    if shape:
        assert list(found.shape) == shape
    torch.testing.assert_close(found.flatten(), expected, rtol=0, atol=1e-5)


X = draw(GOLDEN["upfirdn2d"]["input"])


def test_the_filter_is_the_normalised_outer_product_of_its_taps():
    expected = GOLDEN["setup_filter_1331"]
    torch.testing.assert_close(FIR, torch.tensor(expected["values"]).reshape(expected["shape"]))
    assert fir_filter(None).tolist() == [[1.0]]


def test_a_long_filter_stays_a_vector_and_acts_as_its_outer_product():
    vector = fir_filter([1, 2, 3, 4, 4, 3, 2, 1])
    assert vector.shape == (8,)
    apart = upfirdn2d(X, vector, padding=(4, 3, 4, 3))
    torch.testing.assert_close(apart, upfirdn2d(X, torch.outer(vector, vector), padding=(4, 3, 4, 3)))


@pytest.mark.parametrize("name", GOLDEN["upfirdn2d"]["cases"])
def test_resampling_equals_the_official_one(name):
    case = GOLDEN["upfirdn2d"]["cases"][name]
    shortcut = {"upsample2d": upsample2d, "downsample2d": downsample2d, "filter2d": filter2d}.get(name)
    kernel = fir_filter(case["filter"])
    check(shortcut(X, kernel) if shortcut else upfirdn2d(X, kernel, **case["args"]), case)


@pytest.mark.parametrize("name", GOLDEN["bias_act"]["cases"])
def test_biased_activation_equals_the_official_one(name):
    case = GOLDEN["bias_act"]["cases"][name]
    check(bias_act(X, torch.tensor(GOLDEN["bias_act"]["bias"]), **case["args"]), case)


def test_an_unknown_activation_is_refused_with_the_known_ones():
    with pytest.raises(ConfigError, match=r"activation 'gelu' is unknown; use one of linear, .*lrelu"):
        bias_act(X, act="gelu")


@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("name", GOLDEN["modulated_conv2d"]["cases"])
def test_modulated_convolution_equals_the_official_one_in_both_forms(name, fused):
    spec = GOLDEN["modulated_conv2d"]
    up = 2 if name.startswith("up2") else 1
    noise = draw(spec["noise_up" if up == 2 else "noise"]) if name.endswith("noise") else None
    found = modulated_conv2d(
        draw(spec["input"]),
        draw(spec["weight"]),
        draw(spec["styles"]),
        noise=noise,
        up=up,
        kernel=FIR,
        demodulate=name != "no_demodulation",
        fused=fused,
    )
    check(found, spec["cases"][name])


def test_half_precision_does_not_overflow_where_float32_would_be_fine():
    spec = GOLDEN["modulated_conv2d"]
    x, weight, styles = draw(spec["input"]), draw(spec["weight"]), draw(spec["styles"]) * 1e5
    expected = modulated_conv2d(x, weight, styles, kernel=FIR)
    for fused in (False, True):
        found = modulated_conv2d(x.half(), weight, styles, kernel=FIR, fused=fused)
        assert found.dtype == torch.float16
        torch.testing.assert_close(found.float(), expected, rtol=0, atol=1e-2)


def test_halving_convolution_equals_the_official_one():
    spec = GOLDEN["modulated_conv2d"]
    found = conv2d_resample(draw(spec["input"])[:1], draw(spec["weight"]), down=2, kernel=FIR)
    check(found, GOLDEN["conv_down2"])


def test_normalisation_equals_the_official_one():
    check(
        normalize_2nd_moment(draw(GOLDEN["normalize_2nd_moment"])),
        {"out": GOLDEN["normalize_2nd_moment"]["out"]},
    )


def test_slowed_fully_connected_layer_equals_the_official_one():
    spec = GOLDEN["fully_connected_lrmul"]
    layer = FullyConnectedLayer(5, 4, activation="lrelu", lr_multiplier=spec["lr_multiplier"])
    layer.load_state_dict({"weight": draw(spec["weight"]), "bias": draw(spec["bias"])})
    check(layer(draw(GOLDEN["normalize_2nd_moment"])), {"out": spec["out"]})


def test_second_derivatives_exist():
    x = torch.randn(1, 2, 4, 4, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(2, 2, 3, 3, dtype=torch.float64)
    styles = torch.randn(1, 2, dtype=torch.float64, requires_grad=True)

    def up(x: Tensor, styles: Tensor) -> Tensor:
        return modulated_conv2d(x, weight, styles, up=2, kernel=FIR)

    assert torch.autograd.gradgradcheck(up, (x, styles))
