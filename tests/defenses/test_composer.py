from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from defenses import MIDRE, Batch, Defense, Informed, NoDef, Sampler, TrainingProgress, compose
from midre_exp.data.base import ImageSet
from midre_exp.errors import ConfigError
from midre_exp.seeding import ItemRNG
from midre_exp.targets.base import Classifier, Output
from tests.defenses.conftest import NO_QUESTIONS

CLOCK = TrainingProgress(epoch=1, epochs=4)


class Model(Classifier):
    """A classifier that keeps the names of the defenses that changed it."""

    head_name = "fc"

    def __init__(self) -> None:
        super().__init__()
        self.set_normalisation(0.0, 1.0)
        self.fc = nn.Linear(12, 2)
        self.history: list[str] = []


def changes_of(model: Classifier) -> list[str]:
    assert isinstance(model, Model)
    return model.history


class Affine(Defense):
    """Touches every hook that chains: numbers become scale * x + shift, so that the order of two shows."""

    def __init__(self, name: str, scale: int = 1, shift: int = 0, taps: Sequence[str] = ()):
        self.name, self.scale, self.shift, self.tap_names = name, scale, shift, tuple(taps)

    @property
    def label(self) -> str:
        return self.name.upper()

    def on_dataset(self, train: ImageSet, *, seed: int) -> ImageSet:
        return replace(train, images=train.images * self.scale + self.shift + seed)

    def on_batch(
        self, batch: Batch, model: Classifier, progress: TrainingProgress, generator: torch.Generator
    ) -> Batch:
        return replace(batch, images=batch.images * self.scale + self.shift)

    def recipe(self, recipe: Mapping[str, Any]) -> Mapping[str, Any]:
        return {**recipe, "epochs": recipe["epochs"] * self.scale + self.shift}

    def taps(self, model: Classifier) -> Sequence[str]:
        return self.tap_names

    def extra_losses(
        self, output: Output, batch: Batch, progress: TrainingProgress, **tools: Any
    ) -> Mapping[str, Tensor]:
        return {"penalty": torch.tensor(float(self.shift))}

    def modify_backbone(self, model: Classifier) -> None:
        changes_of(model).append(f"{self.name} modify_backbone")

    def replace_head(self, model: Classifier) -> None:
        changes_of(model).append(f"{self.name} replace_head")

    def on_epoch(self, model: Classifier, progress: TrainingProgress) -> None:
        changes_of(model).append(f"{self.name} epoch {progress.epoch}")

    def on_inference(self, model: Classifier) -> None:
        changes_of(model).append(f"{self.name} inference")


class Halves:
    def batches(self, epoch: int) -> Sequence[Tensor]:
        return list(torch.arange(4).chunk(2))


class Owner(Defense):
    """Fills the hooks that only one part may fill."""

    exclusive = frozenset({"sampler", "freeze", "base_loss"})

    def sampler(self, labels: Tensor, *, batch_size: int, seed: int, drop_last: bool) -> Sampler | None:
        return Halves()

    def trainable(self, model: Classifier) -> Sequence[str] | None:
        return ["fc.bias"]

    def base_loss(self, output: Output, batch: Batch, progress: TrainingProgress) -> Tensor | None:
        return torch.tensor(7.0)


class SecondSampler(Defense):
    exclusive = frozenset({"sampler"})


def midre(a_h: float = 0.4) -> MIDRE:
    return MIDRE(
        a_l=0.1, a_h=a_h, area="uniform", rounding="round", fill=[0.485, 0.456, 0.406], fill_space="pixel"
    )


def batch() -> Batch:
    return Batch(images=torch.ones(2, 3, 2, 2), labels=torch.tensor([0, 1]), index=torch.arange(2))


def output() -> Output:
    return Output(torch.zeros(2, 2), torch.zeros(2, 12))


def test_two_parts_that_take_the_same_are_refused_by_name() -> None:
    with pytest.raises(ConfigError, match="identity_batches and other both set the sampler"):
        compose(identity_batches=Owner(), plain=NoDef(), other=SecondSampler())
    with pytest.raises(ConfigError, match="midre and narrow both set the erase"):
        compose(midre=midre(), narrow=midre(0.2))


def test_parts_that_take_different_things_compose() -> None:
    assert list(compose(midre=midre(), owner=Owner()).parts) == ["midre", "owner"]


def test_a_part_that_is_no_defense_is_refused_by_name() -> None:
    with pytest.raises(ConfigError, match=r"defense\.broken is a Linear"):
        compose(broken=nn.Linear(1, 1))  # type: ignore[arg-type]


def test_labels_join_and_nodef_leaves_no_trace() -> None:
    assert compose(midre=midre(), nodef=NoDef(), a=Affine("a")).label == "MIDRE [0.1, 0.4] + A"
    assert compose(nodef=NoDef()).label == compose().label == "NoDef"
    assert not compose(nodef=NoDef()).parts


