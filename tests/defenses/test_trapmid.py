from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from defenses import Defense, TrapMID, build_defense, compose
from defenses import trapmid as module
from defenses.trapmid import blend, released_augmentation, signature_cosines, signatures, trigger_classes
from midre_exp.data.base import ImageSet
from midre_exp.errors import ConfigError
from tests.defenses.networks import state, train_node
from tests.defenses.toy import SGD, Steps, Toy, assert_like, composed
from tests.golden.toy import fill_in_double

GOLDEN = json.loads((Path(__file__).parents[1] / "golden" / "defense_trapmid.json").read_text())
IMAGES = torch.tensor(GOLDEN["images"], dtype=torch.float64)
LABELS = torch.tensor(GOLDEN["labels"])
TRIGGERS = torch.tensor(GOLDEN["triggers_before"], dtype=torch.float64)


def trapmid(**changes: Any) -> TrapMID:
    options = {"alpha": 0.02, "beta": 0.2, "step": 0.01, "triggers": "trained", "discriminator": True}
    return TrapMID(**{**options, "augment": "shared", **changes})


def begun(defense: Defense, recipe: dict[str, Any]) -> Steps:
    """The toy network with the golden triggers, before the first step of an epoch."""
    both = composed(defense)
    recipe = dict(both.recipe({"augment": [], "batch_size": 4, **recipe}))
    both.on_dataset(ImageSet((255 * IMAGES).byte(), LABELS, tuple("abcde")), seed=0)
    steps = Steps(defense, Toy(mean=0.0, std=1.0), recipe["optimizer"])
    steps.module.make_defense_state()
    steps.begin()
    return steps


# -- whole epochs --


