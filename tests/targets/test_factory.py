"""Building targets by name."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from midre_exp.errors import ConfigError
from midre_exp.plan.config import CONF_DIR
from midre_exp.targets import Classifier, Output, build_target
from midre_exp.targets.architectures.resnet import ResNet
from midre_exp.targets.architectures.vgg import VGG16

ARCHITECTURES = [("vgg16", VGG16), ("resnet18", ResNet)]


@torch.no_grad()
@pytest.mark.parametrize(("name", "kind"), ARCHITECTURES)
def test_a_name_builds_its_architecture_and_keywords_override(name: str, kind: type[Classifier]) -> None:
    model = build_target(name, num_classes=7, width=0.125).eval()
    assert isinstance(model, kind)
    output = model(torch.rand(2, 3, 64, 64))
    assert isinstance(output, Output)
    assert output.logits.shape == (2, 7)
    torch.testing.assert_close(model.head(output.features), output.logits)
    assert not output.taps


def test_nothing_that_tells_the_number_of_classes_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"target resnet18 needs num_classes, or a checkpoint") as caught:
        build_target("resnet18")
    assert "\n" not in str(caught.value)


def test_a_scale_and_an_evaluator_are_built_by_the_same_function() -> None:
    assert build_target("ir152", 3, scale="mini").get_submodule("fc_layer").in_features == 64
    assert (
        build_target("inception_v3", 3, scale="mini", stem="published").get_submodule("fc").in_features == 512
    )


def test_an_evaluator_of_the_users_own_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "evaluator").mkdir()
    text = (
        "defaults:\n  - /target@_here_: vgg16\n  - _self_\nresolution: 64\nseed: 1\nmodel:\n  width: 0.125\n"
    )
    (tmp_path / "evaluator" / "mine.yaml").write_text(text)
    monkeypatch.setenv("MIDRE_CONF", str(tmp_path))
    assert build_target("mine", 3).get_submodule("fc_layer").in_features == 256


def test_without_a_checkpoint_the_model_is_ready_to_train() -> None:
    assert build_target("resnet18", 5, width=0.05).training


def test_an_unknown_name_is_refused_with_the_known_ones() -> None:
    with pytest.raises(ConfigError, match=r"target vgg19 is unknown; known targets: .*resnet18.*vgg16"):
        build_target("vgg19", num_classes=5)


def test_a_path_is_not_a_name() -> None:
    with pytest.raises(ConfigError, match="is unknown"):
        build_target("../target/vgg16", num_classes=5)


def test_an_unknown_option_is_refused_with_the_known_ones() -> None:
    with pytest.raises(ConfigError, match=r"target resnet18 has no option size; it has: .*stem.*width"):
        build_target("resnet18", num_classes=5, size=32)


def test_the_code_a_name_runs_cannot_be_overridden() -> None:
    with pytest.raises(ConfigError, match="no option _target_"):
        build_target("resnet18", num_classes=5, _target_="os.system")


def test_a_value_the_architecture_refuses_is_the_users_mistake() -> None:
    with pytest.raises(ConfigError, match="image_size=50"):
        build_target("vgg16", num_classes=5, image_size=50)
    with pytest.raises(ConfigError, match="num_classes=0"):
        build_target("vgg16", num_classes=0)


def test_importing_the_targets_loads_neither_lightning_nor_torchvision() -> None:
    code = (
        "import sys; from midre_exp.targets import build_target, load_checkpoint; "
        "print([m for m in ('pytorch_lightning', 'torchvision', 'wandb') if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=CONF_DIR.parent
    )
    assert done.stdout.strip() == "[]"
