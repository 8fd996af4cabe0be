from __future__ import annotations

import pytest
import torch
import torchvision.transforms.functional as TF
from torch.nn import functional as F

from midre_exp.data.transforms.view import (
    NUMBERS,
    RandomView,
    crop_and_resize,
    flip_and_rotate,
    jitter,
    square_boxes,
)
from midre_exp.errors import ConfigError
from midre_exp.plan.config import build
from midre_exp.seeding import ItemRNG
from tests.data.distributions import same_law
from tests.fidelity.recorded import Recording, enlarged, unif
from tests.golden.fill import golden_images


def view(**changes) -> RandomView:
    """The view of conf/attack/prior/plgmi.yaml."""
    settings = {
        "scale": [0.8, 1.0],
        "brightness": 0.2,
        "contrast": 0.2,
        "saturation": True,
        "jitter_p": 0.5,
        "flip_p": 0.5,
        "degrees": 5,
        "rotation_p": 0.5,
    }
    return build({"_target_": "midre_exp.data.transforms.RandomView", **settings, **changes})


OFF = {"scale": [1, 1], "jitter_p": 0, "flip_p": 0, "rotation_p": 0}


def numbers(n: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(n, NUMBERS, generator=torch.Generator().manual_seed(seed))


# against torchvision and interpolation, given the same numbers


def test_a_crop_is_cut_out_and_interpolated_with_aligned_corners():
    images = golden_images(16, n=4)
    top, left, side = torch.tensor([[0.0, 2, 5, 1], [0, 3, 1, 2], [16, 12, 11, 14]])
    expected = [
        F.interpolate(
            image[None, :, int(t) : int(t + s), int(x) : int(x + s)],
            (16, 16),
            mode="bilinear",
            align_corners=True,
        )
        for image, t, x, s in zip(images, top, left, side, strict=True)
    ]
    torch.testing.assert_close(
        crop_and_resize(images, top, left, side), torch.cat(expected), rtol=0, atol=1e-5
    )


@pytest.mark.parametrize("brightness_first", [True, False])
def test_colours_are_those_of_torchvision_in_either_order(brightness_first):
    images = golden_images(16, n=3)
    brightness, contrast = torch.tensor([[0.8, 1.2, 1.13], [1.2, 0.8, 1.05]])
    expected = []
    for image, light, spread in zip(images, brightness.tolist(), contrast.tolist(), strict=True):
        steps = [(TF.adjust_brightness, light), (TF.adjust_contrast, spread)]
        for change, factor in steps if brightness_first else reversed(steps):
            image = change(image, factor)
        expected.append(image)
    found = jitter(images, brightness, contrast, torch.full((3,), brightness_first), torch.ones(3) > 0)
    # torchvision's weight of red is 0.2989 instead of 0.299: up to 0.2 x 1e-4
    torch.testing.assert_close(found, torch.stack(expected), rtol=0, atol=3e-5)


def test_a_rotation_is_that_of_torchvision_with_black_corners():
    images = golden_images(17, n=3)
    degrees = [5.0, -3.5, 0.0]
    expected = [
        TF.rotate(image, angle, interpolation=TF.InterpolationMode.BILINEAR)
        for image, angle in zip(images, degrees, strict=True)
    ]
    found = flip_and_rotate(images, torch.zeros(3, dtype=torch.bool), torch.tensor(degrees))
    torch.testing.assert_close(found, torch.stack(expected), rtol=0, atol=2e-5)
    assert found[0, :, 0, 0].max() < images[0, :, :2, :2].max()


def test_a_flip_comes_before_the_rotation():
    images = golden_images(16, n=2)
    degrees = torch.tensor([4.0, -5.0])
    both = flip_and_rotate(images, torch.tensor([True, False]), degrees)
    after = flip_and_rotate(
        torch.stack([images[0].flip(-1), images[1]]), torch.zeros(2, dtype=torch.bool), degrees
    )
    torch.testing.assert_close(both, after, rtol=0, atol=1e-6)


def test_a_view_is_the_four_steps_in_order():
    images = golden_images(16, n=50)
    draw = numbers(50)
    share, top, left, jittered, light, spread, order, flipped, rotated, turn = draw.unbind(1)
    expected = crop_and_resize(images, *square_boxes(16, (0.8, 1.0), share, top, left))
    saturated = (order < 1 / 6) | ((order >= 3 / 6) & (order < 4 / 6))
    coloured = jitter(expected, 0.8 + 0.4 * light, 0.8 + 0.4 * spread, order < 0.5, saturated)
    expected = torch.where((jittered < 0.5)[:, None, None, None], coloured, expected)
    expected = flip_and_rotate(expected, flipped < 0.5, torch.where(rotated < 0.5, 10 * turn - 5, 0.0))
    torch.testing.assert_close(view()(images, draw), expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("where", ["inside", "outside"])
def test_views_are_those_of_the_official_chain_also_of_what_a_generator_draws_outside_of_images(where):
    run = Recording.of("plgmi_views")
    images = enlarged(unif(f"{run.tag}/images", 6, 3, 16, 16).double(), 4)
    if where == "outside":
        images = 1.6 * images - 0.3
    for call, order, expected in zip(run["parameters"], run["order"], run[where], strict=True):
        top, left, side, jittered, light, spread, flipped, degrees = call.unbind(1)
        place = order.tolist().index  # 0 brightness, 1 contrast, 2 saturation
        first = torch.full((6,), place(0) < place(1))
        saturated = torch.full((6,), place(2) < min(place(0), place(1)))
        seen = crop_and_resize(images, top, left, side)
        seen = torch.where(
            (jittered > 0)[:, None, None, None], jitter(seen, light, spread, first, saturated), seen
        )
        seen = flip_and_rotate(seen, flipped > 0, degrees)
        torch.testing.assert_close(seen[..., ::8, ::8], expected, rtol=0, atol=1e-6)


def test_what_is_outside_of_images_is_clipped_before_both_colours_in_a_third_of_the_orders():
    images = golden_images(16, n=6) * 2 - 1
    draw = numbers(6)
    draw[:, 4:6], draw[:, 6] = 0.9, (torch.arange(6) + 0.5) / 6  # the factors, and the order
    bright = view(**{**OFF, "jitter_p": 1, "contrast": 1})
    changed = [
        torch.allclose(bright(one, row), bright(one.clamp(0, 1), row), atol=1e-5)
        for one, row in zip(images.split(1), draw.split(1), strict=True)
    ]
    # where brightness comes first, its own clip does the same to what is below 0
    assert changed == [True, True, True, True, False, False]


# properties


def test_with_everything_off_a_view_is_the_image():
    images = golden_images(16, n=4) * 2 - 1  # also outside [0, 1], as a fresh generator gives them
    torch.testing.assert_close(view(**OFF)(images, numbers(4)), images, rtol=0, atol=1e-5)


def test_only_changed_colours_are_clipped():
    images = golden_images(16, n=4) * 2 - 1
    assert view(**{**OFF, "jitter_p": 1})(images, numbers(4)).min() == 0
    assert view(**OFF)(images, numbers(4)).min() < -0.9


def test_a_view_does_not_depend_on_the_rest_of_the_batch():
    images = golden_images(16, n=5)
    streams = ItemRNG(0, "views", items=torch.arange(5))
    together = view()(images, streams.uniform("view", NUMBERS, step=3))
    for rows in (slice(0, 1), slice(2, 5)):
        alone = view()(images[rows], streams[rows].uniform("view", NUMBERS, step=3))
        torch.testing.assert_close(alone, together[rows], rtol=0, atol=1e-6)


def test_gradients_reach_the_image_and_are_right():
    images = golden_images(8, n=3).double() * 0.5 + 0.2
    one = torch.full((3, NUMBERS), 0.3)
    assert torch.autograd.gradcheck(
        lambda x: view()(x, one), (images.requires_grad_(),), eps=1e-6, atol=1e-4, fast_mode=True
    )
    (gradient,) = torch.autograd.grad(view()(images, one).sum(), images)
    assert (gradient.flatten(1).abs().sum(1) > 1).all()


def test_sides_and_corners_follow_kornias_rejection_law():
    draws = torch.Generator().manual_seed(0)
    n, size = 20000, 64
    top, left, side = square_boxes(size, (0.8, 1.0), *torch.rand(3, n, generator=draws))
    shares = 0.8 + 0.2 * torch.rand(n, 10, generator=draws)
    tries = (size * shares.sqrt()).round()  # the first of ten whose rounded side is below the image's
    accepted = tries < size
    reference = tries.gather(1, accepted.byte().argmax(1, keepdim=True))[accepted.any(1), 0]
    same_law(side, reference)
    room = size - reference
    corner = (torch.rand(len(reference), generator=draws) * (room + 1)).floor()
    for found in (top, left):
        same_law(found, corner)
    assert side.min() == 57 and side.max() == 63
    assert ((top >= 0) & (top + side <= size)).all()
    assert abs(torch.corrcoef(torch.stack([top / (size - side), left / (size - side)]))[0, 1]) < 0.03


@pytest.mark.parametrize("share", [0.0, 0.99999994])
def test_extreme_numbers_stay_inside(share):
    edge = torch.full((1,), share)
    for size, scale in [(4, (0.8, 1.0)), (16, (0.8, 1.0)), (64, (0.01, 0.02)), (64, (1.0, 1.0))]:
        top, left, side = square_boxes(size, scale, edge, edge, edge)
        assert 1 <= side <= size
        assert 0 <= top <= size - side
        assert top == left
    assert square_boxes(64, (1.0, 1.0), edge, edge, edge)[2] == 64
    assert square_boxes(64, (0.8, 1.0), edge, edge, edge)[2] == (57 if share == 0 else 63)


def test_each_change_comes_with_its_probability_and_strength():
    n = 4000
    images = torch.full((n, 3, 8, 8), 0.5)
    grey = view(**{**OFF, "jitter_p": 0.25})(images, numbers(n))[:, 0, 0, 0]
    changed = (grey - 0.5).abs() > 1e-4
    assert abs(changed.float().mean() - 0.25) < 0.03
    # contrast leaves a plain image alone, so the level is the brightness factor
    same_law(grey[changed], 0.4 + 0.2 * numbers(3000, seed=1)[:, 0])
    ramp = torch.linspace(0, 1, 8).expand(n, 3, 8, 8)
    flipped = view(**{**OFF, "flip_p": 0.7})(ramp, numbers(n))[:, 0, 0, 0] > 0.5
    assert abs(flipped.float().mean() - 0.7) < 0.03
    turned = view(**{**OFF, "rotation_p": 0.4})(ramp, numbers(n))
    moved = (turned[:, 0, 1, 4] - turned[:, 0, 6, 4]).abs() > 1e-6
    assert abs(moved.float().mean() - 0.4) < 0.03


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"scale": [0, 1]}, r"scale=\[0, 1\] is no range"),
        ({"scale": [0.9, 0.8]}, "is no range"),
        ({"scale": [0.9]}, "is no range"),
        ({"jitter_p": 1.5}, r"jitter_p=1.5 must lie in \[0, 1\]"),
        ({"brightness": -0.1}, "brightness=-0.1"),
        ({"degrees": 200}, "degrees=200"),
    ],
)
def test_impossible_settings_are_refused_by_name(changes, words):
    with pytest.raises(ConfigError, match=words):
        view(**changes)
