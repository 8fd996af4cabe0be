from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from defenses import (
    ATAT,
    AdversarialTraining,
    Batch,
    Defense,
    NoDef,
    TrainingProgress,
    build_defense,
    compose,
)
from defenses import atat as atat_module
from defenses.atat import other_classes
from defenses.parts import pgd as pgd_module
from defenses.parts.pgd import in_eval_mode, pgd
from midre_exp.errors import ConfigError
from midre_exp.numerics import Numerics
from midre_exp.targets.base import Output
from tests.defenses.toy import ADAM, Steps, Toy, assert_like

GOLDEN = json.loads((Path(__file__).parents[1] / "golden" / "defense_atat.json").read_text())
#: The golden numbers have images, eps and steps in [-1, 1]: here all is half of that.
IMAGES = (torch.tensor(GOLDEN["images"], dtype=torch.float64) + 1) / 2
LABELS = torch.tensor(GOLDEN["labels"])
CLOCK = TrainingProgress(epoch=0, epochs=1)


def atat(**changes: Any) -> ATAT:
    options = {"weight": 0.08, "eps": 0.00025, "step": 0.2, "steps": 5, "pgd_batch_norm": "train"}
    return ATAT(**{**options, **changes})


def adversarial(**changes: Any) -> AdversarialTraining:
    options = {"eps": 0.005, "step": 0.1, "steps": 10, "pgd_batch_norm": "train"}
    return AdversarialTraining(**{**options, **changes})


def random_start(case: dict[str, Any]) -> Tensor:
    return torch.tensor(case["random_start_noise_in_thousandths_of_eps"], dtype=torch.float64) / 1000


# -- PGD --


@pytest.mark.parametrize("case", GOLDEN["pgd"], ids=lambda case: str(case["name"]))
def test_pgd_is_that_of_the_authors(case: dict[str, Any]) -> None:
    model = Toy().train(case["mode"] == "train")
    moved = pgd(
        model,
        IMAGES[:4],
        torch.tensor(case["labels_given_to_the_attack"]),
        eps=case["eps"] / 2,
        step=case["step"] / 2,
        steps=case["iterations"],
        towards=case["targeted"],
        start=random_start(case) if case.get("rs", True) else None,
    )
    assert_like({"delta": 2 * (moved - IMAGES[:4])}, {"delta": case["delta"]})
    if "batch_norm_after" in case:
        assert_like(model.norm.state_dict(), case["batch_norm_after"])
    assert all(parameter.grad is None for parameter in model.parameters()) and not moved.requires_grad


def test_what_is_erased_stays_and_no_pixel_leaves_its_bounds() -> None:
    images = torch.rand(6, 3, 4, 4, dtype=torch.float64).round(decimals=1)  # some at 0 and 1
    fixed = torch.rand(6, 1, 4, 4) < 0.4
    options = {"eps": 0.03, "step": 0.01, "steps": 4, "towards": False}
    start = 2 * torch.rand_like(images) - 1
    moved = pgd(Toy().eval(), images, torch.arange(6) % 5, **options, start=start, fixed=fixed)
    change = (moved - images).abs()
    assert not bool(change.masked_select(fixed).any()) and bool(change.masked_select(~fixed).any())
    assert float(change.max()) <= 0.03 + 1e-12 and float(moved.min()) >= 0 and float(moved.max()) <= 1


def test_modules_come_back_as_they_were() -> None:
    model = Toy().train()
    model.norm.eval()  # as a defense that freezes it leaves it
    with in_eval_mode(model):
        assert not any(module.training for module in model.modules())
    assert model.training and model.conv.training and not model.norm.training


# -- whole steps --


