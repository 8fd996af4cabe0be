"""A synthesis network with fixed weights against the goldens and against its own training form."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor

from midre_exp.priors.stylegan import ops
from midre_exp.priors.stylegan.generator import SynthesisNetwork
from tests.priors.stylegan.test_networks import CASES, WS, check, filled, generator

SMALL = {"w_dim": 16, "img_resolution": 16, "img_channels": 3, "channel_base": 128, "channel_max": 8}


def network(**options: Any) -> SynthesisNetwork:
    """With noise, biases and weights that matter."""
    torch.manual_seed(0)
    made = SynthesisNetwork(**{**SMALL, **options}).eval().requires_grad_(False)
    for name, value in made.named_parameters():
        if name.endswith(("noise_strength", "bias")) and "affine" not in name:
            value.normal_()
    return made


def frozen(made: SynthesisNetwork) -> SynthesisNetwork:
    other = copy.deepcopy(made)
    other.freeze()
    return other


def drawn(made: SynthesisNetwork, ws: Tensor, **how: Any) -> tuple[Tensor, Tensor]:
    """Images, and the gradient of a loss in which all their pixels differ."""
    ws = ws.detach().requires_grad_()
    images = made(ws, **how)
    weights = torch.linspace(-1, 1, images[0].numel()).reshape(images.shape[1:])
    return images.detach(), torch.autograd.grad((images * weights).square().sum(), ws)[0]


def codes(made: SynthesisNetwork, n: int = 2) -> Tensor:
    return torch.randn(n, made.num_ws, made.w_dim, generator=torch.Generator().manual_seed(1))


def saved_bytes(made: SynthesisNetwork, ws: Tensor) -> int:
    """Of all storages that the way back holds, without the network's own."""
    own = {value.untyped_storage().data_ptr() for value in (*made.parameters(), *made.buffers())}
    sizes: dict[int, int] = {}

    def note(value: Tensor) -> Tensor:
        storage = value.untyped_storage()
        sizes[storage.data_ptr()] = storage.nbytes()
        return value

    with torch.autograd.graph.saved_tensors_hooks(note, lambda value: value):
        images = made(ws.detach().requires_grad_())
    assert images.requires_grad  # and so holds all of them until here
    return sum(size for place, size in sizes.items() if place not in own)


def test_frozen_weights_give_the_golden_images_features_and_gradients():
    plain = filled(generator()).requires_grad_(False)
    plain.synthesis.freeze()
    ws = WS.clone().requires_grad_()
    image = plain.synthesis(ws)
    check(image, CASES["distinct_w"]["image_noise_const"])
    check(torch.autograd.grad(image.square().mean(), ws)[0], CASES["distinct_w"]["grad_wrt_W"], atol=1e-8)
    with torch.no_grad():
        check(plain.synthesis(WS, noise_mode="none"), CASES["distinct_w"]["image_noise_none"])
        x = so_far = None
        for index, case in enumerate(CASES["blocks"].values()):
            x, so_far = plain.synthesis.run_blocks(WS, x, so_far, start=index, stop=index + 1)
            check(x, case["x"])
            check(so_far, case["img"])


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"conv_clamp": 0.5},
        {"architecture": "resnet", "activation": "relu"},
        {"architecture": "orig", "activation": "linear", "use_noise": False},
        {"resample_filter": [1, 2, 1], "kernel_size": 5},
        {"resample_filter": [1, 2, 3, 4, 4, 3, 2, 1]},
        {"activation": "swish"},  # stays in the training form
    ],
)
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_images_and_gradients_are_those_of_the_training_form_to_rounding(options, layout):
    trained = network(**options)
    fixed = frozen(copy.deepcopy(trained).to(memory_format=layout))
    ws = codes(trained)
    images, gradient = (
        float((found - expected).abs().max() / expected.abs().max())
        for found, expected in zip(drawn(fixed, ws), drawn(trained, ws), strict=True)
    )
    assert images < 1e-5
    assert gradient < 1e-4


def test_features_of_a_cut_network_get_their_gradients():
    trained = network()
    ws = codes(trained)
    with torch.no_grad():
        features, image = trained.run_blocks(ws, stop=1)
    gradients = []
    for made in (trained, frozen(trained)):
        leaf = features.clone().requires_grad_()
        images = made.run_blocks(ws, leaf, image, start=1)[1]
        assert images is not None
        gradients.append(torch.autograd.grad(images.square().sum(), leaf)[0])
    torch.testing.assert_close(*gradients, rtol=0, atol=1e-4 * float(gradients[0].abs().max()))


def test_the_way_back_holds_less_than_a_third():
    trained = network(img_resolution=32)
    assert saved_bytes(frozen(trained), codes(trained)) < saved_bytes(trained, codes(trained)) / 3


def test_training_ends_the_form_and_gives_weights_their_gradients():
    made = network()
    made.freeze()
    with pytest.raises(RuntimeError, match="once_differentiable"):
        ws = codes(made).requires_grad_()
        (gradient,) = torch.autograd.grad(made(ws).square().sum(), ws, create_graph=True)
        gradient.sum().backward()
    made.train().requires_grad_(True)
    made(codes(made)).square().sum().backward()
    assert all(value.grad is not None for value in made.parameters())


def test_changed_weights_count_after_the_next_freeze():
    made, other = frozen(network()), network()
    for value in other.parameters():
        value.mul_(1.5)
    made.load_state_dict(other.state_dict())
    made.freeze()
    torch.testing.assert_close(made(codes(made)), other(codes(made)), rtol=0, atol=1e-3)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_under_autocast_features_are_small_and_the_image_is_not(dtype):
    made, exact = frozen(network(conv_clamp=256)), network(conv_clamp=256)
    kinds = []
    for block in made.blocks:
        block.register_forward_hook(lambda _, __, out: kinds.append((out[0].dtype, out[1].dtype)))
    with torch.autocast("cpu", dtype):
        images, gradient = drawn(made, codes(made))
    assert set(kinds) == {(dtype, torch.float32)}
    expected = drawn(exact, codes(made))
    torch.testing.assert_close(images, expected[0], rtol=0, atol=0.03 * float(expected[0].abs().max()))
    cosine = torch.cosine_similarity(gradient.flatten(), expected[1].flatten(), 0)
    assert cosine > 0.99


def test_a_depthwise_convolution_is_split_where_its_numbers_exceed_32_bits(monkeypatch):
    x, kernel, sizes = torch.randn(5, 4, 9, 9), ops.fir_filter([1, 3, 3, 1]), []
    whole = ops.depthwise(x, kernel, padding=(1, 1))
    convolve = torch.nn.functional.conv2d

    def noting(part: Tensor, *rest: Any, **options: Any) -> Tensor:
        sizes.append(len(part))
        return convolve(part, *rest, **options)

    monkeypatch.setattr(torch.nn.functional, "conv2d", noting)
    monkeypatch.setattr(ops, "INDEX_LIMIT", 2 * 4 * 11 * 11)
    assert torch.equal(ops.depthwise(x, kernel, padding=(1, 1)), whole)
    assert sizes == [2, 2, 1]
