from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from defenses import Batch, BiDOPlus, TrainingProgress, build_defense
from defenses.bido_plus import Margins, energies, energy_hinges, entropies, separation
from midre_exp.data.base import ImageSet
from midre_exp.errors import ConfigError
from midre_exp.numerics import Numerics
from midre_exp.targets.base import Output
from midre_exp.targets.training.batch import Trained
from tests.defenses.conftest import Colours, Others, Seen
from tests.defenses.networks import NETWORKS, state, train_node
from tests.golden.fill import golden

GOLDEN = golden("defense_bidoplus")
ENERGY = GOLDEN["energy_regularisation (strategy ER)"]
RESNET = NETWORKS["resnet18"]


def rows(name: str) -> Tensor:
    return torch.tensor(GOLDEN[name], dtype=torch.float64, requires_grad=True)


def exact(values: Any) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def plus(**options: Any) -> BiDOPlus:
    made = build_defense("bido_plus", scale="mini", images_per_id=3, **options)
    assert isinstance(made, BiDOPlus)
    return made


# -- terms --


def test_the_confidence_term_is_the_recorded_one() -> None:
    golden_ = GOLDEN["confidence_minimisation (strategy CM)"]
    private, unknown = rows("private_logits"), rows("outlier_logits")
    entropy = entropies(unknown).sum()
    assert entropy.item() == pytest.approx(golden_["entropy_sum_over_batch_nats"], abs=1e-9)
    loss = F.cross_entropy(private, torch.tensor(GOLDEN["labels"])) - golden_["gamma"] * entropy
    assert loss.item() == pytest.approx(golden_["loss_without_bido"], abs=1e-9)
    loss.backward()
    torch.testing.assert_close(unknown.grad, exact(golden_["grad_outlier_logits"]), rtol=0, atol=1e-9)
    torch.testing.assert_close(private.grad, exact(golden_["grad_private_logits"]), rtol=0, atol=1e-9)


@pytest.mark.parametrize("case", ENERGY["cases"], ids=lambda case: str(case["m_in"]))
def test_the_energy_term_is_the_recorded_one(case: dict[str, Any]) -> None:
    private, unknown = rows("private_logits"), rows("outlier_logits")
    found, expected = energies(private).detach(), exact(ENERGY["energy_private"])
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-9)
    margins = exact(case["m_in"]), exact(case["m_out"])
    term = energy_hinges(energies(private), energies(unknown), margins)
    assert term.item() == pytest.approx(case["term_in"] + case["term_out"], abs=1e-8)
    loss = F.cross_entropy(private, torch.tensor(GOLDEN["labels"])) + ENERGY["weight"] * term
    assert loss.item() == pytest.approx(case["loss_without_bido"], abs=1e-9)
    loss.backward()
    torch.testing.assert_close(unknown.grad, exact(case["grad_outlier_logits"]), rtol=0, atol=1e-9)


def test_margins_are_means_of_the_batches_before_the_latest_weighted_by_their_size() -> None:
    margins = Margins()
    for known, unknown in (([1.0, 3.0], [5.0]), ([8.0], [7.0, 9.0]), ([100.0], [100.0])):
        margins.add(known=torch.tensor(known), unknown=torch.tensor(unknown))
    assert [float(one) for one in margins.both()] == [4.0, 7.0]


# -- when, and what the network is asked --


class Asked:
    """Keeps what the network is asked about; answers with fixed logits."""

    def __init__(self) -> None:
        self.images: list[Tensor] = []
        self.recorded: list[bool] = []

    def __call__(self, images: Tensor, taps: Any = ()) -> Output:
        self.images.append(images)
        self.recorded.append(torch.is_grad_enabled())
        return Output(torch.eye(3)[torch.arange(len(images)) % 3], images.flatten(1))


def step(defense: BiDOPlus, epoch: int, epochs: int = 10) -> tuple[dict[str, Tensor], Asked]:
    asked, people = Asked(), Others().load("train")
    if not defense._rows.numel():
        defense.on_other_people(people, seed=0)
        defense.state(None)  # type: ignore[arg-type]
    defense.lambda_x = defense.lambda_y = 0
    batch = Batch(torch.rand(6, 3, 32, 32), torch.arange(6) % 3, torch.arange(6))
    terms = defense.extra_losses(
        Output(torch.eye(3)[batch.labels], batch.images.flatten(1)),
        batch,
        TrainingProgress(epoch, epochs),
        classify=asked,
        generator=torch.Generator().manual_seed(epoch),
    )
    return dict(terms), asked


def test_outliers_come_from_the_start_on_from_people_who_are_not_tested() -> None:
    defense, people = plus(), Others().load("train")
    terms, asked = step(defense, 5)
    assert not terms and not asked.images
    terms, asked = step(defense, 6)
    assert set(terms) == {"outliers"} and [len(images) for images in asked.images] == [3]
    expected = -1e-3 * 3 * float(entropies(torch.eye(3)[:1]))
    assert float(terms["outliers"]) == pytest.approx(expected)
    seen: set[int] = set()
    for epoch in range(60, 100):
        for image in step(defense, epoch, 100)[1].images[0]:
            same = ((people.images.float() / 255 - image).abs().amax((1, 2, 3)) < 1e-6).nonzero()
            seen |= set(people.labels[same.flatten()].tolist())
    assert seen == set(range(7))  # of nine, two are tested


