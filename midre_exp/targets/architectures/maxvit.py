"""Torchvision's MaxViT-T as target: the 224 px transformer of the MIDRE paper, and reduced forms."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Annotated, Any, Literal

import torchvision.models.maxvit as torchvision_maxvit
from torch import Tensor, nn

from midre_exp.errors import ConfigError
from midre_exp.plan.ranges import BelowOne, Count, Finite, Positive, Range, Width
from midre_exp.targets.base import Classifier, scaled_channels
from midre_exp.targets.blocks import Block, children
from midre_exp.targets.shortcut import Shortcut


class MaxViT(Classifier, torchvision_maxvit.MaxVit):  # type: ignore[misc]  # forward is the Classifier's
    """A MaxViT (Tu et al. 2022) with torchvision's keys and initialisation; the defaults are its MaxViT-T.

    Images [n, 3, s, s] with s = ``image_size`` only: the stem and every block halve it, and ``partition``
    must divide all those grids; features [n, 512], the last of ``channels``. ``channels`` and ``blocks``
    (layers) are per block, ``width`` scales the stem of 64 and all channels, which ``head_dim`` must divide;
    ``stochastic_depth`` is the last layer's drop probability in training. ``norm_momentum`` is the weight of
    a batch in the running statistics: the published 0.01 takes thousands of steps to forget its start.
    ``head_bias="auto"``: the published head of 1,000 classes has no bias, one made for another data set has.
    Inputs are normalised with 0.5 / 0.5 as in the PPA recipe, ImageNet weights or not. Taps: ``stem``,
    ``block0`` to ``block3``, ``embedding`` (the features). Raises ConfigError for sizes that do not divide,
    here or in images.
    """

    head_name = "classifier.5"
    library = "maxvit_t"

    def __init__(
        self,
        *,
        num_classes: int,
        image_size: Count = 224,
        width: Width = 1.0,
        channels: Sequence[int] = (64, 128, 256, 512),
        blocks: Sequence[int] = (2, 2, 5, 2),
        partition: Count = 7,
        head_dim: Count = 32,
        stochastic_depth: BelowOne = 0.2,
        norm_momentum: Annotated[float, Range(0, 1, open_low=True)] = 0.01,
        head_bias: bool | Literal["auto"] = "auto",
        mean: Finite | Sequence[Finite] = 0.5,
        std: Positive | Sequence[Positive] = 0.5,
    ):
        if head_bias not in (True, False, "auto"):
            raise ConfigError(f"model.head_bias={head_bias} is unknown; use auto, true or false")
        if not 0 <= stochastic_depth < 1:
            raise ConfigError(f"model.stochastic_depth={stochastic_depth} must be at least 0 and below 1")
        if not 0 < norm_momentum <= 1:
            raise ConfigError(f"model.norm_momentum={norm_momentum} must be above 0 and at most 1")
        if not channels or len(channels) != len(blocks) or min(*channels, *blocks) < 1:
            raise ConfigError(
                f"model.channels={list(channels)} and model.blocks={list(blocks)} must be equally many "
                "positive numbers"
            )
        widths = [scaled_channels(c, width) for c in channels]
        _check_heads(widths, head_dim)
        _check_grids(image_size, len(widths), partition)
        super().__init__(
            input_size=(image_size, image_size),
            stem_channels=scaled_channels(64, width),
            partition_size=partition,
            block_channels=widths,
            block_layers=list(blocks),
            head_dim=head_dim,
            norm_layer=partial(nn.BatchNorm2d, eps=1e-3, momentum=norm_momentum),
            stochastic_depth_prob=stochastic_depth,
            num_classes=num_classes,
        )
        for (name,) in (
            layer for block in range(len(widths)) for layer in children(self, f"blocks.{block}.layers")
        ):
            layers: Any = self.get_submodule(f"{name}.layers")
            layers.grid_attention = GridAttention(layers.grid_attention)
        self.image_size = image_size
        self.set_normalisation(mean, std)
        biased = num_classes != 1000 if head_bias == "auto" else head_bias
        if biased:
            self.head = nn.Linear(widths[-1], num_classes)

    def stages(self) -> Iterator[tuple[str, Callable[[Tensor], Tensor]]]:
        """The stem, the blocks, pooling with the hidden layer of the classifier."""
        yield "stem", self._stem
        for number, block in enumerate(self.blocks):
            yield f"block{number}", block
        yield "embedding", self.classifier[:5]

    def stage_blocks(self) -> Mapping[str, Sequence[Block]]:
        """The stem, and the layers of every block."""
        rows = {f"block{n}": children(self, f"blocks.{n}.layers") for n in range(len(self.blocks))}
        return {"stem": [("stem",)], **rows}

    def shortcuts(self) -> Mapping[str, Sequence[str]]:
        """The paths around the grid attention, the ones that Koh et al. (2024) act on."""
        blocks = list(self.stage_blocks().items())[1:]
        return {
            name: [f"{layer}.layers.grid_attention.shortcut" for (layer,) in layers]
            for name, layers in blocks
        }

    def _stem(self, x: Tensor) -> Tensor:
        if x.shape[-2:] != (self.image_size, self.image_size):
            height, width = x.shape[-2:]
            raise ConfigError(
                f"images of {height}x{width} px do not fit model.image_size={self.image_size} of MaxViT; "
                "make the two equal"
            )
        y: Tensor = self.stem(x)
        return y


class GridAttention(nn.Module):
    """Torchvision's grid attention layer with a ``Shortcut`` around the attention; its MLP keeps its own.

    At k = 0 stochastic depth spares the attention: with no shortcut to fall back on, a dropped branch would
    erase the image.
    """

    def __init__(self, layer: nn.Module):
        super().__init__()
        for name, child in layer.named_children():
            self.add_module(name, child)
        self.shortcut = Shortcut(1.0)
        self._side: int = layer.p  # type: ignore[assignment]  # of the partitions, in the map's pixels
        self._grid: tuple[int, int] = layer.grid_size  # type: ignore[assignment]

    def forward(self, x: Tensor) -> Tensor:
        """Map [n, c, h, w] to the same shape."""
        part = self.get_submodule
        x = part("partition_swap")(part("partition_op")(x, self._side))
        branch = part("attn_layer")(x)
        x = self.shortcut(x) + (part("stochastic_dropout")(branch) if self.shortcut.k else branch)
        x = x + part("stochastic_dropout")(part("mlp_layer")(x))
        rows, columns = (length // self._side for length in self._grid)
        joined: Tensor = part("departition_op")(part("departition_swap")(x), self._side, rows, columns)
        return joined


def _check_heads(widths: Sequence[int], head_dim: int) -> None:
    """Raise ConfigError unless attention heads of ``head_dim`` channels fill every block."""
    if head_dim < 1 or any(c % head_dim for c in widths):
        raise ConfigError(
            f"model.head_dim={head_dim} must divide the channels of every block, which are {widths}; "
            "change model.width, model.channels or model.head_dim"
        )


def _check_grids(image_size: int, blocks: int, partition: int) -> None:
    """Raise ConfigError unless windows of ``partition`` fill the grid of every block."""
    grids = [(image_size - 1) // 2 ** (number + 2) + 1 for number in range(blocks)]
    if image_size < 1 or partition < 1 or any(grid % partition for grid in grids):
        raise ConfigError(
            f"model.image_size={image_size} gives grids of {grids}, which windows of "
            f"model.partition={partition} do not "
            f"divide; use a multiple of {partition * 2 ** (blocks + 1)} px"
        )
