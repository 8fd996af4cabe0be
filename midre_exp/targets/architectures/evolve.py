"""The face.evoLVe IR networks of the 64 px attacks: IR152, FaceNet64 and the evaluator FaceNet112 (KedMI
evolve.py).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from itertools import accumulate
from typing import ClassVar

from torch import Tensor, nn

from midre_exp.errors import ConfigError
from midre_exp.plan.ranges import BelowOne, Count, Finite, Positive, Width
from midre_exp.targets.base import Classifier, scaled_channels
from midre_exp.targets.blocks import Block

#: Residual units of the four stages by depth.
DEPTHS: dict[int, tuple[int, ...]] = {50: (3, 4, 14, 3), 152: (3, 8, 36, 3)}
CHANNELS = (64, 128, 256, 512)  #: of the four stages


class Unit(nn.Module):
    """BN, 3x3 convolution, PReLU, strided 3x3 convolution, BN, plus a shortcut; no activation behind."""

    def __init__(self, before: int, channels: int, stride: int):
        super().__init__()
        self.shortcut_layer: nn.Module
        if before == channels:
            self.shortcut_layer = nn.Identity() if stride == 1 else nn.MaxPool2d(1, stride)  # subsampling
        else:
            self.shortcut_layer = nn.Sequential(
                nn.Conv2d(before, channels, 1, stride, bias=False), nn.BatchNorm2d(channels)
            )
        self.res_layer = nn.Sequential(
            nn.BatchNorm2d(before),
            nn.Conv2d(before, channels, 3, 1, 1, bias=False),
            nn.PReLU(channels),
            nn.Conv2d(channels, channels, 3, stride, 1, bias=False),
            nn.BatchNorm2d(channels),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Map [n, before, h, w] to [n, channels, h / stride, w / stride]."""
        out: Tensor = self.res_layer(x) + self.shortcut_layer(x)
        return out


