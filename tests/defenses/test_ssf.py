from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from defenses.ssf import SSF
from midre_exp.errors import ConfigError
from midre_exp.targets import build_target
from tests.golden.fill import fill, golden, golden_images

RESNET, DENSENET = golden("defense_ssf"), golden("defense_ssf_densenet121")


def ssf(k: float) -> SSF:
    return SSF(k=k, stages=None)


def check(logits: Tensor, case: dict[str, Any]) -> None:
    """Every number of a golden case, within the golden file's tolerance."""
    for number in (0, 1):
        expected = torch.tensor(case[f"logits_sample{number}_first8"])
        torch.testing.assert_close(logits[number, :8], expected, rtol=1e-4, atol=1e-4)
    statistics = {"mean": logits.mean(), "std_unbiased": logits.std(), "norm": logits.norm()}
    for name, value in statistics.items():
        assert float(value) == pytest.approx(case[name], rel=1e-4, abs=1e-4), name
    assert logits.argmax(1).tolist() == case["argmax"]


@pytest.mark.parametrize("case", RESNET["cases"], ids=lambda case: f"k {case['k']}")
def test_the_resnet_answers_the_golden_logits(case: dict[str, Any]) -> None:
    model = build_target("resnet18", num_classes=1000, mean=0.0, std=1.0)
    ssf(case["k"]).modify_backbone(model)
    with torch.no_grad():
        check(fill(model)(golden_images(64)).logits, case)


@pytest.mark.parametrize("case", DENSENET["cases"], ids=lambda case: f"k {case['k']}")
def test_the_densenet_answers_the_golden_logits(case: dict[str, Any]) -> None:
    model = build_target("densenet121", num_classes=530, mean=0.0, std=1.0)
    ssf(case["k"]).modify_backbone(model)
    assert sum(p.numel() for p in model.parameters()) == case["n_parameters"]
    shapes = {key: value.shape for key, value in model.state_dict().items()}
    for layer in (2, 16):
        channels = case[f"denseblock4_layer{layer}_norm1_channels"]
        assert shapes[f"features.denseblock4.denselayer{layer}.norm1.weight"] == (channels,)
    assert shapes["features.norm5.weight"] == (case["norm5_channels"],)
    assert shapes["classifier.weight"] == (530, case["classifier_in"])
    with torch.no_grad():
        check(fill(model)(golden_images(64)).logits, case)


@pytest.mark.parametrize(
    ("k", "named"),
    [(1.5, "ssf.k=1.5 must be a number from 0 to 1"), ("half", "ssf.k=half"), (-0.1, "ssf.k=-0.1")],
)
def test_values_out_of_range_are_refused_by_name(k: Any, named: str) -> None:
    with pytest.raises(ConfigError, match=f"defense.{named}"):
        ssf(k)
