from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from defenses import DCD, build_defense, compose
from defenses.dcd import other_labels, with_noise
from midre_exp.data.base import ImageSet
from midre_exp.errors import ConfigError
from midre_exp.targets.training.batch import Trained
from tests.defenses.conftest import Colours, Others
from tests.defenses.networks import train_node

GOLDEN = json.loads((Path(__file__).parents[1] / "golden" / "defense_dcd.json").read_text())
RELEASED = {
    "protected": list(range(10)),
    "other_people": None,
    "mislabelled": 0.2,
    "surrogate_images": 5,
    "surrogate_noise": 0.003,
    "noise": GOLDEN["formulas"]["noise_on_protected"],
    "noisy_mislabelled": 1.0,
    "chosen_by": "released",
}
SMALL = {"_target_": "midre_exp.targets.VGG16", "image_size": 32, "width": 0.125}


def dcd(**changes: Any) -> DCD:
    return DCD(**{**RELEASED, **changes})


def private_labels(case: dict[str, Any], classes: int = 1000) -> Tensor:
    """As many images of each protected person as the official run had, all others' evenly."""
    counts = [row["training_images"] for row in case["per_protected_person"]]
    rest = torch.arange(len(counts), classes).repeat(12)[: case["originals"] - sum(counts)]
    protected = torch.arange(len(counts)).repeat_interleave(torch.tensor(counts))
    return torch.cat([protected, rest])


def of_case(case: dict[str, Any]) -> DCD:
    return dcd(
        mislabelled=case["mis_ratio1"], noisy_mislabelled=case["mis_ratio2"], surrogate_noise=case["eps"]
    )


@pytest.mark.parametrize("case", GOLDEN["cases"], ids=lambda case: f"eps {case['eps']}")
def test_counts_are_those_of_the_official_run(case: dict[str, Any]) -> None:
    labels, others = private_labels(case), torch.arange(4000).repeat_interleave(6)
    assert len(labels) == case["originals"]
    trained, added = of_case(case).composed(labels, 1000, others, seed=0)
    moved = trained != labels
    for row in case["per_protected_person"]:
        assert int(moved[labels == row["person"]].sum()) == row["mislabelled"]
    assert not bool(moved[labels >= 10].any())
    assert len(added.surrogates) == case["injected_surrogates"]
    assert added.surrogate_labels.bincount().tolist() == case["injected_per_protected"]
    who = others[added.surrogates]
    assert len(who.unique()) == 10 and bool((added.surrogates % 6 < 5).all())  # the first five of each
    assert int(added.surrogates.bincount().max()) == case["copies_of_each"]
    noisy_surrogates = case["noisy_surrogates"]
    assert (len(added.surrogates) if added.noisy_surrogates else 0) == noisy_surrogates
    noisy = case.get("noisy_protected", 0)
    strangers = int((labels[added.noisy] >= 10).sum())  # mislabelled into a protected person, by chance
    assert len(added.noisy) - strangers in (noisy, noisy + 1)  # or another protected person's
    total = len(trained) + len(added.surrogates) + noisy_surrogates + len(added.noisy)
    assert abs(total - case["total"]) <= strangers + 1
    kept = int((added.noisy_labels == trained[added.noisy]).sum())
    assert kept == (
        0
        if case["mis_ratio2"] == 1
        else noisy
        - sum(
            int(case["mis_ratio2"] * (row["training_images"] - row["mislabelled"]))
            for row in case["per_protected_person"]
        )
        if noisy
        else 0
    )


def grey(labels: Tensor, classes: int) -> ImageSet:
    images = torch.full((len(labels), 3, 4, 4), 128, dtype=torch.uint8)
    return ImageSet(images, labels, tuple(map(str, range(classes))))


