from __future__ import annotations

from typing import Any

import pytest
import torch

from defenses.rolss import RoLSS
from defenses.ssf import SSF
from midre_exp.targets.shortcut import Shortcut
from tests.defenses.networks import IMAGES, NETWORKS, network


def stages_of(name: str) -> list[str] | None:
    return ["block0", "block1"] if name == "maxvit" else None  # as conf/target has it


def rolss(name: str = "resnet18", **changes: Any) -> RoLSS:
    return RoLSS(**{"stages": stages_of(name), **changes})


def ssf(k: float, name: str) -> SSF:
    return SSF(k=k, stages=stages_of(name))


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
        return [
            path for path, module in model.named_modules() if isinstance(module, Shortcut) and not module.k
        ]

    def path(block: int, layer: int) -> str:
        return f"blocks.{block}.layers.{layer}.layers.grid_attention.shortcut"

    assert blocks() == [path(0, 0), path(1, 0)]
    assert blocks(stages=["block2"]) == [path(2, 0), path(2, 1)]
