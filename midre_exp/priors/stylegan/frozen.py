"""A layer of a StyleGAN2 whose weights are fixed: the same function as its training form, up to rounding,
with one feature map kept for the way back instead of seven.

Modulated convolution, noise, bias, activation, gain and clamp are one differentiable step. Backwards, its own
output tells the slope of the activation and the sum that a demodulation factor multiplies (leaky ReLU is
positively homogeneous), and its input is the output of the layer before; elementwise work is done in place.
Weights get no gradients, and there is no second derivative.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from midre_exp.priors.stylegan.ops import depthwise

#: Activations by the slope of their negative side.
SLOPES = {"lrelu": 0.2, "relu": 0.0, "linear": 1.0}
#: On a CPU, products that are summed are made in parts of so many numbers: for small ones the
#: allocator has memory at hand, and new pages cost more than the product.
_PART = 1 << 21


@dataclass(frozen=True)
class FrozenConvolution:
    """What is fixed in a layer.

    ``weight`` [out, in, k, k] is a weight of any layout; ``kernel`` the filter of a layer that doubles the
    size, None for one that keeps it, and ``padding`` (before, after) that of the filter.
    """

    weight: Tensor
    kernel: Tensor | None = None
    padding: tuple[int, int] = (0, 0)

    def apply(self, x: Tensor) -> Tensor:
        """[n, in, h, w] to [n, out, h, w] or [n, out, 2h, 2w]."""
        weight = self.weight.to(x.dtype)
        if self.kernel is None:
            return F.conv2d(x, weight, padding=weight.shape[-1] // 2)
        wide = F.conv_transpose2d(x, weight.transpose(0, 1), stride=2)
        return depthwise(wide, self.kernel.flip((0, 1)), padding=self.padding)

    def adjoint(self, g: Tensor, x: Tensor) -> Tensor:
        """The gradient with respect to ``x``, whose values play no part, of what ``apply`` returned."""
        weight = self.weight.to(g.dtype)
        if self.kernel is None:
            side, mask = [weight.shape[-1] // 2] * 2, [True, False, False]
            back = torch.ops.aten.convolution_backward
            moved: Tensor = back(g, x, weight, None, [1, 1], side, [1, 1], False, [0, 0], 1, mask)[0]
            return moved
        before, after = (self.kernel.shape[-1] - 1 - pad for pad in self.padding)
        return F.conv2d(depthwise(g, self.kernel, padding=(before, after)), weight.transpose(0, 1), stride=2)


@dataclass(frozen=True)
class Epilogue:
    """What follows the convolution: slope of the activation's negative side, gain, and clamp after it."""

    slope: float
    gain: float
    clamp: float | None


def frozen_layer(
    x: Tensor,
    styles: Tensor,
    norms: Tensor,
    convolution: FrozenConvolution,
    noise: Tensor | None,
    bias: Tensor,
    epilogue: Epilogue,
) -> Tensor:
    """Features [n, in, h, w] scaled by ``styles`` [n, in], convolved, scaled by ``norms`` [n, out], with
    ``noise`` (as the output, broadcast) and ``bias`` [out] added, activated.

    Differentiable once with respect to ``x``, ``styles`` and ``norms``.
    """
    out: Tensor = _FrozenLayer.apply(x, styles, norms, convolution, noise, bias, epilogue)
    return out


