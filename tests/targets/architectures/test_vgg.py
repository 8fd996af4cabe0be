"""VGG16 against the official network's keys and numbers, and its reduced form."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from midre_exp.errors import ConfigError
from midre_exp.targets.architectures.vgg import VGG16
from tests.golden.fill import (
    check_summary,
    checksum,
    fill,
    golden,
    golden_images,
    official_shapes,
    shapes_of,
)


def test_keys_and_shapes_are_the_official_ones_in_official_order() -> None:
    model = VGG16(num_classes=1000)
    assert list(shapes_of(model).items()) == list(official_shapes("vgg16_64").items())
    assert sum(p.numel() for p in model.parameters()) == golden("vgg16_64")["parameters"]


@torch.no_grad()
def test_features_and_logits_are_the_official_networks() -> None:
    expected = golden("vgg16_64")
    model = fill(VGG16(num_classes=1000))
    assert checksum(model) == pytest.approx(expected["filled_weights_checksum"], rel=1e-9)
    output = model(golden_images(64))
    check_summary(output.features, expected["outputs"]["features"])
    check_summary(output.logits, expected["outputs"]["logits"])


def test_normalisation_is_none_by_default_and_not_part_of_the_state_dict() -> None:
    model = VGG16(num_classes=3, width=0.05)
    assert (model.mean == 0).all()
    assert (model.std == 1).all()
    assert not [key for key in model.state_dict() if "mean" in key.split(".")[0] or "std" in key]


@torch.no_grad()
def test_given_normalisation_is_applied_per_channel() -> None:
    plain = fill(VGG16(num_classes=3, width=0.05))
    normalised = fill(VGG16(num_classes=3, width=0.05, mean=(0.1, 0.2, 0.3), std=(0.5, 1.0, 2.0)))
    images = golden_images(64)
    by_hand = (images - torch.tensor([0.1, 0.2, 0.3])[:, None, None]) / torch.tensor([0.5, 1.0, 2.0])[
        :, None, None
    ]
    torch.testing.assert_close(normalised(images).logits, plain(by_hand).logits)


@pytest.mark.parametrize("options", [{"mean": (0.5, 0.5)}, {"std": 0.0}, {"std": (1.0, 1.0, -1.0)}])
def test_normalisation_that_cannot_work_is_refused(options: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match=f"model.{next(iter(options))}="):
        VGG16(num_classes=3, width=0.05, **options)  # type: ignore[arg-type]


def test_the_shift_of_the_feature_norm_is_frozen_at_zero() -> None:
    model = VGG16(num_classes=3, width=0.05)
    assert not model.bn.bias.requires_grad
    assert (model.bn.bias == 0).all()
    assert [name for name, p in model.named_parameters() if not p.requires_grad] == ["bn.bias"]


@pytest.mark.parametrize("image_size", [32, 64])
@pytest.mark.parametrize("width", [0.125, 0.3])
def test_reduced_networks_run_forward_and_backward(width: float, image_size: int) -> None:
    model = VGG16(num_classes=5, width=width, image_size=image_size)
    images = golden_images(image_size, n=3).requires_grad_()
    output = model(images)
    assert output.features.shape == (3, round(512 * width) * (image_size // 32) ** 2)
    assert output.logits.shape == (3, 5)
    nn.functional.cross_entropy(output.logits, torch.tensor([0, 1, 2])).backward()
    assert images.grad is not None
    assert images.grad.abs().sum() > 0
    assert all(p.grad is not None for p in model.parameters() if p.requires_grad)


@torch.no_grad()
def test_taps_are_the_five_pooled_blocks_with_the_last_after_the_feature_norm() -> None:
    model = fill(VGG16(num_classes=5, width=0.125))
    images = golden_images(64)
    taps = model(images, taps=[f"block{n}" for n in range(1, 6)]).taps
    ends = [7, 14, 24, 34]  # torchvision's indices after each of the first four pools
    for number, end in enumerate(ends, start=1):
        torch.testing.assert_close(taps[f"block{number}"], model.feature[:end](images), rtol=0, atol=0)
    assert [taps[f"block{n}"].shape[1:] for n in (1, 2, 3, 4)] == [
        (8, 32, 32),
        (16, 16, 16),
        (32, 8, 8),
        (64, 4, 4),
    ]
    torch.testing.assert_close(taps["block5"], model.bn(model.feature(images).flatten(1)))
    torch.testing.assert_close(taps["block5"], model(images).features)


@pytest.mark.parametrize("image_size", [0, 16, 48, 100])
def test_sizes_that_do_not_halve_five_times_are_refused(image_size: int) -> None:
    with pytest.raises(ConfigError, match=f"image_size={image_size} must be a multiple of 32"):
        VGG16(num_classes=5, image_size=image_size)


@pytest.mark.parametrize("width", [0.0, -1.0])
def test_a_width_that_is_not_positive_is_refused(width: float) -> None:
    with pytest.raises(ConfigError, match="must be positive"):
        VGG16(num_classes=5, width=width)
