"""StyleGAN2-ADA generator and discriminator against the official ones, whole and in parts."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from midre_exp.errors import ConfigError
from midre_exp.priors import build_network
from midre_exp.priors.stylegan.discriminator import StyleGAN2Discriminator, minibatch_stddev
from midre_exp.priors.stylegan.generator import StyleGAN2Generator
from midre_exp.priors.stylegan.layers import Conv2dLayer, Rendering, SynthesisLayer
from tests.golden.fill import fixed_values, golden, official_shapes, shapes_of

GOLDEN = golden("stylegan2_g64")
CASES = GOLDEN["cases"]
SMALL = {"channel_base": 1024, "channel_max": 64}
Z = torch.from_numpy(np.random.RandomState(0).standard_normal((2, 64)).astype(np.float32))
WS = torch.from_numpy(np.random.RandomState(1).standard_normal((2, 10, 64)).astype(np.float32))


def generator(**synthesis: Any) -> StyleGAN2Generator:
    network = build_network(
        "stylegan2_generator",
        z_dim=64,
        w_dim=64,
        img_resolution=64,
        mapping_kwargs={"num_layers": 2},
        synthesis_kwargs={**SMALL, **synthesis},
    )
    assert isinstance(network, StyleGAN2Generator)
    return network


def discriminator(**options: Any) -> StyleGAN2Discriminator:
    network = build_network("stylegan2_discriminator", img_resolution=64, **SMALL, **options)
    assert isinstance(network, StyleGAN2Discriminator)
    return network


def scale(key: str, *, natural: bool) -> float | None:
    """What the golden file multiplies the draw of ``key`` by; None: by the fan-in rule of the filler."""
    if not natural:
        return None
    if key.startswith("mapping.fc"):
        return 100 if key.endswith("weight") else 10
    if key.endswith(("bias", "noise_strength", "w_avg")):
        return 0.1
    return 1


def filled(network: nn.Module, *, natural: bool = False) -> Any:
    """Give the state the golden file's numbers; resample filters stay."""
    state = network.state_dict()
    shapes = {key: tuple(value.shape) for key, value in state.items() if "resample_filter" not in key}
    plain = fixed_values(shapes, set())
    for key, value in plain.items():
        if (factor := scale(key, natural=natural)) is not None:
            fan_in = 1 if key.endswith("bias") or not value.ndim else np.sqrt(np.prod(value.shape[1:]))
            draw = value / 0.1 if key.endswith("bias") else _unfilled(key, value) * fan_in
            value = factor * draw + (1 if key.endswith("affine.bias") else 0)
        state[key] = torch.as_tensor(value, dtype=torch.float32)
    network.load_state_dict(state)
    return network.eval()


def _unfilled(key: str, value: np.ndarray) -> np.ndarray:
    return (value - 1) / 0.1 if value.ndim == 1 else value


def check(found: Tensor, case: dict[str, Any], atol: float = 1e-5) -> None:
    assert list(found.shape) == case["shape"]
    flat = found.detach().double().flatten()
    spread = {
        "first": flat[:8],
        "last": flat[-4:],
        "mean": flat.mean(),
        "std": flat.std(correction=0),
        "l2": flat.norm(),
    }
    for name, value in spread.items():
        expected = torch.tensor(case[name], dtype=torch.float64)
        torch.testing.assert_close(
            value, expected, rtol=1e-6, atol=atol, msg=lambda m, name=name: f"{name}: {m}"
        )


@pytest.fixture(scope="module")
def plain() -> Any:
    return filled(generator())


@pytest.fixture(scope="module")
def natural() -> Any:
    return filled(generator(), natural=True)


@pytest.mark.parametrize("size", [64, 512, 1024])
def test_keys_their_order_and_shapes_are_the_official_ones(size):
    with torch.device("meta"):
        network = generator() if size == 64 else StyleGAN2Generator(img_resolution=size)
    official = official_shapes(f"stylegan2_ada_g_{size}")
    assert list(shapes_of(network).items()) == list(official.items())


def test_parameters_of_the_published_generators_count_right():
    with torch.device("meta"):
        counts = [
            sum(p.numel() for p in StyleGAN2Generator(img_resolution=size).parameters())
            for size in (1024, 512)
        ]
    assert counts == [30_370_060, 30_276_583]


def test_discriminator_keys_their_order_and_shapes_are_the_official_ones():
    with torch.device("meta"):
        network = discriminator()
    assert list(shapes_of(network).items()) == list(official_shapes("stylegan2_ada_d_64").items())


@torch.no_grad()
def test_codes_and_images_of_latents_are_the_golden_ones(plain, natural):
    for network, case in ((plain, CASES["psi1"]), (natural, CASES["natural_scale"])):
        ws = network.mapping(Z)
        assert ws.shape == (2, 10, 64)
        assert (ws == ws[:, :1]).all()
        check(ws[:, 0], case["w"])
        check(network(Z), case["image"])
    images = natural(Z)
    check(natural(Z, noise_mode="none"), CASES["natural_scale"]["image_noise_none"])
    check(images[1] - images[0], CASES["natural_scale"]["image_difference_sample1_minus_sample0"])


