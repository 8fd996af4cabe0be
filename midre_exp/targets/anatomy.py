"""Which modules make up the stages of each architecture, unit by unit: for defenses that change or freeze
part of a network.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence

from torch import nn

from midre_exp.errors import ConfigError
from midre_exp.targets.architectures.densenet import DenseNet
from midre_exp.targets.architectures.evolve import IR
from midre_exp.targets.architectures.inception_resnet_v1 import InceptionResNetV1
from midre_exp.targets.architectures.inception_v3 import InceptionV3
from midre_exp.targets.architectures.maxvit import MaxViT
from midre_exp.targets.architectures.resnest import ResNeSt
from midre_exp.targets.architectures.resnet import ResNet
from midre_exp.targets.architectures.vgg import VGG16
from midre_exp.targets.architectures.vggface_resnet50 import VGGFaceResNet50
from midre_exp.targets.base import Classifier

#: Names of the submodules of one unit: a residual block, a dense layer, a convolution with what follows it.
Unit = tuple[str, ...]
Stages = dict[str, list[Unit]]


def stages_of(model: Classifier) -> Stages:
    """The units of every stage, in the order of the forward pass.

    Stages are named as the taps; what comes after the last of them (pooling, embedding, head) is not listed.
    Layers between two stages (reductions) are units of the later one. Raises ConfigError for a network that
    is none of the project's.
    """
    for kind, describe in _FAMILIES.items():
        if isinstance(model, kind):
            return describe(model)
    known = ", ".join(kind.__name__ for kind in _FAMILIES)
    raise ConfigError(
        f"the stages of {type(model).__name__} are not known to defenses; derive it from one of {known}"
    )


def units_until(model: Classifier, stage: str, *, key: str) -> Stages:
    """The stages up to and including ``stage``. Raises ConfigError naming the option ``key`` when there is
    none of that name.
    """
    stages = stages_of(model)
    if stage not in stages:
        raise ConfigError(
            f"{key}={stage} is no stage of {type(model).__name__}; use one of {', '.join(stages)}"
        )
    names = list(stages)
    return {name: stages[name] for name in names[: names.index(stage) + 1]}


def members(model: Classifier, units: Sequence[Unit]) -> list[nn.Module]:
    """The submodules of some units, in order."""
    return [model.get_submodule(name) for unit in units for name in unit]


def _children(model: Classifier, name: str) -> list[Unit]:
    return [(f"{name}.{child}",) for child, _ in model.get_submodule(name).named_children()]


def _resnet(model: Classifier) -> Stages:
    rows = {name: _children(model, name) for name in ("layer1", "layer2", "layer3", "layer4")}
    return {"stem": [("conv1", "bn1")], **rows}


def _densenet(model: Classifier) -> Stages:
    inner = [name for name, _ in model.get_submodule("features").named_children()][4:-1]
    return {
        "stem": [("features.conv0", "features.norm0")],
        **{
            name: _children(model, f"features.{name}") if "block" in name else [(f"features.{name}",)]
            for name in inner
        },
    }


def _maxvit(model: Classifier) -> Stages:
    blocks = range(len(_children(model, "blocks")))
    return {
        "stem": [("stem",)],
        **{f"block{number}": _children(model, f"blocks.{number}.layers") for number in blocks},
    }


def _ir(model: Classifier) -> Stages:
    stages: Stages = {"stem": [("feature.input_layer",)]}
    for unit in _children(model, "feature.body"):
        if model.get_submodule(f"{unit[0]}.res_layer.3").stride == (2, 2):  # only the first of each stage
            stages[f"stage{len(stages)}"] = []
        stages[f"stage{len(stages) - 1}"].append(unit)
    return stages


def _vgg(model: Classifier) -> Stages:
    stages: Stages = {"block1": []}
    for (name,) in _children(model, "feature"):
        layer = model.get_submodule(name)
        row = stages[f"block{len(stages)}"]
        if isinstance(layer, nn.Conv2d):
            row.append((name,))
        elif isinstance(layer, nn.MaxPool2d):
            stages[f"block{len(stages) + 1}"] = []
        else:
            row[-1] = (*row[-1], name)
    return {name: row for name, row in stages.items() if row}


def _inception_resnet_v1(model: Classifier) -> Stages:
    stem = tuple(name for name, _ in model.named_children() if name.startswith("conv2d_"))
    return {
        "stem": [stem],
        "repeat_1": _children(model, "repeat_1"),
        "repeat_2": [("mixed_6a",), *_children(model, "repeat_2")],
        "repeat_3": [("mixed_7a",), *_children(model, "repeat_3"), ("block8",)],
    }


def _inception_v3(model: Classifier) -> Stages:
    rows: Stages = {
        last: [(f"Mixed_{last[6]}{letter}",) for letter in letters]
        for last, letters in (("Mixed_5d", "bcd"), ("Mixed_6e", "abcde"), ("Mixed_7c", "abc"))
    }
    stem = tuple(name for name, _ in model.named_children() if name.startswith("Conv2d_"))
    return {"stem": [stem], **rows}


def _vggface_resnet50(model: Classifier) -> Stages:
    stages: Stages = {"stem": [("conv1_7x7_s2", "conv1_7x7_s2_bn")]}
    for name, _ in model.named_children():
        if place := re.match(r"(conv\d)_(\d+)_(?!7x7)", name):
            row = stages.setdefault(place[1], [])
            if int(place[2]) > len(row):
                row.append(())
            row[-1] = (*row[-1], name)
    return stages


_FAMILIES: Mapping[type[Classifier], Callable[[Classifier], Stages]] = {
    ResNet: _resnet,
    ResNeSt: _resnet,
    DenseNet: _densenet,
    MaxViT: _maxvit,
    IR: _ir,
    VGG16: _vgg,
    InceptionResNetV1: _inception_resnet_v1,
    InceptionV3: _inception_v3,
    VGGFaceResNet50: _vggface_resnet50,
}
