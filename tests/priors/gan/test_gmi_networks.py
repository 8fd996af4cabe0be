from __future__ import annotations

import pytest
import torch

from midre_exp.errors import ConfigError
from midre_exp.priors import build_network
from midre_exp.priors.gan.gmi_networks import GMICritic, GMIGenerator
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


@pytest.mark.parametrize("name", ["gmi_generator", "gmi_discriminator"])
def test_keys_their_order_and_shapes_are_the_official_ones(name):
    ours, official = shapes_of(build_network(name)), official_shapes(name)
    assert list(ours.items()) == list(official.items())


@pytest.mark.parametrize("name", ["gmi_generator", "gmi_discriminator"])
def test_filled_network_answers_the_golden_numbers(name):
    expected = golden(name)
    network = fill(build_network(name))
    assert checksum(network) == pytest.approx(expected["filled_weights_checksum"], rel=1e-6)
    inputs = golden_latents(100) if name == "gmi_generator" else golden_images(64)
    with torch.no_grad():
        output = network(inputs)
    scores = name == "gmi_discriminator"  # sums of 8192 terms: float32 leaves 1e-6 of the largest term
    check_summary(output, expected["outputs"]["output"], absolute=1e-4 if scores else 0.0)


@pytest.mark.parametrize(("image_size", "layers"), [(16, 1), (32, 2), (64, 3), (128, 4)])
def test_other_sizes_drop_or_add_a_layer_in_both_networks(image_size, layers):
    generator = GMIGenerator(latent_dim=5, width=2, image_size=image_size).eval()
    critic = GMICritic(width=3, image_size=image_size)
    images = generator(torch.randn(2, 5))
    assert images.shape == (2, 3, image_size, image_size)
    assert ((images > 0) & (images < 1)).all()
    assert critic(images).shape == (2,)
    assert sum(isinstance(layer, torch.nn.Sequential) for layer in generator.l2_5) == layers
    assert sum(isinstance(layer, torch.nn.Sequential) for layer in critic.ls) == layers
    assert generator.channels == 2 * 2**layers


@pytest.mark.parametrize("image_size", [8, 48, 0])
def test_a_size_that_is_no_power_of_two_is_refused_by_name(image_size):
    for network in (GMIGenerator, GMICritic):
        with pytest.raises(ConfigError, match=f"prior.image_size={image_size} .*power of two"):
            network(image_size=image_size)


def test_a_score_does_not_depend_on_the_rest_of_the_batch():
    critic = fill(GMICritic(width=4, image_size=32)).train()
    images = golden_images(32, n=3)
    alone = torch.cat([critic(image[None]) for image in images])
    torch.testing.assert_close(critic(images), alone, rtol=0, atol=1e-5)


def test_an_unknown_network_or_option_is_refused_with_the_known_names():
    with pytest.raises(ConfigError, match=r"gmi_critic is unknown; use one of .*gmi_discriminator"):
        build_network("gmi_critic")
    with pytest.raises(ConfigError, match="gmi_generator cannot be built"):
        build_network("gmi_generator", depth=3)
