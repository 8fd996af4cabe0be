"""ResNet targets against torchvision's own, and their reduced forms."""

from __future__ import annotations

import pytest
import torch
import torchvision
from torch import nn

from midre_exp.errors import ConfigError
from midre_exp.targets.architectures.resnet import DEPTHS, ResNet
from tests.golden.fill import golden_images, shapes_of


@pytest.mark.parametrize("depth", DEPTHS)
def test_keys_and_shapes_are_torchvisions_at_full_width(depth: int) -> None:
    with torch.device("meta"):
        ours = ResNet(num_classes=530, depth=depth)
        theirs = torchvision.models.get_model(f"resnet{depth}", num_classes=530)
    assert list(shapes_of(ours).items()) == list(shapes_of(theirs).items())


def test_parameter_count_of_resnet18_is_the_published_one() -> None:
    with torch.device("meta"):
        model = ResNet(num_classes=530)
    assert sum(p.numel() for p in model.parameters()) == 11_448_402
    assert len(model.state_dict()) == 122


def test_initialisation_is_torchvisions() -> None:
    torch.manual_seed(3)
    ours = ResNet(num_classes=10).state_dict()
    torch.manual_seed(3)
    theirs = torchvision.models.resnet18(num_classes=10).state_dict()
    assert all(torch.equal(ours[key], theirs[key]) for key in theirs)


@torch.no_grad()
@pytest.mark.parametrize("depth", [18, 50])
def test_logits_and_taps_are_torchvisions_after_normalisation(depth: int) -> None:
    ours = ResNet(num_classes=10, depth=depth).eval()
    theirs = torchvision.models.get_model(f"resnet{depth}", num_classes=10).eval()
    theirs.load_state_dict(ours.state_dict())
    images = golden_images(64)
    normalised = torchvision.transforms.functional.normalize(images, [0.5] * 3, [0.5] * 3)
    output = ours(images, taps=("stem", "layer1", "layer2", "layer3", "layer4", "pool"))
    assert torch.equal(output.logits, theirs(normalised))
    x = theirs.maxpool(theirs.relu(theirs.bn1(theirs.conv1(normalised))))
    assert torch.equal(output.taps["stem"], x)
    for name in ("layer1", "layer2", "layer3", "layer4"):
        x = theirs.get_submodule(name)(x)
        assert torch.equal(output.taps[name], x)
    assert torch.equal(output.taps["pool"], output.features)
    assert output.features.shape == (2, 512 if depth == 18 else 2048)


@pytest.mark.parametrize("depth", [18, 50])
@pytest.mark.parametrize("stem", ["imagenet", "small"])
@pytest.mark.parametrize("width", [0.125, 0.3])
def test_reduced_networks_run_forward_and_backward(depth: int, stem: str, width: float) -> None:
    model = ResNet(num_classes=5, depth=depth, width=width, stem=stem)  # type: ignore[arg-type]
    images = golden_images(32, n=3).requires_grad_()
    output = model(images, taps=("stem", "layer4"))
    assert output.features.shape == (3, round(512 * width) * (1 if depth == 18 else 4))
    assert output.taps["stem"].shape == (3, round(64 * width), *((32, 32) if stem == "small" else (8, 8)))
    assert output.taps["layer4"].shape[-1] == (4 if stem == "small" else 1)
    nn.functional.cross_entropy(output.logits, torch.tensor([0, 1, 2])).backward()
    assert images.grad is not None
    assert images.grad.abs().sum() > 0
    assert all(p.grad is not None for p in model.parameters())


def test_reduced_networks_keep_torchvisions_keys_and_block_types() -> None:
    reduced, full = ResNet(num_classes=5, width=0.125, stem="small"), ResNet(num_classes=5)
    assert list(reduced.state_dict()) == list(full.state_dict())
    assert [type(m) for m in reduced.layer4] == [type(m) for m in full.layer4]


def test_a_rebuilt_stem_is_initialised_like_torchvisions() -> None:
    torch.manual_seed(0)
    stem = ResNet(num_classes=5, stem="small").conv1.weight.detach()
    assert stem.shape == (64, 3, 3, 3)
    assert float(stem.std()) == pytest.approx((2 / (64 * 9)) ** 0.5, rel=0.1)  # kaiming, fan out


def test_blocks_replace_the_depths() -> None:
    model = ResNet(num_classes=5, depth=50, width=0.1, blocks=(1, 2, 1, 3))
    assert [len(model.get_submodule(f"layer{n}")) for n in (1, 2, 3, 4)] == [1, 2, 1, 3]  # type: ignore[arg-type]
    assert model(golden_images(32)).logits.shape == (2, 5)


@pytest.mark.parametrize(
    "options",
    [{"depth": 20}, {"stem": "cifar"}, {"width": 0.0}, {"blocks": (1, 2, 3)}, {"blocks": (1, 2, 0, 1)}],
)
def test_unknown_options_are_refused_by_name(options: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match=f"model.{next(iter(options))}="):
        ResNet(num_classes=5, **options)  # type: ignore[arg-type]
