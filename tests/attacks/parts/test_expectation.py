"""Means over changed copies: AlignMI's noise and crops against the official loops' numbers, and the law of
each view.
"""

from __future__ import annotations

import zlib

import numpy as np
import pytest
import torch
from torch import Tensor

from attacks.losses import poincare
from attacks.parts.expectation import Expectation
from attacks.parts.optimisers import adam_step
from attacks.parts.views import CropMirrorRotate, FillRange, GaussianNoise
from midre_exp.data.transforms.random_crop import interpolation
from midre_exp.data.transforms.view import rotate
from midre_exp.diagnostics.alignment import alignment, jacobian
from midre_exp.errors import ConfigError
from midre_exp.seeding import ItemRNG
from tests.golden.fill import golden


def draw(key: str, *shape: int) -> Tensor:
    """The golden file's normal numbers, float64."""
    state = np.random.RandomState(zlib.crc32(key.encode()) & 0x7FFFFFFF)
    return torch.from_numpy(state.standard_normal(shape))


GOLDEN = golden("align_highres")
COPIES = 50
LABELS = torch.tensor(GOLDEN["labels"])
START = torch.tensor(GOLDEN["w0"], dtype=torch.float64)
A = 0.5 * draw("align.G", 48, 6)
FIRST, SECOND = 0.25 * draw("align.T1", 8, 48), 0.6 * draw("align.T2", 5, 8)


def seen(w: Tensor) -> Tensor:
    """The toy's picture after the attack's own steps."""
    return 1.1 * (w[:, 0] @ A.T).tanh().view(-1, 3, 4, 4).flip(-1)


def losses(images: Tensor, labels: Tensor) -> Tensor:
    return poincare((images.flatten(1) @ FIRST.T).tanh() @ SECOND.T, labels)


def averaged(view, step: int, images: Tensor) -> Tensor:
    """The mean loss of each item over 50 copies, changed by ``view(copies, copy number)``."""

    def changed(copies, rng, name, step):
        parts = copies.split(len(LABELS))
        return torch.cat([view(part, COPIES * step + j) for j, part in enumerate(parts)])

    everywhere = {"search": True, "optimisation": True, "selection": True}
    expectation = Expectation(copies=COPIES, views=[changed], **everywhere)
    rng = ItemRNG(0, "test", items=torch.arange(len(LABELS)))
    return expectation.of(images, rng, "copies", step, lambda c, _: losses(c, LABELS.repeat(COPIES)))


def gradient(view, w: Tensor, step: int) -> Tensor:
    """Without a view that of the plain attack."""
    w = w.detach().requires_grad_()
    each = losses(seen(w), LABELS) if view is None else averaged(view, step, seen(w))
    return torch.autograd.grad(each.mean(), w)[0]


def optimised(view, steps: int) -> Tensor:
    w, moments = START, (torch.zeros_like(START), torch.zeros_like(START))
    for step in range(steps):
        w, moments = adam_step(w, moments, gradient(view, w, step), step, lr=0.005, betas=(0.1, 0.1))
    return w


def noise_of_the_batch(images: Tensor, number: int) -> Tensor:
    sigma = 0.06 * (images.max() - images.min()).detach()
    return images + sigma * draw(f"align.paa.{number}", 2, 3, 4, 4)


def recorded_crop(images: Tensor, number: int) -> Tensor:
    top, left, height, width, mirrored, angle = GOLDEN["views"][number]
    rows, columns = (
        interpolation(*(torch.tensor([v], dtype=torch.float64) for v in box), 4, 4)
        for box in ((top, height), (left, width))
    )
    images = rows[:, None] @ images @ (columns.flip(1) if mirrored else columns)[:, None].mT
    return rotate(images, torch.full((len(images),), angle, dtype=torch.float64), fill=0.0)


def close(found: Tensor, expected: object) -> None:
    torch.testing.assert_close(found, torch.tensor(expected, dtype=torch.float64), rtol=0, atol=1e-9)


def test_paa_is_the_mean_gradient_over_noisy_copies():
    close(gradient(noise_of_the_batch, START, 0), GOLDEN["paa_w_gradient_step1"])
    images = seen(START).requires_grad_()
    (of_images,) = torch.autograd.grad(averaged(noise_of_the_batch, 0, images).mean(), images)
    close(of_images.flatten()[:8], GOLDEN["paa_mean_image_gradient_step1_first8"])
    close(of_images.norm(), GOLDEN["paa_mean_image_gradient_step1_norm"])
    close(0.06 * (images.max() - images.min()), GOLDEN["paa_sigma_step1"])


def test_gradients_of_images_lie_along_the_generators_pictures_as_far_as_the_official_program_says():
    tangents = jacobian(lambda w: seen(w[:, None]), START[:, 0])
    for view, name in ((None, "plain_gradient"), (noise_of_the_batch, "paa_gradient_of_step1")):
        images = seen(START).detach().requires_grad_()
        each = losses(images, LABELS) if view is None else averaged(view, 0, images)
        (of_images,) = torch.autograd.grad(each.mean(), images)
        close(alignment(of_images, tangents).ratio, GOLDEN["alignment"][name])


