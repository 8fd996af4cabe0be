"""ResNeSt-101 as target, with timm's blocks and keys: the 224 px model of the dogs, and reduced forms."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Literal

import torch
from timm.models.resnest import ResNestBottleneck
from timm.models.resnet import downsample_avg
from torch import Tensor, nn

from midre_exp.errors import ConfigError
from midre_exp.plan.ranges import Finite, Positive, Width
from midre_exp.targets.base import Classifier, scaled_channels
from midre_exp.targets.blocks import Block, children

#: Stride of the first convolution, and whether max pooling follows the stem.
STEMS = {"imagenet": (2, True), "small": (1, False), "half": (2, False)}

LAYERS = ("layer1", "layer2", "layer3", "layer4")  #: the residual stages


class ResNeSt(Classifier):
    """A ResNeSt (Zhang et al. 2020) with the keys and initialisation of timm's ``resnest101e``, which the
    defaults are.

    The keys are also those of the authors' ``resnest101``, which PPA used. Images [n, 3, h, w] of any size;
    features [n, 2048 * ``width``]. ``blocks`` are the bottlenecks per stage, each with split attention over
    two radix groups and average pooling for its stride; ``width`` scales all channels. ``stem="imagenet"``
    halves the image twice, ``"half"`` once, ``"small"`` never, all with the same weights. Inputs are
    normalised with 0.5 / 0.5 as in the PPA recipe, ImageNet weights or not. Taps: ``stem``, ``layer1`` to
    ``layer4``, ``pool`` (the features). Raises ConfigError for unknown stems, for blocks that are not four
    positive numbers, and for widths at which the radix groups would not be equal.
    """

    head_name = "fc"
    library = "timm/resnest101e"

    def __init__(
        self,
        *,
        num_classes: int,
        width: Width = 1.0,
        blocks: Sequence[int] = (3, 4, 23, 3),
        stem: Literal["imagenet", "small", "half"] = "imagenet",
        mean: Finite | Sequence[Finite] = 0.5,
        std: Positive | Sequence[Positive] = 0.5,
    ):
        super().__init__()
        if stem not in STEMS:
            raise ConfigError(f"model.stem={stem} is unknown; use one of {', '.join(STEMS)}")
        if len(blocks) != 4 or min(blocks) < 1:
            raise ConfigError(f"model.blocks={list(blocks)} must be four positive numbers of bottlenecks")
        planes = [scaled_channels(c, width) for c in (64, 128, 256, 512)]
        if any(p % 2 for p in planes):
            raise ConfigError(
                f"model.width={width} gives stages of {planes} channels, which must be even; use a multiple "
                "of 1/32"
            )
        self.set_normalisation(mean, std)
        stride, pooled = STEMS[stem]
        inner, channels = planes[0], 2 * planes[0]
        self.conv1 = nn.Sequential(
            nn.Conv2d(3, inner, 3, stride, 1, bias=False),
            nn.BatchNorm2d(inner),
            nn.ReLU(inplace=True),
            nn.Conv2d(inner, inner, 3, 1, 1, bias=False),
            nn.BatchNorm2d(inner),
            nn.ReLU(inplace=True),
            nn.Conv2d(inner, channels, 3, 1, 1, bias=False),
        )
        self.bn1 = nn.BatchNorm2d(channels)
        self.act1 = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(3, 2, 1) if pooled else nn.Identity()
        self.layer1 = _stage(channels, planes[0], blocks[0], 1)
        self.layer2 = _stage(4 * planes[0], planes[1], blocks[1], 2)
        self.layer3 = _stage(4 * planes[1], planes[2], blocks[2], 2)
        self.layer4 = _stage(4 * planes[2], planes[3], blocks[3], 2)
        self.fc = nn.Linear(4 * planes[3], num_classes)
        self._initialise()

    def _initialise(self) -> None:
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            elif isinstance(module, ResNestBottleneck):
                module.zero_init_last()  # type: ignore[no-untyped-call]  # residual branches start at zero

    def stages(self) -> Iterator[tuple[str, Callable[[Tensor], Tensor]]]:
        """The stem, the four stages, global average pooling."""
        yield "stem", lambda x: self.maxpool(self.act1(self.bn1(self.conv1(x))))
        for name in LAYERS:
            yield name, self.get_submodule(name)
        yield "pool", lambda x: torch.flatten(nn.functional.adaptive_avg_pool2d(x, 1), 1)

    def stage_blocks(self) -> Mapping[str, Sequence[Block]]:
        """The first convolutions, and the bottlenecks of every stage."""
        return {"stem": [("conv1", "bn1")], **{name: children(self, name) for name in LAYERS}}

    def shortcuts(self) -> Mapping[str, Sequence[str]]:
        """The path around every bottleneck: a projection where the size changes, else None."""
        return {name: [f"{block}.downsample" for (block,) in children(self, name)] for name in LAYERS}


def _stage(inputs: int, planes: int, blocks: int, stride: int) -> nn.Sequential:
    """Bottlenecks of ``planes`` channels inside and four times as many outside, the first with a shortcut of
    its own.
    """
    outputs = ResNestBottleneck.expansion * planes
    bottleneck = partial(
        ResNestBottleneck, radix=2, avd=True
    )  # avd: averages for strides, after the convolution
    shortcut = downsample_avg(inputs, outputs, kernel_size=1, stride=stride)
    first = bottleneck(inputs, planes, stride, shortcut)
    rest = [bottleneck(outputs, planes) for _ in range(blocks - 1)]
    return nn.Sequential(first, *rest)
