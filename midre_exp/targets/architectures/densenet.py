"""Torchvision's DenseNets as targets: the 224 px models of the MIDRE and RoLSS papers, and reduced forms."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Literal

import torch
import torchvision.models.densenet as torchvision_densenet
from torch import Tensor, nn
from torch.nn import functional

from midre_exp.errors import ConfigError
from midre_exp.plan.ranges import Finite, Positive, Width
from midre_exp.targets.architectures.resnet import STEMS
from midre_exp.targets.base import Classifier, scaled_channels
from midre_exp.targets.blocks import Block, children

#: Growth rate, channels of the stem and layers per dense block (Huang et al. 2017, table 1).
DEPTHS: dict[int, tuple[int, int, tuple[int, int, int, int]]] = {
    121: (32, 64, (6, 12, 24, 16)),
    161: (48, 96, (6, 12, 36, 24)),
    169: (32, 64, (6, 12, 32, 32)),
    201: (32, 64, (6, 12, 48, 32)),
}

_OLD_NAME = re.compile(r"(denselayer\d+\.(?:norm|conv))\.([12])\.")


class DenseNet(Classifier, torchvision_densenet.DenseNet):  # type: ignore[misc]  # our forward
    """A DenseNet-BC of depth 121, 161, 169 or 201 with torchvision's keys and initialisation.

    Images [n, 3, h, w] of any size from 32 px; features [n, 1024] at depth 121, [n, 1664] at 169. ``width``
    scales the growth rate and the stem, ``blocks`` replaces the depth's four numbers of layers, ``stem`` is
    as in ``ResNet``. Inputs are normalised with 0.5 / 0.5 as in the PPA recipe, ImageNet weights or not.
    Taps: ``stem``, ``denseblock1``, ``transition1``, .., ``denseblock4``, ``pool`` (the features: normalised,
    rectified, averaged). Raises ConfigError for another depth or stem, and for blocks that are not four
    positive numbers.
    """

    head_name = "classifier"

    def __init__(
        self,
        *,
        num_classes: int,
        depth: int = 121,
        width: Width = 1.0,
        blocks: Sequence[int] | None = None,
        stem: Literal["imagenet", "small", "half"] = "imagenet",
        mean: Finite | Sequence[Finite] = 0.5,
        std: Positive | Sequence[Positive] = 0.5,
    ):
        if depth not in DEPTHS:
            raise ConfigError(f"model.depth={depth} is unknown; use one of {', '.join(map(str, DEPTHS))}")
        if stem not in STEMS:
            raise ConfigError(f"model.stem={stem} is unknown; use one of {', '.join(STEMS)}")
        growth, first, published = DEPTHS[depth]
        layers = tuple(published if blocks is None else blocks)
        if len(layers) != 4 or min(layers) < 1:
            raise ConfigError(f"model.blocks={list(layers)} must be four positive numbers of layers, or null")
        channels = scaled_channels(first, width)
        super().__init__(scaled_channels(growth, width), layers, channels, num_classes=num_classes)
        self.library = f"densenet{depth}"
        self.set_normalisation(mean, std)
        if stem != "imagenet":
            kernel, stride, padding = STEMS[stem]
            self.features.conv0 = nn.Conv2d(3, channels, kernel, stride, padding, bias=False)
            nn.init.kaiming_normal_(self.features.conv0.weight)
            self.features.pool0 = nn.Identity()

    def stages(self) -> Iterator[tuple[str, Callable[[Tensor], Tensor]]]:
        """The stem, the dense blocks and the transitions between them, normalisation and global average
        pooling.
        """
        stem, inner, norm = (
            self.features[:4],
            list(self.features.named_children())[4:-1],
            self.get_submodule("features.norm5"),
        )
        yield "stem", stem
        yield from inner
        yield "pool", lambda x: torch.flatten(functional.adaptive_avg_pool2d(functional.relu(norm(x)), 1), 1)

    def stage_blocks(self) -> Mapping[str, Sequence[Block]]:
        """The first convolution, the layers of every dense block, and every transition as one block."""
        inner = [name for name, _ in self.features.named_children()][4:-1]
        return {
            "stem": [("features.conv0", "features.norm0")],
            **{
                name: children(self, f"features.{name}") if "block" in name else [(f"features.{name}",)]
                for name in inner
            },
        }

    def shortcuts(self) -> Mapping[str, Sequence[str]]:
        """The layers of every dense block, which pass on what they were given beside what they add."""
        blocks = self.stage_blocks().items()
        return {name: [layer for (layer,) in layers] for name, layers in blocks if "dense" in name}

    def scale_shortcuts(self, stages: Sequence[str], k: float) -> None:
        """Of each tensor that a layer of the last block passes on beside its own, keep the first round(k c)
        of its c channels (half to even).

        The block, the norm behind it and the head are rebuilt for fewer channels, initialised as torchvision
        does, and ``fresh`` from then on. Raises ConfigError for another block.
        """
        last = list(self.shortcuts())[-1]
        if list(stages) != [last]:
            raise ConfigError(
                "in a DenseNet a changed block changes the shapes of all that follows; leave it at null, "
                f"the last block ({last})"
            )
        layers: dict[str, Any] = dict(self.get_submodule(f"features.{last}").named_children())
        growth: int = layers["denselayer1"].conv2.out_channels
        inputs: int = layers["denselayer1"].norm1.num_features
        kept = round(k * inputs), round(k * growth)
        if kept == (inputs, growth):
            return  # nothing is cut off
        channels = [inputs] + [kept[0] + index * kept[1] + growth for index in range(len(layers))]
        for layer, before in list(zip(layers.values(), channels, strict=False))[1:]:
            layer.norm1 = nn.BatchNorm2d(before)
            layer.conv1 = nn.Conv2d(before, layer.conv1.out_channels, 1, bias=False)
            nn.init.kaiming_normal_(layer.conv1.weight)
        self.features.add_module(last, TruncatedBlock(layers, kept))
        self.features.add_module("norm5", nn.BatchNorm2d(channels[-1]))
        self.head = nn.Linear(channels[-1], self.classifier.out_features)
        nn.init.zeros_(self.classifier.bias)
        self.fresh = (*self.fresh, f"features.{last}", "features.norm5")

    @staticmethod
    def own_key(key: str) -> str:
        """Torchvision's files still write ``norm.1`` and ``conv.2``, from before module names lost their
        dots.
        """
        return _OLD_NAME.sub(r"\1\2.", key)


class TruncatedBlock(nn.ModuleDict):
    """A dense block whose layers keep, of every earlier tensor but the newest, the first ``kept`` channels
    only.

    ``kept``: channels kept of the block's input, then of each layer's output.
    """

    def __init__(self, layers: Mapping[str, nn.Module], kept: tuple[int, int]):
        super().__init__(layers)
        self.kept = kept

    def forward(self, x: Tensor) -> Tensor:
        """Map [n, c, h, w] to [n, c', h, w]: what the last layer adds, behind what is kept of the tensors
        before.
        """
        seen = [x]
        for index, layer in enumerate(self.values()):
            added = layer(seen)
            seen[-1] = seen[-1][:, : self.kept[index > 0]]
            seen.append(added)
        return torch.cat(seen, 1)
