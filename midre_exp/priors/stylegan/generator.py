"""The StyleGAN2-ADA generator: key names and constructor arguments as NVIDIA's files have them.

Karras et al. 2020, "Training GANs with Limited Data".
"""

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
    Rendering,
    SynthesisLayer,
    ToRGBLayer,
    check_architecture,
    first_half_precision,
    levels,
    require,
)
from midre_exp.priors.stylegan.mapping import MappingNetwork
from midre_exp.priors.stylegan.ops import fir_filter, upsample2d


class SynthesisBlock(nn.Module):
    """All layers of one resolution. ``in_channels`` 0 is the first block, which starts from a learned
    constant.
    """

    resample_filter: Tensor

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        w_dim: int,
        resolution: int,
        img_channels: int,
        is_last: bool,
        architecture: str = "skip",
        resample_filter: Sequence[float] | None = FIR,
        conv_clamp: float | None = None,
        use_fp16: bool = False,
        fp16_channels_last: bool = False,
        kernel_size: int = 3,
        use_noise: bool = True,
        activation: str = "lrelu",
    ):
        super().__init__()
        check_architecture(architecture)
        self.in_channels, self.resolution, self.architecture = in_channels, resolution, architecture
        self.use_fp16, self.channels_last = use_fp16, use_fp16 and fp16_channels_last
        self.register_buffer("resample_filter", fir_filter(resample_filter))

        def layer(channels: int, up: int) -> SynthesisLayer:
            return SynthesisLayer(
                channels,
                out_channels,
                w_dim=w_dim,
                resolution=resolution,
                kernel_size=kernel_size,
                up=up,
                use_noise=use_noise,
                activation=activation,
                resample_filter=resample_filter if up == 2 else FIR,  # stored also where unused
                conv_clamp=conv_clamp,
            )

        if in_channels:
            self.conv0 = layer(in_channels, 2)
        else:
            self.const = nn.Parameter(torch.randn(out_channels, resolution, resolution))
        self.conv1 = layer(out_channels, 1)
        self.num_conv = 2 if in_channels else 1
        self.num_torgb = int(is_last or architecture == "skip")
        if self.num_torgb:
            self.torgb = ToRGBLayer(out_channels, img_channels, w_dim=w_dim, conv_clamp=conv_clamp)
        if in_channels and architecture == "resnet":
            self.skip = Conv2dLayer(
                in_channels, out_channels, kernel_size=1, bias=False, up=2, resample_filter=resample_filter
            )

    def forward(
        self, x: Tensor | None, image: Tensor | None, ws: Tensor, how: Rendering
    ) -> tuple[Tensor, Tensor | None]:
        """Features and image so far of the previous block to those of this one.

        ``ws`` [n, num_conv + num_torgb, w_dim] are this block's codes; ``x`` plays no part in the first
        block; ``image`` None starts an empty one. Under autocast features have its type, as those of a
        half-precision block have theirs, and styles and the image stay float32.
        """
        half = self.use_fp16 and not how.force_fp32
        dtype = torch.float16 if half else torch.float32
        device = ws.device.type
        if torch.is_autocast_enabled(device):
            dtype = torch.get_autocast_dtype(device)
        layout = torch.channels_last if half and self.channels_last else torch.preserve_format
        with torch.autocast(device, enabled=False):
            return self._run(x, image, ws.float(), how, dtype, layout)

    def _run(
        self,
        x: Tensor | None,
        image: Tensor | None,
        ws: Tensor,
        how: Rendering,
        dtype: torch.dtype,
        layout: torch.memory_format,
    ) -> tuple[Tensor, Tensor | None]:
        if self.in_channels == 0 or x is None:
            if self.in_channels:
                raise ConfigError(f"block b{self.resolution} needs the features of the block before it")
            x = self.const.expand(len(ws), -1, -1, -1)
        x = x.to(dtype=dtype, memory_format=layout)
        if self.in_channels == 0:
            x = self.conv1(x, ws[:, 0], how)
        elif self.architecture == "resnet":
            around = self.skip(x, gain=math.sqrt(0.5))
            x = around + self.conv1(self.conv0(x, ws[:, 0], how), ws[:, 1], how, gain=math.sqrt(0.5))
        else:
            x = self.conv1(self.conv0(x, ws[:, 0], how), ws[:, 1], how)
        if image is not None:
            image = upsample2d(image, self.resample_filter)
        if self.num_torgb:
            colours = self.torgb(x, ws[:, self.num_conv], how).float()
            image = colours if image is None else image + colours
        return x, image