class _FrozenLayer(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        styles: Tensor,
        norms: Tensor,
        convolution: FrozenConvolution,
        noise: Tensor | None,
        bias: Tensor,
        epilogue: Epilogue,
    ) -> Tensor:
        gain = epilogue.gain
        out = convolution.apply(x * _per_channel(styles, x))
        scale, shift = _per_channel(norms * gain, out), (bias * gain).to(out.dtype).reshape(-1, 1, 1)
        if noise is None:
            out.mul_(scale)
        else:
            torch.addcmul((noise * gain).to(out.dtype), out, scale, out=out)
        out.add_(shift)
        if epilogue.slope != 1:
            F.leaky_relu_(out, epilogue.slope)
        if epilogue.clamp is not None:
            out.clamp_(-epilogue.clamp, epilogue.clamp)
        ctx.save_for_backward(x, styles, norms, noise, bias, out)
        ctx.convolution, ctx.epilogue = convolution, epilogue
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
        x, styles, norms, noise, bias, out = ctx.saved_tensors
        slope, gain, clamp = ctx.epilogue.slope, ctx.epilogue.gain, ctx.epilogue.clamp
        g = g.to(out.dtype).contiguous(memory_format=_layout(out))
        if clamp is not None:
            g = torch.ops.aten.hardtanh_backward(g, out, -clamp, clamp)
        grad_norms = None
        # sum of g * out, where out = slope * gain * (norms * convolved + noise + bias)
        products = _dot(g, out) if ctx.needs_input_grad[2] else None
        g = torch.ops.aten.leaky_relu_backward(g, out, slope, True)
        if products is not None:
            added = bias * g.sum((2, 3), dtype=torch.float32)
            if noise is not None:
                added = added + _dot(g, noise.to(out.dtype).expand_as(g[:, :1]))
            grad_norms = (products - gain * added) / norms
        g.mul_(_per_channel(norms * gain, g))
        grad_x = ctx.convolution.adjoint(g, x)
        grad_styles = _dot(grad_x, x) if ctx.needs_input_grad[1] else None
        grad_x.mul_(_per_channel(styles, grad_x))
        return grad_x, grad_styles, grad_norms, None, None, None, None


def frozen_colours(x: Tensor, styles: Tensor, weight: Tensor) -> Tensor:
    """Features [n, in, h, w] scaled by ``styles`` [n, in] and mixed by ``weight`` [out, in] into few
    channels. Differentiable once with respect to ``x`` and ``styles``.
    """
    colours: Tensor = _FrozenColours.apply(x, styles, weight)
    return colours


class _FrozenColours(torch.autograd.Function):
    """The styles scale the few weights instead of the many features; pixels are rows of a matrix in NHWC
    order, columns of one in NCHW order.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, styles: Tensor, weight: Tensor) -> Tensor:
        ctx.save_for_backward(x, styles, weight)
        mixing = (weight * styles[:, None]).to(x.dtype)
        if _layout(x) == torch.channels_last:
            colours = (x.permute(0, 2, 3, 1).flatten(1, 2) @ mixing.mT).mT.contiguous()
        else:
            colours = mixing @ x.flatten(2)
        return colours.reshape(len(x), -1, *x.shape[2:])

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor, Tensor | None, None]:
        x, styles, weight = ctx.saved_tensors
        pixels, mixing = g.to(x.dtype).flatten(2), weight.to(x.dtype)
        if _layout(x) == torch.channels_last:
            grad_x = (pixels.mT @ mixing).unflatten(1, x.shape[2:]).permute(0, 3, 1, 2)
        else:
            grad_x = (mixing.T @ pixels).unflatten(2, x.shape[2:])
        grad_styles = _dot(grad_x, x) if ctx.needs_input_grad[1] else None
        return grad_x.mul_(_per_channel(styles, x)), grad_styles, None


def _per_channel(values: Tensor, like: Tensor) -> Tensor:
    return values.to(like.dtype)[:, :, None, None]


def _layout(x: Tensor) -> torch.memory_format:
    wide = x.is_contiguous(memory_format=torch.channels_last) and not x.is_contiguous()
    return torch.channels_last if wide else torch.contiguous_format


def _dot(a: Tensor, b: Tensor) -> Tensor:
    """The sums float32 [n, c] of a * b over height and width; ``b`` may have one channel."""
    rows = a.shape[2]
    if a.device.type == "cpu":
        rows = max(1, _PART * rows // max(1, a.numel()))
    parts = zip(a.split(rows, 2), b.split(rows, 2), strict=True)
    sums = [(p * q).sum((2, 3), dtype=torch.float32) for p, q in parts]
    return sums[0] if len(sums) == 1 else torch.stack(sums).sum(0)
