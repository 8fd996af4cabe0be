"""The Oxford ResNet-50: names, shapes and stride placement as described; no numbers of the original are at
hand.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision
from torch import nn

from midre_exp.errors import ConfigError
from midre_exp.targets import build_target
from midre_exp.targets.architectures.vggface_resnet50 import VGGFaceResNet50
from midre_exp.weights.state_dict import load_backbone
from tests.golden.fill import fill, golden_images, shapes_of

TAPS = ["stem", "conv2", "conv3", "conv4", "conv5", "pool"]


def tiny(**options: Any) -> VGGFaceResNet50:
    return VGGFaceResNet50(**{"num_classes": 5, "blocks": [1, 2, 1, 1], "width": 0.0625, **options})


def published() -> VGGFaceResNet50:
    with torch.device("meta"):
        model = build_target("vggface_resnet50", num_classes=8631)
    assert isinstance(model, VGGFaceResNet50)
    return model


def test_layers_bear_the_names_of_the_conversion_and_the_head_is_a_pointwise_convolutions() -> None:
    shapes = shapes_of(published())
    weights = {key.removesuffix(".weight"): shape for key, shape in shapes.items() if len(shape) == 4}
    names = ["conv1_7x7_s2"]
    for stage, blocks in ((2, 3), (3, 4), (4, 6), (5, 3)):
        for block in range(1, blocks + 1):
            kinds = ("1x1_reduce", "3x3", "1x1_increase", *(["1x1_proj"] if block == 1 else []))
            names += [f"conv{stage}_{block}_{kind}" for kind in kinds]
    assert list(weights) == [*names, "classifier"]
    assert weights["conv1_7x7_s2"] == [64, 3, 7, 7]
    assert weights["conv2_1_1x1_reduce"] == [64, 64, 1, 1]
    assert weights["conv2_2_1x1_reduce"] == [64, 256, 1, 1]
    assert weights["conv4_1_1x1_proj"] == [1024, 512, 1, 1]
    assert weights["conv5_3_3x3"] == [512, 512, 3, 3]
    assert weights["classifier"] == [8631, 2048, 1, 1]
    assert shapes["classifier.bias"] == [8631]
    others = set(shapes) - {f"{name}.weight" for name in weights} - {"classifier.bias"}
    entries = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
    assert others == {f"{name}_bn.{entry}" for name in names for entry in entries}


def test_it_has_as_many_parameters_as_torchvisions_resnet50() -> None:
    with torch.device("meta"):
        other = torchvision.models.resnet50(num_classes=8631)
    model = published()
    assert sum(p.numel() for p in model.parameters()) == sum(p.numel() for p in other.parameters())
    assert len(model.state_dict()) == len(other.state_dict())


def test_stages_halve_the_map_in_their_first_pointwise_convolution_and_projection() -> None:
    strided = {
        name: module.stride
        for name, module in published().named_modules()
        if isinstance(module, nn.Conv2d) and module.stride != (1, 1)
    }
    layers = [f"conv{stage}_1_1x1_{kind}" for stage in (3, 4, 5) for kind in ("reduce", "proj")]
    assert strided == dict.fromkeys(["conv1_7x7_s2", *layers], (2, 2))


@torch.no_grad()
def test_every_stage_has_the_published_shape_at_224_px() -> None:
    model = build_target("vggface_resnet50", num_classes=7).eval()
    output = model(golden_images(224, n=1), taps=TAPS)
    assert [tuple(output.taps[name].shape[1:]) for name in TAPS] == [
        (64, 56, 56),
        (256, 56, 56),
        (512, 28, 28),
        (1024, 14, 14),
        (2048, 7, 7),
        (2048,),
    ]
    assert output.features.shape == (1, 2048)
    assert output.logits.shape == (1, 7)


@torch.no_grad()
def test_the_pooling_is_unpadded_and_rounds_up() -> None:
    model = fill(tiny())
    images = golden_images(32)
    x = model.get_submodule("conv1_7x7_s2")((images - model.mean) / model.std)
    x = torch.relu(model.get_submodule("conv1_7x7_s2_bn")(x))
    padded = nn.functional.pad(
        x, (0, 1, 0, 1), value=-torch.inf
    )  # one row and column that only rounding up reaches
    expected = nn.functional.max_pool2d(padded, 3, 2)
    stem = model(images, taps=["stem"]).taps["stem"]
    assert stem.shape[2:] == (8, 8)
    torch.testing.assert_close(stem, expected, rtol=0, atol=0)


@torch.no_grad()
def test_a_block_is_the_bottleneck_with_its_shortcut() -> None:
    model = fill(tiny())
    taps = model(golden_images(32), taps=["conv2", "conv3"]).taps

    def normed(name: str, x: torch.Tensor) -> torch.Tensor:
        x = model.get_submodule(name)(x)
        out: torch.Tensor = model.get_submodule(f"{name}_bn")(x)
        return out

    x = taps["conv2"]
    for block in ("conv3_1", "conv3_2"):
        inner = normed(f"{block}_1x1_reduce", x).relu()
        inner = normed(f"{block}_3x3", inner).relu()
        shortcut = normed(f"{block}_1x1_proj", x) if block == "conv3_1" else x
        x = (normed(f"{block}_1x1_increase", inner) + shortcut).relu()
    torch.testing.assert_close(taps["conv3"], x)


@torch.no_grad()
def test_the_network_sees_bytes_minus_the_mean_pixel() -> None:
    images = golden_images(32)
    by_hand = 255 * images - torch.tensor([131.0912, 103.8827, 91.4953])[:, None, None]
    plain = fill(tiny(mean=0.0, std=1.0))
    torch.testing.assert_close(fill(tiny())(images).logits, plain(by_hand).logits, rtol=1e-4, atol=1e-2)


@torch.no_grad()
def test_logits_are_the_pointwise_convolution_of_the_pooled_features() -> None:
    model = fill(tiny())
    output = model(golden_images(32))
    as_map = output.features[:, :, None, None]
    expected = nn.functional.conv2d(as_map, model.classifier.weight, model.classifier.bias).flatten(1)
    torch.testing.assert_close(output.logits, expected)
    assert output.features.shape == (2, 128)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"blocks": [3, 4, 6]}, r"model.blocks=\[3, 4, 6\] must be four positive numbers"),
        ({"blocks": [3, 4, 0, 3]}, "must be four positive numbers"),
        ({"width": 0.0}, "model.width=0.0 must be positive"),
        ({"mean": (0.5, 0.5)}, "model.mean="),
    ],
)
def test_options_that_cannot_work_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        tiny(**options)


def test_an_old_file_without_batch_counters_starts_other_classes_all_but_the_head(tmp_path: Path) -> None:
    source, model = fill(tiny(num_classes=9)), tiny(num_classes=4)
    state = {key: v for key, v in source.state_dict().items() if not key.endswith("num_batches_tracked")}
    torch.save(state, tmp_path / "resnet50_scratch.pth")
    loaded = load_backbone(model, str(tmp_path / "resnet50_scratch.pth"))
    assert loaded.unused == ("classifier.weight", "classifier.bias")
    assert {key for key in loaded.kept if not key.endswith("num_batches_tracked")} == set(loaded.unused)
    name = "conv5_1_1x1_proj.weight"
    assert torch.equal(model.state_dict()[name], state[name])
