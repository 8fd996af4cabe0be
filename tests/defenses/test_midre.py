from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hydra import compose as compose_config
from hydra import initialize_config_dir
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torchvision.transforms import RandomErasing

from defenses import MIDRE, Batch, TrainingProgress, erase_squares, sample_squares
from defenses.parts.squares import square_side
from midre_exp.errors import ConfigError
from midre_exp.plan.config import CONF_DIR, build
from midre_exp.seeding import ItemRNG
from midre_exp.targets.base import Classifier
from tests.devices import never_waiting

GOLDEN = json.loads((Path(__file__).parents[1] / "golden" / "defense_erasing.json").read_text())
RELEASED = {
    "a_l": 0.1,
    "a_h": 0.4,
    "area": "uniform",
    "rounding": "round",
    "fill": [0.485, 0.456, 0.406],
    "fill_space": "normalised_literal",
}
CLOCK = TrainingProgress(epoch=0, epochs=1)


class Toy(Classifier):
    """A linear classifier of 3 x 16 x 16 images."""

    head_name = "fc"

    def __init__(self, mean: float = 0.5, std: float = 0.5):
        super().__init__()
        self.set_normalisation(mean, std)
        self.fc = nn.Linear(3 * 16 * 16, 4)

    def stages(self) -> Any:
        return [("pixels", lambda x: x)]


def midre(**changes: Any) -> MIDRE:
    return MIDRE(**{**RELEASED, **changes})


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def random_batch(n: int, size: int = 16, seed: int = 0) -> Batch:
    images = (
        torch.rand(n, 3, size, size, generator=seeded(seed)) * 0.6
    )  # never as bright as the released fill
    return Batch(images=images, labels=torch.zeros(n, dtype=torch.int64), index=torch.arange(n))


def draw(n: int, height: int, width: int, seed: int = 0, **changes: Any) -> tuple[Tensor, Tensor, Tensor]:
    options = {"a_l": 0.1, "a_h": 0.4, "area": "uniform", "rounding": "round", **changes}
    return sample_squares(torch.rand(3, n, generator=seeded(seed)), height, width, **options)


def chi_square(counts: Tensor, expected: Tensor) -> float:
    return float(((counts - expected) ** 2 / expected).sum())


def chi_square_limit(cells: int) -> float:
    """Mean plus six standard deviations of the statistic: a right law stays below, a wrong one far above."""
    return (cells - 1) + 6 * math.sqrt(2 * (cells - 1))


# -- the released behaviour, by golden numbers --


@pytest.mark.parametrize(
    "case", GOLDEN["boxes"], ids=lambda case: f"{case['image_size']}px-{case['scale'][1]}"
)
def test_golden_boxes_give_the_output_of_torchvision_bit_for_bit(case: dict[str, Any]) -> None:
    size, scale = case["image_size"], case["scale"]
    images = torch.rand(len(case["by_seed"]), 3, size, size, generator=seeded(1)) * 2 - 1
    reference = RandomErasing(p=1.0, scale=scale, ratio=[1, 1], value=RELEASED["fill"])
    expected = []
    for image, (seed, box) in zip(images, case["by_seed"].items(), strict=True):
        torch.manual_seed(int(seed))
        expected.append(reference(image))
        # The reference draws: whether to erase at all, the share, the aspect ratio, the corner.
        torch.manual_seed(int(seed))
        torch.rand(1)
        share = torch.empty(1).uniform_(*scale).item()
        assert square_side(share, size, size, "round") == box[2] == box[3]
    top, left, side, _ = torch.tensor(list(case["by_seed"].values())).unbind(1)
    erased = erase_squares(images, top, left, side, torch.tensor(RELEASED["fill"]))
    assert torch.equal(erased, torch.stack(expected))


@pytest.mark.parametrize("share", GOLDEN["fixed_share_sides"])
def test_fixed_shares_give_the_golden_sides(share: str) -> None:
    for size, sides in GOLDEN["fixed_share_sides"][share].items():
        length = math.sqrt(float(share)) * int(size)
        for rounding, expected in {**sides, "ceil": math.ceil(length)}.items():
            fixed = {"a_l": float(share), "a_h": float(share), "rounding": rounding}
            side = draw(50, int(size), int(size), **fixed)[2]
            assert side.unique().tolist() == [expected], (size, rounding)


