"""Inception-ResNet-v1 with facenet-pytorch's keys: a target of PPA-style attacks, and the face embedding of
their distances.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize, relu

from midre_exp.errors import ConfigError
from midre_exp.plan.ranges import BelowOne, Finite, Positive, Width
from midre_exp.targets.base import Classifier, scaled_channels
from midre_exp.targets.blocks import Block, children

#: Smallest image side whose stem output (7x7) survives the two unpadded reductions.
SMALLEST = {"published": 75, "small": 25}


class ConvUnit(nn.Module):
    """Convolution without bias, BN with eps 1e-3, ReLU."""

    def __init__(
        self,
        before: int,
        channels: int,
        kernel: int | tuple[int, int],
        stride: int = 1,
        padding: int | tuple[int, int] = 0,
    ):
        super().__init__()
        self.conv = nn.Conv2d(before, channels, kernel, stride, padding, bias=False)
        self.bn = nn.BatchNorm2d(channels, eps=1e-3, momentum=0.1)

    def forward(self, x: Tensor) -> Tensor:
        """Map [n, before, h, w] to [n, channels, h', w'], not negative."""
        return relu(self.bn(self.conv(x)))


class Branches(nn.Module):
    """Modules ``branch0``, ``branch1``, .. side by side, their outputs joined along the channels."""

    def __init__(self, *branches: nn.Module):
        super().__init__()
        for index, branch in enumerate(branches):
            self.add_module(f"branch{index}", branch)
        self._branches = len(branches)

    def forward(self, x: Tensor) -> Tensor:
        """Map [n, c, h, w] to [n, sum of the branches' channels, h', w']."""
        return torch.cat([self.get_submodule(f"branch{i}")(x) for i in range(self._branches)], 1)


class ResidualBranches(Branches):
    """Branches of ``joined`` channels in sum, projected by a 1x1 convolution, scaled, added to their input;
    then ReLU or not.
    """

    def __init__(
        self, channels: int, joined: int, *branches: nn.Module, scale: float, final_relu: bool = True
    ):
        super().__init__(*branches)
        self.conv2d = nn.Conv2d(joined, channels, 1)
        self.shortcut = nn.Identity()  # a place for defenses that act on it
        self.scale = scale
        self.final_relu = final_relu

    def forward(self, x: Tensor) -> Tensor:
        """Map [n, channels, h, w] to the same shape."""
        out = self.shortcut(x) + self.scale * self.conv2d(super().forward(x))
        return relu(out) if self.final_relu else out


class InceptionResNetV1(Classifier):
    """FaceNet's network (Szegedy et al. 2017, Inception-ResNet-v1) as facenet-pytorch lays it out, logits
    included.

    Images [n, 3, h, w] of at least 75 px (native 160); ``stem="small"`` pads the stem and drops its last
    stride, for images from 25 px, with the same kernels and keys. Features [n, 512 * ``width``] are those
    after the last batch norm, not L2-normalised. ``repeats`` are the blocks of ``repeat_1`` to ``repeat_3``.
    Inputs are normalised as the public weights expect, (255 x - 127.5) / 128; PPA feeds them 0.5 / 0.5
    instead. Taps: ``stem``, ``repeat_1`` to ``repeat_3``, ``embedding`` (the features). Raises ConfigError
    naming the option, and for too small images.

    Public files: 20180402-114759-vggface2.pt (8631 classes), 20180408-102900-casia-webface.pt (10575).
    """

    head_name = "logits"

    def __init__(
        self,
        *,
        num_classes: int,
        width: Width = 1.0,
        repeats: Sequence[int] = (5, 10, 5),
        stem: Literal["published", "small"] = "published",
        dropout: BelowOne = 0.6,
        mean: Finite | Sequence[Finite] = 0.5,
        std: Positive | Sequence[Positive] = 128 / 255,
    ):
        super().__init__()
        self.set_normalisation(mean, std)
        if stem not in SMALLEST:
            raise ConfigError(f"model.stem={stem} is unknown; use one of {', '.join(SMALLEST)}")
        if len(repeats) != 3 or min(repeats) < 1:
            raise ConfigError(
                f"model.repeats={list(repeats)} must be three positive numbers; published are 5, 10, 5"
            )
        if not 0 <= dropout < 1:
            raise ConfigError(f"model.dropout={dropout} must lie in [0, 1); 0.6 is the published value")
        self._stem_kind = stem
        pad = int(stem == "small")
        c = partial(scaled_channels, width=width)
        self.conv2d_1a = ConvUnit(3, c(32), 3, stride=2, padding=pad)
        self.conv2d_2a = ConvUnit(c(32), c(32), 3, padding=pad)
        self.conv2d_2b = ConvUnit(c(32), c(64), 3, padding=1)
        self.maxpool_3a = nn.MaxPool2d(3, 2, padding=pad)
        self.conv2d_3b = ConvUnit(c(64), c(80), 1)
        self.conv2d_4a = ConvUnit(c(80), c(192), 3, padding=pad)
        self.conv2d_4b = ConvUnit(c(192), c(256), 3, stride=2 - pad, padding=pad)
        size = c(256)
        self.repeat_1 = nn.Sequential(*(_block35(size, c(32)) for _ in range(repeats[0])))
        self.mixed_6a, size = _mixed_6a(size, c)
        self.repeat_2 = nn.Sequential(*(_block17(size, c(128)) for _ in range(repeats[1])))
        self.mixed_7a, size = _mixed_7a(size, c)
        self.repeat_3 = nn.Sequential(*(_block8(size, c(192), scale=0.2) for _ in range(repeats[2])))
        self.block8 = _block8(size, c(192), scale=1.0, final_relu=False)
        self.dropout = nn.Dropout(dropout)
        self.last_linear = nn.Linear(size, c(512), bias=False)
        self.last_bn = nn.BatchNorm1d(c(512), eps=1e-3, momentum=0.1)
        self.logits = nn.Linear(c(512), num_classes)

    def stages(self) -> Iterator[tuple[str, Callable[[Tensor], Tensor]]]:
        """Stem, three rows of residual blocks (the later two after their reductions), embedding."""
        yield "stem", self._stem
        yield "repeat_1", self.repeat_1
        yield "repeat_2", lambda x: self.repeat_2(self.mixed_6a(x))
        yield "repeat_3", lambda x: self.repeat_3(self.mixed_7a(x))
        yield "embedding", self._embedding

    def stage_blocks(self) -> Mapping[str, Sequence[Block]]:
        """The stem, and the residual blocks of the three rows, the later two with their reductions."""
        stem = tuple(name for name, _ in self.named_children() if name.startswith("conv2d_"))
        return {
            "stem": [stem],
            "repeat_1": children(self, "repeat_1"),
            "repeat_2": [("mixed_6a",), *children(self, "repeat_2")],
            "repeat_3": [("mixed_7a",), *children(self, "repeat_3"), ("block8",)],
        }

    def shortcuts(self) -> Mapping[str, Sequence[str]]:
        """The path around every residual block, always the identity; the reductions have none."""
        blocks = list(self.stage_blocks().items())[1:]
        return {
            name: [f"{block}.shortcut" for (block,) in row if not block.startswith("mixed_")]
            for name, row in blocks
        }

    def embed(self, images: Tensor) -> Tensor:
        """The unit-length embedding [n, 512 * width] of images [n, 3, h, w] in [0, 1], as FaceNet distances
        use it.
        """
        features: Tensor = self(images).features
        return normalize(features, dim=1)

    def _stem(self, x: Tensor) -> Tensor:
        if min(x.shape[2:]) < SMALLEST[self._stem_kind]:
            raise ConfigError(
                f"images of {x.shape[2]}x{x.shape[3]} px are too small for model.stem={self._stem_kind}; "
                "enlarge them to "
                f"{SMALLEST[self._stem_kind]} px or more, or use stem=small (from {SMALLEST['small']} px)"
            )
        x = self.conv2d_2b(self.conv2d_2a(self.conv2d_1a(x)))
        x = self.conv2d_3b(self.maxpool_3a(x))
        out: Tensor = self.conv2d_4b(self.conv2d_4a(x))
        return out

    def _embedding(self, x: Tensor) -> Tensor:
        pooled = self.block8(x).mean((2, 3))
        embedded: Tensor = self.last_bn(self.last_linear(self.dropout(pooled)))
        return embedded


def _block35(size: int, c: int) -> nn.Module:
    return ResidualBranches(
        size,
        3 * c,
        ConvUnit(size, c, 1),
        nn.Sequential(ConvUnit(size, c, 1), ConvUnit(c, c, 3, padding=1)),
        nn.Sequential(ConvUnit(size, c, 1), ConvUnit(c, c, 3, padding=1), ConvUnit(c, c, 3, padding=1)),
        scale=0.17,
    )


def _block17(size: int, c: int) -> nn.Module:
    return ResidualBranches(size, 2 * c, ConvUnit(size, c, 1), _cross(size, c, 7), scale=0.1)


def _block8(size: int, c: int, *, scale: float, final_relu: bool = True) -> nn.Module:
    branches = ConvUnit(size, c, 1), _cross(size, c, 3)
    return ResidualBranches(size, 2 * c, *branches, scale=scale, final_relu=final_relu)


def _cross(size: int, c: int, length: int) -> nn.Module:
    """1x1, then a square kernel taken apart into a row and a column."""
    row = ConvUnit(c, c, (1, length), padding=(0, length // 2))
    return nn.Sequential(ConvUnit(size, c, 1), row, ConvUnit(c, c, (length, 1), padding=(length // 2, 0)))


def _mixed_6a(size: int, c: Callable[[int], int]) -> tuple[nn.Module, int]:
    """The first reduction (17x17 to 8x8 at 160 px), and its channels."""
    branches = Branches(
        ConvUnit(size, c(384), 3, stride=2),
        nn.Sequential(
            ConvUnit(size, c(192), 1),
            ConvUnit(c(192), c(192), 3, padding=1),
            ConvUnit(c(192), c(256), 3, stride=2),
        ),
        nn.MaxPool2d(3, 2),
    )
    return branches, size + c(384) + c(256)


def _mixed_7a(size: int, c: Callable[[int], int]) -> tuple[nn.Module, int]:
    """The second reduction (8x8 to 3x3 at 160 px), and its channels."""
    branches = Branches(
        nn.Sequential(ConvUnit(size, c(256), 1), ConvUnit(c(256), c(384), 3, stride=2)),
        nn.Sequential(ConvUnit(size, c(256), 1), ConvUnit(c(256), c(256), 3, stride=2)),
        nn.Sequential(
            ConvUnit(size, c(256), 1),
            ConvUnit(c(256), c(256), 3, padding=1),
            ConvUnit(c(256), c(256), 3, stride=2),
        ),
        nn.MaxPool2d(3, 2),
    )
    return branches, size + c(384) + 2 * c(256)
