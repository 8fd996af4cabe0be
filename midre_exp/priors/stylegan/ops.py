"""The tensor operations of StyleGAN2-ADA: FIR resampling, activations and modulated convolution, as pure
functions.

Formulas: Karras et al. 2020 (StyleGAN2, Sec. 2.2 and Appendix B). Plain PyTorch, differentiable any number of
times.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from midre_exp.errors import ConfigError

#: Activation -> (function, default gain that keeps the variance).
ACTIVATIONS: dict[str, tuple[Callable[[Tensor], Tensor], float]] = {
    "linear": (lambda x: x, 1.0),
    "relu": (F.relu, math.sqrt(2)),
    "lrelu": (lambda x: F.leaky_relu(x, 0.2), math.sqrt(2)),
    "tanh": (torch.tanh, 1.0),
    "sigmoid": (torch.sigmoid, 1.0),
    "elu": (F.elu, 1.0),
    "selu": (F.selu, 1.0),
    "softplus": (F.softplus, 1.0),
    "swish": (F.silu, math.sqrt(2)),
}

#: Numbers that a depthwise convolution may read: torch's CUDA kernels count them in 32 bits.
INDEX_LIMIT = 2**31 - 1


def find_activation(name: str) -> tuple[Callable[[Tensor], Tensor], float]:
    """Function and default gain of an activation. Raises ConfigError for an unknown name."""
    if name not in ACTIVATIONS:
        raise ConfigError(f"activation {name!r} is unknown; use one of {', '.join(ACTIVATIONS)}")
    return ACTIVATIONS[name]


def fir_filter(taps: Sequence[float] | None) -> Tensor:
    """The low-pass filter of ``taps``, float32, sum 1: their outer product, or from 8 taps on the vector
    itself. None is one tap.
    """
    vector = torch.tensor([1.0] if taps is None else list(taps), dtype=torch.float32)
    kernel = vector if len(vector) >= 8 else torch.outer(vector, vector)
    return kernel / kernel.sum()


def upfirdn2d(
    x: Tensor,
    kernel: Tensor,
    *,
    up: int = 1,
    down: int = 1,
    padding: Sequence[int] = (0, 0, 0, 0),
    flip_filter: bool = False,
    gain: float = 1.0,
) -> Tensor:
    """[n, c, h, w]: put up - 1 zeros after each pixel, zero-pad, convolve with ``gain * kernel``, keep every
    ``down``-th pixel.

    ``padding`` is (left, right, top, bottom), negative to crop. ``kernel`` is [k, k], or [k] for its outer
    product; ``flip_filter`` correlates instead of convolving.
    """
    n, c, h, w = x.shape
    if up > 1:
        spread = F.pad(x.reshape(n, c, h, 1, w, 1), [0, up - 1, 0, 0, 0, up - 1])
        x = spread.reshape(n, c, h * up, w * up)
    x = F.pad(x, list(padding))
    kernel = square_filter(kernel) * gain
    return depthwise(x, kernel if flip_filter else kernel.flip((0, 1)), stride=down)  # which correlates


def square_filter(kernel: Tensor) -> Tensor:
    """A filter [k, k]; a vector [k] stands for its outer product."""
    return torch.outer(kernel, kernel) if kernel.ndim == 1 else kernel


def depthwise(x: Tensor, kernel: Tensor, *, stride: int = 1, padding: tuple[int, int] = (0, 0)) -> Tensor:
    """Correlate each channel of [n, c, h, w] with ``kernel`` [k, k], zeros before and after rows and columns.

    In parts of the batch, as many images at once as INDEX_LIMIT allows.
    """
    c = x.shape[1]
    if padding[0] != padding[1] or padding[0] < 0:  # else padded by the convolution, without a copy
        x, padding = F.pad(x, [*padding, *padding]), (0, 0)
    weight = kernel.to(x.dtype).expand(c, 1, -1, -1)
    most = max(1, INDEX_LIMIT // max(1, c * (x.shape[2] + 2 * padding[0]) * (x.shape[3] + 2 * padding[0])))
    parts = [F.conv2d(part, weight, stride=stride, padding=padding[0], groups=c) for part in x.split(most)]
    return parts[0] if len(parts) == 1 else torch.cat(parts)


def upsample2d(x: Tensor, kernel: Tensor) -> Tensor:
    """[n, c, h, w] to [n, c, 2h, 2w]."""
    taps = kernel.shape[-1]
    return upfirdn2d(x, kernel, up=2, padding=((taps + 1) // 2, (taps - 2) // 2) * 2, gain=4.0)


def downsample2d(x: Tensor, kernel: Tensor) -> Tensor:
    """[n, c, h, w] to [n, c, h/2, w/2]."""
    taps = kernel.shape[-1]
    return upfirdn2d(x, kernel, down=2, padding=((taps - 1) // 2, (taps - 2) // 2) * 2)


def filter2d(x: Tensor, kernel: Tensor) -> Tensor:
    """[n, c, h, w] smoothed, same size."""
    taps = kernel.shape[-1]
    return upfirdn2d(x, kernel, padding=(taps // 2, (taps - 1) // 2) * 2)


def conv2d_resample(
    x: Tensor, weight: Tensor, *, up: int = 1, down: int = 1, kernel: Tensor | None = None, groups: int = 1
) -> Tensor:
    """Correlate [n, in, h, w] with ``weight`` [out, in / groups, k, k], k odd, at the same, double or half
    size.

    Doubling is a transposed convolution by the weight as stored, then the filter; halving is the filter, then
    a stride of 2. ``up`` and ``down`` are 1 or 2, not both 2; without either the filter ``kernel`` plays no
    part.
    """
    size = weight.shape[-1]
    if up == down:
        return F.conv2d(x, weight, padding=size // 2, groups=groups)
    if kernel is None:
        raise ValueError("resampling needs a filter; give kernel")
    taps = kernel.shape[-1]
    if up == 2 and size == 1:
        return upsample2d(F.conv2d(x, weight, groups=groups), kernel)
    if up == 2:
        by_group = weight.unflatten(0, (groups, -1)).transpose(1, 2).flatten(0, 1)
        x = F.conv_transpose2d(x, by_group, stride=2, groups=groups)
        return upfirdn2d(x, kernel, padding=doubling_padding(size, taps) * 2, gain=4.0)
    pads = (size // 2 + (taps - 1) // 2, size // 2 + (taps - 2) // 2)
    if size == 1:  # halve first: a quarter of the work
        return F.conv2d(upfirdn2d(x, kernel, down=2, padding=pads * 2), weight, groups=groups)
    return F.conv2d(upfirdn2d(x, kernel, padding=pads * 2), weight, stride=2, groups=groups)


def doubling_padding(size: int, taps: int) -> tuple[int, int]:
    """Zeros before and after the filter of ``taps`` that follows a transposed convolution by [size, size]."""
    before = size // 2 + (taps + 1) // 2 - (size - 1)
    return before, size // 2 + (taps - 2) // 2 - (size - 2)


def bias_act(
    x: Tensor,
    bias: Tensor | None = None,
    *,
    act: str = "linear",
    gain: float | None = None,
    clamp: float | None = None,
) -> Tensor:
    """Add ``bias`` [c] along dimension 1, activate, multiply by ``gain`` (None: the activation's own), clamp
    to +-``clamp``.
    """
    function, default = find_activation(act)
    if bias is not None:
        x = x + bias.to(x.dtype).reshape(1, -1, *[1] * (x.ndim - 2))
    x = function(x)
    factor = default if gain is None else gain
    if factor != 1:
        x = x * factor
    return x if clamp is None else x.clamp(-clamp, clamp)


def normalize_2nd_moment(x: Tensor) -> Tensor:
    """[n, d] scaled to mean square 1 along d."""
    return x * (x.square().mean(1, keepdim=True) + 1e-8).rsqrt()


def half_precision_scale(weight: Tensor, styles: Tensor) -> tuple[Tensor, Tensor]:
    """A factor [out, 1, 1, 1] of the weight and styles [n, in] that cannot overflow half precision.

    Demodulation cancels any scale of both.
    """
    fan_in = weight[0].numel()
    largest = weight.abs().amax((1, 2, 3), keepdim=True)
    return 1 / (largest * math.sqrt(fan_in)), styles / styles.abs().amax(1, keepdim=True)


def demodulation(styles: Tensor, squares: Tensor) -> Tensor:
    """Factors [n, out] that keep the variance, of ``styles`` [n, in] and ``squares`` [out, in], those of the
    weight summed over its places.
    """
    # sum over in and k x k of (w s)^2, without the [n, out, in, k, k] weights
    return (styles.square() @ squares.T + 1e-8).rsqrt()


def modulated_conv2d(
    x: Tensor,
    weight: Tensor,
    styles: Tensor,
    *,
    kernel: Tensor | None = None,
    noise: Tensor | None = None,
    up: int = 1,
    demodulate: bool = True,
    fused: bool = False,
) -> Tensor:
    """Convolve [n, in, h, w] with ``weight`` [out, in, k, k] scaled per image by ``styles`` [n, in], output
    variance kept at 1.

    ``fused`` scales the weights and runs one grouped convolution; otherwise the images are scaled before and
    after, which is cheaper where gradients are needed. Both give the same. ``noise``, broadcast to [n, out,
    h, w], is added.
    """
    if x.dtype == torch.float16 and demodulate:
        scale, styles = half_precision_scale(weight, styles)
        weight = weight * scale
    n, c = styles.shape
    norms = demodulation(styles, weight.square().sum((2, 3))) if demodulate else None
    if fused:
        scaled = weight * styles.reshape(n, 1, c, 1, 1)
        if norms is not None:
            scaled = scaled * norms.reshape(n, -1, 1, 1, 1)
        # Contiguous: on some processors torch's gradient of a grouped convolution of channels-last weights is
        # wrong by half (torch 2.14 with AVX2).
        wide = x.reshape(1, n * c, *x.shape[2:]).contiguous()
        by_image = scaled.flatten(0, 1).to(x.dtype).contiguous()
        x = conv2d_resample(wide, by_image, up=up, kernel=kernel, groups=n)
        x = x.reshape(n, -1, *x.shape[2:])
    else:
        x = conv2d_resample(
            x * styles.to(x.dtype).reshape(n, c, 1, 1), weight.to(x.dtype), up=up, kernel=kernel
        )
        if norms is not None:
            x = x * norms.to(x.dtype).reshape(n, -1, 1, 1)
    return x if noise is None else x + noise.to(x.dtype)