@pytest.mark.parametrize(
    "case", GOLDEN["area_statistics"], ids=lambda case: f"{case['image_size']}px-{case['scale'][1]}"
)
def test_shares_follow_the_golden_statistics(case: dict[str, Any]) -> None:
    size, (a_l, a_h), n = case["image_size"], case["scale"], 200_000
    joint_mean = next(
        value for key, value in case.items() if key.startswith("mean_share_if_area_and_position")
    )
    for area, mean in {
        "uniform": case["mean_share_area_uniform_then_placed"],
        "joint_rejection": joint_mean,
    }.items():
        side = draw(n, size, size, a_l=a_l, a_h=a_h, area=area)[2]
        share = side.double() ** 2 / size**2
        # Five standard errors, and what rounding the side moves the mean at most (about 1/12 pixel squared).
        tolerance = 5 * float(share.std()) / math.sqrt(n) + 1 / (6 * size**2)
        assert abs(float(share.mean()) - mean) < tolerance, area
        assert int(side.min()) == case["side_min"]
        assert float(share.min()) == pytest.approx(case["smallest_share_after_rounding"], abs=5e-6)
        assert int(side.max()) == case["side_max"]


def test_fill_is_written_after_the_models_normalisation_or_as_pixels() -> None:
    def filled(model: Toy, **changes: Any) -> list[float]:
        batch = random_batch(1)
        erased = midre(**changes).on_batch(batch, model, CLOCK, seeded(0)).images
        changed = (erased != batch.images).all(1)[0]
        colours = erased[0][:, changed]
        assert torch.equal(colours, colours[:, :1].expand_as(colours))
        return colours[:, 0].tolist()

    fill = GOLDEN["fill"]
    halves, unnormalised = Toy(0.5, 0.5), Toy(0.0, 1.0)
    assert filled(halves) == pytest.approx(fill["equivalent_pixel_0_1"], abs=1e-6)
    assert filled(unnormalised) == pytest.approx(fill["written_values_in_normalised_space"], abs=1e-7)
    assert filled(halves, fill_space="pixel") == pytest.approx([0.485, 0.456, 0.406], abs=1e-7)
    true_mean = fill["values_to_write_for_a_true_imagenet_mean_pixel_under_0.5_0.5"]
    assert filled(halves, fill=true_mean) == pytest.approx([0.485, 0.456, 0.406], abs=1e-6)


# -- the laws --


@pytest.mark.parametrize("rounding", ["round", "floor", "ceil"])
def test_uniform_sides_are_the_rounded_roots_of_uniform_areas(rounding: str) -> None:
    n, height, width = 20_000, 48, 80
    side = draw(n, height, width, rounding=rounding)[2]
    share = 0.1 + 0.3 * torch.rand(3, n, generator=seeded(0))[0].double()
    length = (share * height * width).sqrt()
    expected = {"round": length.round(), "floor": length.floor(), "ceil": length.ceil()}[rounding]
    assert int((side != expected.long()).sum()) <= 2  # a float32 tie may fall to the other side
    assert len(side.unique()) == square_side(0.4, height, width, rounding) - int(side.min()) + 1


@pytest.mark.parametrize(("height", "width"), [(64, 64), (48, 80)])
def test_joint_rejection_is_the_law_of_the_papers_loop(height: int, width: int) -> None:
    generator = seeded(3)
    a, x, y = torch.rand(3, 2_000_000, generator=generator, dtype=torch.float64)
    length = ((0.1 + 0.4 * a) * height * width).sqrt()
    kept = length[(x * width + length <= width) & (y * height + length <= height)].round().long()
    n = 200_000
    side = draw(n, height, width, a_h=0.5, area="joint_rejection")[2]
    loop = torch.bincount(kept, minlength=64).double()
    ours = torch.bincount(side, minlength=64).double()
    common = loop + ours > 40
    # Two samples of one law: compare each with its share of the pooled counts.
    pooled = ((loop + ours) / (len(kept) + n))[common]
    statistic = chi_square(loop[common], pooled * len(kept)) + chi_square(ours[common], pooled * n)
    assert statistic < chi_square_limit(int(common.sum()))
    uniform = torch.bincount(draw(n, height, width, a_h=0.5)[2], minlength=64).double()
    assert chi_square(uniform[common], pooled * n) > 100 * chi_square_limit(int(common.sum()))


def test_corners_are_uniform_over_all_positions_that_fit() -> None:
    n = 81_000
    top, left, side = draw(n, 16, 16, a_l=0.25, a_h=0.25)
    assert side.unique().tolist() == [8]
    counts = torch.bincount(top * 9 + left, minlength=81).double()
    assert len(counts) == 81
    assert chi_square(counts, torch.full((81,), n / 81, dtype=torch.float64)) < chi_square_limit(81)


