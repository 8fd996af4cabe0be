from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from defenses import WeightDecay
from midre_exp.errors import ConfigError
from tests.defenses.conftest import RECIPE
from tests.defenses.networks import state, train

ADAM = {"_target_": "torch.optim.Adam", "lr": 1e-3, "betas": [0.9, 0.999], "weight_decay": 0.0}


def optimizer(node: dict[str, Any], value: float | None = 0.05, form: str = "recipe") -> dict[str, Any]:
    recipe = WeightDecay(weight_decay=value, form=form).recipe({**RECIPE, "optimizer": node})
    assert {key: part for key, part in recipe.items() if key != "optimizer"} == {
        key: part for key, part in RECIPE.items() if key != "optimizer"
    }
    return dict(recipe["optimizer"])


def test_it_sets_the_decay_of_the_recipes_optimiser_and_nothing_else() -> None:
    assert optimizer(ADAM) == {**ADAM, "weight_decay": 0.05}
    assert optimizer(ADAM, None) == ADAM
    assert optimizer(dict(RECIPE["optimizer"])) == {**RECIPE["optimizer"], "weight_decay": 0.05}
    assert ADAM["weight_decay"] == 0.0  # not in place


def test_decoupled_is_adamw_in_the_place_of_adam() -> None:
    adamw = {**ADAM, "_target_": "torch.optim.AdamW"}
    assert optimizer(ADAM, form="decoupled") == {**adamw, "weight_decay": 0.05}
    assert optimizer(adamw, form="decoupled") == optimizer(adamw) == {**adamw, "weight_decay": 0.05}


def test_a_training_under_it_is_that_of_the_recipe_with_the_decay(tmp_path: Path) -> None:
    decayed = {"optimizer": {**RECIPE["optimizer"], "weight_decay": 0.1}, "epochs": 1}
    plain, ours = (
        state(train(tmp_path / name, "resnet18", recipe, **parts)[0])
        for name, recipe, parts in (
            ("plain", decayed, {}),
            ("ours", {"epochs": 1}, {"decay": WeightDecay(weight_decay=0.1, form="recipe")}),
        )
    )
    assert torch.equal(plain, ours)
    without = state(train(tmp_path / "without", "resnet18", {"epochs": 1})[0])
    assert not torch.equal(without, ours)


def test_what_cannot_be_done_is_refused() -> None:
    with pytest.raises(
        ConfigError, match=r"form=decoupled has no form of torch\.optim\.SGD; use form=recipe"
    ):
        optimizer(dict(RECIPE["optimizer"]), form="decoupled")
    with pytest.raises(ConfigError, match=r"does not know what weight decay is in torch\.optim\.LBFGS"):
        optimizer({"_target_": "torch.optim.LBFGS", "lr": 1.0})
    with pytest.raises(ConfigError, match=r"defense\.weight_decay\.weight_decay=-1 must be a number from 0"):
        WeightDecay(weight_decay=-1, form="recipe")
    with pytest.raises(ConfigError, match=r"defense\.weight_decay\.form=l2 is unknown"):
        WeightDecay(weight_decay=0.1, form="l2")
