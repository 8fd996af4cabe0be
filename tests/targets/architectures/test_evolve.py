"""IR152, FaceNet64 and FaceNet112 against the official networks' keys and numbers, their zoo files, and
reduced forms.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from midre_exp.errors import CheckpointError, ConfigError
from midre_exp.plan.choice import choice
from midre_exp.targets import build_target, load_checkpoint
from midre_exp.targets.architectures.evolve import IR, FaceNet112
from midre_exp.weights.state_dict import load_backbone
from tests.golden.fill import (
    check_summary,
    checksum,
    fill,
    golden,
    golden_images,
    official_shapes,
    shapes_of,
)

TAPS = ["stem", "stage1", "stage2", "stage3", "stage4", "output"]


def tiny(kind: type[IR] = IR, **options: Any) -> IR:
    return kind(**{"num_classes": 5, "image_size": 32, "blocks": [1, 1, 1, 1], "width": 0.125, **options})


def zoo_state(image_size: int) -> dict[str, Tensor]:
    """A tiny file in the layout of the face.evoLVe model zoo: input_layer, output_layer, body."""
    state = fill(tiny(FaceNet112, image_size=image_size)).state_dict()
    return {key.removeprefix("feature."): v.clone() for key, v in state.items() if key.startswith("feature.")}


@pytest.mark.parametrize(
    ("name", "layout", "parameters"),
    [
        ("ir152", "ir152_64", 62_599_848),
        ("facenet64", "facenet64", 35_437_224),
        ("facenet112", "facenet112_eval", 44_087_976),
    ],
)
def test_keys_shapes_and_parameters_are_the_official_ones_in_official_order(
    name: str, layout: str, parameters: int
) -> None:
    with torch.device("meta"):
        model = build_target(name, num_classes=1000)
    assert list(shapes_of(model).items()) == list(official_shapes(layout).items())
    assert sum(p.numel() for p in model.parameters()) == parameters


@torch.no_grad()
@pytest.mark.parametrize(
    ("file", "build", "size"),
    [
        ("facenet64", lambda: IR(num_classes=1000, image_size=64), 64),
        ("facenet112_eval", lambda: FaceNet112(num_classes=1000, image_size=112), 112),
    ],
)
def test_features_and_logits_are_the_official_networks(file: str, build: Callable[[], IR], size: int) -> None:
    expected = golden(file)
    model = fill(build())
    assert checksum(model) == pytest.approx(expected["filled_weights_checksum"], rel=1e-9)
    output = model(golden_images(size))
    check_summary(output.features, expected["outputs"]["features"])
    check_summary(output.logits, expected["outputs"]["logits"])


def test_trunk_starts_xavier_uniform_and_an_outside_output_layer_as_pytorch_does() -> None:
    model = tiny(width=0.5)
    weight = model.state_dict()["feature.body.0.res_layer.1.weight"]
    bound = (6 / (32 * 9 + 32 * 9)) ** 0.5
    assert 0.98 * bound < float(weight.abs().max()) <= bound
    inside, outside = tiny(FaceNet112).state_dict(), tiny().state_dict()
    assert (inside["feature.output_layer.3.bias"] == 0).all()
    assert float(inside["feature.output_layer.3.weight"].abs().max()) > 0.95 * (6 / (256 + 64)) ** 0.5
    assert outside["output_layer.3.bias"].abs().sum() > 0
    assert float(outside["output_layer.3.weight"].abs().max()) <= 256**-0.5


@torch.no_grad()
@pytest.mark.parametrize("kind", [IR, FaceNet112])
def test_taps_are_the_stem_the_ends_of_the_stages_and_the_features(kind: type[IR]) -> None:
    model = fill(tiny(kind, blocks=[2, 1, 3, 1]))
    images = golden_images(32)
    output = model(images, taps=TAPS)
    maps = [tuple(output.taps[name].shape[1:]) for name in TAPS[:-1]]
    assert maps == [(8, 32, 32), (8, 16, 16), (16, 8, 8), (32, 4, 4), (64, 2, 2)]
    x = model.get_submodule("feature.input_layer")(images)
    body = model.get_submodule("feature.body")
    for index, unit in enumerate(body.children()):
        x = unit(x)
        for name, end in (("stage1", 2), ("stage2", 3), ("stage3", 6), ("stage4", 7)):
            if index + 1 == end:
                torch.testing.assert_close(output.taps[name], x, rtol=0, atol=0)
    torch.testing.assert_close(output.taps["output"], output.features, rtol=0, atol=0)


@pytest.mark.parametrize("kind", [IR, FaceNet112])
def test_dropout_acts_in_training_only_and_as_strongly_as_asked(kind: type[IR]) -> None:
    images = golden_images(32, n=8)
    model, never = fill(tiny(kind)), fill(tiny(kind, dropout=0.0))
    torch.testing.assert_close(model(images).features, never(images).features, rtol=0, atol=0)
    seen: list[Tensor] = []
    for network in (model.train(), never.train()):
        dropout = next(m for m in network.modules() if isinstance(m, nn.Dropout))
        dropout.register_forward_hook(lambda _, __, out: seen.append(out))
        network(images)
    assert 0.4 < float((seen[0] == 0).float().mean()) < 0.6
    assert float((seen[1] == 0).float().mean()) < 0.01


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"depth": 101}, "model.depth=101 is unknown; use one of 50, 152"),
        ({"blocks": [1, 2, 3]}, r"model.blocks=\[1, 2, 3\] must be four positive numbers"),
        ({"blocks": [1, 2, 0, 1]}, "must be four positive numbers"),
        ({"blocks": []}, "must be four positive numbers"),
        ({"image_size": 40}, "model.image_size=40 must be a multiple of 16"),
        ({"image_size": 0}, "model.image_size=0 must be a multiple of 16"),
        ({"dropout": 1.0}, r"model.dropout=1.0 must lie in \[0, 1\)"),
        ({"width": 0.0}, "model.width=0.0 must be positive"),
    ],
)
def test_options_that_cannot_work_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        tiny(**options)


def test_the_two_places_of_the_output_layer_are_not_confused(tmp_path: Path) -> None:
    torch.save({"state_dict": tiny().state_dict()}, tmp_path / "w.tar")
    with pytest.raises(CheckpointError, match=r"missing: feature.output_layer.0.weight"):
        load_checkpoint(tiny(FaceNet112), tmp_path / "w.tar")


def test_a_zoo_file_of_112_px_starts_the_trunk_and_leaves_both_heads_fresh(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    zoo = zoo_state(image_size=112)
    torch.save(zoo, tmp_path / "backbone_ir50_ms1m_epoch120.pth")
    model = tiny()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    with caplog.at_level(logging.INFO, logger="midre_exp"):
        loaded = load_backbone(model, str(tmp_path / "backbone_ir50_ms1m_epoch120.pth"))
    for key, value in model.state_dict().items():
        if key.startswith("feature."):
            assert torch.equal(value, zoo[key.removeprefix("feature.")]), key
        else:
            assert torch.equal(value, before[key]), key
            assert key in loaded.kept
    assert loaded.unused == tuple(key for key in zoo if key.startswith("output_layer."))
    assert len(loaded.unused) == 12
    assert "unused in the file: output_layer.0.weight" in caplog.text


def test_a_zoo_file_gives_facenet112_trunk_and_output_layer(tmp_path: Path) -> None:
    zoo = zoo_state(image_size=112)
    torch.save(zoo, tmp_path / "zoo.pth")
    model = tiny(FaceNet112, image_size=112)
    loaded = load_backbone(model, str(tmp_path / "zoo.pth"))
    assert loaded.kept == ("fc_layer.weight", "fc_layer.bias")
    assert loaded.unused == ()
    assert all(torch.equal(model.state_dict()[f"feature.{key}"], value) for key, value in zoo.items())


def test_facenet112_refuses_a_zoo_file_of_another_size(tmp_path: Path) -> None:
    torch.save(zoo_state(image_size=112), tmp_path / "zoo.pth")
    with pytest.raises(
        CheckpointError, match=r"feature.output_layer.3.weight \(file \[64, 3136\], model \[64, 256\]\)"
    ):
        load_backbone(tiny(FaceNet112), str(tmp_path / "zoo.pth"))


def test_a_targets_own_file_starts_it_whole_but_for_a_head_of_other_classes(tmp_path: Path) -> None:
    source, model = fill(tiny()), tiny(num_classes=7)
    torch.save({"state_dict": source.state_dict()}, tmp_path / "w.tar")
    assert load_backbone(model, str(tmp_path / "w.tar")).kept == ("fc_layer.weight", "fc_layer.bias")
    assert torch.equal(
        model.state_dict()["output_layer.3.weight"], source.state_dict()["output_layer.3.weight"]
    )


@pytest.mark.parametrize("name", ["ir152", "facenet64", "facenet112"])
def test_the_mini_form_trains_as_long_as_all_mini_targets(name: str) -> None:
    epochs = choice("target", name, scale="mini")["recipe"]["epochs"]
    assert epochs == choice("target", "vgg16", scale="mini")["recipe"]["epochs"]
