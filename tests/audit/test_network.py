"""Which network a weight file is of, read from the file alone."""

from __future__ import annotations

import sys

import pytest
import timm
import torch
from torch import nn
from torchvision import models
from torchvision.models.resnet import BasicBlock

from midre_exp.audit import network
from midre_exp.audit.network import read_checkpoint
from midre_exp.errors import CheckpointError, ConfigError
from midre_exp.targets.architectures.resnet import ResNet

NORM = (0.5,) * 3


def small_resnet(classes: int) -> models.ResNet:
    return models.ResNet(BasicBlock, [1, 1, 1, 1], num_classes=classes).eval()


def saved(folder, content, name="net.pt"):
    path = folder / name
    torch.save(content, path)
    return path


def logits(checkpoint, images, number=0):
    with torch.no_grad():
        return checkpoint.build(checkpoint.networks[number], NORM, NORM)(images).logits


def test_a_resnet_of_torchvision_in_a_wrapper_with_its_classes(tmp_path):
    torch.manual_seed(0)
    net = small_resnet(7)
    state = {f"module.{key}": value for key, value in net.state_dict().items()}
    names = {"anna": 0, "bo": 1}
    found = read_checkpoint(
        saved(tmp_path, {"state_dict": state, "class_to_idx": names, "epoch": 3}), folder=tmp_path / "w"
    )
    assert (found.classes, found.networks[0].name, found.networks[0].model["stem"]) == (
        7,
        "resnet18",
        "imagenet",
    )
    assert found.remarks["class_to_idx"] == names and not found.notes
    images = torch.rand(2, 3, 40, 40)
    with torch.no_grad():
        expected = net((images - 0.5) / 0.5)
    torch.testing.assert_close(logits(found, images), expected)


@pytest.mark.parametrize("stem", ["small", "half", "small_pooled", "half_pooled"])
def test_another_stem_and_width_leave_what_shapes_do_not_tell_to_the_answers(stem, tmp_path):
    net = ResNet(num_classes=5, width=0.25, stem=stem, blocks=[1, 1, 2, 1]).eval()
    found = read_checkpoint(saved(tmp_path, net.state_dict()), folder=tmp_path / "w")
    stems = [network.model["stem"] for network in found.networks]
    assert stems == ["small", "half", "small_pooled", "half_pooled"]
    assert found.networks[0].model["width"] == 0.25 and found.networks[0].model["blocks"] == [1, 1, 2, 1]
    images = torch.rand(2, 3, 24, 24)
    with torch.no_grad():
        expected = net(images).logits
    torch.testing.assert_close(logits(found, images, stems.index(stem)), expected)


def test_grey_pictures_and_a_head_behind_dropout_are_taken(tmp_path):
    net = small_resnet(5)
    net.conv1 = nn.Conv2d(1, 64, 7, 2, 3, bias=False)
    net.fc = nn.Sequential(nn.Dropout(), nn.Linear(512, 5))
    net.eval()
    found = read_checkpoint(saved(tmp_path, net.state_dict()), folder=tmp_path / "w")
    assert len(found.notes) == 2 and found.path != found.given and found.path.exists()
    grey = torch.rand(2, 1, 40, 40)
    with torch.no_grad():
        expected = net((grey - 0.5) / 0.5)
    torch.testing.assert_close(logits(found, grey.expand(-1, 3, -1, -1)), expected, atol=1e-4, rtol=1e-4)


def test_other_networks_of_torchvision_are_found_by_their_numbers(tmp_path):
    net = models.shufflenet_v2_x0_5(num_classes=6).eval()
    found = read_checkpoint(saved(tmp_path, net.state_dict()), folder=tmp_path / "w")
    assert found.networks[0].model["network"] == "shufflenet_v2_x0_5" and found.classes == 6
    images = torch.rand(2, 3, 32, 32)
    built = found.build(found.networks[0], NORM, NORM)
    with torch.no_grad():
        output = built(images)
        torch.testing.assert_close(output.logits, net((images - 0.5) / 0.5))
        torch.testing.assert_close(output.logits, built.head(output.features))
    with pytest.raises(ConfigError, match="has no tap layer3"):
        built(images, taps=("layer3",))


def test_timm_by_the_word_in_the_file_or_of_the_user(tmp_path):
    net = timm.create_model("test_resnet", num_classes=4).eval()
    path = saved(tmp_path, {"arch": "test_resnet", "state_dict": net.state_dict()})
    other = saved(tmp_path, net.state_dict(), "other.pt")
    images = torch.rand(1, 3, 32, 32)
    with torch.no_grad():
        expected = net((images - 0.5) / 0.5)
    for found in (
        read_checkpoint(path, folder=tmp_path / "w"),
        read_checkpoint(other, model="timm:test_resnet", folder=tmp_path / "w"),
    ):
        assert found.networks[0].name == "timm-test_resnet"
        torch.testing.assert_close(logits(found, images), expected)


def test_a_function_of_the_users(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "their_net.py").write_text(
        "from torch import nn\ndef make(num_classes):\n"
        "    return nn.Sequential(nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(12, num_classes))\n"
    )
    path = saved(tmp_path, nn.Sequential(nn.Identity(), nn.Identity(), nn.Linear(12, 3)).state_dict())
    found = read_checkpoint(path, model="their_net:make", folder=tmp_path / "w")
    assert logits(found, torch.rand(2, 3, 8, 8)).shape == (2, 3)
    sys.modules.pop("their_net", None)


def test_what_fits_nothing_and_what_would_run_code_is_a_sentence(tmp_path, monkeypatch):
    monkeypatch.setattr(network, "config_files", lambda _: {})  # seconds to compose
    path = saved(tmp_path, {"stem.weight": torch.rand(3, 3, 3, 3), "out.weight": torch.rand(4, 9)})
    with pytest.raises(CheckpointError, match=r"fits none of the networks .* --model timm:NAME"):
        read_checkpoint(path, folder=tmp_path / "w")
    with pytest.raises(ConfigError, match="--model nonsense is no network"):
        read_checkpoint(path, model="nonsense", folder=tmp_path / "w")
    with pytest.raises(CheckpointError, match="does not fit"):
        read_checkpoint(path, model="torchvision:shufflenet_v2_x0_5", folder=tmp_path / "w")
    with pytest.raises(CheckpointError, match="holds code or whole objects"):
        read_checkpoint(saved(tmp_path, nn.Linear(2, 2), "whole.pt"), folder=tmp_path / "w")
