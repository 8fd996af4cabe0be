"""genforce checkpoints become our networks, with the pictures genforce would draw."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from midre_exp.errors import CheckpointError
from midre_exp.priors.stylegan.generator import StyleGAN2Generator
from midre_exp.priors.stylegan.genforce import from_genforce, load_genforce
from midre_exp.priors.stylegan.layers import Rendering
from midre_exp.priors.stylegan.stylegan1 import StyleGAN1Generator, StyleLayer
from tests.golden.fill import official_shapes, shapes_of


@pytest.mark.parametrize(
    ("name", "kind", "options"),
    [
        ("genforce_stylegan2_1024", StyleGAN2Generator, {"img_resolution": 1024}),
        ("genforce_stylegan_256", StyleGAN1Generator, {"image_size": 256}),
    ],
)
def test_every_tensor_of_the_published_layouts_has_its_place(name, kind, options):
    with torch.device("meta"):
        state = {key: torch.empty(shape) for key, shape in official_shapes(name).items()}
        network = kind(**options)
    state = {k: v if k != "synthesis.lod" else torch.zeros(()) for k, v in state.items()}
    renamed = {key: list(value.shape) for key, value in from_genforce(state).items()}
    ours = {key: shape for key, shape in shapes_of(network).items() if not key.endswith("resample_filter")}
    assert renamed == ours


def to_genforce(network: StyleGAN2Generator) -> dict[str, Tensor]:
    """Our StyleGAN2 generator as genforce would store it."""
    state = {"truncation.w_avg": network.mapping.w_avg, "synthesis.upsample.kernel": torch.ones(1, 1, 4, 4)}
    for name, value in network.state_dict().items():
        part, _, rest = name.partition(".")
        if part == "mapping":
            state[f"mapping.{rest.replace('fc', 'dense')}"] = value
        elif not rest.endswith(("resample_filter", "b4.const")):
            block, layer, entry = rest.split(".", 2)
            k = int(block[1:]).bit_length() - 3
            layer = {"torgb": f"output{k}", "conv0": f"layer{2 * k - 1}", "conv1": f"layer{2 * k}"}[layer]
            if entry == "affine.bias":
                value = value - 1
            if entry == "noise_const":
                value = value[None, None]
            if ".conv0.weight" in name:
                value = value.flip((2, 3))
            entry = entry.replace("affine", "style").replace("noise_const", "noise")
            state[f"synthesis.{layer}.{entry}"] = value
    state.pop("mapping.w_avg")
    state["synthesis.early_layer.const"] = network.synthesis.b4.const[None]
    return {key: value.detach().clone() for key, value in state.items()}


def stylegan2() -> StyleGAN2Generator:
    torch.manual_seed(0)
    network = StyleGAN2Generator(
        z_dim=6,
        w_dim=6,
        img_resolution=16,
        mapping_kwargs={"num_layers": 2},
        synthesis_kwargs={"channel_base": 64, "channel_max": 8},
    )
    torch.nn.init.normal_(network.mapping.w_avg)
    return network.eval()


@torch.no_grad()
def test_a_stylegan2_checkpoint_draws_what_the_network_drew(tmp_path):
    ours, path = stylegan2(), tmp_path / "stylegan2.pth"
    wrong = {key: torch.zeros_like(value) for key, value in to_genforce(ours).items()}
    torch.save({"discriminator": {}, "generator": wrong, "generator_smooth": to_genforce(ours)}, path)
    loaded = load_genforce(path)
    assert isinstance(loaded, StyleGAN2Generator)
    assert not loaded.training
    assert not any(p.requires_grad for p in loaded.parameters())
    z = torch.randn(2, 6)
    torch.testing.assert_close(loaded(z, truncation_psi=0.7), ours(z, truncation_psi=0.7))


def stylegan_state() -> dict[str, Tensor]:
    torch.manual_seed(0)
    network = StyleGAN1Generator(
        z_dim=6, w_dim=6, image_size=16, channel_base=64, channel_max=8, num_layers=2
    )
    state = {
        key: torch.randn(value.shape)
        for key, value in network.synthesis.state_dict(prefix="synthesis.").items()
    }
    state |= {f"mapping.dense{i}.weight": torch.randn(6, 6) * 100 for i in range(2)}
    state |= {f"mapping.dense{i}.bias": torch.randn(6) * 100 for i in range(2)}
    state |= {"synthesis.layer2.blur.kernel": torch.ones(8, 1, 3, 3) / 9}
    return state | {"truncation.w_avg": torch.randn(6), "synthesis.lod": torch.zeros(())}


def reference(state: dict[str, Tensor], z: Tensor) -> Tensor:
    """StyleGAN at 16 pixels written down once more, image by image (Karras et al. 2019, Fig. 1b)."""
    images = []
    for row in z:
        w = row / (row.square().mean() + 1e-8).sqrt()
        for i in range(2):
            weight, bias = (state[f"mapping.dense{i}.{part}"] for part in ("weight", "bias"))
            w = F.leaky_relu(weight @ w * 0.01 * math.sqrt(2) / math.sqrt(6) + bias * 0.01, 0.2)
        x = state["synthesis.layer0.const"][0]
        for i in range(6):
            own = {k.split(".", 2)[2]: v for k, v in state.items() if k.startswith(f"synthesis.layer{i}.")}
            if i:
                if i % 2 == 0:
                    x = x.repeat_interleave(2, 1).repeat_interleave(2, 2)
                x = F.conv2d(x[None], own["weight"] * math.sqrt(2 / (9 * len(x))), padding=1)[0]
                if i % 2 == 0:
                    tent = torch.tensor([1.0, 2.0, 1.0])
                    x = F.conv2d(x[:, None], (torch.outer(tent, tent) / 16)[None, None], padding=1)[:, 0]
            x = x + own["apply_noise.noise"][0] * own["apply_noise.weight"][:, None, None]
            x = F.leaky_relu(x + own["bias"][:, None, None], 0.2)
            x = (x - x.mean((1, 2), keepdim=True)) / (x.var((1, 2), correction=0, keepdim=True) + 1e-8).sqrt()
            style = own["style.weight"] @ w / math.sqrt(6) + own["style.bias"]
            x = x * (style[: len(x)] + 1)[:, None, None] + style[len(x) :][:, None, None]
        rgb = state["synthesis.output2.weight"][:, :, 0, 0] / math.sqrt(len(x))
        images.append(torch.einsum("oc,chw->ohw", rgb, x) + state["synthesis.output2.bias"][:, None, None])
    return torch.stack(images)


@torch.no_grad()
def test_a_stylegan_checkpoint_draws_what_the_paper_describes(tmp_path):
    state, path = stylegan_state(), tmp_path / "stylegan.pth"
    torch.save({"generator": state}, path)
    loaded = load_genforce(path)
    assert isinstance(loaded, StyleGAN1Generator)
    z = torch.randn(3, 6)
    torch.testing.assert_close(loaded(z), reference(state, z), rtol=1e-4, atol=1e-4)
    mean = loaded.mapping(z, truncation_psi=0.0, truncation_cutoff=2)
    assert torch.equal(mean[:, :2], state["truncation.w_avg"].expand(3, 2, 6))
    assert not torch.allclose(loaded(z), loaded(z, noise_mode="none"))
    fresh = [loaded(z, noise_mode="random", generator=torch.Generator().manual_seed(s)) for s in (0, 0, 1)]
    assert torch.equal(fresh[0], fresh[1])
    assert not torch.allclose(fresh[0], fresh[2])


@torch.no_grad()
def test_from_128_pixels_on_doubling_is_a_transposed_convolution():
    layer = StyleLayer(2, 3, w_dim=4, resolution=128, up=True)
    assert layer.fused
    assert not StyleLayer(2, 3, w_dim=4, resolution=64, up=True).fused
    x = torch.randn(1, 2, 64, 64)
    fused = layer._convolve(x)
    # nearest doubling and correlation with the flipped kernel is the same thing
    layer.fused = False
    layer.weight.data = layer.weight.data.flip((2, 3))
    torch.testing.assert_close(fused, layer._convolve(x), rtol=1e-4, atol=1e-5)
    assert layer(x, torch.randn(1, 4), Rendering()).shape == (1, 3, 128, 128)


def refusal(path: Path) -> str:
    with pytest.raises(CheckpointError) as caught:
        load_genforce(path)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_files_that_are_no_generators_are_refused_in_a_sentence(tmp_path):
    path = tmp_path / "model.pth"
    assert "does not exist" in refusal(path)
    path.write_bytes(b"hello")
    assert "damaged or holds more than tensors" in refusal(path)
    torch.save({"generator": {"run": print}}, path)
    assert "holds more than tensors, which is never run" in refusal(path)
    torch.save({"state_dict": {}}, path)
    assert "no tensors under generator_smooth or generator" in refusal(path)
    torch.save({"generator": {"x": torch.zeros(1)}}, path)
    assert "holds no StyleGAN or StyleGAN2 generator of genforce (it has 0 resolutions)" in refusal(path)
    state = stylegan_state()
    torch.save({"generator": {**state, "synthesis.lod": torch.ones(())}}, path)
    assert "synthesis.lod is 1.0" in refusal(path)
    torch.save(
        {"generator": {**state, "synthesis.layer1.bias": torch.zeros(5), "more": torch.zeros(1)}}, path
    )
    assert "does not fit the StyleGAN it describes in 2 tensors (more, synthesis.layer1.bias)" in refusal(
        path
    )
    torch.save({"generator": {key: v for key, v in state.items() if "layer5.bias" not in key}}, path)
    assert "synthesis.layer5.bias" in refusal(path)
    torch.save({"generator": {**to_genforce(stylegan2()), "synthesis.extra": torch.zeros(1)}}, path)
    assert "unknown key synthesis.extra" in refusal(path)
