from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torchvision.transforms import functional as reference

from defenses import Batch, TrainingProgress
from defenses.gaussian_blur import GaussianBlur, gaussian_blur
from midre_exp.errors import ConfigError
from midre_exp.targets.architectures.vgg import VGG16
from tests.devices import never_waiting

CLOCK = TrainingProgress(epoch=0, epochs=1)
MODEL = VGG16(num_classes=2, width=0.125)


def blur(**changes: Any) -> GaussianBlur:
    return GaussianBlur(**{"sigma": [0.1, 2.0], "kernel_size": 13, **changes})


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def batch(n: int = 6, size: int = 32) -> Batch:
    return Batch(torch.rand(n, 3, size, size, generator=seeded(1)), torch.zeros(n).long(), torch.arange(n))


@pytest.mark.parametrize("kernel_size", [1, 3, 13, 23])
@pytest.mark.parametrize(("height", "width"), [(32, 32), (12, 47)])
def test_every_image_is_blurred_as_torchvision_does_it_alone(
    kernel_size: int, height: int, width: int
) -> None:
    images = torch.rand(7, 3, height, width, generator=seeded(0))
    sigma = torch.tensor([0.1, 0.3, 0.5, 1.0, 1.7, 2.0, 9.0])
    ours = gaussian_blur(images, sigma, kernel_size)
    for image, blurred, width_of_one in zip(images, ours, sigma.tolist(), strict=True):
        expected = reference.gaussian_blur(image, [kernel_size, kernel_size], [width_of_one, width_of_one])
        assert float((blurred - expected).abs().max()) < 1e-5


def test_a_batch_is_blurred_as_its_parts() -> None:
    images, sigma = batch(6).images, torch.linspace(0.1, 2.0, 6)
    whole = gaussian_blur(images, sigma, 13)
    parts = [gaussian_blur(images[i : i + 2], sigma[i : i + 2], 13) for i in (0, 2, 4)]
    assert torch.allclose(whole, torch.cat(parts), atol=1e-6)


def test_grey_stays_grey_and_values_stay_in_range() -> None:
    grey = torch.full((3, 3, 16, 16), 0.4)
    assert torch.allclose(gaussian_blur(grey, torch.tensor([0.1, 1.0, 2.0]), 13), grey, atol=1e-6)
    sharp = (batch(3).images > 0.5).float()
    blurred = gaussian_blur(sharp, torch.tensor([0.1, 1.0, 2.0]), 13)
    assert float(blurred.min()) >= 0 and float(blurred.max()) <= 1 + 1e-6
    spread = blurred.flatten(1).std(1)
    assert spread[0] > spread[1] > spread[2]


def test_the_width_is_uniform_in_its_range_and_of_each_image_alone() -> None:
    n = 4000
    dot = torch.zeros(n, 1, 13, 13)
    dot[:, :, 6, 6] = 1
    given = Batch(dot, torch.zeros(n).long(), torch.arange(n))
    after = blur(sigma=[0.5, 1.5]).on_batch(given, MODEL, CLOCK, seeded(0)).images[:, 0]
    # The value at the dot over that beside it is exp(1 / (2 sigma^2)).
    sigma = (0.5 / (after[:, 6, 6] / after[:, 6, 7]).log()).sqrt().sort().values.double()
    assert float((sigma - (0.5 + (torch.arange(n) + 0.5) / n)).abs().max()) < 1.63 / math.sqrt(n) * 1.5


def test_one_width_for_all_is_possible() -> None:
    given = batch()
    after = blur(sigma=[1.0, 1.0]).on_batch(given, MODEL, CLOCK, seeded(0))
    assert torch.equal(after.images, gaussian_blur(given.images, torch.ones(6), 13))
    assert after.labels is given.labels and after.index is given.index


