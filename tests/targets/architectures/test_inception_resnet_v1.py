"""Inception-ResNet-v1 against facenet-pytorch's keys and numbers, and its reduced form."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from midre_exp.errors import ConfigError
from midre_exp.targets.architectures.inception_resnet_v1 import InceptionResNetV1
from midre_exp.weights.state_dict import load_backbone
from tests.golden.fill import fill, golden, golden_images, official_shapes, shapes_of


def tiny(**options: Any) -> InceptionResNetV1:
    settings: dict[str, Any] = {"num_classes": 5, "width": 0.06, "repeats": [1, 2, 1], "stem": "small"}
    return InceptionResNetV1(**{**settings, **options})


@lru_cache
def filled() -> InceptionResNetV1:
    """The whole network with the golden weights; its golden input is in normalised space."""
    return fill(InceptionResNetV1(num_classes=10, mean=0.0, std=1.0))


def golden_input(seed: int, n: int, size: int) -> Tensor:
    draw = np.random.RandomState(seed).standard_normal((n, 3, size, size))
    return torch.from_numpy((0.5 * draw).astype(np.float32))


def check(found: Tensor, summary: dict[str, Any]) -> None:
    """First and last values within 1e-3 of the std, mean and (relative) std and L2 within 1e-4 of it."""
    assert list(found.shape) == summary["shape"]
    flat = found.detach().double().flatten()
    std = summary["std"]
    for values, name in ((flat[: len(summary["first"])], "first"), (flat[-4:], "last")):
        assert values.tolist() == pytest.approx(summary[name], rel=0, abs=1e-3 * std), name
    assert float(flat.mean()) == pytest.approx(summary["mean"], rel=0, abs=1e-4 * std)
    assert float(flat.std(correction=0)) == pytest.approx(std, rel=1e-4)
    assert float(flat.norm()) == pytest.approx(summary["l2"], rel=1e-4)


def test_keys_and_shapes_are_the_official_ones_in_official_order() -> None:
    with torch.device("meta"):
        model = InceptionResNetV1(num_classes=10)
    assert list(shapes_of(model).items()) == list(official_shapes("inception_resnet_v1_10classes").items())
    assert len(shapes_of(model)) == golden("inception_resnet_v1")["n_tensors"]
    assert sum(p.numel() for p in model.parameters()) == golden("inception_resnet_v1")["n_params"]


@torch.no_grad()
def test_logits_features_embedding_and_every_part_are_the_official_networks() -> None:
    expected, model = golden("inception_resnet_v1"), filled()
    inner = expected["intermediate"]
    parts = ("mixed_6a", "mixed_7a", "block8", "last_linear")
    seen: dict[str, Tensor] = {}
    hooks = [
        model.get_submodule(name).register_forward_hook(
            lambda _, __, out, name=name: seen.update({name: out})
        )
        for name in parts
    ]
    output = model(golden_input(0, 2, 160), taps=["stem", "repeat_1", "repeat_2", "repeat_3", "embedding"])
    for hook in hooks:
        hook.remove()
    check(output.taps["stem"], inner["conv2d_4b"])
    for name in ("repeat_1", "repeat_2", "repeat_3"):
        check(output.taps[name], inner[name])
    for name in parts:
        check(seen[name], inner[name])
    check(output.taps["embedding"], inner["last_bn"])
    check(output.features, inner["last_bn"])
    check(output.logits, expected["logits"])
    check(nn.functional.normalize(output.features), expected["embedding"])


@torch.no_grad()
def test_embed_gives_the_official_unit_vectors_at_another_size() -> None:
    expected = golden("inception_resnet_v1")["embedding_112px"]["embedding"]
    embedding = filled().embed(golden_input(1, 1, 112))
    check(embedding, expected)
    torch.testing.assert_close(embedding.norm(dim=1), torch.ones(1))


@torch.no_grad()
def test_default_normalisation_is_facenet_pytorchs_fixed_standardisation() -> None:
    images = golden_images(32)
    by_hand = (255 * images - 127.5) / 128
    plain, native = fill(tiny(mean=0.0, std=1.0)), fill(tiny())
    torch.testing.assert_close(native(images).features, plain(by_hand).features)
    ppa = fill(tiny(mean=0.5, std=0.5))
    torch.testing.assert_close(ppa(images).features, plain(2 * images - 1).features)
    assert not torch.allclose(ppa(images).features, native(images).features, atol=1e-6)


def test_batch_norms_are_facenets_and_only_the_last_block_ends_without_relu() -> None:
    model = tiny()
    norms = [m for m in model.modules() if isinstance(m, (nn.BatchNorm2d, nn.BatchNorm1d))]
    assert {(m.eps, m.momentum) for m in norms} == {(1e-3, 0.1)}
    x = golden_images(3)[:, :1].repeat(1, model.last_linear.in_features, 1, 1) - 0.5
    assert model.block8(x).min() < 0
    assert model.repeat_3(x).min() == 0


@torch.no_grad()
def test_the_small_stem_has_the_same_keys_and_fits_32_px() -> None:
    published, small = tiny(stem="published"), tiny()
    assert shapes_of(published) == shapes_of(small)
    output = fill(small)(golden_images(32), taps=["stem", "repeat_1", "repeat_2", "repeat_3", "embedding"])
    assert [tuple(output.taps[name].shape[2:]) for name in ("stem", "repeat_1", "repeat_2", "repeat_3")] == [
        (8, 8),
        (8, 8),
        (3, 3),
        (1, 1),
    ]
    assert output.features.shape == (2, 31)


@torch.no_grad()
@pytest.mark.parametrize(("stem", "smallest"), [("published", 75), ("small", 25)])
def test_images_too_small_for_the_reductions_are_refused_with_the_smallest_size(
    stem: str, smallest: int
) -> None:
    model = fill(tiny(stem=stem))
    assert model(golden_images(smallest)).logits.shape == (2, 5)
    with pytest.raises(ConfigError, match=rf"{smallest - 1}x{smallest - 1} px are too small.* {smallest} px"):
        model(golden_images(smallest - 1))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"stem": "tiny"}, "model.stem=tiny is unknown; use one of published, small"),
        ({"repeats": [5, 10]}, r"model.repeats=\[5, 10\] must be three positive numbers"),
        ({"repeats": [5, 0, 5]}, "must be three positive numbers"),
        ({"dropout": -0.1}, r"model.dropout=-0.1 must lie in \[0, 1\)"),
        ({"width": -1.0}, "model.width=-1.0 must be positive"),
    ],
)
def test_options_that_cannot_work_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        tiny(**options)


def test_a_released_file_starts_a_network_of_other_classes_all_but_its_head(tmp_path: Path) -> None:
    source, model = fill(tiny(num_classes=9)), tiny(num_classes=4)
    head = model.head.weight.clone()  # type: ignore[operator]
    torch.save(source.state_dict(), tmp_path / "20180402-114759-vggface2.pt")
    loaded = load_backbone(model, str(tmp_path / "20180402-114759-vggface2.pt"))
    assert loaded.kept == loaded.unused == ("logits.weight", "logits.bias")
    assert torch.equal(model.logits.weight, head)
    assert torch.equal(model.last_linear.weight, source.last_linear.weight)


def test_a_released_file_without_its_head_starts_the_rest(tmp_path: Path) -> None:
    source = fill(tiny(num_classes=4))
    state = {key: value for key, value in source.state_dict().items() if not key.startswith("logits.")}
    torch.save(state, tmp_path / "w.pt")
    assert load_backbone(tiny(num_classes=4), str(tmp_path / "w.pt")).kept == ("logits.weight", "logits.bias")


def test_imagenet_weights_are_refused_in_words() -> None:
    with pytest.raises(ConfigError, match="InceptionResNetV1 has no ImageNet weights"):
        load_backbone(tiny(), "imagenet")