def test_paa_and_taa_lead_where_the_official_loops_do():
    close(gradient(None, START, 0), GOLDEN["plain_w_gradient_step1"])
    close(optimised(None, 3), GOLDEN["plain_w_after_3"])
    close(optimised(noise_of_the_batch, 1), GOLDEN["paa_w_after_1"])
    close(optimised(noise_of_the_batch, 3), GOLDEN["paa_w_after_3"])
    close(optimised(recorded_crop, 2), GOLDEN["taa_w_after_2"])


class Recorded:
    """Streams that give the golden file's noise, copy by copy."""

    def normal(self, name, *shape, step):
        return torch.cat([draw(f"align.paa.{number}", 2, *shape) for number in range(COPIES)])


def test_noise_takes_the_range_of_its_own_image():
    noise = GaussianNoise(sigma=0.06, range_of="image")
    images = seen(START)
    close(0.06 * (images.amax((1, 2, 3)) - images.amin((1, 2, 3))), GOLDEN["item_range_variant"]["sigma"])
    w = START.requires_grad_()
    copies = noise(seen(w).repeat(COPIES, 1, 1, 1), Recorded(), "copies", 0)
    mean = losses(copies, LABELS.repeat(COPIES)).mean()
    close(torch.autograd.grad(mean, w)[0], GOLDEN["item_range_variant"]["w_gradient"])


def test_copies_are_of_the_items_own_stream_and_the_first_is_its_own():
    rng = ItemRNG(3, "attack", items=torch.arange(4))
    many = rng.copies(3).uniform("x", 5).view(3, 4, 5)
    assert torch.equal(many[0], rng.uniform("x", 5))
    assert torch.equal(rng[2:].copies(3).uniform("x", 5).view(3, 2, 5), many[:, 2:])
    assert many.flatten(0, 1).unique(dim=0).shape[0] == 12


@pytest.mark.parametrize(
    "view",
    [
        GaussianNoise(sigma=0.1, range_of="scale"),
        CropMirrorRotate(scale=(0.8, 1.0), ratio=(0.9, 1.1), flip_p=0.5, degrees=5, fill=0.5),
    ],
)
def test_a_view_changes_an_image_alike_in_any_company(view):
    images, rng = torch.rand(5, 3, 12, 12), ItemRNG(1, "attack", items=torch.arange(5))
    whole = view(images, rng, "copies", 2)
    torch.testing.assert_close(view(images[3:], rng[3:], "copies", 2), whole[3:])
    assert not torch.allclose(view(images, rng, "copies", 3), whole)


def test_one_stream_for_all_changes_all_images_alike():
    view = GaussianNoise(sigma=1.0, range_of="scale")
    expectation = Expectation(copies=2, views=[view], search=True, optimisation=True, selection=True)
    shared = ItemRNG(0, "common", items=torch.zeros(1, dtype=torch.long))
    copies = []

    def ask(changed, streams):
        copies.append(changed)
        return changed

    expectation.of(torch.zeros(3, 3, 4, 4), shared, "selection", 0, ask)
    first, second = copies[0].split(3)
    assert torch.equal(first[0], first[2]) and not torch.equal(first[0], second[0])


def test_a_turned_corner_shows_the_fill():
    turned = rotate(torch.ones(1, 3, 9, 9), torch.tensor([45.0]), fill=0.5)
    assert turned[0, :, 0, 0].tolist() == [0.5] * 3 and turned[0, 0, 4, 4] == 1


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (lambda: GaussianNoise(sigma=-1, range_of="image"), "sigma=-1"),
        (lambda: GaussianNoise(sigma=1, range_of="batch"), "range_of=batch"),
        (lambda: expectation_of(copies=0), "copies=0"),
        (lambda: expectation_of(views=[3]), r"views\[0\] is a int"),
    ],
)
def test_what_cannot_be_averaged_over_is_told(make, told):
    with pytest.raises(ConfigError, match=told):
        make()


def expectation_of(**changes) -> Expectation:
    options = {"copies": 1, "views": [], "search": True, "optimisation": True, "selection": True}
    return Expectation(**{**options, **changes})


def test_an_image_fills_the_range_by_its_own_extremes_or_stays_as_it_is():
    images = torch.stack((torch.full((3, 2, 2), 0.3), torch.linspace(0.2, 0.7, 12).view(3, 2, 2)))
    images.requires_grad_()
    filled = FillRange()(images, ItemRNG(0, "test", items=torch.arange(2)), "copies", 0)
    torch.testing.assert_close(filled[0], images[0])
    torch.testing.assert_close(filled[1], torch.linspace(0, 1, 12).view(3, 2, 2))
    (gradient,) = torch.autograd.grad(filled.sum(), images)
    torch.testing.assert_close(gradient[:, 0, 0, 0], torch.tensor([1.0, 2.0]))  # extremes are constants
