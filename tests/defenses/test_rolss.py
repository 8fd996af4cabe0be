from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from defenses import compose
from defenses.parts.skip_connections import Shortcut
from defenses.rolss import RoLSS
from defenses.ssf import SSF
from defenses.tts import TTS
from midre_exp.errors import ConfigError
from midre_exp.plan.config import build
from tests.defenses.conftest import Seen
from tests.defenses.networks import IMAGES, NETWORKS, network, state, train

CONF = Path(__file__).parents[2] / "conf"
NODE = yaml.safe_load((CONF / "defense" / "rolss.yaml").read_text())["rolss"]


def rolss(target: str = "resnet18", **changes: Any) -> RoLSS:
    defense: RoLSS = build({**NODE, "target": target, **changes})
    return defense


def ssf(k: float, target: str) -> SSF:
    return SSF(target=target, k=k, k_by_target={}, stages=None, stages_by_target=NODE["stages_by_target"])


@pytest.mark.parametrize("name", NETWORKS)
def test_rolss_is_ssf_with_k_0(name: str) -> None:
    one, two = (
        network(name, rolss=rolss(name)).eval(),
        network(name, ssf=ssf(0.0, name)).eval(),
    )
    assert torch.equal(one(IMAGES).logits, two(IMAGES).logits)
    assert not torch.equal(one(IMAGES).logits, network(name, ssf=ssf(0.2, name)).eval()(IMAGES).logits)


def test_resnets_lose_the_shortcuts_of_layer4_alone() -> None:
    """The released code also drops some of layer3, even in the networks it calls full."""
    for name, count in (("resnet18", 2), ("resnet50", 2)):
        model = network(name, rolss=rolss(name))
        found = [path for path, module in model.named_modules() if isinstance(module, Shortcut)]
        assert found == [f"layer4.{block}.downsample" for block in range(count)]
        assert all(model.get_submodule(path).k == 0 for path in found)


def test_maxvit_loses_those_of_the_grid_attention_in_its_first_two_blocks() -> None:
    def blocks(**changes: Any) -> list[str]:
        model = network("maxvit", rolss=rolss("maxvit", **changes))
        return [path for path, module in model.named_modules() if isinstance(module, Shortcut)]

    def path(block: int, layer: int) -> str:
        return f"blocks.{block}.layers.{layer}.layers.grid_attention.shortcut"

    assert blocks() == [path(0, 0), path(1, 0)]
    assert blocks(stages=["block2"]) == [path(2, 0), path(2, 1)]


@pytest.mark.parametrize("name", ["maxvit", "ir152", "inception_resnet_v1", "vggface_resnet50"])
def test_an_interrupted_training_resumes_and_its_weights_reload_to_identical_logits(
    name: str, tmp_path: Path
) -> None:
    defense = rolss(name)
    recipe = {"epochs": 2}
    whole, _, history = train(tmp_path / "whole", name, recipe, rolss=defense)
    with pytest.raises(RuntimeError, match="killed"):
        train(tmp_path / "broken", name, recipe, rolss=defense, seen=Seen(killed_at=1))
    resumed, _, again = train(tmp_path / "broken", name, recipe, rolss=defense)
    assert torch.equal(state(whole), state(resumed)) and history == again
    reloaded = network(name, seed=9, rolss=rolss(name))
    reloaded.load_state_dict(whole.state_dict(), strict=True)
    with torch.no_grad():
        assert torch.equal(reloaded.eval()(IMAGES).logits, whole(IMAGES).logits)


def test_only_one_defense_may_act_on_the_skip_connections() -> None:
    tts = TTS(target="resnet18", switch=0.05, k=0.0, stages=None, stages_by_target={})
    with pytest.raises(ConfigError, match="defenses rolss and tts both set the skip; keep one of them"):
        compose(rolss=rolss(), tts=tts)


def test_the_config_builds_it_for_the_chosen_target(tiny: Any) -> None:
    node = tiny("defense=rolss", "target=densenet121")["defense"]["rolss"]
    assert node["target"] == "densenet121"
    assert build(node).label == "RoLSS"
    assert build(node).stages is None and build({**node, "target": "maxvit"}).stages == ["block0", "block1"]