@pytest.mark.parametrize("case", GOLDEN["cases"], ids=lambda case: f"eps {case['eps']}")
def test_images_follow_the_labels_with_the_noise_of_the_official_run(case: dict[str, Any]) -> None:
    labels = private_labels(case)
    defense = of_case(case)
    defense.on_other_people(grey(torch.arange(20).repeat_interleave(6), 20), seed=0)
    train = grey(labels, 1000)
    whole = defense.on_dataset(train, seed=0)
    n, injected = len(train), case["injected_surrogates"]
    assert torch.equal(whole.images[: n + injected], torch.full_like(whole.images[: n + injected], 128))
    assert torch.equal(whole.labels[n : n + injected].bincount(), torch.full((10,), injected // 10))
    if not case["eps"]:
        assert len(whole) == n + injected
        return
    change = whole.images.float() / 255 - 128 / 255
    surrogates, protected = change[n + injected : n + 2 * injected], change[n + 2 * injected :]
    assert torch.equal(whole.labels[n : n + injected], whole.labels[n + injected : n + 2 * injected])
    assert float(surrogates.std()) == pytest.approx(case["measured_std_noisy_surrogates"], rel=0.05)
    assert float(protected.std()) == pytest.approx(case["measured_std_noisy_protected"], rel=0.05)
    assert float(surrogates.mean()) * 255 == pytest.approx(-0.5, abs=0.6)  # cut off, not rounded


def test_chosen_by_clean_labels_every_image_of_a_protected_person_gets_a_noisy_copy() -> None:
    case = GOLDEN["cases"][0]
    labels, others = private_labels(case), torch.arange(4000).repeat_interleave(6)
    _, added = dcd(chosen_by="clean").composed(labels, 1000, others, seed=0)
    assert torch.equal(added.noisy, (labels < 10).nonzero().flatten())
    assert not bool((added.noisy_labels == labels[added.noisy]).any())
    _, released = dcd().composed(labels, 1000, others, seed=0)
    assert len(released.noisy) < len(added.noisy)


def test_all_surrogate_images_come_once_without_a_number_of_them() -> None:
    labels, others = torch.arange(20).repeat(3), torch.tensor([7] * 4 + [3] * 2 + [9] * 6)
    _, added = dcd(protected=[4, 11], surrogate_images=None).composed(labels, 20, others, seed=1)
    assert len(added.surrogates.unique()) == len(added.surrogates)
    for person in (4, 11):
        rows = added.surrogates[added.surrogate_labels == person]
        (who,) = others[rows].unique()
        assert torch.equal(rows, (others == who).nonzero().flatten())
    assert added.surrogate_labels.unique().tolist() == [4, 11]


def test_other_labels_are_all_others_equally_often() -> None:
    labels = torch.full((6000,), 2)
    drawn = other_labels(labels, 5, torch.Generator().manual_seed(0)).bincount(minlength=5)
    assert int(drawn[2]) == 0 and int(drawn[[0, 1, 3, 4]].min()) > 1350


def test_noise_is_clamped_and_cut_off() -> None:
    ends = torch.tensor([0, 255], dtype=torch.uint8).repeat(2000)
    noisy = with_noise(ends, 0.1, torch.Generator().manual_seed(0))
    assert (
        float((noisy[::2] == 0).float().mean()) > 0.45 and float((noisy[1::2] == 255).float().mean()) > 0.45
    )


def test_nobody_protected_is_the_data_set_itself() -> None:
    train = Colours().load("train")
    for nobody in (0, []):
        defense = dcd(protected=nobody)
        assert defense.on_dataset(train, seed=0) is train
        assert not defense.summary(_trained(train))


def test_a_number_protects_the_first_labels_and_leaves_a_control() -> None:
    assert dcd(protected=10).people(1000) == list(range(10))
    assert dcd(protected=10).people(50) == list(range(10))
    assert dcd(protected=10).people(20) == [0, 1, 2, 3]
    assert dcd(protected=10).people(3) == [0]
    assert dcd(protected=[5, 2]).people(6) == [5, 2]


def _trained(train: ImageSet) -> Trained:
    return Trained(train=train, test=train, answers=lambda images: images.images, epochs=1, seed=0)


def test_what_is_reported_is_what_was_trained(tmp_path: Path) -> None:
    defense = build_defense("dcd", scale="mini", surrogate_images=2)
    train_node(tmp_path, SMALL, {"epochs": 1}, it=defense)
    told = defense.summary(_trained(Colours().load("train")))
    assert told == {
        "protected": [0],
        "images": {
            "originals": 18,
            "mislabelled": 1,
            "surrogates": 4,  # two images, twice, for there are three of that person
            "noisy_surrogates": 4,
            "noisy": 6,
        },
    }
    train = defense.on_dataset(Colours().load("train"), seed=0)
    assert len(train) == 18 + 4 + 4 + 6


def test_appended_images_are_left_out_and_erased_like_others(tmp_path: Path) -> None:
    dcd_, fe = build_defense("dcd", scale="mini"), build_defense("fe")
    whole = compose(dcd=dcd_, fe=fe)
    whole.on_other_people(Others().load("train"), seed=0)
    train = whole.on_dataset(Colours().load("train"), seed=0)
    assert len(train) == 18 + 3 + 3 + 6
    alone = dcd_.on_dataset(Colours().load("train"), seed=0)
    changed = (train.images != alone.images).flatten(1).any(1)
    assert bool(changed.all())  # erased, the appended ones too
    ee = build_defense("ee", share=0.5)
    batches = compose(dcd=dcd_, ee=ee).sampler(train.labels, batch_size=5, seed=0, drop_last=False)
    assert batches is not None and int(torch.cat([*batches.batches(0)]).max()) >= 18


@pytest.mark.parametrize(
    ("options", "people", "named"),
    [
        ({"protected": [3]}, 9, "names the label 3, and the private people are 0 to 2"),
        ({"protected": [1, 1]}, 9, "names a label twice"),
        ({"protected": [0, 1], "other_people": 1}, 9, "there are 1 other people"),
        ({"protected": [0]}, None, "was given none"),
    ],
)
def test_mistakes_are_told(options: dict[str, Any], people: int | None, named: str) -> None:
    defense = dcd(**options)
    if people:
        defense.on_other_people(Others().load("train"), seed=0)
    with pytest.raises(ConfigError, match=named) as error:
        defense.on_dataset(Colours().load("train"), seed=0)
    assert "\n" not in str(error.value)
    with pytest.raises(ConfigError, match="chosen_by"):
        dcd(chosen_by="dirty")
