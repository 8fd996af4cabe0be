"""The StyleGAN2 prior: golden pictures through its interface, three kinds of published files, and its
training.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from midre_exp.data.base import ImageSet
from midre_exp.errors import CheckpointError, ConfigError
from midre_exp.priors.stylegan.ada import adapted, augment
from midre_exp.priors.stylegan.discriminator import StyleGAN2Discriminator
from midre_exp.priors.stylegan.files import load_networks
from midre_exp.priors.stylegan.generator import StyleGAN2Generator
from midre_exp.priors.stylegan.losses import (
    discriminator_loss,
    generator_loss,
    mixed,
    path_lengths,
    squared_gradients,
)
from midre_exp.priors.stylegan.nvidia_fixture import write_stylegan2
from midre_exp.priors.stylegan.stylegan1 import StyleGAN1Generator
from midre_exp.priors.stylegan.training import StyleGAN2Training
from midre_exp.priors.stylegan2 import StyleGAN2Prior
from midre_exp.runtime import Runtime
from tests.priors.small import official, public, same, small
from tests.priors.stylegan import test_genforce, test_networks, test_nvidia_pickle
from tests.priors.stylegan.test_networks import CASES, WS, Z, check

# pictures


@pytest.fixture(scope="module")
def golden_prior() -> Any:
    """By ``natural``: with the numbers of the golden file, plain or rescaled so that the latents matter."""
    sizes = {"image_size": 64, "z_dim": 64, "w_dim": 64, "mapping_layers": 2}
    priors = {}
    for natural in (False, True):
        priors[natural] = official(
            "stylegan2", **sizes, channel_base=1024, channel_max=64, conv_clamp=None
        ).eval()
        test_networks.filled(priors[natural].generator, natural=natural)
    return priors


def raw(picture: Tensor) -> Tensor:
    return 2 * picture - 1


@torch.no_grad()
def test_latents_become_the_golden_codes_and_pictures(golden_prior):
    prior, case = golden_prior[True], CASES["natural_scale"]
    assert (prior.z_dim, prior.latent_dim, prior.w_dim, prior.num_ws, prior.num_blocks) == (64, 64, 64, 10, 5)
    codes = prior.codes(Z)
    check(codes[:, 3], case["w"])
    check(raw(prior.generate(Z)), case["image"])
    assert torch.equal(prior.generate(codes), prior.generate(Z))
    assert torch.equal(prior.generate(codes[:, :1]), prior.generate(Z)), "one code serves all layers"
    assert prior.generate(Z).max() > 1, "nothing is clamped"


def test_a_code_per_layer_gives_the_golden_picture_and_gradient(golden_prior):
    codes = WS.clone().requires_grad_()
    image = raw(golden_prior[False].synthesise(codes))
    check(image, CASES["distinct_w"]["image_noise_const"])
    check(torch.autograd.grad(image.square().mean(), codes)[0], CASES["distinct_w"]["grad_wrt_W"], atol=1e-8)


@torch.no_grad()
@pytest.mark.parametrize("start", [1, 2, 3, 4])
def test_a_restart_between_blocks_gives_the_golden_image(golden_prior, start):
    prior = golden_prior[False]
    features, image = prior.run_blocks(WS, stop=start)
    check(prior.run_blocks(WS, features, start=start)[1], CASES["restart_without_rgb"][str(start)]["image"])
    whole = prior.run_blocks(WS, features, image, start=start)[1]
    assert torch.equal(prior.as_picture(whole), prior.synthesise(WS))


@torch.no_grad()
def test_truncation_is_that_of_the_mapping_network_and_knows_codes_of_any_form(golden_prior):
    prior = golden_prior[True]
    for psi, cutoff in ((0.7, 8), (0.5, None), (0.0, 3), (1.0, 2)):
        expected = prior.generator.mapping(Z, truncation_psi=psi, truncation_cutoff=cutoff)
        assert torch.equal(prior.codes(Z, psi=psi, cutoff=cutoff), expected)
        for code in (prior.codes(Z)[:, 0], prior.codes(Z)[:, :1], prior.codes(Z)):
            assert torch.equal(prior.truncate(code, psi=psi, cutoff=cutoff), expected)
    torch.testing.assert_close(prior.codes(Z, psi=0.0), prior.w_avg.expand(2, 10, 64))


@torch.no_grad()
def test_published_half_precision_is_not_used(golden_prior):
    exact = golden_prior[False]
    prior = official(
        "stylegan2", image_size=64, z_dim=64, w_dim=64, mapping_layers=2, channel_base=1024, channel_max=64
    )
    half = test_networks.generator(num_fp16_res=2, conv_clamp=256)
    prior.take(test_networks.filled(half), None)
    assert torch.equal(prior.synthesise(WS), exact.synthesise(WS))
    assert prior.run_blocks(WS)[0].dtype == torch.float32


@torch.no_grad()
def test_realism_of_an_image_does_not_depend_on_the_batch():
    prior = small("stylegan2").eval()
    images = torch.rand(5, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    scores = prior.realism(images)
    assert scores.shape == (5,)
    torch.testing.assert_close(scores[3:4], prior.realism(images[3:4]))
    assert scores.std() > 0
    assert not torch.allclose(scores[:4], prior.discriminator(raw(images[:4]))[:, 0]), (
        "the group plays a part"
    )


def test_codes_of_another_shape_are_refused(golden_prior):
    for shape in ((2, 63), (2, 3, 64), (64,)):
        with pytest.raises(ConfigError, match=r"codes have shape \[.*give \[n, 64\] or \[n, 1 or 10, 64\]"):
            golden_prior[False].layerwise(torch.zeros(shape))


# files


def converted(path: Path) -> StyleGAN2Generator:
    network = test_genforce.stylegan2()
    torch.save({"state_dict": network.state_dict()}, path)
    return network


def genforce(path: Path) -> StyleGAN2Generator:
    network = test_genforce.stylegan2()
    torch.save({"generator_smooth": test_genforce.to_genforce(network)}, path)
    return network


def genforce_before_zip(path: Path) -> StyleGAN2Generator:
    network = test_genforce.stylegan2()
    state = {"generator_smooth": test_genforce.to_genforce(network)}
    torch.save(state, path, _use_new_zipfile_serialization=False)
    return network


def genforce_stylegan(path: Path) -> None:
    torch.save({"generator": test_genforce.stylegan_state()}, path)


def pickle(path: Path, *, with_discriminator: bool = True, **entries: Any) -> StyleGAN2Generator:
    maker = test_nvidia_pickle
    content = {"G_ema": maker.network(), **entries}
    if with_discriminator:
        content["D"] = maker.official(
            StyleGAN2Discriminator(**maker.DISCRIMINATOR), _init_kwargs=maker.DISCRIMINATOR
        )
    path.write_bytes(maker.pickled(content))
    return maker.generator()


@torch.no_grad()
@pytest.mark.parametrize("make", [converted, genforce, genforce_before_zip, pickle])
def test_each_kind_of_file_is_known_by_its_content_and_draws_what_its_network_drew(tmp_path, make):
    path = tmp_path / "weights.bin"
    network = make(path)
    prior = official("stylegan2", pretrained=str(path), image_size=network.img_resolution)
    assert (prior.z_dim, prior.w_dim) == (network.z_dim, network.w_dim)
    assert prior.fit(None, None, seed=0, work=tmp_path, runtime=Runtime()) == {}
    z = torch.randn(2, network.z_dim, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(raw(prior.generate(z)), network(z, force_fp32=True), rtol=1e-5, atol=1e-5)
    assert not any(p.requires_grad for p in prior.parameters())
    assert (prior.discriminator is not None) == (make is pickle)
    again = official("stylegan2", pretrained=str(path), image_size=network.img_resolution, seed=1)
    again.load_state_dict({key: value + 1 for key, value in prior.state_dict().items()})
    assert not same(again, prior)
    again.load_state_dict(prior.state_dict())
    assert same(again, prior)


@torch.no_grad()
def test_the_first_stylegan_draws_but_has_no_blocks_for_ifgmi(tmp_path):
    path = tmp_path / "stylegan.pth"
    genforce_stylegan(path)
    prior = official("stylegan2", pretrained=str(path), image_size=16)
    assert isinstance(prior.generator, StyleGAN1Generator)
    assert (prior.num_ws, prior.num_blocks, prior.z_dim, prior.w_dim) == (6, 3, 6, 6)
    z = torch.randn(2, 6)
    assert torch.equal(raw(prior.generate(z)), raw(prior.as_picture(prior.generator(z))))
    truncated = prior.synthesise(prior.codes(z, psi=0.7, cutoff=4))
    assert torch.equal(
        truncated, prior.as_picture(prior.generator(z, truncation_psi=0.7, truncation_cutoff=4))
    )
    with pytest.raises(ConfigError, match=r"attack ifgmi optimises between the blocks of StyleGAN2"):
        prior.run_blocks(prior.codes(z))
    with pytest.raises(ConfigError, match=r"holds no discriminator"):
        prior.realism(prior.generate(z))


def test_another_size_than_the_file_has_is_refused(tmp_path):
    path = tmp_path / "weights.pt"
    converted(path)
    with pytest.raises(ConfigError, match=r"prior.image_size=1024, but .*weights.pt draws 16 pixels; set it"):
        official("stylegan2", pretrained=str(path))


def refusal(path: Path) -> str:
    with pytest.raises(CheckpointError) as caught:
        official("stylegan2", pretrained=str(path))
    text = str(caught.value)
    assert text.startswith(f"{path} ")
    assert "\n" not in text
    assert "; " in text, "no remedy"
    return text.removeprefix(f"{path} ")


def test_files_of_none_of_the_three_kinds_are_refused_in_a_sentence(tmp_path):
    path = tmp_path / "weights.pth"
    assert refusal(path).startswith("does not exist")
    path.write_bytes(b"<html>")
    assert refusal(path).startswith("is a web page")
    path.write_bytes(b"PK\x03\x04 and no more")
    assert refusal(path).startswith("is damaged or holds more than tensors")
    torch.save({"state_dict": {"run": print}}, path)
    assert refusal(path).startswith("is damaged or holds more than tensors, which is never run")
    torch.save({"weights": torch.zeros(1)}, path)
    assert refusal(path).startswith("has no tensors under generator_smooth or generator")
    torch.save({"state_dict": {"fc.weight": torch.zeros(1)}}, path)
    assert "holds no StyleGAN2 generator under state_dict (it has no synthesis.b4" in refusal(path)
    state = test_genforce.stylegan2().state_dict()
    torch.save({"state_dict": {key: v for key, v in state.items() if key != "mapping.w_avg"}}, path)
    assert "holds no StyleGAN2 generator under state_dict ('mapping.w_avg')" in refusal(path)
    wrong = {**state, "more": torch.zeros(1), "synthesis.b8.conv0.bias": torch.zeros(3)}
    torch.save({"state_dict": {key: v for key, v in wrong.items() if key != "mapping.fc1.bias"}}, path)
    expected = "in 3 tensors (synthesis.b8.conv0.bias, mapping.fc1.bias, more)"
    assert f"does not fit the generator it describes {expected}" in refusal(path)


def test_pickles_without_what_a_prior_needs_are_refused_in_a_sentence(tmp_path):
    maker, path = test_nvidia_pickle, tmp_path / "network.pkl"
    pickle(path, G_ema=None, G=maker.network())
    assert refusal(path).startswith("has no G_ema")
    arguments = {**maker.ARGUMENTS, "c_dim": 3}
    conditional = maker.official(StyleGAN2Generator(**arguments), _init_kwargs=arguments)
    pickle(path, G_ema=conditional)
    assert refusal(path).startswith(
        "draws 3 channels from 4 latents and 3 labels; give a generator of colour"
    )


# losses


def test_losses_are_those_of_the_paper():
    real, fake = torch.tensor([2.0, -1.0]), torch.tensor([0.5, -3.0])

    def cost(score: float) -> float:
        return -math.log(1 / (1 + math.exp(-score)))

    assert generator_loss(fake).item() == pytest.approx((cost(0.5) + cost(-3)) / 2)
    expected = (cost(2) + cost(-1)) / 2 + (cost(-0.5) + cost(3)) / 2
    assert discriminator_loss(real, fake).item() == pytest.approx(expected)


def test_squared_gradients_of_a_quadratic_score_have_their_closed_form():
    images = torch.randn(3, 2, 4, 4, requires_grad=True)
    factor = torch.tensor(0.7, requires_grad=True)
    scores = factor * images.square().sum((1, 2, 3)) / 2  # gradient: factor * images
    found = squared_gradients(scores, images)
    torch.testing.assert_close(found, 0.49 * images.square().sum((1, 2, 3)))
    (slope,) = torch.autograd.grad(found.sum(), factor)
    torch.testing.assert_close(slope, 1.4 * images.square().sum())


def test_path_lengths_of_a_linear_generator_have_their_closed_form():
    codes = torch.randn(3, 2, 5, requires_grad=True)
    matrix = torch.randn(2 * 5, 3 * 4 * 4, requires_grad=True)
    noise = torch.randn(3, 3, 4, 4)
    found = path_lengths((codes.flatten(1) @ matrix).view(3, 3, 4, 4), codes, noise)
    gradient = (noise.flatten(1) @ matrix.T / 4).view(3, 2, 5)  # 4: root of the 16 pixels
    torch.testing.assert_close(
        found, ((gradient[:, 0].norm(dim=1) ** 2 + gradient[:, 1].norm(dim=1) ** 2) / 2) ** 0.5
    )
    assert torch.autograd.grad(found.sum(), matrix)[0].abs().sum() > 0


def test_mixed_codes_change_once_and_as_often_as_asked():
    first, second = torch.zeros(4000, 5, 1), torch.ones(4000, 5, 1)
    draws = torch.Generator().manual_seed(0)
    found = mixed(first, second, 0.5, draws)[:, :, 0]
    assert (found[:, 1:] >= found[:, :-1]).all()
    assert (found[:, 0] == 0).all(), "the first layer keeps its code"
    late = found.sum(1).long().bincount(minlength=5)
    # 4 layers to change at, each 500 of 4000 times: a deviation of 21
    assert late[0].item() == pytest.approx(2000, abs=130)
    assert all(count.item() == pytest.approx(500, abs=90) for count in late[1:])
    assert torch.equal(mixed(first, second, 0.0, draws), first)


def training_of(prior: StyleGAN2Prior) -> StyleGAN2Training:
    adam = {"lr": prior.lr, "betas": prior.betas, "ema": prior.ema, "device": torch.device("cpu")}
    return StyleGAN2Training(prior.generator, prior.discriminator, prior, **adam)


def test_lazy_regularisation_is_made_up_for_in_the_optimisers():
    prior = small("stylegan2", r1_every=16, path_every=4)
    gan = training_of(prior)
    (of_generator,), (of_critic,) = gan.generator_adam.param_groups, gan.critic_adam.param_groups
    assert of_generator["lr"] == pytest.approx(2e-3 * 4 / 5)
    assert of_critic["lr"] == pytest.approx(2e-3 * 16 / 17)
    assert of_critic["betas"] == pytest.approx((0.0, 0.99 ** (16 / 17)))
    plain = small("stylegan2", path_weight=0)
    gan = training_of(plain)
    assert gan.generator_adam.param_groups[0]["lr"] == 2e-3


# augmentation


def test_augmentation_of_strength_zero_changes_nothing_and_one_changes_everything():
    images = torch.rand(64, 3, 16, 16) * 2 - 1
    assert torch.equal(augment(images, 0.0, torch.Generator().manual_seed(0)), images)
    changed = augment(images, torch.tensor(1.0), torch.Generator().manual_seed(0))
    assert (changed != images).flatten(1).any(1).all()
    assert torch.equal(changed, augment(images, 1.0, torch.Generator().manual_seed(0)))


def test_augmentation_mirrors_shifts_and_recolours():
    ramp = 100 * torch.arange(16.0).expand(400, 3, 16, 16)  # a pixel tells its column
    changed = augment(ramp, 1.0, torch.Generator().manual_seed(0))[:, 0, 0]
    slope = changed[:, 8] - changed[:, 7]  # the middle is never reflected
    factor = slope.abs() / 100
    assert 0.4 < (slope < 0).float().mean() < 0.6
    assert factor.log2().std().item() == pytest.approx(0.5, abs=0.06)
    pixels = changed / factor[:, None]
    read = torch.where(slope > 0, pixels[:, 7], pixels[:, 8])
    shift = (read / 100).round() - 7
    assert set(shift.tolist()) == {-2.0, -1.0, 0.0, 1.0, 2.0}, "an eighth of 16 pixels"
    light = read - 100 * (shift + 7)
    assert light.std().item() == pytest.approx(0.2, abs=0.03)


def test_gradients_pass_through_augmentation_twice():
    images = torch.rand(4, 1, 8, 8, dtype=torch.float64, requires_grad=True)

    def seen(images: Tensor) -> Tensor:
        return augment(images, 1.0, torch.Generator().manual_seed(1)).square()

    assert torch.autograd.gradcheck(seen, images, atol=1e-4, fast_mode=True)
    assert torch.autograd.gradgradcheck(seen, images, atol=1e-4, fast_mode=True)


def test_strength_follows_the_signs_and_stays_a_probability():
    def after(strength: float, sign: float) -> float:
        found = adapted(torch.tensor(strength), torch.tensor(sign), target=0.6, images=64, full=640)
        return round(found.item(), 6)

    assert after(0.5, 0.9) == 0.6
    assert after(0.5, -0.2) == 0.4
    assert after(0.05, 0.5) == 0.0
    assert after(0.95, 0.7) == 1.0


# training


def test_every_tensor_that_should_learn_learns_and_the_stored_noise_does_not(tmp_path):
    prior, before = small("stylegan2"), small("stylegan2").state_dict()
    prior.fit(public(24, 8), None, seed=0, work=tmp_path, runtime=Runtime())
    fixed = {key for key, value in prior.state_dict().items() if torch.equal(value, before[key])}
    assert fixed == {key for key in before if key.endswith(("resample_filter", "noise_const"))}
    assert not any(module.training for module in (prior.generator, prior.discriminator))
    small("stylegan2").load_state_dict(prior.state_dict())


def test_a_generator_trained_without_noise_draws_without_noise(tmp_path):
    prior = small("stylegan2", noise="none", steps=3)
    prior.fit(public(24, 8), None, seed=0, work=tmp_path, runtime=Runtime())
    z = torch.randn(2, 6)
    with torch.no_grad():
        assert torch.equal(prior.generator(z), prior.generator(z, noise_mode="none"))


def test_the_average_holds_the_mean_code_as_well(tmp_path):
    last, averaged = small("stylegan2", ema=0.0), small("stylegan2", ema=0.9)
    for name, prior in (("last", last), ("averaged", averaged)):
        prior.fit(public(24, 8), None, seed=0, work=tmp_path / name, runtime=Runtime())
    assert same(last.discriminator, averaged.discriminator), "the average takes no part in training"
    assert 0 < averaged.w_avg.norm() < last.w_avg.norm(), "it started from 0"


def test_training_moves_the_samples_towards_the_images(tmp_path):
    colours = torch.tensor([220, 60, 130], dtype=torch.uint8).view(1, 3, 1, 1).expand(64, 3, 8, 8)
    images = ImageSet(colours.contiguous(), torch.zeros(64, dtype=torch.int64), ("red",))
    prior = small("stylegan2", steps=40, path_weight=0, ada=None, lr=2e-2, ema=0.8, r1_gamma=0.1, r1_every=16)
    z = torch.randn(64, 6, generator=torch.Generator().manual_seed(0))

    def distance() -> float:
        with torch.no_grad():
            mean = prior.generate(z).mean((0, 2, 3))
        return (mean - torch.tensor([220, 60, 130]) / 255).abs().max().item()

    assert distance() > 0.3
    prior.fit(images, None, seed=0, work=tmp_path, runtime=Runtime())
    assert distance() < 0.15


def test_mirrored_training_shows_both_sides(tmp_path):
    """A discriminator that sees every image mirrored half of the time is shown other images than one that
    does not.
    """
    priors = [small("stylegan2", steps=1, mirror=mirror, ada=None) for mirror in (True, False)]
    for index, prior in enumerate(priors):
        prior.fit(public(24, 8), None, seed=0, work=tmp_path / str(index), runtime=Runtime())
    assert not same(priors[0].discriminator, priors[1].discriminator)


def test_the_official_numbers_make_the_published_network():
    with torch.device("meta"):
        prior = official("stylegan2")
    assert isinstance(prior.generator, StyleGAN2Generator)
    assert isinstance(prior.generator, nn.Module)
    assert sum(p.numel() for p in prior.generator.parameters()) == 30_370_060
    assert prior.num_ws == 18
    assert prior.num_blocks == 9
    assert 0.5 ** (prior.batch_size / 10_000) == pytest.approx(prior.ema, abs=1e-4)
    assert prior.steps * prior.batch_size == 25_000_000


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_a_published_generator_that_is_not_finite_is_refused_by_the_names_of_its_tensors(tmp_path, value):
    source, converted = tmp_path / "g.pkl", tmp_path / "converted.pth"
    write_stylegan2(source, image_size=8, channels=2)
    generator, _ = load_networks(source, conv_clamp=None)
    state = generator.state_dict()
    torch.save({"state_dict": state}, converted)
    load_networks(converted, conv_clamp=None)
    state["mapping.w_avg"][1] = value
    torch.save({"state_dict": state}, converted)
    with pytest.raises(CheckpointError, match=r"cannot be used \(not finite: mapping\.w_avg\)"):
        load_networks(converted, conv_clamp=None)
