"""The layers of StyleGAN2-ADA with the official parameter names; weights are stored at unit scale and scaled
when used.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from midre_exp.errors import ConfigError
from midre_exp.priors.stylegan.frozen import SLOPES, Epilogue, FrozenConvolution, frozen_colours, frozen_layer
from midre_exp.priors.stylegan.ops import (
    bias_act,
    conv2d_resample,
    demodulation,
    doubling_padding,
    find_activation,
    fir_filter,
    half_precision_scale,
    modulated_conv2d,
    square_filter,
)
from midre_exp.seeding import normal

if TYPE_CHECKING:
    from typing_extensions import Self  # in typing from Python 3.11 on

FIR = (1, 3, 3, 1)
ARCHITECTURES = ("orig", "skip", "resnet")
_LARGEST = 1 << 13


@dataclass(frozen=True)
class Rendering:
    """How a synthesis network draws.

    ``noise_mode`` is "const" (the stored noise), "random" (fresh, from ``generator`` if given) or "none".
    ``force_fp32`` keeps half-precision blocks in float32; ``fused_modconv`` picks the grouped convolution.
    Raises ConfigError for another noise mode.
    """

    noise_mode: str = "const"
    force_fp32: bool = False
    fused_modconv: bool = False
    generator: torch.Generator | None = None

    def __post_init__(self) -> None:
        if self.noise_mode not in ("const", "random", "none"):
            raise ConfigError(f"noise_mode={self.noise_mode!r} is unknown; use const, random or none")


def require(name: str, value: object, least: int, most: int = _LARGEST) -> None:
    """Raise ConfigError unless ``value`` is an integer in [least, most]."""
    if type(value) is not int or not least <= value <= most:
        raise ConfigError(f"{name}={value!r} is not usable; give an integer from {least} to {most}")


def checked_clamp(conv_clamp: object) -> float | None:
    """``conv_clamp`` itself. Raises ConfigError unless it is a positive number or None."""
    if conv_clamp is None or (isinstance(conv_clamp, (int, float)) and conv_clamp > 0):
        return conv_clamp
    raise ConfigError(f"conv_clamp={conv_clamp!r} is not usable; give a positive number or null")


def levels(img_resolution: int, smallest: int) -> list[int]:
    """Resolutions ``smallest``, twice that, ... ``img_resolution``. Raises ConfigError unless it is a power
    of two.
    """
    require("img_resolution", img_resolution, smallest)
    if img_resolution & (img_resolution - 1):
        raise ConfigError(f"img_resolution={img_resolution} is not supported; use a power of two")
    return [1 << k for k in range(smallest.bit_length() - 1, img_resolution.bit_length())]


def check_architecture(architecture: str) -> None:
    """Raise ConfigError unless ``architecture`` is one of ARCHITECTURES."""
    if architecture not in ARCHITECTURES:
        raise ConfigError(f"architecture={architecture!r} is unknown; use one of {', '.join(ARCHITECTURES)}")


def first_half_precision(img_resolution: int, num_fp16_res: int) -> int:
    """The smallest resolution that runs in half precision: the ``num_fp16_res`` highest ones do, never below
    8.
    """
    require("num_fp16_res", num_fp16_res, 0, 64)
    return max(img_resolution * 2 >> num_fp16_res, 8)


class FullyConnectedLayer(nn.Module):
    """[n, in_features] to [n, out_features] with an equalised learning rate, slowed by ``lr_multiplier``."""

    def __init__(
        self,
        in_features: int,
        out_features: int,
        *,
        activation: str = "linear",
        lr_multiplier: float = 1.0,
        bias_init: float = 0.0,
    ):
        super().__init__()
        find_activation(activation)
        self.activation = activation
        self.weight = nn.Parameter(torch.randn(out_features, in_features) / lr_multiplier)
        self.bias = nn.Parameter(torch.full((out_features,), float(bias_init)))
        self.weight_gain = lr_multiplier / math.sqrt(in_features)
        self.bias_gain = lr_multiplier

    def forward(self, x: Tensor) -> Tensor:
        """[n, out_features]."""
        weight = (self.weight * self.weight_gain).to(x.dtype)
        bias = (self.bias * self.bias_gain).to(x.dtype)
        if self.activation == "linear":
            return torch.addmm(bias, x, weight.T)
        return bias_act(x @ weight.T, bias, act=self.activation)


class Conv2dLayer(nn.Module):
    """Plain convolution, at the same, double (``up=2``) or half (``down=2``) size; the discriminator's, and
    the generator's skips.
    """

    resample_filter: Tensor

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        kernel_size: int,
        bias: bool = True,
        activation: str = "linear",
        up: int = 1,
        down: int = 1,
        resample_filter: Sequence[float] | None = FIR,
        conv_clamp: float | None = None,
    ):
        super().__init__()
        self.activation, self.act_gain = activation, find_activation(activation)[1]
        self.up, self.down, self.conv_clamp = up, down, checked_clamp(conv_clamp)
        self.weight = nn.Parameter(torch.randn(out_channels, in_channels, kernel_size, kernel_size))
        self.bias = nn.Parameter(torch.zeros(out_channels)) if bias else None
        self.register_buffer("resample_filter", fir_filter(resample_filter))
        self.weight_gain = 1 / math.sqrt(in_channels * kernel_size**2)

    def forward(self, x: Tensor, gain: float = 1.0) -> Tensor:
        """[n, out_channels, h, w], times ``gain``, which also scales the clamp."""
        weight = (self.weight * self.weight_gain).to(x.dtype)
        x = conv2d_resample(x, weight, up=self.up, down=self.down, kernel=self.resample_filter)
        return bias_act(
            x,
            self.bias,
            act=self.activation,
            gain=self.act_gain * gain,
            clamp=None if self.conv_clamp is None else self.conv_clamp * gain,
        )


class SynthesisLayer(nn.Module):
    """Modulated convolution, noise, bias, activation; ``up=2`` doubles the size to ``resolution``."""

    resample_filter: Tensor
    noise_const: Tensor
    squares: Tensor | None  # of a frozen weight, [out, in], summed over its places

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        w_dim: int,
        resolution: int,
        kernel_size: int = 3,
        up: int = 1,
        use_noise: bool = True,
        activation: str = "lrelu",
        resample_filter: Sequence[float] | None = FIR,
        conv_clamp: float | None = None,
    ):
        super().__init__()
        if kernel_size not in (1, 3, 5, 7):
            raise ConfigError(f"kernel_size={kernel_size!r} is not usable; give 1, 3, 5 or 7")
        self.resolution, self.up, self.use_noise = resolution, up, use_noise
        self.activation, self.act_gain = activation, find_activation(activation)[1]
        self.conv_clamp = checked_clamp(conv_clamp)
        self.affine = FullyConnectedLayer(w_dim, in_channels, bias_init=1)
        self.weight = nn.Parameter(torch.randn(out_channels, in_channels, kernel_size, kernel_size))
        if use_noise:
            self.noise_strength = nn.Parameter(torch.zeros(()))
        self.bias = nn.Parameter(torch.zeros(out_channels))
        self.register_buffer("resample_filter", fir_filter(resample_filter))
        if use_noise:
            self.register_buffer("noise_const", torch.randn(resolution, resolution))
        self.register_buffer("squares", None, persistent=False)

    @torch.no_grad()
    def freeze(self) -> None:
        """From now on, until ``train``, as ``frozen_layer``; on a CPU the weight takes the layout that is
        fastest there.

        Layers with another activation, and those that double the size after a 1x1 convolution, stay as they
        are.
        """
        if self.activation not in SLOPES or (self.up == 2 and self.weight.shape[-1] == 1):
            return
        # whatever the layout from an earlier call: a sum in another order rounds differently
        self.squares = self.weight.contiguous().square().sum((2, 3))
        if self.weight.device.type == "cpu":
            weight = self.weight.transpose(0, 1) if self.up == 2 else self.weight
            weight = weight.contiguous(memory_format=torch.channels_last)
            self.weight.data = weight.transpose(0, 1) if self.up == 2 else weight

    def train(self, mode: bool = True) -> Self:
        """As of any module; training ends ``freeze``."""
        if mode:
            self.squares = None
        return super().train(mode)

    def forward(self, x: Tensor, w: Tensor, how: Rendering, gain: float = 1.0) -> Tensor:
        """[n, out_channels, resolution, resolution] of features ``x`` and codes ``w`` [n, w_dim]."""
        if self.squares is not None and not how.fused_modconv:
            return self._frozen(x, self.affine(w), self.squares, how, gain)
        x = modulated_conv2d(
            x,
            self.weight,
            self.affine(w),
            noise=self._noise(len(x), how),
            up=self.up,
            kernel=self.resample_filter,
            fused=how.fused_modconv,
        )
        return bias_act(
            x,
            self.bias,
            act=self.activation,
            gain=self.act_gain * gain,
            clamp=None if self.conv_clamp is None else self.conv_clamp * gain,
        )

    def _frozen(self, x: Tensor, styles: Tensor, squares: Tensor, how: Rendering, gain: float) -> Tensor:
        weight, kernel, padding = self.weight.detach(), None, (0, 0)
        if x.dtype == torch.float16:
            scale, styles = half_precision_scale(weight, styles)
            weight, squares = weight * scale, squares * scale.flatten(1).square()
        if self.up == 2:
            kernel = square_filter(self.resample_filter) * 4
            padding = doubling_padding(weight.shape[-1], kernel.shape[-1])
        return frozen_layer(
            x,
            styles,
            demodulation(styles, squares),
            FrozenConvolution(weight, kernel, padding),
            self._noise(len(x), how),
            self.bias.detach(),
            Epilogue(
                SLOPES[self.activation],
                self.act_gain * gain,
                None if self.conv_clamp is None else self.conv_clamp * gain,
            ),
        )

    def _noise(self, n: int, how: Rendering) -> Tensor | None:
        if not self.use_noise or how.noise_mode == "none":
            return None
        if how.noise_mode == "const":
            return self.noise_const * self.noise_strength
        shape = (n, 1, self.resolution, self.resolution)
        fresh = normal(how.generator, *shape, device=self.noise_const.device)
        return fresh * self.noise_strength


class ToRGBLayer(nn.Module):
    """Features to image channels: a 1x1 modulated convolution without demodulation, noise or activation."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        w_dim: int,
        kernel_size: int = 1,
        conv_clamp: float | None = None,
    ):
        super().__init__()
        self.conv_clamp = checked_clamp(conv_clamp)
        self.affine = FullyConnectedLayer(w_dim, in_channels, bias_init=1)
        self.weight = nn.Parameter(torch.randn(out_channels, in_channels, kernel_size, kernel_size))
        self.bias = nn.Parameter(torch.zeros(out_channels))
        self.weight_gain = 1 / math.sqrt(in_channels * kernel_size**2)
        self.frozen = False

    def freeze(self) -> None:
        """From now on, until ``train``, the styles scale the few weights instead of the many features."""
        self.frozen = self.weight.shape[-1] == 1

    def train(self, mode: bool = True) -> Self:
        """As of any module; training ends ``freeze``."""
        self.frozen = self.frozen and not mode
        return super().train(mode)

    def forward(self, x: Tensor, w: Tensor, how: Rendering) -> Tensor:
        """[n, out_channels, h, w] of features ``x`` and codes ``w`` [n, w_dim]."""
        styles = self.affine(w) * self.weight_gain
        if self.frozen and not how.fused_modconv:
            colours = frozen_colours(x, styles, self.weight.detach().flatten(1))
            return bias_act(colours, self.bias, clamp=self.conv_clamp)
        x = modulated_conv2d(x, self.weight, styles, demodulate=False, fused=how.fused_modconv)
        return bias_act(x, self.bias, clamp=self.conv_clamp)