@pytest.mark.parametrize("area", ["uniform", "joint_rejection"])
@pytest.mark.parametrize(("height", "width"), [(16, 16), (20, 33)])
def test_squares_never_cross_the_border_and_reach_it(area: str, height: int, width: int) -> None:
    top, left, side = draw(50_000, height, width, area=area)
    assert int(top.min()) == 0 and int(left.min()) == 0
    assert int((top + side).max()) == height and int((left + side).max()) == width
    assert top.dtype == left.dtype == side.dtype == torch.int64


def test_a_draw_that_rounds_up_to_one_still_fits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "rand", lambda *shape, **_: torch.ones(*shape))
    for area in ("uniform", "joint_rejection"):
        top, left, side = draw(2, 32, 40, area=area)
        assert side.tolist() == [square_side(0.4, 32, 40, "round")] * 2
        assert (top + side).tolist() == [32, 32] and (left + side).tolist() == [40, 40]


def test_sampling_and_erasing_read_no_value_back_from_the_device() -> None:
    generator = seeded(0)
    with FakeTensorMode():  # raises wherever the host would need a tensor's value
        images = torch.empty(4, 3, 32, 32)
        for area in ("uniform", "joint_rejection"):
            options: dict[str, Any] = {"a_l": 0.1, "a_h": 0.4, "area": area, "rounding": "round"}
            squares = sample_squares(torch.rand(3, 4, generator=generator), 32, 32, **options)
            assert erase_squares(images, *squares, torch.empty(3)).shape == images.shape


# -- the batch transform --


def test_each_image_loses_exactly_one_axis_aligned_square_and_nothing_else() -> None:
    batch = random_batch(300)
    before = batch.images.clone()
    erased = midre().on_batch(batch, Toy(), CLOCK, seeded(0)).images
    assert torch.equal(batch.images, before)
    mask = (erased != before).any(1)
    assert torch.equal(mask, (erased != before).all(1))
    rows, columns = mask.any(2), mask.any(1)
    assert torch.equal(mask, rows[:, :, None] & columns[:, None, :])  # a product of rows and columns...
    for covered in (rows, columns):  # ...each one run without a gap
        assert bool((covered.int().diff(dim=1).clamp(min=0).sum(1) + covered[:, 0].int() == 1).all())
    assert torch.equal(rows.sum(1), columns.sum(1))
    assert int(rows.sum(1).min()) >= square_side(0.1, 16, 16, "round")
    assert int(rows.sum(1).max()) <= square_side(0.4, 16, 16, "round")


def test_squares_differ_between_images_and_calls_and_repeat_with_the_seed() -> None:
    batch, model, generator = random_batch(64, size=32), Toy(), seeded(5)
    batch = replace(batch, images=batch.images[:1].expand(64, -1, -1, -1))
    first = midre().on_batch(batch, model, CLOCK, generator).images
    second = midre().on_batch(batch, model, CLOCK, generator).images
    again = midre().on_batch(batch, model, CLOCK, seeded(5)).images
    assert len(first.flatten(1).unique(dim=0)) > 55
    assert int((first != second).flatten(1).any(1).sum()) > 55
    assert torch.equal(first, again)


def test_half_precision_and_autocast_change_nothing_but_the_dtype() -> None:
    batch, model = random_batch(32), Toy()
    plain = midre().on_batch(batch, model, CLOCK, seeded(0)).images
    with torch.autocast("cpu", dtype=torch.bfloat16):
        under_autocast = midre().on_batch(batch, model, CLOCK, seeded(0)).images
    assert under_autocast.dtype == torch.float32
    assert torch.equal(under_autocast, plain)
    half = replace(batch, images=batch.images.bfloat16())
    erased = midre().on_batch(half, model, CLOCK, seeded(0)).images
    assert torch.equal(erased, plain.bfloat16())


def test_labels_and_index_pass_unchanged() -> None:
    batch = replace(random_batch(4), soft_labels=torch.eye(4))
    after = midre().on_batch(batch, Toy(), CLOCK, seeded(0))
    assert (
        after.labels is batch.labels and after.index is batch.index and after.soft_labels is batch.soft_labels
    )


