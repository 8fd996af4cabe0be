"""DenseNet targets against torchvision's own, and their reduced forms."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
import torchvision
from torch import nn

from midre_exp.errors import ConfigError
from midre_exp.targets import load_checkpoint
from midre_exp.targets.architectures.densenet import DEPTHS, DenseNet
from midre_exp.weights.state_dict import load_backbone
from tests.golden.fill import fill, golden_images, shapes_of

TAPS = (
    "stem",
    "denseblock1",
    "transition1",
    "denseblock2",
    "transition2",
    "denseblock3",
    "transition3",
    "denseblock4",
)


def tiny(**options: object) -> DenseNet:
    return DenseNet(**{"num_classes": 5, "width": 0.1, "blocks": (1, 2, 1, 2), "stem": "half", **options})  # type: ignore[arg-type]


@pytest.mark.parametrize("depth", DEPTHS)
def test_keys_and_shapes_are_torchvisions_at_full_width(depth: int) -> None:
    with torch.device("meta"):
        ours = DenseNet(num_classes=530, depth=depth)
        theirs = torchvision.models.get_model(f"densenet{depth}", num_classes=530)
    assert list(shapes_of(ours).items()) == list(shapes_of(theirs).items())
    assert ours.library == f"densenet{depth}"


@pytest.mark.parametrize(
    ("depth", "parameters", "tensors"), [(121, 7_497_106, 727), (169, 13_366_930, 1_015)]
)
def test_counts_are_the_published_ones(depth: int, parameters: int, tensors: int) -> None:
    with torch.device("meta"):
        model = DenseNet(num_classes=530, depth=depth)
    assert sum(p.numel() for p in model.parameters()) == parameters
    assert len(model.state_dict()) == tensors


def test_initialisation_is_torchvisions() -> None:
    torch.manual_seed(3)
    ours = DenseNet(num_classes=10).state_dict()
    torch.manual_seed(3)
    theirs = torchvision.models.densenet121(num_classes=10).state_dict()
    assert all(torch.equal(ours[key], theirs[key]) for key in theirs)


@torch.no_grad()
def test_logits_and_taps_are_torchvisions_after_normalisation() -> None:
    ours, theirs = fill(DenseNet(num_classes=10)), torchvision.models.densenet121(num_classes=10).eval()
    theirs.load_state_dict(ours.state_dict())
    ours.load_state_dict(theirs.state_dict())
    images = golden_images(64)
    normalised = torchvision.transforms.functional.normalize(images, [0.5] * 3, [0.5] * 3)
    output = ours(images, taps=(*TAPS, "pool"))
    assert torch.equal(output.logits, theirs(normalised))
    x = theirs.features[:4](normalised)
    assert torch.equal(output.taps["stem"], x)
    for name in TAPS[1:]:
        x = theirs.features.get_submodule(name)(x)
        assert torch.equal(output.taps[name], x)
    assert torch.equal(output.taps["pool"], output.features)
    assert output.features.shape == (2, 1024)
    assert (output.features >= 0).all()


@pytest.mark.parametrize(("stem", "side"), [("imagenet", 8), ("small", 32), ("half", 16)])
@pytest.mark.parametrize("width", [0.125, 0.3])
def test_reduced_networks_run_forward_and_backward(stem: str, side: int, width: float) -> None:
    model = tiny(width=width, stem=stem)
    images = golden_images(32, n=3).requires_grad_()
    output = model(images, taps=("stem", "denseblock4"))
    assert output.taps["stem"].shape == (3, round(64 * width), side, side)
    assert output.taps["denseblock4"].shape[-1] == side // 8
    nn.functional.cross_entropy(output.logits, torch.tensor([0, 1, 2])).backward()
    assert images.grad is not None
    assert images.grad.abs().sum() > 0
    assert all(p.grad is not None for p in model.parameters())


def test_blocks_replace_the_depths_layers() -> None:
    layers = [len(tiny(blocks=(1, 3, 2, 4)).features.get_submodule(f"denseblock{n}")) for n in (1, 2, 3, 4)]  # type: ignore[arg-type]
    assert layers == [1, 3, 2, 4]


def old_names(key: str) -> str:
    return re.sub(r"(denselayer\d+\.(?:norm|conv))([12])\.", r"\1.\2.", key)


def test_own_key_turns_the_names_in_torchvisions_files_into_todays() -> None:
    with torch.device("meta"):
        keys = list(DenseNet(num_classes=5).state_dict())
    old = [old_names(key) for key in keys]
    assert sum("norm.1." in key for key in old) == 58 * 5  # every dense layer
    assert [DenseNet.own_key(key) for key in old] == keys
    assert [DenseNet.own_key(key) for key in keys] == keys


def test_imagenet_weights_under_old_names_and_without_counters_load(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = fill(tiny(num_classes=1000))
    state = {old_names(k): v for k, v in source.state_dict().items() if not k.endswith("num_batches_tracked")}
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr(torch.hub, "download_url_to_file", lambda url, path, digest: torch.save(state, path))
    model = tiny()
    loaded = load_backbone(model, "imagenet")
    assert loaded.path.name == "densenet121-a639ec97.pth"
    assert loaded.unused == ("classifier.weight", "classifier.bias")
    assert all(
        torch.equal(value, source.state_dict()[key])
        for key, value in model.state_dict().items()
        if not key.startswith("classifier.")
    )


def test_a_compiled_checkpoint_of_the_official_trainer_loads(tmp_path: Path) -> None:
    source, model = fill(tiny()), tiny()
    state = {f"model._orig_mod.{key}": value for key, value in source.state_dict().items()}
    torch.save({"epoch": 99, "model_state_dict": state, "optimizer_state_dict": {}}, tmp_path / "w.pth")
    assert load_checkpoint(model, tmp_path / "w.pth").prefixes == ("model.", "_orig_mod.")
    assert all(torch.equal(v, source.state_dict()[key]) for key, v in model.state_dict().items())


@pytest.mark.parametrize(
    "options",
    [{"depth": 120}, {"stem": "cifar"}, {"width": 0.0}, {"blocks": (1, 2, 3)}, {"blocks": (1, 0, 1, 1)}],
)
def test_unknown_options_are_refused_by_name(options: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match=f"model.{next(iter(options))}="):
        DenseNet(num_classes=5, **options)  # type: ignore[arg-type]
