"""Adaptive discriminator augmentation (Karras et al. 2020, "Training GANs with Limited Data"): changes of
images that gradients pass through, and the rule for how often they are made.

Of the paper's 18 changes these are the ones that suit faces of any size: mirroring, whole-pixel shifts,
brightness and contrast.
"""

from __future__ import annotations

import torch
from torch import Tensor

from midre_exp.seeding import normal, uniform

_SHIFT = 0.125  # at most this share of the side
_BRIGHTNESS = 0.2  # deviation of what is added, for images in [-1, 1]
_CONTRAST = 0.5  # deviation of the factor's logarithm to base 2


def augment(images: Tensor, strength: Tensor | float, generator: torch.Generator) -> Tensor:
    """Images [n, c, h, w], nominally in [-1, 1], each with every change made with probability ``strength``.

    A chosen mirroring happens half of the time; what a shift uncovers mirrors the inside. Random numbers come
    from ``generator``, as many whatever is chosen.
    """
    n, channels, height, width = images.shape
    even = uniform(generator, 7, n, device=images.device)
    bell = normal(generator, 2, n, device=images.device)
    chosen = even[:4] < strength
    rows = _shifted(height, torch.where(chosen[1], even[4], 0.5))
    columns = _shifted(width, torch.where(chosen[1], even[5], 0.5))
    columns = torch.where((chosen[0] & (even[6] < 0.5))[:, None], columns.flip(1), columns)
    images = images.gather(2, rows[:, None, :, None].expand(n, channels, height, width))
    images = images.gather(3, columns[:, None, None, :].expand(n, channels, height, width))
    light = torch.where(chosen[2], _BRIGHTNESS * bell[0], 0.0)
    factor = torch.where(chosen[3], torch.exp2(_CONTRAST * bell[1]), 1.0)
    return (images + light[:, None, None, None]) * factor[:, None, None, None]


def _shifted(size: int, uniform: Tensor) -> Tensor:
    """The pixels [n, size] that a shift reads, by up to an eighth either way and none at 0.5, reflected at
    the ends.
    """
    shift = ((2 * uniform - 1) * _SHIFT * size).round().long()
    index = (torch.arange(size, device=uniform.device) + shift[:, None]).abs()
    return (size - 1) - (size - 1 - index).abs()


def adapted(strength: Tensor, sign: Tensor, *, target: float, images: int, full: float) -> Tensor:
    """The new strength after ``images`` images of mean sign ``sign`` of their scores: towards more above
    ``target``, to less below.

    ``full`` images take it from 0 to 1, between which it stays.
    """
    return (strength + (sign - target).sign() * (images / full)).clamp(0, 1)
