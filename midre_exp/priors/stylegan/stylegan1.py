"""The generator of the first StyleGAN (Karras et al. 2019), which MIRROR's own scripts attack with at 256
pixels.

Key names of the synthesis are genforce's; the mapping network is StyleGAN2's, to which it is equivalent.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from midre_exp.errors import ConfigError
from midre_exp.priors.stylegan.layers import FullyConnectedLayer, Rendering, levels, require
from midre_exp.priors.stylegan.mapping import MappingNetwork
from midre_exp.priors.stylegan.ops import filter2d, fir_filter
from midre_exp.seeding import normal

_FUSED_FROM = 128  # resolution from which doubling and convolution are one transposed convolution


class ChannelNoise(nn.Module):
    """Adds one noise map, scaled per channel."""

    noise: Tensor

    def __init__(self, channels: int, resolution: int):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(channels))
        self.register_buffer("noise", torch.randn(1, 1, resolution, resolution))

    def forward(self, x: Tensor, how: Rendering) -> Tensor:
        """Same shape as ``x`` [n, channels, resolution, resolution]."""
        if how.noise_mode == "none":
            return x
        noise = self.noise
        if how.noise_mode == "random":
            noise = normal(how.generator, len(x), *noise.shape[1:], device=noise.device)
        return x + noise * self.weight.reshape(-1, 1, 1)


class StyleLayer(nn.Module):
    """Convolution (of nothing but a constant if ``in_channels`` is 0), noise, bias, activation, then the
    style's mean and deviation.
    """

    def __init__(self, in_channels: int, out_channels: int, *, w_dim: int, resolution: int, up: bool):
        super().__init__()
        self.up, self.fused = up, up and resolution >= _FUSED_FROM
        self.bias = nn.Parameter(torch.zeros(out_channels))
        if in_channels:
            self.weight = nn.Parameter(torch.randn(out_channels, in_channels, 3, 3))
            self.weight_gain = math.sqrt(2 / (in_channels * 9))
        else:
            self.const = nn.Parameter(torch.ones(1, out_channels, resolution, resolution))
        self.apply_noise = ChannelNoise(out_channels, resolution)
        self.style = FullyConnectedLayer(w_dim, 2 * out_channels)

    def forward(self, x: Tensor | None, w: Tensor, how: Rendering) -> Tensor:
        """[n, out_channels, resolution, resolution] of features ``x`` (None: the constant) and codes ``w``
        [n, w_dim].
        """
        x = self.const.expand(len(w), -1, -1, -1) if x is None else self._convolve(x)
        x = F.leaky_relu(self.apply_noise(x, how) + self.bias.reshape(-1, 1, 1), 0.2)
        x = x - x.mean((2, 3), keepdim=True)
        x = x * (x.square().mean((2, 3), keepdim=True) + 1e-8).rsqrt()
        style: Tensor = self.style(w)[:, :, None, None]
        scale, shift = style.chunk(2, 1)
        return x * (scale + 1) + shift

    def _convolve(self, x: Tensor) -> Tensor:
        weight = self.weight * self.weight_gain
        if self.fused:
            wide = F.pad(weight, (1, 1, 1, 1))
            box = wide[..., 1:, 1:] + wide[..., :-1, 1:] + wide[..., 1:, :-1] + wide[..., :-1, :-1]
            x = F.conv_transpose2d(x, box.transpose(0, 1), stride=2, padding=1)
        else:
            x = F.interpolate(x, scale_factor=2, mode="nearest") if self.up else x
            x = F.conv2d(x, weight, padding=1)
        return filter2d(x, fir_filter([1, 2, 1]).to(x.device)) if self.up else x


class PlainToRGB(nn.Module):
    """Features [n, in_channels, h, w] to images [n, 3, h, w]."""

    def __init__(self, in_channels: int):
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(3))
        self.weight = nn.Parameter(torch.randn(3, in_channels, 1, 1))
        self.weight_gain = 1 / math.sqrt(in_channels)

    def forward(self, x: Tensor) -> Tensor:
        """The images."""
        return F.conv2d(x, self.weight * self.weight_gain, self.bias)


class StyleGANSynthesis(nn.Module):
    """Codes [n, num_ws, w_dim], two per resolution, to images [n, 3, image_size, image_size], nominally in
    [-1, 1].

    Channels at resolution r are min(channel_base // r, channel_max).
    """

    def __init__(self, *, w_dim: int, image_size: int, channel_base: int, channel_max: int):
        super().__init__()
        require("channel_max", channel_max, 1)
        require("channel_base", channel_base, image_size, 1 << 20)
        resolutions = levels(image_size, 4)
        self.w_dim, self.num_ws = w_dim, 2 * len(resolutions)
        before = 0
        for i, resolution in enumerate(resolutions):
            channels = min(channel_base // resolution, channel_max)
            first = StyleLayer(before, channels, w_dim=w_dim, resolution=resolution, up=i > 0)
            second = StyleLayer(channels, channels, w_dim=w_dim, resolution=resolution, up=False)
            self.add_module(f"layer{2 * i}", first)
            self.add_module(f"layer{2 * i + 1}", second)
            self.add_module(f"output{i}", PlainToRGB(channels))  # all but the last served training alone
            before = channels

    def forward(
        self, ws: Tensor, *, noise_mode: str = "const", generator: torch.Generator | None = None
    ) -> Tensor:
        """The images of ``ws``; noise as in Rendering. Raises ConfigError for codes of another shape."""
        if ws.ndim != 3 or ws.shape[1:] != (self.num_ws, self.w_dim):
            raise ConfigError(f"ws has shape {list(ws.shape)}; give [n, {self.num_ws}, {self.w_dim}]")
        how = Rendering(noise_mode, generator=generator)
        x: Tensor | None = None
        for i in range(self.num_ws):
            x = self.get_submodule(f"layer{i}")(x, ws[:, i], how)
        image: Tensor = self.get_submodule(f"output{self.num_ws // 2 - 1}")(x)
        return image


class StyleGAN1Generator(nn.Module):
    """Latents [n, z_dim] to images [n, 3, image_size, image_size], nominally in [-1, 1]. Raises ConfigError
    for impossible sizes.
    """

    def __init__(
        self,
        *,
        z_dim: int = 512,
        w_dim: int = 512,
        image_size: int = 256,
        channel_base: int = 16384,
        channel_max: int = 512,
        num_layers: int = 8,
    ):
        super().__init__()
        self.z_dim, self.w_dim = z_dim, w_dim
        self.synthesis = StyleGANSynthesis(
            w_dim=w_dim, image_size=image_size, channel_base=channel_base, channel_max=channel_max
        )
        self.num_ws = self.synthesis.num_ws
        self.mapping = MappingNetwork(z_dim, 0, w_dim, self.num_ws, num_layers=num_layers)

    def forward(
        self,
        z: Tensor,
        *,
        truncation_psi: float = 1.0,
        truncation_cutoff: int | None = None,
        noise_mode: str = "const",
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """Images of latents ``z``; truncation as in MappingNetwork, noise as in Rendering."""
        ws = self.mapping(z, truncation_psi=truncation_psi, truncation_cutoff=truncation_cutoff)
        image: Tensor = self.synthesis(ws, noise_mode=noise_mode, generator=generator)
        return image