def test_nothing_composed_is_the_plain_recipe() -> None:
    nothing, model, given = compose(nodef=NoDef()), Model(), batch()
    assert nothing.on_batch(given, model, CLOCK, torch.Generator()) is given
    assert nothing.sampler(given.labels, batch_size=2, seed=0, drop_last=False) is None
    assert nothing.trainable(model) is None
    assert nothing.base_loss(output(), given, CLOCK) is None
    assert nothing.extra_losses(output(), given, CLOCK, **NO_QUESTIONS) == {}
    assert nothing.taps(model) == ()
    assert nothing.recipe({"epochs": 3}) == {"epochs": 3}


def test_data_and_recipe_pass_through_the_parts_in_the_order_given() -> None:
    double, add = Affine("double", scale=2), Affine("add", shift=3)
    train = ImageSet(torch.ones(1, 3, 2, 2, dtype=torch.uint8), torch.zeros(1, dtype=torch.int64), ("one",))
    for parts, expected in (({"double": double, "add": add}, 5), ({"add": add, "double": double}, 8)):
        both = compose(**parts)
        assert both.on_batch(batch(), Model(), CLOCK, torch.Generator()).images.unique().tolist() == [
            expected
        ]
        assert both.recipe({"epochs": 1, "lr": 0.1}) == {"epochs": expected, "lr": 0.1}
        assert both.on_dataset(train, seed=0).images.unique().tolist() == [expected]
    assert compose(add=add).on_dataset(train, seed=10).images.unique().tolist() == [14]


def test_every_part_changes_the_model_in_the_order_given() -> None:
    both, model = compose(b=Affine("b"), a=Affine("a")), Model()
    both.modify_backbone(model)
    both.replace_head(model)
    both.on_epoch(model, CLOCK)
    both.on_inference(model)
    steps = ("modify_backbone", "replace_head", "epoch 1", "inference")
    assert model.history == [f"{name} {step}" for step in steps for name in ("b", "a")]


def test_taps_come_once_and_extra_losses_carry_their_parts_name() -> None:
    both = compose(
        a=Affine("a", shift=1, taps=["stem", "layer1"]), b=Affine("b", shift=2, taps=["layer1", "layer4"])
    )
    assert tuple(both.taps(Model())) == ("stem", "layer1", "layer4")
    losses = both.extra_losses(output(), batch(), CLOCK, **NO_QUESTIONS)
    assert {name: float(loss) for name, loss in losses.items()} == {"a/penalty": 1.0, "b/penalty": 2.0}


def test_what_one_part_owns_is_taken_from_it_wherever_it_stands() -> None:
    for parts in ({"a": Affine("a"), "owner": Owner()}, {"owner": Owner(), "a": Affine("a")}):
        both, given = compose(**parts), batch()
        assert isinstance(both.sampler(given.labels, batch_size=2, seed=0, drop_last=False), Halves)
        assert both.trainable(Model()) == ["fc.bias"]
        base_loss = both.base_loss(output(), given, CLOCK)
        assert base_loss is not None and float(base_loss) == 7.0


class Telling(Defense):
    """Says what it is made with."""

    def __init__(self, told: Informed | None):
        self.told = told

    def informed(self, model: Classifier) -> Informed | None:
        return self.told


def square(logits: Tensor) -> Tensor:
    return logits.square()


def view(images: Tensor, rng: ItemRNG, name: str, step: int) -> Tensor:
    return images


def stored_view(images: Tensor, rng: ItemRNG, name: str, step: int) -> Tensor:
    return images


def renamed(model: Classifier) -> None:
    changes_of(model).append("renamed")


def test_what_an_attacker_knows_of_the_parts_is_merged_in_the_order_of_training() -> None:
    known = compose(
        batches=Telling(Informed(views=[view], score=square, reason="first")),
        own=Telling(None),
        stored=Telling(Informed(views=[stored_view], stored=True, target=[renamed], reason="second")),
        same=Telling(Informed(score=square, reason="third")),
    ).informed(Model())
    assert known.told() == {
        "views": ["stored_view", "view"],
        "identity_loss": None,
        "score": "square",
        "target": ["renamed"],
        "reasons": {"batches": "first", "stored": "second", "same": "third"},
        "silent": ["own"],
    }
    deployed = Model()
    asked = known.network(deployed)
    assert changes_of(asked) == ["renamed"] and changes_of(deployed) == []


def test_no_defense_gives_its_reason_and_a_silent_one_its_name() -> None:
    known = compose(nodef=NoDef()).informed(Model())
    assert list(known.reasons) == ["nodef"] and not known.views and not known.silent
    told = compose(own=Defense()).informed(Model()).told()
    assert told["silent"] == ["own"] and told["reasons"] == {}


def test_two_different_scores_contradict_each_other() -> None:
    parts = {"one": Telling(Informed(score=square)), "two": Telling(Informed(score=torch.exp))}
    with pytest.raises(ConfigError, match=r"defenses one and two give .* two different scores"):
        compose(**parts).informed(Model())
