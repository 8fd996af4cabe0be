from __future__ import annotations

import pytest
import torch
from torch import nn

from midre_exp.errors import CheckpointError, ConfigError
from midre_exp.priors import build_network
from midre_exp.priors.gan.plgmi_networks import ConditionalBatchNorm, PLGMIDiscriminator, PLGMIGenerator
from midre_exp.weights.state_dict import load_checkpoint
from tests.golden.fill import (
    check_summary,
    checksum,
    fill,
    golden,
    golden_images,
    golden_latents,
    official_shapes,
    shapes_of,
)

NAMES = ["plgmi_generator", "plgmi_discriminator"]
LABELS = torch.tensor([3, 777])


@pytest.mark.parametrize("name", NAMES)
def test_keys_their_order_and_shapes_are_the_official_ones(name):
    network = build_network(name)
    assert list(shapes_of(network).items()) == list(official_shapes(name).items())
    assert sum(p.numel() for p in network.parameters()) == golden(name)["parameters"]


@pytest.mark.parametrize("name", NAMES)
def test_filled_network_answers_the_golden_numbers(name):
    expected = golden(name)
    network = fill(build_network(name))
    assert checksum(network) == pytest.approx(expected["filled_weights_checksum"], rel=1e-6)
    inputs = golden_latents(128) if name == "plgmi_generator" else golden_images(64)
    with torch.no_grad():
        check_summary(network(inputs, LABELS), expected["outputs"]["output"])


@pytest.mark.parametrize(("image_size", "ups"), [(16, 2), (32, 3), (64, 4), (128, 5)])
def test_other_sizes_drop_or_add_a_block_in_both_networks(image_size, ups):
    generator = PLGMIGenerator(num_classes=3, latent_dim=5, width=2, image_size=image_size).eval()
    discriminator = PLGMIDiscriminator(num_classes=3, width=2, image_size=image_size)
    images = generator(torch.randn(2, 5), torch.tensor([0, 2]))
    assert images.shape == (2, 3, image_size, image_size)
    assert discriminator(images, torch.tensor([0, 2])).shape == (2, 1)
    assert generator.channels == 2 * 2**ups
    assert len(generator.blocks) == ups
    assert len(discriminator.blocks) == ups + 1


@pytest.mark.parametrize("image_size", [8, 48, 0])
def test_a_size_that_is_no_power_of_two_is_refused_by_name(image_size):
    for network in (PLGMIGenerator, PLGMIDiscriminator):
        with pytest.raises(ConfigError, match=f"prior.image_size={image_size} .*power of two"):
            network(image_size=image_size)


@pytest.mark.parametrize("network", [PLGMIGenerator, PLGMIDiscriminator])
def test_a_published_file_loads_strictly(tmp_path, network):
    source, other = (network(num_classes=4, width=2, image_size=16) for _ in range(2))
    torch.save({"model": source.state_dict(), "epoch": 3}, tmp_path / "published.pth.tar")
    load_checkpoint(other, tmp_path / "published.pth.tar")
    assert all(torch.equal(value, source.state_dict()[key]) for key, value in other.state_dict().items())
    with pytest.raises(CheckpointError, match="does not fit"):
        load_checkpoint(network(num_classes=5, width=2, image_size=16), tmp_path / "published.pth.tar")


def test_keys_of_the_parametrised_spectral_norm_load_too():
    source, other = (PLGMIDiscriminator(num_classes=4, width=2, image_size=16).eval() for _ in range(2))
    parts = {
        "weight_orig": "parametrizations.weight.original",
        "weight_u": "parametrizations.weight.0._u",
        "weight_v": "parametrizations.weight.0._v",
        "bias": "bias",
    }
    renamed = {}
    for key, value in source.state_dict().items():
        layer, _, part = key.rpartition(".")
        renamed[f"{layer}.{parts[part]}"] = value
    kept = dict(renamed)
    nn.Sequential(other).load_state_dict({f"0.{key}": value for key, value in renamed.items()})
    other.load_state_dict(renamed)
    assert renamed == kept  # the given dictionary is not touched
    images, labels = golden_images(16), torch.tensor([1, 3])
    assert torch.equal(other(images, labels), source(images, labels))
    parametrised = nn.utils.parametrizations.spectral_norm(nn.Linear(8, 1))
    assert {f"l6.{key}" for key in parametrised.state_dict()} == {
        key for key in renamed if key.startswith("l6.")
    }
    with pytest.raises(RuntimeError, match="Missing key"):
        other.load_state_dict({key: value for key, value in kept.items() if not key.endswith("_v")})


def test_in_eval_mode_every_weight_has_spectral_norm_one():
    discriminator = fill(PLGMIDiscriminator(num_classes=4, width=4, image_size=16))
    discriminator(golden_images(16), torch.tensor([1, 3]))
    for name in ("block1.c1", "block3.c2", "block2.c_sc", "l6", "l_y"):
        weight = discriminator.get_submodule(name).weight
        norm = torch.linalg.matrix_norm(weight.flatten(1), 2)
        assert norm.item() == pytest.approx(1, abs=0.02)  # after 20 power iterations


def test_a_score_does_not_depend_on_the_rest_of_the_batch():
    discriminator = fill(PLGMIDiscriminator(num_classes=4, width=4, image_size=16))
    images, labels = golden_images(16, n=3), torch.tensor([0, 3, 1])
    alone = torch.cat([discriminator(images[i : i + 1], labels[i : i + 1]) for i in range(3)])
    torch.testing.assert_close(discriminator(images, labels), alone, rtol=0, atol=1e-5)


def test_the_label_changes_the_image_and_the_score_and_can_be_left_out_of_the_score():
    generator = fill(PLGMIGenerator(num_classes=4, width=4, image_size=16))
    discriminator = fill(PLGMIDiscriminator(num_classes=4, width=4, image_size=16))
    latents = golden_latents(128)
    first, second = (generator(latents, torch.full((2,), label)) for label in (0, 1))
    assert (first - second).abs().amax() > 1e-3
    zero, one = (discriminator(first, torch.full((2,), label)) for label in (0, 1))
    assert not torch.allclose(zero, one)
    without = discriminator(first)
    assert without.shape == (2, 1)
    assert not torch.allclose(without, zero)
    with torch.no_grad():
        discriminator.l_y.weight_orig[1:] = 0  # a class without a vector adds nothing
        discriminator.l_y.weight_u.copy_(nn.functional.one_hot(torch.tensor(0), 4))
    torch.testing.assert_close(discriminator(first, torch.tensor([1, 3])), without)


def test_conditional_batch_norm_is_batch_norm_with_a_row_per_class():
    norm = fill(ConditionalBatchNorm(5, 3)).train()
    x, labels = torch.randn(6, 5, 2, 2), torch.tensor([0, 1, 2, 0, 1, 2])
    plain = nn.functional.batch_norm(x, None, None, training=True)
    gain, shift = norm.weights.weight[labels], norm.biases.weight[labels]
    expected = torch.stack(
        [g[:, None, None] * p + s[:, None, None] for g, p, s in zip(gain, plain, shift, strict=True)]
    )
    torch.testing.assert_close(norm(x, labels), expected)
    fresh = ConditionalBatchNorm(5, 3)
    assert torch.equal(fresh.weights.weight, torch.ones(3, 5))
    assert not fresh.biases.weight.any()
