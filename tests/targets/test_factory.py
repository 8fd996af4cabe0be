"""Building targets by name."""

from __future__ import annotations

import inspect
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from omegaconf import OmegaConf

from midre_exp.errors import CheckpointError, ConfigError
from midre_exp.plan.config import CONF_DIR
from midre_exp.targets import Classifier, Output, build_target
from midre_exp.targets.architectures.densenet import DenseNet
from midre_exp.targets.architectures.inception_v3 import InceptionV3
from midre_exp.targets.architectures.maxvit import MaxViT
from midre_exp.targets.architectures.resnest import ResNeSt
from midre_exp.targets.architectures.resnet import ResNet
from midre_exp.targets.architectures.vgg import VGG16

ARCHITECTURES = [("vgg16", VGG16), ("resnet18", ResNet)]

#: Config name, class, what its model node sets to other values than the constructor's defaults.
CONFIGS: list[tuple[str, type[Classifier], dict[str, object]]] = [
    ("vgg16", VGG16, {}),
    ("resnet18", ResNet, {}),
    ("resnet50", ResNet, {"depth": 50}),
    ("resnet101", ResNet, {"depth": 101}),
    ("resnet152", ResNet, {"depth": 152}),
    ("densenet121", DenseNet, {}),
    ("densenet169", DenseNet, {"depth": 169}),
    ("maxvit", MaxViT, {}),
    ("resnest101", ResNeSt, {}),
    ("inception_v3", InceptionV3, {}),
]
LEFT_OUT = {"resnet18": {"blocks"}}  # ResNet-18 has nothing to shorten


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


@pytest.mark.parametrize(("name", "kind", "own"), CONFIGS, ids=[case[0] for case in CONFIGS])
def test_the_config_lists_every_option_with_the_constructors_default(
    name: str, kind: type[Classifier], own: dict[str, object]
) -> None:
    node = OmegaConf.to_container(OmegaConf.load(CONF_DIR / "target" / f"{name}.yaml"))["model"]
    parameters = inspect.signature(kind).parameters
    options = set(parameters) - {"num_classes"} - LEFT_OUT.get(name, set())
    defaults = {option: parameters[option].default for option in options}
    lists = {option: list(value) for option, value in defaults.items() if isinstance(value, tuple)}
    assert node == {"_target_": f"{kind.__module__}.{kind.__name__}", **defaults, **lists, **own}


@pytest.mark.parametrize("name", [case[0] for case in CONFIGS])
def test_the_mini_form_fits_32_px_and_keeps_the_architecture(name: str) -> None:
    node = OmegaConf.to_container(OmegaConf.load(CONF_DIR / "scale" / "target" / f"mini_{name}.yaml"))
    assert node["weights"] is None
    with torch.device("meta"):
        model = build_target(name, num_classes=50, **node["model"])
        output = model.train()(torch.rand(2, 3, 32, 32))
    assert output.logits.shape == (2, 50)
    assert sum(p.numel() for p in model.parameters()) < 1_000_000


def small(name: str, classes: int) -> Classifier:
    node = OmegaConf.to_container(OmegaConf.load(CONF_DIR / "scale" / "target" / f"mini_{name}.yaml"))
    return build_target(name, classes, **node["model"])


@pytest.mark.parametrize("name", ["vgg16", "resnet50", "densenet121", "maxvit", "inception_v3"])
def test_a_checkpoint_tells_the_number_of_classes(name: str, tmp_path: Path) -> None:
    source, file = small(name, 7), tmp_path / "w.pth"
    torch.save({"model_state_dict": {f"model.{k}": v for k, v in source.state_dict().items()}}, file)
    node = OmegaConf.to_container(OmegaConf.load(CONF_DIR / "scale" / "target" / f"mini_{name}.yaml"))
    for given in ({}, {"num_classes": 7}):
        model = build_target(name, checkpoint=file, **given, **node["model"])
        assert not model.training
        assert all(torch.equal(v, source.state_dict()[key]) for key, v in model.state_dict().items())
    with pytest.raises(CheckpointError, match="does not fit"):
        build_target(name, 8, checkpoint=str(file), **node["model"])


def test_nothing_that_tells_the_number_of_classes_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"target resnet18 needs num_classes, or a checkpoint") as caught:
        build_target("resnet18")
    assert "\n" not in str(caught.value)


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