@pytest.fixture
def recorded(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Let the defenses draw what the golden numbers were made with."""

    def use(case: dict[str, Any]) -> None:
        starts: Iterator[Any] = iter(case[_NOISE])
        drawn = iter(case["targets_drawn"])
        monkeypatch.setattr(
            pgd_module,
            "uniform",
            lambda *_, device: (torch.tensor(next(starts), dtype=torch.float64) / 1000 + 1) / 2,
        )
        monkeypatch.setattr(
            atat_module, "integers", lambda *_, device: torch.tensor(next(drawn), device=device)
        )

    return use


_NOISE = "random_start_noise_in_thousandths_of_eps"


def two_steps(defense: Defense) -> tuple[Toy, float]:
    steps = Steps(defense, Toy(), ADAM)
    steps.begin()
    losses = [  # the authors sum over the batch
        float(steps.step(IMAGES[rows], LABELS[rows], factor=4.0)) for rows in (slice(0, 4), slice(4, 8))
    ]
    return steps.model, sum(losses) / 2


@pytest.mark.parametrize("which", [0, 1], ids=["AT-AT", "adversarial training"])
def test_two_steps_are_those_of_the_authors(which: int, recorded: Any) -> None:
    case = GOLDEN["epochs"][which]
    recorded(case)
    model, loss = two_steps([atat(), adversarial()][which])
    assert loss == pytest.approx(case["returned_mean_loss"], abs=1e-8)
    assert_like(model.state_dict(), case["parameters_after"])
    assert_like(model.norm.state_dict(), case["batch_norm_after"])
    if which == 0:
        for drawn, labels, after in zip(
            case["targets_drawn"], LABELS.split(4), case["targets_after_rule"], strict=True
        ):
            assert other_classes(torch.tensor(drawn), labels, 5).tolist() == after


@pytest.mark.parametrize(
    "null", [atat(weight=0.0), atat(eps=0), adversarial(eps=0), NoDef()], ids=lambda d: str(d.label)
)
def test_without_weight_or_eps_it_is_plain_training_to_the_statistics(null: Defense) -> None:
    golden = GOLDEN["plain_training_same_batches"]
    model, _ = two_steps(null)
    assert_like(model.state_dict(), golden["parameters_after"])
    assert_like(model.norm.state_dict(), golden["batch_norm_after"])
    plain, _ = two_steps(NoDef())
    assert all(
        torch.equal(a, b)
        for a, b in zip(model.state_dict().values(), plain.state_dict().values(), strict=True)
    )
    official = GOLDEN["epochs"][2]["batch_norm_after"]  # ran PGD all the same
    assert int(model.norm.num_batches_tracked) == 2 != official["num_batches_tracked"]


@pytest.mark.parametrize(("norm", "forwards"), [("train", 7), ("eval", 2)])
def test_batch_norms_may_be_left_out_of_pgd(norm: str, forwards: int) -> None:
    steps = Steps(atat(pgd_batch_norm=norm), Toy(), ADAM)
    steps.begin()
    steps.step(IMAGES, LABELS)
    assert int(steps.model.norm.num_batches_tracked) == forwards
    assert steps.model.norm.training


@pytest.mark.parametrize("defense", [atat(eps=0.02), adversarial(eps=0.02)], ids=lambda d: str(d.label))
def test_with_erasing_the_square_is_shown_to_the_network_as_it_was_painted(defense: Defense) -> None:
    both = compose(it=defense, midre=build_defense("midre", a_l=0.3, a_h=0.4))  # in any order
    model, generator = Toy().train(), torch.Generator().manual_seed(0)
    both.on_epoch(model, CLOCK)
    seen: list[Tensor] = []

    def classify(images: Tensor, taps: Any = ()) -> Output:
        seen.append(images.detach())
        output: Output = model(images, taps)
        return output

    batch = both.on_batch(Batch(IMAGES, LABELS, LABELS), model, CLOCK, generator)
    clean = batch.images
    assert batch.erased is not None and 0.2 < float(batch.erased.double().mean()) < 0.5
    batch = both.before_step(batch, classify, CLOCK, generator)
    output = classify(batch.images)
    both.extra_losses(output, batch, CLOCK, classify=classify, generator=generator)
    change = torch.stack([images - clean for images in seen]).abs().amax(0)
    assert not bool(change.masked_select(batch.erased).any())
    assert float((change.masked_select(~batch.erased) > 0).double().mean()) > 0.9  # but at 0 and 1


def test_what_it_reports_is_how_often_it_succeeds() -> None:
    strong = atat(eps=1.0, step=0.1, steps=20)
    steps = Steps(strong, Toy(), ADAM)
    steps.begin()
    steps.step(IMAGES, LABELS)
    assert float(steps.module.sums["it/targeted_success"]) / 8 > 50
    weak = adversarial(eps=1.0, steps=20)
    steps = Steps(weak, Toy(), ADAM)
    steps.begin()
    steps.step(IMAGES, LABELS)
    share = steps.module.sums["it/adversarial_acc"]
    assert float(share) == float(steps.module.sums["train_acc"]) and float(share) / 8 < 30


# -- mistakes --


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"eps": 2}, "defense.atat.eps=2 must be a number from 0 to 1"),
        ({"step": -0.1}, "defense.atat.step=-0.1 must"),
        ({"steps": 0}, "defense.atat.steps=0 must be a whole number"),
        ({"weight": -1}, "defense.atat.weight=-1 must be"),
        ({"pgd_batch_norm": "none"}, "defense.atat.pgd_batch_norm=none is unknown; use one of train, eval"),
    ],
)
def test_values_without_meaning_are_refused(changes: dict[str, Any], named: str) -> None:
    with pytest.raises(ConfigError, match=named):
        atat(**changes)


@pytest.mark.parametrize("other", ["fe", "atat"])
def test_what_contradicts_it_is_refused_with_the_reason(other: str) -> None:
    with pytest.raises(ConfigError, match=r"contradict each other: .*(squares|pushes)"):
        build_defense(["adversarial_training", other])


def test_numerics_that_round_its_pushes_away_are_refused() -> None:
    both = compose(midre=build_defense("midre"), it=atat())
    for precision in ("tf32", "bf16"):
        with pytest.raises(ConfigError, match=rf"{precision} rounds away .* 5e-05 .*AT-AT.*numerics=strict"):
            both.check_execution(numerics=Numerics(precision=precision), devices=1)  # type: ignore[arg-type]
    both.check_execution(numerics=Numerics(), devices=2)
    compose(it=atat(eps=0)).check_execution(numerics=Numerics(precision="bf16"), devices=1)
    compose(it=atat(eps=1 / 255)).check_execution(numerics=Numerics(precision="tf32"), devices=1)
