from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from torch import Tensor

from defenses import compose
from defenses.ssf import SSF
from midre_exp.errors import ConfigError
from midre_exp.plan.config import build
from midre_exp.targets import build_target
from tests.defenses.conftest import Seen
from tests.defenses.networks import IMAGES, network, state, train
from tests.golden.fill import fill, golden, golden_images

CONF = Path(__file__).parents[2] / "conf"
RESNET, DENSENET = golden("defense_ssf"), golden("defense_ssf_densenet121")
NODE = yaml.safe_load((CONF / "defense" / "ssf.yaml").read_text())["ssf"]


def ssf(k: float | None = None, target: str = "resnet18") -> SSF:
    defense: SSF = build({**NODE, "target": target, "k": k})
    return defense


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
    ssf(case["k"], "densenet121").modify_backbone(model)
    assert sum(p.numel() for p in model.parameters()) == case["n_parameters"]
    shapes = {key: value.shape for key, value in model.state_dict().items()}
    for layer in (2, 16):
        channels = case[f"denseblock4_layer{layer}_norm1_channels"]
        assert shapes[f"features.denseblock4.denselayer{layer}.norm1.weight"] == (channels,)
    assert shapes["features.norm5.weight"] == (case["norm5_channels"],)
    assert shapes["classifier.weight"] == (530, case["classifier_in"])
    with torch.no_grad():
        check(fill(model)(golden_images(64)).logits, case)


@pytest.mark.parametrize("name", ["resnet18", "densenet121"])
def test_k_1_trains_to_the_weights_of_no_defense(name: str, tmp_path: Path) -> None:
    plain, *_ = train(tmp_path / "plain", name, {"epochs": 1})
    ours, *_ = train(tmp_path / "ours", name, {"epochs": 1}, ssf=ssf(1.0, name))
    other, *_ = train(tmp_path / "other", name, {"epochs": 1}, ssf=ssf(0.5, name))
    assert torch.equal(state(plain), state(ours))
    assert state(plain).shape != state(other).shape or not torch.equal(state(plain), state(other))


@pytest.mark.parametrize("name", ["resnet18", "densenet121"])
def test_an_interrupted_training_resumes_and_its_weights_reload_to_identical_logits(
    name: str, tmp_path: Path
) -> None:
    defense = ssf(0.3, name)
    whole, _, history = train(tmp_path / "whole", name, ssf=defense)
    with pytest.raises(RuntimeError, match="killed"):
        train(tmp_path / "broken", name, ssf=defense, seen=Seen(killed_at=2))
    resumed, _, again = train(tmp_path / "broken", name, ssf=defense)
    assert torch.equal(state(whole), state(resumed)) and history == again
    reloaded = network(name, seed=9, ssf=ssf(0.3, name))
    reloaded.load_state_dict(whole.state_dict(), strict=True)
    compose(ssf=defense).on_inference(reloaded)
    with torch.no_grad():
        assert torch.equal(reloaded.eval()(IMAGES).logits, whole(IMAGES).logits)


def test_every_target_with_skip_connections_has_a_factor(tiny: Any) -> None:
    targets = {path.stem for path in (CONF / "target").glob("*.yaml")}
    assert targets - set(NODE["k_by_target"]) == {"vgg16", "inception_v3"}
    assert ssf(target="densenet169").k == 0.01 and ssf().k == 0.2
    assert ssf().label == "SSF 0.2"
    assert tiny("defense=ssf")["defense"]["ssf"]["target"] == "resnet18"


@pytest.mark.parametrize(
    ("k", "target", "named"),
    [
        (None, "vgg16", "defense.ssf.k_by_target has no entry for vgg16"),
        (1.5, "resnet18", "defense.ssf.k=1.5 must be a number from 0 to 1"),
        ("half", "resnet18", "defense.ssf.k=half"),
    ],
)
def test_values_out_of_range_are_refused_by_name(k: Any, target: str, named: str) -> None:
    with pytest.raises(ConfigError) as error:
        ssf(k, target)
    assert named in str(error.value)