class SynthesisNetwork(nn.Module):
    """Codes [n, num_ws, w_dim] to images [n, img_channels, img_resolution, img_resolution], nominally in [-1,
    1].

    Channels at resolution r are min(channel_base // r, channel_max); the ``num_fp16_res`` highest resolutions
    run in half precision. ``block_options`` are SynthesisBlock's. Raises ConfigError for sizes that cannot
    be.
    """

    def __init__(
        self,
        w_dim: int,
        img_resolution: int,
        img_channels: int,
        channel_base: int = 32768,
        channel_max: int = 512,
        num_fp16_res: int = 0,
        **block_options: Any,
    ):
        super().__init__()
        resolutions = levels(img_resolution, 4)
        require("w_dim", w_dim, 1)
        require("img_channels", img_channels, 1, 64)
        require("channel_max", channel_max, 1)
        require("channel_base", channel_base, img_resolution, 1 << 20)
        half_from = first_half_precision(img_resolution, num_fp16_res)
        self.w_dim, self.img_resolution, self.img_channels = w_dim, img_resolution, img_channels
        before = 0
        for resolution in resolutions:
            channels = min(channel_base // resolution, channel_max)
            block = SynthesisBlock(
                before,
                channels,
                w_dim=w_dim,
                resolution=resolution,
                img_channels=img_channels,
                is_last=resolution == img_resolution,
                use_fp16=num_fp16_res > 0 and resolution >= half_from,
                **block_options,
            )
            self.add_module(f"b{resolution}", block)
            before = channels
        self.block_resolutions = resolutions
        # the code of torgb is shared with the next block's conv0, so only the last one counts
        self.num_ws = sum(block.num_conv for block in self.blocks) + self.blocks[-1].num_torgb

    @property
    def blocks(self) -> list[SynthesisBlock]:
        """The blocks, lowest resolution first."""
        return [block for block in self.children() if isinstance(block, SynthesisBlock)]

    def forward(
        self,
        ws: Tensor,
        *,
        noise_mode: str = "const",
        force_fp32: bool = False,
        fused_modconv: bool = False,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """Images of codes ``ws``; the options are those of Rendering."""
        how = Rendering(noise_mode, force_fp32, fused_modconv, generator)
        image = self.run_blocks(ws, how=how)[1]
        assert image is not None  # the last block has a torgb in every architecture
        return image

    def freeze(self) -> None:
        """Until ``train``, every layer in the form for fixed weights; to be called again when weights
        change.
        """
        for layer in self.modules():
            if isinstance(layer, (SynthesisLayer, ToRGBLayer)):
                layer.freeze()

    def run_blocks(
        self,
        ws: Tensor,
        features: Tensor | None = None,
        image: Tensor | None = None,
        *,
        start: int = 0,
        stop: int | None = None,
        how: Rendering = Rendering(),  # noqa: B008 (frozen)
    ) -> tuple[Tensor, Tensor | None]:
        """Run the blocks ``start`` ... ``stop`` - 1 (None: to the last) and return their features and the
        image so far.

        ``features`` are those before block ``start``, needed unless that is 0; ``image`` is the image so far,
        None for an empty one. ``ws`` are the codes of the whole network, [n, num_ws, w_dim]. Raises
        ConfigError for codes of another shape, for blocks that are not there and for missing features.
        """
        if ws.ndim != 3 or ws.shape[1:] != (self.num_ws, self.w_dim):
            raise ConfigError(f"ws has shape {list(ws.shape)}; give [n, {self.num_ws}, {self.w_dim}]")
        blocks = self.blocks
        last = len(blocks) if stop is None else stop
        if not 0 <= start < last <= len(blocks):
            raise ConfigError(f"blocks {start} to {stop} are not there; the network has {len(blocks)}")
        first = sum(block.num_conv for block in blocks[:start])
        x = features
        for block in blocks[start:last]:
            x, image = block(x, image, ws[:, first : first + block.num_conv + block.num_torgb].float(), how)
            first += block.num_conv
        assert x is not None  # at least one block ran
        return x, image


class StyleGAN2Generator(nn.Module):
    """Latents [n, z_dim] to images [n, img_channels, img_resolution, img_resolution], nominally in [-1, 1].

    The defaults are the published FFHQ network. ``mapping_kwargs`` and ``synthesis_kwargs`` are further
    arguments of MappingNetwork and SynthesisNetwork. Raises ConfigError for sizes that cannot be.
    """

    def __init__(
        self,
        z_dim: int = 512,
        c_dim: int = 0,
        w_dim: int = 512,
        img_resolution: int = 1024,
        img_channels: int = 3,
        mapping_kwargs: Mapping[str, Any] | None = None,
        synthesis_kwargs: Mapping[str, Any] | None = None,
    ):
        super().__init__()
        require("z_dim", z_dim, 0)
        require("c_dim", c_dim, 0, 1 << 20)
        self.z_dim, self.c_dim, self.w_dim = z_dim, c_dim, w_dim
        self.img_resolution, self.img_channels = img_resolution, img_channels
        self.synthesis = SynthesisNetwork(w_dim, img_resolution, img_channels, **(synthesis_kwargs or {}))
        self.num_ws = self.synthesis.num_ws
        self.mapping = MappingNetwork(z_dim, c_dim, w_dim, self.num_ws, **(mapping_kwargs or {}))

    def forward(
        self,
        z: Tensor | None,
        c: Tensor | None = None,
        *,
        truncation_psi: float = 1.0,
        truncation_cutoff: int | None = None,
        noise_mode: str = "const",
        force_fp32: bool = False,
        fused_modconv: bool = False,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """Images of latents ``z``; truncation as in MappingNetwork, the other options as in Rendering."""
        ws = self.mapping(z, c, truncation_psi=truncation_psi, truncation_cutoff=truncation_cutoff)
        image: Tensor = self.synthesis(
            ws,
            noise_mode=noise_mode,
            force_fp32=force_fp32,
            fused_modconv=fused_modconv,
            generator=generator,
        )
        return image
