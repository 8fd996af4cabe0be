"""VGG16 with batch norm for faces, the target of the 64 px attacks GMI, KedMI, LOMMA and PLG-MI."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial

import torch
from torch import Tensor, nn
from torchvision.models.vgg import cfgs, make_layers

from midre_exp.errors import ConfigError
from midre_exp.plan.ranges import Count, Finite, Positive, Width
from midre_exp.targets.base import Classifier, scaled_channels
from midre_exp.targets.blocks import Block


class VGG16(Classifier):
    """Torchvision's ``vgg16_bn`` convolutions, batch norm on the flat map, linear head (KedMI classify.py).

    Images [n, 3, s, s] with s = ``image_size``, a multiple of 32; features [n, 512 * ``width`` * (s / 32)^2],
    2048 at 64 px. The shift of the feature norm is frozen at 0 as published. Inputs are not normalised by
    default: the published weights expect [0, 1]. Taps: ``block1`` to ``block5``, each after its pooling, the
    fifth flattened and after the feature norm, i.e. the features (BiDO). Raises ConfigError for other sizes.
    """

    head_name = "fc_layer"
    library = "vgg16_bn"
    feature_norm = "bn"
    fresh = ("bn",)  # torchvision's file has no feature norm

    def __init__(
        self,
        *,
        num_classes: int,
        image_size: Count = 64,
        width: Width = 1.0,
        mean: Finite | Sequence[Finite] = 0.0,
        std: Positive | Sequence[Positive] = 1.0,
    ):
        super().__init__()
        self.set_normalisation(mean, std)
        if image_size < 32 or image_size % 32:
            raise ConfigError(
                f"model.image_size={image_size} must be a multiple of 32: VGG16 halves it five times"
            )
        channels = [c if isinstance(c, str) else scaled_channels(c, width) for c in cfgs["D"]]
        dim = scaled_channels(512, width) * (image_size // 32) ** 2
        self.feature = make_layers(channels, batch_norm=True)
        pools = [index for index, layer in enumerate(self.feature) if isinstance(layer, nn.MaxPool2d)]
        self._ends = (0, *(index + 1 for index in pools))  # block n is feature[_ends[n - 1] : _ends[n]]
        self.bn = nn.BatchNorm1d(dim)
        self.bn.bias.requires_grad_(False)
        self.fc_layer = nn.Linear(dim, num_classes)
        for layer in self.feature:
            if isinstance(layer, nn.Conv2d) and layer.bias is not None:  # as torchvision initialises its VGG
                nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
                nn.init.zeros_(layer.bias)

    def stages(self) -> Iterator[tuple[str, Callable[[Tensor], Tensor]]]:
        """The five convolution blocks, the last with flattening and feature norm."""
        for number in range(1, 5):
            yield f"block{number}", partial(self._block, number)
        yield "block5", lambda x: self.bn(torch.flatten(self._block(5, x), 1))

    def stage_blocks(self) -> Mapping[str, Sequence[Block]]:
        """The convolutions of every stage, each with its norm and activation."""
        return {
            f"block{number}": [
                tuple(f"feature.{index + offset}" for offset in range(3))
                for index in range(*self._ends[number - 1 : number + 1])
                if isinstance(self.feature[index], nn.Conv2d)
            ]
            for number in range(1, 6)
        }

    def _block(self, number: int, x: Tensor) -> Tensor:
        for layer in list(self.feature)[self._ends[number - 1] : self._ends[number]]:
            x = layer(x)
        return x

    @staticmethod
    def own_key(key: str) -> str | None:
        """Take torchvision's convolutions under our name; leave its 4096-wide classifier."""
        return None if key.startswith("classifier.") else re.sub(r"^features\.", "feature.", key)
