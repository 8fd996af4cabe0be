from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hydra import compose as compose_config
from hydra import initialize_config_dir

from defenses import MIDRE, Batch, TrainingProgress
from midre_exp.plan.config import CONF_DIR, build
from midre_exp.targets.architectures.vgg import VGG16


def configured(*overrides: str) -> MIDRE:
    with initialize_config_dir(str(CONF_DIR), version_base="1.3"):
        config = compose_config(overrides=list(overrides))
    assert list(config.defense) == ["midre"]
    defense = build(config.defense.midre)
    assert isinstance(defense, MIDRE)
    return defense


@pytest.mark.parametrize(
    ("overrides", "share"), [([], 0.4), (["defense.midre.a_h=0.1"], 0.1), (["defense.midre.a_h=0.05"], 0.05)]
)
def test_one_key_sets_the_fixed_share(overrides: list[str], share: float) -> None:
    defense = configured("+defense=re", *overrides)
    assert defense.a_l == defense.a_h == share
    assert defense.label == f"RE {share:g}"


def test_everything_else_is_that_of_midre() -> None:
    fixed, ranged = vars(configured("+defense=re")), vars(configured("+defense=midre"))
    assert {key: value for key, value in fixed.items() if value != ranged[key]} == {"a_l": 0.4}


def test_all_squares_have_one_side_and_new_places_in_every_step() -> None:
    model = VGG16(num_classes=2, image_size=64, width=0.125, mean=0.5, std=0.5)
    batch = Batch(torch.zeros(32, 3, 64, 64), torch.zeros(32).long(), torch.arange(32))
    generator = torch.Generator().manual_seed(0)
    defense = configured("+defense=re")
    first, second = (
        defense.on_batch(replace(batch), model, TrainingProgress(0, 1), generator).images != 0
        for _ in range(2)
    )
    for mask in (first, second):
        assert mask[:, 0].flatten(1).sum(1).unique().tolist() == [40 * 40]  # the golden side at 64 px
    assert int((first != second).flatten(1).any(1).sum()) > 28
