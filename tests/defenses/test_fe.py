from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hydra import compose as compose_config
from hydra import initialize_config_dir
from torch import Tensor

from defenses.fe import FixedErasing, fixed_corners
from midre_exp.data.base import ImageSet
from midre_exp.errors import ConfigError
from midre_exp.plan.config import CONF_DIR, build

GOLDEN = json.loads((Path(__file__).parents[1] / "golden" / "defense_erasing.json").read_text())
HISTORY = {"share": 0.4, "rounding": "floor", "corner": "half_open", "fill": [0.485, 0.456, 0.406]}
MEAN = torch.tensor([124, 116, 104], dtype=torch.uint8).view(1, 3, 1, 1)


def fe(**changes: Any) -> FixedErasing:
    return FixedErasing(**{**HISTORY, **changes})


def dark(n: int, height: int, width: int) -> ImageSet:
    """Random images darker than any channel of the fill, so that every erased pixel shows."""
    images = torch.randint(0, 100, (n, 3, height, width), generator=torch.Generator().manual_seed(0)).byte()
    return ImageSet(images, torch.arange(n) % 3, ("a", "b", "c"))


def squares(before: Tensor, after: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """(top, left, side) of what changed in each image; checks that it is a filled square and nothing else."""
    mask = (before != after).any(1)
    rows, columns = mask.any(2), mask.any(1)
    assert torch.equal(mask, rows[:, :, None] & columns[:, None, :])
    side = rows.sum(1)
    assert torch.equal(side, columns.sum(1))
    corners = rows.byte().argmax(1), columns.byte().argmax(1)
    for covered, first in zip((rows, columns), corners, strict=True):
        position = torch.arange(covered.shape[1])
        inside = (position >= first[:, None]) & (position < (first + side)[:, None])
        assert torch.equal(covered, inside)
    assert torch.equal(after, torch.where(mask[:, None], MEAN, before))
    return *corners, side


def test_each_stored_image_loses_one_square_of_the_mean_colour_and_nothing_else() -> None:
    train = dark(600, 20, 33)  # more than two blocks
    before = train.images.clone()
    after = fe().on_dataset(train, seed=0)
    top, left, side = squares(before, after.images)
    assert side.unique().tolist() == [math.floor(math.sqrt(0.4 * 20 * 33))] == [16]
    assert len((top * 33 + left).unique()) > 50  # places of their own
    assert torch.equal(train.images, before) and after.images.dtype == torch.uint8
    assert after.labels is train.labels and after.classes == train.classes


@pytest.mark.parametrize("share", GOLDEN["fixed_share_sides"])
def test_sides_are_the_golden_ones(share: str) -> None:
    for size, sides in GOLDEN["fixed_share_sides"][share].items():
        train = dark(2, int(size), int(size))
        for rounding, expected in sides.items():
            after = fe(share=float(share), rounding=rounding).on_dataset(train, seed=1)
            assert squares(train.images, after.images)[2].tolist() == [expected] * 2


def test_corners_are_uniform_over_the_whole_numbers_of_the_history_or_over_all_places() -> None:
    n, side = 40_000, 5  # sqrt(0.4 * 8 * 8) = 5.06
    train = ImageSet(torch.zeros(n, 3, 8, 8, dtype=torch.uint8), torch.zeros(n).long(), ("a",))
    for corner, places in {"half_open": 8 - side, "closed": 8 - side + 1}.items():
        top, left, _ = squares(train.images, fe(corner=corner).on_dataset(train, seed=3).images)
        counts = torch.bincount(top * places + left, minlength=places**2).double()
        assert len(counts) == places**2  # no place beyond the last
        expected = n / places**2
        statistic = float(((counts - expected) ** 2 / expected).sum())
        freedom = places**2 - 1
        assert statistic < freedom + 6 * math.sqrt(2 * freedom)


def test_the_place_is_a_function_of_seed_and_index_alone() -> None:
    whole, part = fixed_corners(1000, 90, 70, seed=4), fixed_corners(10, 90, 70, seed=4)
    assert all(torch.equal(a[:10], b) for a, b in zip(whole, part, strict=True))
    torch.manual_seed(9)
    assert all(torch.equal(a, b) for a, b in zip(whole, fixed_corners(1000, 90, 70, seed=4), strict=True))
    other = fixed_corners(1000, 90, 70, seed=5)
    assert int((whole[0] == other[0]).sum()) < 50
    assert int(whole[0].max()) == 89 and int(whole[1].max()) == 69
    correlation = torch.corrcoef(torch.stack(whole).double())[0, 1]
    assert abs(float(correlation)) < 5 / math.sqrt(1000)


def test_mapped_images_stay_as_they_are(tmp_path: Path) -> None:
    train = dark(5, 16, 16)
    path = tmp_path / "pixels.u8"
    path.write_bytes(train.images.numpy().tobytes())
    mapped = torch.from_numpy(np.memmap(path, np.uint8, mode="c", shape=(5, 3, 16, 16)))
    after = fe().on_dataset(replace(train, images=mapped), seed=0)
    assert torch.equal(mapped, train.images)
    assert torch.equal(after.images, fe().on_dataset(train, seed=0).images)


def test_training_sees_one_hole_per_image_in_every_epoch_and_after_a_resume(tiny_training: Any) -> None:
    train, Seen = tiny_training.train, tiny_training.Seen
    whole, broken, resumed = Seen(), Seen(killed_at=1), Seen()
    _, numbers, _ = train("whole", fe=fe(), seen=whole)
    with pytest.raises(RuntimeError, match="killed"):
        train("broken", fe=fe(), seen=broken)
    train("broken", fe=fe(), seen=resumed)
    assert numbers["acc"] > 30
    expected = fe().on_dataset(tiny_training.data.load("train"), seed=0).images
    for images in (whole.images(0), whole.images(2), broken.images(0), resumed.images(1), resumed.images(2)):
        assert torch.equal((images * 255).round().byte(), expected)
    assert set(resumed.batches) == {1, 2}


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"share": 1}, "defense.fe.share=1 "),
        ({"share": -0.1}, "share=-0.1"),
        ({"share": "half"}, "share=half"),
        ({"rounding": "up"}, "defense.fe.rounding=up is unknown; use one of round, floor, ceil"),
        ({"corner": "any"}, "defense.fe.corner=any is unknown; use one of half_open, closed"),
        ({"fill": [0.5, 0.5]}, "three pixel values"),
        ({"fill": [0.5, 0.5, 124]}, "three pixel values"),
        ({"fill": "grey"}, "three pixel values"),
    ],
)
def test_values_out_of_range_are_refused_by_name(changes: dict[str, Any], named: str) -> None:
    with pytest.raises(ConfigError) as error:
        fe(**changes)
    assert named in str(error.value)


@pytest.mark.parametrize(("share", "side"), [(0.001, 0), (0.99, 8)])
def test_a_square_that_cannot_be_placed_is_refused_with_its_size(share: float, side: int) -> None:
    with pytest.raises(ConfigError, match=rf"share={share:g} .* side {side} on 8x8 images"):
        fe(share=share, rounding="round").on_dataset(dark(2, 8, 8), seed=0)


def test_the_config_builds_the_scheme_of_the_early_history() -> None:
    with initialize_config_dir(str(CONF_DIR), version_base="1.3"):
        config = compose_config(overrides=["+defense=fe"])
    assert list(config.defense) == ["fe"]
    built = build(config.defense.fe)
    assert vars(built) == vars(fe()) and built.label == "FE 0.4"
