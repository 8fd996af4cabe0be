"""Torchvision's DenseNets as targets: the 224 px models of the MIDRE and RoLSS papers, and reduced forms."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from typing import Literal

import torch
import torchvision.models.densenet as torchvision_densenet
from torch import Tensor, nn
from torch.nn import functional

from midre_exp.errors import ConfigError
from midre_exp.targets.architectures.resnet import STEMS
from midre_exp.targets.base import Classifier, scaled_channels

#: Growth rate, channels of the stem and layers per dense block (Huang et al. 2017, table 1).
DEPTHS: dict[int, tuple[int, int, tuple[int, int, int, int]]] = {
    121: (32, 64, (6, 12, 24, 16)),
    161: (48, 96, (6, 12, 36, 24)),
    169: (32, 64, (6, 12, 32, 32)),
    201: (32, 64, (6, 12, 48, 32)),
}

_OLD_NAME = re.compile(r"(denselayer\d+\.(?:norm|conv))\.([12])\.")


class DenseNet(Classifier, torchvision_densenet.DenseNet):  # type: ignore[misc]  # forward is the Classifier's
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
        width: float = 1.0,
        blocks: Sequence[int] | None = None,
        stem: Literal["imagenet", "small", "half"] = "imagenet",
        mean: float | Sequence[float] = 0.5,
        std: float | Sequence[float] = 0.5,
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

    @staticmethod
    def own_key(key: str) -> str:
        """Torchvision's files still write ``norm.1`` and ``conv.2``, from before module names lost their
        dots.
        """
        return _OLD_NAME.sub(r"\1\2.", key)