@pytest.mark.parametrize("case", GOLDEN["runs"], ids=lambda case: str(case["name"]))
def test_an_epoch_is_that_of_the_authors(case: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    defense = trapmid(
        alpha=case["alpha"],
        beta=case["beta"],
        step=case["step_size"],
        triggers="trained" if case["optimized"] else "fixed",
        discriminator=case["discriminator"],
    )
    order = torch.tensor(case["trigger_classes_per_batch"]).flatten()
    monkeypatch.setattr(module, "trigger_classes", lambda count, *_, **__: order)
    steps = begun(defense, {"optimizer": SGD, "epochs": 1, "scheduler": None})
    trap = defense._trained()
    trap.triggers = TRIGGERS.clone()
    if trap.discriminator is not None:
        fill_in_double(trap.discriminator)
    told: list[float] = []
    answers: list[float] = []
    for rows in (slice(0, 4), slice(4, 8)):
        loss = float(steps.step(IMAGES[rows], LABELS[rows]))
        losses = {name: float(value) for name, value in defense._losses.items()}
        told += [losses[name] for name in ("discriminator", "deceived") if name in losses]
        answers += [losses["triggers"], loss] if case["optimized"] else [loss]
    assert told == pytest.approx(case["discriminator_losses_in_order"], abs=1e-8)
    theirs = list(case["cross_entropies_in_order"])
    expected: list[float] = []
    while theirs:
        expected += [theirs.pop(0)] if case["optimized"] else []
        clean, triggered = theirs.pop(0), theirs.pop(0)
        expected.append((1 - case["beta"]) * clean + case["beta"] * triggered)
    assert answers == pytest.approx(expected, abs=1e-8)
    after = case["triggers_after"]
    if isinstance(after, list):
        assert torch.allclose(trap.triggers, torch.tensor(after, dtype=torch.float64), rtol=0, atol=1e-9)
    else:
        assert_like({"triggers": trap.triggers}, {"triggers": after})
    assert_like(steps.model.state_dict(), case["model_after"])
    if trap.discriminator is not None:
        assert_like(trap.discriminator.state_dict(), case["discriminator_after"])


def test_signatures_are_those_of_the_authors_notebook() -> None:
    model, golden = Toy(mean=0.0, std=1.0).eval(), GOLDEN["signature"]
    further = np.round(np.random.RandomState(2).uniform(size=(8, 3, 4, 4)), 3)
    images, labels = torch.cat((IMAGES, torch.from_numpy(further))), LABELS.repeat(2)
    with torch.no_grad():
        triggered = model(blend(images, TRIGGERS[labels], 0.02)).features
        output = model(images)
    predicted = output.logits.argmax(1)
    cosines = signature_cosines(output.features, predicted, signatures(triggered, labels, 5))
    assert predicted.tolist() == golden["predicted"]
    assert cosines.tolist() == pytest.approx(golden["cosine_clean"], abs=1e-8)
    assert float(cosines.quantile(0.95)) == pytest.approx(golden["threshold_quantile_0.95"], abs=1e-8)


# -- parts --


def test_classes_without_an_image_stay_and_none_leaves_the_range(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "trigger_classes", lambda count, *_, **__: torch.tensor([0, 0, 1, 3]))
    defense = trapmid(step=0.6)
    steps = begun(defense, {"optimizer": SGD, "epochs": 1, "scheduler": None})
    trap = defense._trained()
    trap.triggers = TRIGGERS.clone()
    steps.step(IMAGES[:4], LABELS[:4])
    changed = [bool((trap.triggers[c] != TRIGGERS[c]).any()) for c in range(5)]
    assert changed == [True, True, False, True, False]
    assert float(trap.triggers.min()) == 0 and float(trap.triggers.max()) == 1
    assert int(steps.model.norm.num_batches_tracked) == 1  # clean and triggered images in one forward
    assert steps.model.training and all(p.grad is None for p in trap.discriminator.parameters())


def test_trigger_classes_are_balanced_and_a_function_of_the_epoch() -> None:
    first = trigger_classes(23, 5, seed=0, epoch=3)
    counts = first.bincount(minlength=5)
    assert counts.sum() == 23 and counts.min() == 4 and counts.max() == 5
    assert torch.equal(first, trigger_classes(23, 5, seed=0, epoch=3))
    assert not torch.equal(first, trigger_classes(23, 5, seed=0, epoch=4))
    assert not torch.equal(first, trigger_classes(23, 5, seed=1, epoch=3))


def test_the_released_augmentation_crops_mirrors_and_rotates_half_of_the_images() -> None:
    ramp = torch.linspace(0.1, 1, 32).expand(1, 3, 32, 32)
    images = ramp.repeat(2000, 1, 1, 1).requires_grad_()
    changed = released_augmentation(images, torch.Generator().manual_seed(0))
    mirrored = changed[:, 0, 12:20, :16].mean((1, 2)) > changed[:, 0, 12:20, 16:].mean((1, 2))
    assert 0.45 < float(mirrored.float().mean()) < 0.55
    turned = (changed[:, :, 0, 0] == 0).any(1) | (changed[:, :, 0, -1] == 0).any(1)  # black corners
    assert 0.3 < float(turned.float().mean()) <= 0.5  # a small angle of a cropped image shows none
    same = (changed - ramp).abs().amax((1, 2, 3)) < 1e-4
    assert 0.09 < float(same.float().mean()) < 0.16  # an eighth
    (gradient,) = torch.autograd.grad(changed[0].sum(), images)
    assert bool(gradient[0].any()) and not bool(gradient[1:].any())


def test_the_recipes_augmentation_comes_after_the_triggers_and_each_half_draws_its_own() -> None:
    flip = {"_target_": "midre_exp.data.transforms.HorizontalFlip", "p": 0.5}
    defense = trapmid(discriminator=False, triggers="fixed", alpha=0.0)
    recipe = {"augment": [flip], "optimizer": SGD, "epochs": 1, "scheduler": None}
    steps = begun(defense, recipe)
    batch = steps.module._defend(module.Batch(IMAGES, LABELS, LABELS))
    assert batch.companions is not None
    halves = []
    for images in (batch.images, batch.companions.images):
        kept, mirrored = ((images == other).all((1, 2, 3)) for other in (IMAGES, IMAGES.flip(-1)))
        assert bool((kept | mirrored).all())
        halves.append(mirrored)
    assert not torch.equal(*halves)
    assert defense.recipe(recipe)["augment"] == [] and trapmid(beta=0).recipe(recipe) == recipe


def test_with_negative_smoothing_both_halves_are_smoothed() -> None:
    smoothing = build_defense("nls", alpha=-0.5, schedule="constant")
    both = compose(trap=trapmid(discriminator=False, triggers="fixed"), nls=smoothing)
    steps = begun(both, {"optimizer": SGD, "epochs": 1, "scheduler": None})
    loss = steps.step(IMAGES[:4], LABELS[:4])
    twin = Toy(mean=0.0, std=1.0).train()
    trap = steps.module.defense_state["trap"]  # type: ignore[index]
    classes = both.parts["trap"]._classes_of(0)[:4]  # type: ignore[attr-defined]
    shown = blend(IMAGES[:4], trap.triggers[classes], 0.02)
    logits = twin(torch.cat((IMAGES[:4], shown))).logits.log_softmax(1)

    def smoothed(rows: Tensor, labels: Tensor) -> Tensor:
        return -(1.5 * rows.gather(1, labels[:, None])[:, 0] - 0.5 * rows.mean(1)).mean()

    expected = 0.8 * smoothed(logits[:4], LABELS[:4]) + 0.2 * smoothed(logits[4:], classes)
    assert float(loss) == pytest.approx(float(expected.detach()), abs=1e-6)


@pytest.mark.parametrize("rule", [SGD, {"_target_": "torch.optim.Adam", "lr": 0.01}], ids=["SGD", "Adam"])
def test_killed_inside_an_epoch_it_ends_with_the_same_triggers_and_discriminator(
    tmp_path: Path, rule: dict[str, Any]
) -> None:
    recipe = {"epochs": 2, "batch_size": 5, "optimizer": rule}
    node = {"_target_": "midre_exp.targets.VGG16", "image_size": 32, "width": 0.0625}

    class StopIn(Defense):
        def __init__(self, batches: int):
            self.left = batches

        def on_batch(self, batch: Any, *_: Any) -> Any:
            if not self.left:
                raise RuntimeError("killed")
            self.left -= 1
            return batch

    def train(folder: str, **more: Defense) -> tuple[nn.Module, Any, module.Trap]:
        trap = trapmid()
        network, _, history = train_node(tmp_path / folder, node, recipe, seconds=0, trap=trap, **more)
        return network, history, trap._trained()

    whole, history, trap = train("whole")
    for batches in (2, 3):
        with pytest.raises(RuntimeError, match="killed"):
            train("broken", stop=StopIn(batches))
    resumed, again, other = train("broken")
    assert torch.equal(state(whole), state(resumed)) and history == again
    assert {"trap/discriminator", "trap/triggers", "trap/deceived", "triggered_acc"} < history[0].keys()
    mine, theirs = trap.state_dict(), other.state_dict()
    assert math.isfinite(history[-1]["loss"]) and mine.keys() == theirs.keys()
    for name, value in mine.items():
        if isinstance(value, Tensor):
            assert torch.equal(value, theirs[name]), name
    assert mine["_extra_state"]["used"] == theirs["_extra_state"]["used"] == 18
    assert len(mine["_extra_state"]["optimizer"]["state"]) == len(list(trap.discriminator.parameters()))


# -- mistakes --


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"alpha": 2}, "defense.trapmid.alpha=2 must be a number from 0 to 1"),
        ({"beta": 1}, "defense.trapmid.beta=1 must be a number from 0 to below 1"),
        ({"triggers": "none"}, "defense.trapmid.triggers=none is unknown; use one of trained, fixed"),
        ({"augment": "x"}, "defense.trapmid.augment=x is unknown; use one of own, shared"),
        ({"triggers": "fixed"}, "discriminator=true trains triggers .* set discriminator=false"),
    ],
)
def test_values_without_meaning_are_refused(changes: dict[str, Any], named: str) -> None:
    with pytest.raises(ConfigError, match=named):
        trapmid(**changes)