@pytest.mark.gpu
def test_a_step_on_the_gpu_never_waits_for_it() -> None:
    batch, model = random_batch(16, size=64), Toy().cuda()
    batch = replace(batch, images=batch.images.cuda())
    generator = torch.Generator().manual_seed(0)
    midre().on_batch(batch, model, CLOCK, generator)  # the first call may load kernels
    erased = []
    with never_waiting():
        for area in ("uniform", "joint_rejection"):
            erased.append(midre(area=area).on_batch(batch, model, CLOCK, generator).images)
    assert all(images.is_cuda and not torch.equal(images, batch.images) for images in erased)


# -- mistakes, names and configs --


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"a_l": -0.1}, "a_l=-0.1"),
        ({"a_l": 0.5}, "a_l=0.5 exceeds defense.midre.a_h=0.4"),
        ({"a_h": 1}, "a_h=1 "),
        ({"a_h": "large"}, "a_h=large"),
        ({"a_h": float("nan")}, "a_h=nan"),
        ({"area": "gaussian"}, "area=gaussian"),
        ({"rounding": "up"}, "rounding=up"),
        ({"fill_space": "imagenet"}, "fill_space=imagenet"),
        ({"fill": [0.5, 0.5]}, "three numbers"),
        ({"fill": 0.5}, "three numbers"),
        ({"fill": "red"}, "three numbers"),
        ({"fill": [-0.03, -0.088, -0.188], "fill_space": "pixel"}, "leaves [0, 1]"),
    ],
)
def test_values_out_of_range_are_refused_by_name(changes: dict[str, Any], named: str) -> None:
    with pytest.raises(ConfigError) as error:
        midre(**changes)
    assert named in str(error.value)


@pytest.mark.parametrize(
    ("share", "height", "width", "side"), [(0.97, 8, 8, 8), (0.5, 20, 40, 20), (0.001, 8, 8, 0)]
)
def test_a_square_that_cannot_be_placed_is_refused_with_its_size(
    share: float, height: int, width: int, side: int
) -> None:
    with pytest.raises(ConfigError, match=rf"a_h={share:g} .* side {side} on {height}x{width} images"):
        draw(1, height, width, a_l=share, a_h=share)


def test_the_largest_square_short_of_the_image_is_placed() -> None:
    assert draw(4, 8, 8, a_l=0.75, a_h=0.75)[2].tolist() == [7] * 4


def test_whole_sides_survive_every_rounding() -> None:
    for rounding in ("round", "floor", "ceil"):
        assert square_side(0.81, 70, 70, rounding) == 63  # sqrt(0.81 * 4900) is 63.00000000000001 in doubles
        assert square_side(0.25, 64, 64, rounding) == 32


def test_labels_tell_range_and_fixed_share_apart() -> None:
    assert midre().label == "MIDRE [0.1, 0.4]"
    assert midre(a_l=0.3, a_h=0.3).label == "RE 0.3"


@pytest.mark.parametrize(
    ("overrides", "label"),
    [
        (["+defense=midre"], "MIDRE [0.1, 0.4]"),
        (["+defense=midre_wide"], "MIDRE [0.1, 0.8]"),
        (["+defense=midre", "defense.midre.a_h=0.8"], "MIDRE [0.1, 0.8]"),
        (["+defense=[nodef,midre]"], "MIDRE [0.1, 0.4]"),
    ],
)
def test_the_configs_build_the_released_defense_under_the_key_midre(overrides: list[str], label: str) -> None:
    with initialize_config_dir(str(CONF_DIR), version_base="1.3"):
        config = compose_config(overrides=overrides)
    defense = build(config.defense.midre)
    assert defense.label == label
    released = midre(a_h=defense.a_h)
    assert vars(defense) == vars(released)


def test_an_attacker_who_knows_it_erases_a_corner_seldom_and_the_centre_most() -> None:
    (view,) = MIDRE(**{**RELEASED, "a_l": 0.1, "a_h": 0.4}).informed(Toy()).views
    images, erased = torch.full((4000, 3, 32, 32), 7.0), torch.zeros(32, 32)
    for part in range(5):
        rng = ItemRNG(part, "test", items=torch.arange(4000))
        erased += (view(images, rng, "copies", 0) != 7).any(1).sum(0)
    share = erased / 20_000
    assert 0.001 < share[[0, 0, -1, -1], [0, -1, 0, -1]].mean() < 0.005
    assert 0.04 < share[[0, 16, -1, 16], [16, 0, 16, -1]].mean() < 0.06
    assert 0.72 < share[15:17, 15:17].mean() < 0.76