def test_autocast_and_half_precision_change_nothing_but_the_dtype() -> None:
    given = batch()
    plain = blur().on_batch(given, MODEL, CLOCK, seeded(0)).images
    with torch.autocast("cpu", dtype=torch.bfloat16):
        under_autocast = blur().on_batch(given, MODEL, CLOCK, seeded(0)).images
    assert under_autocast.dtype == torch.float32 and torch.equal(under_autocast, plain)
    half = blur().on_batch(replace(given, images=given.images.bfloat16()), MODEL, CLOCK, seeded(0)).images
    assert half.dtype == torch.bfloat16
    assert torch.allclose(half.float(), plain, atol=2**-7)


def test_nothing_is_read_back_from_the_device() -> None:
    with FakeTensorMode():  # raises wherever the host would need a tensor's value
        assert gaussian_blur(torch.empty(4, 3, 32, 32), torch.rand(4), 13).shape == (4, 3, 32, 32)


@pytest.mark.gpu
def test_a_step_on_the_gpu_never_waits_for_it_and_blurs_in_full_precision() -> None:
    given = batch(8, 64)
    on_gpu = replace(given, images=given.images.cuda())
    generator = torch.Generator().manual_seed(0)
    blur().on_batch(on_gpu, MODEL, CLOCK, generator)  # the first call may load kernels
    with never_waiting():
        blur().on_batch(on_gpu, MODEL, CLOCK, generator)
    sigma = torch.linspace(0.1, 2.0, 8)
    theirs = gaussian_blur(on_gpu.images, sigma.cuda(), 13).cpu()
    assert torch.allclose(gaussian_blur(given.images, sigma, 13), theirs, atol=1e-5)


def test_training_sees_blurred_images_and_tests_on_sharp_ones(tiny_training: Any) -> None:
    seen = tiny_training.Seen()
    _, numbers, history = tiny_training.train("blur", gaussian_blur=blur(sigma=[1.0, 2.0]), seen=seen)
    assert numbers["acc"] > 30
    sharp = tiny_training.data.load("train").images / 255
    assert bool((seen.images(0).flatten(2).std(2) < sharp.flatten(2).std(2)).all())
    assert not torch.equal(seen.images(0), seen.images(1))
    null = tiny_training.train("null", gaussian_blur=blur(sigma=[0, 0]))[2]
    assert null == tiny_training.train("plain")[2] != history


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"sigma": [0, 1]}, "defense.gaussian_blur.sigma=[0, 1] is no range"),
        ({"sigma": [2, 1]}, "sigma=[2, 1]"),
        ({"sigma": [1, float("inf")]}, "sigma=[1, inf]"),
        ({"sigma": 1.0}, "sigma=1.0"),
        ({"sigma": ["a", "b"]}, "is no range"),
        ({"kernel_size": 4}, "defense.gaussian_blur.kernel_size=4 must be an odd"),
        ({"kernel_size": -3}, "kernel_size=-3"),
        ({"kernel_size": 5.0}, "kernel_size=5.0"),
    ],
)
def test_values_out_of_range_are_refused_by_name(changes: dict[str, Any], named: str) -> None:
    with pytest.raises(ConfigError) as error:
        blur(**changes)
    assert named in str(error.value)


def test_a_kernel_too_wide_for_the_images_is_refused_with_the_widest_that_fits() -> None:
    with pytest.raises(ConfigError, match="kernel_size=17 is too wide for 8x8 images; use at most 15"):
        blur(kernel_size=17).on_batch(batch(2, 8), MODEL, CLOCK, seeded(0))
    assert blur(kernel_size=15).on_batch(batch(2, 8), MODEL, CLOCK, seeded(0)).images.shape == (2, 3, 8, 8)


def test_images_in_another_memory_layout_are_blurred_alike() -> None:
    images = torch.rand(3, 8, 9, 3).permute(0, 3, 1, 2)  # as an augmentation by indexing leaves them
    sigma = torch.tensor([0.5, 1.0, 2.0])
    assert torch.equal(gaussian_blur(images, sigma, 5), gaussian_blur(images.contiguous(), sigma, 5))
