"""ResNeSt targets against timm's own, and their reduced forms."""

from __future__ import annotations

from pathlib import Path

import pytest
import timm
import torch
import torchvision
from timm.layers.split_attn import SplitAttn
from torch import nn

from midre_exp.errors import ConfigError
from midre_exp.targets import load_checkpoint
from midre_exp.targets.architectures.resnest import ResNeSt
from tests.golden.fill import golden_images, shapes_of

STAGES = ("layer1", "layer2", "layer3", "layer4")


def tiny(**options: object) -> ResNeSt:
    return ResNeSt(**{"num_classes": 5, "width": 0.0625, "blocks": (1, 2, 1, 1), **options})  # type: ignore[arg-type]


def test_keys_and_shapes_are_timms_and_counts_the_published_ones() -> None:
    with torch.device("meta"):
        ours, theirs = ResNeSt(num_classes=120), timm.create_model("resnest101e", num_classes=120)
    assert list(shapes_of(ours).items()) == list(shapes_of(theirs).items())
    assert sum(p.numel() for p in ours.parameters()) == 46_471_896
    assert len(ours.state_dict()) == 935


@torch.no_grad()
def test_initialisation_logits_and_taps_are_timms() -> None:
    torch.manual_seed(3)
    ours = ResNeSt(num_classes=10).eval()
    torch.manual_seed(3)
    theirs = timm.create_model("resnest101e", num_classes=10).eval()
    assert all(torch.equal(ours.state_dict()[key], value) for key, value in theirs.state_dict().items())
    for module in ours.modules():
        if isinstance(module, nn.BatchNorm2d):  # residual branches start at zero and would hide mistakes
            nn.init.uniform_(module.weight, 0.5, 1)
    theirs.load_state_dict(ours.state_dict())
    ours.load_state_dict(theirs.state_dict())
    images = golden_images(64)
    normalised = torchvision.transforms.functional.normalize(images, [0.5] * 3, [0.5] * 3)
    output = ours(images, taps=("stem", *STAGES, "pool"))
    x = theirs.maxpool(theirs.act1(theirs.bn1(theirs.conv1(normalised))))
    assert torch.equal(output.taps["stem"], x)
    for name in STAGES:
        x = theirs.get_submodule(name)(x)
        assert torch.equal(output.taps[name], x)
    assert torch.equal(output.taps["pool"], output.features)
    assert torch.equal(output.logits, theirs.forward_head(x))
    assert output.features.shape == (2, 2048)


@pytest.mark.parametrize(("stem", "side"), [("imagenet", 8), ("half", 16), ("small", 32)])
@pytest.mark.parametrize("width", [0.0625, 0.125])
def test_reduced_networks_run_forward_and_backward(stem: str, side: int, width: float) -> None:
    model = tiny(stem=stem, width=width)
    images = golden_images(32, n=3).requires_grad_()
    output = model(images, taps=("stem", *STAGES))
    assert output.features.shape == (3, round(2048 * width))
    assert [output.taps[tap].shape[-1] for tap in ("stem", *STAGES)] == [
        side,
        side,
        side // 2,
        side // 4,
        side // 8,
    ]
    nn.functional.cross_entropy(output.logits, torch.tensor([0, 1, 2])).backward()
    assert images.grad is not None
    assert images.grad.abs().sum() > 0
    assert all(p.grad is not None for p in model.parameters())


def test_reduced_networks_keep_split_attention_over_two_groups() -> None:
    model = tiny()
    assert [len(model.get_submodule(name)) for name in STAGES] == [1, 2, 1, 1]  # type: ignore[arg-type]
    splits = [module for module in model.modules() if isinstance(module, SplitAttn)]
    assert len(splits) == 5
    assert all(split.radix == split.conv.groups == 2 for split in splits)


def test_a_checkpoint_of_the_official_trainer_loads(tmp_path: Path) -> None:
    source, model = tiny(), tiny()
    state = {f"model._orig_mod.{key}": value for key, value in source.state_dict().items()}
    torch.save({"epoch": 99, "model_state_dict": state}, tmp_path / "w.pth")
    assert load_checkpoint(model, tmp_path / "w.pth").prefixes == ("model.", "_orig_mod.")
    assert all(torch.equal(v, source.state_dict()[key]) for key, v in model.state_dict().items())


@pytest.mark.parametrize(
    "options",
    [{"stem": "deep"}, {"width": 0.0}, {"width": 0.05}, {"blocks": (1, 2, 3)}, {"blocks": (0, 1, 1, 1)}],
)
def test_unknown_options_are_refused_by_name(options: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match=f"model.{next(iter(options))}="):
        ResNeSt(num_classes=5, **options)  # type: ignore[arg-type]