def test_a_different_code_per_layer_gives_the_golden_images_and_gradient(plain):
    ws = WS.clone().requires_grad_()
    image = plain.synthesis(ws)
    check(image, CASES["distinct_w"]["image_noise_const"])
    loss = image.square().mean()
    assert loss.item() == pytest.approx(CASES["distinct_w"]["loss_mean_square"], abs=1e-6)
    check(torch.autograd.grad(loss, ws)[0], CASES["distinct_w"]["grad_wrt_W"], atol=1e-8)
    with torch.no_grad():
        check(plain.synthesis(WS, noise_mode="none"), CASES["distinct_w"]["image_noise_none"])


@torch.no_grad()
def test_every_block_gives_the_golden_features_and_image_so_far(plain):
    x = image = None
    for index, (size, case) in enumerate(CASES["blocks"].items()):
        x, image = plain.synthesis.run_blocks(WS, x, image, start=index, stop=index + 1)
        assert x.shape[-1] == int(size)
        check(x, case["x"])
        check(image, case["img"])


@torch.no_grad()
@pytest.mark.parametrize("start", [1, 2, 3, 4])
def test_a_restart_at_a_block_with_an_empty_image_gives_the_golden_image(plain, start):
    features, so_far = plain.synthesis.run_blocks(WS, stop=start)
    check(
        plain.synthesis.run_blocks(WS, features, start=start)[1],
        CASES["restart_without_rgb"][str(start)]["image"],
    )
    whole = plain.synthesis.run_blocks(WS, features, so_far, start=start)[1]
    assert torch.equal(whole, plain.synthesis(WS))


@torch.no_grad()
def test_the_clamp_acts_in_float32_and_gives_the_golden_image():
    clamped = filled(generator(conv_clamp=0.5, num_fp16_res=2))
    check(clamped.synthesis(WS, force_fp32=True), CASES["conv_clamp_0p5"]["image"])


@torch.no_grad()
def test_a_gain_scales_the_clamp_along():
    modulated = SynthesisLayer(3, 4, w_dim=5, resolution=4, conv_clamp=0.5)
    plain_layer = Conv2dLayer(3, 4, kernel_size=3, activation="lrelu", conv_clamp=0.5)
    x, w = torch.randn(2, 3, 4, 4), torch.randn(2, 5)
    for whole, half in (
        (modulated(x, w, Rendering()), modulated(x, w, Rendering(), gain=0.5)),
        (plain_layer(x), plain_layer(x, gain=0.5)),
    ):
        assert whole.max() == 0.5
        torch.testing.assert_close(half, whole / 2)


@torch.no_grad()
@pytest.mark.parametrize("architecture", ["resnet", "orig"])
def test_other_architectures_give_the_golden_images(architecture):
    network, case = filled(generator(architecture=architecture)), CASES["architectures"][architecture]
    assert len(network.state_dict()) == case["n_tensors"]
    assert network.num_ws == case["num_ws"]
    check(network.synthesis(WS), case["image"])


@torch.no_grad()
def test_discriminator_answers_the_golden_logits(natural):
    logits = filled(discriminator(), natural=True)(natural(Z).clamp(-1, 1))
    case = CASES["discriminator"]
    torch.testing.assert_close(logits, torch.tensor(case["logits"])[:, None], rtol=0, atol=1e-5)
    assert torch.nn.functional.softplus(-logits).mean().item() == pytest.approx(
        case["softplus_neg_mean"], abs=1e-5
    )


@torch.no_grad()
def test_truncation_pulls_the_first_codes_to_the_mean_code(natural):
    ws, mean = natural.mapping(Z), natural.mapping.w_avg
    half = natural.mapping(Z, truncation_psi=0.5, truncation_cutoff=4)
    torch.testing.assert_close(half[:, :4], (mean + 0.5 * (ws[:, :4] - mean)))
    assert torch.equal(half[:, 4:], ws[:, 4:])
    assert torch.equal(natural.mapping(Z, truncation_psi=0.0), mean.expand(2, 10, 64))
    assert torch.equal(natural.mapping(Z, truncation_psi=0.5, truncation_cutoff=0), ws)
    both = natural(Z, truncation_psi=0.5, truncation_cutoff=4)
    assert torch.equal(both, natural.synthesis(half))


def test_fused_and_unfused_convolution_agree_in_images_and_gradients(natural):
    ws = WS.clone().requires_grad_()
    images = [natural.synthesis(ws, fused_modconv=fused) for fused in (False, True)]
    torch.testing.assert_close(*images, rtol=0, atol=1e-5)
    gradients = [torch.autograd.grad(image.square().mean(), ws)[0] for image in images]
    torch.testing.assert_close(*gradients, rtol=1e-4, atol=1e-6)


