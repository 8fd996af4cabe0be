"""Torchvision's ResNets as targets: the 224 px models of the PPA recipe, and reduced forms."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Literal

import torch
import torchvision.models.resnet as torchvision_resnet
from torch import Tensor, nn
from torchvision.models.resnet import BasicBlock, Bottleneck

from midre_exp.errors import ConfigError
from midre_exp.plan.ranges import Finite, Positive, Width
from midre_exp.targets.base import Classifier, scaled_channels
from midre_exp.targets.blocks import Block, children

#: Block type and blocks per stage (He et al. 2016, table 1).
DEPTHS: dict[int, tuple[type[BasicBlock | Bottleneck], list[int]]] = {
    18: (BasicBlock, [2, 2, 2, 2]),
    34: (BasicBlock, [3, 4, 6, 3]),
    50: (Bottleneck, [3, 4, 6, 3]),
    101: (Bottleneck, [3, 4, 23, 3]),
    152: (Bottleneck, [3, 8, 36, 3]),
}

#: Kernel, stride and padding of the first convolution; only the published one is followed by max pooling.
STEMS = {"imagenet": (7, 2, 3), "small": (3, 1, 1), "half": (3, 2, 1)}
#: And of ResNets of others, with the pooling that these lack or have.
OTHER_STEMS = {"small_pooled": (3, 1, 1), "half_pooled": (3, 2, 1), "imagenet_unpooled": (7, 2, 3)}
_POOLED = ("imagenet", "small_pooled", "half_pooled")

LAYERS = ("layer1", "layer2", "layer3", "layer4")  #: the residual stages


class ResNet(Classifier, torchvision_resnet.ResNet):  # type: ignore[misc]  # forward is the Classifier's
    """A ResNet of depth 18, 34, 50, 101 or 152 with torchvision's keys and initialisation.

    Images [n, 3, h, w] of any size; features [n, 512 * ``width``], four times as many from depth 50 on.
    ``stem="imagenet"`` is the published 7x7 stride-2 convolution with max pooling; ``"small"`` and ``"half"``
    are 3x3 convolutions of stride 1 and 2 without pooling for 32 px images, whose ``conv1`` fits no ImageNet
    file; further ones, with the pooling that these lack or have, are for weight files of others. Inputs are
    normalised with 0.5 / 0.5 as in the PPA recipe, ImageNet weights or not. Taps: ``stem``, ``layer1`` to
    ``layer4``, ``pool`` (the features). ``blocks`` replaces the depth's four numbers of blocks.
    Raises ConfigError for another depth or stem, and for blocks that are not four positive numbers.
    """

    head_name = "fc"

    def __init__(
        self,
        *,
        num_classes: int,
        depth: int = 18,
        width: Width = 1.0,
        blocks: Sequence[int] | None = None,
        stem: Literal[
            "imagenet", "small", "half", "small_pooled", "half_pooled", "imagenet_unpooled"
        ] = "imagenet",
        mean: Finite | Sequence[Finite] = 0.5,
        std: Positive | Sequence[Positive] = 0.5,
    ):
        if depth not in DEPTHS:
            raise ConfigError(f"model.depth={depth} is unknown; use one of {', '.join(map(str, DEPTHS))}")
        stems = {**STEMS, **OTHER_STEMS}
        if stem not in stems:
            raise ConfigError(f"model.stem={stem} is unknown; use one of {', '.join(stems)}")
        block, published = DEPTHS[depth]
        stages = published if blocks is None else list(blocks)
        if len(stages) != 4 or min(stages) < 1:
            raise ConfigError(f"model.blocks={stages} must be four positive numbers of blocks, or null")
        self._width = width  # read by _make_layer, which torchvision's constructor calls
        super().__init__(block, stages, num_classes)
        self.library = f"resnet{depth}"
        self.set_normalisation(mean, std)
        if stem != "imagenet" or width != 1:
            self._rebuild_ends(num_classes, scaled_channels(512, width) * block.expansion, stem)

    def _make_layer(
        self,
        block: type[BasicBlock | Bottleneck],
        planes: int,
        blocks: int,
        stride: int = 1,
        dilate: bool = False,
    ) -> nn.Sequential:
        if planes == 64:  # the first stage: its input is the stem's output
            self.inplanes = scaled_channels(64, self._width)
        return super()._make_layer(block, scaled_channels(planes, self._width), blocks, stride, dilate)

    def _rebuild_ends(self, num_classes: int, features: int, stem: str) -> None:
        """Stem and head of a reduced network, which torchvision's constructor has no options for."""
        channels = scaled_channels(64, self._width)
        kernel, stride, padding = {**STEMS, **OTHER_STEMS}[stem]
        self.conv1 = nn.Conv2d(3, channels, kernel, stride, padding, bias=False)
        nn.init.kaiming_normal_(self.conv1.weight, mode="fan_out", nonlinearity="relu")
        self.bn1 = nn.BatchNorm2d(channels)
        if stem not in _POOLED:
            self.maxpool = nn.Identity()  # type: ignore[assignment]  # torchvision types it as its own layer
        self.fc = nn.Linear(features, num_classes)

    def stages(self) -> Iterator[tuple[str, Callable[[Tensor], Tensor]]]:
        """The stem, the four residual stages, global average pooling."""
        yield "stem", lambda x: self.maxpool(self.relu(self.bn1(self.conv1(x))))
        for name in LAYERS:
            yield name, self.get_submodule(name)
        yield "pool", lambda x: torch.flatten(self.avgpool(x), 1)

    def stage_blocks(self) -> Mapping[str, Sequence[Block]]:
        """The first convolution, and the residual blocks of every stage."""
        return {"stem": [("conv1", "bn1")], **{name: children(self, name) for name in LAYERS}}

    def shortcuts(self) -> Mapping[str, Sequence[str]]:
        """The path around every residual block: a projection where the size changes, else None."""
        return {name: [f"{block}.downsample" for (block,) in children(self, name)] for name in LAYERS}
