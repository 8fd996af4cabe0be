from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms import functional

from midre_exp.data.transforms import AlignedResize, EightBitResize, Resize, ResizeShorterSide
from midre_exp.errors import ConfigError
from tests.golden.fill import golden, golden_images

#: (height, width) -> size; 1024 -> 100 has many taps, 7 and 5 many edges.
PAIRS = [
    ((64, 64), 112),
    ((112, 112), 64),
    ((108, 108), 64),
    ((108, 108), 112),
    ((88, 88), 64),
    ((54, 54), 64),
    ((64, 64), 160),
    ((64, 50), 61),
    ((40, 90), 64),
    ((64, 100), 64),
    ((100, 64), 64),
    ((7, 5), 33),
    ((33, 31), 5),
    ((3, 1024), 100),
]


def batch(n: int, height: int, width: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(n, 3, height, width, generator=torch.Generator().manual_seed(seed))


def pillow(images: torch.Tensor, size: int) -> torch.Tensor:
    """The official pipelines, image by image: truncate to 8 bits, resize, divide by 255.

    An image that is not square gets its width first, then its height: in one call, Pillow 13 orders these by
    the shape of the image.
    """
    height, width = images.shape[-2:]
    resized = []
    for levels in images.mul(255).byte().permute(0, 2, 3, 1).numpy():
        one = Image.fromarray(levels)
        for shape in [(size, size)] if height == width else [(size, height), (size, size)]:
            one = one.resize(shape, Image.Resampling.BILINEAR)
        resized.append(np.asarray(one))
    return torch.from_numpy(np.stack(resized)).permute(0, 3, 1, 2).float().div(255)


@pytest.mark.parametrize(("shape", "size"), PAIRS)
def test_eight_bit_resize_equals_pillow_bit_for_bit(shape, size):
    images = torch.cat((batch(4, *shape), (batch(2, *shape, seed=1) > 0.5).float()))  # noise, and hard edges
    assert torch.equal(EightBitResize(size=size)(images), pillow(images, size))


def test_eight_bit_resize_of_an_image_does_not_depend_on_its_batch():
    images = batch(5, 64, 64)
    alone = torch.cat([EightBitResize(size=112)(one[None]) for one in images])
    assert torch.equal(EightBitResize(size=112)(images), alone)


def test_eight_bit_resize_at_the_right_size_only_truncates():
    images = torch.tensor([0.0, 0.999 / 255, 1 / 255, 1.0]).view(1, 1, 2, 2).expand(1, 3, 2, 2)
    expected = torch.tensor([0.0, 0.0, 1 / 255, 1.0]).view(1, 1, 2, 2).expand(1, 3, 2, 2)
    before = images.clone()
    assert torch.equal(EightBitResize(size=2)(images), expected)
    assert torch.equal(images, before)


@pytest.mark.parametrize(
    ("transform", "name"),
    [
        (EightBitResize, "eval_resize_pil_64_to_112"),
        (AlignedResize, "eval_resize_plgmi_align_corners_64_to_112"),
    ],
)
def test_evaluation_resizes_match_the_golden_numbers(transform, name):
    expected = golden("preprocessing_lowres")[name]
    resized = transform(size=112)(golden_images(64))
    assert list(resized.shape) == expected["shape"] and resized.dtype == torch.float32
    assert torch.allclose(resized.flatten()[:8], torch.tensor(expected["first8"]), atol=1e-6)
    patch = resized[0, 1, 30:34, 30:34]
    assert torch.allclose(patch, torch.tensor(expected["patch_c1_r30_c30_4x4"]), atol=1e-6)
    assert resized.double().mean().item() == pytest.approx(expected["mean"], abs=1e-7)
    assert resized.double().norm().item() == pytest.approx(expected["l2"], rel=1e-6)


@pytest.mark.parametrize(
    ("name", "shape", "crop", "size"),
    [
        ("celeba_218x178_crop108_to64", (218, 178), (55, 35, 108), 64),
        ("celeba_218x178_crop108_to112", (218, 178), (55, 35, 108), 112),
        ("ffhq_128_crop88_to64", (128, 128), (20, 20, 88), 64),
        ("facescrub_64_crop54_to64", (64, 64), (5, 5, 54), 64),
    ],
)
def test_crop_and_eight_bit_resize_reproduce_the_official_preprocessing(name, shape, crop, size):
    expected, (top, left, side) = golden("preprocessing_lowres")[name], crop
    noise = np.random.RandomState(0).randint(0, 256, size=(*shape, 3)).astype(np.uint8)
    images = torch.from_numpy(noise).permute(2, 0, 1)[None, :, top : top + side, left : left + side]
    resized = EightBitResize(size=size)(images.float().div(255))[0]
    assert torch.equal(resized.flatten()[:8], torch.tensor(expected["first8"]))
    assert torch.equal(resized[1, 30:34, 30:34], torch.tensor(expected["patch_c1_r30_c30_4x4"]))
    assert resized.double().norm().item() == pytest.approx(expected["l2"], rel=1e-6)


def test_aligned_resize_keeps_corners_and_the_right_size():
    images = batch(2, 9, 6)
    resized = AlignedResize(size=13)(images)
    assert torch.equal(resized[..., ::12, ::12], images[..., ::8, ::5])
    assert AlignedResize(size=6)(images[..., :6, :]).shape == (2, 3, 6, 6)
    square = images[..., :6, :]
    assert AlignedResize(size=6)(square) is square


def test_resizes_that_change_nothing_return_the_images_themselves():
    square = batch(2, 6, 6)
    assert Resize(size=6)(square) is square
    assert ResizeShorterSide(size=6)(square) is square


@pytest.mark.parametrize("shape", [(218, 178), (224, 224), (67, 101), (250, 33)])
@pytest.mark.parametrize("size", [31, 64, 80])
def test_both_forms_equal_torchvisions(shape, size):
    height, width = shape
    images = batch(2, height, width)
    picture = Image.fromarray(images[0].mul(255).byte().permute(1, 2, 0).numpy())
    pairs = [
        (Resize(size=size), functional.resize, [size, size]),
        (ResizeShorterSide(size=size), functional.resize, size),
        (ResizeShorterSide(size=size, margin=256 / 224), functional.resize, round(size * 256 / 224)),
    ]
    for transform, official, sides in pairs:
        expected = official(picture, sides)
        assert transform.on_picture(picture).size == expected.size
        assert transform.on_picture(picture).tobytes() == expected.tobytes()
        assert torch.allclose(transform(images), official(images, sides, antialias=True), atol=1e-6)


def test_sizes_that_cannot_work_are_refused():
    for transform in (Resize, ResizeShorterSide, EightBitResize, AlignedResize):
        with pytest.raises(ConfigError, match=f"{transform.__name__} size=0 must be"):
            transform(size=0)
        with pytest.raises(ConfigError, match=r"size=64\.0 must be"):
            transform(size=64.0)
    with pytest.raises(ConfigError, match=r"margin=0.9 must be at least 1"):
        ResizeShorterSide(size=8, margin=0.9)
