"""MaxViT targets against torchvision's own, and their reduced forms."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torchvision
from torch import nn

from midre_exp.errors import ConfigError
from midre_exp.targets import load_checkpoint
from midre_exp.targets.architectures.maxvit import MaxViT
from tests.golden.fill import golden_images, shapes_of


def tiny(**options: object) -> MaxViT:
    return MaxViT(
        **{  # type: ignore[arg-type]
            "num_classes": 5,
            "image_size": 32,
            "width": 0.125,
            "channels": (64, 128, 256),
            "blocks": (1, 1, 1),
            "partition": 2,
            "head_dim": 8,
            **options,
        }
    )


def test_keys_and_shapes_are_torchvisions_for_imagenets_classes() -> None:
    with torch.device("meta"):
        ours, theirs = MaxViT(num_classes=1000), torchvision.models.maxvit_t(num_classes=1000)
    assert list(shapes_of(ours).items()) == list(shapes_of(theirs).items())
    assert len(ours.state_dict()) == 582


def test_counts_for_other_classes_are_the_published_ones_with_a_bias() -> None:
    with torch.device("meta"):
        ours, theirs = MaxViT(num_classes=530), torchvision.models.maxvit_t()
    theirs.classifier[5] = nn.Linear(512, 530, device="meta")  # as MIDRE's repository
    assert list(shapes_of(ours).items()) == list(shapes_of(theirs).items())
    assert sum(p.numel() for p in ours.parameters()) == 30_679_514
    assert len(ours.state_dict()) == 583


@pytest.mark.parametrize(
    ("classes", "head_bias", "biased"),
    [(1000, "auto", False), (999, "auto", True), (1000, True, True), (5, False, False), (5, True, True)],
)
def test_the_head_has_a_bias_unless_there_are_as_many_classes_as_in_imagenet_or_by_choice(
    classes: int, head_bias: bool | str, biased: bool
) -> None:
    model = tiny(num_classes=classes, head_bias=head_bias)
    assert ("classifier.5.bias" in model.state_dict()) is biased
    assert isinstance(model.head, nn.Linear)
    assert model.head.out_features == classes


@torch.no_grad()
def test_logits_and_taps_are_torchvisions_after_normalisation() -> None:
    ours, theirs = MaxViT(num_classes=1000).eval(), torchvision.models.maxvit_t().eval()
    theirs.load_state_dict(ours.state_dict())
    ours.load_state_dict(theirs.state_dict())
    images = golden_images(224, n=1)
    normalised = torchvision.transforms.functional.normalize(images, [0.5] * 3, [0.5] * 3)
    output = ours(images, taps=("stem", "block0", "block1", "block2", "block3", "embedding"))
    assert torch.equal(output.logits, theirs(normalised))
    x = theirs.stem(normalised)
    assert torch.equal(output.taps["stem"], x)
    for number, block in enumerate(theirs.blocks):
        x = block(x)
        assert torch.equal(output.taps[f"block{number}"], x)
    assert torch.equal(output.taps["embedding"], output.features)
    assert output.features.shape == (1, 512)
    assert output.features.abs().max() <= 1  # behind the hyperbolic tangent
    torch.testing.assert_close(output.features @ theirs.classifier[5].weight.T, output.logits)


@pytest.mark.parametrize(
    "options", [{}, {"channels": (64, 128), "blocks": (2, 1), "partition": 4}, {"stochastic_depth": 0.5}]
)
def test_reduced_networks_run_forward_and_backward(options: dict[str, object]) -> None:
    model = tiny(**options)
    images = golden_images(32, n=8).requires_grad_()
    output = model(images, taps=("stem", "block0"))
    assert output.features.shape == (8, model.head.in_features)
    assert output.taps["stem"].shape == (8, 8, 16, 16)
    assert output.taps["block0"].shape == (8, 8, 8, 8)
    nn.functional.cross_entropy(output.logits, torch.arange(8) % 5).backward()
    assert images.grad is not None
    assert images.grad.abs().sum() > 0
    assert all(p.grad is not None for p in model.parameters())


def test_stochastic_depth_acts_in_training_only() -> None:
    images = golden_images(32)
    torch.manual_seed(0)
    model = tiny(stochastic_depth=0.9)
    assert not torch.equal(model(images).logits, model(images).logits)
    model.eval()
    assert torch.equal(model(images).logits, model(images).logits)


def test_running_statistics_follow_the_momentum_and_default_to_torchvisions() -> None:
    with torch.device("meta"):
        theirs = torchvision.models.maxvit_t()
    reference = {(m.momentum, m.eps) for m in theirs.modules() if isinstance(m, nn.BatchNorm2d)}
    for model, expected in ((tiny(), reference), (tiny(norm_momentum=0.5), {(0.5, 1e-3)})):
        assert {(m.momentum, m.eps) for m in model.modules() if isinstance(m, nn.BatchNorm2d)} == expected


def test_a_checkpoint_of_the_official_trainer_loads_and_one_without_bias_is_told_apart(
    tmp_path: Path,
) -> None:
    source, model = tiny(), tiny()
    state = {f"model._orig_mod.{key}": value for key, value in source.state_dict().items()}
    torch.save({"epoch": 99, "model_state_dict": state}, tmp_path / "w.pth")
    assert load_checkpoint(model, tmp_path / "w.pth").wrapper == "model_state_dict"
    assert all(torch.equal(v, source.state_dict()[key]) for key, v in model.state_dict().items())
    with pytest.raises(Exception, match=r"unexpected: classifier\.5\.bias"):
        load_checkpoint(tiny(head_bias=False), tmp_path / "w.pth")


def test_images_of_another_size_are_refused_in_one_sentence() -> None:
    with pytest.raises(ConfigError, match=r"images of 64x64 px do not fit model.image_size=32"):
        tiny()(golden_images(64))


@pytest.mark.parametrize(
    ("options", "what"),
    [
        (
            {"image_size": 256},
            r"model.image_size=256 gives grids of \[64, 32, 16, 8\].*use a multiple of 224 px",
        ),
        ({"image_size": 32}, r"model.image_size=32 gives grids"),
        ({"partition": 0}, r"model.partition=0"),
        ({"width": 0.1}, r"model.head_dim=32 must divide .* \[6, 13, 26, 51\]"),
        ({"head_dim": 0}, r"model.head_dim=0 "),
        ({"blocks": (1, 2)}, r"model.blocks=\[1, 2\] must be equally many"),
        ({"blocks": (1, 2, 0, 1)}, r"positive numbers"),
        ({"head_bias": "maybe"}, r"model.head_bias=maybe is unknown"),
        ({"norm_momentum": 0.0}, r"model.norm_momentum=0.0 must be"),
        ({"stochastic_depth": 1.0}, r"model.stochastic_depth=1.0 must be"),
        ({"width": -1.0}, r"model.width=-1.0 must be positive"),
    ],
)
def test_options_that_do_not_fit_are_refused_by_name(options: dict[str, object], what: str) -> None:
    with pytest.raises(ConfigError, match=what):
        MaxViT(num_classes=5, **options)  # type: ignore[arg-type]
