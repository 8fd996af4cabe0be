from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from defenses import Batch, Defense, TrainingProgress
from defenses.rolss import RoLSS
from defenses.tts import TTS
from midre_exp.errors import ConfigError
from midre_exp.targets import MaxViT
from midre_exp.targets.base import Classifier
from midre_exp.targets.shortcut import Shortcut
from tests.defenses.conftest import RECIPE, Seen
from tests.defenses.networks import IMAGES, network, state, train


def tts(name: str = "resnet18", **changes: Any) -> TTS:
    stages = ["block0", "block1"] if name == "maxvit" else None
    return TTS(**{"switch": 0.05, "k": 0.0, "stages": stages, **changes})


def factors(model: Classifier) -> set[float]:
    """Of the shortcuts that the defense acts on; those of MaxViT's other blocks are always full."""
    shortcuts = [module for module in model.modules() if isinstance(module, Shortcut)]
    return {module.k for module in (shortcuts[:2] if isinstance(model, MaxViT) else shortcuts)}


class Watch(Defense):
    """Keeps the factors and the weights with which each epoch starts."""

    def __init__(self) -> None:
        self.factors: list[set[float]] = []
        self.starts: list[Tensor] = []

    def on_epoch(self, model: Classifier, progress: TrainingProgress) -> None:
        self.starts.append(state(model))

    def on_batch(
        self, batch: Batch, model: Classifier, progress: TrainingProgress, generator: torch.Generator
    ) -> Batch:
        self.factors[progress.epoch :] = [factors(model)]
        return batch


@pytest.mark.parametrize(
    ("epochs", "switch", "first"), [(100, 0.05, 5), (18, 0.05, 1), (2, 0.05, 1), (40, 0.05, 2), (4, 0.5, 2)]
)
def test_the_shortcuts_go_at_the_epoch_the_share_names(epochs: int, switch: float, first: int) -> None:
    defense = tts(switch=switch)
    model = network("resnet18", tts=defense)
    seen = []
    for epoch in range(epochs):
        defense.on_epoch(model, TrainingProgress(epoch, epochs))
        (k,) = factors(model)
        seen.append(k)
    assert seen == [1.0] * first + [0.0] * (epochs - first)


def test_before_the_switch_the_network_is_the_plain_one_and_after_it_rolss() -> None:
    defense = tts()
    model, plain = network("resnet18", tts=defense).eval(), network("resnet18").eval()
    without = RoLSS(stages=None)
    rolss = network("resnet18", rolss=without).eval()
    defense.on_epoch(model, TrainingProgress(0, 100))
    assert torch.equal(model(IMAGES).logits, plain(IMAGES).logits)
    defense.on_epoch(model, TrainingProgress(5, 100))
    assert torch.equal(model(IMAGES).logits, rolss(IMAGES).logits)
    assert list(model.state_dict()) == list(plain.state_dict())


def test_training_changes_the_factor_and_nothing_else_at_the_switch(tmp_path: Path) -> None:
    watch, defense = Watch(), tts(switch=0.5)
    recipe = {"epochs": 4}
    train(tmp_path / "ours", "resnet18", recipe, tts=defense, watch=watch)
    assert watch.factors == [{1.0}, {1.0}, {0.0}, {0.0}]
    plain = Watch()
    train(tmp_path / "plain", "resnet18", recipe, watch=plain)
    # Up to the switch, weights are those of the plain training; the switch itself touches none of them.
    assert all(torch.equal(watch.starts[epoch], plain.starts[epoch]) for epoch in (0, 1, 2))
    assert not torch.equal(watch.starts[3], plain.starts[3])


@pytest.mark.parametrize("name", ["resnet18", "maxvit", "ir152"])
def test_a_training_interrupted_on_either_side_of_the_switch_resumes_exactly(
    name: str, tmp_path: Path
) -> None:
    recipe = {"epochs": 3}  # two with shortcuts, one without
    defense = tts(name, switch=0.6)
    whole, _, history = train(tmp_path / "whole", name, recipe, tts=defense)
    for killed_at in (1, 2):
        work = tmp_path / f"broken{killed_at}"
        with pytest.raises(RuntimeError, match="killed"):
            train(work, name, recipe, tts=tts(name, switch=0.6), seen=Seen(killed_at=killed_at))
        resumed, _, again = train(work, name, recipe, tts=tts(name, switch=0.6))
        assert torch.equal(state(whole), state(resumed)) and history == again
    reloaded = network(name, seed=9, tts=defense)
    reloaded.load_state_dict(whole.state_dict(), strict=True)
    assert factors(reloaded) == {1.0}
    defense.on_inference(reloaded)
    assert factors(reloaded) == factors(whole) == {0.0}
    with torch.no_grad():
        assert torch.equal(reloaded.eval()(IMAGES).logits, whole(IMAGES).logits)


def test_recipes_without_a_second_part_or_with_a_choice_of_epoch_are_refused(tmp_path: Path) -> None:
    assert tts().recipe(RECIPE) is RECIPE
    with pytest.raises(ConfigError, match=r"switch=0.05 takes 1 of recipe.epochs=1 and leaves none"):
        train(tmp_path / "a", "resnet18", {"epochs": 1}, tts=tts())
    with pytest.raises(ConfigError, match=r"recipe.select=best_test may choose an epoch from before"):
        train(tmp_path / "b", "resnet18", {"select": "best_test"}, tts=tts())


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"switch": 0.0}, "defense.tts.switch=0.0"),
        ({"switch": 1}, "defense.tts.switch=1 must be a share"),
        ({"k": -0.1}, "defense.tts.k=-0.1"),
    ],
)
def test_values_out_of_range_are_refused_by_name(changes: dict[str, Any], named: str) -> None:
    with pytest.raises(ConfigError) as error:
        tts(**changes)
    assert named in str(error.value)
