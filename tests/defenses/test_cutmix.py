from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from defenses import MIDRE, Batch, TrainingProgress, compose
from defenses.cutmix import CutMix, paste_boxes, sample_boxes, symmetric_beta
from midre_exp.data.base import ImageSet
from midre_exp.errors import ConfigError
from midre_exp.targets.architectures.vgg import VGG16
from tests.devices import never_waiting

CLOCK = TrainingProgress(epoch=0, epochs=1)
CLASSES = 5


def cutmix(**changes: Any) -> CutMix:
    defense = CutMix(**{"alpha": 1.0, "p": 1.0, "per_batch": False, **changes})
    names = tuple("abcde")
    defense.on_dataset(ImageSet(torch.zeros(1, 3, 8, 8).byte(), torch.zeros(1).long(), names), seed=0)
    return defense


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def tagged(n: int, size: int = 32) -> Batch:
    """Image i has the value i everywhere."""
    images = torch.arange(n).float().view(n, 1, 1, 1).expand(n, 3, size, size)
    return Batch(images, torch.randint(0, CLASSES, (n,), generator=seeded(1)), torch.arange(n))


MODEL = VGG16(num_classes=CLASSES, width=0.125)


def mixed(batch: Batch, generator: torch.Generator | None = None, **changes: Any) -> Batch:
    return cutmix(**changes).on_batch(batch, MODEL, CLOCK, generator or seeded(0))


def boxes_of(n: int, size: int, **changes: Any) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    options: dict[str, Any] = {"alpha": 1.0, "p": 1.0, "per_batch": False, **changes}
    return sample_boxes(n, size, size, **options, generator=seeded(2))


def area(boxes: tuple[Tensor, Tensor, Tensor, Tensor]) -> Tensor:
    top, bottom, left, right = boxes
    return (bottom - top) * (right - left)


# -- the laws --


@pytest.mark.parametrize("alpha", [0.01, 0.2, 0.5, 1.0, 2.5, 40.0])
def test_the_beta_draw_has_the_distribution_of_torchs(alpha: float) -> None:
    n = 200_000
    ours = symmetric_beta(alpha, *torch.rand(2, n, generator=seeded(0))).double().sort().values
    torch.manual_seed(0)
    theirs = torch.distributions.Beta(torch.tensor(alpha).double(), torch.tensor(alpha).double()).sample((n,))
    assert bool(((ours >= 0) & (ours <= 1)).all())
    # Kolmogorov-Smirnov on a grid, fine towards 0 and 1: two samples of one law exceed the limit once in ten
    # thousand times.
    ends = torch.logspace(-5, -1, 100).double()
    grid = torch.cat((ends, torch.linspace(0.1, 0.9, 1001).double(), 1 - ends))
    distance = torch.searchsorted(ours, grid) - torch.searchsorted(theirs.sort().values, grid)
    assert float(distance.abs().max()) / n < 0.0071
    variance = 1 / (4 * (2 * alpha + 1))
    assert float(ours.var()) == pytest.approx(variance, rel=0.02)


def test_alpha_one_is_uniform_to_a_thousandth() -> None:
    n = 4_000_000
    draw = symmetric_beta(1.0, *torch.rand(2, n, generator=seeded(3))).sort().values.double()
    assert float((draw - (torch.arange(n).double() + 0.5) / n).abs().max()) < 1.1e-3


def test_draws_at_the_ends_of_the_unit_interval_stay_finite() -> None:
    ends = torch.tensor([0.0, 1e-45, 0.25, 0.5, 0.75, 1 - 2**-24])
    for alpha in (1e-3, 1.0, 1e3):
        draw = symmetric_beta(alpha, *torch.meshgrid(ends, ends, indexing="ij"))
        assert bool(((draw >= 0) & (draw <= 1)).all())


