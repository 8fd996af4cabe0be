"""Every defense on one target of every family, through their own configs: it trains, or is refused by name."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Any

import pytest
import torch

from midre_exp.errors import ConfigError
from midre_exp.plan.compose import packaged_configs, settings_of
from midre_exp.plan.config import CONF_DIR, build
from midre_exp.runtime import Runtime
from midre_exp.targets.training.train import train_classifier

TARGETS = ("vgg16", "ir152", "facenet64", "resnet18", "densenet121", "maxvit")
OVERLAYS = {"midre_wide", "re", "bido_coco"}  # other values of a defense that is tried
DEFENSES = sorted({path.stem for path in (CONF_DIR / "defense").glob("*.yaml")} - OVERLAYS)
REFUSED = {
    ("vgg16", "rolss"): "has none",
    ("vgg16", "ssf"): "skip connections",
    ("vgg16", "tts"): "has none",
    ("densenet121", "tts"): "DenseNet",
}


@lru_cache(maxsize=1)
def settings(target: str) -> dict[str, Any]:
    """A run of the reduced form on 8 people with 4 images each, two epochs of two steps, with the node of
    every defense.
    """
    tiny = [
        "identities=8",
        "train_per_identity=4",
        "test_per_identity=1",
        "public_identities=1",
        "public_images=1",
    ]
    with packaged_configs():
        return settings_of(
            [
                f"target={target}",
                "scale=mini",
                f"defense=[{','.join(DEFENSES)}]",
                "target.recipe.epochs=2",
                "target.recipe.batch_size=16",
                *(f"data.{override}" for override in tiny),
            ]
        )


def train(target: str, defense: str, work: Path) -> dict[str, float]:
    given = settings(target)
    made = build({**given["composer"], defense: given["defense"][defense]})
    _, numbers, history = train_classifier(
        given["target"],
        build(given["data"]["private"]),
        made,
        seed=0,
        work=work,
        runtime=Runtime(quiet=True),
        title=target,
    )
    assert len(history) == 2 and all(torch.tensor(epoch["loss"]).isfinite() for epoch in history)
    return numbers


@pytest.mark.parametrize("defense", DEFENSES)
@pytest.mark.parametrize("target", TARGETS)  # the outer loop: its settings are composed once
def test_it_trains_or_is_refused_by_name(target: str, defense: str, tmp_path: Path) -> None:
    if (target, defense) in REFUSED:
        with pytest.raises(ConfigError, match=REFUSED[target, defense]) as refusal:
            train(target, defense, tmp_path)
        assert defense in str(refusal.value)
    else:
        assert train(target, defense, tmp_path)["parameters_trained"] > 0