class IR(Classifier):
    """An improved ResNet that ends in a 512-d embedding before its head: IR152 and FaceNet64 as KedMI
    publishes them.

    Images [n, 3, s, s] with s = ``image_size``, a multiple of 16 (published: 64); features [n, 512 *
    ``width``]. ``depth`` is 50 (FaceNet64) or 152; ``blocks``, residual units per stage, replaces its
    numbers. ``dropout`` acts on the input of the embedding layer. Inputs are not normalised by default: the
    published weights expect [0, 1]. Taps: ``stem``, ``stage1`` to ``stage4``, ``output`` (the features).
    Raises ConfigError naming the option.

    A file of the face.evoLVe model zoo (MS1M, 112 px) starts the trunk; its output layer, made for the 7x7
    map of 112 px, is taken only where it fits and otherwise stays as initialised.
    """

    head_name = "fc_layer"
    fresh: tuple[str, ...] = ("output_layer",)
    output_layer_name: ClassVar[str] = "output_layer"  #: from the last map to the features

    def __init__(
        self,
        *,
        num_classes: int,
        image_size: Count,
        depth: int = 50,
        blocks: Sequence[int] | None = None,
        width: Width = 1.0,
        dropout: BelowOne = 0.5,
        mean: Finite | Sequence[Finite] = 0.0,
        std: Positive | Sequence[Positive] = 1.0,
    ):
        super().__init__()
        self.set_normalisation(mean, std)
        units = _units(depth, blocks)
        if image_size < 16 or image_size % 16:
            raise ConfigError(
                f"model.image_size={image_size} must be a multiple of 16: the trunk halves it four times"
            )
        if not 0 <= dropout < 1:
            raise ConfigError(f"model.dropout={dropout} must lie in [0, 1); 0.5 is the published value")
        stem, *channels = (scaled_channels(c, width) for c in (CHANNELS[0], *CHANNELS))
        features = channels[-1]
        output_layer = nn.Sequential(
            nn.BatchNorm2d(features),
            nn.Dropout(dropout),
            nn.Flatten(),
            nn.Linear(features * (image_size // 16) ** 2, features),
            nn.BatchNorm1d(features),
        )
        parent, _, leaf = self.output_layer_name.rpartition(".")
        self.feature = nn.Module()
        self.feature.input_layer = nn.Sequential(
            nn.Conv2d(3, stem, 3, 1, 1, bias=False), nn.BatchNorm2d(stem), nn.PReLU(stem)
        )
        if parent:  # before the body, as in the official order
            self.get_submodule(parent).add_module(leaf, output_layer)
        self.feature.body = _body(stem, channels, units)
        self._ends = (0, *accumulate(units))  # stage n is body[_ends[n - 1] : _ends[n]]
        for layer in self.feature.modules():
            if isinstance(layer, (nn.Conv2d, nn.Linear)):
                nn.init.xavier_uniform_(layer.weight)
            if isinstance(layer, nn.Linear):
                nn.init.zeros_(layer.bias)
        if not parent:
            self.add_module(leaf, output_layer)
        self.fc_layer = nn.Linear(features, num_classes)

    def stages(self) -> Iterator[tuple[str, Callable[[Tensor], Tensor]]]:
        """The first convolution, the four stages of units, the embedding."""
        yield "stem", self.get_submodule("feature.input_layer")
        for number in range(1, 5):
            yield f"stage{number}", partial(self._stage, number)
        yield "output", self.get_submodule(self.output_layer_name)

    def stage_blocks(self) -> Mapping[str, Sequence[Block]]:
        """The first convolution and the units of the four stages."""
        rows = {f"stage{n}": range(self._ends[n - 1], self._ends[n]) for n in range(1, 5)}
        return {
            "stem": [("feature.input_layer",)],
            **{name: [(f"feature.body.{index}",) for index in row] for name, row in rows.items()},
        }

    def shortcuts(self) -> Mapping[str, Sequence[str]]:
        """The path around every unit: identity, subsampling or a projection."""
        blocks = list(self.stage_blocks().items())[1:]
        return {name: [f"{unit}.shortcut_layer" for (unit,) in units] for name, units in blocks}

    def _stage(self, number: int, x: Tensor) -> Tensor:
        for index in range(self._ends[number - 1], self._ends[number]):
            x = self.get_submodule(f"feature.body.{index}")(x)
        return x

    @staticmethod
    def own_key(key: str) -> str | None:
        """Take the trunk of the face.evoLVe zoo under our name."""
        return re.sub(r"^(input_layer|body)\.", r"feature.\1.", key)


class FaceNet112(IR):
    """The evaluator of the 64 px attacks (published ``image_size``: 112), whose output layer lies inside the
    trunk.

    All else is as in ``IR``, but a face.evoLVe zoo file must bring the output layer too, as in the official
    recipe.
    """

    fresh = ()
    output_layer_name = "feature.output_layer"

    @staticmethod
    def own_key(key: str) -> str | None:
        """Take trunk and output layer of the face.evoLVe zoo under our names."""
        return re.sub(r"^(input_layer|output_layer|body)\.", r"feature.\1.", key)


def _units(depth: int, blocks: Sequence[int] | None) -> tuple[int, ...]:
    """Units per stage, as the options say."""
    if depth not in DEPTHS:
        raise ConfigError(f"model.depth={depth} is unknown; use one of {', '.join(map(str, DEPTHS))}")
    units = DEPTHS[depth] if blocks is None else tuple(blocks)
    if len(units) != len(CHANNELS) or min(units) < 1:
        raise ConfigError(f"model.blocks={blocks} must be four positive numbers of units, or null for depth")
    return units


def _body(before: int, channels: Sequence[int], units: Sequence[int]) -> nn.Sequential:
    """The units of all stages in one row; the first of each stage halves the map."""
    body = nn.Sequential()
    for width, number in zip(channels, units, strict=True):
        for index in range(number):
            body.append(Unit(before, width, stride=1 if index else 2))
            before = width
    return body