def test_boxes_follow_the_published_rule() -> None:
    n, size = 200_000, 1000
    boxes = boxes_of(n, size)
    top, bottom, left, right = boxes
    assert int(top.min()) == int(left.min()) == 0
    assert int(bottom.max()) == int(right.max()) == size
    # With a side s of density 2s, a box cut off at the border covers s - s^2/4 of a direction on average: in
    # all the integral of 2s (s - s^2/4)^2, which is 77/240. Half sides are rounded down, which takes up to a
    # pixel of each half.
    share = area(boxes).double() / size**2
    assert float(share.mean()) == pytest.approx(77 / 240, abs=2e-3)
    # A box that is not cut off is square, and its centre is anywhere in the image.
    whole = (top > 0) & (left > 0) & (bottom < size) & (right < size)
    assert torch.equal((bottom - top)[whole], (right - left)[whole])
    small = whole & (bottom - top < 100)
    centre = ((top + bottom) // 2)[small].double()
    assert float(centre.mean()) == pytest.approx(size / 2, abs=5 * size / math.sqrt(12 * int(small.sum())))


def test_boxes_are_those_of_a_plain_loop() -> None:
    n, height, width = 300, 24, 40
    boxes = sample_boxes(n, height, width, alpha=0.7, p=0.8, per_batch=False, generator=seeded(4))
    draws = torch.rand(5, n, generator=seeded(4))
    for i in range(n):
        radius, angle, down, right, chance = draws[:, i].tolist()
        visible = float(symmetric_beta(0.7, *torch.tensor([[radius], [angle]])))
        cut = math.sqrt(1 - visible) if chance < 0.8 else 0.0
        for place, length, first, last in ((down, height, 0, 1), (right, width, 2, 3)):
            centre, half = int(place * length), int(length * cut) // 2
            expected = max(0, centre - half), min(length, centre + half)
            assert (int(boxes[first][i]), int(boxes[last][i])) == expected


# -- the mixture --


def test_lambda_is_exactly_the_visible_share_and_the_rest_is_one_other_image() -> None:
    batch = tagged(64)
    after = mixed(batch)
    assert after.soft_labels is not None
    values = after.images[:, 0].flatten(1)
    visible = (values == batch.index[:, None]).float().mean(1)
    partners = set()
    for i in range(64):
        others = values[i][values[i] != i].unique().tolist()
        assert len(others) <= 1
        partners.update(others)
        expected = torch.zeros(CLASSES)
        expected[batch.labels[i]] += visible[i]
        expected[batch.labels[int(others[0])] if others else batch.labels[i]] += 1 - visible[i]
        assert torch.allclose(after.soft_labels[i], expected, atol=1e-7, rtol=0)
    assert len(partners) > 45
    assert torch.equal(after.images[:, 0], after.images[:, 2])


def test_a_permutation_lends_every_image_once() -> None:
    batch, generator = tagged(32), seeded(8)
    lent = torch.zeros(32)
    defense = cutmix(alpha=1e-3)  # nearly every box is empty or the whole image
    for _ in range(400):
        corner = defense.on_batch(batch, MODEL, CLOCK, generator).images[:, 0, 16, 16].long()
        lent += torch.bincount(corner[corner != batch.index], minlength=32)
    assert bool(((lent - lent.mean()).abs() < 6 * lent.mean().sqrt()).all())


def test_labels_become_the_dominant_class() -> None:
    batch = tagged(200)
    after = mixed(batch)
    assert after.soft_labels is not None
    assert after.labels.dtype == torch.int64
    weight = after.soft_labels.gather(1, after.labels[:, None])[:, 0]
    assert torch.equal(weight, after.soft_labels.max(1).values)
    assert int((after.labels != batch.labels).sum()) > 20
    assert torch.allclose(after.soft_labels.sum(1), torch.ones(200))
    assert after.index is batch.index and torch.equal(batch.images, tagged(200).images)


def test_soft_labels_that_come_in_are_mixed_on() -> None:
    soft = torch.rand(16, CLASSES, generator=seeded(0)).softmax(1)
    batch = tagged(16)
    after, plain = mixed(replace(batch, soft_labels=soft)), mixed(batch)
    values = plain.images[:, 0].flatten(1)
    for i in range(16):
        others = values[i][values[i] != i]
        share = len(others) / values.shape[1]
        partner = int(others[0]) if len(others) else i
        assert after.soft_labels is not None
        assert torch.allclose(after.soft_labels[i], (1 - share) * soft[i] + share * soft[partner], atol=1e-6)


def test_per_batch_uses_one_box_for_all() -> None:
    boxes = boxes_of(20, 64, per_batch=True)
    assert all(len(edge) == 20 and len(edge.unique()) == 1 for edge in boxes)
    assert len(area(boxes_of(20, 64)).unique()) > 10
    assert torch.equal(mixed(tagged(6), per_batch=True).images, mixed(tagged(6), per_batch=True).images)


@pytest.mark.parametrize("per_batch", [False, True])
def test_p_is_the_probability_of_mixing(per_batch: bool) -> None:
    generator, calls, n = seeded(0), 400, 8
    chosen = torch.stack(
        [
            area(sample_boxes(n, 500, 500, alpha=1, p=0.3, per_batch=per_batch, generator=generator)) > 0
            for _ in range(calls)
        ]
    )
    independent = calls if per_batch else calls * n
    assert abs(float(chosen.float().mean()) - 0.3) < 5 * math.sqrt(0.21 / independent)
    assert bool((chosen.all(1) | ~chosen.any(1)).all()) is per_batch


def test_an_image_that_is_not_mixed_keeps_a_hard_label() -> None:
    batch = tagged(64)
    after = mixed(batch, p=0.5)
    whole = (after.images == batch.images).flatten(1).all(1)
    assert 15 < int(whole.sum()) < 50
    assert after.soft_labels is not None
    hard = torch.nn.functional.one_hot(batch.labels, CLASSES).float()
    assert torch.equal(after.soft_labels[whole], hard[whole])


def test_a_draw_repeats_with_the_seed_and_half_precision_stays() -> None:
    batch = tagged(16)
    assert torch.equal(mixed(batch).images, mixed(batch).images)
    assert not torch.equal(mixed(batch).images, mixed(batch, seeded(1)).images)
    half = mixed(replace(batch, images=batch.images.bfloat16()))
    assert half.images.dtype == torch.bfloat16
    assert torch.equal(half.images.float(), mixed(batch).images)


def test_nothing_is_read_back_from_the_device() -> None:
    generator = seeded(0)
    with FakeTensorMode():  # raises wherever the host would need a tensor's value
        options: dict[str, Any] = {"alpha": 0.5, "p": 0.5, "per_batch": False, "generator": generator}
        images = torch.empty(4, 3, 32, 32)
        after, visible = paste_boxes(images, images, *sample_boxes(4, 32, 32, **options))
        assert after.shape == images.shape and visible.shape == (4,)


@pytest.mark.gpu
def test_a_step_on_the_gpu_never_waits_for_it() -> None:
    batch = tagged(8)
    batch = replace(batch, images=batch.images.cuda(), labels=batch.labels.cuda())
    generator = torch.Generator().manual_seed(0)
    defense = cutmix()
    defense.on_batch(batch, MODEL, CLOCK, generator)  # the first call may load kernels
    with never_waiting():
        after = defense.on_batch(batch, MODEL, CLOCK, generator)
    assert after.images.is_cuda and after.images.shape == batch.images.shape
    assert not torch.equal(after.images, batch.images) and after.soft_labels is not None


# -- with the rest --


def test_training_aims_at_soft_labels_of_every_class(tiny_training: Any) -> None:
    seen = tiny_training.Seen()
    _, numbers, history = tiny_training.train(
        "cutmix", cutmix=CutMix(alpha=1.0, p=1.0, per_batch=False), seen=seen
    )
    assert numbers["acc"] > 30 and math.isfinite(history[-1]["loss"])
    for batch in seen.batches[0]:
        assert batch.soft_labels.shape == (len(batch.labels), 3)
    with_null = tiny_training.train("null", cutmix=CutMix(alpha=1.0, p=0.0, per_batch=False))[2]
    assert with_null == tiny_training.train("plain")[2] != history


def test_erasing_listed_after_it_erases_the_mixed_image() -> None:
    midre = MIDRE(a_l=0.4, a_h=0.4, area="uniform", rounding="round", fill=[0, 0, 0], fill_space="pixel")
    batch = replace(tagged(32), images=tagged(32).images + 1)
    last = compose(cutmix=cutmix(), midre=midre)
    assert last.label == "CutMix + RE 0.4"
    holes = last.on_batch(batch, MODEL, CLOCK, seeded(0)).images[:, 0] == 0
    assert holes.flatten(1).sum(1).unique().tolist() == [20 * 20]
    first = compose(midre=midre, cutmix=cutmix())
    holes = first.on_batch(batch, MODEL, CLOCK, seeded(0)).images[:, 0] == 0
    assert len(holes.flatten(1).sum(1).unique()) > 5  # boxes cover some of the holes and bring others


def test_soft_labels_need_the_data_first() -> None:
    with pytest.raises(RuntimeError, match="on_dataset"):
        CutMix(alpha=1.0, p=1.0, per_batch=False).on_batch(tagged(2), MODEL, CLOCK, seeded(0))


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"alpha": 0}, "defense.cutmix.alpha=0 "),
        ({"alpha": float("inf")}, "alpha=inf"),
        ({"alpha": "one"}, "alpha=one"),
        ({"p": 1.5}, "defense.cutmix.p=1.5"),
        ({"p": "often"}, "p=often"),
        ({"per_batch": "yes"}, "defense.cutmix.per_batch=yes must be true or false"),
    ],
)
def test_values_out_of_range_are_refused_by_name(changes: dict[str, Any], named: str) -> None:
    with pytest.raises(ConfigError) as error:
        cutmix(**changes)
    assert named in str(error.value)