@torch.no_grad()
def test_noise_is_stored_or_fresh_or_absent(natural):
    def images(mode: str, seed: int = 0) -> Tensor:
        return natural(Z, noise_mode=mode, generator=torch.Generator().manual_seed(seed))

    assert torch.equal(images("const"), images("const", 1))
    assert torch.equal(images("random"), images("random"))
    assert not torch.allclose(images("random"), images("random", 1), atol=1e-2)
    same = natural.synthesis(
        WS[:1].expand(2, -1, -1), noise_mode="random", generator=torch.Generator().manual_seed(0)
    )
    assert not torch.allclose(same[0], same[1], atol=1e-2), "every image has noise of its own"
    with pytest.raises(ConfigError, match=r"noise_mode='fixed' is unknown; use const, random or none"):
        natural(Z, noise_mode="fixed")


@torch.no_grad()
def test_only_the_highest_resolutions_run_in_half_precision_and_only_unless_forced():
    network = filled(generator(num_fp16_res=2, conv_clamp=256))
    dtypes = []
    x = image = None
    for index in range(5):
        x, image = network.synthesis.run_blocks(WS, x, image, start=index, stop=index + 1)
        dtypes.append(x.dtype)
        assert image.dtype == torch.float32
    assert dtypes == [torch.float32] * 3 + [torch.float16] * 2
    exact = network.synthesis(WS, force_fp32=True)
    assert 0 < (image - exact).abs().max() < 1e-2
    assert network.synthesis.run_blocks(WS, how=Rendering(force_fp32=True))[0].dtype == torch.float32
    assert torch.equal(exact, filled(generator(conv_clamp=256)).synthesis(WS))


@torch.no_grad()
def test_discriminator_in_half_precision_is_near_float32():
    network = filled(discriminator(num_fp16_res=2, conv_clamp=256), natural=True)
    images = torch.rand(4, 3, 64, 64, generator=torch.Generator().manual_seed(0)) * 2 - 1
    exact = network(images, force_fp32=True)
    gap = (network(images) - exact).abs().max()
    assert 0 < gap < 2e-2 * exact.abs().max()


@torch.no_grad()
@pytest.mark.parametrize("architecture", ["orig", "skip", "resnet"])
def test_every_discriminator_architecture_scores_each_image(architecture):
    logits = discriminator(architecture=architecture).eval()(torch.rand(8, 3, 64, 64))
    assert logits.shape == (8, 1)
    assert logits.isfinite().all()


@torch.no_grad()
def test_conditional_networks_listen_to_their_labels():
    options = {"img_resolution": 8, "c_dim": 3}
    draw = StyleGAN2Generator(z_dim=4, w_dim=6, synthesis_kwargs={"channel_max": 4}, **options).eval()
    critic = StyleGAN2Discriminator(channel_max=4, mapping_kwargs={"num_layers": 2}, **options).eval()
    z, c = torch.randn(2, 4), torch.eye(3)[:2]
    images = draw(z, c)
    assert not torch.allclose(images, draw(z, c.flip(0)))
    assert critic(images, c).shape == (2, 1)
    assert not torch.allclose(critic(images, c), critic(images, c.flip(0)))
    for network, given in ((draw, z), (critic, images)):
        with pytest.raises(ConfigError, match="c is missing; this network is conditional"):
            network(given)


def test_minibatch_deviation_is_that_of_the_images_group():
    x = torch.randn(4, 2, 3, 3, dtype=torch.float64)
    found = minibatch_stddev(x, 2, 1)
    assert found.shape == (4, 3, 3, 3)
    for i in range(4):
        pair = x[[i % 2, i % 2 + 2]]
        expected = ((pair - pair.mean(0)).square().mean(0) + 1e-8).sqrt().mean()
        torch.testing.assert_close(found[i, 2], expected.expand(3, 3))
    with pytest.raises(ConfigError, match=r"5 images do not divide into groups of 4"):
        minibatch_stddev(torch.zeros(5, 2, 3, 3), 4, 1)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"img_resolution": 48}, "img_resolution=48 is not supported; use a power of two"),
        ({"img_resolution": 2}, "img_resolution=2 is not usable"),
        ({"z_dim": -1}, "z_dim=-1 is not usable"),
        ({"synthesis_kwargs": {"architecture": "vgg"}}, "architecture='vgg' is unknown"),
        ({"synthesis_kwargs": {"width": 3}}, "stylegan2_generator cannot be built"),
        ({"mapping_kwargs": {"num_layers": 0}}, "num_layers=0 is not usable"),
    ],
)
def test_impossible_sizes_and_options_are_refused_by_name(options, message):
    small = {"img_resolution": 8, "z_dim": 4, "w_dim": 4, "synthesis_kwargs": {"channel_max": 4}}
    with pytest.raises(ConfigError, match=message):
        build_network("stylegan2_generator", **{**small, **options})


def test_wrong_codes_blocks_and_missing_features_are_refused(plain):
    with pytest.raises(ConfigError, match=r"ws has shape \[2, 64\]; give \[n, 10, 64\]"):
        plain.synthesis(WS[:, 0])
    with pytest.raises(ConfigError, match=r"blocks 2 to 6 are not there; the network has 5"):
        plain.synthesis.run_blocks(WS, start=2, stop=6)
    with pytest.raises(ConfigError, match="block b16 needs the features of the block before it"):
        plain.synthesis.run_blocks(WS, start=2)