def test_energy_measures_margins_in_the_epoch_before_and_without_gradients() -> None:
    defense = plus(strategy="energy", outlier_weight=0.1)
    assert not step(defense, 4)[1].images
    for _ in range(2):
        terms, asked = step(defense, 5)
        assert not terms and asked.recorded == [False]
    known, unknown = map(float, defense._margins.both())  # type: ignore[union-attr]
    energy = float(energies(torch.eye(3)[:1]))
    assert (known, unknown) == (pytest.approx(energy), pytest.approx(energy))
    terms, asked = step(defense, 6)
    assert asked.recorded == [True] and float(terms["outliers"]) == pytest.approx(0, abs=1e-9)


# -- training --


@pytest.mark.parametrize(
    ("strategy", "weight", "told"),
    [("energy", 1e-3, True), ("energy", 0.1, False), ("confidence", 1e-3, False)],
)
def test_energy_with_the_weight_of_confidence_is_told(
    strategy: str, weight: float, told: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    people = ImageSet(torch.zeros(6, 3, 8, 8, dtype=torch.uint8), torch.arange(6), list("abcdef"))
    plus(strategy=strategy, outlier_weight=weight).on_other_people(people, seed=0)
    out = "".join(capsys.readouterr())
    assert ("for energy it is 0.1" in out) == told


def test_weight_0_is_bido_bit_by_bit_and_passes_nothing(tmp_path: Path) -> None:
    recipe = {"epochs": 2, "batch_size": 9}
    options = {"images_per_id": 3}
    plain = train_node(tmp_path / "plain", RESNET, recipe, it=build_defense("bido", scale="mini", **options))
    null = train_node(tmp_path / "null", RESNET, recipe, it=plus(outlier_weight=0))
    acting = train_node(tmp_path / "acting", RESNET, recipe, it=plus(start=0.5))
    assert torch.equal(state(plain[0]), state(null[0])) and plain[2] == null[2]
    assert not torch.equal(state(plain[0]), state(acting[0]))
    assert "it/outliers" in acting[2][1] and "it/outliers" not in acting[2][0]


def test_a_killed_training_by_energy_resumes_with_its_margins(tmp_path: Path) -> None:
    recipe = {"epochs": 3, "batch_size": 9}

    def train(folder: str, **more: Any) -> Any:
        energy = plus(strategy="energy", outlier_weight=0.1, start=0.34)
        return train_node(tmp_path / folder, RESNET, recipe, it=energy, **more)

    whole = train("whole")
    with pytest.raises(RuntimeError, match="killed"):
        train("broken", seen=Seen(killed_at=2))
    again = train("broken")
    assert torch.equal(state(whole[0]), state(again[0])) and whole[2] == again[2]
    assert whole[2][2]["it/outliers"] != 0


# -- who is known --


def test_scores_are_told_apart_as_by_counting() -> None:
    known, unknown = torch.rand(200), torch.rand(90) * 0.8
    known[:20], unknown[:5] = 0.5, 0.5
    area, passed = separation(known, unknown)
    pairs = (known[:, None] > unknown).double() + 0.5 * (known[:, None] == unknown).double()
    assert area == pytest.approx(float(pairs.mean()))
    threshold = known.sort(descending=True).values[189]  # 190 of 200 reach it
    assert passed == pytest.approx(float((unknown >= threshold).double().mean()))
    assert separation(torch.ones(4), torch.zeros(3)) == (1.0, 0.0)
    assert separation(torch.ones(4), torch.ones(3)) == (0.5, 1.0)


def test_the_record_tells_how_well_people_are_known_who_were_not_in_training() -> None:
    defense, people = plus(), Others().load("train")
    defense.on_other_people(people, seed=0)
    shown: list[ImageSet] = []

    def answers(images: ImageSet) -> Tensor:
        shown.append(images)
        sure = 9.0 if len(images) == 18 else 0.0
        return sure * F.one_hot(torch.zeros(len(images), dtype=torch.int64), 3).float()

    test = Colours().load("test")
    told = defense.summary(Trained(train=test, test=test, answers=answers, epochs=1, seed=0))
    assert told == {
        "tested_people": 2,
        "tested_images": 6,
        "probability": {"auroc": 100.0, "fpr95": 0.0},
        "energy": {"auroc": 100.0, "fpr95": 0.0},
    }
    assert set(shown[0].labels.tolist()) == {7, 8}


@pytest.mark.parametrize(
    ("act", "named"),
    [
        (lambda: plus(strategy="margin"), "bido_plus.strategy=margin is unknown"),
        (lambda: plus(sigma=0), "defense.bido_plus.sigma=0"),
        (lambda: plus().check_execution(numerics=Numerics(), devices=2), "runtime.devices=2"),
        (lambda: plus(other_people=8).on_other_people(Others().load("train"), seed=0), "other_people=8"),
    ],
)
def test_mistakes_are_told(act: Any, named: str) -> None:
    with pytest.raises(ConfigError, match=named):
        act()
