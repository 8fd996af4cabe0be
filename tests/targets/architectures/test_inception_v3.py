"""Inception-v3 against torchvision's own: auxiliary head, input transform, features, reduced forms."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
import torch
import torchvision
from torch import nn
from torchvision.models.inception import Inception3

from midre_exp.errors import CheckpointError, ConfigError
from midre_exp.targets import load_checkpoint
from midre_exp.targets.architectures.inception_v3 import REPEATS, InceptionV3
from midre_exp.weights.state_dict import load_backbone
from tests.golden.fill import fill, golden_images, shapes_of

TAPS = ("stem", "Mixed_5d", "Mixed_6e", "Mixed_7c", "pool")


def tiny(**options: object) -> InceptionV3:
    return InceptionV3(
        **{"num_classes": 5, "width": 0.0625, "stem": "small", "auxiliary": False, **options}  # type: ignore[arg-type]
    )


def normalised(images: torch.Tensor) -> torch.Tensor:
    return torchvision.transforms.functional.normalize(images, [0.5] * 3, [0.5] * 3)


def test_keys_and_shapes_are_torchvisions() -> None:
    with torch.device("meta"):
        ours = InceptionV3(num_classes=1000)
        theirs = Inception3(num_classes=1000, init_weights=False)
        bare = InceptionV3(num_classes=1000, auxiliary=False)
    assert list(shapes_of(ours).items()) == list(shapes_of(theirs).items())
    assert set(ours.state_dict()) - set(bare.state_dict()) == {
        k for k in ours.state_dict() if "AuxLogits." in k
    }


def test_counts_are_the_published_ones_with_an_auxiliary_head_left_at_1000() -> None:
    with torch.device("meta"):
        model = InceptionV3(num_classes=530)
    assert sum(p.numel() for p in model.parameters()) == 26_198_234
    assert len(model.state_dict()) == 580
    assert shapes_of(model)["fc.weight"] == [530, 2048]
    assert shapes_of(model)["AuxLogits.fc.weight"] == [1000, 768]


@pytest.mark.parametrize("init_weights", [False, True])
def test_initialisation_is_torchvisions(init_weights: bool) -> None:
    torch.manual_seed(3)
    ours = InceptionV3(num_classes=1000, init_weights=init_weights).state_dict()
    torch.manual_seed(3)
    theirs = Inception3(init_weights=init_weights).state_dict()
    assert all(torch.equal(ours[key], theirs[key]) for key in theirs)


def test_reduced_heads_are_initialised_like_the_full_ones() -> None:
    torch.manual_seed(0)
    model = InceptionV3(num_classes=200, width=0.0625, init_weights=True)
    assert model.fc.weight.std().item() == pytest.approx(0.1, rel=0.05)
    assert model.AuxLogits is not None
    assert model.AuxLogits.fc.weight.std().item() == pytest.approx(0.001, rel=0.05)


@torch.no_grad()
@pytest.mark.parametrize("transform_input", [True, False])
def test_evaluation_is_torchvisions_with_the_transform_on_or_off(transform_input: bool) -> None:
    ours = InceptionV3(num_classes=10, transform_input=transform_input).eval()
    theirs = Inception3(num_classes=1000, transform_input=transform_input, init_weights=False)
    theirs.fc = nn.Linear(2048, 10)  # as PPA: the auxiliary head stays
    theirs.load_state_dict(ours.state_dict())
    ours.load_state_dict(theirs.state_dict())
    images = golden_images(80)
    output = ours(images, taps=TAPS)
    assert torch.equal(output.logits, theirs.eval()(normalised(images)))
    assert output.auxiliary is None
    assert list(output.taps) == list(TAPS)
    assert torch.equal(output.taps["pool"], output.features)
    theirs.fc = nn.Identity()  # PPA's feature distances
    assert torch.equal(output.features, theirs(normalised(images)))
    assert output.features.shape == (2, 2048)
    widths = [output.taps[name].shape[1] for name in TAPS]
    assert widths == [192, 288, 768, 2048, 2048]


def test_training_is_torchvisions_with_auxiliary_logits_and_dropout() -> None:
    ours = InceptionV3(num_classes=7, auxiliary_classes=9)
    theirs = Inception3(num_classes=9, transform_input=True, init_weights=False)
    theirs.fc = nn.Linear(2048, 7)
    theirs.load_state_dict(ours.state_dict())
    images = golden_images(299)
    torch.manual_seed(5)
    output = ours(images, taps=("stem",))
    torch.manual_seed(5)
    logits, auxiliary = theirs(normalised(images))
    assert torch.equal(output.logits, logits)
    assert output.auxiliary is not None
    assert torch.equal(output.auxiliary, auxiliary)
    assert output.auxiliary.shape == (2, 9)
    assert list(output.taps) == ["stem"]
    assert ours.auxiliary_weight == 1.0


def test_dropout_leaves_the_features_alone() -> None:
    torch.manual_seed(0)
    model, images = tiny(dropout=0.9).train(), golden_images(32, n=4)
    first, second = model(images), model(images)
    assert torch.equal(first.features, second.features)
    assert not torch.equal(first.logits, second.logits)
    assert not torch.allclose(model.head(first.features), first.logits)
    model.eval()
    output = model(images)
    assert torch.equal(model.head(output.features), output.logits)


def test_the_transform_is_the_published_shift_and_is_in_no_weight_file() -> None:
    on, off = fill(tiny()), fill(tiny(transform_input=False))
    assert list(on.state_dict()) == list(off.state_dict())
    images = golden_images(32)
    scale = torch.tensor([0.229, 0.224, 0.225]).view(1, 3, 1, 1)
    shift = torch.tensor([0.485, 0.456, 0.406]).view(1, 3, 1, 1)
    shifted = (images - 0.5) * scale / 0.5 + shift  # what makes ``off`` see what ``on`` sees
    expected = on(images, taps=("stem",)).taps["stem"]
    torch.testing.assert_close(off(shifted, taps=("stem",)).taps["stem"], expected)
    assert not torch.allclose(off(images, taps=("stem",)).taps["stem"], expected, atol=0.1)


@pytest.mark.parametrize("short", [True, False])
@pytest.mark.parametrize("stem", ["published", "small"])
def test_reduced_networks_run_forward_and_backward(stem: str, short: bool) -> None:
    model = tiny(stem=stem, short=short)
    assert model.auxiliary_weight == 0.0
    images = golden_images(75 if stem == "published" else 29, n=3).requires_grad_()
    output = model(images, taps=TAPS)
    assert output.auxiliary is None
    assert output.features.shape == (3, 128)
    assert [output.taps[name].shape[-1] for name in TAPS[:4]] == [7, 7, 3, 1]
    nn.functional.cross_entropy(output.logits, torch.tensor([0, 1, 2])).backward()
    assert images.grad is not None
    assert images.grad.abs().sum() > 0
    assert all(p.grad is not None for p in model.parameters())


def test_a_short_network_keeps_one_block_of_each_kind_and_all_keys_of_those() -> None:
    whole, short = tiny(), tiny(short=True)
    left_out = tuple(f"{name}." for name in REPEATS)
    assert list(short.state_dict()) == [key for key in whole.state_dict() if not key.startswith(left_out)]
    convolutions = [sum(isinstance(m, nn.Conv2d) for m in net.modules()) for net in (whole, short)]
    assert convolutions == [94, 48]


def test_images_too_small_for_the_network_or_its_auxiliary_head_are_refused() -> None:
    for stem, smallest, auxiliary in (("published", 75, 299), ("small", 29, 141)):
        model = tiny(stem=stem, auxiliary=True)
        with pytest.raises(
            ConfigError, match=f"use {auxiliary} px or more in training, or model.auxiliary=false"
        ):
            model.train()(torch.zeros(2, 3, auxiliary - 1, auxiliary))
        assert model(torch.zeros(2, 3, auxiliary, auxiliary)).auxiliary.shape == (2, 1000)
        with pytest.raises(ConfigError, match=f"use {smallest} px or more$"):
            model.eval()(torch.zeros(2, 3, smallest, smallest - 1))


@pytest.mark.parametrize(
    ("options", "what"),
    [
        ({"stem": "imagenet"}, "model.stem=imagenet is unknown"),
        ({"width": 0.3}, "model.width=0.3 must be a positive multiple"),
        ({"width": 0.0}, "model.width=0.0 must be a positive multiple"),
        ({"num_classes": 1001}, "model.auxiliary_classes=1000 is less than the 1001 classes"),
    ],
)
def test_options_that_do_not_fit_are_refused_by_name(options: dict[str, object], what: str) -> None:
    with pytest.raises(ConfigError, match=what):
        InceptionV3(**{"num_classes": 5, **options})  # type: ignore[arg-type]


def test_a_checkpoint_of_the_official_trainer_loads_whole(tmp_path: Path) -> None:
    source, model = fill(tiny(auxiliary=True, short=True)), tiny(auxiliary=True, short=True)
    state = {f"model._orig_mod.{key}": value for key, value in source.state_dict().items()}
    torch.save({"epoch": 99, "model_state_dict": state}, tmp_path / "w.pth")
    loaded = load_checkpoint(model, tmp_path / "w.pth")
    assert loaded.kept == loaded.unused == ()
    assert all(torch.equal(v, source.state_dict()[key]) for key, v in model.state_dict().items())


@pytest.mark.parametrize("source", ["without", "of another width"])
@pytest.mark.parametrize("reader", ["checkpoint", "backbone"])
def test_the_auxiliary_head_may_be_missing_or_of_another_class_count(
    source: str, reader: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = fill(
        tiny(short=True) if source == "without" else tiny(short=True, auxiliary=True, auxiliary_classes=6)
    )
    torch.save({f"model.{key}": value for key, value in file.state_dict().items()}, tmp_path / "w.pth")
    model = tiny(short=True, auxiliary=True)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    with caplog.at_level(logging.INFO, logger="midre_exp"):
        loaded = (
            load_checkpoint(model, tmp_path / "w.pth")
            if reader == "checkpoint"
            else load_backbone(model, str(tmp_path / "w.pth"))
        )
    auxiliary = tuple(key for key in before if key.startswith("AuxLogits."))
    assert len(auxiliary) == 14
    assert loaded.kept == auxiliary
    assert set(loaded.unused) == (set() if source == "without" else set(auxiliary))
    assert "kept as initialised: AuxLogits.conv0.conv.weight" in caplog.text
    for key, value in model.state_dict().items():
        assert torch.equal(value, before[key] if key in auxiliary else file.state_dict()[key])


def test_a_file_with_an_auxiliary_head_fits_a_model_without(tmp_path: Path) -> None:
    source, model = fill(tiny(short=True, auxiliary=True)), tiny(short=True)
    torch.save(source.state_dict(), tmp_path / "w.pth")
    loaded = load_checkpoint(model, tmp_path / "w.pth")
    assert loaded.kept == ()
    assert set(loaded.unused) == {key for key in source.state_dict() if key.startswith("AuxLogits.")}
    assert all(torch.equal(v, source.state_dict()[key]) for key, v in model.state_dict().items())


def test_half_an_auxiliary_head_is_refused(tmp_path: Path) -> None:
    state = fill(tiny(short=True, auxiliary=True)).state_dict()
    torch.save({k: v for k, v in state.items() if k != "AuxLogits.fc.bias"}, tmp_path / "w.pth")
    with pytest.raises(CheckpointError, match=r"missing: AuxLogits\.fc\.bias"):
        load_checkpoint(tiny(short=True, auxiliary=True), tmp_path / "w.pth")
