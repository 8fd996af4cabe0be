"""The StyleGAN2-ADA discriminator, key names and constructor arguments as NVIDIA's files have them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from midre_exp.errors import ConfigError
from midre_exp.priors.stylegan.layers import (
    FIR,
    Conv2dLayer,
    FullyConnectedLayer,
    check_architecture,
    first_half_precision,
    levels,
    require,
)
from midre_exp.priors.stylegan.mapping import MappingNetwork
from midre_exp.priors.stylegan.ops import downsample2d, fir_filter


class DiscriminatorBlock(nn.Module):
    """All layers of one resolution; the features leave at half of it. ``in_channels`` 0 is the first
    block.
    """

    resample_filter: Tensor

    def __init__(
        self,
        in_channels: int,
        tmp_channels: int,
        out_channels: int,
        *,
        img_channels: int,
        architecture: str,
        use_fp16: bool,
        activation: str = "lrelu",
        resample_filter: Sequence[float] | None = FIR,
        conv_clamp: float | None = None,
        fp16_channels_last: bool = False,
        freeze_layers: int = 0,
    ):
        super().__init__()
        del freeze_layers  # says which layers NVIDIA's training left alone; the networks are the same
        self.architecture = architecture
        self.use_fp16, self.channels_last = use_fp16, use_fp16 and fp16_channels_last
        self.register_buffer("resample_filter", fir_filter(resample_filter))
        common: dict[str, Any] = {"activation": activation, "conv_clamp": conv_clamp}
        self.reads_image = in_channels == 0 or architecture == "skip"
        if self.reads_image:
            self.fromrgb = Conv2dLayer(img_channels, tmp_channels, kernel_size=1, **common)
        self.conv0 = Conv2dLayer(tmp_channels, tmp_channels, kernel_size=3, **common)
        self.conv1 = Conv2dLayer(
            tmp_channels, out_channels, kernel_size=3, down=2, resample_filter=resample_filter, **common
        )
        if architecture == "resnet":
            self.skip = Conv2dLayer(
                tmp_channels, out_channels, kernel_size=1, bias=False, down=2, resample_filter=resample_filter
            )

    def forward(
        self, x: Tensor | None, image: Tensor | None, *, force_fp32: bool = False
    ) -> tuple[Tensor, Tensor | None]:
        """Features at half the resolution, and the image at half the resolution if the next block reads
        it.
        """
        half = self.use_fp16 and not force_fp32
        dtype = torch.float16 if half else torch.float32
        layout = torch.channels_last if half and self.channels_last else torch.contiguous_format
        if self.reads_image and image is not None:
            image = image.to(dtype=dtype, memory_format=layout)
            seen = self.fromrgb(image)
            x = seen if x is None else x.to(dtype=dtype, memory_format=layout) + seen
            image = downsample2d(image, self.resample_filter) if self.architecture == "skip" else None
        if x is None:
            raise ConfigError("the discriminator's first block needs images; give them")
        x = x.to(dtype=dtype, memory_format=layout)
        if self.architecture == "resnet":
            around = self.skip(x, gain=math.sqrt(0.5))
            return around + self.conv1(self.conv0(x), gain=math.sqrt(0.5)), image
        return self.conv1(self.conv0(x)), image


def minibatch_stddev(x: Tensor, group_size: int | None, num_channels: int) -> Tensor:
    """Append ``num_channels`` maps to [n, c, h, w] that say how much images of a group differ (Karras et al.
    2018, Sec. 3).

    Groups interleave: image i is with i + n / group_size, ... Raises ConfigError when the groups do not
    divide n.
    """
    n, c, h, w = x.shape
    group = n if group_size is None else min(group_size, n)
    if n % group:
        raise ConfigError(f"{n} images do not divide into groups of {group}; give a multiple of {group}")
    grouped = x.reshape(group, -1, num_channels, c // num_channels, h, w)
    spread = (grouped.var(0, correction=0) + 1e-8).sqrt().mean((2, 3, 4))
    return torch.cat([x, spread.reshape(-1, num_channels, 1, 1).repeat(group, 1, h, w)], 1)


class DiscriminatorEpilogue(nn.Module):
    """Features [n, in_channels, 4, 4] to logits [n, 1]."""

    def __init__(
        self,
        in_channels: int,
        *,
        cmap_dim: int,
        img_channels: int,
        architecture: str,
        mbstd_group_size: int | None = 4,
        mbstd_num_channels: int = 1,
        activation: str = "lrelu",
        conv_clamp: float | None = None,
    ):
        super().__init__()
        require("mbstd_num_channels", mbstd_num_channels, 0, in_channels)
        if mbstd_group_size is not None:
            require("mbstd_group_size", mbstd_group_size, 1)
        self.cmap_dim = cmap_dim
        self.mbstd_group_size, self.mbstd_num_channels = mbstd_group_size, mbstd_num_channels
        self.reads_image = architecture == "skip"
        if self.reads_image:
            self.fromrgb = Conv2dLayer(img_channels, in_channels, kernel_size=1, activation=activation)
        self.conv = Conv2dLayer(
            in_channels + mbstd_num_channels,
            in_channels,
            kernel_size=3,
            activation=activation,
            conv_clamp=conv_clamp,
        )
        self.fc = FullyConnectedLayer(in_channels * 16, in_channels, activation=activation)
        self.out = FullyConnectedLayer(in_channels, cmap_dim or 1)

    def forward(self, x: Tensor, image: Tensor | None, cmap: Tensor | None, *, alone: bool = False) -> Tensor:
        """Logits [n, 1], for ``cmap`` [n, cmap_dim] the match of features and labels. ``alone``: every image
        is a group of its own.
        """
        x = x.float().contiguous()
        if self.reads_image and image is not None:
            x = x + self.fromrgb(image.float())
        if self.mbstd_num_channels:
            x = minibatch_stddev(x, 1 if alone else self.mbstd_group_size, self.mbstd_num_channels)
        logits: Tensor = self.out(self.fc(self.conv(x).flatten(1)))
        if cmap is None:
            return logits
        return (logits * cmap).sum(1, keepdim=True) / math.sqrt(self.cmap_dim)


class StyleGAN2Discriminator(nn.Module):
    """Images [n, img_channels, img_resolution, img_resolution], nominally in [-1, 1], to logits [n, 1];
    larger is more real.

    The defaults are the published FFHQ network. The dictionaries are further arguments of DiscriminatorBlock,
    MappingNetwork (labels only) and DiscriminatorEpilogue. Raises ConfigError for sizes that cannot be.
    """

    def __init__(
        self,
        c_dim: int = 0,
        img_resolution: int = 1024,
        img_channels: int = 3,
        architecture: str = "resnet",
        channel_base: int = 32768,
        channel_max: int = 512,
        num_fp16_res: int = 0,
        conv_clamp: float | None = None,
        cmap_dim: int | None = None,
        block_kwargs: Mapping[str, Any] | None = None,
        mapping_kwargs: Mapping[str, Any] | None = None,
        epilogue_kwargs: Mapping[str, Any] | None = None,
    ):
        super().__init__()
        check_architecture(architecture)
        resolutions = [*levels(img_resolution, 8)[::-1], 4]
        require("c_dim", c_dim, 0, 1 << 20)
        require("img_channels", img_channels, 1, 64)
        require("channel_max", channel_max, 1)
        require("channel_base", channel_base, img_resolution, 1 << 20)
        half_from = first_half_precision(img_resolution, num_fp16_res)
        self.c_dim, self.img_resolution, self.img_channels = c_dim, img_resolution, img_channels
        channels = [min(channel_base // resolution, channel_max) for resolution in resolutions]
        shared: dict[str, Any] = {
            "img_channels": img_channels,
            "architecture": architecture,
            "conv_clamp": conv_clamp,
        }
        for i, resolution in enumerate(resolutions[:-1]):
            block = DiscriminatorBlock(
                channels[i] if i else 0,
                channels[i],
                channels[i + 1],
                use_fp16=num_fp16_res > 0 and resolution >= half_from,
                **shared,
                **(block_kwargs or {}),
            )
            self.add_module(f"b{resolution}", block)
        width = 0 if c_dim == 0 else channels[-1] if cmap_dim is None else cmap_dim
        if c_dim:
            self.mapping = MappingNetwork(
                0, c_dim, width, None, **{"w_avg_beta": None, **(mapping_kwargs or {})}
            )
        self.b4 = DiscriminatorEpilogue(channels[-1], cmap_dim=width, **shared, **(epilogue_kwargs or {}))

    def forward(
        self, images: Tensor, c: Tensor | None = None, *, force_fp32: bool = False, alone: bool = False
    ) -> Tensor:
        """Logits [n, 1]; ``c`` [n, c_dim] are the labels of a conditional network.

        ``alone`` takes each image for the whole of its group, so that its logit does not depend on the batch.
        """
        x: Tensor | None = None
        image: Tensor | None = images
        for block in self.children():
            if isinstance(block, DiscriminatorBlock):
                x, image = block(x, image, force_fp32=force_fp32)
        logits: Tensor = self.b4(x, image, self.mapping(None, c) if self.c_dim else None, alone=alone)
        return logits
