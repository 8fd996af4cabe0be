"""The surgery that RoLSS, SSF and TTS share, on every family."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from defenses.parts.skip_connections import full_shortcuts_backward, known_shortcuts, scale_shortcuts
from midre_exp.errors import ConfigError
from midre_exp.targets import build_target
from midre_exp.targets.base import Classifier
from midre_exp.targets.shortcut import Shortcut
from midre_exp.weights.state_dict import load_backbone
from tests.defenses.networks import IMAGES, NETWORKS, network
from tests.golden.fill import shapes_of

ADDITIVE = [name for name in NETWORKS if name != "densenet121"]


def scaled(name: str, k: float, stages: list[str] | None = None) -> Classifier:
    model = network(name)
    scale_shortcuts(model, k, stages, defense="ssf")
    return model


def busy(model: Classifier) -> Classifier:
    """Random norms, so that no branch starts at zero (ResNeSt's do) and every map matters; in evaluation
    mode.
    """
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 1:
                parameter.copy_(0.5 + torch.rand(parameter.shape, generator=generator))
    return model.eval()


@pytest.mark.parametrize("name", NETWORKS)
def test_with_k_1_a_network_is_bit_equal_to_the_plain_one(name: str) -> None:
    answers = []
    for model in (network(name), scaled(name, 1.0)):
        torch.manual_seed(0)  # dropout and stochastic depth
        logits = model.train()(IMAGES).logits
        logits.square().sum().backward()
        gradients = torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])
        answers.append([logits, gradients, model.eval()(IMAGES).logits])
    assert all(torch.equal(plain, ours) for plain, ours in zip(*answers, strict=True))


@pytest.mark.parametrize("name", NETWORKS)
def test_only_the_last_stage_changes(name: str) -> None:
    plain, ours = busy(network(name)), busy(scaled(name, 0.0))
    stages = list(plain.stage_blocks())
    taps = [tap for tap, _ in plain.stages()]
    before = [tap for tap in taps if tap in stages[:-1]]
    one, two = (model(IMAGES, taps).taps for model in (plain, ours))
    assert len(before) >= 3
    assert all(torch.equal(one[tap], two[tap]) for tap in before)
    if one[stages[-1]].shape == two[stages[-1]].shape:
        assert not torch.allclose(one[stages[-1]], two[stages[-1]], rtol=1e-2)


def caught(model: Classifier, name: str) -> dict[str, Tensor]:
    """Filled at the next forward pass with what goes into the submodule ``name`` and what comes out of it."""
    seen: dict[str, Tensor] = {}

    def keep(_: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        seen.update(input=inputs[0].clone(), output=output.clone())

    model.get_submodule(name).register_forward_hook(keep)
    return seen


@pytest.mark.parametrize(
    ("name", "block", "branch", "path", "inputs"),
    [
        ("resnet18", "layer4.0", "layer4.0.bn2", "layer4.0.downsample", "layer4.0"),
        ("resnet18", "layer4.1", "layer4.1.bn2", None, "layer4.1"),
        ("resnet50", "layer4.0", "layer4.0.bn3", "layer4.0.downsample", "layer4.0"),
        ("resnest101", "layer4.0", "layer4.0.bn3", "layer4.0.downsample", "layer4.0"),
        ("resnest101", "layer4.1", "layer4.1.bn3", None, "layer4.1"),
        ("ir152", "feature.body.4", "feature.body.4.res_layer", "feature.body.4.shortcut_layer", None),
        ("ir152", "feature.body.5", "feature.body.5.res_layer", None, "feature.body.5"),
    ],
)
def test_a_block_adds_k_times_its_shortcut(
    name: str, block: str, branch: str, path: str | None, inputs: str | None
) -> None:
    model = busy(scaled(name, 0.3))
    whole, part = caught(model, block), caught(model, branch)
    model(IMAGES)
    shortcut = whole["input"]
    if path is not None:
        plain = busy(network(name))
        shortcut = plain.get_submodule(path)(shortcut)  # the plain network's own path
    expected = part["output"] + 0.3 * shortcut
    torch.testing.assert_close(whole["output"], expected if name == "ir152" else expected.relu())


def test_blocks_of_the_other_families_do_too() -> None:
    model = busy(scaled("inception_resnet_v1", 0.3))
    whole, part = caught(model, "repeat_3.0"), caught(model, "repeat_3.0.conv2d")
    model(IMAGES)
    torch.testing.assert_close(whole["output"], (0.2 * part["output"] + 0.3 * whole["input"]).relu())

    model = busy(scaled("vggface_resnet50", 0.3))
    first, projected = caught(model, "conv5_1_1x1_increase_bn"), caught(model, "conv5_1_1x1_proj_bn")
    second, third = caught(model, "conv5_2_1x1_increase_bn"), caught(model, "conv5_2_1x1_reduce")
    features = model(IMAGES, ["conv5"]).taps["conv5"]
    torch.testing.assert_close(third["input"], (first["output"] + 0.3 * projected["output"]).relu())
    torch.testing.assert_close(features, (second["output"] + 0.3 * third["input"]).relu())


def test_maxvit_scales_the_grid_attention_of_the_stages_asked_for_and_nothing_else() -> None:
    model = busy(scaled("maxvit", 0.3, ["block0", "block1"]))
    assert [
        name for name, module in model.named_modules() if isinstance(module, Shortcut) and module.k != 1
    ] == [f"blocks.{block}.layers.0.layers.grid_attention.shortcut" for block in (0, 1)]
    layer = "blocks.1.layers.0.layers.grid_attention"
    whole, attention, mlp = (caught(model, f"{layer}{part}") for part in ("", ".attn_layer", ".mlp_layer"))
    model(IMAGES)
    torch.testing.assert_close(mlp["input"], attention["output"] + 0.3 * attention["input"])
    assert whole["output"].shape == whole["input"].shape


def test_without_a_shortcut_stochastic_depth_erases_no_image() -> None:
    model = scaled("maxvit", 0.0, ["block1"]).train()
    grid: Any = model.get_submodule("blocks.1.layers.0.layers.grid_attention")
    grid.stochastic_dropout.p = 1.0 - 1e-7
    attention, mlp = (
        caught(model, f"blocks.1.layers.0.layers.grid_attention.{part}")
        for part in ("attn_layer", "mlp_layer")
    )
    model(IMAGES)
    torch.testing.assert_close(mlp["input"], attention["output"])


@pytest.mark.parametrize("name", ADDITIVE)
def test_a_removed_shortcut_is_not_run_and_gets_no_gradient(name: str) -> None:
    model = scaled(name, 0.0).train()
    unused = {
        f"{path}.{parameter}"
        for path, module in model.named_modules()
        if isinstance(module, Shortcut) and not module.k
        for parameter, _ in module.named_parameters()
    }
    model(IMAGES).logits.square().sum().backward()
    without = {key for key, p in model.named_parameters() if p.grad is None}
    projections = {key for key, _ in model.named_parameters() if key.startswith("conv5_1_1x1_proj")}
    assert without == unused | projections
    scale_shortcuts(model, 1.0, None, defense="ssf")
    model(IMAGES).logits.square().sum().backward()
    assert all(p.grad is not None for p in model.parameters())


@pytest.mark.parametrize(
    ("k", "widths", "parameters"),
    [
        (0.0, {2: 32, 16: 32, 17: 32}, 5_534_162),
        (0.01, {2: 37, 16: 37, 17: 37}, 5_546_572),
        (0.5, {2: 288, 16: 512, 17: 528}, 6_515_634),
        (1.0, {2: 544, 16: 992, 17: 1024}, 7_497_106),
    ],
)
def test_a_densenet_keeps_the_published_channels(k: float, widths: dict[int, int], parameters: int) -> None:
    with torch.device("meta"):
        model = build_target("densenet121", num_classes=530)
        scale_shortcuts(model, k, None, defense="ssf")
    shapes = shapes_of(model)
    found = {
        2: shapes["features.denseblock4.denselayer2.norm1.weight"][0],
        16: shapes["features.denseblock4.denselayer16.conv1.weight"][1],
        17: shapes["classifier.weight"][1],
    }
    assert found == widths
    assert list(shapes) == list(shapes_of(network_on_meta("densenet121")))
    assert sum(p.numel() for p in model.parameters()) == parameters


def network_on_meta(name: str) -> Classifier:
    with torch.device("meta"):
        return build_target(name, num_classes=530)


def test_a_densenet_takes_public_weights_but_for_its_rebuilt_end(tmp_path: Path) -> None:
    public = network("densenet121", seed=5)
    torch.save(public.state_dict(), tmp_path / "public.pth")
    model = network("densenet121")
    scale_shortcuts(model, 0.5, None, defense="ssf")
    before = {key: value.clone() for key, value in model.state_dict().items()}
    load_backbone(model, str(tmp_path / "public.pth"))
    for key, value in model.state_dict().items():
        rebuilt = key.startswith(("features.denseblock4.", "features.norm5.", "classifier."))
        assert torch.equal(value, before[key] if rebuilt else public.state_dict()[key]), key
    whole = network("densenet121")
    scale_shortcuts(whole, 1.0, None, defense="ssf")
    load_backbone(whole, str(tmp_path / "public.pth"))
    assert all(torch.equal(value, public.state_dict()[key]) for key, value in whole.state_dict().items())


@pytest.mark.parametrize("name", ADDITIVE)
def test_other_networks_take_all_public_weights(name: str, tmp_path: Path) -> None:
    public = network(name, seed=5)
    torch.save(public.state_dict(), tmp_path / "public.pth")
    model = scaled(name, 0.0)
    load_backbone(model, str(tmp_path / "public.pth"))
    assert all(torch.equal(value, public.state_dict()[key]) for key, value in model.state_dict().items())


@pytest.mark.parametrize(
    ("name", "stages", "named"),
    [
        ("resnet18", ["layer5"], "names layer5; the stages of ResNet with skip connections are layer1"),
        ("ir152", ["stem"], "names stem"),
        ("resnet18", [], "names none"),
        ("densenet121", ["denseblock3"], "changes the shapes of all that follows"),
    ],
)
def test_unknown_stages_are_refused_by_name(name: str, stages: list[str], named: str) -> None:
    with pytest.raises(ConfigError) as error:
        scale_shortcuts(network(name), 0.5, stages, defense="ssf")
    assert named in str(error.value)


def full_backward(shortcut: Shortcut, x: Tensor) -> Tensor:
    """k times the path in value, the whole path in gradient."""
    path = nn.Sequential.forward(shortcut, x)
    value = shortcut.k * path if shortcut.k else torch.zeros_like(path)
    return value.detach() + path - path.detach()


@pytest.mark.parametrize("k", [0.0, 0.2])
@pytest.mark.parametrize("name", ADDITIVE)
def test_who_knows_of_scaled_shortcuts_gets_their_whole_gradient_and_the_same_answers(
    name: str, k: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    deployed = busy(scaled(name, k)).requires_grad_(False)
    known = known_shortcuts(deployed)
    asked = known.network(deployed)
    assert asked is not deployed and known.target == (full_shortcuts_backward,)

    def gradient(model: Classifier) -> tuple[Tensor, Tensor]:
        images = IMAGES.clone().requires_grad_()
        logits = model(images).logits
        return logits.detach(), torch.autograd.grad(logits[:, 0].sum(), images)[0]

    plain, ours = gradient(deployed), gradient(asked)
    assert torch.equal(ours[0], plain[0])
    monkeypatch.setattr(Shortcut, "forward", full_backward)
    expected = gradient(deployed)
    torch.testing.assert_close(ours[1], expected[1], rtol=1e-3, atol=1e-6 * float(expected[1].abs().max()))
    assert (ours[1] - plain[1]).norm() > 0.01 * plain[1].norm()


def test_at_one_block_the_gradient_is_that_of_the_whole_shortcut() -> None:
    torch.manual_seed(0)
    branch, path = nn.Linear(5, 5), nn.Linear(5, 5)
    shortcut = Shortcut(0.3, path)
    shortcut.is_straight = True
    x = torch.randn(4, 5).requires_grad_()
    towards = torch.randn(4, 5)
    out = branch(x) + shortcut(x)
    assert torch.equal(out, branch(x) + 0.3 * path(x))
    (ours,) = torch.autograd.grad((towards * out.relu()).sum(), x)
    (expected,) = torch.autograd.grad((towards * (out > 0) * (branch(x) + path(x))).sum(), x)
    torch.testing.assert_close(ours, expected)


def test_a_network_of_other_shapes_has_no_place_for_its_connections() -> None:
    known = known_shortcuts(scaled("densenet121", 0.0))
    assert not known.target and "has other shapes" in known.reason
